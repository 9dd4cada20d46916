"""Which releases of SQLite an archive is written with."""

from __future__ import annotations

from typing import Final

import apsw

from otel_audit.errors import ArchiveError

__all__ = ["check_library"]

_FIRST_SOUND: Final = 3_051_003


def check_library() -> None:
    """Refuse a release that corrupts databases with a write-ahead log under concurrent checkpoints.

    Raises:
        ArchiveError: The library that is loaded is one.
    """
    if apsw.SQLITE_VERSION_NUMBER < _FIRST_SOUND:
        raise ArchiveError(
            f"SQLite {apsw.sqlite_lib_version()} has the WAL-reset bug, which corrupts archives",
            "install apsw 3.51.3 or newer",
        )
