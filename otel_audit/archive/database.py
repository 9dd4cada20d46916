"""Opens the archive's SQLite file: durable, private, and safe over forks and between processes."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import apsw

from otel_audit import forksafe
from otel_audit.archive.connecting import check_version, connect_to_read, connect_to_write
from otel_audit.archive.files import check_name, check_regular
from otel_audit.archive.logindex import LogIndex, Opened, abandon
from otel_audit.archive.openers import identity, opened_here
from otel_audit.archive.ownedlock import OwnedLock
from otel_audit.archive.remedies import is_full, remedy, replaced
from otel_audit.archive.space import spend
from otel_audit.errors import ArchiveError

__all__ = ["Database", "Mode", "archive_errors"]

Mode = Literal["read", "write"]

_SHORT: Final = 1.0
"""Seconds that the end of a process waits for readers."""


class Database(forksafe.ForkAware):
    """One connection to an archive, used under a lock, closed around forks, opened when first needed.

    ``with database as connection:`` takes the lock. Nothing may run under it that can wait long: a fork waits for it.

    Args:
        path: The file.
        mode: ``write`` creates the file where it is missing.
        busy_timeout: Seconds to wait for another process's transaction.
        cache_kib: Page cache. The writer's holds a run of postings and a slice of records.
        must_exist: Refuse to create the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: Mode,
        *,
        busy_timeout: float = 10.0,
        cache_kib: int = 16_384,
        must_exist: bool = False,
    ) -> None:
        check_name(path)
        # A relative path must mean the same file after a chdir. Readers may follow links; SQLite's log is at their end.
        self.path = Path(path).absolute() if mode == "write" else Path(os.path.realpath(path))
        self.mode: Mode = mode
        self.busy_timeout = busy_timeout
        self._patience = busy_timeout
        self._cache_kib = cache_kib
        self._must_exist = must_exist or mode == "read"
        self._lock = OwnedLock(self._drop)
        self._connection: apsw.Connection | None = None
        self._index: LogIndex | None = None
        self._left = False
        self._saved: LogIndex | None = None
        self._immutable = False
        self._closed = False
        self.inode = 0
        self._log_inode = 0
        self._log_checked = 0.0
        self.log_size = 0
        forksafe.register(self)

    def __enter__(self) -> apsw.Connection:
        """Take the lock and return the connection.

        Raises:
            ArchiveError: The archive cannot be opened.
        """
        try:
            self._acquire(blocking=True)
            return self.locked_connection()
        except BaseException:
            self.unlock(2)
            raise

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self.unlock(2)

    def lock(self, patience: float, *, blocking: bool = True) -> bool:
        """Take the lock and return whether we have it; `unlock` gives it back.

        Args:
            patience: Seconds to wait for another process's transaction while the lock is held, where this is less than
                the busy timeout.
            blocking: False: take it only if it is free.

        Raises:
            ArchiveError: This very thread has it, interrupted by a signal handler.
        """
        if not self._acquire(blocking=blocking):
            return False
        self._patience = min(patience, self.busy_timeout)
        return True

    def _acquire(self, *, blocking: bool) -> bool:
        try:
            return self._lock.acquire(blocking=blocking, depth=3)
        except RuntimeError as error:
            raise ArchiveError(
                f"{self.path} is in use by this very thread, which a signal handler or finaliser interrupted",
                "let handlers set a flag, and record after they returned",
            ) from error

    @property
    def interrupted(self) -> bool:
        """Whether this very thread has the lock, in a function that the present one interrupted."""
        return self._lock.interrupted

    def unlock(self, depth: int = 1) -> None:
        """Give back the lock, where this thread has it; never that of a function which the present one interrupted.

        Args:
            depth: Which function up the stack gives it back: 1 is the caller.
        """
        if self._lock.owned and not self._lock.held_above(depth + 1):
            self._patience = self.busy_timeout
            if self._closed:
                self._drop()  # closed meanwhile, by a handler
            self._lock.release()

    def locked_connection(self) -> apsw.Connection:
        """Return the connection, for a holder of the lock.

        Raises:
            ArchiveError: The archive cannot be opened.
        """
        if self._immutable and Path(f"{self.path}-wal").exists():
            self._drop()  # somebody writes again
        if self.log_removed:
            with archive_errors(self.path):
                self._leave_log()
        return self._connection or self._open()

    def close(self) -> None:
        """Close the connection; a later use raises."""
        self._closed = True
        if not self._lock.owned:  # else whoever was interrupted drops it
            self._lock.acquire()
            self._save_and_drop()
            self._lock.release()

    def is_full(self, error: apsw.Error) -> bool:
        """Tell whether what the connection raised means that there is no room, on the disk or in a quota."""
        return is_full(error, self._connection.system_errno if self._connection is not None else 0)

    @property
    def index_lost(self) -> bool:
        """Whether a connection is open whose index of the log is no longer what others find."""
        return self._connection is not None and self._index is not None and self._index.lost()

    @property
    def log_removed(self) -> bool:
        """Whether a connection is open whose log, or its index, is no longer what others find."""
        return (
            self._connection is not None
            and self._index is not None
            and (self._index.lost() or not self._log_is_there())
        )

    def _log_is_there(self) -> bool:
        """Tell whether the log in use still has its name; once a second, whether it is the same file, and its size."""
        now = time.monotonic()
        if now < self._log_checked + 1.0:
            # Not `stat`: a file whose times were asked for gets a new, finer one at the next write (Linux 6.13 and
            # newer), and fsync then writes the inode too: 40 us a commit.
            return os.access(f"{self.path}-wal", os.F_OK)
        self._log_checked = now
        try:
            found = Path(f"{self.path}-wal").stat()
        except FileNotFoundError:
            return False
        except OSError:
            return True  # nobody can tell: whoever uses it will hear
        self.log_size = found.st_size
        return found.st_ino == self._log_inode

    def _leave_log(self) -> None:
        """Close the connection, whose log or index was removed; the first to notice saves what they hold."""
        connection, index = self._connection, self._index
        if connection is None or index is None or connection.in_transaction:
            return  # a transaction is not interrupted: its commit will be refused
        if self.moved():
            return  # the archive itself is another one: whoever commits is told
        if self.mode == "write":
            # Others use a removed log, too: without its index they notice.
            index.give_up()
            self._save_log(connection)
        self._drop()
        self._left = True

    def moved(self) -> bool:
        """Tell whether the archive's name is no longer that of the file which is, or was, open."""
        present = identity(self.path)
        return present is None or present[1] != self.inode

    def _save_log(self, connection: apsw.Connection) -> None:
        """Bring the log into the archive, as it may have been removed with its index, unless somebody has a new one.

        It waits for commits that are under way elsewhere. The second process to do it finds nothing left to do. Once
        somebody has a new index, it would write over what that one has written.
        """
        if self.mode == "read" or self._index is None or not self._index.missing:
            return
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        deadline = time.monotonic() + self._patience
        while self._saved is not self._index:
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
                self._saved = self._index
            except (apsw.BusyError, apsw.LockedError):
                # At once, where another process does the same: SQLite does not wait for that.
                if time.monotonic() > deadline:
                    if Path(f"{self.path}-wal").exists():
                        return  # with the log itself nothing is lost
                    raise
                time.sleep(0.001)
            except apsw.Error as error:
                if not (self.is_full(error) and spend(self.path, own=True)):
                    raise

    def _wait_for_others(self) -> None:
        """Wait until nothing in this process uses a removed index: all its connections share one."""
        name = os.path.realpath(self.path)
        siblings = [
            each for each in forksafe.members() if isinstance(each, Database) and os.path.realpath(each.path) == name
        ]
        deadline = time.monotonic() + self._patience
        while (lost := [each for each in siblings if each.log_removed]) or self._left:
            for each in lost:
                each.leave_if_idle()
            known = [each.present_connection for each in siblings]
            self._left = any(connection not in known for connection in opened_here(self.path))
            if self._left and time.monotonic() > deadline:
                raise ArchiveError(
                    f"{self.path}-shm was removed, and this process still reads the archive by it",
                    "let what reads it come to its end, or restart the process",
                )
            time.sleep(0.001)

    @property
    def present_connection(self) -> apsw.Connection | None:
        """The connection that is open and uses the log that others see; None where there is none."""
        return None if self.log_removed else self._connection

    def leave_if_idle(self) -> None:
        """Close the connection, whose log was removed, unless somebody is using it."""
        with contextlib.suppress(RuntimeError):  # this very thread is
            if self._lock.acquire(blocking=False):
                try:
                    self._leave_log()
                finally:
                    self._lock.release()

    def _save_and_drop(self) -> None:
        with contextlib.suppress(apsw.Error, OSError):
            if self._connection is not None and self.moved():
                self._empty_log(self._connection)
            elif self.log_removed:
                self._leave_log()
        self._drop()

    def _empty_log(self, connection: apsw.Connection) -> None:
        """Bring the log into the file that is open, and leave an empty one to the file that has its name now.

        SQLite does nothing of the kind then, and the log would be taken for the other file's.
        """
        # By an index that is not the last one, it would write over what others have committed.
        is_last = self._index is not None and (self._index.missing or not self._index.lost())
        if self.mode == "write" and is_last and not connection.in_transaction:
            patience, self._patience = self._patience, min(_SHORT, self._patience)
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                self._patience = patience

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            # A disk error here changes nothing: what was committed is in the file or the WAL.
            with contextlib.suppress(apsw.Error):
                if self._index is not None and self._index.lost():
                    self._save_log(connection)
                    abandon(connection)
                connection.close()

    def before_fork(self) -> None:
        """Wait for the transaction under way and close the connection."""
        self._lock.acquire()
        self._save_and_drop()

    def after_fork_in_parent(self) -> None:
        """Let the next use open a connection."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Let the next use open a connection."""
        self._lock = OwnedLock(self._drop)
        self._patience = self.busy_timeout

    def _open(self) -> apsw.Connection:
        with archive_errors(self.path):
            self._check_place()
            self._wait_for_others()
            opened = self._open_to_write() if self.mode == "write" else self._open_to_read()
            connection, self._index, self._log_inode = opened.connection, opened.index, opened.log
            self._log_checked = 0.0
            if self._index is not None and self.mode == "write":
                connection.set_commit_hook(self._index.guard)
            self.inode = self.path.stat().st_ino
        self._connection = connection
        return connection

    def _check_place(self) -> None:
        if self._closed:
            raise ArchiveError(f"the archive {self.path} is closed", "open it again")
        if self.inode and not self.path.exists():
            # Made anew, it would hide that the old one is gone.
            raise replaced(self.path)
        if self._must_exist and not self.path.exists():
            raise ArchiveError(
                f"there is no archive at {self.path}",
                "give --archive or set OTEL_AUDIT_ARCHIVE to where the application records; the first record makes it",
            )
        check_regular(self.path)

    def _open_to_write(self) -> Opened:
        saved, self._saved = self._saved, None
        return connect_to_write(
            self.path, wait=self._wait_when_busy(), timeout=self.busy_timeout, cache_kib=self._cache_kib, saved=saved
        )

    def _open_to_read(self) -> Opened:
        opened = connect_to_read(self.path)
        self._immutable = opened.index is None
        opened.connection.set_busy_handler(self._wait_when_busy())
        opened.connection.execute(f"PRAGMA cache_size=-{self._cache_kib}")
        check_version(opened.connection, self.path)
        return opened

    def _wait_when_busy(self) -> Callable[[int], bool]:
        deadline = 0.0

        def wait(attempt: int) -> bool:
            nonlocal deadline
            now = time.monotonic()
            if attempt == 0:
                deadline = now + self._patience
            # SQLite's own handler waits up to 100 ms at a time, so that writers starve each other for 730 ms.
            time.sleep(random.uniform(0.0003, 0.0012))  # noqa: S311 - no secret
            return now < deadline

        return wait


@contextlib.contextmanager
def archive_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into an `ArchiveError` that says what to do."""
    try:
        yield
    except apsw.Error as error:
        raise ArchiveError(f"{path}: {error}", remedy(error)) from error
    except (UnicodeDecodeError, OverflowError):
        # Their texts quote what was found.
        raise ArchiveError(f"{path} holds what no archive can hold", "otel-audit verify says more") from None
    except OSError as error:
        raise ArchiveError(
            f"{path}: {error.strerror or error}", "check the path, its permissions and the disk"
        ) from error
