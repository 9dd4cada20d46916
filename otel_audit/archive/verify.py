"""Verifies an archive: every row, the tree above them, and all that is derived from them, in constant memory.

Records are verified in spans, each in a short transaction of its own, so that a long verification does not keep the
write-ahead log of a busy archive from being reused. What was committed after the start is not looked at.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from otel_audit.archive.anchors import Anchors, check_anchors, check_note, read_anchors
from otel_audit.archive.connecting import connect_to_read
from otel_audit.archive.database import archive_errors
from otel_audit.archive.faults import UNREADABLE, Faults, unreadable_is_a_fault
from otel_audit.archive.highwater import HighWater
from otel_audit.archive.index import RUN
from otel_audit.archive.joined import Joined
from otel_audit.archive.lookups import check_outside
from otel_audit.archive.removal import Removed, check_removed, named_ranges
from otel_audit.archive.report import Report, Root, RootCheck, Since
from otel_audit.archive.signatures import NOBODY, Trust
from otel_audit.archive.spans import LENGTH, Span
from otel_audit.archive.tables import check_structure, check_tables, is_archive
from otel_audit.archive.workers import Work, inline, prepare, shared, snapshot
from otel_audit.errors import ArchiveError
from otel_audit.notes import Checkpoint, Note, Verifier

__all__ = ["Noted", "verify", "verify_connection"]

KEEP: Final = 100
"""Faults that are kept, where nothing else is asked for; the others are counted."""

Progress = Callable[[int, int], None]
"""Called with the records verified so far, and how many there are."""


class Noted(NamedTuple):
    """What the reader of a report knows from elsewhere.

    Args:
        roots: Roots that were noted earlier.
        notes: Checkpoints that were kept elsewhere.
        verifiers: Keys that the reader trusts; where there are none, the archive's own word for its first key is taken.
        high_water: The directory of high-water marks; None: it is not looked at.
        producers: Keys of the producers whose signatures records hold.
    """

    roots: Sequence[Root] = ()
    notes: Sequence[Note] = ()
    verifiers: Sequence[Verifier] = ()
    high_water: Path | None = None
    producers: Trust = NOBODY


def verify(
    path: str | os.PathLike[str],
    *,
    since: Since = Since(),  # noqa: B008 - a named tuple
    noted: Noted = Noted(),  # noqa: B008 - likewise
    jobs: int = 1,
    progress: Progress = lambda _done, _total: None,
    keep: int = KEEP,
) -> Report:
    """Verify an archive, whether its application runs or not.

    Args:
        path: The file.
        since: Where to begin; the nodes of the tree before it are taken as they are.
        noted: What is known of it from elsewhere. Without, what was cut off the end or written anew cannot be found.
        jobs: Processes that share the work; the result is the same.
        progress: Told how far it came.
        keep: Most faults to keep; all are counted.

    Raises:
        ArchiveError: There is no archive there, or it cannot be opened.
    """
    file = Path(path).absolute()
    with archive_errors(file):
        if not file.exists():
            raise ArchiveError(f"there is no archive at {file}", "give --archive or set OTEL_AUDIT_ARCHIVE")
        with contextlib.closing(connect_to_read(file).connection) as connection:
            prepare(connection)
            if not is_archive(connection):
                raise ArchiveError(f"{file} is no audit archive", "give the path of an archive made by otel_audit")
            work = inline(connection, keep, noted.producers)
            if jobs > 1:
                work = shared(file, jobs, keep, noted.producers)
            return verify_connection(
                connection, str(file), since=since, noted=noted, work=work, progress=progress, keep=keep
            )


def verify_connection(
    connection: apsw.Connection,
    name: str,
    *,
    since: Since = Since(),  # noqa: B008 - a named tuple
    noted: Noted = Noted(),  # noqa: B008 - likewise
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
        noted: What the reader of the report knows from elsewhere.
        work: Verifies the spans; None: here, one after the other.
        progress: As in `verify`.
        keep: As in `verify`.
        length: How many records make a span, a power of two that is no greater than a run.
    """
    faults = Faults(keep)
    check_structure(connection, faults)
    # First of all: a busy archive grows, and its mark with it.
    mark = _high_water(connection, noted, faults)
    with snapshot(connection):
        stated = _stated(connection, since, noted, faults)
    head, first = stated.head, stated.first
    joined = Joined(connection, first, head, length, faults)
    sizes, gaps = stated.sizes(noted, mark), dict[int, int]()
    progress(0, head - first + 1)
    work = work or inline(connection, keep, noted.producers)
    for result in work(_spans(connection, (first, head), length, sizes, gaps)):
        if result.span.start in gaps:
            joined.skip(gaps[result.span.start], result.span.start)
        joined.add(result)
        progress(max(0, min(head, result.span.last) - first + 1), head - first + 1)
    if first == 1 and not joined.broken and not joined.tombstones:
        for number in sorted(stated.resources - joined.resources):
            faults.add("resource", f"resource {number}", "no record refers to it")
    with snapshot(connection):
        # Faults of these records were found at the start. What was erased since then may be gone.
        since_then = named_ranges(connection, Faults(0)) if joined.tombstones else stated.removed
    erased, pruned = check_removed(joined.tombstones, stated.removed, since_then, joined.seen, faults)
    checks = tuple(RootCheck(root, joined.check(root, faults)) for root in noted.roots)
    for note in noted.notes:
        check_note(note, stated.archive_id, stated.anchors.verifiers, joined, faults)
    held = check_anchors(stated.anchors, joined, bool(noted.verifiers), faults)
    if mark is not None:
        joined.check(Root(mark.size, mark.root), faults, ("high-water", "high-water"))
    sizes_held = [anchor.checkpoint.size for anchor in held if anchor.signed or not noted.verifiers]
    return Report(
        name, stated.archive_id, since, first, head, joined.valid, joined.invalid, joined.missing, erased, pruned,
        joined.signatures, joined.root(), checks, len(held), sum(anchor.signed for anchor in held),
        max(sizes_held, default=0), None if mark is None else mark.size,
        tuple(faults.kept), faults.count,
    )  # fmt: skip


class _Stated(NamedTuple):
    """What the archive says of itself at the start."""

    archive_id: str = ""
    head: int = 0
    first: int = 1
    resources: frozenset[int] = frozenset()
    removed: Removed = Removed([], [])
    anchors: Anchors = Anchors([], [])

    def sizes(self, noted: Noted, mark: Checkpoint | None) -> list[int]:
        """Return the sizes of the tree whose roots are to be compared, ascending."""
        sizes = {root.size for root in noted.roots} | {anchor.checkpoint.size for anchor in self.anchors.anchors}
        sizes |= {Checkpoint.parse(note.text).size for note in noted.notes}
        if mark is not None:
            sizes.add(mark.size)
        return sorted(sizes)


def _stated(connection: apsw.Connection, since: Since, noted: Noted, faults: Faults) -> _Stated:
    stated = _Stated()
    with unreadable_is_a_fault(faults, "the archive"):
        meta = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('archive_id', 'created')"))
        archive_id = str(meta.get("archive_id") or "")
        head = max(0, int(connection.execute("SELECT max(sequence) FROM record").get or 0))
        stated = _Stated(
            archive_id,
            head,
            _first(connection, since, head),
            frozenset(number for (number,) in connection.execute("SELECT id FROM resource")),
            named_ranges(connection, faults),
            read_anchors(connection, archive_id, meta.get("created"), noted.verifiers, faults),
        )
    with unreadable_is_a_fault(faults, "the archive"):
        check_tables(connection, stated.head, faults)
        check_outside(connection, stated.head, faults)
    return stated


def _high_water(connection: apsw.Connection, noted: Noted, faults: Faults) -> Checkpoint | None:
    if noted.high_water is None:
        return None
    with unreadable_is_a_fault(faults, "the archive"):
        archive_id = connection.execute("SELECT value FROM meta WHERE key = 'archive_id'").get
        try:
            return HighWater(noted.high_water).read(str(archive_id))
        except ArchiveError as error:
            faults.add("high-water", "the high-water mark", error.message)
    return None


def _first(connection: apsw.Connection, since: Since, head: int) -> int:
    """Return the first sequence to verify."""
    if since.observed is None:
        return max(1, min(since.sequence, head + 1))
    found = connection.execute(
        "SELECT sequence FROM record WHERE sequence > 0 AND observed >= ? ORDER BY sequence LIMIT 1",
        (since.observed,),
    ).get
    # The record before it as well: somebody who sets the times of recording back would choose what is not looked at.
    return max(1, head if found is None else int(found) - 1)


def _spans(
    connection: apsw.Connection, asked: tuple[int, int], length: int, sizes: Sequence[int], gaps: dict[int, int]
) -> Iterator[Span]:
    """Iterate over the spans that hold records, and note before which of them others are missing, and since where."""
    position, head = asked
    while position <= head:
        start = (position - 1) // length * length
        last = min(start + length, head)
        run = max(asked[0], (last - 1) // RUN * RUN + 1) if last % RUN == 0 or last == head else 0
        yield Span(
            start, position, last, length, run, tuple(sizes[bisect_left(sizes, position) : bisect_right(sizes, last)])
        )
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
