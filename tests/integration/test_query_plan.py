"""Look-ups go by the postings' primary key: they never walk through the records of the folded part."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive import index, query, stats
from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.stats import counts, histogram
from otel_audit.record import Session
from tests.archive_material import connect, provider_at

RECORDS = 300


@pytest.fixture
def archive(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Return an archive of many runs, of which all but the last records are folded."""
    monkeypatch.setattr(index, "SLICE", 16)
    monkeypatch.setattr(index, "_ZONES", index._ZONES.replace(str(index.ZONE), "16"))
    for module in (index, query):
        monkeypatch.setattr(module, "RUN", 32)
        monkeypatch.setattr(module, "ZONE", 16)
    monkeypatch.setattr(stats, "ZONE", 16)
    with provider_at(archive_path) as provider:
        provider.writer._folding.unfolded = -(10**9)
        log = provider.get_logger("plan")
        for number in range(RECORDS):
            session = Session(id=f"s{number}", ip=f"10.0.0.{number % 7}")
            log.audit("user.login.success", user=f"u{number % 5}", session=session)
    connection = connect(archive_path)
    while index.fold(connection) > 20:
        pass
    with open_archive(archive_path) as opened:
        yield opened


def spy_on(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """Collect the statements that queries run from now on, with their values."""
    ran: list[tuple[str, tuple[Any, ...]]] = []
    run = archive._all

    def spy(statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        ran.append((statement, values))
        return run(statement, values)

    monkeypatch.setattr(archive, "_all", spy)
    return ran


def plan(archive: Archive, statement: str, values: tuple[Any, ...]) -> list[str]:
    with archive.database as connection:
        return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


INDEXED = {
    "host": Filter(host="example.com"),
    "user": Filter(user="u3"),
    "address": Filter(address="10.0.0.3"),
    "user of a host": Filter(host="example.com", user="u3"),
    "all of them": Filter(host="example.com", user="u3", address="10.0.0.3", types=["user.*"], outcome="success"),
}


@pytest.mark.parametrize("name", INDEXED)
def test_look_ups_use_the_postings(name: str, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folded part each look-up searches the postings by their key, and records by their sequence alone."""
    wanted = INDEXED[name]
    with archive.database as connection:
        folded = connection.execute("SELECT value FROM meta WHERE key = 'folded'").get
    ran = spy_on(archive, monkeypatch)
    assert list(archive.rows(wanted))
    tails = [(statement, values) for statement, values in ran if "posting" not in statement]
    look_ups = [(statement, values) for statement, values in ran if "posting" in statement]
    assert look_ups
    for statement, values in tails:
        first = min(value for value in values[:2] if isinstance(value, int))
        assert first > folded, "only what is not folded may be scanned"
        assert any(
            "record USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in step
            for step in plan(archive, statement, values)
        )
    for statement, values in look_ups:
        steps = plan(archive, statement, values)
        assert any("SEARCH p USING PRIMARY KEY (run=? AND field=? AND value=?" in step for step in steps), steps
        assert any("SEARCH record USING INTEGER PRIMARY KEY (rowid=?)" in step for step in steps), steps
        scans = [step for step in steps if step.startswith("SCAN") and step not in {"SCAN runs", "SCAN CONSTANT ROW"}]
        assert not scans, steps
        if len(wanted.indexed) > 1:
            assert any("SEARCH q USING PRIMARY KEY (run=? AND field=? AND value=? AND sequence=?" in s for s in steps)


def test_a_short_look_up_ends_where_it_has_enough(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last few of a frequent user need one or two statements, however long the archive is."""
    ran = spy_on(archive, monkeypatch)
    assert len(list(archive.query(user="u3", limit=3))) == 3
    assert len(ran) == 1
    ran.clear()
    assert len(list(archive.query(limit=7))) == 7
    assert len(ran) == 1


def test_a_record_is_looked_up_by_its_id_in_its_zones(archive: Archive) -> None:
    """The time inside the id leads to the records of that time; ids without one, or of no time, do no harm."""
    connection = connect(archive.path)
    while index.fold(connection):
        pass
    for record in list(archive.query()):
        low, high, _ = archive.bounds(Filter(record_id=record.record_id))
        assert low <= (record.sequence or 0) <= high
        assert high - low < RECORDS / 2
    assert archive.bounds(Filter(record_id="0" * 32))[:2] == (1, RECORDS)
    assert list(archive.query(record_id="ffffffff-ffff-7fff-bfff-ffffffffffff")) == []


@pytest.mark.parametrize("huge", [2**63, 10**30, datetime(9999, 12, 31, tzinfo=UTC)])
def test_moments_and_sequences_beyond_all_bounds_are_understood(huge: Any, archive: Archive) -> None:
    """What no column can hold is before or after everything."""
    assert len(list(archive.query(until=huge))) == RECORDS
    assert list(archive.query(since=huge)) == []
    assert sum(count for _, count in counts(archive, "type", Filter(until=huge))) == RECORDS
    if isinstance(huge, int):
        assert list(archive.query(after=huge)) == []
        assert counts(archive, "type", Filter(after=huge)) == []
        assert len(list(archive.query(before=huge, after=-huge))) == RECORDS


def test_a_histogram_counts_zones(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets that hold whole zones are counted without looking at the records in them."""
    edges = [0, 2**62]
    read: list[str] = []

    def trace(_cursor: object, statement: str, _values: object) -> bool:
        read.append(statement)
        return True

    with archive.database as connection:
        connection.exec_trace = trace
        folded = connection.execute("SELECT value FROM meta WHERE key = 'folded'").get
    assert histogram(archive, edges) == [RECORDS]
    from_records = [statement for statement in read if "FROM record" in statement]
    assert len(from_records) == 1  # the unfolded tail
    assert folded < RECORDS
