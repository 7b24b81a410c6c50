"""
The only way to the terminal: whatever is printed goes through ``terminal_safe``.

What a model, a user or a database row says may hold escape sequences that move the cursor, write the clipboard
or turn text around. Here they come out spelled, and can do nothing.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self, TextIO, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.text import Text

from conversation_store.streaming import whole_characters

PROGRAM: Final = "conversation-store"

Piece: TypeAlias = str | tuple[str, str]
"""Words, or words and their style."""

_BIDI: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SEPARATORS: Final = (0x2028, 0x2029)
_SURROGATES: Final = range(0xD800, 0xE000)
_PIECES: Final = re.compile(r"\n|\t| +|[^ \n\t]+")
_TAB: Final = 8
_SELDOM: Final = 0.2
_BAR: Final = 24

_SPELLED: Final[Mapping[int, str]] = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"},
    **{code: f"\\u{code:04x}" for code in (*_BIDI, *_SEPARATORS, *_SURROGATES)},
}
_SPELLED_IN_A_LINE: Final[Mapping[int, str]] = {**_SPELLED, ord("\n"): "\\n", ord("\t"): "\\t"}


def terminal_safe(text: str, *, lines: bool = True) -> str:
    r"""
    Spell everything that a terminal would obey: ESC becomes ``\x1b``.

    These are C0 but for newline and tab, DEL, C1, the bidirectional controls, the line and paragraph separators,
    and lone surrogates, which no terminal could be sent.

    Args:
        text: Words from anywhere.
        lines: Whether newlines and tabs may stay; for a single line they are spelled too.
    """
    return text.translate(_SPELLED if lines else _SPELLED_IN_A_LINE)


def one_line(text: str, longest: int | None = None) -> str:
    """Make words fit for one line of a list or an error, cut to *longest* characters where that is given."""
    safe = terminal_safe(text, lines=False)
    return safe if longest is None or len(safe) <= longest else safe[: longest - 1] + "…"


class _Console(Console):
    """Rich's, but a reader that went away is the caller's to hear of."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Screen:
    """
    Standard output, for people and for scripts.

    Styles show on a terminal alone, and not with NO_COLOR; elsewhere no line is broken or padded.

    Attributes:
        is_terminal: Whether a person is looking.
    """

    def __init__(self) -> None:
        self._file: TextIO = sys.stdout
        self.is_terminal = self._file.isatty()
        plain = not self.is_terminal or bool(os.environ.get("NO_COLOR"))
        options: dict[str, Any] = {"color_system": None} if plain else {}
        self._console = _Console(
            file=self._file,
            force_terminal=self.is_terminal,
            markup=False,
            highlight=False,
            emoji=False,
            **options,
        )

    @property
    def width(self) -> int:
        """How many columns a line has."""
        return self._console.width

    def line(self, *pieces: Piece) -> None:
        """Print one line, wrapped between words on a terminal alone; a newline inside a piece is spelled."""
        self._console.print(_text(pieces, lines=False), soft_wrap=not self.is_terminal)

    def paragraph(self, *pieces: Piece, indent: int = 0) -> None:
        """Print words of any length, every line of them indented, wrapped on a terminal."""
        text = _text(pieces, lines=True)
        if self.is_terminal:
            self._console.print(Padding(text, (0, 0, 0, indent), expand=False))
            return
        margin = " " * indent
        self._file.write("".join(f"{margin}{line}".rstrip(" ") + "\n" for line in text.plain.split("\n")))

    def item(self, label: str, *pieces: Piece, indent: int) -> None:
        """Print a label and words beside it, from column *indent* on; on a terminal the lines after begin there too."""
        words = _text(pieces, lines=False)
        lines = words.wrap(self._console, max(self.width - indent, 1)) if self.is_terminal else [words]
        for n, line in enumerate(lines):
            beside = Text("" if n else one_line(label).ljust(indent), style="dim")
            beside.pad_right(indent - len(beside))
            self._console.print(Text.assemble(beside, line), soft_wrap=not self.is_terminal)

    def data(self, json: str) -> None:
        """Print JSON in one line that is whole wherever it goes; what a terminal would obey is spelled."""
        self._file.write(terminal_safe(json, lines=False) + "\n")

    def raw(self, data: bytes) -> None:
        """Write exact bytes; never to a terminal."""
        self._file.flush()
        self._file.buffer.write(data)
        self._file.buffer.flush()

    def flush(self) -> None:
        """Make sure that what was printed is out."""
        self._file.flush()

    def flow(self, *, indent: int = 0) -> Flow:
        """Give a place for words that arrive piece by piece."""
        if not self.is_terminal:
            return Flow(self._file, indent=indent)
        return Flow(self._file, indent=indent, width=lambda: self._console.width, dumb=self._console.is_dumb_terminal)

    def waiting(self) -> Waiting:
        """Give the line that shows a person, and nobody else, what is under way."""
        return Waiting(self._console.status("", spinner="line") if self.is_terminal else None)


class Flow:
    """
    Words that arrive in pieces: each is out at once, and on a terminal lines break between words.

    A piece may end anywhere, in the middle of a word, a character or an escape sequence: what is shown is what the
    whole text would be, made safe. ``end`` ends the last line.
    """

    def __init__(
        self, file: TextIO, *, indent: int = 0, width: Callable[[], int] | None = None, dumb: bool = False
    ) -> None:
        self._file = file
        self._margin = " " * indent
        self._width = width
        self._dumb = dumb
        self._half = ""  # of a character whose other half is still to come
        self._column = 0
        self._word = ""  # what the line ends with that is not to be parted

    def write(self, text: str) -> None:
        """Show the next piece."""
        whole, self._half = whole_characters(self._half + text)
        self._show(whole)

    def end(self) -> None:
        """End the last line."""
        self._show(self._half + "\n")
        self._half = ""

    def _show(self, text: str) -> None:
        safe = terminal_safe(text)
        pieces = _PIECES.findall(safe)
        self._file.write("".join(map(self._placed, pieces)) if self._width or self._margin else safe)
        self._file.flush()

    def _placed(self, piece: str) -> str:
        """Write a line's end, a space or (part of) a word so that it stands in its place."""
        if piece == "\n":
            self._column, self._word = 0, ""
            return piece
        begun = "" if self._column else self._margin
        self._column = self._column or len(self._margin)
        if self._width is None:
            return begun + piece
        limit = max(self._width() - 1, len(self._margin) + 1)  # past the last column, terminals differ
        return begun + (self._spaced(piece, limit) if piece[0] in " \t" else self._worded(piece, limit))

    def _spaced(self, piece: str, limit: int) -> str:
        self._word = ""
        size = _TAB - (self._column - len(self._margin)) % _TAB if piece == "\t" else len(piece)
        if self._column + size >= limit:
            self._column = limit  # the end of the line is space enough
            return ""
        self._column += size
        return " " * size

    def _worded(self, piece: str, limit: int) -> str:
        size = cell_len(piece)
        if self._column + size <= limit:
            self._column, self._word = self._column + size, self._word + piece
            return piece
        word = self._word + piece
        if cell_len(word) <= limit - len(self._margin) and (taken := self._taken_back()) is not None:
            self._column, self._word = len(self._margin) + cell_len(word), word
            return f"{taken}\n{self._margin}{word}"
        parted = ""
        for character in piece:
            size = cell_len(character)
            if self._column + size > limit:
                parted += f"\n{self._margin}"
                self._column = len(self._margin)
            parted, self._column = parted + character, self._column + size
        self._word = word
        return parted

    def _taken_back(self) -> str | None:
        """Take back what stands of a word that does not fit; None where the terminal's cursor cannot be trusted."""
        if not self._word:
            return ""
        if self._dumb or len(self._word) >= self._column or any(cell_len(each) != 1 for each in self._word):
            return None
        return f"\x1b[{len(self._word)}D\x1b[K"


class Waiting:
    """What is under way, shown below everything else and taken away again; nothing where nobody looks."""

    def __init__(self, status: Status | None) -> None:
        self._status = status

    def show(self, what: str) -> None:
        """Say what is under way."""
        if self._status is not None:
            self._status.update(Text(one_line(what), style="dim", no_wrap=True, overflow="ellipsis"))
            self._status.start()

    def hide(self) -> None:
        """Take it away."""
        if self._status is not None:
            self._status.stop()


class Progress:
    """How far long work is: one line on standard error, where that is a terminal, and gone at the end."""

    def __init__(self) -> None:
        self._file = sys.stderr if sys.stderr.isatty() else None
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._shown:
            self._write("")

    def show(self, words: str, share: float | None = None) -> None:
        """Say how far it is, several times a second at most; with the *share* that is done (0 to 1) as a bar."""
        now = time.monotonic()
        if self._file is not None and now - self._shown >= _SELDOM:
            self._shown = now
            self._write(one_line(words if share is None else f"{bar(share)}  {words}", 70))

    def _write(self, words: str) -> None:
        if self._file is not None:
            self._file.write(f"\r{words}\x1b[K")
            self._file.flush()


def bar(share: float) -> str:
    """Draw a share, from 0 to 1, as a bar and in per cent."""
    full = max(0, min(_BAR, int(share * _BAR)))
    return f"{'━' * full}{'─' * (_BAR - full)} {min(max(share, 0.0), 1.0):4.0%}"


def _text(pieces: tuple[Piece, ...], *, lines: bool) -> Text:
    text = Text()
    for piece in pieces:
        words, style = (piece, "") if isinstance(piece, str) else piece
        text.append(terminal_safe(words, lines=lines), style=style)
    return text


def complain(message: str) -> None:
    """Print one line to standard error, in the program's name."""
    # Through the stream, not a console of its own: while something is waited for, rich puts it above the spinner.
    sys.stderr.write(f"{PROGRAM}: {one_line(' '.join(message.split()))}\n")
    sys.stderr.flush()


class _Notices(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


@contextmanager
def notices() -> Iterator[None]:
    """Print the library's warnings (an attempt that is made again) as lines like our own."""
    logger = logging.getLogger("conversation_store")
    handler = _Notices(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def silence(stream: TextIO) -> None:
    """Send what is still in a stream's buffer nowhere: its reader is gone."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return  # no file behind it, or closed already: nothing will be written
