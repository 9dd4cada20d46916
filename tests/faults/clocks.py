"""A wall clock that jumps, back and far ahead, under processes that record; the monotonic clock is left alone."""

from __future__ import annotations

import mmap
import struct
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.archive_material import connect
from tests.faults.checks import check
from tests.faults.frame import Stage
from tests.faults.ledger import Crew, Ledger, Scribe
from tests.faults.writing import Work, for_ever

__all__ = ["clock_jumps"]

_HOUR: Final = 3_600 * 10**9
JUMPS: Final = (0, -_HOUR, _HOUR, -24 * _HOUR, 400 * 24 * _HOUR, -10 * 8_766 * _HOUR, 50 * 8_766 * _HOUR, -1, 1)
"""Nanoseconds from the right time."""


def clock_jumps(stage: Stage) -> None:
    """Set the clock of three writers to other times again and again, also back between two records."""
    stage.repeat(_jump_on_one_archive)


def _jump_on_one_archive(stage: Stage) -> None:
    path, ledger = stage.archive(), Ledger()
    with mmap.mmap(-1, 8) as offset, Crew(ledger) as crew:
        for number in range(3):
            work = _with_clock(offset, for_ever(path, number))
            crew.start(work, f"{stage.outcome.cycles}-{number}")
        for _ in range(20):
            stage.outcome.demand(crew.hear(5), f"nothing more is recorded: {ledger.refused[-1:]}")
            offset[:8] = struct.pack("q", stage.chance.choice(JUMPS))
            stage.cycle()
    stage.outcome.demand(not ledger.refused, f"refused: {ledger.refused[:1]}")
    ids = [told.record_id for told in ledger.acknowledged]
    stage.outcome.demand(len(set(ids)) == len(ids), "two records have the same id")
    _check_times(stage, path)
    check(path, ledger, stage.outcome)


def _with_clock(offset: mmap.mmap, work: Work) -> Work:
    """Return work that is done by a clock which is wrong by what others write into shared memory."""

    def wrongly(scribe: Scribe) -> None:
        right = time.time_ns

        def wrong() -> int:
            return right() + int(struct.unpack("q", offset[:8])[0])

        time.time_ns = wrong
        time.time = lambda: wrong() / 10**9
        work(scribe)

    return wrongly


def _check_times(stage: Stage, path: Path) -> None:
    """See that the clock did go back: in the order of their sequence, the records are not in that of their times."""
    with closing(connect(path)) as connection:
        times = [row[0] for row in connection.execute("SELECT observed FROM record ORDER BY sequence")]
    stage.outcome.demand(times != sorted(map(int, times)), "the clock never went back")
