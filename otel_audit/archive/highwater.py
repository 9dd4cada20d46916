"""Remembers outside of an archive's directory how far its tree had come: an older copy put in its place then shows."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Final

from otel_audit.archive.database import archive_errors
from otel_audit.archive.safety import make_directory
from otel_audit.errors import ArchiveError, AuditError, ConfigError
from otel_audit.notes import Checkpoint, Note, parse_note

__all__ = ["HighWater", "read_mark"]

_LARGEST: Final = 65_536
_TRIES: Final = 3

_log = logging.getLogger("otel_audit.archive")


def read_mark(directory: Path | None, archive_id: str) -> Checkpoint | None:
    """Return the high-water mark of an archive; one that cannot be read must not keep anything from being recorded.

    Args:
        directory: Where the marks are; None: nowhere.
        archive_id: The archive's id.
    """
    if directory is None:
        return None
    try:
        return HighWater(directory).read(archive_id)
    except AuditError as error:
        _log.error("the high-water mark of the archive %s cannot be read: %s", archive_id, error)
        return None


class HighWater:
    """A directory with one note for each archive: the largest checkpoint that was seen here.

    Args:
        directory: Made with mode 0700 where it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, archive_id: str) -> Path:
        """Return the file of an archive."""
        # The id comes from a file that may have been edited, and becomes part of a path.
        if not archive_id.isalnum() or not archive_id.isascii():
            raise ArchiveError(f"{archive_id!r} is no archive's id", "otel-audit verify says more")
        return self.directory / f"{archive_id}.note"

    def read(self, archive_id: str) -> Checkpoint | None:
        """Return the largest checkpoint that was seen of an archive; None where there was none.

        Raises:
            ArchiveError: The file cannot be read, or holds something else.
        """
        path = self.path(archive_id)
        with archive_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(_LARGEST)
        try:
            checkpoint = Checkpoint.parse(parse_note(content.decode()).text)
        except (ConfigError, UnicodeDecodeError):
            checkpoint = None
        if checkpoint is None or checkpoint.archive_id != archive_id:
            raise ArchiveError(
                f"{path} is no checkpoint of the archive {archive_id}", "find out who changed it, and remove it"
            )
        return checkpoint

    def note(self, note: Note) -> None:
        """Note a checkpoint, unless a larger one is noted already.

        Raises:
            ArchiveError: The file cannot be written, or holds something else.
        """
        checkpoint = Checkpoint.parse(note.text)
        path = self.path(checkpoint.archive_id)
        with archive_errors(path):
            make_directory(self.directory)
            # No lock, which a stopped process could hold for ever: of processes that write at once, the one with the
            # larger tree looks again, and finds what the other has put in its place.
            for _ in range(_TRIES):
                known = self.read(checkpoint.archive_id)
                if known is not None and known.size >= checkpoint.size:
                    return
                _replace(path, str(note).encode())


def _replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of another; after a power cut either may be there, which is enough."""
    # Process ids do not tell writers apart: two providers of one process, two containers with a directory in common.
    new = path.with_suffix(f".{os.urandom(8).hex()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            # Else a power cut can leave the new name with nothing in it.
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise
