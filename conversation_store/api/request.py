"""
From view, settings and prefill to the exact bytes of a request.

``messages`` come first in a body, so that its beginning is the same from one request to the next: the bytes
are kept in one buffer and copied once, the SHA-256 over them is extended and never begun again.

A builder is never changed, only added to: every ``request`` entry names the one that made its body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import Factory, define, evolve, field, frozen

from conversation_store.errors import ConfigurationError, ContentError
from conversation_store.record import canonical, splices
from conversation_store.record.blocks import ABSENT, Block
from conversation_store.record.codec import value_of
from conversation_store.record.turns import Splice, parts_of, role_of, splices_of

BUILDER: Final = 1
"""The builder that makes bodies now: ``{"messages":[…],`` then the settings' bytes, then the overrides' new keys."""

DEFAULT_VERSION: Final = "2023-06-01"
_OPENING: Final = b'{"messages":['
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
    """

    body: bytes = b"{}"
    version: str | None = None
    betas: tuple[str, ...] = ()

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
        return fields

    @classmethod
    def read(cls, body: bytes, fields: Mapping[str, Any]) -> Settings:
        """Read settings from an entry's body and header fields."""
        return cls(body, fields.get("version"), tuple(fields.get("betas", ())))

    def updated(self, changes: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
        """
        Change parameters: new ones are appended, ``ABSENT`` removes one, the rest keep their place and bytes.

        Args:
            changes: Parameters by name, any that the API has; ``betas`` and ``version`` go into headers.

        Returns:
            The new settings, and the secrets that were taken out of them, by name.

        Raises:
            ContentError: A value that is no JSON, or a name that is no setting.
        """
        secrets: dict[str, str] = {}
        parts = {name: self.body[each.start : each.end] for name, each in canonical.members(self.body).items()}
        result = self
        for name, value in changes.items():
            if name in _NOT_SETTINGS:
                raise ContentError(name, "is no setting: turns and the way of sending are said elsewhere")
            if name == "version":
                result = evolve(result, version=None if value is ABSENT else _header_text(name, value))
            elif name == "betas":
                given = () if value is ABSENT or value is None else value
                if isinstance(given, str):
                    raise ContentError("betas", "give a list of beta ids")
                result = evolve(result, betas=tuple(_header_text(name, each) for each in given))
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
        if isinstance(value, str):
            secrets[name] = value
            return PLACEHOLDER + name
        return _without_token(value, name, "token", secrets)
    return value


def _name_of(server: object) -> object:
    return server.get("name") if isinstance(server, Mapping) else None


def _without_token(value: object, name: str, key: str, secrets: dict[str, str]) -> object:
    if not isinstance(value, Mapping) or not isinstance(value.get(key), str) or value[key].startswith(PLACEHOLDER):
        return value
    secrets[name] = value[key]
    return {**value, key: PLACEHOLDER + name}


def merged(settings: bytes, overrides: bytes) -> bytes:
    """Lay one exchange's overrides over the settings; both are objects, and no value is encoded again."""
    if overrides == b"{}":
        return settings
    parts = {name: settings[each.start : each.end] for name, each in canonical.members(settings).items()}
    parts |= {name: overrides[each.start : each.end] for name, each in canonical.members(overrides).items()}
    return canonical.compose(parts)


# --- bodies ------------------------------------------------------------------------------------------------------


@frozen
class Insert:
    """
    A string of a body that is made from a blob while it is sent.

    Attributes:
        chunks: Reads the blob, 1 MiB at a time; called again for each attempt.
        size: Bytes of the blob.
        encoding: How its bytes become the string.
    """

    chunks: Callable[[], Iterable[bytes]]
    size: int
    encoding: splices.Encoding

    def __len__(self) -> int:
        return splices.length(self.size, self.encoding)

    def __iter__(self) -> Iterator[bytes]:
        return splices.text(self.chunks(), self.encoding)


Piece: TypeAlias = "bytes | Insert"


@frozen(kw_only=True)
class Request:
    """
    One request: the exact body, and the headers that are not the client's own.

    Attributes:
        pieces: The recorded body: bytes, and strings made from blobs while it is sent.
        digest: SHA-256 of the recorded body (in which names stand for secrets).
        version: The API version.
        betas: Beta ids.
        secrets: What is sent in the place of each name, by name; None where it is not known here.
        endpoint: The path it is posted to.
    """

    pieces: tuple[Piece, ...] = field(repr=False)
    digest: bytes = field(repr=lambda digest: digest.hex())
    version: str
    betas: tuple[str, ...]
    secrets: Mapping[str, str | None] = field(factory=dict, repr=False)
    endpoint: str = "/v1/messages"

    def __len__(self) -> int:
        return sum(map(len, self._sent))

    def __iter__(self) -> Iterator[bytes]:
        """Give the body as it is sent, in segments; may be done again."""
        for piece in self._sent:
            if isinstance(piece, Insert):
                yield from piece
            else:
                yield piece

    @property
    def streams(self) -> bool:
        """Whether part of the body is made while it is sent; else ``body`` is one piece already."""
        return len(self.pieces) > 1

    @property
    def length(self) -> int:
        """Bytes of the recorded body."""
        return sum(map(len, self.pieces))

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
        for name, value in self.secrets.items():
            if value is None:
                raise ConfigurationError(f"the secret {name} is not known here: give it to open(), update() or Client")
            if isinstance(last, bytes):
                last = last.replace(canonical.dumps(PLACEHOLDER + name), canonical.dumps(value))
        return (*others, last)

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

    Attributes:
        places: Whose log and which position each message is, in order.
        roles: Each message's role.
        model_turns: Indices of the messages the model wrote.
    """

    places: list[tuple[UUID, int]] = Factory(list)
    roles: list[str] = Factory(list)
    model_turns: list[int] = Factory(list)
    _bytes: bytearray = Factory(lambda: bytearray(_OPENING))
    _ends: list[int] = Factory(list)
    _inserts: list[tuple[int, Insert]] = Factory(list)
    _hash: Any = Factory(sha256)
    _hashed: int = 0
    _hashed_inserts: int = 0

    def __len__(self) -> int:
        return len(self.places)

    def add(self, place: tuple[UUID, int], header: bytes, body: bytes, inserts: Sequence[Insert] = ()) -> None:
        """Append a message; *inserts* are its spliced strings, in the header's order."""
        if self.places:
            self._bytes += b","
        if b'"omit"' in header or b'"splices"' in header:
            for piece in pieces_of(header, body, inserts):
                if isinstance(piece, Insert):
                    self._inserts.append((len(self._bytes), piece))
                else:
                    self._bytes += piece
        else:
            self._bytes += body
        self._ends.append(len(self._bytes))
        if b'"origin":"model"' in header:
            self.model_turns.append(len(self.places))
        self.places.append(place)
        self.roles.append(role_of(body))

    def cut(self, count: int) -> None:
        """Drop every message after the first *count*."""
        if count >= len(self.places):
            return
        end = self._ends[count - 1] if count else len(_OPENING)
        del self.places[count:], self.roles[count:], self._ends[count:], self._bytes[end:]
        self.model_turns = [n for n in self.model_turns if n < count]
        self._inserts = [each for each in self._inserts if each[0] <= end]
        if self._hashed > end:
            self._hash, self._hashed, self._hashed_inserts = sha256(), 0, 0

    def request(
        self,
        extra: Sequence[Sequence[Piece]],
        settings: bytes,
        *,
        version: str,
        betas: tuple[str, ...],
        secrets: Mapping[str, str],
    ) -> Request:
        """
        Build a request: the messages, then *extra* ones that are not turns of the view yet, then the settings.

        Args:
            extra: More messages (the turn about to be said, a prefill), each as pieces.
            settings: All other parameters, a JSON object.
            version: The API version, for the headers.
            betas: Beta ids, for the headers.
            secrets: What stands behind the names in the settings.
        """
        tail: list[Piece] = []
        for n, message in enumerate(extra):
            tail += [b",", *message] if n or self.places else message
        tail.append(b"]" + (b"," + settings[1:] if settings != b"{}" else b"}"))
        digest = self._digest()
        for piece in tail:
            for data in piece if isinstance(piece, Insert) else (piece,):
                digest.update(data)
        return Request(
            pieces=_joined([*self._pieces(), *tail]),
            digest=digest.digest(),
            version=version,
            betas=betas,
            secrets={name: secrets.get(name) for name in _secret_names(settings)},
        )

    def _pieces(self) -> list[bytes | bytearray | Insert]:
        if not self._inserts:
            return [self._bytes]
        pieces: list[bytes | bytearray | Insert] = []
        at = 0
        for offset, insert in self._inserts:
            pieces += (self._bytes[at:offset], insert)
            at = offset
        return [*pieces, self._bytes[at:]]

    def _digest(self) -> Any:
        """Digest the buffer, extending what was digested before, and give a copy to go on with."""
        with memoryview(self._bytes) as view:
            while self._hashed_inserts < len(self._inserts):
                offset, insert = self._inserts[self._hashed_inserts]
                self._hash.update(view[self._hashed : offset])
                for data in insert:
                    self._hash.update(data)
                self._hashed, self._hashed_inserts = offset, self._hashed_inserts + 1
            self._hash.update(view[self._hashed :])
            self._hashed = len(view)
        return self._hash.copy()


_secret: Final = re.compile(
    rb'"(?:authorization_token|fallback_credit_token|token)":"%s([^"\\]*)"' % PLACEHOLDER.encode()
)


def _secret_names(settings: bytes) -> list[str]:
    return [name.decode() for name in _secret.findall(settings)] if PLACEHOLDER.encode() in settings else []


def pieces_of(header: bytes, body: bytes, inserts: Sequence[Insert]) -> list[Piece]:
    """Take one message apart for sending; *inserts* are its spliced strings, in the header's order."""
    known = {splice.offset: insert for splice, insert in zip(splices_of(header), inserts, strict=True)}
    return [known[part.offset] if isinstance(part, Splice) else part for part in parts_of(header, body)]


def _joined(pieces: Iterable[bytes | bytearray | Insert]) -> tuple[Piece, ...]:
    """Join what lies side by side, copying each byte once."""
    joined: list[Piece] = []
    run: list[bytes | bytearray] = []
    for piece in pieces:
        if isinstance(piece, Insert):
            joined += (b"".join(run), piece)
            run = []
        else:
            run.append(piece)
    return (*joined, b"".join(run))
