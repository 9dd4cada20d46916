"""``kill -9`` at random moments: of writers, and of processes that ship."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from otel_audit.testing import Collector, Reply
from tests.archive_material import ship
from tests.faults.checks import check, check_archive, check_receipts, compare_delivered, restart
from tests.faults.frame import Stage
from tests.faults.ledger import Crew, Ledger
from tests.faults.writing import KINDS, Work, for_ever

__all__ = ["kill_shipping", "kill_writers"]

PROCESSES = 3
ROUNDS_AN_ARCHIVE = 60
ROUNDS_SHIPPING = 20


def kill_writers(stage: Stage) -> None:
    """Kill three writers of one archive at a time: threads, tasks, with and without a queue."""
    stage.repeat(_kill_on_one_archive)


def _kill_on_one_archive(stage: Stage) -> None:
    path, ledger = stage.archive(), Ledger()
    for number in range(ROUNDS_AN_ARCHIVE):
        seen = len(ledger.acknowledged)
        _one_round(stage, path, ledger, number)
        # At once what this round was told; after a third of the rounds with a restart in between.
        check_receipts(path, ledger, stage.outcome, seen)
        if stage.chance.random() < 0.3:
            restart(path, stage.outcome)
        if not stage.wants_more():
            break
    check(path, ledger, stage.outcome)


def _one_round(stage: Stage, path: Path, ledger: Ledger, number: int) -> None:
    with Crew(ledger) as crew:
        for writer in range(PROCESSES):
            kind = stage.chance.randrange(len(KINDS))
            crew.start(for_ever(path, kind), f"{stage.outcome.cycles}-{number}-{writer}")
        if stage.chance.random() < 0.8:
            # Else also while they open the archive.
            crew.hear(1)
        crew.listen(stage.chance.uniform(0.0, 0.03))
        for child in stage.chance.sample(crew.running, PROCESSES):
            crew.kill(child)
            crew.listen(stage.chance.choice((0.0, 0.0, 0.005)))
            stage.cycle()


def kill_shipping(stage: Stage, writer: Callable[..., Work] = for_ever) -> None:
    """Kill writers that ship to a collector which fails a fifth of the time; what they left is shipped by the next.

    Args:
        stage: Where.
        writer: Returns the writers' work, given the archive and settings.
    """
    stage.repeat(partial(_ship_from_one_archive, writer=writer))


def _ship_from_one_archive(stage: Stage, writer: Callable[..., Work]) -> None:
    path, ledger, outcome = stage.archive(), Ledger(), stage.outcome

    def reply() -> Reply | None:
        return Reply(status=503) if stage.chance.random() < 0.2 else None

    with Collector(script=reply) as collector:
        for _ in range(ROUNDS_SHIPPING):
            with Crew(ledger) as crew:
                before = collector.requests
                for number in range(2):
                    crew.start(writer(path, endpoint=collector.endpoint), f"{outcome.cycles}-{number}")
                crew.listen(5.0, until=lambda before=before: collector.requests > before)  # type: ignore[misc]
                crew.listen(stage.chance.uniform(0.0, 0.1))
                crew.kill()
                stage.cycle(2)
            if not stage.wants_more():
                break
        restart(path, outcome)
        outcome.demand(ship(path, collector), "not everything was delivered")
        compare_delivered(path, ledger, collector, outcome)
    outcome.acknowledged += len(ledger.acknowledged)
    check_receipts(path, ledger, outcome)
    check_archive(path, outcome)
