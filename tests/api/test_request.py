"""A request's body is a join of stored bytes, its digest is that of the body, and no secret is ever recorded."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from random import Random
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import define, frozen
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.api.request import (
    PLACEHOLDER,
    SDK_PARAMETERS,
    Insert,
    Messages,
    Request,
    Settings,
    merged,
    part_of,
)
from conversation_store.errors import ConfigurationError, ContentError, DatabaseError
from conversation_store.record import canonical, splices
from conversation_store.record.blocks import ABSENT, Text
from conversation_store.record.turns import model_turn
from tests.strategies import NAMES, PREFILLS, WORDS, contents, messages, parsed, same, values

LOG: Final = UUID("01890000-0000-7000-8000-000000000001")
SETTINGS: Final = b'{"model":"claude-sonnet-5-5","max_tokens":1024}'


@frozen
class Stored:
    """A turn as it lies in the log: header, body, and the blobs its strings were cut out to."""

    header: bytes
    body: bytes
    blobs: Sequence[splices.Cut] = ()

    def inserts(self) -> list[Insert]:
        """Read the blobs in chunks of a size of no special number."""
        return [
            Insert(lambda data=cut.data: in_chunks(data), len(cut.data), cut.encoding)  # type: ignore[misc]
            for cut in self.blobs
        ]


def in_chunks(data: bytes) -> Iterator[bytes]:
    """Hand out a blob as the database would."""
    for at in range(0, len(data), 97):
        yield data[at : at + 97]


def stored(fields: Mapping[str, Any], wire: bytes, marks: Mapping[str, Any] | None = None) -> Stored:
    """Store a message as the library does: long strings cut out, named in the header."""
    marks = marks or {}
    body, cuts = splices.cut(wire, marks=[span for spans in marks.values() for span in spans])
    named = [[cut.offset, "00", cut.encoding] for cut in cuts]
    moved = {name: splices.moved(spans, cuts) for name, spans in marks.items() if spans}
    return Stored(canonical.header({**fields, **moved, **({"splices": named} if named else {})}), body, cuts)


def answer(content: bytes, prefill: Any) -> Stored:
    """Store a model's answer, every second block of which is never sent back."""
    omit = list(range(1, len(canonical.items(content)), 2))
    body, ours, left_out = model_turn(content, prefill, omit)
    return stored({"origin": "model"}, body, {"ours": ours, "omit": left_out})


def run(size: int) -> str:
    """Make base64 of so many bytes."""
    return base64.b64encode(Random(size).randbytes(size)).decode()


PICTURES: Final = st.integers(760, 1100).map(
    lambda size: {
        "role": "user",
        "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": run(size)}},
            {"type": "text", "text": "What is in the above image? é"},
        ],
    }
)
SAID: Final = st.one_of(messages("user"), messages("assistant"), messages("system"), PICTURES).map(
    lambda message: stored({"origin": "human"}, canonical.dumps(message))
)
ANSWERED: Final = st.builds(answer, contents().filter(lambda content: canonical.loads(content) != []), PREFILLS)
TURNS: Final = st.one_of(SAID, SAID, ANSWERED)
RESULTS: Final = st.one_of(WORDS, PICTURES.map(lambda message: message["content"])).map(
    lambda content: stored(
        {"gather": True, "origin": "tool"},
        canonical.dumps({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": content}]}),
    )
)


@define
class Buffer:
    """Messages as a live conversation keeps them, and the turns they should stand for."""

    known: Messages
    turns: list[Stored]

    @classmethod
    def of(cls, turns: Sequence[Stored]) -> Buffer:
        """Begin with these turns."""
        buffer = cls(Messages(), [])
        for turn in turns:
            buffer.add(turn)
        return buffer

    def add(self, turn: Stored) -> None:
        """Append a turn."""
        self.known.add((LOG, len(self.turns)), turn.header, turn.body, turn.inserts())
        self.turns.append(turn)

    def cut(self, count: int) -> None:
        """Drop turns; where that cannot be done, begin anew, as a conversation would."""
        if self.known.cut(count):
            del self.turns[count:]
        else:
            self.known, self.turns = (again := Buffer.of(self.turns[:count])).known, again.turns

    def request(
        self, extra: Sequence[Stored] = (), settings: bytes = SETTINGS, secrets: Mapping[str, str] | None = None
    ) -> Request:
        """Build a request."""
        return self.known.request(
            [part_of(turn.header, turn.body, turn.inserts()) for turn in extra],
            settings,
            version="2023-06-01",
            betas=(),
            secrets=secrets or {},
        )


def wire_of(turn: Stored) -> bytes:
    """Put a turn together as it is sent, from first principles."""
    fields = json.loads(turn.header)
    left_out = {n for start, length in fields.get("omit", ()) for n in range(start, start + length)}
    strings = {cut.offset: b"".join(splices.text([cut.data], cut.encoding)) for cut in turn.blobs}
    pieces = []
    for n in range(len(turn.body)):
        if n not in left_out:
            pieces += [strings.get(n, b""), turn.body[n : n + 1]]
    return b"".join(pieces)


def joined(turns: Sequence[Stored], settings: bytes = SETTINGS) -> bytes:
    """Write the body that these turns should make, none of which is gathered."""
    return b'{"messages":[' + b",".join(map(wire_of, turns)) + b"]," + settings[1:]


# --- bodies ------------------------------------------------------------------------------------------------------


@given(st.lists(TURNS, min_size=1, max_size=4), st.lists(TURNS, max_size=2))
def test_a_body_is_the_join_of_what_is_stored(turns: list[Stored], extra: list[Stored]) -> None:
    """Messages first, each the bytes of its turn, then the settings' bytes: nothing is encoded again."""
    request = Buffer.of(turns).request(extra)
    assert request.recorded == request.body == joined([*turns, *extra])
    assert request.digest == sha256(request.body).digest()
    message = parsed(request.body)
    assert list(message) == ["messages", "model", "max_tokens"]
    assert same(message["messages"], [parsed(wire_of(turn)) for turn in (*turns, *extra)])


STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.one_of(TURNS, RESULTS)),
        st.tuples(st.just("cut"), st.integers(0, 6)),
        st.tuples(st.just("ask"), st.lists(st.one_of(TURNS, RESULTS), max_size=2)),
    ),
    max_size=12,
)


@given(STEPS)
def test_any_sequence_of_steps_is_the_same_as_beginning_anew(steps: list[tuple[str, Any]]) -> None:
    """However a buffer got there, its body is the one a fresh process would read, and its digest is the body's."""
    buffer = Buffer.of([])
    for step, drawn in [*steps, ("ask", [])]:
        if step == "add":
            buffer.add(drawn)
        elif step == "cut":
            buffer.cut(drawn)
        else:
            request = buffer.request(drawn)
            fresh = Buffer.of(buffer.turns).request(drawn)
            assert request.recorded == fresh.recorded
            assert request.digest == fresh.digest == sha256(request.recorded).digest()
            assert request.length == len(request.recorded)
            assert isinstance(canonical.loads(request.recorded), dict)


@given(st.lists(st.one_of(TURNS, RESULTS), max_size=3), st.lists(TURNS, max_size=2))
def test_a_request_may_be_read_as_often_as_it_is_sent(turns: list[Stored], extra: list[Stored]) -> None:
    """Segment by segment or whole, at the first attempt or the third: the same bytes, of the length announced."""
    request = Buffer.of(turns).request(extra)
    for _ in range(3):
        assert b"".join(request) == request.body
    assert len(request) == len(request.body)
    assert request.streams == any(isinstance(piece, Insert) for piece in request.pieces)


@given(st.lists(TURNS, min_size=1, max_size=3), st.lists(TURNS, min_size=1, max_size=3))
def test_the_next_body_begins_with_this_one(turns: list[Stored], more: list[Stored]) -> None:
    """Up to the bracket that closes the messages, a request is the beginning of the one after it."""
    buffer = Buffer.of(turns)
    first = buffer.request().body
    for turn in more:
        buffer.add(turn)
    second = buffer.request().body
    closing = len(b"]," + SETTINGS[1:])
    assert second.startswith(first[:-closing] + b",")


def test_a_request_is_not_changed_by_what_comes_after() -> None:
    """The buffer grows and shrinks; a request that was built is a value of its own."""
    turns = [stored({"origin": "human"}, b'{"role":"user","content":"%d"}' % n) for n in range(3)]
    buffer = Buffer.of(turns[:2])
    request = buffer.request()
    before = request.body
    buffer.add(turns[2])
    buffer.cut(1)
    buffer.request()
    assert request.body == before


def test_nothing_said_and_nothing_set() -> None:
    """A body without messages and one without settings are JSON too."""
    assert Buffer.of([]).request(settings=b"{}").body == b'{"messages":[]}'
    assert Buffer.of([]).request().body == b'{"messages":[],' + SETTINGS[1:]


def test_a_blob_is_digested_once() -> None:
    """The state of the digest is kept: what was digested is not read again for the next request."""
    picture = b"\0" * 3000
    reads = []

    def chunks() -> Iterator[bytes]:
        reads.append(1)
        yield picture

    wire = b'{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"%s"}}]}'
    turn = stored({"origin": "human"}, wire % base64.b64encode(picture))
    plain = stored({"origin": "model"}, b'{"role":"assistant","content":[{"type":"text","text":"An ant."}]}')
    known = Messages()
    known.add((LOG, 0), turn.header, turn.body, [Insert(chunks, len(picture), "base64")])
    for n in range(1, 6):
        known.add((LOG, n), plain.header, plain.body)
        request = known.request([], SETTINGS, version="v", betas=(), secrets={})
        assert sum(reads) == 1
        assert request.digest == sha256(joined([turn, *[plain] * n])).digest()


def test_a_blob_that_cannot_be_read() -> None:
    """A database that fails in the middle of a digest leaves no trace in the next one."""
    picture = b"\0" * 3000
    fails = True

    def chunks() -> Iterator[bytes]:
        yield picture[:1000]
        if fails:
            raise DatabaseError("unreachable", "gone")
        yield picture[1000:]

    wire = b'{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"%s"}}]}'
    turn = stored({"origin": "human"}, wire % base64.b64encode(picture))
    plain = stored({"origin": "model"}, b'{"role":"assistant","content":[{"type":"text","text":"An ant."}]}')
    known = Messages()
    known.add((LOG, 0), plain.header, plain.body)
    known.add((LOG, 1), turn.header, turn.body, [Insert(chunks, len(picture), "base64")])
    known.add((LOG, 2), plain.header, plain.body)
    with pytest.raises(DatabaseError):
        known.request([], SETTINGS, version="v", betas=(), secrets={})
    fails = False
    request = known.request([], SETTINGS, version="v", betas=(), secrets={})
    assert request.recorded == joined([plain, turn, plain])
    assert request.digest == sha256(request.recorded).digest()


# --- results of tools, gathered ----------------------------------------------------------------------------------


def result(n: int) -> Stored:
    """Store one result of a tool, given by itself."""
    block = {"type": "tool_result", "tool_use_id": f"t{n}", "content": "é"}
    return stored({"gather": True, "origin": "tool"}, canonical.dumps({"role": "user", "content": [block]}))


def test_results_given_one_by_one_are_one_message() -> None:
    """Results come first, in the order given, then the words beside them; the next answer ends the message."""
    asked = stored({"origin": "model"}, b'{"role":"assistant","content":[{"type":"tool_use"}]}')
    words = stored({"origin": "human"}, b'{"role":"user","content":"And now?"}')
    blocks = stored({"origin": "human"}, b'{"role":"user","content":[{"type":"text","text":"Go on."}]}')
    sent = parsed(Buffer.of([asked, result(1), words, result(2), blocks, asked, words]).request().body)["messages"]
    assert [message["role"] for message in sent] == ["assistant", "user", "assistant", "user"]
    assert [block.get("tool_use_id", block.get("text")) for block in sent[1]["content"]] == [
        "t1",
        "t2",
        "And now?",
        "Go on.",
    ]
    assert sent[3] == {"role": "user", "content": "And now?"}


def test_a_cut_message_is_joined_again() -> None:
    """After a rewind to a result, more words belong to its message, as a process that reads the log would say."""
    asked = stored({"origin": "model"}, b'{"role":"assistant","content":[{"type":"tool_use"}]}')
    words = stored({"origin": "human"}, b'{"role":"user","content":"And now?"}')
    buffer = Buffer.of([asked, result(1), asked])
    buffer.request()
    buffer.cut(2)
    buffer.add(words)
    assert buffer.request().body == Buffer.of([asked, result(1), words]).request().body


# --- for the official SDK ----------------------------------------------------------------------------------------


@given(st.dictionaries(st.one_of(NAMES, st.sampled_from(sorted(SDK_PARAMETERS - {"messages", "stream"}))), values()))
def test_params_say_what_the_body_says(given_settings: dict[str, Any]) -> None:
    """Parameters the SDK knows are arguments, others go through ``extra_body``; together they are the body."""
    changed, secrets = Settings().updated(
        {
            name: value
            for name, value in given_settings.items()
            if name not in {"messages", "stream", "betas", "version"}
        }
    )
    turn = stored({"origin": "human"}, b'{"role":"user","content":"Hello"}')
    request = Buffer.of([turn]).request(settings=changed.body, secrets=secrets)
    params = request.params
    assert params.pop("extra_headers") == {"anthropic-version": "2023-06-01"}
    rest = params.pop("extra_body", {})
    assert not rest.keys() & SDK_PARAMETERS
    assert params.keys() <= SDK_PARAMETERS
    assert same(params | rest, parsed(request.body))


def test_headers_belong_to_the_request() -> None:
    """The version and the betas of a request are in its headers, the betas as one list."""
    request = Messages().request([], SETTINGS, version="2026-10-21", betas=("one", "two"), secrets={})
    assert request.headers == {
        "anthropic-version": "2026-10-21",
        "content-type": "application/json",
        "anthropic-beta": "one,two",
    }
    assert request.params["extra_headers"] == {"anthropic-version": "2026-10-21", "anthropic-beta": "one,two"}


# --- settings ----------------------------------------------------------------------------------------------------


@given(st.lists(st.dictionaries(NAMES, st.one_of(values(), st.just(ABSENT)), max_size=4), max_size=5))
def test_settings_keep_their_order_and_bytes(changes: list[dict[str, Any]]) -> None:
    """A new parameter goes to the end, a changed one keeps its place, an absent one goes; the rest is not touched."""
    settings, expected = Settings(), dict[str, Any]()
    for each in changes:
        plain = {name: value for name, value in each.items() if name not in {"betas", "version", "stream", "messages"}}
        before = {name: settings.body[m.start : m.end] for name, m in canonical.members(settings.body).items()}
        settings, secrets = settings.updated(plain)
        after = {name: settings.body[m.start : m.end] for name, m in canonical.members(settings.body).items()}
        assert all(after[name] == data for name, data in before.items() if name not in plain)
        for name, value in plain.items():
            if value is ABSENT:
                expected.pop(name, None)
            else:
                expected[name] = value
        assert settings.body == canonical.dumps(expected)
        assert not secrets


def test_number_spelling_of_stored_settings() -> None:
    """What is not changed is copied, whoever wrote it and however."""
    stored_settings = Settings(b'{"temperature":1.0,"big":123456789012345678901234567890,"f":1e5,"max_tokens":1}')
    changed, _ = stored_settings.updated({"max_tokens": 2, "model": "m"})
    assert (
        changed.body == b'{"temperature":1.0,"big":123456789012345678901234567890,"f":1e5,"max_tokens":2,"model":"m"}'
    )


@given(st.dictionaries(NAMES, values(), max_size=4), st.dictionaries(NAMES, values(), max_size=4))
def test_overrides_lie_over_settings(settings: dict[str, Any], overrides: dict[str, Any]) -> None:
    """One exchange's parameters replace those of their names in place, and new ones come last."""
    assert merged(canonical.dumps(settings), canonical.dumps(overrides)) == canonical.dumps({**settings, **overrides})


def test_versions_and_betas_are_no_parameters() -> None:
    """They go into headers and are kept beside the body."""
    settings, _ = Settings().updated({"version": "2026-10-21", "betas": ["one", "two"], "model": "m"})
    assert settings.body == b'{"model":"m"}'
    assert settings.fields() == {"version": "2026-10-21", "betas": ["one", "two"]}
    assert Settings.read(settings.body, settings.fields()) == settings
    back, _ = settings.updated({"version": ABSENT, "betas": None})
    assert (back.version, back.betas, back.fields()) == (None, (), {})


def test_blocks_may_stand_in_settings() -> None:
    """A system prompt may be given as block objects."""
    settings, _ = Settings().updated({"system": [Text("Be brief.")]})
    assert settings.body == b'{"system":[{"type":"text","text":"Be brief."}]}'


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []},
        {"stream": True},
        {"version": ""},
        {"version": 7},
        {"betas": "one"},
        {"betas": ["a,b"]},
        {"betas": ["a\r\nx-api-key: 1"]},
        {"metadata": {"user_id": float("nan")}},
        {"system": "\ud800"},
        {"system": b"abc"},
    ],
)
def test_what_is_no_setting(changes: dict[str, Any]) -> None:
    """Names that are no settings, values that are no JSON, and headers that would break the request are refused."""
    with pytest.raises(ContentError) as caught:
        Settings().updated(changes)
    assert caught.value.path.startswith(next(iter(changes)))


# --- secrets -----------------------------------------------------------------------------------------------------

SERVERS: Final = [
    {"type": "url", "name": "ants", "url": "https://ants.example", "authorization_token": "hunter2-ants"},
    {"authorization_token": 'hunter2-"é\\', "type": "url", "name": 'of "bees"\\', "url": "https://bees.example"},
    {"type": "url", "name": "open", "url": "https://open.example"},
]


@pytest.mark.parametrize("token", ["hunter2-credit", {"type": "token", "token": "hunter2-credit"}])
def test_secrets_are_sent_and_never_recorded(token: Any) -> None:
    """Tokens are taken out of what is stored and digested, and are in what is sent, wherever they stood."""
    given_settings = {"model": "m", "mcp_servers": SERVERS, "fallback_credit_token": token, "max_tokens": 1}
    settings, secrets = Settings().updated(given_settings)
    assert len(secrets) == 3
    assert b"hunter2" not in settings.body
    turn = stored({"origin": "human"}, b'{"role":"user","content":"Hello"}')
    request = Buffer.of([turn]).request(settings=settings.body, secrets={**secrets, "other": "hunter2-other"})
    assert b"hunter2" not in request.recorded
    assert "hunter2" not in repr(request)
    assert request.digest == sha256(request.recorded).digest()
    sent = parsed(request.body)
    assert sent == {"messages": [{"role": "user", "content": "Hello"}], **given_settings}
    assert b"".join(request) == request.body
    assert len(request) == len(request.body)
    params = request.params
    assert {**params, **params["extra_body"]}["mcp_servers"] == SERVERS


def test_a_secret_that_is_not_known() -> None:
    """Without its secrets a request can be recorded and replayed, and cannot be sent."""
    settings, secrets = Settings().updated({"mcp_servers": SERVERS})
    del secrets["mcp_servers.ants"]
    request = Buffer.of([]).request(settings=settings.body, secrets=secrets)
    assert request.digest == sha256(request.recorded).digest()
    for read in (lambda: request.body, lambda: request.params, lambda: list(request), lambda: len(request)):
        with pytest.raises(ConfigurationError, match=r"mcp_servers\.ants"):
            read()


def test_the_words_for_a_secret_are_only_words_elsewhere() -> None:
    """Whoever writes the name of a secret into a message, a prompt or a tool never gets the secret sent there."""
    settings, secrets = Settings().updated({"mcp_servers": SERVERS[:1], "fallback_credit_token": "hunter2-credit"})
    word = PLACEHOLDER + "mcp_servers.ants"
    settings, _ = settings.updated(
        {
            "system": word,
            "metadata": {"user_id": word, "token": word, "authorization_token": word},
            "tools": [{"name": "t", "input_examples": [{"authorization_token": word, "fallback_credit_token": word}]}],
        }
    )
    turn = stored({"origin": "human"}, canonical.dumps({"role": "user", "content": word}))
    request = Buffer.of([turn]).request([turn], settings=settings.body, secrets=secrets)
    assert request.body.count(b"hunter2-ants") == 1
    sent = parsed(request.body)
    assert [message["content"] for message in sent["messages"]] == [word, word]
    assert sent["system"] == sent["metadata"]["token"] == word
    assert sent["mcp_servers"] == SERVERS[:1]


def test_settings_read_back_can_be_given_again() -> None:
    """A name that stands for a secret is not taken for the secret itself."""
    settings, secrets = Settings().updated({"mcp_servers": SERVERS})
    again, found = settings.updated({"mcp_servers": settings.params["mcp_servers"]})
    assert again == settings
    assert not found
    request = Buffer.of([]).request(settings=again.body, secrets=secrets)
    assert parsed(request.body)["mcp_servers"] == SERVERS


def test_an_empty_turn_beside_a_result_leaves_no_comma() -> None:
    """Of a turn without content nothing is sent, and what is left is JSON."""
    result = b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1"}]}'
    empty = b'{"role":"user","content":[]}'
    words = b'{"role":"user","content":"Well?"}'
    for turns in ([result, empty], [empty, result], [result, empty, words], [empty, result, words]):
        messages = Messages()
        for n, body in enumerate(turns):
            header = b'{"gather":true,"origin":"tool"}' if body == result else b'{"origin":"human"}'
            messages.add((UUID(int=1), n), header, body)
        sent = canonical.object_of(messages.request([], b"{}", version="2026-10-21", betas=(), secrets={}).body)
        kinds = [block["type"] for block in sent["messages"][0]["content"]]
        assert kinds == ["tool_result", *(["text"] if words in turns else [])]
