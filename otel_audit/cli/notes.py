"""What stands below a row of the table with ``--show-note``: message, actor, target, custom fields, marks, trace."""

from __future__ import annotations

from collections.abc import Iterator

from otel_audit.cli.fields import plain_text
from otel_audit.record import AuditRecord, to_json
from otel_audit.safe import escape

__all__ = ["notes", "other_actor"]


def other_actor(record: AuditRecord) -> str | None:
    """Return who acted where the rest of the row does not say it: neither the user nor, host-wide, the source."""
    usual = record.source if record.user is None else record.user or "unknown"
    return None if record.actor.id == usual else record.actor.id


def notes(record: AuditRecord, trace_url: str | None) -> Iterator[str]:
    """Iterate over the notes of a record, each one harmless line.

    Args:
        record: The record.
        trace_url: Template of a link, with ``{trace_id}``.
    """
    # Without a message of the call's, the body only repeats the row.
    if record.message is not None and not record.message.startswith(f"{record.type} ({record.outcome}) "):
        yield escape(record.message)
    actor = other_actor(record)
    if actor is not None:
        yield escape(f"actor={'' if record.actor.type == 'user' else f'{record.actor.type}:'}{actor}")
    if record.target is not None:
        yield escape(f"target={record.target.type or ''}{':' if record.target.type else ''}{record.target.id}")
    shown = [
        f"{group}.{name}={plain_text(value)}"
        for group, fields in to_json(record)["custom"].items()
        for name, value in fields.items()
    ]
    if shown:
        yield escape(" ".join(shown))
    if record.altered:
        yield escape(f"altered: {', '.join(record.altered)}")
    if trace_url is not None and record.trace_id is not None:
        yield escape(trace_url.replace("{trace_id}", record.trace_id))
