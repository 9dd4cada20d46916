"""The files of `collector-config`: the Collector accepts them, starts with them, and queues while a backend is away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.archive_material import provider_at, wait_until
from tests.otelcol import CONFIGURATIONS, Otelcol, configuration, free_ports
from tests.otlp_material import Authority

FILES = sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml") if path.stem != "builder")
QUEUEING = {
    "durable": "AUDIT_UPSTREAM",
    "kafka": "AUDIT_KAFKA",
    "loki": "AUDIT_LOKI",
    "tls-mtls": "AUDIT_UPSTREAM",
    "victorialogs": "AUDIT_VICTORIALOGS",
}
RENAMED = re.compile(r"^  (otlphttp|otlp|logging|batch|memory_limiter)(/\w+)?:$", re.MULTILINE)


def certificates(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of the Collector that tls-mtls.yaml reads, and those of a producer."""
    authority = Authority(folder)
    server, client = authority.issue("server"), authority.issue("client")
    collector = {
        "AUDIT_TLS_CERT": server.certificate, "AUDIT_TLS_KEY": server.key, "AUDIT_TLS_CLIENT_CA": authority.certificate,
        "AUDIT_UPSTREAM_CA": authority.certificate, "AUDIT_UPSTREAM_CERT": client.certificate,
        "AUDIT_UPSTREAM_KEY": client.key,
    }  # fmt: skip
    producer = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": authority.certificate,
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": client.certificate,
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": client.key,
    }
    return collector, producer


@pytest.mark.parametrize("name", FILES)
def test_the_collector_accepts_it(name: str, tmp_path: Path) -> None:
    """The Collector's own check finds no fault, and no component under a name that was given up."""
    variables, _ = certificates(tmp_path)
    assert Otelcol(tmp_path / "collector", configuration(name), variables=variables).validate() == ""
    exporters = configuration(name).read_text("utf-8").partition("exporters:")[2]
    assert RENAMED.search(exporters) is None


def test_the_check_finds_faults(tmp_path: Path) -> None:
    """A component that does not exist is found: the check above can fail."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(configuration("minimal").read_text("utf-8").replace("debug", "nonsense"), "utf-8")
    assert "nonsense" in Otelcol(tmp_path / "collector", broken).validate()


@pytest.mark.parametrize("name", sorted(set(FILES) - {"minimal", "clickhouse"}))
def test_it_queues_while_its_backend_is_away(
    name: str, archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are accepted, wait on the disk, and wait there still after kill -9 and a start."""
    variables, producer = certificates(tmp_path)
    (port,) = free_ports(1)
    scheme = "http://" if name in {"loki", "victorialogs"} else ""
    collector = Otelcol(
        tmp_path / "collector", configuration(name), tls=name == "tls-mtls",
        variables=variables | {QUEUEING[name]: f"{scheme}127.0.0.1:{port}"},
    )  # fmt: skip
    for variable, value in producer.items():
        monkeypatch.setenv(variable, value)
    with collector:
        with provider_at(archive_path, endpoint=collector.http_endpoint) as provider:
            for number in range(50):
                provider.get_logger("tests").audit("user.login.success", user=f"user-{number}")
            assert provider.force_flush(20), collector.log[-2000:]
        wait_until(lambda: collector.metric("otelcol_receiver_accepted_log_records") == 50)
        collector.kill()
        collector.start()
        wait_until(lambda: collector.metric("otelcol_exporter_queue_size") > 0)
        assert collector.metric("otelcol_exporter_send_failed_log_records") == 0
        # The Kafka exporter tries for long to end well, with a broker that is not there.
        collector.kill()
    assert "deprecated" not in collector.log


def test_the_smallest_shows_no_content(archive_path: Path, tmp_path: Path) -> None:
    """minimal.yaml says how many records came; what a client sent reaches no terminal."""
    collector = Otelcol(tmp_path / "collector", configuration("minimal"))
    with collector, provider_at(archive_path, endpoint=collector.http_endpoint) as provider:
        provider.get_logger("tests").audit("user.login.failure", user="\x1b[2Jevil\x9b31m")
        assert provider.force_flush(20)
        wait_until(lambda: '"log records":1' in collector.log)
    assert "evil" not in collector.log
    assert not re.search(r"[^\n\x20-\x7e]", collector.log)


def test_clickhouse_is_waited_for(tmp_path: Path) -> None:
    """Without ClickHouse the Collector ends with an error and takes no records, rather than leave out their types."""
    (port,) = free_ports(1)
    variables = {"AUDIT_CLICKHOUSE": f"clickhouse://127.0.0.1:{port}"}
    collector = Otelcol(tmp_path / "collector", configuration("clickhouse"), variables=variables)
    assert collector.run() == 1
    assert "connection refused" in collector.log
