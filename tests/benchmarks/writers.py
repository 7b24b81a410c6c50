"""
One of many writers: ``python -m tests.benchmarks.writers WHO URL KEY``.

It opens the database and prints a line when it is ready. For each line that it is sent, a number of seconds, it appends
turns to the conversation of its own, each durable before the next, and prints how many, and what it was refused.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import make_url

from conversation_store import Client, ConversationStoreError, Store  # noqa: F401 - imported before the clock runs
from tests.benchmarks import histories
from tests.benchmarks.histories import Bare

DRIVER: Final = "postgresql+psycopg"


@contextmanager
def ours(url: str, key: str) -> Iterator[Callable[[], object]]:
    """Append through the library."""
    with Store(url) as store:
        chat = store.get(key)
        yield lambda: histories.say(chat)


@contextmanager
def bare(url: str, key: str) -> Iterator[Callable[[], object]]:
    """Write the same rows through the driver alone."""
    found = make_url(url)
    if found.get_backend_name() == "sqlite":
        with Store(url) as store:
            pragmas = histories.pragmas_of(store)
        with Bare(Path(str(found.database)), pragmas, key) as writer:
            yield writer.append
        return
    with psycopg.connect(url.replace(DRIVER, "postgresql"), autocommit=True) as connection:
        yield BarePostgreSQL(connection, key).append


class BarePostgreSQL:
    """The statements of an append, through psycopg alone."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]], key: str) -> None:
        self._execute = connection.execute
        (self._id,) = connection.execute(
            "SELECT conversation FROM conversation_key WHERE key = %s", (key.encode(),)
        ).fetchone() or (None,)
        row = connection.execute("SELECT length, pending_token FROM conversation WHERE id = %s", (self._id,)).fetchone()
        assert row is not None
        self._length, self._token = int(str(row[0])), row[1]
        found = connection.execute(
            "SELECT * FROM conversation_entry WHERE conversation = %s ORDER BY position DESC LIMIT 1", (self._id,)
        )
        self._names = [column.name for column in found.description or ()]
        self._entry = dict(zip(self._names, found.fetchone() or (), strict=True))

    def append(self) -> None:
        """Append the newest entry once more: compare and set, insert, commit."""
        entry = {**self._entry, "position": self._length}
        self._execute("BEGIN")
        changed = self._execute(
            "UPDATE conversation SET length = %s, head = %s, updated = %s "
            "WHERE id = %s AND length = %s AND pending_token = %s",
            (self._length + 1, entry["digest"], entry["at"], self._id, self._length, self._token),
        )
        assert changed.rowcount == 1
        places = ", ".join(["%s"] * len(entry))
        self._execute(
            f"INSERT INTO conversation_entry ({', '.join(self._names)}) VALUES ({places})".encode(),
            tuple(entry.values()),
        )
        self._execute("COMMIT")
        self._length += 1


def write(append: Callable[[], object], seconds: float) -> dict[str, object]:
    """Append for so long."""
    done, refused, slowest = 0, [], 0.0
    begun = time.perf_counter()
    while (before := time.perf_counter()) < begun + seconds:
        try:
            append()
        except ConversationStoreError as error:
            refused.append(str(error))
        else:
            done += 1
        slowest = max(slowest, time.perf_counter() - before)
    return {"done": done, "refused": refused, "slowest": slowest}


def main(who: str, url: str, key: str) -> None:
    """Write, and tell."""
    with {"ours": ours, "bare": bare}[who](url, key) as append:
        append()
        print("ready", flush=True)  # noqa: T201
        for line in sys.stdin:
            print(json.dumps(write(append, float(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
