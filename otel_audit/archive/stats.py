"""Counts records over time and by field."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from otel_audit.archive.database import archive_errors
from otel_audit.archive.filters import Filter
from otel_audit.archive.index import EVENTS, ZONE, folded_to
from otel_audit.archive.query import Archive, read_row, source_table
from otel_audit.record import AuditRecord

__all__ = ["ALL", "Counts", "Field", "counts", "field_of", "histogram", "ranked"]

Field = Literal["type", "user", "outcome", "source", "host", "address"]
Counts = list[tuple[str | None, int]]
"""Values and how many records have them, the most frequent first."""
ALL: Final = Filter()
"""Asks for every event."""


def histogram(archive: Archive, edges: Sequence[int], filter: Filter = ALL) -> list[int]:
    """Return how many records fall between each edge and the next, by the time of the event.

    Without any further criterion, zones that lie within one bucket are counted as a whole, and only those that an edge
    cuts are looked into: the time taken grows with the buckets, hardly with the records.

    Args:
        archive: The archive.
        edges: Nanoseconds since the epoch, ascending; at least two.
        filter: Further criteria; its `since` and `until` are not used, the edges are the range.

    Returns:
        One count fewer than there are edges.
    """
    counted = [0] * (len(edges) - 1)

    def add(moment: int, records: int = 1) -> None:
        bucket = bisect_right(edges, moment) - 1
        if 0 <= bucket < len(counted):
            counted[bucket] += records

    plain = Filter(since=filter.since, until=filter.until)
    if filter != plain:
        narrowed = replace(filter, since=edges[0], until=edges[-1])
        for row in archive.rows(narrowed):
            add(read_row(row).time)
        return counted
    with archive.database as connection, archive_errors(archive.path):
        connection.execute("BEGIN")  # one state of the archive for zones and rows
        try:
            cut = []
            for zone, records, first, last in connection.execute(
                "SELECT zone, records, first_time, last_time FROM zone WHERE last_time >= ? AND first_time < ?",
                (edges[0], edges[-1]),
            ):
                if bisect_right(edges, first) == bisect_right(edges, last):
                    add(first, records)
                else:
                    cut.append(zone)
            folded = folded_to(connection)
            ranges = [(zone * ZONE + 1, min((zone + 1) * ZONE, folded)) for zone in cut]
            for start, end in [*ranges, (folded + 1, 2**62)]:
                for (moment,) in connection.execute(
                    f"SELECT time FROM record WHERE sequence BETWEEN ? AND ? AND {EVENTS}", (start, end)
                ):
                    add(moment)
        finally:
            connection.execute("ROLLBACK")
    return counted


def counts(archive: Archive, field: Field, filter: Filter = ALL, *, limit: int = 10) -> Counts:
    """Return the most frequent values of a field among the records that match, with their counts.

    Args:
        archive: The archive.
        field: The field to count by.
        filter: Which records to count.
        limit: Most values to return.
    """
    if filter.needs_content:
        return ranked(Counter(field_of(record, field) for record in archive.query(filter)), limit)
    condition, values = filter.sql
    low, high, _ = archive.bounds(filter)
    with archive.database as connection, archive_errors(archive.path):
        rows = connection.execute(
            f"SELECT {field}, count(*) FROM {source_table(filter)} WHERE sequence BETWEEN ? AND ? AND {condition}"
            " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
            (low, high, *values, limit),
        )
        return [(value, int(count)) for value, count in rows]


def ranked(tally: Counter[str | None], limit: int) -> Counts:
    """Return the most frequent values, those of equal frequency in their own order, None first."""
    found = sorted(tally.items(), key=lambda item: (-item[1], item[0] is not None, item[0] or ""))
    return found[:limit]


def field_of(record: AuditRecord, field: Field) -> str | None:
    """Return a record's value of a field."""
    if field == "address":
        return None if record.session is None or record.session.ip is None else str(record.session.ip)
    value = getattr(record, field)
    return None if value is None else str(value)
