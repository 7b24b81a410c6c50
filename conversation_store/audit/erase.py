"""
Erasure: content leaves the log for good, wherever the library copied it; the chain and every other replay stay.

What goes with a turn: the prefill that is the beginning of it, and the turn that answers an erased prefill; the
outcome that tells of it and what had arrived before it was tried again; the salts of the requests that held it, here
and in every fork, without which their commitments say nothing; and what came of such a request when no turn did
(a refusal, an error that may quote it, an answer that came too late). Nothing is found by reading bodies: a request's
header names its view and its last position.

An erasure looks at one state of the database, decides, and writes all chains in one transaction, each by its own
compare-and-set; where somebody appended meanwhile it looks again. A fork made while it was at it is found by a last
look. Where an erased turn was shown, a ``view`` entry that changes no span follows the ``erased`` one: whoever has
the old view in memory finds it changed, and reads it anew.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import define, field, frozen
from sqlalchemy import Connection

from conversation_store import exchanges
from conversation_store.audit.holds import is_hold, refuse_held, why
from conversation_store.errors import (
    BusyError,
    ConflictError,
    ContentError,
    LeaseLostError,
    NotFoundError,
    UnknownOutcomeError,
)
from conversation_store.record import erasure, view
from conversation_store.record.chain import draft
from conversation_store.record.turns import Origin, fields_of
from conversation_store.record.view import View
from conversation_store.storage import erasure as storage
from conversation_store.storage import identity, log, rotation
from conversation_store.storage.cipher import cipher_of
from conversation_store.storage.engine import Database
from conversation_store.storage.erasure import Standing, Try
from conversation_store.storage.log import Commit, Kept
from conversation_store.storage.tables import NO_TOKEN

Place: TypeAlias = tuple[UUID, int]
"""A log, and a position in it."""

_READ: Final = ("opened", "view", "request", "note")
_DERIVED_KEY: Final = re.compile(r"import:[0-9a-f]{32}")
"""The key that an import makes of a transcript's digest: whoever knows the rest could try out what is missing."""


@frozen(kw_only=True)
class Erasure:
    """
    What an erasure took, or would take.

    Attributes:
        content: The entries whose content is gone: log and position, turns, outcomes and all.
        turns: Those of them that are turns.
        exchanges: The requests that can be replayed no more, here and in forks; all others still can.
        size: Bytes of bodies and of what stood beside them, as they lay there: 40 more for each that was encrypted.
        blobs: How many attachments went that nobody else uses, and ``blob_size`` their bytes.
        keys: Conversations that lost their key with it: one made of the text itself, or all of one was erased.
        summaries: Summary turns that stand after an erased one and may hold its words in others: they were left
            alone, erase those that do.
        labels: How many titles and metadata went.
        clean: Whether nothing is left of it in SQLite's file and log. False where the file is larger than 64 MiB or a
            reader was in the way, and on every other database: ``Store.vacuum()`` clears away what is left.
    """

    content: tuple[Place, ...] = ()
    turns: tuple[Place, ...] = ()
    exchanges: tuple[Place, ...] = ()
    size: int = 0
    blobs: int = 0
    blob_size: int = 0
    keys: tuple[UUID, ...] = ()
    summaries: tuple[Place, ...] = ()
    labels: int = 0
    clean: bool = True

    @classmethod
    def total(cls, erasures: Sequence[Erasure], *, clean: bool = True) -> Erasure:
        """Add up what several took."""
        return cls(
            content=tuple(place for each in erasures for place in each.content),
            turns=tuple(place for each in erasures for place in each.turns),
            exchanges=tuple(place for each in erasures for place in each.exchanges),
            size=sum(each.size for each in erasures),
            blobs=sum(each.blobs for each in erasures),
            blob_size=sum(each.blob_size for each in erasures),
            keys=tuple(of for each in erasures for of in each.keys),
            summaries=tuple(place for each in erasures for place in each.summaries),
            labels=sum(each.labels for each in erasures),
            clean=clean,
        )


@frozen(kw_only=True)
class Target:
    """
    What is to be erased of one log.

    Attributes:
        conversation: Whose log.
        positions: Its turns; None for all it holds, key, settings, title and metadata included.
        labels: Whether title and metadata go too, as often as they were given.
    """

    conversation: UUID
    positions: frozenset[int] | None = None
    labels: bool = False


def erase(
    database: Database, scope: str, wanted: Sequence[Target], *, by: str, reason: str, preview: bool = False
) -> Erasure:
    """
    Erase what is wanted, each log with its forks in one transaction; again it takes nothing.

    Args:
        database: Where.
        scope: The tenant.
        wanted: What of which logs.
        by: Who asked for it; recorded.
        reason: Why; recorded.
        preview: Say what would be taken, and write nothing.

    Raises:
        ContentError: Nobody is named or no reason; an entry is no turn.
        HeldError: A legal hold stands on one of the conversations that would be changed; nothing was erased.
        BusyError: An exchange is pending whose request holds what is to be erased; wait for it.
        UnknownOutcomeError: Such an exchange was begun and its worker is gone: ``recover()`` first.
        ConfigurationError: A SQLite engine of the host's would leave the words in its file.
        NotFoundError: There is no such conversation in this scope.
    """
    told = why(by, reason)
    if not preview:
        database.refuse_traces()
    # All are looked at before the first is written: a hold on the last one keeps them all.
    foreseen = [_planned(database, scope, each).erasure for each in wanted]
    if preview:
        return Erasure.total(foreseen)
    taken = [erasure for each in wanted for erasure in _erased(database, scope, each, told)]
    cipher = cipher_of(database.engine)
    if cipher is not None:
        # After an earlier erasure that broke off, too: what was given up then is destroyed now.
        for each in wanted:
            cipher.destroy_given_up(database, each.conversation)
    return Erasure.total(taken, clean=not taken or database.leaves_no_trace())


def _erased(database: Database, scope: str, wanted: Target, told: Mapping[str, str]) -> Iterator[Erasure]:
    """Erase what is wanted of one log, and what is found by looking again."""
    done: set[UUID] = set()
    turns: Sequence[int] | None = None
    while True:
        plan = _planned(database, scope, wanted) if turns is None else _look_again(database, scope, wanted, turns, done)
        if not plan.cuts:
            return
        commits = {cut.kept.id: _prepared(cut, scope, told) for cut in plan.cuts}
        work = partial(_write, cuts=plan.cuts, commits=commits)
        try:
            written = database.write(work, partial(_was_written, commits=commits))
        except (ConflictError, BusyError, LeaseLostError):
            continue  # somebody appended meanwhile: what is to go may be in more places
        if written:
            yield plan.erasure
            done |= plan.looked_at
            turns = plan.turns


# --- deciding ----------------------------------------------------------------------------------------------------


@define(kw_only=True)
class _Cut:
    """
    What goes of one chain.

    Attributes:
        kept: Its row.
        content: The entries whose content goes, by position.
        request: The requests whose salt goes.
        arrived: The requests of which the journal may know something.
        view: The view to be shown anew, and on how many view entries it builds; None where it shows nothing erased.
        labels: Whether the row's title and metadata go.
        key: Whether its key goes, ``names`` whether those of its exchanges too.
    """

    kept: Kept
    content: dict[int, Standing] = field(factory=dict)
    request: set[int] = field(factory=set)
    arrived: set[int] = field(factory=set)
    view: tuple[View, int] | None = None
    labels: bool = False
    key: bool = False
    names: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.content or self.request or self.view)


@frozen
class _Plan:
    """What is cut of which chains, which turns of the first of them go, and which chains were looked at."""

    cuts: Sequence[_Cut]
    erasure: Erasure
    turns: Sequence[int]
    looked_at: frozenset[UUID]


class _Chain:
    """A log as far as an erasure has to know it: headers, and what became of its requests."""

    def __init__(self, connection: Connection, kept: Kept) -> None:
        self.kept = kept
        self.requests: dict[int, Mapping[str, Any]] = {}
        self.proved: set[int] = set()
        self.late: dict[int, list[int]] = {}
        self.tries: dict[int, Try] = storage.tries(connection, kept.id)
        self._chains: defaultdict[int, list[int]] = defaultdict(list)
        for position, told in self.tries.items():
            self._chains[position if told.retry_of is None else told.retry_of].append(position)
        self._told: dict[int, Mapping[str, Any]] = {}
        self._views: dict[int, tuple[View, int]] = {}
        for position, kind, header, salted in storage.headers(connection, kept.id, _READ):
            fields = fields_of(header)
            if kind == "request":
                self.requests[position] = fields
                if salted:
                    self.proved.add(position)
            elif kind != "note":
                self._told[position] = fields
            elif fields.get("late"):
                self.late.setdefault(fields["request"], []).append(position)

    def view_at(self, position: int) -> tuple[View, int]:
        """Say which view an entry tells, and on how many view entries it builds."""
        chain: list[int] = []
        at = position
        while at not in self._views:
            fields = self._told[at]
            if "then" not in fields:
                self._views[at] = view.whole(self.kept.id), 0
            elif "base" not in fields:
                self._views[at] = view.read(fields, ()), fields.get("depth", 0)
            else:
                chain.append(at)
                at = fields["base"]
        for each in reversed(chain):
            fields = self._told[each]
            self._views[each] = view.read(fields, self._views[fields["base"]][0]), fields.get("depth", 0)
        return self._views[position]

    def holding(self, of: UUID, positions: Sequence[int]) -> set[int]:
        """Say which requests had one of some turns of a log, in ascending order, among their messages."""
        known: dict[int, float] = {}
        found = set()
        for position, fields in self.requests.items():
            shown = fields["view"]
            if shown not in known:
                known[shown] = _first_held(self.view_at(shown)[0], of, positions)
            prefill = fields.get("prefill") if of == self.kept.id else None
            if known[shown] <= fields["last"] or (prefill is not None and _among(positions, prefill)):
                found.add(position)
        return found

    def shows(self, of: UUID, positions: Sequence[int]) -> bool:
        """Say whether the current view has one of some turns."""
        return _first_held(self.view_at(self.kept.head.view_position)[0], of, positions) < self.kept.head.length

    def left_by(self, request: int) -> Iterator[int]:
        """List what came of a request and is no turn: its outcome, and answers that came too late."""
        yield from self.late.get(request, ())
        outcome = self.tries[request].outcome if request in self.tries else None
        if outcome is not None:
            yield outcome

    @property
    def has_derived_key(self) -> bool:
        """Whether its key was made of the text itself."""
        return self.kept.key is not None and _DERIVED_KEY.fullmatch(self.kept.key) is not None

    def again(self, request: int) -> Sequence[int]:
        """List the requests that tried the same thing, that one among them."""
        told = self.tries.get(request)
        return self._chains[request if told is None or told.retry_of is None else told.retry_of]


def _first_held(spans: View, of: UUID, positions: Sequence[int]) -> float:
    """Say from which last position on a view has one of some turns: -1 for always."""
    first = float("inf")
    for span in spans:
        n = bisect_left(positions, span.first) if span.conversation == of else len(positions)
        if n == len(positions):
            continue
        if span.last is None:
            first = min(first, positions[n])
        elif positions[n] <= span.last:
            return -1
    return first


def _among(positions: Sequence[int], position: int) -> bool:
    n = bisect_left(positions, position)
    return n < len(positions) and positions[n] == position


def _planned(database: Database, scope: str, wanted: Target) -> _Plan:
    """Decide, on one state of the database, what goes of which chains."""
    with database.read() as connection:
        home = _chain_of(connection, scope, wanted.conversation)
        cut = _Cut(kept=home.kept)
        whole = wanted.positions is None
        turns = _whole(connection, home, cut) if whole else _some(connection, home, cut, wanted)
        if wanted.labels:
            _unlabel(connection, cut)
        cuts = [_reached(connection, home, cut, home.kept.id, turns, whole=whole)]
        forks = list(_forks(connection, scope, home.kept.id))
        cuts += [_reached(connection, fork, _Cut(kept=fork.kept), home.kept.id, turns) for fork in forks]
        return _plan(connection, cuts, home.kept.id, turns, [] if whole else turns[:1])


def _look_again(database: Database, scope: str, wanted: Target, turns: Sequence[int], done: Collection[UUID]) -> _Plan:
    """Look for forks that were made while their parent was cut: what they read before is to go as well."""
    home = wanted.conversation
    with database.read() as connection:
        new = [fork for fork in _forks(connection, scope, home) if fork.kept.id not in done]
        cuts = [_reached(connection, fork, _Cut(kept=fork.kept), home, turns) for fork in new]
        return _plan(connection, cuts, home, turns, turns[:1])


def _reached(
    connection: Connection, chain: _Chain, cut: _Cut, home: UUID, turns: Sequence[int], *, whole: bool = False
) -> _Cut:
    """Decide what goes of a chain because of turns that go; *whole* where all of it does."""
    held = chain.holding(home, turns)
    _refuse_pending(chain, held, whole=whole)
    _follow(connection, chain, cut, held)
    if chain.shows(home, turns):
        cut.view = chain.view_at(chain.kept.head.view_position)
    return cut


@frozen
class Reach:
    """
    How far the words of some turns reach in a log.

    Attributes:
        content: The other entries whose content holds them or may quote them, by position.
        request: The requests whose body held them.
    """

    content: frozenset[int]
    request: frozenset[int]


def reach(connection: Connection, scope: str, of: UUID, turns: Mapping[UUID, Sequence[int]]) -> Reach:
    """
    Say what of a log would go with some turns if they were erased, and so tells of them to whoever is shown it.

    Args:
        connection: Reads the log.
        scope: The tenant.
        of: Whose log.
        turns: By log, this one and those it was forked from: positions, ascending; in this one they are turns.
    """
    home = _chain_of(connection, scope, of)
    cut = _Cut(kept=home.kept)
    own = set(turns.get(of, ()))
    along = _along(home, own)[0] if own else set()
    for each, positions in {**turns, of: sorted(own)}.items():
        _follow(connection, home, cut, home.holding(each, positions))
    content = along.union(cut.content, own.difference(turns.get(of, ())))
    return Reach(frozenset(content), frozenset(cut.request))


def _plan(
    connection: Connection, reached: Sequence[_Cut], home: UUID, turns: Sequence[int], first: Sequence[int]
) -> _Plan:
    cuts = sorted((cut for cut in reached if not cut.empty), key=lambda cut: cut.kept.id.bytes)
    refuse_held(connection, [cut.kept.id for cut in cuts])
    summaries = _summaries(connection, cuts, home, first[0]) if first else []
    looked_at = frozenset({home, *(cut.kept.id for cut in reached)})
    return _Plan(cuts, _told(connection, cuts, summaries), turns, looked_at)


def _chain_of(connection: Connection, scope: str, of: UUID) -> _Chain:
    kept = log.find(connection, scope, of)
    if kept is None:
        raise NotFoundError(str(of))
    return _Chain(connection, kept)


def _forks(connection: Connection, scope: str, of: UUID) -> Iterator[_Chain]:
    """Give the logs of all that was forked from one, and from its forks."""
    waiting, seen = [of], {of}
    while waiting:
        forks = [each for each in log.forks_of(connection, waiting.pop()) if each not in seen]
        seen.update(forks)
        waiting += forks
        yield from (_chain_of(connection, scope, each) for each in forks)


def _whole(connection: Connection, home: _Chain, cut: _Cut) -> Sequence[int]:
    """Take all that a log holds, but for who erased and who held what, and why."""
    everything = storage.standing(connection, home.kept.id, None)
    cut.content = {
        position: each
        for position, each in everything.items()
        if each.kind != "erased" and not (each.kind == "note" and is_hold(fields_of(each.header)))
    }
    cut.request = set(home.proved)
    cut.arrived = set(home.requests)
    cut.labels = home.kept.title is not None or home.kept.metadata is not None
    cut.key = home.kept.key is not None
    cut.names = True
    return [position for position, each in cut.content.items() if each.kind == "turn"]


def _some(connection: Connection, home: _Chain, cut: _Cut, wanted: Target) -> Sequence[int]:
    """Take some turns, and with each what holds the same words by construction."""
    positions = set(wanted.positions or ())
    kinds = storage.kinds(connection, home.kept.id, positions)
    for position in sorted(positions):
        if kinds.get(position) != "turn":
            raise ContentError("turn", f"entry {position} of conversation {home.kept.id} is no turn")
    along, spoken = _along(home, positions)
    cut.arrived |= spoken
    cut.key = home.has_derived_key
    cut.content = storage.standing(connection, home.kept.id, positions | along)
    # What was erased before is in no request made since, although the spans of its view still reach over it.
    return [position for position, each in cut.content.items() if each.kind == "turn"]


def _along(home: _Chain, positions: set[int]) -> tuple[set[int], set[int]]:
    """
    Add to some turns those that share words with them.

    Returns:
        The other entries that hold the same words, and the requests that the turns were made by or begun with.
    """
    spoken, quoted = _spoken(home, positions)
    along = {entry for each in spoken for entry in home.left_by(each)}
    for each in spoken | quoted:
        broken_off = (other for other in home.again(each) if home.tries[other].turn is None)
        along.update(entry for other in broken_off for entry in home.left_by(other))
    if home.has_derived_key:
        along.add(0)
    return along, spoken


def _spoken(home: _Chain, positions: set[int]) -> tuple[set[int], set[int]]:
    """
    Add to some turns those that share words with them.

    Returns:
        The requests that they were made by or begun with, and those that quoted a broken answer in one of them.
    """
    shared: dict[int, set[int]] = {}
    of_turn: dict[int, set[int]] = {}
    quoting: dict[int, set[int]] = {}
    for request, fields in home.requests.items():
        made = home.tries[request].turn if request in home.tries else None
        together = {each for each in (made, fields.get("prefill")) if each is not None}
        # Going on from a broken answer quotes it: as a prefill, or in a user's turn of its own.
        quotes = {fields["turn"]} if "retry_of" in fields and "turn" in fields else set()
        for each in together:
            shared.setdefault(each, set()).update(together | quotes)
            of_turn.setdefault(each, set()).add(request)
        for each in quotes:
            quoting.setdefault(each, set()).add(request)
    waiting = [each for each in positions if each in shared]
    while waiting:
        new = shared[waiting.pop()] - positions
        positions |= new
        waiting += [each for each in new if each in shared]
    return (
        {request for each in positions for request in of_turn.get(each, ())},
        {request for each in positions for request in quoting.get(each, ())},
    )


def _follow(connection: Connection, chain: _Chain, cut: _Cut, held: Collection[int]) -> None:
    """Take the salts of requests that held something erased, and what came of them that no turn holds."""
    cut.request |= set(held) & chain.proved
    cut.arrived |= set(held)
    left = {
        entry
        for request in held
        if request in chain.tries and chain.tries[request].turn is None
        for entry in chain.left_by(request)
    }
    missing = left - cut.content.keys()
    if missing:
        cut.content |= storage.standing(connection, chain.kept.id, missing)


def _unlabel(connection: Connection, cut: _Cut) -> None:
    given = [position for position, *_ in storage.headers(connection, cut.kept.id, ("labelled",))]
    cut.content |= storage.standing(connection, cut.kept.id, given)
    cut.labels = cut.kept.title is not None or cut.kept.metadata is not None


def _refuse_pending(chain: _Chain, held: Collection[int], *, whole: bool) -> None:
    """Refuse while a request that holds what is to go is with the API: what comes of it could hold it again."""
    head = chain.kept.head
    if head.token == NO_TOKEN or not (whole or head.pending_position in held):
        return
    if chain.kept.lease_over or identity.provably_dead(chain.kept.lease_owner):
        raise UnknownOutcomeError(chain.kept.id, head.pending_position, "unknown")
    raise BusyError(chain.kept.id, chain.kept.lease_until)


def _summaries(connection: Connection, cuts: Sequence[_Cut], home: UUID, first: int) -> list[Place]:
    """Find the summaries that may have been made of what goes: those after it, and all in forks."""
    mark = b'"origin":"%s"' % Origin.SUMMARY.value.encode()
    return [
        (cut.kept.id, position)
        for cut in cuts
        for position in storage.turns_marked(connection, cut.kept.id, mark, first if cut.kept.id == home else 0)
        if position not in cut.content
    ]


def _told(connection: Connection, cuts: Sequence[_Cut], summaries: Sequence[Place]) -> Erasure:
    blobs = storage.unused_after(connection, {cut.kept.id: cut.content for cut in cuts})
    content = [(cut.kept.id, position, each) for cut in cuts for position, each in sorted(cut.content.items())]
    return Erasure(
        content=tuple((of, position) for of, position, _ in content),
        turns=tuple((of, position) for of, position, each in content if each.kind == "turn"),
        exchanges=tuple((cut.kept.id, position) for cut in cuts for position in sorted(cut.request)),
        size=sum(each.size for _, _, each in content),
        blobs=len(blobs),
        blob_size=sum(blobs),
        keys=tuple(cut.kept.id for cut in cuts if cut.key),
        summaries=tuple(summaries),
        labels=sum(each.kind == "labelled" for _, _, each in content),
    )


# --- writing -----------------------------------------------------------------------------------------------------


def _prepared(cut: _Cut, scope: str, told: Mapping[str, str]) -> Commit:
    """Chain what records the cut at the log's end."""
    at = identity.now()
    drafts = []
    if cut.content or cut.request:
        fields = erasure.fields(cut.content, cut.request)
        drafts.append(draft("erased", at=at, salt=identity.new_salt(), fields=fields, about=told))
    shown = None
    if cut.view is not None:
        shown = len(drafts)
        spans, depth = cut.view
        fields = view.fields(spans, spans, cut.kept.head.view_position, depth)
        drafts.append(draft("view", at=at, salt=identity.new_salt(), fields=fields))
    return exchanges.prepare(cut.kept.id, cut.kept.head, drafts, scope=scope, view=shown)


def _write(connection: Connection, cuts: Sequence[_Cut], commits: Mapping[UUID, Commit]) -> bool:
    blobs = []
    for cut in cuts:  # in the order of their ids, so that two erasures never wait for each other
        of = cut.kept.id
        log.append(connection, commits[of])
        blobs += storage.take(connection, of, cut.content, cut.request)
        storage.forget_arrived(connection, of, cut.arrived)
        if cut.labels:
            log.label(connection, of, None, None)
        if cut.key:
            storage.forget_key(connection, of)
        if cut.names:
            storage.forget_idempotency(connection, of)
    storage.drop_unused(connection, blobs)
    for cut in cuts:
        if cut.names:
            rotation.shred(connection, cut.kept.id)
    return True


def _was_written(connection: Connection, commits: Mapping[UUID, Commit]) -> bool | None:
    return True if all(log.is_there(connection, commit) for commit in commits.values()) else None
