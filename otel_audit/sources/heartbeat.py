"""A file that tells, after a process died, until when it had lived."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from otel_audit.archive.safety import make_directory
from otel_audit.errors import ConfigError
from otel_audit.forksafe import ForkAware, register
from otel_audit.paths import sync_directory

__all__ = ["Heartbeat", "Life"]

_LARGEST: Final = 4_096
_MAX_TIME: Final = 2**63 - 1

_log = logging.getLogger("otel_audit.sources")


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of a process that did not end in an orderly way.

    Args:
        beat: Nanoseconds since the epoch of the last heartbeat.
        instance: The id that its records carry; None where the file cannot be read any more.
        pid: Its process id; None likewise.
        stopping: Whether it had begun to stop.
    """

    beat: int
    instance: str | None = None
    pid: int | None = None
    stopping: bool = False


class Heartbeat(ForkAware):
    """Keeps a file whose content says that a process lives; an orderly end empties it.

    The process has a lock on the file, which the kernel frees when it dies, however it dies. A forked child does not
    inherit it.

    Args:
        path: The file; made, with its directory, where it is missing.
        interval: Seconds between two heartbeats.
    """

    def __init__(self, path: Path, interval: float) -> None:
        self._path = path
        self._interval = interval
        self._descriptor: int | None = None
        # Around each use of the descriptor, whose number another file may have a moment later.
        self._lock = threading.RLock()
        self._reset()
        register(self)

    def _reset(self) -> None:
        self.instance = uuid.uuid4().hex
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._complaint = ""

    def take(self) -> Life | None:
        """Take the file, and return whose life it tells of; None where the last one ended in an orderly way.

        Raises:
            ConfigError: Another process has it, or it cannot be used.
        """
        self._reset()
        try:
            make_directory(self._path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            with self._lock:
                self._descriptor = descriptor = os.open(self._path, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_directory(self._path.parent)
            return _read(descriptor)
        except BlockingIOError as error:
            self.release()
            raise ConfigError(
                f"the heartbeat file {self._path} belongs to a server that is running",
                "give each server a file of its own",
            ) from error
        except OSError as error:
            self.release()
            raise ConfigError(
                f"the heartbeat file {self._path} cannot be used: {error.strerror or error}",
                "give a path on a local disk that this process may write to",
            ) from error

    def start(self) -> None:
        """Write a first heartbeat, and go on in a thread.

        Raises:
            ConfigError: The first one cannot be written.
        """
        try:
            self._write({"state": "running"})
        except OSError as error:
            raise ConfigError(
                f"the heartbeat file {self._path} cannot be written: {error.strerror or error}",
                "give a path on a disk with room",
            ) from error
        thread = threading.Thread(target=self._run, name="otel-audit-heartbeat", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            _log.warning("no thread for heartbeats can be started, a crash will be dated to now: %s", error)
            return
        self._thread = thread

    def stop(self) -> None:
        """End the heartbeats, and note that an end has begun."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)
        self._guarded("stopping")

    def clear(self) -> None:
        """Note an orderly end, and release the file."""
        try:
            with self._lock:
                if self._descriptor is not None:
                    os.ftruncate(self._descriptor, 0)
                    os.fsync(self._descriptor)
        except OSError as error:
            _log.warning("the heartbeat file %s cannot be emptied, a crash will be recorded: %s", self._path, error)
        self.release()

    def release(self) -> None:
        """Release the file as it is."""
        self._stopping.set()
        with self._lock:
            if self._descriptor is not None:
                descriptor, self._descriptor = self._descriptor, None
                os.close(descriptor)

    def before_fork(self) -> None:
        """Let no fork come between opening the file and noting its descriptor."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Close our copy without unlocking: the parent lives on."""
        self._lock = threading.RLock()
        self._reset()
        self.release()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            self._guarded("running")

    def _guarded(self, state: str) -> None:
        """Write a heartbeat; one that fails is no reason to stop a server."""
        try:
            self._write({"state": state})
            self._complaint = ""
        except OSError as error:
            if self._complaint != str(error):
                _log.warning("the heartbeat file %s cannot be written: %s", self._path, error)
            self._complaint = str(error)

    def _write(self, content: dict[str, Any]) -> None:
        line = json.dumps({"instance": self.instance, "pid": os.getpid(), "beat": time.time_ns(), **content}) + "\n"
        with self._lock:
            if self._descriptor is not None:
                # One short write in place: a kill cannot come between, and the lock stays with the file.
                os.pwrite(self._descriptor, line.encode(), 0)
                os.ftruncate(self._descriptor, len(line))
                os.fsync(self._descriptor)


def _read(descriptor: int) -> Life | None:
    content = os.pread(descriptor, _LARGEST, 0)
    if not content:
        return None
    try:
        # What an earlier, longer heartbeat left behind the first line does not count.
        found = json.loads(content.partition(b"\n")[0])
        beat, instance, pid = found["beat"], found["instance"], found["pid"]
        if type(beat) is int and 0 < beat <= _MAX_TIME and type(instance) is str and type(pid) is int:
            return Life(beat, instance, pid, found.get("state") == "stopping")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # torn by a power cut, or somebody else's: the file's own time is what is left
    return Life(os.fstat(descriptor).st_mtime_ns)
