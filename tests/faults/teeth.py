"""Faults built into the library, here only: with each of them the harness must report losses, or it would see none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otel_audit.archive.database import Database
from otel_audit.archive.logindex import Opened
from otel_audit.archive.writer import Writer
from otel_audit.delivery.outbox import BATCH, Entry, Outbox
from otel_audit.record import AuditRecord, Receipt
from tests.faults.checks import check
from tests.faults.frame import Stage
from tests.faults.kills import kill_shipping
from tests.faults.ledger import Crew, Ledger, Scribe, text_of
from tests.faults.power import power_cuts
from tests.faults.writing import FOR_EVER, Work, for_ever, opened

__all__ = ["cursor_before_answer", "receipt_before_commit", "without_sync"]


def without_sync(stage: Stage) -> None:
    """Commit without waiting for fsync, and cut the power."""
    power_cuts(stage, "ext4", _unsynced)


def _unsynced(path: Path, kind: int = 0, **settings: Any) -> Work:
    """Return a writer's work with ``synchronous=NORMAL``."""

    def work(scribe: Scribe) -> None:
        # Set in the writer's process, which ends with it.
        proper = Database._open_to_write

        def lax(self: Database) -> Opened:
            opened = proper(self)
            opened.connection.execute("PRAGMA synchronous=NORMAL")
            return opened

        Database._open_to_write = lax  # type: ignore[method-assign]
        # What is lost would else be noticed at the next start, and nothing more be recorded.
        for_ever(path, kind, high_water=False, **settings)(scribe)

    return work


def receipt_before_commit(stage: Stage) -> None:
    """Give the receipt first and commit then, and kill the writer."""
    stage.repeat(_hurry_on_one_archive)


def _hurry_on_one_archive(stage: Stage) -> None:
    path, ledger = stage.archive(), Ledger()
    for number in range(20):
        with Crew(ledger) as crew:
            crew.start(_hasty(path), f"{stage.outcome.cycles}-{number}")
            crew.hear(1)
            crew.listen(stage.chance.uniform(0.0, 0.03))
            crew.kill()
            stage.cycle()
        if not stage.wants_more():
            break
    check(path, ledger, stage.outcome, deliver=False)


def _hasty(path: Path) -> Work:
    def work(scribe: Scribe) -> None:
        proper = Writer.write

        def early(self: Writer, record: AuditRecord, otlp: bytes, timeout: float) -> Receipt:
            scribe.receipt(Receipt(record.record_id), str(record.user))
            return proper(self, record, otlp, timeout)

        Writer.write = early  # type: ignore[method-assign]
        if provider := opened(path, scribe, {}):
            log = provider.get_logger("hasty")
            for number in range(FOR_EVER):
                user = scribe.user(number)
                log.audit("user.login.success", user=user, custom={"fault": {"text": text_of(user)}})

    return work


def cursor_before_answer(stage: Stage) -> None:
    """Move the cursor when records are read, before the collector answered, and kill those who ship."""
    kill_shipping(stage, _forgetful)


def _forgetful(path: Path, **settings: Any) -> Work:
    def work(scribe: Scribe) -> None:
        proper = Outbox.read

        def early(self: Outbox, limit: int = BATCH) -> list[Entry]:
            entries = proper(self, limit)
            if entries:
                self.accepted(entries)
            return entries

        Outbox.read = early  # type: ignore[method-assign]
        for_ever(path, **settings)(scribe)

    return work
