"""
From view, settings and prefill to the exact bytes of a request.

``messages`` come first in a body, so that its beginning is the same from one request to the next: the bytes
are kept in one buffer and copied once, the SHA-256 over them is extended and never begun again.

A builder is never changed, only added to: every ``request`` entry names the one that made its body.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, islice
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from attrs import Factory, define, evolve, field, frozen

from conversation_store.api.packed import Pairs, Places, numbers
from conversation_store.errors import ConfigurationError, ContentError
from conversation_store.record import canonical, splices
from conversation_store.record.blocks import ABSENT, Block
from conversation_store.record.codec import value_of
from conversation_store.record.media import Media
from conversation_store.record.turns import Splice, parts_of, role_of, splices_of
from conversation_store.record.window import Window

BUILDER: Final = 1
"""The builder of bodies: ``{"messages":[…],`` then the settings' bytes, then the overrides' new keys."""

MARKING_BUILDER: Final = 2
"""The same, with cache breakpoints written into the messages that the ``request`` entry's ``markers`` name."""

BUILDERS: Final = frozenset({BUILDER, MARKING_BUILDER})

DEFAULT_VERSION: Final = "2023-06-01"
_OPENING: Final = b'{"messages":['
_escaped_letter: Final = re.compile(rb"\\u00[567]")
_KEPT: Final = 4 * 1024 * 1024
"""Bytes of strings that are kept while a body is sent, so that one that occurs again is not made again."""
_NOT_SETTINGS: Final = frozenset({"messages", "stream"})

SDK_PARAMETERS: Final = frozenset(
    {
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
"""Parameters the official SDK's ``messages.create`` takes by name; all others go through ``extra_body``."""

PLACEHOLDER: Final = "conversation_store.secret:"
"""What stands in a recorded body where a secret was sent; followed by the secret's name."""


@frozen
class Settings:
    """
    The top-level parameters of a conversation, complete.

    Attributes:
        body: A JSON object, as the bytes that will be sent; secrets are not in it.
        version: The API version asked for, None for the client's.
        betas: Beta ids asked for, beside the client's.
        cache: Who sets cache breakpoints: ``auto`` or ``1h`` for this library, ``off`` or None for nobody else than
            the caller.
        window: How much of the conversation is sent, None for all.
    """

    body: bytes = b"{}"
    version: str | None = None
    betas: tuple[str, ...] = ()
    cache: str | None = None
    window: Window | None = None

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters, parsed."""
        value = canonical.loads(self.body)
        return value if isinstance(value, dict) else {}

    def fields(self) -> dict[str, Any]:
        """Write what is not in the body as fields of an entry's header."""
        fields: dict[str, Any] = {}
        if self.version is not None:
            fields["version"] = self.version
        if self.betas:
            fields["betas"] = list(self.betas)
        if self.cache is not None:
            fields["cache"] = self.cache
        if self.window is not None:
            fields["window"] = self.window.fields()
        return fields

    @classmethod
    def read(cls, body: bytes, fields: Mapping[str, Any]) -> Settings:
        """Read settings from an entry's body and header fields."""
        window = fields.get("window")
        return cls(
            body,
            fields.get("version"),
            tuple(fields.get("betas", ())),
            fields.get("cache"),
            None if window is None else Window.read(window),
        )

    def updated(self, changes: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
        """
        Change parameters: new ones are appended, ``ABSENT`` removes one, the rest keep their place and bytes.

        Args:
            changes: Parameters by name, any that the API has; ``betas`` and ``version`` go into headers, ``cache``
                says who sets cache breakpoints, ``window`` how much of the conversation is sent.

        Returns:
            The new settings, and the secrets that were taken out of them, by name.

        Raises:
            ContentError: A value that is no JSON, or a name that is no setting.
        """
        secrets: dict[str, str] = {}
        if not changes:
            return self, secrets
        parts = _parts(self.body)
        result = self
        for name, value in changes.items():
            if not name or not name.isascii():
                raise ContentError("settings", "a parameter of the API has a name in ASCII")
            if name in _NOT_SETTINGS:
                raise ContentError(name, "is no setting: turns and the way of sending are said elsewhere")
            if name == "version":
                result = evolve(result, version=None if value is ABSENT else _header_text(name, value))
            elif name == "betas":
                given = () if value is ABSENT or value is None else value
                if isinstance(given, str):
                    raise ContentError("betas", "give a list of beta ids")
                result = evolve(result, betas=tuple(_header_text(name, each) for each in given))
            elif name == "cache":
                if value not in (None, ABSENT, "auto", "1h", "off"):
                    raise ContentError(name, "is one of auto, 1h, off")
                result = evolve(result, cache=None if value is ABSENT else value)
            elif name == "window":
                result = evolve(result, window=None if value is ABSENT or value is None else Window.read(value))
            elif value is ABSENT:
                parts.pop(name, None)
            else:
                parts[name] = canonical.dumps(_concealed(name, _plain(value), secrets), name)
        return evolve(result, body=canonical.compose(parts)), secrets


def _header_text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable() or "," in value:
        raise ContentError(name, "give a short ASCII text without commas")
    return value


def _plain(value: object) -> object:
    """Let blocks stand wherever JSON may (a system prompt, a tool's examples)."""
    if isinstance(value, Block):
        return value_of(value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _concealed(name: str, value: object, secrets: dict[str, str]) -> object:
    """Take out of a parameter what must never be stored, and note it under the name that stands in its place."""
    if name == "mcp_servers" and isinstance(value, list):
        return [_without_token(each, f"mcp_servers.{_name_of(each)}", "authorization_token", secrets) for each in value]
    if name == "fallback_credit_token":
        if isinstance(value, str) and not value.startswith(PLACEHOLDER):
            secrets[name] = value
            return PLACEHOLDER + name
        return _without_token(value, name, "token", secrets)
    return value


def _name_of(server: object) -> object:
    return server.get("name") if isinstance(server, Mapping) else None


def _without_token(value: object, name: str, key: str, secrets: dict[str, str]) -> object:
    if not isinstance(value, Mapping) or not isinstance(value.get(key), str) or value[key].startswith(PLACEHOLDER):
        return value
    if secrets.get(name, value[key]) != value[key]:
        raise ContentError(name, "two servers of this name have tokens: give each a name of its own")
    secrets[name] = value[key]
    return {**value, key: PLACEHOLDER + name}


def merged(settings: bytes, overrides: bytes, *, stream: bool = False) -> bytes:
    """
    Lay one exchange's overrides over the settings; both are objects, and no value is encoded again.

    *stream* asks for a streamed answer, as the last parameter.
    """
    if stream:
        return canonical.compose({**_parts(merged(settings, overrides)), "stream": b"true"})
    if overrides == b"{}":
        return settings
    return canonical.compose(_parts(settings) | _parts(overrides))


def _parts(data: bytes) -> dict[str, bytes]:
    return {name: data[each.start : each.end] for name, each in canonical.members(data).items()}


# --- bodies ------------------------------------------------------------------------------------------------------


@frozen
class Insert:
    """
    A string of a body that is made from a blob while it is sent.

    Attributes:
        chunks: Reads the blob, 1 MiB at a time; called again for each attempt.
        size: Bytes of the blob.
        encoding: How its bytes become the string.
        media: What it is, as far as its header tells; None where it is no picture and no document.
        digest: SHA-256 of the blob, by which a string that a body holds more than once is made once; None for none.
    """

    chunks: Callable[[], Iterable[bytes]]
    size: int
    encoding: splices.Encoding
    media: Media | None = None
    digest: bytes | None = None

    def __len__(self) -> int:
        return splices.length(self.size, self.encoding)

    def __iter__(self) -> Iterator[bytes]:
        return splices.text(self.chunks(), self.encoding)


class _Made:
    """Makes the strings of one body, and keeps the latest: the same picture often comes with turn after turn."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, splices.Encoding], list[bytes]] = {}
        self._room = _KEPT

    def strings(self, insert: Insert) -> Iterable[bytes]:
        """Give a string in segments."""
        if insert.digest is None or len(insert) > _KEPT:
            return insert
        made = self._kept.get((insert.digest, insert.encoding))
        if made is None:
            if len(insert) > self._room:
                self._kept, self._room = {}, _KEPT
            self._room -= len(insert)
            made = self._kept[insert.digest, insert.encoding] = list(insert)
        return made


Piece: TypeAlias = "bytes | Insert"


@frozen
class Slice:
    """
    Bytes of a buffer that grows at its end and is never changed before it: they are copied when somebody wants them.

    Attributes:
        buffer: The buffer.
        start: Where they begin; ``end`` where they end.
    """

    buffer: bytearray = field(repr=False)
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@frozen(kw_only=True)
class Request:
    """
    One request: the exact body, and the headers that are not the client's own.

    Attributes:
        parts: Of what the recorded body is made.
        length: Bytes of the recorded body.
        digest: SHA-256 of the recorded body (in which names stand for secrets).
        version: The API version.
        betas: Beta ids.
        secrets: What is sent in the place of each name, by name; None where it is not known here.
        slots: Where names stand for secrets: start and end, counted back from the end of the body, and the name.
        endpoint: The path it is posted to.
    """

    parts: Sequence[Slice | Piece] = field(repr=False)
    length: int
    digest: bytes = field(repr=lambda digest: digest.hex())
    version: str
    betas: tuple[str, ...]
    secrets: Mapping[str, str | None] = field(factory=dict, repr=False)
    slots: Sequence[tuple[int, int, str]] = field(default=(), repr=False)
    endpoint: str = "/v1/messages"

    def __len__(self) -> int:
        return sum(map(len, self._sent))

    def __iter__(self) -> Iterator[bytes]:
        """Give the body as it is sent, in segments; may be done again."""
        made = _Made()
        for piece in self._sent:
            if isinstance(piece, Insert):
                yield from made.strings(piece)
            else:
                yield piece

    @property
    def streams(self) -> bool:
        """Whether part of the body is made while it is sent; else ``body`` is one piece already."""
        return any(isinstance(part, Insert) for part in self.parts)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The recorded body: bytes, copied when they are first asked for, and strings made while it is sent."""
        return _joined(self.parts)

    @property
    def recorded(self) -> bytes:
        """The recorded body, whole: what ``digest`` digests and ``replay`` gives back."""
        return b"".join(b"".join(piece) if isinstance(piece, Insert) else piece for piece in self.pieces)

    @property
    def body(self) -> bytes:
        """The body as it is sent, whole."""
        sent = self._sent
        return sent[0] if len(sent) == 1 and isinstance(sent[0], bytes) else b"".join(self)

    @property
    def _sent(self) -> tuple[Piece, ...]:
        if not self.secrets:
            return self.pieces
        *others, last = self.pieces
        assert isinstance(last, bytes)  # noqa: S101 - a body ends with its settings
        parts: list[bytes] = []
        at = 0
        for start, end, name in self.slots:
            value = self.secrets[name]
            if value is None:
                raise _unknown_secret(name)
            parts += (last[at : len(last) - start], canonical.dumps(value))
            at = len(last) - end
        return (*others, b"".join([*parts, last[at:]]))

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to this body; authentication is the sender's."""
        headers = {"anthropic-version": self.version, "content-type": "application/json"}
        if self.betas:
            headers["anthropic-beta"] = ",".join(self.betas)
        return headers

    @property
    def params(self) -> dict[str, Any]:
        """Keyword arguments for ``messages.create`` of the official SDK; unlisted parameters in ``extra_body``."""
        parsed = canonical.loads(self.body)
        body = parsed if isinstance(parsed, dict) else {}
        params: dict[str, Any] = {name: value for name, value in body.items() if name in SDK_PARAMETERS}
        rest = {name: value for name, value in body.items() if name not in SDK_PARAMETERS}
        params["extra_headers"] = {name: value for name, value in self.headers.items() if name != "content-type"}
        if rest:
            params["extra_body"] = rest
        return params


@define
class Messages:
    """
    The messages of one view, as the bytes every request begins with; grows at its end.

    A turn is a message of its own, but for results of tools: those given one by one (``gather`` in the header)
    and the user's words beside them are one user message, results first, as the API wants it.

    Attributes:
        places: Whose log and which position each turn is, in order.
        roles: Each turn's role.
        model_turns: Indices of the turns the model wrote.
        calling: Indices of the assistant's turns that may hold calls of tools.
        thinking: Indices of the assistant's turns that may hold thinking.
    """

    places: Places = Factory(Places)
    roles: list[str] = Factory(list)
    model_turns: array[int] = Factory(numbers)
    calling: array[int] = Factory(numbers)
    thinking: array[int] = Factory(numbers)
    _bytes: bytearray = Factory(lambda: bytearray(_OPENING))
    _inserts: list[tuple[int, Insert]] = Factory(list)
    _closed: Pairs = Factory(Pairs)
    """Of each message in the buffer: its first turn, and where it ends."""
    _turns: dict[int, Sequence[int | None]] = Factory(dict)
    """Of each of them that is made of several turns: the turn of each block."""
    _open: list[Part] = Factory(list)
    """The turns of the last message, which is not in the buffer yet: more may join it."""
    _hash: Any = Factory(sha256)
    _hashed: int = 0
    _hashed_inserts: int = 0
    _last_assistant: int = -1
    _inserted: int = 0

    def __len__(self) -> int:
        return len(self.places)

    @property
    def count(self) -> int:
        """How many messages there are."""
        return len(self._closed) + bool(self._open)

    @property
    def last_spoken(self) -> range:
        """The indices of the assistant's last turns in a row; empty where it has none."""
        end = self._last_assistant + 1
        start = end
        while start and self.roles[start - 1] == "assistant":
            start -= 1
        return range(start, end)

    @property
    def closed(self) -> Pairs:
        """Of each message that is complete: its first turn, and where it ends in the buffer."""
        return self._closed

    @property
    def buffer(self) -> bytearray:
        """The bytes of those messages, commas between them, after ``begin`` bytes; not to be changed."""
        return self._bytes

    @property
    def begin(self) -> int:
        """Where the first message begins in the buffer."""
        return len(_OPENING)

    @property
    def inserts(self) -> Sequence[tuple[int, Insert]]:
        """The strings that belong into the buffer, each with its place."""
        return self._inserts

    @property
    def first_open(self) -> int:
        """The first turn of the last message, which more turns may join."""
        return len(self.places) - len(self._open)

    def turns_of_blocks(self, message: int) -> Sequence[int | None]:
        """Say of each block of a complete message which turn it is of; nothing for a message of one turn."""
        return self._turns.get(message, ())

    def is_models(self, turn: int) -> bool:
        """Say whether the model wrote a turn."""
        at = bisect_left(self.model_turns, turn)
        return at < len(self.model_turns) and self.model_turns[at] == turn

    def tail(self, extra: Sequence[Part]) -> list[Group]:
        """Write the messages after those that are complete: the last one, and what *extra* turns make of it."""
        groups, turn = [], self.first_open
        for parts in _grouped(self._open, extra):
            said = min(len(parts), len(self.places) - turn)
            turns = _turns_of_blocks(parts, turn, said) if len(parts) > 1 else ()
            groups.append(Group(turn if said else None, turns, _message(parts)))
            turn += said
        return groups

    def message_of(self, turn: int) -> int:
        """Say which message a turn is, or is part of."""
        if turn >= self.first_open:
            return len(self._closed)
        return bisect_right(self._closed, turn, key=lambda message: message[0]) - 1

    def add(self, place: tuple[UUID, int], header: bytes, body: bytes, inserts: Sequence[Insert] = ()) -> None:
        """Append a turn; *inserts* are its spliced strings, in the header's order."""
        part = part_of(header, body, inserts)
        if not _joins(self._open, part):
            self._close()
        self._open.append(part)
        if part.role == "assistant":
            self._mark(len(self.places), header, body)
        self.places.append(*place)
        self.roles.append(part.role)

    def extend(self, conversation: UUID, rows: Sequence[tuple[int, bytes, bytes]]) -> None:
        """
        Append turns of one log, as (position, header, body); what a fresh process does first, so done in bulk.

        None of them has spliced strings or is a prefill; runs of plain ones are joined at once.
        """
        at = end = 0
        while at < len(rows):
            while end < len(rows) and _stands_alone(rows[end][1]):
                end += 1
            position, header, body = rows[at]
            self.add((conversation, position), header, body)
            at += 1
            if end - at > 1 and not any(part.gathers for part in self._open):
                self._extend(conversation, rows[at : end - 1])
                at = end - 1  # the last one is left open: more may join it
            end = max(at, end)

    def _extend(self, conversation: UUID, rows: Sequence[tuple[int, bytes, bytes]]) -> None:
        self._close()
        first, end = len(self.places), len(self._bytes)
        bodies = [body for _, _, body in rows]
        self._bytes += b"," + b",".join(bodies)
        self.places.extend(conversation, [position for position, _, _ in rows])
        self.roles += map(role_of, bodies)
        ends = accumulate((1 + len(body) for body in bodies), initial=end)
        self._closed.extend(range(first, first + len(rows)), islice(ends, 1, None))
        for n, (_, header, body) in enumerate(rows, first):
            if self.roles[n] == "assistant":
                self._mark(n, header, body)

    @property
    def size(self) -> int:
        """Bytes of the messages that are complete, attachments included."""
        return len(self._bytes) + self._inserted

    def _mark(self, n: int, header: bytes, body: bytes) -> None:
        """Note what there is to know of the assistant's turn *n*."""
        self._last_assistant = n
        if b'"origin":"model"' in header:
            self.model_turns.append(n)
        # A cheap look at the bytes, in which letters may be written as escapes; whoever needs to be certain
        # looks at the turn.
        escaped = b"\\u00" in body and _escaped_letter.search(body) is not None
        if escaped or b'"tool_use"' in body:
            self.calling.append(n)
        if (escaped or b'thinking"' in body) and b'"thinking":false' not in header:
            self.thinking.append(n)

    def _close(self) -> None:
        if not self._open:
            return
        if self._closed:
            self._bytes += b","
        for piece in _message(self._open):
            if isinstance(piece, Insert):
                self._inserts.append((len(self._bytes), piece))
                self._inserted += len(piece)
            else:
                self._bytes += piece
        first = len(self.places) - len(self._open)
        if len(self._open) > 1:
            self._turns[len(self._closed)] = _turns_of_blocks(self._open, first, len(self._open))
        self._closed.append(first, len(self._bytes))
        self._open = []

    def cut(self, count: int) -> bool:
        """
        Drop every turn after the first *count*.

        Returns:
            False where that parts a message made of several turns, or leaves results last that more turns may
            join: then nothing is known any more.
        """
        if count >= len(self.places):
            return True
        first_open = len(self.places) - len(self._open)
        if count >= first_open:
            del self._open[count - first_open :]
        else:
            self._open = []
            kept = bisect_left(self._closed, count, key=itemgetter(0))
            if kept == len(self._closed) or self._closed[kept][0] != count:
                return False
            self._truncate(kept)
        if not self._open and self._closed and self.roles[count - 1] == "user":
            # More may join the user's words that are last now.
            last = self._reopened(len(self._closed) - 1)
            if last is not None:
                self._truncate(len(self._closed) - 1)
                self._open = [last]
        self.places.cut(count)
        del self.roles[count:]
        while self._last_assistant >= count or (
            self._last_assistant >= 0 and self.roles[self._last_assistant] != "assistant"
        ):
            self._last_assistant -= 1
        for marked in (self.model_turns, self.calling, self.thinking):
            while marked and marked[-1] >= count:
                marked.pop()
        return bool(self._open) or not self.roles or self.roles[-1] != "user"

    def _reopened(self, n: int) -> Part | None:
        """Make a turn of the user's words again of the message it is; None where it may hold results."""
        wire = self._wire(n)
        if b"tool_use_id" in wire or b"\\u00" in wire:
            return None
        return Part(False, "user", self._pieces(n))

    def _pieces(self, n: int) -> list[Piece]:
        slices = self._slices(self._start(n), self._closed[n][1])
        return [bytes(_bytes_of(each)) if isinstance(each, Slice) else each for each in slices]

    def _truncate(self, count: int) -> None:
        """Drop every message after the first *count*."""
        end = self._closed[count - 1][1] if count else len(_OPENING)
        self._closed.cut(count)
        self._turns = {n: turns for n, turns in self._turns.items() if n < count}
        self._bytes = self._bytes[:end]  # a new one: requests made before keep theirs
        self._inserts = [each for each in self._inserts if each[0] <= end]
        self._inserted = sum(len(insert) for _, insert in self._inserts)
        if self._hashed > end:
            self._hash, self._hashed, self._hashed_inserts = sha256(), 0, 0

    def request(
        self,
        extra: Sequence[Part],
        settings: bytes,
        *,
        version: str,
        betas: tuple[str, ...],
        secrets: Mapping[str, str],
        markers: Sequence[Marker] = (),
    ) -> Request:
        """
        Build a request: the messages, then *extra* turns that are not of the view yet, then the settings.

        Args:
            extra: More turns (the one about to be said, a prefill), as ``part_of`` makes them.
            settings: All other parameters, a JSON object.
            version: The API version, for the headers.
            betas: Beta ids, for the headers.
            secrets: What stands behind the names in the settings.
            markers: Where cache breakpoints are written; at most one a message.
        """
        tail: list[Piece] = []
        marked = {marker.message: marker for marker in markers}
        for n, message in enumerate(self.tail(extra)):
            pieces = list(message.pieces)
            if (marker := marked.get(n + len(self._closed))) is not None:
                pieces = _with(pieces, _marking(_skeleton(pieces), marker))
            tail += [b",", *pieces] if n or self._closed else pieces
        tail.append(b"]" + (b"," + settings[1:] if settings != b"{}" else b"}"))
        slots = [(len(settings) - start, len(settings) - end, name) for start, end, name in _slots_of(settings)]
        marks = sorted(
            (self._start(marker.message) + offset, data)
            for marker in markers
            if marker.message < len(self._closed)
            for offset, data in _marking(self._wire(marker.message), marker)
        )
        unmarked = marks[0][0] if marks else len(self._bytes)
        digest = self._digest(unmarked)
        rest = [*self._slices(unmarked, len(self._bytes), marks), *tail]
        for piece in rest:
            for data in piece if isinstance(piece, Insert) else (_bytes_of(piece),):
                digest.update(data)
        parts = [*self._slices(0, unmarked), *rest]
        return Request(
            parts=parts,
            length=sum(map(len, parts)),
            digest=digest.digest(),
            version=version,
            betas=betas,
            secrets={name: secrets.get(name) for _, _, name in slots},
            slots=slots,
        )

    @property
    def settled(self) -> int:
        """How many messages nothing more can join."""
        return len(self._closed)

    def message(self, n: int) -> Mapping[str, Any]:
        """Read a settled message; strings that are kept as blobs are empty in it."""
        return canonical.object_of(self._wire(n))

    def with_extra(self, extra: Sequence[Part]) -> list[Mapping[str, Any]]:
        """Read the messages after the settled ones, once *extra* turns are added to them; as ``message`` does."""
        return [canonical.object_of(_skeleton(_message(group))) for group in _grouped(self._open, extra)]

    def wires(self, extra: Sequence[Part] = (), first: int = 0) -> Iterator[bytes]:
        """Give the messages' bytes, *extra* turns among them, from *first* on; strings kept as blobs are empty."""
        yield from map(self._wire, range(first, len(self._closed)))
        yield from (_skeleton(_message(group)) for group in _grouped(self._open, extra))

    def left_out(self, extra: Sequence[Part], markers: Sequence[Marker]) -> Iterator[tuple[int, Insert | bytes]]:
        """Give what a body has and ``wires`` have not, blobs and breakpoints, each by its place in a body without."""
        yield from self._inserts
        at = len(self._bytes)
        starts = [self._start(marker.message) for marker in markers if marker.message < len(self._closed)]
        wires = [self._wire(marker.message) for marker in markers if marker.message < len(self._closed)]
        marked = [marker.message - len(self._closed) for marker in markers]
        for n, group in enumerate(self.tail(extra)):
            at += bool(n or self._closed)
            if n in marked:
                starts.append(at)
                wires.append(_skeleton(group.pieces))
            for piece in group.pieces:
                if isinstance(piece, Insert):
                    yield at, piece
                else:
                    at += len(piece)
        for start, wire, marker in zip(starts, wires, sorted(markers), strict=True):
            yield from ((start + offset, data) for offset, data in _marking(wire, marker))

    def whole(self, n: int, extra: Sequence[Part] = ()) -> bytes:
        """Give one message's exact bytes, those kept as blobs included."""
        if n < len(self._closed):
            pieces = self._slices(self._start(n), self._closed[n][1])
        else:
            pieces = [*_message(_grouped(self._open, extra)[n - len(self._closed)])]
        return b"".join(b"".join(each) if isinstance(each, Insert) else bytes(_bytes_of(each)) for each in pieces)

    def attached(self) -> Iterator[tuple[int, Insert]]:
        """Give every string that is kept as a blob, with the turn it belongs to (the first one of its message)."""
        for offset, insert in self._inserts:
            yield self._closed[bisect_right(self._closed, offset, key=itemgetter(1))][0], insert
        for n, part in enumerate(self._open, len(self.places) - len(self._open)):
            yield from ((n, piece) for piece in part.pieces if isinstance(piece, Insert))

    def turn_of(self, message: int) -> int:
        """Say which turn a message begins with."""
        return self._closed[message][0] if message < len(self._closed) else len(self.places) - len(self._open)

    def _start(self, n: int) -> int:
        return self._closed[n - 1][1] + 1 if n else len(_OPENING)

    def _wire(self, n: int) -> bytes:
        return bytes(self._bytes[self._start(n) : self._closed[n][1]])

    def _slices(self, start: int, end: int, marks: Sequence[tuple[int, bytes]] = ()) -> list[Slice | Piece]:
        """Give a stretch of the buffer, with the strings and breakpoints that belong into it."""
        slices: list[Slice | Piece] = []
        at = start
        pieces: list[tuple[int, Piece]] = [*(each for each in self._inserts if start <= each[0] < end), *marks]
        for offset, piece in sorted(pieces, key=itemgetter(0)):
            slices += (Slice(self._bytes, at, offset), piece)
            at = offset
        return [*slices, Slice(self._bytes, at, end)]

    def _digest(self, end: int) -> Any:
        """Digest the buffer up to *end*, extending what was digested before, and give a copy to go on with."""
        if self._hashed > end:
            # Only where breakpoints are asked for anew further back: what is known stays for the next request.
            return self._extended(sha256(), 0, 0, end)[0]
        self._hash, self._hashed, self._hashed_inserts = self._extended(
            self._hash, self._hashed, self._hashed_inserts, end
        )
        return self._hash.copy()

    def _extended(self, known: Any, at: int, count: int, end: int) -> tuple[Any, int, int]:
        digest = known.copy()  # reading a blob may fail, and then nothing was digested
        with memoryview(self._bytes) as view:
            while count < len(self._inserts) and self._inserts[count][0] < end:
                offset, insert = self._inserts[count]
                digest.update(view[at:offset])
                for data in insert:
                    digest.update(data)
                at, count = offset, count + 1
            digest.update(view[at:end])
        return digest, end, count


class Marker(NamedTuple):
    """A cache breakpoint: on which block of which message, and how long its entry lives (``5m`` or ``1h``)."""

    message: int
    block: int
    ttl: str


def markers_of(fields: Mapping[str, Any]) -> list[Marker]:
    """Read the cache breakpoints that a ``request`` entry's header names."""
    return [Marker(*each) for each in fields.get("markers", ())]


def _marking(wire: bytes, marker: Marker) -> list[tuple[int, bytes]]:
    """Say what is to be written where in a message so that a block of it is marked."""
    content = canonical.members(wire)["content"]
    ttl = b"" if marker.ttl == "5m" else b',"ttl":"1h"'
    control = b',"cache_control":{"type":"ephemeral"' + ttl + b"}"
    if isinstance(content.value, str):
        return [(content.start, b'[{"type":"text","text":'), (content.end, control + b"}]")]
    block = canonical.items(wire[content.start : content.end])[marker.block]
    return [(content.start + block.end - 1, control)]


def _skeleton(pieces: Iterable[Piece]) -> bytes:
    """Join a message's bytes, with nothing in the place of its spliced strings."""
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


def _with(pieces: Iterable[Piece], marks: Sequence[tuple[int, bytes]]) -> list[Piece]:
    """Write *marks* into a message; their offsets are those of its skeleton."""
    written: list[Piece] = []
    left = list(marks)
    at = 0
    for piece in pieces:
        if isinstance(piece, Insert):
            written.append(piece)
            continue
        start, end = 0, at + len(piece)
        while left and left[0][0] < end:
            offset, data = left.pop(0)
            written += (piece[start : offset - at], data)
            start = offset - at
        written.append(piece[start:])
        at = end
    return written


def _bytes_of(piece: Slice | bytes) -> bytes | memoryview:
    return memoryview(piece.buffer)[piece.start : piece.end] if isinstance(piece, Slice) else piece


def _stands_alone(header: bytes) -> bool:
    return b'"omit"' not in header and b'"splices"' not in header and b'"gather"' not in header


class Part(NamedTuple):
    """A turn on its way into a message: whether it gathers, whose it is, and its bytes."""

    gathers: bool
    role: str
    pieces: Sequence[Piece]


class Group(NamedTuple):
    """
    A message that is not complete.

    Attributes:
        first: Its first turn; None for one not said yet.
        turns: The turn of each block, None for what is not said yet; empty for a message of one turn.
        pieces: Its bytes.
    """

    first: int | None
    turns: Sequence[int | None]
    pieces: Sequence[Piece]


_USER: Final = b'{"role":"user","content":'


def part_of(header: bytes, body: bytes, inserts: Sequence[Insert] = ()) -> Part:
    """Take one turn for a message; *inserts* are its spliced strings, in the header's order."""
    plain = b'"omit"' not in header and b'"splices"' not in header
    pieces = (body,) if plain else pieces_of(header, body, inserts)
    return Part(b'"gather":true' in header, role_of(body), pieces)


def _joins(message: Sequence[Part], part: Part) -> bool:
    """Say whether a turn belongs to the message before it: it or one of those is a gathered result."""
    if not message or part.role != "user" or message[-1].role != "user":
        return False
    written_by_us = all(_begins(each, _USER) for each in (*message, part))
    return written_by_us and (part.gathers or any(each.gathers for each in message))


def _begins(part: Part, beginning: bytes) -> bool:
    first = part.pieces[0]
    return isinstance(first, bytes) and first.startswith(beginning)


def _grouped(open_: Sequence[Part], extra: Sequence[Part]) -> list[list[Part]]:
    groups: list[list[Part]] = [list(open_)] if open_ else []
    for part in extra:
        if groups and _joins(groups[-1], part):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def joined(parts: Iterable[Part]) -> Iterator[list[Piece]]:
    """Write the messages that turns make, one after the other, as soon as no more turns can join one."""
    open_: list[Part] = []
    for part in parts:
        if open_ and not _joins(open_, part):
            yield _message(open_)
            open_ = []
        open_.append(part)
    if open_:
        yield _message(open_)


def _message(parts: Sequence[Part]) -> list[Piece]:
    """Write one message of its turns: results first, then the rest, each in the order given."""
    if len(parts) == 1:
        return list(parts[0].pieces)
    written: list[Piece] = [_USER + b"["]
    for n in _order(parts):
        items = _items(parts[n].pieces)
        if items != [b""]:  # of a turn without content there is nothing to send
            written += [b",", *items] if len(written) > 1 else items
    return [*written, b"]}"]


def _order(parts: Sequence[Part]) -> list[int]:
    """Say in which order the turns of a message are written: results first."""
    return sorted(range(len(parts)), key=lambda n: not parts[n].gathers)


def _turns_of_blocks(parts: Sequence[Part], first: int, said: int) -> list[int | None]:
    """Say of each block of a message which turn it is of; of its turns, *said* are turns, from *first* on."""
    turns: list[int | None] = []
    for n in _order(parts):
        content = canonical.object_of(_skeleton(parts[n].pieces)).get("content")
        turns += [first + n if n < said else None] * (len(content) if isinstance(content, list) else 1)
    return turns


def _items(pieces: Sequence[Piece]) -> list[Piece]:
    """Take the blocks out of a user message of ours: what stands between its brackets."""
    first, last = pieces[0], pieces[-1]
    assert isinstance(first, bytes)  # noqa: S101 - a message begins and ends with its braces
    assert isinstance(last, bytes)  # noqa: S101 - likewise
    if not first.startswith(_USER + b"["):
        opening = b'{"type":"text","text":'
        return [opening + first[len(_USER) :], *pieces[1:]]  # its own brace closes the block
    if len(pieces) == 1:
        return [first[len(_USER) + 1 : -2]]
    return [first[len(_USER) + 1 :], *pieces[1:-1], last[:-2]]


_SECRETS: Final[Mapping[str, str]] = {"mcp_servers": "authorization_token", "fallback_credit_token": "token"}
"""Parameters that hold secrets, and under which key of them."""


def _slots_of(settings: bytes) -> list[tuple[int, int, str]]:
    """Find the names that stand for secrets, where secrets are and nowhere else: anybody may write such a name."""
    if PLACEHOLDER.encode() not in settings:
        return []
    found = [
        slot
        for name, each in canonical.members(settings).items()
        if name in _SECRETS
        for slot in _slots_in(settings, each.start, each.end, _SECRETS[name])
    ]
    return sorted(found)


def _slots_in(data: bytes, start: int, end: int, key: str) -> Iterator[tuple[int, int, str]]:
    value = canonical.loads(data[start:end])
    inner: Iterable[canonical.Member] = ()
    if isinstance(value, str):
        if value.startswith(PLACEHOLDER):
            yield start, end, value.removeprefix(PLACEHOLDER)
    elif isinstance(value, Mapping):
        inner = [each for name, each in canonical.members(data[start:end]).items() if name == key]
    elif isinstance(value, Sequence):
        inner = canonical.items(data[start:end])
    for each in inner:
        yield from _slots_in(data, start + each.start, start + each.end, key)


def need_secrets(settings: bytes, known: Mapping[str, str]) -> None:
    """
    Make sure that every secret the settings name can be sent.

    Raises:
        ConfigurationError: One is not known here.
    """
    for _, _, name in _slots_of(settings):
        if name not in known:
            raise _unknown_secret(name)


def _unknown_secret(name: str) -> ConfigurationError:
    return ConfigurationError(f"the secret {name} is not known here: give it to open(), update() or Client")


def pieces_of(header: bytes, body: bytes, inserts: Sequence[Insert]) -> list[Piece]:
    """Take one message apart for sending; *inserts* are its spliced strings, in the header's order."""
    known = {splice.offset: insert for splice, insert in zip(splices_of(header), inserts, strict=True)}
    return [known[part.offset] if isinstance(part, Splice) else part for part in parts_of(header, body)]


def _joined(parts: Iterable[Slice | Piece]) -> tuple[Piece, ...]:
    """Join what lies side by side, copying each byte once."""
    joined: list[Piece] = []
    with ExitStack() as views:
        run: list[bytes | memoryview] = []
        for part in parts:
            if isinstance(part, Insert):
                joined += (b"".join(run), part)
                run = []
            elif isinstance(part, Slice):
                whole = views.enter_context(memoryview(part.buffer))
                run.append(views.enter_context(whole[part.start : part.end]))
            else:
                run.append(part)
        return (*joined, b"".join(run))
