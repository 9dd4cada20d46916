"""Audit middleware for ASGI: Starlette, FastAPI, Litestar, or any other; imports none of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from otel_audit.integrations.forwarded import ProxyHeader
from otel_audit.integrations.web import Requests
from otel_audit.record import Session

__all__ = ["ASGIApp", "AuditMiddleware", "Scope"]

Scope = MutableMapping[str, Any]
# Any: each framework has types of its own for the three arguments, none of which fits another's.
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


class AuditMiddleware:
    """Pure ASGI middleware: records made while a request is handled carry its session and its user.

    Both stand in structlog's context until the application is done with the request: for streaming responses and
    Starlette's background tasks, too. Afterwards, and after errors, the context is what it was before.

    Args:
        app: The ASGI application.
        user: Returns the user for a scope, None where nobody is known (yet). Asked when the request begins; where it
            found nobody or raised, again by `request_user`, `audited` and FastAPI's dependency, for each record.
        session_id: Returns the session's id for a scope; default: a new random one for each request. Never give a
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
        app: ASGIApp,
        *,
        user: Callable[[Scope], str | None] | None = None,
        session_id: Callable[[Scope], str | None] | None = None,
        trusted_proxies: int = 0,
        proxy_header: ProxyHeader = "x-forwarded-for",
    ) -> None:
        self.app = app
        self._requests = Requests[Scope](
            user=user, session_id=session_id, trusted_proxies=trusted_proxies, proxy_header=proxy_header
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the application, with the request's session and user bound."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        with self._requests.bound(scope, self._session(scope)):
            await self.app(scope, receive, send)

    def _session(self, scope: Scope) -> Session:
        header = None if self._requests.header is None else self._requests.header.encode()
        forwarded: list[str] = []
        agent: str | None = None
        for name, value in scope.get("headers") or ():
            lower = name.lower()
            if lower == header:
                forwarded.append(value.decode("utf-8", "surrogateescape"))
            elif lower == b"user-agent":
                agent = value.decode("utf-8", "surrogateescape")
        client = scope.get("client")
        return self._requests.session(scope, scope["type"], (client[0] or None) if client else None, forwarded, agent)
