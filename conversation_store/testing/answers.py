"""
What the loopback API can be told to answer: answers and faults, and how they become messages and streams.

Everything here is a value or a function of values; `conversation_store.testing.delivery` does the sending.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from conversation_store.testing.blocks import SERVER_CALLS, blocks_of, is_server_result, result_kind
from conversation_store.testing.counting import tokens
from conversation_store.testing.streams import Streaming, encode
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

_IDS: Final = {"tool_use": "toolu", "server_tool_use": "srvtoolu", "mcp_tool_use": "mcptoolu"}
_COUNTED: Final[Sequence[str]] = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
)


@dataclass(frozen=True)
class Answer:
    """
    One answer of status 200, as far as a test cares about it; everything else is filled in.

    Of a block may be left out: the ``id`` of a call, its ``input`` where that is empty, the ``tool_use_id`` of a
    server tool's result (that of the first open call of its kind), the ``tool_id`` of a programmatic ``caller``, the
    ``signature`` of thinking, the ``data`` of redacted thinking, and the ``from`` of a fallback.

    Attributes:
        content: The content blocks; a string is one text block.
        thinking: Signed thinking that goes before them; it may be empty.
        stop_reason: None stands for ``tool_use`` where a client tool is called, ``pause_turn`` where only a server
            tool waits for its result, and ``end_turn`` otherwise.
        stop_sequence: The sequence that stopped the model.
        stop_details: The details of a refusal.
        usage: Counters that replace or join the counted ones.
        model: None stands for the requested model, its alias resolved.
        id: None stands for the next id of this API.
        container: The container of the code that ran: its id, or the whole object. None stands for the one the
            request names, or a new one, where the content calls for one.
        fields: Further fields of the message; a field named here replaces the one filled in.
        body: The exact bytes to send instead of all the above.
        headers: Response headers that replace or join the usual ones; an empty value leaves a usual header out.
        streaming: How it is streamed, where a stream is asked for.

    Example:
        >>> Answer("It is 18 degrees.", usage={"cache_read_input_tokens": 2048}).stop_reason is None
        True
    """

    content: str | Sequence[Mapping[str, Any]] = ()
    _: KW_ONLY
    thinking: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    id: str | None = None
    container: str | Mapping[str, Any] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    streaming: Streaming = field(default_factory=Streaming)

    @classmethod
    def refusal(
        cls,
        category: str | None = "cyber",
        *,
        content: str | Sequence[Mapping[str, Any]] = (),
        explanation: str | None = None,
    ) -> Answer:
        """Refuse, in the middle of *content* where there is any."""
        details = {"type": "refusal", "category": category, "explanation": explanation}
        return cls(content, stop_reason="refusal", stop_details=details)

    @classmethod
    def calls(cls, *calls: tuple[str, Mapping[str, Any]], text: str = "") -> Answer:
        """Call client tools, each given by its name and its input, all at once."""
        blocks = [{"type": "tool_use", "name": name, "input": dict(given)} for name, given in calls]
        return cls([*blocks_of(text), *blocks], stop_reason="tool_use")

    @classmethod
    def pause(cls, name: str = "web_search", *, text: str = "", **given: Any) -> Answer:
        """Pause while a server tool works; its result is yet to come, and *given* is its input."""
        called = {"type": "server_tool_use", "name": name, "input": given}
        return cls([*blocks_of(text), called], stop_reason="pause_turn")

    @classmethod
    def fallback(
        cls,
        to: str,
        content: str | Sequence[Mapping[str, Any]],
        *,
        before: str | Sequence[Mapping[str, Any]] = (),
        category: str | None = "cyber",
    ) -> Answer:
        """Let another model answer after the one asked has refused, which may have said something *before*."""
        switch = {"type": "fallback", "to": {"model": to}, "trigger": {"type": "refusal", "category": category}}
        return cls([*blocks_of(before), switch, *blocks_of(content)], model=to)

    @classmethod
    def compaction(cls, content: str = "So far: little was said.") -> Answer:
        """Stop with a compaction of what was said."""
        block = {"type": "compaction", "content": content, "encrypted_content": None}
        return cls([block], stop_reason="compaction")


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
        broken: Whether a chunk that is cut announces all its bytes, as a chunk does that is lost on its way.
        size: Body bytes sent at a time; several numbers take turns.
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
    broken: bool = False
    size: int | Sequence[int] | None = None
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
    def cut(cls, after: int, *, then: After = "close", broken: bool = False, answer: Scripted | None = None) -> Fault:
        """
        Send exactly *after* bytes of the answer's body, then no more.

        The headers announce the whole body; of a stream the events' bytes are counted, not the chunks they come in.
        A stalled connection ends when the caller or the API closes it.
        """
        return cls(after=after, then=then, broken=broken, answer=answer)

    @classmethod
    def trickle(cls, size: int | Sequence[int] = 1, pause: float = 0.01, answer: Scripted | None = None) -> Fault:
        """Send the answer's body *size* bytes at a time with *pause* seconds between them; sizes may take turns."""
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
        """
        Send *events* events of a streamed answer, then an ``error`` event; plain answers are not touched.

        With 0 the error is all there is, under status 200.
        """
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


def filled(
    answer: Answer, *, waiting: Mapping[str, Mapping[str, Any]], new_id: Callable[[str], str], model: str
) -> list[dict[str, Any]]:
    """
    Return the blocks of an answer with what a test may leave out, save signatures.

    Args:
        answer: What the test said about it.
        waiting: The server tools' calls of the request without a result, by id.
        new_id: Makes an id from the beginning of one.
        model: The model that was asked.
    """
    thought = [] if answer.thinking is None else [{"type": "thinking", "thinking": answer.thinking}]
    calls = dict(waiting)
    blocks = []
    for each in (*thought, *blocks_of(answer.content)):
        block = dict(each)
        kind = str(block.get("type"))
        if kind in _IDS:
            block = {"type": kind, "id": new_id(_IDS[kind]), "input": {}} | block
        if kind in SERVER_CALLS:
            calls[block["id"]] = block
        elif is_server_result(kind):
            first = next((key for key, call in calls.items() if result_kind(call) == kind), None)
            if first is not None:
                block = {"type": kind, "tool_use_id": first} | block
            calls.pop(block.get("tool_use_id", ""), None)
        elif kind == "fallback":
            block = {"type": kind, "from": {"model": model}} | block
        caller = block.get("caller") or {"type": "direct"}
        if caller["type"] != "direct" and "tool_id" not in caller and calls:
            block["caller"] = {**caller, "tool_id": [*calls][-1]}
        blocks.append(block)
    return blocks


def runs_code(content: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether an answer needs a container."""
    names = {str(block.get("name")) for block in content if block.get("type") == "server_tool_use"}
    callers = {str((block.get("caller") or {}).get("type")) for block in content}
    return any("code_execution" in each for each in names | callers)


def complete(
    answer: Answer, content: Sequence[Mapping[str, Any]], *, counted: Mapping[str, Any], own_id: str, model: str
) -> dict[str, Any]:
    """
    Return the whole message of an answer.

    Args:
        answer: What the test said about it.
        content: Its blocks, with nothing left out.
        counted: The counters of what the request paid.
        own_id: The id, unless the answer has one.
        model: The model, unless the answer has one.
    """
    written = sum(len(tokens(_written(block))) for block in content)
    usage: dict[str, Any] = {
        **counted,
        "output_tokens": max(1, written),
        "service_tier": "standard",
        "inference_geo": "global",
    }
    thought = sum(len(tokens(_written(block))) for block in content if block.get("type") == "thinking")
    if any(block.get("type") == "thinking" for block in content):
        usage["output_tokens_details"] = {"thinking_tokens": thought}
    iterations = _iterations(content, usage, answer.model or model)
    if iterations:
        usage["iterations"] = iterations
    message: dict[str, Any] = {
        "model": answer.model or model,
        "id": answer.id or own_id,
        "type": "message",
        "role": "assistant",
        "content": list(content),
        "stop_reason": answer.stop_reason or _stop_reason(content),
        "stop_sequence": answer.stop_sequence,
        "stop_details": answer.stop_details,
        "container": answer.container,
        "usage": usage | dict(answer.usage),
    }
    return message | dict(answer.fields)


def _stop_reason(content: Sequence[Mapping[str, Any]]) -> str:
    switch = max((place for place, block in enumerate(content) if block.get("type") == "fallback"), default=-1)
    answered = {block.get("tool_use_id") for block in content}
    kinds = {block.get("type") for block in content[switch + 1 :] if block.get("id") not in answered}
    if "tool_use" in kinds:
        return "tool_use"
    return "pause_turn" if kinds & SERVER_CALLS else "end_turn"


def _iterations(content: Sequence[Mapping[str, Any]], usage: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """Return what each model's part cost where there were several; a compaction's cost is moved there."""
    counters = {key: usage[key] for key in _COUNTED if key in usage}
    nothing = {key: 0 for key in counters if key != "cache_creation"}
    if content and all(block.get("type") == "compaction" for block in content):
        usage.update(nothing)
        return [{"type": "compaction", **counters}]
    switches = [block for block in content if block.get("type") == "fallback"]
    if not switches:
        return []
    first = {"type": "message", "model": switches[0]["from"]["model"], **counters, "output_tokens": 0}
    others = [{"type": "fallback_message", "model": each["to"]["model"], **counters} for each in switches]
    return [first, *others[:-1], {**others[-1], "model": model}]


def _written(block: Mapping[str, Any]) -> str:
    """Return what the model wrote of a block."""
    if "input" in block:
        return str(block.get("name", "")) + encode(block["input"]).decode()
    return str(block.get("text", block.get("thinking", "")))
