"""Every query of the Loki dashboard and of its alert rules, on Loki behind the Collector, against the archive."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.stats import counts
from otel_audit.cli.audited import audited
from otel_audit.delivery.outbox import resend
from otel_audit.record import AuditRecord, Session
from tests.archive_material import provider_at, wait_until
from tests.grafana import FAILURES, HOSTS, address_of, attempts, interpolated, panels, record_logins, rules, totals
from tests.loki import running_loki
from tests.otelcol import Otelcol, configuration

SECOND = 1_000_000_000
REACH = 3_600
"""The dashboard's time range, in seconds."""
STEP = 60
"""What a panel takes for one point, in seconds."""
ALL = {"host": "", "user": "", "address": ""}
Labels = frozenset[tuple[str, str]]


class Sample(NamedTuple):
    """An archive, a Loki that has its records, and the end of the time that is asked for, nanoseconds."""

    archive: Archive
    loki: str
    now: int

    def instant(self, query: str, now: int | None = None) -> dict[Labels, float]:
        """Return the numbers that an instant query gives, by their labels."""
        asked = {"query": query, "time": self.now if now is None else now, "limit": 5_000}
        answer = fetch(f"{self.loki}/loki/api/v1/query", asked)
        assert answer["resultType"] == "vector"
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in answer["result"]}

    def panel(self, title: str, number: int = 0, **variables: str) -> dict[str, float]:
        """Return the numbers of a panel by their only label, or by the empty text."""
        query = panels("loki")[title].queries[number]
        assert query["queryType"] == "instant"
        text = interpolated(query["expr"], **ALL | variables).replace("$__range", f"{REACH}s")
        return {next((value for _, value in labels), ""): found for labels, found in self.instant(text).items()}

    def over_time(self, title: str) -> dict[str, dict[int, int]]:
        """Return the numbers of a panel by label and by the end of each step, seconds."""
        (query,) = panels("loki")[title].queries
        text = interpolated(query["expr"], **ALL).replace("$__auto", f"{STEP}s")
        end = self.now // SECOND // STEP * STEP + STEP
        asked = {"query": text, "start": end - REACH - STEP, "end": end, "step": STEP}
        answer = fetch(f"{self.loki}/loki/api/v1/query_range", asked)
        return {
            next(iter(one["metric"].values()), ""): {int(at): int(value) for at, value in one["values"]}
            for one in answer["result"]
        }

    def logs(self, title: str, **variables: str) -> list[dict[str, str]]:
        """Return labels and metadata of what a panel of records shows, the newest first."""
        (query,) = panels("loki")[title].queries
        text = interpolated(query["expr"], **ALL | variables)
        asked = {"query": text, "start": self.now - REACH * SECOND, "end": self.now + 1, "limit": 1_000}
        answer = fetch(f"{self.loki}/loki/api/v1/query_range", asked)
        return [{**one["stream"], "line": line} for one in answer["result"] for _, line in one["values"]]

    def records(self, **criteria: Any) -> list[AuditRecord]:
        """Return the archive's records."""
        return list(self.archive.query(**criteria))


def fetch(url: str, asked: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(asked)}", timeout=30) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
    return data


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Otelcol]]:
    """Run Loki, and the Collector with loki.yaml."""
    folder = tmp_path_factory.mktemp("grafana")
    with (
        running_loki(folder) as loki,
        Otelcol(folder / "collector", configuration("loki"), variables={"AUDIT_LOKI": f"{loki}/otlp"}) as collector,
    ):
        yield loki, collector


def held(loki: str, archive: str, now: int, hours: int = 2) -> int:
    """Return how many records of an archive Loki has."""
    query = f'sum(count_over_time({{audit_sequence_stream_id="{archive}"}} [{hours}h]))'
    (one,) = fetch(f"{loki}/loki/api/v1/query", {"query": query, "time": now})["result"] or [{"value": (0, "0")}]
    return int(one["value"][1])


@pytest.fixture(scope="module")
def sample(backend: tuple[str, Otelcol], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    loki, collector = backend
    path = tmp_path_factory.mktemp("archive") / "audit.db"
    start = time.time_ns() - 1_800 * SECOND
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OTEL_AUDIT_READS", raising=False)
        with provider_at(path, endpoint=collector.http_endpoint, resource={"service.name": "shop"}) as provider:
            record_logins(provider, count(start, 7 * SECOND + 123_456_789))
            audited(path, "show", user="alice")
            assert provider.force_flush(30)
    with open_archive(path) as archive:
        now = time.time_ns() + SECOND
        wait_until(lambda: held(loki, archive.id, now) == archive.status().sequence)
        yield Sample(archive, loki, now)


def user_or_empty(record: AuditRecord) -> str:
    # Loki has no difference between what is empty and what is not there.
    return record.user or ""


def address_or_empty(record: AuditRecord) -> str:
    return address_of(record) or ""


def test_numbers_at_the_top(sample: Sample) -> None:
    """The first panel counts records, failed logins, and the users and addresses that have them."""
    failures = sample.records(types=FAILURES)
    expected = [
        len(sample.records()),
        sum(map(attempts, failures)),
        len({record.user or "" for record in failures}),
        len({address_of(record) for record in failures}),
    ]
    assert [sample.panel("In this time", number) for number in range(4)] == [{"": number} for number in expected]
    assert expected[1] == len(failures) + 40


def test_logins_over_time(sample: Sample) -> None:
    """Each minute has the archive's failed and successful logins."""
    found = sample.over_time("Logins over time")
    for outcome in ("failure", "success"):
        logins = sample.records(types=[*FAILURES, "user.login.success"], outcome=outcome)
        per_minute: Counter[int] = Counter()
        for record in logins:
            # A step has what is after the one before, and not after its own moment.
            per_minute[-(-record.time // (STEP * SECOND)) * STEP] += attempts(record)
        assert found[outcome] == per_minute
    assert set(found) == {"failure", "success"}


@pytest.mark.parametrize("host", ["", *HOSTS])
def test_failed_logins(host: str, sample: Sample) -> None:
    """Users and addresses have their failed logins, of all hosts or of one, whatever its name does to a query."""
    failures = sample.records(types=FAILURES, **({"host": host} if host else {}))
    assert failures
    by_user, by_address = totals(failures, user_or_empty), totals(failures, address_or_empty)
    assert sample.panel("Failed logins by user", host=host) == by_user
    assert sample.panel("Failed logins by address", host=host) == by_address
    tried = {address: {r.user for r in failures if (address_of(r) or "") == address} for address in by_address}
    assert sample.panel("Users that one address tried", host=host) == {
        address: len(users) for address, users in tried.items()
    }


def test_records_by_type(sample: Sample) -> None:
    """Types have the numbers of `otel-audit stats`, in all, and over time."""
    expected = {name or "": number for name, number in counts(sample.archive, "type", Filter(), limit=100)}
    assert sample.panel("Records by type") == expected
    found = sample.over_time("Records by type, over time")
    assert {name: sum(values.values()) for name, values in found.items()} == expected


def test_records_of_a_user_and_an_address(sample: Sample) -> None:
    """The list has the records of exactly the chosen host, user and address, with their fields."""
    stored = {record.record_id: record for record in sample.records()}
    users = {record.user for record in stored.values()} - {None, ""}
    for user in users:
        shown = sample.logs("Records", user=user or "")
        assert {one["audit_record_id"] for one in shown} == {r.record_id for r in stored.values() if r.user == user}
    for address in {address_of(record) for record in stored.values()} - {None}:
        shown = sample.logs("Records", address=address or "")
        expected = {r.record_id for r in stored.values() if address_of(r) == address}
        assert {one["audit_record_id"] for one in shown} == expected
    everything = sample.logs("Records")
    assert {one["audit_record_id"] for one in everything} == set(stored)
    for one in everything:
        record = stored[one["audit_record_id"]]
        shown_as = (one["line"], one["event_name"], one["otel_audit_host"], one.get("user_name"))
        assert shown_as == (record.message, record.type, record.host, record.user or None)


def test_what_was_done_with_the_archives(sample: Sample) -> None:
    """The archives' own records are listed apart from the events."""
    shown = sample.logs("What was done with the archives")
    own = sample.records(admin=True)
    assert {one["audit_record_id"] for one in shown} == {record.record_id for record in own}
    assert "audit.read" in {one["event_name"] for one in shown}


def alerts(sample: Sample, name: str, now: int) -> dict[str, int]:
    """Return the value of each alert of a rule at a time."""
    (rule,) = (one for one in rules("loki") if one["uid"] == f"audit-loki-{name}")
    found = sample.instant(rule["data"][0]["model"]["expr"], now)
    return {dict(labels).popitem()[1]: int(value) for labels, value in found.items()}


def test_alert_rules_give_the_archives_numbers(sample: Sample) -> None:
    """Each rule about logins has, for each host, the worst of its users or addresses in ten minutes."""
    now = sample.now - 900 * SECOND
    recent = [r for r in sample.records(types=FAILURES) if now - 600 * SECOND < r.time <= now]
    for host in {record.host for record in recent}:
        of_host = [record for record in recent if record.host == host]
        by_user, by_address = totals(of_host, user_or_empty), totals(of_host, address_or_empty)
        tried = {a: {r.user or "" for r in of_host if (address_of(r) or "") == a} for a in by_address if a}
        assert alerts(sample, "guessing", now)[host] == max(n for user, n in by_user.items() if user)
        assert alerts(sample, "address", now)[host] == max(n for address, n in by_address.items() if address)
        assert alerts(sample, "spraying", now)[host] == max(map(len, tried.values()))
        assert alerts(sample, "failures", now)[host] == sum(by_user.values())
    assert len(recent) > 20


def test_missing_records(sample: Sample, backend: tuple[str, Otelcol], tmp_path: Path) -> None:
    """What Loki refused shows as missing from its archive, and raises a rule when it is older than an hour."""
    assert sample.panel("Records missing, by archive")[sample.archive.id] == 0
    now = time.time_ns()
    for name, age in (("recent", 600), ("older", 7_200)):
        path = tmp_path / name / "audit.db"
        with provider_at(path, endpoint=backend[1].http_endpoint) as provider:
            # More than an hour behind the newest of its archive is refused, and dropped by the Collector.
            for behind in (0, 5 * 3_600, -60, -120):
                provider.get_logger("web").audit("any", timestamp=now - (age + behind) * SECOND)
                assert provider.force_flush(30)
        with open_archive(path) as archive:
            stream = archive.id
        wait_until(lambda stream=stream: held(sample.loki, stream, now, hours=3) == 3)  # type: ignore[misc]
        later = sample._replace(now=now)
        assert later.panel("Records missing, by archive").get(stream) == (1 if name == "recent" else None)
        assert alerts(sample, "missing", now).get(stream) == (1 if name == "older" else None)


def test_copies_count_once(sample: Sample, backend: tuple[str, Otelcol], tmp_path: Path) -> None:
    """What is delivered twice counts once; two records that differ in nothing but their ids count as two."""
    path, now = tmp_path / "audit.db", time.time_ns()
    with provider_at(path, endpoint=backend[1].http_endpoint) as provider:
        for _ in range(2):
            provider.get_logger("web", host="twice").audit(FAILURES[0], user="alice", timestamp=now - SECOND)
        assert provider.force_flush(30)
    assert resend(path, "otlp", [1, 2], "again") == 2
    before = backend[1].metric("otelcol_exporter_sent_log_records")
    with provider_at(path, endpoint=backend[1].http_endpoint) as provider:
        assert provider.force_flush(30)
    wait_until(lambda: backend[1].metric("otelcol_exporter_sent_log_records") >= before + 2)
    later = sample._replace(now=now)
    assert later.panel("Failed logins by user", host="twice") == {"alice": 2}
    assert later.panel("Records by type", host="twice") == {FAILURES[0]: 2}


def test_any_number_of_users_and_addresses(sample: Sample, backend: tuple[str, Otelcol], tmp_path: Path) -> None:
    """Thousands of users and addresses, more than Loki gives in one answer, silence no panel and no alarm."""
    path, now = tmp_path / "audit.db", sample.now + 1
    with provider_at(path, endpoint=backend[1].http_endpoint, durability="queued") as provider:
        for number in range(2_000):
            session = Session("s", "http", f"10.{number // 250}.{number % 250}.1" if number % 4 else "10.0.0.99")
            log = provider.get_logger("web", host="attacked", session=session)
            log.audit(FAILURES[0], user=f"user-{number}", timestamp=now - 300 * SECOND + number)
        assert provider.force_flush(30)
    with open_archive(path) as archive:
        wait_until(lambda: held(sample.loki, archive.id, now) == archive.status().sequence)
    assert sample.panel("Failed logins by address", host="attacked")["10.0.0.99"] == 500
    assert len(sample.panel("Failed logins by user", host="attacked")) == 20
    assert sample.panel("In this time", 2, host="attacked") == {"": 2_000}
    raised = {
        (rule["uid"].rpartition("-")[2], host): value
        for rule in rules("loki")
        for host, value in alerts(sample, rule["uid"].rpartition("-")[2], now).items()
        if host == "attacked" and value > rule["data"][1]["model"]["conditions"][0]["evaluator"]["params"][0]
    }
    assert raised == {
        ("address", "attacked"): 500, ("spraying", "attacked"): 500, ("failures", "attacked"): 2_000
    }  # fmt: skip
