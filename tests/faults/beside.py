"""The same outage and the same kill for the library and for the stock SDK, whose losses stand beside its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from otel_audit.testing import Collector
from tests.archive_material import provider_at, ship
from tests.bench.events import Event, events
from tests.bench.sdk import Sdk
from tests.faults.checks import check_archive, check_receipts, compare_delivered
from tests.faults.frame import Stage
from tests.faults.ledger import Crew, Ledger, Scribe
from tests.faults.writing import Work

__all__ = ["our_kill", "our_outage", "sdk_kill", "sdk_outage"]

KILLED = 1_000
"""Records before the kill."""


def _outage(stage: Stage) -> tuple[float, int]:
    """Return how many seconds an outage lasts, and how many records are made meanwhile."""
    # The SDK's exporter gives up after 10 s; a quick run shows the queue's limit only.
    return (3.0, 6_000) if stage.quick else (20.0, 20_000)


def _paced(count: int, seconds: float, make: Callable[[int], object]) -> None:
    """Do something so many times, spread evenly over some seconds."""
    began = time.monotonic()
    for number in range(count):
        make(number)
        time.sleep(max(0.0, began + seconds * number / count - time.monotonic()))


def our_outage(stage: Stage) -> None:
    """Record while the collector is down, and let it come back."""
    stage.repeat(_our_outage)


def _our_outage(stage: Stage) -> None:
    path, ledger = stage.archive(), Ledger()
    seconds, count = _outage(stage)
    with Collector() as collector:
        endpoint = collector.endpoint
        collector.stop()

        def work(scribe: Scribe) -> None:
            provider = provider_at(path, endpoint=endpoint)
            log = provider.get_logger("outage")
            _paced(count, seconds, lambda number: scribe.audit(log, number))
            scribe.note("over")
            provider.force_flush(60)
            provider.shutdown(60)

        with Crew(ledger) as crew:
            crew.start(work, f"{stage.outcome.cycles}")
            crew.listen(120.0, until=lambda: "over" in ledger.notes)
            collector.start()
            stage.outcome.demand(crew.finish(120.0) == [0], "the writer did not end properly")
        stage.cycle()
        stage.outcome.acknowledged += len(ledger.acknowledged)
        check_receipts(path, ledger, stage.outcome)
        check_archive(path, stage.outcome)
        compare_delivered(path, ledger, collector, stage.outcome)


def our_kill(stage: Stage) -> None:
    """Record, and be killed as soon as the last call returned; somebody ships what is left."""
    stage.repeat(_our_kill)


def _our_kill(stage: Stage) -> None:
    path, ledger = stage.archive(), Ledger()
    with Collector() as collector:

        def work(scribe: Scribe) -> None:
            log = provider_at(path, endpoint=collector.endpoint).get_logger("kill")
            for number in range(KILLED):
                scribe.audit(log, number)
            time.sleep(60)

        with Crew(ledger) as crew:
            crew.start(work, f"{stage.outcome.cycles}")
            crew.listen(60.0, until=lambda: len(ledger.acknowledged) == KILLED)
            crew.kill()
        stage.cycle()
        stage.outcome.acknowledged += len(ledger.acknowledged)
        check_receipts(path, ledger, stage.outcome)
        stage.outcome.demand(ship(path, collector), "not everything was delivered")
        check_archive(path, stage.outcome)
        compare_delivered(path, ledger, collector, stage.outcome)


def sdk_outage(stage: Stage) -> None:
    """Let the SDK's batch processor meet the same outage."""
    stage.repeat(_sdk_outage)


def _sdk_outage(stage: Stage) -> None:
    seconds, count = _outage(stage)
    made = events(count)
    with Collector() as collector:
        endpoint = collector.endpoint
        collector.stop()

        def work(scribe: Scribe) -> None:
            sdk = Sdk(endpoint)
            _paced(count, seconds, lambda number: sdk.emit(made[number]))
            scribe.note("over")
            sdk.flush()
            sdk.close()

        _with_sdk(stage, work, collector.start, 120.0)
        _count_missing(stage, made, collector)


def sdk_kill(stage: Stage) -> None:
    """Let the SDK's batch processor be killed as soon as the last call returned."""
    stage.repeat(_sdk_kill)


def _sdk_kill(stage: Stage) -> None:
    made = events(KILLED)
    with Collector() as collector:

        def work(scribe: Scribe) -> None:
            sdk = Sdk(collector.endpoint)
            for event in made:
                sdk.emit(event)
            scribe.note("over")
            time.sleep(60)

        _with_sdk(stage, work, lambda: None, 0.0)
        _count_missing(stage, made, collector)


def _with_sdk(stage: Stage, work: Work, when_over: Callable[[], None], wait: float) -> None:
    """Run the SDK in a process until its calls are over, then wait for its end for some seconds, or kill it."""
    ledger = Ledger()
    with Crew(ledger) as crew:
        crew.start(work, "sdk")
        crew.listen(120.0, until=lambda: "over" in ledger.notes)
        when_over()
        if wait:
            crew.finish(wait)
    stage.cycle()


def _count_missing(stage: Stage, made: list[Event], collector: Collector) -> None:
    """Count what was emitted and what of it the collector has; the SDK's calls acknowledge by returning."""
    came = [str(record.attributes.get("user.name")) for record in collector.records]
    stage.outcome.acknowledged += len(made)
    stage.outcome.lost += len({event.user for event in made} - set(came))
    stage.outcome.duplicated += len(came) - len(set(came))
