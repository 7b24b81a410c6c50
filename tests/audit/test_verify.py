"""
Verifying against a hostile hand: whatever is done to the rows is a fault with its place, never an exception.

What a chain alone cannot show is written down here too, in the last tests: a cut tail whose row was put back,
a conversation that is gone, a log computed anew by somebody who holds the whole database.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import frozen
from sqlalchemy import Connection, Engine, create_engine, event, text

from conversation_store import Client, Conversation, Fault, Image, Store
from conversation_store.errors import CodecError
from conversation_store.record import chain
from conversation_store.testing import MessagesAPI
from tests import pictures

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-haiku-4-5", "max_tokens": 64}
PICTURE: Final = pictures.png(8, 8, padding=1_200_000)
OTHER: Final = pictures.png(8, 8, colour=(1, 2, 3), padding=3000)


@frozen
class Kept:
    """A database with two conversations in it, and the way around the library."""

    store: Store
    engine: Engine
    id: UUID
    other: UUID

    def run(self, statement: str, **given: object) -> int:
        """Run a statement past the library; *c* and *o* are the two conversations' ids."""
        with self.engine.begin() as connection:
            return self.on(connection, statement, **given)

    def on(self, connection: Connection, statement: str, **given: object) -> int:
        """Run it on a connection that is given."""
        known: dict[str, object] = {"c": self.id.bytes, "o": self.other.bytes, **given}
        wanted = text(statement)
        return connection.execute(wanted, {name: known[name] for name in wanted.compile().params}).rowcount

    def one(self, statement: str, **given: object) -> Any:
        """Read one value past the library."""
        known: dict[str, object] = {"c": self.id.bytes, "o": self.other.bytes, **given}
        wanted = text(statement)
        with self.engine.connect() as connection:
            value = connection.execute(wanted, {name: known[name] for name in wanted.compile().params}).scalar()
        return bytes(value) if isinstance(value, memoryview) else value

    def faults(self) -> list[Fault]:
        """Verify the first conversation, in a fresh look."""
        return list(self.store.get(self.id).verify())


def fill(chat: Conversation) -> None:
    """Give a conversation an entry of every kind there is, and attachments."""
    chat.label(title="Ants", metadata={"a": 1})
    chat.user("What is this?", Image.from_bytes(OTHER))
    chat.assistant("A picture.", reason="test")
    chat.send("Sure?", prefill="I am", idempotency_key="1")
    chat.user("And this?", Image.from_bytes(PICTURE))
    chat.update(max_tokens=65)


@pytest.fixture
def kept(database_url: str) -> Iterator[Kept]:
    """Give such a database, its keys loosened as a hostile hand would loosen them."""
    with (
        MessagesAPI() as api,
        Client(api.key, base_url=api.url) as client,
        Store(database_url, client=client, keep_raw=True) as store,
    ):
        chat, other = store.open("k", **SETTINGS), store.open("o", **SETTINGS)
        fill(chat)
        fill(other)
        engine = create_engine(database_url)
        if engine.dialect.name == "postgresql":
            event.listen(engine, "begin", _without_foreign_keys)
        try:
            yield Kept(store, engine, chat.id, other.id)
        finally:
            engine.dispose()


def _without_foreign_keys(connection: Connection) -> None:
    connection.exec_driver_sql("SET LOCAL session_replication_role = replica")


def test_what_nobody_touched_has_no_fault(kept: Kept) -> None:
    """A store with every kind of entry verifies clean, conversation by conversation and whole."""
    assert kept.faults() == []
    assert kept.store.verify() == []
    kinds = kept.one("SELECT count(DISTINCT kind) FROM conversation_entry WHERE conversation = :c")
    assert kinds == 6
    assert kept.one("SELECT count(*) FROM conversation_blob_use WHERE conversation = :c") == 3


# --- one thing at a time -----------------------------------------------------------------------------------------

# In the log: 0 opened, 1 settings, 2 labelled, 3 a picture, 4 synthetic, 5 turn, 6 prefill, 7 request, 8 outcome,
# 9 the model's turn, 10 a picture of two chunks, 11 settings.
ENTRY: Final = "conversation_entry WHERE conversation = :c AND position = "
SET: Final = "UPDATE conversation_entry SET {} WHERE conversation = :c AND position = {}"


@frozen
class Tampering:
    """Something done to the rows, and where the first fault is then; ``codes`` holds one of those to be found."""

    name: str
    statement: str
    position: int
    codes: str
    given: Mapping[str, object] = {}


TAMPERINGS: Final = (
    Tampering("an edited body", SET.format("body = :b", 4), 4, "body", {"b": b'{"role":"assistant","content":"No."}'}),
    Tampering("one space more", SET.format("body = :b", 5), 5, "body", {"b": b'{"role":"user","content":"Sure? "}'}),
    Tampering("an empty body", SET.format("body = :b", 5), 5, "body", {"b": b""}),
    Tampering("a body gone", SET.format("body = NULL", 5), 5, "missing"),
    Tampering("a body where none was", SET.format("body = :b", 0), 0, "outside", {"b": b"{}"}),
    Tampering("an edited about", SET.format("about = :b", 4), 4, "about", {"b": b'{"reason":"other"}'}),
    Tampering("an about gone", SET.format("about = NULL", 4), 4, "missing"),
    Tampering("an about where none was", SET.format("about = :b", 5), 5, "outside", {"b": b"{}"}),
    Tampering("an edited header", SET.format("header = :b", 4), 4, "digest", {"b": b'{"origin":"model"}'}),
    Tampering("a header that is no JSON", SET.format("header = :b", 4), 4, "header", {"b": b"\xff{"}),
    Tampering("a header that is an array", SET.format("header = :b", 4), 4, "header", {"b": b"[]"}),
    Tampering("another kind", SET.format("kind = 'note'", 5), 5, "digest"),
    Tampering("a kind there is not", SET.format("kind = 'nope'", 5), 5, "kind"),
    Tampering("another time", SET.format("at = at + 1", 5), 5, "digest"),
    Tampering("a time before all times", SET.format("at = -1", 5), 5, "column"),
    Tampering("another salt", SET.format("salt = :b", 5), 5, "body", {"b": bytes(32)}),
    Tampering("a short salt", SET.format("salt = :b", 5), 5, "column", {"b": bytes(31)}),
    Tampering("a salt gone", SET.format("salt = NULL", 5), 5, "missing"),
    Tampering("a request's salt gone", SET.format("request_salt = NULL", 7), 7, "missing"),
    Tampering("another digest", SET.format("digest = :b", 5), 5, "digest", {"b": bytes(32)}),
    Tampering("a short digest", SET.format("digest = :b", 5), 5, "column", {"b": b"short"}),
    Tampering("another last digest", SET.format("digest = :b", 11), 11, "digest", {"b": bytes(32)}),
    Tampering("a first entry gone", f"DELETE FROM {ENTRY}0", 0, "position"),
    Tampering("an entry gone", f"DELETE FROM {ENTRY}5", 5, "position"),
    Tampering("the last entry gone", f"DELETE FROM {ENTRY}11", -1, "length"),
    Tampering("all entries gone", "DELETE FROM conversation_entry WHERE conversation = :c", 3, "blob"),
    Tampering("an entry renumbered", SET.format("position = 99", 5), 5, "position"),
    Tampering("an entry below zero", SET.format("position = -1", 5), 0, "position"),
    Tampering(
        "an entry more",
        "INSERT INTO conversation_entry SELECT conversation, 12, kind, at, salt, request_salt, digest, header, about, "
        f"body FROM {ENTRY}5",
        12,
        "digest",
    ),
    Tampering(
        "another conversation's entry",
        "UPDATE conversation_entry SET header = (SELECT header FROM conversation_entry WHERE conversation = :o AND "
        "position = 5), body = (SELECT body FROM conversation_entry WHERE conversation = :o AND position = 5), "
        "salt = (SELECT salt FROM conversation_entry WHERE conversation = :o AND position = 5) "
        "WHERE conversation = :c AND position = 5",
        5,
        "digest",
    ),
    Tampering("another length", "UPDATE conversation SET length = length + 1 WHERE id = :c", -1, "length"),
    Tampering("another head", "UPDATE conversation SET head = :b WHERE id = :c", -1, "head", {"b": bytes(32)}),
    Tampering("a short head", "UPDATE conversation SET head = :b WHERE id = :c", -1, "head", {"b": b""}),
    Tampering("a use gone", "DELETE FROM conversation_blob_use WHERE conversation = :c AND position = 3", 3, "blob"),
    Tampering(
        "a use of another blob",
        "UPDATE conversation_blob_use SET digest = (SELECT digest FROM conversation_blob_use WHERE conversation = :c "
        "AND position = 10) WHERE conversation = :c AND position = 3",
        3,
        "blob",
    ),
    Tampering(
        "a use's salt",
        "UPDATE conversation_blob_use SET salt = :b WHERE conversation = :c AND position = 3",
        3,
        "blob",
        {"b": bytes(32)},
    ),
    Tampering(
        "a raw answer's use gone",
        "DELETE FROM conversation_blob_use WHERE conversation = :c AND position = 8",
        8,
        "blob",
    ),
    Tampering(
        "an edited chunk",
        "UPDATE conversation_blob_chunk SET data = :b WHERE number = 1",
        10,
        "blob",
        {"b": b"other"},
    ),
    Tampering("a last chunk gone", "DELETE FROM conversation_blob_chunk WHERE number = 1", 10, "blob"),
    Tampering("all chunks gone", "DELETE FROM conversation_blob_chunk", 3, "blob"),
    Tampering("a first chunk gone", "DELETE FROM conversation_blob_chunk WHERE number = 0", 3, "blob"),
    Tampering("all blobs gone", "DELETE FROM conversation_blob", 3, "blob"),
    Tampering("another media type", "UPDATE conversation_blob SET media_type = 'image/gif'", 3, "blob"),
)


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda tampering: tampering.name)
def test_each_tampering_is_a_fault_with_its_place(kept: Kept, tampering: Tampering) -> None:
    """Whatever is changed, taken away or put in shows at its position, and the other conversation stays clean."""
    assert kept.run(tampering.statement, **tampering.given) >= 1
    faults = kept.faults()
    assert faults
    assert (faults[0].position, tampering.codes) in {(fault.position, fault.code) for fault in faults}
    assert faults[0].position == tampering.position
    assert {fault.conversation for fault in faults} == {kept.id}
    assert set(kept.store.verify()) >= set(faults)
    if "blob" not in tampering.statement:
        assert kept.store.get(kept.other).verify() == []


def test_one_change_is_one_fault(kept: Kept) -> None:
    """What follows a changed entry is judged from what is stored, so a change does not drown the rest."""
    kept.run(SET.format("body = :b", 4), b=b"{}")
    kept.run(SET.format("at = at + 1", 9))
    assert [(fault.position, fault.code) for fault in kept.faults()] == [(4, "body"), (9, "digest")]


def test_swapped_entries_show_at_both_places(kept: Kept) -> None:
    """Two entries that changed places do not fit where they are."""
    for a, b in ((4, 900), (5, 4), (900, 5)):
        kept.run(SET.format(f"position = {b}", a))
    assert {fault.position for fault in kept.faults()} >= {4, 5}


def test_a_log_copied_to_another_conversation_does_not_fit_there(kept: Kept) -> None:
    """The chain begins with the conversation's own id: a whole log moved under another id is wrong from the start."""
    with kept.engine.begin() as connection:
        kept.on(connection, "DELETE FROM conversation_blob_use")
        kept.on(connection, "DELETE FROM conversation_entry WHERE conversation = :c")
        kept.on(connection, "UPDATE conversation_entry SET conversation = :c WHERE conversation = :o")
        head = connection.execute(text("SELECT head FROM conversation WHERE id = :o").bindparams(o=kept.other.bytes))
        kept.on(connection, "UPDATE conversation SET head = :b WHERE id = :c", b=head.scalar_one())
    assert (kept.faults()[0].position, kept.faults()[0].code) == (0, "digest")


def test_a_conversation_that_is_gone_is_missing(kept: Kept) -> None:
    """An object of a conversation whose row was deleted says so."""
    chat = kept.store.get(kept.id)
    kept.run("DELETE FROM conversation WHERE id = :c")
    assert [(fault.position, fault.code) for fault in chat.verify()] == [(-1, "missing")]


# --- any value in any column -------------------------------------------------------------------------------------

HOSTILE: Final[tuple[Any, ...]] = (
    *(None, 0, -1, 1, 2**63 - 1, -(2**63), 0.5, float("inf")),
    *("", "turn", "opened", "\0", "\U0001f41c" * 50, "0", "-5", "1e999"),
    *(b"", b"\0", b"{}", b"[]", b"null", b"\xff\xfe", bytes(16), bytes(32), bytes(33), b"9" * 5000, b"[" * 5000),
    *(
        b'{"splices":5}',
        b'{"splices":[[]]}',
        b'{"splices":[[0,1,2]]}',
        b'{"raw":null}',
        b'{"raw":"00"}',
        b'{"body":{}}',
    ),
    *(b'{"body":"\xed\xa0\x80"}', b'{"splices":[{"a":1},"x",[1,"y","z",4]]}', b'{"request":1,"body":1.5,"about":[]}'),
)
COLUMNS: Final = (
    *(("conversation_entry", name) for name in ("position", "kind", "at", "salt", "request_salt", "digest")),
    *(("conversation_entry", name) for name in ("header", "about", "body", "conversation")),
    *(("conversation", name) for name in ("length", "head")),
    *(("conversation_blob_use", name) for name in ("position", "number", "scope", "digest", "salt")),
    *(("conversation_blob", name) for name in ("digest", "media_type", "scope", "size")),
    *(("conversation_blob_chunk", name) for name in ("data", "number", "digest", "scope")),
)


def _loosened(engine: Engine) -> None:
    """Take every constraint away from a SQLite file, as its owner can: then any column takes any value."""
    with engine.begin() as connection:
        for table in dict(COLUMNS):
            connection.exec_driver_sql(f"CREATE TABLE loose AS SELECT * FROM {table}")
            columns = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(loose)")]
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.exec_driver_sql(f"DROP TABLE {table}")
            connection.exec_driver_sql(
                f"CREATE TABLE {table} ({', '.join(columns)})"
            )  # without types: nothing converts
            connection.exec_driver_sql(f"INSERT INTO {table} SELECT * FROM loose")
            connection.exec_driver_sql("DROP TABLE loose")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seed", range(4))
def test_no_value_in_any_column_raises(kept: Kept, seed: int) -> None:
    """Any value, of any type, in any column of any row is a fault or harmless, alone and with others."""
    _loosened(kept.engine)
    chance = random.Random(seed)
    chat = kept.store.get(kept.id)
    for _ in range(120):
        with kept.engine.connect() as connection, connection.begin() as transaction:
            changed = []
            for _ in range(chance.choice((1, 1, 2, 5))):
                table, column = chance.choice(COLUMNS)
                value = chance.choice(HOSTILE)
                rows = connection.exec_driver_sql(f"SELECT rowid FROM {table}").scalars().all()
                row = chance.choice(rows)
                connection.exec_driver_sql(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
                changed.append((table, column, value, row))
            transaction.commit()
        faults = chat.verify()
        assert all(isinstance(fault, Fault) for fault in faults), changed
        for fault in faults:
            assert isinstance(fault.expected, str)
            assert isinstance(fault.found, str)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_single_change_of_an_entry_goes_unseen(kept: Kept) -> None:
    """Each value of each column of each entry, flipped alone, is a fault at that entry."""
    _loosened(kept.engine)
    chat = kept.store.get(kept.id)
    columns = ("position", "kind", "at", "salt", "request_salt", "digest", "header", "about", "body")
    length = chat.version
    for position in range(length):
        for column in columns:
            where = f"FROM conversation_entry WHERE conversation = :c AND position = {position}"
            old = kept.one(f"SELECT {column} {where}")
            new: Any
            if old is None:
                new = bytes(32)
            elif isinstance(old, int):
                new = old + 1_000
            else:
                new = old[:-1] + (bytes([old[-1] ^ 1]) if isinstance(old, bytes) else "x")
            update = f"UPDATE conversation_entry SET {column} = :b WHERE conversation = :c AND position = "
            moved = new if column == "position" else position
            kept.run(update + str(position), b=new)
            faults = chat.verify()
            # A salt that nothing is committed under changes nothing; a request's own shows when it is replayed.
            harmless = column == "request_salt"
            assert harmless or position in {fault.position for fault in faults} or moved != position, (position, column)
            assert harmless or faults, (position, column)
            kept.run(update + str(moved), b=old)
    assert chat.verify() == []


# --- what a chain alone cannot show ------------------------------------------------------------------------------


def test_a_changed_salt_of_a_request_shows_when_it_is_replayed(kept: Kept) -> None:
    """The commitment to a request's body is proved by building the body again, which replaying does."""
    chat = kept.store.get(kept.id)
    assert chat.replay(7)
    kept.run(SET.format("request_salt = :b", 7), b=bytes(32))
    with pytest.raises(CodecError):
        chat.replay(7)


@pytest.mark.parametrize("change", ["view_position = 3", "settings_position = 3", "title = NULL", "metadata = NULL"])
def test_a_row_that_tells_something_else_than_its_log_is_found(kept: Kept, change: str) -> None:
    """What the row says of view, settings, title and metadata is held against the newest entries that tell them."""
    with kept.engine.begin() as connection:
        kept.on(connection, f"UPDATE conversation SET {change} WHERE id = :c")
    assert [fault.code for fault in kept.faults()] == ["row"]


def test_a_cut_tail_with_its_row_put_back_cannot_be_seen(kept: Kept) -> None:
    """Whoever also puts back what the row tells can cut the end off: only something kept elsewhere shows it."""
    with kept.engine.begin() as connection:
        kept.on(connection, "DELETE FROM conversation_blob_use WHERE conversation = :c AND position > 8")
        kept.on(connection, "DELETE FROM conversation_entry WHERE conversation = :c AND position > 8")
        kept.on(
            connection,
            "UPDATE conversation SET length = 9, settings_position = 1, head = (SELECT digest "
            "FROM conversation_entry WHERE conversation = :c AND position = 8), updated = (SELECT at "
            "FROM conversation_entry WHERE conversation = :c AND position = 8) WHERE id = :c",
        )
        kept.on(connection, "UPDATE conversation_exchange SET turn = NULL WHERE conversation = :c")
    assert kept.faults() == []


def test_a_conversation_deleted_whole_cannot_be_seen(kept: Kept) -> None:
    """A conversation of which no row is left leaves no trace in the others."""
    with kept.engine.begin() as connection:
        for table in ("blob_use", "exchange", "journal", "key", "entry"):
            kept.on(connection, f"DELETE FROM conversation_{table} WHERE conversation = :c")
        kept.on(connection, "DELETE FROM conversation WHERE id = :c")
    assert kept.store.verify() == []


def test_a_chain_computed_anew_cannot_be_seen(kept: Kept) -> None:
    """Whoever rewrites an entry and all digests after it makes a log that fits; an old head kept elsewhere shows it."""
    old_head = kept.store.get(kept.id).head
    body, salt = b'{"role":"assistant","content":"Never said"}', bytes(32)
    with kept.engine.begin() as connection:
        header = chain.draft("turn", at=0, salt=salt, fields={"origin": "model", "request": 7}, body=body).header
        kept.on(connection, SET.format("header = :h, body = :b, salt = :s", 9), h=header, b=body, s=salt)
        rows = connection.execute(
            text("SELECT position, at, kind, header FROM conversation_entry WHERE conversation = :c ORDER BY position"),
            {"c": kept.id.bytes},
        ).all()
        digest = chain.genesis(kept.id)
        for position, at, kind, stored in rows:
            digest = chain.link(digest, chain.entry_digest(kept.id, position, at, kind, bytes(stored)))
            kept.on(connection, SET.format("digest = :b", position), b=digest)
        kept.on(connection, "UPDATE conversation SET head = :b WHERE id = :c", b=digest)
    assert kept.faults() == []
    assert kept.store.get(kept.id).head != old_head
