"""
Tokens without a tokenizer: what recorded answers tell about each turn, and what lies between, estimated.

The usage of an answer is the exact length of its prompt. Two of them bracket the turns between; a turn that stands
alone between two is exact, several share what they have together, by their size.

Source: Messages API documentation, Usage, Vision and Token counting, 2026-10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import ceil
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import field, frozen

from conversation_store.api import request as requests
from conversation_store.api.models import Model
from conversation_store.api.request import Part
from conversation_store.errors import AttachmentError
from conversation_store.history import History, add_messages, settings_at, view_at
from conversation_store.record import canonical, media, splices, view
from conversation_store.record.chain import Entry
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.media import Media
from conversation_store.record.turns import fields_of
from conversation_store.record.view import Span
from conversation_store.storage import ledger, log

_BYTES_A_TOKEN: Final[Mapping[int, float]] = {1: 4.0, 2: 3.1}
"""Bytes of JSON a token, by tokenizer, where no answer tells; text in most languages of Europe."""

_TOKENS_A_PAGE: Final = 2000
_PATCH: Final = 28


@frozen
class TurnTokens:
    """
    Tokens of one turn.

    Attributes:
        turn: Its index in ``conversation.turns``.
        tokens: How many it adds to the prompt.
        exact: Whether recorded usage says so; else it is estimated.
        prefix: Tokens of the prompt that ends with this turn, settings included.
        prefix_exact: Whether an answer to exactly this prompt was recorded.
    """

    turn: int
    tokens: int
    exact: bool
    prefix: int
    prefix_exact: bool


@frozen(kw_only=True)
class Tokens:
    """
    Tokens of the next request as it stands.

    Attributes:
        total: The prompt's, settings and all turns.
        exact: Whether that was recorded; with anything said since the last request it is estimated.
        settings: Of them, those of the system prompt and the tools; estimated.
        turns: Those of each turn, in order.
    """

    total: int
    exact: bool
    settings: int
    turns: Sequence[TurnTokens]


Under: TypeAlias = tuple[str, bytes]
"""A tokenizer, and the settings that are part of the prompt."""


@frozen
class _Known:
    """A recorded prompt: how many of the view's turns it had, its tokens, and under which settings."""

    turns: int
    tokens: int
    under: Under


def tokens(history: History, overrides: Mapping[str, Any]) -> Tokens:
    """Account for the tokens of the next request; reads the view's turns and its exchanges, and asks nobody."""
    params = history.settings.updated(overrides)[0].params
    model = history.options.models.get(str(params.get("model")))
    rate = _rate(model)
    sizes = _sizes(history, model, rate)
    under = _under(params, model)
    # What another tokenizer counted says nothing exact, and less than an estimate of this one's.
    known = [each for each in _consistent(_known(history)) if each.under[0] == under[0]]
    measured = sum(b.tokens - a.tokens for a, b in _bracketing(known))
    weighed = sum(sum(sizes[a.turns : b.turns]) for a, b in _bracketing(known))
    scale = measured / weighed if measured > 0 and weighed else 1 / rate
    settings_size = len(canonical.dumps({name: params.get(name) for name in ("system", "tools")}))
    each = _spread(known, sizes, scale)
    return _told(each, round(settings_size * scale), [each for each in known if each.under == under])


def _spread(known: Sequence[_Known], sizes: Sequence[float], scale: float) -> list[tuple[int, bool]]:
    """Give each turn its tokens, and whether they are exact."""
    each = [(max(1, round(size * scale)), False) for size in sizes]
    for a, b in _bracketing(known):
        shared = _shared(b.tokens - a.tokens, sizes[a.turns : b.turns])
        each[a.turns : b.turns] = [(share, len(shared) == 1) for share in shared]
    if known and sum(count for count, _ in each[: known[0].turns]) > known[0].tokens:
        each[: known[0].turns] = [(share, False) for share in _shared(known[0].tokens, sizes[: known[0].turns])]
    return each


def _shared(whole: int, sizes: Sequence[float]) -> list[int]:
    """Divide tokens by size, to the last one."""
    total, done, given = sum(sizes) or 1.0, 0.0, 0
    shares = []
    for size in sizes:
        done += size
        share = round(whole * done / total) - given
        given += share
        shares.append(share)
    return shares


def _told(each: Sequence[tuple[int, bool]], settings: int, known: Sequence[_Known]) -> Tokens:
    """Add it all up; *known* are the prompts recorded under the present settings, which say what those come to."""
    if known:
        settings = max(0, known[-1].tokens - sum(count for count, _ in each[: known[-1].turns]))
    recorded = {prompt.turns: prompt.tokens for prompt in known}
    at, exact = settings, False
    turns = []
    for n, (count, told) in enumerate(each):
        exact = n + 1 in recorded
        at = recorded[n + 1] if exact else at + count
        turns.append(TurnTokens(n, count, told, at, exact))
    return Tokens(total=at, exact=exact, settings=settings, turns=tuple(turns))


def _bracketing(known: Sequence[_Known]) -> Iterator[tuple[_Known, _Known]]:
    """Give neighbours that differ by turns alone."""
    for a, b in pairwise(known):
        if a.under == b.under and b.turns > a.turns and b.tokens >= a.tokens:
            yield a, b


def _consistent(known: Sequence[_Known]) -> list[_Known]:
    """Keep the newest figure for each prompt."""
    return [newest for _, newest in sorted({each.turns: each for each in known}.items())]


# --- what was recorded -------------------------------------------------------------------------------------------


def _known(history: History) -> list[_Known]:
    """Read the prompts that were answered and are beginnings of the present view."""
    by_span: dict[Span, list[tuple[int, int]]] = {}
    for index in history.messages.model_turns:
        of, position = history.messages.places[index]
        span = next(each for each in history.view[0] if each.holds(of, position))
        by_span.setdefault(span, []).append((index, position))
    found: list[_Known] = []
    for span, turns in by_span.items():
        found += _Log.read(history, span.conversation, span.first, turns[-1][1]).prompts(turns)
    return sorted(found, key=lambda each: each.turns)


@frozen
class _Log:
    """The exchanges of a span of one log, by the turn each was answered with, and their ``request`` entries."""

    history: History
    of: UUID
    exchanges: Mapping[int, Exchange]
    requests: Mapping[int, Entry]
    last: int
    views: dict[int, int] = field(factory=dict)
    settings: dict[tuple[int, bytes], Under] = field(factory=dict)

    @classmethod
    def read(cls, history: History, of: UUID, first: int, last: int) -> _Log:
        with history.database.read() as connection:
            found = ledger.read_all(connection, of, first, last)
            exchanges = {each.turn: each for each in found if each.turn is not None}
            asked = {entry.position: entry for entry in log.read_kind(connection, of, "request", first, last)}
        return cls(history, of, exchanges, asked, last)

    def prompts(self, turns: Sequence[tuple[int, int]]) -> Iterator[_Known]:
        """Give the prompt before each of these answers, where the view began with it as it does now."""
        for index, position in turns:
            exchange = self.exchanges.get(position)
            entry = None if exchange is None else self.requests.get(exchange.position)
            if exchange is None or entry is None:
                continue
            fields = fields_of(entry.header)
            size = prompt_of(exchange)
            if size is None or "prefill" in fields or not self._began_alike(fields, index):
                continue
            yield _Known(index, size, self._under(fields["settings"], entry.body or b"{}", exchange))

    def _began_alike(self, fields: Mapping[str, Any], index: int) -> bool:
        """Say whether a past request had exactly the turns that stand before its answer in the present view."""
        if self.of == self.history.id and fields["view"] == self.history.head.view_position:
            return True
        if fields["view"] not in self.views:
            self.views[fields["view"]] = self._alike(fields["view"])
        return index < self.views[fields["view"]]

    def _alike(self, position: int) -> int:
        """Count the turns with which a past view and the present one both begin, thinking in the last one apart."""
        now, history = self.history.messages, self.history
        with history.database.read() as connection:
            past, _ = view_at(connection, self.of, position)
            shared = view.common(past, history.view[0])
            beginning = view.common(view.with_thinking(past), view.with_thinking(history.view[0]))
            out = (n for n, place in enumerate(now.places) if not any(span.holds(*place) for span in beginning))
            alike = next(out, len(now))
            if beginning == view.with_thinking(shared):
                return alike
            # Of one of the two thinking is left out: they part with the first turn that has any.
            then = requests.Messages()
            add_messages(then, history.database, connection, past, self.last + 1)
        return min(alike, *(n + 1 for n in {*now.thinking} ^ {*then.thinking}), alike)

    def _under(self, settings: int, overrides: bytes, exchange: Exchange) -> Under:
        key = (settings, overrides)
        if key not in self.settings:
            with self.history.database.read() as connection:
                body = requests.merged(settings_at(connection, self.of, settings).body, overrides)
            model = self.history.options.models.get(exchange.served_by or exchange.model)
            self.settings[key] = _under(canonical.object_of(body), model)
        return self.settings[key]


def _under(params: Mapping[str, Any], model: Model | None) -> Under:
    """Say what else the tokens of a prompt depend on."""
    kept = [params.get(name) for name in ("system", "tools", "tool_choice")]
    return (str(params.get("model")) if model is None else str(model.tokenizer), canonical.dumps(kept))


def prompt_of(exchange: Exchange) -> int | None:
    """Read the tokens of the prompt off an answer; None where its usage speaks of more than one prompt."""
    usage = exchange.usage
    raw = usage.raw
    used = raw.get("server_tool_use")
    if exchange.state is not State.ANSWERED or (isinstance(used, Mapping) and any(used.values())):
        return None
    iterations = raw.get("iterations")
    if isinstance(iterations, list) and iterations:
        return None
    return usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens or None


# --- estimates ---------------------------------------------------------------------------------------------------


def _rate(model: Model | None) -> float:
    return _BYTES_A_TOKEN[model.tokenizer if model is not None else 2]


def estimated(history: History, model: Model | None, parts: Sequence[Part], *, turn: int) -> int:
    """Estimate the tokens of the turns from index *turn* on, and of *parts* that are not said yet, from their bytes."""
    messages = history.messages
    inserts = [insert for index, insert in messages.attached() if index >= turn]
    inserts += [piece for part in parts for piece in part.pieces if not isinstance(piece, bytes)]
    rate = _rate(model)
    if turn < len(messages):
        wires = messages.wires(parts, messages.message_of(turn))
    else:
        wires = (b"".join(each for each in part.pieces if isinstance(each, bytes)) for part in parts)
    size = sum(_size(wire, model, rate) for wire in wires)
    return ceil(size / rate) + sum(_tokens_of(insert.media, insert.size, model) for insert in inserts)


def _sizes(history: History, model: Model | None, rate: float) -> list[float]:
    """Say how large each turn is, in bytes of JSON; a picture or document has as many as its tokens come to."""
    sizes = [_size(turn.body, model, rate) for turn in history.turns]
    for index, insert in history.messages.attached():
        sizes[index] += _tokens_of(insert.media, insert.size, model) * rate
    return sizes


def _size(wire: bytes, model: Model | None, rate: float) -> float:
    if b'"base64"' not in wire:
        return len(wire)
    shown = list(_pictures(canonical.object_of(wire)))
    tokens = sum(_tokens_of(_measured(each), len(each), model) for each in shown)
    return len(wire) - sum(splices.length(len(each), "base64") for each in shown) + tokens * rate


def _pictures(value: Any) -> Iterator[bytes]:
    """Give the pictures and documents that are small enough to stand in a message itself."""
    if isinstance(value, Mapping):
        data = value.get("data")
        if value.get("type") == "base64" and isinstance(data, str) and data.isascii():
            found = splices.decode(data.encode())
            yield from () if not found else (found,)
        else:
            for each in value.values():
                yield from _pictures(each)
    elif isinstance(value, list):
        for each in value:
            yield from _pictures(each)


def _measured(data: bytes) -> Media | None:
    try:
        return media.measure(data)
    except AttachmentError:
        return None


def _tokens_of(known: Media | None, size: int, model: Model | None) -> int:
    """
    Estimate what a picture, a document or other bytes come to.

    Source: Messages API documentation, Vision, 2026-08.
    """
    if known is None:
        return round(size / _BYTES_A_TOKEN[2])
    if known.pages is not None or known.width is None or known.height is None:
        return (known.pages or 1) * _TOKENS_A_PAGE
    edge, most = (2576, 4784) if model is None else (model.image.edge, model.image.tokens)
    shrunk = min(1.0, edge / max(known.width, known.height))
    return min(most, ceil(known.width * shrunk / _PATCH) * ceil(known.height * shrunk / _PATCH))
