"""
What a conversation's log tells: its views, turns, settings and past requests; and one process's knowledge of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar
from uuid import UUID

from attrs import evolve, frozen
from sqlalchemy import Connection

from conversation_store import attachments, exchanges
from conversation_store.api import request as requests
from conversation_store.api.client import Client
from conversation_store.api.models import Models
from conversation_store.api.request import Messages, Request, Settings
from conversation_store.api.rules import Asked, Finding, check_parameters
from conversation_store.api.rules.order import Outline
from conversation_store.api.rules.reading import grow
from conversation_store.attachments import Detached, Marks
from conversation_store.errors import (
    BusyError,
    CodecError,
    ConflictError,
    LeaseLostError,
    NotFoundError,
    UnknownOutcomeError,
    UnlistedModelError,
)
from conversation_store.record import canonical, chain, splices, view
from conversation_store.record.blocks import ToolResult, ToolUse
from conversation_store.record.chain import Entry, draft
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.reply import Reply
from conversation_store.record.splices import Parted
from conversation_store.record.turns import PREFILL_MARK, Origin, Turn, fields_of, turn_of, without_thinking
from conversation_store.record.view import View
from conversation_store.storage import blobs, identity, ledger, log
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database
from conversation_store.storage.log import Commit, Head, Kept
from conversation_store.storage.tables import NO_TOKEN

OnUnlisted: TypeAlias = Literal["warn", "error"]

logger: Final = logging.getLogger("conversation_store")

T = TypeVar("T")

Uses: TypeAlias = Mapping[int, Sequence[Blob]]
"""By index among the drafts of an append: the blobs that entry uses."""


def view_at(connection: Connection, conversation: UUID, position: int) -> tuple[View, int]:
    """
    Read the view that the entry at *position* tells.

    Returns:
        The view, and on how many view entries it builds; at most ``view.WHOLE_EVERY`` entries are read.
    """
    told: list[Mapping[str, Any]] = []
    while True:
        fields = fields_of(_entry(connection, conversation, position).header)
        if "then" not in fields:
            base = view.whole(conversation)
            break
        told.append(fields)
        if "base" not in fields:
            base = ()
            break
        position = fields["base"]
    for fields in reversed(told):
        base = view.read(fields, base)
    return base, told[0].get("depth", 0) if told else 0


def settings_at(connection: Connection, conversation: UUID, position: int) -> Settings:
    """Read the settings that the entry at *position* tells."""
    entry = _entry(connection, conversation, position)
    return Settings.read(entry.body or b"{}", fields_of(entry.header))


def entry_at(connection: Connection, conversation: UUID, position: int) -> Entry | None:
    """Read one entry; None where there is none."""
    return next(iter(log.read(connection, conversation, position, position)), None)


def _entry(connection: Connection, conversation: UUID, position: int) -> Entry:
    entry = entry_at(connection, conversation, position)
    if entry is None:
        raise CodecError(f"conversation {conversation} has no entry {position}")
    return entry


def add_messages(
    messages: Messages, database: Database, connection: Connection, spans: View, length: int, *, since: int = 0
) -> None:
    """
    Add the messages of a view that come after what is known.

    Args:
        messages: Where they are added.
        database: Reads attachments while they are sent.
        connection: Reads the logs.
        spans: The view; its open span ends with *length*.
        length: Entries of the log that the open span is on.
        since: The first position of that log that is not known yet; other spans are read when it is 0.
    """
    for span in spans:
        if since and span.last is not None:
            continue
        first, last = max(span.first, since), span.upto(length)
        used: Mapping[int, Sequence[Blob]] | None = None
        for page in log.read_wires(connection, span.conversation, first, last):
            rows = _shown(page, thinking=span.thinking)
            at = 0
            for n in [n for n, (_, header, _) in enumerate(rows) if b'"splices"' in header]:
                if used is None:
                    used = blobs.used(connection, span.conversation, first, last)
                messages.extend(span.conversation, rows[at:n])
                position, header, body = rows[n]
                strings = attachments.inserts_of(database, header, used.get(position, ()))
                messages.add((span.conversation, position), header, body, strings)
                at = n + 1
            messages.extend(span.conversation, rows[at:])


def _shown(rows: Sequence[tuple[int, bytes, bytes]], *, thinking: bool) -> list[tuple[int, bytes, bytes]]:
    """Leave out prefills, which are in the answers they begin, and thinking where the view leaves it out."""
    told = [row for row in rows if PREFILL_MARK not in row[1]]
    if thinking:
        return told
    return [
        (position, shorter, body)
        for position, header, body in told
        if (shorter := without_thinking(header, body)) is not None
    ]


def turns(database: Database, connection: Connection, spans: View, length: int) -> list[Turn]:
    """Read the turns of a view, in order; their attachments are read when somebody looks."""
    found = []
    for span in spans:
        for entry in log.read_turns(connection, span.conversation, span.first, span.upto(length)):
            if PREFILL_MARK in entry.header:
                continue
            header = entry.header if span.thinking else without_thinking(entry.header, entry.body or b"")
            if header is not None:
                found.append(turn(database, span.conversation, evolve(entry, header=header)))
    return found


def turn(database: Database, conversation: UUID, entry: Entry, origin: Origin | None = None) -> Turn:
    """Look at an entry as a turn; *origin* where it is known."""
    return turn_of(conversation, entry, _strings_of(database, conversation, entry), origin)


def _no_strings() -> Sequence[bytes]:
    return ()


def _strings_of(database: Database, conversation: UUID, entry: Entry) -> Callable[[], Sequence[bytes]]:
    if b'"splices"' not in entry.header:
        return _no_strings  # one for all: an object less for each of many turns
    return partial(_read_strings, database, conversation, entry.position, entry.header)


def _read_strings(database: Database, conversation: UUID, position: int, header: bytes) -> list[bytes]:
    with database.read() as connection:
        used = blobs.used(connection, conversation, position, position).get(position, [])
    return [b"".join(each) for each in attachments.inserts_of(database, header, used)]


def prefill_of(connection: Connection, conversation: UUID, request: int) -> Any:
    """Read what a request put in the model's mouth: a string, text blocks, or None."""
    position = fields_of(_entry(connection, conversation, request).header).get("prefill")
    if position is None:
        return None
    return canonical.object_of(_entry(connection, conversation, position).body or b"{}").get("content")


def keeps_rejected(entry: Entry) -> bool:
    """Say whether the turns of a request stay in the view although it is rejected or refused."""
    return fields_of(entry.header).get("on_rejected") == "keep"


def shown_once(entry: Entry) -> int | None:
    """Say in the place of which view a ``view`` entry stands for one request alone; None for any other view."""
    position = fields_of(entry.header).get("once")
    return position if isinstance(position, int) else None


def continues(entry: Entry) -> int | None:
    """Say which paused exchange a ``request`` entry goes on with; None for none."""
    position = fields_of(entry.header).get("continues")
    return position if isinstance(position, int) else None


def rebuilt(database: Database, conversation: UUID, position: int, secrets: Mapping[str, str]) -> Request:
    """
    Build the request that the ``request`` entry at *position* tells, from the log alone.

    Raises:
        CodecError: There is no such entry, or what it needs was erased.
    """
    with database.read() as connection:
        entry = _entry(connection, conversation, position)
        fields = fields_of(entry.header)
        if entry.kind != "request":
            raise CodecError(f"entry {position} is no request")
        if fields["builder"] not in requests.BUILDERS:
            raise CodecError(f"body builder {fields['builder']} is newer than this release")
        spans, _ = view_at(connection, conversation, fields["view"])
        settings = settings_at(connection, conversation, fields["settings"])
        messages = Messages()
        add_messages(messages, database, connection, spans, fields["last"] + 1)
        extra = []
        if "prefill" in fields:
            prefill = _entry(connection, conversation, fields["prefill"])
            if prefill.body is None:
                raise CodecError(f"the prefill of exchange {position} was erased")
            extra.append(requests.part_of(prefill.header, prefill.body or b""))
    return messages.request(
        extra,
        requests.merged(settings.body, entry.body or b"{}", stream=bool(fields.get("stream"))),
        version=fields["version"],
        betas=tuple(fields.get("betas", ())),
        secrets=secrets,
        markers=requests.markers_of(fields),
    )


def proves(entry: Entry, digest: bytes) -> bool:
    """Say whether a ``request`` entry's commitment is to the body with this SHA-256."""
    if entry.request_salt is None:
        return False
    commitment = chain.part(entry.request_salt, chain.JSON_TYPE, digest).hex()
    return bool(fields_of(entry.header).get("request") == commitment)


@frozen(kw_only=True)
class Options:
    """
    What a store hands to each of its conversations.

    Attributes:
        client: Sends requests; None for a store that only keeps.
        models: What is known of models.
        keep_raw: Whether the raw bytes of every response are kept, beside their digest.
        on_unlisted: What to do where nothing is known of a model: ``warn``, or refuse it with an ``error``.
    """

    client: Client | None
    models: Models
    keep_raw: bool = False
    on_unlisted: OnUnlisted = "warn"

    def take_model(self, name: object) -> None:
        """
        Look whether a model may be asked.

        Raises:
            UnlistedModelError: Nothing is known of it, and only known ones are taken.
        """
        if self.on_unlisted == "error" and isinstance(name, str) and name not in self.models:
            raise UnlistedModelError(model=name)

    def set_model(self, name: object) -> None:
        """
        Look whether a model may be asked from now on, and say where nothing is known of it.

        Raises:
            As ``take_model``.
        """
        self.take_model(name)
        if isinstance(name, str) and name not in self.models:
            logger.warning("%s is not in the list of models: its limits are not checked, its price is not known", name)


class History:
    """
    What one process knows of one conversation, and how it appends: its row, settings, view and messages.

    Nothing is read twice: what this object appends it knows, and what others appended is read from where it
    left off. It belongs to one thread at a time.

    Attributes:
        database: Where it is kept.
        options: What the store gave.
        id: The conversation.
        kept: Its row, as last read.
        head: Where its log stands, as far as is known here.
        secrets: What is sent in the place of names in settings; never stored.
    """

    def __init__(self, database: Database, kept: Kept, options: Options) -> None:
        self.database = database
        self.options = options
        self.id: UUID = kept.id
        self.kept = kept
        self.head = kept.head
        self.secrets: dict[str, str] = {}
        self._settings: Settings | None = None
        self._view: tuple[View, int] | None = None
        self._messages: Messages | None = None
        self._outline = Outline()
        self._known = 0
        self._turns: tuple[Head, list[Turn]] | None = None
        self._judged: tuple[object, Sequence[Finding]] = (None, ())

    # --- reading ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """
        Read where the log stands now; what others changed is forgotten, what only grew is kept.

        Raises:
            NotFoundError: The conversation is gone.
        """
        with self.database.read() as connection:
            self._take(log.find(connection, self.kept.scope, self.id))

    def _take(self, row: Kept | None) -> None:
        if row is None:
            raise NotFoundError(str(self.id))
        if row.head.view_position != self.head.view_position:
            self.forget_view()
        if row.head.settings_position != self.head.settings_position:
            self._settings = None
        self.kept, self.head = row, row.head

    def forget_view(self) -> None:
        """Read the view anew when it is needed next."""
        self._view = self._messages = None
        self._outline = Outline()

    def show(self, view: tuple[View, int], keep: int) -> None:
        """Go on with another view, of which the first *keep* messages are those known."""
        messages, self._messages = self._messages, None
        self._view = view
        if messages is not None and messages.cut(keep):
            self._messages = messages
        if self._messages is None or self._outline.count > len(self._messages.closed):
            self._outline = Outline()

    def adopt(self, view: tuple[View, int], messages: Messages, outline: Outline) -> None:
        """Go on with another view, of which these are the messages, as of the log's present end."""
        self._view, self._messages, self._outline, self._known = view, messages, outline, self.head.length

    @property
    def settings(self) -> Settings:
        """The current settings."""
        if self._settings is None:
            with self.database.read() as connection:
                self._settings = settings_at(connection, self.id, self.head.settings_position)
        return self._settings

    @property
    def view(self) -> tuple[View, int]:
        """The current view, and on how many view entries it builds."""
        if self._view is None:
            with self.database.read() as connection:
                self._view = view_at(connection, self.id, self.head.view_position)
        return self._view

    @property
    def messages(self) -> Messages:
        """The messages of the view; only what is newer than what is known is read."""
        if self._messages is not None and self._known == self.head.length:
            return self._messages
        spans, _ = self.view
        messages, since = (Messages(), 0) if self._messages is None else (self._messages, self._known)
        self._messages = None  # should the reading fail midway, nothing is known
        with self.database.read() as connection:
            add_messages(messages, self.database, connection, spans, self.head.length, since=since)
        self._messages, self._known = messages, self.head.length
        return messages

    def known_upto(self, place: tuple[UUID, int]) -> int | None:
        """Say how many of the messages known end with a turn; None where that is not known. Looked for from the end."""
        if self._messages is None or self._known != self.head.length:
            return None
        places = self._messages.places
        return next((n + 1 for n in range(len(places) - 1, -1, -1) if places[n] == place), None)

    @property
    def outline(self) -> Outline:
        """What rules need to know of the messages that are complete; only new ones are looked at."""
        messages = self.messages
        outline, self._outline = self._outline, Outline()  # should it be interrupted midway, it is looked at anew
        grow(outline, messages)
        self._outline = outline
        return outline

    def judged(self, settings: bytes, asked: Asked) -> Sequence[Finding]:
        """Say what the rules find in the parameters of a request; those of the last one are not looked at again."""
        which = (
            settings,
            asked.version,
            asked.betas,
            asked.on,
            asked.sending,
            asked.stream,
            asked.allow_unlisted_model,
        )
        if self._judged[0] != which:
            self._judged = (which, check_parameters(asked))
        return self._judged[1]

    @property
    def turns(self) -> list[Turn]:
        """The turns of the view, in order."""
        if self._turns is None or self._turns[0] != self.head:
            spans, _ = self.view
            with self.database.read() as connection:
                self._turns = (self.head, turns(self.database, connection, spans, self.head.length))
        return self._turns[1]

    @property
    def open_calls(self) -> list[ToolUse]:
        """The calls of the caller's tools that no result answers yet, in order; only the last turns are read."""
        messages = self.messages
        spoken = messages.last_spoken
        if not messages.calling or messages.calling[-1] not in spoken:
            return []
        with self.database.read() as connection:
            last = [
                turn(self.database, of, _entry(connection, of, position))
                for of, position in messages.places[spoken.start :]
            ]
        blocks = [block for each in last for block in each.content]
        answered = {block.tool_use_id for block in blocks if isinstance(block, ToolResult)}
        return [block for block in blocks if isinstance(block, ToolUse) and block.id not in answered]

    @property
    def last_turn(self) -> Turn:
        """The last turn of the view; it alone is read."""
        conversation, position = self.messages.places[-1]
        with self.database.read() as connection:
            return turn(self.database, conversation, _entry(connection, conversation, position))

    def summary_of(self, spans: View) -> Turn | None:
        """Give the turn that a view begins with, where it stands for others; it alone is read."""
        if not spans or spans[0].last != spans[0].first:
            return None
        of, position = spans[0].conversation, spans[0].first
        entry = self.entry_of(of, position)
        return turn(self.database, of, entry) if b'"stands_for"' in entry.header else None

    def entry(self, position: int) -> Entry:
        """
        Read one entry.

        Raises:
            CodecError: There is none at this position.
        """
        with self.database.read() as connection:
            return _entry(connection, self.id, position)

    def entry_of(self, conversation: UUID, position: int) -> Entry:
        """
        Read one entry of any log that this view shows.

        Raises:
            CodecError: There is none at this position.
        """
        with self.database.read() as connection:
            return _entry(connection, conversation, position)

    def changed_since(self, of: UUID, request: int, turn: int) -> list[str]:
        """
        Say what of the next request differs from what a past one had: ``system``, ``tools``, ``an earlier turn``.

        Args:
            of: The log the past request stands in.
            request: Its position.
            turn: Index in the view of the turn it was answered with.
        """
        with self.database.read() as connection:
            entry = _entry(connection, of, request)
            fields = fields_of(entry.header)
            settings = settings_at(connection, of, fields["settings"])
            now = canonical.object_of(self.settings.body)
            then = canonical.object_of(requests.merged(settings.body, entry.body or b"{}"))
            changed = [name for name in ("system", "tools") if now.get(name) != then.get(name)]
            if entry.request_salt is None:
                changed.append("an earlier turn")  # something the request held was erased
            elif of != self.id or fields["view"] != self.head.view_position:
                past = Messages()
                spans, _ = view_at(connection, of, fields["view"])
                add_messages(past, self.database, connection, spans, fields["last"] + 1)
                if list(past.places) != self.messages.places[:turn]:
                    changed.append("an earlier turn")
        return changed

    def turn(self, entry: Entry, origin: Origin | None = None) -> Turn:
        """Look at an entry as a turn; *origin* where it is known."""
        return turn(self.database, self.id, entry, origin)

    def turn_at(self, conversation: UUID, entry: Entry) -> Turn:
        """Look at an entry of any log that this view shows as a turn."""
        return turn(self.database, conversation, entry)

    def exchange(self, position: int) -> Exchange:
        """
        Read one exchange.

        Raises:
            NotFoundError: There is none at this position.
        """
        with self.database.read() as connection:
            exchange = ledger.read(connection, self.id, position)
        if exchange is None:
            raise NotFoundError(f"{self.id} exchange {position}")
        return self.as_of_now(exchange)

    def newest_exchange(self) -> Exchange | None:
        """Read the exchange begun last; None where there is none."""
        exchange = self.newest_recorded()
        return None if exchange is None else self.as_of_now(exchange)

    def newest_recorded(self) -> Exchange | None:
        """Read the row of the exchange begun last, as it is: what is known here of the log stays as it was."""
        with self.database.read() as connection:
            return ledger.newest(connection, self.id)

    def as_of_now(self, exchange: Exchange) -> Exchange:
        """Read a pending exchange as unknown where its lease is over or it was taken over."""
        for _ in range(2):
            current = self.head.token != NO_TOKEN and self.head.pending_position == exchange.position
            if exchange.state is not State.PENDING or (current and not self.lease_over):
                return exchange
            # It may have ended since it was read, and its worker with it: look at both once more, in one reading.
            with self.database.read() as connection:
                self._take(log.find(connection, self.kept.scope, self.id))
                exchange = ledger.read(connection, self.id, exchange.position) or exchange
        return evolve(exchange, state=State.UNKNOWN) if exchange.state is State.PENDING else exchange

    @property
    def lease_over(self) -> bool:
        """Whether, as the row was last read, the pending exchange's time is up or its process provably dead."""
        return self.kept.lease_over or identity.provably_dead(self.kept.lease_owner)

    def abandoned(self) -> bool:
        """Whether an exchange is pending that nobody works on any more; reads the row."""
        self.refresh()
        token = self.head.token
        if token == NO_TOKEN or not self.lease_over:
            return False
        self.refresh()  # its worker may have ended it just before it went
        return self.head.token == token and self.lease_over

    def reply(self, exchange: Exchange) -> Reply:
        """
        Give the reply of an exchange from the record.

        Raises:
            CodecError: It was neither answered nor refused.
        """
        entry, outcome = self.outcome(exchange)
        if entry.body is None:
            raise CodecError(f"the answer of exchange {exchange.position} was erased")
        fields = outcome.get("envelope")
        if not isinstance(fields, Mapping):
            raise CodecError(f"exchange {exchange.position} was not answered")
        if exchange.turn is not None:
            made = self.turn(self.entry(exchange.turn))
            if not made.body:
                raise CodecError(f"the answer of exchange {exchange.position} was erased")
            return Reply(exchange=exchange, turn=made, fields=fields, raw_content=made.received)
        body = entry.body or b"{}"
        content = canonical.members(body)["content"]
        return Reply(exchange=exchange, turn=None, fields=fields, raw_content=body[content.start : content.end])

    def outcome(self, exchange: Exchange) -> tuple[Entry, Mapping[str, Any]]:
        """
        Read the outcome entry of an exchange, and its body parsed.

        Raises:
            CodecError: It has none.
        """
        return self.outcome_at(self.id, exchange.position)

    def outcome_at(self, of: UUID, request: int) -> tuple[Entry, Mapping[str, Any]]:
        """
        Read the outcome entry of an exchange of any log that this view shows; as ``outcome``.

        Raises:
            CodecError: It has none.
        """
        with self.database.read() as connection:
            position = ledger.outcome_of(connection, of, request)
            if position is None:
                raise CodecError(f"exchange {request} has no outcome")
            entry = _entry(connection, of, position)
        return entry, canonical.object_of(entry.body or b"{}")

    def overrides_of(self, exchange: Exchange) -> Mapping[str, Any]:
        """Read the settings that were for one exchange alone."""
        entry = self.entry(exchange.position)
        return {**canonical.object_of(entry.body or b"{}"), **fields_of(entry.header).get("overrides", {})}

    def params_of(self, position: int) -> Mapping[str, Any]:
        """
        Read the parameters of the request at *position*, but for its messages.

        Raises:
            CodecError: They cannot be read any more.
        """
        with self.database.read() as connection:
            entry = _entry(connection, self.id, position)
            settings = settings_at(connection, self.id, fields_of(entry.header)["settings"])
        return canonical.object_of(requests.merged(settings.body, entry.body or b"{}"))

    def partial_text(self, exchange: Exchange) -> str:
        """Read the words of an answer that broke off, from what is kept of it; empty where none had come."""
        from conversation_store.api.stream import decode_all

        error = self.outcome(exchange)[1].get("error")
        kept = splices.decode(str(error.get("partial", "")).encode()) if isinstance(error, Mapping) else None
        return decode_all(kept)[1].text if exchange.streamed and kept else ""

    def was_begun(self, call: ToolUse) -> bool:
        """
        Say whether a note tells that a tool was begun for this call, here or in the log the call stands in.

        Only the entries since the call are read.
        """
        messages = self.messages
        of, since = messages.places[messages.last_spoken[-1]] if messages.last_spoken else (self.id, 0)
        with self.database.read() as connection:
            notes = log.read_kind(connection, of, "note", since)
            if of != self.id:
                notes += log.read_kind(connection, self.id, "note", 0)
        return any(fields_of(note.header).get("tool") == call.id for note in notes)

    def rebuilt(self, position: int) -> Request:
        """Build a past request again, ready to be sent; see ``rebuilt`` of this module."""
        return rebuilt(self.database, self.id, position, self.known_secrets)

    def as_seen_by(self, position: int) -> list[Turn]:
        """
        Read the turns that a past request had, its prefill last.

        Raises:
            CodecError: There is no such request.
        """
        with self.database.read() as connection:
            entry = _entry(connection, self.id, position)
            fields = fields_of(entry.header)
            if entry.kind != "request":
                raise CodecError(f"entry {position} is no request")
            spans, _ = view_at(connection, self.id, fields["view"])
            seen = turns(self.database, connection, spans, fields["last"] + 1)
            prefill = _entry(connection, self.id, fields["prefill"]) if "prefill" in fields else None
            if prefill is not None and prefill.body is not None:
                seen.append(turn(self.database, self.id, prefill))
        return seen

    @property
    def known_secrets(self) -> dict[str, str]:
        """Every secret known here: the client's, and over them what was given to this conversation."""
        client = self.options.client
        return {**(client.secrets if client else {}), **self.secrets}

    def headers_for(self, settings: Settings, overrides: Settings) -> tuple[str, tuple[str, ...]]:
        """Decide the API version and the betas of a request."""
        client = self.options.client
        version = overrides.version or settings.version or (client.version if client else requests.DEFAULT_VERSION)
        betas = (*(client.betas if client else ()), *settings.betas, *overrides.betas)
        return version, tuple(dict.fromkeys(betas))

    # --- appending -------------------------------------------------------------------------------------------------

    def refuse_busy(self) -> None:
        """
        Make sure that no exchange is pending.

        Raises:
            BusyError: One is, and its worker may be at it.
            UnknownOutcomeError: One was begun, and its worker is gone.
        """
        if self.head.token == NO_TOKEN:
            return
        if self.abandoned():
            raise UnknownOutcomeError(self.id, self.head.pending_position, State.UNKNOWN)
        if self.head.token != NO_TOKEN:
            raise BusyError(self.id, self.kept.lease_until)

    def kept_apart(self, message: Parted, at: int) -> Detached:
        """Keep the long strings that were cut out of a message."""
        return attachments.keep(self.database, self.kept.scope, self.id, message, at=at, salt=identity.new_salt)

    def while_kept(self, used: Sequence[Blob], work: Callable[[], T], at: int) -> T:
        """Do what needs blobs that no entry uses yet; as ``attachments.while_kept``."""
        return attachments.while_kept(self.database, self.kept.scope, self.id, used, work, at=at)

    def detached(
        self, wire: bytes, at: int, *, received: bool = False, marks: Mapping[str, Marks] | None = None
    ) -> Detached:
        """
        Cut a message's long strings out and keep them; fewer of those that the API sent.

        *marks* are spans of it that its header will name; they are moved along.
        """
        shortest = splices.SHORTEST_RECEIVED if received else splices.SHORTEST
        return attachments.detach(
            self.database, self.kept.scope, self.id, wire, at=at, salt=identity.new_salt, shortest=shortest, marks=marks
        )

    def prepare(self, drafts: Sequence[Entry], uses: Uses | None = None, **where: Any) -> Commit:
        """Decide an append at the log's end; see ``exchanges.prepare``."""
        return exchanges.prepare(self.id, self.head, drafts, scope=self.kept.scope, uses=uses, **where)

    def write(self, work: Callable[[Connection], object], commit: Commit, uses: Uses | None = None) -> None:
        """
        Run the transaction of an append, and go on from what it wrote.

        Raises:
            ConflictError, BusyError, LeaseLostError: As ``log.append``.
            DatabaseError: The database refused; nothing was written.
        """
        write = partial(self.database.write, work, partial(log.is_there_or_none, commit=commit))
        if uses:
            used = [blob for each in uses.values() for blob in each]
            self.while_kept(used, write, commit.entries[0].at)
        else:
            write()
        self._advance(commit, uses or {})
        self.database.appended()

    def was_written(self, commit: Commit) -> bool:
        """Say whether an append whose commit was in doubt is in the log, and go on from there if it is."""
        if self.head == commit.before:
            return False
        with self.database.read() as connection:
            found = log.is_there(connection, commit)
        if found:
            self.refresh()
        return found

    def append(
        self,
        drafts: Sequence[Entry],
        uses: Uses | None = None,
        *,
        settings: int | None = None,
        view: int | None = None,
        shown: tuple[tuple[View, int], int] | None = None,
    ) -> Commit:
        """
        Append entries that concern no exchange; *settings* and *view* are the index of the draft that tells those.

        *shown* is that view, its depth, and how many of the messages known begin it; without it all is read anew.

        Raises:
            As ``refuse_busy`` and ``write``.
        """
        self.refuse_busy()
        commit = self.prepare(drafts, uses, settings=settings, view=view)
        if shown is not None:
            self.show(*shown)
        try:
            self.write(partial(exchanges.append, commit=commit), commit, uses)
        except BaseException:
            if shown is not None:
                self.forget_view()
            raise
        if settings is not None:
            self._settings = None
        if view is not None and shown is None:
            self.forget_view()
        return commit

    def append_whenever(self, draft: Entry, work: Callable[..., object] = exchanges.append) -> None:
        """
        Append an entry that is allowed while an exchange is pending, wherever the log has got to.

        Raises:
            DatabaseError: The database refused.
        """
        while True:
            commit = self.prepare([draft])
            try:
                self.write(partial(work, commit=commit), commit)
            except (ConflictError, BusyError, LeaseLostError):
                self.refresh()
            else:
                return

    def _advance(self, commit: Commit, uses: Uses) -> None:
        """Go on from what was just written: its messages are known, so nothing is read again."""
        messages, self._messages = self._messages, None  # should this be interrupted midway, nothing is known
        if messages is not None and self._known == commit.before.length:
            for n, entry in enumerate(commit.entries):
                if entry.kind == "turn" and entry.body is not None and PREFILL_MARK not in entry.header:
                    strings = attachments.inserts_of(self.database, entry.header, uses.get(n, ()))
                    messages.add((self.id, entry.position), entry.header, entry.body, strings)
            self._known = commit.after.length
        self.head = commit.after
        self._messages = messages


def fields_for(origin: Origin, message: Detached) -> dict[str, Any]:
    """Write whose a new turn is; one of results alone goes before what the user said beside it."""
    fields: dict[str, Any] = {"origin": origin.value}
    if origin is Origin.TOOL:
        blocks = canonical.object_of(message.body)["content"]
        fields |= {"gather": True} if all(block.get("type") == "tool_result" for block in blocks) else {}
    return fields


def turn_draft(
    fields: Mapping[str, Any], kept: Detached | Parted, at: int, about: Mapping[str, Any] | None = None
) -> Entry:
    """Write a turn's entry; *kept* may be a message as it was parted where nothing was cut out of it."""
    if isinstance(kept, Detached) and (kept.marks or kept.splices):
        fields = {**fields, **kept.fields()}
    return draft("turn", at=at, salt=identity.new_salt(), fields=fields, body=kept.body, about=about)


def settings_draft(settings: Settings, at: int) -> Entry:
    """Write a settings entry."""
    return draft("settings", at=at, salt=identity.new_salt(), fields=settings.fields(), body=settings.body)
