"""What does not get dearer as the archive grows: inserts, look-ups, and the last day by hours."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import apsw

from otel_audit.archive.index import RUN
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.stats import histogram
from otel_audit.record import AuditRecord
from tests.bench.measure import Sizes, alternate, pair_ratio, progress
from tests.bench.population import DAY, FREQUENT, HOSTS, SPREAD, USERS, Filler, Population
from tests.bench.table import Goal, Row

__all__ = ["BLOCK", "Criteria", "archives", "insert_rate", "query_time"]

_LOOKUPS: Final = 20
BLOCK: Final = RUN
"""Records of a block of inserts: folding is dearer towards the end of a run, so a block has to span a whole one."""
_HOUR: Final = DAY // 24
_FAST: Final = 5.0

Criteria = Callable[[random.Random, Population], dict[str, str]]


def archives(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure a large archive beside a small one that holds the same kind of records."""
    large = Population(sizes.large)
    small = Population(sizes.small)
    paths = {"large": folder / "large.db", "small": folder / "small.db"}
    progress(f"archives of {sizes.large:,} and {sizes.small:,} records")
    filled = large.fill(paths["large"])
    small.fill(paths["small"])
    note = f"{_bytes_a_record(paths['large'], sizes.large):.0f} bytes a record on disk; filled at {filled}."
    rows = [_inserts(sizes, large, small, paths, note)]
    with open_archive(paths["large"]) as big, open_archive(paths["small"]) as little:
        progress("look-ups")
        rows += [_look_up(sizes, look_up, (big, large), (little, small)) for look_up in _LOOK_UPS]
        rows.append(_ordinary_user(sizes, big, large))
        progress("histogram")
        rows.append(_histogram(sizes, big, large, folder / "plain.db"))
    return rows


def _inserts(sizes: Sizes, large: Population, small: Population, paths: dict[str, Path], note: str) -> Row:
    further = large.records(large.size + 1)
    copy = paths["small"].with_name("copy.db")

    def at_small() -> float:
        # Anew for each block: it must not become a larger archive.
        shutil.copyfile(paths["small"], copy)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        return insert_rate(copy, list(islice(small.records(small.size + 1), BLOCK)))

    def at_large() -> float:
        return insert_rate(paths["large"], list(islice(further, BLOCK)))

    progress("inserts")
    figures = alternate({"large": at_large, "small": at_small}, sizes.rounds)
    return Row(
        figure=f"insert rate at {sizes.large:,} records / at {sizes.small:,}",
        unit="records/s",
        ours=median(figures["large"]),
        other=median(figures["small"]),
        ratio=pair_ratio(figures["large"], figures["small"]),
        goal=Goal(ratio_at_least=0.9),
        note=f"Blocks of {BLOCK:,} through the queue, with fsync and the folding into look-up tables; {note}",
    )


def insert_rate(path: Path, made: list[tuple[AuditRecord, bytes]]) -> float:
    """Return how many records a second an archive takes, from opening it until they are committed and folded."""
    began = time.perf_counter()
    writer = Filler(path)
    for record, otlp in made:
        writer.enqueue(record, otlp)
    writer.flush()
    taken = time.perf_counter() - began
    writer.close()
    return len(made) / taken


def _frequent(chance: random.Random, _: Population) -> dict[str, str]:
    return {"user": f"frequent-{chance.randrange(FREQUENT)}"}


def _host(chance: random.Random, _: Population) -> dict[str, str]:
    return {"host": f"host-{chance.randrange(HOSTS):02d}.example"}


def _trace(chance: random.Random, population: Population) -> dict[str, str]:
    return {"trace_id": population.trace(chance.randrange(1, population.size + 1))}


def _spread(chance: random.Random, _: Population) -> dict[str, str]:
    return {"user": f"spread-{chance.randrange(SPREAD)}"}


def _anybody(chance: random.Random, _: Population) -> dict[str, str]:
    return {"user": f"user-{chance.randrange(USERS):05d}"}


_LOOK_UPS: Final[tuple[tuple[str, Criteria, int], ...]] = (
    ("last 50 of a user", _frequent, 50),
    ("last 50 of a host", _host, 50),
    ("a trace of 10 records", _trace, 10),
    ("the 50 records of a user, spread over the whole archive", _spread, 50),
)


def _look_up(
    sizes: Sizes,
    look_up: tuple[str, Criteria, int],
    large: tuple[Archive, Population],
    small: tuple[Archive, Population],
) -> Row:
    what, criteria, expected = look_up
    chance = random.Random(1)
    figures = alternate(
        {
            "large": lambda: query_time(*large, criteria, chance, expected),
            "small": lambda: query_time(*small, criteria, chance, expected),
        },
        sizes.rounds,
    )
    return Row(
        figure=f"{what}, at {sizes.large:,} records / at {sizes.small:,}",
        unit="ms",
        ours=median(figures["large"]),
        other=median(figures["small"]),
        ratio=pair_ratio(figures["large"], figures["small"]),
        goal=Goal(ratio_at_most=2.0, ours_at_most=_FAST),
    )


def _ordinary_user(sizes: Sizes, archive: Archive, population: Population) -> Row:
    chance = random.Random(2)
    expected = min(50, int(sizes.large / USERS * 0.9))
    figures = alternate({"large": lambda: query_time(archive, population, _anybody, chance, expected)}, sizes.rounds)
    return Row(
        figure=f"last 50 of one of {USERS:,} users, at {sizes.large:,} records",
        unit="ms",
        ours=median(figures["large"]),
        goal=Goal(ours_at_most=_FAST),
        note=f"In the small archive such a user has {sizes.small // USERS} records only.",
    )


def query_time(
    archive: Archive, population: Population, criteria: Criteria, chance: random.Random, expected: int
) -> float:
    """Return the median milliseconds of a look-up, decoded records included."""
    taken = []
    for _ in range(_LOOKUPS):
        wanted: dict[str, Any] = criteria(chance, population)
        began = time.perf_counter_ns()
        found = list(archive.query(limit=50, **wanted))
        taken.append((time.perf_counter_ns() - began) / 1e6)
        if len(found) < expected:
            raise RuntimeError(f"{wanted} found {len(found)} records instead of {expected}")
    return median(taken)


def _histogram(sizes: Sizes, archive: Archive, population: Population, path: Path) -> Row:
    head = archive.status().sequence
    end = population.time(head)
    edges = [end - DAY + hour * _HOUR for hour in range(25)]
    with closing(apsw.Connection(str(path))) as plain:
        plain.execute("PRAGMA cache_size=-65536")
        plain.execute("CREATE TABLE record (sequence INTEGER PRIMARY KEY, time INTEGER NOT NULL)")
        plain.execute(
            "INSERT INTO record WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
            f" SELECT n, {population.time_sql()} FROM numbers",
            (head,),
        )
        plain.execute("CREATE INDEX record_time ON record (time)")

        def count() -> int:
            statement = "SELECT count(*) FROM record WHERE time >= ? AND time < ?"
            return int(plain.execute(statement, (edges[0], edges[-1])).get)

        records = count()
        if sum(histogram(archive, edges)) != records:
            raise RuntimeError("the histogram does not add up to the bare count")
        figures = alternate(
            {"ours": partial(_milliseconds, lambda: histogram(archive, edges)), "bare": partial(_milliseconds, count)},
            max(sizes.rounds, 11),
        )
    return Row(
        figure="last day's hourly histogram / a bare count(*) of the same range",
        unit="ms",
        ours=median(figures["ours"]),
        other=median(figures["bare"]),
        ratio=pair_ratio(figures["ours"], figures["bare"]),
        goal=Goal(ratio_at_most=3.0),
        note=f"{records:,} records in the day; the count is over an ordinary index on time.",
    )


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _bytes_a_record(path: Path, records: int) -> float:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / records
