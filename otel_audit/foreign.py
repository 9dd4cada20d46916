"""From a log record that somebody else made to an audit call: whatever it holds, it can be recorded.

The SDK's processor and the receiver read such records; both give a `ForeignLog`, so that there is one mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from opentelemetry import trace

from otel_audit import attributes as keys
from otel_audit.catalog import ActorType, Outcome
from otel_audit.record import Actor, Session, Target, address_type

__all__ = ["AUDIT_PREFIX", "GROUP", "OBSERVED", "ORIGIN", "UNNAMED", "AuditCall", "ForeignLog", "read_call"]

AUDIT_PREFIX: Final = "audit."
UNNAMED: Final = "log.audit"
"""The type of a record without an event name."""
GROUP: Final = "otel"
"""The custom group of what has no other place."""
ORIGIN: Final = "origin"
"""The custom group of what the producer of a received record, or an archive before this one, said of it."""
OBSERVED: Final = "observed_time_unix_nano"
"""The field in it of when it was observed there."""

_NOBODY: Final = frozenset({"", "anonymous", "unknown"})  # what the draft puts where the actor is not known
_GROUP_NAME = re.compile(r"[A-Za-z0-9_-]+")
_RESERVED: Final = frozenset({GROUP})
_SHOWN: Final = 64


@dataclass(slots=True, kw_only=True)
class ForeignLog:
    """A log record; each field may hold anything.

    Args:
        event_name: Its event name.
        time: When it happened, in nanoseconds.
        observed: When it was observed.
        body: Its body.
        attributes: Its attributes.
        dropped: How many attributes were lost before.
        severity_number: Its severity.
        severity_text: Likewise.
        trace_id: As a number; 0 or None for none.
        span_id: Likewise.
        trace_flags: W3C trace flags.
        scope_name: The instrumentation scope; None where there is none, or where it is kept elsewhere.
        scope_version: Its version.
        source: The component, where neither attributes nor scope name it.
    """

    event_name: Any = None
    time: Any = None
    observed: Any = None
    body: Any = None
    attributes: Mapping[Any, Any] = field(default_factory=dict)
    dropped: int = 0
    severity_number: Any = None
    severity_text: Any = None
    trace_id: Any = None
    span_id: Any = None
    trace_flags: Any = None
    scope_name: Any = None
    scope_version: Any = None
    source: str = "opentelemetry"


@dataclass(frozen=True, slots=True)
class AuditCall:
    """What to record.

    Args:
        type: The event type.
        source: The component.
        host: The host; None where the record names none.
        span: The span that it belongs to.
        arguments: Those of `AuditLogger.audit`.
        marks: What had to be altered.
    """

    type: str
    source: str
    host: str | None
    span: trace.SpanContext
    arguments: dict[str, Any]
    marks: tuple[str, ...]


def read_call(log: ForeignLog, reserved: frozenset[str] = _RESERVED) -> AuditCall:
    """Return the audit call for a log record; what has no place in it goes to the custom group ``otel``.

    Args:
        log: The log record.
        reserved: Custom groups that the record cannot fill itself: such fields stay among its other attributes.
    """
    reading = _Reading(log.attributes)
    type_ = reading.plain(log.event_name, "type")
    if not type_:
        reading.mark("type:missing")
    source = reading.text(keys.SOURCE, "source") or reading.plain(log.scope_name, "source")
    host = reading.host()
    arguments = reading.arguments()
    if isinstance(log.body, str):
        arguments["message"] = log.body
    elif log.body is not None:
        reading.rest["body"] = log.body
    reading.time(log.time, log.observed, arguments)
    span = reading.span(log.trace_id, log.span_id, log.trace_flags)
    reading.other(log)
    custom = reading.custom(reserved)
    if reading.left:
        reading.rest["attributes"] = reading.left
    if reading.rest:
        custom[GROUP] = reading.rest
    if custom:
        arguments["custom"] = custom
    return AuditCall(type_ or UNNAMED, source or log.source, host, span, arguments, tuple(dict.fromkeys(reading.marks)))


class _Reading:
    """Takes attributes one by one. What is not taken stays in `left` under its own key.

    Personal data never stays there: what privacy does to names and addresses, it does to the arguments alone.
    """

    def __init__(self, attributes: Mapping[Any, Any]) -> None:
        self.left: dict[Any, Any] = dict(attributes)
        self.rest: dict[str, Any] = {}
        self.marks: list[str] = []

    def mark(self, mark: str) -> None:
        """Note an alteration."""
        self.marks.append(mark)

    def text(self, key: str, name: str) -> str | None:
        """Take an attribute as text."""
        return self.plain(self.left.pop(key, None), name)

    def plain(self, value: Any, name: str) -> str | None:
        """Return a value as text; mark it where it was none."""
        if value is None or isinstance(value, str):
            return value
        self.mark(f"{name}:converted:{type(value).__name__[:_SHOWN]}")
        if isinstance(value, bytes):
            return value.decode(errors="backslashreplace")
        try:
            return str(value)
        except Exception:  # noqa: BLE001 - a foreign object
            return f"<{type(value).__name__[:_SHOWN]}>"

    def word(self, key: str, name: str, allowed: tuple[Any, ...]) -> Any:
        """Take an attribute that must be one of some words; None where it is none of them."""
        raw = self.left.get(key)
        value = self.text(key, name)
        if value is None:
            return None
        word = str.lower(value)
        if word in allowed:
            return word
        self.left[key] = raw
        # A mark is recorded as it is: no invalid Unicode may get into it.
        self.mark(f"{name}:unknown:{value[:_SHOWN].encode('unicode_escape').decode('ascii')}")
        return None

    def host(self) -> str | None:
        """Take the host; one that cannot be recorded is left to the default."""
        value = self.text(keys.HOST, "host")
        if value in ("", "*"):
            self.left[keys.HOST] = value
            self.mark(f"host:ignored:{value}")
            return None
        return value

    def arguments(self) -> dict[str, Any]:
        """Take what the draft and this library have attributes for."""
        known = self.left.get(keys.OUTCOME) is not None
        arguments = {
            "action": self.text(keys.ACTION, "action"),
            "outcome": self.word(keys.OUTCOME, "outcome", get_args(Outcome)) or ("unknown" if known else None),
            "session": self._session(),
            "target": self._target(),
            **self._people(),
        }
        if self.left.get(keys.SCHEMA_VERSION) == keys.SCHEMA_VERSION_VALUE:
            del self.left[keys.SCHEMA_VERSION]
        return {name: value for name, value in arguments.items() if value is not None}

    def _people(self) -> dict[str, Any]:
        user, user_id = self.text(keys.USER_NAME, "user"), self.text(keys.USER_ID, "user_id")
        actor: Any = self.text(keys.ACTOR_ID, "actor.id")
        kind = self.word(keys.ACTOR_TYPE, "actor.type", get_args(ActorType))
        if user is None:
            # Of a producer that follows the draft alone: so the record is found under the account's name.
            user = user_id or (actor if kind == "user" and actor not in _NOBODY else None)
        if kind is not None:
            actor = Actor(actor or user or "unknown", kind)
        return {"user": user, "user_id": user_id, "actor": actor}

    def _target(self) -> Target | None:
        if keys.TARGET_ID not in self.left:
            return None  # a type alone stays with the other attributes
        identity = self.text(keys.TARGET_ID, "target.id")
        return None if identity is None else Target(identity, self.text(keys.TARGET_TYPE, "target.type"))

    def _session(self) -> Session | None:
        client, origin = self.text(keys.CLIENT_ADDRESS, "session.ip"), self.text(keys.SOURCE_ID, "session.ip")
        address = origin if client is None else client
        if origin not in (None, address):
            self.mark("session.ip:second-address")  # a session has one
        if address is not None and self.left.get(keys.SOURCE_TYPE) == address_type(address):
            del self.left[keys.SOURCE_TYPE]
        session = Session(
            self.text(keys.SESSION_ID, "session.id"),
            self.text(keys.SESSION_TYPE, "session.type"),
            address,
            self.text(keys.USER_AGENT_ORIGINAL, "session.client"),
            self.text(keys.GEO_COUNTRY_ISO_CODE, "session.country"),
            self.text(keys.GEO_CONTINENT_CODE, "session.continent"),
        )
        return None if session == Session() else session

    def custom(self, reserved: frozenset[str]) -> dict[str, dict[str, Any]]:
        """Take the custom fields, ``otel_audit.custom.<group>.<field>``."""
        groups: dict[str, dict[str, Any]] = {}
        for key in [key for key in self.left if isinstance(key, str) and key.startswith(keys.CUSTOM_PREFIX)]:
            group, _, field = key.removeprefix(keys.CUSTOM_PREFIX).partition(".")
            if field and group not in reserved and _GROUP_NAME.fullmatch(group):
                groups.setdefault(group, {})[field] = self.left.pop(key)
        return groups

    def time(self, timestamp: Any, observed: Any, arguments: dict[str, Any]) -> None:
        """Take the time of the event, else that of its observation."""
        if _is_time(timestamp):
            arguments["timestamp"] = timestamp
            if observed is not None and observed != timestamp:
                self.rest["observed_timestamp"] = observed
            return
        if timestamp:
            self.mark(f"timestamp:converted:{type(timestamp).__name__[:_SHOWN]}")
            self.rest["timestamp"] = timestamp
        if _is_time(observed):
            arguments["timestamp"] = observed

    def span(self, trace_id: Any, span_id: Any, flags: Any) -> trace.SpanContext:
        """Return the span that the record belongs to."""
        try:
            span = trace.SpanContext(
                int(trace_id or 0),
                int(span_id or 0),
                is_remote=False,
                trace_flags=trace.TraceFlags(int(flags or 0) & 0xFF),
            )
        except (TypeError, ValueError, OverflowError):
            span = trace.INVALID_SPAN_CONTEXT
        if not span.is_valid and (trace_id or span_id):
            self.mark("trace_id:malformed")
            self.rest["trace"] = [trace_id, span_id]
            return trace.INVALID_SPAN_CONTEXT
        return span

    def other(self, log: ForeignLog) -> None:
        """Take what an audit record has no field for: severity, scope, the number of lost attributes."""
        if log.severity_number is not None:
            self.rest["severity_number"] = getattr(log.severity_number, "value", log.severity_number)
        if log.severity_text:
            self.rest["severity"] = log.severity_text
        if log.scope_name:
            self.rest["scope"] = log.scope_name
            if log.scope_version:
                self.rest["scope_version"] = log.scope_version
        if log.dropped:
            self.mark(f"attributes:dropped:{log.dropped}")


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
