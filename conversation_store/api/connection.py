"""
Connections that keep one deadline for everything and know what was really sent.

The only file that knows requests and urllib3: it fits their connections to our needs. The client imports it when the
first one is made, so that nobody waits for them who only keeps and reads conversations.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Final, Protocol

from attrs import define
from requests import Request, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidHeader, InvalidSchema, InvalidURL, RequestException
from requests.utils import resolve_proxies, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.wait import wait_for_read

from conversation_store.errors import ContentError

_PIECE: Final = 64 * 1024
_KEPT: Final = 64
"""Connections that are kept for later requests."""

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


class Opened:
    """A response whose headers have come: gives its body as it arrives, and why it ended early if it did."""

    def __init__(self, response: Response, line: Line) -> None:
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items() if name.lower() != "set-cookie"}
        self.broken: str | None = None
        self._response = response
        self._line = line

    def pieces(self) -> Iterator[bytes]:
        """Hand out every byte that arrives, at once; afterwards look at ``broken``."""
        raw = self._response.raw
        try:
            while piece := raw.read1(_PIECE, decode_content=False):
                yield piece
        except (HTTPError, OSError) as error:
            self.broken = cause(error)

    def read(self, limit: int) -> bytes:
        """Read the body to its end, or to *limit* bytes."""
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > limit:
                del body[limit:]
                self.broken = f"it is longer than {limit} bytes"
                break
        return bytes(body)

    def when_idle(self, seconds: float, tell: Callable[[], None]) -> None:
        """Call *tell* whenever nothing has come for *seconds*."""
        self._line.idle, self._line.on_idle = seconds, tell

    def hurry(self, seconds: float) -> None:
        """Wait no longer than *seconds* for the rest."""
        self._line.deadline = min(self._line.deadline, self._line.monotonic() + seconds)

    def close(self) -> None:
        """Let the connection go: kept for the next request where the body was read to its end."""
        self._response.close()


class NoResponseError(Exception):
    """
    Nothing came back.

    Attributes:
        reason: Why, in words.
        wrong: Whether no request can go there at all, whatever the network does.
    """

    def __init__(self, reason: str, *, wrong: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wrong = wrong


class Connections:
    """The connections of a client, kept for later requests: those of this process alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._adapter = Adapter(pool_maxsize=_KEPT)

    def close(self) -> None:
        """Close those that are kept."""
        self._adapter.close()

    def adapter(self) -> Adapter:
        """Return the pool of this process: a child must not write to the connections of its parent."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._adapter = Adapter(pool_maxsize=_KEPT)
                    self._pid = os.getpid()
        return self._adapter

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        sign: Callable[[MutableMapping[str, str]], None],
        body: bytes | Payload | None,
        line: Line,
        timeout: tuple[float, float],
        verify: str | bool,
        proxies: dict[str, str] | None,
        trust_env: bool,
    ) -> Opened:
        """
        Send once. What requests raises ends here: it holds the request, and that the key.

        Args:
            method: ``POST`` or ``GET``.
            url: Where to.
            headers: All but the credential.
            sign: Puts that one into the headers.
            body: What is sent.
            line: Knows the deadline, and afterwards whether the request was sent whole.
            timeout: Seconds to wait for a connection, and for the answer.
            verify: Whom to trust, as requests takes it.
            proxies: By scheme; None for a direct way.
            trust_env: Whether the environment may name proxies too.

        Raises:
            NoResponseError: Nothing came.
        """
        upload = body if body is None or isinstance(body, bytes) else Upload(body)
        ways: dict[str, str] = {}
        current.line = line
        try:
            prepared = Request(method, url, headers=dict(headers), data=upload).prepare()
            sign(prepared.headers)
            if proxies is not None:
                ways = resolve_proxies(prepared, proxies, trust_env)
            if (select_proxy(prepared.url or "", ways) or "").lower().startswith("socks"):
                raise InvalidSchema("SOCKS")
            response = self.adapter().send(prepared, stream=True, timeout=timeout, verify=verify, proxies=ways)
            return Opened(response, line)
        except (RequestException, HTTPError, OSError, PayloadError) as error:
            wrong = isinstance(error, (InvalidURL, InvalidSchema, InvalidHeader))
            reason = cause(error)
        finally:
            current.line = None
        del proxies, ways  # what is raised from here on shows no password of a proxy
        if isinstance(upload, Upload):
            upload.raise_own()
        raise NoResponseError(reason, wrong=wrong)


def put(url: str, data: bytes, *, headers: Mapping[str, str], timeout: float) -> int:
    """
    Put bytes at an address, once, over a connection that is not kept and with nothing that the environment says.

    Returns:
        The HTTP status of the answer.

    Raises:
        NoResponseError: Nothing came.
    """
    before, current.line = current.line, Line(time.monotonic() + timeout, time.monotonic)
    adapter = Adapter()
    try:
        request = Request("PUT", url, headers=dict(headers), data=data).prepare()
        answer = adapter.send(request, stream=True, timeout=timeout)
        answer.close()
        return int(answer.status_code)
    except (RequestException, HTTPError, OSError, ValueError) as error:
        reason = cause(error)
    finally:
        current.line = before
        adapter.close()
    raise NoResponseError(reason, wrong=False)
