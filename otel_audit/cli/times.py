"""Time expressions of the command line: RFC 3339, ``today``, ``15m``; and times as they are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple

__all__ = [
    "FORMS",
    "TimeForm",
    "age",
    "day_start",
    "from_nanoseconds",
    "parse_duration",
    "parse_time",
    "shorter_forms",
    "shown_time",
]

FORMS: Final = (
    "2026-01-31, 2026-01-31T12:00:00[Z|+01:00], today, yesterday, now, or an age such as 30s, 15m, 2h, 7d, 1w"
)
"""The forms, for messages."""

_SECOND: Final = 1_000_000_000
_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:[0-9]+[wdhms])+")
_PART = re.compile(r"([0-9]+)([wdhms])")
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**63 - 1


def parse_time(text: str, now: int) -> int:
    """Return the moment that a time expression stands for.

    Args:
        text: One of `FORMS`. What has no zone is local time, a date alone its first moment, a duration that long ago.
        now: Nanoseconds since the epoch.

    Returns:
        Nanoseconds since the epoch; moments that the archive cannot hold become its first or last.

    Raises:
        ValueError: The text is none of them; the message says so.
    """
    word = text.strip().lower()
    if word == "now":
        return now
    if word in {"today", "yesterday"}:
        day = from_nanoseconds(now).date()
        return day_start(day if word == "today" else day - timedelta(days=1))
    if _is_duration(word):
        return max(now - parse_duration(word), _LOWEST)
    match = _RFC3339.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time: give {FORMS}")
    try:
        return _moment(*match.groups())
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time ({error}): give {FORMS}") from None


def _moment(day: str, clock: str | None, second: str | None, fraction: str | None, zone: str | None) -> int:
    if clock is None:
        return day_start(date.fromisoformat(day))
    # RFC 3339 has a second 60 where one was inserted; elsewhere it is the next minute's first.
    leap = second == "60"
    moment = datetime.fromisoformat(f"{day}T{clock}:{'59' if leap else second or '00'}")
    if zone is None:
        nanoseconds = _local(moment)
    else:
        offset = datetime.fromisoformat(f"2000-01-01T00:00:00{zone.upper()}").utcoffset() or timedelta()
        nanoseconds = _nanoseconds(moment.replace(tzinfo=UTC)) - _nanoseconds(_EPOCH + offset)
    return _clamp(nanoseconds + leap * _SECOND + int((fraction or "0")[:9].ljust(9, "0")))


def parse_duration(text: str) -> int:
    """Return a duration such as ``90s``, ``1h30m`` or ``7d`` as nanoseconds.

    Raises:
        ValueError: The text is none.
    """
    word = text.strip().lower()
    if not _is_duration(word):
        raise ValueError(f"{text!r} is no duration: give 30s, 15m, 2h, 7d or 1w")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(word)) * _SECOND


def _is_duration(word: str) -> bool:
    # Python refuses to read numbers of thousands of digits.
    return len(word) <= 100 and _DURATION.fullmatch(word) is not None


def day_start(day: date, *, utc: bool = False) -> int:
    """Return the first moment of a day, local or in UTC, as nanoseconds since the epoch."""
    midnight = datetime.combine(day, time())
    return _clamp(_nanoseconds(midnight.replace(tzinfo=UTC)) if utc else _local(midnight))


def from_nanoseconds(nanoseconds: int, *, utc: bool = False) -> datetime:
    """Return nanoseconds since the epoch as an aware datetime, local or in UTC, whole seconds."""
    moment = datetime.fromtimestamp(nanoseconds // _SECOND, UTC)
    return moment if utc else moment.astimezone()


def shown_time(nanoseconds: int, *, utc: bool = False) -> str:
    """Return a time as tables show it, to the second and with its zone, e.g. ``2026-01-31 13:00:00+01:00``."""
    text = from_nanoseconds(nanoseconds, utc=utc).isoformat(" ", "seconds")
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


class TimeForm(NamedTuple):
    """A shorter form of what `shown_time` returns, for a column of times.

    Args:
        header: What the cells have in common, else None.
        start: Characters that are left out at the beginning.
        seconds: Whether seconds are shown.
    """

    header: str | None
    start: int
    seconds: bool

    def cut(self, text: str) -> str:
        """Return a time, as shown in full, in this form."""
        return text[self.start :] if self.seconds else text[self.start : 16] + text[19:]


def shorter_forms(times: Iterable[str], *, complete: bool) -> Iterator[TimeForm]:
    """Iterate over the shorter forms of a column of times, none of which hides what differs but seconds.

    Args:
        times: As `shown_time` returns them.
        complete: Whether no other time will follow.
    """
    days = {text[:10] for text in times} if complete else set()
    if len(days) == 1:
        (day,) = days
        yield TimeForm(day, 11, seconds=True)
        yield TimeForm(day[5:], 11, seconds=False)
        return
    yield TimeForm(None, 0, seconds=False)
    years = {day[:4] for day in days}
    if len(years) == 1:
        yield TimeForm(years.pop(), 5, seconds=False)


def age(nanoseconds: int) -> str:
    """Return a duration in its largest unit, e.g. ``3 h``; negative ones are ``0 s``."""
    seconds = max(nanoseconds, 0) // _SECOND
    unit = next((unit for unit in ("d", "h", "m") if seconds >= _UNITS[unit]), "s")
    return f"{seconds // _UNITS[unit]} {'min' if unit == 'm' else unit}"


def _local(moment: datetime) -> int:
    try:
        return _nanoseconds(moment.astimezone(UTC))
    except (OverflowError, OSError, ValueError):
        # The years 1 and 9999, where a zone leads out of the calendar.
        return _nanoseconds(moment.replace(tzinfo=UTC))


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _clamp(nanoseconds: int) -> int:
    return min(max(nanoseconds, _LOWEST), _HIGHEST)
