"""Keys are renewed while processes write, and the one that does it is killed on the way: nothing is lost by it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import pytest
from sqlalchemy import create_engine, select

from conversation_store import FileKeyRing, Store
from conversation_store.storage.cipher import MARK, key_of
from conversation_store.storage.tables import conversation_data_key
from tests.audit.canaries import values

ROOT: Final = Path(__file__).parents[2]
SETTINGS: Final[dict[str, Any]] = {"model": "claude-haiku-4-5", "max_tokens": 64}
KEYS: Final = ("one", "two", "both")
KILLS: Final = 4


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process of ``rotators`` and kill it in the end; what it told before can be read to its end then."""
    command = [sys.executable, "-W", "error", "-m", "tests.durability.rotators", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        told_by(process).close()


def told_by(process: subprocess.Popen[str]) -> IO[str]:
    """Give what a process tells."""
    assert process.stdout is not None
    return process.stdout


def lines(process: subprocess.Popen[str]) -> list[str]:
    """Kill a process, and read every whole line it told."""
    process.send_signal(signal.SIGKILL)
    return [line.rstrip("\n") for line in told_by(process) if line.endswith("\n")]


def data_keys(url: str) -> Counter[bytes]:
    """Count the data keys of each conversation."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(select(conversation_data_key.c.conversation)).scalars().all()
    engine.dispose()
    return Counter(map(bytes, found))


def test_keys_are_renewed_under_writers_and_kills(database_url: str, tmp_path: Path, turns: int) -> None:
    """
    Each turn that was committed is there, every chain is whole, and nothing is under a key that is not there.

    The last rotations come to their end while others write: whoever wrote on under an old key would write for nobody.
    """
    ring = FileKeyRing(tmp_path / "ring")
    with Store(database_url, keys=ring) as store:
        for key in KEYS:
            store.open(key, **SETTINGS).append(*({"role": "user", "content": f"before {n}"} for n in range(turns)))
    broken_off = 0
    here = (database_url, str(tmp_path / "ring"))
    with running("write", *here, "one", "both") as first, running("write", *here, "two", "both") as second:
        for _ in range(KILLS):
            with running("rotate", *here) as rotator:
                for line in told_by(rotator):
                    if line.strip() not in {"0", "round"}:
                        break
                rotator.send_signal(signal.SIGKILL)
                rotator.wait()
            broken_off += max(data_keys(database_url).values()) > 1
        with running("rotate", *here) as rotator:
            rounds = (line for line in told_by(rotator) if line == "round\n")
            for _ in range(2):  # the first one ends what was broken off
                next(rounds)
        told = [line for process in (first, second) for line in lines(process)]
    assert broken_off == KILLS
    assert len(told) > KILLS
    with Store(database_url, keys=ring) as store:
        assert store.verify() == []
        store.rotate_keys(data=True)
        assert store.verify() == []
        for key in KEYS:
            said = Counter(turn.text for turn in store.get(key).turns)
            expected = Counter(line.partition(" ")[2] for line in told if line.startswith(f"{key} "))
            assert expected.items() <= said.items()
            assert said.items() >= Counter(f"before {n}" for n in range(turns)).items()
    assert set(data_keys(database_url).values()) == {1}
    under = {key_of(value) for value in values(database_url) if value.startswith(MARK)}
    assert len(under) == len(KEYS)


@pytest.fixture(params=[150, pytest.param(3400, marks=pytest.mark.long)])
def turns(request: pytest.FixtureRequest) -> int:
    """Say how many turns there are in each conversation before: 10,000 rows in the long profile."""
    return int(request.param)
