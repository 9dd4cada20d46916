"""Proofs: whoever has one and a noted root needs nothing else; a proof that was tampered with is refused."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.archive.proof import check_proof, prove_consistency, prove_inclusion
from otel_audit.archive.query import Archive, open_archive
from otel_audit.archive.report import Root
from otel_audit.errors import ConfigError, IntegrityError
from tests.archive_material import provider_at

SIZE = 21


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    path: Path = tmp_path_factory.mktemp("proof") / "audit.db"
    with provider_at(path) as provider:
        log = provider.get_logger("proof")
        for n in range(SIZE):
            log.audit("user.login.success", user=f"user-{n}")
    with open_archive(path) as opened:
        yield opened


def noted(proof: dict[str, Any]) -> list[Root]:
    parts = [proof[name] for name in ("tree", "old", "new") if name in proof]
    return [Root(part["size"], bytes.fromhex(part["root"])) for part in parts]


def test_every_record_in_every_tree(archive: Archive) -> None:
    """Each record is proved in the trees of all sizes since it was recorded, and the proof gives the record."""
    records = {record.sequence: record for record in archive.query()}
    for size in range(1, SIZE + 1):
        for sequence in range(1, size + 1):
            proof = json.loads(json.dumps(prove_inclusion(archive, sequence, size)))
            proved = check_proof(proof, noted(proof))
            assert proved.record == records[sequence]
            assert proved.roots == tuple(noted(proof))


def test_every_pair_of_trees(archive: Archive) -> None:
    """Each tree is proved to extend each earlier one."""
    for new in range(1, SIZE + 1):
        for old in range(1, new + 1):
            proof = json.loads(json.dumps(prove_consistency(archive, old, new)))
            assert check_proof(proof, noted(proof)).record is None


def test_what_cannot_be_proved(archive: Archive) -> None:
    """Records and trees that never were are refused."""
    for sequence, size in ((0, 3), (4, 3), (1, SIZE + 1), (SIZE + 1, None)):
        with pytest.raises(ConfigError, match="there is no record"):
            prove_inclusion(archive, sequence, size)
    for old, new in ((0, 3), (4, 3), (1, SIZE + 1)):
        with pytest.raises(ConfigError, match="there is no proof from"):
            prove_consistency(archive, old, new)


def test_the_noted_root_decides(archive: Archive) -> None:
    """Without a root of this size nothing is checked, and with another one the proof does not hold."""
    for proof in (prove_inclusion(archive, 3), prove_consistency(archive, 3, 9)):
        roots = noted(proof)
        with pytest.raises(ConfigError, match="give the root that was noted"):
            check_proof(proof, [Root(5, bytes(32))])
        with pytest.raises(IntegrityError, match="another one was noted"):
            check_proof(proof, [Root(root.size, bytes(32)) for root in roots])
        with pytest.raises(IntegrityError, match="another one was noted"):
            check_proof(proof, [*roots, Root(roots[-1].size, bytes(32))])


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, (*path, number))
    else:
        yield path


def test_every_change_of_a_proof_is_found(archive: Archive) -> None:
    """Whatever character, number or step of a proof is changed, it holds no longer, or is no proof any more."""
    chance = random.Random(4)
    for proof in (prove_inclusion(archive, 6), prove_consistency(archive, 6, 21)):
        roots = noted(proof)
        check_proof(proof, roots)
        for path in leaves(proof):
            if path == ("archive_id",):
                continue  # no leaf covers it
            for _ in range(30):
                changed = copy.deepcopy(proof)
                at: Any = changed
                for step in path[:-1]:
                    at = at[step]
                old = at[path[-1]]
                if isinstance(old, int):
                    at[path[-1]] = old + chance.choice((-1, 1, 7, 2**70))
                else:
                    place = chance.randrange(len(old))
                    at[path[-1]] = old[:place] + chance.choice("0123456789abcdefAZ+/= \0é") + old[place + 1 :]
                same_hash = isinstance(old, str) and str(at[path[-1]]).lower() == old.lower()
                if at[path[-1]] == old or (same_hash and len(old) == 64):
                    continue
                with pytest.raises((ConfigError, IntegrityError)):
                    check_proof(changed, roots)
        for path in (("tree", "path"), ("path",)):
            changed = copy.deepcopy(proof)
            at = changed.get("tree", changed) if path[0] == "tree" else changed
            if isinstance(at.get("path"), list) and at["path"]:
                at["path"] = at["path"][:-1]
                with pytest.raises((ConfigError, IntegrityError)):
                    check_proof(changed, roots)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70) | st.just("00" * 32)
    | st.just(10**4000) | st.just("\ud800") | st.just("A" * 65_536) | st.just("otel-audit/inclusion/1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(value=ODD, part=st.sampled_from(["format", "leaf", "content", "tree", "old", "new", "path"]), data=st.data())
def test_hostile_proofs(archive: Archive, value: Any, part: str, data: st.DataObject) -> None:
    """Any value in the place of any part of a proof, or of the whole, is refused with an error of ours."""
    for proof in (prove_inclusion(archive, 6), prove_consistency(archive, 6, 21)):
        changed: Any = copy.deepcopy(proof)
        inner = changed.get(part)
        if isinstance(inner, dict) and data.draw(st.booleans()):
            inner[data.draw(st.sampled_from(sorted(inner)))] = value
        else:
            changed[part] = value
        for candidate in (changed, value):
            try:
                check_proof(candidate, noted(proof))
            except (ConfigError, IntegrityError):
                continue
            # What a proof does not need changes nothing.
            assert candidate is changed
            assert part not in proof or candidate == proof
