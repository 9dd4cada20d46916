"""Django's system checks: a wrong setting shows at ``manage.py check``, before any event."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's name
from django.utils.module_loading import import_string

from otel_audit.errors import AuditError, ConfigError
from otel_audit.integrations.django.options import SETTING, read_options
from otel_audit.paths import expanded

__all__ = ["check_archive", "check_middleware", "check_setting"]

MIDDLEWARE: Final = "otel_audit.integrations.django.middleware.AuditMiddleware"


def check_setting(**_: Any) -> list[CheckMessage]:
    """Return an error where ``OTEL_AUDIT`` is missing or wrong."""
    try:
        read_options(getattr(settings, SETTING, None))
    except AuditError as error:
        return [Error(error.message, hint=error.hint or None, obj=f"settings.{SETTING}", id="otel_audit.E001")]
    return []


def check_archive(**_: Any) -> list[CheckMessage]:
    """Return a warning where the archive's path is relative: servers, cron and ``manage.py`` may start elsewhere."""
    given = getattr(settings, SETTING, None)
    path = given.get("ARCHIVE") if isinstance(given, Mapping) else None
    if not isinstance(path, (str, os.PathLike)) or _is_absolute(path):
        return []
    return [
        Warning(
            f"ARCHIVE={os.fspath(path)!r} is relative: what starts in another folder records into another archive",
            hint=f"write BASE_DIR / {os.fspath(path)!r}",
            obj=f"settings.{SETTING}",
            id="otel_audit.W002",
        )
    ]


def check_middleware(**_: Any) -> list[CheckMessage]:
    """Return a warning where the middleware is missing: records have no session, refused requests no record."""
    from otel_audit.integrations.django.middleware import AuditMiddleware

    for path in settings.MIDDLEWARE:
        try:
            found = import_string(path)
        except ImportError:
            continue  # Django says so when it loads it
        if isinstance(found, type) and issubclass(found, AuditMiddleware):
            return []
    return [
        Warning(
            "the audit middleware is not in MIDDLEWARE: records lack session and user, and nobody records a 403",
            hint=f"put {MIDDLEWARE!r} first",
            obj="settings.MIDDLEWARE",
            id="otel_audit.W001",
        )
    ]


def _is_absolute(path: str | os.PathLike[str]) -> bool:
    try:
        return expanded(path).is_absolute()
    except ConfigError:
        return True  # which the settings' own check tells
