"""
Rules of one block, by its type; only a caller's blocks are held to them.

To add a rule: write a generator ``(block, n, place)``, cite its source, and name it in ``OF_A_BLOCK``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from conversation_store.api.rules.findings import Finding, named
from conversation_store.api.rules.places import Place
from conversation_store.errors import AttachmentError
from conversation_store.record import codec, media, splices
from conversation_store.record.exchange import between_cited
from conversation_store.record.media import Media

Block: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[Block, int, Place], Iterator[Finding]]

EXTRA: Final = "Extra inputs are not permitted"
REQUIRED: Final = "Field required"
_STRING: Final = "Input should be a valid string"
_LIST: Final = "Input should be a valid list"
_ID: Final = re.compile(r"[a-zA-Z0-9_-]+\Z")
_SERVER_ID: Final = re.compile(r"srvtoolu_[a-zA-Z0-9_]+\Z")
_IMAGES: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")
_LONGEST_NAME: Final = 200
_SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "base64": ("data", "media_type"),
    "text": ("data", "media_type"),
    "content": ("content",),
    "url": ("url",),
    "file": ("file_id",),
}
_SOURCES_OF: Final = {"image": ("base64", "url", "file"), "document": tuple(_SOURCES)}
_MEDIA_TYPES: Final = {
    ("image", "base64"): _IMAGES,
    ("document", "base64"): ("application/pdf",),
    ("document", "text"): ("text/plain",),
}
_IN_A_RESULT: Final = frozenset({"text", "image", "document", "search_result", "tool_reference", "browser_state"})


def kind_of(block: object) -> str | None:
    """Read a block's type; None where it is no block, or says nothing that is one."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    return kind if isinstance(kind, str) else None


def inner(block: Block) -> Iterator[tuple[str, Sequence[Any]]]:
    """Find the lists of blocks that a caller may put into a block, each with what leads to it."""
    kind, content = kind_of(block), block.get("content")
    if kind in {"tool_result", "search_result"} and isinstance(content, list):
        yield f"{kind}.content", content
    source = block.get("source")
    if kind == "document" and isinstance(source, Mapping) and isinstance(source.get("content"), list):
        yield "document.source.content.content", source["content"]


def measured(source: Block, place: Place) -> Media | None:
    """Tell what a picture or document is from its header; nothing is decoded."""
    data = source.get("data")
    kept = place.attachment(data)
    if kept is not None:
        return kept.media
    raw = splices.decode(data.encode()) if isinstance(data, str) and data.isascii() else None
    try:
        return media.measure(raw) if raw else None
    except AttachmentError:
        return None


# --- of any block ------------------------------------------------------------------------------------------------


def block_type(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A block says of which type it is; one that is not known may be refused.

    Source: Messages API documentation, Content blocks, 2026-11.
    """
    kind = block.get("type")
    if not isinstance(kind, str):
        yield place.error(n, REQUIRED, "type")
    elif kind not in codec.KEYS and kind != "connector_text":
        yield place.warning(n, f"the block type {kind!r} is not known; the API refuses what it does not know")


def block_keys(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A block has the keys of its type: those it must have, and no others.

    Source: Messages API documentation, Errors and Content blocks, 2026-11.
    """
    kind = block["type"]
    for key in codec.REQUIRED_KEYS[kind]:
        if key not in block:
            yield place.error(n, REQUIRED, f"{kind}.{key}")
    if not block.keys() <= codec.KEYS[kind]:
        for key in block:
            if key not in codec.KEYS[kind]:
                yield place.error(n, EXTRA, f"{kind}.{key}")


def marker_shape(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A cache marker is ephemeral, for five minutes or an hour.

    Source: Messages API documentation, Prompt caching, 2026-10.
    """
    marker = block.get("cache_control")
    if marker is not None:
        for rest, message in marker_faults(marker):
            yield place.error(n, message, f"{block['type']}.cache_control{rest}")


def marker_faults(marker: object) -> Iterator[tuple[str, str]]:
    """Say what is wrong with a cache marker, wherever it stands: where in it, and why."""
    if not isinstance(marker, Mapping):
        yield "", "Input should be a valid dictionary"
        return
    if marker.get("type") != "ephemeral":
        yield "", "Input tag does not match any of the expected tags: 'ephemeral'"
        return
    if "ttl" in marker and marker["ttl"] not in ("5m", "1h"):
        yield ".ephemeral.ttl", "Input should be '5m' or '1h'"
    for key in marker:
        if key not in ("type", "ttl"):
            yield f".ephemeral.{key}", EXTRA


# --- text --------------------------------------------------------------------------------------------------------


def text_is_string(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    Text is a string.

    Source: Messages API documentation, Content blocks, 2026-11.
    """
    if "text" in block and not isinstance(block["text"], str):
        yield place.error(n, _STRING, "text")


_CITED: Final = ("cited_text", "document_index", "document_title")
_CITATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "char_location": (*_CITED, "start_char_index", "end_char_index"),
    "page_location": (*_CITED, "start_page_number", "end_page_number"),
    "content_block_location": (*_CITED, "start_block_index", "end_block_index"),
    "web_search_result_location": ("cited_text", "encrypted_index", "title", "url"),
    "search_result_location": (
        "cited_text",
        "search_result_index",
        "source",
        "title",
        "start_block_index",
        "end_block_index",
    ),
}


def citations_shape(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A citation has all keys of its type, those with null too.

    Source: Messages API documentation, Citations, 2026-11.
    """
    citations = block.get("citations")
    if citations is None:
        return
    if not isinstance(citations, (list, tuple)):
        yield place.error(n, _LIST, "text.citations")
        return
    for m, each in enumerate(citations):
        kind = each.get("type") if isinstance(each, Mapping) else None
        if not isinstance(kind, str) or kind not in _CITATIONS:
            yield place.warning(n, f"the citation type {kind!r} is not known", f"text.citations.{m}")
            continue
        for key in _CITATIONS[kind]:
            if key not in each:
                yield place.error(n, REQUIRED, f"text.citations.{m}.{kind}.{key}")


def citing_shape(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    Whether a document is to be cited is said by enabled alone.

    Source: Messages API documentation, Citations, 2026-11.
    """
    citing = block.get("citations")
    if citing is None:
        return
    path = f"{block['type']}.citations"
    if not isinstance(citing, Mapping):
        yield place.error(n, "Input should be a valid dictionary", path)
        return
    for key in citing:
        if key != "enabled":
            yield place.error(n, EXTRA, f"{path}.{key}")
    if not isinstance(citing.get("enabled", False), bool):
        yield place.error(n, "Input should be a valid boolean", f"{path}.enabled")


# --- pictures and documents --------------------------------------------------------------------------------------


def source_shape(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A picture or document comes from where its kind may come from, and says all that is needed.

    Source: Messages API documentation, Vision and PDF support, 2026-08.
    """
    kind, source = block["type"], block.get("source")
    if source is None:
        return
    form = source.get("type") if isinstance(source, Mapping) else None
    if form not in _SOURCES_OF[kind]:
        expected = ", ".join(map(repr, _SOURCES_OF[kind]))
        yield place.error(n, f"Input tag does not match any of the expected tags: {expected}", f"{kind}.source")
        return
    for key in _SOURCES[form]:
        if key not in source:
            yield place.error(n, REQUIRED, f"{kind}.source.{form}.{key}")
    for key in source:
        if key != "type" and key not in _SOURCES[form]:
            yield place.error(n, EXTRA, f"{kind}.source.{form}.{key}")
    allowed = _MEDIA_TYPES.get((kind, form), ())
    if allowed and "media_type" in source and source["media_type"] not in allowed:
        expected = " or ".join(map(repr, allowed))
        yield place.error(n, f"Input should be {expected}", f"{kind}.source.{form}.media_type")


def image_bytes(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A picture has at most 10 MB of base64.

    Source: Messages API documentation, Vision, 2026-08.
    """
    source = block.get("source")
    data = source.get("data") if isinstance(source, Mapping) else None
    if isinstance(data, str):
        kept = place.attachment(data)
        size = kept.length if kept is not None else len(data)
        if size > media.IMAGE_BASE64:
            message = f"image exceeds 10 MB maximum: {size} bytes > {media.IMAGE_BASE64} bytes"
            yield place.error(n, message, "image.source.base64", fix="set_aside")


def image_side(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A picture has at most 8000 pixels a side.

    Source: Messages API documentation, Vision, 2026-08.
    """
    source = block.get("source")
    found = measured(source, place) if isinstance(source, Mapping) else None
    side = max(found.width or 0, found.height or 0) if found is not None else 0
    if side > media.IMAGE_SIDE:
        message = f"At least one of the image dimensions exceed max allowed size: {media.IMAGE_SIDE} pixels"
        yield place.error(n, f"{message}; this one has {side}", "image.source.base64.data", fix="set_aside")


def search_result_content(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A search result holds text, one block at least, and nothing else.

    Source: Messages API documentation, Search results, 2026-11.
    """
    content = block.get("content", ())
    if not isinstance(content, (list, tuple)):
        yield place.error(n, _LIST, "search_result.content")
        return
    if "content" in block and not content:
        yield place.warning(n, "a search result holds one text block at least", "search_result.content")
    for m, each in enumerate(content):
        if not isinstance(each, Mapping) or each.get("type") != "text":
            yield place.error(n, "a search result holds text blocks alone", f"search_result.content.{m}")


# --- calls and results -------------------------------------------------------------------------------------------


def tool_ids(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    Ids of calls are of letters, digits, _ and -.

    Source: Messages API, error text of 2026-02.
    """
    key = "tool_use_id" if block["type"] == "tool_result" else "id"
    name = block.get(key, "-")
    if not isinstance(name, str) or not _ID.match(name):
        yield place.error(n, "String should match pattern '^[a-zA-Z0-9_-]+$'", f"{block['type']}.{key}")


def server_tool_ids(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    Ids of the API's own calls begin with srvtoolu_.

    Source: Messages API, error text of 2025-12.
    """
    name = block.get("id", "srvtoolu_1")
    if not isinstance(name, str) or not _SERVER_ID.match(name):
        yield place.error(n, "String should match pattern '^srvtoolu_[a-zA-Z0-9_]+$'", "server_tool_use.id")


def tool_call_shape(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A call names its tool in at most 200 characters and gives an object.

    Source: Messages API, error text of 2026-02; Messages API documentation, Tool use, 2026-10.
    """
    kind, name = block["type"], block.get("name", "-")
    if not isinstance(name, str):
        yield place.error(n, _STRING, f"{kind}.name")
    elif kind == "tool_use" and len(name) > _LONGEST_NAME:
        yield place.error(n, f"String should have at most {_LONGEST_NAME} characters", f"{kind}.name")
    if not isinstance(block.get("input", {}), Mapping):
        yield place.error(n, "Input should be a valid dictionary", f"{kind}.input")


def caller_given(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    Who called is left out rather than null.

    Source: Messages API documentation, Programmatic tool calling, 2026-08; whether null is refused is uncertain.
    """
    if "caller" in block and block["caller"] is None:
        yield place.warning(n, "leave the key out rather than giving null", f"{block['type']}.caller")


def result_shape(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A result holds a string or blocks that may stand in one, and is an error or not.

    Source: Messages API documentation, Handle tool calls, 2026-10.
    """
    content = block.get("content", "")
    if not isinstance(block.get("is_error", False), bool):
        yield place.error(n, "Input should be a valid boolean", "tool_result.is_error")
    if isinstance(content, str):
        return
    if not isinstance(content, (list, tuple)):
        yield place.error(n, _LIST, "tool_result.content")
        return
    for m, each in enumerate(content):
        kind = kind_of(each)
        message = f"Input tag '{kind}' does not match any of the expected tags"
        if not isinstance(kind, str) or kind in codec.KEYS:
            if kind not in _IN_A_RESULT:
                yield place.error(n, message, f"tool_result.content.{m}")
        else:  # newer than this library, it may be
            yield place.warning(n, message, f"tool_result.content.{m}")


def search_results_alone(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    Search results share a tool's result with nothing else.

    Source: Messages API documentation, Search results, 2026-11.
    """
    content = block.get("content")
    if isinstance(content, list):
        kinds = {str(each.get("type")) for each in content if isinstance(each, Mapping)}
        if "search_result" in kinds and len(kinds) > 1:
            message = "`search_result` blocks cannot be mixed with other types"
            yield place.error(n, message, "tool_result.content")


def browser_tabs(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    Of a browser's tabs one is active; changes are left out rather than empty.

    Source: Messages API documentation, Browser toolset, 2026-11.
    """
    tabs = block.get("tabs")
    if isinstance(tabs, list) and tabs:
        active = sum(isinstance(tab, Mapping) and tab.get("active") is True for tab in tabs)
        if active != 1:
            yield place.warning(n, f"exactly one tab is active, not {active}", "browser_state.tabs")
    if block.get("state_changes") == []:
        yield place.warning(n, "leave the key out where nothing changed", "browser_state.state_changes")


def compaction_content(block: Block, n: int, place: Place) -> Iterator[Finding]:
    """
    A compaction holds words, or null where it failed.

    Source: Messages API documentation, Compaction, 2026-10.
    """
    if block.get("content") == "":
        yield place.error(n, "the content of a compaction is not empty", "compaction.content")


_ANY: Final = (block_keys, marker_shape)
_SERVER_RESULT: Final = (*_ANY, caller_given)

OF_A_BLOCK: Final[Mapping[str, Sequence[Rule]]] = {
    **dict.fromkeys(codec.KEYS, _ANY),
    "text": (*_ANY, text_is_string, citations_shape),
    "image": (*_ANY, source_shape, image_bytes, image_side),
    "document": (*_ANY, source_shape, citing_shape),
    "search_result": (*_ANY, search_result_content, citing_shape),
    "browser_state": (*_ANY, browser_tabs),
    "tool_use": (*_ANY, tool_ids, tool_call_shape, caller_given),
    "tool_result": (*_ANY, tool_ids, result_shape, search_results_alone),
    "server_tool_use": (*_ANY, server_tool_ids, tool_call_shape, caller_given),
    "mcp_tool_use": (*_ANY, tool_ids, tool_call_shape),
    "web_search_tool_result": _SERVER_RESULT,
    "web_fetch_tool_result": _SERVER_RESULT,
    "compaction": (*_ANY, compaction_content),
}
_OF_AN_UNKNOWN: Final = (block_type,)


def text_not_blank(blocks: Sequence[Any], place: Place) -> Iterator[Finding]:
    """
    Text is neither empty nor only white space, in results and documents too.

    Source: Messages API, errors seen for empty text, 2024 to 2026; recorded exchanges of 2026.
    """
    for n, block in enumerate(blocks):
        if not isinstance(block, Mapping) or block.get("type") != "text":
            continue
        text = block.get("text")
        if not isinstance(text, str) or text.strip():
            continue
        if not text and block.get("cache_control"):
            yield place.error(n, "cache_control cannot be set for empty text blocks", "text", fix="set_aside")
        elif not text:
            yield place.error(n, "text content blocks must be non-empty", "text", fix="set_aside")
        elif not between_cited(blocks, n):
            yield place.error(n, "text content blocks must contain non-whitespace text", "text", fix="set_aside")


def check_blocks(blocks: Sequence[Any], place: Place) -> list[Finding]:
    """Hold a list of blocks, and what stands in them, to the rules of their types."""
    found: list[Finding] = []
    for n, block in enumerate(blocks):
        kind = kind_of(block)
        for rule in OF_A_BLOCK.get(kind or "", _OF_AN_UNKNOWN):
            found += named(rule, rule(block if isinstance(block, Mapping) else {}, n, place))
        if isinstance(block, Mapping) and kind in _HOLDING:
            for rest, held in inner(block):
                found += check_blocks(held, place.within(n, rest))
    return found + named(text_not_blank, text_not_blank(blocks, place))


_HOLDING: Final = frozenset({"tool_result", "search_result", "document"})
