"""
Attachments on their way into the log: long strings cut out of a message, kept as blobs, named in its header.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from attrs import frozen

from conversation_store.api.request import Insert
from conversation_store.record import chain, splices
from conversation_store.record.turns import Splice, splices_of
from conversation_store.storage import blobs
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database


@frozen(kw_only=True)
class Detached:
    """
    A message without its long strings.

    Attributes:
        body: What is stored of it inline.
        blobs: What was cut out, kept already, each with the salt of this use.
        splices: How the header names them.
    """

    body: bytes
    blobs: Sequence[Blob] = ()
    splices: Sequence[Splice] = ()

    def fields(self) -> dict[str, object]:
        """Write the splices as a field of an entry's header; none for none."""
        if not self.splices:
            return {}
        return {"splices": [[splice.offset, splice.commitment, splice.encoding] for splice in self.splices]}

    def inserts(self, database: Database) -> list[Insert]:
        """Give the strings back, to be made while the message is sent."""
        return inserts(database, self.splices, self.blobs)


def detach(
    database: Database, scope: str, body: bytes, *, at: int, salt: Callable[[], bytes], shortest: int = splices.SHORTEST
) -> Detached:
    """
    Cut the long strings out of a message and keep them as blobs, each once.

    They are committed before the entry that uses them; a blob that then is not used is swept later.

    Raises:
        DatabaseError: The database refused.
    """
    shortened, cuts = splices.cut(body, shortest)
    if not cuts:
        return Detached(body=body)
    kept, named = [], []
    for each in cuts:
        blob = blobs.put(database, scope, each.data, at)
        own_salt = salt()
        commitment = chain.part(own_salt, blob.media_type, blob.digest)
        kept.append(Blob(blob.scope, blob.digest, blob.size, blob.media_type, own_salt))
        named.append(Splice(each.offset, commitment.hex(), each.encoding))
    return Detached(body=shortened, blobs=kept, splices=named)


def inserts(database: Database, cuts: Sequence[Splice], used: Sequence[Blob]) -> list[Insert]:
    """Say how each spliced string is made from its blob."""
    return [
        Insert(partial(blobs.chunks, database, blob), blob.size, splice.encoding)
        for splice, blob in zip(cuts, used, strict=True)
    ]


def inserts_of(database: Database, header: bytes, used: Sequence[Blob]) -> list[Insert]:
    """The same for an entry that was read: from its header and the blobs it uses."""
    return inserts(database, splices_of(header), used) if used else []
