"""Records that a user's password changed, which Django has no signal for: what is saved is compared with what was."""

from __future__ import annotations

from typing import Any, Final

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import get_hasher, identify_hasher, is_password_usable
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db.models.signals import post_save, pre_save

from otel_audit.integrations.django.accounts import connect_first
from otel_audit.integrations.django.requests import account, actor_beside
from otel_audit.integrations.django.transactions import audit_change
from otel_audit.logger import Arguments
from otel_audit.provider import get_logger

__all__ = ["connect"]

_BEFORE: Final = "_otel_audit_password_before"
_log: Final = get_logger("django.auth")


def connect() -> None:
    """Record changes from now on, of the project's user model and of models that inherit from it."""
    try:
        users = get_user_model()
        users._meta.get_field("password")  # noqa: SLF001 - documented in spite of its name
    except (FieldDoesNotExist, ImproperlyConfigured):
        return  # no django.contrib.auth, or users without passwords
    for model in apps.get_models():
        # A proxy and a child send their own signals.
        if issubclass(model, users):
            connect_first(pre_save, remember, model)
            connect_first(post_save, compare, model)


def remember(sender: Any, *, instance: Any, raw: bool, using: str, update_fields: Any, **_: Any) -> None:
    """Look the stored hash up before another one may take its place."""
    before = None
    if not raw and instance.pk is not None and (update_fields is None or "password" in update_fields):
        # Documented, too: the default manager may hide users.
        stored = sender._base_manager.using(using).filter(pk=instance.pk)  # noqa: SLF001
        before = stored.values_list("password", flat=True).first()
    setattr(instance, _BEFORE, before)


def compare(*, instance: Any, created: bool, using: str, update_fields: Any, **_: Any) -> None:
    """Record that the hash that was saved is another one."""
    before = instance.__dict__.pop(_BEFORE, None)
    if created or before is None or before == instance.password:
        return
    logger, arguments = account(_log, instance)
    logger, actor = actor_beside(logger, arguments["user"])
    type_ = "user.password.changed"
    custom: dict[str, dict[str, Any]] = {}
    if not is_password_usable(instance.password):
        custom = {"reason": {"condition": "made-unusable"}}
    elif update_fields == {"password"} and getattr(instance, "_password", None) is None and _outdated(before):
        # Django renews the hash of the same password at a login, in just this way.
        type_, custom = "user.updated", {"change": {"fields": ["password-hash"]}}
    given: Arguments = {**arguments, **actor}
    audit_change(logger, type_, using, {**given, "custom": custom} if custom else given)


def _outdated(encoded: str) -> bool:
    try:
        hasher, preferred = identify_hasher(encoded), get_hasher("default")
    except ValueError:
        return False  # made by a hasher that the project does not have any more: nothing could check it
    return hasher.algorithm != preferred.algorithm or preferred.must_update(encoded)
