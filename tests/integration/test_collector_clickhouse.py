"""ClickHouse's own engine behind the Collector: what its exporter makes and inserts is what fleets are asked about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import otel_audit
from otel_audit import Session
from otel_audit.archive.against import compare_held
from otel_audit.archive.query import open_archive
from otel_audit.reconcile.backends import open_backend
from tests.archive_material import provider_at, wait_until
from tests.clickhouse_server import Server, serve
from tests.otelcol import Otelcol, configuration, free_ports

USER, PASSWORD = "shop", "s3cret/#"
VALUES: list[Any] = [
    1, 2**62, -(2**63), 1.0, -0.0, 1e-7, 1e21, True, None, "", "é\u2028<&>\x1b[2J'\\", b"\0\xff", ["a", 1, True], [],
    [b"x", None], {"b": {"c": 1.5}}, "1.0",
]  # fmt: skip
RECORDS = 20 * len(VALUES)


def collector_of(folder: Path, port: int) -> Otelcol:
    """Return the Collector with clickhouse.yaml, over HTTP, which the test's server speaks."""
    variables = {
        "AUDIT_CLICKHOUSE": f"http://127.0.0.1:{port}?compress=none", "AUDIT_CLICKHOUSE_USER": USER,
        "AUDIT_CLICKHOUSE_PASSWORD": PASSWORD,
    }  # fmt: skip
    return Otelcol(folder / "collector", configuration("clickhouse"), variables=variables)


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[Server]:
    """Run the engine with nothing in it."""
    with serve(tmp_path / "engine", USER, PASSWORD) as running:
        yield running


def url_of(port: int) -> str:
    return f"clickhouse://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/otel"


def record_all(path: Path, endpoint: str, protocol: str = "http/protobuf") -> None:
    with provider_at(path, endpoint=endpoint, protocol=protocol, resource={"service.name": "shop"}) as provider:
        log = provider.get_logger("billing.api")
        for number in range(RECORDS):
            log.audit(
                "user.login.failure" if number % 3 else "data.exported",
                user=f"user-{number % 7}",
                session=Session(f"s{number}", "http", "2001:db8::7", "a'gent"),
                custom={"g": {"v": VALUES[number % len(VALUES)]}},
            )
        assert provider.force_flush(30)


def arrived(path: Path, port: int) -> bool:
    with open_archive(path) as archive:
        read = open_backend(url_of(port))
        between = (-(2**63), 2**63 - 1)
        found = compare_held(archive, lambda: read(archive.id, *between, lambda _done, _all: None), keep=10)
    assert not [fault for fault in found.faults if fault.code != "export-missing"]
    return found.matching == RECORDS and not found.missing


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_what_the_exporter_inserts(protocol: str, clickhouse: Server, archive_path: Path, tmp_path: Path) -> None:
    """Records of every value type are the archive's after the exporter, and questions have the same answers."""
    port = clickhouse.server_address[1]
    with collector_of(tmp_path, int(port)) as collector:
        record_all(archive_path, collector.endpoint(protocol), protocol)
        wait_until(lambda: arrived(archive_path, int(port)), 60)
        assert collector.metric("otelcol_exporter_send_failed_log_records") == 0
    with open_archive(archive_path) as archive, otel_audit.open_archive(url_of(int(port))) as fleet:
        for criteria in ({"user": "user-3"}, {"types": ["data.exported"]}, {"outcome": "failure"}, {"user": "nobody"}):
            ours = [record.record_id for record in archive.query(**criteria, limit=1_000)]
            theirs = [record.record_id for record in fleet.query(**criteria, limit=1_000)]
            assert sorted(theirs) == sorted(ours)
            assert bool(ours) == ("nobody" not in criteria.values())


def test_an_outage(archive_path: Path, tmp_path: Path) -> None:
    """While ClickHouse is away records wait in the Collector's queue, also through its death; then all are there."""
    (port,) = free_ports(1)
    collector = collector_of(tmp_path, port)
    with serve(tmp_path / "engine", USER, PASSWORD, port):
        collector.start()
    try:
        record_all(archive_path, collector.http_endpoint)
        with serve(tmp_path / "engine", USER, PASSWORD, port):
            wait_until(lambda: arrived(archive_path, port), 60)
    finally:
        collector.stop()
