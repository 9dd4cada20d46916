"""Examines the clock and the high-water mark against what an archive holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from otel_audit.archive.commit import check_floor
from otel_audit.archive.database import archive_errors
from otel_audit.archive.highwater import HighWater
from otel_audit.archive.query import Archive
from otel_audit.doctor.findings import Finding
from otel_audit.errors import AuditError, IntegrityError
from otel_audit.record import rfc3339

__all__ = ["examine_clock", "examine_high_water"]

_SECOND: Final = 1_000_000_000
_SLACK: Final = 5 * _SECOND
"""How far a clock may be behind: clocks are set right by less than this all the time."""
_EARLIEST: Final = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * _SECOND
_LATEST: Final = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * _SECOND
_LAST: Final = "SELECT observed FROM record ORDER BY sequence DESC LIMIT 1"
_CREATED: Final = "SELECT value FROM meta WHERE key = 'created'"


def examine_clock(archive: Archive | None, now: int, marks: Path | None) -> Iterator[Finding]:
    """Iterate over what is wrong with the clock.

    Args:
        archive: The archive, whose last record is no younger than now; None: there is none yet.
        now: Nanoseconds since the epoch.
        marks: The directory of the high-water marks; None: there are none.
    """
    if not _EARLIEST <= now < _LATEST:
        yield Finding(
            "error",
            "clock-wrong",
            f"the clock says {rfc3339(now)}",
            "records get this time; and what is kept for a time is removed too early, or never",
            "set the clock, and keep it right: chronyd or systemd-timesyncd",
        )
    if archive is None:
        return
    times: list[tuple[Any, str]] = []
    with archive.database as connection, archive_errors(archive.path):
        times.append((connection.execute(_CREATED).get, "the archive was made"))
        times.append((connection.execute(_LAST).get, "the last record was recorded"))
    if marks is not None:
        with contextlib.suppress(OSError, AuditError):
            times.append((HighWater(marks).path(archive.id).stat().st_mtime_ns, "the high-water mark was noted"))
    latest, what = max(((time, what) for time, what in times if isinstance(time, int)), default=(0, ""))
    if latest > now + _SLACK:
        yield Finding(
            "warning",
            "clock-behind",
            f"the clock says {rfc3339(now)}, but {what} at {rfc3339(latest)}",
            "it jumped back, or was ahead: records are out of order by time, and kept too long or too short",
            "set the clock, and keep it right: chronyd or systemd-timesyncd",
        )


def examine_high_water(archive: Archive, marks: Path | None) -> Iterator[Finding]:
    """Iterate over what the high-water mark says against an archive.

    Args:
        archive: The archive.
        marks: The directory of the high-water marks; None: there are none.
    """
    if marks is None:
        return
    if marks.resolve().is_relative_to(archive.path.parent.resolve()):
        yield Finding(
            "warning",
            "high-water-beside",
            f"the high-water marks are in {marks}, in the archive's own directory",
            "whoever puts an older copy there replaces both, and nobody sees it",
            "set OTEL_AUDIT_HIGH_WATER to a directory elsewhere",
        )
    try:
        least = HighWater(marks).read(archive.id)
        with archive.database as connection, archive_errors(archive.path):
            check_floor(connection, archive.path, archive.id, least)
    except IntegrityError as error:
        yield Finding("error", "archive-older", error.message, "records are missing, and none is added", error.hint)
    except AuditError as error:
        yield Finding("warning", "high-water-unreadable", error.message, "an older copy would not show", error.hint)
