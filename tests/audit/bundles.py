"""
Evidence bundles of random honest stores: sealed and not, of forks, with parts revealed, with pins.

``made(seed)`` is what an agreement of two verifiers is tried on; ``tests/audit/mutations.py`` changes what it gives.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

from attrs import field, frozen

from conversation_store import Conversation, Seals, Store
from tests.audit.honest import Honest
from tests.sealed import KEY, VERIFIER


@frozen
class Made:
    """
    A bundle and what its auditor has.

    Attributes:
        name: What it is of.
        data: The archive.
        key: The verifier key of its seals; None where the store has none.
        pin: What the auditor kept; None for nothing.
    """

    name: str
    data: bytes = field(repr=lambda data: f"<{len(data)} bytes>")
    key: str | None = None
    pin: bytes | None = field(default=None, repr=False)


def written(chat: Conversation, **how: object) -> bytes:
    """Write the evidence of a conversation."""
    file = io.BytesIO()
    chat.evidence(file, **how)  # type: ignore[arg-type]
    return file.getvalue()


def made(seed: int, url: str = "sqlite://", *, steps: int = 20) -> Iterator[Made]:
    """Fill a store at random, seal it in two seeds of three, and write the evidence of each of its conversations."""
    chance = random.Random(seed)
    seals = Seals(key=KEY, memory=None) if seed % 3 else None
    with Store(url, seal=seals, keep_raw=seed % 2 == 0, durability="normal") as store:
        honest = Honest(store, chance)
        honest.fill(steps)
        note = store.seal().note if seals is not None else None
        kept = store.verify().checkpoint.json()
        honest.fill(steps // 2)
        if seals is not None:
            store.seal()
        for n, chat in enumerate(honest.chats):
            yield from _of(chat.refresh(), f"{seed}.{n}", chance, note, kept)


def _of(chat: Conversation, name: str, chance: random.Random, note: str | None, kept: bytes) -> Iterator[Made]:
    key = None if note is None else VERIFIER
    first = chance.randrange(chat.version)
    reveal = range(first, chance.randrange(first, chat.version) + 1)
    pin = None if note is None or chance.random() < 0.3 else note.encode()
    yield Made(f"{name} whole", written(chat, pin=pin, why=chance.choice((None, "a court asked é"))), key, pin)
    yield Made(f"{name} of {reveal}", written(chat, reveal=reveal, requests=chance.choice(("all", "last"))), key)
    if chat.id.hex.encode() in kept and chance.random() < 0.5:
        yield Made(f"{name} with a head", written(chat, requests="none"), key, kept)
