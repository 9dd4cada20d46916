"""OCSF 1.9: each record as an event of the class that its type has in the catalog, with its leaf as an attestation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
from otel_audit.exports.ocsf_classes import BASE, CLASSES, OTHER, OcsfClass
from otel_audit.record import AuditRecord, Session, canonical_address, rfc3339, to_json
from otel_audit.safe import json_text

__all__ = ["VERSION", "event", "lines"]

VERSION: Final = "1.9.0"
_OUTCOMES: Final = {"unknown": (0, "Unknown"), "success": (1, "Success"), "failure": (2, "Failure")}
_ACTORS: Final = {"user": (1, "User"), "system": (3, "System"), "service": (4, "Service")}
_EVERYWHERE: Final = ("record_id", "sequence", "host", "source", "type", "outcome", "message", "trace_id")
"""What every class has a place for, by its name in `to_json`."""
_NO_SESSION: Final = Session()

Attributes = dict[str, Any]


def lines(records: Iterable[AuditRecord], catalog: Catalog) -> Iterator[str]:
    """Return a line of JSON for each record, see `event`.

    Args:
        records: The records.
        catalog: Says what class the types have.
    """
    for record in records:
        yield json_text(event(record, catalog)) + "\n"


def event(record: AuditRecord, catalog: Catalog) -> Attributes:
    """Return a record as an OCSF event.

    A record that lacks what its class requires is a Base Event: the schema has no other form for it. What the class has
    no attribute for is in ``unmapped``, by its name in `to_json`, so that no record loses anything.

    Args:
        record: The record.
        catalog: Says what class its type has.
    """
    chosen, own = _class(record, catalog)
    activity_id, activity = chosen.activity(record.type, record.action)
    status_id, status = _OUTCOMES[record.outcome]
    severity_id, severity = (2, "Low") if record.outcome == "failure" else (1, "Informational")
    return _given(
        category_uid=chosen.uid // 1000,
        category_name=chosen.category,
        class_uid=chosen.uid,
        class_name=chosen.name,
        activity_id=activity_id,
        activity_name=activity,
        type_uid=chosen.uid * 100 + activity_id,
        type_name=f"{chosen.name}: {activity}",
        time=record.time // 1_000_000,
        severity_id=severity_id,
        severity=severity,
        status_id=status_id,
        status=status,
        status_detail=_reason(record),
        message=record.message,
        metadata=_metadata(record),
        attestation_list=_attestations(record),
        **own,
        unmapped=_unmapped(record, chosen, own),
    )


def _given(**attributes: Any) -> Attributes:
    """Return the attributes that have a value: OCSF has no null."""
    return {name: value for name, value in attributes.items() if value is not None}


def _class(record: AuditRecord, catalog: Catalog) -> tuple[OcsfClass, Attributes]:
    """Return the class of a record, and the attributes that not every class has."""
    chosen = CLASSES.get(catalog[record.type].ocsf_class or 0, BASE)
    own = _OWN[chosen.uid](record)
    if own is None:
        return BASE, {}
    return chosen, _common(record) | own if chosen.common else own


def _common(record: AuditRecord) -> Attributes:
    number, caption = _ACTORS[record.actor.type]
    user = {"name": record.actor.id, "uid": record.actor.id, "type_id": number, "type": caption}
    session = record.session or _NO_SESSION
    return _given(
        actor=_given(user=user, session=None if session.id is None else {"uid": session.id}),
        src_endpoint=_endpoint(session),
        http_request=None if session.client is None else {"user_agent": session.client},
    )


def _endpoint(session: Session) -> Attributes | None:
    """Return where the session came from; what is no address, such as a truncated one, is a name."""
    if session.ip is None:
        return None
    address = str(session.ip)
    kind = "name" if canonical_address(address) is None or "%" in address else "ip"
    return _given(**{kind: address}, location=None if session.country is None else {"country": session.country})


def _metadata(record: AuditRecord) -> Attributes:
    return _given(
        version=VERSION,
        profiles=None if record.integrity_hash is None else ["record_integrity"],
        product={"name": "otel_audit", "vendor_name": "otel_audit", "feature": {"name": record.source}},
        uid=record.record_id,
        event_code=record.type,
        tenant_uid=record.host,
        sequence=record.sequence,
        correlation_uid=record.trace_id,
        logged_time=record.observed // 1_000_000,
    )


def _attestations(record: AuditRecord) -> list[Attributes] | None:
    """Return the record's leaf in the archive's tree; a producer's signature has no attribute that could hold it."""
    if record.integrity_hash is None:
        return None
    fingerprint = {
        "algorithm_id": 3,
        "algorithm": "SHA-256",
        "encoding_id": 1,
        "encoding": "Hex",
        # Of the record as it was recorded, not of this event.
        "serialization_id": OTHER,
        "serialization": "otel_audit leaf, version 1",
        "value": record.integrity_hash,
    }
    return [_given(fingerprint=fingerprint, chain_uid=record.stream_id)]


def _unmapped(record: AuditRecord, chosen: OcsfClass, own: Attributes) -> Attributes:
    left = to_json(record)
    for name in _EVERYWHERE:
        del left[name]
    if chosen.common:
        del left["actor"]
        session = record.session or _NO_SESSION
        place = {} if "src_endpoint" in own else {"country": session.country}
        left["session"] = _given(type=session.type, continent=session.continent, **place) or None
    if "user" in own:
        del left["user"]
    elif record.user_id is not None:
        left["user_id"] = record.user_id
    # Times to the nanosecond, where OCSF has milliseconds.
    return _given(**left, observed=rfc3339(record.observed), trace_flags=record.trace_flags)


def _reason(record: AuditRecord) -> str | None:
    condition = record.custom.get("reason", {}).get("condition")
    return condition if isinstance(condition, str) else None


# -- what a class has of its own; None where the record lacks what the class requires --


def _user(record: AuditRecord) -> Attributes | None:
    if record.user is None:
        return None
    return {"user": _given(name=record.user, uid=record.user_id)}


def _authentication(record: AuditRecord) -> Attributes | None:
    user = _user(record)
    if user is None:
        return None
    session = None if record.session is None or record.session.id is None else {"uid": record.session.id}
    return user | _given(service={"name": record.source}, session=session)


def _access(record: AuditRecord) -> Attributes | None:
    user = _user(record)
    if user is None:
        return None
    found: list[Any] = []
    for group, field in (("role", "name"), ("permission", "name"), ("grant", "scopes"), ("token", "scopes")):
        value = record.custom.get(group, {}).get(field)
        found += value if isinstance(value, tuple) else [value]
    privileges = [text for text in found if isinstance(text, str)]
    return user | _given(privileges=privileges or None)


def _entity(record: AuditRecord) -> Attributes | None:
    if record.target is None:
        return None
    return {"entity": _given(name=record.target.id, uid=record.target.id, type=record.target.type)}


def _api(record: AuditRecord) -> Attributes | None:
    if record.session is None or record.session.ip is None:
        return None
    return {"api": {"operation": record.type, "service": {"name": record.source}}}


def _datastore(record: AuditRecord) -> Attributes | None:
    if record.target is None or record.session is None or record.session.ip is None:
        return None
    kind = {"type_id": 0} if record.target.type is None else {"type_id": OTHER, "type": record.target.type}
    return {"database": {"name": record.target.id, "uid": record.target.id, **kind}}


def _lifecycle(record: AuditRecord) -> Attributes | None:
    return {"app": {"name": record.source}}


_OWN: Final[Mapping[int, Callable[[AuditRecord], Attributes | None]]] = {
    BASE.uid: lambda _: {},
    ACCOUNT_CHANGE: _user,
    AUTHENTICATION: _authentication,
    ENTITY_MANAGEMENT: _entity,
    USER_ACCESS: _access,
    API_ACTIVITY: _api,
    DATASTORE_ACTIVITY: _datastore,
    APPLICATION_LIFECYCLE: _lifecycle,
}
