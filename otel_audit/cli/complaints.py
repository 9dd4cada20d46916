"""Prints what the library logs as the command's own complaints: one harmless line each."""

from __future__ import annotations

import logging
import sys

from otel_audit.safe import escape

__all__ = ["log_to_stderr"]


class _Complaints(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # A progress bar puts itself in the place of sys.stderr. Messages quote what servers answered.
        sys.stderr.write(f"otel-audit: {escape(record.getMessage())}\n")
        sys.stderr.flush()


def log_to_stderr() -> None:
    """Print warnings and errors of the library to standard error, without a traceback; safe to call twice."""
    logger = logging.getLogger("otel_audit")
    logger.handlers = [_Complaints(logging.WARNING)]
    logger.propagate = False
