"""The commands that change what is sent next, and never the record: ``fork`` and ``rewind``."""

from __future__ import annotations

import click

from conversation_store.cli.databases import database_options, find, key_argument, to_read
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Screen, one_line
from conversation_store.cli.transcripts import name_of
from conversation_store.formats.wording import counted


@click.command("fork")
@key_argument("which")
@database_options
@click.option("--at", type=int, metavar="TURN", help="The last turn they share, as show numbers them; all without it.")
@click.option("--key", help="The name of the new conversation.")
def fork(which: str, database: str, scope: str, at: int | None, key: str | None) -> int:
    """Begin a conversation that goes on from another one, or from an earlier turn of it; nothing is copied."""
    screen = Screen()
    with to_read(database, scope) as store:
        parent = find(store, which)
        forked = parent.fork(at, key=key)
        name = one_line(key) if key is not None else str(forked.id)
        screen.line((name, "bold"), f": goes on from {counted(len(forked.turns), 'turn')} of {name_of(parent)}")
    return Code.DONE


@click.command("rewind")
@key_argument("which")
@click.argument("turn", type=int)
@database_options
def rewind(which: str, turn: int, database: str, scope: str) -> int:
    """Go back to a turn, as show numbers them: what was said after it stays in the record and is not sent any more."""
    screen = Screen()
    with to_read(database, scope) as store:
        conversation = find(store, which)
        before = len(conversation.turns)
        conversation.rewind(turn)
        left = before - len(conversation.turns)
        screen.line((name_of(conversation), "bold"), f": {counted(left, 'turn')} not sent any more")
    return Code.DONE
