"""A new file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from otel_audit.errors import ConfigError
from otel_audit.paths import sync_directory

__all__ = ["new_file", "refuse_existing"]


def refuse_existing(path: Path) -> None:
    """Raise where there is something at the path already: an export never replaces anything.

    Raises:
        ConfigError: There is.
    """
    if os.path.lexists(path):
        raise ConfigError(f"{path} is there already", "give a file that does not exist yet")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file, readable for its owner alone, that gets its name when all is written and on the disk.

    Until then it has a temporary name in the same directory; where something goes wrong, nothing is left.

    Args:
        path: The name, which must not be taken.

    Raises:
        ConfigError: The name is taken, or no file can be made there.
        OSError: The file cannot be written, for example because the disk is full.
    """
    refuse_existing(path)
    # Its whole name is in it, so that one which is too long is refused now and not when all is written.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be written: {reason}", "give a file in a directory of yours") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        refuse_existing(path)
        temporary.rename(path)
        # Not every file system can, and the file is complete.
        with contextlib.suppress(OSError):
            sync_directory(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A full disk does not say which.
            error.filename = str(path)
        raise
