"""Power cuts: a loop-mounted file system stops in the middle of recording, is mounted again and repairs itself."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable

from tests.faults.checks import check, check_receipts
from tests.faults.frame import Stage
from tests.faults.injection import Loop
from tests.faults.ledger import Crew, Ledger
from tests.faults.writing import KINDS, Work, for_ever

__all__ = ["power_cuts"]

CUTS_AN_ARCHIVE = 50


def power_cuts(stage: Stage, kind: str, writer: Callable[..., Work] = for_ever) -> None:
    """Cut the power of a file system again and again while two processes record on it.

    Args:
        stage: Where.
        kind: Of the file system.
        writer: Returns the writers' work, given the archive and one of the `KINDS`.
    """
    with Loop(stage.folder, kind) as disk:
        # On the same disk. Elsewhere, processes that no power cut ends would note what they saw after it.
        os.environ["OTEL_AUDIT_HIGH_WATER"] = str(disk.point / "high-water")
        while stage.wants_more():
            path, ledger = disk.point / f"{stage.outcome.cycles}" / "audit.db", Ledger()
            for _ in range(min(CUTS_AN_ARCHIVE, stage.cycles - stage.outcome.cycles)):
                seen = len(ledger.acknowledged)
                _cut_power(stage, disk, ledger, [writer(path, stage.chance.randrange(len(KINDS))) for _ in range(2)])
                check_receipts(path, ledger, stage.outcome, seen)
            check(path, ledger, stage.outcome)
            shutil.rmtree(path.parent)


def _cut_power(stage: Stage, disk: Loop, ledger: Ledger, works: list[Work]) -> None:
    """Let writers record for a moment, cut the power, and mount the file system again."""
    with Crew(ledger) as crew:
        for number, work in enumerate(works):
            crew.start(work, f"{stage.outcome.cycles}-{number}")
        if stage.chance.random() < 0.8:
            # Else also while the archive is made or opened.
            crew.hear(1)
        crew.listen(stage.chance.uniform(0.0, 0.03))
        moment = disk.cut(stage.chance.choice((0, 1, 2, 2)))
        stage.cycle()
    # The file system stops, but the processes go on: without power they would have got nothing more. ext4 lets an fsync
    # succeed that is under way when it stops, and then has nothing on the disk.
    ledger.forget_since(moment)
    # The index of the log is mapped memory, which a file system that stopped gives no more pages for.
    ledger.broken = [status for status in ledger.broken if status != signal.SIGBUS]
    disk.unmount()
    disk.mount()
