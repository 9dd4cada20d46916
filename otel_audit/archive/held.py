"""One log record as a receiver holds it, and in what it differs from the archive's."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from otel_audit import attributes as keys
from otel_audit.otlp import read_log
from otel_audit.protobuf import delimited, fields
from otel_audit.record import Value

__all__ = ["ABSENT", "ADDED", "Held", "differences", "same_text"]

ADDED: Final = (keys.RECORD_ID, keys.LOG_RECORD_UID, keys.SEQUENCE_NUMBER, keys.SEQUENCE_STREAM_ID)
"""Attributes that shipping adds to the stored bytes."""
ABSENT: Final = object()
"""Stands for an attribute that is not there, where that is something else than an empty one."""


@dataclass(slots=True)
class Held:
    """One log record that a receiver holds.

    Args:
        stream_id: The archive that it says it is from.
        sequence: Its position there; what is no int is no position.
        record_id: Its id.
        time: Its time, nanoseconds since the epoch.
        log: The fields of a ``LogRecord`` that are kept there, by their names in OTLP/JSON.
        attributes: Its attributes, with the resource's where these are not kept apart.
        resource: Its resource's attributes; None: not kept apart.
        scope: Name and version of its instrumentation scope; None: not kept.
        same: Tells whether a value of the archive is what the receiver holds of it.
        absent: What an attribute counts as that is not there.
    """

    stream_id: Any
    sequence: Any
    record_id: Any
    time: int
    log: Mapping[str, Any]
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any] | None
    scope: tuple[str, str] | None
    same: Callable[[Value, Any], bool]
    absent: Any = ABSENT


def differences(held: Held, otlp: bytes, resource: bytes | None, scope: bytes) -> list[str]:
    """Return the names of what a receiver's record says otherwise than the archive's.

    Args:
        held: The receiver's.
        otlp: The archive's ``LogRecord``.
        resource: Its ``Resource``; None where the archive lacks it.
        scope: Its ``InstrumentationScope``.
    """
    if resource is None:
        return ["content"]
    try:
        stored = read_log(otlp)
        # A resource's attributes are encoded as a record's, but for the number of the field.
        pairs = [value for n, _, value in fields(resource) if n == 1 and isinstance(value, bytes)]
        own = read_log(b"".join(delimited(6, pair) for pair in pairs)).attributes
        texts = {n: value.decode() for n, _, value in fields(scope) if isinstance(value, bytes)}
        severity = next((v.decode() for n, _, v in fields(otlp) if n == 3 and isinstance(v, bytes)), "")
    except ValueError:
        return ["content"]
    expected: dict[str, Any] = {
        "timeUnixNano": stored.time, "observedTimeUnixNano": stored.observed, "severityNumber": stored.severity,
        "severityText": severity, "traceId": stored.trace_id, "spanId": stored.span_id, "flags": stored.flags,
        "eventName": stored.event_name,
    }  # fmt: skip
    differing = [name for name in expected if name in held.log and expected[name] != held.log[name]]
    if not held.same(stored.body, held.log["body"]):
        differing.append("body")
    sent = {name: value for name, value in held.attributes.items() if name not in ADDED}
    names = stored.attributes.keys() | (() if held.resource is None else sent.keys())
    differing += sorted(ascii(name)[1:-1] for name in names if _other(held, stored.attributes, sent, name))
    # Collectors add to resources: what we sent must be there, and may not be alone.
    around = sent if held.resource is None else held.resource
    differing += sorted(f"resource {ascii(name)[1:-1]}" for name in own if _other(held, own, around, name))
    if held.scope is not None and (texts.get(1, ""), texts.get(2, "")) != held.scope:
        differing.append("scope")
    return differing


def _other(held: Held, expected: Mapping[str, Value], found: Mapping[str, Any], name: str) -> bool:
    value = found.get(name, held.absent)
    return name not in expected or value is ABSENT or not held.same(expected[name], value)


def same_text(value: Value, text: Any) -> bool:
    """Tell whether a text is what a receiver makes of a value that keeps text alone.

    Numbers are compared as numbers, lists and maps as what their JSON says: receivers write them in more than one way.
    """
    match value:
        case None:
            return bool(text == "")
        case str():
            return bool(text == value)
        case bool():
            return bool(text == ("true" if value else "false"))
        case int():
            return bool(text == str(value))
        case float():
            return _same_number(value, text)
        case bytes():
            return bool(text == base64.b64encode(value).decode())
        case _:
            try:
                return _alike(_jsonable(value), json.loads(text))
            except OverflowError:
                return bool(text == "")
            except (ValueError, RecursionError):
                return False


def _same_number(value: float, text: str) -> bool:
    if not math.isfinite(value):
        names = ("NaN", "NaN") if math.isnan(value) else ("Infinity", "+Inf") if value > 0 else ("-Infinity", "-Inf")
        # The latter form is that of VictoriaLogs, and of earlier Collectors.
        return text in {names[0], f"json: unsupported value: {names[1]}"}
    try:
        number = float(text)
    except ValueError:
        return False
    return number == value and math.copysign(1, number) == math.copysign(1, value)


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two values of JSON are the same; 1 and 1.0 are, 1 and true are not."""
    match one:
        case dict():
            return (
                isinstance(other, dict)
                and one.keys() == other.keys()
                and all(_alike(item, other[name]) for name, item in one.items())
            )
        case list():
            return isinstance(other, list) and len(one) == len(other) and all(map(_alike, one, other))
        case float():
            # What has no fraction is written as an integer, of which the last digits need not be the exact ones.
            return isinstance(other, int | float) and not isinstance(other, bool) and _nearest(other) == one
        case _:
            return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _nearest(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _jsonable(value: Value) -> Any:
    """Return a value as its JSON reads.

    Raises:
        OverflowError: JSON has no such number; Go's encoder then writes nothing at all.
    """
    match value:
        case Mapping():
            return {name: _jsonable(item) for name, item in value.items()}
        case tuple():
            return [_jsonable(item) for item in value]
        case bytes():
            return base64.b64encode(value).decode()
        case float() if not math.isfinite(value):
            raise OverflowError(value)
        case _:
            return value
