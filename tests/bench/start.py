"""How long the command line keeps a person waiting, beside the import of what it is made of."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from otel_audit.provider import AuditProvider
from tests.bench.events import HOST, SOURCE, audit, events
from tests.bench.measure import Sizes, alternate, pair_ratio, progress
from tests.bench.table import Goal, Row

__all__ = ["start"]

_RECORDS = 1000
_SWITCHES = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"})


def start(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure the time to the first output of ``otel-audit show`` on a terminal."""
    path = folder / "show.db"
    with AuditProvider(archive=path, durability="queued") as provider:
        call = audit(provider.get_logger(SOURCE, HOST))
        for event in events(_RECORDS):
            call(event)
    progress("first line of show")
    environment = _environment(folder / "bytecode")
    show = [sys.executable, "-m", "otel_audit", "show", "--archive", str(path)]
    bare = [sys.executable, "-c", "import click, rich.table; print(flush=True)"]
    figures = alternate(
        {"ours": lambda: _first_output(show, environment), "bare": lambda: _first_output(bare, environment)},
        sizes.starts,
        warm_up=2,
    )
    return [
        Row(
            figure="first line of `otel-audit show` / python -c 'import click, rich.table'",
            unit="ms",
            ours=median(figures["ours"]),
            other=median(figures["bare"]),
            ratio=pair_ratio(figures["ours"], figures["bare"]),
            goal=Goal(ratio_at_most=2.0),
            note=f"From the start of the process to its first byte on a terminal; {_RECORDS:,} records.",
        )
    ]


def _environment(bytecode: Path) -> dict[str, str]:
    """Return an environment in which both find compiled modules, as an installed package does."""
    kept = {key: value for key, value in os.environ.items() if key not in _SWITCHES}
    terminal = {"COLUMNS": "160", "LINES": "50", "TERM": "xterm-256color"}
    return {**kept, **terminal, "PYTHONPYCACHEPREFIX": str(bytecode)}


def _first_output(command: list[str], environment: dict[str, str]) -> float:
    """Run a command on a terminal of its own, and return the milliseconds to its first byte."""
    ours, theirs = pty.openpty()
    try:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=theirs, stdin=subprocess.DEVNULL, env=environment)
        os.close(theirs)
        first = os.read(ours, 1)
        taken = (time.perf_counter() - began) * 1000
        while _more(ours):
            pass
        if process.wait(30) or not first:
            raise RuntimeError(f"{command} failed")
    finally:
        os.close(ours)
    return taken


def _more(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:
        # Linux says so when the last process on the terminal is gone.
        return b""
