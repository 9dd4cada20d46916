"""The bound logger: immutable, merged with its context, its processors run and none of them can lose a record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars

from otel_audit.errors import ConfigError, InvalidRecord
from otel_audit.logger import AuditLogger
from otel_audit.record import Actor, Session, Target
from tests.recording import Tape, bound_logger


@pytest.fixture(autouse=True)
def _no_context() -> Iterator[None]:
    clear_contextvars()
    yield
    clear_contextvars()


@pytest.fixture
def tape() -> Tape:
    return Tape()


def context_of(log: AuditLogger) -> dict[str, Any]:
    return dict(structlog.get_context(log))


def test_bind_leaves_the_old_logger(tape: Tape) -> None:
    """`bind`, `unbind`, `try_unbind` and `new` return another logger and leave the old one as it is."""
    log = bound_logger(tape, user="alice", request_id="r")
    before = context_of(log)
    others = [log.bind(user="bob"), log.unbind("user"), log.try_unbind("user", "no such"), log.new(host="b.example")]
    assert context_of(log) == before
    assert [context_of(other) for other in others] == [
        {**before, "user": "bob"},
        {"source": "mod_auth", "host": "example.com", "request_id": "r"},
        {"source": "mod_auth", "host": "example.com", "request_id": "r"},
        {"source": "mod_auth", "host": "b.example"},
    ]
    assert {type(other) for other in others} == {AuditLogger}


def test_the_source_stays(tape: Tape) -> None:
    """Source and event can neither be bound nor unbound, in any way."""
    log = bound_logger(tape)
    for method in (log.bind, log.new):
        for name in ("source", "event"):
            with pytest.raises(InvalidRecord, match=f"{name}='x' cannot be bound: a logger keeps its source"):
                method(**{name: "x"})
    with pytest.raises(KeyError, match="source"):
        log.unbind("source")
    assert context_of(log.try_unbind("source"))["source"] == "mod_auth"
    assert context_of(log.new())["source"] == "mod_auth"
    log.new(host="h").audit("t")
    assert tape.record.source == "mod_auth"


def test_unbinding_what_is_not_bound(tape: Tape) -> None:
    """`unbind` raises KeyError for a value that is not bound, and `try_unbind` does not."""
    log = bound_logger(tape)
    with pytest.raises(KeyError, match="user"):
        log.unbind("user")
    assert context_of(log.try_unbind("user")) == context_of(log)


def test_bound_values_are_recorded(tape: Tape) -> None:
    """Every argument of the call can be bound instead, and any other value joins the group `context`."""
    session = Session("c2s-1", "c2s")
    bound = {
        "user": "alice", "user_id": "7", "session": session, "actor": Actor("cron", "service"), "action": "run",
        "outcome": "failure", "target": Target("o", "order"), "custom": {"g": {"f": 1}}, "message": "m", "timestamp": 5,
    }  # fmt: skip
    bound_logger(tape).bind(**bound, request_id="r").audit("t")
    record = tape.record
    assert (record.user, record.user_id, record.session) == ("alice", "7", session)
    assert (record.actor, record.action, record.outcome) == (Actor("cron", "service"), "RUN", "failure")
    assert (record.target, record.message, record.time) == (Target("o", "order"), "m", 5)
    assert record.custom == {"g": {"f": 1}, "context": {"request_id": "r"}}


def test_precedence(tape: Tape) -> None:
    """The call wins over bound values, these over the context's, and these over the provider's host."""
    tape.host = "default.example"
    log = AuditLogger(lambda: tape, (), {"source": "s"})
    log.audit("t")
    assert (tape.record.host, tape.record.user) == ("default.example", None)
    bind_contextvars(user="context", host="context.example", request_id="r1", event="no", source="no")
    log.audit("t")
    assert (tape.record.host, tape.record.user) == ("context.example", "context")
    assert (tape.record.type, tape.record.source) == ("t", "s")
    log = log.bind(user="bound", host="bound.example", request_id="r2")
    log.audit("t")
    assert (tape.record.host, tape.record.user) == ("bound.example", "bound")
    assert tape.record.custom == {"context": {"request_id": "r2"}}
    log.audit("t", user="call")
    assert tape.record.user == "call"


def test_context_variables_of_a_block(tape: Tape) -> None:
    """Context values count for as long as they are bound."""
    log = bound_logger(tape)
    with bound_contextvars(session=Session("s-1"), user="alice"):
        log.audit("t")
    assert (tape.record.user, tape.record.session) == ("alice", Session("s-1"))
    log.audit("t")
    assert (tape.record.user, tape.record.session) == (None, None)


def test_none_at_the_call_is_a_host_wide_record(tape: Tape) -> None:
    """`user=None` at the call overrides a bound user, one of the context, and so does None for other arguments."""
    bind_contextvars(user="context", session=Session("s"))
    log = bound_logger(tape, user="bound")
    log.audit("t", user=None, session=None)
    assert (tape.record.user, tape.record.session) == (None, None)
    assert tape.record.actor == Actor("mod_auth", "system")


def test_processors_run_in_order_before_the_record_is_built(tape: Tape) -> None:
    """Processors see the merged values in order, and what they return is recorded."""
    seen: list[tuple[str, Any]] = []

    def first(_logger: Any, method: str, values: Any) -> Any:
        seen.append((method, dict(values)))
        return {**values, "user": values["user"].upper()}

    def second(_logger: Any, _method: str, values: Any) -> Any:
        values["user"] += "!"
        return values

    tape.processors = (first, second)
    bind_contextvars(request_id="r")
    log = bound_logger(tape, user="alice")
    log.audit("t", action="READ")
    assert seen == [("audit", {
        "source": "mod_auth", "host": "example.com", "user": "alice", "event": "t", "action": "READ", "request_id": "r",
    })]  # fmt: skip
    assert tape.record.user == "ALICE!"
    assert context_of(log)["user"] == "alice"


def test_structlog_s_own_processors(tape: Tape) -> None:
    """structlog's processors work in the chain."""
    tape.processors = (
        structlog.processors.add_log_level,
        structlog.processors.CallsiteParameterAdder(additional_ignores=["otel_audit"]),
    )
    bound_logger(tape).audit("t")
    context = tape.record.custom["context"]
    assert context["level"] == "audit"
    assert context["func_name"] == "test_structlog_s_own_processors"


def drop(_logger: Any, _method: str, _values: Any) -> Any:
    raise structlog.DropEvent


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (drop, "the processor drop dropped an audit event: audit records are never dropped"),
        (structlog.processors.JSONRenderer(), "the processor JSONRenderer returned str: .* leave out renderers"),
        (lambda *_: None, "returned NoneType: processors of audit events return the event dictionary"),
    ],
)
def test_processors_cannot_lose_a_record(tape: Tape, processor: Any, words: str) -> None:
    """A processor that drops or renders is refused with an error that names it; nothing is recorded then."""
    tape.processors = (processor,)
    with pytest.raises(ConfigError, match=words):
        bound_logger(tape).audit("t")
    assert tape.written == []


def test_the_receipt_of_a_queued_record_holds_the_id_only(tape: Tape) -> None:
    """With durability `queued` nothing but the id is known when the call returns."""
    tape.durability = "queued"
    receipt = bound_logger(tape).audit("t")
    assert (receipt.record_id, *receipt[1:]) == (tape.record.record_id, None, None, None)


def test_the_profile_reaches_the_record(tape: Tape) -> None:
    """Profile `signal` records neither a sentence nor a severity."""
    bound_logger(tape).audit("t")
    assert tape.record.message == "t (unknown) example.com"
    assert b"INFO" in tape.otlp
    signal = Tape(profile="signal")
    bound_logger(signal).audit("t")
    assert signal.record.message is None
    assert b"INFO" not in signal.otlp


def test_a_prepared_record_is_that_of_the_call(tape: Tape) -> None:
    """`prepare` builds the record at once, with the context of then, and its function writes it."""
    log = bound_logger(tape)
    with bound_contextvars(user="alice"):
        first = log.prepare("first")
    assert tape.written == []
    log.audit("second")
    receipt = first()
    assert [record.type for record, _ in tape.written] == ["second", "first"]
    assert (tape.record.user, tape.record.record_id) == ("alice", receipt.record_id)
    assert tape.record.observed < tape.written[0][0].observed
    with pytest.raises(InvalidRecord):
        log.prepare("")
