"""
Messages in the API's own shape: an array of them, the body of a request, or one of either a line.

Content keeps its bytes. A body's other parameters are settings there, and become settings here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from conversation_store.errors import CodecError
from conversation_store.formats.documents import Document, Value
from conversation_store.formats.transcripts import Piece, Reading, Refused, Told, Transcript, beside, said, string
from conversation_store.record import canonical
from conversation_store.record.codec import KEYS, ROLES

FORM: Final = "messages"

_NOT_SET: Final = frozenset({"messages", "stream", "id"})


def fits(value: object) -> bool:
    """Say whether a value may be a message of this form, or a body that holds some."""
    if not isinstance(value, Mapping):
        return False
    messages, content = value.get("messages"), value.get("content")
    if isinstance(messages, list):
        return "system" in value or all(fits(each) for each in messages[:50])
    blocks = isinstance(content, list) and all(
        isinstance(block, Mapping) and isinstance(block.get("type"), str) and block["type"] in KEYS for block in content
    )
    return isinstance(value.get("role"), str) and value["role"] in ROLES and (blocks or isinstance(content, str))


def read(document: Document) -> Reading:
    """Read an array of messages, or bodies with theirs."""
    before, first, values = document.from_first()
    yield from before
    if first is None:
        return
    if isinstance(first.value, Mapping) and "messages" in first.value:
        for value in values:
            yield value if isinstance(value, Refused) else _body(value)
    else:
        yield Transcript(None, _messages(values))


def _body(value: Value) -> Transcript | Refused:
    body = value.value
    if not isinstance(body, Mapping) or not isinstance(body.get("messages"), list):
        return Refused(value.place, "a body has an array of messages")
    settings = {name: each for name, each in body.items() if name not in _NOT_SET}
    found = canonical.members(value.data)["messages"]
    array = value.data[found.start : found.end]
    messages = (
        Value(f"{value.place}.messages[{n}]", array[item.start : item.end], item.value)
        for n, item in enumerate(canonical.items(array))
    )
    return Transcript(string(body.get("id")), _messages(messages), settings=settings)


def _messages(values: Iterable[Value | Refused]) -> Iterator[Piece]:
    for value in values:
        if isinstance(value, Refused):
            yield value
            continue
        try:
            yield _message(value)
        except CodecError as error:
            yield Refused(value.place, str(error))


def _message(value: Value) -> Told:
    if not isinstance(value.value, Mapping):
        raise CodecError("a message is an object")
    told: dict[str, Any] = beside(**{name: each for name, each in value.value.items() if name.isidentifier()})
    for name in ("role", "content", "place", "form", "file"):
        told.pop(name, None)
    return said(value.data, value.place, told)
