"""
Recorded exchanges with the real API go through the library and come out as the real client sent them.

A recorder keeps parsed JSON, so the bytes of each answer are written here in a spelling of its own: white space,
escapes and all must come back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, TypeAlias
from uuid import UUID

import pytest

from conversation_store import ABSENT, Client, Conversation, Pending, Reply, Store
from conversation_store.api.stream import decode_all
from conversation_store.outcomes import Answer
from conversation_store.record import canonical
from conversation_store.record.blocks import KNOWN, Unknown
from conversation_store.record.codec import block_of, value_of, wire_of_message
from conversation_store.record.exchange import omitted
from conversation_store.record.turns import Origin, Turn, model_turn
from conversation_store.storage import blobs
from tests.corpus import lines, requires_corpus
from tests.faulty import FaultyAPI, Sent, framed
from tests.strategies import parsed, same, spelled

pytestmark = requires_corpus

Line: TypeAlias = Mapping[str, Any]

SSE: Final = "text/event-stream; charset=utf-8"


def recorded_contents() -> Iterator[tuple[str, str, Sequence[Any]]]:
    """Give every list of blocks in the corpus: where it is, whose it is, and the blocks."""
    for name in ("blocking", "streaming", "count_tokens", "errors", "response_only"):
        for line in lines(name):
            body = (line.get("request") or {}).get("body") or {}
            for message in body.get("messages", ()):
                if isinstance(message["content"], list):
                    yield line["id"], message["role"], message["content"]
            answer = (line.get("response") or {}).get("body") or {}
            if isinstance(answer.get("content"), list):
                yield line["id"], "answer", answer["content"]
    for line in lines("expected_accumulated"):
        for message in line.values():
            if isinstance(message, dict) and isinstance(message.get("content"), list):
                yield line["id"], "answer", message["content"]


# --- the record --------------------------------------------------------------------------------------------------


def test_every_recorded_block_is_known() -> None:
    """What the API sent and took has a typed view, and the view forgets nothing of it."""
    count = 0
    for where, _, blocks in recorded_contents():
        for value in blocks:
            block = block_of(value)
            assert not isinstance(block, Unknown), (where, value["type"])
            assert type(block) is KNOWN[value["type"]]
            assert same(value_of(block), value), where
            count += 1
    assert count > 1000


def test_every_recorded_answer_is_kept_and_sent_back_byte_for_byte() -> None:
    """As a model's turn, in any spelling: received is what came, sent is every block of it, but blank text."""
    count = 0
    for n, (where, whose, blocks) in enumerate(recorded_contents()):
        left_out = sorted(omitted(blocks))
        if whose == "user" or len(left_out) == len(blocks):
            continue
        content = spelled(blocks, n)
        body, ours, omit = model_turn(content, None, left_out)
        header = canonical.header({"omit": omit, "origin": "model", "ours": ours})
        turn = Turn(conversation=UUID(int=n), position=0, origin=Origin.MODEL, at=0, header=header, body=body)
        assert turn.received == content, where
        sent = canonical.members(turn.wire)["content"]
        sent_bytes = turn.wire[sent.start : sent.end]
        pieces = [content[item.start : item.end] for item in canonical.items(content)]
        kept = [piece for at, piece in enumerate(pieces) if at not in left_out]
        assert [sent_bytes[item.start : item.end] for item in canonical.items(sent_bytes)] == kept, where
        if not left_out:
            assert sent_bytes == content
        count += len(kept)
    assert count > 500


def test_every_recorded_message_can_be_said() -> None:
    """What real clients said is taken from a caller as it is, keys in the order of the client."""
    for name in ("blocking", "streaming", "count_tokens"):
        for line in lines(name):
            for n, message in enumerate(line["request"]["body"]["messages"]):
                role, wire = wire_of_message(message, f"messages.{n}")
                assert role == message["role"]
                assert wire == canonical.dumps(message)


# --- exchanges ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Open an empty store on each engine in turn."""
    with Store(database_url) as store:
        yield store


def settings_of(line: Line) -> dict[str, Any]:
    """Read a recorded request's parameters as ``open`` takes them; how it was sent is no setting."""
    settings = {name: value for name, value in line["request"]["body"].items() if name not in {"messages", "stream"}}
    headers = line["request"]["headers"]
    if "anthropic-version" in headers:
        settings["version"] = headers["anthropic-version"]
    betas = [beta.strip() for beta in headers.get("anthropic-beta", "").split(",")]
    return settings | ({"betas": [beta for beta in betas if beta]} if any(betas) else {})


def is_prefill(message: Mapping[str, Any]) -> bool:
    """Say whether words are put in the model's mouth; an assistant's last turn of other blocks is a paused one."""
    return message["role"] == "assistant" and isinstance(message["content"], str)


def asking(chat: Conversation, messages: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Any], dict[str, Any]]:
    """
    Say these messages as a bot does: the last of the user's is left to be said with the request itself.

    Returns:
        What to ask with. The rule book is not asked: models and parameters are of their time.
    """
    *earlier, last = messages
    if last["role"] == "user":
        chat.append(*earlier)
        content = last["content"]
        return ([content] if isinstance(content, str) else content), {"check": False}
    if is_prefill(last):
        chat.append(*earlier)
        return (), {"prefill": last["content"], "check": False}
    chat.append(*messages)
    return (), {"check": False}


def begun(chat: Conversation, messages: Sequence[Mapping[str, Any]]) -> Pending:
    """Say these messages and begin an exchange."""
    content, terms = asking(chat, messages)
    return chat.begin(*content, **terms)


def sent_by(params: Mapping[str, Any]) -> dict[str, Any]:
    """Put keyword arguments for the official SDK together to the body that it would send."""
    body = {**params, **params.get("extra_body", {})}
    return {name: value for name, value in body.items() if name not in {"extra_body", "extra_headers"}}


def ordered(value: object) -> str:
    """Write JSON so that also the order of keys counts in a comparison."""
    return json.dumps(value)


def told(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write messages for a comparison: of a message's own two keys, the role may come first or last."""
    return [ordered({name: message[name] for name in sorted(message)}) for message in messages]


def settle(chat: Conversation, pending: Pending, line: Line, seed: int) -> None:
    """Finish an exchange with the recorded answer, and hold everything that is then known against it."""
    raw = spelled(line["response"]["body"], seed)
    reply = pending.finish(raw)
    answered(chat, reply, raw, line["response"]["body"])
    assert chat.replay(reply.exchange) == pending.request.recorded


def answered(
    chat: Conversation,
    reply: Reply,
    raw: bytes,
    answer: Mapping[str, Any],
    shown: Callable[[Any], Any] = lambda value: value,
) -> None:
    """
    Hold what a conversation made of an answer against its bytes and against the answer that was recorded.

    *shown* is what a recorder leaves of a value.
    """
    member = canonical.members(raw)["content"]
    content = raw[member.start : member.end]
    assert reply.raw_content == content
    assert (reply.turn is None) == (len(omitted(parsed(content))) == len(parsed(content)))
    if reply.turn is not None:
        assert reply.turn.received == content
        assert reply.turn.origin is Origin.MODEL
        assert same(shown([value_of(block) for block in reply.content]), shown(answer["content"]))
        assert chat.turns[-1] == reply.turn
    assert reply.stop_reason == answer["stop_reason"]
    assert reply.usage.output_tokens == answer["usage"]["output_tokens"]
    assert reply.fields["id"] == answer["id"]


def compared(params: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Make sure that these parameters are those of a recorded request, each to the key."""
    sent = sent_by(params)
    assert told(sent.pop("messages")) == told(body["messages"])
    assert {name: ordered(value) for name, value in sent.items()} == {
        name: ordered(value) for name, value in body.items() if name not in {"messages", "stream"}
    }


def without_null(value: Any) -> Any:
    """Leave out keys whose value is null, as the accumulated messages do."""
    if isinstance(value, dict):
        return {name: without_null(inner) for name, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def accumulated() -> Mapping[str, Mapping[str, Any]]:
    """Read what the official SDK makes of each stream, by its id."""
    return {line["id"]: line["message"] for line in lines("expected_accumulated")}


def settle_stream(chat: Conversation, pending: Pending, line: Line, answer: Mapping[str, Any]) -> None:
    """Finish an exchange with a recorded stream, and hold everything that is then known against it."""
    response = line["response"]["sse"].encode()
    message, accumulator = decode_all(response)
    assert message is not None
    assert (accumulator.incomplete, accumulator.unknown, accumulator.fault) == ((), 0, None)
    reply = pending.finish_stream(message, response)
    answered(chat, reply, message, answer, without_null)
    assert chat.replay(reply.exchange) == pending.request.recorded


def test_every_recorded_exchange_goes_through(store: Store) -> None:
    """Said, begun, finished, replayed, verified: what is sent is what the real client sent, key by key."""
    for n, line in enumerate(lines("blocking")):
        chat = store.open(f"corpus:{line['id']}", **settings_of(line))
        pending = begun(chat, line["request"]["body"]["messages"])
        compared(pending.params, line["request"]["body"])
        assert pending.headers.get("anthropic-beta", "") == ",".join(settings_of(line).get("betas", ()))
        settle(chat, pending, line, n)
        assert chat.verify() == [], line["id"]


def test_every_recorded_stream_goes_through(store: Store) -> None:
    """Said, begun, the stream's bytes taken in: the turn is the message of the official SDK, and is sent back."""
    expected = accumulated()
    for line in lines("streaming"):
        body = line["request"]["body"]
        chat = store.open(f"corpus:{line['id']}", **settings_of(line))
        pending = begun(chat, body["messages"])
        compared(pending.params, body)
        settle_stream(chat, pending, line, expected[line["id"]])
        resent(store.get(chat.id), body["messages"], expected[line["id"]]["content"])
        assert chat.verify() == [], line["id"]


def resent(chat: Conversation, messages: Sequence[Mapping[str, Any]], content: Sequence[Any]) -> None:
    """Make sure that the next request is the last one's messages and the answer, but for blank text; nulls aside."""
    *before, last = parsed(chat.request(check=False).recorded)["messages"]
    left_out = omitted(content)
    theirs = [without_null(block) for n, block in enumerate(content) if n not in left_out]
    if is_prefill(messages[-1]):
        *messages, begun_with = messages
        theirs[0] = {**theirs[0], "text": begun_with["content"] + theirs[0]["text"]}
    assert told(before) == told(messages)
    assert last["role"] == "assistant"
    assert same(without_null(last["content"]), theirs)


def plain_answers() -> list[Line]:
    """Choose the answers that were kept without their request, and are no streams."""
    return [line for line in lines("response_only") if line["response"]["form"] == "json"]


def test_every_recorded_answer_without_its_request_goes_through(store: Store) -> None:
    """What fixtures keep of an answer is taken as an answer to anything, and comes back unchanged."""
    for n, line in enumerate(plain_answers()):
        answer = line["response"]["body"]
        raw = spelled(answer, n)
        read = Answer.read(raw)
        assert raw.find(read.content) > 0
        assert same(parsed(read.content), answer["content"])
        assert same({**read.fields, "content": [*read.blocks]}, answer)
        chat = store.open(None, model=answer["model"], max_tokens=1024)
        first = {"role": "user", "content": "What is an ant?"}
        pending = begun(chat, [first])
        answered(chat, pending.finish(raw), raw, answer)
        resent(store.get(chat.id), [first], answer["content"])
        assert chat.verify() == [], line["id"]
    assert len(plain_answers()) == 29


# --- round trips -------------------------------------------------------------------------------------------------


def edited(messages: object) -> Any:
    """
    Take out what clients themselves change in a history when they send it again.

    Keys with null that their SDK added, cache breakpoints that they moved, a string in place of one text block.
    """
    if isinstance(messages, list):
        return [edited(each) for each in messages]
    if not isinstance(messages, dict):
        return messages
    kept = {name: edited(value) for name, value in messages.items() if value is not None and name != "cache_control"}
    if "role" in kept and isinstance(kept.get("content"), str):
        kept["content"] = [{"type": "text", "text": kept["content"]}]
    return kept


def round_trips(*, streamed: bool) -> list[tuple[Line, Line]]:
    """Pair the exchanges whose answer, streamed or not, a real client sent back as it came."""
    known = {line["id"]: line for name in ("blocking", "streaming") for line in lines(name)}
    pairs = [(known[each["first"]], known[each["next"]]) for each in lines("round_trips") if each["echo"] == "exact"]
    return [(first, then) for first, then in pairs if ("sse" in first["response"]) is streamed]


def brought_up(chat: Conversation, first: Line, then: Line) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """
    Bring a conversation to where a real client asked again after an answer, and hold its history against that.

    Returns:
        What is left to be said, and the body that must be sent: what differs from the client's in the history is
        what that client edited; everything else is the same to the key.
    """
    body = then["request"]["body"]
    known = len(first["request"]["body"]["messages"]) + 1
    ours, theirs = chat.request(check=False).params["messages"], body["messages"][:known]
    assert same(edited(ours), edited(theirs)), (first["id"], then["id"])
    chat.update(**dict.fromkeys(settings_of(first), ABSENT) | settings_of(then))
    said = body["messages"][known:]
    return said, {**body, "messages": [*ours, *said]}


def gone_on(chat: Conversation, first: Line, then: Line) -> Pending:
    """Begin what a real client sent after an answer, and hold it against that."""
    said, body = brought_up(chat, first, then)
    pending = begun(chat, said)
    compared(pending.params, body)
    return pending


def kept_as_sent(pairs: Sequence[tuple[Line, Line]], histories: Sequence[Sequence[Any]]) -> int:
    """Count the histories that are to the key what the real client sent, cache breakpoints and nulls too."""
    return sum(
        same(ours, then["request"]["body"]["messages"][: len(ours)])
        for (_, then), ours in zip(pairs, histories, strict=True)
    )


def test_the_next_request_is_what_the_real_client_sent(store: Store) -> None:
    """After an answer, the history is what a real client sent next; what differs is what that client edited."""
    pairs, histories = round_trips(streamed=False), []
    for n, (first, then) in enumerate(pairs):
        chat = store.open(None, **settings_of(first))
        settle(chat, begun(chat, first["request"]["body"]["messages"]), first, n)
        histories.append(chat.request(check=False).params["messages"])
        settle(chat, gone_on(chat, first, then), then, n)
        assert chat.verify() == []
        assert store.get(chat.id).request(check=False).recorded == chat.request(check=False).recorded
    assert kept_as_sent(pairs, histories) >= len(pairs) // 2


def settle_any(chat: Conversation, pending: Pending, line: Line) -> None:
    """Finish an exchange with a recorded answer of either form."""
    if "sse" in line["response"]:
        settle_stream(chat, pending, line, accumulated()[line["id"]])
    else:
        settle(chat, pending, line, 0)


def test_the_next_request_after_a_stream_is_what_the_real_client_sent(store: Store) -> None:
    """The same where the answer was streamed, and its bytes are taken in by a caller who sends."""
    pairs, histories = round_trips(streamed=True), []
    for first, then in pairs:
        chat = store.open(None, **settings_of(first))
        settle_any(chat, begun(chat, first["request"]["body"]["messages"]), first)
        histories.append(chat.request(check=False).params["messages"])
        settle_any(chat, gone_on(chat, first, then), then)
        assert chat.verify() == []
        assert store.get(chat.id).request(check=False).recorded == chat.request(check=False).recorded
    assert len(pairs) == 26
    assert kept_as_sent(pairs, histories) >= len(pairs) // 2


def wired(line: Line) -> Sent:
    """Put a recorded answer of either form on the wire."""
    response = line["response"]
    if "sse" in response:
        return Sent(framed(response["sse"].encode(), "chunked", kind=SSE).wire)
    return Sent(framed(spelled(response["body"], 0), "length").wire)


def asked(chat: Conversation, line: Line, messages: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
    """Say these messages and be answered through a socket, in the recorded form."""
    content, terms = asking(chat, messages)
    if "sse" not in line["response"]:
        raw = spelled(line["response"]["body"], 0)
        answered(chat, chat.send(*content, **terms), raw, answer)
        return
    with chat.stream(*content, **terms) as stream:
        shown = "".join(stream.text)
        reply = stream.reply
    assert shown == "".join(block["text"] for block in answer["content"] if block["type"] == "text")
    message, _ = decode_all(line["response"]["sse"].encode())
    assert message is not None
    answered(chat, reply, message, answer, without_null)
    assert raw_of(chat, reply) == line["response"]["sse"].encode()


def raw_of(chat: Conversation, reply: Reply) -> bytes:
    """Read the response that the record keeps of an answered exchange; its outcome stands before its turn."""
    assert reply.turn is not None
    outcome = reply.turn.position - 1
    with chat._history.database.read() as connection:
        (kept,) = blobs.used(connection, chat.id, outcome, outcome)[outcome]
    return b"".join(blobs.chunks(chat._history.database, kept))


def test_the_next_request_after_a_stream_from_a_socket_is_what_the_real_client_sent(database_url: str) -> None:
    """The same through ``Conversation.stream`` and a socket: what leaves through it is what the real client sent."""
    pairs, expected = round_trips(streamed=True), accumulated()
    answers = chain.from_iterable(pairs)
    with (
        FaultyAPI(lambda _: wired(next(answers))) as api,
        Client("sk-ant-loopback", base_url=api.url, max_attempts=1) as client,
        Store(database_url, client=client, keep_raw=True) as store,
    ):
        for first, then in pairs:
            chat = store.open(None, **settings_of(first))
            asked(chat, first, first["request"]["body"]["messages"], expected[first["id"]])
            received(api.bodies[-1], first["request"]["body"])
            said, body = brought_up(chat, first, then)
            asked(chat, then, said, expected[then["id"]] if "sse" in then["response"] else then["response"]["body"])
            received(api.bodies[-1], body)
            assert chat.verify() == []
    assert len(api.bodies) == 2 * len(pairs)


def received(sent: bytes, body: Mapping[str, Any]) -> None:
    """Make sure that the bytes that arrived say what a real client said; it is a stream that they ask for, if any."""
    params = parsed(sent)
    assert params.pop("stream", False) is body.get("stream", False)
    compared(params, body)
