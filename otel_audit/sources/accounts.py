"""Accounts, as `mod_audit_user_accounts` records them, with password changes and what administrators change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import ClassVar, Unpack

from otel_audit.record import Receipt, Session
from otel_audit.signals import (
    AuditSignal,
    role_assigned,
    role_removed,
    user_deregistered,
    user_deregistered_pending,
    user_disabled,
    user_enabled,
    user_password_changed,
    user_registered,
    user_updated,
)
from otel_audit.sources.base import Further, Source, listed, moment

__all__ = ["Accounts"]


class Accounts(Source):
    """Records what happens to accounts.

    ``user`` is always the account that changed. Where somebody else changed it, an administrator or a job, give
    ``actor=``; ``session`` is then the administrator's.
    """

    name: ClassVar[str] = "accounts"
    signals: ClassVar[Mapping[str, AuditSignal]] = {
        "registered": user_registered,
        "deregistered": user_deregistered,
        "deregistered_pending": user_deregistered_pending,
        "enabled": user_enabled,
        "disabled": user_disabled,
        "password_changed": user_password_changed,
        "updated": user_updated,
        "role_assigned": role_assigned,
        "role_removed": role_removed,
    }

    def registered(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        invite: str | None = None,
        **given: Unpack[Further],
    ) -> Receipt:
        """Record that an account was registered.

        Args:
            user: The account; default: the logger's or the context's.
            session: The connection; default: likewise.
            invite: The token of the invitation that was used.
            **given: See `Further`.
        """
        return self._call("user-registered", user, session, given, invite_used={"token": invite}).record()

    def deregistered(
        self, user: str | None = None, session: Session | None = None, **given: Unpack[Further]
    ) -> Receipt:
        """Record that an account was deleted.

        Args:
            user: The account.
            session: The connection.
            **given: See `Further`.
        """
        return self._call("user-deregistered", user, session, given).record()

    def deregistered_pending(
        self, user: str | None = None, session: Session | None = None, **given: Unpack[Further]
    ) -> Receipt:
        """Record that an account was marked for deletion.

        Args:
            user: The account.
            session: The connection.
            **given: See `Further`.
        """
        return self._call("user-deregistered-pending", user, session, given).record()

    def enabled(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        reason: str | None = None,
        comment: str | None = None,
        when: datetime | str | None = None,
        **given: Unpack[Further],
    ) -> Receipt:
        """Record that an account was enabled.

        Args:
            user: The account.
            session: The connection.
            reason: Why, as one word.
            comment: Why, for people.
            when: From when on it holds, where that is not now.
            **given: See `Further`.
        """
        why = {"condition": reason, "comment": comment, "when": moment("when", when)}
        return self._call("user-enabled", user, session, given, reason=why).record()

    def disabled(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        reason: str | None = None,
        comment: str | None = None,
        when: datetime | str | None = None,
        **given: Unpack[Further],
    ) -> Receipt:
        """Record that an account was disabled.

        Args:
            user: The account.
            session: The connection.
            reason: Why, as one word.
            comment: Why, for people.
            when: From when on it holds, where that is not now.
            **given: See `Further`.
        """
        why = {"condition": reason, "comment": comment, "when": moment("when", when)}
        return self._call("user-disabled", user, session, given, reason=why).record()

    def password_changed(
        self, user: str | None = None, session: Session | None = None, **given: Unpack[Further]
    ) -> Receipt:
        """Record that a password was changed.

        Args:
            user: The account.
            session: The connection.
            **given: See `Further`.
        """
        return self._call("user.password.changed", user, session, given).record()

    def updated(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        fields: str | Iterable[str] | None = None,
        **given: Unpack[Further],
    ) -> Receipt:
        """Record that an account was changed in another way.

        Args:
            user: The account.
            session: The connection.
            fields: What was changed: names such as ``email``, not the values.
            **given: See `Further`.
        """
        return self._call("user.updated", user, session, given, change={"fields": listed("fields", fields)}).record()

    def role_assigned(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        role: str | None = None,
        **given: Unpack[Further],
    ) -> Receipt:
        """Record that an account was given a role.

        Args:
            user: The account.
            session: The connection.
            role: The role's name.
            **given: See `Further`.
        """
        return self._call("role.assigned", user, session, given, role={"name": role}).record()

    def role_removed(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        role: str | None = None,
        **given: Unpack[Further],
    ) -> Receipt:
        """Record that a role was taken from an account.

        Args:
            user: The account.
            session: The connection.
            role: The role's name.
            **given: See `Further`.
        """
        return self._call("role.removed", user, session, given, role={"name": role}).record()
