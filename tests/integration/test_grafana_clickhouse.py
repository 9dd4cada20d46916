"""Every query of the ClickHouse dashboard and of its alert rules, on ClickHouse's own engine, against the archive."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from otel_audit.archive.filters import Filter
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.stats import counts, histogram
from otel_audit.cli.audited import audited
from otel_audit.record import AuditRecord, Session
from tests.archive_material import provider_at
from tests.clickhouse_material import LAYOUTS, exported_rows, insert, make_table
from tests.grafana import (
    FAILURES,
    HOSTS,
    address_of,
    attempts,
    dashboard,
    interpolated,
    panels,
    record_logins,
    rules,
    totals,
    with_macros,
)

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
STEP = 7 * SECOND + 123_456_789
UNTIL = START + 3_600 * SECOND
ALL = {"host": "*", "user": "", "address": ""}


class Sample(NamedTuple):
    """An archive, and the table of one layout with its records, a third of them twice."""

    archive: Archive
    client: Client

    def rows(self, sql: str, since: int = START, until: int = UNTIL) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(with_macros(sql, since, until)).result_rows]

    def panel(self, title: str, **variables: str) -> list[tuple[Any, ...]]:
        (query,) = panels("clickhouse")[title].queries
        return self.rows(interpolated(query["rawSql"], **ALL | variables))

    def records(self, keep: Callable[[AuditRecord], bool] = lambda _: True, **criteria: Any) -> list[AuditRecord]:
        found = self.archive.query(since=START, until=UNTIL, **criteria)
        return [record for record in found if keep(record)]


@pytest.fixture(scope="module", params=LAYOUTS)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    path = tmp_path_factory.mktemp("grafana") / "audit.db"
    with provider_at(path, resource={"service.name": "shop"}) as provider:
        record_logins(provider, count(START, STEP))
        # Out of the time that is asked for.
        for moment in (START - SECOND, UNTIL + SECOND):
            provider.get_logger("shop.web").audit(FAILURES[0], user="early or late", timestamp=moment)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.delenv("OTEL_AUDIT_READS", raising=False)
        audited(path, "show", user="alice")
        engine = tmp_path_factory.mktemp("engine")
        client = stack.enter_context(clickhouse_connect.get_client(interface="chdb", path=str(engine)))
        make_table(client, "otel_logs", request.param)
        rows = list(exported_rows(path))
        other: list[Any] = [START, "", "", 0, "", 9, "x", "alice", "", {}, "", "", "", {}, {"user.name": "alice"}, ""]
        insert(client, "otel_logs", [*rows, other])
        insert(client, "otel_logs", rows[::3])
        yield Sample(stack.enter_context(open_archive(path)), client)


def test_numbers_at_the_top(sample: Sample) -> None:
    """The first panel counts records, failed logins, and the users and addresses that have them."""
    failures = sample.records(types=FAILURES)
    assert sample.panel("In this time") == [(
        len(sample.records()),
        sum(map(attempts, failures)),
        len({record.user for record in failures} - {None}),
        len({address_of(record) for record in failures} - {None}),
    )]  # fmt: skip
    assert sum(map(attempts, failures)) == len(failures) + 40


def test_logins_over_time(sample: Sample) -> None:
    """Each minute has the archive's failed and successful logins."""
    found = sample.panel("Logins over time")
    edges = [int(moment.timestamp()) * SECOND for moment, _, _ in found]
    assert len(edges) > 20
    for outcome, column in (("failure", 1), ("success", 2)):
        per_minute = totals(
            sample.records(types=[*FAILURES, "user.login.success"], outcome=outcome), lambda r: r.time // (60 * SECOND)
        )
        assert {edge // (60 * SECOND): row[column] for edge, row in zip(edges, found, strict=True) if row[column]} == (
            per_minute
        )


@pytest.mark.parametrize(("title", "mine", "other"), [
    ("Failed logins by user", lambda r: r.user, address_of),
    ("Failed logins by address", address_of, lambda r: r.user),
])  # fmt: skip
def test_failed_logins_by(title: str, mine: Callable[..., Any], other: Callable[..., Any], sample: Sample) -> None:
    """Each user, or address, has its failed logins, and from how many addresses, or of how many users, they came."""
    failures = sample.records(types=FAILURES)
    seen: dict[Any, set[Any]] = defaultdict(set)
    for record in failures:
        seen[mine(record)].add(other(record))
    found = sample.panel(title)
    assert {row[0]: row[1] for row in found} == totals(failures, mine)
    assert {row[0]: row[2] for row in found} == {key: len(values - {None}) for key, values in seen.items()}
    assert [row[1] for row in found] == sorted((row[1] for row in found), reverse=True)


def test_records_by_type(sample: Sample) -> None:
    """Types have the numbers of `otel-audit stats`, in all, and minute by minute."""
    expected = counts(sample.archive, "type", Filter(since=START, until=UNTIL), limit=100)
    assert [row[:2] for row in sample.panel("Records by type")] == expected
    found = sample.panel("Records by type, over time")
    for moment, name, number in found:
        start = int(moment.timestamp()) * SECOND
        edges = [max(start, START), start + 60 * SECOND]
        assert histogram(sample.archive, edges, Filter(types=[name])) == [number]
    assert sum(number for _, _, number in found) == sum(number for _, number in expected)


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_chosen(host: str, sample: Sample) -> None:
    """The panels then count the records of that host alone, whatever its name does to a query that quotes it badly."""
    wanted = Filter(host=host, since=START, until=UNTIL)
    assert dict(row[:2] for row in sample.panel("Records by type", host=host)) == dict(
        counts(sample.archive, "type", wanted, limit=100)
    )
    failures = sample.records(host=host, types=FAILURES)
    assert {row[0]: row[1] for row in sample.panel("Failed logins by user", host=host)} == totals(
        failures, lambda r: r.user
    )
    assert failures


def test_the_hosts_to_choose_from(sample: Sample) -> None:
    """Every host can be chosen, and the archive's own is none of them; for all stands what no host is called."""
    (variable,) = (one for one in dashboard("clickhouse")["templating"]["list"] if one["name"] == "host")
    assert {row[0] for row in sample.rows(variable["query"]["rawSql"])} == set(HOSTS)
    assert variable["allValue"] == "*"


def test_records_of_a_user_and_an_address(sample: Sample) -> None:
    """The list has the records of exactly the chosen user and address, the newest first, each once, field by field."""
    users = {record.user for record in sample.records()} - {None, ""}
    addresses = {address_of(record) for record in sample.records()} - {None}
    for user in users:
        expected = sample.records(user=user)
        shown = sample.panel("Records", user=user or "")
        assert [row[9] for row in shown] == [record.record_id for record in expected][:200]
        for row, record in zip(shown, expected, strict=False):
            source, message = record.source, record.message
            assert row[1:4] == (record.host, record.type, record.outcome)
            assert row[4:9] == (record.user, address_of(record) or "", message, source, record.trace_id or "")
    for address in addresses:
        found = sample.panel("Records", address=address or "")
        assert {row[9] for row in found} == {r.record_id for r in sample.records() if address_of(r) == address}
    assert len(users) > 10
    assert len(sample.panel("Records")) == 200


def test_archives(sample: Sample) -> None:
    """An archive shows how many records arrived, how many came twice, and how many numbers between them did not."""
    inside = [record.sequence or 0 for record in sample.records()]
    ((archive, service, records, missing, doubled, _last),) = sample.panel("Archives")
    assert (archive, service) == (sample.archive.id, "shop")
    assert (records, missing) == (len(inside), max(inside) - min(inside) + 1 - len(inside))
    copies = len([sequence for sequence in inside if sequence % 3 == 1])
    assert (missing, doubled) == (0, copies)
    query = panels("clickhouse")["Archives"].queries[0]["rawSql"].replace("otel_logs", "lossy")
    lost = "toUInt64OrZero(LogAttributes['audit.sequence.number']) IN (5, 6, 90)"
    sample.client.command(f"CREATE OR REPLACE TABLE lossy ENGINE = Memory AS SELECT * FROM otel_logs WHERE NOT {lost}")
    assert sample.rows(query)[0][2:4] == (records - 3, 3)


def test_what_was_done_with_the_archives(sample: Sample) -> None:
    """The archives' own records are listed apart from the events."""
    (query,) = panels("clickhouse")["What was done with the archives"].queries
    expected = list(sample.archive.query(admin=True))
    found = sample.rows(query["rawSql"], START, expected[0].time + SECOND)
    assert [(row[1], row[2]) for row in found] == [(record.type, record.actor.id) for record in expected]
    assert "show" in {row[4] for row in found}


def alerts(sample: Sample, name: str, now: int) -> dict[str, int]:
    """Return the value of each alert of a rule at a time."""
    (rule,) = (one for one in rules("clickhouse") if one["uid"] == f"audit-clickhouse-{name}")
    query = rule["data"][0]
    reach = query["relativeTimeRange"]
    rows = sample.rows(query["model"]["rawSql"], now - reach["from"] * SECOND, now - reach["to"] * SECOND)
    return {label: int(value) for label, value in rows}


def test_alert_rules_give_the_archives_numbers(sample: Sample) -> None:
    """Each rule about logins has, for each host, the worst of its users or addresses in ten minutes."""
    now = START + 1_800 * SECOND
    recent = [r for r in sample.records(types=FAILURES) if now - 600 * SECOND <= r.time <= now]
    tried = {
        (record.host, address_of(record)): {r.user or "" for r in recent if
            (r.host, address_of(r)) == (record.host, address_of(record))} for record in recent
    }  # fmt: skip
    expected: dict[str, Counter[str]] = {name: Counter() for name in ("guessing", "address", "spraying", "failures")}
    for (host, user), number in totals(recent, lambda r: (r.host, r.user)).items():
        if user:
            expected["guessing"][host] = max(expected["guessing"][host], number)
        expected["failures"][host] += number
    for (host, address), number in totals(recent, lambda r: (r.host, address_of(r))).items():
        if address:
            expected["address"][host] = max(expected["address"][host], number)
            expected["spraying"][host] = max(expected["spraying"][host], len(tried[host, address]))
    for name, values in expected.items():
        assert values
        assert alerts(sample, name, now) == values


def test_an_attack_raises_the_alarms(sample: Sample, tmp_path: Path) -> None:
    """Guessing for one user, one busy address and a list of users each raise their rule; their host is all it says."""
    path, now = tmp_path / "attack.db", START + 10**6 * SECOND
    with provider_at(path) as provider:
        moments = count(now - 500 * SECOND, SECOND)
        for number in range(21):
            session = Session("s", "http", f"10.1.0.{number}")
            log = provider.get_logger("web", host="guessed", session=session)
            log.audit(FAILURES[0], user="alice", timestamp=next(moments))
        for number in range(21):
            log = provider.get_logger("web", host="sprayed", session=Session("s", "http", "10.2.0.1"))
            log.audit(FAILURES[1], user=f"user-{number}", custom={"repeat": {"count": 5}}, timestamp=next(moments))
    insert(sample.client, "otel_logs", exported_rows(path))
    raised = {
        (rule["uid"].rpartition("-")[2], host)
        for rule in rules("clickhouse")
        for host, value in alerts(sample, rule["uid"].rpartition("-")[2], now).items()
        if value > rule["data"][1]["model"]["conditions"][0]["evaluator"]["params"][0]
    }
    assert raised == {("guessing", "guessed"), ("spraying", "sprayed"), ("address", "sprayed")}


def test_missing_records_raise_an_alarm(sample: Sample, tmp_path: Path) -> None:
    """An archive of whose records some did not arrive within an hour raises a rule; what is younger does not count."""
    path, now = tmp_path / "gaps.db", START + 3 * 10**6 * SECOND
    with provider_at(path) as provider:
        log = provider.get_logger("web")
        for number in range(40):
            log.audit("any", timestamp=now - 3_800 * SECOND + number * 10 * SECOND)
    rows = list(exported_rows(path))
    # Of the 40 records 21 are older than an hour; of those one is away, and of the others some are.
    insert(sample.client, "otel_logs", [*rows[:7], *rows[8:25], *rows[30:]])
    with open_archive(path) as archive:
        assert alerts(sample, "missing", now) == {archive.id: 1}
