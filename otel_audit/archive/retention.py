"""Prunes: removes the content of records whose time is over, in short transactions, and gives the disk space back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import apsw

from otel_audit.archive.administration import SYSTEM, Administration, Own
from otel_audit.archive.compaction import PAUSE, compact, give_back
from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.due import Due, Finder, Gate
from otel_audit.archive.files import size_on_disk
from otel_audit.archive.index import ZONE
from otel_audit.archive.leaf import ERASURE, PRUNE
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.ranges import Range, merged, ranges_of
from otel_audit.archive.removal import read_removal, removal_fields, remove
from otel_audit.record import Actor
from otel_audit.retention_settings import Retention

__all__ = ["Outcome", "Pruner", "would_prune"]

_CHUNK: Final = 1_024
"""Most records that are removed in one transaction, some 20 ms of work."""
_SLOW: Final = 0.04
"""Seconds of a transaction above which the next one removes fewer."""
_ZONES: Final = 16
"""Most zones that one transaction touches: each is counted anew."""
_SPARE: Final = 1 / 16
"""Share of the file that stays free in the background: the records to come take it again."""
_EARLIER: Final = 8
"""Removals of earlier processes whose rows may still be scattered: where one was killed, those of its last steps."""
_WORTH: Final = 64
"""Removed records of a zone below which no page gets empty enough."""
_NAMED: Final = (
    f"SELECT sequence, otlp FROM record INDEXED BY own WHERE kind > 1 AND kind IN ({ERASURE}, {PRUNE})"
    " AND sequence > ? AND otlp IS NOT NULL ORDER BY sequence DESC LIMIT ?"
)

Progress = Callable[[int, int], None]
"""Called with the sequence that was come to, and the last one."""


@dataclass
class Outcome:
    """What was pruned, or would be.

    Args:
        records: Records that lost their content, by type.
        content: Bytes of that content, by type.
        held: Records whose time is over, and which a hold keeps.
        undelivered: Records whose time is over, and which are still to be delivered, or are dead letters.
        before: Bytes on disk before, write-ahead log included.
        after: Likewise afterwards.
    """

    records: Counter[str] = field(default_factory=Counter)
    content: Counter[str] = field(default_factory=Counter)
    held: int = 0
    undelivered: int = 0
    before: int = 0
    after: int = 0

    def add(self, due: Sequence[Due]) -> None:
        """Count records."""
        for one in due:
            self.records[one.type] += 1
            self.content[one.type] += one.size


def would_prune(database: Database, retention: Retention, gate: Gate, progress: Progress = lambda *_: None) -> Outcome:
    """Return what a `Pruner` would prune now, and change nothing.

    Args:
        database: Reads the archive.
        retention: The rules.
        gate: Decides what may go.
        progress: Told how far it came.

    Raises:
        ArchiveError: The archive cannot be read.
    """
    outcome = Outcome(before=size_on_disk(database.path))
    head = _head(database)
    for found in Finder(database, retention, gate).find(time.time_ns()):
        outcome.add(found.free)
        outcome.held += found.held
        outcome.undelivered += found.undelivered
        progress(min(found.position, head), head)
    outcome.after = outcome.before
    return outcome


def _head(database: Database) -> int:
    with database as connection, archive_errors(database.path):
        return int(connection.execute("SELECT max(sequence) FROM record").get or 0)


class Pruner:
    """Prunes one archive, as often as it is asked to.

    Between two steps, which take some 20 ms each, other writers commit.

    Args:
        administration: Appends the records that tell of it; its connection is used for all else, too.
        retention: The rules.
        destinations: Names of the configured destinations; those that the archive knows count as well.
        force: Whether undelivered records may go.
        actor: Who prunes.
        fields: Further groups of fields of the records that tell of it.
        stopping: Asked between the steps whether to stop.
        spare: Share of the file that may stay free.
        progress: Told how far it came.
    """

    def __init__(
        self,
        administration: Administration,
        retention: Retention,
        *,
        destinations: Collection[str] = (),
        force: bool = False,
        actor: Actor = SYSTEM,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
        stopping: Callable[[], bool] = lambda: False,
        spare: float = _SPARE,
        progress: Progress = lambda *_: None,
    ) -> None:
        self._administration = administration
        self._database = administration.database
        self._retention = retention
        self._gate = Gate(destinations, force=force)
        self._finder = Finder(self._database, retention, self._gate)
        self._actor = actor
        self._fields = dict(fields or {})
        self._stopping = stopping
        self._spare = spare
        self._progress = progress
        self._chunk = _CHUNK
        self._looked = 0

    def prune(self) -> Outcome:
        """Remove what is due, write what is left of it together, and give the disk space back.

        Raises:
            ArchiveError: It was broken off; what was removed until then is gone, and told.
            IntegrityError: The archive is not what it was, or a hold cannot be read; nothing more was removed.
        """
        outcome = Outcome(before=size_on_disk(self._database.path))
        if self._retention:
            self._compact(self._left_over())
            self._remove_all(outcome)
            give_back(self._database, self._spare, self._stopping)
        outcome.after = size_on_disk(self._database.path)
        return outcome

    def _remove_all(self, outcome: Outcome) -> None:
        pending: list[Due] = []
        touched = set[int]()
        head = _head(self._database)
        for found in self._finder.find(time.time_ns(), self._stopping):
            outcome.held += found.held
            outcome.undelivered += found.undelivered
            pending += found.free
            while (size := self._portion(pending)) < len(pending) and not self._stopping():
                touched |= self._remove(pending[:size], outcome)
                del pending[:size]
                # Of the others, more may go in the next step.
                done = {zone for zone in touched if zone != _zone(pending[0].sequence)}
                self._compact(done)
                touched -= done
            self._progress(min(found.position, head), head)
        if pending and not self._stopping():
            touched |= self._remove(pending, outcome)
        self._compact(touched)
        self._looked = _head(self._database)

    def _portion(self, pending: Sequence[Due]) -> int:
        """Return how many records to remove in the next transaction; all of them where there is room for more."""
        zones = set[int]()
        for number, one in enumerate(pending):
            zones.add(_zone(one.sequence))
            if number == self._chunk or len(zones) > _ZONES:
                return number
        return len(pending)

    def _remove(self, due: Sequence[Due], outcome: Outcome) -> set[int]:
        """Remove records in one transaction, and return their zones."""
        gone: list[Due] = []
        started = 0.0

        def make(connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
            nonlocal started
            started = time.monotonic()  # the write lock is ours
            # A hold, an erasure or another destination may have come in between.
            left = self._gate.alive(connection, [one.sequence for one in due])
            free, _, _ = self._gate.split(connection, left)
            gone[:] = [one for one in due if one.sequence in free]
            ranges = ranges_of(sorted(free))
            remove(connection, ranges)
            rules = sorted({one.rule for one in gone})
            more = {"forced": True} if self._gate.force else {}
            for fields in removal_fields(ranges, rules=rules, **more):
                yield Own(PRUNE, "audit.records.pruned", {**fields, **self._fields}, self._actor)

        self._administration.append(make)
        took = time.monotonic() - started
        outcome.add(gone)
        # As much as fits into the time: a slow disk must not hold up others.
        self._chunk = max(64, self._chunk // 2) if took > _SLOW else min(_CHUNK, self._chunk * 2)
        time.sleep(PAUSE)
        return {_zone(one.sequence) for one in gone}

    def _compact(self, zones: Collection[int]) -> None:
        compact(self._database, zones, self._stopping)

    def _left_over(self) -> set[int]:
        """Return the zones of what others removed since the last run, an erasure for example."""
        limit = -1 if self._looked else _EARLIER
        with self._database as connection, archive_errors(self._database.path):
            rows: Any = connection.execute(_NAMED, (self._looked, limit)).fetchall()
        ranges: list[Range] = []
        for sequence, otlp in rows:
            try:
                ranges += [one for one in read_removal(otlp) if one[1] < sequence]
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # `verify` finds it; here it only means less to tidy up
        counts = Counter[int]()
        for first, last in merged(ranges):
            for zone in range(_zone(first), _zone(last) + 1):
                counts[zone] += min(last, (zone + 1) * ZONE) - max(first, zone * ZONE + 1) + 1
        return {zone for zone, count in counts.items() if count >= _WORTH}


def _zone(sequence: int) -> int:
    return (sequence - 1) // ZONE
