"""Records audit events from any `LoggerProvider` of the OpenTelemetry SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

from otel_audit import attributes as keys
from otel_audit.clean import MARKS, Marks
from otel_audit.foreign import AUDIT_PREFIX, AuditCall
from otel_audit.integrations.bridge import relay
from otel_audit.integrations.otel_fields import audit_call
from otel_audit.provider import AuditProvider, get_logger, global_provider

__all__ = ["AuditLogRecordProcessor"]

_SECONDS_AT_SHUTDOWN: Final = 5.0


class AuditLogRecordProcessor(LogRecordProcessor):
    """Records each log record that has an attribute ``audit.*``, or an event name that was chosen; others pass by.

    The record is in the archive before the SDK's ``emit`` returns. Trace, time, attributes, body and severity are kept;
    malformed ones are marked, see docs/integrations.md. Further processors see the log record, too, with the
    ``audit.record.id`` that it was given, where it has none and there is room.

    What never reaches processors cannot be recorded: ``OTEL_SDK_DISABLED`` and disabled loggers hold back everything,
    and the SDK's limits drop attributes, the first ones first.

    Args:
        provider: Records the events; default: the global one. Stays the application's: `shutdown` leaves it open.
        host: Host of records without an attribute ``otel_audit.host``; default: the provider's.
        select: Tells by its event name whether a log record is an audit event, with or without such an attribute.
    """

    def __init__(
        self,
        provider: AuditProvider | None = None,
        *,
        host: str | None = None,
        select: Callable[[str], bool] | None = None,
    ) -> None:
        self._provider = provider
        self._host = host
        self._select = select

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Record a log record that is an audit event.

        Raises:
            InvalidRecord: Nothing names a host.
            ArchiveError: It could not be recorded; see the provider's failure policy.
            IntegrityError: The archive is not what it was.
        """
        if not self._chosen(log_record):
            return
        record_id = self._record(audit_call(log_record))
        attributes: object = log_record.log_record.attributes
        if not isinstance(attributes, BoundedAttributes) or keys.RECORD_ID in attributes:
            return
        # A full one would lose its first attribute for it.
        if attributes.maxlen is None or len(attributes) < attributes.maxlen:
            with suppress(TypeError):  # another processor made it unchangeable
                attributes[keys.RECORD_ID] = record_id

    def _chosen(self, log_record: ReadWriteLogRecord) -> bool:
        record = log_record.log_record
        present: Iterable[Any] = record.attributes or ()  # another processor may have put anything there
        if any(isinstance(key, str) and key.startswith(AUDIT_PREFIX) for key in present):
            return True
        name: object = record.event_name
        return isinstance(name, str) and bool(name) and self._select is not None and self._select(name)

    def _record(self, call: AuditCall) -> str:
        make = get_logger if self._provider is None else self._provider.get_logger
        bound = {MARKS: Marks(call.marks)}
        host = call.host or self._host
        logger = make(call.source, host, **bound)
        # The record tells its span, not the thread that handles it.
        token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(call.span)))
        try:
            return relay(logger, call.type, call.arguments).record_id
        finally:
            context.detach(token)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until every destination accepted all that this process recorded, as `AuditProvider.force_flush` does.

        Args:
            timeout_millis: Milliseconds to wait.

        Returns:
            Whether that came true; True where nothing was recorded yet, or the provider was shut down before.
        """
        provider = self._provider or global_provider()
        if provider is None or provider.writer.closed:
            return True
        return provider.force_flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Bring to the disk what was queued, and go on recording what still comes.

        The provider is not shut down, and no destination waited for: the application's own loggers use it, too.
        """
        provider = self._provider or global_provider()
        if provider is not None and not provider.writer.closed:
            provider.writer.flush(_SECONDS_AT_SHUTDOWN)
