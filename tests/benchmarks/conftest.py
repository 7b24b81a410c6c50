"""Costs beside their floors: measured turn about in one run, and shown as one table of ratios at its end."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen

from tests.benchmarks import chart

MEMORY: Final = Path("/dev/shm")
HEADINGS: Final = ("cost", "where", "ours", "floor", "ratio", "the floor is")


@frozen
class Row:
    """
    One line of the table.

    Attributes:
        cost: What was measured.
        where: On what kind of file, or how.
        ours: Seconds, the median; or bytes.
        floor: Seconds, the median of the least that anybody would have to do; or bytes.
        named: What that is.
        shown: Writes either.
    """

    cost: str
    where: str
    ours: float
    floor: float
    named: str
    shown: Callable[[float], str]

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as it is shown."""
        ratio = f"{self.ours / self.floor:.2f}"
        return (self.cost, self.where, self.shown(self.ours), self.shown(self.floor), ratio, self.named)


def shown(seconds: float) -> str:
    """Write a time so that it can be read."""
    return f"{seconds * 1e3:,.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.1f} µs"


def shown_bytes(size: float) -> str:
    """Write a size so that it can be read."""
    return f"{size / 1e6:,.2f} MB"


ROWS: Final = pytest.StashKey[list[Row]]()


@frozen
class Place:
    """A folder to keep databases in, and what its files cost."""

    folder: Path
    label: str


class Beside:
    """Measures a cost beside its floors, turn about, so that a busy machine is busy for both."""

    def __init__(self, benchmark: Any, rows: list[Row]) -> None:
        self._benchmark = benchmark
        self._rows = rows
        self.measuring = not benchmark.disabled

    def turns(self, wanted: int) -> int:
        """How long a history to build: as wanted, or short where nothing is measured."""
        return wanted if self.measuring else min(wanted, 4)

    def __call__(
        self,
        cost: str,
        where: str,
        ours: Callable[[], object],
        floors: Mapping[str, Callable[[], object]],
        *,
        rounds: int,
        before: Callable[[], object] = lambda: None,
        of: int = 1,
    ) -> None:
        """
        Measure.

        Args:
            cost: What *ours* is called in the table.
            where: On what kind of file, or how.
            ours: What is measured.
            floors: What it is compared with, by name.
            rounds: How often each is done.
            before: Done before each round, not measured.
            of: How many of what is measured are done at once; the table tells of one.
        """
        taken: dict[str, list[float]] = {name: [] for name in floors}

        def floors_first() -> None:
            before()
            for name, floor in floors.items():
                begun = time.perf_counter()
                floor()
                taken[name].append(time.perf_counter() - begun)

        def and_drop_the_result() -> None:
            ours()

        self._benchmark.group = f"{cost}, {where}"
        warmup = min(20, rounds)
        self._benchmark.pedantic(and_drop_the_result, setup=floors_first, rounds=rounds, warmup_rounds=warmup)
        if self.measuring:
            for name, times in taken.items():
                ours_took = self._benchmark.stats.stats.median / of
                self.note(cost, where, ours_took, statistics.median(times[warmup:]) / of, name)

    def measure(self, work: Callable[[], object], rounds: int) -> None:
        """Do something that measures itself; what it finds is noted afterwards."""
        self._benchmark.pedantic(work, rounds=rounds if self.measuring else 1)

    def note_bytes(self, cost: str, where: str, ours: int, floor: int, named: str) -> None:
        """Put a line of sizes into the table."""
        self._note(Row(cost, where, ours, floor, named, shown_bytes))

    def note(self, cost: str, where: str, ours: float, floor: float, named: str) -> None:
        """Put a line of times into the table."""
        self._note(Row(cost, where, ours, floor, named, shown))

    def _note(self, row: Row) -> None:
        """Put a line into the table, and into what pytest-benchmark saves."""
        self._rows.append(row)
        lines = self._benchmark.extra_info.setdefault("beside floors", [])
        told = {"cost": row.cost, "where": row.where, "ours": row.ours, "floor": row.floor, "floor is": row.named}
        lines.append(told)


@pytest.fixture
def beside(benchmark: Any, request: pytest.FixtureRequest) -> Beside:
    """Measure costs beside their floors."""
    return Beside(benchmark, request.config.stash.setdefault(ROWS, []))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Place]:
    """Give a folder whose files are in memory, where the machine has one; else one on disk, and say so."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK)):
        yield Place(tmp_path, "file, no memory-backed folder here")
        return
    folder = Path(tempfile.mkdtemp(prefix="conversation_store-", dir=MEMORY))
    try:
        yield Place(folder, "memory-backed file: CPU only")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def disk(tmp_path: Path) -> Place:
    """Give a folder for temporary files, and say what one fsync costs there."""
    return Place(tmp_path, f"temporary folder, fsync {shown(fsync_of(tmp_path))}")


def fsync_of(folder: Path) -> float:
    """Measure what it takes to append a page to a file in *folder* and have it on the device: seconds, the median."""
    taken = []
    file = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(11):
            begun = time.perf_counter()
            os.write(file, bytes(4096))
            os.fsync(file)
            taken.append(time.perf_counter() - begun)
    finally:
        os.close(file)
    return statistics.median(taken)


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest) -> Place:
    """Give both kinds of folder in turn."""
    found: Place = request.getfixturevalue(request.param)
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Leave the showing to the table below: the lines of both kinds would be the same times twice."""
    if not config.getoption("benchmark_verbose", default=False):
        config.option.benchmark_quiet = True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show every cost beside its floor."""
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("costs beside their floors: medians of this run; read the ratios")
    for line in table([HEADINGS, *(row.cells for row in rows)]):
        terminalreporter.write_line(line)
    times = [(row.cost, row.where, row.ours, row.floor, row.named) for row in rows if row.shown is shown]
    if (file := chart.draw(times)) is not None:
        terminalreporter.write_line(f"how they grow with the length of a conversation: {file}")


def table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.rjust(width) if n in (2, 3, 4) else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
