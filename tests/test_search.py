"""Searching: what is found, in which order, in whose scope; an index that is caught up, made anew and cleared."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from conversation_store import Client, Hit, Store
from conversation_store.errors import ContentError, DatabaseError
from conversation_store.record import words
from conversation_store.storage import search
from conversation_store.storage.engine import Database
from conversation_store.testing import MessagesAPI

SYNTAXES: Final[tuple[Any, ...]] = ("phrase", "query")
ORDERS: Final[tuple[Any, ...]] = ("newest", "best")
SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Give a store without a client."""
    with Store(database_url) as opened:
        yield opened


def places(hits: list[Hit]) -> list[tuple[str | None, int]]:
    """Say where hits are."""
    return [(hit.key, hit.position) for hit in hits]


def marked(hit: Hit) -> list[str]:
    """Take what is marked out of a snippet."""
    return [hit.snippet[start : start + length] for start, length in hit.marks]


# --- what is found -----------------------------------------------------------------------------------------------

SAID: Final = (
    ("The refund of March was late.", "refund of march", "refund of March"),
    ("The refund of March was late.", "REFUND, of", "refund of"),
    ("snake_case and don't", "case", "case"),
    ("Straße und STRASSE", "strasse", "Straße"),
    ("\uff26\uff35\uff2c\uff2c width", "full", "\uff26\uff35\uff2c\uff2c"),
    ("ﬁne ligatures", "fine", "ﬁne"),
    ("cafe\u0301 au lait", "caf\u00e9", "cafe\u0301"),
    ("soft\u00adhyphen", "softhyphen", "soft\u00adhyphen"),
    ("Привет, мир", "МИР", "мир"),
    ("私は日本語を話します。", "日本語", "日本語"),
    ("私は日本語を話します。", "語", "語"),
    ("私は日本語を話します。", "す", "す"),
    ("我们明天退款给你", "退款", "退款"),
    ("제품을 환불해 주세요", "환불", "환불"),
    ("ขอเงินคืนได้ไหม", "เงินคืน", "เงินคืน"),
    ("ｶﾞﾗｽ is half width", "ガラス", "ｶﾞﾗｽ"),
    ("iPhone手机 works", "iphone手", "iPhone手"),
    ("an ant🐜ant 👩‍💻works ⚠️here", "works", "works"),
    ("an ant🐜bee", "🐜", "🐜"),
    ("an ant🐜bee", "ant 🐜 bee", "ant🐜bee"),
    ("Zero\0byte and a half", "byte and", "byte and"),
    ("Zero\0byte and a half", "half", "half"),
    ("x" * 100 + " long", "x" * 100, "x" * 100),
    ("'; DROP TABLE conversation; --", "drop table", "DROP TABLE"),
)


@pytest.mark.parametrize(("said", "sought", "found"), SAID, ids=range(len(SAID)))
def test_a_phrase_is_found_as_people_write_it(store: Store, said: str, sought: str, found: str) -> None:
    """Case, width, signs, accents' spelling and scripts without spaces: found, and marked in the snippet."""
    chat = store.open("a", **SETTINGS)
    chat.user("Something else.")
    turn = chat.user(said)
    for order in ORDERS:
        (hit,) = store.search(sought, order=order)
        assert (hit.conversation, hit.key, hit.position, hit.role) == (chat.id, "a", turn.position, "user")
        assert (hit.origin, hit.at) == ("human", turn.at)
        assert marked(hit)[0] == found
        assert (hit.rank is None) == (order == "newest")


NOT_SAID: Final = ("of refund", "refunds", "refun", "march the", "本日", "日語", "話す", "", "...", "\0", "\ud800", '"')


@pytest.mark.parametrize("sought", NOT_SAID, ids=ascii)
def test_what_was_not_said_is_not_found(store: Store, sought: str) -> None:
    """Other orders, parts of words and texts without words find nothing."""
    store.open("a", **SETTINGS).append(
        {"role": "user", "content": "The refund of March"}, {"role": "assistant", "content": "私は日本語を話します。"}
    )
    assert store.search(sought) == []
    assert store.search(sought).behind == 0


TREES: Final = ("alder", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel", "ivy", "toolu_1")


def test_where_words_are_looked_for(store: Store) -> None:
    """Tool inputs, results, documents, names and titles are searched; thinking, signatures and base64 are not."""
    chat = store.open("a", **SETTINGS)
    call = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"who": ["alder", {"x": "birch"}]}}
    inner = [{"type": "text", "text": "cedar"}]
    source = {"type": "text", "media_type": "text/plain", "data": "dogwood"}
    chat.append(
        {
            "role": "user",
            "content": [{"type": "document", "source": source, "title": "elm"}, {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "fir", "signature": "ginkgo"}, call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": inner}]},
        check=False,
    )
    chat.label(title="hazel", metadata={"a": "ivy"})
    found = {tree for tree in TREES if store.search(tree)}
    assert found == {"alder", "birch", "cedar", "dogwood", "elm", "hazel"}
    (hit,) = store.search("hazel")
    assert (hit.role, hit.origin, hit.snippet, hit.marks) == (None, None, "hazel", ((0, 5),))
    assert len(store.search("look_up")) == 1


def test_long_texts(store: Store) -> None:
    """Of a long text the beginning is searched, whatever it is made of, and a turn is never refused for it."""
    chat = store.open("a", **SETTINGS)
    chat.user("first " + "word " * 60_000 + "far away " + "filler " * 60_000 + "beyond")
    chat.user("".join(map(chr, range(0x4E00, 0x9F00))) * 12 + "end")
    chat.user("third " + '\\"é\n' * 700_000)
    chat.user(" ".join(f"w{n}" for n in range(90_000)))
    assert [
        len(store.search(each)) for each in ("first", "beyond", "third", "w7000", "w20000 w20001", "w20001 w20000")
    ] == [*(1, 0, 1, 1, 1, 0)]
    assert len(store.search("far away")) == 1
    assert len(store.search("\u4e01\u4e02\u4e03")) == 1
    assert store.search("first").behind == 0


# --- as a query --------------------------------------------------------------------------------------------------

QUERIES: Final[tuple[tuple[str, set[int]], ...]] = (
    ("red blue", {0, 2}),
    ('"red blue"', {0}),
    ("red -blue", {1}),
    ('red -"red blue"', {1, 2}),
    ("red OR green", {0, 1, 2, 3}),
    ("blue red OR green", {0, 2}),
    ("gre*", {3}),
    ('"red blu"*', {0}),
    ("-red", set()),
    ("", set()),
    ("OR", set()),
    ('"red', {0, 1, 2}),
    ("red AND blue", {2}),
    ("red - blue", {0, 2}),
    ("red*blue", {0}),
    ("-", set()),
)


@pytest.mark.parametrize(("query", "found"), QUERIES, ids=[each for each, _ in QUERIES])
def test_a_query_is_read(store: Store, query: str, found: set[int]) -> None:
    """Words, phrases, alternatives, beginnings and what is not wanted; nothing is a mistake."""
    chat = store.open("a", **SETTINGS)
    turns = [chat.user(each) for each in ("red blue", "red", "blue and red", "green")]
    hits = store.search(query, syntax="query")
    assert {hit.position for hit in hits} == {turns[n].position for n in found}


STRANGE: Final = st.one_of(
    st.text(max_size=40),
    st.text(st.sampled_from("\"'*-+^:(){}[]<>&|!~\\%_;, \0\ud800aé日ก🐜\ue000AND OR NOT NEAR"), max_size=40),
)


@pytest.fixture(scope="module")
def strange(postgresql: Any) -> Iterator[list[Store]]:
    """Give one store on each engine, for many texts."""
    with postgresql.database(schema=True) as url:
        stores = [Store("sqlite://"), Store(url)]
        for each in stores:
            each.open("a", **SETTINGS).user("a é 日本 ก 🐜 AND OR NOT NEAR")
        yield stores
        for each in stores:
            each.close()


@given(sought=STRANGE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_is_a_mistake(strange: list[Store], sought: str) -> None:
    """Whatever is typed finds something or nothing, the same on both engines."""
    for syntax in SYNTAXES:
        for order in ORDERS:
            found = [places(each.search(sought, syntax=syntax, order=order)) for each in strange]
            assert found[0] == found[1]


ALPHABETS: Final = (
    "abcéß\u0131K1",
    "жёйЯ",
    "日本語のテスト々ー",
    "ขอเงินคืนได้",
    "한국어",
    "हिन्दी",
    "עִבְרִית",
)
WORDS: Final = st.one_of(*(st.text(st.sampled_from(each), min_size=1, max_size=6) for each in ALPHABETS)).filter(
    lambda word: any(each.isalnum() for each in word[:1])
)
BETWEEN: Final = st.sampled_from([" ", "\n", ", ", "🐜", "⚠️", "。", "-", "\0", " \u200b", "👩‍💻"])


@given(said=st.lists(st.tuples(WORDS, BETWEEN), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_every_word_that_was_said_is_found(strange: list[Store], said: list[tuple[str, str]]) -> None:
    """Each word, each two neighbours with what stands between them, and the whole are found on both engines."""
    whole = "".join(word + between for word, between in said)
    sought = [word for word, _ in said] + [whole]
    sought += [f"{one}{between}{two}" for (one, between), (two, _) in pairwise(said)]
    for each in strange:
        turn = each.open("said", **SETTINGS).user(whole)
        for some in sought:
            hits = each.search(some, limit=1)
            assert [(hit.key, hit.position) for hit in hits] == [("said", turn.position)]
            assert all(0 <= start < start + length <= len(hits[0].snippet) for start, length in hits[0].marks)
            assert hits[0].marks


# --- filters and pages -------------------------------------------------------------------------------------------


def test_filters(database_url: str) -> None:
    """Role, origin, model, times and keys narrow a search."""
    with MessagesAPI() as api, Client(api.key, base_url=api.url) as client, Store(database_url, client=client) as store:
        first = store.open("bot:1", **SETTINGS)
        api.answer("The ant said hello.")
        reply = first.send("Is there an ant?")
        second = store.open("bot:2", **SETTINGS)
        second.user("No ant.")
        second.assistant("Any ant?", reason="test")
        other = store.open("other", **SETTINGS).user("An ant!")
        human = [("other", other.position), ("bot:2", 2), ("bot:1", 2)]
        assert reply.turn is not None
        answered = [("bot:1", reply.turn.position)]
        assert places(store.search("ant", role="user")) == human
        assert places(store.search("ant", origin="human")) == human
        assert places(store.search("ant", role="assistant")) == [("bot:2", 3), *answered]
        assert places(store.search("ant", origin="synthetic")) == [("bot:2", 3)]
        assert places(store.search("ant", model="claude-sonnet-5-5")) == answered
        assert places(store.search("ant", model="claude")) == []
        assert places(store.search("ant", key_prefix="bot:", role="user")) == human[1:]
        assert places(store.search("ant", key_prefix="bot:2", role="user")) == human[1:2]
        assert len(store.search("ant", key_prefix="")) == 5
        assert places(store.search("ant", since=other.at)) == human[:1]
        assert places(store.search("ant", until=other.at, role="user")) == human[1:]
        assert store.search("ant", role="\ud800", origin="'", model="\0") == []


WRONG: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("order", {"order": "oldest"}),
    ("syntax", {"syntax": "sql"}),
    ("after", {"after": "x"}),
    ("after", {"after": "b1.1"}),
    ("limit", {"limit": -1}),
    ("since", {"since": "March"}),
    ("key_prefix", {"key_prefix": "\ud800"}),
    ("text", {"text": 5}),
    ("text", {"text": "a " * 65, "syntax": "query"}),
)


@pytest.mark.parametrize(("path", "options"), WRONG, ids=str)
def test_a_search_that_is_none_is_refused(store: Store, path: str, options: dict[str, Any]) -> None:
    """A filter, order or cursor that is none is a typed error that names it."""
    with pytest.raises(ContentError) as caught:
        store.search(**{"text": "a", **options})
    assert caught.value.path == path
    assert store.search("a", after="n" + "9" * 20) == []
    assert store.search("a", limit=0) == []


def test_scopes_are_kept_apart(database_url: str) -> None:
    """What is in another scope is not found, whatever is asked, and is not counted."""
    with Store(database_url) as store, Store(database_url, scope="tenant") as other:
        store.open("a", **SETTINGS).user("mine alone")
        other.open("a", **SETTINGS).user("theirs alone")
        assert [hit.snippet for hit in store.search("alone")] == ["mine alone"]
        assert [hit.snippet for hit in other.search("alone OR mine", syntax="query")] == ["theirs alone"]
        (hit,) = other.search("alone")
        assert places(store.search("alone", after=hit)) == [("a", 2)]
        store.open("b", **SETTINGS).user("mine again")
        assert other.search("alone").behind == 0


@pytest.mark.parametrize("order", ["newest", "best"])
def test_pages_while_others_append(store: Store, order: Any) -> None:
    """Pages have no gap and no double, though turns are said between them."""
    chats = [store.open(f"k{n}", **SETTINGS) for n in range(3)]
    for n in range(30):
        chats[n % 3].user(f"ant number {n} " + "and " * (n % 7))
    before = places(store.search("ant number", order=order))
    assert len(set(before)) == 30
    seen: list[Hit] = []
    while page := store.search("ant number", limit=4, order=order, after=seen[-1] if seen else None):
        seen += page
        chats[0].user("another ant number")
    assert places(seen) == before
    assert places(store.search("ant number", limit=4, order=order, after=seen[3].cursor)) == before[4:8]


def test_many_entries_of_one_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of one time are told apart, more than a microsecond has numbers for, and after some were cleared."""
    monkeypatch.setattr("conversation_store.storage.identity.now", lambda: 1_763_805_600_000_000)
    monkeypatch.setattr(search, "_TIES", 4)
    chats = [store.open(f"k{n}", **SETTINGS) for n in range(2)]
    for chat in chats:
        chat.append(*({"role": "user", "content": f"ant {n}"} for n in range(20)), check=False)
        store.search("ant")
    store._database.write(lambda connection: search.clear(connection, chats[0].id, 2, 2))
    chats[1].append(*({"role": "user", "content": f"ant {n}"} for n in range(9)), check=False)
    assert len(set(places(store.search("ant", limit=100)))) == 48
    assert [hit.position for hit in store.search("ant", key_prefix="k1")] == list(range(30, 1, -1))


# --- the index ---------------------------------------------------------------------------------------------------


def held(store: Store) -> list[tuple[Any, ...]]:
    """Read what the index holds."""
    with store._database.read() as connection:
        rows = connection.execute(
            text("SELECT conversation, position, words FROM conversation_search ORDER BY conversation, position")
        ).all()
    return [(bytes(of), position, said) for of, position, said in rows]


def test_made_anew_it_is_the_same(store: Store) -> None:
    """What was caught up bit by bit is what is made from the log at once, even when the tables are gone."""
    chats = [store.open(f"k{n}", **SETTINGS) for n in range(4)]
    for n in range(40):
        chats[n % 4].user(f"ant {n} 日本語")
        if n % 5 == 0:
            store.search("x")
    found = [(hit.cursor, hit.snippet) for hit in store.search("日本")]
    before = held(store)
    assert len(before) == 40
    told: list[tuple[int, int]] = []
    entries = sum(each.version for each in store.list())
    assert store.reindex(lambda done, total: told.append((done, total))) == entries
    assert told[0] == (0, entries)
    assert told[-1] == (entries, entries)
    assert (held(store), [(hit.cursor, hit.snippet) for hit in store.search("日本")]) == (before, found)

    def drop(connection: Any) -> None:
        connection.execute(text("DROP TABLE conversation_search"))

    store._database.write(drop)
    with pytest.raises(DatabaseError):
        store.search("ant")
    chats[0].user("The log does not care.")
    store.reindex()
    assert held(store)[:1] == before[:1]
    assert len(store.search("ant")) == 40


def test_a_crash_between_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one batch wrote stays, what was not committed is not half there, and the next search goes on."""
    monkeypatch.setattr(search, "ENTRIES", 4)
    chat = store.open("a", **SETTINGS)
    for n in range(10):
        chat.user(f"ant {n}")
    write = search._write
    calls: list[int] = []

    def dies(connection: Any, steps: Any) -> int:
        calls.append(1)
        written = write(connection, steps)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return written

    with monkeypatch.context() as patch:
        patch.setattr(search, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            store.search("ant")
    assert len(held(store)) == 4
    assert len(store.search("ant")) == 10
    assert store.verify() == []


def test_an_index_that_cannot_be_written_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A search finds what is known and says how much is not; without time it does not catch up at all."""
    chat = store.open("a", **SETTINGS)
    chat.user("ant")
    assert len(store.search("ant")) == 1
    chat.user("ant again")
    assert store.search("ant", catch_up=0).behind == 1

    def refuse(*_: Any, **__: Any) -> int:
        raise DatabaseError("read-only", "cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(search, "_write", refuse)
        hits = store.search("ant")
    assert (len(hits), hits.behind) == (1, 1)
    assert "not caught up" in caplog.text
    assert store.search("ant").behind == 0


def test_an_entry_the_database_refuses_keeps_no_other_out(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be indexed is left out by name, and what comes after it is found."""
    chat = store.open("a", **SETTINGS)
    for said in ("ant one", "poison ant", "ant two"):
        chat.user(said)
    write = search._write

    def refuse(connection: Any, steps: Any) -> int:
        if any("poison" in row.words for step in steps for row in step.rows):
            raise DatabaseError("refused", "poison")
        return write(connection, steps)

    monkeypatch.setattr(search, "_write", refuse)
    assert [hit.snippet for hit in store.search("ant")] == ["ant two", "ant one"]
    assert "cannot be searched" in caplog.text
    assert store.search("ant").behind == 0


def test_several_catch_up_at_once(database_url: str) -> None:
    """Threads that search while others say: everything is found once, and nobody fails."""
    failures: list[BaseException] = []
    with Store(database_url) as store:
        together = threading.Barrier(6)

        def work(number: int) -> None:
            try:
                chat = store.open(f"k{number}", **SETTINGS)
                together.wait(10)
                for n in range(15):
                    if number < 3:
                        chat.user(f"ant {n}")
                    else:
                        store.search("ant")
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        hits = store.search("ant", limit=100)
        assert len(set(places(hits))) == len(hits) == 45
        assert hits.behind == 0
        assert store.verify() == []


def test_clearing(store: Store) -> None:
    """An entry, or a conversation, is taken out of the index alone; the others stay."""
    first, second = store.open("a", **SETTINGS), store.open("b", **SETTINGS)
    turns = [first.user(f"ant {n}") for n in range(3)]
    second.user("ant")
    assert len(store.search("ant")) == 4
    assert store._database.write(lambda one: search.clear(one, first.id, turns[1].position, turns[1].position)) == 1
    assert [hit.position for hit in store.search("ant", key_prefix="a")] == [turns[2].position, turns[0].position]
    assert store._database.write(lambda one: search.clear(one, first.id)) == 2
    assert places(store.search("ant")) == [("b", 2)]
    assert store._database.write(lambda one: search.clear(one, UUID(int=0))) == 0


def test_cleared_words_are_not_in_the_file(tmp_path: Path) -> None:
    """After a clearing neither the file nor its log holds the words, but for the log's own entry."""
    path = tmp_path / "bot.db"
    with Store(f"sqlite:///{path}") as store:
        chat = store.open("a", **SETTINGS)
        for n in range(300):
            chat.user(f"filler {n}")
        turn = chat.user("SECRETWORD")
        store.search("filler")
        for n in range(300):
            chat.user(f"filler again {n}")
            if n % 50 == 0:
                store.search("filler")
        assert b"secretword" in path.read_bytes() + Path(f"{path}-wal").read_bytes()
        store._database.write(lambda one: search.clear(one, chat.id, turn.position, turn.position))
        assert len(store.search("filler", limit=1000)) == 600
    assert b"secretword" not in path.read_bytes()


def test_what_is_erased_is_neither_indexed_nor_found(store: Store) -> None:
    """An entry without its body, gone before or after it was indexed, is not found."""
    chat = store.open("a", **SETTINGS)
    first, second = chat.user("ant one"), chat.user("ant two")

    def erase(position: int) -> None:
        statement = text("UPDATE conversation_entry SET body = NULL WHERE position = :position")
        store._database.write(lambda one: one.execute(statement, {"position": position}))

    erase(first.position)
    assert places(store.search("ant")) == [("a", second.position)]
    erase(second.position)
    assert store.search("ant") == []


def test_a_text_is_said_whatever_it_holds() -> None:
    """Bytes that are no message, or one of strange members, say nothing or what they say."""
    assert words.said(b"\xff") == ""
    assert words.said(b"[1]") == ""
    assert words.indexed(words.said(rb'{"content":"a\ud800b \u0000c"}')) == ["a", "b", "c"]
    assert words.said(b'{"content":[{"type":5,"text":"a"},7,null,{"type":"image","title":"b"}]}') == "a"


@given(st.text(st.characters(max_codepoint=127), max_size=200))
def test_plain_text_has_the_same_words_the_fast_way(said: str) -> None:
    """What is indexed of ASCII is what a search of it is made of."""
    assert words.indexed(said) == [each.word for each in words.words_of(said)]


def test_a_hosts_engine(tmp_path: Path) -> None:
    """A search works on an engine of the host's."""
    with Store(f"sqlite:///{tmp_path / 'bot.db'}") as store:
        store.open("a", **SETTINGS).user("ant")
    engine = create_engine(f"sqlite:///{tmp_path / 'bot.db'}")
    with pytest.warns(RuntimeWarning), Store(engine) as store:
        assert len(store.search("ant")) == 1
    engine.dispose()


def test_a_store_from_before_is_upgraded_and_searched(database_url: str) -> None:
    """What was said under the revision before is found after an upgrade."""
    with Store(database_url) as store:
        store.open("a", **SETTINGS).user("ant")
        sqlite = store._database.dialect == "sqlite"
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for statement in (
            *(["DROP TABLE conversation_search_fts"] if sqlite else []),
            "DROP TABLE conversation_search",
            "DROP INDEX ix_conversation_behind",
            "DROP INDEX ix_conversation_unsealed",
            "DROP INDEX ix_conversation_blob_conversation",
            "ALTER TABLE conversation_blob DROP COLUMN conversation",
            "ALTER TABLE conversation DROP COLUMN data_key",
            "DROP TABLE conversation_data_key",
            *(f"DROP TABLE conversation_{name}" for name in ("checkpoint", "tile", "seal", "log")),
            "UPDATE conversation_store_version SET version_num = '0002'",
        ):
            connection.execute(text(statement))
    engine.dispose()
    with Store(database_url, upgrade=True) as store:
        assert store.search("ant", catch_up=0).behind == 3
        assert places(store.search("ant")) == [("a", 2)]


def test_without_conversations(database_url: str) -> None:
    """An empty store finds nothing, and has nothing to read."""
    with Store(database_url) as store:
        assert store.search("a") == []
        assert store.reindex() == 0
    database = Database.open(database_url)
    assert search.catch_up(database, None) == 0
    database.close()
