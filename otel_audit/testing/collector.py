"""An OTLP collector for tests, in the process of the test."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self

from otel_audit.testing.http_server import HttpServer
from otel_audit.testing.records import Call, LogRecord, Reply

if TYPE_CHECKING:
    from otel_audit.testing.grpc_server import GrpcServer

__all__ = ["Collector"]


class Collector:
    """An OTLP collector on 127.0.0.1, over HTTP and gRPC, that keeps what it receives and can be told to misbehave.

    ::

        with Collector(script=[Reply(status=503, retry_after=1)]) as collector:
            otel_audit.configure(archive=path, endpoint=collector.endpoint)
            ...
            assert collector.wait_for(1)
            assert collector.records[0].event_name == "user.login.success"

    It accepts gzip. gRPC starts with the first use of `grpc_endpoint`, so that a test which forks and needs HTTP only
    has none of its threads. Requests are decoded when they are looked at.

    Args:
        script: Answers to give, one a request, to both protocols in turn; when they are used up, everything is
            accepted. Or a callable that returns the next answer, or None to accept.
        port: The port for HTTP; 0 lets the kernel choose.
        grpc_port: The port for gRPC; 0 lets the kernel choose.
        certificate: Path of a PEM certificate chain: both protocols use TLS then.
        key: Path of its PEM key.
        client_ca: Path of the PEM certificate that clients' certificates must be signed with; they are required then.
    """

    def __init__(
        self,
        script: Iterable[Reply] | Callable[[], Reply | None] = (),
        *,
        port: int = 0,
        grpc_port: int = 0,
        certificate: str | None = None,
        key: str | None = None,
        client_ca: str | None = None,
    ) -> None:
        if (certificate is None) != (key is None) or (client_ca is not None and certificate is None):
            raise ValueError("TLS takes both certificate and key: give both, and client_ca only with them")
        self._condition = threading.Condition()
        self._script = script if callable(script) else _in_turn(script)
        self._port, self._grpc_port = port, grpc_port
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._calls: list[Call] = []
        self._requests = 0
        self._records: list[LogRecord] = []
        self._decoded = 0
        self._http: HttpServer | None = None
        self._grpc: GrpcServer | None = None
        self._wants_grpc = bool(grpc_port)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; what was received stays."""
        self.stop()

    def start(self) -> None:
        """Listen, after `stop` again on the same ports; nothing happens where it listens already."""
        if self._http is None:
            self._http = HttpServer(self._port, self._tls(), self._next_reply, self._keep)
            self._port = self._http.port
        if self._wants_grpc and self._grpc is None:
            self._start_grpc()

    def stop(self) -> None:
        """Stop listening and drop all connections; safe to call twice."""
        http, self._http = self._http, None
        if http is not None:
            http.stop()
        server, self._grpc = self._grpc, None
        if server is not None:
            server.stop()

    @property
    def endpoint(self) -> str:
        """The base URL for OTLP/HTTP, such as ``http://127.0.0.1:41234``."""
        if not self._port:
            raise RuntimeError("the collector was never started: use it as a context manager")
        return f"{self._scheme}://127.0.0.1:{self._port}"

    @property
    def grpc_endpoint(self) -> str:
        """The URL for OTLP/gRPC; the first use starts it."""
        if self._http is not None and self._grpc is None:
            self._start_grpc()
        if not self._grpc_port:
            raise RuntimeError("the collector was never started: use it as a context manager")
        return f"{self._scheme}://127.0.0.1:{self._grpc_port}"

    @property
    def requests(self) -> int:
        """How many requests came in, those among them that were dropped or refused."""
        return self._requests

    @property
    def calls(self) -> list[Call]:
        """The requests that were read to their end, in the order of their arrival, whatever was answered."""
        with self._condition:
            return list(self._calls)

    @property
    def records(self) -> list[LogRecord]:
        """The records of all accepted requests, in the order of their arrival, repetitions among them.

        Raises:
            ValueError: A request was no OTLP.
        """
        with self._condition:
            for call in self._calls[self._decoded :]:
                self._records.extend(call.records() if call.kept else ())
                self._decoded += 1
            return list(self._records)

    @property
    def record_ids(self) -> list[str | None]:
        """The ids of `records`, in the same order."""
        return [record.record_id for record in self.records]

    def wait_for(self, count: int, timeout: float = 10.0, *, distinct: bool = False) -> bool:
        """Wait until so many records were accepted.

        Args:
            count: How many.
            timeout: Seconds.
            distinct: Count each record id once, however often it came.

        Returns:
            Whether they came in time.
        """
        deadline = time.monotonic() + timeout
        seen = total = 0
        while True:
            calls = self.calls
            if distinct:
                total = len(set(self.record_ids))
            else:
                total += sum(call.count() for call in calls[seen:])
            seen = len(calls)
            if total >= count:
                return True
            with self._condition:
                while len(self._calls) <= seen:
                    if not self._condition.wait(deadline - time.monotonic()):
                        return False

    def clear(self) -> None:
        """Forget all requests and records."""
        with self._condition:
            self._calls.clear()
            self._records.clear()
            self._decoded = self._requests = 0

    @property
    def _scheme(self) -> str:
        return "http" if self._certificate is None else "https"

    def _tls(self) -> ssl.SSLContext | None:
        if self._certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _start_grpc(self) -> None:
        # Here, since grpcio takes 45 ms to load and starts threads.
        from otel_audit.testing.grpc_server import GrpcServer

        self._wants_grpc = True
        self._grpc = GrpcServer(
            self._grpc_port,
            certificate=self._certificate,
            key=self._key,
            client_ca=self._client_ca,
            next_reply=self._next_reply,
            keep=self._keep,
        )
        self._grpc_port = self._grpc.port

    def _next_reply(self) -> Reply:
        with self._condition:
            self._requests += 1
            return self._script() or Reply()

    def _keep(self, call: Call) -> None:
        with self._condition:
            self._calls.append(call)
            self._condition.notify_all()


def _in_turn(replies: Iterable[Reply]) -> Callable[[], Reply | None]:
    remaining = iter(replies)
    return lambda: next(remaining, None)
