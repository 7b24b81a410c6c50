"""What the next body of an open conversation costs: its bytes are copied once, its digest extended."""

from __future__ import annotations

import pytest

from conversation_store import Conversation, Store
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place
from tests.benchmarks.histories import KEY, Bare

SIZES = [100, 1_000, 10_000]


def build(chat: Conversation) -> None:
    """Build the next request's body and digest, and drop them."""
    request = chat.request()
    assert request.body
    assert request.digest


@pytest.mark.parametrize("turns", SIZES)
def test_next_body(beside: Beside, memory: Place, turns: int) -> None:
    """A turn was appended since the body before: the next one, against a join of its messages and one copy of it."""
    path = memory.folder / "bot.db"
    histories.write(path, beside.turns(turns))
    with Bare(path) as bare:
        wires = bare.wires()
    with Store(histories.url_of(path)) as store:
        chat = store.get(KEY)
        kept = bytearray(chat.request().body)

        def a_turn_more() -> None:
            wires.append(chat.user(histories.TEXT).body)
            kept.extend(wires[-1])

        floors = {"a join of the same messages": lambda: b",".join(wires), "one copy": lambda: bytes(kept)}
        cost = f"next body, N = {turns:,}"
        beside(cost, "memory", lambda: build(chat), floors, rounds=200, before=a_turn_more)


@pytest.mark.parametrize("turns", SIZES)
def test_next_turn(beside: Beside, memory: Place, turns: int) -> None:
    """A turn is appended, the whole body built, the answer appended: the round of a bot without its HTTP."""
    path = memory.folder / "bot.db"
    histories.write(path, beside.turns(turns))
    other = histories.copied(path)
    with Store(histories.url_of(path)) as store, Bare(other, histories.pragmas_of(store)) as bare:
        chat = store.get(KEY)
        kept = bytearray(chat.request().body)

        def ours() -> None:
            chat.user(histories.TEXT)
            build(chat)
            chat.assistant(histories.TEXT)

        def floor() -> None:
            bare.append()
            assert bytes(kept)
            bare.append()

        cost = f"append, next body, append, N = {turns:,}"
        beside(cost, memory.label, ours, {"the same rows through bare sqlite3, one copy": floor}, rounds=200)
