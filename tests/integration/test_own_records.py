"""The archive's own records lie among the events, and count nowhere where events are meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.extent import extent
from otel_audit.archive.filters import Filter
from otel_audit.archive.index import ZONE, fold
from otel_audit.archive.leaf import ADMINISTRATION, PRUNE
from otel_audit.archive.query import open_archive
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.stats import counts, histogram
from otel_audit.archive.verify import verify
from otel_audit.cli.reading import head
from otel_audit.provider import AuditProvider
from tests.archive_material import connect

EARLY = 10**18
EVENTS = ZONE + 100


def record(path: Path, times: range) -> None:
    with AuditProvider(archive=path, ship=False, durability="queued") as provider:
        log = provider.get_logger("s", host="h")
        for moment in times:
            log.audit("t", user="alice", timestamp=moment)


def append(path: Path, number: int) -> None:
    """Append so many own records, and the first of them all."""
    with Administration(path, b"", b"") as administration:
        administration.append(lambda *_: [Own(ADMINISTRATION, "audit.read", {"read": {"command": "show"}})] * number)


def fold_all(path: Path) -> None:
    connection = connect(path)
    while fold(connection):
        pass


@pytest.fixture(params=["unfolded", "folded", "half"])
def archive(archive_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return an archive that begins and ends with own records, whose times lie outside of all events'."""
    record(archive_path, range(0))
    append(archive_path, 9)
    record(archive_path, range(EARLY, EARLY + EVENTS))
    if request.param == "half":
        fold_all(archive_path)
    append(archive_path, 2 * ZONE)
    if request.param == "folded":
        fold_all(archive_path)
    return archive_path


def test_the_range_of_times(archive: Path) -> None:
    """The range of all events is theirs alone, and that of own records is these' alone."""
    with open_archive(archive) as opened:
        assert extent(opened, Filter()) == (EARLY, EARLY + EVENTS - 1)
        own = extent(opened, Filter(admin=True))
        assert own is not None
        assert own[0] > EARLY + EVENTS
        assert sum(histogram(opened, [0, 2**62])) == EVENTS
        assert sum(histogram(opened, [0, 2**62], Filter(admin=True))) == 2 * ZONE + 10
        assert counts(opened, "type", Filter(admin=True)) == [
            ("audit.read", 2 * ZONE + 9),
            ("audit.archive.created", 1),
        ]
        assert counts(opened, "type") == [("t", EVENTS)]


def test_status(archive: Path) -> None:
    """`status` counts events and own records apart, and dates the first and the last event."""
    with open_archive(archive) as opened:
        status = opened.status()
        events = [row.sequence for row in opened.rows(Filter())]
        observed = [
            connect(archive).execute("SELECT observed FROM record WHERE sequence = ?", (n,)).get for n in events
        ]
    assert (status.records, status.own, status.removed) == (EVENTS, 2 * ZONE + 10, 0)
    assert status.sequence == EVENTS + 2 * ZONE + 10
    assert (status.first, status.last) == (min(observed), max(observed))


def test_status_beside_tombstones(archive: Path) -> None:
    """Events without content are counted apart; neither the first nor the last record is one of them."""

    def make(connection: apsw.Connection, _tree: object) -> Iterator[Own]:
        ranges = [(11, 10 + ZONE)]
        remove(connection, ranges)
        return (Own(PRUNE, "audit.records.pruned", fields) for fields in removal_fields(ranges))

    with Administration(archive, b"", b"") as administration:
        administration.append(make)
    with open_archive(archive) as opened:
        status = opened.status()
        first = next(opened.rows(Filter(), oldest_first=True)).sequence
        assert extent(opened, Filter()) == (EARLY + ZONE, EARLY + EVENTS - 1)
    assert (status.records, status.removed) == (EVENTS - ZONE, ZONE)
    assert status.records + status.own + status.removed == status.sequence
    assert first == 11 + ZONE
    assert status.first == connect(archive).execute("SELECT observed FROM record WHERE sequence = ?", (first,)).get
    assert verify(archive).intact


def test_without_events(archive_path: Path) -> None:
    """An archive of own records alone has no first event and no range of times, folded or not."""
    record(archive_path, range(0))
    append(archive_path, 3)
    for _ in range(2):
        with open_archive(archive_path) as opened:
            status = opened.status()
            assert (status.records, status.own, status.first, status.last) == (0, 4, None, None)
            assert extent(opened, Filter()) is None
            # How far a checkpoint can come: the end, whatever lies there.
            assert head(opened) == 4
        fold_all(archive_path)


def test_the_end_of_an_archive_whose_events_are_gone(archive_path: Path) -> None:
    """A reader that had seen the last event is not told of lost records when its content is removed."""
    record(archive_path, range(EARLY, EARLY + 5))
    with open_archive(archive_path) as opened:
        assert head(opened) == 5
        with opened.database as connection:
            assert connection.readonly("main")
    with Administration(archive_path, b"", b"") as administration, administration.database as connection:
        remove(connection, [(4, 5)])
    with open_archive(archive_path) as opened:
        assert head(opened) == 5
        assert [row.sequence for row in opened.rows(Filter())] == [3, 2, 1]
