"""``otel-audit keys show``: prints the verifier of the signing key."""

from __future__ import annotations

import sys

import click

from otel_audit.cli.audited import recording
from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.signing import key_option, record_key, required_key
from otel_audit.cli.terminal import standard_output
from otel_audit.safe import escape

__all__ = ["command"]


@click.command(short_help="Print the signing key's verifier.")
@key_option
@archive_option
def command(*, archive: str | None, key: str | None) -> None:
    """Print the verifier of the signing key: its public half, nothing secret.

    Where there is an archive, it records that the key was read, unless OTEL_AUDIT_READS is off.
    """
    path = required_key(key)
    from otel_audit.keys import load  # start-up time

    recorded = recording()  # a wrong setting shows before the key does
    shown = load(path)
    standard_output()
    sys.stdout.write(f"{escape(str(shown.verifier))}\n")
    if recorded:
        record_key(chosen_archive(archive), "audit.key.shown", shown, binding=False)
