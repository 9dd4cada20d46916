"""From the call to the collector's answer: records a second, and CPU a record, of threads and of tasks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from otel_audit.provider import AuditProvider
from tests.bench.events import HOST, SOURCE, Event, aaudit, audit, events
from tests.bench.measure import Sizes, Spent, alternate, pair_ratio, progress, spent
from tests.bench.sdk import Sdk
from tests.bench.table import Goal, Row
from tests.rotel import Rotel

__all__ = ["sustained", "tasks"]

_TASKS: Final = 256
_PAUSE: Final = 0.001


def sustained(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure one thread that records ``queued`` without a pause, and what each side loses of a burst."""
    with _both(folder, "queued") as (ours, sdk):
        log = audit(ours.get_logger(SOURCE, HOST))
        count = sizes.sustained

        def record(made: list[Event]) -> None:
            for event in made:
                log(event)
            _deliver(ours)

        def emit(made: list[Event]) -> None:
            for event in made:
                while sdk.full:
                    time.sleep(_PAUSE)
                sdk.emit(event)
            sdk.flush()

        progress("queued, sustained")
        figures = alternate(
            {
                "ours": lambda: _spent(record, count),
                "sdk": lambda: _spent(emit, count),
            },
            sizes.rounds,
        )
        if sdk.lost:
            raise RuntimeError(f"the SDK lost {sdk.lost} records that were paced to its queue")
        lost = _burst(sdk, sizes.burst)
    note = f"Blocks of {count:,}. The SDK's caller was paced to its queue, which it does not do itself: nothing lost."
    return [
        *_rows("queued, sustained", figures, 2.0, 0.45, note),
        Row(
            figure=f"lost of a burst of {sizes.burst:,} / the SDK",
            unit="%",
            ours=0.0,
            other=lost,
            note="Ours waits for room in the queue instead; its blocks above count only where everything was accepted.",
        ),
    ]


def tasks(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure 256 tasks of one event loop, each record durable before its task goes on."""
    with _both(folder, "commit") as (ours, sdk):
        log = ours.get_logger(SOURCE, HOST)

        async def record(event: Event) -> None:
            await aaudit(log, event)

        async def emit(event: Event) -> None:
            while sdk.full:  # noqa: ASYNC110 - the SDK tells nobody when there is room
                await asyncio.sleep(_PAUSE)
            sdk.emit(event)
            await asyncio.sleep(0)

        progress(f"{_TASKS} tasks")
        figures = alternate(
            {
                "ours": lambda: _spent(partial(_run, record, partial(_deliver, ours)), sizes.task_records),
                "sdk": lambda: _spent(partial(_run, emit, sdk.flush), sizes.task_records),
            },
            sizes.rounds,
        )
        lost = f"the SDK lost {sdk.lost} of {sdk.emitted:,}"
    note = f"Blocks of {sizes.task_records:,}; ours committed with fsync, the SDK's tasks paced to its queue: {lost}."
    return _rows(f"{_TASKS} asyncio tasks, durable", figures, 1.5, 0.65, note)


def _run(call: Callable[[Event], Awaitable[None]], finish: Callable[[], object], made: list[Event]) -> None:
    remaining = iter(made)

    async def task() -> None:
        for event in remaining:
            await call(event)

    async def everything() -> None:
        await asyncio.gather(*(task() for _ in range(_TASKS)))

    asyncio.run(everything())
    finish()


@contextlib.contextmanager
def _both(folder: Path, durability: str) -> Iterator[tuple[AuditProvider, Sdk]]:
    """Yield both sides, sending to one collector."""
    with Rotel() as rotel:
        sdk = Sdk(rotel.http_endpoint)
        archive = folder / f"{durability}.db"
        endpoint = rotel.http_endpoint
        ours = AuditProvider(
            archive=archive, endpoint=endpoint, durability="queued" if durability == "queued" else "commit"
        )
        with ours:
            yield ours, sdk
        sdk.close()


def _deliver(provider: AuditProvider) -> None:
    if not provider.force_flush(120):
        raise RuntimeError("the collector did not accept everything")


def _spent(work: Callable[[list[Event]], None], count: int) -> Spent:
    made = events(count)
    return spent(partial(work, made), count)


def _burst(sdk: Sdk, count: int) -> float:
    """Return the percentage of records that the SDK loses when they come at full speed."""
    made = events(count)
    before = sdk.lost
    for event in made:
        sdk.emit(event)
    sdk.flush()
    return (sdk.lost - before) / count * 100


def _rows(figure: str, figures: dict[str, list[Spent]], rate_goal: float, cpu_goal: float, note: str) -> list[Row]:
    rate = {name: [block.wall for block in blocks] for name, blocks in figures.items()}
    cpu = {name: [block.cpu for block in blocks] for name, blocks in figures.items()}
    return [
        Row(
            figure=f"{figure}, call to collector's answer / the SDK",
            unit="records/s",
            ours=median(rate["ours"]),
            other=median(rate["sdk"]),
            ratio=pair_ratio(rate["ours"], rate["sdk"]),
            goal=Goal(ratio_at_least=rate_goal),
            note=note,
        ),
        Row(
            figure=f"{figure}, CPU a record / the SDK",
            unit="µs",
            ours=median(cpu["ours"]),
            other=median(cpu["sdk"]),
            ratio=pair_ratio(cpu["ours"], cpu["sdk"]),
            goal=Goal(ratio_at_most=cpu_goal),
        ),
    ]
