"""
The same work through other libraries, where they are installed.

In the table, the last column names the peer, and a ratio below 1 says how much longer it takes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from conversation_store import Conversation, Store
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place
from tests.benchmarks.peers import PEERS, Peer, named
from tests.benchmarks.test_fresh import child, compiled_once, median

__all__ = ("compiled_once",)  # a fixture: the children find bytecode

SIZES: Final = [100, 1_000, 10_000]

pytestmark = [pytest.mark.parametrize("module", PEERS), pytest.mark.filterwarnings("ignore")]


@contextmanager
def talks(folder: Path, module: str, turns: int) -> Iterator[tuple[Conversation, Peer]]:
    """Give two conversations of so many turns: ours, and a peer's."""
    pytest.importorskip(module)
    path = folder / "bot.db"
    histories.write(path, turns)
    with Store(histories.url_of(path)) as store, ExitStack() as closing:
        peer = PEERS[module](folder / "peer.db", closing)
        peer.append(*[histories.TEXT] * turns)
        yield store.get(histories.KEY), peer


@pytest.mark.parametrize("turns", [5_000])
def test_append(beside: Beside, memory: Place, module: str, turns: int) -> None:
    """A turn is appended to a conversation of 5,000."""
    text = histories.TEXT
    with talks(memory.folder, module, beside.turns(turns)) as (chat, peer):
        theirs = {named(module): lambda: peer.append(text)}
        beside(f"append a turn, N = {turns:,}", memory.label, lambda: histories.say(chat), theirs, rounds=200)


@pytest.mark.parametrize("turns", SIZES)
def test_next_turn(beside: Beside, memory: Place, module: str, turns: int) -> None:
    """A turn is appended, the whole body made, the answer appended."""
    text = histories.TEXT
    with talks(memory.folder, module, beside.turns(turns)) as (chat, peer):
        assert chat.request(check=False).body

        def ours() -> None:
            chat.user(text)
            assert chat.request().body
            chat.assistant(text)

        def theirs() -> None:
            peer.append(text)
            assert peer.body().count(text.encode()) > 1
            peer.append(text)

        cost = f"append, next body, append, N = {turns:,}"
        beside(cost, memory.label, ours, {named(module): theirs}, rounds=20)


@pytest.mark.parametrize("turns", [10_000])
def test_fresh(beside: Beside, memory: Place, module: str, turns: int) -> None:
    """A fresh process opens the store, loads its turns, and has the next body."""
    path, other = memory.folder / "bot.db", memory.folder / "peer.db"
    turns = beside.turns(turns)
    with talks(memory.folder, module, turns):
        pass  # both are in their files then
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    name, cost = named(module), f"open, load, next body in a fresh process, N = {turns:,}"
    beside(
        cost,
        "whole process, imports included",
        lambda: ours.append(child("ours", str(path))),
        {name: lambda: theirs.append(child(module, str(other), "ignore"))},
        rounds=5,
    )
    if beside.measuring:
        beside.note(cost, "after the imports", median(ours, "seconds"), median(theirs, "seconds"), name)
    assert min(statistics.mode(each["bytes"] for each in told) for told in (ours, theirs)) > turns * len(histories.TEXT)
