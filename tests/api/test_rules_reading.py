"""An outline is the same however a history came about, and each message is looked at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from conversation_store.api.request import Messages, part_of
from conversation_store.api.rules.messages import check_shape, message_of
from conversation_store.api.rules.order import Outline
from conversation_store.api.rules.ordinary import is_ordinary
from conversation_store.api.rules.places import Place
from conversation_store.api.rules.reading import grow, tried
from conversation_store.record import canonical, codec
from tests.asks import (
    MARK,
    Ask,
    Block,
    assistant,
    call,
    found,
    judge,
    page,
    picture,
    result,
    search,
    system,
    text,
    user,
)

LOG = UUID(int=1)

words = st.sampled_from(["Hi", " Hi", "", " ", "\u00a0", "\u2003x", "дом", "あり", "a { b", 'a "quoted" b', "\\u0020"])
ids = st.sampled_from(["toolu_1", "toolu_2", "srvtoolu_1", "a b"])
texts = st.builds(text, words) | st.just(text("Hi", cache_control=MARK)) | st.just(text("Hi", mood=1))
calls = st.builds(call, ids) | st.builds(call, ids, toolset_name=st.just("computer"), name=st.just("click"))
results = st.builds(result, ids, words | st.lists(texts, max_size=2) | st.just([page()]) | st.just([picture()]))
thoughts = st.just({"type": "thinking", "thinking": "", "signature": "x"})
others = st.just(picture()) | st.just({"type": "smell"}) | st.just({"text": "Hi"})
messages = (
    st.builds(user, words)
    | st.builds(assistant, words)
    | st.builds(lambda blocks: user(*blocks), st.lists(texts | results | others, max_size=3))
    | st.builds(
        lambda blocks: assistant(*blocks),
        st.lists(texts | calls | thoughts | st.builds(search) | st.builds(found) | others, max_size=3),
    )
    | st.builds(system, words)
    | st.just({"role": "system", "output_config": {"effort": "low"}})
    | st.just({"content": "Hi", "role": "user"})
)


def told(outline: Outline) -> Mapping[str, Any]:
    """Write down everything an outline knows, but whose turns it is."""
    return {
        "findings": [(each.rule, each.severity, each.path, each.message) for each in outline.all_findings],
        "marks": {what: [(each.path, each.word) for each in outline.marked(what)] for what in sorted(outline.kinds)},
        "calls": [(each.id, each.path, each.toolset) for each in outline.open_calls],
        "waiting": [(each.id, each.path) for each in outline.waiting.values()],
        "counts": (outline.count, outline.last_role, outline.images),
    }


def header_of(message: Block) -> bytes:
    """Write the header of a turn; one of a single result is gathered with those beside it."""
    match message.get("content"):
        case [{"type": "tool_result"}]:
            return b'{"gather":true}'
    return b"{}"


def kept(history: Sequence[Block], *, at_once: bool) -> Messages:
    """Keep a history as turns, read one by one or in bulk."""
    rows = [(n, header_of(message), canonical.dumps(message)) for n, message in enumerate(history)]
    known = Messages()
    if at_once:
        known.extend(LOG, rows)
    for n, header, body in () if at_once else rows:
        known.add((LOG, n), header, body)
    return known


@given(st.lists(messages, max_size=8))
def test_a_history_read_at_a_glance_is_one_held_to_every_rule(history: list[Block]) -> None:
    """What is passed by would have been found right: both ways lead to the same outline."""
    parts = [part_of(header_of(message), canonical.dumps(message)) for message in history]
    slowly, _ = tried(Outline(), Messages(), parts)
    known, outline = kept(history, at_once=True), Outline()
    grow(outline, known)
    quickly, _ = tried(outline, known, [])
    assert told(quickly) == told(slowly)


@given(st.lists(messages, max_size=8), st.sets(st.integers(0, 8)))
def test_an_outline_grows_as_if_it_were_made_at_once(history: list[Block], looks: set[int]) -> None:
    """However often somebody looked on the way; and looking changes nothing."""
    whole, known, outline = Outline(), Messages(), Outline()
    for n, message in enumerate(history):
        if n in looks:
            grow(outline, known)
            tried(outline, known, [part_of(b"{}", canonical.dumps(user(result(), text())))])
        known.add((LOG, n), header_of(message), canonical.dumps(message))
    grow(outline, known)
    grow(whole, kept(history, at_once=False))
    assert told(outline) == told(whole)
    assert outline.all_findings == whole.all_findings
    assert outline.ids.keys() == whole.ids.keys()


@given(messages)
def test_what_is_ordinary_is_right(message: Block) -> None:
    """No rule of shape has anything to say to it."""
    content = message.get("content")
    if isinstance(content, list) and is_ordinary(message["role"], content):
        assert check_shape(message_of(message, Place("content", message["role"]))) == []


NAMES = ["type", "text", "content", "id", "name", "tool_use_id", "source", "data", "cache_control", "ttl", "role"]
NAMES += ["citations", "enabled", "caller", "tool_id", "toolset_name", "input", "tabs", "output_config", "effort"]
KINDS = [
    *codec.KEYS,
    "base64",
    "ephemeral",
    "1h",
    "user",
    "enabled",
    "any",
    "tool",
    "json_schema",
    "web_search_20260318",
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 5000) | st.floats(0, 2) | st.sampled_from(KINDS) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
PARAMETERS = ["model", "max_tokens", "system", "tools", "tool_choice", "thinking", "output_config", "mcp_servers"]
PARAMETERS += ["metadata", "stop_sequences", "cache_control", "container", "speed", "fallbacks", "context_management"]
PARAMETERS += ["compaction", "diagnostics", "temperature", "top_p", "top_k", "service_tier", "inference_geo"]


@given(
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": anything})),
    st.dictionaries(st.sampled_from(PARAMETERS), anything | st.lists(anything, max_size=2)),
)
def test_a_rule_is_not_surprised(history: list[Block], params: Mapping[str, Any]) -> None:
    """Whatever JSON stands where, a rule finds fault with it or does not, and never fails."""
    judge(Ask({"messages": history, "model": "claude-opus-4-5", **params}))
    grow(Outline(), kept(history, at_once=True))


def test_words_of_the_user_with_another_key_beside_them_are_looked_at() -> None:
    """A message that ends a request is passed by only where it is a string and nothing else."""
    for wire, marks in (
        (b'{"role":"user","content":"a \\"b\\": c"}', set()),
        (b'{"role":"user","content":"Hi","clear_at":1}', {"clear_at"}),
        (b'{"role":"user","content":"Hi" ,"clear_at" : 1}', {"clear_at"}),
    ):
        parts = [part_of(b"{}", each) for each in (canonical.dumps(user("Hi")), canonical.dumps(assistant("Hi")), wire)]
        outline, _ = tried(Outline(), Messages(), parts)
        assert (outline.count, outline.kinds) == (3, marks)
