"""The offline model: what answers where nothing is scripted, the same for the same request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from conversation_store.testing import images
from conversation_store.testing.answers import Answer, identifier
from conversation_store.testing.blocks import SERVER_CALLS, blocks_of, is_server_result, open_server_calls, result_kind
from conversation_store.testing.counting import decode, tokens
from conversation_store.testing.models import Model
from conversation_store.testing.streams import encode
from conversation_store.testing.wire import Request

_KNOWN: Final = (
    (re.compile(r"\b(hello|hi|hey)\b", re.IGNORECASE), "Hello!"),
    (
        re.compile(r"\bllms?\b|large language model", re.IGNORECASE),
        (
            "Sure, I'd be happy to describe them: a large language model has read a great deal of text and says what "
            "comes next; so it answers, translates and summarizes."
        ),
    ),
    (re.compile(r"latin\b.*\bant\b", re.IGNORECASE | re.DOTALL), "The answer is (C) Formicidae."),
)
_QUOTED: Final = 200


def compose(body: Mapping[str, Any], model: Model | None = None) -> Answer:
    """
    Return what the offline model answers: the same for the same request.

    It knows greetings, what a large language model is and the Latin name of the ant; it describes images by media type
    and size, repeats what a tool answered, calls the tool it is made to call, fills the schema it is given, and
    otherwise repeats what it was told. It continues a prefill or a paused turn, thinks where ``thinking`` asks for it,
    and minds ``max_tokens`` and ``stop_sequences``.

    Args:
        body: The request.
        model: Its model; what is left open there, the newest decides.
    """
    tool = _forced(body)
    if tool is not None:
        made = {"type": "tool_use", "id": identifier("toolu", 0, len(body["messages"])), "name": tool["name"]}
        return Answer([{**made, "input": instance(tool.get("input_schema", {}))}])
    text = continuation(_reply(body), prefill(body))
    stop = _stopped(text, body.get("stop_sequences") or ())
    if stop is not None:
        text = text[: text.index(stop)]
    pieces = tokens(text)
    limit = body.get("max_tokens", len(pieces))
    if limit == 0:
        return Answer(stop_reason="max_tokens")
    cut = len(pieces) > limit
    before = [*map(_served, open_server_calls(body["messages"]).values()), *_thought(body, model or Model(""))]
    said = blocks_of("".join(pieces[:limit]))
    if cut:
        return Answer([*before, *said], stop_reason="max_tokens")
    return Answer([*before, *said], stop_reason="stop_sequence" if stop else "end_turn", stop_sequence=stop)


def prefill(body: Mapping[str, Any]) -> str:
    """Return the text of the partial assistant turn a request ends with; empty where there is none."""
    messages = body["messages"]
    if messages[-1]["role"] != "assistant":
        return ""
    blocks = blocks_of(messages[-1]["content"])
    if any(block.get("type") in SERVER_CALLS or is_server_result(str(block.get("type"))) for block in blocks):
        return ""
    return _text(blocks)


def _thought(body: Mapping[str, Any], model: Model) -> Iterator[dict[str, Any]]:
    """Yield the thinking that was asked for, empty where it is not shown."""
    asked = body.get("thinking") or {}
    if asked.get("type") in {"adaptive", "enabled"}:
        shown = (asked.get("display") or model.display) != "omitted"
        yield {"type": "thinking", "thinking": "Let me see what was said." if shown else ""}


_SERVED: Final[Mapping[str, Any]] = {
    "web_search": [
        {
            "type": "web_search_result",
            "url": "https://example.org/ants",
            "title": "Ants",
            "encrypted_content": "b3BhcXVl",
            "page_age": None,
        }
    ],
    "web_fetch": {"type": "web_fetch_tool_result_error", "error_code": "url_not_accessible"},
    "code_execution": {"type": "code_execution_result", "stdout": "", "stderr": "", "return_code": 0, "content": []},
    "bash_code_execution": {
        "type": "bash_code_execution_result",
        "stdout": "",
        "stderr": "",
        "return_code": 0,
        "content": [],
    },
    "text_editor_code_execution": {"type": "text_editor_code_execution_create_result", "is_file_update": False},
    "advisor": {"type": "advisor_result", "text": "Go on."},
}
"""What server tools answer here."""


def _served(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a server tool's call."""
    block = {"type": result_kind(call), "tool_use_id": call["id"]}
    if call["type"] == "mcp_tool_use":
        return {**block, "is_error": False, "content": [{"type": "text", "text": "Done."}]}
    found = {"type": "tool_search_tool_search_result", "tool_references": []}
    return {**block, "content": _SERVED.get(call["name"], found)}


def continuation(text: str, begun: str) -> str:
    """Return what follows *begun*: the rest of *text* where it begins so, else *text* after it."""
    if text.startswith(begun):
        return text[len(begun) :]
    if begun.endswith("{"):
        return f'"answer":{encode(text).decode()}}}'
    return text if begun[-1] in "([<\"'" else f" {text}"


def instance(schema: Mapping[str, Any]) -> Any:
    """Return the smallest value of a JSON schema's kind."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("anyOf"):
        return instance(schema["anyOf"][0])
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        return {key: instance(properties.get(key, {})) for key in schema.get("required", properties)}
    if kind == "array":
        return [instance(schema.get("items", {}))] if schema.get("minItems") else []
    return {"string": "text", "integer": 0, "number": 0, "boolean": False}.get(str(kind))


def _forced(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the tool the model is made to call."""
    choice = body.get("tool_choice") or {}
    named: Iterator[Mapping[str, Any]] = (tool for tool in body.get("tools") or () if "name" in tool)
    if choice.get("type") == "any":
        return next(named, None)
    if choice.get("type") == "tool":
        return next((tool for tool in named if tool["name"] == choice["name"]), None)
    return None


def _stopped(text: str, sequences: Sequence[str]) -> str | None:
    """Return the sequence that occurs first."""
    found = [sequence for sequence in sequences if sequence in text]
    return min(found, key=text.index) if found else None


def _text(blocks: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(block["text"] for block in blocks if block.get("type") == "text")


def last_words(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the blocks of the last user turn."""
    blocks: list[Mapping[str, Any]] = []
    for message in reversed(body["messages"]):
        if message["role"] == "user":
            blocks[:0] = blocks_of(message["content"])
        elif blocks:
            break
    return blocks


def echo(request: Request) -> str | None:
    """Answer with the text of the last user turn; a function to script with, or to serve ``otherwise``."""
    return _text(last_words(request.body)).strip() or None


def _reply(body: Mapping[str, Any]) -> str:
    form = (body.get("output_config") or {}).get("format")
    if form:
        return encode(instance(form["schema"])).decode()
    blocks = last_words(body)
    sentences = [sentence for block in blocks for sentence in _described(block)]
    if sentences:
        return " ".join(sentences)
    text = _text(blocks).strip()
    for pattern, reply in _KNOWN:
        if pattern.search(text):
            return reply
    if not text:
        return "I am ready to go on."
    return f"You said: {text if len(text) <= _QUOTED else text[:_QUOTED] + '…'}"


def _described(block: Mapping[str, Any]) -> Iterator[str]:
    kind = block.get("type")
    if kind in {"image", "document"}:
        yield f"The {kind} is {_described_source(block['source'])}."
    elif kind == "tool_result":
        answered = _text(blocks_of(block.get("content"))) or "nothing"
        yield f"The tool {'failed' if block.get('is_error') else 'answered'}: {answered}."


def _described_source(source: Mapping[str, Any]) -> str:
    kind = source["type"]
    if kind == "base64":
        data = decode(source["data"])
        size = images.size(data)
        pixels = f" of {size.width} by {size.height} pixels" if size else ""
        return f"{source['media_type']}{pixels}, {len(data)} bytes"
    if kind == "url":
        return f"at {source['url']}"
    if kind == "file":
        return f"the file {source['file_id']}"
    return f"{source.get('media_type', 'content')}, {len(str(source.get('data', source.get('content'))))} characters"
