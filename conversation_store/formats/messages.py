"""
The view as other programs take it: the API's own array, a line of a batch, and chat completions.

The first two are the bytes that a request would have. The third is another language, and says what it has no word for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from conversation_store.errors import CodecError, ContentError
from conversation_store.formats.wording import words_of
from conversation_store.record import canonical
from conversation_store.record.blocks import (
    Block,
    Document,
    Image,
    Text,
    ToolResult,
    ToolUse,
)
from conversation_store.record.codec import ROLES, blocks_of
from conversation_store.record.turns import Turn

_custom_id: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")

NOT_IN_BATCHES: Final = frozenset({"stream", "speed", "fallbacks", "fallback_credit_token", "thread"})
"""
Parameters that a batch does not take.

Source: Messages API documentation, Batch processing, 2026-10.
"""


def array(wires: Iterable[bytes]) -> Iterator[bytes]:
    """Write messages as an array, each of them as it is."""
    between = b"["
    for wire in wires:
        yield between
        yield wire
        between = b","
    yield b"[]" if between == b"[" else b"]"


def batch_settings(settings: bytes) -> bytes:
    """
    Leave out the parameters that a batch does not take.

    Raises:
        ContentError: What is asked for goes by no batch.
    """
    members = canonical.members(settings)
    if "max_tokens" in members and members["max_tokens"].value == 0:
        raise ContentError("max_tokens", "a batch takes no request of 0 tokens")
    return canonical.compose(
        {name: settings[each.start : each.end] for name, each in members.items() if name not in NOT_IN_BATCHES}
    )


def batch(custom_id: str, body: Iterable[bytes]) -> Iterator[bytes]:
    """
    Write a request as a line of a batch.

    Raises:
        ContentError: The id is none.
    """
    if not _custom_id.fullmatch(custom_id):
        raise ContentError("custom_id", "give 1 to 64 letters, digits, _ or -")
    yield b'{"custom_id":' + canonical.dumps(custom_id) + b',"params":'
    yield from body
    yield b"}\n"


# --- chat completions ----------------------------------------------------------------------------------------------


def chat_completions(system: object, turns: Iterable[Turn], lost: dict[str, int]) -> Iterator[bytes]:
    """
    Write turns as the array of messages that chat completions take.

    Args:
        system: The system prompt, a string or text blocks.
        turns: What was said.
        lost: Is told what has no place there: each kind, and how often.
    """
    between = b"["
    for message in _messages(system, turns, lost):
        # What was received may hold a lone surrogate, which is no text.
        yield between + canonical.header(message)
        between = b","
    yield b"[]" if between == b"[" else b"]"


def _messages(system: object, turns: Iterable[Turn], lost: dict[str, int]) -> Iterator[dict[str, Any]]:
    told = _said(blocks_of(system), lost)
    if told:
        yield {"role": "system", "content": told}
    for turn in turns:
        content = turn.content
        if turn.role == "assistant":
            yield _assistant(content, lost)
            continue
        for block in content:
            if isinstance(block, ToolResult):
                yield _result(block, lost)
        rest = [block for block in content if not isinstance(block, ToolResult)]
        if turn.role == "system":
            yield {"role": "system", "content": _said(rest, lost)}
        elif parts := [part for block in rest if (part := _part(block, lost)) is not None]:
            alone = len(parts) == 1 and parts[0]["type"] == "text"
            yield {"role": "user", "content": parts[0]["text"] if alone else parts}


def _assistant(content: Sequence[Block], lost: dict[str, int]) -> dict[str, Any]:
    calls = [
        {
            "id": words_of(block.id),
            "type": "function",
            "function": {"name": words_of(block.name), "arguments": canonical.header(_object(block.input)).decode()},
        }
        for block in content
        if isinstance(block, ToolUse)
    ]
    said = _said([block for block in content if not isinstance(block, ToolUse)], lost)
    return {"role": "assistant", "content": said or None, **({"tool_calls": calls} if calls else {})}


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"value": value}


def _result(block: ToolResult, lost: dict[str, int]) -> dict[str, Any]:
    if block.is_error is True:
        _lose(lost, "that a tool's result is an error")
    said = _said(blocks_of(block.content), lost)
    return {"role": "tool", "tool_call_id": words_of(block.tool_use_id), "content": said}


def _said(blocks: Sequence[Block], lost: dict[str, int]) -> str:
    """Join the words of blocks; everything else is lost."""
    words = []
    for block in blocks:
        if isinstance(block, Text):
            _lose_beside(block, lost)
            words.append(words_of(block.text))
        else:
            _lose(lost, block.type)
    return "".join(words)


def _part(block: Block, lost: dict[str, int]) -> dict[str, Any] | None:
    _lose_beside(block, lost)
    if isinstance(block, Text):
        return {"type": "text", "text": words_of(block.text)}
    source = getattr(block, "source", None)
    source = source if isinstance(source, Mapping) else {}
    data = f"data:{source.get('media_type')};base64,{source.get('data')}"
    match block, source.get("type"):
        case Image(), "base64":
            return {"type": "image_url", "image_url": {"url": data}}
        case Image(), "url":
            return {"type": "image_url", "image_url": {"url": words_of(source.get("url"))}}
        case Document(), "base64":
            name = block.title if isinstance(block.title, str) else "document.pdf"
            return {"type": "file", "file": {"filename": name, "file_data": data}}
        case Document(), "text":
            return {"type": "text", "text": words_of(source.get("data"))}
    _lose(lost, block.type)
    return None


def _lose_beside(block: Block, lost: dict[str, int]) -> None:
    for name in ("citations", "cache_control", "context", "transformations"):
        if getattr(block, name, None):
            _lose(lost, name)


def _lose(lost: dict[str, int], what: str) -> None:
    lost[what] = lost.get(what, 0) + 1


# --- reading -------------------------------------------------------------------------------------------------------


@frozen
class Message:
    """
    A message of a transcript from elsewhere.

    Attributes:
        line: The line of the text it begins in, from 1.
        wire: Its bytes, role and content alone.
        role: Whose it is.
        beside: What else it told of itself: its id, its time, its model.
    """

    line: int
    wire: bytes
    role: str
    beside: Mapping[str, Any]


def read(data: bytes, faults: list[tuple[int, str]]) -> tuple[list[Message], Mapping[str, Any]]:
    """
    Read an array of messages, or the body of a request that holds one.

    Args:
        data: The JSON text; the messages' bytes are kept as they are.
        faults: Is told each message that is none: its line, and why.

    Returns:
        The messages, and the other parameters of the body.

    Raises:
        CodecError: It is neither.
    """
    start, settings = 0, dict[str, Any]()
    if data.lstrip()[:1] == b"{":
        members = canonical.members(data)
        found = members.pop("messages", None)
        if found is None or not isinstance(found.value, list):
            raise CodecError("this is no body of a request: it has no array of messages")
        settings = {name: each.value for name, each in members.items() if name != "stream"}
        start, array = found.start, data[found.start : found.end]
    else:
        array = data
    read_so_far = []
    for n, item in enumerate(canonical.items(array)):
        line = data.count(b"\n", 0, start + item.start) + 1
        try:
            read_so_far.append(_message(array[item.start : item.end], line, item.value))
        except CodecError as error:
            faults.append((line, f"messages.{n}: {error}"))
    return read_so_far, settings


def _message(data: bytes, line: int, value: object) -> Message:
    if not isinstance(value, Mapping):
        raise CodecError("a message is an object")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise CodecError(f"role is one of {', '.join(ROLES)}")
    blocks = isinstance(content, list) and all(
        isinstance(block, Mapping) and isinstance(block.get("type"), str) for block in content
    )
    if not isinstance(content, str) and not blocks:
        raise CodecError("content is a string or a list of blocks with a type")
    members = canonical.members(data)
    beside = {name: each.value for name, each in members.items() if name not in {"role", "content"}}
    parts = {name: data[each.start : each.end] for name, each in members.items() if name in {"role", "content"}}
    return Message(line, canonical.compose(parts) if beside else data, str(role), beside)
