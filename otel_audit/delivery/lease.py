"""Lets one process ship to a destination while many write."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

__all__ = ["Lease"]


class Lease:
    """A lock on a file, which the kernel frees when its holder dies, however it dies.

    Args:
        path: The lock file; made where it is missing, never removed (a removed one could be held twice).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._owner = 0

    def acquire(self) -> bool:
        """Take the lease if nobody has it; return whether we have it now.

        Raises:
            OSError: The lock file cannot be made.
        """
        if self._descriptor is not None:
            if self._owner == os.getpid():
                return True
            self.abandon()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._descriptor, self._owner = descriptor, os.getpid()
        return True

    def release(self) -> None:
        """Give the lease back; safe without one."""
        if self._descriptor is not None and self._owner == os.getpid():
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.abandon()

    def abandon(self) -> None:
        """Close our copy without unlocking: after a fork the lock belongs to the parent."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)
