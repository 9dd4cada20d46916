"""durable.yaml before a second Collector that is away: killed under load, and full, it loses nothing."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from otel_audit.archive.query import open_archive
from otel_audit.record import Receipt
from tests.archive_material import assert_sound, provider_at, wait_until
from tests.otelcol import Otelcol, assert_all_arrived, configuration, logs, overlay, writing

KILLS = 5
THREADS = 4
FULL = """
exporters:
  otlp_grpc:
    sending_queue:
      queue_size: 3000
      batch: {min_size: 500, max_size: 1000}
"""


def upstream(receiver: Otelcol) -> dict[str, str]:
    return {"AUDIT_UPSTREAM": receiver.grpc_endpoint.partition("//")[2], "AUDIT_UPSTREAM_INSECURE": "true"}


def ids(file: Path) -> list[str]:
    """Return the record ids that a Collector wrote to a file."""
    return [
        pair["value"]["stringValue"]
        for log in logs(file)
        for pair in log["attributes"]
        if pair["key"] == "audit.record.id"
    ]


def arrived(file: Path, count: int) -> bool:
    """Tell whether so many different records were written."""
    # Counted first: to read all of it again and again takes the time that the Collectors need.
    return file.exists() and file.read_bytes().count(b'{"key":"audit.record.id"') >= count <= len(set(ids(file)))


def test_killed_under_load(archive_path: Path, tmp_path: Path) -> None:
    """The gateway is killed five times while records come and its receiver is away; each receipt's record arrives."""
    receipts: list[Receipt] = []
    stopped = threading.Event()
    last, file = writing(tmp_path, configuration("minimal"))
    gateway = Otelcol(tmp_path / "gateway", configuration("durable"), variables=upstream(last))

    def work(number: int) -> None:
        log = provider.get_logger(f"thread-{number}")
        while not stopped.wait(0.002):
            receipts.append(log.audit("user.login.success", user=f"user-{number}"))

    with gateway, provider_at(archive_path, endpoint=gateway.http_endpoint, compression="gzip") as provider:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        chance = random.Random(1)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.2, 0.8))
            gateway.kill()
            gateway.start()
        stopped.set()
        for thread in threads:
            thread.join()
        assert provider.force_flush(30), gateway.log[-2000:]
        assert not file.exists()
        # It says that it drops what it had begun to send, and does not.
        gateway.stop()
        assert "Dropping data" in gateway.log
        gateway.start()
        with last:
            wait_until(lambda: arrived(file, len(receipts)), 60)
            assert gateway.metric("otelcol_exporter_send_failed_log_records") == 0
    assert_sound(archive_path, receipts, records=len(receipts))
    assert_all_arrived(archive_path, file, len(receipts))
    assert set(ids(file)) == {receipt.record_id for receipt in receipts}


def test_a_full_queue_makes_producers_wait(archive_path: Path, tmp_path: Path) -> None:
    """A gateway whose queue is full takes no more and drops nothing; the producer keeps the rest meanwhile."""
    last, file = writing(tmp_path, configuration("minimal"))
    small = overlay(tmp_path, "small", FULL)
    gateway = Otelcol(tmp_path / "gateway", configuration("durable"), small, variables=upstream(last))
    with gateway, provider_at(archive_path, endpoint=gateway.http_endpoint, timeout=2.0) as provider:
        log = provider.get_logger("tests")
        for number in range(50):
            # Requests that fit into the queue, one after the other.
            for _ in range(300):
                log.audit("user.login.success", user=f"user-{number}")
            if not provider.force_flush(1):
                break
        with open_archive(archive_path) as archive:
            state = archive.status()
        assert state.backlog > 0
        records = state.sequence
        assert records < 15_000
        with last:
            assert provider.force_flush(60), gateway.log[-2000:]
            wait_until(lambda: arrived(file, records), 30)
        with open_archive(archive_path) as archive:
            assert archive.status().destinations[0].dead_letters == 0
    assert_all_arrived(archive_path, file, records)
