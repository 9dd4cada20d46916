"""What a query asks for, as one frozen class, and its SQL."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from otel_audit.archive.index import FIELDS
from otel_audit.clean import Cleaner
from otel_audit.errors import ConfigError
from otel_audit.otlp import LogFields
from otel_audit.record import Value, canonical_address

__all__ = ["Filter", "nanoseconds"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanoseconds(moment: datetime | int) -> int:
    """Return an aware datetime, or nanoseconds, as nanoseconds since the epoch that fit into a column.

    Raises:
        ConfigError: The datetime is naive.
    """
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ConfigError(f"{moment} is naive", "give it a tzinfo such as datetime.UTC")
        moment = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    if not isinstance(moment, int):
        raise ConfigError(f"{moment!r} is no time", "give an aware datetime, or nanoseconds since the epoch as int")
    # "Until the year 9999" is a way to say "without end".
    return max(-(2**63), min(moment, 2**63 - 1))


@dataclass(frozen=True)
class Filter:
    """What a query asks for; each criterion that is given must hold.

    Args:
        host: The host.
        user: The user.
        host_wide: True: only records without a user; False: only records with one.
        types: Event types, ``*`` matches any text; one of them must match.
        sources: Sources, likewise.
        outcome: ``success``, ``failure`` or ``unknown``.
        session: The session's id.
        address: An address, a network in CIDR notation, or the text that was recorded.
        trace_id: 32 hex digits.
        record_id: The record's id.
        where: Attributes by key (``audit.target.id``), JSON name (``target.id``, ``message``) or custom field
            (``reason.condition``), with the text that the value must have.
        grep: A regular expression that some text of the record must match, ignoring case.
        since: Not before, by the time of the event; aware datetime or nanoseconds.
        until: Before.
        after: Sequences above this one.
        before: Sequences below this one.
    """

    host: str | None = None
    user: str | None = None
    host_wide: bool | None = None
    types: Sequence[str] = ()
    sources: Sequence[str] = ()
    outcome: str | None = None
    session: str | None = None
    address: str | None = None
    trace_id: str | None = None
    record_id: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    grep: str | None = None
    since: datetime | int | None = None
    until: datetime | int | None = None
    after: int | None = None
    before: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked before the archive is opened.

        Raises:
            ConfigError: A criterion cannot be understood.
        """
        for name, patterns in (("types", self.types), ("sources", self.sources)):
            if isinstance(patterns, str):
                raise ConfigError(f"{name}={patterns!r} is one text", f"give a sequence: {name}=[{patterns!r}]")
        if self.trace_id is not None and not re.fullmatch("[0-9a-fA-F]{32}", self.trace_id):
            raise ConfigError(f"trace id {self.trace_id!r} is none", "give 32 hexadecimal digits")
        if self.record_id is not None and not re.fullmatch("[0-9a-fA-F]{32}", self.record_id.replace("-", "")):
            raise ConfigError(f"record id {self.record_id!r} is none", "give the UUID that the receipt holds")
        if self.grep is not None:
            try:
                re.compile(self.grep)
            except re.error as error:
                raise ConfigError(
                    f"{self.grep!r} is no regular expression: {error}", "escape special characters"
                ) from None
        for moment in (self.since, self.until):
            if moment is not None:
                nanoseconds(moment)

    @cached_property
    def network(self) -> Network | None:
        """The network that the address must lie in, where `address` is one with a prefix."""
        if self.address is None or "/" not in self.address:
            return None
        try:
            return ipaddress.ip_network(self.address, strict=False)
        except ValueError:
            return None

    @cached_property
    def indexed(self) -> dict[int, str | bytes]:
        """The criteria that postings answer: number of the field to value."""
        values: dict[str, str | bytes | None] = {
            "host": _recorded(self.host),
            "user": _recorded(self.user),
            "trace": bytes.fromhex(self.trace_id) if self.trace_id else None,
            "address": None if self.network else _address(self.address),
        }
        return {FIELDS[name]: value for name, value in values.items() if value is not None}

    @cached_property
    def sql(self) -> tuple[str, list[Any]]:
        """A condition over the columns of ``record``, and its values."""
        terms: list[str] = ["kind = 1"]
        values: list[Any] = []

        def add(term: str, *given: Any) -> None:
            terms.append(term)
            values.extend(given)

        for column, number in FIELDS.items():
            if number in self.indexed:
                add(f"{column} = ?", self.indexed[number])
        for column, wanted in (("outcome", self.outcome), ("session", _recorded(self.session))):
            if wanted is not None:
                add(f"{column} = ?", wanted)
        if self.host_wide is not None:
            add(f"user IS {'' if self.host_wide else 'NOT '}NULL")
        for column, patterns in (("type", self.types), ("source", self.sources)):
            if patterns:
                add("(" + " OR ".join([f"{column} GLOB ?"] * len(patterns)) + ")", *map(_glob, patterns))
        if self.record_id is not None:
            add("record_id = ?", bytes.fromhex(self.record_id.replace("-", "")))
        for term, moment in (("time >= ?", self.since), ("time < ?", self.until)):
            if moment is not None:
                add(term, nanoseconds(moment))
        return " AND ".join(terms), values

    @property
    def needs_content(self) -> bool:
        """Whether `matches` has to look at a record that the columns let through."""
        return bool(self.where or self.grep or self.network)

    def matches(self, log: LogFields, record_id: str) -> bool:
        """Tell whether a record fulfils the criteria that only its content can answer."""
        if self.network is not None and not _lies_in(log.attributes.get("client.address"), self.network):
            return False
        if any(_attribute(log, key, record_id) != _recorded(wanted) for key, wanted in self.where.items()):
            return False
        return self.grep is None or any(self._pattern.search(text) for text in _texts(log, record_id))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.grep or "", re.IGNORECASE)


_SHORT_NAMES: Final = {
    "user": "user.name", "host": "otel_audit.host", "source": "otel_audit.source", "outcome": "audit.outcome",
    "action": "audit.action", "actor.id": "audit.actor.id", "actor.type": "audit.actor.type",
    "target.id": "audit.target.id", "target.type": "audit.target.type", "session.type": "otel_audit.session.type",
    "session.ip": "client.address", "session.client": "user_agent.original",
}  # fmt: skip


def _attribute(log: LogFields, key: str, record_id: str) -> str | None:
    own = {
        "type": log.event_name, "event_name": log.event_name, "message": log.body, "body": log.body,
        "trace_id": log.trace_id, "span_id": log.span_id, "record_id": record_id, "audit.record.id": record_id,
    }  # fmt: skip
    if key in own:
        return _shown(own[key])
    for name in (key, _SHORT_NAMES.get(key, key), f"otel_audit.custom.{key}", f"otel_audit.{key}"):
        if name in log.attributes:
            return _shown(log.attributes[name])
    return None


def _shown(value: Value) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.hex()
        case _:
            return str(value)


def _texts(log: LogFields, record_id: str) -> list[str]:
    return [log.event_name, _shown(log.body), record_id, *map(_shown, log.attributes.values())]


def _lies_in(address: Value, network: Network) -> bool:
    try:
        return ipaddress.ip_address(str(address)) in network
    except ValueError:
        return False


def _recorded(text: str | None) -> str | None:
    """Return a text as it is recorded: invalid Unicode and NUL escaped, see `otel_audit.clean`."""
    return None if text is None else Cleaner().text(text, "")


def _address(text: str | None) -> str | None:
    return None if text is None else canonical_address(text) or _recorded(text)


def _glob(pattern: str) -> str:
    """Return a pattern in which only ``*`` is special, for SQLite's GLOB."""
    return Cleaner().text(pattern, "").replace("[", "[[]").replace("?", "[?]")
