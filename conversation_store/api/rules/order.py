"""
What the rules need to know of the messages so far: ``Outline``; and the rules of their order.

An outline grows at its end and never looks at a message twice. Most messages are a text and nothing else: of
those it looks at the first bytes. What only some settings refuse is kept as a list of places, for the rules of a
request to judge under the settings of the moment.

To add a rule: write a generator ``(outline, message)`` that looks at both before the message is taken in, cite its
source, and name it in ``OF_THE_ORDER``.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from attrs import Factory, define, evolve

from conversation_store.api.rules.blocks import inner, kind_of, measured
from conversation_store.api.rules.findings import Finding, Fix, error
from conversation_store.api.rules.messages import Message, check_shape
from conversation_store.api.rules.places import Place

SERVER_CALLS: Final = frozenset({"server_tool_use", "mcp_tool_use"})
MANY_IMAGE_SIDE: Final = 2000
"""Pixels a side may have in a request of many images."""
MANY_PAGES: Final = 100
"""Pages that a PDF may have for every model."""


def is_server_result(kind: object) -> bool:
    """Tell whether a block of this type is the result of a tool that the API runs."""
    return isinstance(kind, str) and kind.endswith("_tool_result")


class Call(NamedTuple):
    """A call of a tool: its message, its place in it, and its turn."""

    id: str
    name: str
    message: int
    block: int
    turn: int | None
    caller: str | None = None
    toolset: str | None = None

    @property
    def path(self) -> str:
        """What leads to it."""
        return f"messages.{self.message}.content.{self.block}"


class Marked(NamedTuple):
    """Something in the messages that some settings refuse or count: where it is, and a word on what it is."""

    path: str
    turn: int | None
    word: str = ""


Marks: TypeAlias = dict[str, list[Marked]]


@define(eq=False, repr=False)
class Outline:
    """
    The messages so far, as far as rules care.

    Attributes:
        count: How many there are.
        last_role: The last message's role, of those that say something; None without messages.
        findings: What is wrong with them whatever the settings are.
        marks: What some settings refuse or count, by what it is.
        ids: Every id of a call.
        calls: The calls of the assistant's last turn, answered or not; those of the caller's tools.
        answered: Which of them are answered.
        late: Whether something that is no result stands before where the next result would be.
        waiting: Calls of the API's own tools that have no result yet.
        called: Which of those called a tool of the caller's.
        last: The last message, where it is not a mere text.
        images: How many images there are.
        attached: Bytes of pictures and documents, as base64.
        before: The outline that this one goes on from.
    """

    count: int = 0
    last_role: str | None = None
    findings: list[Finding] = Factory(list)
    marks: Marks = Factory(dict)
    ids: MutableMapping[str, None] = Factory(dict)
    calls: dict[str, Call] = Factory(dict)
    answered: set[str] = Factory(set)
    late: bool = False
    waiting: dict[str, Call] = Factory(dict)
    called: set[str] = Factory(set)
    last: Message | None = None
    images: int = 0
    attached: int = 0
    before: Outline | None = None

    def extended(self) -> Outline:
        """Give an outline that goes on from this one and leaves it as it is; nothing that grows is copied."""
        return evolve(
            self,
            findings=[],
            marks={},
            ids=ChainMap({}, self.ids),
            calls=dict(self.calls),
            answered=set(self.answered),
            waiting=dict(self.waiting),
            called=set(self.called),
            before=self,
        )

    @property
    def all_findings(self) -> list[Finding]:
        """Everything found, from the first message on."""
        return [*(self.before.all_findings if self.before else ()), *self.findings]

    def marked(self, what: str) -> Sequence[Marked]:
        """Say where something is, from the first message on."""
        mine = self.marks.get(what, [])
        return [*self.before.marked(what), *mine] if self.before else mine

    @property
    def kinds(self) -> set[str]:
        """What there is to be judged, by name."""
        return self.marks.keys() | (self.before.kinds if self.before else set())

    @property
    def open_calls(self) -> list[Call]:
        """The calls of the caller's tools that no result answers yet."""
        return [call for call in self.calls.values() if call.id not in self.answered]

    def pass_by(self, role: str) -> bool:
        """Take in a message that is a mere text, unless some rule watches for it; say whether that was so."""
        if self.calls:
            if role != "assistant" or self.last_role != "user" or len(self.answered) < len(self.calls):
                return False
            self.calls, self.answered = {}, set()
        if self.waiting or self.last_role == "system" or self.count == 0:
            return False
        self.count += 1
        self.last_role, self.last = role, None
        return True

    def pass_to(self, count: int, role: str) -> None:
        """Take in all of a run of mere texts of which the first was passed by; *role* is the last one's."""
        self.count, self.last_role = count, role

    def take_ordinary(self, role: str, blocks: Sequence[Any], turn: int) -> bool:
        """Take in a message of a turn of its own that is ordinary and in order; say whether it was."""
        taken = self._take_calls(blocks, turn) if role == "assistant" else self._take_results(blocks)
        if taken:
            self.count += 1
            self.last_role, self.last = role, None
        return taken

    def _take_calls(self, blocks: Sequence[Any], turn: int) -> bool:
        if self.waiting or self.last_role != "user" or len(self.answered) < len(self.calls):
            return False
        calls: dict[str, Call] = {}
        for n, block in enumerate(blocks):
            if block["type"] == "tool_use":
                name = block["id"]
                if name in self.ids or name in calls:
                    return False
                calls[name] = Call(name, block["name"], self.count, n, turn)
        self.ids.update(dict.fromkeys(calls))
        self.calls, self.answered, self.late = calls, set(), False
        return True

    def _take_results(self, blocks: Sequence[Any]) -> bool:
        if self.waiting or self.last_role != "assistant":
            return False
        answered: set[str] = set()
        late = False
        for block in blocks:
            if block["type"] != "tool_result":
                late = True
                continue
            call = self.calls.get(block["tool_use_id"])
            if late or call is None or call.toolset or call.id in answered:
                return False
            answered.add(call.id)
        self.answered, self.late = answered, late
        return True

    def take(self, message: Message, *, mere: bool = False) -> None:
        """Take in the next message; *mere* is one with nothing but a text that is right."""
        if message.place.ours and not mere:
            self.findings += check_shape(message)
        for rule in OF_THE_ORDER.get(message.role, ()):
            self.findings += [evolve(each, rule=rule.__name__) for each in rule(self, message)]
        if not message.effort_only:
            self._turn_to(message.role)
        if message.role in _TAKE_IN:
            _TAKE_IN[message.role](self, message)
        if not mere:
            self._note(message)
        if not message.effort_only:
            self.last_role, self.last = message.role, message
        self.count += 1

    def _turn_to(self, role: str) -> None:
        """Forget the calls of a turn when the turn after it is over."""
        if role != self.last_role and (role != "user" or self.last_role == "system"):
            self.calls, self.answered, self.late = {}, set(), False
        elif role != self.last_role:
            self.late = False

    def mark(self, what: str, place: Place, n: int, word: str = "", rest: str = "") -> None:
        """Note where something is that some settings refuse or count."""
        self.marks.setdefault(what, []).append(Marked(place.at(n, rest), place.turn_of(n), word))

    def mark_once(self, what: str, place: Place, n: int) -> None:
        """Note the first place of something that is told of once."""
        if what not in self.kinds:
            self.mark(what, place, n)

    def _note(self, message: Message) -> None:
        """Note what some settings refuse or count."""
        place = message.place
        for name in ("clear_at", "output_config"):
            if name in message.value:
                self.marks.setdefault(name, []).append(Marked(message.below(name), place.turn))
        if message.role == "system" and message.value.get("content"):
            self.marks.setdefault("system", []).append(Marked(message.path, place.turn))
        self._note_blocks(message.blocks, place)

    def _note_blocks(self, blocks: Iterable[Any], place: Place) -> None:
        for n, block in enumerate(blocks):
            if not isinstance(block, Mapping):
                continue
            kind = kind_of(block)
            if block.get("cache_control"):
                marker = block["cache_control"]
                ttl = (marker.get("ttl") or "5m") if isinstance(marker, Mapping) else "5m"
                self.mark("marker", place, n, ttl)
            if kind in NOTED:
                NOTED[kind](self, block, n, place)
                for rest, held in inner(block):
                    self._note_blocks(held, place.within(n, rest))


# --- what is noted of a block --------------------------------------------------------------------------------------


def _note_text(outline: Outline, block: Mapping[str, Any], n: int, place: Place) -> None:
    if block.get("citations") and place.role == "user":
        outline.mark("user_citations", place, n, rest="text.citations")


def _note_image(outline: Outline, block: Mapping[str, Any], n: int, place: Place) -> None:
    outline.images += 1
    source = block.get("source")
    outline.attached += _length(source, place)
    found = measured(source, place) if isinstance(source, Mapping) else None
    side = max(found.width or 0, found.height or 0) if found is not None else 0
    if side > MANY_IMAGE_SIDE:
        outline.mark("large_image", place, n, str(side), "image.source.base64.data")


def _length(source: Any, place: Place) -> int:
    if not isinstance(source, Mapping) or source.get("type") != "base64":
        return 0
    kept = place.attachment(source.get("data"))
    return kept.length if kept is not None else len(str(source.get("data")))


def _note_document(outline: Outline, block: Mapping[str, Any], n: int, place: Place) -> None:
    citing = (block.get("citations") or {}).get("enabled") if isinstance(block.get("citations"), Mapping) else False
    outline.mark_once(f"{'citing' if citing else 'silent'}_{block['type']}", place, n)
    if block["type"] != "document":
        return
    if place.role == "assistant":
        outline.mark("assistant_document", place, n)
    source = block.get("source")
    outline.attached += _length(source, place)
    found = measured(source, place) if isinstance(source, Mapping) else None
    if found is not None and (found.pages or 0) > MANY_PAGES:
        outline.mark("pdf", place, n, str(found.pages), "document.source.base64")


def _note_reference(outline: Outline, block: Mapping[str, Any], n: int, place: Place) -> None:
    name = str(block.get("tool_name"))
    if all(mark.word != name for mark in outline.marked("tool_reference")):
        outline.mark("tool_reference", place, n, name)


def _note_kind(outline: Outline, block: Mapping[str, Any], n: int, place: Place) -> None:
    outline.mark_once(block["type"], place, n)


NOTED: Final[Mapping[Any, Callable[[Outline, Mapping[str, Any], int, Place], None]]] = {
    "text": _note_text,
    "image": _note_image,
    "document": _note_document,
    "search_result": _note_document,
    "tool_reference": _note_reference,
    "tool_result": lambda *_: None,  # for what it holds
    **dict.fromkeys(
        (
            "advisor_tool_result",
            "mcp_tool_use",
            "mcp_tool_result",
            "mcp_tool_listing",
            "compaction",
            "tool_addition",
            "tool_removal",
        ),
        _note_kind,
    ),
}


# --- what a message changes ------------------------------------------------------------------------------------------


def _results(message: Message) -> Iterator[tuple[int, Mapping[str, Any], str]]:
    for n, block in enumerate(message.blocks):
        if isinstance(block, Mapping) and block.get("type") == "tool_result":
            yield n, block, str(block.get("tool_use_id"))


def _only_results(message: Message) -> bool:
    return all(isinstance(each, Mapping) and each.get("type") == "tool_result" for each in message.blocks)


def _take_in_user(outline: Outline, message: Message) -> None:
    outline.answered |= {name for _, _, name in _results(message)} & outline.calls.keys()
    if not _only_results(message):
        outline.late = True
        outline.waiting.clear()
        outline.called.clear()


def _take_in_assistant(outline: Outline, message: Message) -> None:
    place = message.place
    for n, block in enumerate(message.blocks):
        kind = kind_of(block)
        if kind == "tool_use" or kind in SERVER_CALLS:
            call = _call_of(block, n, place)
            outline.ids[call.id] = None
            (outline.calls if kind == "tool_use" else outline.waiting)[call.id] = call
            if call.caller in outline.waiting:
                outline.called.add(str(call.caller))
        elif is_server_result(kind):
            outline.waiting.pop(str(block.get("tool_use_id")), None)
            outline.called.discard(str(block.get("tool_use_id")))


def _call_of(block: Mapping[str, Any], n: int, place: Place) -> Call:
    caller, toolset = block.get("caller"), block.get("toolset_name")
    return Call(
        id=str(block.get("id")),
        name=str(block.get("name")),
        message=place.message,
        block=n,
        turn=place.turn_of(n),
        caller=str(caller.get("tool_id")) if isinstance(caller, Mapping) else None,
        toolset=toolset if isinstance(toolset, str) else None,
    )


_TAKE_IN: Final = {"user": _take_in_user, "assistant": _take_in_assistant}


# --- the rules -------------------------------------------------------------------------------------------------------


def unanswered(calls: Sequence[Call], path: str) -> Iterator[Finding]:
    """Say that calls have no result."""
    for index in sorted({call.message for call in calls}):
        mine = [call for call in calls if call.message == index]
        yield error(
            path.format(index),
            "`tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(call.id for call in mine)}. Answer each with tool_result(), or run_tools()",
            turn=mine[0].turn,
            fix="answer_call",
        )


def calls_answered(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    Each call of a tool is answered in the next user message.

    Source: Messages API documentation, Handle tool calls, 2026-10.
    """
    if message.effort_only or message.role == outline.last_role:
        return
    if outline.last_role == "user" or message.role == "system":
        yield from unanswered(outline.open_calls, "messages.{}")


def results_asked_for(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    Each result answers a call of the turn before it.

    Source: Messages API documentation, Handle tool calls, 2026-10.
    """
    for n, _, name in _results(message):
        if name not in outline.calls:
            yield message.place.error(
                n,
                f"unexpected `tool_use_id` found in `tool_result` blocks: {name}. Each `tool_result` block must have a "
                "corresponding `tool_use` block in the previous message.",
                fix="set_aside",
            )


def results_once(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    Each call has one result.

    Source: Messages API documentation, Handle tool calls, 2026-10.
    """
    seen = set(outline.answered)
    for n, _, name in _results(message):
        if name in seen and name in outline.calls:
            why = "each tool_use must have a single result. Found multiple `tool_result` blocks with id"
            yield message.place.error(n, f"{why}: {name}", fix="set_aside")
        seen.add(name)


def results_first(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    Results come first in the user's message; others answer nothing.

    Source: Messages API documentation, Handle tool calls, 2026-10.
    """
    late = outline.late and outline.last_role == "user"
    for n, block in enumerate(message.blocks):
        if not isinstance(block, Mapping) or block.get("type") != "tool_result":
            late = True
        elif late and str(block.get("tool_use_id")) in outline.calls:
            place, call = message.place, outline.calls[str(block.get("tool_use_id"))]
            why = f"`tool_use` ids were found without `tool_result` blocks immediately after: {call.id}. Its result"
            told = f"{why} at {place.at(n)} comes after something else; results come first"
            yield error(f"messages.{call.message}", told, turn=place.turn_of(n))


def toolset_echoed(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    A result names the toolset that its call named, and holds text and images.

    Source: Messages API documentation, Computer and browser toolsets, 2026-10.
    """
    for n, block, name in _results(message):
        call = outline.calls.get(name)
        if call is None:
            continue
        if (block.get("toolset_name") or None) != call.toolset:
            yield message.place.error(
                n, f"Input should be {call.toolset!r}, as in the call", "tool_result.toolset_name"
            )
        yield from _toolset_content(call, block, n, message.place)


def _toolset_content(call: Call, block: Mapping[str, Any], n: int, place: Place) -> Iterator[Finding]:
    content = block.get("content")
    kinds = (
        [str(each.get("type")) for each in content if isinstance(each, Mapping)] if isinstance(content, list) else []
    )
    states = kinds.count("browser_state")
    if states and (call.toolset != "browser" or states > 1 or block.get("is_error")):
        message = "one `browser_state` is permitted, in a `browser` result that is no error"
        yield place.error(n, message, "tool_result.content")
    if call.toolset and set(kinds) - {"text", "image", "browser_state"}:
        message = "only `text` and `image` blocks are permitted in the result of a toolset"
        yield place.error(n, message, "tool_result.content")


def programmatic_results(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    A call made by running code is answered in text.

    Source: Messages API documentation, Programmatic tool calling, 2026-08.
    """
    for n, block, name in _results(message):
        content, call = block.get("content"), outline.calls.get(name)
        if call is None or call.caller not in outline.waiting or not isinstance(content, list):
            continue
        if any(not isinstance(each, Mapping) or each.get("type") != "text" for each in content):
            why = "only text is permitted in the result of a programmatic tool call"
            yield message.place.error(n, why, "tool_result.content")


def server_calls_resolved(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    While a call of the API's own tool has no result, the user gives results alone.

    Source: Messages API documentation, Server tools, 2026-08.
    """
    if outline.waiting and not _only_results(message):
        for call in outline.waiting.values():
            yield error(
                call.path,
                f"`{call.name}` tool use with id `{call.id}` was found without a corresponding "
                f"`{call.name}_tool_result` block",
                turn=call.turn,
                fix="set_aside",
            )


def ids_unique(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    No two calls have one id, in the whole request.

    Source: Messages API documentation, Handle tool calls, 2026-10.
    """
    here: set[str] = set()
    for n, block in enumerate(message.blocks):
        kind = kind_of(block)
        if kind == "tool_use" or kind in SERVER_CALLS:
            name = str(block.get("id"))
            if name in outline.ids or name in here:
                yield message.place.error(n, "`tool_use` ids must be unique", fix="set_aside")
            here.add(name)


def server_results_asked_for(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    A result of the API's own tools comes after its call, in the same open turn.

    Source: Messages API documentation, Server tools, 2026-08.
    """
    waiting = set(outline.waiting)
    for n, block in enumerate(message.blocks):
        kind = kind_of(block)
        if kind in SERVER_CALLS:
            waiting.add(str(block.get("id")))
        elif kind != "tool_result" and is_server_result(kind):
            name = str(block.get("tool_use_id"))
            if name not in waiting:
                why = f"unexpected `tool_use_id` found in `{kind}` blocks: {name}. Each `{kind}` block must have a"
                yield message.place.error(n, f"{why} corresponding `server_tool_use` block before it.", fix="set_aside")
            waiting.discard(name)


def system_placed(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    A system message follows a user turn, or an assistant's that ends in a server tool's result.

    Source: Messages API documentation, Mid-conversation system messages, 2026-10.
    """
    if message.effort_only or outline.last_role in {"user", "system"}:
        return
    last = outline.last.blocks[-1] if outline.last is not None and outline.last.blocks else {}
    if outline.last_role == "assistant" and isinstance(last, Mapping) and is_server_result(last.get("type")):
        return
    why = "role 'system' must directly follow a user turn"
    yield error(message.path, why, turn=message.place.turn, fix="move_system")


def system_followed(outline: Outline, _: Message) -> Iterator[Finding]:
    """
    A system message is the last or is followed by an assistant turn.

    Source: Messages API documentation, Mid-conversation system messages, 2026-10.
    """
    if outline.last_role == "system" and outline.last is not None and not outline.last.effort_only:
        why = "role 'system' must be last or be followed by an assistant turn"
        yield error(outline.last.path, why, turn=outline.last.place.turn, fix="move_system")


def first_is_user(outline: Outline, message: Message) -> Iterator[Finding]:
    """
    A conversation begins with the user, but for a compaction or a change of effort.

    Source: Messages API, error text; Messages API documentation, Compaction, 2026-10.
    """
    first = message.blocks[0] if message.blocks else {}
    compacted = isinstance(first, Mapping) and first.get("type") == "compaction"
    if outline.count == 0 and not message.effort_only and not compacted:
        why = 'first message must use the "user" role'
        fix: Fix = "move_system" if message.role == "system" else "set_aside"
        yield error(message.below("role"), why, turn=message.place.turn, fix=fix)


Rule: TypeAlias = Callable[[Outline, Message], Iterator[Finding]]

OF_THE_ORDER: Final[Mapping[str, Sequence[Rule]]] = {
    "user": (
        results_asked_for,
        results_once,
        results_first,
        toolset_echoed,
        programmatic_results,
        server_calls_resolved,
        system_followed,
    ),
    "assistant": (first_is_user, calls_answered, ids_unique, server_results_asked_for),
    "system": (first_is_user, calls_answered, system_placed),
}
