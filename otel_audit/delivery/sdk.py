"""Any `LogRecordExporter` of the OpenTelemetry SDK as a destination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_audit.delivery.answers import quiet, wording
from otel_audit.delivery.sender import Answer, Verdict
from otel_audit.delivery.values import attributes, plain_value

__all__ = ["SdkExporterSender"]


class SdkExporterSender:
    """Hands requests to an SDK exporter, as the SDK's own record objects.

    The promise is weaker than that of the OTLP senders: an exporter says success or failure, nothing in between, keeps
    its own time-outs (`send` cannot cut it short), and what it calls success is taken for one.

    Args:
        exporter: Such as `ConsoleLogRecordExporter`. Belongs to the sender from now on: `close` shuts it down.
        name: What `endpoint` says, such as ``console``.
    """

    def __init__(self, exporter: LogRecordExporter, name: str) -> None:
        self._exporter = exporter
        self._name = name
        self._closed = False

    @property
    def endpoint(self) -> str:
        """Return the name."""
        return self._name

    def send(self, request: bytes, timeout: float) -> Answer:  # noqa: ARG002 - the interface's; see the class
        """Decode one request and export it.

        Args:
            request: A serialized ``ExportLogsServiceRequest``.
            timeout: Not used: an exporter takes none.

        Returns:
            ``ACCEPTED``, or ``RETRY`` where the exporter fails or raises.
        """
        if self._closed:
            return Answer(Verdict.RETRY, "the sender is closed")
        try:
            batch = list(_records(ExportLogsServiceRequest.FromString(request)))
        except DecodeError as error:
            return Answer(Verdict.REFUSED, wording(f"the stored bytes are no OTLP request: {error}"))
        try:
            with quiet():
                result = self._exporter.export(batch)
        except Exception as error:  # noqa: BLE001 - foreign code; its failure is the answer
            return Answer(Verdict.RETRY, wording(f"the exporter raised {type(error).__name__}: {error}"))
        if result is LogRecordExportResult.SUCCESS:
            return Answer(Verdict.ACCEPTED)
        return Answer(Verdict.RETRY, f"the exporter {self._name} reported a failure"[:300])

    def close(self) -> None:
        """Shut the exporter down, once."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


def _records(request: ExportLogsServiceRequest) -> Iterator[ReadableLogRecord]:
    for resource_logs in request.resource_logs:
        resource = Resource(attributes(resource_logs.resource.attributes), resource_logs.schema_url)
        for scope_logs in resource_logs.scope_logs:
            scope = InstrumentationScope(
                scope_logs.scope.name,
                # Absent and empty are one in OTLP; the SDK means absent by None.
                scope_logs.scope.version or None,
                scope_logs.schema_url,
                attributes(scope_logs.scope.attributes),
            )
            for record in scope_logs.log_records:
                yield ReadableLogRecord(_record(record), resource, scope)


def _record(record: logs_pb2.LogRecord) -> LogRecord:
    # The ids go in by way of a context: given as arguments, those of the span that is current here, in the shipper,
    # would be taken in place of absent ones.
    span_context = trace.SpanContext(
        trace_id=int.from_bytes(record.trace_id, "big"),
        span_id=int.from_bytes(record.span_id, "big"),
        is_remote=True,
        trace_flags=trace.TraceFlags(record.flags),
    )
    kept: Mapping[str, Any] = attributes(record.attributes)
    if record.dropped_attributes_count:
        bounded = BoundedAttributes(attributes=kept)
        bounded.dropped = record.dropped_attributes_count
        kept = bounded
    body: Any = plain_value(record.body)
    return LogRecord(
        timestamp=record.time_unix_nano or None,
        observed_timestamp=record.observed_time_unix_nano,
        context=trace.set_span_in_context(trace.NonRecordingSpan(span_context), Context()),
        severity_text=record.severity_text or None,
        severity_number=SeverityNumber(record.severity_number) if record.severity_number else None,
        body=body,
        attributes=kept,
        event_name=record.event_name or None,
    )
