"""Reads files that hold a key; those of secret keys only where nobody else can read them."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from typing import Final

from otel_audit.errors import ConfigError

__all__ = ["read_key_file", "refuse_open_file", "shown"]

_LARGEST: Final = 65_536
_SHORTEST: Final = 24
"""Bytes of base64 from which on it may be a key."""


def read_key_file(path: str | os.PathLike[str], where: str) -> tuple[bytes, os.stat_result]:
    """Return what a key's file holds, and its status.

    Args:
        path: The file; what follows its first 64 KiB is not read.
        where: What messages call the key with its file.

    Raises:
        ConfigError: It cannot be read, or is no regular file.
    """
    try:
        # A pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{where} is no regular file", "give the path of the key's file")
            return os.read(descriptor, _LARGEST), status
        finally:
            os.close(descriptor)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{where} cannot be read: {reason}", "give the path of the key's file") from error


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path for messages; `this` where there is no such file, and somebody may have given the key itself."""
    text = os.fspath(path)
    with contextlib.suppress(OSError, ValueError):
        os.lstat(text)
        return text
    with contextlib.suppress(ValueError):
        if len(base64.b64decode(text, validate=True)) >= _SHORTEST:
            return "this"
    return "this" if "PRIVATE" in text else text


def refuse_open_file(status: os.stat_result, where: str) -> None:
    """Refuse a secret key's file that is not safe from others.

    Args:
        status: As `read_key_file` returned it.
        where: What messages call the key with its file.

    Raises:
        ConfigError: Others than owner and group may read or write it, or the group may write it; or it belongs to
            another user than ours and root, who may read and replace it. Root uses whatever it is told to.
    """
    ours = os.geteuid()
    if ours and status.st_uid not in (0, ours):
        raise ConfigError(
            f"{where} belongs to user {status.st_uid}, this process runs as {ours}",
            "run it as the owner of the key, or chown the file",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"{where} is open to others (mode {mode:04o})", "chmod 600 it")
