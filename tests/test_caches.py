"""Cache breakpoints: where they are set, that prefixes never change, and that the API then reads what it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversation_store import Client, Conversation, Store
from conversation_store.api.caching import LOOK_BACK, MOST
from conversation_store.api.request import lifetimes
from conversation_store.api.retry import Clock
from conversation_store.errors import ContentError, OverloadedError
from conversation_store.testing import Answer, Fault, MessagesAPI

LONG: Final = "An ant is a small thing. " * 100  # more tokens than the shortest prompt that is cached
SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64, "system": LONG}
SEARCH: Final = {"type": "web_search_20250305", "name": "web_search"}
WEATHER: Final = {"name": "weather", "input_schema": {"type": "object"}}
AUTOMATIC: Final = {"type": "ephemeral"}


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback; it has a cache of prompts."""
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


def text(words: str, **more: Any) -> dict[str, Any]:
    """Write a text block."""
    return {"type": "text", "text": words, **more}


def searches(first: int, count: int) -> list[dict[str, Any]]:
    """Write an answer of many blocks: calls of a server tool, each with its result."""
    blocks: list[dict[str, Any]] = []
    for n in range(first, first + count):
        name = f"srvtoolu_{n}"
        blocks += [
            {"type": "server_tool_use", "id": name, "name": "web_search", "input": {"query": f"ants {n}"}},
            {"type": "web_search_tool_result", "tool_use_id": name, "content": []},
        ]
    return [*blocks, text("Six legs.")]


def marked(body: Mapping[str, Any]) -> list[tuple[int, int]]:
    """List the blocks of messages that have a breakpoint."""
    return [
        (n, m)
        for n, message in enumerate(body["messages"])
        if isinstance(message["content"], list)
        for m, block in enumerate(message["content"])
        if "cache_control" in block
    ]


def plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Read a message as the cache sees it: a string is one text block, breakpoints are no part of it."""
    content = message["content"]
    blocks = [text(content)] if isinstance(content, str) else content
    unmarked = [{name: value for name, value in block.items() if name != "cache_control"} for block in blocks]
    return {"role": message["role"], "content": unmarked}


# --- what is asked for -------------------------------------------------------------------------------------------


def test_the_automatic_breakpoint_is_asked_for_and_read(store: Store, api: MessagesAPI) -> None:
    """With cache="auto" every request reads what the one before wrote; the settings do not show a breakpoint."""
    chat = store.open("telegram:42", cache="auto", **SETTINGS)
    replies = [chat.send(words) for words in ("one", "two", "three")]
    assert [each.body["cache_control"] for each in api.requests] == [AUTOMATIC] * 3
    assert all(not marked(each.body) for each in api.requests)
    read = [reply.usage.cache_read_input_tokens for reply in replies]
    written = [reply.usage.cache_creation_input_tokens for reply in replies]
    assert read[0] == 0
    assert read[1:] == [read[0] + written[0], read[1] + written[1]]
    assert chat.settings["cache"] == "auto"
    assert "cache_control" not in chat.settings
    for exchange in chat.exchanges:
        assert json.loads(chat.replay(exchange))["cache_control"] == AUTOMATIC


def test_a_single_request_may_say_otherwise(store: Store, api: MessagesAPI) -> None:
    """An override lasts one exchange: off, or an hour; ABSENT settings have no breakpoints."""
    chat = store.open("telegram:42", **SETTINGS)
    chat.send("one")
    chat.send("two", cache="1h")
    chat.update(cache="1h")
    chat.send("three", cache="off")
    chat.send("four")
    hour = {"type": "ephemeral", "ttl": "1h"}
    assert [each.body.get("cache_control") for each in api.requests] == [None, hour, None, hour]
    with pytest.raises(ContentError, match=r"cache: is one of auto, 1h, off"):
        chat.send("five", cache="always")


def test_a_turn_of_many_blocks_is_bridged(store: Store, api: MessagesAPI) -> None:
    """Where a turn adds 20 positions the automatic breakpoint would miss: one more stands where the last one stood."""
    chat = store.open(
        "telegram:42", cache="auto", **SETTINGS, tools=[{"type": "web_search_20250305", "name": "web_search"}]
    )
    api.answer(Answer(searches(0, 12)), Answer(searches(20, 3)))
    first = chat.send("one")
    second = chat.send("two")
    chat.send("three")
    assert [marked(each.body) for each in api.requests] == [[], [(0, 0)], []]
    assert api.requests[1].body["messages"][0]["content"] == [text("one", cache_control=AUTOMATIC)]
    assert second.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens > 0
    assert [exchange.state for exchange in chat.exchanges] == ["answered"] * 3
    for exchange, sent in zip(chat.exchanges, api.requests, strict=True):
        assert chat.replay(exchange) == sent.raw
    again = Store.get(store, "telegram:42")
    assert again.verify() == []
    assert again.replay(chat.exchanges[1]) == api.requests[1].raw


def test_a_prefill_is_not_what_is_cached(store: Store, api: MessagesAPI) -> None:
    """No later request repeats a prefill: the breakpoint stands before it, and the next request reads from there."""
    chat = store.open("telegram:42", cache="auto", **{**SETTINGS, "model": "claude-haiku-4-5", "system": LONG * 7})
    first = chat.send("one", prefill="It")
    second = chat.send("two", prefill="It")
    third = chat.send("three")
    assert [marked(each.body) for each in api.requests] == [[(0, 0)], [(2, 0)], []]
    assert [("cache_control" in each.body) for each in api.requests] == [False, False, True]
    assert second.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens > 0
    assert third.usage.cache_read_input_tokens > second.usage.cache_read_input_tokens


def test_what_the_caller_marked_stays_the_callers(store: Store, api: MessagesAPI) -> None:
    """Breakpoints of the caller within messages: none of ours beside them; on the system prompt: there is room."""
    five = {"type": "ephemeral", "ttl": "5m"}
    chat = store.open("telegram:42", cache="1h", **{**SETTINGS, "system": [text(LONG, cache_control=five)]})
    chat.send("one")
    assert api.requests[0].body["cache_control"] == AUTOMATIC  # an hour may not come after five minutes
    chat.send(text("two", cache_control=five))
    chat.send("three")
    assert ["cache_control" in each.body for each in api.requests[1:]] == [False, False]
    chat.update(system=[text(LONG, cache_control=five)] * MOST)
    another = store.open("another", cache="auto", **{**SETTINGS, "system": [text(LONG, cache_control=five)] * MOST})
    another.send("one")
    assert "cache_control" not in api.requests[-1].body


def test_a_key_called_cache_control_in_a_calls_input_is_no_breakpoint(store: Store, api: MessagesAPI) -> None:
    """What a tool is given is no part of the request's form."""
    chat = store.open("telegram:42", cache="auto", **SETTINGS)
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"cache_control": {"type": "ephemeral"}}}
    chat.append(
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]},
        {"role": "assistant", "content": "Rain."},
    )
    chat.send(
        'and "cache_control": {"type": "ephemeral"}?', tools=[{"name": "weather", "input_schema": {"type": "object"}}]
    )
    assert api.requests[-1].body["cache_control"] == AUTOMATIC


def test_a_retry_has_the_same_breakpoints(store: Store, api: MessagesAPI, client: Client) -> None:
    """What is tried again is the same body."""
    chat = store.open("telegram:42", cache="auto", **SETTINGS, tools=[SEARCH])
    api.answer(Answer(searches(0, 12)))
    chat.send("one")
    api.fail(Fault.status(529))
    with pytest.raises(OverloadedError):
        chat.send("two")
    chat.retry()
    assert api.requests[1].raw == api.requests[2].raw
    assert marked(api.requests[2].body) == [(0, 0)]


# --- laws --------------------------------------------------------------------------------------------------------

Step = tuple[str, Any]

STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(["one", "two", "\u00e9\U0001f41c", 'with "quotes"', "x" * 300])),
        st.tuples(st.just("many"), st.integers(1, 14)),
        st.tuples(st.just("tools"), st.integers(1, 25)),
        st.tuples(st.just("synthetic"), st.integers(1, 25)),
        st.tuples(st.just("resume"), st.none()),
    ),
    min_size=1,
    max_size=7,
)


def walk(store: Callable[[], Store], api: MessagesAPI, key: str, steps: Sequence[Step]) -> Conversation:
    """Hold a conversation by these steps; *resume* goes on with what another object would read."""
    chat = store().open(key, cache="auto", **SETTINGS, tools=[SEARCH, WEATHER])
    for n, (step, given_) in enumerate(steps):
        if step == "resume":
            chat = store().get(key)
        elif step == "many":
            api.answer(Answer(searches(n * 100, given_)))
            chat.send("search")
        elif step == "tools":
            calls = [
                {"type": "tool_use", "id": f"toolu_{n}_{m}", "name": "weather", "input": {"n": m}}
                for m in range(given_)
            ]
            api.answer(Answer([text("Let me see."), *calls], stop_reason="tool_use"))
            chat.send("ask")
            chat.run_tools({"weather": lambda n: f"{n} degrees"})
        elif step == "synthetic":
            chat.append(*({"role": ("user", "assistant")[m % 2], "content": f"turn {m}"} for m in range(given_ * 2)))
            chat.send("go on")
        else:
            chat.send(given_)
    return chat


@given(steps=STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_request_begins_with_the_one_before(steps: Sequence[Step], database_url: str) -> None:
    """
    The prompt of request n is the beginning of that of request n + 1, however the conversation was held.

    Byte for byte up to the first message with a breakpoint, and to its end as the cache sees it; never more than
    four, and everything the one before wrote is read.
    """
    with (
        MessagesAPI() as api,
        Client(api.key, base_url=api.url, timeout=20, max_attempts=1) as client,
        Store(database_url, client=client) as store,
        Store(database_url, client=client) as another,
    ):
        stores = iter([store, another] * len(steps) + [store])
        key = f"chat {hash(str(steps))} {len(store.list())}"
        chat = walk(lambda: next(stores), api, key, steps)
        sent = [each.body for each in api.requests]
        raw = [each.raw for each in api.requests]
        exchanges = [each for each in chat.exchanges if each.state == "answered"]
        assert len(sent) == len(exchanges)
        for n, (before, after) in enumerate(pairwise(sent)):
            length = len(before["messages"])
            assert [plain(each) for each in after["messages"][:length]] == [plain(each) for each in before["messages"]]
            assert len([*lifetimes({**after, "input": None})]) <= MOST
            first = min((place for place, _ in marked(before) + marked(after)), default=length)
            start = json.dumps({"messages": before["messages"][:first]}, ensure_ascii=False, separators=(",", ":"))
            assert raw[n].startswith(start.encode()[:-2])
            assert raw[n + 1].startswith(start.encode()[:-2])
            usage, earlier = exchanges[n + 1].usage, exchanges[n].usage
            assert usage.cache_read_input_tokens == (
                earlier.cache_read_input_tokens + earlier.cache_creation_input_tokens
            ), (n, steps)
        for exchange, body in zip(exchanges, raw, strict=True):
            assert chat.replay(exchange) == body
        assert chat.verify() == []


def test_the_look_back_is_that_of_the_documentation() -> None:
    """The numbers that all this rests on."""
    assert (LOOK_BACK, MOST) == (20, 4)
