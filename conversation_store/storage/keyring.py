"""
Key rings: the wrapping keys of encrypted conversations, kept by the host outside the database.

A conversation's data keys lie in the database, each wrapped by a key of this conversation alone, and that one is
only in the ring. To destroy it there makes every copy of the content unreadable, in backups of the database too.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from attrs import frozen

from conversation_store.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY: Final = 32
"""Bytes of an AES-256 key."""

NONCE: Final = 12
"""Bytes of a nonce: 96 random bits, as NIST SP 800-38D §8.2.2 has it for up to 2^32 values under one key."""


class KeyRing(Protocol):
    """
    Where a host keeps wrapping keys: a folder, a mapping, or a key management service behind these four methods.

    They may be called from several threads and processes at once. A key is named by its conversation and a name
    that the ring makes up.
    """

    def create(self, conversation: UUID) -> str:
        """Make a key for a conversation and say its name, up to 255 bytes of UTF-8; it lasts when this returns."""

    def wrap(self, conversation: UUID, name: str, secret: bytes) -> bytes:
        """
        Encrypt a secret under a key, bound to the conversation.

        Raises:
            LookupError: There is no such key.
        """

    def unwrap(self, conversation: UUID, name: str, wrapped: bytes) -> bytes:
        """
        Give back what was wrapped.

        Raises:
            LookupError: There is no such key, or not any more.
            ValueError: This was not wrapped by it for this conversation.
        """

    def destroy(self, conversation: UUID, name: str) -> None:
        """Destroy a key for good; nothing where it is gone already. It is gone when this returns."""


def cipher_of_key(key: bytes) -> AESGCM:
    """
    Make AES-256-GCM of a key.

    Raises:
        ConfigurationError: The extra is not installed.
    """
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError:
        raise ConfigurationError("encryption needs the extra: pip install 'conversation_store[encryption]'") from None
    return AESGCM(key)


@frozen
class MappingKeyRing:
    """
    A key ring over a mapping from names to 32 bytes: a dict in a test, a secrets manager that looks like one.

    Attributes:
        keys: The mapping. To set an item must keep it for good, to delete one must destroy it.

    Example:
        >>> ring = MappingKeyRing({})
        >>> of = UUID(int=1)
        >>> name = ring.create(of)
        >>> ring.unwrap(of, name, ring.wrap(of, name, b"secret"))
        b'secret'
    """

    keys: MutableMapping[str, bytes]

    def create(self, conversation: UUID) -> str:
        """As ``KeyRing.create``."""
        name = secrets.token_hex(8)
        self.keys[_item(conversation, name)] = os.urandom(KEY)
        return name

    def wrap(self, conversation: UUID, name: str, secret: bytes) -> bytes:
        """As ``KeyRing.wrap``."""
        nonce = os.urandom(NONCE)
        key = cipher_of_key(self.keys[_item(conversation, name)])
        return nonce + key.encrypt(nonce, secret, conversation.bytes)

    def unwrap(self, conversation: UUID, name: str, wrapped: bytes) -> bytes:
        """As ``KeyRing.unwrap``."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an optional extra

        key = cipher_of_key(self.keys[_item(conversation, name)])
        try:
            return key.decrypt(wrapped[:NONCE], wrapped[NONCE:], conversation.bytes)
        except (InvalidTag, ValueError):
            raise ValueError("not wrapped by this key for this conversation") from None

    def destroy(self, conversation: UUID, name: str) -> None:
        """As ``KeyRing.destroy``."""
        self.keys.pop(_item(conversation, name), None)


def _item(conversation: UUID, name: str) -> str:
    return f"{conversation.hex}.{name}"


class FileKeyRing(MappingKeyRing):
    """
    A key ring in a folder: a file of 32 bytes for each key, mode 0600.

    Keep the folder off the database's disk and out of its backups: who has both can read everything, and a copy of
    a file outlives its destruction. A file is overwritten before it goes, but journals, snapshots and the wear
    levelling of flash memory may keep what was in it: put the folder on an encrypted volume.

    Args:
        folder: Where; it is made if it is not there, mode 0700.

    Raises:
        ConfigurationError: It cannot be made, or is no folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(_Folder(Path(folder)))


class _Folder(MutableMapping[str, bytes]):
    """Files of 32 bytes, by name, in folders by the last two letters of the conversation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot make the key ring {folder}: {error.strerror}") from None

    def _path(self, name: str) -> Path:
        # A UUIDv7 begins with its time: only its end spreads.
        return self._folder / name.partition(".")[0][-2:] / name

    def __getitem__(self, name: str) -> bytes:
        try:
            key = self._path(name).read_bytes()
        except FileNotFoundError:
            raise KeyError(name) from None
        if len(key) != KEY:
            raise KeyError(name)  # a crash while it was made: nothing was ever wrapped by it
        return key

    def __setitem__(self, name: str, key: bytes) -> None:
        path = self._path(name)
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _sync(self._folder)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        _write(file, key)
        _sync(path.parent)

    def __delitem__(self, name: str) -> None:
        path = self._path(name)
        try:
            _write(os.open(path, os.O_WRONLY | os.O_CLOEXEC), bytes(KEY))
            path.unlink()
        except FileNotFoundError:
            raise KeyError(name) from None
        _sync(path.parent)

    def __iter__(self) -> Iterator[str]:
        return (each.name for each in sorted(self._folder.glob("??/*")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _write(file: int, data: bytes) -> None:
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
