"""
Sealing: the heads of all conversations become leaves of one log, whose checkpoints are signed and leave the database.

A sealer commits leaves and tiles first. Then it signs, keeps the checkpoint, publishes it, and remembers it, in this
order: a crash between any two of these leaves work that the next seal makes good, and nothing signed that the log
does not hold. Before it signs it looks whether the log goes on from what its memory says; if not, it refuses.

Nothing here is part of an append: a Store seals after one, when it is due, in the thread that appended.

C2SP advises against extension lines, because no monitor can check them. So a time without news is not a line of a
checkpoint but a leaf of the log.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import define, evolve, field, frozen
from sqlalchemy import Connection

from conversation_store.audit.anchors import Anchor, name_of
from conversation_store.audit.keys import SigningKey
from conversation_store.audit.memory import Memory
from conversation_store.errors import (
    CodecError,
    ConfigurationError,
    ConversationStoreError,
    DatabaseError,
    RollbackError,
    SealError,
)
from conversation_store.record import canonical, merkle, notes, tiles
from conversation_store.record import seals as leaves
from conversation_store.record.notes import Checkpoint, Note
from conversation_store.storage import identity, seals
from conversation_store.storage.engine import Database
from conversation_store.storage.seals import Kept, Leaf, Log
from conversation_store.storage.tables import ORIGIN_BYTES

logger: Final = logging.getLogger("conversation_store")

BATCH: Final = 500
"""Heads sealed in one transaction: an append to one of them waits for no more than that."""

_RACES: Final = 1000
"""Races lost to other sealers after which one gives up."""

PATIENCE: Final = 0.25
"""Seconds for which batches are sealed after an append; what is left is sealed after later ones."""


def _key(given: SigningKey | str | os.PathLike[str] | None) -> SigningKey | None:
    return given if given is None or isinstance(given, SigningKey) else SigningKey.read(Path(given))


def _memory(given: Memory | str | os.PathLike[str] | None) -> Memory | None:
    return given if given is None or isinstance(given, Memory) else Memory(given)


def _anchors(given: Iterable[Anchor]) -> tuple[Anchor, ...]:
    return tuple(given)


@frozen(kw_only=True)
class Seals:
    """
    How a Store seals. Give the same to every Store of a database that seals it.

    Attributes:
        key: The signing key, or the path of its file. None: checkpoints are not signed, and prove something only to
            those who kept one.
        memory: The path of a file outside the database, where the signer remembers what it signed last. None: a
            restored backup is not noticed here, only by those who kept a checkpoint.
        anchors: Where checkpoints are published.
        every: Appends of the Store after which it seals.
        older_than: Seconds after its last seal from which the next append seals.
        origin: The name of the log, without white space; that of the key where it is None.
    """

    key: SigningKey | None = field(converter=_key)
    memory: Memory | None = field(converter=_memory)
    anchors: tuple[Anchor, ...] = field(default=(), converter=_anchors)
    every: int = 1000
    older_than: float = 60.0
    origin: str | None = None

    def __attrs_post_init__(self) -> None:
        if not self.every >= 1 or not self.older_than >= 0:
            raise ConfigurationError("every is a number of appends from 1 on, older_than a number of seconds")
        name = self.log_name
        if not notes.is_name(name) or len(name.encode()) > ORIGIN_BYTES - 12:
            raise ConfigurationError("a log needs an origin: a key with a name, or origin='example.com/bot'")

    @property
    def log_name(self) -> str:
        """The origin of the first log; later ones have a number behind it."""
        return self.origin or (self.key.name if self.key is not None else "")


@frozen(kw_only=True)
class Seal:
    """
    What sealing came to.

    Attributes:
        origin: The log's name.
        size: How many leaves it has.
        note: The checkpoint, as signed and published: keep it, it is what a later look is held against. None
            where there is nothing to seal.
        added: Leaves that this seal added.
        failed: Anchors that did not take the checkpoint, and why; they are asked again with the next seal.
    """

    origin: str
    size: int
    note: str | None
    added: int
    failed: Mapping[str, str]


@define
class _Due:
    """Counts a Store's appends and the seconds since its last seal."""

    every: int
    older_than: float
    appended: int = 0
    since: float = 0.0

    def counted(self) -> bool:
        """Count an append, and say whether it is time; then counting begins anew."""
        self.appended += 1
        if self.appended < self.every and time.monotonic() - self.since < self.older_than:
            return False
        self.begin()
        return True

    def begin(self) -> None:
        """Begin to count anew."""
        self.appended, self.since = 0, time.monotonic()


class Sealer:
    """Seals one database, as one Store asks for it. May be shared by threads."""

    def __init__(self, database: Database, given: Seals) -> None:
        self._database = database
        self._given = given
        self._due = _Due(given.every, given.older_than)
        self._due.begin()
        self._turn = threading.Lock()
        self._refused: SealError | None = None

    def after_append(self) -> None:
        """Seal if it is due and nobody else is at it. The append is committed: what goes wrong is only logged."""
        if not self._due.counted() or not self._turn.acquire(blocking=False):
            return
        try:
            with self._alone(wait=False) as alone:
                if alone:
                    self._seal(until=time.monotonic() + PATIENCE)
        except SealError as error:
            self._refused = error
            logger.error("%s", error)  # noqa: TRY400 - what is wrong is in the message, not in our frames
        except Exception as error:  # noqa: BLE001 - whatever it was, the append it came after is committed
            logger.warning("not sealed: %s: %s", type(error).__name__, error)
        else:
            self._refused = None
        finally:
            self._turn.release()

    def close(self) -> None:
        """
        Seal what is not sealed yet, before the database is let go of.

        Raises:
            SealError, RollbackError: As ``seal``, here or after an append. Any other trouble is only logged.
        """
        try:
            self.seal(quiet=False)
        except SealError:
            raise
        except ConversationStoreError as error:
            logger.warning("not sealed on closing: %s", error)
        if self._refused is not None:
            raise self._refused

    def seal(self, *, quiet: bool = True) -> Seal:
        """
        Seal every conversation that has grown, sign a checkpoint, publish and remember it.

        Args:
            quiet: Where there is nothing new and the last checkpoint is older than ``older_than``, say so in the
                log, so that there is a new checkpoint all the same.

        Raises:
            RollbackError: The log is not what was signed last. Nothing was written.
            SealError: The log is damaged; ``Store.verify`` says where.
            DatabaseError: The database refused.
            ConfigurationError: The memory cannot be used, or the extra ``seal`` is not installed.
        """
        with self._turn, self._alone():
            found = self._seal(quiet=quiet)
        self._refused = None
        return found

    def begin_epoch(self, trusted: str | None = None) -> Seal:
        """
        Begin a new log, after a backup was restored on purpose: every conversation is sealed anew, as it is now.

        The first leaf of the new log is the last checkpoint of the old one that is trusted.

        Args:
            trusted: That checkpoint; what the memory holds without it, or else the newest in the database.

        Raises:
            ConfigurationError: What is given is no checkpoint.
            SealError: No checkpoint is known, so there is none to go on from.
        """
        with self._turn, self._alone():
            remembered = self.remembered
            self._written(lambda connection: self._begin_epoch(connection, trusted, remembered))
            return self._seal(epoch=True)

    # --- in turn -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Keep other signers with the same memory out: what is published must not go back."""
        if self._given.memory is None:
            yield True
            return
        with self._given.memory.held(wait=wait) as alone:
            yield alone

    def _seal(self, **asked: Any) -> Seal:
        try:
            return self._sealed(**asked)
        except (TypeError, ValueError, ArithmeticError) as error:
            if isinstance(error, ConversationStoreError):
                raise
            raise SealError(f"the log of seals is damaged: {error}; verify says where") from error

    def _sealed(self, *, until: float = float("inf"), quiet: bool = False, epoch: bool = False) -> Seal:
        self._due.begin()
        self._trusted(epoch=epoch)  # so that nothing is added to a log that will not be signed
        added = 0
        while count := self._written(self._add_heads):
            added += count
            if time.monotonic() >= until:
                break
        if quiet and not added:
            added = self._written(self._add_quiet)
        return self._signed(added, epoch=epoch)

    def _written(self, work: Callable[[Connection], int]) -> int:
        """Run a transaction until no other sealer is faster."""
        for _ in range(_RACES):
            done: int | None = self._database.write(work)
            if done is not None:
                return done
        raise DatabaseError("lost a race", "other sealers were faster for too long; try again")

    # --- the log -----------------------------------------------------------------------------------------------------

    def _add_heads(self, connection: Connection) -> int:
        """Add the heads of conversations that have grown; a transaction's work, to be done again as it is."""
        heads = seals.behind(connection, BATCH)
        if not heads:
            return 0
        self._extend(connection, self._log(connection), [_leaf_of(each) for each in heads])
        seals.mark(connection, heads)
        return len(heads)

    def _add_quiet(self, connection: Connection) -> int:
        log = seals.newest_log(connection)
        newest = None if log is None else seals.newest_checkpoint(connection, log.number)
        now = identity.now()
        if log is None or newest is None or now - newest.at < self._given.older_than * 1_000_000:
            return 0
        self._extend(connection, log, [Leaf(leaves.quiet(now))])
        return 1

    def _begin_epoch(self, connection: Connection, trusted: str | None, remembered: str | None) -> int:
        log = seals.newest_log(connection)
        newest = None if log is None else seals.newest_checkpoint(connection, log.number)
        last = trusted or remembered or (None if newest is None else newest.note.decode(errors="replace"))
        if last is None:
            raise SealError("no checkpoint is known to go on from; give the last one that is trusted")
        if log is not None and leaves.checkpoint_in(seals.leaf_at(connection, log.number, 0) or b"") == last:
            return 0  # begun before, and broken off before it was remembered
        try:
            origin = Checkpoint.read(Note.read(last).text).origin
        except CodecError as error:
            raise ConfigurationError(f"the trusted checkpoint is none: {error}") from None
        # Counted from the last one that was signed: the backup may be older than the log before.
        known = [origin] if log is None else [origin, log.origin]
        number = 1 + max(self._epoch(each) or 1 for each in known)
        fresh = Log(1 if log is None else log.number + 1, f"{self._given.log_name}/{number}")
        seals.put_log(connection, fresh)
        self._extend(connection, fresh, [Leaf(leaves.epoch(last))])
        seals.unmark_all(connection)
        return 1

    def _epoch(self, origin: str) -> int | None:
        """Say which of this signer's logs an origin names: the first is 1; None for none of its."""
        if origin == self._given.log_name:
            return 1
        number = origin.removeprefix(f"{self._given.log_name}/")
        return int(number) if number != origin and number.isascii() and number.isdecimal() else None

    def _log(self, connection: Connection) -> Log:
        log = seals.newest_log(connection)
        if log is None:
            log = Log(1, self._given.log_name)
            seals.put_log(connection, log)
        return log

    def _extend(self, connection: Connection, log: Log, added: Sequence[Leaf]) -> None:
        """Append leaves to a log: its row, which decides between sealers, then tiles and leaves."""
        there = seals.tiles(connection, log.number, tiles.edge(log.size))
        _check_edge(log, there)
        hashes = [merkle.leaf_hash(each.data) for each in added]
        grown = merkle.Frontier(log.size, list(log.frontier))
        for each in hashes:
            grown.add(each)
        seals.grow(connection, log, evolve(log, size=grown.size, frontier=tuple(grown.peaks)))
        seals.put_tiles(connection, log, tiles.extended(there, log.size, hashes), there)
        seals.put_leaves(connection, log, added)

    # --- what is signed ----------------------------------------------------------------------------------------------

    @property
    def remembered(self) -> str | None:
        """The note that the memory holds; None for none. Errors as ``Memory.read``."""
        found = None if self._given.memory is None else self._given.memory.read()
        return None if found is None else found[0]

    def _trusted(self, *, epoch: bool) -> tuple[Log, Kept | None, Checkpoint | None] | None:
        """
        Read the log as it is to be signed, and hold it against the memory.

        Raises:
            RollbackError: It does not go on from what is remembered.
        """
        # The memory first: it is never ahead of a log that only grows.
        found = None if self._given.memory is None else self._given.memory.read()
        with self._database.read() as connection:
            log = seals.newest_log(connection)
            if log is None:
                if found is not None:
                    raise RollbackError(remembered=_said(found[1]), found="gone")
                return None
            if self._epoch(log.origin) is None:
                raise SealError(f"the log is of {log.origin[:80]!r}; this signer signs for {self._given.log_name!r}")
            _check_edge(log, seals.tiles(connection, log.number, tiles.edge(log.size)))
            newest = seals.newest_checkpoint(connection, log.number)
            if found is None:
                if newest is not None and self._given.memory is not None:
                    logger.warning(
                        "%r is empty and the log was sealed before: it is trusted as it is", self._given.memory
                    )
                return log, newest, None
            _, last = found
            if last.origin != log.origin:
                first = seals.leaf_at(connection, log.number, 0)
                if not epoch or first is None or leaves.checkpoint_in(first) is None:
                    raise RollbackError(remembered=_said(last), found=f"another one, {log.origin}")
            elif not _goes_on(connection, log, last):
                raise RollbackError(remembered=_said(last), found=f"of {log.size} leaves and root {_short(log.root)}")
            return log, newest, last if last.origin == log.origin else None

    def _signed(self, added: int, *, epoch: bool) -> Seal:
        state = self._trusted(epoch=epoch)
        if state is None or state[0].size == 0:
            return Seal(origin=self._given.log_name, size=0, note=None, added=0, failed={})
        log, newest, last = state
        note = self._sign(Checkpoint(origin=log.origin, size=log.size, root=log.root))
        taken: list[str] = []
        if newest is not None and newest.size == log.size:
            taken = _names(newest.published_to)
        else:
            kept = Kept(log.size, note.encode(), identity.now(), b"[]")
            self._database.write(lambda connection: seals.put_checkpoint(connection, log.number, kept))
        failed = self._publish(log, note, taken)
        if self._given.memory is not None and (last is None or last.size < log.size):
            self._given.memory.keep(note)
        return Seal(origin=log.origin, size=log.size, note=note, added=added, failed=failed)

    def _sign(self, checkpoint: Checkpoint) -> str:
        text = str(checkpoint)
        return str(Note(text) if self._given.key is None else self._given.key.sign(text))

    def _publish(self, log: Log, note: str, taken: list[str]) -> dict[str, str]:
        failed = {}
        before = len(taken)
        for anchor in self._given.anchors:
            name = name_of(anchor)
            if name in taken:
                continue
            try:
                anchor.publish(note)
            except Exception as error:  # noqa: BLE001 - anybody's code; the seal stands
                failed[name] = f"{type(error).__name__}: {error}"
                logger.warning("the checkpoint of %d leaves was not taken by %s: %s", log.size, name, failed[name])
            else:
                taken.append(name)
        if len(taken) > before:
            names = canonical.dumps(taken)
            self._database.write(lambda connection: seals.mark_published(connection, log.number, log.size, names))
        return failed


def _leaf_of(head: leaves.Sealed) -> Leaf:
    return Leaf(head.leaf, head.conversation, head.length)


def _check_edge(log: Log, there: Mapping[tiles.Place, bytes]) -> None:
    """Make sure that a log's row and the tiles at its edge are of one tree."""
    try:
        peaks = tiles.peaks(there, log.size) if log.size else []
    except LookupError:
        peaks = None
    if peaks != list(log.frontier):
        raise SealError("the log of seals is damaged: its tiles are not those of its root; verify says where")


def _goes_on(connection: Connection, log: Log, last: Checkpoint) -> bool:
    """Say whether a log goes on from a checkpoint: prove it from the tiles, as for somebody else."""
    if last.size > log.size:
        return False
    if last.size == log.size:
        return last.root == log.root
    parts = merkle.consistency(last.size, log.size)
    known = dict(zip(merkle.perfect((0, log.size)), log.frontier, strict=True))
    there = seals.tiles(connection, log.number, tiles.places(parts, known))
    try:
        proof = [tiles.subtree(there, part, known) for part in parts]
    except LookupError:
        return False
    return merkle.is_consistent(last.size, log.size, last.root, log.root, proof)


def _names(published_to: bytes) -> list[str]:
    try:
        found: Any = canonical.loads(published_to)
    except CodecError:
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _said(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.origin} of {checkpoint.size} leaves and root {_short(checkpoint.root)}"


def _short(root: bytes) -> str:
    return root.hex()[:16]
