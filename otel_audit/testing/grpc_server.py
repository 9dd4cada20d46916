"""The gRPC side of the testing collector: a server of grpcio, behind a relay that can lose connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from otel_audit.testing.records import Call, Reply

__all__ = ["GrpcServer"]

_SERVICE = "opentelemetry.proto.collector.logs.v1.LogsService"
_MAX_REQUEST = 64 * 1024 * 1024


class GrpcServer:
    """Serves OTLP/gRPC on 127.0.0.1 in threads of this process.

    A server cannot lose a connection on purpose, nor drip: so clients talk to a relay that can do both.

    Args:
        port: 0 lets the kernel choose.
        certificate: Path of the server's PEM certificate, for TLS.
        key: Path of its key.
        client_ca: Path of the certificate that those of clients must be signed with.
        next_reply: Called once a request; the answer to give.
        keep: Called with each request, before it is answered.
    """

    def __init__(
        self,
        port: int,
        *,
        certificate: str | None,
        key: str | None,
        client_ca: str | None,
        next_reply: Callable[[], Reply],
        keep: Callable[[Call], None],
    ) -> None:
        self._next_reply = next_reply
        self._keep = keep
        self._stopping = threading.Event()
        self._server = grpc.server(
            ThreadPoolExecutor(16, thread_name_prefix="otel-audit-collector-grpc"),
            options=(("grpc.max_receive_message_length", _MAX_REQUEST),),
        )
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._export)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": method}),))
        if certificate is None or key is None:
            inner = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (Path(key).read_bytes(), Path(certificate).read_bytes())
            ca = Path(client_ca).read_bytes() if client_ca is not None else None
            credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)
            inner = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()
        self._relay = _Relay(port, inner)
        self.port = self._relay.port

    def stop(self) -> None:
        """Stop listening, and drop all connections, as a process that dies does."""
        self._stopping.set()
        self._relay.stop()
        self._server.stop(None).wait()

    def _export(self, request: bytes, call: grpc.ServicerContext) -> bytes:
        reply = self._next_reply()
        # Over HTTP/2 a request is whole or not at all by the time it gets here: before and after are the same.
        if reply.delay:
            self._stopping.wait(reply.delay)
        headers = {name: value for name, value in call.invocation_metadata() if isinstance(value, str)}
        if reply.drop != "before":
            self._keep(Call("grpc", f"/{_SERVICE}/Export", headers, request, reply))
        if reply.drop is not None or reply.lose_answer:
            self._relay.drop(call.peer())
            return b""
        if reply.drip:
            self._relay.drip(call.peer(), reply.drip)
        if reply.grpc_code == "OK":
            return reply.response()
        if reply.message or reply.retry_after is not None:
            call.set_trailing_metadata((("grpc-status-details-bin", reply.error()),))
        call.abort(grpc.StatusCode[reply.grpc_code], reply.message)
        raise AssertionError("abort raises")


class _Relay:
    """Passes bytes between clients and the server, and loses connections when told to."""

    def __init__(self, port: int, inner: int) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._drips: dict[int, float] = {}
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="otel-audit-relay", daemon=True)
        self._thread.start()

    def drop(self, peer: str) -> None:
        """Lose the connection that the server knows as `peer`, such as ``ipv4:127.0.0.1:50123``."""
        with self._lock:
            for end in self._pairs.get(_port(peer), ()):
                _shut_down(end)

    def drip(self, peer: str, seconds: float) -> None:
        """Wait so long after every byte to this client, from now on."""
        with self._lock:
            self._drips[_port(peer)] = seconds

    def stop(self) -> None:
        """Stop listening and drop all connections."""
        self._stopping.set()
        _shut_down(self._listener)  # wakes accept()
        self._listener.close()
        self._thread.join()
        with self._lock:
            for ends in self._pairs.values():
                for end in ends:
                    _shut_down(end)

    def _accept(self) -> None:
        for outside in self._clients():
            try:
                inside = socket.create_connection(("127.0.0.1", self._inner))
            except OSError:
                outside.close()
                continue
            # The server sees the relay's port as its peer.
            key = inside.getsockname()[1]
            for end in (outside, inside):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs[key] = (outside, inside)
            threading.Thread(target=self._serve, args=(key, outside, inside), daemon=True).start()

    def _clients(self) -> Iterator[socket.socket]:
        while True:
            try:
                yield self._listener.accept()[0]
            except OSError:
                return  # stopped

    def _serve(self, key: int, outside: socket.socket, inside: socket.socket) -> None:
        """Pump both ways until either end closes; the way in has a thread of its own."""
        inwards = threading.Thread(target=self._pump, args=(None, outside, inside), daemon=True)
        inwards.start()
        self._pump(key, inside, outside)
        inwards.join()
        with self._lock:
            self._pairs.pop(key, None)
            self._drips.pop(key, None)
        outside.close()
        inside.close()

    def _pump(self, key: int | None, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                pause = self._drips.get(key, 0.0) if key is not None else 0.0
                if not pause:
                    target.sendall(piece)
                    continue
                for value in piece:
                    target.sendall(bytes((value,)))
                    if self._stopping.wait(pause):
                        break
        _shut_down(source)
        _shut_down(target)


def _port(peer: str) -> int:
    return int(peer.rpartition(":")[2])


def _shut_down(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
