"""Records what Flask-Login's signals tell: logins, logouts, refused accesses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import flask
import flask_login
from structlog.contextvars import get_contextvars

from otel_audit.errors import ConfigError
from otel_audit.integrations.values import as_name
from otel_audit.integrations.web import latin_text
from otel_audit.logger import Arguments, AuditLogger
from otel_audit.provider import get_logger
from otel_audit.record import Actor, Session

__all__ = ["FlaskLoginAudit"]

_ANONYMOUS: Final[Arguments] = {"user": None, "actor": Actor("anonymous")}
_log = logging.getLogger("otel_audit")


class FlaskLoginAudit:
    """Records an application's Flask-Login signals, from its creation on.

    ============================  =============================================================
    ``user_logged_in``            ``user.login.success``
    ``user_loaded_from_cookie``   ``user.login.success``, method ``remember-cookie``
    ``user_loaded_from_request``  ``user.login.success``, method ``request``; only with `requests`
    ``user_login_confirmed``      ``user.login.success``, method ``confirmation``
    ``user_logged_out``           ``user.logout``
    ``user_unauthorized``         ``permission.denied``, condition ``not-logged-in``
    ``user_needs_refresh``        ``permission.denied``, condition ``login-not-fresh``
    ``session_protected``         ``permission.denied``, condition ``session-protected``
    ============================  =============================================================

    The method is in the custom group ``login``, the condition in ``reason``; refused accesses have the path as their
    target. ``session_protected`` counts where a login was taken away (mode ``strong``). Flask-Login has no signal for a
    login that failed: record ``user.login.failure`` where it is refused.
    Where no session is bound, the session is made from Flask's request.

    Args:
        app: The Flask application; others in the same process are left alone.
        logger: Records the events; default: one of the global provider, source ``flask_login``.
        name: Returns the name of a user object; default: its ``get_id()``.
        requests: Whether to record logins by `request_loader`, of which there is one in each request.

    Raises:
        ConfigError: `app` is no Flask application, or `name` is no function.
    """

    def __init__(
        self,
        app: flask.Flask,
        logger: AuditLogger | None = None,
        *,
        name: Callable[[Any], str | None] | None = None,
        requests: bool = False,
    ) -> None:
        if not isinstance(app, flask.Flask):
            raise ConfigError(f"{app!r} is no Flask application", "give the Flask object")
        if name is not None and not callable(name):
            raise ConfigError(f"name={name!r} is no function", "give one that takes a user object")
        self._logger = logger or get_logger("flask_login")
        self._name = name or _get_id
        receivers: dict[Any, Callable[..., None]] = {
            flask_login.user_logged_in: self._logged_in,
            flask_login.user_loaded_from_cookie: self._from_cookie,
            flask_login.user_login_confirmed: self._confirmed,
            flask_login.user_logged_out: self._logged_out,
            flask_login.user_unauthorized: self._unauthorized,
            flask_login.user_needs_refresh: self._needs_refresh,
            flask_login.user_accessed: self._accessed,
            flask_login.session_protected: self._protected,
        }
        if requests:
            receivers[flask_login.user_loaded_from_request] = self._from_request
        for signal, receiver in receivers.items():
            # Not weak: the application holds it, and nobody has to hold this object.
            signal.connect(receiver, sender=app, weak=False)

    def _logged_in(self, _app: flask.Flask, user: Any) -> None:
        self._record("user.login.success", user)

    def _from_cookie(self, _app: flask.Flask, user: Any) -> None:
        self._record("user.login.success", user, "remember-cookie")

    def _from_request(self, _app: flask.Flask, user: Any) -> None:
        self._record("user.login.success", user, "request")

    def _confirmed(self, _app: flask.Flask) -> None:
        self._record("user.login.success", flask_login.current_user, "confirmation")

    def _logged_out(self, _app: flask.Flask, user: Any) -> None:
        self._record("user.logout", user)

    def _unauthorized(self, _app: flask.Flask) -> None:
        self._denied("not-logged-in")

    def _needs_refresh(self, _app: flask.Flask) -> None:
        self._denied("login-not-fresh", self._who(flask_login.current_user))

    def _accessed(self, _app: flask.Flask) -> None:
        flask.g.otel_audit_logged_in = flask.session.get("_user_id")

    def _protected(self, _app: flask.Flask) -> None:
        # Sent for each request of a visitor whose session holds anything but a login, too; what counts is that a login
        # was taken away. Whose it was is not in the session any more.
        name = flask.g.get("otel_audit_logged_in")
        if name is not None and "_user_id" not in flask.session:
            self._denied("session-protected", {"user": as_name(name, "user")[0]})

    def _denied(self, condition: str, who: Arguments | None = None) -> None:
        self._audit(
            "permission.denied",
            {"target": flask.request.path, "custom": {"reason": {"condition": condition}}, **(who or _ANONYMOUS)},
        )

    def _record(self, type_: str, user: Any, method: str | None = None) -> None:
        self._audit(type_, {**self._who(user), **({} if method is None else {"custom": {"login": {"method": method}}})})

    def _who(self, user: Any) -> Arguments:
        try:
            name = self._name(user)
        except Exception:  # noqa: BLE001 - the event must not go unrecorded because its user has no name
            _log.exception("the name of a user could not be found: the record goes without")
            return {"user": None, "actor": Actor("unknown")}
        if name is None:
            return _ANONYMOUS
        return {"user": as_name(name, "user")[0]}

    def _audit(self, type_: str, arguments: Arguments) -> None:
        if "session" not in get_contextvars():
            request = flask.request
            agent = request.headers.get("User-Agent")
            client = None if agent is None else latin_text(agent)
            arguments = {**arguments, "session": Session(None, "http", request.remote_addr or None, client)}
        self._logger.audit(type_, **arguments)


def _get_id(user: Any) -> str | None:
    name: str | None = user.get_id()
    return name
