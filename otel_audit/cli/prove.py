"""``otel-audit prove``: writes a proof that somebody without the archive can check."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from otel_audit.archive.query import open_archive
from otel_audit.cli.audited import audited, given
from otel_audit.cli.checking import CheckingCommand
from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.signing import chosen_key, key_option

if TYPE_CHECKING:
    from otel_audit.notes import SigningKey

__all__ = ["command"]

_SEQUENCE = click.IntRange(1, 2**63 - 1)


@click.command(cls=CheckingCommand, short_help="Prove that a record is in the archive.")
@click.argument("sequence", type=_SEQUENCE, required=False, metavar="[SEQUENCE]")
@click.option("--size", type=_SEQUENCE, help="Size of the tree to prove it in.  [default: the present one]")
@click.option(
    "--consistency",
    type=(_SEQUENCE, _SEQUENCE),
    metavar="OLD NEW",
    help="In place of a record: prove that the tree of NEW records extends the one of OLD.",
)
@key_option
@archive_option
def command(
    *,
    archive: str | None,
    sequence: int | None,
    size: int | None,
    consistency: tuple[int, int] | None,
    key: str | None,
) -> None:
    """Write a proof that the record SEQUENCE is in the archive's tree, as JSON with all that is needed to check it.

    The proof holds the whole record; of one whose content was removed, what is left. Where there is a signing key, the
    tree's checkpoint is signed with it. otel-audit verify-proof checks the proof without the archive, against that
    signature or a noted root.
    """
    if (sequence is None) == (consistency is None):
        raise click.UsageError("give either SEQUENCE or --consistency OLD NEW", click.get_current_context())
    if size is not None and sequence is None:
        raise click.UsageError("--size is for a record", click.get_current_context())
    from otel_audit.archive.proof import prove_consistency, prove_inclusion  # start-up time

    signing_key = _signing_key(key)
    with open_archive(chosen_archive(archive)) as opened:

        def prove() -> dict[str, Any]:
            if sequence is not None:
                return prove_inclusion(opened, sequence, size, key=signing_key)
            assert consistency is not None  # noqa: S101 - one of them was given
            return prove_consistency(opened, *consistency, key=signing_key)

        if signing_key is not None:
            from otel_audit.cli.operating import refuse_older_copy  # start-up time, as above

            refuse_older_copy(opened)
        # What cannot be proved is not shown either; and this read's own record must be in the tree of the proof.
        prove()
        audited(opened.path, "prove", **given())
        proof = prove()
    # ASCII alone: it is for programs, and signature lines begin with a dash that not every output takes.
    sys.stdout.write(json.dumps(proof, indent=2) + "\n")


def _signing_key(given: str | None) -> SigningKey | None:
    path = chosen_key(given)
    if path is None:
        return None
    from otel_audit.keys import load  # start-up time

    return load(path)
