"""Cuts a range of time into windows of so many rows, so that neither side ever sorts or counts more of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["Extent", "Windows"]

Extent = Callable[[int, int], tuple[int, int, int]]
"""Returns how many rows lie between two times, and the first and the last time among them."""


class Windows:
    """Windows of what can say how many rows a range of time has.

    Args:
        extent: Says it.
        rows: About how many rows the first window has; the others have more and more.
        most: Most rows of a window, unless they are of one nanosecond.
        oldest_first: The order of the windows.
    """

    def __init__(self, extent: Extent, *, rows: int, most: int, oldest_first: bool = True) -> None:
        self._extent = extent
        self._rows = min(rows, most)
        self._most = most
        self._oldest_first = oldest_first

    def over(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Iterate over windows, each its start and what is behind it, that hold every row of a range of time.

        Args:
            start: Nanoseconds since the epoch.
            end: Behind the range.
        """
        total, first, last = self._extent(start, end)
        if total:
            yield from self._cut(first, last + 1, total)

    def _cut(self, start: int, end: int, total: int) -> Iterator[tuple[int, int]]:
        wanted, found = self._rows, (total, start, end - 1)
        width, whole = max((end - start) * wanted // total, 1), (start, end)
        while start < end:
            low, high = (start, min(start + width, end)) if self._oldest_first else (max(end - width, start), end)
            count, first, last = found if (low, high) == whole else self._extent(low, high)
            if count > self._most and high - low > 1:
                # Nothing lies before the first of them, nor behind the last.
                start, end = (first, end) if self._oldest_first else (start, last + 1)
                width = max((last + 1 - first) * wanted // (2 * count), 1)
                continue
            if count:
                yield low, high
            start, end = (high, end) if self._oldest_first else (start, low)
            wanted = min(wanted * 4, self._most)
            # Where there is less than was expected, the next window is longer: at most eight times, as rows may gather.
            width = (high - low) * 8 if count * 8 <= wanted else max((high - low) * wanted // count, 1)
