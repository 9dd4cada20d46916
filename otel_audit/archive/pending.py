"""A record on its way to the disk, and whoever waits for it: a thread, a task, or nobody."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from otel_audit.archive.commit import Row
from otel_audit.errors import ArchiveError, AuditError
from otel_audit.record import Receipt

__all__ = ["Pending", "wake_callers"]

_log = logging.getLogger("otel_audit.archive")


class Pending:
    """A row on its way to the disk that somebody waits for.

    Args:
        row: What is to be committed.
        done: The lock that a thread waits for, or the future of a task.
        loop: The task's event loop.
    """

    __slots__ = ("done", "error", "loop", "receipt", "row")

    def __init__(
        self,
        row: Row,
        done: threading.Lock | asyncio.Future[Receipt],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.row = row
        self.done = done
        self.loop = loop
        self.receipt: Receipt | None = None
        self.error: AuditError | None = None

    def result(self) -> Receipt:
        """Return the receipt, or raise what went wrong."""
        if self.receipt is None:
            raise self.error or ArchiveError("the commit ended without an outcome", "report this as a fault")
        return self.receipt


def wake_callers(batch: Sequence[Pending]) -> None:
    """Tell all who wait for a batch, with one call into each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Pending]] = {}
    for pending in batch:
        if isinstance(pending.done, asyncio.Future):
            assert pending.loop is not None  # noqa: S101 - set together with the future
            loops.setdefault(pending.loop, []).append(pending)
        else:
            pending.done.release()
    for loop, waiting in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, waiting)
        except RuntimeError:
            # The loop was closed while its records were committed: nobody is left to tell.
            _log.warning("%d audit records were committed after their event loop had closed", len(waiting))


def _resolve(waiting: Sequence[Pending]) -> None:
    for pending in waiting:
        future = pending.done
        if not isinstance(future, asyncio.Future) or future.done():
            continue
        if pending.receipt is not None:
            future.set_result(pending.receipt)
        else:
            future.set_exception(pending.error or ArchiveError("the commit ended without an outcome"))
