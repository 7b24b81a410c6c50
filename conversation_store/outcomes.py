"""
What an answer or a fault means for the record: the state of its exchange, the outcome, the model's turn.

Functions of values alone; the table of states is ``record.exchange.MOVES``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from attrs import evolve, frozen

from conversation_store.errors import (
    APIError,
    CodecError,
    ContentError,
    ConversationStoreError,
    InterruptedAnswerError,
    NoAnswerError,
    NotSentError,
    StatusError,
)
from conversation_store.record import canonical, chain, splices
from conversation_store.record.chain import Entry, draft
from conversation_store.record.cost import NOT_KNOWN, UNBILLED, Price, Used, used_by
from conversation_store.record.exchange import Attempt, Exchange, State, Usage, omitted
from conversation_store.record.turns import Origin, model_turn
from conversation_store.storage.blobs import Blob

_REJECTING: Final = frozenset({400, 413, 422})
_CUT: Final = frozenset({"max_tokens", "model_context_window_exceeded"})
_DID_NOT_RUN: Final = frozenset({408, 409, 429, 503, 529})


@frozen(kw_only=True)
class Answer:
    """
    An answer of the API, taken apart and not encoded again.

    Attributes:
        content: The raw bytes of its ``content`` array.
        envelope: Every other field, as a JSON object of the raw bytes received.
        fields: The same, parsed.
        blocks: The content, parsed.
        response: The whole response as received; None where the caller's client did not give its bytes.
        form: ``bytes`` where the response is the message, ``stream`` where its events make it, ``object`` where a
            caller's client took it apart.
        incomplete: Indices of blocks that were not understood whole; kept, and never sent back.
    """

    content: bytes
    envelope: bytes
    fields: Mapping[str, Any]
    blocks: Sequence[Mapping[str, Any]]
    response: bytes | None = None
    form: str = "bytes"
    incomplete: frozenset[int] = frozenset()

    @classmethod
    def none(cls) -> Answer:
        """Stand for no answer."""
        return cls(content=b"[]", envelope=b"{}", fields={}, blocks=())

    @classmethod
    def read(
        cls,
        raw: bytes,
        *,
        response: bytes | None = None,
        form: str = "bytes",
        incomplete: frozenset[int] = frozenset(),
    ) -> Answer:
        """
        Take a message of the API apart; *response* is what it came as.

        Raises:
            CodecError: It is no message of the API.
        """
        members = canonical.members(raw)
        content = members.pop("content", None)
        if content is None or not isinstance(content.value, list):
            raise CodecError("a message of the API has a content array")
        if "type" in members and members["type"].value != "message":
            raise CodecError("this is no message of the API")
        if any(not isinstance(block, dict) for block in content.value):
            raise CodecError("a content block is a JSON object")
        return cls(
            content=raw[content.start : content.end],
            envelope=canonical.compose({name: raw[each.start : each.end] for name, each in members.items()}),
            fields={name: each.value for name, each in members.items()},
            blocks=[block for block in content.value if isinstance(block, dict)],
            response=response,
            form=form,
            incomplete=incomplete,
        )

    def text_field(self, name: str) -> str | None:
        """Read a field that is a string any database can hold; the envelope has whatever else came."""
        value = self.fields.get(name)
        return value if isinstance(value, str) and value.isprintable() else None


def is_message(arrived: bytes) -> bool:
    """Say whether what came is no stream but a whole message; an event never begins with a brace."""
    if not arrived.lstrip().startswith(b"{"):
        return False
    try:
        Answer.read(arrived)
    except CodecError:
        return False
    return True


def answered(
    answer: Answer, *, prefill: str | Sequence[Any] | None, attempts: Sequence[Attempt], price: Price = NOT_KNOWN
) -> tuple[State, bytes, bytes | None, dict[str, Any]]:
    """
    Decide what an answer becomes.

    Returns:
        The state; the outcome's body; the model's turn's body, None where nothing is appended; the turn's
        header fields.
    """
    stop_reason = answer.text_field("stop_reason")
    refused = stop_reason == "refusal"
    left_out = omitted(answer.blocks) | answer.incomplete
    # A call cut off by a limit must never be sent back, nor what led to it without it: it is tried again whole.
    cut_off = stop_reason in _CUT and bool(answer.blocks) and answer.blocks[-1].get("type") == "tool_use"
    empty = len(left_out) == len(answer.blocks) or cut_off
    parts = {"envelope": answer.envelope, "attempts": _written(attempts)}
    if price.recorded:
        parts["price"] = price.recorded
    if refused or empty:
        parts["content"] = answer.content
    state = State.REFUSED if refused else State.ANSWERED
    if refused or empty:
        return state, canonical.compose(parts), None, {}
    body, ours, omit = model_turn(answer.content, prefill, sorted(left_out))
    fields: dict[str, Any] = {"origin": Origin.MODEL.value}
    if ours:
        fields["ours"] = ours
    if omit:
        fields["omit"] = omit
    return state, canonical.compose(parts), body, fields


def _written(attempts: Sequence[Attempt]) -> bytes:
    return canonical.dumps(
        [
            {
                name: value
                for name, value in (
                    ("at", each.at),
                    ("took", each.took),
                    ("status", each.status),
                    ("fault", each.fault),
                    ("request_id", each.request_id),
                    ("waited", each.waited),
                )
                if value is not None
            }
            for each in attempts
        ]
    )


def attempts_of(outcome: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """Read the attempts an outcome's body tells."""
    return tuple(Attempt(**each) for each in outcome.get("attempts", ()))


def failed(error: Exception) -> tuple[State, bool, bytes]:
    """
    Decide what a fault becomes.

    Returns:
        The state, whether the model may have run and billed, and the outcome's body.
    """
    attempts = error.attempts if isinstance(error, APIError) else ()
    message = error.message if isinstance(error, APIError) else str(error)
    parts: dict[str, Any] = {"kind": type(error).__name__, "message": message}
    state, billed = State.FAILED, True
    if isinstance(error, StatusError):
        parts |= {"status": error.status, "type": error.kind, "error_code": error.error_code}
        parts["body"] = _text(error.body)
        if error.status in _REJECTING:
            state, billed = State.REJECTED, False
        elif error.status in _DID_NOT_RUN or 400 <= error.status < 500:  # noqa: PLR2004 - client errors
            billed = False
    elif isinstance(error, InterruptedAnswerError):
        state = State.INTERRUPTED
        parts["partial"] = splices.encode(error.partial).decode()
    elif isinstance(error, NotSentError):
        billed = False
    if isinstance(error, APIError):
        parts |= {"request_id": error.request_id, "retry_after": error.retry_after}
        billed = billed or any(each.fault == "no answer" for each in attempts)
    # What an error says may come from the API, and need not be text: a lone surrogate is shown as an escape.
    said = {
        name: _text(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else value
        for name, value in parts.items()
        if value is not None
    }
    body = canonical.compose({"error": canonical.dumps(said), "attempts": _written(attempts)})
    return state, billed and state is not State.REJECTED, body


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def error_of(outcome: Mapping[str, Any]) -> APIError:
    """Make the error an outcome tells of again, for a caller who asks with the same idempotency key."""
    said = outcome.get("error", {})
    shared: dict[str, Any] = {
        "request_id": said.get("request_id"),
        "retry_after": said.get("retry_after"),
        "error_code": said.get("error_code"),
        "attempts": attempts_of(outcome),
    }
    message = str(said.get("message", "the exchange failed"))
    if "status" in said:
        status = int(said["status"])
        cls = StatusError.OF.get(status, StatusError)
        body = str(said.get("body", "")).encode()
        return cls(message, status=status, kind=said.get("type"), body=body, **shared)
    if "partial" in said:
        partial = splices.decode(str(said["partial"]).encode()) or b""
        return InterruptedAnswerError(message, partial=partial, **shared)
    return APIError(message, **shared)


def concluded(
    exchange: Exchange,
    answer: Answer | None,
    *,
    state: State,
    attempts: Sequence[Attempt],
    billed: bool,
    at: int,
    price: Price = NOT_KNOWN,
) -> Exchange:
    """Write what became of an exchange into its value; the turn's position is added once it is known."""
    known = answer or Answer.none()
    if state is State.REJECTED or (state is State.FAILED and not billed):
        price = UNBILLED
    return evolve(
        exchange,
        state=state,
        ended=at,
        served_by=known.text_field("model"),
        attempts=max(len(attempts), 1),
        maybe_billed=billed,
        message_id=known.text_field("id"),
        request_id=next((each.request_id for each in reversed(attempts) if each.request_id), None),
        stop_reason=known.text_field("stop_reason"),
        usage=Usage.of(known.fields.get("usage")),
        price=price,
    )


def derived(
    exchange: Exchange, state: State, outcome: bytes, content: Sequence[Mapping[str, Any]], at: int
) -> Exchange:
    """
    Say from the log alone what became of an exchange.

    Args:
        exchange: As it was begun.
        state: The state its outcome names.
        outcome: The outcome's body; empty where it was erased.
        content: The blocks of the answer: the model's turn's, else the outcome's own.
        at: When the outcome was recorded.
    """
    parts = canonical.members(outcome) if outcome else {}
    said = {name: member.value for name, member in parts.items()}
    attempts = attempts_of(said)
    envelope = parts.get("envelope")
    if envelope is None or not isinstance(envelope.value, Mapping):
        billed = bool(said) and state is not State.REJECTED and failed(_fault_of(said))[1]
        return concluded(exchange, None, state=state, attempts=attempts, billed=billed, at=at)
    work, uses = used_by(envelope.value.get("usage"), content)
    price = parts.get("price")
    recorded = b"" if price is None else outcome[price.start : price.end]
    answer = evolve(Answer.none(), fields=envelope.value)
    paid = Price.read(recorded, Used.of(work, uses)) if recorded else NOT_KNOWN
    return concluded(exchange, answer, state=state, attempts=attempts, billed=False, at=at, price=paid)


def _fault_of(outcome: Mapping[str, Any]) -> APIError:
    said = outcome.get("error")
    if isinstance(said, Mapping) and said.get("kind") == NotSentError.__name__:
        return NotSentError(str(said.get("message")), attempts=attempts_of(outcome))
    return error_of(outcome)


def outcome_draft(
    exchange: Exchange,
    state: State,
    body: bytes,
    *,
    at: int,
    salt: bytes,
    answer: Answer | None = None,
    raw_use: Blob | None = None,
) -> Entry:
    """
    Write the outcome entry of an exchange.

    A raw response is committed to by its length and salted digest, and its bytes too where they are kept.
    """
    fields: dict[str, Any] = {"request": exchange.position, "state": state.value}
    if answer is not None:
        fields["received"] = answer.form
    if answer is not None and answer.response is not None:
        fields["response"] = chain.part(salt, chain.JSON_TYPE, sha256(answer.response).digest()).hex()
        fields["response_length"] = len(answer.response)
    if raw_use is not None:
        fields["raw"] = chain.part(raw_use.salt, raw_use.media_type, raw_use.digest).hex()
    return draft("outcome", at=at, salt=salt, fields=fields, body=body)


def bytes_of(answer: object) -> tuple[bytes, bool]:
    """
    Take an answer as its caller has it.

    Returns:
        Its JSON bytes, and whether they are the bytes received (an object is written anew, and marked so).

    Raises:
        ContentError: It is none of bytes, a dict, and the official SDK's ``Message``.
    """
    if isinstance(answer, (bytes, bytearray, memoryview)):
        return bytes(answer), True
    if isinstance(answer, Mapping):
        return canonical.dumps(answer, "answer"), False
    to_dict = getattr(answer, "to_dict", None)
    if callable(to_dict):
        return canonical.dumps(to_dict(mode="json"), "answer"), False
    raise ContentError("answer", f"a {type(answer).__name__} is no answer: give bytes, a dict, or the SDK's Message")


def api_error(error: Exception) -> APIError:
    """Say a fault in the library's terms: its own errors as they are, a foreign client's by what they carry."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, ConversationStoreError):
        return NotSentError(f"{type(error).__name__}: {error}")  # no key, an attachment that cannot be read …
    status = getattr(error, "status_code", None)
    request_id = getattr(error, "request_id", None)
    request_id = request_id if isinstance(request_id, str) else None
    message = str(error) or type(error).__name__
    if isinstance(status, int):
        content = getattr(getattr(error, "response", None), "content", b"")
        body = content if isinstance(content, bytes) else b""
        try:
            said = canonical.loads(body)
        except CodecError:
            said = {}
        fault = said.get("error") if isinstance(said, Mapping) else None
        kind = fault.get("type") if isinstance(fault, Mapping) else None
        cls = StatusError.OF.get(status, StatusError)
        return cls(message, request_id, status=status, kind=kind if isinstance(kind, str) else None, body=body)
    return NoAnswerError(f"{type(error).__name__}: {message}", request_id)
