"""What the database can do to a worker: doubtful commits, lost connections, full disks, wrong files, forks."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from attrs import frozen
from sqlalchemy import NullPool, create_engine, event, inspect, make_url

from conversation_store import Client, Conversation, Image, Pending, State, Store
from conversation_store.audit import verification
from conversation_store.errors import (
    BusyError,
    ContentError,
    DatabaseError,
    LeaseLostError,
    NotSavedError,
    SchemaMismatchError,
)
from conversation_store.history import History
from conversation_store.storage import engine, log
from conversation_store.testing import Answer, MessagesAPI
from tests import pictures
from tests.durability.nursery import Nursery
from tests.durability.workers import SETTINGS

KEY: Final = "sk-ant-loopback"
ANSWER: Final = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": SETTINGS["model"],
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
).encode()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Give an interpreter to fork workers from."""
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a fault after a fifth of a second."""
    monkeypatch.setattr(engine, "PATIENCE", 0.2)


def is_sqlite(url: str) -> bool:
    """Say which engine a URL is for."""
    return url.startswith("sqlite")


def kept(url: str, key: str = "chat") -> tuple[int, list[str]]:
    """Read a conversation as another process would: length of its log and the texts of its turns; verified."""
    with Store(url) as store:
        chat = store.get(key)
        assert chat.verify() == []
        return chat.version, [turn.text for turn in chat.turns]


def kinds(url: str, key: str = "chat") -> list[str]:
    """Read the kinds of a log's entries."""
    with Store(url) as store:
        chat = store.get(key)
        with store._database.read() as connection:
            return [entry.kind for entry in log.read(connection, chat.id, 0, chat.version)]


# --- commits of unknown outcome --------------------------------------------------------------------------------------


@frozen
class Doubt:
    """
    A COMMIT that raises.

    Attributes:
        applied: Whether the database applied it all the same.
        passing: Whether the fault is one that passes, so that it is tried again.
    """

    applied: bool
    passing: bool

    def raised(self, connection: Any) -> Exception:
        """Make what the driver raises."""
        if isinstance(connection.driver_connection, sqlite3.Connection):
            error = sqlite3.OperationalError("told by the test")
            error.sqlite_errorname = "SQLITE_BUSY" if self.passing else "SQLITE_IOERR_FSYNC"
            return error
        if self.passing:
            connection.driver_connection.close()
            return psycopg.OperationalError("server closed the connection unexpectedly")
        return psycopg.errors.IoError("told by the test")


@contextmanager
def doubtful(store: Store, *doubts: Doubt) -> Iterator[None]:
    """Let the next commits of a store raise."""
    left = list(doubts)
    with pytest.MonkeyPatch.context() as patch:
        dialect = store._database.engine.dialect
        commit = dialect.do_commit

        def do_commit(connection: Any) -> None:
            if not left:
                commit(connection)
                return
            doubt = left.pop(0)
            if doubt.applied:
                commit(connection)
            else:
                connection.rollback()
            raise doubt.raised(connection)

        patch.setattr(dialect, "do_commit", do_commit)
        yield
    assert left == []


def _begin(chat: Conversation) -> object:
    return chat.begin("Hello", idempotency_key="one")


def _finish(chat: Conversation) -> object:
    pending = chat.pending
    assert pending is not None
    return pending.finish(ANSWER)


def _fail(chat: Conversation) -> None:
    pending = chat.pending
    assert pending is not None
    pending.fail(TimeoutError("told by the test"))


NOTHING: Final[Callable[[Conversation], object]] = lambda _chat: None  # noqa: E731 - one of a table

APPENDS: Final[dict[str, tuple[Callable[[Conversation], object], Callable[[Conversation], object], list[str]]]] = {
    "user": (NOTHING, lambda chat: chat.user("Hello"), ["turn"]),
    "append": (NOTHING, lambda chat: chat.append(*[{"role": "user", "content": "Hello"}] * 3), ["turn"] * 3),
    "update": (NOTHING, lambda chat: chat.update(max_tokens=65), ["settings"]),
    "label": (NOTHING, lambda chat: chat.label(title="Ants"), ["labelled"]),
    "begin": (NOTHING, _begin, ["turn", "request"]),
    "finish": (_begin, _finish, ["outcome", "turn"]),
    "fail": (_begin, _fail, ["outcome"]),
}
"""What comes first, what is done, what it appends."""

DOUBTS: Final = {
    "applied, passing": [Doubt(applied=True, passing=True)],
    "applied, lasting": [Doubt(applied=True, passing=False)],
    "not applied, passing": [Doubt(applied=False, passing=True)],
    "not applied, lasting": [Doubt(applied=False, passing=False)],
    "not applied, then applied": [Doubt(applied=False, passing=True), Doubt(applied=True, passing=True)],
}


@pytest.mark.parametrize("doubts", DOUBTS.values(), ids=DOUBTS.keys())
@pytest.mark.parametrize("name", APPENDS)
def test_a_commit_that_raised_is_reported_as_what_it_was(database_url: str, name: str, doubts: list[Doubt]) -> None:
    """Applied: it returns, and the rows are there once. Not applied: an error, and no row; then it works."""
    first, act, appended = APPENDS[name]
    with Store(database_url) as store:
        chat = store.open("chat", **SETTINGS)
        first(chat)
        before = kinds(database_url)
        chat.refresh()
        with doubtful(store, *doubts):
            if doubts[-1].applied or doubts[-1].passing:
                act(chat)
            else:
                with pytest.raises((DatabaseError, NotSavedError)):
                    act(chat)
                assert kinds(database_url) == before
                act(chat)
        assert kinds(database_url) == before + appended
        chat.label(title="The object goes on from there")
        assert chat.version == kept(database_url)[0]


@pytest.mark.parametrize("doubts", DOUBTS.values(), ids=DOUBTS.keys())
@pytest.mark.parametrize("key", ["chat", None])
def test_a_conversation_is_made_once_whatever_its_commit_says(
    database_url: str, key: str | None, doubts: list[Doubt]
) -> None:
    """Opening a new conversation returns it where it was made, and fails where it was not; there is never a second."""
    with Store(database_url) as store:
        with doubtful(store, *doubts):
            if doubts[-1].applied or doubts[-1].passing:
                chat = store.open(key, **SETTINGS)
            else:
                with pytest.raises(DatabaseError):
                    store.open(key, **SETTINGS)
                assert store.list() == []
                chat = store.open(key, **SETTINGS)
        assert [listed.id for listed in store.list()] == [chat.id]
        chat.user("Hello")
        assert chat.verify() == []


def test_a_picture_is_kept_once_whatever_its_commit_says(database_url: str) -> None:
    """A doubtful commit of an attachment leaves a turn with it, or an error and no turn; then it works."""
    with Store(database_url) as store:
        chat = store.open("chat", **SETTINGS)
        for number, doubts in enumerate(DOUBTS.values()):
            picture = Image.from_bytes(pictures.png(padding=2000, colour=(number, 2, 3)))
            with doubtful(store, *doubts):
                try:
                    chat.user(picture)
                except DatabaseError:
                    assert len(chat.refresh().turns) == number
                    chat.user(picture)
            assert len(chat.turns) == number + 1
        assert chat.verify() == []


@pytest.mark.parametrize("stop_reason", ["end_turn", "refusal"])
def test_finishing_again_after_a_commit_of_unknown_outcome_recognises_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch, short_patience: None, stop_reason: str
) -> None:
    """The end was applied, and the database was away when it was asked: finish() again finds what it wrote."""
    answer = ANSWER.replace(b"end_turn", stop_reason.encode())
    with Store(database_url) as store:
        pending = store.open("chat", **SETTINGS).begin("Hello")
        with monkeypatch.context() as patch, doubtful(store, Doubt(applied=True, passing=False)):
            patch.setattr(engine.Database, "_was_applied", lambda _self, _applied: None)
            with pytest.raises(NotSavedError):
                pending.finish(answer)
        written = kinds(database_url)
        assert pending.finish().stop_reason == stop_reason
        assert kinds(database_url) == written


# --- an answer that cannot be saved ----------------------------------------------------------------------------------


@contextmanager
def gone(url: str) -> Iterator[None]:
    """Make a database of PostgreSQL unreachable: its connections end, and no new one is let in."""
    here = make_url(url)
    admin = create_engine(here.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{here.database}" ALLOW_CONNECTIONS false')
        terminate(connection, here.database)
        try:
            yield
        finally:
            connection.exec_driver_sql(f'ALTER DATABASE "{here.database}" ALLOW_CONNECTIONS true')
    admin.dispose()


def terminate(connection: Any, database: str | None) -> None:
    """End every connection to a database."""
    connection.exec_driver_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,)
    ).all()


@contextmanager
def full(store: Store) -> Iterator[None]:
    """Let a SQLite file not grow by a page more."""

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count=1").close()

    store._database.engine.dispose()
    event.listen(store._database.engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(store._database.engine, "connect", limit)
        store._database.engine.dispose()


def test_an_answer_that_cannot_be_saved_stays_in_hand(database_url: str, short_patience: None) -> None:
    """The database goes away while the API answers: NotSavedError holds the answer, and finish saves it later."""
    long = "word " * 40_000
    away = ExitStack()

    def go_away(_request: object) -> Answer:
        away.enter_context(full(store) if is_sqlite(database_url) else gone(database_url))
        return Answer(long)

    with (
        away,
        MessagesAPI(key=KEY, otherwise=go_away) as api,
        Client(KEY, base_url=api.url) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("chat", **SETTINGS)
        with pytest.raises(NotSavedError, match="finish") as raised:
            chat.send("Hello")
        assert raised.value.reason == ("full" if is_sqlite(database_url) else "unreachable")
        with pytest.raises(NotSavedError):
            raised.value.pending.finish()
        away.close()
        assert kept(database_url)[1] == ["Hello"]
        reply = raised.value.pending.finish()
        assert reply.text == long
        assert raised.value.pending.finish() is reply
        assert kept(database_url)[1] == ["Hello", long]
        assert len(api.requests) == 1
        assert [exchange.state for exchange in chat.exchanges] == [State.ANSWERED]


def test_a_connection_that_ends_meanwhile_is_made_anew(postgresql: Any) -> None:
    """Backends that were terminated between begin and finish go unnoticed by the caller."""
    with postgresql.database(schema=True) as url, Store(url) as store:
        chat = store.open("chat", **SETTINGS)
        pending = chat.begin("Hello")
        admin = create_engine(make_url(url).set(database="postgres"), poolclass=NullPool)
        with admin.connect() as connection:
            terminate(connection, make_url(url).database)
        admin.dispose()
        pending.finish(ANSWER)
        assert kept(url)[1] == ["Hello", "Hello!"]


def test_a_server_that_is_not_there_is_called_unreachable(short_patience: None) -> None:
    """No server at that port: DatabaseError says that it cannot be reached."""
    with pytest.raises(DatabaseError) as raised:
        Store("postgresql+psycopg://nobody@127.0.0.1:1/nothing?connect_timeout=2")
    assert raised.value.reason == "unreachable"


# --- leases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["resend", "give_up", "keep_partial"])
@pytest.mark.parametrize("late", ["finish", "fail"])
def test_a_late_worker_never_changes_the_transcript(database_url: str, action: Any, late: str) -> None:
    """Taken over after its lease, what a paused worker brings becomes a note and it gets LeaseLostError."""
    with (
        MessagesAPI(key=KEY, otherwise=lambda _: Answer("in time")) as api,
        Client(KEY, base_url=api.url) as client,
        Store(database_url, client=client) as store,
        Store(database_url, client=client) as other,
    ):
        pending = store.open("chat", **SETTINGS).begin("Hello", lease=0.05)
        rival = other.get("chat")
        with pytest.raises(BusyError):
            store.get("chat").begin("Hello", lease=0.05)
        time.sleep(0.06)
        rival.recover(action)
        before, texts = kept(database_url)
        with pytest.raises(LeaseLostError):
            pending.finish(ANSWER) if late == "finish" else pending.fail(TimeoutError())
        assert kinds(database_url)[before:] == ["note"]
        assert kept(database_url)[1] == texts == (["Hello", "in time"] if action == "resend" else ["Hello"])
        assert State.UNKNOWN not in {exchange.state for exchange in rival.exchanges[1:]}
        if action == "resend":
            rival.refresh().send("And now?")
        else:
            rival.refresh().retry()
        assert kept(database_url)[1][1] == "in time"


def test_a_late_worker_leaves_the_one_that_took_over_alone(database_url: str) -> None:
    """While the new worker's exchange is pending, the late answer becomes a note and the new one can be finished."""
    with Store(database_url) as store, Store(database_url) as other:
        late = store.open("chat", **SETTINGS).begin("Hello", idempotency_key="one", lease=0.05)
        time.sleep(0.06)
        pending = other.get("chat").begin("Hello", idempotency_key="one", on_unknown="resend")
        with pytest.raises(LeaseLostError):
            late.finish(ANSWER.replace(b"Hello!", b"late"))
        pending.finish(ANSWER)
        assert kept(database_url)[1] == ["Hello", "Hello!"]
        assert kinds(database_url)[-3:] == ["note", "outcome", "turn"]


def test_a_lease_that_ran_out_forbids_nothing_by_itself(database_url: str) -> None:
    """Nobody took the exchange over, so its worker finishes it, late."""
    with Store(database_url) as store:
        pending = store.open("chat", **SETTINGS).begin("Hello", lease=0.02)
        time.sleep(0.03)
        assert [exchange.state for exchange in store.get("chat").exchanges] == [State.UNKNOWN]
        pending.finish(ANSWER)
        assert kept(database_url)[1] == ["Hello", "Hello!"]


# --- races that a lease or a key must win ----------------------------------------------------------------------------


def test_a_failed_message_redelivered_takes_no_running_exchange_over(database_url: str) -> None:
    """A key whose exchange failed is tried again, but not while another exchange is pending: BusyError."""
    with Store(database_url) as store, Store(database_url) as other:
        chat = store.open("chat", **SETTINGS)
        chat.begin("first", idempotency_key="first").fail(TimeoutError())
        running = chat.begin("second", idempotency_key="second")
        with pytest.raises(BusyError):
            other.get("chat").begin("first", idempotency_key="first")
        running.finish(ANSWER)
        assert kept(database_url)[1] == ["first", "second", "Hello!"]


def test_an_interrupted_message_redelivered_takes_no_running_exchange_over(database_url: str) -> None:
    """The same for a key whose exchange was interrupted, sent again on demand."""
    with Store(database_url) as store, Store(database_url) as other:
        chat = store.open("chat", **SETTINGS)
        chat.begin("first", idempotency_key="first", lease=0.02)
        time.sleep(0.03)
        chat.recover("keep_partial")
        running = chat.begin("second", idempotency_key="second")
        with pytest.raises(BusyError):
            other.get("chat").begin("first", idempotency_key="first", on_unknown="resend")
        running.finish(ANSWER)


@contextmanager
def meanwhile(owner: Any, attribute: str, act: Callable[[], object]) -> Iterator[None]:
    """Let *act* happen just before the first call of a function, as another process's work would."""
    original = getattr(owner, attribute)
    acts = [act]

    def wrapper(*arguments: Any, **named: Any) -> Any:
        if acts:
            acts.pop()()
        return original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, attribute, wrapper)
        yield


@pytest.mark.parametrize("on_unknown", ["raise", "resend"])
def test_an_exchange_that_ends_while_its_key_is_looked_up_is_answered(database_url: str, on_unknown: Any) -> None:
    """Between two reads the exchange was answered: that is the reply, neither unknown nor sent again."""
    with Store(database_url) as store, Store(database_url) as other:
        pending = store.open("chat", **SETTINGS).begin("Hello", idempotency_key="one")
        chat = other.get("chat")
        with meanwhile(log, "find", lambda: pending.finish(ANSWER)):
            again = chat.begin("Hello", idempotency_key="one", on_unknown=on_unknown)
        assert again.reply is not None
        assert kept(database_url)[1] == ["Hello", "Hello!"]
        assert len(chat.exchanges) == 1


def test_an_exchange_that_ends_while_it_is_listed_is_not_unknown(database_url: str) -> None:
    """Between two reads the exchange was answered: it is listed as pending or answered."""
    with Store(database_url) as store, Store(database_url) as other:
        pending = store.open("chat", **SETTINGS).begin("Hello")
        chat = other.get("chat")
        with meanwhile(log, "find", lambda: pending.finish(ANSWER)):
            states = {exchange.state for exchange in chat.exchanges}
        assert states <= {State.PENDING, State.ANSWERED}


def test_a_key_used_while_a_worker_waits_is_found(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker begins and ends the same message between the look-up of its key and the write: one turn."""
    with Store(database_url) as store, Store(database_url) as other:
        mine = store.open("chat", **SETTINGS)
        running = mine.begin("first", idempotency_key="first")
        chat = other.get("chat")

        def overtake() -> None:
            running.finish(ANSWER)
            mine.begin("second", idempotency_key="second").finish(ANSWER)

        with meanwhile(History, "refuse_busy", overtake):
            again = chat.begin("second", idempotency_key="second", wait=5)
        assert again.reply is not None
        assert kept(database_url)[1] == ["first", "Hello!", "second", "Hello!"]


@pytest.mark.parametrize("how", ["redelivered", "recovered"])
def test_of_two_that_take_an_exchange_over_the_second_is_told_that_it_is_pending(database_url: str, how: str) -> None:
    """Both saw the same lost exchange: one begins anew, the other gets BusyError, and nothing of it is written."""
    with (
        MessagesAPI(key=KEY) as api,
        Client(KEY, base_url=api.url) as client,
        Store(database_url) as store,
        Store(database_url, client=client) as other,
    ):
        mine = store.open("chat", **SETTINGS)
        mine.begin("Hello", idempotency_key="one", lease=0.02)
        time.sleep(0.03)
        chat = other.get("chat")

        def overtake() -> None:
            running.append(mine.begin("Hello", idempotency_key="one", on_unknown="resend"))

        running: list[Pending] = []
        acts: dict[str, Callable[[], object]] = {
            "redelivered": lambda: chat.begin("Hello", idempotency_key="one", on_unknown="resend"),
            "recovered": lambda: chat.recover("resend"),
        }
        with meanwhile(engine.Database, "write", overtake), pytest.raises(BusyError):
            acts[how]()
        running[0].finish(ANSWER)
        assert kinds(database_url)[2:] == ["turn", "request", "request", "outcome", "turn"]
        assert len(api.requests) == 0


def test_a_log_that_grows_while_it_is_verified_is_sound(database_url: str) -> None:
    """Verifying reads one state of the database: what is appended meanwhile is no fault."""
    with Store(database_url) as store, Store(database_url) as other:
        chat = store.open("chat", **SETTINGS)
        writer = other.get("chat")
        with meanwhile(verification._Verifying, "_row", lambda: writer.user("Hello")):
            faults = chat.verify()
        assert faults == []
        assert chat.refresh().verify() == []


# --- disks and files -------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_grow_refuses_and_stays_whole(tmp_path: Path) -> None:
    """A full file: DatabaseError says so, nothing is half written, not even an attachment; later it works."""
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    with Store(url) as store:
        chat = store.open("chat", **SETTINGS)
        chat.user("before")
        with full(store):
            for content in ("word " * 40_000, Image.from_bytes(pictures.png(padding=300_000))):
                with pytest.raises(DatabaseError) as raised:
                    chat.user(content)
                assert raised.value.reason == "full"
            assert kept(url) == (3, ["before"])
        with closing(sqlite3.connect(tmp_path / "bot.db")) as connection, connection:
            assert connection.execute("SELECT count(*) FROM conversation_blob").fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM conversation_blob_chunk").fetchone() == (0,)
        connection.close()
        chat.user("after")
        assert kept(url) == (4, ["before", "after"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 1 MiB; where none can be mounted, skip."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_refuses_and_the_store_reads_on(small_disk: Path) -> None:
    """Turns until the disk is full: each accepted one is there, the refused one is not; with space it goes on."""
    url = f"sqlite:///{small_disk / 'bot.db'}"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(300_000))
    with Store(url) as store:
        chat = store.open("chat", **SETTINGS)
        accepted: list[int] = []

        def fill() -> None:
            for number in itertools.count():
                chat.user(f"{number} " + "word " * 2_000)
                accepted.append(number)

        with pytest.raises(DatabaseError) as raised:
            fill()
        assert raised.value.reason == "full"
        assert [int(turn.text.split()[0]) for turn in chat.turns] == accepted
        assert chat.verify() == []
        assert kept(url)[0] == chat.version
        filler.unlink()
        chat.user("after")
        assert chat.verify() == []
    assert kept(url)[1][-1] == "after"


def test_a_new_file_on_a_full_disk_can_be_opened_later(small_disk: Path) -> None:
    """There is no room for the tables: DatabaseError, and with room the same file is opened."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - 8192))
    url = f"sqlite:///{small_disk / 'bot.db'}"
    with pytest.raises(DatabaseError):
        Store(url)
    filler.unlink()
    with Store(url) as store:
        store.open("chat", **SETTINGS).user("Hello")
    assert kept(url)[1] == ["Hello"]


def test_a_read_only_file_is_read_and_not_written(tmp_path: Path) -> None:
    """Opened read-only a store reads; a write is refused with the reason, and nothing changes."""
    path = tmp_path / "bot.db"
    with Store(f"sqlite:///{path}") as store:
        store.open("chat", **SETTINGS).user("Hello")
    before = path.read_bytes()
    with Store(f"sqlite:///file:{path}?mode=ro&uri=true") as store:
        chat = store.get("chat")
        assert [turn.text for turn in chat.turns] == ["Hello"]
        assert chat.verify() == []
        for act in (lambda: chat.user("more"), lambda: chat.label(title="x"), lambda: store.open("new", **SETTINGS)):
            with pytest.raises(DatabaseError) as raised:
                act()
            assert raised.value.reason == "read-only"
    assert path.read_bytes() == before


def test_a_read_only_file_without_tables_is_refused(tmp_path: Path) -> None:
    """An empty file that cannot be written gets no tables: a typed error."""
    path = tmp_path / "bot.db"
    path.touch()
    with pytest.raises(DatabaseError) as raised:
        Store(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert raised.value.reason in {"read-only", "cannot open"}
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("name", "reason"), [("missing/bot.db", "unreachable"), ("", "cannot open"), ("words.txt/bot.db", "unreachable")]
)
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, name: str, reason: str) -> None:
    """A folder that is not there, a folder in place of a file, a file in place of a folder: DatabaseError."""
    (tmp_path / "words.txt").write_text("words")
    with pytest.raises(DatabaseError) as raised:
        Store(f"sqlite:///{tmp_path / name}")
    assert raised.value.reason in {reason, "cannot open"}


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """Words in a file: DatabaseError says that it is no store; the file is as it was, and nothing lies beside it."""
    path = tmp_path / "words.txt"
    path.write_text("This is no database. " * 300)
    before = path.read_bytes()
    with pytest.raises(DatabaseError) as raised:
        Store(f"sqlite:///{path}")
    assert raised.value.reason == "not a store"
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["words.txt"]


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_foreign_database_is_left_alone_unless_told(tmp_path: Path, upgrade: bool) -> None:
    """Somebody else's tables: SchemaMismatchError names the command; with upgrade=True ours come beside them."""
    path = tmp_path / "host.db"
    foreign = sqlite3.connect(path)
    foreign.executescript("CREATE TABLE users (name); CREATE TABLE alembic_version (version_num);")
    foreign.executescript("INSERT INTO users VALUES ('ant'); INSERT INTO alembic_version VALUES ('abc');")
    foreign.close()
    before = path.read_bytes()
    if upgrade:
        Store(f"sqlite:///{path}", upgrade=True).close()
    else:
        with pytest.raises(SchemaMismatchError) as raised:
            Store(f"sqlite:///{path}")
        assert raised.value.current is None
        assert raised.value.command.startswith("run: conversation-store db upgrade sqlite:///")
        assert path.read_bytes() == before
    foreign = sqlite3.connect(path)
    assert foreign.execute("SELECT * FROM users").fetchall() == [("ant",)]
    assert foreign.execute("SELECT * FROM alembic_version").fetchall() == [("abc",)]
    foreign.close()


def test_a_database_without_tables_is_only_checked(bare_database_url: str) -> None:
    """On a server nothing is made unasked: SchemaMismatchError names the command, and there is still no table."""
    if is_sqlite(bare_database_url):
        pytest.skip("a new file gets its tables")
    with pytest.raises(SchemaMismatchError, match="conversation-store db upgrade postgresql"):
        Store(bare_database_url)
    bare = create_engine(bare_database_url, poolclass=NullPool)
    assert inspect(bare).get_table_names() == []
    bare.dispose()


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_newer_schema_is_refused(database_url: str, upgrade: bool) -> None:
    """Written by a newer release: SchemaMismatchError says to upgrade the library, and nothing is changed."""
    Store(database_url).close()
    newer = create_engine(database_url, poolclass=NullPool)
    with newer.begin() as connection:
        connection.exec_driver_sql("UPDATE conversation_store_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatchError) as raised:
        Store(database_url, upgrade=upgrade)
    assert raised.value.current == "9999"
    assert "pip install --upgrade conversation_store" in raised.value.command
    with newer.connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM conversation_store_version").scalars().all() == ["9999"]
    newer.dispose()


# --- forks and frozen workers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
def test_a_store_survives_a_fork(database_url: str, nursery: Nursery, how: str) -> None:
    """Used in the parent, in a forked child and in the parent again, a store and a conversation work."""
    with MessagesAPI(key=KEY, otherwise=lambda _: Answer("yes")) as api, Store(database_url):
        (report,) = nursery.run({"act": "fork", "url": database_url, "api": api.url, "key": "chat", "how": how})
        assert report.error is None
        expected = ["parent", "parent asks", "yes", "child", "child asks", "yes", "parent again"]
        assert report.value == expected
    assert kept(database_url)[1] == expected


PARENT_GOES_FIRST: Final = """
import os, sys
from conversation_store import Store

store = Store(sys.argv[1])
chat = store.open("chat", model="claude-sonnet-5-5", max_tokens=64)
chat.user("parent")
gone, tell = os.pipe()
if os.fork() == 0:
    os.close(tell)
    store.get("chat").user("child, while the parent is there")
    os.read(gone, 1)  # until the parent has closed its end, by itself or by going
    for n in range(3):
        store.get("chat").user(f"child {n}")
    store.close()
    os._exit(0)
if sys.argv[2] == "closes":
    store.close()
    os.close(tell)
os.close(gone)
if sys.argv[2] == "closes":
    os.wait()
else:
    os._exit(0)
"""


@pytest.mark.parametrize("parent", ["closes", "exits"])
def test_what_a_child_wrote_outlives_its_parent_s_store(database_url: str, parent: str) -> None:
    """A parent that closes its store, or goes, takes nothing with it that a child has written or will write."""
    subprocess.run([sys.executable, "-c", PARENT_GOES_FIRST, database_url, parent], check=True, timeout=60)
    expected = ["parent", "child, while the parent is there", "child 0", "child 1", "child 2"]
    deadline = time.monotonic() + 30
    while len(kept(database_url)[1]) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(kept(database_url)[1]) == sorted(expected)


FORKS_MEANWHILE: Final = """
import os, sys, threading
from conversation_store import Store

store = Store(sys.argv[1])
chat, other = (store.open(key, model="claude-sonnet-5-5", max_tokens=64) for key in ("chat", "other"))
done = threading.Event()

def write():
    while not done.is_set():
        other.user("and on")

thread = threading.Thread(target=write)
thread.start()
for n in range(10):
    if os.fork() == 0:
        store.get("chat").user(f"child {n}")
        store.close()
        os._exit(0)
    assert os.wait()[1] == 0
done.set()
thread.join()
store.close()
"""


def test_a_fork_while_a_thread_writes_leaves_a_child_that_can_write(database_url: str) -> None:
    """A child inherits no half of a transaction, and no connection that knows of one."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS_MEANWHILE, database_url], check=True, timeout=120)
    assert kept(database_url)[1] == [f"child {n}" for n in range(10)]
    assert kept(database_url, "other")[1]


def test_closing_an_inherited_store_leaves_the_parent_s_connection_alone(postgresql: Any, nursery: Nursery) -> None:
    """A child that ends a with block it never used does not hang up on the parent's behalf."""
    with postgresql.database(schema=True) as url:
        (report,) = nursery.run({"act": "close_in_child", "url": url, "key": "chat"})
        assert (report.error, report.value) == (None, True)


def test_a_frozen_writer_does_not_freeze_the_others(database_url: str, nursery: Nursery) -> None:
    """A worker that stops inside a transaction: the next one gives up with a reason and does not hang."""
    with Store(database_url) as store:
        store.open("chat", **SETTINGS)
        job = {"url": database_url, "key": "chat"}
        frozen_one, other = nursery.run(
            {**job, "act": "stop_inside", "kill_after": 6}, {**job, "act": "append_impatiently", "kill_after": 5}
        )
        assert frozen_one.killed
        assert (other.killed, other.value) == (False, "locked")
        store.get("chat").user("after")
        assert kept(database_url)[1] == ["after"]


# --- power -----------------------------------------------------------------------------------------------------------


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """List the statements a store executes."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(store._database.engine, "before_cursor_execute", note)
    yield statements
    event.remove(store._database.engine, "before_cursor_execute", note)


def costs(store: Store, length: int) -> tuple[int, int, int]:
    """Count the statements of an append, a begin and a finish on a conversation of a length."""
    chat = store.open(f"{length}", **SETTINGS)
    chat.append(*[{"role": "user", "content": f"message {number}"} for number in range(length)])
    chat.begin("Hello").finish(ANSWER)  # from here on it is an open conversation
    with counted(store) as appended:
        chat.user("Hello")
    with counted(store) as begun:
        pending = chat.begin("Hello")
    with counted(store) as finished:
        pending.finish(ANSWER)
    return len(appended), len(begun), len(finished)


def test_the_number_of_statements_does_not_grow(database_url: str) -> None:
    """An append is BEGIN, compare-and-set and INSERT; an exchange costs the same at 10 turns and at 2,000."""
    with Store(database_url) as store:
        short, long = costs(store, 10), costs(store, 2_000)
    assert short == long
    appended, begun, finished = short
    assert appended <= 3
    assert begun <= 4
    assert finished <= 4


def steps(store: Store, chat: Conversation) -> int:
    """Count the steps of SQLite's machine for an append and an exchange, in tens."""
    told = [0]

    def step() -> int:
        told[0] += 1
        return 0

    def listen(connection: sqlite3.Connection, _record: object, _proxy: object) -> None:
        connection.set_progress_handler(step, 10)

    event.listen(store._database.engine, "checkout", listen)
    store._database.engine.dispose()  # the connection kept for writing is made anew, and heard too
    chat.user("Hello")
    chat.begin("Hello").finish(ANSWER)
    event.remove(store._database.engine, "checkout", listen)
    return told[0]


def test_the_work_of_the_database_does_not_grow(tmp_path: Path) -> None:
    """SQLite takes as many steps for an append and an exchange after 2,000 turns as after 10."""
    with Store(f"sqlite:///{tmp_path / 'bot.db'}") as store:
        found = []
        for length in (10, 2_000):
            chat = store.open(f"{length}", **SETTINGS)
            chat.append(*[{"role": "user", "content": f"message {number}"} for number in range(length)])
            chat.begin("Hello").finish(ANSWER)
            found.append(steps(store, chat))
        short, long = found
        assert short > 10
        assert long <= short * 1.3


def test_bad_content_writes_nothing(database_url: str) -> None:
    """What a caller may not say is refused before anything is written, and an exchange is not begun."""
    with Store(database_url) as store:
        chat = store.open("chat", **SETTINGS)
        with counted(store) as statements:
            for content in ("\ud800", {"type": "text", "txt": "x"}, {"type": "image"}):
                with pytest.raises(ContentError):
                    chat.user(content)
                with pytest.raises(ContentError):
                    chat.begin(content)
        assert not [statement for statement in statements if statement.split()[0] in {"INSERT", "UPDATE"}]
        assert kept(database_url) == (2, [])
