"""Verification shared among processes: the same result, an end with the one that started them, and no hanging."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from otel_audit.archive import index
from otel_audit.archive.report import Since
from otel_audit.archive.spans import LENGTH
from otel_audit.archive.verify import verify
from tests.archive_material import connect
from tests.bench.population import Population

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of more than two runs of postings."""
    path = tmp_path_factory.mktemp("large") / "audit.db"
    Population(70_000).fill(path)
    with contextlib.closing(connect(path)) as connection:
        while index.fold(connection):
            pass
    return path


def edited(path: Path, target: Path, *statements: str) -> Path:
    """Return a copy of an archive in which statements were run."""
    with contextlib.closing(connect(path)) as source, contextlib.closing(apsw.Connection(str(target))) as copy:
        with copy.backup("main", source, "main") as backup:
            backup.step()
        for statement in statements:
            copy.execute(statement)
    return target


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM record WHERE sequence BETWEEN 30000 AND 40000",
        "DELETE FROM record WHERE sequence BETWEEN 10 AND 69990",
        "UPDATE record SET sequence = 9000000000000000000 WHERE sequence = 70000",
        "UPDATE record SET node = zeroblob(32) WHERE sequence IN (32768, 65536)",
        "UPDATE record SET otlp = zeroblob(5), salt = NULL WHERE sequence % 10000 = 0",
        "UPDATE posting SET value = 'mallory' WHERE sequence = 65536",
        "DELETE FROM zone WHERE zone % 20 = 3",
    ],
)
def test_several_processes_find_the_same(large: Path, tmp_path: Path, statement: str) -> None:
    """Two processes find what one finds, in the same order, over the borders of spans."""
    path = edited(large, tmp_path / "edited.db", statement)
    alone = verify(path)
    assert not alone.intact
    assert verify(path, jobs=2) == alone


def test_processes_end_with_the_one_that_started_them(large: Path) -> None:
    """Where a verification is killed, none of its processes goes on and keeps the archive open."""
    program = f"""
import multiprocessing, os, signal
from otel_audit.archive.verify import verify

def killed(done, total):
    if done:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    verify({str(large)!r}, jobs=2, progress=killed)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as verifying:
        assert verifying.stdout is not None
        children = [int(pid) for pid in verifying.stdout.readline().split()]
        assert len(children) == 2
        # They have their output in common with it.
        if not select.select([verifying.stdout], [], [], 20.0)[0]:
            for child in children:
                os.kill(child, signal.SIGKILL)
            pytest.fail("they go on")
        assert verifying.stdout.read() == ""


def test_a_process_that_is_killed(large: Path) -> None:
    """Where one of its processes is killed, a verification ends with an error that says so, and leaves none behind."""
    program = f"""
import multiprocessing, os, signal, sys
from otel_audit.archive.verify import verify
from otel_audit.errors import ArchiveError

def killed(done, total):
    for child in multiprocessing.active_children()[:1]:
        os.kill(child.pid, signal.SIGKILL)

if __name__ == "__main__":
    try:
        verify({str(large)!r}, jobs=2, progress=killed)
    except ArchiveError as error:
        print(error)
    print(len(multiprocessing.active_children()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    first, last = done.stdout.splitlines()
    assert "one of the 2 processes" in first
    assert "was ended from outside" in first
    assert last == "0"


def test_progress_and_processes(large: Path) -> None:
    """An intact archive is intact for one process and for two, and progress is told up to the end."""
    told: list[tuple[int, int]] = []
    alone = verify(large, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 70_000) for done in (*range(0, 70_000, LENGTH), 70_000)]
    assert alone.intact
    assert verify(large, jobs=2) == alone
    assert verify(large, since=Since(40_000), jobs=2).intact
