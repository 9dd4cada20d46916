"""Attribute values of OTLP as Python values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

__all__ = ["attributes", "plain_value"]


def plain_value(value: AnyValue) -> Any:
    """Return what an ``AnyValue`` holds.

    Args:
        value: The message.

    Returns:
        A str, bool, int, float, bytes, list or dict, nested as the message is; None where it holds nothing.
    """
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [plain_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes(value.kvlist_value.values)
    return getattr(value, kind)


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Return key-value pairs as a dict; of a key that stands twice, the last value."""
    return {pair.key: plain_value(pair.value) for pair in pairs}
