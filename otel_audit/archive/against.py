"""Compares an archive with what a receiver holds of it: each record that is missing, differs or came twice is named."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from otel_audit.archive.database import archive_errors
from otel_audit.archive.faults import Fault, Faults
from otel_audit.archive.held import Held, differences
from otel_audit.archive.otlpfile import read_file
from otel_audit.archive.query import Archive
from otel_audit.archive.ranges import Range, merged, ranges_of
from otel_audit.archive.windows import next_window

__all__ = ["Comparison", "compare", "compare_held"]

_STEP: Final = 4_096
_FULL: Final = b"\xff" * (_STEP // 8)
_RANGES: Final = 1_000
"""Most ranges of missing records that are kept."""
_ALWAYS: Final = (-(2**63), 2**63 - 1)
_COLUMNS: Final = "record_id, otlp, resource.resource, scope"
_DEAD: Final = "SELECT sequence FROM dead_letter WHERE (?1 IS NULL OR destination = ?1) AND sequence BETWEEN ?2 AND ?3"
_PAGE: Final = "SELECT sequence, record_id, otlp IS NULL, time FROM record WHERE sequence BETWEEN ? AND ?"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing an archive with a receiver gave.

    Args:
        matching: Records that the receiver holds as the archive does.
        foreign: Log records there that are not of this archive.
        waiting: Records of the archive that the destination has not accepted yet, or that are dead letters.
        missing: Records that the destination accepted, and the receiver lacks.
        removed: Records there whose content the archive has erased or pruned: only their ids could be compared.
        doubled: Further copies of records; delivery is at least once, so these are no faults.
        gaps: The sequences of what is missing, the first thousand ranges.
        faults: The first faults.
        fault_count: How many there are.
        doubles: The first further copies.
    """

    matching: int
    foreign: int
    waiting: int
    missing: int
    removed: int
    doubled: int
    gaps: tuple[Range, ...]
    faults: tuple[Fault, ...]
    fault_count: int
    doubles: tuple[Fault, ...]


def compare(
    archive: Archive, file: Path, *, keep: int, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Comparison:
    """Compare each log record of a collector's file with the archive, and the archive's records with the file.

    Args:
        archive: The archive.
        file: Lines of OTLP/JSON, or one ``ExportLogsServiceRequest`` in any layout.
        keep: Most faults to keep; all are counted.
        progress: Called with bytes of the file that were read, and its size.

    Raises:
        ArchiveError: The archive cannot be read.
        ConfigError: The file cannot be read, or is no OTLP/JSON.
    """
    return compare_held(archive, lambda: read_file(file, progress), keep=keep)


def compare_held(
    archive: Archive,
    read: Callable[[], Iterable[Held]],
    *,
    keep: int,
    destination: str | None = None,
    between: Range = _ALWAYS,
    missing: Callable[[list[int]], object] = lambda _sequences: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Comparison:
    """Compare what a receiver holds, in any order, with the archive, and the archive's records with that.

    At most one bit of memory is used for each record of the archive; where records come in order, as good as none.

    Args:
        archive: The archive.
        read: Reads what the receiver holds; called after it is known how far archive and delivery came, so that what
            is recorded or delivered meanwhile is no matter.
        keep: Most faults to keep, and most further copies; all are counted.
        destination: The destination that the receiver got its records from; None: whichever is furthest.
        between: The first and the last time of what is compared, nanoseconds since the epoch.
        missing: Called with the sequences of records that are missing, some thousands at a time.
        progress: Called with records of the archive that were looked for, and how many there are.

    Raises:
        ArchiveError: The archive cannot be read.
    """
    with archive.database as connection, archive_errors(archive.path):
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
    comparing = _Comparing(archive, head, keep, between)
    comparing.begin(destination)
    for held in read():
        comparing.held(held)
    comparing.rest(destination, missing, progress)
    return comparing.result()


class _Marks:
    """Marks of sequences, a bit for each.

    In pages: nothing is kept where there are none, however large the sequences are, and one page in common where there
    are all.
    """

    def __init__(self) -> None:
        self._pages: dict[int, bytearray | bytes] = {}

    def add(self, sequence: int) -> bool:
        """Mark a sequence; False where it was marked."""
        page, bit = divmod(sequence, _STEP)
        marks = self._pages.get(page)
        if marks is None:
            marks = self._pages[page] = bytearray(_STEP // 8)
        if marks[bit >> 3] >> (bit & 7) & 1:
            return False
        assert isinstance(marks, bytearray)  # noqa: S101 - of a full page every bit is set
        marks[bit >> 3] |= 1 << (bit & 7)
        if marks[bit >> 3] == 0xFF and marks == _FULL:
            self._pages[page] = _FULL
        return True

    def __contains__(self, sequence: int) -> bool:
        page, bit = divmod(sequence, _STEP)
        marks = self._pages.get(page)
        return marks is not None and bool(marks[bit >> 3] >> (bit & 7) & 1)


class _Comparing:
    def __init__(self, archive: Archive, head: int, keep: int, between: Range) -> None:
        self._archive = archive
        self._head = head
        self._first, self._last = between
        self._seen = _Marks()
        self._dead = _Marks()
        self._cursor = head
        self._faults = Faults(keep)
        self._doubles = Faults(keep)
        self._gaps: list[Range] = []
        self._matching = self._foreign = self._removed = self._waiting = self._missing = 0

    def result(self) -> Comparison:
        """Return what was found."""
        faults, doubles = self._faults, self._doubles
        return Comparison(
            self._matching, self._foreign, self._waiting, self._missing, self._removed, doubles.count,
            tuple(self._gaps), tuple(faults.kept), faults.count, tuple(doubles.kept),
        )  # fmt: skip

    def begin(self, destination: str | None) -> None:
        """Note what waits for its delivery now: what is delivered later may come behind what the receiver tells."""
        with self._archive.database as connection, archive_errors(self._archive.path):
            cursor = connection.execute(
                "SELECT max(cursor) FROM destination WHERE ?1 IS NULL OR name = ?1", (destination,)
            ).get
            self._cursor = self._head if cursor is None else int(cursor)
            for (number,) in connection.execute(_DEAD, (destination, 0, self._head)):
                self._dead.add(number)

    def held(self, held: Held) -> None:
        """Compare a record that the receiver holds."""
        if not self._first <= held.time <= self._last:
            return
        if held.stream_id != self._archive.id:
            self._foreign += 1
            return
        sequence = held.sequence
        place = f"record {ascii(held.record_id)[:60]}"
        if type(sequence) is not int or not 1 <= sequence <= self._head:
            # What was recorded and sent since the comparison began is not known to be wrong.
            if type(sequence) is not int or sequence < 1 or not self._recorded_since(sequence, held.record_id):
                self._faults.add("export-unknown", place, f"sequence {ascii(sequence)[:30]}")
            return
        row = self._row(sequence)
        if row is None or len(row[0]) != 16 or str(uuid.UUID(bytes=row[0])) != held.record_id:
            self._faults.add("export-unknown", place, f"the archive has another record, or none, as {sequence}")
            return
        again = not self._seen.add(sequence)
        if again:
            self._doubles.add("export-doubled", place, f"record {sequence} of the archive")
        if row[1] is None:
            self._removed += not again
            return
        differing = differences(held, *row[1:])
        if differing:
            self._faults.add("export-differs", place, f"record {sequence} of the archive: {', '.join(differing)}")
        else:
            self._matching += not again

    def _row(self, sequence: int) -> Any:
        with self._archive.database as connection, archive_errors(self._archive.path):
            return connection.execute(
                f"SELECT {_COLUMNS} FROM record LEFT JOIN resource ON id = record.resource WHERE sequence = ?",
                (sequence,),
            ).fetchone()

    def _recorded_since(self, sequence: int, record_id: object) -> bool:
        row = self._row(sequence) if sequence < 2**63 else None
        return row is not None and len(row[0]) == 16 and str(uuid.UUID(bytes=row[0])) == record_id

    def rest(
        self,
        destination: str | None,
        missing: Callable[[list[int]], object],
        progress: Callable[[int, int], None],
    ) -> None:
        """Find the records that the receiver lacks: those that it was sent, and those that still wait."""
        window: Range | None = (0, 0)
        while window is not None:
            with self._archive.database as connection, archive_errors(self._archive.path):
                window = next_window(connection, window[1] + 1, self._head, _STEP)
                rows: Any = [] if window is None else connection.execute(_PAGE, window).fetchall()
                for (number,) in () if window is None else connection.execute(_DEAD, (destination, *window)):
                    self._dead.add(number)
            lacking = []
            for sequence, record_id, removed, time in rows:
                # What was removed may have been so before it was sent.
                if removed or not self._first <= time <= self._last or sequence in self._seen:
                    continue
                if sequence > self._cursor or sequence in self._dead:
                    self._waiting += 1
                    continue
                lacking.append(sequence)
                name = str(uuid.UUID(bytes=record_id)) if len(record_id) == 16 else record_id.hex()[:60]
                self._faults.add("export-missing", f"record '{name}'", f"record {sequence} of the archive")
            if lacking:
                self._missing += len(lacking)
                self._gaps = merged([*self._gaps, *ranges_of(lacking)])[:_RANGES]
                missing(lacking)
            if window is not None:
                progress(window[1], self._head)
