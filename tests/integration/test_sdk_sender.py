"""The adapter that makes any exporter of the OpenTelemetry SDK a destination."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import pytest
from opentelemetry import context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue, KeyValueList
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import (
    ConsoleLogRecordExporter,
    InMemoryLogRecordExporter,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.trace import TracerProvider

from otel_audit.delivery.sdk import SdkExporterSender
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.testing import Collector, Reply
from tests.otlp_material import request_of


def full_request() -> ExportLogsServiceRequest:
    """Return a request in which every field is set."""
    message = ExportLogsServiceRequest()
    resource_logs = message.resource_logs.add(schema_url="https://example.com/resource")
    resource_logs.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope_logs = resource_logs.scope_logs.add(schema_url="https://example.com/scope")
    scope_logs.scope.name, scope_logs.scope.version = "otel_audit", "1.2"
    scope_logs.scope.attributes.add(key="s").value.int_value = 1
    record = scope_logs.log_records.add(
        time_unix_nano=1_700_000_000_123_456_789,
        observed_time_unix_nano=1_700_000_000_223_456_789,
        severity_number=13,
        severity_text="WARN",
        event_name="user.login.failure",
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
        flags=0,
        dropped_attributes_count=3,
    )
    record.body.string_value = "alice failed to log in"
    for key, value in {
        "text": AnyValue(string_value="ä"),
        "empty": AnyValue(string_value=""),
        "bytes": AnyValue(bytes_value=b"\x00\xff"),
        "int": AnyValue(int_value=-(2**62)),
        "float": AnyValue(double_value=1.5),
        "bool": AnyValue(bool_value=False),
        "map": AnyValue(
            kvlist_value=KeyValueList(values=[KeyValue(key="k", value=AnyValue(bytes_value=b"v"))]),
        ),
    }.items():
        record.attributes.add(key=key).value.CopyFrom(value)
    for number in (1, 2):
        record.attributes.add(key=f"list{number}").value.array_value.values.add().int_value = number
    return message


class Failing(LogRecordExporter):
    """Fails as told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.shutdowns = 0

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        if self.failure is not None:
            raise self.failure
        return LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        self.shutdowns += 1

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def test_every_field_survives() -> None:
    """What the SDK's own encoder makes of the decoded records equals the request, unsampled trace ids included."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    sender = SdkExporterSender(exporter, "memory")
    request = full_request()
    # A span that is current here, and sampled, must not get into the record.
    with TracerProvider().get_tracer("test").start_as_current_span("shipping"):
        assert sender.send(request.SerializeToString(), 5) == Answer(Verdict.ACCEPTED)
    (record,) = exporter.get_finished_logs()
    assert encode_logs([record]) == request


def test_a_record_without_trace_has_none() -> None:
    """Absent ids, time and severity stay absent, also while a span is current."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    message = ExportLogsServiceRequest()
    message.resource_logs.add().scope_logs.add().log_records.add(event_name="e")
    with TracerProvider().get_tracer("test").start_as_current_span("shipping"):
        SdkExporterSender(exporter, "memory").send(message.SerializeToString(), 5)
    (record,) = exporter.get_finished_logs()
    assert record.log_record.trace_id == record.log_record.span_id == 0
    assert record.log_record.timestamp is None
    assert record.log_record.severity_number is None
    assert record.log_record.body is None


def test_the_console_exporter_prints_each_record() -> None:
    """The exporter behind OTEL_LOGS_EXPORTER=console writes JSON with attributes of every type."""
    out = io.StringIO()
    sender = SdkExporterSender(ConsoleLogRecordExporter(out=out), "console")
    assert sender.endpoint == "console"
    assert sender.send(full_request().SerializeToString(), 5).verdict is Verdict.ACCEPTED
    document = json.loads(out.getvalue())
    assert document["event_name"] == "user.login.failure"
    assert document["attributes"]["text"] == "ä"
    assert document["attributes"]["map"] == {"k": "dg=="}
    assert document["trace_id"] == "0x000102030405060708090a0b0c0d0e0f"


def test_the_sdk_exporter_reaches_a_collector() -> None:
    """The SDK's own OTLP exporter as a destination: its success is accepted, its failure retried."""
    with Collector([Reply(), Reply(status=400)]) as collector:
        sender = SdkExporterSender(OTLPLogExporter(endpoint=f"{collector.endpoint}/v1/logs"), "sdk")
        assert sender.send(request_of(3), 5).verdict is Verdict.ACCEPTED
        assert sender.send(request_of(3), 5).verdict is Verdict.RETRY
        sender.close()
        assert collector.record_ids == ["id-0", "id-1", "id-2"]


@pytest.mark.parametrize("failure", [None, RuntimeError("\x1bboom"), KeyError("x")])
def test_failures_are_retried(failure: Exception | None) -> None:
    """A failure, by result or by exception, keeps the records, and its reason is fit for a terminal."""
    answer = SdkExporterSender(Failing(failure), "failing").send(request_of(1), 5)
    assert answer.verdict is Verdict.RETRY
    assert answer.reason
    assert answer.reason.isprintable()


def test_bytes_that_are_no_request_are_refused() -> None:
    """Bytes that cannot be decoded are set aside instead of being retried for ever."""
    assert SdkExporterSender(Failing(), "failing").send(b"\xff\xff", 5).verdict is Verdict.REFUSED


def test_close_shuts_the_exporter_down_once() -> None:
    """Closing twice shuts down once, and later requests are kept for another sender."""
    exporter = Failing()
    sender = SdkExporterSender(exporter, "failing")
    sender.close()
    sender.close()
    assert exporter.shutdowns == 1
    assert sender.send(request_of(1), 5) == Answer(Verdict.RETRY, "the sender is closed")


def test_exporting_is_not_traced() -> None:
    """Instrumentations find their suppression key set during the export, and unset afterwards."""
    seen: list[object] = []

    class Looking(Failing):
        def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
            seen.append(context.get_value("suppress_instrumentation"))
            return LogRecordExportResult.SUCCESS

    SdkExporterSender(Looking(), "looking").send(request_of(1), 5)
    assert seen == [True]
    assert context.get_value("suppress_instrumentation") is None
