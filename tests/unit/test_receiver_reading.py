"""Requests are read whatever they hold: what a client of the producer chose never makes one malformed."""

from __future__ import annotations

import base64
import gzip
import json
import math
import sys
import zlib
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_audit.foreign import ForeignLog
from otel_audit.protobuf import delimited
from otel_audit.receiver.binary import read_binary
from otel_audit.receiver.body import Budget, unpacked
from otel_audit.receiver.json_form import read_json
from otel_audit.receiver.messages import Counted, LogGroup, Malformed, Oversized

MANY = 1_000_000

SCALARS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.binary(max_size=20),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("ab.", max_size=3), inner, max_size=3)
    ),
)


def as_any(value: Any) -> dict[str, Any]:
    """Return a value as OTLP/JSON has it."""
    match value:
        case bool():
            return {"boolValue": value}
        case str():
            return {"stringValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            text = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
            return {"doubleValue": value if math.isfinite(value) else text}
        case bytes():
            return {"bytesValue": base64.b64encode(value).decode()}
        case list():
            return {"arrayValue": {"values": [as_any(item) for item in value]}}
        case _:
            return {"kvlistValue": {"values": pairs(value)}}


def pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": as_any(value)} for key, value in values.items()]


def fill(target: AnyValue, value: Any) -> None:
    """Put a value into a message."""
    match value:
        case bool():
            target.bool_value = value
        case str():
            target.string_value = value
        case int():
            target.int_value = value
        case float():
            target.double_value = value
        case bytes():
            target.bytes_value = value
        case list():
            target.array_value.SetInParent()
            for item in value:
                fill(target.array_value.values.add(), item)
        case _:
            target.kvlist_value.SetInParent()
            for key, item in value.items():
                fill(target.kvlist_value.values.add(key=key).value, item)


def read_one(groups: list[LogGroup]) -> ForeignLog:
    ((log,),) = (group.logs for group in groups)
    return log


@given(st.dictionaries(st.text("abc.", max_size=5), VALUES, max_size=4), VALUES, st.integers(1, 2**64 - 1))
def test_both_encodings_say_the_same(attributes: dict[str, Any], body: Any, time: int) -> None:
    """Any record, with values of every type, is read alike from protobuf and from JSON, as it was written."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add(schema_url="r")
    fill(group.resource.attributes.add(key="service.name").value, "shop")
    scope = group.scope_logs.add(schema_url="s")
    scope.scope.name, scope.scope.version = "lib", "1"
    record = scope.log_records.add(
        time_unix_nano=time, observed_time_unix_nano=7, event_name="e", severity_number=9, severity_text="INFO",
        trace_id=bytes(range(16)), span_id=bytes(range(8)), flags=1, dropped_attributes_count=2,
    )  # fmt: skip
    for key, value in attributes.items():
        fill(record.attributes.add(key=key).value, value)
    fill(record.body, body)
    text = {
        "resourceLogs": [{
            "resource": {"attributes": pairs({"service.name": "shop"})}, "schemaUrl": "r", "unknown": [1],
            "scopeLogs": [{
                "scope": {"name": "lib", "version": "1"}, "schemaUrl": "s",
                "logRecords": [{
                    "timeUnixNano": str(time), "observedTimeUnixNano": 7, "eventName": "e", "severityNumber": 9,
                    "severityText": "INFO", "traceId": bytes(range(16)).hex(), "spanId": bytes(range(8)).hex().upper(),
                    "flags": 1, "droppedAttributesCount": 2, "attributes": pairs(attributes), "body": as_any(body),
                }],
            }],
        }],
    }  # fmt: skip
    from_binary = read_binary(request.SerializeToString(), Counted(1))
    from_json = read_json(json.dumps(text).encode(), Counted(1))
    for groups in (from_binary, from_json):
        assert groups[0].schemas == {"resource_schema_url": "r", "scope_schema_url": "s"}
        groups[0].schemas = {}
    # By their texts: a NaN does not equal itself.
    assert repr(from_binary) == repr(from_json)
    log = read_one(from_json)
    assert (log.time, log.observed, log.event_name, log.dropped) == (time, 7, "e", 2)
    assert (log.trace_id, log.span_id) == (int.from_bytes(range(16)), int.from_bytes(range(8)))
    assert list(log.attributes) == list(attributes)


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes(body: bytes) -> None:
    """Whatever comes is read or malformed, in either encoding; what protobuf's own parser reads, we read."""
    for read in (read_binary, read_json):
        try:
            groups = read(body, Counted(MANY))
        except Malformed as error:
            # Groups, which protobuf gave up long ago, are of no version of OTLP.
            if read is read_binary and "wire type" not in str(error):
                with pytest.raises(DecodeError):
                    ExportLogsServiceRequest.FromString(body)
        else:
            assert all(isinstance(log, ForeignLog) for group in groups for log in group.logs)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "resourceLogs", "scopeLogs", "logRecords", "resource", "scope", "attributes", "key", "value", "body",
            "stringValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue", "values", "traceId",
            "timeUnixNano", "time_unix_nano", "severityNumber", "name",
        ]),
        inner, max_size=4,
    ),
    max_leaves=30,
)  # fmt: skip


@given(JSON_VALUES)
@settings(max_examples=300)
def test_any_json(value: Any) -> None:
    """Whatever stands where, the request is read or malformed."""
    records = [{"scopeLogs": [{"logRecords": [value]}]}]
    for body in (value, {"resourceLogs": value}, {"resourceLogs": records}):
        with suppress(Malformed):
            read_json(json.dumps(body).encode(), Counted(MANY))


def record_with(value: bytes) -> bytes:
    """Return a request with one record, whose attribute ``user.name`` holds an encoded value."""
    log = delimited(6, delimited(1, b"user.name") + delimited(2, value))
    return delimited(1, delimited(2, delimited(2, log)))


def test_bytes_that_are_no_text() -> None:
    """Where a text must be UTF-8, other bytes become surrogates, which recording escapes: none refuses the request."""
    body = record_with(delimited(1, b"ali\xffce"))
    with pytest.raises(DecodeError):
        ExportLogsServiceRequest.FromString(body)
    assert read_one(read_binary(body, Counted(1))).attributes == {"user.name": "ali\udcffce"}
    text = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"eventName":"ali\xffce"}]}]}]}'
    assert read_one(read_json(text, Counted(1))).event_name == "ali\udcffce"


def nested(levels: int) -> tuple[bytes, str]:
    """Return a list within lists, in both encodings."""
    value, text = delimited(1, b"x"), '{"stringValue":"x"}'
    for _ in range(levels):
        value = delimited(5, delimited(1, value))
        text = f'{{"arrayValue":{{"values":[{text}]}}}}'
    return value, text


@pytest.mark.parametrize("levels", [10, 100, 2_000])
def test_values_nested_to_any_depth(levels: int) -> None:
    """What lies too deep is left out; the request is read, also where a parser would have given up."""
    value, text = nested(levels)
    body = f'{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"eventName":"\\\\\\"[","body":{text}}}]}}]}}]}}'
    first = read_one(read_binary(record_with(value), Counted(1))).attributes["user.name"]
    log = read_one(read_json(body.encode(), Counted(1)))
    assert log.event_name == '\\"['
    assert log.body == first
    depth = 0
    while isinstance(first, tuple) and first:
        (first,) = first
        depth += 1
    assert depth == min(levels, 32)


@pytest.mark.parametrize("body", ['{"a":' * 3_000, '["' * 100_000, "[" * 100_000, '{"a":"' + '\\"' * 400_000])
def test_texts_without_an_end(body: str) -> None:
    """A text that nests deeply and never ends is malformed, and soon found to be."""
    with pytest.raises(Malformed):
        read_json(body.encode(), Counted(1))


@pytest.mark.parametrize("number", ["1" * 5_000, "-" + "9" * 300, "1e400", "1.5"])
def test_numbers_of_any_length(number: str) -> None:
    """Python refuses to read huge numbers; here they come through where they may stand, or the request is malformed."""
    value = f'{{"key":"n","value":{{"doubleValue":{number}}}}}'
    body = f'{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"attributes":[{value}]}}]}}]}}]}}'
    read = read_one(read_json(body.encode(), Counted(1))).attributes["n"]
    assert isinstance(read, float)
    whole = body.replace("doubleValue", "intValue").encode()
    if number.startswith("-9"):
        assert read_one(read_json(whole, Counted(1))).attributes == {"n": int(number)}
    else:
        with pytest.raises(Malformed):
            read_json(whole, Counted(1))


def test_names_in_both_forms() -> None:
    """Names with underscores, which protobuf's JSON allows as well, are not ignored: their records would be lost."""
    body = b'{"resource_logs":[{"scope_logs":[{"log_records":[{"event_name":"e","time_unix_nano":"5"}]}]}]}'
    log = read_one(read_json(body, Counted(1)))
    assert (log.event_name, log.time) == ("e", 5)


def test_too_many_records() -> None:
    """An empty record takes two bytes of a request: they are counted."""
    body = delimited(1, delimited(2, delimited(2, b"") * 11))
    assert len(read_binary(body, Counted(11))[0].logs) == 11
    with pytest.raises(Oversized, match="10 records"):
        read_binary(body, Counted(10))


def test_too_many_groups() -> None:
    """A group without records takes two bytes of a request, and a thousand of memory: they are counted as well."""
    body = delimited(1, delimited(2, b"") * 6) + delimited(1, delimited(2, b"") * 5)
    as_json = json.dumps({"resourceLogs": [{"scopeLogs": [{}] * 6}, {"scopeLogs": [{}] * 5}]}).encode()
    assert len(read_binary(body, Counted(11))) == len(read_json(as_json, Counted(11))) == 11
    with pytest.raises(Oversized, match="10 scopes"):
        read_binary(body, Counted(10))
    with pytest.raises(Oversized, match="10 scopes"):
        read_json(as_json, Counted(10))


def test_a_resource_in_many_pieces() -> None:
    """Messages that come twice are merged, however many pieces there are: two million are soon put together."""
    pieces = delimited(1, delimited(3, b"")) * 2_000_000
    pair = delimited(1, b"key") + delimited(2, delimited(1, b"value"))
    body = delimited(1, pieces + delimited(1, delimited(1, pair)) + delimited(2, delimited(2, b"")))
    (group,) = read_binary(body, Counted(1))
    assert group.resource == {"key": "value"}


def test_what_unpacks_to_too_much() -> None:
    """A bomb is found before it has unpacked; the limit itself is allowed."""
    assert unpacked(gzip.compress(bytes(1000)), 1000) == bytes(1000)
    bomb = gzip.compress(bytes(200_000_000))
    before = sys.getallocatedblocks()
    with pytest.raises(Oversized):
        unpacked(bomb, 1000)
    assert sys.getallocatedblocks() < before + 10_000


@given(st.binary(max_size=100))
def test_any_gzip(body: bytes) -> None:
    """Whatever comes as gzip unpacks, or is malformed."""
    with suppress(Malformed):
        assert unpacked(body, 1000) == zlib.decompress(body, 31)
    assert unpacked(gzip.compress(body), 100) == body


def test_room() -> None:
    """Room is taken and given back; what there is no room for takes none."""
    budget = Budget(2, 10)
    assert budget.enter()
    assert budget.enter()
    assert not budget.enter()
    assert budget.take(10)
    assert not budget.take(1)
    budget.leave(10)
    assert budget.enter()
    assert budget.take(10)
