"""Content blocks as the API looks at them: what answers what, what is still open, what is sent back of a turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

SERVER_CALLS: Final = frozenset(("server_tool_use", "mcp_tool_use"))
"""The calls the API answers itself."""
THINKING: Final = frozenset(("thinking", "redacted_thinking"))
_NOT_SENT_BACK: Final = THINKING | {"connector_text", "tool_use"}


def blocks_of(content: Any) -> Sequence[Mapping[str, Any]]:
    """Return content as blocks: a string is one text block, nothing is none."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content or []


def is_server_result(kind: str) -> bool:
    """Tell whether a block of this kind is the result of a tool the API runs."""
    return kind.endswith("_tool_result")


def result_kind(call: Mapping[str, Any]) -> str:
    """Return the kind of block that answers a server tool's call."""
    if call["type"] == "mcp_tool_use":
        return "mcp_tool_result"
    name = str(call.get("name"))
    return "tool_search_tool_result" if name.startswith("tool_search_tool_") else f"{name}_tool_result"


def open_server_calls(messages: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the server tools' calls that have no result yet, by id."""
    waiting: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        for block in blocks_of(message.get("content")):
            if block.get("type") in SERVER_CALLS:
                waiting[block["id"]] = block
            elif is_server_result(str(block.get("type"))):
                waiting.pop(block.get("tool_use_id", ""), None)
    return waiting


def echoed(content: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """
    Yield the blocks of a turn that are sent back, each with its place; the others count for nothing.

    Empty text is left out, and of what stands before the last ``fallback``: thinking, client tools' calls, and
    server tools' calls without their result.

    Source: Messages API documentation, refusals and fallback.
    """
    blocks = [block for block in blocks_of(content) if isinstance(block, Mapping)]
    switch = max((place for place, block in enumerate(blocks) if block.get("type") == "fallback"), default=-1)
    answered = {block.get("tool_use_id") for block in blocks}
    for place, block in enumerate(blocks):
        kind = block.get("type")
        if kind == "text" and not str(block.get("text")).strip():
            continue
        unpaired = kind in SERVER_CALLS and block.get("id") not in answered
        if place < switch and (kind in _NOT_SENT_BACK or unpaired):
            continue
        yield place, block


def inner(block: Mapping[str, Any]) -> Sequence[Any]:
    """Return the blocks inside a tool result, a search result or a document."""
    source = block.get("source")
    content = source.get("content") if isinstance(source, Mapping) else block.get("content")
    return content if isinstance(content, list) else ()


def unmarked(value: Any) -> Any:
    """Return a block without cache markers, those of the blocks inside it included."""
    if isinstance(value, list):
        return [unmarked(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    deeper = ("content", "source")
    return {key: unmarked(each) if key in deeper else each for key, each in value.items() if key != "cache_control"}
