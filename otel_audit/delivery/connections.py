"""HTTP connections under one deadline, whatever the peer does.

A socket's time-out starts anew with every byte, so a peer that drips can hold an attempt for ever; a name that
resolves to five dead addresses takes five time-outs; a resolver takes as long as it likes. Here the attempt has one
deadline: names are resolved aside, connecting shares the time among the addresses, and when the time is up the
connection is shut down under whoever reads from it or writes to it.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from http.client import HTTPResponse, RemoteDisconnected
from typing import Any, ClassVar

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.poolmanager import PoolManager

from otel_audit.otlp_settings import is_loopback

__all__ = ["Guard", "GuardedSession"]

_Address = tuple[Any, Any, int, str, Any]  # one entry of getaddrinfo()


class Guard:
    """The deadline of the attempt under way, and the sockets to shut down when it passes.

    One attempt at a time. The watching thread starts with the first attempt, sleeps until the deadline it knows of, and
    ends when it wakes up with none under way; a successful attempt therefore costs no switch of threads.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._twins: dict[int, socket.socket] = {}
        self._connections: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._finished: set[int] = set()
        self._deadline: float | None = None
        self._until = 0.0
        self._thread: threading.Thread | None = None
        self._expired = False
        self._closed = False

    @property
    def expired(self) -> bool:
        """Whether the deadline of this attempt passed, so that what was read may be cut short."""
        return self._expired

    @property
    def closed(self) -> bool:
        """Whether `cut` ended all attempts."""
        return self._closed

    @property
    def left(self) -> float:
        """Seconds until the deadline, never 0 or less: a socket would take that for "do not block"."""
        return max((self._deadline or 0.0) - time.monotonic(), 0.001)

    def start(self, deadline: float) -> None:
        """Begin an attempt that ends at `deadline`, on the monotonic clock."""
        with self._condition:
            self._expired = False
            self._deadline = deadline
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="otel-audit-deadline", daemon=True)
                self._thread.start()
            elif deadline < self._until:
                self._condition.notify()

    def stop(self) -> None:
        """End the attempt, and let go of the connections that were closed during it."""
        with self._condition:
            self._deadline = None
            for key in self._finished:
                self._twins.pop(key).close()
            self._finished.clear()

    def cut(self) -> None:
        """Shut all connections down for good, also under an attempt in another thread."""
        with self._condition:
            self._closed = True
            self._shut_down()
            self._deadline = None
            self._condition.notify()

    def close_connections(self) -> None:
        """Close what urllib3 leaves to the garbage collector: a pool that an exception still refers to."""
        for connection in list(self._connections):
            connection.close()
        self.stop()

    def abandon(self) -> None:
        """Close the file descriptors that a forked child inherited, without a lock and without a word to the peer."""
        self._closed = True
        for twin in list(self._twins.values()):
            twin.close()
        for connection in list(self._connections):
            # Not its close(): that would go through locks of the pool. Closing a TLS socket sends nothing either.
            if connection.sock is not None:
                connection.sock.close()

    def add(self, sock: socket.socket, connection: HTTPConnection) -> int:
        """Watch a new connection.

        The duplicate stays valid whatever wraps, detaches or closes the original in the meantime: TLS does the first
        two, `http.client` the last, before the body is read, when the peer said ``Connection: close``.
        """
        twin = sock.dup()
        with self._condition:
            self._connections.add(connection)
            self._twins[twin.fileno()] = twin
            if self._expired or self._closed:
                self._shut_down()
        return twin.fileno()

    def finish(self, key: int) -> None:
        """Let go of a connection when the attempt ends."""
        with self._condition:
            self._finished.add(key)

    def resolve(self, host: str, port: int) -> Sequence[_Address]:
        """Resolve a name, waiting no longer than the deadline.

        Raises:
            socket.gaierror: There is no such name, or no resolver.
            TimeoutError: There was no answer in time; the resolver's thread ends when the resolver does.
        """
        if is_loopback(host):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        answers: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
            except Exception as error:  # noqa: BLE001 - handed to the waiting thread, which raises it
                answers.put(error)

        threading.Thread(target=look_up, name="otel-audit-resolve", daemon=True).start()
        try:
            answer = answers.get(timeout=self.left)
        except queue.Empty:
            raise TimeoutError(f"the name {host} was not resolved in time") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def connect(self, addresses: Sequence[_Address], options: Sequence[Any] | None) -> socket.socket:
        """Connect to the first address that answers, each having its share of the time that is left."""
        failure: OSError = OSError("the name has no address")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in options or ():
                    sock.setsockopt(*option)
                sock.settimeout(self.left / (len(addresses) - number))
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
                if self._closed:
                    break
            else:
                sock.settimeout(self.left)
                return sock
        raise failure

    def _watch(self) -> None:
        with self._condition:
            while self._deadline is not None:
                self._until = self._deadline
                left = self._deadline - time.monotonic()
                if left <= 0:
                    self._expired = True
                    self._deadline = None
                    self._shut_down()
                else:
                    self._condition.wait(left)
            self._thread = None

    def _shut_down(self) -> None:
        for twin in self._twins.values():
            with contextlib.suppress(OSError):  # the peer may have been quicker
                twin.shutdown(socket.SHUT_RDWR)


class _WholeHead(HTTPResponse):
    """A response whose head ends with an empty line.

    `http.client` takes the end of the connection for the end of the head. A 200 cut off there has no length and no
    body, which is how a collector says that it accepted everything.
    """

    def begin(self) -> None:
        """Read the head.

        Raises:
            RemoteDisconnected: It was cut short.
        """
        file: Any = self.fp
        read = file.readline
        last: bytes | None = None

        def readline(limit: int = -1) -> bytes:
            nonlocal last
            line: bytes = read(limit)
            last = line
            return line

        file.readline = readline
        try:
            super().begin()
        finally:
            del file.readline
        if last not in (None, b"\r\n", b"\n"):
            raise RemoteDisconnected("the head of the answer was cut short")


class _Guarded(HTTPConnection):
    """A connection that a `Guard` watches from the first packet on."""

    response_class = _WholeHead
    guard: ClassVar[Guard]
    _key: int | None = None

    def _new_conn(self) -> socket.socket:
        """Connect; urllib3 wraps the socket in TLS afterwards, where there is TLS."""
        try:
            sock = self.guard.connect(self.guard.resolve(self._dns_host, self.port), self.socket_options)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"no connection to {self.host} in time") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error
        self._key = self.guard.add(sock, self)
        return sock

    def send(self, data: Any) -> None:
        """Send; where the peer closed a TLS connection meanwhile, raise what it said before.

        With TLS 1.3 a server refuses a client, for want of a certificate above all, after the handshake has ended on
        our side. Whether writing fails first, or reading brings the alert, is a race; the alert is there in both cases.
        """
        try:
            super().send(data)
        except (ssl.SSLEOFError, ConnectionError):
            if isinstance(self.sock, ssl.SSLSocket):
                self.sock.recv(1)  # raises the alert
            raise

    def close(self) -> None:
        """Close the connection; its twin follows when the attempt ends."""
        try:
            super().close()
        finally:
            key, self._key = self._key, None
            if key is not None:
                self.guard.finish(key)


class _GuardedAdapter(HTTPAdapter):
    """The adapter of requests, with connections of ours in its pools, those to HTTP proxies included."""

    def __init__(self, guard: Guard) -> None:
        plain = type("GuardedConnection", (_Guarded,), {"guard": guard})
        secure = type("GuardedTlsConnection", (_Guarded, HTTPSConnection), {"guard": guard})
        self._pools: Mapping[str, type[HTTPConnectionPool]] = {
            "http": type("GuardedPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("GuardedTlsPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        super().__init__(pool_connections=2, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool manager as requests does, then give it our pools."""
        super().init_poolmanager(*args, **kwargs)
        self._use_ours(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make the manager for a proxy; SOCKS brings pools of its own, with the socket's time-out only."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            self._use_ours(manager)
        return manager

    def _use_ours(self, manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = dict(self._pools)


class _NoAuth(AuthBase):
    """Leaves the headers as they are: without it requests puts what ``.netrc`` says over the configured header."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class GuardedSession(requests.Session):
    """A session for OTLP: connections under a guard, no redirects, no headers but those given.

    Args:
        guard: Holds the deadline of each attempt.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.headers.clear()
        self.auth = _NoAuth()
        for prefix in ("http://", "https://"):
            self.mount(prefix, _GuardedAdapter(guard))

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, always.

        Even where redirects are not followed requests would prepare the next one, and read the whole body for that,
        however large it is.
        """
