"""
JSON bytes in and out: strict to read, exact to slice, one form to write.

The bytes are the record; a parsed value is only a way of looking at them. So what the API sent is never
encoded again: ``members`` and ``items`` say where each value begins and ends, and the slice is what is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from conversation_store.errors import CodecError, ContentError

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"

DEEPEST: Final = 200
"""Levels of nesting accepted; deeper JSON is refused rather than parsed (a bomb, not a message)."""

_MOST_DIGITS: Final = 100_000
_MOST_BITS: Final = 332_192  # every integer of so many bits has at most _MOST_DIGITS digits


class Member(NamedTuple):
    """A value inside an object or array, and the bytes it stands at: ``data[start:end]``."""

    name: str
    value: JSON
    start: int
    end: int


def _refuse_constant(name: str) -> NoReturn:
    raise CodecError(f"{name} is no JSON")


def _any_integer(digits: str) -> int:
    # int() refuses more than sys.get_int_max_str_digits() digits; the record does not.
    if len(digits) > _MOST_DIGITS:
        raise CodecError(f"an integer of {len(digits)} digits")
    return int(Decimal(digits))


_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_patient_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_any_integer)
_encoder: Final = json.JSONEncoder(
    ensure_ascii=False,
    separators=(",", ":"),
    allow_nan=False,
    check_circular=False,  # what holds itself is too deep
    default=dict,  # of the mappings that are no dict; everything else is refused before
)
_space: Final = re.compile(r"[ \t\n\r]*")
_opened: Final = {bracket: re.compile(rf"[ \t\n\r]*\{bracket}[ \t\n\r]*") for bracket in "{["}
_named: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_ended: Final = re.compile(r"[ \t\n\r]*([,}\]])[ \t\n\r]*")
_string: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def text_of(data: bytes) -> str:
    """
    Decode strict UTF-8.

    Raises:
        CodecError: The bytes are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CodecError("not UTF-8", error.start) from None


def refuse_deep(data: bytes) -> None:
    """
    Count how deep JSON is nested, whatever else it is.

    Raises:
        CodecError: Deeper than ``DEEPEST``.
    """
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", _string.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST:
            raise CodecError(f"nested deeper than {DEEPEST} levels")


def _value_at(text: str, start: int) -> tuple[JSON, int]:
    try:
        try:
            return _decoder.raw_decode(text, start)
        except (json.JSONDecodeError, CodecError):
            raise
        except ValueError:  # an integer with more digits than int() takes
            return _patient_decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise CodecError(f"not JSON: {error.msg}", len(text[: error.pos].encode())) from None


def _after_space(text: str, at: int) -> int:
    found = _space.match(text, at)
    return found.end() if found else at


def loads(data: bytes) -> JSON:
    """
    Parse one JSON value.

    Strict UTF-8, no ``NaN`` or ``Infinity``, nothing after the value, no more than ``DEEPEST`` levels. Lone
    surrogates written as escapes and integers beyond 64 bits are taken as they are.

    Raises:
        CodecError: With the byte at which it was noticed.
    """
    text = text_of(data)
    refuse_deep(data)
    value, end = _value_at(text, 0 if text.startswith(("{", "[")) else _after_space(text, 0))
    if end != len(text) and (end := _after_space(text, end)) != len(text):
        raise CodecError("something follows the JSON value", len(text[:end].encode()))
    return value


def object_of(data: bytes) -> Mapping[str, Any]:
    """
    Parse a JSON object.

    Raises:
        CodecError: The bytes are something else.
    """
    value = loads(data)
    if not isinstance(value, Mapping):
        raise CodecError("expected a JSON object")
    return value


def object_at(data: bytes, text: str, start: int) -> tuple[Mapping[str, Any], bytes, int]:
    """
    Parse the object that begins at a character of *text*, which is *data* decoded and not too deep (``refuse_deep``).

    Returns:
        The object, its bytes, and the character at which it ends.

    Raises:
        CodecError: There is none.
    """
    value, end = _value_at(text, start)
    if type(value) is not dict:
        raise CodecError("expected a JSON object")
    return value, data[start:end] if text.isascii() else text[start:end].encode(), end


def _expect(pattern: re.Pattern[str], text: str, at: int, what: str) -> re.Match[str]:
    found = pattern.match(text, at)
    if found is None:
        raise CodecError(f"expected {what!r}", len(text[: _after_space(text, at)].encode()))
    return found


def _walk(text: str, opening: str, closing: str) -> Iterator[tuple[str, JSON, int, int]]:
    at = _expect(_opened[opening], text, 0, opening).end()
    more = not text.startswith(closing, at)
    at += not more
    while more:
        name = ""
        if opening == "{":
            if not text.startswith('"', at):
                raise CodecError("expected '\"'", len(text[:at].encode()))
            key, at = _value_at(text, at)
            name = str(key)
            at = _expect(_named, text, at, ":").end()
        value, end = _value_at(text, at)
        yield name, value, at, end
        found = _expect(_ended, text, end, closing)
        if found[1] not in (",", closing):
            raise CodecError(f"expected {closing!r}", len(text[: found.start(1)].encode()))
        more, at = found[1] == ",", found.end()
    at = _after_space(text, at)
    if at != len(text):
        raise CodecError("something follows the JSON value", len(text[:at].encode()))


def _in_bytes(text: str, found: Iterable[tuple[str, JSON, int, int]]) -> list[Member]:
    if text.isascii():
        return [Member(*each) for each in found]
    members, known, offset = [], 0, 0
    for name, value, start, end in found:
        first = offset + len(text[known:start].encode())
        known, offset = end, first + len(text[start:end].encode())
        members.append(Member(name, value, first, offset))
    return members


def members(data: bytes) -> dict[str, Member]:
    """
    Slice an object: each name's value and where its bytes are, in the order received.

    Of a name that occurs twice the last counts, as everywhere in JSON's reading.

    Raises:
        CodecError: The bytes are not one JSON object.
    """
    text = text_of(data)
    refuse_deep(data)
    return {member.name: member for member in _in_bytes(text, _walk(text, "{", "}"))}


def items(data: bytes) -> list[Member]:
    """
    Slice an array: each item and where its bytes are. Their names are empty.

    Raises:
        CodecError: The bytes are not one JSON array.
    """
    text = text_of(data)
    refuse_deep(data)
    return _in_bytes(text, _walk(text, "[", "]"))


def dumps(value: object, path: str = "", depth: int = 0) -> bytes:
    """
    Write a caller's value, once and for ever: compact UTF-8, keys in the caller's order.

    Args:
        value: What is to be written.
        path: What leads to it.
        depth: How deep it is in what is written of it.

    Raises:
        ContentError: Something JSON cannot say exactly (``NaN``, a key that is no string, bytes, a lone
            surrogate, too deep a nesting), with *path* leading to it.
    """
    _check(value, path, depth)
    try:
        return _encode(value).encode()
    except ValueError:  # an integer with more digits than str() gives
        return _patiently(value).encode()


def _kept(encoder: json.JSONEncoder) -> Callable[[object], str]:
    """Keep the C encoder that ``JSONEncoder`` makes anew for each value: a third of what a small one costs."""
    make, text = getattr(json.encoder, "c_make_encoder", None), getattr(json.encoder, "encode_basestring_ascii", None)
    if not encoder.ensure_ascii:
        text = getattr(json.encoder, "encode_basestring", None)
    if make is None or text is None:
        return encoder.encode
    colon, comma = encoder.key_separator, encoder.item_separator
    pieces = make(None, encoder.default, text, None, colon, comma, encoder.sort_keys, encoder.skipkeys, False)
    return lambda value: "".join(pieces(value, 0))


_encode: Final = _kept(_encoder)


def _patiently(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_patiently(key)}:{_patiently(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_patiently, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(Decimal(value))
    return _encoder.encode(value)


def _fault(value: str | float | None) -> str | None:
    """Say what JSON cannot, or this library will not, write exactly."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"a lone surrogate at character {error.start} is no text"
    elif isinstance(value, float) and not isfinite(value):
        return f"{value} is no JSON number"
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"an integer of more than {_MOST_DIGITS} digits"
    return None


def _check(value: object, path: str, depth: int) -> None:
    if value is None or isinstance(value, (str, int, float)):
        if fault := _fault(value):
            raise ContentError(path, fault)
    elif depth >= DEEPEST:
        raise ContentError(path, f"nested deeper than {DEEPEST} levels")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ContentError(path, f"the key {key!r} is no string")
            if not key.isascii():
                _check(key, path, depth + 1)
            if type(inner) is str and inner.isascii():
                continue
            _check(inner, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, (list, tuple)):
        for n, inner in enumerate(value):
            _check(inner, f"{path}.{n}" if path else str(n), depth + 1)
    else:
        raise ContentError(path, f"a {type(value).__name__} is no JSON value")


def shown(value: object) -> str:
    """
    Write for people what ``dumps`` refuses; it is not for the record, and may be no JSON.

    A lone surrogate is its escape, a number beyond all range ``Infinity``, an integer of any length its digits.
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(name)}:{shown(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(shown, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(Decimal(value))  # str() of an integer has a limit of digits
    return json.dumps(value)


def compose(parts: Mapping[str, bytes]) -> bytes:
    """Write an object whose values are JSON bytes already; they are copied, never parsed."""
    return b"{" + b",".join(_name(name) + b":" + value for name, value in parts.items()) + b"}"


def _name(name: str) -> bytes:
    try:
        return _encode(name).encode()
    except UnicodeEncodeError:  # a lone surrogate, as an escape it may have been received as
        return json.dumps(name).encode()


_encode_header: Final = _kept(
    json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False, check_circular=False)
)


def header(fields: Mapping[str, object] | Sequence[object] | str) -> bytes:
    """
    Write an entry's header, or what else is hashed as it is written: keys sorted, ASCII, no spaces; absent, not null.

    A subset of RFC 8785, so that any implementation of it writes the same bytes.
    """
    return _encode_header(fields).encode()
