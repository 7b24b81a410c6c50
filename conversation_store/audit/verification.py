"""
Verify conversations: compute their chains and every commitment again from the stored bytes.

Besides, whatever the log tells is held against what other tables say of it: the conversations' rows and keys, the
exchanges with their usage and costs, the blobs, the forks and their parents; and the body of every request is made
again. All of a store is read once, in the order of its logs. What is wrong is a ``Fault``, never an exception.

What chains alone cannot show: a cut tail with all that tells of it put back, a deleted conversation, a chain
computed anew as a whole, a restored backup. Against those an auditor keeps a ``Checkpoint``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from attrs import Factory, define, field
from sqlalchemy import Connection

from conversation_store import history
from conversation_store.audit.checkpoints import Checkpoint
from conversation_store.audit.faults import NOBODY, Fault, shown
from conversation_store.audit.replays import Bodies
from conversation_store.audit.walk import ANYTHING, Found, Peeked, Walk
from conversation_store.errors import AttachmentError, ContentError
from conversation_store.record import chain, media
from conversation_store.record.unread import Unread
from conversation_store.storage import blobs, rows
from conversation_store.storage.cipher import PLAIN, cipher_of, key_of
from conversation_store.storage.engine import Database
from conversation_store.storage.tables import NO_TOKEN

_ID: Final = 16
_MEASURED: Final = 64 * 1024 * 1024
"""Bytes up to which a blob's size in pixels and pages is looked at: no document the API takes is larger."""


class Findings(list[Fault]):
    """
    Every fault, by conversation and in the order of its log; empty where there is none.

    Attributes:
        checkpoint: Where the conversations without fault stood; one with a fault stands in it as it stood in the
            checkpoint that was given, or not at all.
        conversations: How many there are; ``entries`` how many entries were looked at.
    """

    def __init__(
        self, faults: Iterable[Fault], checkpoint: Checkpoint, *, conversations: int = 0, entries: int = 0
    ) -> None:
        super().__init__(sorted(faults, key=lambda each: (each.conversation, each.position < 0, each.position)))
        self.checkpoint = checkpoint
        self.conversations = conversations
        self.entries = entries


def verify(
    database: Database,
    scope: str,
    *,
    of: UUID | None = None,
    structure: bool = False,
    since: Checkpoint | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Findings:
    """
    Verify the conversations of a scope, in one state of the database.

    Args:
        database: Where they are kept.
        scope: The tenant.
        of: One conversation alone.
        structure: Only what the chain goes by: order, kinds, times, headers, digests; no content.
        since: Only what came after this, and that what was there then is still what the logs go on from.
        progress: Is told how many entries of about how many were looked at.

    Raises:
        DatabaseError: The database cannot be read.
        ContentError: The checkpoint is another scope's.
    """
    if since is not None and since.scope != scope:
        raise ContentError("since", "is a checkpoint of another scope")
    with database.read() as connection, rows.as_they_lie(connection):
        verifying = _Verifying(connection=connection, scope=scope, structure=structure, since=since, progress=progress)
        return verifying.all() if of is None else verifying.one(of)


@define
class _Blobs:
    """Which blobs are not what they were. Those of a scope are read in their order; without, each when it is used."""

    connection: Connection
    bad: dict[tuple[object, object], str] = Factory(dict)
    used: set[object] = Factory(set)
    _looked: set[tuple[object, object]] = Factory(set)
    _each: bool = True

    def fault(self, scope: bytes, digest: bytes) -> str | None:
        """Say what is there in the place of a blob that is used; None where it is as it was."""
        key = (scope, digest)
        if self._each and key not in self._looked:
            self._looked.add(key)
            self._look(scope, digest)
        found = self.bad.get(key)
        if found is not None:
            self.used.add(digest)
        return found

    def fault_of(self, of: bytes, scope: bytes, digest: bytes) -> str | None:
        """Say the same of a blob as one conversation uses it: in plain, or encrypted for it alone."""
        found = self.fault(scope, digest)
        if found is None and cipher_of(self.connection) is not None:
            found = self.fault(scope, rows.name_of(self.connection, of, digest))
        return found

    def _look(self, scope: Any, digest: Any) -> None:
        row = rows.blob(self.connection, scope, digest)
        if row is not None:
            self._hold(scope, row, rows.chunks_of(self.connection, scope, digest))

    def _hold(self, scope: bytes, row: rows.Row, chunks: Iterable[object]) -> None:
        *told, owner = row
        if type(owner) is bytes and len(owner) == _ID:
            if rows.unreadable(self.connection, owner) is None:
                fault = _blob_fault(told, chunks, partial(rows.name_of, self.connection, owner))
            else:  # the conversation's own fault, where it is encrypted at all
                plain = any(isinstance(each, bytes) and key_of(each) == PLAIN for each in chunks)
                fault = "a blob in plain that belongs to one conversation" if plain else None
        elif owner is not None:
            fault = f"a conversation of {shown(owner)}"
        else:
            fault = _blob_fault(told, chunks)
        if fault is not None:
            self.bad[scope, row[0]] = fault

    def read(self, scope: str, of: bytes | None) -> None:
        """Look at the blobs of a scope, or at those one conversation uses, in their order."""
        self._each = False
        chunks = Peeked(rows.chunks(self.connection, scope, of))
        for row in rows.blobs(self.connection, scope, of):
            self._hold(scope.encode(), row, _numbered(chunks.of(row[0])))


def _numbered(chunks: Iterator[rows.Row]) -> Iterator[object]:
    for n, (_, number, data, *_) in enumerate(chunks):
        yield data if number == n and type(number) is int else None


def _blob_fault(
    row: Sequence[Any], chunks: Iterable[object], name: Callable[[bytes], bytes] = lambda digest: digest
) -> str | None:
    """Say what is wrong with a blob: its bytes, its length, its measures. *name* says what a digest is kept under."""
    kept_as, media_type, size, *measures = row
    state, length, head = sha256(), 0, bytearray()
    for chunk in chunks:
        if isinstance(chunk, Unread):
            return chunk.reason
        if type(chunk) is not bytes:
            return "chunks that are not whole"
        state.update(chunk)
        length += len(chunk)
        if length <= _MEASURED:
            head += chunk
    if name(state.digest()) != kept_as:
        return state.hexdigest()
    if size != length or type(size) is not int:
        return f"a size of {shown(size)}, and {length} bytes"
    if length > _MEASURED and type(media_type) is str:
        return None
    return _measure_fault(media_type, measures, bytes(head))


def _measure_fault(media_type: object, measures: list[Any], data: bytes) -> str | None:
    if media_type != blobs.media_type(data):
        return f"a media type of {shown(media_type)}"
    return None if _are_same(measures, _measures(str(media_type), data)) else f"measures of {shown(measures)}"


def _are_same(found: list[Any], expected: list[int | None]) -> bool:
    return found == expected and all(each is None or type(each) is int for each in found)


def _measures(media_type: str, data: bytes) -> list[int | None]:
    if media_type == blobs.UNNAMED:
        return [None, None, None]
    try:
        known = media.measure(data) if media.sniff(data) else None
    except AttachmentError:
        known = None
    return [None, None, None] if known is None else [known.width, known.height, known.pages]


@define(kw_only=True)
class _Verifying:
    """One reading of a database."""

    connection: Connection
    scope: str
    structure: bool
    since: Checkpoint | None
    progress: Callable[[int, int], None]
    faults: list[Fault] = field(factory=list, init=False)
    heads: dict[UUID, tuple[int, bytes]] = field(factory=dict, init=False)
    _blobs: _Blobs = field(init=False)
    _forks: list[tuple[UUID, tuple[UUID, int, bytes]]] = field(factory=list, init=False)
    _conversations: int = field(default=0, init=False)
    _entries: int = field(default=0, init=False)
    _of: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._blobs = _Blobs(self.connection)

    # --- which conversations ---------------------------------------------------------------------------------------

    def all(self) -> Findings:
        """Verify every conversation of the scope."""
        self._of = rows.count(self.connection, self.scope)
        streams = None
        if self.since is None:
            if not self.structure:
                self._blobs.read(self.scope, None)
            streams = self._streams()
        for row in rows.read(self.connection, rows.CONVERSATIONS, self.scope):
            self._row(row, streams)
        if self.since is None:
            self._strays()
        else:
            for of in self.since.heads.keys() - self.heads.keys():
                self._say("gone", of, -1, "a conversation", "none")
                self.heads[of] = self.since.heads[of]
        self._ended()
        return self._findings()

    def one(self, of: UUID) -> Findings:
        """Verify one conversation."""
        found = list(rows.read(self.connection, rows.CONVERSATIONS, self.scope, of.bytes))
        if not found:
            self._say("missing", of, -1, "a conversation", "none")
        elif self.since is None and not self.structure:
            self._blobs.read(self.scope, of.bytes)
        for row in found:
            self._of = row[_LENGTH] if type(row[_LENGTH]) is int else 0
            self._row(row, None)
        self._ended()
        return self._findings()

    def _findings(self) -> Findings:
        checkpoint = Checkpoint(self.heads, self.scope)
        return Findings(self.faults, checkpoint, conversations=self._conversations, entries=self._entries)

    def _say(self, code: str, of: UUID, position: int, expected: object, found: object) -> None:
        said = [each if isinstance(each, str) else shown(each) for each in (expected, found)]
        self.faults.append(Fault(code, of, position, *said))

    def _seen(self, count: int) -> None:
        self._entries += count
        self.progress(self._entries, max(self._of, self._entries))

    def _streams(self, of: bytes | None = None, first: int | None = None) -> dict[str, Peeked]:
        """Begin to read the tables that are walked along."""

        def peeked(reading: rows.Reading, **more: Any) -> Peeked:
            return Peeked(rows.read(self.connection, reading, self.scope, of, first, **more))

        streams = {"entries": peeked(rows.LINKS if self.structure else rows.ENTRIES, seen=self._seen)}
        if not self.structure:
            streams |= {"uses": peeked(rows.USES), "exchanges": peeked(rows.EXCHANGES), "keys": peeked(rows.KEYS)}
        return streams

    # --- one of them -----------------------------------------------------------------------------------------------

    def _row(self, row: rows.Row, streams: Mapping[str, Peeked] | None) -> None:
        own = row[0]
        self._conversations += 1
        if type(own) is not bytes or len(own) != _ID:
            self._say("column", NOBODY, -1, "id of 16 bytes", own)
            for stream in (streams or {}).values():
                for _ in stream.of(own):
                    pass
            return
        of = UUID(bytes=own)
        before = len(self.faults)
        first, digest = self._beginning(of, row)
        if first < 0:
            return
        if streams is None:
            streams = self._streams(own, first or None)
        walk = self._walk(of, streams, first)
        structure = self.structure or self._is_unreadable(of, row)
        found = (
            walk.links(streams["entries"].of(own), digest)
            if structure
            else walk.entries(streams["entries"].of(own), digest)
        )
        self._hold_row(of, row, found, structure=structure)
        if not structure:
            self._hold_key(of, streams["keys"].of(own), found, first)
        for name in streams.keys() - {"entries"}:
            for _ in streams[name].of(own):  # of what cannot be read, what others tell is not held against it
                pass
        if found.parent is not None:
            self._forks.append((of, found.parent))
        if len(self.faults) == before and not walk.faults:
            self.heads[of] = (found.length, found.digest)

    def _is_unreadable(self, of: UUID, row: rows.Row) -> bool:
        """Say whether a conversation is encrypted and there is no key for it: then only its chain is looked at."""
        if self.structure:
            return False
        if row[_DATA_KEY] == PLAIN and type(row[_DATA_KEY]) is int:
            if rows.has_keys(self.connection, of.bytes):
                self._say("row", of, -1, "data_key of one of its keys", row[_DATA_KEY])
            return False
        reason = rows.unreadable(self.connection, of.bytes, row[_DATA_KEY])
        if reason is not None:
            self._say("ciphertext", of, -1, "content that can be read", reason)
        return reason is not None

    def _beginning(self, of: UUID, row: rows.Row) -> tuple[int, bytes]:
        """Say from which entry on a conversation is looked at, and after which digest; -1 where nothing is new."""
        known = None if self.since is None else self.since.heads.get(of)
        if known is None:
            return 0, chain.genesis(of)
        length, digest = known
        self.heads[of] = known
        if (row[_LENGTH], row[_HEAD], row[-1]) == (length, digest, digest):
            return -1, digest
        entry = rows.entry(self.connection, of.bytes, length - 1) if length else None
        if length and entry is None:
            self._say("truncated", of, length - 1, digest.hex(), "no entry")
        elif entry is not None and entry[0] != digest:
            self._say("rewritten", of, length - 1, digest.hex(), entry[0])
        else:
            return length, digest
        return 0, chain.genesis(of)

    def _walk(self, of: UUID, streams: Mapping[str, Peeked], first: int) -> Walk:
        bodies = None if self.structure else Bodies(self.connection, of)
        if bodies is not None and first:
            bodies.begin(first)
        nothing = Peeked(iter(()))
        return Walk(
            conversation=of,
            id=of.bytes,
            scope=self.scope.encode(),
            fault=self.faults.append,
            uses=streams.get("uses", nothing),
            exchanges=streams.get("exchanges", nothing),
            blob_fault=partial(self._blobs.fault_of, of.bytes),
            bodies=bodies,
            settings_at=lambda position: self._settings_at(of, position),
            held=lambda what, first, last: rows.held(self.connection, of.bytes, what, first, last),
            first=first,
        )

    def _settings_at(self, of: UUID, position: int) -> bytes | None:
        entry = history.entry_at(self.connection, of, position)
        return None if entry is None else entry.body

    def _hold_row(self, of: UUID, row: rows.Row, found: Found, *, structure: bool) -> None:
        """Hold what a conversation's row tells against its log."""
        told = dict(zip(rows.CONVERSATIONS.names, row[:-1], strict=False))
        if told["length"] != found.length or type(told["length"]) is not int:
            self._say("length", of, -1, str(found.length), told["length"])
        if told["head"] != found.digest:
            self._say("head", of, -1, found.digest, told["head"])
        if structure:
            return
        for name, value in found.told.items():
            if value is not ANYTHING and (told[name] != value or type(told[name]) is not type(value)):
                self._say("row", of, -1, f"{name} {shown(value)}", told[name])
        if type(told["indexed_length"]) is not int or not 0 <= told["indexed_length"] <= found.length:
            self._say("row", of, -1, f"indexed_length of at most {found.length}", told["indexed_length"])
        if type(told["data_key"]) is not int:
            self._say("row", of, -1, "data_key of type int", told["data_key"])
        if type(told["sealed_length"]) is not int:  # the rest of it is the seals' matter
            self._say("row", of, -1, "sealed_length of type int", told["sealed_length"])
        pending = told["pending_position"] != -1
        token = told["pending_token"]
        if type(token) is not bytes or len(token) != len(NO_TOKEN) or (token != NO_TOKEN) != pending:
            self._say("row", of, -1, f"pending_token of {'an' if pending else 'no'} exchange", token)
        if type(told["lease_until"]) is not int or (told["lease_until"] and not pending):
            self._say("row", of, -1, "lease_until of a pending exchange", told["lease_until"])
        if type(told["lease_owner"]) is not str or (told["lease_owner"] and not pending):
            self._say("row", of, -1, "lease_owner of a pending exchange", told["lease_owner"])

    def _hold_key(self, of: UUID, keys: Iterator[rows.Row], found: Found, first: int) -> None:
        scope = self.scope.encode()
        there = [row[1:] for row in keys]
        if first or found.key is ANYTHING:
            expected = [(scope, key) for _, key in there[:1]]
        else:
            expected = [] if found.key is None else [(scope, found.key)]
        if there != expected:
            self._say("key", of, -1, str([key for _, key in expected]), shown(there))

    # --- what is between them --------------------------------------------------------------------------------------

    def _ended(self) -> None:
        """Look at what is told of conversations by others."""
        for of, (parent, length, digest) in self._forks:
            entry = rows.entry(self.connection, parent.bytes, length - 1)
            if entry is None or entry[0] != digest:
                self._say("parent", of, 0, digest, None if entry is None else entry[0])
                self.heads.pop(of, None)
        for (_, unused), found in self._blobs.bad.items():
            if unused not in self._blobs.used:
                self._say("blob", NOBODY, -1, unused, found)

    def _strays(self) -> None:
        for table, own in rows.strays(self.connection, self.scope):
            of = UUID(bytes=own) if type(own) is bytes and len(own) == _ID else NOBODY
            self._say("stray", of, -1, f"a conversation of what is in {table}", "none")


_LENGTH: Final = rows.CONVERSATIONS.names.index("length")
_HEAD: Final = rows.CONVERSATIONS.names.index("head")
_DATA_KEY: Final = rows.CONVERSATIONS.names.index("data_key")
