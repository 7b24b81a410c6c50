"""
Verify a conversation: compute its chain and every commitment again from the stored bytes.

Rows are read past every type conversion and judged as they lie, because a hostile hand may have put anything
into any column. What is wrong is a ``Fault``, never an exception.

What one chain cannot show: a cut tail with length and head put back, a deleted conversation, a chain computed
anew as a whole, a restored backup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection

from conversation_store.errors import CodecError, ContentError
from conversation_store.record import canonical, chain
from conversation_store.record.erasure import Gone
from conversation_store.record.turns import fields_of
from conversation_store.storage import log
from conversation_store.storage.engine import Database

PAGE: Final = 1000
"""Entries read at a time."""

_DIGEST: Final = 32
KINDS: Final = frozenset({"opened", "turn", "settings", "labelled", "view", "request", "outcome", "erased", "note"})


@frozen
class Fault:
    """
    Something that is not as it was written.

    Attributes:
        code: What kind of fault, stable: ``column``, ``position``, ``kind``, ``header``, ``digest``, ``body``,
            ``about``, ``blob``, ``salt``, ``length``, ``head``, ``row``, ``missing``, ``outside``.
        conversation: In which conversation.
        position: At which entry; -1 for the conversation's row.
        expected: What the record commits to.
        found: What is there.
    """

    code: str
    conversation: UUID
    position: int
    expected: str
    found: str


def verify_conversation(database: Database, conversation: UUID) -> list[Fault]:
    """
    Verify one conversation.

    Returns:
        Every fault, in the order of the log; empty where there is none.

    Raises:
        DatabaseError: The database cannot be read.
    """
    with database.read() as connection:
        return list(_faults(connection, conversation))


def _faults(connection: Connection, conversation: UUID) -> Iterator[Fault]:
    row = log.raw_row(connection, conversation)
    if row is None:
        yield Fault("missing", conversation, -1, "a conversation", "none")
        return
    digest, position = chain.genesis(conversation), 0
    trusted = True
    gone = Gone.read(_fields(header) for header in log.raw_headers(connection, conversation, "erased"))
    told: dict[str, object] = {"view_position": 0, "settings_position": 0, "title": None, "metadata": None}
    for found in log.raw_entries(connection, conversation, PAGE):
        faults = [Fault(code, conversation, position, *said) for code, *said in columns(found)]
        if not faults and found.position != position:
            faults.append(Fault("position", conversation, position, str(position), str(found.position)))
        yield from faults
        if faults:
            trusted = False
            position += 1
            continue
        entry = chain.entry_digest(conversation, position, found.at, found.kind, found.header)
        expected = chain.link(digest, entry)
        if trusted and expected != found.digest:
            yield Fault("digest", conversation, position, expected.hex(), found.digest.hex())
        # Go on from what is stored, so that one change is one fault and not one for every entry after it.
        digest, trusted = found.digest, True
        yield from (each for each in _commitments(connection, conversation, found) if not explained(each, found, gone))
        told |= _told(found, position)
        position += 1
    if row.length != position:
        yield Fault("length", conversation, -1, str(position), repr(row.length)[:80])
    if row.head != digest:
        yield Fault("head", conversation, -1, digest.hex(), _shown(row.head))
    for name, value in told.items():
        if getattr(row, name) != value:
            yield Fault("row", conversation, -1, f"{name} {_shown(value)}", _shown(getattr(row, name)))


def _fields(header: object) -> Mapping[str, Any]:
    try:
        return fields_of(header) if isinstance(header, bytes) else {}
    except CodecError:
        return {}


def explained(fault: Fault, row: Any, gone: Gone) -> bool:
    """Say whether something is missing because it was erased: named by an ``erased`` entry, and gone as a whole."""
    if fault.code == "missing" and fault.expected == "a request_salt":
        return gone.holds("request", fault.position)
    whole = row.body is None and row.about is None and row.salt is None
    return fault.code in {"missing", "blob"} and whole and gone.holds("content", fault.position)


def _told(entry: Any, position: int) -> dict[str, object]:
    """Say what the conversation's row must tell after an entry; what is derived otherwise is in other tables."""
    if entry.kind in {"view", "settings"}:
        return {f"{entry.kind}_position": position}
    if entry.kind != "labelled" or type(entry.body) is not bytes:
        return {}
    try:
        said = canonical.object_of(entry.body)
        title, metadata = said.get("title"), said.get("metadata")
        return {
            "title": title.encode() if isinstance(title, str) else None,
            "metadata": None if metadata is None else canonical.dumps(metadata),
        }
    except (CodecError, ContentError):
        return {}


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)[:80]


def columns(row: Any) -> Iterator[tuple[str, str, str]]:
    """Say which columns of an entry hold what no writer of ours ever put there."""
    for name, kind in (("position", int), ("at", int), ("kind", str), ("header", bytes), ("digest", bytes)):
        value = getattr(row, name)
        if type(value) is not kind:
            yield "column", f"{name} of type {kind.__name__}", f"{type(value).__name__} {_shown(value)[:80]}"
    for name in ("body", "about", "salt", "request_salt"):
        value = getattr(row, name)
        if value is not None and type(value) is not bytes:
            yield "column", f"{name} of type bytes", f"{type(value).__name__} {_shown(value)[:80]}"
    if type(row.at) is int and not 0 <= row.at < 1 << 63:
        yield "column", "at as a time", str(row.at)
    if type(row.kind) is str and row.kind not in KINDS:
        yield "kind", "a kind of entry", repr(row.kind)[:80]
    for name in ("digest", "salt", "request_salt"):
        value = getattr(row, name)
        if type(value) is bytes and len(value) != _DIGEST:
            yield "column", f"{name} of 32 bytes", f"{len(value)} bytes"


def _commitments(connection: Connection, conversation: UUID, row: Any) -> Iterator[Fault]:
    try:
        fields = fields_of(row.header)
    except CodecError as error:
        yield Fault("header", conversation, row.position, "a header", str(error))
        return
    yield from part_faults(conversation, row, fields)
    yield from _blobs(connection, conversation, row, fields)


def part_faults(conversation: UUID, row: Any, fields: Mapping[str, Any]) -> Iterator[Fault]:
    """Say which of an entry's own parts are not what its header, read as *fields*, commits to."""
    for name in ("body", "about"):
        data, committed = getattr(row, name), fields.get(name)
        if committed is None:
            if data is not None:
                yield Fault("outside", conversation, row.position, f"no {name}", f"{len(data)} bytes")
        elif data is None or row.salt is None:
            missing = name if data is None else "salt"
            yield Fault("missing", conversation, row.position, str(committed), f"no {missing}")
        else:
            found = chain.part_of(row.salt, data).hex()
            if found != committed:
                yield Fault(name, conversation, row.position, str(committed), found)
    if "request" in fields and row.kind == "request" and row.request_salt is None:
        yield Fault("missing", conversation, row.position, "a request_salt", "none")


def _blobs(connection: Connection, conversation: UUID, row: Any, fields: Mapping[str, Any]) -> Iterator[Fault]:
    committed = named(fields)
    if not committed:
        return
    used = log.raw_uses(connection, conversation, row.position)
    if len(used) != len(committed):
        yield Fault("blob", conversation, row.position, f"{len(committed)} blobs", f"{len(used)} blobs")
        return
    for expected, (scope, digest, salt, media_type) in zip(committed, used, strict=True):
        if type(digest) is not bytes or type(salt) is not bytes or type(media_type) is not str:
            yield Fault("blob", conversation, row.position, str(expected), "no blob")
            continue
        found = chain.part(salt, media_type, digest).hex()
        if found != expected:
            yield Fault("blob", conversation, row.position, str(expected), found)
        stored = _digest_of(log.raw_chunks(connection, scope, digest))
        if stored != digest:
            yield Fault("blob", conversation, row.position, digest.hex(), _shown(stored))


def named(fields: Mapping[str, Any]) -> list[Any]:
    """List the commitments to blobs in a header, in the order of their uses."""
    named = fields.get("splices", [])
    cuts = [each[1] for each in named if isinstance(each, list) and len(each) > 1] if isinstance(named, list) else []
    return [fields["raw"], *cuts] if "raw" in fields else cuts


def _digest_of(chunks: Iterable[object]) -> bytes | None:
    state = sha256()
    for chunk in chunks:
        if type(chunk) is not bytes:
            return None
        state.update(chunk)
    return state.digest()
