"""Folds recent records into the look-up tables, in slices, apart from the commits that callers wait for.

An index kept inline makes an insert dearer as the archive grows. Here an insert only appends; postings follow in sorted
slices that touch one run's pages, and queries scan what is not folded yet. Each step of a slice is a transaction of its
own, so that it holds the write lock for some 10 ms only; the last one makes the slice count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import apsw

from otel_audit.archive.connecting import transaction
from otel_audit.errors import ArchiveError

__all__ = [
    "EVENTS",
    "FIELDS",
    "OWN",
    "RUN",
    "SLICE",
    "STEPS",
    "ZONE",
    "Slice",
    "fold",
    "fold_step",
    "folded_to",
    "next_slice",
    "refold_zones",
]

RUN: Final = 131_072
"""Sequences that share a run of postings: a look-up probes one place a run."""
SLICE: Final = 16_384
"""Most records that are folded at once: each slice rewrites most of its run's pages."""
ZONE: Final = 1_024
"""Sequences that share a zone."""
FIELDS: Final = {"host": 1, "user": 2, "trace": 3, "address": 4}
"""The indexed columns and their numbers in the table."""

EVENTS: Final = "kind <= 1 AND source IS NOT NULL"
"""What holds for the rows of events, save for tombstones."""
OWN: Final = "kind > 1 AND source IS NOT NULL"
"""Likewise for the archive's own records."""

_ZONES = f"""
INSERT INTO zone
SELECT (sequence - 1) / {ZONE}, count(*) FILTER (WHERE {EVENTS}), min(time), max(time), min(observed), max(observed)
FROM record WHERE sequence BETWEEN ? AND ? GROUP BY 1
ON CONFLICT (zone) DO UPDATE SET
    records = records + excluded.records,
    first_time = min(first_time, excluded.first_time),
    last_time = max(last_time, excluded.last_time),
    first_observed = min(first_observed, excluded.first_observed),
    last_observed = max(last_observed, excluded.last_observed)
"""
# A slice that was left half folded, by a crash or by another process, is folded again.
_POSTINGS = tuple(
    f"INSERT OR IGNORE INTO posting SELECT ?, {number}, {column}, sequence FROM record"
    f" WHERE sequence BETWEEN ? AND ? AND {column} IS NOT NULL ORDER BY {column}, sequence"
    for column, number in FIELDS.items()
)
_FOLLOWING: Final = "SELECT sequence FROM record WHERE sequence > ? ORDER BY sequence LIMIT 1"
STEPS: Final = len(_POSTINGS) + 1
"""How many calls of `fold_step` a slice takes."""


class Slice(NamedTuple):
    """Records that are to be folded.

    Args:
        first: First sequence.
        last: Last sequence; below `first` where there is nothing to fold.
    """

    first: int
    last: int


def next_slice(connection: apsw.Connection) -> Slice:
    """Return what is to be folded next; a slice never crosses the end of a run."""
    folded, head = _progress(connection)
    return Slice(folded + 1, min(head, folded + SLICE, (folded // RUN + 1) * RUN))


def fold_step(connection: apsw.Connection, part: Slice, step: int) -> int:
    """Do one step of a slice, from 0, in a transaction.

    Returns:
        How many records are still unfolded.
    """
    with transaction(connection):
        folded, head = _progress(connection)
        # Else another process was quicker.
        if folded + 1 == part.first <= part.last:
            if step < len(_POSTINGS):
                connection.execute(_POSTINGS[step], (folded // RUN, part.first, part.last))
            else:
                connection.execute(_ZONES, (part.first, part.last))
                # The next record follows, unless somebody removed records, or put one where it cannot be.
                following = connection.execute(_FOLLOWING, (part.last,)).get
                folded = part.last if following is None else int(following) - 1
                connection.execute("UPDATE meta SET value = ? WHERE key = 'folded'", (folded,))
    return head - folded


def refold_zones(connection: apsw.Connection, zones: Iterable[int]) -> None:
    """Make zones anew, within a transaction that changed their records."""
    folded, _ = _progress(connection)
    for zone in zones:
        first, last = zone * ZONE + 1, min((zone + 1) * ZONE, folded)
        if first <= last:
            connection.execute("DELETE FROM zone WHERE zone = ?", (zone,))
            connection.execute(_ZONES, (first, last))


def fold(connection: apsw.Connection) -> int:
    """Fold the next slice, all steps.

    Returns:
        How many records are still unfolded.
    """
    part = next_slice(connection)
    return [fold_step(connection, part, step) for step in range(STEPS)][-1]


def folded_to(connection: apsw.Connection) -> int:
    """Return the sequence up to which records are folded.

    Raises:
        ArchiveError: Somebody removed it, or put something else in its place.
    """
    mark = connection.execute("SELECT value FROM meta WHERE key = 'folded'").get
    if not isinstance(mark, int) or mark < 0:
        raise ArchiveError("the archive does not say which records are folded", "otel-audit verify says more")
    return mark


def _progress(connection: apsw.Connection) -> tuple[int, int]:
    """Return the last folded and the last sequence."""
    return folded_to(connection), int(connection.execute("SELECT max(sequence) FROM record").get or 0)
