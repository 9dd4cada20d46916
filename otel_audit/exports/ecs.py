"""The Elastic Common Schema, 8 and 9: each record as a document, without a field whose type its values could break."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from otel_audit.catalog import (
    ACCOUNT_CHANGE,
    API_ACTIVITY,
    APPLICATION_LIFECYCLE,
    AUTHENTICATION,
    DATASTORE_ACTIVITY,
    ENTITY_MANAGEMENT,
    USER_ACCESS,
    Catalog,
)
from otel_audit.record import AuditRecord, Session, canonical_address, rfc3339, to_json
from otel_audit.safe import json_text

__all__ = ["VERSION", "document", "lines"]

VERSION: Final = "8.17.0"
"""Of the schema; what is used of it is the same in 9.4."""

_CHANGES: Final = {
    "CREATE": "creation", "READ": "access", "UPDATE": "change", "WRITE": "change", "DELETE": "deletion",
}  # fmt: skip
_KINDS: Final[Mapping[int, tuple[str, Mapping[str, str], tuple[str, ...]]]] = {
    ACCOUNT_CHANGE: ("iam", {name: kind for name, kind in _CHANGES.items() if name != "READ"}, ("user",)),
    AUTHENTICATION: ("authentication", {"LOGIN": "start", "LOGOUT": "end"}, ()),
    ENTITY_MANAGEMENT: ("configuration", _CHANGES, ()),
    USER_ACCESS: ("iam", {name: kind for name, kind in _CHANGES.items() if name != "READ"}, ("user",)),
    API_ACTIVITY: ("api", _CHANGES, ()),
    DATASTORE_ACTIVITY: (
        "database",
        {**dict.fromkeys(("READ", "EXPORT"), "access"),
         **dict.fromkeys(("CREATE", "UPDATE", "WRITE", "DELETE", "IMPORT"), "change")},
        (),
    ),
    APPLICATION_LIFECYCLE: ("process", {}, ()),
}  # fmt: skip
"""By the class of the catalog: the category, the type of each action, and types that all have."""
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    # Their actions are of something else than the account.
    "user.password.reset.requested": ("user", "change"),
    "user-deregistered-pending": ("user", "change"),
    "permission.denied": ("access", "denied"),
    "server-started": ("start",),
    "server-stopped": ("end",),
    "server-crashed": ("end",),
}
_NO_SESSION: Final = Session()


def lines(records: Iterable[AuditRecord], catalog: Catalog) -> Iterator[str]:
    """Return a line of JSON for each record, see `document`.

    Args:
        records: The records.
        catalog: Says of what kind the types are.
    """
    for record in records:
        yield json_text(document(record, catalog)) + "\n"


def document(record: AuditRecord, catalog: Catalog) -> dict[str, Any]:
    """Return a record as a document of the schema.

    What the schema has no field for is below ``otel_audit``. Custom fields are the text of a JSON object there: as
    fields of their own, two that differ in type would keep a document out of the index.

    Args:
        record: The record.
        catalog: Says of what kind its type is.
    """
    session = record.session or _NO_SESSION
    user, target = _users(record)
    address = None if session.ip is None else str(session.ip)
    # The type `ip` refuses zones, networks and names, and with them the document.
    ip = None if address is None or "%" in address else canonical_address(address)
    geo = {"country_iso_code": session.country, "continent_code": session.continent}
    return _given({
        "@timestamp": rfc3339(record.time),
        "ecs": {"version": VERSION},
        "event": _event(record, catalog),
        "message": record.message,
        "organization": {"id": record.host},
        "user": {**user, "target": target},
        "source": {"address": address, "ip": ip, "geo": geo},
        "user_agent": {"original": session.client},
        "related": {
            "user": sorted({name for name in (record.user, user.get("name")) if name is not None}) or None,
            "ip": None if ip is None else [ip],
        },
        "trace": {"id": record.trace_id},
        "span": {"id": record.span_id},
        "otel_audit": _own(record, session),
    })  # fmt: skip


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value."""
    found = {name: _given(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    return {name: value for name, value in found.items() if value is not None and value != {}}


def _event(record: AuditRecord, catalog: Catalog) -> dict[str, Any]:
    category, actions, always = _KINDS.get(catalog[record.type].ocsf_class or 0, (None, {}, ()))
    condition = record.custom.get("reason", {}).get("condition")
    return {
        "kind": "event",
        "category": None if category is None else [category],
        "type": list(_TYPES.get(record.type, (*always, actions.get(record.action, "info")))),
        "outcome": record.outcome,
        "action": record.type,
        "reason": condition if isinstance(condition, str) else None,
        "id": record.record_id,
        "sequence": record.sequence,
        "created": rfc3339(record.observed),
        "module": "otel_audit",
        "dataset": "otel_audit.audit",
        "provider": record.source,
        "hash": record.integrity_hash,
    }


def _users(record: AuditRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return who acted, and the account acted upon where that is another one."""
    account = {"name": record.user, "id": record.user_id}
    if record.actor.type != "user" or record.actor.id == record.user:
        return account, {}
    return {"name": record.actor.id}, account


def _own(record: AuditRecord, session: Session) -> dict[str, Any]:
    plain = to_json(record)
    return {
        "user": record.user,
        "user_id": record.user_id,
        "actor": plain["actor"],
        "action": record.action,
        "target": plain["target"],
        "session": {"id": session.id, "type": session.type},
        "custom": json_text(plain["custom"]) if record.custom else None,
        "altered": plain["altered"] or None,
        "trace_flags": record.trace_flags,
        "stream_id": record.stream_id,
        "signature": record.signature,
    }
