"""Real clients of the receiver: SDKs in two languages, a collector that forwards, our own sender; and `kill -9`."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import verify
from otel_audit.testing import Collector
from tests.archive_material import assert_sound, provider_at, wait_until
from tests.javascript_client import emit
from tests.receiving import COMPLETE, Receiving, records
from tests.rotel import Rotel


def record_id(number: int) -> str:
    return f"0192f0c4-0000-7000-8000-{number:012x}"


@pytest.mark.parametrize("path", ["/v1/logs", "/v1/audit"])
def test_the_python_sdk(archive_path: Path, path: str) -> None:
    """What the SDK's own exporter sends is recorded as it was emitted; the exporter takes the answer for success."""
    with Receiving(archive_path) as receiving:
        sdk = LoggerProvider(Resource({"service.name": "py-shop"}), shutdown_on_exit=False)
        sdk.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(endpoint=receiving.url + path)))
        log = sdk.get_logger("py.orders", "2.0")
        for number in range(100):
            log.emit(
                LogRecord(
                    event_name="order.deleted",
                    body=f"Order {number} deleted",
                    timestamp=1_700_000_000_000_000_000 + number,
                    severity_number=SeverityNumber.INFO,
                    severity_text="INFO",
                    attributes={**COMPLETE, "audit.record.id": record_id(number), "otel_audit.custom.order.n": number},
                )
            )
        assert sdk.force_flush()
        sdk.shutdown()
    found = records(archive_path)
    assert sorted(record.record_id for record in found) == [record_id(number) for number in range(100)]
    for record in found:
        number = int(record.record_id[-12:], 16)
        assert (record.time, record.message) == (1_700_000_000_000_000_000 + number, f"Order {number} deleted")
        assert (record.custom["order"], record.altered) == ({"n": number}, ())
        assert (record.source, record.user) == ("py.orders", "alice")


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_the_javascript_sdk(archive_path: Path, form: str) -> None:
    """What the JavaScript SDK sends is recorded as emitted, half characters included; a repeat leaves no copy."""
    with Receiving(archive_path) as receiving:
        for _ in range(2):
            emit(receiving.url + "/v1/logs", form, 120)
    found = records(archive_path)
    assert sorted(record.record_id for record in found) == [record_id(number) for number in range(120)]
    for record in found:
        number = int(record.record_id[-12:], 16)
        note = "half \\ud800 of a pair" if form == "json" else "whole"
        assert record.custom["order"] == {
            "number": number, "total": 99.5, "lines": ("a", "b"), "paid": True, "note": note,
        }  # fmt: skip
        assert record.altered == (("custom.order.note:escaped",) if form == "json" else ())
        assert (record.source, record.message) == ("js.orders", f"Order {number} deleted")


def test_a_collector_that_forwards(archive_path: Path, tmp_path: Path) -> None:
    """What an application ships goes through a collector and the receiver to a backend: each id once, chained."""
    with Collector() as backend, Receiving(archive_path, OTEL_EXPORTER_OTLP_ENDPOINT=backend.endpoint) as receiving:
        with Rotel(receiving.url) as rotel, provider_at(tmp_path / "app.db", endpoint=rotel.http_endpoint) as provider:
            log = provider.get_logger("shop")
            sent = [log.audit("user.login.failure", user=f"user{n}", custom={"g": {"n": n}}) for n in range(300)]
            assert provider.force_flush(20)
            wait_until(lambda: len(backend.record_ids) >= 300)
        assert sorted(map(str, backend.record_ids)) == sorted(receipt.record_id for receipt in sent)
    with open_archive(tmp_path / "app.db") as application:
        original = {record.record_id: record for record in application.query()}
        stream = application.id
    for record in records(archive_path):
        was = original[record.record_id]
        assert (record.host, record.user, record.type, record.time) == (was.host, was.user, was.type, was.time)
        assert record._replace(custom={}, observed=0, sequence=0, integrity_hash="", stream_id="") == was._replace(
            custom={}, observed=0, sequence=0, integrity_hash="", stream_id=""
        )
        assert record.custom["g"] == was.custom["g"]
        assert record.custom["origin"]["sequence_number"] == was.sequence
        assert record.custom["origin"]["sequence_stream_id"] == stream
    assert verify(archive_path).intact


CLIENT = textwrap.dedent("""
    import sys, time, uuid
    sys.path.insert(0, {root!r})
    from tests.receiving import binary, message, post
    url, number = sys.argv[1:]
    count = 0
    while True:
        ids = [f"0192f0c4-0000-7000-8000-{{int(number):04x}}{{count:06x}}{{part:02x}}" for part in range(3)]
        body = binary(*(message(record_id=record_id) for record_id in ids))
        while True:
            try:
                answer = post(url, body)
            except OSError:
                time.sleep(0.05)
                continue
            if answer.status == 200:
                break
            time.sleep(0.05)
        print(*ids, flush=True)
        count += 1
""")


def test_a_receiver_that_is_killed(archive_path: Path) -> None:
    """kill -9 amid the requests of several clients, again and again: what was answered is there, each record once."""
    root = str(Path(__file__).parents[2])
    receiving = Receiving(archive_path)
    receiving.start()
    command = [sys.executable, "-c", CLIENT.format(root=root), receiving.url]
    clients = [subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True) for number in range(3)]
    told: list[list[str]] = [[] for _ in clients]

    def listen(number: int) -> None:
        stdout = clients[number].stdout
        assert stdout is not None
        with stdout:
            for line in stdout:
                told[number] += line.split()

    def wait_for_more(count: int) -> None:
        least = [len(ids) + count for ids in told]
        wait_until(lambda: all(len(ids) >= wanted for ids, wanted in zip(told, least, strict=True)), 60)

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    try:
        for cycle in range(4):
            wait_for_more(30)
            time.sleep(0.013 * cycle)
            receiving.kill()
            receiving.start()
        wait_for_more(1)
    finally:
        for client in clients:
            client.kill()
            client.wait()
        for thread in threads:
            thread.join()
        receiving.stop(check=False)
    acknowledged = [identity for ids in told for identity in ids]
    found = [record.record_id for record in records(archive_path)]
    assert len(set(found)) == len(found)
    assert set(acknowledged) <= set(found)
    assert len(found) <= len(acknowledged) + 3 * 3
    assert_sound(archive_path)
    assert verify(archive_path).intact
