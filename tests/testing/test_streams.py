"""Streams of the loopback API: every order of events, every way to cut them, and the same message in the end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from conversation_store.testing import Answer, Fault, MessagesAPI, Streaming
from tests.testing.asking import ask, events, question, received, text

BLOCKS = [
    {"type": "thinking", "thinking": "Hm, yes.", "signature": "c2ln"},
    text("Let me check the weather."),
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich", "days": [1, 2]}},
    {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
]


def gathered(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the message that events add up to."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for each in told:
        if each["type"] == "message_start":
            message = dict(each["message"])
        elif each["type"] == "content_block_start":
            blocks[each["index"]] = dict(each["content_block"])
        elif each["type"] == "content_block_delta":
            for key, value in each["delta"].items():
                if key == "partial_json":
                    inputs[each["index"]] = inputs.get(each["index"], "") + value
                elif key != "type":
                    before = blocks[each["index"]].get(key)
                    blocks[each["index"]][key] = value if before is None else before + value
        elif each["type"] == "message_delta":
            message |= {key: value for key, value in each["delta"].items() if value is not None}
            message["usage"] = message["usage"] | each["usage"]
    for index, written in inputs.items():
        blocks[index]["input"] = json.loads(written or "{}")
    return message | {"content": [blocks[index] for index in sorted(blocks)]}


WAYS: list[tuple[str, Streaming, list[str]]] = [
    ("as usual", Streaming(), ["message_start", "content_block_start", "ping", "content_block_delta"]),
    ("a ping first", Streaming(pings=[0]), ["ping", "message_start", "content_block_start"]),
    ("a ping last", Streaming(pings=[99]), ["message_start", "content_block_start", "content_block_delta"]),
    ("no ping", Streaming(pings=[]), ["message_start", "content_block_start", "content_block_delta"]),
    ("pings everywhere", Streaming(pings=range(100)), ["ping", "message_start", "ping", "content_block_start"]),
    ("overlapping blocks", Streaming(overlap=True), ["message_start", "content_block_start", "ping"]),
    ("three message_delta", Streaming(message_deltas=3), ["message_start"]),
    ("other ends of lines", Streaming(newline="\r\n"), ["message_start"]),
    ("an unknown event", Streaming(extra={1: {"type": "sky", "colour": "blue"}}), ["message_start", "sky"]),
    ("paced", Streaming(pause=0.0005), ["message_start"]),
]


@pytest.mark.parametrize(("name", "how", "begins"), WAYS, ids=[way[0] for way in WAYS])
def test_every_way_to_stream_tells_the_same_message(
    api: MessagesAPI, name: str, how: Streaming, begins: list[str]
) -> None:
    """Whatever the order and the framing, the events add up to what the plain answer says."""
    answer = Answer(BLOCKS, streaming=how, id="msg_1")
    api.answer(answer, answer)
    plain = ask(api, question()).json
    reply = ask(api, question(stream=True))
    told = events(reply.raw.replace(b"\r\n", b"\n"))
    assert [event["type"] for event in told][: len(begins)] == begins
    assert told[-1]["type"] == ("ping" if 99 in (how.pings or ()) else "message_stop")
    assert gathered(told) == plain


def test_overlapping_blocks_alternate(api: MessagesAPI) -> None:
    """All blocks begin, their deltas take turns, and all end."""
    api.answer(Answer([text("one two three"), text("un deux trois")], streaming=Streaming(overlap=True, pings=[])))
    told = events(ask(api, question(stream=True)).raw)
    assert [event["index"] for event in told if event["type"] == "content_block_start"] == [0, 1]
    deltas = [event["index"] for event in told if event["type"] == "content_block_delta"]
    assert deltas[:6] == [0, 1, 0, 1, 0, 1]
    assert [event["type"] for event in told[-4:-2]] == ["content_block_stop"] * 2


def test_several_message_deltas_grow(api: MessagesAPI) -> None:
    """All but the last say nothing of the stop, and the output tokens they count grow."""
    api.answer(Answer("one two three four five six", streaming=Streaming(message_deltas=3)))
    told = [each for each in events(ask(api, question(stream=True)).raw) if each["type"] == "message_delta"]
    assert [each["delta"]["stop_reason"] for each in told] == [None, None, "end_turn"]
    counts = [each["usage"]["output_tokens"] for each in told]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize(
    ("extra", "sent"),
    [
        ({3: {"type": "sky", "colour": "blue"}}, b'event: sky\ndata: {"type":"sky","colour":"blue"}\n\n'),
        (
            {3: {"type": "content_block_delta", "index": 0, "delta": {"type": "glow_delta", "glow": 1}}},
            b'{"type":"content_block_delta","index":0,"delta":{"type":"glow_delta","glow":1}}',
        ),
        ({3: [b": a comment\n\n", b"data: [DONE]\n\n"]}, b": a comment\n\ndata: [DONE]\n\n"),
        ({99: b"event: late\n"}, b'"message_stop"}\n\nevent: late\n'),
    ],
)
def test_anything_can_be_put_between_events(api: MessagesAPI, extra: Any, sent: bytes) -> None:
    """Events and deltas nobody knows, comments and other bytes come where they were told to."""
    api.answer(Answer("Hello!", streaming=Streaming(extra=extra)))
    assert sent in ask(api, question(stream=True)).raw


def test_an_unknown_block_comes_whole(api: MessagesAPI) -> None:
    """A block of a kind nobody knows begins with all it has, and has no deltas."""
    new = {"type": "hologram", "data": {"z": 1}}
    api.answer(Answer([new]))
    told = events(ask(api, question(stream=True)).raw)
    assert told[1]["content_block"] == new
    assert "content_block_delta" not in {event["type"] for event in told}


def test_the_error_may_be_all_there_is(api: MessagesAPI) -> None:
    """Under status 200 the stream holds one event, an error."""
    api.fail(Fault.interrupt(0, kind="api_error", message="Oh."))
    reply = ask(api, question(stream=True))
    (error,) = events(reply.raw)
    assert (reply.status, error["type"], error["error"]) == (200, "error", {"type": "api_error", "message": "Oh."})


def test_a_stream_may_lack_its_content_type(api: MessagesAPI) -> None:
    """An empty header value leaves the header out."""
    api.answer(Answer("Hello!", headers={"content-type": ""}))
    reply = ask(api, question(stream=True))
    assert "content-type" not in {name.lower() for name in reply.headers}
    assert gathered(events(reply.raw))["content"] == [text("Hello!")]


def unchunked(body: bytes) -> list[bytes]:
    """Return the chunks of a body, the last one as far as it came."""
    chunks = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        chunks.append(body[:length])
        body = body[length + 2 :]
    return [chunk for chunk in chunks if chunk]


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("then", ["close", "reset", "stall"])
@pytest.mark.parametrize("after", [0, 1, 299, 300, 301, 700])
def test_a_stream_is_cut_after_exactly_so_many_bytes(api: MessagesAPI, after: int, then: Any, *, broken: bool) -> None:
    """Only the events' bytes count, whatever chunks they come in; a broken chunk announces more than comes."""
    answer = Answer("Hello there, and welcome!", id="msg_1")
    api.answer(answer, Fault.cut(after, then=then, broken=broken, answer=answer))
    whole = ask(api, question(stream=True)).raw
    body, reset = received(api, question(stream=True), timeout=0.3 if then == "stall" else 5)
    stalled = body.endswith(b"<stalled>")
    body = body.removesuffix(b"<stalled>")
    assert b"".join(unchunked(body)) == whole[:after] == api.requests[1].response
    assert (reset, stalled) == (then == "reset", then == "stall")
    assert body.endswith(b"\r\n") == (bool(after) and not broken)


@pytest.mark.parametrize("size", [1, 7, 4096, (1, 2, 3, 50)])
def test_a_stream_comes_in_pieces_of_any_size(api: MessagesAPI, size: Any) -> None:
    """Pieces need not keep to events, nor to characters; sizes may take turns."""
    api.answer(Fault.trickle(size, pause=0, answer="Zürich 🐜"))
    body, _ = received(api, question(stream=True), timeout=5)
    sizes = [len(chunk) for chunk in unchunked(body)]
    given = (size,) if isinstance(size, int) else size
    assert sizes[:-1] == [given[at % len(given)] for at in range(len(sizes) - 1)]
    assert gathered(events(b"".join(unchunked(body))))["content"] == [text("Zürich 🐜")]


def test_pieces_and_events_may_take_their_time(api: MessagesAPI) -> None:
    """Between two events, or two pieces, there is the pause that was asked for."""
    for scripted in (
        Answer("Hello!", streaming=Streaming(pause=0.01)),
        Fault.trickle(400, pause=0.03, answer="Hello!"),
    ):
        api.answer(scripted)
        started = time.monotonic()
        ask(api, question(stream=True))
        assert 0.06 <= time.monotonic() - started < 5


def test_the_start_of_a_stream_knows_nothing_of_its_end(api: MessagesAPI) -> None:
    """The reasons, the details, the container and what was spent come with the last message_delta."""
    details = {"type": "refusal", "category": None, "explanation": None}
    api.answer(
        Answer("Half", stop_reason="refusal", stop_details=details, container="container_1", usage={"iterations": []})
    )
    told = events(ask(api, question(stream=True)).raw)
    begun, ended = told[0]["message"], told[-2]
    assert [begun[key] for key in ("stop_reason", "stop_details", "container")] == [None, None, None]
    assert "iterations" not in begun["usage"]
    assert (ended["delta"]["stop_details"], ended["delta"]["container"]["id"]) == (details, "container_1")
    assert ended["usage"]["iterations"] == []
