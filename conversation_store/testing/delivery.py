"""Replies, and how they are sent: whole, or with the fault they were scripted with."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from email.utils import formatdate
from http import HTTPStatus
from http.client import responses
from itertools import cycle
from typing import NamedTuple

from conversation_store.testing.answers import Fault
from conversation_store.testing.wire import GoneError, Request, Wire


class Reply(NamedTuple):
    """What is sent back; a stream is sent in chunks, one for each piece."""

    status: int | None
    headers: dict[str, str]
    pieces: Sequence[bytes]
    streamed: bool = False
    fault: Fault = Fault()
    pause: float = 0


class Delivery:
    """One reply on its way, faults included."""

    def __init__(self, wire: Wire, request: Request, reply: Reply, closing: threading.Event) -> None:
        self._wire = wire
        self._request = request
        self._reply = reply
        self._closing = closing

    def send(self) -> bool:
        """Send it; tell whether the connection stays open."""
        fault, wire = self._reply.fault, self._wire
        if fault.wait and self._closing.wait(fault.wait):
            return wire.end()
        if fault.drop is not None:
            return wire.end(hard=fault.hard)
        if fault.raw is not None:
            wire.socket.sendall(fault.raw)
            return wire.end()
        pieces = self._pieces()
        self._request.status = self._reply.status
        self._request.response = b"".join(pieces)
        self._transmit(pieces)
        if fault.after is None:
            return wire.stays
        if fault.then == "stall":
            wire.hold()
        elif fault.then == "reset":
            wire.drain()
        return wire.end(hard=fault.then == "reset")

    def _pieces(self) -> list[bytes]:
        """Return the body in the pieces it is sent in, no more of it than the fault lets through."""
        fault = self._reply.fault
        pieces = list(self._reply.pieces)
        if fault.size is not None:
            pieces = list(_pieces_of(b"".join(pieces), fault.size))
        if fault.after is not None:
            left = fault.after
            for index, piece in enumerate(pieces):
                pieces[index] = piece[:left]
                left -= len(pieces[index])
        return [piece for piece in pieces if piece]

    def _transmit(self, pieces: Sequence[bytes]) -> None:
        fault, chunked = self._reply.fault, self._reply.streamed
        parts = [self._head()]
        parts += [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] if chunked else pieces
        if chunked and fault.after is None:
            parts.append(b"0\r\n\r\n")
        elif chunked and fault.broken and pieces:
            parts[-1] = b"%x\r\n%b" % (len(pieces[-1]) + 1, pieces[-1])
        pause = fault.pause or self._reply.pause
        if not pause:
            self._wire.socket.sendall(b"".join(parts))
            return
        for number, part in enumerate(parts):
            if number > 1 and self._closing.wait(pause):
                raise GoneError
            self._wire.socket.sendall(part)

    def _head(self) -> bytes:
        reply, status = self._reply, self._reply.status or HTTPStatus.OK
        reason = responses.get(status, "")
        headers = {
            "date": formatdate(usegmt=True),
            "request-id": self._request.id,
            "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
            **{name.lower(): value for name, value in reply.headers.items() if value},
        }
        if reply.streamed:
            headers["transfer-encoding"] = "chunked"
        else:
            headers["content-length"] = str(sum(map(len, reply.pieces)))
        if not self._wire.stays:
            headers["connection"] = "close"
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def _pieces_of(whole: bytes, size: int | Sequence[int]) -> Iterator[bytes]:
    """Cut bytes into pieces, of sizes that take turns."""
    at = 0
    for each in cycle((size,) if isinstance(size, int) else size):
        if at >= len(whole):
            return
        yield whole[at : at + each]
        at += each
