"""
Attachments on their way into the log: long strings cut out of a message, kept as blobs, named in its header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

from attrs import evolve, field, frozen

from conversation_store.api.request import Insert
from conversation_store.errors import AttachmentError, DatabaseError
from conversation_store.record import chain, media, splices
from conversation_store.record.splices import Cut, Later, Parted
from conversation_store.record.turns import Splice, splices_of
from conversation_store.storage import blobs
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database

Marks: TypeAlias = Sequence[Sequence[int]]
"""Spans of a message, each as [start, length] in bytes."""


T = TypeVar("T")

ERASURES: Final = 20
"""How often blobs are kept again that were erased before they were used."""


@frozen(kw_only=True)
class Detached:
    """
    A message without its long strings.

    Attributes:
        body: What is stored of it inline.
        blobs: What was cut out, kept already, each with the salt of this use.
        splices: How the header names them.
        marks: The marked spans, by name, where they are in what is stored inline.
    """

    body: bytes
    blobs: Sequence[Blob] = ()
    splices: Sequence[Splice] = ()
    marks: Mapping[str, Marks] = field(factory=dict)

    def fields(self) -> dict[str, object]:
        """Write splices and marks as fields of an entry's header; none for none."""
        fields: dict[str, object] = {name: spans for name, spans in self.marks.items() if spans}
        if self.splices:
            fields["splices"] = [[splice.offset, splice.commitment, splice.encoding] for splice in self.splices]
        return fields

    def inserts(self, database: Database) -> list[Insert]:
        """Give the strings back, to be made while the message is sent."""
        return inserts(database, self.splices, self.blobs)


def detach(
    database: Database,
    scope: str,
    of: UUID,
    body: bytes,
    *,
    at: int,
    salt: Callable[[], bytes],
    shortest: int = splices.SHORTEST,
    marks: Mapping[str, Marks] | None = None,
) -> Detached:
    """
    Cut the long strings out of a message and keep them as blobs, each once.

    They are committed before the entry that uses them; a blob that then is not used is swept later.

    Args:
        database: Where they are kept.
        scope: The tenant.
        of: The conversation it is said in.
        body: The message.
        at: When, microseconds since the epoch.
        salt: Makes 32 bytes for each use of a blob.
        shortest: Characters of base64 from which a string is cut out.
        marks: Spans of the message that the header will name (``ours``, ``omit``), as [start, length].

    Raises:
        DatabaseError: The database refused.
    """
    marks = marks or {}
    parted = Parted.of(body, shortest, marks=[span for spans in marks.values() for span in spans])
    return keep(database, scope, of, parted, at=at, salt=salt, marks=marks)


def keep(
    database: Database,
    scope: str,
    of: UUID,
    parted: Parted,
    *,
    at: int,
    salt: Callable[[], bytes],
    marks: Mapping[str, Marks] | None = None,
) -> Detached:
    """
    Keep the long strings that were cut out of a message; as ``detach``.

    Raises:
        DatabaseError: The database refused.
    """
    marks = marks or {}
    if not parted.cuts:
        return Detached(body=parted.body, marks=marks)
    kept, named = [], []
    for each in parted.cuts:
        blob = blobs.put(database, scope, of, each.data, at)
        own_salt = salt()
        commitment = chain.part(own_salt, blob.media_type, blob.digest)
        kept.append(evolve(blob, salt=own_salt, load=partial(_data_of, each)))
        named.append(Splice(each.offset, commitment.hex(), each.encoding))
    moved = {name: splices.moved(spans, parted.cuts) for name, spans in marks.items()}
    return Detached(body=parted.body, blobs=kept, splices=named, marks=moved)


def while_kept(database: Database, scope: str, of: UUID, used: Sequence[Blob], work: Callable[[], T], *, at: int) -> T:
    """
    Do what needs blobs that no entry uses yet; those that somebody erases meanwhile are kept again.

    Raises:
        DatabaseError: The database refused; ``erased`` where others were faster time and again.
    """
    for _ in range(ERASURES):
        try:
            return work()
        except DatabaseError as error:
            if error.reason != "erased":
                raise
        for blob in used:
            if blob.load is not None:
                blobs.put(database, scope, of, blob.load(), at)
    return work()


def _data_of(each: Cut | Later) -> bytes:
    return each.data


def drafted(parted: Parted) -> tuple[list[Splice], list[Insert]]:
    """Say how a message that is not kept yet would be sent: its splices, without commitments, and their strings."""
    named = [Splice(each.offset, "", each.encoding) for each in parted.cuts]
    return named, [_draft_of(each) for each in parted.cuts]


def _draft_of(each: Cut | Later) -> Insert:
    data = each.data
    try:
        known = media.measure(data) if each.encoding == "base64" else None
    except AttachmentError:
        known = None
    return Insert(lambda: (each.data,), len(data), each.encoding, known)


def inserts(database: Database, cuts: Sequence[Splice], used: Sequence[Blob]) -> list[Insert]:
    """Say how each spliced string is made from its blob."""
    return [
        Insert(
            partial(blobs.chunks, database, evolve(blob, load=None)),
            blob.size,
            splice.encoding,
            blob.media,
            blob.digest,
        )
        for splice, blob in zip(cuts, used, strict=True)
    ]


def inserts_of(database: Database, header: bytes, used: Sequence[Blob]) -> list[Insert]:
    """The same for an entry that was read: from its header and the blobs it uses."""
    return inserts(database, splices_of(header), used) if used else []
