"""``otel-audit keys``: makes, shows and replaces the key that checkpoints and proofs are signed with."""

from __future__ import annotations

import click

from otel_audit.cli.group import LazyGroup
from otel_audit.cli.options import archive_option
from otel_audit.cli.signing import key_option

__all__ = ["command"]


@click.group(
    cls=LazyGroup,
    commands_in="otel_audit.cli.keys",
    names=("init", "rotate", "show"),
    short_help="Make, show and replace the signing key.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@key_option
@archive_option
def command(**_options: str | None) -> None:
    """Make, show and replace the key that checkpoints and proofs are signed with.

    It is an Ed25519 key in a file that only its owner can read; the file is named by --key or OTEL_AUDIT_SIGNING_KEY.
    The archive records what was done with it.
    """
