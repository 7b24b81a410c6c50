"""
A transcript to read, as Markdown.

Words stand in quotations, so that a heading among them is none of the transcript's; tools and thinking are folded,
pictures are named, and what was put in the model's mouth stands in ⟦ ⟧.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from conversation_store.formats.reading import Cover, Erased, Folded, Picture, Piece, Words, origin_line, pieces_of
from conversation_store.formats.wording import moment
from conversation_store.record.turns import Turn

_fences = re.compile(r"`{3,}")
_marks = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def written(cover: Cover, turns: Iterable[Turn | Erased]) -> Iterator[bytes]:
    """Write a transcript, turn by turn; an erased one keeps its place and has no number."""
    yield _bytes(f"# {_line(cover.name)}\n\n")
    yield _bytes("".join(f"- {name}: {_line(value)}\n" for name, value in cover.facts))
    if cover.system:
        yield _bytes(f"\n## system prompt\n\n{_quoted(cover.system)}")
    number = -1
    for turn in turns:
        if isinstance(turn, Erased):
            yield _bytes(f"\n## erased ({_line(turn.origin)})\n\n*{moment(turn.at)}*\n")
            continue
        number += 1
        pieces = tuple(pieces_of(turn))
        origin = origin_line(turn, pieces)
        told = f" ({_line(origin)})" if origin else ""
        yield _bytes(f"\n## {number}. {_line(turn.role)}{told}\n\n*{moment(turn.at)}*\n\n")
        for piece in pieces:
            yield _bytes(_piece(piece) + "\n")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _line(words: str) -> str:
    """Write words so that they are one line and no markup."""
    return _marks.sub(r"\\\1", " ".join(words.split()))


def _quoted(words: str) -> str:
    return "".join(f"> {line}".rstrip() + "\n" for line in words.splitlines() or [""])


def _piece(piece: Piece) -> str:
    match piece:
        case Words(text, ours):
            return _quoted(f"⟦{ours}⟧{text}" if ours else text)
        case Picture(name):
            return f"*{_line(name)}*\n"
        case Folded(_, name, text, inside):
            fence = "`" * max([3, *(len(run) + 1 for run in _fences.findall(text))])
            code = f"{fence}\n{text}\n{fence}\n\n" if text else ""
            within = "".join(f"{_piece(each)}\n" for each in inside)
            return f"<details><summary>{_line(name)}</summary>\n\n{code}{within}</details>\n"
    return f"*{_line(piece.name)}*\n"
