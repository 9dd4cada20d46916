"""Finds a person's records: by user and actor, by their pseudonyms, and by mentions in the records of others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.leaf import ADMINISTRATION, EVENT
from otel_audit.clean import Cleaner
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.otlp import LogFields, read_log
from otel_audit.record import Value

__all__ = ["WINDOW", "HoldRecords", "Match", "Subject", "hold_records", "search", "texts_of"]

WINDOW: Final = 4_096
"""Sequences that are searched in one go: between them, others can have the connection and the log be reused."""

_HOLDS: Final = ("audit.hold.added", "audit.hold.removed")
_COLUMNS: Final = "sequence, kind, record_id, leaf, otlp"
_SEARCH: Final = (
    f"SELECT {_COLUMNS} FROM record WHERE sequence BETWEEN ? AND ? AND otlp IS NOT NULL"
    f" AND (kind <= {EVENT} OR (kind = {ADMINISTRATION} AND type = 'audit.read')) AND "
)
_HOLD_RECORDS: Final = (
    f"SELECT {_COLUMNS} FROM record INDEXED BY own WHERE kind > 1 AND kind = {ADMINISTRATION} AND otlp IS NOT NULL"
    f" AND type IN {_HOLDS} ORDER BY sequence"
)
_IMPERSONAL: Final = frozenset({
    "against", "checkpoint", "command", "host", "id", "output", "output-file", "pseudonym-key", "reason", "source",
    "type",
})  # fmt: skip
"""Fields of searches and holds that never name a person, and may have the text that a person has for a name."""
# A name is not meant where it is a part of another one: alice-2, alice.smith, bob+alice, alice@elsewhere.example.
_BEFORE: Final = r"(?<![\w@+-])(?<!\w\.)"
_AFTER_NAME: Final = r"(?![\w@+-]|\.\w)"
_AFTER_ADDRESS: Final = r"(?![\w+-]|\.\w)"


@dataclass(frozen=True)
class Subject:
    """A user of a host, in all forms in which records name them.

    Args:
        user: The user's name, as `otel_audit.archive.filters.Filter` takes it.
        host: The host.
        pseudonym: Turns a text into its pseudonym: records with that in place of the name are the person's, too.

    Raises:
        ConfigError: No host is named.
    """

    user: str
    host: str
    pseudonym: Callable[[str], str] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check that there is a host."""
        if not self.host:
            raise ConfigError("the person's host is missing", "give USER@HOST")

    @cached_property
    def recorded_host(self) -> str:
        """The host as it is recorded."""
        return Cleaner().text(self.host, "")

    @cached_property
    def names(self) -> frozenset[str]:
        """What stands in place of the user in records of the host."""
        return self._forms(self.user)

    @cached_property
    def addresses(self) -> frozenset[str]:
        """What names the user together with the host, anywhere."""
        return self._forms(f"{self.user}@{self.host}")

    def _forms(self, text: str) -> frozenset[str]:
        recorded = Cleaner().text(text, "")
        return frozenset((recorded,) if self.pseudonym is None else (recorded, self.pseudonym(recorded)))

    def is_named(self, text: str, *, here: bool, any_case: bool = False) -> bool:
        """Tell whether a text names the person; an empty name is found in none.

        Args:
            text: The text.
            here: Whether it is about the person's host, so that the name alone will do.
            any_case: Whether upper and lower case count as the same.
        """
        if not self.user:
            return False
        if any_case:
            return re.search(self._pattern(here=here), text, re.IGNORECASE) is not None
        return (self._here if here else self._anywhere).search(text) is not None

    @cached_property
    def _here(self) -> re.Pattern[str]:
        return re.compile(self._pattern(here=True))

    @cached_property
    def _anywhere(self) -> re.Pattern[str]:
        return re.compile(self._pattern(here=False))

    def _pattern(self, *, here: bool) -> str:
        forms = [f"{re.escape(address)}{_AFTER_ADDRESS}" for address in sorted(self.addresses)]
        if here:
            forms += [f"{re.escape(name)}{_AFTER_NAME}" for name in sorted(self.names)]
        return f"{_BEFORE}(?:{'|'.join(forms)})"

    @cached_property
    def condition(self) -> tuple[str, tuple[Any, ...]]:
        """A condition that holds for every record which may be the person's, and its values."""
        if not self.user:
            return f"(user = '' OR kind = {ADMINISTRATION})", ()
        # The bytes of an actor or a mention stand in no column.
        needles = sorted(self.names | self.addresses)
        return "(" + " OR ".join(["instr(otlp, CAST(? AS BLOB))"] * len(needles)) + ")", tuple(needles)


class Match(NamedTuple):
    """A record that names the person.

    Args:
        sequence: Its position.
        kind: Its kind.
        record_id: Its id, 16 bytes.
        leaf: Its leaf hash.
        otlp: Its bytes.
        theirs: Whether the person is its user or actor, or was looked for; else it only mentions them.
    """

    sequence: int
    kind: int
    record_id: bytes
    leaf: bytes
    otlp: bytes
    theirs: bool


class HoldRecords(NamedTuple):
    """The records of legal holds that name the person.

    Args:
        lifted: Of holds that were lifted.
        in_force: Of holds on the person.
        mentions: Of other holds, whose reason names the person.
    """

    lifted: list[Match]
    in_force: list[Match]
    mentions: list[Match]


def search(connection: apsw.Connection, subject: Subject, first: int, last: int) -> Iterator[Match]:
    """Iterate over the events and audited reads that name a person, in the order of their sequences.

    Args:
        connection: Reads the archive.
        subject: The person.
        first: The first sequence to look at.
        last: The last one.

    Raises:
        ArchiveError: A record is damaged.
    """
    condition, values = subject.condition
    row: Any
    for row in connection.execute(_SEARCH + condition, (first, last, *values)):
        log = _read(row[0], row[4])
        if row[1] > EVENT:
            if _is_asked_for(log, "read", subject):
                yield Match._make((*row, True))
        elif _is_theirs(log, subject):
            yield Match._make((*row, True))
        elif _mentions(log, subject):
            yield Match._make((*row, False))


def hold_records(connection: apsw.Connection, subject: Subject) -> HoldRecords:
    """Return the records of legal holds that name a person: all records of each such hold.

    Args:
        connection: Reads the archive.
        subject: The person.

    Raises:
        ArchiveError: A record is damaged.
    """
    holds: dict[Value, list[Match]] = {}
    naming, mentioning, lifted = set[Value](), set[Value](), set[Value]()
    row: Any
    for row in connection.execute(_HOLD_RECORDS):
        log = _read(row[0], row[4])
        identity = log.attributes.get(f"{keys.CUSTOM_PREFIX}hold.id")
        holds.setdefault(identity, []).append(Match._make((*row, True)))
        if _is_asked_for(log, "hold", subject):
            naming.add(identity)
        elif subject.is_named(str(log.attributes.get(f"{keys.CUSTOM_PREFIX}hold.reason", "")), here=True):
            mentioning.add(identity)
        # Another hold can get the id of one that was lifted.
        (lifted.add if log.event_name == _HOLDS[1] else lifted.discard)(identity)
    found = HoldRecords([], [], [])
    for identity, records in holds.items():
        if identity in lifted & (naming | mentioning):
            found.lifted.extend(records)
        elif identity in naming:
            found.in_force.extend(records)
        elif identity in mentioning:
            found.mentions.extend(match._replace(theirs=False) for match in records)
    return found


def _read(sequence: int, otlp: bytes) -> LogFields:
    try:
        return read_log(otlp)
    except ValueError as error:
        raise ArchiveError(
            f"record {sequence} cannot be decoded: {error}", "the archive is damaged: otel-audit verify says more"
        ) from error


def _is_theirs(log: LogFields, subject: Subject) -> bool:
    get = log.attributes.get
    if get(keys.HOST) != subject.recorded_host:
        return False
    if get(keys.USER_NAME) in subject.names:
        return True
    # A service or a system may have the name of a person.
    actor = get(keys.ACTOR_ID)
    return bool(subject.user) and get(keys.ACTOR_TYPE) == "user" and actor in subject.names | subject.addresses


def _is_asked_for(log: LogFields, group: str, subject: Subject) -> bool:
    """Tell whether one of the archive's own records says that the person was looked for, or held."""
    prefix = f"{keys.CUSTOM_PREFIX}{group}."
    fields = {key.removeprefix(prefix): value for key, value in log.attributes.items() if key.startswith(prefix)}
    criteria = fields.pop("filter", None)
    asked: dict[str, Value] = {**fields, **criteria} if isinstance(criteria, Mapping) else fields
    target = asked.get("target")
    if isinstance(target, str):
        # As it was typed, HOST or USER@HOST.
        user, separator, asked["host"] = target.rpartition("@")
        if not separator:
            del asked["target"]
        elif not user:
            asked["user"] = ""
    here = asked.get("host") in {None, subject.recorded_host}
    if not subject.user:
        return here and asked.get("user") == ""
    named = (text for key, value in asked.items() if key not in _IMPERSONAL for text in texts_of(value))
    return any(subject.is_named(text, here=here) for text in named)


def _mentions(log: LogFields, subject: Subject) -> bool:
    here = log.attributes.get(keys.HOST) == subject.recorded_host
    return any(subject.is_named(text, here=here) for text in _texts(log))


def texts_of(value: Value) -> Iterator[str]:
    """Iterate over the texts in a value, names of fields in maps included."""
    match value:
        case str():
            yield value
        case bytes():
            yield value.decode(errors="replace")
        case Mapping():
            for key, item in value.items():
                yield key
                yield from texts_of(item)
        case tuple():
            for item in value:
                yield from texts_of(item)


def _texts(log: LogFields) -> Iterator[str]:
    """Iterate over the texts of a record that can hold personal data: all but host, source and type."""
    for key, value in log.attributes.items():
        if key in {keys.HOST, keys.SOURCE}:
            continue
        if key.startswith(keys.CUSTOM_PREFIX):
            yield key.removeprefix(keys.CUSTOM_PREFIX).partition(".")[2]
        yield from texts_of(value)
    yield from texts_of(log.body)
