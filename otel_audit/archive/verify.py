"""Verifies an archive: every row, the tree above them, and all that is derived from them, in constant memory.

Records are verified in spans, each in a short transaction of its own, so that a long verification does not keep the
write-ahead log of a busy archive from being reused. What was committed after the start is not looked at.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from otel_audit.archive.database import archive_errors, connect_to_read
from otel_audit.archive.faults import UNREADABLE, Fault, Faults, unreadable_is_a_fault
from otel_audit.archive.index import RUN
from otel_audit.archive.lookups import check_outside
from otel_audit.archive.merkle import EMPTY_ROOT, Frontier, peak_ends, root
from otel_audit.archive.ranges import Range
from otel_audit.archive.removal import Removed, check_removed, named_ranges
from otel_audit.archive.spans import LENGTH, Span, SpanResult
from otel_audit.archive.tables import check_structure, check_tables, is_archive
from otel_audit.archive.workers import Work, inline, prepare, shared, snapshot
from otel_audit.errors import ArchiveError

__all__ = ["Report", "Root", "RootCheck", "Since", "verify", "verify_connection"]

KEEP: Final = 100
"""Faults that are kept, where nothing else is asked for; the others are counted."""

Progress = Callable[[int, int], None]
"""Called with the records verified so far, and how many there are."""


class Root(NamedTuple):
    """What the tree was when somebody noted it.

    Args:
        size: How many records it had.
        hash: Its root, 32 bytes.
    """

    size: int
    hash: bytes


class Since(NamedTuple):
    """Where a verification is to begin: at a sequence, or at the first record that was recorded at a time or later.

    Args:
        sequence: The first sequence.
        observed: Nanoseconds since the epoch; takes precedence.
    """

    sequence: int = 1
    observed: int | None = None


@dataclass(frozen=True, slots=True)
class RootCheck:
    """What became of a noted root.

    Args:
        noted: The root as it was noted.
        holds: Whether the archive extends the tree that had it.
    """

    noted: Root
    holds: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a verification.

    Args:
        archive: The file.
        archive_id: The archive's id; empty where it cannot be read.
        asked: Where the verification was to begin.
        first: The first sequence that was verified.
        last: The last one: how many records the archive had at the start.
        valid: Records without a fault, those included whose content was erased or pruned.
        invalid: Records with one.
        missing: Sequences without a record.
        erased: Records whose content was erased.
        pruned: Records whose content was pruned.
        root: Root of the tree over all records, as they are; None where it cannot be made.
        roots: What became of the noted roots.
        faults: The first faults that were found.
        fault_count: How many there are.
    """

    archive: str
    archive_id: str
    asked: Since
    first: int
    last: int
    valid: int
    invalid: int
    missing: int
    erased: int
    pruned: int
    root: bytes | None
    roots: tuple[RootCheck, ...]
    faults: tuple[Fault, ...]
    fault_count: int

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return self.fault_count == 0


def verify(
    path: str | os.PathLike[str],
    *,
    since: Since = Since(),  # noqa: B008 - a named tuple
    roots: Sequence[Root] = (),
    jobs: int = 1,
    progress: Progress = lambda _done, _total: None,
    keep: int = KEEP,
) -> Report:
    """Verify an archive, whether its application runs or not.

    Args:
        path: The file.
        since: Where to begin; the nodes of the tree before it are taken as they are.
        roots: Roots that were noted earlier. Without any, what was cut off the end or written anew cannot be found.
        jobs: Processes that share the work; the result is the same.
        progress: Told how far it came.
        keep: Most faults to keep; all are counted.

    Raises:
        ArchiveError: There is no archive there, or it cannot be opened.
    """
    file = Path(path).absolute()
    if not file.exists():
        raise ArchiveError(f"there is no archive at {file}", "give --archive or set OTEL_AUDIT_ARCHIVE")
    with archive_errors(file), contextlib.closing(connect_to_read(file)[0]) as connection:
        prepare(connection)
        if not is_archive(connection):
            raise ArchiveError(f"{file} is no audit archive", "give the path of an archive made by otel_audit")
        work = inline(connection, keep)
        if jobs > 1:
            work = shared(file, jobs, keep)
        return verify_connection(
            connection, str(file), since=since, roots=roots, work=work, progress=progress, keep=keep
        )


def verify_connection(
    connection: apsw.Connection,
    name: str,
    *,
    since: Since = Since(),  # noqa: B008 - a named tuple
    roots: Sequence[Root] = (),
    work: Work | None = None,
    progress: Progress = lambda _done, _total: None,
    keep: int = KEEP,
    length: int = LENGTH,
) -> Report:
    """Verify the archive that a connection reads; see `verify`.

    Args:
        connection: Reads the archive. Where it is in a transaction, what that sees is verified.
        name: What the report calls the archive.
        since: As in `verify`.
        roots: As in `verify`.
        work: Verifies the spans; None: here, one after the other.
        progress: As in `verify`.
        keep: As in `verify`.
        length: How many records make a span, a power of two that is no greater than a run.
    """
    faults = Faults(keep)
    check_structure(connection, faults)
    archive_id, head, first, resources, named = "", 0, 1, set[int](), Removed([], [])
    with snapshot(connection):
        with unreadable_is_a_fault(faults, "the archive"):
            archive_id = str(connection.execute("SELECT value FROM meta WHERE key = 'archive_id'").get or "")
            head = max(0, int(connection.execute("SELECT max(sequence) FROM record").get or 0))
            first = _first(connection, since, head)
            resources = {number for (number,) in connection.execute("SELECT id FROM resource")}
        with unreadable_is_a_fault(faults, "the archive"):
            check_tables(connection, head, faults)
            named = named_ranges(connection, faults)
            check_outside(connection, head, faults)
    joined = _Joined(connection, first, head, length, faults)
    sizes, gaps = [noted.size for noted in roots], dict[int, int]()
    progress(0, head - first + 1)
    for result in (work or inline(connection, keep))(_spans(connection, (first, head), length, sizes, gaps)):
        if result.span.start in gaps:
            joined.skip(gaps[result.span.start], result.span.start)
        joined.add(result)
        progress(max(0, min(head, result.span.last) - first + 1), head - first + 1)
    if first == 1 and not joined.broken and not joined.tombstones:
        for number in sorted(resources - joined.resources):
            faults.add("resource", f"resource {number}", "no record refers to it")
    with snapshot(connection):
        # Faults of these records were found at the start. What was erased since then may be gone.
        since_then = named_ranges(connection, Faults(0)) if joined.tombstones else named
    erased, pruned = check_removed(joined.tombstones, named, since_then, joined.seen, faults)
    checks = tuple(RootCheck(noted, joined.check(noted, head, faults)) for noted in roots)
    return Report(
        name, archive_id, since, first, head, joined.valid, joined.invalid, joined.missing, erased, pruned,
        joined.root(), checks,
        tuple(faults.kept), faults.count,
    )  # fmt: skip


def _first(connection: apsw.Connection, since: Since, head: int) -> int:
    """Return the first sequence to verify."""
    if since.observed is None:
        return max(1, min(since.sequence, head + 1))
    found = connection.execute(
        "SELECT sequence FROM record WHERE sequence > 0 AND observed >= ? ORDER BY sequence LIMIT 1",
        (since.observed,),
    ).get
    return head + 1 if found is None else int(found)


def _spans(
    connection: apsw.Connection, asked: tuple[int, int], length: int, sizes: Sequence[int], gaps: dict[int, int]
) -> Iterator[Span]:
    """Iterate over the spans that hold records, and note before which of them others are missing, and since where."""
    position, head = asked
    while position <= head:
        start = (position - 1) // length * length
        last = min(start + length, head)
        run = max(asked[0], (last - 1) // RUN * RUN + 1) if last % RUN == 0 or last == head else 0
        yield Span(start, position, last, length, run, tuple(size for size in sizes if position <= size <= last))
        position = last + 1
        if position <= head:
            try:
                found: Any = connection.execute(
                    "SELECT sequence FROM record WHERE sequence >= ? ORDER BY sequence LIMIT 1", (position,)
                ).get
            except UNREADABLE:
                continue
            # A sequence that somebody invented can be 2^63: spans without a record are not gone through.
            if found is not None and found - position >= length:
                start = (found - 1) // length * length
                gaps[start] = position
                position = start + 1


class _Joined:
    """The spans' results, joined to those of the archive, and the tree of all spans."""

    def __init__(self, connection: apsw.Connection, first: int, head: int, length: int, faults: Faults) -> None:
        self._connection = connection
        self._length = length
        self._faults = faults
        self._head = head
        self._first = first
        self._peaks_at: dict[int, list[bytes]] = {}
        self._bad = 0
        self._tail: list[bytes] = []
        self.valid = self.invalid = self.missing = 0
        self.resources: set[int] = set()
        self.tombstones: list[Range] = []
        self.seen: list[Range] = []
        self.broken = False
        # Before `first` the nodes are taken as they are: the tree of whole spans.
        before = (first - 1) // length
        self._tree = Frontier(before, [])
        with self._unless_broken():
            self._tree.peaks = [self._node(end * length) for end in peak_ends(before)]
            if first > head and head:
                self._tail = [self._node(end) for end in peak_ends(head)][len(self._tree.peaks) :]

    @contextlib.contextmanager
    def _unless_broken(self) -> Iterator[None]:
        try:
            yield
        except (LookupError, *UNREADABLE):
            self.broken = True

    def _node(self, sequence: int) -> bytes:
        node = self._connection.execute("SELECT coalesce(node, leaf) FROM record WHERE sequence = ?", (sequence,)).get
        if isinstance(node, bytes):
            return node
        raise LookupError(sequence)

    def skip(self, first: int, last: int) -> None:
        """Note that there are no such records, nor any tree over what follows."""
        self._faults.add("missing", f"records {first} to {last}", "not there")
        self.missing += last - first + 1
        self.broken = True

    def add(self, result: SpanResult) -> None:
        """Join the result of the next span."""
        self._faults.extend(result.faults, result.fault_count)
        self.valid += result.valid
        self.invalid += result.invalid
        self.missing += result.missing
        self.resources |= result.resources
        self.tombstones += result.tombstones
        self.seen.append((result.span.first, result.span.last))
        self._bad = result.bad or self._bad
        if result.peaks is None:
            self.broken = True
        if self.broken or result.peaks is None:
            return
        for size, peaks in result.peaks_at.items():
            self._peaks_at[size] = self._tree.peaks + peaks
        span = result.span
        if span.last < span.start + span.length:
            self._tail = result.peaks
            return
        node = self._tree.push(result.peaks[0])
        width = span.last & -span.last
        if result.end_node is not None and result.end_node != node and self._bad <= span.last - width:
            self._faults.add("node", f"record {span.last}")

    def root(self) -> bytes | None:
        """Return the root over all records; None where it cannot be made."""
        return None if self.broken else Frontier(self._head, [*self._tree.peaks, *self._tail]).root()

    def check(self, noted: Root, head: int, faults: Faults) -> bool:
        """Tell whether the tree had a root, and note a fault where it had not."""
        place = f"root of {noted.size}"
        if noted.size > head:
            faults.add("truncated", place, f"the archive ends at {head}")
            return False
        found: bytes | None = None
        if noted.size == 0:
            found = EMPTY_ROOT
        elif noted.size in self._peaks_at:
            found = Frontier(noted.size, self._peaks_at[noted.size]).root()
        elif noted.size < self._first:
            with contextlib.suppress(LookupError, *UNREADABLE):
                found = root(noted.size, self._node)
        if found != noted.hash:
            faults.add("root", place, f"it is {found.hex()}" if found else "it cannot be made")
            return False
        return True
