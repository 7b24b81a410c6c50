"""
A server on loopback that sends exact bytes and then misbehaves: closes, resets, or says nothing more.

What it sends to a request is decided by a function of the request's body, so that many can be asked at once. A
recorded answer is put on the wire in one of three framings, and `Framed.arrived` says how much of the answer a
caller can have who was sent only the first bytes of the wire.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from attrs import field, frozen

Ending: TypeAlias = Literal["close", "reset", "stall"]
Framing: TypeAlias = Literal["length", "chunked", "neither"]

ENDINGS: Final[Sequence[Ending]] = ("close", "reset", "stall")
FRAMINGS: Final[Sequence[Framing]] = ("length", "chunked", "neither")
CHUNK: Final = 97
"""Bytes of an answer in one chunk: small, so that cuts fall into sizes, data and line ends."""
_DRAINED: Final = 5.0


@frozen
class Sent:
    """
    What a connection gets.

    Attributes:
        wire: The bytes after the request, headers and all.
        then: What follows them.
        read: How many bytes of the request are read before; None for all of it.
    """

    wire: bytes = b""
    then: Ending = "close"
    read: int | None = None


@frozen
class Framed:
    """
    An answer as it stands on the wire.

    Attributes:
        wire: Status line, headers and body.
        head: How many of these bytes are status line and headers.
        spans: For each piece of the answer: where it stands on the wire, as (start, end).
    """

    wire: bytes = field(repr=False)
    head: int
    spans: Sequence[tuple[int, int]] = field(repr=False)

    def arrived(self, cut: int) -> int:
        """Count the bytes of the answer among the first *cut* bytes of the wire."""
        return sum(min(max(cut - start, 0), end - start) for start, end in self.spans)


def framed(
    body: bytes, framing: Framing, *, kind: str | None = "application/json", status: str = "200 OK", more: str = ""
) -> Framed:
    """
    Put an answer on the wire.

    Args:
        body: The answer.
        framing: How its end is told; with ``neither`` only the connection's end tells it.
        kind: The content type, None for none.
        status: The status line after the version.
        more: Further header lines, each with its line end.
    """
    told = {"length": f"content-length: {len(body)}\r\n", "chunked": "transfer-encoding: chunked\r\n", "neither": ""}
    typed = "" if kind is None else f"content-type: {kind}\r\n"
    head = (
        f"HTTP/1.1 {status}\r\nrequest-id: req_faulty\r\nconnection: close\r\n{typed}{more}{told[framing]}\r\n"
    ).encode()
    if framing != "chunked":
        return Framed(head + body, len(head), [(len(head), len(head) + len(body))])
    wire = bytearray(head)
    spans = []
    for at in range(0, len(body), CHUNK):
        piece = body[at : at + CHUNK]
        wire += b"%x\r\n" % len(piece)
        spans.append((len(wire), len(wire) + len(piece)))
        wire += piece + b"\r\n"
    return Framed(bytes(wire + b"0\r\n\r\n"), len(head), spans)


class FaultyAPI:
    """
    Listens on loopback, one thread a connection, until it is closed.

    Args:
        answer: Says what to send, given a request's body; one `Sent` for all requests will do.

    Attributes:
        url: The base URL.
        bodies: The bodies of the requests that were read whole, in order of arrival.
    """

    def __init__(self, answer: Callable[[bytes], Sent] | Sent) -> None:
        self.bodies: list[bytes] = []
        self._answer = answer
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads = [each for each in self._threads if each.is_alive()]
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            self._open.add(connection)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if isinstance(self._answer, Sent) and self._answer.read is not None:
                sent, left = self._answer, self._answer.read
                while left > 0 and (piece := connection.recv(left)):
                    left -= len(piece)
            else:
                body = _request(connection)
                self.bodies.append(body)
                sent = self._answer(body) if callable(self._answer) else self._answer
            connection.sendall(sent.wire)
            if sent.then == "stall":
                while connection.recv(1 << 16):
                    pass
            elif sent.then == "reset":
                _drain(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._open.discard(connection)
        connection.close()


def _request(connection: socket.socket) -> bytes:
    """Read one request, and give its body."""
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _received(connection)
    head = bytes(data[:end]).lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
    while len(data) < end + 4 + length:
        data += _received(connection)
    return bytes(data[end + 4 :])


def _received(connection: socket.socket) -> bytes:
    piece = connection.recv(1 << 18)
    if not piece:
        raise OSError("the caller left")
    return piece


def _drain(connection: socket.socket) -> None:
    """Wait until the caller's side has every byte: a reset takes back the rest."""
    until = time.monotonic() + _DRAINED
    while time.monotonic() < until:
        if not struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]:
            return
        time.sleep(0.0005)
