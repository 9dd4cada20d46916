"""What the commands that verify share: the exit statuses, the option for noted roots, a progress bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from otel_audit.cli.values import NotedRoot

__all__ = ["CheckingCommand", "progress_bar", "root_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_LONG: Final = 100_000
"""Units of work below which no bar is worth its start-up time."""


class CheckingCommand(click.Command):
    """A command whose exit status 2 says that nothing could be verified, so that wrong usage needs another: 3."""

    usage_status = 3


def root_option(command: _Command) -> _Command:
    """Give a command the option ``--root``."""
    option = click.option(
        "--root",
        "roots",
        type=NotedRoot(),
        multiple=True,
        metavar="SIZE:HEX",
        help="A root that was noted earlier, as status and verify print it. Repeatable.",
    )
    return option(command)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows, on a terminal and for long work, how much of it is done."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with contextlib.ExitStack() as stack:
        bar: list[Callable[[int, int], None]] = []

        def show(done: int, total: int) -> None:
            if total < _LONG:
                return
            if not bar:
                bar.append(stack.enter_context(_bar(what)))
            bar[0](done, total)

        yield show


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console  # for terminals only
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
