"""The log table of a ClickHouse answers as the archive does, over the same records: on ClickHouse's own engine."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

import otel_audit
from otel_audit import Actor, AuditRecord, Session, Target
from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive
from otel_audit.archive.query import open_archive as open_file
from otel_audit.archive.stats import Field
from otel_audit.cli.audited import audited
from otel_audit.fleet import fleet as module
from otel_audit.fleet.fleet import Fleet, open_fleet
from otel_audit.opening import statistics
from otel_audit.otlp import read_log
from tests.archive_material import provider_at
from tests.clickhouse_material import COLUMNS, LAYOUTS, exported_rows, go_text, insert, make_table
from tests.command_line import HOSTILE

RECORDS = 500
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
HOSTS = ["example.com", "tenant [1]", "it's\\", "%_"]
USERS = [None, "alice", "bob", "", "käthe*", *HOSTILE.values()]
TYPES = ["user.login.success", "user.login.failure", "odd[type]?", "a%b_c\\", "two\nlines"]
SOURCES = ["mod_auth", "billing.api", "100%"]
SESSIONS = ["s1", "", "'; DROP TABLE otel_logs--"]
ADDRESSES = [None, "10.0.0.1", "10.0.1.2", "10.0.0.0/24", "2001:db8::1", "::ffff:10.0.0.1", "not an address"]
TRACES = ["", "0" * 31 + "1", "ab" * 16]
CONDITIONS = [None, "not-authorized", "x.y", 7, True, -(2**63), *HOSTILE.values()]
# The last ones are where the old layout's column of whole seconds begins anew.
FAR = [1, SECOND, (2**32 - 1) * SECOND, 2**32 * SECOND, 4_500_000_000 * SECOND, 2**63 - 2]


def write(path: Path) -> None:
    """Record made-up events, and one of the archive's own."""
    chance = random.Random(7)
    with provider_at(path, resource={"service.name": "shop", "n": 1}) as provider:
        for number in range(RECORDS):
            context = SpanContext(int(chance.choice(TRACES) or "0", 16), 1, is_remote=False, trace_flags=TraceFlags(1))
            log = provider.get_logger(chance.choice(SOURCES), host=chance.choice(HOSTS))
            condition = chance.choice(CONDITIONS)
            far = number < len(FAR)
            with use_span(NonRecordingSpan(context)):
                log.audit(
                    chance.choice(TYPES),
                    user=chance.choice(USERS),
                    user_id=chance.choice([None, "4711"]),
                    actor=chance.choice([None, Actor("deploy", "service")]),
                    target=chance.choice([None, Target("t", None), Target("", "order")]),
                    outcome=chance.choice(["success", "failure", "unknown"]),
                    session=chance.choice([None, Session(chance.choice(SESSIONS), "http", chance.choice(ADDRESSES))]),
                    message=chance.choice([None, "Alice came in", "nothing to see", ""]),
                    custom={} if condition is None else {"reason": {"condition": condition, "odd key": None}},
                    timestamp=FAR[number] if far else START + chance.randrange(RECORDS) * SECOND // 3,
                )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OTEL_AUDIT_READS")
        audited(path, "show", user="alice")


class Sample:
    """An archive, and the table of each layout with the same records, a third of them twice, and another archive's."""

    def __init__(self, archive: Archive, fleets: dict[str, Fleet], client: Client, engine: Path) -> None:
        self.archive = archive
        self.fleets = fleets
        self.client = client
        self.engine = engine


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    path = tmp_path_factory.mktemp("fleet") / "audit.db"
    write(path)
    engine = tmp_path_factory.mktemp("engine")
    rows = list(exported_rows(path))
    # What is no audit record stands in the table, too.
    other: list[Any] = [START, "", "", 0, "", 9, "", "alice", "", {}, "", "", "", {}, {"user.name": "alice"}, ""]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        # Windows so small that questions cross many of them.
        patch.setattr(module, "_STREAMED", 200)
        patch.setattr(module, "_COUNTED", 250)
        patch.setattr(module, "_FIRST", 20)
        client = stack.enter_context(clickhouse_connect.get_client(interface="chdb", path=str(engine)))
        fleets: dict[str, Fleet] = {}
        for layout in LAYOUTS:
            make_table(client, f"logs_{layout}", layout)
            insert(client, f"logs_{layout}", [*rows[::2], other])
            insert(client, f"logs_{layout}", rows[::-1][: RECORDS // 3])
            insert(client, f"logs_{layout}", rows[1::2])
            fleets[layout] = stack.enter_context(open_fleet(f"chdb://{engine}?table=logs_{layout}"))
        yield Sample(stack.enter_context(open_file(path)), fleets, client, engine)


def known(archive: Archive, filter: Filter) -> list[AuditRecord]:
    """Return the archive's answer, oldest first by the time of the event, as far as the exporter keeps it."""
    found = [exported(record) for record in archive.query(filter)]
    return sorted(found, key=lambda record: (record.time, record.sequence))


def exported(record: AuditRecord) -> AuditRecord:
    """Return what is left of a record: no leaf hash, milliseconds of its recording, custom values as text."""
    custom = {
        group: {name: go_text(value) for name, value in fields.items()} for group, fields in record.custom.items()
    }
    return record._replace(observed=record.observed // 1_000_000 * 1_000_000, integrity_hash=None, custom=custom)


moments = st.one_of(
    st.integers(-20, RECORDS // 3 + 60).map(lambda n: START + n * SECOND),
    st.sampled_from([*FAR, 0, -1, 2**63 - 1, datetime(9999, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)]),
)
patterns = st.lists(st.sampled_from([*TYPES, "user.*", "*_c\\", "*%*", "two*", "*", "none"]), max_size=2)
where = st.dictionaries(
    st.sampled_from(["reason.condition", "user", "message", "target.id", "user.id", "reason.odd_key", "type", "host"]),
    st.sampled_from(["", "not-authorized", "7", "true", "alice", "t", "4711", *HOSTILE.values(), *TYPES, *HOSTS]),
    max_size=2,
)
CRITERIA: dict[str, st.SearchStrategy[Any]] = {
    "host": st.sampled_from([*HOSTS, "none"]),
    "user": st.sampled_from([*[user for user in USERS if user is not None], "none", "' OR 1=1 --", "{v0:String}"]),
    "host_wide": st.booleans(),
    "types": patterns,
    "sources": st.lists(st.sampled_from([*SOURCES, "*i*", "*%"]), max_size=2),
    "outcome": st.sampled_from(["success", "failure", "unknown"]),
    "session": st.sampled_from([*SESSIONS, "none"]),
    "address": st.sampled_from(["10.0.0.1", "10.0.0.0/23", "2001:db8::/32", "not an address", "::1", "0.0.0.0/0"]),
    "trace_id": st.sampled_from([TRACES[1], TRACES[2].upper(), "f" * 32]),
    "where": where,
    "grep": st.sampled_from(["ALICE came", "^user\\.", "xyzzy", "nothing", "\x1b", "tenant \\["]),
    "since": moments,
    "until": moments,
    "after": st.integers(-2, RECORDS + 3) | st.just(2**70),
    "before": st.integers(-2, RECORDS + 3) | st.just(2**70),
    "admin": st.booleans(),
    "pseudonym": st.just(lambda text: "alice" if text == "bob" else f"psn-{text}"),
}


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    """Return a filter of few criteria: with many of them hardly anything matches."""
    names = draw(st.lists(st.sampled_from([*CRITERIA, "user", "since", "until"]), max_size=3, unique=True))
    return Filter(**{name: draw(CRITERIA[name]) for name in names})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_queries_return_what_the_archive_returns(layout: str, sample: Sample) -> None:
    """Any filter, limit and order give exactly the archive's records, each once, field by field."""
    fleet = sample.fleets[layout]

    @settings(max_examples=30)
    @given(filters(), st.none() | st.integers(0, 60), st.booleans())
    def check(filter: Filter, limit: int | None, oldest_first: bool) -> None:
        expected = known(sample.archive, filter)
        expected = (expected if oldest_first else expected[::-1])[:limit]
        assert list(fleet.query(filter, limit=limit, oldest_first=oldest_first)) == expected

    check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_criterion_alone(layout: str, sample: Sample) -> None:
    """Every value of every criterion gives the archive's answer, and every value that occurs is found at all."""
    fleet = sample.fleets[layout]
    records = list(sample.archive.query())
    occurring: dict[str, set[Any]] = {
        "host": {record.host for record in records},
        "user": {record.user for record in records if record.user is not None},
        "types": {(record.type,) for record in records},
        "session": {record.session.id for record in records if record.session is not None},
        "address": {record.session.ip for record in records if record.session is not None and record.session.ip},
    }
    for name, values in occurring.items():
        assert len(values) > 2
        for value in sorted(values)[:5]:
            wanted = Filter(**{name: value})
            found = list(fleet.query(wanted, oldest_first=True))
            assert found
            assert found == known(sample.archive, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_are_the_archives(layout: str, sample: Sample) -> None:
    """Any filter gives the archive's counts by each field, its histogram and its range of time."""
    of_fleet, of_archive = statistics(sample.fleets[layout]), statistics(sample.archive)
    edge = st.integers(START - 20 * SECOND, START + RECORDS * SECOND) | st.sampled_from(FAR)

    edges_ = st.lists(edge, min_size=2, max_size=20, unique=True).map(sorted)

    @settings(max_examples=15)
    @given(filters(), edges_, st.sampled_from(get_args(Field)), st.integers(1, 6))
    def check(filter: Filter, edges: list[int], field: Field, limit: int) -> None:
        assert of_fleet.counts(field, filter, limit=limit) == of_archive.counts(field, filter, limit=limit)
        assert of_fleet.histogram(edges, filter) == of_archive.histogram(edges, filter)
        assert of_fleet.extent(filter) == of_archive.extent(filter)

    check()


def test_records_by_id_from_several_archives(sample: Sample) -> None:
    """Every record is found by its id in both notations, and says which archive it is from."""
    fleet = sample.fleets["timestamp"]
    for record in itertools.islice(sample.archive.query(), 0, RECORDS, 90):
        for text in (record.record_id, record.record_id.replace("-", "").upper()):
            (found,) = fleet.query(record_id=text)
            assert (found.sequence, found.stream_id) == (record.sequence, sample.archive.id)


def test_rows_are_encoded_anew(sample: Sample) -> None:
    """A row of a table gives the bytes of a LogRecord that hold what the record does, under its resource and scope."""
    from otel_audit.otlp import decode

    fleet = sample.fleets["timestamp"]
    for row, record in zip(list(fleet.rows(Filter())), list(fleet.query()), strict=True):
        assert decode(row.otlp, row.record_id, sequence=row.sequence, stream_id=row.stream_id) == record
        resource, scope = fleet.header(row.resource)
        assert b"shop" in resource
        assert b"otel_audit" in scope


def test_values_that_become_text(tmp_path: Path, sample: Sample) -> None:
    """Custom values of every type come back as the exporter's text of them, which the documentation shows."""
    values: dict[str, Any] = {
        "float": 1.0, "small": 1e-7, "large": 1e21, "negative": -2.5, "nan": float("nan"), "bytes": b"\0\xff",
        "list": ["a", 1, True, None], "map": {"b": 1.5, "a": b"x", "c": ["<é>"]}, "broken": [float("inf")],
    }  # fmt: skip
    path = tmp_path / "audit.db"
    with provider_at(path) as provider:
        provider.get_logger("m").audit("user.login.success", custom={"g": values})
    make_table(sample.client, "texts", "timestamp")
    insert(sample.client, "texts", exported_rows(path))
    with otel_audit.open_archive(f"chdb://{sample.engine}?table=texts") as opened:
        (record,) = opened.query(where={"g.float": "1"})
    assert record.custom["g"] == {
        "float": "1", "small": "1e-7", "large": "1e+21", "negative": "-2.5", "nan": "NaN", "bytes": "AP8=",
        "list": '["a",1,true,null]', "map": '{"a":"eA==","b":1.5,"c":["<é>"]}', "broken": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("TraceId", "zz"), ("TraceId", "abc"), ("SpanId", "\x1b[2J"), ("Body", b"\xff"),
        ("audit.record.id", "ffffffff-ffff-7fff-bfff-ffffffffffff"), ("audit.record.id", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ("audit.record.id", "-7fffff-"), ("audit.record.id", "é" * 18), ("audit.sequence.number", "9" * 19),
    ],
)  # fmt: skip
def test_rows_that_fit_nothing_are_shown(column: str, value: Any, sample: Sample) -> None:
    """A row that somebody else wrote, with ids that are none, keeps nobody from seeing it and the others as OTLP."""
    from otel_audit.cli.otlpjson import request_text

    rows = [dict(zip(COLUMNS, row, strict=True)) for row in list(exported_rows(sample.archive.path))[:2]]
    if column in COLUMNS:
        rows[0][column] = value
    else:
        rows[0]["LogAttributes"] = {**rows[0]["LogAttributes"], column: value}
    sample.client.command("DROP TABLE IF EXISTS strange")
    make_table(sample.client, "strange", "timestamp")
    insert(sample.client, "strange", [[row[name] for name in COLUMNS] for row in rows])
    with open_fleet(f"chdb://{sample.engine}?table=strange") as fleet:
        text = request_text(fleet, show_address=True)
        shown = [text(row) for row in fleet.rows(Filter())]
        assert len(shown) == len(list(fleet.query())) == 2
        if column == "audit.record.id":
            assert sum(f'{{"stringValue":"{value}"}}' in one.replace(" ", "") for one in shown) == 1


def test_a_severity_below_zero(sample: Sample) -> None:
    """A severity that is none, in a table whose column would take it, is left out."""
    row = dict(zip(COLUMNS, next(exported_rows(sample.archive.path)), strict=True))
    make_table(sample.client, "below", "timestamp")
    sample.client.command("ALTER TABLE below MODIFY COLUMN SeverityNumber Int32")
    insert(sample.client, "below", [[{**row, "SeverityNumber": -200}[name] for name in COLUMNS]])
    with open_fleet(f"chdb://{sample.engine}?table=below") as fleet:
        assert [read_log(one.otlp).severity for one in fleet.rows(Filter())] == [0]
