"""``otel-audit doctor`` against OpenTelemetry's own Collector: what it says of a configuration is what then happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_audit.doctor.collector import examine_collector
from otel_audit.doctor.findings import Finding
from tests.archive_material import provider_at, wait_until
from tests.doctor_material import doctor
from tests.otelcol import CONFIGURATIONS, Otelcol, configuration, free_ports, overlay

FILES = sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml") if path.stem != "builder")
MEANT = {
    "loki": ["edits-after-signing"],
    "minimal": ["nothing-kept"],
    "victorialogs": ["edits-after-signing"],
}
"""What our own configurations accept, each with its reason in the file."""
QUEUE = "exporters: {otlp_grpc: {sending_queue: %s}}\n"


def examined(*files: Path) -> list[Finding]:
    """Examine a configuration of several files."""
    return examine_collector([str(file) for file in files])


@pytest.mark.parametrize("name", FILES)
def test_our_own_configurations_lose_nothing(name: str) -> None:
    """The files of `collector-config` have no error, and no warning but those that they say themselves."""
    found = examined(configuration(name))
    assert [one for one in found if one.severity == "error"] == []
    assert [one.code for one in found if one.severity == "warning"] == MEANT.get(name, [])


@pytest.mark.parametrize("name", sorted(set(FILES) - {"minimal"}))
@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("    fsync: true\n", "", "storage-fsync"),
        ("      storage: file_storage\n", "", "queue-memory"),
        ("      max_elapsed_time: 0\n", "", "retry-gives-up"),
        ("      block_on_overflow: true\n", "", "queue-refuses"),
        ("extensions: [health_check, file_storage]", "extensions: [health_check]", "storage-missing"),
        ("  pipelines:\n    logs:\n", "  pipelines:\n    traces:\n", "pipeline-missing"),
    ],
)
def test_each_of_them_broken(name: str, old: str, new: str, code: str, tmp_path: Path) -> None:
    """One line less, and the finding is there, and no other."""
    text = configuration(name).read_text("utf-8")
    if old not in text:
        pytest.skip("this exporter has other settings")
    found = examined(overlay(tmp_path, name, text.replace(old, new)))
    meant = [] if code == "pipeline-missing" else MEANT.get(name, [])
    assert sorted(one.code for one in found if one.severity != "note") == sorted([code, *meant])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("extensions: {file_storage: {fsync: false}}\n", "storage-fsync"),
        (QUEUE % "{storage: null}", "queue-memory"),
        (QUEUE % "{storage: null, wait_for_result: true}", "queue-none"),
        (QUEUE % "{block_on_overflow: false}", "queue-refuses"),
        (QUEUE % "{enabled: false}", "queue-none"),
        ("exporters: {otlp_grpc: {retry_on_failure: {max_elapsed_time: 5m}}}\n", "retry-gives-up"),
        ("exporters: {otlp_grpc: {retry_on_failure: {enabled: false}}}\n", "retry-off"),
        ("receivers: {otlp: {protocols: {http: {endpoint: '0.0.0.0:4318'}}}}\n", "receiver-clear"),
    ],
)
def test_the_collector_says_nothing_of_it(change: str, code: str, tmp_path: Path) -> None:
    """What the doctor finds, the Collector's own check takes without a word: its check is of no help there."""
    changed = overlay(tmp_path, "changed", change)
    assert [one.code for one in examined(configuration("durable"), changed)] == [code]
    assert Otelcol(tmp_path / "collector", configuration("durable"), changed).validate() == ""


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("service: {pipelines: {logs: {exporters: [nowhere]}}}\n", "component-missing"),
        ("service: {pipelines: {logs: {exporters: []}}}\n", "exporter-missing"),
        ("exporters: {logging: }\n", "component-removed"),
        ("extensions: {memory_ballast: }\n", "component-removed"),
        (QUEUE % "{blocking: true}", "setting-removed"),
    ],
)
def test_the_collector_refuses_it(change: str, code: str, tmp_path: Path) -> None:
    """Where the doctor says that the Collector does not start, it does not."""
    changed = overlay(tmp_path, "changed", change)
    assert code in [one.code for one in examined(configuration("durable"), changed)]
    assert Otelcol(tmp_path / "collector", configuration("durable"), changed).validate()


def test_a_storage_that_is_not_started(tmp_path: Path) -> None:
    """The Collector's check takes a storage that nobody starts; started, the Collector ends with an error."""
    changed = overlay(tmp_path, "changed", "service: {extensions: [health_check]}\n")
    assert [one.code for one in examined(configuration("durable"), changed)] == ["storage-missing"]
    collector = Otelcol(tmp_path / "collector", configuration("durable"), changed)
    assert collector.validate() == ""
    assert collector.run() == 1
    assert "storage" in collector.log


@pytest.mark.parametrize(("change", "found"), [("", []), (QUEUE % "{storage: null}", ["queue-memory"])])
def test_a_queue_in_memory_loses_what_was_acknowledged(
    change: str, found: list[str], archive_path: Path, tmp_path: Path
) -> None:
    """Killed while its backend is away, the Collector has still what was in a queue on disk, and nothing of another."""
    files = [configuration("durable"), overlay(tmp_path, "changed", change)]
    assert [one.code for one in examined(*files)] == found
    (port,) = free_ports(1)
    upstream = {"AUDIT_UPSTREAM": f"http://127.0.0.1:{port}", "AUDIT_UPSTREAM_INSECURE": "true"}
    with Otelcol(tmp_path / "collector", *files, variables=upstream) as collector:
        with provider_at(archive_path, endpoint=collector.http_endpoint, checkpoint_interval=0) as provider:
            for number in range(20):
                provider.get_logger("tests").audit("user.login.success", user=f"user-{number}")
            assert provider.force_flush(20), collector.log[-2000:]
        wait_until(lambda: collector.metric("otelcol_receiver_accepted_log_records") == 20)
        collector.kill()
        collector.start()
        if found:
            assert collector.metric("otelcol_exporter_queue_size") == 0
        else:
            wait_until(lambda: collector.metric("otelcol_exporter_queue_size") > 0)
        collector.kill()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_probe_goes_to_a_real_collector(
    protocol: str, archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Collector answers the empty request without counting anything, and accepts the probe."""
    with provider_at(archive_path) as provider:
        provider.get_logger("tests").audit("user.login.success", user="alice")
    with Otelcol(tmp_path / "collector", configuration("minimal")) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint(protocol))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        assert doctor(archive_path, probe=False) == {}
        assert collector.metric("otelcol_receiver_accepted_log_records") == 0
        assert set(doctor(archive_path)) == {"probe-accepted"}
        # The event, the first of the archive's own records, and the probe.
        wait_until(lambda: collector.metric("otelcol_receiver_accepted_log_records") == 3)
