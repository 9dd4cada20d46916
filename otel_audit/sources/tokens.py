"""Grants and their tokens, as `mod_audit_tokens` records them, with the grant's id, scopes and expiry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Unpack

from otel_audit.record import Receipt, Session
from otel_audit.signals import AuditSignal, token_grant_created, token_grant_revoked, token_revoked
from otel_audit.sources.base import Further, Source, listed, moment

__all__ = ["Tokens"]


class _Grant(Further, total=False):
    grant: str | None
    """Id of the grant."""
    scopes: str | Iterable[str] | None
    """What it allows: names, or one text with spaces between them as in OAuth 2."""
    expires: datetime | str | None
    """When it ends."""


class Tokens(Source):
    """Records what happens to grants and tokens: give their ids, never the secrets themselves."""

    name: ClassVar[str] = "tokens"
    signals: ClassVar[Mapping[str, AuditSignal]] = {
        "grant_created": token_grant_created,
        "grant_revoked": token_grant_revoked,
        "revoked": token_revoked,
    }

    def grant_created(
        self, user: str | None = None, session: Session | None = None, **given: Unpack[_Grant]
    ) -> Receipt:
        """Record that a grant was created.

        Args:
            user: The account; default: the logger's or the context's.
            session: The connection; default: likewise.
            **given: ``grant``, its id; ``scopes``, names or one text with spaces between them; ``expires``; and see
                `Further`.
        """
        return self._grant("token-grant-created", user, session, given)

    def grant_revoked(
        self, user: str | None = None, session: Session | None = None, **given: Unpack[_Grant]
    ) -> Receipt:
        """Record that a grant was revoked, with all its tokens.

        Args:
            user: The account.
            session: The connection.
            **given: As for `grant_created`.
        """
        return self._grant("token-grant-revoked", user, session, given)

    def revoked(
        self,
        user: str | None = None,
        session: Session | None = None,
        *,
        token: str | None = None,
        **given: Unpack[_Grant],
    ) -> Receipt:
        """Record that one token of a grant was revoked.

        Args:
            user: The account.
            session: The connection.
            token: Id of the token.
            **given: As for `grant_created`.
        """
        return self._grant("token-revoked", user, session, given, token={"id": token})

    def _grant(
        self,
        type: str,
        user: str | None,
        session: Session | None,
        given: Mapping[str, Any],
        **groups: Mapping[str, Any],
    ) -> Receipt:
        rest = dict(given)
        scopes = rest.pop("scopes", None)
        grant = {
            "id": rest.pop("grant", None),
            "scopes": listed("scopes", scopes.split() if isinstance(scopes, str) else scopes),
            "expires": moment("expires", rest.pop("expires", None)),
        }
        return self._call(type, user, session, rest, grant=grant, **groups).record()
