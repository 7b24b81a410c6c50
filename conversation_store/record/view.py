"""
Views: which turns make up the next request, as spans over logs, and how a view becomes another one.

The log is what happened; a view is what is sent. Forking and rewinding change spans and copy nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import evolve, frozen

WHOLE_EVERY: Final = 64
"""A view entry names the one it changes; every so many it is written whole, so that reading one is bounded."""


@frozen
class Span:
    """
    Turns of one log, in order.

    Attributes:
        conversation: Whose log.
        first: The first position that belongs to the span.
        last: The last one; None for all that is there and all that will come.
        thinking: Whether the model's thinking in it is sent; a turn of nothing else is left out with it.
    """

    conversation: UUID
    first: int
    last: int | None
    thinking: bool = True

    def holds(self, conversation: UUID, position: int) -> bool:
        """Say whether a place in a log is part of the span."""
        return (
            self.conversation == conversation
            and self.first <= position
            and (self.last is None or position <= self.last)
        )

    def upto(self, length: int) -> int:
        """Say where the span ends in a log of *length* entries."""
        return length - 1 if self.last is None else self.last


View: TypeAlias = tuple[Span, ...]


def whole(conversation: UUID) -> View:
    """Give a new conversation's view: everything in its own log."""
    return (Span(conversation, 0, None),)


def until(view: View, conversation: UUID, position: int) -> View:
    """
    Cut a view after a turn.

    Raises:
        LookupError: The turn is in no span of the view.
    """
    n = _at(view, conversation, position)
    return (*view[:n], evolve(view[n], last=position))


def _at(view: View, conversation: UUID, position: int) -> int:
    for n, span in enumerate(view):
        if span.holds(conversation, position):
            return n
    raise LookupError(position)


def closed(view: View, length: int) -> View:
    """End a view's open span with the last of the log's *length* entries."""
    ended = (evolve(span, last=length - 1) if span.last is None else span for span in view)
    return tuple(span for span in ended if span.first <= span.upto(length))


def without(view: View, conversation: UUID, position: int) -> View:
    """
    Leave one turn out of a view.

    Raises:
        LookupError: The turn is in no span of the view.
    """
    n = _at(view, conversation, position)
    parts = (evolve(view[n], last=position - 1), evolve(view[n], first=position + 1))
    return (*view[:n], *(part for part in parts if part.last is None or part.first <= part.last), *view[n + 1 :])


def inserted(view: View, conversation: UUID, position: int, span: Span) -> View:
    """
    Put a span into a view, after the turn at a place.

    Raises:
        LookupError: The turn is in no span of the view.
    """
    n = _at(view, conversation, position)
    rest = evolve(view[n], first=position + 1)
    after = () if rest.last is not None and rest.first > rest.last else (rest,)
    return (*view[:n], evolve(view[n], last=position), span, *after, *view[n + 1 :])


def reopened(view: View, conversation: UUID, first: int) -> View:
    """Let a view go on with all that *conversation*'s log will hold from position *first*."""
    return (*view, Span(conversation, first, None))


def fields(old: View, new: View, base: int, depth: int) -> dict[str, Any]:
    """
    Write a view as the header of a ``view`` entry: what it keeps of the one at position *base*, what follows.

    *depth* is how many view entries the base itself builds upon.
    """
    keep = 0
    while keep < min(len(old), len(new)) and old[keep] == new[keep]:
        keep += 1
    if depth + 1 >= WHOLE_EVERY:
        return {"then": written(new)}
    return {"base": base, "depth": depth + 1, "keep": keep, "then": written(new[keep:])}


def written(spans: Sequence[Span]) -> list[list[Any]]:
    """Write spans as a header has them."""
    return [
        [span.conversation.hex, span.first, span.last] + ([] if span.thinking else ["no thinking"]) for span in spans
    ]


def read(header: Mapping[str, Any], base: View) -> View:
    """Read the view that a ``view`` or ``opened`` entry's header tells; *base* is the one it builds upon."""
    spans = [
        Span(UUID(hex=conversation), first, last, thinking="no thinking" not in more)
        for conversation, first, last, *more in header["then"]
    ]
    return (*base[: header.get("keep", 0)], *spans)
