"""The little of the protobuf wire format that is needed, against the official implementation."""

from __future__ import annotations

import pytest
from google.protobuf.internal import decoder, encoder
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_audit.protobuf import FIXED32, FIXED64, LENGTH, VARINT, delimited, fields, signed, varint


@given(st.integers(0, 2**64 - 1))
@example(0)
@example(127)
@example(128)
@example(2**63)
@example(2**64 - 1)
def test_varints(number: int) -> None:
    """A varint is the official one, and reads back."""
    parts: list[bytes] = []
    encoder._EncodeVarint(parts.append, number)  # type: ignore[attr-defined]
    assert varint(number) == b"".join(parts)
    assert decoder._DecodeVarint(varint(number), 0)[0] == number  # type: ignore[attr-defined]
    assert list(fields(b"\x08" + varint(number))) == [(1, VARINT, number)]


@given(st.integers(-(2**63), 2**63 - 1))
def test_signed_numbers(number: int) -> None:
    """An `int64` is the varint of its two's complement."""
    message = AnyValue(int_value=number).SerializeToString()
    ((field, wire, value),) = fields(message)
    assert isinstance(value, int)
    assert (field, wire, signed(value)) == (3, VARINT, number)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.binary(max_size=300)), max_size=5))
def test_delimited_fields(pairs: list[tuple[int, bytes]]) -> None:
    """Fields follow each other, with their numbers and contents."""
    message = b"".join(delimited(number, content) for number, content in pairs)
    assert list(fields(message)) == [(number, LENGTH, content) for number, content in pairs]


def test_fixed_fields() -> None:
    """Fixed fields are returned as their bytes."""
    assert list(fields(b"\x09" + b"8" * 8 + b"\x45" + b"4" * 4)) == [(1, FIXED64, b"8" * 8), (8, FIXED32, b"4" * 4)]


@pytest.mark.parametrize(
    "message",
    [b"\x08", b"\x08\x80", b"\x08" + b"\xff" * 10 + b"\x01", b"\x0a", b"\x0a\x05abc", b"\x09abc", b"\x0b", b"\x0e\x00"],
)
def test_what_is_no_message(message: bytes) -> None:
    """Truncated fields, endless varints and unknown wire types raise ValueError."""
    with pytest.raises(ValueError, match="byte"):
        list(fields(message))
