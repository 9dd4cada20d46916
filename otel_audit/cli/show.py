"""``otel-audit show``: records by any criterion, as a table or for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from otel_audit.archive.filters import Filter, nanoseconds
from otel_audit.archive.query import Archive, Row
from otel_audit.cli.audited import audited_source, given
from otel_audit.cli.options import chosen_source, filter_options, make_filter, source_option
from otel_audit.cli.reading import Reader, follow, head, resume
from otel_audit.cli.values import FieldList, Limit
from otel_audit.errors import ConfigError
from otel_audit.opening import open_source
from otel_audit.record import AuditRecord

if TYPE_CHECKING:
    from otel_audit.fleet.fleet import Fleet

__all__ = ["command"]

_TABLE_LIMIT: Final = 50
_FOLLOW_LIMIT: Final = 10
_FORMS: Final = ("table", "json", "jsonl", "csv", "otlp")


@dataclass(frozen=True)
class _Request:
    """How to show records; `make_filter` says which."""

    limit: int | None
    oldest_first: bool
    follow: bool
    form: str
    fields: tuple[str, ...]
    utc: bool
    show_ip: bool
    show_location: bool
    show_note: bool
    checkpoint: str | None
    trace_url: str | None
    one_host: bool


@click.command(short_help="Show records, newest first.")
@filter_options
@click.option(
    "-n",
    "--limit",
    type=Limit(),
    metavar="N",
    help=f"Most records, counted after filtering; all for all.  [default: {_TABLE_LIMIT} for tables, {_FOLLOW_LIMIT} to"
    " begin with for --follow, else all]",
)
@click.option("--reverse", "oldest_first", is_flag=True, help="Oldest first; --limit counts from the oldest then.")
@click.option(
    "-f",
    "--follow",
    "follow",
    is_flag=True,
    help="Show the last records, then new ones as they come; with --until, up to that time.",
)
@click.option(
    "-o", "--output", "form", type=click.Choice(_FORMS), default="table", help="Form of the output.  [default: table]"
)
@click.option(
    "--fields", type=FieldList(), default=(), metavar="A,B,…", help="Only these fields, e.g. time,user,session.ip."
)
@click.option("--utc", is_flag=True, help="Times of tables in UTC; all other forms always have UTC.")
@click.option("--show-ip/--no-show-ip", default=True, help="Show sessions' addresses, or remove them from everything.")
@click.option("--show-location", is_flag=True, help="A column with country and continent, where they are known.")
@click.option(
    "--show-note", is_flag=True, help="Below each row: message, actor, target, custom fields, what was altered."
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Continue, oldest first, where the last run with this file stopped.",
)
@click.option(
    "--trace-url",
    envvar="OTEL_AUDIT_TRACE_URL",
    show_envvar=True,
    metavar="URL",
    help="Template of links to traces in tables, with {trace_id}.",
)
@source_option
def command(*, archive: str | None, **chosen: Any) -> None:
    """Show the records of a host or a user, or of all, newest first.

    Newest is by the order of recording; of a fleet, by the time of the event. Tables show in parentheses who acted
    where it was not the user. Off a terminal, tables have no colours and symbols, and as much width as they need, or as
    COLUMNS says.
    """
    wanted = make_filter(chosen)
    request = _Request(one_host=wanted.host is not None or wanted.admin, **chosen)
    _check(request, wanted)
    source = chosen_source(archive)
    if isinstance(source, str) and (request.follow or request.checkpoint is not None):
        name = "--follow" if request.follow else "--checkpoint"
        raise ConfigError(
            f"{name} goes by the order of recording, and a fleet has none in common",
            "ask for a range of time: --since, --until",
        )
    with open_source(source) as opened:
        _show(opened, wanted, request)


def _check(request: _Request, wanted: Filter) -> None:
    if request.follow and wanted.until is not None and nanoseconds(wanted.until) <= time.time_ns():
        raise ConfigError("--follow shows what comes, and --until is past already", "leave out one of them")
    if request.follow and request.form == "json":
        raise ConfigError("--follow has no end, a JSON array has one", "use -o jsonl")
    if request.fields and request.form == "otlp":
        raise ConfigError("--fields cannot choose among OTLP's fields", "use -o jsonl")
    if request.follow and request.checkpoint is not None and request.limit is not None:
        raise ConfigError("--checkpoint says where --follow begins, --limit too", "give one of them")
    if request.trace_url is not None and "{trace_id}" not in request.trace_url:
        raise ConfigError(
            f"OTEL_AUDIT_TRACE_URL={request.trace_url!r} has no {{trace_id}}",
            "write for example https://traces.example/{trace_id}",
        )


def _limit(request: _Request) -> int | None:
    if request.limit is not None:
        return None if request.limit < 0 else request.limit
    if request.checkpoint is not None:
        return None
    if request.follow:
        return _FOLLOW_LIMIT
    return _TABLE_LIMIT if request.form == "table" else None


def _show(archive: Archive | Fleet, wanted: Filter, request: _Request) -> None:
    printer = _printer(archive, request)
    read = _reader(archive, request)
    limit = _limit(request)
    if not isinstance(archive, Archive):
        audited_source(None, "show", **given())
        printer.start()
        _dump(read, wanted, limit, printer, request)
        return
    checkpoint = None
    if request.checkpoint is not None:
        from otel_audit.cli.cursor import Checkpoint  # start-up time

        checkpoint = Checkpoint(request.checkpoint, archive.id, head(archive))
    audited_source(archive.path, "show", **given())
    printer.start()
    if request.follow:
        follow(archive, read, printer, wanted, limit=limit, checkpoint=checkpoint)
    elif checkpoint is not None:
        resume(read, printer, wanted, limit=limit, end=head(archive), checkpoint=checkpoint)
        if not printer.count:
            _remark("no record matches that was not shown before")
    else:
        _dump(read, wanted, limit, printer, request)


def _dump(read: Reader, wanted: Filter, limit: int | None, printer: Any, request: _Request) -> None:
    # One more than is shown tells whether there are more.
    default = request.limit is None and limit is not None
    for record in read(
        wanted, limit=limit + 1 if default and limit is not None else limit, oldest_first=request.oldest_first
    ):
        if default and printer.count == limit:
            _remark(f"there are more than these {limit}: -n all shows all")
            break
        printer.write(record)
    printer.finish()
    if not printer.count:
        _remark("no record matches")


def _remark(text: str) -> None:
    # For a person only: a script sees it from the output.
    if sys.stderr.isatty():
        sys.stdout.flush()
        sys.stderr.write(f"otel-audit: {text}\n")


def _reader(archive: Archive | Fleet, request: _Request) -> Reader:
    def records(filter: Filter, *, limit: int | None, oldest_first: bool) -> Iterator[AuditRecord] | Iterator[Row]:
        if request.form == "otlp":
            return archive.rows(filter, limit=limit, oldest_first=oldest_first)
        found = archive.query(filter, limit=limit, oldest_first=oldest_first)
        if request.show_ip:
            return found
        from otel_audit.cli.hide import without_address  # start-up time: for --no-show-ip only

        return map(without_address, found)

    return records


def _printer(archive: Archive | Fleet, request: _Request) -> Any:
    """Return what prints the form; each is imported when it is asked for, so that every one starts fast."""
    if request.form == "table":
        from otel_audit.cli.table import TablePrinter, TableStyle

        return TablePrinter(
            TableStyle(
                utc=request.utc,
                host=not request.one_host,
                address=request.show_ip,
                location=request.show_location,
                notes=request.show_note,
                fields=request.fields,
                trace_url=request.trace_url,
            ),
            growing=request.follow,
        )
    from otel_audit.cli import printers

    if request.form == "otlp":
        from otel_audit.cli.otlpjson import request_text

        return printers.OtlpPrinter(request_text(archive, show_address=request.show_ip))
    if request.form == "json":
        return printers.JsonPrinter(request.fields)
    return printers.CsvPrinter(request.fields) if request.form == "csv" else printers.LinePrinter(request.fields)
