"""An audit call, its record and its OTLP bytes say the same, whatever the values are."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_audit.build import new_record_id
from otel_audit.otlp import (
    Profile,
    decode,
    encode,
    encode_resource,
    encode_scope,
    frame,
    read_log,
    shipped,
    stream_attribute,
)
from otel_audit.record import Actor, AuditRecord, Session, Target, Value
from tests.recording import Tape, bound_logger, custom_groups, sessions, texts

FIELDS = tuple(AuditRecord.__annotations__)
RECORD_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def tagged(value: Any) -> Any:
    """Return a value in which 1, 1.0 and True, 0.0 and -0.0, or NaN and NaN compare as OTLP tells them apart."""
    match value:
        case None | bool() | str() | bytes():
            return type(value).__name__, value
        case int():
            return "int", int(value)
        case float():
            return "float", "nan" if math.isnan(value) else struct.pack(">d", value)
        case dict():
            return "map", {key: tagged(item) for key, item in value.items()}
        case _:
            return "list", [tagged(item) for item in value]


def parsed(value: AnyValue) -> Any:
    """Return what the official classes read, tagged like `tagged`."""
    kind = value.WhichOneof("value")
    if kind is None:
        return tagged(None)
    if kind == "array_value":
        return "list", [parsed(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        pairs = value.kvlist_value.values
        assert len({pair.key for pair in pairs}) == len(pairs)
        return "map", {pair.key: parsed(pair.value) for pair in pairs}
    return tagged(getattr(value, kind))


def expected_attributes(record: AuditRecord) -> dict[str, Any]:
    """Return the attributes that the design's mapping table gives a record, the keys written out."""
    session, target = record.session or Session(), record.target
    address = None if session.ip is None else str(session.ip)
    values: dict[str, Any] = {
        "otel_audit.host": record.host,
        "otel_audit.source": record.source,
        "user.name": record.user,
        "user.id": record.user_id,
        "audit.actor.id": record.actor.id,
        "audit.actor.type": record.actor.type,
        "audit.action": record.action,
        "audit.outcome": record.outcome,
        "audit.target.id": target and target.id,
        "audit.target.type": target and target.type,
        "session.id": session.id,
        "otel_audit.session.type": session.type,
        "client.address": address,
        "audit.source.id": address,
        "user_agent.original": session.client,
        "geo.country.iso_code": session.country,
        "geo.continent.code": session.continent,
        "audit.schema.version": "0.1.0",
        "otel_audit.altered": record.altered or None,
    }
    attributes = {key: tagged(value) for key, value in values.items() if value is not None}
    for group, fields in record.custom.items():
        for name, value in fields.items():
            attributes[f"otel_audit.custom.{group}.{name}"] = tagged(value)
    return attributes


def check_parsed(record: AuditRecord, otlp: bytes, profile: Profile) -> None:
    log = LogRecord.FromString(otlp)
    attributes = {pair.key: parsed(pair.value) for pair in log.attributes}
    assert len(attributes) == len(log.attributes)
    kind = attributes.pop("audit.source.type", None)
    assert (kind is None) == (record.session is None or record.session.ip is None)
    assert kind is None or kind[1] in {"ipv4", "ipv6", "hostname", "unknown"}
    assert attributes == expected_attributes(record)
    assert (log.event_name, log.time_unix_nano, log.observed_time_unix_nano) == (
        record.type,
        record.time,
        record.observed,
    )
    failed = record.outcome == "failure"
    severity = (0, "") if profile == "signal" else (13, "WARN") if failed else (9, "INFO")
    assert (log.severity_number, log.severity_text) == severity
    assert log.HasField("body") == (record.message is not None)
    assert parsed(log.body) == tagged(record.message)
    assert (log.trace_id.hex() or None, log.span_id.hex() or None) == (record.trace_id, record.span_id)
    assert log.flags == record.trace_flags
    assert not log.DiscardUnknownFields()  # type: ignore[func-returns-value]
    assert log.SerializeToString() != b""


def check_decoded(record: AuditRecord, otlp: bytes) -> None:
    back = decode(otlp, record.record_id)
    assert tagged(as_values(back)) == tagged(as_values(record))
    if "nan" not in repr(record.custom):
        assert back == record


def as_values(record: AuditRecord) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(record, name) for name in FIELDS}
    return {name: repr(value) if name in {"actor", "session", "target"} else value for name, value in values.items()}


optional = st.none() | texts()
calls = st.fixed_dictionaries({
    "user": optional,
    "user_id": optional,
    "session": sessions(),
    "actor": optional | st.builds(Actor, texts(), st.sampled_from(["user", "service", "system"])),
    "action": optional,
    "outcome": st.sampled_from([None, "success", "failure", "unknown"]),
    "target": optional | st.builds(Target, texts(), optional),
    "custom": st.none() | custom_groups(),
    "message": optional,
    "timestamp": st.none() | st.integers(1, 2**63 - 1),
})  # fmt: skip
names = texts().filter(lambda text: text not in {"", "*"})
profiles: st.SearchStrategy[Profile] = st.sampled_from(["logs", "signal"])


@settings(max_examples=250)
@given(profiles, st.tuples(names, names, names), calls, st.dictionaries(names, texts(), max_size=3))
@example("logs", ("t", "h", "s"), {"session": Session()}, {})
@example("signal", ("t", "h", "s"), {"custom": {"g": {}}, "message": ""}, {})
def test_call_record_bytes(
    profile: Profile, fixed: tuple[str, str, str], call: dict[str, Any], bound: dict[str, str]
) -> None:
    """A call with hostile values is recorded; the official classes and `decode` read each field of the record back."""
    tape = Tape(profile=profile)
    type_, host, source = fixed
    bound = {f"bound {name}": value for name, value in bound.items()}
    receipt = bound_logger(tape, source, host=host, **bound).audit(type_, **call)
    assert [record.record_id for record, _ in tape.written] == [receipt.record_id]
    check_parsed(tape.record, tape.otlp, profile)
    check_decoded(tape.record, tape.otlp)


def otlp_values() -> st.SearchStrategy[Value]:
    text = st.text(max_size=20)
    scalars: st.SearchStrategy[Value] = st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=20), text
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(text, inner, max_size=4),
        max_leaves=10,
    )


@given(
    st.builds(
        AuditRecord,
        record_id=st.just(RECORD_ID),
        time=st.integers(0, 2**63 - 1),
        observed=st.integers(0, 2**63 - 1),
        host=st.text(), source=st.text(), type=st.text(),
        actor=st.builds(Actor, st.text(), st.sampled_from(["user", "service", "system"])),
        action=st.text(),
        outcome=st.sampled_from(["success", "failure", "unknown"]),
        user=st.none() | st.text(),
        session=st.none() | st.builds(Session, st.text(), st.none() | st.text(), st.none() | st.text(), st.text()),
        custom=st.dictionaries(
            st.sampled_from(["a", "b-c", "D_1"]),
            st.dictionaries(st.text("xyz_", min_size=1), otlp_values(), min_size=1),
        ),
        trace_id=st.just("0af7651916cd43dd8448eb211c80319c"), span_id=st.just("b7ad6b7169203331"),
        trace_flags=st.integers(0, 255),
        user_id=st.none() | st.text(),
        target=st.none() | st.builds(Target, st.text(), st.none() | st.text()),
        message=st.none() | st.text(),
        sequence=st.none(), integrity_hash=st.none(), stream_id=st.none(), signature=st.none(),
        altered=st.lists(st.text()).map(tuple),
    ),
    profiles,
)  # fmt: skip
def test_any_record_survives(record: AuditRecord, profile: Profile) -> None:
    """Any record, also one that no call could make, reads back as it was, through `decode` and the official classes."""
    otlp = encode(record, profile)
    check_parsed(record, otlp, profile)
    check_decoded(record, otlp)


@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda tail: encode(plain_record()) + tail))
def test_damaged_bytes_raise_nothing_else_than_value_errors(otlp: bytes) -> None:
    """Bytes that are no record are either read or refused with ValueError, which readers of the archive expect."""
    try:
        record = decode(otlp, RECORD_ID)
    except ValueError:
        return
    assert isinstance(record, AuditRecord)


def plain_record(**changes: Any) -> AuditRecord:
    values: dict[str, Any] = {
        "record_id": RECORD_ID, "time": 1, "observed": 2, "host": "h", "source": "s", "type": "t",
        "actor": Actor("s", "system"), "action": "READ", "outcome": "success",
    }  # fmt: skip
    return AuditRecord(**values | changes)


@pytest.mark.parametrize("wrap", [b"\x2a", b"\x32"])
def test_values_nested_without_end_are_refused(wrap: bytes) -> None:
    """Nesting that would exhaust the stack is refused with ValueError."""
    value = b""
    for _ in range(5_000):
        inner = b"\x0a" + varint(len(value)) + value
        if wrap == b"\x32":
            inner = b"\x0a" + varint(len(inner) + 1 + len(varint(len(value)))) + b"\x12" + varint(len(value)) + value
        value = wrap + varint(len(inner)) + inner
    with pytest.raises(ValueError, match=r"nested|passes the end"):
        read_log(b"\x2a" + varint(len(value)) + value)


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes((number & 0x7F | 0x80,)), number >> 7
    return out + bytes((number,))


def test_doubles_of_a_wrong_length_are_ignored() -> None:
    """A double that is not eight bytes long leaves the value empty instead of failing elsewhere."""
    assert read_log(b"\x2a\x03\x22\x01\x00").body is None


@given(st.integers(1, 2**63 - 1), st.uuids().map(str))
def test_shipped_adds_what_the_commit_knew(sequence: int, record_id: str) -> None:
    """Sequence, archive id and both record ids follow the stored attributes in what is shipped, exactly once."""
    record = plain_record(custom={"g": {"f": 1}})
    request = frame([(b"", b"", [shipped(encode(record), record_id, sequence, stream_attribute("archive-1"))])])
    (log,) = ExportLogsServiceRequest.FromString(request).resource_logs[0].scope_logs[0].log_records
    attributes = {pair.key: parsed(pair.value)[1] for pair in log.attributes}
    assert len(attributes) == len(log.attributes)
    stored = LogRecord.FromString(encode(record))
    assert list(log.attributes)[: len(stored.attributes)] == list(stored.attributes)
    assert {key: attributes[key] for key in attributes.keys() - {pair.key for pair in stored.attributes}} == {
        "audit.record.id": record_id,
        "log.record.uid": record_id,
        "audit.sequence.number": sequence,
        "audit.sequence.stream_id": "archive-1",
    }


@given(st.dictionaries(st.text(min_size=1), otlp_values()), st.integers(0, 3), st.integers(1, 3))
def test_frames(attributes: dict[str, Value], records: int, groups: int) -> None:
    """A request holds its groups in order, each with its resource, its scope and its records."""
    resource, scope = encode_resource(attributes), encode_scope("otel_audit", "1.2")
    logs = [shipped(encode(plain_record()), new_record_id(n), n + 1, b"") for n in range(records)]
    request = ExportLogsServiceRequest.FromString(frame([(resource, scope, logs)] * groups))
    assert len(request.resource_logs) == groups
    for group in request.resource_logs:
        assert {pair.key: parsed(pair.value) for pair in group.resource.attributes} == {
            key: tagged(value) for key, value in attributes.items()
        }
        (scope_logs,) = group.scope_logs
        assert scope_logs.scope == InstrumentationScope(name="otel_audit", version="1.2")
        assert len(scope_logs.log_records) == records
    assert Resource.FromString(resource) == request.resource_logs[0].resource


def test_the_signal_profile_has_an_empty_scope() -> None:
    """An empty scope name gives no bytes at all, as profile `signal` wants it."""
    assert encode_scope("", "1.0") == b""


def test_decode_takes_what_only_the_archive_knows() -> None:
    """Sequence, leaf hash and archive id come from the columns beside the bytes."""
    record = decode(encode(plain_record()), RECORD_ID, sequence=7, leaf=b"\xab" * 32, stream_id="a")
    assert (record.sequence, record.integrity_hash, record.stream_id) == (7, "ab" * 32, "a")
