"""
The bodies of all requests of a log, made again one after the other as its entries are read.

What one body has in common with the one before is neither read nor digested again, so that all bodies of a
conversation cost about what the longest of them costs. A view that goes back goes back here too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import evolve
from sqlalchemy import Connection

from conversation_store import history
from conversation_store.api import request as requests
from conversation_store.api.request import Insert, Messages, Request
from conversation_store.errors import CodecError
from conversation_store.record import view
from conversation_store.record.chain import Entry
from conversation_store.record.turns import PREFILL_MARK, splices_of, without_thinking
from conversation_store.record.view import Span, View
from conversation_store.storage import blobs, log, rows

Wire: TypeAlias = tuple[int, bytes, bytes]
"""Position, header and body of a turn."""

_AT_HAND: Final = 8 * 1024 * 1024
"""Bytes of turns that are kept from the reading of the log; those of more are read again when they are asked for."""


class Bodies:
    """
    The bodies of one conversation's requests, in the order of its log.

    ``turn``, ``settings`` and ``view`` are told as the log is read; ``request`` then makes a body.
    """

    def __init__(self, connection: Connection, conversation: UUID) -> None:
        self._connection = connection
        self._conversation = conversation
        self._settings: tuple[int, bytes] | None = None
        self._shown: tuple[int, View] | None = None
        self._messages = Messages()
        self._spans: View = ()
        self._starts: list[int] = []
        """Of each span that was begun: how many turns were before it."""
        self._next = 0
        """The first position of the span begun last that was not read."""
        self._at_hand: list[Wire] = []
        self._since = 0
        """From which position on the turns of the log are at hand."""
        self._size = 0

    @property
    def logs(self) -> Sequence[UUID]:
        """The logs that the newest body is made of."""
        return [span.conversation for span in self._spans]

    def begin(self, position: int) -> None:
        """Say that entries are told from a position on."""
        self._since = position

    def turn(self, position: int, header: bytes, body: bytes) -> None:
        """Tell the next turn of the log."""
        self._size += len(body)
        if self._size > _AT_HAND:
            self._at_hand, self._since, self._size = [], position, len(body)
        self._at_hand.append((position, header, body))

    def settings(self, position: int, body: bytes) -> None:
        """Tell the next settings of the log."""
        self._settings = (position, body)

    def view(self, position: int, fields: Mapping[str, Any]) -> None:
        """Tell the next view of the log."""
        if "base" not in fields:
            self._shown = (position, view.read(fields, ()))
        elif self._shown is not None and self._shown[0] == fields["base"]:
            self._shown = (position, view.read(fields, self._shown[1]))

    def request(self, entry: Entry, fields: Mapping[str, Any]) -> Request:
        """
        Make the body of the request that an entry of the log tells.

        Raises:
            CodecError: What it needs is not there.
            Exception: Of any kind, where what it needs is not what it was.
        """
        if fields["builder"] not in requests.BUILDERS:
            raise CodecError(f"body builder {fields['builder']} is newer than this release")
        self._show(fields["view"])
        self._grow(fields["last"])
        extra = []
        if "prefill" in fields:
            header, body = self._prefill(fields["prefill"])
            extra.append(requests.part_of(header, body))
        settings = requests.merged(
            self._settings_at(fields["settings"]), entry.body or b"{}", stream=bool(fields.get("stream"))
        )
        return self._messages.request(
            extra,
            settings,
            version=fields["version"],
            betas=tuple(fields.get("betas", ())),
            secrets={},
            markers=requests.markers_of(fields),
        )

    def _settings_at(self, position: int) -> bytes:
        if self._settings is None or self._settings[0] != position:
            body = history.settings_at(self._connection, self._conversation, position).body
            self._settings = (position, body)
        return self._settings[1]

    def _prefill(self, position: int) -> tuple[bytes, bytes]:
        for found, header, body in reversed(self._at_hand):
            if found == position:
                return header, body
        entry = history.entry_at(self._connection, self._conversation, position)
        if entry is None or entry.body is None:
            raise CodecError(f"entry {position} is no prefill")
        return entry.header, entry.body

    # --- going back ------------------------------------------------------------------------------------------------

    def _show(self, position: int) -> None:
        """Go over to the view at a position: keep the turns that both begin with."""
        if self._shown is None or self._shown[0] != position:
            self._shown = (position, history.view_at(self._connection, self._conversation, position)[0])
        spans = self._shown[1]
        if spans is self._spans:
            return
        n, keep, goes_on = self._shared(spans)
        self._spans = spans
        if keep < len(self._messages):
            self._cut(keep)
        elif not goes_on:
            del self._starts[n:]
            self._next = log.LAST + 1  # of the span before there is nothing left to read
        elif n < len(self._starts) - 1:
            self._next = self._behind(n)
            del self._starts[n + 1 :]

    def _shared(self, spans: View) -> tuple[int, int, bool]:
        """Say in which span a view parts from what was read, how many turns they share, whether it goes on in it."""
        last = len(self._starts) - 1
        for n in range(last + 1):
            old, new = self._spans[n], spans[n] if n < len(spans) else None
            if n < last and new == old:
                continue
            if new is None or evolve(new, last=old.last) != old:
                return n, self._starts[n], False
            return n, self._held(n, new), True
        return 0, 0, False

    def _held(self, n: int, span: Span) -> int:
        """Count the turns up to the end of a span, of which those of its beginning were read as span *n*."""
        end = self._starts[n + 1] if n + 1 < len(self._starts) else len(self._messages)
        if span.last is None:
            return end
        return bisect_right(self._messages.places, span.last, self._starts[n], end, key=itemgetter(1))

    def _behind(self, n: int) -> int:
        """Say which position of span *n* comes after the last turn that was read of it."""
        end = self._starts[n + 1] if n + 1 < len(self._starts) else len(self._messages)
        return self._messages.places[end - 1][1] + 1 if end > self._starts[n] else self._spans[n].first

    def _cut(self, keep: int) -> None:
        """Go back to the first *keep* turns, or to fewer, so that the last of them is whole."""
        messages = self._messages
        while keep and messages.roles[keep - 1] != "assistant":
            keep -= 1
        if not keep or not messages.cut(keep):
            self._messages, self._starts, self._next = Messages(), [], 0
            return
        n = bisect_right(self._starts, keep - 1) - 1
        del self._starts[n + 1 :]
        self._next = messages.places[keep - 1][1] + 1

    # --- going on --------------------------------------------------------------------------------------------------

    def _grow(self, last: int) -> None:
        """Read the turns of the view up to a position of this log."""
        for n in range(max(len(self._starts) - 1, 0), len(self._spans)):
            span = self._spans[n]
            if n == len(self._starts):
                self._starts.append(len(self._messages))
                self._next = span.first
            end = span.upto(last + 1)
            if self._next <= end:
                self._add(span, self._read(span.conversation, self._next, end), end)
                self._next = end + 1
        self._forget(last)

    def _forget(self, last: int) -> None:
        """Let go of the turns at hand that were read."""
        self._at_hand = [wire for wire in self._at_hand if wire[0] > last]
        self._since = max(self._since, last + 1)
        self._size = sum(len(body) for _, _, body in self._at_hand)

    def _read(self, of: UUID, first: int, last: int) -> list[Wire]:
        if of == self._conversation and self._since <= first:
            found: Sequence[Wire] = [wire for wire in self._at_hand if first <= wire[0] <= last]
        else:
            found = [row for page in log.read_wires(self._connection, of, first, last) for row in page]
        return [(position, header, body) for position, header, body in found if PREFILL_MARK not in header]

    def _add(self, span: Span, wires: Sequence[Wire], last: int) -> None:
        if not span.thinking:
            wires = [
                (position, shorter, body)
                for position, header, body in wires
                if (shorter := without_thinking(header, body)) is not None
            ]
        spliced = [n for n, wire in enumerate(wires) if b'"splices"' in wire[1]]
        used = blobs.used(self._connection, span.conversation, wires[spliced[0]][0], last) if spliced else {}
        at = 0
        for n in spliced:
            self._messages.extend(span.conversation, wires[at:n])
            position, header, body = wires[n]
            self._messages.add((span.conversation, position), header, body, self._inserts(header, used[position]))
            at = n + 1
        self._messages.extend(span.conversation, wires[at:])

    def _inserts(self, header: bytes, used: Sequence[blobs.Blob]) -> list[Insert]:
        return [
            Insert(partial(rows.chunks_of, self._connection, blob.scope, blob.kept_as), blob.size, splice.encoding)
            for splice, blob in zip(splices_of(header), used, strict=True)
        ]
