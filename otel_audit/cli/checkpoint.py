"""``otel-audit checkpoint``: states what the archive is now, and prints the note."""

from __future__ import annotations

import sys

import click

from otel_audit.archive.query import open_archive
from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.signing import chosen_key, key_option
from otel_audit.errors import ArchiveError
from otel_audit.notes import sign_note
from otel_audit.safe import escape

__all__ = ["command"]


@click.command(short_help="State what the archive is now.")
@key_option
@archive_option
def command(*, archive: str | None, key: str | None) -> None:
    """Append a checkpoint over all records, and print its note: size and root, signed where there is a key.

    The checkpoint is recorded and shipped like an event, unless nothing was recorded since the last one. Whoever keeps
    the note elsewhere can check later that the archive only grew: otel-audit verify --checkpoint NOTE.
    """
    from otel_audit.archive.administration import operator  # start-up time
    from otel_audit.archive.checkpoints import append_checkpoint, present_checkpoint
    from otel_audit.archive.highwater import HighWater
    from otel_audit.cli.operating import open_administration, refuse_older_copy
    from otel_audit.keys import load
    from otel_audit.paths import high_water_directory

    path = chosen_archive(archive)
    file = chosen_key(key)
    signer = None if file is None else load(file)
    with open_archive(path) as opened:
        if signer is not None:
            refuse_older_copy(opened)
        checkpoint = present_checkpoint(opened)
    note = sign_note(str(checkpoint), signer)
    try:
        with open_administration(path, signer) as administration:
            note = append_checkpoint(administration, signer, operator())
        if (directory := high_water_directory()) is not None:
            HighWater(directory).note(note)
    except ArchiveError as error:
        sys.stderr.write(f"otel-audit: this checkpoint is not recorded: {escape(str(error))}\n")
    sys.stdout.write(str(note))
