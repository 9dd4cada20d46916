"""What an archive's growth costs: inserts, look-ups, verification and pruning of one archive at several sizes."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final

from otel_audit.archive.administration import Administration
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.retention import Pruner
from otel_audit.archive.stats import histogram
from otel_audit.archive.verify import verify
from otel_audit.record import AuditRecord
from otel_audit.retention_settings import Retention, Rule
from tests.bench.archives import BLOCK, Criteria, insert_rate, query_time
from tests.bench.measure import Sizes, progress
from tests.bench.population import DAY, FREQUENT, HOSTS, USERS, Filler, Population
from tests.bench.table import Row

__all__ = ["growth"]

_BLOCKS: Final = 3
_JITTER: Final = 100
"""Records by which a pruning by age may miss a number: events are recorded nearly in order only."""
_UNITS: Final = {"inserts": "records/s", "verify, a record": "µs", "prune, a record": "µs"}
_NOTES: Final = {
    "inserts": f"Blocks of up to {BLOCK:,} records through the queue, with fsync and the folding into look-up tables.",
    "verify, a record": "Complete, in one process; the file is in the system's cache as far as it fits.",
    "prune, a record": "The oldest records, a tenth of the smallest size, at each size; the disk space is given back.",
}

Records = Iterator[tuple[AuditRecord, bytes]]
Figures = dict[str, float]


def growth(sizes: Sizes, folder: Path) -> list[Row]:
    """Let one archive grow, and measure it at each of some sizes."""
    path, population = folder / "growing.db", Population(sizes.growth[-1])
    records = population.records(1)
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    reached = pruned = 0
    for size in sizes.growth:
        progress(f"growth to {size:,} records")
        found = {"inserts": _inserts(path, records, size - reached, sizes.growth[0])}
        reached = size
        with open_archive(path) as archive:
            found |= _look_ups(archive, population, pruned, size, sizes.rounds)
        found["verify, a record"] = _verify(path) / size
        until = pruned + sizes.growth[0] // 10
        found["prune, a record"] = _prune(path, population, until, until - pruned)
        pruned = until
        for name, value in found.items():
            series[name].append((size, value))
    return [_row(name, points) for name, points in series.items()]


def _row(name: str, points: list[tuple[int, float]]) -> Row:
    (least, first), (most, last) = points[0], points[-1]
    return Row(
        figure=f"growth: {name}, at {most:,} records / at {least:,}",
        unit=_UNITS.get(name, "ms"),
        ours=last,
        other=first,
        ratio=last / first,
        note=_NOTES.get(name, ""),
        series=tuple(points),
    )


def _inserts(path: Path, records: Records, count: int, smallest: int) -> float:
    """Append so many records, and return how many a second went in with the last blocks of them."""
    block = min(BLOCK, smallest // (_BLOCKS + 1))
    with Filler(path) as enqueue:
        for record, otlp in islice(records, count - _BLOCKS * block):
            enqueue(record, otlp)
    return median(insert_rate(path, list(islice(records, block))) for _ in range(_BLOCKS))


def _look_ups(archive: Archive, population: Population, pruned: int, size: int, rounds: int) -> Figures:
    """Return the milliseconds of look-ups among the records that have their content still."""
    # Fewer in archives as small as those of a test.
    full = (size - pruned) * 9 // 10

    def user(chance: random.Random, _: Population) -> dict[str, str]:
        return {"user": f"frequent-{chance.randrange(FREQUENT)}"}

    def host(chance: random.Random, _: Population) -> dict[str, str]:
        return {"host": f"host-{chance.randrange(HOSTS):02d}.example"}

    def trace(chance: random.Random, _: Population) -> dict[str, str]:
        return {"trace_id": population.trace(chance.randrange(pruned + _JITTER, size - 10))}

    def anybody(chance: random.Random, _: Population) -> dict[str, str]:
        return {"user": f"user-{chance.randrange(USERS):05d}"}

    wanted: dict[str, tuple[Criteria, int]] = {
        "last 50 of a frequent user": (user, min(50, full // 101 // FREQUENT)),
        "last 50 of one of 20,000 users": (anybody, min(50, full // USERS)),
        "last 50 of a host": (host, min(50, full // HOSTS)),
        "a trace of 10 records": (trace, 10),
    }
    found = {}
    for name, (criteria, expected) in wanted.items():
        chance = random.Random(1)
        found[name] = _usual(partial(query_time, archive, population, criteria, chance, expected), rounds)
    end = population.time(size)
    edges = [end - DAY + hour * DAY // 24 for hour in range(25)]
    found["last day by hours"] = _usual(lambda: _seconds(lambda: histogram(archive, edges)) * 1e3, rounds)
    return found


def _usual(figure: Callable[[], float], rounds: int) -> float:
    """Return the median of some rounds, after one that warms up."""
    figure()
    return median(figure() for _ in range(rounds))


def _verify(path: Path) -> float:
    """Return the microseconds of a complete verification."""

    def complete() -> None:
        if not verify(path).intact:
            raise RuntimeError("the archive is not intact")

    return _seconds(complete) * 1e6


def _prune(path: Path, population: Population, until: int, count: int) -> float:
    """Prune all records up to a number, about so many, and return the microseconds of each."""
    rule = Rule("*", time.time_ns() - population.time(until), "*")
    with Administration(path, b"", b"") as administration:
        began = time.perf_counter()
        outcome = Pruner(administration, Retention((rule,)), spare=0.0).prune()
        taken = time.perf_counter() - began
    if abs(outcome.records.total() - count) > _JITTER:
        raise RuntimeError(f"{outcome.records.total():,} records were pruned instead of {count:,}")
    return taken / count * 1e6


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
