"""
What a fresh process is asked to do while its memory is watched: ``python -m tests.frugal WORK DATABASE API IMAGES``.

It prints one JSON object: bytes of memory before and at the most, once a small exchange had been made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from conversation_store import Client, Conversation, Image, Store
from conversation_store.audit.verify import verify

SETTINGS: Final = {"model": "claude-sonnet-5-5", "max_tokens": 64}
KEY: Final = "pictures"
_STATUS: Final = Path("/proc/self/status")


def send(chat: Conversation, images: list[Image]) -> None:
    """Send the pictures that another process said."""
    chat.send("And now?")


def stream(chat: Conversation, images: list[Image]) -> None:
    """Send them, and read the answer as it arrives."""
    with chat.stream("And now?") as answer:
        assert answer.reply.text


def say(chat: Conversation, images: list[Image]) -> None:
    """Say pictures that this process holds, one after the other, and send them."""
    for image in images:
        chat.user(image)
    chat.send("And now?")


def say_at_once(chat: Conversation, images: list[Image]) -> None:
    """Say all of them in one message, with the request itself."""
    chat.send(*images, "And now?")


WORK: Final[Mapping[str, Callable[[Conversation, list[Image]], None]]] = {
    "send": send,
    "stream": stream,
    "say": say,
    "say_at_once": say_at_once,
}


def held(name: str) -> int:
    """Read one of the kernel's figures of this process, in bytes."""
    (line,) = (each for each in _STATUS.read_text().splitlines() if each.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main(work: str, database: str, api: str, pictures: str) -> None:
    """Do it, and tell."""
    with Client("sk-ant-loopback", base_url=api, max_attempts=1) as client, Store(database, client=client) as store:
        small = store.open("small", **SETTINGS)
        small.send("What is an ant?")
        with small.stream("And a bee?") as answer:
            assert answer.reply.text
        chat = store.open(KEY, **SETTINGS)
        images = [Image.open(path) for path in sorted(Path(pictures).iterdir())] if work.startswith("say") else []
        Path("/proc/self/clear_refs").write_text("5")  # the most from now on
        before = held("VmRSS")
        WORK[work](chat, images)
        told = {"before": before, "most": held("VmHWM")}
    print(json.dumps(told))  # noqa: T201


def export(database: str, form: str, path: str) -> None:
    """Write a conversation or a store in a form, or load what was written; tell the most memory that took."""
    with Store(database) as store:
        if form == "load":
            with Path(path).open("rb") as lines:
                store.load(lines)
        elif form == "evidence":
            with Path(path).open("wb") as file:
                store.get(KEY).evidence(file)
        else:
            with Path(path).open("wb") as file:
                file.writelines(store.export() if form == "store" else store.get(KEY).export(form))  # type: ignore[arg-type]
    print(held("VmHWM"))  # noqa: T201


def check(path: str) -> None:
    """Check a bundle, which is sound; tell the most memory that took."""
    with Path(path).open("rb") as file:
        assert verify(file).is_sound
    print(held("VmHWM"))  # noqa: T201


if __name__ == "__main__":
    arguments = sys.argv[1:]
    tasks: dict[str, Callable[..., None]] = {"export": export, "check": check}
    tasks[arguments[0]](*arguments[1:]) if arguments[0] in tasks else main(*arguments)
