"""
Looking for what was erased, as somebody would who has the whole store and knows everything but four digits.

Whoever knows the rest of a text tries every PIN in it and compares digests: plain ones, and commitments under every
salt that is left. What they find them among is every value of every row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from sqlalchemy import MetaData, create_engine, select

from conversation_store import Store
from conversation_store.record import chain

PINS = tuple(f"{n:04d}" for n in range(10_000))

_HEX = re.compile(rb"[0-9a-f]{32,}")


def values(url: str) -> Iterator[bytes]:
    """Read every value of every table there is, ours and the search engine's own, as bytes."""
    engine = create_engine(url)
    try:
        there = MetaData()
        there.reflect(engine)
        with engine.connect() as connection:
            for table in there.tables.values():
                for row in connection.execute(select(table)):
                    for value in row:
                        if value is not None:
                            yield value if isinstance(value, bytes) else str(value).encode()
    finally:
        engine.dispose()


def files(url: str) -> bytes:
    """Read the file of a SQLite database and those beside it; nothing of other databases."""
    if not url.startswith("sqlite:///"):
        return b""
    path = Path(url.removeprefix("sqlite:///"))
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(path.name + "*")))


def exports(store: Store) -> Iterator[bytes]:
    """Write everything in every form that takes it."""
    yield b"".join(store.export())
    for listed in store.list(limit=1000):
        chat = store.get(listed.id)
        yield from (b"".join(chat.export(form)) for form in ("messages", "openai", "markdown", "html"))


def words_left(store: Store, url: str, words: Iterable[str]) -> set[str]:
    """Say which words are anywhere: rows, files, exports."""
    everything = b"\n".join([*values(url), files(url), *exports(store)]).lower()
    return {word for word in words if word.lower().encode() in everything}


def pins_left(url: str, texts: Sequence[bytes], marker: str, pins: Iterable[str] = PINS) -> set[str]:
    """
    Try PINs in texts, in the place of *marker*, against every digest and commitment that is left.

    Args:
        url: The store.
        texts: Everything that ever held the PIN, byte for byte as far as anybody could know it.
        marker: What stands in them for the PIN.
        pins: Those to try.
    """
    return pins_among(values(url), texts, marker, pins)


def pins_among(values: Iterable[bytes], texts: Sequence[bytes], marker: str, pins: Iterable[str] = PINS) -> set[str]:
    """Try PINs against every digest, and under every salt, among some values; arguments as ``pins_left``."""
    known, salts = set(), []
    beginnings: set[bytes] = set()
    for value in values:
        if len(value) == sha256().digest_size:
            known.add(value)
            salts.append(value)
        for found in _HEX.findall(value):
            beginnings.add(found[:32])
    beginnings |= {value.hex()[:32].encode() for value in known}
    pieces = [text.split(marker.encode()) for text in dict.fromkeys(texts)]
    found = set()
    for pin in pins:
        digests = [sha256(pin.encode().join(piece)).digest() for piece in pieces]
        tried = [digest.hex()[:32].encode() for digest in digests]
        tried += [chain.part(salt, chain.JSON_TYPE, digest).hex()[:32].encode() for salt in salts for digest in digests]
        if any(each in beginnings for each in tried):
            found.add(pin)
    return found
