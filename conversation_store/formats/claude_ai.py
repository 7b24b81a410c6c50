"""
Data exports of claude.ai: ``conversations.json``, an array of conversations with their ``chat_messages``.

An answer there may hold calls and their results in one message; here the results are turns of the user between two of
the assistant. Of attachments the export has the words (``extracted_content``), of files only the names.

Source: the shapes of exports that public repositories document and test against (``uuid``, ``sender``, ``content``
with ``start_timestamp``, ``parent_message_uuid`` whose root is all zeros but for the version), 2025-10 to 2026-07.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from conversation_store.formats.documents import Document, Value
from conversation_store.formats.transcripts import (
    Assembly,
    LeftOut,
    Piece,
    Reading,
    Refused,
    Transcript,
    beside,
    string,
)

FORM: Final = "claude-ai"

_ROLES: Final = {"human": "user", "assistant": "assistant"}
_ROOT: Final = "00000000-0000-4000-8000-000000000000"
_PASSED_OVER: Final = ("token_budget",)


def fits(value: object) -> bool:
    """Say whether a value may be a conversation of this form."""
    return isinstance(value, Mapping) and isinstance(value.get("chat_messages"), list)


def read(document: Document) -> Reading:
    """Read an export, a conversation at a time."""
    for value in document.values():
        if isinstance(value, Refused):
            yield value
        elif not fits(value.value):
            yield Refused(value.place, "a conversation of an export has chat_messages")
        else:
            yield _transcript(value, value.value)


def _transcript(value: Value, told: Mapping[str, Any]) -> Transcript:
    name = string(told.get("uuid"))
    return Transcript(name, _pieces(value.place, told["chat_messages"], name), string(told.get("name")))


def _pieces(place: str, messages: Sequence[object], conversation: str | None) -> Iterator[Piece]:
    line = _main_line(messages)
    if len(line) < len(messages):
        yield LeftOut("message of a branch that was left", len(messages) - len(line))
    for n in line:
        message, where = messages[n], f"{place}.chat_messages[{n}]"
        if not isinstance(message, Mapping):
            yield Refused(where, "a message is an object", conversation)
        elif not isinstance(message.get("sender"), str) or message["sender"] not in _ROLES:
            yield Refused(where, "the sender is human or assistant", conversation)
        else:
            yield from _Message(where, conversation, message).pieces()


def _main_line(messages: Sequence[object]) -> list[int]:
    """
    Choose the messages that lead to the newest one, by their parents; all of them where no parents are told.

    What is no message at all stays in its place, to be told.
    """
    places = {
        message["uuid"]: n
        for n, message in enumerate(messages)
        if isinstance(message, Mapping) and isinstance(message.get("uuid"), str)
    }
    parents = [_parent(message) for message in messages]
    if not any(parent in places for parent in parents) or not isinstance(messages[-1], Mapping):
        return list(range(len(messages)))
    line: set[int] = set()
    at: int | None = len(messages) - 1
    while at is not None and at not in line:
        line.add(at)
        at = places.get(parents[at] or "")
    odd = {n for n, message in enumerate(messages) if not isinstance(message, Mapping)}
    return sorted(line | odd)


def _parent(message: object) -> str | None:
    found = message.get("parent_message_uuid") if isinstance(message, Mapping) else None
    return found if isinstance(found, str) and found != _ROOT else None


@define
class _Message:
    """One message of the export, on its way to one turn or several."""

    place: str
    conversation: str | None
    told: Mapping[str, Any]
    _now: Assembly = field(init=False)
    _role: str = field(init=False)
    _last_call: str | None = field(default=None, init=False)
    _calls: int = field(default=0, init=False)

    def pieces(self) -> Iterator[Piece]:
        """Give its turns, and what of it is not taken."""
        self._role = _ROLES[self.told["sender"]]
        self._now = Assembly(self.place, self.conversation)
        content = self.told.get("content")
        if not isinstance(content, list) or not content:
            self._now.words(self.told.get("text"), ".text")
            content = []
        for n, block in enumerate(content):
            if isinstance(block, Mapping) and block.get("type") in _PASSED_OVER:
                continue
            role = "user" if isinstance(block, Mapping) and block.get("type") == "tool_result" else self._sender
            if role != self._role:
                yield from self._ended(role)
            self._block(block if isinstance(block, Mapping) else {}, f".content[{n}]")
        self._attachments()
        yield from self._now.pieces(self._role, self._beside)

    @property
    def _sender(self) -> str:
        return _ROLES[self.told["sender"]]

    @property
    def _beside(self) -> Mapping[str, Any]:
        told = self.told
        return beside(
            id=told.get("uuid"),
            parent=_parent(told),
            at=told.get("created_at"),
            updated=told.get("updated_at"),
        )

    def _ended(self, role: str) -> Iterator[Piece]:
        """End the turn so far, and begin one of another role."""
        if self._now.blocks or self._now.refused:
            yield from self._now.pieces(self._role, self._beside)
        self._role, self._now = role, Assembly(self.place, self.conversation)

    def _block(self, block: Mapping[str, Any], where: str) -> None:
        match block.get("type"):
            case "text":
                self._now.words(block.get("text"), where)
            case "thinking" if isinstance(block.get("signature"), str) and block["signature"]:
                kept = {"type": "thinking", "thinking": block.get("thinking"), "signature": block["signature"]}
                self._now.add(kept)
            case "thinking":
                self._now.refuse(where, "thinking without its signature, which the API takes from nobody")
            case "tool_use":
                self._calls += 1
                name = block.get("id")
                self._last_call = name if isinstance(name, str) and name else self._made_up
                self._now.call(self._last_call, block.get("name"), block.get("input"), where)
            case "tool_result":
                self._result(block, where)
            case kind:
                self._now.refuse(where, f"a block of type {str(kind)[:40]} has no place in the Messages API")

    @property
    def _made_up(self) -> str:
        """Name a call that the export does not name."""
        return f"{string(self.told.get('uuid')) or 'call'}-{self._calls}"

    def _result(self, block: Mapping[str, Any], where: str) -> None:
        answered = block.get("tool_use_id")
        answered = answered if isinstance(answered, str) and answered else self._last_call
        inside = Assembly(f"{self.place}{where}", self.conversation)
        content = block.get("content")
        for n, each in enumerate(content if isinstance(content, list) else [{"type": "text", "text": content}]):
            if isinstance(each, Mapping) and each.get("type") == "text":
                inside.words(each.get("text"), f".content[{n}]")
            else:
                kind = each.get("type") if isinstance(each, Mapping) else type(each).__name__
                inside.refuse(f".content[{n}]", f"a result of type {str(kind)[:40]} has no place in the Messages API")
        self._now.refused += inside.refused
        self._now.result(answered, inside.blocks, where, failed=block.get("is_error") is True)

    def _attachments(self) -> None:
        """Add the words of what was attached, before what was said of it, and tell what the export has no bytes of."""
        documents = []
        named: set[str] = set()
        for n, each in enumerate(_list(self.told.get("attachments"))):
            words = each.get("extracted_content") if isinstance(each, Mapping) else None
            name = string(each.get("file_name")) if isinstance(each, Mapping) else None
            if isinstance(words, str) and words:
                source = {"type": "text", "media_type": "text/plain", "data": words}
                documents.append({"type": "document", "source": source, **({"title": name} if name else {})})
                named.add(name or "")
            else:
                self._now.refuse(f".attachments[{n}]", "the export has no words of it")
        for n, each in enumerate(_list(self.told.get("files"))):
            name = string(each.get("file_name")) if isinstance(each, Mapping) else None
            if (name or "") not in named:
                self._now.refuse(f".files[{n}]", "the export has the name of a file, and not its bytes")
        self._now.blocks = documents + self._now.blocks


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()
