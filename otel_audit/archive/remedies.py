"""What to do about the errors of SQLite."""

from __future__ import annotations

import errno
from pathlib import Path

import apsw

from otel_audit.errors import IntegrityError

__all__ = ["is_full", "remedy", "replaced"]


def is_full(error: apsw.Error, errno_: int = 0) -> bool:
    """Tell whether there was no room: on the disk, for the index of the write-ahead log, or in the user's quota.

    Args:
        error: The error.
        errno_: What the system said last to the connection; SQLite calls a used up quota a failure of the disk.
    """
    if isinstance(error, apsw.IOError) and errno_ == errno.EDQUOT:
        return True
    return isinstance(error, apsw.FullError) or getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE


def replaced(archive: Path, process: int | None = None) -> IntegrityError:
    """Return the error of an archive whose file is no longer the one that somebody has open.

    Args:
        archive: The archive.
        process: Who has it open; None: this process.
    """
    who = "it was in use" if process is None else f"process {process} had it open, which still uses its log"
    whom = "restart to begin a new archive" if process is None else "end that process"
    return IntegrityError(
        f"the archive {archive} was removed or replaced while {who}",
        # Else SQLite reads the log as that of the file which now has the name.
        f"put the original file back, or {whom}, having moved the log (-wal, -shm) to where the original is",
    )


def remedy(error: apsw.Error) -> str:
    """Return what to do about an error, as one sentence."""
    match error:
        case _ if is_full(error):
            return "the disk is full: free some space"
        case apsw.BusyError() | apsw.LockedError():
            return "another process holds the archive's write lock: find out which (fuser), and why it does not finish"
        case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
            return (
                "check the owner and the permissions of the file, its -wal and -shm, and the directory,"
                " and whether the disk is mounted read-only"
            )
        case apsw.NotADBError():
            return "this is no SQLite file: check the path"
        case apsw.CorruptError():
            return "the file is damaged: keep it as it is, and restore a copy"
        case apsw.IOError():
            return "the disk failed, or a quota is used up: look at the kernel's log"
        case _:
            return "see the SQLite error above"
