"""Prints records for programs: JSON, JSON lines, CSV, OTLP/JSON; always UTF-8, one line a record."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from otel_audit.archive.query import Row
from otel_audit.cli.fields import FLAT, lookup, plain_text, select
from otel_audit.record import AuditRecord, to_json
from otel_audit.safe import json_text, spreadsheet_cell

__all__ = ["CsvPrinter", "JsonPrinter", "LinePrinter", "OtlpPrinter", "Printer"]

_Item_contra = TypeVar("_Item_contra", contravariant=True)


class Printer(Protocol[_Item_contra]):
    """What prints records: four of them stand here, the table is the fifth.

    Attributes:
        count: How many records were given to it.
        streams: Whether what it printed after `flush` is of use without the rest.
    """

    count: int
    streams: bool

    def start(self) -> None:
        """Print what precedes the records."""

    def write(self, record: _Item_contra, /) -> None:
        """Print a record."""

    def flush(self) -> None:
        """Let the reader have what was printed."""

    def finish(self) -> None:
        """Print what follows the records."""


class _Machine(Generic[_Item_contra]):
    """What the forms for programs share: UTF-8, whatever the locale says."""

    streams = True

    def __init__(self) -> None:
        self.count = 0
        # Not there where a test captures the output.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")

    def start(self) -> None:
        """Nothing precedes the records."""

    def flush(self) -> None:
        """Let the reader have what was printed."""
        sys.stdout.flush()

    def finish(self) -> None:
        """Nothing follows the records."""


class JsonPrinter(_Machine[AuditRecord]):
    """Prints a JSON array, a record a line.

    Args:
        fields: The fields to print; empty: all.
    """

    streams = False

    def __init__(self, fields: Sequence[str] = ()) -> None:
        super().__init__()
        self._text = _record_text(fields)

    def start(self) -> None:
        """Open the array."""
        sys.stdout.write("[")

    def write(self, record: AuditRecord) -> None:
        """Print a record."""
        sys.stdout.write(",\n" if self.count else "\n")
        sys.stdout.write(self._text(record))
        self.count += 1

    def finish(self) -> None:
        """Close the array."""
        sys.stdout.write("\n]\n" if self.count else "]\n")


class LinePrinter(_Machine[AuditRecord]):
    """Prints a JSON object a line.

    Args:
        fields: The fields to print; empty: all.
    """

    def __init__(self, fields: Sequence[str] = ()) -> None:
        super().__init__()
        self._text = _record_text(fields)

    def write(self, record: AuditRecord) -> None:
        """Print a record."""
        sys.stdout.write(self._text(record) + "\n")
        self.count += 1


class CsvPrinter(_Machine[AuditRecord]):
    """Prints CSV with a header, safe to open in a spreadsheet.

    Args:
        fields: The columns; empty: the usual ones.
    """

    def __init__(self, fields: Sequence[str] = ()) -> None:
        super().__init__()
        import csv  # start-up time: no other form needs it

        self._fields = tuple(fields) or FLAT
        self._cell = spreadsheet_cell
        self._writer = csv.writer(sys.stdout, lineterminator="\n")

    def start(self) -> None:
        """Print the header."""
        self._writer.writerow(self._cell(name) for name in self._fields)

    def write(self, record: AuditRecord) -> None:
        """Print a record."""
        data = to_json(record)
        self._writer.writerow(self._value(lookup(data, name)) for name in self._fields)
        self.count += 1

    def _value(self, value: Any) -> Any:
        # A number begins with a sign and is none the worse for it.
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        return self._cell("" if value in ({}, []) else plain_text(value))


class OtlpPrinter(_Machine[Row]):
    """Prints an OTLP/JSON ``ExportLogsServiceRequest`` a line.

    Args:
        text: Gives the line of a row.
    """

    def __init__(self, text: Callable[[Row], str]) -> None:
        super().__init__()
        self._text = text

    def write(self, record: Row) -> None:
        """Print a record."""
        sys.stdout.write(self._text(record) + "\n")
        self.count += 1


def _record_text(fields: Sequence[str]) -> Callable[[AuditRecord], str]:
    if not fields:
        return lambda record: json_text(to_json(record))
    return lambda record: json_text(select(to_json(record), fields))
