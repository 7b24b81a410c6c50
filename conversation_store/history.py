"""
What a view holds, read from the logs: its spans, its turns, its messages, and a past request's body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from conversation_store import attachments
from conversation_store.api import request as requests
from conversation_store.api.request import Insert, Messages, Request, Settings
from conversation_store.errors import CodecError
from conversation_store.record import canonical, chain, view
from conversation_store.record.chain import Entry
from conversation_store.record.turns import PREFILL_MARK, Turn, fields_of, splices_of, turn_of
from conversation_store.record.view import View
from conversation_store.storage import blobs, log
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database


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
        rows = log.read_wires(connection, span.conversation, first, last)
        used: Mapping[int, Sequence[Blob]] | None = None
        for position, header, body in rows:
            if PREFILL_MARK in header:
                continue
            strings: Sequence[Insert] = ()
            if b'"splices"' in header:
                if used is None:
                    used = blobs.used(connection, span.conversation, first, last)
                strings = attachments.inserts_of(database, header, used.get(position, ()))
            messages.add((span.conversation, position), header, body, strings)


def turns(database: Database, connection: Connection, spans: View, length: int) -> list[Turn]:
    """Read the turns of a view, in order; their attachments are read when somebody looks."""
    found = []
    for span in spans:
        for entry in log.read_turns(connection, span.conversation, span.first, span.upto(length)):
            if PREFILL_MARK not in entry.header:
                found.append(turn(database, span.conversation, entry))  # noqa: PERF401 - reads better
    return found


def turn(database: Database, conversation: UUID, entry: Entry) -> Turn:
    """Look at an entry as a turn."""
    return turn_of(conversation, entry, _strings_of(database, conversation, entry))


def _strings_of(database: Database, conversation: UUID, entry: Entry) -> Callable[[], Sequence[bytes]]:
    return partial(_read_strings, database, conversation, entry.position, entry.header)


def _read_strings(database: Database, conversation: UUID, position: int, header: bytes) -> list[bytes]:
    if not splices_of(header):
        return []
    with database.read() as connection:
        used = blobs.used(connection, conversation, position, position).get(position, [])
    return [b"".join(each) for each in attachments.inserts_of(database, header, used)]


def prefill_at(connection: Connection, conversation: UUID, position: int) -> Any:
    """Read what a prefill put in the model's mouth: a string, or text blocks."""
    message = canonical.loads(_entry(connection, conversation, position).body or b"")
    return message.get("content") if isinstance(message, Mapping) else None


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
        if fields["builder"] != requests.BUILDER:
            raise CodecError(f"body builder {fields['builder']} is newer than this release")
        spans, _ = view_at(connection, conversation, fields["view"])
        settings = settings_at(connection, conversation, fields["settings"])
        messages = Messages()
        add_messages(messages, database, connection, spans, fields["last"] + 1)
        extra = []
        if "prefill" in fields:
            prefill = _entry(connection, conversation, fields["prefill"])
            extra.append([prefill.body or b""])
    return messages.request(
        extra,
        requests.merged(settings.body, entry.body or b"{}"),
        version=fields["version"],
        betas=tuple(fields.get("betas", ())),
        secrets=secrets,
    )


def proves(entry: Entry, digest: bytes) -> bool:
    """Say whether a ``request`` entry's commitment is to the body with this SHA-256."""
    if entry.request_salt is None:
        return False
    commitment = chain.part(entry.request_salt, chain.JSON_TYPE, digest).hex()
    return bool(fields_of(entry.header).get("request") == commitment)


def digest_of(data: bytes) -> bytes:
    """Digest a body."""
    return sha256(data).digest()
