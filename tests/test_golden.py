"""Stores that earlier releases wrote: upgraded, verified, and every body that went out made again byte for byte."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from conversation_store import Store
from conversation_store.storage.tables import REVISION

FOLDER: Final = Path(__file__).parent / "golden"
REVISIONS: Final = tuple(sorted(path.stem for path in FOLDER.glob("*.sql")))


@pytest.fixture(params=REVISIONS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give the file of a store as a release left it."""
    path = tmp_path / f"{request.param}.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.executescript((FOLDER / f"{request.param}.sql").read_text(encoding="utf-8"))
    connection.close()
    return path


def sent(path: Path) -> dict[tuple[str, int], bytes]:
    """Read the bodies that went out then."""
    lines = (FOLDER / f"{path.stem}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return {(said["key"], said["position"]): said["body"].encode() for said in map(json.loads, lines)}


def replayed(store: Store) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Make every body again that the store has a request of."""
    for listed in store.list():
        chat = store.get(listed.id)
        for exchange in chat.exchanges:
            yield (str(listed.key), exchange.position), chat.replay(exchange)


def test_there_is_one_of_each_revision() -> None:
    """Whoever adds a revision adds a golden store: ``tests/golden/make.py`` says how."""
    assert tuple(f"{n:04}" for n in range(1, int(REVISION) + 1)) == REVISIONS


def test_what_was_sent_then_is_what_is_replayed_now(golden: Path) -> None:
    """Upgraded, nothing is found, and each body is the one that went out, byte for byte; nothing else was sent."""
    with Store(f"sqlite:///{golden}", upgrade=True) as store:
        assert store.verify() == []
        assert dict(replayed(store)) == sent(golden)
        assert len({exchange.state for listed in store.list() for exchange in store.get(listed.id).exchanges}) >= 4


def test_it_is_the_same_in_another_database(golden: Path, database_url: str) -> None:
    """Exported and loaded on any engine, it verifies and replays as it did."""
    with Store(f"sqlite:///{golden}", upgrade=True) as store, Store(database_url) as there:
        there.load(store.export())
        assert there.verify() == []
        assert dict(replayed(there)) == sent(golden)


def test_its_answers_are_what_came(golden: Path) -> None:
    """The responses then were kept raw, and each proves itself; one byte more or less does not."""
    with Store(f"sqlite:///{golden}", upgrade=True) as store:
        answered = [
            store.get(listed.id).response(exchange)
            for listed in store.list()
            for exchange in store.get(listed.id).exchanges
            if exchange.state == "answered"
        ]
    assert len(answered) >= 4
    for response in answered:
        assert response.raw is not None
        assert response.matches(response.raw)
        assert not response.matches(response.raw[:-1])
        assert not response.matches(response.raw[:-1] + b" ")
        assert response.content is not None
        assert response.content in response.raw
