"""
The only way to the terminal: whatever is printed goes through ``terminal_safe``.

What a model, a user or a database row says may hold escape sequences that move the cursor, write the clipboard
or turn text around. Here they come out spelled, and can do nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TextIO, TypeAlias

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

PROGRAM: Final = "conversation-store"

Piece: TypeAlias = str | tuple[str, str]
"""Words, or words and their style."""

_BIDI: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SEPARATORS: Final = (0x2028, 0x2029)
_SURROGATES: Final = range(0xD800, 0xE000)

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

    def raw(self, data: bytes) -> None:
        """Write exact bytes; never to a terminal."""
        self._file.flush()
        self._file.buffer.write(data)
        self._file.buffer.flush()

    def flush(self) -> None:
        """Make sure that what was printed is out."""
        self._file.flush()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show a person that something is under way."""
        if not self.is_terminal:
            yield
            return
        with self._console.status(Text(terminal_safe(what, lines=False), style="dim"), spinner="line"):
            yield


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
