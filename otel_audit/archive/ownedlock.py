"""A lock that outlives interrupts: Ctrl-C and other exceptions from signal handlers can come between any two steps."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

__all__ = ["OwnedLock"]


class OwnedLock:
    """A lock that knows its owner, refuses to be taken twice, and is found again where an interrupt left it behind.

    `release` does nothing for a thread that has not got it, so that ``try: acquire() … finally: release()`` is right,
    wherever an interrupt strikes; and should it strike within `release`, the thread's next `acquire` frees the lock.

    Args:
        abandoned: Called then, before the lock is freed: whatever was under way must be undone.
    """

    def __init__(self, abandoned: Callable[[], None]) -> None:
        self._abandoned = abandoned
        self._lock: Any = threading.RLock()
        self._holder: FrameType | None = None

    @property
    def owned(self) -> bool:
        """Whether this very thread has it."""
        return bool(self._lock._is_owned())  # noqa: SLF001 - what threading.Condition relies on, too

    @property
    def interrupted(self) -> bool:
        """Whether a function further up on this stack has it, or is about to: waiting for it would never end."""
        return self.owned and self._held_above(sys._getframe(1))  # noqa: SLF001 - as in `acquire`

    def held_above(self, depth: int) -> bool:
        """Tell whether somebody has it whom a function interrupted, so that the function must not give it back.

        Args:
            depth: Which function up the stack: 1 is the caller.
        """
        frame = sys._getframe(depth)  # noqa: SLF001 - as in `acquire`
        return frame is not self._holder and self._held_above(frame.f_back)

    def acquire(self, *, blocking: bool = True, depth: int = 1) -> bool:
        """Take the lock and return whether this thread has it now.

        Args:
            blocking: Whether to wait for it.
            depth: Which function up the stack has it from now on, until it calls `release`: 1 is the caller.

        Raises:
            RuntimeError: A function further up on this stack has it: a signal handler or finaliser interrupted that.
        """
        if self.owned:
            self._free_if_abandoned()
        try:
            if not self._lock.acquire(blocking=blocking):
                return False
            self._holder = sys._getframe(depth)  # noqa: SLF001 - documented, for such purposes
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Give the lock back, where this thread has it."""
        if self.owned:
            self._holder = None
            self._lock.release()

    def _free_if_abandoned(self) -> None:
        if self._held_above(sys._getframe(2)):  # noqa: SLF001 - the caller of `acquire`
            raise RuntimeError("the lock is held by a function that this one interrupted")
        self._abandoned()
        while self.owned:
            self._lock.release()

    def _held_above(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame is self._holder or frame.f_code in _TAKING:
                return True
            frame = frame.f_back
        return False


# Interrupted within these, the lock may be taken while nobody is noted as its holder.
_TAKING: Final = frozenset({OwnedLock.acquire.__code__, OwnedLock.release.__code__})
