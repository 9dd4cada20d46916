"""Payloads that others published: what the draft's authors and the signing processor's tests expect of a record.

Source: facts from open-telemetry/opentelemetry-collector-contrib, processor/signingprocessor, as of commit 6067385db2f1
(tests of doubles, integers, boundaries; issue 50881), and from apeirora/opentelemetry-go, sdk/auditlog, at commit
8ddbdb8c1895 (the payload of a whole record, bodies of each type).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_audit.jcs import Unsignable, read_signed
from otel_audit.protobuf import delimited

ADDED = ("log.record.uid", "audit.sequence.number", "audit.sequence.stream_id")
RECORD_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
WHOLE = (
    '{"attributes":{"audit.action":{"stringValue":"login"},"audit.actor.id":{"stringValue":"alice@example.com"},'
    '"audit.actor.type":{"stringValue":"user"},"audit.outcome":{"stringValue":"success"},'
    '"audit.record.id":{"stringValue":"rec-docker-pass"},"audit.source.id":{"stringValue":"testapp"}},'
    '"body":{"stringValue":"{\\"event\\":\\"user.login\\"}"},"event_name":"user.login",'
    '"observed_timestamp":"1779096939611093600","timestamp":"1779096939611093600"}'
)


def value(given: Any) -> AnyValue:
    """Return a value of a record."""
    match given:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=given)
        case str():
            return AnyValue(string_value=given)
        case int():
            return AnyValue(int_value=given)
        case float():
            return AnyValue(double_value=given)
        case bytes():
            return AnyValue(bytes_value=given)
        case list():
            return AnyValue(array_value=ArrayValue(values=[value(item) for item in given]))
        case _:
            return AnyValue(
                kvlist_value=KeyValueList(values=[KeyValue(key=k, value=value(v)) for k, v in given.items()])
            )


def payload(body: Any = None, attributes: dict[str, Any] | None = None, **fields: Any) -> str:
    """Return what is signed of a record, without what shipping adds to it."""
    pairs = [KeyValue(key=name, value=value(content)) for name, content in (attributes or {}).items()]
    log = LogRecord(attributes=pairs, **fields)
    if body is not None:
        log.body.CopyFrom(value(body))
    found, _ = read_signed(log.SerializeToString(), RECORD_ID, 1, "archive")
    content = json.loads(found)
    own = "audit.record.id" in (attributes or {})
    for name in (*ADDED, *(() if own else ("audit.record.id",))):
        del content["attributes"][name]
    if own:
        content["attributes"]["audit.record.id"] = {"stringValue": attributes["audit.record.id"]}  # type: ignore[index]
    if not content["attributes"]:
        del content["attributes"]
    # By somebody else's library: ours must have been canonical already.
    assert json.loads(rfc8785.dumps(json.loads(found))) == json.loads(found)
    assert rfc8785.dumps(json.loads(found)) == found
    return rfc8785.dumps(content).decode()


def test_a_whole_record() -> None:
    """The payload of a whole record is that of the draft's authors, byte for byte."""
    moment = 1779096939611093600
    attributes = {
        "audit.record.id": "rec-docker-pass", "audit.actor.id": "alice@example.com", "audit.actor.type": "user",
        "audit.action": "login", "audit.outcome": "success", "audit.source.id": "testapp",
    }  # fmt: skip
    found = payload(
        '{"event":"user.login"}', attributes, time_unix_nano=moment, observed_time_unix_nano=moment,
        event_name="user.login", severity_number=9, severity_text="INFO", flags=1,
    )  # fmt: skip
    assert found == WHOLE


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("hello", '{"stringValue":"hello"}'),
        (42, '{"intValue":"42"}'),
        (1.5, '{"doubleValue":1.5}'),
        (True, '{"boolValue":true}'),
        (b"\xde\xad", '{"bytesValue":"3q0="}'),
        (["x"], '[{"stringValue":"x"}]'),
        ({"action": "delete-all"}, '{"action":{"stringValue":"delete-all"}}'),
    ],
)
def test_bodies(body: Any, expected: str) -> None:
    """A body of each type stands under the name of its type; an empty one is left out."""
    assert payload(body) == f'{{"body":{expected}}}'
    assert payload() == "{}"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1.0, '{"doubleValue":1}'), (1.5, '{"doubleValue":1.5}'), (1e21, '{"doubleValue":1e+21}'),
        (5e-7, '{"doubleValue":5e-7}'), (-2.5, '{"doubleValue":-2.5}'), (0.0, '{"doubleValue":0}'),
        (-0.0, '{"doubleValue":0}'), (0.25, '{"doubleValue":0.25}'), (2**63 - 1, '{"intValue":"9223372036854775807"}'),
        (123, '{"intValue":"123"}'), ("123", '{"stringValue":"123"}'), (b"hello", '{"bytesValue":"aGVsbG8="}'),
        ("\\ud800\\ud800", '{"stringValue":"\\\\ud800\\\\ud800"}'), (None, "null"),
    ],
)  # fmt: skip
def test_values(number: Any, expected: str) -> None:
    """An attribute of each type has the published form; integers keep all their digits."""
    assert payload(attributes={"k": number}) == f'{{"attributes":{{"k":{expected}}}}}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_cannot_be_signed(number: float) -> None:
    """What JSON has no number for is refused, as there."""
    with pytest.raises(Unsignable) as caught:
        payload(attributes={"v": number})
    assert caught.value.reason == "not-finite"


def test_times_and_ids() -> None:
    """Times are decimal texts, ids lower-case hex; severity, flags and earlier signatures are not signed."""
    found = payload(
        attributes={"audit.integrity.stale": "should-be-excluded"}, time_unix_nano=1714041600000000000,
        trace_id=bytes(range(1, 17)), span_id=bytes(range(1, 9)), severity_text="INFO",
    )  # fmt: skip
    assert found == (
        '{"span_id":"0102030405060708","timestamp":"1714041600000000000","trace_id":"0102030405060708090a0b0c0d0e0f10"}'
    )


def nested(kind: str, depth: int, leaf: bytes) -> bytes:
    """Return a value within so many lists or maps; protobuf's own library goes less deep."""
    for _ in range(depth):
        leaf = delimited(5, delimited(1, leaf)) if kind == "list" else delimited(6, delimited(1, pair("m", leaf)))
    return leaf


def pair(name: str, content: bytes) -> bytes:
    return delimited(1, name.encode()) + delimited(2, content)


@pytest.mark.parametrize(("depth", "signed"), [(128, True), (129, False)])
@pytest.mark.parametrize("kind", ["list", "map"])
@pytest.mark.parametrize("leaf", ["", "x", "y" * 200])
def test_depth(kind: str, depth: int, signed: bool, leaf: str) -> None:
    """What lies within 128 lists or maps is signed, what lies deeper is not, of whatever length."""
    otlp = delimited(6, pair("v", nested(kind, depth, delimited(1, leaf.encode()))))
    if signed:
        assert leaf.encode() in read_signed(otlp, RECORD_ID, 1, "archive")[0]
    else:
        with pytest.raises(Unsignable) as caught:
            read_signed(otlp, RECORD_ID, 1, "archive")
        assert caught.value.reason == "too-deep"
