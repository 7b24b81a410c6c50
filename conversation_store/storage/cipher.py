"""
Content encrypted on its way into the tables: AES-256-GCM under a data key of its conversation.

Hashes, commitments and seals are made of the plaintext before it comes here, and checked after it left: encrypting,
rotating and decrypting change none of them. A value tells that it is encrypted, and under which key:

    MARK ‖ number of the data key (u64) ‖ nonce (12 random bytes) ‖ ciphertext ‖ tag (16 bytes)

Its associated data are MARK ‖ number ‖ conversation ‖ place: a value that was moved to another row, column or
conversation cannot be read. No value that was ever kept in plain begins with MARK: JSON does not begin with NUL, and
a salt has 32 bytes.

A ``Cipher`` rides on the connections of the store that has keys; where there is none, nothing here is run.
"""

from __future__ import annotations

import hmac
import os
import secrets
import struct
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from attrs import define, evolve, field, frozen
from sqlalchemy import ColumnElement, Connection, Engine, bindparam, delete, insert, select, update

from conversation_store.errors import CiphertextError, ConfigurationError, KeyMissingError
from conversation_store.record.chain import Entry
from conversation_store.storage.engine import Database
from conversation_store.storage.keyring import KEY, NONCE, KeyRing, cipher_of_key
from conversation_store.storage.tables import WRAPPING_KEY_BYTES, conversation
from conversation_store.storage.tables import conversation_data_key as table

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CIPHER: Final = "conversation_store_cipher"
"""The execution option under which a connection carries its cipher."""

MARK: Final = b"\0cs1"

PLAIN: Final = 0
"""In the place of a data key's number: not encrypted."""

CONTENT: Final = ("body", "about", "salt", "request_salt")
"""Columns of an entry that are encrypted."""

_HEAD: Final = struct.Struct(">4sQ")
_SALT: Final = 32
_KNOWN: Final = 4096
"""Conversations whose data keys are kept in memory, unwrapped."""

_current: Final = select(conversation.c.data_key).where(conversation.c.id == bindparam("of"))
_current_held: Final = _current.with_for_update(read=True)
_labels: Final = select(conversation.c.title, conversation.c.metadata).where(conversation.c.id == bindparam("of"))
_wrapped: Final = (
    select(table.c.number, table.c.wrapping_key, table.c.wrapped)
    .where(table.c.conversation == bindparam("of"))
    .order_by(table.c.number)
)


def cipher_of(carrier: Connection | Engine) -> Cipher | None:
    """Say what encrypts on a connection; None for nothing."""
    found: Cipher | None = carrier.get_execution_options().get(CIPHER)
    return found


def key_of(value: object) -> int:
    """Say under which data key a value is encrypted, by its number; ``PLAIN`` for none."""
    if isinstance(value, bytes) and value[:4] == MARK and len(value) >= _HEAD.size:
        return int(_HEAD.unpack_from(value)[1])
    return PLAIN


def place(column: str, *numbers: int) -> bytes:
    """Name a place for the associated data: a column and what its row is counted by."""
    return struct.pack(f">{len(column)}sx{len(numbers)}q", column.encode(), *numbers)


def chunk_place(address: bytes, number: int) -> bytes:
    """Name the place of a blob's chunk."""
    return place("chunk", number) + address


def _said(where: bytes) -> str:
    column, _, numbers = where.partition(b"\0")
    count = len(numbers) // 8
    return " ".join([column.decode(), *map(str, struct.unpack_from(f">{count}q", numbers))])


@frozen(repr=False)
class DataKey:
    """
    A data key in memory.

    Attributes:
        conversation: Whose content it encrypts.
        number: Which of its keys.
        secret: The key itself, and after it the one that names blobs: what is wrapped.
    """

    conversation: UUID
    number: int
    secret: bytes
    _aead: AESGCM

    @classmethod
    def of(cls, conversation: UUID, number: int, secret: bytes) -> DataKey:
        """Make a data key of what was wrapped."""
        return cls(conversation, number, secret, cipher_of_key(secret[:KEY]))

    def seal(self, where: bytes, value: bytes) -> bytes:
        """Encrypt a value for its place."""
        head, nonce = _HEAD.pack(MARK, self.number), os.urandom(NONCE)
        return head + nonce + self._aead.encrypt(nonce, value, head + self.conversation.bytes + where)

    def open(self, where: bytes, value: bytes) -> bytes:
        """
        Decrypt a value that was encrypted for this place under this key.

        Raises:
            CiphertextError: It was not.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an optional extra

        start = _HEAD.size + NONCE
        head, nonce = value[: _HEAD.size], value[_HEAD.size : start]
        try:
            return self._aead.decrypt(nonce, value[start:], head + self.conversation.bytes + where)
        except (InvalidTag, ValueError):
            raise CiphertextError(self.conversation, _said(where), "not what was encrypted here") from None

    def address(self, digest: bytes) -> bytes:
        """
        Name a blob of this conversation by the SHA-256 of its bytes; the same under all its keys since the last shred.

        A bare SHA-256 would tell anybody who has the file that it is kept here, and in which conversations.
        """
        return hmac.digest(self.secret[KEY:], digest, "sha256")

    def successor(self) -> bytes:
        """Make the secret of the next key, under which blobs keep their names."""
        return os.urandom(KEY) + self.secret[KEY:]


@define
class _Known:
    """What is known of a conversation's keys: which one is written under, those unwrapped, a first one for it."""

    current: int | None = None
    first: tuple[str, DataKey] | None = None
    keys: dict[int, DataKey] = field(factory=dict)


class Cipher:
    """
    Encrypts and decrypts what passes a connection, under the data keys of its conversations.

    May be shared by threads. Data keys are unwrapped once and kept in memory.

    Attributes:
        ring: Where the wrapping keys are.
    """

    def __init__(self, ring: KeyRing) -> None:
        cipher_of_key(bytes(KEY))  # a missing extra is said before anything is written
        self.ring = ring
        self._known: OrderedDict[UUID, _Known] = OrderedDict()
        self._threads = threading.Lock()

    # --- values ----------------------------------------------------------------------------------------------------

    def sealed(self, connection: Connection, of: UUID, row: dict[str, Any]) -> dict[str, Any]:
        """Encrypt the content of an entry's row."""
        key = self.writing(connection, of)
        position = row["position"]
        return row | {name: key.seal(place(name, position), row[name]) for name in CONTENT if row[name] is not None}

    def sealed_use(self, connection: Connection, of: UUID, row: dict[str, Any]) -> dict[str, Any]:
        """Encrypt the row of a use: the blob goes by its name in this conversation, its SHA-256 beside the salt."""
        key = self.writing(connection, of)
        where = place("use", row["position"], row["number"])
        return row | {"digest": key.address(row["digest"]), "salt": key.seal(where, row["salt"] + row["digest"])}

    def opened(self, connection: Connection, of: UUID, entry: Entry) -> Entry:
        """
        Decrypt the content of an entry.

        Raises:
            KeyMissingError, CiphertextError: It cannot be.
        """
        found: dict[str, Any] = {
            name: self.open(connection, of, place(name, entry.position), getattr(entry, name)) for name in CONTENT
        }
        return evolve(entry, **found)

    def open(self, connection: Connection, of: UUID, where: bytes, value: bytes | None) -> Any:
        """
        Decrypt a value, or give it back where it was kept in plain; None for None.

        Raises:
            KeyMissingError: There is no key for it.
            CiphertextError: It was not encrypted for this place.
        """
        number = key_of(value)
        if value is None or number == PLAIN:
            return value
        return self.reading(connection, of, number, where).open(where, value)

    def opened_use(
        self, connection: Connection, of: UUID, position: int, number: int, salt: bytes
    ) -> tuple[bytes, bytes]:
        """Decrypt what a use of an encrypted blob keeps beside its name: the salt, the SHA-256 of its bytes."""
        both = self.open(connection, of, place("use", position, number), salt)
        return both[:_SALT], both[_SALT:]

    # --- keys ------------------------------------------------------------------------------------------------------

    def writing(self, connection: Connection, of: UUID) -> DataKey:
        """
        Give the key that a conversation's new content is encrypted under; the first one is made here.

        A conversation that is not there yet has one too, which is kept once the conversation is (``keep``).

        Raises:
            KeyMissingError, CiphertextError: It cannot be unwrapped.
        """
        known = self._of(of)
        if known.current is None:
            known.current = connection.execute(_current, {"of": of.bytes}).scalar()
        return self._writing(connection, of, known)

    def holding(self, connection: Connection, of: UUID) -> DataKey:
        """Give the same key, and let it be no other one until this transaction ends."""
        known = self._of(of)
        known.current = connection.execute(_current_held, {"of": of.bytes}).scalar()
        return self._writing(connection, of, known)

    def moved_on(self, connection: Connection, of: UUID) -> bool:
        """Look again which key is written under, and say whether it is another one than was thought."""
        known = self._of(of)
        before = known.current
        known.current = connection.execute(_current, {"of": of.bytes}).scalar()
        return known.current != before

    def reading(self, connection: Connection, of: UUID, number: int, where: bytes = b"content") -> DataKey:
        """
        Give one of a conversation's keys.

        Raises:
            KeyMissingError, CiphertextError: It cannot be unwrapped.
        """
        known = self._of(of)
        key = known.keys.get(number)
        if key is None:
            key = known.keys[number] = self._unwrapped(connection, of, number, where)
        return key

    def all(self, connection: Connection, of: UUID) -> list[DataKey]:
        """
        Give every key of a conversation that is there, and make none.

        Raises:
            KeyMissingError, CiphertextError: There is none, or one cannot be unwrapped.
        """
        held = [number for number, _, wrapped in self.wrapped(connection, of) if wrapped is not None]
        if not held:
            raise KeyMissingError(of, "the content", "none of its data keys is there")
        return [self.reading(connection, of, number) for number in held]

    def looked_at(self, connection: Connection, of: UUID) -> list[DataKey]:
        """Give the same, each unwrapped anew: a key in memory must not hide that its row was changed."""
        self._of(of).keys.clear()
        return self.all(connection, of)

    def wrapped(self, connection: Connection, of: UUID) -> list[tuple[int, str, bytes | None]]:
        """
        Read (number, name of the wrapping key, wrapped key) of a conversation's data keys.

        Raises:
            CiphertextError: A hostile hand put something else there.
        """
        cursor = connection.execute(_wrapped, {"of": of.bytes}).cursor
        found = [] if cursor is None else cursor.fetchall()
        try:
            return [(number + 0, str(name, "utf-8"), _bytes(wrapped)) for number, name, wrapped in found]
        except (TypeError, ValueError):
            raise CiphertextError(of, "data_key", "what is there is no wrapped key") from None

    def first(self, of: UUID) -> DataKey:
        """Make the first key of a conversation; the same one, however often its transaction is tried."""
        known = self._of(of)
        with self._threads:
            if known.first is None:
                known.first = (self._made(of), DataKey.of(of, _number(), os.urandom(2 * KEY)))
            return known.first[1]

    def keep(self, connection: Connection, of: UUID) -> None:
        """Keep the first key of a conversation, whose row names it already."""
        key, known = self.first(of), self._of(of)
        if known.first is not None:
            self._insert(connection, key, known.first[0])
        known.current, known.keys[key.number] = key.number, key

    def _writing(self, connection: Connection, of: UUID, known: _Known) -> DataKey:
        if known.current is None:  # the conversation is not there yet
            return self.first(of)
        if known.current == PLAIN:
            self._begin(connection, of, known)
        return self.reading(connection, of, known.current)

    def _begin(self, connection: Connection, of: UUID, known: _Known) -> None:
        """Give a conversation that was kept in plain its first key, unless somebody else does just now."""
        begun = update(conversation).where(conversation.c.id == of.bytes, conversation.c.data_key == PLAIN)
        if connection.execute(begun.values(data_key=self.first(of).number)).rowcount == 1:
            self.keep(connection, of)
            self._seal_labels(connection, self.first(of))
        else:
            known.current = connection.execute(_current, {"of": of.bytes}).scalar()

    def _seal_labels(self, connection: Connection, key: DataKey) -> None:
        of = key.conversation
        found = connection.execute(_labels, {"of": of.bytes}).mappings().one()
        values = {name: self.again(connection, key, place(name), value) for name, value in found.items()}
        connection.execute(update(conversation).where(conversation.c.id == of.bytes).values(values))

    def again(self, connection: Connection, key: DataKey, where: bytes, value: Any) -> bytes | None:
        """Encrypt what was encrypted under another key, or kept in plain, under this one; None for None."""
        if value is None or key_of(value) == key.number:
            return _bytes(value)
        return key.seal(where, self.open(connection, key.conversation, where, bytes(value)))

    def _made(self, of: UUID) -> str:
        name = self.ring.create(of)
        if not 0 < len(name.encode()) <= WRAPPING_KEY_BYTES:
            raise ConfigurationError(f"a key ring names its keys in 1 to {WRAPPING_KEY_BYTES} bytes")
        return name

    def _insert(self, connection: Connection, key: DataKey, name: str) -> None:
        row = {
            "conversation": key.conversation.bytes,
            "number": key.number,
            "wrapping_key": name.encode(),
            "wrapped": self.ring.wrap(key.conversation, name, key.secret),
        }
        connection.execute(insert(table), row)

    def _unwrapped(self, connection: Connection, of: UUID, number: int, where: bytes) -> DataKey:
        rows = {each: (name, wrapped) for each, name, wrapped in self.wrapped(connection, of)}
        name, wrapped = rows.get(number, ("", None))
        if wrapped is None:
            raise KeyMissingError(of, _said(where), "the data key it is under is not there: it was destroyed")
        try:
            return DataKey.of(of, number, self.ring.unwrap(of, name, wrapped))
        except LookupError:
            message = f"the key ring has no key {name} of it: it was destroyed, or is in another ring"
            raise KeyMissingError(of, _said(where), message) from None
        except ValueError:
            message = f"it was not wrapped by the key {name} of this ring"
            raise CiphertextError(of, f"data key {number}", message) from None

    def _of(self, of: UUID) -> _Known:
        with self._threads:
            known = self._known.get(of)
            if known is None:
                known = self._known[of] = _Known()
                if len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(of)
            return known

    # --- other keys ------------------------------------------------------------------------------------------------

    def succeed(self, connection: Connection, of: UUID, *, shred: bool = False) -> DataKey:
        """
        Write a conversation under a new data key from now on, title and metadata with it.

        Args:
            connection: In a transaction that writes.
            of: The conversation.
            shred: Have it wrapped by a new key of the ring, and share nothing with those before.
        """
        before = self.holding(connection, of)
        names = {number: name for number, name, _ in self.wrapped(connection, of)}
        name = self._made(of) if shred else names[before.number]
        key = DataKey.of(of, _number(), os.urandom(2 * KEY) if shred else before.successor())
        self._insert(connection, key, name)
        connection.execute(update(conversation).where(conversation.c.id == of.bytes).values(data_key=key.number))
        known = self._of(of)
        known.current, known.keys[key.number] = key.number, key
        self._seal_labels(connection, key)
        return key

    def rewrap(self, connection: Connection, of: UUID) -> None:
        """Wrap a conversation's data keys by a new key of the ring, and give up those that wrapped them before."""
        self.holding(connection, of)
        names = {name for _, name, wrapped in self.wrapped(connection, of) if wrapped is not None}
        name = self._made(of)
        for key in self.all(connection, of):
            again = {"wrapping_key": name.encode(), "wrapped": self.ring.wrap(of, name, key.secret)}
            connection.execute(update(table).where(*_row_of(key)).values(again))
        for before in sorted(names):
            row = {"conversation": of.bytes, "number": _number(), "wrapping_key": before.encode(), "wrapped": None}
            connection.execute(insert(table), row)

    def retire(self, connection: Connection, of: UUID, *, shred: bool = False) -> None:
        """
        Take every data key from the database but the one that is written under; nothing is under them any more.

        *shred* gives up what wrapped them as well.
        """
        current = self.writing(connection, of).number
        others = (table.c.conversation == of.bytes, table.c.number != current, table.c.wrapped.is_not(None))
        connection.execute(update(table).where(*others).values(wrapped=None) if shred else delete(table).where(*others))

    def destroy_given_up(self, database: Database, of: UUID) -> bool:
        """
        Have the ring destroy the wrapping keys of a conversation that were given up, and then forget their names.

        Until then their names stay in the database, so that a crash in between leaves none of them behind: called
        again, this goes on.

        Returns:
            Whether there was one.
        """
        with database.read() as connection:
            held = self.wrapped(connection, of)
        used = {name for _, name, wrapped in held if wrapped is not None}
        given_up = {number: name for number, name, wrapped in held if wrapped is None}
        for name in sorted(set(given_up.values()) - used):
            self.ring.destroy(of, name)
        if given_up:
            here = (table.c.conversation == of.bytes, table.c.number.in_(sorted(given_up)))
            database.write(lambda connection: connection.execute(delete(table).where(*here)).rowcount)
            with self._threads:
                self._known.pop(of, None)
        return bool(given_up)


def _number() -> int:
    # Random, because a number that was taken in a transaction that came to nothing must never mean another key.
    return 1 + secrets.randbelow((1 << 63) - 1)


def _row_of(key: DataKey) -> tuple[ColumnElement[bool], ...]:
    return (table.c.conversation == key.conversation.bytes, table.c.number == key.number)


def opened_labels(connection: Connection, own: Any, title: Any, metadata: Any) -> tuple[bytes | None, bytes | None]:
    """
    Decrypt the title and metadata of a conversation that is encrypted.

    Raises:
        KeyMissingError: The store has no keys, or not this one.
        CiphertextError: They are not what was encrypted.
    """
    of = UUID(bytes=bytes(own))
    cipher = cipher_of(connection)
    if cipher is None:
        raise KeyMissingError(of, "the content", "it is encrypted, and the store was opened without keys=…")
    opened = [
        cipher.open(connection, of, place(name), _bytes(value))
        for name, value in (("title", title), ("metadata", metadata))
    ]
    return opened[0], opened[1]


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(memoryview(value))
