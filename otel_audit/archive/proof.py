"""Proofs to be checked without the archive: that a record is in a tree, and that a tree extends an earlier one.

Each names its trees by checkpoints: notes of size and root, signed where there is a key. Of a record whose content was
removed a proof has the commitment in its place, and shows what the leaf covers.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from otel_audit.archive.database import archive_errors
from otel_audit.archive.derive import derived
from otel_audit.archive.leaf import KINDS, commitment, header_digest, leaf_hash
from otel_audit.archive.merkle import (
    consistency_path,
    inclusion_path,
    root,
    root_from_inclusion,
    verify_consistency,
)
from otel_audit.archive.query import Archive
from otel_audit.archive.report import Root
from otel_audit.errors import ArchiveError, ConfigError, IntegrityError
from otel_audit.notes import Checkpoint, SigningKey, Verifier, parse_note, sign_note
from otel_audit.otlp import decode
from otel_audit.record import AuditRecord

__all__ = ["Proved", "ProvedLeaf", "check_proof", "prove_consistency", "prove_inclusion"]

_INCLUSION: Final = "otel-audit/inclusion/1"
_CONSISTENCY: Final = "otel-audit/consistency/1"
_LARGEST: Final = 2**63 - 1
_LONGEST_PATH: Final = 128
_ROW: Final = (
    "SELECT kind, observed, record_id, host, type, leaf, commitment, salt, otlp, resource.resource, scope"
    " FROM record LEFT JOIN resource ON id = record.resource WHERE sequence = ?"
)


class ProvedLeaf(NamedTuple):
    """What a record's leaf covers beside the commitment to its content; it stays when the content is removed.

    Args:
        kind: The record's kind.
        sequence: Its position.
        observed: When it was recorded: nanoseconds since the epoch.
        record_id: Its id.
        host: Its host.
        type: Its type.
    """

    kind: int
    sequence: int
    observed: int
    record_id: str
    host: str
    type: str


class Proved(NamedTuple):
    """What a proof shows.

    Args:
        leaf: What is in the tree; None for a proof of consistency.
        record: The record; None for a proof of consistency, and where the content was removed.
        roots: The roots that the proof relates: one for a record, the old and the new for consistency.
        signers: For each root, those of the given keys that signed its checkpoint.
    """

    leaf: ProvedLeaf | None
    record: AuditRecord | None
    roots: tuple[Root, ...]
    signers: tuple[tuple[Verifier, ...], ...]


def prove_inclusion(
    archive: Archive, sequence: int, size: int | None = None, *, key: SigningKey | None = None
) -> dict[str, Any]:
    """Return a proof that a record is in the archive's tree, with all that is needed to check it, as plain values.

    Args:
        archive: The archive. Of what it holds only the proof itself is checked, before it is signed.
        sequence: The record.
        size: Size of the tree, perhaps a past one; None: the present one.
        key: Signs the tree's checkpoint; None: it is not signed.

    Raises:
        ConfigError: There is no such record, or there never was a tree of this size with it.
        ArchiveError: The archive cannot be read, or lacks what the proof needs.
        IntegrityError: The proof does not hold: the archive was changed.
    """
    with archive.database as connection, archive_errors(archive.path):
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
        size = head if size is None else size
        if not 1 <= sequence <= size <= head:
            raise ConfigError(
                f"there is no record {sequence} in a tree of {size}", f"the archive holds the records 1 to {head}"
            )
        row: Any = connection.execute(_ROW, (sequence,)).fetchone()
        if row is None or None in row[:6] or len(row[2]) != 16 or (row[6] is None and None in row[7:]):
            raise ArchiveError(f"record {sequence} or its content is missing", "otel-audit verify says more")
        stored = _Stored(connection)
        path, top = inclusion_path(sequence, size, stored.node, stored.leaf), root(size, stored.node)
    proof = {"format": _INCLUSION, "archive_id": archive.id, **_record_parts(sequence, row)}
    proof["tree"] = {"size": size, "root": top.hex(), "path": [step.hex() for step in path]}
    return _signed(proof, archive.id, (proof,), (Root(size, top),), key)


def _record_parts(sequence: int, row: tuple[Any, ...]) -> dict[str, Any]:
    """Return a record's leaf, and its content or, where that was removed, the commitment to it."""
    kind, observed, record_id, host, type_, leaf, removed, *content = row
    parts: dict[str, Any] = {
        "leaf": {
            "kind": kind,
            "sequence": sequence,
            "observed": str(observed),
            "record_id": str(uuid.UUID(bytes=record_id)),
            "host": host,
            "type": type_,
            "hash": leaf.hex(),
        }
    }
    if removed is not None:
        return parts | {"commitment": removed.hex()}
    names = ("salt", "otlp", "resource", "scope")
    encoded = (base64.b64encode(value).decode("ascii") for value in content)
    return parts | {"content": dict(zip(names, encoded, strict=True))}


def prove_consistency(archive: Archive, old: int, new: int, *, key: SigningKey | None = None) -> dict[str, Any]:
    """Return a proof that the archive's tree of one size extends that of a smaller one, as plain values.

    Args:
        archive: The archive. Of what it holds only the proof itself is checked, before it is signed.
        old: Size of the smaller tree.
        new: Size of the larger one.
        key: Signs the checkpoints of both; None: they are not signed.

    Raises:
        ConfigError: There never were trees of these sizes.
        ArchiveError: The archive cannot be read, or lacks what the proof needs.
        IntegrityError: The proof does not hold: the archive was changed.
    """
    with archive.database as connection, archive_errors(archive.path):
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
        if not 1 <= old <= new <= head:
            raise ConfigError(
                f"there is no proof from a tree of {old} to one of {new}",
                f"the archive holds the records 1 to {head}, and the smaller size comes first",
            )
        stored = _Stored(connection)
        path = consistency_path(old, new, stored.node, stored.leaf)
        before, after = Root(old, root(old, stored.node)), Root(new, root(new, stored.node))
    proof: dict[str, Any] = {
        "format": _CONSISTENCY,
        "archive_id": archive.id,
        "old": {"size": old, "root": before.hash.hex()},
        "new": {"size": new, "root": after.hash.hex()},
        "path": [step.hex() for step in path],
    }
    return _signed(proof, archive.id, (proof["old"], proof["new"]), (before, after), key)


def _signed(
    proof: dict[str, Any],
    archive_id: str,
    parts: Sequence[dict[str, Any]],
    roots: Sequence[Root],
    key: SigningKey | None,
) -> dict[str, Any]:
    """Return a proof with the checkpoint of each root in its part, signed once it is seen that the proof holds."""
    texts = [str(Checkpoint.of_archive(archive_id, *one)) for one in roots]
    for part, text in zip(parts, texts, strict=True):
        part["checkpoint"] = str(sign_note(text, None))
    check_proof(proof, roots)
    for part, text in zip(parts, texts, strict=True):
        part["checkpoint"] = str(sign_note(text, key))
    return proof


class _Stored:
    """Reads leaves and nodes."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def node(self, sequence: int) -> bytes:
        """Return the root of the largest complete subtree that ends with a record."""
        return self._read("coalesce(node, leaf)", sequence)

    def leaf(self, sequence: int) -> bytes:
        """Return a record's leaf."""
        return self._read("leaf", sequence)

    def _read(self, column: str, sequence: int) -> bytes:
        found = self._connection.execute(f"SELECT {column} FROM record WHERE sequence = ?", (sequence,)).get
        if not isinstance(found, bytes) or len(found) != 32:
            raise ArchiveError(f"the tree has no node at record {sequence}", "otel-audit verify says more")
        return found


def check_proof(proof: object, roots: Sequence[Root] = (), keys: Sequence[Verifier] = ()) -> Proved:
    """Check a proof against roots or keys that its reader trusts, without the archive.

    Each tree that the proof is about must have a noted root, or a checkpoint that one of the keys signed.

    Args:
        proof: What `prove_inclusion` or `prove_consistency` returned, from whatever source.
        roots: Noted roots: the tree's for a record; the old one's and the new one's for consistency.
        keys: Verifiers of the keys whose checkpoints are believed.

    Raises:
        ConfigError: This is no proof, or what it needs was not given: a root, or the key that signed it.
        IntegrityError: The proof does not hold.
    """
    try:
        fields = _Fields(proof)
        form = fields.text("format")
        trusted = _Trusted(fields.text("archive_id"), roots, keys)
        if form == _INCLUSION:
            return _check_inclusion(fields, trusted)
        if form == _CONSISTENCY:
            return _check_consistency(fields, trusted)
    except (KeyError, TypeError, AttributeError, UnicodeError, binascii.Error, OverflowError) as error:
        raise ConfigError("this is no proof, or not all of one", "make it with otel-audit prove") from error
    raise ConfigError("this is no proof that is known here", "make it with otel-audit prove")


class _Fields:
    """Reads the fields of a proof, each of the type that it must have."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, Mapping):
            raise TypeError("no object")
        self._value: Mapping[str, Any] = value

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._value[name]
        if not isinstance(value, str):
            raise TypeError(name)
        return value

    def number(self, name: str) -> int:
        """Return a number that a column can hold, given as such or as decimal text."""
        value = self._value[name]
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
            value = int(value)
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise TypeError(name)
        return value

    def content(self, name: str) -> bytes:
        """Return base64 content."""
        text = self.text(name)
        content = base64.b64decode(text.encode("ascii"), validate=True)
        if base64.b64encode(content).decode("ascii") != text:
            raise TypeError(name)
        return content

    def hash(self, name: str) -> bytes:
        """Return a hash."""
        return _hash(self._value[name])

    def path(self) -> list[bytes]:
        """Return the path."""
        steps = self._value["path"]
        if not isinstance(steps, list) or len(steps) > _LONGEST_PATH:
            raise TypeError("path")
        return [_hash(step) for step in steps]

    def has(self, name: str) -> bool:
        """Tell whether there is a field."""
        return name in self._value

    def part(self, name: str) -> _Fields:
        """Return the fields of an inner object."""
        return _Fields(self._value[name])


def _hash(value: object) -> bytes:
    if not isinstance(value, str) or len(value) != 64 or not value.isascii() or not value.isalnum():
        raise TypeError("no hash")
    return binascii.unhexlify(value)


class _Trusted:
    """What the reader of a proof trusts."""

    def __init__(self, archive_id: str, roots: Sequence[Root], keys: Sequence[Verifier]) -> None:
        self._archive_id = archive_id
        self._roots = roots
        self._keys = keys

    def root(self, tree: _Fields, checkpoint: str) -> tuple[Root, tuple[Verifier, ...]]:
        """Return the root of a tree, which somebody must vouch for, and those of the keys that do."""
        claimed = Root(tree.number("size"), tree.hash("root"))
        note = parse_note(checkpoint)
        if Checkpoint.parse(note.text) != Checkpoint.of_archive(self._archive_id, *claimed):
            raise IntegrityError(f"the checkpoint is not that of this archive's tree of {claimed.size}")
        noted = [root for root in self._roots if root.size == claimed.size]
        if any(root.hash != claimed.hash for root in noted):
            raise IntegrityError(f"the tree of {claimed.size} has the root {claimed.hash.hex()}, another one was noted")
        signers = tuple(key for key in dict.fromkeys(self._keys) if note.signed_by(key))
        if not noted and not signers:
            root_hint = f"the root that was noted: --root {claimed.size}:HEX"
            if not self._keys:
                raise ConfigError(f"the proof is about a tree of {claimed.size}", f"give {root_hint}")
            names = ", ".join(one.label for one in note.signatures) or "nobody"
            raise ConfigError(
                f"the checkpoint of the tree of {claimed.size} is signed by {names}, none of the given keys",
                f"give {'the verifier of a key that signed it, or ' if note.signatures else ''}{root_hint}",
            )
        return claimed, signers


def _check_inclusion(fields: _Fields, trusted: _Trusted) -> Proved:
    part, tree = fields.part("leaf"), fields.part("tree")
    leaf = ProvedLeaf(
        part.number("kind"),
        part.number("sequence"),
        part.number("observed"),
        part.text("record_id"),
        part.text("host"),
        part.text("type"),
    )
    noted, signers = trusted.root(tree, fields.text("checkpoint"))
    if fields.has("content") == fields.has("commitment"):
        raise TypeError("either the content or the commitment to it")
    content = _Content(fields.part("content")) if fields.has("content") else None
    committed = fields.hash("commitment") if content is None else content.commitment
    record = None
    try:
        identity = uuid.UUID(leaf.record_id)
        if str(identity) != leaf.record_id:
            raise ValueError("the record's id is not written as usual")
        if leaf.kind not in KINDS:
            raise ValueError(f"kind {leaf.kind} is not known")
        made = leaf_hash(leaf.kind, leaf.sequence, leaf.observed, identity.bytes, leaf.host, leaf.type, committed)
        if made != part.hash("hash"):
            raise ValueError("the leaf is not the hash of the record")
        if root_from_inclusion(leaf.sequence, noted.size, made, tree.path()) != noted.hash:
            raise ValueError("the path does not lead to the root")
        if content is not None:
            record = content.record(leaf, made, fields.text("archive_id"))
    except ValueError as error:
        reason = "text that is no UTF-8" if isinstance(error, UnicodeError) else error
        raise IntegrityError(f"record {leaf.sequence} is not proved: {reason}") from error
    return Proved(leaf, record, (noted,), (signers,))


class _Content:
    """A record's content, as a proof holds it."""

    def __init__(self, fields: _Fields) -> None:
        salt, self._otlp = fields.content("salt"), fields.content("otlp")
        header = header_digest(fields.content("resource"), fields.content("scope"))
        if len(salt) != 32:
            raise IntegrityError("the record is not proved: the salt is not 32 bytes")
        self.commitment = commitment(salt, header, self._otlp)

    def record(self, leaf: ProvedLeaf, made: bytes, archive_id: str) -> AuditRecord:
        """Return the record, which must say what its leaf says."""
        values = derived(self._otlp)
        if (values[1], values[2], values[5]) != (leaf.observed, leaf.host, leaf.type):
            raise ValueError("the leaf does not say what the record says")
        return decode(self._otlp, leaf.record_id, sequence=leaf.sequence, leaf=made, stream_id=archive_id)


def _check_consistency(fields: _Fields, trusted: _Trusted) -> Proved:
    old, new = fields.part("old"), fields.part("new")
    before, before_signers = trusted.root(old, old.text("checkpoint"))
    after, after_signers = trusted.root(new, new.text("checkpoint"))
    if not verify_consistency(before.size, after.size, before.hash, after.hash, fields.path()):
        raise IntegrityError(f"it is not proved that the tree of {after.size} extends the one of {before.size}")
    return Proved(None, None, (before, after), (before_signers, after_signers))
