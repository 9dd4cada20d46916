"""Runs documentation: its Python, and its commands, whose output is compared with what the document shows.

Every ``python`` block of a document runs, in order and in one namespace, in a process of its
own; every ``console`` block is played to bash, a ``$ command`` at a time. Both share an empty directory. In what
follows a command, ``...`` matches any text within a line, and any number of lines where it stands alone; times,
dates, UUIDs and long hex numbers match others of the same form. A command that fails says so: ``# exit 1``.
A block that cannot run is preceded by ``<!-- not run: reason -->``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Block", "DocumentationError", "Step", "matches", "read_blocks", "read_steps", "run_document"]

SECONDS_A_COMMAND = 60
SECONDS_AT_EXIT = 30

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[\w+-]*)[^`]*$")
NOT_RUN = re.compile(r"<!-- not run: \S.*-->")
EXIT_STATUS = re.compile(r"\s#\s*exit (\d+)\s*$")
# Code in these languages looks as if it were run, and is not.
ALIASES = {
    "py": "python",
    "python3": "python",
    "pycon": "python",
    "bash": "console",
    "sh": "console",
    "shell": "console",
}
VARIABLE = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b[0-9a-f]{16,}\b"
    r"|(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)|(?<!\d)\d{2}:\d{2}:\d{2}(?:\.\d+)?(?!\d)"
)
# Reads one block a line, as JSON, and answers each with its traceback, or an empty string. What the blocks print goes
# to the error stream, so that the answers stay readable.
DRIVER = r"""
import ast, asyncio, inspect, json, os, sys, traceback, types
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
namespace = {"__name__": "__main__"}
for line in sys.stdin:
    block = json.loads(line)
    try:
        code = compile(block["source"], block["name"], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        run = types.FunctionType(code, namespace)
        asyncio.run(run()) if code.co_flags & inspect.CO_COROUTINE else run()
        answer = ""
    except BaseException:
        answer = traceback.format_exc()
    print(json.dumps(answer), file=answers, flush=True)
"""


class DocumentationError(AssertionError):
    """The documentation cannot be run, or does not tell the truth."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the document that its text begins at."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Step:
    """A command of a console block, what it is to print, and the status it is to exit with."""

    command: str
    output: str
    status: int


def read_blocks(document: str) -> list[Block]:
    """Return the blocks that are to run, in order: Python and console, without those marked `not run`."""
    blocks: list[Block] = []
    lines = document.splitlines()
    before, number = "", 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if opening is None:
            before = lines[number].strip() or before
            number += 1
            continue
        closing = re.compile(rf" *{opening['fence']}{opening['fence'][0]}* *$")
        end = next((at for at in range(number + 1, len(lines)) if closing.match(lines[at])), None)
        if end is None:
            raise DocumentationError(f"line {number + 1}: the block is not closed")
        language = opening["language"].lower()
        if not NOT_RUN.fullmatch(before):
            if language in ALIASES:
                raise DocumentationError(f"line {number + 1}: say `{ALIASES[language]}`, or why it is not run")
            if language in ("python", "console"):
                indent = re.compile(rf" {{0,{len(opening['indent'])}}}")
                text = "".join(indent.sub("", line, count=1) + "\n" for line in lines[number + 1 : end])
                blocks.append(Block(language, text, number + 2))
        before, number = "", end + 1
    return blocks


def read_steps(text: str) -> list[Step]:
    """Return the commands of a console block, which go on after a backslash and in lines that begin with `> `."""
    steps: list[Step] = []
    lines = text.splitlines()
    if lines and not lines[0].startswith("$ "):
        raise DocumentationError(f"a console block begins with a command, not with {lines[0]!r}")
    number = 0
    while number < len(lines):
        command = lines[number][2:]
        number += 1
        while number < len(lines) and (lines[number].startswith("> ") or command.endswith("\\")):
            command += "\n" + lines[number].removeprefix("> ")
            number += 1
        output = []
        while number < len(lines) and not lines[number].startswith("$ "):
            output.append(lines[number])
            number += 1
        status = EXIT_STATUS.search(command)
        steps.append(Step(command, "\n".join(output), int(status[1]) if status else 0))
    return steps


def _same_form(token: str) -> str:
    # Of all that VARIABLE finds, only a UUID has four hyphens.
    if re.fullmatch(r"[0-9a-f]{16,}", token) or token.count("-") == 4:
        return re.sub(r"[0-9a-f]", "[0-9a-f]", re.escape(token).replace(r"\-", "-"))
    return re.sub(r"\d", r"\\d", re.escape(token).replace(r"\-", "-"))


def _line_pattern(line: str) -> str:
    def literal(text: str) -> str:
        pattern, end = "", 0
        for token in VARIABLE.finditer(text):
            pattern += re.escape(text[end : token.start()]) + _same_form(token[0])
            end = token.end()
        return pattern + re.escape(text[end:])

    if line.strip() == "...":
        return r"(?:[^\n]*\n)*?"
    return "[^\n]*?".join(literal(part) for part in line.rstrip().split("...")) + "\n"


def matches(expected: str, actual: str) -> bool:
    """Tell whether a command printed what the documentation says; blanks at line ends and empty last lines are free."""
    printed = "".join(line.rstrip() + "\n" for line in actual.rstrip().splitlines())
    return re.fullmatch("".join(_line_pattern(line) for line in expected.rstrip().splitlines()), printed) is not None


def documentation_environment(home: Path) -> dict[str, str]:
    """Return the environment of a person who has installed the library and set nothing, at 100 columns and in UTC."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON"))}
    return inherited | {
        "COLUMNS": "100",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        # On a terminal too, what a program prints and what it complains of appear in the order of writing.
        "PYTHONUNBUFFERED": "1",
        "TZ": "UTC",
        "XDG_STATE_HOME": str(home / ".local" / "state"),
    }


class Shell:
    """Runs commands as one shell session does: what a command exports and where it changes to holds for the next."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = str(directory)
        self._environment = environment
        self._state = directory.with_name(directory.name + ".environment")

    def run(self, step: Step) -> None:
        """Run one command; raise DocumentationError where it exits or prints otherwise than documented."""
        script = f"trap 'env -0 > \"{self._state}\"' EXIT\n{step.command}\n"
        try:
            done = subprocess.run(
                ["bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=self._environment,
                timeout=SECONDS_A_COMMAND,
                check=False,
                encoding="utf-8",
            )
        except subprocess.TimeoutExpired as error:
            raise DocumentationError(f"$ {step.command}\nnot done after {SECONDS_A_COMMAND} s") from error
        if self._state.exists():
            entries = self._state.read_text(encoding="utf-8").split("\0")
            self._environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
            self._directory = self._environment["PWD"]
        if done.returncode != step.status:
            raise DocumentationError(
                f"$ {step.command}\nexit {done.returncode}, documented {step.status}; it printed:\n{done.stdout}"
            )
        if not matches(step.output, done.stdout):
            raise DocumentationError(f"$ {step.command}\ndocumented:\n{step.output}\n\nprinted:\n{done.stdout}")


class Interpreter:
    """Runs Python blocks, one after the other, in one namespace of a process of its own."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self._process = process
        self._errors = errors

    def run(self, name: str, block: Block) -> None:
        """Run one block; raise DocumentationError with its traceback where it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Empty lines before the code make the traceback's line numbers those of the document.
        request = json.dumps({"source": "\n" * (block.line - 1) + block.text, "name": name})
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer != '""\n':
            problem = json.loads(answer) if answer else "the process ended"
            raise DocumentationError(f"{problem}\nit printed:\n{self._errors.read_text(encoding='utf-8')}")

    def finish(self) -> None:
        """Let the process end as a program does; raise DocumentationError where it fails to, or takes too long."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(SECONDS_AT_EXIT)
        except subprocess.TimeoutExpired as error:
            raise DocumentationError(f"Python did not end within {SECONDS_AT_EXIT} s") from error
        if status:
            raise DocumentationError(f"Python exited with {status}: {self._errors.read_text(encoding='utf-8')}")


@contextmanager
def interpreter(directory: Path, environment: dict[str, str]) -> Iterator[Interpreter]:
    """Start the process of a document's Python blocks, and never leave it behind."""
    errors = directory.with_name(directory.name + ".errors")
    with (
        errors.open("w", encoding="utf-8") as stream,
        subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            cwd=directory,
            env=environment,
            encoding="utf-8",
        ) as process,
    ):
        try:
            yield Interpreter(process, errors)
        finally:
            process.kill()


def run_document(name: str, document: str, directory: Path) -> None:
    """Run all blocks of a document in an empty directory; raise DocumentationError at the first that is not true."""
    home = directory.with_name(directory.name + ".home")
    directory.mkdir()
    home.mkdir()
    environment = documentation_environment(home)
    shell = Shell(directory, environment)
    with interpreter(directory, environment) as python:
        for block in read_blocks(document):
            try:
                if block.language == "python":
                    python.run(name, block)
                else:
                    for step in read_steps(block.text):
                        shell.run(step)
            except DocumentationError as error:
                raise DocumentationError(f"{name}:{block.line}: {error}") from error
        python.finish()
