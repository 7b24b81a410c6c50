"""
The client of the Messages API: send, retry, translate errors.

What may be sent again is the table in ``retry.verdict``. No redirect, cookie, netrc or
environment setting takes part in a request, no thread is started, and the key stands in one header only.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, TypeAlias
from urllib.parse import quote, urlsplit

from attrs import define, evolve, field, frozen

from conversation_store.api.retry import INTERRUPTED, NO_ANSWER, NOT_SENT, Clock, Verdict, backoff, retry_after, verdict
from conversation_store.errors import (
    APIError,
    CodecError,
    ConfigurationError,
    InterruptedAnswerError,
    NoAnswerError,
    NotSentError,
    ServerError,
    StatusError,
)
from conversation_store.record import canonical
from conversation_store.record.canonical import JSON
from conversation_store.record.exchange import Attempt

if TYPE_CHECKING:
    from conversation_store.api.connection import Connections, Opened, Payload

logger: Final = logging.getLogger("conversation_store")

OnUnknown: TypeAlias = Literal["raise", "resend"]
Source: TypeAlias = str | Callable[[], str]

ANSWER_LIMIT: Final = 256 * 1024 * 1024
"""Bytes of an answer; a longer one is cut off."""

ERROR_LIMIT: Final = 1024 * 1024
"""Bytes kept of an error's body; ``ERROR_SECONDS`` is how long it is waited for, its status being known."""

ERROR_SECONDS: Final = 10.0

_HOME: Final = "https://api.anthropic.com"
_token: Final = re.compile(r"[\x21-\x7e]+")
_path: Final = re.compile(r"/[\w./?=&%~-]*", re.ASCII)


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
    opened: Opened | None = None

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
        if self.fault == NOT_SENT:
            return NotSentError(f"the request was not sent to {host}: {self.reason}", **common)
        if self.fault == NO_ANSWER:
            message = f"no answer from {host}: {self.reason}; the request may have been run and billed"
            return NoAnswerError(message, **common)
        if self.fault == INTERRUPTED:
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
        words = f"{status} {kind}" if kind else f"{status} {_phrase(status)}".rstrip()
        return f"{words}: {said[:1000]}" if said else words


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


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


class Streamed:
    """
    An answer that is read as it arrives.

    Attributes:
        attempts: Every attempt that was made, oldest first; the last one's fault is set if it breaks off.
        request_id: The API's own id of the request.
    """

    def __init__(self, opened: Opened, attempts: tuple[Attempt, ...], request_id: str | None) -> None:
        self._opened = opened
        self.attempts = attempts
        self.request_id = request_id

    def pieces(self, *, idle: float, on_idle: Callable[[], None]) -> Iterator[bytes]:
        """
        Give every byte that arrives, at once; afterwards look at ``broken``.

        *on_idle* is called, on this thread, when nothing has come for *idle* seconds.
        """
        self._opened.when_idle(idle, on_idle)
        yield from self._opened.pieces()
        if self.broken is not None:
            self.attempts = (*self.attempts[:-1], evolve(self.attempts[-1], fault=INTERRUPTED))

    @property
    def broken(self) -> str | None:
        """Why the bytes ended early, in words; None where they ended as they should or have not ended."""
        return self._opened.broken

    def close(self) -> None:
        """Let the connection go."""
        self._opened.close()


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

    The attributes ``version``, ``betas``, ``timeout``, ``max_attempts`` and ``on_unknown`` say what was given.

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
        self.on_unknown: OnUnknown = on_unknown
        _check_limits(timeout, max_attempts, on_unknown)
        if ca_bundle is not None and not Path(ca_bundle).exists():
            raise ConfigurationError(f"ca_bundle: there is no {ca_bundle}")
        self._ca_bundle = ca_bundle
        self._trust_env = trust_env
        self._clock = clock or Clock()
        self._connections = _connections()
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
        self._connections.close()

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
        keep: list[bytes] | None = None,
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
            keep: Gets the bytes of an answer as soon as they are there, for a caller who may be stopped meanwhile.

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
            ),
            keep,
        )

    def stream(
        self,
        body: bytes | Payload,
        *,
        version: str | None = None,
        betas: Sequence[str] = (),
        path: str = "/v1/messages",
        on_unknown: OnUnknown | None = None,
    ) -> Streamed:
        """
        Post a request whose answer is read as it arrives; tried again only until its headers have come.

        Args:
            body: The exact bytes, or a payload that makes them while they are sent.
            version: ``anthropic-version`` of this request.
            betas: Beta ids of this request, after the client's.
            path: Where at the API, from ``/v1``.
            on_unknown: ``raise`` or ``resend``.

        Returns:
            The answer's bytes, to be read to their end or closed.

        Raises:
            As ``send``, but ``InterruptedAnswerError``: whether an answer is whole its reader must judge.
        """
        call = self._call("POST", path, body, self.headers(version, betas), on_unknown=on_unknown)
        outcome = self._tried(call, self._open)
        assert outcome.opened is not None  # noqa: S101 - what _open gives where the status is one of an answer
        return Streamed(outcome.opened, tuple(call.attempts), outcome.request_id)

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
        on_unknown = on_unknown or self.on_unknown
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

    def _run(self, call: _Call, keep: list[bytes] | None = None) -> Answer:
        outcome = self._tried(call, self._read if keep is None else partial(self._read, keep=keep))
        return Answer(
            status=outcome.status or 0,
            headers=outcome.headers,
            body=outcome.body,
            attempts=tuple(call.attempts),
            request_id=outcome.request_id,
        )

    def _tried(self, call: _Call, take: Callable[[Opened, Secret], _Outcome]) -> _Outcome:
        """Try until there is an answer, an error that stays, or no time; *take* reads what came."""
        waited = 0.0
        while True:
            outcome = self._attempt(call, waited, take)
            attempts = tuple(call.attempts)
            tried = (outcome.fault or outcome.status, len(attempts), outcome.request_id)
            if outcome.answered:
                logger.debug("answered %s at attempt %d, request %s", *tried)
                return outcome
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

    def _attempt(self, call: _Call, waited: float, take: Callable[[Opened, Secret], _Outcome]) -> _Outcome:
        at, begun = self._clock.now(), self._clock.monotonic()
        secret = self._credential()
        opened = self._post(call, *secret)
        outcome = opened if isinstance(opened, _Outcome) else take(opened, secret[1])
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

    def _post(self, call: _Call, name: str, secret: Secret) -> Opened | _Outcome:
        """Send once."""
        from conversation_store.api.connection import Line, NoResponseError

        def sign(headers: MutableMapping[str, str]) -> None:
            headers[name] = ("Bearer " if name == "authorization" else "") + secret.reveal()

        line = Line(deadline=call.deadline, monotonic=self._clock.monotonic)
        left = max(call.deadline - self._clock.monotonic(), 0.001)
        try:
            return self._connections.send(
                call.method,
                call.url,
                headers=call.headers,
                sign=sign,
                body=call.body,
                line=line,
                timeout=(min(self._connect_timeout, left), left),
                verify=self._trusted(),
                proxies=None if self._loopback else {scheme: url.reveal() for scheme, url in self._proxies.items()},
                trust_env=self._trust_env,
            )
        except NoResponseError as error:
            wrong, reason = error.wrong, error.reason
        if wrong:
            raise ConfigurationError(f"the request could not be sent ({reason}): check base_url and proxies")
        if line.deadline <= self._clock.monotonic():
            reason = f"the timeout of {call.timeout:g} s is over"
        return _Outcome(fault=NO_ANSWER if line.sent else NOT_SENT, reason=reason)

    def _open(self, opened: Opened, secret: Secret) -> _Outcome:
        """Take an answer as it is, unread; read an error."""
        came = _Outcome(status=opened.status, headers=opened.headers, opened=opened)
        return came if came.answered else self._read(opened, secret)

    def _read(self, opened: Opened, secret: Secret, keep: list[bytes] | None = None) -> _Outcome:
        """Read the body, and judge whether it is whole; *keep* has it before anything else is done."""
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
            if keep is not None:
                keep[:] = [body]
        finally:
            opened.close()
        reason = opened.broken
        # Only its JSON can tell whether it is whole: a body without a length that is cut ends like a whole one, and
        # a whole object is that also where the connection broke off after its last byte.
        try:
            reason = None if isinstance(canonical.loads(body), Mapping) else reason
        except CodecError as error:
            coding = opened.headers.get("content-encoding", "identity")
            reason = reason or (str(error) if coding == "identity" else f"it is encoded ({coding[:20]})")
        return evolve(came, body=body, fault=INTERRUPTED if reason is not None else None, reason=reason)

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

    def _trusted(self) -> str | bool:
        found = self._ca_bundle
        if found is None and self._trust_env:
            found = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        return found or True


def _connections() -> Connections:
    # requests is imported with the first client that is made, not with its class.
    from conversation_store.api.connection import Connections

    return Connections()


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


def check_address(url: str) -> None:
    """
    Make sure that an address can be spoken to: https, or http on this computer; no user, password or fragment.

    Raises:
        ConfigurationError: It is something else.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if not host or parts.scheme not in {"https", "http"} or not _token.fullmatch(url) or parts.fragment:
        raise ConfigurationError("no address: give one like https://example.org/checkpoint")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("an address holds no user and no password; give a header")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(f"{host} must be spoken to with https")


def put(url: str, data: bytes, *, media_type: str, headers: Mapping[str, str], timeout: float) -> None:
    """
    Put bytes at an address, once: no redirect is followed, no cookie, netrc, proxy or environment setting is used.

    Args:
        url: As ``check_address`` takes it; it may have a query.
        data: What is put there.
        media_type: Of the data.
        headers: Further ones, for the host to know us by.
        timeout: Seconds for all of it.

    Raises:
        ConfigurationError: The address cannot be spoken to.
        APIError: It was not taken; the message names no address.
    """
    from conversation_store.api import connection

    check_address(url)
    given = {"User-Agent": _user_agent(), **headers, "Content-Type": media_type}
    reason, status = None, 0
    try:
        status = connection.put(url, data, headers=given, timeout=timeout)
    except connection.NoResponseError as error:
        reason = error.reason
    if reason is not None:
        raise NoAnswerError(reason)
    if not 200 <= status < 300:  # noqa: PLR2004 - success, as HTTP counts it
        raise StatusError(f"HTTP {status}", status=status)


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
