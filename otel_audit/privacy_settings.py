"""Which measures of privacy act, resolved from arguments and the ``OTEL_AUDIT_*`` variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otel_audit.errors import ConfigError

if TYPE_CHECKING:
    from structlog.typing import Processor

__all__ = ["with_privacy"]


def with_privacy(
    processors: tuple[Processor, ...], settings: Mapping[str, object], environ: Mapping[str, str]
) -> tuple[Processor, ...]:
    """Return the application's processors and, behind them, the measures of privacy in the order that they need.

    Args:
        processors: The application's own.
        settings: Arguments: ``geoip``, ``redact``, ``ip_prefix``, ``drop_ip``, ``pseudonym_key``, ``pseudonymise``;
            others are not looked at.
        environ: The environment.

    Raises:
        ConfigError: A setting is wrong; names it, its value and the remedy.
    """
    given: Any = settings.get
    geoip, key = (
        given(name) if given(name) is not None else environ.get(f"OTEL_AUDIT_{name.upper()}") or None
        for name in ("geoip", "pseudonym_key")
    )
    redact = _redaction(given("redact"), environ)
    prefixes = _prefixes(given("ip_prefix"), environ)
    drop_ip = _flag("drop_ip", given("drop_ip"), environ)
    fields = _fields(given("pseudonymise"), environ)
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
    return _sequence("redact", given)


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
    return _sequence("pseudonymise", given)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _sequence(name: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, str):
        raise ConfigError(f"{name}={given!r} is one text", f"give a sequence: {name}=[{given!r}]")
    try:
        return tuple(given)
    except TypeError:
        raise ConfigError(f"{name}={given!r} cannot be used", "give a list") from None
