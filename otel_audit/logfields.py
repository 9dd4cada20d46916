"""What a ``LogRecord`` holds, whatever it was read from, and the record that it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from otel_audit import attributes as keys
from otel_audit.catalog import ActorType, Outcome
from otel_audit.record import Actor, AuditRecord, Session, Target, Value

__all__ = ["LogFields", "record_of"]


@dataclass(slots=True)
class LogFields:
    """What a stored ``LogRecord`` holds, with its attributes as they are.

    Args:
        time: ``time_unix_nano``.
        observed: ``observed_time_unix_nano``.
        event_name: The event type.
        body: The body.
        severity: Severity number, 0 where there is none.
        trace_id: 32 hex digits, empty outside of any trace.
        span_id: 16 hex digits, or empty.
        flags: W3C trace flags.
        attributes: The stored attributes by key.
    """

    time: int = 0
    observed: int = 0
    event_name: str = ""
    body: Value = None
    severity: int = 0
    trace_id: str = ""
    span_id: str = ""
    flags: int = 0
    attributes: dict[str, Value] = field(default_factory=dict)


def record_of(
    log: LogFields,
    record_id: str,
    *,
    sequence: int | None = None,
    integrity_hash: str | None = None,
    stream_id: str | None = None,
) -> AuditRecord:
    """Return the record that a ``LogRecord`` means.

    Args:
        log: What it holds.
        record_id: The record's id, which the stored bytes do not hold.
        sequence: Its position in the archive.
        integrity_hash: Its leaf hash, hex.
        stream_id: The archive's id.
    """
    get = log.attributes.get
    actor_type: Any = get(keys.ACTOR_TYPE)
    outcome: Any = get(keys.OUTCOME)
    target_id = get(keys.TARGET_ID)
    return AuditRecord(
        record_id=record_id,
        time=log.time,
        observed=log.observed,
        host=str(get(keys.HOST, "")),
        source=str(get(keys.SOURCE, "")),
        type=log.event_name,
        actor=Actor(str(get(keys.ACTOR_ID, "unknown")), actor_type if actor_type in _ACTOR_TYPES else "system"),
        action=str(get(keys.ACTION, "")),
        outcome=outcome if outcome in _OUTCOMES else "unknown",
        user=_optional(get(keys.USER_NAME)),
        user_id=_optional(get(keys.USER_ID)),
        session=_read_session(log.attributes),
        target=None if target_id is None else Target(str(target_id), _optional(get(keys.TARGET_TYPE))),
        custom=_read_custom(log.attributes),
        message=_optional(log.body),
        trace_id=log.trace_id or None,
        span_id=log.span_id or None,
        trace_flags=log.flags & 0xFF,
        altered=_read_marks(log.attributes),
        sequence=sequence,
        integrity_hash=integrity_hash,
        stream_id=stream_id,
        signature=_optional(get(keys.INTEGRITY_VALUE)),
    )


_ACTOR_TYPES: Final[tuple[Any, ...]] = get_args(ActorType)
_SESSION: Final = (
    keys.SESSION_ID, keys.SESSION_TYPE, keys.CLIENT_ADDRESS, keys.USER_AGENT_ORIGINAL, keys.GEO_COUNTRY_ISO_CODE,
    keys.GEO_CONTINENT_CODE,
)  # fmt: skip
_OUTCOMES: Final[tuple[Any, ...]] = get_args(Outcome)


def _optional(value: Value) -> str | None:
    return None if value is None else str(value)


def _read_session(attributes: Mapping[str, Value]) -> Session | None:
    values = [_optional(attributes.get(key)) for key in _SESSION]
    return None if all(value is None for value in values) else Session(*values)


def _read_marks(attributes: Mapping[str, Value]) -> tuple[str, ...]:
    """Return what was altered, and why there is no signature where there should be one."""
    altered, unsigned = attributes.get(keys.ALTERED), _optional(attributes.get(keys.UNSIGNED))
    marks = tuple(str(mark) for mark in altered) if isinstance(altered, tuple) else ()
    return marks if unsigned is None else (*marks, f"signature:{unsigned}")


def _read_custom(attributes: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    groups: dict[str, dict[str, Value]] = {}
    for key, value in attributes.items():
        if key.startswith(keys.CUSTOM_PREFIX):
            group, _, name = key.removeprefix(keys.CUSTOM_PREFIX).partition(".")
            groups.setdefault(group, {})[name] = value
    return groups
