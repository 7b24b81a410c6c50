"""
Between JSON values and typed blocks, in both directions: the one cattrs converter.

Two directions with two tempers. What came from the API becomes a view, whatever it is: unknown kinds and
keys are kept. What a caller gives is checked first: an unknown key is a mistake, and the API would say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import NOTHING, fields

from conversation_store.errors import ContentError
from conversation_store.record import canonical, splices
from conversation_store.record.blocks import ABSENT, KNOWN, Block, Unknown
from conversation_store.record.splices import Cut, Later, Parted

if TYPE_CHECKING:
    from cattrs import Converter

Content: TypeAlias = "str | Block | Mapping[str, Any]"
"""What a caller may give as one piece of content: words, a block object, or a dict in the API's shape."""

ROLES: Final = ("user", "assistant", "system")

_MESSAGE_KEYS: Final = frozenset({"role", "content"})
_SYSTEM_MESSAGE_KEYS: Final = _MESSAGE_KEYS | {"output_config", "clear_at"}
_SOURCES: Final[Mapping[str, frozenset[str]]] = {
    "base64": frozenset({"type", "media_type", "data"}),
    "text": frozenset({"type", "media_type", "data"}),
    "content": frozenset({"type", "content"}),
    "url": frozenset({"type", "url"}),
    "file": frozenset({"type", "file_id"}),
}
_CACHE_CONTROL: Final = frozenset({"type", "ttl"})


def _names(kind: type[Block]) -> dict[str, str]:
    """Map each key of a kind to its attribute; they differ only where the key is a keyword."""
    return {each.metadata.get("name", each.name): each.name for each in fields(kind) if each.name != "extra"}


_NAMES: Final = {kind: _names(cls) for kind, cls in KNOWN.items()}
_REQUIRED: Final = {
    kind: [each.metadata.get("name", each.name) for each in fields(cls) if each.default is NOTHING]
    for kind, cls in KNOWN.items()
}

KEYS: Final[Mapping[str, frozenset[str]]] = {kind: frozenset({"type", *names}) for kind, names in _NAMES.items()}
"""The keys that the API knows in a block of each type."""

REQUIRED_KEYS: Final[Mapping[str, Sequence[str]]] = _REQUIRED
"""Those of them that must be there."""


def _structure(value: Any, _: object) -> Block:
    kind = value.get("type")
    names = _NAMES.get(kind) if isinstance(kind, str) else None
    if names is None or any(name not in value for name in _REQUIRED[kind]):
        # A known kind that lacks what it must have is shown as it is, not repaired.
        rest = {name: inner for name, inner in value.items() if name != "type"}
        if isinstance(kind, str):
            return Unknown(kind, extra=rest)
        return Unknown("", extra=dict(value))
    known = {names[name]: inner for name, inner in value.items() if name in names}
    extra = {name: inner for name, inner in value.items() if name not in names and name != "type"}
    return KNOWN[kind](**known, extra=extra)


def _unstructure(block: Block) -> dict[str, Any]:
    if isinstance(block, Unknown):
        return {"type": block.kind, **block.extra} if "type" not in block.extra else dict(block.extra)
    value: dict[str, Any] = {"type": block.type}
    for name, attribute in _NAMES[block.type].items():
        inner = getattr(block, attribute)
        if inner is not ABSENT:
            value[name] = inner
    value.update(block.extra)
    return value


@cache
def _converter() -> Converter:
    # Made when somebody looks at a block: words go by as they are, and most processes never look.
    from cattrs import Converter  # noqa: PLC0415 - likewise

    made = Converter()
    made.register_structure_hook(Block, _structure)
    made.register_unstructure_hook(Block, _unstructure)  # and for every kind of block
    return made


def block_of(value: Mapping[str, Any]) -> Block:
    """Look at a JSON object as a block. Never fails: what it does not know, it keeps as ``Unknown``."""
    return _converter().structure(value, Block)


def value_of(block: Block) -> dict[str, Any]:
    """Write a block as a JSON object: ``type`` first, absent keys left out, unknown keys last."""
    written: dict[str, Any] = _converter().unstructure(block)
    return written


def blocks_of(content: object) -> tuple[Block, ...]:
    """Look at a message's ``content`` as blocks; a string is one text block, as in the API."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        return ()
    return tuple(block_of(each) for each in content if isinstance(each, Mapping))


def content_of(content: Sequence[Content], path: str) -> object:
    """
    Check what a caller gave as content, and write it in the API's shape.

    One string stays a string; anything else becomes a list of blocks.

    Args:
        content: The pieces, in order.
        path: What leads to them in an error: ``messages.3.content``.

    Raises:
        ContentError: Something is no content, or has a key the API does not know.
    """
    if len(content) == 1 and isinstance(content[0], str):
        return content[0]
    return [_written(each, f"{path}.{n}") for n, each in enumerate(content)]


def _written(piece: object, path: str) -> Mapping[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    if isinstance(piece, Unknown):
        return value_of(piece)
    value = value_of(piece) if isinstance(piece, Block) else piece
    if not isinstance(value, Mapping):
        raise ContentError(path, f"a {type(piece).__name__} is no content: give a str, a block, or a dict with a type")
    return _checked(value, path)


def _extra(path: str, key: str) -> ContentError:
    return ContentError(f"{path}.{key}", "Extra inputs are not permitted")


def _only(value: object, allowed: frozenset[str], path: str) -> None:
    if isinstance(value, Mapping):
        for key in value:
            if key not in allowed:
                raise _extra(path, str(key))


def _checked(value: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Check a block, and write the blocks inside it."""
    kind = value.get("type")
    if not isinstance(kind, str):
        raise ContentError(f"{path}.type", "Field required")
    if kind not in KNOWN:
        raise ContentError(path, f"unknown block type {kind!r}; to send it all the same, give an Unknown block")
    here = f"{path}.{kind}"
    for key in value:
        if key != "type" and key not in _NAMES[kind]:
            raise _extra(here, str(key))
    for key in _REQUIRED[kind]:
        if key not in value:
            raise ContentError(f"{here}.{key}", "Field required")
    if kind == "text" and not isinstance(value["text"], str):
        raise ContentError(f"{here}.text", "Input should be a valid string")
    _only(value.get("cache_control"), _CACHE_CONTROL, f"{here}.cache_control")
    source = value.get("source")
    if kind in {"image", "document"}:
        _check_source(source, f"{here}.source")
    inner = value.get("content")
    if kind in {"tool_result", "search_result"} and isinstance(inner, (list, tuple)):
        for n, each in enumerate(inner):
            if not isinstance(each, (Mapping, Block)):
                raise ContentError(f"{here}.content.{n}", "Input should be an object")
        return {**value, "content": [_written(each, f"{here}.content.{n}") for n, each in enumerate(inner)]}
    return value


def _check_source(source: object, path: str) -> None:
    if not isinstance(source, Mapping) or source.get("type") not in tuple(_SOURCES):
        raise ContentError(path, f"Input should be an object with a type out of {', '.join(_SOURCES)}")
    _only(source, _SOURCES[source["type"]], path)
    for key in sorted(_SOURCES[source["type"]]):
        if key not in source:
            raise ContentError(f"{path}.{key}", "Field required")


def tool_result_content(content: object, path: str = "content") -> object:
    """
    Write what a tool returned as the ``content`` of its result.

    Args:
        content: A string, one block or dict in the API's shape, or several in a list.
        path: What leads to it in an error.

    Raises:
        ContentError: Something in it is no content.
    """
    if isinstance(content, str) or content is None or content is ABSENT:
        return ABSENT if content is None else content
    pieces = content if isinstance(content, (list, tuple)) else [content]
    written = [_written(each, f"{path}.{n}") for n, each in enumerate(pieces)]
    # What the caller means all the same is still marked so, where the result itself is written.
    return [old if isinstance(old, Unknown) else new for old, new in zip(pieces, written, strict=True)]


def wire(role: str, content: Sequence[Content], path: str = "") -> bytes:
    """
    Write one message's JSON bytes from what a caller gave; they are stored and sent as they are.

    Raises:
        ContentError: Naming the place, below *path* (``messages.3``; empty for a single message).
    """
    where = f"{path}.content" if path else "content"
    value = content_of(content, where)
    return b'{"role":"' + role.encode() + b'","content":' + canonical.dumps(value, where) + b"}"


def parted(role: str, content: Sequence[Content], path: str = "") -> Parted:
    """
    Write a message as ``wire`` does, without its long strings, which are never in memory all at once.

    Raises:
        ContentError: Naming the place, below *path*.
    """
    where = f"{path}.content" if path else "content"
    value = content_of(content, where)
    opening = b'{"role":"' + role.encode() + b'","content":'
    if not isinstance(value, list):
        return Parted.of(opening + canonical.dumps(value, where) + b"}")
    bodies: list[bytes] = []
    cuts: list[Cut | Later] = []
    offset = len(opening) + 1
    for n, block in enumerate(value):
        again = partial(_cut_block, block, f"{where}.{n}")
        body, found = again()
        cuts += [
            Later(offset + each.offset, each.encoding, len(each.data), partial(_string_of, again, m))
            for m, each in enumerate(found)
        ]
        bodies.append(body)
        offset += len(body) + 1
    return Parted(opening + b"[" + b",".join(bodies) + b"]}", cuts)


def _cut_block(block: object, where: str) -> tuple[bytes, list[Cut]]:
    return splices.cut(canonical.dumps(block, where, depth=1))


def _string_of(again: Callable[[], tuple[bytes, list[Cut]]], n: int) -> bytes:
    return again()[1][n].data


def wire_of_message(message: Mapping[str, Any], path: str) -> tuple[str, bytes]:
    """
    Check a plain message in the API's shape and write its bytes, keys in the order given.

    Returns:
        Its role and its JSON bytes.

    Raises:
        ContentError: Naming the place, below *path*.
    """
    if not isinstance(message, Mapping):
        raise ContentError(path, "a message is a dict with role and content")
    role = message.get("role")
    for key in message:
        if key not in (_SYSTEM_MESSAGE_KEYS if role == "system" else _MESSAGE_KEYS):
            raise _extra(path, str(key))
    if role not in ROLES:
        raise ContentError(f"{path}.role", f"Input should be {', '.join(map(repr, ROLES))}")
    if "content" not in message and role != "system":
        raise ContentError(f"{path}.content", "Field required")
    content = message.get("content", [])
    if isinstance(content, str):
        return role, canonical.dumps(message, path)
    if not isinstance(content, (list, tuple)):
        raise ContentError(f"{path}.content", "Input should be a string or a list of blocks")
    written = [_written(each, f"{path}.content.{n}") for n, each in enumerate(content)]
    return role, canonical.dumps({**message, **({"content": written} if "content" in message else {})}, path)
