"""What the middleware of ASGI and WSGI binds for a request, and that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any, Literal

import pytest
from structlog.contextvars import bind_contextvars, bound_contextvars, get_contextvars

from otel_audit.errors import ConfigError, InvalidRecord
from otel_audit.integrations import asgi, wsgi
from otel_audit.integrations.audited import audited
from otel_audit.integrations.web import request_user
from otel_audit.record import AuditRecord, Session
from tests.recording import HOSTILE_TEXTS, Tape, bound_logger

Kind = Literal["asgi", "wsgi"]
both = pytest.mark.parametrize("kind", ["asgi", "wsgi"])


@pytest.fixture
def tape() -> Tape:
    return Tape(processors=(request_user,))


def send(
    kind: Kind,
    view: Callable[[], Any],
    headers: list[tuple[str, bytes]] | None = None,
    peer: str | None = "10.0.0.1",
    **options: Any,
) -> None:
    """Send one request through the middleware to a view."""
    if kind == "asgi":

        async def app(scope: Any, receive: Any, send: Any) -> None:
            view()

        scope: dict[str, Any] = {
            "type": "http", "client": peer and (peer, 5), "state": {},
            "headers": [(name.encode(), value) for name, value in headers or ()],
        }  # fmt: skip
        no: Any = None
        asyncio.run(_run(asgi.AuditMiddleware(app, **options)(scope, no, no)))
        return

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        view()
        return []

    environ: dict[str, Any] = {} if peer is None else {"REMOTE_ADDR": peer}
    for name, value in headers or ():
        key = f"HTTP_{name.upper().replace('-', '_')}"
        environ[key] = ",".join(filter(None, [environ.get(key), value.decode("latin-1")]))
    wsgi.AuditMiddleware(wsgi_app, **options)(environ, None)


async def _run(coroutine: Any) -> None:
    await coroutine


def recorded(tape: Tape, kind: Kind, *headers: tuple[str, bytes], **options: Any) -> AuditRecord:
    """Return the record that a request made."""
    send(kind, lambda: bound_logger(tape).audit("t"), [*headers], **options)
    return tape.record


@both
def test_the_session(tape: Tape, kind: Kind) -> None:
    """The session has an id of its own, type, address and user agent; each request another one."""
    first = recorded(tape, kind, ("User-Agent", b"curl/8")).session
    second = recorded(tape, kind).session
    assert first is not None
    assert second is not None
    assert first._replace(id=None) == Session(None, "http", "10.0.0.1", "curl/8")
    assert (second.client, len(second.id or "")) == (None, 32)
    assert first.id != second.id
    assert recorded(tape, kind, peer=None).session == Session(tape.record.session and tape.record.session.id, "http")


def test_websockets_and_the_life_of_the_server(tape: Tape) -> None:
    """A WebSocket is a session, too; what the server says of its own life is none."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(get_contextvars().get("session"))

    no: Any = None
    middleware = asgi.AuditMiddleware(app)
    asyncio.run(_run(middleware({"type": "websocket", "client": ["::1", 5], "headers": []}, no, no)))
    asyncio.run(_run(middleware({"type": "lifespan"}, no, no)))
    assert (seen[0].type, seen[0].ip, seen[1]) == ("websocket", "::1", None)


@both
def test_proxies(tape: Tape, kind: Kind) -> None:
    """The header of the trusted proxies gives the address; without trust, or the other header, nothing does."""
    both_headers = [
        ("X-Forwarded-For", b"6.6.6.6"), ("X-Forwarded-For", b"203.0.113.7"), ("Forwarded", b"for=198.51.100.9"),
    ]  # fmt: skip

    def address(**options: Any) -> object:
        session = recorded(tape, kind, *both_headers, **options).session
        return session and session.ip

    assert address() == "10.0.0.1"
    assert address(trusted_proxies=1) == "203.0.113.7"
    assert address(trusted_proxies=2) == "6.6.6.6"
    assert address(trusted_proxies=3) == "10.0.0.1"
    assert address(trusted_proxies=1, proxy_header="forwarded") == "198.51.100.9"


@both
@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "é"], ids=range(len(HOSTILE_TEXTS) + 1))
def test_hostile_headers(tape: Tape, kind: Kind, text: str) -> None:
    """Any bytes in the headers are recorded, in UTF-8 where they are it."""
    value = text.encode("utf-8", "surrogatepass") + b"\xff"
    headers = [("User-Agent", value), ("X-Forwarded-For", value), ("Cookie", value)]
    record = recorded(tape, kind, *headers, trusted_proxies=1, session_id=lambda _: value.decode("latin-1"))
    assert record.session is not None
    assert "session.client:escaped" in record.altered
    assert "session.ip:not-an-address" in record.altered
    plain = recorded(tape, kind, ("User-Agent", "é".encode())).session
    assert plain is not None
    assert plain.client == "é"


@both
def test_the_user(tape: Tape, kind: Kind) -> None:
    """A user known at the beginning is bound; one that a function finds later is asked for by each record."""
    known: dict[str, Any] = {}

    def find(request: Any) -> Any:
        assert "headers" in request or "REMOTE_ADDR" in request
        return known["user"]

    def view() -> None:
        log = bound_logger(tape)
        log.audit("t")
        known["user"] = "alice"
        log.audit("t")
        log.audit("t", user="bob")
        log.audit("t", user=None)
        audited("t", logger=log.bind(user="carol"))(lambda: None)()
        with bound_contextvars(user="dave"):
            audited("t", logger=log)(lambda: None)()
        audited("t", logger=log)(lambda: None)()

    send(kind, view, user=find)
    users = [record.user for record, _ in tape.written]
    assert users == [None, "alice", "bob", None, "carol", "dave", "alice"]
    assert tape.written[0][0].altered == ("user:unresolved:KeyError",)
    plain = Tape()
    send(kind, lambda: bound_logger(plain).audit("t"), user=find)
    assert plain.record.user == "alice"
    bound_logger(tape).audit("t")
    assert tape.record.user is None


@both
def test_the_decorator_needs_no_processor(kind: Kind) -> None:
    """`audited` asks for the user itself, and marks the record of a request where that fails."""
    plain = Tape()
    view = audited("t", logger=bound_logger(plain))(lambda: None)
    answers = iter([None, "alice", None, None])

    send(kind, view, user=lambda _: next(answers))
    send(kind, view, user=lambda _: next(answers))
    send(kind, view, user=lambda _: next(answers))
    # Each request asks twice: when it begins, and for the record.
    assert [record.user for record, _ in plain.written] == ["alice", None, None]
    assert plain.record.altered == ("user:unresolved:StopIteration",)


@both
@pytest.mark.parametrize("value", [5, ["a"], object(), "\ud800", ""], ids=["int", "list", "object", "text", "empty"])
def test_users_and_ids_of_any_type(tape: Tape, kind: Kind, value: Any) -> None:
    """Whatever the application's functions return, requests are handled and recorded."""
    record = recorded(tape, kind, user=lambda _: value, session_id=lambda _: value)
    assert record.session is not None
    assert isinstance(record.user, str)
    assert isinstance(record.session.id, str)


@both
def test_an_id_that_fails(tape: Tape, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """Where the id cannot be found, the session gets a random one, and the log says why."""
    record = recorded(tape, kind, session_id=lambda request: request["sid"])
    assert record.session is not None
    assert len(record.session.id or "") == 32
    assert "session_id failed" in caplog.text


@both
@pytest.mark.parametrize("error", [None, ValueError, SystemExit])
def test_nothing_stays_behind(kind: Kind, error: type[BaseException] | None) -> None:
    """What the request bound, or changed, is gone after it, also after errors; what was bound before is there again."""

    def view() -> None:
        assert {"session", "user", "kept"} <= get_contextvars().keys()
        bind_contextvars(user="mallory", request_id="r", kept="changed")
        if error is not None:
            raise error

    def story() -> None:
        with bound_contextvars(kept="as it was"):
            before = get_contextvars()
            if error is None:
                send(kind, view, user=lambda _: "alice")
            else:
                with pytest.raises(error):
                    send(kind, view, user=lambda _: "alice")
            assert get_contextvars() == before == {"kept": "as it was"}

    copy_context().run(story)


def test_nothing_stays_behind_in_a_task() -> None:
    """Requests one after the other in one task, as some servers run them, see nothing of each other."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "user" not in get_contextvars()
        bind_contextvars(user="mallory")
        if scope["fails"]:
            raise ValueError
        await asyncio.sleep(0)

    async def story() -> None:
        middleware = asgi.AuditMiddleware(app)
        no: Any = None
        for fails in (False, True, False):
            scope: dict[str, Any] = {"type": "http", "headers": [], "fails": fails}
            if fails:
                with pytest.raises(ValueError, match=r"^$"):
                    await middleware(scope, no, no)
            else:
                await middleware(scope, no, no)
            assert get_contextvars() == {}

    asyncio.run(story())


class Streaming:
    """A response that looks at the context while it is sent and when it is closed."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(2):
            self.seen.append(get_contextvars()["session"].ip)
            yield b"x"

    def close(self) -> None:
        """Look once more."""
        self.seen.append(get_contextvars()["session"].ip)


def test_streaming_responses_of_wsgi() -> None:
    """A response that is made while it is sent has the session until it is closed, and two at a time have their own."""
    responses = [Streaming(), Streaming()]
    middleware = wsgi.AuditMiddleware(lambda environ, _: responses[environ["n"]])
    bodies: list[Any] = [middleware({"REMOTE_ADDR": f"10.0.0.{n}", "n": n}, None) for n in (0, 1)]
    iterators = [iter(body) for body in bodies]
    for _ in range(2):
        assert [next(iterator) for iterator in iterators] == [b"x", b"x"]
    assert [next(iterator, None) for iterator in iterators] == [None, None]
    for body in bodies:
        body.close()
    assert [response.seen for response in responses] == [["10.0.0.0"] * 3, ["10.0.0.1"] * 3]
    assert get_contextvars() == {}


def test_responses_that_run_nothing() -> None:
    """Lists and the server's own files pass through, so that servers see what they are; others may lack `close`."""

    class File:
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

    body = File()
    middleware = wsgi.AuditMiddleware(lambda environ, _: environ["body"])
    assert middleware({"body": body, "wsgi.file_wrapper": File}, None) is body
    chunks = [b"a"]
    assert middleware({"body": chunks}, None) is chunks
    wrapped: Any = middleware({"body": body}, None)
    assert list(wrapped) == [b"x"]
    wrapped.close()


@both
def test_inner_middleware(tape: Tape, kind: Kind) -> None:
    """Middleware within middleware binds a session of its own, and keeps the function that finds the user."""
    answers = iter([None, "alice"])
    no: Any = None
    if kind == "asgi":

        async def app(scope: Any, receive: Any, send: Any) -> None:
            bound_logger(tape).audit("t")

        outer = asgi.AuditMiddleware(asgi.AuditMiddleware(app), user=lambda _: next(answers))
        asyncio.run(_run(outer({"type": "http", "headers": []}, no, no)))
    else:
        inner = wsgi.AuditMiddleware(lambda *_: [bound_logger(tape).audit("t").record_id.encode()])
        wsgi.AuditMiddleware(inner, user=lambda _: next(answers))({}, no)
    assert tape.record.user == "alice"


@both
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"trusted_proxies": -1}, "trusted_proxies=-1"),
        ({"trusted_proxies": True}, "trusted_proxies=True"),
        ({"trusted_proxies": 33}, "trusted_proxies=33"),
        ({"trusted_proxies": "1"}, "trusted_proxies='1'"),
        ({"proxy_header": "x-real-ip"}, "proxy_header='x-real-ip' is unknown"),
        ({"user": "alice"}, "user='alice' is no function"),
        ({"session_id": 5}, "session_id=5 is no function"),
    ],
)
def test_mistakes_show_at_once(kind: Kind, options: dict[str, Any], complaint: str) -> None:
    """A wrong setting is refused when the middleware is made."""
    with pytest.raises(ConfigError, match=complaint):
        send(kind, lambda: None, **options)


@both
def test_a_programmer_s_error_raises_at_the_call(tape: Tape, kind: Kind) -> None:
    """The middleware hides no mistake in an audit call."""
    with pytest.raises(InvalidRecord, match="type"):
        send(kind, lambda: bound_logger(tape).audit(""))


@pytest.mark.parametrize(
    ("module", "own"),
    [
        ("asgi", set()),
        ("wsgi", set()),
        ("audited", set()),
        ("flask", set()),
        ("fastapi", {"fastapi", "starlette"}),
        ("flask_login", {"flask", "flask_login"}),
    ],
)
def test_each_module_imports_only_its_own_framework(module: str, own: set[str]) -> None:
    """Nobody needs a framework installed that he does not use."""
    code = f"import sys, otel_audit.integrations.{module}\nprint(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    frameworks = {"fastapi", "flask", "flask_login", "litestar", "starlette", "uvicorn", "django", "httpx"}
    assert frameworks & {name.partition(".")[0] for name in loaded} == own
