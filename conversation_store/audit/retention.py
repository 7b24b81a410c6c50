"""
Retention: how long what is kept is kept. Nothing is deleted by itself; somebody looks first, and applies it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen, validators

from conversation_store.audit.erase import Erasure, Target, erase
from conversation_store.audit.holds import Hold, holds_of
from conversation_store.errors import ContentError
from conversation_store.storage import erasure as storage
from conversation_store.storage import identity, log
from conversation_store.storage.engine import Database

PAGE: Final = 200
"""Conversations looked at in one reading."""


def _positive(_policy: Any, _attribute: Any, value: timedelta) -> None:
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ContentError("older_than", "give a timedelta longer than none")


@frozen(kw_only=True)
class Retention:
    """
    What is kept too long.

    Attributes:
        older_than: How long it may be kept.
        key_prefix: Only conversations whose key begins with it; empty for all, those without a key too.
        turns: Erase single turns that were recorded longer ago. False erases whole conversations that nobody changed
            for so long; a conversation that goes on loses nothing.

    Raises:
        ContentError: A time that is none.
    """

    older_than: timedelta = field(validator=_positive)
    key_prefix: str = field(default="", validator=validators.instance_of(str))
    turns: bool = False


@frozen(kw_only=True)
class Due:
    """
    A conversation of which something is kept too long.

    Attributes:
        id: The conversation; ``key`` the host's name for it, None for none.
        updated: When it was last changed, microseconds since the epoch, UTC.
        positions: Its turns that are due; None for all it holds.
        hold: The legal hold that keeps it; None for none.
    """

    id: UUID
    key: str | None
    updated: int
    positions: frozenset[int] | None
    hold: Hold | None


@frozen
class Retained:
    """
    A policy on its way: ``preview`` says what is due, ``apply`` erases it.

    Attributes:
        policy: What is kept too long.
    """

    policy: Retention
    _database: Database = field(repr=False)
    _scope: str = field(repr=False)

    def preview(self) -> Sequence[Due]:
        """Say what is due now; what is held is among it, and stays."""
        return tuple(self._due())

    def apply(self, *, reason: str, by: str) -> Erasure:
        """
        Erase what is due now and not held, one conversation after the other.

        Args:
            reason: Why; the record of each keeps it.
            by: Who asked for it; likewise.

        Returns:
            What went.

        Raises:
            ContentError, BusyError, UnknownOutcomeError, ConfigurationError: As ``Store.erase``; what was erased before
                stays erased.
            HeldError: A fork that would be reached is held.
        """
        wanted = [Target(conversation=due.id, positions=due.positions) for due in self._due() if due.hold is None]
        return erase(self._database, self._scope, wanted, by=by, reason=reason) if wanted else Erasure()

    def _due(self) -> Iterator[Due]:
        before = identity.now() - self.policy.older_than // timedelta(microseconds=1)
        last: UUID | None = None
        while True:
            with self._database.read() as connection:
                # A turn is never newer than its conversation's last change; the other way round it may well be.
                page = storage.last_changed(connection, self._scope, None if self.policy.turns else before, last, PAGE)
                found = []
                for of in page:
                    kept = log.find(connection, self._scope, of)
                    if kept is None or not (kept.key or "").startswith(self.policy.key_prefix):
                        continue
                    positions = storage.said_before(connection, of, before) if self.policy.turns else None
                    if positions or (positions is None and storage.anything(connection, of)):
                        hold = next(iter(holds_of(connection, of)), None)
                        due = None if positions is None else frozenset(positions)
                        found.append(Due(id=of, key=kept.key, updated=kept.updated, positions=due, hold=hold))
            yield from found
            if len(page) < PAGE:
                return
            last = page[-1]
