"""Reading what is kept: the commands ``list``, ``show``, ``timeline`` and ``replay``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, Final

import click

from conversation_store.audit.faults import Fault
from conversation_store.cli.databases import database_options, find, key_argument, to_read
from conversation_store.cli.failures import Code, MissingExchangeError, told
from conversation_store.cli.terminal import Piece, Screen, complain, one_line
from conversation_store.conversation import Conversation
from conversation_store.errors import CodecError
from conversation_store.formats.reading import Erased
from conversation_store.formats.wording import attached, counted, moment, prefill_of, size, words_of
from conversation_store.record import canonical
from conversation_store.record.blocks import (
    Block,
    Document,
    Image,
    McpToolResult,
    McpToolUse,
    RedactedThinking,
    ServerToolResult,
    ServerToolUse,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Unknown,
)
from conversation_store.record.codec import blocks_of
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.turns import Origin, Turn
from conversation_store.store import Listed, Store

OPENING, CLOSING = "⟦", "⟧"
"""Stand around the words of a model's turn that were put in its mouth."""

_FOLDED: Final = 100
_BEGINNING: Final = 4
_SECOND: Final = 1_000_000
_STYLES: Final = {"user": "bold cyan", "assistant": "bold green", "system": "bold magenta"}
_USUAL: Final = {("user", Origin.HUMAN), ("assistant", Origin.MODEL), ("system", Origin.SYSTEM)}


# --- how things are said -------------------------------------------------------------------------------------------


def name_of(conversation: Conversation | Listed) -> str:
    """Name a conversation: by its key, else by its id."""
    return conversation.key if conversation.key is not None else str(conversation.id)


def _folded(value: object) -> str:
    return one_line(words_of(value), _FOLDED)


def _attached(block: Image | Document) -> str:
    return attached(block) if isinstance(block.source, Mapping) else _folded(block.source)


def block_line(block: Block) -> str:
    """Say in one line what a block is that is not words; it is still to be made safe for the terminal."""
    said = block.type
    match block:
        case Image():
            said = f"image: {_attached(block)}"
        case Document():
            titled = f" {block.title!r}" if isinstance(block.title, str) else ""
            said = f"document{titled}: {_attached(block)}"
        case Thinking():
            said = f"thinking: {len(words_of(block.thinking)):,} characters"
        case RedactedThinking():
            said = "thinking that only the API can read"
        case ToolUse() | ServerToolUse() | McpToolUse():
            said = f"calls {block.name} {_folded(block.input or {})}"
        case ToolResult() | McpToolResult():
            kind = "an error" if block.is_error is True else "a result"
            inner = " ".join(_within(each) for each in blocks_of(block.content))
            said = f"{kind} for {block.tool_use_id}: {_folded(inner or 'empty')}"
        case ServerToolResult():
            said = f"{block.type} for {block.tool_use_id}: {_folded(block.content)}"
        case Unknown():
            said = f"{block.kind}: {_folded(block.extra)}"
    return f"[{said}]"


def _within(block: Block) -> str:
    return words_of(block.text) if isinstance(block, Text) else block_line(block)


def snippet(turn: Turn, longest: int = 60) -> str:
    """Quote how a turn begins, in one line; it is still to be made safe for the terminal."""
    words = " ".join(" ".join(map(_within, turn.content[:_BEGINNING])).split())
    return words if len(words) <= longest else words[: longest - 1] + "…"


def _heading(turn: Turn, prefill: bool) -> list[Piece]:
    pieces: list[Piece] = [(turn.role, _STYLES.get(turn.role, "bold"))]
    if (turn.role, turn.origin) not in _USUAL:
        reason = f": {one_line(turn.reason)}" if turn.reason else ""
        pieces.append((f", {turn.origin.value}{reason}", "bold yellow"))
    if prefill:
        pieces.append((f", begun by a prefill {OPENING}…{CLOSING}", "bold yellow"))
    return pieces


def print_turn(screen: Screen, turn: Turn, *, full: bool = False, number: int | None = None) -> None:
    """Print who said what."""
    words, ours = prefill_of(turn)
    count: list[Piece] = [] if number is None else [(f"{number}  ", "dim")]
    screen.line(*count, *_heading(turn, bool(words or ours)), (f"  {moment(turn.at)}", "dim"))
    for index, block in enumerate(turn.content):
        if isinstance(block, Text):
            text = words_of(block.text)
            mine = text if index < ours else words
            if mine and text.startswith(mine):
                marked: Piece = (f"{OPENING}{mine}{CLOSING}", "yellow")
                screen.paragraph(marked, text[len(mine) :], indent=4)
                words = ""
            else:
                screen.paragraph(text, indent=4)
        elif full and not isinstance(block, (Image, Document)):
            screen.line((f"    [{block.type}]", "dim"))
            screen.paragraph((_unfolded(block), "dim"), indent=4)
        else:
            screen.line(("    " + block_line(block), "dim"))


def _unfolded(block: Block) -> str:
    if isinstance(block, Thinking):
        return words_of(block.thinking)
    if isinstance(block, (ToolUse, ServerToolUse, McpToolUse)):
        return f"{block.name} {canonical.dumps(block.input or {}).decode()}"
    if isinstance(block, (ToolResult, McpToolResult)):
        return "\n".join(_within(each) for each in blocks_of(block.content))
    if isinstance(block, ServerToolResult):
        return canonical.dumps(block.content).decode()
    return block_line(block)


_MEANING: Final[Mapping[State, str]] = {
    State.PENDING: "pending",
    State.ANSWERED: "answered",
    State.REJECTED: "rejected by the API",
    State.REFUSED: "refused by the model",
    State.FAILED: "failed",
    State.INTERRUPTED: "interrupted",
    State.UNKNOWN: "unknown whether it was answered",
}


def exchange_line(exchange: Exchange) -> str:
    """Say in one line what became of a request."""
    told = [f"exchange {exchange.position}: {_MEANING[exchange.state]}", exchange.served_by or exchange.model]
    if exchange.stop_reason is not None:
        told.append(exchange.stop_reason)
    if exchange.state in {State.ANSWERED, State.REFUSED}:
        usage = exchange.usage
        cached = usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        through = f" and {cached:,} cached" if cached else ""
        told.append(f"{usage.input_tokens:,}{through} tokens in, {usage.output_tokens:,} out")
    told.append(f"{size(exchange.body_length)} sent")
    if exchange.attempts > 1:
        told.append(counted(exchange.attempts, "attempt"))
    if exchange.maybe_billed:
        told.append("may have been billed")
    if exchange.retry_of is not None:
        told.append(f"again for {exchange.retry_of}")
    if exchange.ended is not None:
        took = exchange.ended - exchange.begun
        told.append(f"{took / _SECOND:.1f} s" if took >= _SECOND else f"{took / 1000:.0f} ms")
    return ", ".join(told)


# --- commands ------------------------------------------------------------------------------------------------------


def _pages(store: Store, limit: int, **filters: Any) -> Iterator[Listed]:
    left = limit or None
    after = None
    while page := store.list(limit=min(left or 500, 500), after=after, **filters):
        yield from page
        after = page[-1]
        if left is not None:
            left -= len(page)
            if left <= 0:
                return


def _member(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not equals:
        raise click.UsageError(f"--metadata takes NAME=VALUE, not {given!r}")
    try:
        return name, canonical.loads(value.encode("utf-8", "surrogateescape"))
    except CodecError:
        return name, value


@click.command("list")
@database_options
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many at most; 0: all.")
@click.option("--key-prefix", metavar="TEXT", help="Only those whose key begins so.")
@click.option("--title", metavar="TEXT", help="Only those whose title contains it.")
@click.option("--metadata", metavar="NAME=VALUE", multiple=True, help="Only those with this in their metadata.")
@click.option("--since", type=click.DateTime(("%Y-%m-%d",)), metavar="DAY", help="Changed this day or later, UTC.")
@click.option("--pending", is_flag=True, help="Only those with an open exchange.")
def listing(
    database: str,
    scope: str,
    limit: int,
    *,
    key_prefix: str | None,
    title: str | None,
    metadata: Sequence[str],
    since: datetime | None,
    pending: bool,
) -> int:
    """
    List conversations, the last changed first: when, how many entries, pending or not, id, key, title.

    The VALUE of --metadata is JSON, or else a string.
    """
    filters = {
        "key_prefix": key_prefix,
        "title": title,
        "metadata": dict(map(_member, metadata)),
        "since": since and since.date(),
        "pending": pending or None,
    }
    screen = Screen()
    with to_read(database, scope) as store:
        if screen.is_terminal:
            screen.line((f"{'updated':20}  {'entries':>7}  {'':7}  {'id':36}  key", "dim"))
        shown = 0
        for each in _pages(store, limit, **filters):
            shown += 1
            key = one_line(each.key) if each.key is not None else "-"
            title = f"  {one_line(each.title)}" if each.title else ""
            state = "pending" if each.pending else ""
            screen.line(
                f"{moment(each.updated):20}  {each.version:7d}  ",
                (f"{state:7}", "yellow"),
                (f"  {each.id}  ", "dim"),
                (key, "bold"),
                title,
            )
        if not shown and any(filters.values()):
            complain("there is no such conversation")
        elif not shown:
            complain("there are no conversations here yet; begin one with: conversation-store chat")
        elif limit and shown == limit:
            complain(f"these are {limit} at most; --limit 0 lists all")
    return Code.DONE


@click.command("show")
@key_argument("which")
@database_options
@click.option("--full", is_flag=True, help="Unfold thinking, tool calls and results.")
@click.option("--as-seen-by", type=int, metavar="POSITION", help="What the model was shown by the request there.")
def show(which: str, database: str, scope: str, full: bool, as_seen_by: int | None) -> int:
    """
    Print a conversation: who said what, who made it, what every request became.

    Words that were put in the model's mouth stand in ⟦ ⟧; turns the model did not write say so and why. Turns that
    were set aside are in the record and not shown.
    """
    screen = Screen()
    with to_read(database, scope) as store:
        conversation = find(store, which)
        exchanges = list(conversation.exchanges)
        if as_seen_by is not None:
            exchanges = [_exchange(conversation, as_seen_by)]
        turns = conversation.turns if as_seen_by is None else conversation.as_seen_by(as_seen_by)
        _print_header(screen, conversation, turns, exchanges)
        numbers = count()
        for turn in conversation.transcript() if as_seen_by is None else turns:
            if turn.conversation == conversation.id:
                while exchanges and exchanges[0].position < turn.position:
                    _print_exchange(screen, exchanges.pop(0))
            if isinstance(turn, Erased):
                screen.line(("erased", "bold yellow"), f", {turn.origin}", (f"  {moment(turn.at)}", "dim"))
            else:
                print_turn(screen, turn, full=full, number=next(numbers))
            screen.line()
        for exchange in exchanges:
            _print_exchange(screen, exchange)
    return Code.DONE


def _print_header(
    screen: Screen, conversation: Conversation, turns: Sequence[Turn], exchanges: Sequence[Exchange]
) -> None:
    title: list[Piece] = [f"  {conversation.title}"] if conversation.title else []
    screen.line((name_of(conversation), "bold"), *title)
    counts = f"{counted(len(turns), 'turn')}, {counted(len(exchanges), 'exchange')}, version {conversation.version}"
    screen.line((f"{conversation.id}, {counts}", "dim"))
    for name, value in conversation.settings.items():
        screen.line((f"{name}: {_folded(value)}", "dim"))
    screen.line()


def _print_exchange(screen: Screen, exchange: Exchange) -> None:
    good = exchange.state is State.ANSWERED
    screen.line((f"   → {exchange_line(exchange)}", "dim" if good else "yellow"))


def fault_line(name: str, fault: Fault) -> str:
    """Say a fault in one line."""
    place = "the conversation's row" if fault.position < 0 else f"entry {fault.position}"
    return f"{name}, {place}: {fault.code}: expected {fault.expected}, found {fault.found}"


def _exchange(conversation: Conversation, position: int) -> Exchange:
    for exchange in conversation.exchanges:
        if exchange.position == position:
            return exchange
    raise MissingExchangeError(f"{position} in {name_of(conversation)}")


@click.command("replay")
@key_argument("which")
@click.argument("position", type=int)
@database_options
def replay(which: str, position: int, database: str, scope: str) -> int:
    """
    Write the exact body of the request at POSITION (``show`` numbers the exchanges) to standard output.

    Its bytes are proved by the commitment made when it was sent; exit code 1 where they cannot be. On a terminal,
    characters that it would obey are spelled out; redirect the output for the bytes.
    """
    screen = Screen()
    with to_read(database, scope) as store:
        conversation = find(store, which)
        _exchange(conversation, position)
        try:
            body = conversation.replay(position)
        except CodecError as error:
            complain(told(error))
            return Code.FINDING
    if screen.is_terminal:
        screen.paragraph(body.decode("utf-8", "backslashreplace"))
    else:
        screen.raw(body)
    return Code.DONE
