"""The view for other programs: the exact array, a line of a batch, and chat completions with what they lose."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest
from hypothesis import given

from conversation_store import Conversation, Document, Image, Store
from conversation_store.errors import ContentError, RuleViolationError
from conversation_store.record import canonical
from tests import pictures, strategies
from tests.corpus import lines, requires_corpus
from tests.strategies import parsed
from tests.test_corpus import settings_of

MODEL: Final = "claude-sonnet-4-6"


@pytest.fixture
def store() -> Iterator[Store]:
    """Open a store in memory."""
    with Store("sqlite://") as opened:
        yield opened


def array(chat: Conversation) -> bytes:
    """Slice the array out of the next request."""
    body = chat.request(check=False).recorded
    member = canonical.members(body)["messages"]
    return body[member.start : member.end]


def test_the_array_is_that_of_the_next_request(store: Store) -> None:
    """Byte for byte, attachments and gathered results included; empty where nothing was said."""
    chat = store.open("a", model=MODEL, max_tokens=8)
    assert b"".join(chat.export("messages")) == b"[]"
    chat.user(Image.from_bytes(pictures.png(8, 8, padding=9_000)), "What?")
    chat.append({"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {}}]})
    chat.tool_result("t1", "an ant")
    chat.user("And?")
    assert b"".join(chat.export("messages")) == array(chat)
    assert len(parsed(array(chat))) == 3


@given(strategies.conversations())
def test_any_view_is_an_array(said: Sequence[dict[str, Any]]) -> None:
    """Whatever was said."""
    with Store("sqlite://") as store:
        chat = store.open("a", model=MODEL, max_tokens=8)
        chat.append(*said, check=False)
        assert b"".join(chat.export("messages")) == array(chat)


def test_results_and_words_are_one_message_in_the_array_too(store: Store) -> None:
    """Results given one by one and the words beside them are one message, results first, as in a request."""
    chat = store.open("a", model=MODEL, max_tokens=8, tools=[{"name": "look", "input_schema": {"type": "object"}}])
    calls = [{"type": "tool_use", "id": f"toolu_{n}", "name": "look", "input": {}} for n in range(2)]
    chat.append({"role": "user", "content": "Look."}, {"role": "assistant", "content": calls}, check=False)
    chat.tool_result("toolu_1", "a bee")
    chat.user("Well?")
    chat.tool_result("toolu_0", "an ant")
    assert b"".join(chat.export("messages")) == array(chat)
    assert len(json.loads(array(chat))) == 3


def test_a_line_of_a_batch_is_the_request_without_what_batches_refuse(store: Store) -> None:
    """Its params are those of the request; its id is given, or made of the conversation and its version."""
    chat = store.open("a", model=MODEL, max_tokens=8, system="Be short.", speed="fast")
    chat.user("Hello")
    line = b"".join(chat.export("batch"))
    assert line.endswith(b"}\n")
    said = json.loads(line)
    assert said["custom_id"] == f"{chat.id.hex}-{chat.version}"
    request = json.loads(chat.request(check=False).body)
    assert request.pop("speed") == "fast"
    assert said["params"] == request
    assert json.loads(b"".join(chat.export("batch", custom_id="x_1")))["custom_id"] == "x_1"
    with pytest.raises(ContentError, match="custom_id"):
        b"".join(chat.export("batch", custom_id="a b"))
    with pytest.raises(RuleViolationError):
        store.open("b", model=MODEL).export("batch")
    with pytest.raises(ContentError, match="form"):
        chat.export("pdf")  # type: ignore[arg-type]


def test_chat_completions_name_what_they_lose(store: Store) -> None:
    """Words, pictures, files, calls and results have a place there; the rest is counted."""
    png = pictures.png(8, 8)
    chat = store.open("a", model=MODEL, max_tokens=8, system=[{"type": "text", "text": "Be short."}])
    chat.user("What?", Image.from_bytes(png), Image.from_url("https://example.org/a.png"))
    chat.append(
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "text", "text": "Look:"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "ä"}},
            ],
        },
        check=False,
    )
    chat.tool_result("t1", ["an ant", Image.from_bytes(png)], is_error=True)
    chat.user(Document.from_text("Ants."), "And?")
    export = chat.export("openai")
    said = json.loads(b"".join(export))
    data = base64.b64encode(png).decode()
    assert said == [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Look:",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":"\\u00e4"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "an ant"},
        {"role": "user", "content": [{"type": "text", "text": "Ants."}, {"type": "text", "text": "And?"}]},
    ]
    assert export.lost == {"thinking": 1, "image": 1, "that a tool's result is an error": 1}
    assert b"".join(store.open("b", model=MODEL).export("openai")) == b"[]"


@requires_corpus
def test_every_recorded_request_is_written_in_every_form(store: Store) -> None:
    """What real clients sent: the array is theirs, and each other form takes it."""
    for line in lines("blocking"):
        body = line["request"]["body"]
        chat = store.open(None, **settings_of(line))
        chat.append(*body["messages"], check=False)
        assert parsed(b"".join(chat.export("messages"))) == parsed(array(chat))
        assert json.loads(b"".join(chat.export("openai")))
        assert b"".join(chat.export("markdown")).startswith(b"# ")
        assert b"".join(chat.export("html")).endswith(b"</html>\n")
