"""
Explain the cache: what a request read of what the one before it had written, and where they parted.

Source of what invalidates what: Messages API documentation, Prompt caching, 2026-10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from attrs import frozen

from conversation_store.api import costs
from conversation_store.api import request as requests
from conversation_store.api.models import Models
from conversation_store.api.request import Insert, Marker, Messages, Settings
from conversation_store.errors import CodecError
from conversation_store.history import History, add_messages, settings_at, view_at
from conversation_store.record import canonical
from conversation_store.record.cost import dollars, work_of
from conversation_store.record.exchange import Exchange, State, Usage
from conversation_store.record.turns import fields_of
from conversation_store.storage import ledger

Verdict: TypeAlias = Literal[
    "read", "first", "not asked", "too short", "changed", "expired", "too far", "not answered", "unexplained"
]

_LIFETIMES: Final[Mapping[str, int]] = {"5m": 300_000_000, "1h": 3_600_000_000}

_LOST_WITH: Final = (
    # What a request may change, and from where on the cache is lost: the tools, the system prompt, the messages.
    ("model", "tools"),
    ("betas", "tools"),
    ("tools", "tools"),
    ("speed", "system"),
    ("system", "system"),
    ("tool_choice", "messages"),
    ("thinking", "messages"),
    ("output_config.effort", "messages"),
)


@frozen
class Difference:
    """
    Where a request stops being the continuation of the one before.

    Attributes:
        path: As the API names it: ``tools``, ``system``, ``model``, ``betas``, ``messages.3``.
        offset: The first byte of the later body (as ``replay`` gives it) that differs; None for what is no part of
            the body.
        turn: The log and position of the turn it belongs to; None for a setting.
    """

    path: str
    offset: int | None
    turn: tuple[UUID, int] | None = None


@frozen(kw_only=True)
class CacheReport:
    """
    What became of the cache in one exchange.

    Attributes:
        exchange: Which one, by the position of its ``request`` entry.
        before: The log and position of the exchange it goes on from; None for a first one.
        verdict: ``read``: all that was written before was read. ``first``: there was nothing to read.
            ``not asked``: no breakpoint was set, now or before. ``too short``: under the model's minimum.
            ``changed``: see ``difference``. ``expired``: the entry's time was over. ``too far``: more than 20 positions
            after it, without a breakpoint between. ``not answered``: no usage is known. ``unexplained``: none of these.
        difference: The first thing that differs from the exchange before; None where that is its beginning.
        prompt: Tokens of the prompt, in all; ``read`` and ``written`` of them from and to the cache.
        expected: Tokens that the exchange before had left in the cache.
        minimum: Tokens of the shortest prompt that the model caches, and ``minimum_met`` whether this one was longer;
            None for an unlisted model.
        missed: Tokens that were expected and not read.
        cost: What the miss cost, USD; None where the price is not known.
        message: The same in words.
    """

    exchange: int
    before: tuple[UUID, int] | None
    verdict: Verdict
    difference: Difference | None
    prompt: int
    read: int
    written: int
    expected: int
    minimum: int | None
    minimum_met: bool | None
    missed: int
    cost: Decimal | None
    message: str


def explain(history: History, exchange: Exchange) -> CacheReport:
    """
    Say what an exchange read from the cache, and why not more.

    The bodies are compared turn by turn; the cost grows with the history's length.

    Raises:
        CodecError: What a body needs was erased.
    """
    now = _Asked.read(history, exchange.conversation, exchange.position)
    place = _before(history, now)
    earlier = difference = None
    if place is not None:
        with history.database.read() as connection:
            earlier = ledger.read(connection, *place)
        difference = _difference(history.options.models, _Asked.read(history, *place), now)
    model = history.options.models.get(exchange.model)
    case = _Case(
        exchange=exchange,
        earlier=earlier,
        difference=difference,
        minimum=None if model is None else model.cache_minimum,
    )
    cost = _cost(history.options.models, exchange, case.missed)
    return CacheReport(
        exchange=exchange.position,
        before=place,
        verdict=case.verdict,
        difference=difference,
        prompt=_prompt(exchange.usage),
        read=exchange.usage.cache_read_input_tokens,
        written=exchange.usage.cache_creation_input_tokens,
        expected=case.expected,
        minimum=case.minimum,
        minimum_met=None if case.minimum is None else _prompt(exchange.usage) >= case.minimum,
        missed=case.missed,
        cost=cost,
        message=case.message(cost),
    )


@frozen(kw_only=True)
class _Asked:
    """A past request, taken apart for comparing."""

    messages: Messages
    extra: Sequence[requests.Part]
    body: bytes
    params: Mapping[str, Any]
    betas: tuple[str, ...]
    places: Sequence[tuple[UUID, int]]
    markers: Sequence[Marker]

    @classmethod
    def read(cls, history: History, of: UUID, position: int) -> _Asked:
        entry = history.entry_of(of, position)
        fields = fields_of(entry.header)
        if entry.request_salt is None:
            raise CodecError(f"something that exchange {position} sent was erased")
        messages = Messages()
        with history.database.read() as connection:
            spans, _ = view_at(connection, of, fields["view"])
            add_messages(messages, history.database, connection, spans, fields["last"] + 1)
            settings: Settings = settings_at(connection, of, fields["settings"])
        extra, places = [], list(messages.places)
        if "prefill" in fields:
            said = history.entry_of(of, fields["prefill"])
            extra.append(requests.part_of(said.header, said.body or b""))
            places.append((of, fields["prefill"]))
        body = requests.merged(settings.body, entry.body or b"{}")
        return cls(
            messages=messages,
            extra=extra,
            body=body,
            params=canonical.object_of(body),
            betas=tuple(sorted(fields.get("betas", ()))),
            places=places,
            markers=sorted(requests.markers_of(fields)),
        )

    def wires(self) -> Iterator[bytes]:
        """Give the messages, without the strings that are kept as blobs."""
        return self.messages.wires(self.extra)

    def at(self, offset: int) -> int:
        """Say where in the body a byte stands, given its place without blobs and breakpoints."""
        left_out = self.messages.left_out(self.extra, self.markers)
        return offset + sum(len(each) for place, each in left_out if place < offset)

    def blobs(self, start: int, end: int) -> list[tuple[int, Insert]]:
        """Give the blobs of a stretch of the body, by their places without blobs and breakpoints."""
        left_out = self.messages.left_out(self.extra, ())
        return [(at, each) for at, each in left_out if start <= at < end and isinstance(each, Insert)]

    def value(self, name: str) -> Any:
        """Read a parameter, or a member of one: ``output_config.effort``."""
        if name == "betas":
            return self.betas
        value: Any = self.params
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def _before(history: History, now: _Asked) -> tuple[UUID, int] | None:
    """Find the exchange that a request goes on from: the one its newest answer came from."""
    for index in reversed(now.messages.model_turns):
        of, position = now.messages.places[index]
        made = fields_of(history.entry_of(of, position).header).get("request")
        if isinstance(made, int):
            return of, made
    return None


def _difference(models: Models, then: _Asked, now: _Asked) -> Difference | None:
    """Find the first thing, in the order of the prompt, from which on nothing written before can be read."""
    changed = [name for name, _ in _LOST_WITH if _changed(models, name, then, now)]
    if changed:
        return Difference(changed[0], _offset(changed[0], then, now))
    if _shows_images(then) != _shows_images(now):
        return Difference("images", None)
    starts = [len(b'{"messages":[')] * 2
    for n, (before, after) in enumerate(zip(then.wires(), now.wires(), strict=False)):
        ends = [starts[0] + len(before), starts[1] + len(after)]
        turn = now.places[min(now.messages.turn_of(n), len(now.places) - 1)]
        if before != after and not _goes_on(before, after):
            return Difference(f"messages.{n}", now.at(starts[1] + _alike(before, after)), turn)
        if not _same_blobs(n, after, then, now):
            blobs = (then.blobs(starts[0], ends[0]), now.blobs(starts[1], ends[1]))
            return Difference(f"messages.{n}", _first_of(now, *blobs, ends[1]), turn)
        starts = [end + 1 for end in ends]
    count = sum(1 for _ in then.wires())
    if count <= sum(1 for _ in now.wires()):
        return None
    return Difference(f"messages.{count - 1}", now.at(starts[1] - 1), None)


def _first_of(now: _Asked, before: Sequence[tuple[int, Insert]], after: Sequence[tuple[int, Insert]], end: int) -> int:
    """Say where in the body the first blob that differs does."""
    for (_, old), (place, new) in zip(before, after, strict=False):
        one, other = b"".join(old), b"".join(new)
        if one != other:
            return now.at(place) + _alike(one, other)
    return now.at(end)


def _same_blobs(n: int, wire: bytes, then: _Asked, now: _Asked) -> bool:
    """Compare what two messages of the same bytes have in blobs; turns at the same place are the same turns."""
    places = [asked.places[asked.messages.turn_of(n)] for asked in (then, now)]
    if places[0] == places[1] or b'""' not in wire:
        return True
    return then.messages.whole(n, then.extra) == now.messages.whole(n, now.extra)


def _changed(models: Models, name: str, then: _Asked, now: _Asked) -> bool:
    before, after = then.value(name), now.value(name)
    if name == "output_config.effort":
        # Saying what is usual changes nothing.
        model = models.get(str(now.value("model")))
        usual = None if model is None else model.effort.default
        return bool((before or usual) != (after or usual))
    if name in {"tools", "system"}:
        return bool(_unmarked(before) != _unmarked(after))
    return bool(before != after)


def _unmarked(value: Any) -> Any:
    """Leave the breakpoints out, which are no part of what is cached, and write a string as the block it stands for."""
    if isinstance(value, str):
        return canonical.dumps([{"type": "text", "text": value}])
    if isinstance(value, list):
        return canonical.dumps([_without_marker(each) for each in value])
    return value


def _without_marker(value: Any) -> Any:
    return {name: each for name, each in value.items() if name != "cache_control"} if isinstance(value, dict) else value


def _offset(name: str, then: _Asked, now: _Asked) -> int | None:
    """Say where in the later body a changed parameter first differs."""
    if name == "betas":
        return None
    top = name.partition(".")[0]
    head = sum(len(wire) + 1 for wire in now.wires()) + len(b'{"messages":[')
    before, after = canonical.members(then.body).get(top), canonical.members(now.body).get(top)
    if after is None:
        return None
    old = b"" if before is None else then.body[before.start : before.end]
    return now.at(head + after.start + _alike(old, now.body[after.start : after.end]))


def _alike(a: bytes, b: bytes) -> int:
    """Count the bytes with which both begin."""
    return next((n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def _goes_on(before: bytes, after: bytes) -> bool:
    """Say whether a message is the same with more blocks at its end: results that the user's words joined."""
    return _blocks(after)[: len(_blocks(before))] == _blocks(before)


def _blocks(wire: bytes) -> list[Any]:
    message = canonical.object_of(wire)
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [message.get("role"), *(_without_marker(block) for block in blocks or ())]


def _shows_images(asked: _Asked) -> bool:
    return any(b'"type":"image"' in wire for wire in asked.wires())


@frozen(kw_only=True)
class _Case:
    """What is known of an exchange, and what follows from it."""

    exchange: Exchange
    earlier: Exchange | None
    difference: Difference | None
    minimum: int | None

    @property
    def expected(self) -> int:
        """Tokens that the exchange before had left in the cache."""
        usage = Usage() if self.earlier is None else self.earlier.usage
        return usage.cache_creation_input_tokens + usage.cache_read_input_tokens

    @property
    def missed(self) -> int:
        """Tokens of those that were not read, and were paid for otherwise: never more than the prompt has."""
        if self.exchange.state not in {State.ANSWERED, State.REFUSED}:
            return 0
        usage = self.exchange.usage
        paid = usage.input_tokens + usage.cache_creation_input_tokens
        return min(paid, max(0, self.expected - usage.cache_read_input_tokens))

    @property
    def verdict(self) -> Verdict:
        """The first of these that holds."""
        earlier, exchange = self.earlier, self.exchange
        if earlier is None:
            return "first"
        short = self.minimum is not None and _prompt(earlier.usage) < self.minimum
        lifetime = _LIFETIMES["1h" if any(work.write_1h for work in work_of(earlier.usage.raw)) else "5m"]
        cases: Mapping[Verdict, bool] = {
            "not answered": exchange.state not in {State.ANSWERED, State.REFUSED},
            "too short": not self.expected and short,
            "not asked": not self.expected,
            "read": not self.missed,
            "changed": self.difference is not None,
            "expired": exchange.begun - earlier.begun > lifetime,
            "too far": exchange.usage.cache_creation_input_tokens > 0,
        }
        return next((verdict for verdict, holds in cases.items() if holds), "unexplained")

    def message(self, cost: Decimal | None) -> str:
        """Say it in words; *cost* is that of the miss."""
        paid = f"; {self.missed} tokens were not read" if self.missed else ""
        paid += f", which cost ${cost:f}" if cost else ""
        if self.verdict == "changed" and self.difference is not None:
            offset = self.difference.offset
            at = "" if offset is None else f", first at byte {offset} of the body"
            return f"{self.difference.path} is not what it was in the exchange before{at}{paid}"
        return _SAID[self.verdict].format(minimum=self.minimum) + paid


_SAID: Final[Mapping[Verdict, str]] = {
    "read": "all that the exchange before had written was read",
    "first": "there is no exchange before it to read from",
    "not asked": 'the exchange before set no breakpoint: use cache="auto"',
    "too short": "this model caches no prompt under {minimum} tokens, and the one before was shorter",
    "expired": 'the entry\'s time was over: five minutes, or an hour with cache="1h"',
    "too far": 'more than 20 positions were added without a breakpoint between: use cache="auto"',
    "not answered": "there is no answer that tells",
    "unexplained": "nothing in the request explains it",
}


def _prompt(usage: Usage) -> int:
    return usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens


def _cost(models: Models, exchange: Exchange, missed: int) -> Decimal | None:
    """Price the answer as it came, and as it would have come had the missed tokens been read."""
    if not missed:
        return Decimal(0)
    raw = exchange.usage.raw
    paid, could = (_priced(models, exchange, usage) for usage in (raw, _had_it_read(raw, missed)))
    return None if paid is None or could is None else dollars(paid - could)


def _had_it_read(usage: Mapping[str, Any], missed: int) -> dict[str, Any]:
    """Count the missed tokens as read: first those written again, the dearest first, then the others."""
    told = usage.get("cache_creation")
    written = dict(told) if isinstance(told, Mapping) else {"": usage.get("cache_creation_input_tokens") or 0}
    left = missed
    for name in sorted(written):  # an hour before five minutes
        taken = min(left, written[name] or 0)
        written[name] = (written[name] or 0) - taken
        left -= taken
    return {
        **usage,
        "cache_creation": written if isinstance(told, Mapping) else None,
        "cache_creation_input_tokens": sum(written.values()),
        "input_tokens": max(0, (usage.get("input_tokens") or 0) - left),
        "cache_read_input_tokens": (usage.get("cache_read_input_tokens") or 0) + missed,
    }


def _priced(models: Models, exchange: Exchange, usage: Mapping[str, Any]) -> int | None:
    answer = {"usage": usage, "model": exchange.served_by}
    return costs.price(answer, (), model=exchange.model, at=exchange.begun, models=models).pico
