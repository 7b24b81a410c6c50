"""The rule book where its callers meet it: a bad turn is named before anything is written, and found only once."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from conversation_store import Client, Conversation, Store
from conversation_store.api.rules import reading
from conversation_store.errors import BadRequestError, RuleViolationError
from conversation_store.record import canonical
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests import pictures
from tests.asks import OLD, SONNET, Block, assistant, call, result, system, text, tool, user


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


@pytest.fixture
def store(database_url: str, api: MessagesAPI) -> Iterator[Store]:
    """Give a store with a client of the loopback API."""
    with (
        Client(api.key, base_url=api.url, timeout=30, max_attempts=1) as client,
        Store(database_url, client=client) as opened,
    ):
        yield opened


@pytest.fixture
def chat(store: Store) -> Conversation:
    """Give an empty conversation with a tool."""
    return store.open("telegram:42", model=SONNET, max_tokens=64, tools=[tool()], version="2026-10-21")


def found(chat: Conversation) -> list[tuple[str, str, int | None, str | None]]:
    """List what would stop the next send."""
    return [(each.rule, each.path, each.turn, each.fix) for each in chat.check() if each.severity == "error"]


BROKEN: dict[str, tuple[list[Block], tuple[str, str, int | None, str | None]]] = {
    "a call nobody answered": (
        [user("Hi"), assistant(call()), user("Well?"), assistant("Hm."), user("So?")],
        ("calls_answered", "messages.1", 1, "answer_call"),
    ),
    "a result nobody asked for": (
        [user("Hi"), assistant("Yes"), user(result("toolu_9"))],
        ("results_asked_for", "messages.2.content.0", 2, "set_aside"),
    ),
    "a blank turn": (
        [user("Hi"), assistant("Yes"), user(" "), assistant("Hm."), user("So?")],
        ("text_not_blank", "messages.2.content", 2, "set_aside"),
    ),
    "blank text in a result": (
        [user("Hi"), assistant(call()), user(result(content=[text(), text("\n")]))],
        ("text_not_blank", "messages.2.content.0.tool_result.content.1.text", 2, "set_aside"),
    ),
    "a system message out of place": (
        [user("Hi"), assistant("Yes"), system("Be brief."), user("So?")],
        ("system_placed", "messages.2", 2, "move_system"),
    ),
    "an assistant who began": (
        [assistant("Hi"), user("Hi")],
        ("first_is_user", "messages.0.role", 0, "set_aside"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_not_sent(chat: Conversation, api: MessagesAPI, name: str) -> None:
    """It can be kept; a send is refused before anything is written, and the finding names the turn and a fix."""
    history, expected = BROKEN[name]
    chat.append(*history, check=False)
    assert expected in found(chat)
    version = chat.version
    with pytest.raises(RuleViolationError) as refused:
        chat.send("And now?")
    assert expected in [(each.rule, each.path, each.turn, each.fix) for each in refused.value.findings]
    assert (chat.version, api.requests) == (version, ())
    api.answer("As you like.")
    api.strict = False
    assert chat.send("And now?", check=False).text == "As you like."


def test_open_calls_are_told_of_before_the_send(chat: Conversation, api: MessagesAPI) -> None:
    """By check; a request that is only built may still get its results."""
    api.answer(Answer([call("toolu_1")]))
    chat.send("Weather?")
    assert found(chat) == [("calls_answered", "messages.1", 1, "answer_call")]
    chat.request()
    chat.tool_result("toolu_1", "23 degrees")
    assert found(chat) == []


def test_check_says_what_a_send_would_meet(chat: Conversation) -> None:
    """Content and a prefill are tried, and nothing of them is kept."""
    chat.user("Hi")
    version = chat.version
    assert {each.rule for each in chat.check(result("toolu_9"))} == {"results_asked_for"}
    assert {each.rule for each in chat.check(prefill="Well ")} == {"prefill_model", "prefill_ends_in_words"}
    assert {each.rule for each in chat.check(prefill="Well", model=OLD, max_tokens=100_000)} >= {"max_tokens_in_range"}
    assert chat.check("Well?") == []
    assert chat.version == version


def test_models_come_and_go(chat: Conversation) -> None:
    """The day to judge by can be said: a model is named in time, and refused once it is gone."""
    chat.user("Hi")
    judged = {
        day: [(each.rule, each.severity) for each in chat.check(model="claude-sonnet-4-5", on=day)]
        for day in (date(2026, 1, 1), date(2026, 11, 1), date(2026, 11, 30))
    }
    assert judged == {
        date(2026, 1, 1): [],
        date(2026, 11, 1): [("deprecated", "warning")],
        date(2026, 11, 30): [("in_service", "error")],
    }


def test_what_came_from_the_api_passes(chat: Conversation, api: MessagesAPI) -> None:
    """Blocks and keys that nobody knows yet go back as they came."""
    api.answer({"content": [{"type": "smell", "of": "rain"}, text("It rains.", mood="wet")]})
    chat.send("Weather?")
    assert chat.check("And tomorrow?") == []


def test_pictures_are_counted_and_measured_where_they_are_kept(chat: Conversation, store: Store) -> None:
    """Over the history, in another process too; nothing is read but what was noted with them."""
    large = base64.b64encode(pictures.png(2001, 2, padding=3000)).decode()
    small = base64.b64encode(pictures.png(8, 8, padding=3000)).decode()

    def shown(data: str) -> Block:
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}

    chat.user("Look.", shown(large))
    chat.assistant("I see.")
    chat.user(*[shown(small)] * 19)
    chat.assistant("I see.")
    assert found(chat) == []
    chat.user("And this.", shown(small))
    expected = [("many_images", "messages.0.content.1.image.source.base64.data", 0, "set_aside")]
    assert found(chat) == expected
    assert found(store.get("telegram:42")) == expected


def test_results_given_one_by_one_are_of_their_turns(chat: Conversation, api: MessagesAPI) -> None:
    """They are one message; a finding names the turn."""
    api.answer(Answer([call("toolu_1"), call("toolu_2")]))
    chat.send("Weather?")
    chat.tool_result("toolu_1", "one")
    chat.tool_result("toolu_2", [{"type": "tool_reference", "tool_name": "tides"}])
    (finding,) = chat.check()
    assert (finding.rule, finding.path, finding.turn) == (
        "references_defined",
        "messages.2.content.1.tool_result.content.0",
        3,
    )


def test_a_reference_among_tools_of_odd_names(chat: Conversation) -> None:
    """A tool whose name is no string is found to be one; nothing breaks."""
    chat.append(
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [call("toolu_1")]},
        {"role": "user", "content": [result("toolu_1", [{"type": "tool_reference", "tool_name": "tides"}])]},
    )
    found = chat.check(tools=[{"name": ["weather"], "input_schema": {"type": "object"}}])
    assert {finding.rule for finding in found} == {"tool_name", "references_defined"}


def test_an_empty_prefill_is_taken(store: Store, api: MessagesAPI) -> None:
    """The API refuses empty messages but for a final one of the assistant's; one in the middle is still refused."""
    chat = store.open("prefilled", model="claude-haiku-4-5", max_tokens=64)
    api.answer("It is small.")
    assert chat.check("What is an ant?", prefill="") == []
    assert chat.send("What is an ant?", prefill="").text == "It is small."
    assert chat.replay(chat.exchanges[-1]) == api.requests[-1].raw
    chat.append({"role": "assistant", "content": ""}, check=False)
    assert [finding.rule for finding in chat.check("And?")] == ["content_not_empty"]


def test_results_given_one_by_one_are_read_at_a_glance(chat: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long history with such results only the last message is held to the rules one by one."""
    for n in range(3):
        chat.append(user("Weather?"), assistant(call(f"toolu_{n}a"), call(f"toolu_{n}b")))
        chat.tool_result(f"toolu_{n}a", "one")
        chat.tool_result(f"toolu_{n}b", "two")
        chat.append(assistant("Rain."))
    read: list[int] = []
    slowly = reading._read

    def counted(pieces: Any, n: int, *others: Any, **more: Any) -> Any:
        read.append(n)
        return slowly(pieces, n, *others, **more)

    monkeypatch.setattr(reading, "_read", counted)
    assert chat.check("And?") == []
    assert set(read) <= {11, 12}


def test_each_turn_is_looked_at_once(chat: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second check parses the last message alone, which more turns may join; the user's words not even then."""
    for n in range(20):
        chat.append(user("Hi"), assistant(call(f"toolu_{n}")), user(result(f"toolu_{n}")), assistant(text()))
    chat.user("Hi")
    looked: list[int] = []
    read = canonical.object_of

    class Counting:
        """Stands in for the reader of JSON."""

        @staticmethod
        def object_of(data: bytes) -> object:
            """Note that something is read, and read it."""
            looked.append(len(data))
            return read(data)

    monkeypatch.setattr(reading, "canonical", Counting)
    assert found(chat) == []
    assert len(looked) == 2 * 20
    looked.clear()
    assert found(chat) == []
    assert looked == []
    chat.append(assistant(call("toolu_20")))
    looked.clear()
    assert found(chat) == [("calls_answered", "messages.81", 81, "answer_call")]
    assert len(looked) == 1


def test_another_view_is_judged_as_it_is(chat: Conversation, store: Store, api: MessagesAPI) -> None:
    """What the API rejects leaves the view: what was known of it is forgotten, here and elsewhere."""
    chat.append(user("Hi"), assistant("Yes"))
    chat.user("So?")
    api.fail(Fault(code=400))
    with pytest.raises(BadRequestError):
        chat.send(*[text()], result("toolu_9"), check=False)
    chat.append(user("Hm."), assistant(call()), user(result()))
    assert found(chat) == found(store.get("telegram:42")) == []
    assert chat.check("Well?") == []
