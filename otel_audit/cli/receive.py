"""``otel-audit receive``: a durable audit endpoint for programs in any language."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from otel_audit.cli.complaints import log_to_stderr
from otel_audit.cli.options import archive_option, chosen_archive
from otel_audit.cli.values import Host
from otel_audit.errors import ConfigError

if TYPE_CHECKING:
    from otel_audit.receiver.server import Door

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Take records over OTLP/HTTP.")
@click.option(
    "--listen",
    "address",
    default="127.0.0.1:4318",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; port 0 for any that is free.",
)
@click.option(
    "--host", type=Host(), help="Host of records that name none.  [default: $OTEL_AUDIT_HOST, else unknown, marked]"
)
@click.option(
    "--token-file",
    type=_FILE,
    metavar="FILE",
    help="File with the token that clients must send.  [default: the token in $OTEL_AUDIT_TOKEN]",
)
@click.option("--certificate", type=_FILE, metavar="FILE", help="TLS certificate with its chain, PEM.")
@click.option("--key", type=_FILE, metavar="FILE", help="Its private key, PEM.  [default: in the same file]")
@click.option(
    "--max-body",
    type=click.IntRange(1, 64),
    default=16,
    show_default=True,
    metavar="MIB",
    help="Largest request in MiB, as it comes and as it unpacks.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1, 10_000),
    default=128,
    show_default=True,
    metavar="NUMBER",
    help="Most requests that are worked on at once; others are told to try again.",
)
@archive_option
def command(
    *,
    address: str,
    host: str | None,
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    max_body: int,
    max_requests: int,
    archive: str | None,
) -> None:
    """Take OTLP log records over HTTP on /v1/logs and /v1/audit, and answer when they are on disk.

    Ends on SIGTERM or SIGINT, when what came before is answered. What was received is shipped on like any other record:
    all OTEL_EXPORTER_OTLP_* and OTEL_EXPORTER_OTLP_LOGS_* variables apply. Listening beyond this machine needs a token
    and TLS. Needs the extra server: pip install 'otel-audit[server]'.
    """
    log_to_stderr()
    try:
        # Start-up time; and they are an extra.
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"the receiver needs {error.name}", "pip install 'otel-audit[server]'") from error
    from otel_audit.provider import AuditProvider
    from otel_audit.receiver.app import Limits
    from otel_audit.receiver.server import Address, listen, serve

    door = _door(token_file, certificate, key)
    wanted = Address.parse(address)
    limits = Limits(body=max_body * 1024 * 1024, requests=max_requests)
    with AuditProvider(archive=chosen_archive(archive), host=host) as provider:
        listening = listen(wanted, door, provider.config)
        at = Address(wanted.host, listening.getsockname()[1])
        scheme = "http" if door.certificate is None else "https"

        def ready() -> None:
            sys.stdout.write(f"listening on {scheme}://{at}, recording to {provider.config.archive}\n")
            sys.stdout.flush()

        serve(provider, listening, door, limits, ready)


def _door(token_file: Path | None, certificate: Path | None, key: Path | None) -> Door:
    from otel_audit.receiver.server import Door, check_token, read_token

    token = None
    if token_file is not None:
        token = read_token(token_file)
    elif given := os.environ.get("OTEL_AUDIT_TOKEN"):
        token = check_token(given, "OTEL_AUDIT_TOKEN")
    return Door(token, certificate, key)
