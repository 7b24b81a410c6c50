"""
Generators for hypothesis: JSON as bytes in every legal spelling, content blocks, messages, answers.

Values for the record are generated as *bytes*, because a parsed value has forgotten most of what must be kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

from attrs import field, frozen
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

# --- JSON as bytes -----------------------------------------------------------------------------------------------

SPACE: Final[SearchStrategy[str]] = st.sampled_from(["", "", "", "", " ", "\n", "\t", "\r\n", "  \n\t "])
"""White space that may stand between any two tokens; most often none."""

_PLAIN: Final = st.characters(exclude_characters='"\\', exclude_categories=("Cs", "Cc"))
_ESCAPED: Final = st.sampled_from(
    [
        *(r"\n", r"\t", r"\r", r"\b", r"\f", r"\/", r"\"", r"\\"),
        *(r"\u0000", r"\u001F", r"\u00e9", r"\u00E9", r"\u2028"),
        *(r"\ud83d\ude00", r"\uD83D\uDE00", r"\ud800", r"\udfff", r"\udc00\ud800"),
        *("\x7f", "\u2028", "\u202e", "\U0001f41c", "\ufeff", "\U0010ffff"),
    ]
)
STRINGS: Final[SearchStrategy[str]] = st.lists(st.one_of(_PLAIN, _PLAIN, _ESCAPED), max_size=8).map(
    lambda pieces: '"' + "".join(pieces) + '"'
)
"""String literals: escapes in both cases, lone surrogates, NUL, ``\\/``, and characters as they are."""


def _digits(count: int) -> str:
    return ("1234567890" * (count // 10 + 1))[:count]


NUMBERS: Final[SearchStrategy[str]] = st.one_of(
    st.sampled_from(["0", "-0", "1.0", "-0.0", "1e5", "1E+2", "1e-7", "0e0", "1.10", "12345678901234567890", "5e-324"]),
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.tuples(st.sampled_from(["", "-"]), st.sampled_from([1, 19, 20, 4299, 4300, 4301, 5000])).map(
        lambda drawn: drawn[0] + _digits(drawn[1])
    ),
)
"""Number literals in spellings that parsing would lose, integers of up to 5,000 digits among them."""

SCALARS: Final[SearchStrategy[str]] = st.one_of(st.sampled_from(["null", "true", "false"]), NUMBERS, STRINGS, STRINGS)
KEYS: Final[SearchStrategy[str]] = st.one_of(STRINGS, st.sampled_from(['"type"', '"text"', '"content"', '"a"', '""']))


@st.composite
def _array(draw: st.DrawFn, inner: SearchStrategy[str]) -> str:
    pieces = [draw(SPACE) + each + draw(SPACE) for each in draw(st.lists(inner, max_size=4))]
    return "[" + (",".join(pieces) or draw(SPACE)) + "]"


@st.composite
def _object(draw: st.DrawFn, inner: SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(KEYS, inner), max_size=4))
    pieces = [draw(SPACE) + key + draw(SPACE) + ":" + draw(SPACE) + each + draw(SPACE) for key, each in pairs]
    return "{" + (",".join(pieces) or draw(SPACE)) + "}"


_NESTED: Final[SearchStrategy[str]] = st.recursive(
    SCALARS, lambda inner: st.one_of(_array(inner), _object(inner)), max_leaves=12
)


def _padded(inner: SearchStrategy[str]) -> SearchStrategy[bytes]:
    return st.tuples(SPACE, inner, SPACE).map(lambda drawn: "".join(drawn).encode())


def json_bytes() -> SearchStrategy[bytes]:
    """Generate any JSON value in any legal spelling, as UTF-8; names may occur twice."""
    return _padded(_NESTED)


def json_objects() -> SearchStrategy[bytes]:
    """Generate objects only."""
    return _padded(_object(_NESTED))


def json_arrays() -> SearchStrategy[bytes]:
    """Generate arrays only."""
    return _padded(_array(_NESTED))


def nested(levels: int, *, kind: str = "[") -> bytes:
    """Write a value that is exactly so many levels deep."""
    return b"[" * levels + b"]" * levels if kind == "[" else b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


def parsed(data: bytes) -> Any:
    """
    Read JSON as Python's own reader does, for comparison: strict, integers of any size.

    Raises:
        ValueError: It is no JSON, or not UTF-8.
    """
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    finally:
        sys.set_int_max_str_digits(limit)


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def same(left: object, right: object) -> bool:
    """Compare parsed JSON more closely than ``==`` does: 1 is neither 1.0 nor true; the order of keys is free."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return repr(left) == repr(right)
    return left == right


# --- JSON as values, and their spellings -------------------------------------------------------------------------

TEXTS: Final[SearchStrategy[str]] = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["", " ", "Hello, ant", "naïve", "\U0001f41c\u202eabc", "a\x00b", "a\\b\"c'd/", "\u2028"]),
)
"""Text that a caller may give: anything but lone surrogates."""

WORDS: Final[SearchStrategy[str]] = TEXTS.filter(lambda text: bool(text.strip()))
"""Text that the API takes: not blank."""

NAMES: Final[SearchStrategy[str]] = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


def values(*, leaves: int = 6) -> SearchStrategy[Any]:
    """Generate parsed JSON values that a caller may give."""
    return st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
        max_leaves=leaves,
    )


def spelled(value: object, seed: int) -> bytes:
    """Write *value* in a legal spelling of its own for each seed: white space, escapes, numbers."""
    return _spell(value, Random(seed)).encode()


def _spell(value: object, random: Random) -> str:
    def gap() -> str:
        return random.choice(["", "", "", " ", "\n  ", "\t"])

    if isinstance(value, Mapping):
        inside = [f"{gap()}{_spell(key, random)}{gap()}:{gap()}{_spell(each, random)}" for key, each in value.items()]
        return "{" + f"{gap()},".join(inside) + gap() + "}"
    if isinstance(value, (list, tuple)):
        return "[" + f"{gap()},".join(gap() + _spell(each, random) for each in value) + gap() + "]"
    if isinstance(value, str):
        return '"' + "".join(_spell_character(each, random) for each in value) + '"'
    return json.dumps(value, allow_nan=False)


def _spell_character(character: str, random: Random) -> str:
    plain = json.dumps(character, ensure_ascii=False)[1:-1]
    units = character.encode("utf-16-be")
    escaped = "\\/" if character == "/" else "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
    return random.choice([plain, plain, plain, escaped])


# --- content blocks ----------------------------------------------------------------------------------------------


@frozen
class Kind:
    """
    What the API's documentation says of a kind of block.

    Attributes:
        required: Keys it always has, each with what may stand there.
        optional: Keys it may have.
        roles: Whose messages it may stand in.
    """

    required: Mapping[str, SearchStrategy[Any]]
    optional: Mapping[str, SearchStrategy[Any]] = field(factory=dict)
    roles: Sequence[str] = ("assistant",)


_IDS: Final = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
_CACHE: Final = st.one_of(
    st.none(), st.fixed_dictionaries({"type": st.just("ephemeral")}, optional={"ttl": st.sampled_from(["5m", "1h"])})
)
_CACHED: Final = {"cache_control": _CACHE}
_INPUT: Final = st.dictionaries(TEXTS, values(leaves=4), max_size=3)
_DATA: Final = st.sampled_from(["aGVsbG8=", "AAAA", ""])
_PAGE_SOURCE: Final = st.one_of(
    st.fixed_dictionaries({"type": st.just("base64"), "media_type": st.just("application/pdf"), "data": _DATA}),
    st.fixed_dictionaries({"type": st.just("text"), "media_type": st.just("text/plain"), "data": WORDS}),
    st.fixed_dictionaries({"type": st.just("content"), "content": WORDS}),
    st.fixed_dictionaries({"type": st.just("url"), "url": st.just("https://ants.example/a.pdf")}),
    st.fixed_dictionaries({"type": st.just("file"), "file_id": _IDS}),
)
_PICTURE_SOURCE: Final = st.one_of(
    st.fixed_dictionaries({"type": st.just("base64"), "media_type": st.just("image/png"), "data": _DATA}),
    st.fixed_dictionaries({"type": st.just("url"), "url": st.just("https://ants.example/a.png")}),
    st.fixed_dictionaries({"type": st.just("file"), "file_id": _IDS}),
)
_TEXT_BLOCK: Final = st.fixed_dictionaries({"type": st.just("text"), "text": WORDS})
_CALLER: Final = st.fixed_dictionaries({"type": st.just("direct")})
_TOOL: Final = st.fixed_dictionaries({"type": st.just("tool_reference"), "name": NAMES})
_SERVER_RESULT: Final = Kind(
    {"tool_use_id": _IDS, "content": st.one_of(st.lists(_INPUT, max_size=2), _INPUT)}, optional=_CACHED
)
_SERVER_RESULT_CALLED: Final = Kind(_SERVER_RESULT.required, optional={**_CACHED, "caller": _CALLER})

KINDS: Final[Mapping[str, Kind]] = {
    "text": Kind(
        {"text": WORDS},
        {**_CACHED, "citations": st.one_of(st.none(), st.lists(_INPUT, max_size=2))},
        ("user", "assistant", "system"),
    ),
    "image": Kind(
        {"source": _PICTURE_SOURCE},
        {**_CACHED, "transformations": st.one_of(st.none(), st.just({"oversized_image": "downsize"}))},
        ("user",),
    ),
    "document": Kind(
        {"source": _PAGE_SOURCE},
        {
            **_CACHED,
            "title": st.one_of(st.none(), TEXTS),
            "context": st.one_of(st.none(), TEXTS),
            "citations": st.one_of(st.none(), st.just({"enabled": True})),
        },
        ("user",),
    ),
    "search_result": Kind(
        {"source": TEXTS, "title": TEXTS, "content": st.lists(_TEXT_BLOCK, min_size=1, max_size=2)},
        {**_CACHED, "citations": st.just({"enabled": True})},
        ("user",),
    ),
    "thinking": Kind({"thinking": TEXTS}, {"signature": TEXTS}),
    "redacted_thinking": Kind({"data": TEXTS}),
    "tool_use": Kind(
        {"id": _IDS, "name": NAMES, "input": _INPUT},
        {**_CACHED, "caller": _CALLER, "toolset_name": st.one_of(st.none(), st.just("browser"))},
    ),
    "tool_result": Kind(
        {"tool_use_id": _IDS},
        {
            **_CACHED,
            "content": st.one_of(TEXTS, st.lists(_TEXT_BLOCK, max_size=2)),
            "is_error": st.booleans(),
            "toolset_name": st.one_of(st.none(), st.just("computer")),
        },
        ("user",),
    ),
    "tool_reference": Kind({"tool_name": NAMES}, _CACHED, ()),
    "browser_state": Kind({"tabs": st.lists(_INPUT, max_size=1)}, {**_CACHED, "state_changes": st.none()}, ()),
    "server_tool_use": Kind({"id": _IDS, "name": NAMES}, {**_CACHED, "input": _INPUT, "caller": _CALLER}),
    "web_search_tool_result": _SERVER_RESULT_CALLED,
    "web_fetch_tool_result": _SERVER_RESULT_CALLED,
    "code_execution_tool_result": _SERVER_RESULT,
    "bash_code_execution_tool_result": _SERVER_RESULT,
    "text_editor_code_execution_tool_result": _SERVER_RESULT,
    "tool_search_tool_result": _SERVER_RESULT,
    "advisor_tool_result": _SERVER_RESULT,
    "container_upload": Kind({"file_id": _IDS}, _CACHED, ("user", "assistant")),
    "mcp_tool_use": Kind({"id": _IDS, "name": NAMES, "server_name": NAMES, "input": _INPUT}, _CACHED),
    "mcp_tool_result": Kind(
        {"tool_use_id": _IDS},
        {**_CACHED, "content": st.one_of(TEXTS, st.lists(_TEXT_BLOCK, max_size=2)), "is_error": st.booleans()},
    ),
    "mcp_tool_listing": Kind({"mcp_server_name": NAMES, "tools": st.lists(_INPUT, max_size=2)}),
    "compaction": Kind(
        {"content": st.one_of(st.none(), WORDS)},
        {
            **_CACHED,
            "encrypted_content": st.one_of(st.none(), TEXTS),
            "signature": st.one_of(st.none(), TEXTS),
            "tool_changes": st.none(),
        },
    ),
    "fallback": Kind({"from": _INPUT, "to": _INPUT}, {"trigger": st.one_of(st.none(), _INPUT)}),
    "tool_addition": Kind({"tool": _TOOL}, _CACHED, ("system",)),
    "tool_removal": Kind({"tool": _TOOL}, _CACHED, ("system",)),
}
"""Every kind of block. Source: Messages API documentation, content blocks, 2026-11."""

UNKNOWN_KEYS: Final[SearchStrategy[str]] = st.one_of(
    TEXTS, st.sampled_from(["extra", "kind", "from_", "self", "Type", "type ", "parsed_output"])
)


@st.composite
def _shuffled(draw: st.DrawFn, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in draw(st.permutations(list(value)))}


@st.composite
def blocks(draw: st.DrawFn, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, Any]:
    """Generate valid blocks of known kinds: optional keys absent, null or present, keys in any order."""
    name = draw(st.sampled_from(list(kinds)))
    kind = KINDS[name]
    drawn = draw(st.fixed_dictionaries(dict(kind.required), optional=dict(kind.optional)))
    return draw(_shuffled({"type": name, **drawn}))


@st.composite
def received_blocks(draw: st.DrawFn) -> dict[str, Any]:
    """Generate any JSON object with a type: kinds and keys nobody knows, known keys with anything in them."""
    name = draw(st.one_of(st.sampled_from(list(KINDS)), TEXTS))
    kind = KINDS.get(name, Kind({}))
    value = {key: draw(values(leaves=3)) for key in kind.required if draw(st.integers(0, 9))}
    value |= {key: draw(st.one_of(st.none(), values(leaves=3))) for key in kind.optional if draw(st.booleans())}
    value |= draw(st.dictionaries(UNKNOWN_KEYS.filter(lambda key: key != "type"), values(leaves=3), max_size=3))
    return draw(_shuffled({"type": name, **value}))


# --- messages ----------------------------------------------------------------------------------------------------


@st.composite
def messages(draw: st.DrawFn, role: str) -> dict[str, Any]:
    """Generate messages that can be appended: a string, or blocks that belong to the role."""
    kinds = [name for name, kind in KINDS.items() if role in kind.roles]
    content = draw(st.one_of(WORDS, st.lists(blocks(kinds), min_size=1, max_size=3)))
    return draw(_shuffled({"role": role, "content": content}))


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Generate whole histories, the user first; roles may repeat."""
    roles = draw(st.lists(st.sampled_from(["user", "assistant", "user", "assistant", "system"]), max_size=5))
    return [draw(messages(role)) for role in ("user", *roles)]


ANSWER_KINDS: Final = [name for name, kind in KINDS.items() if "assistant" in kind.roles]


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Generate the ``content`` array of an answer as bytes, in any spelling; text may be empty or blank."""
    text = st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS})
    each = st.one_of(text, blocks(ANSWER_KINDS), received_blocks().filter(_not_empty_type))
    return spelled(draw(st.lists(each, max_size=4)), draw(st.integers(0, 2**32)))


def _not_empty_type(block: Mapping[str, Any]) -> bool:
    return bool(block["type"])


PREFILLS: Final[SearchStrategy[str | list[dict[str, Any]] | None]] = st.one_of(
    st.none(),
    WORDS.map(lambda words: words.strip() or "The"),
    st.lists(_TEXT_BLOCK, min_size=1, max_size=2),
)
"""What is put in the model's mouth: nothing, words, or text blocks."""
