"""Where a block stands: what leads to it, whose it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attrs import Factory, evolve, frozen

from conversation_store.api.rules.findings import Finding, Fix, error, warning
from conversation_store.record.media import Media


class Attachment(NamedTuple):
    """
    A long string of a message that is not in its bytes.

    Attributes:
        length: Bytes it will have in the body.
        media: What it is, as far as its header tells; None where it is no picture and no document.
    """

    length: int
    media: Media | None


@frozen
class Place:
    """
    A list of blocks: a message's content, or what stands in a block.

    Attributes:
        path: What leads to it: ``messages.3.content``.
        role: Whose message it is in.
        message: Which message; ``turn`` the first of the turns it is made of, None for what is not said yet.
        turns: The turn of each block, where the message is made of several.
        ours: Whether a caller wrote it; what the API sent always has the right shape.
        plain: Whether the content is a string, which is one block without a path of its own.
        attachments: Strings that are kept elsewhere, by what stands in their place.
    """

    path: str
    role: str
    message: int = 0
    turn: int | None = None
    turns: Sequence[int | None] = ()
    ours: bool = True
    plain: bool = False
    attachments: Mapping[str, Attachment] = Factory(dict)

    def at(self, n: int, rest: str = "") -> str:
        """Write the path of the *n*-th block, and of something in it."""
        if self.plain:
            return self.path
        return f"{self.path}.{n}.{rest}" if rest else f"{self.path}.{n}"

    def turn_of(self, n: int) -> int | None:
        """Say which turn the *n*-th block is of; None for what is not said yet."""
        return self.turns[n] if n < len(self.turns) else self.turn

    def within(self, n: int, rest: str) -> Place:
        """Go into the *n*-th block, to a list of blocks in it."""
        turn = self.turn_of(n)
        return evolve(self, path=self.at(n, rest), turn=turn, turns=(), plain=False)

    def error(self, n: int, message: str, rest: str = "", fix: Fix | None = None) -> Finding:
        """Say what the API refuses at the *n*-th block."""
        return error(self.at(n, rest), message, turn=self.turn_of(n), fix=fix)

    def warning(self, n: int, message: str, rest: str = "", fix: Fix | None = None) -> Finding:
        """Say what it may refuse there."""
        return warning(self.at(n, rest), message, turn=self.turn_of(n), fix=fix)

    def attachment(self, text: Any) -> Attachment | None:
        """Look up what stands behind a string."""
        return self.attachments.get(text) if isinstance(text, str) else None
