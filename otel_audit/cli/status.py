"""``otel-audit status``: what the archive holds, how far the delivery came, and what needs an operator."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from otel_audit.archive.database import archive_errors
from otel_audit.archive.query import open_archive
from otel_audit.archive.space import Level, Space, level_of, look, shortage
from otel_audit.archive.status import DestinationStatus, Status
from otel_audit.cli.options import archive_option, chosen_archive, form_option
from otel_audit.cli.sizes import size_text
from otel_audit.cli.terminal import standard_output
from otel_audit.cli.times import age, shown_time
from otel_audit.cli.values import Duration
from otel_audit.disk_settings import resolve_disk
from otel_audit.record import rfc3339
from otel_audit.safe import escape, json_text

__all__ = ["command"]


@click.command(short_help="Show the state of archive and delivery.")
@form_option
@click.option(
    "--max-age",
    type=Duration(),
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="Age above which an undelivered record needs an operator.",
)
@click.option("--utc", is_flag=True, help="Times of the text in UTC; JSON always has UTC.")
@archive_option
def command(*, archive: str | None, form: str, max_age: int, utc: bool) -> int:
    """Show what the archive holds and how far each destination came.

    Exits with 1 where something needs an operator, and says what on standard error: dead letters, a destination that is
    blocked, an undelivered record older than --max-age, or little space on the disk (OTEL_AUDIT_DISK_WARNING and
    OTEL_AUDIT_DISK_CRITICAL).
    """
    settings = resolve_disk()
    with open_archive(chosen_archive(archive)) as opened:
        status = opened.status()
    with archive_errors(Path(status.archive)):
        space = look(Path(status.archive))
    level = level_of(space, settings)
    now = time.time_ns()
    standard_output()
    if form == "json":
        sys.stdout.write(json_text(_json(status, space, level), indent=2) + "\n")
    else:
        for line in _text(status, space, now, utc=utc):
            sys.stdout.write(line + "\n")
    sys.stdout.flush()
    concerns = list(_concerns(status, now, max_age))
    if level != "ok":
        concerns.append(shortage(Path(status.archive), space, level))
    for concern in concerns:
        sys.stderr.write(f"otel-audit: {escape(concern)}\n")
    return 1 if concerns else 0


def _concerns(status: Status, now: int, max_age: int) -> Iterator[str]:
    for destination in status.destinations:
        if destination.dead_letters:
            refused = f"{destination.name} refused {destination.dead_letters} records for good"
            remedy = f"otel-audit requeue --destination {destination.name}"
            yield f"{refused}: find out why, then put them back with {remedy}"
        if destination.blocked is not None:
            yield f"{destination.name} is blocked: {destination.blocked}: check its endpoint and credentials"
    waiting = None if status.oldest_undelivered is None else now - status.oldest_undelivered
    if waiting is not None and waiting > max_age:
        waited = f"the oldest undelivered record has waited for {age(waiting)}"
        yield f"{waited}: check the collector, or run otel-audit ship"


def _json(status: Status, space: Space, level: Level) -> dict[str, Any]:
    return {
        "archive": status.archive,
        "archive_id": status.archive_id,
        "size": status.size,
        "records": status.records,
        "own": status.own,
        "removed": status.removed,
        "first": _moment(status.first),
        "last": _moment(status.last),
        "sequence": status.sequence,
        "root": status.root,
        "backlog": status.backlog,
        "oldest_undelivered": _moment(status.oldest_undelivered),
        "sqlite": status.sqlite,
        "disk": {"level": level, "free": space.free, "total": space.total, "reserve": space.reserve or 0},
        "destinations": [
            {
                "name": destination.name,
                "endpoint": destination.endpoint,
                "cursor": destination.cursor,
                "dead_letters": destination.dead_letters,
                "blocked": destination.blocked,
                "last_success": _moment(destination.last_success),
                "last_error": destination.last_error,
            }
            for destination in status.destinations
        ],
    }


def _moment(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else rfc3339(nanoseconds)


def _text(status: Status, space: Space, now: int, *, utc: bool) -> Iterator[str]:
    def moment(nanoseconds: int | None, nothing: str) -> str:
        if nanoseconds is None:
            return nothing
        return f"{shown_time(nanoseconds, utc=utc)} ({age(now - nanoseconds)} ago)"

    yield f"archive             {escape(status.archive)}"
    yield f"archive id          {escape(status.archive_id)}"
    yield f"size                {_sizes(status)}"
    yield f"disk                {size_text(space.free)} free of {size_text(space.total)}"
    yield f"reserve             {size_text(space.reserve) if space.reserve else 'none'}"
    yield f"records             {status.records}"
    yield f"own records         {status.own}"
    yield f"removed             {status.removed}"
    yield f"sequence            {status.sequence}"
    yield f"root                {'none' if status.root is None else f'{status.sequence}:{status.root}'}"
    yield f"first record        {moment(status.first, 'none')}"
    yield f"last record         {moment(status.last, 'none')}"
    yield f"backlog             {status.backlog}"
    yield f"oldest undelivered  {moment(status.oldest_undelivered, 'none')}"
    yield f"SQLite              {status.sqlite}"
    if not status.destinations:
        yield "destinations        no destination: archive only"
    for destination in status.destinations:
        yield ""
        yield f"destination         {escape(destination.name)}"
        yield f"  endpoint          {escape(destination.endpoint)}"
        yield from _delivery(destination, moment(destination.last_success, "never"))


def _delivery(destination: DestinationStatus, last_success: str) -> Iterator[str]:
    yield f"  cursor            {destination.cursor}"
    yield f"  last success      {last_success}"
    yield f"  last error        {escape(destination.last_error or 'none')}"
    yield f"  dead letters      {destination.dead_letters}"
    yield f"  blocked           {escape(destination.blocked or 'no')}"


def _sizes(status: Status) -> str:
    """Return the size of the archive, and beside it that of its log, which the next clean close folds in."""
    try:
        log = Path(f"{status.archive}-wal").stat().st_size
    except OSError:
        log = 0
    own = size_text(max(status.size - log, 0))
    return f"{own} (+ {size_text(log)} write-ahead log)" if log else own
