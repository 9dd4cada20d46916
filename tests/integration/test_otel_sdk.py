"""The processor at real LoggerProviders of the SDK: durable when emit returns, whatever the origin."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import (
    ConcurrentMultiLogRecordProcessor,
    LoggerProvider,
    LoggingHandler,
    LogRecordLimits,
    ReadableLogRecord,
)
from opentelemetry.sdk._logs.export import (
    InMemoryLogRecordExporter,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.trace import TracerProvider
from structlog.contextvars import bound_contextvars

from otel_audit import ArchiveError, AuditProvider, InvalidRecord
from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from otel_audit.integrations.otel_sdk import AuditLogRecordProcessor
from otel_audit.testing import AuditCapture, Collector, Reply, capture_audit
from tests.archive_material import assert_sound, forked, provider_at, run_python

AUDIT = {"audit.actor.id": "alice", "audit.actor.type": "user"}


@pytest.fixture
def audit() -> Iterator[AuditCapture]:
    with capture_audit() as captured:
        yield captured


def logger_provider(*processors: Any, **settings: Any) -> LoggerProvider:
    """Return the SDK's provider with some processors."""
    made = LoggerProvider(shutdown_on_exit=False, **settings)
    for processor in processors:
        made.add_log_record_processor(processor)
    return made


def test_a_log_record_is_recorded(audit: AuditCapture) -> None:
    """A log record with an audit attribute is in the archive when emit returns; next processors see it, with its id."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    sdk = logger_provider(AuditLogRecordProcessor(), SimpleLogRecordProcessor(exporter))
    attributes = {**AUDIT, "audit.target.id": "o-1", "http.route": "/orders"}
    sdk.get_logger("shop", "1.0").emit(event_name="user.deleted", attributes=attributes, body="Gone", timestamp=5)
    record = audit.assert_recorded(
        "user.deleted", user="alice", source="shop", target="o-1", message="Gone", host="test"
    )
    assert (record.action, record.outcome, record.time) == ("DELETE", "success", 5)
    assert record.custom["otel"]["attributes"] == {"http.route": "/orders"}
    (exported,) = exporter.get_finished_logs()
    assert exported.log_record.attributes == {**attributes, "audit.record.id": record.record_id}


def test_others_pass_untouched(audit: AuditCapture) -> None:
    """A log record that is no audit event is not recorded, and what comes to the next processor is as it was."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    sdk = logger_provider(AuditLogRecordProcessor(select=lambda name: name == "x"), SimpleLogRecordProcessor(exporter))
    sdk.get_logger("shop").emit(event_name="user.deleted", attributes={"user.name": "alice", "auditor": "bob"})
    sdk.get_logger("shop").emit(body="audit.")
    audit.assert_not_recorded()
    first, second = exporter.get_finished_logs()
    assert first.log_record.attributes == {"user.name": "alice", "auditor": "bob"}
    assert not second.log_record.attributes


def test_chosen_by_name(audit: AuditCapture) -> None:
    """An event name that is chosen is recorded without any audit attribute."""
    sdk = logger_provider(AuditLogRecordProcessor(select=lambda name: name.startswith("user.")))
    sdk.get_logger("shop").emit(event_name="user.login.failure", attributes={"user.name": "alice"})
    sdk.get_logger("shop").emit(LogRecord(event_name="user.logout"))
    sdk.get_logger("shop").emit(event_name="cache.hit")
    assert [(record.type, record.user) for record in audit] == [("user.login.failure", "alice"), ("user.logout", None)]


def test_the_record_tells_its_span(audit: AuditCapture) -> None:
    """The span is the log record's own, whichever is current; none where it has none. Context values are taken."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    log = logger_provider(AuditLogRecordProcessor()).get_logger("shop")
    with tracer.start_as_current_span("first") as first:
        log.emit(event_name="current", attributes=AUDIT)
    with tracer.start_as_current_span("second"), bound_contextvars(request_id="r"):
        log.emit(event_name="other", attributes=AUDIT, context=trace.set_span_in_context(first))
        outside = LogRecord(event_name="none", attributes=AUDIT)
        outside.trace_id, outside.span_id = 0, 0
        log.emit(outside)
        span = trace.get_current_span()
        log.emit(event_name="explicit", attributes=AUDIT, context=trace.set_span_in_context(span, Context()))
    first_id = f"{first.get_span_context().trace_id:032x}"
    audit.assert_recorded("current", trace_id=first_id)
    audit.assert_recorded("other", trace_id=first_id, custom={"context": {"request_id": "r"}})
    audit.assert_recorded("none", trace_id=None, span_id=None)
    audit.assert_recorded("explicit", span_id=f"{span.get_span_context().span_id:016x}")


def test_from_logging(audit: AuditCapture) -> None:
    """A message of the standard library's logging that comes by the SDK's own handler is recorded too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        handler = LoggingHandler(logger_provider=logger_provider(AuditLogRecordProcessor()))
    log = logging.getLogger("shop.sdk")
    log.addHandler(handler)
    try:
        log.warning("Denied %s", "alice", extra={"audit.action": "read", "user.name": "alice"})
        log.warning("hello")
    finally:
        log.removeHandler(handler)
    record = audit.assert_recorded("log.audit", count=1, user="alice", action="READ", message="Denied alice")
    assert "type:missing" in record.altered
    assert len(audit) == 1


def test_in_other_threads(audit: AuditCapture) -> None:
    """With the SDK's concurrent processor, too, emit returns when the record is there, and raises what went wrong."""
    multi = ConcurrentMultiLogRecordProcessor()
    sdk = LoggerProvider(shutdown_on_exit=False, multi_log_record_processor=multi)
    sdk.add_log_record_processor(AuditLogRecordProcessor())
    for number in range(50):
        sdk.get_logger("shop").emit(event_name="t", attributes=AUDIT)
        assert len(audit) == number + 1


def test_what_cannot_be_recorded_raises(archive_path: Path) -> None:
    """Without a host, and once the provider is shut down, emit raises; other records pass."""
    provider = AuditProvider(archive=archive_path)
    log = logger_provider(AuditLogRecordProcessor(provider)).get_logger("shop")
    with pytest.raises(InvalidRecord, match="host"):
        log.emit(event_name="t", attributes=AUDIT)
    log.emit(event_name="t", attributes={**AUDIT, "otel_audit.host": "a.example"})
    provider.shutdown()
    with pytest.raises(ArchiveError, match="closed"):
        log.emit(event_name="t", attributes={**AUDIT, "otel_audit.host": "a.example"})
    log.emit(event_name="t")
    assert_sound(archive_path, records=1)


def test_a_full_log_record_keeps_its_attributes(audit: AuditCapture) -> None:
    """Where there is no room for the record's id, no attribute makes room for it; without limits nothing is dropped."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    sdk = logger_provider(
        AuditLogRecordProcessor(),
        SimpleLogRecordProcessor(exporter),
        log_record_limits=LogRecordLimits(max_log_record_attributes=2),
    )
    sdk.get_logger("shop").emit(event_name="t", attributes=AUDIT)
    assert exporter.get_finished_logs()[0].log_record.attributes == AUDIT
    unlimited = LogRecordLimits(
        max_log_record_attributes=LogRecordLimits.UNSET, max_log_record_attribute_length=LogRecordLimits.UNSET
    )
    sdk = logger_provider(AuditLogRecordProcessor(), log_record_limits=unlimited)
    flood = {**AUDIT, "x": "y" * 5_000, **{f"header.{number}": "v" for number in range(200)}}
    sdk.get_logger("shop").emit(event_name="flooded", attributes=flood)
    record = audit.assert_recorded("flooded", user="alice", altered=())
    kept: Any = record.custom["otel"]["attributes"]
    assert len(kept) == 201


def test_flushing_and_shutting_down(archive_path: Path) -> None:
    """force_flush tells whether all arrived, within its time; shutdown leaves the provider open, which goes on."""
    down = [True]
    with (
        Collector(lambda: Reply(status=503) if down[0] else None) as collector,
        provider_at(archive_path, endpoint=collector.endpoint) as provider,
    ):
        sdk = logger_provider(AuditLogRecordProcessor(provider))
        assert sdk.force_flush()
        sdk.get_logger("shop").emit(event_name="first", attributes=AUDIT, severity_number=SeverityNumber.INFO)
        assert not sdk.force_flush(300)
        down[0] = False
        assert sdk.force_flush(30_000)
        assert [record.event_name for record in collector.records] == ["first"]
        log = sdk.get_logger("shop")
        sdk.shutdown()
        log.emit(event_name="second", attributes=AUDIT)
        provider.get_logger("own").audit("third")
        assert provider.force_flush()
        assert [record.event_name for record in collector.records] == ["first", "second", "third"]
    assert sdk.force_flush()
    sdk.shutdown()


def test_flushing_makes_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush and shutdown before the first record do not configure a global provider."""
    monkeypatch.setattr(provider_module, "_global", None)
    sdk = logger_provider(AuditLogRecordProcessor())
    assert sdk.force_flush()
    sdk.shutdown()
    assert provider_module.global_provider() is None


def test_queued_records_are_written_at_shutdown(archive_path: Path) -> None:
    """With durability `queued`, shutdown brings to the disk what waited."""
    with provider_at(archive_path, durability="queued") as provider:
        sdk = logger_provider(AuditLogRecordProcessor(provider))
        for _ in range(100):
            sdk.get_logger("shop").emit(event_name="t", attributes=AUDIT)
        sdk.shutdown()
        assert_sound(archive_path, records=100)


class _Auditing(LogRecordExporter):
    """An exporter that emits an audit event of its own for each batch."""

    def __init__(self) -> None:
        self.log: Any = None

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        if not any(record.log_record.event_name == "exported" for record in batch):
            self.log.emit(event_name="exported", attributes={"audit.action": "export"})
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """Do nothing."""

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return True


def test_a_destination_that_emits(archive_path: Path) -> None:
    """A destination of the archive that emits audit events on its part holds up nobody, and each is recorded."""
    exporter = _Auditing()
    with provider_at(archive_path, exporters={"own": exporter}) as provider:
        exporter.log = logger_provider(AuditLogRecordProcessor(provider)).get_logger("shop")
        exporter.log.emit(event_name="t", attributes=AUDIT)
        assert provider.force_flush()
        with open_archive(archive_path) as archive:
            assert [record.type for record in archive.query(oldest_first=True)] == ["t", "exported"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_both_sides_of_a_fork_emit(archive_path: Path) -> None:
    """A LoggerProvider made before a fork records on both sides."""
    with provider_at(archive_path) as provider:
        sdk = logger_provider(AuditLogRecordProcessor(provider))
        log = sdk.get_logger("shop")
        log.emit(event_name="before", attributes=AUDIT)

        def work() -> None:
            for _ in range(20):
                log.emit(event_name="child", attributes=AUDIT)
            sdk.shutdown()

        children = [forked(work) for _ in range(3)]
        for _ in range(20):
            log.emit(event_name="parent", attributes=AUDIT)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert_sound(archive_path, records=81)


def test_emitted_means_durable(archive_path: Path) -> None:
    """What was emitted before a kill -9 is in the archive."""
    program = """
        import os, signal, sys
        import otel_audit
        from opentelemetry.sdk._logs import LoggerProvider
        from otel_audit.integrations.otel_sdk import AuditLogRecordProcessor

        otel_audit.configure(archive=sys.argv[1], host="example.com")
        sdk = LoggerProvider()
        sdk.add_log_record_processor(AuditLogRecordProcessor())
        for _ in range(25):
            sdk.get_logger("shop").emit(event_name="t", attributes={"audit.action": "x"})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with pytest.raises(AssertionError, match=f"exit code -{signal.SIGKILL.value}"):
        run_python(program, archive_path)
    assert_sound(archive_path, records=25)
