"""What becomes of an answer by the reason it stopped: appended, gone on with, kept in the record alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pytest
from sqlalchemy import create_engine, update

from conversation_store import Client, Conversation, Reply, Store
from conversation_store.api.retry import Clock
from conversation_store.errors import (
    BusyError,
    InterruptedAnswerError,
    NoAnswerError,
    OverloadedError,
    RuleViolationError,
    UnfitReplyError,
    UnknownOutcomeError,
)
from conversation_store.record import canonical
from conversation_store.sending import MOST_PAUSES
from conversation_store.storage.engine import Database
from conversation_store.storage.tables import conversation as conversation_table
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests.faulty import FaultyAPI, Sent, framed
from tests.strategies import spelled

SEARCH: Final = {"type": "web_search_20250305", "name": "web_search"}
WEATHER: Final = {"name": "weather", "input_schema": {"type": "object"}}
SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64, "tools": [SEARCH, WEATHER]}

Ask = Callable[..., Reply]


def by_send(chat: Conversation, *content: str, **more: Any) -> Reply:
    """Ask, and wait for the whole answer."""
    return chat.send(*content, **more)


def by_stream(chat: Conversation, *content: str, **more: Any) -> Reply:
    """Ask, and read the answer as it arrives."""
    with chat.stream(*content, **more) as stream:
        return stream.reply


@pytest.fixture(params=[by_send, by_stream], ids=["send", "stream"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Give each way to ask in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


@pytest.fixture
def client(api: MessagesAPI) -> Iterator[Client]:
    """Give a client that tries once and never really waits."""
    with Client(api.key, base_url=api.url, timeout=20, max_attempts=1, clock=Clock(sleep=lambda _: None)) as made:
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


def text(words: str) -> dict[str, Any]:
    """Write a text block."""
    return {"type": "text", "text": words}


def call(id_: str = "toolu_1") -> dict[str, Any]:
    """Write a call of the caller's tool."""
    return {"type": "tool_use", "id": id_, "name": "weather", "input": {"city": "Paris"}}


def searching(n: int) -> dict[str, Any]:
    """Write a call of a server tool."""
    return {"type": "server_tool_use", "id": f"srvtoolu_{n}", "name": "web_search", "input": {"query": f"ants {n}"}}


def found(n: int) -> dict[str, Any]:
    """Write a server tool's result."""
    return {"type": "web_search_tool_result", "tool_use_id": f"srvtoolu_{n}", "content": []}


def asked(api: MessagesAPI, n: int = -1) -> list[Any]:
    """List the messages of a request."""
    return list(api.requests[n].body["messages"])


def states(chat: Conversation) -> list[str]:
    """List the states of a conversation's exchanges."""
    return [exchange.state.value for exchange in chat.exchanges]


def words(chat: Conversation) -> list[str]:
    """List what the turns of the view say."""
    return [turn.text for turn in chat.turns]


def sound(store: Store, chat: Conversation) -> None:
    """Make sure that this object, a fresh one and the chain agree."""
    fresh = store.get(chat.id)
    chat.refresh()
    assert (chat.version, chat.head) == (fresh.version, fresh.head)
    assert chat.request(check=False).body == fresh.request(check=False).body
    assert fresh.verify() == []


# --- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "stop_reason", "stop_sequence"),
    [
        ([text("Done.")], "end_turn", None),
        ([text("One, ")], "stop_sequence", "two"),
        ([text("One, two, thr")], "max_tokens", None),
        ([call(), text("and th")], "max_tokens", None),
        ([text("One, two, thr")], "model_context_window_exceeded", None),
        ([text("Well.")], "a reason of next year", None),
    ],
    ids=["end_turn", "stop_sequence", "max_tokens", "a call before the cut", "context window", "unknown"],
)
def test_words_are_appended_whatever_stopped_them(
    chat: Conversation, store: Store, api: MessagesAPI, *, ask: Ask, content: Any, stop_reason: str, stop_sequence: Any
) -> None:
    """An answer with words is a turn, and its reason is kept as it came, also one nobody knows."""
    api.answer(Answer(content, stop_reason=stop_reason, stop_sequence=stop_sequence))
    reply = ask(chat, "Count")
    assert (reply.stop_reason, reply.exchange.state) == (stop_reason, "answered")
    assert reply.fields["stop_sequence"] == stop_sequence
    assert reply.turn is not None
    assert json.loads(reply.turn.wire)["content"] == content
    assert store.get(chat.id).exchanges[-1].stop_reason == stop_reason
    for use in reply.tool_uses:
        chat.tool_result(use.id, "rain")
    chat.send("Go on")
    assert asked(api)[1] == {"role": "assistant", "content": content}
    sound(store, chat)


@pytest.mark.parametrize("stop_reason", ["max_tokens", "model_context_window_exceeded"])
@pytest.mark.parametrize("before", [[], [text("Let me see.")], [call("toolu_0")]], ids=["alone", "words", "a call"])
def test_a_call_that_was_cut_off_is_never_sent(
    chat: Conversation, store: Store, api: MessagesAPI, *, ask: Ask, before: list[Any], stop_reason: str
) -> None:
    """A limit in the middle of a call leaves no turn and no call to answer; it is tried again with more room."""
    content = [*before, {**call(), "input": {}}]
    api.answer(Answer(content, stop_reason=stop_reason), "Now.")
    reply = ask(chat, "Weather?")
    assert (reply.turn, reply.tool_uses, chat.open_calls) == (None, (), ())
    assert json.loads(reply.raw_content) == content
    assert reply.exchange.state == "answered"
    again = chat.retry(max_tokens=640)
    assert (again.text, api.requests[-1].body["max_tokens"]) == ("Now.", 640)
    assert b"toolu_" not in api.requests[-1].raw
    assert words(chat) == ["Weather?", "Now."]
    sound(store, chat)


def test_input_that_is_no_json_is_kept_and_never_sent(database_url: str) -> None:
    """A streamed call whose input breaks off at the limit keeps what came of it as a string."""
    with MessagesAPI() as speaking:
        speaking.answer(Answer([text("See."), call()], stop_reason="max_tokens"))
        with Client(speaking.key, base_url=speaking.url) as client, Store("sqlite://", client=client) as store:
            by_stream(store.open(**SETTINGS), "Weather?")
        whole = speaking.requests[0].response
    cut = whole.replace(rb'"partial_json":"ris\"}"', b'"partial_json":""').replace(rb"is\"}", b"")
    assert len(cut) < len(whole)
    served = framed(cut, "chunked", kind="text/event-stream")
    with (
        FaultyAPI(Sent(served.wire)) as api,
        Client("sk-ant-loopback", base_url=api.url) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("telegram:42", **SETTINGS)
        reply = by_stream(chat, "Weather?")
        assert (reply.turn, reply.tool_uses) == (None, ())
        assert isinstance(json.loads(reply.raw_content)[1]["input"], str)
        assert chat.replay(reply.exchange) == api.bodies[0]
        sound(store, chat)


@pytest.mark.parametrize("content", [[], [text("I can")], [text("I can"), call()]], ids=["empty", "words", "a call"])
def test_a_refusal_is_recorded_and_leaves_the_view(
    chat: Conversation, store: Store, api: MessagesAPI, ask: Ask, content: list[Any]
) -> None:
    """What was refused, and what came of it, is in the record; the view goes on without, another model is asked."""
    details = {"type": "refusal", "category": "cyber", "explanation": None}
    api.answer(Answer(content, stop_reason="refusal", stop_details=details), "Certainly.")
    reply = ask(chat, "How?")
    assert (reply.refused, reply.turn, reply.exchange.state, reply.tool_uses) == (True, None, "refused", ())
    assert json.loads(reply.raw_content) == content
    assert reply.fields["stop_details"] == details
    assert (words(chat), chat.open_calls) == ([], ())
    assert chat.retry(model="claude-haiku-5-5").text == "Certainly."
    assert words(chat) == ["How?", "Certainly."]
    sound(store, chat)


@pytest.mark.parametrize("content", [[], [text("")], [text(" \n"), text("")]], ids=["none", "empty", "blank"])
@pytest.mark.parametrize("stop_reason", ["end_turn", "max_tokens", "tool_use", "compaction"])
def test_empty_content_is_no_turn(
    chat: Conversation, store: Store, api: MessagesAPI, *, ask: Ask, content: list[Any], stop_reason: str
) -> None:
    """An answer of nothing is recorded and not appended: the API would not take it back."""
    api.answer(Answer(content, stop_reason=stop_reason))
    reply = ask(chat, "Hello")
    assert (reply.turn, reply.text.strip(), reply.exchange.state) == (None, "", "answered")
    assert json.loads(reply.raw_content) == content
    chat.send("Are you there?")
    assert [message["content"] for message in asked(api)] == ["Hello", "Are you there?"]
    sound(store, chat)


def test_a_compaction_is_appended_and_sent_back(database_url: str, ask: Ask) -> None:
    """The block the API wrote in place of earlier turns is a turn, sent back exactly as it came."""
    block = {"type": "compaction", "content": "So far: ants.", "encrypted_content": None, "signature": "c2ln"}
    with MessagesAPI(strict=False) as api:
        api.answer(Answer([block], stop_reason="compaction"), "Ants, then.")
        with Client(api.key, base_url=api.url) as client, Store(database_url, client=client) as store:
            chat = store.open("telegram:42", **SETTINGS, betas=["compact-2026-01-12"])
            reply = ask(chat, "One")
            assert reply.stop_reason == "compaction"
            assert reply.turn is not None
            assert ask(chat, "Two").text == "Ants, then."
            assert asked(api)[1] == {"role": "assistant", "content": [block]}
            sound(store, chat)


# --- pauses ------------------------------------------------------------------------------------------------------


def test_a_pause_is_gone_on_with(chat: Conversation, store: Store, api: MessagesAPI, ask: Ask) -> None:
    """Each pause is an exchange of its own; the reply is the last one, with the words of all and those before."""
    container = {"id": "container_1", "expires_at": "2099-01-01T00:00:00Z", "skills": None}
    api.answer(
        Answer([text("Let me look. "), searching(1)], stop_reason="pause_turn", fields={"container": container}),
        Answer([found(1), searching(2)], stop_reason="pause_turn", fields={"container": container}),
        Answer([found(2), text("Six legs.")]),
    )
    reply = ask(chat, "What is an ant?", max_tokens=99)
    assert reply.text == "Let me look. Six legs."
    assert [each.stop_reason for each in reply.before] == ["pause_turn"] * 2
    assert [block.type for block in reply.content] == [
        "text",
        "server_tool_use",
        "web_search_tool_result",
        "server_tool_use",
        "web_search_tool_result",
        "text",
    ]
    assert [message["role"] for message in asked(api)] == ["user", "assistant", "assistant"]
    assert [each.body["max_tokens"] for each in api.requests] == [99] * 3
    assert [each.body.get("container") for each in api.requests] == [None, "container_1", "container_1"]
    assert states(chat) == ["answered"] * 3
    assert [chat.replay(each) for each in chat.exchanges] == [each.raw for each in api.requests]
    assert chat.send("Thanks").text
    sound(store, chat)


def test_pauses_are_streamed_through(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """A streamed answer goes on over a pause: events and words of all rounds come from one loop."""
    api.answer(
        Answer([text("Let me look. "), searching(1)], stop_reason="pause_turn"), Answer([found(1), text("Six legs.")])
    )
    with chat.stream("What is an ant?") as stream:
        pieces = list(stream.text)
        assert stream.text_so_far == "".join(pieces) == stream.reply.text == "Let me look. Six legs."
    assert [each.body["stream"] for each in api.requests] == [True, True]
    assert len(stream.reply.before) == 1
    sound(store, chat)


def test_pauses_are_capped(chat: Conversation, store: Store, api: MessagesAPI, ask: Ask) -> None:
    """After ten the caller gets the paused answer, and may go on by sending what stands."""
    rounds = [Answer([searching(0)], stop_reason="pause_turn")]
    rounds += [Answer([found(n), searching(n + 1)], stop_reason="pause_turn") for n in range(MOST_PAUSES + 2)]
    api.answer(*rounds)
    reply = ask(chat, "Search for ever")
    assert (reply.stop_reason, len(reply.before), len(api.requests)) == ("pause_turn", MOST_PAUSES, MOST_PAUSES + 1)
    api.clear()
    api.answer(Answer([found(MOST_PAUSES), text("Enough.")]))
    assert ask(chat).text == "Enough."
    sound(store, chat)


def paused_and_failed(chat: Conversation, api: MessagesAPI, ask: Ask, fault: Fault, error: type[Exception]) -> None:
    """Ask under a key, pause once, and fail in the round after."""
    api.answer(Answer([text("Look. "), searching(1)], stop_reason="pause_turn"), fault)
    with pytest.raises(error):
        ask(chat, "What is an ant?", idempotency_key="1")
    assert len(api.requests) == 2


END: Final = Answer([found(1), text("Six legs.")])


def settled(chat: Conversation, store: Store, api: MessagesAPI, ask: Ask, reply: Reply) -> None:
    """Make sure that a resumed answer is whole, recorded once, and known by its key from now on."""
    assert reply.text == "Look. Six legs."
    assert [each.stop_reason for each in reply.before] == ["pause_turn"]
    calls = len(api.requests)
    assert ask(store.get(chat.id), "What is an ant?", idempotency_key="1").text == reply.text
    assert len(api.requests) == calls
    assert words(store.get(chat.id)) == ["What is an ant?", "Look. ", "Six legs."]
    sound(store, chat)


def test_a_failure_after_a_pause_is_resumed_by_key(
    chat: Conversation, store: Store, api: MessagesAPI, ask: Ask
) -> None:
    """The same key goes on where the pause was: the paused answer is not asked for again."""
    paused_and_failed(chat, api, ask, Fault.status(529), OverloadedError)
    api.answer(END)
    reply = ask(store.get(chat.id), "What is an ant?", idempotency_key="1")
    assert len(api.requests) == 3
    assert api.requests[2].raw == api.requests[1].raw
    settled(chat, store, api, ask, reply)


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault.cut(30), InterruptedAnswerError), (Fault.close(), NoAnswerError)],
    ids=["interrupted", "no answer"],
)
def test_an_unknown_outcome_after_a_pause_needs_a_decision(
    chat: Conversation, store: Store, api: MessagesAPI, *, ask: Ask, fault: Fault, error: type[Exception]
) -> None:
    """A continuation that may have been billed and broke off is not sent again unasked."""
    paused_and_failed(chat, api, ask, fault, error)
    fresh = store.get(chat.id)
    api.answer(END)
    if error is InterruptedAnswerError:
        with pytest.raises(UnknownOutcomeError) as caught:
            ask(fresh, "What is an ant?", idempotency_key="1")
        assert caught.value.exchange == chat.exchanges[1].position
        assert len(api.requests) == 2
    settled(chat, store, api, ask, ask(fresh, "What is an ant?", idempotency_key="1", on_unknown="resend"))


class KilledError(BaseException):
    """Ends a worker at once."""


@pytest.mark.parametrize("moment", ["before the continuation", "in the continuation"])
def test_a_crash_after_a_pause_is_resumed(
    chat: Conversation,
    store: Store,
    database_url: str,
    api: MessagesAPI,
    *,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """A worker that dies after the pause, or in the next round, is resumed under the key or by recover()."""
    api.answer(Answer([text("Look. "), searching(1)], stop_reason="pause_turn"), END, END)
    left = 2 if moment == "before the continuation" else 3  # begin, finish, begin
    real = Database.write

    def write(self: Database, *given: Any) -> Any:
        nonlocal left
        if not left:
            raise KilledError
        left -= 1
        return real(self, *given)

    monkeypatch.setattr(Database, "write", write)
    monkeypatch.setattr("conversation_store.streaming.JOURNAL_SECONDS", 1000)  # no write but those counted
    with pytest.raises(KilledError):
        ask(chat, "What is an ant?", idempotency_key="1")
    monkeypatch.undo()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(update(conversation_table).values(lease_until=0))
    engine.dispose()
    fresh = store.get(chat.id)
    calls = len(api.requests)
    if moment == "in the continuation":
        assert states(fresh) == ["answered", "unknown"]
        with pytest.raises(UnknownOutcomeError):
            ask(fresh, "What is an ant?", idempotency_key="1")
        recovered = fresh.recover("resend")
        assert recovered is not None
        assert recovered.text == "Six legs."
        assert len(api.requests) == calls + 1
    settled(chat, store, api, ask, ask(fresh, "What is an ant?", idempotency_key="1"))
    assert len(api.requests) <= 3


def test_a_continuation_of_another_worker_is_waited_for(
    chat: Conversation, store: Store, api: MessagesAPI, ask: Ask
) -> None:
    """While another worker goes on with the pause, the same key is busy, and takes nothing over."""
    met: list[Exception] = []

    def during(_: object) -> Answer:
        try:
            ask(store.get(chat.id), "What is an ant?", idempotency_key="1")
        except BusyError as error:
            met.append(error)
        return END

    api.answer(Answer([text("Look. "), searching(1)], stop_reason="pause_turn"), during)
    reply = ask(chat, "What is an ant?", idempotency_key="1")
    assert len(met) == 1
    assert len(api.requests) == 2
    settled(chat, store, api, ask, reply)


def test_waiting_covers_a_continuation_of_another_worker(
    chat: Conversation, store: Store, api: MessagesAPI, ask: Ask
) -> None:
    """Asked to wait, the same key gets the whole answer of the worker that goes on with the pause."""
    met: list[Reply] = []
    waiting = threading.Thread(
        target=lambda: met.append(ask(store.get(chat.id), "What is an ant?", idempotency_key="1", wait=20))
    )

    def during(_: object) -> Answer:
        waiting.start()
        time.sleep(0.3)  # it has found the continuation pending by now
        return END

    api.answer(Answer([text("Look. "), searching(1)], stop_reason="pause_turn"), during)
    reply = ask(chat, "What is an ant?", idempotency_key="1")
    waiting.join()
    assert [each.text for each in met] == [reply.text]
    assert len(api.requests) == 2
    settled(chat, store, api, ask, reply)


def test_a_container_whose_time_is_over_is_not_asked_for(chat: Conversation, api: MessagesAPI, ask: Ask) -> None:
    """An expired container would be refused: the request goes without one."""
    container = {"id": "container_1", "expires_at": "2020-01-01T00:00:00Z", "skills": None}
    api.answer(
        Answer([text("Let me look. "), searching(1)], stop_reason="pause_turn", fields={"container": container}), END
    )
    assert ask(chat, "What is an ant?").exchange.state == "answered"
    assert [each.body.get("container") for each in api.requests] == [None, None]


def test_a_pause_that_was_left_behind_stays_as_it_is(
    chat: Conversation, store: Store, api: MessagesAPI, ask: Ask
) -> None:
    """Where the conversation went on otherwise, the key gives the paused answer and nobody is called."""
    begun = chat.begin("What is an ant?", idempotency_key="1")
    begun.finish(answer_of([searching(1), found(1), text("Look.")], "pause_turn", 1))
    chat.send("Never mind")
    version = chat.version
    reply = ask(store.get(chat.id), "What is an ant?", idempotency_key="1")
    assert (reply.stop_reason, reply.text, reply.before) == ("pause_turn", "Look.", ())
    assert len(api.requests) == 1
    assert store.get(chat.id).version == version


@pytest.mark.parametrize("again", ["retry", "recover"])
def test_what_is_tried_again_may_pause_too(chat: Conversation, store: Store, api: MessagesAPI, again: str) -> None:
    """retry() and recover() go on with pauses as send does."""
    if again == "retry":
        api.fail(Fault.status(529))
        with pytest.raises(OverloadedError):
            chat.send("What is an ant?", idempotency_key="1", max_tokens=77)
    else:
        chat.begin("What is an ant?", idempotency_key="1", max_tokens=77, lease=0)
    api.answer(Answer([text("Look. "), searching(1)], stop_reason="pause_turn"), END)
    fresh = store.get(chat.id)
    reply = fresh.retry() if again == "retry" else fresh.recover("resend")
    assert reply is not None
    assert api.requests[-1].body["max_tokens"] == 77
    settled(fresh, store, api, by_send, reply)


def test_a_secret_goes_along_when_a_retry_pauses(database_url: str) -> None:
    """A token for one exchange alone is sent in every try and round of it, and never stored."""
    with MessagesAPI(strict=False) as api:
        api.answer(Fault.status(529), Answer([text("Look. "), searching(1)], stop_reason="pause_turn"), END)
        with (
            Client(api.key, base_url=api.url, max_attempts=1) as client,
            Store(database_url, client=client) as store,
        ):
            chat = store.open("telegram:42", **SETTINGS)
            with pytest.raises(OverloadedError):
                chat.send("What is an ant?", fallback_credit_token="a secret")
            assert chat.retry().text == "Look. Six legs."
            assert [each.body["fallback_credit_token"] for each in api.requests] == ["a secret"] * 3
            assert all(b"a secret" not in chat.replay(each) for each in chat.exchanges)
            sound(store, chat)


# --- fallbacks ---------------------------------------------------------------------------------------------------

SWITCH: Final = {"type": "fallback", "from": {"model": "claude-opus-5-5"}, "to": {"model": "claude-sonnet-5-5"}}


def thinking(words: str = "Hm.", signature: str = "c2ln") -> dict[str, Any]:
    """Write a thinking block."""
    return {"type": "thinking", "thinking": words, "signature": signature}


BEFORE: Final[Sequence[tuple[dict[str, Any], bool]]] = (
    (thinking(), False),
    ({"type": "redacted_thinking", "data": "ZA=="}, False),
    ({"type": "connector_text", "connector_text": "narration"}, False),
    (text("So far."), True),
    (call("toolu_0"), False),
    (searching(1), True),
    (found(1), True),
    (searching(2), False),
    ({**SWITCH, "trigger": None}, True),
    (thinking("Again.", "c2k="), False),
    (text(""), False),
    ({**SWITCH, "trigger": {"type": "refusal", "category": "bio"}}, True),
)
AFTER: Final[Sequence[dict[str, Any]]] = (thinking("Now.", "czM="), text("Here."), searching(3), found(3), call())


def answer_of(content: Sequence[Any], stop_reason: str, seed: int) -> bytes:
    """Write an answer in a spelling of its own."""
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "content": 0}
    head = json.dumps({**whole, "stop_reason": stop_reason, "usage": {"input_tokens": 1, "output_tokens": 1}}).encode()
    return head.replace(b'"content": 0', b'"content": ' + spelled(content, seed))


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_of_a_fallback_is_sent_back_by_its_table(database_url: str, seed: int) -> None:
    """Of what stands before the last switch some is never resent; the rest and all after it goes back as it came."""
    blocks = [*(block for block, _ in BEFORE), *AFTER]
    answers = iter([answer_of(blocks, "tool_use", seed)])
    last = answer_of([text("Rain.")], "end_turn", seed)
    with (
        FaultyAPI(lambda _: Sent(framed(next(answers, last), "length").wire)) as api,
        Client("sk-ant-loopback", base_url=api.url) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("telegram:42", **{**SETTINGS, "model": "claude-opus-5-5"})
        reply = chat.send("Weather?")
        assert [use.id for use in reply.tool_uses] == [use.id for use in chat.open_calls] == ["toolu_1"]
        assert reply.exchange.served_by == "claude-sonnet-5-5"
        assert reply.turn is not None
        assert json.loads(reply.raw_content) == blocks
        chat.tool_result("toolu_1", "rain")
        chat.send()
        sent = json.loads(api.bodies[-1])["messages"][1]["content"]
        assert sent == [*(block for block, resent in BEFORE if resent), *AFTER]
        received = reply.turn.received
        pieces = [received[each.start : each.end] for each in canonical.items(received)]
        kept = [piece for piece, block in zip(pieces, blocks, strict=True) if block in sent]
        assert all(piece in api.bodies[-1] for piece in kept)
        sound(store, chat)


# --- thinking ----------------------------------------------------------------------------------------------------


def test_thinking_goes_back_byte_for_byte(database_url: str) -> None:
    """Signed, redacted and empty thinking, between anything, is sent back in place, on any model, for ever."""
    first = answer_of(
        [thinking(""), {"type": "redacted_thinking", "data": "ZA=="}, text("Let me see."), thinking("\u2028é"), call()],
        "tool_use",
        7,
    )
    second = answer_of([thinking("", ""), text("Rain.")], "end_turn", 8)
    last = answer_of([text("Yes.")], "end_turn", 9)
    answers = iter([first, second])
    with (
        FaultyAPI(lambda _: Sent(framed(next(answers, last), "length").wire)) as api,
        Client("sk-ant-loopback", base_url=api.url) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("telegram:42", **SETTINGS)
        chat.send("Weather?")
        chat.tool_result("toolu_1", "rain")
        chat.send()
        for model in ("claude-opus-5-5", "claude-haiku-4-5", "a-model-of-next-year"):
            chat.update(model=model)
            store.get(chat.id).send("Really?")
            chat.refresh()
        for each in (first, second):
            member = canonical.members(each)["content"]
            assert each[member.start : member.end] in api.bodies[-1]
        sound(store, chat)


def test_streamed_thinking_goes_back_too(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """Thinking that came in pieces is sent back as one block, its signature and empty words included."""
    blocks = [thinking("", "c2ln"), thinking("Paris is \u00fc.", "c2ln"), text("See."), call()]
    api.strict = False
    api.answer(Answer(blocks))
    by_stream(chat, "Weather?")
    chat.tool_result("toolu_1", "rain")
    chat.send(model="claude-opus-5-5")
    assert asked(api)[1]["content"] == blocks
    sound(store, chat)


# --- structured outputs ------------------------------------------------------------------------------------------

SCHEMA: Final = {
    "type": "object",
    "properties": {"legs": {"type": "integer"}},
    "required": ["legs"],
    "additionalProperties": False,
}
FORMAT: Final = {"format": {"type": "json_schema", "schema": SCHEMA}}


def test_a_format_passes_through_and_its_answer_is_json(
    chat: Conversation, store: Store, api: MessagesAPI, ask: Ask
) -> None:
    """output_config and strict tools are sent as they are; reply.json() reads the words."""
    chat.update(tools=[{**WEATHER, "strict": True, "input_schema": SCHEMA}])
    api.answer(Answer([text('{"legs": '), text("6}")]))
    reply = ask(chat, "How many?", output_config=FORMAT)
    assert reply.json() == {"legs": 6}
    assert api.requests[0].body["output_config"] == FORMAT
    assert api.requests[0].body["tools"][0]["strict"] is True
    sound(store, chat)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer('{"legs": 6}', stop_reason="max_tokens"), "max_tokens"),
        (Answer('{"legs"', stop_reason="max_tokens"), "max_tokens"),
        (Answer('{"legs": 6}', stop_reason="model_context_window_exceeded"), "model_context_window_exceeded"),
        (Answer("I cannot", stop_reason="refusal"), "refusal"),
        (Answer([], stop_reason="refusal"), "refusal"),
        (Answer("Six."), "end_turn"),
        (Answer([]), "end_turn"),
        (Answer('{"legs": 6} six'), "end_turn"),
        (Answer('{"legs": NaN}'), "end_turn"),
    ],
    ids=["limit", "limit, cut", "window", "refusal", "refusal, empty", "words", "nothing", "more", "NaN"],
)
def test_json_says_when_an_answer_is_unfit(
    chat: Conversation, api: MessagesAPI, ask: Ask, answer: Answer, reason: str
) -> None:
    """A refusal, a limit or words that are no JSON are said to be that, with the reason."""
    api.answer(answer)
    reply = ask(chat, "How many?", output_config=FORMAT)
    with pytest.raises(UnfitReplyError) as caught:
        reply.json()
    assert caught.value.stop_reason == reason
    assert reply.exchange.state in {"answered", "refused"}


def test_json_begun_by_a_prefill_is_read_with_it(store: Store, api: MessagesAPI, ask: Ask) -> None:
    """Where the brace was put in the model's mouth, the JSON is that of the whole turn."""
    chat = store.open("prefilled", model="claude-haiku-4-5", max_tokens=64)
    api.answer('"legs": 6}')
    reply = ask(chat, "How many?", prefill="{")
    assert reply.json() == {"legs": 6}
    with pytest.raises(RuleViolationError, match=r"output_config\.format"):
        ask(chat, "How many?", prefill="{", output_config=FORMAT)
