"""Proofs to be checked without the archive: that a record is in a tree, and that a tree extends an earlier one."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from otel_audit.archive.database import archive_errors
from otel_audit.archive.derive import derived
from otel_audit.archive.leaf import EVENT, commitment, header_digest, leaf_hash
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
from otel_audit.otlp import decode
from otel_audit.record import AuditRecord

__all__ = ["Proved", "check_proof", "prove_consistency", "prove_inclusion"]

_INCLUSION: Final = "otel-audit/inclusion/1"
_CONSISTENCY: Final = "otel-audit/consistency/1"
_LARGEST: Final = 2**63 - 1
_LONGEST_PATH: Final = 128
_ROW: Final = (
    "SELECT kind, observed, record_id, host, type, leaf, salt, otlp, resource.resource, scope"
    " FROM record LEFT JOIN resource ON id = record.resource WHERE sequence = ?"
)


class Proved(NamedTuple):
    """What a proof shows.

    Args:
        record: The record that is in the tree; None for a proof of consistency.
        roots: The roots that the proof relates: one for a record, the old and the new for consistency.
    """

    record: AuditRecord | None
    roots: tuple[Root, ...]


def prove_inclusion(archive: Archive, sequence: int, size: int | None = None) -> dict[str, Any]:
    """Return a proof that a record is in the archive's tree, with all that is needed to check it, as plain values.

    Args:
        archive: The archive. The proof is made from what it holds, and not checked.
        sequence: The record.
        size: Size of the tree, perhaps a past one; None: the present one.

    Raises:
        ConfigError: There is no such record, or there never was a tree of this size with it.
        ArchiveError: The archive cannot be read, or lacks what the proof needs.
    """
    with archive.database as connection, archive_errors(archive.path):
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
        size = head if size is None else size
        if not 1 <= sequence <= size <= head:
            raise ConfigError(
                f"there is no record {sequence} in a tree of {size}", f"the archive holds the records 1 to {head}"
            )
        row: Any = connection.execute(_ROW, (sequence,)).fetchone()
        if row is None or None in row:
            raise ArchiveError(f"record {sequence} or its content is missing", "otel-audit verify says more")
        stored = _Stored(connection)
        path, top = inclusion_path(sequence, size, stored.node, stored.leaf), root(size, stored.node)
    kind, observed, record_id, host, type_, leaf, salt, otlp, resource, scope = row
    return {
        "format": _INCLUSION,
        "archive_id": archive.id,
        "leaf": {
            "kind": kind,
            "sequence": sequence,
            "observed": str(observed),
            "record_id": str(uuid.UUID(bytes=record_id)),
            "host": host,
            "type": type_,
            "hash": leaf.hex(),
        },
        "content": {
            name: base64.b64encode(value).decode("ascii")
            for name, value in (("salt", salt), ("resource", resource), ("scope", scope), ("otlp", otlp))
        },
        "tree": {"size": size, "root": top.hex(), "path": [step.hex() for step in path]},
    }


def prove_consistency(archive: Archive, old: int, new: int) -> dict[str, Any]:
    """Return a proof that the archive's tree of one size extends that of a smaller one, as plain values.

    Raises:
        ConfigError: There never were trees of these sizes.
        ArchiveError: The archive cannot be read, or lacks what the proof needs.
    """
    with archive.database as connection, archive_errors(archive.path):
        head = int(connection.execute("SELECT max(sequence) FROM record").get or 0)
        if not 1 <= old <= new <= head:
            raise ConfigError(
                f"there is no proof from a tree of {old} to one of {new}", f"the archive holds the records 1 to {head}"
            )
        stored = _Stored(connection)
        path = consistency_path(old, new, stored.node, stored.leaf)
        before, after = root(old, stored.node), root(new, stored.node)
    return {
        "format": _CONSISTENCY,
        "archive_id": archive.id,
        "old": {"size": old, "root": before.hex()},
        "new": {"size": new, "root": after.hex()},
        "path": [step.hex() for step in path],
    }


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


def check_proof(proof: object, roots: Sequence[Root]) -> Proved:
    """Check a proof against roots that its reader trusts, without the archive.

    Args:
        proof: What `prove_inclusion` or `prove_consistency` returned, from whatever source.
        roots: Noted roots: the tree's for a record; the old one's and the new one's for consistency.

    Raises:
        ConfigError: This is no proof, or a root that it needs was not given.
        IntegrityError: The proof does not hold.
    """
    try:
        fields = _Fields(proof)
        form = fields.text("format")
        if form == _INCLUSION:
            return _check_inclusion(fields, roots)
        if form == _CONSISTENCY:
            return _check_consistency(fields, roots)
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

    def part(self, name: str) -> _Fields:
        """Return the fields of an inner object."""
        return _Fields(self._value[name])


def _hash(value: object) -> bytes:
    if not isinstance(value, str) or len(value) != 64 or not value.isascii() or not value.isalnum():
        raise TypeError("no hash")
    return binascii.unhexlify(value)


def _trusted(roots: Sequence[Root], size: int, claimed: bytes) -> Root:
    """Return the noted root of a size, which the proof's own must be."""
    noted = [noted for noted in roots if noted.size == size]
    if not noted:
        raise ConfigError(f"the proof is about a tree of {size}", f"give the root that was noted: --root {size}:HEX")
    if any(one.hash != claimed for one in noted):
        raise IntegrityError(f"the tree of {size} has the root {claimed.hex()}, another one was noted")
    return noted[0]


def _check_inclusion(fields: _Fields, roots: Sequence[Root]) -> Proved:
    leaf, content, tree = fields.part("leaf"), fields.part("content"), fields.part("tree")
    size, sequence, observed = tree.number("size"), leaf.number("sequence"), leaf.number("observed")
    noted = _trusted(roots, size, tree.hash("root"))
    host, type_, record_id = leaf.text("host"), leaf.text("type"), leaf.text("record_id")
    salt, otlp = content.content("salt"), content.content("otlp")
    header = header_digest(content.content("resource"), content.content("scope"))
    try:
        if leaf.number("kind") != EVENT:
            raise ValueError(f"kind {leaf.number('kind')} is not known")
        if len(salt) != 32:
            raise ValueError("the salt is not 32 bytes")
        identity = uuid.UUID(record_id)
        if str(identity) != record_id:
            raise ValueError("the record's id is not written as usual")
        made = leaf_hash(EVENT, sequence, observed, identity.bytes, host, type_, commitment(salt, header, otlp))
        if made != leaf.hash("hash"):
            raise ValueError("the leaf is not the hash of the record")
        values = derived(otlp)
        if (values[1], values[2], values[5]) != (observed, host, type_):
            raise ValueError("the leaf does not say what the record says")
        if root_from_inclusion(sequence, size, made, tree.path()) != noted.hash:
            raise ValueError("the path does not lead to the root")
        record = decode(otlp, str(identity), sequence=sequence, leaf=made, stream_id=fields.text("archive_id"))
    except ValueError as error:
        reason = "text that is no UTF-8" if isinstance(error, UnicodeError) else error
        raise IntegrityError(f"record {sequence} is not proved: {reason}") from error
    return Proved(record, (noted,))


def _check_consistency(fields: _Fields, roots: Sequence[Root]) -> Proved:
    old, new = fields.part("old"), fields.part("new")
    before = _trusted(roots, old.number("size"), old.hash("root"))
    after = _trusted(roots, new.number("size"), new.hash("root"))
    if not verify_consistency(before.size, after.size, before.hash, after.hash, fields.path()):
        raise IntegrityError(f"it is not proved that the tree of {after.size} extends the one of {before.size}")
    return Proved(None, (before, after))
