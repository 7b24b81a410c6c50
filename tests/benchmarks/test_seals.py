"""What sealing costs: an append of a store that seals, a batch of heads, and a proof."""

from __future__ import annotations

from uuid import UUID

from conversation_store import Seals, Store
from conversation_store.audit.seals import prove
from conversation_store.storage.tables import conversation, conversation_entry
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place
from tests.benchmarks.histories import KEY
from tests.sealed import KEY as SIGNING

HEADS = 500


def test_append_a_turn_to_a_store_that_seals(beside: Beside, memory: Place) -> None:
    """Between two seals an append costs what it costs without."""
    path = memory.folder / "bot.db"
    histories.write(path, beside.turns(100))
    other = histories.copied(path)
    seals = Seals(key=SIGNING, memory=memory.folder / "memory", every=1_000_000, older_than=1e6)
    with Store(histories.url_of(path), seal=seals) as store, Store(histories.url_of(other)) as plain:
        chat, without = store.get(KEY), plain.get(KEY)
        floor = {"the same without sealing": lambda: histories.say(without)}
        beside("append a turn, sealing", memory.label, lambda: histories.say(chat), floor, rounds=500)


def test_seal_a_batch_of_heads(beside: Beside, memory: Place) -> None:
    """Five hundred heads are sealed in one transaction, signed and remembered."""
    with Store(
        histories.url_of(memory.folder / "bot.db"), seal=Seals(key=SIGNING, memory=memory.folder / "memory")
    ) as store:
        _fill(store, 0)
        store.seal()

        def unsealed() -> None:
            with store._database.engine.begin() as connection:
                connection.execute(conversation.update().values(sealed_length=0))

        def sealed() -> None:
            unsealed()
            assert store.seal().added == HEADS

        beside("seal 500 heads", memory.label, sealed, {"taking 500 marks back": unsealed}, rounds=20)


def test_prove_a_conversation(beside: Beside, memory: Place) -> None:
    """One statement each for the log, the checkpoint, the leaf and the tiles."""
    with Store(
        histories.url_of(memory.folder / "bot.db"), seal=Seals(key=SIGNING, memory=memory.folder / "memory")
    ) as store:
        for batch in range(4):
            _fill(store, batch * HEADS)
        store.seal()
        database = store._database

        def read() -> None:
            with database.read() as connection:
                connection.execute(conversation.select().where(conversation.c.id == bytes(16))).first()

        beside(
            "prove one of 2,000",
            memory.label,
            lambda: prove(database, UUID(int=777)),
            {"reading a row": read},
            rounds=200,
        )


def _fill(store: Store, first: int) -> None:
    """Write the rows of conversations of one entry each."""
    ids = [(first + n + 1).to_bytes(16, "big") for n in range(HEADS)]
    row = {"scope": b"", "length": 1, "view_position": 0, "settings_position": 0, "pending_token": bytes(16)} | {
        "pending_position": -1,
        "lease_until": 0,
        "lease_owner": "",
        "indexed_length": 1,
        "sealed_length": 0,
        "created": 1,
        "updated": 1,
    }
    entry = {"position": 0, "kind": "opened", "at": 1, "header": b"{}"}
    with store._database.engine.begin() as connection:
        connection.execute(conversation.insert(), [{**row, "id": each, "head": each * 2} for each in ids])
        connection.execute(
            conversation_entry.insert(), [{**entry, "conversation": each, "digest": each * 2} for each in ids]
        )
