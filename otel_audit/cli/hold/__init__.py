"""``otel-audit hold``: legal holds."""

from __future__ import annotations

import click

from otel_audit.cli.group import LazyGroup
from otel_audit.cli.values import ArchiveFile

__all__ = ["command"]


@click.group(
    cls=LazyGroup,
    commands_in="otel_audit.cli.hold",
    names=("add", "list", "remove"),
    short_help="Keep records whatever the rules say.",
)
@click.option("--archive", type=ArchiveFile(), metavar="FILE", help="The archive; also accepted after the command.")
def command(archive: str | None) -> None:
    """Put records under a legal hold, list the holds in force, or lift one.

    While a hold is in force, neither prune nor erase removes what is under it, whatever rules and reasons there are.
    """
