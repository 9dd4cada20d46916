"""Every attribute key that a record carries, each once.

The ``audit.*`` keys follow OpenTelemetry's *audit* data-model draft (OTEP 0267), which is not a standard yet: when the
draft renames one, it is renamed here. No key may be called ``audit.source``: it would collide with the namespace
``audit.source.*``.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.semconv._incubating.attributes.geo_attributes import GEO_CONTINENT_CODE, GEO_COUNTRY_ISO_CODE
from opentelemetry.semconv._incubating.attributes.log_attributes import LOG_RECORD_UID
from opentelemetry.semconv._incubating.attributes.session_attributes import SESSION_ID
from opentelemetry.semconv._incubating.attributes.user_attributes import USER_ID, USER_NAME
from opentelemetry.semconv.attributes.client_attributes import CLIENT_ADDRESS
from opentelemetry.semconv.attributes.user_agent_attributes import USER_AGENT_ORIGINAL

__all__ = [
    "ACTION",
    "ACTOR_ID",
    "ACTOR_TYPE",
    "ALTERED",
    "CLIENT_ADDRESS",
    "CUSTOM_PREFIX",
    "GEO_CONTINENT_CODE",
    "GEO_COUNTRY_ISO_CODE",
    "HOST",
    "INTEGRITY_ALGORITHM",
    "INTEGRITY_CANONICALIZATION",
    "INTEGRITY_CERTIFICATE",
    "INTEGRITY_PREFIX",
    "INTEGRITY_SIGNER",
    "INTEGRITY_VALUE",
    "LOG_RECORD_UID",
    "ORIGIN_PREFIX",
    "OUTCOME",
    "RECORD_ID",
    "SCHEMA_VERSION",
    "SCHEMA_VERSION_VALUE",
    "SEQUENCE_NUMBER",
    "SEQUENCE_STREAM_ID",
    "SESSION_ID",
    "SESSION_TYPE",
    "SOURCE",
    "SOURCE_ID",
    "SOURCE_TYPE",
    "TARGET_ID",
    "TARGET_TYPE",
    "UNSIGNED",
    "USER_AGENT_ORIGINAL",
    "USER_ID",
    "USER_NAME",
]

# The draft's.
RECORD_ID: Final = "audit.record.id"
ACTOR_ID: Final = "audit.actor.id"
ACTOR_TYPE: Final = "audit.actor.type"
ACTION: Final = "audit.action"
OUTCOME: Final = "audit.outcome"
TARGET_ID: Final = "audit.target.id"
TARGET_TYPE: Final = "audit.target.type"
SOURCE_ID: Final = "audit.source.id"  # the network origin
SOURCE_TYPE: Final = "audit.source.type"
SEQUENCE_NUMBER: Final = "audit.sequence.number"
SEQUENCE_STREAM_ID: Final = "audit.sequence.stream_id"
INTEGRITY_PREFIX: Final = "audit.integrity."
INTEGRITY_VALUE: Final = "audit.integrity.value"
INTEGRITY_SIGNER: Final = "audit.integrity.signer"
INTEGRITY_CANONICALIZATION: Final = "audit.integrity.canonicalization"
INTEGRITY_ALGORITHM: Final = "audit.integrity.algorithm"  # of the Resource, as the next one
INTEGRITY_CERTIFICATE: Final = "audit.integrity.certificate"
SCHEMA_VERSION: Final = "audit.schema.version"
SCHEMA_VERSION_VALUE: Final = "0.1.0"

# Ours.
HOST: Final = "otel_audit.host"
SOURCE: Final = "otel_audit.source"  # the component that recorded
SESSION_TYPE: Final = "otel_audit.session.type"
ALTERED: Final = "otel_audit.altered"
UNSIGNED: Final = "otel_audit.unsigned"  # why a record has no signature where others have one
CUSTOM_PREFIX: Final = "otel_audit.custom."
ORIGIN_PREFIX: Final = "otel_audit.origin."  # what the producer of a received record said of its resource
