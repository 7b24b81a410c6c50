"""What many turns at once cost: given as messages, or read from the lines that another store wrote."""

from __future__ import annotations

from typing import Final

from conversation_store import Store
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place
from tests.benchmarks.histories import Bare

BATCH: Final = 500
COST: Final = "a turn of many"


def messages(count: int) -> list[dict[str, str]]:
    """Make plain messages of 600 characters."""
    return [{"role": ("user", "assistant")[n % 2], "content": histories.TEXT} for n in range(count)]


def test_append_many(beside: Beside, memory: Place) -> None:
    """Messages are appended 500 at a time, chain included; their rows, written 500 at a time."""
    path = memory.folder / "bot.db"
    histories.write(path, 10)
    other = histories.copied(path)
    with Store(histories.url_of(path)) as store, Bare(other, histories.pragmas_of(store)) as bare:
        chat, batch = store.get(histories.KEY), messages(BATCH)
        floor = "the same rows through bare sqlite3"
        cost = f"{COST}: append(), {BATCH} at a time"
        beside(
            cost, memory.label, lambda: chat.append(*batch), {floor: lambda: bare.append(BATCH)}, rounds=40, of=BATCH
        )
        assert not chat.verify()


def test_load_lines(beside: Beside, memory: Place) -> None:
    """A conversation is read from its lines, every digest and commitment checked; its rows, written at once."""
    turns = beside.turns(10_000)
    path = memory.folder / "bot.db"
    histories.write(path, turns)
    other = histories.copied(path)
    with Store(histories.url_of(path)) as store:
        lines = list(store.export())
        pragmas = histories.pragmas_of(store)
    stores = [Store(histories.url_of(memory.folder / f"{n}.db")) for n in range(12)]

    def load() -> None:
        with stores.pop() as new:
            (taken,) = new.load(lines)
        assert taken.added > turns

    with Bare(other, pragmas) as bare:
        floor = "the same rows through bare sqlite3"
        beside(f"{COST}: load()", memory.label, load, {floor: lambda: bare.append(turns)}, rounds=5, of=turns)
    for unused in stores:
        unused.close()
