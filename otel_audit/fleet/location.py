"""Where a fleet's records are: ``clickhouse://user:password@host:port/database``, without ever showing the password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from otel_audit.errors import ConfigError

__all__ = ["Location", "is_fleet", "parse_location", "shown_url"]

_SCHEMES: Final = ("clickhouse", "clickhouses", "chdb")
_HINT: Final = (
    "write clickhouse://user:password@host:8123/database, or clickhouses:// for TLS; in a password / is written %2F,"
    " # %23, ? %3F, @ %40"
)
_OPTIONS: Final = ("table", "ca")
_CREDENTIALS: Final = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*://).*@", re.DOTALL)
"""Up to the last @: a password may hold what should have been escaped."""


@dataclass(frozen=True)
class Location:
    """A table of logs.

    Args:
        host: The server; for ``chdb`` the directory of the embedded engine, empty for one in memory.
        port: Its HTTP port; None: 8123, with TLS 8443.
        secure: Whether TLS is used.
        embedded: Whether the engine runs in this process (chDB).
        database: The database.
        table: The table.
        user: The user; None: the server's default.
        password: The password; never shown.
        ca: File of the authorities that may have signed the server's certificate; None: the system's.
    """

    host: str
    port: int | None
    secure: bool
    embedded: bool
    database: str
    table: str
    user: str | None = None
    password: str = field(default="", repr=False)
    ca: str | None = None

    def __str__(self) -> str:
        """Return the location as a URL without the password."""
        if self.embedded:
            return f"chdb://{self.host or 'memory'}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = "" if self.user is None else f"{self.user}@"
        port = self.port or (8443 if self.secure else 8123)
        return f"clickhouse{'s' if self.secure else ''}://{user}{host}:{port}/{self.database}"


def is_fleet(location: object) -> bool:
    """Tell whether a location is that of a log table, rather than a file."""
    return isinstance(location, str) and location.partition("://")[0].lower() in _SCHEMES and "://" in location


def shown_url(url: str) -> str:
    """Return a URL, or a path, without user and password."""
    return _CREDENTIALS.sub(r"\1", url)


def parse_location(url: str, password: str | None = None) -> Location:
    """Return the location that a URL names.

    Args:
        url: ``clickhouse://user:password@host:port/database``, ``clickhouses://`` with TLS; ``?table=`` names another
            table than ``otel_logs``, ``?ca=`` a file of authorities. ``chdb:///directory`` is ClickHouse's embedded
            engine, ``?database=`` its database.
        password: The password, where the URL holds none.

    Raises:
        ConfigError: The URL cannot be understood.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Nothing of it is quoted: where host and port cannot be told from a password, one of them may be one.
        raise ConfigError("the location of the fleet has no valid host and port", _HINT) from None
    scheme = parts.scheme.lower()
    embedded = scheme == "chdb"
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = (*_OPTIONS, "database") if embedded else _OPTIONS
    if unknown := next((name for name in options if name not in known), None):
        raise ConfigError(f"{unknown!r} is no option of a fleet's location", f"give {' or '.join(known)}")
    if embedded:
        host = "" if parts.netloc in {"memory", ":memory:"} else unquote(parts.netloc + parts.path)
        return Location(
            host, None, False, True, options.get("database") or "default", options.get("table") or "otel_logs"
        )
    database = unquote(parts.path.strip("/")) or "default"
    if scheme not in _SCHEMES or not parts.hostname or "/" in database or parts.fragment:
        raise ConfigError("the location of the fleet names no host, or more than a database", _HINT)
    return Location(
        parts.hostname,
        port,
        scheme == "clickhouses",
        False,
        database,
        options.get("table") or "otel_logs",
        None if parts.username is None else unquote(parts.username),
        unquote(parts.password) if parts.password is not None else password or "",
        options.get("ca"),
    )
