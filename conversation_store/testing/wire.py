"""The bytes of one connection, and the requests read from them."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlsplit

from conversation_store.testing.counting import count

try:
    import fcntl
    import termios
except ImportError:  # pragma: no cover - Windows has neither; there a short pause takes their place
    fcntl = termios = None  # type: ignore[assignment]

PATIENCE: Final = 5.0
"""Seconds to wait for something that takes none."""
_PIECE: Final = 1 << 18
_LONGEST_LINE: Final = 1 << 16


class Headers(Mapping[str, str]):
    """Header fields, looked up without regard to case; a repeated field is joined with commas."""

    __slots__ = ("_fields", "pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs = tuple(pairs)
        self._fields: dict[str, str] = {}
        for name, value in self.pairs:
            key = name.lower()
            self._fields[key] = f"{self._fields[key]}, {value}" if key in self._fields else value

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        shown = {key: "***" if key in {"x-api-key", "authorization"} else value for key, value in self._fields.items()}
        return f"Headers({shown!r})"


@dataclass
class Request:
    """
    One request as it arrived.

    Attributes:
        method: The HTTP method.
        path: The target without its query.
        query: What follows the question mark.
        headers: The header fields.
        raw: The body's bytes as sent, chunks joined, still compressed where it was; cut where it was too large.
        at: When its last byte had arrived, seconds since the epoch.
        connection: The number of the connection it came on, from 0.
        id: The ``request-id`` of the answer.
        status: The status it was answered with; None while it is not, and where no status was sent.
        response: The body bytes sent back, also where they were cut.
        transformations: What became of thinking that did not fit, as ``input_transformations`` tells it.
    """

    method: str
    path: str
    query: str
    headers: Headers
    raw: bytes = field(repr=False)
    at: float
    connection: int
    id: str = ""
    status: int | None = None
    response: bytes = field(default=b"", repr=False)
    transformations: tuple[Mapping[str, str], ...] = field(default=(), repr=False)

    @cached_property
    def body(self) -> Any:
        """The decoded JSON; None where it is no JSON."""
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(self.raw)
        return None

    @cached_property
    def input_tokens(self) -> int:
        """What the body counts, in tokens as `count_tokens` answers them."""
        return count(self.body)


class GoneError(Exception):
    """The caller left or speaks no HTTP, or the API is closing."""


class Wire:
    """The bytes of one connection."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self.socket = connection
        self.number = number
        self._buffer = bytearray()

    def wait_for_bytes(self) -> None:
        """Wait for the first byte of a request without reading it."""
        if not self._buffer and not self.socket.recv(1, socket.MSG_PEEK):
            raise GoneError

    def read(self, limit: int) -> Request:
        """Read one request; of a body longer than *limit* one byte more than that is kept."""
        method, target, version = self._request_line()
        headers = Headers(self._fields())
        if "100-continue" in headers.get("expect", "").lower():
            self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw = bytearray()
        for piece in self._body(headers):
            raw += piece[: limit + 1 - len(raw)]
        parts = urlsplit(target)
        request = Request(method, parts.path, parts.query, headers, bytes(raw), at=time.time(), connection=self.number)
        asked = headers.get("connection", "keep-alive" if version == "HTTP/1.1" else "close")
        self.stays = asked.lower() != "close"
        return request

    def end(self, *, hard: bool = False) -> bool:
        """End the connection, hard with a reset; return False, for "it does not stay open"."""
        if hard:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        return False

    def drain(self) -> None:
        """Wait until the caller's side has everything that was sent: a reset would take back the rest."""
        if fcntl is None:  # pragma: no cover - Windows
            time.sleep(0.05)
            return
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            queued = struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4))[0]
            if not queued:
                return
            time.sleep(0.0005)

    def hold(self) -> None:
        """Keep the connection open until the caller, or the API, closes it."""
        while self.socket.recv(_PIECE):
            pass

    def _request_line(self) -> tuple[str, str, str]:
        line = self._line() or self._line()  # an empty line before a request is to be ignored
        words = line.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, target, version
            self.socket.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            raise GoneError
        return words[0], words[1], words[2]

    def _fields(self) -> Iterator[tuple[str, str]]:
        while line := self._line():
            name, _, value = line.partition(":")
            yield name.strip(), value.strip()

    def _body(self, headers: Headers) -> Iterator[bytes]:
        if "chunked" not in headers.get("transfer-encoding", "").lower():
            length = headers.get("content-length", "0")
            yield from self._exactly(int(length) if length.isdecimal() else 0)
            return
        while size := self._chunk_size():
            yield from self._exactly(size)
            self._line()
        for _ in self._fields():  # trailers
            pass

    def _chunk_size(self) -> int:
        try:
            return abs(int(self._line().partition(";")[0], 16))
        except ValueError:
            raise GoneError from None

    def _line(self) -> str:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LONGEST_LINE:
                raise GoneError
            self._receive()
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        return line.decode("latin-1")

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._buffer:
                self._receive()
            piece = bytes(self._buffer[:length])
            del self._buffer[:length]
            length -= len(piece)
            yield piece

    def _receive(self) -> None:
        data = self.socket.recv(_PIECE)
        if not data:
            raise GoneError
        self._buffer += data
