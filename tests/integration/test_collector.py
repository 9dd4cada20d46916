"""The collector that users' tests are given: what it keeps, how it misbehaves, how it comes and goes."""

from __future__ import annotations

import threading
import time

import pytest
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_audit.delivery.factory import make_sender
from otel_audit.delivery.sender import Sender, Verdict
from otel_audit.otlp_settings import Protocol, resolve
from otel_audit.testing import Collector, LogRecord, Reply
from tests.otlp_material import request_of

PROTOCOLS: list[Protocol] = ["http/protobuf", "grpc"]


def sender_to(collector: Collector, protocol: Protocol) -> Sender:
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
    settings = resolve({}, endpoint=endpoint, protocol=protocol)
    assert settings is not None
    return make_sender(settings)


def test_a_record_is_decoded_whole() -> None:
    """Every field of a record is there as a plain value."""
    message = ExportLogsServiceRequest()
    resource_logs = message.resource_logs.add()
    resource_logs.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope_logs = resource_logs.scope_logs.add()
    scope_logs.scope.name, scope_logs.scope.version = "otel_audit", "1"
    record = scope_logs.log_records.add(
        time_unix_nano=1, observed_time_unix_nano=2, severity_number=9, severity_text="INFO", event_name="e",
        trace_id=b"\x01" * 16, span_id=b"\x02" * 8, flags=1,
    )  # fmt: skip
    record.attributes.add(key="audit.record.id").value.string_value = "id"
    record.attributes.add(key="raw").value.bytes_value = b"\xff"
    record.body.array_value.values.add().bool_value = True
    with Collector() as collector:
        sender = sender_to(collector, "http/protobuf")
        assert sender.send(message.SerializeToString(), 5).verdict is Verdict.ACCEPTED
        sender.close()
        (received,) = collector.records
    assert received == LogRecord(
        attributes={"audit.record.id": "id", "raw": b"\xff"}, body=[True], event_name="e", time=1, observed_time=2,
        severity=9, severity_text="INFO", trace_id="01" * 16, span_id="02" * 8, flags=1,
        resource={"service.name": "shop"}, scope_name="otel_audit", scope_version="1",
    )  # fmt: skip
    assert received.record_id == "id"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_script_is_followed_and_then_everything_accepted(protocol: Protocol) -> None:
    """Answers are given one a request; refused records are not kept, of a partial success the first are."""
    script = [Reply(status=503), Reply(rejected=1), Reply(lose_answer=True), Reply(drop="after")]
    with Collector(script) as collector:
        sender = sender_to(collector, protocol)
        verdicts = [sender.send(request_of(2), 5).verdict for _ in range(6)]
        sender.close()
        assert verdicts == [
            Verdict.RETRY, Verdict.PARTIAL, Verdict.RETRY, Verdict.RETRY, Verdict.ACCEPTED, Verdict.ACCEPTED
        ]  # fmt: skip
        assert collector.record_ids == ["id-0", *["id-0", "id-1"] * 3]
        assert collector.requests == 6
        collector.clear()
        assert (collector.records, collector.requests) == ([], 0)


def test_a_callable_script_decides_each_time() -> None:
    """A callable gives the next answer, and None accepts."""
    refusing = threading.Event()
    with Collector(lambda: Reply(status=400) if refusing.is_set() else None) as collector:
        sender = sender_to(collector, "http/protobuf")
        assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
        refusing.set()
        assert sender.send(request_of(1), 5).verdict is Verdict.REFUSED
        sender.close()


def test_wait_for_waits() -> None:
    """Waiting ends when the records are there, or with the time; repetitions count once where that is asked for."""
    with Collector() as collector:
        sender = sender_to(collector, "http/protobuf")
        started = time.monotonic()
        assert not collector.wait_for(1, timeout=0.1)
        assert 0.1 <= time.monotonic() - started < 1
        later = threading.Timer(0.2, lambda: sender.send(request_of(3), 5))
        later.start()
        assert collector.wait_for(3, timeout=5)
        later.join()
        sender.send(request_of(3), 5)
        assert collector.wait_for(6, timeout=1)
        assert collector.wait_for(3, timeout=1, distinct=True)
        assert not collector.wait_for(4, timeout=0.05, distinct=True)
        sender.close()


def test_it_comes_back_on_its_ports() -> None:
    """Stopped and started it listens on the same ports, remembers, and is refused connections in between."""
    with Collector() as collector:
        before = (collector.endpoint, collector.grpc_endpoint)
        collector.stop()
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{collector.endpoint}/v1/logs", timeout=5)
        collector.start()
        assert (collector.endpoint, collector.grpc_endpoint) == before
        for protocol in PROTOCOLS:
            sender = sender_to(collector, protocol)
            assert sender.send(request_of(1), 5).verdict is Verdict.ACCEPTED
            sender.close()


def test_what_is_no_otlp_is_refused() -> None:
    """Other paths, media types and bodies without a length get the status that a collector gives."""
    with Collector() as collector:
        url = f"{collector.endpoint}/v1/logs"
        protobuf = {"Content-Type": "application/x-protobuf"}
        assert (
            requests.post(f"{collector.endpoint}/v1/traces", data=b"x", headers=protobuf, timeout=5).status_code == 404
        )
        assert (
            requests.post(url, data=b"{}", headers={"Content-Type": "application/json"}, timeout=5).status_code == 415
        )
        assert requests.post(url, data=iter([b"x"]), headers=protobuf, timeout=5).status_code == 411
        assert requests.post(url, data=b"\xff", headers=protobuf, timeout=5).status_code == 200
        with pytest.raises(ValueError, match="cannot be decoded"):
            _ = collector.records


def test_wrong_use_says_what_is_wrong() -> None:
    """An unknown code, half a TLS configuration and an endpoint before the start raise with the remedy."""
    with pytest.raises(ValueError, match="UNAVAILABLE"):
        Reply(code="BUSY")
    with pytest.raises(ValueError, match="both"):
        Collector(certificate="/c")
    with pytest.raises(RuntimeError, match="context manager"):
        _ = Collector().endpoint


def test_it_keeps_pace() -> None:
    """20,000 records in batches of 1,000 are taken within a second or two, since they are decoded later."""
    request = request_of(1000)
    with Collector() as collector:
        sender = sender_to(collector, "http/protobuf")
        started = time.monotonic()
        for _ in range(20):
            assert sender.send(request, 5).verdict is Verdict.ACCEPTED
        took = time.monotonic() - started
        sender.close()
        assert collector.wait_for(20_000, timeout=5)
        assert len(collector.records) == 20_000
    assert took < 2
