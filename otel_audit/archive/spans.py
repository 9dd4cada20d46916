"""Verifies a span of records: each row against its bytes, and the part of the tree above them.

A span begins at a multiple of its length, a power of two, so that the records in it make one complete subtree, whatever
lies before: spans can be verified in any order and by several processes, and are joined afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import apsw

from otel_audit.archive.derive import DERIVED, Deriver
from otel_audit.archive.faults import UNREADABLE, Fault, Faults, describe
from otel_audit.archive.leaf import KINDS, commitment, header_digest, leaf_hash
from otel_audit.archive.merkle import Frontier, peak_ends
from otel_audit.archive.ranges import Range, ranges_of
from otel_audit.archive.signatures import SignatureCheck, Signatures, Trust

__all__ = ["LENGTH", "Span", "SpanResult", "check_span"]

LENGTH: Final = 2_048
"""Records of a span: some 0.02 s of work, in one transaction; as long as it lasts the log cannot be begun anew."""

_ROWS: Final = (
    f"SELECT sequence, kind, {', '.join(DERIVED)}, record_id, resource, leaf, node, salt, otlp, commitment FROM record"
)
_PLACEHOLDER: Final = bytes(32)
"""In the place of a leaf that cannot be known: the tree goes on, and what is above it is not compared."""
_IMPOSSIBLE: Final = (LookupError, ValueError, TypeError, AttributeError, OverflowError)
"""What values that no column of an archive can hold make the hashing raise."""


class Span(NamedTuple):
    """A range of sequences.

    Args:
        start: What precedes the span, a multiple of its length.
        first: The first record to verify; after ``start + 1`` where the nodes before it are taken as they are.
        last: The last record to verify.
        length: How many records the span has when it is complete, a power of two.
        lookups: Where to begin with the postings and zones of the run that ends with this span; 0: they are not its.
        sizes: Sizes of the tree within the span for which its root is wanted.
    """

    start: int
    first: int
    last: int
    length: int
    lookups: int
    sizes: tuple[int, ...] = ()


class SpanResult(NamedTuple):
    """What was found in a span.

    Args:
        span: The span.
        valid: Records without a fault.
        invalid: Records with one.
        missing: Sequences without a record.
        peaks: Roots of the complete subtrees of its tree; None where leaves are not known.
        peaks_at: Likewise at each of the sizes that were asked for.
        bad: The last sequence with a leaf that is not as stored; 0 for none.
        end_node: The node of the last record, where it covers more than this span; else None.
        resources: Ids of the resources that the records refer to.
        tombstones: Records whose content was removed.
        signatures: How many records are signed, and by whom.
        faults: The faults that were kept.
        fault_count: How many faults there are.
    """

    span: Span
    valid: int
    invalid: int
    missing: int
    peaks: list[bytes] | None
    peaks_at: dict[int, list[bytes]]
    bad: int
    end_node: bytes | None
    resources: frozenset[int]
    tombstones: list[Range]
    signatures: Signatures
    faults: list[Fault]
    fault_count: int


def check_span(connection: apsw.Connection, span: Span, keep: int, trust: Trust, deriver: Deriver) -> SpanResult:
    """Verify a span of records.

    Args:
        connection: Reads the archive.
        span: The span.
        keep: Most faults to keep.
        trust: Keys of producers.
        deriver: Remembers what recurs, from span to span.
    """
    return _Check(connection, span, keep, trust, deriver).result()


class _Check:
    def __init__(self, connection: apsw.Connection, span: Span, keep: int, trust: Trust, deriver: Deriver) -> None:
        self._connection = connection
        self._span = span
        self._faults = Faults(keep)
        self._signatures = SignatureCheck(connection, trust, self._faults)
        self._deriver = deriver
        self._headers = _Headers(connection)
        self._tombstones: list[int] = []
        self._valid = self._invalid = self._missing = self._bad = 0
        self._broken = False
        self._end_node: bytes | None = None
        self._peaks_at: dict[int, list[bytes]] = {}
        self._tree = self._tree_before()
        self._expected = span.first

    def result(self) -> SpanResult:
        span = self._span
        try:
            self._rows(self._connection.execute(f"{_ROWS} WHERE sequence BETWEEN ? AND ? ORDER BY sequence", span[1:3]))
        except UNREADABLE:
            # Some page, or some text, cannot be read. Whatever can be is verified.
            self._rows(self._readable())
        self._skip(self._expected, span.last)
        return SpanResult(
            span, self._valid, self._invalid, self._missing, None if self._broken else self._tree.peaks,
            self._peaks_at, self._bad, self._end_node, frozenset(self._headers), ranges_of(self._tombstones),
            self._signatures.signatures, self._faults.kept, self._faults.count,
        )  # fmt: skip

    def _rows(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Verify rows, and what lies between them."""
        expected, plain, sizes = self._expected, 0, frozenset(self._span.sizes)
        try:
            for row in rows:
                sequence = row[0]
                if sequence != expected:
                    if sequence < expected:
                        # Only a damaged tree of pages gives rows out of order.
                        self._faults.add("damaged", f"record {sequence}", "rows are out of order")
                        continue
                    self._skip(expected, sequence - 1)
                expected = sequence + 1
                if self._plain(row):
                    plain += 1
                elif len(row) == 2:
                    self._unreadable(*row)
                else:
                    self._row(row)
                if sequence in sizes and not self._broken:
                    self._peaks_at[sequence] = self._tree.peaks.copy()
        finally:
            self._expected = expected
            self._valid += plain
            self._signatures.unsigned += plain

    def _readable(self) -> Iterator[tuple[Any, ...]]:
        """Iterate over the rows that are left, each read by itself: in place of one that cannot be, its error."""
        for position in range(self._expected, self._span.last + 1):
            try:
                found = self._connection.execute(f"{_ROWS} WHERE sequence = ?", (position,)).fetchall()
            except UNREADABLE as error:
                yield position, error
            else:
                yield from found

    def _tree_before(self) -> Frontier:
        """Return the tree of the span's records before the first one to verify, from the nodes that are stored."""
        size = self._span.first - 1 - self._span.start
        peaks = []
        for end in peak_ends(size):
            node = self._connection.execute(
                "SELECT coalesce(node, leaf) FROM record WHERE sequence = ?", (self._span.start + end,)
            ).get
            self._broken = self._broken or not isinstance(node, bytes)
            peaks.append(node if isinstance(node, bytes) else _PLACEHOLDER)
        return Frontier(size, peaks)

    def _skip(self, first: int, last: int) -> None:
        """Note that there are no such records."""
        if first > last:
            return
        where = f"record {first}" if first == last else f"records {first} to {last}"
        self._faults.add("missing", where, "not there")
        self._missing += last - first + 1
        self._broken, self._bad = True, last
        for _ in range(first, last + 1):
            self._tree.push(_PLACEHOLDER)

    def _unreadable(self, sequence: int, error: Exception) -> None:
        self._faults.add("unreadable", f"record {sequence}", describe(error))
        self._invalid += 1
        self._broken, self._bad = True, sequence
        self._tree.push(_PLACEHOLDER)

    def _plain(self, row: tuple[Any, ...]) -> bool:
        """Verify one row if it is as nearly all are, unsigned and without a fault; else return False, nothing done.

        Such rows are counted by the caller.
        """
        deriver = self._deriver
        try:
            (
                sequence, kind, _, observed, host, _, _, type_, _, _, _, _,
                record_id, resource, stored, node, salt, otlp, content,
            ) = row  # fmt: skip
            if content is not None or not deriver.agrees(otlp, row[2:12]) or deriver.signed:
                deriver.signed = False
                return False
            content = commitment(salt, self._headers[resource], otlp)
            if leaf_hash(kind, sequence, observed, record_id, host, type_, content) != stored:
                return False
            if kind not in KINDS or len(record_id) != 16:
                return False
        except _IMPOSSIBLE:
            return False
        if not self._grow(sequence, stored, node):
            self._valid, self._invalid = self._valid - 1, self._invalid + 1
        return True

    def _row(self, row: tuple[Any, ...]) -> None:
        """Verify one row closely, and let the tree grow by it."""
        sequence, kind = row[:2]
        record_id, resource, stored, node, salt, otlp, content = row[12:]
        columns, count = row[2:12], self._faults.count
        leaf = None
        try:
            if content is not None:
                values = self._tombstone(sequence, columns, (resource, salt, otlp), content)
            elif otlp is None or salt is None:
                raise ValueError("its content is missing")
            else:
                values = self._deriver.columns(otlp, columns)
                self._signatures.record(sequence, record_id, resource, otlp)
                content = self._commitment(sequence, resource, salt, otlp)
            if content is not None:
                leaf = leaf_hash(kind, sequence, values[1], record_id, values[2], values[5], content)
        except _IMPOSSIBLE as error:
            self._faults.add("content", f"record {sequence}", _reason(error))
        else:
            if values != columns:
                self._columns(sequence, columns, values)
        if kind not in KINDS:
            self._faults.add("kind", f"record {sequence}", f"kind {kind}")
        if not isinstance(record_id, bytes) or len(record_id) != 16:
            self._faults.add("record-id", f"record {sequence}")
        if leaf is not None and leaf != stored:
            self._faults.add("leaf", f"record {sequence}")
            self._bad = sequence
        self._grow(sequence, stored if leaf is None else leaf, node)
        if self._faults.count == count:
            self._valid += 1
        else:
            self._invalid += 1

    def _commitment(self, sequence: int, resource: Any, salt: Any, otlp: Any) -> bytes | None:
        """Return the commitment to a record's content, None where its resource is not there."""
        try:
            header = self._headers[resource]
        except KeyError:
            self._faults.add("resource", f"record {sequence}", f"there is no resource {resource}")
            return None
        return commitment(salt, header, otlp)

    def _tombstone(
        self, sequence: int, columns: tuple[Any, ...], content: tuple[Any, Any, Any], commitment: Any
    ) -> tuple[Any, ...]:
        """Return the columns that a tombstone has: those that its leaf covers."""
        if content != (None, None, None) or not isinstance(commitment, bytes) or len(commitment) != 32:
            raise ValueError("it is neither there nor removed")
        self._tombstones.append(sequence)
        _, observed, host, _, _, type_, *_ = columns
        return (observed, observed, host, None, None, type_, None, None, None, None)

    def _grow(self, sequence: int, leaf: Any, node: Any) -> bool:
        """Let the tree grow by a leaf, and tell whether the node that is stored agrees with it."""
        if not isinstance(leaf, bytes):
            leaf, self._broken, self._bad = _PLACEHOLDER, True, sequence
        expected = self._tree.push(leaf)
        if sequence & 1:
            if node is not None:
                self._faults.add("node", f"record {sequence}", "a node where there is none to keep")
            return node is None
        width = sequence & -sequence
        if width > self._span.length and sequence == self._span.start + self._span.length:
            self._end_node = node if isinstance(node, bytes) else b""
        elif node != expected and self._bad <= sequence - width:
            self._faults.add("node", f"record {sequence}")
            return False
        return True

    def _columns(self, sequence: int, stored: tuple[Any, ...], derived: tuple[Any, ...]) -> None:
        differing = [name for name, a, b in zip(DERIVED, stored, derived, strict=True) if a != b]
        self._faults.add("column", f"record {sequence}", ", ".join(differing))


def _reason(error: Exception) -> str:
    # The texts of other errors may quote values.
    return str(error) if type(error) is ValueError else "its values cannot be those of a record"


class _Headers(dict[Any, bytes]):
    """The digests of resources, made anew when they are needed: where records are received, there may be many."""

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__()
        self._connection = connection

    def __missing__(self, number: Any) -> bytes:
        found: Any = None
        with contextlib.suppress(*UNREADABLE):
            found = self._connection.execute("SELECT resource, scope FROM resource WHERE id = ?", (number,)).fetchone()
        if found is None or not isinstance(found[0], bytes) or not isinstance(found[1], bytes):
            raise KeyError(number)
        digest = self[number] = header_digest(*found)
        return digest
