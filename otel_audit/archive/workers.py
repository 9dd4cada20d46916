"""Shares the spans of a verification among processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from otel_audit.archive.database import archive_errors, connect_to_read
from otel_audit.archive.spans import Span, SpanResult
from otel_audit.archive.verify import check

if TYPE_CHECKING:
    from otel_audit.archive.verify import Work

__all__ = ["shared"]

_BUSY = 10_000
_connection: apsw.Connection | None = None
_keep = 0


def shared(path: Path, jobs: int, keep: int) -> Work:
    """Return work that is done by a number of processes, each with a connection of its own."""

    def work(wanted: Iterable[Span]) -> Iterator[SpanResult]:
        # Not forked: the caller may have threads and connections.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_open, initargs=(path, keep))
        try:
            yield from pool.map(_check, wanted)
        finally:
            pool.shutdown(cancel_futures=True)

    return work


def _open(path: Path, keep: int) -> None:
    global _connection, _keep  # noqa: PLW0603 - a process of the pool does nothing else
    # The terminal's Ctrl-C reaches everybody; the one who waits for the results ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with archive_errors(path):
        _connection = connect_to_read(path)
        _connection.set_busy_timeout(_BUSY)
    _keep = keep


def _check(span: Span) -> SpanResult:
    assert _connection is not None  # noqa: S101 - opened when the process started
    return check(_connection, span, _keep)
