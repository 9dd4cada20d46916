"""Every command and option is explained, in its help and in the documentation; the help says what is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from otel_audit._version import __version__
from otel_audit.cli.run import command_line
from tests.command_line import fill, otel_audit

ROOT = Path(__file__).parents[2]
CONTEXT = click.Context(command_line, info_name="otel-audit")
NAMES = command_line.list_commands(CONTEXT)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Iterate over all commands, those of groups as ``keys init``."""
    yield "otel-audit", command_line
    for name in NAMES:
        command = command_line.get_command(CONTEXT, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name, parent=CONTEXT)
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found is not None
                yield f"{name} {inner}", found


COMMANDS = dict(commands())


def options() -> Iterator[tuple[str, click.Option]]:
    for name, command in COMMANDS.items():
        yield from ((name, parameter) for parameter in command.params if isinstance(parameter, click.Option))


def test_the_commands() -> None:
    """These are the commands; whoever adds one documents it."""
    expected = (
        "checkpoint doctor erase export hold import keys prove prune receive reconcile record requeue ship show stats"
    )
    assert [*expected.split(), "status", "subject-export", "verify", "verify-proof"] == NAMES


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_everything(name: str) -> None:
    """Help says what the command does and explains each of its options, at any width without a traceback."""
    command = COMMANDS[name]
    words = name.removeprefix("otel-audit").split()
    text = otel_audit(*words, "--help").stdout
    assert text.startswith(f"Usage: {' '.join(['otel-audit', *words])} ")
    assert text == otel_audit(*words, "-h").stdout
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert all(word in text for word in (*parameter.opts, *parameter.secondary_opts))


def test_help_tells_the_exit_statuses() -> None:
    """The exit statuses stand in the help and in the documentation."""
    text = otel_audit("--help").stdout
    document = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for status in ("0", "1", "2", "3", "70", "130"):
        assert re.search(rf"\b{status} \w+", text)
        assert f"| {status} | " in document


def test_commands_are_documented() -> None:
    """Each command has a place in docs/cli.md and is shown at work there."""
    document = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for name in NAMES:
        assert f"| [`{name}`](#" in document
    for name in COMMANDS.keys() - {"otel-audit"}:
        assert re.search(rf"^\$ otel-audit {name}\b", document, re.MULTILINE), name


def test_options_are_documented() -> None:
    """Each option is named in docs/cli.md, and the document names no other."""
    document = (ROOT / "docs" / "cli.md").read_text("utf-8")
    known = {word for _, option in options() for word in (*option.opts, *option.secondary_opts)} | {"--help"}
    missing = [word for word in sorted(known) if word.startswith("--") and not re.search(rf"{word}(?![\w-])", document)]
    assert missing == []
    named = set(re.findall(r"(?<![\w|-])--[a-z][a-z-]+", document))
    assert named <= known


def test_version_is_printed() -> None:
    """--version prints the version."""
    assert otel_audit("--version").stdout == f"otel-audit {__version__}\n"
    assert otel_audit("-V").stdout == f"otel-audit {__version__}\n"


def test_help_works_anywhere(tmp_path: Path) -> None:
    """--help before a command is the command's help."""
    assert otel_audit("--help", "show").stdout == otel_audit("show", "--help").stdout


def test_without_a_command_there_is_help() -> None:
    """Without a command the help goes to standard error, and the exit status is 2."""
    done = otel_audit(status=2)
    assert done.stdout == ""
    assert "Commands:" in done.stderr


def test_every_variable_is_heeded(tmp_path: Path) -> None:
    """The variables that help names do what it says: a test each, here the archive's."""
    path = tmp_path / "audit.db"
    fill(path, [{}])
    assert "OTEL_AUDIT_ARCHIVE" in otel_audit("show", "--help").stdout
    assert otel_audit("show", OTEL_AUDIT_ARCHIVE=str(path)).stdout
