"""
What the log alone tells of its exchanges: the rows of the ledger, made again from the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from attrs import define, evolve, field, frozen

from conversation_store import outcomes
from conversation_store.api import request as requests
from conversation_store.record import canonical
from conversation_store.record.chain import Entry
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.turns import fields_of


@frozen
class Began:
    """
    An exchange that begins.

    Attributes:
        exchange: As it was begun.
        whole: Whether nothing was erased that its row is made of.
    """

    exchange: Exchange
    whole: bool = True


@frozen
class Ended:
    """
    An exchange that ends, or in whose place another one begins.

    Attributes:
        exchange: As it reads from then on.
        outcome: The position of its outcome; None for none.
        whole: Whether nothing was erased that this was made of.
    """

    exchange: Exchange
    outcome: int | None
    whole: bool = True


@define
class Exchanges:
    """
    The exchanges of one log, as its entries are taken one after the other.

    Attributes:
        conversation: Whose log.
        settings_at: Reads the body of the settings at a position; None where it was erased.
        open: The exchange that has begun and has no outcome so far.
    """

    conversation: UUID
    settings_at: Callable[[int], bytes | None]
    open: Exchange | None = None
    _settings: tuple[int, bytes | None] | None = field(default=None, init=False)
    _outcome: tuple[Entry, Mapping[str, Any]] | None = field(default=None, init=False)

    @property
    def waits(self) -> bool:
        """Whether an outcome was taken, and the turn made of it may follow."""
        return self._outcome is not None

    def take(self, entry: Entry, fields: Mapping[str, Any] | None = None) -> Iterator[Began | Ended]:
        """
        Go on with the next entry; *fields* are its header's, where they were read already.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: What it tells of an exchange cannot be read.
            CodecError: Likewise; it is a ValueError.
        """
        if fields is None:
            fields = fields_of(entry.header) if entry.kind in {"turn", "request", "outcome"} else {}
        yield from self.settle(entry if entry.kind == "turn" and "request" in fields else None)
        if entry.kind == "settings":
            self._settings = (entry.position, entry.body)
        elif entry.kind == "request":
            yield from self._begin(entry, fields)
        elif entry.kind == "outcome":
            self._outcome = (entry, fields)

    def settle(self, turn: Entry | None = None) -> Iterator[Ended]:
        """
        End the exchange whose outcome was the entry before; *turn* is the one the model made of it.

        Raises:
            As ``take``.
        """
        if self._outcome is None:
            return
        entry, fields = self._outcome
        self._outcome = None
        exchange = self.open
        if exchange is None or exchange.position != fields["request"]:
            raise LookupError(fields["request"])
        body = entry.body or b""
        said = canonical.object_of((turn.body if turn is not None else body) or b"{}")
        content = [block for block in said.get("content", ()) if isinstance(block, Mapping)]
        ended = outcomes.derived(exchange, State(fields["state"]), body, content, entry.at)
        self.open = None
        whole = entry.body is not None and (turn is None or turn.body is not None)
        yield Ended(evolve(ended, turn=None if turn is None else turn.position), entry.position, whole)

    def _begin(self, entry: Entry, fields: Mapping[str, Any]) -> Iterator[Began | Ended]:
        if self.open is not None:
            # Another one took its place: whether it was answered nobody knows.
            yield Ended(evolve(self.open, state=State.UNKNOWN), None)
        about = canonical.object_of(entry.about) if entry.about else {}
        settings = self._body_of_settings(fields["settings"])
        params = canonical.object_of(requests.merged(settings or b"{}", entry.body or b"{}"))
        self.open = Exchange(
            conversation=self.conversation,
            position=entry.position,
            state=State.PENDING,
            model=str(params.get("model", "")),
            begun=entry.at,
            body_length=int(fields["length"]),
            sent_by=str(fields["sent_by"]),
            streamed=bool(fields.get("stream")),
            retry_of=fields.get("retry_of"),
            idempotency_key=about.get("idempotency_key"),
        )
        whole = settings is not None and all(
            getattr(entry, name) is not None for name in ("about", "body") if name in fields
        )
        yield Began(self.open, whole)

    def _body_of_settings(self, position: int) -> bytes | None:
        if self._settings is None or self._settings[0] != position:
            self._settings = (position, self.settings_at(position))
        return self._settings[1]
