"""
Evidence: a conversation's record in one zip, for somebody who has no database and need not believe us.

What is revealed is there with its salts; of every other entry there is a digest, so that the chain can be computed
all the same. What is not revealed is kept out as far as an erasure of it would reach: salts under which it could be
guessed, bodies that held it, answers and errors that repeat it. ``evidence.md`` is the format.

It is written from one state of the database, in passes: nothing but positions and digests is kept in memory. The
same record gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import chain as joined
from typing import Any, BinaryIO, Final
from uuid import UUID

from attrs import define, field, frozen
from sqlalchemy import Connection

from conversation_store import history
from conversation_store.audit import archive, bundle, erase, seals
from conversation_store.audit.bundle import Log, Manifest, Requests
from conversation_store.audit.replays import Bodies
from conversation_store.errors import CodecError, ContentError, NotFoundError
from conversation_store.record import canonical, chain, erasure, view
from conversation_store.record.chain import Entry
from conversation_store.record.notes import Checkpoint, Note
from conversation_store.record.turns import PREFILL_MARK, fields_of
from conversation_store.storage import blobs, log, rows
from conversation_store.storage import erasure as storage
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database
from conversation_store.storage.log import Kept

_PAGE: Final = 16
"""Entries read at a time; a body has up to some MiB."""

_ALWAYS: Final = frozenset({"opened", "erased"})
"""Kinds of entries whose header is always shown: what the log goes on from, and what was erased of it."""


@frozen(kw_only=True)
class Evidence:
    """
    What a bundle holds.

    Attributes:
        conversation: Whose record.
        entries: How many entries of its own log are told of; ``revealed`` how many of them with their content.
        head: The digest of the last one: whoever keeps it can check the bundle against it.
        inherited: How many entries of the logs it was forked from are told of.
        requests: The exchanges whose body is in it; ``responses`` those whose response is.
        blobs: How many attachments are in it.
        sealed: How many of the entries a signed checkpoint covers; 0 where the store has no seals.
        size: Bytes of the archive.
    """

    conversation: UUID
    entries: int
    revealed: int
    head: bytes = field(repr=lambda head: head.hex())
    inherited: int
    requests: Sequence[int]
    responses: Sequence[int]
    blobs: int
    sealed: int
    size: int


def write(
    database: Database,
    scope: str,
    of: UUID,
    file: BinaryIO,
    *,
    reveal: Iterable[int] | None = None,
    requests: Requests = "all",
    why: str | None = None,
    pin: str | bytes | None = None,
) -> Evidence:
    """
    Write the evidence of a conversation.

    Args:
        database: Where it is kept.
        scope: The tenant.
        of: Which conversation.
        file: Where to; it can be sought in.
        reveal: Positions of entries whose content is shown; None for all, those of other logs that its views ever
            showed among them.
        requests: Of which exchanges the bodies are put in, of those that hold only what is revealed.
        why: Why it is made, for README.txt.
        pin: A checkpoint (a note) that the auditor keeps: the proof that the newest one goes on from it is put in.

    Raises:
        ContentError: A position is none, or the file cannot be sought in.
        NotFoundError: There is no such conversation in this scope.
        CodecError: The record is damaged; ``verify`` says where.
        SealError: The log of seals is damaged, or does not go on from the pin.
        DatabaseError: The database cannot be read.
    """
    if requests not in bundle.REQUESTS:
        raise ContentError("requests", "is one of all, last, none")
    if not file.seekable():
        raise ContentError("file", "an archive is written to a file that can be sought in")
    with database.read() as connection:
        kept = log.find(connection, scope, of)
        if kept is None:
            raise NotFoundError(str(of))
        plan = _Plan(connection, scope, kept, requests)
        plan.decide(_positions(reveal, kept.head.length))
        manifest = Manifest(logs=[each.log for each in plan.logs], requests=requests, why=why)
        return _Writing(connection, plan, manifest).all(file, pin)


def _positions(reveal: Iterable[int] | None, length: int) -> frozenset[int] | range:
    if reveal is None:
        return range(length)
    found = reveal if isinstance(reveal, range) else frozenset(reveal)
    for each in found if not isinstance(found, range) else (*found[:1], *found[-1:]):
        if type(each) is not int or not 0 <= each < length:
            raise ContentError("reveal", f"{each!r} is no position of this log: give 0 to {length - 1}")
    return found


@define
class _Told:
    """A log as it is to be told, and which of its revealed entries are shown without their content."""

    log: Log
    withheld: frozenset[int] = frozenset()

    def shows(self, position: int) -> bool:
        """Say whether an entry is told with its content."""
        return position not in self.withheld and self.log.reveals(position)


@define
class _Plan:
    """What goes into a bundle, decided from headers alone."""

    connection: Connection
    scope: str
    kept: Kept
    wanted: Requests
    logs: list[_Told] = field(factory=list, init=False)
    bodies: dict[int, Mapping[str, Any]] = field(factory=dict, init=False)
    raws: dict[int, int] = field(factory=dict, init=False)
    """By the position of an outcome with its response as it was received: that of its request."""
    blobs: dict[bytes, tuple[bytes, bytes]] = field(factory=dict, init=False)
    """The blobs that are put in, by digest: their scope, and under what they are kept."""
    responses: dict[int, tuple[bytes, bytes]] = field(factory=dict, init=False)
    """By the position of a request: scope and digest of its response."""

    def decide(self, reveal: frozenset[int] | range) -> None:
        """Decide it all."""
        of, head = self.kept.id, self.kept.head
        everything = len(reveal) == head.length
        hidden: list[int] = []
        requests: dict[int, tuple[bytes, Mapping[str, Any]]] = {}
        for position, kind, header in self._headers(of):
            if kind == "turn" and position not in reveal:
                hidden.append(position)
            elif kind == "request" and position in reveal:
                requests[position] = (header, fields_of(header))
            elif kind == "outcome" and b'"raw":' in header:
                self.raws[position] = fields_of(header)["request"]
        ancestors = list(self._ancestors())
        withheld, unproved = frozenset[int](), frozenset[int]()
        if not everything:
            turns: dict[UUID, Sequence[int]] = {each.conversation: range(each.length) for each in ancestors}
            reached = erase.reach(self.connection, self.scope, of, {**turns, of: hidden})
            unproved = reached.request | {
                position for position, (_, fields) in requests.items() if fields["settings"] not in reveal
            }
            withheld = reached.content | self._left_by(unproved, reveal)
        runs = [(first, last) for first, last in erasure.runs(reveal)]
        own = Log(conversation=of, length=head.length, head=head.digest, reveal=runs)
        self.logs = [_Told(own, withheld), *map(_Told, self._shown(ancestors) if everything else ancestors)]
        for position, (_, fields) in requests.items():
            if position not in unproved and self._proved(position):
                self.bodies[position] = fields
        if self.wanted != "all":
            self.bodies = dict(list(self.bodies.items())[-1:] if self.wanted == "last" else [])
        self._find_blobs()

    def _headers(self, of: UUID) -> Iterator[tuple[int, str, bytes]]:
        for _, position, kind, _, header, _ in rows.read(self.connection, rows.LINKS, self.scope, of.bytes):
            yield position, kind, header

    def _proved(self, position: int) -> bool:
        entry = history.entry_at(self.connection, self.kept.id, position)
        return entry is not None and entry.request_salt is not None

    def _left_by(self, unproved: frozenset[int], reveal: frozenset[int] | range) -> frozenset[int]:
        """List the outcomes, revealed themselves, that made no turn and may quote what is hidden of their request."""
        return frozenset(
            each.outcome
            for position, each in storage.tries(self.connection, self.kept.id).items()
            if each.turn is None and each.outcome is not None and (position in unproved or position not in reveal)
        )

    def _ancestors(self) -> Iterator[Log]:
        """Give the logs that this one was forked from, the nearest first, as far as it goes on from them."""
        of = self.kept.id
        while True:
            opened = history.entry_at(self.connection, of, 0)
            parent = None if opened is None else fields_of(opened.header).get("parent")
            if parent is None:
                return
            of = UUID(hex=parent["conversation"])
            yield Log(conversation=of, length=parent["length"], head=bytes.fromhex(parent["digest"]))

    def _shown(self, ancestors: Sequence[Log]) -> Iterator[Log]:
        """Reveal of each ancestor the turns that a view of this log ever showed."""
        shown: dict[UUID, list[tuple[int, int]]] = {each.conversation: [] for each in ancestors}
        for _, kind, header in self._headers(self.kept.id):
            fields = fields_of(header) if kind in {"opened", "view"} else {}
            for span in view.read(fields, ()) if "then" in fields else ():
                if span.conversation in shown and span.last is not None:
                    shown[span.conversation].append((span.first, span.last))
        for each in ancestors:
            spans = sorted(shown[each.conversation])
            turns = self._turns(each, spans) if spans else ()
            runs = [(first, last) for first, last in erasure.runs(turns)]
            yield Log(conversation=each.conversation, length=each.length, head=each.head, reveal=runs)

    def _turns(self, of: Log, spans: Sequence[tuple[int, int]]) -> Iterator[int]:
        # What was erased of it after the fork, entries say that are not told of here.
        erased = {each[0] for each in log.read_erased(self.connection, of.conversation, 0, of.length - 1)}
        n, end = 0, -1
        for position, kind, header in self._headers(of.conversation):
            while n < len(spans) and spans[n][0] <= position:
                n, end = n + 1, max(end, spans[n][1])
            if position >= of.length:
                return
            if kind == "turn" and position <= end and position not in erased and PREFILL_MARK not in header:
                yield position

    def _find_blobs(self) -> None:
        for told in self.logs:
            found = rows.read(self.connection, rows.USES, self.scope, told.log.conversation.bytes)
            for _, position, number, scope, digest, *_ in found:
                if not told.shows(position):
                    continue
                where = (scope, rows.kept_as(self.connection, told.log.conversation.bytes, scope, digest))
                if told is self.logs[0] and number == 0 and position in self.raws:
                    self.responses[self.raws[position]] = where
                else:
                    self.blobs[digest] = where


@define
class _Writing:
    """One bundle as it is written."""

    connection: Connection
    plan: _Plan
    manifest: Manifest
    _revealed: int = field(default=0, init=False)

    def all(self, file: BinaryIO, pin: str | bytes | None) -> Evidence:
        """Write every member, in the order of their names."""
        plan = self.plan
        proofs, sealed = self._proofs(pin)
        writer = archive.Writer(file)
        members: Iterable[tuple[str, Iterable[bytes]]] = joined(
            [(bundle.README, [self.manifest.readme])],
            ((bundle.blob_name(digest), self._blob(*plan.blobs[digest])) for digest in sorted(plan.blobs)),
            [(bundle.ENTRIES, self._entries()), (bundle.ERASURES, self._erasures())],
            [(bundle.MANIFEST, [self.manifest.json()])],
            proofs.items(),
            self._bodies(),
            ((bundle.response_name(at), self._blob(*where)) for at, where in sorted(plan.responses.items())),
        )
        sums: list[bytes] = []
        for name, pieces in members:
            summing = _Summing(pieces)
            writer.add(name, summing)
            sums.append(f"{summing.digest}  {name}\n".encode())
        writer.add(bundle.SUMS, sums)
        writer.close()
        own, *inherited = self.manifest.logs
        return Evidence(
            conversation=own.conversation,
            entries=own.length,
            revealed=self._revealed,
            head=own.head,
            inherited=sum(each.length for each in inherited),
            requests=tuple(plan.bodies),
            responses=tuple(sorted(plan.responses)),
            blobs=len(plan.blobs),
            sealed=sealed,
            size=writer.size,
        )

    def _proofs(self, pin: str | bytes | None) -> tuple[dict[str, Iterable[bytes]], int]:
        """Write what proves the log against a signed checkpoint; nothing where the store has no seals."""
        found: dict[str, Iterable[bytes]] = {}
        if pin is not None:
            older = Checkpoint.read(Note.read(pin).text)
            found[bundle.CONSISTENCY] = [str(seals.consistency(self.connection, older)).encode()]
        proof = seals.inclusion(self.connection, self.plan.kept.id)
        if proof is None:
            return found, 0
        found[bundle.INCLUSION] = [str(proof).encode()]
        return found, canonical.object_of(proof.extra or b"{}")["length"]

    def _blob(self, scope: bytes, digest: bytes) -> Iterator[bytes]:
        return rows.chunks_of(self.connection, scope, digest)

    # --- entries ---------------------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[bytes]:
        for n, told in enumerate(self.plan.logs):
            for entry, used in self._read(told.log):
                fields = self._line(n, told, entry, used)
                line = canonical.header(fields)
                if len(line) > bundle.LONGEST_LINE:
                    raise CodecError(f"entry {entry.position} is longer than a bundle takes")
                yield line + b"\n"
                self._revealed += n == 0 and "withheld" not in fields and "header" in fields

    def _read(self, of: Log) -> Iterator[tuple[Entry, Sequence[Blob]]]:
        at = 0
        for first in range(0, of.length, _PAGE):
            last = min(first + _PAGE, of.length) - 1
            page = log.read(self.connection, of.conversation, first, last)
            spliced = any(b'"splices"' in each.header or b'"raw":' in each.header for each in page)
            used = blobs.used(self.connection, of.conversation, first, last) if spliced else {}
            for entry in page:
                if entry.position != at:
                    raise CodecError(f"entry {at} of conversation {of.conversation} is missing; verify says more")
                yield entry, used.get(at, ())
                at += 1
        if at != of.length:
            raise CodecError(f"entry {at} of conversation {of.conversation} is missing; verify says more")

    def _line(self, n: int, told: _Told, entry: Entry, used: Sequence[Blob]) -> dict[str, Any]:
        line: dict[str, Any] = {"log": n, "position": entry.position, "digest": entry.digest.hex()}
        shown = told.shows(entry.position)
        if not shown and entry.kind not in _ALWAYS and not told.log.reveals(entry.position):
            of = told.log.conversation
            return {**line, "entry": chain.entry_digest(of, entry.position, entry.at, entry.kind, entry.header).hex()}
        line |= {"at": entry.at, "kind": entry.kind, "header": canonical.text_of(entry.header)}
        if not shown:
            return {**line, "withheld": True}
        parts: dict[str, Any] = {
            "body": None if entry.body is None else canonical.text_of(entry.body),
            "about": None if entry.about is None else canonical.text_of(entry.about),
            "salt": None if entry.salt is None else entry.salt.hex(),
            "blobs": [_used(each) for each in used] or None,
        }
        if n == 0 and entry.position in self.plan.bodies and entry.request_salt is not None:
            parts["request_salt"] = entry.request_salt.hex()
        return {**line, **{name: part for name, part in parts.items() if part is not None}}

    def _erasures(self) -> Iterator[bytes]:
        """Tell every erasure of these logs, as the headers of their entries do."""
        said = []
        for n, told in enumerate(self.plan.logs):
            of = told.log
            for entry in log.read_kind(self.connection, of.conversation, "erased", 0, of.length - 1):
                erased = fields_of(entry.header).get("erased")
                said.append({"at": entry.at, "erased": erased, "log": n, "position": entry.position})
        yield canonical.header(said)

    # --- requests --------------------------------------------------------------------------------------------------

    def _bodies(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        bodies = Bodies(self.connection, self.plan.kept.id)
        bodies.begin(self.plan.kept.head.length)
        for position, fields in self.plan.bodies.items():
            entry = history.entry_at(self.connection, self.plan.kept.id, position)
            if entry is None:
                raise CodecError(f"entry {position} is missing; verify says more")
            request = bodies.request(entry, fields)
            if not history.proves(entry, request.digest):
                raise CodecError(f"the body of exchange {position} cannot be proved: verify says what was changed")
            yield bundle.request_name(position), _pieces(request.pieces)


def _pieces(pieces: Iterable[bytes | Iterable[bytes]]) -> Iterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from piece


def _used(blob: Blob) -> dict[str, object]:
    return {
        "digest": blob.digest.hex(),
        "media_type": blob.media_type,
        "salt": blob.salt.hex(),
        "size": blob.size,
    }


class _Summing:
    """Pieces as they pass, and the SHA-256 of them."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._state = sha256()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._state.update(piece)
            yield piece

    @property
    def digest(self) -> str:
        """The SHA-256, once all have passed, in hexadecimal digits."""
        return self._state.hexdigest()
