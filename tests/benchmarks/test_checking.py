"""What it costs to know beforehand whether a long conversation would be taken: once, and from then on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from conversation_store import Conversation, Store
from conversation_store.api.rules.order import Outline
from tests.asks import tool
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place

Message = Mapping[str, Any]


def words(turns: int) -> Iterator[Message]:
    """Give turns of nothing but text."""
    for n in range(turns):
        yield {"role": ("user", "assistant")[n % 2], "content": histories.TEXT}


def tools(turns: int) -> Iterator[Message]:
    """Give turns of which every second one calls a tool or answers it."""
    for n in range(0, turns, 4):
        call = {"type": "tool_use", "id": f"toolu_{n}", "name": "weather", "input": {"city": "Paris", "days": 3}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{n}"}
        said = [{"type": "text", "text": histories.TEXT[:200]}]
        yield {"role": "user", "content": "And tomorrow?"}
        yield {"role": "assistant", "content": [*said, call]}
        yield {"role": "user", "content": [{**result, "content": said}]}
        yield {"role": "assistant", "content": said}


def kept(chat: Conversation, messages: Sequence[Message]) -> None:
    """Append messages, and one more of the user's."""
    for start in range(0, len(messages), 500):
        chat.append(*messages[start : start + 500])
    chat.user("Well?")


@pytest.mark.parametrize("kind", [words, tools])
def test_first_check(beside: Beside, memory: Place, kind: Any) -> None:
    """The messages are in memory; every one of them is looked at."""
    with Store(histories.url_of(memory.folder / "bot.db")) as store:
        chat = store.open(histories.KEY, **histories.SETTINGS, tools=[tool()])
        kept(chat, list(kind(beside.turns(10_000))))
        wires = [turn.wire for turn in chat.turns]
        known = chat._history
        assert chat.check() == []

        def forget() -> None:
            known._outline = Outline()

        def parse() -> None:
            for wire in wires:
                json.loads(wire)

        cost = f"check, N = 10,000, {kind.__name__}"
        beside(cost, "the first one", chat.check, {"json.loads of every wire": parse}, rounds=15, before=forget)


@pytest.mark.parametrize("kind", [words, tools])
def test_next_check(beside: Beside, memory: Place, kind: Any) -> None:
    """What was looked at is not looked at again: a long conversation costs what a short one does."""
    with Store(histories.url_of(memory.folder / "bot.db")) as store:
        long = store.open("long", **histories.SETTINGS, tools=[tool()])
        short = store.open("short", **histories.SETTINGS, tools=[tool()])
        kept(long, list(kind(beside.turns(10_000))))
        kept(short, list(kind(4)))
        assert long.check() == short.check() == []
        cost = f"check, N = 10,000, {kind.__name__}"
        beside(cost, "the next one", long.check, {"the same of 5 turns": short.check}, rounds=200)
