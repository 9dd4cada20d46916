"""Django in this process, with its own test clients: what logins, requests, refusals and streams record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.dispatch import receiver
from django.test import AsyncClient, Client, RequestFactory, override_settings
from structlog.contextvars import get_contextvars

from otel_audit import provider
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.integrations.web import request_user
from otel_audit.record import AuditRecord, Session
from tests.django_project import MIDDLEWARE, User, project, records, sent
from tests.recording import HOSTILE_TEXTS

PROXIES: Any = {"HTTP_X_FORWARDED_FOR": "6.6.6.6, 203.0.113.7", "HTTP_USER_AGENT": "browser"}


@pytest.fixture(autouse=True)
def _project(archive_path: Path) -> Iterator[None]:
    with project(archive_path, TRUSTED_PROXIES=1):
        yield


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice", password="right")


def told(archive: Path) -> list[tuple[str, str | None]]:
    return [(record.type, record.user) for record in records(archive)]


def session_of(record: AuditRecord) -> Session:
    assert record.session is not None
    return record.session


def test_logins(archive_path: Path, alice: User) -> None:
    """Login, failure and logout have user, id, backend, client and the address behind the proxy, and no password."""
    client = Client(**PROXIES)
    assert client.post("/enter", {"username": "alice", "password": "wrong-4711"}).status_code == 401
    assert client.post("/enter", {"username": "alice", "password": "right"}).status_code == 200
    assert client.get("/plain").status_code == 200
    assert client.get("/leave").status_code == 200
    found = records(archive_path)
    assert told(archive_path) == [
        ("user.login.failure", "alice"), ("user.login.success", "alice"), ("entered", "alice"), ("plain", "alice"),
        ("user.logout", "alice"), ("left", None),
    ]  # fmt: skip
    failure, success = found[:2]
    assert (failure.outcome, failure.source, failure.host) == ("failure", "django.auth", "example.com")
    assert (success.user_id, success.custom) == (
        str(alice.pk), {"login": {"backend": "django.contrib.auth.backends.ModelBackend"}},
    )  # fmt: skip
    for record in found:
        session = session_of(record)
        assert (session.type, session.ip, session.client) == ("http", "203.0.113.7", "browser")
    assert "4711" not in str(found)


def test_the_session_s_id(archive_path: Path, alice: User) -> None:
    """The records of one login share an id, which is not the cookie; the next login has another one."""
    client, keys = Client(), []
    for _ in range(2):
        client.post("/enter", {"username": "alice", "password": "right"})
        keys.append(client.cookies["sessionid"].value)
        client.get("/plain")
        client.get("/leave")
    ids = [session_of(record).id or "" for record in records(archive_path)]
    login, _, plain, logout, _ = ids[:5]
    assert login == plain == logout
    assert len({login, ids[5]}) == 2
    assert not set(keys) & set(ids)


@pytest.mark.parametrize("name", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_names(archive_path: Path, name: str) -> None:
    """A failed login is recorded whatever the name, the headers and the cookie."""
    from django.contrib.auth.signals import user_login_failed

    request = RequestFactory().post("/", HTTP_USER_AGENT=name, HTTP_X_FORWARDED_FOR=name, REMOTE_ADDR=name)
    request.COOKIES["sessionid"] = name
    user_login_failed.send(sender=__name__, credentials={"username": name}, request=request)
    (record,) = records(archive_path)
    assert record.type == "user.login.failure"
    assert record.user is not None


def test_names_that_are_no_text(archive_path: Path) -> None:
    """A list or a number in place of a name is recorded as text, and marked where it is odd; none is nobody's."""
    from django.contrib.auth.signals import user_login_failed

    request = RequestFactory().post("/")
    credentials: list[dict[str, Any]] = [{"username": ["a", "b"]}, {"username": 5}, {"email": "e@x"}, {"token": "***"}]
    for given in credentials:
        user_login_failed.send(sender=__name__, credentials=given, request=request)
    user_login_failed.send(sender=__name__, credentials={"username": "alice"}, request=None)
    found = records(archive_path)
    assert [record.user for record in found] == ["['a', 'b']", "5", "e@x", None, "alice"]
    assert [record.altered for record in found] == [("user:converted:list",), (), (), (), ()]
    assert found[3].actor.id == "anonymous"
    assert session_of(found[0]).ip == "127.0.0.1"
    assert found[4].session is None


def test_a_receiver_that_raises_keeps_nothing_from_being_recorded(archive_path: Path) -> None:
    """Other receivers come later, whenever they were connected: a lock-out that raises hides no failed login."""
    from django.contrib.auth.signals import user_login_failed

    @receiver(user_login_failed)
    def lock_out(**_: Any) -> None:
        raise LookupError("locked")

    try:
        with pytest.raises(LookupError):
            Client().post("/enter", {"username": "mallory", "password": "x"})
    finally:
        user_login_failed.disconnect(lock_out)
    assert told(archive_path) == [("user.login.failure", "mallory")]


def test_refusals(archive_path: Path, alice: User) -> None:
    """Each answer 403 is one record, with the exception's type and without its text, whoever is logged in."""
    client = Client()
    client.get("/refuse")
    client.force_login(alice)
    client.post("/forbid")
    Client(enforce_csrf_checks=True).get("/plain")
    denied = [record for record in records(archive_path) if record.type == "permission.denied"]
    assert [(record.user, record.actor.id, record.target and record.target.id) for record in denied] == [
        (None, "anonymous", "/refuse"), ("alice", "alice", "/forbid"),
    ]  # fmt: skip
    assert [record.custom for record in denied] == [
        {"error": {"status": 403, "type": "tests.django_project.Refused"}, "request": {"method": "GET"}},
        {"error": {"status": 403}, "request": {"method": "POST"}},
    ]
    assert "secret" not in str(denied)


def test_what_other_middleware_refuses(archive_path: Path) -> None:
    """A request without CSRF token is refused before any view, and recorded."""
    middleware = [*MIDDLEWARE[:2], "django.middleware.csrf.CsrfViewMiddleware", *MIDDLEWARE[2:]]
    with override_settings(MIDDLEWARE=middleware):
        assert Client(enforce_csrf_checks=True).post("/plain").status_code == 403
    assert told(archive_path) == [("permission.denied", None)]


def test_decorated_views(archive_path: Path, alice: User) -> None:
    """The general decorator knows the request's user, and takes a response with an error status for a failure."""
    client = Client()
    client.force_login(alice)
    for name in ("cup", "pot"):
        client.get(f"/decorated/{name}")
    assert [
        (record.user, record.outcome, record.target and record.target.id) for record in records(archive_path)[1:]
    ] == [("alice", "success", "cup"), ("alice", "failure", "pot")]


def test_asynchronous_views(archive_path: Path, alice: User) -> None:
    """In an event loop, where no query may run, records have the user all the same; so do refusals and logins."""

    async def requests() -> None:
        client, proxy = AsyncClient(), {"x-forwarded-for": "203.0.113.7"}
        for password, status in (("wrong", 401), ("right", 200)):
            given = {"username": "alice", "password": password}
            assert (await client.post("/enter-async", given, headers=proxy)).status_code == status
        for path in ("/plain-async", "/plain", "/decorated/cup"):
            assert (await client.get(path, headers=proxy)).status_code == 200
        for path in ("/refuse-async", "/refuse", "/forbid"):
            assert (await client.get(path, headers=proxy)).status_code == 403
        assert (await AsyncClient().get("/refuse-async")).status_code == 403

    asyncio.run(requests())
    found = records(archive_path)
    assert told(archive_path) == [
        ("user.login.failure", "alice"), ("user.login.success", "alice"), ("entered", "alice"),
        ("plain", "alice"), ("plain", "alice"), ("plain", "alice"), ("decorated", "alice"),
        *[("permission.denied", "alice")] * 3, ("permission.denied", None),
    ]  # fmt: skip
    assert {record.altered for record in found} == {()}
    assert {session_of(record).ip for record in found[:-1]} == {"203.0.113.7"}
    assert found[7].custom["error"]["type"] == "tests.django_project.Refused"


@pytest.mark.parametrize("path", ["/plain-async", "/refuse-async"])
def test_asynchronous_views_on_wsgi(archive_path: Path, alice: User, path: str) -> None:
    """A synchronous server runs an asynchronous view in an event loop of its own: the user is known there, too."""
    client = Client()
    client.force_login(alice)
    client.get(path)
    assert {record.user for record in records(archive_path)} == {"alice"}
    assert {record.altered for record in records(archive_path)} == {()}


def test_a_synchronous_stack_on_asgi(archive_path: Path, alice: User) -> None:
    """Middleware that knows no event loop makes the whole stack synchronous: nothing changes."""
    with override_settings(MIDDLEWARE=[*MIDDLEWARE, "tests.integration.django_middleware.old"]):
        client = AsyncClient()
        client.force_login(alice)
        for path in ("/plain", "/plain-async", "/refuse-async"):
            asyncio.run(_get(client, path))
    assert told(archive_path)[1:] == [("plain", "alice")] * 3 + [("permission.denied", "alice")]
    assert {record.altered for record in records(archive_path)} == {()}


async def _get(client: AsyncClient, path: str) -> Any:
    return await client.get(path)


def test_streams(archive_path: Path, alice: User) -> None:
    """What is recorded while a response is sent has its request's user, session and bound values."""
    client = Client()
    client.force_login(alice)
    response = client.get("/stream")
    other = Client().get("/stream")
    assert (sent(response), sent(other)) == (b"xx", b"xx")
    chunks = [record for record in records(archive_path) if record.type == "chunk"]
    assert [(record.user, record.custom["context"]["number"]) for record in chunks] == [
        ("alice", 0), ("alice", 1), (None, 0), (None, 1),
    ]  # fmt: skip
    assert len({session_of(record).id for record in chunks}) == 2
    assert get_contextvars() == {}


def test_asynchronous_streams(archive_path: Path, alice: User) -> None:
    """Likewise in an event loop."""
    client = AsyncClient()
    client.force_login(alice)

    async def request() -> bytes:
        response: Any = await client.get("/stream-async")
        assert get_contextvars() == {}
        return b"".join([chunk async for chunk in response.streaming_content])

    assert asyncio.run(request()) == b"xx"
    assert [record.user for record in records(archive_path) if record.type == "chunk"] == ["alice", "alice"]


def test_nothing_is_asked_for_that_no_record_needs(alice: User) -> None:
    """A request that records nothing costs no query."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client = Client()
    client.force_login(alice)
    with (
        override_settings(ROOT_URLCONF="tests.integration.django_middleware"),
        CaptureQueriesContext(connection) as made,
    ):
        assert client.get("/nothing").status_code == 200
    assert len(made) == 0


def test_a_server_with_wrong_settings_does_not_start(tmp_path: Path) -> None:
    """The middleware refuses to load where the setting is wrong or the archive cannot be opened."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with override_settings(OTEL_AUDIT={"HOSTS": "x"}), pytest.raises(ConfigError, match="did you mean 'HOST'"):
        Client().get("/plain")
    with override_settings(OTEL_AUDIT={"HOST": "x", "ARCHIVE": blocked / "audit.db"}), pytest.raises(ArchiveError):
        Client().get("/plain")


def test_a_login_that_cannot_be_recorded_fails(alice: User) -> None:
    """Nobody is logged in without a record."""
    client = Client()
    client.get("/plain")
    provider.current_provider().shutdown()
    with pytest.raises(ArchiveError):
        client.post("/enter", {"username": "alice", "password": "right"})
    assert "sessionid" not in client.cookies


def test_a_provider_of_the_application_s_own(tmp_path: Path, alice: User) -> None:
    """Where the project configures by itself, its provider is used."""
    own = tmp_path / "own.db"
    provider.configure(archive=own, host="own.example", ship=False, processors=[request_user])
    client = Client()
    client.force_login(alice)
    client.get("/plain")
    assert [(record.host, record.user) for record in records(own)] == [("own.example", "alice")] * 2
