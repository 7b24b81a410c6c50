"""Honest stores, however random: nothing is found in them, and every body that was sent is made again."""

from __future__ import annotations

import os
import random
from typing import Final

import pytest

from conversation_store import Checkpoint, Store
from tests.audit.honest import Honest

MANY: Final = int(os.environ.get("CONVERSATION_STORE_HONEST_STORES", "10000"))


def judge(honest: Honest, seed: int) -> None:
    """Verify a store in every way there is, and replay all of its requests."""
    store = honest.store
    found = store.verify()
    assert found == [], seed
    assert store.verify(structure=True) == [], seed
    assert store.verify(since=found.checkpoint) == [], seed
    assert Checkpoint.read(found.checkpoint.json()) == found.checkpoint
    for chat in honest.chats:
        assert chat.verify() == [], seed
        assert found.checkpoint.heads[chat.id] == (chat.refresh().version, chat.head)
        assert len(list(chat.timeline())) == chat.version
        for exchange in chat.exchanges:
            if chat._history.entry(exchange.position).request_salt is not None:
                assert chat.replay(exchange) == honest.bodies[chat.id, exchange.position], seed


def run(url: str, seed: int, steps: int) -> None:
    """Make a store, verify it on the way and at its end, and what was added since as well."""
    with Store(url, durability="normal") as store:
        honest = Honest(store, random.Random(seed))
        honest.fill(steps)
        before = store.verify()
        assert before == [], seed
        honest.fill(steps // 2)
        later = store.verify(since=before.checkpoint)
        assert later == [], seed
        judge(honest, seed)
        assert later.checkpoint == store.verify().checkpoint


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_found_in_an_honest_store(seed: int) -> None:
    """In memory, so that there are many."""
    run("sqlite://", seed, 24)


def test_nothing_is_found_in_either_database(database_url: str) -> None:
    """A longer one on each engine."""
    run(database_url, 1, 100)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(8))
def test_nothing_is_found_in_thousands_of_them(part: int) -> None:
    """Ten thousand, in parts that workers may share."""
    for seed in range(1000 + part, 1000 + MANY, 8):
        run("sqlite://", seed, 16)
