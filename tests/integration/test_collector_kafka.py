"""Through the Collector into a topic: what a consumer of Kafka reads is the archive, record by record."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_audit.archive.against import compare
from otel_audit.archive.query import open_archive
from tests.archive_material import provider_at, wait_until
from tests.collector_build import needed
from tests.otelcol import Otelcol, configuration, free_ports


@contextmanager
def kafka(port: int, messages: Path) -> Iterator[None]:
    """Run a broker in memory, whose consumer writes each message of the topic ``audit`` to a file, as base64."""
    with messages.open("wb") as output:
        process = subprocess.Popen((needed("kafka"), str(port), "audit"), stdout=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def requests(messages: Path) -> list[ExportLogsServiceRequest]:
    lines = messages.read_bytes().split(b"\n")[:-1]
    return [ExportLogsServiceRequest.FromString(base64.b64decode(line)) for line in lines]


def count(message: ExportLogsServiceRequest) -> int:
    return sum(len(scope.log_records) for logs in message.resource_logs for scope in logs.scope_logs)


def test_what_a_consumer_reads(archive_path: Path, tmp_path: Path) -> None:
    """Records that were queued before there was a broker arrive whole, in messages below Kafka's limit of 1 MB."""
    (port,) = free_ports(1)
    messages, file = tmp_path / "messages", tmp_path / "received.jsonl"
    variables = {"AUDIT_KAFKA": f"127.0.0.1:{port}"}
    collector = Otelcol(tmp_path / "collector", configuration("kafka"), variables=variables)
    with collector:
        with provider_at(archive_path, endpoint=collector.http_endpoint) as provider:
            for number in range(1_000):
                fields = {"text": "x" * 4_000, "list": [number, 1.5, b"x"]}
                provider.get_logger("tests").audit("data.exported", user=f"user-{number}", custom={"large": fields})
            assert provider.force_flush(20), collector.log[-2000:]
        with kafka(port, messages):
            wait_until(lambda: sum(map(count, requests(messages))) >= 1_000, 60)
            assert collector.metric("otelcol_exporter_send_failed_log_records") == 0
    received = requests(messages)
    assert len(received) > 4
    assert max(message.ByteSize() for message in received) < 1_000_000
    file.write_text("".join(json.dumps(MessageToDict(message)) + "\n" for message in received), "utf-8")
    with open_archive(archive_path) as archive:
        found = compare(archive, file, keep=20)
    assert (found.faults, found.missing, found.waiting) == ((), 0, 0)
    assert found.matching >= 1_000
