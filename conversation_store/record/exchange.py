"""
Exchanges as values: the states and the legal moves between them, attempts, usage.

Everything that decides what an exchange may become next is the table ``MOVES`` in this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen

from conversation_store.record.cost import NOT_KNOWN, Cost, Price


class State(StrEnum):
    """What is known about an exchange; the values are what is stored."""

    PENDING = "pending"
    """Begun; a token and a lease say whose it is and until when."""
    ANSWERED = "answered"
    """The API answered; a turn was appended unless the answer was empty."""
    REJECTED = "rejected"
    """The API refused the request itself (400, 413, 422); the turns sent are set aside."""
    REFUSED = "refused"
    """The model declined (``stop_reason: refusal``); the answer is in the record, not in the view."""
    FAILED = "failed"
    """No answer. It did not run, or (``maybe_billed``) it may have."""
    INTERRUPTED = "interrupted"
    """An answer began and broke off; what arrived is kept."""
    UNKNOWN = "unknown"
    """The lease is over and there is no outcome: it may have been answered and billed."""


MOVES: Final[Mapping[State, frozenset[State]]] = {
    State.PENDING: frozenset(State) - {State.PENDING},
    State.UNKNOWN: frozenset(State) - {State.PENDING, State.UNKNOWN},
    State.ANSWERED: frozenset(),
    State.REJECTED: frozenset(),
    State.REFUSED: frozenset(),
    State.FAILED: frozenset(),
    State.INTERRUPTED: frozenset(),
}
"""Which state may follow which. What has an outcome never changes; a retry is a new exchange."""


@frozen(kw_only=True)
class Attempt:
    """
    One try to send a request.

    Attributes:
        at: When it began, microseconds since the epoch, UTC.
        took: Microseconds until the outcome of this try was known.
        status: The HTTP status, None where none came.
        fault: What went wrong without a status: ``not sent``, ``no answer``, ``interrupted``; None otherwise.
        request_id: The API's id of the try, None where none came.
        waited: Microseconds waited before this try because of the one before.
    """

    at: int
    took: int
    status: int | None = None
    fault: str | None = None
    request_id: str | None = None
    waited: int = 0


@frozen(kw_only=True)
class Usage:
    """
    The tokens of an answer, as the API counted them.

    ``raw`` is the whole ``usage`` object; the named counters are the ones every answer has. A counter
    that came as null, as no count or not at all is 0 here and unchanged in ``raw``.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    raw: Mapping[str, Any] = field(factory=dict, repr=False)

    @classmethod
    def of(cls, raw: object) -> Usage:
        """Read a ``usage`` object as received; anything that is not one counts nothing."""
        if not isinstance(raw, Mapping):
            return cls()

        def counter(name: str) -> int:
            value = raw.get(name)
            return value if type(value) is int and 0 <= value < 1 << 63 else 0

        return cls(
            input_tokens=counter("input_tokens"),
            output_tokens=counter("output_tokens"),
            cache_creation_input_tokens=counter("cache_creation_input_tokens"),
            cache_read_input_tokens=counter("cache_read_input_tokens"),
            raw=raw,
        )


@frozen(kw_only=True)
class Exchange:
    """
    One request and what became of it.

    Attributes:
        conversation: The conversation whose request it was.
        position: Its ``request`` entry in that conversation's log; names the exchange.
        state: What is known about it.
        model: The model asked; ``served_by`` the one that answered, None before an answer.
        begun: When it was begun, microseconds since the epoch, UTC; ``ended`` when the outcome was recorded.
        body_length: Bytes of the request's body.
        attempts: How many attempts were made, 0 before an outcome.
        maybe_billed: Whether the model may have run although no answer was recorded.
        retry_of: The position of the exchange this one tries again, None for a first try.
        turn: The position of the model's turn, None where none was appended.
        message_id: ``id`` of the answer.
        request_id: The API's id of the last attempt.
        stop_reason: ``stop_reason`` of the answer.
        usage: The tokens of the answer.
        sent_by: ``client`` for the library's own client, ``caller`` for begin/finish by hand.
        idempotency_key: The caller's key; only the first exchange of a chain of retries has it.
        streamed: Whether the answer was asked for as a stream.
        price: What the record keeps of its price.
    """

    conversation: UUID
    position: int
    state: State
    model: str
    begun: int
    body_length: int
    sent_by: str
    ended: int | None = None
    served_by: str | None = None
    attempts: int = 0
    maybe_billed: bool = False
    retry_of: int | None = None
    turn: int | None = None
    message_id: str | None = None
    request_id: str | None = None
    stop_reason: str | None = None
    usage: Usage = field(factory=Usage)
    idempotency_key: str | None = None
    streamed: bool = False
    price: Price = field(default=NOT_KNOWN, repr=False)

    @property
    def cost(self) -> Cost | None:
        """What it cost, as recorded with its outcome; None where that is not known, or not yet."""
        return self.price.cost

    @property
    def unpriced(self) -> tuple[str, ...]:
        """What would have to be known for the cost, or for what its total leaves out."""
        return self.price.missing


def between_cited(blocks: Sequence[Any], n: int) -> bool:
    """
    Say whether a blank text belongs to a sentence that the API split at its citations.

    The API writes such blocks, takes them back, and binds what follows to them; any other blank text it refuses.

    Source: recorded exchanges of 2026.
    """
    beside = [blocks[m] for m in (n - 1, n + 1) if 0 <= m < len(blocks)]
    return bool(blocks[n].get("text")) and any(isinstance(each, Mapping) and each.get("citations") for each in beside)


def omitted(blocks: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """
    Say which blocks of an answer are recorded and never sent back.

    Empty text blocks (the API refuses them), and what stands before the last ``fallback`` block and may
    not be echoed: thinking, narration, client tool calls, and server tool calls without a result.

    Source: Messages API documentation, Refusals and fallback, 2026-10.
    """
    last_fallback = max((n for n, block in enumerate(blocks) if block.get("type") == "fallback"), default=-1)
    # Tuples and lists, not sets: in an answer anything may stand where a string should.
    answered = [block["tool_use_id"] for block in blocks[: max(last_fallback, 0)] if "tool_use_id" in block]
    left_out = set()
    for n, block in enumerate(blocks):
        kind = block.get("type")
        text = block.get("text")
        if (kind == "text" and isinstance(text, str) and not text.strip() and not between_cited(blocks, n)) or (
            n < last_fallback
            and (
                kind in ("thinking", "redacted_thinking", "connector_text", "tool_use")
                or (kind in ("server_tool_use", "mcp_tool_use") and block.get("id") not in answered)
            )
        ):
            left_out.add(n)
    return frozenset(left_out)
