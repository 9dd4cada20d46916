"""Signed proofs: whoever has one and the key's verifier needs nothing else; also of records without content."""

from __future__ import annotations

import base64
import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.leaf import ERASURE, commitment
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.proof import check_proof, prove_consistency, prove_inclusion
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.report import Root
from otel_audit.errors import ArchiveError, ConfigError, IntegrityError
from otel_audit.keys import create
from otel_audit.notes import Checkpoint, SigningKey, parse_note, sign_note
from tests.archive_material import connect, provider_at

SIZE = 300
ERASED = [(7, 7), (100, 130), (255, 257)]
EDGES = [0, 1, 2, 3, 127, 128, 129, 254, 255, 256, 257, 258]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signed")


@pytest.fixture(scope="module")
def key(directory: Path) -> SigningKey:
    return create(directory / "key", "example.com/audit")


@pytest.fixture(scope="module")
def stranger(directory: Path) -> SigningKey:
    return create(directory / "stranger", "example.com/audit")


@pytest.fixture(scope="module")
def archive(directory: Path) -> Iterator[Archive]:
    """Return an archive of 300 records, own ones among them, in which some were erased."""
    path = directory / "audit.db"
    with provider_at(path) as provider:
        for n in range(SIZE - 2):
            provider.get_logger("proof").audit("user.login.success", user=f"user-{n}")

    def make(connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
        remove(connection, ERASED)
        return (Own(ERASURE, "audit.records.erased", fields) for fields in removal_fields(ERASED, reason="a test"))

    with Administration(path, b"", b"") as administration:
        administration.append(make)
    with open_archive(path) as opened:
        yield opened


def erased(sequence: int) -> bool:
    return any(first <= sequence <= last for first, last in ERASED)


def sent(proof: dict[str, Any]) -> Any:
    """Return a proof as its reader gets it."""
    return json.loads(json.dumps(proof))


def test_signed_at_every_size(archive: Archive, key: SigningKey) -> None:
    """In the trees of all sizes records are proved by the key alone: the first, the last, others, and the erased."""
    users = {record.sequence: record.user for record in archive.query()}
    chance = random.Random(5)
    for size in range(1, SIZE + 1):
        for sequence in {1, size, size // 2 + 1, chance.randint(1, size), *(n for n in (7, 256) if n <= size)}:
            proof = sent(prove_inclusion(archive, sequence, size, key=key))
            proved = check_proof(proof, keys=[key.verifier])
            assert proved.signers == ((key.verifier,),)
            assert proved.roots[0].size == size
            assert proved.leaf is not None
            assert proved.leaf.sequence == sequence
            assert (proved.record is None) == erased(sequence)
            if proved.record is not None and sequence <= SIZE - 2:
                assert proved.record.user == users[sequence]
            note = parse_note(proof["checkpoint"])
            assert Checkpoint.parse(note.text) == Checkpoint.of_archive(archive.id, *proved.roots[0])
            assert note.signed_by(key.verifier)


def test_consistency_at_every_size(archive: Archive, key: SigningKey) -> None:
    """Trees of all sizes are proved, by the key alone, to extend earlier ones."""
    chance = random.Random(6)
    for new in range(1, SIZE + 1):
        for old in {1, new, chance.randint(1, new), *(n for n in EDGES if 1 <= n <= new)}:
            proof = sent(prove_consistency(archive, old, new, key=key))
            proved = check_proof(proof, keys=[key.verifier])
            assert [root.size for root in proved.roots] == [old, new]
            assert proved.signers == ((key.verifier,), (key.verifier,))


def test_own_records_are_proved(archive: Archive, key: SigningKey) -> None:
    """The archive's own records are proved like events."""
    types = []
    for sequence in (SIZE - 1, SIZE):
        proved = check_proof(sent(prove_inclusion(archive, sequence, key=key)), keys=[key.verifier])
        assert proved.record is not None
        types.append(proved.record.type)
    assert types == ["audit.archive.created", "audit.records.erased"]


def test_what_an_erased_record_shows(archive: Archive, key: SigningKey) -> None:
    """Of an erased record the proof shows what the leaf covers, and holds nothing of the content."""
    proof = sent(prove_inclusion(archive, 7, key=key))
    assert "content" not in proof
    assert len(proof["commitment"]) == 64
    proved = check_proof(proof, keys=[key.verifier])
    assert proved.leaf is not None
    assert (proved.leaf.kind, proved.leaf.host, proved.leaf.type) == (1, "example.com", "user.login.success")
    assert "user-6" not in json.dumps(proof)


def test_a_proof_from_before_an_erasure_holds(archive: Archive, key: SigningKey) -> None:
    """The commitment in place of the content leads to the same leaf: content can be withheld, not changed."""
    proof = sent(prove_inclusion(archive, 8, key=key))
    withheld = copy.deepcopy(proof)
    del withheld["content"]
    with connect(archive.path) as connection:
        salt, otlp, digest = connection.execute(
            "SELECT salt, otlp, digest FROM record JOIN resource ON id = record.resource WHERE sequence = 8"
        ).fetchone() or (b"", b"", b"")
    withheld["commitment"] = commitment(salt, digest, otlp).hex()
    assert check_proof(withheld, keys=[key.verifier]).leaf == check_proof(proof, keys=[key.verifier]).leaf
    both = {**proof, "commitment": withheld["commitment"]}
    neither = {name: value for name, value in proof.items() if name != "content"}
    for candidate in (both, neither):
        with pytest.raises(ConfigError, match="no proof"):
            check_proof(candidate, keys=[key.verifier])
    withheld["commitment"] = "00" * 32
    with pytest.raises(IntegrityError, match="not the hash"):
        check_proof(withheld, keys=[key.verifier])


def proofs(archive: Archive, key: SigningKey | None) -> list[dict[str, Any]]:
    return [
        prove_inclusion(archive, 6, 200, key=key),
        prove_inclusion(archive, 7, 200, key=key),
        prove_consistency(archive, 60, 200, key=key),
    ]


def checkpoints(proof: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in (proof, proof.get("old"), proof.get("new")) if part is not None and "checkpoint" in part]


def trees(proof: dict[str, Any]) -> list[Root]:
    parts = [proof[name] for name in ("tree", "old", "new") if name in proof]
    return [Root(part["size"], bytes.fromhex(part["root"])) for part in parts]


def test_who_is_trusted(archive: Archive, key: SigningKey, stranger: SigningKey) -> None:
    """An unsigned proof, one by another key of the same name, and one without any key given need a noted root."""
    for by, names in ((None, "nobody"), (stranger, stranger.verifier.label)):
        for proof in proofs(archive, by):
            with pytest.raises(ConfigError) as caught:
                check_proof(proof, keys=[key.verifier])
            assert f"is signed by {names}, none of the given keys" in str(caught.value)
            assert ("give the verifier of a key that signed it" in str(caught.value)) == (by is not None)
            proved = check_proof(proof, trees(proof), [key.verifier])
            assert set(proved.signers) == {()}
            with pytest.raises(ConfigError, match="give the root that was noted"):
                check_proof(proof)
    for proof in proofs(archive, key):
        assert check_proof(proof, keys=[stranger.verifier, key.verifier]).signers[-1] == (key.verifier,)
        with pytest.raises(IntegrityError, match="another one was noted"):
            check_proof(proof, [Root(200, bytes(32))], [key.verifier])


def test_half_of_a_consistency_proof(archive: Archive, key: SigningKey) -> None:
    """Of the two trees each needs its own root or signature; one of each is enough."""
    proof = prove_consistency(archive, 60, 200, key=key)
    old, new = trees(proof)
    proof["old"]["checkpoint"] = str(parse_note(proof["old"]["checkpoint"])._replace(signatures=()))
    assert check_proof(proof, [old], [key.verifier]).signers == ((), (key.verifier,))
    for roots in ([], [new]):
        with pytest.raises(ConfigError, match="signed by nobody"):
            check_proof(proof, roots, [key.verifier])


def test_checkpoints_of_other_trees(archive: Archive, key: SigningKey) -> None:
    """A checkpoint of another archive, size or root is refused, however well it is signed."""
    for proof in proofs(archive, key):
        for part, tree in zip(checkpoints(proof), trees(proof), strict=True):
            genuine = part["checkpoint"]
            for other in (
                Checkpoint.of_archive("0" * 32, *tree),
                Checkpoint(f"otel-audit/{archive.id}/x", *tree),
                Checkpoint.of_archive(archive.id, tree.size + 1, tree.hash),
                Checkpoint.of_archive(archive.id, tree.size, bytes(32)),
            ):
                part["checkpoint"] = str(sign_note(str(other), key))
                with pytest.raises(IntegrityError, match="the checkpoint is not that"):
                    check_proof(proof, trees(proof), [key.verifier])
            part["checkpoint"] = str(sign_note("nonsense\n", key))
            with pytest.raises(ConfigError, match="no checkpoint"):
                check_proof(proof, trees(proof), [key.verifier])
            # Further lines are others': a rotation's note states its tree, too.
            part["checkpoint"] = str(sign_note(f"{Checkpoint.of_archive(archive.id, *tree)}next\n", key))
            check_proof(proof, keys=[key.verifier])
            part["checkpoint"] = genuine
        check_proof(proof, keys=[key.verifier])


def test_another_archive_id(archive: Archive, key: SigningKey) -> None:
    """A proof cannot be passed off as one of another archive."""
    for proof in proofs(archive, key):
        with pytest.raises(IntegrityError, match="the checkpoint is not that"):
            check_proof({**proof, "archive_id": "0" * 32}, keys=[key.verifier])


ODD = "0123456789abcdefAZ+/= \n\0\u2014é\u202e"


def test_edited_notes(archive: Archive, key: SigningKey) -> None:
    """Whatever sign of a signed checkpoint is changed, taken out or put in, the proof holds no longer."""
    chance = random.Random(7)
    for proof in proofs(archive, key):
        for part in checkpoints(proof):
            genuine = part["checkpoint"]
            for place in range(len(genuine)):
                sign = chance.choice(ODD.replace(genuine[place], ""))
                for edited in (
                    genuine[:place] + sign + genuine[place + 1 :],
                    genuine[:place] + genuine[place + 1 :],
                    genuine[:place] + sign + genuine[place:],
                ):
                    if edited == genuine:
                        continue
                    part["checkpoint"] = edited
                    with pytest.raises((ConfigError, IntegrityError)):
                        check_proof(proof, keys=[key.verifier])
            part["checkpoint"] = genuine
        check_proof(proof, keys=[key.verifier])


def test_every_bit_of_a_signature_counts(archive: Archive, key: SigningKey) -> None:
    """A signature with any bit flipped is wrong, also where a noted root would do."""
    proof = prove_inclusion(archive, 6, 200, key=key)
    note = parse_note(proof["checkpoint"])
    (one,) = note.signatures
    for bit in range(0, 512, 5):
        flipped = bytearray(one.signature)
        flipped[bit // 8] ^= 1 << bit % 8
        proof["checkpoint"] = str(note._replace(signatures=(one._replace(signature=bytes(flipped)),)))
        with pytest.raises(IntegrityError, match="is wrong"):
            check_proof(proof, trees(proof), [key.verifier])


def test_a_signature_has_one_form(archive: Archive, key: SigningKey) -> None:
    """Base64 whose last sign has other unused bits decodes to the same signature, and is refused all the same."""
    proof = prove_inclusion(archive, 6, 200, key=key)
    text = proof["checkpoint"].removesuffix("=\n")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1] + "=\n"
    encoded = [one.rpartition(" ")[2].strip() for one in (proof["checkpoint"], other)]
    assert base64.b64decode(encoded[0]) == base64.b64decode(encoded[1])
    with pytest.raises(ConfigError, match="no note"):
        check_proof({**proof, "checkpoint": other}, keys=[key.verifier])


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=200) | st.just("\ud800") | st.just("00" * 32)
    | st.text(alphabet="otel-audit/\n0123456789=\u2014 +A", max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@given(value=HOSTILE, name=st.sampled_from(["checkpoint", "commitment", "archive_id", "leaf", "content"]))
def test_hostile_parts(archive: Archive, key: SigningKey, value: Any, name: str) -> None:
    """Any value in the place of what signed proofs are made of is refused with an error of ours."""
    for proof in proofs(archive, key):
        for place in (proof, *(proof[part] for part in ("old", "new") if part in proof)):
            changed = copy.deepcopy(proof)
            target = changed if place is proof else next(changed[n] for n in ("old", "new") if proof[n] is place)
            target[name] = value
            if name not in place and (place is not proof or "old" in proof):
                continue  # nobody reads it
            with pytest.raises((ConfigError, IntegrityError)):
                check_proof(changed, keys=[key.verifier])


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE record SET otlp = CAST(replace(otlp, 'user-4', 'user-5') AS BLOB)", IntegrityError),
        ("UPDATE record SET type = 'user.logout'", IntegrityError),
        ("UPDATE record SET kind = 9", IntegrityError),
        ("UPDATE record SET salt = zeroblob(32)", IntegrityError),
        ("UPDATE record SET leaf = zeroblob(32)", IntegrityError),
        ("UPDATE record SET commitment = zeroblob(32)", IntegrityError),
        ("UPDATE record SET record_id = randomblob(16)", IntegrityError),
        ("UPDATE record SET record_id = randomblob(15)", ArchiveError),
        ("UPDATE record SET host = printf('%.300c', 'x')", IntegrityError),
        ("UPDATE record SET observed = -1", ConfigError),
        ("UPDATE record SET otlp = NULL", ArchiveError),
        ("UPDATE record SET salt = NULL", ArchiveError),
        ("DELETE FROM record", ArchiveError),
    ],
)
def test_no_lie_is_signed(
    archive: Archive, key: SigningKey, tmp_path: Path, statement: str, error: type[Exception]
) -> None:
    """Of a record that was changed no proof is made, and so none is signed."""
    path = tmp_path / "changed.db"
    with connect(archive.path) as connection:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    shutil.copy(archive.path, path)
    with connect(path) as connection:
        connection.execute(f"{statement} WHERE sequence = 5")
    asked: list[bytes] = []

    def sign(text: bytes) -> bytes:
        asked.append(text)
        return key.sign(text)

    watched = SigningKey("watched", key.verifier.public_key, sign)
    with open_archive(path) as opened, pytest.raises(error):
        prove_inclusion(opened, 5, 20, key=watched)
    assert asked == []


def test_a_tree_that_was_changed_is_not_signed(archive: Archive, key: SigningKey, tmp_path: Path) -> None:
    """Where the stored tree contradicts itself no proof of consistency is signed."""
    path = tmp_path / "changed.db"
    with connect(archive.path) as connection:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    shutil.copy(archive.path, path)
    with connect(path) as connection:
        connection.execute("UPDATE record SET node = zeroblob(32) WHERE sequence = 60")
    with open_archive(path) as opened, pytest.raises(IntegrityError, match="not proved"):
        prove_consistency(opened, 60, 200, key=key)
