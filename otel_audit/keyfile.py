"""Reads files that hold a key; those of secret keys only where nobody else can read them."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from otel_audit.errors import ConfigError

__all__ = ["read_key_file", "refuse_open_file", "shown"]

_LARGEST: Final = 65_536
_SHORTEST: Final = 24
"""Bytes of base64 from which on it may be a key."""


def read_key_file(path: str | os.PathLike[str], where: str) -> tuple[bytes, int]:
    """Return what a key's file holds, and its mode.

    Args:
        path: The file; what follows its first 64 KiB is not read.
        where: What messages call the key with its file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
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


def refuse_open_file(mode: int, where: str) -> None:
    """Refuse the mode of a secret key's file.

    Args:
        mode: As `read_key_file` returned it.
        where: What messages call the key with its file.

    Raises:
        ConfigError: Others than owner and group may read or write it, or the group may write it.
    """
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"{where} is open to others (mode {mode:04o})", "chmod 600 it")
