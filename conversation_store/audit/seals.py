"""
Verify the seals of a database, and prove from them what one conversation was.

Of every log: each leaf is what the prefix of its conversation comes to (so a cut tail, a deleted conversation and a
chain computed anew are found), tiles and log are what the leaves come to, and so is each checkpoint's root. With the
public key, every checkpoint must be signed and one must cover the log; with a checkpoint that was kept elsewhere (a
pin), the log must go on from it. What is wrong is a ``Fault``, never an exception.

What seals cannot show: what was done since the last one, what was false when it was written, and, without a pin, a
restored backup, or a history forged by whoever has the signing key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from attrs import define, field, frozen
from sqlalchemy import Connection

from conversation_store.audit.faults import NOBODY, Fault
from conversation_store.audit.keys import VerifyKey, is_signed, verify_keys
from conversation_store.errors import CodecError, SealError
from conversation_store.record import canonical, merkle, tiles
from conversation_store.record import seals as leaves
from conversation_store.record.merkle import Frontier, Range
from conversation_store.record.notes import Checkpoint, Consistency, Note, Proof
from conversation_store.record.seals import Sealed
from conversation_store.storage import seals
from conversation_store.storage.engine import Database
from conversation_store.storage.rows import as_they_lie

PAGE: Final = 1000
"""Leaves read at a time."""

_ID: Final = 16
_LEVELS: Final = 8
"""Levels of tiles of a log of any size: 256 ** 8 leaves are more than there can be."""

Pin = tuple[str, Checkpoint]
"""Where a checkpoint comes from, and what it says."""


def verify_seals(
    database: Database,
    *,
    keys: Sequence[VerifyKey] = (),
    pin: str | bytes | None = None,
    remembered: str | None = None,
) -> list[Fault]:
    """
    Verify every log of seals of a database, over all scopes.

    Args:
        database: Where they are.
        keys: Verifier keys; with them, every checkpoint must be signed by one, and the newest log be covered.
        pin: A checkpoint (a note) that was kept elsewhere.
        remembered: The checkpoint that the signer remembers; judged like a pin.

    Returns:
        Every fault; empty where there is none. Their codes: ``seal`` (a leaf's row), ``sealed`` (a conversation is
        not what was sealed), ``sealed_length`` (its row tells another length than the log), ``tile``, ``log``,
        ``checkpoint``, ``signature``, ``uncovered`` (leaves that no checkpoint covers yet: seal again), ``pin``.

    Raises:
        DatabaseError: The database cannot be read.
        ConfigurationError: The extra ``seal`` is not installed and keys are given.
    """
    with database.read() as connection, as_they_lie(connection):
        return list(_Verification(connection, tuple(keys), _pins(pin, remembered)).faults())


def _pins(pin: str | bytes | None, remembered: str | None) -> list[tuple[str, str | bytes]]:
    given = (("the pin", pin), ("the signer's memory", remembered))
    return [(name, each) for name, each in given if each is not None]


@frozen
class _Verification:
    """One look at all logs."""

    connection: Connection
    keys: tuple[VerifyKey, ...]
    pins: list[tuple[str, str | bytes]]

    def faults(self) -> Iterator[Fault]:
        pins: dict[str, list[Pin]] = defaultdict(list)
        for name, given in self.pins:
            try:
                note = Note.read(given)
                pin = Checkpoint.read(note.text)
            except CodecError as error:
                yield Fault("pin", NOBODY, -1, "a checkpoint", f"{name}: {error}")
                continue
            if self.keys and not is_signed(note, self.keys):
                yield Fault("signature", NOBODY, pin.size - 1, "a signature by the key", f"{name} has none")
            pins[pin.origin].append((name, pin))
        found = seals.raw_logs(self.connection)
        rows = [each for each in found if type(each[0]) is int]
        if len(rows) < len(found):
            yield Fault("log", NOBODY, -1, "logs with numbers", f"{len(found) - len(rows)} without")
        for n, (number, origin, size, frontier) in enumerate(rows, 1):
            name = origin.decode(errors="replace") if isinstance(origin, bytes) else repr(origin)[:80]
            log = _Log(self.connection, number, name, tuple(pins.pop(name, ())), self.keys)
            yield from log.faults(size, frontier)
            yield from log.faults_of_beginning(first=n == 1)
            if n == len(rows):
                yield from log.faults_of_cover()
        for name, waiting in pins.items():
            for which, pin in waiting:
                yield Fault("pin", NOBODY, pin.size - 1, f"a log {name} ({which})", "none")
        yield from self._around([row[0] for row in rows])

    def _around(self, logs: list[int]) -> Iterator[Fault]:
        """What is outside every log: rows that belong to none, marks of what is sealed, and that there is a log."""
        if self.keys and not logs:
            yield Fault("signature", NOBODY, -1, "a log with a signed checkpoint", "none")
        for table, log in seals.raw_orphans(self.connection, logs):
            yield Fault("log", NOBODY, -1, f"a log for the rows of {table}", f"none of number {log!r}"[:80])
        newest = logs[-1] if logs else 0
        for which, told, sealed in seals.raw_marks(self.connection, newest):
            of = UUID(bytes=which) if isinstance(which, bytes) and len(which) == _ID else NOBODY
            yield Fault("sealed_length", of, -1, str(sealed), repr(told)[:80])


@define
class _Log:
    """One log, read from its first leaf to its last."""

    connection: Connection
    number: int
    origin: str
    pins: tuple[Pin, ...]
    keys: tuple[VerifyKey, ...]
    tree: Frontier = field(factory=Frontier)
    first: bytes | None = None
    covered: int = 0
    _expected: dict[tiles.Place, bytes] = field(factory=dict)
    _open: dict[int, list[bytes]] = field(factory=lambda: defaultdict(list))

    def faults(self, size: object, frontier: object) -> Iterator[Fault]:
        sizes = {*self._sizes(), *(pin.size for _, pin in self.pins)}
        roots = {0: merkle.EMPTY}
        for fault in self._seals():
            if isinstance(fault, Fault):
                yield fault
            elif self.tree.size in sizes:
                roots[self.tree.size] = self.tree.root
        if not _are_numbers(size) or size != self.tree.size:
            yield Fault("log", NOBODY, -1, f"{self.origin} of {self.tree.size} leaves", f"{size!r}"[:80])
        if frontier != b"".join(self.tree.peaks):
            yield Fault("log", NOBODY, -1, "the frontier of the leaves", "another")
        yield from self._tiles()
        yield from self._judged(roots)

    def faults_of_beginning(self, *, first: bool) -> Iterator[Fault]:
        """A log that is not the first begins with the checkpoint that it goes on from; the first one may."""
        note = None if self.first is None else leaves.checkpoint_in(self.first)
        if first and note is None:
            return
        try:
            given = Note.read(note or "")
            Checkpoint.read(given.text)
        except CodecError as error:
            yield Fault("log", NOBODY, 0, "a first leaf with a checkpoint", str(error))
            return
        if self.keys and not is_signed(given, self.keys):
            yield Fault("signature", NOBODY, 0, "a checkpoint signed by the key to go on from", "none that is right")

    def faults_of_cover(self) -> Iterator[Fault]:
        """The newest log is covered by a checkpoint; an older one may have been left without."""
        if self.covered < self.tree.size:
            wanted = "a signed checkpoint" if self.keys else "a checkpoint"
            yield Fault("uncovered", NOBODY, self.covered, f"{wanted} of {self.tree.size} leaves", f"{self.covered}")

    # --- leaves ------------------------------------------------------------------------------------------------------

    def _seals(self) -> Iterator[Fault | None]:
        """Say what is wrong with each leaf; None after each, when it is in the tree."""
        for row in seals.raw_seals(self.connection, self.number, PAGE):
            number, conversation, length, stored, digest, log = row
            at = self.tree.size
            leaf = stored if isinstance(stored, bytes) else b""
            if number != at or not _are_numbers(number, length, log):
                yield Fault("seal", NOBODY, at, f"leaf {at}", f"{number!r}"[:80])
            if leaf is stored:
                yield from self._leaf(at, conversation, length, leaf, digest)
            else:
                yield Fault("seal", NOBODY, at, "the bytes of a leaf", type(stored).__name__)
            if at == 0:
                self.first = leaf
            self._add(merkle.leaf_hash(leaf))
            yield None

    def _leaf(self, at: int, conversation: object, length: object, leaf: bytes, digest: object) -> Iterator[Fault]:
        # Written anew from the conversation, most leaves are seen to be right without being read.
        if leaf == _rewritten(conversation, length, digest):
            return
        try:
            said = leaves.read(leaf)
        except CodecError as error:
            yield Fault("seal", NOBODY, at, "a leaf", str(error))
            return
        columns = (conversation, length)
        if columns != ((None, 0) if said is None else (said.conversation.bytes, said.length)):
            yield Fault("seal", NOBODY, at, "columns as in the leaf", repr(columns)[:80])
        elif said is not None:
            found = digest.hex() if isinstance(digest, bytes) else "no such entry"
            yield Fault("sealed", said.conversation, said.length - 1, said.digest.hex(), found)

    # --- the tree ----------------------------------------------------------------------------------------------------

    def _add(self, leaf: bytes) -> None:
        self.tree.add(leaf)
        at, level = leaf, 0
        while True:
            hashes = self._open[level]
            hashes.append(at)
            if len(hashes) < tiles.WIDTH:
                return
            number = (self.tree.size >> (level + 1) * tiles.HEIGHT) - 1
            self._expected[level, number] = sha256(b"".join(hashes)).digest()
            at = merkle.root_of(hashes)
            hashes.clear()
            level += 1

    def _tiles(self) -> Iterator[Fault]:
        """Compare each tile with the one that the leaves make; only digests of those are kept in memory."""
        for level, hashes in self._open.items():
            if hashes:
                number = self.tree.size >> (level + 1) * tiles.HEIGHT
                self._expected[level, number] = sha256(b"".join(hashes)).digest()
        for level in range(_LEVELS):
            for number, data, *within in seals.raw_tiles(self.connection, self.number, level, tiles.WIDTH):
                wanted = self._expected.pop((level, number), None) if _are_numbers(number, *within) else None
                if wanted is None or type(data) is not bytes or sha256(data).digest() != wanted:
                    place = f"tile {level}/{number!r}"[:80]
                    expected = "the hashes of the leaves" if wanted is not None else "no such tile"
                    for leaf in self._other_leaves(number, data) if wanted is not None and level == 0 else [-1]:
                        yield Fault("tile", NOBODY, leaf, expected, place)
        for level, number in self._expected:
            yield Fault("tile", NOBODY, -1, f"tile {level}/{number}", "none")
        if seals.raw_tiles_elsewhere(self.connection, self.number, _LEVELS):
            yield Fault("tile", NOBODY, -1, f"tiles of the levels 0 to {_LEVELS - 1}", "others")

    def _other_leaves(self, number: int, data: object) -> Sequence[int]:
        """Say which leaves a tile has other hashes of than they have; -1 alone for none of them."""
        first, told = number * tiles.WIDTH, data if isinstance(data, bytes) else b""
        there = [told[n : n + merkle.HASH] for n in range(0, len(told), merkle.HASH)]
        found = [
            merkle.leaf_hash(leaf) if isinstance(leaf, bytes) else b""
            for leaf in seals.raw_leaves(self.connection, self.number, first, tiles.WIDTH)
        ]
        return [first + n for n, (one, two) in enumerate(zip(found, there, strict=False)) if one != two] or [-1]

    # --- what was signed ---------------------------------------------------------------------------------------------

    def _sizes(self) -> Iterator[int]:
        for _, note, *_ in seals.raw_checkpoints(self.connection, self.number):
            try:
                yield Checkpoint.read(Note.read(note if isinstance(note, bytes) else b"").text).size
            except CodecError:
                continue  # said by _judged, which looks at every row

    def _judged(self, roots: dict[int, bytes]) -> Iterator[Fault]:
        last: object = None
        for row in seals.raw_checkpoints(self.connection, self.number):
            fault = self._checkpoint(row, roots)
            if fault is None and row[0] == last:
                fault = Fault("checkpoint", NOBODY, row[0] - 1, f"one of {last} leaves", "another one")
            last = row[0]
            if fault is None:
                self.covered = max(self.covered, row[0])
            else:
                yield fault
        for name, pin in self.pins:
            found = roots.get(pin.size)
            if found != pin.root:
                said = f"{self.tree.size} leaves" if found is None else found.hex()
                yield Fault("pin", NOBODY, pin.size - 1, f"{pin.size} leaves, {pin.root.hex()} ({name})", said)

    def _checkpoint(self, row: Any, roots: dict[int, bytes]) -> Fault | None:
        size, given, at, published_to, log = row
        place = size - 1 if type(size) is int else -1
        try:
            note = Note.read(given if isinstance(given, bytes) else b"")
            said = Checkpoint.read(note.text)
        except CodecError as error:
            return Fault("checkpoint", NOBODY, place, "a checkpoint", str(error)[:80])
        if (said.origin, said.size) != (self.origin, size) or said.extensions or not _are_numbers(size, log):
            return Fault("checkpoint", NOBODY, place, f"{self.origin} of {size!r} leaves"[:80], repr(said.size)[:80])
        if roots.get(said.size) != said.root:
            found = roots.get(said.size)
            return Fault("checkpoint", NOBODY, place, said.root.hex(), "no root" if found is None else found.hex())
        if self.keys and not is_signed(note, self.keys):
            return Fault("signature", NOBODY, place, "a signature by the key", "none that is right")
        if type(at) is not int or not _is_names(published_to):
            return Fault("checkpoint", NOBODY, place, "a time and the names of anchors", repr((at, published_to))[:80])
        return None


def _rewritten(conversation: object, length: object, digest: object) -> bytes | None:
    """Write the leaf that a conversation of this length and digest would have; None where these are none."""
    if not isinstance(conversation, bytes) or not isinstance(length, int) or not isinstance(digest, bytes):
        return None
    return leaves.leaf_of(conversation, length, digest)


def _are_numbers(*found: object) -> bool:
    """Say whether each is an integer: SQLite takes 1.0 for 1 where it compares, and would take the row for ours."""
    return all(type(each) is int for each in found)


def _is_names(published_to: object) -> bool:
    try:
        found: Any = canonical.loads(published_to) if isinstance(published_to, bytes) else None
    except CodecError:
        return False
    return isinstance(found, list) and all(isinstance(each, str) for each in found)


# --- one conversation ------------------------------------------------------------------------------------------------


def prove(database: Database, conversation: UUID) -> str:
    """
    Prove what a conversation was at its newest seal: a C2SP tlog-proof, whose ``extra`` is the leaf.

    Reads at most three tiles where the newest checkpoint covers the log, five where it does not.

    Raises:
        SealError: It was not sealed yet, or the log is damaged.
        DatabaseError: The database cannot be read.
    """
    with database.read() as connection:
        proof = inclusion(connection, conversation)
        if proof is None and _newest(connection) is None:
            raise SealError("nothing is sealed in this database")
    if proof is None:
        raise SealError(f"no checkpoint covers conversation {conversation} yet")
    return str(proof)


def inclusion(connection: Connection, conversation: UUID) -> Proof | None:
    """
    Prove on one state of the database what ``prove`` does; None where no checkpoint covers the conversation yet.

    Raises:
        SealError: The log is damaged.
    """
    newest = _newest(connection)
    if newest is None:
        return None
    log, kept = newest
    found = seals.newest_seal(connection, log.number, conversation, kept.size)
    if found is None:
        return None
    index, leaf = found
    parts = merkle.inclusion(index, kept.size)
    known = dict(zip(merkle.perfect((0, log.size)), log.frontier, strict=False)) if kept.size == log.size else {}
    path = _hashes(connection, log.number, parts, known)
    return Proof(index=index, path=path, checkpoint=kept.note.decode(errors="replace"), extra=leaf)


def consistency(connection: Connection, older: Checkpoint) -> Consistency:
    """
    Prove that the newest checkpoint goes on from an older one, which was kept elsewhere.

    Raises:
        SealError: It does not: another log, one that was larger, or one with another root; or the log is damaged.
    """
    newest = _newest(connection)
    if newest is None or newest[0].origin != older.origin or not 0 < older.size <= newest[1].size:
        raise SealError(f"the newest checkpoint does not go on from one of {older.size} leaves of {older.origin}")
    log, kept = newest
    newer = Checkpoint.read(Note.read(kept.note).text)
    path = _hashes(connection, log.number, merkle.consistency(older.size, kept.size), {})
    if not merkle.is_consistent(older.size, newer.size, older.root, newer.root, path):
        raise SealError("the log of seals does not go on from this checkpoint: it is another history")
    return Consistency(old=older.size, path=path, checkpoint=kept.note.decode(errors="replace"))


def _newest(connection: Connection) -> tuple[seals.Log, seals.Kept] | None:
    """Read the log that goes on and its newest checkpoint; None where there is none."""
    log = seals.newest_log(connection)
    kept = None if log is None else seals.newest_checkpoint(connection, log.number)
    return None if log is None or kept is None else (log, kept)


def _hashes(connection: Connection, log: int, parts: Sequence[Range], known: Mapping[Range, bytes]) -> Sequence[bytes]:
    there = seals.tiles(connection, log, tiles.places(parts, known))
    try:
        return [tiles.subtree(there, part, known) for part in parts]
    except LookupError:
        raise SealError("the log of seals is damaged: a tile is missing; verify says where") from None


def proven(proof: str | bytes, key: str | VerifyKey | Sequence[str | VerifyKey]) -> tuple[Sealed, Checkpoint]:
    """
    Check a proof, with nothing but the verifier key (one, or several that are trusted).

    Returns:
        What was sealed, and the checkpoint that covers it.

    Raises:
        SealError: It proves nothing: another key, another tree, or no proof at all.
        ConfigurationError: The key is none, or the extra ``seal`` is not installed.
    """
    keys = verify_keys(key)
    try:
        read = Proof.read(proof)
        note = Note.read(read.checkpoint)
        checkpoint = Checkpoint.read(note.text)
        said = None if read.extra is None else leaves.read(read.extra)
    except CodecError as error:
        raise SealError(f"no proof: {error}") from None
    if said is None or read.extra is None:
        raise SealError("the proof is of no conversation")
    if not is_signed(note, keys):
        raise SealError("the proof's checkpoint is not signed by the key")
    leaf = merkle.leaf_hash(read.extra)
    if not merkle.is_included(leaf, read.index, checkpoint.size, read.path, checkpoint.root):
        raise SealError("the proof does not lead to the checkpoint's root")
    return said, checkpoint
