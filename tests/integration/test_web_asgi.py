"""Starlette, FastAPI and Litestar on uvicorn: what their requests record, from a real client's first byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fastapi
import httpx
import litestar
import pytest
from fastapi.middleware import Middleware as FastAPIMiddleware
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from structlog.contextvars import bind_contextvars

from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from otel_audit.integrations.asgi import AuditMiddleware
from otel_audit.integrations.audited import audited
from otel_audit.integrations.fastapi import audited as audited_endpoint
from otel_audit.integrations.web import request_user
from otel_audit.provider import AuditProvider, configure, get_logger
from otel_audit.record import AuditRecord, Target
from tests.web_servers import asgi_server, raw_request

log = get_logger("shop")


@pytest.fixture
def provider(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditProvider]:
    monkeypatch.setattr(provider_module, "_global", None)
    with configure(archive=archive_path, host="example.com", processors=[request_user], ship=False) as opened:
        yield opened


def records(provider: AuditProvider) -> list[AuditRecord]:
    with open_archive(provider.config.archive) as archive:
        return list(archive.query())[::-1]


def state_user(scope: Any) -> str | None:
    user: str | None = scope.get("state", {}).get("user")
    return user


class Backend(AuthenticationBackend):
    """Takes the user's word for it."""

    async def authenticate(self, conn: Any) -> tuple[AuthCredentials, SimpleUser] | None:
        """Return the user of a header."""
        name = conn.headers.get("x-user")
        return None if name is None else (AuthCredentials(), SimpleUser(name))


async def plain(request: Request) -> PlainTextResponse:
    await log.aaudit("plain")
    return PlainTextResponse("ok")


def threaded(request: Request) -> PlainTextResponse:
    log.audit("threaded")
    request.state.user = "late"
    log.audit("threaded.late")
    return PlainTextResponse("ok")


async def streaming(request: Request) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(2):
            await log.aaudit("chunk")
            yield b"x"

    async def after() -> None:
        await log.aaudit("background")

    return StreamingResponse(chunks(), background=BackgroundTask(after))


async def failing(request: Request) -> None:
    bind_contextvars(user="mallory", leaked=True)
    await log.aaudit("failing")
    raise ValueError


@audited("order.delete", target=lambda request: Target(request.path_params["id"], "order"))
async def delete(request: Request) -> PlainTextResponse:
    if request.path_params["id"] == "none":
        raise HTTPException(404, "no such order")
    return PlainTextResponse("no", status_code=403 if request.path_params["id"] == "theirs" else 200)


class Passing(BaseHTTPMiddleware):
    """Middleware that runs the application in a task of its own."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        """Pass the request on."""
        return await call_next(request)


def starlette(**options: Any) -> Starlette:
    return Starlette(
        routes=[
            Route("/plain", plain), Route("/threaded", threaded), Route("/streaming", streaming),
            Route("/failing", failing), Route("/orders/{id}", delete, methods=["DELETE"]),
        ],
        middleware=[Middleware(AuditMiddleware, **options), Middleware(Passing)],
    )  # fmt: skip


def test_starlette(provider: AuditProvider) -> None:
    """Coroutine, thread, streaming response and background task have their request's session, and no other."""
    with asgi_server(starlette(user=state_user)) as url, httpx.Client(base_url=url) as client:
        for path in ("/plain", "/threaded", "/streaming", "/failing", "/plain"):
            client.get(path, headers={"User-Agent": path})
    found = [(record.type, record.user, record.session and record.session.client) for record in records(provider)]
    assert found == [
        ("plain", None, "/plain"), ("threaded", None, "/threaded"), ("threaded.late", "late", "/threaded"),
        ("chunk", None, "/streaming"), ("chunk", None, "/streaming"), ("background", None, "/streaming"),
        ("failing", "mallory", "/failing"), ("plain", None, "/plain"),
    ]  # fmt: skip
    sessions = [record.session for record in records(provider) if record.session is not None]
    assert {(session.type, session.ip) for session in sessions} == {("http", "127.0.0.1")}
    assert [len({session.id for session in sessions}), sessions[3].id] == [5, sessions[5].id]
    assert records(provider)[-1].custom == {}


def test_starlette_s_decorated_endpoints(provider: AuditProvider) -> None:
    """Success, an error response and an HTTPException are recorded with target and status."""
    with asgi_server(starlette()) as url, httpx.Client(base_url=url) as client:
        statuses = [client.delete(f"/orders/{name}").status_code for name in ("mine", "theirs", "none")]
    assert statuses == [200, 403, 404]
    found = [(record.target and record.target.id, record.outcome, record.custom) for record in records(provider)]
    error = {"type": "starlette.exceptions.HTTPException", "status": 404}
    assert found == [
        ("mine", "success", {}), ("theirs", "failure", {"error": {"status": 403}}),
        ("none", "failure", {"error": error}),
    ]  # fmt: skip
    assert records(provider)[0].source == __name__


def test_starlette_s_own_users(provider: AuditProvider) -> None:
    """A user that Starlette's authentication found is taken from the scope, in middleware behind it or before it."""

    def user(scope: Any) -> str | None:
        found = scope["user"]
        return found.display_name if found.is_authenticated else None

    authentication = Middleware(AuthenticationMiddleware, backend=Backend())
    audit = Middleware(AuditMiddleware, user=user)
    for middleware in ([authentication, audit], [audit, authentication]):
        app = Starlette(routes=[Route("/plain", plain)], middleware=middleware)
        with asgi_server(app) as url:
            httpx.get(f"{url}/plain", headers={"X-User": "alice"})
            httpx.get(f"{url}/plain")
    assert [record.user for record in records(provider)] == ["alice", None] * 2


def test_many_requests_at_once(provider: AuditProvider) -> None:
    """Concurrent requests never get each other's session or user."""

    async def mixed(request: Request) -> PlainTextResponse:
        name = request.query_params["n"]
        bind_contextvars(user=name)
        for _ in range(3):
            await log.aaudit("t", custom={"g": {"n": name}})
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", mixed)], middleware=[Middleware(AuditMiddleware)])

    async def story(url: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            await asyncio.gather(*(client.get("/", params={"n": n}, headers={"User-Agent": f"{n}"}) for n in range(40)))

    with asgi_server(app) as url:
        asyncio.run(story(url))
    found = {
        (record.user, record.custom["g"]["n"], record.session and record.session.client) for record in records(provider)
    }
    assert found == {(f"{n}", f"{n}", f"{n}") for n in range(40)}
    assert len(records(provider)) == 120


def test_hostile_requests(provider: AuditProvider) -> None:
    """Bytes that no client would send, behind a proxy, are recorded and marked, and the proxy's address counts."""
    with asgi_server(starlette(trusted_proxies=1, proxy_header="forwarded")) as url:
        answer = raw_request(
            url, "/plain", b"User-Agent: \xff\xfe\x80", b'Forwarded: for="6.6.6.6', b"X-Forwarded-For: 7.7.7.7",
            b'Forwarded: for="[2001:db8::1]:99";host="a,b;for=8.8.8.8"',
        )  # fmt: skip
        raw_request(url, "/plain", b"Forwarded: for=" + b',;="\\' * 2_000)
    assert answer.startswith(b"HTTP/1.1 200")
    first, second = (record.session for record in records(provider))
    assert first is not None
    assert second is not None
    assert (first.ip, first.client) == ("2001:db8::1", "\\udcff\\udcfe\\udc80")
    assert records(provider)[0].altered == ("session.client:escaped",)
    assert second.ip == "127.0.0.1"


def fastapi_app() -> fastapi.FastAPI:
    app = fastapi.FastAPI(middleware=[FastAPIMiddleware(AuditMiddleware, user=state_user)])

    def log_in(request: fastapi.Request) -> None:
        if "x-user" not in request.headers:
            raise fastapi.HTTPException(401)
        request.state.user = request.headers["x-user"]

    @app.delete(
        "/orders/{order_id}",
        dependencies=[
            audited_endpoint("order.delete", target=lambda order_id: order_id, custom=lambda request: {
                "http": {"method": request.method}
            }),
            fastapi.Depends(log_in),
        ],
    )  # fmt: skip
    async def delete_order(order_id: int, response: fastapi.Response) -> dict[str, int]:
        if order_id == 404:
            raise fastapi.HTTPException(404)
        if order_id == 500:
            raise ZeroDivisionError
        if order_id == 409:
            response.status_code = 409
        return {"deleted": order_id}

    @app.put("/orders/{order_id}", dependencies=[audited_endpoint("order.put")], response_model=int)
    def put_order(order_id: int) -> Any:
        return "no number"

    @app.post("/orders/{order_id}")
    @audited("order.create", target=lambda order_id: order_id)
    def create_order(order_id: int, *, fail: bool = False) -> dict[str, int]:
        if fail:
            raise fastapi.HTTPException(422)
        return {"created": order_id}

    return app


def test_fastapi_s_dependency(provider: AuditProvider) -> None:
    """Success, each kind of failure and what dependencies behind it refuse are recorded, with the user found later."""
    alice = {"X-User": "alice"}
    with asgi_server(fastapi_app()) as url, httpx.Client(base_url=url) as client:
        requests: list[tuple[str, str, dict[str, str], int]] = [
            ("DELETE", "1", alice, 200), ("DELETE", "404", alice, 404), ("DELETE", "500", alice, 500),
            ("DELETE", "409", alice, 409), ("DELETE", "2", {}, 401), ("DELETE", "nonsense", alice, 422),
            ("PUT", "3", {}, 500),
        ]  # fmt: skip
        for method, name, headers, status in requests:
            assert client.request(method, f"/orders/{name}", headers=headers).status_code == status
    *deleted, put = records(provider)
    found = [
        (record.target and record.target.id, record.user, record.outcome, record.custom.get("error"))
        for record in deleted
    ]
    assert found == [
        ("1", "alice", "success", None),
        ("404", "alice", "failure", {"type": "fastapi.exceptions.HTTPException", "status": 404}),
        ("500", "alice", "failure", {"type": "ZeroDivisionError"}),
        ("409", "alice", "failure", {"status": 409}),
        ("2", None, "failure", {"type": "fastapi.exceptions.HTTPException", "status": 401}),
        ("nonsense", "alice", "failure", {"type": "fastapi.exceptions.RequestValidationError"}),
    ]
    assert deleted[0].custom == {"http": {"method": "DELETE"}}
    assert (deleted[0].source, put.outcome) == (__name__, "failure")
    assert put.custom == {"error": {"type": "fastapi.exceptions.ResponseValidationError"}}


def test_fastapi_s_decorated_endpoints(provider: AuditProvider) -> None:
    """The decorator keeps an endpoint's parameters as FastAPI reads them, also in a thread."""
    with asgi_server(fastapi_app()) as url, httpx.Client(base_url=url) as client:
        assert client.post("/orders/7").json() == {"created": 7}
        assert client.post("/orders/8", params={"fail": True}).status_code == 422
        assert client.post("/orders/x").status_code == 422  # the endpoint was never called
    found = [(record.target, record.outcome, record.session is None) for record in records(provider)]
    assert found == [(Target("7"), "success", False), (Target("8"), "failure", False)]


def test_it_is_on_disk_before_the_client_hears(provider: AuditProvider) -> None:
    """When the first byte of the response is sent, the endpoint's record is in the archive."""
    seen: list[int] = []

    async def story() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            seen.append(len(records(provider)))

        scope = {
            "type": "http", "method": "DELETE", "path": "/orders/1", "raw_path": b"/orders/1", "query_string": b"",
            "headers": [(b"x-user", b"alice")], "client": ("127.0.0.1", 5), "server": ("x", 80), "scheme": "http",
            "asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        await fastapi_app()(scope, receive, send)

    asyncio.run(story())
    assert seen == [1, 1]


def test_a_cancelled_endpoint(provider: AuditProvider) -> None:
    """An endpoint that is cancelled while it waits is recorded as a failure by the dependency."""
    app = fastapi.FastAPI()
    waiting = asyncio.Event()

    @app.get("/", dependencies=[audited_endpoint("wait")])
    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def story() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            task = asyncio.create_task(client.get("/"))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(story())
    (record,) = records(provider)
    assert (record.outcome, record.custom["error"]["type"]) == ("failure", "asyncio.exceptions.CancelledError")


def test_litestar(provider: AuditProvider) -> None:
    """Litestar's handlers have session and user, and its exceptions are failures with their status."""

    @litestar.delete("/orders/{order_id:int}")
    @audited("order.delete", target=lambda order_id: order_id)
    async def delete_order(order_id: FromPath[int], request: litestar.Request[Any, Any, Any]) -> None:
        request.state.user = "alice"
        if order_id == 404:
            raise litestar.exceptions.NotFoundException
        await log.aaudit("inside")

    @litestar.get("/sync", sync_to_thread=True)
    def look() -> str:
        log.audit("looked")
        return "ok"

    app = litestar.Litestar(
        [delete_order, look], middleware=[DefineMiddleware(AuditMiddleware, user=state_user, trusted_proxies=1)]
    )
    with (
        asgi_server(app) as url,
        httpx.Client(base_url=url, headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.7"}) as client,
    ):
        assert [client.delete(f"/orders/{n}").status_code for n in (1, 404)] == [204, 404]
        assert client.get("/sync").text == "ok"
    found = [(record.type, record.user, record.target, record.outcome) for record in records(provider)]
    assert found == [
        ("inside", "alice", None, "unknown"),
        ("order.delete", "alice", Target("1"), "success"),
        ("order.delete", "alice", Target("404"), "failure"),
        ("looked", None, None, "unknown"),
    ]
    assert {record.session and record.session.ip for record in records(provider)} == {"203.0.113.7"}
    assert records(provider)[2].custom["error"]["status"] == 404
