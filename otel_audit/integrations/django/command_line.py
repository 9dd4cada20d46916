"""The environment in which the command line works on the project's archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

from otel_audit.config import Settings

__all__ = ["command_environment"]


def command_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that says what the settings say, as far as variables can.

    Objects, such as processors and keys that are no files, have no variable.

    Args:
        settings: Those of the project's provider.
        environ: The environment of this process.
    """
    names: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    told = dict(environ)
    if "endpoint" in names:
        # These would win over it.
        for name in ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_LOGS_EXPORTER"):
            told.pop(name, None)
    if "service.name" in getattr(names.get("resource"), "attributes", names.get("resource", ())):
        told.pop("OTEL_SERVICE_NAME", None)
    for name, value in names.items():
        for variable, write in _VARIABLES.get(name, ()):
            text = write(value)
            if text is not None:
                told[variable] = text if write is not _pairs else ",".join(filter(None, [_given(variable, told), text]))
    return told


def _given(variable: str, environ: Mapping[str, str]) -> str | None:
    """Return the pairs that the environment has; further ones join them, and win."""
    return environ.get(variable) or environ.get(variable.replace("_LOGS_HEADERS", "_HEADERS"))


def _path(value: Any) -> str | None:
    return os.fspath(value) if isinstance(value, (str, os.PathLike)) else None


def _flag(value: Any) -> str:
    return "true" if value else "false"


def _listed(value: Any) -> str:
    return _flag(value) if isinstance(value, bool) else ",".join(value)


def _directory(value: Any) -> str | None:
    return "off" if value is False else _path(value)


def _rules(value: Any) -> str | None:
    return ",".join(f"{name}={age}" for name, age in value.items()) if isinstance(value, Mapping) else _path(value)


def _pairs(value: Any) -> str | None:
    given = getattr(value, "attributes", value)  # the SDK's Resource
    return ",".join(f"{name}={quote(str(text))}" for name, text in given.items())


def _prefix(version: int) -> Callable[[Any], str | None]:
    def write(value: Any) -> str | None:
        given: Iterable[Any] = value if isinstance(value, Iterable) else (value,)
        bits = [*given, None][version]
        return None if bits is None else str(bits)

    return write


_VARIABLES: Final[Mapping[str, tuple[tuple[str, Callable[[Any], str | None]], ...]]] = {
    "archive": (("OTEL_AUDIT_ARCHIVE", _path),),
    "host": (("OTEL_AUDIT_HOST", str),),
    "profile": (("OTEL_AUDIT_PROFILE", str),),
    "durability": (("OTEL_AUDIT_DURABILITY", str),),
    "on_failure": (("OTEL_AUDIT_ON_FAILURE", str),),
    "geoip": (("OTEL_AUDIT_GEOIP", _path),),
    "redact": (("OTEL_AUDIT_REDACT", _listed),),
    "ip_prefix": (("OTEL_AUDIT_IP_PREFIX_V4", _prefix(0)), ("OTEL_AUDIT_IP_PREFIX_V6", _prefix(1))),
    "drop_ip": (("OTEL_AUDIT_DROP_IP", _flag),),
    "pseudonym_key": (("OTEL_AUDIT_PSEUDONYM_KEY", _path),),
    "pseudonymise": (("OTEL_AUDIT_PSEUDONYMISE", _listed),),
    "checkpoint_interval": (("OTEL_AUDIT_CHECKPOINT_INTERVAL", str),),
    "high_water": (("OTEL_AUDIT_HIGH_WATER", _directory),),
    "signing_key": (("OTEL_AUDIT_SIGNING_KEY", _path),),
    "integrity_key": (("OTEL_AUDIT_INTEGRITY_KEY", _path),),
    "integrity_algorithm": (("OTEL_AUDIT_INTEGRITY_ALGORITHM", str),),
    "integrity_certificate": (("OTEL_AUDIT_INTEGRITY_CERTIFICATE", _path),),
    "retention": (("OTEL_AUDIT_RETENTION", _rules),),
    "resource": (("OTEL_RESOURCE_ATTRIBUTES", _pairs),),
    "endpoint": (("OTEL_EXPORTER_OTLP_ENDPOINT", str),),
    "protocol": (("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", str),),
    "headers": (("OTEL_EXPORTER_OTLP_LOGS_HEADERS", _pairs),),
    "timeout": (("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", str),),
    "compression": (("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", str),),
}
