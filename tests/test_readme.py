"""The README: its code runs, in order, as a reader would type it."""

from __future__ import annotations

import gc
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from conversation_store.testing import MessagesAPI
from tests import pictures

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """Take the fenced blocks of one language out of the README."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_every_python_block_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of the README runs from top to bottom against the loopback API, and prints what it says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ant.png").write_bytes(pictures.png(8, 8))
    names: dict[str, Any] = {}
    with MessagesAPI() as api, warnings.catch_warnings():
        # A reader's script leaves its connections to the interpreter's end, or to whenever they are collected.
        warnings.simplefilter("ignore", ResourceWarning)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        for source in blocks("python"):
            exec(compile(source, str(README), "exec"), names)  # that is the test
        names["store"].close()
        names["later"]._history.database.close()
        shown = [turn.origin for turn in names["later"].turns[:2]]
        names["later"]._history.database.close()
        names.clear()
        gc.collect()
    printed = capsys.readouterr().out.splitlines()
    for line in re.findall(r"^# (error .*?) *…?$", README.read_text(encoding="utf-8"), re.MULTILINE):
        assert any(each.startswith(line) for each in printed), line
    assert "['sampling_supported'] True" in printed
    assert "[('messages.1.content', 1, 'set_aside')]" in printed
    assert "set turn 3 aside" in printed
    assert "True []" in printed
    assert "2 [True]" in printed
    for line in ("[True] 0", "4", "True 30", "True summary"):
        assert line in printed
    assert "2 2 True" in printed
    assert "Which ants can fly? []" in printed
    assert "garden:7 2 ['in the Camargue']" in printed
    assert "1 1" in printed
    assert "['Wetland ants']" in printed
    assert (
        "2 ['[0]: a system message is taken only where the caller says so: system=True', "
        "'[2].reasoning_content: it has no place in the Messages API']" in printed
    )
    assert "all that the exchange before had written was read" in printed
    assert "True" in printed
    assert any(line.startswith("changed system ") for line in printed)
    assert "C" in printed
    assert "The answer is (C" in printed
    assert "[]" in printed
    assert "[] [] 0" in printed
    assert "3 [] True" in printed
    assert "1 []" in printed
    assert any(re.fullmatch("2 of [0-9]+ entries shown, sound: True", line) for line in printed)
    assert any("signed by the key you gave" in line for line in printed)
    assert "False" in printed
    assert "Hello, I am scripted." in printed
    assert printed[-1] == "2"
    assert shown == ["human", "synthetic"]


def test_the_shell_blocks_are_the_two_commands_and_no_path() -> None:
    """The README names one command for the main job and one for the tests."""
    commands = blocks("sh")
    assert commands[0] == 'pip install -e ".[cli]" && conversation-store demo\n'
    assert commands[1] == 'pip install -e ".[test]" && python -m pytest -n 2\n'
    assert not any(os.sep + "home" in command for command in commands)
