"""Look-ups go by the postings' primary key: they never walk through the records of the folded part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive import index, query
from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.stats import histogram
from otel_audit.record import Session
from tests.archive_material import connect, provider_at

RECORDS = 300


@pytest.fixture
def archive(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Return an archive of many runs, of which all but the last records are folded."""
    monkeypatch.setattr(index, "SLICE", 16)
    for module in (index, query):
        monkeypatch.setattr(module, "RUN", 32)
    with provider_at(archive_path) as provider:
        provider.writer._unfolded = -(10**9)
        log = provider.get_logger("plan")
        for number in range(RECORDS):
            session = Session(id=f"s{number}", ip=f"10.0.0.{number % 7}")
            log.audit("user.login.success", user=f"u{number % 5}", session=session)
    connection = connect(archive_path)
    while index.fold(connection) > 20:
        pass
    with open_archive(archive_path) as opened:
        yield opened


def statements(archive: Archive, filter: Filter, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the statements that a query runs, with their values."""
    ran: list[tuple[str, tuple[Any, ...]]] = []
    run = archive._all

    def spy(statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        ran.append((statement, values))
        return run(statement, values)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "_all", spy)
        assert list(archive.rows(filter)) or not ran
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
    filter = INDEXED[name]
    with archive.database as connection:
        folded = connection.execute("SELECT value FROM meta WHERE key = 'folded'").get
    ran = statements(archive, filter, monkeypatch)
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
        if len(filter.indexed) > 1:
            assert any("SEARCH q USING PRIMARY KEY (run=? AND field=? AND value=? AND sequence=?" in s for s in steps)


def test_a_short_look_up_ends_where_it_has_enough(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last few of a frequent user need one or two statements, however long the archive is."""
    ran: list[str] = []
    run = archive._all
    monkeypatch.setattr(archive, "_all", lambda statement, values=(): ran.append(statement) or run(statement, values))
    assert len(list(archive.query(user="u3", limit=3))) == 3
    assert len(ran) == 1
    ran.clear()
    assert len(list(archive.query(limit=7))) == 7
    assert len(ran) == 1


def test_a_record_is_looked_up_by_its_id_in_one_zone(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time inside the id leads to the records of that time: no other part of the archive is read."""
    everything = list(archive.query())
    first, last = archive.bounds(Filter(record_id="0" * 32))[:2]
    assert (first, last) == (1, RECORDS)  # no time inside: everywhere
    low, high, folded = archive.bounds(Filter(record_id=everything[-1].record_id))
    assert low == 1
    assert high == RECORDS  # the rest of the archive is one zone here, and the tail, which has none yet
    low, _, _ = archive.bounds(Filter(record_id="ffffffff-ffff-7fff-bfff-ffffffffffff"))
    assert low == folded + 1


def test_a_histogram_counts_zones(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets that hold whole zones are counted without looking at the records in them."""
    edges = [0, 2**62]
    with archive.database as connection:
        read: list[str] = []
        connection.exec_trace = lambda _cursor, statement, _values: read.append(statement) or True
        folded = connection.execute("SELECT value FROM meta WHERE key = 'folded'").get
    assert histogram(archive, edges) == [RECORDS]
    from_records = [statement for statement in read if "FROM record" in statement]
    assert len(from_records) == 1  # the unfolded tail
    assert folded < RECORDS
