"""ClickHouse's HTTP interface before its embedded engine (chDB): for tests of what only a server does."""

from __future__ import annotations

import base64
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import chdb

__all__ = ["Server", "serve"]


def _hello() -> bytes:
    """Return what a Go client is told of the server: a block in the native format, as of protocol version 54460.

    It says protocol version 0: from before blocks had a head, so that later answers need none.
    """
    columns = (
        ("displayName()", "String", b"\x04chDB"), ("version()", "String", b"\x0625.1.1"),
        ("revision()", "UInt32", bytes(4)), ("timezone()", "String", b"\x03UTC"),
    )  # fmt: skip
    head = b"\x01\x00\x02\xff\xff\xff\xff\x00" + bytes((len(columns), 1))
    parts = (
        bytes((len(name),)) + name.encode() + bytes((len(kind),)) + kind.encode() + b"\x00" + value
        for name, kind, value in columns
    )
    return head + b"".join(parts)


_HELLO: Final = _hello()


class Server(ThreadingHTTPServer):
    """A server of one user.

    Args:
        engine: Directory of the embedded engine.
        user: The user.
        password: The password.
        port: Where to listen on 127.0.0.1; 0: somewhere.
    """

    daemon_threads = True

    def __init__(self, engine: Path, user: str, password: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
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
        body = self._body()
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        statement = query.get("query") or body.decode()
        if not self._may_ask():
            # What ClickHouse 25 answers.
            self._error(
                403, 516, "shop: Authentication failed: password is incorrect, or there is no user with such name."
            )
            return
        self.server.asked.append((statement, query))
        if statement.startswith("SELECT displayName()"):
            self._answer(_HELLO)
            return
        try:
            content = self._run(statement, query, body if "query" in query else b"")
        except RuntimeError as error:
            text = str(error)
            code = int(text.partition("Code: ")[2].partition(".")[0] or 0)
            self._error(404 if code in {60, 81} else 500, code, text.partition("DB::Exception: ")[2])
            return
        self._answer(content)

    do_GET = do_POST  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _may_ask(self) -> bool:
        named = f"{self.headers.get('x-clickhouse-user')}:{self.headers.get('x-clickhouse-key')}"
        given = self.headers.get("authorization") or "Basic " + base64.b64encode(named.encode()).decode()
        return given == self.server.expected

    def _run(self, statement: str, query: dict[str, str], rows: bytes) -> bytes:
        """Run a statement in the engine, with the rows that came with it, and return the answer."""
        values = {name.removeprefix("param_"): value for name, value in query.items() if name.startswith("param_")}
        form = query.get("default_format", "TabSeparated")
        with self.server.lock, tempfile.NamedTemporaryFile(suffix=".native") as file:
            if rows:
                file.write(rows)
                file.flush()
                head, _, _ = statement.rpartition("FORMAT Native")
                columns = head.partition("(")[2].rpartition(")")[0]
                statement = f"{head} SELECT {columns} FROM file('{file.name}', 'Native')"
            return bytes(self.server.connection.query(statement, form, params=values).bytes())

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        broken = self.server.break_off and len(content) > 2_000
        self.wfile.write(content[: len(content) // 2] if broken else content)
        if broken:
            self.close_connection = True
            self.connection.close()

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
def serve(engine: Path, user: str = "shop", password: str = "s3cret/#", port: int = 0) -> Iterator[Server]:
    """Run a server while the block runs."""
    server = Server(engine, user, password, port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.connection.close()
