"""Counts repeated events: the first of each window is recorded at once, the others at its end as one record."""

from __future__ import annotations

import contextvars
import ipaddress
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from otel_audit import forksafe
from otel_audit.errors import ConfigError
from otel_audit.logger import AuditLogger
from otel_audit.record import Actor, Receipt, Session, rfc3339
from otel_audit.sources.base import Call

__all__ = ["Repeats"]

_MOST: Final = 1_000
"""Repeats that are counted in memory: what a kill can lose of one window is one less."""
_WINDOWS: Final = 4_096
"""Windows open at a time. Clients choose user names: neither their number nor their length may fill the memory."""
_LONGEST: Final = 2_048
"""Characters of an event that is counted."""
_AGAIN: Final = 1.0
"""Seconds until a count that could not be recorded is tried again."""

_TEXTS: Final = ("host", "user", "user_id", "action", "outcome")

_log = logging.getLogger("otel_audit.sources")


@dataclass(slots=True)
class _Window:
    """One window, with what its count is recorded with."""

    key: tuple[Any, ...]
    call: Call
    end: float
    first: str | None = None
    count: int = 0
    since: int = 0
    until: int = 0


class Repeats(forksafe.ForkAware):
    """Records the first of each window, and counts the others.

    Events are alike in host, type, user, user id, actor, action and outcome, in the session's address, type and client,
    and in condition, text and method. An event from elsewhere, or with another client, is thus never hidden behind a
    count; and one that says more (custom fields, a target, a message or time of its own) is recorded each time.

    The count is recorded when the window ends, after 1,000 repeats, and when the provider shuts down. A process that is
    killed loses at most 999 repeats of each open window; the first of the window is on disk. After a fork the parent
    records what was counted before it, and the child begins with no window.

    Args:
        name: The option's name.
        window: Length of a window, in seconds or as timedelta.

    Raises:
        ConfigError: It is no positive number.
    """

    def __init__(self, name: str, window: float | timedelta) -> None:
        seconds: Any = window.total_seconds() if isinstance(window, timedelta) else window
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 < seconds < math.inf:
            raise ConfigError(f"{name}={window!r} is no length of time", "give seconds, or a timedelta, above 0")
        self._window = min(float(seconds), threading.TIMEOUT_MAX / 2)
        self._reset()
        forksafe.register(self)

    def _reset(self) -> None:
        # A signal handler may shut the provider down, and so come here, while its own thread holds them. None is held
        # while something else is waited for, save for the second, by those who record counts.
        self._changed = threading.Condition(threading.RLock())
        self._writing = threading.RLock()
        self._windows: dict[tuple[Any, ...], _Window] = {}
        self._due: deque[_Window] = deque()
        self._thread: threading.Thread | None = None
        self._complaint = ""
        self._at_end = False

    def record(self, call: Call) -> Receipt | None:
        """Record an event, or count it.

        Returns:
            The receipt; None where it was counted.
        """
        key = _key(call)
        if key is None:
            return call.record()
        with self._changed:
            now = time.monotonic()
            known = self._windows.get(key)
            if known is not None and now < known.end:
                self._count(known)
                return None
            self._collect(now)
            window = None
            if len(self._windows) < _WINDOWS:
                window = self._windows[key] = _Window(key, call, now + self._window)
        if window is None:
            return call.record()
        try:
            receipt = call.record()
        except BaseException:
            self._discard(window)
            raise
        window.first = receipt.record_id
        self._register(window)
        return receipt

    def _count(self, window: _Window) -> None:
        window.until = time.time_ns()
        if not window.count:
            window.since = window.until
        window.count += 1
        if window.count == 1 or window.count >= _MOST or self._thread is None:
            if window.count >= _MOST:
                self._put(window)
            self._wake()

    def _register(self, window: _Window) -> None:
        """See to it that the count is recorded when the process ends in an orderly way."""
        if not window.call.logger.before_shutdown(self.flush):
            self._discard(window)
        if not self._at_end:
            self._at_end = True
            # Children of multiprocessing end without a shutdown.
            forksafe.at_end_of_child(self, _flush)

    def _discard(self, window: _Window) -> None:
        """Take a window away, whose first event could not be recorded, or whose end nobody would see."""
        with self._changed:
            if self._windows.get(window.key) is window:
                del self._windows[window.key]
            if not window.count:
                return
            self._put(window)
        if not self._write():
            with self._changed:
                self._wake()

    def _put(self, window: _Window) -> None:
        """Let what a window counted be recorded; it may go on counting."""
        self._due.append(
            _Window(window.key, window.call, window.end, window.first, window.count, window.since, window.until)
        )
        window.count = 0

    def _collect(self, now: float) -> None:
        """Take away the windows that ended; they stand in the order of their ends."""
        for key, window in list(_ended(self._windows, now)):
            del self._windows[key]
            if window.count:
                self._put(window)
                self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="otel-audit-repeats", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # No threads left, or the interpreter ends: the next repeat tries again, and the shutdown records.
                _log.warning("counted repeats must wait, no thread can be started: %s", error)
                return
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._collect(time.monotonic())
                if not self._due:
                    ends = [window.end for window in self._windows.values() if window.count]
                    if not ends:
                        self._thread = None
                        return
                    self._changed.wait(max(0.0, min(ends) - time.monotonic()))
                    continue
            if not self._write():
                time.sleep(_AGAIN)

    def flush(self) -> None:
        """End all windows, and record what they counted."""
        with self._changed:
            for window in self._windows.values():
                if window.count:
                    self._put(window)
            self._windows.clear()
            self._changed.notify_all()  # the thread has nothing to wait for any more
        if not self._write():
            left = sum(window.count for window in self._due)
            _log.error("%d counted repeats of audit events could not be recorded yet: %s", left, self._complaint)

    def _write(self) -> bool:
        """Record the counts that are due; return whether none is left."""
        with self._writing:
            while self._due:
                window = self._due[0]
                try:
                    # Not in the context of whoever happens to come by: its user, session and span are others.
                    contextvars.Context().run(_summarise, window)
                except Exception as error:  # noqa: BLE001 - the thread must live, and callers record other events
                    if self._complaint != str(error):
                        _log.warning("counted repeats of an audit event must wait: %s", error)
                    self._complaint = str(error)
                    return False
                self._complaint = ""
                if self._due and self._due[0] is window:
                    self._due.popleft()
            return True

    def after_fork_in_child(self) -> None:
        """Leave to the parent what it counted."""
        self._reset()


def _flush(reference: weakref.ref[Repeats]) -> None:
    if (repeats := reference()) is not None:
        repeats.flush()


def _ended(windows: dict[tuple[Any, ...], _Window], now: float) -> Iterator[tuple[tuple[Any, ...], _Window]]:
    for key, window in windows.items():
        if now < window.end:
            return
        yield key, window


def _summarise(window: _Window) -> Receipt:
    """Record a count, with what the counted events have in common."""
    call, values = window.call, window.call.values
    logger: AuditLogger = call.logger
    if values.get("host") is not None:
        logger = logger.bind(host=values["host"])
    session: Session | None = values.get("session")
    repeat = {
        "count": window.count,
        "since": rfc3339(window.since),
        "until": rfc3339(window.until),
        **({} if window.first is None else {"of": window.first}),
    }
    return logger.audit(
        call.type,
        user=values.get("user"),
        user_id=values.get("user_id"),
        session=None if session is None else session._replace(id=None),
        actor=values.get("actor"),
        action=values.get("action"),
        outcome=values.get("outcome"),
        custom={**call.groups, "repeat": repeat},
        message=f"{call.type} repeated {window.count} times",
        timestamp=window.until,
    )


def _key(call: Call) -> tuple[Any, ...] | None:
    """Return what events that are alike have in common; None where an event is to be recorded in any case."""
    if call.says_more:
        return None
    values = call.values
    key: list[Any] = [call.type, *(values.get(name) for name in _TEXTS)]
    actor = values.get("actor")
    key += actor if type(actor) is Actor else [actor, None]
    session = values.get("session") or Session()
    if type(session) is not Session:
        return None
    address = session.ip
    if isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        address = str(address)
    key += (session.type, address, session.client, session.country, session.continent)
    for group, fields in call.groups.items():
        for field, value in fields.items():
            key += (f"{group}.{field}", value)
    # What is of another type is the logger's to refuse.
    if not {*map(type, key)} <= {str, type(None)} or sum(map(len, filter(None, key))) > _LONGEST:
        return None
    return tuple(key)
