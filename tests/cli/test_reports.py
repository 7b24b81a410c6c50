"""The command ``audit`` and the verdict above a page: all that a record holds, for a person, and its faults."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from conversation_store import Client, Conversation, Seals, Store
from conversation_store.errors import ContentError
from conversation_store.testing import MessagesAPI
from tests.cli import terminals
from tests.sealed import KEY, VERIFIER

SETTINGS: Final[dict[str, Any]] = {"model": "claude-haiku-4-5", "max_tokens": 64}


def lived(path: Path) -> None:
    """Make a store whose one conversation has seen nearly everything."""
    with (
        MessagesAPI() as api,
        Client(api.key, base_url=api.url) as client,
        Store(f"sqlite:///{path}", client=client, seal=Seals(key=KEY, memory=None)) as store,
    ):
        chat = store.open("garden", **SETTINGS)
        chat.user("My PIN is 4711")
        chat.assistant("Hello!", reason="canned greeting")
        api.answer("Ants walk along the wall.")
        chat.send("Describe ants")
        chat.send("Sure?", prefill="As sure as")
        chat.edit(chat.user(f"Nope {terminals.HOSTILE}"), "Yes")
        chat.erase(chat.turns[0], by="support", reason="the user asked")
        chat.hold(by="legal", reason="case 12")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give such a store."""
    lived(tmp_path / "bot.db")
    return tmp_path / "bot.db"


def change(path: Path, statement: str) -> None:
    """Change a database as a hostile hand would."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def audited(path: Path, *options: str, code: int) -> str:
    """Run the command."""
    done = terminals.invoke("audit", "garden", "--database", str(path), *options)
    assert done.returncode == code, done.stderr
    return done.stdout.decode()


def test_all_of_it_is_told(path: Path) -> None:
    """Who said what, what is not sent any more, requests and costs, what was erased, by whom and why; and the sums."""
    told = audited(path, "--key", VERIFIER, code=0)
    assert not terminals.OBEYED.search(told)
    lines = told.splitlines()
    numbers = [int(line.split("  ")[0]) for line in lines if re.match(r"[0-9]+  ", line)]
    assert numbers == list(range(len(numbers)))
    assert "4711" not in told
    for words in (
        "2  erased",
        "assistant, synthetic: canned greeting",
        "⟦As sure as⟧",
        "in the record, not sent any more:",
        "end_turn",
        " USD",
        "; by support: the user asked",
        "a legal hold: nothing may be erased; by legal: case 12",
        "1 put in its place by the program",
        "2 answered",
        "verdict             no fault",
        "its seals are signed, and reproduced",
    ):
        assert words in told, words
    assert "the seals were not looked at" in audited(path, code=0)


def test_on_a_terminal_it_fits(path: Path) -> None:
    """No line is wider than the terminal, and nothing that was said moves its cursor."""
    arguments = ["audit", "garden", "--database", str(path)]
    code, shown = terminals.on_terminal(*arguments, env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert code == 0
    assert "verdict" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert not terminals.OBEYED.search(shown.replace("\r\n", "\n"))


@pytest.mark.parametrize(
    ("statement", "at", "words"),
    [
        ("UPDATE conversation_entry SET body = replace(body, 'Hello!', 'Hullo!') WHERE position = 3", 3, "column"),
        ("UPDATE conversation_entry SET header = x'7b' WHERE position = 4", 4, "header"),
        ("UPDATE conversation_entry SET salt = zeroblob(32) WHERE position = 7", 7, "body"),
        ("UPDATE conversation SET length = length - 1", -1, "length"),
    ],
)
def test_what_was_changed_stands_at_its_place(path: Path, statement: str, at: int, words: str) -> None:
    """The fault is told below the entry, what comes after is told all the same, and the verdict is not hidden."""
    change(path, statement)
    lines = audited(path, code=1).splitlines()
    where = "the conversation's row" if at < 0 else f"entry {at}"
    (fault,) = (n for n, line in enumerate(lines) if f"{where}: {words}: " in line)
    if at >= 0:
        above = [int(line.split("  ")[0]) for line in lines[:fault] if re.match(r"[0-9]+  ", line)]
        assert above[-1] == at
        assert any(line.startswith(f"{at + 1}  ") for line in lines[fault:])
    assert any(re.match(r"verdict {13}[0-9]+ faults?: the record is not what was written", line) for line in lines)


def test_seals_are_held_against_it(path: Path) -> None:
    """Who takes the last entry away, so that chain and row agree, is found by the key alone."""
    assert "verdict             no fault" in audited(path, "--key", VERIFIER, code=0)
    change(path, "DELETE FROM conversation_entry WHERE position = (SELECT max(position) FROM conversation_entry)")
    newest = "SELECT {} FROM conversation_entry ORDER BY position DESC LIMIT 1"
    told = {"length": "position + 1", "head": "digest", "updated": "at"}
    changes = ", ".join(f"{name} = ({newest.format(value)})" for name, value in told.items())
    change(path, f"UPDATE conversation SET {changes}")
    assert "verdict             no fault" in audited(path, code=0)
    assert "the record is not what was written" in audited(path, "--key", VERIFIER, code=1)
    arguments = ["verify", "garden", "--database", str(path)]
    assert terminals.invoke(*arguments).returncode == 0
    assert terminals.invoke(*arguments, "--key", VERIFIER).returncode == 1
    with Store(f"sqlite:///{path}") as store:
        chat = store.get("garden")
        assert chat.verify() == []
        assert [fault.conversation for fault in chat.verify(key=VERIFIER)] == [chat.id]


def test_what_cannot_be_asked_is_said(path: Path, tmp_path: Path) -> None:
    """Nobody's key, no database, and options that do not go together: a line each, and the exit code of its kind."""
    for arguments, code in (
        (["audit", "nobody", "--database", str(path)], 3),
        (["audit", "garden", "--database", str(tmp_path / "none.db")], 3),
        (["audit", "garden", "--database", str(path), "--key", "x"], 2),
        (["export", "garden", "--verdict", "--database", str(path)], 2),
    ):
        done = terminals.invoke(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert len(done.stderr.splitlines()) == 1


def page(chat: Conversation) -> str:
    """Write a transcript with its verdict."""
    return b"".join(chat.export("html", verdict=True)).decode()


def test_a_page_says_what_was_found(path: Path) -> None:
    """On top stands that nothing was, or a list with a link to each turn, below which it stands again."""
    with Store(f"sqlite:///{path}") as store:
        sound = page(store.get("garden"))
        assert '<section class="verdict">' in sound
        assert "no fault: the chain" in sound
        assert "fault-" not in sound.partition("</style>")[2]
        assert '<section class="verdict' not in b"".join(store.get("garden").export("html")).decode()
        with pytest.raises(ContentError):
            store.get("garden").export("markdown", verdict=True)
    change(path, "UPDATE conversation_entry SET salt = zeroblob(32) WHERE position = 7")
    with Store(f"sqlite:///{path}") as store:
        chat = store.get("garden")
        broken = page(chat)
        anchor = f"fault-{chat.id.hex}-7"
        assert f'<a href="#{anchor}">entry 7</a>: body: expected' in broken
        assert broken.count(f'id="{anchor}"') == 1
        assert chat.export("html", verdict=True).faults == tuple(chat.verify())
    written = path.parent / "page.html"
    arguments = ["export", "garden", "--format", "html", "--verdict", "--output", str(written), "--database", str(path)]
    assert terminals.invoke(*arguments).returncode == 1
    assert anchor in written.read_text()
