"""Records audit events from an existing structlog chain."""

from __future__ import annotations

from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

from otel_audit.errors import ConfigError
from otel_audit.logger import AuditLogger
from otel_audit.provider import get_logger

__all__ = ["AuditProcessor"]

_ARGUMENTS: Final = frozenset(
    {"user", "user_id", "session", "actor", "action", "outcome", "target", "custom", "message", "timestamp"}
)
# What structlog itself and its usual processors add: of no use in the record.
_STRUCTLOGS: Final = frozenset(
    {"audit", "event", "level", "logger", "exc_info", "stack_info", "exception", "_record", "_from_structlog"}
)


class AuditProcessor:
    """A structlog processor: an entry with ``audit="<event type>"`` is recorded, too, and passes on unchanged.

    ``logger.info("Alice logged in", audit="user.login.success", user="alice")`` records type, user and, as the message,
    the text. Other values of the entry go to the custom group ``context``. Place it before processors that rename or
    format: a ``timestamp`` that a `TimeStamper` made is no time for a record and is left out.

    Args:
        logger: Records the events; default: ``get_logger("structlog")`` of the global provider.
    """

    def __init__(self, logger: AuditLogger | None = None) -> None:
        self._logger = logger or get_logger("structlog")

    def __call__(self, _logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        """Record the entry if it asks for it, and return it as it was.

        Raises:
            ConfigError: ``audit`` is no event type.
            InvalidRecord: A value has the wrong type for a record.
            ArchiveError: It could not be recorded; see the provider's failure policy.
        """
        type_ = event_dict.get("audit")
        if type_ is None:
            return event_dict
        if not isinstance(type_, str):
            raise ConfigError(f"audit={type_!r} is no event type", "write audit='user.login.success'")
        arguments: dict[str, Any] = {name: event_dict[name] for name in _ARGUMENTS & event_dict.keys()}
        if isinstance(arguments.get("timestamp"), (str, float)):
            del arguments["timestamp"]
        event = event_dict.get("event")
        if isinstance(event, str):
            arguments.setdefault("message", event)
        rest = {
            key: value
            for key, value in event_dict.items()
            if key not in _ARGUMENTS and key not in _STRUCTLOGS and key != "source"
        }
        self._logger.bind(**rest).audit(type_, **arguments)
        return event_dict
