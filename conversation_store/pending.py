"""
Pending exchanges: how one is begun, tried again, and ended; whose it is while it is pending.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Final, Literal

from attrs import define, evolve, field, frozen

from conversation_store import exchanges, history, outcomes, windows
from conversation_store.api import caching, costs
from conversation_store.api import request as requests
from conversation_store.api.request import Marker, Messages, Request, Settings
from conversation_store.errors import (
    APIError,
    BusyError,
    CodecError,
    ConflictError,
    ContentError,
    DatabaseError,
    IdempotencyError,
    InterruptedAnswerError,
    LeaseLostError,
    NotSavedError,
    NotSentError,
)
from conversation_store.history import History, Uses, fields_for, turn_draft
from conversation_store.outcomes import Answer
from conversation_store.preflight import Planned, Said
from conversation_store.record import canonical, chain, codec, view
from conversation_store.record.blocks import Text
from conversation_store.record.chain import Entry, draft
from conversation_store.record.exchange import Attempt, Exchange, State
from conversation_store.record.reply import Reply
from conversation_store.record.splices import Parted
from conversation_store.record.turns import Origin, fields_of
from conversation_store.record.view import Span, View
from conversation_store.storage import blobs, identity, journal, ledger
from conversation_store.storage.blobs import Blob
from conversation_store.storage.log import Commit
from conversation_store.storage.tables import NO_TOKEN
from conversation_store.windows import Shown

SUMMARY: Final = "What was said before, in summary:\n\n"
"""Stands before a summary that the model wrote, in the user's message that is sent in the place of what it is about."""

_CUT: Final = frozenset({"max_tokens", "model_context_window_exceeded", "pause_turn"})

logger: Final = logging.getLogger("conversation_store")


@frozen(kw_only=True)
class Terms:
    """
    How an exchange is begun.

    Attributes:
        sent_by: ``client`` or ``caller``: who sends it.
        lease: Seconds for which nobody else may take it over.
        max_attempts: How often it will be tried at most.
        on_rejected: Whether the turns of a rejected or refused request leave the view or are kept.
    """

    sent_by: str
    lease: float
    max_attempts: int = 1
    on_rejected: Literal["set_aside", "keep"] = "set_aside"


@frozen
class Compacting:
    """
    What becomes of the view once a summary has come.

    Attributes:
        by: Whose summary it is: words that the ``model`` writes, or a compaction block of the ``api``.
        summarised: The turns it stands for; the view begins with them.
        kept: What stands after them; not known any more once the exchange has begun.
    """

    by: str
    summarised: View
    kept: View = ()

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Compacting | None:
        """Read it from the header of a ``request`` entry; None where that asks for no summary."""
        told = fields.get("compacts")
        return None if told is None else cls(told["by"], view.spans(told["spans"]))

    def fields(self) -> dict[str, Any]:
        """Write it as a header has it."""
        return {"by": self.by, "spans": view.written(self.summarised)}


def asks_for_summary(request: Entry) -> bool:
    """Say whether a ``request`` entry asks for a summary: half of one is nothing to go on from."""
    return Compacting.read(fields_of(request.header)) is not None


def summary_fields(summarised: View) -> dict[str, Any]:
    """Write the header of a summary: whose it is, and which turns it stands for."""
    return {"origin": Origin.SUMMARY.value, "stands_for": view.written(summarised)}


class Pending:
    """
    An exchange that has begun and has no outcome yet.

    Send ``params`` with the official SDK, or ``body`` with ``headers``; then ``finish`` or ``fail``.

    Attributes:
        exchange: The exchange.
        reply: The reply, once there is one.
        token: What says that the exchange is this one's.
    """

    def __init__(
        self,
        known: History,
        exchange: Exchange,
        request: Request | None = None,
        *,
        prefill: Any = None,
        on_rejected: Literal["set_aside", "keep"] = "set_aside",
        compacting: Compacting | None = None,
    ) -> None:
        self._history = known
        self._compacting = compacting
        self._request = request
        self._prefill = prefill
        self._on_rejected = on_rejected
        self.token = known.head.token
        self._taken: _Taken | None = None
        self._ending: _Ending | None = None
        self.exchange = exchange
        self.reply: Reply | None = None

    @classmethod
    def recorded(cls, known: History, exchange: Exchange) -> Pending:
        """Take an exchange that was begun elsewhere in hand, as its request tells it."""
        request = known.entry(exchange.position)
        fields = fields_of(request.header)
        with known.database.read() as connection:
            prefill = history.prefill_of(connection, known.id, exchange.position)
        kept = history.keeps_rejected(request)
        compacting = Compacting.read(fields)
        on_rejected: Literal["set_aside", "keep"] = "keep" if kept else "set_aside"
        return cls(known, exchange, prefill=prefill, on_rejected=on_rejected, compacting=compacting)

    def __repr__(self) -> str:
        return f"<Pending exchange {self.exchange.position} of {self._history.id}>"

    @property
    def request(self) -> Request:
        """What is to be sent."""
        if self._request is None:
            self._request = self._history.rebuilt(self.exchange.position)
        return self._request

    @property
    def params(self) -> dict[str, Any]:
        """Keyword arguments for ``messages.create`` of the official SDK."""
        return self.request.params

    @property
    def body(self) -> bytes:
        """The exact bytes to post."""
        return self.request.body

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the body; authentication is the sender's own."""
        return self.request.headers

    def finish(self, answer: object = None, *, attempts: Sequence[Attempt] = ()) -> Reply:
        """
        Record the answer, and give it back.

        Args:
            answer: The response's body as bytes (kept exactly), the official SDK's ``Message``, or a dict.
                None to record again an answer that ``NotSavedError`` kept.
            attempts: What it took to get it.

        Raises:
            ContentError: It is no form of an answer; nothing is recorded.
            InterruptedAnswerError: It is no whole message of the API; the exchange is recorded so.
            NotSavedError: The database refused; call ``finish()`` again.
            LeaseLostError: Another worker took the exchange over; the answer is kept as a note.
        """
        if self.reply is not None:
            return self.reply
        self._refuse_ended()
        if answer is not None:
            message, exact = outcomes.bytes_of(answer)
            self._take(_Taken(message, message if exact else None, "bytes" if exact else "object", attempts))
        return self._finished()

    def finish_stream(
        self,
        message: bytes,
        response: bytes,
        *,
        incomplete: frozenset[int] = frozenset(),
        attempts: Sequence[Attempt] = (),
    ) -> Reply:
        """
        Record a streamed answer: the message its events make, the bytes it came as, and which blocks are not whole.

        Raises:
            As ``finish``.
        """
        self._take(_Taken(message, response, "stream", attempts, incomplete))
        return self._finished()

    def _take(self, taken: _Taken) -> None:
        # The same answer again keeps what was decided about it: that may have been written.
        if taken != self._taken:
            self._taken, self._ending = taken, None

    def _refuse_ended(self) -> None:
        if self.exchange.state not in {State.PENDING, State.UNKNOWN}:
            raise ContentError("answer", f"this exchange has ended already: {self.exchange.state}")

    def _finished(self) -> Reply:
        if self._taken is None:
            raise ContentError("answer", "there is none yet: give the response")
        try:
            if self._ending is None:
                self._ending = self._ending_with(self._taken)
            self._conclude(self._ending)
        except DatabaseError as error:
            raise NotSavedError(self, error.reason) from error
        made, received = self._ending, self._ending.answer
        turn = None if made.turn_entry is None else self._history.turn(made.turn_entry)
        self.reply = Reply(exchange=made.exchange, turn=turn, fields=received.fields, raw_content=received.content)
        self.exchange = made.exchange
        return self.reply

    def fail(self, error: Exception) -> None:
        """
        Record that there is no answer. *error* is this library's, or the one the caller's client raised.

        Raises:
            LeaseLostError: Another worker took the exchange over.
            DatabaseError: It could not be recorded; the exchange will read as unknown once its lease is over.
        """
        self._refuse_ended()
        fault = outcomes.api_error(error)
        state, billed, body = outcomes.failed(fault)
        at = identity.now()
        ended = outcomes.concluded(self.exchange, None, state=state, attempts=fault.attempts, billed=billed, at=at)
        entry = outcomes.outcome_draft(self.exchange, state, body, at=at, salt=identity.new_salt())
        self._conclude(_Ending(drafts=[entry], exchange=ended, answer=Answer.none(), late=body))
        self.exchange = ended

    def _ending_with(self, taken: _Taken) -> _Ending:
        """Decide what an answer becomes, and keep its attachments."""
        attempts = taken.attempts
        try:
            read = Answer.read(taken.message, response=taken.response, form=taken.form, incomplete=taken.incomplete)
        except CodecError as error:
            partial = taken.response or taken.message
            fault = InterruptedAnswerError(f"no whole message: {error}", attempts=attempts, partial=partial)
            self.fail(fault)
            raise fault from None
        known = self._history
        at = identity.now()
        price = costs.price(
            read.fields,
            read.blocks,
            model=self.exchange.model,
            at=self.exchange.begun,
            models=known.options.models,
            tools=self._tools,
        )
        state, body, turn_body, fields = outcomes.answered(read, prefill=self._prefill, attempts=attempts, price=price)
        uses: dict[int, Sequence[Blob]] = {}
        raw_use = None
        if known.options.keep_raw and read.response is not None:
            raw_use = evolve(
                blobs.put(known.database, known.kept.scope, known.id, read.response, at), salt=identity.new_salt()
            )
            uses[0] = [raw_use]
        drafts = [
            outcomes.outcome_draft(
                self.exchange, state, body, at=at, salt=identity.new_salt(), answer=read, raw_use=raw_use
            )
        ]
        summary = None
        if turn_body is not None:
            marks: Mapping[str, Any] = {name: fields[name] for name in ("ours", "omit") if name in fields}
            kept = known.detached(turn_body, at, received=True, marks=marks)
            uses[1] = kept.blobs
            stood_for = self._stood_for(read)
            if stood_for is not None:
                fields["stands_for"] = view.written(stood_for)
            drafts.append(turn_draft({**fields, "request": self.exchange.position}, kept, at))
            summary = self._summary(read, at) if stood_for is None else None
        ended = outcomes.concluded(
            self.exchange, read, state=state, attempts=attempts, billed=False, at=at, price=price
        )
        return _Ending(drafts=drafts, exchange=ended, answer=read, uses=uses, late=taken.message, summary=summary)

    def _stood_for(self, answer: Answer) -> View | None:
        """
        Say which turns an answer stands for that begins with a compaction of the API's; None for any other.

        One that came by itself stands for all that was sent: the API reads nothing that is before it any more.

        Source: Messages API documentation, Compaction, 2026-10.
        """
        first = answer.blocks[0] if answer.blocks else {}
        if first.get("type") != "compaction" or not isinstance(first.get("content"), str) or 0 in answer.incomplete:
            return None
        if self._compacting is not None:
            return self._compacting.summarised
        known = self._history
        asked = fields_of(known.entry(self.exchange.position).header)
        if history.shown_once(known.entry(asked["view"])) is not None:
            return None  # it was shown a part of the view, and does not stand for the rest
        return view.closed(known.view[0], known.head.length)

    def _summary(self, answer: Answer, at: int) -> Entry | None:
        """Write the turn that is sent in the place of what an answer summarises; None where it is no summary."""
        if self._compacting is None or self._compacting.by != "model" or answer.text_field("stop_reason") in _CUT:
            return None
        words = "".join(block.text for block in codec.blocks_of(answer.blocks) if isinstance(block, Text)).strip()
        if not words:
            return None
        kept = self._history.detached(codec.wire("user", (SUMMARY + words,)), at)
        about = {"reason": f"written by the model in exchange {self.exchange.position}"}
        return turn_draft(summary_fields(self._compacting.summarised), kept, at, about)

    def _tools(self) -> object:
        """Read the tools of the request; none where they cannot be read any more."""
        try:
            return self._history.params_of(self.exchange.position).get("tools")
        except CodecError:
            return None

    def _conclude(self, ending: _Ending) -> None:
        """
        Write the end of an exchange, wherever the log has got to meanwhile, as long as the token is its own.

        Raises:
            LeaseLostError: Another worker took the exchange over; what came is kept as a note.
        """
        known = self._history
        while True:
            if ending.commit is not None and known.was_written(ending.commit):
                if ending.shown is not None or ending.changes_view:
                    known.forget_view()  # nobody knows whether it was shown
                return
            if known.head.token != self.token:
                known.refresh()
            if known.head.token != self.token:
                known.append_whenever(self._late(ending))
                raise LeaseLostError(known.id, self.exchange.position)
            commit = self._placed(ending)
            outcome = commit.entries[0].position
            work = partial(exchanges.finish, commit=commit, exchange=ending.exchange, outcome=outcome)
            try:
                known.write(work, commit, ending.uses)
            except (ConflictError, LeaseLostError, BusyError):
                # Somebody appended a note meanwhile, or took over: look, and chain the same entries anew.
                known.refresh()
                continue
            if ending.shown is not None:
                known.show(*ending.shown)
            elif ending.changes_view:
                known.forget_view()
            logger.debug("conversation %s: exchange %d %s", known.id, self.exchange.position, ending.exchange.state)
            return

    def _late(self, ending: _Ending) -> Entry:
        """Record what came too late: it was paid for, and it is evidence, but it is no turn."""
        fields = {"late": True, "request": self.exchange.position}
        body = canonical.compose({"answer": ending.late})
        return draft("note", at=identity.now(), salt=identity.new_salt(), fields=fields, body=body)

    def _placed(self, ending: _Ending) -> Commit:
        """Chain what ends the exchange at the log's present end."""
        known = self._history
        drafts = list(ending.drafts)
        view_draft = None
        compacted = self._compacted(ending)
        if compacted is not None:
            more, change = compacted
            view_draft = len(drafts) + len(more)
            drafts += [*more, draft("view", at=drafts[0].at, salt=identity.new_salt(), fields=change)]
        rejected = ending.exchange.state in {State.REJECTED, State.REFUSED}
        if rejected and self._on_rejected == "set_aside":
            view_draft = len(drafts)
            change, ending.shown = self._set_aside()
            drafts.append(draft("view", at=drafts[0].at, salt=identity.new_salt(), fields=change))
        commit = known.prepare(drafts, ending.uses, view=view_draft, pending=(NO_TOKEN, 0), lease=0)
        made = next((entry for entry in commit.entries if entry.kind == "turn"), None)
        ending.turn_entry = made
        ending.exchange = evolve(ending.exchange, turn=None if made is None else made.position)
        ending.commit = commit
        return commit

    def _compacted(self, ending: _Ending) -> tuple[list[Entry], dict[str, Any]] | None:
        """Write the view after a summary, and the summary where the model wrote it; None where the view stays."""
        known = self._history
        turn = next((n for n, entry in enumerate(ending.drafts) if entry.kind == "turn"), None)
        if turn is None or self._compacting is None:
            return None
        stood_for = b'"stands_for"' in ending.drafts[turn].header
        summarised = self._compacting.summarised
        now, depth = known.view
        before = view.closed(now, known.head.length)
        more: list[Entry] = []
        new = before  # an answer that is no summary is part of no view
        if before[: len(summarised)] == summarised and (stood_for or ending.summary is not None):
            rest = before[len(summarised) :]
            position = known.head.length + turn
            if not stood_for and ending.summary is not None:
                position, rest = known.head.length + len(ending.drafts), view.without_thinking(rest)
                more = [ending.summary]
            new = (Span(known.id, position, position), *rest)
        after = view.reopened(new, known.id, known.head.length + len(ending.drafts) + len(more))
        ending.changes_view = True
        return more, view.fields(now, after, known.head.view_position, depth)

    def _set_aside(self) -> tuple[dict[str, Any], tuple[tuple[View, int], int]]:
        """Leave everything after the last answered turn, or the summary, out of the view; go on after the request."""
        known = self._history
        messages, (now, depth) = known.messages, known.view
        keep = messages.model_turns[-1] + 1 if messages.model_turns else int(known.summary_of(now) is not None)
        kept = view.until(now, *messages.places[keep - 1]) if keep else ()
        new = view.reopened(kept, known.id, self.exchange.position + 1)
        change = view.fields(now, new, known.head.view_position, depth)
        return {**change, "request": self.exchange.position}, ((new, change.get("depth", 0)), keep)


@frozen
class _Taken:
    """An answer as it came: a message, the exact response where there is one, and in which form."""

    message: bytes
    response: bytes | None
    form: str
    attempts: Sequence[Attempt]
    incomplete: frozenset[int] = frozenset()


@define(kw_only=True)
class _Ending:
    """
    What ends an exchange: decided once, chained at the log's end as often as that moves.

    Attributes:
        drafts: The outcome entry, and the model's turn where there is one.
        exchange: The exchange as it will read.
        answer: The answer; an empty one for a fault.
        uses: The blobs of the drafts, by index.
        late: What came, as JSON, should it come too late.
        summary: The turn that is sent in the place of others from now on; None for none.
        changes_view: Whether another view is told than what is known here.
        commit: The append, once its place is known.
        turn_entry: The model's turn in its place.
        shown: The view from then on, its depth, and how many messages stay in it; None where it stays.
    """

    drafts: Sequence[Entry]
    exchange: Exchange
    answer: Answer
    late: bytes
    uses: Uses = field(factory=dict)
    summary: Entry | None = None
    changes_view: bool = False
    commit: Commit | None = None
    turn_entry: Entry | None = None
    shown: tuple[tuple[View, int], int] | None = None


# --- beginning ---------------------------------------------------------------------------------------------------


def begin(
    known: History,
    planned: Planned,
    terms: Terms,
    key: str | None = None,
    *,
    continues: int | None = None,
    retry_of: int | None = None,
    reason: str | None = None,
    compacting: Compacting | None = None,
) -> Pending:
    """
    Write the beginning of an exchange: its turn, its prefill, its request, token and lease.

    Args:
        known: The conversation.
        planned: The request.
        terms: How it is begun.
        key: The caller's idempotency key.
        continues: The exchange whose paused answer this one goes on with.
        retry_of: The exchange whose broken answer this one goes on with.
        reason: Why a turn that is synthetic was made.
        compacting: What is to become of the view, where a summary is asked for.

    Raises:
        ConflictError, BusyError: Another worker is at it; nothing was written.
        DatabaseError: The database refused; nothing was written.
    """
    known.refuse_busy()  # a token that is known here lets an append pass: only who tries again may take one over
    at = identity.now()
    drafts: list[Entry] = []
    uses: dict[int, Sequence[Blob]] = {}
    fields: dict[str, Any] = {"last": known.head.length - 1}
    moved = _moved(known, planned.shown, at)
    if moved is not None:
        drafts.append(moved.entry)
    for origin, message in planned.new:
        position = known.head.length + len(drafts)
        if origin is Origin.PREFILL:
            fields["prefill"] = position
        else:
            fields |= {"turn": position, "last": position}
        uses[len(drafts)] = message.blobs
        about = {"reason": reason} if origin is Origin.SYNTHETIC else None
        drafts.append(turn_draft(fields_for(origin, message), message, at, about))
    if continues is not None:
        fields["continues"] = continues
    if moved is not None and moved.once:
        fields["view"] = known.head.length
    view_draft = 0 if moved is not None and not moved.once else None
    if compacting is not None:
        # What asks for the summary is part of no view but its own.
        view_draft = len(drafts)
        drafts.append(_apart(known, (*compacting.summarised, *compacting.kept), len(drafts), at))
        fields["compacts"] = compacting.fields()
    beginning = _Beginning(
        drafts=drafts, uses=uses, fields=fields, at=at, key=key, view=view_draft, moved=moved, retry_of=retry_of
    )
    return _begun(known, planned, terms, beginning)


@frozen
class _Moved:
    """A view that begins with a request: its entry, what it shows, and whether it is for that request alone."""

    entry: Entry
    view: tuple[View, int]
    once: bool


def _moved(known: History, shown: Shown | None, at: int) -> _Moved | None:
    """Write the view of a request that shows other turns than the conversation's own view; None where it does not."""
    if shown is None or shown.view is None:
        return None
    now, depth = known.view
    new = view.reopened(shown.view, known.id, known.head.length + 1)
    change = view.fields(now, new, known.head.view_position, depth)
    marks: dict[str, Any] = {"once": known.head.view_position} if shown.once else {}
    if shown.window is not None:
        marks["window"] = shown.window.fields()
    entry = draft("view", at=at, salt=identity.new_salt(), fields={**change, **marks})
    return _Moved(entry, (new, change.get("depth", 0)), shown.once)


def _apart(known: History, spans: View, offset: int, at: int) -> Entry:
    """Write the view that leaves out what begins an exchange, as its entry *offset*; it goes on after that."""
    now, depth = known.view
    new = view.reopened(spans, known.id, known.head.length + offset + 1)
    change = view.fields(now, new, known.head.view_position, depth)
    return draft("view", at=at, salt=identity.new_salt(), fields=change)


def again(known: History, old: Exchange, changes: Mapping[str, Any], terms: Terms, *, stream: bool = False) -> Pending:
    """
    Begin a new exchange that tries an old one again. No turn is doubled; turns set aside come back.

    Args:
        known: The conversation.
        old: The exchange to try again.
        changes: Settings for the new exchange, over those of the old one.
        terms: How it is begun.
        stream: Whether the answer is to be streamed this time.

    Raises:
        ContentError: Turns were added since, so that bringing the old ones back would change their order.
        ConfigurationError: A secret that is to be sent is not known here, or nothing is known of a new model.
        ConflictError, BusyError: Another worker is at it; nothing was written.
    """
    if known.head.pending_position != old.position:
        known.refuse_busy()
    at = identity.now()
    entry = known.entry(old.position)
    fields = fields_of(entry.header)
    known.options.take_model(changes.get("model"))
    overrides, secrets = Settings.read(entry.body or b"{}", fields.get("overrides", {})).updated(changes)
    seen = _seen_again(known, old, fields, overrides, at)
    extra = []
    prefill = None
    said = known.entry(fields["prefill"]) if "prefill" in fields else None
    if said is not None and said.body is not None:  # one that was erased is not asked for again
        prefill = canonical.object_of(said.body or b"{}").get("content")
        extra.append(requests.part_of(said.header, said.body or b""))
    known.secrets |= secrets
    body = requests.merged(known.settings.body, overrides.body, stream=stream)
    requests.need_secrets(body, known.known_secrets)
    version, betas = known.headers_for(known.settings, overrides)
    params = canonical.object_of(body)
    markers: Sequence[Marker] = requests.markers_of(fields)
    if markers:  # what they were on may be another message by now
        markers = caching.markers(seen.messages, extra, params, markers[0].ttl, prefill=prefill is not None)
    request = seen.messages.request(
        extra, body, version=version, betas=betas, secrets=known.known_secrets, markers=markers
    )
    planned = Planned(
        request=request,
        markers=markers,
        findings=(),
        new=(),
        overrides=overrides,
        prefill=prefill,
        model=str(params.get("model", "")),
        stream=stream,
        shown=seen.shown,
    )
    beginning = _Beginning(
        drafts=seen.drafts,
        fields=seen.fields if prefill is None else {**seen.fields, "prefill": fields["prefill"]},
        at=at,
        view=seen.view,
        moved=seen.moved,
        retry_of=old.position if old.retry_of is None else old.retry_of,
        superseded=evolve(old, state=State.UNKNOWN) if old.state in {State.PENDING, State.UNKNOWN} else None,
    )
    return _begun(known, planned, terms, beginning)


@define(kw_only=True)
class _Beginning:
    """
    What is written when an exchange begins, but for its request entry.

    Attributes:
        drafts: The turns or the view that come with it.
        fields: Fields of the request's header: ``last``, ``turn``, ``prefill``.
        at: When.
        uses: The blobs of the drafts, by index.
        key: The idempotency key; None on retries.
        view: Index of the draft that tells the view.
        moved: The view that begins with it, where its window moved.
        retry_of: The first exchange of the chain of retries.
        superseded: The exchange of unknown outcome whose place this one takes.
    """

    drafts: list[Entry]
    fields: dict[str, Any]
    at: int
    uses: Uses = field(factory=dict)
    key: str | None = None
    view: int | None = None
    moved: _Moved | None = None
    retry_of: int | None = None
    superseded: Exchange | None = None


def _begun(known: History, planned: Planned, terms: Terms, beginning: _Beginning) -> Pending:
    request, at, drafts = planned.request, beginning.at, beginning.drafts
    head = known.head
    request_salt = identity.new_salt()
    fields = {
        "view": head.view_position if beginning.view is None else head.length + beginning.view,
        **beginning.fields,
        "builder": requests.MARKING_BUILDER if planned.markers else requests.BUILDER,
        "endpoint": request.endpoint,
        "length": request.length,
        "max_attempts": terms.max_attempts,
        "request": chain.part(request_salt, chain.JSON_TYPE, request.digest).hex(),
        "sent_by": terms.sent_by,
        "settings": head.settings_position,
        "version": request.version,
    }
    optional = {
        "betas": list(request.betas),
        "overrides": planned.overrides.fields(),
        "on_rejected": None if terms.on_rejected == "set_aside" else terms.on_rejected,
        "stream": planned.stream or None,
        "retry_of": beginning.retry_of,
        "markers": [list(marker) for marker in planned.markers],
        "window": window.fields() if planned.shown is not None and (window := planned.shown.window) else None,
    }
    fields |= {name: value for name, value in optional.items() if value not in (None, [], {})}
    drafts.append(
        draft(
            "request",
            at=at,
            salt=identity.new_salt(),
            fields=fields,
            body=None if planned.overrides.body == b"{}" else planned.overrides.body,
            about={"idempotency_key": beginning.key},
            request_salt=request_salt,
        )
    )
    commit = known.prepare(
        drafts,
        beginning.uses,
        view=beginning.view,
        pending=(identity.new_token(), len(drafts) - 1),
        lease=int(terms.lease * 1_000_000),
        owner=identity.owner(),
    )
    exchange = Exchange(
        conversation=known.id,
        position=commit.after.pending_position,
        state=State.PENDING,
        model=planned.model,
        begun=at,
        body_length=request.length,
        sent_by=terms.sent_by,
        streamed=planned.stream,
        retry_of=beginning.retry_of,
        idempotency_key=beginning.key,
    )
    work = partial(exchanges.begin, commit=commit, exchange=exchange, superseded=beginning.superseded)
    moved, shown = beginning.moved, planned.shown
    try:
        if moved is not None and not moved.once and shown is not None:
            known.adopt(moved.view, shown.messages, shown.outline)
        known.write(work, commit, beginning.uses)
        logger.debug("conversation %s: exchange %d begun, %d bytes", known.id, exchange.position, request.length)
        if beginning.view is not None and (moved is None or moved.once):
            known.forget_view()
        told: dict[str, Any] = {"prefill": planned.prefill, "on_rejected": terms.on_rejected}
        return Pending(known, exchange, request, **told, compacting=Compacting.read(fields))
    except LeaseLostError:
        # It was never ours: of two that found the same lost exchange, the other was first.
        known.refresh()
        raise BusyError(known.id, known.kept.lease_until) from None
    except Exception:
        if moved is not None:
            known.forget_view()
        raise
    except BaseException as error:
        # Ctrl-C: where it was begun nobody has it in hand, and it would keep the conversation until its lease is over.
        known.refresh()
        known.forget_view()
        if known.head.token == commit.after.token:
            Pending(known, exchange).fail(NotSentError(f"stopped by {type(error).__name__} before it was sent"))
        raise


@frozen
class _Seen:
    """
    What a request that is tried again shows.

    Attributes:
        messages: Its messages.
        fields: Fields of its header that say so.
        drafts: The view that begins with it, if one does.
        view: Index of that draft; None where the conversation's view stays.
        shown: What its window shows, where that was decided anew.
        moved: The view that its window made.
    """

    messages: Messages
    fields: dict[str, Any]
    drafts: list[Entry]
    view: int | None = None
    shown: Shown | None = None
    moved: _Moved | None = None


def _seen_again(known: History, old: Exchange, fields: Mapping[str, Any], overrides: Settings, at: int) -> _Seen:
    """Decide what is shown again: what the old request showed, unless the view or the window is another one since."""
    once = history.shown_once(known.entry(fields["view"]))
    change = None
    if old.state in {State.REJECTED, State.REFUSED}:
        change = _brought_back(known, old, fields["view"] if once is None else once, fields["last"])
    asks_for_summary = "compacts" in fields
    changed = once is not None and change is None and known.head.view_position != once
    if not asks_for_summary and (changed or _window(known, overrides) != fields.get("window")):
        return _seen_anew(known, overrides, change, at)
    more: dict[str, Any] = {"last": known.head.length - 1}
    more |= {name: fields[name] for name in ("window", "compacts") if name in fields}
    if once is not None:
        more["view"] = fields["view"]
    if asks_for_summary:
        more["last"] = fields["last"]  # what was said since is not what the summary is asked about
    if change is not None:
        restored = draft("view", at=at, salt=identity.new_salt(), fields=change)
        return _Seen(_messages_of(known, fields), more, [restored], 0)
    return _Seen(known.messages if once is None else _messages_of(known, {**fields, **more}), more, [])


def _seen_anew(known: History, overrides: Settings, change: Mapping[str, Any] | None, at: int) -> _Seen:
    """Let the window decide; *change* is the view that what was set aside comes back with, None where nothing was."""
    if change is not None:
        # What leaves is decided from the view, so they come back first.
        known.append([draft("view", at=at, salt=identity.new_salt(), fields=change)], view=0)
    shown = windows.shown(known, overrides, ())
    more: dict[str, Any] = {"last": known.head.length - 1}
    moved = _moved(known, shown, at)
    if moved is None:
        return _Seen(shown.messages, more, [], shown=shown)
    if moved.once:
        more["view"] = known.head.length
    return _Seen(shown.messages, more, [moved.entry], None if moved.once else 0, shown, moved)


def _window(known: History, overrides: Settings) -> dict[str, int] | None:
    window = overrides.window or known.settings.window
    return None if window is None else window.fields()


def _brought_back(known: History, old: Exchange, base: int, last: int) -> dict[str, Any] | None:
    """
    Write the view that there was with a rejected request, and what came after; None where nothing was set aside.

    *base* tells that view, and *last* is the last entry of the log that the request had.
    """
    if fields_of(known.entry(known.head.view_position).header).get("request") != old.position:
        return None
    if (place := known.messages.places[-1:]) and place[0][0] == known.id and place[0][1] > old.position:
        raise ContentError("", "turns were added since the rejected ones; say it anew instead of trying again")
    with known.database.read() as connection:
        past, _ = history.view_at(connection, known.id, base)
    now, depth = known.view
    restored = view.reopened(_ending_at(past, known, last), known.id, old.position + 1)
    return view.fields(now, restored, known.head.view_position, depth)


def _ending_at(past: View, known: History, last: int) -> View:
    return view.until(past, known.id, last) if any(span.last is None for span in past) else past


def _messages_of(known: History, fields: Mapping[str, Any]) -> Messages:
    messages = Messages()
    with known.database.read() as connection:
        spans, _ = history.view_at(connection, known.id, fields["view"])
        history.add_messages(messages, known.database, connection, spans, fields["last"] + 1)
    return messages


# --- an exchange whose worker is gone ----------------------------------------------------------------------------


def arrived(known: History, lost: Exchange) -> bytes:
    """Read what the journal has of a lost exchange's answer."""
    if not lost.streamed:
        return b""
    with known.database.read() as connection:
        return journal.read(connection, known.id, lost.position)


def settled(known: History, lost: Exchange, *, resend: bool = False, keep: bool = False) -> Pending:
    """
    Record what had arrived of a lost exchange's answer, before anything else is done about it.

    An answer that had arrived whole is the answer: it is in ``reply``, and there is nothing to send again.

    Args:
        known: The conversation, its row read just now.
        lost: The exchange, the one that is pending.
        resend: Whether it will be sent again: then one of which nothing came is left as it is.
        keep: Whether it is interrupted although nothing came.

    Raises:
        BusyError: Another worker was first.
    """
    from conversation_store.api.stream import decode_all

    pending = Pending(known, lost)
    data = arrived(known, lost)
    if known.head.pending_position != lost.position:
        raise BusyError(known.id, known.kept.lease_until)
    if resend and not data:
        return pending
    message, read = decode_all(data)
    try:
        if message is not None or outcomes.is_message(data):
            pending = Pending.recorded(known, lost)
            if message is None:
                pending.finish(data)
            else:
                pending.finish_stream(message, data, incomplete=frozenset(read.incomplete))
        elif keep or data:
            said = f"the worker was lost before the answer was whole; {len(data)} bytes had arrived"
            pending.fail(InterruptedAnswerError(said, partial=data))
        else:
            pending.fail(APIError("given up: whether it was answered is not known"))
    except LeaseLostError:
        known.refresh()
        raise BusyError(known.id, known.kept.lease_until) from None
    return pending


# --- the same message again --------------------------------------------------------------------------------------


def by_key(known: History, key: str, said: Said) -> Exchange | None:
    """
    Find what an idempotency key was used for: the newest try of it, None for a new key.

    Raises:
        IdempotencyError: The key was used for other content.
    """
    while True:
        with known.database.read() as connection:
            found = ledger.by_key(connection, known.id, key)
        if found is None:
            return None
        known.refresh()
        first, newest = found
        if newest.state is not State.PENDING or known.head.pending_position == newest.position:
            break  # else it ended, or was taken over, between the two readings
    fields = fields_of(known.entry(first).header)
    recorded = [fields[name] for name in ("turn", "prefill") if name in fields]
    written = said.written()
    same = len(recorded) == len(written) and all(
        _is_said(known, position, message) for position, (_, message) in zip(recorded, written, strict=True)
    )
    if not same:
        raise IdempotencyError(known.id, first)
    return known.as_of_now(newest)


def _is_said(known: History, position: int, message: Parted) -> bool:
    """Say whether a recorded turn is this message, by its salted commitment and its attachments' digests."""
    entry = known.entry(position)
    if entry.salt is None or chain.part_of(entry.salt, message.body).hex() != fields_of(entry.header).get("body"):
        return False
    with known.database.read() as connection:
        used = blobs.used(connection, known.id, position, position).get(position, [])
    return [blob.digest for blob in used] == [sha256(each.data).digest() for each in message.cuts]
