"""From the values of an audit call to one frozen record: refuses a programmer's error, cleans what a client sent."""

from __future__ import annotations

import ipaddress
import os
import re
import time as _time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, get_args

from opentelemetry import trace

from otel_audit.catalog import ActorType, Catalog, EventType, Outcome
from otel_audit.clean import Cleaner
from otel_audit.errors import InvalidRecord
from otel_audit.record import Actor, AuditRecord, Session, Target, address_type

__all__ = ["ARGUMENTS", "build_record", "new_record_id"]

ARGUMENTS: Final = frozenset({
    "event", "host", "source", "user", "user_id", "session", "actor", "action", "outcome", "target", "custom",
    "message",
    "timestamp",
})  # fmt: skip
"""What `build_record` gives a meaning to; any other bound value goes to the custom group ``context``."""

_NAME_LIMIT: Final = 255  # the leaf keeps host and type behind one byte of length
_GROUP = re.compile(r"[A-Za-z0-9_-]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OUTCOMES = frozenset(get_args(Outcome))
_ACTOR_TYPES = frozenset(get_args(ActorType))
_MAX_TIME = 2**63 - 1


def build_record(values: Mapping[str, Any], catalog: Catalog, *, display: bool = True) -> AuditRecord:
    """Return the record of an audit call.

    Args:
        values: The call's, the logger's and the context's values, merged: `ARGUMENTS`, and any others.
        catalog: Gives action, outcome and actor where the call does not.
        display: Whether a record without a message gets a display sentence for its body.

    Returns:
        The record, not committed yet.

    Raises:
        InvalidRecord: The call is wrong: no host, host ``*``, no source, no type, a wrong argument type, …
    """
    observed = _time.time_ns()
    cleaner = Cleaner()
    host = _name(values.get("host"), "host", "give host= to get_logger() or bind(), or set OTEL_AUDIT_HOST", cleaner)
    if host == "*":
        _refuse("host", "*", "name the tenant or virtual host that the event belongs to; there are no global records")
    source = _name(values.get("source"), "source", "give get_logger() the name of the recording component", cleaner)
    type_ = _name(values.get("event"), "type", "give audit() an event type such as 'user.login.failure'", cleaner)
    known = catalog[type_]
    user = _text(values.get("user"), "user", cleaner)
    if user == "":
        cleaner.marks.append("user:empty")
    session = _session(values.get("session"), cleaner)
    outcome = values.get("outcome") or known.outcome
    if outcome not in _OUTCOMES:
        _refuse("outcome", outcome, "use 'success', 'failure' or 'unknown'")
    action = _text(values.get("action"), "action", cleaner)
    time = _timestamp(values.get("timestamp"), observed, cleaner)
    message = _text(values.get("message"), "message", cleaner)
    span = trace.get_current_span().get_span_context()
    return AuditRecord(
        record_id=new_record_id(observed),
        time=time,
        observed=observed,
        host=host,
        source=source,
        type=type_,
        actor=_actor(values.get("actor"), user, source, known, cleaner),
        action=action.upper() if action else known.action,
        outcome=outcome,
        user=user,
        user_id=_text(values.get("user_id"), "user_id", cleaner),
        session=session,
        target=_target(values.get("target"), cleaner),
        custom=_custom(values, cleaner),
        message=_sentence(type_, outcome, user, host, session) if message is None and display else message,
        trace_id=f"{span.trace_id:032x}" if span.is_valid else None,
        span_id=f"{span.span_id:016x}" if span.is_valid else None,
        trace_flags=int(span.trace_flags) if span.is_valid else 0,
        altered=tuple(cleaner.marks),
    )


def new_record_id(nanoseconds: int) -> str:
    """Return a UUIDv7 (RFC 9562) for the given time."""
    number = (nanoseconds // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _refuse(name: str, value: object, remedy: str) -> NoReturn:
    shown = repr(value)
    raise InvalidRecord(f"{name}={shown if len(shown) <= 80 else shown[:77] + '...'} cannot be recorded", remedy)


def _name(value: Any, name: str, remedy: str, cleaner: Cleaner) -> str:
    if not isinstance(value, str) or not value:
        _refuse(name, value, remedy)
    return cleaner.text(value, name, _NAME_LIMIT)


def _text(value: Any, name: str, cleaner: Cleaner) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        _refuse(name, value, f"{name} must be str or None, not {type(value).__name__}")
    return cleaner.text(value, name)


def _session(value: Any, cleaner: Cleaner) -> Session | None:
    if value is None:
        return None
    if not isinstance(value, Session):
        _refuse("session", value, "give an otel_audit.Session")
    address = value.ip
    if isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        address = str(address)
    elif address is not None:
        address = _text(address, "session.ip", cleaner)
        if address is not None and address_type(address) not in {"ipv4", "ipv6"}:
            cleaner.marks.append("session.ip:not-an-address")
    return Session(
        _text(value.id, "session.id", cleaner),
        _text(value.type, "session.type", cleaner),
        address,
        _text(value.client, "session.client", cleaner),
    )


def _actor(value: Any, user: str | None, source: str, known: EventType, cleaner: Cleaner) -> Actor:
    if value is None:
        if user is None:
            return Actor(source, known.actor_type or "system")
        return Actor(user or "unknown", known.actor_type or "user")
    if isinstance(value, str):
        value = Actor(value, known.actor_type or "user")
    if not isinstance(value, Actor):
        _refuse("actor", value, "give a str or an otel_audit.Actor")
    if value.type not in _ACTOR_TYPES:
        _refuse("actor.type", value.type, "use 'user', 'service' or 'system'")
    identity = _text(value.id, "actor.id", cleaner)
    if not identity:
        cleaner.marks.append("actor.id:empty")
    return Actor(identity or "unknown", value.type)


def _target(value: Any, cleaner: Cleaner) -> Target | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = Target(value)
    if not isinstance(value, Target):
        _refuse("target", value, "give a str or an otel_audit.Target")
    return Target(_text(value.id, "target.id", cleaner) or "", _text(value.type, "target.type", cleaner))


def _custom(values: Mapping[str, Any], cleaner: Cleaner) -> dict[str, Any]:
    groups = values.get("custom")
    extra = {key: value for key, value in values.items() if key not in ARGUMENTS}
    if groups is None and not extra:
        return {}
    groups = {} if groups is None else groups
    if not isinstance(groups, Mapping):
        _refuse("custom", groups, "give a mapping of groups, e.g. {'reason': {'condition': 'not-authorized'}}")
    for group, fields in groups.items():
        if not isinstance(group, str) or not _GROUP.fullmatch(group):
            _refuse("custom group", group, "group names are made of A-Z, a-z, 0-9, _ and -")
        if not isinstance(fields, Mapping):
            _refuse(f"custom[{group!r}]", fields, "each group is a mapping of fields")
    if extra:
        groups = {**groups, "context": {**extra, **groups.get("context", {})}}
    return cleaner.custom(groups)


def _timestamp(value: Any, observed: int, cleaner: Cleaner) -> int:
    if value is None:
        return observed
    if isinstance(value, datetime):
        if value.tzinfo is None or value.utcoffset() is None:
            _refuse("timestamp", value, "a naive datetime has no meaning elsewhere: give it a tzinfo such as UTC")
        value = (value - _EPOCH) // _MICROSECOND * 1000
    elif not isinstance(value, int) or isinstance(value, bool):
        _refuse("timestamp", value, "give an aware datetime, or nanoseconds since the epoch as int")
    if not 0 < value <= _MAX_TIME:
        _refuse("timestamp", value, "it must lie between 1970 and 2262")
    if value > observed:
        cleaner.marks.append("timestamp:future")
    return int(value)


def _sentence(type_: str, outcome: str, user: str | None, host: str, session: Session | None) -> str:
    who = host if user is None else f"{user[:256]}@{host}"
    text = f"{type_} ({outcome}) {who}"
    if session is not None and session.ip is not None:
        text = f"{text} from {str(session.ip)[:256]}"
    # One line, whatever a client put into the names.
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
