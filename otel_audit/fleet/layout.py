"""The table that the Collector's ClickHouse exporter makes, in both of its layouts.

Source: the exporter's DDL of 0.149 and 0.161. Before 0.151 a table is partitioned and ordered by a column
``TimestampTime`` of whole seconds; since then by the timestamp itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otel_audit.errors import ArchiveError
from otel_audit.fleet.connection import Connection, identifier

__all__ = ["Table", "find_table"]

_COLUMNS: Final = {
    "Timestamp": "DateTime64(9",
    "TraceId": "String",
    "SpanId": "String",
    "TraceFlags": "UInt8",
    "SeverityText": "",
    "SeverityNumber": "",
    "Body": "String",
    "ResourceAttributes": "Map(",
    "ScopeName": "",
    "ScopeVersion": "",
    "LogAttributes": "Map(",
    "EventName": "",
}
"""The columns that are read, and how their types begin."""
_LAST_SECOND: Final = 2**32
"""What a column of whole seconds cannot hold: from here on its values begin anew."""
_LAST_DAY: Final = 2**16 * 86_400_000_000_000
"""Where the dates that tables are partitioned by begin anew: ClickHouse looks for what is later among other days."""


@dataclass(frozen=True)
class Table:
    """A table of logs.

    Args:
        name: Its name, as it stands in statements.
        seconds: Whether it has the layout before 0.151, with a column of whole seconds.
    """

    name: str
    seconds: bool

    def parts(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of a range of time, ascending, that are asked for one at a time."""
        if self.seconds or not start < _LAST_DAY < end:
            return [(start, end)]
        return [(start, _LAST_DAY), (_LAST_DAY, end)]

    def between(self, start: int, end: int) -> str:
        """Return the condition that a record's time is not before `start` and before `end`, for the key to answer.

        Args:
            start: Nanoseconds since the epoch, from one of the `parts`.
            end: Likewise.
        """
        term = (
            f"Timestamp >= fromUnixTimestamp64Nano(toInt64({start})) AND"
            f" Timestamp <= fromUnixTimestamp64Nano(toInt64({end - 1}))"
        )
        last = -(-end // 1_000_000_000)
        if self.seconds and start >= 0 and last < _LAST_SECOND:
            term += (
                f" AND TimestampTime >= toDateTime({start // 1_000_000_000}) AND TimestampTime <= toDateTime({last})"
            )
        return term


def find_table(connection: Connection) -> Table:
    """Return the table of a location, after a look at its columns.

    Raises:
        ArchiveError: There is none, or it is none of the exporter's.
    """
    place = connection.location
    name = f"{identifier(place.database)}.{identifier(place.table)}"
    types = {str(row[0]): str(row[1]) for row in connection.rows(f"DESCRIBE TABLE {name}")}
    for column, beginning in _COLUMNS.items():
        found = types.get(column)
        if found is None:
            raise ArchiveError(
                f"{place}: the table {place.table!r} has no column {column}",
                "add it: ALTER TABLE … ADD COLUMN EventName String"
                if column == "EventName"
                else "name the table that the Collector's exporter made for logs: ?table=otel_logs",
            )
        if not found.startswith(beginning):
            raise ArchiveError(
                f"{place}: the column {column} of {place.table!r} is of type {found[:60]}",
                "the exporter's setting json: true makes such tables, which cannot be read; set json: false"
                if found.startswith(("JSON", "Object"))
                else "name the table that the Collector's exporter made for logs: ?table=otel_logs",
            )
    return Table(name, "TimestampTime" in types)
