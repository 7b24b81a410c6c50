"""What many processes write at once, each to a conversation of its own, beside as many loops of the bare driver."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

from attrs import frozen

from conversation_store import Store
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place
from tests.databases import PostgreSQL

ROOT: Final = Path(__file__).parents[2]
TURNS: Final = 100


def prepared(url: str, writers: int) -> list[str]:
    """Make a conversation for each writer."""
    keys = [f"writer:{n}" for n in range(writers)]
    with Store(url) as store:
        for key in keys:
            chat = store.open(key, **histories.SETTINGS)
            chat.append(*({"role": ("user", "assistant")[n % 2], "content": histories.TEXT} for n in range(TURNS)))
            histories.say(chat)
    return keys


class Writers:
    """Processes that write at the same time, one for each key."""

    def __init__(self, who: str, url: str, keys: list[str]) -> None:
        line = [sys.executable, "-m", "tests.benchmarks.writers", who, url]
        self._running = [
            subprocess.Popen([*line, key], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for key in keys
        ]

    def __enter__(self) -> Self:
        for each in self._running:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._running:
            each.communicate(timeout=60)
            assert each.returncode == 0

    def write(self, seconds: float) -> list[dict[str, Any]]:
        """Let all of them write for so long; give what each tells."""
        for each in self._running:
            assert each.stdin is not None
            each.stdin.write(f"{seconds}\n")
            each.stdin.flush()
        return [json.loads(each.stdout.readline()) for each in self._running if each.stdout is not None]


@frozen
class Contest:
    """Many writers of ours beside as many bare loops: each kind on a database of its own, turn about."""

    cost: str
    where: str
    floor: str
    ours: str
    bare: str
    writers: int

    def hold(self, beside: Beside) -> None:
        """Note the wall time of a commit, of all writers together, and how even they were."""
        seconds, count = (2.0, self.writers) if beside.measuring else (0.2, 2)
        keys = [prepared(url, count) for url in (self.ours, self.bare)]
        ours: list[float] = []
        floors: list[float] = []
        evenness: list[tuple[float, float]] = []

        with Writers("ours", self.ours, keys[0]) as writers, Writers("bare", self.bare, keys[1]) as loops:

            def measure() -> None:
                told = writers.write(seconds)
                assert [refused for each in told for refused in each["refused"]] == []
                done = [each["done"] for each in told]
                assert min(done) > 0
                ours.append(seconds / sum(done))
                evenness.append((seconds / min(done), seconds / statistics.mean(done)))
                floors.append(seconds / sum(each["done"] for each in loops.write(seconds)))

            beside.measure(measure, 5)
        with Store(self.ours) as store:
            assert not store.verify()
        if beside.measuring:
            beside.note(self.cost, self.where, statistics.median(ours), statistics.median(floors), self.floor)
            slow, mean = (statistics.median(each[n] for each in evenness) for n in (0, 1))
            beside.note(f"{self.cost}: the slowest process", self.where, slow, mean, "the mean of all")


def test_eight_processes_on_one_file(beside: Beside, place: Place) -> None:
    """Eight processes append to one SQLite file: nobody is refused, nobody starves."""
    ours, bare = (histories.url_of(place.folder / name) for name in ("ours.db", "bare.db"))
    floor = "8 loops of bare sqlite3, the same rows"
    Contest("a commit, 8 processes", place.label, floor, ours, bare, 8).hold(beside)


def test_sixteen_processes_on_a_server(beside: Beside, postgresql: PostgreSQL) -> None:
    """Sixteen processes append to one PostgreSQL database."""
    floor = "16 loops of bare psycopg, the same statements"
    with postgresql.database(schema=True) as ours, postgresql.database(schema=True) as bare:
        Contest("a commit, 16 processes", "PostgreSQL, fsync off", floor, ours, bare, 16).hold(beside)
