"""Fakes for the tests of applications that audit: a collector in the same process, which can be told to misbehave."""

from otel_audit.testing.collector import Collector
from otel_audit.testing.records import Call, LogRecord, Reply

__all__ = ["Call", "Collector", "LogRecord", "Reply"]
