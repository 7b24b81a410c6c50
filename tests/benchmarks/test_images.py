"""What a picture costs that comes with turn after turn: on disk, in memory, and in time while a body is sent."""

from __future__ import annotations

import base64
import os
import resource
import struct
import zlib
from typing import Final

import pybase64

from conversation_store import Store
from tests.benchmarks import histories
from tests.benchmarks.conftest import Beside, Place

SIDE: Final = (1733, 577)


def picture() -> bytes:
    """Make a PNG of one megabyte that nothing makes smaller."""
    width, height = SIDE
    lines = b"".join(b"\0" + os.urandom(width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pieces = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 0)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in pieces)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def resident() -> int:
    """Tell how much memory this process has had at most, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_the_same_picture_with_every_turn(beside: Beside, memory: Place) -> None:
    """Of 200 turns every user's has the same picture: one copy is kept, and a body is made while it is sent."""
    turns, data = beside.turns(200), picture()
    path = memory.folder / "bot.db"
    source = {"type": "base64", "media_type": "image/png", "data": pybase64.b64encode(data).decode()}
    with Store(histories.url_of(path)) as store:
        chat = store.open(histories.KEY, **histories.SETTINGS)
        for _ in range(turns):
            chat.user({"type": "image", "source": source}, "What is it?")
            chat.assistant("Noise.")
    kept = sum(file.stat().st_size for file in memory.folder.iterdir())
    assert kept < 1_400_000
    with Store(histories.url_of(path)) as store:
        chat = store.get(histories.KEY)
        request = chat.request(check=False)
        assert len(request) > turns * len(source["data"])
        before = resident()

        def send() -> None:
            assert sum(map(len, request)) == len(request)

        floors = {
            "base64 of its pictures, standard library": lambda: [base64.b64encode(data) for _ in range(turns)],
            "base64 of its pictures, pybase64": lambda: [pybase64.b64encode(data) and None for _ in range(turns)],
        }
        beside(f"a body of {turns} pictures of 1 MB", "sent piece by piece", send, floors, rounds=10)
    if beside.measuring:
        beside.note_bytes("200 turns with the same picture", "database", kept, len(data), "the picture")
    else:
        assert resident() - before < 16 * 1024 * 1024
