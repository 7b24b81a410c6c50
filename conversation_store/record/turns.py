"""
Turns: one role's contribution, who made it, and the bytes it is sent as.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen

from conversation_store.errors import CodecError
from conversation_store.record import canonical, splices
from conversation_store.record.blocks import Block, Text
from conversation_store.record.chain import Entry
from conversation_store.record.codec import blocks_of
from conversation_store.record.view import Place, View, spans


class Origin(StrEnum):
    """Who made a turn; the values are what is stored."""

    HUMAN = "human"
    MODEL = "model"
    SYNTHETIC = "synthetic"
    """An assistant turn the model did not write."""
    PREFILL = "prefill"
    """The beginning of an answer, put in the model's mouth; it belongs to one request alone."""
    TOOL = "tool"
    SYSTEM = "system"
    SUMMARY = "summary"
    IMPORTED = "imported"


PREFILL_MARK: Final = b'"origin":"prefill"'
"""How a prefill shows in a header. Headers hold nothing a person wrote, so the bytes cannot occur otherwise."""


@frozen
class Splice:
    """
    A string that was cut out of a body and is kept as a blob.

    Attributes:
        offset: Where it belongs in the stored body.
        commitment: The header's commitment to the blob, hexadecimal.
        encoding: How the blob's bytes become the string again.
    """

    offset: int
    commitment: str
    encoding: splices.Encoding


@frozen(kw_only=True)
class Turn:
    """
    One role's contribution to a conversation.

    Attributes:
        conversation: Whose log it stands in (in a fork, turns of the parent are the parent's).
        position: Its place in that log.
        origin: Who made it.
        at: When it was recorded, microseconds since the epoch, UTC.
        header: The log entry's header, as stored.
        body: The message's bytes as stored: without the strings kept as blobs, with what is never resent.
        about: What people wrote beside it, as stored JSON; None for nothing.
    """

    conversation: UUID
    position: int
    origin: Origin
    at: int
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    about: bytes | None = field(default=None, repr=False)
    _strings: Callable[[], Sequence[bytes]] = field(default=lambda: (), repr=False, eq=False)

    @property
    def role(self) -> str:
        """``user``, ``assistant`` or ``system``."""
        return role_of(self.body)

    @property
    def wire(self) -> bytes:
        """The message's exact JSON bytes, as every request of this conversation carries them."""
        return wire_of(self.header, self.body, self._strings)

    @property
    def received(self) -> bytes:
        """The content's JSON bytes as the API sent them: what is never resent included, what is ours left out."""
        message = wire_of(self.header, self.body, self._strings, without="ours")
        content = canonical.members(message)["content"]
        return message[content.start : content.end]

    @property
    def content(self) -> tuple[Block, ...]:
        """The blocks that are sent; a string is one text block."""
        return blocks_of(canonical.object_of(self.wire).get("content"))

    @property
    def text(self) -> str:
        """All words of the turn: its text blocks, joined."""
        return "".join(block.text for block in self.content if isinstance(block, Text))

    @property
    def place(self) -> Place:
        """Whose log it stands in, and where."""
        return self.conversation, self.position

    @property
    def stands_for(self) -> View | None:
        """The turns in whose place a summary is sent, as spans; None for any other turn."""
        return spans(fields_of(self.header)["stands_for"]) if b'"stands_for"' in self.header else None

    @property
    def reason(self) -> str | None:
        """Why a synthetic turn was made, as its maker said."""
        return self._said("reason")

    def _said(self, name: str) -> str | None:
        value = canonical.object_of(self.about).get(name) if self.about else None
        return value if isinstance(value, str) else None


_ROLES: Final = ((b'{"role":"user"', "user"), (b'{"role":"assistant"', "assistant"), (b'{"role":"system"', "system"))


def role_of(body: bytes) -> str:
    """Read whose message a body is."""
    for beginning, role in _ROLES:
        if body.startswith(beginning):
            return role
    return str(canonical.members(body)["role"].value)


def fields_of(header: bytes) -> Mapping[str, Any]:
    """
    Read a header.

    Raises:
        CodecError: It is no JSON object.
    """
    return canonical.object_of(header)


def splices_of(header: bytes) -> list[Splice]:
    """Read which strings of a body are kept as blobs."""
    if b'"splices"' not in header:
        return []
    return [Splice(*each) for each in fields_of(header)["splices"]]


def spans_of(header: bytes, name: str) -> list[tuple[int, int]]:
    """Read the ``ours`` or ``omit`` spans of a header as (start, end) in the stored body."""
    if b'"%s"' % name.encode() not in header:
        return []
    return [(start, start + length) for start, length in fields_of(header).get(name, ())]


def parts_of(header: bytes, body: bytes, *, without: str = "omit") -> list[bytes | Splice]:
    """
    Take a stored body apart: its bytes, and the strings between them that are kept as blobs.

    *without* names the spans left out: ``omit`` for what is sent, ``ours`` for what was received.
    """
    left_out = spans_of(header, without)
    cuts = splices_of(header)
    if not left_out and not cuts:
        return [body]
    parts: list[bytes | Splice] = []
    at = 0
    marks: list[tuple[int, int, Splice | None]] = [(start, end, None) for start, end in left_out]
    marks += [(splice.offset, splice.offset, splice) for splice in cuts]
    for start, end, splice in sorted(marks, key=lambda mark: mark[:2]):
        if start < at:
            continue  # inside a span that is left out
        parts.append(body[at:start])
        if splice is not None:
            parts.append(splice)
        at = end
    return [part for part in (*parts, body[at:]) if part]


def wire_of(header: bytes, body: bytes, strings: Callable[[], Sequence[bytes]], *, without: str = "omit") -> bytes:
    """Put a message together as it is sent; *strings* gives the spliced strings, in the order of the header."""
    parts = parts_of(header, body, without=without)
    if len(parts) == 1 and isinstance(parts[0], bytes):
        return parts[0]
    known = dict(zip((splice.offset for splice in splices_of(header)), strings(), strict=True))
    return b"".join(known[part.offset] if isinstance(part, Splice) else part for part in parts)


def turn_of(
    conversation: UUID,
    entry: Entry,
    strings: Callable[[], Sequence[bytes]] = lambda: (),
    origin: Origin | None = None,
) -> Turn:
    """
    Look at a log entry of kind ``turn`` whose body was not erased; *origin* where it is known, else it is read.

    Raises:
        CodecError: Its header does not say who made it.
    """
    if origin is None:
        try:
            origin = Origin(fields_of(entry.header)["origin"])
        except (KeyError, ValueError):
            raise CodecError(f"the header of entry {entry.position} names no origin") from None
    return Turn(
        conversation=conversation,
        position=entry.position,
        origin=origin,
        at=entry.at,
        header=entry.header,
        body=entry.body or b"",
        about=entry.about,
        strings=strings,
    )


def model_turn(
    content: bytes, prefill: str | Sequence[Any] | None, omit: Sequence[int]
) -> tuple[bytes, list[list[int]], list[list[int]]]:
    """
    Make the body of a model's turn from the raw bytes of its content.

    A prefill is joined to the front, text to text; the bytes it adds are told apart from the answer's.

    Args:
        content: The ``content`` array as received, whitespace included.
        prefill: The prefill's ``content`` (a string or a list of text blocks); None for none.
        omit: Indices of blocks that are kept and never sent back.

    Returns:
        The body, its ``ours`` spans and its ``omit`` spans, each as [start, length].
    """
    opening = b'{"role":"assistant","content":'
    blocks = canonical.items(content)
    body = opening + content + b"}"
    starts = [len(opening) + block.start for block in blocks]
    ends = [len(opening) + block.end for block in blocks]
    left_out = _left_out(starts, ends, omit)
    ours: list[list[int]] = []
    if prefill is not None:
        at, added = _joined(content, prefill, omit)
        at += len(opening)
        body = body[:at] + added + body[at:]
        ours = [[at, len(added)]]
        left_out = [[start + len(added) if start >= at else start, length] for start, length in left_out]
    return body, ours, left_out


def _left_out(starts: Sequence[int], ends: Sequence[int], omit: Sequence[int]) -> list[list[int]]:
    """Say which bytes go when some blocks of an array are left out, each with the comma that goes with it."""
    left_out = []
    for n in omit:
        kept_before = [each for each in range(n) if each not in omit]
        if any(each not in omit for each in range(n + 1, len(starts))):
            left_out.append([starts[n], starts[n + 1] - starts[n]])
        elif kept_before:
            start = ends[n - 1]
            left_out.append([start, ends[n] - start])
        else:
            left_out.append([starts[n], ends[n] - starts[n]])
    return left_out


THINKING: Final = frozenset({"thinking", "redacted_thinking"})


def without_thinking(header: bytes, body: bytes) -> bytes | None:
    """
    Write a turn's header so that it is sent without its thinking.

    Returns:
        The header, in which thinking is among the spans left out; None where nothing of the turn would be left.
    """
    content = canonical.members(body)["content"]
    if not isinstance(content.value, list):
        return header
    blocks = canonical.items(body[content.start : content.end])
    starts = [content.start + block.start for block in blocks]
    ends = [content.start + block.end for block in blocks]
    before = spans_of(header, "omit")
    thinking = {n for n, block in enumerate(blocks) if isinstance(block.value, dict) and _thinks(block.value)}
    if not thinking:
        return header
    omit = [n for n in range(len(blocks)) if n in thinking or any(start <= starts[n] < end for start, end in before)]
    if len(omit) == len(blocks):
        return None
    fields = {**fields_of(header), "omit": _left_out(starts, ends, omit), "thinking": False}
    return canonical.header(fields)


def _thinks(block: Mapping[str, Any]) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and kind in THINKING


def _is_text(block: object) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str)


def _joined(content: bytes, prefill: str | Sequence[Any], omit: Sequence[int]) -> tuple[int, bytes]:
    """Say where in *content* the prefill goes, and as which bytes."""
    said: list[Any] = [{"type": "text", "text": prefill}] if isinstance(prefill, str) else list(prefill)
    blocks = canonical.items(content)
    first = next((block for n, block in enumerate(blocks) if n not in omit), None)
    value = first.value if first is not None else None
    # What is ours must be one run of bytes: a prefill of several blocks is put in front whole.
    if len(said) == 1 and first is not None and _is_text(said[0]) and _is_text(value):
        text = canonical.members(content[first.start : first.end])["text"]
        return first.start + text.start + 1, canonical.dumps(said[0]["text"])[1:-1]
    at = blocks[0].start if blocks else content.index(b"[") + 1
    whole = b",".join(canonical.dumps(block) for block in said)
    return at, whole + (b"," if blocks else b"")
