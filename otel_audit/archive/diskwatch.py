"""Watches the space on an archive's disk: one line of the log and one record of the archive for each change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.leaf import ADMINISTRATION
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.space import LEVELS, Level, Space, lay_by, level_of, look, make_room, shortage
from otel_audit.disk_settings import DiskSettings
from otel_audit.otlp import read_log

__all__ = ["CHANGED", "DiskWatch", "measure"]

CHANGED: Final = "audit.disk.changed"
_IDLE: Final = 30.0
"""Seconds between two looks while nothing is recorded: others fill disks, too."""
_SETTLED: Final = 10.0
"""Seconds until the reserve is made: what lives for one record need not wait for it."""
_LAST: Final = (
    f"SELECT otlp FROM record INDEXED BY own WHERE kind > 1 AND kind = {ADMINISTRATION} AND type = '{CHANGED}'"
    " ORDER BY sequence DESC LIMIT 1"
)
_log = logging.getLogger("otel_audit.archive")


def measure(watched: Sequence[Path], settings: DiskSettings) -> tuple[int, int, int] | None:
    """Return what metrics tell: free bytes, those of the reserve, and the level as a number; None: it is not known.

    Args:
        watched: The archive; empty once it is closed, since meters go on asking.
        settings: The levels.
    """
    try:
        space = look(watched[0])
    except (IndexError, OSError):
        return None
    return space.free, space.reserve or 0, LEVELS.index(level_of(space, settings))


class DiskWatch:
    """Looks at the disk now and then; see `otel_audit.upkeep.Task`.

    Args:
        path: The archive.
        settings: The levels and the reserve.
        open_administration: Opens what appends own records; it is closed again, since it is rarely needed.
    """

    def __init__(self, path: Path, settings: DiskSettings, open_administration: Callable[[], Administration]) -> None:
        self._path = path
        self._settings = settings
        self._open = open_administration
        self._level: Level = "ok"
        self._told: Level | None = None
        self._reserve_from = time.monotonic() + _SETTLED

    def run(self, _stopping: Callable[[], bool] = lambda: False) -> float:
        """Look, tell of a change, and make the reserve where there is room for it."""
        with archive_errors(self._path):
            space = self._look()
            size = self._settings.reserve
            if size and (space.reserve is None or space.reserve < size):
                wait = self._reserve_from - time.monotonic()
                if wait > 0:
                    return wait
                least = self._settings.critical.of(space.total)
                lay_by(self._path, size, least + least // 10)
        return _IDLE

    def finish(self) -> None:
        """Look for the last time, so that a process of a moment tells of a full disk, too."""
        with archive_errors(self._path):
            self._look()

    def _look(self) -> Space:
        """Return what is left, having told of a change."""
        space = look(self._path)
        level = level_of(space, self._settings, self._level)
        if level != self._level:
            self._say(level, space)
            self._level = level
        if self._told != level:
            # The others of this archive's processes see the same; one of them records it.
            self._record(level, space)
            self._told = level
        return space

    def _say(self, level: Level, space: Space) -> None:
        if LEVELS.index(level) > LEVELS.index(self._level):
            _log.log(logging.WARNING if level == "warning" else logging.ERROR, "%s", shortage(self._path, space, level))
        else:
            _log.warning("the disk of %s has %.1f MiB left again: %s", self._path, space.free / (1 << 20), level)

    def _record(self, level: Level, space: Space) -> None:
        fields: dict[str, Any] = {"level": level, "free": space.free, "total": space.total}
        if space.reserve is not None:
            fields["reserve"] = space.reserve

        def make(connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
            if _recorded(connection) != level:
                make_room(self._path)
                yield Own(ADMINISTRATION, CHANGED, {"disk": fields})

        # The rule, to which no write lock need be taken: all was well, and is.
        if level != "ok" or self._was_recorded() != "ok":
            with self._open() as administration:
                administration.append(make)

    def _was_recorded(self) -> str:
        database = Database(self._path, "read", cache_kib=512)
        try:
            with database as connection:
                return _recorded(connection)
        finally:
            database.close()


def _recorded(connection: apsw.Connection) -> str:
    """Return the level that was recorded last; ``ok`` where none was, or it was erased."""
    otlp: Any = connection.execute(_LAST).get
    try:
        return str(read_log(otlp).attributes[f"{keys.CUSTOM_PREFIX}disk.level"])
    except (ValueError, TypeError, KeyError):
        return "ok"
