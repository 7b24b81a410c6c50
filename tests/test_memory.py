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
_STATUS: Final = Path("/proc/self/status")
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


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel here tells no peak of memory")
def test_a_gigabyte_is_exported_in_a_hundred_megabytes(tmp_path: Path) -> None:
    """One conversation of words and pictures, in every form that has no limit of its own, and loaded again."""
    url = f"sqlite:///{tmp_path / 'big.db'}"
    words = "Many words that are said. " * 2_000
    with Store(url, durability="normal") as store:
        chat = store.open(frugal.KEY, **frugal.SETTINGS)
        for n in range(400):
            roles = ("user", "assistant") * 12
            chat.append(*({"role": role, "content": f"{n} {m} {words}"} for m, role in enumerate(roles)))
            chat.user(Image.from_bytes(pictures.png(colour=(n % 256, n // 256, 2), padding=1_200_000)))
        head = chat.head
    assert (tmp_path / "big.db").stat().st_size > 900_000_000
    for form in ("store", "jsonl", "messages", "markdown", "html", "openai", "evidence"):
        assert exported(url, form, tmp_path / form) < 100_000_000, form
        assert form != "evidence" or checked(tmp_path / form) < 100_000_000
        assert (tmp_path / form).stat().st_size > 450_000_000
        if form != "store":
            (tmp_path / form).unlink()
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    assert exported(elsewhere, "load", tmp_path / "store") < 100_000_000
    with Store(elsewhere) as store:
        assert store.get(frugal.KEY).head == head


@pytest.mark.skipif(not _STATUS.exists(), reason="the kernel here tells no peak of memory")
def test_evidence_of_a_long_conversation_takes_little_memory(tmp_path: Path) -> None:
    """Written and checked, 60 MB of words and pictures take little more than a conversation of nothing."""
    sizes = {}
    for name, count in (("small", 1), ("large", 40)):
        url = f"sqlite:///{tmp_path / name}.db"
        with Store(url, durability="normal") as store:
            chat = store.open(frugal.KEY, **frugal.SETTINGS)
            for n in range(count):
                chat.append(
                    *({"role": role, "content": f"{n} " + "Words. " * 9_000} for role in ("user", "assistant") * 3)
                )
                chat.user(Image.from_bytes(pictures.png(colour=(n, 0, 2), padding=1_200_000)))
        sizes[name] = (exported(url, "evidence", tmp_path / name), checked(tmp_path / name))
    assert (tmp_path / "large").stat().st_size > 60_000_000
    for small, large in zip(sizes["small"], sizes["large"], strict=True):
        assert large - small < MOST, sizes


def checked(path: Path) -> int:
    """Check a bundle in a fresh process, and tell the most memory it had."""
    command = [sys.executable, "-W", "error", "-m", "tests.frugal", "check", str(path)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def exported(url: str, form: str, path: Path) -> int:
    """Export in a fresh process, and tell the most memory it had."""
    command = [sys.executable, "-W", "error", "-m", "tests.frugal", "export", url, form, str(path)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
