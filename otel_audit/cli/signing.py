"""What the commands share that sign, or check signatures: their options, and the record of what was done with a key."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from otel_audit.errors import AuditError, ConfigError
from otel_audit.safe import escape

if TYPE_CHECKING:
    from otel_audit.notes import SigningKey, Verifier

    ParamType = click.ParamType[Any]
else:
    # Not generic before click 8.4.
    ParamType = click.ParamType

__all__ = ["chosen_key", "key_option", "record_key", "required_key", "verifier_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def key_option(command: _Command) -> _Command:
    """Give a command the option ``--key`` for the file of a signing key."""
    option = click.option(
        "--key",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="The signing key's file.  [default: $OTEL_AUDIT_SIGNING_KEY]",
    )
    return option(command)


def chosen_key(given: str | None) -> Path | None:
    """Return the path of the signing key: the option's, else the environment's, else None."""
    if given is not None:
        return Path(given)
    from otel_audit.keys import key_path  # start-up time

    return key_path()


def required_key(given: str | None) -> Path:
    """Return the path of the signing key, of which there must be one.

    Raises:
        click.UsageError: Neither the option nor the environment names one.
    """
    path = chosen_key(given)
    if path is None:
        raise click.UsageError(
            "no key is named: give --key FILE, or set OTEL_AUDIT_SIGNING_KEY", click.get_current_context()
        )
    return path


class _VerifierText(ParamType):
    """A verifier, or ``@`` and the file that holds it."""

    name = "verifier"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Verifier:
        from otel_audit.notes import Verifier  # start-up time

        if isinstance(value, Verifier):
            return value
        text = str(value)
        name = text[1:] if text.startswith("@") else None
        try:
            if name is not None:
                with Path(name).open("rb") as file:
                    text = file.read(4_096).decode(errors="replace")
            return Verifier.parse(text)
        except ConfigError as error:
            # What a file holds instead may be a secret.
            what = error.message if name is None else f"{name!r} holds no verifier of an Ed25519 key"
            self.fail(f"{what}: {error.hint}", param, ctx)
        except (OSError, ValueError) as error:
            self.fail(f"{name!r} cannot be read: {getattr(error, 'strerror', None) or error}", param, ctx)


def verifier_option(command: _Command) -> _Command:
    """Give a command the option ``--key`` for the verifiers of keys that are trusted."""
    option = click.option(
        "--key",
        "keys",
        type=_VerifierText(),
        multiple=True,
        metavar="VKEY",
        help="Verifier of a key whose signature is trusted, as otel-audit keys show prints it, or @FILE. Repeatable.",
    )
    return option(command)


def record_key(archive: Path, type_: str, key: SigningKey, *, binding: bool) -> None:
    """Append to the archive what was done with a key; where that cannot be, say so on standard error.

    Args:
        archive: The archive, which need not exist.
        type_: Type of the record.
        key: The key.
        binding: Whether it is the archive's first key, where nothing was bound yet.
    """
    from otel_audit.archive.administration import Own, operator, process_fields  # start-up time
    from otel_audit.archive.leaf import ADMINISTRATION
    from otel_audit.cli.operating import open_administration

    fields = {"key": {"verifier": str(key.verifier)}, "process": process_fields()}
    try:
        with open_administration(archive, key if binding else None) as administration:
            administration.append(lambda _connection, _tree: [Own(ADMINISTRATION, type_, fields, operator())])
    except AuditError as error:
        sys.stdout.flush()
        sys.stderr.write(f"otel-audit: not recorded in the archive: {escape(str(error))}\n")
