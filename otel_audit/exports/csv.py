"""CSV as RFC 4180 describes it, safe to open in a spreadsheet, and reversible: `read_cell` gives the recorded text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any, Final

from otel_audit.catalog import Catalog
from otel_audit.exports.flat import COLUMNS, row
from otel_audit.exports.quoting import quoted, unquoted
from otel_audit.record import AuditRecord, rfc3339
from otel_audit.safe import json_text

__all__ = ["cell", "lines", "read_cell"]

# What spreadsheets take for a formula, with its full-width forms. Tabs and line breaks, which they drop before one, are
# unprintable and so within a JSON string.
_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# What may stand before a formula: a spreadsheet drops blanks, and takes quotation marks for its own.
_BEFORE: Final = ' "'


class _Echo:
    """A file that hands back what is written, which `csv.writer` returns."""

    def write(self, text: str) -> str:
        return text


def lines(records: Iterable[AuditRecord], catalog: Catalog) -> Iterator[str]:  # noqa: ARG001 - all formats are called alike
    """Return the header and a line for each record, each ended by CR LF; see `otel_audit.exports.flat` for the columns.

    Times are RFC 3339 text; ``custom`` and ``altered`` are JSON, empty where there is nothing.

    Args:
        records: The records.
        catalog: Not needed here.
    """
    write: Any = csv.writer(_Echo(), lineterminator="\r\n").writerow
    yield write(COLUMNS)
    for record in records:
        yield write([_shown(name, value) for name, value in zip(COLUMNS, row(record), strict=True)])


def _shown(name: str, value: Any) -> Any:
    match value:
        case None | []:
            return ""
        case int():
            return rfc3339(value) if name in {"time", "observed"} else value
        case list():
            return cell(json_text(value))
        case _:
            return cell(value)


def cell(text: str) -> str:
    """Return text as a cell that no spreadsheet takes for a formula, and in which nothing is unprintable.

    An apostrophe, which spreadsheets take for "text follows", is put before what would begin a formula, and before
    apostrophes, so that it can be taken away again. Where the locale's separator is the semicolon, one within the text
    begins a new cell: what follows it is treated as a cell of its own.

    Args:
        text: What was recorded.
    """
    return ";".join(f"'{part}" if _needs_apostrophe(part) else part for part in quoted(text).split(";"))


def _needs_apostrophe(part: str) -> bool:
    return part.startswith("'") or part.lstrip(_BEFORE).startswith(_FORMULA)


def read_cell(shown: str) -> str | None:
    """Return the text that a cell of an export stands for; None for an empty cell.

    Args:
        shown: The cell, as a CSV reader returns it.

    Raises:
        ValueError: It is no cell of an export.
    """
    if not shown:
        return None
    return unquoted(";".join(part.removeprefix("'") for part in shown.split(";")))
