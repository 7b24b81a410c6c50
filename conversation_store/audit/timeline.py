"""
The record of a conversation, entry by entry: who did what and when, in one line each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from attrs import evolve, field, frozen

from conversation_store.errors import CodecError
from conversation_store.history import History
from conversation_store.record import canonical
from conversation_store.record.chain import Entry
from conversation_store.record.turns import Origin, Turn, fields_of
from conversation_store.record.view import View
from conversation_store.storage import log

PAGE: Final = 64
"""Entries read at a time."""

_LONGEST: Final = 100
_TOGETHER: Final = 64
"""Turns that are held until it is known whether the request after them is theirs."""

_ACTORS: Final[Mapping[Origin, str]] = {
    Origin.HUMAN: "user",
    Origin.MODEL: "model",
    Origin.TOOL: "tool",
    Origin.IMPORTED: "import",
}
_ANSWERS: Final = frozenset({"answered", "rejected", "refused"})


@frozen(kw_only=True)
class TimelineEntry:
    """
    One entry of the record.

    Attributes:
        conversation: Whose log.
        position: The entry's place in it.
        kind: ``opened``, ``turn``, ``settings``, ``labelled``, ``view``, ``request``, ``outcome``, ``erased`` or
            ``note``.
        at: When it was made, microseconds since the epoch, UTC, by the clock of its maker.
        actor: Who did it: ``user``, ``model``, ``tool``, ``import``, ``api`` (an answer or a rejection), or ``host``
            (the program: settings, synthetic turns, prefills, views, faults of its own).
        origin: Who made a turn; None for what is no turn.
        exchange: The position of the request it belongs to; None for none.
        erased: Whether its content was erased.
        account: What happened, in one line of at most a hundred characters or so; it may quote what people wrote.
        turn: The turn itself; None for what is none, and where it was erased.
        shown: Whether the view shows it as of now: whether the next request sends it. A prefill is sent inside its
            answer, and not shown.
    """

    conversation: UUID
    position: int
    kind: str
    at: int
    actor: str
    origin: Origin | None = None
    exchange: int | None = None
    erased: bool = False
    account: str = field(default="")
    turn: Turn | None = field(default=None, repr=False)
    shown: bool = False


def timeline(history: History, first: int = 0) -> Iterator[TimelineEntry]:
    """
    Give every entry of a log, in order, from a position on; a page is read at a time.

    Raises:
        CodecError: An entry cannot be read: verifying says why.
    """
    held: list[TimelineEntry] = []
    spans, _ = history.view
    for entry in _entries(history, first):
        try:
            told = _told(history, entry, spans)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # whatever a hostile hand wrote
            yield from held
            why = error if isinstance(error, CodecError) else "a column or a member is not what a writer puts there"
            raise CodecError(f"entry {entry.position} cannot be read: {why}") from None
        if held and (told.at != held[0].at or told.kind not in {"turn", "request"}):
            yield from held
            held = []
        if told.kind == "turn" and told.exchange is None and len(held) < _TOGETHER:
            held.append(told)
            continue
        if told.kind == "request":
            held = [evolve(each, exchange=told.position) for each in held]
        yield from held
        held = []
        yield told
    yield from held


def _entries(history: History, first: int) -> Iterator[Entry]:
    while True:
        with history.database.read() as connection:
            page = log.read(connection, history.id, first, first + PAGE - 1)
        if not page:
            return
        yield from page
        first = page[-1].position + 1


def _told(history: History, entry: Entry, spans: View) -> TimelineEntry:
    fields = fields_of(entry.header)
    origin = _origin(entry, fields) if entry.kind == "turn" else None
    actor = "host" if origin is None else _ACTORS.get(origin, "host")
    if entry.kind == "outcome" and fields.get("state") in _ANSWERS:
        actor = "api"
    erased = entry.salt is None and ("body" in fields or "about" in fields)
    exchange = entry.position if entry.kind == "request" else fields.get("request")
    account = "erased" if erased else _ACCOUNTS[entry.kind](entry, fields)
    shown = entry.kind == "turn" and origin is not Origin.PREFILL
    return TimelineEntry(
        conversation=history.id,
        position=entry.position,
        kind=entry.kind,
        at=entry.at,
        actor=actor,
        origin=origin,
        exchange=exchange if isinstance(exchange, int) else None,
        erased=erased,
        account=_short(account),
        turn=history.turn(entry, origin) if entry.kind == "turn" and entry.body is not None else None,
        shown=shown and any(span.holds(history.id, entry.position) for span in spans),
    )


def _origin(entry: Entry, fields: Mapping[str, Any]) -> Origin:
    try:
        return Origin(fields["origin"])
    except (KeyError, ValueError):
        raise CodecError(f"the header of entry {entry.position} names no origin") from None


def _short(words: str) -> str:
    line = " ".join(words[: 4 * _LONGEST].split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


# --- one line for each kind ------------------------------------------------------------------------------------------


def _body(entry: Entry) -> Mapping[str, Any]:
    return canonical.object_of(entry.body or b"{}")


def _opened(entry: Entry, fields: Mapping[str, Any]) -> str:
    key = canonical.object_of(entry.about or b"{}").get("key")
    named = "" if key is None else f" as {key}"
    parent = fields.get("parent")
    return f"opened{named}" if parent is None else f"forked{named} from {UUID(hex=parent['conversation'])}"


def _turn(entry: Entry, fields: Mapping[str, Any]) -> str:
    said = _body(entry)
    content = said.get("content")
    prefill = "prefill of the " if fields.get("origin") == "prefill" else ""
    return f"{prefill}{said.get('role')}: {_words(content)}"


def _words(content: object) -> str:
    if isinstance(content, str):
        return content
    return " ".join(map(_within, content)) if isinstance(content, Sequence) else ""


def _within(block: object) -> str:
    if not isinstance(block, Mapping):
        return "[?]"
    text, name = block.get("text"), block.get("name")
    if block.get("type") == "text" and isinstance(text, str):
        return text
    return f"[{block.get('type')}{f' {name}' if isinstance(name, str) else ''}]"


def _settings(entry: Entry, fields: Mapping[str, Any]) -> str:
    said = {**_body(entry), **{name: fields[name] for name in ("version", "betas", "cache") if name in fields}}
    return "settings: " + ", ".join(
        f"{name} {value}" if isinstance(value, (str, int, float)) and name != "system" else name
        for name, value in said.items()
    )


def _labelled(entry: Entry, _: Mapping[str, Any]) -> str:
    said = _body(entry)
    title = "no title" if said.get("title") is None else f"title {said['title']}"
    return f"{title}, metadata" if said.get("metadata") else title


def _view(_: Entry, fields: Mapping[str, Any]) -> str:
    set_aside = f": what exchange {fields['request']} sent is set aside" if "request" in fields else ""
    return f"another view of the record{set_aside}"


def _request(_: Entry, fields: Mapping[str, Any]) -> str:
    again = f", again after {fields['retry_of']}" if "retry_of" in fields else ""
    return f"asked with {fields.get('length'):,} bytes, sent by the {fields.get('sent_by')}{again}"


def _outcome(entry: Entry, fields: Mapping[str, Any]) -> str:
    said = _body(entry)
    state = str(fields.get("state"))
    envelope, error = said.get("envelope"), said.get("error")
    if isinstance(error, Mapping):
        status = f" {error['status']}" if "status" in error else ""
        return f"{state}{status}: {error.get('message')}"
    if not isinstance(envelope, Mapping):
        return state
    usage = envelope.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return (
        f"{state} by {envelope.get('model')}: {envelope.get('stop_reason')}, "
        f"{counts.get('input_tokens', 0)} tokens in, {counts.get('output_tokens', 0)} out"
    )


def _why(entry: Entry) -> str:
    said = canonical.object_of(entry.about or b"{}")
    return f"; by {said['by']}: {said.get('reason')}" if "by" in said else ""


def _erased(entry: Entry, fields: Mapping[str, Any]) -> str:
    said = fields.get("erased")
    runs = said if isinstance(said, Mapping) else {}
    parts = [
        f"{what} of {', '.join(str(a) if a == b else f'{a} to {b}' for a, b in runs[name])}"
        for name, what in (("content", "the content"), ("request", "the proof of the requests"))
        if runs.get(name)
    ]
    return "erased " + " and ".join(parts) + _why(entry)


def _note(entry: Entry, fields: Mapping[str, Any]) -> str:
    if fields.get("late"):
        return f"an answer that came too late for exchange {fields.get('request')}"
    if "hold" in fields or "release" in fields:
        ended = ", ".join(map(str, fields.get("release", ())))
        return (f"a legal hold is released: {ended}" if ended else "a legal hold: nothing may be erased") + _why(entry)
    return f"the tool of the call {fields['tool']} was begun" if "tool" in fields else "a note"


_ACCOUNTS: Final[Mapping[str, Callable[[Entry, Mapping[str, Any]], str]]] = {
    "opened": _opened,
    "turn": _turn,
    "settings": _settings,
    "labelled": _labelled,
    "view": _view,
    "request": _request,
    "outcome": _outcome,
    "erased": _erased,
    "note": _note,
}
