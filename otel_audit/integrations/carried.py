"""Carries what is bound in one process to another one, in a message: session, user, host, actor, trace, further values.

The text is bounded, and its reader takes it for hostile: whatever it holds, a record can be made of what was bound.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from opentelemetry import context, trace
from structlog.contextvars import bind_contextvars, get_contextvars

from otel_audit.catalog import ActorType
from otel_audit.clean import MARKS, MAX_BYTES, Cleaner, Marks
from otel_audit.integrations.values import as_name
from otel_audit.integrations.web import Bound, late_user
from otel_audit.logger import Arguments
from otel_audit.record import Actor, Session

__all__ = ["Carried", "Stay", "pack", "unpack"]

MAX_TEXT: Final = 1_024
"""Most bytes of one text."""
MAX_CONTEXT: Final = 8_192
"""Most characters of the further values together."""
MAX_NAME: Final = 128
MAX_PACKED: Final = 8 * MAX_BYTES
"""Most characters that are read at all."""

_TEXTS: Final = ("user", "user_id", "host")
_RESERVED: Final = frozenset({*Arguments.__annotations__, "host", "source", "event", MARKS})
_TRACE: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
# Not any mark: some of them mean that a processor of this process did something.
_MARK: Final = re.compile(
    r"(?:(?:user|user_id|host|actor\.id|session\.(?:id|type|ip|client|country|continent)"
    r"|custom\.context\.[A-Za-z0-9_-]{1,128}):(?:cut:\d{1,12}:[0-9a-f]{64}|escaped|converted:\w{1,128})"
    r"|custom\.context:large:\d{1,9}|user:unresolved:\w{1,128}|carried:\w{1,32})"
)


class _CarriedSpan(trace.NonRecordingSpan):
    """The span of the sender: what is left of it after a task can be told from others."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a message carried.

    Args:
        values: For structlog's context.
        span: Where the sender was in its trace.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    span: trace.SpanContext | None = None

    def bind(self) -> Stay:
        """Bind all of it, until `Stay.end`."""
        stay = Stay(Bound.now())
        bind_contextvars(**self.values)
        current = trace.get_current_span()
        left = isinstance(current, _CarriedSpan)
        # A span that other instrumentation has begun knows better.
        if left or (self.span is not None and not current.get_span_context().is_valid):
            stay.span = trace.INVALID_SPAN if self.span is None else _CarriedSpan(self.span)
            stay.token = context.attach(trace.set_span_in_context(stay.span))
        return stay


@dataclass(slots=True)
class Stay:
    """What was bound before, for the end.

    Args:
        before: It.
        span: The span that was set.
        token: What takes it back.
    """

    before: Bound
    span: trace.Span | None = None
    token: Any = None

    def end(self) -> None:
        """Bind what was bound before, and nothing else."""
        self.before.restore()
        # Where another library set a span within and has not taken it back, that one's token must work first; what
        # then remains is found by the next `Carried.bind`.
        if self.token is not None and trace.get_current_span() is self.span:
            context.detach(self.token)


def pack() -> str | None:
    """Return what is bound as ASCII text of bounded length; None where nothing is."""
    bound = get_contextvars()
    cleaner = Cleaner()
    packed: dict[str, Any] = {}
    found = dict(bound)
    if "user" not in found:
        found["user"], marks = late_user()
        for mark in marks:
            cleaner.mark(mark)
    for name in _TEXTS:
        if isinstance(value := found.get(name), str):
            packed[name] = cleaner.text(value, name, MAX_TEXT)
    if isinstance(session := found.get("session"), Session):
        packed["session"] = {
            name: cleaner.text(as_name(value, name)[0], f"session.{name}", MAX_TEXT)
            for name, value in session._asdict().items()
            if value is not None
        }
    actor = found.get("actor")
    if isinstance(actor, str):
        packed["actor"] = [cleaner.text(actor, "actor.id", MAX_TEXT)]
    elif isinstance(actor, Actor):
        packed["actor"] = [cleaner.text(as_name(actor.id, "actor.id")[0], "actor.id", MAX_TEXT), str(actor.type)]
    if further := _further(bound, cleaner):
        packed["context"] = further
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        packed["trace"] = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 0xFF:02x}"
    if not packed:
        return None
    earlier = bound.get(MARKS)
    marks = (*(earlier if isinstance(earlier, Marks) else ()), *cleaner.marks)
    if kept := [mark for mark in marks if _MARK.fullmatch(mark)]:
        packed["marks"] = kept[:64]
    return json.dumps(packed)


def _further(bound: Mapping[str, Any], cleaner: Cleaner) -> dict[str, Any]:
    """Return the values that are no argument of a call, as far as there is room."""
    kept: dict[str, Any] = {}
    room = MAX_CONTEXT
    given = {name: value for name, value in bound.items() if name not in _RESERVED}
    plain: Any
    for name, value in given.items():
        label = f"custom.context.{name}"
        if value is None or isinstance(value, (bool, int)):
            # Huge numbers are no numbers any more in other languages, and slow in this one.
            plain = value if value is None or -(2**63) <= value < 2**63 else hex(value)
        elif isinstance(value, float) and math.isfinite(value):
            plain = value
        else:
            plain, marks = as_name(value, label)
            for mark in marks:
                cleaner.mark(mark)
        if isinstance(plain, str):
            plain = cleaner.text(plain, label, MAX_TEXT)
        room -= len(json.dumps([name, plain]))
        if len(name) > MAX_NAME or room < 0:
            cleaner.mark(f"custom.context:large:{len(given)}")
            break
        kept[name] = plain
    return kept


def unpack(packed: object) -> Carried:
    """Return what a message carried; what cannot be read is left out, and marked."""
    if packed is None:
        return Carried()
    try:
        given: Any = json.loads(packed) if isinstance(packed, str) and len(packed) <= MAX_PACKED else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return Carried({MARKS: Marks(("carried:unreadable",))})
    refused: list[str] = []
    values: dict[str, Any] = {name: text for name in _TEXTS if (text := _text(given, name, refused)) is not None}
    if values.get("host") in {"", "*"}:
        refused.append(f"host:{values.pop('host')}")
    if session := _mapping(given, "session", refused):
        values["session"] = Session(*(_text(session, name, refused) for name in Session._fields))
    if actor := _actor(given.get("actor"), refused):
        values["actor"] = actor
    for name, value in list(_mapping(given, "context", refused).items())[:256]:
        # structlog keeps a name that was once bound for ever.
        if name in _RESERVED or len(name) > MAX_NAME or not isinstance(value, (str, int, float, type(None))):
            refused.append(name)
        else:
            values[name] = value
    marks = given.get("marks")
    marks = marks if isinstance(marks, list) else []
    kept = [mark for mark in marks if isinstance(mark, str) and _MARK.fullmatch(mark)]
    if refused:
        kept.append("carried:refused")
    if kept:
        values[MARKS] = Marks(kept[:65])
    return Carried(values, _span(given.get("trace")))


def _text(given: Mapping[str, Any], name: str, refused: list[str]) -> str | None:
    value = given.get(name)
    if value is None or isinstance(value, str):
        return value
    refused.append(name)
    return None


def _mapping(given: Mapping[str, Any], name: str, refused: list[str]) -> Mapping[str, Any]:
    value = given.get(name, {})
    if isinstance(value, dict):
        return value
    refused.append(name)
    return {}


def _actor(given: object, refused: list[str]) -> Actor | str | None:
    match given:
        case None:
            return None
        case [str(identity)]:
            return identity
        case [str(identity), str(kind)] if kind in get_args(ActorType):
            actor_type: Any = kind
            return Actor(identity, actor_type)
    refused.append("actor")
    return None


def _span(given: object) -> trace.SpanContext | None:
    match = _TRACE.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        return None
    flags = trace.TraceFlags(int(match[3], 16))
    span = trace.SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=flags)
    return span if span.is_valid else None
