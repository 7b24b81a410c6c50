"""
Messages of LangChain: the table ``message_store`` of ``SQLChatMessageHistory``, or message dicts as JSON.

Content that already is in the API's shape, as ``langchain-anthropic`` keeps it, keeps its bytes, signatures of thinking
included; blocks of LangChain's own and of other providers are converted; calls told beside the content are added to it.

Source: langchain-core 1.7 (``messages_to_dict``) and langchain-community 0.4 (``chat_message_histories/sql.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from conversation_store.errors import CodecError, ContentError
from conversation_store.formats.chat_completions import add_file
from conversation_store.formats.documents import Document
from conversation_store.formats.rows import Tables, has, json_in, text_of
from conversation_store.formats.transcripts import (
    Assembly,
    Piece,
    Reading,
    Refused,
    Told,
    Transcript,
    beside,
    of_data,
)
from conversation_store.record import canonical
from conversation_store.record.codec import REQUIRED_KEYS

FORM: Final = "langchain"

_STORE: Final = "message_store"
_ROLES: Final = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "system": "system",
    "SystemMessageChunk": "system",
    "tool": "user",
    "ToolMessageChunk": "user",
}
_ROLES_OF_CHAT: Final = {"user": "user", "human": "user", "assistant": "assistant", "ai": "assistant"}
_SYSTEM: Final = frozenset({"system", "developer"})


def fits(value: object) -> bool:
    """Say whether a value may be a message of this form."""
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and isinstance(value.get("data"), Mapping)


def fits_tables(tables: Tables) -> bool:
    """Say whether tables are of this form."""
    return has(tables, _STORE, "session_id", "message")


def read(source: Document | Tables) -> Reading:
    """Read the sessions of a table, or the messages of one conversation."""
    if isinstance(source, Document):
        yield Transcript(None, _messages(source))
        return
    rows = source.rows(_STORE, order=("session_id", "id"))
    for session, found in groupby(rows, key=lambda row: row["session_id"]):
        try:
            yield Transcript(text_of(session), _rows(found))
        except CodecError as error:
            yield Refused(f"session {session!r}", str(error))


def _messages(document: Document) -> Iterator[Piece]:
    for value in document.values():
        if isinstance(value, Refused):
            yield value
        else:
            yield from _pieces(value.place, value.data, value.value, {})


def _rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Piece]:
    for row in rows:
        place = f"row {row.get('id')} of {_STORE}"
        try:
            data, message = json_in(row, "message")
        except CodecError as error:
            yield Refused(place, str(error))
        else:
            yield from _pieces(place, data, message, beside(row=row.get("id")))


def _pieces(place: str, data: bytes, message: object, known: Mapping[str, Any]) -> Iterator[Piece]:
    if not isinstance(message, Mapping) or not fits(message):
        yield Refused(place, "a message has a type and data")
        return
    kind, told = message["type"], message["data"]
    role = _role(kind, told)
    if role is None:
        yield Refused(place, f"a message of type {kind[:40]} has no place in the Messages API")
        return
    made = Assembly(place)
    try:
        content = _content(made, _inside(data, "data", "content"), told.get("content"))
        blocks: list[bytes] | bytes
        if kind.startswith(("tool", "Tool")):
            blocks = [_result(told, content)]
        elif role == "assistant":
            blocks = _with_calls(made, content, told)
        else:
            blocks = content
    except (CodecError, ContentError) as error:
        yield Refused(place, str(error))
        return
    yield from made.refused
    if not blocks:
        yield from () if made.refused else (Refused(place, "there is nothing in it"),)
        return
    wire = canonical.compose({"role": canonical.dumps(role), "content": _written(blocks)})
    yield Told(place, role, wire, {**known, **_beside(told)})


def _role(kind: str, told: Mapping[str, Any]) -> str | None:
    if kind in {"chat", "ChatMessageChunk"}:
        role = told.get("role")
        return "system" if role in tuple(_SYSTEM) else _ROLES_OF_CHAT.get(role) if isinstance(role, str) else None
    return _ROLES.get(kind)


def _beside(told: Mapping[str, Any]) -> dict[str, Any]:
    answered = told.get("response_metadata")
    answered = answered if isinstance(answered, Mapping) else {}
    return beside(
        id=told.get("id"),
        name=told.get("name"),
        model=answered.get("model_name") or answered.get("model"),
        stop_reason=answered.get("stop_reason") or answered.get("finish_reason"),
        usage=told.get("usage_metadata"),
    )


def _inside(data: bytes, *names: str) -> bytes:
    """Slice a member of a member; null where it is missing."""
    for name in names:
        found = canonical.members(data).get(name)
        if found is None:
            return b"null"
        data = data[found.start : found.end]
    return data


def _content(made: Assembly, data: bytes, value: object) -> list[bytes] | bytes:
    """Take content: as it is where it is in the API's shape, else block by block."""
    if isinstance(value, str):
        return data if value else []
    if not isinstance(value, list):
        made.refuse("", "content is a string or a list")
        return []
    if value and all(_is_ours(block) for block in value):
        return data
    found: list[bytes] = []
    for n, item in enumerate(canonical.items(data)):
        if _is_ours(item.value):
            found.append(data[item.start : item.end])
            continue
        one = Assembly(f"{made.place}[{n}]")
        _convert(one, item.value)
        made.refused += one.refused
        found += [canonical.dumps(block) for block in one.blocks]
    return found


def _is_ours(block: object) -> bool:
    """Say whether a block is in the API's shape."""
    if not isinstance(block, Mapping):
        return False
    kind = block.get("type")
    if kind == "text" and not block.get("text"):
        return False
    return isinstance(kind, str) and kind in REQUIRED_KEYS and all(name in block for name in REQUIRED_KEYS[kind])


def _convert(made: Assembly, block: object) -> None:
    if isinstance(block, str):
        made.words(block)
        return
    told = block if isinstance(block, Mapping) else {}
    match told.get("type"):
        case "text":
            made.words(told.get("text"))
        case "image_url":
            image = told.get("image_url")
            made.picture(image.get("url") if isinstance(image, Mapping) else image, "")
        case "image" | "file" as kind:
            _convert_data(made, told, str(kind))
        case "tool_call":
            made.call(told.get("id"), told.get("name"), told.get("args"), "")
        case "non_standard" if _is_ours(told.get("value")):
            made.add(told["value"])
        case kind:
            made.refuse("", f"a block of type {str(kind)[:40]} has no place in the Messages API")


def _convert_data(made: Assembly, told: Mapping[str, Any], kind: str) -> None:
    data = told.get("base64") or told.get("data")
    block = of_data(told.get("mime_type"), data) if data else None
    if block is not None:
        made.add(block)
    elif isinstance(told.get("url"), str):
        place = {"source": {"type": "url", "url": told["url"]}}
        made.add({"type": "image" if kind == "image" else "document", **place})
    elif "file" in told:
        add_file(made, told["file"], "")
    else:
        made.refuse("", f"a block of type {kind} without data or URL has no place in the Messages API")


def _with_calls(made: Assembly, content: list[bytes] | bytes, told: Mapping[str, Any]) -> list[bytes] | bytes:
    """Add the calls that are told beside the content and not in it."""
    known = {canonical.object_of(block).get("id") for block in _blocks(content)} if told.get("tool_calls") else set()
    calls = Assembly(made.place)
    for n, call in enumerate(_list(told.get("tool_calls"))):
        each = call if isinstance(call, Mapping) else {}
        if not isinstance(each.get("id"), str) or each["id"] not in known:
            calls.call(each.get("id"), each.get("name"), each.get("args"), f".tool_calls[{n}]")
    for n, _ in enumerate(_list(told.get("invalid_tool_calls"))):
        calls.refuse(f".invalid_tool_calls[{n}]", "the call's arguments cannot be read")
    made.refused += calls.refused
    if not calls.blocks:
        return content
    return [*_blocks(content), *(canonical.dumps(block) for block in calls.blocks)]


def _blocks(content: list[bytes] | bytes) -> list[bytes]:
    if isinstance(content, list):
        return content
    if content.startswith(b'"'):
        return [canonical.compose({"type": b'"text"', "text": content})]
    return [content[item.start : item.end] for item in canonical.items(content)]


def _written(blocks: list[bytes] | bytes) -> bytes:
    return blocks if isinstance(blocks, bytes) else b"[" + b",".join(blocks) + b"]"


def _result(told: Mapping[str, Any], content: list[bytes] | bytes) -> bytes:
    answered = told.get("tool_call_id")
    if not isinstance(answered, str):
        raise CodecError("a result names the call it answers")
    parts = {"type": b'"tool_result"', "tool_use_id": canonical.dumps(answered), "content": _written(content)}
    return canonical.compose({**parts, "is_error": b"true"} if told.get("status") == "error" else parts)


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()
