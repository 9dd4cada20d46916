"""``manage.py audit …``: the command line ``otel-audit`` on the project's archive."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import REMAINDER, ArgumentParser
from collections.abc import Sequence
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError

from otel_audit.errors import AuditError
from otel_audit.integrations.django.command_line import command_environment
from otel_audit.integrations.django.options import provider_settings

__all__ = ["Command"]


class Command(BaseCommand):
    """Passes its words on to ``otel-audit``, with the settings of ``OTEL_AUDIT`` as environment.

    It becomes that program, so that signals, exit status and terminal are as if it had been called itself.
    """

    help = "Search, watch, ship, verify and prune the project's audit archive: what `otel-audit --help` lists."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take all words."""
        parser.add_argument("words", nargs=REMAINDER, help="what to pass on to otel-audit")

    def run_from_argv(self, argv: Sequence[str]) -> NoReturn:
        """Become ``otel-audit``: nothing is left of this process but its terminal."""
        try:
            environment = _environment()
        except CommandError as error:
            self.stderr.write(str(error))
            sys.exit(2)
        command = [*_COMMAND, *_words(argv[2:])]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """Print the help of ``otel-audit``."""
        self.run_from_argv([prog_name, subcommand, "--help"])

    def handle(self, *_: Any, **given: Any) -> None:
        """Run ``otel-audit`` for ``call_command("audit", "status", …)``, and pass on what it writes.

        Raises:
            CommandError: It exited with another status than 0, which is the error's ``returncode``.
        """
        done = subprocess.run(  # noqa: S603 - our own command, without a shell
            [*_COMMAND, *given["words"]], env=_environment(), capture_output=True, encoding="utf-8", check=False
        )
        self.stdout.write(done.stdout, ending="")
        if done.returncode:
            raise CommandError(done.stderr.strip(), returncode=done.returncode)
        self.stderr.write(done.stderr, ending="")


_COMMAND = (sys.executable, "-m", "otel_audit")


def _environment() -> dict[str, str]:
    try:
        return command_environment(provider_settings(), os.environ)
    except AuditError as error:
        raise CommandError(str(error)) from error


def _words(given: Sequence[str]) -> list[str]:
    """Return the words without those that ``manage.py`` itself took."""
    words: list[str] = []
    following = iter(given)
    for word in following:
        if word in {"--settings", "--pythonpath"}:
            next(following, None)
        elif not word.startswith(("--settings=", "--pythonpath=")):
            words.append(word)
    return words
