"""The receiver, as a process: what is answered with 200 is in the archive; all else is told to the client."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_audit.archive.verify import verify
from otel_audit.record import Actor
from otel_audit.testing import Collector
from tests.archive_material import assert_sound
from tests.receiving import COMPLETE, TIME, Receiving, binary, json_request, message, post, records, status_of

ID = "0192f0c4-0000-7000-8000-000000000001"
JSON = "application/json"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    """A receiver for requests that are refused, and small limits to meet."""
    path = tmp_path_factory.mktemp("receiver") / "audit.db"
    with Receiving(path, "--max-body", "1") as receiving:
        yield receiving


def as_json(record_id: str = ID, **fields: Any) -> dict[str, Any]:
    """Return a log record in JSON."""
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in COMPLETE.items()]
    attributes.append({"key": "audit.record.id", "value": {"stringValue": record_id}})
    attributes += fields.pop("attributes", [])
    return {"timeUnixNano": str(TIME), "eventName": "order.deleted", "attributes": attributes, **fields}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["application/x-protobuf", "application/json; charset=utf-8"])
def test_what_is_answered_is_recorded(archive_path: Path, form: str, packed: bool) -> None:
    """Both encodings, packed or not, give the same record: its id, time, attributes, resource and scope are kept."""
    if form.startswith(JSON):
        body = json_request(as_json(body={"stringValue": "Order 7 deleted"}))
    else:
        log = message(record_id=ID, body=AnyValue(string_value="Order 7 deleted"))
        body = binary(log)
    with Collector() as collector:
        with Receiving(archive_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as receiving:
            before = time.time_ns()
            answer = post(receiving.url, body, form=form, pack=packed)
            assert (answer.status, answer.headers["content-type"]) == (200, form.partition(";")[0])
            assert answer.body == (b"{}" if form.startswith(JSON) else b"")
            (record,) = records(archive_path)
            assert collector.wait_for(1, 30)
        (came,) = collector.records
    assert (record.record_id, record.time, record.type, record.host) == (ID, TIME, "order.deleted", "example.com")
    assert before <= record.observed <= time.time_ns()
    assert (record.actor, record.user, record.source) == (Actor("alice", "user"), "alice", "shop.orders")
    assert (record.message, record.altered, record.custom) == ("Order 7 deleted", (), {})
    assert (came.record_id, came.resource, came.scope_name) == (ID, {"service.name": "shop"}, "shop.orders")
    assert verify(archive_path).intact


def test_what_is_missing_is_filled_in_and_marked(archive_path: Path) -> None:
    """The record of an empty log record is complete, and says what was made up."""
    with Receiving(archive_path) as receiving:
        assert post(receiving.url, binary(message({}, time_unix_nano=0, event_name=""), service="")).status == 200
        assert post(receiving.url, json_request({}), form=JSON).status == 200
    first, second = records(archive_path)
    assert first.altered == (
        "resource:missing", "timestamp:missing", "actor.id:missing", "actor.type:missing", "action:missing",
        "outcome:missing", "record_id:missing", "type:missing", "host:missing",
    )  # fmt: skip
    assert second.altered == first.altered[1:]
    assert (first.type, first.host, first.source, first.time) == ("log.audit", "unknown", "shop.orders", first.observed)
    assert first.record_id != second.record_id


def test_a_host_for_those_that_name_none(archive_path: Path) -> None:
    """The option names the host of records without one, which is no guess and not marked."""
    attributes = {key: value for key, value in COMPLETE.items() if "host" not in key}
    with Receiving(archive_path, "--host", "shop.example") as receiving:
        assert post(receiving.url, binary(message(attributes, ID))).status == 200
    (record,) = records(archive_path)
    assert (record.host, record.altered) == ("shop.example", ())


def test_repeats_and_conflicts_on_logs(archive_path: Path) -> None:
    """A repeat is answered like the first, without a copy; the same id with other content is recorded, marked."""
    first = binary(message(record_id=ID))
    other = binary(message(record_id=ID, event_name="order.created"))
    with Receiving(archive_path) as receiving:
        assert [post(receiving.url, body).status for body in (first, first, other, other, first)] == [200] * 5
    assert [(record.type, record.altered) for record in records(archive_path)] == [
        ("order.deleted", ()),
        ("order.created", (f"record_id:taken:{ID}",)),
    ]


def test_receipts_on_audit(archive_path: Path) -> None:
    """`/v1/audit` answers with a receipt for each record, in JSON and in protobuf; a repeat has that of the first."""
    with Receiving(archive_path) as receiving:
        told = post(receiving.url, json_request(as_json(), as_json()), "/v1/audit", form=JSON)
        again = post(receiving.url, binary(message(record_id=ID)), "/v1/audit")
    assert (told.status, again.status) == (200, 200)
    first, second = json.loads(told.body)["receipts"]
    assert (first["recordId"], first["sequenceNumber"], first["repeat"], second["repeat"]) == (ID, "1", False, True)
    answer = ExportLogsServiceResponse.FromString(again.body)
    assert not answer.HasField("partial_success")
    unknown = UnknownFieldSet(answer)
    assert len(unknown) == 1
    receipt = unknown[0]
    assert receipt.field_number == 1000
    assert first["integrityHash"].encode() in receipt.data
    assert ID.encode() in receipt.data
    assert [first["integrityHash"], second["integrityHash"]] == [first["integrityHash"]] * 2
    assert_sound(archive_path, records=1)


def test_conflicts_on_audit(archive_path: Path) -> None:
    """The same id with other content is refused with 409, which names it; the others of the request are recorded."""
    other_id = ID[:-1] + "2"
    with Receiving(archive_path) as receiving:
        assert post(receiving.url, json_request(as_json()), "/v1/audit", form=JSON).status == 200
        body = json_request(as_json(eventName="order.created"), as_json(other_id))
        answer = post(receiving.url, body, "/v1/audit", form=JSON)
        assert answer.status == 409
        code, told = status_of(answer)
    assert (code, ID in told, other_id in told) == (6, True, False)
    assert [record.record_id for record in records(archive_path)] == [ID, other_id]


@pytest.mark.parametrize(
    ("body", "form", "headers", "status"),
    [
        (b"\x0a\xff", "application/x-protobuf", {}, 400),
        (b"{", JSON, {}, 400),
        (b"[]", JSON, {}, 400),
        (b'{"resourceLogs": 7}', JSON, {}, 400),
        (b"", JSON, {}, 400),
        (b"no gzip", JSON, {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b"{}")[:-4], JSON, {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b"{}") * 2, JSON, {"Content_Encoding": "gzip"}, 400),
        (b"", "application/x-protobuf", {"Content_Encoding": "gzip"}, 400),
        (b"{}", "text/plain", {}, 415),
        (b"{}", "", {}, 415),
        (b"{}", JSON, {"Content_Encoding": "br"}, 415),
        (b"\x0a" * 1_100_000, "application/x-protobuf", {}, 413),
        (gzip.compress(bytes(500_000_000)), "application/x-protobuf", {"Content_Encoding": "gzip"}, 413),
        (json_request(*[{}] * 16_385), JSON, {}, 413),
    ],
)
def test_what_is_refused(shared: Receiving, body: bytes, form: str, headers: dict[str, Any], status: int) -> None:
    """Malformed, oversized and unknown requests get the right status, and a Status in their encoding."""
    answer = post(shared.url, body, form=form, **headers)
    assert answer.status == status
    code, told = status_of(answer)
    assert code == 3
    assert told
    assert answer.headers["content-type"] == (JSON if form == JSON else "application/x-protobuf")
    assert not records(shared.archive)


def test_other_methods_and_paths(shared: Receiving) -> None:
    """Only POST is answered, only where OTLP/HTTP sends logs."""
    assert post(shared.url, b"", method="GET").status == 405
    assert post(shared.url, b"", "/v1/traces").status == 404
    # No redirection either: it would lead to wherever the client says that it is.
    assert post(shared.url, b"", "/v1/logs/").status == 404
    health = post(shared.url, b"", "/healthz", method="GET")
    assert (health.status, json.loads(health.body)) == (200, {"status": "ok"})


def test_a_request_without_records(shared: Receiving) -> None:
    """An empty request is one: nothing was sent, nothing is recorded, no receipt is given."""
    assert post(shared.url, b"").status == 200
    assert json.loads(post(shared.url, b"{}", "/v1/audit", form=JSON).body) == {"receipts": []}
    assert not records(shared.archive)


def test_overload_is_told(archive_path: Path) -> None:
    """Beyond the requests that may be worked on at once, 503 asks to try again; afterwards all goes on."""
    body = binary(message())
    with Receiving(archive_path, "--max-requests", "1") as receiving:
        host, _, port = receiving.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as slow:
            head = f"POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: 2\r\n\r\n{{"
            slow.sendall(head.encode())
            time.sleep(0.5)
            answer = post(receiving.url, body)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert status_of(answer)[0] == 14
            slow.sendall(b"}")
            assert slow.recv(100).startswith(b"HTTP/1.1 200")
        assert post(receiving.url, body).status == 200
    assert len(records(archive_path)) == 1


def test_requests_under_way_are_answered_at_the_end(archive_path: Path) -> None:
    """SIGTERM lets a request that is coming in end properly, and nobody else begin."""
    body = json_request(as_json())
    receiving = Receiving(archive_path)
    with receiving:
        host, _, port = receiving.url.removeprefix("http://").partition(":")
        slow = socket.create_connection((host, int(port)))
        head = f"POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body[:10])
        time.sleep(0.5)
        assert receiving.process is not None
        receiving.process.terminate()
        time.sleep(0.5)
        slow.sendall(body[10:])
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        slow.close()
    assert len(records(archive_path)) == 1


def test_concurrent_requests_share_commits(archive_path: Path) -> None:
    """Each of many requests at once is answered, and each record is there once."""
    statuses: list[int] = []

    def send(number: int) -> None:
        for count in range(10):
            ids = [f"0192f0c4-0000-7000-8000-{number:04x}{count:04x}{part:04x}" for part in range(5)]
            body = binary(*(message(record_id=record_id) for record_id in ids))
            statuses.append(post(receiving.url, body).status)

    with Receiving(archive_path) as receiving:
        threads = [threading.Thread(target=send, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 160
    assert_sound(archive_path, records=800)
    assert verify(archive_path).intact


def test_an_archive_that_takes_no_records(archive_path: Path) -> None:
    """503 and Retry-After while the archive is gone; nothing is answered with 200 that is not there."""
    receiving = Receiving(archive_path)
    receiving.start()
    try:
        assert post(receiving.url, binary(message())).status == 200
        archive_path.rename(archive_path.with_suffix(".away"))
        answer = post(receiving.url, binary(message()))
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert str(archive_path) not in status_of(answer)[1]
        assert post(receiving.url, b"", "/healthz", method="GET").status == 503
        archive_path.with_suffix(".away").rename(archive_path)
        assert post(receiving.url, binary(message())).status == 200
        assert post(receiving.url, b"", "/healthz", method="GET").status == 200
    finally:
        receiving.stop(check=False)
    assert "records cannot be kept, clients are told to try again" in receiving.complaints
    assert "Traceback" not in receiving.complaints
    assert_sound(archive_path, records=2)
