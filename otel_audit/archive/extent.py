"""Finds the range of times that records lie in."""

from __future__ import annotations

from otel_audit.archive.database import archive_errors
from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive, read_row

__all__ = ["extent"]


def extent(archive: Archive, filter: Filter) -> tuple[int, int] | None:
    """Return the earliest and the latest time of the events that match.

    Without any criterion the zones answer, and only what is not folded yet is looked at.

    Args:
        archive: The archive.
        filter: Which records.

    Returns:
        Nanoseconds since the epoch; None where no record matches.
    """
    if filter.needs_content:
        times = [read_row(row).time for row in archive.rows(filter)]
        return (min(times), max(times)) if times else None
    condition, values = filter.sql
    with archive.database as connection, archive_errors(archive.path):
        if filter == Filter():
            row = connection.execute(
                "WITH folded(value) AS (SELECT value FROM meta WHERE key = 'folded')"
                " SELECT min(first), max(last) FROM ("
                "  SELECT min(first_time) AS first, max(last_time) AS last FROM zone UNION ALL"
                "  SELECT min(time), max(time) FROM record, folded WHERE sequence > folded.value)"
            ).fetchone()
        else:
            row = connection.execute(f"SELECT min(time), max(time) FROM record WHERE {condition}", values).fetchone()
    return None if row is None or row[0] is None else (int(row[0]), int(row[1]))
