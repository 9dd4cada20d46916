"""Finds the range of times that records lie in."""

from __future__ import annotations

from typing import Any

import apsw

from otel_audit.archive.database import archive_errors
from otel_audit.archive.filters import Filter
from otel_audit.archive.index import EVENTS, ZONE, folded_to
from otel_audit.archive.query import Archive, read_row, source_table

__all__ = ["extent"]


def extent(archive: Archive, filter: Filter) -> tuple[int, int] | None:
    """Return the earliest and the latest time of the events that match.

    Without any criterion the zones say where to look: a few of them, and what is not folded yet.

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
    low, high, _ = archive.bounds(filter)
    with archive.database as connection, archive_errors(archive.path):
        if filter == Filter():
            return _of_events(connection)
        row: Any = connection.execute(
            f"SELECT min(time), max(time) FROM {source_table(filter)} WHERE sequence BETWEEN ? AND ? AND {condition}",
            (low, high, *values),
        ).fetchone()
    return None if row[0] is None else (int(row[0]), int(row[1]))


def _of_events(connection: apsw.Connection) -> tuple[int, int] | None:
    with connection:  # one state of the archive for zones and rows
        folded = folded_to(connection)
        tail: Any = _times(connection, folded + 1, 2**62)
        first, last = tail
        # A zone's times are those of all its rows, the archive's own among them: they only say how far it can reach.
        for zone, reach in connection.execute("SELECT zone, first_time FROM zone WHERE records ORDER BY first_time"):
            if first is not None and first <= reach:
                break
            found = _times(connection, zone * ZONE + 1, min((zone + 1) * ZONE, folded))[0]
            first = found if first is None or found is None else min(first, found)
        for zone, reach in connection.execute("SELECT zone, last_time FROM zone WHERE records ORDER BY last_time DESC"):
            if last is not None and last >= reach:
                break
            found = _times(connection, zone * ZONE + 1, min((zone + 1) * ZONE, folded))[1]
            last = found if last is None or found is None else max(last, found)
    return None if first is None or last is None else (int(first), int(last))


def _times(connection: apsw.Connection, start: int, end: int) -> Any:
    return connection.execute(
        f"SELECT min(time), max(time) FROM record WHERE sequence BETWEEN ? AND ? AND {EVENTS}", (start, end)
    ).fetchone()
