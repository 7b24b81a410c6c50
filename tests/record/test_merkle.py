"""Merkle trees: the published vectors of RFC 6962, and its recursive definitions as an oracle for every size."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.record import merkle, tiles
from conversation_store.record.merkle import Frontier

# Leaves, roots and proofs as published with the reference implementation of Certificate Transparency.
LEAVES: Final = tuple(
    map(bytes.fromhex, ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", bytes(range(0x60, 0x70)).hex()))
)
ROOTS: Final = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
INCLUSION: Final = {
    (0, 1): (),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY: Final = {
    (1, 1): (),
    (1, 8): INCLUSION[0, 8],
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
MOST: Final = 300
MANY: Final = tuple(sha256(b"leaf %d" % n).digest() for n in range(MOST))


# --- RFC 6962, section 2.1, word for word: nothing of it is shared with the library ------------------------------


def split(n: int) -> int:
    """Find the largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


@cache
def mth(start: int, end: int) -> bytes:
    """MTH(D[start:end]) over ``MANY``, whose items are the leaves' hashes."""
    n = end - start
    if n == 0:
        return sha256().digest()
    if n == 1:
        return MANY[start]
    k = split(n)
    return sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m: int, start: int, end: int) -> list[bytes]:
    """PATH(m, D[start:end])."""
    n = end - start
    if n == 1:
        return []
    k = split(n)
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m: int, start: int, end: int, *, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[start:end], whole)."""
    n = end - start
    if m == n:
        return [] if whole else [mth(start, end)]
    k = split(n)
    if m <= k:
        return [*subproof(m, start, start + k, whole=whole), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, whole=False), mth(start, start + k)]


# --- vectors -----------------------------------------------------------------------------------------------------


def test_the_published_roots() -> None:
    """The roots of the first 0 to 8 reference leaves, at once and one leaf after the other."""
    tree = Frontier()
    for size in range(9):
        hashes = list(map(merkle.leaf_hash, LEAVES[:size]))
        assert merkle.root_of(hashes).hex() == tree.root.hex() == ROOTS[size]
        if size < 8:
            tree.add(merkle.leaf_hash(LEAVES[size]))


@pytest.mark.parametrize("of", INCLUSION)
def test_the_published_inclusion_proofs(of: tuple[int, int]) -> None:
    """The reference proofs are those that are made, and they are accepted."""
    index, size = of
    hashes = list(map(merkle.leaf_hash, LEAVES))
    made = [merkle.root_of(hashes[start:end]) for start, end in merkle.inclusion(index, size)]
    assert tuple(each.hex() for each in made) == INCLUSION[of]
    assert merkle.is_included(hashes[index], index, size, made, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize("of", CONSISTENCY)
def test_the_published_consistency_proofs(of: tuple[int, int]) -> None:
    """The reference proofs are those that are made, and they are accepted."""
    old, new = of
    hashes = list(map(merkle.leaf_hash, LEAVES))
    made = [merkle.root_of(hashes[start:end]) for start, end in merkle.consistency(old, new)]
    assert tuple(each.hex() for each in made) == CONSISTENCY[of]
    assert merkle.is_consistent(old, new, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]), made)


# --- laws --------------------------------------------------------------------------------------------------------


def test_every_root_up_to_three_hundred_leaves() -> None:
    """Roots are those of the recursive definition, for every size, and the frontier has a peak for each bit."""
    tree = Frontier()
    for size in range(MOST + 1):
        assert tree.root == merkle.root_of(MANY[:size]) == mth(0, size)
        assert len(tree.peaks) == size.bit_count()
        assert tree.peaks == [mth(*part) for part in merkle.perfect((0, size))]
        if size < MOST:
            tree.add(MANY[size])


def test_every_inclusion_proof_up_to_three_hundred_leaves() -> None:
    """Proofs are those of the recursive definition for every leaf of every size, and lead to the root."""
    for size in range(1, MOST + 1):
        root = mth(0, size)
        for index in range(size):
            proof = [mth(*part) for part in merkle.inclusion(index, size)]
            assert proof == path(index, 0, size)
            assert merkle.is_included(MANY[index], index, size, proof, root)


def test_every_consistency_proof_up_to_three_hundred_leaves() -> None:
    """Proofs are those of the recursive definition for every two sizes, and lead to both roots."""
    for new in range(1, MOST + 1):
        for old in range(1, new + 1):
            proof = [mth(*part) for part in merkle.consistency(old, new)]
            assert proof == subproof(old, 0, new, whole=True)
            assert merkle.is_consistent(old, new, mth(0, old), mth(0, new), proof)


@given(st.data())
def test_no_other_inclusion_is_accepted(data: st.DataObject) -> None:
    """Another leaf, index, size or root, a hash flipped, left out, doubled or added: none of them is proved."""
    size = data.draw(st.integers(2, MOST))
    index = data.draw(st.integers(0, size - 1))
    proof, root = path(index, 0, size), mth(0, size)
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    assert not merkle.is_included(MANY[other], index, size, proof, root)
    assert not merkle.is_included(MANY[index], other, size, proof, root)
    assert not merkle.is_included(MANY[index], index - size, size, proof, root)
    assert not merkle.is_included(MANY[index], size, size, proof, root)
    assert not merkle.is_included(MANY[index], index, size, proof, mth(0, size - 1))
    at = data.draw(st.integers(0, len(proof) - 1))
    flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    for wrong in (
        [*proof[:at], flipped, *proof[at + 1 :]],
        [*proof[:at], *proof[at + 1 :]],
        [*proof[:at], proof[at], *proof[at:]],
        [*proof, root],
    ):
        assert not merkle.is_included(MANY[index], index, size, wrong, root)


@given(st.data())
def test_no_other_consistency_is_accepted(data: st.DataObject) -> None:
    """Another old root, another size, a hash flipped, left out or added: none of them is proved."""
    new = data.draw(st.integers(2, MOST))
    old = data.draw(st.integers(1, new - 1))
    proof, before, after = subproof(old, 0, new, whole=True), mth(0, old), mth(0, new)
    assert not merkle.is_consistent(old, new, mth(0, old - 1), after, proof)
    assert not merkle.is_consistent(old, new, before, mth(0, new - 1), proof)
    assert not merkle.is_consistent(old, new, after, before, proof)
    assert not merkle.is_consistent(new, old, after, before, proof)
    assert not merkle.is_consistent(new, new, before, after, [])
    at = data.draw(st.integers(0, len(proof) - 1))
    flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    for wrong in (
        [*proof[:at], flipped, *proof[at + 1 :]],
        [*proof[:at], *proof[at + 1 :]],
        [*proof, after],
        [],
    ):
        assert not merkle.is_consistent(old, new, before, after, wrong)


def test_an_empty_tree_begins_every_tree() -> None:
    """Of no leaves nothing is to be proved, and with a proof nothing is."""
    assert merkle.is_consistent(0, 5, merkle.EMPTY, mth(0, 5), [])
    assert not merkle.is_consistent(0, 5, mth(0, 1), mth(0, 5), [])
    assert not merkle.is_consistent(0, 5, merkle.EMPTY, mth(0, 5), [mth(0, 1)])
    assert not merkle.is_consistent(-1, 5, merkle.EMPTY, mth(0, 5), [])


# --- tiles -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 400), min_size=1, max_size=6), st.data())
def test_tiles_give_every_subtree_however_they_grew(steps: list[int], data: st.DataObject) -> None:
    """Grown in any steps, with only the tiles at the edge at hand, tiles are the same, and so is every proof."""
    hashes = [sha256(b"%d" % n).digest() for n in range(sum(steps))]
    grown: dict[tiles.Place, bytes] = {}
    size = 0
    for step in steps:
        at_hand = {place: grown[place] for place in tiles.edge(size)}
        grown |= tiles.extended(at_hand, size, hashes[size : size + step])
        size += step
        assert merkle.folded(tiles.peaks(grown, size) if size else []) == merkle.root_of(hashes[:size])
    assert grown == tiles.extended({}, 0, hashes)
    if not size:
        return
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    for parts in (merkle.inclusion(index, size), merkle.consistency(old, size)):
        read = {place: grown[place] for place in tiles.places(parts)}
        assert [tiles.subtree(read, part) for part in parts] == [merkle.root_of(hashes[a:b]) for a, b in parts]


def test_tiles_are_those_of_c2sp() -> None:
    """The example of c2sp.org/tlog-tiles: 70,000 leaves are 273 full tiles and three that are not."""
    grown = tiles.extended({}, 0, [sha256(b"%d" % n).digest() for n in range(70_000)])
    assert tiles.edge(70_000) == [(0, 273), (1, 1), (2, 0)]
    widths = {place: len(data) // merkle.HASH for place, data in grown.items()}
    assert {place: widths.pop(place) for place in tiles.edge(70_000)} == {(0, 273): 112, (1, 1): 17, (2, 0): 1}
    assert widths == {**{(0, n): 256 for n in range(273)}, (1, 0): 256}
    assert tiles.edge(256) == [(1, 0)]


def test_a_missing_or_short_tile_is_no_other_hash() -> None:
    """What cannot be computed is a LookupError, never a guess."""
    grown = tiles.extended({}, 0, MANY)
    with pytest.raises(LookupError):
        tiles.subtree({}, (0, 256))
    with pytest.raises(LookupError):
        tiles.subtree({**grown, (0, 1): grown[0, 1][:32]}, (256, 300))


def test_a_proof_reads_three_tiles_of_a_million_leaves() -> None:
    """With the frontier at hand, the tiles on a leaf's own path are enough; else those at the edge are read too."""
    size = 1_000_000
    frontier = dict.fromkeys(merkle.perfect((0, size)), bytes(32))
    for index in (0, 1, 255, 65_536, 500_000, 983_039, 983_040, 999_935, 999_936, size - 1):
        parts = merkle.inclusion(index, size)
        assert len(tiles.places(parts, frontier)) <= 3
        assert len(tiles.places(parts)) <= 5
