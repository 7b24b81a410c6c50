"""Streams become events and messages: whatever the split of the bytes, and without writing anything anew."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import Any, Final

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from conversation_store.api import stream
from conversation_store.api.stream import (
    Accumulator,
    BlockStart,
    BlockStop,
    CitationDelta,
    CompactionDelta,
    Decoder,
    Event,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    StreamError,
    TextDelta,
    ThinkingDelta,
    UnknownDelta,
    UnknownEvent,
    decode_all,
)
from conversation_store.errors import CodecError
from conversation_store.record.exchange import Usage
from tests import corpus
from tests.corpus import requires_corpus
from tests.strategies import STRINGS, json_bytes, json_objects, parsed, same

MESSAGE: Final = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-a","content":[],"stop_reason":null,'
    b'"stop_sequence":null,"stop_details":null,"container":null,"usage":{"input_tokens":25,"output_tokens":1,'
    b'"cache_read_input_tokens":7,"service_tier":"standard"}}'
)
START: Final = b'{"type":"message_start","message":' + MESSAGE + b"}"
DELTA: Final = (
    b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}'
)
STOP: Final = b'{"type":"message_stop"}'
PING: Final = b'{"type": "ping"}'
ERROR: Final = (
    b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded",'
    b'"details":{"error_code":"compaction_unavailable"}},"request_id":"req_1"}'
)
TEXT: Final = b'{"type":"text","text":""}'
TOOL: Final = b'{"type":"tool_use","id":"toolu_1","name":"f","input":{}}'


def begin(index: int, block: bytes = TEXT) -> bytes:
    """Write the data of a block's start."""
    return b'{"type":"content_block_start","index":%d,"content_block":%s}' % (index, block)


def delta(index: int, inner: bytes) -> bytes:
    """Write the data of a delta."""
    return b'{"type":"content_block_delta","index":%d,"delta":%s}' % (index, inner)


def words(index: int, escaped: bytes) -> bytes:
    """Write the data of a text delta, its string as it stands between the quotes."""
    return delta(index, b'{"type":"text_delta","text":"%s"}' % escaped)


def piece(index: int, escaped: bytes) -> bytes:
    """Write the data of an input delta."""
    return delta(index, b'{"type":"input_json_delta","partial_json":"%s"}' % escaped)


def end(index: int) -> bytes:
    """Write the data of a block's end."""
    return b'{"type":"content_block_stop","index":%d}' % index


def framed(*data: bytes, newline: bytes = b"\n") -> bytes:
    """Frame data as the API does: an ``event`` line, a ``data`` line, an empty one."""
    return b"".join(
        b"event: %s%sdata: %s%s%s" % (json.loads(each)["type"].encode(), newline, each, newline, newline)
        for each in data
    )


def answer(*data: bytes) -> bytes:
    """Frame a whole answer around the events of its blocks."""
    return framed(START, *data, DELTA, STOP)


def fed(chunks: Iterable[bytes]) -> tuple[list[Event], str | None]:
    """Decode chunks: the events, and the fault that ended them."""
    decoder, events = Decoder(), []
    try:
        for chunk in chunks:
            events += decoder.feed(chunk)
        events += decoder.close()
    except CodecError as fault:
        return events, str(fault)
    return events, None


def folded(events: Iterable[Event]) -> Accumulator:
    """Fold events."""
    accumulator = Accumulator()
    for event in events:
        accumulator.add(event)
    return accumulator


def decoded(data: bytes) -> tuple[dict[str, Any], Accumulator]:
    """Decode a whole answer into its parsed message."""
    message, accumulator = decode_all(data)
    assert message is not None
    return parsed(message), accumulator


def block_of(*data: bytes, index: int = 0) -> tuple[bytes, Accumulator]:
    """Decode an answer of one block; give the block's bytes."""
    message, accumulator = decode_all(answer(*data, end(index)))
    assert message is not None
    before, _, rest = message.partition(b'"content":[')
    assert before + b'"content":[],"stop_reason"' == MESSAGE.partition(b":null")[0]
    return rest.rpartition(b'],"stop_reason":"end_turn"')[0], accumulator


def one(data: bytes) -> Event:
    """Decode a single event."""
    (event,), fault = fed([b"data: " + data + b"\n\n"])
    assert fault is None
    return event


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Split bytes at some places."""
    edges = [0, *sorted(places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


# --- Recordings ---------------------------------------------------------------------------------------------


@frozen
class Recording:
    """A recorded stream and the message the official SDK makes of it."""

    name: str
    data: bytes
    expected: Any


def recordings() -> list[Recording]:
    """Read every recorded stream; one kept as parsed events is framed again."""
    expected = {line["id"]: line["message"] for line in corpus.lines("expected_accumulated")}
    found = []
    for line in corpus.lines("streaming") + corpus.lines("response_only"):
        response = line["response"]
        if response["form"] == "sse":
            found.append(Recording(line["id"], response["sse"].encode(), expected[line["id"]]))
        elif response["form"] == "events":
            data = framed(*(json.dumps(event, ensure_ascii=False).encode() for event in response["events"]))
            found.append(Recording(line["id"], data, expected[line["id"]]))
    assert len(found) == len(expected) == 144
    return found


def without_null(value: Any) -> Any:
    """Leave out keys whose value is null, as the expected messages do."""
    if isinstance(value, dict):
        return {name: without_null(inner) for name, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def random_splits(data: bytes, seed: str, count: int) -> Iterator[list[bytes]]:
    """Split bytes at random places, few or many, the same ones at every run."""
    random = Random(seed)
    for _ in range(count):
        pieces = random.choice([2, 3, 10, 100, max(len(data) // 8, 2)])
        yield cut_at(data, random.choices(range(len(data) + 1), k=pieces - 1))


def agree(splits: Callable[[Recording], Iterable[Sequence[bytes]]]) -> None:
    """Check that every split of every recording gives the expected message, and the same bytes of it."""
    for recording in recordings():
        message, _ = decode_all(recording.data)
        assert message is not None
        for chunks in splits(recording):
            events, fault = fed(chunks)
            accumulator = folded(events)
            assert fault is None, recording.name
            assert accumulator.message() == message, recording.name
            assert (accumulator.unknown, accumulator.incomplete, accumulator.error) == (0, (), None), recording.name
        assert same(without_null(json.loads(message)), without_null(recording.expected)), recording.name


@requires_corpus
def test_recorded_streams_become_the_expected_messages() -> None:
    """Each of 144 recorded streams, fed whole, becomes the message two official SDKs make of it."""
    agree(lambda recording: [[recording.data]])


@requires_corpus
def test_recorded_streams_fed_byte_by_byte_become_the_same_messages() -> None:
    """One byte at a time gives the same message."""
    agree(lambda recording: [[recording.data[n : n + 1] for n in range(len(recording.data))]])


@requires_corpus
def test_recorded_streams_split_at_random_become_the_same_messages() -> None:
    """Twenty random splits of each recording give the same message."""
    agree(lambda recording: random_splits(recording.data, recording.name, 20))


@requires_corpus
@pytest.mark.long
def test_recorded_streams_split_at_random_a_hundred_times() -> None:
    """A hundred random splits of each recording give the same message."""
    agree(lambda recording: random_splits(recording.data, "long " + recording.name, 100))


@requires_corpus
@pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
def test_recorded_streams_with_other_line_ends_become_the_same_messages(newline: bytes) -> None:
    """The line ends of the protocol make no difference."""
    for recording in recordings():
        assert decode_all(recording.data.replace(b"\n", newline))[0] == decode_all(recording.data)[0]


@requires_corpus
def test_recorded_blocks_keep_the_bytes_they_arrived_in() -> None:
    """A block that has no deltas is in the message as it stood in its start event."""
    count = 0
    for recording in recordings():
        events, _ = fed([recording.data])
        grown = {each.index for each in events if isinstance(each, InputDelta | TextDelta | ThinkingDelta)}
        grown |= {each.index for each in events if isinstance(each, CompactionDelta | CitationDelta)}
        message = folded(events).message()
        for event in events:
            if isinstance(event, BlockStart) and event.index not in grown:
                assert event.wire in event.raw
                assert event.wire in message
                count += 1
    assert count > 30


@requires_corpus
def test_recorded_streams_cut_at_every_byte_are_whole_only_with_message_stop() -> None:
    """The twenty shortest recordings, cut anywhere: never called whole before ``message_stop``, always after it."""
    for recording in sorted(recordings(), key=lambda each: len(each.data))[:20]:
        cut_everywhere(recording.data)


# --- Framing ------------------------------------------------------------------------------------------------

RICH: Final = framed(
    START,
    PING,
    begin(0, b'{"type":"thinking","thinking":"","signature":""}'),
    delta(0, b'{"type":"thinking_delta","thinking":"Hm \\u00e9"}'),
    delta(0, b'{"type":"signature_delta","signature":"c2ln"}'),
    end(0),
    begin(1),
    words(1, b"Let me \xc3\xa9\xf0\x9f\x90\x9c "),
    words(1, b"check.\\n"),
    end(1),
    begin(2, TOOL),
    piece(2, b""),
    piece(2, b'{\\"ci'),
    piece(2, b'ty\\": 1.0}'),
    end(2),
    DELTA,
    STOP,
)


def test_every_single_cut_gives_the_same_events() -> None:
    """Wherever a stream is split in two, with any line ends, the events are the same."""
    for newline in (b"\n", b"\r\n", b"\r"):
        data = RICH.replace(b"\n", newline)
        expected = fed([RICH])
        assert len(expected[0]) == 17
        for place in range(len(data) + 1):
            assert fed(cut_at(data, [place])) == expected


FRAMINGS: Final = {
    "as the API writes it": b"event: ping\ndata: %s\n\n",
    "CRLF": b"event: ping\r\ndata: %s\r\n\r\n",
    "CR": b"event: ping\rdata: %s\r\r",
    "mixed line ends": b"event: ping\r\ndata: %s\n\r",
    "a byte order mark": b"\xef\xbb\xbfevent: ping\ndata: %s\n\n",
    "a byte order mark before the data": b"\xef\xbb\xbfdata: %s\n\n",
    "comments": b": hello\n:\n\nevent: ping\n:again\ndata: %s\n: and again\n\n",
    "no space after the colon": b"event:ping\ndata:%s\n\n",
    "no event line": b"data: %s\n\n",
    "another event's name": b"event: message_stop\ndata: %s\n\n",
    "an unknown event's name": b"event: \xff\ndata: %s\n\n",
    "the event line last": b"data: %s\nevent: ping\n\n",
    "other fields": b"id: 1\nretry: 10\nnonsense\ndata: %s\nevent\n\n",
    "no blank line at the end": b"event: ping\ndata: %s\n",
    "no line end at the end": b"event: ping\ndata: %s",
    "no line end but a CR": b"event: ping\ndata: %s\r",
    "many blank lines": b"\n\n\r\n\ndata: %s\n\n\n\n",
    "empty events around it": b"event: error\n\ndata:\n\ndata\n\ndata: %s\n\nevent: error\n\n",
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_an_event_is_read_in_every_framing(name: str) -> None:
    """However a line ends and whatever stands around the data, the event is the same, split or not."""
    data = FRAMINGS[name] % PING
    assert fed([data]) == ([Ping(PING)], None)
    assert fed([data[n : n + 1] for n in range(len(data))]) == ([Ping(PING)], None)
    assert fed([b"", *cut_at(data, [len(data) // 2]), b""]) == ([Ping(PING)], None)


def test_data_on_several_lines_is_one_event() -> None:
    """Lines of data are joined by a line feed, which is white space to JSON."""
    data = b'data: {"type":"content_block_delta",\r\ndata: "index":3,\rdata:"delta":{"type":"text_delta",\n'
    data += b'data:   "text":"a"\ndata:}}\n\n'
    raw = b'{"type":"content_block_delta",\n"index":3,\n"delta":{"type":"text_delta",\n  "text":"a"\n}}'
    assert fed([data]) == ([TextDelta(3, "a", b"a", raw)], None)


def test_an_event_without_a_type_goes_by_its_name() -> None:
    """Where the data names no type, the event line does."""
    assert fed([b'event: ping\ndata: {"a":1}\n\n']) == ([Ping(b'{"a":1}')], None)
    assert fed([b'event: ping\ndata: {"type":7}\n\n']) == ([Ping(b'{"type":7}')], None)
    assert fed([b'data: {"a":1}\n\n']) == ([UnknownEvent("", b'{"a":1}')], None)


def test_a_name_lasts_one_event() -> None:
    """The name of an event is not that of the next."""
    assert fed([b"event: ping\ndata: 1\n\ndata: 2\n\n"]) == ([Ping(b"1"), UnknownEvent("", b"2")], None)


@pytest.mark.parametrize("data", [b"[DONE]", b"1", b"[]", b"null", b"\xff"])
def test_data_that_is_no_object_is_passed_over(data: bytes) -> None:
    """A line some gateway adds is an unknown event; under the name of one of the API's events it is a fault."""
    assert fed([b"data: " + data + b"\n\n"]) == ([UnknownEvent("", data)], None)
    assert fed([b"event: chat\ndata: " + data + b"\n\n"]) == ([UnknownEvent("chat", data)], None)
    events, fault = fed([b"event: message_stop\ndata: " + data + b"\n\n"])
    assert (events, fault is None) == ([], False)


def test_an_error_that_is_no_json_is_an_error() -> None:
    """Whatever a gateway writes under ``event: error`` ends the answer."""
    assert fed([b"event: error\ndata: upstream \xff gone\n\n"]) == (
        [StreamError(None, "upstream \ufffd gone", None, None, b"upstream \xff gone")],
        None,
    )


FAULTS: Final = {
    "broken JSON": b'{"type":"ping"',
    "bytes that are not UTF-8": b'{"type":"message_stop","a":"\xff"}',
    "text that is not UTF-8": words(0, b"\xff"),
    "a wrong escape": words(0, b"\\x"),
    "half an escape": words(0, b"\\u12"),
    "a control character": words(0, b"\x01"),
    "no index": b'{"type":"content_block_stop"}',
    "an index that is no number": b'{"type":"content_block_stop","index":"0"}',
    "an index that is true": b'{"type":"content_block_stop","index":true}',
    "a negative index": b'{"type":"content_block_stop","index":-1}',
    "no message": b'{"type":"message_start"}',
    "a message that is no object": b'{"type":"message_start","message":[]}',
    "no block": b'{"type":"content_block_start","index":0}',
    "no delta": b'{"type":"content_block_delta","index":0}',
    "no delta of the message": b'{"type":"message_delta"}',
    "too deep": b'{"a":' * 201 + b"1" + b"}" * 201,
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_read_is_a_fault_after_the_events_before_it(name: str) -> None:
    """A broken event raises once the events before it are handed over, at the same place for every split."""
    data = framed(PING, PING) + b"data: " + FAULTS[name] + b"\n\n" + framed(PING)
    events, fault = fed([data])
    assert events == [Ping(PING), Ping(PING)]
    assert fault is not None
    assert fed([data[n : n + 1] for n in range(len(data))]) == (events, fault)
    assert fed(cut_at(data, [len(framed(PING)) + 3])) == (events, fault)


def test_a_fault_is_final() -> None:
    """After a fault every call raises it again."""
    decoder = Decoder()
    assert decoder.feed(framed(PING) + b"data: {\n\n" + framed(PING)) == [Ping(PING)]
    for chunk in (framed(PING), b""):
        with pytest.raises(CodecError, match="without a name"):
            decoder.feed(chunk)
    with pytest.raises(CodecError, match="without a name"):
        decoder.close()


def test_an_event_over_the_limit_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one long line nor many short ones nor a line that never ends is gathered beyond the limit."""
    monkeypatch.setattr(stream, "EVENT_LIMIT", 200)
    kept = b"data: " + b"1" * 190 + b"\n\n"
    for long in (b"data: " + b"1" * 200 + b"\n\n", b"data: 1\n" * 100, b"x" * 201, b":" * 201 + b"\n"):
        data = kept * 3 + long
        expected = fed([data])
        assert len(expected[0]) == 3
        assert expected[1] == "an event of more than 200 bytes"
        assert fed([data[n : n + 1] for n in range(len(data))]) == expected
        assert fed([data[n : n + 7] for n in range(0, len(data), 7)]) == expected
    assert fed([b": a comment\n" * 100 + kept])[1] is None


def test_close_may_be_called_again_and_ends_the_stream() -> None:
    """Closing twice gives nothing more; bytes after it are refused."""
    decoder = Decoder()
    assert decoder.feed(b"data: " + PING) == []
    assert decoder.close() == [Ping(PING)]
    assert decoder.close() == []
    with pytest.raises(CodecError, match="after the end"):
        decoder.feed(b"data")


@pytest.mark.parametrize(
    "tail", [b'data: {"type":"pi', b"data: [DO", b"event: ping", b"data", b"\xef\xbb", b"data: {}\nx"]
)
def test_an_event_cut_in_the_middle_is_dropped(tail: bytes) -> None:
    """What the end of the bytes cuts is no event and no fault, unless it is there but for its line ends."""
    whole = tail.startswith(b"data: {}")
    assert fed([framed(PING) + tail]) == ([Ping(PING), *([UnknownEvent("", b"{}")] if whole else [])], None)


# --- Events -------------------------------------------------------------------------------------------------

EVENTS: Final[dict[str, tuple[bytes, Callable[[bytes], Event]]]] = {
    "message_start": (START, lambda raw: MessageStart("msg_1", "claude-a", MESSAGE, raw)),
    "content_block_start": (
        begin(2, b'{ "type":"text" }'),
        lambda raw: BlockStart(2, "text", b'{ "type":"text" }', raw),
    ),
    "text": (words(1, b"a\\n\\u00e9\xc3\xa9"), lambda raw: TextDelta(1, "a\néé", b"a\\n\\u00e9\xc3\xa9", raw)),
    "empty text": (words(1, b""), lambda raw: TextDelta(1, "", b"", raw)),
    "padded": (words(1, b"a")[:-1] + b"      }", lambda raw: TextDelta(1, "a", b"a", raw)),
    "text, keys in another order": (
        b'{"index":1,"delta":{"text":"a\\tb","type":"text_delta"},"type":"content_block_delta"}',
        lambda raw: TextDelta(1, "a\tb", b"a\\tb", raw),
    ),
    "text, more keys": (
        b'{"type":"content_block_delta","new":1,"index":1,"delta":{"type":"text_delta","text":"\\ud83d","new":[]}}',
        lambda raw: TextDelta(1, "\ud83d", b"\\ud83d", raw),
    ),
    "thinking": (
        delta(0, b'{"type":"thinking_delta","thinking":"x"}'),
        lambda raw: ThinkingDelta(0, "x", b"x", raw),
    ),
    "thinking, with an estimate": (
        delta(0, b'{"type":"thinking_delta","thinking":"x","estimated_tokens":12}'),
        lambda raw: ThinkingDelta(0, "x", b"x", raw),
    ),
    "signature": (
        delta(0, b'{"type":"signature_delta","signature":"c2ln"}'),
        lambda raw: SignatureDelta(0, "c2ln", b"c2ln", raw),
    ),
    "input": (piece(7, b'{\\"a'), lambda raw: InputDelta(7, '{"a', b'{\\"a', raw)),
    "citation": (
        delta(0, b'{"type":"citations_delta","citation":{"n": 1.0}}'),
        lambda raw: CitationDelta(0, {"n": 1.0}, b'{"n": 1.0}', raw),
    ),
    "compaction": (
        delta(0, b'{"type":"compaction_delta","content":"c"}'),
        lambda raw: CompactionDelta(0, "c", b'{"type":"compaction_delta","content":"c"}', raw),
    ),
    "a failed compaction": (
        delta(0, b'{"type":"compaction_delta","content":null}'),
        lambda raw: CompactionDelta(0, None, b'{"type":"compaction_delta","content":null}', raw),
    ),
    "a new delta": (delta(0, b'{"type":"video_delta","text":"a"}'), lambda raw: UnknownDelta(0, "video_delta", raw)),
    "a new delta of one string": (delta(0, b'{"type":"a_delta","a":"b"}'), lambda raw: UnknownDelta(0, "a_delta", raw)),
    "a delta without a type": (delta(0, b"{}"), lambda raw: UnknownDelta(0, "", raw)),
    "a text that is no string": (
        delta(0, b'{"type":"text_delta","text":null}'),
        lambda raw: UnknownDelta(0, "text_delta", raw),
    ),
    "a text delta without text": (
        delta(0, b'{"type":"text_delta","thinking":"a"}'),
        lambda raw: UnknownDelta(0, "text_delta", raw),
    ),
    "a citation delta without one": (
        delta(0, b'{"type":"citations_delta"}'),
        lambda raw: UnknownDelta(0, "citations_delta", raw),
    ),
    "content_block_stop": (end(4), lambda raw: BlockStop(4, raw)),
    "message_delta": (
        DELTA,
        lambda raw: MessageDelta("end_turn", Usage(output_tokens=15, raw={"output_tokens": 15}), raw),
    ),
    "message_delta without usage": (
        b'{"type":"message_delta","delta":{}}',
        lambda raw: MessageDelta(None, Usage(), raw),
    ),
    "message_stop": (STOP, MessageStop),
    "ping": (PING, Ping),
    "error": (
        ERROR,
        lambda raw: StreamError("overloaded_error", "Overloaded", "compaction_unavailable", "req_1", raw),
    ),
    "an error of no shape": (
        b'{"type":"error","error":"x"}',
        lambda raw: StreamError(None, "the API broke the answer off", None, None, raw),
    ),
    "a new event": (b'{"type":"weather","index":0}', lambda raw: UnknownEvent("weather", raw)),
}


@pytest.mark.parametrize("name", EVENTS)
def test_every_kind_of_event_is_read(name: str) -> None:
    """Each event becomes the value of its kind, with the bytes it was read from."""
    data, expected = EVENTS[name]
    assert one(data) == expected(data)


def test_no_event_shows_its_bytes() -> None:
    """What is logged of an event is not the raw data."""
    assert repr(one(words(0, b"hello"))) == "TextDelta(index=0, text='hello')"


# --- Folding ------------------------------------------------------------------------------------------------

COMPACTION: Final = b'{"type":"compaction","content":null,"encrypted_content":null,"signature":"s"}'
BLOCKS: Final[dict[str, tuple[bytes, list[bytes], bytes]]] = {
    "text": (TEXT, [words(0, b"a\\n"), words(0, b""), words(0, b"\xc3\xa9")], b'{"type":"text","text":"a\\n\xc3\xa9"}'),
    "text without deltas": (TEXT, [], TEXT),
    "text that began with some": (
        b'{"text" : "A", "type":"text"}',
        [words(0, b"b")],
        b'{"text" : "Ab", "type":"text"}',
    ),
    "text that began without": (b'{"type":"text"}', [words(0, b"b")], b'{"type":"text","text":"b"}'),
    "text that began with null": (b'{"type":"text","text":null}', [words(0, b"b")], b'{"type":"text","text":"b"}'),
    "keys twice": (b'{"type":"text","text":1,"text":""}', [words(0, b"b")], b'{"type":"text","text":1,"text":"b"}'),
    "unknown keys": (
        b'{ "new":{"n":1e400},"type":"text","text":"","z":null }',
        [words(0, b"b")],
        b'{ "new":{"n":1e400},"type":"text","text":"b","z":null }',
    ),
    "a surrogate pair in two deltas": (
        TEXT,
        [words(0, b"\\ud83d"), words(0, b"\\ude00")],
        b'{"type":"text","text":"\\ud83d\\ude00"}',
    ),
    "half a surrogate pair": (TEXT, [words(0, b"\\ud83d")], b'{"type":"text","text":"\\ud83d"}'),
    "citations from null": (
        b'{"type":"text","citations":null,"text":""}',
        [
            words(0, b"a"),
            delta(0, b'{"type":"citations_delta","citation":{"n": 1.0}}'),
            delta(0, b'{"type":"citations_delta","citation":{"n":12345678901234567890123}}'),
        ],
        b'{"type":"text","citations":[{"n": 1.0},{"n":12345678901234567890123}],"text":"a"}',
    ),
    "citations after others": (
        b'{"type":"text","text":"","citations":[ {"n":0} ]}',
        [delta(0, b'{"type":"citations_delta","citation":1}')],
        b'{"type":"text","text":"","citations":[ {"n":0} ,1]}',
    ),
    "citations after none": (
        b'{"type":"text","text":"","citations":[ ]}',
        [delta(0, b'{"type":"citations_delta","citation":1}')],
        b'{"type":"text","text":"","citations":[1]}',
    ),
    "citations where there were not any": (
        TEXT,
        [delta(0, b'{"type":"citations_delta","citation":{}}')],
        b'{"type":"text","text":"","citations":[{}]}',
    ),
    "thinking": (
        b'{"type":"thinking","thinking":"","signature":""}',
        [
            delta(0, b'{"type":"thinking_delta","thinking":"a\\/"}'),
            delta(0, b'{"type":"thinking_delta","thinking":"b","estimated_tokens":3}'),
            delta(0, b'{"type":"signature_delta","signature":"one"}'),
            delta(0, b'{"type":"signature_delta","signature":"two"}'),
        ],
        b'{"type":"thinking","thinking":"a\\/b","signature":"two"}',
    ),
    "thinking that is omitted": (
        b'{"type":"thinking","thinking":""}',
        [delta(0, b'{"type":"signature_delta","signature":"s"}')],
        b'{"type":"thinking","thinking":"","signature":"s"}',
    ),
    "input": (
        TOOL,
        [piece(0, b""), piece(0, b'{ \\"a\\":1.0,\\"b'), piece(0, b'\\": 12345678901234567890123, \\"a\\":1e400 }\\n')],
        b'{"type":"tool_use","id":"toolu_1","name":"f","input":{ "a":1.0,"b": 12345678901234567890123, "a":1e400 }\n}',
    ),
    "no input": (TOOL, [], TOOL),
    "empty input": (TOOL, [piece(0, b""), piece(0, b"")], TOOL),
    "input that came at once": (TOOL.replace(b"{}", b'{"a": 1}'), [], TOOL.replace(b"{}", b'{"a": 1}')),
    "no input where there was none": (
        b'{"type":"server_tool_use","id":"s"}',
        [],
        b'{"type":"server_tool_use","id":"s","input":{}}',
    ),
    "input where there was none": (
        b'{"type":"mcp_tool_use"}',
        [piece(0, b"{}")],
        b'{"type":"mcp_tool_use","input":{}}',
    ),
    "an escape of the input in two deltas": (
        TOOL,
        [piece(0, b'{\\"a\\":\\"\\\\ud8'), piece(0, b'3d\\\\ude00\\"}')],
        TOOL.replace(b"{}", b'{"a":"\\ud83d\\ude00"}'),
    ),
    "a character of the input in two deltas": (
        TOOL,
        [piece(0, b'{\\"a\\":\\"\\ud83d'), piece(0, b'\\ude00\\"}')],
        TOOL.replace(b"{}", b'{"a":"\xf0\x9f\x98\x80"}'),
    ),
    "half a character in the input": (
        TOOL,
        [piece(0, b'{\\"a\\":\\"\\ud83d\\"}')],
        TOOL.replace(b"{}", b'{"a":"\\ud83d"}'),
    ),
    "compaction": (
        COMPACTION,
        [delta(0, b'{"type":"compaction_delta","content":"c\\u00e9","encrypted_content":"e"}')],
        b'{"type":"compaction","content":"c\\u00e9","encrypted_content":"e","signature":"s"}',
    ),
    "compaction without encryption": (
        b'{"type":"compaction","content":null}',
        [delta(0, b'{"type":"compaction_delta","content":"c"}')],
        b'{"type":"compaction","content":"c"}',
    ),
    "a result that came whole": (
        b'{ "type" : "web_search_tool_result", "content":[{"page_age":null,"n":1.50}] }',
        [],
        b'{ "type" : "web_search_tool_result", "content":[{"page_age":null,"n":1.50}] }',
    ),
    "a block newer than this library": (
        b'{"type":"connector_text"}',
        [words(0, b"a"), delta(0, b'{"type":"signature_delta","signature":"s"}')],
        b'{"type":"connector_text","text":"a","signature":"s"}',
    ),
    "a block without a type": (b"{}", [words(0, b"a")], b'{"text":"a"}'),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_folded_without_being_written_anew(name: str) -> None:
    """Every delta does what the documentation says, and all bytes it does not speak of stay as they came."""
    block, deltas, expected = BLOCKS[name]
    written, accumulator = block_of(begin(0, block), *deltas)
    assert written == expected
    assert accumulator.incomplete == ()
    assert accumulator.fault is None


INCOMPLETE: Final[dict[str, tuple[bytes, list[bytes], bytes]]] = {
    "an input cut off": (TOOL, [piece(0, b'{\\"a'), piece(0, b"\\\\u00")], TOOL.replace(b"{}", b'"{\\"a\\\\u00"')),
    "an input of two values": (TOOL, [piece(0, b"{}{}")], TOOL.replace(b"{}", b'"{}{}"')),
    "an input that is no object": (TOOL, [piece(0, b"[1]")], TOOL.replace(b"{}", b'"[1]"')),
    "an input that is a bomb": (TOOL, [piece(0, b"[" * 300)], TOOL.replace(b"{}", b'"%s"' % (b"[" * 300))),
    "an unknown delta": (TEXT, [words(0, b"a"), delta(0, b'{"type":"b_delta"}'), words(0, b"c")], TEXT[:-2] + b'ac"}'),
    "a delta of another kind of block": (TOOL, [words(0, b"a")], TOOL),
    "an input for a text": (TEXT, [piece(0, b"{}")], TEXT),
    "a citation of a tool call": (TOOL, [delta(0, b'{"type":"citations_delta","citation":{}}')], TOOL),
    "a signature of a text": (TEXT, [delta(0, b'{"type":"signature_delta","signature":"s"}')], TEXT),
    "a compaction of a text": (TEXT, [delta(0, b'{"type":"compaction_delta","content":"s"}')], TEXT),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_what_is_not_understood_marks_its_block(name: str) -> None:
    """A block that must not be sent back is marked; a broken input is kept as the string of what came."""
    block, deltas, expected = INCOMPLETE[name]
    written, accumulator = block_of(begin(0, block), *deltas)
    assert written == expected
    assert accumulator.incomplete == (0,)
    assert accumulator.whole
    assert accumulator.unknown == 0


def test_overlapping_blocks_are_kept_apart_and_in_order() -> None:
    """Deltas of several blocks may be interleaved, and indices may come in any order and with gaps."""
    message, accumulator = decoded(
        answer(
            begin(5, TOOL),
            begin(0),
            piece(5, b'{\\"a'),
            words(0, b"x"),
            begin(2, b'{"type":"thinking","thinking":""}'),
            end(0),
            piece(5, b'\\":1}'),
            delta(2, b'{"type":"new_delta"}'),
            words(0, b"y"),
            end(5),
            end(2),
        )
    )
    assert [block["type"] for block in message["content"]] == ["text", "thinking", "tool_use"]
    assert message["content"][0]["text"] == accumulator.text == "xy"
    assert message["content"][2]["input"] == {"a": 1}
    assert accumulator.incomplete == (1,)


def test_pings_and_unknown_events_change_nothing() -> None:
    """Pings may come anywhere, first too; unknown events are counted."""
    plain = answer(begin(0), words(0, b"a"), end(0))
    mixed = b"".join(framed(PING) + b": hi\n\ndata: {}\n\n" + each + b"\n\n" for each in plain.split(b"\n\n")[:-1])
    message, accumulator = decode_all(mixed)
    assert message == decode_all(plain)[0]
    assert accumulator.unknown == 6
    assert decode_all(plain)[1].unknown == 0


@pytest.mark.parametrize("before", [(), (PING,), (START,), (START, begin(0), words(0, b"a"))])
def test_an_error_breaks_the_answer_off(before: Sequence[bytes]) -> None:
    """After an error nothing is folded, whatever comes; what came before is kept."""
    data = framed(*before, ERROR, PING, words(0, b"b"), STOP)
    message, accumulator = decode_all(data)
    assert message is None
    assert accumulator.error is not None
    assert accumulator.error.kind == "overloaded_error"
    assert (accumulator.whole, accumulator.fault, accumulator.unknown) == (False, None, 2)
    assert accumulator.text == ("a" if len(before) == 3 else "")
    with pytest.raises(CodecError, match="message_stop did not come"):
        accumulator.message()
    partial = accumulator.partial()
    assert partial == (b"{}" if START not in before else MESSAGE.replace(b"[]", b"[%s]" % wrote(accumulator)))


def wrote(accumulator: Accumulator) -> bytes:
    """Write the one text block that may have begun."""
    return b'{"type":"text","text":"a"}' if accumulator.text else b""


def test_what_follows_the_end_is_counted_and_nothing_else() -> None:
    """A whole answer stays whole and as it is."""
    plain = answer(begin(0), words(0, b"a"), end(0))
    message, accumulator = decode_all(plain + framed(PING, words(0, b"b"), ERROR, START, STOP) + b"data: [DONE]\n\n")
    assert message == decode_all(plain)[0]
    assert accumulator.whole
    assert accumulator.error is None
    assert accumulator.unknown == 5


def test_a_fault_after_the_end_leaves_the_answer_whole() -> None:
    """Bytes that cannot be read after ``message_stop`` take nothing from what came before."""
    message, accumulator = decode_all(answer(begin(0), end(0)) + b"data: {\n\n")
    assert message is not None
    assert accumulator.fault is not None


def test_the_end_of_the_bytes_is_not_the_end_of_the_answer() -> None:
    """Without ``message_stop`` an answer with a stop reason is not whole."""
    message, accumulator = decode_all(framed(START, begin(0), words(0, b"a"), end(0), DELTA))
    assert message is None
    assert (accumulator.whole, accumulator.error, accumulator.fault) == (False, None, None)
    assert json.loads(accumulator.partial())["stop_reason"] == "end_turn"
    assert accumulator.incomplete == ()


def test_a_partial_answer_has_everything_that_arrived() -> None:
    """Blocks that were not ended are there and marked; an input in the making is a string."""
    _, accumulator = decode_all(framed(START, begin(0), words(0, b"a"), end(0), begin(1, TOOL), piece(1, b'{\\"a')))
    partial = json.loads(accumulator.partial())
    assert partial["content"] == [{"type": "text", "text": "a"}, {**json.loads(TOOL), "input": '{"a'}]
    assert partial["usage"]["output_tokens"] == 1
    assert accumulator.incomplete == (1,)


def test_a_whole_answer_needs_no_end_of_its_blocks() -> None:
    """Where ``message_stop`` came, a block whose end did not is complete."""
    _, accumulator = decode_all(answer(begin(0), words(0, b"a")))
    assert accumulator.whole
    assert accumulator.incomplete == ()


ORDERS: Final = {
    "a block before the message": [begin(0)],
    "a delta before the message": [words(0, b"a")],
    "the end before the message": [STOP],
    "a message delta before the message": [DELTA],
    "two messages": [START, START],
    "a delta of no block": [START, begin(0), words(1, b"a")],
    "an unknown delta of no block": [START, delta(1, b'{"type":"new"}')],
    "the end of no block": [START, end(0)],
    "a block twice": [START, begin(0), end(0), begin(0)],
    "a message whose content is no array": [START.replace(b"[]", b"1")],
    "a message whose content is no blocks": [START.replace(b"[]", b"[1]")],
}


@pytest.mark.parametrize("name", ORDERS)
def test_events_that_cannot_follow_are_a_fault(name: str) -> None:
    """An order that would lose something raises and folds nothing of the event."""
    *before, last = ORDERS[name]
    accumulator = folded(map(one, before))
    held = accumulator.partial()
    for event in (one(last), one(STOP)):  # the end does not make whole what has lost something
        with pytest.raises(CodecError) as raised:
            accumulator.add(event)
        assert raised.value is accumulator.fault
    assert accumulator.partial() == held
    assert not accumulator.whole
    assert decode_all(framed(*before, last, STOP))[1].fault is not None


def test_content_of_the_start_is_kept() -> None:
    """Blocks that message_start brings are the first ones."""
    start = START.replace(b'"content":[]', b'"content":[ {"type":"text", "text":"a"} ]')
    _, accumulator = decode_all(framed(start, begin(1), words(1, b"b")))
    assert b'"content":[{"type":"text", "text":"a"},{"type":"text","text":"b"}]' in accumulator.partial()
    assert accumulator.incomplete == (1,)


def message_with(*deltas: bytes, start: bytes = START) -> bytes:
    """Decode an answer without content whose message deltas are these; give its bytes."""
    message, accumulator = decode_all(framed(start, *(b'{"type":"message_delta",%s}' % each for each in deltas), STOP))
    assert accumulator.fault is None
    assert message is not None
    return message


MESSAGES: Final[dict[str, tuple[list[bytes], list[tuple[bytes, bytes]]]]] = {
    "nothing": ([b'"delta":{},"usage":{}'], []),
    "no usage": ([b'"delta":{}'], []),
    "a stop reason": (
        [b'"delta":{"stop_reason":"stop_sequence","stop_sequence":"\\u00e9"}'],
        [(b'"stop_reason":null,"stop_sequence":null', b'"stop_reason":"stop_sequence","stop_sequence":"\\u00e9"')],
    ),
    "the last stop reason": (
        [b'"delta":{"stop_reason":"a","stop_sequence":"s"}', b'"delta":{"stop_reason":"b","stop_sequence":null}'],
        [(b'"stop_reason":null', b'"stop_reason":"b"')],
    ),
    "stop details": (
        [b'"delta":{"stop_reason":"refusal","stop_details":{"type":"refusal", "n":1.0}}'],
        [
            (b'"stop_reason":null', b'"stop_reason":"refusal"'),
            (b'_details":null', b'_details":{"type":"refusal", "n":1.0}'),
        ],
    ),
    "a container": ([b'"delta":{"container":{"id":"c"}}'], [(b'"container":null', b'"container":{"id":"c"}')]),
    "a container, then null": (
        [b'"delta":{"container":{"id":"c"}}', b'"delta":{"container":null}'],
        [(b'"container":null', b'"container":{"id":"c"}')],
    ),
    "usage, its spelling kept": (
        [b'"delta":{},"usage":{"output_tokens":1.5e1,"input_tokens":12345678901234567890123}'],
        [(b'"input_tokens":25,"output_tokens":1', b'"input_tokens":12345678901234567890123,"output_tokens":1.5e1')],
    ),
    "usage with nulls": (
        [b'"delta":{},"usage":{"input_tokens":null,"output_tokens":3,"service_tier":null,"new":null}'],
        [(b'"output_tokens":1', b'"output_tokens":3')],
    ),
    "usage twice": (
        [b'"delta":{},"usage":{"output_tokens":3,"input_tokens":30}', b'"delta":{},"usage":{"output_tokens":4}'],
        [(b'"input_tokens":25,"output_tokens":1', b'"input_tokens":30,"output_tokens":4')],
    ),
    "new usage": (
        [b'"delta":{},"usage":{"iterations":[ 1 ],"\\ud800":2}'],
        [(b'"standard"}', b'"standard","iterations":[ 1 ],"\\ud800":2}')],
    ),
    "beta siblings": (
        [b'"delta":{},"context_management":{"applied_edits":[ ]},"input_transformations":[{}]'],
        [(b'"standard"}}', b'"standard"},"context_management":{"applied_edits":[ ]},"input_transformations":[{}]}')],
    ),
    "beta siblings, overwritten": (
        [b'"delta":{},"context_management":{"a":1}', b'"delta":{},"context_management":{"b":2}'],
        [(b'"standard"}}', b'"standard"},"context_management":{"b":2}}')],
    ),
    "a beta sibling that is null": (
        [b'"delta":{},"context_management":null', b'"delta":{},"context_management":null'],
        [(b'"standard"}}', b'"standard"},"context_management":null}')],
    ),
    "a beta sibling, then null": (
        [b'"delta":{},"context_management":{"a":1}', b'"delta":{},"context_management":null'],
        [(b'"standard"}}', b'"standard"},"context_management":{"a":1}}')],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_delta_overwrites_what_it_says(name: str) -> None:
    """Stop fields are overwritten, counters and beta fields where not null; everything else stays as it began."""
    deltas, changes = MESSAGES[name]
    expected = MESSAGE
    for old, new in changes:
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    assert message_with(*deltas) == expected


def test_input_transformations_of_the_start_survive_null() -> None:
    """A beta field that message_start brought is overwritten by a value, not by null."""
    start = START.replace(b'"container":null', b'"input_transformations":[1]')
    assert b'"input_transformations":[1]' in message_with(b'"delta":{},"input_transformations":null', start=start)
    assert b'"input_transformations":[2]' in message_with(b'"delta":{},"input_transformations":[2]', start=start)


def test_a_message_without_usage_gets_what_the_delta_counts() -> None:
    """Counters are kept although message_start had none, or null."""
    deltas = b'"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}'
    bare = b'{"type":"message_start","message":{"id":"m"}}'
    expected = b'{"id":"m","stop_reason":"end_turn","content":[],"usage":{"output_tokens":3}}'
    assert message_with(deltas, start=bare) == expected
    null = b'{"type":"message_start","message":{"usage":null,"content":[]}}'
    assert message_with(deltas, start=null) == b'{"usage":{"output_tokens":3},"content":[],"stop_reason":"end_turn"}'


def test_a_fallback_names_the_model_that_served() -> None:
    """A fallback block makes its ``to.model`` the message's model, the last one of several."""
    first = b'{"type":"fallback","from":{"model":"claude-a"},"to":{"model":"claude-b"}}'
    last = b'{"type":"fallback", "from":{"model":"claude-b"},"to":{ "model": "claude-\\u0063" }}'
    message, _ = decode_all(answer(begin(0, first), end(0), begin(1), end(1), begin(2, last), end(2)))
    assert message is not None
    assert b'"model":"claude-\\u0063","content":[' + first + b"," + TEXT + b"," + last + b"]" in message
    odd = [b'{"type":"fallback"}', b'{"type":"fallback","to":1}', b'{"type":"fallback","to":{}}']
    for block in odd:
        assert decoded(answer(begin(0, block), end(0)))[0]["model"] == "claude-a"


def test_text_joins_half_characters_of_two_deltas() -> None:
    """The text so far has a character whose halves came apart, and the words of text blocks only."""
    accumulator = folded(map(one, [START, begin(0), words(0, b"\\ud83d")]))
    assert accumulator.text == "\ud83d"
    accumulator.add(one(words(0, b"\\ude00!")))
    assert accumulator.text == "😀!"
    for data in (begin(1, TOOL), piece(1, b"{}"), begin(2, b'{"type":"text","text":"?"}')):
        accumulator.add(one(data))
    assert accumulator.text == "😀!?"


def cut_everywhere(data: bytes) -> None:
    """Check every beginning of a stream: what is known of it grows, and it is whole from ``message_stop`` on."""
    done = len(data.rstrip())  # the brace that closes the last event
    assert b"message_stop" in data.splitlines()[-2]
    final = decode_all(data)[1].text
    for place in range(len(data)):
        message, accumulator = decode_all(data[:place])
        assert accumulator.fault is None
        assert (message is not None) == accumulator.whole == (place >= done), place
        partial = json.loads(accumulator.partial())
        if accumulator.text and not 0xD800 <= ord(accumulator.text[-1]) < 0xE000:
            assert final.startswith(accumulator.text)
        if not accumulator.whole and partial.get("content"):
            known = set(range(len(partial["content"])))
            assert set(accumulator.incomplete) <= known


def test_a_stream_cut_at_every_byte_is_whole_only_with_message_stop() -> None:
    """Cut anywhere, an answer is never called whole before ``message_stop``, and always once it is there."""
    cut_everywhere(RICH)
    cut_everywhere(RICH.replace(b"\n", b"\r\n"))


# --- Any stream ---------------------------------------------------------------------------------------------


@frozen
class Drawn:
    """A generated stream, and what must come of it."""

    data: bytes
    blocks: list[Any]
    inputs: list[bytes]
    unknown: int


def joined(pieces: Iterable[str]) -> str:
    """Join strings as UTF-16 would: halves of a character that meet become one."""
    together = "".join(pieces).encode("utf-16-le", "surrogatepass")
    return together.decode("utf-16-le", "surrogatepass")


def string(draw: st.DrawFn, value: str) -> bytes:
    """Write a string as JSON, one way or the other."""
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode()


@st.composite
def blocks(draw: st.DrawFn, index: int) -> tuple[list[bytes], Any, bytes | None]:
    """Draw the events of one block, the block they make, and the bytes its input must be."""
    kind = draw(st.sampled_from(["text", "thinking", "tool_use", "whole"]))
    if kind == "whole":
        extra = draw(json_bytes())
        block = b'{"type":"web_search_tool_result","content":' + extra + b"}"
        return [begin(index, block), end(index)], parsed(block), None
    if kind == "tool_use":
        wanted = draw(json_objects())
        text = wanted.decode()
        places = draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
        edges = [0, *places, len(text)]
        pieces = [string(draw, text[a:b]) for a, b in pairwise(edges)]
        deltas = [delta(index, b'{"type":"input_json_delta","partial_json":%s}' % each) for each in pieces]
        return [begin(index, TOOL), *deltas, end(index)], {**json.loads(TOOL), "input": parsed(wanted)}, wanted
    strings = draw(st.lists(STRINGS, max_size=6))
    value = joined(parsed(each.encode()) for each in strings)
    shape = b'{"type":"%s_delta","%s":%s}' if draw(st.booleans()) else b'{ "type" : "%s_delta" ,\n"%s":\t%s }'
    deltas = [delta(index, shape % (kind.encode(), kind.encode(), each.encode())) for each in strings]
    start = b'{"type":"%s","%s":""}' % (kind.encode(), kind.encode())
    return [begin(index, start), *deltas, end(index)], {"type": kind, kind: value}, None


@st.composite
def streams(draw: st.DrawFn) -> Drawn:
    """Draw a whole stream: blocks after each other or interleaved, noise between them, framed in any legal way."""
    drawn = [draw(blocks(index)) for index in range(draw(st.integers(0, 3)))]
    random = Random(draw(st.integers(0, 2**32)))
    rest = [list(events) for events, _, _ in drawn]
    data, unknown = [START], 0
    overlapping = random.random() < 0.5
    while any(rest):
        open_ones = [each for each in rest if each]
        data.append((random.choice(open_ones) if overlapping else open_ones[0]).pop(0))
        noise = random.choice([b"", b"", PING, b'{"type":"new"}'])
        unknown += noise not in {b"", PING}
        data += [noise] if noise else []
    newlines = draw(st.sampled_from([(b"\n",), (b"\r\n",), (b"\r",), (b"\n", b"\r\n", b"\r")]))
    written = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    for line in lines_of([*data, DELTA, STOP], random):
        newline = random.choice(newlines)
        joins = newline == b"\n" and not line and written.endswith(b"\r")  # they would be one line end
        written += line + (b"\r\n" if joins else newline)
    return Drawn(written, [block for _, block, _ in drawn], [wanted for _, _, wanted in drawn if wanted], unknown)


def lines_of(events: Iterable[bytes], random: Random) -> Iterator[bytes]:
    """Write the lines of events, with or without names and other fields."""
    for each in events:
        if random.random() < 0.5:
            yield b"event: " + parsed(each)["type"].encode()
        for line in each.replace(b"\r", b"\n").split(b"\n"):
            yield random.choice([b"data:", b"data: "]) + line
        yield from random.choice([[], [b": x"], [b"id: 1", b"retry: 1"]])
        yield b""


@given(drawn=streams(), choices=st.data())
def test_any_split_of_any_stream_gives_the_same_message(drawn: Drawn, choices: st.DataObject) -> None:
    """However a stream is framed and split, its message is the one its deltas say."""
    places = choices.draw(st.lists(st.integers(0, len(drawn.data)), max_size=12))
    events, fault = fed(cut_at(drawn.data, places))
    assert fault is None
    assert (events, fault) == fed([drawn.data])
    accumulator = folded(events)
    message = accumulator.message()
    assert same(parsed(message)["content"], drawn.blocks)
    assert all(b'"input":' + wanted + b"}" in message for wanted in drawn.inputs)
    assert accumulator.unknown == drawn.unknown
    assert accumulator.incomplete == ()


@given(data=st.binary(max_size=200), choices=st.data())
def test_any_split_of_any_bytes_gives_the_same_events(data: bytes, choices: st.DataObject) -> None:
    """Even of noise, the events and the fault do not depend on the split."""
    noisy = data.replace(b"\x00", b"\n").replace(b"\x01", b"data: {").replace(b"\x02", b"\r").replace(b"\x03", b"data:")
    places = choices.draw(st.lists(st.integers(0, len(noisy)), max_size=6))
    assert fed(cut_at(noisy, places)) == fed([noisy])


@given(choices=st.data())
@settings(max_examples=50)
def test_any_damage_is_a_fault_or_a_smaller_answer(choices: st.DataObject) -> None:
    """A stream with bytes missing never raises anything but CodecError, and its partial message is JSON."""
    start, stop = sorted(choices.draw(st.tuples(*[st.integers(0, len(RICH))] * 2)))
    message, accumulator = decode_all(RICH[:start] + RICH[stop:])
    assert (message is not None) == accumulator.whole
    json.loads(accumulator.partial())


# --- Growth -------------------------------------------------------------------------------------------------


def calls(work: Callable[[], object]) -> int:
    """Count the calls of functions, Python's own and others, that a piece of work makes."""
    count = 0

    def heard(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(heard)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def many(count: int) -> bytes:
    """Write an answer with so many text deltas and as many of a tool's input."""
    pieces = [piece(1, b'{\\"a\\":\\"'), *[piece(1, b"x\\n\\ud83d")] * count, piece(1, b'\\"}')]
    return answer(begin(0), *[words(0, b"word \\u00e9")] * count, end(0), begin(1, TOOL), *pieces, end(1))


@pytest.mark.parametrize("size", [8192, 50])
def test_an_answer_is_folded_in_linear_time(size: int) -> None:
    """A delta costs as much after 2,000 others as after 500, in large chunks and in small ones."""

    def work(data: bytes) -> int:
        return calls(lambda: folded(fed(data[n : n + size] for n in range(0, len(data), size))[0]).message())

    few, more, lots = (work(many(count)) for count in (500, 1000, 2500))
    assert (lots - more) / (more - few) == pytest.approx(3, rel=0.02)


def test_a_long_line_is_gathered_in_linear_time() -> None:
    """An event that comes in many small chunks costs the same for each of them."""

    def work(size: int) -> int:
        data = framed(words(0, b"x" * size))
        return calls(lambda: fed(data[n : n + 10] for n in range(0, len(data), 10)))

    few, more, lots = (work(size) for size in (10_000, 20_000, 50_000))
    assert (lots - more) / (more - few) == pytest.approx(3, rel=0.02)


def test_pieces_are_joined_once() -> None:
    """Folding a delta allocates nothing that grows with what came before."""
    accumulator = folded(map(one, [START, begin(0)]))
    event = one(words(0, b"x" * 1000))
    kept = [accumulator._blocks[0].strings.setdefault("text", [])]
    for _ in range(1000):
        accumulator.add(event)
    assert all(each is event.escaped for each in kept[0] if isinstance(event, TextDelta))
    assert len(accumulator.text) == 1_000_000
