"""Sets of sequences as ranges, compared with Python's own sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.archive.ranges import (
    count,
    difference,
    format_ranges,
    intersection,
    merged,
    parse_ranges,
    ranges_of,
)

NUMBERS = st.sets(st.integers(1, 60))


@given(NUMBERS, NUMBERS)
def test_ranges_are_sets(left: set[int], right: set[int]) -> None:
    """Union, difference, intersection and size are those of the sets that the ranges stand for."""
    one, other = ranges_of(sorted(left)), ranges_of(sorted(right))
    assert merged([*one, *other]) == ranges_of(sorted(left | right))
    assert list(difference(one, other)) == ranges_of(sorted(left - right))
    assert intersection(one, other) == ranges_of(sorted(left & right))
    assert count(one) == len(left)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9))))
def test_overlapping_ranges_are_merged(pairs: list[tuple[int, int]]) -> None:
    """Ranges in any order, overlapping or adjacent, become those of their union."""
    ranges = [(first, first + more) for first, more in pairs]
    assert merged(ranges) == ranges_of(sorted({n for first, last in ranges for n in range(first, last + 1)}))


@given(NUMBERS.filter(bool))
def test_text(numbers: set[int]) -> None:
    """The text of ranges is read back."""
    ranges = ranges_of(sorted(numbers))
    assert parse_ranges(format_ranges(ranges)) == ranges


@pytest.mark.parametrize("text", ["", "0", "5-3", "1,,2", "1-", "-1", "1 2", "١", "1" * 20, "01"])
def test_what_is_no_range(text: str) -> None:
    """Any other text is refused."""
    with pytest.raises(ValueError, match="sequences"):
        parse_ranges(text)
