"""``otel-audit hold remove``: lifts a hold."""

from __future__ import annotations

import sys

import click

from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.values import Recorded

__all__ = ["command"]


@click.command(short_help="Lift a hold.")
@click.argument("hold", type=Recorded(), metavar="ID")
@click.option("--reason", type=Recorded(), required=True, metavar="TEXT", help="Why it ends; recorded.")
@archive_option
def command(*, archive: str | None, hold: str, reason: str) -> int:
    """Lift the hold ID: from now on its records may be pruned and erased, where no other hold keeps them.

    The hold itself and its end stay in the archive.
    """
    from otel_audit.archive.administration import operator, process_fields  # start-up time
    from otel_audit.archive.holds import remove_hold
    from otel_audit.cli.operating import open_administration

    with open_administration(chosen_archive(archive)) as administration:
        lifted = remove_hold(administration, hold, reason, operator(), {"process": process_fields()})
    sys.stdout.write(f"removed hold {lifted.id}\n")
    return 0
