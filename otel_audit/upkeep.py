"""What an archive needs from time to time, in one thread of the provider: checkpoints, the high-water mark, pruning."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from otel_audit import forksafe
from otel_audit.errors import AuditError

__all__ = ["Task", "Upkeep"]

T = TypeVar("T")

_PAUSE: Final = 1.0
"""Seconds between two rounds at the least."""
_AGAIN: Final = 60.0
"""Seconds until a task that failed is tried again."""

_log = logging.getLogger("otel_audit.archive")


class Task(Protocol):
    """One kind of upkeep."""

    def run(self, stopping: Callable[[], bool]) -> float:
        """Do what is due, and return in how many seconds to look again, should nothing be recorded until then.

        Args:
            stopping: Tells whether to come to an end.
        """

    def finish(self) -> None:
        """Do what is due when the provider shuts down."""


class Upkeep(forksafe.ForkAware):
    """Runs tasks: soon after something was recorded, and when they ask for it.

    A task that fails is tried again; its complaint is logged once. Nothing of it reaches an audit call.

    Args:
        tasks: What to run.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._stopped = False
        self._reset()
        forksafe.register(self)

    def _reset(self) -> None:
        self._recorded = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        # A signal handler may call stop() while its own thread is in start().
        self._lock = threading.RLock()
        self._complaints: dict[int, str] = {}

    def notify(self) -> None:
        """Note that something was recorded; takes no time."""
        if self._thread is None:
            self._start()
        if not self._recorded.is_set():
            self._recorded.set()

    def stop(self, timeout: float) -> None:
        """Let the tasks finish, and stop.

        Args:
            timeout: Seconds to wait for that; whatever takes longer is left to its thread.
        """
        with self._lock:
            self._stopped = True
            thread = self._thread
        self._stopping.set()
        self._recorded.set()
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                _log.warning("the archive's upkeep is not done after %.1f s, and is not waited for", timeout)

    def after_fork_in_child(self) -> None:
        """Forget the parent's thread; the child starts its own once it records."""
        self._reset()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._stopped or not self._tasks:
                return
            thread = threading.Thread(target=self._run, name="otel-audit-upkeep", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # No threads left, or the interpreter ends: a later commit tries again.
                _log.warning("the archive's upkeep must wait, no thread can be started: %s", error)
                return
            self._thread = thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._recorded.clear()
            due = time.monotonic() + min(self._round(), default=3_600.0)
            if self._stopping.wait(_PAUSE):
                break
            self._recorded.wait(max(0.0, due - time.monotonic()))
        # Here, not where `stop` is called: a key may take as long as it likes to sign the last checkpoint.
        for number, task in enumerate(self._tasks):
            self._guarded(number, task.finish)

    def _round(self) -> list[float]:
        waits = (
            self._guarded(number, partial(task.run, self._stopping.is_set)) for number, task in enumerate(self._tasks)
        )
        return [_AGAIN if wait is None else wait for wait in waits]

    def _guarded(self, number: int, work: Callable[[], T]) -> T | None:
        """Do some work and return what it returns; None where it fails."""
        try:
            result = work()
            self._complaints.pop(number, None)
            return result
        except AuditError as error:
            if self._complaints.get(number) != str(error):
                _log.warning("the archive's upkeep: %s", error)
            self._complaints[number] = str(error)
        except Exception as error:  # noqa: BLE001 - the thread must live
            if self._complaints.get(number) != repr(error):
                _log.exception("the archive's upkeep failed unexpectedly")
            self._complaints[number] = repr(error)
        return None
