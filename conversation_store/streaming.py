"""
Streamed answers: events as they arrive, durable within a moment, and a reply at the end.

What the caller is shown goes through the journal: it is in the database within ``JOURNAL_SECONDS`` or
``JOURNAL_BYTES``, without a thread. ``message_stop``, and nothing else, makes an answer whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from attrs import define, evolve, field

from conversation_store.api.client import Client, Streamed
from conversation_store.api.retry import INTERRUPTED
from conversation_store.api.stream import Accumulator, Decoder, Event, TextDelta, decode_all
from conversation_store.errors import APIError, CodecError, InterruptedAnswerError, LeaseLostError
from conversation_store.history import History
from conversation_store.outcomes import is_message
from conversation_store.pending import Pending
from conversation_store.record.reply import Reply
from conversation_store.sending import MOST_PAUSES, Sending
from conversation_store.storage import identity, journal

JournalMode: TypeAlias = Literal["timely", "each"]

JOURNAL_SECONDS: Final = 0.25
"""How old a shown byte may get before it is durable."""

JOURNAL_BYTES: Final = 8 * 1024
"""How many shown bytes may be without being durable."""

_MICROSECONDS: Final = 1_000_000


def whole_characters(text: str) -> tuple[str, str]:
    """
    Join the halves of characters that two pieces of a text have.

    Returns:
        What can be shown; and half of a character that ends the piece, to be put before the next one.
    """
    held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
    whole = text.removesuffix(held)
    return whole.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"), held


class Stream:
    """
    An answer while it arrives: iterate it for events, or ``text`` for the words alone; ``reply`` at the end.

    A context manager. Leaving it before the end records the exchange as interrupted, with what had arrived; as
    answered where all of it had, read or not.
    """

    def __init__(
        self, sending: Sending, client: Client, first: Callable[[], Pending], *, mode: JournalMode = "timely"
    ) -> None:
        self._sending = sending
        self._client = client
        self._first = first
        self._mode = mode
        self._rounds = iter(range(MOST_PAUSES))
        self._round: _Round | None = None
        self._events: Iterator[Event] | None = None
        self._replies: list[Reply] = []
        self._recorded: list[str] = []

    def __enter__(self) -> Self:
        """
        Write the beginning of the exchange, and send the request.

        Raises:
            As ``Conversation.send``.
        """
        self._open(self._first())
        if self._round is not None:
            self._events = self._read()
        return self

    def _open(self, pending: Pending | None) -> None:
        """Send a request; none where the answer is known already."""
        self._round = None
        while pending is not None and (known := pending.reply) is not None:
            self._replies.append(known)
            self._recorded.append(known.text)
            pending = self._following(known)
        if pending is None:
            return
        try:
            request = pending.request
            streamed = self._client.stream(
                request if request.streams else request.body,
                version=request.version,
                betas=request.betas,
                path=request.endpoint,
                on_unknown=self._sending.on_unknown,
            )
        except Exception as error:
            pending.fail(error)
            raise
        except BaseException as error:
            pending.fail(APIError(f"stopped by {type(error).__name__}"))
            raise
        lease = int(self._sending.terms.lease * _MICROSECONDS)
        journal_of = _Journal(self._sending.history, pending, lease, each=self._mode == "each")
        self._round = _Round(pending, streamed, journal_of)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events = None
        if self._round is not None and not self._round.ended:
            with suppress(InterruptedAnswerError):
                why = "the caller left" if error is None else f"stopped by {type(error).__name__}"
                self._replies.append(self._round.end(why))
                self._round = None

    def __iter__(self) -> Iterator[Event]:
        """
        Give the events as they arrive.

        An answer recorded earlier under the same idempotency key has none; its words are in ``text``.

        Raises:
            InterruptedAnswerError: The answer broke off; what arrived is recorded.
            LeaseLostError: Another worker took the exchange over.
            NotSavedError: The answer is whole and could not be saved.
        """
        return iter(()) if self._events is None else self._events

    @property
    def text(self) -> Iterator[str]:
        """The words as they arrive, in pieces. Raises as iterating does."""
        if self._events is None:
            yield from (reply.text for reply in self._replies)
            return
        yield from self._recorded_words()
        held = ""
        for event in self:
            if isinstance(event, TextDelta) and event.text:
                text, held = whole_characters(held + event.text)
                if text:
                    yield text
        yield from self._recorded_words()

    def _recorded_words(self) -> Iterator[str]:
        """Give the words that no event brings."""
        while self._recorded:
            yield self._recorded.pop(0)

    @property
    def text_so_far(self) -> str:
        """The words that have arrived."""
        earlier = "".join(reply.text for reply in self._replies)
        return earlier if self._round is None else earlier + self._round.message.text

    @property
    def reply(self) -> Reply:
        """
        The reply, as ``send`` returns it; reads the rest of the answer first.

        Raises:
            As iterating.
        """
        for _ in self:
            pass
        if self._round is not None or not self._replies:
            raise InterruptedAnswerError("the answer broke off")
        *before, last = self._replies
        return evolve(last, before=tuple(before)) if before else last

    def _read(self) -> Iterator[Event]:
        while self._round is not None:
            try:
                yield from self._round.events()
            except LeaseLostError:
                self._round.ended = True
                self._round.streamed.close()
                raise
            reply = self._round.end(None)
            if not self._round.message.whole:
                self._recorded.append(reply.text)
            self._round = None
            self._replies.append(reply)
            self._open(self._following(reply))

    def _following(self, reply: Reply) -> Pending | None:
        """Begin the exchange that goes on with a paused answer; None for a whole one, and after ``MOST_PAUSES``."""
        if reply.stop_reason != "pause_turn" or next(self._rounds, None) is None:
            return None
        return self._sending.continued(reply)


@define(eq=False)
class _Round:
    """One exchange of a streamed answer: a pause makes another one."""

    pending: Pending
    streamed: Streamed
    journal: _Journal
    message: Accumulator = field(factory=Accumulator)
    ended: bool = False
    _decoder: Decoder = field(factory=Decoder)
    _arrived: list[bytes] = field(factory=list)
    _reason: str | None = None

    def events(self) -> Iterator[Event]:
        """Give events as they arrive, until the answer is whole or broken."""
        try:
            for piece in self.streamed.pieces(idle=JOURNAL_SECONDS, on_idle=self.journal.flush):
                self._arrived.append(piece)
                yield from self._shown(self._decoder.feed(piece), piece)
                if self.message.whole or self.message.error is not None:
                    return
            yield from self._shown(self._decoder.close(), b"")
        except CodecError as error:
            self._reason = str(error)

    def _shown(self, events: Sequence[Event], piece: bytes) -> Iterator[Event]:
        """Give events to the caller, once what they came in is as durable as was promised."""
        self.journal.add(piece)
        for event in events:
            self.message.add(event)
            self.journal.before_showing()
            yield event
            self.journal.after_showing()
            if self.message.whole or self.message.error is not None:
                return  # what comes after is no part of the answer

    def end(self, reason: str | None) -> Reply:
        """
        Record how it ended.

        Raises:
            InterruptedAnswerError: It did not end whole, and *reason* is None; else the caller knows why.
        """
        self.streamed.close()
        arrived = b"".join(self._arrived)
        attempts = self.streamed.attempts
        save: Callable[[], Reply] | None = None
        if not self.message.whole:
            # Who left may have left what had arrived unread: were it all there, it would be paid for twice.
            self.message = decode_all(arrived)[1]
        if is_message(arrived):
            # Some gateways do not stream; nothing is missing.
            save = partial(self.pending.finish, arrived, attempts=attempts)
        elif self.message.whole:
            message, incomplete = self.message.message(), frozenset(self.message.incomplete)
            save = partial(self.pending.finish_stream, message, arrived, incomplete=incomplete, attempts=attempts)
        if save is not None:
            self.ended = True
            try:
                return save()
            except Exception:
                raise
            except BaseException:
                save()  # it has arrived and was paid for: it is saved before Ctrl-C goes on
                raise
        said = self.message.error
        if said is not None:
            why = f"the API broke it off with {said.kind}: {said.message}"
        else:
            why = reason or self._reason or self.streamed.broken or "no message_stop came"
        attempts = (*attempts[:-1], evolve(attempts[-1], fault=INTERRUPTED))
        error = InterruptedAnswerError(
            f"the answer broke off after {len(arrived)} bytes: {why}",
            self.streamed.request_id,
            error_code=None if said is None else said.error_code,
            attempts=attempts,
            partial=arrived,
        )
        self.ended = True
        self.pending.fail(error)
        raise error


class _Journal:
    """What was shown and is not durable yet, and the moment it must be."""

    def __init__(self, known: History, pending: Pending, lease: int, *, each: bool) -> None:
        self._history = known
        self._pending = pending
        self._lease = lease
        self._each = each
        self._number = 0
        self._held: list[bytes] = []
        self._size = 0
        self._since = 0.0
        self._shown = 0.0
        self._pause = 0.0

    def add(self, piece: bytes) -> None:
        if not piece:
            return
        if not self._held:
            self._since = time.monotonic()
        self._held.append(piece)
        self._size += len(piece)

    def before_showing(self) -> None:
        # A caller who takes long with an event must not keep the ones shown from becoming durable in time.
        due = time.monotonic() + self._pause - self._since >= JOURNAL_SECONDS
        if self._held and (self._each or due or self._size >= JOURNAL_BYTES):
            self.flush()
        self._shown = time.monotonic()

    def after_showing(self) -> None:
        self._pause = time.monotonic() - self._shown

    def flush(self) -> None:
        if not self._held:
            return
        known = self._history
        known.database.write(
            partial(
                journal.write,
                of=known.id,
                exchange=self._pending.exchange.position,
                number=self._number,
                data=b"".join(self._held),
                at=identity.now(),
                token=self._pending.token,
                lease=self._lease,
            )
        )
        self._number += 1
        self._held, self._size = [], 0
