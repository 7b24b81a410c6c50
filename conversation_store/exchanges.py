"""
The corridor: begin, finish, fail, take over. Each is one transaction, on a connection that is handed in.

What is to be written is prepared first, from values alone, and then written by a function that decides
nothing: so a commit of unknown outcome can be written again, and no connection is open while the API thinks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection

from conversation_store.record import chain
from conversation_store.record.chain import Entry
from conversation_store.record.exchange import Exchange
from conversation_store.storage import journal, ledger, log
from conversation_store.storage.blobs import Blob
from conversation_store.storage.log import Commit, Head, Use
from conversation_store.storage.tables import NO_TOKEN


def prepare(
    conversation: UUID,
    head: Head,
    drafts: Sequence[Entry],
    *,
    scope: str = "",
    uses: Mapping[int, Sequence[Blob]] | None = None,
    view: int | None = None,
    settings: int | None = None,
    pending: tuple[bytes, int] | None = None,
    lease: int | None = None,
    owner: str = "",
) -> Commit:
    """
    Decide an append completely: positions, digests, and where the log stands afterwards.

    Args:
        conversation: Whose log.
        head: Where it stands.
        drafts: The entries to append, in order.
        scope: The tenant of the blobs used.
        uses: By index into *drafts*, the blobs an entry uses.
        view: Index of the draft that tells the view from now on; None leaves it.
        settings: Index of the draft that tells the settings from now on; None leaves them.
        pending: The token and the index of the request of the exchange now pending; token zeros for none any more.
        lease: Microseconds of lease from now on; None leaves it, 0 ends it.
        owner: Who holds the lease.
    """
    entries = chain.chain(conversation, head.length, head.digest, drafts)
    token, pending_position = head.token, head.pending_position
    if pending is not None:
        token, request = pending
        pending_position = -1 if token == NO_TOKEN else entries[request].position
    after = Head(
        length=head.length + len(entries),
        digest=entries[-1].digest,
        view_position=head.view_position if view is None else entries[view].position,
        settings_position=head.settings_position if settings is None else entries[settings].position,
        token=token,
        pending_position=pending_position,
    )
    return Commit(
        conversation=conversation,
        before=head,
        after=after,
        entries=entries,
        uses=[
            Use(entry=entry, number=number, digest=blob.digest, salt=blob.salt)
            for entry, used in uses.items()
            for number, blob in enumerate(used)
        ]
        if uses
        else (),
        scope=scope,
        lease=lease,
        owner=owner,
    )


def append(connection: Connection, commit: Commit) -> bool:
    """Write an append that concerns no exchange. Errors as ``log.append``."""
    return log.append(connection, commit)


def begin(connection: Connection, commit: Commit, exchange: Exchange, superseded: Exchange | None = None) -> None:
    """
    Write the beginning of an exchange: its turns, its request, its token and lease, its row.

    *superseded* is the exchange of unknown outcome that this one takes the place of.
    """
    if log.append(connection, commit):
        ledger.begin(connection, exchange)
        if superseded is not None:
            ledger.finish(connection, superseded, None)


def finish(connection: Connection, commit: Commit, exchange: Exchange, outcome: int) -> None:
    """Write the end of an exchange: outcome, turn, view; the token is cleared, the row brought up, the journal gone."""
    if log.append(connection, commit):
        ledger.finish(connection, exchange, outcome)
        if exchange.streamed:
            journal.clear(connection, exchange.conversation, exchange.position)


def label(connection: Connection, commit: Commit, title: str | None, metadata: bytes | None) -> None:
    """Write a ``labelled`` entry and bring the conversation's row up to it."""
    if log.append(connection, commit):
        log.label(connection, commit.conversation, title, metadata)
