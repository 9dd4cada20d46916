"""Finds the records whose time is over, and of these the ones that may go."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw

from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.holds import Holds
from otel_audit.archive.index import EVENTS, OWN, ZONE, folded_to
from otel_audit.archive.leaf import ADMINISTRATION
from otel_audit.archive.ranges import ranges_of
from otel_audit.archive.windows import next_window
from otel_audit.retention_settings import Retention, Rule

__all__ = ["Due", "Finder", "Found", "Gate"]

READ: Final = "audit.read"
"""The one type of the archive's own records that is pruned."""
_ALL: Final = 2**62
_NEVER: Final = 2**63 - 1
_BATCH: Final = 4_096
_COLUMNS: Final = "sequence, type, observed, length(otlp)"
_ZONE: Final = f"SELECT {_COLUMNS} FROM record WHERE sequence BETWEEN ? AND ? AND {EVENTS} ORDER BY sequence"
_ZONES: Final = "SELECT zone FROM zone WHERE records > 0 AND first_observed < ? AND zone BETWEEN 0 AND ?"
_READS: Final = (
    f"SELECT {_COLUMNS} FROM record INDEXED BY own WHERE kind > 1 AND kind = {ADMINISTRATION} AND sequence > ?"
    f" AND sequence <= ? AND type = '{READ}' AND {OWN} ORDER BY sequence LIMIT {_BATCH}"
)
_ALIVE: Final = (
    "SELECT sequence FROM json_each(?) CROSS JOIN record ON sequence = value WHERE otlp IS NOT NULL ORDER BY sequence"
)
_DEAD: Final = "SELECT sequence FROM dead_letter WHERE destination = ? AND sequence BETWEEN ? AND ?"


class Due(NamedTuple):
    """A record whose time is over.

    Args:
        sequence: Its position.
        type: Its type.
        size: Bytes of its content.
        rule: The rule that says so.
    """

    sequence: int
    type: str
    size: int
    rule: str


class Found(NamedTuple):
    """What is due in a part of the archive.

    Args:
        free: What may go.
        held: How many others are under a hold.
        undelivered: How many others are still to be delivered, or are dead letters.
        position: How far the archive was looked through.
    """

    free: list[Due]
    held: int
    undelivered: int
    position: int


class Gate:
    """Decides what may go: what is delivered to every destination, or all of it where that is forced, and not held.

    Args:
        destinations: The destinations that are configured; those that the archive knows count as well.
        force: Whether undelivered records may go.
    """

    def __init__(self, destinations: Collection[str] = (), *, force: bool = False) -> None:
        self.holds = Holds()
        self._destinations = frozenset(destinations)
        self.force = force

    def alive(self, connection: apsw.Connection, sequences: Sequence[int]) -> list[int]:
        """Return which of some records still have content."""
        return [sequence for (sequence,) in connection.execute(_ALIVE, (json.dumps(sequences),))]

    def split(self, connection: apsw.Connection, sequences: Sequence[int]) -> tuple[set[int], set[int], set[int]]:
        """Return which of some records, in ascending order, may go, which are held, and which are undelivered."""
        if not sequences:
            return set(), set(), set()
        self.holds.refresh(connection)
        held = {
            sequence
            for first, last in self.holds.ranges(connection, ranges_of(sequences))
            for sequence in range(first, last + 1)
        }
        rest = [sequence for sequence in sequences if sequence not in held]
        waiting = set[int]() if self.force else self._waiting(connection, rest)
        return set(rest) - waiting, held, waiting

    def _waiting(self, connection: apsw.Connection, sequences: Sequence[int]) -> set[int]:
        if not sequences:
            return set()
        cursors: dict[str, int] = dict(connection.execute("SELECT name, cursor FROM destination"))
        names = self._destinations | cursors.keys()
        # A destination that never took anything has still to get everything.
        delivered = min((cursors.get(name, 0) for name in names), default=_ALL)
        bounds = (sequences[0], sequences[-1])
        dead = {sequence for name in names for (sequence,) in connection.execute(_DEAD, (name, *bounds))}
        return {sequence for sequence in sequences if sequence > delivered or sequence in dead}


class Finder:
    """Looks through an archive for what is due, and remembers where there is nothing to find for a while.

    Args:
        database: Reads the archive.
        retention: The rules.
        gate: Decides what may go.
    """

    def __init__(self, database: Database, retention: Retention, gate: Gate) -> None:
        self._database = database
        self._retention = retention
        self._gate = gate
        self._rules: dict[str, Rule | None] = {}
        # When the next record of a zone is due that may go then. A look reads a zone's rows, tombstones included.
        self._next: dict[int, int] = {}
        self._reads_from = 0
        self._holds = 0

    def find(self, now: int, stopping: Callable[[], bool] = lambda: False) -> Iterator[Found]:
        """Iterate over what is due, in the order of sequences, events first; each part is read when it is asked for.

        Args:
            now: Nanoseconds since the epoch.
            stopping: Asked before each part.
        """
        shortest = self._retention.shortest
        if shortest is None:
            return
        with self._database as connection, archive_errors(self._database.path):
            self._gate.holds.refresh(connection)
            if self._gate.holds.last != self._holds:
                # Compared with the last run: the gate may have read of it in between.
                self._holds = self._gate.holds.last
                self._next.clear()
            zones, head = self._zones(connection, now - shortest)
            last = self._last_read(connection, now)
        for zone in zones:
            if stopping():
                return
            if self._next.get(zone, 0) <= now:
                with self._database as connection, archive_errors(self._database.path):
                    found = self._look(connection, zone, now, complete=(zone + 1) * ZONE <= head)
                yield found
        position = self._reads_from
        while position < last and not stopping():
            with self._database as connection, archive_errors(self._database.path):
                found, position = self._look_at_reads(connection, position, last, now)
            yield found

    def _zones(self, connection: apsw.Connection, before: int) -> tuple[list[int], int]:
        """Return the zones that may hold what is old enough, and the last sequence."""
        if before <= 0:
            return [], 0
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
        folded = folded_to(connection)
        found = connection.execute(_ZONES, (before, (head - 1) // ZONE))
        # What is not folded yet is in no zone, or in one that is not complete.
        zones = {zone for (zone,) in found}
        position = folded + 1
        while window := next_window(connection, position, head, ZONE):
            zones.add((window[0] - 1) // ZONE)
            position = window[1] + 1
        return sorted(zones), head

    def _rule(self, type_: str) -> Rule | None:
        if type_ not in self._rules:
            if len(self._rules) > 4_096:
                self._rules.clear()
            self._rules[type_] = self._retention.rule(type_)
        return self._rules[type_]

    def _due(self, rows: Sequence[Any], now: int) -> tuple[list[Due], int]:
        """Return which rows are due, and when the next of the others will be."""
        due, following = [], _NEVER
        for sequence, type_, observed, size in rows:
            rule = self._rule(type_)
            if rule is None or rule.age is None:
                continue
            if observed + rule.age < now:
                due.append(Due(sequence, type_, size or 0, rule.text))
            else:
                following = min(following, observed + rule.age + 1)
        return due, following

    def _look(self, connection: apsw.Connection, zone: int, now: int, *, complete: bool) -> Found:
        first = zone * ZONE + 1
        rows = connection.execute(_ZONE, (first, min(first + ZONE - 1, _NEVER))).fetchall()
        due, following = self._due(rows, now)
        found = self._found(connection, due, first + ZONE - 1)
        # What is held stays until the holds change; what may go is gone at the next look, unless that failed.
        self._next[zone] = following if complete and not found.free and not found.undelivered else 0
        return found

    def _look_at_reads(self, connection: apsw.Connection, after: int, last: int, now: int) -> tuple[Found, int]:
        """Return what is due among the records of reads between two sequences, and how far they were looked through."""
        rows: Any = connection.execute(_READS, (after, last)).fetchall()
        if after == self._reads_from:
            # What comes before the first that has content will have none again.
            self._reads_from = rows[0][0] - 1 if rows else last
        due, _ = self._due(rows, now)
        return self._found(connection, due, 0), rows[-1][0] if len(rows) == _BATCH else last

    def _last_read(self, connection: apsw.Connection, now: int) -> int:
        """Return the last sequence at which a record of a read may be old enough; 0 where none is."""
        rule = self._rule(READ)
        if rule is None or rule.age is None or now <= rule.age:
            return 0
        before = now - rule.age
        folded = folded_to(connection)
        if connection.execute("SELECT observed < ? FROM record WHERE sequence = ?", (before, folded + 1)).get:
            return int(connection.execute("SELECT max(sequence) FROM record").get)
        zone = connection.execute("SELECT max(zone) FROM zone WHERE first_observed < ?", (before,)).get
        return 0 if zone is None else min(folded, (int(zone) + 1) * ZONE)

    def _found(self, connection: apsw.Connection, due: list[Due], position: int) -> Found:
        free, held, waiting = self._gate.split(connection, [one.sequence for one in due])
        return Found([one for one in due if one.sequence in free], len(held), len(waiting), position)
