"""Takes a client's address out of a record, wherever it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from otel_audit.record import Actor, AuditRecord, Target, Value
from otel_audit.safe import escape

__all__ = ["HIDDEN", "without_address"]

HIDDEN: Final = "‹ip›"
"""What stands in a text in place of the address."""


def without_address(record: AuditRecord) -> AuditRecord:
    """Return a record without its session's address, and without it in any text that a client or a call gave."""
    session = record.session
    if session is None or session.ip is None:
        return record
    hide = _hider(str(session.ip))
    target = record.target
    return record._replace(
        user=_optional(hide, record.user),
        user_id=_optional(hide, record.user_id),
        actor=Actor(hide(record.actor.id), record.actor.type),
        target=target and Target(hide(target.id), _optional(hide, target.type)),
        session=session._replace(id=_optional(hide, session.id), ip=None, client=_optional(hide, session.client)),
        custom={
            group: {name: _hidden(hide, value) for name, value in fields.items()}
            for group, fields in record.custom.items()
        },
        message=_optional(hide, record.message),
    )


def _hider(address: str) -> Callable[[str], str]:
    # The display sentence of a record holds the first 256 characters, escaped.
    forms = sorted({form for form in (address, escape(address), escape(address[:256])) if form}, key=len, reverse=True)
    if not forms:
        return lambda text: text
    # 192.0.2.1 is not part of 192.0.2.10; nor does an address that is one letter stand in every word.
    pattern = re.compile(rf"(?<![0-9A-Za-z])(?:{'|'.join(map(re.escape, forms))})(?![0-9A-Za-z])", re.IGNORECASE)
    return lambda text: pattern.sub(HIDDEN, text)


def _optional(hide: Callable[[str], str], text: str | None) -> str | None:
    return None if text is None else hide(text)


def _hidden(hide: Callable[[str], str], value: Value) -> Value:
    match value:
        case str():
            return hide(value)
        case bytes():
            # Bytes that are no text keep their form: each byte is one Latin-1 character.
            return hide(value.decode("latin-1")).encode("latin-1", "replace")
        case tuple():
            return tuple(_hidden(hide, item) for item in value)
        case Mapping():
            return {hide(key): _hidden(hide, item) for key, item in value.items()}
        case _:
            return value
