"""Out of one database and into another: the same bytes, heads and answers, or a fault that names its line."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, select

from conversation_store import Client, Conversation, Image, State, Store
from conversation_store.errors import APIError, CodecError, LineError, TransferError
from conversation_store.formats import jsonl
from conversation_store.record.chain import Entry
from conversation_store.storage import tables
from conversation_store.testing import Fault, MessagesAPI
from tests import pictures, strategies
from tests.corpus import lines as corpus
from tests.corpus import requires_corpus
from tests.test_corpus import begun, settings_of, settle_any

MODEL: Final = "claude-haiku-4-5"
WRITTEN: Final = (
    tables.conversation,
    tables.conversation_key,
    tables.conversation_entry,
    tables.conversation_exchange,
    tables.conversation_blob_chunk,
    tables.conversation_blob_use,
    tables.conversation_journal,
)
OURS_ALONE: Final = {"pending_token", "lease_until", "lease_owner"}


@pytest.fixture
def other_url(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[str]:
    """Give the URL of an empty database on the other engine."""
    if database_url.startswith("sqlite"):
        with request.getfixturevalue("postgresql").database(schema=True) as url:
            yield url
    else:
        yield f"sqlite:///{tmp_path / 'other.db'}"


@contextmanager
def two(url: str, other: str, *answers: object) -> Iterator[tuple[Store, Store, MessagesAPI]]:
    """Open two stores whose client speaks to an API with these answers."""
    with MessagesAPI(strict=False) as api, Client(api_key=api.key, base_url=api.url, max_attempts=1) as client:
        api.answer(*answers)  # type: ignore[arg-type]
        with Store(url, client=client) as store, Store(other, client=client) as there:
            yield store, there, api


def rows(store: Store, table: Table) -> list[dict[str, Any]]:
    """Read a table, but for what only concerns the process that is at it."""
    chosen = [column for column in table.columns if column.name not in OURS_ALONE]
    with store._database.read() as connection:
        found = connection.execute(select(*chosen).order_by(*table.primary_key.columns)).mappings()
        return [{name: bytes(v) if isinstance(v, memoryview) else v for name, v in row.items()} for row in found]


def the_same(store: Store, there: Store) -> None:
    """Hold two stores against each other, row by row, and the second against its own commitments."""
    for table in WRITTEN:
        assert rows(there, table) == rows(store, table), table.name
    assert there.verify() == []


def eventful(store: Store, api: MessagesAPI) -> Conversation:
    """Hold a conversation in which all kinds of things happen."""
    chat = store.open("telegram:42", model=MODEL, max_tokens=64)
    chat.label(title="Ants", metadata={"team": "bugs"})
    chat.user(Image.from_bytes(pictures.png(8, 8, padding=2_500_000)), "What is this?\n\u2028 It crawls.")
    chat.assistant("An ant.", reason="canned")
    api.answer("C) Formicidae")
    chat.send("Which?", prefill="It is (", idempotency_key="update 7")
    for status in (400, 429, 500):
        api.fail(Fault.status(status))
        with pytest.raises(APIError):
            chat.send(f"And {status}?")
    chat.update(system="Be short.")
    api.answer("Yes.")
    with chat.stream("Again?") as stream:
        assert stream.reply.text
    chat.set_aside(1)
    chat.begin("Lost?", lease=0)
    chat.recover("give_up")
    return chat


def test_a_conversation_comes_over_whole(database_url: str, other_url: str) -> None:
    """Rows, blobs, key, title, exchanges derived again from the log: all are the same on the other engine."""
    with two(database_url, other_url) as (store, there, api):
        chat = eventful(store, api)
        (taken,) = there.load(chat.export())
        assert (taken.id, taken.key, taken.added) == (chat.id, "telegram:42", chat.version)
        the_same(store, there)
        again = there.get("telegram:42")
        assert (again.head, again.title, again.metadata) == (chat.head, "Ants", {"team": "bugs"})
        for exchange in chat.exchanges:
            assert again.replay(exchange.position) == chat.replay(exchange.position)
        assert b"".join(there.export()) == b"".join(store.export())
        assert again.request().body == chat.refresh().request().body


def test_twice_adds_nothing_and_a_longer_log_goes_on(database_url: str, other_url: str) -> None:
    """The same lines again change nothing; later ones add what is new; earlier ones do no harm."""
    with two(database_url, other_url, "One.", "Two.") as (store, there, _):
        chat = store.open("a", model=MODEL, max_tokens=64)
        chat.send("1")
        early = [*chat.export()]
        assert there.load(early)[0].added == chat.version
        assert there.load(early)[0].added == 0
        before = chat.version
        chat.send("2")
        chat.label(title="Later")
        assert there.load(chat.export())[0].added == chat.refresh().version - before
        the_same(store, there)
        assert there.load(early)[0].added == 0
        the_same(store, there)


def test_an_exchange_that_is_pending_can_be_taken_over_there(database_url: str, other_url: str) -> None:
    """Nobody holds it there: it reads as unknown with what had arrived, and its outcome may still come over."""
    with two(database_url, other_url) as (store, there, api):
        api.fail(Fault.cut(after=400))
        chat = store.open("a", model=MODEL, max_tokens=64)
        pending = chat.begin("Hello")
        there.load(chat.export())
        (exchange,) = there.get("a").exchanges
        assert exchange.state is State.UNKNOWN
        pending.finish({"type": "message", "role": "assistant", "model": MODEL, "content": []})
        there.load(chat.export())
        the_same(store, there)
        later = chat.begin("And?")
        there.load(chat.export())
        there.get("a").recover("give_up")
        later.fail(APIError("gone"))
        with pytest.raises(TransferError, match="another log is here under this id"):
            there.load(chat.export())


def test_forks_bring_their_parents(database_url: str, other_url: str) -> None:
    """A fork of a fork is written after both; without them it is refused, unless they are there."""
    with two(database_url, other_url, "One.", "Two.") as (store, there, _):
        chat = store.open("a", model=MODEL, max_tokens=64)
        chat.send("1")
        fork = chat.fork(key="b").fork(at=0, key="c")
        lines = [*fork.export()]
        begins = [found.conversation for line in lines if isinstance(found := jsonl.read(line), jsonl.Begun)]
        assert begins == [chat.id, fork._history.kept.forked_from, fork.id]
        start = next(n for n, line in enumerate(lines) if str(fork.id).encode() in line)
        alone = [lines[0], *lines[start:]]
        with pytest.raises(TransferError, match="neither here nor before it") as caught:
            there.load(alone)
        assert rows(there, tables.conversation) == []
        assert caught.value.faults[0].conversation == fork.id
        assert [each.key for each in there.load(lines)] == ["a", "b", "c"]
        the_same(store, there)
        assert there.get("c").request(check=False).body == fork.request(check=False).body


def test_every_change_to_a_line_is_found(database_url: str, other_url: str) -> None:
    """Whatever line of a conversation is lost, doubled, cut or altered: it is named, and nothing is written."""
    with two(database_url, other_url, "One.") as (store, there, _):
        chat = store.open("a", model=MODEL, max_tokens=64)
        chat.user(Image.from_bytes(pictures.png(8, 8, padding=3000)), "Hm.")
        chat.send("1")
        lines = [*chat.export()]
        changes: list[tuple[int, list[bytes]]] = []
        for n in range(1, len(lines) - 1):
            changes += [
                (n, [*lines[:n], *lines[n + 1 :]]),
                (n, [*lines[: n + 1], *lines[n:]]),
                (n, [*lines[:n], lines[n][:-4], *lines[n + 1 :]]),
                (n, [*lines[:n], b"\xff\n", *lines[n + 1 :]]),
            ]
            changes += [
                (n, [*lines[:n], lines[n].replace(old, new), *lines[n + 1 :]])
                for old, new in ((b"Hm.", b"hm."), (b"One.", b"Two."), (b'"at":1', b'"at":2'), (b"image/png", b"a/b"))
                if old in lines[n]
            ]
        for n, changed in changes:
            if changed.count(lines[-2]) == 1:
                with pytest.raises(TransferError) as caught:
                    there.load(changed)
                assert all(isinstance(fault, LineError) and fault.line >= n for fault in caught.value.faults)
                assert rows(there, tables.conversation) == [], (n, str(caught.value))
        assert len(changes) > 40
        with pytest.raises(TransferError, match="the last line is missing") as caught:
            there.load(lines[:-1])
        assert [each.key for each in caught.value.taken] == ["a"]
        the_same(store, there)


def test_one_bad_conversation_does_not_keep_the_others_back(database_url: str, other_url: str) -> None:
    """Each fault is told with its line, and what is whole is taken."""
    with two(database_url, other_url) as (store, there, _):
        for key in "abc":
            store.open(key, model=MODEL, max_tokens=64).user("Hello")
        lines = [*store.export()]
        bad = [n for n, line in enumerate(lines) if b'"Hello"' in line][1]
        lines[bad] = lines[bad].replace(b"Hello", b"Hallo")
        with pytest.raises(TransferError) as caught:
            there.load(lines)
        assert [fault.line for fault in caught.value.faults] == [bad + 1]
        assert [each.key for each in caught.value.taken] == ["a", "c"]
        assert there.verify() == []


def test_a_taken_key_and_another_scope_are_refused(database_url: str, other_url: str) -> None:
    """Nothing that is here is written over."""
    with two(database_url, other_url) as (store, there, _):
        chat = store.open("a", model=MODEL)
        there.open("a", model=MODEL)
        with pytest.raises(TransferError, match="another conversation has the key 'a'"):
            there.load(chat.export())
        with Store(database_url, scope="tenant") as scoped, pytest.raises(TransferError, match="of another scope"):
            scoped.load(chat.export())
        with pytest.raises(TransferError, match="the first line names the format"):
            there.load([*chat.export()][1:])


def test_it_streams(database_url: str, other_url: str) -> None:
    """Forty megabytes go through a few."""
    with two(database_url, other_url) as (store, there, _):
        chat = store.open("a", model=MODEL, max_tokens=64)
        for n in range(16):
            chat.user(Image.from_bytes(pictures.png(8, 8, colour=(n, 0, 0), padding=2_500_000)))
        sizes: list[int] = []

        def seen() -> Iterator[bytes]:
            for line in chat.export():
                sizes.append(len(line))
                yield line

        tracemalloc.start()
        there.load(seen())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(sizes) > 50_000_000
        assert most < 20_000_000
        assert there.get("a").head == chat.head


@requires_corpus
@pytest.mark.parametrize("name", ["blocking", "streaming"])
def test_every_recorded_conversation_comes_over(database_url: str, other_url: str, name: str) -> None:
    """Recorded exchanges with the real API, to the other engine: identical rows and heads, and nothing to find."""
    with Store(database_url) as store, Store(other_url) as there:
        for line in corpus(name):
            chat = store.open(f"corpus:{line['id']}", **settings_of(line))
            settle_any(chat, begun(chat, line["request"]["body"]["messages"]), line)
        taken = there.load(store.export())
        assert len(taken) == len(corpus(name))
        the_same(store, there)
        for each in taken:
            mine, theirs = store.get(each.id), there.get(each.id)
            assert mine.head == theirs.head
            for exchange in mine.exchanges:
                assert theirs.replay(exchange.position) == mine.replay(exchange.position)


# --- lines ---------------------------------------------------------------------------------------------------------

digests: Final = st.binary(min_size=32, max_size=32)
numbers: Final = st.integers(0, (1 << 63) - 1)
parts: Final = st.none() | st.binary() | strategies.json_objects() | strategies.json_bytes()
texts: Final = st.text()
entries: Final = st.builds(
    Entry,
    position=numbers,
    kind=texts,
    at=numbers,
    header=st.binary() | strategies.json_objects(),
    body=parts,
    about=parts,
    salt=st.none() | digests,
    request_salt=st.none() | digests,
    digest=digests,
)
anything: Final = st.one_of(
    st.builds(jsonl.Begun, st.uuids(), st.none() | texts, st.none() | st.uuids()),
    st.builds(jsonl.Facts, digests, texts, numbers, *[st.none() | numbers] * 3),
    st.builds(jsonl.Piece, digests, st.binary()),
    st.builds(jsonl.Logged, entries, st.lists(st.tuples(digests, digests)).map(tuple)),
    st.builds(jsonl.Arrived, numbers, numbers, st.binary()),
    st.builds(jsonl.Ended, st.uuids(), numbers, digests),
    st.builds(jsonl.Closing, numbers, numbers, numbers, st.none() | digests),
)


@given(anything)
def test_every_line_comes_back(line: jsonl.Line) -> None:
    """Whatever is written is one line, and reads as it was: bytes to the byte."""
    written = jsonl.write(line)
    assert written.count(b"\n") == 1
    assert b"\r" not in written
    assert written.endswith(b"\n")
    assert jsonl.read(written) == line


@given(st.binary() | strategies.json_bytes())
def test_what_is_no_line_is_refused(data: bytes) -> None:
    """Anything else is a typed error."""
    with pytest.raises(CodecError):
        jsonl.read(data)


messages: Final = st.lists(strategies.messages("user") | strategies.messages("assistant"), max_size=6)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(messages)
def test_any_transcript_comes_over(said: Sequence[dict[str, Any]]) -> None:
    """Whatever was said comes over byte for byte."""
    with Store("sqlite://") as store, Store("sqlite://") as there:
        chat = store.open("a", model=MODEL)
        chat.append(*said, check=False)
        there.load(chat.export())
        the_same(store, there)
        assert there.get("a").request(check=False).body == chat.request(check=False).body


def of_all_kinds() -> list[bytes]:
    """Export a conversation with a picture, an answer, a label and a pending exchange, and a fork of it."""
    with Store("sqlite://") as store:
        chat = store.open("a", model=MODEL, max_tokens=64)
        chat.user(Image.from_bytes(pictures.png(8, 8, padding=1500)), "Hm.")
        chat.begin("1").finish({"type": "message", "role": "assistant", "model": MODEL, "content": []})
        chat.label(title="Ants", metadata={"a": 1})
        chat.fork(key="b")
        chat.begin("2")
        return [*store.export()]


LINES: Final = of_all_kinds()
HEADS: Final = {
    found.conversation: (found.length, found.head)
    for line in LINES
    if isinstance(found := jsonl.read(line), jsonl.Ended)
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_is_done_to_the_bytes_the_heads_are_those_or_nothing_is_taken(data: st.DataObject) -> None:
    """Bytes changed, cut, doubled, put in another order: what is taken has its true head, the rest is a fault."""
    changed = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        n = data.draw(st.integers(0, len(changed) - 1))
        line = changed[n]
        at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(line))] * 2)))
        put = data.draw(st.sampled_from([b"", b'"', b"0", b"{", b"null", b"\xff", b"\n", line[at:end] * 2]))
        m = data.draw(st.integers(0, len(changed) - 1))
        changed[n], changed[m] = data.draw(
            st.sampled_from([(line[:at] + put + line[end:], changed[m]), (changed[m], line), (changed[m], changed[m])])
        )
    with Store("sqlite://") as there:
        try:
            taken = there.load(changed)
        except TransferError as error:
            taken = error.taken
        assert there.verify() == []
        assert {each.id: (each.length, there.get(each.id).head) for each in taken}.items() <= HEADS.items()
        assert len(there.list()) == len(taken)
