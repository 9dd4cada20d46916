"""A login service under OpenTelemetry tracing that audits what its users do.

    python -m examples.login_service --port 8080

It knows alice (password ``wonderland``) and bob (``builder``). POST ``user`` and ``password`` to ``/login``, ``user``
``/logout``. Where it records, and where it ships to, the environment says: ``OTEL_AUDIT_ARCHIVE``,
``OTEL_EXPORTER_OTLP_ENDPOINT``.
"""

from __future__ import annotations

import argparse
import hmac
import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from urllib.parse import parse_qs

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from structlog.contextvars import bound_contextvars

import otel_audit
from otel_audit import Session

PASSWORDS = {"alice": "wonderland", "bob": "builder"}  # an example: keep only hashes in a real service

log = otel_audit.get_logger("login_service", host="example.com")
tracer = trace.get_tracer("login_service")


def log_in(user: str, password: str) -> bool:
    """Check a password, and record either outcome."""
    known = PASSWORDS.get(user)
    if known is not None and hmac.compare_digest(known.encode(), password.encode("utf-8", "replace")):
        log.audit("user.login.success", user=user)
        return True
    condition = "unknown-user" if known is None else "wrong-password"
    log.audit("user.login.failure", user=user, custom={"reason": {"condition": condition}})
    return False


class Handler(BaseHTTPRequestHandler):
    """Handles a request in a span of its own; every record made meanwhile carries the span and the session."""

    def do_POST(self) -> None:
        """Serve ``/login`` and ``/logout``."""
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 65_536))
        form = parse_qs(body.decode("utf-8", "surrogateescape"), encoding="utf-8", errors="surrogateescape")
        user, password = form.get("user", [""])[0], form.get("password", [""])[0]
        session = Session(
            id=self.headers.get("X-Request-Id"),
            type="http",
            ip=self.client_address[0],
            client=self._user_agent(),
        )
        with tracer.start_as_current_span(f"POST {self.path}") as span, bound_contextvars(session=session):
            status = HTTPStatus.NOT_FOUND
            if self.path == "/login":
                status = HTTPStatus.OK if log_in(user, password) else HTTPStatus.UNAUTHORIZED
            elif self.path == "/logout":
                log.audit("user.logout", user=user)
                status = HTTPStatus.OK
            trace_id = f"{span.get_span_context().trace_id:032x}"
        self.send_response(status)
        self.send_header("X-Trace-Id", trace_id)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _user_agent(self) -> str | None:
        # http.server takes headers for Latin-1; what clients send is UTF-8, or means to be.
        agent = self.headers.get("User-Agent")
        return None if agent is None else agent.encode("latin-1").decode("utf-8", "surrogateescape")

    def log_message(self, *_: object) -> None:
        """Write no access log."""


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="port on 127.0.0.1; 0 takes a free one")
    port: int = parser.parse_args().port
    trace.set_tracer_provider(TracerProvider())
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:

        def stop(_signal: int, _frame: FrameType | None) -> None:
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, stop)
        provider = otel_audit.configure()
        print(f"listening on {server.server_address[1]}", flush=True)
        server.serve_forever(poll_interval=0.1)
        sys.exit(0 if provider.shutdown() else 1)


if __name__ == "__main__":
    main()
