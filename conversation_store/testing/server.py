"""
The Messages API on loopback: a real HTTP/1.1 server in threads of its own.

One thread accepts, one serves each connection; all are daemons, and `MessagesAPI.close` ends every one of them.
Nothing is printed or logged: what was asked stands in `MessagesAPI.requests`.
"""

from __future__ import annotations

import contextlib
import email.message
import json
import socket
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

from conversation_store.testing import answers
from conversation_store.testing.answers import Answer, Fault, Scripted
from conversation_store.testing.binding import CONTROLS, Binder
from conversation_store.testing.blocks import open_server_calls
from conversation_store.testing.caching import Cache
from conversation_store.testing.delivery import Delivery, Reply
from conversation_store.testing.models import Model, catalogue
from conversation_store.testing.offline import compose
from conversation_store.testing.shapes import EVERY_BETA, Call, RejectionError, check_shape, fingerprint
from conversation_store.testing.streams import Streaming, encode, event
from conversation_store.testing.validation import VERSIONS, check
from conversation_store.testing.wire import PATIENCE, GoneError, Headers, Request, Wire

KEY: Final = "sk-ant-loopback"
"""The key a `MessagesAPI` accepts unless it is given another."""
LIMIT: Final = 32 * 1024 * 1024
"""The size of a request body the API takes at most, in bytes."""
_CONTAINER_LIFE: Final = 30 * 24 * 3600
_CHARSETS: Final = ("utf-8", "iso-8859-1", "us-ascii")
_ROUTES: Final[Mapping[str, str]] = {
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/models": "GET",
}


class MessagesAPI:
    """
    A Messages API that lives on loopback while a ``with`` block runs.

    It starts as it is made, on 127.0.0.1 and a free port, and refuses what the real one refuses. Requests it accepts
    are answered with the scripted answers, in order, and by an offline model where nothing is scripted.

    Args:
        key: The only API key it accepts.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        models: Models it knows beside those in service; a string stands for one of the newest kind.
        limit: The largest request body, in bytes; more is answered with 413.
        strict: False accepts every JSON body that has messages.
        otherwise: What answers where nothing is scripted; the offline model when None.
        seed: Another seed makes other ids.
        binding: Whether thinking is bound to what precedes it on every model that does so for newer accounts;
            two models do so always.
        clock: Tells the time in seconds; the prompt cache and containers live by it.

    Attributes:
        url: The base URL, without ``/v1``.
        key: The only API key it accepts.

    Example:
        >>> with MessagesAPI() as api:
        ...     api.answer("Hello!")
        ...     len(api.requests)
        0
    """

    def __init__(
        self,
        *,
        key: str = KEY,
        host: str = "127.0.0.1",
        port: int = 0,
        models: Iterable[Model | str] = (),
        limit: int = LIMIT,
        strict: bool = True,
        otherwise: Scripted = None,
        seed: int = 0,
        binding: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.key = key
        self.models = catalogue(models)
        self.limit = limit
        self.strict = strict
        self.otherwise = otherwise
        self.seed = seed
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._script: deque[Scripted] = deque()
        self._requests: list[Request] = []
        self._recalled: set[str] = set()
        self._binder = Binder(binding=binding)
        self._cache = Cache(clock)
        self._clock = clock
        self._containers: dict[str, float] = {}  # until when they live
        self._made_ids = Counter[str]()
        self._open: dict[int, tuple[socket.socket, threading.Thread]] = {}
        self._connections = self._unread = 0
        self._listener = socket.create_server((host, port), backlog=128)
        self._address: tuple[str, int] = self._listener.getsockname()[:2]
        self.url = f"http://{self._address[0]}:{self._address[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="messages-api", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MessagesAPI {self.url}, {len(self.requests)} requests>"

    # -- what a test says ------------------------------------------------------------------------------------

    def answer(self, *scripted: Scripted) -> None:
        """
        Add the next answers, in order.

        An answer is used up by a valid ``POST /v1/messages``; a request the API refuses leaves it for the next.

        Args:
            scripted: Each a text, an `Answer`, a `Fault`, the bytes of a body, a whole message as a dict, or a function
                of the `Request` that returns one of these (or None, for the offline model).
        """
        with self._changed:
            self._script.extend(scripted)

    def fail(self, fault: Fault, times: int = 1) -> None:
        """Let the next *times* requests, whatever they ask, meet a fault once the answers before it are used up."""
        self.answer(*[fault] * times)

    def clear(self) -> None:
        """Forget the script and everything that was asked."""
        with self._changed:
            self._script.clear()
            self._requests.clear()
            self._unread = 0

    # -- what a test sees ------------------------------------------------------------------------------------

    @property
    def requests(self) -> tuple[Request, ...]:
        """Everything that was asked, in order of arrival; a copy."""
        with self._changed:
            return tuple(self._requests)

    @property
    def scripted(self) -> int:
        """How many scripted answers and faults are left."""
        with self._changed:
            return len(self._script)

    @property
    def unread(self) -> int:
        """How many requests were dropped before they were read."""
        with self._changed:
            return self._unread

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        with self._changed:
            return self._connections

    def wait(self, count: int, timeout: float = PATIENCE) -> tuple[Request, ...]:
        """
        Wait until at least *count* requests have arrived, answered or not, and return all there are.

        Raises:
            TimeoutError: There were fewer after *timeout* seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, timeout):
                message = f"{len(self._requests)} of {count} requests arrived within {timeout} s"
                raise TimeoutError(message)
            return tuple(self._requests)

    def close(self) -> None:
        """Stop listening, end every connection, and wait for the threads. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(OSError):  # wakes the accepting thread on every platform
            socket.create_connection(self._address, timeout=PATIENCE).close()
        self._acceptor.join(PATIENCE)
        self._listener.close()
        with self._changed:
            serving = list(self._open.values())
        for connection, _ in serving:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for _, thread in serving:
            if thread is not threading.current_thread():
                thread.join(PATIENCE)

    # -- threads ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closing.wait(0.01):  # out of file descriptors, for instance: try again
                    return
                continue
            if self._closing.is_set():
                connection.close()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                number = self._connections
                self._connections += 1
                thread = threading.Thread(
                    target=self._serve, args=(connection, number), name=f"messages-api-{number}", daemon=True
                )
                self._open[number] = connection, thread
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        wire = Wire(connection, number)
        try:
            with contextlib.suppress(OSError, GoneError):
                while not self._closing.is_set() and self._exchange(wire):
                    pass
        finally:
            with contextlib.suppress(OSError):
                connection.close()
            with self._changed:
                self._open.pop(number, None)

    def _exchange(self, wire: Wire) -> bool:
        """Serve one request; tell whether the connection stays open."""
        wire.wait_for_bytes()
        fault = self._take(lambda head: isinstance(head, Fault) and head.drop == "unread")
        if isinstance(fault, Fault):
            with self._changed:
                self._unread += 1
            self._closing.wait(fault.wait)
            return wire.end(hard=fault.hard)
        request = wire.read(self.limit)
        request.id = self._new_id("req")
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
        try:
            reply = self._reply(request)
        except Exception as error:  # noqa: BLE001 - a script's own function failed; the caller must get an answer
            reply = _error(request, HTTPStatus.INTERNAL_SERVER_ERROR, message=repr(error))
        return Delivery(wire, request, reply, self._closing).send()

    # -- from a request to a reply ---------------------------------------------------------------------------

    def _take(self, wanted: Callable[[Scripted], bool]) -> Scripted:
        """Take the next scripted item off the script if it is a wanted one; None otherwise."""
        with self._changed:
            return self._script.popleft() if self._script and wanted(self._script[0]) else None

    def _reply(self, request: Request) -> Reply:
        fault = self._take(lambda head: isinstance(head, Fault))
        try:
            refused: RejectionError | None = None
            self._check(request)
        except RejectionError as rejection:
            refused = rejection
        if isinstance(fault, Fault):
            return self._faulty(request, fault, refused)
        if refused is not None:
            return _refusal(request, refused)
        if request.path != "/v1/messages":
            return _json(self._lookup(request))
        return self._made(request, self._take(lambda _: True))

    def _new_id(self, prefix: str) -> str:
        with self._changed:
            self._made_ids[prefix] += 1
            return answers.identifier(prefix, self.seed, self._made_ids[prefix])

    def _made(self, request: Request, scripted: Scripted) -> Reply:
        """Turn a scripted item into a reply."""
        for each in (scripted, self.otherwise, self._composed):
            found: Any = each
            if callable(found):
                found = found(request)
            if isinstance(found, Fault):
                return self._faulty(request, found, None)
            if found is not None:
                return self._answer(request, found)
        raise AssertionError  # pragma: no cover - the offline model always answers

    def _answer(self, request: Request, found: str | bytes | Mapping[str, Any] | Answer) -> Reply:
        if isinstance(found, str):
            found = Answer(found)
        if isinstance(found, Answer) and found.body is None:
            return self._spoken(request, self._completed(request, found), found)
        if isinstance(found, Mapping):
            self._signed(request, found.get("content"), found.get("model"))
            return self._spoken(request, found, Answer())
        body = found if isinstance(found, bytes) else found.body or b""
        streamed = body.startswith((b"event:", b"data:", b":"))
        with contextlib.suppress(ValueError, AttributeError):
            message = json.loads(body)
            self._recall(message.get("content"))
            self._signed(request, message.get("content"), message.get("model"))
        headers = {"content-type": "text/event-stream" if streamed else "application/json"}
        return Reply(
            HTTPStatus.OK,
            headers | dict(found.headers if isinstance(found, Answer) else {}),
            (body,),
            streamed=streamed,
        )

    def _composed(self, request: Request) -> Answer:
        return compose(request.body, self.models.get(request.body.get("model", "")))

    def _completed(self, request: Request, answer: Answer) -> dict[str, Any]:
        """Return the whole message of an answer: blocks filled in, thinking signed, what was cached counted."""
        body = request.body
        name = body.get("model", "")
        model = self.models.get(name, Model(name))
        waiting = open_server_calls(body["messages"]) if self.strict else {}
        content = answers.filled(answer, waiting=waiting, new_id=self._new_id, model=model.id)
        if self.strict:
            content = self._signed(request, content, answer.model or model.id)
        counted = self._cache.account(body if self.strict else {}, model, request.input_tokens)
        answer = replace(answer, container=self._container(body, answer, content))
        message = answers.complete(answer, content, counted=counted, own_id=self._new_id("msg"), model=model.id)
        if message["stop_reason"] == "pause_turn" and self.strict:
            self._binder.pause(body, content)
        if CONTROLS in request.headers.get("anthropic-beta", ""):
            message["input_transformations"] = list(request.transformations)
        return message

    def _signed(self, request: Request, content: Any, model: Any) -> list[dict[str, Any]]:
        """Return an answer's blocks, thinking signed; what was signed already is remembered as it is."""
        if not self.strict or not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
            return []
        told = request.transformations
        dropped = frozenset(each["path"] for each in told if each["reason"] == "prefix_binding_mismatch")
        return self._binder.sign(request.body, content, str(model), dropped)

    def _container(self, body: Mapping[str, Any], answer: Answer, content: list[dict[str, Any]]) -> Any:
        """Return the container an answer names, its life begun."""
        asked = body.get("container")
        named = answer.container or (asked.get("id") if isinstance(asked, dict) else asked)
        if isinstance(named, Mapping) or not (named or answers.runs_code(content)):
            return named
        key = named or self._new_id("container")
        with self._changed:
            until = self._containers.setdefault(key, self._clock() + _CONTAINER_LIFE)
        expires = datetime.fromtimestamp(until, UTC).isoformat().replace("+00:00", "Z")
        return {"id": key, "expires_at": expires, "skills": None}

    def _spoken(self, request: Request, message: Mapping[str, Any], answer: Answer) -> Reply:
        self._recall(message.get("content"))
        if request.body.get("stream"):
            usual = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
            how: Streaming = answer.streaming
            headers = usual | dict(answer.headers)
            return Reply(HTTPStatus.OK, headers, tuple(how.events(message)), streamed=True, pause=how.pause)
        return _json(message, answer.headers)

    def _recall(self, content: Any) -> None:
        """Remember the blocks of an answer that the API would refuse from anybody else."""
        if not isinstance(content, list):
            return
        for block in content:
            probe = {"model": "", "max_tokens": 1, "messages": [{"role": "assistant", "content": [block]}]}
            try:
                check_shape(probe, Call(betas=EVERY_BETA))
            except RejectionError:
                if isinstance(block, dict):
                    with self._changed:
                        self._recalled.add(fingerprint(block))

    def _recalls(self, block: Mapping[str, Any]) -> bool:
        with self._changed:
            return bool(self._recalled) and fingerprint(block) in self._recalled

    def _faulty(self, request: Request, fault: Fault, refused: RejectionError | None) -> Reply:
        if fault.code is not None:
            reply = _error(request, fault.code, fault.kind, fault.message, fault.error_code)
            headers = {name: value for name, value in (reply.headers | dict(fault.headers)).items() if value}
            pieces = reply.pieces if fault.body is None else (fault.body,)
            return reply._replace(headers=headers, pieces=pieces, fault=fault)
        if fault.drop is not None or fault.raw is not None:
            return Reply(None, {}, (), fault=fault)
        if refused is not None:
            reply = _refusal(request, refused)
        elif request.path != "/v1/messages":
            reply = _json(self._lookup(request))
        else:
            reply = self._made(request, fault.answer)
        if fault.events is not None and reply.streamed:
            error = answers.error_body(fault.kind or "overloaded_error", fault.message, request.id)
            broken = event("error", error=error["error"], request_id=request.id)
            reply = reply._replace(pieces=(*reply.pieces[: fault.events], broken))
        return reply._replace(fault=fault, headers=reply.headers | dict(fault.headers))

    def _lookup(self, request: Request) -> Mapping[str, Any]:
        if request.path == "/v1/messages/count_tokens":
            return {"input_tokens": request.input_tokens}
        name = request.path.removeprefix("/v1/models").strip("/")
        if name:
            return self.models[name].described()
        listed = [model.described() for key, model in self.models.items() if key == model.id]
        ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]}
        return {"data": listed, "has_more": False, **ends}

    # -- checks that need the whole request ------------------------------------------------------------------

    def _check(self, request: Request) -> None:
        """Refuse what the API would refuse; the body is decoded on the way."""
        self._check_route(request)
        self._check_key(request.headers)
        version = request.headers.get("anthropic-version")
        if version is None:
            raise RejectionError("anthropic-version: header is required")
        if version not in VERSIONS:
            raise RejectionError(f'anthropic-version: "{version}" is not a valid version')
        if request.method == "GET":
            return
        request.body = _decoded(request, self.limit)
        betas = frozenset(filter(None, map(str.strip, request.headers.get("anthropic-beta", "").split(","))))
        call = Call(version, betas, request.path.endswith("count_tokens"), self._recalls, self._binder.continued)
        if self.strict:
            check(request.body, call, self.models)
            model = self.models[request.body["model"]]
            size = request.input_tokens
            if size > model.context:
                raise RejectionError(f"prompt is too long: {size} tokens > {model.context} maximum")
            self._check_container(request.body.get("container"))
            request.transformations = tuple(self._binder.check(request.body, model))
        elif not isinstance(request.body, dict) or not request.body.get("messages"):
            raise RejectionError("messages: at least one message is required")

    def _check_container(self, asked: Any) -> None:
        named = asked.get("id") if isinstance(asked, dict) else asked
        with self._changed:
            expired = self._containers.get(named or "", self._clock() + 1) <= self._clock()
        if expired:
            raise RejectionError(f"container: Container {named} has expired")

    def _check_route(self, request: Request) -> None:
        parent, _, name = request.path.rpartition("/")
        listed = parent == "/v1/models"
        method = "GET" if listed else _ROUTES.get(request.path)
        if method is None:
            raise RejectionError("Not Found", status=404, kind="not_found_error")
        if request.method != method:
            raise RejectionError("Method Not Allowed", status=405)
        if listed and name not in self.models:
            raise RejectionError(f"model: {name}", status=404, kind="not_found_error")

    def _check_key(self, headers: Headers) -> None:
        key, bearer = headers.get("x-api-key"), headers.get("authorization")
        if key is not None and bearer is not None:
            raise RejectionError("Only one of the x-api-key and Authorization headers may be sent")
        if key is None and bearer is None:
            raise RejectionError("x-api-key header is required", status=401, kind="authentication_error")
        if key is not None and key != self.key:
            raise RejectionError("invalid x-api-key", status=401, kind="authentication_error")
        if bearer is not None and bearer != f"Bearer {self.key}":
            raise RejectionError("Invalid bearer token", status=401, kind="authentication_error")


def _json(value: Any, headers: Mapping[str, str] | None = None, status: int = HTTPStatus.OK) -> Reply:
    usual = {"content-type": "application/json"} | dict(headers or {})
    return Reply(status, usual, (encode(value),))


def _error(
    request: Request,
    status: int,
    kind: str | None = None,
    message: str | None = None,
    code: str | None = None,
) -> Reply:
    kind = kind or answers.ERROR_TYPES.get(
        status, "api_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "error"
    )
    return _json(answers.error_body(kind, message, request.id, code), status=status)


def _refusal(request: Request, refused: RejectionError) -> Reply:
    reply = _error(request, refused.status, refused.kind, refused.message, refused.code)
    reply.headers["x-should-retry"] = "false"
    if refused.status == HTTPStatus.METHOD_NOT_ALLOWED:
        reply.headers["allow"] = _ROUTES.get(request.path, "GET")
    return reply


# -- reading a body ------------------------------------------------------------------------------------------


def _decoded(request: Request, limit: int) -> Any:
    """Return the JSON of a request body."""
    if len(request.raw) > limit:
        raise RejectionError("Request exceeds the maximum size", status=413, kind="request_too_large")
    content = email.message.Message()
    content["content-type"] = request.headers.get("content-type", "text/plain")
    if content.get_content_type() != "application/json":
        raise RejectionError("content-type: must be application/json")
    charset = content.get_content_charset("utf-8")
    if charset not in _CHARSETS:
        raise RejectionError(f"unsupported charset: {charset}", code="unsupported_charset")
    raw = _inflated(request.raw, request.headers.get("content-encoding", "identity"), limit)
    try:
        text = raw.decode(charset)
        value = json.loads(text, parse_constant=_no_constant)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RejectionError("The request body is not valid JSON: no low surrogate in string") from None
    except (ValueError, RecursionError) as error:
        raise RejectionError(f"The request body is not valid JSON: {error}") from None
    return value


def _no_constant(name: str) -> None:
    message = f"unexpected {name}"
    raise ValueError(message)


def _inflated(raw: bytes, encoding: str, limit: int) -> bytes:
    """Return the bytes behind a content encoding."""
    if encoding == "identity":
        return raw
    if encoding not in {"gzip", "deflate"}:
        raise RejectionError(f"unsupported Content-Encoding: {encoding}", code="request_body_encoding_unsupported")
    inflate = zlib.decompressobj(wbits=47)  # either of the two headers
    try:
        plain = inflate.decompress(raw, limit + 1)
    except zlib.error:
        plain = None
    if plain is None or not (inflate.eof or len(plain) > limit):
        raise RejectionError("the body is not what Content-Encoding says", code="request_body_encoding_invalid")
    if len(plain) > limit:
        raise RejectionError(
            "Request exceeds the maximum size",
            status=413,
            kind="request_too_large",
            code="request_body_too_large_after_decoding",
        )
    return plain
