"""``otel-audit erase``: removes the content of a person's records for good."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otel_audit.cli.audited import audited, given
from otel_audit.cli.options import archive_option, chosen_archive, form_option
from otel_audit.cli.subject import chosen_subject, pseudonym_option
from otel_audit.cli.values import Recorded, Seconds
from otel_audit.errors import ArchiveError
from otel_audit.safe import escape, json_text

if TYPE_CHECKING:
    from otel_audit.archive.administration import Administration
    from otel_audit.archive.erasure import Plan
    from otel_audit.archive.ranges import Range
    from otel_audit.archive.subjects import Subject

__all__ = ["command"]

_LATER = "otel-audit erase --vacuum"


@dataclass(frozen=True)
class _Request:
    """What was asked for, besides the person."""

    reason: str | None
    authority: str | None
    mentions: bool
    vacuum: bool | None
    timeout: float


@dataclass(frozen=True)
class _Outcome:
    """What became of it; `copies` is ``none``, ``remain``, or ``removed`` by this very run."""

    plan: Plan | None
    mentions: bool
    done: bool
    copies: str


@click.command(short_help="Remove the content of a person's records.")
@click.argument("target", required=False, type=Recorded(), metavar="[USER@HOST]")
@click.option("--reason", type=Recorded(), metavar="TEXT", help="Why; kept for ever, so without the person's name.")
@click.option(
    "--authority",
    type=Recorded(),
    metavar="TEXT",
    help="Who asked for it, or the rule or ticket that it follows; kept as well.",
)
@click.option("--dry-run", is_flag=True, help="Only list the records; nothing is erased.")
@click.option(
    "--mentions", is_flag=True, help="Erase records of others that mention the person, too. They are listed otherwise."
)
@click.option(
    "--vacuum/--no-vacuum",
    default=None,
    help="Write the file anew afterwards, so that no copy is left in unused space, or leave that for later. Without"
    " USER@HOST: only do that.  [default: --vacuum, where something was erased since it was last done]",
)
@click.option(
    "--timeout",
    type=Seconds(),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait, before the file is written anew, for those who use it.",
)
@pseudonym_option
@form_option
@archive_option
def command(
    *, archive: str | None, target: str | None, pseudonym_key: str | None, dry_run: bool, form: str, **given: Any
) -> int:
    """Remove the content of a person's records: those with USER at HOST, and those where USER is the actor.

    Tombstones stay, so that the archive still verifies, and one of the archive's own records says which sequences were
    erased, why and by whom. Nothing brings the content back. Sequences are listed, never the name. Exits with 1 where
    the records are erased and copies of them may remain in unused space of the file, 2 where nothing was erased.
    """
    request = _Request(**given)
    _check(target, request, dry_run=dry_run)
    subject = None if target is None else chosen_subject(target, pseudonym_key)
    path = chosen_archive(archive)
    if dry_run and subject is not None:
        outcome = _dry_run(path, subject, request)
        complaint = None
    else:
        outcome, complaint = _run(path, subject, request)
    if form == "json":
        sys.stdout.write(json_text(_json(outcome), indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in _text(outcome))
    sys.stdout.flush()
    if complaint is not None:
        sys.stderr.write(f"otel-audit: {escape(complaint)}\n")
        return 1
    return 0


def _check(target: str | None, request: _Request, *, dry_run: bool) -> None:
    context = click.get_current_context()
    if target is None:
        if not request.vacuum or dry_run:
            raise click.UsageError("give USER@HOST, or --vacuum alone", context)
        if request.reason is not None or request.authority is not None or request.mentions:
            raise click.UsageError("--reason, --authority and --mentions are for USER@HOST", context)
    elif request.reason is None and not dry_run:
        raise click.UsageError("give --reason TEXT, or --dry-run", context)


def _dry_run(path: Path, subject: Subject, request: _Request) -> _Outcome:
    from otel_audit.archive.erasure import plan
    from otel_audit.archive.query import open_archive
    from otel_audit.archive.vacuum import is_pending

    with open_archive(path) as archive:
        audited(archive.path, "erase", **given())
        found = plan(archive.database, subject, mentions=request.mentions)
        with archive.database as connection:
            copies = "remain" if is_pending(connection) else "none"
            return _Outcome(found, request.mentions, done=False, copies=copies)


def _run(path: Path, subject: Subject | None, request: _Request) -> tuple[_Outcome, str | None]:
    """Erase and write the file anew; return what became of it, and what is to be complained of."""
    from otel_audit.archive.administration import operator, process_fields  # start-up time: wrong usage ends before
    from otel_audit.archive.erasure import Order, erase
    from otel_audit.archive.vacuum import is_pending
    from otel_audit.cli.operating import open_administration

    with open_administration(path) as administration:
        plan = None
        if subject is not None and request.reason is not None:
            order = Order(request.reason, request.authority, operator(), process_fields())
            plan = erase(administration, subject, order, mentions=request.mentions)
        with administration.database as connection:
            pending = is_pending(connection)
        if request.vacuum is False or not (pending or request.vacuum):
            return _Outcome(plan, request.mentions, done=True, copies="remain" if pending else "none"), None
        complaint = _vacuum(administration, request.timeout)
        return _Outcome(
            plan, request.mentions, done=True, copies="removed" if complaint is None else "remain"
        ), complaint


def _vacuum(administration: Administration, timeout: float) -> str | None:
    from otel_audit.archive.vacuum import vacuum

    try:
        vacuum(administration.database, timeout)
    except ArchiveError as error:
        return f"copies of what was erased may remain in unused space of the file until {_LATER} has run: {error}"
    return None


def _text(outcome: _Outcome) -> Iterator[str]:
    plan = outcome.plan
    if plan is not None:
        verb = "erased" if outcome.done else "would erase"
        if plan.ranges:
            yield f"{verb} {_records(plan.ranges)}"
        else:
            yield "there is no such record"
        for name, number in plan.delivered.items():
            if number:
                yield escape(f"delivered to {name} before: {number}, which has to erase them, too")
        if plan.held:
            yield f"under a legal hold, so that nothing can be erased: {_records(plan.held)}"
        if plan.mentions:
            rest = "which stay with their legal holds" if outcome.mentions else "--mentions erases these, too"
            yield f"mentioned by others in {_records(plan.mentions)}; {rest}"
    if outcome.copies == "removed":
        yield "the file was written anew: no copies remain in it"
    elif outcome.copies == "remain":
        yield f"copies may remain in unused space of the file until {_LATER} has run"


def _records(ranges: list[Range]) -> str:
    from otel_audit.archive.ranges import count, format_ranges

    number = count(ranges)
    return f"{number} {'record' if number == 1 else 'records'}: {format_ranges(ranges)}"


def _json(outcome: _Outcome) -> dict[str, Any]:
    from otel_audit.archive.ranges import count, format_ranges

    data: dict[str, Any] = {}
    if (plan := outcome.plan) is not None:
        data = {
            "dry_run": not outcome.done,
            "records": plan.records,
            "sequences": format_ranges(plan.ranges),
            "delivered": plan.delivered,
            "held": {"records": count(plan.held), "sequences": format_ranges(plan.held)},
            "mentions": {"records": count(plan.mentions), "sequences": format_ranges(plan.mentions)},
        }
    return {**data, "copies": outcome.copies}
