"""What ``otel-audit doctor`` says of the delivery, with real collectors, and what becomes of its probe."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.testing import Collector, Reply
from tests.archive_material import connect, provider_at, record_ids
from tests.command_line import otel_audit
from tests.doctor_material import HOUR, calm, doctor
from tests.otlp_material import Authority


@pytest.fixture
def archive(archive_path: Path) -> Path:
    """Return an archive with one event."""
    with provider_at(archive_path) as provider:
        provider.get_logger("shop").audit("user.login.success", user="alice")
    return archive_path


def test_nothing_is_found_where_all_is_well(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive just made, with a signing key and a collector, has nothing wrong; the probe is a note."""
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        found = doctor(archive)
        assert [(one.severity, one.code) for one in found.values()] == [("note", "probe-accepted")]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_probe_is_a_record_that_is_delivered(archive: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """The probe is one of the archive's own records; what waited before it is delivered too, once each."""
    with Collector() as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        assert set(doctor(archive)) == {"probe-accepted"}
        assert Counter(collector.record_ids) == Counter(record_ids(archive))
    with open_archive(archive) as opened:
        (probe,) = opened.query(admin=True, types=["audit.probe"])
    assert probe.custom["process"]["pid"] == os.getpid()
    assert probe.record_id in record_ids(archive)


def test_without_a_probe_nothing_is_recorded(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a probe the archive stays as it is, and the collector gets an empty request alone."""
    before = record_ids(archive)
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        assert doctor(archive, probe=False) == {}
        assert collector.requests == 1
        assert collector.records == []
    assert record_ids(archive) == before


def test_a_collector_that_is_away(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens: an error with the reason, and no probe."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    found = doctor(archive)
    assert set(found) == {"destination-unreachable"}
    assert "refused" in found["destination-unreachable"].what
    assert len(record_ids(archive)) == 1


def test_credentials_that_are_wrong(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector answers 401: an error that names the variable of the headers."""
    with Collector(script=lambda: Reply(status=401)) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        found = doctor(archive)
    assert set(found) == {"destination-refuses"}
    assert "401" in found["destination-refuses"].what
    assert "OTEL_EXPORTER_OTLP_HEADERS" in found["destination-refuses"].remedy


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_certificate_that_nobody_trusts(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """TLS trouble is named as such, with the variables of the certificates; with them the probe is accepted."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    with Collector(certificate=pair.certificate, key=pair.key) as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        (one,) = doctor(archive).values()
        assert one.severity == "error"
        assert "certificate" in one.what.lower()
        assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in one.remedy
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.certificate)
        assert set(doctor(archive)) == {"probe-accepted"}


def test_a_probe_that_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector takes an empty request and refuses records: the probe is a dead letter, and an error."""
    replies = iter([Reply()])
    with Collector(script=lambda: next(replies, Reply(status=400))) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        found = doctor(archive)
        assert set(found) == {"probe-refused"}
        assert "HTTP 400" in found["probe-refused"].what
    assert found["probe-refused"].severity == "error"
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    found = doctor(archive)
    assert "refused 3 records" in found["dead-letters"].what
    assert found["dead-letters"].severity == "error"
    assert found["destination-unset"].severity == "note"


def test_a_probe_that_does_not_come_through_in_time(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector is overloaded for records: an error after the timeout, and the probe stays in the outbox."""
    replies = iter([Reply()])
    with Collector(script=lambda: next(replies, Reply(status=503, retry_after=60))) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        found = doctor(archive, timeout=0.5)
    assert set(found) == {"probe-waiting"}
    assert found["probe-waiting"].severity == "error"
    assert "HTTP 503" in found["probe-waiting"].what
    with open_archive(archive) as opened:
        assert opened.status().backlog == 3


def test_the_application_ships_the_probe(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a running application, whose process holds the lease, the probe is delivered by that."""
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with provider_at(archive) as provider:
            assert provider.force_flush(10)
            # Another process, as it would be.
            done = otel_audit("doctor", "--archive", archive, status=calm(archive))
            assert "was accepted by" in done.stdout
            assert Counter(collector.record_ids) == Counter(record_ids(archive))


def test_another_destination_than_that_of_the_application(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that went to one collector are not sent to another one that the operator's shell names."""
    with Collector() as first, Collector() as second:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", first.endpoint)
        assert set(doctor(archive)) == {"probe-accepted"}
        count = len(record_ids(archive))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", second.endpoint)
        found = doctor(archive)
        assert set(found) == {"destination-differs"}
        assert first.endpoint in found["destination-differs"].what
        assert second.records == []
    assert len(record_ids(archive)) == count


def test_a_destination_in_clear(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plaintext to another machine is a warning, whether it can be reached or not."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.invalid:4318")
    found = doctor(archive, timeout=2.0)
    assert set(found) == {"destination-clear", "destination-unreachable"}


def test_a_blocked_destination_and_a_backlog(archive: Path) -> None:
    """What the archive knows of its delivery is told without asking the collector: blocked, waiting for too long."""
    connection = connect(archive)
    connection.execute(
        "INSERT INTO destination (name, endpoint, blocked, last_error) VALUES ('otlp', 'https://c', ?, ?)",
        ("TLS: the certificate has expired", "TLS: the certificate has expired"),
    )
    connection.close()
    found = doctor(archive, longest=0)
    assert set(found) == {"blocked", "lag", "destination-unset"}
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in found["blocked"].remedy
    assert "1 records wait" in found["lag"].what
    assert set(doctor(archive, longest=HOUR)) == {"blocked", "destination-unset"}


def test_sending_that_is_switched_off(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SDK_DISABLED stops the sending, which is a warning; nothing is sent."""
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        assert set(doctor(archive)) == {"sending-off"}
        assert collector.requests == 0


def test_a_certificate_that_is_none(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of certificates that holds something else is a finding, whichever protocol stumbles over it."""
    file = tmp_path / "ca.pem"
    file.write_text("nothing of the kind")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(file))
    for protocol in ("http/protobuf", "grpc"):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:9")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        (one,) = doctor(archive, timeout=2.0).values()
        assert one.severity == "error"
        assert one.code.startswith("destination-")


def test_a_probe_behind_a_backlog(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others are delivered first and the time is over, that is a warning, not an outage."""
    with provider_at(archive, durability="queued", ship=False) as provider:
        for number in range(2_100):
            provider.get_logger("shop").audit("user.login.success", user=f"user-{number}")
    # The empty request, and the first full one; then the collector is busy.
    replies = iter([Reply(), Reply()])
    with Collector(script=lambda: next(replies, Reply(status=503, retry_after=60))) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        (one,) = doctor(archive, timeout=2.0).values()
        assert len(collector.records) == 2_048
    assert (one.severity, one.code) == ("warning", "probe-waiting")
    assert "55 records are to be delivered" in one.what
