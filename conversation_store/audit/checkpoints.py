"""
Where conversations stood when they were verified, as an auditor keeps it out of the database's reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from attrs import field, frozen

from conversation_store.errors import ContentError
from conversation_store.record import canonical, chain

_FORMAT: Final = 1


@frozen
class Checkpoint:
    """
    Where conversations stood when they were verified: an auditor's own memory, to be kept out of the database's reach.

    Attributes:
        heads: By conversation, how many entries its log had and the digest of the last one.
        scope: The tenant they belong to.
    """

    heads: Mapping[UUID, tuple[int, bytes]] = field(factory=dict, repr=lambda heads: f"<{len(heads)}>")
    scope: str = ""

    def json(self) -> bytes:
        """Write it as JSON, the same bytes for the same heads."""
        heads = {of.hex: [length, digest.hex()] for of, (length, digest) in self.heads.items()}
        return canonical.header(
            {"conversation_store": "checkpoint", "format": _FORMAT, "heads": heads, "scope": self.scope}
        )

    @classmethod
    def read(cls, data: bytes) -> Checkpoint:
        """
        Read what ``json`` wrote.

        Raises:
            ContentError: It is no checkpoint, or one of a later release.
        """
        try:
            said = canonical.object_of(data)
            if (said["conversation_store"], said["format"]) != ("checkpoint", _FORMAT):
                raise ContentError("checkpoint", "is none that this release reads")
            heads = {UUID(hex=of): (_length(length), _digest(head)) for of, (length, head) in said["heads"].items()}
            return cls(heads, str(said["scope"]))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ContentError):
                raise
            raise ContentError("checkpoint", f"is none: {error}") from None


def _length(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a length is a number from 0 on")
    return value


def _digest(value: str) -> bytes:
    digest = bytes.fromhex(value)
    if len(digest) != chain.DIGEST:
        raise ValueError("a digest has 32 bytes")
    return digest
