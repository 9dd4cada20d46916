"""The settings, each from its argument or from the environment, checked once; nothing else reads the environment."""

from __future__ import annotations

import os
import re
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
_DESTINATION: Final = re.compile(r"[A-Za-z0-9_-]+")


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
        geoip: str | os.PathLike[str] | None = None,
        redact: bool | Iterable[str] | None = None,
        ip_prefix: int | tuple[int, int] | None = None,
        drop_ip: bool | None = None,
        pseudonym_key: bytes | str | os.PathLike[str] | None = None,
        pseudonymise: Iterable[str] | None = None,
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
            geoip: ``OTEL_AUDIT_GEOIP``: a database in MaxMind's format, see `otel_audit.privacy.locate`.
            redact: ``OTEL_AUDIT_REDACT``: whether to take out secrets, or further keys of secrets.
            ip_prefix: ``OTEL_AUDIT_IP_PREFIX_V4``, ``…_V6``: bits of addresses to keep; one number is IPv4's, with 48
                for IPv6.
            drop_ip: ``OTEL_AUDIT_DROP_IP``: whether to keep no address at all.
            pseudonym_key: ``OTEL_AUDIT_PSEUDONYM_KEY`` (a path): bytes, or the path of the key's file.
            pseudonymise: ``OTEL_AUDIT_PSEUDONYMISE``: fields to put pseudonyms in place of; with a key the default is
                user, user id and actor.
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
        if protocol not in {None, *get_args(Protocol)}:
            raise ConfigError(f"protocol={protocol!r} is unknown", f"use {' or '.join(map(repr, get_args(Protocol)))}")
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
        for name in chosen:
            _check_destination(name)
        if "console" in names:
            chosen.setdefault("console", _console())
        return cls(
            archive=_archive(archive, environ),
            host=_host(host, environ),
            profile=_choice("profile", profile, environ, Profile, "logs"),
            durability=_choice("durability", durability, environ, Durability, "commit"),
            on_failure=_choice("on_failure", on_failure, environ, OnFailure, "raise"),
            block_timeout=_positive("block_timeout", block_timeout),
            processors=_with_privacy(
                _processors(processors),
                geoip=geoip if geoip is not None else environ.get("OTEL_AUDIT_GEOIP") or None,
                redact=_redaction(redact, environ),
                prefixes=_prefixes(ip_prefix, environ),
                drop_ip=_flag("drop_ip", drop_ip, environ),
                key=pseudonym_key if pseudonym_key is not None else environ.get("OTEL_AUDIT_PSEUDONYM_KEY") or None,
                fields=_fields(pseudonymise, environ),
            ),
            event_types=_tuple("event_types", event_types),
            resource=_resource(resource, environ),
            otlp=otlp,
            exporters=chosen,
            sending=ship and environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true",
        )


def _archive(given: Any, environ: Mapping[str, str]) -> Path:
    if given is None:
        return archive_path(environ)
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise ConfigError(f"archive={given!r} is no path", "give the path of a file such as 'audit.db'")
    return Path(given)


def _host(given: Any, environ: Mapping[str, str]) -> str | None:
    host, shown = (given, "host") if given is not None else (environ.get("OTEL_AUDIT_HOST") or None, "OTEL_AUDIT_HOST")
    if host is not None and (not isinstance(host, str) or host in ("", "*")):
        raise ConfigError(f"{shown}={host!r} is no host", "name the tenant or virtual host that events belong to")
    return host


def _check_destination(name: Any) -> None:
    if name == "otlp":
        raise ConfigError("an exporter is named 'otlp'", "that is the name of the OTLP destination: take another")
    if not isinstance(name, str) or not _DESTINATION.fullmatch(name):
        # It becomes part of the lease's file name.
        raise ConfigError(f"an exporter is named {name!r}", "names are made of A-Z, a-z, 0-9, _ and -")


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
    # The specification wants the names of enumerations in any case.
    names = [name.strip().lower() for name in environ.get("OTEL_LOGS_EXPORTER", "").split(",") if name.strip()]
    for name in names:
        if name not in _EXPORTERS:
            raise ConfigError(
                f"OTEL_LOGS_EXPORTER={name!r} is unknown", f"use {', '.join(_EXPORTERS)}, or configure(exporters=…)"
            )
    return names


def _console() -> LogRecordExporter:
    from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter

    return ConsoleLogRecordExporter()


def _tuple(name: str, given: Any) -> tuple[Any, ...]:
    try:
        return tuple(given)
    except TypeError:
        raise ConfigError(f"{name}={given!r} cannot be used", "give a list") from None


def _processors(given: Iterable[Processor]) -> tuple[Processor, ...]:
    processors = _tuple("processors", given)
    for processor in processors:
        if not callable(processor):
            raise ConfigError(f"processors holds {processor!r}", "a structlog processor is a callable")
    return processors


def _with_privacy(
    processors: tuple[Processor, ...],
    *,
    geoip: Any,
    redact: tuple[str, ...] | None,
    prefixes: tuple[int, int] | None,
    drop_ip: bool,
    key: Any,
    fields: tuple[str, ...] | None,
) -> tuple[Processor, ...]:
    """Return the application's processors and, behind them, the measures of privacy in the order that they need."""
    if fields and key is None:
        raise ConfigError("pseudonymise has fields and no key", "give pseudonym_key= or OTEL_AUDIT_PSEUDONYM_KEY")
    chosen = geoip is not None or redact is not None or prefixes is not None or drop_ip or key is not None
    if not chosen and not processors:
        return processors
    from otel_audit import privacy  # start-up time: for those who ask for it

    own = list(processors)
    if geoip is not None:
        own.append(privacy.locate(geoip))
    if redact is not None:
        own.append(privacy.redact([*privacy.DEFAULT_KEYS, *redact]))
    if drop_ip:
        own.append(privacy.drop_ip())
    elif prefixes is not None:
        own.append(privacy.truncate_ip(*prefixes))
    if key is not None and fields != ():
        own.append(privacy.pseudonymise(key) if fields is None else privacy.pseudonymise(key, fields))
    return privacy.merged(own)


def _flag(name: str, given: Any, environ: Mapping[str, str]) -> bool:
    if given is not None:
        if not isinstance(given, bool):
            raise ConfigError(f"{name}={given!r} is no bool", "use True or False")
        return given
    variable = f"OTEL_AUDIT_{name.upper()}"
    text = environ.get(variable, "").strip().lower()
    if text not in {"", "true", "false"}:
        raise ConfigError(f"{variable}={text!r} is unknown", "use true or false")
    return text == "true"


def _redaction(given: Any, environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the keys beside the default ones, None where nothing is taken out."""
    if given is None:
        text = environ.get("OTEL_AUDIT_REDACT", "").strip()
        given = _names(text) if text.lower() not in {"", "true", "false"} else text.lower() == "true"
    if isinstance(given, bool):
        return () if given else None
    if isinstance(given, str):
        raise ConfigError(f"redact={given!r} is one text", f"give a bool, or a sequence: redact=[{given!r}]")
    return _tuple("redact", given)


def _prefixes(given: Any, environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the bits to keep of IPv4 and IPv6 addresses: where one is given, the other is shortened, too."""
    if given is None:
        texts = [environ.get(f"OTEL_AUDIT_IP_PREFIX_{version}", "").strip() for version in ("V4", "V6")]
        if not any(texts):
            return None
        for version, text in zip(("V4", "V6"), texts, strict=True):
            if text and not (text.isascii() and text.isdecimal() and len(text) < 4):
                raise ConfigError(f"OTEL_AUDIT_IP_PREFIX_{version}={text!r} is no number", "give the bits to keep")
        return int(texts[0] or 24), int(texts[1] or 48)
    if type(given) is int:
        return given, 48
    if not isinstance(given, tuple) or len(given) != 2:
        raise ConfigError(f"ip_prefix={given!r} cannot be used", "give the bits to keep: 24, or (24, 48) with IPv6's")
    return given


def _fields(given: Any, environ: Mapping[str, str]) -> tuple[str, ...] | None:
    if given is None:
        return _names(environ.get("OTEL_AUDIT_PSEUDONYMISE", "")) or None
    if isinstance(given, str):
        raise ConfigError(f"pseudonymise={given!r} is one text", f"give a sequence: pseudonymise=[{given!r}]")
    return _tuple("pseudonymise", given)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


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
