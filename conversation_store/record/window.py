"""
Windows: how much of a long conversation is sent, and which of its exchanges leave when it grows too long.

Here an exchange is a user's words and all that followed them, up to the user's next words. It leaves whole, so that
no call is parted from its result, and what is left begins with words of a user's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from attrs import asdict, fields, frozen

from conversation_store.errors import ContentError


@frozen(kw_only=True)
class Window:
    """
    How much of a conversation is sent.

    Once the next prompt would be longer than *max_tokens*, the oldest exchanges leave the view until it is no longer
    than *target*. So it moves rarely and in steps, and between two steps the beginning of every body stays the same,
    and cached. What left stays in the record; ``bring_back`` lets a turn of it stand in the view again.

    The lengths are those that answers recorded, with an estimate of what was said since. It never moves between a
    call and its result, nor while thinking waits for one. Thinking in what stays is left out: it is bound to what
    was before it. A summary that stands for older turns never leaves, nor does what is sent before it. The last
    exchange stays whatever *keep_last* is, where it is not answered yet, or its answer is gone on with.

    Attributes:
        max_tokens: Of the prompt, the system prompt and the tools included.
        keep_first: Exchanges at the beginning that never leave.
        keep_last: Exchanges before what is said now that never leave, even where *target* cannot be met so.
        target: Tokens of the prompt after it moved; half of *max_tokens* where None.
    """

    max_tokens: int
    keep_first: int = 0
    keep_last: int = 1
    target: int | None = None

    def __attrs_post_init__(self) -> None:
        for name, least in (("max_tokens", 1), ("keep_first", 0), ("keep_last", 0), ("target", 1)):
            value = getattr(self, name)
            if name == "target" and value is None:
                continue
            if type(value) is not int or not least <= value < 1 << 53:
                raise ContentError(f"window.{name}", f"give a number from {least} on")
        if self.target is not None and self.target > self.max_tokens:
            raise ContentError("window.target", "is no more than max_tokens")

    @classmethod
    def read(cls, given: Any) -> Window:
        """
        Take a window from a caller, or from the header of an entry.

        Raises:
            ContentError: It is none.
        """
        if isinstance(given, Window):
            return given
        names = {field.name for field in fields(cls)}
        if not isinstance(given, Mapping) or "max_tokens" not in given or not names.issuperset(given):
            raise ContentError("window", "give a Window(max_tokens=…)")
        return cls(**given)

    def fields(self) -> dict[str, int]:
        """Write it as a header has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def aim(self) -> int:
        """Tokens of the prompt once it moved."""
        return max(1, self.max_tokens // 2) if self.target is None else self.target


@frozen
class Outlined:
    """
    What is to be known of a turn to tell exchanges apart.

    Attributes:
        role: Whose it is.
        calls: Ids of the calls that it makes.
        answers: Ids of the calls that it answers.
        stands_for: Whether it is a summary, and stands for what is not sent any more.
    """

    role: str
    calls: Collection[str] = ()
    answers: Collection[str] = ()
    stands_for: bool = False


def exchanges(turns: Sequence[Outlined]) -> list[range]:
    """
    Tell the exchanges of a view apart.

    Returns:
        The indices of each one's turns, in order and without a gap; what comes before the user's first words is part
        of the first one.
    """
    asked: dict[str, int] = {}
    within: set[int] = set()  # here a call waits for a result that comes later
    for n, turn in enumerate(turns):
        for call in turn.answers:
            if call in asked:
                within.update(range(asked[call] + 1, n + 1))
        asked |= dict.fromkeys(turn.calls, n)
    starts = [n for n, turn in enumerate(turns) if n and turn.role == "user" and not turn.answers and n not in within]
    bounds = [0, *starts, len(turns)]
    return [range(first, end) for first, end in pairwise(bounds) if end > first]


def waiting(turns: Sequence[Outlined]) -> range:
    """
    Give the indices of the last exchange, where it waits for an answer of the model's, or for results of its calls.

    Returns:
        None of them where it is over.
    """
    told = exchanges(turns)
    last = told[-1] if told else range(0)
    role = next((turns[n].role for n in reversed(last) if turns[n].role != "system"), None)
    answered = {call for n in last for call in turns[n].answers}
    is_open = any(call not in answered for n in last for call in turns[n].calls)
    return last if role == "user" or is_open else range(0)


def leaving(
    window: Window, turns: Sequence[Outlined], tokens: Sequence[int], total: int, *, said: bool = True
) -> range | None:
    """
    Decide which turns leave. The last exchange never does where it is what the next answer is part of.

    Args:
        window: What may be sent.
        turns: The turns of the view.
        tokens: Those of each.
        total: Those of the whole prompt, with what is said now.
        said: Whether anything is said now; else the last exchange is gone on with.

    Returns:
        Their indices; None where nothing may leave.
    """
    told = exchanges(turns)
    summed = max((n + 1 for n, turn in enumerate(turns) if turn.stands_for), default=0)
    first = sum(1 for each in told if each.start < summed) + window.keep_first
    gone_on_with = bool(waiting(turns)) or not said
    end = first
    while end < len(told) - window.keep_last - gone_on_with and total > window.aim:
        total -= sum(tokens[n] for n in told[end])
        end += 1
    return range(told[first].start, told[end - 1].stop) if end > first else None
