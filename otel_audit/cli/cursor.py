"""The file in which ``show --checkpoint`` keeps how far it came."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from otel_audit.errors import ConfigError

__all__ = ["Checkpoint"]


class Checkpoint:
    """How far a series of runs came in one archive, in a file that is replaced as a whole.

    Args:
        path: The file; it need not exist yet.
        archive_id: The archive that is read.
        head: The archive's last sequence.

    Raises:
        ConfigError: The file belongs to another archive, lies beyond this one's end, or is none of ours.
    """

    def __init__(self, path: str, archive_id: str, head: int) -> None:
        self._path = Path(path).absolute()
        self._archive_id = archive_id
        self.sequence = self._load(head)

    def _load(self, head: int) -> int:
        if not self._path.parent.is_dir():
            raise ConfigError(f"there is no directory for the checkpoint {self._path}", "make it first")
        if self._path.exists() and not self._path.is_file():
            # A pipe would be waited for without end.
            raise ConfigError(
                f"{self._path} is no regular file", "give a file that does not exist, or one written before"
            )
        try:
            content = self._path.read_text("utf-8")
        except FileNotFoundError:
            return 0
        except UnicodeDecodeError:
            content = ""
        try:
            data = json.loads(content)
            archive_id, sequence = data["archive_id"], data["sequence"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ConfigError(
                f"{self._path} is no checkpoint", "give a file that does not exist, or one written before"
            ) from None
        if not isinstance(sequence, int) or isinstance(sequence, bool) or sequence < 0:
            raise ConfigError(f"{self._path} holds the sequence {sequence!r}", "remove it to begin anew")
        if archive_id != self._archive_id:
            raise ConfigError(
                f"{self._path} belongs to archive {archive_id}, this one is {self._archive_id}",
                "give each archive a checkpoint of its own, or remove the file to begin anew",
            )
        if sequence > head:
            raise ConfigError(
                f"{self._path} stands at {sequence}, but the archive ends at {head}",
                "an older copy was restored or records were deleted: find out by whom before removing the file",
            )
        return sequence

    def save(self, sequence: int) -> None:
        """Replace the file, so that the next run continues after `sequence`; at no moment is there half a file.

        Raises:
            ConfigError: It cannot be written; the old one is left.
        """
        if sequence == self.sequence and self._path.exists():
            return
        text = json.dumps({"archive_id": self._archive_id, "sequence": sequence}) + "\n"
        try:
            self._replace(text)
        except OSError as error:
            raise ConfigError(
                f"the checkpoint {self._path} cannot be written: {error.strerror or error}",
                "what was printed will be printed again: check the permissions and the disk",
            ) from error
        self.sequence = sequence

    def _replace(self, text: str) -> None:
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
