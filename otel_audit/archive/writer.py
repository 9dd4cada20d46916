"""Commits records: one transaction and one fsync for everybody who waits.

A lone caller commits inline, which is about twice as fast as a hand-over. Callers that find a commit under way queue up;
one thread drains whatever waits, without lingering, and wakes them after the commit. In memory alone wait only records
of durability ``queued``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import apsw

from otel_audit import forksafe
from otel_audit.archive import index
from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.leaf import EVENT, commitment, header_digest, leaf_hash
from otel_audit.errors import ArchiveError, AuditError, IntegrityError
from otel_audit.record import AuditRecord, Receipt

__all__ = ["Writer"]

_BATCH: Final = 1_024
_QUEUE: Final = 16_384
_LINGER: Final = 0.005
"""Seconds that records nobody waits for may gather: fewer, larger commits."""
_IDLE: Final = 1.0
_RANGES: Final = 4_096
"""Most ranges of own sequences that are told apart; later ones take in other processes' records between them."""
_COLUMNS: Final = 17
_ROW: Final = "(" + ",".join("?" * _COLUMNS) + ")"
# One statement a chunk: apsw gives up the GIL at every step, and gets it back from a busy caller only after a while.
_INSERTS: Final = {size: f"INSERT INTO record VALUES {','.join([_ROW] * size)}" for size in (128, 16, 4, 1)}

_log = logging.getLogger("otel_audit.archive")


class _Pending:
    """One record on its way to the disk, and whom to tell."""

    __slots__ = ("done", "error", "loop", "otlp", "receipt", "record")

    def __init__(self, record: AuditRecord, otlp: bytes) -> None:
        self.record = record
        self.otlp = otlp
        self.receipt: Receipt | None = None
        self.error: AuditError | None = None
        self.done: threading.Lock | asyncio.Future[Receipt] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None


class Writer:
    """Appends records to one archive, from any number of threads, tasks and processes.

    Args:
        database: Opened to write; this writer alone uses it.
        resource: Bytes of the OTLP ``Resource`` that the records belong to.
        scope: Bytes of the OTLP ``InstrumentationScope``.
        on_commit: Called after each commit with the number of records and the last sequence; must be quick.
    """

    def __init__(
        self,
        database: Database,
        resource: bytes,
        scope: bytes,
        on_commit: Callable[[int, int], None] = lambda _records, _sequence: None,
    ) -> None:
        self._database = database
        self._header = (resource, scope)
        self._digest = header_digest(resource, scope)
        self._on_commit = on_commit
        self._resource_id = 0
        self._archive_id = ""
        self._head = 0
        self._ranges: list[tuple[int, int]] = []
        self._unfolded = index.SLICE  # not known yet: look
        self._reset()
        forksafe.register(self)

    def _reset(self) -> None:
        self._queue: deque[_Pending] = deque()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._sleeping = False
        self._waiters = 0
        self._busy = 0
        self._closed = False
        self._refused_since = 0.0

    @property
    def head(self) -> int:
        """The last sequence that this process committed, 0 before the first."""
        return self._head

    def committed(self) -> list[tuple[int, int]]:
        """Return what this process committed, as ranges of sequences; other processes' records lie between them."""
        return list(self._ranges)

    @property
    def queued(self) -> int:
        """How many records are in memory only."""
        return len(self._queue) + self._busy

    def write(self, record: AuditRecord, otlp: bytes, timeout: float) -> Receipt:
        """Commit one record and return its receipt.

        Args:
            record: The record.
            otlp: Its bytes.
            timeout: Seconds to wait for a commit under way.

        Raises:
            ArchiveError: It was not committed; or, after `timeout`, it is not known whether it was.
        """
        pending = _Pending(record, otlp)
        if not self._queue and self._database.try_lock():
            try:
                self._check_open()
                self._commit([pending])
            finally:
                self._database.unlock()
            if self._unfolded >= index.SLICE or self._thread is None:
                self._wake()
            return _result(pending)
        done = threading.Lock()
        done.acquire()
        pending.done = done
        self._put(pending, waits=True)
        if not done.acquire(timeout=timeout):
            self._give_up(pending, timeout)
        return _result(pending)

    async def write_async(self, record: AuditRecord, otlp: bytes, timeout: float) -> Receipt:
        """Commit one record and return its receipt, without blocking the event loop.

        Args:
            record: The record.
            otlp: Its bytes.
            timeout: Seconds to wait for the commit.

        Raises:
            ArchiveError: It was not committed; or, after `timeout`, it is not known whether it was.
        """
        pending = _Pending(record, otlp)
        pending.loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = pending.loop.create_future()
        pending.done = future
        self._put(pending, waits=True)
        deadline = pending.loop.call_later(timeout, self._expire, pending, timeout)
        try:
            return await future
        finally:
            deadline.cancel()

    def _expire(self, pending: _Pending, timeout: float) -> None:
        """Tell a task that waits in vain."""
        try:
            self._give_up(pending, timeout)
        except ArchiveError as error:
            if isinstance(pending.done, asyncio.Future) and not pending.done.done():
                pending.done.set_exception(error)

    def enqueue(self, record: AuditRecord, otlp: bytes, timeout: float) -> None:
        """Leave one record to the writer thread; it is lost if the process dies within the next milliseconds.

        Args:
            record: The record.
            otlp: Its bytes.
            timeout: Seconds to wait while the queue is full.

        Raises:
            ArchiveError: The queue stayed full.
        """
        if len(self._queue) >= _QUEUE:
            self._wait_for_room(timeout)
        self._put(_Pending(record, otlp), waits=False)

    async def enqueue_async(self, record: AuditRecord, otlp: bytes, timeout: float) -> None:
        """Leave one record to the writer thread like `enqueue`, without blocking the event loop while the queue is full.

        Raises:
            ArchiveError: The queue stayed full.
        """
        if len(self._queue) < _QUEUE:
            self._put(_Pending(record, otlp), waits=False)
        else:
            await asyncio.to_thread(self.enqueue, record, otlp, timeout)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued is committed; return whether it is."""
        deadline = time.monotonic() + timeout
        with self._condition:
            self._waiters += 1  # ends the lingering
            try:
                self._condition.notify_all()
                while self._queue or self._busy:
                    if not self._condition.wait(max(0.0, deadline - time.monotonic())):
                        return not (self._queue or self._busy)
            finally:
                self._waiters -= 1
        return True

    def close(self, timeout: float) -> bool:
        """Commit what is queued, fold the rest, stop the thread; return whether nothing was left behind."""
        flushed = self.flush(timeout)
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread, lost = self._thread, len(self._queue)
        if thread is not None:
            thread.join(max(timeout, 1.0))
        if not flushed:
            _log.error("%d queued audit records were not written to %s", lost, self._database.path)
        self._database.close()
        return flushed

    # -- queue --

    def _check_open(self) -> None:
        if self._closed:
            raise ArchiveError("the writer is closed", "record before shutdown()")

    def _put(self, pending: _Pending, *, waits: bool) -> None:
        with self._condition:
            self._check_open()
            self._queue.append(pending)
            if waits:
                self._waiters += 1
            if self._thread is None:
                self._start()
            elif self._sleeping or (waits and self._waiters == 1):
                self._sleeping = False
                self._condition.notify_all()

    def _wake(self) -> None:
        with self._condition:
            if self._thread is None and not self._closed:
                self._start()
            self._sleeping = False
            self._condition.notify_all()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="otel-audit-writer", daemon=True)
        self._thread.start()

    def _wait_for_room(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._condition:
            self._waiters += 1
            try:
                while len(self._queue) >= _QUEUE:
                    self._condition.notify_all()
                    if not self._condition.wait(max(0.0, deadline - time.monotonic())):
                        raise ArchiveError(
                            f"{len(self._queue)} records wait in memory and none could be written for {timeout:g} s",
                            "look at the archive's disk; the log has the reason",
                        )
            finally:
                self._waiters -= 1

    def _give_up(self, pending: _Pending, timeout: float) -> None:
        with self._condition:
            try:
                self._queue.remove(pending)
                self._waiters -= 1
                what = "was not recorded"
            except ValueError:
                what = "may or may not be recorded"
        if pending.receipt is None and pending.error is None:
            raise ArchiveError(
                f"record {pending.record.record_id} {what}: no commit within {timeout:g} s", "look at the archive's disk"
            )

    # -- the thread --

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                break
            self._process(batch)
            self._fold(at_least=index.SLICE if batch else 1)
        with self._condition:
            self._thread = None

    def _next_batch(self) -> list[_Pending] | None:
        """Return what waits, an empty list when idle, None when closed."""
        with self._condition:
            if not self._queue and not self._closed:
                self._sleeping = True
                self._condition.wait(_IDLE)
                self._sleeping = False
            linger = time.monotonic() + _LINGER
            while self._queue and not self._waiters and not self._closed and len(self._queue) < _BATCH:
                if not self._condition.wait(max(0.0, linger - time.monotonic())):
                    break
            if not self._queue and self._closed:
                return None
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            self._busy = len(batch)
            return batch

    def _process(self, batch: list[_Pending]) -> None:
        if not batch:
            return
        try:
            with self._database:
                self._commit(batch)
        except AuditError as error:
            self._refuse(batch, error)
        except Exception as error:
            # Whatever it is, those who wait must hear of it, and the thread must live.
            _log.exception("a commit to %s failed unexpectedly", self._database.path)
            self._refuse(batch, ArchiveError(f"the commit failed: {error!r}", "report this as a fault"))
        waited = sum(1 for pending in batch if pending.done is not None)
        with self._condition:
            self._busy = 0
            self._waiters -= waited
            self._condition.notify_all()
        _wake_callers(batch)

    def _refuse(self, batch: list[_Pending], error: AuditError) -> None:
        """Tell those who wait; keep the others, for whom nobody can raise, and try again."""
        keep = []
        for pending in batch:
            if pending.done is None:
                keep.append(pending)
            else:
                pending.error = error
        if not keep:
            return
        if not self._refused_since or time.monotonic() - self._refused_since > 60:
            self._refused_since = time.monotonic()
            _log.error("%d queued audit records wait in memory: %s", len(keep), error)
        with self._condition:
            if self._closed:
                _log.error("%d queued audit records are lost: %s", len(keep), error)
                return
            self._queue.extendleft(reversed(keep))
        time.sleep(0.05)

    def _fold(self, *, at_least: int) -> None:
        try:
            while self._unfolded >= at_least:
                with self._database as connection:
                    self._unfolded = index.fold(connection)
        except (apsw.Error, AuditError) as error:
            # Queries scan what is not folded: nothing is lost, and the next commit tries again.
            _log.warning("postponed folding of %s: %s", self._database.path, error)

    # -- the commit, under the database's lock --

    def _commit(self, batch: Sequence[_Pending]) -> None:
        with archive_errors(self._database.path):
            connection = self._database.locked_connection()
            self._check_file()
            connection.execute("BEGIN IMMEDIATE")
            try:
                first = self._check_head(connection) + 1
                rows, leaves = self._rows(connection, batch, first)
                for statement, values in _chunks(rows):
                    connection.execute(statement, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        committed = time.time_ns()
        for sequence, (pending, leaf) in enumerate(zip(batch, leaves, strict=True), first):
            pending.receipt = Receipt(pending.record.record_id, sequence, leaf.hex(), committed)
        self._head = first + len(batch) - 1
        self._note_range(first)
        self._unfolded += len(batch)
        self._refused_since = 0.0
        self._on_commit(len(batch), self._head)

    def _note_range(self, first: int) -> None:
        if self._ranges and (self._ranges[-1][1] + 1 == first or len(self._ranges) >= _RANGES):
            first = self._ranges.pop()[0]
        self._ranges.append((first, self._head))

    def _check_file(self) -> None:
        try:
            inode = os.stat(self._database.path).st_ino  # noqa: PTH116 - on the path of every commit
        except FileNotFoundError:
            inode = -1
        if inode != self._database.inode:
            self._database.reopen()
            raise IntegrityError(
                f"the archive {self._database.path} was removed or replaced while it was in use",
                "put the original file back, or restart to begin a new archive",
            )

    def _check_head(self, connection: apsw.Connection) -> int:
        """Return the last sequence, having seen that the archive is the one we know and did not shrink."""
        if not self._archive_id:
            self._archive_id = str(connection.execute("SELECT value FROM meta WHERE key = 'archive_id'").get)
            self._resource_id = 0
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
        if head < self._head:
            raise IntegrityError(
                f"the archive {self._database.path} ends at {head}, but {self._head} records had been committed",
                "an older copy was restored or records were deleted: keep the file, and find out by whom",
            )
        return head

    def _rows(
        self, connection: apsw.Connection, batch: Sequence[_Pending], first: int
    ) -> tuple[list[tuple[object, ...]], list[bytes]]:
        if not self._resource_id:
            self._resource_id = _resource_id(connection, *self._header, self._digest)
        salts = os.urandom(32 * len(batch))
        rows: list[tuple[object, ...]] = []
        leaves: list[bytes] = []
        for offset, pending in enumerate(batch):
            record, otlp, sequence = pending.record, pending.otlp, first + offset
            salt = salts[offset * 32 : offset * 32 + 32]
            identity = bytes.fromhex(record.record_id.replace("-", ""))
            content = commitment(salt, self._digest, otlp)
            leaf = leaf_hash(EVENT, sequence, record.observed, identity, record.host, record.type, content)
            leaves.append(leaf)
            rows.append((
                sequence, EVENT, record.time, record.observed, *columns(record), identity, self._resource_id, leaf, salt, otlp
            ))  # fmt: skip
        return rows, leaves

    # -- forks --

    def before_fork(self) -> None:
        """Nothing to close: the database closes itself."""

    def after_fork_in_parent(self) -> None:
        """Nothing happened here."""

    def after_fork_in_child(self) -> None:
        """Forget the parent's thread and what it will write."""
        closed = self._closed
        self._ranges = []  # what the parent recorded is the parent's to flush
        self._reset()
        self._closed = closed


def columns(record: AuditRecord) -> tuple[object, ...]:
    """Return the columns from ``host`` to ``trace`` that are derived from a record's bytes."""
    session = record.session
    return (
        record.host,
        record.user,
        record.source,
        record.type,
        record.outcome,
        None if session is None else session.id,
        None if session is None or session.ip is None else str(session.ip),
        bytes.fromhex(record.trace_id) if record.trace_id else None,
    )


def _resource_id(connection: apsw.Connection, resource: bytes, scope: bytes, digest: bytes) -> int:
    connection.execute(
        "INSERT INTO resource (resource, scope, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (resource, scope, digest)
    )
    return int(connection.execute("SELECT id FROM resource WHERE digest = ?", (digest,)).get)


def _chunks(rows: list[tuple[object, ...]]) -> list[tuple[str, list[object]]]:
    """Return statements and values that insert all rows with as few statements as the prepared sizes allow."""
    chunks = []
    start = 0
    for size, statement in _INSERTS.items():
        while len(rows) - start >= size:
            chunks.append((statement, [value for row in rows[start : start + size] for value in row]))
            start += size
    return chunks


def _result(pending: _Pending) -> Receipt:
    if pending.receipt is None:
        raise pending.error or ArchiveError("the commit ended without an outcome", "report this as a fault")
    return pending.receipt


def _wake_callers(batch: Sequence[_Pending]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Pending]] = {}
    for pending in batch:
        if isinstance(pending.done, asyncio.Future):
            assert pending.loop is not None  # noqa: S101 - set together with the future
            loops.setdefault(pending.loop, []).append(pending)
        elif pending.done is not None:
            pending.done.release()
    for loop, waiting in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, waiting)
        except RuntimeError:
            # The loop was closed while its records were committed: nobody is left to tell.
            _log.warning("%d audit records were committed after their event loop had closed", len(waiting))


def _resolve(waiting: Sequence[_Pending]) -> None:
    for pending in waiting:
        future = pending.done
        if not isinstance(future, asyncio.Future) or future.done():
            continue
        if pending.receipt is not None:
            future.set_result(pending.receipt)
        else:
            future.set_exception(pending.error or ArchiveError("the commit ended without an outcome"))
