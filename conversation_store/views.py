"""
Views: what is sent next becomes another selection of what was said; the record is never touched.

Forking, rewinding and setting aside read a few turns around the place and write one entry, however long the
conversation is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from attrs import frozen

from conversation_store import exchanges
from conversation_store.errors import ContentError, NotFoundError
from conversation_store.history import History, Uses, fields_for, settings_draft, turn_draft
from conversation_store.record import canonical, chain, view
from conversation_store.record.chain import Entry, draft
from conversation_store.record.splices import Parted
from conversation_store.record.turns import PREFILL_MARK, Origin, Turn, fields_of
from conversation_store.record.view import Place, Span, View
from conversation_store.storage import identity, log
from conversation_store.storage.log import Commit, Head, Kept

_WINDOW: Final = 64
"""Entries that are read at a time when the turns around a place are looked at."""


def change(
    history: History,
    new: View,
    drafts: Sequence[Entry] = (),
    uses: Uses | None = None,
    *,
    settings: int | None = None,
    keep: int | None = None,
) -> Commit:
    """
    Append *drafts* and the view that goes on after them.

    Args:
        history: The conversation.
        new: The view, without an open span.
        drafts: What is appended with it; positions of its own in *new* count from the log's length.
        uses: The blobs they use, by index.
        settings: The index of the draft that tells the settings from now on.
        keep: How many of the messages known begin the new view; None where that is not known.

    Raises:
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    before, depth = history.view
    then = view.reopened(new, history.id, history.head.length + len(drafts))
    fields = view.fields(before, then, history.head.view_position, depth)
    told = draft("view", at=identity.now(), salt=identity.new_salt(), fields=fields)
    shown = None if keep is None else ((then, fields.get("depth", 0)), keep)
    return history.append([*drafts, told], uses, settings=settings, view=len(drafts), shown=shown)


def now(history: History) -> View:
    """Give the present view, its open span ended with what is there."""
    return view.closed(history.view[0], history.head.length)


def place_of(history: History, which: Turn | int, name: str) -> Place:
    """
    Say where a turn of the view stands; *name* is the argument's, for the error.

    Raises:
        ContentError: It is no turn of the view.
    """
    if isinstance(which, Turn):
        place = which.place
        if b'"origin":"prefill"' in which.header:
            raise ContentError(name, f"turn {which.position} is a prefill: it belongs to its request alone")
        if not any(span.holds(*place) for span in history.view[0]):
            raise ContentError(name, f"turn {which.position} is not in the view")
        return place
    if isinstance(which, bool) or not isinstance(which, int):
        raise ContentError(name, f"give a Turn, or an index into turns, not a {type(which).__name__}")
    places = history.messages.places
    try:
        return places[which]
    except IndexError:
        raise ContentError(name, f"there are {len(places)} turns, and none at {which}") from None


def place_in_record(history: History, which: Any) -> Place:
    """
    Say where a turn of this log, or of one it was forked from, stands; it need not be in the view.

    Raises:
        ContentError: It is none of those.
    """
    if isinstance(which, int):
        return place_of(history, which, "turns")
    of, position = getattr(which, "conversation", None), getattr(which, "position", None)
    if not isinstance(of, UUID) or not isinstance(position, int):
        raise ContentError("turns", f"give a Turn, a hit, or an index into turns, not a {type(which).__name__}")
    with history.database.read() as connection:
        each: UUID | None = history.id
        while each is not None and each != of:
            each = log.parent_of(connection, each)
    if each is None:
        raise ContentError("turns", f"turn {position} is of another conversation")
    return of, position


def rewind(history: History, to: Place | None) -> None:
    """
    Cut the view after a turn; None leaves nothing of it.

    Raises:
        ContentError: That would part a call from its result.
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    if to is None:
        change(history, (), keep=0)
    else:
        change(history, _cut(history, to), keep=history.known_upto(to))


def fork(history: History, at: Place | None, key: str | None) -> UUID | None:
    """
    Begin a new conversation whose view begins as this one's does, up to a turn; nothing is copied.

    Args:
        history: The parent.
        at: The last turn of it; None for all there is.
        key: The host's name for the new conversation.

    Returns:
        Its id; None where the key is taken.

    Raises:
        ContentError: That would part a call from its result.
    """
    spans = now(history) if at is None else _cut(history, at)
    new, moment = identity.new_id(), identity.now()
    place = at if at is not None else _last_place(history, spans)
    of, position = place if place is not None else (history.id, history.head.length - 1)
    fields: dict[str, Any] = {
        "format": 1,
        "parent": {"conversation": history.id.hex, "digest": history.head.digest.hex(), "length": history.head.length},
        "at": [of.hex, position],
        "then": view.written(view.reopened(spans, new, 0)),
    }
    opened = draft("opened", at=moment, salt=identity.new_salt(), fields=fields, about={"key": key})
    head = Head(length=0, digest=chain.genesis(new))
    settings = settings_draft(history.settings, moment)
    commit = exchanges.prepare(new, head, [opened, settings], scope=history.kept.scope, settings=1)
    made = history.database.write(
        partial(log.create, commit=commit, key=key, forked_from=history.id),
        partial(log.is_there_or_none, commit=commit),
    )
    history.database.appended()
    return new if made else None


def edit(history: History, old: Turn, origin: Origin, message: Parted, about: Mapping[str, Any]) -> Commit:
    """
    Cut the view before a turn, and let a new one stand in its place.

    A summary's is a summary too, of the same turns; an answer's that begins with the API's compaction stands after
    those which that stands for.

    Raises:
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    spans = now(history)
    place = old.place
    kept = without_after(spans, place)
    moment = identity.now()
    detached = history.kept_apart(message, moment)
    fields = fields_for(origin, detached)
    if old.stands_for is not None and old.origin is Origin.SUMMARY:
        fields = {"origin": Origin.SUMMARY.value, "stands_for": view.written(old.stands_for)}
    elif old.stands_for is not None:
        kept = (*view.minus(kept, old.stands_for), *old.stands_for)
    made = turn_draft(fields, detached, moment, about)
    own = Span(history.id, history.head.length, history.head.length)
    known = history.known_upto(place)
    keep = None if known is None or old.stands_for is not None else known - 1
    return change(history, (*kept, own), [made], {0: detached.blobs}, keep=keep)


def without_after(spans: View, place: Place) -> View:
    """Cut a view before a turn."""
    kept = view.until(spans, *place)
    return view.without(kept, *place)


def set_aside(history: History, place: Place) -> list[Turn]:
    """
    Leave a turn out of the view, and with its calls their results.

    Returns:
        The turns that left.

    Raises:
        ContentError: Its results stand in one turn with something else.
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    spans = now(history)
    turn = read_turn(history, place)
    calls, _ = calls_and_results(turn.body)
    going = [turn]
    if calls:
        for other in _after(history, spans, place):
            _, results = calls_and_results(other.body)
            if not results and other.role == "assistant":
                break
            if not results & calls:
                continue
            if not _only_results(other.body):
                message = f"turn {other.position} holds results of its calls and more: edit the conversation by hand"
                raise ContentError("", message)
            going.append(other)
            calls -= results
            if not calls:
                break
    for each in going:
        spans = view.without(spans, each.conversation, each.position)
    change(history, spans)
    return going


def bring_back(history: History, which: Turn) -> None:
    """
    Let a turn that was set aside stand in the view again, where it stood.

    A summary that is in the view gives way to the turns in whose place it stands; one that is not takes theirs again,
    before everything else, and before what it stands for that is brought back beside it.

    Raises:
        ContentError: It is in the view, is no turn of a log that the view shows, or another summary stands for it
            that is one itself.
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    if which.origin is Origin.PREFILL:
        raise ContentError("turn", f"turn {which.position} is a prefill: it belongs to its request alone")
    spans = now(history)
    place, stood_for = which.place, which.stands_for
    read_turn(history, place)
    own = Span(*place, place[1])
    if any(span.holds(*place) for span in spans):
        if stood_for is None:
            raise ContentError("turn", f"turn {which.position} is in the view")
        covered = _covered(history, stood_for)
        before, after = view.gap(spans, place, place)
        change(history, (*view.minus(before, covered), *stood_for, *view.minus(after, covered)))
        return
    first = history.summary_of(spans)
    if stood_for is not None:
        if first is not None and any(span.holds(*place) for span in first.stands_for or ()):
            raise ContentError("turn", f"turn {first.position} stands for it and for more: bring that one back first")
        change(history, (own, *view.minus(spans, _covered(history, stood_for))))
        return
    before_it = [n for n, span in enumerate(spans) if span.conversation == place[0] and span.upto(0) < place[1]]
    after_it = [n for n, span in enumerate(spans) if span.conversation == place[0] and span.first > place[1]]
    if not before_it and not after_it and which.conversation != history.id:
        raise ContentError("turn", f"turn {which.position} is of another conversation")
    n = before_it[-1] + 1 if before_it else after_it[0] if after_it else len(spans)
    n = max(n, int(first is not None))
    change(history, (*spans[:n], own, *spans[n:]))


def _covered(history: History, stood_for: View) -> View:
    """Give what a summary stands for, with what the summaries among that stand for."""
    inner = history.summary_of(stood_for)
    return stood_for if inner is None else (*stood_for, *_covered(history, inner.stands_for or ()))


def take_back(history: History) -> None:
    """
    Cut the view before the last answer; where that begins with the API's compaction, what it stands for comes back.

    Raises:
        ContentError: The assistant has not said anything last, or nobody asked.
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    messages = history.messages
    spoken = messages.last_spoken
    if spoken and spoken.stop == len(messages):
        if spoken.start:
            rewind(history, messages.places[spoken.start - 1])
            return
        first = history.summary_of(now(history))
        asked = () if first is None else first.stands_for or ()
        last = _last_place(history, asked)
        if last is not None and read_turn(history, last).role != "assistant":
            change(history, asked)
            return
    raise ContentError("", "the last turn is no answer: send() asks for one")


def read_turn(history: History, place: Place) -> Turn:
    """
    Read a turn by its place.

    Raises:
        ContentError: There is none.
    """
    entry = history.entry_of(*place)
    if entry.kind != "turn" or entry.body is None:
        raise ContentError("turn", f"entry {place[1]} is no turn, or was erased")
    return history.turn_at(place[0], entry)


# --- calls and results -------------------------------------------------------------------------------------------


def _cut(history: History, place: Place) -> View:
    """Cut the view after a turn that may be the last one."""
    spans = now(history)
    kept = view.until(spans, *place)
    open_calls = _open_at(history, kept, place)
    if open_calls:
        for turn in _after(history, spans, place):
            results = calls_and_results(turn.body)[1]
            if results & open_calls:
                raise ContentError(
                    "",
                    f"turn {turn.position} answers a call of the turns before it: go to that one, or before the call",
                )
            if turn.role == "user" and not results:
                break
    return kept


def _open_at(history: History, kept: View, place: Place) -> set[str]:
    """Say which calls are open once a turn is the last one."""
    answered: set[str] = set()
    calls: set[str] = set()
    speaking = False
    for turn in _before(history, kept, place):
        made, results = calls_and_results(turn.body)
        if turn.role == "assistant":
            speaking = True
        elif speaking and not results:
            break
        answered |= results
        calls |= made
        if turn.role == "user" and not results:
            break
    return calls - answered


def calls_and_results(body: bytes) -> tuple[set[str], set[str]]:
    """List the calls that a message makes and those it answers, of whoever's tools."""
    if b"tool_use" not in body and b"\\u00" not in body:
        return set(), set()
    content = canonical.object_of(body).get("content")
    blocks = [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []
    made = {str(block.get("id")) for block in blocks if str(block.get("type")).endswith("tool_use")}
    return made, {str(block["tool_use_id"]) for block in blocks if "tool_use_id" in block}


def _only_results(body: bytes) -> bool:
    content = canonical.object_of(body).get("content")
    return isinstance(content, list) and all(isinstance(each, Mapping) and "tool_use_id" in each for each in content)


def _last_place(history: History, spans: View) -> Place | None:
    for n in range(len(spans) - 1, -1, -1):
        span = spans[n]
        for turn in _backward(history, span, span.upto(history.head.length)):
            return turn.place
    return None


def _before(history: History, spans: View, place: Place) -> Iterator[Turn]:
    """Give the turns of a view from a place back, that one first."""
    end: int | None = place[1]
    at = next(n for n, span in enumerate(spans) if span.holds(*place))
    for n in range(at, -1, -1):
        yield from _backward(history, spans[n], spans[n].upto(history.head.length) if end is None else end)
        end = None


def _backward(history: History, span: Span, last: int) -> Iterator[Turn]:
    while last >= span.first:
        first = max(span.first, last - _WINDOW + 1)
        yield from reversed(_turns(history, span.conversation, first, last))
        last = first - 1


def _after(history: History, spans: View, place: Place) -> Iterator[Turn]:
    """Give the turns of a view after a place."""
    at = next(n for n, span in enumerate(spans) if span.holds(*place))
    first: int | None = place[1] + 1
    for span in spans[at:]:
        start = span.first if first is None else first
        first = None
        last = span.upto(history.head.length)
        while start <= last:
            end = min(last, start + _WINDOW - 1)
            yield from _turns(history, span.conversation, start, end)
            start = end + 1


def _turns(history: History, of: UUID, first: int, last: int) -> list[Turn]:
    with history.database.read() as connection:
        entries = log.read_turns(connection, of, first, last)
    return [history.turn_at(of, entry) for entry in entries if PREFILL_MARK not in entry.header]


# --- trees and differences ---------------------------------------------------------------------------------------


@frozen
class Branch:
    """
    A conversation and its forks.

    Attributes:
        id: The conversation.
        key: The host's name for it, None for none.
        title: What people call it.
        at: The log and position of the last turn it shares with its parent; None for one that is no fork.
        forks: Its forks, oldest first.
    """

    id: UUID
    key: str | None
    title: str | None
    at: Place | None
    forks: Sequence[Branch]


def tree(history: History) -> Branch:
    """Give the conversation that all this came from, and everything forked from it."""
    with history.database.read() as connection:
        scope, root, seen = history.kept.scope, history.id, {history.id}
        while (parent := log.parent_of(connection, root)) is not None and parent not in seen:
            root = parent
            seen.add(parent)
        rows: dict[UUID, tuple[Kept, Place | None]] = {}
        below: dict[UUID, list[UUID]] = {}
        waiting = [root]
        while waiting:
            each = waiting.pop()
            row = log.find(connection, scope, each)
            if row is None:
                continue
            opened = log.read(connection, each, 0, 0)
            rows[each] = (row, _forked_at(opened[0]) if opened else None)
            below[each] = [child for child in log.forks_of(connection, each) if child not in rows]
            waiting += below[each]
    if root not in rows:
        raise NotFoundError(str(root))
    return _branch(root, rows, below)


def _branch(of: UUID, rows: Mapping[UUID, tuple[Kept, Place | None]], below: Mapping[UUID, Sequence[UUID]]) -> Branch:
    made: dict[UUID, Branch] = {}
    order = [of]
    for each in order:
        order += [child for child in below[each] if child in rows]
    for each in reversed(order):  # forks first, however deep the tree is
        row, at = rows[each]
        made[each] = Branch(each, row.key, row.title, at, tuple(made[child] for child in below[each] if child in rows))
    return made[of]


def _forked_at(opened: Entry) -> Place | None:
    at = fields_of(opened.header).get("at")
    return (UUID(hex=at[0]), at[1]) if isinstance(at, list) else None


@frozen
class Divergence:
    """
    Where two conversations part.

    Attributes:
        common: How many turns they both begin with.
        mine: The turns after that of the one asked.
        theirs: Those of the other.
    """

    common: int
    mine: Sequence[Turn]
    theirs: Sequence[Turn]


def diff(history: History, other: History) -> Divergence:
    """Compare two views, turn by turn."""
    pairs = zip(history.messages.places, other.messages.places, strict=False)
    shortest = min(len(history.messages), len(other.messages))
    common = next((n for n, (a, b) in enumerate(pairs) if a != b), shortest)
    return Divergence(common, tuple(history.turns[common:]), tuple(other.turns[common:]))
