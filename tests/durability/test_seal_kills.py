"""
SIGKILL of a sealer at every step, and what the next seal makes of it.

The steps are not listed here: an undisturbed sealer tells them, and then one is killed at each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from conversation_store import Seals, Store
from conversation_store.audit.anchors import FileAnchor
from conversation_store.audit.memory import Memory
from conversation_store.errors import RollbackError
from tests import sealed
from tests.durability.nursery import Nursery
from tests.sealed import KEY, VERIFIER, Sealed

ORDER: Final = ("COMMIT, after", "sign, after", "publish, after", "replace, after")
"""Commit, sign, publish, remember."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Give an interpreter to fork workers from."""
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def kept(database_url: str, tmp_path: Path) -> Iterator[Sealed]:
    """Give a database that was sealed once, and in which more was said since."""
    Store(database_url).close()
    KEY.write(tmp_path / "key")
    with sealed.database(database_url, tmp_path, anchors=[FileAnchor(tmp_path / "anchor")]) as found:
        found.say("a", "one")
        found.say("b", "one")
        found.seal()
        found.say("a", "two")
        found.say("c", "one")
        yield found


def job(kept: Sealed, folder: Path, *, new_epoch: bool, point: str | None = None) -> dict[str, Any]:
    """Write the order for a sealer."""
    files = {"signing": "key", "memory": "memory", "anchor": "anchor"}
    named = {name: str(folder / file) for name, file in files.items()}
    return {"act": "seal", "url": kept.url, "new_epoch": new_epoch, "point": point, **named}


@pytest.mark.parametrize("new_epoch", [False, True])
def test_a_sealer_is_killed_at_every_step(kept: Sealed, tmp_path: Path, nursery: Nursery, *, new_epoch: bool) -> None:
    """Whatever was done before the kill, the next seal signs all of it, the anchor hears of it, and nothing is lost."""
    before = {name: (tmp_path / name).read_bytes() for name in ("memory", "anchor")}
    rows = kept.backup()
    [told] = nursery.run(job(kept, tmp_path, new_epoch=new_epoch))
    assert told.error is None, told.error
    steps = told.value
    places = [steps.index(step, steps.index("sign, before") if step != ORDER[0] else 0) for step in ORDER]
    assert places == sorted(places), steps
    assert len(steps) > 20
    for step in steps:
        kept.restore(rows)
        for name, data in before.items():
            (tmp_path / name).write_bytes(data)
        [report] = nursery.run(job(kept, tmp_path, new_epoch=new_epoch, point=step))
        assert report.killed, (step, report.error)
        check(kept, tmp_path, step, new_epoch=new_epoch)


def check(kept: Sealed, folder: Path, step: str, *, new_epoch: bool) -> None:
    """Seal again after the kill, and look at everything."""
    memory = Memory(folder / "memory").read()
    assert memory is not None, step
    with Store(kept.url, seal=kept.seals) as store:
        try:
            found = store.seal()
        except RollbackError:
            assert new_epoch, step  # a new log that is not remembered yet is gone on with by the same command
            found = store.seal(new_epoch=True)
    assert found.note is not None
    if new_epoch and found.origin == KEY.name:  # it was killed before there was a new log
        with Store(kept.url, seal=kept.seals) as store:
            found = store.seal(new_epoch=True)
    assert found.origin == (f"{KEY.name}/2" if new_epoch else KEY.name), step
    assert found.size == 4, step
    assert found.note is not None
    assert kept.verify(key=VERIFIER, pin=found.note) == [], step
    assert kept.verify(key=VERIFIER, pin=memory[0]) == [], step
    remembered = Memory(folder / "memory").read()
    assert remembered is not None
    assert remembered[0] == found.note, step
    assert found.note in (folder / "anchor").read_text(), step
    with Store(kept.url, seal=Seals(key=KEY, memory=folder / "memory")) as store:
        assert store.seal().note == found.note
