"""Runs the receiver: where it listens, who may send, and how it ends."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from otel_audit.errors import ConfigError
from otel_audit.keyfile import read_key_file, refuse_open_file
from otel_audit.otlp_settings import is_loopback

if TYPE_CHECKING:
    from otel_audit.config import Config
    from otel_audit.provider import AuditProvider
    from otel_audit.receiver.app import Limits

__all__ = ["Address", "Door", "check_token", "listen", "read_token", "serve"]

_SHORTEST = 16
_GRACE = 30
"""Seconds that requests under way have at the end."""


class Address(NamedTuple):
    """Where to listen.

    Args:
        host: A name or an address.
        port: The port; 0 for any that is free.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that ``HOST:PORT`` names.

        Raises:
            ConfigError: It names none.
        """
        try:
            parts = urlsplit(f"//{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or port is None or parts.netloc != text or parts.username is not None:
            raise ConfigError(
                f"{text!r} is no address to listen on", "give HOST:PORT, e.g. 127.0.0.1:4318 or [::1]:4318"
            )
        return cls(host, port)

    def __str__(self) -> str:
        """Return it as a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Door(NamedTuple):
    """Who may send, and how.

    Args:
        token: What clients must send as ``Authorization: Bearer …``; None: nothing.
        certificate: PEM file of the TLS certificate and what it is signed by; None: no TLS.
        key: PEM file of its private key; None: it stands in the same file.
    """

    token: str | None = None
    certificate: Path | None = None
    key: Path | None = None


def read_token(path: Path) -> str:
    """Return the token that a file holds.

    Raises:
        ConfigError: It cannot be read, is open to others, or holds none.
    """
    where = f"the token in {path}"
    content, status = read_key_file(path, where)
    refuse_open_file(status, where)
    return check_token(content.decode("latin-1").strip(), where)


def check_token(token: str, where: str) -> str:
    """Return a token, having seen that it is one.

    Args:
        token: The token.
        where: What messages call it.

    Raises:
        ConfigError: It is none.
    """
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{where} is no token: it must have {_SHORTEST} or more printable ASCII characters and no spaces",
            "make one with: openssl rand -hex 32",
        )
    return token


def listen(address: Address, door: Door, config: Config) -> socket.socket:
    """Return a socket that listens; nobody is answered yet.

    Args:
        address: Where.
        door: Who may send: beyond loopback, both a token and TLS are demanded.
        config: Where records are shipped to: not to here.

    Raises:
        ConfigError: Others could send, the port is taken, or the records would come back.
    """
    if door.certificate is None and door.key is not None:
        raise ConfigError(f"the key {door.key} has no certificate", "give --certificate as well")
    if not is_loopback(address.host) and (door.token is None or door.certificate is None):
        lacking = " and ".join(
            text for text, part in (("a token", door.token), ("TLS", door.certificate)) if part is None
        )
        raise ConfigError(
            f"listening on {address} lets other machines write audit records, without {lacking}",
            "listen on 127.0.0.1, or give --token-file (or OTEL_AUDIT_TOKEN), --certificate and --key",
        )
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listening = socket.create_server((address.host, address.port), family=family, backlog=1_024)
    except (OSError, UnicodeError) as error:
        # Python adds the address to some, which the message names already.
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]
        raise ConfigError(
            f"cannot listen on {address}: {reason}",
            "find out what uses the port (ss -ltnp), or give another one with --listen",
        ) from error
    try:
        _check_destination(Address(address.host, listening.getsockname()[1]), config)
    except ConfigError:
        listening.close()
        raise
    return listening


def _check_destination(address: Address, config: Config) -> None:
    if config.otlp is None or not config.sending:
        return
    endpoint = config.otlp.endpoint
    target = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    port = target.port or (443 if target.scheme == "https" else 80)
    here = target.hostname == address.host or (is_loopback(target.hostname or "") and _is_here(address.host))
    if here and port == address.port:
        raise ConfigError(
            f"records would be shipped to {endpoint}, which is this receiver",
            "give the collector behind it as OTEL_EXPORTER_OTLP_ENDPOINT, or another port with --listen",
        )


def _is_here(host: str) -> bool:
    """Tell whether whoever listens there is reached over loopback."""
    return is_loopback(host) or host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not listened on


def serve(
    provider: AuditProvider,
    listening: socket.socket,
    door: Door,
    limits: Limits | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT; those under way are answered before it returns.

    Args:
        provider: Records, and ships on what was received. Stays the caller's.
        listening: As `listen` returned it; closed at the end.
        door: As given there.
        limits: What is taken at most.
        ready: Called when requests are about to be answered.

    Raises:
        ConfigError: Certificate and key cannot be used.
    """
    import uvicorn  # an extra, as starlette is, which the application needs

    from otel_audit.receiver.app import Receiver
    from otel_audit.receiver.connections import Connection, Seldom, make_room

    with listening:
        settings: dict[str, Any] = {"ssl_certfile": door.certificate, "ssl_keyfile": door.key}
        receiver = Receiver(provider, token=door.token, limits=limits)
        try:
            config = uvicorn.Config(
                receiver.app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                http=Connection,
                ws="none",
                timeout_graceful_shutdown=_GRACE,
                **settings,
            )
            _load(config, door)
            # What clients send that is no HTTP is theirs to hear of.
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
            logging.getLogger("asyncio").addFilter(Seldom())
            make_room()
            # The server raises a signal again when it has ended: the records that wait are still to be brought home.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            ready()
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            receiver.close()


def _load(config: Any, door: Door) -> None:
    """Load the application and the certificate.

    Raises:
        ConfigError: Certificate and key cannot be used.
    """
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificate {door.certificate} with the key {door.key or door.certificate} cannot be used:"
            f" {getattr(error, 'strerror', None) or error}",
            "give PEM files: the certificate with what it is signed by, and its key without a password",
        ) from error
