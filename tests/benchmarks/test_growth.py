"""
What a long history may not change: the statements, rows, bytes and steps of the paths that every turn takes.

Counted and not timed, so that it holds on any machine. Bytes are those of all values that go into statements or come
out of rows. Steps are SQLite's own: of its virtual machine, so that a scan that gives back nothing shows as well.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import Factory, define, evolve
from sqlalchemy import event

from conversation_store import Conversation, Store, Window
from tests.benchmarks import histories
from tests.benchmarks.conftest import Place

SHORT: Final = 10
LONG: Final = 2_000
DIGITS: Final = 64
"""Bytes by which two counts may differ: positions are numbers in headers, and longer ones later in a log."""


@define
class Counts:
    """What a piece of work asked of the database: its statements in order, rows and bytes, the steps they took."""

    statements: list[str] = Factory(list)
    rows: int = 0
    steps: int = 0
    bytes: int = 0

    def give(self, sql: str, *rows: Any) -> None:
        """Note a statement and what is given to it."""
        self.statements.append(sql)
        self.bytes += sum(map(weight, rows))

    def get(self, *rows: Any) -> None:
        """Note rows that were read."""
        self.rows += len(rows)
        self.bytes += sum(map(weight, rows))


def weight(row: Any) -> int:
    """Count the bytes of a row's values; a number has eight."""
    return sum(len(value) if isinstance(value, bytes | str) else 8 for value in row)


class CountingCursor(sqlite3.Cursor):
    """A cursor that notes what is asked of it."""

    counts: Counts

    def execute(self, sql: str, parameters: Any = (), /) -> CountingCursor:
        """Note a statement, and run it."""
        self.counts.give(sql, parameters)
        super().execute(sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Any, /) -> CountingCursor:
        """Note a statement and how often it is run, and run it."""
        rows = list(parameters)
        self.counts.give(f"{len(rows)} times {sql}", *rows)
        super().executemany(sql, rows)
        return self

    def fetchone(self) -> Any:
        """Give a row, and count it."""
        row = super().fetchone()
        if row is not None:
            self.counts.get(row)
        return row

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Give some rows, and count them."""
        rows = super().fetchmany(self.arraysize if size is None else size)
        self.counts.get(*rows)
        return rows

    def fetchall(self) -> list[Any]:
        """Give all rows, and count them."""
        rows = super().fetchall()
        self.counts.get(*rows)
        return rows

    def __next__(self) -> Any:
        row = super().__next__()
        self.counts.get(row)
        return row


class CountingConnection(sqlite3.Connection):
    """A connection whose cursors count."""

    counts: Counts

    def cursor(self, _: Any = None) -> CountingCursor:  # type: ignore[override]
        """Make a cursor that counts."""
        made = super().cursor(CountingCursor)
        made.counts = self.counts
        return made


@contextmanager
def counted(store: Store) -> Iterator[Counts]:
    """Count what a store asks of its database from now on."""
    counts = Counts()
    engine = store._database.engine

    def step() -> int:
        counts.steps += 1
        return 0

    def connection(*arguments: Any, **options: Any) -> CountingConnection:
        made = CountingConnection(*arguments, **options)
        made.counts = counts
        made.set_progress_handler(step, 1)
        return made

    def connect(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> None:
        options["factory"] = connection

    event.listen(engine, "do_connect", connect)
    engine.dispose()
    yield counts


def append(chat: Conversation) -> None:
    """Append a turn."""
    histories.say(chat)


def exchange(chat: Conversation) -> None:
    """Begin and finish an exchange."""
    histories.ask(chat)


def within_a_window(chat: Conversation) -> None:
    """Begin and finish an exchange where a window has to be looked at, and does not move."""
    chat.update(window=Window(max_tokens=1_000_000_000))
    histories.ask(chat)


def next_body(chat: Conversation) -> None:
    """Append a turn, and build the next request's body and digest."""
    histories.say(chat)
    request = chat.request()
    assert request.body
    assert request.digest


def body_after_an_answer(chat: Conversation) -> None:
    """Append a turn of the assistant's, and build a request that ends with it."""
    chat.assistant(histories.TEXT)
    assert chat.request(check=False).body


def seen_by_another(chat: Conversation) -> None:
    """Look where the log stands, and build the next body."""
    chat.refresh()
    assert chat.request().body


def forked(chat: Conversation) -> None:
    """Begin a fork at the last turn, and at one before it."""
    turn = chat.user(histories.TEXT)
    histories.say(chat)
    assert chat.fork().version == chat.fork(at=turn).version


def rewound(chat: Conversation) -> None:
    """Go back by one turn, and build the next body."""
    turn = chat.user(histories.TEXT)
    histories.say(chat)
    chat.rewind(turn)
    assert chat.request(check=False).body


def said_otherwise(chat: Conversation) -> None:
    """Edit the last turn, and build the next body."""
    turn = chat.user(histories.TEXT)
    chat.edit(turn, "Otherwise")
    assert chat.request(check=False).body


def left_out(chat: Conversation) -> None:
    """Set a turn aside, and bring it back."""
    turn = chat.user(histories.TEXT)
    chat.set_aside(turn)
    chat.bring_back(turn)


def cost(folder: Path, turns: int, work: Callable[[Conversation], None]) -> Counts:
    """Count what *work* asks of the database on an open conversation of so many turns."""
    path = folder / f"{turns}.db"
    histories.write(path, turns)
    with Store(histories.url_of(path)) as store, counted(store) as counts:
        chat = store.get(histories.KEY)
        assert chat.request().body
        assert counts.rows >= turns  # the first body reads the history, and what is counted is what is read
        histories.say(chat)
        work(chat)
        counts.statements, counts.rows, counts.steps, counts.bytes = [], 0, 0, 0
        work(chat)
        return counts


def same(one: Counts, other: Counts) -> None:
    """Hold two counts to be the same, but for the digits of larger numbers."""
    assert abs(one.bytes - other.bytes) <= DIGITS
    assert evolve(one, bytes=0) == evolve(other, bytes=0)


@pytest.mark.parametrize("work", [append, exchange, within_a_window, next_body, body_after_an_answer, seen_by_another])
def test_a_long_history_changes_no_count(memory: Place, work: Callable[[Conversation], None]) -> None:
    """An open conversation asks the same of its database, statement by statement, at 10 turns and at 2,000."""
    same(cost(memory.folder, LONG, work), cost(memory.folder, SHORT, work))


@pytest.mark.parametrize("work", [forked, rewound, said_otherwise, left_out])
def test_a_view_changes_at_the_same_cost(memory: Place, work: Callable[[Conversation], None]) -> None:
    """What is read around a place is bounded: the same statements and rows at 200 turns and at 2,000."""
    same(cost(memory.folder, LONG, work), cost(memory.folder, LONG // 10, work))


def test_another_worker_reads_what_is_new(memory: Place) -> None:
    """What somebody else appended is read, and nothing that was known: the same rows at 10 turns and at 2,000."""
    rows = []
    for turns in (SHORT, LONG):
        path = memory.folder / f"{turns}.db"
        histories.write(path, turns)
        with Store(histories.url_of(path)) as store, Store(histories.url_of(path)) as other, counted(store) as counts:
            chat = store.get(histories.KEY)
            assert chat.request().body
            histories.say(other.get(histories.KEY))
            counts.rows = 0
            assert chat.refresh().request().body.count(histories.TEXT.encode()) == turns + 2
            rows.append(counts.rows)
    assert rows[0] == rows[1]
