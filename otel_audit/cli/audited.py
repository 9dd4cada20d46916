"""Records in the archive that somebody reads it through the command line: who, when, and what was asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from otel_audit.cli.group import typed_arguments
from otel_audit.errors import ArchiveError
from otel_audit.safe import escape

if TYPE_CHECKING:
    from otel_audit.archive.administration import Own

__all__ = ["audited", "audited_source", "given", "not_recorded", "recording"]

_PATIENCE: Final = 5.0
"""Seconds that a reader waits for the archive's write lock; whoever holds it for longer is stuck."""


def audited(archive: Path, command: str, /, **details: Any) -> None:
    """Record that the archive is read, before anything of it is shown; where that cannot be, say so and go on.

    Args:
        archive: The archive, which must exist.
        command: The name of the command.
        **details: What was asked for, see `given`; None stands for nothing.

    Raises:
        ConfigError: ``OTEL_AUDIT_READS``, or a setting that records need, is wrong.
    """
    if not recording():
        return
    asked = {name: value for name, value in details.items() if value is not None}
    try:
        _append(archive, command, asked)
    except Exception as error:  # noqa: BLE001 - an archive that cannot be written, or is damaged, must still be readable
        not_recorded(str(error) or type(error).__name__)


def audited_source(archive: Path | None, command: str, /, **details: Any) -> None:
    """Do what `audited` does; of a fleet (None), say that ClickHouse alone knows of it."""
    if archive is not None:
        audited(archive, command, **details)
    elif recording():
        not_recorded("a fleet is read without being changed, ClickHouse's system.query_log has who asked")


def not_recorded(reason: str) -> None:
    """Say that this read is not recorded, and why."""
    sys.stderr.write(f"otel-audit: this read is not recorded: {escape(reason)}\n")


def recording() -> bool:
    """Return whether reads are recorded.

    Raises:
        ConfigError: ``OTEL_AUDIT_READS``, or a setting that records need, is wrong.
    """
    from otel_audit.config import reads_recorded, record_settings  # start-up time: after wrong usage was reported

    if not reads_recorded():
        return False
    record_settings()
    return True


def given() -> dict[str, Any]:
    """Return what was asked for on the command line, as it was typed, by the names of the options."""
    context = click.get_current_context()
    # Parsed again: the command has the values already converted, times for example.
    typed, *_ = context.command.make_parser(context).parse_args(typed_arguments(context))
    found: dict[str, Any] = {}
    for parameter in context.command.params:
        name = str(parameter.name)
        if name == "archive" or context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = typed.get(name)
        shown = name if isinstance(parameter, click.Argument) else max(parameter.opts, key=len).lstrip("-")
        # Of flags, what they mean.
        found[shown] = value if isinstance(value, str | list | tuple) else context.params[name]
    return found


def _append(archive: Path, command: str, asked: dict[str, Any]) -> None:
    from otel_audit.archive.administration import Own, operator, process_fields  # start-up time, as above
    from otel_audit.archive.leaf import ADMINISTRATION
    from otel_audit.cli.operating import open_administration

    # Whoever reads through a symbolic link was let through already.
    path = archive.resolve()
    if not path.stat().st_mode & 0o222:
        # Root could write it, and opening it to write would change its mode: a copy that is kept as evidence stays so.
        raise ArchiveError(f"{path} is read-only", "its permissions let nobody write")
    custom = {"read": {"command": command, "filter": asked}, "process": process_fields()}

    def make(*_: object) -> list[Own]:
        return [Own(ADMINISTRATION, "audit.read", custom, operator())]

    administration = open_administration(path, busy_timeout=_PATIENCE)
    context = click.get_current_context(silent=True)
    try:
        administration.append(make)
    finally:
        if context is None:
            administration.close()
        else:
            # The last one to close brings the log into the archive, which takes a while: nobody need wait for it.
            context.call_on_close(administration.close)
