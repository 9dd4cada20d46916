"""A Django project in the tests' own process: its settings, its views, and a database in a folder of its own."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from structlog.contextvars import bind_contextvars

from otel_audit.archive.query import open_archive
from otel_audit.config import Settings
from otel_audit.integrations.audited import audited
from otel_audit.provider import configure_late, get_logger
from otel_audit.record import AuditRecord

__all__ = ["MIDDLEWARE", "OldHasher", "Refused", "User", "log", "project", "records", "sent"]

MIDDLEWARE = [
    "otel_audit.integrations.django.middleware.AuditMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

if not settings.configured:
    FOLDER = Path(tempfile.mkdtemp(prefix="otel-audit-django-"))
    atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "db.sqlite3"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "otel_audit.integrations.django",
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
        ],
        LOGGING_CONFIG=None,  # the tests' own logging stays
        MIDDLEWARE=MIDDLEWARE,
        OTEL_AUDIT={"HOST": "example.com"},
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher", "tests.django_project.OldHasher"],
        ROOT_URLCONF="tests.django_project",
        SECRET_KEY="s" * 50,
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        USE_TZ=True,
    )
    django.setup()
    # Tests of the library's own defaults run in this process, too.
    configure_late(Settings)

from django.contrib import admin  # noqa: E402 - models: not before the settings
from django.contrib.auth import aauthenticate, alogin, authenticate, login, logout  # noqa: E402
from django.contrib.auth.hashers import MD5PasswordHasher  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.exceptions import PermissionDenied  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

log = get_logger("shop")


class OldHasher(MD5PasswordHasher):
    """Hashes that are due for renewal."""

    algorithm = "old"


class Refused(PermissionDenied):
    """What an application may raise."""


def records(archive: Path) -> list[AuditRecord]:
    """Return all records, in order."""
    with open_archive(archive) as opened:
        return list(opened.query())[::-1]


def plain(_request: HttpRequest) -> HttpResponse:
    """Record an event."""
    log.audit("plain")
    return HttpResponse("ok")


async def plain_async(_request: HttpRequest) -> HttpResponse:
    """Record an event from an event loop, twice."""
    await log.aaudit("plain")
    log.audit("plain")
    return HttpResponse("ok")


@audited("decorated", target=lambda name: name)
def decorated(_request: HttpRequest, name: str) -> HttpResponse:
    """Fail or not."""
    return HttpResponse(status=418 if name == "pot" else 200)


def refuse(_request: HttpRequest) -> HttpResponse:
    """Raise what becomes a 403."""
    raise Refused("with a secret")


async def refuse_async(_request: HttpRequest) -> HttpResponse:
    """Raise what becomes a 403."""
    raise Refused("with a secret")


def forbid(_request: HttpRequest) -> HttpResponse:
    """Return a 403."""
    return HttpResponseForbidden()


def enter(request: HttpRequest) -> HttpResponse:
    """Log in with whatever was sent."""
    user = authenticate(request, username=request.POST.get("username"), password=request.POST.get("password"))
    if user is None:
        return HttpResponse(status=401)
    login(request, user)
    log.audit("entered")
    return HttpResponse("ok")


async def enter_async(request: HttpRequest) -> HttpResponse:
    """Log in from an event loop."""
    user = await aauthenticate(request, username=request.POST.get("username"), password=request.POST.get("password"))
    if user is None:
        return HttpResponse(status=401)
    await alogin(request, user)
    await log.aaudit("entered")
    return HttpResponse("ok")


def leave(request: HttpRequest) -> HttpResponse:
    """Log out."""
    logout(request)
    log.audit("left")
    return HttpResponse("ok")


def stream(_request: HttpRequest) -> StreamingHttpResponse:
    """Record an event for each part that is sent."""

    def chunks() -> Iterator[str]:
        for number in range(2):
            bind_contextvars(number=number)
            log.audit("chunk")
            yield "x"

    return StreamingHttpResponse(chunks())


async def stream_async(_request: HttpRequest) -> StreamingHttpResponse:
    """Likewise, from an event loop."""

    async def chunks() -> AsyncIterator[str]:
        for number in range(2):
            bind_contextvars(number=number)
            await log.aaudit("chunk")
            yield "x"

    return StreamingHttpResponse(chunks())


urlpatterns = [
    path("admin/", admin.site.urls),
    path("plain", plain),
    path("plain-async", plain_async),
    path("decorated/<name>", decorated),
    path("refuse", refuse),
    path("refuse-async", refuse_async),
    path("forbid", forbid),
    path("enter", enter),
    path("enter-async", enter_async),
    path("leave", leave),
    path("stream", stream),
    path("stream-async", stream_async),
]


@lru_cache(1)
def _migrate() -> None:
    call_command("migrate", verbosity=0)


@contextlib.contextmanager
def project(archive: Path, **options: Any) -> Iterator[None]:
    """Set the project up with an archive and an empty database, and end its provider; no other one is touched."""
    from django.db import connections
    from django.test import override_settings

    from otel_audit import provider
    from otel_audit.integrations.django.options import provider_settings

    _migrate()
    call_command("flush", verbosity=0, interactive=False)
    given = {"ARCHIVE": archive, "HOST": "example.com", "SHIP": False, **options}
    before, provider._global = provider._global, None
    configure_late(provider_settings)
    try:
        with override_settings(OTEL_AUDIT=given):
            yield
    finally:
        opened = provider.global_provider()
        provider._global = before
        configure_late(Settings)
        if opened is not None:
            opened.shutdown()
        connections.close_all()


def sent(response: Any) -> bytes:
    """Return the body of a streaming response."""
    return b"".join(response.streaming_content)
