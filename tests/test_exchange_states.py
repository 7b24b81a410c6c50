"""Exchanges in every state of the design's table, reached by real faults, and the ways out of each."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urlsplit

import anthropic
import pytest
from attrs import evolve, frozen
from sqlalchemy import MetaData, create_engine, select

from conversation_store import Client, Conversation, Exchange, Image, Pending, Store, Text, history, outcomes, pending
from conversation_store.api.request import Messages
from conversation_store.api.retry import Clock
from conversation_store.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    BusyError,
    CodecError,
    ConfigurationError,
    ContentError,
    DatabaseError,
    IdempotencyError,
    InterruptedAnswerError,
    LeaseLostError,
    NoAnswerError,
    NotSavedError,
    NotSentError,
    OverloadedError,
    RateLimitError,
    RequestTooLargeError,
    RuleViolationError,
    ServerError,
    StatusError,
    UnknownOutcomeError,
    UnknownResourceError,
    UnprocessableError,
)
from conversation_store.history import History
from conversation_store.record.turns import fields_of
from conversation_store.storage.engine import Database
from conversation_store.testing import Answer, Fault, MessagesAPI, Model
from tests import pictures

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}
TAKES_PREFILL: Final = "claude-haiku-4-5"
REFUSAL: Final = Answer("I cannot", stop_reason="refusal", stop_details={"type": "refusal", "category": "cyber"})


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


def said(api: MessagesAPI, n: int = -1) -> list[Any]:
    """List what the messages of a request say."""
    return [each["content"] for each in api.requests[n].body["messages"]]


def words(chat: Conversation) -> list[str]:
    """List what the turns of the view say."""
    return [turn.text for turn in chat.turns]


def states(chat: Conversation) -> list[str]:
    """List the states of a conversation's exchanges."""
    return [exchange.state.value for exchange in chat.exchanges]


def last(chat: Conversation) -> Exchange:
    """Give the newest exchange."""
    return chat.exchanges[-1]


def sound(store: Store, chat: Conversation) -> None:
    """Make sure that this object, a fresh one and the chain agree."""
    fresh = store.get(chat.id)
    chat.refresh()
    assert (chat.version, chat.head) == (fresh.version, fresh.head)
    assert [turn.wire for turn in chat.turns] == [turn.wire for turn in fresh.turns]
    assert chat.request(check=False).body == fresh.request(check=False).body
    assert fresh.verify() == []


def dump(url: str) -> bytes:
    """Read every value of every table, past the library."""
    engine, schema = create_engine(url), MetaData()
    found: list[bytes] = []
    try:
        schema.reflect(engine)
        with engine.connect() as connection:
            for table in schema.sorted_tables:
                for row in connection.execute(select(table)):
                    found += [
                        bytes(each) if isinstance(each, (bytes, memoryview)) else str(each).encode() for each in row
                    ]
    finally:
        engine.dispose()
    return b"\n".join(found)


@contextmanager
def refusing_writes(monkeypatch: pytest.MonkeyPatch, times: int = 1) -> Iterator[list[int]]:
    """Let the next writes of any database be refused, as a full disk does."""
    left = [times]
    real = Database.write

    def write(self: Database, *given: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise DatabaseError("full", "there is no space left")
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", write)
        yield left


# --- answered ----------------------------------------------------------------------------------------------------


def test_an_answer_is_a_turn(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """An answered exchange knows its turn, and the next request has both."""
    api.answer("First.", "Second.")
    reply = chat.send("one")
    assert (reply.text, reply.exchange.state) == ("First.", "answered")
    assert reply.turn is not None
    assert reply.exchange.turn == reply.turn.position
    chat.send("two")
    assert said(api) == ["one", [{"type": "text", "text": "First."}], "two"]
    assert chat.pending is None
    sound(store, chat)


@pytest.mark.parametrize("content", [[], [{"type": "text", "text": ""}], [{"type": "text", "text": " \n"}]], ids=repr)
def test_an_empty_answer_is_no_turn(store: Store, chat: Conversation, api: MessagesAPI, content: list[Any]) -> None:
    """An answer without words is in the record alone: the API would not take it back."""
    api.answer(Answer(content, stop_reason="end_turn"), "Now.")
    reply = chat.send("one")
    assert (reply.exchange.state, reply.turn, reply.exchange.turn) == ("answered", None, None)
    assert json.loads(reply.raw_content) == content
    assert words(chat) == ["one"]
    assert chat.send("two").text == "Now."
    assert said(api) == ["one", "two"]
    sound(store, chat)


def test_an_empty_block_beside_words_is_kept_and_not_resent(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """Empty text blocks of an answer are in the record and in no request."""
    blocks = [{"type": "text", "text": ""}, {"type": "text", "text": "Yes."}, {"type": "text", "text": ""}]
    api.answer(Answer(blocks))
    reply = chat.send("one")
    assert json.loads(reply.raw_content) == blocks
    chat.send("two")
    assert said(api)[1] == [{"type": "text", "text": "Yes."}]
    sound(store, chat)


# --- rejected, refused -------------------------------------------------------------------------------------------

REJECTIONS: Final = (
    (400, BadRequestError),
    (413, RequestTooLargeError),
    (422, UnprocessableError),
)


@pytest.mark.parametrize(("status", "error"), REJECTIONS, ids=["400", "413", "422"])
def test_what_the_api_rejects_leaves_the_view(
    store: Store, chat: Conversation, api: MessagesAPI, status: int, error: type[StatusError]
) -> None:
    """Everything after the last answered turn is set aside, stays in the record, and the conversation goes on."""
    chat.send("zero")
    chat.user("one")
    chat.assistant("synthetic")
    api.fail(Fault.status(status, message="no such thing"))
    with pytest.raises(error) as caught:
        chat.send("two")
    assert caught.value.status == status
    rejected = last(chat)
    assert (rejected.state, rejected.maybe_billed, rejected.turn) == ("rejected", False, None)
    assert words(chat) == ["zero", "You said: zero"]
    chat.send("three")
    assert said(api)[0::2] == ["zero", "three"]
    assert chat.replay(rejected) == api.requests[1].raw
    assert len(api.requests) == 3
    sound(store, chat)


def test_a_first_turn_that_is_rejected_leaves_nothing_behind(
    store: Store, chat: Conversation, api: MessagesAPI
) -> None:
    """Set aside from the very beginning, the view is empty and the next turn is the first."""
    for _ in range(3):
        api.fail(Fault.status(400))
        with pytest.raises(BadRequestError):
            chat.send("wrong")
    assert words(chat) == []
    chat.send("right")
    assert said(api) == ["right"]
    sound(store, chat)


def test_rejected_turns_can_be_kept(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """With on_rejected="keep" the turns stay, and retry sends them again without doubling."""
    api.fail(Fault.status(400))
    with pytest.raises(BadRequestError):
        chat.send("one", on_rejected="keep")
    assert words(chat) == ["one"]
    chat.retry(max_tokens=5)
    assert said(api) == ["one"]
    assert api.requests[-1].body["max_tokens"] == 5
    assert words(chat)[0] == "one"
    sound(store, chat)


def test_retrying_brings_rejected_turns_back(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """Every turn that was set aside returns, once, in order, with the changed settings; in a fresh process too."""
    chat.send("zero")
    chat.user("one")
    api.fail(Fault.status(400), times=2)
    with pytest.raises(BadRequestError):
        chat.send("two", max_tokens=9)
    with pytest.raises(BadRequestError):
        chat.retry(max_tokens=8)
    assert words(chat) == ["zero", "You said: zero"]
    fresh = store.get(chat.id)
    reply = fresh.retry(max_tokens=7)
    assert said(api)[2:] == ["one", "two"]
    assert [each.body["max_tokens"] for each in api.requests[1:]] == [9, 8, 7]
    first, second, third = fresh.exchanges[1:]
    assert (second.retry_of, third.retry_of) == (first.position, first.position)
    assert reply.exchange.state == "answered"
    assert words(fresh)[-3:-1] == ["one", "two"]
    sound(store, chat)
    assert [chat.replay(each) for each in chat.exchanges] == [each.raw for each in api.requests]


def test_turns_said_since_forbid_bringing_others_back(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """After a new turn the rejected one cannot come back: the order would be another."""
    api.fail(Fault.status(400))
    with pytest.raises(BadRequestError):
        chat.send("one")
    chat.user("two")
    before = chat.version
    with pytest.raises(ContentError):
        chat.retry()
    assert chat.version == before
    assert len(api.requests) == 1
    sound(store, chat)


def test_a_rejection_that_is_no_text_is_recorded_all_the_same(
    store: Store, chat: Conversation, api: MessagesAPI
) -> None:
    """An error whose words or body are no UTF-8 and no JSON ends the exchange like any other."""
    bodies = [rb'{"type":"error","error":{"type":"\ud800","message":"\udfff \u0000"}}', b"\xff\xfe<html>", b"", b"[1]"]
    for body in bodies:
        api.fail(Fault.status(400, body=body))
        with pytest.raises(BadRequestError):
            chat.send("one")
    assert states(chat) == ["rejected"] * 4
    sound(store, chat)


def test_a_refusal_is_kept_in_the_record_alone(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """A refused exchange has its content and details, no turn, and its question leaves the view until retried."""
    api.answer(REFUSAL, "Certainly.")
    reply = chat.send("one")
    assert reply.refused
    assert (reply.turn, reply.text, reply.exchange.state) == (None, "I cannot", "refused")
    assert reply.fields["stop_details"] == {"type": "refusal", "category": "cyber"}
    assert reply.usage.output_tokens > 0
    assert words(chat) == []
    again = chat.retry(model="claude-haiku-5-5")
    assert (again.text, said(api)) == ("Certainly.", ["one"])
    assert api.requests[-1].body["model"] == "claude-haiku-5-5"
    assert words(chat) == ["one", "Certainly."]
    assert chat.settings["model"] == "claude-sonnet-5-5"
    sound(store, chat)


def test_a_refused_question_can_be_kept(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """on_rejected="keep" holds for refusals too."""
    api.answer(REFUSAL)
    assert chat.send("one", on_rejected="keep").refused
    assert words(chat) == ["one"]
    sound(store, chat)


# --- failed, interrupted -----------------------------------------------------------------------------------------


@frozen
class Failure:
    """A fault, the error, and what is then known."""

    name: str
    fault: Fault
    error: type[APIError]
    state: str = "failed"
    billed: bool = False
    attempts: int = 1


FAILURES: Final = (
    Failure("401", Fault.status(401), AuthenticationError),
    Failure("403", Fault.status(403), StatusError),
    Failure("404", Fault.status(404), UnknownResourceError),
    Failure("418", Fault.status(418), StatusError),
    Failure("429", Fault.status(429, retry_after=1), RateLimitError, attempts=2),
    Failure("429, money spent", Fault.status(429, error_code="enforced_spend_limit_reached"), RateLimitError),
    Failure("503", Fault.status(503), ServerError, attempts=2),
    Failure("529", Fault.status(529), OverloadedError, attempts=2),
    Failure("500", Fault.status(500), ServerError, billed=True),
    Failure("502", Fault.status(502, body=b"<html>"), ServerError, billed=True),
    Failure("504", Fault.status(504), ServerError, billed=True),
    Failure("500, safe to retry", Fault.status(500, should_retry=True), ServerError, billed=True, attempts=2),
    Failure("a redirect", Fault.redirect("http://127.0.0.1:9/"), APIError, billed=True),
    Failure("no byte of an answer", Fault.close(), NoAnswerError, billed=True),
    Failure("a reset", Fault.reset(), NoAnswerError, billed=True),
    Failure("no HTTP", Fault.garbage(b"\0\0\0"), NoAnswerError, billed=True),
    Failure("half an answer", Fault.cut(40), InterruptedAnswerError, state="interrupted", billed=True),
    Failure("an answer reset", Fault.cut(90, then="reset"), InterruptedAnswerError, state="interrupted", billed=True),
)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_a_failure_keeps_the_turn_and_can_be_retried(
    store: Store, chat: Conversation, api: MessagesAPI, failure: Failure
) -> None:
    """The turn stays, the exchange says whether it may have been billed, and retry sends the same bytes once more."""
    api.fail(failure.fault, times=failure.attempts)
    with pytest.raises(failure.error) as caught:
        chat.send("one")
    failed = last(chat)
    assert (failed.state, failed.maybe_billed, failed.attempts) == (failure.state, failure.billed, failure.attempts)
    assert len(caught.value.attempts) == failure.attempts
    assert words(store.get(chat.id)) == ["one"]
    assert failed.usage.output_tokens == 0
    reply = store.get(chat.id).retry()
    assert (reply.exchange.state, reply.exchange.retry_of) == ("answered", failed.position)
    assert api.requests[-1].raw == api.requests[0].raw == chat.replay(failed)
    assert states(chat) == [failure.state, "answered"]
    with pytest.raises(ContentError):
        chat.retry()
    sound(store, chat)


def test_a_refused_connection_did_not_run(store: Store, database_url: str, api: MessagesAPI) -> None:
    """Where nobody listens the exchange fails, surely unbilled, and another client sends it later."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    with (
        Client("k", base_url=nobody, max_attempts=2, clock=Clock(sleep=lambda _: None)) as client,
        Store(database_url, client=client) as elsewhere,
    ):
        chat = elsewhere.open("k", **SETTINGS)
        with pytest.raises(NotSentError):
            chat.send("one")
        assert (last(chat).state, last(chat).maybe_billed, last(chat).attempts) == ("failed", False, 2)
    assert store.get("k").retry().exchange.state == "answered"
    assert said(api) == ["one"]


def test_without_a_key_nothing_ran(database_url: str, monkeypatch: pytest.MonkeyPatch, api: MessagesAPI) -> None:
    """A client without credentials fails before anything leaves, and the exchange says it was not billed."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with Client(base_url=api.url) as client, Store(database_url, client=client) as store:
        chat = store.open("k", **SETTINGS)
        with pytest.raises(ConfigurationError):
            chat.send("one")
        assert states(chat) in ([], ["failed"])
        assert not any(exchange.maybe_billed for exchange in chat.exchanges)
        assert chat.pending is None
    assert api.requests == ()


def test_what_arrived_of_an_interrupted_answer_is_kept(chat: Conversation, api: MessagesAPI) -> None:
    """Every byte that came is in the outcome, and in the error."""
    api.fail(Fault.cut(57))
    with pytest.raises(InterruptedAnswerError) as caught:
        chat.send("one")
    assert caught.value.partial == api.requests[0].response
    assert len(caught.value.partial) == 57
    _, outcome = chat._history.outcome(last(chat))
    assert outcome["error"]["partial"]


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"content":"a"}',
        b'{"content":[1]}',
        b'{"type":"error","content":[]}',
        b"[]",
        b"null",
        b'{"content":[],}',
        b"\xff",
    ],
    ids=repr,
)
def test_an_answer_that_is_no_message_is_interrupted(
    store: Store, chat: Conversation, api: MessagesAPI, body: bytes
) -> None:
    """A 200 whose body is no message is never a turn; its bytes are kept and it can be tried again."""
    api.answer(body)
    with pytest.raises(InterruptedAnswerError) as caught:
        chat.send("one")
    assert caught.value.partial == body
    assert (last(chat).state, last(chat).maybe_billed) == ("interrupted", True)
    assert chat.retry().exchange.state == "answered"
    sound(store, chat)


def test_a_stopped_send_is_recorded(store: Store, chat: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the request leaves a failed, maybe billed exchange, and not a pending one."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Client, "send", stop)
        with pytest.raises(KeyboardInterrupt):
            chat.send("one")
    assert (last(chat).state, last(chat).maybe_billed, chat.pending) == ("failed", True, None)
    chat.retry()
    sound(store, chat)


# --- pending -----------------------------------------------------------------------------------------------------


def test_while_an_exchange_is_pending_only_labels_are_appended(
    store: Store, chat: Conversation, api: MessagesAPI
) -> None:
    """Turns and settings are refused, labels are not, and finishing chains at the new end."""
    pending = chat.begin("one")
    other = store.get(chat.id)
    until = time.time() + 1000
    for act in (
        lambda: other.user("two"),
        lambda: other.update(max_tokens=5),
        lambda: other.send("two"),
        lambda: other.begin("two"),
        other.retry,
        other.recover,
        lambda: chat.user("two"),
        lambda: store.open("telegram:42", max_tokens=5),
    ):
        with pytest.raises(BusyError) as caught:
            act()
        assert caught.value.conversation == chat.id
        assert time.time() < caught.value.until / 1e6 < until
    assert store.list()[0].pending
    other.label(title="meanwhile")
    other.label(metadata={"a": 1})
    before = other.version
    reply = pending.finish(_answer(api, pending))
    assert reply.exchange.state == "answered"
    assert store.get(chat.id).version == before + 2
    assert not store.list()[0].pending
    assert store.get(chat.id).title == "meanwhile"
    chat.user("two")
    sound(store, chat)


def test_waiting_for_another_worker(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """With wait=seconds a send is done once the pending exchange is over; too short a wait is BusyError."""
    pending = chat.begin("one")
    other = store.get(chat.id)
    with pytest.raises(BusyError):
        other.send("two", wait=0.05)
    answer = _answer(api, pending)
    timer = threading.Timer(0.15, pending.finish, (answer,))
    timer.start()
    try:
        reply = other.send("two", wait=10)
    finally:
        timer.join()
    assert reply.exchange.state == "answered"
    assert said(api)[0::2] == ["one", "two"]
    sound(store, chat)


def test_another_worker_may_finish_what_was_begun(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """.pending gives the exchange whoever began it, with the same bytes, and its answer is a turn like any other."""
    begun = chat.begin("one", prefill="The answer is", model=TAKES_PREFILL)
    found = store.get(chat.id).pending
    assert found is not None
    assert (found.exchange, found.body, found.headers) == (begun.exchange, begun.body, begun.headers)
    reply = found.finish(_answer(api, found))
    assert reply.turn is not None
    assert reply.turn.text.startswith("The answer is")
    with pytest.raises(LeaseLostError):
        begun.finish(api.requests[0].response)
    assert store.get(chat.id).pending is None
    sound(store, chat)


# --- unknown -----------------------------------------------------------------------------------------------------


def _lost(chat: Conversation, *content: Any, **given: Any) -> Pending:
    pending = chat.begin(*content, lease=0.01, **given)
    time.sleep(0.03)
    return pending


def test_a_lease_that_is_over_reads_as_unknown(store: Store, chat: Conversation) -> None:
    """Without an outcome after its lease, an exchange is unknown, and saying more needs a decision."""
    _lost(chat, "one")
    fresh = store.get(chat.id)
    assert states(fresh) == ["unknown"]
    for act in (lambda: fresh.user("two"), lambda: fresh.send("two"), lambda: fresh.send("two", wait=0.1)):
        with pytest.raises(UnknownOutcomeError) as caught:
            act()
        assert (caught.value.conversation, caught.value.state) == (chat.id, "unknown")
    assert words(fresh) == ["one"]


def test_a_late_finish_with_its_token_still_answers(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """A lease that ran out only allows a take-over; as long as nobody took over, the answer counts."""
    pending = _lost(chat, "one")
    assert states(chat) == ["unknown"]
    reply = pending.finish(_answer(api, pending))
    assert reply.exchange.state == "answered"
    assert states(chat) == ["answered"]
    sound(store, chat)


def test_recovering_resends_as_a_new_exchange(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """Resending takes over: the turn is not doubled, the old exchange stays unknown, its late answer is a note."""
    pending = _lost(chat, "one", max_tokens=9)
    late = _answer(api, pending)
    fresh = store.get(chat.id)
    reply = fresh.recover()
    assert reply is not None
    assert (reply.exchange.state, reply.exchange.retry_of) == ("answered", pending.exchange.position)
    assert api.requests[-1].raw == pending.body
    assert states(fresh) == ["unknown", "answered"]
    before = fresh.version
    with pytest.raises(LeaseLostError) as caught:
        pending.finish(late)
    assert (caught.value.conversation, caught.value.exchange) == (chat.id, pending.exchange.position)
    note = chat._history.entry(before)
    assert (note.kind, fields_of(note.header)["request"]) == ("note", pending.exchange.position)
    assert note.body is not None
    assert late in note.body
    assert words(store.get(chat.id))[0] == "one"
    assert len(store.get(chat.id).turns) == 2
    sound(store, chat)


@pytest.mark.parametrize(
    ("action", "state"), [("give_up", "failed"), ("keep_partial", "interrupted")], ids=["give_up", "keep_partial"]
)
def test_recovering_without_sending(
    store: Store, chat: Conversation, api: MessagesAPI, action: Any, state: str
) -> None:
    """Giving up and keeping the partial answer end the exchange, maybe billed, and the turn stays."""
    pending = _lost(chat, "one")
    assert store.get(chat.id).recover(action) is None
    assert states(chat) == [state]
    assert last(chat).maybe_billed
    assert words(store.get(chat.id)) == ["one"]
    assert api.requests == ()
    with pytest.raises(LeaseLostError):
        pending.finish({"type": "message", "content": [{"type": "text", "text": "late"}]})
    assert store.get(chat.id).retry().exchange.state == "answered"
    assert store.get(chat.id).recover() is None
    sound(store, chat)


def test_a_live_lease_cannot_be_recovered(store: Store, chat: Conversation) -> None:
    """Nobody takes over from a worker that may be alive."""
    chat.begin("one")
    actions: tuple[Any, ...] = ("resend", "give_up", "keep_partial")
    for action in actions:
        with pytest.raises(BusyError):
            store.get(chat.id).recover(action)


def test_a_late_failure_is_a_note_too(store: Store, chat: Conversation) -> None:
    """A fault that is told after a take-over is recorded beside the new exchange, which it does not touch."""
    pending = _lost(chat, "one")
    store.get(chat.id).recover()
    with pytest.raises(LeaseLostError):
        pending.fail(TimeoutError("too late"))
    assert states(chat) == ["unknown", "answered"]
    sound(store, chat)


# --- the same message again --------------------------------------------------------------------------------------


def test_a_key_answers_from_the_record(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """An answered, refused or rejected key gives the recorded result or error again, and nobody is called."""
    api.answer("First.", REFUSAL)
    first = chat.send("one", idempotency_key="1")
    refused = chat.send("two", idempotency_key="2")
    api.fail(Fault.status(400, message="no", error_code="tool_name_conflict"))
    with pytest.raises(BadRequestError) as original:
        chat.send("three", idempotency_key="3")
    calls, version = len(api.requests), chat.version
    fresh = store.get(chat.id)
    assert fresh.send("one", idempotency_key="1") == first
    assert fresh.send("two", idempotency_key="2") == refused
    with pytest.raises(BadRequestError) as recorded:
        fresh.send("three", idempotency_key="3")
    for name in ("message", "status", "kind", "request_id", "error_code", "body", "attempts"):
        assert getattr(recorded.value, name) == getattr(original.value, name), name
    again = fresh.begin("one", idempotency_key="1")
    assert again.reply == first
    assert (len(api.requests), store.get(chat.id).version) == (calls, version)
    assert first.exchange.idempotency_key == "1"


def test_a_failed_key_is_tried_again_without_doubling_the_turn(
    store: Store, chat: Conversation, api: MessagesAPI
) -> None:
    """After a failure the same key sends again; then it stands for the answer."""
    for _ in range(2):
        api.fail(Fault.status(401))
        with pytest.raises(AuthenticationError):
            chat.send("one", idempotency_key="1")
    reply = chat.send("one", idempotency_key="1")
    first, second, third = chat.exchanges
    assert (first.retry_of, second.retry_of, third.retry_of) == (None, first.position, first.position)
    assert said(api) == ["one"]
    assert len(api.requests) == 3
    assert store.get(chat.id).send("one", idempotency_key="1") == reply
    assert len(api.requests) == 3
    sound(store, chat)


def test_a_pending_key_waits(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """The key of a pending exchange is busy; whoever waits gets the answer of the one that was begun."""
    pending = chat.begin("one", idempotency_key="1")
    with pytest.raises(BusyError):
        store.get(chat.id).send("one", idempotency_key="1")
    answer = _answer(api, pending)
    timer = threading.Timer(0.15, pending.finish, (answer,))
    timer.start()
    try:
        reply = store.get(chat.id).send("one", idempotency_key="1", wait=10)
    finally:
        timer.join()
    assert reply.exchange.position == pending.exchange.position
    assert len(api.requests) == 1


@pytest.mark.parametrize("how", ["interrupted", "unknown"])
def test_a_key_of_unknown_outcome_needs_a_decision(
    store: Store, chat: Conversation, api: MessagesAPI, how: str
) -> None:
    """What may have been billed is not sent again unless on_unknown="resend" says so, and then not doubled."""
    if how == "unknown":
        _lost(chat, "one", idempotency_key="1")
    else:
        api.fail(Fault.cut(30))
        with pytest.raises(InterruptedAnswerError):
            chat.send("one", idempotency_key="1")
    calls = len(api.requests)
    with pytest.raises(UnknownOutcomeError) as caught:
        store.get(chat.id).send("one", idempotency_key="1")
    assert caught.value.state == how
    assert len(api.requests) == calls
    reply = store.get(chat.id).send("one", idempotency_key="1", on_unknown="resend")
    assert reply.exchange.retry_of == caught.value.exchange
    assert said(api) == ["one"]
    assert store.get(chat.id).send("one", idempotency_key="1") == reply
    sound(store, chat)


def test_a_key_with_other_content_is_refused(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """Other words, another prefill, another picture, more or less content: each is another message."""
    picture = Image.from_bytes(pictures.png(8, 8, padding=2000))
    other = Image.from_bytes(pictures.png(8, 8, colour=(1, 2, 3), padding=2000))
    chat.send("one", idempotency_key="1")
    chat.send("look", picture, idempotency_key="2")
    chat.send("three", prefill="The", model=TAKES_PREFILL, idempotency_key="3")
    calls, version = len(api.requests), chat.version
    wrong: Sequence[tuple[str, Sequence[Any], str | None]] = (
        ("1", ["two"], None),
        ("1", [Text("one")], None),
        ("1", ["one", "more"], None),
        ("1", [], None),
        ("1", ["one"], "The"),
        ("2", ["look", other], None),
        ("2", ["look"], None),
        ("3", ["three"], None),
        ("3", ["three"], "That"),
    )
    for key, content, prefill in wrong:
        with pytest.raises(IdempotencyError) as caught:
            store.get(chat.id).send(*content, prefill=prefill, idempotency_key=key)
        assert caught.value.conversation == chat.id
    store.get(chat.id).send("look", picture, idempotency_key="2")
    store.get(chat.id).send("three", prefill="The", idempotency_key="3")
    assert (len(api.requests), store.get(chat.id).version) == (calls, version)


def test_keys_are_exact_and_belong_to_their_conversation(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """Case, accents, spaces and length up to 255 bytes tell keys apart; another conversation has its own."""
    keys = ["a", "A", "\u00e1", "a\u0301", "a ", " a", "\0", "x" * 255, "x" * 254, "\U0001f41c" * 63]
    for key in keys:
        chat.send(f"for {key!r}", idempotency_key=key)
    assert len(api.requests) == len(keys)
    store.open("other", **SETTINGS).send("mine", idempotency_key="a")
    assert said(api) == ["mine"]
    assert [exchange.idempotency_key for exchange in chat.exchanges] == keys
    for key in ("", "x" * 256, "\u00e9" * 128):
        with pytest.raises(ContentError):
            chat.send("no", idempotency_key=key)


# --- by hand -----------------------------------------------------------------------------------------------------


def _answer(api: MessagesAPI, pending: Pending) -> bytes:
    """Send a pending exchange's exact bytes with the standard library."""
    host = urlsplit(api.url)
    connection = http.client.HTTPConnection(str(host.hostname), host.port, timeout=10)
    try:
        connection.request("POST", "/v1/messages", pending.body, {**pending.headers, "x-api-key": api.key})
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.fixture
def official(api: MessagesAPI) -> Iterator[anthropic.Anthropic]:
    """Give the official SDK, pointed at the loopback API."""
    with anthropic.Anthropic(api_key=api.key, base_url=api.url, max_retries=0, timeout=10) as made:
        yield made


FORMS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "Message": lambda message: message,
    "dict": lambda message: message.to_dict(mode="json"),
    "bytes": lambda message: message.to_json(indent=None).encode(),
    "bytearray": lambda message: bytearray(message.to_json().encode()),
    "memoryview": lambda message: memoryview(message.to_json().encode()),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_official_sdk_sends_what_was_begun(
    store: Store, chat: Conversation, api: MessagesAPI, official: anthropic.Anthropic, form: str
) -> None:
    """pending.params go straight into messages.create, and finish takes what comes back in each of its forms."""
    api.answer(Answer([{"type": "text", "text": "Hi.", "new": [1, None]}], fields={"tomorrow": {"a": None}}))
    pending = chat.begin("one", system="Be brief.", betas=["a-1"], metadata={"user_id": "7"})
    message = official.messages.create(**pending.params)
    assert api.requests[0].body == json.loads(pending.body)
    assert api.requests[0].headers["anthropic-beta"] == "a-1"
    assert api.requests[0].headers["anthropic-version"] == pending.headers["anthropic-version"]
    reply = pending.finish(FORMS[form](message))
    assert reply.text == "Hi."
    assert json.loads(reply.raw_content) == [{"type": "text", "text": "Hi.", "new": [1, None]}]
    assert reply.fields["tomorrow"] == {"a": None}
    assert reply.exchange.sent_by == "caller"
    assert pending.finish(FORMS[form](message)) is reply
    assert chat.send("two").exchange.state == "answered"
    assert said(api)[1] == [{"type": "text", "text": "Hi.", "new": [1, None]}]
    sound(store, chat)


def test_the_bytes_can_be_sent_by_anybody(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """pending.body and .headers are a whole request but for the key; the answer's bytes are kept exactly."""
    pending = chat.begin("one", Image.from_bytes(pictures.png(8, 8, padding=5000)))
    raw = _answer(api, pending)
    reply = pending.finish(raw)
    assert api.requests[0].raw == pending.body == chat.replay(reply.exchange)
    assert reply.raw_content in raw
    assert chat._history.outcome(reply.exchange)[0].header.count(b'"response_length":%d' % len(raw)) == 1
    sound(store, chat)


def test_a_faithful_answer_says_whether_it_is_the_bytes_received(chat: Conversation, store: Store) -> None:
    """An object was parsed by somebody else: its outcome says so, and commits to no response."""
    reply = chat.begin("one").finish({"type": "message", "content": [{"type": "text", "text": "a"}], "b": 1, "a": 2})
    fields = fields_of(chat._history.outcome(reply.exchange)[0].header)
    assert fields["received"] == "object"
    assert "response" not in fields
    sound(store, chat)


@pytest.mark.parametrize(
    "case",
    [
        Failure("400", Fault.status(400, message="no"), BadRequestError, state="rejected"),
        Failure("401", Fault.status(401), AuthenticationError),
        Failure("429", Fault.status(429), RateLimitError),
        Failure("500", Fault.status(500), ServerError, billed=True),
        Failure("closed", Fault.close(), NoAnswerError, billed=True),
    ],
    ids=lambda case: case.name,
)
def test_fail_takes_the_exceptions_of_the_official_sdk(
    store: Store, chat: Conversation, api: MessagesAPI, official: anthropic.Anthropic, case: Failure
) -> None:
    """What the SDK raises is recorded with its status, its request id and its words."""
    api.fail(case.fault)
    pending = chat.begin("one", idempotency_key="1")
    with pytest.raises(anthropic.APIError) as caught:
        official.messages.create(**pending.params)
    pending.fail(caught.value)
    assert (last(chat).state, last(chat).maybe_billed) == (case.state, case.billed)
    _, outcome = chat._history.outcome(last(chat))
    if isinstance(caught.value, anthropic.APIStatusError):
        assert outcome["error"]["status"] == case.fault.code
        assert outcome["error"]["request_id"] == api.requests[0].id
    assert words(chat) == ([] if case.state == "rejected" else ["one"])
    chat.retry()
    sound(store, chat)


def test_fail_takes_any_exception(store: Store, chat: Conversation) -> None:
    """A foreign exception says only that no answer came; it may have been billed."""
    for error in (TimeoutError("slow"), OSError(), RuntimeError("odd \ud800"), NotSentError("nobody there")):
        chat.begin("one").fail(error)
        assert (last(chat).state, last(chat).maybe_billed) == ("failed", not isinstance(error, NotSentError))
    sound(store, chat)


def test_finish_refuses_what_is_no_answer(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """Something that is no form of an answer is a mistake of the caller: the exchange stays pending."""
    pending = chat.begin("one")
    for wrong in ("a text", 5, [1], object()):
        with pytest.raises(ContentError):
            pending.finish(wrong)
    with pytest.raises(ContentError):
        pending.finish()
    assert states(chat) == ["pending"]
    assert pending.finish(_answer(api, pending)).exchange.state == "answered"
    sound(store, chat)


# --- prefill -----------------------------------------------------------------------------------------------------


def test_a_prefill_and_its_continuation_are_one_turn(store: Store, api: MessagesAPI) -> None:
    """The prefill is an entry of its own; the model's turn holds both, and tells which bytes are not the model's."""
    chat = store.open("k", model=TAKES_PREFILL, max_tokens=64)
    api.answer(
        rb'{"type":"message","content":[ {"type":"text","text" : "C) \u00e9"} ],"stop_reason":"max_tokens"}', "More."
    )
    reply = chat.send("Latin for ant?", prefill='The "answer" is (\u00e9', max_tokens=1)
    assert said(api) == ["Latin for ant?", 'The "answer" is (\u00e9']
    assert reply.turn is not None
    assert (reply.text, reply.turn.text) == ("C) \u00e9", 'The "answer" is (\u00e9C) \u00e9')
    assert reply.raw_content == rb'[ {"type":"text","text" : "C) \u00e9"} ]' == reply.turn.received
    ((start, length),) = fields_of(reply.turn.header)["ours"]
    assert reply.turn.body[start : start + length] == 'The \\"answer\\" is (\u00e9'.encode()
    assert [turn.origin for turn in chat.turns] == ["human", "model"]
    entries = [chat._history.entry(n) for n in range(chat.version)]
    assert sum(b'"origin":"prefill"' in entry.header for entry in entries) == 1
    chat.send("And?")
    assert said(api) == ["Latin for ant?", [{"type": "text", "text": 'The "answer" is (\u00e9C) \u00e9'}], "And?"]
    assert [chat.replay(each) for each in chat.exchanges] == [each.raw for each in api.requests]
    sound(store, chat)


def test_a_prefill_of_blocks_stands_in_front(store: Store, api: MessagesAPI) -> None:
    """Several blocks are put in front of the answer whole; an answer that begins otherwise keeps its blocks."""
    chat = store.open("k", model=TAKES_PREFILL, max_tokens=64)
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    api.answer("three", Answer([call]), Answer([], stop_reason="end_turn"))
    first = chat.send("a", prefill=["one ", Text("two")])
    assert first.turn is not None
    assert (first.turn.text, first.text) == ("one twothree", "three")
    second = chat.send("b", prefill="Calling:", tools=[{"name": "f", "input_schema": {"type": "object"}}])
    assert second.turn is not None
    assert [block.type for block in second.turn.content] == ["text", "tool_use"]
    assert json.loads(second.raw_content) == [call]
    chat.tool_result("toolu_1", "done")
    empty = chat.send("c", prefill="Nothing", tools=[{"name": "f", "input_schema": {"type": "object"}}])
    assert (empty.turn, empty.text) == (None, "")
    sound(store, chat)


@frozen
class Prefill:
    """A prefill that is refused before anything is sent, and the rule that says so."""

    name: str
    prefill: Any
    given: Mapping[str, Any]
    rule: str
    path: str = "messages.1"


PREFILLS: Final = (
    Prefill("a model without prefill", "The", {"model": "claude-sonnet-5-5"}, "prefill_model"),
    Prefill("an unlisted model", "The", {"model": "claude-tomorrow"}, "prefill_model"),
    Prefill("trailing white space", "The ", {}, "prefill_ends_in_words", "messages.1.content"),
    Prefill("a trailing line end", "The\n", {}, "prefill_ends_in_words", "messages.1.content"),
    Prefill("a block's white space", [Text("a"), Text("b ")], {}, "prefill_ends_in_words", "messages.1.content.1.text"),
    Prefill("white space alone", "  ", {}, "text_not_blank", "messages.1.content"),
    Prefill("with thinking", "The", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "prefill_alone"),
    Prefill(
        "with a format", "The", {"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "prefill_alone"
    ),
)


@pytest.mark.parametrize("case", PREFILLS, ids=lambda case: case.name)
def test_a_prefill_that_cannot_work_is_refused_before_sending(store: Store, api: MessagesAPI, case: Prefill) -> None:
    """The finding names the rule and the place, models that take a prefill are named, and nothing is written."""
    chat = store.open("k", model=TAKES_PREFILL, max_tokens=64)
    before = chat.version
    for ask in (chat.send, chat.begin):
        with pytest.raises(RuleViolationError) as caught:
            ask("one", prefill=case.prefill, **case.given)
        found = {finding.rule: finding for finding in caught.value.findings}
        assert found[case.rule].path == case.path
        if case.rule == "prefill_model":
            assert "claude-haiku-4-5" in found[case.rule].message
    assert store.get("k").version == chat.version == before
    assert api.requests == ()


def test_an_unlisted_model_may_be_tried(database_url: str) -> None:
    """allow_unlisted_model=True takes a prefill to a model of which nothing is known."""
    with (
        MessagesAPI(models=[Model("claude-tomorrow", prefill=True, thinks=False, thinking=("disabled",))]) as api,
        Client(api.key, base_url=api.url) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("k", model="claude-tomorrow", max_tokens=64)
        with pytest.raises(RuleViolationError):
            chat.request(prefill="The")
        reply = chat.send("one", prefill="The", allow_unlisted_model=True)
        assert reply.turn is not None
        assert reply.turn.text == "The" + reply.text


def test_ending_with_a_synthetic_turn_is_a_prefill_to_the_api(chat: Conversation, api: MessagesAPI) -> None:
    """Sending a history that ends with an assistant turn is refused where the model takes no prefill."""
    chat.user("one")
    chat.assistant("two")
    assert chat.request().params["messages"][-1]["role"] == "assistant"
    with pytest.raises(RuleViolationError):
        chat.send()
    assert api.requests == ()


@pytest.mark.parametrize(
    "fault", [Fault.status(401), Fault.status(400), Fault.cut(20)], ids=["failed", "rejected", "cut"]
)
def test_a_prefill_without_an_answer_leaves_nothing(store: Store, api: MessagesAPI, fault: Fault) -> None:
    """A prefill belongs to its request alone: the next one does not have it, a retry does."""
    chat = store.open("k", model=TAKES_PREFILL, max_tokens=64)
    api.fail(fault)
    with pytest.raises(APIError):
        chat.send("one", prefill="The answer is (")
    assert "The answer is (" not in words(chat)
    assert b"The answer" not in store.get("k").request(check=False).body
    reply = store.get("k").retry()
    assert said(api) == ["one", "The answer is ("]
    assert reply.turn is not None
    assert reply.turn.text.startswith("The answer is (")
    chat.refresh()
    chat.send("two")
    assert len(said(api)) == 3
    assert [chat.replay(each) for each in chat.exchanges] == [each.raw for each in api.requests]
    sound(store, chat)


# --- secrets, raw answers ----------------------------------------------------------------------------------------

CANARY: Final = "canary-8f1b2c-token"
SERVERS: Final = [{"type": "url", "url": "https://mcp.example/sse", "name": "ants", "authorization_token": CANARY}]


@pytest.fixture
def lax(database_url: str) -> Iterator[tuple[MessagesAPI, Store]]:
    """Give a store with a client of an API that takes any parameter."""
    with (
        MessagesAPI(strict=False) as api,
        Client(api.key, base_url=api.url, max_attempts=1) as client,
        Store(database_url, client=client) as store,
    ):
        yield api, store


def test_a_secret_is_sent_and_never_stored(
    database_url: str, lax: tuple[MessagesAPI, Store], caplog: pytest.LogCaptureFixture
) -> None:
    """A token of an MCP server is on the wire and in no table, log, repr or replay."""
    api, store = lax
    caplog.set_level(logging.DEBUG)
    chat = store.open("k", mcp_servers=SERVERS, betas=["mcp-client-2025-11-20"], **SETTINGS)
    reply = chat.send("one", fallback_credit_token=CANARY + "-2")
    chat.user("two")
    assert api.requests[0].body["mcp_servers"] == SERVERS
    assert api.requests[0].body["fallback_credit_token"] == CANARY + "-2"
    assert chat.request().params["extra_body"]["mcp_servers"] == SERVERS
    replayed = chat.replay(reply.exchange)
    assert CANARY.encode() not in replayed
    assert b"conversation_store.secret:mcp_servers.ants" in replayed
    assert b"ants" in dump(database_url)
    assert CANARY.encode() not in dump(database_url)
    assert CANARY not in caplog.text + repr(chat.request()) + repr(chat.settings) + repr(chat.pending)
    assert chat.verify() == []


def test_a_secret_unknown_here_stops_before_anything_is_written(
    database_url: str, lax: tuple[MessagesAPI, Store]
) -> None:
    """A fresh process must be given the secret again: until then nothing is written and nothing is sent."""
    api, store = lax
    store.open("k", mcp_servers=SERVERS, **SETTINGS)
    with Client(api.key, base_url=api.url) as client, Store(database_url, client=client) as later:
        chat = later.get("k")
        before = chat.version
        for act in (lambda: chat.send("one"), lambda: chat.begin("one"), lambda: chat.request(check=False).params):
            with pytest.raises(ConfigurationError, match=r"mcp_servers\.ants"):
                act()
        assert later.get("k").version == before
        assert list(api.requests) == []
        chat.update(mcp_servers=SERVERS)
        assert chat.version == before
        chat.send("one")
        assert api.requests[-1].body["mcp_servers"] == SERVERS
    with (
        Client(api.key, base_url=api.url, secrets={"mcp_servers.ants": CANARY}) as client,
        Store(database_url, client=client) as later,
    ):
        later.get("k").send("two")
        assert api.requests[-1].body["mcp_servers"] == SERVERS


def test_raw_answers_are_kept_where_asked(database_url: str, client: Client, api: MessagesAPI) -> None:
    """With keep_raw=True the whole response is in the record, committed to; without it its digest is."""
    raw = b' {"type":"message", "content":[{"type":"text","text":"only once in the raw answer"}],"zz":  [ ] }\n'
    with Store(database_url, client=client, keep_raw=True) as store:
        chat = store.open("k", **SETTINGS)
        api.answer(raw)
        chat.send("one")
        assert raw in dump(database_url)
        assert chat.verify() == []
    with Store(database_url, client=client) as store:
        chat = store.open("k2", **SETTINGS)
        api.answer(raw.replace(b"zz", b"yy"))
        chat.send("one")
        assert b'"yy":  [ ] }\n' not in dump(database_url)
        assert chat.verify() == []


# --- a database that refuses -------------------------------------------------------------------------------------


def test_an_answer_that_cannot_be_saved_is_not_lost(
    store: Store, chat: Conversation, api: MessagesAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NotSavedError holds the answer; finish() records it once the database takes it, and calls nobody."""
    pending = chat.begin("one")
    answer = _answer(api, pending)
    with refusing_writes(monkeypatch, times=2):
        for attempt in range(2):
            with pytest.raises(NotSavedError) as caught:
                pending.finish(answer if attempt == 0 else None)
            assert caught.value.pending is pending
            assert caught.value.reason == "full"
    assert states(chat) == ["pending"]
    reply = caught.value.pending.finish()
    assert reply.exchange.state == "answered"
    assert len(api.requests) == 1
    assert len(chat.turns) == 2
    sound(store, chat)


def test_a_send_whose_answer_cannot_be_saved(
    store: Store, chat: Conversation, api: MessagesAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """send() raises NotSavedError too, meanwhile the conversation is busy, and finishing it goes on."""
    real = Client.send

    with refusing_writes(monkeypatch, times=0) as left:

        def send(self: Client, *given: Any, **named: Any) -> Any:
            answer = real(self, *given, **named)
            left[0] = 1
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(Client, "send", send)
            with pytest.raises(NotSavedError) as caught:
                chat.send("one")
    with pytest.raises(BusyError):
        store.get(chat.id).send("two")
    store.get(chat.id).label(title="meanwhile")
    reply = caught.value.pending.finish()
    assert store.get(chat.id).turns[-1] == reply.turn
    assert len(api.requests) == 1
    sound(store, chat)


def test_a_beginning_that_cannot_be_saved_sends_nothing(
    store: Store, chat: Conversation, api: MessagesAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the begin is refused nothing left, nothing is written, and the same call works afterwards."""
    before = chat.version
    with refusing_writes(monkeypatch), pytest.raises(DatabaseError):
        chat.send("one")
    assert (chat.version, api.requests) == (before, ())
    chat.send("one")
    assert said(api) == ["one"]
    sound(store, chat)


# --- replay ------------------------------------------------------------------------------------------------------


def test_every_exchange_is_replayed_to_the_byte(store: Store, api: MessagesAPI) -> None:
    """Through answers, rejections, refusals, failures, retries, pictures and settings, replay is what was received."""
    chat = store.open("k", model=TAKES_PREFILL, max_tokens=64)
    picture = Image.from_bytes(pictures.png(8, 8, padding=4000))

    def failing(fault: Fault, act: Callable[[], object]) -> None:
        api.fail(fault)
        with pytest.raises(APIError):
            act()

    chat.send("one", picture)
    failing(Fault.status(400), lambda: chat.send("two", picture, max_tokens=3))
    failing(Fault.status(400), lambda: chat.retry(max_tokens=4))
    chat.update(system="Be brief.", max_tokens=32)
    chat.retry(max_tokens=5)
    failing(Fault.status(401), lambda: chat.send("three", prefill="The"))
    chat.retry()
    failing(Fault.status(413), lambda: chat.send("four"))
    chat.send("five", prefill=["a", Text("b")])
    api.answer(REFUSAL)
    chat.send("six")
    chat.assistant("seven", reason="test")
    chat.send("eight")
    api.answer(Answer([{"type": "text", "text": ""}]))
    chat.send("nine", version="2026-10-21", betas=["a-1"])
    _lost(chat, "ten")
    chat.recover()
    chat.update(system="Otherwise.")
    chat.label(title="ants")
    fresh = store.get("k")
    unsent = [each for each in fresh.exchanges if each.sent_by == "caller"]
    assert len(unsent) == 1
    sent = [each for each in fresh.exchanges if each.sent_by == "client"]
    assert [fresh.replay(each) for each in sent] == [each.raw for each in api.requests]
    assert [each.body_length for each in sent] == [len(each.raw) for each in api.requests]
    assert fresh.replay(unsent[0]) == api.requests[-1].raw
    sound(store, chat)


def test_what_is_no_exchange_cannot_be_replayed(chat: Conversation) -> None:
    """A position that is no request, or none at all, is a CodecError."""
    reply = chat.send("one")
    for wrong in (0, 2, 99, -1):
        with pytest.raises(CodecError):
            chat.replay(wrong)
    with pytest.raises(CodecError):
        chat.replay(evolve(reply.exchange, position=2))


def test_the_client_s_own_word_on_unknown_outcomes_counts(database_url: str) -> None:
    """A client made with on_unknown="resend" sends again after a 500; one made without it does not."""
    with MessagesAPI() as api:
        for word, expected in (("resend", "answered"), ("raise", "failed")):
            with (
                Client(api.key, base_url=api.url, on_unknown=word) as client,  # type: ignore[arg-type]
                Store(database_url, client=client) as store,
            ):
                chat = store.open(word, model="claude-sonnet-5-5", max_tokens=100)
                api.fail(Fault.status(500, retry_after=0.01))
                if expected == "answered":
                    chat.send("Hello")
                else:
                    with pytest.raises(ServerError):
                        chat.send("Hello")
                assert chat.exchanges[-1].state == expected


# --- Ctrl-C at any moment ----------------------------------------------------------------------------------------


def _stop_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: int, *, before: bool) -> None:
    """Let the *when*-th call of a function end in Ctrl-C, before or after it did its work."""
    really, calls = getattr(owner, name), []

    def stopped(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) != when:
            return really(*arguments, **options)
        if not before:
            really(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, stopped)


@pytest.mark.parametrize(
    ("owner", "name", "when", "before", "state"),
    [
        (History, "_advance", 1, True, "failed"),
        (History, "_advance", 1, False, "failed"),
        (Messages, "add", 1, False, "failed"),
        (pending.Pending, "__init__", 1, True, "failed"),
        (outcomes, "bytes_of", 1, True, "answered"),
        (History, "_advance", 2, True, "answered"),
        (History, "_advance", 2, False, "answered"),
        (Messages, "add", 2, True, "answered"),
        (Messages, "add", 2, False, "answered"),
        (pending, "Reply", 1, True, "answered"),
        (pending, "Reply", 1, False, "answered"),
    ],
)
def test_ctrl_c_loses_no_answer_and_holds_no_conversation(
    chat: Conversation,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    *,
    owner: Any,
    name: str,
    when: int,
    before: bool,
    state: str,
) -> None:
    """Stopped while it is begun or saved, an exchange has its outcome, and the object knows what is on the record."""
    chat.send("zero")
    with monkeypatch.context() as patched:
        _stop_once(patched, owner, name, when, before=before)
        with pytest.raises(KeyboardInterrupt):
            chat.send("one")
    assert [each.state.value for each in chat.exchanges] == ["answered", state]
    assert chat.request(check=False).body == store.get(chat.id).request(check=False).body
    assert chat.send("two").text.endswith("two")
    assert chat.verify() == []


@pytest.mark.parametrize("before", [True, False])
def test_ctrl_c_while_a_refusal_is_set_aside(
    chat: Conversation, store: Store, api: MessagesAPI, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    """The turns that left the view are out of the object's too."""
    chat.send("zero")
    api.answer(Answer.refusal())
    with monkeypatch.context() as patched:
        _stop_once(patched, History, "show", 1, before=before)
        with pytest.raises(KeyboardInterrupt):
            chat.send("one")
    assert [turn.text for turn in chat.turns] == ["zero", "You said: zero"]
    assert chat.exchanges[-1].state == "refused"
    assert chat.send("two").text == "You said: two"
    assert len(api.requests[-1].body["messages"]) == 3


def test_ctrl_c_while_the_rules_look(chat: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at halfway is looked at anew."""
    chat.user("zero")
    with monkeypatch.context() as patched:
        _stop_once(patched, history, "grow", 1, before=False)
        with pytest.raises(KeyboardInterrupt):
            chat.check()
    assert chat.send().text == "You said: zero"


def test_a_stop_after_the_last_byte_loses_no_answer(
    store: Store, chat: Conversation, api: MessagesAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the client still looks at an answer that is there: it is saved, then Ctrl-C goes on."""

    def stopped(_: bytes) -> object:
        raise KeyboardInterrupt

    api.answer("Six legs.")
    monkeypatch.setattr("conversation_store.api.client.canonical", SimpleNamespace(loads=stopped))
    with pytest.raises(KeyboardInterrupt):
        chat.send("What is an ant?")
    fresh = store.get(chat.id)
    assert [turn.text for turn in fresh.turns][-2:] == ["What is an ant?", "Six legs."]
    assert fresh.exchanges[-1].state == "answered"
    assert len(api.requests) == 1
