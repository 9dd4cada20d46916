"""Where the archive and the high-water marks are, by the environment, and their directories on the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from otel_audit.errors import ConfigError

__all__ = ["archive_path", "default_archive", "expanded", "file_path", "high_water_directory", "sync_directory"]

_URL: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def default_archive() -> Path:
    """Return where the archive is when nobody says: ``audit.db`` in the user's state directory."""
    import platformdirs  # start-up time: most archives are named

    return Path(platformdirs.user_state_path("otel_audit", appauthor=False)) / "audit.db"


def archive_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the archive's path by the environment: ``OTEL_AUDIT_ARCHIVE``, else the default.

    Raises:
        ConfigError: It is a URL, or begins with a home directory that nobody has.
    """
    given = environ.get("OTEL_AUDIT_ARCHIVE")
    return file_path(given, "OTEL_AUDIT_ARCHIVE") if given else default_archive()


def file_path(given: str | os.PathLike[str], shown: str) -> Path:
    """Return the path of an archive's file.

    Args:
        given: The path.
        shown: What it was given by.

    Raises:
        ConfigError: It is a URL: folders would be made of it, named by the password that it may hold. Or it begins with
            a home directory that nobody has.
    """
    scheme = _URL.match(os.fspath(given))
    if scheme is not None:
        # Nothing else of it is quoted, either.
        raise ConfigError(
            f"{shown} is a URL ({scheme[1]}://…), and no archive's file",
            "give the path of a file; show, stats and export read a fleet by --archive clickhouse://…",
        )
    return expanded(given)


def expanded(given: str | os.PathLike[str]) -> Path:
    """Return a path with the home directory in place of ``~`` or ``~user``.

    Raises:
        ConfigError: Nobody has that one.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{os.fspath(given)!r} begins with a home directory that nobody has", "write the whole path"
        ) from None


def high_water_directory(given: Any = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return where the high-water marks are: by argument, by ``OTEL_AUDIT_HIGH_WATER``, else in the user's data.

    Raises:
        ConfigError: It is no directory's path.
    """
    if given is None:
        given = environ.get("OTEL_AUDIT_HIGH_WATER") or None
        given = False if given == "off" else given
    if given is None:
        import platformdirs  # start-up time, as above

        return Path(platformdirs.user_data_path("otel_audit", appauthor=False)) / "high-water"
    if given is False:
        return None
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise ConfigError(f"high_water={given!r} is no path", "give a directory apart from the archive's, or False")
    return expanded(given).absolute()


def sync_directory(directory: Path) -> None:
    """Bring a directory's entries to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
