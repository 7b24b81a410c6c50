"""Two verifiers, one written from the format's page alone, agree on every bundle, honest or changed."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from conversation_store.audit import verify
from tests.audit import bundles, mutations
from tests.audit.bundles import Made
from tests.audit.second_verifier import verdict

MANY: Final = 60
"""Random stores of the long profile."""


def judged(data: bytes, made: Made) -> str | None:
    """Hold both verdicts against each other: what they differ in, None for nothing."""
    ours = verify.verify(io.BytesIO(data), key=made.key, pin=made.pin).faults
    theirs = verdict(data, keys=[made.key] if made.key else [], pin=made.pin)
    if bool(ours) != bool(theirs):
        return f"{[(each.code, each.position) for each in ours[:3]]} against {theirs[:3]}"
    if ours and ours[0].code != theirs[0][0]:
        return f"first {ours[0].code} at {ours[0].position} against {theirs[0]}"
    return None


def trials(seed: int, share: float) -> Iterator[tuple[str, bytes, Made]]:
    """Give the bundles of a random store, and of each a share of its changes."""
    chance, other = random.Random(seed), None
    for made in bundles.made(seed):
        yield made.name, made.data, made
        for name, changed in mutations.mutations(made.data, seed, other):
            if chance.random() < share:
                yield f"{made.name}: {name}", changed, made
        other = made.data


def differences(seeds: range, share: float) -> tuple[Counter[str], list[str]]:
    """Judge all trials of some stores: how many were sound and not, and where the two differ."""
    counts: Counter[str] = Counter()
    found = []
    for seed in seeds:
        for name, data, made in trials(seed, share):
            differs = judged(data, made)
            counts["sound" if not verdict(data) else "not sound"] += 1
            if differs is not None:
                found.append(f"{name}: {differs}")
    return counts, found


def test_they_agree() -> None:
    """Some stores, a part of their changes."""
    counts, found = differences(range(4), 0.3)
    assert found == []
    assert counts["sound"] >= 10
    assert counts["not sound"] >= 500


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_they_agree_on_very_many() -> None:
    """More than ten thousand bundles."""
    counts, found = differences(range(2000, 2000 + MANY), 1)
    print(counts)  # noqa: T201 - the figure to quote
    assert found == []
    assert counts.total() > 10_000


def test_neither_raises_whatever_the_bytes() -> None:
    """What is no archive at all is not sound to both."""
    chance = random.Random(1)
    for size in (0, 1, 97, 98, 99, 500):
        data = chance.randbytes(size)
        assert verify.verify(io.BytesIO(data)).faults
        assert verdict(data)
