"""
Sending: a request from its beginning to its whole answer, across waits, retries by key and pauses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, TypeVar

from attrs import evolve, frozen

from conversation_store import history, outcomes, pending, preflight
from conversation_store.api.client import Client
from conversation_store.errors import (
    APIError,
    BusyError,
    ConflictError,
    ContentError,
    InterruptedAnswerError,
    UnknownOutcomeError,
)
from conversation_store.history import History
from conversation_store.pending import Pending, Terms
from conversation_store.preflight import Said
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.reply import Reply
from conversation_store.storage import ledger
from conversation_store.storage.tables import IDEMPOTENCY_KEY_BYTES

MOST_PAUSES: Final = 10
"""How often a paused answer is gone on with before the caller is asked."""

_LONGEST_WAIT: Final = 10_000_000
_SHORTEST_POLL: Final = 0.02
_LONGEST_POLL: Final = 1.0

T = TypeVar("T")


@frozen(kw_only=True)
class Sending:
    """
    One request on its way: what is said, and on which terms.

    Attributes:
        history: The conversation.
        said: What is asked for; None where an exchange of before is tried again, which tells it.
        terms: How its exchanges are begun.
        on_unknown: What to do where it is not known whether a request ran.
        wait: Seconds to wait for an exchange of another worker, in all.
        key: The caller's idempotency key.

    Raises:
        ContentError: One of these is out of its range; nothing was written.
    """

    history: History
    said: Said | None
    terms: Terms
    on_unknown: Literal["raise", "resend"] = "raise"
    wait: float = 0
    key: str | None = None

    def __attrs_post_init__(self) -> None:
        _check_key(self.key)
        _check_seconds("wait", self.wait)
        _check_seconds("lease", self.terms.lease)
        if self.terms.on_rejected not in {"set_aside", "keep"}:
            raise ContentError("on_rejected", "is one of set_aside, keep")
        if self.on_unknown not in {"raise", "resend"}:
            raise ContentError("on_unknown", "is one of raise, resend")

    def begin(self) -> Pending:
        """
        Begin the exchange, or find what its key stands for; wait for another worker's where asked to.

        Raises:
            As ``Conversation.begin``.
        """
        return self._patiently(self._begun)

    def reply(self, begun: Pending, client: Client) -> Reply:
        """
        Send what was begun, and go on with paused answers, each time an exchange of its own.

        Raises:
            As ``Conversation.send``.
        """
        return self.whole(self.answer(begun, client), client)

    def whole(self, reply: Reply, client: Client) -> Reply:
        """Go on with a paused answer until it is not, up to ``MOST_PAUSES`` times."""
        before: list[Reply] = []
        while reply.stop_reason == "pause_turn" and len(before) < MOST_PAUSES:
            following = self.continued(reply)
            if following is None:
                break
            before.append(reply)
            reply = self.answer(following, client)
        return evolve(reply, before=tuple(before)) if before else reply

    def continued(self, paused: Reply) -> Pending | None:
        """Begin the exchange that goes on with a paused answer, or find it; None where more was said since."""
        return self._patiently(lambda: self._continued(paused))

    def answer(self, begun: Pending, client: Client) -> Reply:
        """Send one request and record what becomes of it."""
        if begun.reply is not None:
            return begun.reply
        arrived: list[bytes] = []
        try:
            request = begun.request
            answer = client.send(
                request if request.streams else request.body,
                version=request.version,
                betas=request.betas,
                path=request.endpoint,
                on_unknown=self.on_unknown,
                keep=arrived,
            )
        except Exception as error:
            begun.fail(error)
            raise
        except BaseException as error:
            if arrived:
                # What has arrived was paid for: it is saved before Ctrl-C goes on.
                with suppress(InterruptedAnswerError):
                    begun.finish(arrived[0])
            else:
                # What became of the request is as unknown as after a lost connection.
                begun.fail(APIError(f"stopped by {type(error).__name__}"))
            raise
        try:
            return begun.finish(answer.body, attempts=answer.attempts)
        except Exception:
            raise
        except BaseException:
            # It has arrived and was paid for: it is saved before Ctrl-C goes on.
            begun.finish(answer.body, attempts=answer.attempts)
            raise

    def _patiently(self, attempt: Callable[[], T]) -> T:
        until = time.monotonic() + self.wait
        pause = _SHORTEST_POLL
        while True:
            try:
                return attempt()
            except BusyError:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, _LONGEST_POLL)
            except ConflictError:
                # With a key it is known that nobody else's message is meant; without one the caller decides.
                if self.key is None:
                    raise
            self.history.refresh()

    def _begun(self) -> Pending:
        known, said = self.history, self.said
        if said is None:
            raise ContentError("", "there is nothing to send")
        while True:
            if self.key is not None:
                last = pending.by_key(known, self.key, said)
                if last is not None:
                    return self._settled(last)
            seen = known.head
            known.refuse_busy()
            if self.key is not None and known.head != seen:
                continue  # what was appended meanwhile may be this very message
            return pending.begin(known, preflight.plan(known, said), self.terms, self.key)

    def _settled(self, last: Exchange) -> Pending:
        """Give what an exchange begun before has come to; try it again where that cannot be billed twice unasked."""
        known = self.history
        if last.state is State.PENDING:
            raise BusyError(known.id, known.kept.lease_until)
        if last.state in {State.ANSWERED, State.REFUSED}:
            answered = Pending(known, last)
            answered.reply = known.reply(last)
            return answered
        if last.state is State.REJECTED:
            raise outcomes.error_of(known.outcome(last)[1])
        if last.state is not State.FAILED and self.on_unknown == "raise":
            raise UnknownOutcomeError(known.id, last.position, last.state)
        if last.state is State.UNKNOWN and known.head.pending_position == last.position:
            resolved = pending.settled(known, last, resend=True)
            if resolved.reply is not None:
                return resolved
            last = resolved.exchange
        stream = last.streamed if self.said is None else self.said.stream
        return pending.again(known, last, {}, self.terms, stream=stream)

    def _continued(self, paused: Reply) -> Pending | None:
        known = self.history
        position = paused.exchange.position
        with known.database.read() as connection:
            following = ledger.after(connection, known.id, position)
            newest = None if following is None else ledger.newest_try(connection, known.id, following.position)
        if newest is not None and following is not None:
            if history.continues(known.entry(following.position)) == position:
                return self._settled(known.as_of_now(newest))
            return None
        turn = paused.turn
        if turn is None or known.messages.places[-1:] != [(turn.conversation, turn.position)]:
            return None
        exchange = paused.exchange
        said = self.said or Said(overrides=known.overrides_of(exchange), stream=exchange.streamed)
        overrides = {**said.overrides}
        container = preflight.container_of(paused.fields)
        if container is not None and "container" not in known.settings.params:
            overrides.setdefault("container", container)
        more = evolve(said, content=(), prefill=None, overrides=overrides)
        return pending.begin(known, preflight.plan(known, more), self.terms, continues=position)


def _check_seconds(name: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= _LONGEST_WAIT:
        raise ContentError(name, f"give seconds, from 0 to {_LONGEST_WAIT:,}")


def _check_key(key: str | None) -> None:
    if key is not None and not isinstance(key, str):
        raise ContentError("idempotency_key", f"give a string, not a {type(key).__name__}: str(update_id)")
    if key is not None:
        check_text("idempotency_key", key, IDEMPOTENCY_KEY_BYTES)


def check_text(name: str, text: object, longest: int, *, empty: bool = False) -> None:
    """
    Make sure that a name of the host's can be kept.

    Raises:
        ContentError: It is no text, or longer than *longest* bytes of UTF-8.
    """
    if not isinstance(text, str):
        raise ContentError(name, "give a string")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ContentError(name, "a lone surrogate is no text") from None
    if size > longest or (not size and not empty):
        raise ContentError(name, f"has {size} bytes of UTF-8; {0 if empty else 1} to {longest} are possible")
