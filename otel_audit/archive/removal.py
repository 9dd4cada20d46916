"""Removes the content of records and leaves tombstones, which the tree still covers; and reads what was removed.

A tombstone keeps what its leaf is made of: kind, sequence, time of recording, id, host, type, and the commitment to the
content that is gone. Whatever removes content names the sequences in one of the archive's own records, in the same
transaction: a tombstone that no such record names is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.faults import Faults, unreadable_is_a_fault
from otel_audit.archive.index import FIELDS, RUN, ZONE, refold_zones
from otel_audit.archive.leaf import ERASURE, PRUNE, commitment
from otel_audit.archive.ranges import Range, count, difference, format_ranges, intersection, merged, parse_ranges
from otel_audit.errors import IntegrityError
from otel_audit.otlp import read_log

__all__ = ["Removed", "check_removed", "named_ranges", "read_removal", "removal_fields", "remove"]

_GROUP: Final = "removal"
_TEXT: Final = 15_000
"""Longest text of sequences, in characters: longer ones would be cut."""
_TEXTS: Final = 12
"""Most such texts in a record."""
_CONTENT: Final = (
    "SELECT sequence, salt, digest, otlp, user, trace, address FROM record LEFT JOIN resource ON id = record.resource"
    " WHERE sequence BETWEEN ? AND ? AND otlp IS NOT NULL"
)
_TOMBSTONE: Final = (
    "UPDATE record SET time = observed, user = NULL, source = NULL, outcome = NULL, session = NULL, address = NULL,"
    " trace = NULL, resource = NULL, salt = NULL, otlp = NULL, commitment = ? WHERE sequence = ?"
)
_POSTING: Final = "DELETE FROM posting WHERE run = ? AND field = ? AND value = ? AND sequence = ?"


def remove(connection: apsw.Connection, ranges: Iterable[Range]) -> None:
    """Turn records into tombstones, within a transaction that also appends the record that names them.

    Args:
        connection: In a transaction.
        ranges: The records; those without content stay as they are.
    """
    zones = set[int]()
    # By name, which the table is sorted by: it can be large, and the ranges many.
    destinations = [name for (name,) in connection.execute("SELECT name FROM destination")]
    for first, last in ranges:
        rows: Any = connection.execute(_CONTENT, (first, last)).fetchall()
        for sequence, salt, digest, otlp, *values in rows:
            if not isinstance(salt, bytes) or not isinstance(digest, bytes):
                raise IntegrityError(f"record {sequence} lacks its salt or its resource", "otel-audit verify says more")
            connection.execute(_TOMBSTONE, (commitment(salt, digest, otlp), sequence))
            for name, value in zip(("user", "trace", "address"), values, strict=True):
                if value is not None:
                    connection.execute(_POSTING, ((sequence - 1) // RUN, FIELDS[name], value, sequence))
            zones.add((sequence - 1) // ZONE)
        # What is gone can be sent no more.
        for name in destinations:
            connection.execute(
                "DELETE FROM dead_letter WHERE destination = ? AND sequence BETWEEN ? AND ?", (name, first, last)
            )
    refold_zones(connection, zones)


def removal_fields(ranges: Sequence[Range], **fields: Any) -> Iterator[dict[str, dict[str, Any]]]:
    """Iterate over the custom fields of the records that name what was removed: as many as the sequences need.

    Args:
        ranges: What was removed.
        **fields: What each of them also says, e.g. ``reason``.
    """
    texts: list[str] = []
    parts: list[Range] = []
    chunks: list[tuple[list[str], int]] = []
    number = 0
    for part in ranges:
        parts.append(part)
        number += part[1] - part[0] + 1
        if len(parts) * 40 > _TEXT:
            texts.append(format_ranges(parts))
            parts = []
        if len(texts) == _TEXTS:
            chunks.append((texts, number))
            texts, number = [], 0
    if parts:
        texts.append(format_ranges(parts))
    if texts:
        chunks.append((texts, number))
    for texts, number in chunks:
        yield {_GROUP: {"sequences": texts, "records": number, **fields}}


class Removed(NamedTuple):
    """What the archive's own records name as removed.

    Args:
        erased: By erasures.
        pruned: By pruning.
    """

    erased: list[Range]
    pruned: list[Range]

    def all(self) -> list[Range]:
        """Return both."""
        return merged([*self.erased, *self.pruned])


def read_removal(otlp: bytes) -> list[Range]:
    """Return the sequences that the record of an erasure or a pruning names, as they stand there.

    Raises:
        ValueError: It names none; likewise TypeError, KeyError, AttributeError.
    """
    texts: Any = read_log(otlp).attributes[f"{keys.CUSTOM_PREFIX}{_GROUP}.sequences"]
    return [one for text in texts for one in parse_ranges(text)]


def named_ranges(connection: apsw.Connection, faults: Faults) -> Removed:
    """Return what the archive's own records name as removed."""
    found: dict[int, list[Range]] = {ERASURE: [], PRUNE: []}
    with unreadable_is_a_fault(faults, "the archive's own records"):
        for sequence, kind, otlp in connection.execute(
            f"SELECT sequence, kind, otlp FROM record INDEXED BY own WHERE kind > 1 AND kind IN ({ERASURE}, {PRUNE})"
        ):
            try:
                ranges = read_removal(otlp)
                if any(last >= sequence for _, last in ranges):
                    raise ValueError("it names later records")
            except (ValueError, TypeError, KeyError, AttributeError):
                faults.add("removal", f"record {sequence}")
            else:
                found[kind] += ranges
    return Removed(merged(found[ERASURE]), merged(found[PRUNE]))


def check_removed(
    tombstones: Iterable[Range], before: Removed, after: Removed, verified: Sequence[Range], faults: Faults
) -> tuple[int, int]:
    """Verify that tombstones are just what was named, and return how many are erased and how many pruned.

    Args:
        tombstones: What was found.
        before: What had been named when the verification began: it must be gone.
        after: What had been named when it ended: it may be gone.
        verified: What was looked at.
        faults: Takes what is found.
    """
    found = merged(tombstones)
    for first, last in difference(found, after.all()):
        faults.add("removed", _place(first, last))
    for first, last in difference(intersection(before.all(), merged(verified)), found):
        faults.add("not-removed", _place(first, last))
    erased = intersection(found, after.erased)
    return count(erased), count(found) - count(erased)


def _place(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"
