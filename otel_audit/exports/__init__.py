"""Records in the forms that other programs take: JSON lines, CSV, Parquet, OCSF, CEF and ECS."""

from __future__ import annotations

from otel_audit.exports.formats import FORMATS, Format, export_file, export_lines

__all__ = ["FORMATS", "Format", "export_file", "export_lines"]
