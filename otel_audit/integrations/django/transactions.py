"""Records that wait for the commit of the database's transaction, and are gone with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Unpack

from django.db import transaction

from otel_audit.errors import AuditError
from otel_audit.integrations.django.options import options
from otel_audit.logger import Arguments, AuditLogger
from otel_audit.record import Receipt

__all__ = ["audit_change", "audit_on_commit"]

_log = logging.getLogger("otel_audit")


def audit_on_commit(logger: AuditLogger, type: str, *, using: str | None = None, **given: Unpack[Arguments]) -> None:
    """Record one event once the current transaction is committed; where it is rolled back, there is no record.

    Values, context, trace and times are those of the call. Outside of a transaction it is recorded at once; so it is
    with autocommit switched off, where Django cannot tell of the commit.

    All such records are made before other functions given to ``transaction.on_commit`` run: none of these can keep one
    from being made. One that fails follows the failure policy; what it raises comes out of the ``atomic`` block, once
    all records were tried, and the changes stay.

    Between the commit and the record there is a moment: a crash in it loses the record.

    Args:
        logger: Records the event.
        type: The event type.
        using: Alias of the database; default: ``default``.
        **given: As for `AuditLogger.audit`.

    Raises:
        InvalidRecord: As `AuditLogger.audit`; so do the others.
        ArchiveError: Where it is recorded at once.
        IntegrityError: Likewise.
    """
    connection = transaction.get_connection(using)
    if not connection.in_atomic_block:
        logger.audit(type, **given)
        return
    pending = _Pending(type, logger.prepare(type, **given))
    transaction.on_commit(pending, using=using)
    # Django runs them in order, and none after one that raised.
    hooks: list[Any] = connection.run_on_commit
    earlier = next((n for n, hook in enumerate(hooks) if not isinstance(hook[1], _Pending)), len(hooks) - 1)
    hooks.insert(earlier, hooks.pop())
    transaction.on_commit(pending.complain, using=using)


def audit_change(logger: AuditLogger, type: str, using: str | None, given: Arguments) -> None:
    """Record a change of the database, at once or after the commit, as the setting ``TRANSACTIONS`` says."""
    if options().transactions == "on_commit":
        audit_on_commit(logger, type, using=using, **given)
    else:
        logger.audit(type, **given)


class _Pending:
    """A record that waits for the commit.

    Args:
        type: Its event type.
        record: Records it.
    """

    def __init__(self, type: str, record: Callable[[], Receipt]) -> None:
        self._type = type
        self._record = record
        self._error: AuditError | None = None

    def __call__(self) -> None:
        try:
            self._record()
        except AuditError as error:
            self._error = error
            # Here already: another function may raise before `complain` is called.
            _log.error("%s was committed, and could not be recorded: %s", self._type, error)

    def complain(self) -> None:
        """Raise what the recording raised."""
        if self._error is not None:
            raise self._error
