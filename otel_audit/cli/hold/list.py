"""``otel-audit hold list``: the holds in force."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from otel_audit.archive.database import archive_errors
from otel_audit.archive.query import open_archive
from otel_audit.cli.audited import audited, given
from otel_audit.cli.options import archive_option, chosen_archive, form_option
from otel_audit.cli.terminal import standard_output
from otel_audit.cli.times import shown_time
from otel_audit.record import rfc3339
from otel_audit.safe import escape, json_text

if TYPE_CHECKING:
    from otel_audit.archive.holds import Hold

__all__ = ["command"]


@click.command(short_help="List the holds in force.")
@form_option
@click.option("--utc", is_flag=True, help="Times of the text in UTC; JSON always has UTC.")
@archive_option
def command(*, archive: str | None, form: str, utc: bool) -> int:
    """List the holds in force, oldest first: id, what is held, why, since when and by whom."""
    from otel_audit.archive.holds import load_holds  # start-up time

    with open_archive(chosen_archive(archive)) as opened:
        audited(opened.path, "hold list", **given())
        with opened.database as connection, archive_errors(opened.path):
            holds = load_holds(connection).in_force
    standard_output()
    if form == "json":
        sys.stdout.write(json_text([_json(hold) for hold in holds], indent=2) + "\n")
        return 0
    for hold in holds:
        sys.stdout.write(f"{_line(hold, utc=utc)}\n")
    if not holds:
        sys.stdout.write("no hold is in force\n")
    return 0


def _criteria(hold: Hold) -> dict[str, str | None]:
    return {"user": hold.user, "pseudonym": hold.pseudonym, "host": hold.host, "type": hold.type}


def _line(hold: Hold, *, utc: bool) -> str:
    what = [f"{name} {value}" for name, value in _criteria(hold).items() if value is not None]
    what += [
        f"{name} {shown_time(moment, utc=utc)}"
        for name, moment in (("since", hold.since), ("until", hold.until))
        if moment is not None
    ]
    who = f"{shown_time(hold.added, utc=utc)} by {hold.by or 'nobody'}"
    return escape(f"{hold.id}  {', '.join(what)}  (added {who}: {hold.reason})")


def _json(hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.id,
        **_criteria(hold),
        "since": None if hold.since is None else rfc3339(hold.since),
        "until": None if hold.until is None else rfc3339(hold.until),
        "reason": hold.reason,
        "added": rfc3339(hold.added),
        "by": hold.by,
        "sequence": hold.sequence,
    }
