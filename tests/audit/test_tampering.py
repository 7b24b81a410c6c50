"""
Single changes to random sealed stores, of any column, type and row: each is found, and where it was made.

What cannot be found is named in ``BLIND``, with its reason, and nowhere else; a change that it names is one that is
not found, so that the list tells no more than there is. A checkpoint of ``verify`` shows what it says so of.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import field, frozen
from sqlalchemy import Connection, Engine, Table, create_engine, delete, event, insert, select
from sqlalchemy.exc import SQLAlchemyError

from conversation_store import Checkpoint, Client, Fault, Seals, Store
from conversation_store.api.retry import Clock
from conversation_store.audit import walk
from conversation_store.audit.faults import NOBODY
from conversation_store.storage import journal, tables
from conversation_store.storage.tables import NO_TOKEN
from conversation_store.testing import MessagesAPI
from tests.audit.honest import Honest
from tests.sealed import KEY, VERIFIER

MANY: Final = int(os.environ.get("CONVERSATION_STORE_TAMPERINGS", "100000"))
SEALS: Final = Seals(key=KEY, memory=None)
MANY_ENOUGH: Final = 10_000
"""Changes after which every column of every table was tried."""
STORES: Final = 250
"""Changes that are tried on one store."""

TABLES: Final[Mapping[str, Sequence[str]]] = {
    table.name: [column.name for column in table.columns] for table in tables.metadata.tables.values()
}
WEIGHTS: Final = {"conversation_entry": 8, "conversation_exchange": 4, "conversation": 3, "conversation_seal": 2}
LOG: Final = {"conversation_log", "conversation_seal", "conversation_tile", "conversation_checkpoint"}
Row = dict[str, Any]


@frozen
class Change:
    """
    One change: what a row was, and what it is; None for no row.

    Attributes:
        table: Of which table.
        before: The row before; None where one was put in.
        after: The row after; None where it was taken away.
        way: What was done, for counting.
    """

    table: str
    before: Row | None
    after: Row | None
    way: str = ""

    @property
    def rows(self) -> Sequence[Row]:
        """The row before and the row after, as far as there are any."""
        return [row for row in (self.before, self.after) if row is not None]

    @property
    def columns(self) -> set[str]:
        """Which columns changed."""
        if self.before is None or self.after is None:
            return set(TABLES[self.table])
        return {name for name in self.before if not same(self.before[name], self.after[name])}

    def places(self, known: Known) -> Iterator[tuple[Any, object]]:
        """Give each entry that is touched, or -1 for a conversation's row."""
        for row in self.rows:
            if self.table in {"conversation_blob", "conversation_blob_chunk"}:
                yield from known.users.get((row["scope"], row["digest"]), ())
            elif self.table == "conversation":
                yield row["id"], -1
            elif self.table == "conversation_key":
                yield row["conversation"], -1
            elif self.table == "conversation_seal" and type(row["length"]) is int:
                yield row["conversation"], row["length"] - 1
            elif "position" in row:
                yield row["conversation"], row["position"]

    def is_in_log(self, fault: Fault) -> bool:
        """Say whether a fault names the leaf, the tile, the checkpoint or the log that was changed."""
        if fault.conversation != NOBODY or fault.code not in CODES[self.table]:
            return False
        said = f"{fault.expected} {fault.found}"
        if self.table == "conversation_log" or (fault.code == "log" and self.table in said):
            return True
        if self.table == "conversation_tile":
            return any(f"tile {row['level']}/{row['number']!r}" in said for row in self.rows) or "tiles of" in said
        if self.table == "conversation_seal":
            return any(fault.position == row["number"] or fault.found == repr(row["number"]) for row in self.rows)
        return fault.position in {row["size"] - 1 if type(row["size"]) is int else -1 for row in self.rows}


CODES: Final[Mapping[str, set[str]]] = {
    "conversation_log": {"log", "checkpoint", "pin", "signature"},
    "conversation_seal": {"seal", "tile", "log", "checkpoint"},
    "conversation_tile": {"tile", "log"},
    "conversation_checkpoint": {"checkpoint", "signature", "uncovered", "log"},
}


# --- what cannot be found --------------------------------------------------------------------------------------------


@frozen
class Blind:
    """
    Something that no look at one database can find, or of which there is nothing to find.

    Attributes:
        name: What it is.
        reason: Why that is so, and who sees it all the same.
        hides: Says whether a change is one of those.
    """

    name: str
    reason: str
    hides: Callable[[Change, Known], bool] = field(repr=False)


def _is_of(table: str) -> Callable[[Change, Known], bool]:
    return lambda change, _: change.table == table


def _edits(change: Change, table: str, *columns: str) -> bool:
    """Say whether a row was changed, and in these columns alone."""
    return (
        change.table == table
        and change.before is not None
        and change.after is not None
        and change.columns <= {*columns}
    )


def _lease(change: Change, _: Known) -> bool:
    if not _edits(change, "conversation", "lease_until", "lease_owner", "pending_token"):
        return False
    before, after = change.rows
    token = after["pending_token"]
    return (
        before["pending_token"] != NO_TOKEN
        and (type(after["lease_until"]), type(after["lease_owner"]), type(token)) == (int, str, bytes)
        and len(token) == len(NO_TOKEN)
        and token != NO_TOKEN
    )


def _indexed(change: Change, _: Known) -> bool:
    if not _edits(change, "conversation", "indexed_length"):
        return False
    row = change.rows[1]
    return type(row["indexed_length"]) is int and 0 <= row["indexed_length"] <= row["length"]


def _left_scope(change: Change, known: Known) -> bool:
    """Say whether a conversation without a key is now another tenant's."""
    if not _edits(change, "conversation", "scope"):
        return False
    return change.rows[0]["id"] not in known.named


def _erased_ground(change: Change, known: Known) -> bool:
    if change.table != "conversation_exchange" or change.before is None or change.after is None:
        return False
    place = (change.before["conversation"], change.before["position"])
    return place in known.unprovable and not change.columns & walk._LASTING


def _unpriced(change: Change, _: Known) -> bool:
    if not _edits(change, "conversation_exchange", *walk._PRICED):
        return False
    before, after = change.rows
    return not before["cost"] and all(after[name] is None for name in walk._PRICED)


def _unused_blob(change: Change, known: Known) -> bool:
    before, after = change.before, change.after
    if change.table != "conversation_blob" or (before and (before["scope"], before["digest"]) in known.users):
        return False
    return after is None or after["scope"] != b""  # and then no conversation of this scope could use it


def _chunk_of_nothing(change: Change, known: Known) -> bool:
    row = change.after
    return (
        change.table == "conversation_blob_chunk"
        and change.before is None
        and row is not None
        and (row["scope"], row["digest"]) not in known.blobs
    )


def _told_of_checkpoint(change: Change, _: Known) -> bool:
    if not _edits(change, "conversation_checkpoint", "at", "published_to"):
        return False
    row = change.rows[1]
    try:
        names = json.loads(row["published_to"].decode()) if type(row["published_to"]) is bytes else None
    except (ValueError, RecursionError):
        return False
    return type(row["at"]) is int and isinstance(names, list) and all(isinstance(each, str) for each in names)


def _older_checkpoint(change: Change, known: Known) -> bool:
    if change.table != "conversation_checkpoint" or change.before is None or change.after is not None:
        return False
    return bool(change.before["size"] < known.sealed)


BLIND: Final = (
    Blind("leases", "who holds a pending exchange, and until when: work that is going on is no record", _lease),
    Blind(
        "the journal",
        "what has arrived of an answer that is still arriving; its outcome will commit to it",
        _is_of("conversation_journal"),
    ),
    Blind(
        "the search index",
        "derived, and nothing is concluded from it; reindex() makes it anew",
        _is_of("conversation_search"),
    ),
    Blind("how far the index is", "any length up to the log's may be; what is missing is read again", _indexed),
    Blind(
        "another tenant's",
        "no entry commits to the scope; a checkpoint of verify() shows the conversation as gone",
        _left_scope,
    ),
    Blind(
        "exchanges whose content was erased", "of what was erased nothing is left to hold a row against", _erased_ground
    ),
    Blind(
        "a row as schema 0001 had it", "where no cost was known, one without any column of costs is as good", _unpriced
    ),
    Blind(
        "when a blob was first kept",
        "it may be before any entry that uses it",
        lambda change, _: _edits(change, "conversation_blob", "created"),
    ),
    Blind(
        "blobs nothing uses", "left by who crashed between blob and entry; swept, and part of no record", _unused_blob
    ),
    Blind("chunks of no blob", "likewise", _chunk_of_nothing),
    Blind(
        "when and to whom a checkpoint was given",
        "told to the sealer itself; the anchors have what they have",
        _told_of_checkpoint,
    ),
    Blind("a checkpoint before the last", "the last one covers all that it covered", _older_checkpoint),
)


def blind(change: Change, known: Known) -> str | None:
    """Name what hides a change; None where nothing does."""
    if not change.columns:
        return "no change"
    return next((each.name for each in BLIND if each.hides(change, known)), None)


def test_the_documentation_names_what_cannot_be_found() -> None:
    """Each limit is in the README under its name."""
    said = " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())
    assert [each.name for each in BLIND if f"**{each.name}**" not in said] == []


# --- what is known of a store ----------------------------------------------------------------------------------------


@frozen
class Known:
    """
    What of a store decides whether a change can be seen, and where.

    Attributes:
        rows: Its rows, by table.
        users: Of each blob in use, as (scope, digest), the entries that use it; ``blobs`` all blobs there are.
        named: The conversations that have a key.
        unprovable: The exchanges of which something was erased.
        sealed: How many leaves the newest checkpoint covers.
    """

    rows: Mapping[str, Sequence[Row]]
    users: Mapping[tuple[bytes, bytes], Sequence[tuple[bytes, int]]]
    blobs: frozenset[tuple[bytes, bytes]]
    named: frozenset[bytes]
    unprovable: frozenset[tuple[bytes, int]]
    sealed: int

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
            max((row["size"] for row in rows["conversation_checkpoint"]), default=0),
        )


def same(one: object, other: object) -> bool:
    """Compare two values as a database tells them apart."""
    return type(one) is type(other) and one == other


# --- changing --------------------------------------------------------------------------------------------------------


def changed_value(chance: random.Random, value: Any, others: Sequence[Any], *, typed: bool) -> Any:
    """Give another value for a column; of another type too unless the database would not take that."""
    way = chance.choice(["edit", "edit", "other", "null"] + ([] if typed else ["type", "type", "huge"]))
    if way == "null":
        return None
    if way == "other":
        return chance.choice(others)
    if way == "huge":
        return chance.choice(HUGE)
    return of_another_type(chance, value) if way == "type" else edited(chance, value)


HUGE: Final = (
    *(2**63 - 1, -(2**63), 1e300, float("inf"), 1 << 40),
    *("", "\0", "\udcff", "9" * 400, "x" * 70_000, b"", bytes(16), bytes(32), bytes(70_000), b"[" * 5000),
)


def of_another_type(chance: random.Random, value: Any) -> Any:
    """Write a value as one of another type."""
    if isinstance(value, bytes):
        return chance.choice((value.decode("latin-1"), value.decode(errors="surrogateescape"), value.hex(), len(value)))
    if isinstance(value, str):
        return chance.choice((value.encode(), len(value)))
    if isinstance(value, int):
        return chance.choice((float(value), str(value), str(value).encode()))
    return chance.choice((0, 0.0, "", b"", "x"))


def edited(chance: random.Random, value: Any) -> Any:
    """Change a value a little, in its own type."""
    if isinstance(value, bytes):
        if not value:
            return b"\0"
        way = chance.random()
        if way < 0.7:
            at = chance.choice((0, chance.randrange(len(value)), len(value) // 2, len(value) - 1))
            bit = at * 8 + chance.randrange(8)
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
    """Decide one change: a column, or a row taken away, copied elsewhere, put in, or two of them changed about."""
    names = [name for name in TABLES if rows[name]]
    table = chance.choices(names, [WEIGHTS.get(name, 1) for name in names])[0]
    row, other = chance.choice(rows[table]), chance.choice(rows[table])
    way = chance.choices(("column", "delete", "insert", "copy", "swap"), (75, 8, 6, 5, 6))[0]
    if way == "column":
        column = chance.choice(TABLES[table])
        value = changed_value(chance, row[column], [each[column] for each in rows[table]], typed=typed)
        return [Change(table, row, {**row, column: value}, column)]
    if way == "delete":
        return [Change(table, row, None, way)]
    if way == "insert":
        moved = dict(row)
        for name in PLACES:
            if name in moved and chance.random() < 0.7:
                moved[name] = edited(chance, row[name]) if chance.random() < 0.5 else other[name]
        return [Change(table, None, moved, way)]
    if way == "copy":
        return [Change(table, other, {**row, **{name: other[name] for name in PLACES if name in row}}, way)]
    places = [name for name in PLACES[:3] if name in row]
    if not places or all(same(row[name], other[name]) for name in places):
        return []
    return [
        Change(table, row, {**row, **{name: other[name] for name in places}}, way),
        Change(table, other, {**other, **{name: row[name] for name in places}}, way),
    ]


PLACES: Final = ("conversation", "position", "number", "id", "key", "size", "level")
"""The columns that say where a row belongs."""


# --- judging ---------------------------------------------------------------------------------------------------------


def location_of(change: Change, known: Known) -> set[tuple[UUID, object]]:
    """Say at which entries of which conversations a fault may be."""
    return {
        (UUID(bytes=own), position) for own, position in change.places(known) if type(own) is bytes and len(own) == 16
    }


def judge(changes: Sequence[Change], faults: Sequence[Fault], known: Known) -> str | None:
    """Say what is wrong with what was found; None where a change was found where it is."""
    hidden = [blind(each, known) for each in changes]
    if not faults:
        return None if all(hidden) else "not found"
    if all(hidden):
        return f"found, though {hidden} says that it cannot be: {faults[:3]}"
    places = set().union(*(location_of(each, known) for each in changes))
    found = {(fault.conversation, fault.position) for fault in faults}
    if places & found or any(each.table in LOG and each.is_in_log(fault) for each in changes for fault in faults):
        return None
    if not places and NOBODY in {conversation for conversation, _ in found}:
        return None  # what is changed, or was put in, is of no conversation that there could be
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


def sealed(store: Store, honest: Honest, steps: int) -> str:
    """Fill a store, seal it on the way and at its end; give the checkpoint of the way, to be a pin."""
    honest.fill(steps // 2)
    note = store.seal().note
    assert note is not None
    honest.fill(steps - steps // 2)
    for chat in honest.live:
        if chat.refresh().pending is not None:
            store._database.write(partial(journal.put, of=chat.id, exchange=chat.version - 1, arrived=[(1, b"event")]))
    store.search("Hello", catch_up=60)
    store.seal()
    return note


def look(store: Store, pin: str) -> list[Fault]:
    """Verify a store as an auditor does who has the key, and a checkpoint that was kept."""
    return list(store.verify(key=VERIFIER, pin=pin))


def tamper(seed: int, changes: int, api: MessagesAPI, missed: list[object]) -> Counter[tuple[str, str]]:
    """
    Make a random sealed store and so many single changes to it.

    Returns:
        What was done, counted by table and way. What was not found where it is, is put into *missed*.
    """
    chance = random.Random(seed)
    counts: Counter[tuple[str, str]] = Counter()
    with (
        Client(api.key, base_url=api.url, max_attempts=1, clock=Clock(sleep=lambda _: None)) as client,
        Store("sqlite://", durability="normal", client=client, keep_raw=bool(seed % 2), seal=SEALS) as store,
    ):
        pin = sealed(store, Honest(store, chance, api), 24)
        kept = store.verify().checkpoint
        loose = Loosened(store)
        known = Known.of(loose.rows)
        assert look(store, pin) == [], seed
        while sum(counts.values()) < changes:
            made = change(chance, loose.rows, typed=False)
            if not made or not any(each.columns for each in made):
                continue
            for each in made:
                loose.apply(each)
            wrong = judge(made, look(store, pin), known)
            hidden = blind(made[0], known)
            if hidden == "another tenant's" and not shown_by(store, kept, made[0]):
                wrong = "gone, and a checkpoint does not tell"
            if wrong is not None:
                missed.append((seed, made, wrong))
            for each in reversed(made):
                loose.undo(each)
            counts[("hidden", hidden) if hidden else (made[0].table, made[0].way)] += 1
        assert look(store, pin) == [], seed
        sealer, store._sealer = store._sealer, None  # there is nothing to seal on closing
        assert sealer is not None
    return counts


def shown_by(store: Store, kept: Checkpoint, change: Change) -> bool:
    """Say whether an auditor who kept a checkpoint is told that a conversation is gone."""
    gone = {fault.conversation for fault in store.verify(since=kept) if fault.code == "gone"}
    return UUID(bytes=change.rows[0]["id"]) in gone


@pytest.fixture(scope="module")
def api() -> Iterator[MessagesAPI]:
    """Give a Messages API on loopback."""
    with MessagesAPI() as running:
        yield running


@pytest.mark.parametrize("seed", range(12))
def test_every_change_is_found_where_it_is(seed: int, api: MessagesAPI) -> None:
    """Twelve random stores, a hundred changes each."""
    missed: list[object] = []
    counts = tamper(seed, 100, api, missed)
    assert missed == []
    assert sum(count for (table, _), count in counts.items() if table == "hidden") < 40


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(8))
def test_every_one_of_very_many_changes_is_found(part: int, api: MessagesAPI) -> None:
    """A hundred thousand, in parts that workers may share; each has every column and every way."""
    total: Counter[tuple[str, str]] = Counter()
    missed: list[object] = []
    for seed in range(10_000 + part, 10_000 + MANY // STORES, 8):
        total += tamper(seed, STORES, api, missed)
    shown = {table: sum(n for (of, _), n in total.items() if of == table) for table in ("hidden", *TABLES)}
    told = {name: n for (of, name), n in total.items() if of == "hidden"}
    print(part, total.total(), shown, told, f"missed: {len(missed)}")  # noqa: T201
    assert missed == []
    # The first two are no part of the record; keys of data are where something is encrypted.
    hidden = {"conversation_journal", "conversation_search", "conversation_data_key"}
    assert {of for of, _ in total} == {"hidden", *TABLES} - hidden
    untried = {(of, name) for of, names in TABLES.items() for name in names if of not in hidden} - total.keys()
    harmless = {("conversation_blob", "created"), ("conversation_checkpoint", "published_to")}
    assert untried <= harmless or total.total() < MANY_ENOUGH


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
    with Store(database_url, seal=SEALS) as store:
        pin = sealed(store, Honest(store, chance), 40)
        guarded = Guarded(engine)
        known = Known.of(guarded.rows)
        tried = 0
        while tried < 120:
            made = change(chance, guarded.rows, typed=True)
            if not made or not guarded.apply(made):
                continue
            tried += 1
            wrong = judge(made, look(store, pin), known)
            assert wrong is None, (made, wrong)
            guarded.undo(made)
        assert look(store, pin) == []
    engine.dispose()
