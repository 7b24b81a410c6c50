"""The commands that end what is kept, or keep it from ending: ``erase``, ``retain``, ``hold`` and ``release``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

import click

from conversation_store.audit.erase import Erasure
from conversation_store.audit.retention import Due, Retention
from conversation_store.cli.databases import database_options, find, key_argument, to_read
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Screen, complain, one_line
from conversation_store.cli.transcripts import name_of
from conversation_store.conversation import Conversation
from conversation_store.formats.wording import counted, moment, size
from conversation_store.store import Store

F = TypeVar("F", bound=Callable[..., Any])

_REASON: Final = click.option("--reason", required=True, metavar="WORDS", help="Why; the record keeps it.")
_BY: Final = click.option("--by", required=True, metavar="NAME", help="Who asked for it; the record keeps it.")
_YES: Final = click.option("--yes", is_flag=True, help="Do not ask.")


def _with_reasons(command: F) -> F:
    return database_options(_REASON(_BY(command)))


def _print(screen: Screen, erasure: Erasure, done: str) -> None:
    """Say what an erasure takes, with what is not said by its size alone."""
    blobs = f" and {counted(erasure.blobs, 'attachment')} of {size(erasure.blob_size)}" if erasure.blobs else ""
    screen.line(
        f"{counted(len(erasure.turns), 'turn')} {done}, {size(erasure.size)} "
        f"in {counted(len(erasure.content), 'place')} of the record{blobs}"
    )
    if erasure.exchanges:
        screen.line(f"{counted(len(erasure.exchanges), 'exchange')} cannot be replayed any more")
    forks = {of for of, _ in erasure.exchanges} - {of for of, _ in erasure.turns}
    if forks:
        screen.line(f"{counted(len(forks), 'fork')} reached")
    for of, position in erasure.summaries:
        screen.line((f"summary turn {position} of {of} may tell of it in other words, and stays", "yellow"))


def _is_meant(yes: bool) -> bool:
    return yes or click.confirm("Erase it for good?", default=False, err=True)


def _told(store: Store, erasure: Erasure) -> int:
    if (erasure.content or erasure.exchanges) and not erasure.clean:
        complain(f"deleted; what the database's files may still hold of it goes with: db vacuum {store.url}")
    return Code.DONE


@click.command("erase")
@key_argument("which")
@click.argument("turns", type=int, nargs=-1, metavar="[TURN]...")
@click.option("--labels", is_flag=True, help="Erase title and metadata too, as often as they were given.")
@_YES
@_with_reasons
def erase(
    which: str,
    turns: tuple[int, ...],
    database: str,
    scope: str,
    *,
    labels: bool,
    yes: bool,
    reason: str,
    by: str,
) -> int:
    """
    Erase turns for good, as show numbers them; without TURN and --labels all that the conversation holds.

    Says first what would go, and asks. The chain of digests stays valid; requests that held it cannot be replayed.
    """
    screen = Screen()
    with to_read(database, scope) as store:
        conversation = find(store, which)

        def run(*, preview: bool) -> Erasure:
            if turns or labels:
                return conversation.erase(*turns, reason=reason, by=by, labels=labels, preview=preview)
            return store.erase(conversation.id, reason=reason, by=by, preview=preview)

        preview = run(preview=True)
        if not preview.content and not preview.exchanges:
            complain("there is nothing left to erase")
            return Code.DONE
        screen.line((name_of(conversation), "bold"), "" if turns or labels else ": all of it")
        _print(screen, preview, "to erase")
        screen.flush()
        if not _is_meant(yes):
            complain("nothing was erased")
            return Code.DONE
        erasure = run(preview=False)
        _print(screen, erasure, "erased")
        return _told(store, erasure)


@click.command("retain")
@click.option("--older-than", type=click.IntRange(min=1), required=True, metavar="DAYS", help="Kept longer than this.")
@click.option("--key-prefix", default="", metavar="TEXT", help="Only conversations whose key begins so.")
@click.option("--turns", is_flag=True, help="Single turns, however young the conversation's last change is.")
@click.option("--apply", "applied", is_flag=True, help="Erase what is due; without it, it is only listed.")
@_YES
@click.option("--reason", default="retention", show_default=True, metavar="WORDS", help="Why; the record keeps it.")
@click.option("--by", metavar="NAME", help="Who asked for it; needed with --apply.")
@database_options
def retain(
    database: str,
    scope: str,
    *,
    older_than: int,
    key_prefix: str,
    turns: bool,
    applied: bool,
    yes: bool,
    reason: str,
    by: str | None,
) -> int:
    """
    List what is kept longer than it may be: conversations that nobody changed for so long, or with --turns old turns.

    Nothing is erased without --apply, and nothing on which a legal hold stands.
    """
    if applied and by is None:
        raise click.UsageError("--apply needs --by")
    screen = Screen()
    with to_read(database, scope) as store:
        policy = Retention(older_than=timedelta(days=older_than), key_prefix=key_prefix, turns=turns)
        retained = store.retention(policy)
        due = retained.preview()
        for each in due:
            _print_due(screen, each)
        screen.flush()
        going = sum(each.hold is None for each in due)
        held = f", {counted(len(due) - going, 'held one')} among them" if going < len(due) else ""
        complain(f"{counted(len(due), 'conversation')} due{held}")
        if not applied or not going:
            return Code.DONE
        if not _is_meant(yes):
            complain("nothing was erased")
            return Code.DONE
        erasure = retained.apply(reason=reason, by=str(by))
        _print(screen, erasure, "erased")
        return _told(store, erasure)


def _print_due(screen: Screen, due: Due) -> None:
    what = "all of it" if due.positions is None else counted(len(due.positions), "turn")
    held = f"  held by {one_line(due.hold.by)}: {one_line(due.hold.reason)}" if due.hold else ""
    name = one_line(due.key) if due.key is not None else str(due.id)
    screen.line(f"{moment(due.updated)}  ", (name, "bold"), f"  {what}", (held, "yellow"))


@click.command("hold")
@key_argument("which")
@_with_reasons
def hold(which: str, database: str, scope: str, *, reason: str, by: str) -> int:
    """Forbid erasing anything of a conversation until it is released: a legal hold, recorded in its log."""
    screen = Screen()
    with to_read(database, scope) as store:
        conversation = find(store, which)
        made = conversation.hold(reason, by)
        screen.line((name_of(conversation), "bold"), f": held, entry {made.position}")
    return Code.DONE


@click.command("release")
@key_argument("which")
@click.option("--hold", "position", type=int, metavar="ENTRY", help="This hold alone; all of them without it.")
@_with_reasons
def release(which: str, database: str, scope: str, *, position: int | None, reason: str, by: str) -> int:
    """End the legal holds of a conversation; the record keeps who did, and why."""
    screen = Screen()
    with to_read(database, scope) as store:
        conversation = find(store, which)
        ended = _release(conversation, position, reason, by)
        screen.line((name_of(conversation), "bold"), f": released, {counted(ended, 'hold')}")
    return Code.DONE


def _release(conversation: Conversation, position: int | None, reason: str, by: str) -> int:
    if position is None:
        return len(conversation.release(reason, by))
    chosen = [each for each in conversation.holds if each.position == position]
    if not chosen:
        raise click.UsageError(f"entry {position} is no hold that stands")
    return len(conversation.release(reason, by, hold=chosen[0]))
