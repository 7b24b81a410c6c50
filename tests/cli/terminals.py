"""Terminals to run the command line on: real ones, whose every byte is seen."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from click.testing import CliRunner

from conversation_store.cli.commands import commands

ROOT: Final = Path(__file__).parents[2]

# Interrupts as a person's shell leaves them, whoever runs the tests and however.
START: Final = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from conversation_store.cli.main import run
sys.exit(run())
"""

OBEYED: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Every character a terminal would obey, or that no terminal can be sent; newline and tab are left to text."""

HOSTILE: Final = (
    "".join(map(chr, (*range(0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))))
    + "\x1b[31mred\x1b]52;c;aGk=\x07\x1b]8;;https://example.org\x1b\\link\x9b2J[bold]markup[/bold]:ant:"
)
"""Text with all of them but surrogates, and with sequences that would really do something."""

_OURS: Final = re.compile(
    r"\x1b\[\?25[lh]"  # the spinner hides the cursor
    r"|\x1b\[\?2004[lh]"  # the line editor asks for bracketed paste
    r"|\x1b\[\?1034h|\x1b\[K|\x1b\[C"
    r"|\x1b\[2K|\x1b\[1A"
    r"|\x1b\[\d+D(?=\x1b\[K)"  # a word that does not fit is taken back
)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


def environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Give a process an environment without what would change the command line's ways."""
    ours = ("ANTHROPIC_", "CONVERSATION_STORE_DATABASE", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONUNBUF")
    found = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    found |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "INPUTRC": os.devnull, "PYTHONUTF8": "1"}
    for name, value in (changes or {}).items():
        if value is not None:
            found[name] = value
    return found


def command(*arguments: str) -> list[str]:
    """Give the command line as a process runs it."""
    return [sys.executable, "-c", START, *arguments]


def invoke(
    *arguments: str, said: str | bytes = b"", env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with pipes, in this process: ten times as fast, and just as good where processes do not matter."""
    wanted = environment(env)
    changes: dict[str, str | None] = {name: None for name in os.environ if name not in wanted}
    done = CliRunner().invoke(commands, arguments, input=said, env={**changes, **(env or {})})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout_bytes, done.stderr_bytes)


def run(
    *arguments: str, said: str | bytes = b"", env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with pipes."""
    data = said.encode() if isinstance(said, str) else said
    return subprocess.run(
        command(*arguments), input=data, capture_output=True, env=environment(env), check=False, timeout=120
    )


def obeyed(screen: str, *, colour: bool = False) -> list[str]:
    """Find what on a screen a terminal would obey and was not our own doing."""
    text = _OURS.sub("", screen)
    if colour:
        text = _COLOUR.sub("", text)
    return OBEYED.findall(re.sub(r"\r+\n|\r", "\n", text))


class Terminal:
    """
    A process on a terminal of its own.

    Attributes:
        screen: Everything it wrote so far, as text.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str | None] | None = None) -> None:
        ours, theirs = pty.openpty()
        self._master = ours
        self._read_to = 0
        self.written = b""
        changes = {"COLUMNS": "100", "LINES": "40", **(env or {})}
        self.process = subprocess.Popen(
            command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment(changes)
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._master)

    @property
    def screen(self) -> str:
        """Everything written so far."""
        return self.written.decode("utf-8", "surrogateescape")

    def until(self, text: str, timeout: float = 60) -> str:
        """Wait until *text* is written, after what was waited for before; give everything since then."""
        if not self._comes(text, timeout):
            raise AssertionError(f"{text!r} did not come; the screen is {self.screen!r}")
        end = self.screen.index(text, self._read_to) + len(text)
        found, self._read_to = self.screen[self._read_to : end], end
        return found

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        os.write(self._master, line.encode() + b"\n")

    def interrupt_until(self, text: str) -> None:
        """
        Press Ctrl-C until something is written.

        While a line is read it may take more than one: a signal that comes between the prompt and the wait for a
        key is only noticed with the next event.
        """
        for _ in range(20):
            self.interrupt()
            if self._comes(text, 0.5):
                break
        self.until(text)

    def end_of_input(self) -> None:
        """Press Ctrl-D."""
        os.write(self._master, b"\x04")

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout: float = 60) -> int:
        """Read the rest and give the exit code."""
        deadline = time.monotonic() + timeout
        while self._more(deadline - time.monotonic()):
            pass
        return self.process.wait(max(deadline - time.monotonic(), 0.1))

    def _comes(self, text: str, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while text not in self.screen[self._read_to :]:
            if not self._more(deadline - time.monotonic()):
                return False
        return True

    def _more(self, left: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(left, 0))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        self.written += data
        return bool(data)


def on_terminal(*arguments: str, env: Mapping[str, str | None] | None = None) -> tuple[int, str]:
    """Run a command that asks nothing on a terminal; give its exit code and all it wrote."""
    with Terminal(*arguments, env=env) as terminal:
        return terminal.end(), terminal.screen


def shown(arguments: Sequence[str]) -> str:
    """Run a command that must succeed and give its standard output."""
    done = invoke(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
