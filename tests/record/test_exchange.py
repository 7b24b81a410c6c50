"""What an exchange may become, what it used, and which blocks of an answer are never sent back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.record.exchange import MOVES, State, Usage, omitted
from tests.strategies import TEXTS, received_blocks, values

OVER: Final = {State.ANSWERED, State.REJECTED, State.REFUSED, State.FAILED, State.INTERRUPTED}


def test_the_table_of_moves_is_complete() -> None:
    """Every state has its row, and every state but pending can be reached."""
    assert set(MOVES) == set(State)
    assert {after for row in MOVES.values() for after in row} == set(State) - {State.PENDING}


def test_what_is_over_stays_as_it_is() -> None:
    """A state with an outcome never changes; a pending exchange may become anything, a lost one anything known."""
    assert all(not MOVES[state] for state in OVER)
    assert MOVES[State.PENDING] == OVER | {State.UNKNOWN}
    assert MOVES[State.UNKNOWN] == OVER


def test_the_stored_names_of_the_states() -> None:
    """The values are in databases; they never change."""
    assert [state.value for state in State] == [
        "pending",
        "answered",
        "rejected",
        "refused",
        "failed",
        "interrupted",
        "unknown",
    ]


# --- usage -------------------------------------------------------------------------------------------------------


def test_usage_keeps_what_the_api_counted() -> None:
    """Named counters are numbers, whatever came; everything else is kept beside them as it came."""
    raw = {
        "input_tokens": 12,
        "output_tokens": 3,
        "cache_creation_input_tokens": None,
        "cache_creation": {"ephemeral_5m_input_tokens": 0},
        "service_tier": "standard",
    }
    usage = Usage.of(raw)
    assert (usage.input_tokens, usage.output_tokens, usage.cache_creation_input_tokens) == (12, 3, 0)
    assert usage.cache_read_input_tokens == 0
    assert usage.raw == raw


@given(st.one_of(values(), st.dictionaries(st.sampled_from(["input_tokens", "output_tokens"]), values())))
def test_usage_of_anything(raw: Any) -> None:
    """Whatever stands where the usage should be, the counters are integers."""
    usage = Usage.of(raw)
    assert type(usage.input_tokens) is type(usage.output_tokens) is int


# --- what is never sent back -------------------------------------------------------------------------------------

BEFORE_A_FALLBACK: Final[Sequence[tuple[Mapping[str, Any], bool]]] = [
    ({"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}, True),
    ({"type": "text", "text": "Hm"}, True),
    ({"type": "thinking", "thinking": "", "signature": "s"}, False),
    ({"type": "redacted_thinking", "data": "d"}, False),
    ({"type": "connector_text", "text": "Now I look"}, False),
    ({"type": "tool_use", "id": "t1", "name": "n", "input": {}}, False),
    ({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}, True),
    ({"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}, True),
    ({"type": "server_tool_use", "id": "s2", "name": "web_search", "input": {}}, False),
    ({"type": "mcp_tool_use", "id": "m1", "name": "n", "server_name": "s", "input": {}}, True),
    ({"type": "mcp_tool_result", "tool_use_id": "m1", "content": ""}, True),
    ({"type": "mcp_tool_use", "id": "m2", "name": "n", "server_name": "s", "input": {}}, False),
    ({"type": "something new", "id": "x"}, True),
]
"""
Each block before the last fallback, and whether it is sent back.

Source: Messages API documentation, Refusals and fallback, 2026-10.
"""

FALLBACK: Final = {"type": "fallback", "from": {"model": "b"}, "to": {"model": "c"}}


def test_the_table_of_fallbacks() -> None:
    """Before the last fallback, blocks of the model that gave up are left out; after it everything is sent."""
    before = [block for block, _ in BEFORE_A_FALLBACK]
    after = [block for block in before if block["type"] != "fallback"]
    expected = {n for n, (_, sent) in enumerate(BEFORE_A_FALLBACK) if not sent}
    assert omitted([*before, FALLBACK, *after]) == expected
    assert omitted([*before[1:], FALLBACK]) == {n - 1 for n in expected}
    assert omitted(after) == frozenset()


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u00a0"])
def test_blank_text_is_never_sent_back(text: str) -> None:
    """The API may answer with blank text and refuses to be given it; other empty things are not text."""
    blank = {"type": "text", "text": text}
    assert omitted([blank, {"type": "thinking", "thinking": text}, {"type": "text", "text": "a"}, blank]) == {0, 3}


def test_a_result_after_the_fallback_is_too_late() -> None:
    """A call is paired only with a result that came before the switch of models."""
    call = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}
    assert omitted([call, FALLBACK, result]) == {0}
    assert omitted([call, result, FALLBACK]) == frozenset()


@given(st.lists(st.one_of(received_blocks(), st.just(FALLBACK), st.fixed_dictionaries({"type": values()}))))
def test_any_blocks_at_all(blocks: list[dict[str, Any]]) -> None:
    """Whatever the API may send one day, what is left out is known to be unsendable."""
    left_out = omitted(blocks)
    last = max((n for n, block in enumerate(blocks) if block["type"] == "fallback"), default=-1)
    for n in left_out:
        kind = blocks[n]["type"]
        assert kind == "text" or (n < last and "fallback" not in kind and "result" not in kind)
    assert all(n in left_out for n, block in enumerate(blocks) if n < last and block["type"] == "thinking")


@given(st.lists(st.one_of(TEXTS.map(lambda text: {"type": "text", "text": text}), st.just({"type": "text"}))))
def test_without_a_fallback_only_blank_text_is_left_out(blocks: list[dict[str, Any]]) -> None:
    """A text block without text is kept as it is."""
    assert omitted(blocks) == {n for n, block in enumerate(blocks) if "text" in block and not block["text"].strip()}
