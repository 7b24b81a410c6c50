"""Cache breakpoints: where they are set, that prefixes never change, and that the API then reads what it wrote."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversation_store import Client, Conversation, Image, Store
from conversation_store.api.caching import LOOK_BACK, MOST, lifetimes
from conversation_store.api.retry import Clock
from conversation_store.errors import BadRequestError, ContentError, NotFoundError, OverloadedError
from conversation_store.storage import identity
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests import pictures

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


# --- why a request missed ----------------------------------------------------------------------------------------


def test_a_prefill_that_is_all_there_is_has_nothing_before_it(store: Store, api: MessagesAPI) -> None:
    """Where everything was erased, a retry's prefill stands alone, and the API says what it thinks of that."""
    chat = store.open("k", **{**SETTINGS, "model": "claude-haiku-4-5"}, cache="auto")
    api.fail(Fault.status(529))
    with pytest.raises(OverloadedError):
        chat.send("Hello", prefill="So")
    chat.erase(0, reason="asked to", by="test")
    with pytest.raises(BadRequestError):
        chat.retry()
    assert [each["role"] for each in json.loads(api.requests[-1].raw)["messages"]] == ["assistant"]
    assert store.verify() == []


def test_what_was_read_is_said(store: Store, api: MessagesAPI) -> None:
    """A first request, and one that reads all."""
    chat = store.open("telegram:42", cache="auto", **SETTINGS)
    chat.send("one")
    first = chat.explain_cache()
    assert (first.verdict, first.before, first.missed, first.cost) == ("first", None, 0, Decimal(0))
    chat.send("two")
    second = chat.explain_cache()
    assert (second.verdict, second.difference, second.missed) == ("read", None, 0)
    assert second.before == (chat.id, first.exchange)
    assert (second.minimum, second.minimum_met) == (512, True)
    assert second.read == second.expected == first.written
    assert chat.explain_cache(chat.exchanges[0]) == chat.explain_cache(first.exchange) == first


CHANGES: Final[Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]] = [
    ("system", {}, {"system": LONG + "Be brief."}),
    ("tools", {}, {"tools": [WEATHER]}),
    ("tools", {"tools": [WEATHER, SEARCH]}, {"tools": [SEARCH, WEATHER]}),
    ("model", {}, {"model": "claude-opus-5-5"}),
    ("output_config.effort", {}, {"output_config": {"effort": "low"}}),
    ("thinking", {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "between_tools"}}),
]


@pytest.mark.parametrize(("path", "before", "after"), CHANGES, ids=[f"{n} {each[0]}" for n, each in enumerate(CHANGES)])
def test_the_setting_that_changed_is_named(
    store: Store, api: MessagesAPI, path: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """What is not what it was, the first byte of the body that shows it, and what reading again would have cost."""
    chat = store.open("telegram:42", cache="auto", **{**SETTINGS, **before})
    first = chat.send("one")
    chat.send("two", **after)
    report = chat.explain_cache()
    assert report.difference is not None
    assert (report.verdict, report.difference.path, report.difference.turn) == ("changed", path, None)
    assert 0 < report.missed <= first.usage.cache_creation_input_tokens
    assert report.cost is not None
    assert report.cost > 0
    assert path in report.message
    assert "which cost $" in report.message
    body = chat.replay(report.exchange)
    assert report.difference.offset is not None
    name = f'"{path.partition(".")[0]}":'.encode()
    assert body.rindex(name) < report.difference.offset < len(body)
    if path == "system":
        assert body[report.difference.offset :].startswith(b'Be brief."')


def test_the_cost_of_a_miss_is_the_difference_of_two_prices(store: Store, api: MessagesAPI) -> None:
    """By hand: so many tokens were written again, at 2.50 dollars a million, that could have been read at 0.10."""
    chat = store.open("telegram:42", cache="auto", **SETTINGS)
    chat.send("one")
    chat.send("two", system=LONG + "Be brief.")
    report = chat.explain_cache()
    assert report.missed <= report.written
    assert report.cost == (Decimal("2.50") - Decimal("0.10")) * report.missed / 1_000_000


def test_a_shorter_prompt_costs_no_less_than_nothing(store: Store, api: MessagesAPI) -> None:
    """What was cached and is not part of the prompt any more was not missed."""
    chat = store.open("telegram:42", cache="auto", **{**SETTINGS, "system": LONG * 20})
    chat.send("one")
    chat.send("two", system="Be brief.")
    report = chat.explain_cache()
    assert report.verdict == "changed"
    assert 0 < report.missed < 200
    assert report.cost is not None
    assert report.cost > 0


@pytest.mark.parametrize(
    ("same", "before", "after"),
    [
        ("a string is a block", {"system": LONG}, {"system": [text(LONG)]}),
        ("the usual effort", {}, {"output_config": {"effort": "high"}}),
        ("a breakpoint", {"system": [text(LONG)]}, {"system": [text(LONG, cache_control=AUTOMATIC)]}),
    ],
)
def test_what_changes_nothing_is_not_named(
    store: Store, api: MessagesAPI, same: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Two spellings of the same prompt are the same prompt."""
    chat = store.open("telegram:42", cache="auto", **{**SETTINGS, **before})
    chat.send("one")
    chat.send("two", **after)
    assert chat.explain_cache().difference is None, same


def test_the_turn_that_changed_is_named(store: Store, api: MessagesAPI) -> None:
    """A prefill with the automatic breakpoint on it: the next request has the whole turn in its place."""
    settings_ = {**SETTINGS, "model": "claude-haiku-4-5", "system": LONG * 7, "cache_control": AUTOMATIC}
    chat = store.open("telegram:42", **settings_)
    chat.send("éone", prefill="It")
    chat.send("two")
    report = chat.explain_cache()
    assert report.difference is not None
    assert (report.verdict, report.difference.path) == ("changed", "messages.1")
    turn = chat.turns[1]
    assert report.difference.turn == (turn.conversation, turn.position)
    body = chat.replay(report.exchange)
    messages = json.loads(body)["messages"]
    start = body.index(b',{"role":"assistant"') + 1
    assert start < (report.difference.offset or 0) < start + len(json.dumps(messages[1]))


def test_the_byte_is_told_in_the_body_as_it_was_sent(store: Store, api: MessagesAPI) -> None:
    """Pictures that are kept elsewhere and breakpoints of ours are bytes of the body too."""
    ants, bees = ("You know ants. " * 300, "You know bees. " * 300)
    chat = store.open("telegram:42", **{**SETTINGS, "cache": "auto", "system": ants})
    chat.send(Image.from_bytes(pictures.png(padding=3000)), "What is it?")
    chat.send(*(f"part {n}" for n in range(30)), system=bees)
    chat.send("And?")
    for exchange, words in zip(chat.exchanges[1:], ("bees. You", "ants. You"), strict=True):
        body = chat.replay(exchange)
        difference = chat.explain_cache(exchange).difference
        assert difference is not None
        assert difference.path == "system"
        assert body[difference.offset :].startswith(words.encode())
        assert difference.offset == body.index(words.encode())


def test_of_pictures_the_byte_is_told_too(store: Store, api: MessagesAPI) -> None:
    """Where one picture stands in the place of another, nothing but the picture differs."""
    first, second = (Image.from_bytes(pictures.png(padding=3000, colour=(n, 0, 0))) for n in (1, 2))
    chat = store.open("telegram:42", **{**SETTINGS, "cache": "auto", "system": LONG * 7})
    chat.user(first)
    chat.send(second)
    chat.set_aside(0)
    chat.send("And?")
    difference = chat.explain_cache().difference
    before, after = (chat.replay(exchange) for exchange in chat.exchanges)
    assert difference is not None
    assert difference.path == "messages.0"
    assert difference.offset == next(
        n for n, (one, other) in enumerate(zip(before, after, strict=False)) if one != other
    )


def test_why_nothing_was_read(store: Store, api: MessagesAPI) -> None:
    """No breakpoint was set; or the prompt is shorter than what is cached."""
    chat = store.open("telegram:42", **SETTINGS)
    chat.send("one")
    chat.send("two")
    assert chat.explain_cache().verdict == "not asked"
    short = store.open("short", cache="auto", **{**SETTINGS, "system": "Be brief."})
    short.send("one")
    short.send("two")
    report = short.explain_cache()
    assert (report.verdict, report.minimum, report.minimum_met) == ("too short", 512, False)
    assert "512" in report.message
    unlisted = store.open("unlisted", cache="auto", **{**SETTINGS, "model": "claude-of-tomorrow"})
    with pytest.raises(NotFoundError):
        unlisted.explain_cache()
    with pytest.raises(NotFoundError):
        chat.explain_cache(10_000)


def test_an_entry_whose_time_was_over(database_url: str, monkeypatch: pytest.MonkeyPatch, api: MessagesAPI) -> None:
    """Six minutes later nothing is left of five."""
    later = [0.0]
    with (
        MessagesAPI(clock=lambda: 1_000_000 + later[0]) as slow,
        Client(slow.key, base_url=slow.url, timeout=20, max_attempts=1) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("telegram:42", cache="auto", **SETTINGS)
        chat.send("one")
        later[0] = 360.0
        now = identity.now
        monkeypatch.setattr(identity, "now", lambda: now() + 360_000_000)
        chat.send("two")
        report = chat.explain_cache()
        assert (report.verdict, report.difference) == ("expired", None)
        assert report.missed > 0


def test_too_far_back(store: Store, api: MessagesAPI) -> None:
    """The caller's own automatic breakpoint, and a turn of more blocks than it looks back over."""
    chat = store.open("telegram:42", cache_control=AUTOMATIC, tools=[SEARCH], **SETTINGS)
    api.answer(Answer(searches(0, 12)))
    chat.send("one")
    chat.send("two")
    report = chat.explain_cache()
    assert (report.verdict, report.difference) == ("too far", None)
    assert 'cache="auto"' in report.message


def test_one_that_was_not_answered(store: Store, api: MessagesAPI) -> None:
    """Without an answer nothing tells what was read."""
    chat = store.open("telegram:42", cache="auto", **SETTINGS)
    chat.send("one")
    api.fail(Fault.status(529))
    with pytest.raises(OverloadedError):
        chat.send("two")
    report = chat.explain_cache()
    assert (report.verdict, report.missed, report.cost) == ("not answered", 0, Decimal(0))


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


RESUMED: Final = """
import hashlib, sys
from conversation_store import Store
url, key = sys.argv[1:]
with Store(url) as store:
    chat = store.get(key)
    print(hashlib.sha256(chat.request(check=False).body).hexdigest())
    print(hashlib.sha256(chat.request(check=False, prefill="It").body).hexdigest())
"""


def test_another_process_sets_the_same_breakpoints(database_url: str, store: Store, api: MessagesAPI) -> None:
    """The next body of an open conversation is, byte for byte, that of a process that has just begun."""
    chat = store.open("telegram:42", cache="auto", **{**SETTINGS, "model": "claude-haiku-4-5"}, tools=[SEARCH, WEATHER])
    for n in range(4):
        api.answer(Answer(searches(n * 100, 3 + 4 * n)))
        chat.send("one")
        chat.user("two")
        done = subprocess.run(
            [sys.executable, "-c", RESUMED, database_url, "telegram:42"], capture_output=True, text=True, check=True
        )
        bodies = [chat.request(check=False).body, chat.request(check=False, prefill="It").body]
        assert done.stdout.split() == [hashlib.sha256(body).hexdigest() for body in bodies]
        assert bool(marked(json.loads(bodies[0]))) == (3 + 4 * n >= 10)
