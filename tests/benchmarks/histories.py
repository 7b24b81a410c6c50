"""Conversations of a given length to measure on, and the same rows written through bare ``sqlite3``."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from conversation_store import Conversation, Store
from conversation_store.storage import identity

KEY: Final = "telegram:42"
SETTINGS: Final = {"model": "claude-sonnet-5-5", "max_tokens": 1024}
TEXT: Final = ("The ants of the garden carry crumbs along the wall, one behind the other. " * 9)[:600]
ANSWER: Final = json.dumps(
    {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 2095, "output_tokens": 503},
    }
).encode()

_BATCH: Final = 500
_PRAGMAS: Final = (
    "busy_timeout",
    "journal_mode",
    "foreign_keys",
    "secure_delete",
    "trusted_schema",
    "journal_size_limit",
    "synchronous",
)
_TOKEN: Final = b"\1" * 16
_ENDED: Final = (
    "state",
    "served_by",
    "ended",
    "attempts",
    "outcome",
    "turn",
    "message_id",
    "stop_reason",
    "input_tokens",
    "output_tokens",
    "usage",
    "cost",
    "unpriced",
    "price",
    "work_input",
    "work_write_5m",
    "work_write_1h",
    "work_read",
    "work_output",
    "web_searches",
    "web_fetches",
    "code_executions",
)


def say(chat: Conversation) -> None:
    """Append a turn of 600 characters."""
    chat.user(TEXT)


def ask(chat: Conversation) -> None:
    """Do everything of an exchange but HTTP; a history longer than the API takes is asked all the same."""
    chat.begin(TEXT, check=False).finish(ANSWER)


def url_of(path: Path) -> str:
    """Name a file as a database."""
    return f"sqlite:///{path}"


def write(path: Path, turns: int, last: Callable[[Conversation], None] = say) -> None:
    """Make a store with one conversation of so many turns, and do *last* what is going to be measured."""
    with Store(url_of(path)) as store:
        chat = store.open(KEY, **SETTINGS)
        for start in range(0, turns, _BATCH):
            numbers = range(start, min(start + _BATCH, turns))
            chat.append(*({"role": ("user", "assistant")[n % 2], "content": TEXT} for n in numbers))
        last(chat)


def copied(path: Path) -> Path:
    """Copy the file of a store that is closed."""
    return Path(shutil.copy(path, path.with_suffix(".bare.db")))


def pragmas_of(store: Store) -> list[str]:
    """Read how the library sets up its connections, as statements that do the same."""
    with store._database.read() as connection:
        values = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in _PRAGMAS}
    return [f"PRAGMA {name} = {value}" for name, value in values.items()]


class Bare:
    """
    The least that would have to be done: the same rows and bytes, with the PRAGMAs of the library.

    It works on a copy of a store's file and writes there, again and again, what the library wrote last. SQLite
    itself copies its write-ahead log back, at the 4 MB from which the library does.
    """

    def __init__(self, path: Path, pragmas: Sequence[str] = (), key: str = KEY) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._execute = self._connection.execute
        for pragma in pragmas:
            self._execute(pragma)
        of = f"= (SELECT conversation FROM conversation_key WHERE key = x'{key.encode().hex()}')"
        newest = f"WHERE conversation {of} ORDER BY position DESC LIMIT"
        self._entries = self._rows(f"SELECT * FROM conversation_entry {newest} 4")[::-1]
        self._exchange = self._rows(f"SELECT * FROM conversation_exchange {newest} 1")
        row = self._rows(f"SELECT * FROM conversation WHERE id {of}")[0]
        self._id, self._length, self._token = row["id"], row["length"], row["pending_token"]
        self._owner = identity.owner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def append(self, times: int = 1) -> None:
        """Append the newest entry once more, or so many times at once: compare and set, insert, commit."""
        self._execute("BEGIN IMMEDIATE")
        entries = self._entries[-1:] * times
        self._compare_and_set(entries, self._token)
        self._insert("conversation_entry", self._placed(entries))
        self._execute("COMMIT")
        self._length += times

    def ask(self) -> None:
        """Write the rows of one exchange once more: turn and request, commit; outcome and turn, commit."""
        whole = {**self._exchange[0], "position": self._length + 1}
        begun = {**whole, **dict.fromkeys(_ENDED), "state": "pending", "attempts": 0}
        begun |= {"input_tokens": 0, "output_tokens": 0}
        self._execute("BEGIN IMMEDIATE")
        lease = {"pending_token": _TOKEN, "pending_position": self._length + 1}
        lease |= {"lease_until": whole["ended"], "lease_owner": self._owner}
        self._compare_and_set(self._entries[:2], self._token, lease)
        self._insert("conversation_entry", self._placed(self._entries[:2]))
        self._insert("conversation_exchange", [begun])
        self._execute("COMMIT")
        self._length += 2
        self._execute("BEGIN IMMEDIATE")
        lease = {"pending_token": self._token, "pending_position": -1, "lease_until": 0, "lease_owner": ""}
        self._compare_and_set(self._entries[2:], _TOKEN, lease)
        self._insert("conversation_entry", self._placed(self._entries[2:]))
        self._execute(
            f"UPDATE conversation_exchange SET {', '.join(f'{name} = ?' for name in _ENDED)} "
            "WHERE conversation = ? AND position = ?",
            (*(whole[name] for name in _ENDED), self._id, whole["position"]),
        )
        self._execute("COMMIT")
        self._length += 2

    def wires(self) -> list[bytes]:
        """Read the bytes of every turn."""
        rows = self._execute(
            "SELECT position, header, body FROM conversation_entry WHERE conversation = ? AND kind = 'turn' "
            "ORDER BY position",
            (self._id,),
        )
        return [body for _, _, body in rows.fetchall()]

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        found = self._execute(statement)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]

    def _placed(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**entry, "position": self._length + n} for n, entry in enumerate(entries)]

    def _compare_and_set(
        self, entries: Sequence[Mapping[str, Any]], token: bytes, changes: Mapping[str, Any] | None = None
    ) -> None:
        new = {"length": self._length + len(entries), "head": entries[-1]["digest"], "updated": entries[-1]["at"]}
        new |= changes or {}
        changed = self._execute(
            f"UPDATE conversation SET {', '.join(f'{name} = ?' for name in new)} "
            "WHERE id = ? AND length = ? AND pending_token = ?",
            (*new.values(), self._id, self._length, token),
        )
        assert changed.rowcount == 1

    def _insert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._connection.executemany(
            f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", [tuple(row.values()) for row in rows]
        )
