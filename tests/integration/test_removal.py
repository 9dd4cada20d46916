"""Tombstones: what is left of a record whose content was removed, and what tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import apsw
import pytest

from otel_audit import Session
from otel_audit.archive import index
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.leaf import ERASURE
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.query import open_archive
from otel_audit.archive.ranges import Range
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.report import Root
from otel_audit.archive.stats import histogram
from otel_audit.archive.verify import Noted, verify
from otel_audit.testing import Collector
from tests.archive_material import assert_sound, connect, provider_at, ship

RECORDS = 40


@pytest.fixture(params=[False, True], ids=["unfolded", "folded"])
def archive(archive_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return an archive of 40 records of two users."""
    with provider_at(archive_path) as provider:
        log = provider.get_logger("tests")
        for n in range(RECORDS):
            session = Session(f"s-{n}", "http", f"203.0.113.{n}")
            log.audit("user.login.success", user=f"user-{n % 2}", session=session)
    if request.param:
        index.fold(connect(archive_path))
    return archive_path


def removed(path: Path, ranges: list[Range], *, told: bool = True) -> None:
    """Remove records, and have that told or not."""

    def make(connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
        remove(connection, ranges)
        return (Own(ERASURE, "audit.records.erased", fields) for fields in removal_fields(ranges, reason="a test"))

    with Administration(path, b"", b"") as administration:
        if told:
            administration.append(make)
        else:
            with administration.database as connection:
                remove(connection, ranges)


def test_what_is_left(archive: Path) -> None:
    """Tombstones verify, are found by no query and counted nowhere, and roots that were noted before still hold."""
    before = verify(archive)
    assert before.root is not None
    removed(archive, [(2, 3), (10, 10)])
    assert_sound(archive, records=RECORDS + 2)
    report = verify(archive, noted=Noted([Root(before.last, before.root)]))
    assert report.intact, report.faults
    assert (report.erased, report.pruned, report.last) == (3, 0, RECORDS + 2)
    with open_archive(archive) as opened:
        left = [record.sequence for record in opened.query()]
        assert len(left) == RECORDS - 3
        assert not {2, 3, 10} & set(left)
        assert [record.sequence for record in opened.query(address="203.0.113.2")] == []
        assert len(list(opened.query(user="user-1"))) == RECORDS // 2 - 2
        assert opened.status().records == RECORDS - 3
        assert sum(histogram(opened, [0, 2**62])) == RECORDS - 3
        own = [record.type for record in opened.query(admin=True, oldest_first=True)]
    assert own == ["audit.archive.created", "audit.records.erased"]


def test_removed_in_silence(archive: Path) -> None:
    """A tombstone that no erasure or pruning names is a fault."""
    removed(archive, [(5, 6)], told=False)
    report = verify(archive)
    assert [(fault.code, fault.place) for fault in report.faults] == [("removed", "records 5 to 6")]


def test_named_and_not_removed(archive: Path) -> None:
    """A record that an erasure names and that has its content is a fault: somebody put it back."""
    with connect(archive) as connection:
        row = connection.execute("SELECT * FROM record WHERE sequence = 7").fetchone()
        postings = connection.execute("SELECT * FROM posting WHERE sequence = 7").fetchall()
    assert row is not None
    removed(archive, [(7, 7)])
    with connect(archive) as connection:
        connection.execute(f"REPLACE INTO record VALUES ({','.join('?' * len(row))})", row)
        connection.executemany("INSERT OR IGNORE INTO posting VALUES (?, ?, ?, ?)", postings)
        folded = connection.execute("SELECT value FROM meta WHERE key = 'folded'").get
        if folded:
            with connection:
                index.refold_zones(connection, [0])
    assert [(fault.code, fault.place) for fault in verify(archive).faults] == [("not-removed", "record 7")]


def test_many_ranges_take_several_records() -> None:
    """However many ranges are removed, each record that names them stays within what a record may hold."""
    ranges = [(n, n) for n in range(10**18, 10**18 + 20_000, 2)]
    fields = list(removal_fields(ranges, reason="many"))
    assert len(fields) > 1
    assert sum(one["removal"]["records"] for one in fields) == len(ranges)
    assert all(sum(map(len, one["removal"]["sequences"])) < 200_000 for one in fields)
    assert all(len(text) < 16_384 for one in fields for text in one["removal"]["sequences"])


@pytest.mark.parametrize("ranges", [[(1, RECORDS)], [(30, RECORDS)], [(1, 3), (5, 5)]])
def test_tombstones_are_not_sent(archive: Path, ranges: list[Range]) -> None:
    """What was removed before it was sent stays here, and the outbox is empty at the end, dead letters included."""
    with Collector() as collector:
        with connect(archive) as connection:
            connection.execute("INSERT INTO destination (name, endpoint) VALUES ('otlp', '')")
            connection.execute("INSERT INTO dead_letter VALUES ('otlp', 1, 1, 'refused', 1)")
        removed(archive, ranges)
        ship(archive, collector)
        gone = {n for first, last in ranges for n in range(first, last + 1)}
        assert {record.attributes["audit.sequence.number"] for record in collector.records} == set(
            range(1, RECORDS + 3)
        ) - gone
    with open_archive(archive) as opened:
        assert opened.status().backlog == 0


def test_an_archive_of_tombstones_alone(archive: Path) -> None:
    """Where nothing but tombstones follows the cursor, it moves over them."""
    with connect(archive) as connection, connection:
        connection.execute("INSERT INTO destination (name, endpoint, cursor) VALUES ('otlp', '', 20)")
        remove(connection, [(21, RECORDS)])
    with Collector() as collector:
        ship(archive, collector)
        assert collector.records == []
    with open_archive(archive) as opened:
        assert opened.status().destinations[0].cursor == RECORDS


make_erasure = partial(Own, ERASURE, "audit.records.erased")


@pytest.mark.parametrize(
    "own",
    [
        make_erasure({}),
        make_erasure({"removal": {"sequences": ["5-3"]}}),
        make_erasure({"removal": {"sequences": ["999"]}}),
        make_erasure({"removal": {"sequences": 5}}),
    ],
)
def test_an_erasure_that_cannot_be_read(archive: Path, own: Own) -> None:
    """An erasure whose sequences cannot be read, or are none of earlier records, is a fault of its own."""
    with Administration(archive, b"", b"") as administration:
        last = administration.append(lambda _connection, _tree: [own])
    assert [(fault.code, fault.place) for fault in verify(archive).faults] == [("removal", f"record {last}")]
