"""Searching from the command line: found, marked, in pages, and harmless; lists that are narrowed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from conversation_store import Store
from tests.cli import terminals


@pytest.fixture
def database(database_url: str) -> str:
    """Give a database with three conversations."""
    with Store(database_url) as store:
        for n, said in enumerate(("The refund of March.", "No ant, no refund.", "日本語 and -dash")):
            chat = store.open(f"bot:{n}", model="claude-sonnet-5-5", max_tokens=64)
            chat.user(said)
            chat.label(title=f"Title {n}", metadata={"n": n, "name": f"x{n}"})
    return database_url


def test_hits_say_where_and_what(database: str) -> None:
    """A hit names its conversation, entry, maker and time, and quotes; a full page says how to go on."""
    lines = terminals.shown(["search", "REFUND", "--database", database]).splitlines()
    assert [line for line in lines if line.startswith("    ")] == ["    No ant, no refund.", "    The refund of March."]
    assert lines[0].startswith("bot:1  entry 2  user, human  20")
    first = terminals.invoke("search", "refund", "--limit", "1", "--database", database)
    cursor = first.stderr.decode().split()[-1]
    rest = terminals.shown(["search", "refund", "--after", cursor, "--database", database])
    assert "The refund of March." in rest
    assert "No ant" not in rest
    assert "日本語" in terminals.shown(["search", "本語", "--database", database])
    assert "Title 2" in terminals.shown(["search", "title 2", "--best", "--database", database])


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["refund"], 2),
        (["refund", "--role", "user"], 2),
        (["refund", "--origin", "model"], 0),
        (["refund", "--model", "x"], 0),
        (["refund", "--key-prefix", "bot:1"], 1),
        (["refund", "--since", "2020-01-01"], 2),
        (["refund", "--until", "2020-01-01"], 0),
        (["refund -ant", "--query"], 1),
        (["--query", "--", "-refund"], 0),
        (["--", "-dash"], 1),
        (["refund", "--scope", "other"], 0),
        (['"', "--query"], 0),
    ],
    ids=str,
)
def test_a_search_is_narrowed(database: str, options: list[str], count: int) -> None:
    """Each filter does what it says; nothing found is said on standard error alone."""
    done = terminals.invoke("search", "--database", database, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().count("    ") == count
    assert (b"nothing was found" in done.stderr) == (count == 0)


def test_a_terminal_is_safe_and_sees_the_marks(tmp_path: Path) -> None:
    """What was said cannot do anything to a terminal; the words that were found stand out."""
    path = tmp_path / "a.db"
    with Store(f"sqlite:///{path}") as store:
        store.open("k\x1b[31m", model="m", max_tokens=1).user(f"ant {terminals.HOSTILE} ant")
    code, screen = terminals.on_terminal("search", "ant", "--database", str(path))
    assert code == 0
    assert terminals.obeyed(screen, colour=True) == []
    assert "\x1b[1;33mant\x1b[0m" in screen
    assert terminals.invoke("search", "\udcff", "--database", str(path)).returncode == 0
    assert terminals.invoke("search", "a", "--after", "x", "--database", str(path)).returncode == 2
    assert terminals.invoke("search", "a", "--database", str(tmp_path / "none")).returncode == 3


def test_the_index_is_made_anew(tmp_path: Path) -> None:
    """An index that is gone is an error of one line, and made again from the log, with progress for a person."""
    path = tmp_path / "a.db"
    with Store(f"sqlite:///{path}") as store:
        store.open("k", model="m", max_tokens=1).user("ant")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE conversation_search_fts")
    connection.close()
    done = terminals.invoke("search", "ant", "--database", str(path))
    assert (done.returncode, done.stderr.count(b"\n")) == (4, 1)
    assert b"db reindex" in done.stderr
    assert "knows 3 entries" in terminals.shown(["db", "reindex", str(path)])
    assert "    ant" in terminals.shown(["search", "ant", "--database", str(path)])
    code, screen = terminals.on_terminal("db", "reindex", str(path))
    assert code == 0
    assert "3 entries" in screen
    assert terminals.invoke("db", "reindex", str(tmp_path / "none")).returncode == 3


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--key-prefix", "bot:"], ["bot:2", "bot:1", "bot:0"]),
        (["--key-prefix", "bot:1"], ["bot:1"]),
        (["--title", "TITLE 0"], ["bot:0"]),
        (["--metadata", "n=2"], ["bot:2"]),
        (["--metadata", "name=x1", "--metadata", "n=1"], ["bot:1"]),
        (["--metadata", "n=x1"], []),
        (["--since", "2020-01-01", "--limit", "2"], ["bot:2", "bot:1"]),
        (["--since", "2999-01-01"], []),
        (["--pending"], []),
    ],
    ids=str,
)
def test_a_list_is_narrowed(database: str, options: list[str], keys: list[str]) -> None:
    """Each filter of a list does what it says."""
    done = terminals.invoke("list", "--database", database, *options)
    assert done.returncode == 0
    assert [line.split()[4] for line in done.stdout.decode().splitlines()] == keys
    assert (b"no such conversation" in done.stderr) == (not keys)
    assert terminals.invoke("list", "--database", database, "--metadata", "n").returncode == 2
