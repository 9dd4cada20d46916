"""Erases a person's records: their content goes, tombstones stay, and one of the archive's own records says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.database import Database, archive_errors
from otel_audit.archive.holds import load_holds
from otel_audit.archive.leaf import ERASURE
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.ranges import Range, count, format_ranges, intersection, merged, ranges_of
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.subjects import WINDOW, Subject, hold_records, search, texts_of
from otel_audit.archive.vacuum import note_pending
from otel_audit.archive.windows import next_window
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.otlp import read_log
from otel_audit.record import Actor, Value

__all__ = ["Order", "Plan", "erase", "plan"]

FORGOTTEN: Final = "an answer that named a record which was erased"
"""In the place of what a collector said."""
_SHORTEST: Final = 4
"""Shorter values of records, such as ``yes``, tell nothing of a person in a collector's answer."""
_PERSONAL: Final = (keys.USER_NAME, keys.USER_ID, keys.SESSION_ID, keys.CLIENT_ADDRESS, keys.TARGET_ID)
_WITH_CONTENT: Final = "SELECT sequence FROM record WHERE sequence BETWEEN ? AND ? AND otlp IS NOT NULL"
_ANSWERS: Final = (
    ("dead_letter", "reason"),
    ("destination", "last_error"),
    ("destination", "blocked"),
)


class Order(NamedTuple):
    """Why, and in whose name, records are to be erased; none of it may name the person.

    Args:
        reason: Why.
        authority: Who asked for it, or the rule or ticket that it follows.
        actor: Who does it.
        process: What tells where, see `otel_audit.archive.administration.process_fields`.
    """

    reason: str
    authority: str | None
    actor: Actor
    process: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Plan:
    """What an erasure takes, or took; sequences only, and never a name.

    Args:
        ranges: The records.
        mentions: Other records that mention the person, and are left.
        held: Those among the records that a legal hold covers: as long as there are any, nothing is erased.
        delivered: How many of the records a destination has accepted, by its name: there, they are still.
    """

    ranges: list[Range]
    mentions: list[Range]
    held: list[Range]
    delivered: dict[str, int]

    @property
    def records(self) -> int:
        """How many records it takes."""
        return count(self.ranges)


class _Found(NamedTuple):
    theirs: list[int]
    mentions: list[int]

    def add(self, connection: apsw.Connection, subject: Subject, first: int, last: int) -> None:
        for match in search(connection, subject, first, last):
            (self.theirs if match.theirs else self.mentions).append(match.sequence)


def plan(database: Database, subject: Subject, *, mentions: bool = False) -> Plan:
    """Return what an erasure would take now.

    Args:
        database: The archive, opened in any mode.
        subject: The person.
        mentions: Whether to take records that only mention the person, too.

    Raises:
        ArchiveError: The archive cannot be read, or a record is damaged.
    """
    found, _ = _search_all(database, subject)
    with database as connection, archive_errors(database.path):
        return _plan(connection, subject, found, mentions=mentions)


def erase(administration: Administration, subject: Subject, order: Order, *, mentions: bool = False) -> Plan:
    """Erase a person's records and append what says so, in one transaction.

    Copies may remain in unused space of the files until `otel_audit.archive.vacuum.vacuum` was called.

    Args:
        administration: Of the archive.
        subject: The person.
        order: Why, and in whose name.
        mentions: Whether to erase records that only mention the person, too.

    Returns:
        What was erased; nothing was changed where there is no such record.

    Raises:
        ArchiveError: Nothing was erased: the archive cannot be used, or a legal hold covers one of the records.
        ConfigError: There is no reason, or it names the person.
    """
    _check(order, subject)
    found, head = _search_all(administration.database, subject)
    done: list[Plan] = []

    def make(connection: apsw.Connection, tree: Frontier) -> list[Own]:
        # What was committed since the search began.
        found.add(connection, subject, head + 1, tree.size)
        made = _plan(connection, subject, found, mentions=mentions)
        if made.held:
            raise ArchiveError(
                f"nothing was erased: a legal hold covers {_records(made.held)}",
                "otel-audit hold list shows it; records can be erased when it was lifted",
            )
        done[:] = [made]
        if not made.ranges:
            return []
        _forget_answers(connection, subject, made.ranges)
        remove(connection, made.ranges)
        note_pending(connection, tree.size + 1)
        return list(_own(order, made.ranges))

    if not found.theirs and not (mentions and found.mentions):
        with administration.database as connection, archive_errors(administration.database.path):
            now = _plan(connection, subject, found, mentions=mentions)
        if not now.ranges and not now.held:
            return now
    administration.append(make)
    return done[0]


def _records(ranges: list[Range]) -> str:
    return f"record {ranges[0][0]}" if count(ranges) == 1 else f"{count(ranges)} records: {format_ranges(ranges)}"


def _check(order: Order, subject: Subject) -> None:
    if not order.reason.strip():
        raise ConfigError("the reason is empty", "say why, without naming the person")
    for name, text in (("reason", order.reason), ("authority", order.authority)):
        if text is not None and subject.is_named(text, here=True, any_case=True):
            raise ConfigError(f"the {name} names the person, and stays for ever", "word it without the name")


def _search_all(database: Database, subject: Subject) -> tuple[_Found, int]:
    """Return what there is, in the order of sequences, and the last sequence that was looked at."""
    found = _Found([], [])
    with database as connection, archive_errors(database.path):
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
    window: Range | None = (0, 0)
    while window is not None:
        # Between windows others get the connection, and the log can be reused.
        with database as connection, archive_errors(database.path):
            window = next_window(connection, window[1] + 1, head, WINDOW)
            if window is not None:
                found.add(connection, subject, *window)
    return found, head


def _plan(connection: apsw.Connection, subject: Subject, found: _Found, *, mentions: bool) -> Plan:
    holds = hold_records(connection, subject)
    wanted = {*found.theirs, *(match.sequence for match in holds.lifted), *(found.mentions if mentions else ())}
    in_force = ranges_of(match.sequence for match in holds.in_force)
    # The reason of a hold in force stays as long as the hold.
    others = [*(() if mentions else found.mentions), *(match.sequence for match in holds.mentions)]
    ranges = _with_content(connection, merged((sequence, sequence) for sequence in wanted))
    return Plan(
        ranges,
        _with_content(connection, merged((sequence, sequence) for sequence in others)),
        merged([*load_holds(connection).ranges(connection, ranges), *in_force]),
        _delivered(connection, ranges),
    )


def _with_content(connection: apsw.Connection, ranges: list[Range]) -> list[Range]:
    """Return those of the records that still have content: others may erase and prune at the same time."""
    return ranges_of(sequence for part in ranges for (sequence,) in connection.execute(_WITH_CONTENT, part))


def _delivered(connection: apsw.Connection, ranges: list[Range]) -> dict[str, int]:
    delivered = {}
    destinations: Any = connection.execute("SELECT name, cursor FROM destination ORDER BY name").fetchall()
    for name, cursor in destinations:
        refused = ranges_of(
            sequence
            for (sequence,) in connection.execute(
                "SELECT sequence FROM dead_letter WHERE destination = ? ORDER BY sequence", (name,)
            )
        )
        behind = intersection(ranges, [(1, cursor)]) if cursor else []
        delivered[str(name)] = count(behind) - count(intersection(behind, refused))
    return delivered


def _own(order: Order, ranges: list[Range]) -> Iterator[Own]:
    given = {"reason": order.reason, **({} if order.authority is None else {"authority": order.authority})}
    for fields in removal_fields(ranges, **given):
        yield Own(ERASURE, "audit.records.erased", {**fields, "process": order.process}, order.actor)


def _forget_answers(connection: apsw.Connection, subject: Subject, ranges: list[Range]) -> None:
    """Replace what collectors answered where it may quote one of the records."""
    answers = {
        (table, column, text)
        for table, column in _ANSWERS
        for (text,) in connection.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL")
    }
    if not answers:
        return
    personal = set(_personal(connection, ranges)) | subject.addresses
    for table, column, text in answers:
        if subject.is_named(text, here=True) or any(value in text for value in personal):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (FORGOTTEN, text))


def _personal(connection: apsw.Connection, ranges: list[Range]) -> Iterator[str]:
    """Iterate over what records hold of a person."""
    for part in ranges:
        for (otlp,) in connection.execute(
            "SELECT otlp FROM record WHERE sequence BETWEEN ? AND ? AND otlp IS NOT NULL", part
        ):
            log = read_log(otlp)
            values = [
                value for key, value in log.attributes.items() if key in _PERSONAL or key.startswith(keys.CUSTOM_PREFIX)
            ]
            for value in (*values, log.body):
                yield from (text for text in texts_of(value) if len(text) >= _SHORTEST)
