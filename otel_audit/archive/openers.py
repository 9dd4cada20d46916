"""Tells who has an archive open, or its log: connections of this process, and other processes as far as Linux says."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import apsw

__all__ = ["Identity", "holder", "identity", "inode_of", "note", "opened_here", "other_file_here", "stranger"]

_LOCKS: Final = Path("/proc/locks")
_INDEX_LOCK: Final = b" 128 128"
"""The byte that each connection locks in the index that it uses, for as long as it uses it."""

Identity = tuple[int, int]
"""Device and inode of a file."""


@dataclass(frozen=True, slots=True)
class _Files:
    """What a connection has open, which may have other names by now, or none.

    Args:
        name: Of the archive, by which it was opened.
        archive: What identifies it.
        log: The inode of its log.
        index: The inode of the log's index.
    """

    name: str
    archive: Identity
    log: int
    index: int


_files: Final = weakref.WeakKeyDictionary[apsw.Connection, _Files]()


def identity(file: Path | str) -> Identity | None:
    """Return what identifies the file that has a name now; None where there is none.

    Raises:
        OSError: It cannot be looked at.
    """
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(file)  # noqa: PTH116 - start-up time
        return status.st_dev, status.st_ino
    return None


def inode_of(path: str, unknown: int = 0) -> int:
    """Return a file's inode; 0 where there is none, and `unknown` where nobody can tell."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - on the path of every commit
    except FileNotFoundError:
        return 0
    except OSError:
        return unknown


def note(connection: apsw.Connection, archive: Path, file: Identity, inodes: tuple[int, int]) -> None:
    """Note which files a connection of this process has open.

    Args:
        connection: The connection.
        archive: The real path of the archive.
        file: What identifies it.
        inodes: Of the log and its index.
    """
    _files[connection] = _Files(str(archive), file, *inodes)


def _opened_here(unknown: str) -> Iterator[tuple[apsw.Connection, str]]:
    """Yield all connections of this process, each with the name of its file.

    Args:
        unknown: The name to yield where that is not known: by a connection that another thread is using.
    """
    for connection in apsw.connections():
        try:
            yield connection, connection.filename
        except apsw.ConnectionClosedError:
            pass  # by another thread, meanwhile
        except apsw.ThreadingViolationError:
            yield connection, _files[connection].name if connection in _files else unknown


def opened_here(archive: Path) -> Iterator[apsw.Connection]:
    """Yield the connections of this process to an archive, or to what had its name when they were made."""
    name = os.path.realpath(archive)
    return (connection for connection, found in _opened_here(name) if found == name)


def other_file_here(archive: Path, file: Identity | None, inodes: tuple[int, int]) -> bool:
    """Tell whether this process uses a log for another file than the one that it would be used for.

    SQLite shares the index by the archive's file, and finds log and index by its name.

    Args:
        archive: The real path of the archive.
        file: What identifies the file that has the name now; None: none has.
        inodes: Of what has the names of log and index now, 0 for one that is not there.
    """
    name = str(archive)
    for connection, _ in _opened_here(name):
        if (known := _files.get(connection)) is None:
            continue
        uses_them = known.log == inodes[0] != 0 or known.index == inodes[1] != 0
        if known.name == name and known.archive != file and uses_them:
            return True
        # By another name of the directory log and index are the same, too.
        if known.name != name and known.archive == file and not uses_them:
            return True
    return False


class _Lock(NamedTuple):
    """A lock that a process has, or waits for."""

    process: int
    device: bytes
    inode: int
    is_of_an_index: bool


def _locks(*inodes: int) -> Iterator[_Lock]:
    """Yield the locks that processes in the same container have of some files, and of any index; none if nobody tells.

    Args:
        inodes: Of the files. Of any file system: btrfs and stacked ones have another device here than there.
    """
    marks, lines = [b":%d " % inode for inode in inodes], list[bytes]()
    with contextlib.suppress(OSError):
        lines = _LOCKS.read_bytes().splitlines()
    for line in lines:
        # "1: POSIX ADVISORY READ 4711 fe:00:262194 1073741826 1073742335"; whoever waits for a lock has an arrow first.
        is_of_an_index = line.endswith(_INDEX_LOCK)
        if is_of_an_index or any(mark in line for mark in marks):
            with contextlib.suppress(ValueError):
                _, kind, _, _, process, place, *_ = line.split()
                device, _, inode = place.rpartition(b":")
                if kind == b"POSIX":
                    yield _Lock(int(process), device, int(inode), is_of_an_index)


def holder(archive: Path, saved: int) -> int | None:
    """Return another process that has the log of an archive open; None where there is none, or nobody can tell.

    Args:
        archive: The archive.
        saved: Leave out who uses the index that this identifies; 0: nobody.
    """
    try:
        status = archive.stat()
    except OSError:
        return None
    device = b"%02x:%02x" % (os.major(status.st_dev), os.minor(status.st_dev))
    found, with_a_log, harmless = list[int](), set[int](), {os.getpid()}
    for lock in _locks(status.st_ino, saved):
        if saved and lock.inode == saved:
            harmless.add(lock.process)
        elif lock.inode == status.st_ino and (lock.device == device or _has_open(lock.process, archive)):
            found.append(lock.process)
        if lock.is_of_an_index:
            with_a_log.add(lock.process)
    # Who reads a copy without a log (VACUUM INTO) uses no index.
    return next((process for process in found if process in with_a_log and process not in harmless), None)


def stranger(archive: Path, file: Identity | None, inodes: tuple[int, int]) -> int | None:
    """Return another process that uses log or index for another file than the archive; None as with `holder`.

    Args:
        archive: The archive.
        file: As with `other_file_here`.
        inodes: Likewise.
    """
    inode, (log, index) = file[1] if file is not None else 0, inodes
    if not log and not index:
        return None
    suspects, harmless = set[int](), {os.getpid()}
    for lock in _locks(inode, index):
        if lock.inode == inode:
            harmless.add(lock.process)
        elif lock.is_of_an_index and lock.inode == (index or lock.inode):
            suspects.add(lock.process)
    used = Path(f"{archive}{'-shm' if index else '-wal'}")
    # A process that read the archive by other means than SQLite has lost its locks of it: what it has open decides.
    return next((each for each in suspects - harmless if _has_open(each, used) and not _has_open(each, archive)), None)


def _has_open(process: int, file: Path) -> bool:
    """Tell whether a process has a file open; False where one may not look."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{process}/fd") as descriptors:
        status = file.stat()
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), status):
                    return True
    return False
