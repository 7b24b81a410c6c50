"""
Transcripts of other programs, for the tests.

Those whose writers are libraries are written by the libraries themselves, at the version installed. Those of Claude
Code and claude.ai are made here, after the shapes named at each; a test of its own lets Claude Code write one where
its program is installed.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import define, field

from tests import pictures

SESSION: Final = "4f35e220-c435-4cf7-b9b9-f40426042847"


def library(name: str) -> Any:
    """Import a library that only these tests need, whatever it warns of; skip the test where it is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@define
class Session:
    """
    A session of Claude Code, entry by entry, each below the one before.

    The shapes are those of sessions that Claude Code 2.1.330 wrote against an API on loopback: ``parentUuid`` and
    ``uuid``, a line for each block of an answer with one ``message.id``, results below their own call's line
    (``sourceToolAssistantUUID``), ``attachment`` entries in the chain, and lines without ``uuid`` between.
    """

    session: str = SESSION
    lines: list[dict[str, Any]] = field(factory=list)
    last: str | None = None

    def add(self, kind: str, *, below: str | None = "", **fields: Any) -> str:
        """Add an entry; *below* is its parent, the last entry without it."""
        name = f"00000000-0000-4000-8000-{len(self.lines):012d}"
        entry = {
            "parentUuid": self.last if below == "" else below,
            "isSidechain": False,
            "type": kind,
            "uuid": name,
            "timestamp": f"2026-11-23T03:25:{len(self.lines) % 60:02d}.100Z",
            "userType": "external",
            "cwd": "/ants",
            "sessionId": self.session,
            "version": "2.1.330",
            "gitBranch": "main",
        }
        self.lines.append({**entry, **fields})
        self.last = name
        return name

    def beside(self, kind: str, **fields: Any) -> None:
        """Add a line that is no entry of the tree."""
        self.lines.append({"type": kind, "sessionId": self.session, **fields})

    def user(self, content: Any, **fields: Any) -> str:
        """Add what a user said."""
        return self.add("user", message={"role": "user", "content": content}, **fields)

    def answer(self, name: str, *blocks: Mapping[str, Any], **fields: Any) -> list[str]:
        """Add an answer: a line for each block."""
        message = {"model": "claude-haiku-4-5-20251001", "id": name, "type": "message", "role": "assistant"}
        usage = {"input_tokens": 21714, "output_tokens": 6}
        return [
            self.add(
                "assistant",
                message={**message, "content": [block], "stop_reason": "tool_use", "usage": usage},
                requestId="req_01",
                apiBlockIndex=n,
                **fields,
            )
            for n, block in enumerate(blocks)
        ]

    def result(self, call: str, content: Any, below: str) -> str:
        """Add a tool's result below the line of its call."""
        block = {"tool_use_id": call, "type": "tool_result", "content": content, "is_error": False}
        made = {"toolUseResult": {"stdout": content}, "sourceToolAssistantUUID": below}
        return self.add("user", below=below, message={"role": "user", "content": [block]}, **made)

    def written(self, upto: int | None = None) -> bytes:
        """Write the lines, or the first of them."""
        return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in self.lines[:upto])


def call(n: int) -> dict[str, Any]:
    """Make a call of a tool."""
    return {"type": "tool_use", "id": f"toolu_{n}", "name": "Bash", "input": {"command": f"echo {n}"}}


def eventful() -> Session:
    """Make a session with thinking, calls in parallel, attachments, notices, and a branch that was left."""
    session = Session()
    session.beside("queue-operation", operation="enqueue", content="Hello")
    session.user("Hello")
    session.add("attachment", attachment={"type": "environment"})
    session.answer("msg_1", {"type": "text", "text": "Hello, I am \u00e4."})
    session.user("left", below=session.lines[1]["uuid"])
    session.user([{"type": "text", "text": "Look."}], below=session.lines[3]["uuid"])
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    lines = session.answer("msg_2", thinking, {"type": "text", "text": "Both:"}, call(1), call(2))
    session.result("toolu_1", "1", lines[2])
    session.result("toolu_2", "2", lines[3])
    session.answer("msg_3", {"type": "text", "text": "Done."})
    session.beside("ai-title", aiTitle="Ants")
    session.add("system", subtype="informational", content="A notice.")
    return session


def export(conversations: int = 2) -> list[dict[str, Any]]:
    """
    Make an export of claude.ai: ``conversations.json``.

    The shapes are those that public repositories document (a schema of ``conversations.json`` with ``chat_messages``,
    ``sender``, ``content`` blocks with ``start_timestamp``, ``stop_timestamp`` and ``flags``, ``attachments`` with
    ``file_name``, ``file_size``, ``file_type`` and ``extracted_content``, ``files`` with ``file_uuid`` and
    ``file_name``, ``parent_message_uuid``), 2025-10 to 2026-07.
    """
    return [_exported(n) for n in range(conversations)]


def _exported(n: int) -> dict[str, Any]:
    at = "2026-07-03T15:16:41.503133Z"
    times = {"start_timestamp": at, "stop_timestamp": at, "flags": None}
    names = [f"019f288d-0000-776a-bac4-{n:06d}{m:06d}" for m in range(4)]
    root = "00000000-0000-4000-8000-000000000000"

    def message(m: int, sender: str, parent: str, *content: dict[str, Any], **fields: Any) -> dict[str, Any]:
        text = "".join(block.get("text", "") for block in content)
        told = {"uuid": names[m], "text": text, "content": [{**times, **block} for block in content]}
        rest = {"sender": sender, "created_at": at, "updated_at": at, "attachments": [], "files": []}
        return {**told, **rest, "parent_message_uuid": parent, **fields}

    attached = {"file_name": "ants.txt", "file_size": 4, "file_type": "txt", "extracted_content": "Ants."}
    asked = {"type": "tool_use", "id": None, "name": "web_search", "input": {"query": "ants"}, "message": "Searching"}
    found = {"type": "tool_result", "tool_use_id": None, "name": "web_search", "is_error": False}
    return {
        "uuid": f"019f288d-a345-776a-bac4-{n:012d}",
        "name": f"Ants {n}",
        "summary": "",
        "created_at": at,
        "updated_at": at,
        "account": {"uuid": "c1a9a5f8-a09c-42e7-8de7-ad0174488170"},
        "chat_messages": [
            message(
                0, "human", root, {"type": "text", "text": "What are ants?", "citations": []}, attachments=[attached]
            ),
            message(1, "assistant", names[0], {"type": "text", "text": "An answer that was left."}),
            message(
                2,
                "assistant",
                names[0],
                {"type": "thinking", "thinking": "Hm.", "summaries": [], "cut_off": False},
                {"type": "text", "text": "Let me look."},
                asked,
                {**found, "content": [{"type": "text", "text": "Formicidae", "uuid": names[0]}]},
                {"type": "text", "text": "They are Formicidae."},
            ),
            message(
                3,
                "human",
                names[2],
                {"type": "text", "text": "Thanks."},
                files=[{"file_uuid": "f", "file_name": "a.png"}],
            ),
        ],
    }


CHAT: Final[Sequence[Mapping[str, Any]]] = [
    {"role": "developer", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "%"}}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1.50, "n": 2}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "an ant"},
    {"role": "assistant", "content": "An ant.", "refusal": None},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
]
"""Chat completions, as the OpenAI API reference shows them."""


def llm_log(path: Path, *, answers: int = 3) -> Any:
    """Let ``llm`` log a conversation with a system prompt, a picture, a fragment and a tool; and one more."""
    llm, sqlite_utils = library("llm"), library("sqlite_utils")

    class Canned(llm.Model):  # type: ignore[misc, name-defined]
        """A model that answers by itself."""

        model_id = "canned"
        attachment_types: Final = {"image/png"}
        supports_tools = True
        can_stream = False
        asked = 0

        def execute(self, _prompt: Any, *, response: Any, **_asked: Any) -> Any:
            """Answer; the second time, call a tool."""
            self.asked += 1
            if self.asked == 2:
                response.add_tool_call(llm.ToolCall(name="look", arguments={"x": 1}, tool_call_id="c1"))
            yield f"answer {self.asked}"

    def look(x: int) -> str:
        """Look."""
        return f"{x} ant"

    model, database = Canned(), sqlite_utils.Database(str(path))
    talk = model.conversation()
    picture = llm.Attachment(content=pictures.png(2, 2), type="image/png")
    elsewhere = llm.Attachment(url="https://example.org/a.png", type="image/png")
    first = talk.prompt("hi", system="be short", attachments=[picture, elsewhere])
    first.text()
    first.log_to_db(database)
    for response in talk.chain("and", tools=[look], fragments=["a fragment"]).responses():
        response.text()
        response.log_to_db(database)
    for n in range(answers - 3):
        more = talk.prompt(f"more {n}")
        more.text()
        more.log_to_db(database)
    alone = model.prompt("alone")
    alone.text()
    alone.log_to_db(database)
    database.close()
    return talk


ITEMS: Final[Sequence[Mapping[str, Any]]] = [
    {"role": "user", "content": "What?"},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
    {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"x":1}', "id": "fc_1"},
    {"type": "function_call_output", "call_id": "call_1", "output": "an ant"},
    {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "content": [{"type": "output_text", "text": "An ant.", "annotations": []}],
    },
    {"role": "user", "content": [{"type": "input_text", "text": "And?"}]},
]
"""Items of the Responses API, as the Agents SDK keeps them."""


def agents_session(path: Path, name: str, items: Sequence[Mapping[str, Any]] = ITEMS) -> None:
    """Let the Agents SDK keep items in a session."""
    session = library("agents").SQLiteSession(name, str(path))

    async def add() -> None:
        await session.add_items([dict(item) for item in items])

    asyncio.run(add())
    session.close()


def chain_messages() -> list[Any]:
    """Make messages of LangChain, of all kinds."""
    m = library("langchain_core.messages")
    url = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    ours = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "text", "text": "Look: \u00e4"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1.5}},
    ]
    made = {"model_name": "claude-sonnet-4-6", "stop_reason": "tool_use"}
    call = {"name": "look", "args": {"at": 1.5}, "id": "t1"}
    return [
        m.SystemMessage("Be short."),
        m.HumanMessage([{"type": "text", "text": "What?"}, url], id="h1"),
        m.AIMessage(ours, tool_calls=[call], response_metadata=made, id="a1"),
        m.ToolMessage("an ant", tool_call_id="t1", status="error"),
        m.AIMessage("Again:", tool_calls=[{**call, "id": "t2"}]),
        m.ToolMessage([{"type": "text", "text": "an ant"}], tool_call_id="t2"),
        m.FunctionMessage("old", name="f"),
        m.AIMessage("An ant."),
    ]


def chain_history(path: Path, name: str, messages: Sequence[Any]) -> None:
    """Let LangChain keep messages in its table."""
    histories = library("langchain_community.chat_message_histories.sql")
    sqlalchemy = library("sqlalchemy")
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        histories.SQLChatMessageHistory(name, connection=engine).add_messages(messages)
    engine.dispose()


def agent_run() -> bytes:
    """Let pydantic-ai run an agent on its own test model, and write its messages as JSON."""
    ai, models = library("pydantic_ai"), library("pydantic_ai.models.test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agent = ai.Agent(models.TestModel(), instructions="Be short.", system_prompt="You are an ant.")

        @agent.tool_plain  # type: ignore[untyped-decorator]
        def look(x: int) -> dict[str, Any]:
            """Look."""
            return {"ants": x}

        picture = ai.BinaryContent(pictures.png(2, 2, colour=(255, 239, 190)), media_type="image/png")
        result = asyncio.run(agent.run(["What?", picture, ai.ImageUrl("https://example.org/a.png")]))
        written: bytes = result.all_messages_json()
    return written
