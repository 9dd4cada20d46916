"""Writes the archive's file anew, so that no copies of removed content are left in its unused space.

SQLite overwrites what it deletes (``secure_delete``), but a row that was moved while its page was put in order leaves
a copy in the unused middle of the page, until the page is made anew. The write-ahead log holds former pages, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import apsw

from otel_audit.archive.database import Database, archive_errors
from otel_audit.errors import ArchiveError

__all__ = ["PENDING", "is_pending", "note_pending", "vacuum"]

PENDING: Final = "unvacuumed"
"""Key in ``meta`` of the last erasure after which the file was not written anew; not there where none waits."""

_IN_MEMORY: Final = 64 * 1024 * 1024
"""Largest file whose copy is made in memory; larger ones take a temporary file."""
_PAUSE: Final = 0.01


def note_pending(connection: apsw.Connection, sequence: int) -> None:
    """Note, in the transaction that erases, that copies are left until the file is written anew.

    Args:
        connection: In a transaction.
        sequence: Of the record that names what is erased.
    """
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (PENDING, sequence))


def is_pending(connection: apsw.Connection) -> bool:
    """Tell whether the file was not written anew since the last erasure."""
    return bool(connection.execute("SELECT count(*) FROM meta WHERE key = ?", (PENDING,)).get)


def vacuum(database: Database, patience: float) -> None:
    """Write the file anew, bring the write-ahead log into it and empty the log; callers who record wait meanwhile.

    Everything stays as it is, row ids and the file's identity included. Where it cannot be done, nothing is lost.

    Args:
        database: Opened to write.
        patience: Seconds to wait for those who read or write.

    Raises:
        ArchiveError: It could not be done, or not in time: copies may remain.
    """
    deadline = time.monotonic() + patience
    try:
        database.lock(patience)
        with archive_errors(database.path):
            _write_anew(database.locked_connection(), deadline)
    except ArchiveError as error:
        if not isinstance(error.__cause__, apsw.BusyError | apsw.LockedError):
            raise
        raise ArchiveError(
            f"others were using {database.path} for all of {patience:g} s",
            "find out who reads for so long (fuser), or give more time",
        ) from error
    finally:
        database.unlock()


def _write_anew(connection: apsw.Connection, deadline: float) -> None:
    pending = connection.execute("SELECT value FROM meta WHERE key = ?", (PENDING,)).get
    size = connection.execute("PRAGMA page_count").get * connection.execute("PRAGMA page_size").get
    connection.execute(f"PRAGMA temp_store={'MEMORY' if size <= _IN_MEMORY else 'DEFAULT'}")
    _patiently(lambda: connection.execute("VACUUM"), deadline)
    # A reader that still sees the state of before keeps the log, and what is in it.
    _patiently(lambda: connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE), deadline)
    # Not what another process has erased since.
    connection.execute("DELETE FROM meta WHERE key = ? AND value <= ?", (PENDING, pending))


def _patiently(work: Callable[[], Any], deadline: float) -> None:
    """Do what others may hold up, again and again until a moment."""
    while True:
        try:
            work()
        except (apsw.BusyError, apsw.LockedError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return
