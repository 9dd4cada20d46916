"""A disk that remembers what was written and synced when, and what a power cut may leave of it at any moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw

__all__ = ["Disk", "Event", "RecordingVfs"]

SECTOR: Final = 512

Event = tuple[Any, ...]
"""What happened: ("write", file, offset, data), ("truncate", file, size), ("sync", file), ("forget", file), a sync that
failed, ("delete", file, whether at once), ("told", receipt)."""


class RecordingVfs(apsw.VFS):
    """SQLite's own file layer, made the default one, which notes every write and sync.

    Args:
        events: Where they are noted.
        fails: Asked before each sync with the file's name: whether it is to fail.
    """

    def __init__(self, events: list[Event], fails: Callable[[str], bool]) -> None:
        super().__init__("recording", "unix", makedefault=True)
        self._events = events
        self._fails = fails

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's
        """Open a file whose writes are noted."""
        return _RecordingFile(name, flags, self._events, self._fails)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's
        """Delete a file."""
        super().xDelete(filename, syncdir)
        self._events.append(("delete", Path(filename).name, syncdir))


class _RecordingFile(apsw.VFSFile):
    def __init__(
        self,
        name: str | apsw.URIFilename | None,
        flags: list[int],
        events: list[Event],
        fails: Callable[[str], bool],
    ) -> None:
        super().__init__("unix", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path or "").name
        self._events = events
        self._fails = fails

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's
        super().xWrite(data, offset)
        self._events.append(("write", self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's
        super().xTruncate(newsize)
        self._events.append(("truncate", self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's
        if self._fails(self._name):
            self._events.append(("forget", self._name))
            raise apsw.IOError("the disk failed")
        super().xSync(flags)
        self._events.append(("sync", self._name))


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    synced: bool = False
    deleted: bool = False


class Disk:
    """What is on the disk for certain, and what may be.

    Args:
        chance: Decides what of it is.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._files: dict[str, _File] = {}

    def play(self, event: Event) -> None:
        """Let one event happen."""
        kind, name = event[0], event[1]
        file = self._files.setdefault(name, _File())
        match kind:
            case "write" | "truncate":
                if file.deleted:
                    file = self._files[name] = _File()
                file.pending.append(event)
            case "sync":
                for each in file.pending:
                    _apply(file.content, each)
                file.pending.clear()
                if not file.synced:
                    # The first time, SQLite syncs the directory, too: what was deleted before is gone for good.
                    file.synced = True
                    self._files = {other: each for other, each in self._files.items() if not each.deleted}
            case "forget":
                # After an fsync that failed, the kernel takes the pages for clean: the next fsync does not write them.
                # Whether the disk has them is open.
                for each in file.pending:
                    if self._chance.random() < 0.5:
                        _apply(file.content, each)
                file.pending.clear()
            case "delete" if event[2]:
                del self._files[name]
            case "delete":
                file.deleted = True

    def after_power_cut(self) -> dict[str, bytes]:
        """Return files as a power cut now may leave them: what was not synced is there, torn, or not there."""
        keep = self._chance.choice((0.0, 0.5, 0.5, 0.9, 1.0))
        found = {}
        for name, file in self._files.items():
            if (file.deleted or not file.synced) and self._chance.random() < 0.5:
                continue
            content = bytearray(file.content)
            for event in file.pending:
                if self._chance.random() < keep:
                    torn = event[0] == "write" and self._chance.random() < 0.3
                    _apply(content, event, self._chance if torn else None)
            found[name] = bytes(content)
        return found


def _apply(content: bytearray, event: Event, torn: random.Random | None = None) -> None:
    """Bring one write or truncation to a file; a torn one brings some of its sectors."""
    if event[0] == "truncate":
        size = event[2]
        del content[size:]
        content.extend(bytes(size - len(content)))
        return
    _, _, offset, data = event
    end = offset + len(data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if torn is None:
        content[offset:end] = data
        return
    place = offset
    while place < end:
        stop = min(end, (place // SECTOR + 1) * SECTOR)
        if torn.random() < 0.5:
            content[place:stop] = data[place - offset : stop - offset]
        place = stop
