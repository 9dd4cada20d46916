"""The command starts at once, and whatever happens it ends without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otel_audit.cli import run as command
from tests.command_line import environment, fill, otel_audit

SLOW = ("opentelemetry.proto", "google.protobuf", "grpc", "requests", "opentelemetry.sdk", "structlog", "asyncio")


def imported(*arguments: str | Path) -> set[str]:
    """Return the modules that a run of the command imports."""
    script = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, sep=chr(10), file=sys.stderr));"
        "from otel_audit.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment(), capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "also_slow"),
    [
        (("show",), ("rich.console", "csv")),
        (("show", "-o", "jsonl"), ("rich", "csv")),
        (("show", "-o", "csv"), ("rich",)),
        (("status",), ("csv",)),
        (("status", "-o", "json"), ("csv",)),
        (("stats",), ("rich.console",)),
    ],
)
def test_nothing_slow_is_imported(archive_path: Path, arguments: tuple[str, ...], also_slow: tuple[str, ...]) -> None:
    """Reading imports neither the generated protobuf modules nor what only shipping and recording need."""
    fill(archive_path, [{"user": "alice"}])
    modules = imported(*arguments, "--archive", archive_path)
    assert "otel_audit.archive.query" in modules
    loaded = {name for name in modules for slow in (*SLOW, *also_slow) if name == slow or name.startswith(f"{slow}.")}
    assert loaded == set()


def test_help_of_a_command_imports_no_other() -> None:
    """A command's module is loaded when it is called, no sooner."""
    modules = imported("status", "--help")
    assert "otel_audit.cli.status" in modules
    assert not modules & {
        f"otel_audit.cli.{name}" for name in ("show", "stats", "ship", "record", "requeue", "receive")
    }


def test_both_modules_and_the_script_are_the_command() -> None:
    """`python -m otel_audit`, `python -m otel_audit.cli` and the entry point do the same."""
    version = otel_audit("--version").stdout
    for arguments in (["-m", "otel_audit.cli"], ["-c", "from otel_audit.cli import main; main()"]):
        done = subprocess.run(
            [sys.executable, *arguments, "--version"],
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert done.stdout == version


def test_a_fault_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that nobody foresaw ends with 70 and one harmless line, without a traceback."""

    def fail(*_: object) -> None:
        raise RuntimeError("\x1b[2J unforeseen")

    monkeypatch.setattr(command.command_line, "invoke", fail)
    assert command.run(["status"]) == 70
    err = capsys.readouterr().err
    assert err == "otel-audit: unexpected RuntimeError: \\x1b[2J unforeseen: please report this as a fault\n"


def test_an_interrupt_is_quiet(archive_path: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a command with 130 and without a word, whatever it was doing."""
    fill(archive_path, [{"message": "x" * 10_000}] * 30)
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "otel_audit", "show", "--archive", archive_path, "-o", "jsonl"],
        stdout=writing, stderr=subprocess.PIPE, env=environment(),
    ) as process:  # fmt: skip
        os.close(writing)
        # It has begun to write, and waits for a reader of the rest.
        assert os.read(reading, 1)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        os.close(reading)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(archive_path: Path, closed: str) -> None:
    """Where a standard stream is closed, the archive does not take its place, and the record is kept."""
    for _ in range(2):
        line = f'"$0" -m otel_audit record h t --archive "$1" {closed}'
        subprocess.run(["bash", "-c", line, sys.executable, archive_path], env=environment(), check=True)
    shown = otel_audit("show", "--archive", archive_path, "-o", "jsonl").stdout
    assert shown.count("\n") == 2
    line = f'"$0" -m otel_audit show --archive "$1" {closed}'
    subprocess.run(
        ["bash", "-c", line, sys.executable, archive_path], env=environment(), check=True, capture_output=True
    )
