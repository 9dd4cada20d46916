"""Shippers for what a configuration names; and shipping as a process of its own, for what a dead application left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from otel_audit.config import Config
from otel_audit.delivery.factory import make_sender
from otel_audit.delivery.sender import Sender
from otel_audit.delivery.shipper import Shipper
from otel_audit.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter

__all__ = ["Shipped", "make_shippers", "ship_forever", "ship_once"]


def make_shippers(config: Config) -> list[Shipper]:
    """Return a shipper for each destination of a configuration; none of them runs yet.

    Args:
        config: The configuration.
    """
    makers: dict[str, Callable[[], Sender]] = {}
    if config.otlp is not None:
        makers["otlp"] = partial(make_sender, config.otlp)
    for name, exporter in config.exporters.items():
        makers[name] = partial(_sdk_sender, exporter, name)
    timeout = config.otlp.timeout if config.otlp is not None else 10.0
    return [Shipper(config.archive, name, maker, timeout=timeout) for name, maker in makers.items()]


def _sdk_sender(exporter: LogRecordExporter, name: str) -> Sender:
    from otel_audit.delivery.sdk import SdkExporterSender

    return SdkExporterSender(exporter, name)


@dataclass(frozen=True, slots=True)
class Shipped:
    """What became of the records that an archive held, summed over its destinations.

    Args:
        total: How many waited at the beginning.
        delivered: How many of them were accepted.
        set_aside: How many of them became dead letters.
        dead_letters: How many dead letters there are in all, older ones included.
        waiting: How many still wait.
    """

    total: int
    delivered: int
    set_aside: int
    dead_letters: int
    waiting: int

    @property
    def complete(self) -> bool:
        """Whether every destination accepted every record."""
        return not self.waiting and not self.dead_letters


def ship_once(
    config: Config, progress: Callable[[Shipped], None] = lambda _shipped: None, timeout: float | None = None
) -> Shipped:
    """Ship what the archive holds at the beginning, and return what became of it.

    Records that another process ships, which holds the lease, count as well: their delivery is waited for.

    Args:
        config: Names archive and destinations.
        progress: Called several times a second.
        timeout: Seconds after which to give up; None: when the destinations stop taking records, after 10 s without any
            progress.

    Raises:
        ConfigError: There is no destination.
        ArchiveError: The archive cannot be used.
    """
    shippers = _shippers(config)
    try:
        heads = [shipper.outbox.progress()[1] for shipper in shippers]
        before = [shipper.outbox.left(head) for shipper, head in zip(shippers, heads, strict=True)]
        total, dead = sum(waiting for waiting, _ in before), sum(dead for _, dead in before)
        for shipper in shippers:
            shipper.start()
        give_up, least = time.monotonic() + (timeout or 10.0), total
        while True:
            left = [shipper.outbox.left(head) for shipper, head in zip(shippers, heads, strict=True)]
            waiting, dead_now = sum(waiting for waiting, _ in left), sum(dead for _, dead in left)
            shipped = Shipped(total, total - waiting - (dead_now - dead), dead_now - dead, dead_now, waiting)
            progress(shipped)
            if waiting < least and timeout is None:
                least, give_up = waiting, time.monotonic() + 10.0
            if waiting == 0 or time.monotonic() > give_up:
                return shipped
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
    shippers = _shippers(config)
    for shipper in shippers:
        shipper.start()
    stop.wait()
    for shipper in shippers:
        shipper.stop(5.0)


def _shippers(config: Config) -> list[Shipper]:
    if not config.sending:
        raise ConfigError("sending is switched off by OTEL_SDK_DISABLED", "unset it to ship")
    shippers = make_shippers(config)
    if not shippers:
        raise ConfigError(
            "there is no destination to ship to",
            "give --endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_LOGS_EXPORTER=otlp",
        )
    return shippers
