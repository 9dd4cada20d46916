"""The archive as an outbox: what a destination has still to accept, and what it refused for good."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw

from otel_audit.archive.connecting import transaction
from otel_audit.archive.database import Database, Mode, archive_errors
from otel_audit.errors import ConfigError
from otel_audit.otlp import frame, shipped, stream_attribute

__all__ = ["BATCH", "Entry", "Outbox", "requeue", "resend", "the_destination"]

BATCH: Final = 2_048
"""Most records of a request."""
MAX_BYTES: Final = 3 * 1024 * 1024
"""Most bytes of a request: a collector's gRPC receiver takes 4 MiB by default."""

# All rows come as one: apsw gives up the GIL at each step, and beside a busy thread each step then waits for it
# (measured: 250 us a record, against 4 us so). Casting to text and back only joins the bytes.
_READ: Final = """
SELECT group_concat(sequence || ' ' || resource || ' ' || length(otlp) || ' ' || substr(id, 1, 8) || '-' ||
           substr(id, 9, 4) || '-' || substr(id, 13, 4) || '-' || substr(id, 17, 4) || '-' || substr(id, 21), ';'),
       CAST(group_concat(CAST(otlp AS TEXT), '') AS BLOB)
FROM (SELECT sequence, resource, lower(hex(record_id)) AS id, otlp FROM
        (SELECT sequence AS chosen FROM
            (SELECT sequence, size, sum(size) OVER (ORDER BY sequence) AS bytes FROM
                (SELECT sequence, length(otlp) AS size FROM record WHERE {which} ORDER BY sequence LIMIT ?))
         WHERE bytes <= ? OR bytes = size)
      CROSS JOIN record ON sequence = chosen ORDER BY sequence)
"""
_BEHIND: Final = _READ.format(which="sequence > ? AND otlp IS NOT NULL")
_REQUEUED: Final = _READ.format(
    which="sequence IN (SELECT sequence FROM dead_letter WHERE destination = ? AND requeued"
    " ORDER BY sequence LIMIT 2048)"
    " AND otlp IS NOT NULL"
)


class Entry(NamedTuple):
    """One record that is to be shipped.

    Args:
        sequence: Its position.
        resource: Id of what it is shipped under.
        content: The field ``log_records``, ready to be joined.
        requeued: Whether it is a dead letter that gets another try.
    """

    sequence: int
    resource: int
    content: bytes
    requeued: bool


_HEADERS: Final = 64
"""Most resources that are kept at hand."""
_PROGRESS: Final = "SELECT (SELECT cursor FROM destination WHERE name = ?), (SELECT max(sequence) FROM record)"


class Outbox:
    """One destination's view of an archive.

    Args:
        path: The archive.
        destination: The destination's name.
    """

    def __init__(self, path: str | os.PathLike[str], destination: str) -> None:
        # Not patient: the shipper tries again anyway, and whoever stops it would wait as long.
        self._database = Database(path, "write", busy_timeout=1.0, cache_kib=2048, must_exist=True)
        # Who waits or measures must not wait for the shipper, which may wait for another process's transaction.
        self._watch = Database(path, "read", cache_kib=512)
        self._endpoint = ""
        self._name = destination
        self._headers: dict[int, tuple[bytes, bytes]] = {}
        self._stream = b""
        self.cursor = 0

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        self._watch.close()
        self._database.close()

    def register(self, endpoint: str | None) -> None:
        """Make the destination known under its name, with its present endpoint where it is known."""
        self._change(
            "INSERT INTO destination (name, endpoint) VALUES (?, coalesce(?, ''))"
            " ON CONFLICT (name) DO UPDATE SET endpoint = excluded.endpoint"
            " WHERE endpoint != excluded.endpoint AND excluded.endpoint != ''",
            (self._name, endpoint),
        )
        self._endpoint = endpoint or self._endpoint
        self.cursor = self.progress()[0]

    def progress(self) -> tuple[int, int]:
        """Return the cursor and the last sequence, as they are now."""
        with self._watch as connection, archive_errors(self._watch.path):
            row: Any = connection.execute(_PROGRESS, (self._name,)).fetchone()
        return row[0] or 0, row[1] or 0

    def waiting(self) -> tuple[int, int | None, int]:
        """Return how many records wait, when the oldest of them was recorded (nanoseconds), and how many are dead."""
        cursor, head = self.progress()
        with self._watch as connection, archive_errors(self._watch.path):
            row: Any = connection.execute(
                "SELECT count(*) FILTER (WHERE requeued), min(sequence) FILTER (WHERE requeued),"
                " count(*) FILTER (WHERE NOT requeued) FROM dead_letter WHERE destination = ?",
                (self._name,),
            ).fetchone()
            count, first, dead = row
            oldest = first if first is not None else cursor + 1
            observed = connection.execute("SELECT observed FROM record WHERE sequence = ?", (oldest,)).get
        return head - cursor + count, observed, dead

    def left(self, last: int) -> tuple[int, int]:
        """Return how many records up to a sequence wait, and how many are dead letters."""
        cursor, _ = self.progress()
        with self._watch as connection, archive_errors(self._watch.path):
            row: Any = connection.execute(
                "SELECT count(*) FILTER (WHERE requeued), count(*) FILTER (WHERE NOT requeued) FROM dead_letter"
                " WHERE destination = ? AND sequence <= ?",
                (self._name, last),
            ).fetchone()
        return max(0, last - cursor) + row[0], row[1]

    def outcome(self, ranges: Sequence[tuple[int, int]]) -> bool | None:
        """Tell what became of the records in some ranges of sequences.

        Returns:
            True where all were accepted, False where one is a dead letter, None where some still wait; so do dead
            letters that get another try.
        """
        cursor, _ = self.progress()
        waiting = any(last > cursor for _, last in ranges)
        with self._watch as connection, archive_errors(self._watch.path):
            any_dead = connection.execute("SELECT 1 FROM dead_letter WHERE destination = ? LIMIT 1", (self._name,)).get
            for first, last in ranges if any_dead else ():
                requeued = connection.execute(
                    "SELECT min(requeued) FROM dead_letter WHERE destination = ? AND sequence BETWEEN ? AND ?",
                    (self._name, first, last),
                ).get
                if requeued == 0:
                    return False
                waiting = waiting or requeued is not None
        return None if waiting else True

    def read(self, limit: int = BATCH) -> list[Entry]:
        """Return the next records: dead letters to be tried again first, then what follows the cursor."""
        with self._database as connection, archive_errors(self._database.path):
            if not self._stream:
                archive_id = connection.execute("SELECT value FROM meta WHERE key = 'archive_id'").get
                self._stream = stream_attribute(str(archive_id))
            requeued: Any = connection.execute(_REQUEUED, (self._name, limit, MAX_BYTES)).fetchone()
            if requeued[0]:
                return self._entries(*requeued, requeued=True)
            head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
            following: Any = connection.execute(_BEHIND, (self.cursor, limit, MAX_BYTES)).fetchone()
            if following[0]:
                return self._entries(*following, requeued=False)
            if head > self.cursor:
                # Tombstones alone: there is nothing left of them to send.
                connection.execute("UPDATE destination SET cursor = max(cursor, ?) WHERE name = ?", (head, self._name))
                self.cursor = head
            return []

    def _entries(self, index: str, content: bytes, *, requeued: bool) -> list[Entry]:
        entries = []
        start = 0
        stream = self._stream
        for line in index.split(";"):
            sequence, resource, size, record_id = line.split(" ")
            end = start + int(size)
            number = int(sequence)
            entries.append(
                Entry(number, int(resource), shipped(content[start:end], record_id, number, stream), requeued)
            )
            start = end
        return entries

    def request(self, entries: Sequence[Entry]) -> bytes:
        """Return the bytes of one ``ExportLogsServiceRequest``."""
        groups: dict[int, list[bytes]] = {}
        for entry in entries:
            groups.setdefault(entry.resource, []).append(entry.content)
        return frame((*self._header(resource), contents) for resource, contents in groups.items())

    def _header(self, resource: int) -> tuple[bytes, bytes]:
        if resource not in self._headers:
            with self._database as connection, archive_errors(self._database.path):
                row = connection.execute("SELECT resource, scope FROM resource WHERE id = ?", (resource,)).fetchone()
            if len(self._headers) >= _HEADERS:
                self._headers.clear()  # where records are received, there may be as many as records
            self._headers[resource] = row or (b"", b"")
        return self._headers[resource]

    def accepted(self, entries: Sequence[Entry], warning: str = "") -> None:
        """Note that the destination accepted these records."""
        self._settle(entries, None, warning)

    def refused(self, entries: Sequence[Entry], reason: str) -> None:
        """Set these records aside as dead letters."""
        self._settle(entries, reason, reason)

    def _settle(self, entries: Sequence[Entry], dead: str | None, error: str) -> None:
        now = time.time_ns()
        last = max((entry.sequence for entry in entries if not entry.requeued), default=0)
        success: tuple[Any, ...] = (now, now if error else None) if dead is None else (None, now)
        with self._database as connection, archive_errors(self._database.path), transaction(connection):
            for entry in entries if dead is not None else [entry for entry in entries if entry.requeued]:
                if dead is None:
                    connection.execute(
                        "DELETE FROM dead_letter WHERE destination = ? AND sequence = ?", (self._name, entry.sequence)
                    )
                else:
                    connection.execute(
                        "INSERT OR REPLACE INTO dead_letter VALUES (?, ?, ?, ?, 0)",
                        (self._name, entry.sequence, now, dead),
                    )
            # Where somebody removed the row, it comes back with the cursor that this shipper has.
            connection.execute(
                "INSERT INTO destination (name, endpoint, cursor) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (self._name, self._endpoint, self.cursor),
            )
            connection.execute(
                "UPDATE destination SET cursor = max(cursor, ?), last_success = coalesce(?, last_success),"
                " blocked = NULL, last_error = ?, last_error_time = ? WHERE name = ?",
                (last, success[0], error or None, success[1], self._name),
            )
        self.cursor = max(self.cursor, last)

    def failed(self, reason: str, *, blocked: bool) -> None:
        """Note that the last request failed, and whether an operator is needed."""
        self._change(
            "UPDATE destination SET last_error = ?, last_error_time = ?, blocked = ? WHERE name = ?",
            (reason, time.time_ns(), reason if blocked else None, self._name),
        )

    def _change(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._database as connection, archive_errors(self._database.path):
            connection.execute(statement, values)


def requeue(
    path: str | os.PathLike[str], destination: str | None = None, sequences: Sequence[int] | None = None
) -> int:
    """Give dead letters another try: the shipper sends them again before anything else.

    Args:
        path: The archive.
        destination: Only this one's; None: every destination's.
        sequences: Only these; None: all.

    Returns:
        How many were put back.

    Raises:
        ArchiveError: The archive cannot be written.
        ConfigError: There is no such destination.
    """
    terms, values = ["NOT requeued"], []
    if destination is not None:
        terms.append("destination = ?")
        values.append(destination)
    changed = 0
    with _outbox_of(path, "write", destination) as connection, transaction(connection):
        for chunk in _chunks(sequences):
            among = [f"sequence IN ({','.join('?' * len(chunk))})"] if chunk else []
            connection.execute(
                f"UPDATE dead_letter SET requeued = 1 WHERE {' AND '.join([*terms, *among])}", (*values, *chunk)
            )
            changed += connection.changes()
    return changed


def the_destination(path: str | os.PathLike[str], name: str | None) -> str:
    """Return a destination's name: the one that is given, else that of the only one.

    Args:
        path: The archive.
        name: The destination; None: the only one there is.

    Raises:
        ArchiveError: The archive cannot be read.
        ConfigError: There is no such destination, or more than one.
    """
    with _outbox_of(path, "read", name) as connection:
        if name is not None:
            return name
        known = [str(row[0]) for row in connection.execute("SELECT name FROM destination ORDER BY name")]
    if len(known) != 1:
        raise ConfigError(
            f"the archive has {len(known)} destinations",
            f"name one by --destination: {', '.join(known)}" if known else "ship to one first: otel-audit ship",
        )
    return known[0]


def resend(path: str | os.PathLike[str], destination: str, sequences: Sequence[int], reason: str) -> int:
    """Put records that a destination has accepted back into its outbox: the shipper sends them before anything else.

    Args:
        path: The archive.
        destination: The destination.
        sequences: The records. What it has not accepted yet waits anyway, and what has no content stays.
        reason: Why.

    Returns:
        How many were put back.

    Raises:
        ArchiveError: The archive cannot be written.
        ConfigError: There is no such destination.
    """
    changed = 0
    with _outbox_of(path, "write", destination) as connection, transaction(connection):
        for chunk in _chunks(sequences):
            connection.execute(
                "INSERT INTO dead_letter SELECT name, sequence, ?, ?, 1 FROM destination CROSS JOIN record"
                " WHERE name = ? AND sequence <= cursor AND otlp IS NOT NULL"
                f" AND sequence IN ({','.join('?' * len(chunk))})"
                " ON CONFLICT (destination, sequence) DO UPDATE SET requeued = 1 WHERE NOT requeued",
                (time.time_ns(), reason, destination, *chunk),
            )
            changed += connection.changes()
    return changed


@contextlib.contextmanager
def _outbox_of(path: str | os.PathLike[str], mode: Mode, destination: str | None) -> Iterator[apsw.Connection]:
    """Open the outbox of an archive that must exist, with the destination that is named."""
    database = Database(path, mode, must_exist=True)
    with contextlib.closing(database), database as connection, archive_errors(database.path):
        if destination is not None:
            _check_destination(connection, destination)
        yield connection


def _chunks(sequences: Sequence[int] | None) -> list[Sequence[int]]:
    """Split sequences, since a statement takes a limited number of values; one empty chunk stands for "all"."""
    return [()] if sequences is None else [sequences[n : n + 500] for n in range(0, len(sequences), 500)]


def _check_destination(connection: apsw.Connection, name: str) -> None:
    known = [row[0] for row in connection.execute("SELECT name FROM destination ORDER BY name")]
    if name not in known:
        raise ConfigError(f"there is no destination {name!r}", f"known: {', '.join(known) or 'none'}")
