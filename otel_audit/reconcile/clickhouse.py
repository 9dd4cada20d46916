"""Reads what a log table of a ClickHouse holds of an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from otel_audit import attributes as keys
from otel_audit.archive.held import Held, same_text
from otel_audit.fleet.conditions import attribute
from otel_audit.fleet.fleet import Fleet, open_fleet
from otel_audit.fleet.rows import COLUMNS
from otel_audit.reconcile.numbers import sequence_of

__all__ = ["read_table"]

_LOOK: Final = 8_192
"""Rows between two reports of progress."""
_END: Final = 2**63


def read_table(
    location: str, password: str | None
) -> Callable[[str, int, int, Callable[[int, int], None]], Iterator[Held]]:
    """Return what reads the rows of a table, a block of them in memory at a time, in no order.

    Args:
        location: ``clickhouse://user:password@host:port/database``.
        password: The password, where the location holds none.

    Raises:
        ArchiveError: The server cannot be reached or refuses, or there is no such table.
        ConfigError: The location cannot be understood, or the package is not installed.
    """
    fleet = open_fleet(location, password)

    def read(stream_id: str, first: int, last: int, progress: Callable[[int, int], None]) -> Iterator[Held]:
        with fleet:
            yield from _rows(fleet, stream_id, first, last, progress)

    return read


def _rows(fleet: Fleet, stream_id: str, first: int, last: int, progress: Callable[[int, int], None]) -> Iterator[Held]:
    table, connection = fleet.table, fleet.connection
    done = total = 0
    values = {"stream": stream_id}
    condition = f"{attribute(keys.SEQUENCE_STREAM_ID)} = {{stream:String}}"
    parts = table.parts(max(first, 0), min(last + 1, _END))
    for part in parts:
        ((count,),) = connection.rows(
            f"SELECT count() FROM {table.name} PREWHERE {table.between(*part)} WHERE {condition}", values
        )
        total += int(count)
    for part in parts:
        for row in connection.stream(
            f"SELECT {COLUMNS} FROM {table.name} PREWHERE {table.between(*part)} WHERE {condition}", values
        ):
            yield _held(row)
            done += 1
            if done % _LOOK == 0:
                progress(done, total)


def _held(row: Sequence[Any]) -> Held:
    time, trace, span, flags, severity_text, severity, body, resource, scope, version, logged, event = row
    log = {
        "timeUnixNano": time, "severityNumber": severity, "severityText": severity_text, "body": body,
        "traceId": trace, "spanId": span, "flags": flags, "eventName": event,
    }  # fmt: skip
    return Held(
        logged.get(keys.SEQUENCE_STREAM_ID),
        sequence_of(logged.get(keys.SEQUENCE_NUMBER)),
        logged.get(keys.RECORD_ID),
        time,
        log,
        logged,
        resource,
        (scope, version),
        same_text,
    )
