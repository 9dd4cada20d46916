"""For the tests of applications that audit: what they recorded, and a collector that can be told to misbehave."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_audit.testing.capture import AuditCapture, capture_audit
    from otel_audit.testing.collector import Collector
    from otel_audit.testing.records import Call, LogRecord, Reply

__all__ = ["AuditCapture", "Call", "Collector", "LogRecord", "Reply", "capture_audit"]

# Loaded when first used: who only captures needs neither protobuf nor servers.
_MODULES = {
    "AuditCapture": "capture",
    "Call": "records",
    "Collector": "collector",
    "LogRecord": "records",
    "Reply": "records",
    "capture_audit": "capture",
}


def __getattr__(name: str) -> Any:
    """Load a public name's module at its first use."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'otel_audit.testing' has no attribute {name!r}")
    value = getattr(import_module(f"otel_audit.testing.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*globals(), *_MODULES])
