"""What a verification can find wrong, each with a fixed reason code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import apsw

__all__ = ["CODES", "UNREADABLE", "Fault", "Faults", "describe", "unreadable_is_a_fault"]

CODES: Final = {
    "application-id": "the file's application id is not that of an archive",
    "checkpoint": "a checkpoint cannot be read, is about another archive, is wrongly signed, or states another root",
    "column": "a column does not say what the record's bytes say",
    "content": "a record's bytes or salt are missing, or the bytes are no log record",
    "cursor": "a destination's cursor or times are out of bounds",
    "damaged": "SQLite's own check of the file's structure fails",
    "dead-letter": "a dead letter names no known destination or record, or is out of bounds",
    "export-differs": "a record of the collector's is not the one of the archive",
    "export-doubled": "the collector holds a record more than once: no fault, delivery is at least once",
    "export-missing": "the archive holds a delivered record that the collector lacks",
    "export-unknown": "the collector holds a record of this archive that the archive lacks",
    "folded": "the mark up to which records were folded is no number, or lies beyond the end",
    "genesis": "the first of the archive's own records is missing, or does not fit the archive",
    "high-water": "this machine has seen more of the archive than there is, or another one",
    "kind": "a record is of a kind that does not exist",
    "leaf": "a leaf is not the hash of its record",
    "meta": "the archive's id, its time of creation or another entry was changed, added or removed",
    "missing": "records are missing from the sequence",
    "not-removed": "the content of a record is there, although it was erased or pruned",
    "node": "a node of the tree is not the hash of what is below it",
    "posting": "the look-up table lacks an entry, or has one that no record accounts for",
    "record-id": "a record's id is not 16 bytes",
    "removal": "it cannot be read what an erasure or a pruning removed",
    "removed": "the content of a record was removed, and no erasure or pruning accounts for it",
    "resource": "a resource is not what its digest says, is missing, or no record refers to it",
    "root": "the tree had another root when it was noted: history was rewritten",
    "rotation": "a signing key was not followed by the next one as it must be",
    "schema": "a table, index, view or trigger was added, changed or removed",
    "schema-version": "the file's schema version is not that of its tables",
    "sequence": "a record's sequence is below 1",
    "signature": "a producer's signature is not that of its record",
    "truncated": "the tree was larger when its root was noted: records were cut off, or an older copy was restored",
    "unreadable": "SQLite cannot read what belongs here",
    "unsigned": "no checkpoint is signed by the key that was given",
    "zone": "the range of times of some records is not theirs",
}
"""All reason codes and what they mean."""

# What a damaged or edited file makes SQLite raise. A lock, a lack of memory or of permission says nothing about it.
UNREADABLE: Final = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, apsw.SQLError, UnicodeDecodeError)


class Fault(NamedTuple):
    """One thing that is wrong.

    Args:
        code: One of `CODES`.
        place: What it is about, e.g. ``record 17``.
        detail: What was found there; never what a client sent.
    """

    code: str
    place: str
    detail: str


class Faults:
    """Gathers faults; keeps the first ones and counts the others.

    Args:
        keep: Most faults that are kept.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.kept: list[Fault] = []
        self.count = 0

    def add(self, code: str, place: str, detail: str = "") -> None:
        """Note a fault."""
        self.count += 1
        if len(self.kept) < self.keep:
            self.kept.append(Fault(code, place, detail or CODES[code]))

    def extend(self, kept: Iterable[Fault], count: int) -> None:
        """Note what another one gathered."""
        self.count += count
        self.kept.extend(list(kept)[: self.keep - len(self.kept)])


@contextlib.contextmanager
def unreadable_is_a_fault(faults: Faults, place: str) -> Iterator[None]:
    """Turn what a damaged or edited file makes SQLite raise into a fault; what is left of the block is not done."""
    try:
        yield
    except UNREADABLE as error:
        faults.add("unreadable", place, describe(error))


def describe(error: Exception) -> str:
    """Return an error as one line that quotes nothing that a client sent."""
    if isinstance(error, UnicodeDecodeError):
        return "text that is no UTF-8"
    return f"SQLite: {error}"
