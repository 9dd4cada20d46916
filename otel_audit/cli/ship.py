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
from otel_audit.cli.values import Seconds

if TYPE_CHECKING:
    from otel_audit.config import Config
    from otel_audit.delivery.service import Shipped

__all__ = ["command"]


@click.command(short_help="Send what the archive holds.")
@click.option("--once", is_flag=True, help="Stop when nothing waits any more; exit with 1 unless all was accepted.")
@click.option("--endpoint", metavar="URL", help="Base URL of the collector.  [default: $OTEL_EXPORTER_OTLP_ENDPOINT]")
@click.option(
    "--protocol", type=click.Choice(("http/protobuf", "grpc")), help="OTLP protocol.  [default: http/protobuf]"
)
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="With --once: give up after this time.",
)
@archive_option
def command(*, archive: str | None, once: bool, endpoint: str | None, protocol: Any, timeout: float | None) -> int:
    """Send to the collector what an application left behind, or what otel-audit record has recorded.

    Works beside running applications: one process at a time ships. Without --once it goes on until SIGTERM or SIGINT.
    With --once these end it at once; what no collector has confirmed is sent again by the next run. All
    OTEL_EXPORTER_OTLP_* and OTEL_EXPORTER_OTLP_LOGS_* variables apply.
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

    if sys.stderr.isatty():
        from rich.console import Console  # for terminals only
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("shipping"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("shipping", total=None)

            def show(shipped: Shipped) -> None:
                progress.update(task, completed=shipped.total - shipped.waiting, total=shipped.total)

            shipped = ship_once(config, show, timeout)
    else:
        shipped = ship_once(config, timeout=timeout)
    _report(shipped)
    return 0 if shipped.complete else 1


def _report(shipped: Shipped) -> None:
    """Say what became of the records, and what an operator has to look at."""
    aside = f", {shipped.set_aside} set aside as dead letters: see otel-audit status" if shipped.set_aside else ""
    sys.stdout.write(f"delivered {shipped.delivered} of {shipped.total}{aside}\n")
    sys.stdout.flush()
    older = shipped.dead_letters - shipped.set_aside
    if older:
        sys.stderr.write(f"otel-audit: {older} older dead letters: see otel-audit status\n")
    if shipped.waiting:
        sys.stderr.write("otel-audit: not all was delivered: see otel-audit status for the reason\n")
