"""What delivery must survive: a world in which something is wrong with the collector, until somebody mends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_audit.archive.query import open_archive
from otel_audit.archive.status import DestinationStatus
from otel_audit.delivery import shipper
from otel_audit.delivery.outbox import requeue
from otel_audit.errors import AuditError
from otel_audit.otlp_settings import Protocol
from otel_audit.provider import AuditProvider
from otel_audit.testing import Collector
from tests.archive_material import provider_at, record_ids
from tests.faults.checks import check_archive, check_receipts, compare_delivered
from tests.faults.frame import Outcome, Stage
from tests.faults.ledger import Acknowledged, Ledger, text_of

__all__ = ["Fault", "World", "survive", "survive_all"]

RECORDS = 12
SLOWEST = 5.0
"""Seconds that no call may take, whatever the collector does."""
TIMEOUT = 0.4
"""Seconds of one request while the fault is there."""


@dataclass
class World:
    """A collector with something wrong about it.

    Args:
        collector: What counts: it keeps what it accepted.
        endpoint: Where it seems to be.
        protocol: How it is spoken to.
        mend: Takes the fault away, as an operator would.
    """

    collector: Collector
    endpoint: str
    protocol: Protocol
    mend: Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """One way in which a collector goes wrong.

    Args:
        name: What it is, for complaints.
        world: Makes it.
    """

    name: str
    world: Callable[[Path], AbstractContextManager[World]]


def survive_all(stage: Stage, faults: Sequence[Fault]) -> None:
    """Survive each of some faults in turn; where fewer cycles are wanted, some of them, evenly chosen."""
    wanted = min(stage.cycles or len(faults), len(faults))
    with _impatient():
        for number in range(wanted):
            fault = faults[number * len(faults) // wanted]
            path = stage.archive()
            path.parent.mkdir()
            with fault.world(path.parent) as world:
                survive(world, path, fault.name, stage.outcome)
            stage.cycle()


def survive(world: World, path: Path, name: str, outcome: Outcome) -> None:
    """Record while the fault is there, mend it, restart, requeue, and compare what the collector has.

    Args:
        world: The collector.
        path: An archive that does not exist yet.
        name: The fault's name, for complaints.
        outcome: What is counted into.
    """

    def demand(condition: object, what: str) -> None:
        outcome.demand(condition, f"{name} ({world.protocol}): {what}")

    ledger = Ledger()
    told = ledger.acknowledged
    provider = _provider(world, path, timeout=TIMEOUT)
    try:
        slowest = _record(provider, told, f"{name}-during", outcome)
        demand(slowest < SLOWEST, f"a call took {slowest:.1f} s")
        _be_honest(provider, world, path, demand)
        demand(_is_told(path), "status tells of no fault, and not everything was delivered")
    finally:
        provider.shutdown(0.1)
    world.mend()
    requeue(path)
    with _provider(world, path, timeout=10.0) as provider:
        _record(provider, told, f"{name}-after", outcome, 2)
        demand(provider.force_flush(30.0), "not everything was delivered once all was well")
    state = _destination(path)
    demand(state and (state.dead_letters, state.blocked) == (0, None), f"the destination is left as {state}")
    compare_delivered(path, ledger, world.collector, outcome)
    outcome.acknowledged += len(told)
    check_receipts(path, ledger, outcome)
    check_archive(path, outcome)


def _provider(world: World, path: Path, **settings: Any) -> AuditProvider:
    return provider_at(path, **{"endpoint": world.endpoint, "protocol": world.protocol, **settings})


def _record(
    provider: AuditProvider, told: list[Acknowledged], tag: str, outcome: Outcome, count: int = RECORDS
) -> float:
    """Record, and return how long the slowest call took."""
    log, slowest = provider.get_logger("delivering"), 0.0
    for number in range(count):
        user = f"{tag}-{number}"
        began = time.monotonic()
        try:
            receipt = log.audit("user.login.success", user=user, custom={"fault": {"text": text_of(user)}})
        except AuditError as error:
            outcome.refused += 1
            outcome.blame(f"{tag}: a call raised: {error}")
            continue
        slowest = max(slowest, time.monotonic() - began)
        leaf = receipt.integrity_hash or ""
        told.append(Acknowledged(receipt.record_id, receipt.sequence or 0, leaf, user, time.monotonic_ns()))
    return slowest


def _be_honest(provider: AuditProvider, world: World, path: Path, demand: Callable[[object, str], None]) -> None:
    """See that a flush says no more than what is true, and says it in time."""
    began = time.monotonic()
    flushed = provider.force_flush(0.3)
    demand(time.monotonic() - began < SLOWEST, "a flush did not keep its time")
    if flushed:
        came = set(map(str, world.collector.record_ids))
        demand(came >= set(record_ids(path)), "a flush was true before everything was accepted")


def _is_told(path: Path) -> bool:
    """Tell whether, within some seconds, everything is delivered, or status says why it is not."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        state = _destination(path)
        if state is not None and (state.last_error or state.dead_letters or state.cursor >= RECORDS):
            return True
        time.sleep(0.02)
    return False


def _destination(path: Path) -> DestinationStatus | None:
    with open_archive(path) as archive:
        return next((item for item in archive.status().destinations if item.name == "otlp"), None)


@contextmanager
def _impatient() -> Iterator[None]:
    """Let the shipper try again after milliseconds."""
    names = {"_GATHER": 0.02, "_FIRST_WAIT": 0.02, "_LONGEST_WAIT": 0.1}
    kept = {name: getattr(shipper, name) for name in names}
    for name, value in names.items():
        setattr(shipper, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(shipper, name, value)
