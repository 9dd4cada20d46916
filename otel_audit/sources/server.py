"""A server's life, as `mod_audit_status` records it: started, stopped, and crashed, known at the next start."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self, Unpack

from otel_audit import forksafe
from otel_audit.errors import ConfigError
from otel_audit.logger import AuditLogger
from otel_audit.paths import expanded
from otel_audit.record import Receipt
from otel_audit.signals import AuditSignal, server_crashed, server_started, server_stopped
from otel_audit.sources.base import Further, Source
from otel_audit.sources.heartbeat import Heartbeat, Life

__all__ = ["Server"]

_log = logging.getLogger("otel_audit.sources")


class Server(Source, forksafe.ForkAware):
    """Records that a server started, stopped and, at the next start, that it had crashed; a context manager.

    With a heartbeat file, `started` finds out whether the last life ended with `stopped`. Where nobody calls
    `stopped`, the provider's shutdown does, at the interpreter's end at the latest. Forked children are no servers:
    they neither beat nor stop.

    Args:
        logger: Records the events; default: source ``server`` of the global provider.
        heartbeat: Path of the heartbeat file, one for each server; None: crashes are not found out.
        interval: Seconds between two heartbeats, or a timedelta: how exact the time of a crash is.

    Raises:
        ConfigError: An argument is wrong.
    """

    name: ClassVar[str] = "server"
    signals: ClassVar[Mapping[str, AuditSignal]] = {
        "started": server_started,
        "stopped": server_stopped,
        "crashed": server_crashed,
    }

    def __init__(
        self,
        logger: AuditLogger | None = None,
        *,
        heartbeat: str | os.PathLike[str] | None = None,
        interval: float | timedelta = 60.0,
    ) -> None:
        super().__init__(logger)
        seconds: Any = interval.total_seconds() if isinstance(interval, timedelta) else interval
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 < seconds < math.inf:
            raise ConfigError(f"interval={interval!r} is no length of time", "give seconds, or a timedelta, above 0")
        path: Any = heartbeat
        if path is not None and (not isinstance(path, (str, os.PathLike)) or not os.fspath(path)):
            raise ConfigError(f"heartbeat={heartbeat!r} is no path", "give the path of a file")
        self._heartbeat = (
            None
            if heartbeat is None
            # Absolute: a daemon changes its directory.
            else Heartbeat(expanded(heartbeat).absolute(), min(float(seconds), threading.TIMEOUT_MAX / 2))
        )
        self._running = False
        self._signal: str | None = None
        self._previous: dict[int, Any] = {}
        forksafe.register(self)

    def __enter__(self) -> Self:
        """Record the start."""
        self.started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Record the end, as a failure where an exception other than an exit is the reason."""
        if not self._running:
            return  # stopped already, or a child that the server forked
        if kind is None or issubclass(kind, (SystemExit, KeyboardInterrupt)):
            self.stopped()
        else:
            self.stopped(note=f"{kind.__qualname__}: {error}", outcome="failure")

    def started(self, *, note: str | None = None, version: str | None = None, **given: Unpack[Further]) -> Receipt:
        """Record that the server started; before that, where the last life ended without `stopped`, that it crashed.

        To be called where the process is what it will be: after it became a daemon, before it forks workers.

        Args:
            note: For people.
            version: The server's version.
            **given: See `Further`.

        Raises:
            ConfigError: The heartbeat file cannot be used, or belongs to another process that lives.
        """
        heartbeat = None if self._running else self._heartbeat
        if heartbeat is None:
            receipt = self._record("server-started", given, note=note, version=version)
        else:
            life = heartbeat.take()
            try:
                if life is not None:
                    self._infer(life, given.get("host"))
            except BaseException:
                heartbeat.release()  # as it is: the next start infers the crash again
                raise
            try:
                # Before the record: a kill between them leaves a crash without a start, not a start without an end.
                heartbeat.start()
                receipt = self._record("server-started", given, note=note, version=version)
            except BaseException:
                heartbeat.clear()  # this life did not begin
                raise
        self._running = True
        self._logger.before_shutdown(self._end)
        return receipt

    def stopped(self, *, note: str | None = None, signal: str | None = None, **given: Unpack[Further]) -> Receipt:
        """Record that the server stops; its last words.

        Args:
            note: For people.
            signal: The signal's name that made it stop; default: the last one of those that `catch` was told of.
            **given: See `Further`.
        """
        heartbeat = self._heartbeat if self._running else None
        self._running = False
        if heartbeat is not None:
            heartbeat.stop()
        try:
            receipt = self._record("server-stopped", given, note=note, signal=signal or self._signal)
        except BaseException:
            if heartbeat is not None:
                heartbeat.release()  # it says that the end had begun, and the next start records a crash
            raise
        if heartbeat is not None:
            heartbeat.clear()
        return receipt

    def crashed(
        self, *, when: datetime | int | None = None, note: str | None = None, **given: Unpack[Further]
    ) -> Receipt:
        """Record that the server had crashed, where another than the heartbeat file knows of it.

        Args:
            when: When it crashed: an aware datetime or nanoseconds since the epoch.
            note: For people.
            **given: See `Further`.
        """
        further: Any = given if when is None else {**given, "timestamp": when}
        return self._host_wide("server-crashed", further, {"note": note})

    def catch(self, *numbers: int) -> None:
        """Note signals, so that `stopped` can name the one that ended the server.

        A handler that was there before is called; where there was none, the program exits with `SystemExit`, so that
        its ``finally`` and ``atexit`` run. An ignored signal stays ignored. To be called in the main thread.

        Args:
            *numbers: Such as ``signal.SIGTERM``.
        """
        for number in numbers:
            previous = signal.getsignal(number)
            if previous is signal.SIG_IGN or previous == self._caught:
                continue
            self._previous[number] = previous
            signal.signal(number, self._caught)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        else:
            raise SystemExit(128 + number)

    def after_fork_in_child(self) -> None:
        """Leave the server's life to the parent."""
        self._running = False
        self._signal = None

    def _end(self) -> None:
        if self._running:
            self.stopped()

    def _infer(self, life: Life, host: str | None) -> None:
        note = "last heartbeat; it had begun to stop" if life.stopping else "last heartbeat"
        server = {"instance": life.instance, "pid": life.pid, "note": note}
        given = {"host": host, "timestamp": life.beat}
        self._host_wide("server-crashed", given, server)

    def _record(self, type: str, given: Mapping[str, Any], **fields: str | None) -> Receipt:
        heartbeat = self._heartbeat
        server = {"instance": None if heartbeat is None else heartbeat.instance, "pid": os.getpid(), **fields}
        return self._host_wide(type, given, server)

    def _host_wide(self, type: str, given: Mapping[str, Any], server: Mapping[str, Any]) -> Receipt:
        call = self._call(type, None, None, given, server=server)
        # The end may come in the context of any request: neither its user nor its session is the server's.
        call.arguments["user"] = call.arguments["session"] = None
        return call.record()
