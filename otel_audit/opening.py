"""Opens what holds records to read: the archive of a host, or the log table of a fleet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from otel_audit.archive import query
from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive
from otel_audit.paths import file_path

if TYPE_CHECKING:
    from otel_audit.archive.stats import Counts, Field
    from otel_audit.fleet.fleet import Fleet

__all__ = ["Statistics", "open_archive", "open_source", "statistics"]

_ALL: Final = Filter()
_PASSWORD: Final = "OTEL_AUDIT_CLICKHOUSE_PASSWORD"


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Open an archive to read, whether its application runs or not; or the log table of a fleet.

    Args:
        path: The archive's file; or ``clickhouse://user:password@host:port/database``, which needs the extra
            ``clickhouse``. A password that is not there is taken from ``OTEL_AUDIT_CLICKHOUSE_PASSWORD``.

    Returns:
        The archive, a context manager. A fleet answers `Archive.query` alike; it has no path, id and status.

    Raises:
        ArchiveError: There is no archive or table there, or it cannot be read.
        ConfigError: The location cannot be understood, or the extra is not installed.
    """
    # One type: nearly everybody opens a file, and what only a file has would have to be told apart each time.
    return cast("Archive", open_source(path))


def open_source(path: str | os.PathLike[str]) -> Archive | Fleet:
    """Do what `open_archive` does, for callers that tell a fleet from an archive."""
    if isinstance(path, str) and "://" in path:
        from otel_audit.fleet.location import is_fleet  # start-up time: for what looks like a fleet

        if is_fleet(path):
            from otel_audit.fleet.fleet import open_fleet  # likewise

            return open_fleet(path, os.environ.get(_PASSWORD))
    return query.open_archive(file_path(path, "the path"))


class Statistics(Protocol):
    """What counts records: that of an archive, and a fleet."""

    def counts(self, field: Field, filter: Filter = ..., *, limit: int = ...) -> Counts:
        """Return the most frequent values of a field, with their counts."""

    def histogram(self, edges: Sequence[int], filter: Filter = ...) -> list[int]:
        """Return how many records fall between each edge and the next."""

    def extent(self, filter: Filter = ...) -> tuple[int, int] | None:
        """Return the earliest and the latest time of the records; None where there is none."""


class _OfArchive:
    def __init__(self, archive: Archive) -> None:
        from otel_audit.archive import extent, stats  # start-up time: most readers do not count

        self._archive = archive
        self._stats, self._extent = stats, extent

    def counts(self, field: Field, filter: Filter = _ALL, *, limit: int = 10) -> Counts:
        return self._stats.counts(self._archive, field, filter, limit=limit)

    def histogram(self, edges: Sequence[int], filter: Filter = _ALL) -> list[int]:
        return self._stats.histogram(self._archive, edges, filter)

    def extent(self, filter: Filter = _ALL) -> tuple[int, int] | None:
        return self._extent.extent(self._archive, filter)


def statistics(opened: Archive | Fleet) -> Statistics:
    """Return what counts the records of what `open_source` opened."""
    return _OfArchive(opened) if isinstance(opened, Archive) else opened
