"""``otel-audit import prosody``: the archive of Prosody's mod_audit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from otel_audit.cli.options import archive_option, chosen_archive, form_option
from otel_audit.cli.values import Host
from otel_audit.safe import escape, json_text

if TYPE_CHECKING:
    from otel_audit.prosody.importing import Summary

__all__ = ["command"]

_LISTED: Final = 20
"""Most unreadable entries that are named."""


@click.command(short_help="Import the archive of Prosody's mod_audit.")
@click.argument("source", metavar="PATH|URL")
@click.argument("host", type=Host())
@form_option
@archive_option
def command(*, source: str, host: str, form: str, archive: str | None) -> int:
    """Import what mod_audit recorded for HOST: its events, with their times.

    PATH is Prosody's data directory, the host's directory within it, a .list file or an SQLite database; a database
    can also be given as sqlite:///PATH. It is only read. What was imported before is recognised: run it again after an
    interruption, or for what has come since. What cannot be read as an event is recorded as it stands, and named. The
    settings of privacy act as for events that are recorded here.
    """
    from otel_audit.cli.checking import progress_bar  # start-up time, as below: wrong usage is reported at once
    from otel_audit.cli.complaints import log_to_stderr
    from otel_audit.prosody.importing import Importer, open_source
    from otel_audit.provider import AuditProvider

    log_to_stderr()
    host = host.encode(errors="backslashreplace").decode()  # as any text that is recorded
    with (
        open_source(source, host) as found,  # first: where there is nothing to import, no archive is made
        AuditProvider(archive=chosen_archive(archive), ship=False, durability="commit", on_failure="raise") as provider,
        progress_bar("importing") as progress,
    ):
        summary = Importer(provider, host).run(found.entries(progress))
    _complain(summary)
    if form == "json":
        text = json_text({
            "imported": summary.imported,
            "there": summary.there,
            "unreadable": [{"place": place, "fault": fault} for place, fault in summary.unreadable],
        }, indent=2)  # fmt: skip
    else:
        text = f"imported {_entries(summary.imported)}, {summary.there} had been imported before"
    sys.stdout.write(text + "\n")
    return 0


def _complain(summary: Summary) -> None:
    for place, fault in summary.unreadable[:_LISTED]:
        sys.stderr.write(f"otel-audit: {escape(place)} is no entry, and recorded as it stands: {escape(fault)}\n")
    if (more := len(summary.unreadable) - _LISTED) > 0:
        sys.stderr.write(f"otel-audit: so with {_entries(more)} more: otel-audit show --type prosody.unreadable\n")


def _entries(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"
