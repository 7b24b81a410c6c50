"""
Writes the golden store of a revision: run once, with the release whose revision it is, and kept for ever.

    git worktree add /tmp/then COMMIT
    PYTHONPATH=/tmp/then python tests/golden/make.py 0001 tests/golden

COMMIT is the last one with that revision: for 0001 the parent of the one that added ``0002_costs.py``, and so on. It
uses only what the first release had, and of later ones what they have. What it writes is never written again: a
body that a later release builds otherwise is a fault of that release.

Beside the SQL of the whole file it writes every body as it went out, taken from ``Pending.body`` before anything was
read back: ``{"key": …, "position": …, "body": …}``, a line each.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from conversation_store import Client, Conversation, Image, Store

SETTINGS: Final[dict[str, Any]] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 256,
    "system": "Answer in one line, with 1.50 as it is.",
    "tools": [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}],
}
_SHADOWS: Final = ("_data", "_idx", "_content", "_docsize", "_config")


class RefusedError(Exception):
    """What a caller's client raises."""

    status_code = 400


class Golden:
    """The store that is written, and the bodies that went out."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bodies: list[dict[str, Any]] = []

    def ask(self, chat: Conversation, *content: Any, **options: Any) -> Any:
        """Begin an exchange, and note its body."""
        pending = chat.begin(*content, **options)
        body = b"".join(pending.request) if hasattr(pending.request, "__iter__") else pending.body
        self.bodies.append({"key": chat.key, "position": pending.exchange.position, "body": body.decode()})
        return pending


def answer(*content: dict[str, Any], stop_reason: str = "end_turn") -> bytes:
    """Write an answer with white space and spellings of its own."""
    said = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 3, "cache_read_input_tokens": 0},
    }
    return json.dumps(said, indent=1).encode()


def text(words: str) -> dict[str, Any]:
    """Write a block of words."""
    return {"text": words, "type": "text", "citations": None}


def picture() -> bytes:
    """Draw a picture that is long enough to be kept apart."""
    rows = b"".join(b"\0" + bytes((n * 7 + row * 13) % 251 for n in range(3 * 40)) for row in range(40))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 0)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def talk(golden: Golden) -> Conversation:
    """Have a conversation of every kind that all releases know."""
    chat = golden.store.open("talk", **SETTINGS)
    chat.label(title="Ants", metadata={"a": [1, 1.50, None]})
    golden.ask(chat, "Hello — \u2028 \ud83d\udc1c".encode("utf-16", "surrogatepass").decode("utf-16")).finish(
        answer(text("Hi."))
    )
    chat.user({"type": "text", "text": "Look:"}, Image.from_bytes(picture()))
    chat.assistant("A picture.", reason="canned")
    golden.ask(chat, "And in Berlin?", idempotency_key="update:1").finish(
        answer(
            text("I shall look."),
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Berlin", "n": 1.0}},
            stop_reason="tool_use",
        )
    )
    chat.tool_result("toolu_1", "23 degrees")
    golden.ask(chat).finish(answer(text(""), text("Warm.")))
    golden.ask(chat, "In one word:", prefill="It is").finish(answer(text(" warm")))
    golden.ask(chat, "This is refused").fail(RefusedError("no"))
    golden.ask(chat, "This too").fail(ConnectionError("gone"))
    chat.update(max_tokens=300, temperature=0.5)
    golden.ask(chat, "Once more", top_k=3).finish(answer(text("Good.")))
    return chat


def views(golden: Golden, chat: Conversation) -> None:
    """Fork, go back and set aside, where the release can."""
    forked = chat.fork(2, key="fork")
    golden.ask(forked, "Another way").finish(answer(text("Yes.")))
    forked.rewind(1)
    golden.ask(forked, "And another").finish(answer(text("Yes?")))
    forked.set_aside(3)
    forked.update(cache="auto")
    golden.ask(forked, "Marked", prefill="So").finish(answer(text(" be it")))
    golden.ask(forked, "And again").finish(answer(text("Yes!")))


def dumped(path: Path) -> Iterator[str]:
    """Write a database as SQL; what belongs to a virtual table it makes itself."""
    connection = sqlite3.connect(path)
    # On which machine it was made is of no interest.
    connection.execute(
        "UPDATE conversation SET lease_owner = '00000000-0000-0000-0000-000000000000 1 1' WHERE lease_owner <> ''"
    )
    made = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
    ).fetchall()
    virtual = [name for _, name, sql in made if sql.startswith("CREATE VIRTUAL")]
    shadows = {f"{name}{each}" for name in virtual for each in _SHADOWS}
    for kind, name, sql in made:
        if name not in shadows:
            yield f"{sql};\n"
        if kind == "table" and name not in shadows and name not in virtual:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            quoted = ", ".join(f"quote({column})" for column in columns)
            for row in connection.execute(f"SELECT {quoted} FROM {name}"):
                yield f"INSERT INTO {name} VALUES ({', '.join(row)});\n"
    connection.close()


def main(revision: str, folder: Path) -> None:
    """Write the store of a revision and its bodies."""
    path = folder / f"{revision}.db"
    with Store(f"sqlite:///{path}", client=Client("none"), keep_raw=True) as store:
        golden = Golden(store)
        chat = talk(golden)
        if hasattr(chat, "fork"):
            views(golden, chat)
        open_ = golden.ask(store.open("pending", **SETTINGS), "Never answered")
        assert open_.exchange.state == "pending"
    (folder / f"{revision}.sql").write_text("".join(dumped(path)), encoding="utf-8")
    lines = [json.dumps(each, ensure_ascii=False, sort_keys=True) + "\n" for each in golden.bodies]
    (folder / f"{revision}.jsonl").write_text("".join(lines), encoding="utf-8")
    for each in folder.glob(f"{revision}.db*"):
        each.unlink()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
