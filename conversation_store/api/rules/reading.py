"""From the bytes of a conversation's messages to what rules need to know of them."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, Final

from conversation_store.api.request import Insert, Messages, Part, Piece
from conversation_store.api.rules.findings import Finding
from conversation_store.api.rules.messages import Message, check_shape, message_of
from conversation_store.api.rules.order import Outline
from conversation_store.api.rules.ordinary import is_ordinary
from conversation_store.api.rules.places import Attachment, Place
from conversation_store.errors import CodecError
from conversation_store.record import canonical

_TOKEN: Final = os.urandom(8).hex()
"""What stands in the place of strings that are kept elsewhere begins so: nobody can have written it."""

_KEYS: Final = {"role", "content"}
_BRACES: Final = 2
_COLONS: Final = 4
"""Those of a message and of the one block in it, with nothing but a text."""

_words_of_user: Final = re.compile(rb'\{"role":"user","content":"(?:[^"\\]++|\\.)*+"\}').fullmatch
"""A message of the user's that is a string, and has no other key."""

_mere_text: Final = re.compile(
    rb'\{"role":"(?:user|assistant)","content":(\[\{"type":"text","text":)?"'
    rb'(?:[^\x00-\x20"\\\x7f\xc2\xe1-\xe3]|\xe3(?!\x80\x80)|\xe2(?![\x80\x81]))'
).match
"""
How a message begins that is a text, and whose text begins with a character that is no white space.

Written as a list, it is nothing but that text where no other brace and no other key is in it.
"""


def grow(outline: Outline, messages: Messages) -> None:
    """
    Take in the messages that are complete and were not looked at yet.

    A fresh process does this before its first request, so runs of mere texts are counted and taken in at once.
    """
    closed, buffer, roles, known = messages.closed, messages.buffer, messages.roles, outline.count
    after = closed[known - 1][1] + 1 if known else messages.begin
    passing = False
    for n, (first, end) in enumerate(closed.since(known), known):
        start, after = after, end + 1
        found = _mere_text(buffer, start)
        if found is not None and (found.lastindex is None or _holds_one_text(buffer, start, end)):
            if not passing:
                passing = outline.pass_by(roles[first])
                if not passing:
                    outline.take(_mere(roles[first], n, first), mere=True)
            continue
        if passing:
            outline.pass_to(n, roles[first - 1])
            passing = False
        pieces = _pieces(messages, start, end)
        turns = messages.turns_of_blocks(n)
        if not _take_ordinary(outline, pieces, first):
            outline.take(_read(pieces, n, first, turns, ours=not messages.is_models(first)))
    if passing:
        outline.pass_to(len(closed), roles[messages.first_open - 1])


def is_mere_text(wire: bytes) -> bool:
    """Say whether a message is a string that no rule about a message by itself can find anything in."""
    found = _mere_text(wire)
    return found is not None and found.lastindex is None


def _holds_one_text(buffer: bytearray, start: int, end: int) -> bool:
    return buffer.count(b"{", start, end) == _BRACES and buffer.count(b'":', start, end) == _COLONS


def _take_ordinary(outline: Outline, pieces: Sequence[Piece], turn: int) -> bool:
    if len(pieces) != 1 or not isinstance(pieces[0], bytes):
        return False
    value = canonical.object_of(pieces[0])
    role, content = value.get("role"), value.get("content")
    if type(role) is not str or type(content) is not list or value.keys() != _KEYS:
        return False
    return is_ordinary(role, content) and outline.take_ordinary(role, content, turn)


def tried(outline: Outline, messages: Messages, extra: Sequence[Part]) -> tuple[Outline, int]:
    """
    Look at the messages as they would be with *extra* turns at their end.

    Returns:
        An outline that goes on from the one given, and the bytes of what it has more.
    """
    trial, size = outline.extended(), 0
    for group in messages.tail(extra):
        size += 1 + sum(map(len, group.pieces))
        if _is_words_of_user(group.pieces) and trial.pass_by("user"):
            continue
        ours = group.first is None or not messages.is_models(group.first)
        trial.take(_read(group.pieces, trial.count, group.first, group.turns, ours=ours))
    return trial, size


def _is_words_of_user(pieces: Sequence[Piece]) -> bool:
    # Not of the assistant: what ends a request in its name is looked at as a prefill.
    piece = pieces[0]
    return len(pieces) == 1 and isinstance(piece, bytes) and is_mere_text(piece) and _words_of_user(piece) is not None


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


def faults(pieces: Sequence[Piece], path: str) -> list[Finding]:
    """Hold one message of a caller's to the rules of its shape; *path* leads to it, with a dot at its end."""
    value, attachments = _value(pieces)
    role, plain = str(value.get("role")), isinstance(value.get("content"), str)
    return check_shape(message_of(value, Place(f"{path}content", role, plain=plain, attachments=attachments)))


def _value(pieces: Sequence[Piece]) -> tuple[Mapping[str, Any], dict[str, Attachment]]:
    """Parse a message; names stand in it for the strings that are kept elsewhere."""
    attachments: dict[str, Attachment] = {}
    parts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, Insert):
            name = f"{_TOKEN}:{len(attachments)}"
            attachments[name] = Attachment(len(piece), piece.media)
            parts.append(name.encode())
        else:
            parts.append(piece)
    return canonical.object_of(parts[0] if len(parts) == 1 else b"".join(parts)), attachments


def _read(pieces: Sequence[Piece], n: int, turn: int | None, turns: Sequence[int | None], *, ours: bool) -> Message:
    try:
        value, attachments = _value(pieces)
    except CodecError:
        value, attachments = {}, {}  # a broken history, and found to be one
    plain = isinstance(value.get("content"), str)
    place = Place(f"messages.{n}.content", str(value.get("role")), n, turn, turns, ours, plain, attachments)
    return message_of(value, place)
