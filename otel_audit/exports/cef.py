r"""CEF:0, the Common Event Format of ArcSight: a line a record, with the escapes that the format defines.

Those are ``\\`` and ``\|`` in the header, ``\\``, ``\=``, ``\n`` and ``\r`` in the extension. For all else that is
unprintable there is none: such a value is a JSON string, see `otel_audit.exports.quoting`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from otel_audit._version import __version__
from otel_audit.catalog import Catalog
from otel_audit.exports.quoting import quoted
from otel_audit.record import AuditRecord, Session, address_type, rfc3339, to_json
from otel_audit.safe import json_text

__all__ = ["line", "lines"]

_HEADER: Final = str.maketrans({"\\": "\\\\", "|": "\\|"})
_EXTENSION: Final = str.maketrans({"\\": "\\\\", "=": "\\=", "\n": "\\n", "\r": "\\r"})
_SEVERITIES: Final = {"success": 3, "unknown": 3, "failure": 6}
_NO_SESSION: Final = Session()


def lines(records: Iterable[AuditRecord], catalog: Catalog) -> Iterator[str]:
    """Return a line for each record, see `line`.

    Args:
        records: The records.
        catalog: Describes the types.
    """
    for record in records:
        yield line(record, catalog) + "\n"


def line(record: AuditRecord, catalog: Catalog) -> str:
    """Return a record as CEF, without a syslog header and the line's end.

    Args:
        record: The record.
        catalog: Gives the sentence that names the event.
    """
    name = catalog[record.type].description.removesuffix(".") or record.type
    header = ("CEF:0", "otel_audit", "otel_audit", __version__, record.type, name)
    extension = (
        f"{key}={_extension_value(value)}" for key, value in _extension(record).items() if value is not None
    )  # fmt: skip
    fields = (*map(_header_value, header), str(_SEVERITIES[record.outcome]), " ".join(extension))
    return "|".join(fields)


def _header_value(text: str) -> str:
    return quoted(text).translate(_HEADER)


def _extension_value(value: Any) -> str:
    return quoted(str(value), allowed="\r\n").translate(_EXTENSION)


def _extension(record: AuditRecord) -> dict[str, Any]:
    """Return the keys of CEF's dictionary and, prefixed, our own, with their values; None stands for nothing."""
    session, target = record.session or _NO_SESSION, record.target
    condition = record.custom.get("reason", {}).get("condition")
    return {
        "rt": record.observed // 1_000_000,
        "start": record.time // 1_000_000,
        "externalId": record.record_id,
        "act": record.action,
        "outcome": record.outcome,
        "reason": condition if isinstance(condition, str) else None,
        "suser": record.actor.id,
        "duser": record.user,
        "duid": record.user_id,
        **_address(session),
        "requestClientApplication": session.client,
        **_labelled("cs1", "host", record.host),
        **_labelled("cs2", "source", record.source),
        **_labelled("cs3", "session", session.id),
        **_labelled("cs4", "trace", record.trace_id),
        **_labelled("cs5", "target", target and target.id),
        **_labelled("cs6", "custom", json_text(to_json(record)["custom"]) if record.custom else None),
        **_labelled("cn1", "sequence", record.sequence),
        "otelAuditTime": rfc3339(record.time),
        "otelAuditObserved": rfc3339(record.observed),
        "otelAuditActorType": record.actor.type,
        "otelAuditTargetType": target and target.type,
        "otelAuditSessionType": session.type,
        "otelAuditCountry": session.country,
        "otelAuditContinent": session.continent,
        "otelAuditSpanId": record.span_id,
        "otelAuditTraceFlags": record.trace_flags,
        "otelAuditAltered": json_text(list(record.altered)) if record.altered else None,
        "otelAuditSignature": record.signature,
        "otelAuditIntegrityHash": record.integrity_hash,
        "otelAuditStreamId": record.stream_id,
        "msg": record.message,
    }


def _labelled(key: str, label: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {f"{key}Label": label, key: value}


def _address(session: Session) -> dict[str, Any]:
    """Return where the session came from: ``src`` takes IPv4 alone, and IPv6 has a key of its own."""
    if session.ip is None:
        return {}
    address = str(session.ip)
    match address_type(address) if "/" not in address and "%" not in address else "":
        case "ipv4":
            return {"src": address}
        case "ipv6":
            return _labelled("c6a2", "Source IPv6 Address", address)
        case _:
            return {"shost": address}
