"""The settings, each from its argument or from the environment, checked once; nothing else reads the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args
from urllib.parse import unquote

import platformdirs

from otel_audit.catalog import Durability, EventType, OnFailure
from otel_audit.errors import ConfigError
from otel_audit.otlp import Profile
from otel_audit.otlp_settings import OtlpSettings, resolve
from otel_audit.record import Value

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.resources import Resource
    from structlog.typing import Processor

__all__ = ["Config", "archive_path", "default_archive"]

Protocol = Literal["http/protobuf", "grpc"]
_EXPORTERS: Final = ("otlp", "console", "none")


def default_archive() -> Path:
    """Return where the archive is when nobody says: ``audit.db`` in the user's state directory."""
    return Path(platformdirs.user_state_path("otel_audit", appauthor=False)) / "audit.db"


def archive_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the archive's path by the environment: ``OTEL_AUDIT_ARCHIVE``, else the default."""
    given = environ.get("OTEL_AUDIT_ARCHIVE")
    return Path(given) if given else default_archive()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be set, resolved. Made by `Config.load`.

    Args:
        archive: The archive's file.
        host: Host of records whose logger names none.
        profile: ``logs`` or ``signal``.
        durability: ``commit`` or ``queued``.
        on_failure: ``raise``, ``log`` or ``block``.
        block_timeout: Seconds that a call may wait: for a commit, for room in the queue, and for ``block`` in all.
        processors: structlog processors that run before the record is built.
        event_types: The application's own event types.
        resource: Attributes of the OTLP ``Resource``.
        otlp: The OTLP destination; None where there is none.
        exporters: SDK exporters that are destinations too, by name.
        sending: Whether records are sent at all.
    """

    archive: Path
    host: str | None = None
    profile: Profile = "logs"
    durability: Durability = "commit"
    on_failure: OnFailure = "raise"
    block_timeout: float = 30.0
    processors: tuple[Processor, ...] = ()
    event_types: tuple[EventType, ...] = ()
    resource: Mapping[str, Value] = field(default_factory=dict)
    otlp: OtlpSettings | None = None
    exporters: Mapping[str, LogRecordExporter] = field(default_factory=dict)
    sending: bool = True

    @classmethod
    def load(
        cls,
        *,
        archive: str | os.PathLike[str] | None = None,
        host: str | None = None,
        profile: Profile | None = None,
        durability: Durability | None = None,
        on_failure: OnFailure | None = None,
        block_timeout: float = 30.0,
        processors: Iterable[Processor] = (),
        event_types: Iterable[EventType] = (),
        resource: Mapping[str, Value] | Resource | None = None,
        endpoint: str | None = None,
        protocol: Protocol | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        compression: Literal["gzip", "none"] | None = None,
        exporters: Mapping[str, LogRecordExporter] | None = None,
        ship: bool = True,
    ) -> Config:
        """Return the settings: arguments win over the environment, the environment over the defaults.

        Args:
            archive: ``OTEL_AUDIT_ARCHIVE``; default: ``audit.db`` in the user's state directory.
            host: ``OTEL_AUDIT_HOST``.
            profile: ``OTEL_AUDIT_PROFILE``; default ``logs``.
            durability: ``OTEL_AUDIT_DURABILITY``; default ``commit``.
            on_failure: ``OTEL_AUDIT_ON_FAILURE``; default ``raise``.
            block_timeout: Seconds that a call may wait for the disk.
            processors: structlog processors.
            event_types: The application's own event types.
            resource: Resource attributes, beside ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES``.
            endpoint: Base URL of an OTLP collector, as in ``OTEL_EXPORTER_OTLP_ENDPOINT``.
            protocol: ``http/protobuf`` (default) or ``grpc``.
            headers: Headers of each request.
            timeout: Seconds for one request; default 10.
            compression: ``gzip`` or ``none``; default: ``gzip``, save on loopback.
            exporters: SDK exporters that are destinations too, by name.
            ship: False: this process sends nothing; another one does.

        Raises:
            ConfigError: A setting is wrong; names it, its value and the remedy.
        """
        environ = os.environ
        names = _exporter_names(environ)
        otlp = None
        if endpoint is not None or not names or "otlp" in names:
            otlp = resolve(
                environ,
                endpoint=endpoint,
                protocol=protocol,
                headers=headers,
                timeout=timeout,
                compression=compression,
                path="/v1/audit" if _choice("profile", profile, environ, Profile, "logs") == "signal" else "/v1/logs",
                default="otlp" in names,
            )
        chosen = dict(exporters or {})
        if "otlp" in chosen:
            raise ConfigError("an exporter is named 'otlp'", "that is the name of the OTLP destination: take another")
        if "console" in names:
            chosen.setdefault("console", _console())
        return cls(
            archive=Path(archive) if archive is not None else archive_path(environ),
            host=host if host is not None else environ.get("OTEL_AUDIT_HOST") or None,
            profile=_choice("profile", profile, environ, Profile, "logs"),
            durability=_choice("durability", durability, environ, Durability, "commit"),
            on_failure=_choice("on_failure", on_failure, environ, OnFailure, "raise"),
            block_timeout=_positive("block_timeout", block_timeout),
            processors=_processors(processors),
            event_types=tuple(event_types),
            resource=_resource(resource, environ),
            otlp=otlp,
            exporters=chosen,
            sending=ship and environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true",
        )


def _choice(name: str, given: Any, environ: Mapping[str, str], allowed: Any, default: str) -> Any:
    variable = f"OTEL_AUDIT_{name.upper()}"
    value = given if given is not None else environ.get(variable) or default
    if value not in get_args(allowed):
        shown = name if given is not None else variable
        raise ConfigError(f"{shown}={value!r} is unknown", f"use {' or '.join(map(repr, get_args(allowed)))}")
    return value


def _positive(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or not 0 < value < 86_400:
        raise ConfigError(f"{name}={value!r} is no number of seconds", "give a positive number below 86400")
    return float(value)


def _exporter_names(environ: Mapping[str, str]) -> list[str]:
    names = [name.strip() for name in environ.get("OTEL_LOGS_EXPORTER", "").split(",") if name.strip()]
    for name in names:
        if name not in _EXPORTERS:
            raise ConfigError(
                f"OTEL_LOGS_EXPORTER={name!r} is unknown", f"use {', '.join(_EXPORTERS)}, or configure(exporters=…)"
            )
    return names


def _console() -> LogRecordExporter:
    from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter

    return ConsoleLogRecordExporter()


def _processors(given: Iterable[Processor]) -> tuple[Processor, ...]:
    processors = tuple(given)
    for processor in processors:
        if not callable(processor):
            raise ConfigError(f"processors holds {processor!r}", "a structlog processor is a callable")
    return processors


def _resource(given: Mapping[str, Value] | Resource | None, environ: Mapping[str, str]) -> dict[str, Value]:
    """Merge resource attributes as the specification orders them: argument, service name, attributes, default."""
    attributes: dict[str, Value] = {"service.name": "unknown_service"}
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        if not pair.strip():
            continue
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"OTEL_RESOURCE_ATTRIBUTES holds {pair!r}", "write key=value,key=value")
        attributes[key.strip()] = unquote(value.strip())
    if name := environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = name
    if given is not None:
        own: Any = getattr(given, "attributes", given)
        attributes.update(dict(own))
    return attributes
