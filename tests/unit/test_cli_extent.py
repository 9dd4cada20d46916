"""The range of times that a histogram covers is that of the events, whatever is folded already."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from otel_audit.archive.database import Database
from otel_audit.archive.extent import extent
from otel_audit.archive.filters import Filter
from otel_audit.archive.index import fold
from otel_audit.archive.query import Archive, open_archive
from otel_audit.provider import AuditProvider
from tests.command_line import fill

RECORDS = 2500


def folded(archive: Archive) -> int:
    with archive.database as connection:
        return int(connection.execute("SELECT value FROM meta WHERE key = 'folded'").get)


@pytest.fixture(scope="module")
def archive_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """An archive of several zones, all folded, with a known time for each record."""
    path = tmp_path_factory.mktemp("extent") / "audit.db"
    draw = random.Random(7)
    times = [draw.randrange(10**18, 2 * 10**18) for _ in range(RECORDS)]
    with AuditProvider(archive=path, ship=False, durability="queued") as provider:
        log = provider.get_logger("s", host="h")
        for number, moment in enumerate(times):
            log.audit("t", user=f"user-{number % 5}", timestamp=moment, message=f"number {number}")
        assert provider.force_flush(20)
    database = Database(path, "write")
    with database as connection:
        while fold(connection):
            pass
    database.close()
    return path, times


def test_it_is_the_range_of_the_events(archive_file: tuple[Path, list[int]]) -> None:
    """With any criteria the first and the last time of what matches are found."""
    path, times = archive_file
    with open_archive(path) as archive:
        assert folded(archive) == RECORDS
        assert extent(archive, Filter()) == (min(times), max(times))
        assert extent(archive, Filter(user="user-3")) == (min(times[3::5]), max(times[3::5]))
        assert extent(archive, Filter(grep="number 17$")) == (times[17], times[17])
        assert extent(archive, Filter(user="nobody")) is None
        assert extent(archive, Filter(grep="nothing")) is None
        middle = 15 * 10**17
        assert extent(archive, Filter(since=middle)) == (min(t for t in times if t >= middle), max(times))


def test_what_is_not_folded_counts(archive_path: Path) -> None:
    """An archive of a few records, and one of none, have their range too."""
    fill(archive_path, [])
    with open_archive(archive_path) as archive:
        assert extent(archive, Filter()) is None
    fill(archive_path, [{"timestamp": 5}, {"timestamp": 3}])
    with open_archive(archive_path) as archive:
        assert extent(archive, Filter()) == (3, 5)
