"""Does the work of a verification, span by span: here, or shared among processes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import apsw

from otel_audit.archive.connecting import connect_to_read
from otel_audit.archive.database import archive_errors
from otel_audit.archive.derive import Deriver
from otel_audit.archive.faults import UNREADABLE, Faults, describe, unreadable_is_a_fault
from otel_audit.archive.lookups import check_lookups
from otel_audit.archive.signatures import NOBODY, Signatures, Trust
from otel_audit.archive.spans import Span, SpanResult, check_span
from otel_audit.errors import ArchiveError

__all__ = ["Work", "inline", "prepare", "shared", "snapshot"]

Work = Callable[[Iterable[Span]], Iterator[SpanResult]]
"""Verifies spans, in whatever process, and returns their results in order."""

_BUSY: Final = 10_000
_connection: apsw.Connection | None = None
_deriver = Deriver()
_keep = 0
_trust = NOBODY


def prepare(connection: apsw.Connection) -> None:
    """Give a connection patience, and a cache that holds a run of records with its postings."""
    connection.set_busy_timeout(_BUSY)
    connection.execute("PRAGMA cache_size=-65536")


@contextlib.contextmanager
def snapshot(connection: apsw.Connection) -> Iterator[None]:
    """Let what follows see one state of the archive."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # A damaged file may have ended it.
        with contextlib.suppress(apsw.SQLError):
            connection.execute("ROLLBACK")


def inline(connection: apsw.Connection, keep: int, trust: Trust = NOBODY) -> Work:
    """Return work that is done here, one span after the other."""

    def work(wanted: Iterable[Span]) -> Iterator[SpanResult]:
        deriver = Deriver()
        return (check(connection, span, keep, trust, deriver) for span in wanted)

    return work


def check(connection: apsw.Connection, span: Span, keep: int, trust: Trust, deriver: Deriver) -> SpanResult:
    """Verify a span of records, and the run of postings that ends with it."""
    faults = Faults(keep)
    where = f"records {span.first} to {span.last}"
    with snapshot(connection):
        try:
            result = check_span(connection, span, keep, trust, deriver)
        except UNREADABLE as error:
            faults.add("unreadable", where, describe(error))
            count = span.last - span.first + 1
            result = SpanResult(span, 0, count, 0, None, {}, span.last, None, frozenset(), [], Signatures(), [], 0)
        faults.extend(result.faults, result.fault_count)
        if span.lookups:
            with unreadable_is_a_fault(faults, f"look-up tables of records {span.lookups} to {span.last}"):
                check_lookups(connection, span.lookups, faults)
    return result._replace(faults=faults.kept, fault_count=faults.count)


def shared(path: Path, jobs: int, keep: int, trust: Trust = NOBODY) -> Work:
    """Return work that is done by a number of processes, each with a connection of its own."""

    def work(wanted: Iterable[Span]) -> Iterator[SpanResult]:
        # Start-up time: one process is the usual case.
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        # Not forked: the caller may have threads and connections.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_open, initargs=(path, keep, trust))
        try:
            yield from pool.map(_check, wanted)
        except BrokenProcessPool as error:
            raise ArchiveError(
                f"one of the {jobs} processes that verify {path} was ended from outside",
                "verify again; where memory is short, without --jobs",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    return work


def _open(path: Path, keep: int, trust: Trust) -> None:
    global _connection, _keep, _trust  # noqa: PLW0603 - a process of the pool does nothing else
    # The terminal's Ctrl-C reaches everybody; the one who waits for the results ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with archive_errors(path):
        _connection = connect_to_read(path).connection
        prepare(_connection)
    _keep, _trust = keep, trust


def _end_with_parent() -> None:
    """End this process when the one that waits for its results is gone, which may have been killed."""
    import multiprocessing

    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _check(span: Span) -> SpanResult:
    assert _connection is not None  # noqa: S101 - opened when the process started
    return check(_connection, span, _keep, _trust, _deriver)
