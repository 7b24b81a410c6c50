"""What comes from outside can do nothing to a terminal."""

from __future__ import annotations

import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from conversation_store.cli.terminal import Flow, one_line, terminal_safe
from tests.cli.terminals import OBEYED


@given(st.text(st.characters()))
def test_no_text_is_obeyed(text: str) -> None:
    """Whatever the text, nothing is left of it that a terminal would obey, and what is left can be sent."""
    safe = terminal_safe(text)
    assert OBEYED.findall(safe) == []
    assert OBEYED.findall(one_line(text)) == []
    assert "\n" not in one_line(text)
    safe.encode()


@given(st.text())
def test_what_is_safe_stays(text: str) -> None:
    """Making safe what is safe changes nothing."""
    safe = terminal_safe(text)
    assert terminal_safe(safe) == safe


def test_every_code_point_is_judged() -> None:
    """Of all characters just the controls, the surrogates and the separators are spelled, the last two as Unicode."""
    spelled = {code for code in range(0x110000) if terminal_safe(chr(code)) != chr(code)}
    controls = {code for code in range(0x110000) if unicodedata.category(chr(code)) in {"Cc", "Cs", "Zl", "Zp"}}
    directions = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    bidi = {code for code in range(0x110000) if unicodedata.bidirectional(chr(code)) in directions}
    assert spelled == (controls - {10, 9}) | bidi | {0x61C, 0x200E, 0x200F}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("a\r\nb\tc", "a\\x0d\nb\tc"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
        ("Ameise 🐜 蟻", "Ameise 🐜 蟻"),
    ],
)
def test_controls_are_spelled(text: str, expected: str) -> None:
    """An escape is shown as its name in source code; words of any language stay."""
    assert terminal_safe(text) == expected


def test_one_line_is_one_line() -> None:
    """In a list a newline is spelled too, and what is too long is cut."""
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert one_line("abcdef", 4) == "abc…"


def flowed(pieces: list[str], width: int | None, indent: int = 0) -> str:
    """Give what a flow writes of pieces."""
    written = io.StringIO()
    flow = Flow(written, indent=indent, width=None if width is None else lambda: width)
    for piece in pieces:
        flow.write(piece)
    flow.end()
    return written.getvalue()


def settled(written: str) -> str:
    """Do what a terminal does where a word is taken back."""
    while found := re.search(r"\x1b\[(\d+)D\x1b\[K", written):
        written = written[: found.start() - int(found[1])] + written[found.end() :]
    return written


@given(st.lists(st.text(st.characters())))
def test_pieces_are_the_whole_made_safe(pieces: list[str]) -> None:
    """However a text is parted, in a pipe it comes out as it would in one piece, halves of characters joined."""
    whole = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert flowed(pieces, None) == terminal_safe(whole) + "\n"


@given(st.text(st.characters() | st.sampled_from(" \n\tab蟻")), st.integers(1, 30), st.data())
def test_a_flow_keeps_within_its_lines(text: str, width: int, data: st.DataObject) -> None:
    """On a terminal no line is too long, nothing but its own is obeyed, and no word is lost, wherever it is parted."""
    cut = data.draw(st.integers(0, len(text)))
    shown = settled(flowed([text[:cut], text[cut:]], width, indent=4))
    assert OBEYED.findall(shown) == []
    assert all(cell_len(line) <= max(width - 1, 6) for line in shown.split("\n"))
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert re.sub(r"[ \n]", "", shown) == re.sub(r"[ \n\t]", "", terminal_safe(whole))


def test_a_word_in_pieces_is_not_parted() -> None:
    """What does not fit goes to the next line whole, although its beginning was shown already."""
    assert settled(flowed(["one two thr", "ee four"], 12, indent=2)) == "  one two \n  three \n  four\n"
    assert flowed(["one two thr", "ee"], 12).count("\x1b[3D\x1b[K") == 1
    assert flowed(["蟻蟻蟻蟻", "蟻蟻"], 11) == "蟻蟻蟻蟻蟻\n蟻\n"
