"""
Pairs of numbers, eight bytes each: what an open conversation knows of every turn must be small beside its words.

A list of tuples of two integers takes about 130 bytes a pair, a fifth of an ordinary turn.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload
from uuid import UUID

from attrs import Factory, define


def numbers() -> array[int]:
    """Make an empty sequence of numbers below 2**63."""
    return array("q")


@define(eq=False)
class Pairs(Sequence[tuple[int, int]]):
    """Pairs of numbers, added and dropped at the end."""

    _firsts: array[int] = Factory(numbers)
    _seconds: array[int] = Factory(numbers)

    def __len__(self) -> int:
        return len(self._firsts)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(index, slice):
            return list(zip(self._firsts[index], self._seconds[index], strict=True))
        return self._firsts[index], self._seconds[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._seconds, strict=True)

    def since(self, index: int) -> Iterator[tuple[int, int]]:
        """Give the pairs from *index* on, without going over those before."""
        return zip(self._firsts[index:], self._seconds[index:], strict=True)

    def append(self, first: int, second: int) -> None:
        """Add a pair."""
        self._firsts.append(first)
        self._seconds.append(second)

    def extend(self, firsts: Iterable[int], seconds: Iterable[int]) -> None:
        """Add the pairs that two sequences of the same length make."""
        self._firsts.extend(firsts)
        self._seconds.extend(seconds)

    def cut(self, count: int) -> None:
        """Drop every pair after the first *count*."""
        del self._firsts[count:], self._seconds[count:]


@define(eq=False)
class Places(Sequence[tuple[UUID, int]]):
    """Places of turns, as (conversation, position); most of a view are of one conversation, and few are of many."""

    _pairs: Pairs = Factory(Pairs)
    _conversations: list[UUID] = Factory(list)

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> tuple[UUID, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[UUID, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[UUID, int] | list[tuple[UUID, int]]:
        if isinstance(index, slice):
            return [(self._conversations[of], position) for of, position in self._pairs[index]]
        of, position = self._pairs[index]
        return self._conversations[of], position

    def __iter__(self) -> Iterator[tuple[UUID, int]]:
        return ((self._conversations[of], position) for of, position in self._pairs)

    def append(self, conversation: UUID, position: int) -> None:
        """Add a place."""
        self._pairs.append(self._number(conversation), position)

    def extend(self, conversation: UUID, positions: Sequence[int]) -> None:
        """Add places in one conversation."""
        self._pairs.extend([self._number(conversation)] * len(positions), positions)

    def cut(self, count: int) -> None:
        """Drop every place after the first *count*."""
        self._pairs.cut(count)

    def _number(self, conversation: UUID) -> int:
        if not self._conversations or self._conversations[-1] != conversation:
            self._conversations.append(conversation)
        return len(self._conversations) - 1
