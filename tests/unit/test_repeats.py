"""Counted repeats: what counts as one, what the count's record says, and that no event vanishes."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from structlog.contextvars import bound_contextvars, clear_contextvars

from otel_audit.errors import ArchiveError, ConfigError, InvalidRecord
from otel_audit.record import AuditRecord, Session, rfc3339
from otel_audit.sources import repeats
from otel_audit.sources.auth import Auth
from tests.archive_material import wait_until
from tests.recording import HOSTILE_TEXTS, Tape, bound_logger

SESSION = Session("s-1", "http", "203.0.113.7", "Firefox")
LONG = 3_600.0


class Clock:
    """Stands in for the module's `time`; its hands are moved by the test."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        """Return what the test set."""
        return self.seconds

    def time_ns(self) -> int:
        """Likewise."""
        return int(self.seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        """Sleep in earnest, but not for long."""
        time.sleep(min(seconds, 0.01))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Give the module a clock that stands still."""
    clear_contextvars()
    clock = Clock()
    monkeypatch.setattr(repeats, "time", clock)
    yield clock
    clear_contextvars()


@pytest.fixture
def tape() -> Tape:
    return Tape()


def told(tape: Tape) -> list[AuditRecord]:
    return [record for record, _ in tape.written]


def total(tape: Tape) -> int:
    """Return how many events the records tell of."""
    counts: list[Any] = [record.custom.get("repeat", {}).get("count", 1) for record in told(tape)]
    return sum(counts)


def test_first_and_count(tape: Tape, clock: Clock) -> None:
    """The first is recorded at once, repeats give no receipt, and their record tells number, times and the first."""
    auth = Auth(bound_logger(tape), repeat_failures=timedelta(hours=1))
    first = auth.failure("alice", SESSION, condition="not-authorized")
    assert first is not None
    for number in range(5):
        clock.seconds += 10
        session = SESSION._replace(id=f"s-{number}")
        assert auth.failure("alice", session, condition="not-authorized") is None
    assert len(tape.written) == 1
    (end,) = tape.endings
    end()
    _, record = told(tape)
    assert (record.type, record.outcome, record.user) == ("authentication-failure", "failure", "alice")
    assert record.session == SESSION._replace(id=None)
    assert record.custom == {
        "reason": {"condition": "not-authorized"},
        "repeat": {
            "count": 5,
            "since": rfc3339(110 * 10**9),
            "until": rfc3339(150 * 10**9),
            "of": first.record_id,
        },
    }
    assert record.time == 150 * 10**9
    assert record.message == "authentication-failure repeated 5 times"
    end()
    assert len(tape.written) == 2
    assert auth.failure("alice", SESSION, condition="not-authorized") is not None


def test_without_the_option_all_are_recorded(tape: Tape) -> None:
    """Nothing is counted unless it is asked for; each option concerns one type."""
    auth = Auth(bound_logger(tape))
    assert all(auth.failure("alice") and auth.success("alice") for _ in range(3))
    auth = Auth(bound_logger(tape), repeat_successes=LONG)
    assert all(auth.failure("alice") for _ in range(3))
    assert [auth.success("alice") is None for _ in range(3)] == [False, True, True]
    auth.close()
    assert total(tape) == 12


def test_a_new_window(tape: Tape, clock: Clock) -> None:
    """A repeat after the window's end is the first of the next, and what the old one counted is recorded."""
    auth = Auth(bound_logger(tape), repeat_failures=60)
    auth.failure("alice")
    clock.seconds += 59
    assert auth.failure("alice") is None
    clock.seconds += 1
    assert auth.failure("alice") is not None
    wait_until(lambda: len(tape.written) == 3)
    assert total(tape) == 3
    # Without repeats a window ends without a record.
    clock.seconds += 60
    assert auth.failure("bob") is not None
    auth.close()
    assert len(tape.written) == 4


def test_the_end_of_a_window_records(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is recorded at the window's end even where nothing else ever happens, and the thread ends."""
    monkeypatch.setattr(repeats, "time", time)
    auth = Auth(bound_logger(tape), repeat_failures=0.2)
    for _ in range(4):
        auth.failure("alice")
    wait_until(lambda: total(tape) == 4)
    assert auth._failures is not None
    wait_until(lambda: auth._failures is not None and auth._failures._thread is None)
    auth.failure("alice")
    auth.failure("alice")
    wait_until(lambda: total(tape) == 6)


DIFFERENT: list[dict[str, Any]] = [
    {"user": "bob"}, {"user": ""}, {"host": "b.example"}, {"user_id": "7"}, {"actor": "cron"}, {"outcome": "unknown"},
    {"action": "BIND"}, {"condition": "other"}, {"text": "other"}, {"method": "PLAIN"},
    {"session": SESSION._replace(ip="203.0.113.8")}, {"session": SESSION._replace(client="Chrome")},
    {"session": SESSION._replace(type="c2s")}, {"session": Session()},
]  # fmt: skip


@pytest.mark.parametrize("change", DIFFERENT, ids=str)
def test_what_differs_is_not_counted(tape: Tape, change: dict[str, Any]) -> None:
    """An event with another name, address, client or reason has a window of its own: nobody hides another."""
    auth = Auth(bound_logger(tape), repeat_failures=LONG)
    same: dict[str, Any] = {"user": "alice", "session": SESSION, "condition": "c"}
    assert auth.failure(**same) is not None
    assert auth.failure(**{**same, **change}) is not None
    assert auth.failure(**{**same, **change}) is None
    assert auth.failure(**same) is None
    auth.close()
    assert total(tape) == 4


@pytest.mark.parametrize(
    "more", [{"custom": {"g": {"f": 1}}}, {"message": "m"}, {"target": "o"}, {"timestamp": 5}], ids=str
)
def test_what_says_more_is_recorded_each_time(tape: Tape, more: dict[str, Any]) -> None:
    """An event with fields that a count could not hold is recorded each time, given or bound."""
    auth = Auth(bound_logger(tape), repeat_failures=LONG)
    bound = Auth(bound_logger(tape).bind(**more), repeat_failures=LONG)
    for _ in range(3):
        assert auth.failure("alice", **more) is not None
        assert bound.failure("alice") is not None
    assert len(tape.written) == 6


def test_bound_values_count(tape: Tape) -> None:
    """User, session and host of the context tell events apart; the count's record has them, and no other context."""
    auth = Auth(bound_logger(tape).try_unbind("host"), repeat_failures=LONG)
    tracer = TracerProvider().get_tracer("t")
    for user in ("alice", "bob"):
        for number in range(3):
            with bound_contextvars(user=user, session=SESSION, host="h", request_id=str(number)):
                assert (auth.failure() is None) == (number > 0)
    with bound_contextvars(user="carol", request_id="x", host="other"), tracer.start_as_current_span("span"):
        auth.close()
    counts = told(tape)[2:]
    assert [(record.user, record.host, record.session) for record in counts] == [
        ("alice", "h", SESSION._replace(id=None)),
        ("bob", "h", SESSION._replace(id=None)),
    ]
    assert [([*record.custom], record.trace_id) for record in counts] == [(["repeat"], None)] * 2


def test_addresses_in_any_form(tape: Tape) -> None:
    """An address is the same as text and as object."""
    auth = Auth(bound_logger(tape), repeat_failures=LONG)
    assert auth.failure("alice", SESSION) is not None
    assert auth.failure("alice", SESSION._replace(ip=ipaddress.ip_address("203.0.113.7"))) is None


def test_a_thousand_repeats_are_recorded_at_once(tape: Tape) -> None:
    """After 1,000 repeats the count is recorded, and counting goes on: that bounds what a kill can lose."""
    auth = Auth(bound_logger(tape), repeat_failures=LONG)
    for _ in range(1 + 2_500):
        auth.failure("alice")
    wait_until(lambda: total(tape) == 2_001)
    assert len(tape.written) == 3
    auth.close()
    assert total(tape) == 2_501


def test_memory_is_bounded(tape: Tape, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many windows, or too long a name, events are recorded each time; room that comes back is used."""
    monkeypatch.setattr(repeats, "_WINDOWS", 3)
    auth = Auth(bound_logger(tape), repeat_failures=60)
    for number in range(10):
        assert auth.failure(f"user{number}") is not None
    assert auth.failure("user9") is not None
    assert auth.failure("user0") is None
    clock.seconds += 60
    assert auth.failure("user9") is not None
    assert auth.failure("user9") is None
    for _ in range(3):
        assert auth.failure("x" * 2_049) is not None
    auth.close()
    assert total(tape) == 17


class Failing:
    """A writer that fails for as long as it is told to."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._writer: Any = tape.writer
        self.closed = False
        self.error: Exception | None = None

    def write(self, *arguments: Any) -> Any:
        """Fail or write."""
        if self.error is not None:
            raise self.error
        return self._writer.write(*arguments)

    @property
    def written(self) -> Any:
        """What was written."""
        return self._writer.written


def test_a_first_that_fails_opens_no_window(tape: Tape) -> None:
    """Where the first cannot be recorded the caller hears of it, and the next one is recorded, not counted."""
    writer: Any = Failing(tape)
    tape.writer = writer
    auth = Auth(bound_logger(tape), repeat_failures=LONG)
    writer.error = ArchiveError("full")
    for _ in range(2):
        with pytest.raises(ArchiveError):
            auth.failure("alice")
    writer.error = None
    assert auth.failure("alice") is not None
    with pytest.raises(InvalidRecord):
        auth.failure(5)  # type: ignore[arg-type]


def test_a_count_that_fails_is_tried_again(tape: Tape, caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    """While the archive is full counts wait, with one complaint; callers go on; then each is recorded, once."""
    writer: Any = Failing(tape)
    tape.writer = writer
    auth = Auth(bound_logger(tape), repeat_failures=60)
    auth.failure("alice")
    auth.failure("alice")
    writer.error = ArchiveError("full")
    with caplog.at_level(logging.WARNING, "otel_audit.sources"):
        auth.close()
        auth.close()
    assert [record.getMessage() for record in caplog.records] == [
        "counted repeats of an audit event must wait: full",
        "1 counted repeats of audit events could not be recorded yet: full",
        "1 counted repeats of audit events could not be recorded yet: full",
    ]
    writer.error = None
    auth.failure("bob")
    auth.failure("bob")
    auth.close()
    assert total(tape) == 4


def test_while_a_provider_ends_nothing_is_counted(tape: Tape) -> None:
    """Once a shutdown has begun each event is recorded: nobody would record a count any more."""
    auth = Auth(bound_logger(tape), repeat_failures=LONG)
    tape.ending = True
    assert [auth.failure("alice") is not None for _ in range(3)] == [True] * 3


def test_threads(tape: Tape) -> None:
    """Over many threads, with windows ending and counts recorded in between, the records tell of each event."""
    auth = Auth(bound_logger(tape), repeat_failures=LONG)

    def work() -> None:
        for number in range(2_000):
            auth.failure(f"user{number % 7}")
            if number % 97 == 0:
                assert auth._failures is not None
                auth._failures.flush()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    auth.close()
    assert total(tape) == 8_000
    assert len(tape.written) < 8_000


def test_no_threads_left(tape: Tape, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where no thread can be started the counts wait for a later event or the shutdown."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    auth = Auth(bound_logger(tape), repeat_failures=LONG)
    assert auth.failure("alice") is not None
    assert auth.failure("alice") is None
    auth.close()
    assert total(tape) == 2
    assert "no thread can be started" in caplog.text


@given(st.lists(st.tuples(st.sampled_from(HOSTILE_TEXTS[:8]), st.integers(0, 40)), max_size=40))
def test_no_event_vanishes(events: list[tuple[str, int]]) -> None:
    """Whatever names come at whatever times, records and counts together tell of each event of each name."""
    tape = Tape()
    clock: Any = vars(repeats)["time"]
    assert isinstance(clock, Clock)
    auth = Auth(bound_logger(tape), repeat_failures=60)
    for name, pause in events:
        clock.seconds += pause
        auth.failure(name, SESSION)
    auth.close()
    assert total(tape) == len(events)
    assert len({record.record_id for record in told(tape)}) == len(tape.written)


@pytest.mark.parametrize("wrong", [0, -1, True, "60", float("nan"), float("inf"), timedelta(0)])
def test_wrong_windows_are_refused(tape: Tape, wrong: Any) -> None:
    """A window that is no length of time is refused by its option's name."""
    with pytest.raises(ConfigError, match="repeat_failures="):
        Auth(bound_logger(tape), repeat_failures=wrong)
    with pytest.raises(ConfigError, match="repeat_successes="):
        Auth(bound_logger(tape), repeat_successes=wrong)
