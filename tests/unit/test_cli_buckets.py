"""Histograms have few, readable buckets."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.cli.buckets import MOST, edges

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
START = 1_774_728_000 * SECOND  # 2026-03-28T20:00:00Z, hours before Berlin's change of clocks


@given(st.integers(0, 2**62), st.integers(1, 2**62))
def test_edges_ascend_and_are_few(start: int, length: int) -> None:
    """Whatever the range, its ends are kept and there are at most so many buckets between them."""
    found = edges(start, start + length, utc=True)
    assert found[0] == start
    assert found[-1] == start + length
    assert 1 <= len(found) - 1 <= MOST
    assert all(first < second for first, second in pairwise(found))


@given(st.integers(0, 2**61), st.integers(1, 2**61))
def test_inner_edges_are_round(start: int, length: int) -> None:
    """Buckets begin at whole seconds, minutes, hours or days."""
    inner = edges(start, start + length, utc=True)[1:-1]
    steps = {second - first for first, second in pairwise(inner)}
    assert len(steps) <= 1
    for step in steps:
        assert all(edge % min(step, 24 * HOUR) == 0 for edge in inner)


def test_days_begin_at_local_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days are those of the calendar, also when the clocks change."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        found = edges(START, START + 20 * 24 * HOUR, utc=False)
        days = [datetime.fromtimestamp(edge / SECOND).astimezone() for edge in found[1:-1]]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert all(day.hour == 0 for day in days)
    assert [day.day for day in days[:3]] == [29, 30, 31]
    assert found[2] - found[1] == 23 * HOUR


@pytest.mark.parametrize(("hours", "step"), [(1, 300), (24, 3600), (30 * 24, 24 * 3600)])
def test_usual_ranges(hours: int, step: int) -> None:
    """An hour, a day and a month are divided as one expects."""
    found = edges(START, START + hours * HOUR, utc=True)
    assert found[2] - found[1] == step * SECOND
