"""
Conversations: say, send, keep, go on.

A ``Conversation`` belongs to one thread at a time. Two objects of the same row behave like two processes: what
one appends, the other finds out by ``ConflictError``, and goes on after ``refresh()``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Protocol, TypeAlias
from uuid import UUID

from attrs import evolve

from conversation_store import exchanges, history, pending, preflight
from conversation_store.api.client import Client
from conversation_store.api.request import Request
from conversation_store.api.rules import Finding
from conversation_store.errors import (
    BusyError,
    CodecError,
    ConfigurationError,
    ContentError,
    NotFoundError,
    RuleViolationError,
    ToolOutcomeError,
)
from conversation_store.history import History, Options, settings_draft, turn_draft
from conversation_store.pending import Pending, Terms
from conversation_store.preflight import Said, message_faults, origin_of
from conversation_store.record import canonical, codec
from conversation_store.record.blocks import ABSENT, Maybe, Text, ToolResult, ToolUse
from conversation_store.record.chain import draft
from conversation_store.record.codec import Content
from conversation_store.record.cost import Totals
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.reply import Reply
from conversation_store.record.splices import Parted
from conversation_store.record.turns import Origin, Turn, fields_of
from conversation_store.sending import Sending, check_text
from conversation_store.storage import identity, ledger, log
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database
from conversation_store.storage.log import Kept
from conversation_store.storage.tables import KEY_BYTES, NO_TOKEN

if TYPE_CHECKING:
    from conversation_store.audit.bundle import Requests
    from conversation_store.audit.caches import CacheReport
    from conversation_store.audit.checkpoints import Checkpoint
    from conversation_store.audit.erase import Erasure
    from conversation_store.audit.evidence import Evidence
    from conversation_store.audit.holds import Hold
    from conversation_store.audit.keys import VerifyKeys
    from conversation_store.audit.responses import Response
    from conversation_store.audit.timeline import TimelineEntry
    from conversation_store.audit.verification import Findings
    from conversation_store.formats.messages import Message
    from conversation_store.formats.reading import Erased
    from conversation_store.mending import Mended
    from conversation_store.streaming import JournalMode, Stream
    from conversation_store.tokens import Tokens
    from conversation_store.tools import Tool
    from conversation_store.transfer import Export, Form
    from conversation_store.views import Branch, Divergence

Recovery: TypeAlias = Literal["resend", "keep_partial", "give_up"]
OnUnknown: TypeAlias = Literal["raise", "resend"]
Summariser: TypeAlias = Literal["model", "api"]
OnRejected: TypeAlias = Literal["set_aside", "keep"]

LEASE_MARGIN: Final = 30.0
"""Seconds that a lease outlasts the deadline of the request it is for."""

CALLER_LEASE: Final = 900.0
"""Seconds of lease for a request that the caller sends with a client of their own."""


class Placed(Protocol):
    """Anything that says where a turn stands: a ``Turn``, or what a search found."""

    @property
    def conversation(self) -> UUID:
        """Whose log it is in."""

    @property
    def position(self) -> int:
        """Its place there."""


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
    def usage(self) -> Totals:
        """What its exchanges used and cost together; summed by the database."""
        with self._history.database.read() as connection:
            return ledger.totals(connection, self._history.kept.scope, of=self.id)[0]

    @property
    def cost(self) -> Decimal:
        """USD that its exchanges are known to have cost; ``usage.unpriced`` says how many that leaves out."""
        return self.usage.cost

    @property
    def pending(self) -> Pending | None:
        """The exchange that is pending now, whoever began it, to be finished; None where there is none."""
        self.refresh()
        known = self._history
        if known.head.token == NO_TOKEN:
            return None
        return Pending.recorded(known, known.exchange(known.head.pending_position))

    def refresh(self) -> Conversation:
        """
        Read where the log stands now, and go on from there.

        Returns:
            This conversation.

        Raises:
            NotFoundError: The conversation is gone.
        """
        self._history.refresh()
        self.key = self._history.kept.key
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
        answer = codec.parted("user", (result,))
        _refuse(message_faults(answer, ""))
        return self._append_turns([(Origin.TOOL, answer, {})], gather=True)[0]

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
        said = [(role, Parted.of(wire)) for role, wire in wires]
        found = [each for n, (_, message) in enumerate(said) for each in message_faults(message, f"messages.{n}.")]
        if check:
            _refuse(found)
        about: Mapping[str, Any] = {}
        turns = [(origin_of(role, message.body), message, about) for role, message in said]
        return self._append_turns(turns) if turns else []

    def update(self, **settings: Any) -> None:
        """
        Change settings from the next request on; ``ABSENT`` removes one. Equal ones append nothing.

        Raises:
            ContentError: A value that is no JSON, or no setting.
            UnlistedModelError: Nothing is known of the model, and the store takes only those it knows.
            ConflictError, BusyError: As ``user``.
        """
        known = self._history
        known.options.set_model(settings.get("model"))
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
        sending = self._sending(client, said, on_unknown, on_rejected, wait=wait, key=idempotency_key)
        return sending.reply(sending.begin(), client)

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
        from conversation_store.streaming import Stream

        client = self._client()
        said = Said(
            content=content,
            prefill=prefill,
            overrides=overrides,
            check=check,
            allow_unlisted_model=allow_unlisted_model,
            stream=True,
        )
        sending = self._sending(client, said, on_unknown, on_rejected, wait=wait, key=idempotency_key)
        return Stream(sending, client, sending.begin, mode=journal)

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
        sending = Sending(
            history=self._history,
            said=said,
            terms=terms,
            on_unknown=on_unknown or "raise",
            wait=wait,
            key=idempotency_key,
        )
        return sending.begin()

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
            The last reply; with calls still open where *max_rounds* was reached or the model refused.

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
            if reply.refused or not self.open_calls:
                return reply  # a refusal sets results aside, which opens their calls again: only the caller may
        last = self._last_answered()
        if last is None or last.state not in {State.ANSWERED, State.REFUSED}:
            raise ContentError("", "there is no call to answer: say something first")
        return self._history.reply(last)

    def _last_answered(self) -> Exchange | None:
        """Give the exchange that the last turn came of; the newest one where it came of none of this log."""
        known = self._history
        if known.messages.places[-1:] and (last := known.last_turn).conversation == self.id:
            request = fields_of(last.header).get("request")
            if request is not None:
                return known.exchange(request)
        return known.newest_exchange()

    def _answer(self, call: ToolUse, known: Mapping[str, Tool], effects: Collection[str], *, rerun: bool) -> None:
        from conversation_store import tools

        if tools.name_of(call) in effects:
            if self._history.was_begun(call) and not rerun:
                raise ToolOutcomeError(call.id, tools.name_of(call))
            fields = {"tool": call.id}
            # At the length that was looked at: of two workers, one alone may have begun it.
            self._history.append([draft("note", at=identity.now(), salt=identity.new_salt(), fields=fields)])
        content, failed = tools.run(call, known)
        self.tool_result(call.id, content, is_error=failed)

    def retry(self, **overrides: Any) -> Reply:
        """
        Send the last request again, as a new exchange; turns that it set aside come back first.

        Args:
            overrides: Settings for this exchange, over those of the one before. A window among them, or one that the
                conversation was given since, decides anew what is sent.

        Raises:
            ContentError: There is nothing to try again: the last exchange was answered, or there is none.
            As ``send``.
        """
        self._client()
        return self._tried_again(self._last_without_answer(), overrides)

    def retry_stream(self, **overrides: Any) -> Stream:
        """
        Do what ``retry`` does, and see the answer while it arrives.

        Raises:
            As ``retry``, when the ``with`` is entered and while the answer is read.
        """
        from conversation_store.streaming import Stream

        client = self._client()
        sending = self._sending(client)

        def first() -> Pending:
            return pending.again(self._history, self._last_without_answer(), overrides, sending.terms, stream=True)

        return Stream(sending, client, first)

    def _last_without_answer(self) -> Exchange:
        self.refresh()
        self._history.refuse_busy()
        last = self._history.newest_exchange()
        if last is None or (last.state is State.ANSWERED and last.turn is not None):
            raise ContentError("", "there is nothing to try again: the last exchange was answered, or there is none")
        return last

    def recover(self, action: Recovery = "resend") -> Reply | None:
        """
        Resolve an exchange whose worker died or lost its lease. It may have been answered and billed.

        Args:
            action: ``resend`` sends it again, as a new exchange. ``keep_partial`` records it as interrupted with
                what had arrived, and asks for the rest: with those words as a prefill where the model takes one,
                else in a user's turn that quotes them; it also goes on from an answer that broke off.
                ``give_up`` records it as failed. The turn stays in every case.

        Returns:
            The reply where something was sent, or where the answer had arrived whole: then it is recorded, whatever
            the action, and nothing sent again. None where there was nothing to resolve or to go on from.

        Raises:
            BusyError: Its lease is not over, and its worker may be alive.
            As ``send``, with ``resend``.
        """
        if action not in {"resend", "keep_partial", "give_up"}:
            raise ContentError("action", "is one of resend, keep_partial, give_up")
        settled = self._settle(action)
        if settled is not None and settled.reply is not None:
            client = self._history.options.client
            going_on = client is not None and action != "give_up"
            return self._sending(client).reply(settled, client) if client and going_on else settled.reply
        if settled is not None and action == "resend":
            return self._tried_again(settled.exchange, {})
        return self._go_on_from_partial() if action == "keep_partial" else None

    def recover_stream(self, action: Literal["resend", "keep_partial"] = "resend") -> Stream:
        """
        Do what ``recover`` does where something is sent, and see the answer while it arrives.

        Raises:
            ContentError: There is nothing to resolve, or no word to go on from; with ``keep_partial`` the lost
                exchange is recorded as interrupted all the same.
            As ``recover``, when the ``with`` is entered and while the answer is read.
        """
        from conversation_store.streaming import Stream

        if action not in {"resend", "keep_partial"}:
            raise ContentError("action", "is one of resend, keep_partial")
        client = self._client()
        sending = self._sending(client)

        def first() -> Pending:
            settled = self._settle(action)
            if settled is not None and settled.reply is not None:
                return settled
            if action == "keep_partial":
                begun = self._begun_from_partial(sending.terms, stream=True)
                if begun is not None:
                    return begun
            elif settled is not None:
                return pending.again(self._history, settled.exchange, {}, sending.terms, stream=True)
            raise ContentError("", "there is nothing to go on from: no word had arrived, or nothing is unanswered")

        return Stream(sending, client, first)

    def partial_text(self, exchange: Exchange) -> str:
        """Read the words that had arrived of an answer that broke off or is lost; empty where none had."""
        from conversation_store.api.stream import decode_all

        if exchange.state in {State.PENDING, State.UNKNOWN}:
            return decode_all(pending.arrived(self._history, exchange))[1].text
        return self._history.partial_text(exchange) if exchange.state is State.INTERRUPTED else ""

    def _settle(self, action: Recovery) -> Pending | None:
        """Record what is to be recorded of a lost exchange before anything is sent; None where none is lost."""
        known = self._history
        abandoned = known.abandoned()
        if known.head.token != NO_TOKEN and not abandoned:
            raise BusyError(self.id, known.kept.lease_until)
        if not abandoned:
            return None
        lost = known.exchange(known.head.pending_position)
        return pending.settled(known, lost, resend=action == "resend", keep=action == "keep_partial")

    def _go_on_from_partial(self) -> Reply | None:
        """
        Ask for the rest of an answer that broke off: as a prefill where the model takes one, else in words.

        Source: Messages API documentation, Handling stop reasons, 2026-10.
        """
        client = self._history.options.client
        if client is None:
            return None
        sending = self._sending(client)
        begun = self._begun_from_partial(sending.terms)
        return None if begun is None else sending.reply(begun, client)

    def _begun_from_partial(self, terms: Terms, *, stream: bool = False) -> Pending | None:
        """Begin the exchange that asks for the rest; None where no answer broke off after a word."""
        known = self._history
        last = known.newest_exchange()
        if last is None or last.state is not State.INTERRUPTED:
            return None
        words = known.partial_text(last)
        if not words.strip() or pending.asks_for_summary(known.entry(last.position)):
            return None
        with known.database.read() as connection:
            begun_with = codec.blocks_of(history.prefill_of(connection, self.id, last.position))
        words = "".join([*(block.text for block in begun_with if isinstance(block, Text)), words]).rstrip()
        first = last.position if last.retry_of is None else last.retry_of
        model = known.options.models.get(last.model)
        if model is not None and model.prefill:
            said = Said(prefill=words, overrides=known.overrides_of(last), stream=stream)
            planned = preflight.plan(known, said)
        else:
            request = f"Your last answer was cut off. It began:\n\n{words}\n\nGo on exactly where it stops."
            said = Said(content=(request,), overrides=known.overrides_of(last), stream=stream)
            planned = preflight.plan(known, said)
            planned = evolve(planned, new=[(Origin.SYNTHETIC, message) for _, message in planned.new])
        return pending.begin(known, planned, terms, retry_of=first, reason=f"exchange {last.position} broke off")

    # --- views -----------------------------------------------------------------------------------------------------

    def fork(self, at: Turn | int | None = None, *, key: str | None = None) -> Conversation:
        """
        Begin a new conversation that goes on from here, or from an earlier turn; nothing is copied.

        Args:
            at: The last turn they share: a ``Turn``, or an index into ``turns``; None for all there is.
            key: The host's name for the new one; None for none.

        Raises:
            ContentError: There is no such turn, the key is taken, or a call would be parted from its result.
        """
        from conversation_store import views

        known = self._history
        self.refresh()
        if key is not None:
            check_text("key", key, KEY_BYTES)
        made = views.fork(known, None if at is None else views.place_of(known, at, "at"), key)
        if made is None:
            raise ContentError("key", "there is a conversation of this key already")
        with known.database.read() as connection:
            kept = log.find(connection, known.kept.scope, made)
        if kept is None:
            raise NotFoundError(str(made))
        forked = Conversation(known.database, kept, known.options)
        forked.know_secrets(known.secrets)
        return forked

    def rewind(self, to: Turn | int | None) -> None:
        """
        Go back: what was said after a turn is not sent any more; it stays in the record.

        Args:
            to: The last turn that stays, a ``Turn`` or an index into ``turns``; None leaves none.

        Raises:
            ContentError: There is no such turn, or a call would be parted from its result.
            ConflictError, BusyError: As ``user``.
        """
        from conversation_store import views

        known = self._history
        views.rewind(known, None if to is None else views.place_of(known, to, "to"))

    def edit(self, turn: Turn | int, *content: Content) -> Turn:
        """
        Say a turn otherwise: what came after it is not sent any more, and the new turn stands in its place.

        An assistant's turn becomes a synthetic one. A summary stays one, in the place of the same turns.

        Raises:
            ContentError: There is no such turn, or something is no content.
            RuleViolationError: It is empty, blank or out of place.
            ConflictError, BusyError: As ``user``.
        """
        from conversation_store import views

        known = self._history
        old = views.read_turn(known, views.place_of(known, turn, "turn"))
        message = codec.parted(old.role, content)
        _refuse(message_faults(message, ""))
        about = {"reason": f"in the place of turn {old.position}"}
        return known.turn(views.edit(known, old, origin_of(old.role, message.body), message, about).entries[0])

    def regenerate(self, **overrides: Any) -> Reply:
        """
        Ask for the last answer once more; the one there is leaves the view and stays in the record.

        Args:
            overrides: Settings for this exchange alone.

        Raises:
            ContentError: The assistant has not said anything last.
            As ``send``.
        """
        from conversation_store import views

        self._client()
        views.take_back(self._history)
        return self.send(**overrides)

    def set_aside(self, turn: Turn | int) -> Sequence[Turn]:
        """
        Leave a turn out of what is sent, and with its calls their results; ``bring_back`` undoes it.

        Where that breaks what thinking is bound to, ``check()`` says so. A result that is set aside reopens its call.

        Returns:
            The turns that left the view.

        Raises:
            ContentError: There is no such turn, or its results stand in one turn with something else.
            ConflictError, BusyError: As ``user``.
        """
        from conversation_store import views

        return views.set_aside(self._history, views.place_of(self._history, turn, "turn"))

    def bring_back(self, turn: Turn) -> None:
        """
        Let a turn that was set aside stand in what is sent again, where it stood.

        Given a summary that ``compact`` made, the turns in whose place it stands are sent again, and it is not. So it
        is with an answer that begins with the API's compaction: what it answers is to be asked anew. A summary that is
        not sent takes their place again. What was said since is kept; where thinking in it is bound to what stood
        there, ``check()`` says so.

        Raises:
            ContentError: It is there already, is none of this conversation's, or is a summary in whose place another
                one stands.
            ConflictError, BusyError: As ``user``.
        """
        from conversation_store import views

        views.bring_back(self._history, turn)

    def compact(
        self,
        *summary: Content,
        by: Summariser = "model",
        keep_last: int = 0,
        instructions: str | None = None,
        **overrides: Any,
    ) -> Turn:
        """
        Let a summary be sent in the place of older turns; ``bring_back`` undoes it.

        Args:
            summary: The caller's own summary, as for ``user``: nobody is asked then.
            by: Who writes it where the caller does not: ``model`` asks for it in words, an exchange of its own that
                is part of no view; ``api`` uses the API's own compaction, whose block goes along with every later
                request. Both are recorded, and a crash between asking and answer loses nothing. Where an answer
                began with a compaction that came by itself (``context_management``), ``api`` asks nobody: what was
                before it, of which the API reads nothing any more, is not sent from now on.
            keep_last: Exchanges at the end that stay as they are. What is not answered yet stays besides.
            instructions: What to ask for, in place of the library's own words (``model``) or of the API's (``api``).
            overrides: Settings for that exchange alone: another ``model``, ``max_tokens`` …

        Returns:
            The turn that is sent now: of origin ``summary``, or the model's with the compaction block.

        Raises:
            ContentError: There is nothing to summarise, a call waits for its result, *summary* is no content, or
                thinking would be lost that the model goes on from (but ``by="api"`` keeps it): ``send`` first.
            UnfitReplyError: The answer is no summary (cut off, refused, empty); what is sent stays as it was.
            As ``send``.
        """
        from conversation_store import compaction

        if by not in {"model", "api"}:
            raise ContentError("by", "is one of model, api")
        self.refresh()
        known = self._history
        if summary:
            if instructions is not None or overrides:
                raise ContentError("summary", "is the caller's: nobody is given instructions or settings")
            return compaction.by_caller(known, summary, keep_last)
        if by == "api" and (found := compaction.taken(known)) is not None:
            return found
        client = self._client()
        known.refuse_busy()
        sending = self._sending(client, on_rejected="keep")
        begin = compaction.by_model if by == "model" else compaction.by_api
        begun = begin(known, sending.terms, keep_last, instructions, overrides)
        return compaction.made(known, sending.answer(begun, client))

    def tree(self) -> Branch:
        """Give the conversation all this came from and its forks, each with the turn at which it branched off."""
        from conversation_store import views

        return views.tree(self._history)

    def diff(self, other: Conversation) -> Divergence:
        """Say how many turns both begin with, and what each goes on with."""
        from conversation_store import views

        return views.diff(self._history, other._history)

    # --- erasing ---------------------------------------------------------------------------------------------------

    def erase(self, *turns: Placed | int, reason: str, by: str, labels: bool = False, preview: bool = False) -> Erasure:
        """
        Erase turns for good, and all that holds their words by construction. The chain stays valid.

        With a turn go its attachments that nobody else uses, its prefill, what its exchange kept of it, what the search
        index knows, and whatever came of the requests that held it and made no turn (errors quote, refusals answer).
        Those requests, here and in forks, can be replayed no more; all others can. Other turns that tell of it in
        their own words stay: name them too. The idempotency key of a message stays, so that a late redelivery is
        refused and does not bring the words back. Lengths, times and token counts stay.

        Args:
            turns: A ``Turn``, of the view or not, a hit of ``Store.search``, or an index into ``turns``.
            reason: Why; the record keeps it.
            by: Who asked for it; likewise.
            labels: Erase title and metadata too, as often as they were given.
            preview: Say what would go, and write nothing.

        Returns:
            What went, and which exchanges cannot be replayed any more.

        Raises:
            ContentError: There is no such turn, or nobody and no reason is named.
            HeldError: A legal hold stands, here or on a fork that is reached.
            BusyError: A request that holds such a turn is pending: what comes of it could hold it again.
            UnknownOutcomeError: Such a request was begun and its worker is gone; ``recover()`` first.
            ConfigurationError: A SQLite engine of the host's would leave the words in its file.
        """
        from conversation_store import views
        from conversation_store.audit.erase import Target, erase

        known = self._history
        if not turns and not labels:
            raise ContentError("turns", "name the turns to erase; store.erase(key) takes all of a conversation")
        places = [views.place_in_record(known, each) for each in turns]
        logs = {of: frozenset(at for log_, at in places if log_ == of) for of, _ in places}
        wanted = [Target(conversation=of, positions=at, labels=labels and of == self.id) for of, at in logs.items()]
        if labels and self.id not in logs:
            wanted.append(Target(conversation=self.id, positions=frozenset(), labels=True))
        erasure = erase(known.database, known.kept.scope, wanted, by=by, reason=reason, preview=preview)
        if not preview:
            self.refresh()
        return erasure

    @property
    def holds(self) -> Sequence[Hold]:
        """The legal holds that stand on the conversation, oldest first, as of now."""
        from conversation_store.audit.holds import holds_of

        with self._history.database.read() as connection:
            return tuple(holds_of(connection, self.id))

    def hold(self, reason: str, by: str) -> Hold:
        """
        Forbid erasing until it is released: a legal hold, recorded in the log. Several may stand.

        Raises:
            ContentError: Nobody and no reason is named.
        """
        from conversation_store.audit.holds import hold_draft

        self._history.append_whenever(hold_draft(by, reason))
        return self.holds[-1]

    def release(self, reason: str, by: str, *, hold: Hold | None = None) -> Sequence[Hold]:
        """
        End a legal hold, or all that stand; recorded in the log.

        Returns:
            Those that ended.

        Raises:
            ContentError: There is none, or nobody and no reason is named.
        """
        from conversation_store.audit.holds import release_draft

        ending = [each for each in self.holds if hold is None or each.position == hold.position]
        if not ending:
            raise ContentError("hold", "there is no such hold on this conversation")
        self._history.append_whenever(release_draft(ending, by, reason))
        return tuple(ending)

    def transcript(self) -> Iterator[Turn | Erased]:
        """
        Give the turns as they stand, page by page; in the place of one that was erased, what is left to say of it.

        Raises:
            CodecError: An entry cannot be read; ``verify`` says where.
        """
        from conversation_store import transfer
        from conversation_store.transfer import Done

        self.refresh()
        return transfer.shown_by(self._history, Done())

    # --- export ----------------------------------------------------------------------------------------------------

    def export(self, form: Form = "jsonl", *, custom_id: str | None = None, verdict: bool = False) -> Export:
        """
        Write the conversation for elsewhere, piece by piece.

        ``jsonl``: everything, as ``Store.export`` writes it and ``Store.load`` reads it. ``messages``: the API's array,
        byte for byte as the next request has it, but for what its window is still to leave out. ``batch``: a line of
        the Message Batches API; secrets in settings are left out. ``openai``: messages of chat completions; ``.lost``
        names what has no place there. ``markdown`` and ``html``: a transcript to read; the page is one file that runs
        nothing and loads nothing.

        Args:
            form: Which.
            custom_id: Names the line of a batch; the conversation's id and version without it.
            verdict: ``html`` only: verify the conversation, and say above the transcript what was found, and below
                each turn what is wrong with it; ``.faults`` has it as data.

        Raises:
            ContentError: There is no such form, or the conversation is nothing for it.
            RuleViolationError: The API would refuse what is to go into a batch.
        """
        from conversation_store import transfer

        faults = self.verify() if verdict else None
        return transfer.export(self._history, form, custom_id, faults)

    def append_imported(self, given: Sequence[Message], source: str = "") -> int:
        """
        Append what is new of a transcript from elsewhere; ``Store.import_messages`` reads it.

        Returns:
            How many turns that were.

        Raises:
            TransferError: What is here of it is other than what is given, or the conversation went on since.
            ConflictError, BusyError: As ``user``.
        """
        from conversation_store import transfer

        self.refresh()
        return transfer.append_messages(self._history, given, source)

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

    def response(self, exchange: Exchange | int) -> Response:
        """
        Read what came back for a past request: content and envelope as received, and the raw bytes where they are kept.

        ``matches(raw)`` of it proves a copy that somebody else kept, by the commitment in the log.

        Raises:
            NotFoundError: There is no such exchange.
            CodecError: It has no outcome.
        """
        from conversation_store.audit.responses import response_to

        position = exchange.position if isinstance(exchange, Exchange) else exchange
        return response_to(self._history, self._history.exchange(position))

    def timeline(self, first: int = 0) -> Iterator[TimelineEntry]:
        """
        Give the whole record, entry by entry and lazily: also turns that were set aside, requests, changes of view.

        Of a fork it is what happened in the fork; what was before is its parent's.

        Args:
            first: The position to begin at.

        Raises:
            CodecError: An entry cannot be read; ``verify`` says where.
        """
        from conversation_store.audit.timeline import timeline

        return timeline(self._history, first)

    def evidence(
        self,
        file: BinaryIO,
        *,
        reveal: Iterable[int] | None = None,
        requests: Requests = "all",
        why: str | None = None,
        pin: str | bytes | None = None,
    ) -> Evidence:
        """
        Write the record as one zip for somebody who has no database: the same record gives the same bytes.

        ``python -m conversation_store.audit.verify`` checks it offline, and ``audit/evidence.md`` in the package
        describes it. What is not revealed is there as a digest, so that the chain can be computed all the same;
        nothing of its content is, and no salt under which it could be guessed: what would go with an erasure of it
        (answers, errors, the bodies of requests that held it) is left out too. A proof of the newest seal is in it
        where the store has seals. Of a fork, the logs that it goes on from are told of too.

        Args:
            file: Where to; it can be sought in.
            reveal: Positions of entries of this log whose content is shown (``range(3, 10)``), but for those that
                repeat what is not; None for all, and the turns of other logs that this one's views ever showed.
            requests: Of which exchanges the exact body is put in: of ``all`` that hold only what is revealed, of the
                ``last`` of them, or of ``none``. Each is there whole: in a long conversation they are most of it.
            why: Why it is made; said in it, and proved by nothing.
            pin: A checkpoint of the seals (a note) that the auditor keeps: the bundle proves that it goes on from it.

        Raises:
            ContentError: A position is none, or the file cannot be sought in.
            CodecError: The record is damaged; ``verify`` says where.
            SealError: The log of seals is damaged, or does not go on from the pin.
        """
        from conversation_store.audit import evidence

        known = self._history
        return evidence.write(
            known.database, known.kept.scope, self.id, file, reveal=reveal, requests=requests, why=why, pin=pin
        )

    def stood(self, length: int, digest: bytes) -> bool:
        """
        Say whether the log, when it had *length* entries, had the head *digest*; one row is read.

        Whoever noted ``version`` and ``head`` can ask so later; that the entries make this digest ``verify`` says.
        """
        with self._history.database.read() as connection:
            return log.stood(connection, self.id, length, digest)

    def mend(self, finding: Finding, *content: Content, prefill: str | None = None, **overrides: Any) -> Mended:
        """
        Do what a finding's ``fix`` names, by a new view or another turn: nothing of the record is touched.

        ``answer_call`` answers the open calls of a turn with an error result, ``set_aside`` leaves a turn out (and
        with its calls their results), ``trim`` takes white space from the end of the assistant's words,
        ``move_system`` moves a system message to where it may stand, or its words into the system prompt, and
        ``drop_thinking`` leaves all thinking so far out.

        Args:
            finding: One that ``check`` gave, or that a ``RuleViolationError`` has.
            content: What was to be said then.
            prefill: The prefill of then; where the finding is about it, the mended one is in the answer.
            overrides: The settings for that request alone.

        Returns:
            What was done, in words and as turns.

        Raises:
            ContentError: The finding does not hold any more, or nothing mechanical mends it.
            ConflictError, BusyError: As ``user``.
        """
        from conversation_store.mending import mend

        found = [
            *self.check(*content, prefill=prefill, **overrides),
            *preflight.findings(
                self._history, Said(content=content, prefill=prefill, overrides=overrides, check=False, looking=True)
            ),
        ]
        if (finding.rule, finding.path, finding.turn) not in [(each.rule, each.path, each.turn) for each in found]:
            raise ContentError(finding.path, "this finding does not hold any more: check() again")
        return mend(self._history, finding, prefill)

    def as_seen_by(self, exchange: Exchange | int) -> Sequence[Turn]:
        """
        Say what the model was shown in a past request: its turns, in order, and its prefill last.

        Raises:
            CodecError: There is no such exchange.
        """
        return tuple(self._history.as_seen_by(exchange.position if isinstance(exchange, Exchange) else exchange))

    def tokens(self, **overrides: Any) -> Tokens:
        """
        Account for the tokens of the next request as it stands, turn by turn, from what answers recorded.

        Nobody is asked: what no answer of the same tokenizer brackets is estimated, and marked so. ``count_tokens``
        asks the API.

        Args:
            overrides: Settings for that request alone (``model``, ``system``, ``tools``).
        """
        from conversation_store import tokens

        return tokens.tokens(self._history, overrides)

    def count_tokens(self, *content: Content, **overrides: Any) -> int:
        """
        Ask the API how many tokens the prompt of the next request has. Free of charge; nothing is written.

        Args:
            content: As for ``send``.
            overrides: As for ``send``.

        Raises:
            ContentError: Something is no content.
            APIError: The API refused, or cannot be reached.
        """
        client = self._client()
        said = Said(content=content, overrides=overrides, check=False, sending=False)
        request = preflight.counting(self._history, said)
        body = request if request.streams else request.body
        return client.count_tokens(body, version=request.version, betas=request.betas)

    def explain_cache(self, exchange: Exchange | int | None = None) -> CacheReport:
        """
        Say what a request read from the cache, and why not more: where it parted from the one before.

        Args:
            exchange: Which one; None for the newest.

        Raises:
            NotFoundError: There is no such exchange.
            CodecError: What a body needs was erased.
        """
        from conversation_store.audit.caches import explain

        known = self._history
        self.refresh()
        found = known.newest_exchange() if exchange is None else exchange
        if found is None:
            raise NotFoundError(f"{self.id} exchange")
        return explain(known, known.exchange(found) if isinstance(found, int) else found)

    def verify(
        self,
        *,
        structure: bool = False,
        since: Checkpoint | None = None,
        key: VerifyKeys = None,
        pin: str | bytes | None = None,
    ) -> Findings:
        """
        Compute the whole chain and every commitment again, and hold what other tables tell against the log.

        Args:
            structure: Only what the chain goes by: order, kinds, times and headers, and no content.
            since: Only what came after this, and that what was there then is still what the log goes on from.
            key: The verifier key of the seals, or several: then the log of seals is verified too, which is of the
                whole database, and each seal of this conversation must be reproduced. Without key and pin, no seal
                is looked at.
            pin: A checkpoint of the seals that was kept elsewhere: their log must go on from it.

        Returns:
            What is wrong, as data; empty where nothing is. Never raises on what a hostile hand wrote. Faults of the
            log of seals itself have the conversation ``UUID(int=0)``.

        Raises:
            ConfigurationError: A key is none, or the extra ``seal`` is not installed.
        """
        from conversation_store.audit.faults import NOBODY
        from conversation_store.audit.keys import verify_keys
        from conversation_store.audit.seals import verify_seals
        from conversation_store.audit.verification import verify

        known = self._history
        found = verify(known.database, known.kept.scope, of=self.id, structure=structure, since=since)
        if key or pin is not None:
            seals = verify_seals(known.database, keys=verify_keys(key), pin=pin)
            found += [each for each in seals if each.conversation in {self.id, NOBODY}]
        return found

    # --- the exchange ----------------------------------------------------------------------------------------------

    def _client(self) -> Client:
        client = self._history.options.client
        if client is None:
            raise ConfigurationError("this store has no client: Store(…, client=Client()), or use begin and finish")
        return client

    def _sending(
        self,
        client: Client,
        said: Said | None = None,
        on_unknown: OnUnknown | None = None,
        on_rejected: OnRejected = "set_aside",
        *,
        wait: float = 0,
        key: str | None = None,
    ) -> Sending:
        terms = Terms(
            sent_by="client",
            lease=client.timeout + LEASE_MARGIN,
            max_attempts=client.max_attempts,
            on_rejected=on_rejected,
        )
        unknown = on_unknown or client.on_unknown
        return Sending(history=self._history, said=said, terms=terms, on_unknown=unknown, wait=wait, key=key)

    def _tried_again(self, old: Exchange, changes: Mapping[str, Any]) -> Reply:
        client = self._client()
        sending = self._sending(client)
        return sending.reply(pending.again(self._history, old, changes, sending.terms), client)

    # --- turns -----------------------------------------------------------------------------------------------------

    def _say(self, role: str, content: Sequence[Content], about: Mapping[str, Any] | None = None) -> Turn:
        message = codec.parted(role, content)
        _refuse(message_faults(message, ""))
        return self._append_turns([(origin_of(role, message.body), message, about or {})])[0]

    def _append_turns(
        self, said: Sequence[tuple[Origin, Parted, Mapping[str, Any]]], *, gather: bool = False
    ) -> list[Turn]:
        known = self._history
        known.refuse_busy()
        at = identity.now()
        drafts = []
        uses: dict[int, Sequence[Blob]] = {}
        for n, (origin, message, about) in enumerate(said):
            fields = {"origin": origin.value, "gather": True} if gather else {"origin": origin.value}
            if not message.cuts:
                drafts.append(turn_draft(fields, message, at, about))
                continue
            kept = known.kept_apart(message, at)
            uses[n] = kept.blobs
            drafts.append(turn_draft(fields, kept, at, about))
        entries = known.append(drafts, uses).entries
        return [known.turn(entry, origin) for entry, (origin, _, _) in zip(entries, said, strict=True)]


def _refuse(found: Sequence[Finding]) -> None:
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise RuleViolationError(errors)
