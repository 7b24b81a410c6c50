"""Honest stores, however random: nothing is found in them, and every body that was sent is made again."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from conversation_store import Checkpoint, Client, Seals, Store
from conversation_store.api.retry import Clock
from conversation_store.testing import MessagesAPI
from tests.audit.honest import Honest
from tests.sealed import KEY, VERIFIER

MANY: Final = int(os.environ.get("CONVERSATION_STORE_HONEST_STORES", "10000"))
SEALS: Final = Seals(key=KEY, memory=None)
ASKING: Final = 4
"""One store in so many has a client."""
ASKING_OF_MANY: Final = 20
"""The same in the long profile."""
EVERY_WAY: Final = 5
"""One store in so many of the long profile is looked at in every way."""


@pytest.fixture(scope="module")
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


def judge(honest: Honest, seed: int) -> None:
    """Verify a store, and replay all of its requests."""
    honest.store.seal()
    found = honest.store.verify(key=VERIFIER)
    assert found == [], seed
    sent = set() if honest.api is None else {request.raw for request in honest.api.requests}
    for chat in honest.chats:
        assert found.checkpoint.heads[chat.id] == (chat.refresh().version, chat.head)
        assert len(list(chat.timeline())) == chat.version
        for exchange in chat.exchanges:
            if chat._history.entry(exchange.position).request_salt is not None:
                body, known = chat.replay(exchange), honest.bodies.get((chat.id, exchange.position))
                assert body in sent if known is None else body == known, seed


def judge_every_way(honest: Honest, seed: int) -> None:
    """Verify a store in every other way there is."""
    store = honest.store
    found = store.verify()
    assert store.verify(structure=True) == [], seed
    assert store.verify(since=found.checkpoint) == [], seed
    assert Checkpoint.read(found.checkpoint.json()) == found.checkpoint
    for chat in honest.chats:
        assert chat.verify() == [], seed
    take_elsewhere(honest, seed)


def take_elsewhere(honest: Honest, seed: int) -> None:
    """Carry a store to another one: it says the same, and nothing is found there either."""
    with Store("sqlite://", durability="normal") as other:
        other.load(honest.store.export())
        found = other.verify()
        assert found == [], seed
        assert found.checkpoint == honest.store.verify().checkpoint


def run(url: str, seed: int, steps: int, api: MessagesAPI | None = None, *, every_way: bool = True) -> None:
    """Make a store, verify it on the way and at its end, and what was added since as well."""
    with ExitStack() as open_ones:
        client = None
        if api is not None:
            api.clear()
            clock = Clock(sleep=lambda _: None)
            client = open_ones.enter_context(Client(api.key, base_url=api.url, max_attempts=2, clock=clock))
        store = open_ones.enter_context(
            Store(url, durability="normal", client=client, keep_raw=bool(seed % 2), seal=SEALS)
        )
        honest = Honest(store, random.Random(seed), api)
        honest.fill(steps)
        before = store.verify()
        assert before == [], seed
        note = store.seal().note
        honest.fill(steps // 2)
        later = store.verify(since=before.checkpoint, key=VERIFIER, pin=note)
        assert [fault for fault in later if fault.code != "uncovered"] == [], seed
        judge(honest, seed)
        if every_way:
            judge_every_way(honest, seed)


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_found_in_an_honest_store(seed: int, api: MessagesAPI) -> None:
    """In memory, so that there are many."""
    run("sqlite://", seed, 24, api if seed % ASKING == 0 else None)


def test_nothing_is_found_in_either_database(database_url: str, api: MessagesAPI) -> None:
    """A longer one on each engine."""
    run(database_url, 1, 100, api)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(8))
def test_nothing_is_found_in_thousands_of_them(part: int, api: MessagesAPI) -> None:
    """Ten thousand, in parts that workers may share; one in so many is looked at in every way."""
    for seed in range(1000 + part, 1000 + MANY, 8):
        each = seed // 8
        run("sqlite://", seed, 16, api if each % ASKING_OF_MANY == 0 else None, every_way=each % EVERY_WAY == 0)
