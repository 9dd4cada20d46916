"""Other processes that hold a lock and do not go on, and readers that keep the write-ahead log from being reused."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

from tests.archive_material import connect, provider_at
from tests.faults.checks import check
from tests.faults.frame import SLACK, Stage
from tests.faults.ledger import Crew, Ledger, Scribe
from tests.faults.writing import Work, for_ever, steadily

__all__ = ["long_readers", "stopped_holders"]

DEADLINE = 0.4
POLICIES = ("raise", "block", "log")
LARGEST_LOG = 16 * 2**20
"""Bytes: SQLite begins the log anew after 1,000 pages of 8 KiB, and a commit may pass that."""


def stopped_holders(stage: Stage) -> None:
    """Stop a process that holds the write lock, or a writer at a random moment, and let it go on later."""
    stage.repeat(_stop_one)


def _stop_one(stage: Stage) -> None:
    path, ledger, number = stage.archive(), Ledger(), stage.outcome.cycles
    policy = POLICIES[number % len(POLICIES)]
    plain = number % 2 == 0
    with Crew(ledger) as crew:
        writer = crew.start(steadily(path, block_timeout=DEADLINE, on_failure=policy), f"{number}")
        stage.outcome.demand(crew.hear(1), "the writer did not begin")
        holder = crew.start(_holding(path) if plain else for_ever(path, 1), f"holder-{number}")
        begun = crew.listen(20.0, until=lambda: _holds(ledger))
        stage.outcome.demand(begun, "nobody holds the lock")
        crew.listen(stage.chance.uniform(0, 0.02))
        os.kill(holder, signal.SIGSTOP)
        crew.listen(1.2)
        if plain:
            stage.outcome.demand("unacknowledged" in ledger.notes, f"{policy}: nothing was refused beside a held lock")
        os.kill(holder, signal.SIGCONT)
        crew.kill(holder)
        went_on = crew.hear(5)
        stage.outcome.demand(went_on, f"{policy}: it did not go on after the lock was free: {ledger.refused[-1:]}")
        crew.kill(writer)
    for seconds, error in ledger.refused:
        stage.outcome.demand(seconds < DEADLINE + SLACK, f"{policy}: raised after {seconds} s")
        # The second where another thread of the same process waits for the lock already.
        told = "lock" in error or "no commit within" in error
        stage.outcome.demand(told and "without a hint" not in error, f"{policy}: {error}")
    stage.cycle()
    check(path, ledger, stage.outcome, deliver=number % 8 == 0)


def _holds(ledger: Ledger) -> bool:
    return "held" in ledger.notes or any(told.user.startswith("holder") for told in ledger.acknowledged)


def _holding(path: Path) -> Work:
    """Return the work of another program that takes the write lock and keeps it."""

    def work(scribe: Scribe) -> None:
        connection = connect(path)
        connection.execute("BEGIN IMMEDIATE")
        scribe.note("held")
        signal.pause()

    return work


def long_readers(stage: Stage) -> None:
    """Keep a snapshot open while others record: nothing waits, and the log shrinks to its usual size afterwards."""
    stage.repeat(_read_for_long)


def _read_for_long(stage: Stage) -> None:
    path, ledger = stage.archive(), Ledger()
    with provider_at(path) as provider:
        provider.get_logger("before").audit("server-started")
    log = path.with_name(f"{path.name}-wal")
    with Crew(ledger) as crew, closing(connect(path)) as reader:
        crew.start(for_ever(path, 1), f"{stage.outcome.cycles}")
        reader.execute("BEGIN")
        seen = reader.execute("SELECT count(*) FROM record").get
        crew.listen(60.0, until=lambda: log.exists() and log.stat().st_size > 2 * LARGEST_LOG)
        stage.outcome.demand(log.stat().st_size > 2 * LARGEST_LOG, "the log did not grow beside a reader")
        stage.outcome.demand(seen == reader.execute("SELECT count(*) FROM record").get, "the snapshot changed")
        reader.execute("ROLLBACK")
        # Two commits: one finds that all was written back, the next one begins the log anew.
        crew.hear(200)
        began_anew = log.read_bytes()[:32]
        crew.listen(20.0, until=lambda: log.read_bytes()[:32] != began_anew)
        stage.outcome.demand(log.read_bytes()[:32] != began_anew, "the log is not reused after the reader")
    stage.outcome.demand(not ledger.refused, f"refused beside a reader: {ledger.refused[:1]}")
    stage.cycle()
    check(path, ledger, stage.outcome)
    size = log.stat().st_size if log.exists() else 0
    stage.outcome.demand(size <= LARGEST_LOG, f"the log has {size:,} bytes in the end")
