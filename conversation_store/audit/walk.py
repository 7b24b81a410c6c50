"""
One log, walked from its first entry to its last: the chain, every commitment, and what other tables say of it.

The path of a plain turn is short on purpose: a million of them are walked in seconds. Whatever is not plain is
looked at column by column.
"""

from __future__ import annotations

import re
import struct
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import Factory, define, field

from conversation_store.audit.derived import Began, Ended, Exchanges
from conversation_store.audit.faults import Fault, columns, named, part_faults, shown
from conversation_store.audit.replays import Bodies
from conversation_store.errors import CodecError, ContentError
from conversation_store.record import canonical, chain
from conversation_store.record.chain import Entry
from conversation_store.record.turns import fields_of
from conversation_store.storage import ledger, rows

Runs: TypeAlias = list[list[int]]
"""Positions as runs [first, last], both included, ascending."""

RawEntry = namedtuple(  # noqa: PYI024 - its fields are of any type on purpose
    "RawEntry",
    ("conversation", "position", "kind", "at", "header", "digest", "body", "about", "salt", "request_salt"),
)

_PLAIN_TURN: Final = re.compile(
    rb'\{"body":"([0-9a-f]{64})",(?:"gather":true,)?"origin":"(?:human|imported|model|summary|synthetic|system|tool)"'
    rb'(,"request":(?:0|[1-9][0-9]{0,18}))?\}'
)
"""A header that commits to a body and to nothing else; whatever matches says so in just these words."""

_CHAINED: Final = 6
"""Columns of an entry that the chain goes by; those after it are content."""

ANYTHING: Final = object()
"""What a row may tell where the log does not say, or not any more."""


@define
class Peeked:
    """
    Rows in the order of their conversation and position, of which the next one can be looked at.
    """

    _rows: Iterator[rows.Row]
    _next: rows.Row | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._next = next(self._rows, None)

    def of(self, conversation: object) -> Iterator[rows.Row]:
        """Take the rows of one conversation, which come next or are none."""
        while (row := self._next) is not None and row[0] == conversation:
            self._next = next(self._rows, None)
            yield row

    def until(self, conversation: object, position: int) -> Iterator[rows.Row]:
        """Take those of one conversation up to a position."""
        while (row := self._next) is not None and row[0] == conversation and not _is_after(row[1], position):
            self._next = next(self._rows, None)
            yield row


def _is_text(found: object) -> bool:
    return isinstance(found, str) and not any("\ud800" <= each <= "\udfff" for each in found)


def _is_before(found: object, position: int) -> bool:
    return type(found) is int and found < position


def _is_after(found: object, position: int) -> bool:
    return not isinstance(found, (int, float)) or found > position


@define
class Found:
    """
    What a walk found, beside faults.

    Attributes:
        length: Entries; the position after the last one.
        digest: The last one's.
        told: What the row must tell, by column; ``ANYTHING`` where that is not known.
        parent: What the conversation was forked from: its id, how many entries of it there were, the last one's digest.
        key: The key it was opened with.
    """

    length: int
    digest: bytes
    told: dict[str, object] = Factory(dict)
    parent: tuple[UUID, int, bytes] | None = None
    key: object = ANYTHING


@define(kw_only=True)
class Walk:
    """
    A walk over one log.

    Attributes:
        conversation: Whose.
        id: The same, as it lies.
        scope: The tenant, likewise.
        fault: Takes each fault, in whatever order they are found.
        uses: The uses of blobs; ``exchanges`` the ledger's rows.
        blob_fault: Says what is there in the place of the blob used, by scope and digest; None where it is as it was.
        bodies: Makes the bodies of requests again; None where they are not looked at.
        settings_at: Reads a body of settings.
        held: Gives the positions from one to another at which ``content`` or ``request`` is still there.
        first: The first position that is looked at.
    """

    conversation: UUID
    id: bytes
    scope: bytes
    fault: Callable[[Fault], None]
    uses: Peeked
    exchanges: Peeked
    blob_fault: Callable[[bytes, bytes], str | None]
    bodies: Bodies | None
    settings_at: Callable[[int], bytes | None]
    held: Callable[[str, int, int], Sequence[int]]
    first: int = 0
    faults: int = field(default=0, init=False)
    _derived: Exchanges = field(init=False)
    _rows: dict[int, tuple[dict[str, Any], bool]] = field(factory=dict, init=False)
    _gone: Runs = field(factory=list, init=False)
    _unsalted: Runs = field(factory=list, init=False)
    _erased: dict[str, Runs] = field(factory=lambda: {"content": [], "request": []}, init=False)

    def __attrs_post_init__(self) -> None:
        self._derived = Exchanges(self.conversation, self.settings_at)

    def _say(self, code: str, position: int, expected: object, found: object) -> None:
        self.faults += 1
        said = [each if isinstance(each, str) else shown(each) for each in (expected, found)]
        self.fault(Fault(code, self.conversation, position, *said))

    # --- the chain -------------------------------------------------------------------------------------------------

    def links(self, found: Iterable[rows.Row], digest: bytes) -> Found:
        """Walk along the chain alone."""
        end = Found(self.first, digest)
        for _ in self._chained(found, end):
            pass
        return end

    def _chained(self, found: Iterable[rows.Row], end: Found) -> Iterator[rows.Row]:
        """Give each entry whose place in the chain is its own, and say which are not."""
        after = chain.Links(self.id).after
        digest, position, trusted = end.digest, end.length, True
        for row in found:
            _, at_position, kind, at, header, stored = row[:_CHAINED]
            if at_position != position or type(at_position) is not int:
                if not self._is_ahead(row, position):
                    continue
                position, trusted = at_position, False
            expected: bytes | None
            try:
                expected = after(digest, position, at, kind, header)
            except (KeyError, TypeError, struct.error):
                expected = None
            if expected is None or expected != stored or not trusted:
                whole = type(stored) is bytes and len(stored) == chain.DIGEST
                faults = [] if whole and expected is not None else list(_chained_columns(row))
                for each in faults:
                    self._say(each[0], position, *each[1:])
                if trusted and not faults:
                    self._say("digest", position, expected, stored)
                # Go on from what is stored, so that one change is one fault and not one for every entry after it.
                digest, trusted = (stored if whole else digest), not faults
                position += 1
                if faults:
                    continue
            else:
                digest = expected
                position += 1
            end.digest, end.length = digest, position
            yield row
        end.digest, end.length = digest, position

    def _is_ahead(self, row: rows.Row, position: int) -> bool:
        """Say that an entry is not where it should be; whether those before it are gone."""
        found = row[1]
        if type(found) is not int:
            self._say("column", position, "position of type int", found)
            return False
        self._say("position", position, str(position), str(found))
        return found > position

    # --- everything ------------------------------------------------------------------------------------------------

    def entries(self, found: Iterable[rows.Row], digest: bytes) -> Found:
        """Walk along the entries, and look at all they commit to and all that is derived from them."""
        end = Found(self.first, digest)
        if not self.first:
            end.told = {"view_position": 0, "settings_position": 0, "title": None, "metadata": None}
        at: object = ANYTHING
        begun = self.bodies
        for row in self._chained(found, end):
            _, position, kind, at, header, _, body, about, salt, request_salt = row
            plain = _PLAIN_TURN.fullmatch(header) if kind == "turn" else None
            if (
                plain is not None
                and type(body) is bytes
                and type(salt) is bytes
                and about is None
                and request_salt is None
                and chain.part_of(salt, body).hex().encode() == plain[1]
            ):
                if begun is not None:
                    begun.turn(position, header, body)
                if plain[2] is None and self._derived.open is None:
                    continue
                self._tell(row, {} if plain[2] is None else {"request": int(plain[2][11:])}, end)
            else:
                self._look(row, end)
        self._guarded("exchange", end.length - 1, lambda: self._derive(self._derived.settle()))
        self._close(end, at)
        return end

    def _look(self, row: rows.Row, end: Found) -> None:
        """Look at an entry that is no plain turn, or not any more."""
        entry = RawEntry(*row)
        faults = list(columns(entry))
        for each in faults:
            self._say(each[0], entry.position, *each[1:])
        if faults:
            return
        try:
            fields = fields_of(entry.header)
        except CodecError as error:
            self._say("header", entry.position, "a header", str(error))
            return
        erased = self._erasures(entry, fields)
        for fault in part_faults(self.conversation, entry, fields, erased=erased):
            self.faults += 1
            self.fault(fault)
        self._blobs(entry, fields, erased)
        if entry.kind == "turn" and entry.body is not None and self.bodies is not None:
            self.bodies.turn(entry.position, entry.header, entry.body)
        self._tell(row, fields, end)

    def _erasures(self, entry: Any, fields: Mapping[str, Any]) -> frozenset[str]:
        """Note what of an entry is gone, to be held against the entries that erased it."""
        gone = set()
        committed = "body" in fields or "about" in fields
        if committed and entry.body is None and entry.about is None and entry.salt is None:
            _add(self._gone, entry.position)
            gone.add("content")
        if entry.kind == "request" and "request" in fields and entry.request_salt is None:
            _add(self._unsalted, entry.position)
            gone.add("request")
        if entry.kind == "erased":
            self._note_erased(entry, fields.get("erased"))
        return frozenset(gone)

    def _note_erased(self, entry: Any, said: object) -> None:
        if not isinstance(said, Mapping) or not set(said) <= {"content", "request"}:
            self._say("header", entry.position, "what was erased", said)
            return
        for name, runs in said.items():
            if not _are_runs(runs, entry.position):
                self._say("header", entry.position, f"{name} as runs of positions before it", runs)
                continue
            self._erased[name] += runs

    def _blobs(self, entry: Any, fields: Mapping[str, Any], erased: frozenset[str]) -> None:
        committed = named(fields)
        used = list(self.uses.until(self.id, entry.position))
        for _, position, number, *_ in used:
            if position != entry.position or type(position) is not int:
                where = position if type(position) is int else entry.position
                self._say("blob", where, "no use of a blob", f"use {number!r} at {position!r}"[:80])
        used = [use for use in used if use[1] == entry.position and type(use[1]) is int]
        if not committed and not used:
            return
        if "content" in erased:
            if used:
                self._say("erased", entry.position, "no use of a blob", f"{len(used)} uses")
            return
        if len(used) != len(committed):
            self._say("blob", entry.position, f"{len(committed)} blobs", f"{len(used)} blobs")
            return
        for n, (expected, use) in enumerate(zip(committed, used, strict=True)):
            _, _, number, scope, digest, salt, media_type, _ = use
            if not (
                type(number) is int
                and (number, scope) == (n, self.scope)
                and type(digest) is bytes
                and type(salt) is bytes
                and _is_text(media_type)
            ):
                self._say("blob", entry.position, expected, "no blob")
                continue
            found, fault = chain.part(salt, media_type, digest).hex(), self.blob_fault(scope, digest)
            if found != expected:
                self._say("blob", entry.position, expected, found)
            elif fault is not None:
                self._say("blob", entry.position, digest.hex(), fault)

    # --- what is derived from it -----------------------------------------------------------------------------------

    def _tell(self, row: rows.Row, fields: Mapping[str, Any], end: Found) -> None:
        """Go on with an entry whose content is what it commits to, or is erased."""
        entry = _entry(row)
        kind, position = entry.kind, entry.position
        bodies = self.bodies
        if kind in {"view", "settings"} and "once" not in fields:
            end.told[f"{kind}_position"] = position
        if kind == "labelled":
            end.told |= _labels(entry.body)
        elif kind == "opened" and position == 0:
            self._opened(entry, fields, end)
        elif kind == "settings" and bodies is not None and entry.body is not None:
            bodies.settings(position, entry.body)
        elif kind == "view" and bodies is not None:
            self._guarded("header", position, lambda: bodies.view(position, fields))
        elif kind == "request" and bodies is not None and entry.request_salt is not None:
            self._replay(bodies, entry, fields)
        elif kind == "outcome":
            end.told["pending_position"] = -1
            if _is_before(fields.get("request"), self.first):
                return  # of an exchange that was begun before what is walked
        self._guarded("exchange", position, lambda: self._derive(self._derived.take(entry, fields)))

    def _opened(self, entry: Entry, fields: Mapping[str, Any], end: Found) -> None:
        end.told["created"] = entry.at
        try:
            # Where it was erased, the key went with it.
            key = canonical.object_of(entry.about).get("key") if entry.about is not None else None
            end.key = None if key is None else str(key).encode()
            parent = fields.get("parent")
            end.told["forked_from"] = None
            if parent is not None:
                end.parent = (UUID(hex=parent["conversation"]), int(parent["length"]), bytes.fromhex(parent["digest"]))
                end.told["forked_from"] = end.parent[0].bytes
        except (CodecError, LookupError, TypeError, ValueError, AttributeError) as error:
            self._say("header", entry.position, "how it was opened", str(error))

    def _guarded(self, code: str, position: int, work: Callable[[], None]) -> None:
        """Do what may stumble over what a hostile hand wrote."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever becomes of hostile rows, it is a fault and no exception
            if not self.faults:
                self._say(code, position, "what can be read", f"{type(error).__name__}: {error}")

    def _replay(self, bodies: Bodies, entry: Entry, fields: Mapping[str, Any]) -> None:
        if self.faults:
            return  # what a body is made of is not what it was, and said so already

        def replay() -> None:
            request = bodies.request(entry, fields)
            salt = entry.request_salt or b""
            found = chain.part(salt, chain.JSON_TYPE, request.digest).hex()
            if found != fields.get("request"):
                self._say("request", entry.position, fields.get("request"), found)
            elif request.length != fields.get("length"):
                self._say("request", entry.position, f"{fields.get('length')} bytes", f"{request.length} bytes")

        self._guarded("request", entry.position, replay)

    def _derive(self, told: Iterable[Began | Ended]) -> None:
        """Hold the rows of exchanges that are decided against those that are there."""
        for each in told:
            position = each.exchange.position
            if isinstance(each, Began):
                self._rows[position] = (ledger.begun(each.exchange), each.whole)
                continue
            row, whole = self._rows.pop(position, ({}, False))
            self._compare(position, row | ledger.ended(each.exchange, each.outcome), whole=whole and each.whole)

    def _compare(self, position: int, expected: Mapping[str, Any], *, whole: bool) -> None:
        """Hold an exchange against its row; where something was erased, only what is left can be."""
        found: rows.Row | None = None
        for row in self.exchanges.until(self.id, position):
            if row[1] == position and type(row[1]) is int and found is None:
                found = row
            else:
                where = row[1] if type(row[1]) is int else position
                self._say("exchange", where, "no row", f"a row at {row[1]!r}"[:80])
        if found is None:
            self._say("exchange", position, "a row", "none")
            return
        for name, value in zip(rows.EXCHANGES.names, found, strict=True):
            wanted = expected.get(name)
            if (whole or name in _LASTING) and (value != wanted or type(value) is not type(wanted)):
                if _is_older(name, expected, found):
                    continue
                self._say("exchange", position, f"{name} {shown(wanted)}", shown(value))

    # --- at its end ------------------------------------------------------------------------------------------------

    def _close(self, end: Found, at: object) -> None:
        pending = self._derived.open
        for position, (row, whole) in self._rows.items():
            self._compare(position, row, whole=whole)
        for left in self.exchanges.of(self.id):
            where = left[1] if type(left[1]) is int else end.length - 1
            self._say("exchange", where, "no row", f"a row at {left[1]!r}"[:80])
        for left in self.uses.of(self.id):
            where = left[1] if type(left[1]) is int else end.length - 1
            self._say("blob", where, "no use of a blob", f"use {left[2]!r} at {left[1]!r}"[:80])
        self._hold_erasures()
        if end.length > self.first:
            end.told["updated"] = at
        if not self.first or pending is not None:
            end.told["pending_position"] = -1 if pending is None else pending.position

    def _hold_erasures(self) -> None:
        for code, name, gone in (("content", "content", self._gone), ("request", "a request_salt", self._unsalted)):
            erased = _merged(self._erased[code])
            for first, last in _left_over(gone, erased):
                for position in range(first, last + 1):
                    self._say("missing", position, name, "none, and no entry erased it")
            for first, last in _left_over(erased, gone):
                for position in self.held(code, first, last):
                    self._say("erased", position, f"no {name.removeprefix('a ')}: it was erased", "some")


_LASTING: Final = frozenset(
    {"conversation", "position", "state", "begun", "ended", "body_length", "sent_by", "streamed", "retry_of", "outcome"}
    | {"turn"}
)
"""What the row of an exchange tells that no erasure takes."""

_PRICED: Final = frozenset(
    {"cost", "unpriced", "price", "work_input", "work_write_5m", "work_write_1h", "work_read", "work_output"}
    | {"web_searches", "web_fetches", "code_executions"}
)


def _is_older(name: str, expected: Mapping[str, Any], found: rows.Row) -> bool:
    """Say whether a row has no cost because it was written before there were any (schema 0001), and none was known."""
    row = dict(zip(rows.EXCHANGES.names, found, strict=True))
    return name in _PRICED and not expected.get("cost") and all(row[each] is None for each in _PRICED)


def _chained_columns(row: rows.Row) -> Iterator[tuple[str, str, str]]:
    """Say which columns that the chain goes by are wrong."""
    return columns(RawEntry._make((*row[:_CHAINED], None, None, None, None)))


def _entry(row: rows.Row) -> Entry:
    _, position, kind, at, header, digest, body, about, salt, request_salt = row
    return Entry(
        position=position,
        kind=kind,
        at=at,
        header=header,
        body=body,
        about=about,
        salt=salt,
        request_salt=request_salt,
        digest=digest,
    )


def _labels(body: bytes | None) -> dict[str, object]:
    """Say what the row must tell after a ``labelled`` entry; where it was erased, the row lost both with it."""
    if body is None:
        return {"title": None, "metadata": None}
    try:
        said = canonical.object_of(body)
        title, metadata = said.get("title"), said.get("metadata")
        return {
            "title": title.encode() if isinstance(title, str) else None,
            "metadata": None if metadata is None else canonical.dumps(metadata),
        }
    except (CodecError, ContentError):
        return {}


# --- runs of positions -----------------------------------------------------------------------------------------------


def _add(runs: Runs, position: int) -> None:
    if runs and runs[-1][1] == position - 1:
        runs[-1][1] = position
    else:
        runs.append([position, position])


def _are_runs(value: object, before: int) -> bool:
    if not isinstance(value, list):
        return False
    end = -2
    for each in value:
        if not (isinstance(each, list) and len(each) == 2 and all(type(n) is int for n in each)):  # noqa: PLR2004
            return False
        first, last = each
        if not end + 1 < first <= last < before:
            return False
        end = last
    return True


def _merged(runs: Runs) -> Runs:
    merged: Runs = []
    for first, last in sorted(runs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return merged


def _left_over(runs: Runs, without: Runs) -> Iterator[tuple[int, int]]:
    """Give what of some runs is in no other ones; both ascending."""
    n = 0
    for first, last in runs:
        at = first
        while at <= last:
            while n < len(without) and without[n][1] < at:
                n += 1
            if n < len(without) and without[n][0] <= at:
                at = without[n][1] + 1
                continue
            end = min(last, without[n][0] - 1) if n < len(without) else last
            yield at, end
            at = end + 1
