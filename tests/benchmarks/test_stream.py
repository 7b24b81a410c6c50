"""What an event of a stream costs: decoded and folded, against a bare loop that parses the same JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import pytest

from conversation_store.api.stream import Accumulator, Decoder
from tests.benchmarks.conftest import Beside

DELTAS: Final = 40_000
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


@pytest.mark.parametrize("size", [256, 8192])
@pytest.mark.parametrize("kind", EVENTS)
def test_event(beside: Beside, kind: str, size: int) -> None:
    """An answer of 40,000 deltas, in pieces as a socket gives them."""
    count = beside.turns(DELTAS)
    data = START + b"event: content_block_delta\ndata: %s\n\n" % EVENTS[kind] * count + END
    chunks = [data[n : n + size] for n in range(0, len(data), size)]
    cost = f"{count:,} deltas, {kind}"
    beside(cost, f"chunks of {size}", lambda: folded(chunks), {"parsing the same JSON": parsing(chunks)}, rounds=5)
