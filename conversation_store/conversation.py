"""
Conversations: say, send, keep, go on.

A ``Conversation`` belongs to one thread at a time. Two objects of the same row behave like two processes: what
one appends, the other finds out by ``ConflictError``, and goes on after ``refresh()``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal
from uuid import UUID

from attrs import define, evolve, field, frozen

from conversation_store import attachments, exchanges, history
from conversation_store.api import request as requests
from conversation_store.api import rules
from conversation_store.api.client import Client
from conversation_store.api.models import Models
from conversation_store.api.request import Messages, Piece, Request, Settings
from conversation_store.api.rules import Asked, Finding
from conversation_store.attachments import Detached
from conversation_store.audit.verify import Fault, verify_conversation
from conversation_store.errors import (
    APIError,
    BusyError,
    CodecError,
    ConfigurationError,
    ConflictError,
    ContentError,
    DatabaseError,
    IdempotencyError,
    InterruptedAnswerError,
    LeaseLostError,
    NotFoundError,
    NotSavedError,
    RuleViolationError,
    UnknownOutcomeError,
)
from conversation_store.exchanges import Answer
from conversation_store.record import canonical, chain, codec, splices, view
from conversation_store.record.blocks import ABSENT, Maybe, ToolResult
from conversation_store.record.chain import Entry, draft
from conversation_store.record.codec import Content
from conversation_store.record.exchange import Attempt, Exchange, State
from conversation_store.record.reply import Reply
from conversation_store.record.turns import Origin, Turn, fields_of
from conversation_store.record.view import Span, View
from conversation_store.storage import blobs, identity, ledger, log
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database
from conversation_store.storage.log import Commit, Head, Kept
from conversation_store.storage.tables import IDEMPOTENCY_KEY_BYTES, NO_TOKEN

logger: Final = logging.getLogger("conversation_store")

Recovery = Literal["resend", "keep_partial", "give_up"]
OnUnknown = Literal["raise", "resend"]

LEASE_MARGIN: Final = 30.0
"""Seconds that a lease outlasts the deadline of the request it is for."""

CALLER_LEASE: Final = 900.0
"""Seconds of lease for a request that the caller sends with a client of their own."""

_POLL: Final = 0.05


@frozen(kw_only=True)
class Options:
    """
    What a store hands to each of its conversations.

    Attributes:
        client: Sends requests; None for a store that only keeps.
        models: What is known of models.
        keep_raw: Whether the raw bytes of every response are kept, beside their digest.
    """

    client: Client | None
    models: Models
    keep_raw: bool = False


class Conversation:
    """
    One conversation: its settings, its turns, and what is sent next.

    Made by ``Store.open`` and ``Store.get``. Every method that appends has committed when it returns.

    Attributes:
        id: The conversation's own id.
        key: The host's name for it, None for none.
    """

    def __init__(self, database: Database, kept: Kept, options: Options) -> None:
        self._database = database
        self._options = options
        self._kept = kept
        self._head = kept.head
        self._settings: Settings | None = None
        self._secrets: dict[str, str] = {}
        self._view: tuple[View, int] | None = None
        self._messages: Messages | None = None
        self._known = 0
        self._turns: tuple[Head, list[Turn]] | None = None
        self.id: UUID = kept.id
        self.key: str | None = kept.key

    def __repr__(self) -> str:
        name = f"{self.key!r}, " if self.key is not None else ""
        return f"<Conversation {name}{self.id}, version {self.version}>"

    # --- what is known ------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """How many entries the log had when this object last looked; every append makes it grow."""
        return self._head.length

    @property
    def head(self) -> bytes:
        """The 32-byte digest of the log's last entry: it stands for everything before it."""
        return self._head.digest

    @property
    def title(self) -> str | None:
        """What people call the conversation."""
        return self._kept.title

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the host noted beside it."""
        value = canonical.loads(self._kept.metadata) if self._kept.metadata else {}
        return value if isinstance(value, Mapping) else {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parameters of the next request but its messages; ``version`` and ``betas`` where they are set."""
        current = self._current_settings()
        return {**current.params, **current.fields()}

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns of the current view, in order: what the next request's messages are."""
        if self._turns is None or self._turns[0] != self._head:
            with self._database.read() as connection:
                spans, _ = self._current_view()
                found = history.turns(self._database, connection, spans, self._head.length)
            self._turns = (self._head, found)
        return self._turns[1]

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """Every request of this conversation and what became of it, oldest first."""
        with self._database.read() as connection:
            found = ledger.read_all(connection, self.id)
            row = self._row()
        return [self._as_of(row, exchange) for exchange in found]

    @property
    def pending(self) -> Pending | None:
        """The exchange that is pending now, whoever began it; None where there is none."""
        self.refresh()
        if self._head.token == NO_TOKEN:
            return None
        exchange = self._exchange(self._head.pending_position)
        return Pending(self, exchange, self._rebuilt(exchange), self._prefill_of(exchange))

    def refresh(self) -> Conversation:
        """
        Read where the log stands now, and go on from there.

        Returns:
            This conversation.

        Raises:
            NotFoundError: The conversation is gone.
        """
        row = self._row()
        if row.head.view_position != self._head.view_position:
            self._view = self._messages = None
        if row.head.settings_position != self._head.settings_position:
            self._settings = None
        self._kept, self._head = row, row.head
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

    def tool_result(self, tool_use_id: str, content: Maybe = ABSENT, *, is_error: bool = False) -> Turn:
        """
        Append the result of a tool's call, as a turn of its own.

        Args:
            tool_use_id: The id of the call.
            content: A string, or blocks as dicts in the API's shape; nothing for an empty result.
            is_error: Whether the tool failed.

        Raises:
            As ``user``.
        """
        return self._say("user", (ToolResult(tool_use_id, content, is_error=True if is_error else ABSENT),))

    def append(self, *messages: Mapping[str, Any]) -> list[Turn]:
        """
        Append plain messages in the API's shape, of any role, all or none.

        Raises:
            ContentError, RuleViolationError: Naming ``messages.N`` among those given.
            ConflictError, BusyError: As ``user``.
        """
        wires = [codec.wire_of_message(message, f"messages.{n}") for n, message in enumerate(messages)]
        found = [each for n, (_, wire) in enumerate(wires) for each in _message_faults(wire, f"messages.{n}.")]
        if found:
            raise RuleViolationError(found)
        return self._append_turns([(_origin(role, wire), wire, {}) for role, wire in wires]) if wires else []

    def update(self, **settings: Any) -> None:
        """
        Change settings from the next request on; ``ABSENT`` removes one. Equal ones append nothing.

        Raises:
            ContentError: A value that is no JSON, or no setting.
            ConflictError, BusyError: As ``user``.
        """
        changed, secrets = self._current_settings().updated(settings)
        self._secrets |= secrets
        if changed != self._settings:
            self._commit([settings_draft(changed, identity.now())], settings=0)
            self._settings = changed

    def know_secrets(self, secrets: Mapping[str, str]) -> None:
        """Remember, in this process alone, what is sent in the place of names like ``mcp_servers.NAME``."""
        self._secrets |= secrets

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
        new_title = self._kept.title if title is ABSENT else title
        given = self.metadata if metadata is ABSENT else metadata
        body = canonical.dumps({"title": new_title, "metadata": given})
        entry = draft("labelled", at=identity.now(), salt=identity.new_salt(), fields={}, body=body)
        kept = canonical.dumps(given, "metadata") if given is not None else None
        text = new_title if isinstance(new_title, str) else None
        while True:
            commit = exchanges.prepare(self.id, self._head, [entry])
            try:
                self._database.write(partial(exchanges.label, commit=commit, title=text, metadata=kept))
            except (ConflictError, BusyError, LeaseLostError):
                self.refresh()
                continue
            self._advance(commit)
            self._kept = evolve(self._kept, title=text, metadata=kept)
            return

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
        return self._ask(
            (), prefill, overrides, check=check, allow_unlisted_model=allow_unlisted_model, sending=False
        ).request

    def check(self, **overrides: Any) -> list[Finding]:
        """Say everything the rule book finds in the next request, errors and warnings."""
        return self._ask((), None, overrides, check=False, allow_unlisted_model=False).findings

    def send(
        self,
        *content: Content,
        prefill: str | Sequence[Content] | None = None,
        idempotency_key: str | None = None,
        wait: float = 0,
        check: bool = True,
        allow_unlisted_model: bool = False,
        on_unknown: OnUnknown = "raise",
        on_rejected: Literal["set_aside", "keep"] = "set_aside",
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
            on_unknown: What to do where it is not known whether a request ran: raise, or send again.
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
        pending = self._begin(
            content,
            prefill,
            overrides,
            key=idempotency_key,
            wait=wait,
            check=check,
            allow_unlisted_model=allow_unlisted_model,
            on_unknown=on_unknown,
            on_rejected=on_rejected,
            sent_by="client",
            lease=client.timeout + LEASE_MARGIN,
        )
        return self._send(pending, client, on_unknown)

    def begin(
        self,
        *content: Content,
        prefill: str | Sequence[Content] | None = None,
        idempotency_key: str | None = None,
        wait: float = 0,
        check: bool = True,
        allow_unlisted_model: bool = False,
        on_unknown: OnUnknown = "raise",
        on_rejected: Literal["set_aside", "keep"] = "set_aside",
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
        return self._begin(
            content,
            prefill,
            overrides,
            key=idempotency_key,
            wait=wait,
            check=check,
            allow_unlisted_model=allow_unlisted_model,
            on_unknown=on_unknown,
            on_rejected=on_rejected,
            sent_by="caller",
            lease=lease,
        )

    def retry(self, **overrides: Any) -> Reply:
        """
        Send the last request again, as a new exchange; turns that it set aside come back first.

        Args:
            overrides: Settings for this exchange, over those of the one before.

        Raises:
            ContentError: There is nothing to try again: the last exchange was answered, or there is none.
            As ``send``.
        """
        client = self._client()
        self.refresh()
        last = self._newest()
        if last is None or last.state in {State.ANSWERED, State.PENDING}:
            if self._head.token != NO_TOKEN:
                raise BusyError(self.id, self._kept.lease_until)
            raise ContentError("", "there is nothing to try again: the last exchange was answered")
        pending = self._again(last, overrides, sent_by="client", lease=client.timeout + LEASE_MARGIN)
        return self._send(pending, client, "raise")

    def recover(self, action: Recovery = "resend") -> Reply | None:
        """
        Resolve an exchange whose worker died or lost its lease. It may have been answered and billed.

        Args:
            action: ``resend`` sends it again, as a new exchange; ``keep_partial`` records it as interrupted
                with what had arrived; ``give_up`` records it as failed. The turn stays in every case.

        Returns:
            The reply where it was sent again; None where there was nothing to resolve or nothing was sent.

        Raises:
            BusyError: Its lease is not over, and its worker may be alive.
            As ``send``, with ``resend``.
        """
        self.refresh()
        if self._head.token == NO_TOKEN:
            return None
        if not self._over(self._kept):
            raise BusyError(self.id, self._kept.lease_until)
        lost = self._exchange(self._head.pending_position)
        if action == "resend":
            client = self._client()
            pending = self._again(lost, {}, sent_by="client", lease=client.timeout + LEASE_MARGIN)
            return self._send(pending, client, "raise")
        if action not in {"keep_partial", "give_up"}:
            raise ContentError("action", "is one of resend, keep_partial, give_up")
        given_up = Pending(self, lost, None, None)
        error: APIError
        if action == "keep_partial":
            error = InterruptedAnswerError("the worker was lost before the answer was whole")
        else:
            error = APIError("given up: whether it was answered is not known")
        given_up.fail(error)
        return None

    # --- auditing --------------------------------------------------------------------------------------------------

    def replay(self, exchange: Exchange | int) -> bytes:
        """
        Build the exact body of a past request again, and prove it by the commitment made when it was sent.

        Raises:
            CodecError: There is no such exchange, or something its body held was erased or changed.
        """
        position = exchange.position if isinstance(exchange, Exchange) else exchange
        body = history.rebuilt(self._database, self.id, position, {}).recorded
        with self._database.read() as connection:
            entry = history.entry_at(connection, self.id, position)
        if entry is None or not history.proves(entry, history.digest_of(body)):
            raise CodecError(f"the body of exchange {position} cannot be proved: something in it was erased or changed")
        return body

    def verify(self) -> list[Fault]:
        """
        Compute the whole chain and every commitment again.

        Returns:
            What is wrong, as data; empty where nothing is. Never raises on what a hostile hand wrote.
        """
        return verify_conversation(self._database, self.id)

    # --- the exchange ----------------------------------------------------------------------------------------------

    def _client(self) -> Client:
        if self._options.client is None:
            raise ConfigurationError("this store has no client: Store(…, client=Client()), or use begin and finish")
        return self._options.client

    def _send(self, pending: Pending, client: Client, on_unknown: OnUnknown) -> Reply:
        if pending.reply is not None:
            return pending.reply
        request = pending.request
        try:
            answer = client.send(
                request if request.streams else request.body,
                version=request.version,
                betas=request.betas,
                path=request.endpoint,
                on_unknown=on_unknown,
            )
        except APIError as error:
            pending.fail(error)
            raise
        except BaseException as error:
            # Ctrl-C, a bug, a missing secret: what became of the request is as unknown as a lost connection.
            pending.fail(error if isinstance(error, Exception) else APIError(f"stopped by {type(error).__name__}"))
            raise
        return pending.finish(answer.body, attempts=answer.attempts)

    def _begin(
        self,
        content: Sequence[Content],
        prefill: str | Sequence[Content] | None,
        overrides: Mapping[str, Any],
        *,
        key: str | None,
        wait: float,
        on_unknown: OnUnknown,
        on_rejected: str,
        check: bool,
        allow_unlisted_model: bool,
        sent_by: str,
        lease: float,
    ) -> Pending:
        _check_key(key)
        until = time.monotonic() + wait
        pause = _POLL
        while True:
            try:
                if key is not None and (known := self._known_by(key, content, prefill, on_unknown)) is not None:
                    pending = (
                        known if isinstance(known, Pending) else self._again(known, {}, sent_by=sent_by, lease=lease)
                    )
                else:
                    self._refuse_busy()
                    asked = self._ask(
                        content, prefill, overrides, check=check, allow_unlisted_model=allow_unlisted_model
                    )
                    pending = self._open(asked, key=key, sent_by=sent_by, lease=lease)
                pending.on_rejected = on_rejected
            except BusyError:
                if time.monotonic() >= until:
                    raise
                time.sleep(min(pause, max(until - time.monotonic(), 0)))
                pause = min(pause * 1.5, 1.0)
                self.refresh()
            except ConflictError:
                # With a key it is known that nobody else's message is meant; without one the caller decides.
                if key is None:
                    raise
                self.refresh()
            else:
                return pending

    def _known_by(
        self, key: str, content: Sequence[Content], prefill: str | Sequence[Content] | None, on_unknown: OnUnknown
    ) -> Pending | Exchange | None:
        """Look an idempotency key up: its reply, the exchange to try again, or None for a new key."""
        with self._database.read() as connection:
            found = ledger.by_key(connection, self.id, key)
        if found is None:
            return None
        self.refresh()
        first, last = found
        self._refuse_other_content(first, content, prefill)
        last = self._as_of(self._kept, last)
        if last.state is State.PENDING:
            raise BusyError(self.id, self._kept.lease_until)
        if last.state in {State.ANSWERED, State.REFUSED}:
            pending = Pending(self, last, None, None)
            pending.reply = self.reply_of(last)
            return pending
        if last.state is State.REJECTED:
            raise exchanges.error_of(self._outcome(last)[1])
        if last.state is State.FAILED or on_unknown == "resend":
            return last
        raise UnknownOutcomeError(self.id, last.position, last.state)

    def _refuse_other_content(
        self, first: int, content: Sequence[Content], prefill: str | Sequence[Content] | None
    ) -> None:
        with self._database.read() as connection:
            entries = log.read(connection, self.id, max(first - 2, 0), first)
        request = entries[-1]
        fields = fields_of(request.header)
        by_position = {entry.position: entry for entry in entries}
        for name, said in (("turn", content or None), ("prefill", prefill)):
            recorded = by_position.get(fields[name]) if name in fields else None
            if (said is None) != (recorded is None):
                raise IdempotencyError(self.id, first)
            if said is not None and recorded is not None:
                pieces = (said,) if isinstance(said, str) else tuple(said)
                wire = codec.wire("user" if name == "turn" else "assistant", pieces)
                shortened, _ = splices.cut(wire)
                salt = recorded.salt
                part = None if salt is None else chain.part_of(salt, shortened).hex()
                if part != fields_of(recorded.header).get("body"):
                    raise IdempotencyError(self.id, first)

    def _ask(
        self,
        content: Sequence[Content],
        prefill: str | Sequence[Content] | None,
        overrides: Mapping[str, Any],
        *,
        check: bool,
        allow_unlisted_model: bool,
        sending: bool = True,
    ) -> _Asked:
        """Decide everything about a request but its place in the log; refuse what the API would refuse."""
        messages = self._loaded()
        settings = self._current_settings()
        changes, secrets = Settings().updated(overrides)
        body = requests.merged(settings.body, changes.body)
        version, betas = self._version_and_betas(settings, changes)
        new: list[tuple[str, Origin, bytes]] = []
        found: list[Finding] = []
        if content:
            at = f"messages.{len(messages)}"
            wire = codec.wire("user", content, at)
            found += _message_faults(wire, f"{at}.")
            new.append(("user", _origin("user", wire), wire))
        if prefill is not None:
            said = (prefill,) if isinstance(prefill, str) else tuple(prefill)
            at = f"messages.{len(messages) + len(new)}"
            wire = codec.wire("assistant", said, at)
            found += _message_faults(wire, f"{at}.")
            new.append(("assistant", Origin.PREFILL, wire))
        roles = [*messages.roles[:1], *[role for role, _, _ in new][: 1 - len(messages.roles[:1])]]
        last = new[-1][0] if new else (messages.roles[-1] if messages.roles else None)
        final = new[-1][2] if new else (self.turns[-1].wire if last == "assistant" else None)
        found += rules.check_request(
            Asked(
                params=_object(body),
                version=version,
                count=len(messages) + len(new),
                first=roles[0] if roles else None,
                last=last,
                final=_object(final).get("content") if last == "assistant" and final else None,
                prefill=prefill is not None,
                sending=sending,
                models=self._options.models,
                allow_unlisted_model=allow_unlisted_model,
            )
        )
        errors = [finding for finding in found if finding.severity == "error"]
        if check and errors:
            raise RuleViolationError(errors)
        at_time = identity.now()
        detached = [self._detached(wire, at_time) for _, _, wire in new]
        extra: list[Sequence[Piece]] = []
        for each in detached:
            header = canonical.header(each.fields())
            extra.append(requests.pieces_of(header, each.body, each.inserts(self._database)))
        known_secrets = {**self._client_secrets(), **self._secrets, **secrets}
        request = messages.request(extra, body, version=version, betas=betas, secrets=known_secrets)
        return _Asked(
            request=request,
            findings=found,
            new=[(origin, each) for (_, origin, _), each in zip(new, detached, strict=True)],
            overrides=changes,
            prefill=_object(new[-1][2]).get("content") if prefill is not None else None,
            model=str(_object(body).get("model", "")),
        )

    def _version_and_betas(self, settings: Settings, changes: Settings) -> tuple[str, tuple[str, ...]]:
        client = self._options.client
        version = changes.version or settings.version or (client.version if client else requests.DEFAULT_VERSION)
        given = (*(client.betas if client else ()), *settings.betas, *changes.betas)
        return version, tuple(dict.fromkeys(given))

    def _client_secrets(self) -> Mapping[str, str]:
        return self._options.client.secrets if self._options.client else {}

    def _open(self, asked: _Asked, *, key: str | None, sent_by: str, lease: float) -> Pending:
        """Write the beginning of an exchange."""
        at = identity.now()
        drafts: list[Entry] = []
        uses: dict[int, Sequence[Blob]] = {}
        fields: dict[str, Any] = {"last": self._head.length - 1}
        for origin, each in asked.new:
            name = "prefill" if origin is Origin.PREFILL else "turn"
            fields[name] = self._head.length + len(drafts)
            if name == "turn":
                fields["last"] = fields[name]
            uses[len(drafts)] = each.blobs
            drafts.append(turn_draft({"origin": origin.value}, each, at))
        return self._write_request(
            drafts, uses, fields, asked, at=at, key=key, sent_by=sent_by, lease=lease, retry_of=None, superseded=None
        )

    def _write_request(
        self,
        drafts: list[Entry],
        uses: Mapping[int, Sequence[Blob]],
        fields: dict[str, Any],
        asked: _Asked,
        *,
        at: int,
        key: str | None,
        sent_by: str,
        lease: float,
        retry_of: int | None,
        superseded: Exchange | None,
        view_draft: int | None = None,
    ) -> Pending:
        request = asked.request
        request_salt = identity.new_salt()
        position = self._head.length + len(drafts)
        fields |= {
            "builder": requests.BUILDER,
            "endpoint": request.endpoint,
            "version": request.version,
            "view": self._head.view_position if view_draft is None else self._head.length + view_draft,
            "settings": self._head.settings_position,
            "request": chain.part(request_salt, chain.JSON_TYPE, request.digest).hex(),
            "length": request.length,
            "max_attempts": self._options.client.max_attempts if self._options.client and sent_by == "client" else 1,
            "sent_by": sent_by,
        }
        if request.betas:
            fields["betas"] = list(request.betas)
        if retry_of is not None:
            fields["retry_of"] = retry_of
        overrides = asked.overrides
        drafts.append(
            draft(
                "request",
                at=at,
                salt=identity.new_salt(),
                fields=fields,
                body=None if overrides.body == b"{}" else overrides.body,
                about={"idempotency_key": key},
                request_salt=request_salt,
            )
        )
        exchange = Exchange(
            conversation=self.id,
            position=position,
            state=State.PENDING,
            model=asked.model,
            begun=at,
            body_length=request.length,
            sent_by=sent_by,
            retry_of=retry_of,
            idempotency_key=key,
        )
        commit = exchanges.prepare(
            self.id,
            self._head,
            drafts,
            scope=self._kept.scope,
            uses=uses,
            view=view_draft,
            pending=(identity.new_token(), len(drafts) - 1),
            lease=int(lease * 1_000_000),
            owner=identity.owner(),
        )
        work = partial(exchanges.begin, commit=commit, exchange=exchange, superseded=superseded)
        self._database.write(work, partial(log.is_there_or_none, commit=commit))
        self._advance(commit, uses)
        logger.debug("conversation %s: exchange %d begun, %d bytes", self.id, position, request.length)
        return Pending(self, exchange, request, asked.prefill)

    def _again(self, old: Exchange, overrides: Mapping[str, Any], *, sent_by: str, lease: float) -> Pending:
        """Begin a new exchange that tries an old one again; no turn is doubled."""
        at = identity.now()
        with self._database.read() as connection:
            entry = history.entry_at(connection, self.id, old.position)
            if entry is None:
                raise NotFoundError(f"{self.id} exchange {old.position}")
            fields = fields_of(entry.header)
            past = Settings.read(entry.body or b"{}", {})
            prefill = history.prefill_at(connection, self.id, fields["prefill"]) if "prefill" in fields else None
            prefill_body = history.entry_at(connection, self.id, fields["prefill"]) if "prefill" in fields else None
        drafts: list[Entry] = []
        view_draft = None
        if old.state in {State.REJECTED, State.REFUSED}:
            view_draft = self._bring_back(old, fields, drafts, at)
        changes, secrets = past.updated(overrides)
        settings = self._current_settings()
        body = requests.merged(settings.body, changes.body)
        version, betas = self._version_and_betas(settings, changes)
        messages = self._loaded()
        if view_draft is not None:
            messages = Messages()
            with self._database.read() as connection:
                spans, _ = history.view_at(connection, self.id, fields["view"])
                history.add_messages(messages, self._database, connection, spans, fields["last"] + 1)
        extra: list[Sequence[Piece]] = [[prefill_body.body or b""]] if prefill_body is not None else []
        request = messages.request(
            extra,
            body,
            version=version,
            betas=betas,
            secrets={**self._client_secrets(), **self._secrets, **secrets},
        )
        asked = _Asked(
            request=request,
            findings=[],
            new=[],
            overrides=changes,
            prefill=prefill,
            model=str(_object(body).get("model", "")),
        )
        new_fields: dict[str, Any] = {"last": self._head.length - 1}
        if "prefill" in fields:
            new_fields["prefill"] = fields["prefill"]
        superseded = evolve(old, state=State.UNKNOWN) if old.state in {State.PENDING, State.UNKNOWN} else None
        pending = self._write_request(
            drafts,
            {},
            new_fields,
            asked,
            at=at,
            key=None,
            sent_by=sent_by,
            lease=lease,
            retry_of=old.retry_of if old.retry_of is not None else old.position,
            superseded=superseded,
            view_draft=view_draft,
        )
        if view_draft is not None:
            self._view = self._messages = None
        return pending

    def _bring_back(self, old: Exchange, fields: Mapping[str, Any], drafts: list[Entry], at: int) -> int | None:
        """Write the view that a rejected exchange had sent, unless nothing was set aside."""
        with self._database.read() as connection:
            current = history.entry_at(connection, self.id, self._head.view_position)
            made_by = fields_of(current.header).get("request") if current is not None else None
            if made_by != old.position:
                return None
            spans, _ = history.view_at(connection, self.id, fields["view"])
        now, depth = self._current_view()
        if any(turn.position > old.position and turn.conversation == self.id for turn in self.turns):
            raise ContentError("", "turns were added since; say it anew instead of trying again")
        restored = view.reopened(view.until(spans, self.id, fields["last"]), self.id, old.position + 1)
        change = view.fields(now, restored, self._head.view_position, depth)
        drafts.append(draft("view", at=at, salt=identity.new_salt(), fields=change))
        return len(drafts) - 1

    def _conclude(self, pending: Pending, ending: _Ending) -> None:
        """
        Write the end of an exchange, wherever the log has got to meanwhile, as long as the token is its own.

        Raises:
            LeaseLostError: Another worker took the exchange over; what came is kept as a note.
        """
        while True:
            if ending.commit is None or ending.commit.before != self._head:
                if self._was_written(ending):
                    self.refresh()
                    return
                if self._head.token != pending.token:
                    self.refresh()
                if self._head.token != pending.token:
                    self._keep_late(pending, ending)
                    raise LeaseLostError(self.id, pending.exchange.position)
                self._prepare_ending(pending, ending)
            commit = ending.commit
            assert commit is not None  # noqa: S101 - prepared above
            outcome = commit.entries[0].position
            work = partial(exchanges.finish, commit=commit, exchange=ending.exchange, outcome=outcome)
            try:
                self._database.write(work, partial(log.is_there_or_none, commit=commit))
            except (ConflictError, LeaseLostError, BusyError):
                # Somebody appended a note meanwhile, or took over: look, and chain the same entries anew.
                self.refresh()
                continue
            break
        self._advance(commit, ending.uses)
        if ending.view is not None:
            self._view = ending.view
            if self._messages is not None:
                self._messages.cut(ending.keep)
        logger.debug("conversation %s: exchange %d %s", self.id, pending.exchange.position, ending.exchange.state)

    def _was_written(self, ending: _Ending) -> bool:
        if ending.commit is None:
            return False
        with self._database.read() as connection:
            return log.is_there(connection, ending.commit)

    def _prepare_ending(self, pending: Pending, ending: _Ending) -> None:
        """Chain what ends an exchange at the log's present end: outcome, the model's turn, a view."""
        drafts, uses = list(ending.drafts), dict(ending.uses)
        turn = None
        if ending.turn is not None:
            turn = len(drafts)
            drafts.append(ending.turn)
        ending.view, view_draft = None, None
        state = ending.exchange.state
        if state in {State.REJECTED, State.REFUSED} and pending.on_rejected == "set_aside":
            messages, (now, depth) = self._loaded(), self._current_view()
            ending.keep = messages.model_turns[-1] + 1 if messages.model_turns else 0
            kept = view.until(now, *messages.places[ending.keep - 1]) if ending.keep else ()
            new = view.reopened(kept, self.id, pending.exchange.position + 1)
            change = view.fields(now, new, self._head.view_position, depth)
            ending.view = (new, change.get("depth", 0))
            view_draft = len(drafts)
            fields = {**change, "request": pending.exchange.position}
            drafts.append(draft("view", at=drafts[0].at, salt=identity.new_salt(), fields=fields))
        commit = exchanges.prepare(
            self.id,
            self._head,
            drafts,
            scope=self._kept.scope,
            uses=uses,
            view=view_draft,
            pending=(NO_TOKEN, 0),
            lease=0,
        )
        if turn is not None:
            ending.exchange = evolve(ending.exchange, turn=commit.entries[turn].position)
            ending.turn_entry = commit.entries[turn]
        ending.commit = commit

    def _keep_late(self, pending: Pending, ending: _Ending) -> None:
        """Record what came too late: it was paid for, and it is evidence, but it is no turn."""
        entry = draft(
            "note",
            at=identity.now(),
            salt=identity.new_salt(),
            fields={"late": True, "request": pending.exchange.position},
            body=canonical.compose({"answer": ending.late}),
        )
        while True:
            commit = exchanges.prepare(self.id, self._head, [entry])
            try:
                self._database.write(partial(exchanges.append, commit=commit))
            except (ConflictError, BusyError, LeaseLostError):
                self.refresh()
            else:
                self._advance(commit)
                return

    # --- the log ---------------------------------------------------------------------------------------------------

    def _row(self) -> Kept:
        with self._database.read() as connection:
            row = log.find(connection, self._kept.scope, self.id)
        if row is None:
            raise NotFoundError(str(self.id))
        return row

    def _refuse_busy(self) -> None:
        if self._head.token != NO_TOKEN:
            self.refresh()
            if self._head.token != NO_TOKEN and self._over(self._kept):
                raise UnknownOutcomeError(self.id, self._head.pending_position, State.UNKNOWN)
            if self._head.token != NO_TOKEN:
                raise BusyError(self.id, self._kept.lease_until)

    def _say(self, role: str, content: Sequence[Content], about: Mapping[str, Any] | None = None) -> Turn:
        wire = codec.wire(role, content)
        found = _message_faults(wire, "")
        if found:
            raise RuleViolationError(found)
        return self._append_turns([(_origin(role, wire), wire, about or {})])[0]

    def _append_turns(self, said: Sequence[tuple[Origin, bytes, Mapping[str, Any]]]) -> list[Turn]:
        self._refuse_busy()
        at = identity.now()
        drafts, uses = [], {}
        for n, (origin, wire, about) in enumerate(said):
            kept = self._detached(wire, at)
            uses[n] = kept.blobs
            drafts.append(turn_draft({"origin": origin.value}, kept, at, about))
        commit = self._commit(drafts, uses)
        return [self._turn(entry) for entry in commit.entries]

    def _commit(
        self, drafts: Sequence[Entry], uses: Mapping[int, Sequence[Blob]] | None = None, *, settings: int | None = None
    ) -> Commit:
        self._refuse_busy()
        commit = exchanges.prepare(self.id, self._head, drafts, scope=self._kept.scope, uses=uses, settings=settings)
        work = partial(exchanges.append, commit=commit)
        self._database.write(work, partial(log.is_there_or_none, commit=commit))
        self._advance(commit, uses)
        return commit

    def _advance(self, commit: Commit, uses: Mapping[int, Sequence[Blob]] | None = None) -> None:
        """Go on from what was just written: its messages are known, so nothing is read again."""
        if self._messages is not None and self._known == commit.before.length:
            for n, entry in enumerate(commit.entries):
                if entry.kind == "turn" and entry.body is not None and b'"origin":"prefill"' not in entry.header:
                    used = (uses or {}).get(n, ())
                    inserts = attachments.inserts_of(self._database, entry.header, used)
                    self._messages.add((self.id, entry.position), entry.header, entry.body, inserts)
            self._known = commit.after.length
        self._head = commit.after

    def _detached(self, wire: bytes, at: int, *, received: bool = False) -> Detached:
        shortest = splices.SHORTEST_RECEIVED if received else splices.SHORTEST
        scope = self._kept.scope
        return attachments.detach(self._database, scope, wire, at=at, salt=identity.new_salt, shortest=shortest)

    def _keep_raw(self, answer: Answer, at: int) -> Blob | None:
        if not self._options.keep_raw or answer.raw is None:
            return None
        blob = blobs.put(self._database, self._kept.scope, answer.raw, at)
        return evolve(blob, salt=identity.new_salt())

    def _turn(self, entry: Entry) -> Turn:
        return history.turn(self._database, self.id, entry)

    def _current_settings(self) -> Settings:
        if self._settings is None:
            with self._database.read() as connection:
                self._settings = history.settings_at(connection, self.id, self._head.settings_position)
        return self._settings

    def _current_view(self) -> tuple[View, int]:
        if self._view is None:
            with self._database.read() as connection:
                self._view = history.view_at(connection, self.id, self._head.view_position)
        return self._view

    def _loaded(self) -> Messages:
        """Give the messages of the view; reads only what is newer than what is known."""
        if self._messages is not None and self._known == self._head.length:
            return self._messages
        spans, _ = self._current_view()
        messages = self._messages if self._messages is not None else Messages()
        since = self._known if self._messages is not None else 0
        with self._database.read() as connection:
            history.add_messages(messages, self._database, connection, spans, self._head.length, since=since)
        self._messages, self._known = messages, self._head.length
        return messages

    def _exchange(self, position: int) -> Exchange:
        with self._database.read() as connection:
            exchange = ledger.read(connection, self.id, position)
        if exchange is None:
            raise NotFoundError(f"{self.id} exchange {position}")
        return exchange

    def _newest(self) -> Exchange | None:
        with self._database.read() as connection:
            exchange = ledger.newest(connection, self.id)
        return None if exchange is None else self._as_of(self._kept, exchange)

    def _rebuilt(self, exchange: Exchange) -> Request:
        return history.rebuilt(self._database, self.id, exchange.position, {**self._client_secrets(), **self._secrets})

    def _prefill_of(self, exchange: Exchange) -> Any:
        with self._database.read() as connection:
            entry = history.entry_at(connection, self.id, exchange.position)
            at = fields_of(entry.header).get("prefill") if entry is not None else None
            return None if at is None else history.prefill_at(connection, self.id, at)

    def _over(self, row: Kept) -> bool:
        return row.lease_over or identity.provably_dead(row.lease_owner)

    def _as_of(self, row: Kept, exchange: Exchange) -> Exchange:
        """Read a pending exchange as unknown where its lease is over."""
        if exchange.state is not State.PENDING:
            return exchange
        mine = row.head.token != NO_TOKEN and row.head.pending_position == exchange.position
        return evolve(exchange, state=State.UNKNOWN) if not mine or self._over(row) else exchange

    def _outcome(self, exchange: Exchange) -> tuple[Entry, Mapping[str, Any]]:
        with self._database.read() as connection:
            position = ledger.outcome_of(connection, self.id, exchange.position)
            entry = None if position is None else history.entry_at(connection, self.id, position)
        if entry is None:
            raise CodecError(f"exchange {exchange.position} has no outcome")
        return entry, _object(entry.body or b"{}")

    def reply_of(self, exchange: Exchange) -> Reply:
        """
        Give the reply of an exchange that was answered or refused, from the record.

        Raises:
            CodecError: It has no answer.
        """
        entry, outcome = self._outcome(exchange)
        fields = outcome.get("envelope")
        if not isinstance(fields, Mapping):
            raise CodecError(f"exchange {exchange.position} was not answered")
        turn = None
        if exchange.turn is not None:
            with self._database.read() as connection:
                model = history.entry_at(connection, self.id, exchange.turn)
            turn = None if model is None else self._turn(model)
        if turn is not None:
            content = turn.received
        else:
            member = canonical.members(entry.body or b"{}").get("content")
            content = b"[]" if member is None or entry.body is None else entry.body[member.start : member.end]
        return Reply(exchange=exchange, turn=turn, fields=fields, raw_content=content)


@define(kw_only=True)
class _Ending:
    """
    What ends an exchange: decided once, chained at the log's end as often as that moves.

    Attributes:
        drafts: The outcome entry.
        turn: The model's turn, a draft; None where nothing is appended.
        exchange: The exchange as it will read.
        answer: The answer; None for a fault.
        uses: The blobs of the drafts, by index.
        late: What came, as JSON, should it come too late.
        commit: The append, once its place is known.
        turn_entry: The model's turn in its place.
        view: The view from then on and its depth, where it changes; ``keep`` messages stay in it.
    """

    drafts: Sequence[Entry]
    exchange: Exchange
    late: bytes
    answer: Answer | None = None
    turn: Entry | None = None
    uses: Mapping[int, Sequence[Blob]] = field(factory=dict)
    commit: Commit | None = None
    turn_entry: Entry | None = None
    view: tuple[View, int] | None = None
    keep: int = 0


@frozen(kw_only=True)
class _Asked:
    """A request that is decided, and what beginning it must write."""

    request: Request
    findings: list[Finding]
    new: Sequence[tuple[Origin, Detached]]
    overrides: Settings
    prefill: Any
    model: str


class Pending:
    """
    An exchange that has begun and has no outcome yet.

    Attributes:
        exchange: The exchange.
        reply: The reply, once there is one.
        on_rejected: ``set_aside`` or ``keep``: what a rejection or refusal does to the turns it concerns.
    """

    def __init__(self, conversation: Conversation, exchange: Exchange, request: Request | None, prefill: Any) -> None:
        self._conversation = conversation
        self._request = request
        self._prefill = prefill
        self.token = conversation._head.token  # noqa: SLF001 - the two halves of one thing
        self._ending: _Ending | None = None
        self._answer: tuple[object, Sequence[Attempt]] | None = None
        self.exchange = exchange
        self.reply: Reply | None = None
        self.on_rejected = "set_aside"

    def __repr__(self) -> str:
        return f"<Pending exchange {self.exchange.position} of {self._conversation.id}>"

    @property
    def request(self) -> Request:
        """What is to be sent."""
        if self._request is None:
            self._request = self._conversation._rebuilt(self.exchange)  # noqa: SLF001
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
            CodecError: It is no message of the API; the exchange is recorded as interrupted.
            NotSavedError: The database refused; call ``finish()`` again.
            LeaseLostError: Another worker took the exchange over; the answer is kept as a note.
        """
        if self.reply is not None:
            return self.reply
        if answer is not None:
            self._answer = (answer, attempts)
            self._ending = None
        if self._answer is None:
            raise ContentError("answer", "there is none yet: give the response")
        if self._ending is None:
            self._ending = self._ending_of(*self._answer)
        return self._settled(self._ending)

    def fail(self, error: Exception) -> None:
        """
        Record that there is no answer. *error* is this library's, or the one the caller's client raised.

        Raises:
            LeaseLostError: Another worker took the exchange over.
            DatabaseError: It could not be recorded; the exchange will read as unknown once its lease is over.
        """
        fault = exchanges.api_error(error)
        state, billed, body = exchanges.failed(fault)
        at = identity.now()
        ended = exchanges.concluded(self.exchange, None, state=state, attempts=fault.attempts, billed=billed, at=at)
        entry = exchanges.outcome_draft(self.exchange, state, body, at=at, salt=identity.new_salt())
        self._conversation._conclude(self, _Ending(drafts=[entry], exchange=ended, late=body))  # noqa: SLF001
        self.exchange = ended

    def _ending_of(self, answer: object, attempts: Sequence[Attempt]) -> _Ending:
        raw, received = exchanges.bytes_of(answer)
        try:
            read = Answer.read(raw, received=received)
        except CodecError as error:
            self.fail(InterruptedAnswerError(f"no whole answer: {error}", partial=raw, attempts=attempts))
            raise
        state, body, turn_body, fields = exchanges.answered(read, prefill=self._prefill, attempts=attempts)
        conversation = self._conversation
        at = identity.now()
        uses: dict[int, Sequence[Blob]] = {}
        turn = None
        try:
            raw_use = conversation._keep_raw(read, at)  # noqa: SLF001
            if turn_body is not None:
                kept = conversation._detached(turn_body, at, received=True)  # noqa: SLF001
                fields = {**fields, "request": self.exchange.position}
                turn = turn_draft(fields, kept, at)
                uses[1] = kept.blobs
        except DatabaseError as error:
            raise NotSavedError(self, error.reason) from error
        if raw_use is not None:
            uses[0] = [raw_use]
        return _Ending(
            drafts=[
                exchanges.outcome_draft(
                    self.exchange, state, body, at=at, salt=identity.new_salt(), answer=read, raw_use=raw_use
                )
            ],
            exchange=exchanges.concluded(self.exchange, read, state=state, attempts=attempts, billed=False, at=at),
            answer=read,
            turn=turn,
            uses=uses,
            late=raw,
        )

    def _settled(self, ending: _Ending) -> Reply:
        try:
            self._conversation._conclude(self, ending)  # noqa: SLF001
        except DatabaseError as error:
            raise NotSavedError(self, error.reason) from error
        answer = ending.answer
        assert answer is not None  # noqa: S101 - only answers are settled
        turn = None
        if ending.turn_entry is not None:
            turn = self._conversation._turn(ending.turn_entry)  # noqa: SLF001
        self.exchange = ending.exchange
        self.reply = Reply(exchange=ending.exchange, turn=turn, fields=answer.fields, raw_content=answer.content)
        return self.reply


def turn_draft(fields: Mapping[str, Any], kept: Detached, at: int, about: Mapping[str, Any] | None = None) -> Entry:
    """Write a turn's entry."""
    salt = identity.new_salt()
    return draft("turn", at=at, salt=salt, fields={**fields, **kept.fields()}, body=kept.body, about=about)


def settings_draft(settings: Settings, at: int) -> Entry:
    """Write a settings entry."""
    return draft("settings", at=at, salt=identity.new_salt(), fields=settings.fields(), body=settings.body)


def _object(data: bytes | None) -> Mapping[str, Any]:
    value = canonical.loads(data) if data else {}
    return value if isinstance(value, Mapping) else {}


def _message_faults(wire: bytes, path: str) -> list[Finding]:
    return rules.check_message(_object(wire), path)


def _origin(role: str, wire: bytes) -> Origin:
    if role == "assistant":
        return Origin.SYNTHETIC
    if role == "system":
        return Origin.SYSTEM
    return Origin.TOOL if b'"tool_result"' in wire and _holds_result(wire) else Origin.HUMAN


def _holds_result(wire: bytes) -> bool:
    content = _object(wire).get("content")
    return isinstance(content, list) and any(block.get("type") == "tool_result" for block in content)


def _check_key(key: str | None) -> None:
    if key is not None and not 0 < len(key.encode("utf-8", "replace")) <= IDEMPOTENCY_KEY_BYTES:
        raise ContentError("idempotency_key", f"has 1 to {IDEMPOTENCY_KEY_BYTES} bytes of UTF-8")
