"""Mending what a finding names: a new view or another turn, the record untouched, and a request the API takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversation_store import Client, Conversation, Finding, Store
from conversation_store.api.retry import Clock
from conversation_store.errors import ContentError, RuleViolationError, ServerError
from conversation_store.mending import NO_RESULT
from conversation_store.testing import Answer, Fault, MessagesAPI

TOOLS: Final = [{"name": "weather", "input_schema": {"type": "object"}}]
SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64, "tools": TOOLS}
Message = dict[str, Any]


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


def user(content: Any) -> Message:
    """Write a user's message."""
    return {"role": "user", "content": content}


def assistant(content: Any) -> Message:
    """Write an assistant's message."""
    return {"role": "assistant", "content": content}


def system(text: str) -> Message:
    """Write a system message."""
    return {"role": "system", "content": text}


def call(name: str = "toolu_1") -> dict[str, Any]:
    """Write a call of a tool."""
    return {"type": "tool_use", "id": name, "name": "weather", "input": {"city": "Paris"}}


def result(name: str = "toolu_1", content: str = "Rain.") -> dict[str, Any]:
    """Write a result."""
    return {"type": "tool_result", "tool_use_id": name, "content": content}


def broken(store: Store, *messages: Message, **more: Any) -> Conversation:
    """Give a conversation with these messages, whatever is wrong with them."""
    chat = store.open("telegram:42", **{**SETTINGS, **more})
    chat.append(*messages, check=False)
    return chat


def errors(chat: Conversation) -> list[Finding]:
    """List what would stop the next send."""
    return [finding for finding in chat.check("Well?") if finding.severity == "error"]


def sent(chat: Conversation) -> list[Message]:
    """Read the messages of the next request."""
    return list(json.loads(chat.request(check=False).body)["messages"])


def mended(chat: Conversation, api: MessagesAPI, store: Store) -> list[str]:
    """Mend until nothing is found; the record is what it was, and the API takes what is sent then."""
    before = [(turn.position, turn.wire) for turn in chat.turns]
    said = []
    while found := errors(chat):
        outcome = chat.mend(found[0], "Well?")
        assert outcome.fix == found[0].fix
        said.append(outcome.what)
        assert len(said) < 40
    fresh = store.get(chat.id)
    assert sent(fresh) == sent(chat)
    with_all = {entry.position: entry.wire for entry in chat.turns}
    assert all(with_all[position] == wire for position, wire in before if position in with_all)
    assert chat.send("Well?").exchange.state == "answered"
    assert chat.replay(chat.exchanges[-1]) == api.requests[-1].raw
    assert chat.verify() == []
    return said


def test_what_is_not_said_yet_is_of_no_turn(store: Store) -> None:
    """Words that would join a result in one message are not that result's turn."""
    chat = broken(store, user("one"), assistant([call()]))
    chat.tool_result("toolu_1", "Rain.")
    (finding,) = [each for each in chat.check(" ") if each.severity == "error"]
    assert (finding.path, finding.turn) == ("messages.2.content.1.text", None)
    with pytest.raises(ContentError):
        chat.mend(finding, " ")
    assert len(chat.turns) == 3


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_of_a_gathered_message_the_turn_of_the_block_is_named(
    store: Store, api: MessagesAPI, before: bool, closed: bool
) -> None:
    """Several results in one turn and words beside them are one message; what is wrong is still one turn's."""
    chat = broken(store, user("one"), assistant([call(), call("toolu_2")]), *[user("wait")] * before)
    api.fail(Fault.status(500))
    with pytest.raises(ServerError):
        chat.send(result(), {**result("toolu_2"), "content": [{"type": "text", "text": " "}]}, check=False)
    chat.append(user("two"), *[assistant("Yes.")] * closed, check=False)
    for asked in (chat, store.get(chat.id)):
        (finding,) = asked.check()
        assert (finding.rule, finding.path) == (
            "text_not_blank",
            "messages.2.content.1.tool_result.content.0.text",
        )
        assert finding.turn == 2 + before
        assert chat.turns[finding.turn].origin == "tool"


def test_a_call_in_the_middle_is_answered(store: Store, api: MessagesAPI) -> None:
    """An error result stands right after the call, in the one user message that must follow."""
    chat = broken(store, user("one"), assistant([call(), call("toolu_2")]), user("two"), assistant("Yes."))
    (finding,) = errors(chat)
    outcome = chat.mend(finding)
    assert (outcome.fix, outcome.set_aside) == ("answer_call", ())
    (turn,) = outcome.appended
    assert (turn.origin, turn.reason) == ("tool", "no result was given")
    messages = sent(chat)
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2]["content"] == [
        {**result(content=NO_RESULT), "is_error": True},
        {**result("toolu_2", NO_RESULT), "is_error": True},
        {"type": "text", "text": "two"},
    ]
    assert mended(chat, api, store) == []


def test_one_of_two_calls_is_answered_already(store: Store, api: MessagesAPI) -> None:
    """Only what is missing is added."""
    chat = broken(
        store, user("one"), assistant([call(), call("toolu_2")]), user([result("toolu_2")]), assistant("Yes.")
    )
    assert mended(chat, api, store) == ["answered toolu_1 with an error result"]


def test_calls_at_the_end_are_answered(store: Store, api: MessagesAPI) -> None:
    """As the next thing that is said."""
    chat = broken(store, user("one"), assistant([call()]))
    assert mended(chat, api, store) == ["answered toolu_1 with an error result"]
    assert chat.open_calls == ()


@pytest.mark.parametrize(
    "messages",
    [
        (user("one"), assistant("Yes."), user([result("toolu_9")]), assistant("Hm.")),
        (user("one"), assistant("Yes."), user(" "), assistant("Hm.")),
        (user("one"), assistant(""), user("two"), assistant("Hm.")),
        (user("one"), assistant([call()]), user([result()]), assistant([call()]), user([result()]), assistant("Hm.")),
        (user("one"), assistant([{"type": "text", "text": ""}, call()]), user([result()]), assistant("Hm.")),
    ],
    ids=["an orphan", "a blank turn", "an empty turn", "an id twice", "a blank beside a call"],
)
def test_a_turn_is_set_aside(store: Store, api: MessagesAPI, messages: Sequence[Message]) -> None:
    """It leaves the view, and its calls do not leave their results behind."""
    chat = broken(store, *messages)
    said = mended(chat, api, store)
    assert said
    assert all("aside" in each or "answered" in each for each in said)


def test_a_call_takes_its_result_along(store: Store, api: MessagesAPI) -> None:
    """Set aside together, they stay in the record."""
    chat = broken(
        store, user("one"), assistant([{"type": "text", "text": " "}, call()]), user([result()]), assistant("Hm.")
    )
    (finding,) = errors(chat)
    outcome = chat.mend(finding)
    assert [turn.role for turn in outcome.set_aside] == ["assistant", "user"]
    assert [turn.text for turn in chat.turns] == ["one", "Hm."]
    assert mended(chat, api, store) == []


def test_a_result_that_holds_more_is_not_torn_out(store: Store) -> None:
    """What the user said beside a result is no part of it: nothing is done unasked."""
    chat = broken(
        store,
        user("one"),
        assistant([{"type": "text", "text": " "}, call()]),
        user([result(), {"type": "text", "text": "And more."}]),
        assistant("Hm."),
    )
    version = chat.version
    (finding,) = errors(chat)
    with pytest.raises(ContentError, match="holds results of its calls and more"):
        chat.mend(finding)
    assert chat.version == version


def test_white_space_at_the_end_is_taken_off(store: Store, api: MessagesAPI) -> None:
    """Of the last assistant's turn: a copy stands in its place; of a prefill: it is given back trimmed."""
    chat = broken(store, user("one"), assistant("The answer is ( \n"), model="claude-haiku-4-5")
    with pytest.raises(RuleViolationError) as caught:
        chat.send()
    (finding,) = caught.value.findings
    outcome = chat.mend(finding)
    assert [turn.text for turn in chat.turns] == ["one", "The answer is ("]
    assert [turn.origin for turn in chat.turns] == ["human", "synthetic"]
    assert [turn.text for turn in outcome.set_aside] == ["The answer is ( \n"]
    assert chat.send().turn is not None
    assert chat.verify() == []
    other = store.open("other", **{**SETTINGS, "model": "claude-haiku-4-5"})
    other.user("one")
    version = other.version
    (finding,) = [each for each in other.check(prefill="So: ") if each.severity == "error"]
    assert other.mend(finding, prefill="So: ").prefill == "So:"
    assert other.version == version


def test_a_system_message_is_moved(store: Store, api: MessagesAPI) -> None:
    """Behind the next user's turn where it may stand."""
    chat = broken(store, system("Be brief."), user("one"), assistant("Yes."), model="claude-opus-5-5")
    assert [each.fix for each in errors(chat)][:1] == ["move_system"]
    mended(chat, api, store)
    assert [turn.role for turn in chat.turns][:3] == ["user", "system", "assistant"]


def test_a_model_without_system_messages_gets_a_system_prompt(store: Store, api: MessagesAPI) -> None:
    """The words are kept: in the settings, behind those that are there."""
    chat = broken(
        store, user("one"), system("Be brief."), assistant("Yes."), model="claude-sonnet-5", system="You are kind."
    )
    said = mended(chat, api, store)
    assert said == ["set turn 3 aside and put its words at the end of the system prompt"]
    assert [block["text"] for block in chat.settings["system"]] == ["You are kind.", "Be brief."]


def test_thinking_is_dropped_as_a_whole(store: Store, api: MessagesAPI) -> None:
    """What thinking is bound to was changed: none of it is sent any more, all of it stays in the record."""
    chat = store.open("telegram:42", **SETTINGS)
    for n in range(3):
        api.answer(Answer([{"type": "thinking", "thinking": f"Hm {n}."}, {"type": "text", "text": "Yes."}]))
        chat.send("one")
    bodies = [chat.replay(exchange) for exchange in chat.exchanges]
    chat.update(system="Be kind.")
    (finding,) = [each for each in chat.check() if each.fix == "drop_thinking"]
    outcome = chat.mend(finding)
    assert outcome.what == "left all thinking so far out of what is sent"
    assert b"thinking" not in chat.request(check=False).body
    assert [turn.text for turn in chat.turns] == ["one", "Yes."] * 3
    assert not [each for each in chat.check() if each.fix == "drop_thinking"]
    assert [chat.replay(exchange) for exchange in chat.exchanges] == bodies
    api.answer(Answer([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "No."}]))
    chat.send("two")
    fresh = store.get(chat.id)
    assert fresh.request(check=False).body.count(b'"thinking":"') == 1  # what was thought since is sent
    assert fresh.replay(fresh.exchanges[-1]) == api.requests[-1].raw
    assert fresh.verify() == []


def test_a_turn_of_thinking_alone_goes_with_it(store: Store, api: MessagesAPI) -> None:
    """Nothing would be left of it; streamed and blocking, fresh and known, the view is the same."""
    chat = store.open("telegram:42", **SETTINGS)
    api.answer(Answer([{"type": "thinking", "thinking": "Hm."}], stop_reason="max_tokens"))
    chat.send("one")
    chat.user("Go on.")
    chat.update(system="Be kind.")
    (finding,) = [each for each in chat.check() if each.fix == "drop_thinking"]
    chat.mend(finding)
    assert [turn.text for turn in chat.turns] == ["one", "Go on."]
    assert [turn.text for turn in store.get(chat.id).turns] == ["one", "Go on."]
    assert chat.send().exchange.state == "answered"


def test_what_does_not_hold_any_more_is_not_mended(store: Store, api: MessagesAPI) -> None:
    """A finding of yesterday, and one that nothing mechanical mends."""
    chat = broken(store, user("one"), assistant([call()]))
    (finding,) = errors(chat)
    chat.mend(finding)
    version = chat.version
    with pytest.raises(ContentError, match="does not hold any more"):
        chat.mend(finding)
    (wrong,) = [each for each in chat.check(max_tokens=10**9) if each.severity == "error"]
    with pytest.raises(ContentError, match="nothing mechanical"):
        chat.mend(wrong, max_tokens=10**9)
    assert chat.version == version


TEXTS: Final = st.sampled_from(["one", "two", " ", ""])
IDS: Final = st.sampled_from(["toolu_1", "toolu_2", "toolu_3"])
MESSAGES: Final = st.lists(
    st.one_of(
        st.builds(user, TEXTS),
        st.builds(assistant, TEXTS),
        st.builds(lambda names: assistant([call(name) for name in names]), st.lists(IDS, min_size=1, max_size=3)),
        st.builds(lambda names: user([result(name) for name in names]), st.lists(IDS, min_size=1, max_size=3)),
        st.builds(system, st.sampled_from(["Be brief.", "Be kind."])),
    ),
    min_size=1,
    max_size=9,
)


@given(messages=MESSAGES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_broken_can_be_mended_and_sent(store: Store, api: MessagesAPI, messages: Sequence[Message]) -> None:
    """Any transcript of these: mended finding by finding, the API takes it; nothing of the record has changed."""
    chat = store.open(f"chat {len(store.list(limit=10_000))}", **{**SETTINGS, "model": "claude-opus-5-5"})
    chat.append(*messages, check=False)
    record = {turn.position: turn.wire for turn in chat.turns}
    for _ in range(60):
        found = [finding for finding in errors(chat) if finding.fix is not None]
        if not found:
            break
        chat.mend(found[0], "Well?")
    for exchange_turn in chat.turns:
        assert record.get(exchange_turn.position, exchange_turn.wire) == exchange_turn.wire
    try:
        reply = chat.send("Well?")
    except RuleViolationError as error:
        assert all(finding.fix is None for finding in error.findings)  # noqa: PT017 - what is left nothing mends
    else:
        assert reply.exchange.state == "answered"
        assert chat.replay(reply.exchange) == api.requests[-1].raw
    assert chat.verify() == []
