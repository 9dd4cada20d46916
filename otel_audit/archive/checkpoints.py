"""States the archive's size and root from time to time: in a record of its own, and in the high-water file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.administration import SYSTEM, Administration, Own
from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.highwater import HighWater
from otel_audit.archive.leaf import ADMINISTRATION, GENESIS
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.query import Archive
from otel_audit.errors import IntegrityError
from otel_audit.notes import Checkpoint, Note, SigningKey, sign_note
from otel_audit.otlp import read_log
from otel_audit.record import Actor

__all__ = ["CHECKPOINT", "Checkpoints", "append_checkpoint", "checkpoint_record", "present_checkpoint"]

CHECKPOINT: Final = "audit.checkpoint"
_LAST: Final = (
    f"SELECT max(observed), max(sequence) FROM record INDEXED BY own WHERE kind > 1 AND kind = {ADMINISTRATION}"
    f" AND type = '{CHECKPOINT}'"
)
_CONTENT: Final = "SELECT otlp FROM record WHERE sequence = ?"
_SINCE: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM record WHERE sequence BETWEEN ? AND ?"
    f" AND kind <> {GENESIS} AND NOT (kind = {ADMINISTRATION} AND type = '{CHECKPOINT}') LIMIT 1)"
)
_CREATED: Final = "SELECT value FROM meta WHERE key = 'created'"


def checkpoint_record(note: Note, actor: Actor = SYSTEM) -> Own:
    """Return the own record that states a checkpoint."""
    checkpoint = Checkpoint.parse(note.text)
    fields = {"note": str(note), "size": checkpoint.size, "root": checkpoint.root.hex()}
    return Own(ADMINISTRATION, CHECKPOINT, {"checkpoint": fields}, actor)


def append_checkpoint(administration: Administration, key: SigningKey | None, actor: Actor = SYSTEM) -> Note:
    """State what the archive is now, unless nothing was recorded since the last checkpoint, and return the note.

    Args:
        administration: Appends it.
        key: Signs it; called without any lock, since it may take its time.
        actor: Who asked for it.

    Raises:
        ArchiveError: The archive cannot be written.
        IntegrityError: It is not what it was.
    """
    archive_id, tree = administration.tree()
    note = sign_note(str(Checkpoint.of_archive(archive_id, tree.size, tree.root())), key)

    def make(connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
        # Not since that record: while its note was being signed, others may have been recorded.
        covered = _last_size(connection)
        if covered is None or connection.execute(_SINCE, (covered + 1, tree.size)).get:
            yield checkpoint_record(note, actor)

    administration.append(make)
    return note


def _last_size(connection: apsw.Connection) -> int | None:
    """Return what the last checkpoint covers, None where there is none that can be read."""
    _, sequence = connection.execute(_LAST).fetchone() or (None, None)
    otlp: Any = connection.execute(_CONTENT, (sequence,)).get
    try:
        return int(read_log(otlp).attributes[f"{keys.CUSTOM_PREFIX}checkpoint.size"])  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError):
        return None


def present_checkpoint(archive: Archive) -> Checkpoint:
    """Return the checkpoint that an archive has now, from its nodes as they are.

    Raises:
        ArchiveError: The archive cannot be read.
        IntegrityError: It has no root: nodes are missing.
    """
    status = archive.status()
    if status.root is None:
        raise IntegrityError(f"{archive.path} has no root", "otel-audit verify says more")
    return Checkpoint.of_archive(status.archive_id, status.sequence, bytes.fromhex(status.root))


class Checkpoints:
    """Appends a checkpoint when one is due, and keeps the high-water file up to date.

    Args:
        path: The archive.
        open_administration: Opens what appends own records; it is closed again, since it is rarely needed.
        tree: Returns the archive's id and the tree as this process last saw it; no id before its first commit.
        key: Returns the key that signs, as it is now; None: checkpoints are not signed.
        high_water: Where the largest checkpoint is kept; None: nowhere.
        interval: Seconds between two checkpoints at the least; 0: there are none.
    """

    def __init__(
        self,
        path: Path,
        open_administration: Callable[[], Administration],
        tree: Callable[[], tuple[str, Frontier]],
        *,
        key: Callable[[], SigningKey | None],
        high_water: HighWater | None,
        interval: float,
    ) -> None:
        self._path = path
        self._open = open_administration
        self._tree = tree
        self._key = key
        self._high_water = high_water
        self._interval = interval
        self._noted = 0
        self._covered = 0
        self._due_at: float | None = None

    def run(self, _stopping: Callable[[], bool] = lambda: False) -> float:
        """Do what is due; see `otel_audit.upkeep.Task`."""
        archive_id, tree = self._tree()
        if not archive_id:
            return 3_600.0
        if self._high_water is not None and tree.size > self._noted:
            # Not signed: this is about what the machine itself saw, every second.
            self._high_water.note(sign_note(str(Checkpoint.of_archive(archive_id, tree.size, tree.root())), None))
            self._noted = tree.size
        if not self._interval or tree.size <= self._covered:
            return 3_600.0
        wait = self._wait()
        if wait > 0:
            return wait
        last, _ = self._last()
        if last is not None and 0 <= (age := (time.time_ns() - last) / 1e9) < self._interval:
            # Another process has just stated one, which may not cover what this one recorded since.
            self._due_at = time.monotonic() + self._interval - age
            return self._interval - age
        with self._open() as administration:
            append_checkpoint(administration, self._key())
        self._covered, self._due_at = tree.size, time.monotonic() + self._interval
        return 3_600.0

    def finish(self) -> None:
        """Note how far the archive came, and state it where that is due."""
        self.run()

    def _wait(self) -> float:
        """Return the seconds until the next checkpoint."""
        if self._due_at is None:
            last, created = self._last()
            age = max(0.0, (time.time_ns() - (last or created)) / 1e9)
            self._due_at = time.monotonic() + self._interval - age
        return self._due_at - time.monotonic()

    def _last(self) -> tuple[int | None, int]:
        """Return when the last checkpoint was stated, and when the archive was made: nanoseconds since the epoch."""
        database = Database(self._path, "read", cache_kib=512)
        try:
            with database as connection, archive_errors(self._path):
                last: Any = connection.execute(_LAST).fetchone()
                return last[0], int(connection.execute(_CREATED).get)
        finally:
            database.close()
