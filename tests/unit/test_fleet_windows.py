"""Windows of time: together they hold every row once, and none holds more than it may."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from otel_audit.archive.held import same_text
from otel_audit.fleet.layout import Table
from otel_audit.fleet.windows import Windows

times = st.lists(
    st.one_of(st.integers(0, 50), st.integers(10**18, 10**18 + 1000), st.integers(0, 2**63 - 2)), max_size=60
)


@given(times.map(sorted), st.integers(1, 8), st.integers(1, 12), st.booleans())
def test_windows_hold_every_row_once(rows: list[int], first: int, most: int, oldest_first: bool) -> None:
    """However rows gather, windows follow each other without gap and overlap, and hold no more rows than allowed."""
    asked = 0

    def extent(start: int, end: int) -> tuple[int, int, int]:
        nonlocal asked
        asked += 1
        found = rows[bisect_left(rows, start) : bisect_left(rows, end)]
        return (len(found), found[0], found[-1]) if found else (0, 0, 0)

    cut = list(Windows(extent, rows=first, most=most, oldest_first=oldest_first).over(0, 2**63 - 1))
    assert cut == sorted(cut, reverse=not oldest_first)
    ascending = sorted(cut)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ascending))
    held = [row for start, end in ascending for row in rows[bisect_left(rows, start) : bisect_left(rows, end)]]
    assert held == rows
    # Even where rows lie 290 years apart, the way to the next is short.
    assert asked <= 25 * (len(set(rows)) + 1)
    for start, end in cut:
        assert end - start == 1 or extent(start, end)[0] <= most


def test_ranges_are_cut_where_dates_begin_anew() -> None:
    """Only the layout that is partitioned by the timestamp's date needs it, and only where the range reaches there."""
    edge = 2**16 * 86_400 * 10**9
    new, old = Table("t", seconds=False), Table("t", seconds=True)
    assert new.parts(0, edge + 5) == [(0, edge), (edge, edge + 5)]
    for start, end in ((0, edge), (edge, edge + 5), (5, 9)):
        assert new.parts(start, end) == [(start, end)]
    assert old.parts(0, edge + 5) == [(0, edge + 5)]


def test_the_key_of_whole_seconds_answers_only_what_it_can() -> None:
    """The old layout's column is asked as well, but not where its values begin anew."""
    old = Table("t", seconds=True)
    assert "TimestampTime >= toDateTime(1) AND TimestampTime <= toDateTime(3)" in old.between(
        1_999_999_999, 2_000_000_001
    )
    assert "TimestampTime" not in old.between(0, 2**32 * 10**9)
    assert "TimestampTime" not in Table("t", seconds=False).between(0, 1)


def test_texts_of_values() -> None:
    """A value is told from what only looks like it: a sign, a type within a list, a missing field."""
    same: list[tuple[Any, str]] = [
        (1.0, "1"), (-0.0, "-0"), (1e21, "1e+21"), (2**62, str(2**62)), (("a", 1.0), '["a",1]'), (None, ""),
        ((1.2345678901234567e20,), "[123456789012345670000]"), ((0.5,), "[0.5]"),
        (float("-inf"), "-Infinity"), (float("inf"), "json: unsupported value: +Inf"), (float("nan"), "NaN"),
    ]  # fmt: skip
    assert all(same_text(value, text) for value, text in same)
    other: list[tuple[Any, Any]] = [
        (float("inf"), "-Infinity"), (float("nan"), ""),
        (1.0, "1.5"), (0.0, "-0"), (1.0, "x"), (True, "1"), (1, "true"), ((True,), "[1]"), ((1,), "[true]"),
        ({"a": 1}, "{}"), ({"a": 1}, "[1]"), ((1,), "[1,1]"), ((1,), "[" * 5000),
        ((1.0,), "[true]"), ((1.0,), f"[{10**400}]"), ("", None),
    ]  # fmt: skip
    assert not any(same_text(value, text) for value, text in other)
