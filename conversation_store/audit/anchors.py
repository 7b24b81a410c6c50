"""
Anchors: places outside the database to which checkpoints are published, so that nobody can make them unsaid.

An anchor is anything with ``publish(note)``. A checkpoint may come twice, and an older one after a newer one; what
an anchor raises is reported, the seal stands, and it is asked again with the next one.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from attrs import field, frozen

from conversation_store.api import client
from conversation_store.errors import ConfigurationError

_OWNER_ONLY: Final = 0o600


class Anchor(Protocol):
    """Somewhere checkpoints are kept. A ``name`` of its own, where there is one, says which took what."""

    def publish(self, note: str) -> None:
        """
        Keep a checkpoint, durably before returning.

        Args:
            note: As signed: the text, an empty line, signature lines.

        Raises:
            Exception: It is not kept.
        """
        ...


def name_of(anchor: Anchor) -> str:
    """Say by which name it is remembered that an anchor took a checkpoint."""
    named = getattr(anchor, "name", None)
    return named if isinstance(named, str) else f"{type(anchor).__module__}.{type(anchor).__qualname__}"


@frozen
class FileAnchor:
    """
    A file that every checkpoint is appended to, followed by an empty line. Best on another disk, append-only.

    Attributes:
        path: Made where it is not there, readable by its owner alone.
    """

    path: Path = field(converter=Path)

    @property
    def name(self) -> str:
        """The path."""
        return f"file:{self.path}"

    def publish(self, note: str) -> None:
        """Append the note and make it durable; OSError where that cannot be done."""
        opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _OWNER_ONLY)
        try:
            data = f"{note}\n".encode()
            if os.write(opened, data) != len(data):  # in one piece, so that several signers do not mix theirs
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(opened)
        finally:
            os.close(opened)


def _parts(given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str) or not given:
        raise ConfigurationError("a command is a program and its arguments: ['logger', '-t', 'seals']")
    return tuple(given)


@frozen
class CommandAnchor:
    """
    A command that is given every checkpoint on its standard input, and ends with 0 once it is kept.

    Attributes:
        arguments: The program and its arguments; no shell takes part.
        timeout: Seconds after which it is killed.
    """

    arguments: tuple[str, ...] = field(converter=_parts)
    timeout: float = 30.0

    @property
    def name(self) -> str:
        """The program, without its arguments: there may be secrets in them."""
        return f"command:{Path(self.arguments[0]).name}"

    def publish(self, note: str) -> None:
        """Run the command; OSError or subprocess.SubprocessError where it did not take the note."""
        done = subprocess.run(  # noqa: S603 - the caller's own command
            self.arguments, input=note.encode(), timeout=self.timeout, check=False, capture_output=True
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"it ended with {done.returncode}")


@frozen
class HTTPAnchor:
    """
    An address to which every checkpoint is PUT: a bucket that keeps versions, for instance.

    Attributes:
        url: https, or http to loopback. No redirect is followed.
        headers: What the host knows us by; in no repr and in no message.
        timeout: Seconds for the whole of it.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    timeout: float = 10.0

    def __attrs_post_init__(self) -> None:
        client.check_address(self.url)

    @property
    def name(self) -> str:
        """The address without its query: there may be secrets in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    def publish(self, note: str) -> None:
        """Put the note there, as ``text/plain``; APIError where it is not taken."""
        client.put(
            self.url,
            note.encode(),
            media_type="text/plain; charset=utf-8",
            headers=self.headers,
            timeout=self.timeout,
        )
