"""
What a signer remembers outside the database: the last checkpoint it signed, in a small file.

Whoever can write the database cannot make it forget. The file holds the note itself, so that it can be read with
any tool; it is replaced as a whole, made durable before and after, and readable by its owner alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from conversation_store.errors import CodecError, ConfigurationError
from conversation_store.record.notes import Checkpoint, Note

try:
    import fcntl
except ImportError:  # Windows: signers of one machine are kept apart by the database alone
    fcntl = None  # type: ignore[assignment]

_OWNER_ONLY: Final = 0o600


class Memory:
    """The file of one signer. Several processes of a machine may share it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"<Memory {self.path}>"

    @contextmanager
    def held(self, *, wait: bool = True) -> Iterator[bool]:
        """
        Keep other signers of this machine out; gives False where one is at it and it is not waited for.

        Raises:
            ConfigurationError: The file beside it cannot be made.
        """
        if fcntl is None:
            yield True
            return
        try:
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
        except OSError as error:
            raise ConfigurationError(f"the signer's memory {self.path} cannot be written: {error.strerror}") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(lock)

    def read(self) -> tuple[str, Checkpoint] | None:
        """
        Read the last checkpoint that was signed: the note and what it says; None where nothing was signed yet.

        Raises:
            ConfigurationError: The file cannot be read, or is something else.
        """
        try:
            note = self.path.read_bytes().decode()
            return note, Checkpoint.read(Note.read(note).text)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"the signer's memory {self.path} cannot be read: {error.strerror}") from None
        except (CodecError, UnicodeDecodeError):
            raise ConfigurationError(f"{self.path} is no signer's memory: it holds no checkpoint") from None

    def keep(self, note: str) -> None:
        """
        Remember a checkpoint in the place of the last one.

        Raises:
            ConfigurationError: The file cannot be written; what was remembered before still is.
        """
        fresh = f"{self.path}.{os.getpid()}.new"
        try:
            made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _OWNER_ONLY)
            with os.fdopen(made, "wb") as file:
                file.write(note.encode())
                file.flush()
                os.fsync(made)
            Path(fresh).replace(self.path)
            _sync(self.path.parent)
        except OSError as error:
            raise ConfigurationError(f"the signer's memory {self.path} cannot be written: {error.strerror}") from None


def _sync(folder: Path) -> None:
    """Make the renaming durable, where folders can be opened."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
