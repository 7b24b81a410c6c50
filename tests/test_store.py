"""Stores: keys, scopes, lists, threads, and databases of one's own and of a host."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, create_engine, event, insert, make_url, select

from conversation_store import Client, Conversation, Listed, Store
from conversation_store.errors import (
    ConfigurationError,
    ConflictError,
    ContentError,
    ConversationStoreError,
    DatabaseError,
    NotFoundError,
    SchemaMismatchError,
)
from conversation_store.storage.engine import CHECKPOINT_BYTES, Database
from conversation_store.testing import MessagesAPI

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Give a store without a client."""
    with Store(database_url) as opened:
        yield opened


# --- keys --------------------------------------------------------------------------------------------------------

KEYS: Final = (
    *("a", "A", "\u00e1", "a\u0301", "\u00c1", "a ", " a", "a\t", "\u00df", "ss", "\uff41", "\u0430"),
    *("\0", "a\0", "0", "%", "a%", "_", "\\", "'", '"', "\U0001f41c", "x" * 512, "x" * 511, "\u00e9" * 256),
)


def test_keys_are_taken_exactly(store: Store) -> None:
    """Keys that a collation would take for one are as many conversations, each found by its own."""
    made = {key: store.open(key, **SETTINGS).id for key in KEYS}
    assert len(set(made.values())) == len(KEYS)
    for key, name in made.items():
        assert store.get(key).id == store.open(key).id == name
        assert store.get(key).key == key
    assert {listed.key for listed in store.list(limit=100)} == set(KEYS)


@pytest.mark.parametrize("key", ["", "x" * 513, "\u00e9" * 257, "\ud800", "a\udfff", 5, b"a"], ids=repr)
def test_a_key_that_is_none_is_refused(store: Store, key: Any) -> None:
    """An empty, too long or impossible key is a typed error, and nothing is made."""
    with pytest.raises(ContentError) as caught:
        store.open(key, **SETTINGS)
    assert caught.value.path == "key"
    assert store.list() == []


def test_what_is_not_there_is_not_found(store: Store) -> None:
    """Unknown keys and ids, and keys that cannot be, are a NotFoundError, which is a LookupError too."""
    store.open("a", **SETTINGS)
    for which in ("b", "", "A", "x" * 513, "\ud800", str(store.get("a").id), uuid4(), UUID(int=0)):
        with pytest.raises(NotFoundError) as caught:
            store.get(which)
        assert isinstance(caught.value, LookupError)
        assert str(caught.value).startswith("no conversation ")


def test_a_conversation_is_found_by_its_id(store: Store) -> None:
    """The id finds a conversation with a key and one without; without a key every opening is a new one."""
    named, unnamed, other = store.open("a", **SETTINGS), store.open(**SETTINGS), store.open(None, **SETTINGS)
    assert store.get(named.id).key == "a"
    assert store.get(unnamed.id).key is None
    assert unnamed.id != other.id
    assert named.id.version == 7
    assert store.get(unnamed.id).user("Hello").text == "Hello"


def test_settings_that_are_wrong_make_nothing(store: Store) -> None:
    """A conversation whose settings cannot be recorded is not made."""
    mistakes: tuple[dict[str, Any], ...] = (
        {"system": object()},
        {"messages": []},
        {"stream": True},
        {"betas": "a"},
        {"max_tokens": float("nan")},
    )
    for wrong in mistakes:
        with pytest.raises(ContentError):
            store.open("a", **wrong)
    with pytest.raises(NotFoundError):
        store.get("a")


# --- lists -------------------------------------------------------------------------------------------------------


def test_lists_come_in_pages_the_last_changed_first(store: Store) -> None:
    """Pages follow one another without gap or repetition, whatever the page size."""
    chats = [store.open(f"k{n}", **SETTINGS) for n in range(7)]
    chats[2].user("changed last")
    chats[4].label(title="Ants", metadata={"a": 1})
    whole = store.list()
    assert [listed.key for listed in whole] == ["k4", "k2", "k6", "k5", "k3", "k1", "k0"]
    for size in (1, 2, 3, 7, 8):
        seen: list[Listed] = []
        while page := store.list(size, after=seen[-1] if seen else None):
            assert len(page) <= size
            seen += page
        assert seen == list(whole)
    first = whole[0]
    assert (first.id, first.title, first.metadata, first.version, first.pending) == (
        chats[4].id,
        "Ants",
        {"a": 1},
        3,
        False,
    )
    assert first.created <= first.updated


def test_conversations_changed_at_one_moment_are_all_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal times are told apart by id, so that no page loses one."""
    monkeypatch.setattr("conversation_store.storage.identity.now", lambda: 1_763_805_600_000_000)
    made = {store.open(f"k{n}", **SETTINGS).id for n in range(5)}
    seen: list[Listed] = []
    while page := store.list(2, after=seen[-1] if seen else None):
        seen += page
    assert {listed.id for listed in seen} == made
    assert len(seen) == 5


def test_lists_are_narrowed(database_url: str) -> None:
    """By key, title, metadata, time and open exchange, alone and together, page by page."""
    with Store(database_url) as store:
        chats = [store.open(key, **SETTINGS) for key in ("bot:1", "bot:2", "bot;", "bot", "\uffff", "\U0010ffff")]
        chats[0].label(title="Straße der Ameisen", metadata={"a": 1, "b": None})
        chats[1].label(title="strasse", metadata={"a": True, "c": [1, {"d": "e"}]})
        chats[2].label(metadata={"a": 1})
        store.open(**SETTINGS)
        pending = chats[3].begin("Hello")

        def keys(**filters: Any) -> list[str | None]:
            found: list[Listed] = []
            while page := store.list(1, after=found[-1] if found else None, **filters):
                found += page
            assert found == store.list(**filters)
            return [each.key for each in found]

        assert keys(key_prefix="bot:") == ["bot:2", "bot:1"]
        assert keys(key_prefix="bot") == ["bot", "bot;", "bot:2", "bot:1"]
        assert keys(key_prefix="\U0010ffff") == ["\U0010ffff"]
        assert len(keys(key_prefix="")) == 6
        assert len(keys()) == 7
        assert keys(title="STRASSE") == ["bot:2", "bot:1"]
        assert keys(title="ameisen") == ["bot:1"]
        assert keys(title="Ameisen", key_prefix="bot:2") == []
        assert keys(metadata={"b": None}) == ["bot:1"]
        assert keys(metadata={"c": [1, {"d": "e"}], "a": True}) == ["bot:2"]
        assert keys(metadata={"a": 1}) == ["bot;", "bot:1"]
        assert keys(metadata={"zzz": None}) == []
        assert keys(pending=True) == ["bot"]
        assert len(keys(pending=False)) == 6
        assert keys(since=store.list(1)[0].updated) == ["bot"]
        pending.fail(TimeoutError())
        assert keys(pending=True) == []
        for wrong in ({"limit": -1}, {"key_prefix": "\ud800"}, {"since": "x"}):
            with pytest.raises(ContentError):
                store.list(**wrong)


# --- scopes ------------------------------------------------------------------------------------------------------


def test_nothing_of_another_scope_can_be_reached(database_url: str, store: Store) -> None:
    """The same key is another conversation, ids do not open, lists and verification keep to their scope."""
    mine = store.open("a", **SETTINGS)
    mine.user("mine")
    with Store(database_url, scope="tenant") as other:
        assert other.list() == []
        for which in ("a", mine.id):
            with pytest.raises(NotFoundError):
                other.get(which)
        theirs = other.open("a", model="claude-haiku-5-5", max_tokens=1)
        theirs.user("theirs")
        assert theirs.id != mine.id
        assert [turn.text for turn in other.get("a").turns] == ["theirs"]
        assert [listed.id for listed in other.list()] == [theirs.id]
        with pytest.raises(NotFoundError):
            store.get(theirs.id)
        assert other.list(after=store.list()[0]) in ([], other.list())
        assert [turn.text for turn in store.get("a").turns] == ["mine"]
        engine = create_engine(database_url)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE conversation_entry SET at = at + 1")
        engine.dispose()
        assert {fault.conversation for fault in other.verify()} == {theirs.id}
        assert {fault.conversation for fault in store.verify()} == {mine.id}


def test_scopes_are_exact_too(database_url: str) -> None:
    """Scopes differ by case, accent and space, up to 255 bytes; what is longer or no text is refused."""
    scopes = ["", "a", "A", "\u00e1", "a ", "\0", "x" * 255]
    for n, scope in enumerate(scopes):
        with Store(database_url, scope=scope) as store:
            store.open("k", **SETTINGS).user(str(n))
    for n, scope in enumerate(scopes):
        with Store(database_url, scope=scope) as store:
            assert [turn.text for turn in store.get("k").turns] == [str(n)]
            assert len(store.list()) == 1
    for wrong in ("x" * 256, "\ud800"):
        with pytest.raises(ContentError):
            Store(database_url, scope=wrong)


# --- threads -----------------------------------------------------------------------------------------------------


def work_in_threads(url: str) -> None:
    """Let six threads open, say and read through one store, each its own conversation and all one new key."""
    failures: list[BaseException] = []
    shared: set[UUID] = set()
    with Store(url) as store:
        together = threading.Barrier(6)

        def work(number: int) -> None:
            try:
                together.wait(10)
                shared.add(store.open("shared", **SETTINGS).id)
                chat = store.open(f"k{number}", **SETTINGS)
                for n in range(5):
                    chat.user(f"{number} {n}")
                assert [turn.text for turn in store.get(f"k{number}").turns] == [f"{number} {n}" for n in range(5)]
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert len(shared) == 1
        assert store.verify() == []
        assert len(store.list()) == 7


def test_threads_share_a_store(database_url: str) -> None:
    """Threads do not get into each other's way, and a key opened by all at once is one conversation."""
    work_in_threads(database_url)


def test_threads_share_a_store_in_memory() -> None:
    """The one connection of a database in memory serves all threads in turn."""
    work_in_threads("sqlite://")


# --- SQLite files of our own -------------------------------------------------------------------------------------


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """The file and those beside it are not readable for others, whatever the umask."""
    old = os.umask(0)
    try:
        with Store(f"sqlite:///{tmp_path / 'bot.db'}") as store:
            store.open("a", **SETTINGS)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert set(modes) >= {"bot.db", "bot.db-wal", "bot.db.lock"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_our_own_connections_are_set_up_as_promised(tmp_path: Path, durability: str, synchronous: int) -> None:
    """Every connection has the write-ahead log, the durability asked for, foreign keys and secure deletion."""
    database = Database.open(f"sqlite:///{tmp_path / 'bot.db'}", durability=durability)
    wanted = {
        "journal_mode": "wal",
        "synchronous": synchronous,
        "foreign_keys": 1,
        "secure_delete": 1,
        "trusted_schema": 0,
        "busy_timeout": 15000,
    }
    for _ in range(2):
        with database.read() as connection:
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}
        assert found == wanted
        database.engine.dispose()
    database.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&cache=shared&uri=true"]
)
def test_a_store_in_memory_lives_as_long_as_it_is_open(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file everything works for one store, leaves no file, and the next one is empty."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with Store(url) as store:
            assert store.list() == []
            chat = store.open("a", **SETTINGS)
            chat.user("Hello")
            assert store.get("a").request().body == chat.request().body
            assert store.verify() == []
    assert list(tmp_path.iterdir()) == []


# --- databases that cannot be used -------------------------------------------------------------------------------


def _text_file(folder: Path) -> str:
    (folder / "notes.db").write_text("these are notes, not a database, and long enough to be read as a header\n" * 20)
    return f"sqlite:///{folder / 'notes.db'}"


def _foreign(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "other.db")) as connection, connection:
        connection.execute("CREATE TABLE theirs (a)")
    return f"sqlite:///{folder / 'other.db'}"


WRONG: Final[Mapping[str, tuple[Callable[[Path], Any], type[ConversationStoreError], str]]] = {
    "no URL": (lambda _: "bot.db", ConfigurationError, "sqlite:///bot.db"),
    "empty": (lambda _: "", ConfigurationError, "URL"),
    "no such database": (lambda _: "nosuch://a/b", ConfigurationError, "nosuch"),
    "no such driver": (lambda _: "postgresql+nosuch://a/b", ConfigurationError, "nosuch"),
    "a driver that is not installed": (lambda _: "postgresql+asyncpg_not://a/b", ConfigurationError, "asyncpg_not"),
    "no such folder": (lambda folder: f"sqlite:///{folder / 'none' / 'bot.db'}", DatabaseError, "bot.db"),
    "a folder": (lambda folder: f"sqlite:///{folder}", DatabaseError, ""),
    "no database": (_text_file, DatabaseError, "no database"),
    "somebody else's": (_foreign, SchemaMismatchError, "conversation-store db upgrade sqlite:///"),
    "nobody there": (
        lambda _: "postgresql+psycopg://me:s3cret@127.0.0.1:9/none?connect_timeout=2",
        DatabaseError,
        "cannot be reached",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_database_that_cannot_be_used_is_a_typed_error(tmp_path: Path, case: str) -> None:
    """The error says what is wrong and what to do, shows no password, and nothing is made or changed."""
    make, kind, words = WRONG[case]
    url = make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(kind) as caught:
        Store(url)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith(".lock")} == before


def test_somebody_elses_file_becomes_ours_only_when_told(tmp_path: Path) -> None:
    """A foreign SQLite file is set up as promised once it was upgraded, and its own table is still there."""
    url = _foreign(tmp_path)
    with Store(url, upgrade=True) as store:
        store.open("a", **SETTINGS)
        with store._database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("SELECT count(*) FROM theirs").scalar() == 0


def test_a_wrong_durability_is_refused(tmp_path: Path) -> None:
    """There are two ways to keep a commit, and no third."""
    with pytest.raises(ConfigurationError):
        Store(f"sqlite:///{tmp_path / 'bot.db'}", durability="off")


def test_a_file_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    """A store that may only be read is read, and a turn is refused with the next step; nothing changes."""
    with Store(f"sqlite:///{tmp_path / 'bot.db'}") as store:
        store.open("a", **SETTINGS).user("Hello")
    with Store(f"sqlite:///file:{tmp_path / 'bot.db'}?mode=ro&uri=true") as store:
        chat = store.get("a")
        with pytest.raises(DatabaseError) as caught:
            chat.user("again")
        assert caught.value.reason == "read-only"
        assert "permissions" in str(caught.value)
        assert [turn.text for turn in chat.refresh().turns] == ["Hello"]
        assert store.verify() == []


def test_without_a_client_there_is_no_sending(store: Store) -> None:
    """A store without a client keeps, builds and begins; sending says what is missing, and writes nothing."""
    chat = store.open("a", **SETTINGS)
    chat.user("Hello")
    for ask, said in ((chat.send, ()), (chat.send, ("more",)), (chat.retry, ())):
        with pytest.raises(ConfigurationError, match="client"):
            ask(*said)
    assert chat.version == 3
    assert chat.begin().params["messages"] == [{"role": "user", "content": "Hello"}]


def test_no_repr_shows_a_password() -> None:
    """A store says which database it is, and hides the password."""
    url = make_url("postgresql+psycopg://me:s3cret@localhost/bots")
    assert "s3cret" not in Database(create_engine(url), owned=True).url
    with Store("sqlite://", scope="a") as store:
        assert repr(store) == "<Store sqlite://, scope='a'>"


# --- a host's engine ---------------------------------------------------------------------------------------------


def host(url: str, **pragmas: object) -> Engine:
    """Make an engine as a host would, its PRAGMAs set as given."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def set_up(connection: Any, _record: object) -> None:
            for name, value in pragmas.items():
                connection.execute(f"PRAGMA {name}={value}").close()

    return engine


PROMISED: Final = {"synchronous": 2, "foreign_keys": 1, "secure_delete": 1}


def test_a_hosts_engine_is_used_as_it_is(bare_database_url: str) -> None:
    """Nothing is configured: no listener, no PRAGMA, no option; closing the store leaves the engine open."""
    engine = host(bare_database_url, **PROMISED)
    watched = (engine.dispatch, engine.pool.dispatch, engine.dialect.dispatch)

    def listening() -> list[int]:
        names = [name for name in dir(watched[0]) if not name.startswith("_")]
        return [
            len(list(getattr(dispatch, name, ())))
            for dispatch in watched
            for name in names
            if hasattr(getattr(dispatch, name, None), "__iter__")
        ]

    def pragmas() -> list[Any]:
        if engine.dialect.name != "sqlite":
            return []
        with engine.connect() as connection:
            names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout", "trusted_schema")
            return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    before = (listening(), pragmas(), dict(engine.get_execution_options()), engine.pool)
    with MessagesAPI() as api, Client(api.key, base_url=api.url) as client:
        store = Store(engine, client=client, upgrade=True)
        chat = store.open("a", **SETTINGS)
        chat.send("Hello")
        assert store.verify() == []
        store.close()
    assert (listening(), pragmas(), dict(engine.get_execution_options()), engine.pool) == before
    assert [turn.role for turn in Store(engine).get("a").turns] == ["user", "assistant"]
    engine.dispose()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("name", "value", "promise"),
    [
        ("synchronous", 1, "a committed turn may be lost in a power cut"),
        ("foreign_keys", 0, "an attachment in use could be swept"),
        ("secure_delete", 0, "erased words stay in the file"),
    ],
)
def test_a_hosts_engine_that_breaks_a_promise_is_warned_about(
    database_url: str, name: str, value: int, promise: str
) -> None:
    """A PRAGMA that does not hold a promise is left alone, and a warning names the promise, at the caller's line."""
    engine = host(database_url, **{**PROMISED, name: value})
    with pytest.warns(RuntimeWarning, match=promise) as caught:
        Store(engine, upgrade=True).close()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    engine.dispose()
    kept = host(database_url, **PROMISED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Store(kept).close()
    kept.dispose()


def test_a_hosts_own_tables_live_beside_ours(bare_database_url: str) -> None:
    """Our tables come into a host's database, its own stay as they were and usable meanwhile."""
    engine = host(bare_database_url, **PROMISED)
    schema = MetaData()
    theirs = Table("customer", schema, Column("id", Integer, primary_key=True), Column("name", String(50)))
    schema.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(theirs), {"id": 1, "name": "Ann"})
    with pytest.raises(SchemaMismatchError):
        Store(engine)
    store = Store(engine, upgrade=True)
    chat = store.open("a", **SETTINGS)
    chat.user("Hello")
    with engine.begin() as connection:
        connection.execute(insert(theirs), {"id": 2, "name": "Bob"})
    chat.user("again")
    with engine.connect() as connection:
        assert connection.execute(select(theirs.c.name).order_by(theirs.c.id)).scalars().all() == ["Ann", "Bob"]
    assert store.verify() == []
    engine.dispose()


# --- the connection that writers share ------------------------------------------------------------------------------


def taken(store: Store) -> list[Any]:
    """Note every connection that is taken from the pool of a store from now on."""
    found: list[Any] = []
    event.listen(store._database.engine, "checkout", lambda connection, *_: found.append(connection))
    return found


def test_writers_of_a_file_share_a_connection_that_is_kept(tmp_path: Path) -> None:
    """Appends of any conversation and thread take none from the pool; what goes wrong in one is not met by the next."""
    with Store(f"sqlite:///{tmp_path / 'bot.db'}") as store:
        chats = [store.open(f"{n}", **SETTINGS) for n in range(4)]
        chats[0].user("first")
        found = taken(store)

        def say(chat: Conversation) -> None:
            for n in range(25):
                chat.user(f"{n}")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(say, chats))
        assert found == []

        stale = store.get("0")
        chats[0].user("once more")
        found.clear()
        with pytest.raises(ConflictError):
            stale.user("from an older state")
        stale.refresh().user("from this one")
        chats[1].user("and on")
        assert len(set(map(id, found))) <= 2  # one to read with, one to write with
        store._database.engine.dispose()
        chats[2].user("anew")
        assert [chat.version for chat in (store.get(f"{n}") for n in range(4))] == [30, 28, 28, 27]
        assert store.verify() == []


def test_a_kept_connection_goes_with_its_store(tmp_path: Path) -> None:
    """Closing a store leaves no connection open: the log is copied into the file and gone."""
    path = tmp_path / "bot.db"
    with Store(f"sqlite:///{path}") as store:
        store.open("a", **SETTINGS).user("hello")
        assert path.with_name("bot.db-wal").exists()
    assert not path.with_name("bot.db-wal").exists()
    assert store._database._writers == []


def test_the_write_ahead_log_is_copied_in_time(tmp_path: Path) -> None:
    """However much a transaction writes, the log holds what CHECKPOINT_BYTES says, and one transaction more."""
    path, words = tmp_path / "bot.db", "x" * 900_000
    with Store(f"sqlite:///{path}") as store:
        chat = store.open("a", **SETTINGS)
        for _ in range(30):
            chat.user(words)
            assert path.with_name("bot.db-wal").stat().st_size < CHECKPOINT_BYTES + 2 * len(words)
