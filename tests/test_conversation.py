"""Conversations as their callers meet them: said, kept, asked, resumed, on both databases."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
from attrs import frozen
from sqlalchemy import create_engine, text

from conversation_store import ABSENT, Client, Conversation, Document, Image, Store, Text, ToolUse, Turn, Unknown
from conversation_store.errors import (
    AttachmentError,
    BadRequestError,
    ConflictError,
    ContentError,
    ConversationStoreError,
    RuleViolationError,
)
from conversation_store.testing import Answer, MessagesAPI
from tests import pictures

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}

ODD_TEXTS: Final = (
    "NUL \0 in the middle",
    "\x01\x1f\x7f control characters",
    "ant \U0001f41c, family \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "right to left \u202e mark, \u2066isolate\u2069, \u05d0\u05e0\u05d8",
    "line \u2028 and paragraph \u2029 separators, \ufeff a byte order mark",
    "e\u0301 is not \u00e9",
    "\U0010ffff and \ufffe are the last ones",
    'quotes " and \\ and \\u0000 as letters',
    "\r\n\t kept as they are \x0b",
    "';--\" $1 %s :of {x} ? are only text",
)


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


@pytest.fixture
def store(database_url: str, api: MessagesAPI) -> Iterator[Store]:
    """Give a store with a client of the loopback API."""
    with (
        Client(api.key, base_url=api.url, timeout=30, max_attempts=1) as client,
        Store(database_url, client=client) as opened,
    ):
        yield opened


@pytest.fixture
def chat(store: Store) -> Conversation:
    """Give a conversation in which nothing was said yet."""
    return store.open("telegram:42", **SETTINGS)


def count(url: str, table: str) -> int:
    """Count the rows of a table, past the library."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())
    finally:
        engine.dispose()


def kept(url: str) -> int:
    """Count everything a refused call could have left behind."""
    return sum(count(url, f"conversation{each}") for each in ("_entry", "_exchange", "_blob", "_blob_use"))


# --- saying ------------------------------------------------------------------------------------------------------


@frozen
class Way:
    """A way to say something: what it appends."""

    name: str
    say: Callable[[Conversation], Turn]
    role: str
    origin: str
    wire: bytes


WAYS: Final = (
    Way("words", lambda chat: chat.user("Hello"), "user", "human", b'{"role":"user","content":"Hello"}'),
    Way(
        "two pieces",
        lambda chat: chat.user("Hello", Text("again")),
        "user",
        "human",
        b'{"role":"user","content":[{"type":"text","text":"Hello"},{"type":"text","text":"again"}]}',
    ),
    Way(
        "a dict with its keys in another order",
        lambda chat: chat.user({"text": "Hello", "type": "text"}),
        "user",
        "human",
        b'{"role":"user","content":[{"text":"Hello","type":"text"}]}',
    ),
    Way(
        "a mapping that is no dict",
        lambda chat: chat.user(MappingProxyType({"type": "text", "text": "Hello"})),
        "user",
        "human",
        b'{"role":"user","content":[{"type":"text","text":"Hello"}]}',
    ),
    Way(
        "null is not absent",
        lambda chat: chat.user(Text("Hello", citations=None)),
        "user",
        "human",
        b'{"role":"user","content":[{"type":"text","text":"Hello","citations":null}]}',
    ),
    Way(
        "a synthetic turn",
        lambda chat: chat.assistant("Hello!", reason="canned"),
        "assistant",
        "synthetic",
        b'{"role":"assistant","content":"Hello!"}',
    ),
    Way(
        "a made-up call",
        lambda chat: chat.assistant(ToolUse("toolu_1", "add", {"b": 1.0, "a": 10**30})),
        "assistant",
        "synthetic",
        b'{"role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"add",'
        b'"input":{"b":1.0,"a":1000000000000000000000000000000}}]}',
    ),
    Way(
        "a system message",
        lambda chat: chat.system("Be brief."),
        "system",
        "system",
        b'{"role":"system","content":"Be brief."}',
    ),
    Way(
        "a plain result of a tool",
        lambda chat: chat.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "is_error": False}]}
        )[0],
        "user",
        "tool",
        b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","is_error":false}]}',
    ),
    Way(
        "a block newer than the library",
        lambda chat: chat.user(Unknown("smell", extra={"of": "ants", "strength": None})),
        "user",
        "human",
        b'{"role":"user","content":[{"type":"smell","of":"ants","strength":null}]}',
    ),
    Way(
        "a plain message",
        lambda chat: chat.append({"content": "Hello", "role": "user"})[0],
        "user",
        "human",
        b'{"content":"Hello","role":"user"}',
    ),
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_each_way_to_say_something_keeps_its_exact_bytes_and_its_origin(store: Store, way: Way) -> None:
    """What is said is one turn whose role, origin and bytes are those of its kind, here and in a fresh object."""
    chat = store.open("k", **SETTINGS)
    turn = way.say(chat)
    again = store.get("k").turns[0]
    assert (turn.role, turn.origin, turn.wire) == (way.role, way.origin, way.wire)
    assert (again.role, again.origin, again.wire) == (way.role, way.origin, way.wire)
    assert again == turn
    assert turn.position == 2 == chat.version - 1
    assert (
        chat.request(check=False).body
        == b'{"messages":[' + way.wire + b'],"model":"claude-sonnet-5-5","max_tokens":64}'
    )
    assert chat.verify() == []


def test_a_synthetic_turn_tells_why_it_was_made(chat: Conversation, store: Store) -> None:
    """The reason of a synthetic turn is in the record and in no request."""
    chat.user("Hello")
    chat.assistant("Hello!", reason="canned greeting \U0001f41c")
    assert store.get("telegram:42").turns[1].reason == "canned greeting \U0001f41c"
    assert chat.turns[0].reason is None
    assert b"canned" not in chat.request().body


@pytest.mark.parametrize(
    ("given", "block"),
    [
        ({"content": "18 degrees"}, b'{"type":"tool_result","tool_use_id":"toolu_1","content":"18 degrees"}'),
        ({}, b'{"type":"tool_result","tool_use_id":"toolu_1"}'),
        (
            {"content": [{"text": "no", "type": "text"}], "is_error": True},
            b'{"type":"tool_result","tool_use_id":"toolu_1","content":[{"text":"no","type":"text"}],"is_error":true}',
        ),
    ],
    ids=["words", "empty", "a failure in blocks"],
)
def test_a_result_answers_its_call(store: Store, chat: Conversation, given: Mapping[str, Any], block: bytes) -> None:
    """A tool's result is a turn of its own origin that follows the call and is sent as it was given."""
    chat.user("What is the weather?")
    chat.assistant(ToolUse("toolu_1", "weather", {}))
    turn = chat.tool_result("toolu_1", **given)
    assert (turn.role, turn.origin) == ("user", "tool")
    assert turn.wire == b'{"role":"user","content":[' + block + b"]}"
    assert store.get(chat.id).turns[-1] == turn
    assert b"," + turn.wire + b"]" in store.get(chat.id).request().body
    assert chat.verify() == []


def test_messages_are_appended_all_or_none(chat: Conversation) -> None:
    """Several plain messages are one append; a wrong one among them appends nothing."""
    before = chat.version
    turns = chat.append(
        {"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}
    )
    assert [turn.position for turn in turns] == [before, before + 1]
    assert [turn.origin for turn in turns] == ["human", "synthetic"]
    with pytest.raises(RuleViolationError) as caught:
        chat.append({"role": "user", "content": "c"}, {"role": "user", "content": " "}, {"role": "user", "content": []})
    assert [finding.path for finding in caught.value.findings] == ["messages.1.content", "messages.2.content"]
    assert chat.append() == []
    assert chat.version == before + 2


def test_consecutive_turns_of_one_role_are_sent_as_they_were_said(chat: Conversation, api: MessagesAPI) -> None:
    """Two user turns and two synthetic ones in a row stay four messages."""
    chat.user("one")
    chat.user("two")
    chat.assistant("three")
    chat.assistant("four")
    chat.send("five")
    assert [(each["role"], each["content"]) for each in api.requests[0].body["messages"]] == [
        ("user", "one"),
        ("user", "two"),
        ("assistant", "three"),
        ("assistant", "four"),
        ("user", "five"),
    ]


@pytest.mark.parametrize("said", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
def test_text_of_any_kind_survives(store: Store, api: MessagesAPI, said: str) -> None:
    """Words come back as they were given: in the turn, in the request, in the answer, in a fresh object."""
    api.answer(said)
    chat = store.open("k", system=said, **SETTINGS)
    chat.label(title=said, metadata={said: said})
    assert chat.send(said).text == said
    again = store.get("k")
    assert [turn.text for turn in again.turns] == [said, said]
    assert (again.title, again.metadata, again.settings["system"]) == (said, {said: said}, said)
    assert api.requests[0].body["messages"][0]["content"] == said
    assert again.request().body == chat.request().body
    assert again.verify() == []


def test_what_the_api_escaped_is_sent_back_escaped(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """Lone surrogates, escapes, spaces and number spellings of an answer are kept and re-sent byte for byte."""
    content = (
        rb'[ {"text" : "\ud800 alone, \uDFFF too, \u0000, \/ and \u00e9", "type":"text","citations":null ,"new":1.0},'
        rb'{"type":"tool_use","id":"toolu_1","name":"f","input":{"b":1e5,"a":12345678901234567890123, "\udc00":[]}}'
        b",\n"
        rb'{"type":"from_tomorrow","x":{"\ud83d":-0.0}} ]'
    )
    envelope = rb'{"id":"msg_\ud800","type":"message","role":"assistant","model":"m\u0000\udfff","content":'
    rest = (
        rb',"stop_reason":"tool_use\udead","usage":{"input_tokens":12,"\ud800":1,"output_tokens":99999999999999999999}}'
    )
    api.answer(envelope + content + rest)
    reply = chat.send("Go")
    wire = b'{"role":"assistant","content":' + content + b"}"
    assert reply.raw_content == content
    assert reply.turn is not None
    assert reply.turn.wire == wire
    assert reply.fields["model"] == "m\0\udfff"
    assert reply.usage.input_tokens == 12
    chat.tool_result("toolu_1", "done")
    again = store.get("telegram:42")
    assert wire in again.request().body
    assert again.turns[1].wire == wire
    assert len(again.exchanges) == 1
    assert again.verify() == []
    with pytest.raises(BadRequestError):  # the API does not take every string that it writes
        chat.send()
    assert wire in api.requests[1].raw


# --- what is refused ---------------------------------------------------------------------------------------------


@frozen
class Mistake:
    """Something a caller gets wrong, the error, and the place it names."""

    name: str
    say: Callable[[Conversation], object]
    error: type[ConversationStoreError]
    place: str


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _image(**source: Any) -> Mapping[str, Any]:
    return {"type": "image", "source": source}


MISTAKES: Final = (
    Mistake("nothing", lambda chat: chat.user(), RuleViolationError, "content"),
    Mistake("empty text", lambda chat: chat.user(""), RuleViolationError, "content"),
    Mistake("white space", lambda chat: chat.user(" \n\t\u3000"), RuleViolationError, "content"),
    Mistake("an empty block", lambda chat: chat.user("a", Text("")), RuleViolationError, "content.1.text"),
    Mistake("a blank block", lambda chat: chat.user(Text("  ")), RuleViolationError, "content.0.text"),
    Mistake("an empty synthetic turn", lambda chat: chat.assistant(""), RuleViolationError, "content"),
    Mistake("an empty system message", lambda chat: chat.system(""), RuleViolationError, "content"),
    Mistake("a number", lambda chat: chat.user(5), ContentError, "content.0"),  # type: ignore[arg-type]
    Mistake("None", lambda chat: chat.user(None), ContentError, "content.0"),  # type: ignore[arg-type]
    Mistake("bytes", lambda chat: chat.user(b"a"), ContentError, "content.0"),  # type: ignore[arg-type]
    Mistake("a list for blocks", lambda chat: chat.user(["a"]), ContentError, "content.0"),  # type: ignore[arg-type]
    Mistake(
        "text that is no string",
        lambda chat: chat.user({"type": "text", "text": 5}),
        ContentError,
        "content.0.text.text",
    ),
    Mistake("a block without type", lambda chat: chat.user({"text": "a"}), ContentError, "content.0.type"),
    Mistake("an unknown type", lambda chat: chat.user({"type": "txet", "text": "a"}), ContentError, "content.0"),
    Mistake("a missing key", lambda chat: chat.user({"type": "text"}), ContentError, "content.0.text.text"),
    Mistake(
        "an unknown key",
        lambda chat: chat.user({"type": "text", "text": "a", "colour": 1}),
        ContentError,
        "content.0.text.colour",
    ),
    Mistake(
        "an unknown key inside a source",
        lambda chat: chat.user(_image(type="url", url="https://a.example/b.png", size=1)),
        ContentError,
        "content.0.image.source.size",
    ),
    Mistake("an unknown source", lambda chat: chat.user(_image(type="disk")), ContentError, "content.0.image.source"),
    Mistake(
        "a source without its url",
        lambda chat: chat.user(_image(type="url")),
        ContentError,
        "content.0.image.source.url",
    ),
    Mistake(
        "an unknown key inside a result",
        lambda chat: chat.user(
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "a", "x": 1}]}
        ),
        ContentError,
        "content.0.tool_result.content.0.text.x",
    ),
    Mistake("a lone surrogate", lambda chat: chat.user("a", "b\ud800"), ContentError, "content.1.text"),
    Mistake("a lone surrogate alone", lambda chat: chat.user("\udfff"), ContentError, "content"),
    Mistake(
        "a lone surrogate deep down",
        lambda chat: chat.assistant(ToolUse("t", "f", {"a": ["\ud800"]})),
        ContentError,
        "content.0.input.a.0",
    ),
    Mistake("a lone surrogate for a reason", lambda chat: chat.assistant("a", reason="\ud800"), ContentError, "reason"),
    Mistake("a lone surrogate for a title", lambda chat: chat.label(title="\ud800"), ContentError, "title"),
    Mistake("NaN", lambda chat: chat.assistant(ToolUse("t", "f", float("nan"))), ContentError, "content.0.input"),
    Mistake(
        "a key that is no string",
        lambda chat: chat.assistant(ToolUse("t", "f", {1: 2})),
        ContentError,
        "content.0.input",
    ),
    Mistake(
        "no JSON value", lambda chat: chat.assistant(ToolUse("t", "f", Decimal(1))), ContentError, "content.0.input"
    ),
    Mistake(
        "too deep",
        lambda chat: chat.assistant(ToolUse("t", "f", _deep(500))),
        ContentError,
        "content.0.input" + ".0" * 198,
    ),
    Mistake(
        "a bad id", lambda chat: chat.assistant(ToolUse("a b", "f", {})), RuleViolationError, "content.0.tool_use.id"
    ),
    Mistake("a call by the user", lambda chat: chat.user(ToolUse("t", "f", {})), RuleViolationError, "content.0"),
    Mistake(
        "a result by the assistant",
        lambda chat: chat.assistant({"type": "tool_result", "tool_use_id": "t"}),
        RuleViolationError,
        "content.0",
    ),
    Mistake("no message", lambda chat: chat.append("a"), ContentError, "messages.0"),  # type: ignore[arg-type]
    Mistake(
        "a wrong role", lambda chat: chat.append({"role": "human", "content": "a"}), ContentError, "messages.0.role"
    ),
    Mistake("no role", lambda chat: chat.append({"content": "a"}), ContentError, "messages.0.role"),
    Mistake("no content", lambda chat: chat.append({"role": "user"}), ContentError, "messages.0.content"),
    Mistake(
        "content of None",
        lambda chat: chat.append({"role": "user", "content": None}),
        ContentError,
        "messages.0.content",
    ),
    Mistake(
        "an unknown key of a message",
        lambda chat: chat.append({"role": "user", "content": "a", "id": 1}),
        ContentError,
        "messages.0.id",
    ),
    Mistake(
        "an unknown key in a later message",
        lambda chat: chat.append(
            {"role": "user", "content": "a"}, {"role": "user", "content": ["b", {"type": "text", "text": "c", "d": 1}]}
        ),
        ContentError,
        "messages.1.content.1.text.d",
    ),
    Mistake("empty content sent", lambda chat: chat.send(""), RuleViolationError, "messages.0.content"),
    Mistake(
        "white space sent", lambda chat: chat.send("a", Text(" ")), RuleViolationError, "messages.0.content.1.text"
    ),
    Mistake(
        "an unknown key sent",
        lambda chat: chat.send({"type": "text", "text": "a", "x": 1}),
        ContentError,
        "messages.0.content.0.text.x",
    ),
    Mistake("a lone surrogate sent", lambda chat: chat.send("\ud800"), ContentError, "messages.0.content"),
    Mistake(
        "a surrogate in a key", lambda chat: chat.send("a", idempotency_key="\ud800"), ContentError, "idempotency_key"
    ),
    Mistake("an empty key", lambda chat: chat.send("a", idempotency_key=""), ContentError, "idempotency_key"),
    Mistake("a long key", lambda chat: chat.send("a", idempotency_key="\u00e9" * 128), ContentError, "idempotency_key"),
    Mistake("nothing to send", lambda chat: chat.send(), RuleViolationError, "messages"),
    Mistake("no max_tokens", lambda chat: chat.send("a", max_tokens=None), RuleViolationError, "max_tokens"),
    Mistake("too many tokens", lambda chat: chat.send("a", max_tokens=10**9), RuleViolationError, "max_tokens"),
    Mistake("a setting that is none", lambda chat: chat.update(messages=[]), ContentError, "messages"),
    Mistake("streaming as a setting", lambda chat: chat.update(stream=True), ContentError, "stream"),
    Mistake("streaming as an override", lambda chat: chat.send("a", stream=True), ContentError, "stream"),
    Mistake("an override that removes", lambda chat: chat.send("a", system=ABSENT), ContentError, "system"),
    Mistake("a setting that is no JSON", lambda chat: chat.update(system=object()), ContentError, "system"),
    Mistake("a setting with a surrogate", lambda chat: chat.update(system="\ud800"), ContentError, "system"),
    Mistake("betas as one string", lambda chat: chat.update(betas="a"), ContentError, "betas"),
    Mistake("a beta no header carries", lambda chat: chat.update(betas=["a\r\nb"]), ContentError, "betas"),
    Mistake("a version no header carries", lambda chat: chat.update(version="\u00e9"), ContentError, "version"),
    Mistake("a title that is no string", lambda chat: chat.label(title=5), ContentError, "title"),
    Mistake("metadata that is no object", lambda chat: chat.label(metadata=[1]), ContentError, "metadata"),
    Mistake("nothing to try again", lambda chat: chat.retry(), ContentError, ""),
    Mistake("no such way to recover", lambda chat: chat.recover("again"), ContentError, "action"),  # type: ignore[arg-type]
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_a_typed_error_with_its_place_and_leaves_nothing(
    database_url: str, chat: Conversation, api: MessagesAPI, mistake: Mistake
) -> None:
    """Bad input names where it is; nothing is written, nothing is sent, and the conversation goes on."""
    before, head, rows = chat.version, chat.head, kept(database_url)
    with pytest.raises(mistake.error) as caught:
        mistake.say(chat)
    error = caught.value
    places = (
        [each.path for each in error.findings]
        if isinstance(error, RuleViolationError)
        else [getattr(error, "path", "?")]
    )
    assert places == [mistake.place]
    assert (chat.version, chat.head) == (before, head)
    chat.refresh()
    assert (chat.version, chat.head) == (before, head)
    assert kept(database_url) == rows
    assert api.requests == ()
    assert chat.user("Hello").position == before


def test_a_file_that_is_no_picture_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    """A missing file, a folder, an empty, cut, foreign or oversized one is named before any database is involved."""
    cut = tmp_path / "cut.png"
    cut.write_bytes(pictures.png()[:-9])
    named = tmp_path / "notes.png"
    named.write_text("this is no picture")
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    huge = tmp_path / "huge.png"
    huge.write_bytes(pictures.png(padding=8 * 1024 * 1024))
    wide = tmp_path / "wide.png"
    wide.write_bytes(pictures.png(8001, 1))
    page = tmp_path / "page.png"
    page.write_bytes(pictures.pdf())
    for path in (tmp_path / "none.png", tmp_path, cut, named, empty, huge, wide, page):
        with pytest.raises(AttachmentError) as caught:
            Image.open(path)
        assert caught.value.path == str(path)
    locked = tmp_path / "locked.pdf"
    locked.write_bytes(pictures.pdf(encrypted=True))
    for path in (tmp_path / "none.pdf", locked, empty, cut):
        with pytest.raises(AttachmentError):
            Document.open(path)
    with pytest.raises(AttachmentError):
        Document.from_bytes(pictures.png())


# --- settings ----------------------------------------------------------------------------------------------------


def test_settings_are_versioned_entries(store: Store, chat: Conversation) -> None:
    """A change is one entry, an equal one is none, ABSENT removes, and the rest keeps its bytes and place."""
    before = chat.version
    chat.update(model="claude-sonnet-5-5")
    chat.update(**SETTINGS)
    chat.update()
    assert chat.version == before
    chat.update(system=[Text("Be brief.")], temperature=1.0, tomorrow={"b": 1e5, "a": None})
    assert chat.version == before + 1
    chat.update(max_tokens=65)
    chat.update(temperature=ABSENT, never_there=ABSENT)
    assert chat.version == before + 3
    chat.user("Hello")
    assert chat.request().body == (
        b'{"messages":[{"role":"user","content":"Hello"}],"model":"claude-sonnet-5-5","max_tokens":65,'
        b'"system":[{"type":"text","text":"Be brief."}],"tomorrow":{"b":100000.0,"a":null}}'
    )
    assert store.get("telegram:42").settings == chat.settings
    assert store.get("telegram:42").request().body == chat.request().body


def test_opening_again_lays_settings_over_the_old_ones(store: Store) -> None:
    """Opening with equal settings appends nothing, with others one entry; a number spelled otherwise is another."""
    first = store.open("k", temperature=1, **SETTINGS)
    assert first.version == 2
    assert store.open("k").version == 2
    assert store.open("k", **SETTINGS).version == 2
    assert store.open("k", max_tokens=64).version == 2
    again = store.open("k", temperature=1.0)
    assert again.version == 3
    assert again.settings == {**SETTINGS, "temperature": 1.0}
    assert again.id == first.id


def test_version_and_betas_are_headers(store: Store, api: MessagesAPI) -> None:
    """The API's version and beta ids belong to the conversation, can be overridden once, and are in no body."""
    chat = store.open("k", version="2026-10-21", betas=["a-1", "b-2"], **SETTINGS)
    chat.send("Hello", check=False)
    chat.send("Hello", version="2023-06-01", betas=["b-2", "c-3"])
    chat.update(betas=ABSENT, version=ABSENT)
    chat.send("Hello")
    headers = [(each.headers["anthropic-version"], each.headers.get("anthropic-beta")) for each in api.requests]
    assert headers == [("2026-10-21", "a-1,b-2"), ("2023-06-01", "a-1,b-2,c-3"), ("2023-06-01", None)]
    assert all(b"a-1" not in each.raw and b"2026-10-21" not in each.raw for each in api.requests)
    assert chat.settings == SETTINGS


def test_overrides_last_one_exchange(store: Store, api: MessagesAPI) -> None:
    """An override replaces or adds a parameter of one request, and the next is as before."""
    chat = store.open("k", stop_sequences=["x"], **SETTINGS)
    before = chat.settings
    chat.send("one", max_tokens=5, system="Once.")
    chat.send("two")
    bodies = [each.body for each in api.requests]
    assert [(each["max_tokens"], each.get("system")) for each in bodies] == [(5, "Once."), (64, None)]
    assert bodies[1]["stop_sequences"] == ["x"]
    assert chat.settings == before
    assert chat.request(max_tokens=7).params["max_tokens"] == 7
    assert chat.request().params["max_tokens"] == 64


def test_any_parameter_of_tomorrow_passes_through(database_url: str) -> None:
    """A parameter the library never heard of is sent, and goes to the official SDK as extra_body."""
    with (
        MessagesAPI(strict=False) as api,
        Client(api.key, base_url=api.url, max_attempts=1) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("k", crystal_ball={"depth": 1.50}, **SETTINGS)
        chat.user("Hello")
        assert chat.request().params["extra_body"] == {"crystal_ball": {"depth": 1.5}}
        chat.send()
        assert api.requests[0].body["crystal_ball"] == {"depth": 1.5}


def test_checking_says_everything_and_writes_nothing(store: Store) -> None:
    """All findings come at once with their places; check=False lets the request be built all the same."""
    chat = store.open("k", model="claude-tomorrow")
    chat.append({"role": "assistant", "content": "Hello"})
    before = chat.version
    assert {(each.rule, each.severity) for each in chat.check()} >= {
        ("required", "error"),
        ("first_is_user", "error"),
        ("listed", "warning"),
    }
    with pytest.raises(RuleViolationError) as caught:
        chat.request()
    assert {each.path for each in caught.value.findings} == {"max_tokens", "messages.0.role"}
    assert chat.request(check=False).params["model"] == "claude-tomorrow"
    assert [each.path for each in chat.check(max_tokens=5, model="claude-sonnet-5-5")] != []
    assert chat.version == before


# --- labels, identity --------------------------------------------------------------------------------------------


def test_labels_are_entries_and_what_is_left_out_stays(store: Store, chat: Conversation) -> None:
    """Title and metadata change one by one; None takes one away; both are read back and listed."""
    before = chat.version
    chat.label(title="Ants")
    chat.label(metadata={"b": 1, "a": [None]})
    again = store.get("telegram:42")
    assert (again.title, again.metadata) == ("Ants", {"b": 1, "a": [None]})
    chat.label(title=None)
    again.refresh()
    assert (again.title, again.metadata) == (None, {"b": 1, "a": [None]})
    assert chat.version == before + 3
    assert store.list()[0].metadata == {"b": 1, "a": [None]}
    assert chat.verify() == []


def test_version_and_head_move_with_every_entry(store: Store, chat: Conversation) -> None:
    """Each append makes the version grow and the head another one, the same for every reader."""
    seen = {chat.head}
    for n in range(3):
        chat.user(f"turn {n}")
        assert chat.version == 3 + n
        assert chat.head not in seen
        seen.add(chat.head)
        assert store.get(chat.id).head == chat.head
    assert repr(chat) == f"<Conversation 'telegram:42', {chat.id}, version 5>"


# --- two objects, two processes ----------------------------------------------------------------------------------


def test_two_objects_behave_like_two_processes(store: Store, chat: Conversation) -> None:
    """The second to append gets a conflict with both lengths, and after refreshing goes on from there."""
    other = store.get("telegram:42")
    other.user("theirs")
    for act in (
        lambda: chat.user("mine"),
        lambda: chat.append({"role": "user", "content": "a"}, {"role": "user", "content": "b"}),
        lambda: chat.update(max_tokens=5),
        lambda: chat.send("mine"),
        lambda: chat.begin("mine"),
    ):
        with pytest.raises(ConflictError) as caught:
            act()
        assert (caught.value.conversation, caught.value.expected, caught.value.actual) == (chat.id, 2, 3)
    assert chat.refresh() is chat
    chat.user("mine")
    assert [turn.text for turn in store.get("telegram:42").turns] == ["theirs", "mine"]
    assert [turn.text for turn in chat.turns] == ["theirs", "mine"]
    assert chat.request().body == store.get("telegram:42").request().body


def test_a_message_with_a_key_needs_no_refresh(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """A send with an idempotency key goes on after another's append by itself: nobody else's message is meant."""
    store.get("telegram:42").user("theirs")
    chat.send("mine", idempotency_key="1")
    assert [each["content"] for each in api.requests[0].body["messages"]] == ["theirs", "mine"]


def test_a_resumed_conversation_goes_on_with_the_same_bytes(
    database_url: str, store: Store, chat: Conversation, api: MessagesAPI
) -> None:
    """In a fresh store the next body begins with all that was sent before, byte for byte."""
    picture = pictures.png(16, 16, padding=3000)
    chat.send("What is this?", Image.from_bytes(picture))
    chat.assistant("A picture.", reason="test")
    chat.send("And now?", system="Be brief.")
    sent = api.requests[-1].raw
    prefix = sent[: sent.rindex(b'],"model"')]
    with Client(api.key, base_url=api.url, max_attempts=1) as client, Store(database_url, client=client) as later:
        resumed = later.get("telegram:42")
        assert resumed.request().body == chat.request().body
        assert resumed.request().digest == chat.request().digest
        resumed.send("And tomorrow?")
        assert api.requests[-1].raw.startswith(prefix + b",")
        assert [turn.wire for turn in resumed.turns] == [turn.wire for turn in store.get(chat.id).turns]
        assert resumed.verify() == []


def test_what_is_sent_is_what_was_said_to_be_sent(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """The request's body, digest and length are those of the bytes that arrive, and so is the replay."""
    chat.user("Hello")
    request = chat.request()
    reply = chat.send()
    sent = api.requests[0].raw
    assert request.body == sent == chat.replay(reply.exchange) == chat.replay(reply.exchange.position)
    assert request.digest == hashlib.sha256(sent).digest()
    assert request.length == len(request) == len(sent) == reply.exchange.body_length
    assert json.loads(sent) == {"messages": [{"role": "user", "content": "Hello"}], **SETTINGS}


# --- pictures ----------------------------------------------------------------------------------------------------


def test_a_picture_in_fifty_turns_is_kept_once(database_url: str, store: Store, chat: Conversation) -> None:
    """The same bytes, however they are given and in whatever conversation, are one blob; each body has them whole."""
    picture = pictures.png(20, 20, padding=2 * 1024 * 1024)
    encoded = base64.b64encode(picture)
    for n in range(24):
        chat.user(f"turn {n}", Image.from_bytes(picture))
        chat.user(_image(type="base64", media_type="image/png", data=encoded.decode()))
    store.open("other", **SETTINGS).user(Image.from_bytes(picture))
    chat.user("last", Image.from_bytes(picture), Image.from_bytes(picture))
    assert count(database_url, "conversation_blob") == 1
    assert count(database_url, "conversation_blob_chunk") == 3
    assert count(database_url, "conversation_blob_use") == 51
    assert store.get("other").request().body.count(encoded) == 1
    first = store.get("other").turns[0].content[0]
    assert isinstance(first, Image)
    assert first.data == picture
    entries = create_engine(database_url)
    with entries.connect() as connection:
        longest = connection.execute(text("SELECT max(length(body)) FROM conversation_entry")).scalar_one()
    entries.dispose()
    assert longest < 1000


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Image.from_bytes(pictures.png(40, 40, padding=5000)), "image/png"),
        (Image.from_bytes(pictures.jpeg(40, 40, comment=bytes(2000))), "image/jpeg"),
        (Image.from_bytes(pictures.gif(40, 40)), "image/gif"),
        (Image.from_bytes(pictures.webp(40, 40)), "image/webp"),
        (Document.from_bytes(pictures.pdf(3), title="Ants"), "application/pdf"),
        (Document.from_text("Ants are small. " * 200, title="Ants"), "text/plain"),
        (Image.from_url("https://example.com/ant.jpg"), None),
        (Document.from_url("https://example.com/ant.pdf"), None),
    ],
    ids=["png", "jpeg", "gif", "webp", "pdf", "text", "image url", "document url"],
)
def test_every_kind_of_attachment_arrives_as_it_was_given(
    store: Store, chat: Conversation, api: MessagesAPI, block: Image | Document, expected: str | None
) -> None:
    """Pictures, documents, texts and URLs are sent exactly, replayed exactly, and read back as what they are."""
    reply = chat.send("Describe.", block)
    source = api.requests[0].body["messages"][0]["content"][1]["source"]
    assert source.get("media_type") == expected
    assert source == block.source
    assert store.get(chat.id).turns[0].content[1] == block
    assert chat.replay(reply.exchange) == api.requests[0].raw
    assert chat.verify() == []


def test_a_file_id_is_sent_with_its_beta(store: Store, chat: Conversation) -> None:
    """A file of the Files API is named by its id, and replays as long as it is there."""
    chat.user("Describe.", Image.from_file_id("file_011"), Document.from_file_id("file_012"))
    content = store.get(chat.id).request().params["messages"][0]["content"]
    assert [each["source"] for each in content[1:]] == [
        {"type": "file", "file_id": "file_011"},
        {"type": "file", "file_id": "file_012"},
    ]


def test_the_answer_is_saved_before_it_is_seen(store: Store, chat: Conversation, api: MessagesAPI) -> None:
    """A reply tells the model's words, its turn, its usage and its exchange, and all of it is in the record."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}}
    api.answer(Answer([{"type": "text", "text": "Let me see."}, call], usage={"cache_read_input_tokens": 7}))
    reply = chat.send("Hello", tools=[{"name": "f", "input_schema": {"type": "object"}}])
    assert (reply.text, reply.stop_reason, reply.refused) == ("Let me see.", "tool_use", False)
    assert reply.tool_uses == (ToolUse("toolu_1", "f", {"x": 1}),)
    assert reply.usage.cache_read_input_tokens == 7
    assert store.get(chat.id).turns[-1] == reply.turn
    (exchange,) = store.get(chat.id).exchanges
    assert exchange == reply.exchange
    assert (exchange.state, exchange.model, exchange.served_by) == (
        "answered",
        "claude-sonnet-5-5",
        "claude-sonnet-5-5",
    )
    assert exchange.message_id == reply.fields["id"]
    assert exchange.request_id == api.requests[0].id
    assert (exchange.sent_by, exchange.attempts, exchange.maybe_billed) == ("client", 1, False)
