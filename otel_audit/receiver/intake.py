"""Commits what several requests hold together: one transaction and one fsync for all that wait."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from otel_audit.archive.received import Foreign, Kept, keep
from otel_audit.errors import ArchiveError, AuditError

if TYPE_CHECKING:
    from otel_audit.archive.writer import Writer

__all__ = ["Intake"]

_MOST: Final = 4_096
"""Records after which a commit takes no further request: others who record wait meanwhile."""
_QUIET: Final = 60.0
"""Seconds between two complaints of the same trouble."""

_log = logging.getLogger("otel_audit.receiver")

_Waiting = tuple[list[Foreign], "Future[list[Kept]]"]


class Intake:
    """A thread that commits the records of requests, in the order in which they come.

    Args:
        writer: A provider's writer.
        timeout: Seconds to wait for another process's transaction.
    """

    def __init__(self, writer: Writer, timeout: float = 10.0) -> None:
        self._writer = writer
        self._timeout = timeout
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._complained = 0.0
        self.failed_at = 0.0
        self._thread = threading.Thread(target=self._run, name="otel-audit-intake", daemon=True)
        self._thread.start()

    def submit(self, records: list[Foreign]) -> Future[list[Kept]]:
        """Return what becomes of some records: all of them are committed, or none.

        The future raises `ArchiveError` or `IntegrityError` where they were not.
        """
        future: Future[list[Kept]] = Future()
        self._queue.put((records, future))
        return future

    def close(self) -> None:
        """Commit what waits, and stop; nothing may be submitted any more."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        waiting: list[_Waiting] = []
        while self._gather(waiting):
            self._commit(waiting)
            waiting.clear()

    def _gather(self, waiting: list[_Waiting]) -> bool:
        """Wait for a request and take whatever else is there; return whether there was any before the end."""
        first = self._queue.get()
        if first is None:
            return False
        waiting.append(first)
        count = len(first[0])
        while count < _MOST:
            try:
                following = self._queue.get_nowait()
            except Empty:
                break
            if following is None:
                self._queue.put(None)  # after this commit
                break
            waiting.append(following)
            count += len(following[0])
        return True

    def _commit(self, waiting: list[_Waiting]) -> None:
        try:
            kept = keep(self._writer, [record for records, _ in waiting for record in records], self._timeout)
        except AuditError as error:
            self._fail(waiting, error)
        except Exception as error:  # noqa: BLE001 - the thread must live, and those who wait must hear of it
            if len(waiting) > 1:
                # One request must not keep the others from being recorded.
                for one in waiting:
                    self._commit([one])
                return
            _log.exception("a request could not be committed")
            self._fail(waiting, ArchiveError(f"the commit failed: {type(error).__name__}", "report this as a fault"))
        else:
            self.failed_at = 0.0
            start = 0
            for records, future in waiting:
                # At the end of the grace that requests have, whoever waits may have given up.
                if future.set_running_or_notify_cancel():
                    future.set_result(kept[start : start + len(records)])
                start += len(records)

    def _fail(self, waiting: list[_Waiting], error: AuditError) -> None:
        now = self.failed_at = time.monotonic()
        if not self._complained or now - self._complained > _QUIET:
            self._complained = now
            _log.error("records cannot be kept, clients are told to try again: %s", error)
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
