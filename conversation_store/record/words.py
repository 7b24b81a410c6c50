"""
Words: what of an entry can be searched, how it is told apart into words, and how a search is read.

Words are told apart here and not by a database, so that every database finds the same. Letters are compared
without case and width (NFKC, casefold). A run of a script that is written without spaces (Han, kana, hangul, Thai,
Lao, Khmer, Burmese …) becomes its overlapping pairs of characters and its last character: ``日本語`` is ``日本 本語
語``, so that any piece of the run is a phrase of pairs, and a single character the beginning of one. A symbol, an
emoji for one, is a word of its own. All other characters part words and are otherwise ignored.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from attrs import frozen

from conversation_store.errors import CodecError, ContentError
from conversation_store.record import canonical

CLIPPED: Final = 512 * 1024
"""Bytes of an entry's text that are looked at."""

LONGEST_WORD: Final = 64
"""Characters of a word that count."""

MOST_WORDS: Final = 768 * 1024
"""Bytes of an entry's words that are kept; pairs take twice what their run does."""

MOST_PHRASES: Final = 64
"""Phrases a query may be made of."""

_DENSE: Final = ((0x0E00, 0x0F00), (0x1000, 0x1200), (0x1780, 0x1800), (0x19E0, 0x1A00), (0x1A20, 0x1AB0))
_KANA: Final = ((0x3005, 0x3008), (0x3040, 0x3190), (0x31A0, 0x31C0), (0x31F0, 0x3200), (0xA960, 0xA980))
_MORE: Final = ((0xA9E0, 0xAA00), (0xAA60, 0xAA80), (0xD7B0, 0xD800), (0xFF66, 0xFFDD), (0x1B000, 0x1B170))
_WHOLE: Final = "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
_JOINERS: Final = "\u00ad\u200c\u200d\u2060\ufeff\ufe00-\ufe0f\U000e0100-\U000e01ef"
_LATER: Final = 0x20000
"""From here on there are Han characters and nothing else that matters."""

_READ: Final = ("text", "title", "context", "content", "stdout", "stderr", "name", "input", "source", "document_name")
_NOT_READ: Final = frozenset({"thinking", "redacted_thinking", "image"})
_INPUTS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


def _ranges(codes: Iterable[int]) -> str:
    """Write characters as the inside of a regular expression's set."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """Make the expression that tells runs apart; a hundredth of a second, when it is first needed."""
    spaceless = {
        code
        for first, end in (*_DENSE, *_KANA, *_MORE)
        for code in range(first, end)
        if chr(code).isalnum() or unicodedata.category(chr(code)) in {"Mn", "Mc"}
    }
    marks, symbols = [], []
    for code in range(0x80, _LATER):
        kind = unicodedata.category(chr(code))
        if kind in {"Mn", "Mc"} and code not in spaceless and not 0xFE00 <= code <= 0xFE0F:  # noqa: PLR2004
            marks.append(code)
        elif kind == "So":
            symbols.append(code)
    dense = _ranges(sorted(spaceless)) + _WHOLE
    letter, joined = rf"[^\W_{dense}]", f"[{_ranges(marks)}{_JOINERS}]"
    return re.compile(
        rf"(?P<run>[{dense}][{dense}{_JOINERS}]*)|(?P<word>{letter}(?:{letter}+|{joined}+)*)|[{_ranges(symbols)}]"
    )


_joiners: Final = re.compile(f"[{_JOINERS}]")


_plain: Final = re.compile(r"[a-z0-9]+")


@lru_cache(maxsize=4096)
def _folded(run: str) -> str:
    if run.isascii():
        return run.lower()
    composed = unicodedata.normalize("NFKC", _joiners.sub("", run))
    return unicodedata.normalize("NFKC", composed.casefold())


@frozen
class Word:
    """A word as it is compared, where it stands in its text, and whether it is the last character of a run."""

    word: str
    start: int
    end: int
    last: bool = False


def words_of(text: str) -> Iterator[Word]:
    """Tell the words of a text apart."""
    pattern = _pattern()
    for found in pattern.finditer(text):
        run = found.group()
        if run.isascii():
            yield Word(run.lower()[:LONGEST_WORD], found.start(), found.end())
            continue
        folded = _folded(run) if len(run) <= LONGEST_WORD else _folded.__wrapped__(run)
        exact = len(folded) == len(run)
        for part in pattern.finditer(folded):
            start, end = (found.start() + part.start(), found.start() + part.end()) if exact else found.span()
            if part.lastgroup != "run":
                yield Word(part.group()[:LONGEST_WORD], start, end)
                continue
            said = part.group()
            for n in range(len(said) - 1):
                yield Word(said[n : n + 2], start + n if exact else start, start + n + 2 if exact else end)
            yield Word(said[-1], end - 1 if exact else start, end, last=True)


def clipped(text: str) -> str:
    """Take the beginning of a text that is looked at; a lone surrogate parts words, as in every text."""
    if len(text) * 4 <= CLIPPED:
        return text
    return text.encode("utf-8", "replace")[:CLIPPED].decode("utf-8", "ignore")


def indexed(text: str) -> list[str]:
    """Tell the words that an index keeps of a text, in order."""
    text = clipped(text)
    if text.isascii():  # the same, ten times as fast; it cannot outgrow its clipping
        return [word[:LONGEST_WORD] for word in _plain.findall(text.lower())]
    kept, size = [], 0
    for each in words_of(text):
        size += len(each.word.encode())
        if size > MOST_WORDS:
            break
        kept.append(each.word)
    return kept


# --- what is said ------------------------------------------------------------------------------------------------


def said(body: bytes) -> str:
    """
    Read what can be searched in the body of a turn or a label.

    The text of its blocks, also inside tool results and documents; the strings of a tool's input; names and titles.
    Not thinking, signatures or base64. A body that is no JSON says nothing.
    """
    try:
        value = canonical.loads(body)
    except CodecError:
        return ""
    if not isinstance(value, Mapping):
        return ""
    return "\n".join(each for each in _texts(value) if each)


def _texts(value: object, *, every: bool = False) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        kind = value.get("type")
        if kind in _NOT_READ if isinstance(kind, str) else False:
            return
        if kind == "base64":
            return
        for name, inner in value.items():
            if every:
                yield from _texts(inner, every=True)
            elif name in _READ or (name == "data" and kind == "text"):
                yield from _texts(inner, every=name == "input")
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            yield from _texts(inner, every=every)


# --- what is looked for ------------------------------------------------------------------------------------------


@frozen
class Phrase:
    """Words that follow one another; of the last one perhaps only the beginning."""

    words: tuple[str, ...]
    prefix: bool = False

    def places(self, found: Sequence[Word]) -> Iterator[tuple[int, int]]:
        """Find where it stands among the words of a text, as (start, end) in the text."""
        count = len(self.words)
        for n in range(len(found) - count + 1):
            if self._is_at(found, n):
                last = found[n + count - 1]
                end = min(last.end, last.start + len(self.words[-1])) if self.prefix else last.end
                yield found[n].start, end

    def _is_at(self, found: Sequence[Word], n: int) -> bool:
        last = len(self.words) - 1
        for k, word in enumerate(self.words):
            there = found[n + k].word
            if there != word and not (k == last and self.prefix and there.startswith(word)):
                return False
        return True


@frozen
class Query:
    """
    What is looked for: of each group at least one phrase, and none of what is not wanted.

    Attributes:
        groups: Alternatives; none at all finds nothing.
        without: What must not be there.
    """

    groups: tuple[tuple[Phrase, ...], ...]
    without: tuple[Phrase, ...] = ()

    def marks(self, text: str) -> list[tuple[int, int]] | None:
        """Find what is looked for in a text, as (start, end) in order; None where the text is not meant."""
        found = list(words_of(clipped(text)))
        marks: set[tuple[int, int]] = set()
        for group in self.groups:
            here = {place for phrase in group for place in phrase.places(found)}
            if not here:
                return None
            marks |= here
        if any(next(phrase.places(found), None) for phrase in self.without):
            return None
        return sorted(marks)


def phrase_of(text: str) -> Phrase | None:
    """Read any text as a phrase; None where it has no words."""
    found = list(words_of(clipped(text)))
    if not found:
        return None
    if found[-1].last:
        if len(found) == 1 or found[-2].end < found[-1].end:  # a run of one character: the beginning of a pair
            return Phrase(tuple(each.word for each in found), prefix=True)
        found.pop()
    return Phrase(tuple(each.word for each in found))


def literal(text: str) -> Query:
    """Read a text as one literal phrase."""
    phrase = phrase_of(text)
    return Query(() if phrase is None else ((phrase,),))


_pieces: Final = re.compile(r'(?P<minus>-?)(?:"(?P<quoted>[^"]*)"?|(?P<bare>[^\s"]+))(?P<star>\*?)')


def parsed(text: str) -> Query:
    """
    Read a query: words that must all be there, ``"a phrase"``, ``-without``, ``this OR that``, ``begin*``.

    Every text is one: what makes no sense is taken for words.

    Raises:
        ContentError: It has more than ``MOST_PHRASES`` phrases.
    """
    groups: list[list[Phrase]] = []
    without: list[Phrase] = []
    alternative = False
    for found in _pieces.finditer(text):
        bare = found["bare"]
        if bare == "OR" and not found["minus"]:
            alternative = bool(groups)
            continue
        phrase = phrase_of(bare if bare is not None else found["quoted"])
        if phrase is None:
            continue
        if found["star"] or (bare or "").endswith("*"):
            phrase = Phrase(phrase.words, prefix=True)
        if found["minus"]:
            without.append(phrase)
        elif alternative:
            groups[-1].append(phrase)
        else:
            groups.append([phrase])
        alternative = False
    if sum(map(len, groups)) + len(without) > MOST_PHRASES:
        raise ContentError("text", f"a query has {MOST_PHRASES} phrases at most")
    return Query(tuple(map(tuple, groups)), tuple(without))


@frozen
class Snippet:
    """
    A piece of a text around what was found.

    Attributes:
        text: The piece; ``…`` stands for what is left out, and every white space is a space.
        marks: What was found, as (start, length) in the piece.
    """

    text: str
    marks: tuple[tuple[int, int], ...]


_BEFORE: Final = 60
_AFTER: Final = 120
_spaces: Final = re.compile(r"\s")


def snippet(text: str, places: Sequence[tuple[int, int]]) -> Snippet:
    """Cut a piece out of a text around the first of what was found, and mark all that is in it."""
    first = places[0][0] if places else 0
    begin = max(first - _BEFORE, 0)
    if begin:
        space = text.find(" ", begin, first)
        begin = space + 1 if space >= 0 else begin
    end = min(first + _AFTER, len(text))
    if end < len(text):
        space = text.rfind(" ", first, end)
        stop = places[0][1] if places else 0
        end = space if space >= stop and space > first else min(max(end, stop), first + 2 * _AFTER)
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    shift = begin - len(before)
    marks: list[tuple[int, int]] = []
    for start, stop in places:
        cut = min(stop, end)
        if start >= end:
            break
        if marks and start < marks[-1][0] + shift + marks[-1][1]:  # pairs of one run overlap
            joined = marks[-1][0]
            marks[-1] = (joined, max(cut - shift - joined, marks[-1][1]))
        elif cut > start:
            marks.append((start - shift, cut - start))
    return Snippet(before + _spaces.sub(" ", text[begin:end]) + after, tuple(marks))
