"""The commands ``verify`` and ``timeline``: what is found is told with its place, and what was known can be kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from conversation_store import Store
from conversation_store.cli.terminal import bar
from conversation_store.testing import MessagesAPI
from tests.cli import terminals
from tests.cli.test_transcripts import opened, talking


def test_how_far_it_is() -> None:
    """The bar is full at the end and never beyond it, and an empty store is no division by zero."""
    assert bar(0) == "─" * 24 + "   0%"
    assert bar(0.5) == "━" * 12 + "─" * 12 + "  50%"
    assert bar(1) == bar(3) == "━" * 24 + " 100%"


def test_what_was_known_is_kept_and_held_against_the_store(tmp_path: Path) -> None:
    """A checkpoint shows a conversation that is gone, which no chain shows; what is new alone is looked at."""
    path, known = tmp_path / "bot.db", tmp_path / "known.json"
    with talking(f"sqlite:///{path}") as (store, _):
        opened(store, "a").user("Hello")
        opened(store, "b").user("Hello")
    arguments = ["verify", "--database", str(path)]
    assert terminals.shown([*arguments, "--checkpoint", str(known)]) == "2 conversations, 6 entries: no fault\n"
    with Store(f"sqlite:///{path}") as store:
        store.get("a").user("Again")
    assert terminals.shown([*arguments, "--since", str(known)]) == "2 conversations, 1 entries: no fault\n"
    assert terminals.shown([*arguments, "--structure"]) == "2 conversations, 7 entries: no fault\n"
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("conversation_key", "conversation_entry", "conversation"):
            named = "id" if table == "conversation" else "conversation"
            connection.execute(f"DELETE FROM {table} WHERE {named} = (SELECT max(id) FROM conversation)")
    assert terminals.invoke(*arguments).returncode == 0
    done = terminals.invoke(*arguments, "--since", str(known), "--checkpoint", str(known))
    assert done.returncode == 1
    assert b"gone" in done.stdout
    assert terminals.invoke(*arguments, "--since", str(known)).returncode == 1, "what is gone is not forgotten"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"conversation_store":"checkpoint","format":2,"heads":{},"scope":""}'])
def test_what_is_no_checkpoint_is_said(tmp_path: Path, data: bytes) -> None:
    """A file that is something else ends the command before anything is read."""
    (tmp_path / "known.json").write_bytes(data)
    Store(f"sqlite:///{tmp_path / 'bot.db'}").close()
    arguments = ["verify", "--database", str(tmp_path / "bot.db")]
    assert terminals.invoke(*arguments, "--since", str(tmp_path / "known.json")).returncode == 2
    assert terminals.invoke(*arguments, "--since", str(tmp_path / "none.json")).returncode == 2


def test_the_whole_record_is_told(tmp_path: Path) -> None:
    """A line an entry, what was set aside as well; what people wrote stays in its line."""
    path = tmp_path / "bot.db"
    with MessagesAPI(), talking(f"sqlite:///{path}") as (store, _):
        chat = opened(store)
        chat.user("One\nline \x1b[2J")
        chat.rewind(None)
        chat.send("Hello")
        length = chat.version
    lines = terminals.shown(["timeline", "k", "--database", str(path)]).splitlines()
    assert len(lines) == length
    assert "\x1b" not in "".join(lines)
    assert [line.split()[0] for line in lines] == [str(n) for n in range(length)]
    assert terminals.shown(["timeline", "k", "--from", "3", "--database", str(path)]).splitlines() == lines[3:]
