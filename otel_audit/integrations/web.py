"""What the middleware of ASGI, WSGI and Django share: session and user of a request in structlog's context."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar, get_args

from structlog.contextvars import bind_contextvars, get_contextvars, unbind_contextvars
from structlog.typing import EventDict, WrappedLogger

from otel_audit.clean import MARKS, Marks
from otel_audit.errors import ConfigError
from otel_audit.integrations.forwarded import ProxyHeader, client_address
from otel_audit.integrations.values import as_name
from otel_audit.record import Session

__all__ = ["Bound", "Requests", "late_user", "latin_text", "request_user"]

Request = TypeVar("Request")

_MOST_PROXIES: Final = 32
_log = logging.getLogger("otel_audit")
_find_user: ContextVar[Callable[[], object] | None] = ContextVar("otel_audit_find_user", default=None)


class Bound(NamedTuple):
    """What is bound in a context at one moment.

    Args:
        values: In structlog's context.
        finder: Finds the user of the request.
    """

    values: dict[str, Any]
    finder: Callable[[], object] | None

    @classmethod
    def now(cls) -> Self:
        """Return what is bound."""
        return cls(get_contextvars(), _find_user.get())

    def restore(self) -> None:
        """Bind this, and nothing else."""
        # Set, not reset by tokens: those fail where a server ends a request in another context.
        _find_user.set(self.finder)
        unbind_contextvars(*(get_contextvars().keys() - self.values.keys()))
        bind_contextvars(**self.values)


class Requests(Generic[Request]):
    """Binds what is known of a request, as it was configured.

    Args:
        user: Returns the request's user, None where there is none (yet). Asked when the request begins; where it found
            nobody or raised, again for each record that needs it.
        session_id: Returns the session's id; None, also as its answer: a new random one for each request.
        trusted_proxies: How many proxies are in front, each of which appends to `proxy_header`.
        proxy_header: The header that they write.
        eager: Whether the user is asked for when the request begins; otherwise for each record that needs it alone.

    Raises:
        ConfigError: One of them is wrong.
    """

    def __init__(
        self,
        *,
        user: Callable[[Request], str | None] | None,
        session_id: Callable[[Request], str | None] | None,
        trusted_proxies: int,
        proxy_header: ProxyHeader,
        eager: bool = True,
    ) -> None:
        for name, given in (("user", user), ("session_id", session_id)):
            if given is not None and not callable(given):
                raise ConfigError(f"{name}={given!r} is no function", "give one that takes the request")
        if type(trusted_proxies) is not int or not 0 <= trusted_proxies <= _MOST_PROXIES:
            raise ConfigError(
                f"trusted_proxies={trusted_proxies!r} is no number of proxies", f"give 0 to {_MOST_PROXIES}"
            )
        if proxy_header not in get_args(ProxyHeader):
            raise ConfigError(
                f"proxy_header={proxy_header!r} is unknown", f"use {' or '.join(map(repr, get_args(ProxyHeader)))}"
            )
        self._user = user
        self._eager = eager
        self._session_id = session_id
        self._trusted_proxies = trusted_proxies
        self._proxy_header = proxy_header
        self.header: ProxyHeader | None = proxy_header if trusted_proxies else None

    def session(
        self, request: Request, kind: str, peer: str | None, forwarded: Sequence[str], client: str | None
    ) -> Session:
        """Return the session of a request.

        Args:
            request: The request.
            kind: ``http`` or ``websocket``.
            peer: The address of the connection itself.
            forwarded: The values of the proxies' header, in order.
            client: The user agent.
        """
        address = client_address(peer, forwarded, self._trusted_proxies, self._proxy_header)
        return Session(self._identity(request), kind, address, client)

    def _identity(self, request: Request) -> str:
        found: Any = None
        if self._session_id is not None:
            try:
                found = self._session_id(request)
            except Exception:  # noqa: BLE001 - it reads what the client sent: the request is audited all the same
                _log.exception("session_id failed: the session gets an id of its own")
        return secrets.token_hex(16) if found is None else as_name(found, "session.id")[0]

    def bind(self, request: Request, session: Session) -> None:
        """Bind session and user, for as long as the context lives."""
        bind_contextvars(session=session)
        if self._user is None:
            return
        _find_user.set(partial(self._user, request))
        if not self._eager:
            return
        try:
            found: Any = self._user(request)
        except Exception:  # noqa: BLE001 - what it looks for may not be there yet: a record asks again, and says so
            return
        if found is not None:
            bind_contextvars(user=as_name(found, "user")[0])

    @contextmanager
    def bound(self, request: Request, session: Session) -> Iterator[None]:
        """Bind session and user for a block; afterwards the context is what it was, whatever the block bound."""
        before = Bound.now()
        try:
            self.bind(request, session)
            yield
        finally:
            before.restore()


def request_user(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Fill in the user of the current request where the audit call and its context name none.

    A processor for `otel_audit.configure`: needed where the user becomes known after the request has begun.
    """
    if "user" in event_dict:
        return event_dict
    user, marks = late_user()
    if user is not None:
        event_dict = {**event_dict, "user": user}
    if marks:
        earlier = event_dict.get(MARKS)
        kept = earlier if isinstance(earlier, Marks) else ()
        event_dict = {**event_dict, MARKS: Marks((*kept, *marks))}
    return event_dict


def late_user() -> tuple[str | None, tuple[str, ...]]:
    """Return the user of the current request, asked for now, and the marks for the record."""
    find = _find_user.get()
    if find is None:
        return None, ()
    try:
        found = find()
    except Exception as error:  # noqa: BLE001 - it reads what the client sent, which must not suppress the record
        _log.exception("the user of the request could not be found: the record goes without")
        return None, (f"user:unresolved:{type(error).__name__}",)
    return (None, ()) if found is None else as_name(found, "user")


def latin_text(value: str) -> str:
    """Return what a header means that a server took for Latin-1: clients send UTF-8, or mean to."""
    try:
        return value.encode("latin-1").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value
