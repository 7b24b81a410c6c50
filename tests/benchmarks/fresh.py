"""
What a fresh process is asked to do: ``python -m tests.benchmarks.fresh WHAT [ARGUMENT]``.

It prints one JSON object: the seconds it took, imports left out, and what came of it.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial


def ours(path: str) -> dict[str, object]:
    """Open a store, load the one conversation, build its next body and digest."""
    from conversation_store import Client, Store  # noqa: F401, PLC0415 - what is imported is measured elsewhere

    begun = time.perf_counter()
    with Store(f"sqlite:///{path}") as store:
        request = store.get("telegram:42").request(check=False)
        body, digest = request.body, request.digest
        took = time.perf_counter() - begun
    return {"seconds": took, "bytes": len(body), "sha256": digest.hex()}


def floor(path: str) -> dict[str, object]:
    """Read the same rows and join them; then take the digest, timed apart."""
    import hashlib  # noqa: PLC0415
    import sqlite3  # noqa: PLC0415

    begun = time.perf_counter()
    connection = sqlite3.connect(path)
    (settings,) = connection.execute(
        "SELECT body FROM conversation_entry WHERE kind = 'settings' ORDER BY position DESC LIMIT 1"
    ).fetchone()
    rows = connection.execute(
        "SELECT position, header, body FROM conversation_entry WHERE kind = 'turn' ORDER BY position"
    ).fetchall()
    body = b'{"messages":[' + b",".join([row[2] for row in rows]) + b"]," + settings[1:]
    joined = time.perf_counter() - begun
    digest = hashlib.sha256(body)
    took = time.perf_counter() - begun
    connection.close()
    return {"seconds": joined, "with digest": took, "bytes": len(body), "sha256": digest.hexdigest()}


def through(module: str, path: str) -> dict[str, object]:
    """Open another library's store, load its conversation, build what a request would carry."""
    from contextlib import ExitStack  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from tests.benchmarks import peers  # noqa: PLC0415

    peers.load(module)
    begun = time.perf_counter()
    with ExitStack() as closing:
        body = peers.PEERS[module](Path(path), closing).body()
        took = time.perf_counter() - begun
    return {"seconds": took, "bytes": len(body)}


def imports(statement: str) -> dict[str, object]:
    """Run an import."""
    begun = time.perf_counter()
    exec(statement)
    return {"seconds": time.perf_counter() - begun}


if __name__ == "__main__":
    works = {"ours": ours, "floor": floor, "imports": imports}
    what = works.get(sys.argv[1]) or partial(through, sys.argv[1])
    print(json.dumps(what(sys.argv[2])))  # noqa: T201
