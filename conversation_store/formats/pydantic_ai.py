"""
Messages of pydantic-ai: what ``ModelMessagesTypeAdapter.dump_json`` and ``result.all_messages_json()`` write.

A request there is a turn of the user: the results of tools, then what was said. Its system prompts and instructions are
system messages, told or taken as such. Thinking is taken where it has the signature that this API gave it.

Source: pydantic-ai 2.68 (``messages.py``), 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define

from conversation_store.formats.documents import Document, Value
from conversation_store.formats.transcripts import (
    Assembly,
    Piece,
    Reading,
    Refused,
    Transcript,
    beside,
    of_data,
    string,
)

FORM: Final = "pydantic-ai"

_KINDS: Final = ("request", "response")
_OURS: Final = frozenset({"anthropic", "claude"})
_REDACTED: Final = "redacted_thinking"
_standard: Final = str.maketrans("-_", "+/")


def fits(value: object) -> bool:
    """Say whether a value may be a message of this form."""
    return isinstance(value, Mapping) and value.get("kind") in _KINDS and isinstance(value.get("parts"), list)


def read(document: Document) -> Reading:
    """Read the messages of one conversation; it has its own id where the messages tell one."""
    values = document.values()
    for value in values:
        if isinstance(value, Value) and fits(value.value):
            name = string(value.value.get("conversation_id"))
            yield Transcript(name, _Messages(name).pieces(value, values))
            return
        yield value if isinstance(value, Refused) else Refused(value.place, "a message has a kind and parts")


@define
class _Messages:
    conversation: str | None
    instructions: str | None = None

    def pieces(self, first: Value, rest: Iterator[Value | Refused]) -> Iterator[Piece]:
        """Give every message, from the first on."""
        yield from self._message(first)
        for value in rest:
            if isinstance(value, Refused):
                yield value
            elif not fits(value.value):
                yield Refused(value.place, "a message has a kind and parts", self.conversation)
            else:
                yield from self._message(value)

    def _message(self, value: Value) -> Iterator[Piece]:
        message: Mapping[str, Any] = value.value
        told = _beside(message)
        if message["kind"] == "response":
            made = Assembly(value.place, self.conversation)
            for n, part in enumerate(message["parts"]):
                _add_answered(made, part if isinstance(part, Mapping) else {}, f".parts[{n}]")
            yield from made.pieces("assistant", told)
            return
        yield from self._system(value.place, message, told)
        results, made = Assembly(value.place, self.conversation), Assembly(value.place, self.conversation)
        for n, part in enumerate(message["parts"]):
            _add_asked(results, made, part if isinstance(part, Mapping) else {}, f".parts[{n}]")
        made.blocks = results.blocks + made.blocks  # the API wants results first
        made.refused = results.refused + made.refused
        only_system = message["parts"] and all(_kind(part) == "system-prompt" for part in message["parts"])
        if made.blocks or made.refused or not only_system:
            yield from made.pieces("user", told)

    def _system(self, place: str, message: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[Piece]:
        """Give instructions where they changed, and system prompts."""
        instructions = message.get("instructions")
        if isinstance(instructions, str) and instructions and instructions != self.instructions:
            self.instructions = instructions
            made = Assembly(f"{place}.instructions", self.conversation)
            made.words(instructions)
            yield from made.pieces("system", told)
        for n, part in enumerate(message["parts"]):
            if _kind(part) == "system-prompt":
                made = Assembly(f"{place}.parts[{n}]", self.conversation)
                made.words(part.get("content"))
                yield from made.pieces("system", told)


def _kind(part: object) -> object:
    return part.get("part_kind") if isinstance(part, Mapping) else None


def _beside(message: Mapping[str, Any]) -> dict[str, Any]:
    usage = message.get("usage")
    counted = {name: n for name, n in usage.items() if n} if isinstance(usage, Mapping) else None
    return beside(
        id=message.get("provider_response_id"),
        at=message.get("timestamp") or _first_time(message["parts"]),
        run=message.get("run_id"),
        model=message.get("model_name"),
        stop_reason=message.get("finish_reason"),
        usage=counted or None,
    )


def _first_time(parts: Sequence[object]) -> object:
    return next((part["timestamp"] for part in parts if isinstance(part, Mapping) and part.get("timestamp")), None)


def _add_asked(results: Assembly, made: Assembly, part: Mapping[str, Any], where: str) -> None:
    """Add a part of a request."""
    match _kind(part):
        case "system-prompt":
            return
        case "user-prompt":
            _add_content(made, part.get("content"), f"{where}.content")
        case "tool-return":
            failed = part.get("outcome", "success") != "success"
            inside = Assembly(f"{results.place}{where}.content", results.conversation)
            _add_returned(inside, part.get("content"))
            results.refused += inside.refused
            results.result(part.get("tool_call_id"), inside.blocks, where, failed=failed)
        case "retry-prompt" if part.get("tool_name") is not None:
            inside = Assembly(f"{results.place}{where}.content", results.conversation)
            inside.json(part.get("content"))
            results.refused += inside.refused
            results.result(part.get("tool_call_id"), inside.blocks, where, failed=True)
        case "retry-prompt" | "retry-feedback":
            made.json(part.get("content"), where)
        case kind:
            made.refuse(where, f"a part of kind {str(kind)[:40]} has no place in the Messages API")


def _add_answered(made: Assembly, part: Mapping[str, Any], where: str) -> None:
    """Add a part of a response."""
    match _kind(part):
        case "text":
            made.words(part.get("content"), where)
        case "thinking":
            _add_thinking(made, part, where)
        case "tool-call":
            arguments = part.get("args")
            made.call(part.get("tool_call_id"), part.get("tool_name"), {} if arguments is None else arguments, where)
        case kind:
            made.refuse(where, f"a part of kind {str(kind)[:40]} has no place in the Messages API")


def _add_thinking(made: Assembly, part: Mapping[str, Any], where: str) -> None:
    signature = part.get("signature")
    if not isinstance(signature, str) or part.get("provider_name") not in tuple(_OURS):
        made.refuse(where, "thinking without a signature of this API, which it takes from nobody else")
    elif part.get("id") == _REDACTED:
        made.add({"type": _REDACTED, "data": signature})
    else:
        made.add({"type": "thinking", "thinking": part.get("content"), "signature": signature})


def _add_content(made: Assembly, content: object, where: str) -> None:
    """Add what a user said: a string, or pieces of several kinds."""
    pieces = content if isinstance(content, list) else [content]
    for n, piece in enumerate(pieces):
        here = f"{where}[{n}]" if isinstance(content, list) else where
        if isinstance(piece, str):
            made.words(piece, here)
            continue
        told = piece if isinstance(piece, Mapping) else {}
        block = _block(told)
        if told.get("kind") == "cache-point":
            continue
        if block is None:
            made.refuse(here, f"content of kind {str(told.get('kind'))[:40]} has no place in the Messages API")
        else:
            made.add(block)


def _block(told: Mapping[str, Any]) -> dict[str, Any] | None:
    data, url = told.get("data"), told.get("url")
    match told.get("kind"):
        case "binary" if isinstance(data, str):
            return of_data(told.get("media_type"), data.translate(_standard))
        case "text" | "text-content" if isinstance(told.get("content"), str):
            return {"type": "text", "text": told["content"]}
        case "image-url" if isinstance(url, str):
            return {"type": "image", "source": {"type": "url", "url": url}}
        case "document-url" if isinstance(url, str):
            return {"type": "document", "source": {"type": "url", "url": url}}
    return None


def _add_returned(made: Assembly, content: object) -> None:
    """Add what a tool returned: text, a picture, or the JSON of anything else."""
    pieces = content if isinstance(content, list) else [content]
    found = [_block(piece) if isinstance(piece, Mapping) else None for piece in pieces]
    if any(found):
        for piece, block in zip(pieces, found, strict=True):
            if block:
                made.add(block)
            else:
                made.json(piece)
    else:
        made.json(content)
