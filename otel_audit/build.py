"""From the values of an audit call to one immutable record: refuses a programmer's error, cleans what a client sent.

Nearly all calls hold nothing that needs cleaning. `_is_plain` finds that out for all values at once; only where it says
no are they taken one by one, by `_Careful`. Both ways give the same record.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import random
import re
import sys
import time as _time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NoReturn, get_args

from otel_audit.catalog import ActorType, Catalog, EventType, Outcome
from otel_audit.clean import MARKS, Cleaner, Marks
from otel_audit.errors import InvalidRecord
from otel_audit.record import Actor, AuditRecord, Session, Target, canonical_address

__all__ = ["ARGUMENTS", "bound_values", "build_record", "named_record_id", "new_record_id"]

ARGUMENTS: Final = frozenset(
    {
        "event",
        "host",
        "source",
        "user",
        "user_id",
        "session",
        "actor",
        "action",
        "outcome",
        "target",
        "custom",
        "message",
        "timestamp",
    }
)
"""What `build_record` gives a meaning to; any other bound value goes to the custom group ``context``."""

_PLAIN: Final = frozenset({"event", "host", "source", "user", "session", "custom", "message"})
_PLAIN_NAME: Final = 63  # characters: at most 252 of the 255 bytes that a name may take
_PLAIN_TOTAL: Final = 4_096  # characters: at most the 16 KiB that a single value may take
_NAME_LIMIT: Final = 255  # the leaf keeps host and type behind one byte of length
_GROUP = re.compile(r"[A-Za-z0-9_-]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OUTCOMES = frozenset(get_args(Outcome))
_ACTOR_TYPES = frozenset(get_args(ActorType))
_MAX_TIME = 2**63 - 1
_ADDRESS_MARKS: Final = frozenset({"session.ip:truncated", "session.ip:pseudonym"})
_STR: Final = {str}
_NO_SESSION: Final = Session()

# Ids must be unique, not secret. Applications may seed the `random` module; a forked child must not repeat its parent.
_random = random.Random()  # noqa: S311
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


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
    if observed < 0:
        observed = 1  # a clock before 1970 keeps nothing from being recorded; 0 stands for no time
    get = values.get
    if _is_plain(values):
        host, source, type_, user = values["host"], values["source"], values["event"], get("user")
        session, message, custom = get("session"), get("message"), get("custom") or {}
        known = catalog[type_]
        time, action, outcome = observed, known.action, known.outcome
        actor = _default_actor(user, source, known)
        user_id = target = None
        altered: tuple[str, ...] = ()
    else:
        careful = _Careful(values)
        host, source, type_ = careful.names()
        known = catalog[type_]
        user, session, message = careful.text("user"), careful.session(), careful.text("message")
        custom = careful.custom()
        time = careful.timestamp(observed)
        action = (careful.text("action") or known.action).upper()
        outcome = careful.outcome(known)
        actor = careful.actor(user, source, known)
        user_id, target = careful.text("user_id"), careful.target()
        altered = careful.altered(user)
    if message is None and display:
        message = _sentence(type_, outcome, user, host, session)
    # Looked up, not imported: that takes a tenth of the command line's start. What nobody loaded has no span either.
    tracing: Any = sys.modules.get("opentelemetry.trace")
    span = None if tracing is None else tracing.get_current_span()
    trace_id = span_id = None
    flags = 0
    if span is not None and span is not tracing.INVALID_SPAN and (context := span.get_span_context()).is_valid:
        trace_id, span_id, flags = f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags)
    return AuditRecord(
        new_record_id(observed), time, observed, host, source, type_, actor, action, outcome, user, user_id,
        session, target, custom, message, trace_id, span_id, flags, altered,
    )  # fmt: skip


def bound_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are no argument of the call; they are recorded in the custom group ``context``."""
    return {
        key: value
        for key, value in values.items()
        if key not in ARGUMENTS and not (key == MARKS and isinstance(value, Marks))
    }


def new_record_id(nanoseconds: int) -> str:
    """Return a UUIDv7 (RFC 9562) for the given time."""
    bits = _random.getrandbits(74)
    time, chance = f"{nanoseconds // 1_000_000:012x}", f"{bits >> 2:018x}"
    return f"{time[:8]}-{time[8:]}-7{chance[:3]}-{'89ab'[bits & 3]}{chance[3:6]}-{chance[6:]}"


def named_record_id(name: str) -> str:
    """Return the UUIDv8 (RFC 9562) that a name always gives."""
    digits = hashlib.sha256(b"otel-audit/v1/record-id\0" + name.encode(errors="backslashreplace")).hexdigest()
    return (
        f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-{'89ab'[int(digits[16], 16) & 3]}{digits[17:20]}-{digits[20:32]}"
    )


def _is_plain(values: Mapping[str, Any]) -> bool:
    """Tell whether all values are of the right type and can be recorded as they are."""
    get: Any = values.get
    host, type_, user, session, custom = get("host"), get("event"), get("user"), get("session"), get("custom")
    message = get("message")
    try:
        if not values.keys() <= _PLAIN or host == "*" or user == "" or len(host) > _PLAIN_NAME:
            return False
        # None alone means "not given": 0 and False are of a wrong type.
        texts = [host, type_, get("source"), "" if user is None else user, "" if message is None else message]
        if session is not None:
            if type(session) is not Session or session == _NO_SESSION:
                return False
            address: Any = session.ip
            if address is not None and canonical_address(address) != address:
                return False
            identity, kind, _, client, country, continent = session
            if country is not None or continent is not None:
                return False
            texts += (
                "" if identity is None else identity,
                "" if kind is None else kind,
                "" if address is None else address,
                "" if client is None else client,
            )
        if custom is not None and not _add_plain_custom(custom, texts):
            return False
        if {*map(type, texts)} != _STR:
            return False  # a subclass may have methods of its own
        together = "".join(texts)
    except Exception:  # noqa: BLE001 - not all of them are text, or a foreign object failed: then one by one
        return False
    return (
        len(together) <= _PLAIN_TOTAL
        and together.isprintable()
        and len(texts) <= _PLAIN_NAME
        and 0 < len(type_) <= _PLAIN_NAME
        and len(host) > 0
        and 0 < len(texts[2]) <= _PLAIN_NAME
    )


def _add_plain_custom(custom: Mapping[str, Mapping[str, Any]], texts: list[Any]) -> bool:
    """Add all values to `texts`, and tell whether all names can stay as they are."""
    for group, fields in custom.items():
        if type(group) is not str or not _is_name(group) or not fields:
            return False
        for name, value in fields.items():
            if type(name) is not str or not _is_name(name):
                return False
            texts.append(value)
    return True


@lru_cache(4096)
def _is_name(name: str) -> bool:
    return len(name) <= _PLAIN_NAME and _GROUP.fullmatch(name) is not None


def _default_actor(user: str | None, source: str, known: EventType) -> Actor:
    if user is None:
        return Actor(source, known.actor_type or "system")
    return Actor(user or "unknown", known.actor_type or "user")


def _sentence(type_: str, outcome: str, user: str | None, host: str, session: Session | None) -> str:
    who = host if user is None else f"{user[:256]}@{host}"
    text = f"{type_} ({outcome}) {who}"
    if session is not None and session.ip is not None:
        text = f"{text} from {str(session.ip)[:256]}"
    # One line, whatever a client put into the names.
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _exact(value: str) -> Any:
    """Return a str that is one of the allowed words as a plain str, also where it came as a member of an enum."""
    return str.__str__(value)


def _refuse(name: str, value: object, remedy: str) -> NoReturn:
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - whatever the object raises, the caller must hear of its own fault
        shown = f"<{type(value).__name__}>"
    raise InvalidRecord(f"{name}={shown if len(shown) <= 80 else shown[:77] + '...'} cannot be recorded", remedy)


class _Careful:
    """Takes the values of a call one by one: refuses what is wrong, cleans and marks what is odd."""

    __slots__ = ("_cleaner", "_values")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        marks = values.get(MARKS)
        self._cleaner = Cleaner(marks if isinstance(marks, Marks) else ())

    def altered(self, user: str | None) -> tuple[str, ...]:
        """Return the marks, once all values were taken."""
        if user == "":
            self._cleaner.mark("user:empty")
        return self._cleaner.marks

    def names(self) -> tuple[str, str, str]:
        """Return host, source and type."""
        host = self._name("host", "host", "give host= to get_logger() or bind(), or set OTEL_AUDIT_HOST")
        if host == "*":
            _refuse("host", "*", "name the tenant or virtual host that the event belongs to: no record is global")
        source = self._name("source", "source", "give get_logger() the name of the recording component")
        type_ = self._name("event", "type", "give audit() an event type such as 'user.login.failure'")
        return host, source, type_

    def _name(self, key: str, name: str, remedy: str) -> str:
        value = self._values.get(key)
        if not value or not isinstance(value, str):
            _refuse(name, value, remedy)
        return self._cleaner.text(value, name, _NAME_LIMIT)

    def text(self, name: str) -> str | None:
        """Return a text."""
        return self._text(self._values.get(name), name)

    def _text(self, value: Any, name: str) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            _refuse(name, value, f"{name} must be str or None, not {type(value).__name__}")
        return self._cleaner.text(value, name)

    def outcome(self, known: EventType) -> Outcome:
        """Return the outcome."""
        given = self._values.get("outcome")
        if given is None:
            return known.outcome
        if not isinstance(given, str) or given not in _OUTCOMES:
            _refuse("outcome", given, "use 'success', 'failure' or 'unknown'")
        outcome: Outcome = _exact(given)
        return outcome

    def session(self) -> Session | None:
        """Return the session, with the address as text."""
        value = self._values.get("session")
        if value is None:
            return None
        if not isinstance(value, Session):
            _refuse("session", value, "give an otel_audit.Session")
        address = value.ip
        if isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            # Cleaned as well: the zone of an IPv6 address is any text.
            address = str(address)
        address = self._text(address, "session.ip")
        if address is not None:
            # The usual form: whoever looks for it will write it so.
            address = canonical_address(address) or address
            # A network or a pseudonym, where a processor put it there; a client cannot.
            if canonical_address(address) is None and not _ADDRESS_MARKS & {*self._cleaner.marks}:
                self._cleaner.mark("session.ip:not-an-address")
        session = Session(
            self._text(value.id, "session.id"),
            self._text(value.type, "session.type"),
            address,
            self._text(value.client, "session.client"),
            self._text(value.country, "session.country"),
            self._text(value.continent, "session.continent"),
        )
        return None if session == _NO_SESSION else session

    def actor(self, user: str | None, source: str, known: EventType) -> Actor:
        """Return the actor."""
        value = self._values.get("actor")
        if value is None:
            return _default_actor(user, source, known)
        if isinstance(value, str):
            value = Actor(value, known.actor_type or "user")
        if not isinstance(value, Actor):
            _refuse("actor", value, "give a str or an otel_audit.Actor")
        kind: Any = value.type
        if not isinstance(kind, str) or kind not in _ACTOR_TYPES:
            _refuse("actor.type", kind, "use 'user', 'service' or 'system'")
        identity = self._text(value.id, "actor.id")
        if not identity:
            self._cleaner.mark("actor.id:empty")
        return Actor(identity or "unknown", _exact(kind))

    def target(self) -> Target | None:
        """Return the target."""
        value = self._values.get("target")
        if value is None:
            return None
        if isinstance(value, str):
            value = Target(value)
        if not isinstance(value, Target):
            _refuse("target", value, "give a str or an otel_audit.Target")
        identity = self._text(value.id, "target.id")
        if not identity:
            self._cleaner.mark("target.id:empty")
        return Target(identity or "", self._text(value.type, "target.type"))

    def custom(self) -> dict[str, Any]:
        """Return the custom groups, with other bound values in the group ``context``."""
        groups = self._values.get("custom")
        extra = bound_values(self._values)
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
        return self._cleaner.custom(groups)

    def timestamp(self, observed: int) -> int:
        """Return the time of the event."""
        value = self._values.get("timestamp")
        if value is None:
            return observed
        if isinstance(value, datetime):
            if value.tzinfo is None or value.utcoffset() is None:
                _refuse("timestamp", value, "a naive datetime has no meaning elsewhere: give it a tzinfo such as UTC")
            moment = (value - _EPOCH) // _MICROSECOND * 1000
        elif not isinstance(value, int) or isinstance(value, bool):
            _refuse("timestamp", value, "give an aware datetime, or nanoseconds since the epoch as int")
        else:
            moment = int.__int__(value)
        if not 0 < moment <= _MAX_TIME:
            # It may be a client's clock: no reason to lose the record.
            # Python refuses to write out huge numbers.
            shown = str(value) if isinstance(value, datetime) else str(moment) if abs(moment) < 2**127 else "int"
            self._cleaner.mark(f"timestamp:out-of-range:{shown}")
            return observed
        if moment > observed:
            self._cleaner.mark("timestamp:future")
        return moment
