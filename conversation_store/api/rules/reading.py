"""From the bytes of a conversation's messages to what rules need to know of them."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from conversation_store.api.request import Insert, Messages, Part, Piece
from conversation_store.api.rules.messages import Message, message_of
from conversation_store.api.rules.order import Outline
from conversation_store.api.rules.places import Attachment, Place
from conversation_store.record import canonical

_TOKEN: Final = os.urandom(8).hex()
"""What stands in the place of strings that are kept elsewhere begins so: nobody can have written it."""

_BRACES: Final = 2
"""Those of a message, and of one block in it."""

_mere_text: Final = re.compile(
    rb'\{"role":"(?:user|assistant)","content":(\[\{"type":"text","text":)?"'
    rb'(?:[^\x00-\x20"\\\x7f\xc2\xe1-\xe3]|\xe3(?!\x80\x80)|\xe2(?![\x80\x81]))'
).match
"""
How a message begins that is a text, and whose text begins with a character that is no white space.

Written as a list, it is nothing but that text where no other brace is in it.
"""


def grow(outline: Outline, messages: Messages) -> None:
    """Take in the messages that are complete and were not looked at yet."""
    closed, buffer, roles = messages.closed, messages.buffer, messages.roles
    for n in range(outline.count, len(closed)):
        first, end = closed[n]
        start = closed[n - 1][1] + 1 if n else messages.begin
        found = _mere_text(buffer, start)
        if found is not None and (found[1] is None or buffer.count(b"{", start, end) == _BRACES):
            if not outline.watching:
                outline.pass_by(roles[first])
            else:
                outline.take(_mere(roles[first], n, first), mere=True)
        else:
            after = closed[n + 1][0] if n + 1 < len(closed) else messages.first_open
            pieces = _pieces(messages, start, end)
            outline.take(_read(pieces, n, first, after - first, ours=not messages.is_models(first)))


def tried(outline: Outline, messages: Messages, extra: Sequence[Part]) -> tuple[Outline, int]:
    """
    Look at the messages as they would be with *extra* turns at their end.

    Returns:
        An outline that goes on from the one given, and the bytes of what it has more.
    """
    trial, size = outline.extended(), 0
    for group in messages.tail(extra):
        size += 1 + sum(map(len, group.pieces))
        ours = group.first is None or not messages.is_models(group.first)
        trial.take(_read(group.pieces, trial.count, group.first, max(1, group.turns), ours=ours))
    return trial, size


def _mere(role: str, n: int, turn: int) -> Message:
    place = Place(f"messages.{n}.content", role, n, turn, plain=True)
    return Message({"role": role}, place, [{"type": "text"}])


def _pieces(messages: Messages, start: int, end: int) -> list[Piece]:
    pieces: list[Piece] = []
    inserts = messages.inserts
    for offset, insert in inserts[bisect_left(inserts, start, key=_offset) :] if inserts else ():
        if offset >= end:
            break
        pieces += (bytes(messages.buffer[start:offset]), insert)
        start = offset
    return [*pieces, bytes(messages.buffer[start:end])]


def _offset(each: tuple[int, Insert]) -> int:
    return each[0]


def _read(pieces: Sequence[Piece], n: int, turn: int | None, turns: int, *, ours: bool) -> Message:
    attachments: dict[str, Attachment] = {}
    parts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, Insert):
            name = f"{_TOKEN}:{len(attachments)}"
            attachments[name] = Attachment(len(piece), piece.media)
            parts.append(name.encode())
        else:
            parts.append(piece)
    value = canonical.object_of(parts[0] if len(parts) == 1 else b"".join(parts))
    plain = isinstance(value.get("content"), str)
    place = Place(f"messages.{n}.content", str(value.get("role")), n, turn, turns, ours, plain, attachments)
    return message_of(value, place)
