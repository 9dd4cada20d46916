"""The event that every contender records: the same attributes, each time another user and session."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from otel_audit.attributes import SCHEMA_VERSION_VALUE
from otel_audit.build import new_record_id
from otel_audit.logger import AuditLogger
from otel_audit.record import Receipt, Session

__all__ = ["HOST", "SOURCE", "TYPE", "Event", "aaudit", "attributes", "audit", "events"]

HOST: Final = "example.com"
SOURCE: Final = "mod_auth"
TYPE: Final = "authentication-failure"
_CUSTOM: Final = {"reason": {"condition": "not-authorized"}}
_CLIENT: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_STREAM: Final = "0123456789abcdef0123456789abcdef"


class Event(NamedTuple):
    """The values of one call; what only the library makes itself is ready for the others, outside of their time."""

    user: str
    session: str
    ip: str
    record_id: str
    sequence: int
    message: str


_numbers = itertools.count(1)


def events(count: int) -> list[Event]:
    """Return events that were never returned before."""
    made = []
    for number in itertools.islice(_numbers, count):
        user, ip = f"user-{number:08d}", f"203.0.{number // 250 % 250}.{number % 250}"
        message = f"{TYPE} (failure) {user}@{HOST} from {ip}"
        made.append(Event(user, f"c2s-{number:010x}", ip, new_record_id(time.time_ns()), number, message))
    return made


def audit(log: AuditLogger) -> Callable[[Event], Receipt]:
    """Return the call of the library."""

    def call(event: Event) -> Receipt:
        session = Session(event.session, "c2s", event.ip, _CLIENT)
        return log.audit(TYPE, user=event.user, session=session, custom=_CUSTOM)

    return call


async def aaudit(log: AuditLogger, event: Event) -> Receipt:
    """Record an event from a task."""
    session = Session(event.session, "c2s", event.ip, _CLIENT)
    return await log.aaudit(TYPE, user=event.user, session=session, custom=_CUSTOM)


def attributes(event: Event) -> dict[str, Any]:
    """Return the attributes that the library's record of this event arrives with."""
    return {
        "otel_audit.host": HOST,
        "otel_audit.source": SOURCE,
        "user.name": event.user,
        "audit.actor.id": event.user,
        "audit.actor.type": "user",
        "audit.action": "LOGIN",
        "audit.outcome": "failure",
        "audit.schema.version": SCHEMA_VERSION_VALUE,
        "session.id": event.session,
        "otel_audit.session.type": "c2s",
        "client.address": event.ip,
        "audit.source.id": event.ip,
        "audit.source.type": "ipv4",
        "user_agent.original": _CLIENT,
        "otel_audit.custom.reason.condition": "not-authorized",
        "audit.record.id": event.record_id,
        "log.record.uid": event.record_id,
        "audit.sequence.number": event.sequence,
        "audit.sequence.stream_id": _STREAM,
    }
