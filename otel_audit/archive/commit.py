"""One transaction: takes the next sequences, hashes each record into its leaf, inserts, waits for fsync."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Final

import apsw

from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.leaf import EVENT, commitment, header_digest, leaf_hash
from otel_audit.archive.pending import Pending
from otel_audit.errors import IntegrityError
from otel_audit.record import AuditRecord, Receipt

__all__ = ["Committer", "columns"]

_RANGES: Final = 4_096
"""Most ranges of own sequences that are told apart; later ones take in other processes' records between them."""
_COLUMNS: Final = 17
_ROW: Final = "(" + ",".join("?" * _COLUMNS) + ")"
# One statement a chunk: apsw gives up the GIL at every step, and gets it back from a busy caller only after a while.
_INSERTS: Final = {size: f"INSERT INTO record VALUES {','.join([_ROW] * size)}" for size in (128, 16, 4, 1)}

_IDENTITY: Final = "SELECT (SELECT value FROM meta WHERE key = 'archive_id'), (SELECT max(sequence) FROM record)"


class Committer:
    """Commits batches to one archive, and raises where it is not the archive that it was.

    Args:
        database: Opened to write. Its lock is held around `commit`.
        resource: Bytes of the OTLP ``Resource`` that the records belong to.
        scope: Bytes of the OTLP ``InstrumentationScope``.
    """

    def __init__(self, database: Database, resource: bytes, scope: bytes) -> None:
        self._database = database
        self._header = (resource, scope)
        self._digest = header_digest(resource, scope)
        self._resource_id = 0
        self._archive_id = ""
        self.head = 0
        self.ranges: list[tuple[int, int]] = []

    def commit(self, batch: Sequence[Pending]) -> None:
        """Commit records, all or none, and give their receipts to those that somebody waits for.

        Raises:
            ArchiveError: Nothing was committed.
            IntegrityError: The archive is another one, or shrank; nothing was committed.
        """
        with archive_errors(self._database.path):
            connection = self._database.locked_connection()
            self._check_file()
            connection.execute("BEGIN IMMEDIATE")
            try:
                first = self._check_head(connection) + 1
                values, leaves = self._values(connection, batch, first)
                _insert(connection, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                # It may have been inserted in the transaction that was rolled back.
                self._resource_id = 0
                raise
        committed = time.time_ns()
        self.head = first + len(batch) - 1
        self._note_range(first)
        for sequence, (pending, leaf) in enumerate(zip(batch, leaves, strict=True), first):
            if pending.done is not None or len(batch) == 1:
                pending.receipt = Receipt(pending.record.record_id, sequence, leaf.hex(), committed)

    def forget(self) -> None:
        """Forget, in a forked child, what the parent recorded: it is the parent's to flush."""
        self.ranges = []

    def _note_range(self, first: int) -> None:
        if self.ranges and (self.ranges[-1][1] + 1 == first or len(self.ranges) >= _RANGES):
            first = self.ranges.pop()[0]
        self.ranges.append((first, self.head))

    def _check_file(self) -> None:
        try:
            inode = os.stat(self._database.path).st_ino  # noqa: PTH116 - on the path of every commit
        except FileNotFoundError:
            inode = -1
        if inode != self._database.inode:
            raise IntegrityError(
                f"the archive {self._database.path} was removed or replaced while it was in use",
                "put the original file back, or restart to begin a new archive",
            )

    def _check_head(self, connection: apsw.Connection) -> int:
        """Return the last sequence, having seen that the archive is the one we know and did not shrink."""
        found: Any = connection.execute(_IDENTITY).fetchone()
        archive_id = str(found[0])
        if self._archive_id and archive_id != self._archive_id:
            raise IntegrityError(
                f"{self._database.path} is another archive than before ({archive_id}, not {self._archive_id})",
                "put the original file back, or restart to record into this one",
            )
        self._archive_id = archive_id
        head = int(found[1] or 0)
        if head < self.head:
            raise IntegrityError(
                f"the archive {self._database.path} ends at {head}, but {self.head} records had been committed",
                "an older copy was restored or records were deleted: keep the file, and find out by whom",
            )
        return head

    def _values(
        self, connection: apsw.Connection, batch: Sequence[Pending], first: int
    ) -> tuple[list[object], list[bytes]]:
        """Return the rows' values, one row after the other, and the leaves."""
        if not self._resource_id:
            self._resource_id = _resource_id(connection, *self._header, self._digest)
        salts = os.urandom(32 * len(batch))
        values: list[object] = []
        leaves: list[bytes] = []
        for offset, pending in enumerate(batch):
            record, otlp, sequence = pending.record, pending.otlp, first + offset
            salt = salts[offset * 32 : offset * 32 + 32]
            identity = bytes.fromhex(record.record_id.replace("-", ""))
            content = commitment(salt, self._digest, otlp)
            leaf = leaf_hash(EVENT, sequence, record.observed, identity, record.host, record.type, content)
            leaves.append(leaf)
            values += (sequence, EVENT, record.time, record.observed)
            values += columns(record)
            values += (identity, self._resource_id, leaf, salt, otlp)
        return values, leaves


def columns(record: AuditRecord) -> tuple[object, ...]:
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
