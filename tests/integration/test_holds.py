"""Legal holds: what they are for, that nothing under them goes, and that they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive import index
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.due import Found
from otel_audit.archive.holds import Hold, Holds, add_hold, load_holds, remove_hold
from otel_audit.archive.leaf import ADMINISTRATION, EVENT
from otel_audit.archive.ranges import Range, ranges_of
from otel_audit.archive.verify import verify
from otel_audit.errors import ConfigError
from otel_audit.otlp import decode
from otel_audit.record import Actor, Session, Target
from tests.archive_material import connect
from tests.retention_material import DAY, prune, pruning, record, rules, tombstones

ALL = rules({"*": "28d"})
WHO = Actor("root")

EVENTS = (
    {"type": "user.login.success", "user": "alice"},
    {"type": "user.login.success", "user": "bob", "host": "other.example"},
    {"type": "role.assigned", "user": "bob", "actor": "alice"},
    {"type": "role.removed", "user": "bob", "target": Target("alice", "user")},
    {"type": "user.login.failure", "user": "mallory", "message": "alice was here"},
    {"type": "server-started"},
)


def hold(path: Path, reason: str = "case 42", **criteria: Any) -> Hold:
    with Administration(path, b"", b"") as administration:
        return add_hold(administration, reason, WHO, {}, **criteria)


def lift(path: Path, number: str) -> Hold:
    with Administration(path, b"", b"") as administration:
        return remove_hold(administration, number, "settled", WHO, {})


def held(path: Path, *ranges: Range) -> list[Range]:
    connection = connect(path)
    return load_holds(connection).ranges(connection, ranges or [(1, 100)])


@pytest.fixture
def archive(archive_path: Path) -> Path:
    """Return an archive of six records, 50 days old."""
    record(archive_path, 50, *EVENTS)
    return archive_path


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"user": "alice"}, [(1, 1), (3, 4)]),
        ({"user": "ali"}, []),
        ({"user": "Alice"}, []),
        ({"pseudonym": "bob"}, [(2, 4)]),
        ({"user": "alice", "pseudonym": "bob"}, [(1, 4)]),
        ({"host": "other.example"}, [(2, 2)]),
        ({"type": "user.login.*"}, [(1, 2), (5, 5)]),
        ({"type": "user.login"}, []),
        ({"type": "?ser*"}, []),
        ({"user": "bob", "type": "role.*"}, [(3, 4)]),
        ({"user": "alice", "host": "other.example"}, []),
        ({"since": time.time_ns() - 60 * DAY}, [(1, 6)]),
        ({"since": time.time_ns() - 40 * DAY}, []),
        ({"until": time.time_ns() - 40 * DAY}, [(1, 6)]),
        ({"since": time.time_ns() - 60 * DAY, "until": time.time_ns() - 40 * DAY, "user": "mallory"}, [(5, 5)]),
    ],
)
def test_what_is_held(archive: Path, criteria: dict[str, Any], expected: list[Range]) -> None:
    """A record is held where each criterion is fulfilled, and stays whatever the rules say, forced or not."""
    made = hold(archive, **criteria)
    assert held(archive, (1, 6)) == expected
    connection = connect(archive)
    assert ranges_of(made.sequences(connection, [(1, 6)])) == expected
    assert held(archive, (2, 3), (5, 5)) == [
        part for part in [(max(a, 2), min(b, 3)) for a, b in expected] if part[0] <= part[1]
    ] + [(5, 5)] * any(a <= 5 <= b for a, b in expected)
    numbers = {number for first, last in expected for number in range(first, last + 1)}
    outcome = prune(archive, ALL, force=True)
    assert (outcome.held, outcome.records.total()) == (len(numbers), 6 - len(numbers))
    assert set(tombstones(archive)) == set(range(1, 7)) - numbers
    assert verify(archive).intact


def test_either_time_counts(archive: Path) -> None:
    """A hold for a time holds what happened then, and what was recorded then."""
    record(archive, 50, {**EVENTS[0], "timestamp": time.time_ns() - 90 * DAY})
    hold(archive, until=time.time_ns() - 80 * DAY)
    assert held(archive) == [(7, 7)]
    hold(archive, since=time.time_ns() - 51 * DAY, until=time.time_ns() - 49 * DAY, user="alice")
    assert held(archive) == [(1, 1), (3, 4), (7, 7)]


def test_a_hold_ends(archive: Path) -> None:
    """What was held goes when the last hold on it ended; holds and their ends stay in the archive for ever."""
    first, second = hold(archive, user="alice"), hold(archive, type="user.login.*")
    assert first.id != second.id
    assert (first.by, first.reason, first.user) == ("root", "case 42", "alice")
    with pruning(archive, ALL) as pruner:
        assert pruner.prune().held == 5
        assert lift(archive, first.id) == first
        assert pruner.prune().records.total() == 2
        lift(archive, second.id)
        assert pruner.prune().records.total() == 3
    assert prune(archive, rules({"*": "1s"})).records.total() == 0
    kinds = connect(archive).execute("SELECT type FROM record WHERE type LIKE 'audit.hold%' AND source IS NOT NULL")
    assert [row[0] for row in kinds] == ["audit.hold.added"] * 2 + ["audit.hold.removed"] * 2
    assert verify(archive).intact


def test_a_hold_that_comes_in_between(archive: Path) -> None:
    """What comes under a hold after it was found to be due is not removed."""
    with pruning(archive, ALL) as pruner:
        original = pruner._finder.find

        def find(now: int, stopping: Callable[[], bool] = lambda: False) -> Iterator[Found]:
            for found in original(now, stopping):
                if found.free:
                    hold(archive, user="alice")
                yield found

        pruner._finder.find = find  # type: ignore[method-assign]
        assert pruner.prune().records.total() == 3
    assert tombstones(archive) == [2, 5, 6]


def test_a_hold_that_ends_in_between(archive: Path) -> None:
    """What a hold kept is found by the next run of the same pruner, whenever the hold ended."""
    record(archive, 50, EVENTS[5], times=2_048)
    record(archive, 0, EVENTS[5], times=10)
    index.fold(connect(archive))
    made = [hold(archive, host="example.com")]

    def stopping() -> bool:
        # Asked before each step: the first zone has been looked through by then.
        asked.append(None)
        if made and len(asked) > 2:
            lift(archive, made.pop().id)
        return False

    asked: list[None] = []
    with pruning(archive, ALL, stopping=stopping) as pruner:
        first = pruner.prune().records.total()
        assert 0 < first < 2_054
        assert pruner.prune().records.total() == 2_054 - first
    assert verify(archive).intact


def test_holds_are_told(archive: Path) -> None:
    """Who held what, and why, is in the archive's own records."""
    made = hold(archive, "a \x1b[31mreason\0", user="alice\0", since=5)
    connection = connect(archive)
    otlp: Any = connection.execute("SELECT otlp FROM record WHERE sequence = ?", (made.sequence,)).get
    own = decode(otlp, "01932f4c-7b1e-7c3a-9d2e-0123456789ab")
    assert own.custom == {"hold": {"id": made.id, "reason": "a \x1b[31mreason\\x00", "user": "alice\\x00", "since": 5}}
    assert own.actor == WHO
    assert load_holds(connection).in_force == (made,)


def test_a_user_is_held_as_recorded(archive: Path) -> None:
    """A hostile name is held in the form in which it was recorded."""
    record(archive, 50, {"type": "user.login.failure", "user": "al\0ice"})
    hold(archive, user="al\0ice")
    assert held(archive) == [(7, 7)]


def test_events_are_no_holds(archive: Path) -> None:
    """An application that records an event of such a type neither begins nor ends a hold."""
    made = hold(archive, user="alice")
    fields = {"hold": {"id": made.id, "reason": "mine", "user": "bob"}}
    record(archive, 0, {"type": "audit.hold.removed", "custom": fields}, {"type": "audit.hold.added", "custom": fields})
    with Administration(archive, b"", b"") as administration:
        administration.append(lambda *_: [Own(EVENT, "audit.hold.removed", fields)])
    assert load_holds(connect(archive)).in_force == (made,)


def test_criteria_of_a_later_version_hold_more(archive: Path) -> None:
    """A criterion that this version does not know is left out, so that at least what is meant is held."""
    fields = {"hold": {"id": "x", "reason": "r", "host": "other.example", "session": "s-1"}}
    with Administration(archive, b"", b"") as administration:
        administration.append(lambda *_: [Own(ADMINISTRATION, "audit.hold.added", fields)])
    assert held(archive) == [(2, 2)]


def test_refreshing(archive: Path) -> None:
    """Holds are kept up with the archive, and say whether there was anything new."""
    holds, connection = Holds(), connect(archive)
    assert not holds.refresh(connection)
    made = hold(archive, user="alice")
    assert holds.refresh(connection)
    assert not holds.refresh(connection)
    assert list(holds.in_force) == [made]
    lift(archive, made.id)
    assert holds.refresh(connection)
    assert list(holds.in_force) == []
    assert holds.ranges(connection, [(1, 6)]) == []


@pytest.mark.parametrize(
    ("reason", "criteria", "complaint"),
    [("r", {}, "the hold has no criterion"), ("r", {"user": None}, "no criterion"), (" ", {"user": "a"}, "no reason")],
)
def test_holds_that_are_refused(archive: Path, reason: str, criteria: dict[str, Any], complaint: str) -> None:
    """A hold without a criterion would hold everything, and one without a reason nobody could end: both are refused."""
    with pytest.raises(ConfigError, match=complaint):
        hold(archive, reason, **criteria)
    assert load_holds(connect(archive)).in_force == ()


def test_ends_that_are_refused(archive: Path) -> None:
    """A hold that is not in force, and an end without a reason, are errors, and nothing is appended."""
    made = hold(archive, user="alice")
    lift(archive, made.id)
    count = connect(archive).execute("SELECT count(*) FROM record").get
    with pytest.raises(ConfigError, match=f"no hold '{made.id}' is in force"):
        lift(archive, made.id)
    with Administration(archive, b"", b"") as administration, pytest.raises(ConfigError, match="no reason"):
        remove_hold(administration, made.id, "", WHO, {})
    assert connect(archive).execute("SELECT count(*) FROM record").get == count


def test_an_address_is_no_criterion_by_accident(archive: Path) -> None:
    """A name that only a text of the record holds does not put it under the user's hold."""
    record(
        archive, 50, {"type": "user.login.failure", "user": "eve", "session": Session("alice", "http", "203.0.113.9")}
    )
    hold(archive, user="alice")
    assert held(archive) == [(1, 1), (3, 4)]
