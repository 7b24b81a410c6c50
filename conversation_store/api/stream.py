"""
Streamed answers: feed bytes, get events; fold events into a message.

Nothing here reads a socket or a clock. Both halves are right for every split of the same bytes, and neither
encodes again what it can keep: an event carries the bytes it was read from, a string is joined from the
escaped pieces of its deltas, a tool's input is the JSON the model wrote, and numbers keep their spelling.

What an event does to the message is ``Accumulator._fold``; a new event needs a class, a line in ``_reading``
and a case there. Source: Messages API documentation, Streaming, 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias, assert_never

from attrs import define, field, frozen

from conversation_store.errors import CodecError
from conversation_store.record import canonical
from conversation_store.record.blocks import KNOWN
from conversation_store.record.canonical import JSON, Member
from conversation_store.record.exchange import Usage

EVENT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of one event; a longer one is refused rather than gathered."""

# --- Events -------------------------------------------------------------------------------------------------


@frozen
class MessageStart:
    """The answer begins: ``wire`` is the message so far, without content."""

    id: str | None
    model: str | None
    wire: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@frozen
class BlockStart:
    """A block begins: ``wire`` is the block so far, for many kinds all of it; ``kind`` its type."""

    index: int
    kind: str
    wire: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@frozen
class TextDelta:
    """
    More words of a text.

    ``escaped`` is the JSON string's inside as it came. A character beyond U+FFFF written as two escapes may
    be parted between two deltas; then each ``text`` has half of it, and only the escaped pieces join well.
    """

    index: int
    text: str
    escaped: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@frozen
class ThinkingDelta:
    """More of the model's reasoning."""

    index: int
    thinking: str
    escaped: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@frozen
class SignatureDelta:
    """The signature of a thinking block, whole."""

    index: int
    signature: str = field(repr=False)
    escaped: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@frozen
class InputDelta:
    """A piece of the JSON text of a tool's input; only all of them together are JSON."""

    index: int
    partial_json: str
    escaped: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@frozen
class CitationDelta:
    """One more citation of a text."""

    index: int
    citation: JSON
    wire: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@frozen
class CompactionDelta:
    """The content of a compaction block, whole: ``wire`` is the delta."""

    index: int
    content: str | None = field(repr=False)
    wire: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@frozen
class UnknownDelta:
    """A delta newer than this library, or not of the shape its kind has."""

    index: int
    kind: str
    raw: bytes = field(repr=False)


@frozen
class BlockStop:
    """A block is complete."""

    index: int
    raw: bytes = field(repr=False)


@frozen
class MessageDelta:
    """The end of the message: why the model stopped, and the tokens counted by now."""

    stop_reason: str | None
    usage: Usage
    raw: bytes = field(repr=False)


@frozen
class MessageStop:
    """The answer is whole; nothing else says so."""

    raw: bytes = field(repr=False)


@frozen
class Ping:
    """The connection is alive."""

    raw: bytes = field(repr=False)


@frozen
class StreamError:
    """
    The API broke the answer off. The HTTP status was 200 long before.

    Attributes:
        kind: ``error.type`` (``overloaded_error`` …), None where it has none.
        message: What the API said.
        error_code: ``error.details.error_code``: stable, to branch on.
        request_id: The API's own id of the request, where it came along.
        raw: The event's data.
    """

    kind: str | None
    message: str
    error_code: str | None
    request_id: str | None
    raw: bytes = field(repr=False)


@frozen
class UnknownEvent:
    """An event newer than this library, or a line that is none of the API's; ignored and counted."""

    kind: str
    raw: bytes = field(repr=False)


Event: TypeAlias = (
    MessageStart
    | BlockStart
    | TextDelta
    | ThinkingDelta
    | SignatureDelta
    | InputDelta
    | CitationDelta
    | CompactionDelta
    | UnknownDelta
    | BlockStop
    | MessageDelta
    | MessageStop
    | Ping
    | StreamError
    | UnknownEvent
)

_Strings: TypeAlias = type[TextDelta] | type[ThinkingDelta] | type[SignatureDelta] | type[InputDelta]

_STRINGS: Final[Mapping[str, tuple[str, _Strings]]] = {
    "text_delta": ("text", TextDelta),
    "thinking_delta": ("thinking", ThinkingDelta),
    "signature_delta": ("signature", SignatureDelta),
    "input_json_delta": ("partial_json", InputDelta),
}
_AS_WRITTEN: Final[Mapping[tuple[bytes, bytes], _Strings]] = {
    (kind.encode(), name.encode()): cls for kind, (name, cls) in _STRINGS.items()
}


def _spaced(*tokens: str) -> bytes:
    return rb"[ \t\n]*+".join(token.encode() for token in tokens)


# Nearly every event is one of these deltas, spelled like this; what differs is read the long way.
_usual_delta: Final = re.compile(
    _spaced(
        *("", r"\{", '"type"', ":", '"content_block_delta"', ",", '"index"', ":", r"(0|[1-9][0-9]{0,8})", ","),
        *('"delta"', ":", r"\{", '"type"', ":", '"([a-z_]+)"', ",", '"([a-z_]+)"', ":"),
        *(r'"((?:[^"\\\x00-\x1f]++|\\.)*+)"', _spaced("(?:,", '"estimated_tokens"', ":", "[0-9]+)?").decode()),
        *(r"\}", r"\}", ""),
    )
)


def _string(escaped: bytes) -> str:
    if b"\\" not in escaped:
        return canonical.text_of(escaped)
    return str(canonical.loads(b'"' + escaped + b'"'))


def _event(data: bytes, name: str) -> Event:
    if (found := _usual_delta.fullmatch(data)) and (cls := _AS_WRITTEN.get((found[2], found[3]))):
        return cls(int(found[1]), _string(found[4]), found[4], data)
    try:
        parts = canonical.members(data)
    except CodecError:
        return _no_object(data, name)
    kind = _text(parts, "type") or name
    reading = _reading.get(kind)
    return reading(data, parts) if reading else UnknownEvent(kind, data)


def _no_object(data: bytes, name: str) -> Event:
    # A line of a gateway's is passed over; what should have been an event of the API's is missing, and is a fault.
    if name == "ping":
        return Ping(data)
    if name == "error":
        return StreamError(None, data.decode("utf-8", "replace"), None, None, data)
    if name in _reading or data.lstrip().startswith(b"{"):
        raise CodecError(f"an event {name or 'without a name'} whose data is not a JSON object")
    return UnknownEvent(name, data)


def _text(parts: Mapping[str, Member], name: str) -> str | None:
    member = parts.get(name)
    return member.value if member and isinstance(member.value, str) else None


def _index(parts: Mapping[str, Member]) -> int:
    member = parts.get("index")
    value = member.value if member else None
    if type(value) is not int or value < 0:
        raise CodecError("an event of a block has an index")
    return value


def _object(data: bytes, parts: Mapping[str, Member], name: str) -> tuple[bytes, Mapping[str, JSON]]:
    member = parts.get(name)
    if member is None or not isinstance(member.value, dict):
        raise CodecError(f"this event has an object {name}")
    return data[member.start : member.end], member.value


def _message_start(data: bytes, parts: Mapping[str, Member]) -> Event:
    wire, message = _object(data, parts, "message")
    return MessageStart(_said(message, "id"), _said(message, "model"), wire, data)


def _said(value: object, name: str) -> str | None:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else None


def _block_start(data: bytes, parts: Mapping[str, Member]) -> Event:
    wire, block = _object(data, parts, "content_block")
    return BlockStart(_index(parts), _said(block, "type") or "", wire, data)


def _delta(data: bytes, parts: Mapping[str, Member]) -> Event:
    index = _index(parts)
    wire, _ = _object(data, parts, "delta")
    inner = canonical.members(wire)
    kind = _text(inner, "type") or ""
    if kind in _STRINGS:
        name, cls = _STRINGS[kind]
        text = _text(inner, name)
        if text is not None:
            return cls(index, text, wire[inner[name].start + 1 : inner[name].end - 1], data)
    elif kind == "citations_delta" and "citation" in inner:
        citation = inner["citation"]
        return CitationDelta(index, citation.value, wire[citation.start : citation.end], data)
    elif kind == "compaction_delta":
        return CompactionDelta(index, _text(inner, "content"), wire, data)
    return UnknownDelta(index, kind, data)


def _message_delta(data: bytes, parts: Mapping[str, Member]) -> Event:
    _, delta = _object(data, parts, "delta")
    return MessageDelta(_said(delta, "stop_reason"), Usage.of(parts["usage"].value if "usage" in parts else None), data)


def _error(data: bytes, parts: Mapping[str, Member]) -> Event:
    error = parts["error"].value if "error" in parts else None
    details = error.get("details") if isinstance(error, Mapping) else None
    return StreamError(
        _said(error, "type"),
        _said(error, "message") or "the API broke the answer off",
        _said(details, "error_code"),
        _text(parts, "request_id"),
        data,
    )


_reading: Final[Mapping[str, Callable[[bytes, Mapping[str, Member]], Event]]] = {
    "message_start": _message_start,
    "content_block_start": _block_start,
    "content_block_delta": _delta,
    "content_block_stop": lambda data, parts: BlockStop(_index(parts), data),
    "message_delta": _message_delta,
    "message_stop": lambda data, _: MessageStop(data),
    "ping": lambda data, _: Ping(data),
    "error": _error,
}

# --- Bytes to events ----------------------------------------------------------------------------------------


@define
class Decoder:
    """
    Server-sent events as the API frames them: feed bytes as they come, get events as they are complete.

    However the bytes are split, the events are the same, and so is the fault that ends them. Lines end with
    LF, CRLF or CR; a byte order mark, comments and unknown fields are passed over; data on several lines is
    joined. The ``type`` in the data names an event, the ``event:`` line only where the data does not.

    A CodecError is final: the events before it are handed over first, then it is raised by every call.
    Source: HTML Living Standard, Server-sent events.
    """

    _line: bytearray = field(factory=bytearray, init=False, repr=False)
    _data: list[bytes] = field(factory=list, init=False, repr=False)
    _size: int = field(default=0, init=False)
    _name: bytes = field(default=b"", init=False)
    _first: bool = field(default=True, init=False)
    _returned: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    _fault: CodecError | None = field(default=None, init=False)

    def feed(self, chunk: bytes) -> list[Event]:
        """
        Take the next bytes, any number of them.

        Raises:
            CodecError: An event of the API that cannot be read, one over ``EVENT_LIMIT``, or ``close`` was called.
        """
        if self._closed:
            raise CodecError("bytes after the end of the stream")
        return self._gather(self._lines(chunk))

    def close(self) -> list[Event]:
        """
        Say that no more bytes come, and take what is complete but for its last line ends.

        An event cut in the middle is dropped: it cannot be told from one that was never sent.

        Raises:
            CodecError: As ``feed``.
        """
        if self._fault:
            raise self._fault
        if self._closed:
            return []
        self._closed = True
        if self._line:
            self._take(bytes(self._line))
        try:
            canonical.object_of(b"\n".join(self._data))
        except CodecError:
            return []
        return self._gather(iter([b""]))

    def _gather(self, lines: Iterator[bytes]) -> list[Event]:
        if self._fault:
            raise self._fault
        events: list[Event] = []
        try:
            events.extend(event for line in lines if (event := self._take(line)) is not None)
        except CodecError as fault:
            self._fault = fault
            if not events:
                raise
        return events

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._returned and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._returned = False
        if not chunk:
            return
        self._returned = chunk.endswith(b"\r")
        for piece in chunk.splitlines(keepends=True):
            line = piece.rstrip(b"\r\n")
            if self._size + len(self._line) + len(line) > EVENT_LIMIT:
                raise CodecError(f"an event of more than {EVENT_LIMIT} bytes")
            if len(line) == len(piece):  # the last one, not yet ended
                self._line += line
            elif self._line:
                line = bytes(self._line + line)
                self._line.clear()
                yield line
            else:
                yield line

    def _take(self, line: bytes) -> Event | None:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1
        elif name == b"event":
            self._name = value.removeprefix(b" ")
        return None

    def _dispatch(self) -> Event | None:
        data, name = b"\n".join(self._data), self._name
        self._data.clear()
        self._size = 0
        self._name = b""
        return _event(data, name.decode("utf-8", "replace")) if data else None


# --- Events to a message ------------------------------------------------------------------------------------

_CALLS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_HOMES: Final[Mapping[str, frozenset[str]]] = {
    "text": frozenset({"text"}),
    "citations": frozenset({"text"}),
    "thinking": frozenset({"thinking"}),
    "signature": frozenset({"thinking"}),
    "input": _CALLS,
    "content": frozenset({"compaction"}),
}
"""Which kinds of blocks grow in which field; a kind newer than this library may grow in any."""


def _spliced(wire: bytes, parts: Mapping[str, Member], values: Mapping[str, bytes]) -> bytes:
    """Put values in the place of others in an object's bytes, and new ones at its end; all else stays."""
    pieces: list[bytes] = []
    at = 0
    for member in sorted(parts.values(), key=lambda each: each.start):
        if member.name in values:
            pieces += (wire[at : member.start], values[member.name])
            at = member.end
    added = [
        canonical.header({name: 0})[1:-2] + value  # a name the API sent, which need not be text
        for name, value in values.items()
        if name not in parts
    ]
    if added:
        pieces += (wire[at:-1], b"," if parts else b"", b",".join(added))
        at = len(wire) - 1
    return b"".join([*pieces, wire[at:]])


@define
class _Block:
    """A block as it grows: its first bytes, and what came for which field since."""

    wire: bytes
    parts: Mapping[str, Member]
    stopped: bool = False
    misunderstood: bool = False
    strings: dict[str, list[bytes]] = field(factory=dict)
    citations: list[bytes] = field(factory=list)
    values: dict[str, bytes] = field(factory=dict)

    @classmethod
    def begin(cls, wire: bytes, *, stopped: bool = False) -> _Block:
        return cls(wire, canonical.members(wire), stopped)

    @property
    def kind(self) -> str:
        return _text(self.parts, "type") or ""

    def takes(self, name: str) -> bool:
        """Say whether the block grows in this field, and remember if it should not have been asked."""
        fits = self.kind in _HOMES[name] or name in self.parts or self.kind not in KNOWN
        self.misunderstood = self.misunderstood or not fits
        return fits

    def grow(self, name: str, escaped: bytes) -> None:
        pieces = self.strings.get(name)
        if pieces is not None:
            pieces.append(escaped)
        elif self.takes(name):
            self.strings[name] = [escaped]

    def escaped(self, name: str) -> bytes:
        """Join a string's inside from what it began with and every piece since."""
        begun = self.parts.get(name)
        start = self.wire[begun.start + 1 : begun.end - 1] if begun and isinstance(begun.value, str) else b""
        return start + b"".join(self.strings.get(name, ()))

    def input(self) -> tuple[bytes | None, bool]:
        """
        Write the input of a tool call.

        Returns:
            Its bytes, None where it stays as it began; whether they are the object a tool can be called with.
        """
        pieces = b"".join(self.strings.get("input", ()))
        if not pieces:
            return (b"{}" if self.kind in _CALLS and "input" not in self.parts else None), True
        # Half a surrogate pair cannot be UTF-8; as an escape, the only place for it in JSON, it can be kept.
        written = _string(pieces).encode("utf-8", "backslashreplace")
        try:
            canonical.object_of(written)
        except CodecError:
            return b'"' + pieces + b'"', False
        return written, True

    def written(self) -> bytes:
        """Write the block as it is now."""
        values = {name: b'"' + self.escaped(name) + b'"' for name in self.strings if name != "input"} | self.values
        written, _ = self.input()
        if written is not None:
            values["input"] = written
        if self.citations:
            values["citations"] = b"[" + b",".join(self._cited()) + b"]"
        return _spliced(self.wire, self.parts, values) if values else self.wire

    def _cited(self) -> Iterator[bytes]:
        begun = self.parts.get("citations")
        if begun and begun.value and isinstance(begun.value, list):
            yield self.wire[begun.start + 1 : begun.end - 1]
        yield from self.citations


@define
class Accumulator:
    """
    Folds the events of one answer into the message a blocking request would have been answered with.

    Blocks are kept by their ``index``: deltas of several may come interleaved, and the message has them in
    the order of their indices. What was not understood marks its block. After ``message_stop`` or ``error``
    nothing is folded any more.

    Attributes:
        whole: Whether ``message_stop`` came, and so nothing is missing.
        error: The ``error`` event that broke the answer off, None where none did.
        unknown: How many events were passed over: newer than this library, or after the end.
        fault: What could not be folded, or what ``decode_all`` could not read; None where nothing was amiss.
    """

    whole: bool = field(default=False, init=False)
    error: StreamError | None = field(default=None, init=False)
    unknown: int = field(default=0, init=False)
    fault: CodecError | None = field(default=None, init=False)
    _start: tuple[bytes, Mapping[str, Member]] | None = field(default=None, init=False, repr=False)
    _blocks: dict[int, _Block] = field(factory=dict, init=False, repr=False)
    _fields: dict[str, bytes] = field(factory=dict, init=False, repr=False)
    _usage: dict[str, bytes] = field(factory=dict, init=False, repr=False)

    def add(self, event: Event) -> None:
        """
        Fold the next event in.

        Raises:
            CodecError: It cannot follow the ones before: an event of a block that has not begun or has begun
                twice, anything of a message before ``message_start``. Nothing of it was folded, and nothing
                is afterwards, because something is missing.
        """
        if self.whole or self.error:
            self.unknown += not isinstance(event, Ping)
            return
        if self.fault:
            raise self.fault
        try:
            self._fold(event)
        except CodecError as fault:
            self.fault = fault
            raise

    def _fold(self, event: Event) -> None:  # noqa: C901, PLR0912 - the API's table, a case an event
        match event:
            case TextDelta():
                self._block(event.index).grow("text", event.escaped)
            case ThinkingDelta():
                self._block(event.index).grow("thinking", event.escaped)
            case InputDelta():
                self._block(event.index).grow("input", event.escaped)
            case SignatureDelta():
                self._set(event.index, "signature", {"signature": b'"' + event.escaped + b'"'})
            case CitationDelta():
                block = self._block(event.index)
                if block.takes("citations"):
                    block.citations.append(event.wire)
            case CompactionDelta():
                parts = canonical.members(event.wire)
                self._set(event.index, "content", _slices(event.wire, parts, but={"type"}))
            case UnknownDelta():
                self._block(event.index).misunderstood = True
            case BlockStart():
                self._begin_block(event)
            case BlockStop():
                self._block(event.index).stopped = True
            case MessageStart():
                self._begin(event)
            case MessageDelta():
                self._end(event)
            case MessageStop():
                self._begun()
                self.whole = True
            case StreamError():
                self.error = event
            case UnknownEvent():
                self.unknown += 1
            case Ping():
                pass
            case _:
                assert_never(event)

    def message(self) -> bytes:
        """
        Write the message.

        A tool's input is exactly the JSON the model wrote. If that is no JSON object (cut at ``max_tokens``,
        for instance), ``input`` is what came as a string, and the block is among the ``incomplete`` ones.

        Raises:
            CodecError: The answer is not whole; see ``partial``.
        """
        if not self.whole:
            raise CodecError("the answer broke off: message_stop did not come")
        return self._written()

    def partial(self) -> bytes:
        """
        Write what has arrived so far, in the form of a message; ``{}`` before it began.

        A tool's input in the making is the string of what came of it.
        """
        return self._written() if self._start else b"{}"

    @property
    def text(self) -> str:
        """The words of the text blocks so far, joined anew at each call."""
        return "".join(_string(block.escaped("text")) for block in self._ordered() if block.kind == "text")

    @property
    def incomplete(self) -> tuple[int, ...]:
        """
        Which blocks must not be sent back, by their place in the content.

        Those with a delta that was not understood or an input that is no JSON object and, in an answer that
        is not whole, those that were not ended.
        """
        return tuple(
            place
            for place, block in enumerate(self._ordered())
            if not (self.whole or block.stopped) or block.misunderstood or not block.input()[1]
        )

    def _ordered(self) -> list[_Block]:
        return [block for _, block in sorted(self._blocks.items())]

    def _begun(self) -> tuple[bytes, Mapping[str, Member]]:
        if self._start is None:
            raise CodecError("the stream does not begin with message_start")
        return self._start

    def _block(self, index: int) -> _Block:
        try:
            return self._blocks[index]
        except KeyError:
            raise CodecError(f"an event of block {index}, which has not begun") from None

    def _set(self, index: int, name: str, values: Mapping[str, bytes]) -> None:
        block = self._block(index)
        if block.takes(name):
            block.values.update(values)

    def _begin(self, event: MessageStart) -> None:
        if self._start is not None:
            raise CodecError("a second message_start")
        parts = canonical.members(event.wire)
        content = parts.get("content")
        blocks = {}
        if content and content.value:
            wire = event.wire[content.start : content.end]
            slices = [wire[each.start : each.end] for each in canonical.items(wire)]
            blocks = {n: _Block.begin(each, stopped=True) for n, each in enumerate(slices)}
        self._start = event.wire, parts
        self._blocks = blocks

    def _begin_block(self, event: BlockStart) -> None:
        self._begun()
        if event.index in self._blocks:
            raise CodecError(f"block {event.index} begins twice")
        block = _Block.begin(event.wire)
        self._blocks[event.index] = block
        to = block.parts.get("to")
        if event.kind == "fallback" and to and isinstance(to.value, dict) and "model" in to.value:
            wire = event.wire[to.start : to.end]
            model = canonical.members(wire)["model"]
            self._fields["model"] = wire[model.start : model.end]

    def _end(self, event: MessageDelta) -> None:
        known = self._begun()[1]
        parts = canonical.members(event.raw)
        delta = event.raw[parts["delta"].start : parts["delta"].end]
        inner = canonical.members(delta)
        stops = {name for name in inner if name.startswith("stop_")}
        news = _slices(delta, inner, but=set(), nulls={*stops, *(inner.keys() - known.keys() - self._fields.keys())})
        siblings = parts.keys() - known.keys() - self._fields.keys()
        news |= _slices(event.raw, parts, but={"type", "delta", "usage"}, nulls=siblings)
        usage = {}
        if "usage" in parts and isinstance(parts["usage"].value, dict):
            wire = event.raw[parts["usage"].start : parts["usage"].end]
            usage = _slices(wire, canonical.members(wire), but=set(), nulls=set())
        self._fields |= news
        self._usage |= usage

    def _written(self) -> bytes:
        wire, parts = self._begun()
        values = dict(self._fields)
        values["content"] = b"[" + b",".join(block.written() for block in self._ordered()) + b"]"
        if self._usage:
            usage = parts.get("usage")
            begun = wire[usage.start : usage.end] if usage and isinstance(usage.value, dict) else b"{}"
            values["usage"] = _spliced(begun, canonical.members(begun), self._usage)
        return _spliced(wire, parts, values)


def _slices(
    wire: bytes, parts: Mapping[str, Member], *, but: set[str], nulls: set[str] | None = None
) -> dict[str, bytes]:
    """Cut an object's values out, without some names, and without null but for the names in *nulls* (None: all)."""
    return {
        name: wire[each.start : each.end]
        for name, each in parts.items()
        if name not in but and (each.value is not None or nulls is None or name in nulls)
    }


def decode_all(data: bytes) -> tuple[bytes | None, Accumulator]:
    """
    Read a stream that is at hand, however it ended.

    Returns:
        The message, None where it is not whole; and the accumulator, whose ``fault`` says if and why the
        reading stopped before the end.
    """
    accumulator, decoder = Accumulator(), Decoder()
    try:
        for event in decoder.feed(data):
            accumulator.add(event)
        for event in decoder.close():
            accumulator.add(event)
    except CodecError as fault:
        accumulator.fault = fault
    return accumulator.message() if accumulator.whole else None, accumulator
