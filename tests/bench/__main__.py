"""``python -m tests.bench``: measures the library beside others and prints one table. No figure fails it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench.archives import archives
from tests.bench.callers import committed, committed_slowly, queued
from tests.bench.growth import growth
from tests.bench.machine import describe
from tests.bench.measure import Sizes, progress
from tests.bench.memory import memory
from tests.bench.page import put
from tests.bench.plots import as_section, draw
from tests.bench.signing import signing
from tests.bench.start import start
from tests.bench.table import Row, as_markdown, as_text
from tests.bench.throughput import sustained, tasks
from tests.bench.tree import tree
from tests.bench.verifying import verifying
from tests.rotel import Rotel

FULL: Final = Sizes(
    rounds=9,
    calls=2000,
    commits=1000,
    slow_commits=100,
    sustained=100_000,
    task_records=20_000,
    burst=20_000,
    large=10_000_000,
    small=100_000,
    waiting=1_000_000,
    starts=21,
    growth=(1_000_000, 5_000_000, 10_000_000),
)
QUICK: Final = Sizes(
    rounds=7,
    calls=500,
    commits=300,
    slow_commits=30,
    sustained=10_000,
    task_records=5_000,
    burst=10_000,
    large=500_000,
    small=100_000,
    waiting=100_000,
    starts=9,
    growth=(500_000, 1_000_000),
)

PICTURE: Final = "growth.png"

SECTIONS: Final[dict[str, Callable[[Sizes, Path], list[Row]]]] = {
    "queued": queued,
    "commit": committed,
    "slow-commit": committed_slowly,
    "sustained": sustained,
    "tasks": tasks,
    "archive": archives,
    "growth": growth,
    "tree": tree,
    "sign": signing,
    "verify": verifying,
    "memory": memory,
    "start": start,
}


def main() -> int:
    """Measure what the command line asks for; return 0 unless something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes, about 2 minutes; the full run takes about 25"
    )
    parser.add_argument("--only", choices=SECTIONS, action="append", metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="put tables and machine into this page, the plot beside it"
    )
    parser.add_argument(
        "--directory", type=Path, default=_disk(), help="where to make temporary archives, up to 10 GB (%(default)s)"
    )
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        return _measure(arguments.section, QUICK if arguments.quick else FULL, arguments.directory)
    if missing := Rotel.missing():
        parser.error(f"{missing}: there is no collector to measure against")
    began = time.monotonic()
    rows, failed = [], []
    for name in arguments.only or SECTIONS:
        found = _in_process(name, quick=arguments.quick, directory=arguments.directory)
        rows += found
        failed += [] if found else [name]
    machine = describe(arguments.directory, quick=arguments.quick, minutes=(time.monotonic() - began) / 60)
    print("\n".join(f"{name}: {value}" for name, value in machine), end="\n\n")
    print(as_text(rows))
    if failed:
        print(f"\nCould not be measured (see above): {', '.join(failed)}")
    if arguments.markdown is not None:
        _write(
            arguments.markdown, rows, machine, "make bench" if not arguments.quick else "python -m tests.bench --quick"
        )
    return 1 if failed else 0


def _write(page: Path, rows: list[Row], machine: list[tuple[str, str]], command: str) -> None:
    """Put what was measured into a page, between its marks, and the plot beside it; what else stands there stays."""
    text = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    if table := [row for row in rows if not row.series]:
        text = put(text, "figures", as_markdown(table, machine, command=command))
    if grown := [row for row in rows if row.series]:
        text = put(text, "growth", as_section(grown, machine, picture=PICTURE))
        draw(grown, page.with_name(PICTURE))
    page.write_text(text, encoding="utf-8")


def _disk() -> Path:
    """Return a directory for temporary files that is on a disk: an fsync to memory would measure nothing."""
    persistent = Path("/var/tmp")
    return persistent if os.access(persistent, os.W_OK) else Path(tempfile.gettempdir())


def _in_process(name: str, *, quick: bool, directory: Path) -> list[Row]:
    """Run a section in a process of its own, so that none inherits another's memory, threads or slowed fsync."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.bench", "--section", name, "--directory", str(directory)]
    # The caller's own settings would reach both sides, each in its way.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    if quick:
        command.append("--quick")
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
    progress(f"  {name}: {time.monotonic() - began:.0f} s")
    return [Row.from_json(row) for row in json.loads(done.stdout)] if done.returncode == 0 else []


def _measure(name: str, sizes: Sizes, directory: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="otel-audit-bench-", dir=directory) as folder:
        rows = SECTIONS[name](sizes, Path(folder))
    print(json.dumps([row.to_json() for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
