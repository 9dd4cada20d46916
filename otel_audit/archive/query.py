"""Reads the archive: records by any criterion, state of delivery. Touches neither writer nor shipper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.filters import Filter, nanoseconds, one_of
from otel_audit.archive.index import RUN, ZONE, folded_to
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.otlp import LogFields, decode, read_log
from otel_audit.record import AuditRecord

if TYPE_CHECKING:
    from otel_audit.archive.status import Status

__all__ = ["Archive", "Row", "open_archive", "read_row", "source_table"]

_CHUNK: Final = 256
_CONTENT: Final = "sequence, record_id, leaf, otlp, resource"


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Open an archive to read, whether its application runs or not.

    Args:
        path: The archive's file.

    Returns:
        The archive, a context manager.

    Raises:
        ArchiveError: There is no archive there, or it cannot be read.
    """
    archive = Archive(path)
    try:
        with archive.database:
            pass
    except BaseException:
        archive.close()
        raise
    return archive


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it is stored.

    Args:
        sequence: Position in the archive.
        record_id: UUID text.
        leaf: Leaf hash, 32 bytes.
        otlp: The bytes of the ``LogRecord``.
        resource: Id of what it is shipped under, see `Archive.header`.
        stream_id: Id of the archive that it is from; None: of the one that is read.
    """

    sequence: int
    record_id: str
    leaf: bytes
    otlp: bytes
    resource: int
    stream_id: str | None = None


def read_row(row: Row) -> LogFields:
    """Return what a row's bytes hold.

    Raises:
        ArchiveError: They are damaged.
    """
    try:
        return read_log(row.otlp)
    except (ValueError, TypeError) as error:
        # A row that has a source, and no bytes, gives the latter.
        raise _damaged(row, error) from error


def _damaged(row: Row, error: Exception) -> ArchiveError:
    return ArchiveError(f"record {row.sequence} cannot be decoded: {error}", "the archive is damaged")


class Archive:
    """An archive opened to read. Create it with `open_archive`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.database = Database(path, "read", cache_kib=65_536)
        self._id = ""

    def __enter__(self) -> Self:
        """Return the archive."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def path(self) -> Path:
        """The archive's file."""
        return self.database.path

    @property
    def id(self) -> str:
        """The archive's id."""
        if not self._id:
            self._id = str(self._get("SELECT value FROM meta WHERE key = 'archive_id'"))
        return self._id

    def close(self) -> None:
        """Close the archive; safe to call twice."""
        self.database.close()

    def query(
        self, filter: Filter | None = None, *, limit: int | None = None, oldest_first: bool = False, **criteria: Any
    ) -> Iterator[AuditRecord]:
        """Iterate over the records that match, newest first.

        "Newest" is by sequence, the order of recording. Records that are committed meanwhile are not included.

        Args:
            filter: What to ask for; or give the fields of `Filter` as keywords.
            limit: Most records to return, counted after filtering; None: all.
            oldest_first: Oldest first instead.
            **criteria: Fields of `Filter`, e.g. ``host=``, ``user=``, ``since=``.

        Raises:
            ArchiveError: The archive cannot be read.
            ConfigError: A criterion cannot be understood.
            TypeError: A keyword is no field of `Filter`.
        """
        chosen = filter if filter is not None else Filter(**criteria)
        return self._decoded(self.rows(chosen, limit=limit, oldest_first=oldest_first))

    def _decoded(self, rows: Iterator[Row]) -> Iterator[AuditRecord]:
        for row in rows:
            try:
                yield decode(row.otlp, row.record_id, sequence=row.sequence, leaf=row.leaf, stream_id=self.id)
            except (ValueError, TypeError) as error:
                raise _damaged(row, error) from error

    def rows(self, filter: Filter, *, limit: int | None = None, oldest_first: bool = False) -> Iterator[Row]:
        """Iterate over the records that match, as they are stored; see `query`."""
        found = 0
        if limit is not None and limit < 0:
            raise ConfigError(f"limit={limit} is negative", "give None for all records")
        if limit == 0:
            return
        for row in self._candidates(filter, limit, oldest_first=oldest_first):
            if filter.needs_content and not filter.matches(read_row(row), row.record_id):
                continue
            found += 1
            yield row
            if found == limit:
                return  # at once: finding out that there is one more can take a scan of the archive

    def header(self, resource: int) -> tuple[bytes, bytes]:
        """Return the OTLP bytes of ``Resource`` and ``InstrumentationScope`` that a row is shipped under."""
        rows = self._all("SELECT resource, scope FROM resource WHERE id = ?", (resource,))
        if not rows:
            raise ArchiveError(f"resource {resource} is missing", "the archive was damaged")
        resource_bytes, scope = rows[0]
        return resource_bytes, scope

    def status(self) -> Status:
        """Return the state of the archive and of its delivery."""
        from otel_audit.archive.status import read_status  # start-up time: most readers do not ask

        with self.database as connection, archive_errors(self.path):
            connection.execute("BEGIN")
            try:
                return read_status(connection, self.path)
            finally:
                connection.execute("ROLLBACK")

    # -- finding --

    def _candidates(self, filter: Filter, limit: int | None, *, oldest_first: bool) -> Iterator[Row]:
        """Iterate over the records that match by their columns."""
        low, high, folded = self.bounds(filter)
        condition, values = filter.sql
        chunk = min(_CHUNK, limit) if limit and not filter.needs_content else _CHUNK
        direction = "ASC" if oldest_first else "DESC"
        for start, end in _windows(low, high, folded, oldest_first=oldest_first, indexed=bool(filter.indexed)):
            source, source_values = _source(filter, start, end, folded)
            statement = (
                f"SELECT {_CONTENT} FROM {source} WHERE sequence BETWEEN ? AND ? AND {condition}"
                f" ORDER BY sequence {direction} LIMIT {max(chunk, 1)}"
            )
            first, last = start, end
            while first <= last:
                rows = self._all(statement, (*source_values, first, last, *values))
                for sequence, record_id, leaf, otlp, resource in rows:
                    yield Row(sequence, _uuid(record_id), leaf, otlp, resource)
                if len(rows) < chunk:
                    break
                if oldest_first:
                    first = rows[-1][0] + 1
                else:
                    last = rows[-1][0] - 1

    def bounds(self, filter: Filter) -> tuple[int, int, int]:
        """Return the first and the last sequence that can match, and how far the archive is folded."""
        low = (filter.after or 0) + 1
        with self.database as connection, archive_errors(self.path):
            head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
            folded = folded_to(connection)
            # Within what a column can hold, whatever was asked for.
            low = max(1, min(low, head + 1))
            high = head if filter.before is None else max(0, min(head, filter.before - 1))
            conditions, values = _zone_conditions(filter)
            if not conditions:
                return low, high, folded
            first, last = connection.execute(
                f"SELECT min(zone), max(zone) FROM zone WHERE {' AND '.join(conditions)}", values
            ).fetchone() or (None, None)
        # What is not folded has no zone yet, or one that is not complete.
        tail = folded < head
        low = max(low, folded + 1 if first is None else first * ZONE + 1)
        return low, high if tail or last is None else min(high, (last + 1) * ZONE), folded

    def _all(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self.database as connection, archive_errors(self.path):
            return connection.execute(statement, values).fetchall()

    def _get(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        with self.database as connection, archive_errors(self.path):
            return connection.execute(statement, values).get


def _zone_conditions(filter: Filter) -> tuple[list[str], list[int]]:
    """Return what a zone must fulfil to hold a record that the filter can match."""
    terms: list[tuple[str, int]] = []
    if filter.since is not None:
        terms.append(("last_time >= ?", nanoseconds(filter.since)))
    if filter.until is not None:
        terms.append(("first_time < ?", nanoseconds(filter.until)))
    digits = "" if filter.record_id is None else filter.record_id.replace("-", "")
    if digits[12:13] == "7" and digits[16] in "89abAB":
        # A UUIDv7 begins with the milliseconds of its making, which is the time of the call.
        milliseconds = int(digits[:12], 16)
        terms += [
            ("last_observed >= ?", nanoseconds(milliseconds * 1_000_000)),
            ("first_observed < ?", nanoseconds((milliseconds + 1) * 1_000_000)),
        ]
    return [term for term, _ in terms], [value for _, value in terms]


def _windows(low: int, high: int, folded: int, *, oldest_first: bool, indexed: bool) -> Iterator[tuple[int, int]]:
    """Split a range of sequences, so that a look-up in postings ends early where matches are many.

    Each window is twice as large as the one before. Without a look-up there is one window: a scan ends by itself.
    """
    if not indexed:
        yield low, high
        return
    if not oldest_first and high > folded:
        yield max(low, folded + 1), high
    start, end, runs = low, min(high, folded), 1
    while start <= end:
        if oldest_first:
            edge = ((start - 1) // RUN + runs) * RUN
            yield start, min(edge, end)
            start = edge + 1
        else:
            edge = max(0, (end - 1) // RUN - runs + 1) * RUN + 1
            yield max(edge, start), end
            end = edge - 1
        runs *= 2
    if oldest_first and high > folded:
        yield max(low, folded + 1), high


def source_table(filter: Filter) -> str:
    """Return the table to select from, without a look-up in postings; the archive's own records have an index."""
    return "record INDEXED BY own" if filter.admin else "record"


def _source(filter: Filter, start: int, end: int, folded: int) -> tuple[str, tuple[Any, ...]]:
    """Return what to select from: the table, or the sequences that hold every indexed value, joined with it."""
    indexed = filter.indexed
    if not indexed or end > folded:
        return source_table(filter), ()
    (first_field, first_values), *others = indexed.items()
    conditions = [one_of("q.value", found) for _, found in others]
    terms = "".join(
        " AND EXISTS (SELECT 1 FROM posting q"
        f" WHERE q.run = p.run AND q.field = ? AND {term} AND q.sequence = p.sequence)"
        for term, *_ in conditions
    )
    first_term, *first = one_of("p.value", first_values)
    source = (
        "(WITH RECURSIVE runs(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM runs WHERE n < ?)"
        " SELECT p.sequence AS found FROM runs"
        f" CROSS JOIN posting p ON p.run = n AND p.field = ? AND {first_term}{terms})"
        " CROSS JOIN record ON sequence = found"
    )
    values: list[Any] = [(start - 1) // RUN, (end - 1) // RUN, first_field, *first]
    for (number, _), (_, *found) in zip(others, conditions, strict=True):
        values += (number, *found)
    return source, tuple(values)


def _uuid(identity: bytes) -> str:
    text = identity.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
