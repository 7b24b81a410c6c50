"""Databases as the command line names them: the options, opening one, and the commands below ``db``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import click

from conversation_store.api.client import Client
from conversation_store.cli.failures import Code, MissingFileError
from conversation_store.cli.terminal import Screen
from conversation_store.conversation import Conversation
from conversation_store.errors import ConfigurationError, NotFoundError
from conversation_store.storage import migrate, rotation, search
from conversation_store.storage.cipher import CIPHER, Cipher
from conversation_store.storage.engine import Database
from conversation_store.storage.keyring import FileKeyRing
from conversation_store.storage.rotation import Rotated
from conversation_store.storage.tables import REVISION
from conversation_store.store import Store

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT: Final = "sqlite:///conversations.db"
_FILE: Final = re.compile(r"sqlite(?:\+\w+)?:///(?P<path>[^?]+)")
_KEYS: Final = "conversation_store.keys"
_SCHEME: Final = re.compile(r"[\w+.-]+://")


def url_of(given: str) -> str:
    """Take a database as people give it: an SQLAlchemy URL, or the path of a SQLite file."""
    return given if _SCHEME.match(given) else f"sqlite:///{given}"


def file_of(url: str) -> Path | None:
    """Say which file a SQLite URL names; None for every other database."""
    found = _FILE.match(url)
    if found is None or found["path"] == ":memory:" or found["path"].startswith("file:"):
        return None
    return Path(found["path"])


def database_options(command: F) -> F:
    """Give a command the options ``--database`` and ``--scope``."""
    database = click.option(
        "--database",
        metavar="URL",
        envvar="CONVERSATION_STORE_DATABASE",
        default=DEFAULT,
        show_default=True,
        show_envvar=True,
        help="An SQLAlchemy URL, or the path of a SQLite file.",
    )
    scope = click.option("--scope", default="", help="The tenant whose conversations are meant.")
    keys = click.option(
        "--keys",
        metavar="FOLDER",
        envvar="CONVERSATION_STORE_KEYS",
        show_envvar=True,
        expose_value=False,
        callback=_remember_keys,
        help="The key ring of a store whose content is encrypted.",
    )
    return database(scope(keys(command)))


def _remember_keys(context: click.Context, _parameter: click.Parameter, given: str | None) -> None:
    context.meta[_KEYS] = given


def keys_given() -> FileKeyRing | None:
    """
    Open the key ring that ``--keys`` names; None for none.

    Raises:
        ConfigurationError: There is no such folder: a slip would make a new one, and encrypt with that.
    """
    folder = click.get_current_context().meta.get(_KEYS)
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise ConfigurationError(f"there is no key ring {folder}; conversation-store db encrypt makes one")
    return FileKeyRing(folder)


def existing(url: str) -> str:
    """
    Give a URL back, if there is something to read.

    Raises:
        MissingFileError: It names a SQLite file that is not there.
    """
    path = file_of(url)
    if path is not None and not path.exists():
        raise MissingFileError(str(path))
    return url


def to_read(database: str, scope: str) -> Store:
    """Open a store that must be there."""
    return Store(existing(url_of(database)), scope=scope, keys=keys_given())


def to_write(database: str, scope: str, client: Client | None) -> Store:
    """Open a store; a SQLite file is made where there is none."""
    return Store(url_of(database), scope=scope, client=client, keys=keys_given())


def find(store: Store, which: str) -> Conversation:
    """
    Get a conversation by its key, else by its id.

    Raises:
        NotFoundError: It is neither.
    """
    try:
        return store.get(which)
    except NotFoundError:
        try:
            identity = UUID(which)
        except ValueError:
            identity = None
        if identity is None:
            raise
        return store.get(identity)


def key_argument(name: str, *, metavar: str = "KEY|ID", **options: Any) -> Callable[[F], F]:
    """Give a command an argument that names a conversation; bytes that are no text cannot."""

    def check(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str | None:
        try:
            (given or "").encode()
        except UnicodeEncodeError:
            raise click.BadParameter("a key is text in UTF-8") from None
        return given

    return click.argument(name, metavar=metavar, callback=check, **options)


@click.group("db")
def db() -> None:
    """Make, upgrade and check a database's tables; make its search index anew; clear away what was deleted."""


@db.command("upgrade")
@click.argument("url", required=False)
@click.option(
    "--sql",
    "dialect",
    type=click.Choice(("sqlite", "postgresql", "mariadb")),
    help="Change nothing; print the statements for an administrator to run.",
)
def upgrade(url: str | None, dialect: str | None) -> int:
    """Bring the tables at URL to this release, from nothing or from an older one."""
    screen = Screen()
    if dialect is not None:
        if url is not None:
            raise click.UsageError("--sql prints for any database of that kind; leave out the URL")
        screen.paragraph(migrate.script(dialect).rstrip("\n"))
        return Code.DONE
    if url is None:
        raise click.UsageError("give the URL of a database, or --sql DIALECT")
    database = Database.open(url_of(url))
    try:
        with database.read() as connection:
            before = migrate.current(connection)
        migrate.upgrade(database)
        was = "this release's already" if before == REVISION else f"was {before or 'without our tables'}"
        screen.line(f"{database.url}: schema revision {REVISION} ({was})")
    finally:
        database.close()
    return Code.DONE


@db.command("check")
@click.argument("url")
def check(url: str) -> int:
    """Say whether the tables at URL are those of this release; exit code 1 if not. Changes nothing."""
    screen = Screen()
    database = Database.open(existing(url_of(url)))
    try:
        with database.read() as connection:
            found = migrate.current(connection)
        if found == REVISION:
            screen.line(f"{database.url}: schema revision {REVISION}, as this release needs")
            return Code.DONE
        screen.line(f"{database.url}: {migrate.mismatch(found, database)}")
    finally:
        database.close()
    return Code.FINDING


@db.command("reindex")
@click.argument("url")
def reindex(url: str) -> int:
    """
    Make the search index at URL anew from the log, for all scopes.

    Searching and saying go on meanwhile; broken off, it is finished by whoever searches next.
    """
    screen = Screen()
    database = Database.open(existing(url_of(url)))
    waiting = screen.waiting()
    try:
        migrate.check(database)
        done = search.rebuild(
            database, None, progress=lambda known, all_: waiting.show(f"{known:,} of {all_:,} entries")
        )
    finally:
        waiting.hide()
        database.close()
    screen.line(f"{database.url}: the search index knows {done:,} entries")
    return Code.DONE


@db.command("vacuum")
@click.argument("url")
@click.option("--full", is_flag=True, help="PostgreSQL: write the tables anew; nobody can use them meanwhile.")
def vacuum(url: str, full: bool) -> int:
    """
    Clear away what was deleted at URL: after an erasure, what the database's files may still hold of it.

    SQLite: the file is written anew and its log emptied. PostgreSQL: dead rows go; with --full their pages too.
    Backups, replicas and archived logs are nobody's to clear but their keeper's.
    """
    screen = Screen()
    database = Database.open(existing(url_of(url)))
    waiting = screen.waiting()
    try:
        migrate.check(database)
        waiting.show("clearing away what was deleted")
        database.vacuum(full=full)
    finally:
        waiting.hide()
        database.close()
    screen.line(f"{database.url}: what was deleted is cleared away")
    return Code.DONE


_KEY_RING: Final = click.option(
    "--keys",
    metavar="FOLDER",
    required=True,
    envvar="CONVERSATION_STORE_KEYS",
    show_envvar=True,
    help="The key ring; keep it off the database's disk and backups. A new one is made where there is none.",
)


@db.command("encrypt")
@click.argument("url")
@_KEY_RING
def encrypt(url: str, keys: str) -> int:
    """
    Encrypt what is kept in plain at URL, for all scopes, and clear the plain text away.

    Others may write meanwhile; broken off, run it again. What is encrypted is not searched any more.
    """
    return _rotated(url, keys, rotation.encrypt, clear=True)


@db.command("rotate")
@click.argument("url")
@_KEY_RING
@click.option("--data", is_flag=True, help="Encrypt all content again, under new data keys.")
def rotate(url: str, keys: str, data: bool) -> int:
    """
    Give the encrypted conversations at URL new keys, for all scopes. No hash changes.

    Others may write meanwhile; broken off, run it again.
    """
    done = _rotated(url, keys, lambda database, scope, _: rotation.rewrap(database, scope))
    return _rotated(url, keys, rotation.renew) if data else done


def _rotated(
    url: str, keys: str, work: Callable[[Database, None, Callable[[int], None]], Rotated], *, clear: bool = False
) -> int:
    screen = Screen()
    database = Database.open(existing(url_of(url)))
    waiting, rows = screen.waiting(), 0

    def seen(count: int) -> None:
        nonlocal rows
        rows += count
        waiting.show(f"{rows:,} rows")

    try:
        migrate.check(database)
        database.carry(**{CIPHER: Cipher(FileKeyRing(keys))})
        done = work(database, None, seen)
        if clear:
            waiting.show("clearing away what was kept in plain")
            database.vacuum()
    finally:
        waiting.hide()
        database.close()
    screen.line(f"{database.url}: {done.conversations:,} conversations, {done.rows:,} rows encrypted")
    return Code.DONE
