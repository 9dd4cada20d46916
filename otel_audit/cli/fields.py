"""The fields of a record by name, as ``--fields`` gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from otel_audit.safe import json_text

__all__ = ["FLAT", "NAMES", "lookup", "plain_text", "select", "similar"]

_SIMPLE: Final = (
    "sequence", "record_id", "time", "host", "user", "source", "type", "outcome", "action", "trace_id", "span_id",
    "message", "altered", "signature",
)  # fmt: skip
_NESTED: Final = {
    "actor": ("id", "type"),
    "target": ("id", "type"),
    "session": ("id", "type", "ip", "client", "country", "continent"),
}
NAMES: Final = {
    *_SIMPLE,
    *_NESTED,
    "custom",
    *(f"{group}.{name}" for group, names in _NESTED.items() for name in names),
}

FLAT: Final = (
    "sequence", "record_id", "time", "host", "user", "source", "type", "outcome", "action", "actor.id", "actor.type",
    "target.id", "target.type", "session.id", "session.type", "session.ip", "session.client", "trace_id", "span_id",
    "custom", "message", "altered",
)  # fmt: skip
"""The columns of CSV."""


def lookup(record: Mapping[str, Any], name: str) -> Any:
    """Return the value that a dotted name leads to in a record's JSON form, None where there is none."""
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def select(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a record's JSON form with these fields only, each where it stood, in the order of the names."""
    chosen: dict[str, Any] = {}
    for name in names:
        *groups, last = name.split(".")
        place = chosen
        for group in groups:
            inner = place.get(group)
            if not isinstance(inner, dict):
                inner = place[group] = {}
            place = inner
        place[last] = lookup(record, name)
    return chosen


def similar(name: str, known: Iterable[str]) -> str:
    """Return the question whether a similar name was meant, to be put into a message; empty where none is similar."""
    import difflib  # start-up time: for messages only

    near = difflib.get_close_matches(name, known, 1, 0.7)
    return f" (did you mean {near[0]}?)" if near else ""


def plain_text(value: Any) -> str:
    """Return a field's value as text: strings as they are, None as nothing, the rest as compact JSON."""
    match value:
        case None:
            return ""
        case str():
            return value
        case _:
            return json_text(value)
