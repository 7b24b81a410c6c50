"""
Sessions of Claude Code and of the Agent SDK: the files ``~/.claude/projects/…/<session>.jsonl``.

A line is an entry of a tree: ``uuid`` and ``parentUuid`` link it. The newest leaf's chain of parents is the main line;
what summed up an earlier line goes on from it (``logicalParentUuid``). One answer of the model is as many lines as it
has blocks, with one ``message.id``: they are joined. The results of calls made in parallel hang beside the line, each
below its own call, and are put back. Entries marked ``isSidechain`` are conversations of their own.

Source: the session files that Claude Code 2.1 writes, and the reading of them in claude-agent-sdk 0.2
(``_internal/sessions.py``), 2026-11.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from sys import intern
from typing import Any, Final, NamedTuple

from attrs import Factory, define, frozen

from conversation_store.errors import CodecError
from conversation_store.formats.documents import Document, Value
from conversation_store.formats.transcripts import (
    LeftOut,
    Piece,
    Reading,
    Refused,
    Told,
    Transcript,
    beside,
    check_content,
    string,
)
from conversation_store.record import canonical
from conversation_store.record.canonical import Member

FORM: Final = "claude-code"

_SPEAKERS: Final = frozenset({"user", "assistant"})
_NOTICE: Final = "error of the API, shown as an answer"
_LINKED: Final = _SPEAKERS | {"progress", "system", "attachment", _NOTICE}
_TITLES: Final = {"custom-title": "customTitle", "ai-title": "aiTitle", "summary": "summary"}
_BRANCH: Final = "entry of a branch that was left"


def fits(value: object) -> bool:
    """Say whether a line may be of this form."""
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        return False
    return "sessionId" in value or ("uuid" in value and "parentUuid" in value) or "leafUuid" in value


def read(document: Document) -> Reading:
    """Read a session file: once to see how its lines hang together, and each message again when it is its turn."""
    session = _Session(document)
    yield from session.look()
    yield from session.transcripts()


class _Entry(NamedTuple):
    """What is remembered of a line: no content."""

    line: int
    start: int
    size: int
    name: str
    parent: str | None
    kind: str
    message: str | None
    agent: str | None
    side: bool
    aside: bool
    result: bool
    session: str | None


@define
class _Session:
    document: Document
    entries: dict[str, _Entry] = Factory(dict)
    answers: dict[str, list[_Entry]] = Factory(dict)
    results: dict[str, list[_Entry]] = Factory(dict)
    titles: dict[str, str] = Factory(dict)
    others: Counter[str] = Factory(Counter)
    used: set[str] = Factory(set)

    def look(self) -> Iterator[Refused | LeftOut]:
        """Read every line once; tell those that are damaged, and count those that are no messages."""
        for value in self.document.lines():
            if isinstance(value, Refused):
                yield value
            elif not isinstance(value.value, Mapping) or not isinstance(value.value.get("type"), str):
                yield Refused(value.place, "a line of a session is an object with a type")
            else:
                problem = self._note(value, value.value, value.value["type"])
                if problem:
                    yield Refused(value.place, problem, string(value.value.get("sessionId")))
        yield from (LeftOut(kind, count) for kind, count in self.others.items())

    def _note(self, value: Value, told: Mapping[str, Any], kind: str) -> str | None:
        """Remember a line; say what is wrong with it."""
        if kind in _TITLES and isinstance(title := told.get(_TITLES[kind]), str):
            self.titles[kind] = title
        name, message = told.get("uuid"), told.get("message")
        if kind in _SPEAKERS and not (isinstance(name, str) and isinstance(message, Mapping)):
            return f"a line of type {kind} has a uuid and a message"
        if told.get("isApiErrorMessage") is True:
            kind = _NOTICE
        if kind not in _SPEAKERS:
            self.others[kind if kind == _NOTICE else f"line of type {kind[:40]}"] += 1
        if told.get("toolUseResult") is not None:
            self.others["toolUseResult, which a result has beside its content"] += 1
        if kind in _LINKED and isinstance(name, str):
            self._remember(_entry(value, told, kind, self._one))
        return None

    def _remember(self, entry: _Entry) -> None:
        if entry.name in self.entries:
            self.others["line told a second time"] += 1
            return
        self.entries[entry.name] = entry
        if entry.message is not None:
            self.answers.setdefault(entry.message, []).append(entry)
        if entry.result and entry.parent is not None:
            self.results.setdefault(entry.parent, []).append(entry)

    def _one(self, name: str) -> str:
        """Give the string that is in memory already: the index of a session is as long as the session."""
        known = self.entries.get(name)
        return name if known is None else known.name

    def transcripts(self) -> Reading:
        """Give the main line, then the sidechains."""
        leaves = self._leaves()
        ours = [leaf for leaf in leaves if not leaf.side]
        main = [leaf for leaf in ours if not leaf.aside] or ours
        if main:
            leaf = max(main, key=lambda each: each.line)
            yield self._transcript(leaf, leaf.session or self.document.name or None, self._title)
        roots: dict[str, _Entry] = {}
        for leaf in sorted((leaf for leaf in leaves if leaf.side), key=lambda each: each.line):
            roots[leaf.agent or self._chain(leaf)[0].name] = leaf
        for name, leaf in roots.items():
            yield self._transcript(leaf, f"{leaf.session or self.document.name}/{name}", None)
        left = sum(1 for entry in self.entries.values() if entry.kind in _SPEAKERS and entry.name not in self.used)
        if left:
            yield LeftOut(_BRANCH, left)

    @property
    def _title(self) -> str | None:
        return next((string(self.titles[kind]) for kind in _TITLES if kind in self.titles), None)

    def _leaves(self) -> list[_Entry]:
        """Find the messages that no other message hangs below; every entry is looked at once."""
        parents = {entry.parent for entry in self.entries.values()}
        found, seen = [], set[str]()
        for entry in self.entries.values():
            each: _Entry | None = entry if entry.name not in parents else None
            while each is not None and each.name not in seen:
                seen.add(each.name)
                if each.kind in _SPEAKERS:
                    found.append(each)
                    break
                each = self.entries.get(each.parent or "")
        return found

    def _chain(self, leaf: _Entry) -> list[_Entry]:
        """List a leaf and its parents, the oldest first; a sidechain ends where it left the main line."""
        chain: list[_Entry] = []
        seen: set[str] = set()
        each: _Entry | None = leaf
        while each is not None and each.name not in seen and each.side == leaf.side:
            seen.add(each.name)
            chain.append(each)
            each = self.entries.get(each.parent or "")
        return chain[::-1]

    def _transcript(self, leaf: _Entry, name: str | None, title: str | None) -> Transcript:
        turns = list(self._turns(self._chain(leaf)))
        self.used.update(entry.name for turn in turns for entry in turn)
        return Transcript(name, self._pieces(turns, name), title)

    def _turns(self, chain: Sequence[_Entry]) -> Iterator[Sequence[_Entry]]:
        """Group the lines of each turn: those of one answer, and then the results of its calls that lie beside."""
        on_line = {entry.name for entry in chain}
        told: set[str] = set()
        for entry in chain:
            if entry.kind not in _SPEAKERS:
                continue
            if entry.message is None:
                yield [entry]
            elif entry.message not in told:
                told.add(entry.message)
                blocks = self.answers[entry.message]
                yield blocks
                for each in blocks:
                    yield from ([result] for result in self.results.get(each.name, ()) if result.name not in on_line)

    def _pieces(self, turns: Sequence[Sequence[_Entry]], conversation: str | None) -> Iterator[Piece]:
        for turn in turns:
            place = f"line {turn[0].line}"
            self.document.progress(turn[-1].start + turn[-1].size)
            try:
                yield self._told(turn, place)
            except CodecError as error:
                yield Refused(place, str(error), conversation)

    def _told(self, turn: Sequence[_Entry], place: str) -> Told:
        lines = [_line(self.document.part(entry.start, entry.size)) for entry in turn]
        first, last = lines[0], lines[-1].message
        if any(line.message.get("role") != turn[0].kind for line in lines):
            raise CodecError(f"the role in a line of type {turn[0].kind} is another one")
        told = beside(
            id=last.get("id"),
            uuid=[entry.name for entry in turn] if len(turn) > 1 else turn[0].name,
            parent=first.told("parentUuid"),
            at=first.told("timestamp"),
            request_id=first.told("requestId"),
            directory=first.told("cwd"),
            model=last.get("model"),
            stop_reason=last.get("stop_reason"),
            usage=last.get("usage"),
            agent=turn[0].agent,
        )
        content = first.content if len(lines) == 1 else _joined(lines)
        wire = b'{"role":"%s","content":%s}' % (turn[0].kind.encode(), content)
        summary = first.told("isCompactSummary") is True
        return Told(place, turn[0].kind, wire, told, grows=turn[0].message is not None, restarts=summary)


def _entry(value: Value, told: Mapping[str, Any], kind: str, known: Callable[[str], str]) -> _Entry:
    """Take what is remembered of a line; *known* gives a name that is in memory already."""
    parent = told.get("parentUuid") or told.get("logicalParentUuid")
    message, agent, side = told.get("message"), string(told.get("agentId")), told.get("isSidechain") is True
    id_ = message.get("id") if isinstance(message, Mapping) and kind == "assistant" else None
    content = message.get("content") if isinstance(message, Mapping) else None
    return _Entry(
        line=value.line,
        start=value.start,
        size=value.size,
        name=told["uuid"],
        parent=known(parent) if isinstance(parent, str) and parent != told["uuid"] else None,
        kind=intern(kind),
        message=f"{agent or ''} {side} {id_}" if isinstance(id_, str) and id_ else None,
        agent=None if agent is None else intern(agent),
        side=side,
        aside=told.get("isMeta") is True or bool(told.get("teamName")),
        result=isinstance(content, list) and any(_is_result(block) for block in content),
        session=intern(string(told.get("sessionId")) or "") or None,
    )


def _is_result(block: object) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "tool_result"


@frozen
class _Line:
    """A line read again: its members, its message, and the bytes of the message's content."""

    members: Mapping[str, Member]
    message: Mapping[str, Any]
    content: bytes

    def told(self, name: str) -> Any:
        """Read what the line tells beside the message."""
        found = self.members.get(name)
        return None if found is None else found.value


def _line(data: bytes) -> _Line:
    members = canonical.members(data)
    found = members.get("message")
    if found is None or not isinstance(found.value, Mapping):
        raise CodecError("there is no message")
    message = data[found.start : found.end]
    content = canonical.members(message).get("content")
    if content is None:
        raise CodecError("there is no content")
    check_content(content.value)
    return _Line(members, found.value, message[content.start : content.end])


def _joined(lines: Sequence[_Line]) -> bytes:
    """Make one content of the lines of one answer; each block keeps its bytes."""
    blocks: list[bytes] = []
    for line in lines:
        if isinstance(line.message.get("content"), str):
            blocks.append(canonical.compose({"type": b'"text"', "text": line.content}))
        else:
            blocks += [line.content[item.start : item.end] for item in canonical.items(line.content)]
    return b"[" + b",".join(blocks) + b"]"
