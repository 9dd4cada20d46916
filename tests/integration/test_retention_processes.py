"""Pruning beside writers, beside other pruners, and killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from otel_audit.archive import index
from otel_audit.archive.query import open_archive
from otel_audit.archive.verify import verify
from tests.archive_material import assert_sound, connect, forked, provider_at, wait_until
from tests.retention_material import left, prune, record, rules, tombstones

OLD = {"type": "user.login.success", "user": "alice"}
KEPT = {"type": "user.created", "user": "bob"}
RULES = rules({"user.login.*": "28d"})
NEW = 300


def writing(path: Path, number: int) -> Callable[[], None]:
    """Return the work of a writer."""

    def work() -> None:
        with provider_at(path) as provider:
            log = provider.get_logger(f"process-{number}")
            for count in range(NEW):
                receipt = log.audit("user.login.success", user=f"user-{count % 7}")
                assert (receipt.sequence or 0) > 4_000

    return work


def pruning_once(path: Path) -> None:
    """Prune, in a process of its own."""
    prune(path, RULES)


def pruned(path: Path) -> int:
    """Verify an archive, and return how many records were pruned."""
    report = verify(path)
    assert report.intact, report.faults
    assert report.pruned == len(tombstones(path))
    return report.pruned


@pytest.fixture
def archive(archive_path: Path) -> Path:
    """Return an archive of 4,000 old records, half of which are due."""
    record(archive_path, 50, OLD, KEPT, times=2_000)
    return archive_path


def test_pruning_beside_two_writers(archive: Path) -> None:
    """While two processes record, all that is due goes, nothing else does, and nothing that they recorded is lost."""
    writers = [forked(writing(archive, number)) for number in range(2)]
    wait_until(lambda: int(connect(archive).execute("SELECT max(sequence) FROM record").get) > 4_010)
    outcome = prune(archive, RULES)
    assert [os.waitpid(writer, 0)[1] for writer in writers] == [0, 0]
    assert outcome.records == {"user.login.success": 2_000}
    assert pruned(archive) == 2_000
    assert len(left(archive, sources=["process-*"])) == 2 * NEW
    assert left(archive, types=["user.created"]) == ["user.created"] * 2_000
    assert_sound(archive)


def test_verifying_beside_a_pruner(archive: Path) -> None:
    """While another process prunes and packs rows, each verification finds the archive intact."""
    index.fold(connect(archive))
    child = forked(partial(pruning_once, archive))
    counts: list[int] = []
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        report = verify(archive)
        assert report.intact, report.faults
        counts.append(report.pruned)
    assert ended[1] == 0
    counts.append(pruned(archive))
    assert counts == sorted(counts)
    assert counts[-1] == 2_000


def test_two_pruners_at_once(archive: Path) -> None:
    """Two processes that prune the same archive name each record once between them."""
    children = [forked(partial(pruning_once, archive)) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert pruned(archive) == 2_000
    with open_archive(archive) as opened:
        own = opened.query(admin=True, types=["audit.records.pruned"])
        assert sum(int(str((one.custom or {})["removal"]["records"])) for one in own) == 2_000


@pytest.mark.parametrize("folded", [False, True])
def test_killed_at_any_moment(archive: Path, folded: bool) -> None:
    """Over many kills the archive verifies each time, and the next pruner goes on where the last one ended."""
    if folded:
        index.fold(connect(archive))
    source = random.Random(folded)
    done = [0]
    for _ in range(12):
        child = forked(partial(pruning_once, archive))
        time.sleep(source.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done.append(pruned(archive))
        assert done[-1] >= done[-2]
    outcome = prune(archive, RULES)
    assert outcome.records.total() == 2_000 - done[-1]
    assert pruned(archive) == 2_000
    assert connect(archive).execute("PRAGMA freelist_count").get == 0
    # What a killed one left scattered is packed, too: 4,000 rows, half of them tombstones.
    assert archive.stat().st_size < 2_000 * 900 + 2_000 * 320
    assert_sound(archive)
