"""
Compaction: a summary is sent in the place of older turns; they stay in the record, and can be brought back.

A summary that the model writes is an exchange of its own. Which turns it is to stand for is in its request, so that
whoever finishes that exchange, in another process after a crash too, puts the summary in their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import evolve, frozen

from conversation_store import pending, preflight, views, windows
from conversation_store.errors import ContentError, RuleViolationError, UnfitReplyError
from conversation_store.history import History, settings_draft, turn_draft
from conversation_store.pending import Compacting, Pending, Terms
from conversation_store.preflight import Said
from conversation_store.record import codec, view
from conversation_store.record.codec import Content
from conversation_store.record.reply import Reply
from conversation_store.record.turns import Origin, Turn
from conversation_store.record.view import Span, View
from conversation_store.storage import identity

REQUEST: Final = (
    "Write a summary of our conversation so far. It will stand in the place of these messages, and you will go on from "
    "it alone: keep what was asked for, what was decided and why, facts, names, numbers and exact wording that may "
    "matter, what is done and what is still open. Answer with the summary alone."
)
"""What the model is asked, where the caller gives no instructions."""

BETA: Final = "compact-2026-09-04"
"""Source: Messages API documentation, Compaction, 2026-10."""


@frozen
class Parts:
    """A view in two: what a summary is to stand for, and what is kept after it."""

    summarised: View
    kept: View


def parts(history: History, keep_last: int, *, thinking: bool = False) -> Parts:
    """
    Part the view before its last *keep_last* exchanges; what is not answered yet is kept besides.

    Args:
        history: The conversation.
        keep_last: How many exchanges are kept.
        thinking: Whether the thinking in them is.

    Raises:
        ContentError: Nothing is left to summarise, or a call waits for its result.
    """
    if type(keep_last) is not int or keep_last < 0:
        raise ContentError("keep_last", "give a number from 0 on")
    if history.open_calls:
        raise ContentError("", "calls of tools wait for their results: answer them first")
    if not thinking and windows.thinking_waits(history):
        raise ContentError("", "the model's thinking waits for results of tools, and would be lost: send() them first")
    turns = history.turns
    told = windows.exchanges_of(turns)
    unanswered = bool(windows.waiting_in(turns))
    count = len(told) - keep_last - unanswered
    end = told[count - 1].stop if count > 0 else 0
    if not end or (end == 1 and turns[0].stands_for is not None):
        raise ContentError("keep_last", f"there are {len(told)} exchanges: nothing is left to summarise")
    return Parts(*view.parted(views.now(history), turns[end - 1].place))


def by_caller(history: History, summary: Sequence[Content], keep_last: int) -> Turn:
    """
    Put the caller's words in the place of older turns.

    Raises:
        ContentError: They are no content, or there is nothing to summarise.
        RuleViolationError: They are empty or blank.
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    message = codec.parted("user", summary)
    errors = [finding for finding in preflight.message_faults(message, "") if finding.severity == "error"]
    if errors:
        raise RuleViolationError(errors)
    parted = parts(history, keep_last)
    at = identity.now()
    kept = history.kept_apart(message, at)
    made = turn_draft(pending.summary_fields(parted.summarised), kept, at)
    own = Span(history.id, history.head.length, history.head.length)
    rest = view.without_thinking(parted.kept)
    return history.turn(views.change(history, (own, *rest), [made], {0: kept.blobs}).entries[0])


def by_model(
    history: History, terms: Terms, keep_last: int, instructions: str | None, overrides: Mapping[str, Any]
) -> Pending:
    """
    Begin the exchange in which the model is asked for a summary.

    Raises:
        ContentError, RuleViolationError: Nothing was written.
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    parted = parts(history, keep_last)
    overrides = {**_in_words(history.settings.params), **overrides}
    said = Said(content=(REQUEST if instructions is None else instructions,), overrides=overrides)
    planned = preflight.plan(history, said, windows.selected(history, parted.summarised))
    planned = evolve(planned, new=[(Origin.SYNTHETIC, message) for _, message in planned.new])
    compacting = Compacting("model", parted.summarised, parted.kept)
    return pending.begin(history, planned, terms, reason="a summary was asked for", compacting=compacting)


def _in_words(params: Mapping[str, Any]) -> dict[str, Any]:
    """Say which settings let the model answer in words, and to their end: no call, no schema, no stop sequence."""
    changed: dict[str, Any] = {}
    if "tools" in params:
        changed["tool_choice"] = {"type": "none"}
    output = params.get("output_config")
    if isinstance(output, Mapping) and "format" in output:
        changed["output_config"] = {name: value for name, value in output.items() if name != "format"}
    if params.get("stop_sequences"):
        changed["stop_sequences"] = []
    return changed


def by_api(
    history: History, terms: Terms, keep_last: int, instructions: str | None, overrides: Mapping[str, Any]
) -> Pending:
    """
    Begin the exchange in which the API is asked for a compaction block; its beta goes with every request from now on.

    Source: Messages API documentation, Compaction, 2026-10.

    Raises:
        As ``by_model``.
    """
    parted = parts(history, keep_last, thinking=True)
    told = {"type": "summarize"} if instructions is None else {"type": "summarize", "instructions": instructions}
    settings = history.settings
    betas = tuple(dict.fromkeys((*settings.betas, BETA)))
    also = overrides.get("betas") or ()
    asked = {"compaction": told, **overrides, "betas": also if isinstance(also, str) else [BETA, *also]}
    said = Said(overrides=asked)
    planned = preflight.plan(history, said, windows.selected(history, parted.summarised))
    if betas != settings.betas:
        history.append([settings_draft(evolve(settings, betas=betas), identity.now())], settings=0)
    compacting = Compacting("api", parted.summarised, parted.kept)
    return pending.begin(history, planned, terms, compacting=compacting)


def taken(history: History) -> Turn | None:
    """
    Begin the view with the API's newest compaction, where one came by itself; what was before it is read by nobody.

    Source: Messages API documentation, Compaction, 2026-10: earlier messages may be kept or omitted.

    Returns:
        The turn that holds it; None where the view holds none, or begins with it.

    Raises:
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    turns = history.turns
    compacted = (n for n, turn in enumerate(turns) if turn.origin is Origin.MODEL and turn.stands_for is not None)
    found = max(compacted, default=0)
    if not found:
        return None
    turn = turns[found]
    _, rest = view.parted(views.now(history), turn.place)
    views.change(history, (Span(*turn.place, turn.position), *rest))
    return turn


def made(history: History, reply: Reply) -> Turn:
    """
    Give the summary that came of an exchange.

    Raises:
        UnfitReplyError: The answer is no summary; what is sent stays as it was.
    """
    if (places := history.messages.places[:1]) and places[0][0] == history.id:
        first = views.read_turn(history, places[0])
        if first.position > reply.exchange.position and first.stands_for is not None:
            return first
    message = f"the answer ended by {reply.stop_reason} and is no summary: what is sent stays as it was"
    raise UnfitReplyError(reply.stop_reason, message)
