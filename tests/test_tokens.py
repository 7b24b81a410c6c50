"""Tokens from recorded usage: exact where two answers bracket a turn, marked as an estimate everywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversation_store import Client, Conversation, Image, Store
from conversation_store.api.retry import Clock
from conversation_store.testing import Answer, MessagesAPI
from tests import pictures

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64, "system": "Be brief. " * 20}


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback; it counts tokens in a way of its own."""
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


def prompt(chat: Conversation, n: int) -> int:
    """Read what the API counted for the prompt of an exchange."""
    usage = chat.exchanges[n].usage
    return usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens


def coherent(chat: Conversation) -> None:
    """Whatever is estimated: the sums are the sums, and every recorded prompt is told exactly."""
    told = chat.tokens()
    assert [each.turn for each in told.turns] == list(range(len(chat.turns)))
    assert told.total == (told.turns[-1].prefix if told.turns else told.settings)
    at = told.settings
    for each in told.turns:
        assert each.tokens >= 0
        assert each.prefix - at == each.tokens or not told.turns[each.turn].prefix_exact
        at = each.prefix


def test_prompts_that_were_answered_are_exact(store: Store) -> None:
    """The prefix that ends with each question is what its answer says; what was said since is estimated."""
    chat = store.open("telegram:42", **SETTINGS)
    for words in ("one", "two words", "and three of them"):
        chat.send(words)
    told = chat.tokens()
    for n in range(3):
        assert (told.turns[2 * n].prefix, told.turns[2 * n].prefix_exact) == (prompt(chat, n), True)
    assert [each.prefix_exact for each in told.turns] == [True, False] * 3
    assert not told.exact
    answer_and_question = told.turns[1].tokens + told.turns[2].tokens
    assert answer_and_question == prompt(chat, 1) - prompt(chat, 0)
    assert [each.exact for each in told.turns] == [False] * 6
    assert 0 < told.settings < prompt(chat, 0)
    coherent(chat)


def test_a_turn_alone_between_two_answers_is_exact(store: Store, api: MessagesAPI) -> None:
    """A paused answer is gone on with at once: what the pause added is known to the token."""
    chat = store.open("telegram:42", **SETTINGS, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    call = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "ants"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    api.answer(Answer([{"type": "text", "text": "Look."}, call], stop_reason="pause_turn"), Answer([found]))
    chat.send("one")
    told = chat.tokens()
    first, second = prompt(chat, 0), prompt(chat, 1)
    assert (told.turns[1].tokens, told.turns[1].exact) == (second - first, True)
    assert (told.turns[1].prefix, told.turns[1].prefix_exact) == (second, True)
    coherent(chat)


def test_nothing_said_and_nothing_answered(store: Store) -> None:
    """Without an answer all is an estimate; without a turn only the settings are left."""
    chat = store.open("telegram:42", **SETTINGS)
    empty = chat.tokens()
    assert (empty.turns, empty.exact) == ((), False)
    assert empty.total == empty.settings > 20
    chat.user("Hello, Claude. " * 40)
    told = chat.tokens()
    assert told.total == told.settings + told.turns[0].tokens
    assert 100 < told.turns[0].tokens < 400
    assert not told.exact


def test_other_settings_make_another_prompt(store: Store) -> None:
    """Under a new system prompt no prefix is exact, and what turns add together still is."""
    chat = store.open("telegram:42", **SETTINGS)
    chat.send("one")
    chat.send("two")
    chat.update(system="Be long. " * 500)
    told = chat.tokens()
    assert not any(each.prefix_exact for each in told.turns)
    assert told.turns[1].tokens + told.turns[2].tokens == prompt(chat, 1) - prompt(chat, 0)
    chat.send("three")
    told = chat.tokens()
    assert (told.turns[4].prefix, told.turns[4].prefix_exact) == (prompt(chat, 2), True)
    assert told.settings > 1000
    coherent(chat)


def test_another_tokenizer_counts_otherwise(store: Store) -> None:
    """What one tokenizer counted is no figure of another's: fewer tokens, and none of them exact."""
    chat = store.open("telegram:42", **SETTINGS)
    chat.send("one " * 400)
    chat.send("two")
    own, other = chat.tokens(), chat.tokens(model="claude-haiku-4-5")
    assert own.turns[0].prefix_exact
    assert not any(each.prefix_exact or each.exact for each in other.turns)
    assert 0 < other.turns[0].tokens != own.turns[0].tokens
    assert chat.tokens(system=None).settings < own.settings


def test_a_turn_that_was_set_aside_is_no_part_of_it(store: Store, api: MessagesAPI) -> None:
    """After a refusal the view goes on without the question."""
    chat = store.open("telegram:42", **SETTINGS)
    chat.send("one")
    api.answer(Answer([], stop_reason="refusal"))
    chat.send("a long question that is refused " * 50)
    chat.send("two")
    told = chat.tokens()
    assert len(told.turns) == 4
    assert (told.turns[2].prefix, told.turns[2].prefix_exact) == (prompt(chat, 2), True)
    assert told.turns[1].tokens + told.turns[2].tokens == prompt(chat, 2) - prompt(chat, 0)
    coherent(chat)


def test_what_was_asked_with_more_turns_tells_nothing_of_fewer(store: Store, api: MessagesAPI) -> None:
    """An answer to a call that was set aside: its prompt had the call, what goes before it now has not."""
    chat = store.open("telegram:42", **SETTINGS, tools=[{"name": "tides", "input_schema": {"type": "object"}}])
    api.answer(Answer.calls(("tides", {"beach": "west " * 50})), "Low.")
    chat.send("Tides?")
    chat.tool_result(chat.open_calls[0].id, "low " * 50)
    chat.send()
    chat.set_aside(1)
    chat.send("And now?")
    told = chat.tokens()
    assert [each.prefix_exact for each in told.turns] == [False, False, True, False]
    assert told.turns[2].prefix == prompt(chat, 2)
    coherent(chat)


def test_thinking_that_is_left_out_was_counted(store: Store, api: MessagesAPI) -> None:
    """Prompts with it tell nothing of those without."""
    chat = store.open("telegram:42", **SETTINGS, thinking={"type": "adaptive"})
    api.answer(*(Answer("Yes.", thinking=words) for words in ("Hm. " * 99, "Well. " * 99)))
    chat.send("one")
    chat.send("two")
    chat.update(system="Be long. " * 20)
    (finding,) = (each for each in chat.check() if each.fix == "drop_thinking")
    chat.mend(finding)
    chat.update(system=SETTINGS["system"])
    assert [each.prefix_exact for each in chat.tokens().turns] == [True, False, False, False]
    chat.send("three")
    told = chat.tokens()
    assert [each.prefix_exact for each in told.turns] == [True, False, False, False, True, False]
    coherent(chat)


def test_a_picture_counts_by_its_size_on_the_screen(store: Store) -> None:
    """Not by its bytes: an estimate of 28 pixels square a token, after it is scaled down."""
    chat = store.open("telegram:42", **SETTINGS)
    chat.user(Image.from_bytes(pictures.png(280, 560)), "What is this?")
    (turn,) = chat.tokens().turns
    assert 200 <= turn.tokens <= 260
    chat.user(Image.from_bytes(pictures.png(6000, 3000, padding=3000)))
    assert 92 * 46 <= chat.tokens().turns[1].tokens <= 92 * 46 + 60  # 2576 by 1288 pixels


def test_the_api_is_asked_where_certainty_is_wanted(store: Store, api: MessagesAPI) -> None:
    """count_tokens sends the next request as it stands, or as it would be; nothing is written."""
    chat = store.open("telegram:42", **SETTINGS, metadata={"user_id": "42"}, stop_sequences=["END"])
    chat.send("one")
    version = chat.version
    counted = chat.count_tokens("two")
    asked = api.requests[-1]
    assert asked.path == "/v1/messages/count_tokens"
    assert set(asked.body) == {"messages", "model", "system"}
    assert chat.version == version
    chat.send("two")
    assert counted == prompt(chat, 1)
    assert chat.count_tokens("three", system="Be.") < chat.count_tokens("three")


@given(said=st.lists(st.tuples(st.text(min_size=1, max_size=200), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sums_are_sums_however_it_was_held(store: Store, said: Sequence[tuple[str, bool]]) -> None:
    """Sent at once or several turns together: every recorded prompt is exact, and all adds up."""
    chat = store.open(f"chat {len(store.list())}", **SETTINGS)
    for words, send in said:
        if not words.strip():
            continue
        if send:
            chat.send(words.encode("utf-8", "replace").decode())
        else:
            chat.user(words.encode("utf-8", "replace").decode())
    told = chat.tokens()
    answered = [n for n, turn in enumerate(chat.turns) if turn.origin == "model"]
    for n, index in enumerate(answered):
        assert (told.turns[index - 1].prefix, told.turns[index - 1].prefix_exact) == (prompt(chat, n), True)
    for n, (a, b) in enumerate(pairwise(answered)):
        assert sum(each.tokens for each in told.turns[a:b]) == prompt(chat, n + 1) - prompt(chat, n)
    coherent(chat)
