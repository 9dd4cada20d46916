"""Who can reach an archive's files: what somebody else may have put in their place is not written to."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from otel_audit.errors import ArchiveError
from otel_audit.paths import sync_directory

__all__ = ["check_directory", "check_files", "companions", "give_to_owner", "make_directory", "warn_of_group"]

_log = logging.getLogger("otel_audit.archive")


def companions(path: Path) -> tuple[Path, ...]:
    """Return the files that SQLite keeps, and believes, beside an archive."""
    return tuple(Path(f"{path}{suffix}") for suffix in ("-wal", "-shm", "-journal"))


def make_directory(directory: Path) -> None:
    """Make a directory with mode 0700 where it is missing, and so the missing ones above it, whatever the umask."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)  # another process may do so now
        sync_directory(one.parent)


def check_directory(directory: Path) -> None:
    """Refuse a directory in which anybody can replace files.

    Only that of the archive itself: volumes of containers are often open to all, and a directory of one's own on them
    is as safe as it gets there.

    Args:
        directory: Of the archive.

    Raises:
        ArchiveError: It is writable for everybody, and not sticky as ``/tmp`` is.
    """
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ArchiveError(
            f"everybody can replace files in {directory} (mode {stat.S_IMODE(mode):04o})",
            "keep the archive in a directory of its own there, or chmod o-w it",
        )


def warn_of_group(directory: Path) -> None:
    """Say in the log where a group can replace an archive: it may be meant so, and records must not fail for it."""
    with contextlib.suppress(OSError):
        status = directory.stat()
        # A group of one's own, as many systems give every user, is no other group.
        if status.st_mode & (stat.S_IWGRP | stat.S_ISVTX) == stat.S_IWGRP and status.st_gid != os.getegid():
            _log.warning("the group %d can replace the archive: chmod g-w %s", status.st_gid, directory)


def check_files(path: Path) -> None:
    """Refuse an archive that somebody else may have put there, or that is reached by another name, too.

    Args:
        path: The archive, which need not exist.

    Raises:
        ArchiveError: It, or a file that SQLite would read with it, is a link, no file, or somebody else's.
    """
    ours, common = os.geteuid(), bool(path.parent.stat().st_mode & stat.S_IWOTH)
    owners = {0, ours}
    for file in (path, *companions(path)):
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue
        name = f"the archive {file}" if file == path else str(file)
        if stat.S_ISLNK(status.st_mode):
            raise ArchiveError(f"{name} is a symbolic link", "give the path of the file itself")
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError(f"{name} is no regular file", "find out who made it, and remove it")
        if status.st_nlink > 1:
            # SQLite would keep another log for each name, and the two of them would destroy the file.
            raise ArchiveError(
                f"{name} has {status.st_nlink} names: it is a hard link", "remove the others, or copy the file"
            )
        if file == path and not ours and not common:
            # Root serves whoever the archive belongs to, but not in /tmp, where anybody may have made it.
            owners.add(status.st_uid)
        if status.st_uid not in owners:
            raise ArchiveError(
                f"{name} belongs to user {status.st_uid}, this process runs as {ours}",
                "run it as the owner of the archive, or chown the file once you know who made it",
            )


def give_to_owner(descriptor: int, archive: Path) -> None:
    """Give a file that root made beside an archive to the archive's owner, who could not use it otherwise.

    Args:
        descriptor: The file.
        archive: The archive.

    Raises:
        OSError: It is no file of its own: somebody may have linked another one to its name.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise OSError("it is no file of its own: find out who made it, and remove it")
    if os.geteuid() == 0:
        owner = archive.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
