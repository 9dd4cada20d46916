"""Connections: how many there may be, and how long a request may take to begin.

The server itself waits for ever for the head of a request, from whoever connects and however many do. Each holds a
file descriptor, and without one nobody else can connect, nor can the archive open what it needs.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from typing import ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["Connection", "Seldom", "make_room"]

_HEAD: Final = 15.0
"""Seconds in which the head of a request must come."""
_OTHERS: Final = 96
"""File descriptors for all but connections: the archive, its log, shipping."""
_WANTED: Final = 65_536
_QUIET: Final = 60.0


def make_room() -> None:
    """Take as many file descriptors as the process may have; as a rule it begins with a few of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _most() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _WANTED if soft == resource.RLIM_INFINITY else max(soft - _OTHERS, soft // 2)


class Connection(H11Protocol):
    """A connection that ends where the head of a request does not come in time, or where others need its place."""

    _waiting: asyncio.TimerHandle | None = None
    _without_head: ClassVar[dict[Connection, None]] = {}
    """All that wait for a head, the one that has waited longest first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the server has it
        """Begin, and wait for the first request."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > _most():
            # It may be this one. Whoever only holds places does not keep others out, unless they are faster.
            oldest = next(iter(self._without_head))
            oldest.transport.abort()
            oldest.wait_no_more()

    def data_received(self, data: bytes) -> None:
        """Take what came, and wait for the rest of the head where it is not complete."""
        super().data_received(data)
        begun: RequestResponseCycle | None = self.cycle
        if begun is not None and not begun.response_complete:
            self.wait_no_more()
        elif self._waiting is None:
            self._wait()

    def on_response_complete(self) -> None:
        """Go on to the next request, for which the server itself waits some seconds."""
        self.wait_no_more()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(_HEAD, self.transport.abort)
        self._without_head[self] = None

    def wait_no_more(self) -> None:
        """Have no time limit any more."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
            del self._without_head[self]


class Seldom(logging.Filter):
    """Lets a message pass once a minute: without file descriptors, the event loop logs thousands a second."""

    def __init__(self) -> None:
        """Let the next one pass."""
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a message passes."""
        text, now = record.getMessage().partition("\n")[0], time.monotonic()
        if now - self._last.get(text, -_QUIET) < _QUIET:
            return False
        if len(self._last) > 100:
            self._last.clear()
        self._last[text] = now
        return True
