"""What a message carries into another process, and that no message can keep a record from being made."""

from __future__ import annotations

import ipaddress
import json
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context, trace
from structlog.contextvars import bind_contextvars, bound_contextvars, get_contextvars

from otel_audit.clean import MARKS, Marks
from otel_audit.integrations.carried import MAX_PACKED, Carried, pack, unpack
from otel_audit.integrations.web import Requests, request_user
from otel_audit.record import Actor, AuditRecord, Session
from tests.recording import HOSTILE_TEXTS, Tape, Unprintable, bound_logger, sessions, texts, values

SESSION = Session("s-1", "http", "203.0.113.7", "curl/8", "DE", "EU")
SPAN = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))


def carried(**bound: Any) -> AuditRecord:
    """Return the record of a task that was sent where this was bound."""
    with bound_contextvars(**bound):
        packed = pack()
    return received(packed)


def received(packed: object) -> AuditRecord:
    """Return the record of a task that a message with this header started."""
    tape = Tape(processors=(request_user,), host="default.example")
    logger = bound_logger(tape).unbind("host")

    def task() -> None:
        stay = unpack(packed).bind()
        try:
            logger.audit("task")
        finally:
            stay.end()
        assert get_contextvars() == before

    before = get_contextvars()
    copy_context().run(task)
    return tape.record


def test_everything_arrives() -> None:
    """User, id, session, host, actor and further values are those of the sender, and nothing is marked."""
    record = carried(
        user="alice", user_id="7", session=SESSION, host="tenant.example", actor=Actor("root", "service"),
        request_id="r-1", tries=3, ratio=0.5, dry=True, none=None,
    )  # fmt: skip
    assert (record.user, record.user_id, record.session, record.host) == ("alice", "7", SESSION, "tenant.example")
    assert record.actor == Actor("root", "service")
    assert record.custom == {"context": {"request_id": "r-1", "tries": 3, "ratio": 0.5, "dry": True, "none": None}}
    assert record.altered == ()
    assert carried(actor="root", session=Session(ip=ipaddress.ip_address("::1"))).actor == Actor("root")


def test_nothing_is_sent_where_nothing_is_bound() -> None:
    """Without anything bound there is no header, and a message without one leaves what the worker has bound."""
    assert pack() is None
    with bound_contextvars(worker="w-1"):
        stay = unpack(None).bind()
        assert get_contextvars() == {"worker": "w-1"}
        stay.end()


def test_what_a_call_says_is_not_carried() -> None:
    """Values that describe one event stay where they are bound."""
    with bound_contextvars(outcome="failure", custom={"a": {}}, message="m", target="t", action="A", timestamp=5):
        assert pack() is None


def test_the_request_s_user_is_found() -> None:
    """A user that only the request knows is asked for when the task is sent."""
    requests = Requests[str](
        user=str.upper, session_id=None, trusted_proxies=0, proxy_header="forwarded", eager=False
    )  # fmt: skip
    with requests.bound("alice", SESSION):
        packed = pack()
    assert received(packed).user == "ALICE"
    broken: Any = Requests[str](
        user=lambda _: "" + 1,  # type: ignore[operator]
        session_id=None, trusted_proxies=0, proxy_header="forwarded", eager=False,
    )  # fmt: skip
    with broken.bound("alice", SESSION):
        packed = pack()
    assert (received(packed).user, received(packed).altered) == (None, ("user:unresolved:TypeError",))


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_texts(text: str) -> None:
    """Whatever the names hold, they arrive, cut where they are long, and marked as if recorded at once."""
    with bound_contextvars(user=text, session=Session(client=text), note=text):
        packed = pack()
    assert packed is not None
    assert packed.isascii()
    assert len(packed) < 30_000
    record = received(packed)
    assert record.user is not None
    if len(text.encode(errors="replace")) > 1_024:
        cut = [mark.rsplit(":", 2)[0] for mark in record.altered if ":cut:" in mark]
        assert cut == ["user:cut", "session.client:cut", "custom.context.note:cut"]
    # A second journey, from a task to another one, changes nothing any more.
    with bound_contextvars(**unpack(packed).values):
        packed = pack()
    again = received(packed)
    assert (again.user, again.custom, set(again.altered)) == (record.user, record.custom, set(record.altered))


@given(texts(), sessions(), st.dictionaries(st.text(max_size=200), values(), max_size=6))
def test_any_context_can_be_sent(user: str, session: Session | None, further: dict[str, Any]) -> None:
    """Whatever is bound, sending does not fail, the header is small, and the task can record."""
    names = {name: value for name, value in further.items() if name not in {"source", "event"}}

    def send() -> str | None:
        bind_contextvars(**{**names, "user": user, "session": session, "actor": "a", "custom": {}, "outcome": "x"})
        return pack()

    packed = copy_context().run(send)
    assert packed is not None
    assert len(packed) < MAX_PACKED
    assert received(packed).user is not None


def test_too_much_is_left_out_and_marked() -> None:
    """Further values take a bounded room; what has none is missed by its number."""
    record = carried(**{f"key{number}": "x" * 1_000 for number in range(50)})
    assert len(record.custom["context"]) == 8
    assert record.altered == ("custom.context:large:50",)
    assert carried(**{"n" * 129: 1, "user": "alice"}).altered == ("custom.context:large:1",)
    odd = carried(object=Unprintable(), number=2**80, nan=float("nan"))
    assert odd.custom["context"] == {"object": "<Unprintable>", "number": hex(2**80), "nan": "nan"}
    assert set(odd.altered) == {
        "custom.context.object:converted:Unprintable", "custom.context.nan:converted:float",
    }  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ("user", "user_id", "host", "session", "actor", "context", "trace", "marks")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8) | JSON)
def test_any_message_can_be_received(given_: Any) -> None:
    """Whatever a message says, the task can record, and says that something was refused where it was."""
    record = received(json.dumps(given_))
    assert record.host
    if isinstance(given_, dict) and not isinstance(given_.get("user", ""), (str, type(None))):
        assert "carried:refused" in record.altered


@pytest.mark.parametrize(
    "packed",
    ["", "{", "[]", "5", "null", "[" * 100_000, '"' + "x" * MAX_PACKED + '"', "9" * 5_000, b"{}", 5, {"user": "alice"}],
    ids=range(11),
)
def test_unreadable_messages(packed: object) -> None:
    """What is no packed text is marked, and nothing else."""
    assert received(packed).altered == ("carried:unreadable",)


def test_what_a_message_may_not_say() -> None:
    """No values of a single event, no marks that only a processor makes, no host for all, no odd actor."""
    record = received(
        json.dumps(
            {
                "user": "alice",
                "host": "*",
                "actor": ["root", "god"],
                "session": {"ip": "not an address"},
                "context": {"outcome": "success", "source": "x", MARKS: ["a"], "kept": 1, "list": []},
                "marks": ["session.ip:truncated", "user:cut:5:short", 7, "user:escaped"],
            }
        )
    )
    assert (record.user, record.host, record.source, record.outcome) == (
        "alice", "default.example", "mod_auth", "unknown",
    )  # fmt: skip
    assert record.actor == Actor("alice")
    assert record.custom == {"context": {"kept": 1}}
    assert record.altered == ("user:escaped", "carried:refused", "session.ip:not-an-address")


def test_marks_of_the_logger_stay_beside_those_of_the_message() -> None:
    """A logger with marks of its own hides none of those that were carried."""
    tape = Tape()
    logger = bound_logger(tape).bind(**{MARKS: Marks(("target:unresolved:KeyError",))})
    with bound_contextvars(**{MARKS: Marks(("user:escaped",))}):
        logger.audit("t")
    assert tape.record.altered == ("user:escaped", "target:unresolved:KeyError")


# -- Traces --


def spanned(span: trace.SpanContext) -> Any:
    return context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))


def test_the_trace_is_carried() -> None:
    """The record of a task stands in its sender's trace; afterwards there is no span."""
    token = spanned(SPAN)
    packed = pack()
    context.detach(token)
    record = received(packed)
    assert (record.trace_id, record.span_id, record.trace_flags) == (f"{0xABC:032x}", f"{0xDEF:016x}", 1)
    assert not trace.get_current_span().get_span_context().is_valid
    for bad in ("00-" + "0" * 32 + "-" + "0" * 16 + "-00", "x", 5, None):
        assert received(json.dumps({"trace": bad})).trace_id is None


def test_other_instrumentation_knows_better() -> None:
    """A span that was begun for the task stays the current one, in whatever order both begin and end."""
    other = trace.SpanContext(1, 2, is_remote=False)
    mine = Carried(span=SPAN)
    token = spanned(other)
    stay = mine.bind()
    assert trace.get_current_span().get_span_context() is other
    stay.end()
    context.detach(token)

    def crossed() -> None:
        stay = mine.bind()
        token = spanned(other)
        stay.end()
        assert trace.get_current_span().get_span_context() is other
        context.detach(token)
        # What is left over does not reach the next task.
        stay = Carried().bind()
        assert not trace.get_current_span().get_span_context().is_valid
        stay.end()

    copy_context().run(crossed)
