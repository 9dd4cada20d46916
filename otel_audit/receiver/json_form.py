"""Reads OTLP requests in JSON, as the specification has it: ids in hex, 64-bit numbers as text, bytes in base64.

Names are accepted in both forms that protobuf's JSON allows, ``resourceLogs`` and ``resource_logs``; unknown ones are
ignored. What a client of the producer can choose never makes a request malformed: text that is no Unicode, numbers of
any length, values nested to any depth.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from otel_audit.foreign import ForeignLog
from otel_audit.receiver.messages import DEEPEST, Counted, LogGroup, Malformed, trace_number

__all__ = ["read_json"]

# The last quote may be missing: else a text without it would be looked through again from each of its quotes.
_TOKENS: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_LEVELS: Final = 200
"""Levels of JSON that are kept of a text which nests too deeply for the parser; a value takes at most four a level."""
_LONGEST: Final = 400
"""Longest number in digits; Python refuses to read those of thousands."""


def read_json(body: bytes, counted: Counted) -> list[LogGroup]:
    """Return what an ``ExportLogsServiceRequest`` in JSON holds.

    Args:
        body: The text.
        counted: Counts the records.

    Raises:
        Malformed: It is no such text.
        Oversized: It holds too many records.
    """
    text = body.decode("utf-8-sig", "surrogateescape")
    try:
        try:
            request = _parsed(text)
        except RecursionError:
            request = _parsed(_shallow(text))
        return [
            group
            for resource_logs in _objects(_object(request), "resourceLogs")
            for group in _resource_logs(resource_logs, counted)
        ]
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is no ExportLogsServiceRequest in JSON: {error}") from None


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST else digits


def _shallow(text: str) -> str:
    """Return a JSON text without what nests too deeply: ``null`` stands there."""
    parts, depth, start = [], 0, 0
    for token in _TOKENS.finditer(text):
        sign = token.group()
        if sign in {"[", "{"}:
            depth += 1
            if depth == _LEVELS + 1:
                parts.append(text[start : token.start()])
        elif sign in {"]", "}"}:
            if depth == _LEVELS + 1:
                parts.append("null")
                start = token.end()
            depth -= 1
    if depth:
        raise ValueError("it ends within a value")
    return "".join((*parts, text[start:]))


def _resource_logs(message: dict[str, Any], counted: Counted) -> Iterator[LogGroup]:
    attributes = _attributes(_object(_get(message, "resource")))
    schema = _text(_get(message, "schemaUrl"))
    for scope_logs in _objects(message, "scopeLogs"):
        counted.group()
        scope = _object(_get(scope_logs, "scope"))
        group = LogGroup(
            attributes,
            _text(_get(scope, "name")),
            _text(_get(scope, "version")),
            _attributes(scope),
            {"resource_schema_url": schema} if schema else {},
        )
        if url := _text(_get(scope_logs, "schemaUrl")):
            group.schemas["scope_schema_url"] = url
        for record in _objects(scope_logs, "logRecords"):
            counted.one()
            group.logs.append(_log(record))
        yield group


def _log(record: dict[str, Any]) -> ForeignLog:
    body = _get(record, "body")
    return ForeignLog(
        event_name=_text(_get(record, "eventName")),
        time=_number(_get(record, "timeUnixNano")),
        observed=_number(_get(record, "observedTimeUnixNano")),
        body=None if body is None else _any(_object(body), 0),
        attributes=_attributes(record),
        dropped=_number(_get(record, "droppedAttributesCount")),
        # An enumeration may be given by its name.
        severity_number=_get(record, "severityNumber") or None,
        severity_text=_text(_get(record, "severityText")),
        trace_id=_identity(_get(record, "traceId"), 16),
        span_id=_identity(_get(record, "spanId"), 8),
        trace_flags=_number(_get(record, "flags")),
    )


def _attributes(message: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    return dict(_pair(pair, depth) for pair in _objects(message, "attributes"))


def _pair(pair: dict[str, Any], depth: int) -> tuple[str, Any]:
    value = _get(pair, "value")
    return _text(_get(pair, "key")), None if value is None else _any(_object(value), depth)


def _any(value: dict[str, Any], depth: int) -> Any:
    for name, read in _READERS.items():
        if (found := _get(value, name)) is not None:
            return read(found, depth)
    return None


def _array(value: Any, depth: int) -> tuple[Any, ...]:
    if depth >= DEEPEST:
        return ()
    return tuple(_any(item, depth + 1) for item in _objects(_object(value), "values"))


def _map(value: Any, depth: int) -> dict[str, Any]:
    if depth >= DEEPEST:
        return {}
    return dict(_pair(pair, depth + 1) for pair in _objects(_object(value), "values"))


def _boolean(value: Any, _depth: int) -> bool:
    if not isinstance(value, bool):
        raise ValueError("a boolValue is no boolean")  # noqa: TRY004 - a fault of the message
    return value


def _double(value: Any, _depth: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("a doubleValue is no number")  # noqa: TRY004 - a fault of the message
    try:
        # "NaN", "Infinity" and "-Infinity" are text.
        return float(value)
    except OverflowError:
        return float("inf" if int(value) > 0 else "-inf")


def _base64(value: Any, _depth: int) -> bytes:
    text = _text(value)
    # Both alphabets, with or without padding.
    return base64.b64decode(text.translate(_URL_SAFE) + "=" * (-len(text) % 4), validate=True)


_URL_SAFE: Final = str.maketrans("-_", "+/")
_READERS: Final[dict[str, Callable[[Any, int], Any]]] = {
    "stringValue": lambda value, _: _text(value),
    "intValue": lambda value, _: _number(value),
    "boolValue": _boolean,
    "doubleValue": _double,
    "arrayValue": _array,
    "kvlistValue": _map,
    "bytesValue": _base64,
}


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter.group().lower()}", name)


_SNAKE: Final = {
    name: _snake(name)
    for name in (
        "resourceLogs", "scopeLogs", "logRecords", "schemaUrl", "eventName", "timeUnixNano", "observedTimeUnixNano",
        "droppedAttributesCount", "severityNumber", "severityText", "traceId", "spanId", *_READERS,
    )
}  # fmt: skip


def _get(message: dict[str, Any], name: str) -> Any:
    found = message.get(name)
    return message.get(_SNAKE.get(name, name)) if found is None else found


def _object(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("something else stands where an object is to stand")  # noqa: TRY004 - a fault of the message
    return value


def _objects(message: dict[str, Any], name: str) -> list[dict[str, Any]]:
    values = _get(message, name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"{name} is no list of objects")
    return values


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("a text is none")  # noqa: TRY004 - a fault of the message
    return value


def _number(value: Any) -> int:
    """Return a number that may be given as text, as those of 64 bits are."""
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or len(str(value)) > _LONGEST:
        raise ValueError("a whole number is none")
    return int(value)


def _identity(value: Any, size: int) -> int | str | None:
    text = _text(value)
    try:
        return trace_number(bytes.fromhex(text), size)
    except ValueError:
        return f"0x{text[:64]}"
