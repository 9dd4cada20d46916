"""The public interface as users write it: never run, but checked by mypy in its strict mode."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, assert_type

from structlog.typing import EventDict, WrappedLogger

import otel_audit
from otel_audit import Actor, AuditLogger, AuditProvider, AuditRecord, EventType, Receipt, Session, Target
from otel_audit.integrations.structlog import AuditProcessor


def upper_case(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**event, "user": str(event.get("user")).upper()}


def configured() -> None:
    provider = otel_audit.configure(archive="audit.db", endpoint="http://127.0.0.1:4318", protocol="http/protobuf")
    assert_type(provider, AuditProvider)
    assert_type(provider.force_flush(timeout=5.0), bool)
    assert_type(provider.shutdown(timeout=5.0), bool)
    otel_audit.configure()


def own_provider() -> None:
    with AuditProvider(
        archive="audit.db",
        host="example.com",
        profile="signal",
        durability="queued",
        on_failure="block",
        block_timeout=5.0,
        processors=[upper_case],
        event_types=[EventType("invoice.approved", "APPROVE", durability="commit", on_failure="raise")],
        resource={"service.name": "shop"},
        headers={"authorization": "Bearer x"},
        compression="gzip",
        timeout=5,
    ) as provider:
        assert_type(provider, AuditProvider)
        assert_type(provider.get_logger("billing", request_id="r"), AuditLogger)
    AuditProvider(profile="json")  # type: ignore[arg-type]
    AuditProvider(durability="disk")  # type: ignore[arg-type]
    AuditProvider(on_failure="ignore")  # type: ignore[arg-type]


def called() -> None:
    log = otel_audit.get_logger("mod_auth", host="example.com")
    assert_type(log, AuditLogger)
    receipt = log.audit(
        "authentication-failure",
        user="alice",
        session=Session(id="c2s-1", type="c2s", ip="203.0.113.7", client="Gajim 1.9"),
        custom={"reason": {"condition": "not-authorized"}},
    )
    assert_type(receipt, Receipt)
    assert_type(receipt.record_id, str)
    assert_type(receipt.sequence, int | None)
    assert_type(receipt.integrity_hash, str | None)
    assert_type(receipt.timestamp, int | None)
    log.audit("t", user=None, actor=Actor("cron", "service"), target=Target("o-1", "order"), outcome="success")
    log.audit("t", actor="cron", target="o-1", action="READ", message="m", user_id="7", session=None, custom=None)
    log.audit("t", timestamp=datetime.now(UTC))
    log.audit("t", timestamp=1_700_000_000_000_000_000)
    log.audit("t", session=Session(ip=ip_address("::1")))


def refused() -> None:
    log = otel_audit.get_logger("mod_auth")
    log.audit()  # type: ignore[call-arg]
    log.audit("t", "alice")  # type: ignore[call-arg]
    log.audit("t", user=5)  # type: ignore[arg-type]
    log.audit("t", outcome="good")  # type: ignore[arg-type]
    log.audit("t", session="c2s-1")  # type: ignore[arg-type]
    log.audit("t", timestamp="now")  # type: ignore[arg-type]
    log.audit("t", request_id="r")  # type: ignore[call-arg]
    Actor("cron", "robot")  # type: ignore[arg-type]


async def awaited() -> None:
    receipt = await otel_audit.get_logger("web").aaudit("user.login.success", user="alice")
    assert_type(receipt, Receipt)


def bound() -> None:
    log = otel_audit.get_logger("web", host="example.com")
    assert_type(log.bind(session=Session("s-1"), request_id="r"), AuditLogger)
    assert_type(log.unbind("session"), AuditLogger)
    assert_type(log.try_unbind("session"), AuditLogger)
    assert_type(log.new(host="b.example"), AuditLogger)


def queried() -> None:
    with otel_audit.open_archive("audit.db") as archive:
        records = archive.query(host="example.com", user="alice", since=datetime.now(UTC), limit=50)
        assert_type(records, Iterator[AuditRecord])
        for record in records:
            assert_type(record.user, str | None)
            assert_type(record.session, Session | None)
            assert_type(record.altered, tuple[str, ...])


def in_a_chain() -> list[Any]:
    return [AuditProcessor(), AuditProcessor(otel_audit.get_logger("web"))]
