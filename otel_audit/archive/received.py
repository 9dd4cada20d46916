"""Keeps records that were made elsewhere, each once: what comes again with its id is recognised, and not copied.

The index ``received`` finds the id among the records themselves, within the transaction that would append it: nothing
beside the records says what was received, so that nobody can make believe that a record is there already. Whatever an
id's record holds is compared; one whose content was erased or pruned counts as recorded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import apsw

from otel_audit.archive.commit import Header, Row, row_of
from otel_audit.archive.leaf import RECEIVED, header_digest
from otel_audit.otlp import decode, encode
from otel_audit.record import AuditRecord, Receipt

if TYPE_CHECKING:
    from otel_audit.archive.merkle import Frontier
    from otel_audit.archive.writer import Writer

__all__ = ["Foreign", "Kept", "keep"]

_FOUND: Final = (
    "SELECT record_id, sequence, observed, leaf, digest, otlp FROM json_each(?) CROSS JOIN record INDEXED BY received"
    " ON kind = 0 AND record_id = unhex(value) LEFT JOIN resource ON resource.id = record.resource ORDER BY sequence"
)
_OF_RECORDING: Final = ("timestamp:future", "timestamp:out-of-range:", "signature:")
"""What marks of the moment and the place of recording begin with: they are no content."""


class Foreign(NamedTuple):
    """A record that was made elsewhere.

    Args:
        record: The record, with the id, the time and the time of recording that it is to have.
        otlp: Its bytes, as `otel_audit.otlp.encode` makes them.
        resource: Bytes of the OTLP ``Resource`` that it belongs to.
        scope: Bytes of the OTLP ``InstrumentationScope``.
    """

    record: AuditRecord
    otlp: bytes
    resource: bytes = b""
    scope: bytes = b""


class Kept(NamedTuple):
    """What became of a foreign record.

    Args:
        outcome: ``recorded``; ``repeat``: it had been recorded before, or stands earlier in the same batch;
            ``conflict``: another record has its id, and this one was **not** recorded.
        receipt: Of the record that has the id. Where that was there before, its time is the record's own time of
            recording.
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


class _Batch:
    """Sorts out, within the transaction, which records of a batch are new."""

    def __init__(self, batch: Sequence[Foreign]) -> None:
        self._batch = batch
        self._new: list[Foreign] = []
        # Of each record: what became of it, and its place among the new ones, or the receipt of what is there.
        self._fates: list[tuple[Literal["recorded", "repeat", "conflict"], int | Receipt]] = []

    def groups(self, connection: apsw.Connection, _tree: Frontier) -> Iterator[tuple[Header, list[Row]]]:
        """Iterate over the rows of what is new, with what they are shipped under."""
        there = self._there(connection)
        places: dict[str, int] = {}
        for foreign in self._batch:
            identity = foreign.record.record_id
            place = places.get(identity)
            if found := there.get(identity):
                self._fates.append(_compared(foreign, found))
            elif place is not None:
                same = _content(foreign.record) == _content(self._new[place].record)
                same = same and foreign[2:] == self._new[place][2:]
                self._fates.append(("repeat" if same else "conflict", place))
            else:
                places[identity] = len(self._new)
                self._fates.append(("recorded", len(self._new)))
                self._new.append(foreign)
        return _grouped(self._new)

    def _there(self, connection: apsw.Connection) -> dict[str, list[tuple[Any, ...]]]:
        """Return what the archive holds under the ids of the batch."""
        import json  # start-up time: nothing else here needs it

        wanted = {foreign.record.record_id.replace("-", ""): foreign.record.record_id for foreign in self._batch}
        found: dict[str, list[tuple[Any, ...]]] = {}
        rows: Any = connection.execute(_FOUND, (json.dumps(list(wanted)),))
        for identity, *row in rows:
            found.setdefault(wanted[identity.hex()], []).append(tuple(row))
        return found

    def kept(self, first: int, leaves: Sequence[bytes], committed: int) -> list[Kept]:
        """Return what became of each record, once the new ones are committed."""
        receipts = [
            Receipt(foreign.record.record_id, sequence, leaf.hex(), committed)
            for sequence, (foreign, leaf) in enumerate(zip(self._new, leaves, strict=True), first)
        ]
        return [Kept(outcome, receipts[at] if isinstance(at, int) else at) for outcome, at in self._fates]


def _grouped(new: Sequence[Foreign]) -> Iterator[tuple[Header, list[Row]]]:
    """Iterate over the rows, those together that stand together and are shipped under the same."""
    rows: list[Row] = []
    header: Header = (b"", b"")
    for record, otlp, resource, scope in new:
        if rows and header != (resource, scope):
            yield header, rows
            rows = []
        header = (resource, scope)
        rows.append(row_of(record, otlp, RECEIVED))
    yield header, rows


def _compared(foreign: Foreign, found: Sequence[tuple[Any, ...]]) -> tuple[Literal["repeat", "conflict"], Receipt]:
    """Compare a record with what has its id: as a rule one row."""
    identity = foreign.record.record_id
    content, digest = _content(foreign.record), header_digest(foreign.resource, foreign.scope)
    for sequence, observed, leaf, header, otlp in found:
        if otlp is None or (header == digest and _stored_content(otlp, identity) == content):
            return "repeat", Receipt(identity, sequence, leaf.hex(), observed)
    sequence, observed, leaf, *_ = found[0]
    return "conflict", Receipt(identity, sequence, leaf.hex(), observed)


def _stored_content(otlp: bytes, identity: str) -> bytes:
    try:
        return _content(decode(otlp, identity))
    except ValueError:
        return b""  # somebody changed it: no record has that content


def _content(record: AuditRecord) -> bytes:
    """Return a record's content, as bytes: values that are no number do not equal themselves."""
    return encode(
        record._replace(
            # A record without a time of its own got that of its recording.
            time=0 if record.time == record.observed else record.time,
            observed=0,
            altered=tuple(mark for mark in record.altered if not mark.startswith(_OF_RECORDING)),
        )
    )
