"""What a fresh process costs: imports, and the next body of a conversation that was kept by another one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place

ROOT: Final = Path(__file__).parents[2]
DEPENDENCIES: Final = "import attrs, cattrs, pybase64, requests, sqlalchemy, sqlalchemy.dialects.sqlite, urllib3"


@pytest.fixture(autouse=True)
def compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the children find bytecode, as users of an installed library do; the first, not measured, writes it."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "bytecode"))


def child(what: str, argument: str, warnings: str = "error") -> dict[str, Any]:
    """Run ``fresh`` in a process of its own; the seconds of the whole process are added to what it tells."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-m", "tests.benchmarks.fresh", what, argument],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return {**told, "whole": time.perf_counter() - begun}


def median(told: list[dict[str, Any]], name: str) -> float:
    """Give the median of what several children told."""
    return statistics.median(float(each[name]) for each in told)


@pytest.mark.parametrize("turns", [10_000, 100_000])
def test_open_and_next_body(beside: Beside, memory: Place, turns: int) -> None:
    """A fresh process opens the store, loads its turns, and has the next body and its digest."""
    path = memory.folder / "bot.db"
    histories.write(path, beside.turns(turns))
    ours: list[dict[str, Any]] = []
    floors: list[dict[str, Any]] = []
    cost = f"open, load, next body in a fresh process, N = {turns:,}"
    floor = "bare sqlite3: SELECT and join"
    beside(
        cost,
        "whole process, imports included",
        lambda: ours.append(child("ours", str(path))),
        {floor: lambda: floors.append(child("floor", str(path)))},
        rounds=9,
    )
    if beside.measuring:
        after = "after the imports"
        beside.note(cost, after, median(ours, "seconds"), median(floors, "seconds"), floor)
        beside.note(cost, after, median(ours, "seconds"), median(floors, "with digest"), f"{floor}, SHA-256")
    assert {(each["bytes"], each["sha256"]) for each in ours} == {(each["bytes"], each["sha256"]) for each in floors}


@pytest.mark.parametrize(
    "statement",
    [
        "import conversation_store",
        "from conversation_store import Client, Store",
        "from conversation_store import Client, Store; Client('key')",
    ],
)
def test_import(beside: Beside, statement: str) -> None:
    """Importing the library, against importing what it depends on; what waits for its first use is loaded last."""
    ours: list[dict[str, Any]] = []
    floors: list[dict[str, Any]] = []
    floor = "importing its dependencies (but Alembic, which only a migration needs)"
    beside(
        statement,
        "whole process",
        lambda: ours.append(child("imports", statement)),
        {floor: lambda: floors.append(child("imports", DEPENDENCIES))},
        rounds=15,
    )
    if beside.measuring:
        beside.note(statement, "the import alone", median(ours, "seconds"), median(floors, "seconds"), floor)
