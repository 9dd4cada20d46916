"""``otel-audit verify-proof``: checks a proof without the archive."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from otel_audit.cli.checking import CheckingCommand, root_option
from otel_audit.cli.options import form_option
from otel_audit.cli.signing import verifier_option
from otel_audit.cli.terminal import standard_output
from otel_audit.errors import ConfigError, IntegrityError
from otel_audit.record import rfc3339, to_json
from otel_audit.safe import escape, json_text

if TYPE_CHECKING:
    from otel_audit.archive.proof import Proved
    from otel_audit.archive.report import Root
    from otel_audit.notes import Verifier

__all__ = ["command"]

_LARGEST: Final = 64 * 1024 * 1024


@click.command(cls=CheckingCommand, short_help="Check a proof without the archive.")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@root_option
@verifier_option
@form_option
def command(*, file: str, roots: tuple[Root, ...], keys: tuple[Verifier, ...], form: str) -> int:
    """Check a proof that otel-audit prove wrote (- reads standard input), and print the record that it proves.

    Each tree that it is about must be signed by a key given with --key, or have a root given with --root; a proof of
    consistency is about two. Both must come from somewhere else than the proof: from whoever keeps or noted them.
    Exits with 0 where the proof holds, 1 where it does not, 2 where the file is no proof, 3 on wrong usage.
    """
    if not roots and not keys:
        raise click.UsageError(
            "give the key that signs, --key VKEY, or the root that was noted, --root SIZE:HEX",
            click.get_current_context(),
        )
    from otel_audit.archive.proof import check_proof  # start-up time

    proof = _read(file)
    try:
        proved = check_proof(proof, roots, keys)
    except IntegrityError as error:
        sys.stderr.write(f"otel-audit: {escape(str(error))}\n")
        return 1
    standard_output()
    if form == "json":
        sys.stdout.write(json_text(_json(proved), indent=2) + "\n")
    else:
        for line in _text(proved):
            sys.stdout.write(f"{escape(line)}\n")
    return 0


def _read(file: str) -> object:
    try:
        if file == "-":
            content = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with Path(file).open("rb") as stream:
                content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}", "give a file that otel-audit prove wrote") from error
    try:
        if len(content) > _LARGEST:
            raise ValueError("too long")
        value: object = json.loads(content)
    except (ValueError, RecursionError):
        raise ConfigError(f"{file} is no proof", "give a file that otel-audit prove wrote") from None
    return value


def _text(proved: Proved) -> Iterator[str]:
    leaf, record, roots = proved.leaf, proved.record, proved.roots
    if leaf is None:
        yield f"the tree of {roots[1].size} extends the one of {roots[0].size}"
    elif record is None:
        what = f"{rfc3339(leaf.observed)} {leaf.type} {leaf.host}"
        yield f"record {leaf.sequence} is in the tree of {roots[0].size}, its content was removed: {what}"
    else:
        who = record.host if record.user is None else f"{record.user}@{record.host}"
        what = f"{rfc3339(record.observed)} {record.type} ({record.outcome}) {who}"
        yield f"record {record.sequence} is in the tree of {roots[0].size}: {what}"
    for root, signers in zip(roots, proved.signers, strict=True):
        if signers:
            yield f"the tree of {root.size} is signed by {', '.join(signer.label for signer in signers)}"


def _json(proved: Proved) -> dict[str, Any]:
    leaf = proved.leaf
    return {
        "holds": True,
        "roots": [
            {"size": root.size, "root": root.hash.hex(), "signed_by": [str(signer) for signer in signers]}
            for root, signers in zip(proved.roots, proved.signers, strict=True)
        ],
        "leaf": None if leaf is None else {**leaf._asdict(), "observed": rfc3339(leaf.observed)},
        "record": None if proved.record is None else to_json(proved.record),
    }
