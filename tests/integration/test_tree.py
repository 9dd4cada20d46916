"""The Merkle tree in the archive: grown by each commit, over any number of processes, and watched by each of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw
import pytest

from otel_audit import AuditProvider, IntegrityError
from otel_audit.archive.merkle import Frontier


def stored(path: Path) -> list[tuple[int, bytes, bytes | None]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute("SELECT sequence, leaf, node FROM record ORDER BY sequence"))
    finally:
        connection.close()


def check(path: Path) -> int:
    """Grow the tree anew from the leaves, compare each node, and return the size."""
    frontier = Frontier()
    for sequence, leaf, node in stored(path):
        expected = frontier.push(leaf)
        assert node == (None if sequence % 2 else expected)
    return frontier.size


def test_commits_of_all_sizes_grow_one_tree(archive_path: Path) -> None:
    """Lone commits and batches, before and after the archive is opened again, leave the right nodes."""
    for _ in range(3):
        with AuditProvider(archive=archive_path) as provider:
            log = provider.get_logger("test", host="example.com")
            for _ in range(5):
                log.audit("user.logout")
        with AuditProvider(archive=archive_path, durability="queued") as provider:
            log = provider.get_logger("test", host="example.com")
            for _ in range(333):
                log.audit("user.logout")
    assert check(archive_path) == 3 * 338


def test_processes_grow_one_tree(archive_path: Path) -> None:
    """Parent and children that write in turn and at once extend what the others wrote."""
    with AuditProvider(archive=archive_path) as provider:
        log = provider.get_logger("test", host="example.com")
        children = []
        for _ in range(3):
            log.audit("user.logout")
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for _ in range(50):
                        log.audit("user.logout")
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        for _ in range(50):
            log.audit("user.logout")
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert check(archive_path) == 203


@pytest.mark.parametrize("regrown", [False, True])
def test_another_history_is_noticed(archive_path: Path, tmp_path: Path, *, regrown: bool) -> None:
    """A copy restored over the file is refused, also when others have recorded as much, or more, into it since."""
    with AuditProvider(archive=archive_path) as provider:
        provider.get_logger("test", host="example.com").audit("user.logout")
    copy = tmp_path / "copy.db"
    shutil.copy(archive_path, copy)
    with AuditProvider(archive=archive_path) as provider:
        log = provider.get_logger("test", host="example.com")
        for _ in range(3):
            log.audit("user.logout")
        with AuditProvider(archive=copy, high_water=False) as other:
            for _ in range(5 if regrown else 3):
                other.get_logger("test", host="example.com").audit("user.login.success", user="mallory")
        source = apsw.Connection(str(copy))
        target = apsw.Connection(str(archive_path))
        # Through SQLite, so that the writer's connection sees it as an ordinary transaction.
        with target.backup("main", source, "main") as backup:
            backup.step()
        source.close()
        target.close()
        with pytest.raises(IntegrityError, match="no longer holds the 4 records that it held"):
            log.audit("user.logout")
