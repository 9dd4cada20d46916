"""What must hold after a load, and its figures: nothing lost, nothing that grows with the time it lasts."""

from __future__ import annotations

import heapq
import itertools
import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from otel_audit.archive.connecting import LOG_LIMIT
from tests.archive_material import connect
from tests.faults.checks import compare
from tests.faults.frame import Outcome
from tests.faults.loading import Told, read_received, read_told, told_files

__all__ = ["Sample", "Watch", "check_calls", "check_delivered", "check_flat", "check_shown"]

LARGEST_LOG: Final = 4 * LOG_LIMIT
"""Bytes of it at any time: beside readers it is begun anew by writers, and the more patiently the larger it is."""
MOST_MEMORY: Final = 300.0
"""MB of any process: Python, its libraries, and 64 MB of pages for each of its connections."""
LONG: Final = 300.0
"""Seconds from which on thirds of a load can be compared: caches are full after the first minute."""
GROWTH: Final = 1.15
"""Most that memory may have grown from the first third to the last."""
SLOWER: Final = 2.0
"""Most that the slowest hundredth of calls may have become slower; the machine has other work, too."""
UNNOTICED: Final = 20.0
"""Milliseconds that say nothing beside a collector and readers on the same machine."""


@dataclass
class Sample:
    """How things were at a moment.

    Args:
        writers: Memory of the largest writer, MB.
        show: Memory of ``show -f``, MB.
        verify: Memory of ``verify``, MB; 0 between two runs.
        log: Bytes of the write-ahead log.
        backlog: Records that waited for the collector.
    """

    writers: float
    show: float
    verify: float
    log: int
    backlog: int


@dataclass
class Watch:
    """What was seen of a load.

    Args:
        began: When it began, by the monotonic clock.
        ended: When the last writer stopped recording.
        samples: How things were meanwhile, in order; the last one when all was delivered.
    """

    began: float
    ended: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long was recorded."""
        return self.ended - self.began

    def third(self, moment: int) -> int:
        """Return in which third of the load a moment was, given in nanoseconds: 0, 1 or 2."""
        return min(2, max(0, int(3 * (moment / 1e9 - self.began) / self.seconds)))


def check_calls(path: Path, tags: Sequence[str], watch: Watch, outcome: Outcome) -> None:
    """Look up each record that a receipt was given for, and compare how long calls took first and last."""
    files = [(file, tag) for tag in tags for file in told_files(path.parent, tag)]
    told = heapq.merge(*(read_told(file, tag) for file, tag in files), key=lambda one: one.sequence)
    taken = [array("I") for _ in range(3)]
    with closing(connect(path)) as connection:
        rows = connection.execute("SELECT sequence, leaf, user, otlp, record_id FROM record ORDER BY sequence")
        for one, row in _beside(told, rows):
            outcome.acknowledged += 1
            same = row is not None and compare(row[:4], one.receipt) and row[4].hex() == one.receipt.record_id
            outcome.lost += not same
            taken[watch.third(one.receipt.moment)].append(one.microseconds)
    rate = outcome.acknowledged / watch.seconds
    outcome.figures.append(
        f"{outcome.acknowledged:,} records from {len(tags)} processes in {watch.seconds:,.0f} seconds,"
        f" {rate:,.0f} a second"
    )
    (first, slow), (last, slow_last) = (_percentiles(each) for each in (taken[0], taken[2]))
    outcome.figures.append(
        f"a call, in the first and in the last third: median {first:.1f} and {last:.1f} ms,"
        f" 99th percentile {slow:.1f} and {slow_last:.1f} ms"
    )
    if watch.seconds >= LONG:
        outcome.demand(
            slow_last <= slow * SLOWER + UNNOTICED, f"calls became slower: {slow:.1f} ms, later {slow_last:.1f} ms"
        )


def _beside(told: Iterator[Told], rows: Iterator[Any]) -> Iterator[tuple[Told, tuple[Any, ...] | None]]:
    """Yield what was told with the row of that sequence, or with None; both in the order of sequences."""
    row = next(rows, None)
    for one in told:
        while row is not None and row[0] < one.sequence:
            row = next(rows, None)
        yield one, row if row is not None and row[0] == one.sequence else None


def _percentiles(microseconds: array[int]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    if not microseconds:
        return 0.0, 0.0
    ordered = sorted(microseconds)
    return ordered[len(ordered) // 2] / 1_000, ordered[len(ordered) * 99 // 100] / 1_000


def check_delivered(path: Path, received: Path, outcome: Outcome) -> None:
    """Compare what the collector took with the archive: each record, and after removing duplicates nothing else."""
    with closing(connect(path)) as connection:
        head = int(connection.execute("SELECT max(sequence) FROM record").get)
        # By sequence, in little memory: a load makes millions.
        identities = bytearray(16 * (head + 1))
        for sequence, identity in connection.execute("SELECT sequence, record_id FROM record"):
            identities[16 * sequence : 16 * sequence + 16] = identity
        dead = connection.execute("SELECT count(*) FROM dead_letter").get
    came, others, deliveries = bytearray(head + 1), 0, 0
    for sequence, identity in read_received(received):
        deliveries += 1
        if 0 < sequence <= head and identities[16 * sequence : 16 * sequence + 16] == identity:
            came[sequence] = 1
        else:
            others += 1
    distinct = sum(came)
    outcome.lost += head - distinct
    outcome.duplicated += deliveries - others - distinct
    outcome.demand(distinct == head, f"{distinct:,} records delivered, {head:,} in the archive")
    outcome.demand(not others, f"{others} deliveries are of no record in the archive")
    outcome.demand(not dead, f"{dead} dead letters")


def check_shown(path: Path, shown: Path, outcome: Outcome) -> None:
    """See that ``show -f`` showed each event once, in order."""
    count = 0
    with closing(connect(path)) as connection, shown.open(encoding="utf-8", errors="replace") as lines:
        events = connection.execute("SELECT sequence FROM record WHERE kind = 1 ORDER BY sequence")
        for line, row in itertools.zip_longest(lines, events):
            if line is None or row is None or line != json.dumps({"sequence": row[0]}) + "\n":
                outcome.blame(f"show -f wrote {line!r} where the archive has {row}")
                break
            count += 1
    outcome.figures.append(f"`show -f` showed {count:,} records, each once and in order")


def check_flat(watch: Watch, outcome: Outcome) -> None:
    """See that memory, the write-ahead log and the backlog have not grown beyond their bounds."""
    *during, after = watch.samples
    third = max(1, len(during) // 3)
    for name, values, typical in (
        ("the largest writer", [one.writers for one in during], _usual),
        ("`show -f`", [one.show for one in during], _usual),
        # One process after the other, each of which begins with little: what it comes to is what may not grow.
        ("`verify`", [one.verify for one in during], max),
    ):
        first, last = typical(values[:third]), typical(values[-third:])
        most = max(values)
        outcome.figures.append(
            f"memory of {name}: {first:.0f} MB in the first third, {last:.0f} MB in the last, {most:.0f} MB at most"
        )
        outcome.demand(0 < most <= MOST_MEMORY, f"{name} had {most:.0f} MB")
        if watch.seconds >= LONG:
            outcome.demand(last <= first * GROWTH, f"{name} grew from {first:.0f} MB to {last:.0f} MB")
    log, backlog = max(one.log for one in during), max(one.backlog for one in during)
    outcome.figures.append(
        f"write-ahead log at most {log / 2**20:.1f} MiB; at most {backlog:,} records waited for the collector,"
        f" {after.backlog:,} in the end"
    )
    outcome.demand(0 < log <= LARGEST_LOG, f"the write-ahead log had {log:,} bytes")
    anew = min(one.log for one in during[-third:]) <= LOG_LIMIT
    outcome.demand(anew, "the write-ahead log was not begun anew in the last third")
    outcome.demand(not after.backlog, f"{after.backlog:,} records still wait")


def _usual(values: Sequence[float]) -> float:
    """Return the median of those moments at which the process was there."""
    return median([value for value in values if value] or [0.0])
