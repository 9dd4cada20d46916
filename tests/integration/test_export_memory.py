"""An export takes the same memory whatever the size of the archive."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from otel_audit.exports import FORMATS, export_lines
from otel_audit.exports.formats import Format
from otel_audit.record import Actor, AuditRecord
from tests.bench.population import Population
from tests.command_line import environment

MANY = 200_000
MEBIBYTE = 1 << 20
# SQLite's page cache has at most 64 MiB, and a row group of Parquet is in memory until it is written.
ALLOWED = {"jsonl": 96 * MEBIBYTE, "parquet": 192 * MEBIBYTE}
RECORD = AuditRecord("01890a5d-ac96-774b-bcce-b302099a8057", 1, 2, "h", "s", "t", Actor("s", "system"), "X", "unknown")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a small archive and one with many records."""
    folder = tmp_path_factory.mktemp("memory")
    small, large = folder / "small.db", folder / "large.db"
    Population(2_000).fill(small)
    Population(MANY).fill(large)
    return small, large


def highest(archive: Path, form: str, file: Path) -> int:
    """Export an archive in a process of its own; return the most memory that it had, in bytes."""
    # Not the resource usage that the kernel gives a parent: it begins with the parent's own.
    script = (
        "import re, sys; from otel_audit.cli.run import run; from pathlib import Path; assert run(sys.argv[1:]) == 0;"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "export", "--format", form, "-O", file, "--archive", archive],
        env=environment(), capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return int(done.stdout) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory a process had")
@pytest.mark.parametrize("form", ALLOWED)
def test_memory_is_constant(archives: tuple[Path, Path], tmp_path: Path, form: str) -> None:
    """A hundred times as many records take no more than the caches that have a limit."""
    small, large = (highest(archive, form, tmp_path / archive.name) for archive in archives)
    assert (tmp_path / "large.db").stat().st_size > 20 * (tmp_path / "small.db").stat().st_size
    assert large - small < ALLOWED[form], f"{small / MEBIBYTE:.0f} and {large / MEBIBYTE:.0f} MiB"


@pytest.mark.parametrize("form", sorted({*FORMATS} - {"parquet"}))
def test_text_is_a_stream(form: Format) -> None:
    """Lines come as records do, also from a source without an end."""
    lines = list(itertools.islice(export_lines(itertools.repeat(RECORD), form), 5))
    assert len(lines) == 5
