"""Encrypted content: read as it was said, found nowhere in plain, bound to its place, and gone with its key."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import define, field
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, select, update

from conversation_store import Client, Conversation, FileKeyRing, Image, KeyRing, MappingKeyRing, Store
from conversation_store.errors import CiphertextError, ConfigurationError, EncryptionError, KeyMissingError
from conversation_store.storage import journal, log, rows
from conversation_store.storage.cipher import MARK, DataKey, key_of, place
from conversation_store.storage.engine import Database
from conversation_store.storage.tables import (
    conversation,
    conversation_blob,
    conversation_blob_chunk,
    conversation_data_key,
    conversation_entry,
    conversation_search,
)
from conversation_store.testing import Answer, MessagesAPI
from tests.audit.canaries import files, values
from tests.benchmarks.test_growth import counted
from tests.golden.make import Golden, answer, picture, talk, text, views

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-haiku-4-5", "max_tokens": 64}
OF: Final = UUID("01890000-0000-7000-8000-000000000001")
ROOT: Final = Path(__file__).parents[1]
CANARIES: Final = tuple(
    f"canary-{name}" for name in ("said", "reason", "system", "title", "noted", "answered", "streamed")
)


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyRing:
    """Give a key ring beside the database."""
    return FileKeyRing(tmp_path / "ring")


@pytest.fixture
def store(database_url: str, ring: FileKeyRing) -> Iterator[Store]:
    """Give a store that encrypts."""
    with Store(database_url, client=Client("none"), keys=ring) as opened:
        yield opened


@pytest.fixture
def tables(store: Store, database_url: str) -> Iterator[Engine]:
    """Reach the database past the library."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


def body_at(tables: Engine, chat: Conversation, position: int) -> bytes:
    """Read a body as it lies."""
    here = (conversation_entry.c.conversation == chat.id.bytes, conversation_entry.c.position == position)
    with tables.connect() as connection:
        return bytes(connection.execute(select(conversation_entry.c.body).where(*here)).scalar_one())


def put_body(tables: Engine, chat: Conversation, position: int, body: bytes) -> None:
    """Write a body past the library."""
    here = (conversation_entry.c.conversation == chat.id.bytes, conversation_entry.c.position == position)
    with tables.begin() as connection:
        connection.execute(update(conversation_entry).where(*here).values(body=body))


def count(tables: Engine, table: Any) -> int:
    """Count the rows of a table."""
    with tables.connect() as connection:
        return len(connection.execute(select(table)).all())


def numbers(tables: Engine) -> set[int]:
    """Say under which data keys anything is encrypted: the mark can stand nowhere else."""
    url = tables.url.render_as_string(hide_password=False)
    return {key_of(value) for value in values(url) if value.startswith(MARK)}


# --- the same, but encrypted -----------------------------------------------------------------------------------------


def test_nothing_but_the_bytes_at_rest_is_another(database_url: str, tmp_path: Path, ring: FileKeyRing) -> None:
    """A talk of every kind, taken over from a store in plain: the same heads, bodies, responses and export."""
    with Store(f"sqlite:///{tmp_path / 'plain.db'}", client=Client("none"), keep_raw=True) as plain:
        golden = Golden(plain)
        views(golden, talk(golden))
        golden.ask(plain.open("pending", **SETTINGS), "Never answered")
        exported = b"".join(plain.export())
        with Store(database_url, keys=ring) as store:
            store.load(exported.splitlines(keepends=True))
            assert store.verify() == []
            assert b"".join(store.export()) == exported
            for listed in plain.list():
                before, after = plain.get(listed.id), store.get(listed.id)
                assert (after.head, after.title, after.metadata) == (before.head, before.title, before.metadata)
                assert [turn.wire for turn in after.turns] == [turn.wire for turn in before.turns]
                assert [after.replay(each) for each in after.exchanges] == [
                    before.replay(each) for each in before.exchanges
                ]


def test_a_talk_goes_on_in_another_process(store: Store, database_url: str, ring: FileKeyRing) -> None:
    """What was said and answered, attachments among it, is read by a store with another copy of the ring."""
    golden = Golden(store)
    views(golden, talk(golden))
    with Store(database_url, keys=FileKeyRing(ring.keys._folder)) as later:  # type: ignore[attr-defined]
        assert later.verify() == []
        for each in golden.bodies:
            assert later.get(each["key"]).replay(each["position"]) == each["body"].encode()
        chat = later.get("talk")
        assert [turn.wire for turn in chat.turns] == [turn.wire for turn in store.get("talk").turns]
        chat.user("Go on")
        assert store.get("talk").turns[-1].text == "Go on"


def test_evidence_is_in_plain_and_the_same(database_url: str, tmp_path: Path, ring: FileKeyRing) -> None:
    """A bundle written from an encrypted store is, byte for byte, the one written from a store in plain."""
    with Store(f"sqlite:///{tmp_path / 'plain.db'}", client=Client("none"), keep_raw=True) as plain:
        talk(Golden(plain))
        with Store(database_url, keys=ring) as store:
            store.load(b"".join(plain.export()).splitlines(keepends=True))
            for name, each in (("plain", plain), ("encrypted", store)):
                with (tmp_path / f"{name}.zip").open("wb") as file:
                    each.get("talk").evidence(file)
    assert (tmp_path / "plain.zip").read_bytes() == (tmp_path / "encrypted.zip").read_bytes()


def say_canaries(store: Store, api: MessagesAPI) -> Conversation:
    """Have a talk in which words are everywhere words can be."""
    chat = store.open("key", system="canary-system", **SETTINGS)
    chat.label(title="canary-title", metadata={"note": "canary-noted"})
    chat.user("canary-said", Image.from_bytes(picture()))
    chat.assistant("well", reason="canary-reason")
    api.answer(Answer("canary-answered"), Answer("canary-streamed " * 40))
    chat.send("One")
    with chat.stream("Two", journal="each") as stream:
        for _ in stream.text:
            pass
    return chat


@pytest.mark.parametrize("encrypted", [True, False])
def test_no_word_is_anywhere(
    database_url: str, ring: FileKeyRing, api: MessagesAPI, caplog: pytest.LogCaptureFixture, encrypted: bool
) -> None:
    """
    Rows, file, write-ahead log and index hold no word and no digest of a picture, while the store is open and after.

    The same talk in plain is the control: there all of it is found.
    """
    caplog.set_level(0)
    wanted = {*CANARIES}
    with (
        Client(api.key, base_url=api.url) as client,
        Store(database_url, client=client, keep_raw=True, keys=ring if encrypted else None) as store,
    ):
        say_canaries(store, api)
        hits = store.search("canary-said")
        assert len(hits) == (not encrypted)
        left = b"\n".join([*values(database_url), files(database_url)])
    left += b"\n".join([*values(database_url), files(database_url)])
    found = {word for word in wanted if word.encode() in left}
    assert found == (set() if encrypted else wanted)
    assert (picture()[200:260] in left) == (sha256(picture()).digest() in left) == (not encrypted)
    assert "canary" not in caplog.text


def test_what_arrives_is_encrypted_while_it_arrives(database_url: str, ring: FileKeyRing, api: MessagesAPI) -> None:
    """The journal of an answer on its way holds no word of it, and gives it back to whoever takes over."""
    api.answer(Answer("canary-streamed " * 200))
    with Client(api.key, base_url=api.url) as client, Store(database_url, client=client, keys=ring) as store:
        chat = store.open("key", **SETTINGS)
        with chat.stream("Two", journal="each") as stream:
            shown = next(iter(stream.text))
            held = chat.refresh()._history
            with held.database.read() as connection:
                arrived = journal.read(connection, chat.id, held.head.pending_position)
            left = b"\n".join([*values(database_url), files(database_url)])
        assert shown.encode() in arrived
        assert b"canary" not in left
        assert b"message_start" not in left
        assert store.verify() == []


# --- values ----------------------------------------------------------------------------------------------------------


@given(value=st.binary(max_size=200), bit=st.integers(min_value=0), column=st.sampled_from(["body", "about", "salt"]))
def test_a_value_is_read_at_its_place_alone(value: bytes, bit: int, column: str) -> None:
    """It comes back as it was; not at another place, for another conversation, or with any bit of it changed."""
    key = DataKey.of(OF, 7, bytes(64))
    sealed = key.seal(place(column, 3), value)
    assert key_of(sealed) == 7
    assert key.open(place(column, 3), sealed) == value
    changed = bytearray(sealed)
    changed[bit // 8 % len(sealed)] ^= 1 << bit % 8
    for other, where, what in (
        (key, place(column, 4), sealed),
        (key, place("request_salt", 3), sealed),
        (DataKey.of(UUID(int=1), 7, bytes(64)), place(column, 3), sealed),
        (DataKey.of(OF, 7, b"\1" * 64), place(column, 3), sealed),
        (key, place(column, 3), bytes(changed)),
    ):
        with pytest.raises(CiphertextError):
            other.open(where, what)


def test_the_format_is_the_one_that_is_described(store: Store, tables: Engine, ring: FileKeyRing) -> None:
    """Whoever has the ring and the page of the format reads a body without this library's help."""
    chat = store.open("a", **SETTINGS)
    turn = chat.user("Hello")
    with tables.connect() as connection:
        number, name, wrapped = connection.execute(
            select(*(conversation_data_key.c[each] for each in ("number", "wrapping_key", "wrapped")))
        ).one()
    kek = ring.keys[f"{chat.id.hex}.{bytes(name).decode()}"]
    secret = AESGCM(kek).decrypt(bytes(wrapped)[:12], bytes(wrapped)[12:], chat.id.bytes)
    assert len(secret) == 64
    body = body_at(tables, chat, turn.position)
    head = b"\0cs1" + number.to_bytes(8, "big")
    assert body[:12] == head
    where = b"body\0" + turn.position.to_bytes(8, "big")
    plain = AESGCM(secret[:32]).decrypt(body[12:24], body[24:], head + chat.id.bytes + where)
    assert plain == b'{"role":"user","content":"Hello"}'


def test_a_picture_is_kept_once_for_each_conversation(store: Store, tables: Engine) -> None:
    """Its key is the conversation's, so it is shared with no other; in its own it is kept once."""
    for key in ("a", "b"):
        chat = store.open(key, **SETTINGS)
        chat.user(Image.from_bytes(picture()))
        chat.user(Image.from_bytes(picture()), "again")
    assert count(tables, conversation_blob) == 2
    assert store.verify() == []


def test_an_append_needs_no_statement_more(tmp_path: Path, ring: FileKeyRing) -> None:
    """In an open conversation, a turn costs as many statements with keys as without."""
    asked = []
    for name, keys in (("plain", None), ("encrypted", ring)):
        with Store(f"sqlite:///{tmp_path / name}.db", keys=keys) as store, counted(store) as counts:
            chat = store.open("a", **SETTINGS)
            chat.user("Hello")
            before = len(counts.statements)
            for n in range(10):
                chat.user(str(n))
            asked.append(len(counts.statements) - before)
    assert asked[0] == asked[1] > 0


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_without_keys_the_error_says_so_and_verifying_is_told(store: Store, database_url: str, tmp_path: Path) -> None:
    """No keys and another ring: an error that names the conversation; verifying looks at the chain all the same."""
    chat = store.open("a", **SETTINGS)
    chat.user("Hello", Image.from_bytes(picture()))
    other = FileKeyRing(tmp_path / "other")
    for keys, said in ((None, "without keys"), (other, "no key")):
        with Store(database_url, keys=keys) as locked:
            with pytest.raises(KeyMissingError, match=said) as caught:
                locked.get("a").user("More")
            assert caught.value.conversation == chat.id
            assert [(each.code, each.position) for each in locked.verify()] == [("ciphertext", -1)]
            assert [(each.code, each.position) for each in locked.verify(structure=True)] == []
    assert store.verify() == []


def test_what_was_moved_or_changed_is_found_where_it_is(store: Store, tables: Engine, database_url: str) -> None:
    """A body in another row, of another conversation, or with one bit changed: an error, and a finding in its place."""
    chats = [store.open(key, **SETTINGS) for key in ("a", "b")]
    for chat in chats:
        for n in range(3):
            chat.user(f"{n}")
    bodies = {(chat.id, n): body_at(tables, chat, n) for chat in chats for n in (2, 3, 4)}
    first = chats[0]
    flipped = bytearray(bodies[first.id, 3])
    flipped[-1] ^= 1
    for changed in (bodies[first.id, 2], bodies[chats[1].id, 3], bytes(flipped), bodies[first.id, 3][:30]):
        put_body(tables, first, 3, changed)
        with pytest.raises(EncryptionError, match="body 3"):
            _ = store.get("a").turns
        assert [(each.code, each.conversation, each.position) for each in store.verify()] == [
            ("ciphertext", first.id, 3)
        ]
    put_body(tables, first, 3, bodies[first.id, 3])
    assert store.verify() == []
    put_body(tables, first, 3, b'{"role":"user","content":"1 and more"}')  # in plain, as before there were keys
    assert [(each.code, each.position) for each in store.verify()] == [("body", 3)]


@pytest.mark.parametrize("hostile", [b"", b"x", "text", 5, 10**15, None])
def test_verifying_raises_nothing_whatever_stands_for_a_key(tmp_path: Path, ring: FileKeyRing, hostile: Any) -> None:
    """SQLite keeps anything in any column: it is a finding, never an exception."""
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    with Store(url, keys=ring) as store:
        store.open("a", **SETTINGS).user("Hello")
    engine = create_engine(url)
    for column in ("wrapped", "wrapping_key", "number"):
        with engine.begin() as connection:
            before = connection.exec_driver_sql(f"SELECT {column} FROM conversation_data_key").scalar_one()
            connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
            if hostile is None and column != "wrapped":
                continue
            connection.exec_driver_sql(f"UPDATE conversation_data_key SET {column} = ?", (hostile,))
        with Store(url, keys=ring) as store:
            assert [(each.code, each.position) for each in store.verify()] == [("ciphertext", -1)]
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE conversation_data_key SET {column} = ?", (before,))
    engine.dispose()


def test_a_missing_extra_is_said_before_anything_is_written(tmp_path: Path) -> None:
    """Without ``cryptography`` a store with keys is refused and names the extra; one without never looks for it."""
    source = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from conversation_store import MappingKeyRing, Store\n"
        f"Store({f'sqlite:///{tmp_path}/plain.db'!r}).open('a', model='m').user('Hello')\n"
        "try:\n"
        f"    Store({f'sqlite:///{tmp_path}/bot.db'!r}, keys=MappingKeyRing({{}}))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("ConfigurationError encryption needs the extra: pip install")
    assert not (tmp_path / "bot.db").exists() or (tmp_path / "bot.db").stat().st_size == 0


# --- key rings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "mapping"])
def test_a_ring_keeps_what_it_wraps_for_one_conversation_until_it_is_destroyed(tmp_path: Path, kind: str) -> None:
    """What any ring must do: wrap, unwrap, tell conversations and keys apart, destroy for good, twice if asked."""
    ring: KeyRing = FileKeyRing(tmp_path / "ring") if kind == "folder" else MappingKeyRing({})
    names = {ring.create(OF) for _ in range(3)}
    assert len(names) == 3
    one, two, _ = sorted(names)
    wrapped = ring.wrap(OF, one, b"secret")
    assert b"secret" not in wrapped
    assert ring.unwrap(OF, one, wrapped) == b"secret"
    with pytest.raises(ValueError, match="not wrapped"):
        ring.unwrap(OF, two, wrapped)
    with pytest.raises(ValueError, match="not wrapped"):
        ring.unwrap(OF, one, b"")
    with pytest.raises(LookupError):
        ring.unwrap(UUID(int=1), one, wrapped)
    for _ in range(2):
        ring.destroy(OF, one)
        with pytest.raises(LookupError):
            ring.unwrap(OF, one, wrapped)
    assert ring.unwrap(OF, two, ring.wrap(OF, two, b"secret")) == b"secret"


def test_a_ring_in_a_folder_is_for_its_owner_alone(ring: FileKeyRing, tmp_path: Path) -> None:
    """Modes of folder and files; a half-written file is no key; a folder that cannot be made is said."""
    name = ring.create(OF)
    (file,) = (tmp_path / "ring").glob("*/*")
    assert (file.stat().st_mode & 0o777, (tmp_path / "ring").stat().st_mode & 0o777) == (0o600, 0o700)
    file.write_bytes(b"short")
    with pytest.raises(LookupError):
        ring.wrap(OF, name, b"secret")
    with pytest.raises(ConfigurationError, match="cannot make the key ring"):
        FileKeyRing(file / "below")


# --- other keys ------------------------------------------------------------------------------------------------------


def test_new_keys_change_no_hash(store: Store, tables: Engine, ring: FileKeyRing) -> None:
    """Wrapped anew, the same data key; renewed, another one, and nothing is under the old one; heads stay."""
    golden = Golden(store)
    views(golden, talk(golden))
    heads = {each.id: store.get(each.id).head for each in store.list()}
    under, kept = numbers(tables), set(ring.keys)
    assert store.rotate_keys().conversations == len(heads)
    assert numbers(tables) == under
    assert len(set(ring.keys)) == len(kept)
    assert not kept & set(ring.keys)
    renewed = store.rotate_keys(data=True)
    assert renewed.rows > 30
    assert not numbers(tables) & under
    assert count(tables, conversation_data_key) == len(heads) == len(numbers(tables))
    assert {each.id: store.get(each.id).head for each in store.list()} == heads
    assert store.verify() == []


def test_a_writer_goes_on_while_keys_are_renewed(store: Store, database_url: str, ring: FileKeyRing) -> None:
    """A conversation that is open elsewhere is written on under the new key, as if nothing had been."""
    with Store(database_url, keys=ring, client=Client("none")) as other:
        chat = other.open("a", **SETTINGS)
        chat.user("one", Image.from_bytes(picture()))
        store.rotate_keys(data=True)
        chat.user("two", Image.from_bytes(picture()))
        pending = chat.begin("three")
        store.rotate_keys(data=True)
        pending.finish(answer(text("four")))
        chat.label(title="five")
        assert [turn.text for turn in chat.turns] == ["one", "two", "three", "four"]
    with Store(database_url, keys=ring) as fresh:  # which has none of the keys before in memory
        assert fresh.verify() == []
        assert [turn.text for turn in fresh.get("a").turns] == ["one", "two", "three", "four"]
        assert fresh.get("a").title == "five"


def test_what_was_kept_in_plain_is_brought_over(database_url: str, ring: FileKeyRing) -> None:
    """Without a word left in file or index; heads stay; what others share is theirs still; once more does nothing."""
    with Store(database_url, client=Client("none"), keep_raw=True) as store:
        golden = Golden(store)
        views(golden, talk(golden))
        store.open("other", **SETTINGS).user("Look", Image.from_bytes(picture()))
        assert store.search("warm")
        heads = {each.id: store.get(each.id).head for each in store.list()}
    with Store(database_url, keys=ring, client=Client("none"), keep_raw=True) as store:
        mixed = store.get("talk")
        mixed.user("Added under keys")
        assert store.verify() == []
        assert store.encrypt().rows > 30
        assert store.verify() == []
        assert store.search("warm") == []
        assert store.reindex() == 0
        assert {each: store.get(each).head for each in heads if each != mixed.id} == {
            each: head for each, head in heads.items() if each != mixed.id
        }
        assert dict_of(golden) == {
            (chat.key, each.position): chat.replay(each)
            for chat in (store.get(listed.id) for listed in store.list())
            for each in chat.exchanges
        }
        assert store.encrypt().rows == 0
        left = b"\n".join([*values(database_url), files(database_url)])
        for word in (b"Warm", b"Berlin", b"Added", b"canned", b"Ants", picture()[200:260], sha256(picture()).digest()):
            assert word not in left


def dict_of(golden: Golden) -> dict[tuple[str, int], bytes]:
    """Write the bodies that went out, by key and position."""
    return {(each["key"], each["position"]): each["body"].encode() for each in golden.bodies}


def test_keys_are_asked_for_where_there_are_none(database_url: str) -> None:
    """Encrypting or rotating without a ring is refused."""
    with Store(database_url) as store:
        for work in (store.encrypt, store.rotate_keys):
            with pytest.raises(ConfigurationError, match="key ring"):
                work()


# --- shredding -------------------------------------------------------------------------------------------------------


def recovered(backup: list[bytes], ring: MappingKeyRing) -> set[bytes]:
    """
    Try to read a backup with every key that the ring still has: each value as a wrapped key, then each under those.

    Positions, columns and names of chunks are all known to whoever tries.
    """
    secrets = []
    for item in ring.keys:
        own, _, name = item.partition(".")
        for value in backup:
            try:
                secrets.append((UUID(hex=own), ring.unwrap(UUID(hex=own), name, value)))
            except ValueError:
                continue
    sealed = [value for value in backup if value.startswith(MARK)]
    places = [place(column, n) for column in ("body", "about", "salt", "request_salt") for n in range(12)]
    places += [place("title"), place("metadata"), place("use", 2, 0)]
    found = set()
    for of, secret in secrets:
        for value in sealed:
            key = DataKey.of(of, key_of(value), secret)
            for where in places:
                try:
                    found.add(key.open(where, value))
                except CiphertextError:
                    continue
    return found


def test_a_backup_from_before_is_worth_nothing(store: Store, database_url: str, ring: FileKeyRing) -> None:
    """Erased as a whole, not a byte of it is recovered from a copy made before, with all keys that are left (R26)."""
    chat, other = store.open("a", **SETTINGS), store.open("b", **SETTINGS)
    chat.label(title="secret title")
    chat.user("secret words", Image.from_bytes(picture()))
    other.user("somebody else's")
    backup = list(values(database_url))
    assert {b'{"role":"user","content":"somebody else\'s"}', b"secret title"} <= recovered(backup, ring)
    store.erase("a", reason="asked to", by="officer")
    left = recovered(backup, ring)
    assert b'{"role":"user","content":"somebody else\'s"}' in left
    assert left == recovered(backup, only_for(ring, other.id))
    assert not any(b"secret" in each for each in left)
    assert store.verify() == []
    erased = store.get(chat.id)
    with erased._history.database.read() as connection:
        assert b"officer" in (log.read_kind(connection, chat.id, "erased", 0)[0].about or b"")
    assert erased.user("Again").text == "Again"


def only_for(ring: MappingKeyRing, of: UUID) -> MappingKeyRing:
    """Give a ring that has the keys of one conversation alone."""
    return MappingKeyRing({name: key for name, key in ring.keys.items() if name.startswith(of.hex)})


def test_a_file_from_before_opens_and_says_that_the_key_is_gone(tmp_path: Path, ring: FileKeyRing) -> None:
    """The copied database is a store still: other conversations are read, the shredded one is named."""
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    with Store(url, keys=ring) as store:
        chat = store.open("a", **SETTINGS)
        chat.user("secret")
        store.open("b", **SETTINGS).user("other")
    shutil.copy(tmp_path / "bot.db", tmp_path / "backup.db")
    with Store(url, keys=ring) as store:
        store.erase("a", reason="asked to", by="officer")
    with Store(f"sqlite:///{tmp_path / 'backup.db'}", keys=ring) as backup:
        with pytest.raises(KeyMissingError, match="destroyed"):
            _ = backup.get("a").turns
        assert [turn.text for turn in backup.get("b").turns] == ["other"]
        assert [(each.code, each.conversation) for each in backup.verify()] == [("ciphertext", chat.id)]


@define
class Unwilling:
    """A ring that cannot be reached when something is to be destroyed, as often as it is told."""

    ring: FileKeyRing
    refuses: int = 1
    create: Any = field(init=False)
    wrap: Any = field(init=False)
    unwrap: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.create, self.wrap, self.unwrap = self.ring.create, self.ring.wrap, self.ring.unwrap

    def destroy(self, conversation: UUID, name: str) -> None:
        """Refuse, or destroy."""
        if self.refuses:
            self.refuses -= 1
            raise ConnectionError("the key management service is away")
        self.ring.destroy(conversation, name)


def test_a_key_that_could_not_be_destroyed_is_destroyed_later(database_url: str, ring: FileKeyRing) -> None:
    """The content is gone, the ring was away: erasing again goes on where it was broken off, after other keys too."""
    with Store(database_url, keys=Unwilling(ring, refuses=2)) as store:
        chat = store.open("a", **SETTINGS)
        chat.user("secret")
        backup = list(values(database_url))
        with pytest.raises(ConnectionError):
            store.rotate_keys()
        with pytest.raises(ConnectionError):
            store.erase(chat.id, reason="asked to", by="officer")
        assert any(b"secret" in each for each in recovered(backup, ring))
        store.erase(chat.id, reason="asked to", by="officer")
        assert recovered(backup, ring) == set()
        assert len(ring.keys) == 1
        assert store.verify() == []


def test_the_index_and_rows_of_a_plain_store_are_left_alone(tmp_path: Path) -> None:
    """Without keys nothing is encrypted, and what verifying reads is what lies there."""
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    with Store(url) as store:
        store.open("a", **SETTINGS).user("Hello")
        assert store.search("Hello")
    database = Database.open(url)
    with database.read() as connection:
        assert connection.execute(select(conversation.c.data_key)).scalar() == 0
        assert connection.execute(select(conversation_search)).first() is not None
        assert connection.execute(select(conversation_blob_chunk)).first() is None
        bodies = [row[6] for row in rows.read(connection, rows.ENTRIES, "")]
        assert b'{"role":"user","content":"Hello"}' in bodies
    database.close()


@pytest.mark.parametrize(
    "change",
    [
        {"wrapped": bytes(76)},
        {"wrapped": b""},
        {"wrapped": None},
        {"wrapping_key": b"elsewhere"},
        {"number": 7},
    ],
    ids=str,
)
def test_a_key_in_memory_hides_no_changed_row(store: Store, change: Mapping[str, Any]) -> None:
    """Verifying unwraps data keys anew: whoever had read the content before is told as well."""
    chat = store.open("a", **SETTINGS)
    chat.user("My PIN is 4711")
    other = store.open("b", **SETTINGS)
    other.user("Mine too")
    assert store.verify() == []
    with store._database.engine.begin() as connection:
        of = conversation_data_key.c.conversation == chat.id.bytes
        connection.execute(update(conversation_data_key).where(of).values(change))
    assert {(each.code, each.conversation) for each in store.verify()} == {("ciphertext", chat.id)}
    assert {(each.code, each.conversation) for each in chat.verify()} == {("ciphertext", chat.id)}
