"""``otel-audit requeue``: puts dead letters back into the outbox."""

from __future__ import annotations

import sys

import click

from otel_audit.archive.query import open_archive
from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.values import Recorded, Whole
from otel_audit.safe import escape

__all__ = ["command"]


@click.command(short_help="Put dead letters back into the outbox.")
@click.argument("sequences", type=Whole("sequence", 2**63 - 1), nargs=-1, metavar="[SEQUENCE]...")
@click.option(
    "--destination", type=Recorded(), metavar="NAME", help="Only what this destination refused.  [default: all]"
)
@archive_option
def command(*, archive: str | None, destination: str | None, sequences: tuple[int, ...]) -> int:
    """Put records that a destination refused for good back into the outbox: those given by SEQUENCE, or all.

    The next shipper sends them again: that of the application, or otel-audit ship. Exits with 1 where a SEQUENCE is no
    dead letter; the others are put back.
    """
    path = chosen_archive(archive)
    # Where there is no archive, none is made.
    open_archive(path).close()
    from otel_audit.delivery.outbox import requeue  # start-up time

    if sequences:
        # One at a time: only so each tells whether it was one.
        counts = {sequence: requeue(path, destination, [sequence]) for sequence in dict.fromkeys(sequences)}
    else:
        counts = {0: requeue(path, destination)}
    count = sum(counts.values())
    missing = [str(sequence) for sequence, number in counts.items() if sequence and not number]
    sys.stdout.write(f"put back {count} {'record' if count == 1 else 'records'}\n")
    if missing:
        sys.stdout.flush()
        among = "" if destination is None else f" of {destination}"
        sys.stderr.write(f"otel-audit: no dead letter{escape(among)}: {', '.join(missing)}\n")
    return 1 if missing else 0
