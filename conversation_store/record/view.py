"""
Views: which turns make up the next request, as spans over logs, and how a view becomes another one.

The log is what happened; a view is what is sent. Forking and rewinding change spans and copy nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import evolve, frozen

Place: TypeAlias = tuple[UUID, int]
"""A log, and a position in it."""

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
    return _not_empty(tuple(evolve(span, last=length - 1) if span.last is None else span for span in view))


def without(view: View, conversation: UUID, position: int) -> View:
    """
    Leave one turn out of a view.

    Raises:
        LookupError: The turn is in no span of the view.
    """
    n = _at(view, conversation, position)
    parts = (evolve(view[n], last=position - 1), evolve(view[n], first=position + 1))
    return (*view[:n], *_not_empty(parts), *view[n + 1 :])


def common(one: View, other: View) -> View:
    """Give the beginning that two views have in common, as far as their spans tell."""
    shared: list[Span] = []
    for a, b in zip(one, other, strict=False):
        if a == b:
            shared.append(a)
            continue
        ends = [span.last for span in (a, b) if span.last is not None]
        if evolve(a, last=None) == evolve(b, last=None):
            shared.append(evolve(a, last=min(ends)))
        break
    return tuple(shared)


def with_thinking(view: View) -> View:
    """Give a view of which no thinking is left out."""
    return tuple(evolve(span, thinking=True) for span in view)


def without_thinking(view: View) -> View:
    """Give a view of which all thinking is left out."""
    return tuple(evolve(span, thinking=False) for span in view)


def gap(view: View, first: Place, last: Place) -> tuple[View, View]:
    """
    Leave a stretch of turns out of a view without an open span.

    Args:
        view: The view.
        first: The log and position of the first turn that is left out.
        last: Those of the last one.

    Returns:
        What stands before them, and what stands after them.

    Raises:
        LookupError: One of the two is in no span of the view.
    """
    a, b = _at(view, *first), _at(view, *last)
    before = (*view[:a], evolve(view[a], last=first[1] - 1))
    after = (evolve(view[b], first=last[1] + 1), *view[b + 1 :])
    return _not_empty(before), _not_empty(after)


def _not_empty(view: View) -> View:
    return tuple(span for span in view if span.last is None or span.first <= span.last)


def parted(view: View, place: Place) -> tuple[View, View]:
    """
    Part a view without an open span after the turn at a place.

    Raises:
        LookupError: The turn is in no span of the view.
    """
    n = _at(view, *place)
    return (*view[:n], evolve(view[n], last=place[1])), _not_empty(
        (evolve(view[n], first=place[1] + 1), *view[n + 1 :])
    )


def minus(view: View, others: View) -> View:
    """Leave the turns of other spans out of a view; neither has an open span."""
    for other in others:
        parts = []
        for span in view:
            if span.conversation == other.conversation and other.last is not None and span.last is not None:
                parts.append(evolve(span, last=min(span.last, other.first - 1)))
                parts.append(evolve(span, first=max(span.first, other.last + 1)))
            else:
                parts.append(span)
        view = _not_empty(tuple(parts))
    return view


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


def written(view: View) -> list[list[Any]]:
    """Write spans as a header has them."""
    return [
        [span.conversation.hex, span.first, span.last] + ([] if span.thinking else ["no thinking"]) for span in view
    ]


def read(header: Mapping[str, Any], base: View) -> View:
    """Read the view that a ``view`` or ``opened`` entry's header tells; *base* is the one it builds upon."""
    return (*base[: header.get("keep", 0)], *spans(header["then"]))


def spans(told: Sequence[Sequence[Any]]) -> View:
    """Read spans as a header has them."""
    return tuple(
        Span(UUID(hex=conversation), first, last, thinking="no thinking" not in more)
        for conversation, first, last, *more in told
    )
