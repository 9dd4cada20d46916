"""The records of a fleet: the questions of an archive, put to a log table of a ClickHouse."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, Self

from otel_audit import attributes as keys
from otel_audit.archive.filters import Filter, nanoseconds
from otel_audit.archive.query import Row
from otel_audit.archive.stats import ALL, Counts, Field, field_of, ranked
from otel_audit.errors import ConfigError
from otel_audit.fleet.conditions import FIELDS, Conditions, attribute
from otel_audit.fleet.connection import Connection
from otel_audit.fleet.layout import find_table
from otel_audit.fleet.location import Location, parse_location
from otel_audit.fleet.rows import COLUMNS, Found, read_found
from otel_audit.fleet.windows import Windows
from otel_audit.logfields import record_of
from otel_audit.record import AuditRecord

__all__ = ["Fleet", "open_fleet"]

_STREAMED: Final = 262_144
"""Most rows that the server sorts at once."""
_COUNTED: Final = 1_048_576
"""Most rows whose ids the server holds at once, to count each record once."""
_FIRST: Final = 4_096
"""Rows of the first window where only some records are wanted."""
_END: Final = 2**63 - 1
_ID: Final = attribute(keys.RECORD_ID)
_ONCE: Final = f"uniqExact(Timestamp, {_ID})"
"""A record that came twice counts once; its copies have one time."""
_PLACE: Final = f"{attribute(keys.SEQUENCE_STREAM_ID)}, toUInt64OrZero({attribute(keys.SEQUENCE_NUMBER)}), {_ID}"


def open_fleet(location: str | Location, password: str | None = None) -> Fleet:
    """Open a log table to read.

    Args:
        location: ``clickhouse://user:password@host:port/database``, see `parse_location`.
        password: The password, where the location holds none.

    Returns:
        The fleet, a context manager.

    Raises:
        ArchiveError: The server cannot be reached or refuses, or there is no such table.
        ConfigError: The location cannot be understood, or the package is not installed.
    """
    return Fleet(parse_location(location, password) if isinstance(location, str) else location)


class Fleet:
    """The records of a log table, opened to read. Create it with `open_fleet`.

    Args:
        location: Where the table is.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self.connection = Connection(location)
        self._headers: dict[tuple[bytes, bytes], int] = {}
        self._of_number: list[tuple[bytes, bytes]] = []
        try:
            self.table = find_table(self.connection)
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> Self:
        """Return the fleet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self.connection.close()

    def query(
        self, filter: Filter | None = None, *, limit: int | None = None, oldest_first: bool = False, **criteria: Any
    ) -> Iterator[AuditRecord]:
        """Iterate over the records that match, newest first, each once.

        "Newest" is by the time of the event: sequences are those of each archive.

        Args:
            filter: What to ask for; or give the fields of `Filter` as keywords.
            limit: Most records to return, counted after filtering; None: all.
            oldest_first: Oldest first instead.
            **criteria: Fields of `Filter`, e.g. ``host=``, ``user=``, ``since=``.

        Raises:
            ArchiveError: The server does not answer.
            ConfigError: A criterion cannot be understood.
            TypeError: A keyword is no field of `Filter`.
        """
        chosen = filter if filter is not None else Filter(**criteria)
        for found in self._first(chosen, limit, oldest_first=oldest_first):
            yield record_of(found.log, found.record_id, sequence=found.sequence, stream_id=found.stream_id)

    def rows(self, filter: Filter, *, limit: int | None = None, oldest_first: bool = False) -> Iterator[Row]:
        """Iterate over the records that match as rows of an archive, encoded anew; see `query`."""
        for found in self._first(filter, limit, oldest_first=oldest_first):
            yield Row(found.sequence, found.record_id, b"", found.otlp, self._number(found.header), found.stream_id)

    def header(self, resource: int) -> tuple[bytes, bytes]:
        """Return the OTLP bytes of ``Resource`` and ``InstrumentationScope`` that a row came under."""
        return self._of_number[resource]

    def counts(self, field: Field, filter: Filter = ALL, *, limit: int = 10) -> Counts:
        """Return the most frequent values of a field among the records that match, with their counts.

        Memory is used for each value.

        Args:
            field: The field to count by.
            filter: Which records to count.
            limit: Most values to return.
        """
        tally: Counter[str | None] = Counter()
        if filter.needs_content:
            tally.update(field_of(record, field) for record in self.query(filter))
        else:
            for value, number in self._counted(filter, f"{FIELDS[field]}, {_ONCE}", "GROUP BY 1"):
                tally[value] += int(number)
        return ranked(tally, limit)

    def histogram(self, edges: Sequence[int], filter: Filter = ALL) -> list[int]:
        """Return how many records fall between each edge and the next, by the time of the event.

        Args:
            edges: Nanoseconds since the epoch, ascending; at least two.
            filter: Further criteria; its `since` and `until` are not used, the edges are the range.

        Returns:
            One count fewer than there are edges.
        """
        counted = [0] * (len(edges) - 1)
        if filter.needs_content:
            for found in self._found(filter, _STREAMED, oldest_first=True, between=(edges[0], edges[-1])):
                counted[bisect_right(edges, found.log.time) - 1] += 1
            return counted
        borders = ",".join(f"toInt64({edge})" for edge in edges)
        bucket = f"arrayCount(edge -> edge <= toUnixTimestamp64Nano(Timestamp), [{borders}])"
        for number, records in self._counted(filter, f"{bucket}, {_ONCE}", "GROUP BY 1", between=(edges[0], edges[-1])):
            counted[int(number) - 1] += int(records)
        return counted

    def extent(self, filter: Filter = ALL) -> tuple[int, int] | None:
        """Return the earliest and the latest time of the records that match; None where there is none.

        Args:
            filter: Which records.
        """
        if filter.needs_content:
            times = [found.log.time for found in self._found(filter, _STREAMED, oldest_first=True)]
            return (min(times), max(times)) if times else None
        conditions = Conditions(filter)
        found = [
            (int(first), int(last))
            for start, end in self.table.parts(*_range(filter))
            for count, first, last in self.connection.rows(
                "SELECT count(), toUnixTimestamp64Nano(min(Timestamp)), toUnixTimestamp64Nano(max(Timestamp)) FROM"
                f" {self.table.name} PREWHERE {self.table.between(start, end)} WHERE {conditions.sql}",
                conditions.values,
            )
            if count
        ]
        return (found[0][0], found[-1][1]) if found else None

    def _first(self, filter: Filter, limit: int | None, *, oldest_first: bool) -> Iterator[Found]:
        if limit is not None and limit < 0:
            raise ConfigError(f"limit={limit} is negative", "give None for all records")
        rows = _STREAMED if limit is None else _FIRST
        return islice(self._found(filter, rows, oldest_first=oldest_first), limit)

    def _found(
        self, filter: Filter, rows: int, *, oldest_first: bool, between: tuple[int, int] | None = None
    ) -> Iterator[Found]:
        """Iterate over the records that match, each once, by the time of the event."""
        conditions = Conditions(filter)
        direction = "ASC" if oldest_first else "DESC"
        order = ", ".join(f"{term} {direction}" for term in ("Timestamp", *_PLACE.split(", ")))
        start, end = between or _range(filter)
        for low, high in self._windows(start, end, rows=rows, most=_STREAMED, oldest_first=oldest_first):
            last: tuple[int, str] | None = None
            for row in self.connection.stream(
                f"SELECT {COLUMNS} FROM {self.table.name} PREWHERE {self.table.between(low, high)}"
                f" WHERE {conditions.sql} ORDER BY {order}",
                conditions.values,
            ):
                found = read_found(row)
                # Copies of a record have its time, so they come together.
                if last == (found.log.time, found.record_id):
                    continue
                last = found.log.time, found.record_id
                if not filter.needs_content or filter.matches(found.log, found.record_id):
                    yield found

    def _counted(
        self, filter: Filter, columns: str, tail: str, between: tuple[int, int] | None = None
    ) -> Iterator[Sequence[Any]]:
        """Iterate over what a question that counts gives, window by window."""
        conditions = Conditions(filter)
        start, end = between or _range(filter)
        for low, high in self._windows(start, end, rows=_COUNTED, most=_COUNTED):
            yield from self.connection.rows(
                f"SELECT {columns} FROM {self.table.name} PREWHERE {self.table.between(low, high)}"
                f" WHERE {conditions.sql} {tail}",
                conditions.values,
            )

    def _windows(
        self, start: int, end: int, *, rows: int, most: int, oldest_first: bool = True
    ) -> Iterator[tuple[int, int]]:
        parts = self.table.parts(max(start, 0), end)
        for part in parts if oldest_first else reversed(parts):
            yield from Windows(self._rows_of, rows=rows, most=most, oldest_first=oldest_first).over(*part)

    def _rows_of(self, start: int, end: int) -> tuple[int, int, int]:
        """Return how many rows of any kind a range of time has, and where they lie: by the times alone."""
        ((count, first, last),) = self.connection.rows(
            "SELECT count(), toUnixTimestamp64Nano(min(Timestamp)), toUnixTimestamp64Nano(max(Timestamp))"
            f" FROM {self.table.name} WHERE {self.table.between(start, end)}"
        )
        return int(count), int(first), int(last)

    def _number(self, header: tuple[bytes, bytes]) -> int:
        """Return the number that a header has here."""
        number = self._headers.setdefault(header, len(self._of_number))
        if number == len(self._of_number):
            self._of_number.append(header)
        return number


def _range(filter: Filter) -> tuple[int, int]:
    # No record is of before 1970.
    start = 0 if filter.since is None else max(nanoseconds(filter.since), 0)
    end = _END if filter.until is None else nanoseconds(filter.until)
    return start, end
