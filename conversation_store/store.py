"""
Stores: a database and a client, and the conversations kept there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from attrs import frozen
from sqlalchemy import URL, Engine

from conversation_store import exchanges
from conversation_store.api import models as model_data
from conversation_store.api.client import Client
from conversation_store.api.models import Models
from conversation_store.api.request import Settings
from conversation_store.audit.verify import Fault, verify_conversation
from conversation_store.conversation import Conversation
from conversation_store.errors import ContentError, NotFoundError
from conversation_store.history import Options, settings_draft
from conversation_store.record import canonical, chain
from conversation_store.record.chain import draft
from conversation_store.storage import identity, log, migrate
from conversation_store.storage.engine import Database
from conversation_store.storage.log import Head, Kept
from conversation_store.storage.tables import KEY_BYTES, SCOPE_BYTES


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
            models: What is known of models; the built-in list without it.

        Raises:
            SchemaMismatchError: The tables are not those of this release; it names the command to run.
            DatabaseError: The database cannot be opened, or is none.
            ConfigurationError: The URL or a driver is wrong.
        """
        _check_text("scope", scope, SCOPE_BYTES, empty=True)
        self.scope = scope
        self._database = Database.open(database, durability=durability)
        self._options = Options(client=client, models=models or model_data.load(), keep_raw=keep_raw)
        try:
            if upgrade:
                migrate.upgrade(self._database)
            else:
                migrate.check(self._database)
        except BaseException:
            self._database.close()
            raise

    def __repr__(self) -> str:
        scope = f", scope={self.scope!r}" if self.scope else ""
        return f"<Store {self._database.url}{scope}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; a host's engine and the client stay open."""
        self._database.close()

    def open(self, key: str | None = None, **settings: Any) -> Conversation:
        """
        Get the conversation of a key, or make it.

        On an existing one the given settings are laid over its own: one ``settings`` entry where they differ,
        nothing where they are equal.

        Args:
            key: The host's own name for it (``telegram:42``), up to 512 bytes of UTF-8, taken exactly; None
                makes a new conversation without one.
            settings: ``model``, ``max_tokens``, ``system``, ``tools`` … any parameter of the API, and
                ``version`` (the API's) and ``betas``.

        Raises:
            ContentError: A key that is too long, or a setting that is no JSON.
            ConflictError, BusyError: Settings differ, and another worker is at it.
        """
        if key is not None:
            _check_text("key", key, KEY_BYTES)
            kept = self._find(key)
            if kept is None:
                return self._create(key, settings)
            conversation = self._conversation(kept)
            if settings:
                conversation.update(**settings)
            return conversation
        return self._create(None, settings)

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

    def list(self, limit: int = 50, after: Listed | None = None) -> Sequence[Listed]:
        """
        List conversations, the last changed first.

        Args:
            limit: How many at most.
            after: The last one of the page before.
        """
        place = None if after is None else (after.updated, after.id)
        with self._database.read() as connection:
            rows = log.newest(connection, self.scope, limit, place)
        return [_listed(row) for row in rows]

    def verify(self) -> Sequence[Fault]:
        """Verify every conversation of this scope; see ``Conversation.verify``."""
        with self._database.read() as connection:
            known = log.every_id(connection, self.scope)
        return [fault for each in known for fault in verify_conversation(self._database, each)]

    def _find(self, which: str | UUID) -> Kept | None:
        if not isinstance(which, (str, UUID)):
            raise ContentError("which", f"give a key (str) or an id (UUID), not a {type(which).__name__}")
        if isinstance(which, str) and any("\ud800" <= each <= "\udfff" for each in which):
            return None  # no text, so nobody's key
        with self._database.read() as connection:
            return log.find(connection, self.scope, which)

    def _conversation(self, kept: Kept) -> Conversation:
        return Conversation(self._database, kept, self._options)

    def _create(self, key: str | None, given: Mapping[str, Any]) -> Conversation:
        new, at = identity.new_id(), identity.now()
        settings, secrets = Settings().updated(given)
        head = Head(length=0, digest=chain.genesis(new))
        opened = draft("opened", at=at, salt=identity.new_salt(), fields={"format": 1}, about={"key": key})
        commit = exchanges.prepare(new, head, [opened, settings_draft(settings, at)], scope=self.scope, settings=1)
        made = self._database.write(
            partial(log.create, commit=commit, key=key), partial(log.is_there_or_none, commit=commit)
        )
        kept = self._find(new if made else key or new)
        if kept is None:
            raise NotFoundError(str(new))
        conversation = self._conversation(kept)
        if made:
            conversation.know_secrets(secrets)
        elif given:
            conversation.update(**given)
        return conversation


def _check_text(name: str, text: object, longest: int, *, empty: bool = False) -> None:
    if not isinstance(text, str):
        raise ContentError(name, "give a string")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ContentError(name, "a lone surrogate is no text") from None
    if size > longest or (not size and not empty):
        raise ContentError(name, f"has {size} bytes of UTF-8; {0 if empty else 1} to {longest} are possible")


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
