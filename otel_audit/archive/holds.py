"""Legal holds: what must keep its content, whatever a retention rule or an erasure asks for.

A hold is one of the archive's own records, and so is its end: both are hashed, shipped and never pruned. The holds in
force are read from these.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.filters import glob_pattern
from otel_audit.archive.leaf import ADMINISTRATION
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.ranges import Range, ranges_of
from otel_audit.clean import Cleaner
from otel_audit.errors import ConfigError, IntegrityError
from otel_audit.otlp import read_log
from otel_audit.record import Actor

__all__ = ["Hold", "Holds", "add_hold", "load_holds", "remove_hold"]

ADDED: Final = "audit.hold.added"
REMOVED: Final = "audit.hold.removed"
_GROUP: Final = f"{keys.CUSTOM_PREFIX}hold."
_CRITERIA: Final = ("user", "pseudonym", "host", "type", "since", "until")
_RECORDS: Final = (
    "SELECT sequence, type, otlp FROM record INDEXED BY own"
    f" WHERE kind > 1 AND kind = {ADMINISTRATION} AND sequence > ? AND type IN ('{ADDED}', '{REMOVED}')"
    " AND source IS NOT NULL ORDER BY sequence"
)
_AMONG: Final = (
    "SELECT sequence, user, otlp FROM (SELECT value ->> 0 AS low, value ->> 1 AS high FROM json_each(?))"
    " CROSS JOIN record ON sequence BETWEEN low AND high WHERE otlp IS NOT NULL"
)
_PARTS: Final = 4_096
"""Most ranges that are asked for at once."""
_PERSONS: Final = (keys.USER_NAME, keys.ACTOR_ID, keys.TARGET_ID)


@dataclass(frozen=True, slots=True)
class Hold:
    """What a hold is for; a record that fulfils each criterion that is given is under it.

    Args:
        id: Names it, for the command line.
        reason: Why it is there.
        user: Records of this user, and those that the user caused or suffered: as user, actor or target.
        pseudonym: Likewise, in place of the name.
        host: Records of this host.
        type: Records of this type; ``*`` matches any text.
        since: Records not before this time, nanoseconds since the epoch, by the event's time or that of recording.
        until: Records before this time, likewise.
        sequence: The own record that began it; 0: none yet.
        added: When that was, nanoseconds since the epoch.
        by: Who began it.
    """

    id: str
    reason: str
    user: str | None = None
    pseudonym: str | None = None
    host: str | None = None
    type: str | None = None
    since: int | None = None
    until: int | None = None
    sequence: int = 0
    added: int = 0
    by: str | None = None

    def sequences(self, connection: apsw.Connection, ranges: Sequence[Range]) -> Iterator[int]:
        """Iterate over those of some records that are under this hold, as far as they have content."""
        condition, values = self._condition()
        for start in range(0, len(ranges), _PARTS):
            parts = json.dumps(ranges[start : start + _PARTS])
            for sequence, user, otlp in connection.execute(f"{_AMONG}{condition}", (parts, *values)):
                if not self._names or user in self._names or self._concerns(otlp):
                    yield sequence

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.user, self.pseudonym) if name is not None)

    def _condition(self) -> tuple[str, list[Any]]:
        terms, values = [""], list[Any]()
        if names := self._names:
            # Actor and target are in no column. That the bytes hold the name says where it is worth to read them.
            terms.append(f"({' OR '.join(['user = ? OR instr(otlp, ?)'] * len(names))})")
            values += [form for name in names for form in (name, name.encode())]
        if self.host is not None:
            terms.append("host = ?")
            values.append(self.host)
        if self.type is not None:
            terms.append("type GLOB ?")
            values.append(glob_pattern(self.type))
        if self.since is not None or self.until is not None:
            since = -(2**63) if self.since is None else self.since
            until = 2**63 - 1 if self.until is None else self.until
            terms.append("((time >= ? AND time < ?) OR (observed >= ? AND observed < ?))")
            values += [since, until, since, until]
        return " AND ".join(terms), values

    def _concerns(self, otlp: bytes) -> bool:
        try:
            found = read_log(otlp).attributes
        except ValueError:
            return True  # nobody can tell: it stays
        return any(found.get(key) in self._names for key in _PERSONS)


class Holds:
    """The holds in force, which `refresh` keeps up with the archive."""

    def __init__(self) -> None:
        self.last = 0
        """The last record that began or ended a hold, as far as they were read."""
        self._holds: dict[str, Hold] = {}

    @property
    def in_force(self) -> tuple[Hold, ...]:
        """The holds, oldest first."""
        return tuple(self._holds.values())

    def refresh(self, connection: apsw.Connection) -> bool:
        """Read what was held or released since the last time, and tell whether there was anything.

        Args:
            connection: Reads the archive.

        Raises:
            IntegrityError: A hold cannot be read; then nothing must be removed.
        """
        changed = False
        rows: Any = connection.execute(_RECORDS, (self.last,)).fetchall()
        for sequence, type_, otlp in rows:
            changed = True
            hold = _read(sequence, otlp)
            if type_ == ADDED:
                self._holds[hold.id] = hold
            else:
                self._holds.pop(hold.id, None)
            self.last = sequence
        return changed

    def ranges(self, connection: apsw.Connection, ranges: Iterable[Range]) -> list[Range]:
        """Return which of some records are under a hold, as far as they have content."""
        given = list(ranges)
        held = set[int]()
        for hold in self.in_force:
            held.update(hold.sequences(connection, given))
        return ranges_of(sorted(held))


def load_holds(connection: apsw.Connection) -> Holds:
    """Return the holds in force.

    Raises:
        IntegrityError: One cannot be read.
    """
    holds = Holds()
    holds.refresh(connection)
    return holds


def _read(sequence: int, otlp: bytes) -> Hold:
    try:
        log = read_log(otlp)
        # A criterion of a later version would narrow the hold: without it, more is held.
        names = [name for name in ("id", "reason", *_CRITERIA) if f"{_GROUP}{name}" in log.attributes]
        found: dict[str, Any] = {name: log.attributes[f"{_GROUP}{name}"] for name in names}
        hold = Hold(
            **found, sequence=sequence, added=log.observed, by=str(log.attributes.get(keys.ACTOR_ID, "")) or None
        )
        texts = (hold.id, hold.reason, hold.user or "", hold.pseudonym or "", hold.host or "", hold.type or "")
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
        if not all(isinstance(moment, int) for moment in (hold.since or 0, hold.until or 0)):
            raise TypeError
    except (ValueError, TypeError, AttributeError):
        raise IntegrityError(f"the hold in record {sequence} cannot be read", "otel-audit verify says more") from None
    return hold


def add_hold(
    administration: Administration, reason: str, actor: Actor, fields: dict[str, Any], **criteria: str | int | None
) -> Hold:
    """Put records under a hold, those included that are still to come, and return it.

    Args:
        administration: Appends to the archive.
        reason: Why.
        actor: Who does it.
        fields: Further groups of fields of the own record.
        **criteria: ``user``, ``pseudonym``, ``host``, ``type``, ``since``, ``until`` as in `Hold`; at least one.

    Raises:
        ConfigError: There is no criterion or no reason.
        ArchiveError: Nothing was held.
    """
    given = {name: value for name, value in criteria.items() if value is not None}
    if not given:
        raise ConfigError("the hold has no criterion", "name a user, a host, a type or a time")
    if not reason.strip():
        raise ConfigError("the hold has no reason", "say why: it is recorded, and shown by the list of holds")
    clean = Cleaner()
    # Columns hold texts in this form.
    given = {name: clean.text(value, "") if isinstance(value, str) else value for name, value in given.items()}
    number = ""

    def make(connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
        nonlocal number
        taken = {hold.id for hold in load_holds(connection).in_force}
        number = next(text for text in iter(lambda: secrets.token_hex(4), "") if text not in taken)
        yield Own(ADMINISTRATION, ADDED, {"hold": {"id": number, "reason": reason, **given}, **fields}, actor)

    administration.append(make)
    with administration.database as connection:
        return next(hold for hold in load_holds(connection).in_force if hold.id == number)


def remove_hold(administration: Administration, hold: str, reason: str, actor: Actor, fields: dict[str, Any]) -> Hold:
    """Lift a hold, and return what it was.

    Args:
        administration: Appends to the archive.
        hold: Its id.
        reason: Why.
        actor: Who does it.
        fields: Further groups of fields of the own record.

    Raises:
        ConfigError: There is no such hold in force, or no reason.
        ArchiveError: It was not lifted.
    """
    if not reason.strip():
        raise ConfigError("no reason is given", "say why the hold ends: it is recorded")
    lifted: list[Hold] = []

    def make(connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
        found = next((one for one in load_holds(connection).in_force if one.id == hold), None)
        if found is None:
            raise ConfigError(f"no hold {hold!r} is in force", "see otel-audit hold list")
        lifted.append(found)
        yield Own(ADMINISTRATION, REMOVED, {"hold": {"id": hold, "reason": reason}, **fields}, actor)

    administration.append(make)
    return lifted[-1]
