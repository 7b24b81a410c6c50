"""
Other libraries that keep conversations, behind the two things that are measured of each.

None of them keeps a hash chain, a compare-and-set or a record of what was sent; the bodies they give are of the same
messages.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeAlias


class Agents:
    """``SQLiteSession`` of OpenAI Agents."""

    name = "openai-agents"

    def __init__(self, path: Path, closing: ExitStack) -> None:
        from agents import SQLiteSession  # noqa: PLC0415 - only where it is installed

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


Peer: TypeAlias = Agents | LangChain
PEERS: Final[dict[str, type[Peer]]] = {"agents": Agents, "langchain_community": LangChain}
"""By the module that must be there."""


def load(module: str) -> None:
    """Import all that a peer needs, so that its first use is not its import."""
    import_module(module)
    if module == "agents":
        import_module("agents.memory")
    else:
        import_module("langchain_community.chat_message_histories")
        import_module("langchain_core.messages")


def named(module: str) -> str:
    """Name a peer, with its version."""
    name = PEERS[module].name
    return f"{name} {version(name)}"
