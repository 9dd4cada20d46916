"""A log record of the SDK becomes an audit call, whatever it holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LogRecordLimits, ReadWriteLogRecord
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_audit.foreign import AuditCall
from otel_audit.integrations.otel_fields import audit_call
from otel_audit.record import Actor, AuditRecord, Session, Target
from tests.recording import Tape, bound_logger, texts, values

SCOPE = InstrumentationScope("shop.orders", "1.2")


def emitted(limits: LogRecordLimits | None = None, **fields: Any) -> ReadWriteLogRecord:
    """Return a log record as the SDK gives it to processors."""
    return ReadWriteLogRecord(
        LogRecord(**{"event_name": "order.deleted", **fields}),
        instrumentation_scope=SCOPE,
        limits=limits or LogRecordLimits(),
    )


def called(**attributes: Any) -> AuditCall:
    """Return the audit call for attributes, ``__`` standing for dots."""
    return audit_call(emitted(attributes={key.replace("__", "."): value for key, value in attributes.items()}))


def recorded(call: AuditCall) -> AuditRecord:
    """Record an audit call on a tape."""
    tape = Tape()
    bound_logger(tape).audit(call.type, **call.arguments)
    return tape.record


def test_every_field_has_its_place() -> None:
    """Attributes of the draft and of this library become the arguments that they were made from."""
    call = called(
        otel_audit__host="a.example", otel_audit__source="billing", user__name="alice", user__id="7",
        audit__actor__id="cron", audit__actor__type="service", audit__action="DELETE", audit__outcome="failure",
        audit__target__id="o-1", audit__target__type="order", session__id="s-1", otel_audit__session__type="http",
        client__address="203.0.113.7", audit__source__id="203.0.113.7", audit__source__type="ipv4",
        user_agent__original="curl", geo__country__iso_code="DE", geo__continent__code="EU",
        otel_audit__custom__reason__condition="x", otel_audit__custom__reason__codes=[1, 2],
        audit__schema__version="0.1.0",
    )  # fmt: skip
    assert (call.type, call.host, call.source, call.marks) == ("order.deleted", "a.example", "billing", ())
    assert call.arguments.pop("timestamp") > 0
    assert call.arguments == {
        "user": "alice",
        "user_id": "7",
        "actor": Actor("cron", "service"),
        "action": "DELETE",
        "outcome": "failure",
        "target": Target("o-1", "order"),
        "session": Session("s-1", "http", "203.0.113.7", "curl", "DE", "EU"),
        "custom": {
            "reason": {"condition": "x", "codes": (1, 2)},
            "otel": {"scope": "shop.orders", "scope_version": "1.2"},
        },
    }


def test_what_has_no_place_is_kept() -> None:
    """Body, severity, scope, time of observation and foreign attributes go to the group `otel`, with their types."""
    record = emitted(
        timestamp=5, observed_timestamp=7, severity_number=SeverityNumber.WARN, severity_text="WARN",
        body={"n": [1, "a"]}, attributes={
            "audit.action": "x", "http.request.method": "GET", "n": 1.5, "audit.record.id": "r", "m": {"a": True},
        },
    )  # fmt: skip
    call = audit_call(record)
    assert call.arguments["timestamp"] == 5
    assert call.arguments["custom"] == {
        "otel": {
            "body": {"n": [1, "a"]},
            "observed_timestamp": 7,
            "severity_number": 13,
            "severity": "WARN",
            "scope": "shop.orders",
            "scope_version": "1.2",
            "attributes": {"http.request.method": "GET", "n": 1.5, "audit.record.id": "r", "m": {"a": True}},
        }
    }


def test_the_time_of_observation_stands_in() -> None:
    """A record without a time of its own happened when it was observed; a body that is text is the message."""
    call = audit_call(emitted(observed_timestamp=9, body="Order deleted"))
    assert (call.arguments["timestamp"], call.arguments["message"]) == (9, "Order deleted")


@pytest.mark.parametrize(
    ("attributes", "user"),
    [
        ({"user.name": "alice", "user.id": "7", "audit.actor.id": "bob", "audit.actor.type": "user"}, "alice"),
        ({"user.id": "7", "audit.actor.id": "bob", "audit.actor.type": "user"}, "7"),
        ({"audit.actor.id": "bob", "audit.actor.type": "USER"}, "bob"),
        ({"audit.actor.id": "anonymous", "audit.actor.type": "user"}, None),
        ({"audit.actor.id": "cron", "audit.actor.type": "service"}, None),
        ({"audit.actor.id": "cron"}, None),
        ({"user.name": "", "user.id": "7"}, ""),
    ],
)
def test_whom_a_record_is_attached_to(attributes: dict[str, Any], user: str | None) -> None:
    """The user is the name, else the id, else an actor who is a user and known."""
    assert audit_call(emitted(attributes=attributes)).arguments.get("user") == user


@pytest.mark.parametrize(
    ("attributes", "mark"),
    [
        ({"user.name": 42}, "user:converted:int"),
        ({"client.address": b"\xff"}, "session.ip:converted:bytes"),
        ({"client.address": "192.0.2.1", "audit.source.id": "192.0.2.2"}, "session.ip:second-address"),
        ({"audit.outcome": "good\ud800"}, "outcome:unknown:good\\ud800"),
        ({"audit.actor.type": "robot"}, "actor.type:unknown:robot"),
        ({"otel_audit.host": "*"}, "host:ignored:*"),
        ({"audit.target.id": ["a"]}, "target.id:converted:tuple"),
    ],
)
def test_malformed_attributes_are_marked(attributes: dict[str, Any], mark: str) -> None:
    """An attribute of a wrong type or value is recorded as well as it can be, and marked."""
    call = audit_call(emitted(attributes=attributes))
    assert call.marks == (mark,)
    assert recorded(call).type == "order.deleted"


def test_an_unknown_outcome_is_no_success() -> None:
    """Where the outcome is no word of the draft, the catalog's is not claimed, and what came is kept."""
    call = audit_call(emitted(event_name="user.login.success", attributes={"audit.outcome": "perhaps"}))
    record = recorded(call)
    assert record.outcome == "unknown"
    assert record.custom["otel"]["attributes"] == {"audit.outcome": "perhaps"}


def test_no_second_copy_of_personal_data() -> None:
    """Names and addresses are in the arguments alone, where privacy finds them."""
    call = called(user__name=42, client__address="192.0.2.1", audit__source__id="192.0.2.77", user__id=b"7")
    assert "attributes" not in call.arguments["custom"]["otel"]


def test_a_record_without_a_name() -> None:
    """Without an event name the type says so, and a mark too."""
    call = audit_call(emitted(event_name=None))
    assert (call.type, call.marks) == ("log.audit", ("type:missing",))


def test_lost_attributes_are_noted() -> None:
    """What the SDK's limits dropped before a processor could see it is counted in a mark."""
    with pytest.warns(UserWarning, match="dropped due to limits"):
        record = emitted(LogRecordLimits(max_log_record_attributes=2), attributes={"audit.action": "x", "a": 1, "b": 2})
    assert "attributes:dropped:1" in audit_call(record).marks


@pytest.mark.parametrize(
    "ids", [(1 << 128, 1, 0), (-1, 1, 0), ("x", 1, 0), (1, 0, 0), (float("inf"), 1, 0), (1, 1, "x")]
)
def test_malformed_trace_ids(ids: tuple[Any, Any, Any]) -> None:
    """Ids that are none are marked, and the record is outside of any trace."""
    record = emitted()
    record.log_record.trace_id, record.log_record.span_id, record.log_record.trace_flags = ids
    call = audit_call(record)
    assert not call.span.is_valid
    assert call.marks == ("trace_id:malformed",)


def test_flags_out_of_range() -> None:
    """Of flags that do not fit, what fits is kept."""
    record = emitted()
    record.log_record.trace_id, record.log_record.span_id = 1, 2
    record.log_record.trace_flags = -1  # type: ignore[assignment]
    assert audit_call(record).span.trace_flags == 255


KEYS = st.sampled_from(
    [
        "user.name", "user.id", "audit.actor.id", "audit.actor.type", "audit.action", "audit.outcome",
        "audit.target.id", "audit.target.type", "audit.source.id", "audit.source.type", "session.id", "client.address",
        "otel_audit.host", "otel_audit.source", "otel_audit.custom.g.f", "otel_audit.custom..",
        "otel_audit.custom.ä.f", "_altered", "event", "otel_audit.altered", "otel_audit.custom.otel.body",
        "audit.schema.version", "user_agent.original",
    ]
) | st.text(max_size=5)  # fmt: skip


@given(
    attributes=st.dictionaries(KEYS, texts() | values(), max_size=6),
    name=texts() | values(),
    body=texts() | values(),
    time=st.integers() | values(),
    severity=values(),
)
def test_nothing_that_came_keeps_a_record_from_being_recorded(
    attributes: dict[str, Any], name: Any, body: Any, time: Any, severity: Any
) -> None:
    """Whatever attributes, name, body, time and severity are, also unchecked by the SDK, a record results."""
    record = emitted()
    log_record: Any = record.log_record
    log_record.attributes, log_record.event_name, log_record.body = attributes, name, body
    log_record.timestamp, log_record.severity_number = time, severity
    assert recorded(audit_call(record)).type
