"""Values that an application's functions returned, as an audit call takes them: nothing they return is refused."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["as_groups", "as_name"]

_NOT_GROUP: Final = re.compile(r"[^A-Za-z0-9_-]")


def as_name(value: object, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the text of a value, and the marks that it leaves.

    What a function returns may be what a client sent, e.g. a list in place of a name: the record must not fail for it.
    Numbers and UUIDs, as paths hold them, are not marked.

    Args:
        value: The value, not None.
        name: The field, for the marks.
    """
    if isinstance(value, str):
        return value, ()
    kind = type(value).__name__[:128]
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a foreign object: whatever it raises must not suppress the record
        text = f"<{kind}>"
    plain = isinstance(value, (int, uuid.UUID)) and not isinstance(value, bool)
    return text, () if plain else (f"{name}:converted:{kind}",)


def as_groups(value: object) -> tuple[dict[str, Mapping[Any, Any]], tuple[str, ...]]:
    """Return a value as custom groups, and the marks that it leaves; what is no group becomes the field ``value``."""
    if not isinstance(value, Mapping):
        kind = type(value).__name__[:128]
        return {"value": {"value": value}}, (f"custom:converted:{kind}",)
    groups: dict[str, Mapping[Any, Any]] = {}
    marks: list[str] = []
    for key, fields in value.items():
        text, _ = as_name(key, "custom")
        group = _NOT_GROUP.sub("_", text[:128]) or "_"
        if group != key:
            marks.append(f"custom.{group}:renamed")
        if not isinstance(fields, Mapping):
            marks.append(f"custom.{group}:converted:{type(fields).__name__[:128]}")
        # Two names may be the same once they are clean.
        earlier = groups.get(group, {})
        groups[group] = {**earlier, **(fields if isinstance(fields, Mapping) else {"value": fields})}
    return groups, tuple(marks)
