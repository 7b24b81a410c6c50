"""
Keys that sign notes and keys that check them: Ed25519, written as C2SP signed-note and Go's note package write them.

The only door to ``cryptography``, which is imported when a key is used and not before (extra ``seal``). Curve and
signature are RFC 8032.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeAlias

from attrs import field, frozen

from conversation_store.errors import CodecError, ConfigurationError
from conversation_store.record import notes
from conversation_store.record.notes import ED25519, Note, Signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

_PRIVATE: Final = "PRIVATE+KEY+"
_KEY_BYTES: Final = 32
_MISSING: Final = "signing and checking seals is an extra: pip install 'conversation_store[seal]'"


def _cryptography() -> tuple[Any, type[Exception]]:
    """Give the module of the curve, and what it raises for a signature that is wrong."""
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see the module's docstring
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - likewise
    except ModuleNotFoundError:
        raise ConfigurationError(_MISSING) from None
    return ed25519, InvalidSignature


def _parted(text: str, what: str) -> tuple[str, bytes]:
    """Part ``name+id+base64`` into the name and the key's 32 bytes."""
    name, _, rest = text.strip().partition("+")
    identity, _, data = rest.partition("+")
    try:
        found = notes.decoded(data)
        told = bytes.fromhex(identity)
    except (CodecError, ValueError):
        raise ConfigurationError(f"no {what}: give name+id+base64, as conversation-store seal prints it") from None
    if not notes.is_name(name) or len(told) != 4 or len(found) != 1 + _KEY_BYTES or found[0] != ED25519:  # noqa: PLR2004
        raise ConfigurationError(f"no {what}: it is no Ed25519 key of C2SP signed-note")
    return name, found[1:]


@frozen
class VerifyKey:
    """
    A key that anybody may have: it checks signatures.

    Attributes:
        name: The key's name; by custom the origin of the log it signs.
        public: 32 bytes.
    """

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read ``name+id+base64``.

        Raises:
            ConfigurationError: It is no such key.
        """
        key = cls(*_parted(text, "verifier key"))
        if str(key) != text.strip():
            raise ConfigurationError("no verifier key: its id is not that of the key")
        return key

    @property
    def id(self) -> bytes:
        """The 4 bytes by which a signature line names it."""
        return notes.key_id(self.name, self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{notes.encoded(bytes([ED25519]) + self.public)}"

    def has_signed(self, text: str, signature: Signature) -> bool:
        """
        Say whether a signature over a note's text is this key's.

        Raises:
            ConfigurationError: The extra ``seal`` is not installed.
        """
        if (signature.name, signature.key) != (self.name, self.id):
            return False
        curve, invalid = _cryptography()
        try:
            curve.Ed25519PublicKey.from_public_bytes(self.public).verify(signature.data, text.encode())
        except (invalid, ValueError):
            return False
        return True


def is_signed(note: Note, keys: Iterable[VerifyKey]) -> bool:
    """
    Say whether a note is signed by one of these keys and by none of them wrongly (C2SP signed-note, "Signatures").

    Raises:
        ConfigurationError: The extra ``seal`` is not installed.
    """
    known = {(key.name, key.id): key for key in keys}
    found = [(known[each.name, each.key], each) for each in note.signatures if (each.name, each.key) in known]
    return bool(found) and all(key.has_signed(note.text, signature) for key, signature in found)


VerifyKeys: TypeAlias = str | VerifyKey | Sequence[str | VerifyKey] | None
"""A verifier key as its text or read, or several; None for no signature."""


def verify_keys(given: VerifyKeys) -> tuple[VerifyKey, ...]:
    """
    Read the keys a caller trusts: one, several, or none.

    Raises:
        ConfigurationError: One of them is no key, or it is a private one.
    """
    if given is None:
        return ()
    several = [given] if isinstance(given, (str, VerifyKey)) else list(given)
    if any(isinstance(each, str) and each.startswith(_PRIVATE) for each in several):
        raise ConfigurationError("this is a private key; checking takes the verifier key, name+id+base64")
    return tuple(each if isinstance(each, VerifyKey) else VerifyKey.parse(each) for each in several)


@frozen
class SigningKey:
    """
    A key that signs. Whoever has it can sign another history: keep it where no database administrator can read it.

    Attributes:
        name: The key's name.
    """

    name: str
    _seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Self:
        """
        Make a new key.

        Args:
            name: Without white space and plus; by custom an address without a scheme (``example.com/bot``), which
                need not exist.

        Raises:
            ConfigurationError: That is no name for a key.
        """
        if not notes.is_name(name):
            raise ConfigurationError("a key's name has no white space and no plus: example.com/bot")
        return cls(name, os.urandom(_KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read ``PRIVATE+KEY+name+id+base64``.

        Raises:
            ConfigurationError: It is no such key; the message holds nothing of it.
        """
        if not text.startswith(_PRIVATE):
            raise ConfigurationError("no signing key: it begins with PRIVATE+KEY+")
        key = cls(*_parted(text.removeprefix(_PRIVATE), "signing key"))
        if key.reveal() != text.strip():
            raise ConfigurationError("no signing key: its id is not that of the key")
        return key

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """
        Read a key from a file.

        Raises:
            ConfigurationError: It cannot be read, or holds no such key.
        """
        try:
            return cls.parse(Path(path).read_text(encoding="ascii"))
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigurationError(f"the signing key {path} cannot be read: {said}") from None

    def write(self, path: str | Path) -> None:
        """
        Write the key to a new file that nobody else may read.

        Raises:
            ConfigurationError: The file cannot be made, or is there already: no key is ever overwritten.
        """
        data = f"{self.reveal()}\n".encode()
        try:
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(made, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(made)
        except OSError as error:
            raise ConfigurationError(f"the signing key {path} cannot be made: {error.strerror}") from None

    def reveal(self) -> str:
        """Write the key as Go's note package does; show it to nobody."""
        identity = self.verifier.id.hex()
        return f"{_PRIVATE}{self.name}+{identity}+{notes.encoded(bytes([ED25519]) + self._seed)}"

    def _private(self) -> ed25519.Ed25519PrivateKey:
        key: ed25519.Ed25519PrivateKey = _cryptography()[0].Ed25519PrivateKey.from_private_bytes(self._seed)
        return key

    @property
    def verifier(self) -> VerifyKey:
        """The key that checks what this one signs."""
        return VerifyKey(self.name, self._private().public_key().public_bytes_raw())

    def sign(self, text: str) -> Note:
        """Sign a note's text; the same text gives the same note."""
        data = self._private().sign(text.encode())
        return Note(text, (Signature(self.name, self.verifier.id, data),))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key cannot be pickled or copied")
