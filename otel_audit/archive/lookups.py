"""Verifies what was folded: postings and zones against the rows, nothing missing and nothing extra."""

from __future__ import annotations

from typing import Any, Final

import apsw

from otel_audit.archive.faults import Faults
from otel_audit.archive.index import EVENTS, FIELDS, RUN, SLICE, ZONE

__all__ = ["check_lookups", "check_outside"]

_LARGEST: Final = 2**63 - 1
_NAMES: Final = {number: name for name, number in FIELDS.items()}
_LACKS: Final = {
    name: f"({name} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM posting"
    f" WHERE run = ?1 AND field = {number} AND value = record.{name} AND sequence = record.sequence))"
    for name, number in FIELDS.items()
}
_MISSING: Final = (
    f"SELECT sequence, {', '.join(_LACKS.values())} FROM record WHERE sequence BETWEEN ?2 AND ?3"
    f" AND ({' OR '.join(_LACKS.values())})"
)
_PRESENT: Final = (
    "SELECT count(*) FILTER (WHERE sequence BETWEEN ?2 AND ?3), count(*) FILTER (WHERE sequence NOT BETWEEN ?4 AND ?3)"
    " FROM posting WHERE run = ?1"
)
_EXTRA: Final = (
    "SELECT sequence, field FROM posting WHERE run = ? AND sequence BETWEEN ? AND ? AND NOT EXISTS"
    " (SELECT 1 FROM record WHERE record.sequence = posting.sequence AND posting.value = CASE field"
    f" {' '.join(f'WHEN {number} THEN {name}' for name, number in FIELDS.items())} END)"
)
_STRAY: Final = "SELECT sequence, field FROM posting WHERE run = ? AND sequence NOT BETWEEN ? AND ?"
# One zone at a time: grouped by zone, SQLite would sort. Joined: that takes a sixth less than EXISTS.
_SUMS: Final = (
    f"SELECT count(*), count(*) FILTER (WHERE {EVENTS}), min(time), max(time), min(observed), max(observed),"
    f" {' + '.join(f'count({name})' for name in FIELDS)}, {' + '.join(f'count({name}s.run)' for name in FIELDS)}"
    " FROM record "
    + " ".join(
        f"LEFT JOIN posting {name}s ON {name}s.run = ?1 AND {name}s.field = {number}"
        f" AND {name}s.value = record.{name} AND {name}s.sequence = record.sequence"
        for name, number in FIELDS.items()
    )
    + " WHERE record.sequence BETWEEN ?2 AND ?3"
)
_STORED: Final = (
    "SELECT zone, records, first_time, last_time, first_observed, last_observed FROM zone WHERE zone BETWEEN ? AND ?"
)


def folded_mark(connection: apsw.Connection) -> int:
    """Return the sequence up to which records are folded; 0 where the mark is unusable, which is a fault elsewhere."""
    mark = connection.execute("SELECT value FROM meta WHERE key = 'folded'").get
    return mark if isinstance(mark, int) and mark > 0 else 0


def check_lookups(connection: apsw.Connection, first: int, faults: Faults) -> None:
    """Verify the postings and zones of one run.

    Args:
        connection: Reads the archive, in one transaction.
        first: Where to begin; what is before it in the run is not compared, but for its zone.
        faults: Takes what is found.
    """
    run = (first - 1) // RUN
    low, start, end = (first - 1) // ZONE * ZONE + 1, run * RUN + 1, min((run + 1) * RUN, _LARGEST)
    folded = folded_mark(connection)
    high = min(end, folded)
    zones: dict[int, tuple[Any, ...]] = {}
    expected = 0
    for begin in range(low, high + 1, ZONE):
        part = (run, begin, min(begin + ZONE - 1, high))
        ((rows, *zone, entries, found),) = connection.execute(_SUMS, part)
        if rows:
            zones[(begin - 1) // ZONE] = tuple(zone)
        expected += found
        for sequence, *lacks in connection.execute(_MISSING, part) if found < entries else ():
            names = [name for name, lack in zip(FIELDS, lacks, strict=True) if lack]
            faults.add("posting", f"record {sequence}", f"no entry for {', '.join(names)}")
    _zones(connection, (low - 1) // ZONE, (end - 1) // ZONE, zones, faults)
    ((present, others),) = connection.execute(_PRESENT, (run, low, high, start))
    # All that should be there is, or was named: more than that is extra.
    if present != expected:
        for sequence, field in connection.execute(_EXTRA, (run, low, high)):
            faults.add("posting", f"record {sequence}", f"an entry for {_NAMES.get(field, field)} that is not its")
    if not others:
        return
    # A slice that is being folded has entries before it counts. They must be right; none need be there.
    begun = min(end, folded + SLICE)
    for sequence, field in connection.execute(_EXTRA, (run, min(max(high + 1, start), _LARGEST), begun)):
        faults.add("posting", f"record {sequence}", f"an entry for {_NAMES.get(field, field)} that is not its")
    for sequence, field in connection.execute(_STRAY, (run, start, begun)):
        faults.add("posting", f"record {sequence}", f"an entry for {_NAMES.get(field, field)} out of place")


def _zones(
    connection: apsw.Connection, first: int, last: int, expected: dict[int, tuple[Any, ...]], faults: Faults
) -> None:
    stored = {zone: tuple(rest) for zone, *rest in connection.execute(_STORED, (first, last))}
    for zone in sorted(expected.keys() | stored.keys()):
        if expected.get(zone) != stored.get(zone):
            what = "is missing" if zone not in stored else "is extra" if zone not in expected else "differs"
            faults.add("zone", f"records {zone * ZONE + 1} to {(zone + 1) * ZONE}", f"zone {zone} {what}")


def check_outside(connection: apsw.Connection, head: int, faults: Faults) -> None:
    """Verify that there are no postings and zones beyond the last record, nor before the first.

    Args:
        connection: Reads the archive, in one transaction.
        head: The last sequence.
        faults: Takes what is found.
    """
    last = (head - 1) // RUN
    for condition, bound in (("run < ?", 0), ("run > ?", last)):
        for run, count in connection.execute(
            f"SELECT run, count(*) FROM posting WHERE {condition} GROUP BY 1", (bound,)
        ):
            faults.add("posting", f"run {run}", f"{count} entries where there are no records")
    # Zones of the last run are compared with its records.
    outside = connection.execute("SELECT zone FROM zone WHERE zone < 0 OR zone >= ?", ((last + 1) * RUN // ZONE,))
    for (zone,) in outside:
        faults.add("zone", f"records {zone * ZONE + 1} to {(zone + 1) * ZONE}", f"zone {zone} is extra")
