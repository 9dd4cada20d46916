"""Audit middleware for WSGI: Flask or any other; imports none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

from otel_audit.integrations.forwarded import ProxyHeader
from otel_audit.integrations.web import Bound, Requests, latin_text
from otel_audit.record import Session

__all__ = ["AuditMiddleware", "Environ", "WSGIApp"]

Environ = dict[str, Any]
WSGIApp = Callable[[Environ, Any], Iterable[bytes]]

P = ParamSpec("P")
R = TypeVar("R")


class AuditMiddleware:
    """WSGI middleware: records made while a request is handled carry its session and its user.

    Both stand in structlog's context while the application runs and while it makes its response, whenever the server
    asks for a part of that. In between, and after errors, the context is what it was before: no request sees what
    another one bound.

    Args:
        app: The WSGI application; for Flask: ``app.wsgi_app = AuditMiddleware(app.wsgi_app)``.
        user: Returns the user for an environ, None where nobody is known (yet). Asked when the request begins; where it
            found nobody or raised, again by `request_user` and `audited`, for each record.
        session_id: Returns the session's id for an environ; default: a new random one for each request. Never give a
            cookie itself: it is a secret.
        trusted_proxies: How many proxies are in front, each of which appends the address of its peer to
            `proxy_header`; 0: the address of the connection, as the server gives it.
        proxy_header: ``x-forwarded-for`` or ``forwarded``: the one that the proxies write. Never the other one, which
            comes from the client.

    Raises:
        ConfigError: One of them is wrong.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        user: Callable[[Environ], str | None] | None = None,
        session_id: Callable[[Environ], str | None] | None = None,
        trusted_proxies: int = 0,
        proxy_header: ProxyHeader = "x-forwarded-for",
    ) -> None:
        self.app = app
        self._requests = Requests[Environ](
            user=user, session_id=session_id, trusted_proxies=trusted_proxies, proxy_header=proxy_header
        )

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Call the application, with the request's session and user bound."""
        parts = _Parts()
        parts.run(self._bind, environ)
        body = parts.run(self.app, environ, start_response)
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(body, (list, tuple)) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
            return body  # nothing of the application runs any more, and servers send these faster
        return _Body(parts, body)

    def _bind(self, environ: Environ) -> None:
        self._requests.bind(environ, self._session(environ))

    def _session(self, environ: Environ) -> Session:
        forwarded: list[str] = []
        if self._requests.header is not None:
            value = environ.get(f"HTTP_{self._requests.header.upper().replace('-', '_')}")
            forwarded = [] if value is None else [latin_text(value)]
        agent = environ.get("HTTP_USER_AGENT")
        client = None if agent is None else latin_text(agent)
        return self._requests.session(environ, "http", environ.get("REMOTE_ADDR") or None, forwarded, client)


class _Parts:
    """Runs the parts of a request, each with what the earlier ones bound.

    Not in a context of its own: Flask's test client ends in the outer context what began in the request.
    """

    def __init__(self) -> None:
        self._bound: Bound | None = None

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one part."""
        before = Bound.now()
        try:
            if self._bound is not None:
                self._bound.restore()
            return function(*args, **kwargs)
        finally:
            self._bound = Bound.now()
            before.restore()


class _Body:
    """Makes a response, and ends it, as parts of the request."""

    def __init__(self, parts: _Parts, body: Iterable[bytes]) -> None:
        self._parts = parts
        self._body = body
        self._chunks: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._chunks is None:
            self._chunks = self._parts.run(iter, self._body)
        return self._parts.run(next, self._chunks)

    def close(self) -> None:
        """Close the response, where it can be closed."""
        close = getattr(self._body, "close", None)
        if close is not None:
            self._parts.run(close)
