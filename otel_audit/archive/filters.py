"""What a query asks for, as one frozen class, and its SQL."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from otel_audit.archive.index import EVENTS, FIELDS, OWN
from otel_audit.clean import Cleaner
from otel_audit.errors import ConfigError
from otel_audit.otlp import LogFields
from otel_audit.record import Value, canonical_address

__all__ = ["Filter", "glob_pattern", "names_of", "nanoseconds", "one_of"]

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
        address: An address, a network in CIDR notation, or the text that was recorded. Truncated addresses that it may
            be one of are found, too.
        trace_id: 32 hex digits.
        record_id: The record's id.
        where: Attributes by key (``audit.target.id``), JSON name (``target.id``, ``message``) or custom field
            (``reason.condition``), with the text that the value must have.
        grep: A regular expression that some text of the record must match, ignoring case.
        since: Not before, by the time of the event; aware datetime or nanoseconds.
        until: Before.
        after: Sequences above this one.
        before: Sequences below this one.
        admin: The archive's own records (checkpoints, erasures, reads) instead of events.
        pseudonym: Turns a text into its pseudonym: records with that in place of user, session, address or a value of
            `where` are found, too. Not compared.
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
    admin: bool = False
    pseudonym: Callable[[str], str] | None = field(default=None, compare=False, repr=False)

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
    def indexed(self) -> dict[int, tuple[str | bytes, ...]]:
        """The criteria that postings answer: number of the field to values, one of which it must have."""
        # Own records have an index to themselves.
        return {} if self.admin else {FIELDS[column]: forms for column, forms in self.exact.items()}

    @cached_property
    def exact(self) -> dict[str, tuple[str | bytes, ...]]:
        """The columns ``host``, ``user``, ``trace`` and ``address``, where they must have one of some values."""
        host = _recorded(self.host)
        values: dict[str, tuple[str | bytes, ...]] = {
            "host": () if host is None else (host,),
            "user": self.forms(self.user),
            "trace": (bytes.fromhex(self.trace_id),) if self.trace_id else (),
            "address": () if self.network else self._addresses(),
        }
        return {column: forms for column, forms in values.items() if forms}

    def forms(self, text: str | None) -> tuple[str, ...]:
        """Return the forms in which a text may have been recorded: as it is, as a pseudonym."""
        recorded = _recorded(text)
        if recorded is None:
            return ()
        return (recorded,) if self.pseudonym is None else (recorded, self.pseudonym(recorded))

    def _addresses(self) -> tuple[str, ...]:
        """Return the forms in which the address may have been recorded: as it is, truncated, as a pseudonym."""
        canonical = None if self.address is None else canonical_address(self.address)
        if canonical is None:
            return self.forms(self.address)
        whole = ipaddress.ip_network(canonical.partition("%")[0])
        networks = [str(whole.supernet(new_prefix=prefix)) for prefix in range(whole.max_prefixlen)]
        if isinstance(whole, ipaddress.IPv6Network) and (mapped := whole.network_address.ipv4_mapped) is not None:
            own = ipaddress.IPv4Network(mapped)
            networks += [str(own.supernet(new_prefix=prefix)) for prefix in range(32)]
        forms = [*self.forms(canonical), *networks]
        if self.pseudonym is not None:
            forms += map(self.pseudonym, networks)
        return tuple(forms)

    @cached_property
    def sql(self) -> tuple[str, list[Any]]:
        """A condition over the columns of ``record``, and its values."""
        terms: list[str] = [OWN if self.admin else EVENTS]
        values: list[Any] = []

        def add(term: str, *given: Any) -> None:
            terms.append(term)
            values.extend(given)

        for column, forms in self.exact.items():
            add(*one_of(column, forms))
        if self.outcome is not None:
            add("outcome = ?", _recorded(self.outcome))
        if self.session is not None:
            add(*one_of("session", self.forms(self.session)))
        if self.host_wide is not None:
            add(f"user IS {'' if self.host_wide else 'NOT '}NULL")
        for column, patterns in (("type", self.types), ("source", self.sources)):
            if patterns:
                add("(" + " OR ".join([f"{column} GLOB ?"] * len(patterns)) + ")", *map(glob_pattern, patterns))
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
        if self.network is not None and not self._lies_in(log.attributes.get("client.address"), self.network):
            return False
        if any(_attribute(log, key, record_id) not in self.forms(wanted) for key, wanted in self.where.items()):
            return False
        return self.grep is None or any(self._pattern.search(text) for text in _texts(log, record_id))

    def _lies_in(self, address: Value, network: Network) -> bool:
        """Tell whether an address lies in a network, or may: a truncated one is as large as what is left of it."""
        text = str(address)
        try:
            recorded = ipaddress.ip_network(text.partition("%")[0] if "/" not in text else text)
        except ValueError:
            # Pseudonyms of truncated addresses are found by their network.
            return self.pseudonym is not None and text == self.pseudonym(str(network))
        return recorded.version == network.version and recorded.overlaps(network)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.grep or "", re.IGNORECASE)


_SHORT_NAMES: Final = {
    "user": "user.name", "host": "otel_audit.host", "source": "otel_audit.source", "outcome": "audit.outcome",
    "action": "audit.action", "actor.id": "audit.actor.id", "actor.type": "audit.actor.type",
    "target.id": "audit.target.id", "target.type": "audit.target.type", "session.type": "otel_audit.session.type",
    "session.ip": "client.address", "session.client": "user_agent.original",
    "session.country": "geo.country.iso_code", "session.continent": "geo.continent.code",
}  # fmt: skip


def _attribute(log: LogFields, key: str, record_id: str) -> str | None:
    own = {
        "type": log.event_name, "event_name": log.event_name, "message": log.body, "body": log.body,
        "trace_id": log.trace_id, "span_id": log.span_id, "record_id": record_id, "audit.record.id": record_id,
    }  # fmt: skip
    if key in own:
        return _shown(own[key])
    for name in names_of(key):
        if name in log.attributes:
            return _shown(log.attributes[name])
    return None


def names_of(key: str) -> tuple[str, ...]:
    """Return the attributes that a key of `Filter.where` can mean; the first one that a record has counts."""
    return key, _SHORT_NAMES.get(key, key), f"otel_audit.custom.{key}", f"otel_audit.{key}"


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


def one_of(column: str, values: Sequence[str | bytes]) -> tuple[Any, ...]:
    """Return a condition that a column has one of some values, and these."""
    if len(values) == 1:
        return (f"{column} = ?", *values)
    return (f"{column} IN ({','.join('?' * len(values))})", *values)


def _recorded(text: str | None) -> str | None:
    """Return a text as it is recorded: invalid Unicode and NUL escaped, see `otel_audit.clean`."""
    return None if text is None else Cleaner().text(text, "")


def glob_pattern(pattern: str) -> str:
    """Return a pattern in which only ``*`` is special, for SQLite's GLOB."""
    return Cleaner().text(pattern, "").replace("[", "[[]").replace("?", "[?]")
