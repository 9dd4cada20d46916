"""Connects to the archive's SQLite file: durable, private, and with the schema of this version."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import apsw

from otel_audit.archive.files import check_regular, make_private, prepare_file, uri_path
from otel_audit.archive.leaf import seal
from otel_audit.archive.library import check_library
from otel_audit.archive.logindex import LogIndex, Opened, with_its_log
from otel_audit.archive.remedies import is_full
from otel_audit.archive.space import spend
from otel_audit.errors import ArchiveError
from otel_audit.paths import sync_directory

__all__ = [
    "APPLICATION_ID",
    "LOG_LIMIT",
    "SCHEMA_VERSION",
    "check_version",
    "connect_to_read",
    "connect_to_write",
    "schema",
    "transaction",
]

APPLICATION_ID: Final = 0x4F41_5544  # "OAUD"
SCHEMA_VERSION: Final = 2
LOG_LIMIT: Final = 64 * 2**20
"""Bytes that the write-ahead log is cut to whenever it is begun anew."""
# One statement, one state of the file: another process may be making the archive.
_IDENTITY: Final = (
    "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
    " FROM pragma_application_id, pragma_user_version"
)
_SECOND: Final = "CREATE INDEX received ON record (record_id) WHERE kind = 0"

_PATIENCE: Final = 10.0
"""Seconds that a reader waits for whoever opens the archive first, or closes it last."""

Wait = Callable[[int], bool]
"""SQLite's busy handler: given how often it was called, waits a while and returns whether to try again."""


def connect_to_write(
    path: Path, *, wait: Wait, timeout: float, cache_kib: int, saved: LogIndex | None = None
) -> Opened:
    """Return a connection that writes, having made the file where it is missing.

    Args:
        path: The file.
        wait: What to do while another process holds a lock.
        timeout: Seconds to wait for the file alone, which the first connection needs, or for its log.
        cache_kib: Page cache.
        saved: The index of a removed log that this process has saved; see `with_its_log`.

    Raises:
        ArchiveError: The file is no archive, or nothing that may be written to.
        apsw.Error: SQLite cannot open it.
    """
    while True:
        try:
            return with_its_log(path, timeout, lambda: _connect_to_write(path, wait, timeout, cache_kib), saved=saved)
        except apsw.Error as error:
            # The log and its index need room, too.
            if not (is_full(error) and spend(path, own=True)):
                raise


def _connect_to_write(path: Path, wait: Wait, timeout: float, cache_kib: int) -> apsw.Connection:
    check_library()
    is_new = prepare_file(path)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
    with _closed_on_error(connection):
        connection.set_busy_handler(wait)
        # Before anything is changed: the file may belong to another program.
        check_version(connection, path)
        if not is_new:
            make_private(path)
        _set_up(connection, timeout, cache_kib)
        _migrate(connection, path)
        connection.execute("SELECT 1 FROM sqlite_schema").get  # noqa: B018 - opens the log
        if is_new:
            # SQLite syncs the directory for journals and WALs, not for the database itself.
            sync_directory(path.parent)
    return connection


def _set_up(connection: apsw.Connection, timeout: float, cache_kib: int) -> None:
    # For a new file alone. A record takes some 850 bytes: four fit into a page of 4 KiB, nine into one of 8.
    connection.execute("PRAGMA page_size=8192")
    # Without it, what pruning frees could be given back only by writing the whole file anew.
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    _set_wal(connection, timeout)
    for setting in (
        # Every connection: what one writes unsynced precedes the next commit in the log, and where that one's fsync
        # fails, the kernel forgets both, and nobody would write the first again.
        "synchronous=FULL",
        "secure_delete=ON",
        f"cache_size=-{cache_kib}",
        "wal_autocheckpoint=1000",
        f"journal_size_limit={LOG_LIMIT}",
    ):
        connection.execute(f"PRAGMA {setting}")


def connect_to_read(path: Path) -> Opened:
    """Return a connection that reads.

    Raises:
        ArchiveError: The file is no regular one, or its log was removed.
        apsw.Error: SQLite cannot open it.
    """
    check_regular(path)
    try:
        return with_its_log(path, _PATIENCE, lambda: _connect_to_read(path))
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError) as error:
        wal = Path(f"{path}-wal")
        if (isinstance(error, apsw.IOError) and not is_full(error)) or (wal.exists() and wal.stat().st_size):
            raise
        # No log, and no right or no room to make one: until one appears, nobody writes.
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return Opened(apsw.Connection(f"file:{uri_path(path)}?immutable=1", flags=flags), None)


def _connect_to_read(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    with _closed_on_error(connection):
        # The last writer to close has the file to itself for a moment.
        connection.set_busy_timeout(int(_PATIENCE * 1_000))
        connection.execute("SELECT 1 FROM sqlite_schema").get  # noqa: B018 - runs the statement
    return connection


@contextlib.contextmanager
def _closed_on_error(connection: apsw.Connection) -> Iterator[None]:
    """Close a connection that is of no use: as long as it is open, others of this process share its index."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


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


def check_version(connection: apsw.Connection, path: Path) -> int:
    """Return the version of an archive's schema, 0 where it has none yet.

    Raises:
        ArchiveError: It is none of an archive, or a newer one than this library knows.
    """
    application, version, tables = map(int, connection.execute(_IDENTITY).fetchone() or (0, 0, 0))
    if application != APPLICATION_ID and (tables or connection.readonly("main")):
        raise ArchiveError(f"{path} is no audit archive", "give the path of an archive made by otel_audit")
    if version > SCHEMA_VERSION:
        raise ArchiveError(
            f"{path} has schema version {version}, this library knows {SCHEMA_VERSION}", "install a newer otel_audit"
        )
    return version


def _migrate(connection: apsw.Connection, path: Path) -> None:
    if check_version(connection, path) == SCHEMA_VERSION:
        return
    with transaction(connection):
        # Another process may have made the archive meanwhile, or brought it to this version.
        version = check_version(connection, path)
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
