"""What the library tells about itself through the metrics API, read back with the SDK."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_audit import metrics as metrics_module
from otel_audit._version import __version__
from otel_audit.delivery.outbox import requeue
from otel_audit.errors import ArchiveError
from otel_audit.metrics import Metrics
from otel_audit.provider import AuditProvider
from otel_audit.testing import Collector, Reply
from tests.archive_material import wait_until


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a reader of a meter provider that the library's instruments are made from."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr(metrics_module, "get_meter", provider.get_meter)
    yield reader
    provider.shutdown()


def read(reader: InMemoryMetricReader) -> dict[str, dict[str, Any]]:
    """Return data points by instrument and destination."""
    data = reader.get_metrics_data()
    points: dict[str, dict[str, Any]] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            assert (scope.scope.name, scope.scope.version) == ("otel_audit", __version__)
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    destination = str((point.attributes or {}).get("destination", ""))
                    points.setdefault(metric.name, {})[destination] = point
    return points


def values(reader: InMemoryMetricReader, *names: str) -> list[float]:
    """Return what gauges say of the destination `otlp`."""
    points = read(reader)
    return [points[name]["otlp"].value for name in names]


def test_instruments(reader: InMemoryMetricReader) -> None:
    """Each counter counts, the histogram takes seconds, the gauges ask for each destination."""
    oldest = time.time_ns() - 3 * 10**9
    metrics = Metrics(lambda: [("otlp", 7, oldest, 2), ("idle", 0, None, 0), ("skewed", 1, time.time_ns() + 10**12, 0)])
    metrics.emitted(3)
    metrics.emitted(2)
    metrics.exported("otlp", 4, 0.25)
    metrics.exported("other", 1, 0.5)
    metrics.dropped()
    points = read(reader)
    assert points["audit.records.emitted"][""].value == 5
    assert {name: point.value for name, point in points["audit.records.exported"].items()} == {"otlp": 4, "other": 1}
    assert points["audit.records.dropped"][""].value == 1
    assert {name: point.value for name, point in points["audit.queue.depth"].items()} == {
        "otlp": 7,
        "idle": 0,
        "skewed": 1,
    }
    ages = {name: point.value for name, point in points["audit.queue.oldest.age"].items()}
    assert 3.0 <= ages["otlp"] < 10.0
    assert (ages["idle"], ages["skewed"]) == (0, 0)
    assert {name: point.value for name, point in points["audit.dead_letters"].items()} == {
        "otlp": 2,
        "idle": 0,
        "skewed": 0,
    }
    duration = points["audit.export.duration"]
    assert (duration["otlp"].count, duration["otlp"].sum, duration["other"].sum) == (1, 0.25, 0.5)


def test_units(reader: InMemoryMetricReader) -> None:
    """Durations and ages are in seconds, counts in records."""
    metrics = Metrics(lambda: [("otlp", 1, 1, 0)])
    metrics.emitted(1)
    metrics.exported("otlp", 1, 1.0)
    metrics.dropped()
    data = reader.get_metrics_data()
    assert data is not None
    assert {metric.name: metric.unit for metric in data.resource_metrics[0].scope_metrics[0].metrics} == {
        "audit.records.emitted": "{record}",
        "audit.records.exported": "{record}",
        "audit.records.dropped": "{record}",
        "audit.queue.depth": "{record}",
        "audit.queue.oldest.age": "s",
        "audit.dead_letters": "{record}",
        "audit.export.duration": "s",
    }


def test_a_provider_from_outage_to_delivery(archive_path: Path, reader: InMemoryMetricReader) -> None:
    """During an outage the queue's depth and age grow; afterwards all is counted as exported, once."""
    down = True

    def answer() -> Reply | None:
        return Reply(status=503, retry_after=0.1) if down else None

    with Collector(answer) as collector, AuditProvider(archive=archive_path, endpoint=collector.endpoint) as provider:
        log = provider.get_logger("s", host="h")
        for _ in range(5):
            log.audit("t")
        time.sleep(0.05)
        points = read(reader)
        assert points["audit.records.emitted"][""].value == 5
        assert points["audit.queue.depth"]["otlp"].value == 5
        assert 0.04 < points["audit.queue.oldest.age"]["otlp"].value < 10
        assert "audit.records.exported" not in points
        down = False
        assert provider.force_flush(10.0)
        points = read(reader)
        assert points["audit.records.exported"]["otlp"].value == 5
        assert points["audit.queue.depth"]["otlp"].value == 0
        assert points["audit.queue.oldest.age"]["otlp"].value == 0
        assert points["audit.export.duration"]["otlp"].count >= 1
        assert "audit.records.dropped" not in points


def test_dead_letters_until_they_are_delivered(archive_path: Path, reader: InMemoryMetricReader) -> None:
    """What a collector refuses for good counts as dead, not as waiting, until it was put back and accepted."""
    refuses = True
    with (
        Collector(lambda: Reply(status=400) if refuses else None) as collector,
        AuditProvider(archive=archive_path, endpoint=collector.endpoint) as provider,
    ):
        log = provider.get_logger("s", host="h")
        for _ in range(3):
            log.audit("t")
        wait_until(lambda: values(reader, "audit.dead_letters", "audit.queue.depth") == [3, 0])
        refuses = False
        assert requeue(archive_path, "otlp") == 3
        assert values(reader, "audit.dead_letters") == [0]
        assert provider.force_flush(10.0)
        assert values(reader, "audit.dead_letters", "audit.queue.depth") == [0, 0]


def test_dropped_records_are_counted(archive_path: Path, reader: InMemoryMetricReader) -> None:
    """Each record that policy `log` lets go counts as dropped, and not as emitted."""
    with AuditProvider(archive=archive_path, host="h", on_failure="log", block_timeout=0.2) as provider:
        log = provider.get_logger("s")
        log.audit("kept")
        hidden = archive_path.with_name("hidden.db")
        archive_path.rename(hidden)
        log.audit("lost")
        log.audit("lost")
        hidden.rename(archive_path)
    points = read(reader)
    assert (points["audit.records.dropped"][""].value, points["audit.records.emitted"][""].value) == (2, 1)


def test_after_shutdown_the_gauges_are_silent(
    archive_path: Path, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """A meter goes on asking after the shutdown; it gets no values, and nobody gets warnings."""
    with AuditProvider(archive=archive_path, endpoint="http://127.0.0.1:9") as provider:
        provider.get_logger("s", host="h").audit("t")
        assert read(reader)["audit.queue.depth"]["otlp"].value == 1
        provider.shutdown(0.1)
    caplog.clear()
    assert "audit.queue.depth" not in read(reader)
    assert caplog.records == []


def test_an_archive_that_cannot_be_read_gives_no_values(
    archive_path: Path, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gauge that cannot know says nothing, instead of failing inside the application's metrics."""
    with AuditProvider(archive=archive_path, endpoint="http://127.0.0.1:9") as provider:
        provider.get_logger("s", host="h").audit("t")

        def fail() -> Any:
            raise ArchiveError("gone")

        monkeypatch.setattr(provider._shippers[0].outbox, "waiting", fail)
        assert "audit.queue.depth" not in read(reader)
        monkeypatch.undo()
        provider.shutdown(0.1)


def test_without_an_sdk_nothing_happens(archive_path: Path) -> None:
    """With the metrics API alone recording works, and the SDK's metrics are not even loaded."""
    code = (
        "import sys, otel_audit\n"
        f"with otel_audit.AuditProvider(archive={str(archive_path)!r}, host='h') as provider:\n"
        "    print(provider.get_logger('s').audit('t').sequence)\n"
        "print('opentelemetry.sdk.metrics' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split() == ["1", "False"]
