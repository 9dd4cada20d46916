"""The handing over from one signing key to the next, as a record of the archive that the old key signs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import apsw

from otel_audit import attributes as keys
from otel_audit.archive.administration import Administration, Own, operator, process_fields
from otel_audit.archive.leaf import ROTATION
from otel_audit.archive.merkle import Frontier
from otel_audit.errors import ConfigError, IntegrityError
from otel_audit.notes import Checkpoint, Note, SigningKey, Verifier, parse_note, sign_note
from otel_audit.otlp import read_log

__all__ = ["NEXT", "Rotation", "append_rotation", "read_rotation", "rotation_text", "rotations", "successor"]

NEXT: Final = "next "
"""What begins the line of a rotation's note that names the next key."""
_GROUP: Final = "rotation"


class Rotation(NamedTuple):
    """What a record says of a rotation.

    Args:
        sequence: The record.
        note: The archive's checkpoint just before it and the new key's verifier, signed by the old key.
        checkpoint: The checkpoint that the note states.
        verifier: Verifier of the new key.
    """

    sequence: int
    note: Note
    checkpoint: Checkpoint
    verifier: Verifier

    def signed_by(self, verifier: Verifier) -> bool:
        """Tell whether a key handed over in this rotation; see `Note.signed_by`."""
        return self.note.signed_by(verifier)


def rotation_text(checkpoint: Checkpoint, verifier: Verifier) -> str:
    """Return the text that the old key signs: a checkpoint, and a line with the new key's verifier."""
    return f"{checkpoint}{NEXT}{verifier}\n"


def read_rotation(sequence: int, otlp: bytes) -> Rotation:
    """Return what the bytes of a record of kind `ROTATION` say.

    Raises:
        ValueError: They say nothing of the kind, or their fields contradict each other.
    """
    fields: Any = read_log(otlp).attributes.get
    text, named = (fields(f"{keys.CUSTOM_PREFIX}{_GROUP}.{name}") for name in ("note", "verifier"))
    if not isinstance(text, str) or not isinstance(named, str):
        raise ValueError(f"record {sequence} is no rotation")  # noqa: TRY004 - see Raises
    # A ConfigError is a ValueError, too.
    note, verifier = parse_note(text), Verifier.parse(named)
    checkpoint = Checkpoint.parse(note.text)
    if note.text != rotation_text(checkpoint, verifier):
        raise ValueError(f"the rotation in record {sequence} names two keys")
    if checkpoint.size >= sequence:
        raise ValueError(f"the rotation in record {sequence} speaks of later records")
    return Rotation(sequence, note, checkpoint, verifier)


def rotations(connection: apsw.Connection) -> Iterator[Rotation]:
    """Iterate over the archive's rotations, oldest first.

    Raises:
        IntegrityError: One of them cannot be read.
    """
    rows: Any = connection.execute(
        f"SELECT sequence, otlp FROM record INDEXED BY own WHERE kind > 1 AND kind = {ROTATION} ORDER BY sequence"
    ).fetchall()
    for sequence, otlp in rows:
        try:
            yield read_rotation(sequence, otlp)
        except (ValueError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"the rotation in record {sequence} cannot be read", "otel-audit verify says more"
            ) from error


def successor(connection: apsw.Connection, verifier: Verifier) -> Rotation | None:
    """Return the rotation in which a key handed over to another; None: it is still in use, or never was.

    Raises:
        IntegrityError: A rotation cannot be read, or its signature is wrong.
    """
    return next((one for one in rotations(connection) if one.signed_by(verifier)), None)


def append_rotation(administration: Administration, old: SigningKey, new: Verifier) -> int:
    """Commit the record by which a key hands over to another, unless it is there already.

    Args:
        administration: The archive.
        old: The key that hands over; it signs the record's note.
        new: Verifier of the key that follows.

    Returns:
        The record's sequence.

    Raises:
        ConfigError: The old key has handed over to yet another one.
        ArchiveError: Nothing was committed.
        IntegrityError: The archive is not what it was; nothing was committed.
    """
    done: list[int] = []

    def make(connection: apsw.Connection, tree: Frontier) -> list[Own]:
        earlier = successor(connection, old.verifier)
        if earlier is not None:
            if earlier.verifier != new:
                raise ConfigError(
                    f"{old.verifier.label} was followed by {earlier.verifier.label} in record {earlier.sequence}",
                    "give the file of the key that is in use",
                )
            done.append(earlier.sequence)
            return []
        archive_id = str(connection.execute("SELECT value FROM meta WHERE key = 'archive_id'").get)
        text = rotation_text(Checkpoint.of_archive(archive_id, tree.size, tree.root()), new)
        fields = {"note": str(sign_note(text, old)), "verifier": str(new)}
        custom = {_GROUP: fields, "process": process_fields()}
        return [Own(ROTATION, "audit.key.rotated", custom, operator())]

    last = administration.append(make)
    return done[0] if done else last
