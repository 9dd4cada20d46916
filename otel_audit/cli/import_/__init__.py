"""``otel-audit import``: records that were made elsewhere."""

from __future__ import annotations

import click

from otel_audit.cli.group import LazyGroup
from otel_audit.cli.values import ArchiveFile

__all__ = ["command"]


@click.group(
    cls=LazyGroup, commands_in="otel_audit.cli.import_", names=("prosody",), short_help="Take over an older audit log."
)
@click.option("--archive", type=ArchiveFile(), metavar="FILE", help="The archive; also accepted after the command.")
def command(archive: str | None) -> None:
    """Record what another audit log holds, each entry once, with its own time."""
