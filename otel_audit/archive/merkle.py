"""The Merkle tree over all leaves (RFC 6962), kept so that a commit touches no page that it would not touch anyway.

Each record's row holds, beside its leaf, the root of the largest complete subtree that ends there (its *node*; for odd
sequences that is the leaf itself, and nothing is stored). The root of the tree at any size, past ones included, and any
proof are computed from logarithmically many rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final

__all__ = [
    "EMPTY_ROOT",
    "Frontier",
    "Nodes",
    "consistency_path",
    "inclusion_path",
    "node_hash",
    "peak_ends",
    "root",
    "root_from_inclusion",
    "verify_consistency",
]

EMPTY_ROOT: Final = sha256(b"").digest()

Nodes = Callable[[int], bytes]
"""Returns the node stored at a sequence: the root of the largest complete subtree that ends there."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The complete subtrees that a tree of some size is made of, largest first; grows by one leaf at a time.

    Args:
        size: Number of leaves.
        peaks: Their roots, one for each bit set in `size`, from the highest.
    """

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)

    @classmethod
    def read(cls, size: int, nodes: Nodes) -> Frontier:
        """Return the frontier of a stored tree."""
        return cls(size, [nodes(end) for end in peak_ends(size)])

    def push(self, leaf: bytes) -> bytes:
        """Add a leaf, and return the root of the largest complete subtree that ends with it."""
        node = leaf
        size = self.size
        while size & 1:
            node = sha256(b"\x01" + self.peaks.pop() + node).digest()
            size >>= 1
        self.peaks.append(node)
        self.size += 1
        return node

    def root(self) -> bytes:
        """Return the root of the tree."""
        if not self.peaks:
            return EMPTY_ROOT
        result = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            result = node_hash(peak, result)
        return result


def peak_ends(size: int) -> list[int]:
    """Return the last leaf of each complete subtree in a tree of this size, largest subtree first."""
    ends = []
    end = 0
    for bit in reversed(range(size.bit_length())):
        if size >> bit & 1:
            end += 1 << bit
            ends.append(end)
    return ends


def root(size: int, nodes: Nodes) -> bytes:
    """Return the root that the tree had, or has, at a size."""
    return Frontier.read(size, nodes).root()


def inclusion_path(sequence: int, size: int, nodes: Nodes, leaves: Nodes) -> list[bytes]:
    """Return the audit path that proves a leaf's place in a tree (RFC 6962, 2.1.1), from the leaf upwards.

    Args:
        sequence: The leaf, from 1.
        size: Number of leaves of the tree.
        nodes: Reads nodes.
        leaves: Reads leaves, which differ from nodes at even sequences.

    Raises:
        ValueError: The tree holds no such leaf.
    """
    if not 1 <= sequence <= size:
        raise ValueError(f"leaf {sequence} is not in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _split(end - start)
        if sequence <= split:
            path.append(_subtree(split, end, nodes, leaves))
            end = split
        else:
            path.append(_subtree(start, split, nodes, leaves))
            start = split
    return path[::-1]


def root_from_inclusion(sequence: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes:
    """Return the root that an audit path leads to (RFC 9162, 2.1.3.2).

    Raises:
        ValueError: The path is too long or too short for this place and size.
    """
    if not 1 <= sequence <= size:
        raise ValueError(f"leaf {sequence} is not in a tree of {size}")
    index, last, result = sequence - 1, size - 1, leaf
    for step in path:
        if last == 0:
            raise ValueError("the path is too long")
        if index & 1 or index == last:
            result = node_hash(step, result)
            while index and not index & 1:
                index >>= 1
                last >>= 1
        else:
            result = node_hash(result, step)
        index >>= 1
        last >>= 1
    if last:
        raise ValueError("the path is too short")
    return result


def consistency_path(old: int, new: int, nodes: Nodes, leaves: Nodes) -> list[bytes]:
    """Return the proof that a tree of `new` leaves extends that of `old` (RFC 6962, 2.1.2).

    Raises:
        ValueError: `old` is 0 or greater than `new`.
    """
    if not 1 <= old <= new:
        raise ValueError(f"there is no proof from {old} to {new} leaves")
    path: list[bytes] = []
    start, end, whole = 0, new, True
    while old != end:
        split = start + _split(end - start)
        if old <= split:
            path.append(_subtree(split, end, nodes, leaves))
            end = split
        else:
            path.append(_subtree(start, split, nodes, leaves))
            start, whole = split, False
    if not whole:
        path.append(_subtree(start, end, nodes, leaves))
    return path[::-1]


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Tell whether a proof shows that the new tree extends the old one (RFC 9162, 2.1.4.2)."""
    if old == new:
        return not path and old_root == new_root
    if not 1 <= old < new or not path:
        return False
    steps = list(path)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    index, last = old - 1, new - 1
    while index & 1:
        index >>= 1
        last >>= 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while index and not index & 1:
                index >>= 1
                last >>= 1
        else:
            second = node_hash(second, step)
        index >>= 1
        last >>= 1
    return last == 0 and first == old_root and second == new_root


def _split(width: int) -> int:
    """Return the largest power of two below a width."""
    return 1 << (width - 1).bit_length() - 1


def _subtree(start: int, end: int, nodes: Nodes, leaves: Nodes) -> bytes:
    """Return the root over the leaves from `start` (not included) to `end`."""
    width = end - start
    if width == 1:
        return leaves(end)
    if end & -end == width:
        return nodes(end)
    split = start + _split(width)
    return node_hash(_subtree(start, split, nodes, leaves), _subtree(split, end, nodes, leaves))
