"""
Seals against a hostile hand: the table of attacks, and every value in every column of the log's own tables.

What is not detected is as much a promise as what is: each dash of the table is asserted too, and each column is the
control of the next one, since it shows the same attack passing with one guard less.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import frozen

from conversation_store import Fault, Store
from conversation_store.audit.faults import NOBODY
from conversation_store.audit.keys import SigningKey
from conversation_store.audit.seals import proven
from conversation_store.errors import ConfigurationError, SealError
from conversation_store.record import merkle, notes
from conversation_store.record.notes import Checkpoint, Note, Proof
from conversation_store.storage import seals
from tests import sealed
from tests.sealed import KEY, NAME, TABLES, VERIFIER, Rows, Sealed


@frozen
class Scene:
    """
    A database with a history, and what an auditor kept of it.

    Attributes:
        sealed: The database.
        chat: A conversation with five entries: opened, settings, and three turns.
        other: Another one.
        backup: Every row, from before the pin.
        pin: A checkpoint kept elsewhere; more was said and sealed after it.
    """

    sealed: Sealed
    chat: UUID
    other: UUID
    backup: Rows
    pin: str


@pytest.fixture
def kept(database_url: str, tmp_path: Path) -> Iterator[Sealed]:
    """Give such a database, with nothing in it."""
    Store(database_url).close()
    with sealed.database(database_url, tmp_path) as found:
        yield found


@pytest.fixture
def scene(kept: Sealed) -> Scene:
    """Give a database that was sealed three times."""
    chat, other = kept.say("a", "one", "two"), kept.say("b", "other")
    kept.seal()
    backup = kept.backup()
    kept.say("a", "three")
    kept.say("c", "more")
    pin = kept.seal()
    kept.say("d", "and more")
    kept.seal()
    return Scene(kept, chat, other, backup, pin)


def test_what_nobody_touched_has_no_fault(scene: Scene) -> None:
    """An honest database has no fault with a key and a pin, with either, and with neither."""
    found = scene.sealed
    for given in ({}, {"key": VERIFIER}, {"pin": scene.pin}, {"key": VERIFIER, "pin": scene.pin.encode()}):
        assert found.verify(**given) == []
    with found.store() as store:
        assert store.verify(key=[VERIFIER, SigningKey.generate("other").verifier]) == []


def test_a_database_that_was_never_sealed_has_no_fault_without_a_key(kept: Sealed) -> None:
    """Whoever expects seals says so by giving a key or a pin; then their absence is a fault."""
    kept.say("a", "one")
    assert kept.verify() == []
    assert [fault.code for fault in kept.verify(key=VERIFIER)] == ["signature"]
    elsewhere = str(KEY.sign(str(Checkpoint(origin=NAME, size=1, root=bytes(32)))))
    assert [fault.code for fault in kept.verify(pin=elsewhere)] == ["pin"]


# --- the table of attacks ----------------------------------------------------------------------------------------

Attack = Callable[[Scene], None]
ENTRY: Final = "conversation_entry SET {} WHERE conversation = :c AND position = {}"


def change(what: str, scene: Scene, *, at: int = 2, **given: object) -> None:
    """Change an entry of the conversation."""
    assert scene.sealed.run(f"UPDATE {ENTRY.format(what, at)}", c=scene.chat.bytes, **given) == 1


def delete_inside(scene: Scene) -> None:
    """Delete an entry in the middle."""
    scene.sealed.run("DELETE FROM conversation_entry WHERE conversation = :c AND position = 3", c=scene.chat.bytes)


def swap(scene: Scene) -> None:
    """Let two entries change places."""
    for old, new in ((2, 900), (3, 2), (900, 3)):
        change(f"position = {new}", scene, at=old)


def insert_inside(scene: Scene) -> None:
    """Put an entry in between."""
    for position in (4, 3):
        change(f"position = {position + 1}", scene, at=position)
    scene.sealed.run(
        "INSERT INTO conversation_entry (conversation, position, kind, at, salt, digest, header, body) SELECT "
        "conversation, 3, kind, at, salt, digest, header, body FROM conversation_entry "
        "WHERE conversation = :c AND position = 2",
        c=scene.chat.bytes,
    )


def move(scene: Scene) -> None:
    """Move a turn to another conversation."""
    scene.sealed.run(
        "UPDATE conversation_entry SET conversation = :o, position = 3 WHERE conversation = :c AND position = 4",
        c=scene.chat.bytes,
        o=scene.other.bytes,
    )


def truncate(scene: Scene) -> None:
    """Cut the tail off, length and head put back."""
    scene.sealed.truncate(scene.chat, 4)


def truncate_and_unseal(scene: Scene) -> None:
    """Cut the tail off, and let the row tell that no more was ever sealed."""
    scene.sealed.truncate(scene.chat, 4)
    scene.sealed.run("UPDATE conversation SET sealed_length = 4 WHERE id = :c", c=scene.chat.bytes)


def delete(scene: Scene) -> None:
    """Delete a conversation whole."""
    scene.sealed.delete(scene.chat)


def recompute(scene: Scene) -> None:
    """Let a turn have said something else, and compute the chain anew."""
    scene.sealed.rewrite(scene.chat, 2, "never said")


def recompute_all(scene: Scene, **signed: object) -> None:
    """Compute chain and log anew, and sign as one can."""
    recompute(scene)
    scene.sealed.forget_seals()
    scene.sealed.seal(memory=None, origin=NAME, **signed)


def forget_all(scene: Scene) -> None:
    """Take every seal away."""
    delete(scene)
    scene.sealed.forget_seals()


def drop_checkpoints(scene: Scene) -> None:
    """Compute chain and log anew, and drop the checkpoints."""
    recompute_all(scene, key=None)
    scene.sealed.run("DELETE FROM conversation_checkpoint")


def restore(scene: Scene) -> None:
    """Restore an old backup."""
    scene.sealed.restore(scene.backup)


def truncate_unsealed(scene: Scene) -> None:
    """Say something, and cut it off before it is sealed."""
    scene.sealed.say("a", "not sealed yet")
    scene.sealed.truncate(scene.chat, 5)


def forge(scene: Scene) -> None:
    """Append through the library what was never said."""
    scene.sealed.say("a", "never said")


MATRIX: Final[Mapping[str, tuple[Attack, str]]] = {
    # attack: (what is done, detected by the chains alone, with the log, with the public key, with a pin)
    "edit content": (partial(change, "body = :b", b=b'{"role":"user","content":"no"}'), "DDDD"),
    "edit a header": (partial(change, "header = :b", b=b'{"origin":"model"}'), "DDDD"),
    "edit a time": (partial(change, "at = at + 1"), "DDDD"),
    "delete inside": (delete_inside, "DDDD"),
    "insert inside": (insert_inside, "DDDD"),
    "swap": (swap, "DDDD"),
    "renumber": (partial(change, "position = 17"), "DDDD"),
    "move to another conversation": (move, "DDDD"),
    "blank without an erasure": (partial(change, "body = NULL, salt = NULL"), "DDDD"),
    "truncate the tail": (truncate, "-DDD"),
    "truncate the tail and its seal's mark": (truncate_and_unseal, "-DDD"),
    "delete a conversation": (delete, "-DDD"),
    "recompute a chain": (recompute, "-DDD"),
    "recompute chain and log, checkpoints unsigned": (partial(recompute_all, key=None), "--DD"),
    "recompute chain and log, checkpoints dropped": (drop_checkpoints, "-DDD"),
    "delete a conversation and every seal": (forget_all, "--DD"),
    "the same, signed with another key": (partial(recompute_all, key=SigningKey.generate(NAME)), "--DD"),
    "the same, signed with the stolen key": (partial(recompute_all, key=KEY), "---D"),
    "restore an old backup": (restore, "---D"),
    "truncate what is not sealed yet": (truncate_unsealed, "----"),
    "forge through the library": (forge, "----"),
}


@pytest.mark.parametrize("attack", MATRIX)
def test_the_table_of_attacks(scene: Scene, attack: str) -> None:
    """Each attack is detected by what the table says and by nothing less, and never by an exception."""
    act, expected = MATRIX[attack]
    act(scene)
    looks = (
        scene.sealed.verify_chains(),
        scene.sealed.verify(),
        scene.sealed.verify(key=VERIFIER),
        scene.sealed.verify(key=VERIFIER, pin=scene.pin),
    )
    assert "".join("D" if faults else "-" for faults in looks) == expected, looks


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_changed_stored_type_is_detected(scene: Scene) -> None:
    """SQLite lets text stand where bytes were: the same characters are not the same record."""
    change("body = CAST(body AS TEXT)", scene)
    assert scene.sealed.verify_chains()


def test_the_faults_name_what_is_gone(scene: Scene) -> None:
    """A cut tail, a deleted conversation and a chain computed anew are told by conversation and position."""
    with Store(scene.sealed.url) as store:
        ids = {key: store.get(key).id for key in ("b", "c", "d")}
    scene.sealed.truncate(scene.chat, 4)
    scene.sealed.delete(ids["c"])
    scene.sealed.rewrite(ids["d"], 2, "no")
    found = {(fault.code, fault.conversation, fault.position): fault.found for fault in scene.sealed.verify()}
    assert found.pop(("sealed", scene.chat, 4)) == "no such entry"
    assert found.pop(("sealed", ids["c"], 2)) == "no such entry"
    assert len(found.pop(("sealed", ids["d"], 2))) == 64
    assert found == {}


def test_a_mark_that_lies_is_found(scene: Scene) -> None:
    """A row that says it is sealed further than it is would never be sealed again, and its tail could be cut off."""
    scene.sealed.run("UPDATE conversation SET sealed_length = 99 WHERE id = :c", c=scene.chat.bytes)
    scene.sealed.say("a", "said, and never sealed")
    scene.sealed.seal()
    [fault] = scene.sealed.verify()
    assert (fault.code, fault.conversation, fault.expected, fault.found) == ("sealed_length", scene.chat, "5", "99")


def test_the_control_of_that_guard(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, that attack would pass."""
    monkeypatch.setattr(seals, "raw_marks", lambda *_: [])
    test = partial(test_a_mark_that_lies_is_found, scene)
    with pytest.raises(ValueError, match="not enough values"):
        test()


@pytest.mark.parametrize("wrong", ["", "a\n", b"\xff", "a\n1\nAAAA\n\n", "x" * 2_000_000])
def test_a_pin_that_is_none_is_a_fault(scene: Scene, wrong: str | bytes) -> None:
    """A pin that cannot be read proves nothing, and that is said."""
    assert [fault.code for fault in scene.sealed.verify(pin=wrong)] == ["pin"]


def test_a_pin_signed_by_somebody_else_is_a_fault(scene: Scene) -> None:
    """With a key, the pin too must be signed by it; without one it is taken for what it says."""
    note = str(Note(Note.read(scene.pin).text))
    assert scene.sealed.verify(pin=note) == []
    assert [fault.code for fault in scene.sealed.verify(key=VERIFIER, pin=note)] == ["signature"]


def test_a_key_that_is_none_is_an_error(scene: Scene) -> None:
    """A typing mistake must not look like a verified database; and a private key does not belong into a check."""
    for wrong in ("", VERIFIER[:-1], VERIFIER.replace("bot", "bat"), KEY.reveal()):
        with pytest.raises(ConfigurationError) as caught:
            scene.sealed.verify(key=wrong)
        assert notes.encoded(KEY._seed)[:20] not in str(caught.value)


def test_every_backup_is_detected(kept: Sealed) -> None:
    """Whichever earlier state is put back: the newest pin shows it, and so does every pin that is newer than it."""
    backups, pins = [], []
    for n in range(6):
        kept.say(f"k{n % 3}", f"words {n}")
        pins.append(kept.seal())
        backups.append(kept.backup())
    for n, backup in enumerate(backups):
        kept.restore(backup)
        for m, pin in enumerate(pins):
            codes = [fault.code for fault in kept.verify(key=VERIFIER, pin=pin)]
            assert codes == (["pin"] if m > n else []), (n, m)


# --- any value in any column -------------------------------------------------------------------------------------

HOSTILE: Final[tuple[Any, ...]] = (
    *(None, 0, -1, 1, 7, 2**63 - 1, -(2**63), 0.5, float("inf")),
    *("", "\0", "1", "-5", "example.com/bot", "1e999", "\U0001f41c" * 50),
    *(b"", b"\0", b"{}", b"[]", b"\xff\xfe", bytes(16), bytes(32), bytes(33), bytes(8192), b"[" * 5000, b"a\n\n\n"),
    *(
        b'{"v":1}',
        b'{"v":1,"conversation":5}',
        b'{"v":1,"conversation":"00","length":1,"digest":"00"}',
        b'{"checkpoint":"a","v":1}',
        b'{"conversation":"00000000000000000000000000000000","digest":"","length":1e400,"v":1}',
        b"example.com/bot\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n",
        b"example.com/bot\n99999999999999999999\nAAAA\n\n",
    ),
)
NOT_SEALED: Final = {("conversation_checkpoint", "at"), ("conversation_checkpoint", "published_to")}
"""When and to whom a checkpoint was given is not covered by anything; only their kind is looked at."""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seed", range(4))
def test_no_value_in_any_column_raises(scene: Scene, seed: int) -> None:
    """Any value, of any type, in any column of any row of the log is a fault, never an exception; sealing refuses."""
    kept = scene.sealed
    sealed.loosened(kept.engine, TABLES)
    chance = random.Random(seed)
    for _ in range(60):
        with kept.engine.connect() as connection, connection.begin() as transaction:
            for _ in range(chance.choice((1, 1, 2, 5))):
                table = chance.choice(TABLES)
                columns = [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
                row = chance.choice(connection.exec_driver_sql(f"SELECT rowid FROM {table}").scalars().all())
                statement = f"UPDATE {table} SET {chance.choice(columns)} = ? WHERE rowid = ?"
                connection.exec_driver_sql(statement, (chance.choice(HOSTILE), row))
            transaction.commit()
        for given in ({}, {"key": VERIFIER, "pin": scene.pin}):
            for fault in kept.verify(**given):
                assert isinstance(fault, Fault)
                assert (type(fault.conversation), type(fault.position)) == (UUID, int)
                assert (type(fault.expected), type(fault.found)) == (str, str)
    store = kept.store()
    with pytest.raises(SealError):
        store.seal()
    with pytest.raises(SealError):
        store.close()


def values_near(old: object) -> Iterator[object]:
    """Give values that differ a little from one: bits of bytes, neighbours of numbers, another kind, nothing."""
    if isinstance(old, bytes):
        for at in {0, len(old) // 2, len(old) - 1} if old else ():
            yield old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :]
        yield old + b"\0"
        yield old[:-1]
        yield old.decode("latin-1")
    elif isinstance(old, int):
        yield from (old + 1, old - 1, -old - 7, (old << 9) + 1, str(old) + "x")
    yield None if old is not None else bytes(16)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_single_change_of_the_log_goes_unseen(scene: Scene) -> None:
    """Each column of each row of each table, changed alone a little, is found by whoever has key and pin."""
    kept = scene.sealed
    sealed.loosened(kept.engine, TABLES)
    tried = 0
    for table in TABLES:
        with kept.engine.connect() as connection:
            columns = [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
            rows = connection.exec_driver_sql(f"SELECT rowid FROM {table}").scalars().all()
        for row in rows:
            for column in columns:
                where = f"{table} WHERE rowid = {row}"
                old = kept.one(f"SELECT {column} FROM {where}")
                for new in values_near(old):
                    update = f"UPDATE {table} SET {column} = :b WHERE rowid = {row}"
                    kept.run(update, b=new)
                    harmless = (table, column) in NOT_SEALED and isinstance(new, int)
                    found = verify_seals(kept, scene.pin)
                    assert bool(found) is not harmless, (table, column, row, old, new)
                    tried += 1
                    kept.run(update, b=old)
    assert verify_seals(kept, scene.pin) == []
    assert tried > 200


def verify_seals(kept: Sealed, pin: str) -> list[Fault]:
    """Verify the seals alone, as an auditor would."""
    with Store(kept.url) as store:
        return list(store.verify_seals(key=VERIFIER, pin=pin))


@pytest.mark.parametrize("table", TABLES)
def test_no_row_of_the_log_can_be_taken_away_or_swapped(scene: Scene, table: str) -> None:
    """Each row that is deleted is missed, and what stands in two rows cannot change places."""
    kept = scene.sealed
    before = kept.backup()
    for n, row in enumerate(before[table]):
        kept.restore({**before, table: [each for m, each in enumerate(before[table]) if m != n]})
        # An older checkpoint may be gone without loss: the newer ones cover what it did.
        last = table != "conversation_checkpoint" or n == len(before[table]) - 1
        assert bool(kept.verify(key=VERIFIER, pin=scene.pin)) is last, row
    payload = {"conversation_seal": "leaf", "conversation_checkpoint": "note"}.get(table)
    if payload is not None:
        one, two, *rest = before[table]
        swapped = [{**one, payload: two[payload]}, {**two, payload: one[payload]}, *rest]
        kept.restore({**before, table: swapped})
        assert kept.verify(key=VERIFIER)
    kept.restore(before)
    assert kept.verify(key=VERIFIER, pin=scene.pin) == []


def test_rows_of_no_log_are_found(scene: Scene) -> None:
    """What belongs to a log that is not there is no part of any proof, and is said."""
    before = scene.sealed.backup()
    for table in TABLES[1:]:
        rows = [*before[table], {**before[table][0], "log": 7}]
        scene.sealed.restore({**before, table: rows})
        assert [fault.code for fault in scene.sealed.verify(key=VERIFIER)] == ["log"]


def test_leaves_that_no_checkpoint_covers_are_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seal that broke off before it was signed is told as that, and the next seal makes it good."""
    scene.sealed.say("a", "one more")
    with monkeypatch.context() as patch, scene.sealed.store() as store:
        patch.setattr(SigningKey, "sign", lambda *_: (_ for _ in ()).throw(ConfigurationError("gone")))
        with pytest.raises(ConfigurationError):
            store.seal()
    [fault] = scene.sealed.verify(key=VERIFIER)
    assert (fault.code, fault.conversation, fault.position) == ("uncovered", NOBODY, 5)
    scene.sealed.seal()
    assert scene.sealed.verify(key=VERIFIER, pin=scene.pin) == []


# --- proofs ------------------------------------------------------------------------------------------------------


def test_a_proof_says_what_a_conversation_was(scene: Scene) -> None:
    """Whoever has the verifier key and nothing else learns id, length and head; later turns change nothing of it."""
    with Store(scene.sealed.url) as store:
        for key in ("a", "b", "c", "d"):
            chat = store.get(key)
            said, checkpoint = proven(store.prove(key), VERIFIER)
            assert (said.conversation, said.length, said.digest) == (chat.id, chat.version, chat.head)
            assert checkpoint.origin == NAME
        proof = store.prove("a")
        store.get("a").user("later")
        assert store.prove("a") == proof


def test_a_proof_is_read_by_its_published_form(scene: Scene) -> None:
    """Checked by hand from the parts that C2SP names, without the function that checks."""
    with Store(scene.sealed.url) as store:
        proof = Proof.read(store.prove("b"))
    note = Note.read(proof.checkpoint)
    checkpoint = Checkpoint.read(note.text)
    assert KEY.verifier.has_signed(note.text, note.signatures[0])
    assert proof.extra is not None
    leaf = merkle.leaf_hash(proof.extra)
    assert merkle.is_included(leaf, proof.index, checkpoint.size, proof.path, checkpoint.root)


def test_a_changed_proof_proves_nothing(scene: Scene) -> None:
    """Whatever is changed, by a character anywhere, it proves nothing or what it did before."""
    with Store(scene.sealed.url) as store:
        proof = store.prove("b")
    meant = proven(proof, VERIFIER)
    for at in range(len(proof)):
        for other in ("A", "9", "\n", ""):
            changed = proof[:at] + other + proof[at + 1 :]
            try:
                assert proven(changed, VERIFIER) == meant
            except SealError:
                continue
            assert changed == proof


def test_no_proof_without_a_key_or_with_another(scene: Scene) -> None:
    """A proof is worth what its signature is."""
    with Store(scene.sealed.url) as store:
        proof = store.prove("b")
    others: list[list[str]] = [[], [str(SigningKey.generate(NAME).verifier)], [str(SigningKey.generate("o").verifier)]]
    for keys in others:
        with pytest.raises(SealError, match="not signed"):
            proven(proof, keys)
    quiet = str(Proof.read(proof)).replace("extra ", "index 0\nextra ")
    for wrong in ("", quiet, proof.replace("extra ", "xtra ")):
        with pytest.raises(SealError):
            proven(wrong, VERIFIER)


def test_what_is_not_sealed_cannot_be_proved(kept: Sealed) -> None:
    """Before the first seal, and before a conversation's own, there is no proof."""
    kept.say("a", "one")
    kept.say("c", "one")
    with Store(kept.url) as store:
        with pytest.raises(SealError, match="nothing is sealed"):
            store.prove("a")
        kept.seal()
        store.open("b", **sealed.SETTINGS)
        with pytest.raises(SealError, match="covers"):
            store.prove("b")
        kept.run("DELETE FROM conversation_tile")
        kept.run("UPDATE conversation_log SET size = size + 1")
        with pytest.raises(SealError, match="damaged"):
            store.prove("a")
