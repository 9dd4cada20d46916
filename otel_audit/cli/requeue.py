"""``otel-audit requeue``: puts dead letters back into the outbox."""

from __future__ import annotations

import sys

import click

from otel_audit.archive.query import open_archive
from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.values import Recorded

__all__ = ["command"]


@click.command(short_help="Put dead letters back into the outbox.")
@click.argument("sequences", type=click.IntRange(1, 2**63 - 1), nargs=-1, metavar="[SEQUENCE]...")
@click.option(
    "--destination", type=Recorded(), metavar="NAME", help="Only what this destination refused.  [default: all]"
)
@archive_option
def command(*, archive: str | None, destination: str | None, sequences: tuple[int, ...]) -> None:
    """Put records that a destination refused for good back into the outbox: those given by SEQUENCE, or all.

    The next shipper sends them again: that of the application, or otel-audit ship.
    """
    path = chosen_archive(archive)
    # Where there is no archive, none is made.
    open_archive(path).close()
    from otel_audit.delivery.outbox import requeue  # start-up time

    count = requeue(path, destination, sequences or None)
    sys.stdout.write(f"put back {count} {'record' if count == 1 else 'records'}\n")
