"""Whatever a collector does, exactly the right records arrive, and the archive says truthfully which did not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter

from otel_audit.archive.query import open_archive
from otel_audit.archive.status import DestinationStatus
from otel_audit.config import Config
from otel_audit.delivery import service, shipper
from otel_audit.delivery.factory import make_sender
from otel_audit.delivery.outbox import requeue
from otel_audit.delivery.sender import Answer, Sender
from otel_audit.delivery.service import ship_once
from otel_audit.provider import AuditProvider
from otel_audit.testing import Collector, Reply
from tests.archive_material import assert_delivered, assert_sound, provider_at, run_python, ship, wait_until

Protocol = Literal["http/protobuf", "grpc"]
POISON = b"\xde\xad\xbe\xef-poison"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper, "_GATHER", 0.02)
    monkeypatch.setattr(shipper, "_FIRST_WAIT", 0.02)
    monkeypatch.setattr(shipper, "_LONGEST_WAIT", 0.1)


@pytest.fixture(params=["http/protobuf", "grpc"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    chosen: Protocol = request.param
    return chosen


class Switch:
    """A script of a collector that can be changed while it runs."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.reply = reply

    def __call__(self) -> Reply | None:
        return self.reply


@pytest.fixture
def provider_to(archive_path: Path, protocol: Protocol) -> Iterator[Callable[[Collector], AuditProvider]]:
    """Return a function that makes a provider shipping to a collector; each is shut down."""
    made: list[AuditProvider] = []

    def make(collector: Collector, **settings: Any) -> AuditProvider:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
        made.append(provider_at(archive_path, endpoint=endpoint, protocol=protocol, **settings))
        return made[-1]

    yield make
    for provider in made:
        provider.shutdown(0.1)


def record(provider: AuditProvider, count: int = 5) -> list[str]:
    log = provider.get_logger("faults")
    return [log.audit("user.login.failure", user=f"user{number}").record_id for number in range(count)]


def destination(path: Path, name: str = "otlp") -> DestinationStatus:
    with open_archive(path) as archive:
        return next(item for item in archive.status().destinations if item.name == name)


REFUSALS = {
    "500": Reply(status=500),
    "502": Reply(status=502),
    "503": Reply(status=503),
    "504": Reply(status=504),
    "429": Reply(status=429),
    "401": Reply(status=401),
    "403": Reply(status=403),
    "404": Reply(status=404),
    "dropped before reading": Reply(drop="before"),
    "dropped after reading": Reply(drop="after"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_nothing_is_dropped_while_the_collector_refuses(
    name: str, archive_path: Path, provider_to: Callable[[Collector], AuditProvider]
) -> None:
    """Flushing is false while nothing is accepted, all is retried, and all arrives once it is."""
    switch = Switch(REFUSALS[name])
    with Collector(switch) as collector:
        provider = provider_to(collector)
        record(provider)
        started = time.monotonic()
        assert not provider.force_flush(0.3)
        assert time.monotonic() - started < 2
        wait_until(lambda: collector.requests >= 3)
        state = destination(archive_path)
        assert state.cursor == state.dead_letters == 0
        assert state.last_success is None
        assert state.last_error
        assert bool(state.blocked) == (name in {"401", "403", "404", "500"})
        switch.reply = None
        assert provider.force_flush(10)
        assert set(assert_delivered(archive_path, collector).values()) == {1}
        state = destination(archive_path)
        assert (state.cursor, state.blocked, state.last_error, state.dead_letters) == (5, None, None, 0)
        assert state.last_success is not None


def test_a_lost_acknowledgement_makes_duplicates_with_the_same_ids(
    archive_path: Path, provider_to: Callable[[Collector], AuditProvider]
) -> None:
    """Where the answer is lost, records come again under the ids and sequences that they had."""
    with Collector([Reply(lose_answer=True)] * 2) as collector:
        provider = provider_to(collector)
        record(provider)
        assert provider.force_flush(10)
        came = assert_delivered(archive_path, collector)
        assert max(came.values()) > 1
        keys = {(r.record_id, r.attributes["audit.sequence.number"]) for r in collector.records}
        assert len(keys) == len(came) == 5


@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_that_a_collector_asks_for_is_kept(
    status: int, archive_path: Path, provider_to: Callable[[Collector], AuditProvider]
) -> None:
    """Retry-After and RetryInfo win over the shipper's own, much shorter clock, and over flushes."""
    moments: list[float] = []

    def script() -> Reply | None:
        moments.append(time.monotonic())
        return Reply(status=status, retry_after=1) if len(moments) == 1 else None

    with Collector(script) as collector:
        provider = provider_to(collector)
        record(provider)
        wait_until(lambda: moments)
        assert not provider.force_flush(0.2)
        assert len(moments) == 1
        assert provider.force_flush(10)
        assert 0.95 < moments[1] - moments[0] < 8
        assert_delivered(archive_path, collector)


def test_a_warning_is_no_rejection(archive_path: Path, provider_to: Callable[[Collector], AuditProvider]) -> None:
    """A partial success without rejected records is a success, and its message is shown."""
    with Collector([Reply(message="attribute limit is near")]) as collector:
        provider = provider_to(collector)
        record(provider, 1)  # one request: the next one's success would clear the message
        assert provider.force_flush(10)
        assert_delivered(archive_path, collector)
        assert "attribute limit is near" in (destination(archive_path).last_error or "")


def test_rejected_records_are_kept_and_can_be_requeued(
    archive_path: Path, provider_to: Callable[[Collector], AuditProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial success with rejections sets its batch aside, flushing is false, requeueing delivers it."""
    monkeypatch.setattr(shipper, "_GATHER", 0.5)
    with Collector([Reply(rejected=2, message="no room")]) as collector:
        provider = provider_to(collector)
        record(provider)
        assert not provider.force_flush(10)
        first = destination(archive_path)
        assert 0 < first.dead_letters <= 5
        record(provider)
        wait_until(lambda: destination(archive_path).cursor == 10)
        assert not provider.force_flush(10)  # the first ones are still missing
        assert requeue(archive_path, "otlp") == first.dead_letters
        assert provider.force_flush(10)
        assert_delivered(archive_path, collector)
        with open_archive(archive_path) as archive:
            assert archive.status().backlog == 0
        assert requeue(archive_path) == 0


class Judging:
    """A sender that tells the collector by the content of each request how to answer it."""

    def __init__(self, inner: Sender, judge: Callable[[bytes], None]) -> None:
        self._inner = inner
        self._judge = judge

    @property
    def endpoint(self) -> str:
        return self._inner.endpoint

    def send(self, request: bytes, timeout: float) -> Answer:
        self._judge(request)
        return self._inner.send(request, timeout)

    def close(self) -> None:
        self._inner.close()


def write_poisoned(path: Path, position: int, count: int = 300) -> list[str]:
    with provider_at(path) as provider:
        log = provider.get_logger("faults")
        return [
            log.audit("user.login.failure", custom={"x": {"y": POISON if number == position else b"good"}}).record_id
            for number in range(count)
        ]


def judge_requests(monkeypatch: pytest.MonkeyPatch, judge: Callable[[bytes], None]) -> None:
    monkeypatch.setattr(service, "make_sender", lambda settings: Judging(make_sender(settings), judge))


@pytest.mark.parametrize("reply", [Reply(status=400), Reply(status=413, message="message larger than max")])
@pytest.mark.parametrize("position", [0, 150, 299])
def test_one_poison_record_is_set_aside_alone(
    reply: Reply, position: int, archive_path: Path, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is refused is taken apart until the one guilty record is found; all others arrive, once."""
    ids = write_poisoned(archive_path, position)
    switch = Switch()
    mended = False

    def judge(request: bytes) -> None:
        switch.reply = reply if POISON in request and not mended else None

    judge_requests(monkeypatch, judge)
    with Collector(switch) as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
        config = Config.load(archive=archive_path, endpoint=endpoint, protocol=protocol)
        assert not ship_once(config).complete
        assert collector.record_ids == ids[:position] + ids[position + 1 :]
        state = destination(archive_path)
        assert (state.cursor, state.dead_letters, state.blocked) == (300, 1, None)
        assert collector.requests < 40
        assert not ship_once(config).complete  # nothing is left to send, but one record was not accepted
        mended = True
        assert requeue(archive_path, sequences=[position + 1]) == 1
        assert ship_once(config).complete
        assert set(assert_delivered(archive_path, collector).values()) == {1}


def test_taking_a_batch_apart_comes_to_an_end_under_a_rate_limit(
    archive_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every fourth request is put off, the guilty record is found all the same."""
    ids = write_poisoned(archive_path, 0)
    switch = Switch()
    requests = 0

    def judge(request: bytes) -> None:
        nonlocal requests
        requests += 1
        if requests % 4 == 0:
            switch.reply = Reply(status=503)
        else:
            switch.reply = Reply(status=400) if POISON in request else None

    judge_requests(monkeypatch, judge)
    with Collector(switch) as collector:
        assert not ship(archive_path, collector)
        assert collector.record_ids == ids[1:]
        assert destination(archive_path).dead_letters == 1
        assert requests < 60


def test_two_destinations_have_cursors_of_their_own(archive_path: Path) -> None:
    """While the collector is down an SDK exporter gets everything, and flushing tells that one of them did not."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    switch = Switch(Reply(status=503))
    with Collector(switch) as collector:
        provider = provider_at(archive_path, endpoint=collector.endpoint, exporters={"memory": exporter})
        ids = record(provider, 30)
        assert not provider.force_flush(0.5)
        wait_until(lambda: destination(archive_path, "memory").cursor == 30)
        assert destination(archive_path).cursor == 0
        with open_archive(archive_path) as archive:
            assert archive.status().backlog == 30
        switch.reply = None
        assert provider.force_flush(10)
        came = [item.log_record.attributes for item in exporter.get_finished_logs()]
        assert [attributes["audit.record.id"] for attributes in came if attributes] == ids
        assert_delivered(archive_path, collector)
        assert provider.shutdown(5)


def test_a_shutdown_in_an_outage_is_short_and_false_and_loses_nothing(
    archive_path: Path, provider_to: Callable[[Collector], AuditProvider]
) -> None:
    """Shutting down while the collector is away says so within its time; the next process ships what is left."""
    switch = Switch(Reply(drop="before"))
    with Collector(switch) as collector:
        provider = provider_to(collector)
        record(provider, 20)
        started = time.monotonic()
        assert not provider.shutdown(timeout=0.5)
        assert time.monotonic() - started < 5
        switch.reply = None
        assert provider_to(collector).shutdown(5)  # recorded nothing itself
        assert ship(archive_path, collector)
        assert_delivered(archive_path, collector)


def test_a_shutdown_ends_a_request_that_hangs(
    archive_path: Path, provider_to: Callable[[Collector], AuditProvider]
) -> None:
    """A collector that never answers holds up neither callers nor the shutdown."""
    switch = Switch(Reply(delay=60))
    with Collector(switch) as collector:
        provider = provider_to(collector)
        started = time.monotonic()
        record(provider, 20)
        assert time.monotonic() - started < 2
        wait_until(lambda: collector.requests)
        assert not provider.shutdown(timeout=0.2)
        assert time.monotonic() - started < 8
        assert not any(thread.name == "otel-audit-otlp" for thread in threading.enumerate())
    with Collector() as collector:
        assert ship(archive_path, collector)
        assert_delivered(archive_path, collector)


@pytest.mark.parametrize("durability", ["commit", "queued"])
def test_the_end_of_the_interpreter_drains(durability: str, archive_path: Path, protocol: Protocol) -> None:
    """A program that ends without a shutdown has written and shipped everything."""
    program = """
    import sys
    import otel_audit
    otel_audit.configure(archive=sys.argv[1], endpoint=sys.argv[2], protocol=sys.argv[3], durability=sys.argv[4])
    log = otel_audit.get_logger("exit", host="example.com")
    for _ in range(700):
        log.audit("user.login.success", user="alice")
    """
    with Collector() as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
        run_python(program, archive_path, endpoint, protocol, durability)
        assert_sound(archive_path, records=700)
        assert set(assert_delivered(archive_path, collector).values()) == {1}


def test_the_pause_between_attempts_grows_to_a_limit(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries go on for ever, further and further apart, never at the same moment as others', and never too far."""
    monkeypatch.undo()
    provider_at(archive_path).shutdown()
    made = shipper.Shipper(archive_path, "otlp", lambda: pytest.fail("nothing is sent here"))
    pauses = []
    for failures in (1, 2, 4, 10, 10_000):
        made._failures = failures
        pauses.append([made._backoff() for _ in range(50)])
    made.stop(1)
    assert all(0.25 <= pause <= 0.5 for pause in pauses[0])
    assert all(0.5 <= pause <= 1 for pause in pauses[1])
    assert all(2 <= pause <= 4 for pause in pauses[2])
    assert all(15 <= pause <= 30 for pause in pauses[3] + pauses[4])
    assert len(set(pauses[4])) > 10
