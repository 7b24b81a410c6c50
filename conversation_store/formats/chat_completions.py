"""
Chat completions: an array of messages with the roles of that API, a request's body, or a body on each line.

A message there is a turn here: a tool's answer is a turn of the user with one result, and the body of a request gathers
those that follow each other. ``formats.messages`` writes this form.

Source: OpenAI API reference, Chat Completions, 2026-10.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from conversation_store.formats.documents import Document
from conversation_store.formats.transcripts import (
    Assembly,
    LeftOut,
    Piece,
    Reading,
    Refused,
    Transcript,
    beside,
    of_data,
    string,
)

FORM: Final = "openai"

_SYSTEM: Final = frozenset({"system", "developer"})
_ROLES: Final = _SYSTEM | {"user", "assistant", "tool", "function"}
_ANSWERS: Final = {"tool": "tool_call_id", "function": "name"}
_PARTS: Final = frozenset({"text", "image_url", "input_audio", "file", "refusal"})


def fits(value: object) -> bool:
    """Say whether a value may be a message of this form, or a body that holds some."""
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("messages"), list):
        return "system" not in value and all(fits(each) for each in value["messages"][:50])
    content = value.get("content")
    parts = all(isinstance(part, Mapping) and part.get("type") in tuple(_PARTS) for part in _list(content))
    role = value.get("role")
    known = isinstance(role, str) and role in _ROLES and _ANSWERS.get(role, "role") in value
    return known and parts and (isinstance(content, (str, list)) or role == "assistant")


def read(document: Document) -> Reading:
    """Read an array of messages, or bodies with their messages: one, or one a line."""
    before, first, values = document.from_first()
    yield from before
    if first is None:
        return
    if isinstance(first.value, Mapping) and "messages" in first.value:
        for value in values:
            if isinstance(value, Refused):
                yield value
            else:
                yield from _body(value.place, value.value)
    else:
        placed = (value if isinstance(value, Refused) else (value.place, value.value) for value in values)
        yield Transcript(None, _pieces(placed))


def _body(place: str, body: object) -> Reading:
    messages = body.get("messages") if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(messages, list):
        yield Refused(place, "a body has an array of messages")
        return
    yield from (LeftOut(f"parameter {name[:40]} of another API") for name in body if name not in {"messages", "id"})
    placed = ((f"{place}.messages[{n}]", message) for n, message in enumerate(messages))
    yield Transcript(string(body.get("id")), _pieces(placed))


def _pieces(messages: Iterable[tuple[str, object] | Refused]) -> Iterator[Piece]:
    calls: list[str] = []
    for n, found in enumerate(messages):
        if isinstance(found, Refused):
            yield found
            continue
        place, message = found
        if not isinstance(message, Mapping):
            yield Refused(place, "a message is an object")
        elif not isinstance(message.get("role"), str) or message["role"] not in _ROLES:
            yield Refused(place, f"the role is one of {', '.join(sorted(_ROLES))}")
        else:
            yield from _message(place, message, n, calls)


def _message(place: str, message: Mapping[str, Any], n: int, calls: list[str]) -> Iterator[Piece]:
    role, made = message["role"], Assembly(place)
    told = beside(id=message.get("id"), name=message.get("name"), model=message.get("model"), at=message.get("created"))
    if role in {"tool", "function"}:
        inside = Assembly(f"{place}.content")
        add_parts(inside, message.get("content"), "")
        made.refused += inside.refused
        answered = message.get("tool_call_id") if role == "tool" else (calls.pop() if calls else None)
        made.result(answered, inside.blocks)
        yield from made.pieces("user", told)
        return
    add_parts(made, message.get("content"), ".content")
    if role == "assistant":
        _add_beside(made, message, n, calls)
    yield from made.pieces("system" if role in _SYSTEM else role, told)


def _add_beside(made: Assembly, message: Mapping[str, Any], n: int, calls: list[str]) -> None:
    """Add what an assistant's message holds beside its content."""
    made.words(message.get("refusal"), ".refusal")
    for name in ("reasoning_content", "reasoning", "audio"):
        if message.get(name):
            made.refuse(f".{name}", "it has no place in the Messages API")
    for m, call in enumerate(_list(message.get("tool_calls"))):
        told = call if isinstance(call, Mapping) else {}
        function = told.get("function")
        function = function if isinstance(function, Mapping) else {}
        made.call(told.get("id"), function.get("name"), function.get("arguments"), f".tool_calls[{m}]")
    function = message.get("function_call")
    if isinstance(function, Mapping):
        calls.append(f"call_{n}")  # the older way of calling names no call
        made.call(calls[-1], function.get("name"), function.get("arguments"), ".function_call")


def add_parts(made: Assembly, content: object, where: str) -> None:
    """Add content as chat completions have it: a string, or parts."""
    if not isinstance(content, list):
        made.words(content, where)
        return
    for n, part in enumerate(content):
        _add_part(made, part if isinstance(part, Mapping) else {}, f"{where}[{n}]")


def _add_part(made: Assembly, part: Mapping[str, Any], where: str) -> None:
    match part.get("type"):
        case "text":
            made.words(part.get("text"), where)
        case "refusal":
            made.words(part.get("refusal"), where)
        case "image_url":
            image = part.get("image_url")
            made.picture(image.get("url") if isinstance(image, Mapping) else image, where)
        case "file":
            add_file(made, part.get("file"), where)
        case kind:
            made.refuse(where, f"a part of type {str(kind)[:40]} has no place in the Messages API")


def add_file(made: Assembly, file: object, where: str) -> None:
    """Add a file that carries its data."""
    told = file if isinstance(file, Mapping) else {}
    data = told.get("file_data")
    head, _, text = data.partition(",") if isinstance(data, str) else ("", "", "")
    media_type = head.removeprefix("data:").removesuffix(";base64")
    block = of_data(media_type, text, told.get("filename")) if head.endswith(";base64") else None
    if block is None:
        made.refuse(where, "a file that is not a picture or PDF with its data has no place in the Messages API")
    else:
        made.add(block)


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()
