"""ECS documents have the fields of the schema with their types, and hold all that was recorded.

No package carries the list of fields: `FIELDS` and `CATEGORIES` are written by hand, after versions 8.17.0 and 9.4.0,
which agree on them.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from hypothesis import given

from otel_audit.catalog import BUILT_IN, Catalog, EventType
from otel_audit.exports import export_lines
from otel_audit.exports.ecs import VERSION, document
from otel_audit.record import Actor, AuditRecord, Session, rfc3339, to_json
from tests.record_material import records

CATALOG = Catalog()
FIELDS: Final = {
    "@timestamp": "date", "ecs.version": "keyword", "message": "match_only_text", "event.kind": "keyword",
    "event.category": "keyword[]", "event.type": "keyword[]", "event.outcome": "keyword", "event.action": "keyword",
    "event.reason": "keyword", "event.id": "keyword", "event.sequence": "long", "event.created": "date",
    "event.module": "keyword", "event.dataset": "keyword", "event.provider": "keyword", "event.hash": "keyword",
    "organization.id": "keyword", "user.name": "keyword", "user.id": "keyword", "user.target.name": "keyword",
    "user.target.id": "keyword", "source.address": "keyword", "source.ip": "ip",
    "source.geo.country_iso_code": "keyword", "source.geo.continent_code": "keyword", "user_agent.original": "keyword",
    "related.user": "keyword[]", "related.ip": "ip[]", "trace.id": "keyword", "span.id": "keyword",
}  # fmt: skip
CATEGORIES: Final = {
    "api": "access admin allowed change creation deletion denied end info start user",
    "authentication": "start end info",
    "configuration": "access change creation deletion info",
    "database": "access change info error",
    "iam": "admin change creation deletion group info user",
    "process": "access change end info start",
}
"""The types that are expected of each category."""
LOGIN = AuditRecord(
    record_id="01890a5d-ac96-774b-bcce-b302099a8057",
    time=1_700_000_000_123_456_789,
    observed=1_700_000_000_223_456_789,
    host="example.com",
    source="shop",
    type="user.login.failure",
    actor=Actor("alice"),
    action="LOGIN",
    outcome="failure",
    user="alice",
    user_id="17",
    session=Session("s-1", "http", "203.0.113.7", "Firefox 140", "DE", "EU"),
    custom={"reason": {"condition": "expired"}},
    sequence=3,
)


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            assert inner, f"{prefix}{name} is empty"
            yield from flat(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner


def fits(kind: str, value: Any) -> bool:
    """Tell whether an index takes a value for a field of this type."""
    match kind:
        case "long":
            return isinstance(value, int) and -(2**63) <= value < 2**63
        case "date":
            return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", value) is not None
        case "ip":
            return "%" not in value and str(ipaddress.ip_address(value)) == value
        case _ if kind.endswith("[]"):
            return isinstance(value, list) and all(fits(kind[:-2], item) for item in value)
        case _:
            return isinstance(value, str)


def check(found: Mapping[str, Any]) -> None:
    """Check a document against the schema: fields, types, and the values that it allows."""
    for name, value in flat(found):
        if not name.startswith("otel_audit."):
            assert fits(FIELDS[name], value), (name, value)
    event = found["event"]
    assert found["ecs"]["version"] == VERSION == "8.17.0"
    assert (event["kind"], event["outcome"] in {"success", "failure", "unknown"}) == ("event", True)
    assert event["type"]
    for category in event.get("category", ()):
        assert set(event["type"]) <= set(CATEGORIES[category].split())


@given(records())
def test_ecs_is_the_record(record: AuditRecord) -> None:
    """Every document fits the schema whatever was recorded, and every value can be had from it."""
    (text,) = export_lines([record], "ecs")
    assert text[:-1].isprintable()
    found = json.loads(text)
    check(found)
    event, own, session = found["event"], found["otel_audit"], record.session or Session()
    source = found.get("source", {})
    assert (found["@timestamp"], event["created"]) == (rfc3339(record.time), rfc3339(record.observed))
    assert (event["id"], event["sequence"], event["action"]) == (record.record_id, record.sequence, record.type)
    assert (found["organization"]["id"], event["provider"]) == (record.host, record.source)
    assert (own.get("user"), own.get("user_id"), own["action"]) == (record.user, record.user_id, record.action)
    assert own["actor"] == {"id": record.actor.id, "type": record.actor.type}
    target = to_json(record)["target"]
    assert own.get("target") == (target and {name: value for name, value in target.items() if value is not None})
    assert own.get("session", {}).get("id") == session.id
    assert own.get("session", {}).get("type") == session.type
    assert (source.get("address"), found.get("user_agent", {}).get("original")) == (session.ip, session.client)
    geo = source.get("geo", {})
    assert (geo.get("country_iso_code"), geo.get("continent_code")) == (session.country, session.continent)
    assert json.loads(own.get("custom", "{}")) == to_json(record)["custom"]
    assert own.get("altered", []) == list(record.altered)
    assert (found.get("trace", {}).get("id"), found.get("span", {}).get("id")) == (record.trace_id, record.span_id)
    assert (found.get("message"), own.get("signature")) == (record.message, record.signature)
    assert (event["hash"], own["stream_id"]) == (record.integrity_hash, record.stream_id)
    assert own["trace_flags"] == record.trace_flags


@pytest.mark.parametrize("known", BUILT_IN, ids=lambda known: known.name)
def test_every_type_has_a_category(known: EventType) -> None:
    """Each known type has a category, and types that the schema expects of it."""
    found = document(LOGIN._replace(type=known.name, action=known.action, outcome=known.outcome), CATALOG)
    check(found)
    assert found["event"]["category"]


@pytest.mark.parametrize(
    ("type_", "action", "category", "types"),
    [
        ("user.login.failure", "LOGIN", ["authentication"], ["start"]),
        ("user.logout", "LOGOUT", ["authentication"], ["end"]),
        ("user.created", "CREATE", ["iam"], ["user", "creation"]),
        ("user.password.reset.requested", "CREATE", ["iam"], ["user", "change"]),
        ("permission.denied", "READ", ["api"], ["access", "denied"]),
        ("data.exported", "EXPORT", ["database"], ["access"]),
        ("server-started", "EXECUTE", ["process"], ["start"]),
        ("config.changed", "UPDATE", ["configuration"], ["change"]),
        ("something.else", "EXECUTE", None, ["info"]),
    ],
)
def test_categories(type_: str, action: str, category: list[str] | None, types: list[str]) -> None:
    """Category and type go by the catalog; an unknown type has no category."""
    event = document(LOGIN._replace(type=type_, action=action), CATALOG)["event"]
    assert (event.get("category"), event["type"]) == (category, types)


def test_an_applications_own_types() -> None:
    """The application's own types have the category of their class."""
    own = EventType("invoice.deleted", "DELETE", ocsf_class=3004)
    record = LOGIN._replace(type=own.name, action=own.action)
    event = json.loads(next(export_lines([record], "ecs", event_types=[own])))["event"]
    assert (event["category"], event["type"]) == (["configuration"], ["deletion"])


@pytest.mark.parametrize(
    ("actor", "user", "expected", "related"),
    [
        (Actor("alice"), "alice", {"name": "alice", "id": "17"}, ["alice"]),
        (Actor("root"), "alice", {"name": "root", "target": {"name": "alice", "id": "17"}}, ["alice", "root"]),
        (Actor("shop", "system"), "alice", {"name": "alice", "id": "17"}, ["alice"]),
        (Actor("shop", "service"), None, {"id": "17"}, None),
    ],
)
def test_who_acted(actor: Actor, user: str | None, expected: dict[str, Any], related: list[str] | None) -> None:
    """The user is who acted, the target whose account it was, where these are two."""
    found = document(LOGIN._replace(actor=actor, user=user), CATALOG)
    assert found["user"] == expected
    assert found["related"].get("user") == related


def test_addresses() -> None:
    """What an index would refuse as an address is in `source.address` alone."""
    for address, ip in (("2001:DB8::1", "2001:db8::1"), ("203.0.113.0/24", None), ("fe80::1%eth0", None), ("x", None)):
        source = document(LOGIN._replace(session=Session(ip=address)), CATALOG)["source"]
        assert (source["address"], source.get("ip")) == (address, ip)
