"""Through a real collector: every field survives, and an outage of a minute costs nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach

from otel_audit._version import __version__
from otel_audit.archive.query import open_archive
from otel_audit.record import Actor, Session, Target
from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, assert_sound, provider_at, wait_until
from tests.rotel import Rotel

OUTAGE_SECONDS = 60
OUTAGE_RECORDS = 20_000


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_every_field_survives_a_real_collector(protocol: str, archive_path: Path) -> None:
    """What comes out of the collector is what was recorded: times, trace, text, attributes and resource."""
    with Collector() as collector, Rotel(collector.endpoint) as rotel:
        endpoint = rotel.grpc_endpoint if protocol == "grpc" else rotel.http_endpoint
        provider = provider_at(archive_path, endpoint=endpoint, protocol=protocol, resource={"service.name": "shop"})
        log = provider.get_logger("billing.api")
        context = trace.SpanContext(0xABCDEF, 0x1234, is_remote=False, trace_flags=trace.TraceFlags(1))
        token = attach(trace.set_span_in_context(trace.NonRecordingSpan(context), Context()))
        before = time.time_ns()
        try:
            receipt = log.audit(
                "user.login.failure",
                user="käthe\x00\u202e",
                user_id="42",
                session=Session("c2s-1", "c2s", "203.0.113.7", "Gajim 1.9"),
                actor=Actor("robot", "service"),
                target=Target("order-7", "order"),
                action="approve",
                outcome="failure",
                message="two\nlines",
                timestamp=1_700_000_000_123_456_789,
                custom={
                    "x": {"int": -(2**63), "float": 0.1, "yes": True, "text": "☃", "list": [1, "a"], "map": {"k": 2}}
                },
            )
        finally:
            detach(token)
        for _ in range(300):
            log.audit("user.logout", user="alice")
        assert provider.force_flush(20)
        assert provider.shutdown()
        assert collector.wait_for(301, 20, distinct=True)
        came = assert_delivered(archive_path, collector)
        assert set(came.values()) == {1}
        received = next(record for record in collector.records if record.record_id == receipt.record_id)
        with open_archive(archive_path) as archive:
            (stored,) = archive.query(record_id=receipt.record_id)
            stream = archive.id
    assert received.event_name == stored.type == "user.login.failure"
    assert received.time == stored.time == 1_700_000_000_123_456_789
    assert received.observed_time == stored.observed
    assert before <= stored.observed <= time.time_ns()
    assert received.trace_id == stored.trace_id == f"{0xABCDEF:032x}"
    assert received.span_id == stored.span_id == f"{0x1234:016x}"
    assert received.flags & 1 == stored.trace_flags == 1
    assert received.body == stored.message == "two\nlines"
    assert (received.severity, received.severity_text) == (13, "WARN")
    assert received.resource["service.name"] == "shop"
    assert (received.scope_name, received.scope_version) == ("otel_audit", __version__)
    assert stored.user is not None
    assert "käthe" in stored.user
    attributes = dict(received.attributes)
    assert {key: attributes.pop(key) for key in EXPECTED} == EXPECTED
    assert attributes.pop("audit.record.id") == attributes.pop("log.record.uid") == receipt.record_id
    assert attributes.pop("audit.sequence.number") == receipt.sequence == stored.sequence
    assert attributes.pop("audit.sequence.stream_id") == stream
    assert attributes.pop("user.name") == stored.user
    custom = {key: value for key, value in attributes.items() if key.startswith("otel_audit.custom.")}
    assert custom == {f"otel_audit.custom.x.{key}": plain(value) for key, value in stored.custom["x"].items()}
    assert custom["otel_audit.custom.x.int"] == -(2**63)
    assert custom["otel_audit.custom.x.list"] == [1, "a"]
    assert set(attributes) - set(custom) <= {"audit.schema.version", "otel_audit.altered"}


EXPECTED = {
    "otel_audit.host": "example.com",
    "otel_audit.source": "billing.api",
    "user.id": "42",
    "audit.actor.id": "robot",
    "audit.actor.type": "service",
    "audit.action": "APPROVE",
    "audit.outcome": "failure",
    "audit.target.id": "order-7",
    "audit.target.type": "order",
    "session.id": "c2s-1",
    "otel_audit.session.type": "c2s",
    "client.address": "203.0.113.7",
    "audit.source.id": "203.0.113.7",
    "audit.source.type": "ipv4",
    "user_agent.original": "Gajim 1.9",
}


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.timeout(240)
def test_an_outage_of_a_minute_loses_nothing(archive_path: Path) -> None:
    """20,000 records that were recorded over 60 s without a collector all arrive once it is there."""
    with Collector() as collector:
        rotel = Rotel(collector.endpoint)
        provider = provider_at(archive_path, endpoint=rotel.http_endpoint)
        log = provider.get_logger("outage")
        receipts = []
        started = time.monotonic()
        for number in range(OUTAGE_RECORDS):
            ahead = number / OUTAGE_RECORDS * OUTAGE_SECONDS - (time.monotonic() - started)
            if ahead > 0.02:
                time.sleep(ahead)
            receipts.append(log.audit("user.login.success", user=f"user{number % 100}"))
        assert time.monotonic() - started >= OUTAGE_SECONDS * 0.99
        assert not provider.force_flush(0.2)
        with open_archive(archive_path) as archive:
            state = archive.status()
            assert state.backlog == OUTAGE_RECORDS
            assert state.destinations[0].last_error
        with rotel:
            wait_until(lambda: provider.force_flush(5), 60)
            assert collector.wait_for(OUTAGE_RECORDS, 30, distinct=True)
            assert provider.shutdown()
        assert_delivered(archive_path, collector)
        assert_sound(archive_path, receipts, records=OUTAGE_RECORDS)
