"""
The only file that knows requests: send, retry, translate errors.

What may be sent again is the table in ``verdict``; change it there or nowhere. No redirect, cookie, netrc or
environment setting takes part in a request, no thread is started, and the key stands in one header only.
"""

from __future__ import annotations

import functools
import http.client
import io
import ipaddress
import logging
import math
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NoReturn, Protocol, Self, TypeAlias
from urllib.parse import quote, urlsplit

from attrs import define, evolve, field, frozen
from requests import PreparedRequest, Request, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidHeader, InvalidSchema, InvalidURL, RequestException
from requests.utils import resolve_proxies, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from conversation_store.errors import (
    APIError,
    CodecError,
    ConfigurationError,
    ContentError,
    InterruptedAnswerError,
    NoAnswerError,
    NotSentError,
    ServerError,
    StatusError,
)
from conversation_store.record import canonical
from conversation_store.record.canonical import JSON
from conversation_store.record.exchange import Attempt

logger: Final = logging.getLogger("conversation_store")

OnUnknown: TypeAlias = Literal["raise", "resend"]
Source: TypeAlias = str | Callable[[], str]

ANSWER_LIMIT: Final = 256 * 1024 * 1024
"""Bytes of an answer; a longer one is cut off."""

ERROR_LIMIT: Final = 1024 * 1024
"""Bytes kept of an error's body; ``ERROR_SECONDS`` is how long it is waited for, its status being known."""

ERROR_SECONDS: Final = 10.0

IDLE_SECONDS: Final = 30.0
"""A kept connection idle for longer is not used again: it may be gone without our having been told."""

_HOME: Final = "https://api.anthropic.com"
_token: Final = re.compile(r"[\x21-\x7e]+")
_path: Final = re.compile(r"/[\w./?=&%~-]*", re.ASCII)

_PIECE: Final = 64 * 1024
_CONNECTIONS: Final = 64
_NOT_SENT: Final = "not sent"
_NO_ANSWER: Final = "no answer"
_INTERRUPTED: Final = "interrupted"


class Payload(Protocol):
    """A request's body made while it is sent, so that it never stands in memory whole."""

    def __len__(self) -> int:
        """Count the bytes that iterating gives."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Give the bytes from the beginning; called once for each attempt."""
        ...


@frozen(kw_only=True)
class Answer:
    """
    A whole answer.

    Attributes:
        status: The HTTP status, 200 to 299.
        headers: By lower-case name; repeated ones joined with a comma, cookies left out.
        body: Complete JSON, exactly as received. Whether it is a message is the caller's to judge.
        attempts: Every attempt that was made, oldest first.
        request_id: The API's own id of the request.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    attempts: tuple[Attempt, ...]
    request_id: str | None


@frozen(kw_only=True)
class Clock:
    """
    What the client asks of the world besides a socket; a test gives its own.

    Attributes:
        now: Microseconds since the epoch, UTC.
        monotonic: Seconds, for deadlines.
        sleep: Wait so many seconds.
        random: A number from 0 to 1, 1 excluded.
    """

    now: Callable[[], int] = lambda: time.time_ns() // 1000
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


class Secret:
    """A value that shows in no repr, no format and no pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself; do not keep it in a variable."""
        return self._value

    @property
    def usable(self) -> bool:
        """Whether a header can carry it: printable ASCII, no spaces, at least one character."""
        return isinstance(self._value, str) and _token.fullmatch(self._value) is not None

    def hide(self, text: bytes) -> bytes:
        """Blot the value out of *text*."""
        return text.replace(self._value.encode(), b"[secret]")

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")


# --- What may be sent again ---------------------------------------------------------------------------------


class Verdict(Enum):
    """What the outcome of an attempt says about another one."""

    AGAIN = "it did not run and may be sent again silently"
    UNKNOWN = "it may have run and been billed: sent again only if the caller said so"
    FINAL = "sending it again would change nothing, or must not happen"


_NOT_RUN: Final = frozenset({408, 409, 429, 503, 529})
_SPENT: Final = frozenset({"contract_spend_limit_reached", "enforced_spend_limit_reached"})


def verdict(
    *,
    status: int | None = None,
    fault: str | None = None,
    should_retry: str | None = None,
    error_code: str | None = None,
    told_to_wait: bool = False,
) -> Verdict:
    """
    Judge an attempt that brought no whole answer.

    Args:
        status: The HTTP status, None where none came.
        fault: As in ``Attempt``.
        should_retry: The header ``x-should-retry``.
        error_code: ``error.details.error_code``.
        told_to_wait: Whether there was a ``retry-after`` or ``retry-after-ms``.

    Source: Messages API documentation, "Errors" and "Rate limits", and the retry rules of the official Python
    SDK; stricter where a second request could be billed twice.
    """
    if fault is not None:
        return Verdict.AGAIN if fault == _NOT_SENT else Verdict.UNKNOWN
    spent = status == 429 and (not told_to_wait or error_code in _SPENT)  # noqa: PLR2004
    if status is None or status < 400 or should_retry == "false" or spent:  # noqa: PLR2004
        return Verdict.FINAL
    if status in _NOT_RUN or should_retry == "true":
        return Verdict.AGAIN
    return Verdict.UNKNOWN if status >= 500 else Verdict.FINAL  # noqa: PLR2004


def retry_after(headers: Mapping[str, str], now: int) -> float | None:
    """
    Read how many seconds the API asked to wait; None where it did not, or asked for nothing positive.

    Args:
        headers: By lower-case name. ``retry-after-ms`` goes before ``retry-after`` (seconds or an HTTP date).
        now: Microseconds since the epoch.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError, KeyError):
            seconds = float(headers[name]) * unit
            if math.isfinite(seconds) and seconds > 0:
                return seconds
    with suppress(ValueError, TypeError, KeyError, OverflowError):
        seconds = parsedate_to_datetime(headers["retry-after"]).timestamp() - now / 1_000_000
        return seconds if seconds > 0 else None
    return None


def backoff(failed: int, chance: float) -> float:
    """
    Choose how many seconds to wait when the API did not say.

    Args:
        failed: How many attempts failed before this last one, from 0.
        chance: From 0 to 1; spreads clients that failed together.
    """
    return min(0.5 * 2.0 ** min(failed, 8), 8.0) * (1 - 0.25 * chance)


# --- The connection: one deadline for everything, and what was really sent ----------------------------------


@define(eq=False)
class _Line:
    """
    One attempt, as its connection sees it.

    ``sent`` is False only while it is certain that the request was not handed to the socket whole: such a
    request cannot have run, its Content-Length being unmet.
    """

    deadline: float
    monotonic: Callable[[], float]
    sent: bool = True
    last_used: float = 0.0

    def limit(self, sock: socket.socket | None) -> None:
        """Let the next operation of *sock* take no longer than the whole request may."""
        self.last_used = self.monotonic()
        left = self.deadline - self.last_used
        if left <= 0:
            raise TimeoutError("the total timeout is over")
        if sock is not None:
            sock.settimeout(left)


class _Current(threading.local):
    line: _Line | None = None


_current: Final = _Current()


class _Within(io.RawIOBase):
    """Reads a socket, no single read going beyond the deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, line: _Line) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._line.limit(self._sock)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _LimitedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        if _current.line is not None:
            self.fp = io.BufferedReader(_Within(self.fp.detach(), sock, _current.line))


class _Connection(HTTPConnection):
    response_class = _LimitedResponse
    _line: _Line | None = None

    @property
    def is_connected(self) -> bool:
        line = self._line
        idle = line is not None and line.monotonic() - line.last_used > IDLE_SECONDS
        return not idle and super().is_connected

    def _begin(self) -> _Line | None:
        self._line = _current.line
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


class _Adapter(HTTPAdapter):
    """requests' own, with our connections. Used without a Session: no redirects, no cookies, no netrc."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_KEEP_ALIVE, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, socket_options=_KEEP_ALIVE, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


class _PayloadError(Exception):
    """Carries the failure of a payload past urllib3, which takes some exceptions for its own and swallows them."""


class _Upload:
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
            raise _PayloadError from None

    def _check(self, given: int) -> None:
        if given != self._length:
            raise ContentError("", f"a payload of {self._length} bytes gave {given}")

    def raise_own(self) -> None:
        """Raise what the payload raised, as its own and not as a broken connection."""
        if self._error is not None:
            error, where, self._error, self._where = self._error, self._where, None, None
            error.__context__ = None
            raise error.with_traceback(where)


def _cause(error: BaseException) -> str:
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


# --- One request --------------------------------------------------------------------------------------------


@define(kw_only=True)
class _Call:
    """A request: what stays the same over its attempts, and the attempts."""

    method: str
    url: str
    body: bytes | Payload | None = field(repr=False)
    headers: Mapping[str, str]
    deadline: float
    timeout: float
    max_attempts: int
    on_unknown: OnUnknown
    attempts: list[Attempt] = field(factory=list)


@frozen(kw_only=True)
class _Outcome:
    """What one attempt brought. ``fault`` and ``reason`` are None for an answer and for an error status."""

    status: int | None = None
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    fault: str | None = None
    reason: str | None = None
    retry_after: float | None = None
    error: Mapping[str, JSON] = field(factory=dict, repr=False)
    body_request_id: str | None = None

    @property
    def answered(self) -> bool:
        return self.fault is None and self.status is not None and 200 <= self.status < 300  # noqa: PLR2004

    @property
    def request_id(self) -> str | None:
        return self.headers.get("request-id") or self.body_request_id

    @property
    def error_code(self) -> str | None:
        details = self.error.get("details")
        return _text(details.get("error_code")) if isinstance(details, Mapping) else None

    @property
    def verdict(self) -> Verdict:
        return verdict(
            status=self.status,
            fault=self.fault,
            should_retry=self.headers.get("x-should-retry"),
            error_code=self.error_code,
            told_to_wait="retry-after" in self.headers or "retry-after-ms" in self.headers,
        )

    def failure(self, host: str, attempts: tuple[Attempt, ...]) -> APIError:
        """Make the error that says this."""
        common: dict[str, Any] = {
            "request_id": self.request_id,
            "retry_after": self.retry_after,
            "error_code": self.error_code,
            "attempts": attempts,
        }
        if self.fault == _NOT_SENT:
            return NotSentError(f"the request was not sent to {host}: {self.reason}", **common)
        if self.fault == _NO_ANSWER:
            message = f"no answer from {host}: {self.reason}; the request may have been run and billed"
            return NoAnswerError(message, **common)
        if self.fault == _INTERRUPTED:
            message = f"the answer of {host} broke off after {len(self.body)} bytes: {self.reason}"
            return InterruptedAnswerError(message, partial=self.body, **common)
        status = self.status or 0
        kind = _text(self.error.get("type"))
        cls = StatusError.OF.get(status, ServerError if status >= 500 else StatusError)  # noqa: PLR2004
        return cls(self._words(status, kind), status=status, kind=kind, body=self.body, **common)

    def _words(self, status: int, kind: str | None) -> str:
        if 300 <= status < 400:  # noqa: PLR2004
            return (
                f"{status}: a redirect, which is not followed because the key would go with it; "
                "set base_url to the address that answers itself"
            )
        said = _text(self.error.get("message"))
        words = f"{status} {kind}" if kind else f"{status} {http.client.responses.get(status, '')}".rstrip()
        return f"{words}: {said[:1000]}" if said else words


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _explained(body: bytes) -> tuple[Mapping[str, JSON], str | None]:
    """Find the ``error`` object and ``request_id`` in an error's body, which need not be JSON at all."""
    try:
        value = canonical.loads(body)
    except CodecError:
        return {}, None
    if not isinstance(value, Mapping):
        return {}, None
    error = value.get("error")
    return error if isinstance(error, Mapping) else {}, _text(value.get("request_id"))


class _Opened:
    """A response whose headers have come: gives its body as it arrives, and why it ended early if it did."""

    def __init__(self, response: Response, line: _Line) -> None:
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
            self.broken = _cause(error)

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

    def hurry(self, seconds: float) -> None:
        """Wait no longer than *seconds* for the rest."""
        self._line.deadline = min(self._line.deadline, self._line.monotonic() + seconds)

    def close(self) -> None:
        """Let the connection go: kept for the next request where the body was read to its end."""
        self._response.close()


# --- The client ---------------------------------------------------------------------------------------------


class Client:
    """
    Speaks to the Messages API. May be shared by threads, and survives a fork; cannot be pickled.

    Args:
        api_key: The API key, or a function that gives it, which is asked at every attempt. Without it
            ``ANTHROPIC_API_KEY``, else ``ANTHROPIC_AUTH_TOKEN``, read at every attempt too.
        auth_token: A bearer token instead of a key, or a function that gives it.
        base_url: Where the API is. Without it ``ANTHROPIC_BASE_URL``, else ``https://api.anthropic.com``.
            Anything but https is refused, except on this computer, and there no proxy is used.
        version: The header ``anthropic-version`` of requests that name none.
        betas: Ids for ``anthropic-beta``, before those of a request.
        connect_timeout: Seconds to wait for a connection.
        timeout: Seconds for a request in all: its attempts, the waits between them, the reading.
        max_attempts: How often a request is tried at most.
        on_unknown: What happens when a request may have been run and billed without an answer: ``raise``, or
            ``resend`` it.
        proxies: Proxies by scheme, as requests takes them. SOCKS is not supported.
        ca_bundle: A file or folder of certificates to trust instead of the usual ones.
        trust_env: Whether proxies and ``REQUESTS_CA_BUNDLE`` are taken from the environment. Never a netrc.
        workspace_id: The header ``anthropic-workspace-id``, for credentials valid in several workspaces.
        secrets: Values by name that stand inside requests and must not be stored; see ``secret``.
        clock: Time, sleep and chance.

    The attributes ``version``, ``betas``, ``timeout`` and ``max_attempts`` say what was given.

    Raises:
        ConfigurationError: Values that cannot work.
    """

    def __init__(
        self,
        api_key: Source | None = None,
        *,
        auth_token: Source | None = None,
        base_url: str | None = None,
        version: str = "2023-06-01",
        betas: Sequence[str] = (),
        connect_timeout: float = 5.0,
        timeout: float = 600.0,
        max_attempts: int = 3,
        on_unknown: OnUnknown = "raise",
        proxies: Mapping[str, str] | None = None,
        ca_bundle: str | None = None,
        trust_env: bool = False,
        workspace_id: str | None = None,
        secrets: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        # First of all, so that no error of this method has a key among its variables.
        self._host = ""
        self._api_key = _hidden(api_key)
        self._auth_token = _hidden(auth_token)
        self._secrets = {name: Secret(value) for name, value in (secrets or {}).items()}
        self._proxies = {name: Secret(url) for name, url in (proxies or {}).items()}
        api_key = auth_token = secrets = proxies = None
        if self._api_key is not None and self._auth_token is not None:
            raise ConfigurationError("give api_key or auth_token, not both: the API takes one of them")
        self.base_url = _checked_base(base_url or os.environ.get("ANTHROPIC_BASE_URL") or _HOME)
        self._loopback = self.base_url.startswith("http:")
        self._host = urlsplit(self.base_url).hostname or ""
        self.version = version
        self.betas = tuple(betas)
        self._workspace_id = workspace_id
        if not connect_timeout > 0:
            raise ConfigurationError(f"connect_timeout is {connect_timeout}; give seconds, more than 0")
        self._connect_timeout = connect_timeout
        self.timeout = timeout
        self.max_attempts = max_attempts
        self._on_unknown: OnUnknown = on_unknown
        _check_limits(timeout, max_attempts, on_unknown)
        if ca_bundle is not None and not Path(ca_bundle).exists():
            raise ConfigurationError(f"ca_bundle: there is no {ca_bundle}")
        self._ca_bundle = ca_bundle
        self._trust_env = trust_env
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._adapter = _Adapter(pool_maxsize=_CONNECTIONS)
        self.headers()

    def __repr__(self) -> str:
        return f"<Client {self._host}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client has a key and connections: it cannot be pickled or copied, make another one")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections kept for later requests."""
        self._adapter.close()

    def headers(self, version: str | None = None, betas: Sequence[str] = ()) -> dict[str, str]:
        """
        List the headers of a request, without the one that has the key.

        Args:
            version: ``anthropic-version``; the client's own where None.
            betas: Added to the client's; each is sent once, in order.

        Raises:
            ConfigurationError: A value that no header can carry.
        """
        ids = tuple(dict.fromkeys((*self.betas, *betas)))
        found = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "anthropic-version": version or self.version,
            "content-type": "application/json",
            "user-agent": _user_agent(),
        }
        if ids:
            found["anthropic-beta"] = ",".join(ids)
        if self._workspace_id is not None:
            found["anthropic-workspace-id"] = self._workspace_id
        for name, value in found.items():
            if name.startswith("anthropic-") and not _token.fullmatch(value):
                raise ConfigurationError(f"{name}: only printable ASCII without spaces can stand in a header")
        return found

    @property
    def secrets(self) -> dict[str, str]:
        """Give the values that stand inside requests, by name; for making a body, never for showing."""
        return {name: secret.reveal() for name, secret in self._secrets.items()}

    def secret(self, name: str) -> Secret:
        """
        Return the value that the request needs and the record must not have.

        Raises:
            ConfigurationError: The client was given none of this name.
        """
        try:
            return self._secrets[name]
        except KeyError:
            pass
        raise ConfigurationError(f"the request needs the secret {name!r}: Client(secrets={{{name!r}: …}})")

    def send(
        self,
        body: bytes | Payload,
        *,
        version: str | None = None,
        betas: Sequence[str] = (),
        path: str = "/v1/messages",
        max_attempts: int | None = None,
        timeout: float | None = None,
        on_unknown: OnUnknown | None = None,
    ) -> Answer:
        """
        POST *body* and wait for the whole answer.

        Args:
            body: The exact bytes, or a payload that makes them while they are sent.
            version: ``anthropic-version`` of this request.
            betas: Beta ids of this request, after the client's.
            path: Where at the API, from ``/v1``.
            max_attempts: Like the client's, for this request; so are ``timeout`` and ``on_unknown``.
            timeout: Seconds in all.
            on_unknown: ``raise`` or ``resend``.

        Returns:
            An answer with a status of 200 to 299 and complete JSON.

        Raises:
            ConfigurationError: No key, or a value no header can carry; nothing was sent.
            NotSentError: The request never reached the API whole, so it did not run.
            NoAnswerError: It was sent and no answer began.
            InterruptedAnswerError: The answer is not complete JSON; ``partial`` is all that arrived.
            StatusError: The API answered with an error; its subclasses say which.
        """
        return self._run(
            self._call(
                "POST",
                path,
                body,
                self.headers(version, betas),
                timeout=timeout,
                max_attempts=max_attempts,
                on_unknown=on_unknown,
            )
        )

    def count_tokens(self, body: bytes | Payload, *, version: str | None = None, betas: Sequence[str] = ()) -> int:
        """
        Ask how many input tokens a request has. Free of charge, so it is sent again whenever that helps.

        Args:
            body: The request without ``max_tokens``, ``stream``, ``stop_sequences`` and ``metadata``.
            version: ``anthropic-version`` of this request.
            betas: Beta ids of this request, after the client's.

        Raises:
            APIError: As ``send``.
            CodecError: The answer has no count.

        Source: Messages API documentation, "Token counting".
        """
        path = "/v1/messages/count_tokens"
        answer = self._run(self._call("POST", path, body, self.headers(version, betas), on_unknown="resend"))
        value = canonical.loads(answer.body)
        count = value.get("input_tokens") if isinstance(value, Mapping) else None
        if type(count) is not int:
            raise CodecError(f"the answer of {path} has no input_tokens")
        return count

    def models(self) -> list[Mapping[str, JSON]]:
        """
        List the models the API offers now, in its order; all pages.

        Raises:
            APIError: As ``send``.
            CodecError: The answer is no list of models.

        Source: Messages API documentation, "List models".
        """
        found: list[Mapping[str, JSON]] = []
        seen: set[str] = set()
        path = "/v1/models?limit=1000"
        while True:
            answer = self._run(self._call("GET", path, None, self.headers(), on_unknown="resend"))
            page = canonical.loads(answer.body)
            data = page.get("data") if isinstance(page, Mapping) else None
            if not isinstance(page, Mapping) or not isinstance(data, list):
                raise CodecError("the answer of /v1/models is no list of models")
            found += [model for model in data if isinstance(model, Mapping)]
            last = page.get("last_id")
            if page.get("has_more") is not True or not isinstance(last, str) or last in seen:
                return found
            seen.add(last)
            path = f"/v1/models?limit=1000&after_id={quote(last, safe='')}"

    # --- inside

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | Payload | None,
        headers: dict[str, str],
        *,
        timeout: float | None = None,
        max_attempts: int | None = None,
        on_unknown: OnUnknown | None = None,
    ) -> _Call:
        if not _path.fullmatch(path):
            raise ConfigurationError(f"{path!r} is no path at the API")
        if body is None:
            del headers["content-type"]
        timeout = self.timeout if timeout is None else timeout
        max_attempts = self.max_attempts if max_attempts is None else max_attempts
        on_unknown = on_unknown or self._on_unknown
        _check_limits(timeout, max_attempts, on_unknown)
        return _Call(
            method=method,
            url=self.base_url + path,
            body=body,
            headers=headers,
            deadline=self._clock.monotonic() + timeout,
            timeout=timeout,
            max_attempts=max_attempts,
            on_unknown=on_unknown,
        )

    def _run(self, call: _Call) -> Answer:
        """Try until there is an answer, an error that stays, or no time."""
        waited = 0.0
        while True:
            outcome = self._attempt(call, waited)
            attempts = tuple(call.attempts)
            tried = (outcome.fault or outcome.status, len(attempts), outcome.request_id)
            if outcome.answered:
                logger.debug("answered %s at attempt %d, request %s", *tried)
                return Answer(
                    status=outcome.status or 0,
                    headers=outcome.headers,
                    body=outcome.body,
                    attempts=attempts,
                    request_id=outcome.request_id,
                )
            pause = self._pause(call, outcome)
            if pause is None:
                logger.debug("%s at attempt %d, request %s: raised", *tried)
                raise outcome.failure(self._host, attempts)
            logger.warning("%s at attempt %d, request %s: trying again in %.1f s", *tried, pause)
            self._clock.sleep(pause)
            if call.deadline <= self._clock.monotonic():
                # Slept longer than asked: what is known stays the news, not that the time is over.
                raise outcome.failure(self._host, attempts)
            waited = pause

    def _pause(self, call: _Call, outcome: _Outcome) -> float | None:
        """Say how long to wait before the next attempt; None where there must not be one."""
        judged = outcome.verdict
        wanted = judged is Verdict.AGAIN or (judged is Verdict.UNKNOWN and call.on_unknown == "resend")
        if not wanted or len(call.attempts) >= call.max_attempts:
            return None
        pause = outcome.retry_after or backoff(len(call.attempts) - 1, self._clock.random())
        return pause if pause < call.deadline - self._clock.monotonic() else None

    def _attempt(self, call: _Call, waited: float) -> _Outcome:
        at, begun = self._clock.now(), self._clock.monotonic()
        secret = self._credential()
        line = _Line(deadline=call.deadline, monotonic=self._clock.monotonic)
        opened = self._post(call, *secret, line)
        outcome = opened if isinstance(opened, _Outcome) else self._read(opened, secret[1])
        call.attempts.append(
            Attempt(
                at=at,
                took=round((self._clock.monotonic() - begun) * 1_000_000),
                status=outcome.status,
                fault=outcome.fault,
                request_id=outcome.request_id,
                waited=round(waited * 1_000_000),
            )
        )
        return outcome

    def _post(self, call: _Call, name: str, secret: Secret, line: _Line) -> _Opened | _Outcome:
        """Send once. What requests raises ends here: it holds the request, and that the key."""
        left = max(call.deadline - self._clock.monotonic(), 0.001)
        upload = call.body if call.body is None or isinstance(call.body, bytes) else _Upload(call.body)
        wrong, reason = False, ""
        _current.line = line
        try:
            prepared = Request(call.method, call.url, headers=dict(call.headers), data=upload).prepare()
            prepared.headers[name] = ("Bearer " if name == "authorization" else "") + secret.reveal()
            return _Opened(
                self._connections().send(
                    prepared,
                    stream=True,
                    timeout=(min(self._connect_timeout, left), left),
                    verify=self._trusted(),
                    proxies=self._ways(prepared),
                ),
                line,
            )
        except (RequestException, HTTPError, OSError, _PayloadError) as error:
            wrong = isinstance(error, (InvalidURL, InvalidSchema, InvalidHeader))
            reason = _cause(error)
        finally:
            _current.line = None
        if isinstance(upload, _Upload):
            upload.raise_own()
        if wrong:
            raise ConfigurationError(f"the request could not be sent ({reason}): check base_url and proxies")
        if line.deadline <= self._clock.monotonic():
            reason = f"the timeout of {call.timeout:g} s is over"
        return _Outcome(fault=_NO_ANSWER if line.sent else _NOT_SENT, reason=reason)

    def _read(self, opened: _Opened, secret: Secret) -> _Outcome:
        """Read the body, and judge whether it is whole."""
        came = _Outcome(status=opened.status, headers=opened.headers)
        came = evolve(came, retry_after=retry_after(came.headers, self._clock.now()))
        try:
            if not came.answered:
                # The status is the news; a body that stalls or breaks off takes nothing from it.
                opened.hurry(ERROR_SECONDS)
                body = secret.hide(opened.read(ERROR_LIMIT))
                error, request_id = _explained(body)
                return evolve(came, body=body, error=error, body_request_id=request_id)
            body = opened.read(ANSWER_LIMIT)
        finally:
            opened.close()
        reason = opened.broken
        if reason is None:
            # A body without a length that is cut ends like a whole one: only its JSON can tell.
            try:
                canonical.loads(body)
            except CodecError as error:
                coding = opened.headers.get("content-encoding", "identity")
                reason = str(error) if coding == "identity" else f"it is encoded ({coding[:20]})"
        return evolve(came, body=body, fault=_INTERRUPTED if reason is not None else None, reason=reason)

    def _credential(self) -> tuple[str, Secret]:
        """Find the header and the value, now: a key may have been changed since the last request."""
        for name, source, where in (
            ("x-api-key", self._api_key, "api_key"),
            ("authorization", self._auth_token, "auth_token"),
            ("x-api-key", "ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"),
            ("authorization", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_AUTH_TOKEN"),
        ):
            if isinstance(source, str):
                secret = Secret(os.environ.get(source, ""))
                if not secret:
                    continue
            elif source is None:
                continue
            else:
                secret = source if isinstance(source, Secret) else Secret(source())
            if not secret.usable:
                raise ConfigurationError(f"{where} is empty, or has a space or line break: no header carries it")
            return name, secret
        raise ConfigurationError("no API key: set ANTHROPIC_API_KEY, or give Client(api_key=…)")

    def _connections(self) -> _Adapter:
        """Return the pool of this process: a child must not write to the connections of its parent."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._adapter = _Adapter(pool_maxsize=_CONNECTIONS)
                    self._pid = os.getpid()
        return self._adapter

    def _trusted(self) -> str | bool:
        found = self._ca_bundle
        if found is None and self._trust_env:
            found = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        return found or True

    def _ways(self, prepared: PreparedRequest) -> dict[str, str]:
        if self._loopback:
            return {}
        given = {name: secret.reveal() for name, secret in self._proxies.items()}
        found = resolve_proxies(prepared, given, self._trust_env)
        if (select_proxy(prepared.url or "", found) or "").lower().startswith("socks"):
            raise InvalidSchema("SOCKS")
        return found


def _hidden(source: Source | None) -> Secret | Callable[[], str] | None:
    return Secret(source) if isinstance(source, str) else source


def _check_limits(timeout: float, max_attempts: int, on_unknown: str) -> None:
    if not timeout > 0:
        raise ConfigurationError(f"timeout is {timeout}; give seconds, more than 0")
    if max_attempts < 1:
        raise ConfigurationError(f"max_attempts is {max_attempts}; a request needs at least 1")
    if on_unknown not in {"raise", "resend"}:
        raise ConfigurationError(f'on_unknown is {on_unknown!r}; it can be "raise" or "resend"')


def _checked_base(url: str) -> str:
    """
    Check where the key would go.

    Raises:
        ConfigurationError: Not https (except on this computer), or with a user, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigurationError("base_url must be an address alone: no user, password, query or fragment")
    if not host or parts.scheme not in {"https", "http"} or not _token.fullmatch(url):
        raise ConfigurationError("base_url must be an address like https://api.anthropic.com")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(f"base_url: {host} must be spoken to with https, or the key travels openly")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@functools.cache
def _user_agent() -> str:
    # Looked up at the first use; requests has imported importlib.metadata by itself.
    try:
        return f"conversation_store/{metadata.version('conversation_store')}"
    except metadata.PackageNotFoundError:
        return "conversation_store"
