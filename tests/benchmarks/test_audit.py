"""What it costs to be able to prove a turn: an append beside the same one in a copy without the chain."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Column, MetaData, Table, insert

from conversation_store import Conversation, Store, history
from conversation_store.record import canonical, chain
from conversation_store.record.chain import Entry
from conversation_store.storage import identity, log
from conversation_store.storage.engine import Compiled
from conversation_store.storage.tables import conversation_entry
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place
from tests.benchmarks.histories import KEY
from tests.benchmarks.test_growth import counted

PROOFS: Final = ("salt", "request_salt", "digest")
"""The columns of an entry that are there to prove it."""

CPU: Final = 50e-6
"""Seconds an append may cost more than without."""

BYTES: Final = 200
"""Bytes a turn may take up more than without."""

BATCH: Final = 20
"""Turns that are appended in one of the two databases before the other one's turn."""

_bare: Final = Table(
    conversation_entry.name,
    MetaData(),
    *(Column(each.name, each.type) for each in conversation_entry.columns if each.name not in PROOFS),
)
_insert: Final = Compiled(insert(_bare))


def _draft(kind: str, *, at: int, fields: Mapping[str, object], body: bytes, **_: Any) -> Entry:
    """Make an entry whose header commits to nothing."""
    return Entry(position=-1, kind=kind, at=at, header=canonical.header(dict(fields)), body=body)


def _placed(_: object, position: int, head: bytes, drafts: Sequence[Entry]) -> list[Entry]:
    """Give entries their positions, and no digests."""
    return [
        Entry(position=position + n, kind=each.kind, at=each.at, header=each.header, body=each.body, digest=head)
        for n, each in enumerate(drafts)
    ]


@contextmanager
def unchained() -> Iterator[None]:
    """Leave out of every append what is there to prove it: salts, commitments, digests and their columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "new_salt", lambda: b"")
        patch.setattr(history, "draft", _draft)
        patch.setattr(chain, "chain", _placed)
        patch.setattr(log, "_insert_entries", _insert)
        patch.setattr(log, "row_of", _bare_row)
        yield


def _bare_row(of: bytes, entry: Entry) -> dict[str, Any]:
    return {
        "conversation": of,
        "position": entry.position,
        "kind": entry.kind,
        "at": entry.at,
        "header": entry.header,
        "about": entry.about,
        "body": entry.body,
    }


@contextmanager
def both(folder: Path) -> Iterator[tuple[Store, Store]]:
    """Give a store of one conversation, and one whose tables lack those columns."""
    paths = folder / "bot.db", folder / "bare.db"
    for path in paths:
        histories.write(path, 4)
    with Store(histories.url_of(paths[0])) as store, Store(histories.url_of(paths[1])) as bare:
        with bare._database.engine.begin() as connection:
            for name in PROOFS:
                connection.exec_driver_sql(f"ALTER TABLE conversation_entry DROP COLUMN {name}")
        yield store, bare


def test_a_proof_is_no_statement(memory: Place) -> None:
    """An append that can be proved asks just what the other one asks."""
    with both(memory.folder) as (store, bare):
        chat, other = store.get(KEY), bare.get(KEY)
        with counted(store) as counts, counted(bare) as bare_counts:
            counts.statements.clear()
            histories.say(chat)
            with unchained():
                histories.say(other)
        told, expected = ([each.split()[0] for each in found.statements] for found in (counts, bare_counts))
        assert told == expected
        assert "INSERT" in " ".join(counts.statements)


def say(chat: Conversation, n: int) -> None:
    """Append a turn of 40 to 600 characters: of one length, more or fewer would fit a page by chance."""
    chat.user(histories.TEXT[: 40 + n * 37 % 560])


def test_a_turn_that_can_be_proved(beside: Beside, memory: Place) -> None:
    """It takes 200 bytes on disk at most, and 50 µs of CPU."""
    turns = 4_000 if beside.measuring else 1_000
    costs: list[list[float]] = [[], []]
    with both(memory.folder) as stores:
        chat, bare = (store.get(KEY) for store in stores)
        sizes = [vacuumed(each) for each in stores]

        def measure() -> None:
            for first in range(0, turns, BATCH):
                costs[0].append(cpu_of(chat, first))
                with unchained():
                    costs[1].append(cpu_of(bare, first))

        beside.measure(measure, 1)
        grown, floor_grown = (vacuumed(store) - size for store, size in zip(stores, sizes, strict=True))
    more = (grown - floor_grown) / turns
    ours, floor = map(statistics.median, costs)
    beside.note(f"CPU of an append; {more:.0f} bytes a turn more", memory.label, ours, floor, "without the chain")
    assert 0 < more <= BYTES
    if beside.measuring:
        assert ours - floor <= CPU


def cpu_of(chat: Conversation, first: int) -> float:
    """Append a batch of turns, and say how much CPU one of them took, in seconds."""
    gc.disable()
    begun = time.thread_time()
    for n in range(first, first + BATCH):
        say(chat, n)
    taken = time.thread_time() - begun
    gc.enable()
    return taken / BATCH


def vacuumed(store: Store) -> int:
    """Say how many bytes a store's file has, written anew."""
    store.vacuum()
    return Path(str(store._database.engine.url.database)).stat().st_size
