"""
Recorded exchanges with the real API go through the library and come out as the real client sent them.

A recorder keeps parsed JSON, so the bytes of each answer are written here in a spelling of its own: white space,
escapes and all must come back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from conversation_store import Conversation, Pending, Store
from conversation_store.record import canonical
from conversation_store.record.blocks import KNOWN, Unknown
from conversation_store.record.codec import block_of, value_of, wire_of_message
from conversation_store.record.exchange import omitted
from conversation_store.record.turns import Origin, Turn, model_turn
from tests.corpus import lines, requires_corpus
from tests.strategies import parsed, same, spelled

pytestmark = requires_corpus

Line = Mapping[str, Any]


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


def begun(chat: Conversation, messages: Sequence[Mapping[str, Any]]) -> Pending:
    """
    Say these messages and begin an exchange, as a bot does: the last of the user's with the request itself.

    The rule book is not asked: models and parameters are of their time.
    """
    *earlier, last = messages
    if last["role"] == "user":
        chat.append(*earlier)
        content = last["content"]
        return chat.begin(*([content] if isinstance(content, str) else content), check=False)
    if last["role"] == "assistant":
        chat.append(*earlier)
        return chat.begin(prefill=last["content"], check=False)
    chat.append(*messages)
    return chat.begin(check=False)


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
    member = canonical.members(raw)["content"]
    content = raw[member.start : member.end]
    reply = pending.finish(raw)
    assert reply.raw_content == content
    assert (reply.turn is None) == (len(omitted(parsed(content))) == len(parsed(content)))
    if reply.turn is not None:
        assert reply.turn.received == content
        assert reply.turn.origin is Origin.MODEL
        assert same([value_of(block) for block in reply.content], line["response"]["body"]["content"])
    answer = line["response"]["body"]
    assert reply.stop_reason == answer["stop_reason"]
    assert reply.usage.output_tokens == answer["usage"]["output_tokens"]
    assert reply.fields["id"] == answer["id"]
    assert chat.replay(reply.exchange) == pending.request.recorded


def test_every_recorded_exchange_goes_through(store: Store) -> None:
    """Said, begun, finished, replayed, verified: what is sent is what the real client sent, key by key."""
    for n, line in enumerate(lines("blocking")):
        body = line["request"]["body"]
        chat = store.open(f"corpus:{line['id']}", **settings_of(line))
        pending = begun(chat, body["messages"])
        sent = sent_by(pending.params)
        assert told(sent.pop("messages")) == told(body["messages"]), line["id"]
        expected = {name: value for name, value in body.items() if name not in {"messages", "stream"}}
        assert {name: ordered(value) for name, value in sent.items()} == {
            name: ordered(value) for name, value in expected.items()
        }
        assert pending.headers.get("anthropic-beta", "") == ",".join(settings_of(line).get("betas", ()))
        settle(chat, pending, line, n)
        assert chat.verify() == [], line["id"]


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


def round_trips() -> list[tuple[Line, Line]]:
    """Pair the blocking exchanges whose answer a real client sent back as it came."""
    known = {line["id"]: line for line in lines("blocking")}
    pairs = [(each["first"], each["next"]) for each in lines("round_trips") if each["echo"] == "exact"]
    return [(known[first], known[then]) for first, then in pairs if first in known and then in known]


def test_the_next_request_is_what_the_real_client_sent(store: Store) -> None:
    """After an answer, the history is what a real client sent next; what differs is what that client edited."""
    same_to_the_key = 0
    for n, (first, then) in enumerate(round_trips()):
        chat = store.open(None, **settings_of(first))
        settle(chat, begun(chat, first["request"]["body"]["messages"]), first, n)
        messages = then["request"]["body"]["messages"]
        known = len(first["request"]["body"]["messages"]) + 1
        ours = chat.request(check=False).params["messages"]
        theirs = messages[:known]
        if same(ours, theirs):
            same_to_the_key += 1
        assert same(edited(ours), edited(theirs)), (first["id"], then["id"])
        chat.update(**settings_of(then))
        pending = begun(chat, messages[known:])
        assert told(pending.params["messages"]) == told([*ours, *messages[known:]])
        settle(chat, pending, then, n)
        assert chat.verify() == []
        again = store.get(chat.id)
        assert again.request(check=False).body == chat.request(check=False).body
    assert same_to_the_key >= len(round_trips()) // 2
