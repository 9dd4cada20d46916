"""What a verification is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from otel_audit.archive.faults import Fault
from otel_audit.archive.signatures import Signatures

__all__ = ["Report", "Root", "RootCheck", "Since"]


class Root(NamedTuple):
    """What the tree was when somebody noted it.

    Args:
        size: How many records it had.
        hash: Its root, 32 bytes.
    """

    size: int
    hash: bytes


class Since(NamedTuple):
    """Where a verification is to begin: at a sequence, or at the first record that was recorded at a time or later.

    Args:
        sequence: The first sequence.
        observed: Nanoseconds since the epoch; takes precedence.
    """

    sequence: int = 1
    observed: int | None = None


@dataclass(frozen=True, slots=True)
class RootCheck:
    """What became of a noted root.

    Args:
        noted: The root as it was noted.
        holds: Whether the archive extends the tree that had it.
    """

    noted: Root
    holds: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a verification.

    Args:
        archive: The file.
        archive_id: The archive's id; empty where it cannot be read.
        asked: Where the verification was to begin.
        first: The first sequence that was verified.
        last: The last one: how many records the archive had at the start.
        valid: Records without a fault, those included whose content was erased or pruned.
        invalid: Records with one.
        missing: Sequences without a record.
        erased: Records whose content was erased.
        pruned: Records whose content was pruned.
        signatures: How many records are signed, and by whom.
        root: Root of the tree over all records, as they are; None where it cannot be made.
        roots: What became of the noted roots.
        checkpoints: Checkpoints that the archive states, whose roots hold.
        signed: How many of them are signed by a key that counts.
        covered: The largest size that one of them states; where the reader gave a key, one that is signed.
        high_water: Size of the high-water mark that was found for this archive; None: there was none.
        faults: The first faults that were found.
        fault_count: How many there are.
    """

    archive: str
    archive_id: str
    asked: Since
    first: int
    last: int
    valid: int
    invalid: int
    missing: int
    erased: int
    pruned: int
    signatures: Signatures
    root: bytes | None
    roots: tuple[RootCheck, ...]
    checkpoints: int
    signed: int
    covered: int
    high_water: int | None
    faults: tuple[Fault, ...]
    fault_count: int

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return self.fault_count == 0
