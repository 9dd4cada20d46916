"""Brings records to the disk: one transaction and one fsync for everybody who waits.

A lone caller commits inline, which is about twice as fast as a hand-over. Callers that find a commit under way
queue up; one thread drains whatever waits, without lingering, and wakes them after the commit. Only records of
durability ``queued`` wait in memory while nobody waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from typing import Final

from otel_audit import forksafe
from otel_audit.archive.commit import Committer, MakeGroups, Row, row_of
from otel_audit.archive.commits import Commits, OnCommit
from otel_audit.archive.pending import Pending, wake_callers
from otel_audit.errors import ArchiveError, AuditError
from otel_audit.record import AuditRecord, Receipt

__all__ = ["Writer"]

_BATCH: Final = 1_024
_QUEUE: Final = 16_384
_LARGE: Final = 8_192
"""Bytes above which a record is committed at once: a full queue takes 128 MiB at the most."""
_LINGER: Final = 0.005
"""Seconds that records nobody waits for may gather: fewer, larger commits."""
_IDLE: Final = 1.0

_log = logging.getLogger("otel_audit.archive")


def _flush(writer: weakref.ref[Writer]) -> None:
    if (alive := writer()) is not None:
        alive.flush(5.0)


class Writer(Commits):
    """Appends records to one archive, from any number of threads, tasks and processes.

    Args:
        committer: Commits to the archive; this writer alone uses it.
        on_commit: Called after each commit with the number of records and the last sequence; must be quick.
    """

    def __init__(self, committer: Committer, on_commit: OnCommit = lambda _records, _sequence: None) -> None:
        super().__init__(committer, on_commit)
        self._reset()
        forksafe.register(self)

    def _reset(self) -> None:
        self._queue: deque[Row | Pending] = deque()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._sleeping = False
        self._waiters = 0
        self._busy = 0
        self._done = 0
        self._lost = 0
        self._closed = False
        self._refused_since = 0.0

    @property
    def closed(self) -> bool:
        """Whether nothing can be recorded any more."""
        return self._closed

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
        row = row_of(record, otlp)
        try:
            # The lock within: an interrupt can come as soon as it is taken.
            # Interrupted amid a commit, where `lock` raises, or at the queue, this thread would wait there in vain.
            alone = self.interrupted or self._condition._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001
            inline = (alone or not self._queue) and self._database.lock(timeout, blocking=alone)
            if inline:
                self._check_open()
                sequence, (leaf,) = self._commit_rows([row])
        finally:
            self._database.unlock()
        if inline:
            receipt = Receipt(record.record_id, sequence, leaf.hex(), time.time_ns())
            if self._folding.due or self._thread is None:
                self._wake_if_possible()
            return receipt
        done = threading.Lock()
        done.acquire()
        pending = Pending(row, done)
        self._put(pending)
        if not done.acquire(timeout=timeout):
            self._give_up(pending, timeout)
        return pending.result()

    def append(self, make: MakeGroups, timeout: float) -> tuple[int, list[bytes]]:
        """Commit records that are made within the transaction, each with what it is shipped under, all or none.

        Args:
            make: Makes them, from what the archive then holds.
            timeout: Seconds to wait for another process's transaction.

        Returns:
            The first one's sequence, and all leaves.

        Raises:
            ArchiveError: Nothing was committed.
            IntegrityError: The archive is not what it was; nothing was committed.
        """
        try:
            self._database.lock(timeout)
            self._check_open()
            appended = self._commit(make)
        finally:
            self._database.unlock()
        if self._folding.due or self._thread is None:
            self._wake_if_possible()
        return appended

    async def write_async(self, record: AuditRecord, otlp: bytes, timeout: float) -> Receipt:
        """Commit one record and return its receipt, without blocking the event loop.

        Args:
            record: The record.
            otlp: Its bytes.
            timeout: Seconds to wait for the commit.

        Raises:
            ArchiveError: It was not committed; or, after `timeout`, it is not known whether it was.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = loop.create_future()
        pending = Pending(row_of(record, otlp), future, loop)
        self._put(pending)
        deadline = loop.call_later(timeout, self._expire, pending, timeout)
        try:
            return await future
        finally:
            deadline.cancel()

    def _expire(self, pending: Pending, timeout: float) -> None:
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
        if len(otlp) > _LARGE and not self.interrupted:
            self.write(record, otlp, timeout)
            return
        if len(self._queue) >= _QUEUE and not self.interrupted:
            self._wait_for_room(timeout)
        self._leave(row_of(record, otlp))

    async def enqueue_async(self, record: AuditRecord, otlp: bytes, timeout: float) -> None:
        """Leave one record to the writer thread like `enqueue`, without blocking the event loop while it is full.

        Raises:
            ArchiveError: The queue stayed full.
        """
        if len(otlp) > _LARGE:
            await self.write_async(record, otlp, timeout)
        elif len(self._queue) < _QUEUE:
            self._leave(row_of(record, otlp))
        else:
            await asyncio.to_thread(self.enqueue, record, otlp, timeout)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued before the call is committed; return whether it is."""
        with self._condition:
            last = self._done + self._busy + len(self._queue)
            self._waiters += 1  # ends the lingering
            try:
                self._wake_if_possible() if self._queue else self._condition.notify_all()
                return self._condition.wait_for(lambda: self._done >= last, timeout)
            finally:
                self._waiters -= 1

    def close(self, timeout: float) -> bool:
        """Take nothing more, commit what is queued, stop the thread; return whether nothing was left behind."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(max(timeout, 1.0))
        lost = len(self._queue) + self._busy
        if lost:
            _log.error("%d queued audit records were not written to %s", lost, self._database.path)
        if not (thread is not None and thread.is_alive()):
            self._database.close()  # else it waits for a lock, and the process will end under it
        return not lost and not self._lost

    # -- queue --

    def _check_open(self) -> None:
        if self._closed:
            raise ArchiveError("the writer is closed", "record before shutdown()")

    def _put(self, pending: Pending) -> None:
        """Queue a record that somebody waits for."""
        with self._condition:
            self._check_open()
            self._queue.append(pending)
            self._waiters += 1
            if self._thread is None:
                self._start()
            elif self._sleeping or self._waiters == 1:
                self._sleeping = False
                self._condition.notify_all()

    def _leave(self, row: Row) -> None:
        """Queue a record that nobody waits for; takes no lock while the thread is awake."""
        self._queue.append(row)
        if self._closed:
            with self._condition:
                if row not in self._queue:
                    return  # the thread took it before it ended
                self._queue.remove(row)
            self._check_open()
        # The thread says that it sleeps before it looks at the queue for the last time.
        # An interrupted commit starts it itself; this very thread may be amid the start of another one.
        if self._sleeping or (self._thread is None and not self.interrupted):
            self._wake()

    def _wake(self) -> None:
        with self._condition:
            if self._thread is None and not self._closed:
                self._start()
            self._sleeping = False
            self._condition.notify_all()

    def _wake_if_possible(self) -> None:
        """Wake the thread to fold; the record is on disk, so that nothing may be raised."""
        try:
            self._wake()
        except ArchiveError as error:
            _log.warning("folding of %s must wait: %s", self._database.path, error)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="otel-audit-writer", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise ArchiveError(
                f"the writer's thread cannot be started: {error}", "raise the limit of threads"
            ) from error
        # Only now: one that could not be started would be waited for in vain.
        self._thread = thread
        forksafe.at_end_of_child(self, _flush)

    def _wait_for_room(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._condition:
            self._waiters += 1  # ends the lingering
            self._condition.notify_all()  # once: callers that wake each other in turn never sleep
            try:
                while len(self._queue) >= _QUEUE:
                    if not self._condition.wait(max(0.0, deadline - time.monotonic())):
                        raise ArchiveError(
                            f"{len(self._queue)} records wait in memory and none could be written for {timeout:g} s",
                            "look at the archive's disk; the log has the reason",
                        )
            finally:
                self._waiters -= 1

    def _give_up(self, pending: Pending, timeout: float) -> None:
        with self._condition:
            try:
                self._queue.remove(pending)
                self._waiters -= 1
                what = "was not recorded"
            except ValueError:
                what = "may or may not be recorded"
        if pending.receipt is None and pending.error is None:
            message = f"record {pending.row[0]} {what}: no commit within {timeout:g} s"
            raise ArchiveError(message, "look at the archive's disk")

    # -- the thread --

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                # A process that lives for one record, such as a cron job's, is never idle: without this, archives that
                # only such ones write to would never be folded.
                self._folding.run(patience=1.0)
                break
            self._process(batch)
            self._folding.run(idle=not batch)
            self._log_keeping.run(idle=not batch)
        with self._condition:
            self._thread = None

    def _next_batch(self) -> list[Row | Pending] | None:
        """Return what waits, an empty list when idle, None when closed."""
        with self._condition:
            self._sleeping = True  # before the look at the queue, see `_leave`
            if not self._queue and not self._closed:
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

    def _process(self, batch: list[Row | Pending]) -> None:
        if not batch:
            return
        try:
            with self._database:
                first, leaves = self._commit_rows([item.row if isinstance(item, Pending) else item for item in batch])
            committed = time.time_ns()
            self._refused_since = 0.0
            for sequence, (item, leaf) in enumerate(zip(batch, leaves, strict=True), first):
                if isinstance(item, Pending):
                    item.receipt = Receipt(item.row[0], sequence, leaf.hex(), committed)
        except AuditError as error:
            self._refuse(batch, error)
        except Exception as error:  # noqa: BLE001 - the thread must live, and callers must hear of it
            _log.exception("a commit to %s failed unexpectedly", self._database.path)
            self._refuse(batch, ArchiveError(f"the commit failed: {error!r}", "report this as a fault"))
        waiting = [item for item in batch if isinstance(item, Pending)]
        with self._condition:
            self._busy = 0
            self._done += len(batch)
            self._waiters -= len(waiting)
            self._condition.notify_all()
        wake_callers(waiting)

    def _refuse(self, batch: list[Row | Pending], error: AuditError) -> None:
        """Tell those who wait; keep the others, for whom nobody can raise, and try again."""
        keep = [item for item in batch if not isinstance(item, Pending)]
        for item in batch:
            if isinstance(item, Pending):
                item.error = error
        if not keep:
            return
        if not self._refused_since or time.monotonic() - self._refused_since > 60:
            self._refused_since = time.monotonic()
            _log.error("%d queued audit records wait in memory: %s", len(keep), error)
        with self._condition:
            if self._closed:
                _log.error("%d queued audit records are lost: %s", len(keep), error)
                self._lost += len(keep)
                return
            self._queue.extendleft(reversed(keep))
            self._done -= len(keep)
        time.sleep(0.05)

    # -- forks --

    def after_fork_in_child(self) -> None:
        """Forget the parent's thread and what it will write."""
        closed = self._closed
        self._committer.forget()
        self._reset()
        self._closed = closed
