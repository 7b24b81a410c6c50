"""
Merkle trees over the leaves of a log: roots, and proofs of inclusion and of consistency.

The tree, its two prefixes and the order of a proof are those of RFC 6962, section 2.1; the two checks follow
RFC 9162, sections 2.1.3.2 and 2.1.4.2. Nothing here is of our own invention, so that any verifier of
transparency logs can take our proofs.

A proof is a list of hashes of subtrees. Which subtrees those are is told apart from what they hash to, so that
the hashes may come from leaves in memory or from tiles in a database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, TypeAlias

from attrs import define, field

HASH: Final = 32
"""Bytes of a hash."""

EMPTY: Final = sha256().digest()
"""The root of a tree without leaves."""

Range: TypeAlias = tuple[int, int]
"""The leaves from the first to before the second, and the subtree over them."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash a leaf."""
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash a node of two subtrees."""
    return sha256(b"\1" + left + right).digest()


@define
class Frontier:
    """
    A tree that grows at its end, of which only the perfect subtrees at that end are kept.

    Attributes:
        size: How many leaves it has.
        peaks: The roots of its largest perfect subtrees, left to right: one for each bit of ``size`` that is set.
    """

    size: int = 0
    peaks: list[bytes] = field(factory=list)

    def add(self, leaf: bytes) -> None:
        """Append a leaf by its hash."""
        size, right = self.size, leaf
        while size & 1:
            right = node_hash(self.peaks.pop(), right)
            size >>= 1
        self.peaks.append(right)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The root of the whole tree."""
        return folded(self.peaks)


def folded(peaks: Sequence[bytes]) -> bytes:
    """Join the roots of perfect subtrees that get smaller from left to right into the root over all of them."""
    if not peaks:
        return EMPTY
    root = peaks[-1]
    for left in reversed(peaks[:-1]):
        root = node_hash(left, root)
    return root


def root_of(hashes: Iterable[bytes]) -> bytes:
    """Compute the root over leaves given by their hashes."""
    tree = Frontier()
    for each in hashes:
        tree.add(each)
    return tree.root


def _split(size: int) -> int:
    """Say how many leaves the left part of a tree has: the largest power of two below *size*."""
    return 1 << (size - 1).bit_length() - 1


def perfect(part: Range) -> list[Range]:
    """List the perfect subtrees that a subtree of these trees is made of, left to right."""
    start, end = part
    found = []
    while start < end:
        width = 1 << (end - start).bit_length() - 1
        found.append((start, start + width))
        start += width
    return found


def inclusion(index: int, size: int) -> list[Range]:
    """
    List the subtrees whose hashes prove that a leaf is in a tree: PATH(m, D[n]), the leaf's sibling first.

    Args:
        index: Of the leaf, from 0; below *size*.
        size: Leaves of the tree.
    """
    start, end = 0, size
    found = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency(old: int, new: int) -> list[Range]:
    """
    List the subtrees whose hashes prove that one tree begins another: PROOF(m, D[n]).

    Args:
        old: Leaves of the tree that is begun with; 1 to *new*.
        new: Leaves of the tree that goes on.
    """
    start, end = 0, new
    found = []
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    if start:
        found.append((start, end))  # without a turn to the right, who checks holds this root already
    return found[::-1]


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Check a proof that the leaf of this hash is at *index* in the tree of this size and root."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(each, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, each)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Check a proof that the tree of *old* leaves and this root begins the one of *new* leaves and that root."""
    if not 0 <= old <= new:
        return False
    if old == 0:
        return not proof and old_root == EMPTY
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(each, first), node_hash(each, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, each)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
