"""A real log database behind the Collector: Loki, with loki.yaml, gives the answers that the archive gives."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach

from otel_audit.archive.query import open_archive
from otel_audit.provider import AuditProvider
from tests.archive_material import provider_at, wait_until
from tests.loki import running_loki
from tests.otelcol import Otelcol, configuration

HOUR = 3_600 * 10**9


@pytest.fixture(scope="module")
def loki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Loki; return its address."""
    with running_loki(tmp_path_factory.mktemp("loki")) as address:
        yield address


@pytest.fixture
def collector(loki: str, tmp_path: Path) -> Iterator[Otelcol]:
    """Run the Collector with loki.yaml."""
    with Otelcol(tmp_path / "collector", configuration("loki"), variables={"AUDIT_LOKI": f"{loki}/otlp"}) as running:
        yield running


def found(loki: str, query: str, *, hours: int = 24) -> list[dict[str, str]]:
    """Return the labels and structured metadata of what Loki finds, with the line under `line`."""
    now = time.time_ns()
    asked = {"query": query, "start": now - hours * HOUR, "end": now + HOUR, "limit": 5_000}
    with urllib.request.urlopen(
        f"{loki}/loki/api/v1/query_range?{urllib.parse.urlencode(asked)}", timeout=20
    ) as answer:
        streams: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return [{**stream["stream"], "line": line} for stream in streams for _, line in stream["values"]]


def ids(records: list[dict[str, str]]) -> set[str]:
    return {record["audit_record_id"] for record in records}


def record_some(provider: AuditProvider, count: int) -> None:
    for number in range(count):
        span = trace.SpanContext(0xABC000 + number % 5, 0x1234, is_remote=False, trace_flags=trace.TraceFlags(1))
        token = attach(trace.set_span_in_context(trace.NonRecordingSpan(span), Context()))
        kind = "user.login.failure" if number % 3 else "data.exported"
        provider.get_logger("billing.api").audit(
            kind, user=f"user-{number % 7}", custom={"g": {"list": [1, {"a": b"x"}]}}
        )
        detach(token)


def test_the_same_answers(loki: str, collector: Otelcol, archive_path: Path) -> None:
    """By user, by trace and by type Loki finds the records that the archive finds, and it has their fields."""
    with provider_at(archive_path, endpoint=collector.http_endpoint, resource={"service.name": "same"}) as provider:
        record_some(provider, 300)
        provider.get_logger("billing.api").audit("user.logout", user="\x1b[2J|=`'\"{}")
        assert provider.force_flush(20)
    wait_until(lambda: len(found(loki, '{service_name="same"}')) >= 301)
    with open_archive(archive_path) as archive:
        for user in ("user-3", "user-6", "nobody", "\x1b[2J|=`'\"{}"):
            ours = {record.record_id for record in archive.query(user=user, limit=1_000)}
            assert ids(found(loki, f'{{service_name="same"}} | user_name={json.dumps(user)}')) == ours
        for number in range(5):
            trace_id = f"{0xABC000 + number:032x}"
            ours = {record.record_id for record in archive.query(trace_id=trace_id, limit=1_000)}
            assert len(ours) == 60
            assert ids(found(loki, f'{{service_name="same"}} | trace_id="{trace_id}"')) == ours
        ours = {record.record_id for record in archive.query(types=["data.exported"], limit=1_000)}
        assert ids(found(loki, '{service_name="same"} | event_name="data.exported"')) == ours
        stored = {record.record_id: record for record in archive.query(limit=1_000)}
    for record in found(loki, '{service_name="same"}'):
        expected = stored[record["audit_record_id"]]
        assert record["line"] == expected.message
        assert (record["event_name"], record["audit_outcome"]) == (expected.type, expected.outcome)
        assert (record["otel_audit_host"], record["audit_sequence_number"]) == ("example.com", str(expected.sequence))
        assert record["observed_timestamp"] == str(expected.observed)


def test_an_archive_that_catches_up(loki: str, collector: Otelcol, tmp_path: Path) -> None:
    """Records hours and weeks behind those of other producers are accepted: each archive has a stream of its own."""
    for name, age in (("now", 0), ("hours", 5), ("weeks", 600)):
        path = tmp_path / name / "audit.db"
        with provider_at(path, endpoint=collector.http_endpoint, resource={"service.name": "behind"}) as provider:
            provider.get_logger("tests").audit("any", user=name, timestamp=time.time_ns() - age * HOUR)
            assert provider.force_flush(20)
    wait_until(lambda: collector.metric("otelcol_exporter_sent_log_records") == 3)
    # Loki searches its memory for the last hours only: what is older is found once it is in the store.
    urllib.request.urlopen(urllib.request.Request(f"{loki}/flush", method="POST"), timeout=20).close()
    wait_until(lambda: len(found(loki, '{service_name="behind"}', hours=700)) == 3, 60)
    assert collector.metric("otelcol_exporter_send_failed_log_records") == 0


def test_what_loki_refuses(loki: str, collector: Otelcol, archive_path: Path) -> None:
    """A record hours behind the newest of its archive is refused by Loki; the Collector drops it, and says so."""
    with provider_at(archive_path, endpoint=collector.http_endpoint, resource={"service.name": "refused"}) as provider:
        log = provider.get_logger("tests")
        log.audit("any", user="newest")
        assert provider.force_flush(20)
        wait_until(lambda: len(found(loki, '{service_name="refused"}')) == 1)
        log.audit("any", user="late", timestamp=time.time_ns() - 3 * HOUR)
        assert provider.force_flush(20)
        wait_until(lambda: collector.metric("otelcol_exporter_send_failed_log_records") == 1)
    assert "entry too far behind" in collector.log
    assert len(found(loki, '{service_name="refused"}')) == 1
    with open_archive(archive_path) as archive:
        assert len(list(archive.query(user="late"))) == 1
