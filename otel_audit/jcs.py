"""The bytes that a producer signs: canonical JSON (RFC 8785) of a record as it is shipped.

They are those that the OpenTelemetry Collector's ``signingprocessor`` makes of the record that it receives, as of
commit ``6067385db2f1`` of opentelemetry-collector-contrib (September 2026): event name, body and attributes without
``audit.integrity.*``, every scalar under the name of its type; both times as decimal text; trace and span id as
hexadecimal; no severity, no flags. What is zero or empty is left out.
"""

from __future__ import annotations

import base64
import math
import struct
from json.encoder import encode_basestring
from typing import Any, Final

from otel_audit import attributes as keys
from otel_audit.protobuf import fields, signed

__all__ = ["DEEPEST", "LARGEST", "Unsignable", "number_text", "read_signed"]

DEEPEST: Final = 128
"""Deepest nesting of a value."""
LARGEST: Final = 1 << 21
"""Largest JSON in bytes, as the processor writes it before it makes it canonical."""

_ESCAPED: Final = {"<": 5, ">": 5, "&": 5, "\u2028": 3, "\u2029": 3}
"""By how many bytes the processor's JSON is longer before it is made canonical, for each such character."""
_DOUBLE: Final = struct.Struct("<d")
_INTEGRITY: Final = keys.INTEGRITY_PREFIX.encode()
_LENGTHS: Final = frozenset((0x1A, 0x2A, 0x32, 0x4A, 0x52, 0x62))
"""Tags of severity text, body, attributes, trace, span and event name."""
_FIXED: Final = {0x09: 8, 0x59: 8, 0x45: 4}
"""Tags of both times and of the flags, and their lengths."""
_HEADS: Final = tuple(bytes((0x12, size + 2, 0x0A)) for size in range(0x7E))
"""What precedes the length of a short text."""


class Unsignable(ValueError):
    """The processor's rules leave a record without a payload.

    Args:
        reason: ``too-deep``, ``too-large`` or ``not-finite``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_signed(otlp: bytes, record_id: str, sequence: int, stream_id: str) -> tuple[bytes, str | None]:
    """Return the payload of a record, and the signature that its bytes hold.

    Args:
        otlp: The stored ``LogRecord``, signed or not.
        record_id: The record's id. This and what follows is appended when the record is shipped.
        sequence: Its position in the archive.
        stream_id: The archive's id.

    Raises:
        Unsignable: It nests too deep, is too large, or holds a number that JSON lacks.
        ValueError: The bytes are no ``LogRecord``.
    """
    parts, pairs = _quick_parts(otlp) or _parts(otlp)
    attributes: dict[str, str] = {}
    signature: str | None = None
    for pair in pairs:
        if _INTEGRITY not in pair:
            name, member = _member(pair, 0)
            attributes[name] = member
            continue
        name, value = _read_pair(pair)
        if not name.startswith(keys.INTEGRITY_PREFIX):
            attributes[name] = _named(name, value, 0)
        elif name == keys.INTEGRITY_VALUE:
            signature = _text_of(value)
    for name in (keys.RECORD_ID, keys.LOG_RECORD_UID):
        attributes[name] = f'"{name}":{{"stringValue":{encode_basestring(record_id)}}}'
    attributes[keys.SEQUENCE_NUMBER] = f'"{keys.SEQUENCE_NUMBER}":{{"intValue":"{sequence}"}}'
    stream = encode_basestring(stream_id)
    attributes[keys.SEQUENCE_STREAM_ID] = f'"{keys.SEQUENCE_STREAM_ID}":{{"stringValue":{stream}}}'
    return _object(parts, attributes), signature


def _parts(otlp: bytes) -> tuple[dict[int, Any], list[bytes]]:
    """Return a record's fields by their numbers, and its attributes."""
    parts: dict[int, Any] = {}
    pairs: list[bytes] = []
    for number, _, value in fields(otlp):
        # Numbers are no part of what is signed. One under the number of a text, say, hides none: it is not read either.
        if isinstance(value, bytes):
            if number == 6:
                pairs.append(value)
            else:
                parts[number] = value
    return parts, pairs


def _quick_parts(otlp: bytes) -> tuple[dict[int, Any], list[bytes]] | None:
    """Do the same in a third of the time; None where a field is of another form than those that are written here."""
    parts: dict[int, Any] = {}
    pairs: list[bytes] = []
    position, end = 0, len(otlp)
    try:
        while position < end:
            tag = otlp[position]
            position += 1
            if tag in _LENGTHS:
                size = otlp[position]
                position += 1
                if size >= 0x80:
                    size = size & 0x7F | otlp[position] << 7
                    position += 1
                    if size >= 0x4000:
                        return None
            elif tag in _FIXED:
                size = _FIXED[tag]
            elif tag == 0x10 and otlp[position] < 0x80:
                position += 1
                continue
            else:
                return None
            value = otlp[position : position + size]
            position += size
            if tag == 0x32:
                pairs.append(value)
            else:
                parts[tag >> 3] = value
    except IndexError:
        return None
    return (parts, pairs) if position == end else None


def _object(parts: dict[int, Any], attributes: dict[str, str]) -> bytes:
    """Return the whole payload: its members in the order of their names."""
    members = [f'"attributes":{_map(attributes)}']
    if (body := _value(parts.get(5) or b"", 0)) != "null":
        members.append(f'"body":{body}')
    if name := parts.get(12):
        members.append(f'"event_name":{encode_basestring(name.decode())}')
    if observed := _time(parts.get(11)):
        members.append(f'"observed_timestamp":"{observed}"')
    if span := _id(parts.get(10)):
        members.append(f'"span_id":"{span}"')
    if time := _time(parts.get(1)):
        members.append(f'"timestamp":"{time}"')
    if trace := _id(parts.get(9)):
        members.append(f'"trace_id":"{trace}"')
    text = f"{{{','.join(members)}}}"
    payload = text.encode()
    if (
        len(payload) * 6 > LARGEST
        and len(payload) + sum(text.count(character) * more for character, more in _ESCAPED.items()) > LARGEST
    ):
        raise Unsignable("too-large")
    return payload


def _time(value: Any) -> int:
    return signed(int.from_bytes(value, "little")) if value else 0


def _id(value: Any) -> str:
    return value.hex() if value and any(value) else ""


def _map(members: dict[str, str]) -> str:
    """Return an object; its names are ordered by their UTF-16 code units."""
    plain = "".join(members).isascii()
    names = sorted(members) if plain else sorted(members, key=lambda name: name.encode("utf-16-be"))
    return f"{{{','.join([members[name] for name in names])}}}"


def _member(pair: bytes, depth: int) -> tuple[str, str]:
    """Return the name of a ``KeyValue``, and the member of an object that it becomes."""
    try:
        # A short text under a short name, as nearly all are: no field of it needs to be looked for.
        value = pair[1] + 2
        size = len(pair) - value - 4
        usual = depth <= DEEPEST and pair[0] == 0x0A and pair[1] < 0x80
        if usual and pair[value + 3] == size < 0x7E and pair[value : value + 3] == _HEADS[size]:
            name = pair[2:value].decode()
            return name, f'{encode_basestring(name)}:{{"stringValue":{encode_basestring(pair[value + 4 :].decode())}}}'
    except IndexError:
        pass
    name, content = _read_pair(pair)
    return name, _named(name, content, depth)


def _read_pair(pair: bytes) -> tuple[str, bytes]:
    """Return the name and the ``AnyValue`` of a ``KeyValue``."""
    name, value = "", b""
    for number, _, item in fields(pair):
        if isinstance(item, bytes):
            if number == 1:
                name = item.decode()
            elif number == 2:
                value = item
    return name, value


def _named(name: str, value: bytes, depth: int) -> str:
    return f"{encode_basestring(name)}:{_value(value, depth)}"


def _text_of(value: bytes) -> str:
    """Return the text of an ``AnyValue``; empty where it is none."""
    return next((item for number, _, item in fields(value) if number == 1 and isinstance(item, bytes)), b"").decode()


def _value(message: bytes, depth: int) -> str:
    """Return an ``AnyValue`` under the name of its type; lists and maps have none, nor has an empty value."""
    if depth > DEEPEST:
        raise Unsignable("too-deep")
    result = "null"
    for number, _, value in fields(message):
        match number, value:
            case 1, bytes():
                result = f'{{"stringValue":{encode_basestring(value.decode())}}}'
            case 2, int():
                result = '{"boolValue":true}' if value else '{"boolValue":false}'
            case 3, int():
                result = f'{{"intValue":"{signed(value)}"}}'
            case 4, bytes() if len(value) == 8:
                result = f'{{"doubleValue":{number_text(_DOUBLE.unpack(value)[0])}}}'
            case 5, bytes():
                items = [_value(item, depth + 1) for _, _, item in fields(value) if isinstance(item, bytes)]
                result = f"[{','.join(items)}]"
            case 6, bytes():
                pairs = (item for _, _, item in fields(value) if isinstance(item, bytes))
                result = _map(dict([_member(item, depth + 1) for item in pairs]))
            case 7, bytes():
                result = f'{{"bytesValue":"{base64.b64encode(value).decode("ascii")}"}}'
    return result


def number_text(number: float) -> str:
    """Return a number as ECMAScript writes it, which RFC 8785 prescribes.

    Raises:
        Unsignable: It is not finite.
    """
    if not math.isfinite(number):
        raise Unsignable("not-finite")
    if number == 0:
        return "0"
    # Python's text has the same, shortest digits; only their layout differs.
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if point > 21 or point < -5:
        power = f"e{point - 1:+d}"
        text = (f"{digits[0]}.{digits[1:]}" if len(digits) > 1 else digits) + power
    elif point >= len(digits):
        text = digits.ljust(point, "0")
    elif point > 0:
        text = f"{digits[:point]}.{digits[point:]}"
    else:
        text = f"0.{'0' * -point}{digits}"
    return f"-{text}" if number < 0 else text
