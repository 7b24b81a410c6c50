"""
Mending: what a finding names is put right by a new view or another turn; the record stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import evolve, frozen

from conversation_store import views
from conversation_store.api.rules import Finding, Fix
from conversation_store.errors import ContentError
from conversation_store.history import History, settings_draft, turn_draft
from conversation_store.record import codec, view
from conversation_store.record.blocks import ABSENT, Text, ToolResult, ToolUse
from conversation_store.record.chain import Entry
from conversation_store.record.turns import Origin, Turn
from conversation_store.record.view import Span, View
from conversation_store.storage import identity

NO_RESULT: Final = "There is no result: whether the tool was run is not known."
"""What the model is told in the place of a result that nobody gave."""


@frozen(kw_only=True)
class Mended:
    """
    What was done about a finding.

    Attributes:
        fix: Which fix it was.
        what: What was done, in words.
        appended: The turns that were appended.
        set_aside: The turns that left the view; they stay in the record.
        prefill: The prefill to give instead, where the finding was about one.
    """

    fix: Fix
    what: str
    appended: Sequence[Turn] = ()
    set_aside: Sequence[Turn] = ()
    prefill: str | None = None


def mend(history: History, finding: Finding, prefill: str | None = None) -> Mended:
    """
    Do what a finding's ``fix`` names.

    Args:
        history: The conversation.
        finding: One that holds now; see ``Conversation.mend``.
        prefill: The prefill that was checked, where the finding is about it.

    Raises:
        ContentError: Nothing mechanical mends it.
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    if finding.fix == "trim" and finding.turn is None and prefill is not None:
        return Mended(fix="trim", what="took the white space from the end of the prefill", prefill=prefill.rstrip())
    if finding.fix is None or (finding.turn is None and finding.fix != "drop_thinking"):
        raise ContentError(finding.path, f"nothing mechanical mends this: {finding.message}")
    turns = history.turns
    return _FIXES[finding.fix](_Patient(history, turns, -1 if finding.turn is None else finding.turn))


@frozen
class _Patient:
    """A conversation to be mended, and the turn that a finding is about."""

    history: History
    turns: Sequence[Turn]
    index: int

    @property
    def turn(self) -> Turn:
        return self.turns[self.index]

    @property
    def now(self) -> View:
        """The present view, its open span ended with what is there."""
        return views.now(self.history)

    def write(self, new: View, drafts: Sequence[Entry] = (), settings: int | None = None) -> Sequence[Turn]:
        """Append *drafts* and the view that goes on after them; give the turns among them."""
        commit = views.change(self.history, new, drafts, settings=settings)
        return [self.history.turn(entry) for entry in commit.entries if entry.kind == "turn"]

    def draft(self, origin: Origin, wire: bytes, reason: str, **fields: Any) -> Entry:
        """Write a turn that stands in for one that is wrong or missing."""
        at = identity.now()
        kept = self.history.detached(wire, at)
        if kept.blobs:
            raise ContentError("", "a turn with attachments is not mended by writing it anew")
        return turn_draft({"origin": origin.value, **fields}, kept, at, {"reason": reason})

    def own(self, offset: int = 0) -> Span:
        """Give the span of an entry about to be appended."""
        position = self.history.head.length + offset
        return Span(self.history.id, position, position)


def _answer_call(patient: _Patient) -> Mended:
    """Answer every open call of an assistant's turn with an error result, right after it."""
    turns = patient.turns
    first = last = patient.index
    while first and turns[first - 1].role == "assistant":
        first -= 1
    while last + 1 < len(turns) and turns[last + 1].role == "assistant":
        last += 1
    end = last + 1
    while end < len(turns) and turns[end].role == "user":
        end += 1
    said = [block for turn in turns[last + 1 : end] for block in turn.content]
    answered = {block.tool_use_id for block in said if isinstance(block, ToolResult)}
    calls = [
        block
        for turn in turns[first : last + 1]
        for block in turn.content
        if isinstance(block, ToolUse) and block.id not in answered
    ]
    if not calls:
        raise ContentError("", "every call of this turn is answered")
    results = tuple(
        ToolResult(
            call.id,
            NO_RESULT,
            is_error=True,
            toolset_name=call.toolset_name if isinstance(call.toolset_name, str) else ABSENT,
        )
        for call in calls
    )
    made = patient.draft(Origin.TOOL, codec.wire("user", results), "no result was given", gather=True)
    new = view.inserted(patient.now, turns[last].conversation, turns[last].position, patient.own())
    appended = patient.write(new, [made])
    names = ", ".join(str(call.id) for call in calls)
    return Mended(fix="answer_call", what=f"answered {names} with an error result", appended=appended)


def _set_aside(patient: _Patient) -> Mended:
    """Leave a turn out of the view, and with its calls their results."""
    turn = patient.turn
    going = views.set_aside(patient.history, (turn.conversation, turn.position))
    beside = f" and {len(going) - 1} of results" if len(going) > 1 else ""
    return Mended(fix="set_aside", what=f"set turn {turn.position} aside{beside}", set_aside=going)


def _trim(patient: _Patient) -> Mended:
    """Let a trimmed copy of the assistant's last words stand in their place."""
    turn = patient.turn
    *others, last = turn.content
    if not isinstance(last, Text) or not last.text.strip():
        raise ContentError("", "what would be left has no words")
    made = patient.draft(
        Origin.SYNTHETIC,
        codec.wire("assistant", (*others, evolve(last, text=last.text.rstrip()))),
        "white space taken from its end",
    )
    new = (*view.without(patient.now, turn.conversation, turn.position), patient.own())
    appended = patient.write(new, [made])
    what = f"put a copy without white space at its end in the place of turn {turn.position}"
    return Mended(fix="trim", what=what, appended=appended, set_aside=[turn])


def _move_system(patient: _Patient) -> Mended:
    """Move a system message behind the next user's turn where it may stand; else its words into the system prompt."""
    turn, turns = patient.turn, patient.turns
    rest = view.without(patient.now, turn.conversation, turn.position)
    place = _place_for(turns, patient.index) if _takes_system(patient.history) else None
    if place is not None:
        moved = Span(turn.conversation, turn.position, turn.position)
        patient.write(view.inserted(rest, place.conversation, place.position, moved))
        return Mended(fix="move_system", what=f"moved turn {turn.position} behind turn {place.position}")
    settings = patient.history.settings
    before = settings.params.get("system")
    said = [before] if isinstance(before, str) else list(before or ())
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else each for each in said]
    changed, _ = settings.updated({"system": [*blocks, {"type": "text", "text": turn.text}]})
    patient.write(rest, [settings_draft(changed, identity.now())], settings=0)
    what = f"set turn {turn.position} aside and put its words at the end of the system prompt"
    return Mended(fix="move_system", what=what, set_aside=[turn])


def _takes_system(history: History) -> bool:
    model = history.options.models.get(str(history.settings.params.get("model")))
    return model is None or model.system_role


def _place_for(turns: Sequence[Turn], index: int) -> Turn | None:
    """Find the user's turn behind which a system message may stand: last, or before the assistant's."""
    left = [turn for n, turn in enumerate(turns) if n != index]
    for n in range(index, len(left)):
        following = left[n + 1].role if n + 1 < len(left) else "assistant"
        if left[n].role == "user" and following == "assistant":
            return left[n]
    return None


def _drop_thinking(patient: _Patient) -> Mended:
    """Send what was said so far without its thinking: part of it would be refused, none of it is taken."""
    patient.write(tuple(evolve(span, thinking=False) for span in patient.now))
    return Mended(fix="drop_thinking", what="left all thinking so far out of what is sent")


_FIXES: Final[Mapping[Fix, Callable[[_Patient], Mended]]] = {
    "answer_call": _answer_call,
    "set_aside": _set_aside,
    "trim": _trim,
    "move_system": _move_system,
    "drop_thinking": _drop_thinking,
}
