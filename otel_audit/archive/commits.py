"""Commits of one process to one archive, and whoever must hear of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from otel_audit import forksafe
from otel_audit.archive.commit import Committer, MakeGroups, Row
from otel_audit.archive.folding import Folding
from otel_audit.archive.logkeeping import LogKeeping

__all__ = ["Commits", "OnCommit"]

_log = logging.getLogger("otel_audit.archive")

OnCommit = Callable[[int, int], None]
"""Called after each commit with the number of records and the last sequence; must be quick."""


class Commits(forksafe.ForkAware):
    """What a writer is made of: commits, counts what is to be folded, and tells whom it concerns.

    Args:
        committer: Commits to the archive; nobody else uses it.
        on_commit: Told of each commit.
    """

    def __init__(self, committer: Committer, on_commit: OnCommit) -> None:
        self._database = committer.database
        self._committer = committer
        self._on_commit = on_commit
        self._folding = Folding(self._database)
        self._log_keeping = LogKeeping(self._database)

    @property
    def head(self) -> int:
        """The last sequence that this process committed, 0 before the first."""
        return self._committer.head

    def committed(self) -> list[tuple[int, int]]:
        """Return what this process committed, as ranges of sequences; other processes' records lie between them."""
        return list(self._committer.ranges)

    @property
    def interrupted(self) -> bool:
        """Whether this very thread is amid a commit: what interrupted it must not wait for another one."""
        return self._database.interrupted

    def _commit_rows(self, rows: Sequence[Row]) -> tuple[int, list[bytes]]:
        """Commit, under the database's lock, and tell whom it concerns."""
        first, leaves = self._committer.commit(rows)
        self._tell(len(rows))
        return first, leaves

    def _commit(self, make: MakeGroups) -> tuple[int, list[bytes]]:
        """Commit what is made within the transaction, likewise."""
        first, leaves = self._committer.append_groups(make)
        if leaves:
            self._tell(len(leaves))
        return first, leaves

    def _tell(self, records: int) -> None:
        self._folding.unfolded += records
        try:
            self._on_commit(records, self._committer.head)
        except Exception:  # noqa: BLE001 - the records are on disk: nobody may hear otherwise
            _log.exception("records up to %d are committed, but nobody was told", self._committer.head)
