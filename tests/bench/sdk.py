"""The other side: the SDK's own logger, queue and exporter, with what arrives counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from otel_audit.logger import AuditLogger
from otel_audit.testing import Collector, LogRecord
from tests.bench.events import TYPE, Event, attributes, audit, events

__all__ = ["QUEUE", "Sdk", "check_same"]

QUEUE: Final = 2048
"""What the SDK's queue holds by default."""


class _CountingExporter(LogRecordExporter):
    """Passes on to the OTLP exporter, and counts what the collector accepted."""

    def __init__(self, endpoint: str) -> None:
        self._exporter = OTLPLogExporter(f"{endpoint}/v1/logs")
        self.accepted = 0
        self.done = 0

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        result = self._exporter.export(batch)
        if result is LogRecordExportResult.SUCCESS:
            self.accepted += len(batch)
        self.done += len(batch)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class Sdk:
    """The SDK's logger with its batch processor and OTLP/HTTP exporter, all settings at their defaults.

    Args:
        endpoint: Base URL of the collector.
    """

    def __init__(self, endpoint: str) -> None:
        # It warns of each record that it drops; the benchmark counts them.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._exporter = _CountingExporter(endpoint)
        self._provider = LoggerProvider(Resource.create({"service.name": "bench"}))
        self._provider.add_log_record_processor(BatchLogRecordProcessor(self._exporter))
        self._logger = self._provider.get_logger("otel_audit", "1")
        self.emitted = 0

    def emit(self, event: Event) -> None:
        """Emit the event."""
        self.emitted += 1
        now = time.time_ns()
        self._logger.emit(
            timestamp=now,
            observed_timestamp=now,
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            body=event.message,
            event_name=TYPE,
            attributes=attributes(event),
        )

    @property
    def full(self) -> bool:
        """Whether one more record might push another out of the queue; the SDK itself never makes a caller wait."""
        return self.emitted - self._exporter.done >= QUEUE

    @property
    def lost(self) -> int:
        """How many records the collector did not accept, once `flush` returned."""
        return self.emitted - self._exporter.accepted

    def flush(self) -> None:
        """Send what is queued."""
        self._provider.force_flush(120_000)

    def close(self) -> None:
        """Shut down."""
        self._provider.shutdown()


def check_same(log: AuditLogger, flush: Callable[[], object], collector: Collector) -> None:
    """Record one event with both, and see that a collector gets the same from both.

    Args:
        log: A logger of the library, shipping to the collector.
        flush: Waits for its delivery.
        collector: Nothing else sends to it.

    Raises:
        RuntimeError: What arrived differs: the comparison would not be fair.
    """
    (event,) = events(1)
    audit(log)(event)
    flush()
    sdk = Sdk(collector.endpoint)
    sdk.emit(event)
    sdk.flush()
    sdk.close()
    if not collector.wait_for(2, timeout=10):
        raise RuntimeError("the records of the two did not arrive")
    ours, other = map(_comparable, collector.records)
    if ours != other:
        different = {key for key in {*ours, *other} if ours.get(key) != other.get(key)}
        raise RuntimeError(f"the records of the two differ in {', '.join(sorted(different))}")


_OWN = frozenset({"audit.record.id", "log.record.uid", "audit.sequence.number", "audit.sequence.stream_id"})


def _comparable(record: LogRecord) -> dict[str, Any]:
    fields = {key: type(value) if key in _OWN else value for key, value in record.attributes.items()}
    return {**fields, "severity": record.severity_text, "event_name": record.event_name, "body": record.body}
