"""One transaction: takes the next sequences, hashes each record into its leaf, inserts, waits for fsync."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import apsw

from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.leaf import EVENT, commitment, header_digest, leaf_hash
from otel_audit.archive.logindex import LogIndexLostError
from otel_audit.archive.merkle import Frontier, peak_ends
from otel_audit.archive.remedies import replaced
from otel_audit.archive.space import spend
from otel_audit.errors import IntegrityError
from otel_audit.record import AuditRecord

if TYPE_CHECKING:
    # Start-up time: nothing of it is used here.
    from pathlib import Path

    from otel_audit.notes import Checkpoint

__all__ = ["Committer", "Floor", "Header", "Make", "MakeGroups", "Row", "Signer", "columns", "row_of"]

_RANGES: Final = 4_096
"""Most ranges of own sequences that are told apart; later ones take in other processes' records between them."""
_ATTEMPTS: Final = 5
"""How often a commit is tried anew where the log's index is removed each time."""
_COLUMNS: Final = 19
_ROW: Final = "(" + ",".join("?" * _COLUMNS) + ")"
# One statement a chunk: apsw gives up the GIL at every step, and gets it back from a busy caller only after a while.
_INSERTS: Final = {size: f"INSERT INTO record VALUES {','.join([_ROW] * size)}" for size in (128, 16, 4, 1)}

_LAST: Final = (
    "SELECT (SELECT value FROM meta WHERE key = 'archive_id'), sequence, coalesce(node, leaf)"
    " FROM (SELECT NULL) LEFT JOIN (SELECT sequence, node, leaf FROM record ORDER BY sequence DESC LIMIT 1)"
)
_NODES: Final = "SELECT sequence, coalesce(node, leaf) FROM record WHERE sequence IN (SELECT value FROM json_each(?))"

Row = tuple[
    str, int, int, str, str | None, str | None, str, str | None, str | None, str | None, bytes | None, bytes, int
]
"""A record on its way into the archive: id, time, time of recording, `columns`, OTLP bytes, kind.

A plain tuple of plain values, which the garbage collector soon leaves alone: with queues of 16,384 named tuples it took
a sixth of the time.
"""

Signer = Callable[[bytes, str, int, str], bytes]
"""Returns a record's bytes with its signature: of the bytes, the record's id, its sequence, and the archive's id."""

Floor = Callable[[str], "Checkpoint | None"]
"""Returns, by an archive's id, the largest checkpoint of it that is known from elsewhere; None for none."""

Make = Callable[[apsw.Connection, Frontier], Sequence[Row]]
"""Makes rows within the transaction that commits them, from what the archive and its tree are then."""

Header = tuple[bytes, bytes]
"""What records are shipped under: bytes of the OTLP ``Resource`` and ``InstrumentationScope``."""

MakeGroups = Callable[[apsw.Connection, Frontier], Iterable[tuple[Header, Sequence[Row]]]]
"""Makes rows likewise, with what they are shipped under."""


class Committer:
    """Commits batches to one archive, and raises where it is not the archive that it was.

    Args:
        database: Opened to write. Its lock is held around `commit`.
        resource: Bytes of the OTLP ``Resource`` that the records belong to.
        scope: Bytes of the OTLP ``InstrumentationScope``.
        floor: Asked once, before the first commit.
        signer: Signs each record; None: nobody does.
        own: Whether it commits the archive's own records, for which the last of the reserve is kept.
    """

    def __init__(
        self,
        database: Database,
        resource: bytes,
        scope: bytes,
        floor: Floor | None = None,
        signer: Signer | None = None,
        *,
        own: bool = False,
    ) -> None:
        self.database = database
        self._header = (resource, scope)
        self._digest = header_digest(resource, scope)
        self._signer = signer
        self._own = own
        self._resource_id = 0
        self._archive_id = ""
        self._tree = Frontier()
        self._floor = floor
        self.ranges: list[tuple[int, int]] = []

    def commit(self, rows: Sequence[Row]) -> tuple[int, list[bytes]]:
        """Commit records, all or none, and return the first one's sequence and all leaves; see `append`."""
        return self.append(lambda _connection, _tree: rows)

    def append(self, make: Make) -> tuple[int, list[bytes]]:
        """Make records and commit them with whatever else `make` changes, all or nothing; see `append_groups`."""
        return self.append_groups(lambda connection, tree: ((self._header, make(connection, tree)),))

    def append_groups(self, make: MakeGroups) -> tuple[int, list[bytes]]:
        """Make records, each with what it is shipped under, and commit them with whatever else is changed meanwhile.

        Where the disk is full, or the user's quota, the reserve makes room, and all begins anew.

        Returns:
            The first one's sequence, and all leaves.

        Raises:
            ArchiveError: Nothing was committed; also where a record could not be signed.
            IntegrityError: The archive is another one, or shrank; nothing was committed.
        """
        lost = 0
        with archive_errors(self.database.path):
            while True:
                try:
                    return self._append(make)
                except apsw.Error as error:
                    if not (self.database.is_full(error) and spend(self.database.path, own=self._own)):
                        raise
                except LogIndexLostError:
                    # Taken back; the next attempt opens the archive anew.
                    lost += 1
                    if lost > _ATTEMPTS:
                        raise

    def _append(self, make: MakeGroups) -> tuple[int, list[bytes]]:
        connection = self.database.locked_connection()
        self._check_file()
        try:
            # Within: an interrupt may come as soon as the transaction has begun.
            connection.execute("BEGIN IMMEDIATE")
            tree = self._present_tree(connection, self._floor)
            self._floor = None
            first = tree.size + 1
            values, leaves = self._values(connection, make(connection, tree), tree)
            _insert(connection, values)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            # It may have been inserted in the transaction that was rolled back.
            self._resource_id = 0
            raise
        if leaves and self.database.index_lost:
            self._see_that_it_is_there(tree.size, leaves[-1])
        self._tree = tree
        if leaves:
            self._note_range(first)
        return first, leaves

    def _see_that_it_is_there(self, sequence: int, leaf: bytes) -> None:
        """Look a commit up through the present index: somebody may have made that before the commit was written."""
        connection = self.database.locked_connection()
        if connection.execute("SELECT leaf FROM record WHERE sequence = ?", (sequence,)).get != leaf:
            self._resource_id = 0
            raise LogIndexLostError("the log's index was removed amid a commit", "try again")

    @property
    def head(self) -> int:
        """The last sequence that this process knows of."""
        return self._tree.size

    def tree(self) -> tuple[str, Frontier]:
        """Return the archive's id and the tree, as this process last saw them; no id before the first commit."""
        return self._archive_id, self._tree

    def look(self) -> tuple[str, Frontier]:
        """Return the archive's id and the tree, as they are now, for a holder of the database's lock.

        Raises:
            ArchiveError: The archive cannot be read.
            IntegrityError: It is not what it was.
        """
        with archive_errors(self.database.path):
            connection = self.database.locked_connection()
            connection.execute("BEGIN")
            try:
                # Without the write lock, others may commit more, and note that, between the tree and the mark.
                tree = self._present_tree(connection, floor=None)
                return self._archive_id, tree
            finally:
                connection.execute("ROLLBACK")

    def forget(self) -> None:
        """Forget, in a forked child, what the parent recorded: it is the parent's to flush."""
        self.ranges = []

    def _note_range(self, first: int) -> None:
        if self.ranges and (self.ranges[-1][1] + 1 == first or len(self.ranges) >= _RANGES):
            first = self.ranges.pop()[0]
        self.ranges.append((first, self.head))

    def _check_file(self) -> None:
        if self.database.moved():
            raise replaced(self.database.path)

    def _present_tree(self, connection: apsw.Connection, floor: Floor | None) -> Frontier:
        """Return the tree as it is now, having seen that it is the one we know, or an extension of it."""
        found: Any = connection.execute(_LAST).fetchone()
        archive_id, size, last = str(found[0]), int(found[1] or 0), found[2]
        if self._archive_id and archive_id != self._archive_id:
            raise IntegrityError(
                f"{self.database.path} is another archive than before ({archive_id}, not {self._archive_id})",
                "put the original file back, or restart to record into this one",
            )
        if floor is not None:
            check_floor(connection, self.database.path, archive_id, floor(archive_id))
        self._archive_id = archive_id
        known = self._tree
        if size < known.size:
            raise IntegrityError(
                f"the archive {self.database.path} ends at {size}, but {known.size} records had been committed",
                "an older copy was restored or records were deleted: keep the file, and find out by whom",
            )
        if size == known.size:
            peaks, same = list(known.peaks), not size or last == known.peaks[-1]
        else:
            # Another process wrote. What we knew must be a part of what there is.
            old, new = peak_ends(known.size), peak_ends(size)
            nodes: dict[int, bytes] = dict(connection.execute(_NODES, (_json(old + new),)))
            peaks, same = [nodes[end] for end in new if end in nodes], [nodes.get(end) for end in old] == known.peaks
            if len(peaks) < len(new):
                raise IntegrityError(f"{self.database.path} has no complete tree", "otel-audit verify says more")
        if not same:
            raise IntegrityError(
                f"the archive {self.database.path} no longer holds the {known.size} records that it held",
                "records were changed or another copy was restored: keep the file, and find out by whom",
            )
        return Frontier(size, peaks)

    def _values(
        self, connection: apsw.Connection, groups: Iterable[tuple[Header, Sequence[Row]]], tree: Frontier
    ) -> tuple[list[object], list[bytes]]:
        """Return the rows' values, one row after the other, and the leaves, which are added to the tree."""
        values: list[object] = []
        leaves: list[bytes] = []
        for header, rows in groups:
            if rows:  # else there would be a resource that no record refers to
                self._add_values(rows, tree, self._shipped_under(connection, header), values, leaves)
        return values, leaves

    def _shipped_under(self, connection: apsw.Connection, header: Header) -> tuple[int, bytes]:
        """Return the id and the digest of what records are shipped under."""
        if header is not self._header:
            digest = header_digest(*header)
            return _resource_id(connection, *header, digest), digest
        if not self._resource_id:
            self._resource_id = _resource_id(connection, *header, self._digest)
        return self._resource_id, self._digest

    def _add_values(
        self,
        rows: Sequence[Row],
        tree: Frontier,
        under: tuple[int, bytes],
        values: list[object],
        leaves: list[bytes],
    ) -> None:
        salts = os.urandom(32 * len(rows))
        resource, digest = under
        sequence, signer = tree.size, self._signer
        for offset, (record_id, time, observed, host, user, source, type_, *derived, otlp, kind) in enumerate(rows):
            sequence += 1
            if signer is not None:
                # Before the commitment: it covers the signature, too.
                otlp = signer(otlp, record_id, sequence, self._archive_id)  # noqa: PLW2901
            salt = salts[offset * 32 : offset * 32 + 32]
            identity = bytes.fromhex(record_id.replace("-", ""))
            content = commitment(salt, digest, otlp)
            leaf = leaf_hash(kind, sequence, observed, identity, host, type_, content)
            node = tree.push(leaf)
            leaves.append(leaf)
            values += (sequence, kind, time, observed, host, user, source, type_)
            values += derived
            values += (identity, resource, leaf, None if sequence & 1 else node, salt, otlp, None)


def _json(numbers: Sequence[int]) -> str:
    """Return numbers as a JSON array, without the module, which takes a while to load."""
    return f"[{','.join(map(str, numbers))}]"


def check_floor(connection: apsw.Connection, path: Path, archive_id: str, least: Checkpoint | None) -> None:
    """See that an archive is the one that a checkpoint from elsewhere tells of, or an extension of it.

    Args:
        connection: Reads the archive.
        path: Its file.
        archive_id: Its id.
        least: The checkpoint, from before this look; None: there is none.

    Raises:
        IntegrityError: It is not.
    """
    if least is None:
        return
    ends = peak_ends(least.size)
    nodes: dict[int, bytes] = dict(connection.execute(_NODES, (_json(ends),)))
    # An end that is missing makes another root.
    if Frontier(least.size, [nodes.get(end, b"") for end in ends]).root() != least.root:
        raise IntegrityError(
            f"the archive {path} is not the one that had {least.size} records here",
            "an older copy was restored or history was changed: find out by whom; where it was restored on purpose,"
            f" remove {archive_id}.note from the directory of high-water marks: OTEL_AUDIT_HIGH_WATER, else"
            " high-water in the user's data directory",
        )


def row_of(record: AuditRecord, otlp: bytes, kind: int = EVENT) -> Row:
    """Return what a record's row is made of."""
    return (record.record_id, record.time, record.observed, *columns(record), otlp, kind)


def columns(
    record: AuditRecord,
) -> tuple[str, str | None, str | None, str, str | None, str | None, str | None, bytes | None]:
    """Return the columns from ``host`` to ``trace`` that are derived from a record's bytes."""
    session = record.session
    return (
        record.host,
        record.user,
        record.source,
        record.type,
        record.outcome,
        None if session is None else session.id,
        None if session is None or session.ip is None else str(session.ip),
        bytes.fromhex(record.trace_id) if record.trace_id else None,
    )


def _resource_id(connection: apsw.Connection, resource: bytes, scope: bytes, digest: bytes) -> int:
    connection.execute(
        "INSERT INTO resource (resource, scope, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (resource, scope, digest),
    )
    return int(connection.execute("SELECT id FROM resource WHERE digest = ?", (digest,)).get)


def _insert(connection: apsw.Connection, values: list[object]) -> None:
    """Insert rows with as few statements as the prepared sizes allow."""
    start, end = 0, len(values)
    for size, statement in _INSERTS.items():
        step = size * _COLUMNS
        while end - start >= step:
            connection.execute(statement, values[start : start + step])
            start += step
