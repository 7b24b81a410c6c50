"""
Stores: a database and a client, and the conversations kept there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias
from uuid import UUID

from attrs import evolve, frozen
from sqlalchemy import URL, Engine

from conversation_store import exchanges
from conversation_store.api import models as model_data
from conversation_store.api.client import Client
from conversation_store.api.models import Models
from conversation_store.api.request import Settings
from conversation_store.conversation import Conversation
from conversation_store.errors import (
    ConfigurationError,
    ContentError,
    DatabaseError,
    LineError,
    NotFoundError,
    TransferError,
)
from conversation_store.history import OnUnlisted, Options, settings_draft
from conversation_store.record import canonical, chain
from conversation_store.record.chain import draft
from conversation_store.record.cost import Totals
from conversation_store.sending import check_text
from conversation_store.storage import identity, ledger, log, migrate
from conversation_store.storage.cipher import CIPHER, Cipher
from conversation_store.storage.engine import Database
from conversation_store.storage.log import Head, Kept
from conversation_store.storage.tables import KEY_BYTES, SCOPE_BYTES

if TYPE_CHECKING:
    from conversation_store.audit.checkpoints import Checkpoint
    from conversation_store.audit.erase import Erasure
    from conversation_store.audit.faults import Fault
    from conversation_store.audit.keys import VerifyKeys
    from conversation_store.audit.retention import Retained, Retention
    from conversation_store.audit.sealing import Seal, Seals
    from conversation_store.audit.verification import Findings
    from conversation_store.imports import Imported, Source
    from conversation_store.storage.keyring import KeyRing
    from conversation_store.storage.rotation import Rotated
    from conversation_store.storage.search import Found, Order, Place
    from conversation_store.transfer import Export, Taken

logger: Final = logging.getLogger("conversation_store")

Syntax: TypeAlias = Literal["phrase", "query"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR: Final = re.compile(r"(?P<order>[nb])(?P<number>[0-9]{1,20})(?:\.(?P<offset>[0-9]{1,20}))?")
_SOUGHT: Final = 1000
"""Rows looked through at a time for titles and metadata."""


@frozen(kw_only=True)
class Listed:
    """
    A conversation in a list: what its row tells, nothing of its turns.

    Attributes:
        id: Its own id; ``key`` the host's name for it, None for none.
        title: What people call it.
        metadata: What the host noted beside it.
        version: How many entries its log has.
        pending: Whether an exchange is pending.
        created: Microseconds since the epoch, UTC; ``updated`` likewise.
    """

    id: UUID
    key: str | None
    title: str | None
    metadata: Mapping[str, Any]
    version: int
    pending: bool
    created: int
    updated: int


@frozen(kw_only=True)
class Hit:
    """
    A turn or a title that was found.

    Attributes:
        conversation: Its id; ``key`` the host's name for it, None for none.
        position: The entry in its log.
        role: Whose turn; None for a title.
        origin: Who made it; None for a title.
        at: When it was recorded, microseconds since the epoch, UTC.
        snippet: A piece of the text around what was found; ``…`` for what is left out.
        marks: What was found, as (start, length) in the snippet.
        rank: How good it is, higher is better; None where the newest come first.
        cursor: Where the next page begins after it.
    """

    conversation: UUID
    key: str | None
    position: int
    role: str | None
    origin: str | None
    at: int
    snippet: str
    marks: tuple[tuple[int, int], ...]
    rank: float | None
    cursor: str


class Hits(list[Hit]):
    """
    A page of hits.

    Attributes:
        behind: How many entries of the scope's logs the index did not know yet.
    """

    def __init__(self, hits: Iterable[Hit] = (), *, behind: int = 0) -> None:
        super().__init__(hits)
        self.behind = behind


class Store:
    """
    Conversations in a database. May be shared by threads; a ``Conversation`` may not.

    Example:
        >>> with Store("sqlite://") as store:
        ...     chat = store.open("telegram:42", model="claude-sonnet-5-5", max_tokens=1024)
        ...     turn = chat.user("Hello, Claude")
        ...     turn.text
        'Hello, Claude'
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        client: Client | None = None,
        scope: str = "",
        upgrade: bool = False,
        durability: str = "full",
        keep_raw: bool = False,
        models: Models | None = None,
        on_unlisted: OnUnlisted = "warn",
        seal: Seals | None = None,
        keys: KeyRing | None = None,
    ) -> None:
        """
        Open a store.

        Args:
            database: An SQLAlchemy URL, or an ``Engine`` of the host's (which is never reconfigured). An empty
                SQLite file gets its tables; any other database is only checked.
            client: Sends requests; without one, conversations can be kept and requests built.
            scope: The tenant. What is in another scope cannot be seen or reached.
            upgrade: Bring the database's tables to this release first.
            durability: SQLite only: ``full`` (a committed turn survives a power cut) or ``normal``.
            keep_raw: Keep the raw bytes of every response, beside their digest.
            models: What is known of models and their prices; the built-in list without it, to which
                ``load().with_model({…})`` of ``conversation_store.api.models`` adds or corrects an entry.
            on_unlisted: What to do where nothing is known of a model: ``warn`` says so and goes on; ``error``
                refuses it before anything is written.
            seal: How this store seals the database's conversations, of all scopes; without it, it does not.
            keys: Where the wrapping keys are of conversations whose content is encrypted: what this store writes is,
                from now on; ``encrypt`` brings over what is there. Without it, content is kept in plain, and that of
                encrypted conversations cannot be read. See ``storage/cipher.py`` for what is encrypted and how.

        Raises:
            SchemaMismatchError: The tables are not those of this release; it names the command to run.
            DatabaseError: The database cannot be opened, or is none.
            ConfigurationError: The URL or a driver is wrong.
        """
        from conversation_store.audit.sealing import Sealer

        check_text("scope", scope, SCOPE_BYTES, empty=True)
        self.scope = scope
        known = model_data.load() if models is None else models
        self._options = Options(client=client, models=known, keep_raw=keep_raw, on_unlisted=_unlisted(on_unlisted))
        self._database = Database.open(database, durability=durability)
        if keys is not None:
            self._database.carry(**{CIPHER: Cipher(keys)})
        try:
            if upgrade:
                migrate.upgrade(self._database)
            else:
                migrate.check(self._database)
        except BaseException:
            self._database.close()
            raise
        self._sealer = None if seal is None else Sealer(self._database, seal)
        if self._sealer is not None:
            self._database.on_append = self._sealer.after_append

    def __repr__(self) -> str:
        scope = f", scope={self.scope!r}" if self.scope else ""
        return f"<Store {self._database.url}{scope}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The database's URL without its password."""
        return self._database.url

    def close(self) -> None:
        """
        Seal what is not sealed yet, where this store seals, and let go of the database.

        A host's engine and the client stay open.

        Raises:
            SealError, RollbackError: As ``seal``; the database is let go of all the same.
        """
        try:
            if self._sealer is not None:
                self._sealer.close()
        finally:
            self._database.close()

    def open(self, key: str | None = None, *, on_unlisted: Any = None, **settings: Any) -> Conversation:
        """
        Get the conversation of a key, or make it.

        On an existing one the given settings are laid over its own: one ``settings`` entry where they differ,
        nothing where they are equal.

        Args:
            key: The host's own name for it (``telegram:42``), up to 512 bytes of UTF-8, taken exactly; None
                makes a new conversation without one.
            on_unlisted: As for the store, for this conversation as long as it is open; None for what the store says.
            settings: ``model``, ``max_tokens``, ``system``, ``tools`` … any parameter of the API, and
                ``version`` (the API's) and ``betas``.

        Raises:
            ContentError: A key that is too long, or a setting that is no JSON.
            UnlistedModelError: Nothing is known of the model, and only known ones are taken.
            ConflictError, BusyError: Settings differ, and another worker is at it.
        """
        options = self._options
        if on_unlisted is not None:
            options = evolve(options, on_unlisted=_unlisted(on_unlisted))
        if key is not None:
            check_text("key", key, KEY_BYTES)
            kept = self._find(key)
            if kept is None:
                return self._create(key, settings, options)
            conversation = self._conversation(kept, options)
            if settings:
                conversation.update(**settings)
            return conversation
        return self._create(None, settings, options)

    def get(self, which: str | UUID) -> Conversation:
        """
        Get a conversation by key or by id.

        Raises:
            NotFoundError: There is none in this scope.
        """
        kept = self._find(which)
        if kept is None:
            raise NotFoundError(repr(which) if isinstance(which, str) else str(which))
        return self._conversation(kept)

    def list(
        self,
        limit: int = 50,
        after: Listed | None = None,
        *,
        key_prefix: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        since: date | int | None = None,
        pending: bool | None = None,
    ) -> Sequence[Listed]:
        """
        List conversations, the last changed first.

        Args:
            limit: How many at most.
            after: The last one of the page before.
            key_prefix: Only those whose key begins with it.
            title: Only those whose title contains it, without regard to case.
            metadata: Only those whose metadata have each of these members with just this value.
            since: Only those changed then or later: a day, a datetime with its time zone, or microseconds.
            pending: Only those with (True) or without (False) an open exchange.
        """
        if not isinstance(limit, int) or limit < 0:
            raise ContentError("limit", "give a number from 0 on")
        if key_prefix is not None:
            check_text("key_prefix", key_prefix, KEY_BYTES, empty=True)
        place = None if after is None else (after.updated, after.id)
        first = _moment("since", since)
        part = None if title is None else title.casefold()
        labelled = bool(part or metadata)
        found: list[Listed] = []
        with self._database.read() as connection:
            while len(found) < limit:
                size = _SOUGHT if labelled else limit - len(found)
                rows = log.newest(
                    connection,
                    self.scope,
                    size,
                    place,
                    key_prefix=key_prefix,
                    since=first,
                    pending=pending,
                    labelled=labelled,
                )
                found += [each for each in map(_listed, rows) if _is_labelled(each, part, metadata or {})]
                if len(rows) < size:
                    break
                place = (rows[-1].updated, rows[-1].id)
        return found[:limit]

    def search(
        self,
        text: str,
        *,
        role: str | None = None,
        origin: str | None = None,
        model: str | None = None,
        since: date | int | None = None,
        until: date | int | None = None,
        key_prefix: str | None = None,
        order: Order = "newest",
        syntax: Syntax = "phrase",
        limit: int = 50,
        after: Hit | str | None = None,
        catch_up: float = 0.5,
    ) -> Hits:
        """
        Find turns and titles of this scope by their words; the index is caught up first.

        Any text is a literal phrase: its words, one after the other, whatever their case and the signs between them.
        Languages without spaces are searched by their characters. A turn that was set aside, or that a fork left
        behind, is in the record and found.

        Args:
            text: What is looked for. A text without words finds nothing.
            role: ``user``, ``assistant`` or ``system``.
            origin: Who made it: ``human``, ``model``, ``synthetic`` …
            model: That was asked or that answered: only turns it wrote.
            since: Only what was recorded then or later: a day, a datetime with its time zone, or microseconds since
                the epoch, UTC.
            until: Only what was recorded before that.
            key_prefix: Only in conversations whose key begins with it.
            order: ``newest`` first; or ``best`` first, of the newest 20,000 found.
            syntax: ``phrase``; or ``query``: words that must all be there, ``"a phrase"``, ``-without``,
                ``this OR that``, ``begin*``.
            limit: How many at most.
            after: The last hit of the page before, or its ``cursor``. Newest first, pages have neither gaps nor
                doubles, whatever is added meanwhile.
            catch_up: Seconds for which the index is caught up at most; what is left is told by ``Hits.behind``.

        Raises:
            ContentError: A filter, an order, a syntax or a cursor is none.
            DatabaseError: The database cannot be read. That the index cannot be written is no error.
        """
        from conversation_store.record import words
        from conversation_store.storage import search
        from conversation_store.storage.search import Search, Wanted

        if not isinstance(text, str):
            raise ContentError("text", f"give a string, not a {type(text).__name__}")
        if order not in {"newest", "best"}:
            raise ContentError("order", "is one of newest, best")
        if syntax not in {"phrase", "query"}:
            raise ContentError("syntax", "is one of phrase, query")
        if not isinstance(limit, int) or limit < 0:
            raise ContentError("limit", "give a number from 0 on")
        if key_prefix is not None:
            check_text("key_prefix", key_prefix, KEY_BYTES, empty=True)
        wanted = Wanted(
            role=role,
            origin=origin,
            model=model,
            since=_moment("since", since),
            until=_moment("until", until),
            key_prefix=key_prefix,
        )
        place = _place(order, after)
        asked = Search(self.scope, words.literal(text) if syntax == "phrase" else words.parsed(text), wanted)
        try:
            search.catch_up(self._database, self.scope, seconds=catch_up)
        except DatabaseError as error:
            logger.warning("the search index is not caught up: %s", error)
        try:
            with self._database.read() as connection:
                run = asked.newest if order == "newest" else asked.best
                found = run(connection, limit, place)
                left = search.behind(connection, self.scope)
        except DatabaseError as error:
            if error.reason != "refused":
                raise
            raise DatabaseError(
                "refused", f"{error.message}; make the index anew: conversation-store db reindex"
            ) from None
        return Hits([_hit(each, order) for each in found], behind=left)

    def reindex(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> int:
        """
        Make the search index of this scope anew from the log; searching goes on meanwhile.

        Args:
            progress: Is told how many entries of how many are known.

        Returns:
            How many entries were read.
        """
        from conversation_store.storage import search

        return search.rebuild(self._database, self.scope, progress=progress)

    def usage(
        self,
        group_by: str | Sequence[str] = (),
        *,
        since: date | int | None = None,
        until: date | int | None = None,
        of: str | UUID | None = None,
    ) -> Sequence[Totals]:
        """
        Sum what the exchanges of this scope used and cost; the database adds up.

        Args:
            group_by: ``day``, ``month``, ``model``, ``key``, ``conversation``, ``state``, or several of them: a row
                for each combination that occurs, in their order. None of them: one row for all. A day and a month
                are UTC, of when an exchange was begun; a model is the one that answered, else the one asked; a
                state is the one recorded (what is ``unknown`` when looked at was recorded as ``pending``).
            since: Only exchanges begun then or later: a day, a datetime with its time zone, or microseconds since
                the epoch, UTC.
            until: Only exchanges begun before that.
            of: Only those of one conversation, by its key or id.

        Raises:
            ContentError: There is no such group, or a time is none.
            NotFoundError: There is no such conversation in this scope.
        """
        names = (group_by,) if isinstance(group_by, str) else tuple(group_by)
        unknown = [name for name in names if name not in ledger.GROUPS]
        if unknown or len(set(names)) < len(names):
            what = f"there is no {unknown[0]!r}" if unknown else "one of them is named twice"
            raise ContentError("group_by", f"{what}; give some of {', '.join(ledger.GROUPS)}")
        first, last = _moment("since", since), _moment("until", until)
        one = None if of is None else self.get(of).id
        with self._database.read() as connection:
            return ledger.totals(connection, self.scope, by=names, of=one, since=first, until=last)

    def verify(
        self,
        *,
        structure: bool = False,
        since: Checkpoint | None = None,
        key: VerifyKeys = None,
        pin: str | bytes | None = None,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> Findings:
        """
        Verify every conversation of this scope, read once in the order of the logs, and all seals of the database.

        The chains and every commitment are computed again from the stored bytes, the body of every request is made
        again and proved, forks are held against their parents, and what the logs tell against the tables that are
        derived from them. What is no part of the record is not covered: leases, streams that are arriving, the
        search index, blobs nothing uses, what rows of exchanges tell of erased content, and to which scope a
        conversation without a key belongs; the README lists all of it.

        Args:
            structure: Only what the chains go by: order, kinds, times and headers, and no content.
            since: Only what came after this, and that what was there then is still what the logs go on from. It is
                the ``checkpoint`` of an earlier verification, kept where nobody who can write the database can.
            key: The verifier key of the seals, or several: every checkpoint of theirs must be signed, and one must
                be there. With *since* seals are looked at only where a key or a pin is given.
            pin: A checkpoint of the seals that was kept elsewhere: their log must go on from it.
            progress: Is told how many entries of about how many were looked at.

        Returns:
            What is wrong, as data, by conversation; empty where nothing is. Its ``checkpoint`` is where the
            conversations stand. Never raises on what a hostile hand wrote. In a fault of the log of seals the
            conversation is ``UUID(int=0)``, and the position that of a leaf; its codes are told by
            ``audit.seals.verify_seals``.

        Raises:
            DatabaseError: The database cannot be read.
            ContentError: The checkpoint is another scope's.
            ConfigurationError: A key is none, or the extra ``seal`` is not installed.
        """
        from conversation_store.audit.verification import verify

        found = verify(self._database, self.scope, structure=structure, since=since, progress=progress)
        if since is None or key or pin:
            found += self.verify_seals(key=key, pin=pin)
        return found

    def verify_seals(self, *, key: VerifyKeys = None, pin: str | bytes | None = None) -> Sequence[Fault]:
        """
        Verify the seals of the database alone, of all scopes: that each is what its conversation was then.

        Arguments, result and errors as ``verify``. A store that seals looks into its signer's memory too.
        """
        from conversation_store.audit.keys import verify_keys
        from conversation_store.audit.seals import verify_seals

        remembered = None if self._sealer is None else self._sealer.remembered
        return verify_seals(self._database, keys=verify_keys(key), pin=pin, remembered=remembered)

    def seal(self, *, new_epoch: bool = False, trusted: str | None = None) -> Seal:
        """
        Seal every conversation of the database that has grown, of all scopes; sign, publish and remember it.

        Where there is nothing new and the last checkpoint is older than ``older_than``, that is sealed: silence is
        evidence too.

        Args:
            new_epoch: After a backup was restored on purpose: begin a new log, with another origin, whose first
                leaf is the last trusted checkpoint of the old one.
            trusted: That checkpoint, where the signer's memory does not have it.

        Raises:
            ConfigurationError: This store was opened without ``seal``; or the memory or the key cannot be used.
            RollbackError: The database is not what was signed last; nothing was signed.
            SealError: The log of seals is damaged.
        """
        if self._sealer is None:
            raise ConfigurationError("this store does not seal: Store(…, seal=Seals(key=…, memory=…))")
        return self._sealer.begin_epoch(trusted) if new_epoch else self._sealer.seal()

    def prove(self, which: str | UUID) -> str:
        """
        Prove what a conversation was at its newest seal, to whoever has the verifier key and nothing else.

        Returns:
            A C2SP tlog-proof, as text; ``proven`` of ``conversation_store.audit.seals`` checks it.

        Raises:
            NotFoundError: There is no such conversation in this scope.
            SealError: It was not sealed yet.
        """
        from conversation_store.audit.seals import prove

        return prove(self._database, self.get(which).id)

    def erase(
        self, *which: str | UUID, reason: str, by: str, everything: bool = False, preview: bool = False
    ) -> Erasure:
        """
        Erase all that conversations hold: turns, settings, keys, titles, metadata, attachments, what was answered.

        What is left proves that there was something: times, lengths, token counts, who erased it and why. It is found
        by id alone; the key is free again. Forks keep their own turns and lose those they shared; erase them too.
        Each conversation is one transaction: after a fault, what was erased before it stays erased.

        Where content is encrypted, the conversation's keys are destroyed in the ring as well: nothing of it in a copy
        of the database made before can be read with the keys that are left. Copies of the ring itself, and processes
        that have the keys in memory, are beyond that. A ring that fails leaves the content erased and the key there:
        erase again.

        Args:
            which: Their keys or ids.
            reason: Why; the record keeps it.
            by: Who asked for it; likewise.
            everything: All conversations of this scope; give no *which* then.
            preview: Say what would go, and write nothing.

        Raises:
            ContentError: No conversation is named, or nobody and no reason.
            NotFoundError: There is no such conversation in this scope.
            HeldError: A legal hold stands on one of them, or on a fork that is reached; nothing was erased.
            BusyError, UnknownOutcomeError, ConfigurationError: As ``Conversation.erase``.
        """
        from conversation_store import transfer
        from conversation_store.audit.erase import Target, erase

        if bool(which) == everything:
            raise ContentError("which", "name conversations, or give everything=True for all of this scope")
        ids = transfer.every_id(self._database, self.scope) if everything else [self.get(each).id for each in which]
        wanted = [Target(conversation=each) for each in ids]
        return erase(self._database, self.scope, wanted, by=by, reason=reason, preview=preview)

    def retention(self, policy: Retention) -> Retained:
        """Look what of this scope is kept longer than a policy allows: ``.preview()`` says it, ``.apply(…)`` erases."""
        from conversation_store.audit.retention import Retained

        return Retained(policy, self._database, self.scope)

    def vacuum(self, *, full: bool = False) -> None:
        """
        Let the database clear away what was deleted; after an erasure, what a reader or the engine kept of it.

        On SQLite the file is written anew and the write-ahead log emptied. On PostgreSQL dead rows are taken out of the
        tables; what stood in their pages is overwritten as they fill, or with *full* at once: the tables are written
        anew, and nobody can use them meanwhile. No database can clear its backups, replicas and archived logs.

        Raises:
            DatabaseError: The database refused: other transactions may be in the way.
        """
        self._database.vacuum(full=full)

    def encrypt(self, *, seen: Callable[[int], None] = lambda _: None) -> Rotated:
        """
        Encrypt what this scope holds in plain, while others write; afterwards clear the plain text from the file.

        What is encrypted is not searched any more. Broken off, call it again. Wait until every process that writes
        here was given the keys: what one without them still writes is kept in plain.

        Args:
            seen: Is told how many rows were encrypted, a page at a time.

        Raises:
            ConfigurationError: The store was opened without keys.
            KeyMissingError, CiphertextError: Something cannot be read; what was encrypted before stays so.
            DatabaseError: As ``vacuum``; everything is encrypted.
        """
        from conversation_store.storage import rotation

        done = rotation.encrypt(self._database, self.scope, seen)
        self._database.vacuum()
        return done

    def rotate_keys(self, *, data: bool = False, seen: Callable[[int], None] = lambda _: None) -> Rotated:
        """
        Give the encrypted conversations of this scope new keys, while others write. No hash changes.

        Without *data*, each data key is wrapped by a new key of the ring, and the old one destroyed: a transaction a
        conversation. With it, each conversation has a new data key as well, and all its content is encrypted again,
        a page at a time; the old data key goes when nothing is under it any more. Broken off, call it again.

        Args:
            data: Whether the data keys are to be new.
            seen: Is told how many rows were encrypted again, a page at a time.

        Raises:
            ConfigurationError: The store was opened without keys.
            KeyMissingError, CiphertextError: Something cannot be read; what was done before stays.
        """
        from conversation_store.storage import rotation

        rewrapped = rotation.rewrap(self._database, self.scope)
        return rotation.renew(self._database, self.scope, seen) if data else rewrapped

    def export(self, *which: str | UUID) -> Export:
        """
        Write conversations as lines of JSON that ``load`` reads, here or in another database: whole, with digests.

        Nothing is built in memory. What a conversation was forked from is written before it. ``.share`` of what it
        returns says how far it is.

        Args:
            which: Their keys or ids; none of them for all of this scope.

        Raises:
            NotFoundError: There is no such conversation in this scope.
        """
        from conversation_store import transfer

        if which:
            chosen = [self.get(each) for each in which]
            entries = sum(each.version for each in chosen)
            return transfer.written(self._database, self.scope, [each.id for each in chosen], entries)
        with self._database.read() as connection:
            entries = log.count_entries(connection, self.scope)
        return transfer.written(self._database, self.scope, transfer.every_id(self._database, self.scope), entries)

    def load(self, lines: Iterable[bytes]) -> Sequence[Taken]:
        """
        Import conversations that ``export`` wrote: the same ids, bytes, digests and heads; proved before written.

        A conversation is written whole or not at all. What is here already is not written again, and a longer log
        of it goes on where the one here ends. Tokens and cost of an exchange whose outcome was erased do not come over.

        Args:
            lines: As ``export`` gave them: an open file, for instance.

        Returns:
            What was imported, and how much of it was new.

        Raises:
            TransferError: Something was not taken: a line that is damaged, another log under the same id, a key that
                another conversation has, a parent that is missing. It names each line, and what was taken all the
                same.
        """
        from conversation_store import transfer

        return transfer.load(self._database, self.scope, lines)

    def import_messages(
        self, given: bytes | Sequence[Any] | Mapping[str, Any], *, key: str | None = None, source: str = ""
    ) -> Taken:
        """
        Import a transcript from elsewhere: an array of messages, or the body of a request with its settings.

        Its turns have the origin ``imported``; what a message told beside role and content (an id, a time) is kept
        in the turn's ``about``. JSON given as bytes is kept as it is. Again it adds nothing, and of a transcript
        that has grown what is new; settings are those of the first time.

        Args:
            given: The messages, or the body; as JSON text or as Python values.
            key: The host's name for the conversation; one made of the text without it.
            source: Where it comes from (a file's name), to be kept with each turn.

        Raises:
            CodecError: It is neither.
            TransferError: Messages that are none, each with its line; or the conversation of the key holds others.
                Nothing was written.
        """
        from conversation_store.formats import messages
        from conversation_store.transfer import Taken

        data = given if isinstance(given, bytes) else canonical.dumps(given)
        faults: list[tuple[int, str]] = []
        found, settings = messages.read(data, faults)
        if faults:
            raise TransferError(faults=[LineError(line, message) for line, message in faults])
        name = f"import:{sha256(data).hexdigest()[:32]}" if key is None else key
        kept = self._find(name)
        conversation = self.open(name, **settings) if kept is None else self._conversation(kept)
        added = conversation.append_imported(found, source)
        return Taken(id=conversation.id, key=name, length=conversation.version, added=added)

    def import_from(
        self,
        source: Source,
        form: str | None = None,
        *,
        key: str | None = None,
        prefix: str | None = None,
        system: bool = False,
        progress: Callable[[int], None] = lambda _read: None,
    ) -> Imported:
        """
        Import another program's transcripts: whatever can be taken is, and what cannot is told with its place.

        Turns have the origin ``imported`` and keep the source's ids and times in their ``about``. Content in the API's
        own shape keeps its bytes; another API's is converted once. Again it adds nothing; of a source that has grown
        it adds what is new. Where a turn that is here differs, that is told and the conversation stays as it is. The
        source is only read, a piece at a time.

        Args:
            source: The path of a file, its bytes, an open file, or the values that its JSON would give.
            form: Whose: ``messages`` (the API's own array, or bodies of requests), ``claude-code`` (a session's lines),
                ``claude-ai`` (``conversations.json`` of an export), ``llm`` (its ``logs.db``), ``openai`` (chat
                completions), ``openai-agents`` (a ``SQLiteSession`` file, or items), ``langchain`` (a ``message_store``
                table, or message dicts), ``pydantic-ai``. None tells it by the tables of a SQLite file, else by the
                first values.
            key: The host's name for the conversation, where the source has one alone.
            prefix: What keys begin with, before the source's own ids; the form and a colon without it. A source
                that does not name its conversation is named after its file.
            system: Take system messages too, as turns of the role ``system``. Without it they are told: whoever wrote
                the source would otherwise speak with the operator's voice. None ever becomes the ``system`` parameter.
            progress: Is told from time to time how many bytes of the source were read (a session of Claude Code
                is read twice); of tables, how many of messages.

        Raises:
            ContentError: There is no such form or file; the form cannot be told (it says which may be meant); a key is
                needed.
            CodecError: It is no file that could be read at all: a SQLite file that is none.
            DatabaseError: The database refused; what was written before stays.
        """
        from conversation_store import imports
        from conversation_store.imports import Terms

        terms = Terms(form=form, key=key, prefix=prefix, system=system, progress=progress)
        return imports.take(self._database, self.scope, self._options, source, terms)

    def _find(self, which: str | UUID) -> Kept | None:
        if not isinstance(which, (str, UUID)):
            raise ContentError("which", f"give a key (str) or an id (UUID), not a {type(which).__name__}")
        if isinstance(which, str) and any("\ud800" <= each <= "\udfff" for each in which):
            return None  # no text, so nobody's key
        with self._database.read() as connection:
            return log.find(connection, self.scope, which)

    def _conversation(self, kept: Kept, options: Options | None = None) -> Conversation:
        return Conversation(self._database, kept, self._options if options is None else options)

    def _create(self, key: str | None, given: Mapping[str, Any], options: Options) -> Conversation:
        options.set_model(given.get("model"))
        new, at = identity.new_id(), identity.now()
        settings, secrets = Settings().updated(given)
        head = Head(length=0, digest=chain.genesis(new))
        opened = draft("opened", at=at, salt=identity.new_salt(), fields={"format": 1}, about={"key": key})
        commit = exchanges.prepare(new, head, [opened, settings_draft(settings, at)], scope=self.scope, settings=1)
        made = self._database.write(
            partial(log.create, commit=commit, key=key), partial(log.is_there_or_none, commit=commit)
        )
        self._database.appended()
        kept = self._find(new if made else key or new)
        if kept is None:
            raise NotFoundError(str(new))
        conversation = self._conversation(kept, options)
        if made:
            conversation.know_secrets(secrets)
        elif given:
            conversation.update(**given)
        return conversation


def _unlisted(given: OnUnlisted) -> OnUnlisted:
    if given not in {"warn", "error"}:
        raise ContentError("on_unlisted", "is one of warn, error")
    return given


def _moment(name: str, given: object) -> int | None:
    """Say in microseconds since the epoch, UTC, when a day begins or a moment is."""
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    if isinstance(given, datetime) and given.tzinfo is not None:
        return (given - _EPOCH) // timedelta(microseconds=1)
    if isinstance(given, date) and not isinstance(given, datetime):
        return (datetime(given.year, given.month, given.day, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
    raise ContentError(name, "give a date, a datetime with its time zone, or microseconds since the epoch")


def _place(order: str, after: Hit | str | None) -> Place | None:
    from conversation_store.storage.search import Place

    if after is None:
        return None
    found = _CURSOR.fullmatch(after.cursor if isinstance(after, Hit) else str(after))
    if found is None or found["order"] != order[0]:
        raise ContentError("after", f"give the last hit of a page in the order {order!r}, or its cursor")
    return Place(min(int(found["number"]), log.LAST - 1), min(int(found["offset"] or 0), log.LAST))


def _hit(found: Found, order: str) -> Hit:
    place = found.place
    return Hit(
        conversation=found.conversation,
        key=found.key,
        position=found.position,
        role=found.role,
        origin=found.origin,
        at=found.at,
        snippet=found.snippet.text,
        marks=found.snippet.marks,
        rank=found.rank,
        cursor=f"{order[0]}{place.number}" + (f".{place.offset}" if order == "best" else ""),
    )


def _is_labelled(listed: Listed, title: str | None, metadata: Mapping[str, Any]) -> bool:
    if title and title not in (listed.title or "").casefold():
        return False
    missing = object()
    return all(_is_same(listed.metadata.get(name, missing), value) for name, value in metadata.items())


def _is_same(one: object, other: object) -> bool:
    """Compare as JSON does, which has no number that is true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _listed(row: Kept) -> Listed:
    metadata = canonical.loads(row.metadata) if row.metadata else {}
    return Listed(
        id=row.id,
        key=row.key,
        title=row.title,
        metadata=metadata if isinstance(metadata, Mapping) else {},
        version=row.head.length,
        pending=row.head.pending_position >= 0,
        created=row.created,
        updated=row.updated,
    )
