"""Flask on werkzeug's server, and Flask-Login: what their requests record, from a real client's first byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import flask_login
import httpx
import pytest
import structlog
from structlog.contextvars import bind_contextvars, get_contextvars
from werkzeug.exceptions import NotFound

from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.integrations.flask import audited
from otel_audit.integrations.flask_login import FlaskLoginAudit
from otel_audit.integrations.web import request_user
from otel_audit.integrations.wsgi import AuditMiddleware
from otel_audit.provider import AuditProvider, configure, get_logger
from otel_audit.record import AuditRecord, Target
from tests.web_servers import raw_request, wsgi_server

log = get_logger("shop")


@pytest.fixture
def provider(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditProvider]:
    monkeypatch.setattr(provider_module, "_global", None)
    with configure(archive=archive_path, host="example.com", processors=[request_user], ship=False) as opened:
        yield opened


def records(provider: AuditProvider) -> list[AuditRecord]:
    with open_archive(provider.config.archive) as archive:
        return list(archive.query())[::-1]


def shop(**options: Any) -> flask.Flask:
    """Return an application with views that end in every way, behind the middleware."""
    app = flask.Flask("shop")

    @app.before_request
    def find_user() -> None:
        assert "leaked" not in get_contextvars()
        bind_contextvars(leaked=flask.request.path)
        name = flask.request.headers.get("X-User")
        if name is not None:
            flask.g.user = name

    @app.delete("/orders/<order_id>")
    @audited("order.delete", target=lambda order_id: order_id)
    def delete_order(order_id: str) -> Any:
        if order_id == "none":
            raise NotFound
        if order_id == "broken":
            raise ZeroDivisionError
        if order_id == "aborted":
            flask.abort(401)
        return {"theirs": ({"error": "no"}, 403), "mine": "ok", "made": flask.Response(status=500)}[order_id]

    @app.get("/stream")
    def stream() -> Any:
        def chunks() -> Iterator[str]:
            for _ in range(2):
                log.audit("chunk")
                yield "x"

        response = flask.Response(flask.stream_with_context(chunks()))
        response.call_on_close(lambda: log.audit("closed"))
        return response

    @app.get("/plain")
    def plain() -> str:
        log.audit("plain")
        return "ok"

    wsgi: Any = AuditMiddleware(app.wsgi_app, **options)
    app.wsgi_app = wsgi  # type: ignore[method-assign]
    return app


def g_user(_environ: Any) -> str | None:
    user: str | None = flask.g.get("user")
    return user


def test_flask(provider: AuditProvider) -> None:
    """Views and responses that are made while they are sent have their request's session and user, and no other."""
    with wsgi_server(shop(user=g_user)) as url, httpx.Client(base_url=url) as client:
        for path, headers in (("/plain", {"X-User": "alice"}), ("/stream", {"X-User": "bob"}), ("/plain", {})):
            assert client.get(path, headers={"User-Agent": path, **headers}).status_code == 200
    found = [(record.type, record.user, record.session and record.session.client) for record in records(provider)]
    assert found == [
        ("plain", "alice", "/plain"), ("chunk", "bob", "/stream"), ("chunk", "bob", "/stream"),
        ("closed", None, "/stream"), ("plain", None, "/plain"),
    ]  # fmt: skip
    # Flask's own context is gone when a response is closed; the session is not.
    assert records(provider)[3].altered == ("user:unresolved:RuntimeError",)
    sessions = [record.session for record in records(provider) if record.session is not None]
    assert {(session.type, session.ip) for session in sessions} == {("http", "127.0.0.1")}
    assert len({session.id for session in sessions}) == 3
    assert sessions[1].id == sessions[3].id


def test_flask_s_decorated_views(provider: AuditProvider) -> None:
    """Each way of ending a view is recorded with its outcome, status and exception."""
    names = ["mine", "theirs", "made", "none", "aborted", "broken"]
    with wsgi_server(shop(user=g_user)) as url, httpx.Client(base_url=url, headers={"X-User": "alice"}) as client:
        statuses = [client.delete(f"/orders/{name}").status_code for name in names]
    assert statuses == [200, 403, 500, 404, 401, 500]
    error = "werkzeug.exceptions"
    assert [(record.target, record.outcome, record.custom.get("error")) for record in records(provider)] == [
        (Target("mine"), "success", None),
        (Target("theirs"), "failure", {"status": 403}),
        (Target("made"), "failure", {"status": 500}),
        (Target("none"), "failure", {"type": f"{error}.NotFound", "status": 404}),
        (Target("aborted"), "failure", {"type": f"{error}.Unauthorized", "status": 401}),
        (Target("broken"), "failure", {"type": "ZeroDivisionError"}),
    ]
    assert {record.user for record in records(provider)} == {"alice"}


def test_hostile_requests(provider: AuditProvider) -> None:
    """Bytes that no client would send, behind a proxy, are recorded and marked, and the proxy's address counts."""
    with wsgi_server(shop(user=g_user, trusted_proxies=1)) as url:
        raw_request(
            url, "/plain", b"User-Agent: \xff\xfe\x80", b"X-Forwarded-For: 6.6.6.6, \xff", b"X-User: \xff",
            b"X-Forwarded-For: 203.0.113.7", b"Forwarded: for=7.7.7.7",
        )  # fmt: skip
        raw_request(url, "/plain", b"X-Forwarded-For: " + b"," * 5_000 + b"\x80")
    first, second = records(provider)
    assert first.session is not None
    assert (first.session.ip, first.session.client) == ("203.0.113.7", "\\udcff\\udcfe\\udc80")
    assert first.altered == ("session.client:escaped",)
    assert second.session is not None
    assert second.session.ip == "\\udc80"
    assert second.altered == ("session.ip:escaped", "session.ip:not-an-address")


def test_flask_s_test_client(provider: AuditProvider) -> None:
    """Flask's own test client works through the middleware, also where it keeps the request's context."""
    with shop(user=g_user).test_client() as client:
        assert client.get("/plain", headers={"X-User": "alice"}).text == "ok"
        assert flask.g.user == "alice"
        assert client.get("/stream").text == "xx"
    assert [record.user for record in records(provider)] == ["alice", None, None]
    assert structlog.contextvars.get_contextvars() == {}


# -- Flask-Login --


class User(flask_login.UserMixin):  # type: ignore[misc]
    """A user whose id is its name."""

    def __init__(self, name: str) -> None:
        self.id = name

    @property
    def is_active(self) -> bool:
        """Whether it may log in."""
        return not self.id.startswith("locked")


def members(*, protection: str = "basic") -> flask.Flask:
    """Return an application with Flask-Login."""
    app = flask.Flask("members")
    app.secret_key = "s" * 32
    manager = flask_login.LoginManager(app)
    manager.session_protection = protection
    manager.user_loader(User)

    @manager.request_loader  # type: ignore[untyped-decorator]
    def from_request(request: flask.Request) -> User | None:
        token = request.headers.get("X-Token")
        return None if token is None else User(token)

    @app.post("/login/<name>")
    def log_in(name: str) -> str:
        done = flask_login.login_user(User(name), remember="remember" in flask.request.args)
        if not done:
            log.audit("user.login.failure", user=name)
        return str(done)

    @app.post("/logout")
    def log_out() -> str:
        return str(flask_login.logout_user())

    @app.post("/confirm")
    def confirm() -> str:
        flask_login.confirm_login()
        return "ok"

    @app.get("/private")
    @flask_login.login_required  # type: ignore[untyped-decorator]
    def private() -> str:
        return "ok"

    @app.get("/fresh")
    @flask_login.fresh_login_required  # type: ignore[untyped-decorator]
    def fresh() -> str:
        return "ok"

    return app


def told(provider: AuditProvider) -> list[tuple[Any, ...]]:
    """Return type, user, and what the group says, of all records."""
    found = []
    for record in records(provider):
        (text,) = [value for fields in record.custom.values() for value in fields.values()] or [None]
        found.append((record.type, record.user, text))
    return found


def test_flask_login(provider: AuditProvider) -> None:
    """Login, logout, refusals and returns by cookie are recorded with user and session, on the real server."""
    app = members()
    FlaskLoginAudit(app)
    with wsgi_server(app) as url, httpx.Client(base_url=url, headers={"User-Agent": "browser"}) as client:
        assert client.get("/private").status_code == 401
        assert client.post("/login/locked-bob").text == "False"
        assert client.post("/login/alice?remember").text == "True"
        assert client.get("/private").text == "ok"
        client.cookies.delete("session")
        assert client.get("/private").text == "ok"
        assert client.get("/fresh").status_code == 401
        assert client.post("/confirm").text == "ok"
        assert client.get("/fresh").text == "ok"
        assert client.post("/logout").text == "True"
        assert client.post("/logout").text == "True"
        assert client.get("/private", headers={"X-Token": "robot"}).text == "ok"
    assert told(provider) == [
        ("permission.denied", None, "not-logged-in"),
        ("user.login.failure", "locked-bob", None),
        ("user.login.success", "alice", None),
        ("user.login.success", "alice", "remember-cookie"),
        ("permission.denied", "alice", "login-not-fresh"),
        ("user.login.success", "alice", "confirmation"),
        ("user.logout", "alice", None),
        ("user.logout", None, None),
    ]
    denied = records(provider)[0]
    assert (denied.target, denied.actor.id, denied.outcome) == (Target("/private"), "anonymous", "failure")
    assert denied.session is not None
    assert (denied.session.type, denied.session.ip, denied.session.client) == ("http", "127.0.0.1", "browser")
    assert denied.source == "flask_login"


def test_flask_login_behind_the_middleware(provider: AuditProvider) -> None:
    """The middleware's session is the record's; names, a logger and logins by request can be chosen."""
    app = members()
    FlaskLoginAudit(app, get_logger("members"), name=lambda user: f"u-{user.id}", requests=True)
    wsgi: Any = AuditMiddleware(app.wsgi_app, trusted_proxies=1, session_id=lambda _: "s-1")
    app.wsgi_app = wsgi  # type: ignore[method-assign]
    with wsgi_server(app) as url:
        httpx.get(f"{url}/private", headers={"X-Token": "robot", "X-Forwarded-For": "203.0.113.7"})
    assert told(provider) == [("user.login.success", "u-robot", "request")]
    (record,) = records(provider)
    assert record.session is not None
    assert (record.session.id, record.session.ip, record.source) == ("s-1", "203.0.113.7", "members")


def test_a_stolen_session(provider: AuditProvider) -> None:
    """In mode `strong` a login that is taken away is recorded with its user, and other visitors' sessions are not."""
    app = members(protection="strong")
    FlaskLoginAudit(app)
    client = app.test_client()
    client.post("/login/alice", headers={"User-Agent": "hers"})
    assert client.get("/private", headers={"User-Agent": "thief's"}).status_code == 401
    assert client.get("/private", headers={"User-Agent": "thief's"}).status_code == 401
    assert told(provider) == [
        ("user.login.success", "alice", None),
        ("permission.denied", "alice", "session-protected"),
        ("permission.denied", None, "not-logged-in"),
        ("permission.denied", None, "not-logged-in"),
    ]


def test_names_that_fail(provider: AuditProvider, caplog: pytest.LogCaptureFixture) -> None:
    """A user without a name, or with an odd one, is recorded all the same."""
    app = members()
    answers = iter([5, ["x"]])
    FlaskLoginAudit(app, name=lambda _: next(answers))  # type: ignore[arg-type,return-value]
    client = app.test_client()
    for _ in range(3):
        assert client.post("/login/alice").text == "True"
    assert [(record.user, record.actor.id) for record in records(provider)] == [
        ("5", "5"), ("['x']", "['x']"), (None, "unknown"),
    ]  # fmt: skip
    assert "the name of a user could not be found" in caplog.text


def test_only_its_own_application(provider: AuditProvider) -> None:
    """Another application in the process is left alone, and nobody has to hold the object."""
    first, second = members(), members()
    FlaskLoginAudit(first)
    first.test_client().post("/login/alice")
    second.test_client().post("/login/bob")
    assert [record.user for record in records(provider)] == ["alice"]


def test_a_login_that_cannot_be_recorded(provider: AuditProvider) -> None:
    """Where the record fails, `login_user` raises."""
    app = members()
    app.testing = True
    FlaskLoginAudit(app)
    provider.shutdown()
    with pytest.raises(ArchiveError, match="closed"):
        app.test_client().post("/login/alice")


def test_mistakes_show_at_once() -> None:
    """A wrong argument is refused at creation."""
    wrong: Any = "app"
    with pytest.raises(ConfigError, match="is no Flask application"):
        FlaskLoginAudit(wrong)
    with pytest.raises(ConfigError, match="is no function"):
        FlaskLoginAudit(flask.Flask("x"), name=wrong)
