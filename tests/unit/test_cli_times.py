"""Time expressions are understood, and times are shown so that they can be given back."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.cli.times import FORMS, age, day_start, parse_duration, parse_time, shorter_forms, shown_time
from otel_audit.record import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
NOW = 1_769_860_800 * SECOND + 123  # 2026-01-31T12:00:00Z
NANOSECONDS = st.integers(0, 2**63 - 1)
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Chatham", "Asia/Kolkata"]


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.fixture
def berlin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@given(NANOSECONDS)
def test_recorded_times_come_back(nanoseconds: int) -> None:
    """The time of a record's JSON form, given back, is the same to the nanosecond."""
    assert parse_time(rfc3339(nanoseconds), NOW) == nanoseconds


@pytest.mark.usefixtures("zone")
@given(NANOSECONDS, st.booleans())
def test_shown_times_come_back(nanoseconds: int, utc: bool) -> None:
    """The time of a table, local or in UTC, given back, is the same to the second."""
    assert parse_time(shown_time(nanoseconds, utc=utc), NOW) == nanoseconds // SECOND * SECOND


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)),  # noqa: DTZ001 - the zone is drawn too
    st.integers(-23 * 60, 23 * 60),
)
def test_offsets_count(moment: datetime, minutes: int) -> None:
    """A time with an offset is the moment that it names."""
    sign = "-" if minutes < 0 else "+"
    text = f"{moment.isoformat()}{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    expected = moment.replace(tzinfo=UTC) - timedelta(minutes=minutes)
    assert parse_time(text, NOW) == (expected - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


@given(st.integers(0, 10_000), st.sampled_from("smhdw"))
def test_ages(number: int, unit: str) -> None:
    """A duration is a time so long ago."""
    seconds = number * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[unit]
    assert parse_duration(f"{number}{unit}") == seconds * SECOND
    assert parse_time(f"{number}{unit}", NOW) == NOW - seconds * SECOND


@given(st.text() | st.from_regex(r"[0-9]{1,5}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?[Zz+-]?[0-9:]*"))
def test_any_text_is_a_time_or_a_clear_error(text: str) -> None:
    """Whatever is given, the answer is a moment that the archive can hold, or an error that names text and forms."""
    complaint = ""
    try:
        moment = parse_time(text, NOW)
    except ValueError as error:
        complaint = str(error)
        moment = 0
    assert -(2**63) <= moment < 2**63
    assert not complaint or (complaint.startswith(f"{text!r} is no time") and complaint.endswith(FORMS))


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-01-31", "2026-01-30T23:00:00.000000000Z"),
        ("2026-07-01", "2026-06-30T22:00:00.000000000Z"),
        ("2026-01-31T12:00", "2026-01-31T11:00:00.000000000Z"),
        ("2026-01-31 12:00:01", "2026-01-31T11:00:01.000000000Z"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000000Z"),
        ("2026-01-31t12:00:00z", "2026-01-31T12:00:00.000000000Z"),
        ("2026-01-31T12:00:00.5+05:30", "2026-01-31T06:30:00.500000000Z"),
        ("2026-01-31T12:00:00.1234567899Z", "2026-01-31T12:00:00.123456789Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000000Z"),
        ("today", "2026-01-30T23:00:00.000000000Z"),
        ("yesterday", "2026-01-29T23:00:00.000000000Z"),
        (" Today ", "2026-01-30T23:00:00.000000000Z"),
        ("now", "2026-01-31T12:00:00.000000123Z"),
        ("1h30m", "2026-01-31T10:30:00.000000123Z"),
        ("1w", "2026-01-24T12:00:00.000000123Z"),
    ],
)
def test_forms(text: str, utc: str) -> None:
    """Each form stands for the moment that a person in Berlin means by it."""
    assert rfc3339(parse_time(text, NOW)) == utc


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "15", "m", "-15m", "15 m", "2026-02-30", "2026-01-31T25:00:00Z", "2026-01-31T12:00:00+25:00",
     "12:00", "1.5h", "9" * 5000 + "h",
     "2026-01-31T12", "٣m", "2026-01-31T12:00:00Zjunk"],
)  # fmt: skip
def test_junk_is_refused(text: str) -> None:
    """What is no time is an error that names the text and the forms."""
    with pytest.raises(ValueError, match=r"no time.*today.*15m") as caught:
        parse_time(text, NOW)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["", "h", "1", "-1h", "1y", "1 h", "today", "9" * 200 + "h"])
def test_junk_durations_are_refused(text: str) -> None:
    """What is no duration is an error that names the text and the forms."""
    with pytest.raises(ValueError, match=r"no duration.*15m"):
        parse_duration(text)


def test_far_times_are_held() -> None:
    """Moments that the archive cannot hold become its first or last: they ask for everything, or nothing."""
    assert parse_time("9999-12-31", NOW) == 2**63 - 1
    assert parse_time("0001-01-01", NOW) == -(2**63)
    assert parse_time("999999999w", NOW) == -(2**63)


@pytest.mark.usefixtures("berlin")
def test_days_of_the_change_of_clocks() -> None:
    """A local day has 23 or 25 hours when the clocks change."""
    assert day_start(date(2026, 3, 30)) - day_start(date(2026, 3, 29)) == 23 * 3600 * SECOND
    assert day_start(date(2026, 10, 26)) - day_start(date(2026, 10, 25)) == 25 * 3600 * SECOND
    assert day_start(date(2026, 3, 30), utc=True) - day_start(date(2026, 3, 29), utc=True) == DAY


@pytest.mark.usefixtures("berlin")
def test_shown_times() -> None:
    """Times are shown to the second with their zone."""
    assert shown_time(NOW) == "2026-01-31 13:00:00+01:00"
    assert shown_time(NOW, utc=True) == "2026-01-31 12:00:00Z"


def test_ages_are_shown_in_their_largest_unit() -> None:
    """An age has one unit; one in the future is none."""
    assert [age(n * SECOND) for n in (-5, 0, 59, 60, 7199, 86_400)] == ["0 s", "0 s", "59 s", "1 min", "1 h", "1 d"]


@pytest.mark.parametrize(
    ("times", "complete", "forms"),
    [
        (["2026-01-31 12:00:05Z", "2026-01-31 13:00:05Z"], True, [("2026-01-31", "12:00:05Z"), ("01-31", "12:00Z")]),
        (["2026-01-31 12:00:05+05:30"], True, [("2026-01-31", "12:00:05+05:30"), ("01-31", "12:00+05:30")]),
        (
            ["2026-01-31 12:00:05Z", "2026-02-01 12:00:05Z"],
            True,
            [(None, "2026-01-31 12:00Z"), ("2026", "01-31 12:00Z")],
        ),
        (["2025-12-31 12:00:05Z", "2026-01-01 12:00:05Z"], True, [(None, "2025-12-31 12:00Z")]),
        (["2026-01-31 12:00:05Z"], False, [(None, "2026-01-31 12:00Z")]),
        ([], True, [(None, "")]),
    ],
)
def test_times_are_shortened(times: list[str], complete: bool, forms: list[tuple[str | None, str]]) -> None:
    """What all times have in common goes into the heading, only where no others follow; then seconds go."""
    first = times[0] if times else ""
    assert [(form.header, form.cut(first)) for form in shorter_forms(times, complete=complete)] == forms
