"""Databases from the command line: named, checked, upgraded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from conversation_store import Store
from conversation_store.cli.databases import file_of, url_of
from conversation_store.storage.tables import REVISION
from tests.cli import terminals
from tests.databases import PostgreSQL


@pytest.mark.parametrize(
    ("given", "url", "path"),
    [
        ("bot.db", "sqlite:///bot.db", "bot.db"),
        ("/var/bot.db", "sqlite:////var/bot.db", "/var/bot.db"),
        ("sqlite:///bot.db?timeout=3", "sqlite:///bot.db?timeout=3", "bot.db"),
        ("sqlite+pysqlite:////var/bot.db", "sqlite+pysqlite:////var/bot.db", "/var/bot.db"),
        ("sqlite://", "sqlite://", None),
        ("sqlite:///:memory:", "sqlite:///:memory:", None),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d", None),
    ],
)
def test_a_database_is_a_url_or_a_path(given: str, url: str, path: str | None) -> None:
    """A path stands for a SQLite file; of a URL it is known whether it names one."""
    assert url_of(given) == url
    assert file_of(url) == (None if path is None else Path(path))


def test_a_bare_database_is_checked_and_upgraded(bare_database_url: str) -> None:
    """Without our tables check is a finding and changes nothing; after an upgrade it is none."""
    if bare_database_url.startswith("sqlite"):
        path = file_of(bare_database_url)
        assert path is not None
        path.touch()
    for _ in range(2):
        found = terminals.invoke("db", "check", bare_database_url)
        assert found.returncode == 1
        assert b"no conversation_store tables" in found.stdout
        assert b"conversation-store db upgrade" in found.stdout
    assert "without our tables" in terminals.shown(["db", "upgrade", bare_database_url])
    assert "already" in terminals.shown(["db", "upgrade", bare_database_url])
    assert REVISION in terminals.shown(["db", "check", bare_database_url])
    Store(bare_database_url).close()


def test_an_unready_database_names_the_command(postgresql_bare: str) -> None:
    """Any other command on it is one line that says what to run, exit code 4."""
    done = terminals.invoke("list", "--database", postgresql_bare)
    assert done.returncode == 4
    assert b"conversation-store db upgrade" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.fixture
def postgresql_bare(postgresql: PostgreSQL) -> Iterator[str]:
    """Give the URL of a PostgreSQL database without tables."""
    with postgresql.database(schema=False) as url:
        yield url


def test_a_store_is_encrypted_and_its_keys_are_new(database_url: str, tmp_path: Path) -> None:
    """What was in plain is encrypted; other commands want --keys then, or the environment's; verify is content."""
    keys = str(tmp_path / "ring")
    with Store(database_url) as store:
        store.open("a", model="m").user("Hello there")
    assert terminals.invoke("list", "--database", database_url, "--keys", keys).returncode == 2
    assert "1 conversations, 3 rows encrypted" in terminals.shown(["db", "encrypt", database_url, "--keys", keys])
    locked = terminals.invoke("show", "a", "--database", database_url)
    assert locked.returncode == 4
    assert b"--keys FOLDER" in locked.stderr
    assert terminals.invoke("verify", "--database", database_url).returncode == 1
    assert "1 conversations, 0 rows" in terminals.shown(["db", "rotate", database_url, "--keys", keys])
    assert "1 conversations, 3 rows" in terminals.shown(["db", "rotate", "--data", database_url, "--keys", keys])
    env = {"CONVERSATION_STORE_KEYS": keys}
    assert b"Hello there" in terminals.invoke("show", "a", "--database", database_url, env=env).stdout
    assert terminals.invoke("verify", "--database", database_url, "--keys", keys).returncode == 0


def test_a_newer_schema(tmp_path: Path) -> None:
    """A database of a newer release is not touched: check finds it, upgrade refuses it."""
    path = tmp_path / "a.db"
    Store(f"sqlite:///{path}").close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE conversation_store_version SET version_num = '9999'")
    connection.close()
    found = terminals.invoke("db", "check", str(path))
    assert found.returncode == 1
    assert b"newer release" in found.stdout
    assert terminals.invoke("db", "upgrade", str(path)).returncode == 4


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mariadb"])
def test_statements_for_an_administrator(dialect: str) -> None:
    """--sql prints every table, and opens nothing."""
    script = terminals.shown(["db", "upgrade", "--sql", dialect])
    assert "CREATE TABLE conversation_entry" in script
    assert f"'{REVISION}'" in script


def test_the_statements_make_a_store(tmp_path: Path) -> None:
    """What is printed for SQLite, run by hand, is a database that opens."""
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.executescript(terminals.shown(["db", "upgrade", "--sql", "sqlite"]))
    connection.close()
    assert terminals.invoke("db", "check", str(path)).returncode == 0
    assert terminals.invoke("list", "--database", str(path)).returncode == 0


def test_reading_makes_no_file(tmp_path: Path) -> None:
    """A mistyped path is not found, exit code 3, and nothing is made of it."""
    path = tmp_path / "none.db"
    for arguments in (["list"], ["show", "k"], ["verify"], ["replay", "k", "1"]):
        done = terminals.invoke(*arguments, "--database", str(path))
        assert done.returncode == 3
        assert done.stderr.count(b"\n") == 1
    assert terminals.invoke("db", "check", str(path)).returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_no_database(tmp_path: Path) -> None:
    """A file that is none, a folder that is not there, a server that is not there: exit code 4, one line."""
    (tmp_path / "text").write_text("This is no database. " * 100)
    for url in (str(tmp_path / "text"), "postgresql+psycopg://u:secret@127.0.0.1:1/x"):
        done = terminals.invoke("list", "--database", url)
        assert done.returncode == 4, done.stderr
        assert done.stderr.count(b"\n") == 1
        assert b"secret" not in done.stderr
    done = terminals.invoke("chat", "--offline", "--database", str(tmp_path / "no" / "a.db"))
    assert done.returncode == 4
    assert done.stderr.count(b"\n") == 1


def test_the_environment_names_the_database(tmp_path: Path) -> None:
    """CONVERSATION_STORE_DATABASE stands for --database, and --database goes before it."""
    for name in ("one", "two"):
        with Store(f"sqlite:///{tmp_path / name}") as store:
            store.open(f"in {name}")
    env = {"CONVERSATION_STORE_DATABASE": f"sqlite:///{tmp_path / 'one'}"}
    assert b"in one" in terminals.invoke("list", env=env).stdout
    assert b"in two" in terminals.invoke("list", "--database", str(tmp_path / "two"), env=env).stdout
