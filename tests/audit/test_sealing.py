"""Sealing: when it happens, what it refuses, who hears of it; and that an append neither pays nor fails for it."""

from __future__ import annotations

import logging
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from attrs import define, evolve, field
from sqlalchemy import bindparam, event, update

from conversation_store import Seals, Store
from conversation_store.audit import sealing
from conversation_store.audit.anchors import CommandAnchor, FileAnchor, HTTPAnchor, name_of
from conversation_store.audit.keys import SigningKey, VerifyKey
from conversation_store.audit.memory import Memory
from conversation_store.audit.sealing import Sealer
from conversation_store.errors import ConfigurationError, RollbackError, SealError
from conversation_store.record import merkle
from conversation_store.record import seals as leaves
from conversation_store.record.notes import Checkpoint, Note
from conversation_store.storage import identity, seals
from conversation_store.storage.tables import conversation_log
from tests import sealed
from tests.benchmarks.test_growth import counted
from tests.sealed import KEY, NAME, SETTINGS, VERIFIER, Sealed


@pytest.fixture
def kept(database_url: str, tmp_path: Path) -> Iterator[Sealed]:
    """Give a database that nothing was sealed in."""
    Store(database_url).close()
    with sealed.database(database_url, tmp_path) as found:
        yield found


@define
class Kept:
    """An anchor that keeps what it is given, or raises what it is told to."""

    name: str = "kept"
    notes: list[str] = field(factory=list)
    fails: Exception | None = None

    def publish(self, note: str) -> None:
        """Keep a note."""
        if self.fails is not None:
            raise self.fails
        self.notes.append(note)


def size_of(note: str) -> int:
    """Read how many leaves a checkpoint covers."""
    return Checkpoint.read(Note.read(note).text).size


# --- when --------------------------------------------------------------------------------------------------------


def test_a_store_seals_when_it_is_closed(kept: Sealed) -> None:
    """What was said is sealed, signed, published and remembered when the store is closed; and only once."""
    anchor = Kept()
    for words in ("one", "two"):
        with kept.store(anchors=[anchor]) as store:
            store.open("a", **SETTINGS).user(words)
            assert len(anchor.notes) == (words == "two")
    with kept.store(anchors=[anchor]):
        pass
    assert [size_of(note) for note in anchor.notes] == [1, 2]
    assert kept.verify(key=VERIFIER, pin=anchor.notes[0]) == []
    assert Memory(kept.seals.memory.path).read() == (anchor.notes[1], Checkpoint.read(Note.read(anchor.notes[1]).text))  # type: ignore[union-attr]


def test_a_store_seals_after_so_many_appends(kept: Sealed) -> None:
    """Every so many appends of the store, whatever they append to, there is a checkpoint."""
    anchor = Kept()
    with kept.store(anchors=[anchor], every=4) as store:
        chat = store.open("a", **SETTINGS)  # the first append of this store
        chat.user("one")
        fork = chat.fork()
        assert anchor.notes == []
        fork.user("two")
        assert [size_of(note) for note in anchor.notes] == [2]
        for n in range(8):
            chat.user(f"{n}")
        assert [size_of(note) for note in anchor.notes] == [2, 3, 4]


def test_a_store_seals_when_its_last_seal_is_old(kept: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first append after a minute seals; no thread does."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    anchor = Kept()
    threads = threading.active_count()
    with kept.store(anchors=[anchor]) as store:
        chat = store.open("a", **SETTINGS)
        now = 59.0
        chat.user("one")
        assert anchor.notes == []
        now = 60.0
        chat.user("two")
        chat.user("three")
        assert [size_of(note) for note in anchor.notes] == [1]
        now = 120.0
        chat.user("four")
        assert [size_of(note) for note in anchor.notes] == [1, 2]
        assert threading.active_count() == threads


def test_sealing_is_off_unless_it_is_asked_for(kept: Sealed) -> None:
    """A store without it leaves no seal, and says how to ask for it."""
    kept.say("a", "one")
    with Store(kept.url) as store, pytest.raises(ConfigurationError, match="Seals"):
        store.seal()
    assert kept.one("SELECT count(*) FROM conversation_log") == 0


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Note what a store says to its database from now on, past SQLAlchemy too."""
    if store._database.dialect == "sqlite":
        with counted(store) as counts:
            yield counts.statements
        return
    said: list[str] = []

    class Noting(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Self:
            said.append(str(query))
            return super().execute(query, *arguments, **options)

        def executemany(self, query: Any, *arguments: Any, **options: Any) -> None:
            said.append(f"many times {query}")
            super().executemany(query, *arguments, **options)

    def connect(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> None:
        options["cursor_factory"] = Noting

    event.listen(store._database.engine, "do_connect", connect)
    store._database.engine.dispose()
    yield said


def test_an_append_makes_the_same_statements(kept: Sealed) -> None:
    """Between two seals an append says to the database, word for word, what it says without sealing."""
    found = []
    for store in (kept.store(), Store(kept.url)):
        with store, statements(store) as said:
            chat = store.open(None, **SETTINGS)
            chat.user("warm")
            before = len(said)
            chat.user("one")
            chat.append({"role": "assistant", "content": "two"}, {"role": "user", "content": "three"})
            chat.label(title="four")
            found.append(said[before:])
    assert found[0] == found[1]
    assert sum(statement.startswith("UPDATE conversation SET length") for statement in found[0]) == 3


def test_nothing_new_is_said_too(kept: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last checkpoint is old, silence becomes a leaf: a new checkpoint that goes on from the old one."""
    kept.say("a", "one")
    now = 1_800_000_000_000_000
    monkeypatch.setattr(identity, "now", lambda: now)
    with kept.store() as store:
        first = store.seal().note
        now += 59_000_000
        assert store.seal().note == first
        now += 2_000_000
        quiet = store.seal()
        assert (quiet.size, quiet.added) == (2, 1)
    assert kept.one("SELECT leaf FROM conversation_seal WHERE number = 1") == leaves.quiet(now)
    assert kept.verify(key=VERIFIER, pin=first) == []
    with kept.store():
        now += 3_600_000_000
    assert kept.one("SELECT size FROM conversation_log") == 2  # closing alone says nothing


def test_an_empty_database_has_nothing_to_seal(kept: Sealed) -> None:
    """Without a conversation there is no log and no checkpoint."""
    with kept.store() as store:
        found = store.seal()
    assert (found.size, found.note, found.origin) == (0, None, NAME)


def test_a_large_backlog_is_sealed_in_steps_after_an_append(kept: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that is due seals for a moment only; what is left is sealed on the next occasion, and by ``seal``."""
    monkeypatch.setattr(sealing, "BATCH", 3)
    monkeypatch.setattr(sealing, "PATIENCE", 0.0)
    for n in range(10):
        kept.say(f"k{n}", "one")
    anchor = Kept()
    with kept.store(anchors=[anchor], every=1) as store:
        chat = store.get("k9")
        chat.user("due")
        assert size_of(anchor.notes[-1]) == 3
        chat.user("due")
        assert size_of(anchor.notes[-1]) == 6
        assert store.seal().added == 4
    assert kept.verify(key=VERIFIER) == []


def test_all_scopes_are_sealed(kept: Sealed) -> None:
    """The log is the database's: a store of any scope seals the conversations of all."""
    with Store(kept.url, scope="one") as store:
        store.open("a", **SETTINGS)
    with Store(kept.url, scope="two", seal=kept.seals) as store:
        store.open("a", **SETTINGS)
        assert store.seal().size == 2
        assert store.verify(key=VERIFIER) == []


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_restored_backup_is_refused(kept: Sealed) -> None:
    """The signer remembers more than the database has: nothing is written, nothing is signed, until a new epoch."""
    kept.say("a", "one")
    kept.seal()
    backup = kept.backup()
    kept.say("a", "two")
    last = kept.seal()
    kept.restore(backup)
    kept.say("a", "another two")
    before = kept.backup()
    anchor = Kept()
    store = kept.store(anchors=[anchor])
    with pytest.raises(RollbackError) as caught:
        store.seal()
    assert "2 leaves" in caught.value.remembered
    assert "1 leaves" in caught.value.found
    assert "--new-epoch" in str(caught.value)
    assert kept.backup() == before
    assert anchor.notes == []
    with pytest.raises(RollbackError):
        store.close()
    assert kept.seals.memory is not None
    assert kept.seals.memory.read() is not None
    assert [fault.code for fault in kept.verify(key=VERIFIER, pin=last)] == ["pin"]


def test_the_control_of_the_memory(kept: Sealed) -> None:
    """Without a memory the same backup is sealed as if nothing had happened, and only a pin shows it."""
    kept.say("a", "one")
    kept.seal(memory=None)
    backup = kept.backup()
    kept.say("a", "two")
    last = kept.seal(memory=None)
    kept.restore(backup)
    kept.say("a", "another two")
    assert size_of(kept.seal(memory=None)) == 2
    assert kept.verify(key=VERIFIER) == []
    assert [fault.code for fault in kept.verify(key=VERIFIER, pin=last)] == ["pin"]


def test_another_history_of_any_length_is_refused(kept: Sealed) -> None:
    """A log that does not go on from what was signed is no continuation, be it shorter, as long, or longer."""
    kept.say("a", "one")
    backup = kept.backup()
    for words in ("two", "three"):
        kept.say("a", words)
        kept.seal()
    kept.restore(backup)
    for size in (1, 2, 3, 4):
        kept.say("a", "other words")
        assert size_of(kept.seal(memory=None)) == size
        with pytest.raises(RollbackError), kept.store() as store:
            store.seal()


def test_a_log_that_is_gone_is_refused(kept: Sealed) -> None:
    """Taking all seals away is a rollback to nothing."""
    kept.say("a", "one")
    kept.seal()
    kept.forget_seals()
    with pytest.raises(RollbackError, match="gone"), kept.store() as store:
        store.seal()


def test_a_root_that_is_not_that_of_the_tiles_is_refused(kept: Sealed) -> None:
    """A frontier or a tile that was changed is not signed, whether the signer has a memory or not."""
    for n in range(3):
        kept.say(f"k{n}", "one")
    kept.seal()
    honest = kept.backup()
    other = merkle.leaf_hash(b"another leaf")
    for statement in (
        "UPDATE conversation_log SET frontier = :b",
        "UPDATE conversation_tile SET hashes = :b",
        "UPDATE conversation_tile SET level = 1",
        "UPDATE conversation_log SET size = 4",
    ):
        given = {"b": other * 3} if ":b" in statement else {}
        assert kept.run(statement, **given) == 1
        kept.say("a", "more")
        for memory in (kept.seals.memory, None):
            with pytest.raises(SealError, match=r"damaged|leaves"), kept.store(memory=memory) as store:
                store.seal()
        kept.restore(honest)
    kept.seal()
    assert kept.verify(key=VERIFIER) == []


def test_the_control_of_that_look(kept: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a root that no leaves have would be signed."""
    kept.say("a", "one")
    kept.seal()
    kept.run("UPDATE conversation_log SET frontier = :b", b=merkle.leaf_hash(b"another leaf"))
    kept.say("a", "more")
    monkeypatch.setattr(sealing, "_check_edge", lambda *_: None)
    forged = kept.seal(memory=None)
    assert KEY.verifier.has_signed(Note.read(forged).text, Note.read(forged).signatures[0])
    assert kept.verify(key=VERIFIER) != []


def test_a_log_of_another_name_is_not_signed(kept: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes the database cannot get a signature for another log of the same key."""
    kept.say("a", "one")
    kept.seal(memory=None)
    for name in ("example.com/other", "example.com/bot2", "example.com/bot/x", "example.com/bo"):
        kept.run("UPDATE conversation_log SET origin = :b", b=name.encode())
        with pytest.raises(SealError, match="signs for"), kept.store(memory=None) as store:
            store.seal()
    monkeypatch.setattr(Sealer, "_epoch", lambda *_: 1)  # the control: without the look it is signed
    kept.say("a", "two")
    assert kept.seal(memory=None).startswith("example.com/bo\n")


def test_what_fails_after_an_append_does_not_undo_it(kept: Sealed, caplog: pytest.LogCaptureFixture) -> None:
    """The turn is committed: a refusal is logged then, and raised when the store is closed."""
    kept.say("a", "one")
    kept.seal()
    backup = kept.backup()
    kept.say("a", "two")
    kept.seal()
    kept.restore(backup)
    store = kept.store(every=1)
    with caplog.at_level(logging.WARNING, "conversation_store"):
        turn = store.get("a").user("said")
    assert "restored backup" in caplog.text
    assert store.get("a").turns[-1].position == turn.position
    with pytest.raises(RollbackError):
        store.close()


def test_trouble_that_may_pass_is_only_logged(
    kept: Sealed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of any other kind neither reaches the caller of an append, nor keeps a store from closing."""
    monkeypatch.setattr(seals, "behind", lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    with caplog.at_level(logging.WARNING, "conversation_store"), kept.store(every=1) as store:
        store.open("a", **SETTINGS).user("one")
        monkeypatch.undo()
    assert "not sealed: RuntimeError: no" in caplog.text
    assert kept.verify(key=VERIFIER) == []


# --- a new epoch -------------------------------------------------------------------------------------------------


def test_a_new_epoch_goes_on_from_the_last_trusted_checkpoint(kept: Sealed) -> None:
    """A new log with a new origin begins with what was signed last, and seals every conversation as it is now."""
    kept.say("a", "one")
    kept.say("b", "one")
    kept.seal()
    backup = kept.backup()
    kept.say("a", "two")
    last = kept.seal()
    kept.restore(backup)
    with kept.store() as store:
        found = store.seal(new_epoch=True)
        assert (found.origin, found.size) == (f"{NAME}/2", 3)
        assert store.verify(key=VERIFIER, pin=found.note) == []
        store.get("a").user("another two")
        assert store.seal().size == 4
    first = kept.one("SELECT leaf FROM conversation_seal WHERE log = 2 AND number = 0")
    assert leaves.checkpoint_in(first) == last
    assert kept.verify(key=VERIFIER, pin=found.note) == []
    assert [fault.code for fault in kept.verify(key=VERIFIER, pin=last)] == ["pin"]


def test_epochs_are_counted_by_what_was_signed(kept: Sealed) -> None:
    """A backup older than the last epoch does not give its name to another log."""
    kept.say("a", "one")
    kept.seal()
    backup = kept.backup()
    with kept.store() as store:
        assert store.seal(new_epoch=True).origin == f"{NAME}/2"
    kept.restore(backup)
    with pytest.raises(RollbackError), kept.store() as store:
        store.seal()
    with kept.store() as store:
        assert store.seal(new_epoch=True).origin == f"{NAME}/3"
    assert kept.verify(key=VERIFIER) == []


def test_a_trusted_checkpoint_can_be_given(kept: Sealed) -> None:
    """Where the memory is lost, the operator says what is trusted; what is no checkpoint is refused."""
    kept.say("a", "one")
    note = kept.seal(memory=None)
    with kept.store(memory=None) as store:
        with pytest.raises(ConfigurationError, match="none"):
            store.seal(new_epoch=True, trusted="nonsense")
        store.seal(new_epoch=True, trusted=note)
    assert leaves.checkpoint_in(kept.one("SELECT leaf FROM conversation_seal WHERE log = 2 AND number = 0")) == note
    assert kept.verify(key=VERIFIER, pin=note) == []


def test_there_is_no_epoch_before_the_first_log(kept: Sealed) -> None:
    """Where nothing was ever signed there is nothing to go on from."""
    with kept.store() as store, pytest.raises(SealError, match="no checkpoint"):
        store.seal(new_epoch=True)


def test_a_backup_from_before_the_first_seal_can_be_gone_on_with(kept: Sealed) -> None:
    """A database that knows nothing of seals begins a log that goes on from what the memory holds."""
    kept.say("a", "one")
    backup = kept.backup()
    last = kept.seal()
    kept.restore(backup)
    with pytest.raises(RollbackError, match="gone"), kept.store() as store:
        store.seal()
    with kept.store() as store:
        found = store.seal(new_epoch=True)
    assert (found.origin, found.size) == (f"{NAME}/2", 2)
    assert kept.verify(key=VERIFIER, pin=found.note) == []
    assert [fault.code for fault in kept.verify(key=VERIFIER, pin=last)] == ["pin"]


# --- several at once ---------------------------------------------------------------------------------------------


def race(kept: Sealed, workers: int, rounds: int) -> list[BaseException]:
    """Let stores, each with a memory of its own, seal and append at once."""
    failed: list[BaseException] = []

    def work(number: int) -> None:
        memory = Path(str(kept.seals.memory.path) + str(number)) if kept.seals.memory else None
        try:
            with Store(kept.url, seal=evolve(kept.seals, memory=memory)) as store:
                chat = store.open(f"k{number}", **SETTINGS)
                for n in range(rounds):
                    chat.user(f"{n}")
                    store.seal()
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def test_several_sealers_make_one_log(kept: Sealed) -> None:
    """One compare-and-set decides: every head is sealed once, every checkpoint is right, nobody sees a rollback."""
    assert race(kept, 4, 8) == []
    kept.seal(memory=None)
    assert kept.verify(key=VERIFIER) == []
    sealed_once = "SELECT count(*) FROM (SELECT DISTINCT conversation, length FROM conversation_seal) AS heads"
    assert kept.one(sealed_once) == kept.one("SELECT count(*) FROM conversation_seal")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_control_of_the_compare_and_set(kept: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, several sealers write over each other: some of them fail, or the log is wrong."""
    loose = update(conversation_log).where(conversation_log.c.log == bindparam("of"))
    monkeypatch.setattr(seals, "_grow", loose.values(size=bindparam("new_size"), frontier=bindparam("new_frontier")))
    for _ in range(20):  # they must meet, which on a busy machine takes its time
        if race(kept, 4, 8) or kept.verify(key=VERIFIER):
            break
    else:
        pytest.fail("nothing went wrong without it")


def test_threads_of_one_store_seal_in_turn(kept: Sealed) -> None:
    """A store may be shared by threads; a seal that is due while another runs is left to that one."""
    with kept.store(every=1) as store:
        threads = [threading.Thread(target=lambda n=n: store.open(f"k{n}", **SETTINGS).user("one")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.seal()
    assert kept.verify(key=VERIFIER) == []


# --- memory, keys and anchors ------------------------------------------------------------------------------------


def test_the_memory_is_the_owners_alone_and_holds_a_note(kept: Sealed) -> None:
    """It can be read with any tool, by nobody else, and nothing is left beside it but its lock."""
    kept.say("a", "one")
    note = kept.seal()
    path = kept.seals.memory.path  # type: ignore[union-attr]
    assert path.read_text() == note
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {each.name for each in path.parent.iterdir() if each.name.startswith("memory")} == {"memory", "memory.lock"}


@pytest.mark.parametrize("content", [b"", b"\xff", b"nonsense", b"a\n1\n\n"])
def test_a_memory_that_is_something_else_is_refused(kept: Sealed, content: bytes) -> None:
    """A file that is no memory is not overwritten."""
    path = kept.seals.memory.path  # type: ignore[union-attr]
    path.write_bytes(content)
    with kept.store() as store:
        store.open("a", **SETTINGS)
        with pytest.raises(ConfigurationError, match="no signer's memory"):
            store.seal()
    assert path.read_bytes() == content


def test_a_memory_that_cannot_be_written_is_an_error(kept: Sealed, tmp_path: Path) -> None:
    """A folder that is not there is said before anything is sealed."""
    with kept.store(memory=tmp_path / "none" / "memory") as store, pytest.raises(ConfigurationError, match="memory"):
        store.seal()
    assert kept.one("SELECT count(*) FROM conversation_log") == 0


def test_an_empty_memory_beside_a_sealed_log_is_warned_about(
    kept: Sealed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first seal trusts the log as it is, and says so."""
    kept.say("a", "one")
    kept.seal()
    kept.say("a", "two")
    with caplog.at_level(logging.WARNING, "conversation_store"):
        kept.seal(memory=tmp_path / "another")
    assert "trusted as it is" in caplog.text


def test_keys_are_written_once_and_read_again(tmp_path: Path) -> None:
    """A key's file is the owner's alone, in the form of Go's note package, and is never overwritten."""
    path = tmp_path / "key"
    KEY.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert text == f"PRIVATE+KEY+{NAME}+{KEY.verifier.id.hex()}+{text.rpartition('+')[2]}"
    assert SigningKey.read(path).reveal() == KEY.reveal()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        SigningKey.generate("other").write(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "wrong", ["", "PRIVATE+KEY+", "PRIVATE+KEY+a", VERIFIER, KEY.reveal()[:-3], KEY.reveal().replace("bot", "bat")]
)
def test_what_is_no_signing_key_is_refused(tmp_path: Path, wrong: str) -> None:
    """The message shows nothing of what was read."""
    path = tmp_path / "key"
    path.write_text(wrong)
    with pytest.raises(ConfigurationError) as caught:
        SigningKey.read(path)
    assert KEY.reveal()[-20:-4] not in str(caught.value)
    with pytest.raises(ConfigurationError):
        SigningKey.read(tmp_path / "none")


def test_a_signing_key_shows_and_pickles_nowhere() -> None:
    """Neither its repr nor that of what holds it tells the seed."""
    secret = KEY.reveal().rpartition("+")[2]
    assert secret not in repr(KEY) + repr(Seals(key=KEY, memory=None)) + str(KEY)
    assert KEY._seed.hex() not in repr(KEY)
    with pytest.raises(TypeError):
        KEY.__reduce__()


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u3000b"])
def test_names_of_keys_are_those_of_c2sp(name: str) -> None:
    """No white space, no plus, not nothing."""
    with pytest.raises(ConfigurationError):
        SigningKey.generate(name)
    with pytest.raises(ConfigurationError):
        Seals(key=None, memory=None, origin=name)


def test_a_key_has_an_id_of_its_name_and_bytes() -> None:
    """The published example's key is read; one whose id is another's is not."""
    text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    assert VerifyKey.parse(text).id.hex() == "530d903a"
    for wrong in (text.replace("530d903a", "530d903b"), text.replace("Aeky", "Beky"), text[:-4], text + "AAAA"):
        with pytest.raises(ConfigurationError):
            VerifyKey.parse(wrong)


def test_an_anchor_that_fails_is_reported_and_asked_again(kept: Sealed, caplog: pytest.LogCaptureFixture) -> None:
    """The seal stands; the next one publishes to it, and not again to those that have the checkpoint."""
    good, bad = Kept("good"), Kept("bad", fails=OSError("full"))
    kept.say("a", "one")
    with kept.store(anchors=[bad, good]) as store:
        found = store.seal()
        assert dict(found.failed) == {"bad": "OSError: full"}
        assert "not taken by bad" in caplog.text
        assert kept.one("SELECT published_to FROM conversation_checkpoint") == b'["good"]'
        bad.fails = None
        assert dict(store.seal().failed) == {}
    assert good.notes == bad.notes == [found.note]
    assert kept.one("SELECT published_to FROM conversation_checkpoint") == b'["good","bad"]'


def test_a_file_keeps_every_checkpoint(kept: Sealed, tmp_path: Path) -> None:
    """Appended, one after the other, in a file of the owner's; a folder that is not there is a failure."""
    path = tmp_path / "anchor"
    notes = []
    for words in ("one", "two"):
        kept.say("a", words)
        notes.append(kept.seal(anchors=[FileAnchor(path)]))
    assert path.read_text() == f"{notes[0]}\n{notes[1]}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept.say("a", "three")
    with kept.store(anchors=[FileAnchor(tmp_path / "none" / "anchor")]) as store:
        [(name, why)] = store.seal().failed.items()
    assert name.startswith("file:")
    assert "FileNotFoundError" in why


def test_a_command_takes_the_checkpoint_on_its_input(kept: Sealed, tmp_path: Path) -> None:
    """Whatever ends with 0 kept it; another status, or too long a time, is a failure."""
    path = tmp_path / "anchor"
    script = f"import sys; open({str(path)!r}, 'w').write(sys.stdin.read())"
    kept.say("a", "one")
    note = kept.seal(anchors=[CommandAnchor([sys.executable, "-c", script])])
    assert path.read_text() == note
    anchors = [
        CommandAnchor([sys.executable, "-c", "raise SystemExit(3)"]),
        CommandAnchor(["sleep", "9"], timeout=0.1),
        CommandAnchor([str(tmp_path / "none")]),
    ]
    kept.say("a", "two")
    with kept.store(anchors=anchors) as store:
        failed = store.seal().failed
    assert [why.split(":")[0] for why in failed.values()] == ["SubprocessError", "TimeoutExpired", "FileNotFoundError"]
    with pytest.raises(ConfigurationError):
        CommandAnchor("one string")


class Bucket(BaseHTTPRequestHandler):
    """Takes what is put under /good, and does otherwise elsewhere."""

    taken: list[tuple[str, str, bytes, str | None]]

    def do_PUT(self) -> None:
        """Answer one request."""
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        Bucket.taken.append((self.path, self.headers["Content-Type"], body, self.headers["Authorization"]))
        self.send_response({"/good": 201, "/moved": 307}.get(self.path.split("?")[0], 500))
        if self.path == "/moved":
            self.send_header("Location", "/good")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def bucket() -> Iterator[str]:
    """Give the address of such a host."""
    Bucket.taken = []
    with HTTPServer(("127.0.0.1", 0), Bucket) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_checkpoint_is_put_at_an_address(kept: Sealed, bucket: str) -> None:
    """With the headers given, once; a redirect is not followed, and neither URL nor header shows in what is kept."""
    kept.say("a", "one")
    good = HTTPAnchor(f"{bucket}/good?signature=s3cret", headers={"Authorization": "Bearer s3cret"})
    anchors = [good, HTTPAnchor(f"{bucket}/moved"), HTTPAnchor(f"{bucket}/other"), HTTPAnchor("http://127.0.0.1:1/x")]
    with kept.store(anchors=anchors) as store:
        found = store.seal()
        assert list(found.failed.values())[:2] == ["StatusError: HTTP 307", "StatusError: HTTP 500"]
        assert len(found.failed) == 3
        Bucket.taken.clear()
    assert found.note is not None
    assert ("/good?signature=s3cret", "text/plain; charset=utf-8", found.note.encode(), "Bearer s3cret") not in (
        Bucket.taken  # it has it already
    )
    assert (
        "s3cret"
        not in repr(anchors) + str(found.failed) + kept.one("SELECT published_to FROM conversation_checkpoint").decode()
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "https://u:p@example.org/",
        "https://",
        "x",
        "https://a b/",
        "https://a/#f",
    ],
)
def test_where_a_checkpoint_may_not_go(url: str) -> None:
    """https, or http on this computer, and no password in the address."""
    with pytest.raises(ConfigurationError):
        HTTPAnchor(url)


def test_an_anchor_without_a_name_is_known_by_its_class() -> None:
    """Anything with ``publish`` serves."""

    class Mine:
        def publish(self, note: str) -> None:
            """Keep nothing."""

    assert name_of(Mine()).endswith("Mine")


@pytest.mark.parametrize("given", [{"every": 0}, {"older_than": -1.0}, {"origin": "a" * 300}])
def test_what_cannot_work_is_said_at_once(given: dict[str, Any]) -> None:
    """Numbers and names are looked at when they are given."""
    with pytest.raises(ConfigurationError):
        Seals(key=KEY, memory=None, **given)


def test_without_a_key_checkpoints_pin_all_the_same(kept: Sealed) -> None:
    """An unsigned checkpoint proves to whoever kept it; with a key given it is a fault."""
    kept.say("a", "one")
    note = kept.seal(key=None, origin=NAME)
    assert note.endswith("\n\n")
    kept.say("a", "two")
    kept.seal(key=None, origin=NAME)
    assert kept.verify(pin=note) == []
    assert {fault.code for fault in kept.verify(key=VERIFIER, pin=note)} == {"signature", "uncovered"}


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library for signatures the error says what to install; keys are read all the same."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    assert VerifyKey.parse(VERIFIER).name == NAME
    with pytest.raises(ConfigurationError, match=r"conversation_store\[seal\]"):
        KEY.sign("text\n")


def test_a_store_of_a_hosts_engine_seals(kept: Sealed) -> None:
    """Sealing asks nothing of the engine."""
    if kept.engine.dialect.name == "postgresql":
        with Store(kept.engine, seal=kept.seals) as store:
            store.open("a", **SETTINGS).user("one")
        assert kept.verify(key=VERIFIER) == []
        return
    with Store("sqlite://", seal=evolve(kept.seals, memory=None)) as store:  # one connection for all
        store.open("a", **SETTINGS).user("one")
        assert store.seal().size == 1
        assert store.verify(key=VERIFIER) == []
