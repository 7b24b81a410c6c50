"""
The guide page in four chapters, against the loopback API: the command ``demo``.

A first process says, sends and keeps; a second one finds everything and goes on. At the end the bytes that the
API received are compared with the bytes that the record replays.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Final

import click
from attrs import frozen

from conversation_store.api import models
from conversation_store.api.client import Client
from conversation_store.cli import ant
from conversation_store.cli.databases import file_of, url_of
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import PROGRAM, Screen, complain, notices
from conversation_store.cli.transcripts import exchange_line, fault_line, print_turn
from conversation_store.conversation import Conversation
from conversation_store.errors import CodecError, NotFoundError
from conversation_store.formats.wording import counted, size
from conversation_store.record.blocks import Image
from conversation_store.record.reply import Reply
from conversation_store.store import Store
from conversation_store.testing import MessagesAPI

MODEL: Final = "claude-sonnet-5-5"
MAX_TOKENS: Final = 1024
PICTURE: Final = "https://upload.wikimedia.org/wikipedia/commons/a/a7/Camponotus_flavomarginatus_ant.jpg"
WHAT: Final = "What is in the above image?"

_LONG_DATA: Final = re.compile(r'("data":"[^"]{24})[^"]+"')


@frozen(kw_only=True)
class Chapter:
    """
    A chapter of the guide page.

    Attributes:
        name: The end of its conversation's key.
        title: As the page calls it.
        say: Says what the page says, and sends it.
        next: What the second process says.
        prefill: Whether it needs a model that takes a prefill.
    """

    name: str
    title: str
    say: Callable[[Conversation], Reply]
    next: str
    prefill: bool = False


def _basic(conversation: Conversation) -> Reply:
    return conversation.send("Hello, Claude")


def _several_turns(conversation: Conversation) -> Reply:
    conversation.user("Hello, Claude")
    conversation.assistant("Hello!", reason="the guide page's example of a synthetic turn")
    return conversation.send("Can you describe LLMs to me?")


def _prefill(conversation: Conversation) -> Reply:
    question = "What is latin for Ant? (A) Apoidea, (B) Rhopalocera, (C) Formicidae"
    return conversation.send(question, prefill="The answer is (", max_tokens=1)


def _vision_base64(conversation: Conversation) -> Reply:
    return conversation.send(Image.from_bytes(ant.png()), WHAT)


def _vision_url(conversation: Conversation) -> Reply:
    return conversation.send(Image.from_url(PICTURE), WHAT)


CHAPTERS: Final = (
    Chapter(name="basic", title="1. A basic request", say=_basic, next="Can you describe LLMs to me?"),
    Chapter(name="turns", title="2. Several turns", say=_several_turns, next="And what is one good for?"),
    Chapter(
        name="prefill", title="3. Words in Claude's mouth", say=_prefill, next="Is a bee one of (A), too?", prefill=True
    ),
    Chapter(name="vision-base64", title="4a. Vision, a picture's bytes", say=_vision_base64, next="How many legs?"),
    Chapter(name="vision-url", title="4b. Vision, a picture's address", say=_vision_url, next="Where does it live?"),
)


def prefill_model() -> str:
    """Choose, by the data on models, the one with prefill that stays active longest."""
    found = models.load().where(status="active", prefill=True)
    longest = max(found, key=lambda model: model.retires or model.not_before or date.min)
    return longest.aliases[0] if longest.aliases else longest.id


def keys_of(prefix: str) -> list[str]:
    """List the keys of a run's conversations, in the order of the chapters."""
    return [f"{prefix}/{chapter.name}" for chapter in CHAPTERS]


@click.command("demo")
@click.option("--database", metavar="FILE", help="The SQLite file to make; without it, one in a temporary folder.")
@click.option("--keep", is_flag=True, help="FILE may exist: keep what is in it, and add to it.")
def demo(database: str | None, keep: bool) -> int:
    """
    Run the guide page: four chapters, then a second process that goes on with them.

    Everything stays on this machine: the answers come from a loopback API. Each request is shown with its size.
    Exit code 0 says that every chain and every request was verified.
    """
    path = _place(database, keep=keep)
    screen = Screen()
    with ExitStack() as until:
        until.enter_context(notices())
        api = until.enter_context(MessagesAPI())
        client = until.enter_context(Client(api_key=api.key, base_url=api.url))
        url = f"sqlite:///{path}"
        with Store(url, client=client) as store:
            prefix = _free_prefix(store)
            for key, chapter in zip(keys_of(prefix), CHAPTERS, strict=True):
                model = prefill_model() if chapter.prefill else MODEL
                conversation = store.open(key, model=model, max_tokens=MAX_TOKENS)
                _print_title(screen, chapter.title, key)
                _print_exchange(screen, conversation, chapter.say(conversation))
        screen.flush()
        resumed = _second_process(screen, str(path), prefix, api)
        with Store(url) as store:
            proved = prove(screen, [store.get(key) for key in keys_of(prefix)], [each.raw for each in api.requests])
    screen.line("The conversations are in ", (str(path), "bold"))
    screen.line((f"Look: {PROGRAM} show {prefix}/prefill --database '{path}'", "dim"))
    return Code.DONE if proved and resumed else Code.FINDING


@click.command("resume-demo", hidden=True)
@click.argument("file")
@click.argument("prefix")
def resume_demo(file: str, prefix: str) -> int:
    """Go on with the conversations of a demo, in a process that knows nothing but the file."""
    screen = Screen()
    faults = 0
    with Client() as client, notices(), Store(f"sqlite:///{file}", client=client) as store:
        for key, chapter in zip(keys_of(prefix), CHAPTERS, strict=True):
            conversation = store.get(key)
            _print_title(screen, f"{chapter.title}: {counted(len(conversation.turns), 'turn')} found", key)
            _print_exchange(screen, conversation, conversation.send(chapter.next))
            for fault in conversation.verify():
                faults += 1
                screen.line((fault_line(key, fault), "red"))
    return Code.FINDING if faults else Code.DONE


def prove(screen: Screen, conversations: Sequence[Conversation], received: Sequence[bytes]) -> bool:
    """
    Verify what is kept, and that its requests are the bytes that the API received.

    Returns:
        Whether everything is proved.
    """
    entries, replayed, faults = 0, [], 0
    for conversation in conversations:
        entries += conversation.version
        for fault in conversation.verify():
            faults += 1
            screen.line((fault_line(str(conversation.key), fault), "red"))
        for exchange in conversation.exchanges:
            try:
                replayed.append(conversation.replay(exchange))
            except CodecError as error:
                faults += 1
                screen.line((f"{conversation.key}, exchange {exchange.position}: {error}", "red"))
    alike = sorted(replayed) == sorted(received)
    screen.line()
    screen.line(
        f"{counted(len(conversations), 'conversation')}, {entries} entries: ",
        ("every chain verified", "green") if not faults else (counted(faults, "fault"), "bold red"),
    )
    screen.line(
        f"{counted(len(received), 'request')}, {size(sum(map(len, received)))}: ",
        ("the record replays the bytes that the API received", "green")
        if alike
        else ("the record replays other bytes than the API received", "bold red"),
    )
    return alike and not faults


def _place(database: str | None, *, keep: bool) -> Path:
    if database is None:
        return Path(tempfile.mkdtemp(prefix="conversation-store-demo-")) / "demo.db"
    path = file_of(url_of(database))
    if path is None:
        raise click.UsageError("demo keeps its conversations in a SQLite file; give its path")
    if path.exists() and not keep:
        raise click.UsageError(f"{path} exists; give another file, or --keep to add to what is in it")
    return path.absolute()


def _free_prefix(store: Store) -> str:
    """Name the conversations so that those of an earlier run stay as they are."""
    number = 1
    while True:
        prefix = "guide" if number == 1 else f"guide-{number}"
        try:
            store.get(f"{prefix}/{CHAPTERS[0].name}")
        except NotFoundError:
            return prefix
        number += 1


def _print_title(screen: Screen, title: str, key: str) -> None:
    screen.line()
    screen.line((title, "bold"), (f"  {key}", "dim"))


def _print_exchange(screen: Screen, conversation: Conversation, reply: Reply) -> None:
    body = conversation.replay(reply.exchange)
    screen.line((f"POST /v1/messages, {len(body):,} bytes", "cyan"))
    screen.paragraph((_LONG_DATA.sub(r'\1…"', body.decode()), "dim"), indent=4)
    if reply.turn is not None:
        print_turn(screen, reply.turn)
    screen.line((f"→ {exchange_line(reply.exchange)}", "dim"))


def _second_process(screen: Screen, path: str, prefix: str, api: MessagesAPI) -> bool:
    """Let another process go on; say whether it found everything as it should be."""
    environment = {**os.environ, "ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": api.key}
    environment.pop("ANTHROPIC_AUTH_TOKEN", None)
    command = [sys.executable, "-m", "conversation_store.cli", resume_demo.name or "", path, prefix]
    screen.line()
    screen.line(("A second process goes on with them", "bold"))
    screen.flush()
    try:
        sys.stdout.fileno()
    except (io.UnsupportedOperation, AttributeError):  # output goes to no file of the system's: hand it on
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)  # noqa: S603 - ourselves
        screen.paragraph(done.stdout.decode().rstrip("\n"))
    else:
        done = subprocess.run(command, env=environment, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        complain(f"the second process ended with {done.returncode}; what it said stands above")
    return done.returncode == 0
