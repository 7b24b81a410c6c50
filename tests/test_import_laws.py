"""Laws of importing: twice is once, a part and then the whole is the whole, and no damage is more than a report."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversation_store import Store
from conversation_store.errors import CodecError, ContentError
from conversation_store.formats.documents import Document, Value
from tests import sources, strategies

WORDS: Final = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@st.composite
def sessions(draw: st.DrawFn) -> sources.Session:
    """Draw a session: prompts, answers of several blocks, calls in parallel, summaries, sidechains and other lines."""
    session, calls = sources.Session(), 0
    for n in range(draw(st.integers(1, 6))):
        if n and draw(st.booleans()):
            last = session.last
            session.add("system", below=None, logicalParentUuid=last, subtype="compact_boundary", content="Compacted")
            session.user(draw(WORDS), isCompactSummary=True)
        else:
            session.user(draw(WORDS))
        session.beside("last-prompt", lastPrompt="x")
        blocks: list[dict[str, Any]] = [{"type": "text", "text": draw(WORDS)} for _ in range(draw(st.integers(0, 2)))]
        called = [sources.call(calls + m) for m in range(draw(st.integers(0, 3)))]
        calls += len(called)
        lines = session.answer(f"msg_{n}", *blocks, *called)[len(blocks) :]
        for line, each in zip(lines, called, strict=True):
            session.result(each["id"], draw(WORDS), line)
        if draw(st.booleans()):
            session.add("attachment", attachment={"type": "environment"})
    return session


def told(store: Store) -> dict[str | None, tuple[str | None, list[bytes]]]:
    """Read every conversation's title and turns."""
    return {each.key: (each.title, [turn.wire for turn in store.get(each.id).turns]) for each in store.list(limit=1000)}


@given(sessions(), st.lists(st.integers(0, 60), max_size=3))
def test_any_part_of_a_session_and_then_the_whole_is_the_whole(session: sources.Session, parts: list[int]) -> None:
    """Read while it is written, at whatever line, and read again at its end."""
    with Store("sqlite://") as store, Store("sqlite://") as other:
        for part in sorted(parts):
            store.import_from(session.written(min(part, len(session.lines))), "claude-code")
        report = store.import_from(session.written(), "claude-code")
        other.import_from(session.written(), "claude-code")
        assert report.refused == []
        assert told(store) == told(other)
        again = store.import_from(session.written(), "claude-code")
        assert (again.added, again.here) == (0, report.added + report.here)
        assert store.verify() == []


@cache
def whole(form: str) -> Sequence[Any]:
    """Make the values of a source of each form that is JSON."""
    if form == "claude-ai":
        return sources.export(3)
    if form == "openai":
        return sources.CHAT
    if form == "openai-agents":
        return sources.ITEMS
    if form == "messages":
        return [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]
    if form == "langchain":
        made: Sequence[Any] = sources.library("langchain_core.messages").messages_to_dict(sources.chain_messages())
        return made
    read: Sequence[Any] = json.loads(sources.agent_run())
    return read


JSON_FORMS: Final = ("messages", "claude-ai", "openai", "openai-agents", "langchain", "pydantic-ai")


@pytest.mark.parametrize("form", JSON_FORMS)
def test_any_part_of_an_array_and_then_the_whole_is_the_whole(form: str) -> None:
    """However many of its values were there, the rest is added, and a second time nothing."""
    values = whole(form)
    key: dict[str, Any] = {} if form == "claude-ai" else {"key": "k"}
    with Store("sqlite://") as other:
        other.import_from(values, form, **key)
        expected = told(other)
    for upto in range(1, len(values)):
        with Store("sqlite://") as store:
            store.import_from(values[:upto], form, **key)
            store.import_from(values, form, **key)
            assert told(store) == expected, upto
            assert store.import_from(values, form, **key).added == 0


# --- damage --------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut, double, overwrite and insert at places of its own choosing."""
    torn = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(torn)))
        to = min(len(torn), at + draw(st.integers(0, 40)))
        junk = draw(
            st.binary(max_size=8)
            | strategies.json_bytes()
            | st.sampled_from([b"[" * 300, b"\xff", b'"', b"}", b"1e999", b'"\\ud800"'])
        )
        torn[at:to] = draw(st.sampled_from([b"", junk, bytes(torn[at:to]) * 2]))
    return bytes(torn)


@st.composite
def twisted(draw: st.DrawFn, value: Any, depth: int = 0) -> Any:
    """Put values of any kind in the places of others."""
    if draw(st.integers(0, 12)) == 0:
        return draw(st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.just([]) | st.just({}))
    if isinstance(value, Mapping) and depth < 6:
        return {name: draw(twisted(each, depth + 1)) for name, each in value.items() if draw(st.integers(0, 15))}
    if isinstance(value, list | tuple) and depth < 6:
        return [draw(twisted(each, depth + 1)) for each in value]
    return value


def take(store: Store, data: bytes, form: str) -> None:
    """Import, and hold the store to what it promises whatever came."""
    try:
        first = store.import_from(data, form, key="k", system=True)
    except (CodecError, ContentError):
        return
    again = store.import_from(data, form, key="k", system=True)
    assert (again.added, again.here) == (0, first.added + first.here)
    assert again.refused == first.refused
    assert store.verify() == []


@settings(max_examples=60)
@given(st.data())
@pytest.mark.parametrize("form", [*JSON_FORMS, "claude-code"])
def test_damage_is_a_report_or_a_typed_error(form: str, data: st.DataObject) -> None:
    """Bytes that were torn, and JSON whose values are of other kinds: whatever can be taken is, and twice is once."""
    if form == "claude-code":
        lines = sources.eventful().lines
        twist = b"".join(strategies.spelled(data.draw(twisted(line)), 1) + b"\n" for line in lines)
        torn = data.draw(damaged(sources.eventful().written()))
    else:
        twist = json.dumps(data.draw(twisted(list(whole(form))))).encode()
        torn = data.draw(damaged(json.dumps(whole(form)).encode()))
    for each in (twist, torn):
        with Store("sqlite://") as store:
            take(store, each, form)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Let each library write its file."""
    folder = tmp_path_factory.mktemp("tables")
    sources.llm_log(folder / "llm")
    sources.agents_session(folder / "openai-agents", "user 7")
    sources.chain_history(folder / "langchain", "room 1", sources.chain_messages())
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("form", ["llm", "openai-agents", "langchain"])
def test_damaged_tables_are_a_report_or_a_typed_error(
    tables: Mapping[str, bytes], form: str, data: st.DataObject
) -> None:
    """Bytes overwritten anywhere in the file, or cut off."""
    torn = bytearray(tables[form])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(torn) - 1))
        junk = data.draw(st.binary(min_size=1, max_size=64))
        torn[at : at + len(junk)] = junk
    cut = data.draw(st.none() | st.integers(0, len(torn)))
    with Store("sqlite://") as store:
        take(store, bytes(torn[:cut]), form)


# --- documents -----------------------------------------------------------------------------------------------------


@given(st.lists(strategies.json_bytes() | st.binary(max_size=6).filter(lambda data: b"\n" not in data), max_size=6))
def test_lines_are_read_one_by_one(lines: list[bytes]) -> None:
    """Each value from its own bytes, wherever it stands; what is none is told with its line."""
    kept = [line.replace(b"\n", b" ").replace(b"\r", b" ") for line in lines]
    document = Document(io.BytesIO(b"\n".join(kept)))
    found = list(document.lines())
    full = [n for n, line in enumerate(kept, 1) if line.strip()]
    if not kept or not kept[0].startswith(b"\xef\xbb\xbf"):
        assert [each.place for each in found] == [f"line {n}" for n in full]
    for each in found:
        if isinstance(each, Value):
            assert document.part(each.start, len(each.data)) == each.data
            assert strategies.parsed(each.data) == each.value or each.value != each.value


@given(st.lists(strategies.json_bytes(), max_size=6), st.integers(1, 9))
def test_items_of_an_array_keep_their_bytes(items: list[bytes], size: int) -> None:
    """However the file is cut into pieces, an item is the bytes between its commas."""

    class Trickling(io.BytesIO):
        """Gives a few bytes at a time."""

        def read(self, _count: int | None = -1, /) -> bytes:
            return super().read(size)

    data = b"[" + b",".join(items) + b"]"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "a"
        file.write_bytes(data)
        with file.open("rb") as opened:
            at_once = [each.data for each in Document(opened).values() if isinstance(each, Value)]
    assert [each.strip() for each in at_once] == [each.strip() for each in items]
    document = Document(Trickling(data))
    assert [each.data for each in document._items() if isinstance(each, Value)] == at_once
