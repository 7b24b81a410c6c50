"""
The controls of what guards seals, appends and erasures: with a guard the attack fails, and without it it succeeds.

Those of verifying a log are in ``test_guards``, those of where an erasure looks in ``test_erase``, those of signing in
``test_sealing``. What is seen with one guard less, attack by attack, is the table of ``test_seals``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import field, frozen
from sqlalchemy import bindparam, update

from conversation_store import Conversation, Store, history
from conversation_store.audit import erase as erasing
from conversation_store.audit import seals as looking
from conversation_store.errors import CodecError, ConflictError, HeldError, LeaseLostError
from conversation_store.record.notes import Checkpoint, Note
from conversation_store.storage import engine, journal, log, seals
from conversation_store.storage import erasure as storage
from conversation_store.storage.engine import Compiled
from conversation_store.storage.tables import conversation
from tests import sealed
from tests.audit import canaries
from tests.audit.honest import SETTINGS, WHY, answer
from tests.audit.test_guards import Answers, nothing
from tests.sealed import KEY, NAME, TABLES, VERIFIER, Sealed


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Sealed]:
    """Give a database in a file, sealed twice."""
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    Store(url).close()
    with sealed.database(url, tmp_path) as found:
        found.say("a", "one", "two")
        found.seal()
        found.say("b", "other")
        found.seal()
        yield found


# --- the seals -------------------------------------------------------------------------------------------------------


@frozen
class Control:
    """
    A guard of the seals, and an attack that nothing else tells with its code.

    Attributes:
        name: What it is.
        attack: What is done.
        code: What is found.
        owner: Whose function it is; ``function`` its name.
        without: What stands in its place in the control.
    """

    name: str
    attack: Callable[[Sealed], object] = field(repr=False)
    code: str
    owner: Any = field(repr=False)
    function: str
    without: Callable[..., Any] = field(default=nothing, repr=False)


def run(statement: str, **given: object) -> Callable[[Sealed], object]:
    """Run a statement past the library."""
    return lambda kept: kept.run(statement, **given)


def rewritten(kept: Sealed) -> None:
    """Let a turn have said something else, chain and row computed anew."""
    with Store(kept.url) as store:
        of = store.get("a").id
    kept.rewrite(of, 2, "never said")


def of_no_leaves(kept: Sealed) -> None:
    """Sign, with the stolen key, a root that no leaves have."""
    forged = KEY.sign(str(Checkpoint(origin=NAME, size=2, root=bytes(32))))
    kept.run("UPDATE conversation_checkpoint SET note = :b WHERE size = 2", b=str(forged).encode())


def unsigned(kept: Sealed) -> None:
    """Take the signature from a checkpoint."""
    note = Note(Note.read(kept.one("SELECT note FROM conversation_checkpoint WHERE size = 2")).text)
    kept.run("UPDATE conversation_checkpoint SET note = :b WHERE size = 2", b=str(note).encode())


def written_as_floats(kept: Sealed) -> None:
    """Write a number as a float, which compares as the same."""
    sealed.loosened(kept.engine, TABLES)
    kept.run("UPDATE conversation_log SET size = CAST(size AS REAL)")


CONTROLS: Final = (
    Control("leaves are what conversations were", rewritten, "sealed", looking._Log, "_leaf"),
    Control("tiles are what leaves make", run("DELETE FROM conversation_tile"), "tile", looking._Log, "_tiles"),
    Control("roots are what leaves make", of_no_leaves, "checkpoint", looking._Log, "_checkpoint", lambda *_: None),
    Control("signatures", unsigned, "signature", looking, "is_signed", lambda *_: True),
    Control("covering", run("DELETE FROM conversation_checkpoint"), "uncovered", looking._Log, "faults_of_cover"),
    Control(
        "the beginning of an epoch",
        run("INSERT INTO conversation_log VALUES (2, :b, 0, :n)", b=b"x", n=b""),
        "log",
        looking._Log,
        "faults_of_beginning",
    ),
    Control("marks", run("UPDATE conversation SET sealed_length = 1"), "sealed_length", seals, "raw_marks"),
    Control(
        "rows of no log",
        run("INSERT INTO conversation_tile SELECT 7, level, number, hashes FROM conversation_tile"),
        "log",
        seals,
        "raw_orphans",
    ),
    Control("numbers", written_as_floats, "log", looking, "_are_numbers", lambda *_: True),
)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_each_guard_of_the_seals_is_needed(kept: Sealed, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack is found with the guard, and not without it."""
    assert kept.verify(key=VERIFIER) == []
    control.attack(kept)
    assert control.code in {fault.code for fault in kept.verify(key=VERIFIER)}
    monkeypatch.setattr(control.owner, control.function, control.without)
    assert control.code not in {fault.code for fault in kept.verify(key=VERIFIER)}


def test_a_pin_is_needed(kept: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored backup is found by what an auditor kept, and by nothing else."""
    backup = kept.backup()
    kept.say("a", "three")
    pin = kept.seal()
    kept.restore(backup)
    assert [fault.code for fault in kept.verify(key=VERIFIER, pin=pin)] == ["pin"]
    monkeypatch.setattr(looking, "_pins", lambda *_: [])
    assert kept.verify(key=VERIFIER, pin=pin) == []


# --- appending -------------------------------------------------------------------------------------------------------


APPENDED: Final = {
    "length": "new_length",
    "head": "new_head",
    "view_position": "new_view",
    "settings_position": "new_settings",
    "updated": "at",
}
ENDED: Final = APPENDED | {
    "pending_token": "new_token",
    "pending_position": "new_pending",
    "lease_until": "lease",
    "lease_owner": "new_owner",
}


def loose(values: dict[str, str], *holding: Any) -> Compiled:
    """Write the update of an append that looks at nothing but the conversation, and at what is *holding*."""
    of = conversation.c.id == bindparam("of")
    return Compiled(update(conversation).where(of, *holding).values({n: bindparam(v) for n, v in values.items()}))


@pytest.mark.parametrize("guarded", [True, False])
def test_the_compare_and_set_is_needed(kept: Sealed, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """Who knows an older state is refused; without it, and without a key of the table, two turns stand in one place."""
    sealed.loosened(kept.engine, ["conversation_entry"])
    if not guarded:
        held = conversation.c.pending_token == bindparam("held")
        monkeypatch.setattr(log, "_compare_and_set", loose(APPENDED, held))
    with Store(kept.url) as store:
        one, two = store.get("a"), store.get("a")
        one.user("first")
        with pytest.raises(ConflictError) if guarded else nullcontext():
            two.user("second")
        assert (store.verify() == []) is guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_the_token_is_needed(kept: Sealed, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """Whose exchange was taken over ends it no more; without the token the other one's would be ended by it."""
    if not guarded:
        expected = conversation.c.length == bindparam("expected")
        monkeypatch.setattr(log, "_compare_and_set_pending", loose(ENDED, expected))
    with Store(kept.url) as store:
        chat = store.get("a")
        late = chat.begin("late")
        kept.run("UPDATE conversation SET pending_token = :b WHERE id = :c", b=b"another process!", c=chat.id.bytes)
        with pytest.raises(LeaseLostError) if guarded else nullcontext():
            late.finish(answer(Answers()))  # type: ignore[arg-type]
        assert (store.get("a").pending is not None) is guarded


def test_the_commitment_of_a_request_is_needed(kept: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body with other words in it is not given out as the one that was sent; without the look it would be."""
    with Store(kept.url) as store:
        chat = store.open("asked", **SETTINGS)
        exchange = chat.begin("Yes?").exchange
        sent = chat.replay(exchange)
        kept.run(
            "UPDATE conversation_entry SET body = CAST(replace(body, 'Yes', 'Why') AS BLOB) "
            "WHERE kind = 'turn' AND conversation = :c",
            c=chat.id.bytes,
        )
        later = store.get("asked")
        with pytest.raises(CodecError, match="proved"):
            later.replay(exchange)
        monkeypatch.setattr(history, "proves", lambda *_: True)
        assert later.replay(exchange) == sent.replace(b"Yes", b"Why")


# --- erasing ---------------------------------------------------------------------------------------------------------


def secret(store: Store) -> Conversation:
    """Say a secret."""
    chat = store.open("k", **SETTINGS)
    chat.user("before")
    chat.user("CANARYWORD " * 30)
    return chat


def test_the_look_for_holds_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, what is held would be erased."""
    with Store("sqlite://") as store:
        chat = secret(store)
        chat.hold(**WHY)
        with pytest.raises(HeldError):
            chat.erase(1, **WHY)
        monkeypatch.setattr(erasing, "refuse_held", nothing)
        chat.erase(1, **WHY)
        assert len(chat.turns) == 1


@pytest.mark.parametrize("guarded", [True, False])
def test_overwriting_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """Without ``secure_delete`` the words stay in the pages of a file that is not written anew."""
    monkeypatch.setattr(engine, "VACUUM_BYTES", 0)
    if not guarded:
        setup = tuple(each.replace("secure_delete=ON", "secure_delete=OFF") for each in engine._SQLITE_SETUP)
        assert setup != engine._SQLITE_SETUP
        monkeypatch.setattr(engine, "_SQLITE_SETUP", setup)
        monkeypatch.setattr(engine.Database, "refuse_traces", nothing)
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    with Store(url) as store:
        secret(store).erase(1, **WHY)
        store._database.flush()
        assert (b"CANARYWORD" in canaries.files(url)) is not guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_clearing_the_journal_is_needed(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """What had arrived of an answer goes with what it answers, should anything have left it there."""
    if not guarded:
        monkeypatch.setattr(storage, "forget_arrived", nothing)
    with Store("sqlite://") as store:
        chat = store.open("k", **SETTINGS)
        exchange = chat.begin("CANARYWORD?").finish(answer(Answers())).exchange  # type: ignore[arg-type]
        pieces = [(1, b"CANARYWORD!")]
        store._database.write(partial(journal.put, of=chat.id, exchange=exchange.position, arrived=pieces))
        chat.erase(0, **WHY)
        with store._database.read() as connection:
            assert (journal.read(connection, chat.id, exchange.position) == b"") is guarded
