"""``otel-audit export``: records in the form that another program takes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive
from otel_audit.cli.audited import audited_source, given
from otel_audit.cli.options import chosen_source, filter_options, make_filter, source_option
from otel_audit.errors import ConfigError
from otel_audit.exports.files import refuse_existing
from otel_audit.exports.formats import FORMATS, Format, export_file, export_lines
from otel_audit.opening import open_source
from otel_audit.record import AuditRecord

if TYPE_CHECKING:
    from otel_audit.fleet.fleet import Fleet

__all__ = ["command"]

_STEP: Final = 256
"""Records between two looks of the progress bar."""


@click.command(short_help="Write records for other programs, oldest first.")
@filter_options
@click.option(
    "--format",
    "format",
    type=click.Choice(FORMATS),
    help="JSON lines as of show, CSV, Parquet (needs --output), OCSF 1.9, CEF:0 or the Elastic Common Schema."
    "  [default: what --output ends with, such as .csv, else jsonl]",
)
@click.option(
    "-O",
    "--output",
    "file",
    type=click.Path(),
    metavar="FILE",
    help="Write to this file, which must not exist yet, readable for its owner alone; it gets its name when it is"
    " complete.  [default: standard output]",
)
@source_option
def command(*, archive: str | None, format: Format | None, file: str | None, **chosen: Any) -> None:
    """Write the records of a host or a user, or all, oldest first, in the form that another program takes.

    Records that are committed meanwhile are not included. On a terminal, standard error shows how much is done.
    """
    wanted = make_filter(chosen)
    form = format or _format_of(file)
    _check(form, file)
    with open_source(chosen_source(archive)) as opened:
        audited_source(opened.path if isinstance(opened, Archive) else None, "export", **given())
        with _progress(opened, wanted, file) as watched:
            _write(watched(opened.query(wanted, oldest_first=True)), form, file)


def _format_of(file: str | None) -> Format:
    """Return the format that the file's name ends with: nobody expects JSON lines in a file ``logins.csv``."""
    suffix = Path(file or "").suffix[1:].lower()
    return next((form for form in FORMATS if form == suffix), "jsonl")


def _check(format: Format, file: str | None) -> None:
    """Refuse before the archive is read, and the read recorded, what could not be written."""
    if file is not None:
        refuse_existing(Path(file))
    if format == "parquet":
        from otel_audit.exports.parquet import load_pyarrow  # an extra

        if file is None:
            raise ConfigError("--format parquet cannot go to standard output", "give --output FILE")
        load_pyarrow()


def _write(records: Iterable[AuditRecord], format: Format, file: str | None) -> None:
    if file is not None:
        export_file(records, file, format)
        return
    # Not there where a test captures the output.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.writelines(export_lines(records, format))


@contextlib.contextmanager
def _progress(
    archive: Archive | Fleet, wanted: Filter, file: str | None
) -> Iterator[Callable[[Iterator[AuditRecord]], Iterator[AuditRecord]]]:
    """Yield what hands records on and shows how far they are; only where it does not stand among them."""
    if not isinstance(archive, Archive) or not sys.stderr.isatty() or (file is None and sys.stdout.isatty()):
        # How far a fleet's records are is not known without counting them all first.
        yield lambda records: records
        return
    from otel_audit.cli.checking import progress_bar  # for terminals only

    low, high, _ = archive.bounds(wanted)
    with progress_bar("exporting") as show:

        def watched(records: Iterator[AuditRecord]) -> Iterator[AuditRecord]:
            for number, record in enumerate(records):
                if number % _STEP == 0:
                    show((record.sequence or low) - low, high - low + 1)
                yield record
            show(high - low + 1, high - low + 1)

        yield watched
