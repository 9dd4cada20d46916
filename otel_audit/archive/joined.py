"""Joins the results of spans to those of the whole archive, and makes the tree of all spans."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import apsw

from otel_audit.archive.faults import UNREADABLE, Faults
from otel_audit.archive.merkle import EMPTY_ROOT, Frontier, peak_ends, root
from otel_audit.archive.ranges import Range
from otel_audit.archive.report import Root
from otel_audit.archive.signatures import Signatures
from otel_audit.archive.spans import SpanResult

__all__ = ["Joined"]


class Joined:
    """The spans' results, joined to those of the archive, and the tree of all spans.

    Args:
        connection: Reads the archive.
        first: The first sequence that is verified; the nodes before it are taken as they are.
        head: The last one.
        length: How many records make a span.
        faults: Takes what is found.
    """

    def __init__(self, connection: apsw.Connection, first: int, head: int, length: int, faults: Faults) -> None:
        self._connection = connection
        self._length = length
        self._faults = faults
        self._head = head
        self._first = first
        self._roots: dict[int, bytes] = {}
        self._bad = 0
        self._tail: list[bytes] = []
        self.valid = self.invalid = self.missing = 0
        self.signatures = Signatures()
        self.resources: set[int] = set()
        self.tombstones: list[Range] = []
        self.seen: list[Range] = []
        self.broken = False
        # Before `first` the nodes are taken as they are: the tree of whole spans.
        before = (first - 1) // length
        self._tree = Frontier(before, [])
        with self._unless_broken():
            self._tree.peaks = [self._node(end * length) for end in peak_ends(before)]
            if first > head and head:
                self._tail = [self._node(end) for end in peak_ends(head)][len(self._tree.peaks) :]

    @contextlib.contextmanager
    def _unless_broken(self) -> Iterator[None]:
        try:
            yield
        except (LookupError, *UNREADABLE):
            self.broken = True

    def _node(self, sequence: int) -> bytes:
        node = self._connection.execute("SELECT coalesce(node, leaf) FROM record WHERE sequence = ?", (sequence,)).get
        if isinstance(node, bytes):
            return node
        raise LookupError(sequence)

    def skip(self, first: int, last: int) -> None:
        """Note that there are no such records, nor any tree over what follows."""
        self._faults.add("missing", f"records {first} to {last}", "not there")
        self.missing += last - first + 1
        self.broken = True

    def add(self, result: SpanResult) -> None:
        """Join the result of the next span."""
        self._faults.extend(result.faults, result.fault_count)
        self.valid += result.valid
        self.invalid += result.invalid
        self.missing += result.missing
        self.signatures = self.signatures.plus(result.signatures)
        self.resources |= result.resources
        self.tombstones += result.tombstones
        self.seen.append((result.span.first, result.span.last))
        self._bad = result.bad or self._bad
        if result.peaks is None:
            self.broken = True
        if self.broken or result.peaks is None:
            return
        for size, peaks in result.peaks_at.items():
            self._roots[size] = Frontier(size, self._tree.peaks + peaks).root()
        span = result.span
        if span.last < span.start + span.length:
            self._tail = result.peaks
            return
        node = self._tree.push(result.peaks[0])
        width = span.last & -span.last
        if result.end_node is not None and result.end_node != node and self._bad <= span.last - width:
            self._faults.add("node", f"record {span.last}")

    def root(self) -> bytes | None:
        """Return the root over all records; None where it cannot be made."""
        return None if self.broken else Frontier(self._head, [*self._tree.peaks, *self._tail]).root()

    def root_at(self, size: int) -> bytes | None:
        """Return the root of the tree at a size that was asked for, or that lies before the first sequence."""
        if size == 0:
            return EMPTY_ROOT
        if size < self._first:
            with contextlib.suppress(LookupError, *UNREADABLE):
                return root(size, self._node)
        return self._roots.get(size)

    def check(self, noted: Root, faults: Faults, codes: tuple[str, str] = ("truncated", "root")) -> bool:
        """Tell whether the tree had a root, and note a fault where it had not.

        Args:
            noted: The root.
            faults: Takes what is found.
            codes: Of the fault where the tree is smaller, and where it is another one.
        """
        place = f"root of {noted.size}"
        if noted.size > self._head:
            faults.add(codes[0], place, f"the archive ends at {self._head}")
            return False
        found = self.root_at(noted.size)
        if found != noted.hash:
            faults.add(codes[1], place, f"it is {found.hex()}" if found else "it cannot be made")
            return False
        return True
