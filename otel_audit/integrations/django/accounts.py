"""Records Django's signals of authentication: logins, failures, logouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import Signal

from otel_audit.clean import MARKS, Marks
from otel_audit.integrations.django.requests import ANONYMOUS, account, bound_session
from otel_audit.integrations.values import as_name
from otel_audit.logger import Arguments
from otel_audit.provider import get_logger

__all__ = ["connect", "connect_first"]

_log: Final = get_logger("django.auth")


def connect() -> None:
    """Record the signals from now on; calling it again changes nothing."""
    connect_first(user_logged_in, logged_in)
    connect_first(user_login_failed, login_failed)
    connect_first(user_logged_out, logged_out)


def connect_first(signal: Signal, receiver: Callable[..., None], sender: Any = None) -> None:
    """Connect a receiver before those that are there: one that raises keeps the later ones from being called."""
    signal.disconnect(receiver, sender)
    signal.connect(receiver, sender, weak=False)
    with signal.lock:
        signal.receivers.insert(0, signal.receivers.pop())
        signal.sender_receivers_cache.clear()


def logged_in(*, request: Any, user: Any, **_: Any) -> None:
    """Record a login, with the backend that knew the user."""
    logger, arguments = account(_log, user)
    backend = getattr(user, "backend", None)
    login: Arguments = {} if backend is None else {"custom": {"login": {"backend": backend}}}
    given: Arguments = {**arguments, **login, **bound_session(request)}
    logger.audit("user.login.success", **given)


def login_failed(*, credentials: dict[str, Any], request: Any = None, **_: Any) -> None:
    """Record a login that no backend accepted, with the name that was given: whatever that is, and nothing else."""
    names = (str(get_user_model().USERNAME_FIELD), "username", "email")
    given = next((credentials[name] for name in names if credentials.get(name) is not None), None)
    user, marks = (None, ()) if given is None else as_name(given, "user")
    logger = _log.bind(**{MARKS: Marks(marks)}) if marks else _log
    arguments: Arguments = {**(ANONYMOUS if user is None else {"user": user}), **bound_session(request)}
    logger.audit("user.login.failure", **arguments)


def logged_out(*, request: Any, user: Any, **_: Any) -> None:
    """Record a logout; of a session that nobody was logged in to, too."""
    logger, arguments = account(_log, user)
    given: Arguments = {**arguments, **bound_session(request)}
    logger.audit("user.logout", **given)
