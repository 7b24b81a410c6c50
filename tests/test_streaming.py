"""Streamed answers through a conversation: what is shown, what is durable by then, and every way to leave early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Engine, create_engine, select, update

from conversation_store import Client, Conversation, Exchange, Reply, Store
from conversation_store.api.retry import Clock
from conversation_store.api.stream import (
    BlockStart,
    MessageStart,
    MessageStop,
    Ping,
    StreamError,
    TextDelta,
    ThinkingDelta,
)
from conversation_store.errors import (
    BusyError,
    ContentError,
    DatabaseError,
    InterruptedAnswerError,
    LeaseLostError,
    NotSavedError,
    OverloadedError,
    RuleViolationError,
    UnknownOutcomeError,
)
from conversation_store.record import splices
from conversation_store.storage.engine import Database
from conversation_store.storage.tables import conversation as conversation_table
from conversation_store.storage.tables import conversation_journal
from conversation_store.streaming import JOURNAL_BYTES, JOURNAL_SECONDS, _Journal
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests.faulty import FaultyAPI, Sent, framed

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}
TAKES_PREFILL: Final[Mapping[str, Any]] = {"model": "claude-haiku-4-5", "max_tokens": 64}
ROOT: Final = Path(__file__).parents[1]
WORDS: Final = "It is a small thing, with six legs, and it carries more than its own weight."
BLOCKS: Final = (
    {"type": "thinking", "thinking": "They ask about ants.", "signature": "c2lnbmF0dXJl"},
    {"type": "text", "text": "Let me see. "},
    {"type": "text", "text": "Six legs.", "citations": None},
)


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


@pytest.fixture
def client(api: MessagesAPI) -> Iterator[Client]:
    """Give a client that tries twice and never really waits."""
    with Client(api.key, base_url=api.url, timeout=20, max_attempts=2, clock=Clock(sleep=lambda _: None)) as made:
        yield made


@pytest.fixture
def store(database_url: str, client: Client) -> Iterator[Store]:
    """Give a store with that client."""
    with Store(database_url, client=client) as opened:
        yield opened


@pytest.fixture
def chat(store: Store) -> Conversation:
    """Give a conversation in which nothing was said yet."""
    return store.open("telegram:42", **SETTINGS)


@pytest.fixture
def tables(store: Store, database_url: str) -> Iterator[Engine]:
    """Reach the database past the library."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


def journal(tables: Engine) -> bytes:
    """Read what the journal holds."""
    with tables.connect() as connection:
        order = (conversation_journal.c.position, conversation_journal.c.number)
        return b"".join(connection.execute(select(conversation_journal.c.data).order_by(*order)).scalars())


def states(chat: Conversation) -> list[str]:
    """List the states of a conversation's exchanges."""
    return [exchange.state.value for exchange in chat.exchanges]


def words(chat: Conversation) -> list[str]:
    """List what the turns of the view say."""
    return [turn.text for turn in chat.turns]


def partial(chat: Conversation, exchange: Exchange | None = None) -> bytes:
    """Read the bytes an outcome kept of an answer that broke off."""
    error = chat._history.outcome(exchange or chat.exchanges[-1])[1]["error"]
    return splices.decode(error["partial"].encode()) or b""


def by_stream(chat: Conversation, content: str, see: Callable[[object], None] = lambda _: None, **more: Any) -> Reply:
    """Ask, show every event to *see*, and give the reply."""
    with chat.stream(content, **more) as stream:
        for each in stream:
            see(each)
        return stream.reply


def sound(store: Store, chat: Conversation) -> None:
    """Make sure that this object, a fresh one and the chain agree."""
    fresh = store.get(chat.id)
    chat.refresh()
    assert (chat.version, chat.head) == (fresh.version, fresh.head)
    assert chat.request(check=False).body == fresh.request(check=False).body
    assert fresh.verify() == []


# --- what is shown -----------------------------------------------------------------------------------------------


def test_events_text_and_reply_are_those_of_the_answer(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Events come in order, the reply is what send gives, and the turn is the same but for white space."""
    answer = Answer(BLOCKS, usage={"input_tokens": 7})
    api.answer(answer, answer)
    with chat.stream("What is an ant?") as stream:
        events = list(stream)
        streamed = stream.reply
    other = store.open("other", **SETTINGS)
    sent = other.send("What is an ant?")
    assert isinstance(events[0], MessageStart)
    assert isinstance(events[-1], MessageStop)
    assert any(isinstance(event, Ping) for event in events)
    assert [event.kind for event in events if isinstance(event, BlockStart)] == ["thinking", "text", "text"]
    assert "".join(e.thinking for e in events if isinstance(e, ThinkingDelta)) == "They ask about ants."
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == streamed.text == "Let me see. Six legs."
    assert streamed.content == sent.content
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (sent.stop_reason, sent.usage.output_tokens)
    assert streamed.turn is not None
    assert sent.turn is not None
    assert json.loads(streamed.turn.wire) == json.loads(sent.turn.wire)
    assert (streamed.exchange.streamed, sent.exchange.streamed) == (True, False)
    sound(store, chat)


def test_the_request_asks_for_a_stream_and_can_be_replayed(chat: Conversation, api: MessagesAPI) -> None:
    """The recorded body has "stream": true, and replay gives the bytes the API was sent."""
    with chat.stream("one") as stream:
        first = stream.reply
    second = chat.send("two")
    assert [each.body.get("stream") for each in api.requests] == [True, None]
    assert [chat.replay(each.exchange) for each in (first, second)] == [each.raw for each in api.requests]
    assert "stream" not in chat.request().params


def test_text_alone(chat: Conversation, api: MessagesAPI) -> None:
    """stream.text gives the pieces of the words, text_so_far all that came, and reply can be asked for twice."""
    api.answer(Answer(BLOCKS))
    with chat.stream("one") as stream:
        pieces, sofar = [], []
        for piece in stream.text:
            pieces.append(piece)
            sofar.append(stream.text_so_far)
        assert stream.reply == stream.reply
    assert len(pieces) > 3
    assert sofar == ["".join(pieces[: n + 1]) for n in range(len(pieces))]
    assert stream.text_so_far == stream.reply.text == "".join(pieces)


def test_a_prefill_is_joined(store: Store, api: MessagesAPI) -> None:
    """The stream shows what the model wrote; the turn holds the prefill and what follows, as one text."""
    chat = store.open("prefilled", **TAKES_PREFILL)
    api.answer("C) Formicidae.")
    with chat.stream(
        "What is Latin for Ant? (A) Apoidea, (B) Rhopalocera, (C) Formicidae", prefill="The answer is ("
    ) as s:
        shown = "".join(s.text)
        reply = s.reply
    assert shown == reply.text == "C) Formicidae."
    assert reply.turn is not None
    assert reply.turn.text == "The answer is (C) Formicidae."
    assert api.requests[0].body["messages"][-1] == {"role": "assistant", "content": "The answer is ("}
    assert [turn.role for turn in chat.turns] == ["user", "assistant"]
    sound(store, chat)


def test_a_key_shows_the_recorded_words(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """The same idempotency key calls nobody: no events, the words, and the same reply; by send too."""
    with chat.stream("one", idempotency_key="1") as stream:
        first = stream.reply
    with store.get(chat.id).stream("one", idempotency_key="1") as stream:
        assert list(stream) == []
        assert "".join(stream.text) == first.text
        assert stream.reply == first
    assert store.get(chat.id).send("one", idempotency_key="1") == first
    assert len(api.requests) == 1


def test_a_failed_key_is_streamed_again(chat: Conversation, api: MessagesAPI) -> None:
    """A key that failed is tried again as the stream it was, without doubling the turn."""
    api.fail(Fault.status(401))
    with pytest.raises(Exception, match="401"), chat.stream("one", idempotency_key="1"):
        pass
    with chat.stream("one", idempotency_key="1") as stream:
        reply = stream.reply
    assert reply.text == "You said: one"
    assert [each.body.get("stream") for each in api.requests] == [True, True]
    assert reply.exchange.retry_of == chat.exchanges[0].position
    assert words(chat) == ["one", "You said: one"]


# --- leaving early -----------------------------------------------------------------------------------------------


class StoppedError(Exception):
    """What a caller's own code raises in these tests."""


def _leave() -> None:
    """Leave the loop as if nothing had happened."""


def _raise() -> None:
    raise StoppedError


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)


@pytest.mark.parametrize(
    ("leave", "raised", "reason"),
    [
        (_leave, None, "the caller left"),
        (_raise, StoppedError, "stopped by StoppedError"),
        (_interrupt, KeyboardInterrupt, "stopped by KeyboardInterrupt"),
    ],
    ids=["break", "exception", "Ctrl-C"],
)
def test_leaving_early_keeps_what_came(
    chat: Conversation,
    store: Store,
    api: MessagesAPI,
    *,
    tables: Engine,
    leave: Callable[[], None],
    raised: type[BaseException] | None,
    reason: str,
) -> None:
    """Whoever leaves the loop leaves an interrupted exchange with every byte that had arrived."""
    api.fail(Fault.trickle(40, 0.002, WORDS))
    shown = []

    def read() -> None:
        with chat.stream("What is an ant?") as stream:
            for piece in stream.text:
                shown.append(piece)
                if len(shown) == 3:
                    leave()
                    break

    if raised is None:
        read()
    else:
        with pytest.raises(raised):
            read()
    (exchange,) = chat.exchanges
    assert (exchange.state, exchange.maybe_billed, exchange.turn) == ("interrupted", True, None)
    assert reason in chat._history.outcome(exchange)[1]["error"]["message"]
    came = partial(chat)
    assert api.requests[0].response.startswith(came)
    assert all(piece.strip().encode() in came for piece in shown)
    assert journal(tables) == b""
    assert words(chat) == ["What is an ant?"]
    assert chat.retry().exchange.state == "answered"
    sound(store, chat)


def test_a_signal_while_waiting_keeps_what_came(
    chat: Conversation, store: Store, api: MessagesAPI, tables: Engine
) -> None:
    """Ctrl-C while nothing arrives is the same: what had come is in the record."""
    api.fail(Fault.cut(600, then="stall", answer=WORDS))
    reader = threading.get_ident()

    def press() -> None:
        until = time.monotonic() + 15
        while len(journal(tables)) < 600 and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.2)  # the reader waits for its socket by now
        signal.pthread_kill(reader, signal.SIGINT)

    key = threading.Thread(target=press)
    key.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            by_stream(chat, "one")
    finally:
        key.join()
    assert states(chat) == ["interrupted"]
    assert partial(chat) == api.requests[0].response
    assert len(partial(chat)) == 600
    sound(store, chat)


def test_leaving_after_the_last_word_is_no_interruption(chat: Conversation, api: MessagesAPI) -> None:
    """An answer that has arrived whole is recorded whole, though its last event was not asked for."""
    with chat.stream("one") as stream:
        for event in stream:
            if isinstance(event, MessageStop):
                break
    assert states(chat) == ["answered"]
    assert words(chat) == ["one", "You said: one"]


def test_leaving_before_the_first_event(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """A stream that nobody read ends interrupted, and the conversation goes on."""
    with chat.stream("one"):
        pass
    assert states(chat) == ["interrupted"]
    chat.send("two")
    sound(store, chat)


# --- message_stop alone makes it whole ---------------------------------------------------------------------------


def event(name: str, **data: Any) -> bytes:
    """Write one server-sent event."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


START: Final = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    },
)


def said(text: str, index: int = 0) -> bytes:
    """Write a text block as a stream has it."""
    return (
        event("content_block_start", index=index, content_block={"type": "text", "text": ""})
        + event("content_block_delta", index=index, delta={"type": "text_delta", "text": text})
        + event("content_block_stop", index=index)
    )


ENDED: Final = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4})
STOP: Final = event("message_stop")
WHOLE: Final = START + said("Hello!") + ENDED + STOP
OVERLOADED: Final = event(
    "error",
    error={"type": "overloaded_error", "message": "Overloaded", "details": {"error_code": "compaction_unavailable"}},
)


@contextmanager
def served(url: str, body: bytes, key: str = "telegram:42", **more: Any) -> Iterator[tuple[Conversation, FaultyAPI]]:
    """Give a conversation whose API streams exactly these bytes."""
    framing = more.pop("framing", "chunked")
    wire = framed(body, framing, **{"kind": "text/event-stream"} | more).wire
    with (
        FaultyAPI(Sent(wire)) as api,
        Client("sk-ant-loopback", base_url=api.url, timeout=10) as client,
        Store(url, client=client) as store,
    ):
        yield store.open(key, **SETTINGS), api


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        (START + said("Hello!") + ENDED, None, "no message_stop"),
        (START + said("Hello!"), None, "no message_stop"),
        (b"", None, "no message_stop"),
        (b": comment\n\n", None, "no message_stop"),
        (START + said("Hel") + OVERLOADED, "compaction_unavailable", "overloaded_error"),
        (OVERLOADED, "compaction_unavailable", "overloaded_error"),
        (START + said("Hel") + OVERLOADED + STOP, "compaction_unavailable", "overloaded_error"),
        (START + b"event: content_block_start\ndata: {broken\n\n" + STOP, None, "JSON"),
        (said("Hello!") + STOP, None, "message_start"),
        (STOP, None, "message_start"),
    ],
    ids=[
        "no stop",
        "no end",
        "nothing",
        "a comment",
        "error",
        "error alone",
        "error, stop",
        "broken",
        "no start",
        "stop",
    ],
)
def test_message_stop_alone_makes_an_answer_whole(database_url: str, body: bytes, code: str | None, why: str) -> None:
    """However politely the connection ends: without message_stop it is interrupted, and an error says which."""
    with served(database_url, body) as (chat, _):
        with pytest.raises(InterruptedAnswerError, match=why) as caught, chat.stream("one") as stream:
            for _ in stream:
                pass
        (exchange,) = chat.exchanges
        assert (exchange.state, exchange.maybe_billed, exchange.attempts) == ("interrupted", True, 1)
        assert caught.value.error_code == code
        assert caught.value.partial == partial(chat)
        assert body.startswith(partial(chat))
        assert caught.value.partial or not body
        assert words(chat) == ["one"]
        assert chat.verify() == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (WHOLE, None),
        (event("ping") + WHOLE, "text/event-stream"),
        (b"\xef\xbb\xbf" + WHOLE.replace(b"\n", b"\r\n"), "text/plain"),
        (START + said("Hello!") + event("future_event", x=1) + ENDED + STOP + event("ping"), "text/event-stream"),
        (WHOLE.rstrip(b"\n"), "text/event-stream"),
    ],
    ids=["no content type", "ping first", "CRLF", "a newer event", "no last line ends"],
)
def test_a_whole_answer_is_whole(database_url: str, body: bytes, kind: str | None) -> None:
    """A stream without a content type, with a ping first, in other line ends: message_stop came, so it is whole."""
    with served(database_url, body, kind=kind) as (chat, _):
        with chat.stream("one") as stream:
            assert "".join(stream.text) == "Hello!"
        assert stream.reply.exchange.state == "answered"
        assert words(chat) == ["one", "Hello!"]
        assert chat.verify() == []


def test_leaving_what_had_arrived_whole(database_url: str) -> None:
    """All of it was there when the caller left after its first event: the answer is whole, and not paid for twice."""
    with served(database_url, WHOLE, framing="length") as (chat, _):
        with chat.stream("one") as stream:
            assert isinstance(next(iter(stream)), MessageStart)
        assert stream.reply.text == "Hello!"
        assert states(chat) == ["answered"]
        assert words(chat) == ["one", "Hello!"]
        assert chat.verify() == []


@pytest.mark.parametrize("end", [STOP, OVERLOADED])
def test_nothing_is_shown_after_the_end(database_url: str, end: bytes) -> None:
    """Events that follow the end in the same piece are not of the answer, and are not shown as if they were."""
    with served(database_url, START + said("Hello!") + ENDED + end + said("More", 1), framing="length") as (chat, _):
        seen = []
        with suppress(InterruptedAnswerError), chat.stream("one") as stream:
            for each in stream:
                seen.append(type(each))  # noqa: PERF401 - what was shown before the error counts
        assert seen[-1] in {MessageStop, StreamError}
        assert seen.count(TextDelta) == 1


@pytest.mark.parametrize("kind", ["application/json", None])
def test_a_gateway_that_does_not_stream_answers_whole(database_url: str, kind: str | None) -> None:
    """One JSON message instead of events is the whole answer; part of one is none."""
    whole = json.dumps(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-5-5",
            "content": [{"type": "text", "text": "Hello!"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 2},
        }
    ).encode()
    with served(database_url, whole, kind=kind) as (chat, _):
        with chat.stream("one") as stream:
            assert "".join(stream.text) == "Hello!"
        assert (stream.reply.text, stream.reply.usage.output_tokens) == ("Hello!", 2)
        assert words(chat) == ["one", "Hello!"]
        assert chat.verify() == []
    with served(database_url, whole[:-1], key="another", kind=kind) as (chat, _):
        with pytest.raises(InterruptedAnswerError), chat.stream("one") as stream:
            assert "".join(stream.text) == ""
        assert partial(chat) == whole[:-1]


# --- trying again ------------------------------------------------------------------------------------------------


def test_a_stream_is_tried_again_before_its_first_event_only(chat: Conversation, api: MessagesAPI) -> None:
    """An overloaded API is asked again; an answer that has begun and breaks off is not."""
    api.fail(Fault.status(529))
    with chat.stream("one") as stream:
        reply = stream.reply
    assert reply.exchange.attempts == 2
    api.fail(Fault.cut(400, answer=WORDS))
    with pytest.raises(InterruptedAnswerError), chat.stream("two") as stream:
        assert stream.reply
    assert len(api.requests) == 3
    api.fail(Fault.status(529), times=2)
    with pytest.raises(OverloadedError), chat.stream("three"):
        pass
    assert states(chat) == ["answered", "interrupted", "failed"]
    assert [exchange.attempts for exchange in chat.exchanges] == [2, 1, 2]


# --- the journal -------------------------------------------------------------------------------------------------


def test_each_piece_is_durable_before_it_is_shown(chat: Conversation, api: MessagesAPI, tables: Engine) -> None:
    """With journal="each", whatever the loop was given is in the journal; at the end the journal is empty."""
    api.fail(Fault.trickle(25, 0.001, WORDS))
    count = 0
    with chat.stream("one", journal="each") as stream:
        for each in stream:
            assert each.raw in journal(tables)
            count += 1
        assert api.requests[0].response.startswith(journal(tables))
    assert count > 10
    assert stream.reply.text == WORDS
    assert journal(tables) == b""


def test_a_slow_answer_is_durable_in_time(chat: Conversation, api: MessagesAPI, tables: Engine) -> None:
    """What was shown longer ago than the promise is in the journal, while the line trickles and while it is idle."""
    api.fail(Fault.trickle(150, 0.12, WORDS))
    shown: list[tuple[float, bytes]] = []
    late = 0.0
    with chat.stream("one") as stream:
        for each in stream:
            now = time.monotonic()
            kept = journal(tables)
            late = max([late, *(now - at for at, raw in shown if raw not in kept)])
            shown.append((now, each.raw))
    assert len(shown) > 10
    assert shown[-1][0] - shown[0][0] > 3 * JOURNAL_SECONDS
    assert late < JOURNAL_SECONDS + 0.3


def test_an_idle_line_makes_durable_what_was_shown(
    chat: Conversation, api: MessagesAPI, tables: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing more comes, what came is durable after the promised time, without another event."""
    api.fail(Fault.cut(700, then="stall", answer=WORDS))
    seen: list[bytes] = []
    original = _Journal.flush

    def flush(self: _Journal) -> None:
        original(self)
        seen.append(journal(tables))
        if seen[-1]:
            api.close()

    monkeypatch.setattr(_Journal, "flush", flush)
    with pytest.raises(InterruptedAnswerError):
        by_stream(chat, "one")
    assert seen[-1] == api.requests[0].response
    assert partial(chat) == seen[-1]


def test_a_slow_caller_has_what_was_shown_durable(chat: Conversation, api: MessagesAPI, tables: Engine) -> None:
    """A caller who takes long with each event finds the events before it in the journal."""
    shown: list[bytes] = []
    with chat.stream("one two three four five six") as stream:
        for each in stream:
            if 1 < len(shown) < 6:
                assert all(raw in journal(tables) for raw in shown)
            shown.append(each.raw)
            if len(shown) < 6:
                time.sleep(JOURNAL_SECONDS * 1.2)
    assert len(shown) > 6


def test_a_fast_answer_is_durable_by_size(chat: Conversation, api: MessagesAPI, tables: Engine) -> None:
    """Of an answer that comes faster than time tells, no more than the promised bytes are not durable."""
    text = " ".join(f"ant {n}" for n in range(4000))
    api.answer(text)
    arrived = most = 0
    with chat.stream("one", max_tokens=60000) as stream:
        for n, each in enumerate(stream):
            arrived += len(each.raw)
            if n % 200 == 0:
                most = max(most, arrived - len(journal(tables)))
    assert arrived > 10 * JOURNAL_BYTES
    assert most < JOURNAL_BYTES + 70_000  # one read of the socket may bring more than is allowed to wait
    assert stream.reply.text == text


def test_the_journal_holds_the_exchange(database_url: str, api: MessagesAPI, tables: Engine) -> None:
    """Each write renews the lease by the database's clock, so nobody else may take over while it streams."""
    api.fail(Fault.trickle(150, 0.1, WORDS))
    with Client(api.key, base_url=api.url, timeout=20) as client, Store(database_url, client=client) as store:
        chat = store.open("telegram:42", **SETTINGS)
        leases: list[int] = []
        with chat.stream("one", journal="each") as stream:
            for _ in stream:
                with tables.connect() as connection:
                    leases.append(connection.execute(select(conversation_table.c.lease_until)).scalar_one())
                other = store.get(chat.id)
                with pytest.raises(BusyError):
                    other.recover("give_up")
        assert leases == sorted(leases)
        assert leases[-1] > leases[0] + 300_000


def test_an_exchange_taken_over_is_noticed_in_the_loop(
    chat: Conversation, store: Store, api: MessagesAPI, tables: Engine
) -> None:
    """Once the token is another's, the next write stops the loop, and this worker records nothing."""
    api.fail(Fault.trickle(40, 0.002, WORDS))
    version = 0
    shown = []

    def take_over(event: object) -> None:
        shown.append(event)
        if len(shown) == 4:
            nonlocal version
            version = store.get(chat.id).version
            with tables.begin() as connection:
                connection.execute(update(conversation_table).values(pending_token=b"another process!"))

    with pytest.raises(LeaseLostError):
        by_stream(chat, "one", take_over, journal="each")
    assert len(shown) < 12
    assert store.get(chat.id).version == version
    assert store.get(chat.id).verify() == []


def test_an_answer_that_comes_too_late_is_a_note(
    chat: Conversation, store: Store, api: MessagesAPI, tables: Engine
) -> None:
    """A whole answer whose exchange was taken over at the end is kept as a note, not as a turn."""

    def take_over(event: object) -> None:
        if isinstance(event, MessageStop):
            with tables.begin() as connection:
                connection.execute(update(conversation_table).values(pending_token=b"another process!"))

    with pytest.raises(LeaseLostError):
        by_stream(chat, "one", take_over)
    fresh = store.get(chat.id)
    assert [turn.role for turn in fresh.turns] == ["user"]
    entry = fresh._history.entry(fresh.version - 1)
    assert entry.kind == "note"
    assert b"You said: one" in (entry.body or b"")
    assert fresh.verify() == []


# --- a killed process --------------------------------------------------------------------------------------------

VICTIM: Final = """
import sys, time
from conversation_store import Client, Store
url, api, model, prefill = sys.argv[1:]
with Client("sk-ant-loopback", base_url=api) as client, Store(url, client=client) as store:
    chat = store.open("telegram:42", model=model, max_tokens=64)
    with chat.stream("What is an ant?", prefill=prefill or None, journal="each", idempotency_key="1") as stream:
        for piece in stream.text:
            print(piece, end="|", flush=True)
"""


def killed(url: str, body: bytes, model: str, prefill: str = "") -> bytes:
    """Let a process stream an answer that stalls after *body*, kill it there, and give what it had shown."""
    head = framed(b"", "neither", kind="text/event-stream")
    Store(url).close()
    with FaultyAPI(Sent(head.wire[: head.head] + body, "stall")) as api:
        victim = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", VICTIM, url, api.url, model, prefill],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert victim.stdout is not None
        shown = b""
        wanted = body.count(b"text_delta")
        while shown.count(b"|") < wanted:
            piece = os.read(victim.stdout.fileno(), 1 << 16)
            assert piece, "the victim ended by itself"
            shown += piece
        if not wanted:
            until = time.monotonic() + 20
            while not api.bodies and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(0.2)
        victim.kill()
        victim.wait()
        victim.stdout.close()
    return shown.replace(b"|", b"")


UNFINISHED: Final = (
    START
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "It is a small"})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": " thing, "})
)


@pytest.fixture
def taken_over(database_url: str, client: Client) -> Callable[..., tuple[Store, Conversation]]:
    """Kill a process in the middle of a stream, and open what it left as another process does."""

    def open_after(body: bytes = UNFINISHED, model: str = "claude-sonnet-5-5", prefill: str = "") -> Any:
        shown = killed(database_url, body, model, prefill)
        store = Store(database_url, client=client)
        chat = store.get("telegram:42")
        assert [exchange.state.value for exchange in chat.exchanges] == ["unknown"]
        assert shown.decode() == "".join(
            json.loads(line[6:])["delta"]["text"] for line in body.decode().splitlines() if "text_delta" in line
        )
        return store, chat

    return open_after


TakenOver = Callable[..., tuple[Store, Conversation]]


@pytest.mark.parametrize("action", ["give_up", "keep_partial"])
def test_a_killed_process_leaves_what_had_arrived(
    database_url: str, taken_over: TakenOver, tables: Engine, action: Any
) -> None:
    """After SIGKILL the journal has every byte that came, and resolving moves them into the outcome."""
    store, chat = taken_over()
    with store:
        assert journal(tables) == UNFINISHED
    with Store(database_url) as clientless:
        chat = clientless.get("telegram:42")
        assert chat.recover(action) is None
        assert partial(chat) == UNFINISHED
        assert chat.exchanges[0].maybe_billed
        assert states(chat) == ["interrupted"]
        assert journal(tables) == b""
        sound(clientless, chat)


def test_a_killed_process_is_sent_again(taken_over: TakenOver, api: MessagesAPI) -> None:
    """recover("resend") asks again, as a new exchange, and the turn is not doubled."""
    store, chat = taken_over()
    with store:
        api.answer(WORDS)
        reply = chat.recover("resend")
        assert reply is not None
        assert reply.text == WORDS
        assert words(chat) == ["What is an ant?", WORDS]
        assert states(chat)[-1] == "answered"
        assert reply.exchange.retry_of == chat.exchanges[0].position
        assert chat.send("What is an ant?", idempotency_key="1") == reply
        assert len(api.requests) == 1
        sound(store, chat)


DYING: Final = """
import os, signal, sys
from conversation_store import Client, Store
from conversation_store.api.stream import MessageStop
url, api = sys.argv[1:]
with Client("sk-ant-loopback", base_url=api) as client, Store(url, client=client) as store:
    chat = store.open("telegram:42", model="claude-haiku-4-5", max_tokens=64)
    with chat.stream("What is an ant?", prefill="It is", journal="each", idempotency_key="1") as stream:
        for event in stream:
            if isinstance(event, MessageStop):
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["resend", "keep_partial", "give_up", "stream", "key"])
def test_a_process_killed_with_the_whole_answer_leaves_an_answer(
    database_url: str, client: Client, api: MessagesAPI, tables: Engine, how: Any
) -> None:
    """The journal has all of it: it is recorded as the answer, and nobody is asked or paid again."""
    Store(database_url).close()
    api.answer(" a small thing.")
    victim = subprocess.run([sys.executable, "-c", DYING, database_url, api.url], cwd=ROOT, check=False)
    assert victim.returncode == -signal.SIGKILL
    with Store(database_url, client=client) as store:
        chat = store.get("telegram:42")
        assert states(chat) == ["unknown"]
        if how == "stream":
            with chat.recover_stream("keep_partial") as stream:
                reply = stream.reply
        elif how == "key":
            said = "What is an ant?"
            reply = chat.send(said, prefill="It is", idempotency_key="1", on_unknown="resend")
        else:
            recovered = chat.recover(how)
            assert recovered is not None
            reply = recovered
        assert reply.text == " a small thing."
        assert states(chat) == ["answered"]
        assert words(chat) == ["What is an ant?", "It is a small thing."]
        assert len(api.requests) == 1
        assert journal(tables) == b""
        sound(store, chat)


def test_a_key_sent_again_keeps_what_had_arrived(taken_over: TakenOver, tables: Engine) -> None:
    """What came of a lost answer moves from the journal into its outcome, however it is sent again."""
    store, chat = taken_over()
    with store:
        chat.send("What is an ant?", idempotency_key="1", on_unknown="resend")
        assert partial(chat, chat.exchanges[0]) == UNFINISHED
        assert states(chat) == ["interrupted", "answered"]
        assert journal(tables) == b""
        sound(store, chat)


def test_what_had_arrived_outlives_sending_again(taken_over: TakenOver, tables: Engine) -> None:
    """The bytes that had come before it was sent again are still in the database."""
    store, chat = taken_over()
    with store:
        chat.recover("resend")
        first = chat.exchanges[0]
        assert first.state in {"unknown", "interrupted"}
        assert journal(tables) == UNFINISHED or partial(chat, first) == UNFINISHED


@pytest.mark.parametrize("prefill", ["", "The answer:"])
def test_the_words_that_came_are_gone_on_with_as_a_prefill(
    taken_over: TakenOver, api: MessagesAPI, prefill: str
) -> None:
    """Where the model takes a prefill, the partial words are it, and the turn holds both as one text."""
    store, chat = taken_over(model="claude-haiku-4-5", prefill=prefill)
    with store:
        api.answer(" with six legs.")
        reply = chat.recover("keep_partial")
        begun = prefill + "It is a small thing,"
        assert reply is not None
        assert api.requests[0].body["messages"] == [
            {"role": "user", "content": "What is an ant?"},
            {"role": "assistant", "content": begun},
        ]
        assert reply.text == " with six legs."
        assert reply.turn is not None
        assert reply.turn.text == begun + " with six legs."
        assert words(chat) == ["What is an ant?", reply.turn.text]
        assert states(chat) == ["interrupted", "answered"]
        assert partial(chat, chat.exchanges[0]) == UNFINISHED
        sound(store, chat)


def test_newer_models_are_asked_to_go_on(taken_over: TakenOver, api: MessagesAPI) -> None:
    """Where a model takes no prefill, a turn of the user's quotes the partial words and asks for the rest."""
    store, chat = taken_over()
    with store:
        api.answer("with six legs.")
        reply = chat.recover("keep_partial")
        assert reply is not None
        asked = api.requests[0].body["messages"]
        assert {message["role"] for message in asked} == {"user"}
        assert "It is a small thing," in str(asked[-1]["content"])
        assert reply.turn is not None
        assert (reply.text, chat.turns[1].origin) == ("with six legs.", "synthetic")
        assert states(chat) == ["interrupted", "answered"]
        sound(store, chat)


CALL: Final = event("content_block_start", index=1, content_block={"type": "tool_use", "id": "toolu_1", "name": "f"})
THINKING: Final = event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}) + event(
    "content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Ants, then."}
)


def test_asking_to_go_on_says_it_once(database_url: str) -> None:
    """Where the rules refuse the request that asks for the rest, its words are not on the record, let alone twice."""
    with served(database_url, START + said("Hello")) as (chat, _):
        with suppress(InterruptedAnswerError):
            by_stream(chat, "one")
        chat.update(tool_choice={"type": "auto"})
        for _ in range(2):
            with pytest.raises(RuleViolationError):
                chat.recover("keep_partial")
        assert words(chat) == ["one"]


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-sonnet-5-5"])
def test_unfinished_calls_and_thinking_are_never_sent(taken_over: TakenOver, api: MessagesAPI, model: str) -> None:
    """Of what had arrived only words go on: a call cut off and unsigned thinking stay in the record."""
    store, chat = taken_over(START + said("It is a small") + CALL, model)
    with store:
        reply = chat.recover("keep_partial")
        assert reply is not None
        assert b"toolu_1" not in api.requests[0].raw
        assert b"toolu_1" in partial(chat, chat.exchanges[0])
        sound(store, chat)


@pytest.mark.parametrize("body", [b"", START, START + THINKING], ids=["nothing", "no block", "thinking"])
def test_without_words_there_is_nothing_to_go_on_from(taken_over: TakenOver, api: MessagesAPI, body: bytes) -> None:
    """Where no word had come, keep_partial records the exchange as interrupted, sends nothing and gives None."""
    store, chat = taken_over(body)
    with store:
        assert chat.recover("keep_partial") is None
        assert not api.requests
        assert (states(chat), partial(chat)) == (["interrupted"], body)
        assert chat.retry().text.startswith("You said")
        sound(store, chat)


def test_a_key_of_a_killed_process_needs_a_decision(taken_over: TakenOver, api: MessagesAPI) -> None:
    """The same key is refused until it is said what to do; then it is streamed again."""
    store, chat = taken_over()
    with store:
        with pytest.raises(UnknownOutcomeError), chat.stream("What is an ant?", idempotency_key="1"):
            pass
        assert not api.requests
        with chat.stream("What is an ant?", idempotency_key="1", on_unknown="resend") as stream:
            reply = stream.reply
        assert api.requests[0].body["stream"] is True
        assert reply.exchange.retry_of == chat.exchanges[0].position
        sound(store, chat)


def test_keep_partial_goes_on_from_an_answer_that_broke_off(store: Store, api: MessagesAPI) -> None:
    """An interrupted exchange of this very process is gone on with too, as often as it takes."""
    chat = store.open("prefilled", **TAKES_PREFILL)
    api.fail(Fault.interrupt(6, answer=WORDS))
    with pytest.raises(InterruptedAnswerError), chat.stream("What is an ant?", stop_sequences=["ant!"]) as stream:
        assert stream.reply
    begun = stream.text_so_far
    assert WORDS.startswith(begun)
    assert begun
    api.answer(WORDS[len(begun) :])
    reply = chat.recover("keep_partial")
    assert reply is not None
    assert reply.turn is not None
    assert reply.turn.text == WORDS
    assert api.requests[-1].body["stop_sequences"] == ["ant!"]
    assert chat.recover("keep_partial") is None
    sound(store, chat)


def test_sending_again_is_streamed(taken_over: TakenOver, api: MessagesAPI) -> None:
    """What a killed process left is sent again as a stream: its words come one by one, its record is the same."""
    store, chat = taken_over()
    with store:
        assert chat.partial_text(chat.exchanges[0]) == "It is a small thing, "
        api.answer(Fault.interrupt(6, answer=WORDS), WORDS)
        with pytest.raises(InterruptedAnswerError), chat.recover_stream("resend") as stream:
            list(stream)
        assert WORDS.startswith(chat.partial_text(chat.exchanges[-1]))
        with chat.retry_stream() as stream:
            pieces = list(stream.text)
        assert ("".join(pieces), len(pieces) > 1) == (WORDS, True)
        assert words(chat) == ["What is an ant?", WORDS]
        assert [exchange.retry_of for exchange in chat.exchanges[1:]] == [chat.exchanges[0].position] * 2
        assert [chat.partial_text(exchange) for exchange in chat.exchanges[2:]] == [""]
        sound(store, chat)


@pytest.mark.parametrize(("model", "origins"), [("claude-haiku-4-5", 2), ("claude-sonnet-5-5", 3)])
def test_going_on_is_streamed(taken_over: TakenOver, api: MessagesAPI, model: str, origins: int) -> None:
    """The rest of what a killed process had shown comes as a stream, by a prefill or by asking in words."""
    store, chat = taken_over(model=model)
    with store:
        api.answer(" with six legs.")
        with chat.recover_stream("keep_partial") as stream:
            assert "".join(stream.text) == " with six legs."
        assert len(chat.turns) == origins
        assert states(chat) == ["interrupted", "answered"]
        sound(store, chat)


def test_nothing_to_stream_again(chat: Conversation, api: MessagesAPI) -> None:
    """Where nothing is lost, broken off or unanswered, it is said and nothing is sent."""
    assert chat.send("Hello").text
    for again in (chat.retry_stream(), chat.recover_stream(), chat.recover_stream("keep_partial")):
        with pytest.raises(ContentError), again:
            pass
    with pytest.raises(ContentError, match="action"):
        chat.recover_stream("give_up")  # type: ignore[arg-type]
    assert len(api.requests) == 1


def test_a_retry_that_pauses_goes_on(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """What pauses in a streamed retry is gone on with, under the settings of the retry."""
    api.answer(Fault.interrupt(4, answer="Ants"), Answer.pause(query="ants"))
    with (
        pytest.raises(InterruptedAnswerError),
        chat.stream("What is an ant?", tools=[{"type": "web_search_20250305", "name": "web_search"}]) as stream,
    ):
        list(stream)
    with chat.retry_stream(max_tokens=77) as stream:
        assert stream.reply.before
    assert [each.body["max_tokens"] for each in api.requests[1:]] == [77, 77]
    assert all("tools" in each.body for each in api.requests)
    sound(store, chat)


def test_ctrl_c_while_an_answer_is_saved(chat: Conversation, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that has arrived and was paid for is saved before Ctrl-C goes on."""
    really = Database.write

    def interrupt(self: Database, *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(Database, "write", really)
        raise KeyboardInterrupt

    def stop_at_the_end(event: object) -> None:
        if isinstance(event, MessageStop):
            monkeypatch.setattr(Database, "write", interrupt)

    with pytest.raises(KeyboardInterrupt):
        by_stream(chat, "one", stop_at_the_end)
    assert words(chat) == ["one", "You said: one"]
    assert states(chat) == ["answered"]
    sound(store, chat)


def test_an_answer_that_cannot_be_saved_is_in_hand(
    chat: Conversation, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the database refuses at the end, the answer is in the error, and can be recorded later."""

    def refuse(*_: object) -> None:
        raise DatabaseError("full", "there is no space left")

    def fill_up(event: object) -> None:
        if isinstance(event, MessageStop):
            monkeypatch.setattr(Database, "write", refuse)

    with pytest.raises(NotSavedError) as caught:
        by_stream(chat, "one", fill_up)
    monkeypatch.undo()
    reply: Reply = caught.value.pending.finish()
    assert reply.text == "You said: one"
    sound(store, chat)
