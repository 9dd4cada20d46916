"""Reconciling an archive with what a ClickHouse holds: whatever was lost, changed, added or doubled there is named."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_audit import Session
from otel_audit.archive.against import Comparison, compare_held
from otel_audit.archive.held import Held
from otel_audit.archive.query import Archive, open_archive
from otel_audit.delivery.outbox import Outbox, resend, the_destination
from otel_audit.errors import ConfigError
from otel_audit.reconcile.backends import open_backend
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, connect, provider_at, ship
from tests.clickhouse_material import COLUMNS, exported_rows, insert, make_table
from tests.recording import texts, values

RECORDS = 40
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
ALWAYS = (-(2**63), 2**63 - 1)
VALUES: list[Any] = [
    1, -1, 2**62, 1.0, -0.0, 1e-7, 1e21, 123456.789, float("nan"), float("-inf"), True, None, "", "é\u2028<&>",
    b"\0\xff", ["a", 1, [b"x"], True, None, 1.0, "<\u2028"], {"b": {"": 1.5}, "a": [False]}, [float("nan")],
]  # fmt: skip


class Sample:
    """An archive, what the exporter writes of it, and an engine to write it to."""

    def __init__(self, archive: Archive, rows: list[list[Any]], client: Client, engine: Path) -> None:
        self.archive = archive
        self.rows = rows
        self._client = client
        self._engine = engine
        self._tables = itertools.count()

    def compare(self, rows: list[list[Any]], between: tuple[int, int] = ALWAYS, **settings: Any) -> Comparison:
        """Compare the archive with a table of these rows."""
        table = f"logs{next(self._tables)}"
        make_table(self._client, table, "timestamp")
        insert(self._client, table, rows)
        try:
            read = open_backend(f"chdb://{self._engine}?table={table}")
            return compare_held(
                self.archive,
                lambda: read(self.archive.id, *between, lambda _done, _total: None),
                keep=1000,
                between=between,
                **settings,
            )
        finally:
            self._client.command(f"DROP TABLE {table}")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    path, engine = tmp_path_factory.mktemp("reconcile") / "audit.db", tmp_path_factory.mktemp("engine")
    with provider_at(path, resource={"service.name": "shop", "n": 1, "list": ["a", 2]}) as provider:
        log = provider.get_logger("m")
        for number, value in zip(range(RECORDS), itertools.cycle(VALUES), strict=False):
            log.audit(
                "user.login.failure",
                user=f"user-{number}",
                session=Session(f"s{number}", "http", "203.0.113.7"),
                custom={"g": {"v": value}},
                timestamp=START + number * SECOND,
            )
    with ExitStack() as stack:
        client = stack.enter_context(clickhouse_connect.get_client(interface="chdb", path=str(engine)))
        archive = stack.enter_context(open_archive(path))
        yield Sample(archive, list(exported_rows(path)), client, engine)


def numbers(faults: Any) -> list[int]:
    """Return the sequences that faults name."""
    return sorted(int(fault.detail.partition(" of ")[0].removeprefix("record ")) for fault in faults)


def test_all_there(sample: Sample) -> None:
    """A table with all records, of values of every type, is equal; what others wrote there is none of ours."""
    other = dict(zip(COLUMNS, sample.rows[0], strict=True))
    other["LogAttributes"] = {**other["LogAttributes"], "audit.sequence.stream_id": "0" * 32}
    found = sample.compare([*sample.rows[::-1], [other[name] for name in COLUMNS]])
    assert found.faults == ()
    assert (found.matching, found.missing, found.doubled, found.foreign, found.waiting) == (RECORDS, 0, 0, 0, 0)


@settings(max_examples=12)
@given(st.randoms(use_true_random=False))
def _losses(sample: Sample, chance: random.Random) -> None:
    lost = {number for number in range(RECORDS) if chance.random() < 0.3}
    twice = [number for number in range(RECORDS) if number not in lost and chance.random() < 0.2]
    rows = [row for number, row in enumerate(sample.rows) if number not in lost]
    rows += [sample.rows[number] for number in twice]
    chance.shuffle(rows)
    handed: list[int] = []
    found = sample.compare(rows, missing=handed.extend)
    named = sorted(number + 1 for number in lost)
    assert handed == named == numbers(found.faults)
    assert {fault.code for fault in found.faults} <= {"export-missing"}
    assert [n for first, last in found.gaps for n in range(first, last + 1)] == named
    assert numbers(found.doubles) == [number + 1 for number in twice]
    assert (found.matching, found.missing, found.doubled) == (RECORDS - len(lost), len(lost), len(twice))


def test_losses_and_copies(sample: Sample) -> None:
    """Whichever records are missing or came twice, in whatever order, exactly these are named."""
    _losses(sample)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "timeUnixNano": lambda row: row.update(Timestamp=row["Timestamp"] + 1),
    "severityNumber": lambda row: row.update(SeverityNumber=9),
    "severityText": lambda row: row.update(SeverityText="INFO"),
    "traceId": lambda row: row.update(TraceId="0" * 31 + "1"),
    "spanId": lambda row: row.update(SpanId="0" * 15 + "1"),
    "flags": lambda row: row.update(TraceFlags=1),
    "eventName": lambda row: row.update(EventName="user.login.success"),
    "body": lambda row: row.update(Body="other"),
    "user.name": lambda row: row["LogAttributes"].pop("user.name"),
    "audit.outcome": lambda row: row["LogAttributes"].update({"audit.outcome": "success"}),
    "extra": lambda row: row["LogAttributes"].update(extra=""),
    "resource service.name": lambda row: row["ResourceAttributes"].update({"service.name": "x"}),
    "scope": lambda row: row.update(ScopeVersion="0"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_record(sample: Sample, name: str) -> None:
    """Whatever field of a row was changed, added or removed, its record and the field are named."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in sample.rows]
    changed = rows[5]
    for column in ("LogAttributes", "ResourceAttributes"):
        changed[column] = dict(changed[column])
    CHANGES[name](changed)
    found = sample.compare([[row[column] for column in COLUMNS] for row in rows])
    (fault,) = found.faults
    assert (fault.code, fault.detail) == ("export-differs", f"record 6 of the archive: {name}")
    assert found.matching == RECORDS - 1


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_a_changed_value(sample: Sample, number: int) -> None:
    """The text of a value of any type is told from that of every other value."""
    key = "otel_audit.custom.g.v"
    rows = [list(row) for row in sample.rows]
    own = rows[number][-2][key]
    texts_ = {row[-2][key] for row in sample.rows} | {
        "x",
        "[",
        "{}",
        "1.5",
        "[1]",
        '["a",1,["eA=="],1,null,1,"<\u2028"]',
    }
    # What the exporter writes of several values alike cannot be told apart.
    for other in sorted(texts_ - {own, "1", "1.0"}):
        rows[number] = list(sample.rows[number])
        rows[number][-2] = {**sample.rows[number][-2], key: other}
        found = sample.compare(rows[number : number + 1])
        assert "export-differs" in {fault.code for fault in found.faults}, other


def test_what_the_archive_lacks(sample: Sample) -> None:
    """A record that says it is from this archive, and is not in it, is a fault, however its sequence is written."""
    for sequence, record_id in (
        ("7", "0" * 36),
        ("41", None),
        ("0", None),
        ("-1", None),
        ("x", None),
        ("9" * 30, None),
    ):
        row = list(sample.rows[6])
        row[-2] = {**row[-2], "audit.sequence.number": sequence}
        if record_id is not None:
            row[-2]["audit.record.id"] = record_id
        found = sample.compare([*sample.rows, row])
        assert [fault.code for fault in found.faults] == ["export-unknown"]


def test_a_range_of_time(sample: Sample) -> None:
    """Only what happened in a range is compared: what is missing before and after it is not named."""
    rows = [row for number, row in enumerate(sample.rows) if number not in {3, 12, 30}]
    between = (START + 10 * SECOND, START + 20 * SECOND - 1)
    found = sample.compare(rows, between)
    assert numbers(found.faults) == [13]
    assert (found.matching, found.missing) == (9, 1)


def test_the_last_moment_of_a_range(sample: Sample) -> None:
    """A record of the last nanosecond of a range is compared, and not taken for missing."""
    found = sample.compare(sample.rows, (START + 10 * SECOND, START + 20 * SECOND))
    assert (found.matching, found.missing) == (11, 0)


def test_values_of_every_kind(tmp_path: Path, sample: Sample) -> None:
    """Random values and texts, hostile ones among them, are equal to what the exporter makes of them."""
    path = tmp_path / "audit.db"
    with provider_at(path) as provider:
        log = provider.get_logger("m")

        @settings(max_examples=60, database=None)
        @given(values(), texts())
        def fill(value: Any, text: str) -> None:
            log.audit("any", user=text, message=text, custom={"g": {"v": value}})

        fill()
    rows = list(exported_rows(path))
    with open_archive(path) as archive:
        found = Sample(archive, rows, sample._client, sample._engine).compare(rows)
    assert found.faults == ()
    assert found.matching == len(rows)


def test_resent(archive_path: Path) -> None:
    """What is put back reaches the collector again under its own id, though it had been delivered; no other does."""
    with Collector() as collector:
        with provider_at(archive_path) as provider:
            for number in range(10):
                provider.get_logger("m").audit("any", user=str(number))
        assert ship(archive_path, collector)
        assert the_destination(archive_path, None) == "otlp"
        with open_archive(archive_path) as archive:
            ids = [record.record_id for record in archive.query(oldest_first=True)]
            assert resend(archive_path, "otlp", [2, 3, 9, 99], "lost") == 3
            assert resend(archive_path, "otlp", [2], "lost") == 0
            assert archive.status().backlog == 3
        outbox = Outbox(archive_path, "otlp")
        assert [entry.sequence for entry in outbox.read()] == [2, 3, 9]
        outbox.close()
        assert ship(archive_path, collector)
        came = assert_delivered(archive_path, collector)
        assert {record_id for record_id, count in came.items() if count == 2} == {ids[1], ids[2], ids[8]}
        with pytest.raises(ConfigError, match="no destination 'none'"):
            resend(archive_path, "none", [1], "lost")


def test_what_is_delivered_meanwhile(archive_path: Path) -> None:
    """What waited when the backend was asked is not missing, though it was delivered before the answer had come."""
    with Collector() as collector:
        with provider_at(archive_path) as provider:
            for number in range(4):
                provider.get_logger("m").audit("any", user=str(number))
        assert ship(archive_path, collector)
        assert resend(archive_path, "otlp", [2], "lost") == 1
        with provider_at(archive_path) as provider:
            provider.get_logger("m").audit("any", user="late")

        def read() -> list[Held]:
            assert ship(archive_path, collector)
            return []

        with open_archive(archive_path) as archive:
            found = compare_held(archive, read, keep=10)
    assert numbers(found.faults) == [1, 3, 4]
    assert (found.missing, found.waiting) == (3, 2)


def test_destinations(archive_path: Path) -> None:
    """Where there is no destination, or more than one, the one to send to must be named."""
    with provider_at(archive_path) as provider:
        provider.get_logger("m").audit("any")
    with pytest.raises(ConfigError, match="the archive has 0 destinations: ship to one first"):
        the_destination(archive_path, None)
    connect(archive_path).execute("INSERT INTO destination (name, endpoint) VALUES ('a', 'x'), ('b', 'y')")
    with pytest.raises(ConfigError, match="the archive has 2 destinations: name one by --destination: a, b"):
        the_destination(archive_path, None)
    assert the_destination(archive_path, "b") == "b"
