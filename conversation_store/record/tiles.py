"""
A Merkle tree cut into tiles: rows of up to 256 hashes, from which any subtree of any size can be computed.

The tiles are those of C2SP tlog-tiles (c2sp.org/tlog-tiles, "Merkle Tree"): the tile (level, number) holds the
roots of the perfect subtrees of 256 ** level leaves, 256 to a tile. A full tile never changes; one that is not
full is the beginning of what it will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from conversation_store.record import merkle
from conversation_store.record.merkle import HASH, Range

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
"""Hashes in a full tile."""

TILE: Final = WIDTH * HASH
"""Bytes of a full tile."""

Place: TypeAlias = tuple[int, int]
"""A tile's level and its number in the level, both from 0."""

Tiles: TypeAlias = Mapping[Place, bytes]


def hashes_in(data: bytes) -> list[bytes]:
    """Part a tile into its hashes."""
    return [data[start : start + HASH] for start in range(0, len(data), HASH)]


def edge(size: int) -> list[Place]:
    """List the tiles of a tree that are not full, the leaves' first; a tile without hashes is not among them."""
    places, level = [], 0
    while size:
        if size % WIDTH:
            places.append((level, size // WIDTH))
        size, level = size // WIDTH, level + 1
    return places


def extended(tiles: Tiles, size: int, leaves: Sequence[bytes]) -> dict[Place, bytes]:
    """
    Append leaves to a tree.

    Args:
        tiles: At least those of ``edge(size)``.
        size: Leaves that the tree has.
        leaves: The hashes of those to be appended.

    Returns:
        The tiles that are new or that have grown.
    """
    changed: dict[Place, bytes] = {}
    level, hashes = 0, list(leaves)
    while hashes:
        number, begun = divmod(size, WIDTH)
        data = tiles[level, number][: begun * HASH] if begun else b""
        pieces = list(_cut(data + b"".join(hashes)))
        changed |= {(level, number + n): piece for n, piece in enumerate(pieces)}
        hashes = [merkle.root_of(hashes_in(piece)) for piece in pieces if len(piece) == TILE]
        size, level = number, level + 1
    return changed


def _cut(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), TILE):
        yield data[start : start + TILE]


def _spot(part: Range) -> tuple[Place, slice]:
    """Say in which tile, and where in it, the hashes are that a perfect subtree is made of."""
    start, end = part
    level, spread = divmod((end - start).bit_length() - 1, HEIGHT)
    number, first = divmod(start >> level * HEIGHT, WIDTH)
    return (level, number), slice(first * HASH, (first + (1 << spread)) * HASH)


def places(parts: Iterable[Range], known: Mapping[Range, bytes] | None = None) -> list[Place]:
    """
    List the tiles from which the hashes of subtrees are computed.

    Args:
        parts: The subtrees, as ``merkle.inclusion`` and ``merkle.consistency`` list them.
        known: Perfect subtrees whose hashes are at hand already.
    """
    needed = {_spot(each)[0] for part in parts for each in merkle.perfect(part) if each not in (known or {})}
    return sorted(needed)


def subtree(tiles: Tiles, part: Range, known: Mapping[Range, bytes] | None = None) -> bytes:
    """
    Compute the hash of a subtree.

    Raises:
        LookupError: A tile is missing or too short.
    """
    return merkle.folded([(known or {}).get(each) or _peak(tiles, each) for each in merkle.perfect(part)])


def _peak(tiles: Tiles, part: Range) -> bytes:
    place, where = _spot(part)
    data = tiles[place]
    if len(data) < where.stop:
        raise LookupError(place)
    return merkle.root_of(hashes_in(data[where]))


def peaks(tiles: Tiles, size: int) -> list[bytes]:
    """Compute the frontier of a tree from the tiles at its edge; errors as ``subtree``."""
    return [_peak(tiles, each) for each in merkle.perfect((0, size))]
