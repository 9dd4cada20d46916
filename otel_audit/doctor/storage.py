"""Examines what an archive stands on: SQLite's library, file system, permissions, free space."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from otel_audit.archive.files import file_system, refuse_network_file_system
from otel_audit.archive.library import check_library
from otel_audit.archive.safety import check_directory, check_files, companions
from otel_audit.archive.space import level_of, look, reserve_path, shortage
from otel_audit.disk_settings import resolve_disk
from otel_audit.doctor.findings import Finding
from otel_audit.errors import ArchiveError

__all__ = ["examine_files", "examine_library", "examine_place", "examine_space"]

_MEMORY: Final = frozenset({"ramfs", "tmpfs"})
_LAYERS: Final = frozenset({"aufs", "overlay"})
_LONG_LOG: Final = 64 << 20
"""Bytes above which the writers cut the write-ahead log, where they can."""


def examine_library() -> Iterator[Finding]:
    """Iterate over what is wrong with SQLite's library."""
    try:
        check_library()
    except ArchiveError as error:
        yield Finding("error", "sqlite-wal-reset", error.message, "nothing is recorded with it", error.hint)


def examine_place(directory: Path, mounts: str | None = None) -> Iterator[Finding]:
    """Iterate over what is wrong with the directory of an archive.

    Args:
        directory: It exists.
        mounts: The text of ``/proc/self/mounts``; None: read from there.
    """
    try:
        refuse_network_file_system(directory)
    except ArchiveError as error:
        yield Finding("error", "network-file-system", error.message, "nothing is recorded there", error.hint)
    kind = file_system(directory.resolve(), _mounts() if mounts is None else mounts)
    if kind in _MEMORY:
        yield Finding(
            "warning",
            "memory-file-system",
            f"{directory} is on the file system {kind}, in memory",
            "all records that no collector has are lost when the machine restarts",
            "put the archive on a disk",
        )
    elif kind in _LAYERS:
        yield Finding(
            "note",
            "container-file-system",
            f"{directory} is on the file system {kind}, as containers have it",
            "in a container all records that no collector has go with it",
            "there, put the archive on a volume",
        )
    try:
        check_directory(directory)
    except ArchiveError as error:
        yield Finding("error", "directory-open", error.message, "nothing is recorded there", error.hint)
    status = directory.stat()
    writable = status.st_mode & (stat.S_IWGRP | stat.S_ISVTX | stat.S_IWOTH) == stat.S_IWGRP
    if writable and not _own_group(status):
        yield Finding(
            "warning",
            "directory-group",
            f"the group {status.st_gid} can replace files in {directory}",
            "whoever is in it can put another archive in place of this one",
            f"chmod g-w {directory}, unless that is meant so",
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        yield Finding(
            "error",
            "directory-read-only",
            f"{directory} cannot be written by user {os.geteuid()}",
            "nothing can be recorded by this user",
            "run this as the user of the application, or correct owner and mode",
        )


def _own_group(status: os.stat_result) -> bool:
    """Tell whether a file's group is the owner's first one: many systems give every user one of his own."""
    try:
        return pwd.getpwuid(status.st_uid).pw_gid == status.st_gid
    except KeyError:
        return False


def _mounts() -> str:
    with contextlib.suppress(OSError):
        if sys.platform.startswith("linux"):
            return Path("/proc/self/mounts").read_text(errors="replace")
    return ""


def examine_files(path: Path) -> Iterator[Finding]:
    """Iterate over what is wrong with the files of an archive: who they belong to, who may read them, how large."""
    try:
        check_files(path)
    except ArchiveError as error:
        yield Finding("error", "files-foreign", error.message, "nothing is recorded there", error.hint)
    for file in (path, *companions(path), reserve_path(path)):
        with contextlib.suppress(FileNotFoundError):
            status = file.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                yield Finding(
                    "warning",
                    "files-open",
                    f"{file} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
                    "they read records, or change them",
                    f"chmod 600 {file}",
                )
    for file in (path, *companions(path)):
        if file.is_file() and not os.access(file, os.W_OK):
            yield Finding(
                "error",
                "files-read-only",
                f"{file} cannot be written by user {os.geteuid()}",
                "nothing can be recorded by this user",
                "run this as the user of the application, or correct owner and mode",
            )
    with contextlib.suppress(FileNotFoundError):
        size = Path(f"{path}-wal").stat().st_size
        if size > _LONG_LOG:
            yield Finding(
                "warning",
                "log-long",
                f"the write-ahead log {path}-wal has {size >> 20} MiB",
                "it takes room, and each record costs more, for as long as somebody reads an old state of the archive",
                f"find out who has had it open for long: fuser -v {path}",
            )


def examine_space(path: Path) -> Iterator[Finding]:
    """Iterate over what is wrong with the space on an archive's disk.

    Raises:
        ConfigError: A level in the environment is wrong.
        OSError: The disk does not tell.
    """
    settings = resolve_disk()
    space = look(path)
    level = level_of(space, settings)
    if level != "ok":
        what, _, remedy = shortage(path, space, level).rpartition(": ")
        yield Finding(
            "warning" if level == "warning" else "error",
            f"disk-{level}",
            what,
            "on a full disk nothing is recorded",
            remedy,
        )
