"""A real log database behind the Collector: VictoriaLogs, with victorialogs.yaml, gives the archive's answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach

from otel_audit.archive.against import compare_held
from otel_audit.archive.query import open_archive
from otel_audit.provider import AuditProvider
from otel_audit.reconcile.backends import open_backend
from tests.archive_material import provider_at, wait_until
from tests.otelcol import Otelcol, configuration
from tests.victorialogs import found, victoria_logs

HOUR = 3_600 * 10**9
HOSTILE = "\x1b[2J|=`'\"{}\\"


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run VictoriaLogs as it comes, with its seven days; return host and port."""
    with victoria_logs(tmp_path_factory.mktemp("victoria"), retention="7d") as address:
        yield address


@pytest.fixture
def collector(victoria: str, tmp_path: Path) -> Iterator[Otelcol]:
    """Run the Collector with victorialogs.yaml."""
    variables = {"AUDIT_VICTORIALOGS": f"http://{victoria}"}
    with Otelcol(tmp_path / "collector", configuration("victorialogs"), variables=variables) as running:
        yield running


def ids(records: list[dict[str, str]]) -> set[str]:
    return {record["audit.record.id"] for record in records}


def record_some(provider: AuditProvider, count: int) -> None:
    for number in range(count):
        span = trace.SpanContext(0xABC000 + number % 5, 0x1234, is_remote=False, trace_flags=trace.TraceFlags(1))
        token = attach(trace.set_span_in_context(trace.NonRecordingSpan(span), Context()))
        kind = "user.login.failure" if number % 3 else "data.exported"
        provider.get_logger("billing.api").audit(
            kind, user=f"user-{number % 7}", custom={"g": {"number": number, "list": ["a", 1]}}
        )
        detach(token)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_same_answers(protocol: str, victoria: str, collector: Otelcol, archive_path: Path) -> None:
    """By user, by trace and by type VictoriaLogs finds the records that the archive finds, with their fields."""
    service = f"same-{protocol.partition('/')[0]}"
    settings = {"endpoint": collector.endpoint(protocol), "protocol": protocol, "resource": {"service.name": service}}
    with provider_at(archive_path, **settings) as provider:
        record_some(provider, 300)
        provider.get_logger("billing.api").audit("user.logout", user=HOSTILE)
        assert provider.force_flush(20)
    stream = f'{{service.name="{service}"}}'
    wait_until(lambda: len(found(victoria, stream)) >= 301)
    with open_archive(archive_path) as archive:
        for user in ("user-3", "user-6", "nobody", HOSTILE):
            ours = {record.record_id for record in archive.query(user=user, limit=1_000)}
            assert ids(found(victoria, f'{stream} "user.name":={json.dumps(user)}')) == ours
        for number in range(5):
            trace_id = f"{0xABC000 + number:032x}"
            ours = {record.record_id for record in archive.query(trace_id=trace_id, limit=1_000)}
            assert len(ours) == 60
            assert ids(found(victoria, f'{stream} trace_id:="{trace_id}"')) == ours
        ours = {record.record_id for record in archive.query(types=["data.exported"], limit=1_000)}
        assert ids(found(victoria, f'{stream} event_name:="data.exported"')) == ours
        stored = {record.record_id: record for record in archive.query(limit=1_000)}
        read = open_backend(f"victorialogs://{victoria}")
        everything = (-(2**63), 2**63 - 1)
        compared = compare_held(archive, lambda: read(archive.id, *everything, lambda _done, _all: None), keep=10)
        assert (compared.matching, compared.faults) == (301, ())
    for record in found(victoria, stream):
        expected = stored[record["audit.record.id"]]
        assert record["_msg"] == expected.message
        assert (record["event_name"], record["audit.outcome"]) == (expected.type, expected.outcome)
        assert (record["otel_audit.host"], record["audit.sequence.number"]) == ("example.com", str(expected.sequence))


def test_what_is_too_old(victoria: str, collector: Otelcol, tmp_path: Path) -> None:
    """What is older than VictoriaLogs' retention is left out there, and nobody says so; the archive has it."""
    resource = {"service.name": "behind"}
    for name, age in (("now", 0), ("days", 5 * 24), ("weeks", 600)):
        path = tmp_path / name / "audit.db"
        with provider_at(path, endpoint=collector.http_endpoint, resource=resource) as provider:
            provider.get_logger("tests").audit("any", user=name, timestamp=time.time_ns() - age * HOUR)
            assert provider.force_flush(20)
    wait_until(lambda: collector.metric("otelcol_exporter_sent_log_records") == 3)
    wait_until(lambda: len(found(victoria, '{service.name="behind"}')) == 2)
    assert collector.metric("otelcol_exporter_send_failed_log_records") == 0
    users = {record["user.name"] for record in found(victoria, '{service.name="behind"}')}
    assert users == {"now", "days"}


def test_an_outage(archive_path: Path, tmp_path: Path) -> None:
    """While VictoriaLogs is away the Collector's queue holds the records; once it is back, all of them are there."""
    folder = tmp_path / "victoria"
    with victoria_logs(folder) as address:
        pass
    collector = Otelcol(
        tmp_path / "collector", configuration("victorialogs"), variables={"AUDIT_VICTORIALOGS": f"http://{address}"}
    )
    with collector, provider_at(archive_path, endpoint=collector.http_endpoint) as provider:
        record_some(provider, 100)
        assert provider.force_flush(20)
        collector.kill()
        collector.start()
        with victoria_logs(folder, address=address):
            wait_until(lambda: len(ids(found(address, "*"))) == 100, 60)
