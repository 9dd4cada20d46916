"""A record as a row: the columns that CSV and Parquet share."""

from __future__ import annotations

from typing import Any, Final

from otel_audit.record import AuditRecord, Session, to_json
from otel_audit.safe import json_text

__all__ = ["COLUMNS", "row"]

COLUMNS: Final = (
    "sequence", "record_id", "time", "observed", "host", "user", "user_id", "source", "type", "outcome", "action",
    "actor_id", "actor_type", "target_id", "target_type", "session_id", "session_type", "session_ip", "session_client",
    "session_country", "session_continent", "trace_id", "span_id", "trace_flags", "message", "custom", "altered",
    "signature", "integrity_hash", "stream_id",
)  # fmt: skip
"""The columns, always all of them, so that exports can be put together."""

_NO_SESSION: Final = Session()


def row(record: AuditRecord) -> tuple[Any, ...]:
    """Return a record's values in the order of `COLUMNS`.

    Times are nanoseconds since the epoch; ``custom`` is the JSON text of an object, None where that is empty;
    ``altered`` is a list; None stands for what the record does not have.

    Args:
        record: The record.
    """
    session, target = record.session or _NO_SESSION, record.target
    return (
        record.sequence, record.record_id, record.time, record.observed, record.host, record.user, record.user_id,
        record.source, record.type, record.outcome, record.action, record.actor.id, record.actor.type,
        target and target.id, target and target.type, session.id, session.type,
        None if session.ip is None else str(session.ip), session.client, session.country, session.continent,
        record.trace_id, record.span_id, record.trace_flags, record.message,
        json_text(to_json(record)["custom"]) if record.custom else None, list(record.altered), record.signature,
        record.integrity_hash, record.stream_id,
    )  # fmt: skip
