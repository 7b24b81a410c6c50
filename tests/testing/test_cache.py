"""The prompt cache of the loopback API: what is written, what is read, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from conversation_store.testing import Answer, Fault, MessagesAPI
from tests.testing.asking import HI, NEW, OLD, PNG, TOOL, ask, call, image, question, result, spoken, text

LONG = "An ant is a small thing. " * 100  # about 625 tokens
FIVE = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
COUNT = "/v1/messages/count_tokens"


class Clock:
    """A clock that stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def timed(clock: Clock) -> Iterator[MessagesAPI]:
    """Give an API that lives by that clock."""
    with MessagesAPI(clock=clock) as running:
        yield running


def paid(api: MessagesAPI, body: Any) -> tuple[int, int, int]:
    """Ask, and return the tokens read from the cache, written to it, and the rest."""
    reply = ask(api, body)
    assert reply.status == 200, reply.error
    usage = reply.json["usage"]
    written = usage["cache_creation_input_tokens"]
    assert written == sum(usage["cache_creation"].values())
    read, rest = usage["cache_read_input_tokens"], usage["input_tokens"]
    counted = ask(api, {key: value for key, value in body.items() if key != "max_tokens"}, path=COUNT)
    assert counted.json["input_tokens"] == read + written + rest
    return read, written, rest


def marked(*messages: Any, **parameters: Any) -> dict[str, Any]:
    """Return a body with a long system prompt that is marked."""
    return question(*messages, **({"system": [text(LONG, cache_control=FIVE)]} | parameters))


def test_what_was_written_is_read(timed: MessagesAPI) -> None:
    """The first request writes the marked prefix, the next reads it; what follows is paid for anew."""
    read, written, rest = paid(timed, marked())
    assert (read, written > 600, rest < 30) == (0, True, True)
    assert paid(timed, marked("Something else")) == (written, 0, rest)
    assert paid(timed, question(system=LONG))[:2] == (0, 0)


@pytest.mark.parametrize(("marker", "seconds"), [(FIVE, 300), (HOUR, 3600)])
def test_entries_live_from_their_last_use(timed: MessagesAPI, clock: Clock, marker: Any, seconds: float) -> None:
    """Each read renews an entry; unread for its lifetime it is gone."""
    body = marked(system=[text(LONG, cache_control=marker)])
    written = paid(timed, body)[1]
    for _ in range(3):
        clock.now += seconds - 1
        assert paid(timed, body)[:2] == (written, 0)
    clock.now += seconds
    assert paid(timed, body)[:2] == (0, written)


def test_lifetimes_are_counted_apart(timed: MessagesAPI) -> None:
    """Up to an hour's marker it is the hour's tokens, from there those of five minutes."""
    body = question([text(LONG, cache_control=HOUR), text(LONG, cache_control=FIVE), text("And?")])
    creation = ask(timed, body).json["usage"]["cache_creation"]
    assert abs(creation["ephemeral_1h_input_tokens"] - creation["ephemeral_5m_input_tokens"]) <= 1
    assert creation["ephemeral_1h_input_tokens"] > 600


@pytest.mark.parametrize(
    ("model", "repeated", "cached"),
    [(NEW, 1, True), (OLD, 1, False), (OLD, 2, True), ("claude-haiku-4-5", 6, False), ("claude-haiku-4-5", 7, True)],
)
def test_a_short_prefix_is_not_cached(timed: MessagesAPI, model: str, repeated: int, *, cached: bool) -> None:
    """Below the model's minimum a marker does nothing, without a word."""
    assert bool(paid(timed, marked(system=[text(LONG * repeated, cache_control=FIVE)], model=model))[1]) == cached


WHOLE = [text(LONG, cache_control=FIVE)]
# What is asked first and what next, and whether tools, system and messages are read then.
CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("nothing", {}, "tools system messages"),
    ("max_tokens", {"max_tokens": 5}, "tools system messages"),
    ("the usual effort", {"output_config": {"effort": "high"}}, "tools system messages"),
    ("display", {"thinking": {"type": "adaptive", "display": "summarized"}}, "tools system messages"),
    ("effort", {"output_config": {"effort": "low"}}, "tools system"),
    ("thinking", {"thinking": {"type": "between_tools"}}, "tools system"),
    ("tool_choice", {"tool_choice": {"type": "none"}}, "tools system"),
    ("system", {"system": [text("Be long.", cache_control=FIVE)]}, "tools"),
    ("a tool", {"tools": [{**TOOL, "description": LONG, "name": "a", "cache_control": FIVE}]}, ""),
    ("the model", {"model": "claude-fable-5"}, ""),
    (
        "an image",
        {"messages": [spoken("user", WHOLE), spoken("assistant"), spoken("user", [image(PNG)])]},
        "tools system",
    ),
    ("a message", {"messages": [spoken("user", [text("What? " + LONG, cache_control=FIVE)])]}, "tools system"),
    ("messages after", {"messages": [spoken("user", WHOLE), spoken("assistant"), HI]}, "tools system messages"),
]


@pytest.mark.parametrize(("name", "change", "kept"), CHANGES, ids=[each[0] for each in CHANGES])
def test_a_change_costs_what_depends_on_it(timed: MessagesAPI, name: str, change: dict[str, Any], kept: str) -> None:
    """A change to tools, system, messages or parameters loses what comes after it, and nothing before."""
    tools = [{**TOOL, "description": LONG, "cache_control": FIVE}]
    body = question(WHOLE, tools=tools, system=WHOLE)
    written = paid(timed, body)[1]
    read = paid(timed, body | change)[0]
    assert round(3 * read / written) == len(kept.split())


@pytest.mark.parametrize(
    ("between", "found"),
    [
        ([text("a")] * 18, True),
        ([text("a")] * 19, False),
        ([text("a")] * 30, False),
    ],
)
def test_a_marker_looks_back_twenty_positions(timed: MessagesAPI, between: list[Any], *, found: bool) -> None:
    """The marker counts as the first of the twenty blocks that are looked at."""
    written = paid(timed, question([text(LONG, cache_control=FIVE)]))[1]
    read, _, _ = paid(timed, question([text(LONG), *between, text("b", cache_control=FIVE)]))
    assert read == (written if found else 0)


def test_a_run_of_calls_or_results_is_one_position(timed: MessagesAPI) -> None:
    """Thirty calls at once, and their results, do not lose the cache."""
    written = paid(timed, question([text(LONG, cache_control=FIVE)]))[1]
    calls = [call(f"toolu_{number}") for number in range(30)]
    results = [result(f"toolu_{number}") for number in range(29)] + [result("toolu_29", cache_control=FIVE)]
    assert paid(timed, question([text(LONG)], calls, results))[0] == written


def test_the_automatic_marker_moves_along(timed: MessagesAPI) -> None:
    """At the top level it falls on the last block that may carry one, and reads what the turn before wrote."""
    thought = {"type": "thinking", "thinking": "", "signature": "c2ln"}
    body = question([text(LONG)], cache_control=FIVE)
    _, written, rest = paid(timed, body)
    assert rest < 20
    body["messages"] += [spoken("assistant", [text("So."), thought]), HI]
    read, more, rest = paid(timed, body)
    assert (read, more > 0, rest < 20) == (written, True, True)
    assert paid(timed, body)[:2] == (read + more, 0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (question([text(cache_control=FIVE)], cache_control=FIVE), None),
        (question([text(cache_control=FIVE), text()], cache_control=FIVE), None),
        (question([text(cache_control=HOUR), text()], cache_control=FIVE), None),
        (question([text(cache_control=FIVE)] * 3 + [text()], cache_control=FIVE), None),
        (question([text(cache_control=HOUR)], cache_control=FIVE), "cache_control: the last block already has"),
        (question([text(cache_control=FIVE), text()], cache_control=HOUR), "a ttl='1h' cache_control block must not"),
        (question([text(cache_control=FIVE)] * 4 + [text()], cache_control=FIVE), "A maximum of 4 blocks"),
        (
            question([text(cache_control=FIVE)] * 5),
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (question(system=[text(cache_control=FIVE)], tools=[TOOL | {"cache_control": HOUR}]), None),
        (question(system=[text(cache_control=HOUR)], tools=[TOOL | {"cache_control": FIVE}]), "a ttl='1h'"),
        (question("a", [call()], [result(content=[text(cache_control=FIVE)] * 5)]), "A maximum of 4 blocks"),
        (
            question("a", [{"type": "redacted_thinking", "data": "a", "cache_control": FIVE}, text()], "b"),
            "messages.1.content.0.redacted_thinking.cache_control: Extra inputs are not permitted",
        ),
        (
            question(
                "a", [{"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "cache_control": FIVE}], "b"
            ),
            "messages.1.content.0.fallback.cache_control: Extra inputs are not permitted",
        ),
    ],
)
def test_markers_keep_their_rules(api: MessagesAPI, body: Any, words: str | None) -> None:
    """Four at most, the longer-lived first, none where none may stand; the automatic one agrees with the last."""
    reply = ask(api, body)
    assert reply.status == (400 if words else 200)
    assert words is None or reply.error.startswith(words)


def test_only_an_answer_writes(timed: MessagesAPI) -> None:
    """What is refused or fails caches nothing; warming up does, without an answer; a stream tells the same."""
    timed.fail(Fault.status(529))
    ask(timed, marked())
    ask(timed, marked(""))
    written = paid(timed, marked(max_tokens=0))[1]
    assert written
    raw = ask(timed, marked(stream=True)).raw.decode()
    assert raw.count(f'"cache_read_input_tokens":{written}') == 2
    timed.answer(Answer("Hello!", usage={"cache_read_input_tokens": 7}))
    assert ask(timed, marked()).json["usage"]["cache_read_input_tokens"] == 7
