"""
Legal holds: what a conversation holds is not erased while one stands. Each is an entry of its log.

A hold is a ``note`` whose header says ``{"hold": true}``, a release one that says ``{"release": [positions]}``; who
and why stand in the ``about`` of both, and no erasure takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection

from conversation_store.errors import ContentError, HeldError
from conversation_store.record import canonical
from conversation_store.record.chain import Entry, draft
from conversation_store.record.turns import fields_of
from conversation_store.storage import identity, log


@frozen(kw_only=True)
class Hold:
    """
    A legal hold that stands.

    Attributes:
        conversation: On which conversation.
        position: The entry that records it.
        at: When it was put there, microseconds since the epoch, UTC.
        by: Who asked for it.
        reason: Why.
    """

    conversation: UUID
    position: int
    at: int
    by: str
    reason: str


def is_hold(fields: Mapping[str, Any]) -> bool:
    """Say whether the header of a note is that of a hold or of a release."""
    return "hold" in fields or "release" in fields


def holds_of(connection: Connection, conversation: UUID) -> list[Hold]:
    """Read the holds that stand on a conversation, oldest first."""
    standing: dict[int, Hold] = {}
    for note in log.read_kind(connection, conversation, "note", 0):
        fields = fields_of(note.header)
        if "hold" in fields:
            standing[note.position] = _hold(conversation, note)
        for position in fields.get("release", ()):
            standing.pop(position, None)
    return list(standing.values())


def _hold(conversation: UUID, note: Entry) -> Hold:
    said = canonical.object_of(note.about) if note.about else {}
    by, reason = str(said.get("by", "")), str(said.get("reason", ""))
    return Hold(conversation=conversation, position=note.position, at=note.at, by=by, reason=reason)


def refuse_held(connection: Connection, conversations: Iterable[UUID]) -> None:
    """
    Make sure that no hold stands on some conversations.

    Raises:
        HeldError: One does; it names the oldest of the first that is held.
    """
    for each in conversations:
        for hold in holds_of(connection, each):
            raise HeldError(each, hold.position, hold.by, hold.reason)


def hold_draft(by: str, reason: str) -> Entry:
    """
    Write the entry of a hold.

    Raises:
        ContentError: Nobody is named, or no reason.
    """
    return _note({"hold": True}, by, reason)


def release_draft(holds: Sequence[Hold], by: str, reason: str) -> Entry:
    """
    Write the entry that releases holds.

    Raises:
        ContentError: Nobody is named, or no reason.
    """
    return _note({"release": [hold.position for hold in holds]}, by, reason)


def _note(fields: Mapping[str, Any], by: str, reason: str) -> Entry:
    about = why(by, reason)
    return draft("note", at=identity.now(), salt=identity.new_salt(), fields=fields, about=about)


def why(by: str, reason: str) -> dict[str, str]:
    """
    Take who does something and why, as an ``about`` records it.

    Raises:
        ContentError: Nobody is named, or no reason.
    """
    for name, value in (("by", by), ("reason", reason)):
        if not isinstance(value, str) or not value.strip():
            raise ContentError(name, "give words: the record says who did it, and why")
    return {"by": by, "reason": reason}
