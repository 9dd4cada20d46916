"""What integrity costs: commits with the Merkle tree, with leaves alone, and with nothing of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final

import apsw

from otel_audit.archive.commit import Committer, Header, Row, row_of
from otel_audit.archive.database import Database
from otel_audit.archive.merkle import Frontier
from otel_audit.otlp import encode_resource, encode_scope
from tests.bench import table
from tests.bench.measure import Sizes, alternate, pair_ratio, progress
from tests.bench.population import Population

__all__ = ["tree"]

_BATCH = 1_024


def tree(sizes: Sizes, folder: Path) -> list[table.Row]:
    """Measure single durable commits, and batches of 1,024, with the tree, with leaves alone, and without both."""
    found = []
    for batch, commits, goal in ((1, sizes.commits, 1.1), (_BATCH, max(10, sizes.commits // 20), 1.25)):
        progress(f"commits of {batch} with the tree and without")
        rows = [row_of(*made) for made in islice(Population(batch * commits).records(1), batch * commits)]
        made = {kind.__name__: _committer(kind, folder / f"{kind.__name__}-{batch}.db") for kind in _KINDS}
        figures = alternate(
            {name: partial(_microseconds, committer, rows, batch) for name, committer in made.items()}, sizes.rounds
        )
        for committer in made.values():
            committer.database.close()
        ours = figures["Committer"]
        for other, figure, wanted, note in (
            ("Leaves", "with the tree / with leaves alone", table.Goal(ratio_at_most=goal), _LEAVES),
            ("Nothing", "with salts, leaves and tree / without", None, _NOTHING),
        ):
            found.append(
                table.Row(
                    figure=f"commit of {batch:,} {figure}",
                    unit="µs",
                    ours=median(ours),
                    other=median(figures[other]),
                    ratio=pair_ratio(ours, figures[other]),
                    goal=wanted,
                    note=note,
                )
            )
    return found


_LEAVES: Final = "A whole commit, fsync included. Leaves alone: each record is hashed with a salt, nothing is above it."
_NOTHING: Final = "A whole commit, fsync included. Without: no salt and no hash is made or stored."


class Leaves(Committer):
    """Commits the same records with salts and leaves, and no tree above them."""

    def _values(
        self, connection: apsw.Connection, groups: Iterable[tuple[Header, Sequence[Row]]], tree: Frontier
    ) -> tuple[list[object], list[bytes]]:
        flat = _Flat(tree.size, [b""])
        values, leaves = super()._values(connection, groups, flat)
        values[15::19] = [None] * len(leaves)
        tree.size, tree.peaks = flat.size, [leaves[-1]]
        return values, leaves


class _Flat(Frontier):
    """Takes leaves and does nothing with them."""

    __slots__ = ()

    def push(self, leaf: bytes) -> bytes:
        """Count a leaf."""
        self.size += 1
        return leaf


class Nothing(Committer):
    """Commits the same records without any hash."""

    def _values(
        self, connection: apsw.Connection, groups: Iterable[tuple[Header, Sequence[Row]]], tree: Frontier
    ) -> tuple[list[object], list[bytes]]:
        values: list[object] = []
        sequence = before = tree.size
        rows = [row for _, group in groups for row in group]
        for record_id, time_, observed, host, user, source, type_, *derived, otlp, kind in rows:
            sequence += 1
            values += (sequence, kind, time_, observed, host, user, source, type_)
            values += derived
            values += (bytes.fromhex(record_id.replace("-", "")), 1, b"", None, None, otlp, None)
        tree.size, tree.peaks = sequence, [b""]
        return values, [b""] * (sequence - before)


_KINDS: Final = (Committer, Leaves, Nothing)


def _committer(made: type[Committer], path: Path) -> Committer:
    database = Database(path, "write")
    return made(database, encode_resource({"service.name": "bench"}), encode_scope("otel_audit", "1"))


def _microseconds(committer: Committer, rows: Sequence[Row], batch: int) -> float:
    """Return the median time of a commit."""
    taken = []
    with committer.database:
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            began = time.perf_counter()
            committer.commit(part)
            taken.append(time.perf_counter() - began)
    return median(taken) * 1e6
