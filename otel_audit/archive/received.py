"""Keeps records that were made elsewhere, each once: what comes again with its id is recognised, and not copied.

The index ``received`` finds the id among the records themselves, within the transaction that would append it: nothing
beside the records says what was received, so that nobody can make believe that a record is there already. Whatever an
id's record holds is compared; one whose content was erased or pruned counts as recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import apsw

from otel_audit.archive.commit import Header, Row, row_of
from otel_audit.archive.leaf import RECEIVED, header_digest
from otel_audit.build import named_record_id, new_record_id
from otel_audit.foreign import OBSERVED, ORIGIN
from otel_audit.otlp import Profile, decode, encode
from otel_audit.record import AuditRecord, Receipt

if TYPE_CHECKING:
    from otel_audit.archive.merkle import Frontier
    from otel_audit.archive.writer import Writer

__all__ = ["Foreign", "Kept", "keep"]

_FOUND: Final = (
    "SELECT record_id, sequence, observed, leaf, digest, otlp FROM json_each(?) CROSS JOIN record INDEXED BY received"
    " ON kind = 0 AND record_id = unhex(value) LEFT JOIN resource ON resource.id = record.resource ORDER BY sequence"
)
_ATTEMPTS: Final = 16
"""How many other ids are tried for a record whose id is taken, before it gets a random one."""
_OF_RECORDING: Final = ("timestamp:future", "timestamp:out-of-range:", "signature:")
"""What marks of the moment and the place of recording begin with: they are no content."""


class Foreign(NamedTuple):
    """A record that was made elsewhere.

    Args:
        record: The record, with the id, the time and the time of recording that it is to have.
        otlp: Its bytes, as `otel_audit.otlp.encode` makes them.
        resource: Bytes of the OTLP ``Resource`` that it belongs to.
        scope: Bytes of the OTLP ``InstrumentationScope``.
        rename: Whether it is recorded under an id of its own, and marked, where another record has its id.
        profile: How `otlp` was made.
    """

    record: AuditRecord
    otlp: bytes
    resource: bytes = b""
    scope: bytes = b""
    rename: bool = False
    profile: Profile = "logs"

    @property
    def header(self) -> Header:
        """What it is shipped under."""
        return self.resource, self.scope


class Kept(NamedTuple):
    """What became of a foreign record.

    Args:
        outcome: ``recorded``; ``repeat``: it had been recorded before, or stands earlier in the same batch;
            ``conflict``: another record has its id, and this one was **not** recorded.
        receipt: Of the record that has the id; of one that was renamed, its own, with the new id. Where that record
            was there before, the receipt's time is the record's own time of recording.
    """

    outcome: Literal["recorded", "repeat", "conflict"]
    receipt: Receipt


def keep(writer: Writer, batch: Sequence[Foreign], timeout: float = 10.0) -> list[Kept]:
    """Commit those of some foreign records that are not in the archive yet, in one transaction with one fsync.

    A record that comes again has the same id, resource and scope, and the same content but for its time of recording.
    Where its event has no time of its own, that one may differ as well.

    Args:
        writer: A provider's writer.
        batch: The records.
        timeout: Seconds to wait for another process's transaction.

    Returns:
        What became of each, in their order.

    Raises:
        ArchiveError: None of them was recorded.
        IntegrityError: The archive is not what it was; none of them was recorded.
    """
    batched = _Batch(batch)
    first, leaves = writer.append(batched.groups, timeout)
    return batched.kept(first, leaves, time.time_ns())


class _Stored(NamedTuple):
    """A record of the archive: its receipt, what it is shipped under, and its content; None where that is gone."""

    receipt: Receipt
    digest: bytes | None
    content: bytes | None


_Fate = tuple[Literal["recorded", "repeat", "conflict"], "int | Receipt"]
"""What became of a record, and its place among the new ones, or the receipt of what is there."""


class _Batch:
    """Sorts out, within the transaction, which records of a batch are new."""

    def __init__(self, batch: Sequence[Foreign]) -> None:
        self._batch = batch
        self._new: list[Foreign] = []
        self._contents: list[Callable[[], bytes]] = []
        self._places: dict[str, int] = {}
        self._fates: list[_Fate] = []
        self._there: dict[str, list[_Stored]] = {}
        self._digest = lru_cache(64)(header_digest)

    def groups(self, connection: apsw.Connection, _tree: Frontier) -> Iterator[tuple[Header, list[Row]]]:
        """Iterate over the rows of what is new, with what they are shipped under."""
        # On a full disk, it is called again.
        self._new, self._contents, self._places, self._fates = [], [], {}, []
        self._there = _there(connection, [foreign.record.record_id for foreign in self._batch])
        for foreign in self._batch:
            fate = self._settled(foreign, cache(partial(_content, foreign.record)))
            if fate[0] == "conflict" and foreign.rename:
                fate = self._settled_renamed(connection, foreign)
            self._fates.append(fate)
        return _grouped(self._new)

    def _settled_renamed(self, connection: apsw.Connection, foreign: Foreign) -> _Fate:
        """Find a record whose id is taken under its other ids, or record it under the first one that is free."""
        taken = foreign.record.record_id
        record = foreign.record._replace(altered=(*foreign.record.altered, f"record_id:taken:{taken}"))
        otlp = encode(record, foreign.profile)
        # Thousands may share one id, and others who record wait meanwhile: once for all ids that are tried.
        content = cache(partial(_content, record))
        fate: _Fate | None = None
        for attempt in range(_ATTEMPTS + 1):
            identity = _other_id(foreign.record, attempt)
            if attempt < _ATTEMPTS and identity not in self._there:
                self._there[identity] = _there(connection, [identity]).get(identity, [])
            renamed = foreign._replace(record=record._replace(record_id=identity), otlp=otlp)
            fate = self._settled(renamed, content)
            if fate[0] != "conflict":
                break
        assert fate is not None  # noqa: S101 - there is an attempt
        return fate

    def _settled(self, foreign: Foreign, content: Callable[[], bytes]) -> _Fate:
        """Find out what becomes of a record; one that is new is added to those that are."""
        identity = foreign.record.record_id
        if found := self._there.get(identity):
            for stored in found:
                if stored.content is None or (
                    stored.digest == self._digest(*foreign.header) and stored.content == content()
                ):
                    return "repeat", stored.receipt
            return "conflict", found[0].receipt
        if (place := self._places.get(identity)) is None:
            place = self._places[identity] = len(self._new)
            self._new.append(foreign)
            self._contents.append(content)
            return "recorded", place
        same = foreign.header == self._new[place].header and content() == self._contents[place]()
        return "repeat" if same else "conflict", place

    def kept(self, first: int, leaves: Sequence[bytes], committed: int) -> list[Kept]:
        """Return what became of each record, once the new ones are committed."""
        receipts = [
            Receipt(foreign.record.record_id, sequence, leaf.hex(), committed)
            for sequence, (foreign, leaf) in enumerate(zip(self._new, leaves, strict=True), first)
        ]
        return [Kept(outcome, receipts[at] if isinstance(at, int) else at) for outcome, at in self._fates]


def _there(connection: apsw.Connection, identities: Sequence[str]) -> dict[str, list[_Stored]]:
    """Return what the archive holds under some ids: as a rule one row each."""
    import json  # start-up time: nothing else here needs it

    wanted = {identity.replace("-", ""): identity for identity in identities}
    found: dict[str, list[_Stored]] = {}
    rows: Any = connection.execute(_FOUND, (json.dumps(list(wanted)),))
    for key, sequence, observed, leaf, digest, otlp in rows:
        identity = wanted[key.hex()]
        content = None if otlp is None else _stored_content(otlp, identity)
        found.setdefault(identity, []).append(
            _Stored(Receipt(identity, sequence, leaf.hex(), observed), digest, content)
        )
    return found


def _other_id(record: AuditRecord, attempt: int) -> str:
    """Return another id for a record, which tells nothing of its content: it stays when that is erased."""
    if attempt == _ATTEMPTS:
        return new_record_id(record.observed)
    # The same at each arrival, so that it is recognised when it comes again.
    return named_record_id(f"{record.record_id} {attempt}")


def _grouped(new: Sequence[Foreign]) -> Iterator[tuple[Header, list[Row]]]:
    """Iterate over the rows, those together that stand together and are shipped under the same."""
    rows: list[Row] = []
    header: Header = (b"", b"")
    for foreign in new:
        if rows and header != foreign.header:
            yield header, rows
            rows = []
        header = foreign.header
        rows.append(row_of(foreign.record, foreign.otlp, RECEIVED))
    yield header, rows


def _stored_content(otlp: bytes, identity: str) -> bytes:
    try:
        return _content(decode(otlp, identity))
    except ValueError:
        return b""  # somebody changed it: no record has that content


def _content(record: AuditRecord) -> bytes:
    """Return a record's content, as bytes: values that are no number do not equal themselves."""
    custom = record.custom
    if OBSERVED in (origin := custom.get(ORIGIN, {})):
        # Whoever sends it again may have observed it again.
        custom = {**custom, ORIGIN: {name: value for name, value in origin.items() if name != OBSERVED}}
    return encode(
        record._replace(
            custom=custom,
            # A record without a time of its own got that of its recording.
            time=0 if record.time == record.observed else record.time,
            observed=0,
            altered=tuple(mark for mark in record.altered if not mark.startswith(_OF_RECORDING)),
        )
    )
