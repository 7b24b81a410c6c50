"""Each guard of verifying has a control: with it a change is found, and without it the same change is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from attrs import frozen
from sqlalchemy import text

from conversation_store import Conversation, Image, Store
from conversation_store.audit import verification as verifying
from conversation_store.audit import walk
from conversation_store.record import chain
from conversation_store.storage import rows
from tests.audit.honest import PICTURES, SETTINGS, WHY, answer


class Answers:
    """Chooses the first of anything."""

    def choice(self, given: Any) -> Any:
        """Choose."""
        return given[0]

    def randrange(self, *_: int) -> int:
        """Count."""
        return 7


def nothing(*_: object, **__: object) -> tuple[()]:
    """Look at nothing, and find nothing."""
    return ()


@frozen
class Guard:
    """
    A guard, and a change that nothing else shows.

    Attributes:
        name: What it is.
        owner: Whose function it is; ``function`` its name.
        change: The change, as SQL; *c* is the conversation, *f* its fork, *p* the position of its request.
        code: What is found.
        without: What stands in its place in the control.
    """

    name: str
    owner: Any
    function: str
    change: str
    code: str
    without: Callable[..., Any] = nothing


def _unchained(self: walk.Walk, found: Any, end: walk.Found) -> Iterator[Any]:
    for row in found:
        end.digest, end.length = row[5], row[1] + 1
        yield row


def _unlooked_at(self: walk.Walk, entry: Any, *_: object) -> None:
    list(self.uses.until(self.id, entry.position))


def _uncompared(self: walk.Walk, position: int, *_: object, **__: object) -> None:
    list(self.exchanges.until(self.id, position))


ENTRY: Final = "UPDATE conversation_entry SET {} WHERE conversation = :c AND position = {}"
GUARDS: Final = (
    Guard("the chain", walk.Walk, "_chained", ENTRY.format("at = at + 1", 2), "digest", _unchained),
    Guard("the parts", walk, "part_faults", ENTRY.format("about = :b", 3), "about"),
    Guard("the uses of blobs", walk.Walk, "_blobs", "UPDATE conversation_blob_use SET salt = :b", "blob", _unlooked_at),
    Guard("the bytes of blobs", verifying, "_blob_fault", "UPDATE conversation_blob_chunk SET data = :b", "blob"),
    Guard("the bodies of requests", walk.Walk, "_replay", ENTRY.format("request_salt = :b", ":p"), "request"),
    Guard(
        "the rows of exchanges",
        walk.Walk,
        "_compare",
        "UPDATE conversation_exchange SET cost = cost + 1 WHERE conversation = :c",
        "exchange",
        _uncompared,
    ),
    Guard(
        "what was erased",
        walk.Walk,
        "_hold_erasures",
        ENTRY.format("body = NULL, about = NULL, salt = NULL", 3),
        "missing",
    ),
    Guard("the row", verifying._Verifying, "_hold_row", "UPDATE conversation SET updated = 1 WHERE id = :c", "row"),
    Guard("the key", verifying._Verifying, "_hold_key", "DELETE FROM conversation_key WHERE conversation = :c", "key"),
    Guard(
        "what belongs to nobody",
        rows,
        "strays",
        "INSERT INTO conversation_key SELECT scope, :b, :b FROM conversation_key WHERE conversation = :c",
        "stray",
    ),
)


@pytest.fixture
def store() -> Iterator[Store]:
    """Give a store with something of everything."""
    with Store("sqlite://", keep_raw=True) as store:
        chat = store.open("k", **SETTINGS)
        chat.user("Look", Image.from_bytes(PICTURES[0]))
        chat.assistant("A picture.", reason="canned")
        chat.begin("Sure?").finish(answer(Answers()))  # type: ignore[arg-type]
        yield store


def run(store: Store, change: str) -> None:
    """Make a change past the library and past the keys of its tables."""
    chat = store.get("k")
    given = {"c": chat.id.bytes, "b": bytes(32), "p": chat.exchanges[0].position}
    wanted = text(change)
    with store._database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        changed = connection.execute(wanted, {name: given[name] for name in wanted.compile().params})
        connection.commit()
    assert changed.rowcount


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_each_guard_is_needed(store: Store, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is found with the guard and not without it, so that what finds it is this guard."""
    assert store.verify() == []
    run(store, guard.change)
    assert guard.code in {fault.code for fault in store.verify()}
    monkeypatch.setattr(guard.owner, guard.function, guard.without)
    if guard.owner is verifying and guard.function == "_blob_fault":
        monkeypatch.setattr(guard.owner, guard.function, lambda *_: None)
    assert guard.code not in {fault.code for fault in store.verify()}


def test_the_plain_path_looks_at_the_commitment_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain turn is not looked at column by column; that its body is what was said is looked at all the same."""
    chat = store.get("k")
    chat.user("plain")
    position = chat.version - 1
    run(store, ENTRY.format("body = :b", position))
    assert [(fault.code, fault.position) for fault in store.verify()] == [("body", position)]
    header = chat._history.entry(position).header
    found = walk._PLAIN_TURN.fullmatch(header)
    assert found is not None
    part_of = chain.part_of
    forged = bytes.fromhex(found[1].decode())
    monkeypatch.setattr(chain, "part_of", lambda salt, data: forged if data == bytes(32) else part_of(salt, data))
    assert store.verify() == []


def test_a_fork_is_held_against_its_parent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent whose chain was computed anew fits itself; the fork still knows what its head was."""
    chat = store.get("k")
    fork = chat.fork()
    rewrite(store, chat)
    assert [(fault.code, fault.conversation) for fault in store.verify()] == [("parent", fork.id)]
    monkeypatch.setattr(verifying._Verifying, "_ended", nothing)
    assert store.verify() == []


def test_a_checkpoint_shows_what_no_chain_shows(store: Store) -> None:
    """A log that was rewritten, a tail that was cut off: nothing is found in them, but since a checkpoint it is."""
    chat = store.get("k")
    chat.user("the last")
    known = store.verify().checkpoint
    rewrite(store, chat)
    assert store.verify() == []
    assert [fault.code for fault in store.verify(since=known)] == ["rewritten"]
    now = store.verify().checkpoint
    last = chat.version - 1
    run(store, f"DELETE FROM conversation_entry WHERE conversation = :c AND position = {last}")
    run(
        store,
        f"UPDATE conversation SET length = {last}, head = (SELECT digest FROM conversation_entry WHERE position = "
        f"{last - 1}), updated = (SELECT at FROM conversation_entry WHERE position = {last - 1}) WHERE id = :c",
    )
    assert store.verify() == []
    assert [fault.code for fault in store.verify(since=now)] == ["truncated"]
    assert [fault.code for fault in chat.verify(since=now)] == ["truncated"]
    assert not chat.stood(*now.heads[chat.id])
    assert chat.stood(last, chat.refresh().head)
    assert chat.stood(0, chain.genesis(chat.id))


def test_what_was_erased_is_gone(store: Store) -> None:
    """An erasure is no fault; what it names and is still there is one, and so is its salt or its proof put back."""
    chat = store.get("k")
    turn = chat.turns[0]
    request = chat.exchanges[0].position
    chat.erase(turn, **WHY)
    assert store.verify() == []
    for change, position in (
        (ENTRY.format("body = :b", turn.position), turn.position),
        (ENTRY.format("salt = :b", turn.position), turn.position),
        (ENTRY.format("request_salt = :b", ":p"), request),
    ):
        run(store, change)
        assert {fault.position for fault in store.verify()} == {position}
        run(store, ENTRY.format("body = NULL, salt = NULL", turn.position))
        run(store, ENTRY.format("request_salt = NULL", ":p"))
        assert store.verify() == []


def rewrite(store: Store, chat: Conversation) -> None:
    """Change the time of the last entry, and compute the chain and the row anew, as who holds the database can."""
    entry = chat._history.entry(chat.refresh().version - 1)
    before = chat._history.entry(entry.position - 1).digest
    at = entry.at + 1
    digest = chain.link(before, chain.entry_digest(chat.id, entry.position, at, entry.kind, entry.header))
    run(store, ENTRY.format(f"at = {at}, digest = x'{digest.hex()}'", entry.position))
    run(store, f"UPDATE conversation SET head = x'{digest.hex()}', updated = {at} WHERE id = :c")
