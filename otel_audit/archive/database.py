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
from otel_audit.archive.files import check_regular, make_private, prepare_file, uri_path
from otel_audit.archive.leaf import seal
from otel_audit.archive.library import check_library
from otel_audit.archive.ownedlock import OwnedLock
from otel_audit.archive.remedies import is_full, remedy
from otel_audit.archive.space import spend
from otel_audit.errors import ArchiveError, IntegrityError
from otel_audit.paths import sync_directory

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "Database", "archive_errors", "connect_to_read", "schema", "transaction"]

APPLICATION_ID: Final = 0x4F41_5544  # "OAUD"
SCHEMA_VERSION: Final = 2
# One statement, one state of the file: another process may be making the archive.
_IDENTITY: Final = (
    "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
    " FROM pragma_application_id, pragma_user_version"
)
_SECOND: Final = "CREATE INDEX received ON record (record_id) WHERE kind = 0"

Mode = Literal["read", "write"]


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
        # A relative path must mean the same file after a chdir.
        self.path = Path(path).absolute()
        self.mode: Mode = mode
        self.busy_timeout = busy_timeout
        self._patience = busy_timeout
        self._cache_kib = cache_kib
        self._must_exist = must_exist or mode == "read"
        self._lock = OwnedLock(self._drop)
        self._connection: apsw.Connection | None = None
        self._immutable = False
        self._closed = False
        self.inode = 0
        self._log_inode = 0
        self._log_checked = 0.0
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
        return self._connection or self._open()

    def close(self) -> None:
        """Close the connection; a later use raises."""
        self._closed = True
        if not self._lock.owned:  # else whoever was interrupted drops it
            self._lock.acquire()
            self._drop()
            self._lock.release()

    def log_is_there(self) -> bool:
        """Tell whether the write-ahead log in use still has its name; whether it is the same file, once a second."""
        now = time.monotonic()
        if now < self._log_checked + 1.0:
            # Not `stat`: a file whose times were asked for gets a new, finer one at the next write (Linux 6.13 and
            # newer), and fsync then writes the inode too: 40 us a commit.
            return os.access(f"{self.path}-wal", os.F_OK)
        self._log_checked = now
        try:
            return Path(f"{self.path}-wal").stat().st_ino == self._log_inode
        except FileNotFoundError:
            return False

    def rescue(self) -> None:
        """Bring what a removed log holds into the archive; the next use begins a new log."""
        if self._connection is not None:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            # A disk error here changes nothing: what was committed is in the file or the WAL.
            with contextlib.suppress(apsw.Error):
                connection.close()

    def before_fork(self) -> None:
        """Wait for the transaction under way and close the connection."""
        self._lock.acquire()
        self._drop()

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
            connection = self._open_to_write() if self.mode == "write" else self._open_to_read()
            if self.mode == "write":
                connection.execute("SELECT 1 FROM sqlite_schema").get  # noqa: B018 - opens the log
                self._log_inode = Path(f"{self.path}-wal").stat().st_ino
            self.inode = self.path.stat().st_ino
        self._connection = connection
        return connection

    def _check_place(self) -> None:
        if self._closed:
            raise ArchiveError(f"the archive {self.path} is closed", "open it again")
        if self.inode and not self.path.exists():
            # Made anew, it would hide that the old one is gone.
            raise IntegrityError(
                f"the archive {self.path} was removed while it was in use",
                "put the original file back, or restart to begin a new archive",
            )
        if self._must_exist and not self.path.exists():
            raise ArchiveError(
                f"there is no archive at {self.path}",
                "give --archive or set OTEL_AUDIT_ARCHIVE to where the application records; the first record makes it",
            )
        check_regular(self.path)

    def _open_to_write(self) -> apsw.Connection:
        while True:
            try:
                return self._connect_to_write()
            except apsw.Error as error:
                # The log and its index need room, too.
                if not (is_full(error) and spend(self.path, own=True)):
                    raise

    def _connect_to_write(self) -> apsw.Connection:
        check_library()
        is_new = prepare_file(self.path)
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
        connection.set_busy_handler(self._wait_when_busy())
        # Before anything is changed: the file may belong to another program.
        _check_version(connection, self.path)
        if not is_new:
            make_private(self.path)
        # For a new file alone. A record takes some 850 bytes: four fit into a page of 4 KiB, nine into one of 8.
        connection.execute("PRAGMA page_size=8192")
        # Without it, what pruning frees could be given back only by writing the whole file anew.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        _set_wal(connection, self.busy_timeout)
        for setting in (
            # Every connection: what one writes unsynced precedes the next commit in the log, and where that one's fsync
            # fails, the kernel forgets both, and nobody would write the first again.
            "synchronous=FULL",
            "secure_delete=ON",
            f"cache_size=-{self._cache_kib}",
            "wal_autocheckpoint=1000",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {setting}")
        _migrate(connection, self.path)
        if is_new:
            # SQLite syncs the directory for journals and WALs, not for the database itself.
            sync_directory(self.path.parent)
        return connection

    def _open_to_read(self) -> apsw.Connection:
        connection, self._immutable = connect_to_read(self.path)
        connection.set_busy_handler(self._wait_when_busy())
        connection.execute(f"PRAGMA cache_size=-{self._cache_kib}")
        _check_version(connection, self.path)
        return connection

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


def connect_to_read(path: Path) -> tuple[apsw.Connection, bool]:
    """Return a connection, and whether it takes the file for one that does not change."""
    check_regular(path)
    flags = apsw.SQLITE_OPEN_READONLY
    connection = apsw.Connection(str(path), flags=flags)
    # The last writer to close has the file to itself for a moment.
    connection.set_busy_timeout(10_000)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").get  # noqa: B018 - runs the statement
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError) as error:
        wal = Path(f"{path}-wal")
        if (isinstance(error, apsw.IOError) and not is_full(error)) or (wal.exists() and wal.stat().st_size):
            raise
        # No log, and no right or no room to make one: until one appears, nobody writes.
        connection.close()
        return apsw.Connection(f"file:{uri_path(path)}?immutable=1", flags=flags | apsw.SQLITE_OPEN_URI), True
    return connection, False


@contextlib.contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Commit what happens within, or take it back where anything is raised."""
    try:
        # Within: an interrupt may come as soon as the transaction has begun.
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


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


def _set_wal(connection: apsw.Connection, timeout: float) -> None:
    """Switch to WAL; the switch needs the file alone, and SQLite does not call the busy handler for it."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").get
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
            continue
        if mode != "wal":
            raise ArchiveError("SQLite cannot use a write-ahead log here", "put the archive on a local disk")
        return


def schema() -> str:
    """Return the statements that make an archive's tables."""
    from importlib import resources  # once in an archive's life, and readers need not load it

    return resources.files("otel_audit.archive").joinpath("schema.sql").read_text("utf-8")


def _check_version(connection: apsw.Connection, path: Path) -> int:
    application, version, tables = map(int, connection.execute(_IDENTITY).fetchone() or (0, 0, 0))
    if application != APPLICATION_ID and (tables or connection.readonly("main")):
        raise ArchiveError(f"{path} is no audit archive", "give the path of an archive made by otel_audit")
    if version > SCHEMA_VERSION:
        raise ArchiveError(
            f"{path} has schema version {version}, this library knows {SCHEMA_VERSION}", "install a newer otel_audit"
        )
    return version


def _migrate(connection: apsw.Connection, path: Path) -> None:
    if _check_version(connection, path) == SCHEMA_VERSION:
        return
    with transaction(connection):
        # Another process may have made the archive meanwhile, or brought it to this version.
        version = _check_version(connection, path)
        if version == 1:
            connection.execute(_SECOND)
        elif not version:
            import uuid  # once in an archive's life, and readers need not load it

            connection.execute(schema())
            archive_id, created = uuid.uuid4().hex, time.time_ns()
            connection.execute(
                "INSERT INTO meta VALUES ('archive_id', ?), ('created', ?), ('folded', 0), ('seal', ?)",
                (archive_id, created, seal(archive_id, created)),
            )
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    # The schema must not be in the log alone: without its log, the file would not even be an archive.
    with contextlib.suppress(apsw.BusyError):  # then another process does it
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
