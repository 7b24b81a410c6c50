"""What comes from outside can do nothing to a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.cli.terminal import one_line, terminal_safe
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
