"""Goes through an archive in windows of sequences, past those that hold no record.

A row that somebody put at 2^40 must not make anybody count up to there.
"""

from __future__ import annotations

import apsw

from otel_audit.archive.ranges import Range

__all__ = ["next_window"]

_NEXT = "SELECT sequence FROM record WHERE sequence BETWEEN ? AND ? ORDER BY sequence LIMIT 1"


def next_window(connection: apsw.Connection, first: int, last: int, width: int) -> Range | None:
    """Return the next window with a record in it; None where there is none.

    Args:
        connection: Reads the archive.
        first: Where to look from, at least 1.
        last: The last sequence.
        width: How many sequences a window has; each begins after a multiple of that.
    """
    # No column holds what follows the largest sequence.
    found = connection.execute(_NEXT, (first, last)).get if first <= last else None
    if found is None:
        return None
    start = (int(found) - 1) // width * width
    return max(first, start + 1), min(last, start + width)
