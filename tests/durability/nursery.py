"""
Worker processes that cost a few milliseconds each: forked from an interpreter that has loaded everything.

That interpreter runs this file. It has one thread and no open database, so a fork of it is safe; it takes
orders, a line of JSON each, and answers with a line.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from attrs import frozen

ROOT: Final = Path(__file__).parents[2]


@frozen
class Report:
    """
    What became of a worker.

    Attributes:
        killed: Whether SIGKILL ended it.
        value: What it told; None where it was killed.
        error: The exception that ended it, None for none.
    """

    killed: bool
    value: Any = None
    error: str | None = None


class Nursery:
    """The parent's side: starts the interpreter, gives orders, waits for reports."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the nursery
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.durability.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        said = self._close()
        if error is None:
            assert said == "", said

    def run(self, *jobs: Mapping[str, Any]) -> list[Report]:
        """
        Run workers, all at once, and wait for them.

        Args:
            jobs: Each with its ``act``; ``kill_after`` kills it after so many seconds.
        """
        order, answer = self._pipes()
        order.write(json.dumps(jobs) + "\n")
        order.flush()
        line = answer.readline()
        if not line:
            raise AssertionError(f"the workers' parent ended: {self._close()}")
        return [Report(*each) for each in json.loads(line)]

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        order, answer = self._process.stdin, self._process.stdout
        assert order is not None
        assert answer is not None
        return order, answer

    def _close(self) -> str:
        for pipe in self._pipes():
            pipe.close()
        self._process.wait(30)
        if self._said.closed:
            return ""
        self._said.seek(0)
        said = self._said.read()
        self._said.close()
        return said


def _run(jobs: list[dict[str, Any]]) -> list[tuple[bool, Any, str | None]]:
    gate, opener = os.pipe()
    workers = [(_fork(job, gate, opener), job) for job in jobs]
    os.close(gate)
    os.close(opener)  # all are there: the gate opens
    begun = time.monotonic()
    for (pid, _), job in sorted(workers, key=lambda each: each[1].get("kill_after", -1.0)):
        if "kill_after" in job:
            time.sleep(max(begun + job["kill_after"] - time.monotonic(), 0))
            os.kill(pid, signal.SIGKILL)
    return [_reap(pid, pipe) for (pid, pipe), _ in workers]


def _reap(pid: int, pipe: int) -> tuple[bool, Any, str | None]:
    with open(pipe) as told:
        text = told.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL, None, None
    value, error = json.loads(text)
    return False, value, error


def _fork(job: dict[str, Any], gate: int, opener: int) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.close(opener)
        os.close(reader)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.read(gate, 1)  # until nobody holds the gate shut
        with open(writer, "w") as tell:  # noqa: PTH123 - a descriptor
            tell.write(json.dumps(_work(job)))
    finally:
        os._exit(0)


def _work(job: dict[str, Any]) -> tuple[Any, str | None]:
    from tests.durability import workers  # noqa: PLC0415 - the parent's side needs no worker

    try:
        return workers.ACTS[job["act"]](job), None
    except Exception as error:  # noqa: BLE001 - told to the test
        return None, f"{type(error).__name__}: {error}"
    finally:
        gc.collect()  # what was not closed says so now


def main() -> None:
    """Take orders until there are none."""
    from tests.durability import workers  # noqa: PLC0415

    workers.warm_up()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
