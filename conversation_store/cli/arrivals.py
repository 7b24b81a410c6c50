"""An answer while it arrives: its words at once, and what else there is in one dim line each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from attrs import define, field

from conversation_store.api.stream import (
    BlockStart,
    BlockStop,
    Event,
    InputDelta,
    MessageDelta,
    MessageStart,
    TextDelta,
    ThinkingDelta,
)
from conversation_store.cli.terminal import Flow, Screen, one_line
from conversation_store.cli.transcripts import block_line
from conversation_store.formats.wording import moment, words_of
from conversation_store.record import canonical
from conversation_store.record.codec import blocks_of

WAITING: Final = "waiting for the answer; Ctrl-C stops"

_CALLS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_INDENT: Final = 4
_SECOND: Final = 1_000_000


@define
class _Block:
    """A block as far as it is known: its kind, what it began as, and what of it is still to be shown."""

    kind: str
    begun: Mapping[str, Any]
    arrived: str
    stopped: bool = False
    flow: Flow | None = field(default=None)


class Arrival:
    """
    One answer on its way to a person or a pipe; a context manager, which leaves the screen at a line's beginning.

    A pipe gets the words alone. A person gets a heading and words that are indented; and whoever looks at a terminal,
    thinking, calls and everything else too, dim and short. Blocks that arrive side by side are shown one by one.

    Args:
        screen: Where to.
        person: Whether a person asked.
        note: What the heading says beside who speaks.
    """

    def __init__(self, screen: Screen, *, person: bool, note: str = "") -> None:
        self._screen = screen
        self._person = person
        self._note = note
        self._indent = _INDENT if person else 0
        self._waiting = screen.waiting()
        self._blocks: dict[int, _Block] = {}
        self._headed = not person

    def __enter__(self) -> Self:
        self._waiting.show(WAITING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for block in self._blocks.values():
            block.stopped = True  # or broken off: what came of it is shown all the same
        try:
            self._advance()
        finally:
            self._waiting.hide()

    def show(self, event: Event) -> None:
        """Show what an event brings, or as soon as its turn comes."""
        match event:
            case MessageStart():
                self._blocks.clear()
            case MessageDelta(stop_reason="pause_turn"):
                self._waiting.show(WAITING)
            case BlockStart():
                self._blocks[event.index] = _begun(event)
            case TextDelta(index=index, text=more) if index in self._blocks:
                self._blocks[index].arrived += more
            case ThinkingDelta(index=index, thinking=more) | InputDelta(index=index, partial_json=more) if (
                index in self._blocks
            ):
                self._blocks[index].arrived += more
            case BlockStop(index=index) if index in self._blocks:
                self._blocks[index].stopped = True
            case _:
                return
        self._advance()

    def _advance(self) -> None:
        """Show what can be shown of the first block, and when that is all of it, of the next one."""
        for index, block in list(self._blocks.items()):
            if block.kind == "text":
                self._words(block)
            elif self._screen.is_terminal:
                self._aside(block)
            if not block.stopped:
                return
            del self._blocks[index]
            if block.kind != "text":  # after words the answer is mostly over
                self._waiting.show(WAITING)

    def _words(self, block: _Block) -> None:
        if block.arrived:
            if block.flow is None:
                self._head()
                block.flow = self._screen.flow(indent=self._indent)
            words, block.arrived = block.arrived, ""  # before they are out: Ctrl-C must not show them twice
            block.flow.write(words)
        if block.stopped and block.flow is not None:
            block.flow.end()

    def _aside(self, block: _Block) -> None:
        """Say what goes on beside the words; and once it is over, leave one line of it."""
        if not block.stopped:
            self._waiting.show(_under_way(block, self._screen.width))
            return
        self._head()
        self._screen.line((one_line(" " * self._indent + _aside_line(block), self._screen.width - 1), "dim"))

    def _head(self) -> None:
        """Begin to show the answer: from here on, lines are its own."""
        self._waiting.hide()
        if self._headed:
            return
        self._headed = True
        now = moment(int(time.time() * _SECOND))
        self._screen.line(("assistant", "bold green"), (self._note, "bold yellow"), (f"  {now}", "dim"))


def _begun(event: BlockStart) -> _Block:
    value = canonical.object_of(event.wire)
    arrived = value.get("text") if event.kind == "text" else value.get("thinking") if event.kind == "thinking" else ""
    return _Block(event.kind, value, words_of(arrived) if arrived else "")


def _under_way(block: _Block, width: int) -> str:
    """Say in one line what a block is about to be: of thinking, its latest words."""
    if block.kind in _CALLS:
        return _aside_line(block)
    if block.kind != "thinking":
        return WAITING
    room = max(width // 2, 1)
    words = " ".join(block.arrived[-4 * room :].split())
    latest = words if len(words) <= room else words[-room:].partition(" ")[2]
    return f"thinking … {latest}".rstrip()


def _aside_line(block: _Block) -> str:
    """Say in one line what a block was that is not words."""
    if block.kind == "thinking":
        return f"thinking … {' '.join(block.arrived.split())}".rstrip()
    if block.kind in _CALLS:
        given = block.arrived or canonical.dumps(block.begun.get("input") or {}).decode()
        return f"→ {words_of(block.begun.get('name'))} {given}"
    return block_line(blocks_of([block.begun])[0])
