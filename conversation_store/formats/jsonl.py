"""
Whole conversations as lines of JSON, and back, byte for byte.

The first line names the format. Then, for each conversation: its name, the blobs that no line before told, its log
entry by entry, and its length and head. The last line counts. A line that is not whole says so, and where the last
one is missing something was cut off.

What is stored as JSON stands in a line as it is stored (``"body":{…}``); bytes that would not come back so stand
beside it in base64 (``"body64":"…"``). A program that writes the JSON anew changes the bytes, and is found out by the
commitments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import field, frozen

from conversation_store.errors import CodecError
from conversation_store.record import canonical, splices
from conversation_store.record.chain import Entry

FORMAT: Final = "conversation_store"
VERSION: Final = 1

_DIGEST: Final = 32
_LONGEST: Final = (1 << 63) - 1
_hexadecimal: Final = re.compile(r"(?:[0-9a-f]{2})*")


@frozen
class Opening:
    """The first line: which format this is."""

    version: int


@frozen
class Begun:
    """Where a conversation begins: its id, its key, and the one it was forked from."""

    conversation: UUID
    key: str | None
    parent: UUID | None


@frozen
class Facts:
    """What is known of a blob; its bytes follow in ``Piece`` lines."""

    digest: bytes
    media_type: str
    size: int
    width: int | None = None
    height: int | None = None
    pages: int | None = None


@frozen
class Piece:
    """The next bytes of a blob."""

    digest: bytes
    data: bytes


@frozen
class Logged:
    """
    A log entry.

    Attributes:
        entry: The entry.
        uses: For each blob it uses the digest and the salt of that use.
        fields: Its header, where that was read with the line.
    """

    entry: Entry
    uses: Sequence[tuple[bytes, bytes]] = ()
    fields: Mapping[str, Any] | None = field(default=None, eq=False)


@frozen
class Arrived:
    """What had arrived of an answer that is still pending: a piece of its stream."""

    position: int
    at: int
    data: bytes


@frozen
class Ended:
    """Where a conversation ends: its length and its head."""

    conversation: UUID
    length: int
    head: bytes


@frozen
class Closing:
    """The last line: how much there was, and the head of the last conversation."""

    conversations: int
    entries: int
    blobs: int
    head: bytes | None


Line: TypeAlias = Opening | Begun | Facts | Piece | Logged | Arrived | Ended | Closing


# --- writing -------------------------------------------------------------------------------------------------------


def write(line: Line) -> bytes:
    """Write one line, its newline included."""
    return canonical.compose(_written(line)) + b"\n"


def _written(line: Line) -> dict[str, bytes]:
    if isinstance(line, Logged):
        return _entry(line)
    values: dict[str, object]
    match line:
        case Opening(version):
            values = {"format": FORMAT, "version": version}
        case Begun(conversation, key, parent):
            values = {"conversation": str(conversation), "key": key, "parent": None if parent is None else str(parent)}
        case Facts(digest, media_type, size, width, height, pages):
            values = {"blob": digest.hex(), "media_type": media_type, "size": size}
            values |= {"width": width, "height": height, "pages": pages}
        case Piece(digest, data):
            values = {"piece": digest.hex(), "data": splices.encode(data).decode()}
        case Arrived(position, at, data):
            values = {"arrived": position, "at": at, "data": splices.encode(data).decode()}
        case Ended(conversation, length, head):
            values = {"end": str(conversation), "length": length, "head": head.hex()}
        case Closing(conversations, entries, blobs, last):
            counts = {"conversations": conversations, "entries": entries, "blobs": blobs}
            values = {"closed": counts, "head": None if last is None else last.hex()}
    return _values(**values)


def _values(**values: object) -> dict[str, bytes]:
    return {name: canonical.dumps(value) for name, value in values.items() if value is not None}


def _entry(line: Logged) -> dict[str, bytes]:
    entry = line.entry
    parts = _values(
        entry=entry.position,
        kind=entry.kind,
        at=entry.at,
        digest=entry.digest.hex(),
        salt=None if entry.salt is None else entry.salt.hex(),
        request_salt=None if entry.request_salt is None else entry.request_salt.hex(),
        uses=[[digest.hex(), salt.hex()] for digest, salt in line.uses] or None,
    )
    for name in ("header", "body", "about"):
        data = getattr(entry, name)
        if data is None:
            continue
        if _stands(data):
            parts[name] = data
        else:
            parts[f"{name}64"] = canonical.dumps(splices.encode(data).decode())
    return parts


def _stands(data: bytes) -> bool:
    """Say whether bytes come back as they are when they stand in a line."""
    if not (data.startswith(b"{") and data.endswith(b"}")) or b"\n" in data or b"\r" in data:
        return False
    try:
        canonical.loads(b"[" + data + b"]")  # as deep as it will stand
    except CodecError:
        return False
    return True


# --- reading -------------------------------------------------------------------------------------------------------


def read(line: bytes) -> Line:
    """
    Read one line.

    Raises:
        CodecError: It is no line of this format.
    """
    if (found := _as_written(line)) is not None:
        return found
    members = canonical.members(line)
    if not members:
        raise CodecError("an empty object is no line of this format")
    reader = _READERS.get(next(iter(members)))
    if reader is None:
        raise CodecError(f"no line of this format begins with {next(iter(members))[:40]!r}")
    return reader(_Members(line, members))


_beginning: Final = re.compile(
    r'\{"entry":(0|[1-9][0-9]{0,17}),"kind":"([a-z]+)","at":(0|[1-9][0-9]{0,17}),"digest":"([0-9a-f]{64})"'
    r'(?:,"salt":"([0-9a-f]{64})")?(?:,"request_salt":"([0-9a-f]{64})")?,"header":(?=\{)'
)


def _as_written(line: bytes) -> Logged | None:
    """
    Read an entry without blobs, member by member as ``write`` puts them; None where the line is any other.

    Nearly all lines are, and no member of them is looked for: a third of the time.
    """
    if not line.startswith(b'{"entry":'):
        return None
    text = canonical.text_of(line)
    found = _beginning.match(text)
    if found is None:
        return None
    position, kind, at, digest, salt, request_salt = found.groups()
    try:
        canonical.refuse_deep(line)
        fields, header, end = canonical.object_at(line, text, found.end())
        parts: dict[str, bytes] = {}
        for name in ("body", "about"):
            if text.startswith(f',"{name}":{{', end):
                _, parts[name], end = canonical.object_at(line, text, end + len(name) + 4)
    except CodecError:
        return None  # read member by member, it says where
    if text[end:] not in {"}", "}\n"}:
        return None
    entry = Entry(
        position=int(position),
        kind=kind,
        at=int(at),
        header=header,
        body=parts.get("body"),
        about=parts.get("about"),
        salt=None if salt is None else bytes.fromhex(salt),
        request_salt=None if request_salt is None else bytes.fromhex(request_salt),
        digest=bytes.fromhex(digest),
    )
    return Logged(entry, (), fields)


@frozen
class _Members:
    """The members of a line, read strictly."""

    line: bytes
    members: Mapping[str, canonical.Member]

    def value(self, name: str, kind: type, *, optional: bool = False) -> Any:
        found = self.members.get(name)
        if found is None or (found.value is None and optional):
            if optional:
                return None
            raise CodecError(f"{name} is missing")
        if type(found.value) is not kind:
            raise CodecError(f"{name} is no {kind.__name__}", found.start)
        return found.value

    def number(self, name: str, *, optional: bool = False) -> Any:
        value = self.value(name, int, optional=optional)
        if value is not None and not 0 <= value <= _LONGEST:
            raise CodecError(f"{name} is out of range")
        return value

    def digest(self, name: str, *, optional: bool = False) -> Any:
        value = self.value(name, str, optional=optional)
        return None if value is None else _digest(name, value)

    def identity(self, name: str, *, optional: bool = False) -> Any:
        value = self.value(name, str, optional=optional)
        try:
            return None if value is None else UUID(value)
        except ValueError:
            raise CodecError(f"{name} is no id") from None

    def text(self, name: str, *, optional: bool = False) -> Any:
        value = self.value(name, str, optional=optional)
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise CodecError(f"{name} is no text") from None
        return value

    def data(self, name: str) -> bytes:
        data = splices.decode(self.text(name).encode())
        if data is None:
            raise CodecError(f"{name} is no base64")
        return data

    def part(self, name: str) -> bytes | None:
        if f"{name}64" in self.members:
            return self.data(f"{name}64")
        found = self.members.get(name)
        return None if found is None else self.line[found.start : found.end]


def _digest(name: str, value: object) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * _DIGEST or not _hexadecimal.fullmatch(value):
        raise CodecError(f"{name} is no digest of 32 bytes in hexadecimal")
    return bytes.fromhex(value)


def _opening(members: _Members) -> Opening:
    if members.value("format", str) != FORMAT:
        raise CodecError("this is another format")
    version = members.number("version")
    if version != VERSION:
        raise CodecError(f"version {version} of the format is none that this release reads")
    return Opening(version)


def _begun(members: _Members) -> Begun:
    return Begun(
        members.identity("conversation"),
        members.text("key", optional=True),
        members.identity("parent", optional=True),
    )


def _facts(members: _Members) -> Facts:
    return Facts(
        members.digest("blob"),
        members.text("media_type"),
        members.number("size"),
        members.number("width", optional=True),
        members.number("height", optional=True),
        members.number("pages", optional=True),
    )


def _logged(members: _Members) -> Logged:
    header = members.part("header")
    if header is None:
        raise CodecError("header is missing")
    uses = []
    for use in members.value("uses", list, optional=True) or ():
        if not isinstance(use, list) or len(use) != 2:  # noqa: PLR2004 - a digest and a salt
            raise CodecError("uses are pairs of a digest and a salt")
        uses.append((_digest("uses", use[0]), _digest("uses", use[1])))
    entry = Entry(
        position=members.number("entry"),
        kind=members.text("kind"),
        at=members.number("at"),
        header=header,
        body=members.part("body"),
        about=members.part("about"),
        salt=members.digest("salt", optional=True),
        request_salt=members.digest("request_salt", optional=True),
        digest=members.digest("digest"),
    )
    return Logged(entry, tuple(uses))


def _closing(members: _Members) -> Closing:
    counts = members.value("closed", dict)
    conversations, entries, blobs = (counts.get(name) for name in ("conversations", "entries", "blobs"))
    if not all(type(count) is int for count in (conversations, entries, blobs)):
        raise CodecError("closed counts conversations, entries and blobs")
    return Closing(conversations, entries, blobs, members.digest("head", optional=True))


_READERS: Final[Mapping[str, Callable[[_Members], Line]]] = {
    "format": _opening,
    "conversation": _begun,
    "blob": _facts,
    "piece": lambda members: Piece(members.digest("piece"), members.data("data")),
    "entry": _logged,
    "arrived": lambda members: Arrived(members.number("arrived"), members.number("at"), members.data("data")),
    "end": lambda members: Ended(members.identity("end"), members.number("length"), members.digest("head")),
    "closed": _closing,
}
