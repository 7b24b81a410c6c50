"""What it takes to send thirty megabytes of pictures: a fresh process sends them, and the kernel tells its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from conversation_store import Image, Store
from conversation_store.testing.streams import Streaming
from tests import frugal, pictures
from tests.faulty import FaultyAPI, Sent, framed

ROOT: Final = Path(__file__).parents[1]
MOST: Final = 16_000_000
"""Bytes that a process may grow by."""
PICTURES: Final = 20
PICTURE: Final = 1_120_000
MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "Twenty."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


def answered(body: bytes) -> Sent:
    """Answer anything, as a stream where one is asked for."""
    if body.endswith(b'"stream":true}'):
        return Sent(framed(b"".join(Streaming().events(MESSAGE)), "chunked", kind="text/event-stream").wire)
    return Sent(framed(json.dumps(MESSAGE).encode(), "length").wire)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel here tells no peak of memory")
@pytest.mark.parametrize("work", frugal.WORK)
def test_thirty_megabytes_of_pictures_need_little_memory(database_url: str, tmp_path: Path, work: str) -> None:
    """A request of 30 MB is never whole in memory: not while it is digested, not while it is sent."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(PICTURES):
        (folder / f"{n:02}.png").write_bytes(pictures.png(colour=(n, 1, 2), padding=PICTURE))
    if not work.startswith("say"):
        with Store(database_url) as store:
            chat = store.open(frugal.KEY, **frugal.SETTINGS)
            for path in sorted(folder.iterdir()):
                chat.user(Image.open(path))
    with FaultyAPI(answered) as api:
        command = [sys.executable, "-W", "error", "-m", "tests.frugal", work, database_url, api.url, str(folder)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert 29_500_000 < len(api.bodies[-1]) < 31_500_000
    assert api.bodies[-1].count(b'"type":"image"') == PICTURES
    assert told["most"] - told["before"] < MOST
