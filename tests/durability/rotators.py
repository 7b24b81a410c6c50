"""
Processes for ``test_rotation.py``: one that writes and one that rotates, each told what to do by its arguments.

    python -m tests.durability.rotators write URL RING KEY…      a line for each turn that is committed
    python -m tests.durability.rotators rotate URL RING          a line for each page that is committed

Both go on until they are killed.
"""

from __future__ import annotations

import sys
from itertools import count

from conversation_store import Conversation, FileKeyRing, Image, Store
from conversation_store.errors import ConflictError
from tests.golden.make import picture


def tell(line: str) -> None:
    """Tell the test something, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def said(chat: Conversation, words: str) -> None:
    """Say something, whoever else appends."""
    while True:
        try:
            chat.user(words, *([Image.from_bytes(picture())] if words.endswith("0") else []))
        except ConflictError:
            chat.refresh()
        else:
            return


def write(store: Store, *keys: str) -> None:
    """Say something in one conversation after the other."""
    chats = [store.get(key) for key in keys]
    for n in count():
        for key, chat in zip(keys, chats, strict=True):
            words = f"{keys[0]} says {n}"
            said(chat, words)
            tell(f"{key} {words}")


def rotate(store: Store) -> None:
    """Renew all keys, again and again."""
    while True:
        store.rotate_keys(data=True, seen=lambda rows: tell(str(rows)))
        tell("round")


if __name__ == "__main__":
    work, url, ring, *keys = sys.argv[1:]
    with Store(url, keys=FileKeyRing(ring)) as opened:
        if work == "write":
            write(opened, *keys)
        else:
            rotate(opened)
