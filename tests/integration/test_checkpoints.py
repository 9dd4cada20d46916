"""Checkpoints as records, and what `verify` makes of them."""

from __future__ import annotations

import base64
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from otel_audit import IntegrityError
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.checkpoints import Checkpoints, checkpoint_record
from otel_audit.archive.leaf import ERASURE, GENESIS, ROTATION, seal
from otel_audit.archive.query import open_archive
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.rotation import append_rotation
from otel_audit.archive.verify import Noted, verify
from otel_audit.notes import Checkpoint, Note, SigningKey, parse_note, sign_note
from otel_audit.testing import Collector
from tests.archive_material import connect, provider_at, ship, wait_until
from tests.checkpoint_material import codes, new_key, own_types, record, recorded, stated


def test_checkpoints_come_by_themselves(archive_path: Path) -> None:
    """A provider states checkpoints while it records, not before their time, and ships them like events."""
    with (
        Collector() as collector,
        provider_at(archive_path, checkpoint_interval=0.05, endpoint=collector.endpoint) as provider,
    ):
        record(provider)
        wait_until(lambda: "audit.checkpoint" in own_types(archive_path))
        record(provider)
        wait_until(lambda: own_types(archive_path).count("audit.checkpoint") == 2)
        provider.shutdown()
        ship(archive_path, collector)
        types = [log.event_name for log in collector.records]
    assert own_types(archive_path)[:2] == ["audit.archive.created", "audit.checkpoint"]
    with open_archive(archive_path) as archive:
        assert [record.altered for record in archive.query(admin=True)] == [()] * 3
    assert types.count("audit.checkpoint") == 2
    report = verify(archive_path)
    assert report.intact, report.faults
    assert (report.checkpoints, report.signed) == (2, 0)


def test_none_before_their_time(archive_path: Path) -> None:
    """A young archive has no checkpoint, and none follows within the interval, whichever process asks."""
    recorded(archive_path)
    assert own_types(archive_path) == []
    recorded(archive_path, checkpoint_interval=0)
    assert own_types(archive_path) == []
    with connect(archive_path) as connection:
        connection.execute("UPDATE meta SET value = value - 301000000000 WHERE key = 'created'")
    recorded(archive_path)
    recorded(archive_path)
    assert own_types(archive_path) == ["audit.archive.created", "audit.checkpoint"]


def test_one_at_a_time(archive_path: Path) -> None:
    """Of processes that find a checkpoint due at once, one states it."""
    recorded(archive_path)
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait(10.0)
        stated(archive_path)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert own_types(archive_path).count("audit.archive.created") == 1
    assert verify(archive_path).intact


def test_what_came_while_one_was_signed(archive_path: Path) -> None:
    """What was recorded while a slow key signed is covered by the next checkpoint, though nothing came since."""
    key = new_key()
    recorded(archive_path)

    def slowly(data: bytes) -> bytes:
        recorded(archive_path, 2)
        return key.sign(data)

    slow = SigningKey(key.verifier.name, key.verifier.public_key, slowly)
    assert Checkpoint.parse(stated(archive_path, slow).text).size == 3
    stated(archive_path, key)
    stated(archive_path, key)
    assert own_types(archive_path).count("audit.checkpoint") == 2
    report = verify(archive_path, noted=Noted(verifiers=[key.verifier]))
    assert report.intact, report.faults
    assert report.covered == 7


def test_another_process_was_just_before(archive_path: Path) -> None:
    """Where another process has just stated a checkpoint, what it does not cover is looked at again in due time."""
    recorded(archive_path)
    with connect(archive_path) as connection:
        connection.execute("UPDATE meta SET value = value - 299000000000 WHERE key = 'created'")
    with Administration(archive_path, b"", b"") as administration:
        opener = partial(Administration, archive_path, b"", b"")
        checkpoints = Checkpoints(
            archive_path, opener, administration.tree, key=lambda: None, high_water=None, interval=300.0
        )
        wait = checkpoints.run()
        assert wait <= 1.0
        stated(archive_path)
        recorded(archive_path)
        while wait <= 1.0:
            time.sleep(wait)
            wait = checkpoints.run()
    assert 200.0 < wait <= 300.0
    assert own_types(archive_path).count("audit.checkpoint") == 1


def test_a_note_kept_elsewhere(archive_path: Path, tmp_path: Path) -> None:
    """A note holds for every later state of the archive, and for no earlier one, nor for another archive."""
    recorded(archive_path)
    older = tmp_path / "older.db"
    shutil.copy(archive_path, older)
    note = parse_note(str(stated(archive_path)))
    recorded(archive_path)
    assert codes(archive_path, notes=[note]) == []
    note = stated(archive_path)
    assert codes(archive_path, notes=[note]) == []
    assert codes(older, notes=[note]) == ["truncated"]
    other = tmp_path / "other.db"
    recorded(other, 9)
    assert codes(other, notes=[note]) == ["checkpoint"]


def test_signed(archive_path: Path) -> None:
    """With a key given, a note must bear its signature, and so must one of the archive's checkpoints."""
    key, other = new_key(), new_key("other")
    recorded(archive_path)
    assert codes(archive_path, verifiers=[key.verifier]) == ["unsigned"]
    note = stated(archive_path, key)
    report = verify(archive_path, noted=Noted(notes=[note], verifiers=[key.verifier]))
    assert report.intact, report.faults
    assert (report.checkpoints, report.signed, report.covered) == (1, 1, 3)
    assert codes(archive_path, notes=[note], verifiers=[other.verifier]) == ["unsigned", "unsigned"]
    forged = note._replace(text=note.text.replace("\n3\n", "\n2\n"))
    assert "checkpoint" in codes(archive_path, notes=[forged], verifiers=[key.verifier])


def appended(path: Path, *own: Own, verifier: str | None = None) -> int:
    with Administration(path, b"", b"", verifier=lambda: verifier) as administration:
        return administration.append(lambda _connection, _tree: own)


def present(path: Path, extra: str = "") -> str:
    """Return the text of the checkpoint that an archive has now."""
    with Administration(path, b"", b"") as administration:
        archive_id, tree = administration.tree()
    return str(Checkpoint.of_archive(archive_id, tree.size, tree.root())) + extra


def rotation(path: Path, by: SigningKey | None, following: SigningKey, names: SigningKey | None = None) -> Own:
    note = sign_note(present(path, f"next {following.verifier}\n"), by)
    return Own(
        ROTATION, "audit.key.rotated",
        {"rotation": {"note": str(note), "verifier": str((names or following).verifier)}},
    )  # fmt: skip


def test_keys_follow_each_other(archive_path: Path) -> None:
    """Checkpoints by the successors of a key count, those by a key that no rotation names do not."""
    first, second, third = new_key("a"), new_key("b"), new_key("c")
    recorded(archive_path)
    appended(archive_path, checkpoint_record(sign_note(present(archive_path), first)), verifier=str(first.verifier))
    appended(archive_path, rotation(archive_path, first, second))
    stated(archive_path, second)
    recorded(archive_path)
    stated(archive_path, third)
    for verifiers in ((), (first.verifier,)):
        report = verify(archive_path, noted=Noted(verifiers=verifiers))
        assert report.intact, report.faults
        assert (report.checkpoints, report.signed) == (4, 3)
    report = verify(archive_path, noted=Noted(verifiers=[second.verifier]))
    assert report.intact, report.faults  # who trusts the later key alone cannot judge the rotation to it
    assert report.signed == 1


def test_a_rotation_by_somebody_else(archive_path: Path) -> None:
    """A rotation that the key before it has not signed, or that names two keys, is a fault and counts for nothing."""
    first, second = new_key("a"), new_key("b")
    recorded(archive_path)
    appended(archive_path, checkpoint_record(sign_note(present(archive_path), first)), verifier=str(first.verifier))
    appended(archive_path, rotation(archive_path, second, second))
    appended(archive_path, rotation(archive_path, None, second))
    appended(archive_path, rotation(archive_path, first, second, first))
    stated(archive_path, second)
    report = verify(archive_path)
    assert [fault.code for fault in report.faults] == ["rotation"] * 3
    assert report.signed == 2  # the first checkpoint, and the note of the third rotation, which is right by itself


@pytest.mark.parametrize(
    "text",
    ["", "no note", "otel-audit/0\n1\n" + "A" * 43 + "=\n\n"],
    ids=["empty", "none", "of another archive"],
)
def test_a_checkpoint_that_is_none(archive_path: Path, text: str) -> None:
    """An own record whose note cannot be read, or is about another archive, is a fault."""
    recorded(archive_path)
    own = checkpoint_record(sign_note(present(archive_path), None))
    appended(archive_path, own._replace(custom={"checkpoint": {"note": text}}))
    assert codes(archive_path) == ["checkpoint"]


def test_a_checkpoint_of_another_tree(archive_path: Path) -> None:
    """A checkpoint with a root that the tree never had, or of records that came later, is a fault."""
    recorded(archive_path)
    text = present(archive_path)
    root = base64.b64encode(bytes(32)).decode()
    appended(archive_path, checkpoint_record(Note(text.rsplit("\n", 2)[0] + f"\n{root}\n", ())))
    assert codes(archive_path) == ["checkpoint"]
    appended(archive_path, checkpoint_record(Note(text.replace("\n3\n", "\n300\n"), ())))
    assert codes(archive_path) == ["checkpoint", "checkpoint"]


def test_the_first_own_record(archive_path: Path) -> None:
    """A second first record, or one with another id than the archive has now, is a fault."""
    recorded(archive_path)
    stated(archive_path)
    assert codes(archive_path) == []
    appended(archive_path, Own(GENESIS, "audit.archive.created", {"archive": {"id": "x", "created": 1}}))
    assert codes(archive_path) == ["genesis", "genesis"]


@pytest.mark.parametrize(("sequence", "code"), [(4, "genesis"), (5, "checkpoint"), (6, "rotation")])
def test_erased_own_records(archive_path: Path, sequence: int, code: str) -> None:
    """What the archive states of itself cannot be erased, though a record of an erasure names it."""
    key, other = new_key(), new_key("other")
    recorded(archive_path)
    stated(archive_path, key)
    appended(archive_path, rotation(archive_path, key, other))

    def make(connection: apsw.Connection, _tree: object) -> list[Own]:
        remove(connection, [(sequence, sequence)])
        return [Own(ERASURE, "audit.records.erased", fields) for fields in removal_fields([(sequence, sequence)])]

    assert codes(archive_path, verifiers=[key.verifier]) == []
    with Administration(archive_path, b"", b"") as administration:
        administration.append(make)
    assert code in codes(archive_path, verifiers=[key.verifier])


def test_what_is_covered_by_signatures(archive_path: Path) -> None:
    """For whoever gives a key, only signed checkpoints cover anything: whoever owns the file adds others at will."""
    key = new_key()
    for signer in (key, None):
        recorded(archive_path)
        stated(archive_path, signer)
    assert verify(archive_path).covered == 8
    report = verify(archive_path, noted=Noted(verifiers=[key.verifier]))
    assert (report.intact, report.checkpoints, report.signed, report.covered) == (True, 2, 1, 3)


def test_an_edited_archive_id(archive_path: Path) -> None:
    """An id that was changed together with its seal no longer fits the first own record."""
    recorded(archive_path)
    stated(archive_path)
    with connect(archive_path) as connection:
        created: Any = connection.execute("SELECT value FROM meta WHERE key = 'created'").get
        connection.execute("UPDATE meta SET value = ? WHERE key = 'archive_id'", ("ab" * 16,))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'seal'", (seal("ab" * 16, created),))
    assert set(codes(archive_path)) == {"genesis", "checkpoint"}


def test_nothing_else_is_signed_in_an_archives_name(archive_path: Path) -> None:
    """An archive's id that is a whole checkpoint, and names the next key, is a fault and goes into no signed note."""
    key, other = new_key(), new_key("other")
    recorded(archive_path)
    with connect(archive_path) as connection:
        meta: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta"))
        forged = f"{meta['archive_id']}\n1000\n{'A' * 43}=\nnext {other.verifier}"
        connection.execute("UPDATE meta SET value = ? WHERE key = 'archive_id'", (forged,))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'seal'", (seal(forged, meta["created"]),))
    assert codes(archive_path) == ["meta"]
    with pytest.raises(IntegrityError, match="is no archive's id"):
        stated(archive_path, key)
    with Administration(archive_path, b"", b"") as administration, pytest.raises(IntegrityError, match="no archive's"):
        append_rotation(administration, key, other.verifier)
