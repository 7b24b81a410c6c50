"""Searching a million turns and listing a million conversations: what a first page costs, and what the next ones do."""

from __future__ import annotations

import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from conversation_store import Store
from conversation_store.record import canonical
from conversation_store.storage import search

TURNS: Final = 1_000_000
OF_ONE: Final = 1_000
AT: Final = 1_763_805_600_000_000
COMMON: Final = "common"
"""A word in every second turn."""

_ROW: Final = """
INSERT INTO conversation (id, scope, title, length, head, view_position, settings_position, pending_token,
    pending_position, lease_until, lease_owner, indexed_length, sealed_length, created, updated)
VALUES (?, x'', ?, ?, zeroblob(32), 0, 0, zeroblob(16), -1, 0, '', ?, 0, ?, ?)
"""
_ENTRY: Final = """
INSERT INTO conversation_entry (conversation, position, kind, at, digest, header, body)
VALUES (?, ?, 'turn', ?, zeroblob(32), ?, ?)
"""
_WORDS: Final = "INSERT INTO conversation_search (number, conversation, position, words) VALUES (?, ?, ?, ?)"


def took(work: Callable[[], object], times: int = 9) -> float:
    """Measure some work: seconds, the median."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a database of a million turns in a thousand conversations, known to the index."""
    path = tmp_path_factory.mktemp("search") / "bot.db"
    Store(f"sqlite:///{path}").close()
    drawn = random.Random(7)
    vocabulary = [f"{a}{b}{c}" for a in ("ka", "lo", "mi", "nu") for b in ("ras", "tel", "vin") for c in range(400)]
    facets = {
        role: " ".join(search.Wanted(role=role, origin=origin).facets(""))
        for role, origin in (("user", "human"), ("assistant", "model"))
    }
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("synchronous = OFF", "cache_size = -200000", "wal_autocheckpoint = 20000"):
        connection.execute(f"PRAGMA {pragma}")
    for first in range(0, TURNS // OF_ONE, 50):
        connection.execute("BEGIN")
        for n in range(first, first + 50):
            of, entries, indexed = n.to_bytes(16, "big"), [], []
            for position in range(OF_ONE):
                # Conversations go on beside each other, as they do.
                at = AT + (position * (TURNS // OF_ONE) + n) * 1000
                role, origin = (("user", "human"), ("assistant", "model"))[position % 2]
                said = drawn.choices(vocabulary, k=24)
                if drawn.random() < 0.5:
                    said[drawn.randrange(24)] = COMMON
                text = " ".join(said)
                body = canonical.dumps({"role": role, "content": text})
                entries.append((of, position, at, b'{"origin":"%s"}' % origin.encode(), body))
                indexed.append((at * 2048, of, position, f"{facets[role]} {text}"))
            connection.execute(_ROW, (of, None, OF_ONE, OF_ONE, AT, AT + n))
            connection.executemany(_ENTRY, entries)
            connection.executemany(_WORDS, indexed)
            connection.executemany(
                "INSERT INTO conversation_search_fts (rowid, words) VALUES (?, ?)",
                [(number, words) for number, _, _, words in indexed],
            )
        connection.execute("COMMIT")
    connection.close()
    yield path
    path.unlink()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_common_word_among_a_million_turns(full: Path) -> None:
    """The first page of a word in half a million turns is there within 100 ms, and so is the one far behind it."""
    with Store(f"sqlite:///{full}") as store:
        page = store.search(COMMON)
        assert len(page) == 50
        assert [hit.at for hit in page] == sorted((hit.at for hit in page), reverse=True)
        far = f"n{(AT + TURNS * 500) * 2048}"
        costs = {
            "first page": took(lambda: store.search(COMMON)),
            "a page in the middle": took(lambda: store.search(COMMON, after=far)),
            "of one role": took(lambda: store.search(COMMON, role="user")),
            "a rare phrase": took(lambda: store.search("karas1 lotel2")),
            "the best": took(lambda: store.search(COMMON, order="best"), 3),
        }
        store.open("a", model="claude-sonnet-5-5", max_tokens=1).user("A common ant.")
        costs["with one turn to catch up"] = took(lambda: store.search(COMMON), 1)
        assert store.search(COMMON)[0].key == "a"
    for name, seconds in costs.items():
        print(f"{name}: {seconds * 1e3:.1f} ms")  # noqa: T201
    assert costs["first page"] < 0.1
    assert costs["a page in the middle"] < 0.1


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_newest_of_a_million_conversations(tmp_path: Path) -> None:
    """The latest 50 are there within 5 ms, and so is a page in the middle."""
    path = tmp_path / "bot.db"
    Store(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    rows = ((n.to_bytes(16, "big"), b"title %d" % n, 2, 2, AT, AT + n) for n in range(1_000_000))
    connection.executemany(_ROW, rows)
    connection.execute("COMMIT")
    connection.close()
    with Store(f"sqlite:///{path}") as store:
        middle = store.list(1, since=AT)[0]
        newest = took(lambda: store.list(50))
        after = took(lambda: store.list(50, after=middle))
        titled = took(lambda: store.list(50, title="title 9999"), 3)
        print(f"newest {newest * 1e3:.2f} ms, next {after * 1e3:.2f} ms, by title {titled * 1e3:.1f} ms")  # noqa: T201
    assert newest < 0.005
    assert after < 0.005
