"""Sets of sequences as sorted ranges, and their text: ``3-5,9``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["Range", "count", "difference", "format_ranges", "intersection", "merged", "parse_ranges", "ranges_of"]

Range = tuple[int, int]
"""The first and the last sequence."""

_TEXT: Final = re.compile(r"[1-9][0-9]{0,18}(-[1-9][0-9]{0,18})?(,[1-9][0-9]{0,18}(-[1-9][0-9]{0,18})?)*")


def ranges_of(sequences: Iterable[int]) -> list[Range]:
    """Return ascending sequences as ranges."""
    ranges: list[Range] = []
    for sequence in sequences:
        if ranges and ranges[-1][1] + 1 == sequence:
            ranges[-1] = (ranges[-1][0], sequence)
        else:
            ranges.append((sequence, sequence))
    return ranges


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return the union of ranges that may overlap."""
    union: list[Range] = []
    for first, last in sorted(ranges):
        if union and first <= union[-1][1] + 1:
            union[-1] = (union[-1][0], max(last, union[-1][1]))
        else:
            union.append((first, last))
    return union


def difference(ranges: Iterable[Range], others: Iterable[Range]) -> Iterator[Range]:
    """Iterate over what lies in the first ranges alone; both are merged ones."""
    rest = iter(others)
    other = next(rest, None)
    for start, last in ranges:
        first = start
        while other is not None and other[0] <= last:
            if other[1] >= first:
                if other[0] > first:
                    yield first, other[0] - 1
                first = other[1] + 1
                if first > last:
                    break
            other = next(rest, None)
        if first <= last:
            yield first, last


def intersection(ranges: list[Range], others: list[Range]) -> list[Range]:
    """Return what lies in both; both are merged ones."""
    return list(difference(ranges, list(difference(ranges, others))))


def count(ranges: Iterable[Range]) -> int:
    """Return how many sequences there are."""
    return sum(last - first + 1 for first, last in ranges)


def format_ranges(ranges: Iterable[Range]) -> str:
    """Return the text of ranges."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def parse_ranges(text: str) -> list[Range]:
    """Return the ranges of a text.

    Raises:
        ValueError: It is none.
    """
    if not _TEXT.fullmatch(text):
        raise ValueError("these are no sequences")
    ranges = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        ranges.append((int(first), int(last or first)))
        if ranges[-1][0] > ranges[-1][1]:
            raise ValueError("a range of sequences ends before it begins")
    return ranges
