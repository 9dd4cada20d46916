"""Verifies what is no record: the file's header, its schema, and every table but records, postings and zones.

What guards each column:

===========  ===============================================  ==========================================================
table        column                                           guarded by
===========  ===============================================  ==========================================================
record       sequence, kind, record_id                        the leaf covers them
record       salt, otlp, resource                             the leaf covers the commitment to them; NULL in tombstones
record       commitment                                       the leaf covers it; NULL but in tombstones
record       time … trace                                     derived from otlp; in tombstones the leaf covers observed,
                                                              host and type, time is observed, the others are NULL
record       leaf                                             made anew from the row
record       node                                             made anew from the leaves
resource     id                                               each record's leaf covers the digest of its resource
resource     resource, scope                                  digest
resource     digest                                           made anew
posting      run, field, value, sequence                      made anew from the records
zone         all                                              made anew from the records
meta         folded                                           within bounds; postings and zones must agree with it
meta         archive_id, created                              seal, and every record that a collector has
meta         unvacuumed                                       within bounds; it goes when the file is written anew
destination  name, endpoint, cursor, blocked, last_…          asserted: within bounds and consistent; they change daily
dead_letter  destination, sequence, time, reason, requeued    asserted likewise
===========  ===============================================  ==========================================================
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import apsw

from otel_audit.archive.connecting import APPLICATION_ID, SCHEMA_VERSION, schema
from otel_audit.archive.faults import Faults, unreadable_is_a_fault
from otel_audit.archive.leaf import header_digest, seal
from otel_audit.archive.vacuum import PENDING

__all__ = ["check_structure", "check_tables", "is_archive"]

_SCHEMA: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
_ID: Final = re.compile(r"[0-9a-f]{32}")
_META: Final = {"archive_id", "created", "folded", "seal"}
_VERSIONS: Final = {1, SCHEMA_VERSION}
"""The first lacks an index, which the next writer makes."""


def is_archive(connection: apsw.Connection) -> bool:
    """Tell whether a file is an archive, or was one before somebody changed it."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return connection.execute("PRAGMA application_id").get == APPLICATION_ID or {"record", "meta"} <= names


def check_structure(connection: apsw.Connection, faults: Faults) -> None:
    """Verify the file's header and schema, and let SQLite check all its pages."""
    version: Any = None
    with unreadable_is_a_fault(faults, "the file"):
        if (application := connection.execute("PRAGMA application_id").get) != APPLICATION_ID:
            faults.add("application-id", "the file", f"{application:#x}")
        version = connection.execute("PRAGMA user_version").get
        if version not in _VERSIONS:
            faults.add("schema-version", "the file", f"{version}, not {SCHEMA_VERSION}")
    with unreadable_is_a_fault(faults, "the schema"):
        expected, found = _expected_schema().copy(), _schema(connection)
        if version == 1:
            del expected["index", "received"]
        for kind, name in sorted(expected.keys() | found.keys()):
            if expected.get((kind, name)) != found.get((kind, name)):
                what = "changed"
                if (kind, name) not in found:
                    what = "is missing"
                elif (kind, name) not in expected:
                    what = "was added"
                faults.add("schema", f"{kind} {ascii(name)[1:-1]}", what)
    with unreadable_is_a_fault(faults, "the file"):
        for (line,) in connection.execute(f"PRAGMA integrity_check({faults.keep})"):
            if line != "ok":
                faults.add("damaged", "the file", ascii(line)[1:-1][:200])


@cache
def _expected_schema() -> dict[tuple[str, str], Any]:
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(schema())
        return _schema(connection)
    finally:
        connection.close()


def _schema(connection: apsw.Connection) -> dict[tuple[str, str], Any]:
    return {(str(kind), str(name)): (table, sql) for kind, name, table, sql in connection.execute(_SCHEMA)}


def check_tables(connection: apsw.Connection, head: int, faults: Faults) -> None:
    """Verify meta values, resources, cursors and dead letters.

    Args:
        connection: Reads the archive, in one transaction.
        head: The last sequence.
        faults: Takes what is found.
    """
    with unreadable_is_a_fault(faults, "meta"):
        _meta(dict(connection.execute("SELECT key, value FROM meta")), head, faults)
    with unreadable_is_a_fault(faults, "resource"):
        for number, resource, scope, digest in connection.execute("SELECT id, resource, scope, digest FROM resource"):
            if header_digest(resource, scope) != digest:
                faults.add("resource", f"resource {number}", "it is not what its digest says")
    with unreadable_is_a_fault(faults, "record"):
        for (sequence,) in connection.execute("SELECT sequence FROM record WHERE sequence < 1"):
            faults.add("sequence", f"record {sequence}")
    cursors: dict[str, int] = {}
    with unreadable_is_a_fault(faults, "destination"):
        _destinations(connection, head, cursors, faults)
    with unreadable_is_a_fault(faults, "dead_letter"):
        _dead_letters(connection, cursors, faults)


def _meta(meta: dict[Any, Any], head: int, faults: Faults) -> None:
    pending = meta.pop(PENDING, 1)
    if not isinstance(pending, int) or not 1 <= pending <= max(head, 1):
        faults.add("meta", f"meta {PENDING}", f"the archive ends at {head}")
    for key in sorted(_META ^ meta.keys(), key=str):
        faults.add("meta", f"meta {ascii(key)[1:-1]}", "is missing" if key in _META else "was added")
    archive_id, created, folded = meta.get("archive_id"), meta.get("created"), meta.get("folded")
    if "folded" in meta and (not isinstance(folded, int) or not 0 <= folded <= head):
        faults.add("folded", "meta folded", f"the archive ends at {head}")
    if not isinstance(archive_id, str) or not isinstance(created, int) or seal(archive_id, created) != meta.get("seal"):
        faults.add("meta", "meta archive_id, created", "they are not what the seal says")
    elif not _ID.fullmatch(archive_id):
        faults.add("meta", "meta archive_id", "it is no archive's id")


def _destinations(connection: apsw.Connection, head: int, cursors: dict[str, int], faults: Faults) -> None:
    for name, endpoint, cursor, success, error, error_time, blocked in connection.execute(
        "SELECT name, endpoint, cursor, last_success, last_error, last_error_time, blocked FROM destination"
    ):
        cursors[name] = cursor
        place = f"destination {ascii(name)[1:-1]}"
        if not 0 <= cursor <= head:
            faults.add("cursor", place, f"cursor {cursor}, but the archive ends at {head}")
        moments = [moment for moment in (success, error_time) if moment is not None]
        if min(moments, default=1) <= 0 or (error is not None and error_time is None) or (blocked and error is None):
            faults.add("cursor", place, "its times and errors contradict each other")
        if not name or not endpoint:
            faults.add("cursor", place, "it has no name or no endpoint")


def _dead_letters(connection: apsw.Connection, cursors: dict[str, int], faults: Faults) -> None:
    for name, sequence, moment, requeued in connection.execute(
        "SELECT destination, sequence, time, requeued FROM dead_letter"
    ):
        place = f"dead letter {sequence} of {ascii(name)[1:-1]}"
        if name not in cursors:
            faults.add("dead-letter", place, "there is no such destination")
        elif not 1 <= sequence <= cursors[name]:
            faults.add("dead-letter", place, f"the cursor stands at {cursors[name]}")
        if moment <= 0 or requeued not in {0, 1}:
            faults.add("dead-letter", place)
