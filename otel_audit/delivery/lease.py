"""Lets one process ship to a destination while many write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path

from otel_audit.archive.safety import give_to_owner

__all__ = ["Lease"]


class Lease:
    """A lock on a file, which the kernel frees when its holder dies, however it dies.

    Args:
        archive: The archive; the lock file stands beside it, is made where it is missing, and never removed (a removed
            one could be held twice).
        destination: The destination's name.
    """

    def __init__(self, archive: Path, destination: str) -> None:
        self._archive = archive
        self._path = Path(f"{archive}.{destination}.lease")
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        """Take the lease if nobody has it; return whether we have it now.

        Raises:
            OSError: The lock file cannot be made, or is no file of its own.
        """
        # A child forked between opening and noting the descriptor would keep the lock for as long as it lives.
        with self._lock:
            return self._descriptor is not None or self._take()

    def _take(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            give_to_owner(descriptor, self._archive)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lease back; safe without one."""
        with self._lock:
            if self._descriptor is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._close()

    def before_fork(self) -> None:
        """Wait until the lease is held or not, and nothing between."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Close our copy without unlocking: the lock belongs to the parent."""
        self._lock = threading.Lock()
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)
