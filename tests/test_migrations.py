"""The schema and its migrations: made in one of two ways and the same, beside a host's, checked before use."""

from __future__ import annotations

import importlib.util
import re
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine, inspect, make_url, text

from conversation_store import Store, include_name
from conversation_store.errors import DatabaseError, SchemaMismatchError
from conversation_store.storage import migrate
from conversation_store.storage.tables import FTS_TABLES, OURS, REVISION, VERSION_TABLE, metadata

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}
ROOT: Final = Path(__file__).parents[1]


def plain(index: Any) -> dict[str, Any]:
    """Write an index's conditions as text, which can be compared."""
    return {**index, "dialect_options": {name: str(each) for name, each in index.get("dialect_options", {}).items()}}


def schema(engine: Engine) -> dict[str, Any]:
    """Describe every table of ours as the database sees it."""
    seen = inspect(engine)
    return {
        table: {
            "columns": [
                (each["name"], str(each["type"]), each["nullable"], each["default"]) for each in seen.get_columns(table)
            ],
            "key": seen.get_pk_constraint(table),
            "foreign": sorted(seen.get_foreign_keys(table), key=str),
            "indexes": sorted(map(plain, seen.get_indexes(table)), key=str),
            "unique": sorted(seen.get_unique_constraints(table), key=str),
        }
        for table in sorted(OURS & set(seen.get_table_names()))
    }


def differences(engine: Engine) -> list[Any]:
    """List what Alembic would change to make the database what the code says."""
    with engine.connect() as connection:
        words = {"ix_conversation_search_words"} if engine.dialect.name == "sqlite" else set()  # it has FTS5 instead
        options: dict[str, Any] = {
            "include_name": lambda name, kind, _: kind != "table" or name in OURS - {VERSION_TABLE},
            "include_object": lambda _item, name, *_: name not in words,
        }
        context = MigrationContext.configure(connection, opts={"compare_type": True, **options})
        return list(compare_metadata(context, metadata))


def every_table(engine: Engine) -> frozenset[str]:
    """Name all tables of ours on a database: SQLite has some for its words besides."""
    return OURS | FTS_TABLES if engine.dialect.name == "sqlite" else OURS


def revision(engine: Engine) -> str | None:
    """Read our revision."""
    with engine.connect() as connection:
        return migrate.current(connection)


# --- making the schema -------------------------------------------------------------------------------------------


def test_a_fresh_sqlite_file_gets_its_tables_on_opening(tmp_path: Path) -> None:
    """An empty file, or none, becomes a store of this revision, without Alembic being imported."""
    for name in ("none.db", "empty.db"):
        path = tmp_path / name
        if name == "empty.db":
            path.touch()
        source = (
            "import sys, conversation_store\n"
            f"conversation_store.Store({f'sqlite:///{path}'!r}).open('a', model='m')\n"
            "print('alembic' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
        engine = create_engine(f"sqlite:///{path}")
        assert revision(engine) == REVISION
        assert set(inspect(engine).get_table_names()) == every_table(engine)
        engine.dispose()


def test_migrating_and_creating_make_the_same_schema(bare_database_url: str, tmp_path: Path) -> None:
    """Tables made by the migrations are those the code describes, to the index and the constraint's name."""
    Store(bare_database_url, upgrade=True).close()
    migrated = create_engine(bare_database_url)
    by_migration = schema(migrated)
    assert set(by_migration) == OURS
    assert differences(migrated) == []
    assert revision(migrated) == REVISION
    with migrated.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    by_code = schema(migrated)
    by_migration.pop(VERSION_TABLE)
    by_code.pop(VERSION_TABLE)
    assert by_migration == by_code
    migrated.dispose()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_created_file_is_the_same_as_a_migrated_one(database_url: str, tmp_path: Path) -> None:
    """Statement by statement, a file made on opening is what the migrations make, comments aside."""
    Store(database_url).close()
    Store(f"sqlite:///{tmp_path / 'other.db'}", upgrade=True).close()
    engine = create_engine(database_url)
    assert differences(engine) == []
    engine.dispose()
    found = []
    for name in ("bot.db", "other.db"):
        with closing(sqlite3.connect(tmp_path / name)) as connection, connection:
            rows = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
            ).fetchall()
        connection.close()
        found.append({key: " ".join(sorted(re.findall(r"\w+", sql))) for key, sql in rows if key != VERSION_TABLE})
    assert found[0] == found[1]
    assert "conversation_search_fts" in found[0]


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    """Upgrading what is up to date is a check, and what is kept stays."""
    with Store(database_url, upgrade=True) as store:
        store.open("a", **SETTINGS).user("Hello")
    with Store(database_url, upgrade=True) as store:
        assert [turn.text for turn in store.get("a").turns] == ["Hello"]
        assert store.verify() == []


def test_there_is_no_way_back(database_url: str) -> None:
    """A migration never throws away what is recorded: downgrading is refused."""
    from alembic import command  # noqa: PLC0415 - beside its use

    Store(database_url, upgrade=True).close()
    engine = create_engine(database_url)
    with pytest.raises(RuntimeError, match="no way back"), engine.begin() as connection:
        command.downgrade(migrate.configuration(connection), "base")
    assert revision(engine) == REVISION
    engine.dispose()


# --- checking ----------------------------------------------------------------------------------------------------


def test_another_database_is_only_checked(postgresql: Any) -> None:
    """An empty database that is no SQLite file is left empty; the error names the command, without the password."""
    with postgresql.database(schema=False) as given:
        secret = make_url(given).set(password="s3cret") if not make_url(given).password else make_url(given)
        url = secret.render_as_string(hide_password=False)
        with pytest.raises(SchemaMismatchError) as caught:
            Store(url)
        shown = secret.render_as_string(hide_password=True)
        assert caught.value.command == f"run: conversation-store db upgrade {shown}"
        assert str(caught.value).endswith(caught.value.command)
        assert (caught.value.current, caught.value.head) == (None, REVISION)
        assert str(secret.password) not in str(caught.value)
        engine = create_engine(given)
        assert inspect(engine).get_table_names() == []
        engine.dispose()


WRONG: Final = (
    ("9999", "pip install"),
    ("0000", "conversation-store db upgrade"),
    ("", "conversation-store db upgrade"),
)


@pytest.mark.parametrize(("found", "words"), WRONG, ids=["newer", "older", "no revision"])
def test_another_revision_is_not_touched(database_url: str, found: str, words: str) -> None:
    """A store of another revision is refused with what to do; a newer one is not even upgraded."""
    with Store(database_url) as store:
        store.open("a", **SETTINGS)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text(f"DELETE FROM {VERSION_TABLE}"))
        if found:
            connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES ('{found}')"))
    before = schema(engine)
    with pytest.raises(SchemaMismatchError, match=words) as caught:
        Store(database_url)
    assert caught.value.current == (found or None)
    if found == "9999":
        with pytest.raises(SchemaMismatchError, match=words):
            Store(database_url, upgrade=True)
    assert schema(engine) == before
    assert revision(engine) == (found or None)
    engine.dispose()


def test_an_upgrade_that_fails_leaves_nothing(bare_database_url: str) -> None:
    """A migration that breaks off is undone whole, as a typed error."""
    engine = create_engine(bare_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE conversation_blob_use (a INTEGER)"))
    with pytest.raises(DatabaseError):
        Store(bare_database_url, upgrade=True)
    assert inspect(engine).get_table_names() == ["conversation_blob_use"]
    engine.dispose()


# --- beside a host's ---------------------------------------------------------------------------------------------


def test_a_hosts_history_and_tables_are_not_touched(bare_database_url: str) -> None:
    """Its alembic_version, its tables and its rows are afterwards what they were before."""
    engine = create_engine(bare_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('host42')"))
        connection.execute(text("CREATE TABLE customer (id INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO customer VALUES (7)"))
    before = set(inspect(engine).get_table_names())
    with Store(bare_database_url, upgrade=True) as store:
        store.open("a", **SETTINGS).user("Hello")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["host42"]
        assert connection.execute(text("SELECT id FROM customer")).scalars().all() == [7]
    assert set(inspect(engine).get_table_names()) - before == every_table(engine)
    engine.dispose()


def test_a_hosts_autogenerate_leaves_our_tables_alone(database_url: str) -> None:
    """With include_name a host's Alembic sees its own tables only; without it, it would drop ours."""
    Store(database_url).close()
    theirs = MetaData()
    Table("customer", theirs, Column("id", Integer, primary_key=True))
    engine = create_engine(database_url)
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        operations.create_table("leftover", Column("id", Integer, primary_key=True))
    with engine.connect() as connection:
        found = {}
        for name, options in (("with", {"include_name": include_name}), ("without", {})):
            context = MigrationContext.configure(connection, opts=options)
            steps = [step for step in compare_metadata(context, theirs) if isinstance(step, tuple)]
            found[name] = {(step[0], step[1].name) for step in steps if step[0].endswith("_table")}
    assert found["with"] == {("add_table", "customer"), ("remove_table", "leftover")}
    assert found["without"] > {("remove_table", name) for name in OURS}
    engine.dispose()


# --- on paper, and in the package --------------------------------------------------------------------------------


def test_the_code_and_the_migrations_name_one_revision() -> None:
    """The revision the code wants is the only head of the migrations, and they go back to nothing without gaps."""
    scripts = ScriptDirectory.from_config(migrate.configuration())
    assert scripts.get_heads() == [REVISION]
    assert scripts.get_bases() == ["0001"]


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def test_the_migrations_can_be_written_as_sql(dialect: str) -> None:
    """Every table, and the version, is in the statements for a database administrator; nothing is connected to."""
    script = migrate.script(dialect)
    for table in OURS:
        assert f"CREATE TABLE {table} (" in script
    assert f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('0001')" in script
    assert f"UPDATE {VERSION_TABLE} SET version_num='{REVISION}'" in script
    assert ("LONGBLOB" in script, "BYTEA" in script) == (dialect == "mysql", dialect == "postgresql")


def test_sql_on_paper_makes_the_same_schema(bare_database_url: str) -> None:
    """The written statements, run by hand, make a database that a store opens."""
    engine = create_engine(bare_database_url)
    script = migrate.script(engine.dialect.name)
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip() and statement.strip().rstrip(";") not in {"BEGIN", "COMMIT"}:
                connection.exec_driver_sql(statement.replace("%", "%%") if "psycopg" in engine.driver else statement)
    assert differences(engine) == []
    engine.dispose()
    with Store(bare_database_url) as store:
        store.open("a", **SETTINGS).user("Hello")
        assert store.verify() == []


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed")
def test_the_wheel_carries_the_migrations(tmp_path: Path) -> None:
    """A wheel has the migrations inside the package, its marker for types, and the data it reads."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in (ROOT / "migrations").rglob("*.py"):
        assert f"conversation_store/migrations/{path.relative_to(ROOT / 'migrations').as_posix()}" in names
    assert {"conversation_store/py.typed", "conversation_store/api/models.json"} <= names
    assert not any(name.startswith(("tests/", "migrations/", ".ci/")) for name in names)
