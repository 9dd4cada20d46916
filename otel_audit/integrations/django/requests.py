"""What is known of a Django request: its session, its user, and how they are recorded."""

from __future__ import annotations

from typing import Any, Final

import structlog
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.utils.crypto import salted_hmac
from structlog.contextvars import get_contextvars

from otel_audit.clean import MARKS, Marks
from otel_audit.integrations.django.options import options
from otel_audit.integrations.values import as_name
from otel_audit.integrations.web import Requests, late_user, latin_text
from otel_audit.logger import Arguments, AuditLogger
from otel_audit.record import Actor, Session

__all__ = ["ANONYMOUS", "FOUND", "account", "actor_beside", "bound_session", "make_requests", "request_session", "who"]

FOUND: Final = "otel_audit_user"
"""Attribute of a request: its user, found before an asynchronous view began."""

ANONYMOUS: Final[Arguments] = {"user": None, "actor": Actor("anonymous")}
"""Whose record it is where nobody is logged in."""


def make_requests() -> Requests[Any]:
    """Return what binds requests, by the project's options.

    Raises:
        ConfigError: They are wrong.
    """
    given = options()
    return Requests(
        user=_user_name,
        session_id=_session_id,
        trusted_proxies=given.trusted_proxies,
        proxy_header=given.proxy_header,
        # Asked for, a user costs a query; many requests neither need one nor record anything.
        eager=False,
    )


def request_session(requests: Requests[Any], request: Any) -> Session:
    """Return the session of a request."""
    meta = request.META
    forwarded: list[str] = []
    if requests.header is not None:
        value = meta.get(f"HTTP_{requests.header.upper().replace('-', '_')}")
        forwarded = [] if value is None else [latin_text(value)]
    agent = meta.get("HTTP_USER_AGENT")
    client = None if agent is None else latin_text(agent)
    return requests.session(request, "http", meta.get("REMOTE_ADDR") or None, forwarded, client)


def bound_session(request: Any) -> Arguments:
    """Return the session for a record of a signal: the context's, under the id that a login may just have changed."""
    if not hasattr(request, "META"):
        return {}
    session = get_contextvars().get("session")
    if not isinstance(session, Session):
        session = request_session(make_requests(), request)
    key = getattr(getattr(request, "session", None), "session_key", None)
    return {"session": session if key is None else session._replace(id=_digest(key))}


def _session_id(request: Any) -> str | None:
    # The cookie, not `request.session`: that is there only once Django's own middleware has run.
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    return _digest(key) if key else None


def _digest(key: str) -> str:
    """Return an id that tells sessions apart and opens none."""
    return salted_hmac("otel_audit.session", key.encode(errors="surrogatepass"), algorithm="sha256").hexdigest()[:32]


def _user_name(request: Any) -> Any:
    user = getattr(request, "user", None)
    try:
        known = getattr(user, "is_authenticated", False)
    except SynchronousOnlyOperation:
        # Nobody asked for it yet, and within an event loop nobody can.
        if not hasattr(request, FOUND):
            raise
        user = getattr(request, FOUND)
        known = getattr(user, "is_authenticated", False)
    return _name(user) if known else None


def _name(user: Any) -> Any:
    get_username = getattr(user, "get_username", None)
    name = get_username() if callable(get_username) else None
    return str(user) if name is None else name


def account(logger: AuditLogger, user: Any) -> tuple[AuditLogger, Arguments]:
    """Return a logger and the arguments for a record of a user object; without one it is nobody's."""
    if user is None:
        return logger, ANONYMOUS
    name, marks = as_name(_name(user), "user")
    arguments: Arguments = {"user": name}
    if getattr(user, "pk", None) is not None:
        arguments["user_id"] = str(user.pk)
    return _marked(logger, marks), arguments


def who(logger: AuditLogger) -> tuple[AuditLogger, Arguments]:
    """Return a logger and the arguments for a record of whoever makes the current request."""
    if "user" in get_contextvars():
        return logger, {}
    user, marks = late_user()
    if user is not None:
        return _marked(logger, marks), {"user": user}
    return _marked(logger, marks), {"user": None, "actor": Actor("unknown")} if marks else ANONYMOUS


def actor_beside(logger: AuditLogger, name: str | None) -> tuple[AuditLogger, Arguments]:
    """Return a logger and the actor, where that is somebody else than the user of the record."""
    bound = get_contextvars().get("user")
    actor, marks = (bound, ()) if isinstance(bound, str) else late_user()
    return _marked(logger, marks), {} if actor in {None, name} else {"actor": Actor(actor or "")}


def _marked(logger: AuditLogger, marks: tuple[str, ...]) -> AuditLogger:
    earlier = structlog.get_context(logger).get(MARKS, ())
    return logger.bind(**{MARKS: Marks((*earlier, *marks))}) if marks else logger
