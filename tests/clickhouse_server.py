"""ClickHouse's HTTP interface before its embedded engine (chDB): for tests of what only a server does."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import chdb

__all__ = ["Server", "serve"]


class Server(ThreadingHTTPServer):
    """A server of one user.

    Args:
        engine: Directory of the embedded engine.
        user: The user.
        password: The password.
    """

    daemon_threads = True

    def __init__(self, engine: Path, user: str, password: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.connection = chdb.connect(str(engine))  # type: ignore[no-untyped-call]
        self.lock = threading.Lock()
        self.expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.break_off = False

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        statement = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        statement = statement or query.get("query", "")
        if self.headers.get("authorization") != self.server.expected:
            # What ClickHouse 25 answers.
            self._error(
                403, 516, "shop: Authentication failed: password is incorrect, or there is no user with such name."
            )
            return
        self.server.asked.append((statement, query))
        values = {name.removeprefix("param_"): value for name, value in query.items() if name.startswith("param_")}
        try:
            with self.server.lock:
                content = self.server.connection.query(statement, "TabSeparated", params=values).bytes()
        except RuntimeError as error:
            text = str(error)
            code = int(text.partition("Code: ")[2].partition(".")[0] or 0)
            self._error(404 if code in {60, 81} else 500, code, text.partition("DB::Exception: ")[2])
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        broken = self.server.break_off and len(content) > 2_000
        self.wfile.write(content[: len(content) // 2] if broken else content)
        if broken:
            self.close_connection = True
            self.connection.close()

    do_GET = do_POST  # noqa: N815

    def _error(self, status: int, code: int, text: str) -> None:
        content = f"Code: {code}. DB::Exception: {text} (NAME) (version 25.1.1.1)\n".encode()
        self.send_response(status)
        self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(engine: Path, user: str = "shop", password: str = "s3cret/#") -> Iterator[Server]:
    """Run a server while the block runs."""
    server = Server(engine, user, password)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.connection.close()
