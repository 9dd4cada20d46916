"""The person that ``erase`` and ``subject-export`` are about."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from otel_audit.cli.options import load_pseudonyms, split_target
from otel_audit.errors import ConfigError

if TYPE_CHECKING:
    from otel_audit.archive.subjects import Subject

__all__ = ["chosen_subject", "pseudonym_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def pseudonym_option(command: _Command) -> _Command:
    """Give a command the option ``--pseudonym-key``."""
    option = click.option(
        "--pseudonym-key",
        metavar="FILE",
        help="Key of the pseudonyms in the archive: records that have the person's are found, too."
        "  [default: $OTEL_AUDIT_PSEUDONYM_KEY]",
    )
    return option(command)


def chosen_subject(target: str, key: str | None) -> Subject:
    """Return the person that a target names.

    Args:
        target: ``USER@HOST``, split at the last ``@``.
        key: Path of the pseudonyms' key; None: the environment's.

    Raises:
        ConfigError: The target names no user or no host, or the key cannot be used.
    """
    from otel_audit.archive.subjects import Subject  # start-up time

    user, host = split_target(target)
    if user is None or host is None:
        raise ConfigError(f"the target {target!r} names no user", "give USER@HOST")
    file = key or os.environ.get("OTEL_AUDIT_PSEUDONYM_KEY")
    return Subject(user, host, load_pseudonyms(file) if file and user else None)
