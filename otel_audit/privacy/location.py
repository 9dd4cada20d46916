"""Finds the country and the continent of an address, before the address is shortened or dropped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otel_audit.errors import ConfigError
from otel_audit.privacy.addresses import parse
from otel_audit.privacy.scrub import Privacy, Rule, Scrubber
from otel_audit.record import Session

if TYPE_CHECKING:
    from maxminddb import Reader

__all__ = ["Locate", "locate"]


def locate(path: str | os.PathLike[str]) -> Privacy:
    """Return a processor that gives sessions the country and the continent of their address.

    Place it before `truncate_ip` and `drop_ip`. A location that the call gives stays.

    Args:
        path: A database in MaxMind's format, with countries.

    Raises:
        ConfigError: It cannot be read, or the extra ``geoip`` is not installed.
    """
    try:
        import maxminddb  # an extra
    except ImportError as error:
        raise ConfigError("geoip needs the package maxminddb", "install otel-audit[geoip]") from error
    try:
        return Privacy(Locate(maxminddb.open_database(os.fspath(path))))
    except (OSError, TypeError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise ConfigError(
            f"geoip={path!r} cannot be used: {error}", "give the path of a database in MaxMind's format"
        ) from error


class Locate(Rule):
    """Adds the location; see `locate`."""

    word = "located"

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def session(self, session: Session, scrubber: Scrubber) -> Session:  # noqa: ARG002
        """Return the session with its location."""
        if session.ip is None or session.country is not None or session.continent is not None:
            return session
        try:
            address = parse(str(session.ip).partition(",")[0])
            found: Any = None if address is None else self._reader.get(str(address.network_address))
        except Exception:  # noqa: BLE001 - a damaged database, or an IPv6 address and one of IPv4 only: no location
            return session
        if not isinstance(found, Mapping):
            return session
        country, continent = _code(found, "country", "iso_code"), _code(found, "continent", "code")
        return session._replace(country=country, continent=continent)


def _code(found: Mapping[str, Any], name: str, key: str) -> str | None:
    """Return a code in the form ``{"country": {"iso_code": "DE"}}`` or ``{"country_code": "DE"}``."""
    value = found.get(name)
    code = value.get(key) if isinstance(value, Mapping) else found.get(f"{name}_code", value)
    return code if isinstance(code, str) and len(code) == 2 else None
