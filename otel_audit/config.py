"""The settings of a provider, each from its argument or from the environment, checked once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack, get_args

from otel_audit.catalog import Durability, EventType, OnFailure
from otel_audit.disk_settings import DiskSettings, resolve_disk
from otel_audit.errors import ConfigError
from otel_audit.integrity_settings import resolve_integrity
from otel_audit.otlp import Profile
from otel_audit.paths import archive_path, file_path, high_water_directory
from otel_audit.record import Value
from otel_audit.resource_settings import resolve_resource
from otel_audit.retention_settings import Retention, resolve_retention

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.resources import Resource
    from structlog.typing import Processor

    from otel_audit.notes import SigningKey
    from otel_audit.otlp_settings import OtlpSettings
    from otel_audit.producer import ProducerKey
    from otel_audit.producer_keys import Algorithm

__all__ = [
    "Config",
    "Settings",
    "reads_recorded",
    "record_settings",
]

Protocol = Literal["http/protobuf", "grpc"]
_EXPORTERS: Final = ("otlp", "console", "none")
_DESTINATION: Final = re.compile(r"[A-Za-z0-9_-]+")


def reads_recorded(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the command line records who reads an archive: ``OTEL_AUDIT_READS``, on unless it is ``off``.

    Raises:
        ConfigError: It is neither ``on`` nor ``off``, in any case.
    """
    given = environ.get("OTEL_AUDIT_READS", "")
    if given.lower() not in {"", "on", "off"}:
        raise ConfigError(f"OTEL_AUDIT_READS={given!r} is unknown", "use 'on' or 'off'")
    return given.lower() != "off"


def record_settings(environ: Mapping[str, str] = os.environ) -> tuple[Profile, dict[str, Value]]:
    """Return what records without a provider need of the environment: profile and resource attributes.

    A mistake in the settings of delivery or privacy keeps nobody from reading an archive.

    Raises:
        ConfigError: One of these is wrong.
    """
    return _choice("profile", None, environ, Profile, "logs"), resolve_resource(None, environ)


class Settings(TypedDict, total=False):
    """What `otel_audit.configure` and `AuditProvider` take; docs/configuration.md has the variables and defaults."""

    archive: str | os.PathLike[str]
    """``OTEL_AUDIT_ARCHIVE``; default: ``audit.db`` in the user's state directory."""
    host: str | None
    """``OTEL_AUDIT_HOST``: host of records whose logger names none."""
    profile: Profile | None
    """``OTEL_AUDIT_PROFILE``; default ``logs``."""
    durability: Durability | None
    """``OTEL_AUDIT_DURABILITY``; default ``commit``."""
    on_failure: OnFailure | None
    """``OTEL_AUDIT_ON_FAILURE``; default ``raise``."""
    block_timeout: float
    """Seconds that one call may wait for the disk; default 30."""
    processors: Iterable[Processor]
    """structlog processors that run before the record is built."""
    geoip: str | os.PathLike[str] | None
    """``OTEL_AUDIT_GEOIP``: a database in MaxMind's format, see `otel_audit.privacy.locate`."""
    redact: bool | Iterable[str] | None
    """``OTEL_AUDIT_REDACT``: whether to take out secrets, or further keys of secrets."""
    ip_prefix: int | tuple[int, int] | None
    """``OTEL_AUDIT_IP_PREFIX_V4``, ``…_V6``: bits of addresses to keep; one number is IPv4's, with 48 for IPv6."""
    drop_ip: bool | None
    """``OTEL_AUDIT_DROP_IP``: whether to keep no address at all."""
    pseudonym_key: bytes | str | os.PathLike[str] | None
    """``OTEL_AUDIT_PSEUDONYM_KEY`` (a path): bytes, or the path of the key's file."""
    pseudonymise: Iterable[str] | None
    """``OTEL_AUDIT_PSEUDONYMISE``: fields to put pseudonyms in place of; with a key: user, user id and actor."""
    checkpoint_interval: float | None
    """``OTEL_AUDIT_CHECKPOINT_INTERVAL``: seconds between two checkpoints at the least; 0: none; default 300."""
    high_water: str | os.PathLike[str] | Literal[False] | None
    """``OTEL_AUDIT_HIGH_WATER``: directory of the high-water marks, False (``off``) for none."""
    signing_key: SigningKey | str | os.PathLike[str] | None
    """``OTEL_AUDIT_SIGNING_KEY`` (a path): what signs checkpoints, or the path of its file."""
    integrity_key: str | os.PathLike[str] | ProducerKey | None
    """``OTEL_AUDIT_INTEGRITY_KEY`` (a path): the key that signs each record, or the path of its file."""
    integrity_algorithm: Algorithm | None
    """``OTEL_AUDIT_INTEGRITY_ALGORITHM``: ``HMAC-SHA256`` for a secret; other keys tell it themselves."""
    integrity_certificate: str | os.PathLike[str] | None
    """``OTEL_AUDIT_INTEGRITY_CERTIFICATE``: path of the key's X.509 certificate, which is shipped with the records."""
    disk_warning: str | int | None
    """``OTEL_AUDIT_DISK_WARNING``: free space below which the operator is warned; default ``1GiB,10%``, the lesser."""
    disk_critical: str | int | None
    """``OTEL_AUDIT_DISK_CRITICAL``: free space below which it is urgent; default ``256MiB,5%``."""
    disk_reserve: str | int | None
    """``OTEL_AUDIT_DISK_RESERVE``: space that is kept for the last records; default ``32MiB``."""
    event_types: Iterable[EventType]
    """The application's own event types."""
    retention: Mapping[str, str] | str | os.PathLike[str] | None
    """``OTEL_AUDIT_RETENTION``: how long records of each type keep their content."""
    resource: Mapping[str, Value] | Resource | None
    """Resource attributes, beside ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES``."""
    endpoint: str | None
    """Base URL of an OTLP collector, as in ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
    protocol: Protocol | None
    """``http/protobuf`` (default) or ``grpc``."""
    headers: Mapping[str, str] | None
    """Headers of each request."""
    timeout: float | None
    """Seconds for one request; default 10."""
    compression: Literal["gzip", "none"] | None
    """Default: ``gzip``, save on loopback."""
    exporters: Mapping[str, LogRecordExporter] | None
    """SDK exporters that are destinations too, by name."""
    ship: bool
    """False: this process sends nothing; another one does."""


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
        processors: structlog processors that run before the record is built, the measures of privacy last.
        checkpoint_interval: Seconds between two checkpoints at the least; 0: none.
        high_water: Directory of the high-water marks; None: none are kept.
        signing_key: What signs checkpoints; None where nothing does.
        signing_key_path: The file that it came from, which a rotation replaces; None where it came from none.
        disk: What the archive's disk is watched for.
        event_types: The application's own event types.
        integrity: The key that signs each record; None where they are not signed.
        retention: How long records of each type keep their content.
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
    checkpoint_interval: float = 300.0
    high_water: Path | None = None
    signing_key: SigningKey | None = None
    signing_key_path: Path | None = None
    disk: DiskSettings = field(default_factory=resolve_disk)
    event_types: tuple[EventType, ...] = ()
    integrity: ProducerKey | None = None
    retention: Retention = field(default_factory=Retention)
    resource: Mapping[str, Value] = field(default_factory=dict)
    otlp: OtlpSettings | None = None
    exporters: Mapping[str, LogRecordExporter] = field(default_factory=dict)
    sending: bool = True

    @property
    def destinations(self) -> frozenset[str]:
        """The names of the destinations, whether this process sends or not."""
        return frozenset((*self.exporters, *(() if self.otlp is None else ("otlp",))))

    @classmethod
    def load(cls, **settings: Unpack[Settings]) -> Config:
        """Return the settings: arguments win over the environment, the environment over the defaults.

        Args:
            **settings: See `Settings`.

        Raises:
            ConfigError: A setting is wrong; names it, its value and the remedy.
            TypeError: There is no such setting.
        """
        # Start-up time: the command line seldom needs all this.
        from otel_audit.keys import resolve as resolve_key
        from otel_audit.privacy_settings import with_privacy

        _check_names(settings)
        environ = os.environ
        given: Any = settings.get
        names = _exporter_names(environ)
        profile: Profile = _choice("profile", given("profile"), environ, Profile, "logs")
        integrity = resolve_integrity(settings, environ)
        exporters = dict(given("exporters") or {})
        event_types = _tuple("event_types", settings.get("event_types", ()))
        for name in exporters:
            _check_destination(name)
        if "console" in names:
            exporters.setdefault("console", _console())
        signing_key, signing_key_path = resolve_key(given("signing_key"), environ)
        return cls(
            archive=_archive(given("archive"), environ),
            host=_host(given("host"), environ),
            profile=profile,
            durability=_choice("durability", given("durability"), environ, Durability, "commit"),
            on_failure=_choice("on_failure", given("on_failure"), environ, OnFailure, "raise"),
            block_timeout=_positive("block_timeout", settings.get("block_timeout", 30.0)),
            processors=with_privacy(_processors(settings.get("processors", ())), settings, environ),
            checkpoint_interval=_interval(given("checkpoint_interval"), environ),
            high_water=high_water_directory(given("high_water"), environ),
            signing_key=signing_key,
            signing_key_path=signing_key_path,
            disk=resolve_disk(settings, environ),
            event_types=event_types,
            retention=resolve_retention(given("retention"), event_types, environ),
            integrity=integrity,
            resource=resolve_resource(given("resource"), environ) | (integrity.resource if integrity else {}),
            otlp=_otlp(settings, names, environ, profile),
            exporters=exporters,
            sending=settings.get("ship", True) and environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true",
        )


def _check_names(settings: Settings) -> None:
    for name in settings.keys() - Settings.__annotations__.keys():
        import difflib  # for this message only

        near = difflib.get_close_matches(name, Settings.__annotations__, 1)
        raise TypeError(f"there is no setting {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))


def _otlp(settings: Settings, names: list[str], environ: Mapping[str, str], profile: Profile) -> OtlpSettings | None:
    endpoint, protocol = settings.get("endpoint"), settings.get("protocol")
    if protocol not in {None, *get_args(Protocol)}:
        raise ConfigError(f"protocol={protocol!r} is unknown", f"use {' or '.join(map(repr, get_args(Protocol)))}")
    if endpoint is None and names and "otlp" not in names:
        return None
    from otel_audit.otlp_settings import resolve  # start-up time, as above

    otlp = resolve(
        environ,
        endpoint=endpoint,
        protocol=protocol,
        headers=settings.get("headers"),
        timeout=settings.get("timeout"),
        compression=settings.get("compression"),
        path="/v1/audit" if profile == "signal" else "/v1/logs",
        default="otlp" in names,
    )
    for file in () if otlp is None else (otlp.certificate, otlp.client_key, otlp.client_certificate):
        if file is not None and not os.access(file, os.R_OK):
            raise ConfigError(f"the certificate or key {file!r} cannot be read", "check the path and its permissions")
    return otlp


def _archive(given: Any, environ: Mapping[str, str]) -> Path:
    if given is None:
        return archive_path(environ)
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise ConfigError(f"archive={given!r} is no path", "give the path of a file such as 'audit.db'")
    return file_path(given, "archive")


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


def _interval(given: Any, environ: Mapping[str, str]) -> float:
    variable = "OTEL_AUDIT_CHECKPOINT_INTERVAL"
    text = environ.get(variable)
    value, shown = (given, "checkpoint_interval") if given is not None else (text or 300.0, variable)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= 31_536_000:
        raise ConfigError(
            f"{shown}={value!r} is no number of seconds", "give a positive number, or 0 for no checkpoints"
        )
    return seconds


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
