"""Compaction: a summary is sent in the place of older turns, which stay in the record and can be brought back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversation_store import Client, Conversation, Origin, State, Store, Window
from conversation_store.api.retry import Clock
from conversation_store.compaction import BETA, REQUEST, by_model, parts
from conversation_store.errors import (
    BadRequestError,
    BusyError,
    ContentError,
    InterruptedAnswerError,
    StatusError,
    UnfitReplyError,
)
from conversation_store.pending import SUMMARY
from conversation_store.record import canonical
from conversation_store.testing import Answer, Fault, MessagesAPI

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64, "system": "Be brief."}
TOOLS: Final = [{"name": "look", "input_schema": {"type": "object"}}]


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


@pytest.fixture
def client(api: MessagesAPI) -> Iterator[Client]:
    """Give a client that tries once."""
    with Client(api.key, base_url=api.url, timeout=20, max_attempts=1, clock=Clock(sleep=lambda _: None)) as made:
        yield made


@pytest.fixture
def store(database_url: str, client: Client) -> Iterator[Store]:
    """Give a store with that client."""
    with Store(database_url, client=client) as opened:
        yield opened


@pytest.fixture
def chat(store: Store) -> Conversation:
    """Give a conversation of three exchanges."""
    made = store.open("telegram:42", **SETTINGS)
    for words in ("one", "two", "three"):
        made.send(words)
    return made


def texts(chat: Conversation) -> list[str]:
    """Read what the turns of the view say, the answers of the loopback model as ``…``."""
    return ["…" if turn.origin is Origin.MODEL else turn.text for turn in chat.turns]


def sent(api: MessagesAPI, n: int = -1) -> Any:
    """Read a request that the API got."""
    return canonical.object_of(api.requests[n].raw)


def sound(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """The record verifies, every body is replayed, and another process builds the same next one."""
    assert store.verify() == []
    bodies = {each.raw for each in api.requests}
    assert all(chat.replay(each) in bodies for each in chat.exchanges)
    assert store.get(chat.id).request(check=False).body == chat.request(check=False).body


def test_a_callers_summary(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """It is the user's first message; what was before it is in the record, and comes back."""
    before = chat.request(check=False).body
    summary = chat.compact("The person counted to two.", keep_last=1)
    assert (summary.origin, summary.role, summary.text) == (Origin.SUMMARY, "user", "The person counted to two.")
    assert texts(chat) == ["The person counted to two.", "three", "…"]
    assert chat.check() == [each for each in chat.check() if each.severity == "warning"]
    chat.send("four")
    assert [each["content"] for each in sent(api)["messages"]][:2] == ["The person counted to two.", "three"]
    assert [turn.text for turn in chat.as_seen_by(chat.exchanges[2])][::2] == ["one", "two", "three"]
    assert [turn.text for turn in chat.as_seen_by(chat.exchanges[3])][:2] == ["The person counted to two.", "three"]
    chat.bring_back(summary)
    assert texts(chat) == ["one", "…", "two", "…", "three", "…", "four", "…"]
    assert chat.request(check=False).body.startswith(before[: before.rindex(b'],"model"')])
    sound(store, chat, api)


def test_a_summary_that_the_model_writes(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """It is asked for in an exchange of its own, whose question and answer are part of no view."""
    api.answer("They counted to three.")
    summary = chat.compact(model="claude-haiku-4-5", max_tokens=200)
    asked = sent(api)
    assert (asked["model"], asked["max_tokens"]) == ("claude-haiku-4-5", 200)
    assert [each["content"] for each in asked["messages"]][::2] == ["one", "two", "three", REQUEST]
    assert (summary.origin, summary.text) == (Origin.SUMMARY, SUMMARY + "They counted to three.")
    assert summary.reason == f"written by the model in exchange {chat.exchanges[-1].position}"
    assert texts(chat) == [summary.text]
    chat.send("four")
    assert [each["content"] for each in sent(api)["messages"]] == [summary.text, "four"]
    assert sent(api)["model"] == SETTINGS["model"]
    assert [turn.text for turn in chat.as_seen_by(chat.exchanges[3])][-1] == REQUEST
    assert len(chat.exchanges) == 5
    chat.bring_back(summary)
    assert texts(chat) == ["one", "…", "two", "…", "three", "…", "four", "…"]
    sound(store, chat, api)


def test_what_is_not_summarised_is_not_shown_to_who_summarises(
    store: Store, chat: Conversation, api: MessagesAPI
) -> None:
    """What is kept, and what is not answered yet, stands after the summary; its body begins as the one before did."""
    body = api.requests[1].raw
    chat.user("four")
    summary = chat.compact(keep_last=1, instructions="Be quick.")
    assert [each["content"] for each in sent(api)["messages"]][::2] == ["one", "two", "Be quick."]
    assert api.requests[-1].raw.startswith(body[: body.rindex(b'],"model"')])
    assert texts(chat) == [summary.text, "three", "…", "four"]
    chat.send()
    assert len(sent(api)["messages"]) == 4
    sound(store, chat, api)


def test_the_apis_own_compaction(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """On demand: the block goes first and as it came, its beta with it, and what is kept follows it."""
    api.answer(Answer.compaction("They counted to two."))
    turn = chat.compact(by="api", keep_last=1, instructions="Count.")
    assert sent(api)["compaction"] == {"type": "summarize", "instructions": "Count."}
    assert len(sent(api)["messages"]) == 4
    assert turn.origin is Origin.MODEL
    assert [block.type for block in turn.content] == ["compaction"]
    assert [each.text for each in chat.turns][1] == "three"
    assert chat.settings["betas"] == [BETA]
    chat.send("four")
    assert BETA in api.requests[-1].headers["anthropic-beta"]
    assert sent(api)["messages"][0]["content"][0]["content"] == "They counted to two."
    assert "compaction" not in sent(api)
    assert [each["role"] for each in sent(api)["messages"]] == ["assistant", "user", "assistant", "user"]
    api.answer(Answer.compaction("They counted to four."))
    again = chat.compact(by="api")
    assert [each.place for each in chat.turns] == [again.place]
    chat.bring_back(again)
    chat.bring_back(turn)
    assert texts(chat) == ["one", "…", "two", "…", "three", "…", "four", "…"]
    sound(store, chat, api)


def test_a_compaction_that_came_by_itself(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """The API reads nothing that is before it any more: sent on all the same, or left out when asked; it comes back."""
    edits = {"edits": [{"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}}]}
    chat.update(context_management=edits, betas=["compact-2026-01-12"])
    block = {"type": "compaction", "content": "They counted to three.", "encrypted_content": None}
    api.answer(Answer([block, {"type": "text", "text": "Four, then."}]))
    reply = chat.send("four")
    assert reply.text == "Four, then."
    assert reply.turn is not None
    chat.send("and")
    assert len(sent(api)["messages"]) == 9
    asked = len(api.requests)
    assert chat.compact(by="api") == reply.turn
    assert len(api.requests) == asked
    assert [turn.text for turn in chat.turns][:2] == ["Four, then.", "and"]
    chat.send("five")
    assert [each["role"] for each in sent(api)["messages"]] == ["assistant", "user", "assistant", "user"]
    assert [turn.text for turn in chat.as_seen_by(reply.exchange)][::2] == ["one", "two", "three", "four"]
    chat.bring_back(reply.turn)
    assert texts(chat) == ["one", "…", "two", "…", "three", "…", "four", "and", "…", "five", "…"]
    sound(store, chat, api)


def test_a_compaction_that_failed_changes_nothing(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """The API marks one that failed with null; it is kept, sent back and ignored."""
    api.answer(Answer([{"type": "compaction", "content": None}, {"type": "text", "text": "Four."}]))
    chat.send("four")
    assert len(chat.turns) == 8
    sound(store, chat, api)


def test_context_editing_is_the_servers(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """The whole history goes on being sent; what the server left out of its copy is told by the reply."""
    edits = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    chat.update(context_management=edits, betas=["context-management-2025-06-27"])
    applied = [{"type": "clear_tool_uses_20250919", "cleared_input_tokens": 5_000, "cleared_tool_uses": 3}]
    api.answer(Answer("Four.", fields={"context_management": {"applied_edits": applied}}))
    reply = chat.send("four")
    assert list(reply.applied_edits) == applied
    assert chat.send("five").applied_edits == ()
    assert len(sent(api)["messages"]) == 9
    sound(store, chat, api)


# --- what is no summary ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        Answer("They coun", stop_reason="max_tokens"),
        Answer([]),
        Answer.refusal(),
        Answer("  "),
    ],
    ids=["cut off", "empty", "refused", "blank"],
)
def test_an_answer_that_is_no_summary(store: Store, chat: Conversation, api: MessagesAPI, answer: Answer) -> None:
    """It is recorded, and what is sent stays as it was."""
    before = texts(chat)
    api.answer(answer)
    with pytest.raises(UnfitReplyError, match="no summary"):
        chat.compact()
    assert texts(chat) == before
    chat.send("four")
    assert [each["content"] for each in sent(api)["messages"]][::2] == ["one", "two", "three", "four"]
    assert len(chat.exchanges) == 5
    sound(store, chat, api)


@pytest.mark.parametrize("by", ["model", "api"])
@pytest.mark.parametrize("fault", [400, 529])
def test_a_compaction_that_the_api_refuses(
    store: Store, chat: Conversation, api: MessagesAPI, fault: int, by: Any
) -> None:
    """What is sent stays as it was, and the same may be asked again: with retry(), or anew."""
    before = texts(chat)
    api.fail(Fault.status(fault))
    with pytest.raises(StatusError) as caught:
        chat.compact(by=by)
    assert isinstance(caught.value, BadRequestError) == (fault == 400)
    assert texts(chat) == before
    first = api.requests[-1].raw
    api.answer(Answer.compaction() if by == "api" else "They counted.")
    assert chat.retry().turn is not None
    assert api.requests[-1].raw == first
    assert len(chat.turns) == 1
    assert chat.turns[0].stands_for is not None
    chat.send("four")
    assert len(sent(api)["messages"]) == 2
    sound(store, chat, api)


def test_what_is_said_after_a_failure_stays_after_the_summary(
    store: Store, chat: Conversation, api: MessagesAPI
) -> None:
    """A retry puts the summary in the place of what was to be summarised, and of nothing else."""
    api.fail(Fault.status(529))
    with pytest.raises(StatusError):
        chat.compact(keep_last=1)
    chat.user("four")
    api.answer("They counted.")
    chat.retry()
    assert texts(chat) == [SUMMARY + "They counted.", "three", "…", "four"]
    sound(store, chat, api)


def test_nothing_to_summarise(store: Store, api: MessagesAPI) -> None:
    """Said before anything is written or asked."""
    chat = store.open("telegram:42", **SETTINGS, tools=TOOLS)
    for summary, by in ((), "model"), (("so far",), "model"), ((), "api"):
        with pytest.raises(ContentError, match="nothing is left"):
            chat.compact(*summary, by=by)  # type: ignore[arg-type]
    chat.user("one")
    with pytest.raises(ContentError, match="nothing is left"):
        chat.compact()
    api.answer(Answer([{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]))
    chat.send()
    version = chat.version
    with pytest.raises(ContentError, match="wait for their results"):
        chat.compact("so far")
    chat.tool_result("toolu_1", "an ant")
    chat.send()
    for wrong in ({"keep_last": -1}, {"keep_last": 1}, {"by": "me"}, {"keep_last": "1"}):
        with pytest.raises(ContentError):
            chat.compact(**wrong)
    with pytest.raises(ContentError, match="the caller's"):
        chat.compact("so far", instructions="be brief")
    assert chat.version == version + 4
    asked = len(api.requests)
    api.answer("An ant was seen.")
    chat.compact()
    assert sent(api)["tool_choice"] == {"type": "none"}
    with pytest.raises(ContentError, match="nothing is left"):
        chat.compact()
    assert len(api.requests) == asked + 1
    sound(store, chat, api)


# --- other processes ---------------------------------------------------------------------------------------------


def test_a_worker_that_dies_between_asking_and_answer(
    database_url: str, store: Store, chat: Conversation, api: MessagesAPI, client: Client
) -> None:
    """Whoever resolves the lost exchange has the summary put in its place."""
    with Store(database_url, client=client) as elsewhere:
        other = elsewhere.get(chat.id)
        sending = other._sending(client)
        by_model(other._history, sending.terms, 1, None, {})
    with pytest.raises(BusyError):
        chat.send("four")
    expire(store, chat)
    api.answer("They counted to two.")
    later = store.get(chat.id)
    reply = later.recover()
    assert reply is not None
    assert texts(later) == [SUMMARY + "They counted to two.", "three", "…"]
    sound(store, later, api)


def test_an_answer_given_by_hand_compacts_too(store: Store, chat: Conversation, client: Client) -> None:
    """What becomes of the view is in the request, not in the process that began it."""
    by_model(chat._history, chat._sending(client).terms, 0, None, {})
    taken = store.get(chat.id).pending
    assert taken is not None
    words = {"type": "text", "text": "They counted."}
    told = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "content": [words]}
    taken.finish({**told, "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}})
    chat.refresh()
    assert texts(chat) == [SUMMARY + "They counted."]


def expire(store: Store, chat: Conversation) -> None:
    """Let the lease of the pending exchange be over."""
    from sqlalchemy import update  # noqa: PLC0415 - beside its use

    from conversation_store.storage.tables import conversation  # noqa: PLC0415 - likewise

    with store._database.engine.begin() as connection:
        connection.execute(update(conversation).where(conversation.c.id == chat.id.bytes).values(lease_until=1))


def test_it_goes_along_with_a_fork_an_export_and_a_window(
    store: Store, chat: Conversation, api: MessagesAPI, tmp_path: Path
) -> None:
    """A fork begins with the summary; another database has the same head; a window never lets the summary go."""
    summary = chat.compact("They counted.", keep_last=1)
    forked = chat.fork()
    forked.send("four")
    assert sent(api)["messages"][0]["content"] == "They counted."
    for n in range(12):
        forked.send(f"{n} and more words " * 10, window=None)
    forked.send("five", window=Window(max_tokens=300, keep_last=0))
    assert sent(api)["messages"][0]["content"] == "They counted."
    assert len(sent(api)["messages"]) < 12
    with Store(f"sqlite:///{tmp_path / 'elsewhere.db'}") as elsewhere:
        elsewhere.load(store.export())
        assert elsewhere.verify() == []
        there = elsewhere.get(chat.id)
        assert (there.head, texts(there)) == (chat.head, texts(chat))
        there.bring_back(there.turns[0])
        assert texts(there) == ["one", "…", "two", "…", "three", "…"]
    assert summary.place == chat.turns[0].place
    sound(store, forked, api)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_bringing_back_undoes_it(store: Store, api: MessagesAPI, seed: int) -> None:
    """Whatever is summarised, by whom and however often: undone in reverse order, the same turns are sent again."""
    rng = random.Random(seed)
    chat = store.open(None, **SETTINGS, tools=TOOLS, betas=[BETA])
    said: list[Any] = []
    made = []
    for n in range(rng.randrange(3, 14)):
        match rng.randrange(6):
            case 0 if n > 2:
                by, keep = rng.choice(["model", "api", "caller"]), rng.randrange(3)
                try:
                    parts(chat._history, keep)
                except ContentError:
                    continue
                if by == "caller":
                    made.append(chat.compact(f"so far {n}", keep_last=keep))
                else:
                    api.answer(Answer.compaction(f"so far {n}") if by == "api" else f"so far {n}")
                    made.append(chat.compact(by="api" if by == "api" else "model", keep_last=keep))
            case 1:
                api.answer(Answer([{"type": "tool_use", "id": f"toolu_{n}", "name": "look", "input": {}}]), "Seen.")
                start = len(chat.turns)
                chat.send(f"look {n}")
                chat.run_tools({"look": lambda: "an ant"})
                said += [turn.place for turn in chat.turns[start:]]
            case _:
                start = len(chat.turns)
                chat.send(f"words {n}")
                said += [turn.place for turn in chat.turns[start:]]
    for summary in reversed(made):
        assert summary.place in {turn.place for turn in chat.turns}
        chat.bring_back(summary)
    assert [turn.place for turn in chat.turns] == said
    assert [each for each in chat.check() if each.severity == "error"] == []
    sound(store, chat, api)


# --- what becomes of a summary -----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["model", "api"])
@pytest.mark.parametrize("refused", [False, True])
def test_what_the_api_refuses_leaves_the_summary(
    store: Store, chat: Conversation, api: MessagesAPI, by: Any, refused: bool
) -> None:
    """The first turn said after a summary is set aside where it is rejected or refused; the summary is not."""
    api.answer(Answer.compaction("They counted.") if by == "api" else "They counted.")
    summary = chat.compact(by=by)
    if refused:
        api.answer(Answer.refusal())
        assert chat.send("four").refused
    else:
        api.fail(Fault.status(400))
        with pytest.raises(BadRequestError):
            chat.send("four")
    assert [turn.place for turn in chat.turns] == [summary.place]
    chat.retry()
    assert [turn.place for turn in chat.turns][:1] == [summary.place]
    assert texts(chat)[1:] == ["four", "…"]
    sound(store, chat, api)


def test_a_summary_is_set_aside_and_brought_back(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """It stands before everything again; given once more, it and what it stands for take turns."""
    summary = chat.compact("so far", keep_last=1)
    chat.send("four")
    chat.set_aside(summary)
    assert texts(chat) == ["three", "…", "four", "…"]
    for _ in range(2):
        chat.bring_back(summary)
        assert texts(chat) == ["so far", "three", "…", "four", "…"]
        chat.bring_back(summary)
        assert texts(chat) == ["one", "…", "two", "…", "three", "…", "four", "…"]
    sound(store, chat, api)


def test_one_of_those_it_stands_for_is_brought_back(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """It stands after the summary, and is not there twice once all of them are brought back."""
    first, *_ = chat.turns
    summary = chat.compact("so far", keep_last=1)
    chat.bring_back(first)
    assert texts(chat) == ["so far", "one", "three", "…"]
    with pytest.raises(ContentError, match="in the view"):
        chat.bring_back(first)
    chat.bring_back(summary)
    assert texts(chat) == ["one", "…", "two", "…", "three", "…"]
    inner = chat.compact("counted to two", keep_last=1)
    chat.compact("counted to three")
    with pytest.raises(ContentError, match="bring that one back first"):
        chat.bring_back(inner)
    sound(store, chat, api)


def test_a_summary_is_edited(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """The new words stand for the same turns."""
    new = chat.edit(chat.compact("so far"), "They counted to three.")
    assert (new.origin, texts(chat)) == (Origin.SUMMARY, ["They counted to three."])
    chat.bring_back(new)
    assert texts(chat) == ["one", "…", "two", "…", "three", "…"]
    sound(store, chat, api)


def answers_with_a_compaction(
    chat: Conversation, api: MessagesAPI, stop_reason: str = "end_turn", *, alone: bool
) -> None:
    """Let the API compact by itself in the answer to the fourth words; that answer may stand alone in the view."""
    edits = {"edits": [{"type": "compact_20260112", "pause_after_compaction": stop_reason == "compaction"}]}
    chat.update(context_management=edits, betas=["compact-2026-01-12"])
    block = {"type": "compaction", "content": "They counted to three.", "encrypted_content": None}
    more = [] if stop_reason == "compaction" else [{"type": "text", "text": "Four, then."}]
    api.answer(Answer([block, *more], stop_reason=stop_reason))
    chat.send("four")
    assert len(chat.turns) == 8
    if alone:
        chat.compact(by="api")
        assert len(chat.turns) == 1


@pytest.mark.parametrize("alone", [False, True])
def test_an_answer_with_a_compaction_is_asked_for_again(
    store: Store, chat: Conversation, api: MessagesAPI, alone: bool
) -> None:
    """What it stands for is what it answers."""
    answers_with_a_compaction(chat, api, alone=alone)
    chat.regenerate()
    assert [each["content"] for each in sent(api)["messages"]][::2] == ["one", "two", "three", "four"]
    assert texts(chat)[-2:] == ["four", "…"]
    chat.compact("so far")
    with pytest.raises(ContentError, match="no answer"):
        chat.regenerate()
    sound(store, chat, api)


@pytest.mark.parametrize("alone", [False, True])
def test_an_answer_with_a_compaction_is_edited(store: Store, chat: Conversation, api: MessagesAPI, alone: bool) -> None:
    """The words in its place stand after what it stood for: else nothing of that were sent."""
    answers_with_a_compaction(chat, api, alone=alone)
    chat.edit(-1, "Four!")
    assert texts(chat) == ["one", "…", "two", "…", "three", "…", "four", "Four!"]
    sound(store, chat, api)


@pytest.mark.parametrize("alone", [False, True])
def test_a_pause_after_a_compaction(store: Store, chat: Conversation, api: MessagesAPI, alone: bool) -> None:
    """The next send goes on from the block; what it answers is asked for again as any answer is."""
    answers_with_a_compaction(chat, api, "compaction", alone=alone)
    chat.send()
    assert len(sent(api)["messages"]) == (1 if alone else 8)
    assert [block["type"] for block in sent(api)["messages"][-1]["content"]] == ["compaction"]
    chat.regenerate()
    assert [each["content"] for each in sent(api)["messages"]][::2] == ["one", "two", "three", "four"]
    sound(store, chat, api)


def test_a_summary_does_not_part_thinking_from_the_results_it_waits_for(store: Store, api: MessagesAPI) -> None:
    """It is said before anything is asked; the API's own compaction keeps the thinking."""
    chat = store.open(None, **SETTINGS, tools=TOOLS)
    chat.send("one")
    thinking = {"type": "thinking", "thinking": "Where?", "signature": "c2lnbmVk"}
    call = {"type": "tool_use", "name": "look", "input": {}}
    chat.append(
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": [thinking, {**call, "id": "toolu_1"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "an ant"}]},
        {"role": "assistant", "content": [{**call, "id": "toolu_2"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_2", "content": "two ants"}]},
    )
    version = chat.version
    for summary in ((), ("so far",)):
        with pytest.raises(ContentError, match="thinking waits"):
            chat.compact(*summary)
    assert chat.version == version
    api.answer(Answer.compaction("so far"))
    chat.compact(by="api")
    assert [block.type for turn in chat.turns for block in turn.content][:3] == ["compaction", "text", "thinking"]


def test_a_retry_asks_for_the_same_summary(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """What was said since the first try is not what the summary is asked about."""
    api.fail(Fault.status(529))
    with pytest.raises(StatusError):
        chat.compact(keep_last=1)
    first = api.requests[-1].raw
    chat.user("four")
    chat.retry()
    assert api.requests[-1].raw == first
    assert texts(chat)[1:] == ["three", "…", "four"]
    sound(store, chat, api)


def test_half_a_summary_is_nothing_to_go_on_from(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """An answer is gone on with, but not a summary that broke off: it is asked for anew."""
    api.fail(Fault.status(529))
    with pytest.raises(StatusError):
        chat.compact()
    api.answer("They counted up and up and up.")
    with suppress(InterruptedAnswerError), chat.retry_stream() as stream:
        next(iter(stream.text))
    assert chat.exchanges[-1].state is State.INTERRUPTED
    assert chat.recover("keep_partial") is None
    assert texts(chat) == ["one", "…", "two", "…", "three", "…"]
    api.answer("They counted.")
    chat.retry()
    assert texts(chat) == [SUMMARY + "They counted."]
    sound(store, chat, api)


def test_betas_of_the_callers_go_along(chat: Conversation, api: MessagesAPI) -> None:
    """Those for the compaction alone are added to its own."""
    api.answer(Answer.compaction())
    chat.compact(by="api", betas=["token-counting-2024-11-01"])
    assert api.requests[-1].headers["anthropic-beta"].split(",") == [BETA, "token-counting-2024-11-01"]
    assert chat.settings["betas"] == [BETA]


def test_the_last_reply_is_not_a_summarys(chat: Conversation, api: MessagesAPI) -> None:
    """Where there is no tool to run, the reply is that of the last turn that is sent."""
    last = chat.exchanges[-1]
    chat.compact(keep_last=1)
    assert chat.run_tools({}).exchange.position == last.position


def test_the_model_is_asked_for_words(chat: Conversation, api: MessagesAPI) -> None:
    """What shapes answers of the conversation does not shape the summary, unless it is asked for."""
    schema = {"type": "json_schema", "schema": {"type": "object", "properties": {}, "additionalProperties": False}}
    chat.update(stop_sequences=["END"], output_config={"effort": "low", "format": schema})
    chat.compact(keep_last=1)
    assert (sent(api)["stop_sequences"], sent(api)["output_config"]) == ([], {"effort": "low"})
    chat.compact(stop_sequences=["."])
    assert sent(api)["stop_sequences"] == ["."]
    assert chat.settings["stop_sequences"] == ["END"]


def test_summaries_of_summaries_take_turns(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """Whichever is sent, nothing that it stands for is sent beside it, in a fork of a fork either."""
    forked = chat.fork()
    inner = forked.compact("to two", keep_last=1)
    again = forked.fork()
    outer = again.compact("to three")
    again.bring_back(outer)
    assert texts(again) == ["to two", "three", "…"]
    again.bring_back(inner)
    assert texts(again) == ["one", "…", "two", "…", "three", "…"]
    again.bring_back(outer)
    assert texts(again) == ["to three"]
    again.bring_back(outer)
    again.bring_back(inner)
    assert texts(again) == ["one", "…", "two", "…", "three", "…"]
    sound(store, again, api)


def test_a_prefill_is_not_brought_back(store: Store) -> None:
    """It was part of no view."""
    chat = store.open(None, **{**SETTINGS, "model": "claude-haiku-4-5"})
    chat.send("one", prefill="Well")
    prefill = chat.as_seen_by(chat.exchanges[-1])[-1]
    chat.rewind(0)
    with pytest.raises(ContentError, match="prefill"):
        chat.bring_back(prefill)
