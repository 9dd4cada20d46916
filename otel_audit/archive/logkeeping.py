"""Has the write-ahead log begun anew where readers keep SQLite from it, and sees when it was removed.

SQLite writes from the log's beginning again once all of it is in the archive and nobody reads from it. Beside readers
that take turns without a pause that moment hardly comes, and the log grows. So whoever writes asks for it: commits wait
until the reads that are under way have ended. Those that begin meanwhile read from the archive alone, and do no harm.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from typing import Final

import apsw

from otel_audit.archive.connecting import LOG_LIMIT
from otel_audit.archive.database import Database
from otel_audit.errors import AuditError

__all__ = ["LogKeeping"]

_PAUSE: Final = 2.0
"""Seconds between two attempts of a process, by and large: several processes shall not try together."""
_LONGEST_PAUSE: Final = 300.0
"""Seconds that it comes to where attempts are in vain: each takes twice the pause of the one before."""
_PATIENCE: Final = 0.1
"""Seconds that commits wait for readers in an attempt, for each `LOG_LIMIT` that the log has come to."""
_LONGEST: Final = 0.3
"""Seconds that they wait at the most."""
_OPENING: Final = 1.0
"""Seconds to wait for others where the archive must be opened anew."""

_log = logging.getLogger("otel_audit.archive")


class LogKeeping:
    """Keeps an archive's log in order, in the writer's thread. A failure is logged once, and costs no record.

    Args:
        database: The writer's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pause = _PAUSE
        self._next = 0.0
        self._begun_at = 0
        self._failed = False

    def run(self, *, idle: bool = False) -> None:
        """Begin the log anew where it has outgrown `LOG_LIMIT`.

        Args:
            idle: Nobody records: see, too, whether the log was removed. Other processes wait for what it holds.
        """
        try:
            if idle and self._database.log_removed:
                self._open_anew()
            size = self._database.log_size
            # Until somebody records, a log that may be begun anew keeps its size.
            if size > LOG_LIMIT and size != self._begun_at and time.monotonic() > self._next:
                self._begin_anew(size)
            self._failed = False
        except (apsw.Error, AuditError) as error:
            if not self._failed:
                _log.warning("the write-ahead log of %s cannot be kept in order: %s", self._database.path, error)
            self._failed = True
        except Exception:  # noqa: BLE001 - the writer's thread must live
            _log.exception("the write-ahead log of %s cannot be looked after", self._database.path)

    def _open_anew(self) -> None:
        self._database.lock(_OPENING)
        try:
            self._database.locked_connection()
        finally:
            self._database.unlock()

    def _begin_anew(self, size: int) -> None:
        # First while others can commit: what is then left to do is little.
        self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE, 0.0)
        if self._checkpoint(apsw.SQLITE_CHECKPOINT_RESTART, min(_LONGEST, _PATIENCE * size / LOG_LIMIT)):
            self._begun_at, self._pause = size, _PAUSE
        else:
            # A reader that stays: waiting for it again and again would stop all who record.
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        self._next = time.monotonic() + self._pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret

    def _checkpoint(self, mode: int, patience: float) -> bool:
        """Bring the log's content into the archive, and return whether nobody was in the way."""
        self._database.lock(patience)
        try:
            with contextlib.suppress(apsw.BusyError, apsw.LockedError):
                self._database.locked_connection().wal_checkpoint(mode=mode)
                return True
        finally:
            self._database.unlock()
        return False
