"""
Conversations: say, send, keep, go on.

A ``Conversation`` belongs to one thread at a time. Two objects of the same row behave like two processes: what
one appends, the other finds out by ``ConflictError``, and goes on after ``refresh()``.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from attrs import evolve

from conversation_store import exchanges, history, outcomes, pending, preflight, tools
from conversation_store.api.client import Client
from conversation_store.api.request import Request
from conversation_store.api.rules import Finding
from conversation_store.audit.verify import Fault, verify_conversation
from conversation_store.errors import (
    APIError,
    BusyError,
    CodecError,
    ConfigurationError,
    ConflictError,
    ContentError,
    InterruptedAnswerError,
    RuleViolationError,
    ToolOutcomeError,
    UnknownOutcomeError,
)
from conversation_store.history import History, Options, settings_draft, turn_draft
from conversation_store.pending import Pending, Terms
from conversation_store.preflight import Said, message_faults, origin_of
from conversation_store.record import canonical, codec
from conversation_store.record.blocks import ABSENT, Maybe, Text, ToolResult, ToolUse
from conversation_store.record.chain import draft
from conversation_store.record.codec import Content
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.reply import Reply
from conversation_store.record.turns import Origin, Turn
from conversation_store.storage import identity, journal, ledger
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database
from conversation_store.storage.log import Kept
from conversation_store.storage.tables import IDEMPOTENCY_KEY_BYTES, NO_TOKEN
from conversation_store.streaming import JournalMode, Stream
from conversation_store.tools import Tool

Recovery: TypeAlias = Literal["resend", "keep_partial", "give_up"]
OnUnknown: TypeAlias = Literal["raise", "resend"]
OnRejected: TypeAlias = Literal["set_aside", "keep"]

LEASE_MARGIN: Final = 30.0
"""Seconds that a lease outlasts the deadline of the request it is for."""

CALLER_LEASE: Final = 900.0
"""Seconds of lease for a request that the caller sends with a client of their own."""

MOST_PAUSES: Final = 10
"""How often a paused answer is gone on with before the caller is asked."""

_LONGEST_WAIT: Final = 10_000_000

_SHORTEST_POLL: Final = 0.02
_LONGEST_POLL: Final = 1.0


class Conversation:
    """
    One conversation: its settings, its turns, and what is sent next.

    Made by ``Store.open`` and ``Store.get``. Every method that appends has committed when it returns.

    Attributes:
        id: The conversation's own id.
        key: The host's name for it, None for none.
    """

    def __init__(self, database: Database, kept: Kept, options: Options) -> None:
        self._history = History(database, kept, options)
        self.id: UUID = kept.id
        self.key: str | None = kept.key

    def __repr__(self) -> str:
        name = f"{self.key!r}, " if self.key is not None else ""
        return f"<Conversation {name}{self.id}, version {self.version}>"

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """How many entries the log had when this object last looked; every append makes it grow."""
        return self._history.head.length

    @property
    def head(self) -> bytes:
        """The 32-byte digest of the log's last entry: it stands for everything before it."""
        return self._history.head.digest

    @property
    def title(self) -> str | None:
        """What people call the conversation."""
        return self._history.kept.title

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the host noted beside it."""
        return canonical.object_of(self._history.kept.metadata or b"{}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parameters of the next request but its messages; ``version`` and ``betas`` where they are set."""
        return {**self._history.settings.params, **self._history.settings.fields()}

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns of the current view, in order: what the next request's messages are."""
        return tuple(self._history.turns)

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """Every request of this conversation and what became of it, oldest first, as of now."""
        self.refresh()
        with self._history.database.read() as connection:
            found = ledger.read_all(connection, self.id)
        return [self._history.as_of_now(exchange) for exchange in found]

    @property
    def pending(self) -> Pending | None:
        """The exchange that is pending now, whoever began it, to be finished; None where there is none."""
        self.refresh()
        known = self._history
        if known.head.token == NO_TOKEN:
            return None
        exchange = known.exchange(known.head.pending_position)
        with known.database.read() as connection:
            prefill = history.prefill_of(connection, self.id, exchange.position)
        kept = history.keeps_rejected(known.entry(exchange.position))
        return Pending(known, exchange, prefill=prefill, on_rejected="keep" if kept else "set_aside")

    def refresh(self) -> Conversation:
        """
        Read where the log stands now, and go on from there.

        Returns:
            This conversation.

        Raises:
            NotFoundError: The conversation is gone.
        """
        self._history.refresh()
        return self

    # --- saying ----------------------------------------------------------------------------------------------------

    def user(self, *content: Content) -> Turn:
        """
        Append a user's turn.

        Args:
            content: Words, blocks (``Image.open(…)``), or dicts in the API's shape.

        Raises:
            ContentError: Something is no content, or has an unknown key.
            RuleViolationError: It is empty, blank or out of place.
            ConflictError: Somebody else appended first; BusyError: an exchange is pending.
        """
        return self._say("user", content)

    def assistant(self, *content: Content, reason: str | None = None) -> Turn:
        """
        Append a synthetic turn: the assistant's, but not the model's. *reason* says why it was made.

        Raises:
            As ``user``.
        """
        return self._say("assistant", content, about={"reason": reason})

    def system(self, text: str) -> Turn:
        """
        Append a system message in the middle of the conversation, for models that take one.

        Raises:
            As ``user``.
        """
        return self._say("system", (text,))

    def tool_result(self, tool_use_id: str, content: object = None, is_error: bool = False) -> Turn:
        """
        Answer a call of a tool. Results given one by one are sent as one user message, before the user's words.

        Args:
            tool_use_id: The id of the call, one of ``open_calls``.
            content: A string, a block (``Image.open(…)``) or dict in the API's shape, or a list of those; None
                for an empty result.
            is_error: Whether the tool failed.

        Raises:
            RuleViolationError: No open call has this id; nothing was written.
            As ``user``.
        """
        call = next((each for each in self.open_calls if each.id == tool_use_id), None)
        if call is None:
            message = f"unexpected `tool_use_id`: {tool_use_id} is no open call of this conversation"
            raise RuleViolationError([Finding("results_asked_for", "error", "tool_use_id", None, message)])
        result = ToolResult(
            tool_use_id,
            codec.tool_result_content(content),  # type: ignore[arg-type]
            is_error=True if is_error else ABSENT,
            toolset_name=call.toolset_name if isinstance(call.toolset_name, str) else ABSENT,
        )
        wire = codec.wire("user", (result,))
        _refuse(message_faults(wire, ""))
        return self._append_turns([(Origin.TOOL, wire, {})], gather=True)[0]

    @property
    def open_calls(self) -> Sequence[ToolUse]:
        """The calls of the caller's tools that are not answered yet, in the order the model made them."""
        return tuple(self._history.open_calls)

    def append(self, *messages: Mapping[str, Any], check: bool = True) -> list[Turn]:
        """
        Append plain messages in the API's shape, of any role, all or none.

        *check* set to False takes what the rule book would refuse: a transcript as it was elsewhere.

        Raises:
            ContentError, RuleViolationError: Naming ``messages.N`` among those given.
            ConflictError, BusyError: As ``user``.
        """
        wires = [codec.wire_of_message(message, f"messages.{n}") for n, message in enumerate(messages)]
        found = [each for n, (_, wire) in enumerate(wires) for each in message_faults(wire, f"messages.{n}.")]
        if check:
            _refuse(found)
        return self._append_turns([(origin_of(role, wire), wire, {}) for role, wire in wires]) if wires else []

    def update(self, **settings: Any) -> None:
        """
        Change settings from the next request on; ``ABSENT`` removes one. Equal ones append nothing.

        Raises:
            ContentError: A value that is no JSON, or no setting.
            ConflictError, BusyError: As ``user``.
        """
        known = self._history
        changed, secrets = known.settings.updated(settings)
        known.secrets |= secrets
        if changed != known.settings:
            known.append([settings_draft(changed, identity.now())], settings=0)

    def know_secrets(self, secrets: Mapping[str, str]) -> None:
        """Remember, in this process alone, what is sent in the place of names like ``mcp_servers.NAME``."""
        self._history.secrets |= secrets

    def label(self, *, title: Maybe = ABSENT, metadata: Maybe = ABSENT) -> None:
        """
        Give the conversation a title or metadata; what is left out stays. Allowed while an exchange is pending.

        Raises:
            ContentError: A title that is no string, metadata that is no JSON object.
        """
        if title is not ABSENT and title is not None and not isinstance(title, str):
            raise ContentError("title", "give a string")
        if metadata is not ABSENT and metadata is not None and not isinstance(metadata, Mapping):
            raise ContentError("metadata", "give a JSON object")
        new_title = self.title if title is ABSENT else title
        new_metadata = self.metadata if metadata is ABSENT else metadata
        body = canonical.dumps({"title": new_title, "metadata": new_metadata})
        entry = draft("labelled", at=identity.now(), salt=identity.new_salt(), fields={}, body=body)
        work = partial(
            exchanges.label,
            title=None if new_title is None else str(new_title),
            metadata=None if new_metadata is None else canonical.dumps(new_metadata),
        )
        self._history.append_whenever(entry, work)
        self.refresh()

    # --- asking ----------------------------------------------------------------------------------------------------

    def request(
        self,
        *,
        prefill: str | Sequence[Content] | None = None,
        check: bool = True,
        allow_unlisted_model: bool = False,
        **overrides: Any,
    ) -> Request:
        """
        Build the next request and send nothing: ``.params`` for the official SDK, ``.body``, ``.headers``.

        Args:
            prefill: The beginning of the answer, put in the model's mouth.
            check: False lets through what the rule book would refuse.
            allow_unlisted_model: Take a prefill to a model of which nothing is known.
            overrides: Settings for this request alone.

        Raises:
            RuleViolationError: The API would refuse it.
        """
        said = Said(
            prefill=prefill,
            overrides=overrides,
            check=check,
            allow_unlisted_model=allow_unlisted_model,
            sending=False,
        )
        return preflight.plan(self._history, said).request

    def check(
        self,
        *content: Content,
        prefill: str | Sequence[Content] | None = None,
        on: date | None = None,
        **overrides: Any,
    ) -> Sequence[Finding]:
        """
        Say everything the rule book finds in the next request, errors and warnings; nothing is written or sent.

        A warning too where a change to the system prompt, the tools or earlier turns breaks what thinking is
        bound to; it names the turn. What was looked at once is not looked at again.

        Args:
            content: What would be said with it.
            prefill: The beginning of the answer, put in the model's mouth.
            on: The day to judge it by, today (UTC) where none is given: models come and go.
            overrides: Settings for this request alone.
        """
        said = Said(
            content=content,
            prefill=prefill,
            overrides=overrides,
            check=False,
            sending=bool(content),
            looking=True,
            on=on,
        )
        return [*preflight.findings(self._history, said), *preflight.binding(self._history)]

    def send(
        self,
        *content: Content,
        prefill: str | Sequence[Content] | None = None,
        idempotency_key: str | None = None,
        wait: float = 0,
        check: bool = True,
        allow_unlisted_model: bool = False,
        on_unknown: OnUnknown | None = None,
        on_rejected: OnRejected = "set_aside",
        **overrides: Any,
    ) -> Reply:
        """
        Say *content*, send the history, and save the answer before returning it.

        Without content the history is sent as it stands. The turn is durable before the request leaves.

        Args:
            content: As for ``user``.
            prefill: The beginning of the answer, put in the model's mouth; the turn kept holds both.
            idempotency_key: The caller's name for this message (an update id): asked again with the same
                key, the recorded answer or error comes back and nobody is called.
            wait: Seconds to wait for a pending exchange of another worker.
            check: False lets through what the rule book would refuse.
            allow_unlisted_model: Take a prefill to a model of which nothing is known.
            on_unknown: What to do where it is not known whether a request ran: ``raise``, or ``resend`` it. None for
                what the client was made with.
            on_rejected: Whether turns that the API rejects or the model refuses leave the view or are kept.
            overrides: Settings for this exchange alone.

        Raises:
            ContentError, RuleViolationError: Nothing was written or sent.
            BusyError, ConflictError: Another worker is at it; nothing was written or sent.
            IdempotencyError, UnknownOutcomeError: What the key was used for before forbids it.
            APIError: The exchange failed, and is recorded so.
            NotSavedError: The answer is there and could not be saved; it is in ``.pending``.
        """
        client = self._client()
        said = Said(
            content=content,
            prefill=prefill,
            overrides=overrides,
            check=check,
            allow_unlisted_model=allow_unlisted_model,
        )
        terms = self._terms(client, on_rejected)
        on_unknown = on_unknown or client.on_unknown
        begun = self._begin(said, terms, idempotency_key, wait, on_unknown)
        return self._to_its_end(self._send(begun, client, on_unknown), said, client, terms, on_unknown)

    def stream(
        self,
        *content: Content,
        prefill: str | Sequence[Content] | None = None,
        idempotency_key: str | None = None,
        wait: float = 0,
        check: bool = True,
        allow_unlisted_model: bool = False,
        on_unknown: OnUnknown | None = None,
        on_rejected: OnRejected = "set_aside",
        journal: JournalMode = "timely",
        **overrides: Any,
    ) -> Stream:
        """
        Do what ``send`` does, and see the answer while it arrives.

        Use it in a ``with``: iterate it for events or ``stream.text`` for words; ``stream.reply`` is what
        ``send`` returns. What was shown is durable within 250 ms or 8 KiB (but for the first event that its caller
        takes longer with: nothing runs meanwhile); with ``journal="each"`` before it is shown. The other
        arguments are those of ``send``.

        Raises:
            As ``send``, when the ``with`` is entered and while the answer is read.
        """
        client = self._client()
        said = Said(
            content=content,
            prefill=prefill,
            overrides=overrides,
            check=check,
            allow_unlisted_model=allow_unlisted_model,
            stream=True,
        )
        terms = self._terms(client, on_rejected)
        unknown = on_unknown or client.on_unknown

        def begin(paused: Reply | None, rounds: Iterator[int] = iter(range(MOST_PAUSES))) -> Pending | None:  # noqa: B008
            if paused is None:
                return self._begin(said, terms, idempotency_key, wait, unknown)
            return None if next(rounds, None) is None else self._continued(paused, said, terms, unknown)

        return Stream(self._history, client, begin, lease=terms.lease, mode=journal, on_unknown=unknown)

    def begin(
        self,
        *content: Content,
        prefill: str | Sequence[Content] | None = None,
        idempotency_key: str | None = None,
        wait: float = 0,
        check: bool = True,
        allow_unlisted_model: bool = False,
        on_unknown: OnUnknown | None = None,
        on_rejected: OnRejected = "set_aside",
        lease: float = CALLER_LEASE,
        **overrides: Any,
    ) -> Pending:
        """
        Do the first half of ``send``, for a caller with a client of their own.

        Send ``pending.params`` (or ``.body`` with ``.headers``), then call ``pending.finish(answer)`` or
        ``pending.fail(error)``. *lease* is for how many seconds nobody else may take the exchange over.
        Where the idempotency key was answered before, ``pending.reply`` is there already.

        Raises:
            As ``send``, but for what only sending can raise.
        """
        said = Said(
            content=content,
            prefill=prefill,
            overrides=overrides,
            check=check,
            allow_unlisted_model=allow_unlisted_model,
        )
        terms = Terms(sent_by="caller", lease=lease, on_rejected=on_rejected)
        return self._begin(said, terms, idempotency_key, wait, on_unknown or "raise")

    def run_tools(
        self,
        tools_by_name: Mapping[str, Tool],
        *,
        max_rounds: int = 10,
        effects: Collection[str] = (),
        rerun: bool = False,
        **overrides: Any,
    ) -> Reply:
        """
        Run the calls the model made, answer them, and send, until it makes no more.

        Every step is durable before the next, so after a crash calling this again goes on where it stopped:
        calls already answered are not run again.

        Args:
            tools_by_name: A function for each tool, called with the input's members as keywords; members of a
                toolset under ``toolset.name``. What it returns becomes the result (text, blocks, else JSON),
                what it raises an error result.
            max_rounds: How many exchanges at most.
            effects: Names of tools that must not run twice unasked: that one was begun is recorded before.
            rerun: Run such a tool although it was begun before.
            overrides: Settings for these exchanges alone.

        Returns:
            The last reply; with calls still open where *max_rounds* was reached.

        Raises:
            ToolOutcomeError: A tool of *effects* was begun before and has no result; nothing more was run.
            ContentError: There is nothing to run or send.
            As ``send``.
        """
        for _ in range(max_rounds):
            for call in self.open_calls:
                self._answer(call, tools_by_name, effects, rerun=rerun)
            if self._history.messages.roles[-1:] == ["assistant"] or not self._history.messages.roles:
                break
            reply = self.send(**overrides)
            if not self.open_calls:
                return reply
        last = self._history.newest_exchange()
        if last is None or last.state not in {State.ANSWERED, State.REFUSED}:
            raise ContentError("", "there is no call to answer: say something first")
        return self._history.reply(last)

    def _answer(self, call: ToolUse, known: Mapping[str, Tool], effects: Collection[str], *, rerun: bool) -> None:
        if tools.name_of(call) in effects:
            if self._history.was_begun(call) and not rerun:
                raise ToolOutcomeError(call.id, tools.name_of(call))
            fields = {"tool": call.id}
            self._history.append_whenever(draft("note", at=identity.now(), salt=identity.new_salt(), fields=fields))
        content, failed = tools.run(call, known)
        self.tool_result(call.id, content, is_error=failed)

    def retry(self, **overrides: Any) -> Reply:
        """
        Send the last request again, as a new exchange; turns that it set aside come back first.

        Args:
            overrides: Settings for this exchange, over those of the one before.

        Raises:
            ContentError: There is nothing to try again: the last exchange was answered, or there is none.
            As ``send``.
        """
        self._client()
        self.refresh()
        self._history.refuse_busy()
        last = self._history.newest_exchange()
        if last is None or (last.state is State.ANSWERED and last.turn is not None):
            raise ContentError("", "there is nothing to try again: the last exchange was answered, or there is none")
        return self._tried_again(last, overrides)

    def recover(self, action: Recovery = "resend") -> Reply | None:
        """
        Resolve an exchange whose worker died or lost its lease. It may have been answered and billed.

        Args:
            action: ``resend`` sends it again, as a new exchange. ``keep_partial`` records it as interrupted with
                what had arrived, and asks for the rest: with those words as a prefill where the model takes one,
                else in a user's turn that quotes them; it also goes on from an answer that broke off.
                ``give_up`` records it as failed. The turn stays in every case.

        Returns:
            The reply where something was sent; None where there was nothing to resolve or to go on from.

        Raises:
            BusyError: Its lease is not over, and its worker may be alive.
            As ``send``, with ``resend``.
        """
        if action not in {"resend", "keep_partial", "give_up"}:
            raise ContentError("action", "is one of resend, keep_partial, give_up")
        known = self._history
        abandoned = known.abandoned()
        if known.head.token != NO_TOKEN and not abandoned:
            raise BusyError(self.id, known.kept.lease_until)
        if abandoned:
            lost = known.exchange(known.head.pending_position)
            arrived = self._arrived(lost)
            if action != "resend" or arrived:
                # What had arrived of a stream becomes part of the record before anything else is done.
                self._give_up(lost, arrived, keep=action == "keep_partial")
            if action == "resend":
                return self._tried_again(known.exchange(lost.position), {})
        return self._go_on_from_partial() if action == "keep_partial" else None

    def _arrived(self, lost: Exchange) -> bytes:
        """Read what the journal has of a lost exchange's answer."""
        if not lost.streamed:
            return b""
        with self._history.database.read() as connection:
            return journal.read(connection, self.id, lost.position)

    def _give_up(self, lost: Exchange, arrived: bytes, *, keep: bool) -> None:
        """Record that a lost exchange has no answer, and what had arrived of one."""
        if keep or arrived:
            error: APIError = InterruptedAnswerError(
                f"the worker was lost before the answer was whole; {len(arrived)} bytes had arrived", partial=arrived
            )
        else:
            error = APIError("given up: whether it was answered is not known")
        Pending(self._history, lost).fail(error)

    def _go_on_from_partial(self) -> Reply | None:
        """
        Ask for the rest of an answer that broke off: as a prefill where the model takes one, else in words.

        Source: Messages API documentation, Handling stop reasons, 2026-10.
        """
        known = self._history
        last = known.newest_exchange()
        if last is None or last.state is not State.INTERRUPTED or known.options.client is None:
            return None
        client = known.options.client
        words = known.partial_text(last)
        if not words.strip():
            return None
        with known.database.read() as connection:
            begun_with = codec.blocks_of(history.prefill_of(connection, self.id, last.position))
        words = "".join([*(block.text for block in begun_with if isinstance(block, Text)), words]).rstrip()
        terms = self._terms(client)
        first = last.position if last.retry_of is None else last.retry_of
        model = known.options.models.get(last.model)
        if model is not None and model.prefill:
            said = Said(prefill=words, overrides=known.overrides_of(last))
        else:
            request = f"Your last answer was cut off. It began:\n\n{words}\n\nGo on exactly where it stops."
            wire = codec.wire("user", (request,))
            self._append_turns([(Origin.SYNTHETIC, wire, {"reason": f"exchange {last.position} broke off"})])
            said = Said(overrides=known.overrides_of(last))
        begun = pending.begin(known, preflight.plan(known, said), terms, retry_of=first)
        return self._to_its_end(self._send(begun, client, client.on_unknown), said, client, terms, client.on_unknown)

    # --- auditing --------------------------------------------------------------------------------------------------

    def replay(self, exchange: Exchange | int) -> bytes:
        """
        Build the exact body of a past request again, and prove it by the commitment made when it was sent.

        Raises:
            CodecError: There is no such exchange, or something its body held was erased or changed.
        """
        position = exchange.position if isinstance(exchange, Exchange) else exchange
        body = self._history.rebuilt(position).recorded
        if not history.proves(self._history.entry(position), sha256(body).digest()):
            raise CodecError(f"the body of exchange {position} cannot be proved: something in it was erased or changed")
        return body

    def verify(self) -> Sequence[Fault]:
        """
        Compute the whole chain and every commitment again.

        Returns:
            What is wrong, as data; empty where nothing is. Never raises on what a hostile hand wrote.
        """
        return verify_conversation(self._history.database, self.id)

    # --- the exchange ----------------------------------------------------------------------------------------------

    def _client(self) -> Client:
        client = self._history.options.client
        if client is None:
            raise ConfigurationError("this store has no client: Store(…, client=Client()), or use begin and finish")
        return client

    def _terms(self, client: Client, on_rejected: OnRejected = "set_aside") -> Terms:
        return Terms(
            sent_by="client",
            lease=client.timeout + LEASE_MARGIN,
            max_attempts=client.max_attempts,
            on_rejected=on_rejected,
        )

    def _begin(self, said: Said, terms: Terms, key: str | None, wait: float, on_unknown: OnUnknown) -> Pending:
        """Begin an exchange, or find what its key stands for; wait for another worker's where asked to."""
        _check_key(key)
        _check_seconds("wait", wait)
        _check_seconds("lease", terms.lease)
        if terms.on_rejected not in {"set_aside", "keep"}:
            raise ContentError("on_rejected", "is one of set_aside, keep")
        if on_unknown not in {"raise", "resend"}:
            raise ContentError("on_unknown", "is one of raise, resend")
        until = time.monotonic() + wait
        pause = _SHORTEST_POLL
        while True:
            try:
                known = None if key is None else self._known_by(key, said, terms, on_unknown)
                if known is not None:
                    return known
                seen = self._history.head
                self._history.refuse_busy()
                if key is not None and self._history.head != seen:
                    continue  # what was appended meanwhile may be this very message
                return pending.begin(self._history, preflight.plan(self._history, said), terms, key)
            except BusyError:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, _LONGEST_POLL)
                self.refresh()
            except ConflictError:
                # With a key it is known that nobody else's message is meant; without one the caller decides.
                if key is None:
                    raise
                self.refresh()

    def _known_by(self, key: str, said: Said, terms: Terms, on_unknown: OnUnknown) -> Pending | None:
        last = pending.by_key(self._history, key, said)
        return None if last is None else self._settled(last, said, terms, on_unknown)

    def _settled(self, last: Exchange, said: Said, terms: Terms, on_unknown: OnUnknown) -> Pending:
        """Give what an exchange begun before has come to; try it again where that cannot be billed twice unasked."""
        if last.state is State.PENDING:
            raise BusyError(self.id, self._history.kept.lease_until)
        if last.state in {State.ANSWERED, State.REFUSED}:
            answered = Pending(self._history, last)
            answered.reply = self._history.reply(last)
            return answered
        if last.state is State.REJECTED:
            raise outcomes.error_of(self._history.outcome(last)[1])
        if last.state is not State.FAILED and on_unknown == "raise":
            raise UnknownOutcomeError(self.id, last.position, last.state)
        return pending.again(self._history, last, {}, terms, stream=said.stream)

    def _tried_again(self, old: Exchange, changes: Mapping[str, Any]) -> Reply:
        client = self._client()
        terms = self._terms(client)
        reply = self._send(pending.again(self._history, old, changes, terms), client, client.on_unknown)
        said = Said(overrides={**self._history.overrides_of(reply.exchange)})
        return self._to_its_end(reply, said, client, terms, client.on_unknown)

    def _to_its_end(self, reply: Reply, said: Said, client: Client, terms: Terms, on_unknown: OnUnknown) -> Reply:
        """Go on with a paused answer until it is not, each time an exchange of its own; up to ``MOST_PAUSES``."""
        before: list[Reply] = []
        while reply.stop_reason == "pause_turn" and len(before) < MOST_PAUSES:
            following = self._continued(reply, said, terms, on_unknown)
            if following is None:
                break
            before.append(reply)
            reply = self._send(following, client, on_unknown)
        return evolve(reply, before=tuple(before)) if before else reply

    def _continued(self, paused: Reply, said: Said, terms: Terms, on_unknown: OnUnknown) -> Pending | None:
        """Begin the exchange that goes on with a paused answer, or find it; None where more was said since."""
        known = self._history
        position = paused.exchange.position
        with known.database.read() as connection:
            following = ledger.after(connection, self.id, position)
            newest = None if following is None else ledger.newest_try(connection, self.id, following.position)
        if newest is not None and following is not None:
            if history.continues(known.entry(following.position)) == position:
                return self._settled(known.as_of_now(newest), said, terms, on_unknown)
            return None
        turn = paused.turn
        if turn is None or known.messages.places[-1:] != [(turn.conversation, turn.position)]:
            return None
        overrides = {**said.overrides}
        container = paused.fields.get("container")
        if isinstance(container, Mapping) and "container" not in known.settings.params:
            overrides.setdefault("container", container.get("id"))
        more = evolve(said, content=(), prefill=None, overrides=overrides)
        return pending.begin(known, preflight.plan(known, more), terms, continues=position)

    def _send(self, begun: Pending, client: Client, on_unknown: OnUnknown) -> Reply:
        if begun.reply is not None:
            return begun.reply
        try:
            request = begun.request
            answer = client.send(
                request if request.streams else request.body,
                version=request.version,
                betas=request.betas,
                path=request.endpoint,
                on_unknown=on_unknown,
            )
        except Exception as error:
            begun.fail(error)
            raise
        except BaseException as error:
            # Ctrl-C: what became of the request is as unknown as after a lost connection.
            begun.fail(APIError(f"stopped by {type(error).__name__}"))
            raise
        try:
            return begun.finish(answer.body, attempts=answer.attempts)
        except Exception:
            raise
        except BaseException:
            begun.finish()  # it has arrived and was paid for: it is saved before Ctrl-C goes on
            raise

    # --- turns -----------------------------------------------------------------------------------------------------

    def _say(self, role: str, content: Sequence[Content], about: Mapping[str, Any] | None = None) -> Turn:
        wire = codec.wire(role, content)
        _refuse(message_faults(wire, ""))
        return self._append_turns([(origin_of(role, wire), wire, about or {})])[0]

    def _append_turns(
        self, said: Sequence[tuple[Origin, bytes, Mapping[str, Any]]], *, gather: bool = False
    ) -> list[Turn]:
        known = self._history
        known.refuse_busy()
        at = identity.now()
        drafts = []
        uses: dict[int, Sequence[Blob]] = {}
        for n, (origin, wire, about) in enumerate(said):
            kept = known.detached(wire, at)
            uses[n] = kept.blobs
            fields = {"origin": origin.value, "gather": True} if gather else {"origin": origin.value}
            drafts.append(turn_draft(fields, kept, at, about))
        return [known.turn(entry) for entry in known.append(drafts, uses).entries]


def _refuse(found: Sequence[Finding]) -> None:
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise RuleViolationError(errors)


def _check_seconds(name: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= _LONGEST_WAIT:
        raise ContentError(name, f"give seconds, from 0 to {_LONGEST_WAIT:,}")


def _check_key(key: str | None) -> None:
    if key is None:
        return
    if not isinstance(key, str):
        raise ContentError("idempotency_key", f"give a string, not a {type(key).__name__}: str(update_id)")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ContentError("idempotency_key", "a lone surrogate is no text") from None
    if not 0 < size <= IDEMPOTENCY_KEY_BYTES:
        raise ContentError("idempotency_key", f"has 1 to {IDEMPOTENCY_KEY_BYTES} bytes of UTF-8")
