"""
What came back for a request: as it was received, and proof of a copy that somebody else holds.
"""

from __future__ import annotations

from hashlib import sha256

from attrs import field, frozen

from conversation_store.history import History
from conversation_store.record import canonical, chain
from conversation_store.record.exchange import Exchange
from conversation_store.record.turns import fields_of
from conversation_store.storage import blobs


@frozen(kw_only=True)
class Response:
    """
    The response to one request, as far as it is kept.

    Attributes:
        exchange: The exchange it ended.
        content: The answer's ``content`` as the bytes received; None where there was no answer or it was erased.
        envelope: Every other field of the answer, a JSON object of the bytes received; None likewise.
        raw: The whole response as received, where the store keeps it (``keep_raw=True``); None elsewhere.
        received: ``bytes`` where the response is the message, ``stream`` where its events make it, ``object`` where a
            caller's client took it apart; None where there was no answer.
        length: Bytes of the response; None where its bytes were never here.
    """

    exchange: int
    content: bytes | None = field(repr=False)
    envelope: bytes | None = field(repr=False)
    raw: bytes | None = field(repr=False)
    received: str | None
    length: int | None
    _commitment: str | None = field(default=None, repr=False)
    _salt: bytes | None = field(default=None, repr=False)

    @property
    def provable(self) -> bool:
        """Whether the record can tell this response from any other: its bytes were here, and nothing was erased."""
        return self._commitment is not None and self._salt is not None

    def matches(self, raw: bytes) -> bool:
        """
        Say whether bytes that somebody kept are the response that was received, by the commitment in the log.

        False where they are not, and where nothing can be proved: see ``provable``.
        """
        if self._commitment is None or self._salt is None or len(raw) != self.length:
            return False
        return chain.part(self._salt, chain.JSON_TYPE, sha256(raw).digest()).hex() == self._commitment


def response_to(history: History, exchange: Exchange) -> Response:
    """
    Read what came back for a request.

    Raises:
        CodecError: The exchange has no outcome.
    """
    entry, _ = history.outcome(exchange)
    fields = fields_of(entry.header)
    body = entry.body or b"{}"
    parts = canonical.members(body)
    content = body[parts["content"].start : parts["content"].end] if "content" in parts else None
    if exchange.turn is not None:
        turn = history.entry(exchange.turn)
        content = None if turn.body is None else history.turn(turn).received
    envelope = parts.get("envelope")
    length = fields.get("response_length")
    return Response(
        exchange=exchange.position,
        content=content,
        envelope=None if envelope is None else body[envelope.start : envelope.end],
        raw=_raw(history, entry.position) if "raw" in fields else None,
        received=fields.get("received"),
        length=length,
        commitment=fields.get("response"),
        salt=entry.salt,
    )


def _raw(history: History, outcome: int) -> bytes | None:
    with history.database.read() as connection:
        used = blobs.used(connection, history.id, outcome, outcome).get(outcome)
    # The response is the first blob of an outcome; an erasure takes it.
    return b"".join(blobs.chunks(history.database, used[0])) if used else None
