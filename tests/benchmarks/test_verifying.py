"""Verifying a large store, beside reading the same rows and hashing the same bytes with nothing but ``sqlite3``."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from conversation_store import Store
from conversation_store.record import chain
from conversation_store.record.chain import draft
from conversation_store.storage import identity
from tests.benchmarks import histories

TURNS: Final = int(os.environ.get("CONVERSATION_STORE_VERIFIED_TURNS", "1000000"))
OF_ONE: Final = 50
AT: Final = 1_763_805_600_000_000

_ROW: Final = """
INSERT INTO conversation (id, scope, length, head, view_position, settings_position, pending_token, pending_position,
    lease_until, lease_owner, indexed_length, sealed_length, created, updated)
VALUES (?, x'', ?, ?, 0, 1, zeroblob(16), -1, 0, '', 0, 0, ?, ?)
"""
_ENTRY: Final = """
INSERT INTO conversation_entry (conversation, position, kind, at, header, body, about, salt, request_salt, digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ALL: Final = (
    "SELECT position, kind, at, header, body, salt, digest FROM conversation_entry ORDER BY conversation, position"
)
_MEASURE: Final = """
import json, resource, sys, time
from conversation_store import Store
from conversation_store.audit import verification
with Store(sys.argv[1]) as store:
    begun = time.process_time()
    found = store.verify(structure=sys.argv[2] == "structure")
    took = time.process_time() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"faults": len(found), "entries": found.entries, "seconds": took, "peak": peak}))
"""


def fill(path: Path, turns: int) -> None:
    """Make a store of so many turns, fifty a conversation, past the library: it would take its time to be durable."""
    Store(histories.url_of(path)).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    for _ in range(turns // OF_ONE):
        of = identity.new_id()
        drafts = [draft("opened", at=AT, salt=identity.new_salt(), fields={"format": 1})]
        drafts.append(draft("settings", at=AT, salt=identity.new_salt(), fields={}, body=b'{"max_tokens":1024}'))
        for n in range(OF_ONE):
            body = b'{"role":"%s","content":"%s"}' % ((b"user", b"assistant")[n % 2], histories.TEXT.encode())
            drafts.append(draft("turn", at=AT, salt=identity.new_salt(), fields={"origin": "imported"}, body=body))
        entries = chain.chain(of, 0, chain.genesis(of), drafts)
        connection.execute(_ROW, (of.bytes, len(entries), entries[-1].digest, AT, AT))
        connection.executemany(
            _ENTRY,
            [
                (of.bytes, e.position, e.kind, e.at, e.header, e.body, e.about, e.salt, e.request_salt, e.digest)
                for e in entries
            ],
        )
    connection.execute("COMMIT")
    connection.close()


def measured(path: Path, how: str) -> Mapping[str, Any]:
    """Verify in a fresh process: its seconds of a processor, whoever else is at work, and its peak of memory in KiB."""
    command = [sys.executable, "-c", _MEASURE, histories.url_of(path), how]
    found: Mapping[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=600).stdout)
    return found


def floor(path: Path, *, bodies: bool) -> float:
    """Read the same rows in the same order, and hash each header and body once: seconds."""
    connection = sqlite3.connect(path)
    begun = time.process_time()
    wanted = _ALL if bodies else _ALL.replace(" body, salt,", "")
    for row in connection.execute(wanted):
        sha256(row[3]).digest()
        if bodies:
            sha256(row[4] or b"").digest()
    taken = time.process_time() - begun
    connection.close()
    return taken


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a large store."""
    path = tmp_path_factory.mktemp("verifying") / "bot.db"
    fill(path, TURNS)
    yield path
    path.unlink()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("how", "most"), [("everything", 20), ("structure", 5)])
def test_a_million_turns(full: Path, how: str, most: float) -> None:
    """Everything within 20 seconds and the structure within 5, in 200 MiB; compare the ratio to the floor."""
    found, least = measured(full, how), floor(full, bodies=how == "everything")
    ratio, peak = found["seconds"] / least, found["peak"] / 1024
    print(f"{how}: {found['seconds']:.1f} s, floor {least:.1f} s, ratio {ratio:.2f}, {peak:.0f} MiB")  # noqa: T201
    assert found["faults"] == 0
    assert found["entries"] == TURNS + TURNS // OF_ONE * 2
    assert found["seconds"] <= most
    assert found["peak"] <= 200 * 1024


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_turns_since(full: Path) -> None:
    """What came since a checkpoint of a large store is verified within a second."""
    with Store(histories.url_of(full)) as store:
        known = store.verify(structure=True).checkpoint
        for listed in store.list(50):
            store.get(listed.id).append(*[{"role": "user", "content": "Hello"}] * 20, check=False)
        begun = time.perf_counter()
        found = store.verify(since=known)
        took = time.perf_counter() - begun
    print(f"since: {took:.2f} s, {found.entries} entries")  # noqa: T201
    assert (found, found.entries) == ([], 1000)
    assert took <= 1


def test_it_takes_no_more_the_longer_a_conversation_is(tmp_path: Path) -> None:
    """Bodies of requests are made again from one another: four times the exchanges take about four times as long."""
    taken = {}
    for exchanges in (100, 400):
        path = tmp_path / f"{exchanges}.db"
        with Store(histories.url_of(path), durability="normal") as store:
            chat = store.open(None, **histories.SETTINGS)
            for _ in range(exchanges):
                histories.ask(chat)
            times = []
            for _ in range(3):
                begun = time.process_time()
                assert store.verify() == []
                times.append(time.process_time() - begun)
        taken[exchanges] = min(times)
    assert taken[400] / taken[100] < 8, taken  # 16 where each body begins with nothing
