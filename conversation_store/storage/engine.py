"""
Databases opened the way the log needs them, and the one loop that runs a transaction.

``Database.write`` is where retries, commits of unknown outcome and the writers' lock live; nothing else in the
package commits. SQLite connections of our own are set up here and nowhere else; a host's engine is only looked
at. Sources: SQLite documentation (WAL, PRAGMA, BEGIN IMMEDIATE), PostgreSQL error codes.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import WeakSet

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    Insert,
    Pool,
    StaticPool,
    Update,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from conversation_store.errors import ConfigurationError, ConversationStoreError, DatabaseError
from conversation_store.storage.tables import VERSION_TABLE, metadata

try:
    import fcntl
except ImportError:  # Windows: writers are kept apart by SQLite's own lock alone
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

PATIENCE: Final = 15.0
"""Seconds for which a transaction is tried again before its fault is raised."""

CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
"""Size of a write-ahead log from which the writer copies it into the database, under the writers' lock."""

VACUUM_BYTES: Final = 64 * 1024 * 1024
"""Size up to which a SQLite file is written anew after an erasure: a second or less."""

_SQLITE_SETUP: Final = (
    "PRAGMA busy_timeout=15000",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA wal_autocheckpoint=0",
    "PRAGMA journal_size_limit=0",
)
_NOT_OURS: Final = """
SELECT EXISTS (SELECT 1 FROM sqlite_master) AND NOT EXISTS (SELECT 1 FROM sqlite_master WHERE name = ?)
"""
"""Whether a SQLite file is somebody else's: then even its journal mode, which is written into it, is left alone."""

_SYNCHRONOUS: Final = {"full": 2, "normal": 1}

_WATCH: Final = 0.001
"""
Seconds for which a writer looks again and again whether the lock is free: a commit or two.

Shorter, and it hardly ever sees the moment between two commits of one that never rests. What it is going to write is
ready meanwhile, so that of many that never rest two at a time take turns.
"""
_SHORTEST_PAUSE: Final = 0.005
"""Seconds for which it rests then, before it looks for as long once more; twice as many each time."""
_LONGEST_PAUSE: Final = 0.03
"""The most of them. Shorter, and more writers are at it at a time: each change of hands costs a cold cache."""
_AGAIN: Final = frozenset({"locked", "unreachable", "lost a race"})


_UNHEARD: Final = "conversation_store_unheard"
"""Set for an engine of our own: nobody else listens to its statements, so they may go to the driver at once."""


class RolledBack(Exception):  # noqa: N818 - a way out, not an error
    """Raised by a transaction's work to undo it and to give a result all the same."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result


class Compiled:
    """
    A statement of the path of every turn: compiled once, run past SQLAlchemy's handling of parameters and types.

    Its values are bytes, strings, integers and None, which every driver takes as they are.
    """

    def __init__(self, statement: Insert | Update) -> None:
        self._statement = statement
        self._known: dict[tuple[str, str], tuple[str, Callable[[Any], Any] | None, dict[str, Any]]] = {}

    def run(self, connection: Connection, *rows: Mapping[str, Any]) -> int:
        """
        Run it, once or for each of several rows; the rows have the same names every time.

        Returns:
            How many rows of the table it touched.
        """
        dialect, options = connection.dialect, connection.get_execution_options()
        if options.get("schema_translate_map"):  # a host's engine may say where tables are
            return connection.execute(self._statement, rows if len(rows) > 1 else rows[0]).rowcount
        known = self._known.get((dialect.name, dialect.driver))
        if known is None:
            known = self._known[dialect.name, dialect.driver] = self._compiled(dialect, list(rows[0]))
        sql, values_of, constants = known
        if constants:
            rows = tuple({**constants, **row} for row in rows)
        given = rows if values_of is None else tuple(map(values_of, rows))
        if options.get(_UNHEARD):
            return _run_directly(connection, sql, given)
        return connection.exec_driver_sql(sql, list(given) if len(given) > 1 else given[0]).rowcount

    def _compiled(self, dialect: Dialect, names: list[str]) -> tuple[str, Callable[[Any], Any] | None, dict[str, Any]]:
        compiled = self._statement.compile(dialect=dialect, column_keys=names)
        order = compiled.positiontup
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        # No statement of ours takes a single value, so that itemgetter gives a tuple.
        return compiled.string, None if order is None else itemgetter(*order), constants


def _run_directly(connection: Connection, sql: str, rows: Sequence[Any]) -> int:
    driver: Any = connection.connection.dbapi_connection
    broken: Any = connection.dialect.loaded_dbapi.Error
    cursor = driver.cursor()
    try:
        if len(rows) > 1:
            cursor.executemany(sql, rows)
        else:
            cursor.execute(sql, rows[0])
        touched: int = cursor.rowcount
    except broken as error:
        lost = connection.dialect.is_disconnect(error, driver, cursor)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql, None, error, broken, True, connection_invalidated=lost, dialect=connection.dialect
        ) from error
    finally:
        cursor.close()
    return touched


_writing: Final = ContextVar("conversation_store_writing", default=False)


@contextmanager
def _as_writer() -> Iterator[None]:
    before = _writing.set(True)
    try:
        yield
    finally:
        _writing.reset(before)


class _WriterLock:
    """
    A lock file beside a SQLite file, held around every write and checkpoint.

    It makes writers wait in turn, and keeps a checkpoint and a write of two processes apart, which the
    WAL-reset bug of SQLite 3.7.0 to 3.51.2 needs to happen at once (SQLite documentation, WAL).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.threads = threading.Lock()
        self.file: int | None = None

    def take(self) -> None:
        """
        Wait for the lock; its ``threads`` must be held already, and ``file`` be unlocked whatever is raised.

        Raises:
            DatabaseError: Another process kept it for too long, or its file cannot be made.
        """
        if fcntl is None:
            return
        if self.file is None:
            try:
                self.file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise DatabaseError("read-only", f"cannot make {self._path}: {error.strerror}") from None
        self._take(self.file)

    @contextmanager
    def held(self) -> Iterator[None]:
        with self.threads:
            try:
                self.take()
                yield
            finally:
                # Here and not in a method: Ctrl-C is noticed where a function begins, and would leave it locked.
                if self.file is not None:
                    fcntl.flock(self.file, fcntl.LOCK_UN)

    @staticmethod
    def _take(file: int) -> None:
        begun = time.monotonic()
        watched, pause = begun + _WATCH, _SHORTEST_PAUSE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                if now >= begun + PATIENCE:
                    raise DatabaseError("locked", _NEXT_STEP["locked"]) from None
                if now < watched:
                    os.sched_yield()
                    continue
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE)
                watched = time.monotonic() + _WATCH
            else:
                return

    def forget(self) -> None:
        """Let go of a file inherited by a fork: closing the copy leaves the parent's lock alone."""
        self.threads = threading.Lock()
        self.close()

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None


class Database:
    """
    A database and how to read and write it.

    Attributes:
        engine: SQLAlchemy's engine, ours or the host's.
        owned: Whether the engine is ours; only then is anything configured, and it is disposed of on close.
        path: The file of a SQLite database of our own; None otherwise.
        on_append: Is called after every append that was committed and taken note of; it raises nothing.
    """

    def __init__(self, engine: Engine, *, owned: bool, path: str | None = None) -> None:
        self.engine = engine
        self.owned = owned
        self.path = path
        self.dialect = engine.dialect.name
        self._lock = None if path is None else _WriterLock(f"{path}.lock")
        self._writers: list[tuple[Connection, Pool]] = []
        self._one_connection = isinstance(engine.pool, StaticPool)
        self._threads = threading.RLock()
        self._process = os.getpid()
        self._forking = False
        self._checkpointed = 0
        self.on_append: Callable[[], None] | None = None
        self._begins = owned and self.dialect == "sqlite"
        # One state of the database for all a reading sees; SQLite and MariaDB do so by themselves.
        snapshot = self.dialect == "postgresql"
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ") if snapshot else engine
        if owned:
            _ours.add(self)

    @classmethod
    def open(cls, database: str | URL | Engine, *, durability: str = "full") -> Database:
        """
        Open a database by URL, or take a host's engine as it is.

        Args:
            database: An SQLAlchemy URL (``sqlite:///bot.db``, ``postgresql+psycopg://…``) or an ``Engine``.
            durability: SQLite only: ``full`` (a committed turn survives a power cut), or ``normal``.

        Raises:
            ConfigurationError: No such kind of database, or its driver is not installed.
        """
        if isinstance(database, Engine):
            opened = cls(database, owned=False)
            opened._look_at_host()
            return opened
        if durability not in _SYNCHRONOUS:
            raise ConfigurationError(f"durability is 'full' or 'normal', not {durability!r}")
        try:
            url = make_url(database)
            if url.get_backend_name() == "sqlite":
                return cls._open_sqlite(url, durability)
            return cls(cls._open_server(url), owned=True)
        except NoSuchModuleError as error:
            raise ConfigurationError(f"no such kind of database: {error}") from None
        except ArgumentError:
            raise ConfigurationError("no database URL: give one like sqlite:///bot.db, or an Engine") from None
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"the driver {error.name} is not installed: pip install 'conversation_store[postgresql]' "
                "or 'conversation_store[mariadb]'"
            ) from None

    def carry(self, **options: object) -> None:
        """Give every connection from now on some execution options: what storage is to do with what passes it."""
        self._let_writers_go()
        same = self._reading is self.engine
        self.engine = self.engine.execution_options(**options)
        self._reading = self.engine if same else self._reading.execution_options(**options)

    @staticmethod
    def _open_server(url: URL) -> Engine:
        # One of its connections is kept for writing: one more than SQLAlchemy's fifteen.
        engine = create_engine(url, hide_parameters=True, max_overflow=11, execution_options={_UNHEARD: True})

        @event.listens_for(engine, "checkout")
        def ping(connection: Any, _record: object, _proxy: object) -> None:
            # What pool_pre_ping does, for readers alone: a writer that meets a lost connection runs again anyhow,
            # and a round trip less is a fifth of what an append costs.
            if _writing.get():
                return
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error:
                raise InvalidatePoolError from None

        if engine.dialect.name == "postgresql":

            @event.listens_for(engine, "connect")
            def set_up(connection: Any, _record: object) -> None:
                # Never wait for ever for a writer that is frozen inside its transaction.
                cursor = connection.cursor()
                try:
                    cursor.execute(f"SET lock_timeout = {int(PATIENCE * 1000)}")
                finally:
                    cursor.close()
                connection.commit()

        return engine

    @classmethod
    def _open_sqlite(cls, url: URL, durability: str) -> Database:
        name = url.database
        in_memory = name in (None, "", ":memory:") or url.query.get("mode") == "memory"
        plain = not in_memory and not str(name).startswith("file:")
        if plain and not Path(str(name)).exists():
            try:
                # Made here, so that nobody else may read it; the files beside it take its mode.
                os.close(os.open(str(name), os.O_RDWR | os.O_CREAT, 0o600))
            except OSError as error:
                raise DatabaseError("unreachable", f"cannot make {name}: {error.strerror}") from None
        heard = {_UNHEARD: True}
        if in_memory:
            options = {"connect_args": {"check_same_thread": False}}
            engine = create_engine(url, hide_parameters=True, poolclass=StaticPool, execution_options=heard, **options)
        else:
            engine = create_engine(url, hide_parameters=True, pool_size=8, max_overflow=-1, execution_options=heard)
        level = _SYNCHRONOUS[durability]

        @event.listens_for(engine, "connect")
        def set_up(connection: Any, _record: object) -> None:
            connection.isolation_level = None  # BEGIN is ours, see _begin()
            cursor = connection.cursor()
            try:
                for statement in (*_SQLITE_SETUP, f"PRAGMA synchronous={level}"):
                    cursor.execute(statement)
                _write_ahead(cursor)
            finally:
                cursor.close()

        return cls(engine, owned=True, path=str(Path(str(name)).resolve()) if plain else None)

    def _look_at_host(self) -> None:
        if self.dialect != "sqlite":
            return
        with self.read() as connection:
            found = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("synchronous", "foreign_keys", "secure_delete")
            }
        missing = []
        if int(found["synchronous"] or 0) < _SYNCHRONOUS["full"]:
            missing.append("synchronous is not FULL: a committed turn may be lost in a power cut")
        if not found["foreign_keys"]:
            missing.append("foreign_keys is off: an attachment in use could be swept")
        if found["secure_delete"] != 1:
            missing.append("secure_delete is off: erased words stay in the file")
        for promise in missing:
            warnings.warn(f"the SQLite engine given: {promise}", RuntimeWarning, stacklevel=4)

    def before_fork(self) -> None:
        """
        Let nobody write to a SQLite file until the fork is made, and close the connections that are idle.

        A child that inherits one inherits what SQLite knows of its own locks, asks for none where it must, and loses
        what it wrote when the parent goes. Source: SQLite documentation, How To Corrupt An SQLite Database File, 2.6.
        """
        if self._lock is None:
            return
        self._forking = self._lock.threads.acquire(timeout=PATIENCE)
        if not self._forking:
            return  # a transaction that takes so long is met by the child as one of another process
        try:
            # The last connection to go copies the write-ahead log, which is done under the lock.
            with suppress(DatabaseError):
                self._lock.take()
            self._let_writers_go()
            self.engine.dispose()
        finally:
            if self._lock.file is not None:
                fcntl.flock(self._lock.file, fcntl.LOCK_UN)

    def after_fork_in_parent(self) -> None:
        """Let writers write on in the parent."""
        if self._forking and self._lock is not None:
            self._forking = False
            self._lock.threads.release()

    def after_fork(self) -> None:
        """Forget in a child what is the parent's."""
        if self._process != os.getpid():
            self._threads = threading.RLock()
            self._writers, self._forking = [], False
            self.engine.dispose(close=False)
            if self._lock is not None:
                self._lock.forget()
            self._process = os.getpid()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """
        Give a connection to read with; what it reads is one state of the database.

        Raises:
            DatabaseError: The database refused or cannot be reached.
        """
        self.after_fork()
        try:
            with self._alone(), self._reading.connect() as connection:
                self._begin(connection, "BEGIN")
                yield connection
        except SQLAlchemyError as error:
            raise translated(error) from None

    def _begin(self, connection: Connection, statement: str) -> None:
        # Not by an event of the engine: one listener there makes every statement look for listeners.
        if not self._begins:
            return
        driver: Any = connection.connection.dbapi_connection
        try:
            driver.execute(statement).close()
        except sqlite3.Error as error:
            raise OperationalError(statement, None, error) from error

    @contextmanager
    def _to_write(self) -> Iterator[Connection]:
        """Give a connection to write with, alone where writers must be."""
        if self._lock is not None:
            with self._lock.held():
                yield from self._kept()
        else:
            with self._alone(), _as_writer():
                yield from self._kept()

    def _kept(self) -> Iterator[Connection]:
        """
        Give the connection that is kept for writing, and keep it again unless something went wrong.

        To take one from the pool for each transaction and give it back would cost as much as the statements of an
        append. Of a host's engine none is kept.
        """
        pool = self.engine.pool
        try:
            connection, of = self._writers.pop()
        except IndexError:
            connection, of = self.engine.connect(), pool
        if of is not pool:  # the engine was disposed of
            self._let_go(connection, of)
            connection = self.engine.connect()
        try:
            yield connection
        except BaseException:
            self._let_go(connection, pool)
            raise
        if self.owned and not self._writers and pool is self.engine.pool:
            self._writers.append((connection, pool))
        else:
            self._let_go(connection, pool)

    def _let_writers_go(self) -> None:
        with suppress(IndexError):
            while True:
                self._let_go(*self._writers.pop())

    def _let_go(self, connection: Connection, pool: Pool) -> None:
        if pool is not self.engine.pool and not connection.invalidated:
            connection.detach()  # nobody would close it in a pool that was disposed of
        connection.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # One shared connection (an in-memory database) serves one thread at a time.
        if self._one_connection:
            with self._threads:
                yield
        else:
            yield

    def write(self, work: Callable[[Connection], T], applied: Callable[[Connection], T | None] | None = None) -> T:
        """
        Run *work* in one transaction and commit it.

        A fault that may pass (a lock, a lost race, a lost connection) runs it again on a fresh connection,
        for ``PATIENCE`` seconds. **A commit that raised may have been applied**: then *work* runs again too,
        so it must recognise its own rows; where it cannot run any more, *applied* is asked.

        Args:
            work: Does the transaction's statements, and neither commits nor rolls back.
            applied: Reads whether an earlier try of *work* is in the database: its result, or None.

        Raises:
            DatabaseError: The database refused; nothing of *work* is in it.
        """
        self.after_fork()
        until = time.monotonic() + PATIENCE
        pause = 0.002
        doubtful = False
        while True:
            committing = False
            try:
                with self._to_write() as connection:
                    transaction = connection.begin()
                    try:
                        self._begin(connection, "BEGIN IMMEDIATE")
                        result = work(connection)
                        committing = True
                        transaction.commit()
                    except BaseException as error:
                        _roll_back(connection, drop=committing and isinstance(error, SQLAlchemyError))
                        raise
                    self._checkpoint(connection)
                    return result
            except RolledBack as undone:
                return undone.result  # type: ignore[return-value]
            except (SQLAlchemyError, DatabaseError) as error:
                fault = error if isinstance(error, DatabaseError) else translated(error)
                doubtful = doubtful or committing
                if fault.reason in _AGAIN and time.monotonic() < until:
                    time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                    pause = min(pause * 2, 0.5)
                    continue
                done = self._was_applied(applied) if doubtful and applied is not None else None
                if done is not None:
                    return done
                raise fault from None

    def appended(self) -> None:
        """Tell who listens that an append is committed, outside its transaction and with no lock held."""
        if self.on_append is not None:
            self.on_append()

    def _was_applied(self, applied: Callable[[Connection], T | None]) -> T | None:
        try:
            with self.read() as connection:
                return applied(connection)
        except DatabaseError:
            return None

    def _checkpoint(self, connection: Connection) -> None:
        if self.path is None:
            return
        try:
            size = os.stat(f"{self.path}-wal").st_size  # noqa: PTH116 - a hot path
            if size < self._checkpointed:
                self._checkpointed = 0
            if size - self._checkpointed >= CHECKPOINT_BYTES:
                # PASSIVE never waits for a reader; the next writer begins the log anew if nobody was in the way.
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
                self._checkpointed = size
        except (OSError, sqlite3.Error):
            return  # what is committed is safe in the write-ahead log; the next writer tries again

    def refuse_traces(self) -> None:
        """
        Make sure that what is deleted is overwritten, where that is the database's own choice.

        Raises:
            ConfigurationError: A SQLite engine of the host's leaves deleted words in the file.
        """
        if self.dialect != "sqlite":
            return
        with self.read() as connection:
            overwrites = connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1
        if not overwrites:
            raise ConfigurationError(
                "the SQLite engine given leaves what is erased in its file: run PRAGMA secure_delete=ON on each of its "
                "connections (an event listener for connect), then erase"
            )

    def leaves_no_trace(self) -> bool:
        """
        Clear away what was just deleted, where that is quick and this database lets us be sure of it.

        On SQLite, ``secure_delete`` overwrites what it deletes, but not the copies that moving rows between pages left
        behind before: the file is written anew where it has at most ``VACUUM_BYTES``, and the log emptied.

        Returns:
            Whether nothing is left in the file and its log; False on a server, whose files are its own affair.
        """
        if self.dialect != "sqlite":
            return False
        with self.read() as connection:
            pages, size = (
                connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("page_count", "page_size")
            )
        if int(pages or 0) * int(size or 0) > VACUUM_BYTES:
            self.flush()
            return False
        try:
            self.vacuum()
        except DatabaseError:
            return False  # what was deleted is; the next erasure or vacuum() tries again
        return True

    def flush(self, patience: float = 2.0) -> bool:
        """
        Copy SQLite's write-ahead log into the file and empty it, so that nothing deleted is left in it.

        Args:
            patience: Seconds to wait for readers that still look at an older state.

        Returns:
            False where a reader was in the way, and the log still holds what it held. True on other databases.
        """
        if self.dialect != "sqlite":
            return True
        self.after_fork()
        until = time.monotonic() + patience
        while not self._emptied():
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        return True

    def _emptied(self) -> bool:
        with self._alone(), self._lock.held() if self._lock else _nothing(), self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            waits = driver.execute("PRAGMA busy_timeout").fetchone()[0]
            driver.execute("PRAGMA busy_timeout=0").close()  # writers wait for the lock held here
            try:
                busy = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError:
                return False
            finally:
                driver.execute(f"PRAGMA busy_timeout={int(waits)}").close()
            self._checkpointed = 0
            return not busy

    def vacuum(self, *, full: bool = False) -> None:
        """
        Let the database clear away what was deleted: on SQLite the file is written anew, on PostgreSQL dead rows go.

        Args:
            full: On PostgreSQL write the tables anew: what dead rows held is in no file any more, but nobody can read
                or write meanwhile.

        Raises:
            DatabaseError: The database refused.
        """
        self.after_fork()
        names = ", ".join(sorted(metadata.tables))
        statement = {
            "sqlite": "VACUUM",
            "postgresql": f"VACUUM (FULL) {names}" if full else f"VACUUM {names}",
        }.get(self.dialect, f"OPTIMIZE TABLE {names}")
        try:
            with self._alone(), self._lock.held() if self._lock else _nothing(), self.engine.connect() as connection:
                if self.dialect == "sqlite":
                    driver: Any = connection.connection.driver_connection
                    driver.execute(statement).close()
                else:
                    connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)
        except sqlite3.Error as error:
            raise translated(OperationalError(statement, None, error)) from None
        except SQLAlchemyError as error:
            raise translated(error) from None
        if not self.flush():
            raise DatabaseError("locked", "a reader keeps an older state of the database; vacuum again once it is done")

    def close(self) -> None:
        """Dispose of our own engine; a host's engine is left alone."""
        if not self.owned:
            return
        _ours.discard(self)
        self.after_fork()
        # The last connection to go copies the write-ahead log, so that too is done under the lock.
        try:
            # Where there is no log to copy (it was no database of ours) no lock file is left behind either.
            logged = self._lock is not None and Path(f"{self.path}-wal").exists()
            with self._lock.held() if self._lock and logged else _nothing():
                self._let_writers_go()
                self.engine.dispose()
        except ConversationStoreError:
            self._let_writers_go()
            self.engine.dispose()
        if self._lock is not None:
            self._lock.close()

    @property
    def url(self) -> str:
        """The database's URL without its password."""
        return self.engine.url.render_as_string(hide_password=True)


_ours: Final = WeakSet[Database]()
"""The databases whose engines are ours, until they are closed."""


def _before_fork() -> None:
    for each in list(_ours):
        each.before_fork()


def _after_fork_in_parent() -> None:
    for each in list(_ours):
        each.after_fork_in_parent()


def _after_fork() -> None:
    for each in list(_ours):
        each.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)


def _write_ahead(cursor: Any) -> None:
    """Switch an empty file or one of ours to a write-ahead log, for good; anybody else's file is left alone."""
    if cursor.execute(_NOT_OURS, (VERSION_TABLE,)).fetchone()[0]:
        return
    until = time.monotonic() + PATIENCE
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait here when several connections switch a new file at once.
            if not str(error.sqlite_errorname).startswith("SQLITE_BUSY") or time.monotonic() >= until:
                raise
            time.sleep(random.uniform(0.001, 0.01))  # noqa: S311
        else:
            return


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _roll_back(connection: Connection, *, drop: bool) -> None:
    # ROLLBACK can raise too (the connection is gone, the transaction is gone already): then the connection goes.
    try:
        if drop:
            connection.invalidate()
        connection.rollback()
    except SQLAlchemyError:
        connection.invalidate()


_SQLITE_REASONS: Final = (
    ("SQLITE_READONLY", "read-only"),
    ("SQLITE_FULL", "full"),
    ("SQLITE_BUSY", "locked"),
    ("SQLITE_LOCKED", "locked"),
    ("SQLITE_NOTADB", "not a store"),
    ("SQLITE_CANTOPEN", "cannot open"),
)
_POSTGRESQL_REASONS: Final = (
    ("53100", "full"),
    ("25006", "read-only"),
    ("40001", "lost a race"),
    ("40P01", "lost a race"),
    ("55P03", "locked"),
    ("57P0", "unreachable"),
    ("08", "unreachable"),
)
_MARIADB_REASONS: Final = {
    1020: "lost a race",
    1021: "full",
    1047: "unreachable",
    1114: "full",
    1205: "locked",
    1213: "lost a race",
    1290: "read-only",
    2003: "unreachable",
    2006: "unreachable",
    2013: "unreachable",
}
_NEXT_STEP: Final = {
    "read-only": "the database cannot be written; look at its file's and folder's permissions",
    "full": "there is no space left; nothing was written; make room and try again",
    "locked": "another writer held the database for too long; try again",
    "lost a race": "other writers were faster for too long; try again",
    "unreachable": "the database cannot be reached; try again once it can",
    "cannot open": "there is no such folder, or it may not be read",
    "not a store": "this file is no database; give the path of another file",
    "refused": "the database refused a statement",
}


def _reason(error: DBAPIError) -> str:
    cause: Any = error.orig
    name = getattr(cause, "sqlite_errorname", None)
    state = getattr(cause, "sqlstate", None)
    if name is not None:
        return next((reason for prefix, reason in _SQLITE_REASONS if name.startswith(prefix)), "refused")
    if state is not None:
        return next((reason for prefix, reason in _POSTGRESQL_REASONS if state.startswith(prefix)), "refused")
    number = cause.args[0] if getattr(cause, "args", None) else None
    if number in _MARIADB_REASONS:
        return _MARIADB_REASONS[number]
    # psycopg's OperationalError without a state is a connection that could not be made or is gone.
    gone = isinstance(error, OperationalError) and hasattr(cause, "sqlstate")
    return "unreachable" if gone or error.connection_invalidated or isinstance(error, InterfaceError) else "refused"


def translated(error: SQLAlchemyError) -> DatabaseError:
    """Say a database's fault in the library's terms; values of rows are in neither."""
    if not isinstance(error, DBAPIError):
        return DatabaseError("refused", str(error))
    reason = _reason(error)
    said = str(error.orig).strip().splitlines()
    return DatabaseError(reason, f"{_NEXT_STEP[reason]} ({said[0] if said else type(error.orig).__name__})")
