"""Runs ``otel-audit`` as a process, on archives that hold what a test asks for."""

from __future__ import annotations

import errno
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from otel_audit.provider import AuditProvider
from otel_audit.record import Receipt

__all__ = ["HOSTILE", "SPAN", "TRACE", "environment", "fill", "json_lines", "on_terminal", "otel_audit", "popen"]

ROOT = Path(__file__).parents[1]
SECONDS = 60

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

HOSTILE = {
    "ansi": "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "csi": "a\x9b2Jb",
    "override": "user\u202egnp.exe",
    "isolate": "\u2066hidden\u2069",
    "lines": "one\r\ntwo\u2028three\x85four",
    "tab": "a\tb\x0bc",
    "nul": "a\x00b",
    "surrogate": "a\udcffb",
    "invisible": "ali\u200bce",
    "tags": "a\U000e0041b",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "markup": "[bold red]text[/] :smile:",
    "wide": "漢字かな" * 4,
    "combining": "e\u0301" * 8,
    "formula": '=HYPERLINK("http://evil.example")',
    "plus": "+1+1",
    "minus": "-2+3|cmd",
    "at": "@SUM(1)",
    "tabbed": "\t=1+1",
    "full width": "＝1+1",
    "quotes": "say \"hi\", 'x'; \\",
    "long": "x" * 3000,
}
"""What clients send, by what it tries."""


def fill(path: Path, events: Iterable[Mapping[str, Any]]) -> list[Receipt]:
    """Record events: the arguments of ``audit()``, and ``host``, ``source`` and ``trace`` where they matter."""
    receipts = []
    with AuditProvider(archive=path, ship=False) as provider:
        for event in events:
            given = {"type": "user.login.success", "host": "example.com", "source": "shop", "trace": None, **event}
            host, source, traced = given.pop("host"), given.pop("source"), given.pop("trace")
            logger = provider.get_logger(source, host=host)
            context = SpanContext(int(traced or "0", 16), int(SPAN, 16), is_remote=True, trace_flags=TraceFlags(0))
            with trace.use_span(NonRecordingSpan(context) if traced else trace.INVALID_SPAN):
                receipts.append(logger.audit(given.pop("type"), **given))
    return receipts


def environment(**changes: str | None) -> dict[str, str]:
    """Return the environment of the command: the test's, at 100 columns, in UTC and UTF-8, with `changes`."""
    base: dict[str, str | None] = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
    }
    for name in ("NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING", "PYTHONWARNINGS"):
        base.pop(name, None)
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def popen(*arguments: str | bytes | Path, **settings: Any) -> subprocess.Popen[str]:
    """Start ``otel-audit`` with pipes for its output and its complaints."""
    env = settings.pop("env", None) or environment()
    return subprocess.Popen(
        [sys.executable, "-m", "otel_audit", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        encoding="utf-8",
        **settings,
    )


def otel_audit(
    *arguments: str | bytes | Path, status: int = 0, **changes: str | None
) -> subprocess.CompletedProcess[str]:
    """Run ``otel-audit``; a status other than the expected one, or a traceback, is a failure.

    Args:
        arguments: What follows the program's name.
        status: What it is to exit with.
        changes: Changes to the environment.
    """
    with popen(*arguments, env=environment(**changes)) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in err, err
    assert process.returncode == status, f"exit {process.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def on_terminal(*arguments: str | Path, status: int = 0, **changes: str | None) -> str:
    """Run ``otel-audit`` on a terminal, and return all that it wrote there."""
    leader, follower = pty.openpty()
    settings = {"TERM": "xterm-256color", **changes}
    with subprocess.Popen(
        [sys.executable, "-m", "otel_audit", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env=environment(**settings),
    ) as process:
        os.close(follower)
        written = bytearray()
        try:
            while chunk := os.read(leader, 65_536):
                written += chunk
        except OSError as error:
            # How Linux says that nobody writes to a terminal any more.
            if error.errno != errno.EIO:
                raise
        finally:
            os.close(leader)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS)
    text = written.decode()
    assert process.returncode == status, text
    return text.replace("\r\n", "\n")
