"""Pruning: what goes, what stays, what is told of it, and that the archive verifies all the while."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from otel_audit import tasks
from otel_audit.archive import due, index
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.due import Finder, Gate
from otel_audit.archive.leaf import ADMINISTRATION
from otel_audit.archive.query import open_archive
from otel_audit.archive.retention import would_prune
from otel_audit.archive.verify import verify
from otel_audit.errors import ArchiveError, IntegrityError
from otel_audit.record import Actor
from otel_audit.testing import Collector
from tests.archive_material import assert_sound, connect, provider_at, ship, wait_until
from tests.retention_material import left, prune, pruning, read, record, rules, told, tombstones

LOGIN = {"type": "user.login.success", "user": "alice"}
START = {"type": "server-started"}
ALL = rules({"*": "28d"})


def assert_pruned(path: Path, count: int) -> None:
    report = verify(path)
    assert report.intact, report.faults
    assert (report.pruned, report.erased) == (count, 0)


@pytest.mark.parametrize("folded", [False, True])
def test_what_goes_and_what_stays(archive_path: Path, folded: bool) -> None:
    """Each type keeps its content as long as its rule says, and for ever where no rule is for it or it says so."""
    record(archive_path, 100, LOGIN, START, {"type": "config.changed"}, {"type": "user.created"})
    record(archive_path, 20, LOGIN, START)
    record(archive_path, 0, LOGIN)
    if folded:
        index.fold(connect(archive_path))
    outcome = prune(archive_path, rules({"user.*": "28d", "user.created": "keep", "server-*": "10d"}))
    assert outcome.records == {"user.login.success": 1, "server-started": 2}
    assert (outcome.held, outcome.undelivered) == (0, 0)
    assert left(archive_path) == ["config.changed", "user.created", "user.login.success", "user.login.success"]
    assert tombstones(archive_path) == [1, 2, 6]
    assert_pruned(archive_path, 3)
    assert_sound(archive_path, records=9)


def test_the_time_of_recording_counts(archive_path: Path) -> None:
    """What counts is when a record was recorded: what an event says of its own time cannot bring its end forward."""
    record(archive_path, 0, {**LOGIN, "timestamp": 1})
    assert not prune(archive_path, ALL).records
    assert_pruned(archive_path, 0)


def test_no_rule_prunes_nothing(archive_path: Path) -> None:
    """Without a rule, and where all say to keep, nothing is written at all."""
    record(archive_path, 10_000, LOGIN)
    before = archive_path.read_bytes()
    for retention in (rules({}), rules({"*": "keep"})):
        assert not prune(archive_path, retention).records
    assert archive_path.read_bytes() == before


def test_what_is_told(archive_path: Path) -> None:
    """A record of the archive's own names what went, the rules, and who did it: the operator, else the system."""
    record(archive_path, 50, LOGIN, START, LOGIN)
    prune(archive_path, rules({"user.*": "1d"}), actor=Actor("root"), fields={"process": {"pid": 7}})
    prune(archive_path, rules({"*": "2d"}), force=True)
    assert told(archive_path) == [
        {"removal": {"sequences": ("1,3",), "records": 2, "rules": ("user.*=1d",)}, "process": {"pid": 7}},
        {"removal": {"sequences": ("2",), "records": 1, "rules": ("*=2d",), "forced": True}},
    ]
    with open_archive(archive_path) as archive:
        actors = [own.actor.id for own in archive.query(admin=True, types=["audit.records.pruned"])]
    assert actors == ["otel_audit", "root"]
    assert not prune(archive_path, rules({"*": "2d"})).records
    assert len(told(archive_path)) == 2
    assert_pruned(archive_path, 3)


def test_own_records(archive_path: Path) -> None:
    """Of the archive's own records only those of reads are pruned, whatever the rules say."""
    record(archive_path, 50, LOGIN)
    read(archive_path, 40, 3)
    record(archive_path, 30, LOGIN)
    read(archive_path, 1, 2)
    outcome = prune(archive_path, rules({"*": "7d"}))
    assert outcome.records == {"user.login.success": 2, "audit.read": 3}
    assert_pruned(archive_path, 5)
    assert not prune(archive_path, rules({"*": "7d"})).records
    with open_archive(archive_path) as archive:
        own = [one.type for one in archive.query(admin=True, oldest_first=True)]
    assert own == ["audit.archive.created", "audit.read", "audit.read", "audit.records.pruned"]
    assert prune(archive_path, rules({"audit.read": "1h", "audit.*": "1h"})).records == {"audit.read": 2}
    assert_pruned(archive_path, 7)


def test_records_of_reads_in_batches(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records of reads there are, and wherever one stays, all that are due go."""
    monkeypatch.setattr(due, "_BATCH", 4)
    monkeypatch.setattr(due, "_READS", due._READS.replace("4096", "4"))
    record(archive_path, 50, LOGIN)
    read(archive_path, 40, 6)
    read(archive_path, 1, 1)
    read(archive_path, 40, 6)
    with pruning(archive_path, rules({"audit.read": "7d"})) as pruner:
        assert pruner.prune().records == {"audit.read": 12}
        read(archive_path, 40, 1)
        assert pruner.prune().records == {"audit.read": 1}
    assert_pruned(archive_path, 13)


class TestDelivery:
    """What some destination has still to get stays."""

    def test_undelivered_records_stay(self, archive_path: Path) -> None:
        """Only what every destination accepted goes; all of it, where that is forced."""
        record(archive_path, 50, LOGIN, START, START)
        with connect(archive_path) as connection:
            connection.execute("INSERT INTO destination (name, endpoint, cursor) VALUES ('a', 'x', 3), ('b', 'y', 1)")
        outcome = prune(archive_path, ALL)
        assert (outcome.records, outcome.undelivered) == ({"user.login.success": 1}, 2)
        assert tombstones(archive_path) == [1]
        outcome = prune(archive_path, ALL, force=True)
        assert (outcome.records, outcome.undelivered) == ({"server-started": 2}, 0)
        assert_pruned(archive_path, 3)

    def test_delivery_lets_go(self, archive_path: Path) -> None:
        """A destination that is configured and has taken nothing yet holds everything, and lets go when it has it."""
        record(archive_path, 50, LOGIN, START)
        with pruning(archive_path, ALL, destinations=["otlp"]) as pruner:
            assert pruner.prune().undelivered == 2
            with Collector() as collector:
                assert ship(archive_path, collector)
                assert pruner.prune().records.total() == 2
                assert ship(archive_path, collector)
                assert len(collector.records) == 4
        assert_pruned(archive_path, 2)

    @pytest.mark.parametrize("requeued", [0, 1])
    def test_dead_letters_stay(self, archive_path: Path, requeued: int) -> None:
        """A dead letter of any destination stays, whether it gets another try or not."""
        record(archive_path, 50, LOGIN, START, START)
        with connect(archive_path) as connection:
            connection.execute("INSERT INTO destination (name, endpoint, cursor) VALUES ('a', 'x', 3), ('b', 'y', 3)")
            connection.execute("INSERT INTO dead_letter VALUES ('b', 2, 1, 'too large', ?)", (requeued,))
        assert prune(archive_path, ALL).undelivered == 1
        assert tombstones(archive_path) == [1, 3]
        assert prune(archive_path, ALL, force=True).records.total() == 1
        assert connect(archive_path).execute("SELECT count(*) FROM dead_letter").get == 0
        assert_pruned(archive_path, 3)

    def test_a_destination_that_comes_in_between(self, archive_path: Path) -> None:
        """What became undelivered after it was found is not removed."""
        record(archive_path, 50, LOGIN)
        with pruning(archive_path, ALL) as pruner:
            original = pruner._gate.alive

            def alive(connection: Any, sequences: Any) -> list[int]:
                connection.execute("INSERT INTO destination (name, endpoint) VALUES ('late', 'x')")
                return original(connection, sequences)

            pruner._gate.alive = alive  # type: ignore[method-assign]
            assert not pruner.prune().records
        assert left(archive_path) == ["user.login.success"]


def test_many_records(archive_path: Path) -> None:
    """Over several zones and transactions all that is due goes, in few records that tell of it."""
    record(archive_path, 50, LOGIN, START, times=2_000)
    record(archive_path, 1, LOGIN, times=100)
    index.fold(connect(archive_path))
    outcome = prune(archive_path, rules({"user.*": "28d"}))
    assert outcome.records == {"user.login.success": 2_000}
    assert len(told(archive_path)) <= 2_000 // 64 + 1
    assert left(archive_path) == ["server-started"] * 2_000 + ["user.login.success"] * 100
    assert_pruned(archive_path, 2_000)
    assert prune(archive_path, ALL).records == {"server-started": 2_000}
    assert_pruned(archive_path, 4_000)


def test_nothing_is_looked_at_twice(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zones of tombstones, and of records whose time will come later or never, cost later runs nothing."""
    record(archive_path, 50, START, times=1_024)
    record(archive_path, 40, LOGIN, {"type": "config.changed"}, times=512)
    record(archive_path, 30, LOGIN)
    index.fold(connect(archive_path))
    looked: list[int] = []
    original = Finder._look

    def look(self: Finder, connection: Any, zone: int, now: int, *, complete: bool) -> Any:
        looked.append(zone)
        return original(self, connection, zone, now, complete=complete)

    monkeypatch.setattr(Finder, "_look", look)
    with pruning(archive_path, rules({"server-*": "20d", "user.*": "35d"})) as pruner:
        assert pruner.prune().records.total() == 1_536
        for _ in range(3):
            looked.clear()
            assert not pruner.prune().records
    assert 0 not in looked
    assert 1 not in looked
    assert_pruned(archive_path, 1_536)


def test_a_dry_run_changes_nothing(archive_path: Path) -> None:
    """A dry run says what would go, and leaves every byte and every mode as it is."""
    record(archive_path, 50, LOGIN, START, START)
    archive_path.chmod(0o400)
    before = archive_path.read_bytes()
    with open_archive(archive_path) as archive:
        outcome = would_prune(archive.database, rules({"server-*": "1d"}), Gate())
    assert outcome.records == {"server-started": 2}
    assert outcome.content.total() > 200
    assert archive_path.read_bytes() == before
    assert archive_path.stat().st_mode & 0o777 == 0o400


def test_stopping(archive_path: Path) -> None:
    """A pruner that is told to stop does so between two transactions, and the next one goes on."""
    record(archive_path, 50, START, times=4_000)
    asked: list[None] = []

    def stopping() -> bool:
        asked.append(None)
        return len(asked) > 6

    first = prune(archive_path, ALL, stopping=stopping).records.total()
    assert 0 < first < 4_000
    assert_pruned(archive_path, first)
    assert prune(archive_path, ALL, stopping=lambda: True).records.total() == 0
    assert prune(archive_path, ALL).records.total() == 4_000 - first
    assert_pruned(archive_path, 4_000)


def test_the_provider_prunes(
    archive_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider with rules prunes by itself while it records, says so, and not before it has settled."""
    record(archive_path, 50, START)
    monkeypatch.setattr(tasks, "_SETTLED", 0.2)
    with caplog.at_level(logging.INFO, "otel_audit"), provider_at(archive_path, retention={"*": "30d"}) as provider:
        provider.get_logger("tests").audit("server-started")
        assert tombstones(archive_path) == []
        wait_until(lambda: tombstones(archive_path))
    assert tombstones(archive_path) == [1]
    assert [entry.getMessage() for entry in caplog.records] == [f"pruned 1 records of {archive_path}"]
    assert_pruned(archive_path, 1)


def test_a_damaged_record_is_not_pruned(archive_path: Path) -> None:
    """A record without its salt stays as it is, for whoever investigates, and the error names it."""
    record(archive_path, 50, START, START)
    with connect(archive_path) as connection:
        connection.execute("UPDATE record SET salt = NULL WHERE sequence = 2")
    with pytest.raises(IntegrityError, match="record 2 lacks its salt"):
        prune(archive_path, ALL)
    assert tombstones(archive_path) == []


def test_a_missing_archive(archive_path: Path) -> None:
    """Pruning makes no archive."""
    with pytest.raises(ArchiveError, match="there is no archive"):
        prune(archive_path, ALL)
    assert not os.path.lexists(archive_path)


def test_a_hold_that_cannot_be_read(archive_path: Path) -> None:
    """Where a hold cannot be read nothing is pruned: it may be for just these records."""
    record(archive_path, 50, START)
    with Administration(archive_path, b"", b"") as administration:
        administration.append(lambda *_: [Own(ADMINISTRATION, "audit.hold.added", {"hold": {"id": 3}})])
    with pytest.raises(IntegrityError, match="the hold in record 3 cannot be read"):
        prune(archive_path, ALL)
    assert tombstones(archive_path) == []
