"""
The prompt cache, accounted for by hashes of prefixes; no prompt is kept.

A prompt is tools, then system, then messages, block by block. Each cache marker asks for one entry: the hash of
everything up to its block, kept for the marker's lifetime and renewed by every read.

Source: Messages API documentation, prompt caching.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from conversation_store.testing.blocks import blocks_of, inner, unmarked
from conversation_store.testing.counting import BYTES, measure
from conversation_store.testing.models import Model

_UNMARKABLE: Final = frozenset(("thinking", "redacted_thinking", "mcp_tool_listing", "fallback", "connector_text"))
_LIFETIMES: Final = {"5m": 300.0, "1h": 3600.0}
_LOOK_BACK: Final = 20
_HOLDING: Final = frozenset(("tool_result", "search_result", "document"))
_RUNS: Final = frozenset(("tool_use", "tool_result"))


class Spot(NamedTuple):
    """The end of one block: the hash of all up to there, its tokens, its place for looking back, its marker."""

    key: bytes
    tokens: int
    place: int
    lifetime: str | None


class Cache:
    """
    What was cached, by whom it may be read again, and for how long.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[bytes, tuple[float, str, int]] = {}  # until when, the lifetime, the tokens written

    def account(self, body: Mapping[str, Any], model: Model, total: int) -> dict[str, Any]:
        """
        Read and write the cache for a request that is answered.

        Args:
            body: The request.
            model: Its model.
            total: The tokens of the whole prompt.

        Returns:
            The counters of ``usage`` that tell how the prompt was paid for.
        """
        written = dict.fromkeys(_LIFETIMES, 0)
        at = read = 0
        if _is_marked(body):
            spots = list(_spots(body, model))
            markers = [number for number, spot in enumerate(spots) if spot.lifetime]
            with self._lock:
                now = self._clock()
                hit = self._find(spots, markers, now)
                if hit is not None:
                    _, lifetime, tokens = self._entries[spots[hit].key]
                    self._entries[spots[hit].key] = now + _LIFETIMES[lifetime], lifetime, tokens
                    at = read = min(tokens, total)
                for number in markers:
                    spot = spots[number]
                    if spot.lifetime and spot.tokens >= model.cache_minimum and number > (-1 if hit is None else hit):
                        tokens = max(at, min(spot.tokens, total))
                        self._entries[spot.key] = now + _LIFETIMES[spot.lifetime], spot.lifetime, tokens
                        written[spot.lifetime] += tokens - at
                        at = tokens
        return {
            "input_tokens": total - at,
            "cache_creation_input_tokens": sum(written.values()),
            "cache_read_input_tokens": read,
            "cache_creation": {f"ephemeral_{lifetime}_input_tokens": tokens for lifetime, tokens in written.items()},
        }

    def _find(self, spots: Sequence[Spot], markers: Sequence[int], now: float) -> int | None:
        """Return the longest prefix that one of the markers finds cached."""
        for marker in reversed(markers):
            for number in range(marker, -1, -1):
                if spots[marker].place - spots[number].place >= _LOOK_BACK:
                    break
                if self._entries.get(spots[number].key, (0.0, "", 0))[0] > now:
                    return number
        return None


def automatic(body: Mapping[str, Any]) -> int | None:
    """Return the number of the block the top-level marker falls on: the last one that may carry a marker."""
    able = [number for number, each in enumerate(prompt(body)) if _markable(each.block)]
    return able[-1] if able else None


class Part(NamedTuple):
    """One block of a prompt: its part (``tools``, ``system`` or ``messages``) and its role."""

    part: str
    role: str
    block: Mapping[str, Any]


def prompt(body: Mapping[str, Any]) -> Iterator[Part]:
    """Yield every block of a prompt in the order it is cached in."""
    yield from (Part("tools", "", tool) for tool in body.get("tools") or ())
    yield from (Part("system", "", block) for block in blocks_of(body.get("system")))
    for message in body.get("messages", ()):
        yield from (Part("messages", message["role"], block) for block in blocks_of(message.get("content")))


def lifetimes(block: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lifetimes that a block's marker, and those of the blocks inside it, ask for."""
    if block.get("type") in _HOLDING:
        for each in inner(block):
            yield from lifetimes(each)
    if block.get("cache_control"):
        yield str(block["cache_control"].get("ttl") or "5m")


def _markable(block: Mapping[str, Any]) -> bool:
    return block.get("type") not in _UNMARKABLE and (block.get("type") != "text" or bool(block["text"].strip()))


def _is_marked(body: Mapping[str, Any]) -> bool:
    return bool(body.get("cache_control")) or any(any(lifetimes(each.block)) for each in prompt(body))


def _spots(body: Mapping[str, Any], model: Model) -> Iterator[Spot]:
    """Yield where each block of a prompt ends."""
    marked = automatic(body) if body.get("cache_control") else None
    digest = hashlib.sha256(model.id.encode())
    size = place = 0
    part = run = ""
    for number, each in enumerate(prompt(body)):
        if each.part != part:
            part = each.part
            digest.update(_written(_conditions(part, body, model)))
        plain = unmarked(each.block)
        digest.update(_written([each.role, plain]))
        size += measure(plain)
        kind = str(each.block.get("type"))
        place += kind not in _RUNS or kind != run
        run = kind
        lifetime = next(lifetimes(each.block), None)
        if number == marked and lifetime is None:
            lifetime = str(body["cache_control"].get("ttl") or "5m")
        yield Spot(digest.digest(), size // BYTES, place, lifetime)


def _conditions(part: str, body: Mapping[str, Any], model: Model) -> Any:
    """Return what else a part's entries depend on; the parts after it depend on it too."""
    if part == "tools":
        return []
    blocks = [block for message in body["messages"] for block in blocks_of(message.get("content"))]
    citing = any((block.get("citations") or {}).get("enabled") for block in blocks if block.get("type") == "document")
    if part == "system":
        return [body.get("speed") or "standard", citing]
    thinking = body.get("thinking") or {"type": "adaptive" if model.thinks else "disabled"}
    return [
        body.get("speed") or "standard",
        citing,
        body.get("tool_choice"),
        [thinking.get("type"), thinking.get("budget_tokens")],
        (body.get("output_config") or {}).get("effort") or model.usual_effort,
        any(block.get("type") == "image" for block in blocks),
    ]


def _written(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
