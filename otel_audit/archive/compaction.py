"""Gives disk space back: packs rows that removals left in half empty pages, and returns free pages to the file system.

Each step is a short transaction with a pause behind it, so that the writers of other processes come in between.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import apsw

from otel_audit.archive.connecting import transaction
from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.index import ZONE
from otel_audit.archive.ranges import Range
from otel_audit.errors import IntegrityError

__all__ = ["PAUSE", "compact", "give_back"]

PAUSE: Final = 0.005
"""Seconds between two transactions: several times as long as others sleep until they try again."""
_BYTES: Final = 1_048_576
"""Most content that is rewritten at once."""
_GAIN: Final = 4
"""Pages that must become free: fewer are not worth the writing."""
_STEP: Final = 256
"""Pages that are given back at once."""
_PATIENCE: Final = 0.02
"""Seconds to wait for readers of what is only in the log, while nobody can write."""
_ATTEMPTS: Final = 20
"""How often that is tried beside busy writers; the next run, or the last close, does it else."""
_SIZES: Final = (
    "SELECT sequence, coalesce(length(otlp), 0) FROM record WHERE sequence BETWEEN ? AND ? ORDER BY sequence"
)
_ROWS: Final = "SELECT * FROM record WHERE sequence BETWEEN ? AND ? ORDER BY sequence"
_INSERT: Final = f"INSERT INTO record VALUES ({','.join('?' * 19)})"

Stopping = Callable[[], bool]


def compact(database: Database, zones: Iterable[int], stopping: Stopping = lambda: False) -> int:
    """Write the rows of zones anew, in their order, where that frees pages, and return how many it freed.

    Args:
        database: Opened to write.
        zones: The zones, as `otel_audit.archive.index` numbers them.
        stopping: Asked before each step.
    """
    freed = 0
    for zone in sorted(zones):
        if stopping():
            break
        with database as connection, archive_errors(database.path):
            blocks = list(_blocks(connection, zone))
        for block in blocks:
            with database as connection, archive_errors(database.path):
                freed += _rewrite(connection, block)
            time.sleep(PAUSE)
    return freed


def _blocks(connection: apsw.Connection, zone: int) -> Iterator[Range]:
    """Iterate over the parts of a zone that can be rewritten at once."""
    first, size, last = zone * ZONE + 1, 0, 0
    rows: Any = connection.execute(_SIZES, (first, first + ZONE - 1)).fetchall()
    for sequence, length in rows:
        if size + length > _BYTES and sequence > first:
            yield first, sequence - 1
            first, size = sequence, 0
        size += length
        last = sequence
    if last >= first:
        yield first, last


class _NotWorthIt(Exception):
    """Takes a transaction back that would free too little."""


def _rewrite(connection: apsw.Connection, block: Range) -> int:
    freed = 0
    with contextlib.suppress(_NotWorthIt), transaction(connection):
        before: Any = connection.execute("PRAGMA freelist_count").get
        try:
            rows: Any = connection.execute(_ROWS, block).fetchall()
        except UnicodeDecodeError:
            raise IntegrityError(
                f"one of the records {block[0]} to {block[1]} holds text that is no UTF-8",
                "otel-audit verify says more",
            ) from None
        connection.execute("DELETE FROM record WHERE sequence BETWEEN ? AND ?", block)
        # Ascending into the gap, rows fill their pages.
        connection.executemany(_INSERT, rows)
        after: Any = connection.execute("PRAGMA freelist_count").get
        if after - before < _GAIN:
            raise _NotWorthIt
        freed = after - before
    return freed


def give_back(database: Database, spare: float = 0.0, stopping: Stopping = lambda: False) -> None:
    """Return free pages to the file system, and the write-ahead log's as far as no reader needs it.

    Args:
        database: Opened to write.
        spare: Share of the file that may stay free, for the records to come.
        stopping: Asked before each step.
    """
    last = 0
    # Where it does not change, the file was made without this ability.
    while (free := _free(database, spare)) not in {0, last} and not stopping():
        with database as connection, archive_errors(database.path):
            connection.execute(f"PRAGMA incremental_vacuum({min(free, _STEP)})").fetchall()
        time.sleep(PAUSE)
        last = free
    if spare and not last:
        return  # a log that is used again and again is cheaper than one that grows anew
    with database as connection, archive_errors(database.path), contextlib.suppress(apsw.BusyError, apsw.LockedError):
        # First without the write lock: what is then left to do with it is little.
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    for _ in range(_ATTEMPTS):
        if stopping() or _truncate_log(database):
            break
        time.sleep(PAUSE)


def _truncate_log(database: Database) -> bool:
    # It waits for readers with the write lock held: not for long.
    database.lock(_PATIENCE)
    try:
        with archive_errors(database.path), contextlib.suppress(apsw.BusyError, apsw.LockedError):
            database.locked_connection().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            return True
    finally:
        database.unlock()
    return False


def _free(database: Database, spare: float) -> int:
    """Return how many pages are to be given back."""
    with database as connection, archive_errors(database.path):
        free = int(connection.execute("PRAGMA freelist_count").get)
        pages = int(connection.execute("PRAGMA page_count").get)
    return max(0, free - int(pages * spare))
