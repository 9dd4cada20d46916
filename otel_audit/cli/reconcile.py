"""``otel-audit reconcile``: whether a backend holds what the archive holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otel_audit.archive.query import open_archive
from otel_audit.cli.audited import audited, given
from otel_audit.cli.checking import CheckingCommand, progress_bar
from otel_audit.cli.options import archive_option, chosen_archive, form_option, limit_option
from otel_audit.cli.terminal import standard_output
from otel_audit.cli.values import Moment, Recorded
from otel_audit.safe import escape, json_text

if TYPE_CHECKING:
    from otel_audit.archive.against import Comparison

__all__ = ["command"]


@click.command(cls=CheckingCommand, short_help="Compare a backend with the archive.")
@click.option(
    "--against",
    required=True,
    type=Recorded(),
    metavar="FILE|URL",
    help="What to compare with: lines of OTLP/JSON that a collector wrote, clickhouse://user@host:8123/database, or"
    " victorialogs://host:9428. The password may stand in $OTEL_AUDIT_CLICKHOUSE_PASSWORD or"
    " $OTEL_AUDIT_VICTORIALOGS_PASSWORD.",
)
@click.option("--since", type=Moment(), metavar="TIME", help="Only events not before this time, as for show.")
@click.option("--until", type=Moment(), metavar="TIME", help="Only events before this time.")
@click.option(
    "--destination",
    type=Recorded(),
    metavar="NAME",
    help="The destination that the backend gets its records from: what it has not accepted yet is not missing."
    "  [default: whichever is furthest]",
)
@click.option("--resend", is_flag=True, help="Put what is missing back into the outbox of the destination.")
@limit_option
@form_option
@archive_option
def command(
    *,
    archive: str | None,
    against: str,
    since: int | None,
    until: int | None,
    destination: str | None,
    resend: bool,
    limit: int,
    form: str,
) -> int:
    """Compare what a backend holds of the archive, record by record, and name what is missing, differs or came twice.

    Works beside running applications. Further copies are no fault: delivery is at least once, and copies carry one id.
    Exits with 0 where the backend holds all that it was sent, 1 where it does not, 2 where the two cannot be compared,
    3 on wrong usage. --resend does not change the status; the next shipper sends what it put back.
    """
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--until is not after --since", click.get_current_context())
    path = chosen_archive(archive)
    between = (-(2**63) if since is None else since, 2**63 - 1 if until is None else until - 1)
    found, resent = _compare(path, against, between, destination, keep=limit, resend=resend)
    standard_output()
    if form == "json":
        sys.stdout.write(json_text(_json(path, found, resent), indent=2) + "\n")
    else:
        for line in _text(path, found, resent):
            sys.stdout.write(line + "\n")
    return 1 if found.fault_count else 0


def _compare(
    path: Path, against: str, between: tuple[int, int], destination: str | None, *, keep: int, resend: bool
) -> tuple[Comparison, int | None]:
    """Return what was found, and how many records were put back; None where that was not asked for."""
    from otel_audit.archive.against import compare_held  # start-up time
    from otel_audit.delivery.outbox import the_destination
    from otel_audit.fleet.location import shown_url
    from otel_audit.reconcile.backends import open_backend

    with open_archive(path) as opened, progress_bar("reading") as reading, progress_bar("comparing") as comparing:
        if resend or destination is not None:
            destination = the_destination(path, destination)
        read = open_backend(against, _password(against))
        audited(path, "reconcile", **{**given(), "against": shown_url(against)})
        back = _Resend(path, destination) if resend and destination is not None else None
        found = compare_held(
            opened,
            lambda: read(opened.id, *between, reading),
            keep=keep,
            destination=destination,
            between=between,
            missing=_nothing if back is None else back,
            progress=comparing,
        )
    return found, None if back is None else back.count


def _password(against: str) -> str | None:
    name = "VICTORIALOGS" if against.lower().startswith("victorialogs") else "CLICKHOUSE"
    return os.environ.get(f"OTEL_AUDIT_{name}_PASSWORD")


def _nothing(_sequences: list[int]) -> None:
    pass


class _Resend:
    """Puts records back into a destination's outbox, and counts them."""

    def __init__(self, path: Path, destination: str) -> None:
        self._path = path
        self._destination = destination
        self.count = 0

    def __call__(self, sequences: list[int]) -> None:
        from otel_audit.delivery.outbox import resend  # start-up time

        self.count += resend(
            self._path, self._destination, sequences, "missing at the backend, by otel-audit reconcile"
        )


def _text(path: Path, found: Comparison, resent: int | None) -> Iterator[str]:
    from otel_audit.archive.ranges import format_ranges  # start-up time

    yield f"archive    {escape(str(path))}"
    yield f"matching   {found.matching}"
    yield f"missing    {found.missing}{f': {format_ranges(found.gaps)}' if found.gaps else ''}"
    if resent is not None:
        yield f"put back   {resent}"
    yield f"waiting    {found.waiting}"
    if found.removed:
        yield f"removed    {found.removed} erased or pruned here, and still there"
    yield f"doubled    {found.doubled}"
    yield f"of others  {found.foreign}"
    yield f"faults     {found.fault_count or 'none'}"
    for fault in (*found.faults, *found.doubles):
        yield escape(f"{fault.code}: {fault.place}: {fault.detail}")
    hidden = found.fault_count + found.doubled - len(found.faults) - len(found.doubles)
    if hidden:
        yield f"... and {hidden} more"


def _json(path: Path, found: Comparison, resent: int | None) -> dict[str, Any]:
    from otel_audit.archive.ranges import format_ranges  # start-up time

    return {
        "archive": str(path),
        "equal": not found.fault_count,
        "matching": found.matching,
        "missing": found.missing,
        "missing_sequences": format_ranges(found.gaps),
        "put_back": resent,
        "waiting": found.waiting,
        "removed": found.removed,
        "doubled": found.doubled,
        "foreign": found.foreign,
        "fault_count": found.fault_count,
        "faults": [
            {"code": fault.code, "place": fault.place, "detail": fault.detail}
            for fault in (*found.faults, *found.doubles)
        ],
    }
