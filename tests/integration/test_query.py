"""Queries against a model in plain Python, over archives that are folded, partly folded and not folded at all."""

from __future__ import annotations

import ipaddress
import random
import re
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach

from otel_audit.archive import index, query, stats
from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.stats import counts, histogram
from otel_audit.errors import ConfigError
from otel_audit.logger import AuditLogger
from otel_audit.record import Session
from tests.archive_material import connect, provider_at

RECORDS = 420
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
HOSTS = ["example.com", "example.org", "tenant [1]"]
USERS = [None, "alice", "bob", "", "käthe*"]
TYPES = ["user.login.success", "user.login.failure", "user.logout", "odd[type]?"]
SOURCES = ["mod_auth", "billing.api", "web"]
OUTCOMES = ["success", "failure", "unknown"]
SESSIONS = [None, "s1", "s2"]
ADDRESSES = [None, "10.0.0.1", "10.0.1.2", "2001:db8::1", "not an address"]
TRACES = ["", "0" * 31 + "1", "ab" * 16]
CONDITIONS = [None, "not-authorized", "x.y", 7, True]
MESSAGES = ["Alice came in", "nothing to see"]


@dataclass(frozen=True)
class Known:
    """What the model knows about a record."""

    sequence: int
    record_id: str
    time: int
    host: str
    user: str | None
    source: str
    type: str
    outcome: str
    session: str | None
    address: str | None
    trace: str
    condition: Any
    message: str


def write(log: AuditLogger, chance: random.Random, number: int) -> Known:
    """Record one made-up event; times mostly rise, as they do."""
    made: dict[str, Any] = {
        "host": chance.choices(HOSTS, [90, 8, 2])[0],
        "user": chance.choices(USERS, [30, 40, 20, 5, 5])[0],
        "type": chance.choice(TYPES),
        "outcome": chance.choice(OUTCOMES),
        "session": chance.choice(SESSIONS),
        "address": chance.choice(ADDRESSES),
        "trace": chance.choices(TRACES, [80, 5, 15])[0],
        "condition": chance.choice(CONDITIONS),
        "message": chance.choice(MESSAGES),
        "time": START + number * SECOND + (chance.randrange(-200, 50) * SECOND if chance.random() < 0.1 else 0),
    }
    source = log._context["source"]
    context = trace.SpanContext(int(made["trace"] or "0", 16), 1, is_remote=False)
    token = attach(trace.set_span_in_context(trace.NonRecordingSpan(context), Context()))
    try:
        receipt = log.bind(host=made["host"]).audit(
            made["type"],
            user=made["user"],
            outcome=made["outcome"],
            session=Session(made["session"], None, made["address"]),
            message=made["message"],
            custom={} if made["condition"] is None else {"reason": {"condition": made["condition"]}},
            timestamp=made["time"],
        )
    finally:
        detach(token)
    assert receipt.sequence is not None
    return Known(sequence=receipt.sequence, record_id=receipt.record_id, source=source, **made)


@dataclass
class Sample:
    """An archive and what it should hold."""

    archive: Archive
    known: list[Known]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sample]]:
    """Make archives whose runs, slices, zones and chunks are so small that queries cross many of them."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(index, "_ZONES", index._ZONES.replace(str(index.ZONE), "13"))
        for module in (index, query):
            patch.setattr(module, "RUN", 40)
        for module in (index, query, stats):
            patch.setattr(module, "ZONE", 13)
        patch.setattr(index, "SLICE", 17)
        patch.setattr(query, "_CHUNK", 5)
        made = {}
        for name, folds in (("unfolded", 0), ("partly", 9), ("one slice short", 28), ("folded", 10**6)):
            path = tmp_path_factory.mktemp("query") / "audit.db"
            chance = random.Random(name)
            with provider_at(path) as provider:
                provider.writer._folding.unfolded = -(10**9)  # folding is done by hand, below
                logs = [provider.get_logger(source) for source in SOURCES]
                known = [write(chance.choice(logs), chance, number) for number in range(RECORDS)]
            connection = connect(path)
            for _ in range(folds):
                if index.fold(connection) == 0:
                    break
            made[name] = Sample(stack.enter_context(open_archive(path)), known)
        yield made


def lies_in(address: str | None, wanted: str) -> bool:
    if "/" not in wanted or address is None:
        return address == wanted
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return False


def as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def any_of(text: str, patterns: Any) -> bool:
    return any(fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]")) for pattern in patterns)


def matches(known: Known, filter: Filter) -> bool:
    """Tell by the model whether a record fulfils a filter."""
    texts = [known.type, known.message, known.record_id, known.host, known.source, known.outcome, as_text(known.user)]
    checks: dict[str, Callable[[Any], bool]] = {
        "host": lambda wanted: known.host == wanted,
        "user": lambda wanted: known.user == wanted,
        "host_wide": lambda wanted: (known.user is None) == wanted,
        "types": lambda wanted: not wanted or any_of(known.type, wanted),
        "sources": lambda wanted: not wanted or any_of(known.source, wanted),
        "outcome": lambda wanted: known.outcome == wanted,
        "session": lambda wanted: known.session == wanted,
        "address": lambda wanted: lies_in(known.address, wanted),
        "trace_id": lambda wanted: known.trace == wanted.lower(),
        "record_id": lambda wanted: known.record_id.replace("-", "") == wanted.replace("-", "").lower(),
        "where": lambda wanted: all(
            {"reason.condition": as_text(known.condition), "message": known.message, "user": known.user}[key] == value
            for key, value in wanted.items()
        ),
        "grep": lambda wanted: any(re.search(wanted, text, re.IGNORECASE) for text in texts),
        "since": lambda wanted: known.time >= as_nanoseconds(wanted),
        "until": lambda wanted: known.time < as_nanoseconds(wanted),
        "after": lambda wanted: known.sequence > wanted,
        "before": lambda wanted: known.sequence < wanted,
    }
    given_ = {name: getattr(filter, name) for name in checks}
    return all(value is None or checks[name](value) for name, value in given_.items())


def as_nanoseconds(moment: datetime | int) -> int:
    return moment if isinstance(moment, int) else int(moment.timestamp()) * SECOND


moments = st.one_of(
    st.integers(-220, RECORDS + 60).map(lambda n: START + n * SECOND),
    st.integers(-220, RECORDS + 60).map(lambda n: datetime.fromtimestamp(START // SECOND, UTC) + timedelta(seconds=n)),
)
sequences = st.integers(-2, RECORDS + 3)
patterns = st.lists(st.sampled_from([*TYPES, "user.*", "*.failure", "*", "*[*", "none"]), max_size=2)


@st.composite
def filters(draw: st.DrawFn, known: list[Known]) -> Filter:
    """Return a filter of few criteria: with many of them hardly anything matches."""
    conditions = st.sampled_from(["not-authorized", "x.y", "7", "true", "never"])
    where = st.fixed_dictionaries(
        {}, optional={"reason.condition": conditions, "message": st.sampled_from(MESSAGES), "user": st.just("alice")}
    )
    criteria: dict[str, st.SearchStrategy[Any]] = {
        "host": st.sampled_from([*HOSTS, "none"]),
        "user": st.sampled_from(["alice", "bob", "", "käthe*", "none"]),
        "host_wide": st.booleans(),
        "types": patterns,
        "sources": st.lists(st.sampled_from([*SOURCES, "*i*"]), max_size=2),
        "outcome": st.sampled_from(OUTCOMES),
        "session": st.sampled_from(["s1", "s3"]),
        "address": st.sampled_from(["10.0.0.1", "10.0.0.0/23", "2001:db8::/32", "not an address", "::1"]),
        "trace_id": st.sampled_from([TRACES[1], TRACES[2].upper(), "f" * 32]),
        "record_id": st.sampled_from([item.record_id for item in known]),
        "where": where,
        "grep": st.sampled_from(["ALICE came", "^user\\.", "xyzzy", "nothing"]),
        "since": moments,
        "until": moments,
        "after": sequences,
        "before": sequences,
    }
    names = draw(st.lists(st.sampled_from([*criteria, "host", "user", "since", "until"]), max_size=4, unique=True))
    return Filter(**{name: draw(criteria[name]) for name in names})


STATES = ["unfolded", "partly", "one slice short", "folded"]


@pytest.mark.parametrize("state", STATES)
def test_queries_return_what_the_model_returns(state: str, samples: dict[str, Sample]) -> None:
    """Any filter, limit and order give exactly the model's records in the model's order."""
    sample = samples[state]

    @settings(max_examples=250)
    @given(filters(sample.known), st.none() | st.integers(0, 60), st.booleans())
    def check(filter: Filter, limit: int | None, oldest_first: bool) -> None:
        expected = [item for item in sample.known if matches(item, filter)]
        expected = (expected if oldest_first else expected[::-1])[:limit]
        found = list(sample.archive.query(filter, limit=limit, oldest_first=oldest_first))
        assert [record.sequence for record in found] == [item.sequence for item in expected]
        for record, item in zip(found, expected, strict=True):
            assert (record.record_id, record.time, record.host, record.user, record.source, record.type) == (
                item.record_id, item.time, item.host, item.user, item.source, item.type,
            )  # fmt: skip
            assert (record.trace_id or "", record.message) == (item.trace, item.message)
        rows = list(sample.archive.rows(filter, limit=limit, oldest_first=oldest_first))
        assert [row.sequence for row in rows] == [item.sequence for item in expected]

    check()


@pytest.mark.parametrize("state", STATES)
def test_histograms_and_counts_are_the_models(state: str, samples: dict[str, Sample]) -> None:
    """Any edges and filter give the model's counts, over time and by each field."""
    sample = samples[state]
    fields: list[Literal["type", "user", "outcome", "source", "host", "address"]] = [
        "type", "user", "outcome", "source", "host", "address",
    ]  # fmt: skip
    edge = st.integers(START - 250 * SECOND, START + (RECORDS + 100) * SECOND)

    @settings(max_examples=120)
    @given(
        st.one_of(st.just(Filter()), filters(sample.known)),
        st.lists(edge, min_size=2, max_size=30, unique=True).map(sorted),
        st.sampled_from(fields),
        st.integers(1, 6),
    )
    def check(filter: Filter, edges: list[int], field: Any, limit: int) -> None:
        by_time = [0] * (len(edges) - 1)
        others = Filter(**{**vars_of(filter), "since": None, "until": None})
        for item in sample.known:
            bucket = bisect_right(edges, item.time) - 1
            if matches(item, others) and 0 <= bucket < len(by_time):
                by_time[bucket] += 1
        assert histogram(sample.archive, edges, filter) == by_time
        tally = Counter(getattr(item, field) for item in sample.known if matches(item, filter))
        ranked = sorted(tally.items(), key=lambda pair: (-pair[1], pair[0] is not None, pair[0] or ""))
        assert counts(sample.archive, field, filter, limit=limit) == ranked[:limit]

    check()


def vars_of(filter: Filter) -> dict[str, Any]:
    return {name: getattr(filter, name) for name in Filter.__dataclass_fields__}


@pytest.mark.parametrize("state", STATES)
def test_each_record_is_found_by_its_id(state: str, samples: dict[str, Sample]) -> None:
    """Every record is found by its id, in both notations and in upper case; an unknown one by none."""
    sample = samples[state]
    for item in sample.known:
        for text in (item.record_id, item.record_id.replace("-", "").upper()):
            assert [found.sequence for found in sample.archive.query(record_id=text)] == [item.sequence]
    assert list(sample.archive.query(record_id="0" * 32)) == []


def test_criteria_that_make_no_sense_are_refused() -> None:
    """A criterion that cannot be understood raises, rather than find nothing."""
    criteria: dict[str, Any]
    for criteria in (
        {"trace_id": "12"},
        {"record_id": "x"},
        {"grep": "("},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001 - the point
        {"types": "user.login.success"},
        {"sources": "web"},
    ):
        with pytest.raises(ConfigError):
            Filter(**criteria)
    with pytest.raises(TypeError):
        Filter(hots="example.com")  # type: ignore[call-arg]


def test_a_query_does_not_see_what_is_recorded_meanwhile(archive_path: Path) -> None:
    """A reader that goes through an archive while others write gets one state, complete and in order."""
    with provider_at(archive_path) as provider, open_archive(archive_path) as archive:
        log = provider.get_logger("q")
        stop = threading.Event()

        def work(user: str) -> None:
            while not stop.is_set():
                log.audit("user.login.success", user=user)

        threads = [threading.Thread(target=work, args=(f"u{number}",)) for number in range(2)]
        for number in range(300):
            log.audit("user.login.success", user=f"u{number % 2}")
        for thread in threads:
            thread.start()
        try:
            for _ in range(15):
                head = archive.status().sequence
                newest = [record.sequence for record in archive.query()]
                assert newest == list(range(len(newest), 0, -1))
                assert len(newest) >= head
                oldest = [record.sequence for record in archive.query(user="u0", oldest_first=True)]
                assert oldest == sorted(set(oldest), key=lambda sequence: sequence or 0)
                assert len(oldest) >= 150
        finally:
            stop.set()
            for thread in threads:
                thread.join()
