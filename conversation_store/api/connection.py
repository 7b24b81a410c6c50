"""
Connections that keep one deadline for everything and know what was really sent.

Beside ``client.py`` the only file that knows requests and urllib3: it fits their connections to our needs.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Protocol

from attrs import define
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.wait import wait_for_read

from conversation_store.errors import ContentError

IDLE_SECONDS: Final = 30.0
"""A kept connection idle for longer is not used again: it may be gone without our having been told."""


class Payload(Protocol):
    """A request's body made while it is sent, so that it never stands in memory whole."""

    def __len__(self) -> int:
        """Count the bytes that iterating gives."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Give the bytes from the beginning; called once for each attempt."""
        ...


@define(eq=False)
class Line:
    """
    One attempt, as its connection sees it.

    ``sent`` is False only while it is certain that the request was not handed to the socket whole: such a
    request cannot have run, its Content-Length being unmet.
    """

    deadline: float
    monotonic: Callable[[], float]
    sent: bool = True
    last_used: float = 0.0
    idle: float = 0.0
    on_idle: Callable[[], None] | None = None

    def wait(self, sock: socket.socket) -> None:
        """Say once that nothing comes for ``idle`` seconds, so that what came can be made durable meanwhile."""
        if self.on_idle is not None and not _held(sock) and not wait_for_read(sock, self.idle):
            self.on_idle()

    def limit(self, sock: socket.socket | None) -> None:
        """Let the next operation of *sock* take no longer than the whole request may."""
        self.last_used = self.monotonic()
        left = self.deadline - self.last_used
        if left <= 0:
            raise TimeoutError("the total timeout is over")
        if sock is not None:
            sock.settimeout(left)


def _held(sock: socket.socket) -> bool:
    """Whether TLS has bytes ready that the socket itself no longer shows."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


class _Current(threading.local):
    line: Line | None = None


current: Final = _Current()


class _Within(io.RawIOBase):
    """Reads a socket, no single read going beyond the deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, line: Line) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._line.wait(self._sock)
        self._line.limit(self._sock)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _LimitedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        if current.line is not None:
            self.fp = io.BufferedReader(_Within(self.fp.detach(), sock, current.line))


class _Connection(HTTPConnection):
    response_class = _LimitedResponse
    _line: Line | None = None

    @property
    def is_connected(self) -> bool:
        line = self._line
        idle = line is not None and line.monotonic() - line.last_used > IDLE_SECONDS
        return not idle and super().is_connected

    def _begin(self) -> Line | None:
        self._line = current.line
        if self._line is not None:
            self._line.sent = False
        return self._line

    def connect(self) -> None:
        self._begin()
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        line = self._begin()
        super().request(*args, **kwargs)
        if line is not None:
            line.sent = True

    def send(self, data: Any) -> None:
        if self._line is not None:
            self._line.limit(self.sock)
        super().send(data)


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


# A connection that waits ten minutes for an answer must not be dropped by what stands between; as the
# official SDK does. Not every system has every name.
_KEEP_ALIVE: Final = [
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 60),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 5),
    )
    if hasattr(socket, name)
]


class Adapter(HTTPAdapter):
    """requests' own, with our connections. Used without a Session: no redirects, no cookies, no netrc."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools that connect directly."""
        super().init_poolmanager(*args, socket_options=_KEEP_ALIVE, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        """Make the pools that go through a proxy."""
        manager = super().proxy_manager_for(proxy, socket_options=_KEEP_ALIVE, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


class PayloadError(Exception):
    """Carries the failure of a payload past urllib3, which takes some exceptions for its own and swallows them."""


class Upload:
    """A payload as requests takes it; holds it to its length and remembers what its maker raised."""

    def __init__(self, payload: Payload) -> None:
        self._payload = payload
        self._length = len(payload)
        self._error: Exception | None = None
        self._where: TracebackType | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        given = 0
        try:
            for part in self._payload:
                given += len(part)
                if given > self._length:
                    break
                yield part
            self._check(given)
        except Exception as error:  # noqa: BLE001, raised again by raise_own
            self._error, self._where = error, error.__traceback__
            raise PayloadError from None

    def _check(self, given: int) -> None:
        if given != self._length:
            raise ContentError("", f"a payload of {self._length} bytes gave {given}")

    def raise_own(self) -> None:
        """Raise what the payload raised, as its own and not as a broken connection."""
        if self._error is not None:
            error, where, self._error, self._where = self._error, self._where, None, None
            error.__context__ = None
            raise error.with_traceback(where)


def cause(error: BaseException) -> str:
    """Say in words what the innermost error says: no addresses of objects, no bytes of a peer."""
    for _ in range(16):
        inner: object = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((each for each in error.args if isinstance(each, BaseException)), error.__cause__)
        if not isinstance(inner, BaseException):
            break
        error = inner
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed early"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__)[:200]
    return type(error).__name__
