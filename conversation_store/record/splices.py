"""
Long strings cut out of a message's bytes, and put back byte for byte.

A picture is sent with every request of its conversation; kept as text it would be stored as often. So its
base64 text is cut out, decoded, and named in the entry's header by the place it came from. The only door to
the base64 library.
"""

from __future__ import annotations

import re
from binascii import Error as BadBase64
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, TypeAlias

import pybase64
from attrs import field, frozen

Encoding: TypeAlias = Literal["base64", "raw"]

SHORTEST: Final = 1024
"""Characters of base64 from which a caller's string is kept as a blob."""

SHORTEST_RECEIVED: Final = 64 * 1024
"""The same for what the API sent: signatures and encrypted results never repeat, so that only size counts."""

LONGEST_INLINE: Final = 1024 * 1024
"""Bytes above which any other string is kept as a blob."""

GROUP: Final = 3 * 64 * 1024
"""Bytes encoded at a time; a multiple of 3, so that the pieces of base64 join without padding."""

_whole_string: Final = re.compile(rb'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_base64: Final = re.compile(rb'(?<=")[A-Za-z0-9+/]{1000,}+={0,2}(?=")')


@frozen
class Cut:
    """
    A string taken out of a body.

    Attributes:
        offset: Where in the shortened body it was.
        data: The bytes to keep: decoded, or the string as it stood.
        encoding: How to get the string back from them.
    """

    offset: int
    data: bytes
    encoding: Encoding


@frozen
class Later:
    """
    A string taken out of a body, whose bytes are made again when somebody wants them; else like ``Cut``.

    Attributes:
        offset: Where in the shortened body it was.
        encoding: How to get the string back from its bytes.
        size: How many bytes.
        load: Makes them.
    """

    offset: int
    encoding: Encoding
    size: int
    load: Callable[[], bytes] = field(repr=False, eq=False)

    @property
    def data(self) -> bytes:
        """The bytes to keep."""
        return self.load()


@frozen
class Parted:
    """
    A message without its long strings, and those strings.

    Attributes:
        body: The message, with nothing in their place.
        cuts: The strings, in the order of their offsets.
    """

    body: bytes
    cuts: Sequence[Cut | Later] = ()

    @classmethod
    def of(cls, body: bytes, shortest: int = SHORTEST, *, marks: Iterable[Sequence[int]] = ()) -> Parted:
        """Take the long strings out of a body; see ``cut``."""
        return cls(*cut(body, shortest, marks=marks))


def encode(data: bytes) -> bytes:
    """Write bytes as base64."""
    return pybase64.b64encode(data)


def decode(text: bytes) -> bytes | None:
    """Read base64; None unless writing the result again gives the same text."""
    try:
        data = pybase64.b64decode(text, validate=True)
    except BadBase64:
        return None
    return data if pybase64.b64encode(data) == text else None


def length(size: int, encoding: Encoding) -> int:
    """Say how many bytes of JSON a blob of *size* bytes becomes."""
    return (size + 2) // 3 * 4 if encoding == "base64" else size


def text(chunks: Iterable[bytes], encoding: Encoding) -> Iterator[bytes]:
    """Turn a blob's chunks into the string's bytes again, a few hundred KiB at a time."""
    if encoding == "raw":
        yield from chunks
        return
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) - len(data) % 3
        for start in range(0, whole, GROUP):
            yield pybase64.b64encode(data[start : min(start + GROUP, whole)])
        rest = data[whole:]
    if rest:
        yield pybase64.b64encode(rest)


def cut(body: bytes, shortest: int = SHORTEST, *, marks: Iterable[Sequence[int]] = ()) -> tuple[bytes, list[Cut]]:
    """
    Take the long strings out of a body.

    A run of base64 of *shortest* characters or more whose decoding encodes back to the same text, and any
    other string over ``LONGEST_INLINE``.

    Args:
        body: JSON, or any bytes.
        shortest: Characters of base64 from which a string is taken out.
        marks: Spans of the body, as (start, length); a string that one of them begins or ends in stays.

    Returns:
        The shortened body, and the cuts in the order of their offsets; inserting each at its offset
        gives the body again.
    """
    if len(body) < shortest:
        return body, []
    found: list[tuple[int, int, bytes, Encoding]] = [
        (run.start(), run.end(), data, "base64")
        for run in _base64.finditer(body)
        if run.end() - run.start() >= shortest and (data := decode(run.group())) is not None
    ]
    if len(body) - sum(end - start for start, end, _, _ in found) > LONGEST_INLINE:
        runs = {end: start for start, end, _, _ in found}
        for start, end in _strings(body):
            if end - start > LONGEST_INLINE and runs.get(end) != start:
                # A run may end a longer string that holds an escaped quote; then the whole string goes.
                found = [each for each in found if each[1] != end]
                found.append((start, end, body[start:end], "raw"))
        found.sort()
    for begin, size in marks:
        end = begin + size
        found = [each for each in found if each[1] <= begin or end <= each[0] or (begin < each[0] and each[1] < end)]
    kept, cuts, at, offset = [], [], 0, 0
    for start, end, data, encoding in found:
        kept.append(body[at:start])
        offset += start - at
        cuts.append(Cut(offset, data, encoding))
        at = end
    return b"".join([*kept, body[at:]]) if cuts else body, cuts


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    for found in _whole_string.finditer(body):
        yield found.span(1)


def moved(marks: Iterable[Sequence[int]], cuts: Sequence[Cut | Later]) -> list[list[int]]:
    """Say where spans of a body are in the shortened one, as [start, length]; ``cut`` was told of them."""

    def place(at: int) -> int:
        gone = 0
        for each in cuts:
            size = length(len(each.data), each.encoding)
            if each.offset + gone + size > at:
                break
            gone += size
        return at - gone

    return [[place(begin), place(begin + size) - place(begin)] for begin, size in marks]
