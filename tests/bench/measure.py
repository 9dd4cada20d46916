"""Blocks in turns, medians, and an fsync of a chosen length."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import apsw

__all__ = ["Sizes", "Spent", "alternate", "call_times", "pair_ratio", "progress", "slow_down_fsync", "spent"]

Event = TypeVar("Event")
Figure = TypeVar("Figure")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much to measure; `FULL` and `QUICK` in the main module."""

    rounds: int
    calls: int
    commits: int
    slow_commits: int
    sustained: int
    task_records: int
    burst: int
    large: int
    small: int
    waiting: int
    starts: int
    growth: tuple[int, ...]


def progress(text: str) -> None:
    """Tell a waiting person what is being measured; the table has standard output for itself."""
    print(text, file=sys.stderr, flush=True)


def alternate(
    contenders: Mapping[str, Callable[[], Figure]], rounds: int, *, warm_up: int = 1
) -> dict[str, list[Figure]]:
    """Run one block of each contender in turn, ABAB…, and return their figures without those of the warm-up."""
    figures: dict[str, list[Figure]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, block in contenders.items():
            figure = block()
            if number >= warm_up:
                figures[name].append(figure)
    return figures


def pair_ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """Return the median of the ratios of neighbouring blocks, which drift of the machine cancels out of."""
    return median(a / b for a, b in zip(ours, other, strict=True))


def call_times(call: Callable[[Event], object], events: Sequence[Event], *, per_second: int | None = None) -> float:
    """Return the median time of a call in microseconds.

    Args:
        call: What to time.
        events: One for each call.
        per_second: Pace in bursts of 50 calls; None: as fast as they return.
    """
    clock = time.perf_counter_ns
    taken = []
    due = time.perf_counter()
    for start in range(0, len(events), 50):
        for event in events[start : start + 50]:
            began = clock()
            call(event)
            taken.append(clock() - began)
        if per_second is not None:
            due += 50 / per_second
            time.sleep(max(0.0, due - time.perf_counter()))
    return median(taken) / 1000


@dataclass(frozen=True)
class Spent:
    """What a block took.

    Args:
        wall: Records a second of wall-clock time.
        cpu: Microseconds of this process's CPU a record, user and system.
    """

    wall: float
    cpu: float


def spent(work: Callable[[], None], records: int) -> Spent:
    """Do some work and return what it took per record."""
    cpu, began = _cpu_seconds(), time.perf_counter()
    work()
    wall = time.perf_counter() - began
    return Spent(records / wall, (_cpu_seconds() - cpu) / records * 1e6)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def slow_down_fsync(seconds: float) -> None:
    """Make each fsync of this process take at least so long: SQLite's through a default VFS, and `os.fsync`."""
    base = apsw.vfs_names()[0]
    quick = os.fsync

    def rest(began: float) -> None:
        remaining = seconds - (time.perf_counter() - began)
        if remaining > 0:
            time.sleep(remaining)

    class SlowFile(apsw.VFSFile):
        def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
            began = time.perf_counter()
            super().xSync(flags)
            rest(began)

    class SlowVfs(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("slow-fsync", base, makedefault=True)

        def xOpen(  # noqa: N802 - SQLite's name
            self, name: str | apsw.URIFilename | None, flags: list[int]
        ) -> apsw.VFSFile:
            return SlowFile(base, name, flags)

    def slow_fsync(descriptor: int) -> None:
        began = time.perf_counter()
        quick(descriptor)
        rest(began)

    # SQLite keeps a pointer to it, not a reference.
    _kept.append(SlowVfs())
    os.fsync = slow_fsync  # type: ignore[assignment]


_kept: list[apsw.VFS] = []
