"""Comparing an archive with what a collector received: each record that differs or is missing is named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_audit.archive.against import Comparison, compare
from otel_audit.archive.query import open_archive
from otel_audit.errors import ConfigError
from otel_audit.otlp import frame, shipped, stream_attribute
from otel_audit.record import Session
from otel_audit.testing import Collector
from tests.archive_material import connect, provider_at, ship

RECORDS = 12


@pytest.fixture
def filled(archive_path: Path) -> Path:
    with provider_at(archive_path, resource={"service.name": "shop", "n": 1}) as provider:
        log = provider.get_logger("against")
        values = [
            1,
            -1,
            2**62,
            1.0,
            -0.0,
            float("inf"),
            True,
            None,
            "é\u2028",
            b"\0\xff",
            ["a", 1, [b"x"]],
            {"a": {"b": 1}},
        ]
        for n, value in enumerate(values):
            session = Session(f"s{n}", "http", "203.0.113.7", "agent") if n % 2 else None
            log.audit("user.login.failure", user=f"user-{n}", session=session, custom={"g": {"v": value}})
    return archive_path


def exported(path: Path) -> dict[str, Any]:
    """Return what a collector's file exporter writes of a whole archive, as one request."""
    with open_archive(path) as archive, archive.database as connection:
        stream = stream_attribute(archive_id(connection))
        rows: Any = connection.execute("SELECT otlp, lower(hex(record_id)), sequence FROM record").fetchall()
        header = connection.execute("SELECT resource, scope FROM resource").fetchone()
    records = []
    for otlp, t, sequence in rows:
        record_id = f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}"
        records.append(shipped(otlp, record_id, sequence, stream))
    assert header is not None
    message = ExportLogsServiceRequest.FromString(frame([(header[0], header[1], records)]))
    found: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    return found


def archive_id(connection: Any) -> str:
    return str(connection.execute("SELECT value FROM meta WHERE key = 'archive_id'").get)


def logs(request: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = request["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    return found


def compared(path: Path, *requests: dict[str, Any]) -> Comparison:
    file = path.with_name("received.jsonl")
    file.write_text("".join(json.dumps(request) + "\n" for request in requests), "utf-8")
    with open_archive(path) as archive:
        return compare(archive, file, keep=100)


def test_all_that_was_received(filled: Path) -> None:
    """A complete file matches, whatever its lines hold: one record each or all, in any order, some twice."""
    request = exported(filled)
    one = json.loads(json.dumps(request))
    lines = []
    for log in logs(request):
        line = json.loads(json.dumps(one))
        line["resourceLogs"][0]["scopeLogs"][0]["logRecords"] = [log]
        lines.append(line)
    random.Random(1).shuffle(lines)
    for requests in ([request], lines, [request, *lines[:3]]):
        found = compared(filled, *requests)
        assert found.faults == ()
        assert (found.missing, found.waiting, found.foreign) == (0, 0, 0)
        assert found.matching in {RECORDS, RECORDS + 3}


def test_one_request_in_any_layout(filled: Path) -> None:
    """A bare request over many lines is read as well."""
    file = filled.with_name("bare.json")
    file.write_text(json.dumps(exported(filled), indent=2), "utf-8")
    with open_archive(filled) as archive:
        assert compare(archive, file, keep=5).matching == RECORDS


def test_a_collectors_additions_to_the_resource(filled: Path) -> None:
    """Attributes that a collector added to the resource are no difference; one that it changed is."""
    request = exported(filled)
    attributes = request["resourceLogs"][0]["resource"]["attributes"]
    attributes.append({"key": "host.name", "value": {"stringValue": "collector"}})
    assert compared(filled, request).faults == ()
    next(pair for pair in attributes if pair["key"] == "service.name")["value"] = {"stringValue": "other"}
    assert {fault.detail.partition(": ")[2] for fault in compared(filled, request).faults} == {"resource service.name"}


def test_what_the_collector_writes_in_its_own_way(archive_path: Path) -> None:
    """The double -0.0 as an integer, and no name where it is empty: both are read as what they were."""
    with provider_at(archive_path) as provider:
        provider.get_logger("against").audit("any", custom={"g": {"zero": -0.0, "map": {"": {"": -0.0}}}})
    request = exported(archive_path)
    text = json.dumps(request).replace('"doubleValue": -0.0', '"doubleValue": -0').replace('"key": "", ', "")
    assert (text.count('"doubleValue": -0}'), text.count('{"value"')) == (2, 2)
    file = archive_path.with_name("received.jsonl")
    file.write_text(text, "utf-8")
    with open_archive(archive_path) as archive:
        found = compare(archive, file, keep=100)
    assert (found.faults, found.matching) == ((), 1)
    changed = json.loads(json.dumps(request).replace('"doubleValue": -0.0', '"doubleValue": 0'))
    assert compared(archive_path, changed).fault_count == 1


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "body": lambda log: log.update(body={"stringValue": "other"}),
    "timeUnixNano": lambda log: log.update(timeUnixNano="1"),
    "observedTimeUnixNano": lambda log: log.pop("observedTimeUnixNano"),
    "severityNumber": lambda log: log.update(severityNumber=9),
    "severityText": lambda log: log.update(severityText="INFO"),
    "eventName": lambda log: log.update(eventName="user.login.success"),
    "traceId": lambda log: log.update(traceId="0af7651916cd43dd8448eb211c80319c"),
    "flags": lambda log: log.update(flags=1),
    "user.name": lambda log: log.update(attributes=[p for p in log["attributes"] if p["key"] != "user.name"]),
    "extra": lambda log: log["attributes"].append({"key": "extra", "value": {"intValue": "1"}}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_record_that_differs(filled: Path, name: str) -> None:
    """Whatever field of a received record was changed, added or removed, its record and the field are named."""
    request = exported(filled)
    CHANGES[name](logs(request)[4])
    (fault,) = compared(filled, request).faults
    assert fault.code == "export-differs"
    assert fault.detail == f"record 5 of the archive: {name}"
    assert fault.place.startswith("record '0")


@pytest.mark.parametrize("number", range(RECORDS))
def test_a_value_that_differs(filled: Path, number: int) -> None:
    """A custom value of any type is told from every other one, also from one that looks alike."""
    others = [
        {}, {"stringValue": "1"}, {"intValue": "7"}, {"doubleValue": 1.5}, {"boolValue": False}, {"bytesValue": "AAAA"},
        {"arrayValue": {}}, {"kvlistValue": {"values": [{"key": "a"}]}},
    ]  # fmt: skip
    request = exported(filled)
    pair = next(pair for pair in logs(request)[number]["attributes"] if pair["key"] == "otel_audit.custom.g.v")
    for other in others:
        if other == pair.get("value", {}):
            continue
        before, pair["value"] = pair.get("value", {}), other
        found = compared(filled, request)
        assert [fault.detail for fault in found.faults] == [
            f"record {number + 1} of the archive: otel_audit.custom.g.v"
        ]
        pair["value"] = before


def test_what_is_missing_on_either_side(filled: Path) -> None:
    """A record that the file lacks, and one that the archive lacks, are named by their ids; others' are left alone."""
    request = exported(filled)
    del logs(request)[6]
    copy = json.loads(json.dumps(logs(request)[0]))
    foreign = json.loads(json.dumps(copy))
    for pair in copy["attributes"]:
        if pair["key"] in {"audit.record.id", "log.record.uid"}:
            pair["value"] = {"stringValue": "01a20089-eec4-7998-9f80-961a142ab774"}
    for pair in foreign["attributes"]:
        if pair["key"] == "audit.sequence.stream_id":
            pair["value"] = {"stringValue": "another"}
    logs(request).extend([copy, foreign, {"body": {"stringValue": "no audit record"}}])
    found = compared(filled, request)
    assert [(fault.code, fault.detail) for fault in found.faults] == [
        ("export-unknown", "the archive has another record, or none, as 1"),
        ("export-missing", "record 7 of the archive"),
    ]
    assert "01a20089-eec4-7998-9f80-961a142ab774" in found.faults[0].place
    assert (found.matching, found.foreign, found.missing) == (RECORDS - 1, 2, 1)


def test_what_was_not_delivered_is_not_missing(filled: Path) -> None:
    """Behind the cursor, and for dead letters, the collector's file is not expected to have a record."""
    with connect(filled) as connection:
        connection.execute("INSERT INTO destination (name, endpoint, cursor) VALUES ('otlp', 'http://x', 9)")
        connection.execute("INSERT INTO dead_letter VALUES ('otlp', 4, 1, 'too large', 0)")
    request = exported(filled)
    del logs(request)[9:]
    del logs(request)[3]
    found = compared(filled, request)
    assert (found.matching, found.waiting, found.missing, found.fault_count) == (8, 4, 0, 0)
    del logs(request)[0]
    assert compared(filled, request).missing == 1


@pytest.mark.parametrize("names", [False, True])
def test_what_a_collector_got_over_the_wire(filled: Path, names: bool) -> None:
    """What arrived at a collector, written as JSON, is what the archive holds; names of severities are understood."""
    with Collector() as collector:
        assert ship(filled, collector)
        messages = [ExportLogsServiceRequest.FromString(call.body) for call in collector.calls]
    requests = [MessageToDict(message, use_integers_for_enums=not names) for message in messages]
    found = compared(filled, *requests)
    assert (found.matching, found.waiting, found.missing, found.faults) == (RECORDS, 0, 0, ())


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe", b"[]", b"null", b"{", b'{"resourceLogs": 5}', b'{"resourceLogs": [5]}', b"[" * 100_000,
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [7]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": [5]}]}]}]}',
        b'{"resourceLogs": [{"resource": {"attributes": [{"key": "a", "value": {"intValue": "x"}}]}}]}',
        b"{}\nnonsense\n",
    ],
)  # fmt: skip
def test_files_of_something_else(filled: Path, content: bytes) -> None:
    """What is no OTLP/JSON is an error that says so, whatever it is; so is a file that is not there."""
    file = filled.with_name("other")
    file.write_bytes(content)
    with open_archive(filled) as archive:
        with pytest.raises(ConfigError, match=r"is no OTLP/JSON|cannot be read"):
            compare(archive, file, keep=5)
        with pytest.raises(ConfigError, match="No such file"):
            compare(archive, filled.with_name("none"), keep=5)
