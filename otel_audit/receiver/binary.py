"""Reads OTLP requests in protobuf.

The generated classes refuse a whole request for one byte that is no UTF-8. That byte may be in a name that a client of
the producer chose, and would suppress all records of the request: here it becomes a surrogate, which is recorded as an
escape and marked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from otel_audit.foreign import ForeignLog
from otel_audit.protobuf import FIXED32, FIXED64, LENGTH, VARINT, fields, signed
from otel_audit.receiver.messages import DEEPEST, Counted, LogGroup, Malformed, trace_number

__all__ = ["read_binary"]

_DOUBLE: Final = struct.Struct("<d")


def read_binary(body: bytes, counted: Counted) -> list[LogGroup]:
    """Return what an ``ExportLogsServiceRequest`` holds.

    Args:
        body: The message.
        counted: Counts the records.

    Raises:
        Malformed: It is no such message.
        Oversized: It holds too many records.
    """
    try:
        return [
            group
            for number, wire, value in fields(body)
            if number == 1 and wire == LENGTH
            for group in _resource_logs(_bytes(value), counted)
        ]
    except ValueError as error:
        raise Malformed(f"the body is no ExportLogsServiceRequest: {error}") from None


def _resource_logs(message: bytes, counted: Counted) -> list[LogGroup]:
    pieces, schema, groups = [], "", []
    for number, wire, value in fields(message):
        match number, wire:
            case 1, 2:
                pieces.append(_bytes(value))  # messages that come twice are merged, which joining them does
            case 2, 2:
                groups.append(_scope_logs(_bytes(value), counted))
            case 3, 2:
                schema = _text(value)
    attributes = _attributes(b"".join(pieces), 1)
    for group in groups:
        group.resource = attributes
        if schema:
            group.schemas["resource_schema_url"] = schema
    return groups


def _scope_logs(message: bytes, counted: Counted) -> LogGroup:
    counted.group()
    group, pieces = LogGroup(), []
    for number, wire, value in fields(message):
        match number, wire:
            case 1, 2:
                pieces.append(_bytes(value))
            case 2, 2:
                counted.one()
                group.logs.append(_log(_bytes(value)))
            case 3, 2 if value:
                group.schemas["scope_schema_url"] = _text(value)
    scope = b"".join(pieces)
    group.scope = _attributes(scope, 3)
    for number, wire, value in fields(scope):
        match number, wire:
            case 1, 2:
                group.scope_name = _text(value)
            case 2, 2:
                group.scope_version = _text(value)
    return group


def _log(message: bytes) -> ForeignLog:
    attributes: dict[str, Any] = {}
    log = ForeignLog(attributes=attributes)
    for number, wire, value in fields(message):
        if number == 6 and wire == LENGTH:
            key, item = _pair(_bytes(value))
            attributes[key] = item
        elif (known := _FIELDS.get((number, wire))) is not None:
            name, read = known
            setattr(log, name, read(value))
    return log


def _attributes(message: bytes, field: int) -> dict[str, Any]:
    return dict(_pair(_bytes(value)) for number, wire, value in fields(message) if number == field and wire == LENGTH)


def _pair(message: bytes, depth: int = 0) -> tuple[str, Any]:
    key, item = "", None
    for number, wire, value in fields(message):
        if wire == LENGTH:
            if number == 1:
                key = _text(value)
            elif number == 2:
                item = _any(_bytes(value), depth)
    return key, item


def _any(message: bytes, depth: int) -> Any:
    result: Any = None
    for number, wire, value in fields(message):
        match number, wire:
            case 1, 2:
                result = _text(value)
            case 2, 0:
                result = bool(value)
            case 3, 0 if isinstance(value, int):
                result = signed(value)
            case 4, 1:
                (result,) = _DOUBLE.unpack(_bytes(value))
            case 5, 2:
                result = tuple(_items(_bytes(value), depth))
            case 6, 2:
                result = {} if depth >= DEEPEST else _map(_bytes(value), depth + 1)
            case 7, 2:
                result = value
    return result


def _items(message: bytes, depth: int) -> list[Any]:
    if depth >= DEEPEST:
        return []
    return [_any(_bytes(value), depth + 1) for number, wire, value in fields(message) if number == 1 and wire == LENGTH]


def _map(message: bytes, depth: int) -> dict[str, Any]:
    return dict(
        _pair(_bytes(value), depth) for number, wire, value in fields(message) if number == 1 and wire == LENGTH
    )


def _text(value: int | bytes) -> str:
    return _bytes(value).decode("utf-8", "surrogateescape")


def _bytes(value: int | bytes) -> bytes:
    """Return the content of a field that is no varint."""
    if isinstance(value, int):
        raise ValueError("a number where there is to be content")  # noqa: TRY004 - a fault of the message
    return value


def _fixed(value: int | bytes) -> int:
    return int.from_bytes(_bytes(value), "little")


_FIELDS: Final[dict[tuple[int, int], tuple[str, Callable[[Any], Any]]]] = {
    (1, FIXED64): ("time", _fixed),
    (2, VARINT): ("severity_number", lambda value: value or None),
    (3, LENGTH): ("severity_text", _text),
    (5, LENGTH): ("body", lambda value: _any(value, 0)),
    (7, VARINT): ("dropped", lambda value: value & 0xFFFF_FFFF),
    (8, FIXED32): ("trace_flags", _fixed),
    (9, LENGTH): ("trace_id", lambda value: trace_number(value, 16)),
    (10, LENGTH): ("span_id", lambda value: trace_number(value, 8)),
    (11, FIXED64): ("observed", _fixed),
    (12, LENGTH): ("event_name", _text),
}
"""The fields of a ``LogRecord`` but its attributes: what they are called here, and how they are read."""
