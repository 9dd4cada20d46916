"""Divides a range of time into buckets that begin at whole minutes, hours or days."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from otel_audit.cli.times import day_start, from_nanoseconds

__all__ = ["MOST", "edges"]

MOST: Final = 32
"""Most buckets; the first and the last may be shorter than the others."""

_SECOND: Final = 1_000_000_000
_DAY: Final = 86_400
_STEPS: Final = (1, 5, 15, 60, 300, 900, 3_600, 10_800, 21_600, 43_200)


def edges(start: int, end: int, *, utc: bool) -> list[int]:
    """Return the borders of at most `MOST` buckets from `start` to `end`.

    Args:
        start: Nanoseconds since the epoch.
        end: Later than `start`.
        utc: Whether days and hours are those of UTC rather than local.

    Returns:
        Ascending, `start` first and `end` last.
    """
    seconds = (end - start) / _SECOND
    step = next((step for step in _STEPS if seconds / step <= MOST - 2), None)
    inner = _days(start, end, seconds, utc=utc) if step is None else _clock(start, end, step, utc=utc)
    return [start, *inner, end]


def _clock(start: int, end: int, step: int, *, utc: bool) -> list[int]:
    offset = from_nanoseconds(start, utc=utc).utcoffset() or timedelta()
    shift = int(offset.total_seconds()) * _SECOND
    size = step * _SECOND
    first = ((start + shift) // size + 1) * size - shift
    return list(range(first, end, size))


def _days(start: int, end: int, seconds: float, *, utc: bool) -> list[int]:
    # Days are not all of one length: each border is a midnight of the calendar.
    days = max(-(-seconds // (_DAY * (MOST - 2))), 1)
    day = from_nanoseconds(start, utc=utc).date()
    found: list[int] = []
    while True:
        day += timedelta(days=days)
        border = day_start(day, utc=utc)
        # `day_start` returns nothing later than what the archive can hold.
        if border >= min(end, 2**63 - 1):
            return found
        found.append(border)
