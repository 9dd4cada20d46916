"""Exports in any format, as a stream: what was read is written, and nothing is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, get_args

from otel_audit.catalog import Catalog, EventType
from otel_audit.errors import ConfigError
from otel_audit.exports.files import new_file
from otel_audit.record import AuditRecord

__all__ = ["FORMATS", "Format", "export_file", "export_lines"]

Format = Literal["jsonl", "csv", "parquet", "ocsf", "cef", "ecs"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
"""The names of the formats."""
_PARQUET: Final = "parquet"
"""The one format that is no text."""


def export_lines(
    records: Iterable[AuditRecord], format: Format, *, event_types: Iterable[EventType] = ()
) -> Iterator[str]:
    """Return the text of an export a line at a time, line ends included.

    Args:
        records: The records, for example `Archive.query`.
        format: One of `FORMATS`.
        event_types: The application's own event types, which say what OCSF class its records have.

    Raises:
        ConfigError: There is no such format, or it is no text.
    """
    if format == _PARQUET:
        raise ConfigError("Parquet is no text", "write it to a file, with export_file or --output FILE")
    lines: Callable[[Iterable[AuditRecord], Catalog], Iterator[str]] = _module(format).lines
    return lines(records, Catalog(event_types))


def export_file(
    records: Iterable[AuditRecord],
    path: str | os.PathLike[str],
    format: Format,
    *,
    event_types: Iterable[EventType] = (),
) -> None:
    """Write an export to a new file, which is there when the call returns, and not at all where it raises.

    Args:
        records: The records.
        path: The file, which must not exist yet; it will be readable for its owner alone.
        format: One of `FORMATS`.
        event_types: As for `export_lines`.

    Raises:
        ConfigError: There is no such format, what it needs is not installed, or there is something at the path already.
        OSError: The file cannot be written.
    """
    if format == _PARQUET:
        from otel_audit.exports.parquet import load_pyarrow, write  # an extra

        load_pyarrow()
        with new_file(Path(path)) as file:
            write(records, file)
        return
    lines = export_lines(records, format, event_types=event_types)
    with new_file(Path(path)) as file:
        for line in lines:
            file.write(line.encode())


def _module(format: str) -> Any:
    if format not in FORMATS:
        raise ConfigError(f"there is no export format {format!r}", f"give one of {', '.join(FORMATS)}")
    # Start-up time: each format imports what it needs, pyarrow for example.
    return import_module(f"otel_audit.exports.{format}")
