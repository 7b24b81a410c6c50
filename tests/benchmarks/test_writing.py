"""What it costs to append a turn, and to begin and finish an exchange."""

from __future__ import annotations

import pytest

from conversation_store import Store
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place
from tests.benchmarks.histories import KEY, Bare

FLOOR = "the same rows through bare sqlite3"


@pytest.mark.parametrize("turns", [10, 1_000, 10_000])
def test_append_a_turn(beside: Beside, place: Place, turns: int) -> None:
    """A turn of 600 characters is appended, durably, chain included."""
    path = place.folder / "bot.db"
    histories.write(path, beside.turns(turns))
    other = histories.copied(path)
    with Store(histories.url_of(path)) as store, Bare(other, histories.pragmas_of(store)) as bare:
        chat = store.get(KEY)
        cost = f"append a turn, N = {turns:,}"
        beside(cost, place.label, lambda: histories.say(chat), {FLOOR: bare.append}, rounds=500)


def test_append_to_a_million(beside: Beside, memory: Place) -> None:
    """A turn is appended to a conversation of 1,000,000: it costs what it costs after ten."""
    path = memory.folder / "bot.db"
    histories.write(path, beside.turns(1_000_000))
    other = histories.copied(path)
    with Store(histories.url_of(path)) as store, Bare(other, histories.pragmas_of(store)) as bare:
        chat = store.get(KEY)
        cost = "append a turn, N = 1,000,000"
        beside(cost, memory.label, lambda: histories.say(chat), {FLOOR: bare.append}, rounds=500)


@pytest.mark.parametrize("turns", [100, 10_000, 100_000])
def test_begin_and_finish(beside: Beside, memory: Place, turns: int) -> None:
    """An exchange is begun and finished: everything but HTTP."""
    path = memory.folder / "bot.db"
    histories.write(path, beside.turns(turns), histories.ask)
    other = histories.copied(path)
    with Store(histories.url_of(path)) as store, Bare(other, histories.pragmas_of(store)) as bare:
        chat = store.get(KEY)
        cost = f"begin and finish, N = {turns:,}"
        beside(cost, memory.label, lambda: histories.ask(chat), {FLOOR: bare.ask}, rounds=200)
