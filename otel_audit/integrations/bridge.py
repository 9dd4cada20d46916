"""What the bridges from other logging libraries share: recording from within whatever calls them."""

from __future__ import annotations

import threading
from typing import Any, Final

from otel_audit.errors import ConfigError
from otel_audit.logger import AuditLogger
from otel_audit.record import Receipt

__all__ = ["relay"]

# Signal handlers and finalisers that interrupt each other do not nest as deeply; what calls itself without end does.
_DEEPEST: Final = 8


class _Depth(threading.local):
    value = 0


_depth: Final = _Depth()


def relay(logger: AuditLogger, type_: str, arguments: dict[str, Any]) -> Receipt:
    """Record one event, see `AuditLogger.relay`; find out where recording an event makes another event, without end.

    Args:
        logger: Records it.
        type_: The event type.
        arguments: Those of `AuditLogger.audit`.

    Raises:
        ConfigError: Something in the audit chain, such as a processor, makes an event of each event.
        InvalidRecord: See `AuditLogger.audit`.
        ArchiveError: Likewise.
        IntegrityError: Likewise.
    """
    if _depth.value >= _DEEPEST:
        raise ConfigError(
            f"recording {type_!r} makes another audit event, which makes another, without end",
            "take the audited call out of the processor or handler that runs while an event is recorded",
        )
    _depth.value += 1
    try:
        return logger.relay(type_, **arguments)
    finally:
        _depth.value -= 1
