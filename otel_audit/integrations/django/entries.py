"""Records what the admin logs: additions, changes and deletions, also those of many objects at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import wraps
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist
from django.db.models.signals import post_save

from otel_audit.integrations.django.accounts import connect_first
from otel_audit.integrations.django.requests import account
from otel_audit.integrations.django.transactions import audit_change
from otel_audit.logger import Arguments
from otel_audit.provider import get_logger
from otel_audit.record import Target

__all__ = ["connect"]

_TYPES: Final = {1: "object.created", 2: "object.updated", 3: "object.deleted"}
_log: Final = get_logger("django.admin")


def connect() -> None:
    """Record the entries from now on, where the project has the admin; calling it again changes nothing."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import LogEntry, LogEntryManager  # a model: not before the app is installed

    connect_first(post_save, saved, LogEntry)
    manager: Any = LogEntryManager
    if "bulk_create" in vars(manager):
        return
    # Since Django 5.1 the action that deletes many objects logs them at once, which sends no signal.
    create = manager.bulk_create

    @wraps(create)
    def bulk_create(self: Any, *args: Any, **kwargs: Any) -> Any:
        entries = create(self, *args, **kwargs)
        _record_all(entries)
        return entries

    manager.bulk_create = bulk_create


def saved(*, instance: Any, created: bool, raw: bool, **_: Any) -> None:
    """Record a new entry."""
    if created and not raw:
        _record_all([instance])


def _record_all(entries: Iterable[Any]) -> None:
    users: dict[Any, Any] = {}
    for entry in entries:
        if entry.user_id not in users:
            users[entry.user_id] = _user(entry)
        _record(entry, users[entry.user_id])


def _user(entry: Any) -> Any:
    try:
        return entry.user
    except ObjectDoesNotExist:
        return None


def _record(entry: Any, user: Any) -> None:
    from django.contrib.contenttypes.models import ContentType  # a model, as above

    logger, given = account(_log, user)
    if user is None:
        given = {"user": None, "actor": str(entry.user_id)}
    kind = None
    if entry.content_type_id is not None:
        # By the manager, which keeps them: many entries have the same.
        kind = ".".join(ContentType.objects.get_for_id(entry.content_type_id).natural_key())
    said: Any = {"name": entry.object_repr}
    custom: dict[str, dict[str, Any]] = {"object": said}
    if change := _change(entry.change_message):
        custom["change"] = change
    arguments: Arguments = {**given, "target": Target(str(entry.object_id or ""), kind), "custom": custom}
    # A project may log entries with flags of its own.
    type_ = _TYPES.get(entry.action_flag, "object.updated")
    audit_change(logger, type_, entry._state.db, arguments)  # noqa: SLF001 - documented


def _change(message: str) -> dict[str, Any]:
    """Return what an entry says of the change: the fields of the object, and what happened to objects within it."""
    try:
        parts: Any = json.loads(message) if message else []
    except ValueError:
        parts = message
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return {"text": message}
    fields: list[Any] = []
    within: list[dict[str, Any]] = []
    for part in parts:
        for verb, details in part.items():
            if isinstance(details, dict) and "name" in details:
                within.append({"verb": verb, **details})
            elif isinstance(details, dict) and isinstance(named := details.get("fields"), list):
                fields += named
    return {key: value for key, value in (("fields", fields), ("within", within)) if value}
