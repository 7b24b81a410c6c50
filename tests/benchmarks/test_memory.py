"""What an open conversation holds in memory, beside the bytes of its body."""

from __future__ import annotations

import gc
import tracemalloc

from conversation_store import Conversation, Store
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place


def held(store: Store) -> tuple[Conversation, int, int]:
    """Open the conversation and build its body once; tell what it holds from then on, and the body's length."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        chat = store.get(histories.KEY)
        length = len(chat.request().body)
        histories.say(chat)
        assert chat.request().digest
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return chat, after - before, length


def test_an_open_conversation(beside: Beside, memory: Place) -> None:
    """A conversation that built its body, and goes on, holds little more than the body's bytes."""
    turns = 10_000 if beside.measuring else 2_000
    path = memory.folder / "bot.db"
    histories.write(path, turns)
    with Store(histories.url_of(path)) as store:
        other = store.open("another", **histories.SETTINGS)  # what is loaded and compiled only once is not counted
        histories.say(other)
        assert other.request().body
        sizes: list[tuple[int, int]] = []
        beside.measure(lambda: sizes.append(held(store)[1:]), 3)
    size, length = min(sizes)
    assert size < 1.3 * length
    if beside.measuring:
        beside.note_bytes(f"an open conversation, N = {turns:,}", "memory", size, length, "the bytes of its body")
