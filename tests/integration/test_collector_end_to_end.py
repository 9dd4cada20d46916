"""From the audit call through OpenTelemetry's own Collector into its file: every field arrives as it was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach

from otel_audit._version import __version__
from otel_audit.archive.query import open_archive
from otel_audit.record import Actor, Session, Target
from tests.archive_material import provider_at
from tests.otelcol import assert_all_arrived, configuration, logs, overlay, writing
from tests.otlp_material import Authority
from tests.recording import custom_groups, sessions, texts

PROTOCOLS = ["http/protobuf", "grpc"]
WITHOUT_CLIENT_CERTIFICATES = """
receivers:
  otlp:
    protocols:
      http:
        tls: {client_ca_file: "", client_ca_file_reload: false}
      grpc:
        tls: {client_ca_file: "", client_ca_file_reload: false}
"""


def security(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Path], dict[str, str]]:
    """Prepare a kind of transport; return the Collector's files and variables."""
    if kind == "plaintext":
        return [configuration("minimal")], {}
    authority = Authority(folder)
    server, client = authority.issue("server"), authority.issue("client")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.certificate)
    if kind == "mTLS":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", client.certificate)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", client.key)
    files = [configuration("tls-mtls")]
    if kind == "TLS":
        files.append(overlay(folder, "without-client-certificates", WITHOUT_CLIENT_CERTIFICATES))
    variables = {"CERT": server.certificate, "KEY": server.key, "CLIENT_CA": authority.certificate}
    return files, {f"AUDIT_TLS_{name}": path for name, path in variables.items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["plaintext", "TLS", "mTLS"])
def test_every_record_arrives_whole(
    kind: str, protocol: str, archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over both protocols, with gzip, plain, with TLS and with client certificates, the file holds the archive."""
    files, variables = security(tmp_path, kind, monkeypatch)
    collector, file = writing(tmp_path, *files, **variables)
    values = [1, -1, 2**62, 1.5, -0.0, float("inf"), float("nan"), True, None, "é\u2028", b"\0\xff", ["a", [b"x", {}]]]
    with collector, provider_at(
        archive_path, endpoint=collector.endpoint(protocol), protocol=protocol, compression="gzip",
        resource={"service.name": "shop", "n": 1},
    ) as provider:  # fmt: skip
        log = provider.get_logger("tests")
        for number, value in enumerate(values):
            session = Session(f"s{number}", "http", "203.0.113.7", "agent") if number % 2 else None
            log.audit("user.login.failure", user=f"user-{number}", session=session, custom={"g": {"v": value}})
        for number in range(500):
            log.audit("user.login.success", user=f"user-{number}")
        assert provider.force_flush(20), collector.log[-2000:]
    assert_all_arrived(archive_path, file, len(values) + 500)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_mapping_as_the_collector_writes_it(protocol: str, archive_path: Path, tmp_path: Path) -> None:
    """The Collector's JSON of a record that uses every part of the mapping, compared with the mapping written out."""
    collector, file = writing(tmp_path, configuration("minimal"))
    span = trace.SpanContext(0xABCDEF, 0x1234, is_remote=False, trace_flags=trace.TraceFlags(1))
    with collector, provider_at(archive_path, endpoint=collector.endpoint(protocol), protocol=protocol) as provider:
        token = attach(trace.set_span_in_context(trace.NonRecordingSpan(span), Context()))
        receipt = provider.get_logger("billing.api").audit(
            "user.login.failure", user="käthe\u202e", user_id="42", actor=Actor("robot", "service"),
            session=Session("c2s-1", "c2s", "203.0.113.7", "Gajim 1.9"), target=Target("order-7", "order"),
            action="approve", outcome="failure", message="two\nlines", timestamp=1_700_000_000_123_456_789,
            custom={"x": {
                "int": -(2**63), "float": 0.1, "yes": True, "bytes": b"\0\xff", "list": [1, "a"], "map": {"k": 2},
            }},
        )  # fmt: skip
        detach(token)
        assert provider.force_flush(20)
    assert_all_arrived(archive_path, file, 1)
    (log,) = logs(file)
    with open_archive(archive_path) as archive:
        (stored,), stream = archive.query(), archive.id
    attributes = {pair["key"]: pair["value"] for pair in log.pop("attributes")}
    assert log == {
        "timeUnixNano": "1700000000123456789", "observedTimeUnixNano": str(stored.observed), "severityNumber": 13,
        "severityText": "WARN", "body": {"stringValue": "two\nlines"}, "eventName": "user.login.failure", "flags": 1,
        "traceId": f"{0xABCDEF:032x}", "spanId": f"{0x1234:016x}",
    }  # fmt: skip
    texts = {
        "audit.record.id": receipt.record_id, "log.record.uid": receipt.record_id, "otel_audit.host": "example.com",
        "otel_audit.source": "billing.api", "user.name": "käthe\u202e", "user.id": "42", "audit.actor.id": "robot",
        "audit.actor.type": "service", "audit.action": "APPROVE", "audit.outcome": "failure",
        "audit.target.id": "order-7", "audit.target.type": "order", "session.id": "c2s-1",
        "otel_audit.session.type": "c2s", "client.address": "203.0.113.7", "audit.source.id": "203.0.113.7",
        "audit.source.type": "ipv4", "user_agent.original": "Gajim 1.9", "audit.sequence.stream_id": stream,
        "audit.schema.version": __version__,
    }  # fmt: skip
    expected: dict[str, Any] = {key: {"stringValue": text} for key, text in texts.items()}
    expected["audit.sequence.number"] = {"intValue": "1"}
    expected["otel_audit.altered"] = {
        "arrayValue": {"values": [{"stringValue": f"{name}:control"} for name in ("user", "message")]}
    }
    custom = {
        "int": {"intValue": str(-(2**63))}, "float": {"doubleValue": 0.1}, "yes": {"boolValue": True},
        "bytes": {"bytesValue": "AP8="},
        "list": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "a"}]}},
        "map": {"kvlistValue": {"values": [{"key": "k", "value": {"intValue": "2"}}]}},
    }  # fmt: skip
    assert attributes == expected | {f"otel_audit.custom.x.{name}": value for name, value in custom.items()}


def test_any_record(archive_path: Path, tmp_path: Path) -> None:
    """Whatever is recorded, hostile and empty values included, is in the Collector's file as it is in the archive."""
    collector, file = writing(tmp_path, configuration("minimal"))
    calls: list[dict[str, Any]] = []

    # First collected, then recorded: hypothesis wants no thread beside it that draws random numbers, as a shipper does.
    @settings(max_examples=300, suppress_health_check=list(HealthCheck), database=None)
    @given(user=st.none() | texts(), session=sessions(), message=st.none() | texts(), custom=custom_groups())
    def collect(**call: Any) -> None:
        calls.append(call)

    collect()
    with collector, provider_at(archive_path, endpoint=collector.grpc_endpoint, protocol="grpc") as provider:
        for call in calls:
            provider.get_logger("tests").audit("any", **call)
        assert provider.force_flush(30)
    assert len(calls) >= 300
    assert_all_arrived(archive_path, file, len(calls))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_records(protocol: str, archive_path: Path, tmp_path: Path) -> None:
    """40 MB in records of 200 KB arrive, also at a Collector with its own limits of 20 and 4 MiB a request."""
    text = configuration("minimal").read_text("utf-8")
    limited = "\n".join(line for line in text.splitlines() if "max_re" not in line)
    assert limited.count("\n") == text.count("\n") - 3
    collector, file = writing(tmp_path, overlay(tmp_path, "limited", limited))
    with collector, provider_at(archive_path, endpoint=collector.endpoint(protocol), protocol=protocol) as provider:
        for number in range(200):
            fields = {f"f{n}": f"{number}-".ljust(16_000, "x") for n in range(13)}
            provider.get_logger("tests").audit("data.exported", custom={"large": fields})
        assert provider.force_flush(60), collector.log[-2000:]
    assert_all_arrived(archive_path, file, 200)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_has_no_certificate(
    protocol: str, archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer without a client certificate is kept out, loses nothing, and delivers once it has one."""
    files, variables = security(tmp_path, "mTLS", monkeypatch)
    collector, file = writing(tmp_path, *files, **variables)
    shown = {name: f"OTEL_EXPORTER_OTLP_CLIENT_{name}" for name in ("CERTIFICATE", "KEY")}
    with collector:
        with monkeypatch.context() as without:
            for name in shown.values():
                without.delenv(name)
            with provider_at(archive_path, endpoint=collector.endpoint(protocol), protocol=protocol) as provider:
                provider.get_logger("tests").audit("user.logout", user="alice")
                assert not provider.force_flush(2)
        with open_archive(archive_path) as archive:
            assert archive.status().backlog == 1
        assert not file.exists() or not file.read_bytes()
        with provider_at(archive_path, endpoint=collector.endpoint(protocol), protocol=protocol) as provider:
            assert provider.force_flush(20)
    assert_all_arrived(archive_path, file, 1)
