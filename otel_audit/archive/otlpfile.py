"""Reads what the Collector's file exporter wrote: log records as OTLP/JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from otel_audit import attributes as keys
from otel_audit.archive.held import Held
from otel_audit.errors import ConfigError
from otel_audit.record import Value

__all__ = ["read_file"]

_EMPTY: Final = {
    "timeUnixNano": 0, "observedTimeUnixNano": 0, "severityNumber": 0, "severityText": "", "body": None,
    "traceId": "", "spanId": "", "flags": 0, "eventName": "",
}  # fmt: skip
_SEVERITIES: Final = {"SEVERITY_NUMBER_INFO": 9, "SEVERITY_NUMBER_WARN": 13}
"""The names that some writers give in place of the numbers, against the specification."""


def read_file(file: Path, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Iterator[Held]:
    """Iterate over the log records of a file, one line of it in memory at a time.

    Args:
        file: Lines of OTLP/JSON, or one ``ExportLogsServiceRequest`` in any layout.
        progress: Called with bytes of the file that were read, and its size.

    Raises:
        ConfigError: The file cannot be read, or is no OTLP/JSON.
    """
    for request in _requests(file, progress):
        try:
            yield from _logs(request)
        except (TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
            raise ConfigError(f"a log record cannot be read ({type(error).__name__})", _REMEDY) from error


def _requests(file: Path, progress: Callable[[int, int], None]) -> Iterator[Mapping[str, Any]]:
    """Iterate over the requests of a file."""
    done = 0
    try:
        total = file.stat().st_size
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                done += len(line)
                if not line.strip():
                    continue
                request = _object(line)
                if request is None and number == 1:
                    request, done = _object(line + lines.read()), total
                if request is None:
                    raise ConfigError(f"{file}:{number} is no OTLP/JSON", _REMEDY)
                yield request
                progress(done, total)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}", _REMEDY) from error


_REMEDY: Final = "give a file that the collector's file exporter wrote as JSON"


def _object(text: bytes) -> Mapping[str, Any] | None:
    """Return the JSON object that a text holds; None where it holds none."""
    try:
        value = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _integer(text: str) -> int | float:
    # So the Collector writes the double -0.0, whose sign an int would lose.
    return -0.0 if text == "-0" else int(text)


def _logs(request: Mapping[str, Any]) -> list[Held]:
    found = []
    for of_resource in request.get("resourceLogs") or ():
        resource = _attributes((of_resource.get("resource") or {}).get("attributes"))
        for of_scope in of_resource.get("scopeLogs") or ():
            scope = of_scope.get("scope") or {}
            names = (scope.get("name") or "", scope.get("version") or "")
            found += [_held(log, resource, names) for log in of_scope.get("logRecords") or ()]
    return found


def _held(log: Mapping[str, Any], resource: Mapping[str, Any], scope: tuple[str, str]) -> Held:
    attributes = _attributes(log.get("attributes"))
    found = {**_EMPTY, **{name: log[name] for name in _EMPTY if log.get(name) is not None}}
    found["severityNumber"] = _SEVERITIES.get(found["severityNumber"], found["severityNumber"])
    for name in ("timeUnixNano", "observedTimeUnixNano", "severityNumber", "flags"):
        found[name] = int(found[name])
    for name in ("traceId", "spanId"):
        found[name] = str(found[name]).lower()
    found["body"] = _value(found["body"] or {})
    return Held(
        attributes.get(keys.SEQUENCE_STREAM_ID),
        attributes.get(keys.SEQUENCE_NUMBER),
        attributes.get(keys.RECORD_ID),
        found["timeUnixNano"],
        found,
        attributes,
        resource,
        scope,
        _same,
    )


def _same(value: Value, found: Any) -> bool:
    return bool(_plain(value) == found)


def _plain(value: Any) -> Any:
    """Return a stored value in the form of `_value`, in which 1, 1.0 and True are different."""
    match value:
        case bool() | None | str():
            return value
        case bytes():
            return ("bytes", value)
        case float():
            return ("double", "NaN" if math.isnan(value) else repr(value))
        case Mapping():
            return ("map", {name: _plain(item) for name, item in value.items()})
        case tuple():
            return ("list", [_plain(item) for item in value])
        case _:
            return ("int", value)


def _attributes(pairs: Any) -> dict[str, Any]:
    # The identity of a record is compared as it is. What is empty is left out by the Collector, an empty name as well.
    found = {pair.get("key", ""): _value(pair.get("value") or {}) for pair in pairs or ()}
    number = found.get(keys.SEQUENCE_NUMBER)
    if isinstance(number, tuple):
        found[keys.SEQUENCE_NUMBER] = number[1]
    return found


def _value(value: Mapping[str, Any]) -> Any:
    """Return an ``AnyValue`` in OTLP/JSON as a plain value."""
    for name, item in value.items():
        match name:
            case "stringValue":
                return str(item)
            case "boolValue":
                return bool(item)
            case "intValue":
                return ("int", int(item))
            case "doubleValue":
                number = float(item)
                return ("double", "NaN" if math.isnan(number) else repr(number))
            case "bytesValue":
                return ("bytes", base64.b64decode(item))
            case "arrayValue":
                return ("list", [_value(one or {}) for one in item.get("values") or ()])
            case "kvlistValue":
                return ("map", {one.get("key", ""): _value(one.get("value") or {}) for one in item.get("values") or ()})
    return None
