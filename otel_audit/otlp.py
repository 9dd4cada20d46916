"""An audit record to OTLP bytes and back, and the framing of requests.

The bytes of a ``LogRecord`` are made once, at the call; they are stored, hashed, exported and decoded for display. What
only the commit knows (sequence, archive id) and what a column holds anyway (the record id) is appended when shipping:
concatenation is valid protobuf, and `repeated` entries simply follow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal

from otel_audit import attributes as keys
from otel_audit.logfields import LogFields, record_of
from otel_audit.protobuf import delimited, fields, signed, varint
from otel_audit.record import AuditRecord, Session, Value, address_type

__all__ = [
    "LogFields",
    "Profile",
    "decode",
    "encode",
    "encode_resource",
    "encode_scope",
    "frame",
    "read_log",
    "shipped",
]

Profile = Literal["logs", "signal"]
"""``logs``: severity, body and scope as today's backends expect them; ``signal``: the strict draft."""

_TIMES = struct.Struct("<BQBQ")  # time_unix_nano (field 1), observed_time_unix_nano (field 11)
_TRACE = struct.Struct("<BB16sBB8sBI")  # trace_id (9), span_id (10), flags (8)
_DOUBLE = struct.Struct("<d")
_MASK = (1 << 64) - 1
_DEEPEST: Final = 100
"""Deepest nesting that is read: far more than is ever written, and no more than Python's stack bears."""


def encode(record: AuditRecord, profile: Profile = "logs") -> bytes:
    """Return a record as the bytes of an OTLP ``LogRecord``."""
    actor, session, target = record.actor, record.session, record.target
    parts = [
        _TIMES.pack(0x09, record.time, 0x59, record.observed),
        _fixed(record.type, record.host, record.source, record.action, record.outcome, actor.type, profile),
        _text(keys.ACTOR_ID, actor.id),
    ]
    if record.message is not None:
        body = record.message.encode()
        parts += (_body_head(len(body)), body)
    if record.user is not None:
        parts.append(_text(keys.USER_NAME, record.user))
    if record.user_id is not None:
        parts.append(_text(keys.USER_ID, record.user_id))
    if session is not None:
        _add_session(parts, session)
    if target is not None:
        parts.append(_text(keys.TARGET_ID, target.id))
        if target.type is not None:
            parts.append(_text(keys.TARGET_TYPE, target.type))
    for group, values in record.custom.items():
        prefix = f"{keys.CUSTOM_PREFIX}{group}."
        for name, value in values.items():
            parts.append(_text(prefix + name, value) if type(value) is str else _attribute(prefix + name, value))
    if record.trace_id and record.span_id:
        trace_id, span_id = bytes.fromhex(record.trace_id), bytes.fromhex(record.span_id)
        parts.append(_TRACE.pack(0x4A, 16, trace_id, 0x52, 8, span_id, 0x45, record.trace_flags))
    if record.altered:
        parts.append(_attribute(keys.ALTERED, record.altered))
    return b"".join(parts)


@lru_cache(4096)
def _fixed(  # noqa: PLR0917 - the key of the cache
    type_: str, host: str, source: str, action: str, outcome: str, actor_type: str, profile: Profile
) -> bytes:
    """Return the part that an application's records of one kind share."""
    severity = b""
    if profile == "logs":
        number, text = (13, b"WARN") if outcome == "failure" else (9, b"INFO")
        severity = bytes((0x10, number)) + delimited(3, text)
    return b"".join((
        delimited(12, type_.encode()),
        severity,
        _text(keys.HOST, host),
        _text(keys.SOURCE, source),
        _text(keys.ACTION, action),
        _text(keys.OUTCOME, outcome),
        _text(keys.ACTOR_TYPE, actor_type),
        _text(keys.SCHEMA_VERSION, keys.SCHEMA_VERSION_VALUE),
    ))  # fmt: skip


def _add_session(parts: list[bytes], session: Session) -> None:
    identity, kind, address, client, country, continent = session
    if identity is not None:
        parts.append(_text(keys.SESSION_ID, identity))
    if kind is not None:
        parts.append(_repeated(keys.SESSION_TYPE, kind))
    if address is not None:
        parts.append(_network_origin(str(address)))
    if client is not None:
        parts.append(_repeated(keys.USER_AGENT_ORIGINAL, client))
    if country is not None:
        parts.append(_repeated(keys.GEO_COUNTRY_ISO_CODE, country))
    if continent is not None:
        parts.append(_repeated(keys.GEO_CONTINENT_CODE, continent))


@lru_cache(4096)
def _repeated(key: str, value: str) -> bytes:
    """Return a string attribute whose value recurs: a kind of session, a client's name."""
    return _text(key, value)


def _network_origin(address: str) -> bytes:
    encoded = address.encode()
    size = len(encoded)
    kind = _repeated(keys.SOURCE_TYPE, address_type(address))
    return b"".join((_head(keys.CLIENT_ADDRESS, size), encoded, _head(keys.SOURCE_ID, size), encoded, kind))


@lru_cache(8192)
def _head(key: str, size: int) -> bytes:
    """Return what precedes the text of a string attribute: tags, key and lengths."""
    start = b"\x0a" + varint(size)
    pair = delimited(1, key.encode()) + b"\x12" + varint(len(start) + size) + start
    return b"\x32" + varint(len(pair) + size) + pair


@lru_cache(1024)
def _body_head(size: int) -> bytes:
    """Return what precedes the text of a body."""
    start = b"\x0a" + varint(size)
    return b"\x2a" + varint(len(start) + size) + start


def _text(key: str, value: str) -> bytes:
    encoded = value.encode()
    return _head(key, len(encoded)) + encoded


def _attribute(key: str, value: Value) -> bytes:
    return _text(key, value) if isinstance(value, str) else delimited(6, _pair(key, value))


def _pair(key: str, value: Value) -> bytes:
    return delimited(1, key.encode()) + delimited(2, _any(value))


def _any(value: Value) -> bytes:
    """Return a value as an ``AnyValue``."""
    match value:
        case None:
            return b""
        case str():
            return delimited(1, value.encode())
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int():
            return b"\x18" + varint(value & _MASK)
        case float():
            return b"\x21" + _DOUBLE.pack(value)
        case bytes():
            return delimited(7, value)
        case Mapping():
            return delimited(6, b"".join(delimited(1, _pair(key, item)) for key, item in value.items()))
        case _:
            return delimited(5, b"".join(delimited(1, _any(item)) for item in value))


def encode_resource(attributes: Mapping[str, Value]) -> bytes:
    """Return resource attributes as the bytes of an OTLP ``Resource``."""
    return b"".join(delimited(1, _pair(key, value)) for key, value in attributes.items())


def encode_scope(name: str, version: str, attributes: Iterable[tuple[str, Value]] = ()) -> bytes:
    """Return the bytes of an OTLP ``InstrumentationScope``; empty for one without name and attributes."""
    texts = delimited(1, name.encode()) + delimited(2, version.encode()) if name else b""
    return texts + b"".join(delimited(3, _pair(key, value)) for key, value in attributes)


def shipped(otlp: bytes, record_id: str, sequence: int, stream: bytes) -> bytes:
    """Return stored bytes as a field ``log_records``, with the attributes that only the commit knew.

    Args:
        otlp: The stored ``LogRecord``.
        record_id: The record's id; of other producers' records any text.
        sequence: Its position in the archive.
        stream: The archive's id as an encoded attribute, see `stream_attribute`.
    """
    identity = record_id.encode()
    number = varint(sequence)
    own = len(identity) == _ID_SIZE
    content = b"".join((
        otlp,
        _RECORD_ID if own else _head(keys.RECORD_ID, len(identity)), identity,
        _LOG_RECORD_UID if own else _head(keys.LOG_RECORD_UID, len(identity)), identity,
        _SEQUENCE[len(number)], number, stream,
    ))  # fmt: skip
    return b"\x12" + varint(len(content)) + content


def stream_attribute(stream_id: str) -> bytes:
    """Return the archive's id as an encoded attribute."""
    return _text(keys.SEQUENCE_STREAM_ID, stream_id)


def _sequence_head(size: int) -> bytes:
    pair = delimited(1, keys.SEQUENCE_NUMBER.encode()) + b"\x12" + varint(1 + size) + b"\x18"
    return b"\x32" + varint(len(pair) + size) + pair


_ID_SIZE: Final = 36
_RECORD_ID: Final = _head(keys.RECORD_ID, _ID_SIZE)
_LOG_RECORD_UID: Final = _head(keys.LOG_RECORD_UID, _ID_SIZE)
_SEQUENCE: Final = tuple(_sequence_head(size) for size in range(11))


def frame(groups: Iterable[tuple[bytes, bytes, Sequence[bytes]]]) -> bytes:
    """Return an ``ExportLogsServiceRequest``.

    Args:
        groups: (``Resource`` bytes, ``InstrumentationScope`` bytes, fields made by `shipped`).
    """
    return b"".join(
        delimited(1, delimited(1, resource) + delimited(2, delimited(1, scope) + b"".join(records)))
        for resource, scope, records in groups
    )


def read_log(otlp: bytes) -> LogFields:
    """Return what the bytes of a ``LogRecord`` hold.

    Raises:
        ValueError: They are no ``LogRecord``.
    """
    log = LogFields()
    for number, _, value in fields(otlp):
        match number, value:
            case 1, bytes():
                log.time = int.from_bytes(value, "little")
            case 11, bytes():
                log.observed = int.from_bytes(value, "little")
            case 2, int():
                log.severity = value
            case 5, bytes():
                log.body = _read_any(value)
            case 6, bytes():
                key, item = _read_pair(value)
                log.attributes[key] = item
            case 8, bytes():
                log.flags = int.from_bytes(value, "little")
            case 9, bytes():
                log.trace_id = value.hex()
            case 10, bytes():
                log.span_id = value.hex()
            case 12, bytes():
                log.event_name = value.decode()
    return log


def _read_pair(message: bytes, depth: int = 0) -> tuple[str, Value]:
    key, item = "", None
    for number, _, value in fields(message):
        if number == 1 and isinstance(value, bytes):
            key = value.decode()
        elif number == 2 and isinstance(value, bytes):
            item = _read_any(value, depth)
    return key, item


def _read_any(message: bytes, depth: int = 0) -> Value:
    if depth > _DEEPEST:
        raise ValueError(f"values are nested more than {_DEEPEST} deep")
    result: Value = None
    for number, _, value in fields(message):
        match number, value:
            case 1, bytes():
                result = value.decode()
            case 2, int():
                result = bool(value)
            case 3, int():
                result = signed(value)
            case 4, bytes() if len(value) == 8:
                result = _DOUBLE.unpack(value)[0]
            case 5, bytes():
                result = tuple(_read_any(item, depth + 1) for _, _, item in fields(value) if isinstance(item, bytes))
            case 6, bytes():
                result = dict(_read_pair(item, depth + 1) for _, _, item in fields(value) if isinstance(item, bytes))
            case 7, bytes():
                result = value
    return result


def decode(
    otlp: bytes, record_id: str, *, sequence: int | None = None, leaf: bytes | None = None, stream_id: str | None = None
) -> AuditRecord:
    """Return the record that stored bytes hold.

    Args:
        otlp: The bytes of a ``LogRecord``.
        record_id: The record's id, which the bytes do not hold.
        sequence: Its position in the archive.
        leaf: Its leaf hash.
        stream_id: The archive's id.

    Raises:
        ValueError: The bytes are no ``LogRecord``.
    """
    return record_of(
        read_log(otlp),
        record_id,
        sequence=sequence,
        integrity_hash=None if leaf is None else leaf.hex(),
        stream_id=stream_id,
    )
