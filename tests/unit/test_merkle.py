"""The Merkle tree against RFC 6962: its definition written down once more, and the roots that others publish."""

from __future__ import annotations

import hashlib

import pytest

from otel_audit.archive.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_path,
    inclusion_path,
    node_hash,
    root,
    root_from_inclusion,
    verify_consistency,
)

LARGEST = 300
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = ["6e340b9c", "fac54203", "aeb6bcfe", "d37ee418", "4e3bbb1f", "76e67dad", "ddb89be4", "5dc9da79"]


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def tree_hash(leaves: list[bytes]) -> bytes:
    """Return MTH(D[n]) as RFC 6962, 2.1 defines it, over leaves that are hashed already."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


class Stored:
    """A tree as an archive keeps it: a leaf and a node for each sequence."""

    def __init__(self, size: int) -> None:
        self.leaves = {number: leaf(number.to_bytes(4)) for number in range(1, size + 1)}
        frontier = Frontier()
        self.nodes: dict[int, bytes] = {}
        self.roots = {0: EMPTY_ROOT}
        for number, value in self.leaves.items():
            self.nodes[number] = frontier.push(value)
            self.roots[number] = frontier.root()

    def node(self, number: int) -> bytes:
        return self.nodes[number]

    def leaf(self, number: int) -> bytes:
        return self.leaves[number]


STORED = Stored(LARGEST)


def test_published_roots() -> None:
    """The roots of the eight inputs that Certificate Transparency's implementations test with."""
    frontier = Frontier()
    for data, expected in zip(INPUTS, ROOTS, strict=True):
        frontier.push(leaf(bytes.fromhex(data)))
        assert frontier.root().hex().startswith(expected)
    assert frontier.root().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT == Frontier().root()


def test_roots_of_every_size() -> None:
    """At each size the frontier, and the rows of a larger archive, give the root that the definition gives."""
    for size in range(LARGEST + 1):
        expected = tree_hash([STORED.leaves[number] for number in range(1, size + 1)])
        assert STORED.roots[size] == expected
        assert root(size, STORED.node) == expected


def test_every_inclusion_proof() -> None:
    """Each leaf is proved in trees of all sizes, past ones included; in any other place, or changed, it is not."""
    for size in range(1, LARGEST + 1, 3):
        for sequence in range(1, size + 1):
            path = inclusion_path(sequence, size, STORED.node, STORED.leaf)
            assert root_from_inclusion(sequence, size, STORED.leaves[sequence], path) == STORED.roots[size]
            assert root_from_inclusion(sequence, size, leaf(b"other"), path) != STORED.roots[size]


def test_an_inclusion_proof_of_another_shape_is_refused() -> None:
    """A path that is too long or too short for the place leads nowhere."""
    path = inclusion_path(5, 11, STORED.node, STORED.leaf)
    for wrong in (path[:-1], [*path, path[0]]):
        with pytest.raises(ValueError, match="the path is too"):
            root_from_inclusion(5, 11, STORED.leaves[5], wrong)
    for sequence, size in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(ValueError, match="is not in a tree"):
            inclusion_path(sequence, size, STORED.node, STORED.leaf)
        with pytest.raises(ValueError, match="is not in a tree"):
            root_from_inclusion(sequence, size, EMPTY_ROOT, [])


def test_every_consistency_proof() -> None:
    """Each tree is proved to extend each smaller one; with another root, or a changed step, it is not."""
    for new in range(1, LARGEST + 1, 7):
        for old in range(1, new + 1):
            path = consistency_path(old, new, STORED.node, STORED.leaf)
            assert verify_consistency(old, new, STORED.roots[old], STORED.roots[new], path)
            assert not verify_consistency(old, new, STORED.roots[old - 1], STORED.roots[new], path)
            assert not verify_consistency(old, new, STORED.roots[old], STORED.roots[new - 1], path)
            if path:
                assert not verify_consistency(old, new, STORED.roots[old], STORED.roots[new], path[:-1])
                changed = [node_hash(path[0], path[0]), *path[1:]]
                assert not verify_consistency(old, new, STORED.roots[old], STORED.roots[new], changed)
    with pytest.raises(ValueError, match="no proof from 0"):
        consistency_path(0, 3, STORED.node, STORED.leaf)
