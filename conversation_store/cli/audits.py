"""Auditing what is kept: the commands ``verify`` and ``timeline``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

import click

from conversation_store.audit.checkpoints import Checkpoint
from conversation_store.audit.faults import NOBODY
from conversation_store.audit.verification import Findings
from conversation_store.cli.databases import database_options, find, key_argument, to_read
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Progress, Screen
from conversation_store.cli.transcripts import fault_line, name_of
from conversation_store.cli.transfers import file_to_write
from conversation_store.errors import ContentError, EncryptionError, NotFoundError
from conversation_store.formats.wording import counted, moment
from conversation_store.store import Store

_AT_ONCE: Final = 0.5
"""Seconds for which nobody asks how far it is."""


def _known(path: str | None) -> Checkpoint | None:
    if path is None:
        return None
    try:
        return Checkpoint.read(Path(path).read_bytes())
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except ContentError as error:
        raise click.UsageError(f"{path}: {error}") from None


def _name(store: Store, of: UUID) -> str:
    if of == NOBODY:
        return "of no conversation"
    try:
        return name_of(store.get(of))
    except (NotFoundError, EncryptionError, ValueError, TypeError, AttributeError):
        return str(of)  # there is none, or its row cannot be read


def _verified(store: Store, which: str | None, since: Checkpoint | None, **how: Any) -> Findings:
    begun = time.monotonic()
    with Progress() as progress:

        def show(done: int, all_: int) -> None:
            if time.monotonic() - begun > _AT_ONCE:
                progress.show(f"{done:,} of {all_:,} entries", done / all_ if all_ else 1.0)

        if which is not None:
            return find(store, which).verify(since=since, **how)
        return store.verify(since=since, progress=show, **how)


@click.command("verify")
@key_argument("which", metavar="[KEY|ID]", required=False)
@click.option("--structure", is_flag=True, help="Only what the chains go by: order, kinds, times, headers; no content.")
@click.option("--since", metavar="FILE", help="Only what came after this checkpoint, and that it still holds.")
@click.option("--checkpoint", metavar="FILE", help="Write where the conversations stand now; keep it elsewhere.")
@click.option("--key", metavar="KEY", multiple=True, help="The seals' verifier key (name+id+base64): all are signed.")
@click.option("--pin", type=click.File("rb"), metavar="FILE", help="A checkpoint of the seals kept elsewhere.")
@database_options
def verify(
    which: str | None,
    since: str | None,
    checkpoint: str | None,
    key: tuple[str, ...],
    pin: BinaryIO | None,
    *,
    structure: bool,
    database: str,
    scope: str,
) -> int:
    """
    Compute chains and commitments again, make every request's body again, and hold all tables against the logs.

    Of one conversation or of all; exit code 1 where a fault is found. A checkpoint kept where nobody who can write
    the database can also shows what chains alone cannot: tails cut off, conversations deleted, backups restored. So do
    seals: those of the whole database, of all scopes; with KEY|ID they are looked at where --key or --pin is given.
    """
    if which is not None and checkpoint is not None:
        raise click.UsageError("--checkpoint is of all conversations: leave KEY out")
    screen = Screen()
    with to_read(database, scope) as store:
        kept = None if pin is None else pin.read()
        found = _verified(store, which, _known(since), structure=structure, key=key, pin=kept)
        names: dict[UUID, str] = {}
        for fault in found:
            if fault.conversation not in names:
                names[fault.conversation] = _name(store, fault.conversation)
            screen.line((fault_line(names[fault.conversation], fault), "red"))
    if checkpoint is not None:
        with file_to_write(checkpoint) as file:
            file.write(found.checkpoint.json())
    result = ("no fault", "green") if not found else (counted(len(found), "fault"), "bold red")
    screen.line(f"{counted(found.conversations, 'conversation')}, {found.entries:,} entries: ", result)
    return Code.FINDING if found else Code.DONE


@click.command("timeline")
@key_argument("which")
@click.option("--from", "first", type=click.IntRange(min=0), default=0, metavar="ENTRY", help="Begin at this entry.")
@database_options
def timeline(which: str, first: int, database: str, scope: str) -> int:
    """Tell the whole record of a conversation, a line an entry: what was set aside or erased is told too."""
    screen = Screen()
    with to_read(database, scope) as store:
        for each in find(store, which).timeline(first):
            exchange = "" if each.exchange is None or each.kind == "request" else f"  (exchange {each.exchange})"
            screen.line(
                (f"{each.position:>6}  {moment(each.at)}  ", "dim"),
                (f"{each.origin or each.actor}: ", "bold"),
                each.account,
                (exchange, "dim"),
            )
    return Code.DONE
