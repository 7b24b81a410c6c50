"""Every kind of block has a typed view, and a view forgets nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from hypothesis import given

from conversation_store.errors import AttachmentError
from conversation_store.record import media
from conversation_store.record.blocks import (
    ABSENT,
    KNOWN,
    Document,
    Fallback,
    Image,
    Text,
    Thinking,
    ToolUse,
    Unknown,
)
from conversation_store.record.codec import block_of, blocks_of, value_of
from tests.pictures import jpeg, pdf, png
from tests.strategies import KINDS, blocks, received_blocks, same

DOCUMENTED: Final = {
    *("text", "image", "document", "search_result", "tool_result", "tool_use", "thinking", "redacted_thinking"),
    *("server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"),
    *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result"),
    *("container_upload", "tool_reference", "browser_state", "advisor_tool_result", "mcp_tool_use"),
    *("mcp_tool_result", "mcp_tool_listing", "compaction", "fallback", "tool_addition", "tool_removal"),
}
"""Every type with a published schema. Source: Messages API documentation, content blocks, 2026-11."""


def test_every_documented_kind_has_a_view() -> None:
    """Neither a view nor a generator is missing, and none is invented."""
    assert set(KNOWN) == set(KINDS) == DOCUMENTED


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_has_the_documented_fields(kind: str) -> None:
    """Each documented key is an attribute of its view, and those that may be missing are ``ABSENT`` by default."""
    found = {each.metadata.get("name", each.name): each for each in attrs.fields(KNOWN[kind])}
    del found["extra"]
    assert set(found) == {*KINDS[kind].required, *KINDS[kind].optional}
    assert {name for name, each in found.items() if each.default is ABSENT} == set(KINDS[kind].optional)


@given(received_blocks())
def test_the_law(value: dict[str, Any]) -> None:
    """Looked at as a block and written again, any object with a type is the same: absent, null and empty too."""
    assert same(value_of(block_of(value)), value)


@given(blocks())
def test_a_valid_block_is_never_unknown(value: dict[str, Any]) -> None:
    """What the documentation allows gets its typed view, each key under its own name."""
    block = block_of(value)
    assert type(block) is KNOWN[value["type"]]
    assert block.extra == {}
    for name in {*KINDS[value["type"]].required, *KINDS[value["type"]].optional}:
        found = getattr(block, {"from": "from_"}.get(name, name))
        assert same(found, value[name]) if name in value else found is ABSENT


@pytest.mark.parametrize(
    "value",
    [
        {"type": "text"},
        {"type": "text", "citations": None},
        {"type": "tool_use", "id": "t", "name": "n"},
        {"type": "fallback", "from_": {}, "to": {}},
        {"type": ""},
        {"type": None, "text": "a"},
        {"type": ["text"], "text": "a"},
        {"type": "Text", "text": "a"},
        {"type": "connector_text", "text": "a", "kind": "b", "extra": {}},
    ],
)
def test_what_is_not_as_documented_is_kept_whole(value: dict[str, Any]) -> None:
    """An unknown type, or a known one that lacks what it must have, is shown as it is, not repaired."""
    block = block_of(value)
    assert type(block) is Unknown
    assert same(value_of(block), value)


def test_absent_null_and_empty_are_three_things() -> None:
    """A key that is missing reads as ``ABSENT``, which is false and is not None."""
    values: list[dict[str, Any]] = [{}, {"citations": None}, {"citations": []}]
    seen = [block_of({"type": "text", "text": "a", **value}) for value in values]
    assert [block.citations for block in seen if isinstance(block, Text)] == [ABSENT, None, []]
    assert [value_of(block) for block in seen] == [{"type": "text", "text": "a", **value} for value in values]
    assert not ABSENT
    assert repr(ABSENT) == "ABSENT"


def test_keys_newer_than_this_library() -> None:
    """Unknown keys are in ``extra`` and are written back."""
    value = {"type": "text", "text": "a", "mood": {"n": 1.0}}
    block = block_of(value)
    assert block == Text("a", extra={"mood": {"n": 1.0}})
    assert value_of(block) == value


def test_a_string_is_one_text_block() -> None:
    """Content given as a string looks the same as one text block; what is no content looks empty."""
    assert blocks_of("Hello") == (Text("Hello"),)
    assert blocks_of([{"type": "text", "text": "Hello"}, "no block"]) == (Text("Hello"),)
    assert blocks_of(None) == blocks_of(7) == ()


def test_a_key_that_is_a_keyword() -> None:
    """``from`` of a fallback is ``from_`` here and ``from`` on the wire."""
    block = Fallback({"model": "a"}, {"model": "b"})
    assert value_of(block) == {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}
    assert block_of(value_of(block)) == block


def test_a_repr_shows_no_secrets_of_the_api() -> None:
    """Signatures, encrypted data and pictures do not flood a log."""
    shown = repr((Thinking("hm", "c2lnbmF0dXJl"), Image.from_bytes(png()), ToolUse("t", "n", {})))
    assert "c2ln" not in shown
    assert "base64" in shown
    assert len(shown) < 300


# --- files -------------------------------------------------------------------------------------------------------


def test_pictures_and_documents_from_bytes_and_files(tmp_path: Path) -> None:
    """The media type is that of the bytes, whatever the file is called, and the bytes come back."""
    misnamed = tmp_path / "ant.png"
    misnamed.write_bytes(jpeg())
    image = Image.open(misnamed)
    assert image.source["media_type"] == "image/jpeg"
    assert image == Image.from_bytes(jpeg())
    assert image.data == jpeg()
    paper = tmp_path / "ants.pdf"
    paper.write_bytes(pdf())
    document = Document.open(str(paper), title="Ants")
    assert document.source["media_type"] == "application/pdf"
    assert (document.title, document.data) == ("Ants", pdf())
    assert value_of(Document.from_bytes(pdf())).keys() == {"type", "source"}


def test_pictures_and_documents_that_are_elsewhere() -> None:
    """A URL, a file id and a plain text are written as the API wants them; there are no bytes to be had."""
    for cls in (Image, Document):
        assert cls.from_url("https://ants.example/1").source == {"type": "url", "url": "https://ants.example/1"}
        assert cls.from_file_id("file_1").source == {"type": "file", "file_id": "file_1"}
        assert cls.from_url("https://ants.example/1").data is None
    text = Document.from_text("Ants.", title="On ants")
    assert text.source == {"type": "text", "media_type": "text/plain", "data": "Ants."}
    assert (text.title, text.data) == ("On ants", None)


def test_a_file_of_the_wrong_kind(tmp_path: Path) -> None:
    """A PDF is no image, an image no document, a folder or a missing file neither; the error names the file."""
    (tmp_path / "a").write_bytes(pdf())
    (tmp_path / "b").write_bytes(png())
    (tmp_path / "c").write_bytes(b"")
    for cls, name in ((Image, "a"), (Document, "b"), (Image, "c"), (Document, "c"), (Image, "d"), (Image, ".")):
        with pytest.raises(AttachmentError) as caught:
            cls.open(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_too_large_is_not_even_read(tmp_path: Path) -> None:
    """The size is looked at first: a file of a terabyte costs nothing."""
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(AttachmentError, match=str(media.REQUEST_BYTES)):
        Image.open(huge)
