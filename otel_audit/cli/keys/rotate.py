"""``otel-audit keys rotate``: replaces the signing key by a new one, which the old one vouches for."""

from __future__ import annotations

import sys

import click

from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.signing import key_option, required_key
from otel_audit.cli.terminal import standard_output
from otel_audit.safe import escape

__all__ = ["command"]


@click.command(short_help="Replace the signing key by a new one.")
@click.option("--name", help="The new key's name.  [default: that of the old one]")
@key_option
@archive_option
def command(*, archive: str | None, key: str | None, name: str | None) -> None:
    """Replace the signing key by a new one, and print the new verifier.

    The archive records the new verifier and its own checkpoint, signed by the old key, which is kept as FILE.KEYID.old.
    Running applications take the new key at their next checkpoint. Where a rotation broke off, the next one ends it.
    """
    path = required_key(key)
    from otel_audit import keys  # start-up time
    from otel_audit.archive.rotation import append_rotation
    from otel_audit.cli.operating import open_administration

    with keys.exclusive(path) as old, open_administration(chosen_archive(archive), old) as administration:
        # Opened first: without an archive no key is made.
        with administration.database:
            pass
        new = keys.next_key(path, name)
        sequence = append_rotation(administration, old, new.verifier)
        kept = keys.replace(path)
    standard_output()
    sys.stdout.write(f"{escape(str(new.verifier))}\n")
    sys.stderr.write(f"otel-audit: record {sequence} names the new key; the old one is kept as {escape(str(kept))}\n")
