"""
What the loopback API can be told to answer: answers and faults, and how they become messages and streams.

Everything here is a value or a function of values; `conversation_store.testing.delivery` does the sending.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from conversation_store.testing.counting import tokens
from conversation_store.testing.validation import blocks_of
from conversation_store.testing.wire import Request

ERROR_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""``error.type`` by status; any other status of 500 or more is an ``api_error``."""
_MESSAGES: Final[Mapping[str, str]] = {
    "rate_limit_error": "This request would exceed the rate limit for your organization.",
    "overloaded_error": "Overloaded",
    "api_error": "Internal server error",
    "timeout_error": "Request timed out",
    "authentication_error": "invalid x-api-key",
}


@dataclass(frozen=True)
class Answer:
    """
    One answer of status 200, as far as a test cares about it; everything else is filled in.

    Attributes:
        content: The content blocks; a string is one text block.
        stop_reason: None stands for ``tool_use`` after a ``tool_use`` block and ``end_turn`` otherwise.
        stop_sequence: The sequence that stopped the model.
        stop_details: The details of a refusal.
        usage: Counters that replace or join the counted ones.
        model: None stands for the requested model, its alias resolved.
        id: None stands for the next id of this API.
        fields: Further fields of the message; a field named here replaces the one filled in.
        body: The exact bytes to send instead of all the above.
        headers: Response headers that replace or join the usual ones.

    Example:
        >>> Answer("It is 18 degrees.", usage={"cache_read_input_tokens": 2048}).stop_reason is None
        True
    """

    content: str | Sequence[Mapping[str, Any]] = ()
    _: KW_ONLY
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


After: TypeAlias = Literal["close", "reset", "stall"]
"""How a cut answer goes on: the connection ends, is reset, or stays open without another byte."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """
    Something that goes wrong; made by one of its class methods.

    A fault meets whatever is asked next, whether or not the request is valid. Faults that still send an answer
    take it as ``answer``; without one the offline model answers (or the error the request deserves).

    Attributes:
        code: The status sent instead of an answer.
        body: The body sent with ``code``; the error object the API would send when None.
        kind: ``error.type``; that of ``code`` when None.
        message: ``error.message``.
        error_code: ``error.details.error_code``.
        headers: Response headers that replace or join the usual ones.
        wait: Seconds to wait before the first byte.
        drop: The connection is ended without a byte: ``unread`` before the request is read, ``read`` after.
        hard: Dropped connections are reset rather than closed.
        after: Body bytes sent before the answer is cut.
        then: What follows the cut.
        size: Body bytes sent at a time.
        pause: Seconds between them.
        events: Stream events sent before an ``error`` event ends the stream.
        raw: Bytes sent instead of an HTTP response.
        answer: What is answered meanwhile.
    """

    code: int | None = None
    body: bytes | None = None
    kind: str | None = None
    message: str | None = None
    error_code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0
    drop: Literal["unread", "read"] | None = None
    hard: bool = False
    after: int | None = None
    then: After = "close"
    size: int | None = None
    pause: float = 0
    events: int | None = None
    raw: bytes | None = None
    answer: Scripted | None = None

    @classmethod
    def status(
        cls,
        code: int,
        *,
        message: str | None = None,
        kind: str | None = None,
        error_code: str | None = None,
        retry_after: float | str | None = None,
        retry_after_ms: float | None = None,
        should_retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        wait: float = 0,
    ) -> Fault:
        """
        Answer with an error status.

        Args:
            code: The HTTP status.
            message: ``error.message``.
            kind: ``error.type``, where it is not the usual one of the status.
            error_code: ``error.details.error_code``, for instance ``enforced_spend_limit_reached``.
            retry_after: The ``retry-after`` header: seconds, or an HTTP date.
            retry_after_ms: The ``retry-after-ms`` header.
            should_retry: The ``x-should-retry`` header.
            headers: Further headers; an empty value leaves a usual header out.
            body: The body instead of an error object; it need not be JSON.
            wait: Seconds to wait before answering.
        """
        told: dict[str, str] = {}
        if retry_after is not None:
            told["retry-after"] = str(retry_after)
        if retry_after_ms is not None:
            told["retry-after-ms"] = str(retry_after_ms)
        if should_retry is not None:
            told["x-should-retry"] = "true" if should_retry else "false"
        return cls(
            code=code,
            message=message,
            kind=kind,
            error_code=error_code,
            headers=told | dict(headers or {}),
            body=body.encode() if isinstance(body, str) else body,
            wait=wait,
        )

    @classmethod
    def redirect(cls, to: str, code: int = 307) -> Fault:
        """Send the caller to another URL."""
        return cls(code=code, headers={"location": to, "content-type": ""}, body=b"")

    @classmethod
    def delay(cls, seconds: float, answer: Scripted | None = None) -> Fault:
        """Answer, but only after *seconds*."""
        return cls(wait=seconds, answer=answer)

    @classmethod
    def close(cls, *, read: bool = True, wait: float = 0) -> Fault:
        """
        Close the connection without a byte.

        Args:
            read: Whether the request is read first. Unread, it is not in ``requests`` but counted in ``unread``,
                and the caller may see a reset: that is what closing on unread bytes does.
            wait: Seconds to wait before closing.
        """
        return cls(drop="read" if read else "unread", wait=wait)

    @classmethod
    def reset(cls, *, read: bool = True, wait: float = 0) -> Fault:
        """Reset the connection without a byte; the arguments are those of `close`."""
        return cls(drop="read" if read else "unread", hard=True, wait=wait)

    @classmethod
    def cut(cls, after: int, *, then: After = "close", answer: Scripted | None = None) -> Fault:
        """
        Send exactly *after* bytes of the answer's body, then no more.

        The headers announce the whole body. A stalled connection ends when the caller or the API closes it.
        """
        return cls(after=after, then=then, answer=answer)

    @classmethod
    def trickle(cls, size: int = 1, pause: float = 0.01, answer: Scripted | None = None) -> Fault:
        """Send the answer's body *size* bytes at a time with *pause* seconds between them."""
        return cls(size=size, pause=pause, answer=answer)

    @classmethod
    def interrupt(
        cls,
        events: int,
        *,
        kind: str = "overloaded_error",
        message: str | None = None,
        answer: Scripted | None = None,
    ) -> Fault:
        """Send *events* events of a streamed answer, then an ``error`` event; plain answers are not touched."""
        return cls(events=events, kind=kind, message=message, answer=answer)

    @classmethod
    def garbage(cls, raw: bytes) -> Fault:
        """Send bytes that need not be HTTP at all, then close."""
        return cls(raw=raw)


Scripted: TypeAlias = "str | bytes | Mapping[str, Any] | Answer | Fault | Callable[[Request], Any] | None"
"""
What an answer may be given as: text, a body's bytes, a whole message, an `Answer`, a `Fault`, or a function of
the `Request` that returns one of these. None is the offline model.
"""


def encode(value: Any) -> bytes:
    """Return compact JSON; what UTF-8 cannot say (a lone surrogate) as an escape."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def error_body(kind: str, message: str | None, request_id: str, code: str | None = None) -> dict[str, Any]:
    """Return the object the API answers an error with."""
    error: dict[str, Any] = {"type": kind, "message": message or _MESSAGES.get(kind, kind)}
    if code is not None:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": request_id}


def identifier(prefix: str, seed: int, number: int) -> str:
    """Return the *number*-th id of a kind; the same for the same seed."""
    digest = hashlib.sha256(f"{prefix}/{seed}/{number}".encode()).hexdigest()
    return f"{prefix}_01{digest[:22]}"


def complete(answer: Answer, *, input_tokens: int, own_id: str, model: str) -> dict[str, Any]:
    """
    Return the whole message of an answer.

    Args:
        answer: What the test said about it.
        input_tokens: What the request counts.
        own_id: The id, unless the answer has one.
        model: The model, unless the answer has one.
    """
    content = [dict(block) for block in blocks_of(answer.content)]
    calls = bool(content) and content[-1].get("type") == "tool_use"
    message: dict[str, Any] = {
        "model": answer.model or model,
        "id": answer.id or own_id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": answer.stop_reason or ("tool_use" if calls else "end_turn"),
        "stop_sequence": answer.stop_sequence,
        "stop_details": answer.stop_details,
        "container": None,
        "usage": {
            "input_tokens": input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": max(1, sum(len(tokens(_written(block))) for block in content)),
            "service_tier": "standard",
            "inference_geo": "global",
            **answer.usage,
        },
    }
    return message | dict(answer.fields)


def _written(block: Mapping[str, Any]) -> str:
    """Return what the model wrote of a block."""
    if "input" in block:
        return str(block.get("name", "")) + encode(block["input"]).decode()
    return str(block.get("text", block.get("thinking", "")))


# -- streams -------------------------------------------------------------------------------------------------

_DELTAS: Final = {"text": "text_delta", "thinking": "thinking_delta"}


def event(name: str, **data: Any) -> bytes:
    """Return one server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + encode({"type": name, **data}) + b"\n\n"


def stream(message: Mapping[str, Any]) -> list[bytes]:
    """Return a message as the events of a stream, one element an event, a ``ping`` after the first block begins."""
    usage = dict(message["usage"]) | {"output_tokens": 1}
    started = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    events = [event("message_start", message=started)]
    for index, block in enumerate(message["content"]):
        start, deltas = _taken_apart(block)
        events.append(event("content_block_start", index=index, content_block=start))
        if not index:
            events.append(event("ping"))
        events += [event("content_block_delta", index=index, delta=delta) for delta in deltas]
        events.append(event("content_block_stop", index=index))
    keys = ("stop_reason", "stop_sequence", "stop_details", "container")
    told = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    final = {key: message["usage"][key] for key in told if key in message["usage"]}
    delta = {key: message[key] for key in keys if key in message}
    return [*events, event("message_delta", delta=delta, usage=final), event("message_stop")]


def _taken_apart(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a block begins as, and the deltas that make it whole."""
    kind = block.get("type")
    if kind in _DELTAS:
        empty = {key: "" for key in (kind, "signature") if key in block}
        deltas = [{"type": _DELTAS[kind], kind: piece} for piece in tokens(block[kind])]
        if "signature" in block:
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        cited = block.get("citations")
        if cited:
            empty["citations"] = []  # type: ignore[assignment]
            deltas += [{"type": "citations_delta", "citation": each} for each in cited]
        return {**block, **empty}, deltas
    if kind in {"tool_use", "server_tool_use", "mcp_tool_use"}:
        written = encode(block.get("input", {})).decode() if block.get("input") else ""
        pieces = ["", *(written[at : at + 12] for at in range(0, len(written), 12))]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": each} for each in pieces]
    return dict(block), []
