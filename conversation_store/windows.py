"""
Windows: what a request shows where a conversation has grown too long for what its caller wants to send.

Whether a window moves is decided from what the newest answer recorded and the bytes since, so that a turn costs the
same however long the conversation is; only when it does move are the turns of the view looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Final

from attrs import evolve, frozen

from conversation_store.api.models import Model
from conversation_store.api.request import Messages, Part, Settings
from conversation_store.api.rules.order import Outline
from conversation_store.api.rules.reading import grow
from conversation_store.history import History, add_messages
from conversation_store.record import view
from conversation_store.record.blocks import Compaction
from conversation_store.record.turns import Turn, fields_of
from conversation_store.record.view import View
from conversation_store.record.window import Outlined, Window, exchanges, leaving, waiting

_COUNTED: Final = frozenset({"model", "system", "tools", "tool_choice"})
"""Parameters on which the tokens of a prompt depend."""


@frozen(kw_only=True)
class Shown:
    """
    The turns that a request shows.

    Attributes:
        messages: Their messages.
        outline: What rules need to know of them.
        view: Their view, without an open span; None where it is the conversation's own.
        window: The window that decided it; None for none.
        once: Whether it is for this request alone.
    """

    messages: Messages
    outline: Outline
    view: View | None = None
    window: Window | None = None
    once: bool = False


def whole(history: History) -> Shown:
    """Show the conversation's own view."""
    return Shown(messages=history.messages, outline=history.outline)


def selected(history: History, spans: View, *, window: Window | None = None, once: bool = True) -> Shown:
    """Show other turns than those of the conversation's own view: those of *spans*, which has no open one."""
    messages, outline = Messages(), Outline()
    with history.database.read() as connection:
        add_messages(messages, history.database, connection, spans, history.head.length)
    grow(outline, messages)
    return Shown(messages=messages, outline=outline, view=spans, window=window, once=once)


def shown(history: History, overrides: Settings, parts: Sequence[Part]) -> Shown:
    """
    Decide what the next request shows.

    Args:
        history: The conversation.
        overrides: Settings for this request alone; a window among them is for it alone.
        parts: The turns that are said with it.
    """
    window = overrides.window or history.settings.window
    if window is None:
        return whole(history)
    from conversation_store import tokens, views

    unmoved = evolve(whole(history), window=window)
    params = {**history.settings.params, **overrides.params}
    model = history.options.models.get(str(params.get("model")))
    if _quickly(history, overrides, model, parts) <= window.max_tokens:
        return unmoved
    told = tokens.tokens(history, {name: params[name] for name in _COUNTED if name in params})
    total = told.total + tokens.estimated(history, model, parts, turn=len(history.messages))
    if total <= window.max_tokens or thinking_waits(history):
        return unmoved
    turns = history.turns
    said = any(part.role == "user" for part in parts)
    going = leaving(window, list(_outlined(turns)), [each.tokens for each in told.turns], total, said=said)
    if going is None:
        return unmoved
    before, after = view.gap(views.now(history), turns[going.start].place, turns[going.stop - 1].place)
    if any(index >= going.stop for index in history.messages.thinking):
        after = view.without_thinking(after)
    return selected(history, (*before, *after), window=window, once=overrides.window is not None)


def _quickly(history: History, overrides: Settings, model: Model | None, parts: Sequence[Part]) -> float:
    """Estimate the tokens of the prompt from the newest answer; without end where it does not tell."""
    from conversation_store import tokens

    newest = history.newest_recorded()
    if newest is None or newest.turn is None or _COUNTED & overrides.params.keys():
        return inf
    fields = fields_of(history.entry(newest.position).header)
    prompt, known = tokens.prompt_of(newest), history.known_upto((history.id, newest.turn))
    now = (history.head.view_position, history.head.settings_position)
    if prompt is None or known is None or (fields["view"], fields["settings"]) != now:
        return inf
    return prompt + newest.usage.output_tokens + tokens.estimated(history, model, parts, turn=known)


def thinking_waits(history: History) -> bool:
    """
    Say whether the model's thinking waits for results of tools, or has just got them: it must be there.

    A loop of calls and results is one answer, with all the thinking in it.

    Source: Messages API documentation, Preserved thinking, 2026-10.
    """
    messages = history.messages
    if not messages.thinking or not messages.calling:
        return False
    last = waiting_in(history.turns)
    return any(index in last for index in messages.thinking) and any(index in last for index in messages.calling)


def exchanges_of(turns: Sequence[Turn]) -> Sequence[range]:
    """Tell the exchanges of a view apart; see ``record.window.exchanges``."""
    return exchanges(list(_outlined(turns)))


def waiting_in(turns: Sequence[Turn]) -> range:
    """Give the last exchange where it waits for something; see ``record.window.waiting``."""
    return waiting(list(_outlined(turns)))


def _outlined(turns: Sequence[Turn]) -> Iterator[Outlined]:
    from conversation_store import views

    for turn in turns:
        calls, answers = views.calls_and_results(turn.body)
        yield Outlined(turn.role, calls, answers, stands_for=turn.stands_for is not None or _compacted(turn))


def _compacted(turn: Turn) -> bool:
    return b"compaction" in turn.body and any(isinstance(block, Compaction) for block in turn.content)
