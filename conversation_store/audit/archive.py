"""
Zip archives of one layout alone: the same members give the same bytes, and one other byte is found.

Members are stored and not compressed, their names ascend, dates are 1980-01-01, and every length is in the 64-bit
fields of APPNOTE 6.3.10 section 4.5.3, however small it is. So a reader knows every byte of a header before it reads
it, nothing can be hidden between members, and no member unpacks to more than the file is long. ``evidence.md`` gives
the layout byte by byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final
from zlib import crc32

from attrs import define, field, frozen

from conversation_store.errors import CodecError

MOST_MEMBERS: Final = 1_000_000
LONGEST_DIRECTORY: Final = 256 * 1024 * 1024
"""Limits of what is read: members, and bytes of the directory at the end."""

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_SIZES: Final = struct.Struct("<2H2Q")
_PLACE: Final = struct.Struct("<2H3Q")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END: Final = struct.Struct("<4s4H2LH")
_TAIL: Final = _END_64.size + _LOCATOR.size + _END.size

_VERSION: Final = 45
_UTF_8: Final = 0x0800
_STORED: Final = 0
_DATE: Final = 0x0021
_MAX_16: Final = 0xFFFF
_MAX_32: Final = 0xFFFFFFFF
_READ: Final = 1024 * 1024


@frozen(kw_only=True)
class Member:
    """
    One file in an archive.

    Attributes:
        name: Its name, ASCII.
        size: Bytes.
        crc: CRC-32 of them.
        offset: Where its header begins in the archive.
    """

    name: str
    size: int
    crc: int
    offset: int

    @property
    def local(self) -> bytes:
        """The header before its bytes."""
        name = self.name.encode()
        fixed = (b"PK\3\4", _VERSION, _UTF_8, _STORED, 0, _DATE, self.crc, _MAX_32, _MAX_32, len(name), _SIZES.size)
        return _LOCAL.pack(*fixed) + name + _SIZES.pack(1, 16, self.size, self.size)

    @property
    def central(self) -> bytes:
        """The header in the directory at the end."""
        name = self.name.encode()
        fixed = (b"PK\1\2", _VERSION, _VERSION, _UTF_8, _STORED, 0, _DATE, self.crc, _MAX_32, _MAX_32)
        return (
            _CENTRAL.pack(*fixed, len(name), _PLACE.size, 0, 0, 0, 0, _MAX_32)
            + name
            + _PLACE.pack(1, 24, self.size, self.size, self.offset)
        )

    @property
    def start(self) -> int:
        """Where its bytes begin."""
        return self.offset + _LOCAL.size + len(self.name) + _SIZES.size

    @property
    def end(self) -> int:
        """Where they end, and the next header begins."""
        return self.start + self.size


def _tail(members: int, start: int, size: int) -> bytes:
    """Write what follows the directory, which begins at *start* and has *size* bytes."""
    return (
        _END_64.pack(b"PK\6\6", _END_64.size - 12, _VERSION, _VERSION, 0, 0, members, members, size, start)
        + _LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
        + _END.pack(b"PK\5\6", 0, 0, _MAX_16, _MAX_16, _MAX_32, _MAX_32, 0)
    )


@define
class Writer:
    """
    Writes an archive, member after member, in the order of their names.

    Attributes:
        file: Where to; it can be written and sought in. What is before its position is left alone.
        members: Those that are written.
        size: Bytes of the archive, once it is closed.
    """

    file: BinaryIO
    members: list[Member] = field(factory=list, init=False)
    size: int = field(default=0, init=False)
    _start: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._start = self.file.tell()

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a member, piece by piece; its name comes after those of all before it."""
        offset = self.members[-1].end if self.members else 0
        self.file.write(Member(name=name, size=0, crc=0, offset=offset).local)
        size = crc = 0
        for piece in pieces:
            self.file.write(piece)
            size, crc = size + len(piece), crc32(piece, crc)
        member = Member(name=name, size=size, crc=crc, offset=offset)
        self.file.seek(self._start + offset)
        self.file.write(member.local)
        self.file.seek(self._start + member.end)
        self.members.append(member)

    def close(self) -> None:
        """Write the directory."""
        start = self.members[-1].end if self.members else 0
        size = 0
        for each in self.members:
            header = each.central
            self.file.write(header)
            size += len(header)
        self.file.write(_tail(len(self.members), start, size))
        self.size = start + size + _TAIL


@define
class Reader:
    """
    Reads an archive of this layout and of no other.

    Attributes:
        file: It can be read and sought in.
        members: By name, in their order.
    """

    file: BinaryIO
    members: dict[str, Member] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """
        Read the directory, and every header.

        Raises:
            CodecError: It is no archive of this layout; with the byte at which that was noticed.
            OSError: The file cannot be read.
        """
        length = self.file.seek(0, os.SEEK_END)
        data, start = self._directory(length)
        at = end = 0
        before = ""
        while at < len(data):
            member = _member(data, at, start)
            if member.offset != end or member.end > start or member.name <= before:
                raise CodecError("members that do not follow one another", start + at)
            if self._at(end, member.start - end) != member.local:
                raise CodecError("a header that is not the one in the directory", end)
            self.members[member.name] = member
            at, end, before = at + len(member.central), member.end, member.name
        if end != start:
            raise CodecError("bytes that belong to no member", end)
        if self._at(start + len(data), _TAIL) != _tail(len(self.members), start, len(data)):
            raise CodecError("an end of another layout", start + len(data))

    def _at(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(size)

    def _directory(self, length: int) -> tuple[bytes, int]:
        """Find the directory: its bytes, and where it begins."""
        if length < _TAIL:
            raise CodecError("no archive: too short", length)
        try:
            told = _END_64.unpack(self._at(length - _TAIL, _END_64.size))
        except struct.error:
            raise CodecError("no archive: it became shorter", length) from None
        signature, count, size, start = told[0], *told[7:]
        if signature != b"PK\6\6" or start + size != length - _TAIL:
            raise CodecError("no archive of this layout", length - _TAIL)
        if count > MOST_MEMBERS or size > LONGEST_DIRECTORY:
            raise CodecError("more members than are read", length - _TAIL)
        return self._at(start, size), start

    def pieces(self, name: str) -> Iterator[bytes]:
        """
        Read a member, 1 MiB at a time.

        Raises:
            CodecError: Its bytes have another CRC-32 than its header; after the last piece.
        """
        member = self.members[name]
        at, crc = member.start, 0
        while at < member.end:
            piece = self._at(at, min(_READ, member.end - at))
            if not piece:
                break
            crc = crc32(piece, crc)
            at += len(piece)
            yield piece
        if at != member.end or crc != member.crc:
            raise CodecError(f"{name} is not what its header says", member.start)

    def read(self, name: str) -> bytes:
        """Read a member whole; errors as ``pieces``."""
        return b"".join(self.pieces(name))

    def lines(self, name: str, longest: int) -> Iterator[bytes]:
        """
        Read a member line by line, each without the line feed that ends it.

        Raises:
            CodecError: A line has more than *longest* bytes, or the last one does not end; or as ``pieces``.
        """
        rest = bytearray()
        for piece in self.pieces(name):
            *whole, last = piece.split(b"\n")
            for line in whole:
                rest += line
                _refuse_longer(rest, longest)
                yield bytes(rest)
                rest.clear()
            rest += last
            _refuse_longer(rest, longest)
        if rest:
            raise CodecError("a last line that does not end")


def _refuse_longer(line: bytearray, longest: int) -> None:
    if len(line) > longest:
        raise CodecError(f"a line of more than {longest} bytes")


def _member(data: bytes, at: int, start: int) -> Member:
    """Read a header of the directory."""
    try:
        fixed = _CENTRAL.unpack_from(data, at)
        name = data[at + _CENTRAL.size : at + _CENTRAL.size + fixed[10]].decode("ascii")
        _, _, size, _, offset = _PLACE.unpack_from(data, at + _CENTRAL.size + fixed[10])
    except (struct.error, UnicodeDecodeError):
        raise CodecError("a directory of another layout", start + at) from None
    member = Member(name=name, size=size, crc=fixed[7], offset=offset)
    if data[at : at + len(member.central)] != member.central:
        raise CodecError("a directory of another layout", start + at)
    return member
