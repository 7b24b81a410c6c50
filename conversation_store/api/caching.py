"""
Where a prompt is cached: the API's automatic breakpoint, and those set beside it where that one would miss.

A breakpoint writes one entry, the prompt up to its block, and reads the newest entry at most 20 positions before
it. The automatic one stands on the last block of the request. It misses where a turn added 20 positions or more,
and where the last message is a prefill, which no later request repeats.

Source: Messages API documentation, Prompt caching, 2026-10.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from conversation_store.api.request import Marker, Messages, Part

LOOK_BACK: Final = 20
"""Positions that a breakpoint looks at, its own included."""

MOST: Final = 4
"""Breakpoints of one request, the automatic one included."""

_RUNS: Final = frozenset({"tool_use", "tool_result"})
"""Blocks of which several in a row are one position."""

_UNMARKABLE: Final = frozenset(
    {"thinking", "redacted_thinking", "mcp_tool_listing", "fallback", "connector_text", "compaction"}
)


def lifetimes(value: object) -> Iterator[str]:
    """Give the lifetime of every breakpoint in a JSON value, in the order of the prompt: ``5m`` or ``1h``."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name == "cache_control":
                if isinstance(each, Mapping):
                    yield "1h" if each.get("ttl") == "1h" else "5m"
            elif name not in {"input", "input_schema", "input_examples"}:
                yield from lifetimes(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from lifetimes(each)


def of_settings(params: Mapping[str, Any]) -> list[str]:
    """Give the lifetimes of the breakpoints that stand before the messages: of tools, then of the system prompt."""
    return [*lifetimes(params.get("tools")), *lifetimes(params.get("system"))]


def automatic(params: Mapping[str, Any], wanted: str, *, own: bool, prefill: bool) -> dict[str, str] | None:
    """
    Decide on the API's automatic breakpoint.

    Args:
        params: The request's parameters.
        wanted: The lifetime asked for, ``5m`` or ``1h``.
        own: Whether the caller set breakpoints within messages: then all of them are the caller's.
        prefill: Whether the last message is a prefill.

    Returns:
        The parameter ``cache_control``; None where the caller gave one, or there is no place for it.
    """
    before = of_settings(params)
    if params.get("cache_control") is not None or prefill or own or len(before) >= MOST:
        return None
    return control("5m" if "5m" in before else wanted)


def control(lifetime: str) -> dict[str, str]:
    """Write a breakpoint; five minutes go without saying."""
    return {"type": "ephemeral"} if lifetime == "5m" else {"type": "ephemeral", "ttl": lifetime}


def markers(
    messages: Messages, extra: Sequence[Part], params: Mapping[str, Any], wanted: str, *, prefill: bool
) -> list[Marker]:
    """
    Decide which blocks of messages get a breakpoint of ours.

    Args:
        messages: The history.
        extra: The messages that are new with this request.
        params: The parameters, with the automatic breakpoint if there is one.
        wanted: The lifetime asked for.
        prefill: Whether the last of *extra* is a prefill.
    """
    before = of_settings(params)
    top = params.get("cache_control")
    free = MOST - len(before) - (top is not None)
    lifetime = "5m" if "5m" in before or (top is not None and "1h" not in lifetimes({"cache_control": top})) else wanted
    last = messages.with_extra(extra)
    places = []
    if messages.model_turns and (end := messages.message_of(messages.model_turns[-1]) - 1) >= 0:
        since = [*map(messages.message, range(end + 1, messages.settled)), *last]
        if _positions(since) >= LOOK_BACK:
            places.append(end)
    if prefill and (before_it := messages.settled + len(last) - 2) >= 0:  # all else may be erased
        places.append(before_it)
    found = []
    for place in dict.fromkeys(places):
        message = messages.message(place) if place < messages.settled else last[place - messages.settled]
        block = _last_markable(message.get("content"))
        if block is not None:
            found.append(Marker(place, block, lifetime))
    return found[-free:] if free > 0 else []


def _positions(messages: Iterable[Mapping[str, Any]]) -> int:
    """Count the positions of messages as a breakpoint looks back over them."""
    count, run = 0, ""
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ({"type": "text"},):
            kind = str(block.get("type"))
            count += kind not in _RUNS or kind != run
            run = kind
    return count


def _last_markable(content: object) -> int | None:
    """Say which block of a message the last breakpoint can stand on; None for none."""
    if isinstance(content, str):
        return 0 if content.strip() else None
    blocks = content if isinstance(content, list) else []
    return next((n for n in range(len(blocks) - 1, -1, -1) if _markable(blocks[n])), None)


def _markable(block: Mapping[str, Any]) -> bool:
    if "cache_control" in block or block.get("type") in _UNMARKABLE:
        return False
    return block.get("type") != "text" or bool(str(block.get("text")).strip())
