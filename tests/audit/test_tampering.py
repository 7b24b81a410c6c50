"""
Single changes to random stores, of any column, type and row: each is found, and at the entry it was made at.

What cannot be found is named in ``Change.hidden``, change by change, and nowhere else: what the logs say nothing of
(leases, how far indexes and seals are, when a blob was first kept), what an erasure took the ground from, and a
conversation that leaves its scope, which is one that is gone. A checkpoint shows the last.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import frozen
from sqlalchemy import Connection, Engine, Table, create_engine, delete, event, insert, select
from sqlalchemy.exc import SQLAlchemyError

from conversation_store import Fault, Store
from conversation_store.audit import walk
from conversation_store.storage import tables
from conversation_store.storage.tables import NO_TOKEN
from tests.audit.honest import Honest

MANY: Final = int(os.environ.get("CONVERSATION_STORE_TAMPERINGS", "100000"))
STORES: Final = 250
"""Changes that are tried on one store."""

TABLES: Final[Mapping[str, Sequence[str]]] = {
    table.name: [column.name for column in table.columns]
    for table in (
        *(tables.conversation, tables.conversation_key, tables.conversation_entry, tables.conversation_exchange),
        *(tables.conversation_blob, tables.conversation_blob_chunk, tables.conversation_blob_use),
    )
}
WEIGHTS: Final = {"conversation_entry": 8, "conversation_exchange": 2}
Row = dict[str, Any]


@frozen
class Change:
    """
    One change: what a row was, and what it is; None for no row.

    Attributes:
        table: Of which table.
        before: The row before; None where one was put in.
        after: The row after; None where it was taken away.
    """

    table: str
    before: Row | None
    after: Row | None

    @property
    def columns(self) -> set[str]:
        """Which columns changed."""
        if self.before is None or self.after is None:
            return set(TABLES[self.table])
        return {name for name in self.before if not same(self.before[name], self.after[name])}

    def places(self, known: Known) -> Iterator[tuple[Any, object]]:
        """Give each entry that is touched, or -1 for a conversation's row."""
        for row in (self.before, self.after):
            if row is not None and self.table in {"conversation_blob", "conversation_blob_chunk"}:
                yield from known.users.get((row["scope"], row["digest"]), ())
            if row is not None and self.table == "conversation":
                yield row["id"], -1
            elif row is not None and self.table == "conversation_key":
                yield row["conversation"], -1
            elif row is not None and "position" in row:
                yield row["conversation"], row["position"]

    def hidden(self, known: Known) -> bool:
        """Say whether nothing can show it, or there is nothing to show."""
        if not self.columns:
            return True
        hides = {
            "conversation": self._hides_in_row,
            "conversation_exchange": self._hides_in_exchange,
            "conversation_blob": self._hides_in_blob,
            "conversation_blob_chunk": self._hides_in_chunk,
        }.get(self.table)
        return hides is not None and hides(known)

    def _hides_in_row(self, known: Known) -> bool:
        before, after, changed = self.before, self.after, self.columns
        if before is None or after is None:
            return False
        if "scope" in changed:
            return before["id"] not in known.named  # a conversation that is gone, but for its key
        if changed <= {"indexed_length", "sealed_length"}:
            return all(type(after[name]) is int and 0 <= after[name] <= before["length"] for name in changed)
        possible = {"lease_until": int, "lease_owner": str, "pending_token": bytes}
        if before["pending_token"] == NO_TOKEN or not changed <= set(possible):
            return False
        token = after["pending_token"]
        return all(type(after[name]) is possible[name] for name in changed) and token != NO_TOKEN and len(token) == 16

    def _hides_in_exchange(self, known: Known) -> bool:
        before, after, changed = self.before, self.after, self.columns
        if before is None or after is None:
            return False
        # Of what was erased nothing is left to hold a row against; a price nobody knew is none, told so or not.
        erased = (before["conversation"], before["position"]) in known.unprovable and not changed & walk._LASTING
        return erased or (changed == {"unpriced"} and after["unpriced"] is None and before["price"] is None)

    def _hides_in_blob(self, known: Known) -> bool:
        if self.columns == {"created"}:
            return True
        row = self.before or self.after or {}
        unused = (row["scope"], row["digest"]) not in known.users
        return unused and (self.before is None or self.after is None or "scope" in self.columns)

    def _hides_in_chunk(self, known: Known) -> bool:
        after = self.after
        return self.before is None and after is not None and (after["scope"], after["digest"]) not in known.blobs


@frozen
class Known:
    """
    What of a store decides whether a change can be seen.

    Attributes:
        rows: Its rows, by table.
        users: Of each blob in use, as (scope, digest), the entries that use it; ``blobs`` all blobs there are.
        named: The conversations that have a key.
        unprovable: The exchanges of which something was erased.
    """

    rows: Mapping[str, Sequence[Row]]
    users: Mapping[tuple[bytes, bytes], Sequence[tuple[bytes, int]]]
    blobs: frozenset[tuple[bytes, bytes]]
    named: frozenset[bytes]
    unprovable: frozenset[tuple[bytes, int]]

    @classmethod
    def of(cls, rows: Mapping[str, Sequence[Row]]) -> Known:
        """Look at the rows of a store."""
        erased = {
            (row["conversation"], row["position"])
            for row in rows["conversation_entry"]
            if row["salt"] is None and b'"body"' in row["header"]
        }
        users: dict[tuple[bytes, bytes], list[tuple[bytes, int]]] = {}
        for row in rows["conversation_blob_use"]:
            users.setdefault((row["scope"], row["digest"]), []).append((row["conversation"], row["position"]))
        return cls(
            rows,
            users,
            frozenset((row["scope"], row["digest"]) for row in rows["conversation_blob"]),
            frozenset(row["conversation"] for row in rows["conversation_key"]),
            frozenset(
                (row["conversation"], row["position"])
                for row in rows["conversation_exchange"]
                if any((row["conversation"], row[name]) in erased for name in ("position", "outcome", "turn"))
            ),
        )


def same(one: object, other: object) -> bool:
    """Compare two values as a database tells them apart."""
    return type(one) is type(other) and one == other


# --- changing --------------------------------------------------------------------------------------------------------


def changed_value(chance: random.Random, value: Any, others: Sequence[Any], *, typed: bool) -> Any:
    """Give another value for a column; of another type too unless the database would not take that."""
    way = chance.choice(["edit", "edit", "other", "null"] + ([] if typed else ["type", "huge"]))
    if way == "null":
        return None
    if way == "other":
        return chance.choice(others)
    if way == "huge":
        return chance.choice((2**63 - 1, -(2**63), 1e300, "", b"", "\udcff"))
    return of_another_type(chance, value) if way == "type" else edited(chance, value)


def of_another_type(chance: random.Random, value: Any) -> Any:
    """Write a value as one of another type."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value.encode()
    return float(value) if isinstance(value, int) else chance.choice((0, "", b""))


def edited(chance: random.Random, value: Any) -> Any:
    """Change a value a little, in its own type."""
    if isinstance(value, bytes):
        if not value:
            return b"\0"
        way = chance.random()
        if way < 0.7:
            bit = chance.randrange(len(value) * 8)
            data = bytearray(value)
            data[bit // 8] ^= 1 << bit % 8
            return bytes(data)
        return value[:-1] if way < 0.85 else value + bytes([chance.randrange(256)])
    if isinstance(value, str):
        return value[:-1] if value and chance.random() < 0.5 else value + "x"
    if isinstance(value, int):
        return value + chance.choice((-1, 1, 1000))
    return chance.choice((0, b"", bytes(32), "x"))


def change(chance: random.Random, rows: Mapping[str, Sequence[Row]], *, typed: bool) -> list[Change]:
    """Decide one change: a column, or a row taken away, put in twice, or two of them changed about."""
    names = [name for name in TABLES if rows[name]]
    table = chance.choices(names, [WEIGHTS.get(name, 1) for name in names])[0]
    row = chance.choice(rows[table])
    way = chance.random()
    if way < 0.75:
        column = chance.choice(TABLES[table])
        value = changed_value(chance, row[column], [each[column] for each in rows[table]], typed=typed)
        return [Change(table, row, {**row, column: value})]
    if way < 0.85:
        return [Change(table, row, None)]
    other = chance.choice(rows[table])
    if way < 0.92:
        moved = dict(row)
        for name in ("id", "conversation", "position", "number", "digest", "key"):
            if name in moved and chance.random() < 0.7:
                moved[name] = edited(chance, row[name]) if chance.random() < 0.5 else other[name]
        return [Change(table, None, moved)]
    places = [name for name in ("conversation", "position", "number") if name in row]
    if not places or all(same(row[name], other[name]) for name in places):
        return []
    return [
        Change(table, row, {**row, **{name: other[name] for name in places}}),
        Change(table, other, {**other, **{name: row[name] for name in places}}),
    ]


def location_of(change: Change, known: Known) -> set[tuple[UUID, object]]:
    """Say at which entries of which conversations a fault may be."""
    return {
        (UUID(bytes=own), position) for own, position in change.places(known) if type(own) is bytes and len(own) == 16
    }


def judge(changes: Sequence[Change], faults: Sequence[Fault], known: Known) -> str | None:
    """Say what is wrong with what was found; None where a change was found where it is."""
    if not faults:
        return None if all(each.hidden(known) for each in changes) else "not found"
    places = set().union(*(location_of(each, known) for each in changes))
    found = {(fault.conversation, fault.position) for fault in faults}
    if not places or places & found:
        return None  # where there are none, it is in no conversation that there could be
    if any(each.columns & {"id", "conversation", "position"} for each in changes):
        # What has no place in a log is told of the log, or of where it was missed.
        of = {conversation for conversation, _ in places}
        return None if of & {conversation for conversation, _ in found} else f"found elsewhere: {faults[:3]}"
    return f"found elsewhere: {faults[:3]}"


# --- SQLite, in memory, without any constraint -----------------------------------------------------------------------


class Loosened:
    """A store in memory whose tables take any value in any column, put back after each change."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.driver: sqlite3.Connection = store._database.engine.raw_connection().driver_connection  # type: ignore[assignment]
        self.driver.execute("PRAGMA foreign_keys=OFF")
        for table, columns in TABLES.items():
            self.driver.execute(f"CREATE TABLE loose AS SELECT * FROM {table}")
            self.driver.execute(f"DROP TABLE {table}")
            self.driver.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            self.driver.execute(f"INSERT INTO {table} SELECT {', '.join(columns)} FROM loose")
            self.driver.execute("DROP TABLE loose")
        self.rows: dict[str, list[Row]] = {}
        self._ids: dict[int, int] = {}
        for table, columns in TABLES.items():
            found = self.driver.execute(f"SELECT rowid, {', '.join(columns)} FROM {table}").fetchall()
            self.rows[table] = [dict(zip(columns, row[1:], strict=True)) for row in found]
            self._ids |= {id(row): each[0] for row, each in zip(self.rows[table], found, strict=True)}

    def apply(self, change: Change) -> None:
        """Make a change."""
        columns = TABLES[change.table]
        if change.before is not None:
            self.driver.execute(f"DELETE FROM {change.table} WHERE rowid = ?", (self._ids[id(change.before)],))
        if change.after is not None:
            values = [as_bound(change.after[name]) for name in columns]
            marks = ", ".join("CAST(? AS TEXT)" if is_odd(change.after[name]) else "?" for name in columns)
            self.driver.execute(
                f"INSERT INTO {change.table} (rowid, {', '.join(columns)}) VALUES ({self._rowid(change)}, {marks})",
                values,
            )

    def _rowid(self, change: Change) -> object:
        return self._ids[id(change.before)] if change.before is not None else 10**9

    def undo(self, change: Change) -> None:
        """Put back what was."""
        self.driver.execute(f"DELETE FROM {change.table} WHERE rowid = ?", (self._rowid(change),))
        if change.before is not None:
            columns = TABLES[change.table]
            marks = ", ".join("?" * (len(columns) + 1))
            values = [self._ids[id(change.before)], *(change.before[name] for name in columns)]
            self.driver.execute(f"INSERT INTO {change.table} (rowid, {', '.join(columns)}) VALUES ({marks})", values)


def is_odd(value: object) -> bool:
    """Say whether a value is text that is no UTF-8."""
    return isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value)


def as_bound(value: Any) -> Any:
    """Write a value as the driver takes it."""
    return value.encode("utf-8", "surrogateescape") if is_odd(value) else value


def tamper(seed: int, changes: int) -> dict[str, int]:
    """Make a random store and so many single changes to it; count what was done by table."""
    chance = random.Random(seed)
    counts: dict[str, int] = {"hidden": 0}
    with Store("sqlite://", durability="normal") as store:
        Honest(store, chance).fill(20)
        assert store.verify() == []
        loose = Loosened(store)
        known = Known.of(loose.rows)
        assert store.verify() == [], seed
        for n in range(changes):
            made = change(chance, loose.rows, typed=False)
            if not made:
                continue
            for each in made:
                loose.apply(each)
            wrong = judge(made, store.verify(), known)
            assert wrong is None, (seed, n, made, wrong)
            for each in reversed(made):
                loose.undo(each)
            hidden = all(each.hidden(known) for each in made)
            counts[made[0].table] = counts.get(made[0].table, 0) + 1
            counts["hidden"] += hidden
        assert store.verify() == [], seed
    return counts


@pytest.mark.parametrize("seed", range(12))
def test_every_change_is_found_where_it_is(seed: int) -> None:
    """Twelve random stores, a hundred changes each."""
    counts = tamper(seed, 100)
    assert counts["hidden"] < 25


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(8))
def test_every_one_of_very_many_changes_is_found(part: int) -> None:
    """A hundred thousand, in parts that workers may share."""
    total: dict[str, int] = {}
    for seed in range(10_000 + part, 10_000 + MANY // STORES, 8):
        for name, count in tamper(seed, STORES).items():
            total[name] = total.get(name, 0) + count
    print(part, total)  # noqa: T201


# --- PostgreSQL, its keys and types in force -------------------------------------------------------------------------


def _without_triggers(connection: Connection) -> None:
    connection.exec_driver_sql("SET LOCAL session_replication_role = replica")


class Guarded:
    """A store on a server, which keeps its types and primary keys; foreign keys are let go."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        event.listen(engine, "begin", _without_triggers)
        self.rows = {name: self._read(tables.metadata.tables[name]) for name in TABLES}

    def _read(self, table: Table) -> list[Row]:
        with self.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(select(table))]

    def apply(self, changes: Sequence[Change]) -> bool:
        """Make changes, where the database takes them."""
        try:
            with self.engine.begin() as connection:
                for each in changes:
                    self._replace(connection, each.table, each.before, None)
                for each in changes:
                    self._replace(connection, each.table, None, each.after)
        except (SQLAlchemyError, TypeError):  # no value of the column
            return False
        return True

    def undo(self, changes: Sequence[Change]) -> None:
        """Put back what was."""
        with self.engine.begin() as connection:
            for each in changes:
                self._replace(connection, each.table, each.after, None)
            for each in changes:
                self._replace(connection, each.table, None, each.before)

    def _replace(self, connection: Connection, name: str, before: Row | None, after: Row | None) -> None:
        table = tables.metadata.tables[name]
        if before is not None:
            key = [column == before[column.name] for column in table.primary_key.columns]
            connection.execute(delete(table).where(*key))
        if after is not None:
            connection.execute(insert(table), after)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_every_change_that_a_server_takes_is_found(database_url: str) -> None:
    """What types and keys of a server let through is found there too."""
    chance = random.Random(5)
    engine = create_engine(database_url)
    with Store(database_url) as store:
        Honest(store, chance).fill(30)
        guarded = Guarded(engine)
        known = Known.of(guarded.rows)
        tried = 0
        while tried < 120:
            made = change(chance, guarded.rows, typed=True)
            if not made or not guarded.apply(made):
                continue
            tried += 1
            wrong = judge(made, store.verify(), known)
            assert wrong is None, (made, wrong)
            guarded.undo(made)
        assert store.verify() == []
    engine.dispose()
