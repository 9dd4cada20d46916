"""Audit logging on OpenTelemetry: on disk before the call returns, delivered at least once, searchable and provable."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from otel_audit._version import __version__

if TYPE_CHECKING:
    from otel_audit.catalog import EventType
    from otel_audit.errors import (
        ArchiveError,
        AuditError,
        ConfigError,
        DeliveryError,
        IntegrityError,
        InvalidRecord,
    )
    from otel_audit.logger import AuditLogger
    from otel_audit.notes import SigningKey
    from otel_audit.opening import open_archive
    from otel_audit.producer import ProducerKey
    from otel_audit.provider import AuditProvider, configure, get_logger
    from otel_audit.record import Actor, AuditRecord, Receipt, Session, Target

__all__ = [
    "Actor",
    "ArchiveError",
    "AuditError",
    "AuditLogger",
    "AuditProvider",
    "AuditRecord",
    "ConfigError",
    "DeliveryError",
    "EventType",
    "IntegrityError",
    "InvalidRecord",
    "ProducerKey",
    "Receipt",
    "Session",
    "SigningKey",
    "Target",
    "__version__",
    "configure",
    "get_logger",
    "open_archive",
]

# Loaded when first used: the command line starts in a fraction of the time that the whole library takes.
_MODULES = {
    "Actor": "record",
    "ArchiveError": "errors",
    "AuditError": "errors",
    "AuditLogger": "logger",
    "AuditProvider": "provider",
    "AuditRecord": "record",
    "ConfigError": "errors",
    "DeliveryError": "errors",
    "EventType": "catalog",
    "IntegrityError": "errors",
    "InvalidRecord": "errors",
    "ProducerKey": "producer",
    "Receipt": "record",
    "Session": "record",
    "SigningKey": "notes",
    "Target": "record",
    "configure": "provider",
    "get_logger": "provider",
    "open_archive": "opening",
}


def __getattr__(name: str) -> Any:
    """Load a public name's module at its first use."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'otel_audit' has no attribute {name!r}")
    value = getattr(import_module(f"otel_audit.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*globals(), *_MODULES])
