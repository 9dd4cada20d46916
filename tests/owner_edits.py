"""Random edits by somebody who owns the file and makes all hashes anew, and edits of what is kept outside of it.

What the reader of the report has is a key's verifier, the producer's key, a kept note and a high-water mark.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.checkpoints import append_checkpoint
from otel_audit.archive.highwater import HighWater
from otel_audit.archive.leaf import ERASURE, PRUNE, commitment, leaf_hash
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.ranges import Range
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.report import Report
from otel_audit.archive.rotation import append_rotation
from otel_audit.archive.signatures import Trust
from otel_audit.archive.verify import Noted, verify_connection
from otel_audit.errors import ConfigError
from otel_audit.notes import Note, SigningKey, parse_note
from otel_audit.producer_keys import load_verifier
from otel_audit.provider import AuditProvider
from tests.edit_material import Unfit, copy
from tests.signing import key_file

__all__ = ["KINDS", "Owned", "make_owned", "owner_edit"]

REMOVED: Final[list[tuple[int, list[Range]]]] = [(ERASURE, [(2, 3)]), (PRUNE, [(5, 5)])]
_ROW: Final = (
    "SELECT sequence, kind, observed, record_id, host, type, salt, digest, otlp, commitment"
    " FROM record LEFT JOIN resource ON id = record.resource ORDER BY sequence"
)
_CONTENT: Final = "time, user, source, outcome, session, address, trace, resource, salt, otlp, commitment"


class Owned(NamedTuple):
    """An archive with every kind of own record, in memory.

    Args:
        connection: The archive.
        before: The same before anything was removed.
        noted: What its reader has.
        mark: The file of the high-water mark.
    """

    connection: apsw.Connection
    before: apsw.Connection
    noted: Noted
    mark: Path


def _key(name: str) -> SigningKey:
    private = Ed25519PrivateKey.generate()
    return SigningKey(name, private.public_key().public_bytes_raw(), private.sign)


def make_owned(folder: Path) -> Owned:
    """Make an archive of signed records, some erased or pruned, with checkpoints, a rotation, and a mark."""
    folder.mkdir()
    path, first, second = folder / "owned.db", _key("first"), _key("second")
    secret, public = key_file(folder, "EdDSA")
    with AuditProvider(archive=path, ship=False, high_water=False, integrity_key=secret) as provider:
        for n in range(9):
            provider.get_logger("edits", host="example.com").audit("user.login.success", user=f"user-{n % 3}")
    before = _load(path)
    with Administration(path, b"", b"", verifier=lambda: str(first.verifier)) as administration:
        note = append_checkpoint(administration, first)
        for kind, ranges in REMOVED:
            administration.append(_removing(kind, ranges))
        append_rotation(administration, first, second.verifier)
        HighWater(folder / "marks").note(append_checkpoint(administration, second))
    (mark,) = (folder / "marks").iterdir()
    verifiers = (first.verifier,)
    noted = Noted((), (note,), verifiers, folder / "marks", Trust((load_verifier(str(public)),), only=True))
    made = Owned(_load(path), before, noted, mark)
    report = verify_connection(made.connection, "owned", noted=noted)
    assert report.intact, report.faults
    assert (report.checkpoints, report.signed, report.erased, report.pruned) == (3, 3, 2, 1)
    return made


def _load(path: Path) -> apsw.Connection:
    source, target = apsw.Connection(str(path)), apsw.Connection(":memory:")
    copy(source, target)
    source.close()
    return target


def _removing(kind: int, ranges: list[Range]) -> Callable[[apsw.Connection, Frontier], list[Own]]:
    def make(connection: apsw.Connection, _tree: Frontier) -> list[Own]:
        remove(connection, ranges)
        return [Own(kind, "audit.records.removed", fields) for fields in removal_fields(ranges)]

    return make


def _rehash(connection: apsw.Connection) -> None:
    """Make all leaves and nodes anew, and let the look-up tables be."""
    tree = Frontier()
    rows: Any = connection.execute(_ROW).fetchall()
    for sequence, kind, observed, record_id, host, type_, salt, digest, otlp, kept in rows:
        content = kept if kept is not None else commitment(salt, digest, otlp)
        leaf = leaf_hash(kind, sequence, observed, record_id, host, type_, content)
        node = tree.push(leaf)
        connection.execute(
            "UPDATE record SET leaf = ?, node = ? WHERE sequence = ?", (leaf, None if sequence & 1 else node, sequence)
        )
    connection.execute("DELETE FROM posting; DELETE FROM zone; UPDATE meta SET value = 0 WHERE key = 'folded'")


def _flipped(content: bytes, chance: random.Random, first: int, last: int) -> bytes:
    place = chance.randrange(first, last)
    return content[:place] + bytes((content[place] ^ 1 << chance.randrange(7),)) + content[place + 1 :]


def _changed_otlp(owned: Owned, chance: random.Random, sequence: int, first: int, last: int) -> None:
    otlp: Any = owned.connection.execute("SELECT otlp FROM record WHERE sequence = ?", (sequence,)).get
    owned.connection.execute(
        "UPDATE record SET otlp = ? WHERE sequence = ?", (_flipped(otlp, chance, first, last), sequence)
    )
    _rehash(owned.connection)


def _find(owned: Owned, mark: bytes, chance: random.Random) -> tuple[int, int, int]:
    """Return a random record with such a text in its bytes, and where that ends."""
    rows: Any = owned.connection.execute("SELECT sequence, otlp FROM record WHERE instr(otlp, ?)", (mark,)).fetchall()
    sequence, otlp = chance.choice(rows)
    return sequence, otlp.index(mark) + len(mark), len(otlp)


def _event(owned: Owned, chance: random.Random) -> set[str]:
    """Change a byte of an event that the producer signed."""
    sequence = chance.choice((1, 4, 6, 7, 8, 9))
    _, start, _ = _find(owned, b"audit.integrity.value", chance)
    _changed_otlp(owned, chance, sequence, 10, start)
    return {"signature", "content", "column", "checkpoint"}


def _signature(owned: Owned, chance: random.Random) -> set[str]:
    """Change a producer's signature, or give a record the one of another."""
    sequence, start, end = _find(owned, b"audit.integrity.value", chance)
    if chance.randrange(2):
        other, where, _ = _find(owned, b"audit.integrity.value", chance)
        if other == sequence:
            raise Unfit
        rows = dict(owned.connection.execute("SELECT sequence, otlp FROM record WHERE otlp IS NOT NULL"))
        changed = rows[sequence][: start + 6] + rows[other][where + 6 : where + 94] + rows[sequence][start + 94 :]
        owned.connection.execute("UPDATE record SET otlp = ? WHERE sequence = ?", (changed, sequence))
        _rehash(owned.connection)
        return {"signature"}
    _changed_otlp(owned, chance, sequence, start + 6, min(end, start + 92))
    return {"signature", "content"}


def _stated(owned: Owned, chance: random.Random) -> set[str]:
    """Change a checkpoint, or a rotation, that the archive states: its text or its signature."""
    sequence, start, _ = _find(owned, b"otel-audit/", chance)
    otlp: Any = owned.connection.execute("SELECT otlp FROM record WHERE sequence = ?", (sequence,)).get
    signature = otlp.index("\n\n— ".encode()) + len("\n\n— ".encode())
    if chance.randrange(3) == 0:
        _changed_otlp(owned, chance, sequence, otlp.index(b" ", signature) + 7, otlp.index(b"\n", signature) - 2)
    else:
        _changed_otlp(owned, chance, sequence, start, signature - len("\n— ".encode()))
    return {"checkpoint", "rotation", "content"}


def _list(owned: Owned, chance: random.Random) -> set[str]:
    """Say that other records were removed."""
    kind, ranges = chance.choice(REMOVED)
    old = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges).encode()
    new = str(chance.randrange(1, 99)).rjust(len(old), "1")[: len(old)].encode()
    sequence, otlp = next(iter(owned.connection.execute("SELECT sequence, otlp FROM record WHERE kind = ?", (kind,))))
    changed = otlp.replace(b"\x0a" + bytes((len(old),)) + old, b"\x0a" + bytes((len(new),)) + new)
    if changed == otlp:
        raise Unfit
    owned.connection.execute("UPDATE record SET otlp = ? WHERE sequence = ?", (changed, sequence))
    _rehash(owned.connection)
    return {"removed", "not-removed", "removal"}


def _kind(owned: Owned, chance: random.Random) -> set[str]:
    """Make a record one of another kind, or of none."""
    sequence = chance.randrange(1, 15)  # what came after the last checkpoint is covered by none
    old: Any = owned.connection.execute("SELECT kind FROM record WHERE sequence = ?", (sequence,)).get
    if old is None or (new := chance.randrange(9)) == old:
        raise Unfit
    owned.connection.execute("UPDATE record SET kind = ? WHERE sequence = ?", (new, sequence))
    _rehash(owned.connection)
    return {"kind", "checkpoint", "genesis", "rotation", "removal", "removed", "unsigned"}


def _tombstone(owned: Owned, chance: random.Random) -> set[str]:
    """Remove a record without a word, bring a removed one back, or change what is left of it."""
    match chance.randrange(3):
        case 0:
            sequence = chance.choice((1, 4, 6, 9, 10, 11, 14))
            remove(owned.connection, [(sequence, sequence)])
            return {"removed"}
        case 1:
            sequence = chance.choice((2, 3, 5))
            row = owned.before.execute(f"SELECT {_CONTENT} FROM record WHERE sequence = ?", (sequence,)).fetchone()
            places = ", ".join("?" * 11)
            owned.connection.execute(
                f"UPDATE record SET ({_CONTENT}) = ({places}) WHERE sequence = ?", (*(row or ()), sequence)
            )
            return {"not-removed"}
        case _:
            owned.connection.execute(
                "UPDATE record SET commitment = ? WHERE sequence = ?", (chance.randbytes(32), chance.choice((2, 3, 5)))
            )
            _rehash(owned.connection)
            return {"checkpoint"}


def _rolled_back(owned: Owned, chance: random.Random) -> set[str]:
    """Cut off what came last, with care."""
    owned.connection.execute("DELETE FROM record WHERE sequence > ?", (chance.randrange(14),))
    _rehash(owned.connection)
    return {"high-water"}


def _kept_note(owned: Owned, chance: random.Random) -> set[str] | Note:
    """Change the note that was kept."""
    (note,) = owned.noted.notes
    content = str(note).encode()
    try:
        changed = parse_note(_flipped(content, chance, 0, len(content)).decode())
    except (ConfigError, UnicodeDecodeError):
        raise Unfit from None
    return changed


def _mark(owned: Owned, chance: random.Random) -> set[str]:
    """Change the high-water mark, but for its signatures, which nobody reads."""
    content = owned.mark.read_bytes()
    owned.mark.write_bytes(_flipped(content, chance, 0, content.index(b"\n\n")))
    return {"high-water"}


KINDS: Final[tuple[Callable[[Owned, random.Random], set[str] | Note], ...]] = (
    _event, _signature, _stated, _list, _kind, _tombstone, _rolled_back, _kept_note, _mark,
)  # fmt: skip


def owner_edit(owned: Owned, chance: random.Random) -> tuple[str, set[str], Report]:
    """Make one such edit, verify, undo it; return its name, the codes that fit, and the report."""
    mark = owned.mark.read_bytes()
    while True:
        change = chance.choice(KINDS)
        owned.connection.execute("BEGIN")
        try:
            made, noted = change(owned, chance), owned.noted
            if isinstance(made, Note):
                noted = noted._replace(notes=(made,))
            codes = {"checkpoint", "unsigned"} if isinstance(made, Note) else made
            try:
                report = verify_connection(owned.connection, "owned", noted=noted)
            except ConfigError:
                continue  # a note that is no checkpoint is refused before
            return f"owner {change.__name__.strip('_')}", codes, report
        except Unfit:
            continue
        finally:
            owned.connection.execute("ROLLBACK")
            owned.mark.write_bytes(mark)
