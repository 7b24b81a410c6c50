"""How a message becomes the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

from conversation_store.testing.counting import tokens

_DELTAS: Final = {"text": "text_delta", "thinking": "thinking_delta"}
_STOPS: Final = ("stop_reason", "stop_sequence", "stop_details", "container")
_TOLD: Final = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
    "iterations",
    "fallback_credit",
)
_TOLD_LAST: Final = frozenset(("output_tokens_details", "server_tool_use", "iterations", "fallback_credit"))
_PIECE: Final = 12


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """
    How an answer is streamed, where a stream is asked for. Events are numbered from 0, ``message_start``.

    Attributes:
        pings: The events that a ``ping`` comes before; 0 is a stream that begins with one, and a number beyond the
            last event one that ends with one. None stands for one ping, after the first block begins.
        overlap: Whether the blocks begin together and their deltas alternate, instead of one block at a time.
        message_deltas: How many ``message_delta`` events there are; all but the last carry growing usage only.
        extra: What else to send before an event, by its number: an event as a dict, or bytes.
        newline: The end of a line.
        pause: Seconds between events.

    Example:
        >>> how = Streaming(pings=[0, 3], extra={2: {"type": "weather", "sky": "clear"}})
        >>> [name for name, _ in how.script({"content": [{"type": "text", "text": "Hi"}], "usage": {}})][:5]
        ['ping', 'message_start', 'content_block_start', 'weather', 'content_block_delta']
    """

    pings: Sequence[int] | None = None
    overlap: bool = False
    message_deltas: int = 1
    extra: Mapping[int, bytes | Mapping[str, Any] | Sequence[bytes | Mapping[str, Any]]] = field(default_factory=dict)
    newline: str = "\n"
    pause: float = 0

    def events(self, message: Mapping[str, Any]) -> list[bytes]:
        """Return a message as the bytes of its events."""
        end = self.newline.encode()
        return [event if isinstance(event, bytes) else _event(event, end) for _, event in self.script(message)]

    def script(self, message: Mapping[str, Any]) -> Iterator[tuple[str, bytes | Mapping[str, Any]]]:
        """Yield each event with its name, those between included."""
        proper = [_started(message), *self._blocks(message.get("content") or ()), *self._ended(message)]
        last = len(proper)
        pings = set(self.pings) if self.pings is not None else {2} if message.get("content") else set()
        for number, event in [*enumerate(proper), *((at, None) for at in sorted({*pings, *self.extra}) if at >= last)]:
            more = self.extra.get(number, ())
            for each in (more,) if isinstance(more, bytes | Mapping) else more:
                yield ("" if isinstance(each, bytes) else str(each.get("type"))), each
            if number in pings:
                yield "ping", {"type": "ping"}
            if event is not None:
                yield str(event["type"]), event

    def _blocks(self, content: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        apart = [_taken_apart(block) for block in content]
        for group in [list(enumerate(apart))] if self.overlap else [[each] for each in enumerate(apart)]:
            for index, (start, _) in group:
                yield {"type": "content_block_start", "index": index, "content_block": start}
            for alternating in zip_longest(*(deltas for _, (_, deltas) in group)):
                for (index, _), delta in zip(group, alternating, strict=True):
                    if delta is not None:
                        yield {"type": "content_block_delta", "index": index, "delta": delta}
            for index, _ in group:
                yield {"type": "content_block_stop", "index": index}

    def _ended(self, message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        usage = {key: message["usage"][key] for key in _TOLD if key in message.get("usage", {})}
        whole = usage.get("output_tokens", 0)
        for number in range(1, self.message_deltas):
            grown = {"output_tokens": max(1, whole * number // self.message_deltas)}
            yield {"type": "message_delta", "delta": {"stop_reason": None, "stop_sequence": None}, "usage": grown}
        delta = {key: message[key] for key in _STOPS if key in message}
        beside = {"context_management": message["context_management"]} if "context_management" in message else {}
        yield {"type": "message_delta", "delta": delta, "usage": usage, **beside}
        yield {"type": "message_stop"}


def event(name: str, **data: Any) -> bytes:
    """Return one server-sent event."""
    return _event({"type": name, **data}, b"\n")


def encode(value: Any) -> bytes:
    """Return compact JSON; what UTF-8 cannot say (a lone surrogate) as an escape."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _event(data: Mapping[str, Any], end: bytes) -> bytes:
    return b"event: " + str(data.get("type")).encode() + end + b"data: " + encode(data) + end + end


def _started(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the event a stream begins with: the message before anything was said."""
    usage = {key: value for key, value in message.get("usage", {}).items() if key not in _TOLD_LAST}
    switched = [block for block in message.get("content") or () if block.get("type") == "fallback"]
    first = {"model": switched[0]["from"]["model"]} if switched and "from" in switched[0] else {}
    unknown = {key: None for key in _STOPS if key in message}
    begun = {**message, **first, "content": [], **unknown, "usage": {**usage, "output_tokens": 1}}
    begun.pop("context_management", None)
    return {"type": "message_start", "message": begun}


def _taken_apart(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a block begins as, and the deltas that make it whole."""
    kind = str(block.get("type"))
    if kind in _DELTAS:
        empty: dict[str, Any] = {key: "" for key in (kind, "signature") if key in block}
        deltas = [{"type": _DELTAS[kind], kind: piece} for piece in tokens(block[kind])]
        if "signature" in block:
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        cited = block.get("citations")
        if cited:
            empty["citations"] = []
            deltas += [{"type": "citations_delta", "citation": each} for each in cited]
        return {**block, **empty}, deltas
    if kind in {"tool_use", "server_tool_use", "mcp_tool_use"}:
        written = encode(block.get("input", {})).decode() if block.get("input") else ""
        pieces = ["", *(written[at : at + _PIECE] for at in range(0, len(written), _PIECE))]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": each} for each in pieces]
    if kind == "compaction" and "signature" not in block:  # one made on demand is signed, and comes whole
        keys = [key for key in ("content", "encrypted_content") if key in block]
        told = {key: block[key] for key in keys}
        return {**block, **dict.fromkeys(keys)}, [{"type": "compaction_delta", **told}]
    return dict(block), []
