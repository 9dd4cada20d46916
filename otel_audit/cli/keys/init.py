"""``otel-audit keys init``: makes a signing key."""

from __future__ import annotations

import sys

import click

from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.signing import key_option, record_key, required_key
from otel_audit.cli.terminal import standard_output
from otel_audit.safe import escape

__all__ = ["command"]


@click.command(short_help="Make a signing key.")
@click.option("--name", help="The key's name, which signatures carry.  [default: otel-audit]")
@key_option
@archive_option
def command(*, archive: str | None, key: str | None, name: str | None) -> None:
    """Make a signing key, in a file that must not exist yet, and print its verifier.

    The verifier is the public half: whoever has it can check signatures. Keep it where the archive's owner cannot
    change it. Where there is an archive, it records the new key.
    """
    path = required_key(key)
    from otel_audit.keys import DEFAULT_NAME, create  # start-up time

    made = create(path, DEFAULT_NAME if name is None else name)
    standard_output()
    sys.stdout.write(f"{escape(str(made.verifier))}\n")
    record_key(chosen_archive(archive), "audit.key.created", made, binding=True)
