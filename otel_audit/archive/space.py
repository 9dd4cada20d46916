"""The space on an archive's disk, and the reserve: a file beside the archive that makes room for the last records.

The reserve is spent half by half, each time a commit does not fit: whatever else fills the disk gets at most the half
that was just given back, and not what is left. The last of it is for the archive's own records alone, a part for each:
without, a burst of events would leave no room for the one that says that the disk is full. It is written, not merely
allocated: file systems that compress or copy on write would keep no space for it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from otel_audit.archive.safety import give_to_owner

if TYPE_CHECKING:
    from otel_audit.disk_settings import DiskSettings

__all__ = ["LEVELS", "Level", "Space", "lay_by", "level_of", "look", "make_room", "reserve_path", "shortage", "spend"]

Level = Literal["ok", "warning", "critical", "full"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "warning", "critical", "full")
_STATES: Final[dict[Level, str]] = {
    "ok": "well", "warning": "filling up", "critical": "nearly full", "full": "full",
}  # fmt: skip
_CHUNK: Final = 1 << 20
"""Bytes that are written to the reserve at once; commits wait for the disk no longer than for these."""
_LAST: Final = 1 << 19
"""Bytes that are left to the archive's own records."""
_OWN: Final = 1 << 17
"""Bytes of them for one: some ten pages of the log are enough. What it leaves, a burst of events may take."""


class Space(NamedTuple):
    """What a disk has left, as far as an archive is concerned.

    Args:
        free: Bytes that others than root may still take.
        total: Bytes of the file system.
        reserve: Bytes of the reserve; None where there is none.
    """

    free: int
    total: int
    reserve: int | None


def reserve_path(archive: Path) -> Path:
    """Return the reserve's file."""
    return Path(f"{archive}.reserve")


def look(archive: Path) -> Space:
    """Return what is left on an archive's disk.

    Raises:
        OSError: The disk does not tell.
    """
    found = os.statvfs(archive.parent)
    reserve: int | None = None
    with contextlib.suppress(FileNotFoundError):
        status = reserve_path(archive).lstat()
        reserve = status.st_size if stat.S_ISREG(status.st_mode) else None
    return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, reserve)


def level_of(space: Space, settings: DiskSettings, before: Level = "ok") -> Level:
    """Return how much of a matter the space is: ``full`` where, below ``critical``, some of the reserve was spent.

    Args:
        space: What is left.
        settings: The levels.
        before: Where it stood; a level is left for a lower one when a tenth more is free than it asks for.
    """
    rank = LEVELS.index(before)

    def below(limit: int, own: int) -> bool:
        return space.free < (limit + limit // 10 if rank >= own else limit)

    if below(settings.critical.of(space.total), 2):
        return "full" if space.reserve is not None and space.reserve < settings.reserve else "critical"
    return "warning" if below(settings.warning.of(space.total), 1) else "ok"


def shortage(archive: Path, space: Space, level: Level) -> str:
    """Return a sentence that says how little is left, and what to do."""
    reserve = "" if level != "full" else f", and {(space.reserve or 0) / (1 << 20):.1f} MiB of the reserve"
    free = f"{space.free / (1 << 20):.1f} MiB free{reserve}"
    return f"the disk of {archive} is {_STATES[level]}, {free}: make room, or prune"


def make_room(archive: Path) -> None:
    """Spend some of the reserve where the disk has not even room for one of the archive's own records.

    To be called with the write lock of the archive: nobody else who records can take that room.
    """
    if look(archive).free < _OWN:
        spend(archive, own=True)


def spend(archive: Path, *, own: bool = False) -> bool:
    """Give half of the reserve back to the disk, or a part of the last of it; return whether any was left to give.

    Of processes that do so at once, each may find that the other did: both try again, and nothing is lost.

    Args:
        archive: The archive's file.
        own: Whether it is for one of the archive's own records, which may have the last of it, too.
    """
    try:
        descriptor = os.open(reserve_path(archive), os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        size = status.st_size
        # Somebody else's file may have been linked to this name.
        if size <= (0 if own else _LAST) or not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return False
        os.ftruncate(descriptor, max(size // 2, _LAST) if size > _LAST else max(0, size - _OWN))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def lay_by(archive: Path, size: int, least: int) -> bool:
    """Make the reserve where it is missing or spent, and the disk has room; return whether it is whole.

    Where somebody spends it meanwhile, that is the end of it for now: the room is needed for records.

    Args:
        archive: The archive's file.
        size: Bytes of the reserve.
        least: Bytes that must be free afterwards.

    Raises:
        OSError: It could not be written, or is no file of its own; what there was is still there.
    """
    space = look(archive)
    if space.reserve is not None and space.reserve >= size:
        return True
    if space.free - (size - (space.reserve or 0)) < least:
        return False
    path = reserve_path(archive)
    # What is appended leaves no hole, however short the file has become meanwhile.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        give_to_owner(descriptor, archive)
        before = position = os.fstat(descriptor).st_size
    except BaseException:
        os.close(descriptor)
        raise
    try:
        while position < size:
            # Random, so that no file system can make it smaller.
            position += os.write(descriptor, os.urandom(min(_CHUNK, size - position)))
            os.fsync(descriptor)
            present = os.fstat(descriptor).st_size
            if present < position:
                return False
            position = present
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, min(before, os.fstat(descriptor).st_size))
        raise
    finally:
        os.close(descriptor)
    return True
