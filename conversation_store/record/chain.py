"""
Entries, commitments, and the hash chain over them.

Rule: hash the stored bytes, store the hashed bytes. Verifying never serialises anything again.
The tags and the order of the fields below are the format; changing one makes every stored digest wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from struct import Struct
from typing import Final
from uuid import UUID

from attrs import frozen

from conversation_store.record import canonical

JSON_TYPE: Final = "application/json"
DIGEST: Final = 32
"""Bytes of a digest, and of a salt."""

_PART: Final = b"conversation_store/part/v1\0"
_GENESIS: Final = b"conversation_store/genesis/v1\0"
_ENTRY: Final = b"conversation_store/entry/v1\0"
_LINK: Final = b"conversation_store/link/v1\0"


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def part(salt: bytes, media_type: str, digest: bytes) -> bytes:
    """Commit to bytes whose SHA-256 is *digest*; without the 32-byte *salt* nothing can be guessed from it."""
    kind = media_type.encode()
    return sha256(_PART + salt + _u64(len(kind)) + kind + digest).digest()


_JSON: Final = _u64(len(JSON_TYPE)) + JSON_TYPE.encode()


def part_of(salt: bytes, data: bytes) -> bytes:
    """Commit to *data*, which is JSON."""
    return sha256(_PART + salt + _JSON + sha256(data).digest()).digest()


def genesis(conversation: UUID) -> bytes:
    """Say what the first entry of a conversation is chained to."""
    return sha256(_GENESIS + conversation.bytes).digest()


def entry_digest(conversation: UUID, position: int, at: int, kind: str, header: bytes) -> bytes:
    """Digest one entry by itself. What people wrote is in it only through the header's commitments."""
    name = kind.encode()
    return sha256(
        _ENTRY + conversation.bytes + _u64(position) + _u64(at) + _u64(len(name)) + name + _u64(len(header)) + header
    ).digest()


def link(previous: bytes, entry: bytes) -> bytes:
    """Chain an entry's digest to the digest before it."""
    return sha256(_LINK + previous + entry).digest()


KINDS: Final = frozenset({"opened", "turn", "settings", "labelled", "view", "request", "outcome", "erased", "note"})
"""Every kind of entry there is."""

_NAMES: Final = {kind: _u64(len(kind)) + kind.encode() for kind in KINDS}
_numbers: Final = Struct(">QQ").pack
_length: Final = Struct(">Q").pack


class Links:
    """Chains the entries of one conversation as they are read: ``link`` of ``entry_digest``, in one step and faster."""

    def __init__(self, conversation: bytes) -> None:
        self._beginning = _ENTRY + conversation

    def after(self, previous: bytes, position: int, at: int, kind: str, header: bytes) -> bytes:
        """
        Chain an entry to the digest before it.

        Raises:
            KeyError, TypeError, struct.error: Something is not of its type, or no kind, or no number a log has.
        """
        entry = sha256(self._beginning + _numbers(position, at) + _NAMES[kind] + _length(len(header)) + header).digest()
        return sha256(_LINK + previous + entry).digest()


@frozen(kw_only=True)
class Entry:
    """
    One row of the log, as stored.

    Attributes:
        position: Its place in the conversation's log, from 0.
        kind: ``opened``, ``turn``, ``settings``, ``labelled``, ``view``, ``request``, ``outcome``, ``erased``
            or ``note``.
        at: When it was made, microseconds since the epoch, UTC, by the clock of the process that made it.
        header: Small JSON that holds nothing a person wrote.
        body: The content's JSON bytes; None where the kind has none or where it was erased.
        about: JSON of what people wrote beside the content; None likewise.
        salt: 32 bytes under which body and about are committed to; None once erased.
        request_salt: 32 bytes under which a request's body is committed to.
        digest: The chain's digest up to and including this entry.
    """

    position: int
    kind: str
    at: int
    header: bytes
    body: bytes | None = None
    about: bytes | None = None
    salt: bytes | None = None
    request_salt: bytes | None = None
    digest: bytes = b""


def draft(
    kind: str,
    *,
    at: int,
    salt: bytes,
    fields: Mapping[str, object],
    body: bytes | None = None,
    about: Mapping[str, object] | None = None,
    request_salt: bytes | None = None,
) -> Entry:
    """
    Make an entry that has no place in a log yet: its header commits to its body and its about.

    Nothing in it depends on its position, so that it may be chained again at another one.
    """
    header = dict(fields)
    if body is not None:
        header["body"] = part_of(salt, body).hex()
    written = {name: value for name, value in about.items() if value is not None} if about else None
    about_bytes = canonical.dumps(written) if written else None
    if about_bytes is not None:
        header["about"] = part_of(salt, about_bytes).hex()
    return Entry(
        position=-1,
        kind=kind,
        at=at,
        header=canonical.header(header),
        body=body,
        about=about_bytes,
        salt=None if body is None and about_bytes is None else salt,
        request_salt=request_salt,
    )


def chain(conversation: UUID, position: int, head: bytes, drafts: Iterable[Entry]) -> list[Entry]:
    """
    Give *drafts* their positions and digests, from *position* on after the digest *head*.

    Returns:
        The entries as they are to be stored, in order; the last one's digest is the new head.
    """
    entries = []
    links = Links(conversation.bytes)
    for each in drafts:
        head = links.after(head, position, each.at, each.kind, each.header)
        entries.append(
            Entry(
                position=position,
                kind=each.kind,
                at=each.at,
                header=each.header,
                body=each.body,
                about=each.about,
                salt=each.salt,
                request_salt=each.request_salt,
                digest=head,
            )
        )
        position += 1
    return entries
