"""The attributes of the OTLP ``Resource``, resolved from the argument and the ``OTEL_*`` variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from otel_audit.errors import ConfigError
from otel_audit.record import Value

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

__all__ = ["resolve_resource"]


def resolve_resource(given: Mapping[str, Value] | Resource | None, environ: Mapping[str, str]) -> dict[str, Value]:
    """Return resource attributes, merged as the specification orders them: argument, service name, attributes, default.

    Args:
        given: The argument.
        environ: The environment.

    Raises:
        ConfigError: An attribute is wrong; names it, its value and the remedy.
    """
    attributes: dict[str, Value] = {"service.name": "unknown_service"}
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        if not pair.strip():
            continue
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"OTEL_RESOURCE_ATTRIBUTES holds {pair!r}", "write key=value,key=value")
        attributes[key.strip()] = unquote(value.strip())
    if service := environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = service
    if given is not None:
        own: Any = getattr(given, "attributes", given)
        if not isinstance(own, Mapping):
            raise ConfigError(f"resource={given!r} cannot be used", "give a mapping, or the SDK's Resource")
        attributes.update(own)
    for name, attribute in attributes.items():
        _check_attribute(name, name, attribute)
    return attributes


def _check_attribute(name: Any, key: Any, value: Any) -> None:
    """Refuse what OTLP cannot hold, here rather than where it is encoded."""
    try:
        if not isinstance(key, str) or not key:
            raise TypeError
        key.encode()
        match value:
            case None | bool() | float() | bytes():
                pass
            case str():
                value.encode()
            case int():
                value.to_bytes(8, signed=True)
            case Mapping():
                for inner, item in value.items():
                    _check_attribute(name, inner, item)
            case list() | tuple():
                for item in value:
                    _check_attribute(name, key, item)
            case _:
                raise TypeError
    except (TypeError, UnicodeEncodeError, OverflowError):
        raise ConfigError(
            f"the resource attribute {name!r} is {value!r}",
            "give str in valid Unicode, int of 64 bits, float, bool, bytes, or lists or maps of these",
        ) from None
