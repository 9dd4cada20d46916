"""Logins, as `mod_audit_auth` records them, with the condition of each failure and counted repeats."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Unpack

from otel_audit.logger import AuditLogger
from otel_audit.record import Receipt, Session
from otel_audit.signals import AuditSignal, authentication_failure, authentication_success, new_client, user_logout
from otel_audit.sources.base import Further, Source
from otel_audit.sources.repeats import Repeats

__all__ = ["Auth"]


class Auth(Source):
    """Records logins, failures, new clients and logouts; repeats are counted where that is asked for.

    Of events that are alike, the first of each window is recorded at once, the others together at its end, as one
    record with their count. See `Repeats` for what is alike, and for what a kill can lose of a count.

    Args:
        logger: Records the events; default: source ``auth`` of the global provider.
        repeat_failures: Length of a failure's window, in seconds or as timedelta; None: record each.
        repeat_successes: Likewise for successes.

    Raises:
        ConfigError: A window's length is no positive number.
    """

    name: ClassVar[str] = "auth"
    signals: ClassVar[Mapping[str, AuditSignal]] = {
        "success": authentication_success,
        "failure": authentication_failure,
        "new_client": new_client,
        "logout": user_logout,
    }

    def __init__(
        self,
        logger: AuditLogger | None = None,
        *,
        repeat_failures: float | timedelta | None = None,
        repeat_successes: float | timedelta | None = None,
    ) -> None:
        super().__init__(logger)
        self._failures = None if repeat_failures is None else Repeats("repeat_failures", repeat_failures)
        self._successes = None if repeat_successes is None else Repeats("repeat_successes", repeat_successes)

    def success(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        method: str | None = None,
        **given: Unpack[Further],
    ) -> Receipt | None:
        """Record that a user authenticated.

        Args:
            user: The account; default: the logger's or the context's.
            session: The connection; default: likewise.
            method: How, e.g. ``password``, ``token``, ``SCRAM-SHA-256``.
            **given: See `Further`.

        Returns:
            The receipt; None for a repeat, which is counted.
        """
        call = self._call("authentication-success", user, session, given, authentication={"method": method})
        return call.record() if self._successes is None else self._successes.record(call)

    def failure(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        condition: str | None = None,
        text: str | None = None,
        method: str | None = None,
        **given: Unpack[Further],
    ) -> Receipt | None:
        """Record that a login failed.

        Args:
            user: The name that was given, whether or not there is such an account.
            session: The connection; default: the logger's or the context's.
            condition: Why, as one word, e.g. ``not-authorized``, ``account-disabled``.
            text: Why, for people.
            method: How it was tried.
            **given: See `Further`.

        Returns:
            The receipt; None for a repeat, which is counted.
        """
        reason: dict[str, Any] = {"condition": condition, "text": text}
        groups = {"reason": reason, "authentication": {"method": method}}
        call = self._call("authentication-failure", user, session, given, **groups)
        return call.record() if self._failures is None else self._failures.record(call)

    def new_client(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        client_id: str | None = None,
        agent: str | None = None,
        **given: Unpack[Further],
    ) -> Receipt:
        """Record that a user came with a client that was not known before.

        Args:
            user: The account.
            session: The connection.
            client_id: The client's id.
            agent: The client's own name.
            **given: See `Further`.
        """
        client = {"id": client_id, "agent": agent}
        return self._call("new-client", user, session, given, client=client).record()

    def logout(self, user: str | None = None, session: Session | None = None, **given: Unpack[Further]) -> Receipt:
        """Record that a user logged out.

        Args:
            user: The account.
            session: The connection.
            **given: See `Further`.
        """
        return self._call("user.logout", user, session, given).record()

    def close(self) -> None:
        """End the subscription to all signals, and all windows: record what was counted so far.

        The provider's shutdown does the latter by itself.
        """
        self.unsubscribe()
        for repeats in (self._failures, self._successes):
            if repeats is not None:
                repeats.flush()
