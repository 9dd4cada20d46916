"""The payload that producers sign: what the draft's processor makes of the same record, byte for byte."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_audit import attributes as keys
from otel_audit.jcs import DEEPEST, LARGEST, Unsignable, number_text, read_signed
from otel_audit.otlp import Profile, encode_resource, read_log, shipped, stream_attribute
from otel_audit.protobuf import delimited, fields, varint
from otel_audit.record import Value
from tests.recording import Tape, bound_logger, custom_groups, sessions, texts
from tests.signing import plain_length, reference

RECORD_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
STREAM = "f518b23ffbf14b8ba241e8bb99c620cd"
# RFC 8785, appendix B.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


def payload(otlp: bytes) -> bytes:
    return read_signed(otlp, RECORD_ID, 7, STREAM)[0]


def received(otlp: bytes) -> LogRecord:
    """Return the record that a collector receives."""
    ((_, _, content),) = fields(shipped(otlp, RECORD_ID, 7, stream_attribute(STREAM)))
    assert isinstance(content, bytes)
    return LogRecord.FromString(content)


def attribute(value: Value) -> bytes:
    """Return a record of one attribute, ``a``."""
    ((_, _, pair),) = fields(encode_resource({"a": value}))
    assert isinstance(pair, bytes)
    return delimited(6, pair)


@pytest.mark.parametrize("bits", NUMBERS)
def test_numbers_of_the_rfc(bits: str) -> None:
    """The numbers of RFC 8785 are written as it says."""
    assert number_text(struct.unpack(">d", bytes.fromhex(bits))[0]) == NUMBERS[bits]


@settings(max_examples=1_000)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70).map(float))
def test_any_number(number: float) -> None:
    """Any finite number is written as the reference writes it, and gives itself when it is read."""
    assert number_text(number).encode() == rfc8785.dumps(number)
    assert float(number_text(number)) == number


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks(number: float) -> None:
    """What JSON cannot hold cannot be signed."""
    with pytest.raises(Unsignable, match="not-finite"):
        payload(attribute((1, {"deep": number})))


def test_a_known_payload() -> None:
    """A payload, written out: names in order, scalars under their types, no severity, no proof of its own."""
    log = LogRecord(
        time_unix_nano=1, observed_time_unix_nano=2, severity_number=9, severity_text="INFO", event_name="e", flags=1,  # type: ignore[arg-type]
        trace_id=bytes.fromhex("0af7651916cd43dd8448eb211c80319c"), span_id=bytes(8),
    )  # fmt: skip
    log.body.string_value = 'said "hi"\n\x01'
    for name in ("z", "audit.integrity.value", "audit.integrity.anything", "b"):
        log.attributes.add(key=name).value.int_value = -1
    expected = (
        '{"attributes":{"audit.record.id":{"stringValue":"RECORD"},"audit.sequence.number":{"intValue":"7"},'
        '"audit.sequence.stream_id":{"stringValue":"STREAM"},"b":{"intValue":"-1"},'
        '"log.record.uid":{"stringValue":"RECORD"},"z":{"intValue":"-1"}},'
        '"body":{"stringValue":"said \\"hi\\"\\n\\u0001"},'
        '"event_name":"e","observed_timestamp":"2","timestamp":"1","trace_id":"0af7651916cd43dd8448eb211c80319c"}'
    )
    expected = expected.replace("RECORD", RECORD_ID).replace("STREAM", STREAM)
    assert payload(log.SerializeToString()) == expected.encode()


def test_order_of_names() -> None:
    """Names are ordered by their UTF-16 code units, as in the example of RFC 8785, in maps as well."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\u00f6"]
    members = dict.fromkeys(names, 1)
    log = LogRecord.FromString(attribute(members))
    for name in names:
        log.attributes.add(key=name).value.bool_value = True
    made = payload(log.SerializeToString()).decode()
    expected = ["\\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    of_map = made[made.index('"a":{') : made.index('"audit.record.id"')]
    for text in (of_map, made.replace(of_map, "")):
        places = [text.index(f'"{name}":') for name in expected]
        assert places == sorted(places)


def values() -> st.SearchStrategy[Value]:
    text = st.text(max_size=20) | st.sampled_from(["<&>\u2028\u2029", "\x7f\x80", '\\"/\b\f\n\r\t\x1f', "😀", "\ufffe"])
    scalars: st.SearchStrategy[Value] = st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False),
        st.binary(max_size=20), text,
    )  # fmt: skip
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(text, inner, max_size=4),
        max_leaves=10,
    )


@settings(max_examples=500)
@given(
    attributes=st.lists(
        st.tuples(st.text(max_size=5) | st.sampled_from(["audit.integrity.x", "k"]), values()), max_size=5
    ),
    body=values(),
    event=st.text(max_size=5),
    times=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    ids=st.tuples(
        st.sampled_from([b"", bytes(16), bytes(range(16))]), st.sampled_from([b"", bytes(8), bytes(range(8))])
    ),
)
def test_any_log_record(
    attributes: list[tuple[str, Any]], body: Any, event: str, times: tuple[int, int], ids: tuple[bytes, bytes]
) -> None:
    """Whatever a record holds, keys that occur twice too, its payload is what `rfc8785` makes of what is shipped."""
    log = LogRecord(
        event_name=event, time_unix_nano=times[0], observed_time_unix_nano=times[1], trace_id=ids[0], span_id=ids[1]
    )
    for name, value in attributes:
        pair = LogRecord.FromString(attribute(value)).attributes[0]
        log.attributes.add(key=name).value.CopyFrom(pair.value)
    log.body.CopyFrom(LogRecord.FromString(attribute(body)).attributes[0].value)
    otlp = log.SerializeToString()
    assert payload(otlp) == reference(received(otlp))


@settings(max_examples=250)
@given(
    profile=st.sampled_from(["logs", "signal"]),
    user=st.none() | texts(),
    session=sessions(),
    custom=custom_groups(),
    message=st.none() | texts(),
)
def test_any_recorded_event(profile: Profile, **values: Any) -> None:
    """A hostile event has the payload of the record that is shipped, or is refused for a number that JSON lacks."""
    tape = Tape(profile=profile)
    bound_logger(tape).audit("user.login.failure", **values)
    log = received(tape.otlp)
    try:
        expected = reference(log)
    except rfc8785.FloatDomainError:
        with pytest.raises(Unsignable, match="not-finite"):
            payload(tape.otlp)
    else:
        assert payload(tape.otlp) == expected


@pytest.mark.parametrize("kind", ["list", "map"])
def test_depth(kind: str) -> None:
    """A value may be nested 128 deep, and no deeper."""

    def nested(depth: int) -> bytes:
        value: Value = None
        for _ in range(depth):
            value = (value,) if kind == "list" else {"k": value}
        return attribute(value)

    assert payload(nested(DEEPEST)).count(b"[" if kind == "list" else b'{"k"') == DEEPEST
    with pytest.raises(Unsignable, match="too-deep"):
        payload(nested(DEEPEST + 1))


@pytest.mark.parametrize("character", ["x", "<", "&", "é", "\u2028", "\x01", '"'])
def test_size(character: str) -> None:
    """A payload may have 2 MiB of JSON as the processor first writes it, which escapes more than RFC 8785 does."""

    def record(count: int, rest: int) -> bytes:
        log = LogRecord()
        log.body.string_value = character * count + "x" * rest
        return log.SerializeToString()

    empty = plain_length(received(record(0, 0)))
    each = plain_length(received(record(1, 0))) - empty
    if empty == plain_length(received(b"")):
        raise AssertionError("the body does not count")
    count, rest = divmod(LARGEST - empty, each)
    assert plain_length(received(record(count, rest))) == LARGEST
    assert payload(record(count, rest)) == reference(received(record(count, rest)))
    with pytest.raises(Unsignable, match="too-large"):
        payload(record(count, rest + 1))


def test_the_signature_that_is_there() -> None:
    """The last signature is returned beside the payload, which it is no part of."""
    log = LogRecord(event_name="e")
    bare = payload(log.SerializeToString())
    for text in ("first", "x" * 500):
        log.attributes.add(key="audit.integrity.value").value.string_value = text
        assert read_signed(log.SerializeToString(), RECORD_ID, 7, STREAM) == (bare, text)


@pytest.mark.parametrize("otlp", [b"\x32\x05", b"\x2a\x03\x0a\x01\xff", b"\x62\x02\xff\xff", b"\x0f"])
def test_bytes_that_are_no_record(otlp: bytes) -> None:
    """Bytes that are no record, and text that is no UTF-8, are an error of their own kind."""
    with pytest.raises(ValueError, match=r"passes|decode|wire type") as caught:
        payload(otlp)
    assert not isinstance(caught.value, Unsignable)


def read(otlp: bytes) -> tuple[object, ...]:
    """Return what readers see of a record and a signature is to cover, in a form that tells 1, 1.0 and True apart."""
    log = read_log(otlp)
    added = {keys.RECORD_ID, keys.LOG_RECORD_UID, keys.SEQUENCE_NUMBER, keys.SEQUENCE_STREAM_ID}
    attributes = {
        name: repr(value)
        for name, value in log.attributes.items()
        if name not in added and not name.startswith(keys.INTEGRITY_PREFIX)
    }
    ids = [text.strip("0") and text for text in (log.trace_id, log.span_id)]
    return log.time, log.observed, log.event_name, repr(log.body or None), ids, attributes


CONTENTS = st.sampled_from([b"", b"t", bytes(16), b"\1" * 16, delimited(1, b"text"), b"\x10\1", b"\x18\0"])
NAMES = st.sampled_from([b"a", b"user.name", b"b" * 130, b"\1" + b"c" * 131, b"audit.integrity.x"])
PAIRS = st.builds(lambda name, value, more: delimited(1, name) + delimited(2, value) + more, NAMES, CONTENTS, CONTENTS)
NUMBERS_OF_FIELDS = st.sampled_from([1, 2, 3, 5, 8, 9, 10, 11, 12, 13])
FIELDS = st.one_of(
    st.builds(delimited, NUMBERS_OF_FIELDS, CONTENTS),
    st.builds(lambda pair: delimited(6, pair), PAIRS),
    st.builds(lambda number, value: varint(number << 3) + varint(value), NUMBERS_OF_FIELDS, st.sampled_from([0, 1])),
    st.builds(
        lambda number, value: varint(number << 3 | 1) + value, NUMBERS_OF_FIELDS, st.binary(min_size=8, max_size=8)
    ),
)


@settings(max_examples=2_000)
@given(st.lists(FIELDS, max_size=4), st.lists(FIELDS, min_size=1, max_size=3), st.booleans())
def test_what_the_payload_says_is_what_is_read(base: list[bytes], more: list[bytes], before: bool) -> None:
    """Two records with the same payload are read alike: nobody can put something behind a signature."""
    one, other = b"".join(base), b"".join(more + base if before else base + more)
    try:
        same, seen = payload(one) == payload(other), (read(one), read(other))
    except ValueError:
        return  # whoever reads either says so
    if same:
        assert seen[0] == seen[1]


def test_the_name_of_an_attribute_with_a_long_length() -> None:
    """A length of two bytes is not taken for one of one byte: a name is the same for signers and readers."""
    name = b"n" * 132 + b"\x12"
    pair = b"\x0a\x85\x01" + name + b"\x12\x0a\x10\x01" + b"\x3a\x06bytes!" + b"\x1a\x05other"
    assert name.decode() in read_log(delimited(6, pair)).attributes
    assert name.replace(b"\x12", b"\\u0012") in payload(delimited(6, pair))
