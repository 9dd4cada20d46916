"""The attribute keys: all of them, each once, none that collides."""

from __future__ import annotations

from opentelemetry.semconv._incubating.attributes import (
    geo_attributes,
    log_attributes,
    session_attributes,
    user_attributes,
)
from opentelemetry.semconv.attributes import client_attributes, user_agent_attributes

from otel_audit import attributes

# The keys of the mapping table in the design, written out.
EXPECTED = {
    "audit.record.id", "log.record.uid", "otel_audit.host", "otel_audit.source", "user.name", "user.id",
    "audit.actor.id", "audit.actor.type", "audit.action", "audit.outcome", "audit.target.id", "audit.target.type",
    "session.id", "otel_audit.session.type", "client.address", "audit.source.id", "audit.source.type",
    "user_agent.original", "audit.sequence.number", "audit.sequence.stream_id", "audit.schema.version",
    "geo.country.iso_code", "geo.continent.code", "audit.integrity.value", "audit.integrity.signer",
    "audit.integrity.canonicalization", "audit.integrity.algorithm", "audit.integrity.certificate",
}  # fmt: skip
OTHERS = {"otel_audit.altered", "otel_audit.unsigned", "otel_audit.custom.", "otel_audit.origin.", "audit.integrity."}


def keys() -> list[str]:
    return [getattr(attributes, name) for name in attributes.__all__ if name != "SCHEMA_VERSION_VALUE"]


def test_every_key_of_the_mapping_is_there_once() -> None:
    """The module holds each key of the mapping table once, beside those of the marks and of custom fields."""
    assert sorted(keys()) == sorted(EXPECTED | OTHERS)


def test_no_key_collides_with_a_namespace() -> None:
    """No key is called `audit.source`, nor like the beginning of another: backends that nest keys would lose one."""
    assert "audit.source" not in keys()
    assert not [(a, b) for a in keys() for b in keys() if b.startswith(f"{a}.")]


def test_constants_of_the_semantic_conventions_are_used() -> None:
    """Keys that the semantic conventions define are the conventions' own."""
    assert attributes.LOG_RECORD_UID == log_attributes.LOG_RECORD_UID
    assert attributes.GEO_COUNTRY_ISO_CODE == geo_attributes.GEO_COUNTRY_ISO_CODE
    assert attributes.GEO_CONTINENT_CODE == geo_attributes.GEO_CONTINENT_CODE
    assert attributes.SESSION_ID == session_attributes.SESSION_ID
    assert attributes.USER_ID == user_attributes.USER_ID
    assert attributes.USER_NAME == user_attributes.USER_NAME
    assert attributes.CLIENT_ADDRESS == client_attributes.CLIENT_ADDRESS
    assert attributes.USER_AGENT_ORIGINAL == user_agent_attributes.USER_AGENT_ORIGINAL
