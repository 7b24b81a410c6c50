"""JSON bytes are read strictly, sliced exactly, and written in one form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conversation_store.errors import CodecError, ContentError
from conversation_store.record import canonical
from tests.strategies import json_arrays, json_bytes, json_objects, nested, parsed, same, values

BLANK = b" \t\n\r"

NOT_JSON = {
    "nothing": b"",
    "only white space": b" \n",
    "NaN": b"NaN",
    "Infinity": b"[Infinity]",
    "minus Infinity": b'{"a":-Infinity}',
    "two values": b"1 2",
    "a comma after the value": b'{"a":1},',
    "a comma too many": b"[1,]",
    "a comma too many in an object": b'{"a":1,}',
    "a missing comma": b"[1 2]",
    "a missing colon": b'{"a" 1}',
    "a name without quotes": b"{a:1}",
    "a number as a name": b"{1:1}",
    "single quotes": b"'a'",
    "a leading zero": b"01",
    "a plus": b"+1",
    "a bare point": b"[1.]",
    "a comment": b"[1] // one",
    "an open string": b'"abc',
    "an open array": b"[[1]",
    "an open object": b'{"a":{}',
    "a control character": b'"a\nb"',
    "a NUL": b'"a\0b"',
    "a wrong escape": b'"\\x41"',
    "half an escape": b'"\\u12"',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "another space": b"\xc2\xa0{}",
    "a form feed": b"\x0c{}",
    "Latin-1": b'"\xe9"',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "overlong UTF-8": b'"\xc0\x80"',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "an error after an integer of 5,000 digits": b"[" + b"7" * 5000 + b",]",
    "an open object after an integer of 5,000 digits": b'{"a":[' + b"7" * 5000 + b', "b"',
}


def spans(data: bytes, found: list[canonical.Member]) -> list[bytes]:
    """Cut the slices out of *data*."""
    return [data[each.start : each.end] for each in found]


@given(json_bytes())
@example(b'"\\ud800"')
@example(b'{"a":1,"a":2}')
def test_reading_agrees_with_python(data: bytes) -> None:
    """Whatever the spelling, a value is what Python's own reader makes of it."""
    assert same(canonical.loads(data), parsed(data))


@given(json_objects())
@example('{"é":"ü", "a" : [1] }'.encode())
def test_members_are_sliced_exactly(data: bytes) -> None:
    """Each name's slice is its value without the white space around it, wherever in the bytes it stands."""
    members = canonical.members(data)
    assert list(members) == list(parsed(data))
    for name, member in members.items():
        piece = data[member.start : member.end]
        assert piece == piece.strip(BLANK)
        assert member.name == name
        assert same(parsed(piece), parsed(data)[name])
        assert same(member.value, parsed(piece))


@given(json_arrays())
@example('["é", "\U0001f41c", 1 ]'.encode())
def test_items_are_sliced_exactly(data: bytes) -> None:
    """Items and the bytes between them are the array; between them there is nothing but commas and white space."""
    items = canonical.items(data)
    assert same([item.value for item in items], parsed(data))
    assert all(same(parsed(piece), item.value) for piece, item in zip(spans(data, items), items, strict=True))
    at, between = 0, []
    for item in items:
        between.append(data[at : item.start])
        at = item.end
    between.append(data[at:])
    assert b"".join(between).translate(None, BLANK) == b"[" + b"," * (len(items) - 1) + b"]"


@given(json_objects())
def test_composing_what_was_sliced_keeps_every_value(data: bytes) -> None:
    """Slices put together again are the same bytes, value by value."""
    parts = {name: data[each.start : each.end] for name, each in canonical.members(data).items()}
    again = canonical.compose(parts)
    found = canonical.members(again)
    assert {name: again[each.start : each.end] for name, each in found.items()} == parts


def test_of_a_name_that_occurs_twice_the_last_counts() -> None:
    """As everywhere, the later of two members of one name is the value."""
    data = b'{"a": 1, "b": 2, "a": [3]}'
    assert canonical.loads(data) == {"a": [3], "b": 2}
    member = canonical.members(data)["a"]
    assert data[member.start : member.end] == b"[3]"


def accepts(data: bytes) -> bool:
    """Say whether Python's reader takes these bytes."""
    try:
        parsed(data)
    except ValueError:
        return False
    return True


@given(json_bytes(), st.data())
def test_no_other_exception_on_broken_bytes(data: bytes, more: st.DataObject) -> None:
    """A byte changed, dropped or put in: the same value as Python reads, or ``CodecError``; the slicers agree."""
    at = more.draw(st.integers(0, len(data)))
    piece = more.draw(st.one_of(st.binary(max_size=2), st.sampled_from([b",", b"}", b"]", b'"', b"\\", b"[", b"{"])))
    broken = data[:at] + piece + data[at + more.draw(st.integers(0, 2)) :]
    if accepts(broken):
        value = canonical.loads(broken)
        assert same(value, parsed(broken))
        for slicer, kind in ((canonical.members, dict), (canonical.items, list)):
            if isinstance(value, kind):
                assert len(slicer(broken)) == len(value)
            else:
                with pytest.raises(CodecError):
                    slicer(broken)
        return
    for reader in (canonical.loads, canonical.members, canonical.items):
        with pytest.raises(CodecError):
            reader(broken)


@given(st.binary(max_size=40))
def test_no_other_exception_on_any_bytes(data: bytes) -> None:
    """Bytes from anywhere are a value or a ``CodecError``."""
    if accepts(data):
        assert same(canonical.loads(data), parsed(data))
    else:
        with pytest.raises(CodecError):
            canonical.loads(data)


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_no_json_is_refused(name: str) -> None:
    """Everything that is nearly JSON is a ``CodecError``, also deep inside an object or array being sliced."""
    data = NOT_JSON[name]
    for reader in (canonical.loads, canonical.members, canonical.items):
        with pytest.raises(CodecError):
            reader(data)
    with pytest.raises(CodecError):
        canonical.members(b'{"a":[' + data + b",]}")
    with pytest.raises(CodecError):
        canonical.items(b'[{"a":' + data + b",}]")


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b'{"a":1} x', 8),
        ('["é",x]'.encode(), 6),
        (b'"\xff"', 1),
        ('{"é":1]'.encode(), 7),
        ('["é" 1]'.encode(), 6),
    ],
)
def test_the_offset_is_in_bytes(data: bytes, offset: int) -> None:
    """An error says at which byte it was noticed, not at which character."""
    for reader in (canonical.loads, canonical.members if data[:1] == b"{" else canonical.items):
        with pytest.raises(CodecError) as caught:
            reader(data)
        assert caught.value.offset == offset
        assert f"byte {offset}" in str(caught.value)


@pytest.mark.parametrize("kind", ["[", "{"])
def test_nesting_has_a_limit(kind: str) -> None:
    """200 levels are taken, 201 refused; so are bombs of a million, at once; brackets in strings do not count."""
    deepest = nested(canonical.DEEPEST, kind=kind)
    assert same(canonical.loads(deepest), parsed(deepest))
    for depth in (canonical.DEEPEST + 1, 1_000_000):
        with pytest.raises(CodecError, match="200 levels"):
            canonical.loads(nested(depth, kind=kind))
    assert canonical.loads(b'["' + b'[{\\"' * 500 + b'"]') == ['[{"' * 500]
    with pytest.raises(CodecError):
        canonical.members(b'{"a":' + nested(canonical.DEEPEST, kind=kind) + b"}")


def test_wide_is_not_deep() -> None:
    """A thousand small arrays beside one another are no nesting."""
    assert canonical.loads(b"[" + b"[],{}," * 1000 + b"[]]") == [[], {}] * 1000 + [[]]


def test_integers_of_any_size() -> None:
    """An integer beyond what ``int()`` takes is read exactly, sliced exactly, and written as it was."""
    digits = b"-1" + b"0" * 4999 + b"7"
    data = b'{"n": ' + digits + b', "m": 1}'
    value = canonical.loads(data)
    assert same(value, parsed(data))
    member = canonical.members(data)["n"]
    assert data[member.start : member.end] == digits
    assert canonical.dumps(value) == b'{"n":' + digits + b',"m":1}'
    with pytest.raises(CodecError, match="digits"):
        canonical.loads(b"1" * 100_001)


# --- writing -----------------------------------------------------------------------------------------------------


@given(values())
def test_writing_loses_nothing(value: Any) -> None:
    """What a caller gives is written as UTF-8 without spaces, keys in their order; written twice it is the same."""
    data = canonical.dumps(value)
    assert data == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert same(canonical.loads(data), value)
    assert canonical.dumps(canonical.loads(data)) == data


def test_keys_keep_their_order() -> None:
    """Nothing is sorted: a tool call's arguments and a cached prefix depend on it."""
    assert canonical.dumps({"z": 1, "a": {"y": [], "b": None}}) == b'{"z":1,"a":{"y":[],"b":null}}'


class _Colour(StrEnum):
    RED = "red"


class _Size(IntEnum):
    LARGE = 3


def test_kinds_of_mapping_and_of_text() -> None:
    """Tuples, other mappings and enumerations are written as the JSON they stand for."""
    value = MappingProxyType({"a": (1, _Colour.RED), "b": MappingProxyType({"c": _Size.LARGE})})
    assert canonical.dumps(value) == b'{"a":[1,"red"],"b":{"c":3}}'


REFUSED: Mapping[str, tuple[object, str]] = {
    "NaN": ({"a": [1, float("nan")]}, "m.a.1"),
    "infinity": ([float("inf")], "m.0"),
    "minus infinity": (float("-inf"), "m"),
    "a number as a key": ({"a": {1: 2}}, "m.a"),
    "null as a key": ({None: 2}, "m"),
    "bytes": ({"content": [{"data": b"abc"}]}, "m.content.0.data"),
    "a set": ({"a": {1}}, "m.a"),
    "an object": ([object()], "m.0"),
    "a lone surrogate": ({"content": [{"text": "a\ud800"}]}, "m.content.0.text"),
    "a lone surrogate as a key": ({"a": {"\udfff": 1}}, "m.a"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_json_cannot_say_is_refused(name: str) -> None:
    """The error names the place, below the path given and without one."""
    value, path = REFUSED[name]
    with pytest.raises(ContentError) as caught:
        canonical.dumps(value, "m")
    assert caught.value.path == path
    assert str(caught.value).encode()
    with pytest.raises(ContentError) as caught:
        canonical.dumps(value)
    assert caught.value.path == path.removeprefix("m").removeprefix(".")


def test_a_value_without_end_is_refused() -> None:
    """A list that holds itself is too deep, not an endless loop."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ContentError, match="200 levels"):
        canonical.dumps(value, "messages.0")


def test_writing_has_the_same_limit_as_reading() -> None:
    """What is written can be read again: 200 levels pass, 201 do not."""
    value: Any = 1
    for _ in range(canonical.DEEPEST):
        value = [value]
    assert canonical.loads(canonical.dumps(value)) == value
    with pytest.raises(ContentError, match="200 levels"):
        canonical.dumps([value])
