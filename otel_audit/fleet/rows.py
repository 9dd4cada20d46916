"""Makes records of the rows of a log table: what the exporter turned into text stays text."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from otel_audit import attributes as keys
from otel_audit.otlp import LogFields, encode_resource, encode_scope
from otel_audit.protobuf import delimited, varint
from otel_audit.record import Value

__all__ = ["COLUMNS", "Found", "read_found"]

COLUMNS: Final = (
    "toUnixTimestamp64Nano(Timestamp), TraceId, SpanId, TraceFlags, SeverityText, SeverityNumber, Body,"
    " ResourceAttributes, ScopeName, ScopeVersion, LogAttributes, EventName"
)
_ADDED: Final = (keys.RECORD_ID, keys.LOG_RECORD_UID, keys.SEQUENCE_NUMBER, keys.SEQUENCE_STREAM_ID)
"""Attributes that shipping adds to the stored bytes."""
_FIXED: Final = struct.Struct("<Q")
_DIGITS: Final = re.compile(r"[0-9a-fA-F]{32}")
_HALF: Final = re.compile(r"[0-9a-fA-F]{16}")
_END: Final = 2**63


class Found(NamedTuple):
    """A row of a log table.

    Args:
        record_id: The record's id.
        sequence: Its position in its archive; 0 where it cannot be read.
        stream_id: The archive's id.
        log: What the row holds otherwise, without these.
        severity_text: The severity's name.
        resource: The attributes of the resource.
        scope: Name and version of the instrumentation scope.
    """

    record_id: str
    sequence: int
    stream_id: str
    log: LogFields
    severity_text: str
    resource: Mapping[str, str]
    scope: tuple[str, str]

    @property
    def otlp(self) -> bytes:
        """The bytes of a ``LogRecord`` that holds what the row does."""
        log = self.log
        # An attribute of a record is encoded as a resource's, but for the number of the field.
        pairs = [b"\x32" + encode_resource({key: value})[1:] for key, value in log.attributes.items()]
        return b"".join((
            b"\x09", _FIXED.pack(log.time & 0xFFFF_FFFF_FFFF_FFFF),
            b"\x59", _FIXED.pack(log.observed),
            b"\x10" + varint(log.severity) if log.severity > 0 else b"",
            delimited(3, self.severity_text.encode()) if self.severity_text else b"",
            b"" if log.body is None else delimited(5, delimited(1, str(log.body).encode())),
            *pairs,
            b"\x45" + log.flags.to_bytes(4, "little") if log.flags else b"",
            delimited(9, bytes.fromhex(log.trace_id)) if _DIGITS.fullmatch(log.trace_id) else b"",
            delimited(10, bytes.fromhex(log.span_id)) if _HALF.fullmatch(log.span_id) else b"",
            delimited(12, log.event_name.encode()),
        ))  # fmt: skip

    @property
    def header(self) -> tuple[bytes, bytes]:
        """The OTLP bytes of ``Resource`` and ``InstrumentationScope``."""
        return encode_resource(self.resource), encode_scope(*self.scope)


def read_found(row: Sequence[Any]) -> Found:
    """Return what a row of `COLUMNS` holds.

    The exporter does not keep when a record was observed: its id tells that, to the millisecond.
    """
    time, trace, span, flags, severity_text, severity, body, resource, scope, version, logged, event = row
    attributes: dict[str, Value] = {key: value for key, value in logged.items() if key not in _ADDED}
    if keys.ALTERED in attributes:
        attributes[keys.ALTERED] = _list(str(attributes[keys.ALTERED]))
    record_id = str(logged.get(keys.RECORD_ID, ""))
    number = str(logged.get(keys.SEQUENCE_NUMBER, ""))
    sequence = int(number) if number.isdecimal() and len(number) < 20 else 0
    log = LogFields(
        time=time,
        observed=_called(record_id) or time,
        event_name=event,
        # A record of the strict profile has no severity, and may have no body.
        body=None if not body and not severity else body,
        severity=severity,
        trace_id=trace,
        span_id=span,
        flags=flags,
        attributes=attributes,
    )
    return Found(
        record_id,
        sequence if sequence < _END else 0,
        str(logged.get(keys.SEQUENCE_STREAM_ID, "")),
        log,
        severity_text,
        resource,
        (scope, version),
    )


def _list(text: str) -> Value:
    """Return the list of texts that the exporter wrote as JSON."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return (text,)
    return tuple(map(str, items)) if isinstance(items, list) else (text,)


def _called(record_id: str) -> int:
    """Return the time that a UUIDv7 begins with, in nanoseconds; 0 where it is none."""
    digits = record_id.replace("-", "")
    if not _DIGITS.fullmatch(digits) or digits[12] != "7":
        return 0
    time = int(digits[:12], 16) * 1_000_000
    return time if time < _END else 0
