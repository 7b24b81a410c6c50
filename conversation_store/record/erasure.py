"""
What an ``erased`` entry says: which parts of its log are gone.

The header is ``{"erased": {"content": [[first, last], …], "request": [[first, last], …]}}``: positions of the same
log as runs with both ends included, ascending and merged; an empty list is left out. ``content`` at a position means
that its body, about and salt are NULL and its blob uses are gone; ``request`` that its request_salt is NULL.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen


def runs(positions: Iterable[int]) -> list[list[int]]:
    """Write positions as runs, ascending and merged."""
    found: list[list[int]] = []
    for position in sorted(positions):
        if found and position <= found[-1][1] + 1:
            found[-1][1] = position
        else:
            found.append([position, position])
    return found


def fields(content: Iterable[int], request: Iterable[int]) -> dict[str, Any]:
    """Write the header of an ``erased`` entry."""
    told = {"content": runs(content), "request": runs(request)}
    return {"erased": {name: found for name, found in told.items() if found}}


@frozen
class Gone:
    """What the ``erased`` entries of a log name, looked up without spelling the runs out."""

    content: list[tuple[int, int]] = field(factory=list)
    request: list[tuple[int, int]] = field(factory=list)

    @classmethod
    def read(cls, headers: Iterable[Mapping[str, Any]]) -> Gone:
        """Read the headers of ``erased`` entries; what is no run names nothing."""
        content: list[tuple[int, int]] = []
        request: list[tuple[int, int]] = []
        for header in headers:
            told = header.get("erased")
            if isinstance(told, Mapping):
                content += _pairs(told.get("content"))
                request += _pairs(told.get("request"))
        return cls(_merged(content), _merged(request))

    def holds(self, part: str, position: int) -> bool:
        """Say whether *part* (``content`` or ``request``) of the entry at *position* is named."""
        named = self.content if part == "content" else self.request
        n = bisect_right(named, (position, 1 << 63)) - 1
        return n >= 0 and position <= named[n][1]


def _merged(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join runs that overlap, so that a position is in one at the most."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(pairs):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        elif first <= last:
            found.append((first, last))
    return found


def _pairs(value: object) -> list[tuple[int, int]]:
    pairs = value if isinstance(value, list) else []
    return [
        (pair[0], pair[1])
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(type(each) is int for each in pair)  # noqa: PLR2004
    ]
