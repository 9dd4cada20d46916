"""What makes text harmless to show, as the commands import it; exports need it below the command line."""

from __future__ import annotations

from otel_audit.safe import escape, json_text, spreadsheet_cell

__all__ = ["escape", "json_text", "spreadsheet_cell"]
