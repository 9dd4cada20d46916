"""An audit call becomes a record: programmers' errors are refused by name, ids and times are exact."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_audit import build as build_module
from otel_audit.build import build_record, new_record_id
from otel_audit.catalog import Catalog, EventType
from otel_audit.errors import AuditError, InvalidRecord
from otel_audit.record import Actor, AuditRecord, Session, Target
from tests.recording import Tape, bound_logger

CATALOG = Catalog()


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def build(**values: Any) -> AuditRecord:
    base = {"event": "invoice.approved", "host": "example.com", "source": "billing"}
    return build_record(base | values, CATALOG)


def without(*names: str) -> Callable[[], AuditRecord]:
    base = {"event": "t", "host": "h", "source": "s"}
    return lambda: build_record({name: value for name, value in base.items() if name not in names}, CATALOG)


@pytest.mark.parametrize(
    ("values", "argument", "remedy"),
    [
        ({"host": None}, "host=None", "OTEL_AUDIT_HOST"),
        ({"host": ""}, "host=''", "OTEL_AUDIT_HOST"),
        ({"host": "*"}, "host='*'", "virtual host"),
        ({"host": 5}, "host=5", "host="),
        ({"host": b"h"}, "host=b'h'", "host="),
        ({"source": ""}, "source=''", "get_logger()"),
        ({"source": None}, "source=None", "get_logger()"),
        ({"source": ["s"]}, "source=['s']", "get_logger()"),
        ({"event": ""}, "type=''", "event type"),
        ({"event": None}, "type=None", "event type"),
        ({"event": 7}, "type=7", "event type"),
        ({"user": 42}, "user=42", "str or None, not int"),
        ({"user": 0}, "user=0", "str or None, not int"),
        ({"user": b""}, "user=b''", "str or None, not bytes"),
        ({"user": False}, "user=False", "str or None, not bool"),
        ({"user_id": 42}, "user_id=42", "str or None, not int"),
        ({"message": 0}, "message=0", "str or None, not int"),
        ({"message": []}, "message=[]", "str or None, not list"),
        ({"action": 1}, "action=1", "str or None, not int"),
        ({"outcome": "succeeded"}, "outcome='succeeded'", "'success', 'failure' or 'unknown'"),
        ({"outcome": ""}, "outcome=''", "'success', 'failure' or 'unknown'"),
        ({"outcome": ["success"]}, "outcome=['success']", "'success', 'failure' or 'unknown'"),
        ({"outcome": True}, "outcome=True", "'success', 'failure' or 'unknown'"),
        ({"session": "c2s-1"}, "session='c2s-1'", "otel_audit.Session"),
        ({"session": ("c2s-1", None, None, None)}, "session=('c2s-1'", "otel_audit.Session"),
        ({"session": {"id": "c2s-1"}}, "session={'id'", "otel_audit.Session"),
        ({"session": Session(id=1)}, "session.id=1", "str or None, not int"),  # type: ignore[arg-type]
        ({"session": Session(id=0)}, "session.id=0", "str or None, not int"),  # type: ignore[arg-type]
        ({"session": Session(type=b"c2s")}, "session.type=b'c2s'", "str or None"),  # type: ignore[arg-type]
        ({"session": Session(ip=2130706433)}, "session.ip=2130706433", "str or None"),  # type: ignore[arg-type]
        ({"session": Session(client=[])}, "session.client=[]", "str or None"),  # type: ignore[arg-type]
        ({"actor": 1}, "actor=1", "otel_audit.Actor"),
        ({"actor": Actor(1)}, "actor.id=1", "str or None"),  # type: ignore[arg-type]
        ({"actor": Actor("a", "robot")}, "actor.type='robot'", "'user', 'service' or"),  # type: ignore[arg-type]
        ({"actor": Actor("a", ["user"])}, "actor.type=['user']", "'user', 'service' or"),  # type: ignore[arg-type]
        ({"target": 1}, "target=1", "otel_audit.Target"),
        ({"target": Target(1)}, "target.id=1", "str or None"),  # type: ignore[arg-type]
        ({"target": Target("a", 1)}, "target.type=1", "str or None"),  # type: ignore[arg-type]
        ({"custom": "reason"}, "custom='reason'", "mapping of groups"),
        ({"custom": 0}, "custom=0", "mapping of groups"),
        ({"custom": [("g", {})]}, "custom=[", "mapping of groups"),
        ({"custom": {"reason": "bad"}}, "custom['reason']='bad'", "mapping of fields"),
        ({"custom": {"a b": {}}}, "custom group='a b'", "A-Z, a-z, 0-9"),
        ({"custom": {"a.b": {"f": 1}}}, "custom group='a.b'", "A-Z, a-z, 0-9"),
        ({"custom": {"a\n": {"f": 1}}}, "custom group='a\\n'", "A-Z, a-z, 0-9"),
        ({"custom": {"": {"f": 1}}}, "custom group=''", "A-Z, a-z, 0-9"),
        ({"custom": {1: {"f": 1}}}, "custom group=1", "A-Z, a-z, 0-9"),
        ({"timestamp": dt.datetime(2026, 1, 1)}, "timestamp=datetime", "tzinfo"),  # noqa: DTZ001 - the error itself
        ({"timestamp": "2026-01-01"}, "timestamp='2026-01-01'", "aware datetime, or nanoseconds"),
        ({"timestamp": 1.5}, "timestamp=1.5", "aware datetime, or nanoseconds"),
        ({"timestamp": True}, "timestamp=True", "aware datetime, or nanoseconds"),
        ({"timestamp": dt.date(2026, 1, 1)}, "timestamp=datetime.date", "aware datetime, or nanoseconds"),
        ({"user": NoRepr()}, "user=<NoRepr>", "str or None, not NoRepr"),
    ],
)
def test_what_is_refused(values: dict[str, Any], argument: str, remedy: str) -> None:
    """A programmer's error raises InvalidRecord, which names the argument with its value, and the remedy."""
    with pytest.raises(InvalidRecord) as caught:
        build(**values)
    assert caught.value.message.startswith(argument)
    assert remedy in caught.value.hint
    assert isinstance(caught.value, (AuditError, ValueError))


@pytest.mark.parametrize("name", ["event", "host", "source"])
def test_what_is_missing_is_refused(name: str) -> None:
    """Host, source and type are required."""
    with pytest.raises(InvalidRecord, match=f"{'type' if name == 'event' else name}=None"):
        without(name)()


def test_long_values_are_not_repeated_in_errors() -> None:
    """An error shows the beginning of a long value only."""
    with pytest.raises(InvalidRecord) as caught:
        build(session="x" * 10_000)
    assert len(str(caught.value)) < 200


class Result(enum.StrEnum):
    SUCCESS = "success"


class Kind(str, enum.Enum):  # noqa: UP042 - what str() says of it differs from its text, as with older enums
    SERVICE = "service"
    ALICE = "alice"


@pytest.mark.parametrize(
    "values",
    [
        {"user": Kind.ALICE},
        {"message": Kind.ALICE},
        {"session": Session(id=Kind.ALICE)},
        {"custom": {"g": {"f": Kind.ALICE}}},
    ],
)
def test_every_text_becomes_a_plain_str(values: dict[str, Any]) -> None:
    """A subclass of str, wherever it is given, is recorded as the text that it holds, in a plain str."""
    record = build(**values)
    session = record.session or Session()
    texts = [
        record.user,
        session.id,
        record.custom.get("g", {}).get("f"),
        record.message if "message" in values else None,
    ]
    (text,) = [text for text in texts if text is not None]
    assert (text, type(text)) == ("alice", str)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"user": "x" * 16_385}, "user"),
        ({"message": "x" * 16_385}, "message"),
        ({"session": Session(client="x" * 16_385)}, "session.client"),
        ({"custom": {"g": {"f": "x" * 16_385}}}, "custom.g.f"),
    ],
)
def test_long_texts_are_cut_wherever_they_are(values: dict[str, Any], name: str) -> None:
    """A text over 16 KiB is cut and marked in every argument, also where nothing else is odd."""
    (mark,) = build(**values).altered
    assert mark.startswith(f"{name}:cut:16385:")


def test_enums_of_strings_are_their_text() -> None:
    """Members of str enums, as applications use them for outcome, actor type and names, are recorded as plain text."""
    record = build(user=Kind.ALICE, outcome=Result.SUCCESS, actor=Actor("a", Kind.SERVICE))  # type: ignore[arg-type]
    texts = (record.user, record.outcome, record.actor.type)
    assert texts == ("alice", "success", "service")
    assert {type(text) for text in texts} == {str}
    assert record.message == "invoice.approved (success) alice@example.com"
    assert record.altered == ()


@pytest.mark.parametrize(
    ("values", "actor"),
    [
        ({"user": "alice"}, Actor("alice", "user")),
        ({}, Actor("billing", "system")),
        ({"user": ""}, Actor("unknown", "user")),
        ({"user": "alice", "actor": "admin"}, Actor("admin", "user")),
        ({"actor": "admin"}, Actor("admin", "user")),
        ({"user": "alice", "actor": Actor("cron", "service")}, Actor("cron", "service")),
        ({"actor": ""}, Actor("unknown", "user")),
    ],
)
def test_the_actor(values: dict[str, Any], actor: Actor) -> None:
    """The actor is the one that is given, else the user, else the source as `system`; its id is never empty."""
    assert build(**values).actor == actor


def test_the_catalog_gives_what_the_call_does_not() -> None:
    """Action, outcome and actor type come from the event type where the call does not give them."""
    catalog = Catalog([EventType("job.failure", "RUN", "failure", "service")])
    values = {"event": "job.failure", "host": "h", "source": "cron"}
    record = build_record(values, catalog)
    assert (record.action, record.outcome, record.actor) == ("RUN", "failure", Actor("cron", "service"))
    record = build_record({**values, "actor": "bob", "action": "stop", "outcome": "success"}, catalog)
    assert (record.action, record.outcome, record.actor) == ("STOP", "success", Actor("bob", "service"))


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ({"user": ""}, ("user:empty",)),
        ({"actor": ""}, ("actor.id:empty",)),
        ({"target": ""}, ("target.id:empty",)),
        ({"session": Session(ip="no address")}, ("session.ip:not-an-address",)),
        ({"session": Session(ip="")}, ("session.ip:not-an-address",)),
        ({"session": Session(ip="1.2.3.4\x00")}, ("session.ip:escaped", "session.ip:not-an-address")),
        ({"session": Session(ip=ipaddress.ip_address("fe80::1%\ud800"))}, ("session.ip:escaped",)),
        ({"session": Session(id="\x07", client="\ud800")}, ("session.id:control", "session.client:escaped")),
        ({"message": "two\nlines"}, ("message:control",)),
        ({"timestamp": 2**62}, ("timestamp:future",)),
        ({"request id": "r\x001"}, ("custom.context.request_id:renamed", "custom.context.request_id:escaped")),
    ],
)
def test_what_a_client_sends_is_marked(values: dict[str, Any], marks: tuple[str, ...]) -> None:
    """Odd values of each argument are recorded and marked with the argument's name."""
    assert build(**values).altered == marks


def test_addresses() -> None:
    """An address may be text or an object of `ipaddress`, and is kept as text."""
    for address in ("203.0.113.7", ipaddress.ip_address("203.0.113.7")):
        record = build(session=Session(ip=address))
        assert record.session == Session(ip="203.0.113.7")
        assert record.altered == ()


def test_a_session_without_anything_is_none() -> None:
    """A session of which nothing is known is none, as it reads back from the archive."""
    assert build(session=Session()).session is None


def test_long_names_are_cut() -> None:
    """Host, source and type keep 255 bytes, which the leaf's length byte can count."""
    record = build(host="é" * 200, event="x" * 300, source="y" * 256)
    assert (record.host, record.type, record.source) == ("é" * 127, "x" * 255, "y" * 255)
    assert [mark.split(":")[:3] for mark in record.altered] == [
        ["host", "cut", "400"], ["source", "cut", "256"], ["type", "cut", "300"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "invoice.approved (unknown) example.com"),
        ({"user": "alice", "session": Session(ip="::1")}, "invoice.approved (unknown) alice@example.com from ::1"),
        ({"user": "a\nb\u202e"}, "invoice.approved (unknown) a\\nb\\u202e@example.com"),
        ({"user": "x" * 5_000}, f"invoice.approved (unknown) {'x' * 256}@example.com"),
        ({"message": "Approved."}, "Approved."),
        ({"message": ""}, ""),
    ],
)
def test_the_display_sentence(values: dict[str, Any], message: str) -> None:
    """Without a message the body is one short line, whatever a client put into its parts."""
    assert build(**values).message == message


def test_without_display_there_is_no_sentence() -> None:
    """Profile `signal` has a body only where the call gives a message."""
    values = {"event": "t", "host": "h", "source": "s"}
    assert build_record(values, CATALOG, display=False).message is None
    assert build_record({**values, "message": "m"}, CATALOG, display=False).message == "m"


def test_other_values_go_to_the_group_context() -> None:
    """Values that are no argument join the group `context`; what the call gives there wins."""
    record = build(request_id="r1", attempt=2, custom={"context": {"attempt": 3}, "g": {"f": None}})
    assert record.custom == {"context": {"request_id": "r1", "attempt": 3}, "g": {"f": None}}
    assert record.altered == ()


def test_the_caller_s_map_is_not_changed() -> None:
    """Building a record leaves the arguments as they were."""
    custom = {"g": {"a b": 1}}
    build(custom=custom, request_id="r")
    assert custom == {"g": {"a b": 1}}


ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Kiritimati"]


@given(
    st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2261, 12, 31), timezones=st.sampled_from(ZONES).map(ZoneInfo))  # noqa: DTZ001
)
def test_datetimes_of_any_zone_are_exact(moment: dt.datetime) -> None:
    """An aware datetime of any zone is recorded to the microsecond."""
    nanoseconds = build(timestamp=moment).time
    seconds, rest = divmod(nanoseconds, 10**9)
    back = dt.datetime.fromtimestamp(seconds, dt.UTC) + dt.timedelta(microseconds=rest // 1000)
    assert (back, rest % 1000) == (moment.astimezone(dt.UTC), 0)


@given(st.integers(1, 2**63 - 1))
def test_nanoseconds_are_exact(nanoseconds: int) -> None:
    """Nanoseconds are recorded as they are."""
    assert build(timestamp=nanoseconds).time == nanoseconds


def test_the_time_of_the_call_is_the_default() -> None:
    """Without a timestamp the event happened when it was recorded; both are the time of the call."""
    before = time.time_ns()
    record = build()
    assert before <= record.time == record.observed <= time.time_ns()
    earlier = build(timestamp=5)
    assert earlier.time == 5
    assert earlier.observed >= before


@settings(max_examples=50)
@given(st.integers(0, 2**48 * 10**6 - 1))
def test_record_ids_are_uuid7(nanoseconds: int) -> None:
    """A record's id is a UUID of version 7 and the RFC's variant, which begins with the milliseconds."""
    text = new_record_id(nanoseconds)
    identity = uuid.UUID(text)
    assert (str(identity), identity.version, identity.variant) == (text, 7, uuid.RFC_4122)
    assert identity.int >> 80 == nanoseconds // 10**6


def test_record_ids_are_ordered_and_unique() -> None:
    """Ids of later milliseconds sort after earlier ones, as text too; ids of one moment differ in all random bits."""
    assert new_record_id(10**6) < new_record_id(2 * 10**6) < new_record_id(10**15)
    ids = {new_record_id(10**18) for _ in range(20_000)}
    assert len(ids) == 20_000
    ones = zeros = 2**128 - 1
    for text in list(ids)[:200]:
        number = uuid.UUID(text).int
        ones, zeros = ones & number, zeros & ~number
    assert (ones | zeros) & (2**80 - 1) == 0xF << 76 | 0x3 << 62


def test_the_plain_way_gives_the_same_record() -> None:
    """A call that needs no cleaning gives the same record as one that is looked at value by value."""
    values: dict[str, Any] = {
        "user": "alice", "session": Session("c2s-1", "c2s", "203.0.113.7", "Gajim 1.9"), "message": "m",
        "custom": {"reason": {"condition": "not-authorized"}},
    }  # fmt: skip
    plain, careful = build(**values), build(**values, action=None)
    keep = {name: getattr(plain, name) for name in ("record_id", "time", "observed")}
    assert careful._replace(**keep) == plain


def test_errors_name_the_argument_through_the_logger() -> None:
    """The call itself raises, and nothing is recorded."""
    tape = Tape()
    with pytest.raises(InvalidRecord, match=r"host='\*' cannot be recorded: name the tenant"):
        bound_logger(tape, host="*").audit("t")
    assert tape.written == []


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        (0, "0"),
        (-1, "-1"),
        (2**63, "9223372036854775808"),
        pytest.param(10**5000, "int", id="huge"),
        (dt.datetime(1969, 12, 31, tzinfo=dt.UTC), "1969-12-31 00:00:00+00:00"),
        (dt.datetime(9999, 12, 31, tzinfo=dt.UTC), "9999-12-31 00:00:00+00:00"),
    ],
)
def test_a_time_out_of_range_does_not_lose_the_record(moment: Any, shown: str) -> None:
    """A time that no record can have, which may be a client's clock, is marked; the moment of recording replaces it."""
    record = build_record({"event": "t", "host": "h", "source": "s", "timestamp": moment}, Catalog())
    assert record.time == record.observed
    assert record.altered == (f"timestamp:out-of-range:{shown}",)


def test_a_usual_session_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session with nothing odd in it does not go through the slow way, value by value."""
    monkeypatch.delattr(build_module, "_Careful")
    session = Session("c2s-1", "c2s", "203.0.113.7", "Gajim 1.9")
    assert build(user="alice", session=session, custom={"reason": {"condition": "expired"}}).session is session


@pytest.mark.parametrize("name", ["country", "continent"])
def test_a_location_is_cleaned(name: str) -> None:
    """A session's location may come from a client, too: what cannot be encoded is escaped and marked."""
    record = build(session=Session("1")._replace(**{name: "D\ud800"}))
    assert record.session is not None
    assert getattr(record.session, name) == "D\\ud800"
    assert record.altered == (f"session.{name}:escaped",)


def test_a_clock_before_1970(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock stands before 1970 records all the same, as of 1970."""
    monkeypatch.setattr(build_module, "_time", SimpleNamespace(time_ns=lambda: -5))
    record = build()
    assert (record.time, record.observed) == (1, 1)
