"""
The same work through other libraries, where they are installed.

None of them keeps a hash chain, a compare-and-set or a record of what was sent; the bodies they give are of the same
messages. In the table, the last column names the peer, and a ratio below 1 says how much longer it takes.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

from conversation_store import Store
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place

SIZES: Final = [100, 1_000, 10_000]


class Agents:
    """``SQLiteSession`` of OpenAI Agents."""

    name = "openai-agents"

    def __init__(self, path: Path, closing: ExitStack) -> None:
        from agents import SQLiteSession  # noqa: PLC0415 - a peer, only where it is installed

        self._session = SQLiteSession("telegram:42", path)
        closing.callback(self._session.close)
        self._run = closing.enter_context(asyncio.Runner()).run

    def append(self, *texts: str) -> None:
        """Append turns."""
        items: list[Any] = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
        self._run(self._session.add_items(items))

    def body(self) -> bytes:
        """Write what a request would carry."""
        return json.dumps(self._run(self._session.get_items())).encode()


class LangChain:
    """``SQLChatMessageHistory`` of LangChain."""

    name = "langchain-community"

    def __init__(self, path: Path, closing: ExitStack) -> None:
        from langchain_community.chat_message_histories import SQLChatMessageHistory  # noqa: PLC0415 - likewise
        from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415 - likewise

        self._kinds: Any = (HumanMessage, AIMessage)
        self._history = SQLChatMessageHistory("telegram:42", connection=f"sqlite:///{path}")
        closing.callback(self._history.engine.dispose)

    def append(self, *texts: str) -> None:
        """Append turns."""
        self._history.add_messages([self._kinds[n % 2](text) for n, text in enumerate(texts)])

    def body(self) -> bytes:
        """Write what a request would carry."""
        messages = self._history.messages
        return json.dumps([{"role": each.type, "content": each.content} for each in messages]).encode()


PEERS: Final[dict[str, type[Agents | LangChain]]] = {"agents": Agents, "langchain_community": LangChain}


@pytest.mark.parametrize("turns", SIZES)
@pytest.mark.parametrize("module", PEERS)
@pytest.mark.filterwarnings("ignore")
def test_next_turn(beside: Beside, memory: Place, module: str, turns: int) -> None:
    """A turn is appended, the whole body made, the answer appended."""
    pytest.importorskip(module)
    path, text = memory.folder / "bot.db", histories.TEXT
    histories.write(path, beside.turns(turns))
    with Store(histories.url_of(path)) as store, ExitStack() as closing:
        chat, peer = store.get(histories.KEY), PEERS[module](memory.folder / "peer.db", closing)
        peer.append(*[text] * beside.turns(turns))
        assert chat.request(check=False).body

        def ours() -> None:
            chat.user(text)
            assert chat.request().body
            chat.assistant(text)

        def theirs() -> None:
            peer.append(text)
            assert peer.body().count(text.encode()) > 1
            peer.append(text)

        name = f"{PEERS[module].name} {version(PEERS[module].name)}"
        cost = f"append, next body, append, N = {turns:,}"
        beside(cost, memory.label, ours, {name: theirs}, rounds=20)
