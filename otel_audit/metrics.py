"""What the library tells about itself through OpenTelemetry's metrics API; without an SDK all of it does nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from otel_audit._version import __version__

__all__ = ["Metrics"]

Waiting = Callable[[], Iterable[tuple[str, int, int | None, int]]]
Disk = Callable[[], tuple[int, int, int] | None]


class Metrics:
    """The instruments of one provider.

    Args:
        waiting: Returns for each destination its name, how many records wait for it, when the oldest of them was
            recorded (nanoseconds since the epoch, None without any), and how many are dead letters.
        disk: Returns the bytes that are free on the archive's disk, those of the reserve, and the level, from 0 to 3;
            None where nobody knows.
    """

    def __init__(self, waiting: Waiting, disk: Disk = lambda: None) -> None:
        meter = get_meter("otel_audit", __version__)
        self._waiting = waiting
        self._disk = disk
        self._emitted = meter.create_counter("audit.records.emitted", "{record}", "Records committed to the archive.")
        self._exported = meter.create_counter(
            "audit.records.exported", "{record}", "Records accepted by a destination."
        )
        self._dropped = meter.create_counter(
            "audit.records.dropped", "{record}", "Records that could not be recorded; above 0 is critical."
        )
        self._duration = meter.create_histogram("audit.export.duration", "s", "Duration of accepted requests.")
        meter.create_observable_gauge(
            "audit.queue.depth", [self._depth], "{record}", "Records that a destination has still to accept."
        )
        meter.create_observable_gauge(
            "audit.queue.oldest.age",
            [self._age],
            "s",
            "Age of the oldest record that a destination has still to accept.",
        )
        meter.create_observable_gauge(
            "audit.dead_letters", [self._dead], "{record}", "Records that a destination refused for good."
        )
        for place, (name, unit, description) in enumerate(
            (
                ("audit.disk.free", "By", "Free space on the archive's disk."),
                ("audit.disk.reserve", "By", "Space that is kept for the last records."),
                ("audit.disk.level", "1", "0 enough space, 1 warning, 2 critical, 3 full: the reserve is being spent."),
            )
        ):
            meter.create_observable_gauge(name, [partial(self._space, place)], unit, description)

    def emitted(self, records: int) -> None:
        """Count committed records."""
        self._emitted.add(records)

    def exported(self, destination: str, records: int, seconds: float) -> None:
        """Count an accepted request."""
        attributes = {"destination": destination}
        self._exported.add(records, attributes)
        self._duration.record(seconds, attributes)

    def dropped(self, records: int = 1) -> None:
        """Count records that could not be recorded."""
        self._dropped.add(records)

    def _space(self, place: int, _options: CallbackOptions) -> Iterable[Observation]:
        disk = self._disk()
        return [] if disk is None else [Observation(disk[place])]

    def _depth(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, {"destination": name}) for name, count, *_ in self._waiting()]

    def _age(self, _options: CallbackOptions) -> Iterable[Observation]:
        now = time.time_ns()
        return [
            Observation(0.0 if oldest is None else max(0, now - oldest) / 1e9, {"destination": name})
            for name, _, oldest, _ in self._waiting()
        ]

    def _dead(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(dead, {"destination": name}) for name, *_, dead in self._waiting()]
