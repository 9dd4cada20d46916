"""What a call costs its caller: queued against the SDK and loggers, committed against a bare insert and fsync."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import apsw
import structlog

from otel_audit.build import build_record
from otel_audit.catalog import Catalog
from otel_audit.otlp import encode
from otel_audit.provider import AuditProvider
from otel_audit.record import Session
from otel_audit.testing import Collector
from tests.bench.events import HOST, SOURCE, TYPE, Event, attributes, audit, events
from tests.bench.measure import Sizes, alternate, call_times, pair_ratio, progress, slow_down_fsync
from tests.bench.sdk import Sdk, check_same
from tests.bench.table import Goal, Row
from tests.rotel import Rotel

__all__ = ["committed", "committed_slowly", "queued"]

Call = Callable[[Event], object]

_PACE: Final = 2000
"""Calls a second: neither queue ever overflows, and both sides send while they are called."""
_SLOW: Final = 0.002


def queued(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure a call of durability ``queued`` beside the SDK's emit and two loggers, to one collector."""
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(Collector())
        provider = stack.enter_context(AuditProvider(archive=folder / "same.db", endpoint=collector.endpoint))
        check_same(provider.get_logger(SOURCE, HOST), provider.force_flush, collector)
        rotel = stack.enter_context(Rotel())
        ours = AuditProvider(archive=folder / "queued.db", endpoint=rotel.http_endpoint, durability="queued")
        stack.enter_context(ours)
        sdk = Sdk(rotel.http_endpoint)
        stack.callback(sdk.close)
        calls: dict[str, Call] = {
            "ours": audit(ours.get_logger(SOURCE, HOST)),
            "sdk": sdk.emit,
            "logging": stack.enter_context(_logging(folder / "logging.json", fsync=False)),
            "structlog": stack.enter_context(_structlog(folder / "structlog.json")),
        }

        def block(call: Call) -> float:
            figure = call_times(call, events(sizes.calls), per_second=_PACE)
            if not ours.force_flush(60):
                raise RuntimeError("the collector did not accept everything")
            sdk.flush()
            return figure

        progress("caller, queued")
        figures = alternate({name: partial(block, call) for name, call in calls.items()}, sizes.rounds)
        lost = f"it lost {sdk.lost} of {sdk.emitted:,} records, we none"
        note = f"{_PACE:,} calls a second in bursts of 50; the SDK is given a ready id and message; {lost}."
    row = partial(_row, figures)
    return [
        row("caller p50, queued / the SDK's emit", ("ours", "sdk"), Goal(ratio_at_most=0.7), note),
        row("caller p50, queued / logging, JSON to a file", ("ours", "logging")),
        row("caller p50, queued / structlog, JSON to a file", ("ours", "structlog")),
    ]


def committed(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure a durable call beside a bare insert-commit and a logger with fsync, on the disk as it is."""
    figures = _commits(sizes.rounds, sizes.commits, folder)
    note = "The same bytes in a WAL file of their own: BEGIN IMMEDIATE, INSERT, COMMIT, synchronous=FULL."
    return _commit_rows(figures, "", Goal(ratio_at_most=2.0), note)


def committed_slowly(sizes: Sizes, folder: Path) -> list[Row]:
    """Measure the same with each fsync taking at least 2 ms, as on a real disk; for a process of its own."""
    slow_down_fsync(_SLOW)
    figures = _commits(sizes.rounds, sizes.slow_commits, folder)
    note = "Each fsync takes at least 2 ms: SQLite's through a VFS that waits, the logger's through os.fsync."
    return _commit_rows(figures, ", fsync 2 ms", Goal(ratio_at_most=1.1), note)


def _commit_rows(figures: dict[str, list[float]], disk: str, goal: Goal, note: str) -> list[Row]:
    row = partial(_row, figures)
    return [
        row(f"caller p50, commit, one thread{disk} / bare insert-commit", ("ours", "bare"), goal, note),
        row(f"the same while the shipper runs{disk} / bare insert-commit", ("shipping", "bare"), goal),
        row(f"caller p50, commit, one thread{disk} / logging, JSON and fsync", ("ours", "logging")),
    ]


def _commits(rounds: int, count: int, folder: Path) -> dict[str, list[float]]:
    with contextlib.ExitStack() as stack:
        rotel = stack.enter_context(Rotel())
        alone = stack.enter_context(AuditProvider(archive=folder / "alone.db"))
        ships = stack.enter_context(AuditProvider(archive=folder / "ships.db", endpoint=rotel.http_endpoint))
        bare = _Bare(folder / "bare.db")
        stack.callback(bare.close)
        logging_call = stack.enter_context(_logging(folder / "logging.json", fsync=True))

        def calls(call: Call) -> float:
            figure = call_times(call, events(count))
            # What the next block of another contender must not pay for.
            if not ships.force_flush(60):
                raise RuntimeError("the collector did not accept everything")
            return figure

        progress("caller, commit")
        return alternate(
            {
                "ours": lambda: calls(audit(alone.get_logger(SOURCE, HOST))),
                "bare": lambda: call_times(bare.commit, [_stored(event) for event in events(count)]),
                "shipping": lambda: calls(audit(ships.get_logger(SOURCE, HOST))),
                "logging": lambda: calls(logging_call),
            },
            rounds,
        )


class _Bare:
    """The least that a durable record can cost with SQLite."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE record (sequence INTEGER PRIMARY KEY, otlp BLOB)")

    def commit(self, content: bytes) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        execute("INSERT INTO record (otlp) VALUES (?)", (content,))
        execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


def _stored(event: Event) -> bytes:
    """Return the bytes that the library stores for an event."""
    values = {
        "event": TYPE,
        "host": HOST,
        "source": SOURCE,
        "user": event.user,
        "session": Session(event.session, "c2s", event.ip, attributes(event)["user_agent.original"]),
        "custom": {"reason": {"condition": "not-authorized"}},
    }
    return encode(build_record(values, _CATALOG))


_CATALOG: Final = Catalog()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = record.__dict__["fields"]
        return json.dumps(
            {"time": record.created, "level": record.levelname, "event": record.getMessage(), **fields}, default=str
        )


class _SyncingHandler(logging.FileHandler):
    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        assert self.stream is not None
        os.fsync(self.stream.fileno())


@contextlib.contextmanager
def _logging(path: Path, *, fsync: bool) -> Iterator[Call]:
    handler = (_SyncingHandler if fsync else logging.FileHandler)(path)
    handler.setFormatter(_JsonFormatter())
    logger = logging.getLogger(f"bench.{path.stem}.{fsync}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lambda event: logger.warning(TYPE, extra={"fields": {"message": event.message, **attributes(event)}})
    logger.removeHandler(handler)
    handler.close()


@contextlib.contextmanager
def _structlog(path: Path) -> Iterator[Call]:
    with path.open("w", encoding="utf-8") as file:
        logger: Any = structlog.wrap_logger(
            structlog.WriteLogger(file),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        ).bind()
        yield lambda event: logger.warning(TYPE, message=event.message, **attributes(event))


def _row(
    figures: dict[str, list[float]], figure: str, pair: tuple[str, str], goal: Goal | None = None, note: str = ""
) -> Row:
    ours, other = pair
    return Row(
        figure=figure,
        unit="µs",
        ours=median(figures[ours]),
        other=median(figures[other]),
        ratio=pair_ratio(figures[ours], figures[other]),
        goal=goal,
        note=note,
    )
