"""
Signed notes, checkpoints and proofs as text, in the forms of C2SP that verifiers of transparency logs read.

The forms are those of c2sp.org/signed-note, c2sp.org/tlog-checkpoint and c2sp.org/tlog-proof. Reading is strict:
base64 has one spelling, numbers have no leading zeros. Signatures are made and checked in ``audit/keys.py``.

A checkpoint without any signature is no note to C2SP. We write it all the same where there is no key: the text and
the blank line, so that it can be kept, compared, and pinned.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Self

from attrs import frozen

from conversation_store.errors import CodecError
from conversation_store.record.merkle import HASH

ED25519: Final = 1
"""The signature type of C2SP signed-note for Ed25519."""

MOST_SIGNATURES: Final = 100
LONGEST: Final = 1 << 20
"""Limits of what is read: signatures of a note, and its bytes."""

_DASH: Final = "\N{EM DASH} "
_PROOF: Final = "c2sp.org/tlog-proof@v1"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NAME: Final = re.compile(r"[^\s+\x00-\x1f]+")


@frozen
class Signature:
    """
    A signature line of a note.

    Attributes:
        name: The key's name.
        key: The key's id, 4 bytes.
        data: The signature itself.
    """

    name: str
    key: bytes
    data: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {encoded(self.key + self.data)}\n"


@frozen
class Note:
    """
    A text and who signed it. Nothing in it is to be believed before a signature was checked.

    Attributes:
        text: With its final newline.
        signatures: In their order; none where there was no key.
    """

    text: str
    signatures: tuple[Signature, ...] = ()

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    @classmethod
    def read(cls, given: str | bytes) -> Self:
        """
        Part a note into its text and its signatures.

        Raises:
            CodecError: It is no note.
        """
        note = _text(given)
        if _CONTROL.search(note):
            raise CodecError("a note has no control characters")
        text, blank, lines = note.rpartition("\n\n")
        if not blank or not text or (lines and not lines.endswith("\n")):
            raise CodecError("a note is a text, an empty line and signature lines")
        signed = lines.split("\n")[:-1]
        if len(signed) > MOST_SIGNATURES:
            raise CodecError(f"a note of more than {MOST_SIGNATURES} signatures")
        return cls(f"{text}\n", tuple(map(_signature, signed)))


def _text(given: str | bytes) -> str:
    if len(given) > LONGEST:
        raise CodecError(f"a note of more than {LONGEST} characters")
    try:
        return given.decode() if isinstance(given, bytes) else given
    except UnicodeDecodeError as error:
        raise CodecError("not UTF-8", error.start) from None


def _signature(line: str) -> Signature:
    name, _, data = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not is_name(name):
        raise CodecError("a signature line is a dash, a key's name and base64")
    found = decoded(data)
    if len(found) <= 4:  # noqa: PLR2004 - a key's id, and nothing behind it
        raise CodecError("a signature line holds a key's id and a signature")
    return Signature(name, found[:4], found[4:])


def is_name(name: str) -> bool:
    """Say whether this can be the name of a key: not empty, no white space, no plus."""
    return _NAME.fullmatch(name) is not None


def key_id(name: str, public: bytes) -> bytes:
    """Derive the id of an Ed25519 key from its name and its 32 bytes: 4 bytes (C2SP signed-note)."""
    return sha256(name.encode() + b"\n" + bytes([ED25519]) + public).digest()[:4]


def encoded(data: bytes) -> str:
    """Write bytes in base64, as RFC 4648 section 4 has it."""
    return base64.b64encode(data).decode()


def decoded(text: str) -> bytes:
    """
    Read base64; only the one spelling that ``encoded`` gives.

    Raises:
        CodecError: It is another, or none.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CodecError("no base64") from None
    if encoded(data) != text:
        raise CodecError("base64 that could be written otherwise")
    return data


def number(text: str) -> int:
    """
    Read a number from 0 on, without leading zeros.

    Raises:
        CodecError: It is none.
    """
    if _NUMBER.fullmatch(text) is None:
        raise CodecError("no number")
    return int(text)


@frozen(kw_only=True)
class Checkpoint:
    """
    What a log was at one size: the text of a note.

    Attributes:
        origin: Which log it is.
        size: How many leaves it had.
        root: The root over them, 32 bytes.
        extensions: Further lines. We write none: C2SP advises against what no monitor can check.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in (self.origin, self.size, encoded(self.root), *self.extensions))

    @classmethod
    def read(cls, text: str) -> Self:
        """
        Read the text of a note.

        Raises:
            CodecError: It is no checkpoint.
        """
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 3 or not all(lines) or not text.endswith("\n"):  # noqa: PLR2004 - origin, size, root
            raise CodecError("a checkpoint is an origin, a size and a root")
        origin, size, encoded_root, *extensions = lines
        root = decoded(encoded_root)
        if len(root) != HASH:
            raise CodecError("a root has 32 bytes")
        return cls(origin=origin, size=number(size), root=root, extensions=tuple(extensions))


@frozen(kw_only=True)
class Proof:
    """
    That a leaf is in a log, to be checked by whoever trusts the log's key (C2SP tlog-proof).

    Attributes:
        index: Of the leaf, from 0.
        path: The hashes of the inclusion proof, the leaf's sibling first.
        checkpoint: The checkpoint's note, as it was signed.
        extra: The leaf itself. It is not to be believed before the proof was checked with it.
    """

    index: int
    path: Sequence[bytes]
    checkpoint: str
    extra: bytes | None = None

    def __str__(self) -> str:
        extra = [] if self.extra is None else [f"extra {encoded(self.extra)}"]
        lines = [_PROOF, *extra, f"index {self.index}", *map(encoded, self.path), ""]
        return "".join(f"{line}\n" for line in lines) + self.checkpoint

    @classmethod
    def read(cls, given: str | bytes) -> Self:
        """
        Read a proof.

        Raises:
            CodecError: It is none.
        """
        head, blank, checkpoint = _text(given).partition("\n\n")
        lines = head.split("\n")
        if not blank or lines.pop(0) != _PROOF:
            raise CodecError(f"a proof begins with {_PROOF}")
        extra = decoded(lines.pop(0).removeprefix("extra ")) if lines and lines[0].startswith("extra ") else None
        if not lines or not lines[0].startswith("index "):
            raise CodecError("a proof names the index of its leaf")
        index = number(lines.pop(0).removeprefix("index "))
        path = tuple(map(decoded, lines))
        if any(len(each) != HASH for each in path):
            raise CodecError("the hashes of a proof have 32 bytes")
        return cls(index=index, path=path, checkpoint=checkpoint, extra=extra)


@frozen(kw_only=True)
class Consistency:
    """
    That a checkpoint goes on from an older one, as a witness is asked to cosign it (C2SP tlog-witness, add-checkpoint).

    Attributes:
        old: How many leaves the older one has.
        path: The hashes of the consistency proof, in the order of RFC 6962.
        checkpoint: The newer one's note.
    """

    old: int
    path: Sequence[bytes]
    checkpoint: str

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in (f"old {self.old}", *map(encoded, self.path), "")) + self.checkpoint

    @classmethod
    def read(cls, given: str | bytes) -> Self:
        """
        Read one.

        Raises:
            CodecError: It is none.
        """
        head, blank, checkpoint = _text(given).partition("\n\n")
        first, *lines = head.split("\n")
        if not blank or not first.startswith("old "):
            raise CodecError("a proof of consistency begins with the older size")
        path = tuple(map(decoded, lines))
        if any(len(each) != HASH for each in path):
            raise CodecError("the hashes of a proof have 32 bytes")
        return cls(old=number(first.removeprefix("old ")), path=path, checkpoint=checkpoint)
