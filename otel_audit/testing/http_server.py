"""The HTTP side of the testing collector."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from otel_audit.testing.records import Call, Reply

__all__ = ["HttpServer"]

_PATHS = ("/v1/logs", "/v1/audit")
_MAX_REQUEST = 64 * 1024 * 1024
_ACCEPT = Reply()


class HttpServer:
    """Serves OTLP/HTTP on 127.0.0.1 in threads of this process.

    Args:
        port: 0 lets the kernel choose.
        tls: For https.
        next_reply: Called once a request, before its body is read; the answer to give.
        keep: Called with each request that was read, before it is answered.
    """

    def __init__(
        self, port: int, tls: ssl.SSLContext | None, next_reply: Callable[[], Reply], keep: Callable[[Call], None]
    ) -> None:
        self._server = _Server(port, tls, next_reply, keep)
        self.port: int = self._server.server_address[1]
        # The poll decides how long stopping takes; serving does not wait for it.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="otel-audit-collector", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and drop all connections, as a process that dies does."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server.drop_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, port: int, tls: ssl.SSLContext | None, next_reply: Callable[[], Reply], keep: Callable[[Call], None]
    ) -> None:
        self.next_reply = next_reply
        self.keep = keep
        self.stopping = threading.Event()
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in its thread: a TLS handshake that never ends holds up no other."""
        with self._lock:
            self._open.add(request)
        try:
            if self._tls is None:
                super().finish_request(request, client_address)
                return
            with contextlib.closing(self._tls.wrap_socket(request.dup(), server_side=True)) as secure:
                super().finish_request(secure, client_address)
        finally:
            with self._lock:
                self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that vanish are what tests are about."""

    def drop_all(self) -> None:
        """Shut all connections down."""
        self.stopping.set()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Head and body leave in one packet: two small ones would wait 40 ms for a delayed acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer one request as the script says."""
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self._send(Reply(status=411, message="no Content-Length"))
            return
        if length > _MAX_REQUEST:
            self._send(Reply(status=413, message="above 64 MiB"))
            return
        path = self.path.partition("?")[0]
        if path not in _PATHS:
            self.rfile.read(length)
            self._send(Reply(status=404, message=f"no {path} here"))
            return
        if self.headers.get("Content-Type") != "application/x-protobuf":
            self.rfile.read(length)
            self._send(Reply(status=415, message="application/x-protobuf only"))
            return
        reply = self.server.next_reply()
        if reply.drop == "before":
            self._drop()
            return
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True  # the client gave up in the middle: nothing was received
            return
        if reply.delay:
            self.server.stopping.wait(reply.delay)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.keep(Call("http", path, headers, body, reply))
        if reply.drop == "after" or reply.lose_answer:
            self._drop()
            return
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        body = reply.response() if 200 <= reply.status < 300 else reply.error()
        self.send_response(reply.status)
        headers = {"Content-Type": reply.content_type, "Content-Length": str(len(body))}
        if reply.retry_after is not None:
            headers["Retry-After"] = f"{reply.retry_after:.0f}"
        headers.update(reply.headers)
        for name, value in headers.items():
            self.send_header(name, value)
        if not reply.drip:
            self.end_headers()
            self.wfile.write(body)
            return
        # The base class collects the lines of the head in this list; dripping takes the head as well.
        lines: list[bytes] = getattr(self, "_headers_buffer", [])
        whole = b"".join(lines) + b"\r\n" + body
        lines.clear()
        for byte in whole:
            self.wfile.write(bytes((byte,)))
            self.wfile.flush()
            if self.server.stopping.wait(reply.drip):
                return

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the tests look at what was received."""
