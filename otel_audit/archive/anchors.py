"""Verifies what the archive states of itself: its first own record, checkpoints, and the succession of signing keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.checkpoints import CHECKPOINT
from otel_audit.archive.faults import Faults, unreadable_is_a_fault
from otel_audit.archive.joined import Joined
from otel_audit.archive.leaf import ADMINISTRATION, GENESIS, ROTATION
from otel_audit.archive.report import Root
from otel_audit.archive.rotation import NEXT
from otel_audit.errors import ConfigError, IntegrityError
from otel_audit.notes import Checkpoint, Note, Verifier, parse_note
from otel_audit.otlp import read_log

__all__ = ["Anchor", "Anchors", "check_anchors", "check_note", "read_anchors"]

_OWN: Final = (
    f"SELECT sequence, kind, otlp FROM record INDEXED BY own"
    f" WHERE kind > 1 AND (kind IN ({GENESIS}, {ROTATION}) OR kind = {ADMINISTRATION} AND type = '{CHECKPOINT}')"
    " ORDER BY sequence"
)
_FIRST: Final = "SELECT min(sequence) FROM record INDEXED BY own WHERE kind > 1"
_CODES: Final = {GENESIS: "genesis", ROTATION: "rotation"}


class Anchor(NamedTuple):
    """A checkpoint that one of the archive's own records states.

    Args:
        sequence: The record.
        checkpoint: What it states.
        signed: Whether a key that counts has signed it.
    """

    sequence: int
    checkpoint: Checkpoint
    signed: bool


class Anchors(NamedTuple):
    """What the archive states of itself.

    Args:
        anchors: Its checkpoints, those of rotations included.
        verifiers: The keys that count: those that were given, or else the archive's first one; and their successors.
    """

    anchors: list[Anchor]
    verifiers: list[Verifier]


def read_anchors(
    connection: apsw.Connection, archive_id: str, created: object, trusted: Sequence[Verifier], faults: Faults
) -> Anchors:
    """Read and verify what the archive states of itself, but for the roots, which need the tree.

    Args:
        connection: Reads the archive, in one transaction.
        archive_id: The archive's id, as it is said to be.
        created: Its time of creation, likewise.
        trusted: Keys that the reader trusts; where there are none, the archive's own word for its first key is taken.
        faults: Takes what is found.
    """
    reading = _Reading(archive_id, created, trusted, faults)
    with unreadable_is_a_fault(faults, "the archive's own records"):
        first = connection.execute(_FIRST).get
        rows: Any = connection.execute(_OWN).fetchall()
        for sequence, kind, otlp in rows:
            if otlp is None:
                # Nobody erases or prunes these, though some record may say so.
                faults.add(_CODES.get(kind, "checkpoint"), f"record {sequence}", "its content was removed")
                continue
            try:
                fields = read_log(otlp).attributes
            except (ValueError, TypeError):
                continue  # a fault of its row
            if kind == GENESIS:
                reading.genesis(sequence, fields, first)
            elif kind == ROTATION:
                reading.rotation(sequence, fields)
            else:
                reading.checkpoint(sequence, fields)
        reading.end(first)
    return Anchors(reading.anchors, reading.verifiers)


class _Reading:
    """Goes through the own records in their order."""

    def __init__(self, archive_id: str, created: object, trusted: Sequence[Verifier], faults: Faults) -> None:
        self._archive = (archive_id, created)
        self._faults = faults
        self._trusting = bool(trusted)
        self._begun = False
        self.verifiers = list(trusted)
        self.anchors: list[Anchor] = []

    def genesis(self, sequence: int, fields: Any, first: object) -> None:
        """Verify the first own record."""
        place = f"record {sequence}"
        if self._begun or sequence != first:
            self._faults.add("genesis", place, "it is not the first of the archive's own records")
        self._begun = True
        prefix = f"{keys.CUSTOM_PREFIX}archive."
        if (fields.get(f"{prefix}id"), fields.get(f"{prefix}created")) != self._archive:
            self._faults.add("genesis", place, "the archive's id or its time of creation is another one now")
        verifier = fields.get(f"{prefix}verifier")
        if verifier is not None and not self._trusting:
            try:
                self.verifiers.append(Verifier.parse(str(verifier)))
            except ConfigError as error:
                self._faults.add("genesis", place, error.message)

    def end(self, first: object) -> None:
        """Verify that the first own record was there."""
        if first is not None and not self._begun:
            self._faults.add("genesis", f"record {first}", "the archive's own records begin without it")

    def checkpoint(self, sequence: int, fields: Any) -> None:
        """Verify a checkpoint, but for its root."""
        self._anchor("checkpoint", sequence, fields.get(f"{keys.CUSTOM_PREFIX}checkpoint.note"))

    def rotation(self, sequence: int, fields: Any) -> None:
        """Verify that a key named the next one."""
        prefix, place = f"{keys.CUSTOM_PREFIX}rotation.", f"record {sequence}"
        note = self._anchor("rotation", sequence, fields.get(f"{prefix}note"))
        if note is None:
            return
        lines = [line for line in note.text.split("\n") if line.startswith(NEXT)]
        try:
            if len(lines) != 1 or lines[0] != f"{NEXT}{fields.get(f'{prefix}verifier')}":
                raise ConfigError("its note does not name the next key")
            following = Verifier.parse(lines[0].removeprefix(NEXT))
        except ConfigError as error:
            self._faults.add("rotation", place, error.message)
            return
        if self.anchors and self.anchors[-1].sequence == sequence and self.anchors[-1].signed:
            if following not in self.verifiers:
                self.verifiers.append(following)
        elif self.verifiers and not self._trusting:
            # Who trusts a later key alone cannot judge the rotation to it.
            self._faults.add("rotation", place, "the key before it has not signed it")

    def _anchor(self, code: str, sequence: int, text: Any) -> Note | None:
        """Read the note of a record, and keep its checkpoint."""
        place = f"record {sequence}"
        try:
            note = parse_note(str(text))
            checkpoint = Checkpoint.parse(note.text)
            if checkpoint.archive_id != self._archive[0]:
                raise ConfigError("its note is about another archive")
            if checkpoint.size >= sequence:
                raise ConfigError("its note is about records that came later")
            signed = _signed(note, self.verifiers)
        except (ConfigError, IntegrityError) as error:
            self._faults.add(code, place, error.message)
            return None
        self.anchors.append(Anchor(sequence, checkpoint, signed))
        return note


def _signed(note: Note, verifiers: Iterable[Verifier]) -> bool:
    """Tell whether one of some keys has signed a note; raise where it is said to have, and has not."""
    signed = [note.signed_by(verifier) for verifier in verifiers]  # all of them, for each may raise
    return any(signed)


def check_anchors(found: Anchors, joined: Joined, trusting: bool, faults: Faults) -> list[Anchor]:  # noqa: FBT001
    """Verify that the tree had the roots that checkpoints state, and return those that hold.

    Args:
        found: The checkpoints.
        joined: Knows the roots.
        trusting: Whether the reader gave a key: then one of the checkpoints must bear its signature.
        faults: Takes what is found.
    """
    held = []
    for anchor in found.anchors:
        root = joined.root_at(anchor.checkpoint.size)
        if root == anchor.checkpoint.root:
            held.append(anchor)
        elif root is not None or not joined.broken:
            size = anchor.checkpoint.size
            faults.add("checkpoint", f"record {anchor.sequence}", f"the tree of {size} has another root")
    if trusting and not any(anchor.signed for anchor in held):
        faults.add("unsigned", "the archive")
    return held


def check_note(note: Note, archive_id: str, verifiers: Sequence[Verifier], joined: Joined, faults: Faults) -> None:
    """Verify that a checkpoint that was kept elsewhere is one of this archive.

    Args:
        note: The checkpoint.
        archive_id: The archive's id.
        verifiers: Keys that count; where there are none, its signatures say nothing.
        joined: Knows the roots.
        faults: Takes what is found.
    """
    checkpoint = Checkpoint.parse(note.text)
    place = f"note of {checkpoint.size}"
    if checkpoint.archive_id != archive_id:
        faults.add("checkpoint", place, "it is about another archive")
        return
    try:
        if verifiers and not _signed(note, verifiers):
            faults.add("unsigned", place, "no key that counts has signed it")
    except IntegrityError as error:
        faults.add("checkpoint", place, error.message)
    joined.check(Root(checkpoint.size, checkpoint.root), faults)
