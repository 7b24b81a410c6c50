"""What a caller gives is checked, named by its place, and written once."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.errors import ContentError
from conversation_store.record import canonical, codec, splices
from conversation_store.record.blocks import ABSENT, KNOWN, Image, Text, ToolResult, Unknown
from conversation_store.record.codec import block_of, content_of, tool_result_content, wire, wire_of_message
from tests.strategies import KINDS, TEXTS, UNKNOWN_KEYS, blocks, conversations, values

MINIMAL: Final[dict[str, dict[str, Any]]] = {
    "text": {"text": "a"},
    "image": {"source": {"type": "url", "url": "https://ants.example/a.png"}},
    "document": {"source": {"type": "text", "media_type": "text/plain", "data": "a"}},
    "search_result": {"source": "a", "title": "b", "content": [{"type": "text", "text": "c"}]},
    "thinking": {"thinking": ""},
    "redacted_thinking": {"data": ""},
    "tool_use": {"id": "t", "name": "n", "input": {}},
    "tool_result": {"tool_use_id": "t"},
    "tool_reference": {"tool_name": "n"},
    "browser_state": {"tabs": []},
    "server_tool_use": {"id": "s", "name": "web_search"},
    "container_upload": {"file_id": "f"},
    "mcp_tool_use": {"id": "m", "name": "n", "server_name": "s", "input": {}},
    "mcp_tool_result": {"tool_use_id": "m"},
    "mcp_tool_listing": {"mcp_server_name": "s", "tools": []},
    "compaction": {"content": None},
    "fallback": {"from": {}, "to": {}},
    "tool_addition": {"tool": {}},
    "tool_removal": {"tool": {}},
}


def minimal(kind: str) -> dict[str, Any]:
    """Write the smallest valid block of a kind."""
    return {"type": kind, **MINIMAL.get(kind, {"tool_use_id": "s", "content": []})}


def refused(piece: Any) -> tuple[str, str]:
    """Give *piece* as the second block of the fourth message, and return where and why it is refused."""
    with pytest.raises(ContentError) as one:
        content_of(["a", piece], "messages.3.content")
    with pytest.raises(ContentError) as other:
        wire_of_message({"role": "user", "content": [{"type": "text", "text": "a"}, piece]}, "messages.3")
    assert str(one.value) == str(other.value)
    assert str(one.value).startswith("messages.3.content.1")
    return one.value.path, one.value.message


@pytest.mark.parametrize("kind", KNOWN)
def test_an_unknown_key_of_a_known_kind(kind: str) -> None:
    """A key the API does not know is refused as the API would, with the path it would name."""
    assert content_of([minimal(kind)], "content") == [minimal(kind)]
    path = f"messages.3.content.1.{kind}.foo"
    assert refused({**minimal(kind), "foo": 1}) == (path, "Extra inputs are not permitted")
    block = block_of({**minimal(kind), "foo": 1})
    assert refused(block) == (path, "Extra inputs are not permitted")


@pytest.mark.parametrize("kind", KNOWN)
def test_a_missing_key_of_a_known_kind(kind: str) -> None:
    """A key that must be there is asked for by name."""
    for name in KINDS[kind].required:
        value = {key: each for key, each in minimal(kind).items() if key != name}
        path, message = refused(value)
        assert (path.removeprefix(f"messages.3.content.1.{kind}."), message.split()[0]) in {
            (name, "Field"),
            (name, "Input"),
        }


NO_CONTENT: Final[dict[str, tuple[Any, str]]] = {
    "a number": (7, ""),
    "null": (None, ""),
    "bytes": (b"abc", ""),
    "a list": ([{"type": "text", "text": "a"}], ""),
    "no type": ({"text": "a"}, ".type"),
    "a type that is no string": ({"type": ["text"], "text": "a"}, ".type"),
    "an unknown type": ({"type": "txet", "text": "a"}, ""),
    "a misspelt cache_control": (
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "tll": "5m"}},
        ".text.cache_control.tll",
    ),
    "text that is no string": ({"type": "text", "text": 7}, ".text.text"),
    "a source that is a string": ({"type": "image", "source": "https://ants.example"}, ".image.source"),
    "a source of no type": ({"type": "image", "source": {"url": "u"}}, ".image.source"),
    "a source of a type that is a list": ({"type": "image", "source": {"type": []}}, ".image.source"),
    "an unknown key of a source": (
        {"type": "image", "source": {"type": "url", "url": "u", "media_type": "image/png"}},
        ".image.source.media_type",
    ),
    "half a source": (
        {"type": "document", "source": {"type": "base64", "data": ""}},
        ".document.source.media_type",
    ),
    "an unknown key inside a result": (
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "a", "foo": 1}]},
        ".tool_result.content.0.text.foo",
    ),
    "a string inside a result": (
        {"type": "tool_result", "tool_use_id": "t", "content": ["a"]},
        ".tool_result.content.0",
    ),
}


@pytest.mark.parametrize("name", NO_CONTENT)
def test_what_is_no_content(name: str) -> None:
    """Everything that is no piece of content is refused with its place."""
    piece, where = NO_CONTENT[name]
    assert refused(piece)[0] == f"messages.3.content.1{where}"


def test_an_unknown_kind_can_be_sent_on_purpose() -> None:
    """A dict of an unknown type is a mistake until it is wrapped: then every key of it passes."""
    assert "unknown block type 'wave'" in refused({"type": "wave", "height": 2})[1]
    piece = Unknown("wave", extra={"height": 2})
    assert wire("user", [piece]) == b'{"role":"user","content":[{"type":"wave","height":2}]}'


def test_blocks_stand_inside_a_result() -> None:
    """What a tool returned may be block objects; there too a kind nobody knows passes once it is wrapped, no sooner."""
    given = [Text("a"), Unknown("wave", extra={"height": 2}), {"text": "b", "type": "text"}]
    inner = b'[{"type":"text","text":"a"},{"type":"wave","height":2},{"text":"b","type":"text"}]'
    content: Any
    for content in (given, tool_result_content(given)):
        written = b'{"type":"tool_result","tool_use_id":"t","content":%s}' % inner
        assert wire("user", [ToolResult("t", content)]) == b'{"role":"user","content":[%s]}' % written
        message = {"content": [{"type": "tool_result", "tool_use_id": "t", "content": content}], "role": "user"}
        assert wire_of_message(message, "messages.0") == ("user", b'{"content":[%s],"role":"user"}' % written)
    for content in ([{"type": "wave"}], [Text("a"), {"type": "wave"}]):
        where, why = refused(ToolResult("t", content))
        assert where == f"messages.3.content.1.tool_result.content.{len(content) - 1}"
        assert "unknown block type 'wave'" in why


def test_one_string_stays_a_string() -> None:
    """The form of a caller's content is kept: a string, or blocks; several pieces are blocks."""
    assert wire("user", ["Hé"]) == '{"role":"user","content":"Hé"}'.encode()
    assert wire("user", [Text("a")]) == b'{"role":"user","content":[{"type":"text","text":"a"}]}'
    assert wire("user", ["a", "b"]) == wire("user", [Text("a"), {"type": "text", "text": "b"}])
    assert wire("user", []) == b'{"role":"user","content":[]}'


def test_keys_of_a_dict_keep_their_order() -> None:
    """A dict is written as it was given; a block object has its type first."""
    assert wire("user", [{"text": "a", "type": "text"}]) == b'{"role":"user","content":[{"text":"a","type":"text"}]}'
    assert wire("user", [MappingProxyType({"text": "a", "type": "text"})]) == wire(
        "user", [{"text": "a", "type": "text"}]
    )


def test_absent_keys_of_a_block_are_not_written() -> None:
    """What was not said is not on the wire; null is."""
    assert wire("user", [ToolResult("t", is_error=ABSENT)]).endswith(b'[{"type":"tool_result","tool_use_id":"t"}]}')
    assert wire("user", [Text("a", citations=None)]).endswith(b'"text":"a","citations":null}]}')
    assert b"cache_control" not in wire("user", [Image.from_url("https://ants.example/a.png")])


def test_a_lone_surrogate_is_refused_with_its_place() -> None:
    """Text that cannot be written as UTF-8 never reaches the record."""
    with pytest.raises(ContentError) as caught:
        wire("user", ["a", "b\ud800"], "messages.3")
    assert caught.value.path == "messages.3.content.1.text"
    with pytest.raises(ContentError) as caught:
        wire("user", ["b\ud800"])
    assert caught.value.path == "content"
    with pytest.raises(ContentError) as caught:
        wire_of_message({"role": "user", "content": "b\ud800"}, "messages.3")
    assert caught.value.path == "messages.3.content"


@given(blocks())
def test_every_documented_block_passes(value: dict[str, Any]) -> None:
    """What the documentation allows is written as it was given, as a dict and as a block object."""
    assert content_of([value], "content") == [value]
    [written] = canonical.items(canonical.dumps(content_of([block_of(value)], "content")))
    assert written.value == value


@given(blocks(), UNKNOWN_KEYS, values())
def test_no_unknown_key_passes(value: dict[str, Any], key: str, inner: Any) -> None:
    """Whatever the key is called, it is refused under that name."""
    kind = value["type"]
    if key in {"type", *KINDS[kind].required, *KINDS[kind].optional}:
        return
    assert refused({**value, key: inner})[0] == f"messages.3.content.1.{kind}.{key}"


# --- whole messages ----------------------------------------------------------------------------------------------


@given(conversations())
def test_plain_messages_are_written_as_given(messages: list[dict[str, Any]]) -> None:
    """A message in the API's shape is encoded once, keys in the caller's order."""
    for message in messages:
        role, data = wire_of_message(message, "messages.0")
        assert role == message["role"]
        assert data == canonical.dumps(message)


def test_blocks_inside_plain_messages() -> None:
    """Block objects, dicts and strings may stand side by side in a plain message."""
    message = {"content": [Text("a"), "b", {"type": "text", "text": "c"}], "role": "assistant"}
    role, data = wire_of_message(message, "messages.0")
    assert role == "assistant"
    assert data == (
        b'{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"},{"type":"text","text":"c"}],'
        b'"role":"assistant"}'
    )


def test_system_messages_may_have_no_content() -> None:
    """A system message that only changes the effort, or that is cleared, keeps its own keys."""
    message = {"role": "system", "output_config": {"effort": "low"}}
    assert wire_of_message(message, "") == ("system", b'{"role":"system","output_config":{"effort":"low"}}')
    message = {"role": "system", "content": "Be brief.", "clear_at": "next_user_message"}
    assert wire_of_message(message, "")[1] == canonical.dumps(message)


NO_MESSAGE: Final[dict[str, tuple[Any, str]]] = {
    "a string": ("Hello", "messages.0"),
    "no role": ({"content": "a"}, "messages.0.role"),
    "an unknown role": ({"role": "human", "content": "a"}, "messages.0.role"),
    "a role that is a list": ({"role": [], "content": "a"}, "messages.0.role"),
    "no content": ({"role": "user"}, "messages.0.content"),
    "null content": ({"role": "user", "content": None}, "messages.0.content"),
    "an object as content": ({"role": "user", "content": {"type": "text", "text": "a"}}, "messages.0.content"),
    "bytes as content": ({"role": "user", "content": b"a"}, "messages.0.content"),
    "a whole response": ({"role": "assistant", "content": "a", "id": "msg_1"}, "messages.0.id"),
    "a key of system messages": ({"role": "user", "content": "a", "clear_at": "never"}, "messages.0.clear_at"),
    "a key that is a number": ({"role": "user", "content": "a", 1: 2}, "messages.0.1"),
}


@pytest.mark.parametrize("name", NO_MESSAGE)
def test_what_is_no_message(name: str) -> None:
    """Everything that is no message is refused with its place."""
    message, path = NO_MESSAGE[name]
    with pytest.raises(ContentError) as caught:
        wire_of_message(message, "messages.0")
    assert caught.value.path == path


def path_of_error(work: Callable[[], object]) -> str | None:
    """Run *work* and return the path of its ``ContentError``; None where it raises none."""
    try:
        work()
    except ContentError as error:
        return error.path
    return None


@given(st.dictionaries(TEXTS, values(), max_size=3) | values())
def test_any_value_is_a_message_or_an_error(value: Any) -> None:
    """Whatever is given, nothing but ``ContentError`` is raised."""
    for message in (value, {"role": "user", "content": value}, {"role": "user", "content": [value]}):
        found = path_of_error(partial(wire_of_message, message, "messages.0"))
        assert found is None or found.startswith("messages.0")


@given(st.sampled_from(sorted(KNOWN)), st.data())
def test_any_value_in_a_known_block(kind: str, data: st.DataObject) -> None:
    """Whatever stands under a known key, the block is taken or refused, never a crash."""
    value = {name: data.draw(values()) for name in (*KINDS[kind].required, *KINDS[kind].optional)}
    found = path_of_error(partial(content_of, [{"type": kind, **value}], "content"))
    assert found is None or found.startswith("content.0")


@given(
    said=st.lists(
        st.one_of(
            st.text(max_size=20),
            st.binary(max_size=3000).map(
                lambda data: {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()},
                }
            ),
            st.binary(min_size=800, max_size=2000).map(
                lambda data: {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [
                        {"type": "text", "text": base64.b64encode(data).decode()},
                        {"type": "text", "text": "é"},
                    ],
                }
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_parted_message_is_the_wire_without_its_long_strings(said: list[Any]) -> None:
    """Written block by block, it is cut as the whole would be, byte for byte."""
    expected = splices.Parted.of(codec.wire("user", said))
    found = codec.parted("user", said)
    assert found.body == expected.body
    assert [(each.offset, each.encoding, each.data) for each in found.cuts] == [
        (each.offset, each.encoding, each.data) for each in expected.cuts
    ]
