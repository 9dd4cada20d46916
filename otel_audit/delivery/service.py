"""Shippers for what a configuration names; and shipping as a process of its own, for what a dead application left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from otel_audit.config import Config
from otel_audit.delivery.factory import make_sender
from otel_audit.delivery.sender import Sender
from otel_audit.delivery.shipper import OnExport, Shipper
from otel_audit.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter

__all__ = ["make_shippers", "ship_forever", "ship_once"]


def _no_export(_records: int, _seconds: float) -> None:
    """Nobody wants to know."""


def make_shippers(config: Config, on_export: OnExport = _no_export) -> list[Shipper]:
    """Return a shipper for each destination of a configuration; none of them runs yet.

    Args:
        config: The configuration.
        on_export: See `Shipper`.
    """
    makers: dict[str, Callable[[], Sender]] = {}
    if config.otlp is not None:
        makers["otlp"] = partial(make_sender, config.otlp)
    for name, exporter in config.exporters.items():
        makers[name] = partial(_sdk_sender, exporter, name)
    timeout = config.otlp.timeout if config.otlp is not None else 10.0
    return [
        Shipper(config.archive, name, maker, timeout=timeout, on_export=on_export) for name, maker in makers.items()
    ]


def _sdk_sender(exporter: LogRecordExporter, name: str) -> Sender:
    from otel_audit.delivery.sdk import SdkExporterSender

    return SdkExporterSender(exporter, name)


def ship_once(
    config: Config, progress: Callable[[int, int], None] = lambda _delivered, _total: None, timeout: float | None = None
) -> bool:
    """Ship what the archive holds now, and return whether every destination accepted all of it.

    Records that wait for another process, which holds the lease, count as well: their delivery is waited for.

    Args:
        config: Names archive and destinations.
        progress: Called several times a second with the numbers of delivered records and of all.
        timeout: Seconds after which to give up; None: when the destinations stop taking records, after 10 s without any
            progress.

    Raises:
        ConfigError: There is no destination.
        ArchiveError: The archive cannot be used.
    """
    shippers = _started(config)
    try:
        totals = [shipper.outbox.waiting()[0] for shipper in shippers]
        total = sum(totals)
        give_up = time.monotonic() + (timeout or 10.0)
        best = total
        while True:
            waiting = sum(shipper.outbox.waiting()[0] for shipper in shippers)
            progress(max(0, total - waiting), total)
            if waiting == 0:
                return not any(_has_dead_letters(shipper) for shipper in shippers)
            if waiting < best and timeout is None:
                best, give_up = waiting, time.monotonic() + 10.0
            if time.monotonic() > give_up:
                return False
            for shipper in shippers:
                shipper.hurry(0.1)
    finally:
        for shipper in shippers:
            shipper.stop(5.0)


def ship_forever(config: Config, stop: threading.Event) -> None:
    """Ship until `stop` is set.

    Raises:
        ConfigError: There is no destination.
        ArchiveError: The archive cannot be used.
    """
    shippers = _started(config)
    stop.wait()
    for shipper in shippers:
        shipper.stop(5.0)


def _started(config: Config) -> list[Shipper]:
    if not config.sending:
        raise ConfigError("sending is switched off by OTEL_SDK_DISABLED", "unset it to ship")
    shippers = make_shippers(config)
    if not shippers:
        raise ConfigError(
            "there is no destination to ship to",
            "give --endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_LOGS_EXPORTER=otlp",
        )
    for shipper in shippers:
        shipper.outbox.progress()
        shipper.start()
    return shippers


def _has_dead_letters(shipper: Shipper) -> bool:
    _, head = shipper.outbox.progress()
    return shipper.outbox.outcome([(1, head)]) is False
