"""``otel-audit ship``: the shipper as a process of its own."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from otel_audit.archive.query import open_archive
from otel_audit.cli.complaints import log_to_stderr
from otel_audit.cli.options import archive_option, chosen_archive

if TYPE_CHECKING:
    from otel_audit.config import Config

__all__ = ["command"]


@click.command(short_help="Send what the archive holds.")
@click.option("--once", is_flag=True, help="Stop when all is delivered; exit with 1 where that was not possible.")
@click.option("--endpoint", metavar="URL", help="Base URL of the collector.  [default: $OTEL_EXPORTER_OTLP_ENDPOINT]")
@click.option(
    "--protocol", type=click.Choice(("http/protobuf", "grpc")), help="OTLP protocol.  [default: http/protobuf]"
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --once: give up after this time.",
)
@archive_option
def command(*, archive: str | None, once: bool, endpoint: str | None, protocol: Any, timeout: float | None) -> int:
    """Send to the collector what an application left behind, or what otel-audit record has recorded.

    Works beside running applications: one process at a time ships. Without --once it goes on until SIGTERM or SIGINT.
    All OTEL_EXPORTER_OTLP_* and OTEL_EXPORTER_OTLP_LOGS_* variables apply.
    """
    log_to_stderr()
    path = chosen_archive(archive)
    # Where there is no archive, none is made.
    open_archive(path).close()
    from otel_audit.config import Config  # start-up time

    config = Config.load(archive=path, endpoint=endpoint, protocol=protocol)
    if once:
        return _once(config, timeout)
    if timeout is not None:
        raise click.UsageError("--timeout is for --once")
    from otel_audit.delivery.service import ship_forever  # the senders are slow to import

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ship_forever(config, stop)
    return 0


def _once(config: Config, timeout: float | None) -> int:
    from otel_audit.delivery.service import ship_once  # the senders are slow to import

    last = (0, 0)

    def note(delivered: int, total: int) -> None:
        nonlocal last
        last = (delivered, total)

    if sys.stderr.isatty():
        from rich.console import Console  # for terminals only
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("shipping"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("shipping", total=None)

            def show(delivered: int, total: int) -> None:
                note(delivered, total)
                progress.update(task, completed=delivered, total=total)

            complete = ship_once(config, show, timeout)
    else:
        complete = ship_once(config, note, timeout)
    delivered, total = last
    sys.stdout.write(f"delivered {delivered} of {total}\n")
    if not complete:
        sys.stderr.write("otel-audit: not all was delivered: see otel-audit status for the reason\n")
    return 0 if complete else 1
