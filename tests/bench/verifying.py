"""What a complete verification costs beside a loop that only reads the same rows and hashes their bytes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import apsw

from otel_audit.archive import index
from otel_audit.archive.verify import verify
from tests.bench.measure import Sizes, alternate, pair_ratio, progress
from tests.bench.population import Population
from tests.bench.table import Goal, Row

__all__ = ["verifying"]


def verifying(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure a complete verification in one process, and beside it in two."""
    path, records = folder / "verify.db", sizes.small
    progress(f"verification of {records:,} records")
    Population(records).fill(path)
    with closing(apsw.Connection(str(path))) as connection:
        while index.fold(connection):
            pass

    columns = "sequence, kind, time, observed, host, user, source, type, outcome, session, address, trace, record_id,"
    columns += " resource, leaf, node, salt"

    def bare() -> None:
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            connection.execute("PRAGMA cache_size=-65536")
            for row in connection.execute(f"SELECT {columns}, otlp FROM record"):
                hashlib.sha256(row[-1]).digest()

    def complete(jobs: int) -> None:
        if not verify(path, jobs=jobs).intact:
            raise RuntimeError("the archive is not intact")

    figures = alternate(
        {
            "one": lambda: _microseconds(lambda: complete(1), records),
            "bare": lambda: _microseconds(bare, records),
            "two": lambda: _microseconds(lambda: complete(2), records),
        },
        sizes.rounds,
    )
    return [
        Row(
            figure=f"complete verify / reading the same rows and hashing their bytes, {records:,} records",
            unit="µs",
            ours=median(figures["one"]),
            other=median(figures["bare"]),
            ratio=pair_ratio(figures["one"], figures["bare"]),
            goal=Goal(ratio_at_most=6.0),
            note="Wall-clock time a record, in one process.",
        ),
        Row(
            figure=f"complete verify with two processes / with one, {records:,} records",
            unit="µs",
            ours=median(figures["two"]),
            other=median(figures["one"]),
            ratio=pair_ratio(figures["two"], figures["one"]),
            note="The start of the processes included.",
        ),
    ]


def _microseconds(work: Callable[[], None], records: int) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / records * 1e6
