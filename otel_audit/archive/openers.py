"""Tells who has an archive open, or its log: connections of this process, and other processes as far as Linux says."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import apsw

__all__ = ["holder", "note", "opened_here", "other_file_here", "stranger"]

_LOCKS: Final = Path("/proc/locks")
_INDEX_LOCK: Final = [b"128", b"128"]
"""The byte that each connection locks in the index that it uses, for as long as it uses it."""

_files: Final = weakref.WeakKeyDictionary[apsw.Connection, tuple[str, int]]()
"""The name by which each connection opened its file, and what identifies that: it may have lost the name by now."""


def note(connection: apsw.Connection, archive: Path, inode: int) -> None:
    """Note which file a connection of this process has open."""
    _files[connection] = os.path.realpath(archive), inode


def opened_here(archive: Path) -> Iterator[apsw.Connection]:
    """Yield the connections of this process to an archive, or to what had its name when they were made.

    Args:
        archive: The archive.

    Yields:
        Also those of others that another thread is using: they do not say what they have open.
    """
    name = os.path.realpath(archive)
    for connection in apsw.connections():
        try:
            found = connection.filename
        except apsw.ConnectionClosedError:
            continue  # by another thread, meanwhile
        except apsw.ThreadingViolationError:
            found, _ = _files.get(connection, (name, 0))
        if found == name:
            yield connection


def other_file_here(archive: Path, inode: int) -> bool:
    """Tell whether this process has a file open that had an archive's name, and is another one than has it now.

    Args:
        archive: The archive.
        inode: What identifies the file that has the name now; 0: none has.
    """
    return any(_files.get(connection, ("", inode))[1] != inode for connection in opened_here(archive))


class _Lock(NamedTuple):
    """A lock that a process has, or waits for."""

    process: int
    device: bytes
    inode: int
    where: list[bytes]


def _locks() -> Iterator[_Lock]:
    """Yield the locks of processes in the same container; none where nobody tells."""
    lines = list[bytes]()
    with contextlib.suppress(OSError):
        lines = _LOCKS.read_bytes().splitlines()
    for line in lines:
        # "1: POSIX ADVISORY READ 4711 fe:00:262194 1073741826 1073742335"; whoever waits for a lock has an arrow first.
        match line.split()[1:]:
            case [b"POSIX", _, _, process, place, *where]:
                device, _, inode = place.rpartition(b":")
                yield _Lock(int(process), device, int(inode), where)


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
    for lock in _locks():
        if saved and lock.inode == saved:
            harmless.add(lock.process)
        # Btrfs and stacked file systems have another device here than there.
        elif lock.inode == status.st_ino and (lock.device == device or _has_open(lock.process, archive)):
            found.append(lock.process)
        if lock.where == _INDEX_LOCK:
            with_a_log.add(lock.process)
    # Who reads a copy without a log (VACUUM INTO) uses no index.
    return next((process for process in found if process in with_a_log and process not in harmless), None)


def stranger(archive: Path, index: int) -> int | None:
    """Return another process that uses the index for another file than the archive; None as with `holder`.

    Args:
        archive: The archive.
        index: What identifies the index.
    """
    inodes = defaultdict[int, set[int]](set)
    for lock in _locks():
        inodes[lock.process].add(lock.inode)
    inode = _inode(archive)
    for process, locked in inodes.items():
        suspect = index in locked and inode not in locked and process != os.getpid()
        # A process that read the file by other means than SQLite has lost its locks: what it has open decides.
        if suspect and _has_open(process, Path(f"{archive}-shm")) and not _has_open(process, archive):
            return process
    return None


def _inode(file: Path) -> int:
    try:
        return file.stat().st_ino
    except OSError:
        return 0


def _has_open(process: int, file: Path) -> bool:
    """Tell whether a process has a file open; False where one may not look."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{process}/fd") as descriptors:
        status = file.stat()
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), status):
                    return True
    return False
