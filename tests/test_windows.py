"""Windows: what leaves is whole, what is sent is what the request names, and it moves in steps."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversation_store import Client, Conversation, Exchange, Image, Store, Window
from conversation_store.api.retry import Clock
from conversation_store.errors import (
    BadRequestError,
    BusyError,
    ConflictError,
    ContentError,
    RuleViolationError,
    StatusError,
)
from conversation_store.record import canonical
from conversation_store.record.turns import fields_of
from conversation_store.record.window import Outlined, exchanges, leaving
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests import pictures

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64, "system": "Be brief."}
TOOLS: Final = [{"name": "look", "input_schema": {"type": "object"}}]
WORDS: Final = "several words that were said about one ant and another " * 8


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


def prompt(exchange: Exchange) -> int:
    """Read what the API counted for the prompt of an exchange."""
    usage = exchange.usage
    return usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens


def sound(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """The record verifies, and every body that was sent for this conversation is replayed."""
    assert store.verify() == []
    sent = {each.raw for each in api.requests}
    assert all(chat.replay(each) in sent for each in chat.exchanges)


def header(chat: Conversation, exchange: Exchange) -> Mapping[str, Any]:
    """Read the header of a request."""
    return fields_of(chat._history.entry(exchange.position).header)


# --- which turns leave -------------------------------------------------------------------------------------------


def test_exchanges_begin_with_the_users_words() -> None:
    """Results, and words said while a call waits for its result, are part of the exchange before them."""
    turns = [
        Outlined("assistant"),
        Outlined("user"),
        Outlined("assistant", calls={"a"}),
        Outlined("user"),  # said while a waits
        Outlined("user", answers={"a"}),
        Outlined("assistant"),
        Outlined("user"),
        Outlined("system"),
        Outlined("assistant", calls={"b"}),
        Outlined("user", answers={"b"}),
        Outlined("user"),  # after the result
    ]
    assert exchanges(turns) == [range(1), range(1, 6), range(6, 10), range(10, 11)]
    assert exchanges([]) == []
    assert exchanges([Outlined("user", answers={"x"})]) == [range(1)]


def test_a_window_says_what_it_cannot_be() -> None:
    """Each field is named."""
    for given_, name in (
        ({"max_tokens": 0}, "window.max_tokens"),
        ({"max_tokens": "9"}, "window.max_tokens"),
        ({"max_tokens": True}, "window.max_tokens"),
        ({"max_tokens": 9, "keep_first": -1}, "window.keep_first"),
        ({"max_tokens": 9, "keep_last": 1.5}, "window.keep_last"),
        ({"max_tokens": 9, "target": 10}, "window.target"),
        ({"max_tokens": 9, "target": 0}, "window.target"),
        ({"most": 9}, "window"),
        ({"max_tokens": 9, "more": 1}, "window"),
        ("9", "window"),
    ):
        with pytest.raises(ContentError) as caught:
            Window.read(given_)
        assert caught.value.path == name
    assert Window.read({"max_tokens": 9}).aim == 4
    assert Window.read(Window(max_tokens=9, keep_first=1, target=3).fields()) == Window(
        max_tokens=9, keep_first=1, target=3
    )


@st.composite
def transcripts(draw: st.DrawFn) -> list[Outlined]:
    """Write views of every sort: calls answered at once, later, never, twice; summaries; any role first."""
    turns: list[Outlined] = []
    for _ in range(draw(st.integers(0, 20))):
        role = draw(st.sampled_from(["user", "assistant", "system"]))
        ids = st.sets(st.integers(0, 4).map(str), max_size=2)
        calls = draw(ids) if role == "assistant" else set()
        answers = draw(ids) if role == "user" else set()
        turns.append(Outlined(role, calls, answers, stands_for=draw(st.integers(0, 9)) == 0))
    return turns


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Give small windows."""
    numbers = st.integers(0, 3)
    return Window(max_tokens=draw(st.integers(1, 60)), keep_first=draw(numbers), keep_last=draw(numbers))


@given(turns=transcripts(), window=windows(), data=st.data())
def test_what_leaves_is_whole(turns: list[Outlined], window: Window, data: st.DataObject) -> None:
    """No call leaves without its result nor a result without its call, no summary leaves, and no more than must."""
    tokens = data.draw(st.lists(st.integers(1, 9), min_size=len(turns), max_size=len(turns)))
    total = sum(tokens) + data.draw(st.integers(0, 20))
    told = exchanges(turns)
    assert [n for each in told for n in each] == list(range(len(turns)))
    going = leaving(window, turns, tokens, total)
    if going is None:
        return
    assert going.start in {each.start for each in told}
    assert going.stop in {each.stop for each in told}
    asked: dict[str, int] = {}
    for n, turn in enumerate(turns):
        for call in turn.answers:
            if call in asked:
                assert (asked[call] in going) == (n in going)
        asked |= dict.fromkeys(turn.calls, n)
    assert not any(turns[n].stands_for for n in going)
    if going.stop < len(turns):
        assert turns[going.stop].role == "user"
        assert not turns[going.stop].answers
    before = [each for each in told if each.stop <= going.start]
    after = [each for each in told if each.start >= going.stop]
    assert len(before) >= window.keep_first
    assert len(after) >= min(window.keep_last, len(told) - len(before))
    last = next(each for each in told if each.stop == going.stop)
    assert total - sum(tokens[n] for n in going) + sum(tokens[n] for n in last) > window.aim  # none too many


# --- on a conversation -------------------------------------------------------------------------------------------


def test_a_window_moves_in_steps(store: Store, api: MessagesAPI) -> None:
    """No prompt is longer than allowed; between two moves each body begins with the one before."""
    window = Window(max_tokens=1_500, keep_first=1, keep_last=1)
    chat = store.open("telegram:42", **SETTINGS, window=window)
    for n in range(40):
        chat.send(f"{n}: {WORDS}")
    bodies = [each.raw for each in api.requests]
    assert max(prompt(each) for each in chat.exchanges) <= window.max_tokens
    assert max(prompt(each) for each in chat.exchanges) > window.max_tokens * 0.75
    ends = [body.rindex(b'],"model"') for body in bodies]
    grown = [later.startswith(body[:end]) for body, end, later in zip(bodies, ends, bodies[1:], strict=False)]
    moves = grown.count(False)
    assert 2 <= moves <= 8
    views = [header(chat, each)["view"] for each in chat.exchanges]
    assert [a == b for a, b in pairwise(views)] == grown
    assert all(header(chat, each)["window"] == window.fields() for each in chat.exchanges)
    assert chat.turns[0].text == f"0: {WORDS}"
    assert chat.turns[-2].text == f"39: {WORDS}"
    first = chat.as_seen_by(chat.exchanges[0])
    assert [turn.text for turn in first] == [f"0: {WORDS}"]
    assert len(store.search("several words", role="user", limit=100)) == 40
    sound(store, chat, api)


def test_another_process_goes_on_in_the_same_window(database_url: str, store: Store, api: MessagesAPI) -> None:
    """The window is a setting and its place a view: both are in the record."""
    chat = store.open("telegram:42", **SETTINGS, window=Window(max_tokens=900))
    for n in range(12):
        chat.send(f"{n}: {WORDS}")
    with Store(database_url) as later:
        again = later.get("telegram:42")
        assert again.settings["window"] == {"max_tokens": 900, "keep_first": 0, "keep_last": 1}
        assert again.request().body == chat.request().body
        assert len(again.turns) == len(chat.turns) < 12
        again.update(window=None)
        assert "window" not in again.settings
    chat.refresh()
    chat.send("and one more")
    assert header(chat, chat.exchanges[-1]).get("window") is None
    sound(store, chat, api)


def test_a_window_for_one_request(store: Store, api: MessagesAPI) -> None:
    """The request shows less; the conversation's own view stays, and what was answered is part of it."""
    chat = store.open("telegram:42", **SETTINGS)
    for n in range(8):
        chat.send(f"{n}: {WORDS}")
    before = chat.request().body
    reply = chat.send("What did I say?", window=Window(max_tokens=500, keep_last=0))
    sent = canonical.loads(api.requests[-1].raw)
    assert isinstance(sent, dict)
    assert len(sent["messages"]) < 6
    assert "window" not in sent
    assert [turn.text for turn in chat.as_seen_by(reply.exchange)][-1] == "What did I say?"
    assert len(chat.turns) == 18
    assert chat.request().body.startswith(before[: before.rindex(b'],"model"')])
    chat.send("And now?")
    assert len(canonical.object_of(api.requests[-1].raw)["messages"]) == 19
    sound(store, chat, api)


def test_asking_shows_what_would_be_sent_and_writes_nothing(store: Store, api: MessagesAPI) -> None:
    """request(), check() and count_tokens() see the window as send does."""
    chat = store.open("telegram:42", **SETTINGS)
    for n in range(6):
        chat.send(f"{n}: {WORDS}")
    version = chat.version
    window = Window(max_tokens=600)
    chat.user("and?")
    shown = chat.request(window=window)
    assert len(shown.params["messages"]) < 7
    assert chat.count_tokens(window=window) < chat.count_tokens()
    assert chat.check(window=window) == []
    assert chat.version == version + 1
    assert chat.send(window=window).turn is not None
    assert api.requests[-1].raw == shown.body
    sound(store, chat, api)


def test_nothing_is_written_where_a_rule_refuses(store: Store, api: MessagesAPI) -> None:
    """A window that would move does not move for a request that is never sent."""
    chat = store.open("telegram:42", **SETTINGS)
    for n in range(6):
        chat.send(f"{n}: {WORDS}")
    chat.update(window=Window(max_tokens=600))
    version, asked = chat.version, len(api.requests)
    with pytest.raises(RuleViolationError):
        chat.send("and?", temperature=9)
    assert (chat.version, len(api.requests), len(chat.turns)) == (version, asked, 12)
    chat.send("and?")
    assert len(chat.turns) < 12
    sound(store, chat, api)


def test_calls_and_their_results_stay_together(store: Store, api: MessagesAPI) -> None:
    """Within a loop of tools nothing that is being said leaves; between loops they leave whole."""
    chat = store.open("telegram:42", **SETTINGS, tools=TOOLS, window=Window(max_tokens=1_200))
    for n in range(10):
        calls = [{"type": "tool_use", "id": f"toolu_{n}_{k}", "name": "look", "input": {}} for k in range(2)]
        api.answer(Answer(calls), "I have looked.")
        chat.send(f"{n}: {WORDS}")
        chat.run_tools({"look": lambda: WORDS})
    for each in chat.exchanges:
        seen = chat.as_seen_by(each)
        made = [block["id"] for turn in seen for block in blocks(turn.wire) if block.get("type") == "tool_use"]
        answered = [block["tool_use_id"] for turn in seen for block in blocks(turn.wire) if "tool_use_id" in block]
        assert sorted(made) == sorted(answered)
        assert (seen[0].role, b"tool_result" in seen[0].wire) == ("user", False)
    assert len(chat.turns) < 40
    sound(store, chat, api)


def blocks(wire: bytes) -> Sequence[Mapping[str, Any]]:
    """Read the blocks of a message."""
    content = canonical.object_of(wire)["content"]
    return content if isinstance(content, list) else []


def test_thinking_that_is_bound_to_what_left_goes_with_it(store: Store, api: MessagesAPI) -> None:
    """The API of loopback refuses thinking whose beginning has changed; what is said after the move keeps its own."""
    thinking = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}}
    betas = ["thinking-binding-controls-2026-08-01"]
    chat = store.open("telegram:42", **SETTINGS, thinking=thinking, betas=betas, window=Window(max_tokens=1_200))
    moves, kept = 0, 0
    for n in range(24):
        before = chat._history.head.view_position
        chat.send(f"{n}: {WORDS}")
        moves += chat._history.head.view_position != before
        kept += b'"thinking"' in api.requests[-1].raw.partition(b'],"model"')[0]
        assert [each for each in chat.check() if each.rule == "thinking_bound"] == []
    assert moves >= 2
    assert kept >= 12
    sound(store, chat, api)


def test_a_loop_whose_thinking_waits_is_left_as_it_is(store: Store, api: MessagesAPI) -> None:
    """Its thinking must be there when the results come; the window moves with the user's next words."""
    chat = store.open(
        "telegram:42", **SETTINGS, tools=TOOLS, thinking={"type": "adaptive"}, window=Window(max_tokens=700)
    )
    for n in range(3):
        chat.send(f"{n}: {WORDS}")
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    api.answer(Answer([{"type": "thinking", "thinking": "hm"}, call]), "I have looked.")
    chat.send("look")
    view = chat._history.head.view_position
    chat.tool_result("toolu_1", WORDS * 8)
    chat.send()
    assert chat._history.head.view_position == view
    assert prompt(chat.exchanges[-1]) > 700
    chat.send("thank you")
    assert chat._history.head.view_position != view
    sound(store, chat, api)


def test_pictures_count(store: Store, api: MessagesAPI) -> None:
    """What a picture comes to is estimated from its size; a window moves because of one."""
    chat = store.open("telegram:42", **SETTINGS, window=Window(max_tokens=2_500))
    for n in range(4):
        chat.send(f"{n}: {WORDS}")
    view = chat._history.head.view_position
    chat.send("see", Image.from_bytes(pictures.png(1_400, 1_400)))
    assert chat._history.head.view_position != view
    sound(store, chat, api)


def test_what_left_can_be_brought_back(store: Store, api: MessagesAPI) -> None:
    """It stays in the record, and stands where it stood."""
    chat = store.open("telegram:42", **SETTINGS)
    for n in range(6):
        chat.send(f"{n}: {WORDS}")
    turns = chat.turns
    chat.send("and?", window=None)
    chat.update(window=Window(max_tokens=600))
    chat.send("and now?")
    assert turns[0] not in chat.turns
    chat.update(window=None)
    for turn in turns:
        if turn.place not in {each.place for each in chat.turns}:
            chat.bring_back(turn)
    assert [turn.place for turn in chat.turns[: len(turns)]] == [turn.place for turn in turns]
    sound(store, chat, api)


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("fault", [400, 529])
def test_a_request_that_failed_is_tried_again_in_its_window(
    store: Store, api: MessagesAPI, fault: int, once: bool
) -> None:
    """The same turns are shown the second time, and the view afterwards is what it would have been."""
    chat = store.open("telegram:42", **SETTINGS)
    for n in range(6):
        chat.send(f"{n}: {WORDS}")
    window = Window(max_tokens=600)
    if not once:
        chat.update(window=window)
    api.fail(Fault.status(fault))
    api.answer("Yes.")
    with pytest.raises(StatusError) as caught:
        chat.send("and?", window=window if once else None)
    assert isinstance(caught.value, BadRequestError) == (fault == 400)
    first = api.requests[-1].raw
    assert chat.retry().text == "Yes."
    assert api.requests[-1].raw == first
    assert (len(chat.turns) == 14) == once
    assert [turn.text for turn in chat.turns[-2:]] == ["and?", "Yes."]
    sound(store, chat, api)


def test_a_worker_that_lost_forgets_the_move(database_url: str, store: Store, client: Client) -> None:
    """Of two that would move the window at once, one writes; the other reads what the first wrote."""
    chat = store.open("telegram:42", **SETTINGS)
    for n in range(6):
        chat.send(f"{n}: {WORDS}")
    chat.update(window=Window(max_tokens=600))
    with Store(database_url, client=client) as elsewhere:
        other = elsewhere.get("telegram:42")
        other.turns  # noqa: B018 - it knows the view of before
        chat.send("first")
        with pytest.raises(ConflictError):
            other.send("second")
        other.refresh()
        assert other.request().body == chat.request().body
        other.send("second")
        assert [turn.text for turn in other.turns][-2] == "second"
    assert store.verify() == []


# --- any conversation --------------------------------------------------------------------------------------------


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9))
def test_every_body_is_within_its_window_and_replays(store: Store, api: MessagesAPI, seed: int) -> None:
    """Long talks with tools, pictures of words, forks, rewinds and windows that come and go."""
    rng = random.Random(seed)
    chat = store.open(None, **SETTINGS, tools=TOOLS)
    for n in range(rng.randrange(4, 16)):
        match rng.randrange(7):
            case 0:
                chat.update(window=Window(max_tokens=rng.randrange(200, 2_000), keep_first=rng.randrange(2)))
            case 1 if len(chat.turns) > 3:
                places = [m for m in range(len(chat.turns)) if chat.turns[m].role == "assistant"]
                chat.rewind(rng.choice([m for m in places if not chat.turns[m].wire.count(b"tool_use")] or [-1]))
            case 2:
                chat = chat.fork()
            case 3:
                calls = [{"type": "tool_use", "id": f"toolu_{n}", "name": "look", "input": {}}]
                api.answer(Answer(calls), "I have looked.")
                chat.send(f"{n} {WORDS * rng.randrange(3)}")
                chat.run_tools({"look": lambda: WORDS * rng.randrange(4)})
            case 4:
                chat.send(f"{n} {WORDS}", window=Window(max_tokens=rng.randrange(200, 2_000), keep_last=0))
            case _:
                chat.send(f"{n} {WORDS * rng.randrange(3)}")
        assert chat.check() == [] or not chat.turns
    sound(store, chat, api)
    again = store.get(chat.id)
    assert again.request(check=False).body == chat.request(check=False).body


# --- what is gone on with stays ----------------------------------------------------------------------------------

TINY: Final = Window(max_tokens=10, keep_last=0)


@pytest.fixture
def talk(store: Store) -> Conversation:
    """Give a conversation of four exchanges."""
    made = store.open(None, **SETTINGS)
    for words in ("one", "two", "three", "four"):
        made.send(words)
    return made


def contents(api: MessagesAPI) -> list[Any]:
    """Read what the messages of the newest request say."""
    return [each["content"] for each in canonical.object_of(api.requests[-1].raw)["messages"]]


def test_a_paused_answer_stays(store: Store, talk: Conversation, api: MessagesAPI) -> None:
    """It is gone on with though nothing is kept: what it answers and what there is of it are sent."""
    talk.update(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "ants"}}
    api.answer(Answer([search], stop_reason="pause_turn"))
    assert len(talk.send("five", window=TINY).before) == 1
    assert [each if isinstance(each, str) else each[0]["type"] for each in contents(api)] == ["five", "server_tool_use"]
    sound(store, talk, api)


def test_what_is_not_answered_stays(store: Store, talk: Conversation, api: MessagesAPI) -> None:
    """A system message after the user's words does not make them answered."""
    talk.update(model="claude-opus-4-8")
    talk.user("five")
    talk.system("Be kind.")
    talk.send(window=TINY)
    assert contents(api) == ["five", "Be kind."]
    sound(store, talk, api)


def test_a_call_stays_whose_result_is_said(store: Store, talk: Conversation, api: MessagesAPI) -> None:
    """A result that comes with the request belongs to the exchange of its call."""
    talk.update(tools=TOOLS)
    api.answer(Answer([{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]))
    talk.send("look")
    talk.send({"type": "tool_result", "tool_use_id": "toolu_1", "content": "an ant"}, window=TINY)
    assert [each if isinstance(each, str) else each[0]["type"] for each in contents(api)] == [
        "look",
        "tool_use",
        "tool_result",
    ]
    sound(store, talk, api)


# --- trying again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [400, 529])
@pytest.mark.parametrize("lasting", [False, True])
def test_what_was_too_long_is_tried_again_through_a_window(
    store: Store, talk: Conversation, api: MessagesAPI, fault: int, lasting: bool
) -> None:
    """A window given since, for this request or from now on, decides what it shows; the request names it."""
    api.fail(Fault.status(fault))
    with pytest.raises(StatusError):
        talk.send("five")
    if lasting:
        talk.update(window=TINY)
        talk.retry()
    else:
        talk.retry(window=TINY)
    assert contents(api) == ["five"]
    assert header(talk, talk.exchanges[-1])["window"] == TINY.fields()
    assert [turn.text for turn in talk.turns][::2] == (["five"] if lasting else ["one", "two", "three", "four", "five"])
    sound(store, talk, api)
    assert store.get(talk.id).request(check=False).body == talk.request(check=False).body


def test_a_window_for_one_request_is_named_by_its_retry(store: Store, talk: Conversation, api: MessagesAPI) -> None:
    """The same turns are shown, through the same window."""
    api.fail(Fault.status(529))
    with pytest.raises(StatusError):
        talk.send("five", window=TINY)
    first = api.requests[-1].raw
    talk.retry()
    assert api.requests[-1].raw == first
    assert [header(talk, each).get("window") for each in talk.exchanges[-2:]] == [TINY.fields()] * 2


def test_what_was_edited_since_is_what_is_tried_again(store: Store, talk: Conversation, api: MessagesAPI) -> None:
    """A window for one request shows what is in the view now, and not what left it since."""
    api.fail(Fault.status(529))
    with pytest.raises(StatusError):
        talk.send("five", window=TINY)
    talk.edit(-1, "six")
    talk.retry()
    assert contents(api) == ["six"]
    sound(store, talk, api)


def test_breakpoints_of_a_retry_are_on_what_it_shows(store: Store, api: MessagesAPI) -> None:
    """The block that was marked may be gone by then."""
    chat = store.open(None, **{**SETTINGS, "model": "claude-haiku-4-5"}, cache="auto")
    words = [{"type": "text", "text": each} for each in ("one", "two")]
    api.fail(Fault.status(529))
    with pytest.raises(StatusError):
        chat.send(*words, prefill="Well")
    assert header(chat, chat.exchanges[-1])["markers"] == [[0, 1, "5m"]]
    chat.edit(-1, words[0])
    chat.retry()
    assert header(chat, chat.exchanges[-1])["markers"] == [[0, 0, "5m"]]
    assert [block["text"] for block in contents(api)[0]] == ["one"]
    sound(store, chat, api)


# --- two workers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [False, True])
def test_a_window_takes_nothing_over(store: Store, talk: Conversation, api: MessagesAPI, over: bool) -> None:
    """What another worker began since is found out by the append, though a window looks at the newest exchange."""
    talk.update(window=Window(max_tokens=1_000))
    other = store.get(talk.id)
    begun = other.begin("from elsewhere")
    if over:
        begun.fail(RuntimeError("no luck"))
    asked = len(api.requests)
    with pytest.raises(ConflictError if over else BusyError):
        talk.send("five")
    assert len(api.requests) == asked
    if not over:
        begun.fail(RuntimeError("no luck"))
    talk.refresh()
    assert [turn.text for turn in talk.turns][::2] == ["one", "two", "three", "four", "from elsewhere"]
    talk.send()
    assert contents(api)[-1] == "from elsewhere"
    assert store.verify() == []
