"""Notices that the index of the write-ahead log (``-shm``) was removed or replaced while it was in use.

Through that file processes wait for each other and find each other's commits in the log. Whoever opens the archive once
it is gone makes another one; those who still use the old one would then write over what the others have committed.

If the log was removed as well, only those who had it open can bring what it holds into the archive: they come first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from otel_audit.archive import openers
from otel_audit.archive.openers import inode_of
from otel_audit.archive.remedies import replaced
from otel_audit.errors import ArchiveError

__all__ = ["LogIndex", "LogIndexLostError", "Opened", "abandon", "with_its_log"]

_MOMENT: Final = 1.0
"""Seconds to wait for whoever opens or closes the archive: it takes milliseconds."""


class LogIndexLostError(ArchiveError):
    """A commit was taken back: it would have gone through an index that others no longer see."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection, and the files that it uses.

    Args:
        connection: The connection.
        index: The index of the log; None: the file is taken for one that does not change.
        log: What identifies the log.
    """

    connection: apsw.Connection
    index: LogIndex | None
    log: int = 0


class LogIndex:
    """The index that a connection uses.

    Args:
        archive: The archive.
        inode: What identifies it; 0: it is not known, and taken for lost.
    """

    def __init__(self, archive: Path, inode: int) -> None:
        self._path = f"{archive}-shm"
        self.inode = inode

    def _present(self) -> int:
        """Return what identifies the index that is there now, 0 for none; where nobody can tell, that of before."""
        return inode_of(self._path, self.inode)

    @property
    def missing(self) -> bool:
        """Whether there is none now: nobody has opened the archive since it was removed."""
        return not self._present()

    def lost(self) -> bool:
        """Tell whether it is no longer the one that others find, or was gone before it could be looked at."""
        return not self.inode or self._present() != self.inode

    def give_up(self) -> None:
        """Remove it, where it is still the same: nobody commits through it any more."""
        if not self.lost():
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108 - as in `inode_of`

    def guard(self) -> bool:
        """Let a commit go ahead; SQLite asks before each, with the write lock held.

        Raises:
            LogIndexLostError: It is taken back.
        """
        if self.lost():
            raise LogIndexLostError(
                f"{self._path} was removed while the archive was in use", "try again: the archive is opened anew"
            )
        return False


def abandon(connection: apsw.Connection) -> None:
    """Close a connection that must not touch the archive any more."""
    # The last connection would otherwise bring the log into the archive, by an index that is wrong by now.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    # A disk error here changes nothing: what was committed is in the file or the log.
    with contextlib.suppress(apsw.Error):
        connection.close()


def with_its_log(
    archive: Path, seconds: float, connect: Callable[[], apsw.Connection], *, saved: LogIndex | None = None
) -> Opened:
    """Connect to an archive whose log is the one that others use, and wait while it is not.

    Where log or index were removed while another process has the archive open, that one comes first, for it alone can
    save what they hold. While a process opens or closes an archive it looks the same for a moment.

    A file that was put in the place of an archive in use is not opened: the log beside it is the other one's. SQLite,
    which goes by the name, would mix the two, and cut an index that this process has in its memory: that ends it.

    Args:
        archive: The archive.
        seconds: How long to wait.
        connect: Returns a connection that has read from the archive.
        saved: The index of a log that this process has saved: whoever still uses that one need not be waited for.

    Raises:
        ArchiveError: It is still so.
        IntegrityError: Somebody uses the log for another file.
        apsw.Error: The connection cannot be made.
        OSError: The archive cannot be looked at.
    """
    archive, began = Path(os.path.realpath(archive)), time.monotonic()  # SQLite follows links, too
    while True:
        # One after the other: else a second index could be made while the first is being opened.
        with _alone(archive):
            before, file = _inodes(archive), openers.identity(archive)
            if openers.other_file_here(archive, file, before):
                raise replaced(archive)
            holder = None if all(before) else openers.holder(archive, saved.inode if saved is not None else 0)
            stranger = openers.stranger(archive, file, before)
            opened = _connect(archive, before, file, connect) if holder is stranger is None else None
        if opened is not None:
            return opened
        if stranger is not None and time.monotonic() > began + min(seconds, _MOMENT):
            raise replaced(archive, stranger)
        if time.monotonic() > began + seconds:
            who = "another process" if holder is None else f"process {holder}"
            raise ArchiveError(
                f"log or index of {archive} (-wal, -shm) were removed while {who} had it open",
                "that process brings them in order when it next records or reads, or when it is restarted",
            )
        time.sleep(0.001)


def _connect(
    archive: Path, before: tuple[int, int], file: openers.Identity | None, connect: Callable[[], apsw.Connection]
) -> Opened | None:
    """Connect, with no other process doing so; None where log or index were removed meanwhile, or the archive."""
    connection: apsw.Connection | None = None
    try:
        connection = connect()
    except apsw.IOError:
        # Also what is read by an index whose log is gone.
        after = _inodes(archive)
        if _kept(before, after):
            raise
    else:
        after = _inodes(archive)
    index = LogIndex(archive, after[1])
    if connection is not None:
        present = openers.identity(archive)
        if present is None or (file is not None and file != present):
            abandon(connection)
            return None
        if _same_log(before, after) and not _is_empty(archive, connection):
            openers.note(connection, archive, present, after)
            return Opened(connection, index, after[0])
        abandon(connection)
    # A log was made in the place of the one that was removed. Without the index, those who have that one notice.
    index.give_up()
    return None


@contextlib.contextmanager
def _alone(archive: Path) -> Iterator[None]:
    """Keep others from opening an archive, by a lock of its directory; for a second at most, should it not be had."""
    try:
        directory = os.open(archive.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        deadline = time.monotonic() + _MOMENT
        with contextlib.suppress(OSError):  # a file system without such locks
            while not _locked(directory) and time.monotonic() < deadline:
                time.sleep(0.001)
        yield
    finally:
        os.close(directory)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _inodes(archive: Path) -> tuple[int, int]:
    """Return what identifies log and index, 0 for one that is not there."""
    return inode_of(f"{archive}-wal"), inode_of(f"{archive}-shm")


def _same_log(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Tell whether log and index are what they were, or were made meanwhile."""
    return before == after or (all(after) and _kept(before, after))


def _kept(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Tell whether log and index, as far as they were there, still are."""
    return all(old in {0, now} for old, now in zip(before, after, strict=True))


def _is_empty(archive: Path, connection: apsw.Connection) -> bool:
    """Tell whether the log is empty, though by the index that a connection shares with others it is not."""
    try:
        frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        return frames > 0 and not os.path.getsize(f"{archive}-wal")  # noqa: PTH202 - start-up time
    except (apsw.Error, OSError):
        return False
