"""An OTLP/HTTP receiver for JSON that keeps what it accepts, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["JsonReceiver"]


class JsonReceiver:
    """Listens on 127.0.0.1, after `stop` and `start` again on the same port.

    Args:
        script: Answers to give in turn: a status, or a status and a body; when they are used up, all is accepted.
        silent: How many requests to read and never answer, before all others.
        refuse: Tells which records are refused for good: a request that holds one is answered with 400.
    """

    def __init__(
        self,
        script: Sequence[int | tuple[int, str]] = (),
        *,
        silent: int = 0,
        refuse: Callable[[dict[str, Any]], bool] = lambda _record: False,
    ) -> None:
        self._script: Iterator[int | tuple[int, str]] = iter(script)
        self._silent, self._refuse = silent, refuse
        self._closed = threading.Event()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._lock = threading.Lock()
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []
        self.records: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    @property
    def endpoint(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver._is_silent():
                    receiver._closed.wait()
                    return
                status, answer = receiver._take(self.path, dict(self.headers), body)
                data = answer.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening; safe to call twice."""
        self._closed.set()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def wait_for(self, count: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Return the accepted records when there are so many, each as `flat` says.

        Raises:
            AssertionError: They did not come.
        """
        deadline = time.monotonic() + seconds
        while len(self.records) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._lock:
            found = [flat(record) for record in self.records]
        assert len(found) >= count, f"{len(found)} of {count}: {[record['type'] for record in found]}, {self.statuses}"
        return found

    def _is_silent(self) -> bool:
        with self._lock:
            self._silent -= 1
            return self._silent >= 0

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        with self._lock:
            self.headers.append({**headers, "path": path})
            answer = next(self._script, None)
            if answer is None:
                answer = self._judge(body)
            status, text = (answer, "{}") if isinstance(answer, int) else answer
            self.statuses.append(status)
            return status, text

    def _judge(self, body: bytes) -> int:
        found = [
            record
            for resource in json.loads(body)["resourceLogs"]
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]
        if any(self._refuse(flat(record)) for record in found):
            return 400
        self.records += found
        return 200


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record's attributes by key, and its type and time in seconds."""
    values = {attribute["key"]: next(iter(attribute["value"].values())) for attribute in record["attributes"]}
    assert len(values) == len(record["attributes"])
    return {**values, "type": record["eventName"], "time": int(record["timeUnixNano"]) / 1e9, "body": record["body"]}
