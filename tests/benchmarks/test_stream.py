"""
What an event of a stream costs, against a bare loop that parses the same JSON.

Once decoded and folded alone, once through a socket and ``Conversation.stream``, journal and record and all.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Final

import pytest

from conversation_store import Client, Store
from conversation_store.api.stream import Accumulator, Decoder
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place
from tests.faulty import FaultyAPI, Sent

DELTAS: Final = 40_000
BUDGET: Final = 20e-6
"""Seconds of CPU that an event may cost beyond the parsing of its JSON."""
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
)
START: Final = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"claude-sonnet-5-5","content":[],"stop_reason":null,"usage":{"input_tokens":25,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
    b'{"type":"text","text":""}}\n\n'
)
END: Final = (
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":128000}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
EVENTS: Final = {
    "plain": b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word by word"}      }',
    "escaped": b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\u00e9t\\u00e9\\n"}}',
    "in an order of its own": b'{"index":0,"delta":{"text":" word","type":"text_delta"},"type":"content_block_delta"}',
}


def folded(chunks: list[bytes]) -> bytes:
    """Make a message of a stream."""
    decoder, accumulator = Decoder(), Accumulator()
    for chunk in chunks:
        for event in decoder.feed(chunk):
            accumulator.add(event)
    for event in decoder.close():
        accumulator.add(event)
    return accumulator.message()


def parsing(chunks: list[bytes]) -> Callable[[], None]:
    """Make the floor: find the lines of data, which here no chunk parts, and parse them."""
    whole = b"".join(chunks)

    def parse() -> None:
        for line in whole.splitlines():
            if line.startswith(b"data:"):
                json.loads(line[5:])

    return parse


def pieces(kind: str, count: int, size: int) -> list[bytes]:
    """Write an answer of so many deltas, in pieces of *size* bytes; 0 for a piece an event."""
    delta = b"event: content_block_delta\ndata: %s\n\n" % EVENTS[kind]
    if not size:
        return [START, *[delta] * count, END]
    data = START + delta * count + END
    return [data[n : n + size] for n in range(0, len(data), size)]


@pytest.mark.parametrize("size", [256, 8192])
@pytest.mark.parametrize("kind", EVENTS)
def test_event(beside: Beside, kind: str, size: int) -> None:
    """An answer of 40,000 deltas, in pieces as a socket gives them."""
    count = beside.turns(DELTAS)
    chunks = pieces(kind, count, size)
    cost = f"{count:,} deltas, {kind}"
    beside(cost, f"chunks of {size}", lambda: folded(chunks), {"parsing the same JSON": parsing(chunks)}, rounds=5)


@pytest.mark.parametrize("count", [10_000, 20_000, 40_000])
def test_length(beside: Beside, count: int) -> None:
    """Of a longer answer, an event costs no more: 128,000 tokens are 40,000 deltas."""
    deltas = beside.turns(count)
    chunks = pieces("plain", deltas, 256)
    cost = f"{deltas:,} deltas, plain"
    beside(cost, "chunks of 256", lambda: folded(chunks), {"parsing the same JSON": parsing(chunks)}, rounds=5)


@pytest.mark.parametrize(
    ("kind", "size", "count"),
    [
        *(("plain", 0, count) for count in (10_000, 20_000, DELTAS)),
        *(("plain", size, DELTAS) for size in (256, 8192)),
        *((kind, 0, DELTAS) for kind in EVENTS if kind != "plain"),
    ],
)
def test_event_from_a_socket(beside: Beside, memory: Place, kind: str, size: int, count: int) -> None:
    """The same through a socket and a conversation, each event shown; the CPU an event costs beside its budget."""
    count = beside.turns(count)
    chunks = pieces(kind, count, size)
    wire = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    parse = parsing(chunks)
    cpu: dict[str, list[float]] = {"ours": [], "floor": []}

    def measured(name: str, work: Callable[[], object]) -> None:
        begun = time.thread_time()
        work()
        cpu[name].append(time.thread_time() - begun)

    with (
        FaultyAPI(Sent(wire)) as api,
        Client("sk-ant-loopback", base_url=api.url) as client,
        Store(histories.url_of(memory.folder / "bot.db"), client=client) as store,
    ):

        def ask() -> None:
            with store.open(None, **histories.SETTINGS).stream("What is an ant?", check=False) as stream:
                shown = sum(1 for _ in stream)
                assert shown == count + 5
                assert len(stream.reply.raw_content) > count

        cost = f"{count:,} deltas, {kind}: Conversation.stream"
        where = f"socket, chunks of {size or 'an event'}"
        floor = "parsing the same JSON"
        beside(cost, where, lambda: measured("ours", ask), {floor: lambda: measured("floor", parse)}, rounds=5)
    if beside.measuring:
        ours, floors = (statistics.median(each) / count for each in (cpu["ours"], cpu["floor"]))
        beside.note("an event of these", f"{where}, CPU", ours, floors, floor)
        beside.note("an event of these beyond parsing", f"{where}, CPU", ours - floors, BUDGET, "what it may cost")
        if kind != "in an order of its own":
            assert ours - floors < BUDGET
