"""From a log record of the OpenTelemetry SDK to an audit call: whatever it holds, it can be recorded."""

from __future__ import annotations

from opentelemetry.sdk._logs import ReadWriteLogRecord

from otel_audit.foreign import AuditCall, ForeignLog, read_call

__all__ = ["audit_call"]


def audit_call(log_record: ReadWriteLogRecord) -> AuditCall:
    """Return the audit call for a log record; what has no place in it goes to the custom group ``otel``."""
    record, scope = log_record.log_record, log_record.instrumentation_scope
    return read_call(
        ForeignLog(
            event_name=record.event_name,
            time=record.timestamp,
            observed=record.observed_timestamp,
            body=record.body,
            attributes=record.attributes or {},
            dropped=log_record.dropped_attributes,
            severity_number=record.severity_number,
            severity_text=record.severity_text,
            trace_id=record.trace_id,
            span_id=record.span_id,
            trace_flags=record.trace_flags,
            scope_name=None if scope is None else scope.name,
            scope_version=None if scope is None else scope.version,
        )
    )
