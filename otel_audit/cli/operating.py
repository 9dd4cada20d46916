"""Appends to the archive what an operator did with it."""

from __future__ import annotations

from pathlib import Path

from otel_audit._version import __version__
from otel_audit.archive.administration import Administration
from otel_audit.config import record_settings
from otel_audit.otlp import encode_resource, encode_scope

__all__ = ["open_administration"]


def open_administration(path: Path, *, busy_timeout: float = 10.0) -> Administration:
    """Return what appends the archive's own records, under the resource that the environment describes.

    Args:
        path: The archive, which must exist.
        busy_timeout: Seconds to wait for another process's transaction.

    Raises:
        ConfigError: A setting in the environment is wrong.
    """
    profile, resource = record_settings()
    scope = b"" if profile == "signal" else encode_scope("otel_audit", __version__)
    return Administration(path, encode_resource(resource), scope, profile=profile, busy_timeout=busy_timeout)
