"""The words of the data model as immutable classes, and a record's JSON form."""

from __future__ import annotations

import base64
import ipaddress
import math
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from otel_audit.catalog import ActorType, Outcome

__all__ = [
    "PSEUDONYM",
    "Actor",
    "AuditRecord",
    "Receipt",
    "Session",
    "Target",
    "address_type",
    "canonical_address",
    "rfc3339",
    "to_json",
]

Value = str | bool | int | float | bytes | None | tuple["Value", ...] | Mapping[str, "Value"]
"""A custom value: what an OTLP ``AnyValue`` holds."""

_NO_CUSTOM: Final[Mapping[str, Mapping[str, Value]]] = MappingProxyType({})


# Named tuples, not data classes: a frozen data class takes three times as long to make, and each call makes several.


class Session(NamedTuple):
    """The connection that an event came from.

    Every field may hold what a client sent; what is malformed is recorded and marked.

    Args:
        id: The connection's or login session's id.
        type: ``c2s``, ``http``, …
        ip: The client's address as text, or an `ipaddress` object.
        client: The client's own name, e.g. its user agent.
        country: ISO 3166-1 code of the country it came from, e.g. ``DE``; `otel_audit.privacy.locate` finds it.
        continent: Code of the continent, e.g. ``EU``; likewise.
    """

    id: str | None = None
    type: str | None = None
    ip: str | ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    client: str | None = None
    country: str | None = None
    continent: str | None = None


class Actor(NamedTuple):
    """Who acted.

    Args:
        id: The account or component; ``anonymous`` or ``unknown`` where it is not known.
        type: ``user``, ``service`` or ``system``.
    """

    id: str
    type: ActorType = "user"


class Target(NamedTuple):
    """What was acted upon.

    Args:
        id: Its id.
        type: Its kind, e.g. ``order``.
    """

    id: str
    type: str | None = None


class Receipt(NamedTuple):
    """What an audit call returns.

    Args:
        record_id: The record's id (UUIDv7), the receiver's key for duplicates.
        sequence: Its position in the archive, from 1; None when queued.
        integrity_hash: The leaf hash, 64 hex digits; None when queued.
        timestamp: Nanoseconds since the epoch of the commit; None when queued.
    """

    record_id: str
    sequence: int | None = None
    integrity_hash: str | None = None
    timestamp: int | None = None


class AuditRecord(NamedTuple):
    """One audit event, as it was recorded.

    Args:
        record_id: UUIDv7 as text.
        time: Nanoseconds since the epoch: when it happened.
        observed: Nanoseconds since the epoch: when it was recorded.
        host: The tenant or virtual host.
        source: The component that recorded it.
        type: The event type.
        actor: Who acted.
        action: Upper-case verb.
        outcome: ``success``, ``failure`` or ``unknown``.
        user: The account that it is attached to; None: a host-wide record.
        user_id: The account's id, where the call gave one.
        session: The connection, with the address as text.
        target: What was acted upon.
        custom: Groups of fields: ``{group: {field: value}}``.
        message: The body: the call's message, else a display sentence; None in profile ``signal`` without one.
        trace_id: 32 hex digits, or None outside of any trace.
        span_id: 16 hex digits, or None.
        trace_flags: W3C trace flags; bit 0 tells whether the span was sampled.
        altered: What had to be changed to record it, as ``field:what[:detail…]``.
        sequence: Position in the archive; None before the commit.
        integrity_hash: Leaf hash, hex; None before the commit.
        stream_id: The archive's id; None before the commit.
        signature: The producer's signature, base64; None where nobody signed it.
    """

    record_id: str
    time: int
    observed: int
    host: str
    source: str
    type: str
    actor: Actor
    action: str
    outcome: Outcome
    user: str | None = None
    user_id: str | None = None
    session: Session | None = None
    target: Target | None = None
    custom: Mapping[str, Mapping[str, Value]] = _NO_CUSTOM
    message: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    trace_flags: int = 0
    altered: tuple[str, ...] = ()
    sequence: int | None = None
    integrity_hash: str | None = None
    stream_id: str | None = None
    signature: str | None = None

    @property
    def when(self) -> datetime:
        """The time of the event as an aware datetime in UTC, cut to microseconds."""
        return datetime.fromtimestamp(self.time // 1_000_000_000, UTC).replace(
            microsecond=self.time // 1000 % 1_000_000
        )


PSEUDONYM: Final = re.compile("psn-[0-9a-f]{32}")
"""What `otel_audit.privacy.pseudonymise` puts in place of a value."""


def canonical_address(address: str) -> str | None:
    """Return the usual form of an IP address, by which it can be found again; None where it is none."""
    try:
        # Takes 0.1 us where `ipaddress` takes 3, and accepts IPv4 in its usual form alone.
        socket.inet_pton(socket.AF_INET, address)
    except (OSError, ValueError):
        return _canonical_ipv6(address)
    return address


@lru_cache(4096)
def _canonical_ipv6(address: str) -> str | None:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return None


def address_type(address: str) -> str:
    """Return the draft's ``audit.source.type`` of an address.

    Returns:
        ``ipv4``, ``ipv6``, ``hostname`` for what can be a host name, else ``unknown``.
    """
    canonical = canonical_address(address)
    if canonical is not None:
        return "ipv6" if ":" in canonical else "ipv4"
    if "/" in address:
        # A truncated address is a network: 203.0.113.0/24.
        try:
            return f"ipv{ipaddress.ip_network(address).version}"
        except ValueError:
            return "unknown"
    if PSEUDONYM.fullmatch(address):
        return "unknown"
    labels = address.removesuffix(".").split(".")
    plausible = len(address) <= 253 and all(
        label and len(label) <= 63 and label.isascii() and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    )
    return "hostname" if plausible else "unknown"


def rfc3339(nanoseconds: int) -> str:
    """Return a time as RFC 3339 text in UTC with nanoseconds, e.g. ``2026-01-31T12:00:00.000000000Z``."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def to_json(record: AuditRecord) -> dict[str, Any]:
    """Return a record as plain JSON values, with the documented keys in a fixed order.

    Bytes become base64 text; NaN and infinities, which JSON lacks, become the strings ``NaN``, ``Infinity``
    and ``-Infinity``.
    """
    session = record.session
    target = record.target
    return {
        "sequence": record.sequence,
        "record_id": record.record_id,
        "time": rfc3339(record.time),
        "host": record.host,
        "user": record.user,
        "source": record.source,
        "type": record.type,
        "outcome": record.outcome,
        "action": record.action,
        "actor": {"id": record.actor.id, "type": record.actor.type},
        "target": target and {"id": target.id, "type": target.type},
        "session": session
        and {
            "id": session.id,
            "type": session.type,
            "ip": None if session.ip is None else str(session.ip),
            "client": session.client,
            # Only where a location is known: whoever looks for none finds the keys that there always were.
            **({"country": session.country} if session.country is not None else {}),
            **({"continent": session.continent} if session.continent is not None else {}),
        },
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "custom": {group: _plain(fields) for group, fields in record.custom.items()},
        "message": record.message,
        "altered": list(record.altered),
        # Only where records are signed.
        **({"signature": record.signature} if record.signature is not None else {}),
    }


def _plain(value: Value) -> Any:
    match value:
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case tuple():
            return [_plain(item) for item in value]
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case _:
            return value
