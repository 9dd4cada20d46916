"""Notices that the index of the write-ahead log (``-shm``) was removed or replaced while it was in use.

Through that file processes wait for each other and find each other's commits in the log. Whoever opens the archive once
it is gone makes another one; those who still use the old one would then write over what the others have committed.

If the log was removed as well, only those who had it open can bring what it holds into the archive: they come first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import apsw

from otel_audit.errors import ArchiveError

__all__ = ["LogIndex", "LogIndexLostError", "abandon", "others_open", "wait_for_log"]

_LOCKS: Final = Path("/proc/locks")


class LogIndexLostError(ArchiveError):
    """A commit was taken back: it would have gone through an index that others no longer see."""


class LogIndex:
    """The index that a connection found when it was opened.

    Args:
        archive: The archive.
    """

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._path = f"{archive}-shm"
        self._inode = 0
        self._inode = self._present()

    def _present(self) -> int:
        """Return what identifies the index that is there now, 0 for none; where nobody can tell, that of before."""
        try:
            return os.stat(self._path).st_ino  # noqa: PTH116 - on the path of every commit
        except FileNotFoundError:
            return 0
        except OSError:
            return self._inode

    @property
    def missing(self) -> bool:
        """Whether there is none now: nobody has opened the archive since it was removed."""
        return not self._present()

    def lost(self) -> bool:
        """Tell whether it is no longer the one that others find, or was gone before it could be looked at."""
        return not self._inode or self._present() != self._inode

    def give_up(self) -> None:
        """Remove it, where it is still the same: nobody commits through it any more."""
        if not self.lost():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108 - as above

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


def others_open(archive: Path, but: Iterable[apsw.Connection | None]) -> bool:
    """Tell whether this process has the archive open: connections of one process share the index.

    Args:
        archive: The archive.
        but: Connections to leave out.
    """
    known, name = {id(connection) for connection in but}, os.path.realpath(archive)
    for connection in apsw.connections():
        if id(connection) in known:
            continue
        try:
            if connection.filename == name:
                return True
        except apsw.ConnectionClosedError:
            pass  # by another thread, meanwhile
        except apsw.ThreadingViolationError:
            return True  # in use by another thread: it may be this archive's
    return False


def wait_for_log(archive: Path, seconds: float) -> None:
    """Wait while log or index are missing though another process has the archive open: that one saves what it can.

    While a process opens or closes an archive it looks the same for a moment. Only where the kernel tells of locks
    (Linux), and of those in the same container.

    Args:
        archive: The archive.
        seconds: How long to wait.

    Raises:
        ArchiveError: It is still so.
    """
    deadline = time.monotonic() + seconds
    while missing := [name for name in (f"{archive}-wal", f"{archive}-shm") if not os.path.exists(name)]:  # noqa: PTH110
        if (holder := _holder(archive)) is None:
            return
        if time.monotonic() > deadline:
            raise ArchiveError(
                f"{missing[0]} was removed while process {holder} had the archive open",
                "that process brings it in order when it next records, or when it is restarted",
            )
        time.sleep(0.001)


def _holder(archive: Path) -> int | None:
    """Return another process that has an archive open; None where there is none, or that is not known."""
    try:
        status = archive.stat()
        locks = _LOCKS.read_bytes()
    except OSError:
        return None
    file = b"%02x:%02x:%d" % (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    for line in locks.splitlines():
        # "1: POSIX ADVISORY READ 4711 fe:00:262194 1073741826 1073742335"; whoever waits for a lock has an arrow first.
        match line.split()[1:]:
            case [b"POSIX", _, _, process, found, *_] if found == file and int(process) != os.getpid():
                return int(process)
    return None
