"""The little of the protobuf wire format that OTLP needs: varints, tags, lengths.

The generated classes of ``opentelemetry-proto`` would do; importing them costs 60–90 ms, which every start of the CLI
would pay, and building messages with them twice the time of joining cached pieces. A property test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["FIXED32", "FIXED64", "LENGTH", "VARINT", "delimited", "fields", "signed", "varint"]

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5


def varint(number: int) -> bytes:
    """Return a non-negative number below 2**64 as a varint."""
    if number < _KNOWN:
        return _VARINTS[number]
    return _varint(number)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_KNOWN: Final = 2_048
_VARINTS: Final = tuple(_varint(number) for number in range(_KNOWN))
"""The lengths that nearly all fields and records have."""


def delimited(field: int, content: bytes) -> bytes:
    """Return a length-delimited field."""
    return varint(field << 3 | LENGTH) + varint(len(content)) + content


def signed(number: int) -> int:
    """Return the ``int64`` that a varint stands for."""
    return number - (1 << 64) if number >= 1 << 63 else number


def fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Iterate over a message's fields as (number, wire type, value): varints as int, all else as bytes.

    Raises:
        ValueError: The bytes are no protobuf message.
    """
    position, end = 0, len(message)
    while position < end:
        tag, position = _read_varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = _read_varint(message, position)
            yield number, wire, value
            continue
        if wire == LENGTH:
            size, position = _read_varint(message, position)
        elif wire == FIXED64:
            size = 8
        elif wire == FIXED32:
            size = 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + size > end:
            raise ValueError(f"a field of {size} bytes at byte {position} passes the end at {end}")
        yield number, wire, message[position : position + size]
        position += size


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError(f"no varint at byte {position}")
        byte = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
