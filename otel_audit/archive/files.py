"""The files that an archive consists of: private, on a local disk, with their names on the disk too."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Final

from otel_audit.archive.safety import check_directory, check_files, companions, make_directory
from otel_audit.errors import ArchiveError

__all__ = [
    "check_name",
    "check_regular",
    "file_system",
    "make_private",
    "prepare_file",
    "refuse_network_file_system",
    "size_on_disk",
    "uri_path",
]

_NETWORK_FILE_SYSTEMS: Final = frozenset({
    "9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "fuse.glusterfs",
    "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
})  # fmt: skip


def check_name(path: str | os.PathLike[str]) -> None:
    """Raise where no file can have a name."""
    if "\0" in os.fspath(path):
        raise ArchiveError(f"{os.fspath(path)!r} is no path: it holds a NUL", "give the path of the archive's file")


def check_regular(path: Path) -> None:
    """Raise where there is something else than a file: a pipe would be waited for without end."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ArchiveError(f"{path} is no regular file", "give the path of the archive's file")


def uri_path(path: Path) -> str:
    """Return a path as it stands in an SQLite URI."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def prepare_file(path: Path) -> bool:
    """Create directory and file with private modes where they are missing; return whether the file is new."""
    make_directory(path.parent)
    refuse_network_file_system(path.parent)
    check_directory(path.parent)
    check_files(path)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def make_private(path: Path) -> None:
    """Take everybody else's access from a file that is ours, and from what SQLite keeps beside it."""
    for file in (path, *companions(path)):
        with contextlib.suppress(FileNotFoundError):
            status = file.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077 and status.st_uid == os.geteuid():
                file.chmod(0o600)


def refuse_network_file_system(directory: Path) -> None:
    """Raise where a directory is on a network file system."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        kind = file_system(directory.resolve(), Path("/proc/self/mounts").read_text(errors="replace"))
        if kind in _NETWORK_FILE_SYSTEMS:
            raise ArchiveError(
                f"{directory} is on the network file system {kind}, where locks and fsync cannot be relied on",
                "put the archive on a local disk",
            )


def file_system(directory: Path, mounts: str) -> str:
    """Return the type of the file system that holds `directory`, by the text of ``/proc/self/mounts``."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if directory.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), parts[2]
    return kind


def size_on_disk(path: Path) -> int:
    """Return the bytes of an archive and of its write-ahead log."""
    return sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())
