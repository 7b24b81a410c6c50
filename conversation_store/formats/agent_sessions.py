"""
Sessions of the OpenAI Agents SDK: the tables of ``SQLiteSession``, or the items of one session as JSON.

An item there is a turn here: a call is a turn of the assistant, its output a turn of the user with one result.

Source: openai-agents 0.24 (``agents/memory/sqlite_session.py``); the items are those of the OpenAI API reference,
Responses, 2026-10.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Final

from conversation_store.errors import CodecError
from conversation_store.formats.documents import Document
from conversation_store.formats.rows import Tables, has, json_in, text_in, text_of
from conversation_store.formats.transcripts import Assembly, Piece, Reading, Refused, Transcript, beside, of_data

FORM: Final = "openai-agents"

_MESSAGES: Final = "agent_messages"
_SYSTEM: Final = frozenset({"system", "developer"})
_ROLES: Final = _SYSTEM | {"user", "assistant"}
_PARTS: Final = frozenset({"input_text", "output_text", "input_image", "input_file", "refusal"})
_ITEMS: Final = frozenset({"function_call", "function_call_output", "reasoning"})


def fits(value: object) -> bool:
    """Say whether a value may be an item of this form."""
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("type"), str) and value["type"] in _ITEMS:
        return True
    content = value.get("content")
    if value.get("role") not in tuple(_ROLES):
        return False
    if isinstance(content, list):
        return all(isinstance(part, Mapping) and part.get("type") in tuple(_PARTS) for part in content)
    return value.get("type", "message") == "message" and isinstance(content, str)


def fits_tables(tables: Tables) -> bool:
    """Say whether tables are of this form."""
    return has(tables, _MESSAGES, "id", "session_id", "message_data")


def read(source: Document | Tables) -> Reading:
    """Read the sessions of a file of tables, or the items of one session."""
    if isinstance(source, Document):
        yield Transcript(None, _items(source))
        return
    rows = source.rows(_MESSAGES, order=("session_id", "id"))
    for session, found in groupby(rows, key=lambda row: row["session_id"]):
        try:
            yield Transcript(text_of(session), _rows(found))
        except CodecError as error:
            yield Refused(f"session {session!r}", str(error))


def _items(document: Document) -> Iterator[Piece]:
    for value in document.values():
        if isinstance(value, Refused):
            yield value
        else:
            yield from _item(value.place, value.value, {})


def _rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Piece]:
    for row in rows:
        place = f"row {row['id']} of {_MESSAGES}"
        try:
            _, item = json_in(row, "message_data")
            known = beside(row=row["id"], at=text_in(row, "created_at"))
        except CodecError as error:
            yield Refused(place, str(error))
        else:
            yield from _item(place, item, known)


def _item(place: str, item: object, known: Mapping[str, Any]) -> Iterator[Piece]:
    if not isinstance(item, Mapping):
        yield Refused(place, "an item is an object")
        return
    made = Assembly(place)
    told = {**known, **beside(id=item.get("id"), status=item.get("status"))}
    role = item.get("role")
    match item.get("type", "message"):
        case "message" if isinstance(role, str) and role in _ROLES:
            _add_content(made, item.get("content"), ".content")
            yield from made.pieces("system" if role in _SYSTEM else role, told)
        case "function_call":
            made.call(item.get("call_id"), item.get("name"), item.get("arguments"), "")
            yield from made.pieces("assistant", told)
        case "function_call_output":
            inside = Assembly(f"{place}.output")
            _add_content(inside, item.get("output"), "")
            made.refused += inside.refused
            made.result(item.get("call_id"), inside.blocks)
            yield from made.pieces("user", told)
        case kind:
            yield Refused(place, f"an item of type {str(kind)[:40]} has no place in the Messages API")


def _add_content(made: Assembly, content: object, where: str) -> None:
    if not isinstance(content, list):
        made.words(content, where)
        return
    for n, part in enumerate(content):
        _add_part(made, part if isinstance(part, Mapping) else {}, f"{where}[{n}]")


def _add_part(made: Assembly, part: Mapping[str, Any], where: str) -> None:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            made.words(part.get("text"), where)
        case "refusal":
            made.words(part.get("refusal"), where)
        case "input_image" if isinstance(part.get("image_url"), str):
            made.picture(part["image_url"], where)
        case "input_file" if isinstance(part.get("file_data"), str):
            head, _, data = part["file_data"].rpartition(",")
            media_type = head.removeprefix("data:").removesuffix(";base64") or "application/pdf"
            block = of_data(media_type, data, part.get("filename"))
            if block is None:
                made.refuse(where, "a file that is no picture or PDF has no place in the Messages API")
            else:
                made.add(block)
        case "input_file" if isinstance(part.get("file_url"), str):
            made.add({"type": "document", "source": {"type": "url", "url": part["file_url"]}})
        case kind:
            made.refuse(where, f"a part of type {str(kind)[:40]} has no place in the Messages API")
