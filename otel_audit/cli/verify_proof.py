"""``otel-audit verify-proof``: checks a proof without the archive."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from otel_audit.cli.checking import CheckingCommand, root_option
from otel_audit.cli.safe import escape, json_text
from otel_audit.cli.terminal import standard_output
from otel_audit.errors import ConfigError, IntegrityError
from otel_audit.record import rfc3339, to_json

if TYPE_CHECKING:
    from otel_audit.archive.proof import Proved
    from otel_audit.archive.report import Root

__all__ = ["command"]

_LARGEST: Final = 64 * 1024 * 1024


@click.command(cls=CheckingCommand, short_help="Check a proof without the archive.")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@root_option
@click.option(
    "-o", "--output", "form", type=click.Choice(("text", "json")), default="text", help="Form.  [default: text]"
)
def command(*, file: str, roots: tuple[Root, ...], form: str) -> int:
    """Check a proof that otel-audit prove wrote (- reads standard input), and print the record that it proves.

    The roots must come from somewhere else than the proof: from whoever noted them. A proof of consistency needs both.
    Exits with 0 where the proof holds, 1 where it does not, 2 where the file is no proof, 3 on wrong usage.
    """
    if not roots:
        raise click.UsageError("give the root that was noted: --root SIZE:HEX", click.get_current_context())
    from otel_audit.archive.proof import check_proof  # start-up time

    proof = _read(file)
    try:
        proved = check_proof(proof, roots)
    except IntegrityError as error:
        sys.stderr.write(f"otel-audit: {escape(str(error))}\n")
        return 1
    standard_output()
    if form == "json":
        sys.stdout.write(json_text(_json(proved), indent=2) + "\n")
    else:
        sys.stdout.write(_text(proved) + "\n")
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


def _text(proved: Proved) -> str:
    record, roots = proved.record, proved.roots
    if record is None:
        return f"the tree of {roots[1].size} extends the one of {roots[0].size}"
    who = record.host if record.user is None else f"{record.user}@{record.host}"
    what = f"{rfc3339(record.observed)} {record.type} ({record.outcome}) {who}"
    return f"record {record.sequence} is in the tree of {roots[0].size}: {escape(what)}"


def _json(proved: Proved) -> dict[str, Any]:
    return {
        "holds": True,
        "roots": [{"size": root.size, "root": root.hash.hex()} for root in proved.roots],
        "record": None if proved.record is None else to_json(proved.record),
    }
