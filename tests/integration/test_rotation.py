"""Rotation of signing keys: the record that hands over, and what is left where the rotation is killed on its way."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.leaf import ROTATION
from otel_audit.archive.proof import check_proof, prove_consistency, prove_inclusion
from otel_audit.archive.query import open_archive
from otel_audit.archive.report import Root
from otel_audit.archive.rotation import Rotation, append_rotation, read_rotation, rotations, successor
from otel_audit.archive.verify import Noted, verify
from otel_audit.cli.run import run
from otel_audit.errors import ArchiveError, ConfigError, IntegrityError
from otel_audit.keys import create, load
from otel_audit.notes import Checkpoint, Note, SigningKey, Verifier, sign_note
from tests.archive_material import assert_sound, connect, forked, provider_at

RECORDS = 5


@pytest.fixture
def archive(archive_path: Path) -> Path:
    with provider_at(archive_path) as provider:
        for n in range(RECORDS):
            provider.get_logger("tests").audit("user.login.success", user=f"user-{n}")
    return archive_path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    create(tmp_path / "key", "audit")
    return tmp_path / "key"


def rotate(archive: Path, file: Path, *options: str) -> int:
    return run(["keys", "rotate", "--key", str(file), "--archive", str(archive), *options])


def chain(archive: Path, first: Verifier) -> list[Rotation]:
    """Return the archive's rotations, each of which must be signed by the key that the one before it names."""
    found = list(rotations(connect(archive)))
    with open_archive(archive) as opened:
        for rotation in found:
            assert rotation.signed_by(first)
            assert rotation.checkpoint.archive_id == opened.id
            first = rotation.verifier
    roots = [Root(one.checkpoint.size, one.checkpoint.root) for one in found if one.checkpoint.size]
    assert verify(archive, noted=Noted(roots)).intact
    return found


def test_a_chain_of_keys(archive: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each rotation commits one record, with the tree before it and the new key, signed by the old one."""
    first = load(file).verifier
    for n in range(3):
        with provider_at(archive) as provider:
            provider.get_logger("tests").audit("user.logout", user="alice")
        assert rotate(archive, file) == 0
        assert capsys.readouterr().out == f"{load(file).verifier}\n"
        found = chain(archive, first)
        assert len(found) == n + 1
        assert found[-1].verifier == load(file).verifier
    assert [one.sequence - 1 for one in found[1:]] == [one.checkpoint.size for one in found[1:]]
    assert_sound(archive, records=RECORDS + 3 + 1 + 3)
    with open_archive(archive) as opened:
        records = list(opened.query(admin=True, oldest_first=True))
    assert [record.type for record in records] == ["audit.archive.created", *["audit.key.rotated"] * 3]
    assert records[0].custom["archive"]["verifier"] == str(first)
    assert records[1].custom["process"]["pid"] == os.getpid()
    assert len(list(file.parent.glob("key.*.old"))) == 3


def test_a_name(archive: Path, file: Path) -> None:
    """The next key has the name that is given."""
    first = load(file).verifier
    assert rotate(archive, file, "--name", "example.com/audit") == 0
    assert load(file).verifier.name == "example.com/audit"
    assert len(chain(archive, first)) == 1
    assert rotate(archive, file, "--name", "a b") == 2
    assert load(file).verifier.name == "example.com/audit"
    assert len(chain(archive, first)) == 1


def test_without_an_archive(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an archive nothing could name the new key: none is made."""
    before = file.read_bytes()
    assert rotate(tmp_path / "none.db", file) == 2
    assert "there is no archive" in capsys.readouterr().err
    assert (file.read_bytes(), list(tmp_path.glob("*key*"))) == (before, [file])


def test_a_key_that_was_replaced(archive: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that has handed over cannot do so again: a restored copy of its file is refused."""
    copy = file.read_bytes()
    assert rotate(archive, file) == 0
    following = load(file).verifier
    file.write_bytes(copy)
    first = load(file).verifier
    assert rotate(archive, file) == 2
    err = capsys.readouterr().err
    assert f"{first.label} was followed by {following.label} in record {RECORDS + 2}" in err
    assert len(chain(archive, first)) == 1
    assert load(file).verifier == first


def test_a_rotation_that_the_archive_names(archive: Path, file: Path) -> None:
    """Where the archive names the next key already, no second record is made."""
    old = load(file)
    new = create(file.with_name("key.next"), "audit")
    with Administration(archive, b"", b"") as administration:
        sequence = append_rotation(administration, old, new.verifier)
        assert append_rotation(administration, old, new.verifier) == sequence
    assert rotate(archive, file) == 0
    assert load(file).verifier == new.verifier
    assert [one.sequence for one in chain(archive, old.verifier)] == [sequence]
    assert verify(archive).intact


def test_a_second_archive(archive: Path, file: Path, tmp_path: Path) -> None:
    """A rotation that broke off goes on with the same key in whatever archive comes next: both name it."""
    other = tmp_path / "other.db"
    provider_at(other).shutdown()
    old = load(file).verifier
    new = create(file.with_name("key.next"), "audit").verifier
    with Administration(archive, b"", b"") as administration:
        append_rotation(administration, load(file), new)
    assert rotate(other, file) == 0
    assert [chain(path, old)[0].verifier for path in (archive, other)] == [new, new]


CALLS = ("open", "write", "fsync", "replace", "fchmod", "link", "unlink")


def die_at(kill_at: int, *, after: bool) -> None:
    """Make this process kill itself before, or after, the so-manieth call that may change a file or the archive."""
    count = 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            mine = count
            if mine == kill_at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **keywords)
            finally:
                if mine == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))
    for name in ("replace", "unlink", "rename"):
        setattr(Path, name, wrap(getattr(Path, name)))
    Administration.append = wrap(Administration.append)  # type: ignore[method-assign]


def killed(archive: Path, file: Path, kill_at: int, *, after: bool) -> bool:
    """Rotate in a child that is killed at a call; return whether it was."""

    def work() -> None:
        die_at(kill_at, after=after)
        assert rotate(archive, file) == 0

    _, status = os.waitpid(forked(work), 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_each_step(archive: Path, file: Path, *, after: bool) -> None:
    """Wherever a rotation is killed there is a key that the archive knows, and the next rotation ends the work."""
    first = load(file).verifier
    kill_at, states = 0, set[tuple[bool, bool]]()
    while True:
        kill_at += 1
        current, earlier = load(file).verifier, len(chain(archive, first))
        if not killed(archive, file, kill_at, after=after):
            break
        now, named = load(file).verifier, chain(archive, first)[earlier:]
        begun = file.with_name("key.next")
        states.add((begun.exists(), bool(named)))
        # The key in use is the old one, or the one that the archive names.
        assert now == current or [one.verifier for one in named] == [now]
        assert len(named) <= 1
        waiting = load(begun).verifier if begun.exists() else None
        if now == current:
            assert not named or named[0].verifier == waiting
            assert rotate(archive, file) == 0
            assert waiting in {None, load(file).verifier}
        assert not begun.exists()
        assert len(chain(archive, first)) == earlier + 1
        assert chain(archive, first)[-1].verifier == load(file).verifier
    assert kill_at > 10
    # Nothing done yet; the key made; the record committed; all done.
    assert states >= {(False, False), (True, False), (True, True), (False, True)}
    assert_sound(archive)


def test_rotations_at_once(archive: Path, file: Path) -> None:
    """Of several rotations at the same time each is done whole or refused; the chain of keys has no fork."""
    first = load(file).verifier

    def work() -> None:
        for _ in range(5):
            rotate(archive, file)

    children = [forked(work) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    found = chain(archive, first)
    assert found
    assert found[-1].verifier == load(file).verifier
    assert not file.with_name("key.next").exists()


def test_rotation_while_others_record(archive: Path, file: Path) -> None:
    """Rotations beside writers of other processes state trees that there were."""
    first = load(file).verifier

    def work() -> None:
        with provider_at(archive) as provider:
            for n in range(100):
                provider.get_logger("tests").audit("user.logout", user=f"user-{n}")

    children = [forked(work) for _ in range(2)]
    for _ in range(5):
        assert rotate(archive, file) == 0
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(chain(archive, first)) == 5


def test_proofs_over_a_rotation(archive: Path, file: Path) -> None:
    """A tree that the old key signed is proved to be a part of one that the new key signed."""
    old = load(file)
    with open_archive(archive) as opened:
        before = prove_consistency(opened, 3, RECORDS, key=old)
        assert rotate(archive, file) == 0
        new = load(file)
        proof = prove_consistency(opened, RECORDS, RECORDS + 2, key=new)
        rotation = prove_inclusion(opened, RECORDS + 2, key=new)
    proof["old"]["checkpoint"] = before["new"]["checkpoint"]
    proved = check_proof(proof, (), [new.verifier, old.verifier])
    assert proved.signers == ((old.verifier,), (new.verifier,))
    for keys in ([old.verifier], [new.verifier]):
        with pytest.raises(ConfigError, match="none of the given keys"):
            check_proof(proof, (), keys)
    shown = check_proof(rotation, (), [new.verifier]).record
    assert shown is not None
    assert (shown.type, shown.custom["rotation"]["verifier"]) == ("audit.key.rotated", str(new.verifier))


def rotation_fields(text: str, key: SigningKey, verifier: object) -> dict[str, Any]:
    return {"rotation": {"note": str(sign_note(text, key)), "verifier": str(verifier)}}


@pytest.mark.parametrize("damage", ["fields", "types", "note", "no next", "two keys", "later", "checkpoint"])
def test_rotations_that_cannot_be_read(archive: Path, file: Path, damage: str) -> None:
    """A record of a rotation that is none, or contradicts itself, is an error that names it, not a rotation."""
    key, other = load(file), create(file.with_name("other"), "audit")
    text = str(Checkpoint.of_archive("0" * 32, 999 if damage == "later" else 3, bytes(32)))
    following = f"{text}next {other.verifier}\n"
    damaged: dict[str, dict[str, dict[str, Any]]] = {
        "fields": {},
        "types": {"rotation": {"note": 5, "verifier": "x"}},
        "note": {"rotation": {"note": "nonsense", "verifier": str(other.verifier)}},
        "no next": rotation_fields(text, key, other.verifier),
        "two keys": rotation_fields(following, key, key.verifier),
        "later": rotation_fields(following, key, other.verifier),
        "checkpoint": rotation_fields(f"no checkpoint\nnext {other.verifier}\n", key, other.verifier),
    }
    own = Own(ROTATION, "audit.key.rotated", damaged[damage])
    with Administration(archive, b"", b"") as administration:
        sequence = administration.append(lambda _connection, _tree: [own])
    with pytest.raises(IntegrityError, match=f"record {sequence} cannot be read"):
        successor(connect(archive), key.verifier)
    before = file.read_bytes()
    assert rotate(archive, file) == 2
    assert file.read_bytes() == before


def test_a_forged_rotation(archive: Path, file: Path) -> None:
    """A rotation whose signature by the key is wrong is an error, not a rotation."""
    key, other = load(file), create(file.with_name("other"), "audit")
    forged = Note(
        f"{Checkpoint.of_archive('0' * 32, 3, bytes(32))}next {other.verifier}\n",
        sign_note("another text\n", key).signatures,
    )
    fields = {"rotation": {"note": str(forged), "verifier": str(other.verifier)}}
    with Administration(archive, b"", b"") as administration:
        administration.append(lambda _connection, _tree: [Own(ROTATION, "audit.key.rotated", fields)])
    with pytest.raises(IntegrityError, match="is wrong"):
        successor(connect(archive), key.verifier)


def test_nothing_else_is_a_rotation() -> None:
    """Bytes that are no log record, and a record without these fields, are refused."""
    for otlp in (b"", b"\xff", b"\x32\x02\x0a\x00"):
        with pytest.raises(ValueError):  # noqa: PT011 - whichever reader finds it
            read_rotation(1, otlp)


def test_appending_nothing_changes_nothing(archive: Path) -> None:
    """Where no own record comes of it, an administration leaves no trace: no genesis, no resource."""
    with Administration(archive, b"resource", b"scope") as administration:
        assert administration.append(lambda _connection, _tree: []) == RECORDS
    assert verify(archive).intact
    assert_sound(archive, records=RECORDS)


def test_an_archive_that_cannot_be_written(archive: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the record cannot be committed, the old key stays in use, and the next rotation takes the key it made."""
    before = load(file).verifier

    def fail(*_: Any) -> int:
        raise ArchiveError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Administration, "append", fail)
        assert rotate(archive, file) == 2
    assert load(file).verifier == before
    waiting = load(file.with_name("key.next")).verifier
    with contextlib.closing(connect(archive)) as connection:
        assert successor(connection, before) is None
    assert rotate(archive, file) == 0
    assert load(file).verifier == waiting
