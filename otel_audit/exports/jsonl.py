"""JSON lines: the documents that ``otel-audit show -o jsonl`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from otel_audit.catalog import Catalog
from otel_audit.record import AuditRecord, to_json
from otel_audit.safe import json_text

__all__ = ["lines"]


def lines(records: Iterable[AuditRecord], catalog: Catalog) -> Iterator[str]:  # noqa: ARG001 - all formats are called alike
    """Return a line of JSON for each record, see `otel_audit.record.to_json`.

    Args:
        records: The records.
        catalog: Not needed here.
    """
    for record in records:
        yield json_text(to_json(record)) + "\n"
