"""Archives to be edited: of several sizes, folded or not, with dead letters, erased and pruned records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import apsw

from otel_audit.archive import index
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.leaf import ERASURE, PRUNE
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.ranges import Range
from otel_audit.archive.received import Foreign, keep
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.report import Root
from otel_audit.archive.verify import verify_connection
from otel_audit.build import build_record
from otel_audit.catalog import Catalog
from otel_audit.otlp import encode, encode_scope
from otel_audit.provider import AuditProvider
from otel_audit.record import Session

__all__ = ["Made", "Unfit", "copy", "make_archives"]


class Unfit(Exception):
    """This edit changes nothing here: take another."""


class Made(NamedTuple):
    """An archive to edit, in memory.

    Args:
        name: What it is.
        connection: The archive.
        root: Its root, noted.
        older: Copies of earlier states, and of one that grew otherwise since, with the code that each is to give.
    """

    name: str
    connection: apsw.Connection
    root: Root
    older: list[tuple[apsw.Connection, str]]


def make_archives(folder: Path, sizes: tuple[int, ...] = (1, 7, 24)) -> list[Made]:
    """Make archives of several sizes, unfolded, half folded and folded, with destinations and dead letters."""
    made = []
    for size in sizes:
        path = folder / f"{size}.db"
        older = []
        _record(path, max(1, size // 2), "first")
        earlier = _load(path)
        if size > 1:
            older.append((earlier, "truncated"))
        _record(path, size - max(1, size // 2), "second")
        other = folder / f"{size}-other.db"
        if size > 1:
            copy(earlier, apsw.Connection(str(other)))
        _record(other, size, "other")
        older.append((_load(other), "root"))
        for folds in (0, 1, 2, 3):
            if folds == 3:
                if size < 24:
                    continue
                _remove(path)
            connection = _load(path)
            _deliver(connection, size)
            if folds == 1 and size > 1:
                _fold_to(connection, size // 2)
            elif folds:
                index.fold(connection)
            report = verify_connection(connection, path.name)
            assert report.intact, report
            assert report.root is not None
            made.append(Made(f"{size} records, folds: {folds}", connection, Root(report.last, report.root), older))
    return made


def _record(path: Path, count: int, word: str) -> None:
    with AuditProvider(archive=path, ship=False, high_water=False, resource={"word": word}) as provider:
        log = provider.get_logger("edits", host="example.com")
        for n in range(count):
            user = None if n % 5 == 4 else f"{word}-{n % 3}"
            session = None if n % 4 == 3 else Session(f"s-{n}", "http", f"203.0.113.{n}", "agent")
            custom = {"g": {"n": n, "text": "é" * (n % 7)}}
            if n % 6 == 5:
                values = {"event": "t", "host": "h", "source": "s", "user": user, "session": session, "custom": custom}
                made = build_record(values, Catalog())
                keep(provider.writer, [Foreign(made, encode(made), b"", encode_scope(f"foreign-{n % 2}", ""))])
            else:
                log.audit("user.login.success", user=user, session=session, custom=custom)


def _remove(path: Path) -> None:
    """Erase some records and prune others."""
    with Administration(path, b"", b"") as administration:
        for kind, type_, ranges in (
            (ERASURE, "audit.records.erased", [(3, 5), (9, 9)]),
            (PRUNE, "audit.records.pruned", [(12, 13)]),
        ):
            administration.append(partial(_removed, kind, type_, ranges))


def _removed(kind: int, type_: str, ranges: list[Range], connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
    remove(connection, ranges)
    return (Own(kind, type_, fields) for fields in removal_fields(ranges))


def _load(path: Path) -> apsw.Connection:
    source, target = apsw.Connection(str(path)), apsw.Connection(":memory:")
    copy(source, target)
    source.close()
    return target


def copy(source: apsw.Connection, target: apsw.Connection) -> None:
    with target.backup("main", source, "main") as backup:
        backup.step()


def _deliver(connection: apsw.Connection, size: int) -> None:
    moment = time.time_ns()
    connection.execute(
        "INSERT INTO destination VALUES ('otlp', 'http://127.0.0.1:4318', ?, ?, 'refused', ?, NULL)",
        (size, moment, moment),
    )
    connection.execute("INSERT INTO dead_letter VALUES ('otlp', ?, ?, 'too large', 0)", (size, moment))
    if size > 1:
        connection.execute("INSERT INTO dead_letter VALUES ('otlp', ?, ?, 'too large', 1)", (size - 1, moment))


def _fold_to(connection: apsw.Connection, size: int) -> None:
    """Fold the first records only."""
    whole = connection.execute("SELECT max(sequence) FROM record").get
    connection.execute("CREATE TEMP TABLE rest AS SELECT * FROM record WHERE sequence > ?", (size,))
    connection.execute("DELETE FROM record WHERE sequence > ?", (size,))
    index.fold(connection)
    connection.execute("INSERT INTO record SELECT * FROM temp.rest")
    connection.execute("DROP TABLE temp.rest")
    assert connection.execute("SELECT max(sequence) FROM record").get == whole
