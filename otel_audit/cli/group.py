"""A click group that imports a command's module only when it is called, and takes options before the command too."""

from __future__ import annotations

import gc
import importlib
import keyword
from collections.abc import Sequence
from typing import Any, Final

import click

__all__ = ["LazyGroup", "typed_arguments"]

_ARGUMENTS: Final = "otel_audit.cli.arguments"


def typed_arguments(context: click.Context) -> list[str]:
    """Return the arguments of the command that a `LazyGroup` runs, as they were typed."""
    return list(context.meta.get(_ARGUMENTS, ()))


class LazyGroup(click.Group):
    """A group whose commands stand in modules of their names, each as ``command``; a hyphen is an underscore there.

    The module of a name that Python keeps for itself ends with an underscore.

    Args:
        commands_in: The package that holds the modules.
        names: The commands.
        **settings: What `click.Group` takes.
    """

    def __init__(self, *, commands_in: str, names: Sequence[str], **settings: Any) -> None:
        super().__init__(**settings)
        self._package = commands_in
        self._names = tuple(names)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands."""
        return sorted(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command, None where there is none of this name."""
        return self._load(cmd_name) if cmd_name in self._names else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name, and the arguments that are its own.

        Raises:
            click.UsageError: There is none of this name.
        """
        if args[0] not in self._names:
            raise click.UsageError(
                f"no such command: {args[0]!r} (there are {', '.join(self.list_commands(ctx))})", ctx
            )
        name, command, rest = super().resolve_command(ctx, args)
        ctx.meta[_ARGUMENTS] = tuple(rest)
        return name, command, rest

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with the options that precede the command moved behind it."""
        if args and args[0].startswith("-") and args[0] not in {"--", "-V", "--version"}:
            position = next((n for n in range(1, len(args)) if self._is_command(args, n)), None)
            if position is not None:
                args = [args[position], *args[:position], *args[position + 1 :]]
        return super().parse_args(ctx, args)

    def _is_command(self, args: list[str], position: int) -> bool:
        """Tell whether an argument is the command, and not the value of the option before it."""
        if args[position] not in self._names:
            return False
        before = args[position - 1]
        return not any(
            isinstance(parameter, click.Option) and not parameter.is_flag and before in parameter.opts
            for parameter in self._load(args[position]).params
        )

    def _load(self, name: str) -> click.Command:
        module = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
        command = importlib.import_module(f"{self._package}.{module}").command
        # `otel_audit.cli.main` turned it off while modules load.
        gc.enable()
        assert isinstance(command, click.Command)  # noqa: S101 - a fault of ours, and the type for the checker
        return command
