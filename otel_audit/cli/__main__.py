"""``python -m otel_audit.cli`` is ``otel-audit``."""

from __future__ import annotations

from otel_audit.cli import main

if __name__ == "__main__":
    main()
