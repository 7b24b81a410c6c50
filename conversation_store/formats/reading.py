"""
What a transcript shows, whatever it is written as.

Who made each turn, its words apart from what was put in the model's mouth, and everything else folded under a line
that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import frozen

from conversation_store.formats.wording import attached, counted, prefill_of, words_of
from conversation_store.record import canonical, media
from conversation_store.record.blocks import (
    Block,
    Document,
    Image,
    McpToolResult,
    McpToolUse,
    RedactedThinking,
    SearchResult,
    ServerToolResult,
    ServerToolUse,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)
from conversation_store.record.codec import blocks_of, value_of
from conversation_store.record.turns import Origin, Turn

PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What a browser may show; read from the bytes, whatever the block says."""

USUAL: Final = {("user", Origin.HUMAN), ("assistant", Origin.MODEL), ("system", Origin.SYSTEM)}

_SHOWN: Final = frozenset({"model", "max_tokens"})


@frozen(kw_only=True)
class Cover:
    """What stands above a transcript."""

    id: UUID
    key: str | None
    title: str | None
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What to call the conversation."""
        return self.title or self.key or str(self.id)

    @property
    def system(self) -> str:
        """The system prompt's words; empty where there is none."""
        return "".join(words_of(each.text) for each in blocks_of(self.settings.get("system")) if isinstance(each, Text))

    @property
    def facts(self) -> Iterator[tuple[str, str]]:
        """What is known of it beside what was said: names and values."""
        yield "id", str(self.id)
        if self.key is not None:
            yield "key", self.key
        for name in sorted(_SHOWN & set(self.settings)):
            yield name, words_of(self.settings[name])
        tools = self.settings.get("tools")
        if isinstance(tools, (list, tuple)):
            names = [words_of(tool.get("name") or tool.get("type")) for tool in tools if isinstance(tool, Mapping)]
            yield "tools", ", ".join(names)


@frozen
class Erased:
    """Where a turn was erased: its place in its log, when it was recorded, who had made it, and whose log that is."""

    position: int
    at: int
    origin: str
    conversation: UUID


@frozen(kw_only=True)
class Verdict:
    """
    What verifying found, to stand above a transcript.

    Attributes:
        at: When it was verified, microseconds since the epoch, UTC.
        entries: How many entries the record has; ``requests`` how many bodies were made again.
        faults: For each fault its conversation, its position (-1 for the conversation's row) and what it is.
    """

    at: int
    entries: int
    requests: int
    faults: Sequence[tuple[UUID, int, str]] = ()

    @property
    def sound(self) -> str:
        """What is proved where there is no fault."""
        return (
            f"no fault: the chain and all commitments of {self.entries:,} entries were computed again, the bodies of "
            f"{counted(self.requests, 'request')} made again and held against what was sent"
        )

    @property
    def changed(self) -> str:
        """What is to be thought of it where there is one."""
        return f"{counted(len(self.faults), 'fault')}: the record is not what was written"


@frozen
class Words:
    """Words; those of ``ours`` came before the model's own and were put in its mouth."""

    text: str
    ours: str = ""


@frozen
class Picture:
    """A picture: what it is, and its bytes and media type where a browser may show it."""

    name: str
    data: bytes | None = None
    media_type: str = ""


@frozen
class Named:
    """Something that is only named."""

    name: str


@frozen
class Folded:
    """Something under a line that names it. ``kind`` is ``thinking``, ``call``, ``result`` or ``other``."""

    kind: str
    name: str
    text: str
    inside: tuple[Piece, ...] = ()


Piece: TypeAlias = "Words | Picture | Named | Folded"


def pieces_of(turn: Turn) -> Iterator[Piece]:
    """Take a turn apart, in the order it is sent."""
    words, ours = prefill_of(turn)
    for index, block in enumerate(turn.content):
        if not isinstance(block, Text):
            yield _piece(block)
            continue
        text = words_of(block.text)
        mine = text if index < ours else words
        if mine and text.startswith(mine):
            yield Words(text[len(mine) :], mine)
            words = ""
        else:
            yield Words(text)


def _piece(block: Block) -> Piece:
    match block:
        case Text():
            return Words(words_of(block.text))
        case Image():
            return _picture(block)
        case Document():
            return _document(block)
        case Thinking():
            return Folded("thinking", "thinking", words_of(block.thinking))
        case RedactedThinking():
            return Named("thinking that only the API can read")
    return _tool(block)


def _tool(block: Block) -> Piece:
    match block:
        case ToolUse() | ServerToolUse() | McpToolUse():
            return Folded("call", f"calls {words_of(block.name)}", words_of(block.input or {}))
        case ToolResult() | McpToolResult():
            kind = "an error" if block.is_error is True else "a result"
            inside = tuple(_piece(each) for each in blocks_of(block.content))
            return Folded("result", f"{kind} for {words_of(block.tool_use_id)}", "", inside)
        case ServerToolResult():
            return Folded("result", f"{block.type} for {words_of(block.tool_use_id)}", words_of(block.content))
        case SearchResult():
            inside = tuple(_piece(each) for each in blocks_of(block.content))
            return Folded("other", f"search result: {words_of(block.title)}", words_of(block.source), inside)
    value = value_of(block)
    return Folded("other", words_of(value.get("type")), words_of(value))


def _picture(block: Image) -> Piece:
    data = block.data if isinstance(block.source, Mapping) else None
    kind = None if data is None else media.sniff(data)
    name = f"image: {attached(block)}"
    return Picture(name, data, kind) if data is not None and kind in PICTURES else Picture(name)


def _document(block: Document) -> Piece:
    titled = f" {block.title}" if isinstance(block.title, str) else ""
    name = f"document{titled}: {attached(block)}"
    source = block.source if isinstance(block.source, Mapping) else {}
    if source.get("type") == "text":
        return Folded("other", name, words_of(source.get("data")))
    if source.get("type") == "content":
        return Folded("other", name, "", tuple(_piece(each) for each in blocks_of(source.get("content"))))
    return Named(name)


def origin_line(turn: Turn, pieces: tuple[Piece, ...]) -> str:
    """Say whose words a turn is, where the role alone does not."""
    told = [] if (turn.role, turn.origin) in USUAL else [turn.origin.value]
    if turn.reason:
        told[-1:] = [f"{turn.origin.value}: {turn.reason}"]
    if any(isinstance(piece, Words) and piece.ours for piece in pieces):
        told.append("begun by a prefill")
    return ", ".join(told)


def source_of(turn: Turn) -> str:
    """Say where an imported turn came from; empty where nothing is known of it."""
    about = canonical.object_of(turn.about) if turn.about else {}
    return words_of(about["source"]) if "source" in about else ""
