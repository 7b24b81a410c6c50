"""
JSON files of any size, value by value: lines, the items of an array, or one value; each with its place.

Nothing but the value in hand is in memory. A value that cannot be read is told, and the next one is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from io import SEEK_SET
from itertools import chain, islice
from typing import Any, BinaryIO, Final

from attrs import field, frozen

from conversation_store.errors import CodecError
from conversation_store.formats.transcripts import Refused
from conversation_store.record import canonical

LONGEST: Final = 64 * 1024 * 1024
"""Bytes that a line or an item may have; a longer one is told and passed over, and never in memory."""

_CHUNK: Final = 1024 * 1024
_LOOKED_AT: Final = 50
_BOM: Final = b"\xef\xbb\xbf"
_sign: Final = re.compile(rb'["\[\]{},]')
_in_string: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


@frozen
class Value:
    """
    A value of a document.

    Attributes:
        place: Where it stands: ``line 7`` or ``[6]``.
        data: Its bytes.
        value: What they say.
        line: The number of its line, from 1; 0 where lines do not count.
        start: Where it begins in the file, in bytes, where lines count.
    """

    place: str
    data: bytes = field(repr=False)
    value: Any = field(repr=False)
    line: int = 0
    start: int = 0

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.data)


@frozen
class Document:
    """
    A file of JSON.

    Attributes:
        file: Open for reading bytes, and seekable.
        name: What the file is called; empty where it has no name.
        progress: Is told how many bytes were read.
    """

    file: BinaryIO
    name: str = ""
    progress: Callable[[int], None] = field(default=lambda _read: None, repr=False)

    def part(self, start: int, size: int) -> bytes:
        """Read a piece of the file again."""
        self.file.seek(start, SEEK_SET)
        return self.file.read(size)

    def lines(self) -> Iterator[Value | Refused]:
        """Read a line at a time; empty ones are passed over."""
        start, number = self._begin(), 0
        while data := self.file.readline(LONGEST + 1):
            number += 1
            size = len(data)
            place = f"line {number}"
            if size > LONGEST:
                size += self._rest_of_line()
                yield Refused(place, f"it is longer than {LONGEST} bytes")
            elif data.strip():
                yield _read(place, data, number, start)
            start += size
            self.progress(start)

    def _rest_of_line(self) -> int:
        size = 0
        while data := self.file.readline(_CHUNK):
            size += len(data)
            if data.endswith(b"\n"):
                break
        return size

    def _begin(self) -> int:
        self.file.seek(0, SEEK_SET)
        start = len(_BOM) if self.file.read(len(_BOM)) == _BOM else 0
        self.file.seek(start, SEEK_SET)
        return start

    def values(self) -> Iterator[Value | Refused]:
        """Read the items of an array; else the lines, where they are objects; else the one value there is."""
        start = self._begin()
        first = _CHUNK * b" "
        while first and not first.strip():
            start = self.file.tell()
            first = self.file.read(_CHUNK)
        if first.lstrip().startswith(b"["):
            self.file.seek(start, SEEK_SET)
            yield from self._items()
        elif self._has_objects(1):
            yield from self.lines()
        else:
            whole = self._whole()
            if isinstance(whole, Refused) and self._has_objects(_LOOKED_AT):
                yield from self.lines()
            elif whole is not None:
                yield whole

    def from_first(self) -> tuple[list[Refused], Value | None, Iterator[Value | Refused]]:
        """Give what cannot be read before the first value, that value, and all values from it on."""
        values = self.values()
        before: list[Refused] = []
        for value in values:
            if isinstance(value, Value):
                return before, value, chain([value], values)
            before.append(value)
        return before, None, values

    def _has_objects(self, lines: int) -> bool:
        found = islice(self.lines(), lines)
        return any(isinstance(each, Value) and isinstance(each.value, Mapping) for each in found)

    def _whole(self) -> Value | Refused | None:
        start = self._begin()
        data = self.file.read(LONGEST + 1)
        self.progress(start + len(data))
        if len(data) > LONGEST:
            return Refused("line 1", f"it is longer than {LONGEST} bytes")
        return _read("line 1", data, 1, start) if data.strip() else None

    def _items(self) -> Iterator[Value | Refused]:
        number = 0
        for data in self._slices():
            place = f"[{number}]"
            if data is None:
                yield Refused(place, f"it is longer than {LONGEST} bytes")
            elif data.strip():
                yield _read(place, data)
            else:
                number -= 1  # the space of an empty array, or after a last comma
            number += 1

    def _slices(self) -> Iterator[bytes | None]:
        """Cut an array into its items; None for one that is too long. What follows the array is an item, and none."""
        scanner = _Scanner()
        while chunk := self.file.read(_CHUNK):
            self.progress(self.file.tell())
            yield from scanner.feed(chunk)
        yield from scanner.end()


def _read(place: str, data: bytes, line: int = 0, start: int = 0) -> Value | Refused:
    try:
        return Value(place, data, canonical.loads(data), line, start)
    except CodecError as error:
        return Refused(place, str(error))


class _Scanner:
    """Finds the items of an array as its bytes come in."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = 0
        self._depth = 0
        self._quoted = False
        self._too_long = False

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """Go on with the next bytes; give the items that end in them."""
        self._held += chunk
        while (found := self._next()) is not None:
            sign, at = found
            if sign == b'"':
                self._quoted = True
            elif sign in b"[{":
                self._depth += 1
                if self._depth == 1:
                    self._cut(at + 1)
            elif sign in b"]}":
                self._depth -= 1
                if self._depth == 0:
                    yield self._cut(at + 1, at)
            elif self._depth == 1:
                yield self._cut(at + 1, at)
        if len(self._held) > LONGEST:
            del self._held[: self._at]
            self._at, self._too_long = 0, True

    def end(self) -> Iterator[bytes | None]:
        """Give what is left: it is no item, since nothing ended it."""
        if self._too_long or self._held.strip():
            yield self._cut(len(self._held), len(self._held))

    def _cut(self, upto: int, end: int = 0) -> bytes | None:
        item, too_long = bytes(self._held[:end]), self._too_long
        del self._held[:upto]
        self._at, self._too_long = 0, False
        return None if too_long else item

    def _next(self) -> tuple[bytes, int] | None:
        """Find the next sign outside of strings; None where more bytes are needed."""
        if self._quoted:
            found = _in_string.match(self._held, self._at)
            self._at = found.end() if found else self._at
            if self._held[self._at : self._at + 1] != b'"':
                return None  # the string goes on, or its last byte so far is the backslash of an escape
            self._quoted = False
            self._at += 1
        sign = _sign.search(self._held, self._at)
        if sign is None:
            self._at = len(self._held)
            return None
        self._at = sign.end()
        return sign.group(), sign.start()


def first_values(document: Document, count: int) -> list[Any]:
    """Read the first values of a document that can be read."""
    found = (each.value for each in islice(document.values(), 4 * count) if isinstance(each, Value))
    return list(islice(found, count))
