"""A pytest plugin with the fixture ``audit``: ``pytest_plugins = ["otel_audit.testing.plugin"]`` in ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from otel_audit.testing.capture import AuditCapture, capture_audit

__all__ = ["audit"]


@pytest.fixture
def audit() -> Iterator[AuditCapture]:
    """Capture what is recorded through the global provider during a test, see `otel_audit.testing.capture_audit`."""
    with capture_audit() as captured:
        yield captured
