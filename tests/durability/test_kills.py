"""
SIGKILL of real worker processes at every step of an exchange, and what is there afterwards.

The moments are not listed here: an undisturbed worker tells them, and then a worker is killed at each. What
must be durable at a moment follows from the two commits: that of ``begin`` and that of ``finish``.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final

import pytest
from attrs import define, field

from conversation_store import Client, Conversation, Reply, State, Store
from conversation_store.errors import NotFoundError, UnknownOutcomeError
from conversation_store.testing import Answer, MessagesAPI
from conversation_store.testing.wire import Request
from tests.durability import workers
from tests.durability.nursery import Nursery, Report
from tests.durability.workers import BEGUN, COMMITTED, FINISHED, SETTINGS

KEY: Final = "sk-ant-loopback"
LATE: Final = {"id": "msg_late", "type": "message", "role": "assistant", "model": SETTINGS["model"]} | {
    "content": [{"type": "text", "text": "late"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Give an interpreter to fork workers from."""
    with Nursery() as nursery:
        yield nursery


def said_in(request: Request) -> str:
    """Read the words of the last user turn of a request: each test conversation has words of its own."""
    content = request.body["messages"][-1]["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


def answer(request: Request) -> Answer:
    """Answer so that question and answer can be told to belong together."""
    return Answer(f"answer to {said_in(request)}")


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give an API that answers every request."""
    with MessagesAPI(key=KEY, otherwise=answer) as api:
        yield api


# --- ways to resolve what a killed worker left behind ----------------------------------------------------------------


def resend(chat: Conversation, said: Sequence[Any]) -> None:
    """Send it again."""
    reply = chat.recover("resend")
    assert reply is not None
    assert reply.exchange.retry_of is not None


def give_up(chat: Conversation, said: Sequence[Any]) -> None:
    """Give it up, and then try again."""
    assert chat.recover("give_up") is None
    assert chat.exchanges[-1].state is State.FAILED
    assert chat.exchanges[-1].maybe_billed
    chat.retry()


def keep_partial(chat: Conversation, said: Sequence[Any]) -> None:
    """Record it as interrupted, and then try again."""
    assert chat.recover("keep_partial") is None
    assert chat.exchanges[-1].state is State.INTERRUPTED
    chat.retry()


def redeliver(chat: Conversation, said: Sequence[Any]) -> None:
    """Hand the message over again: refused until it is said what to do."""
    with pytest.raises(UnknownOutcomeError, match=r"recover\(\)"):
        chat.send(*said, idempotency_key=said[0])
    chat.send(*said, idempotency_key=said[0], on_unknown="resend")


def finish_late(chat: Conversation, said: Sequence[Any]) -> None:
    """Record an answer that came by another way, while nobody took the exchange over."""
    pending = chat.pending
    assert pending is not None
    pending.finish(LATE)


WAYS: Final[Sequence[Callable[[Conversation, Sequence[Any]], None]]] = (
    resend,
    give_up,
    redeliver,
    keep_partial,
    finish_late,
)


# --- killing and looking ---------------------------------------------------------------------------------------------


@define
class Range:
    """
    A database, an API, and workers to be killed there.

    Attributes:
        kills: How many workers were killed, by what was durable then.
    """

    url: str
    api: MessagesAPI
    nursery: Nursery
    kills: Counter[str] = field(factory=Counter)
    _numbers: Iterator[int] = field(factory=lambda: count(1))

    def __attrs_post_init__(self) -> None:
        Store(self.url).close()  # makes the tables of a new file

    def job(self, act: str = "send") -> dict[str, Any]:
        """Make a worker's job, with a conversation, words and a picture of its own."""
        number = next(self._numbers)
        colour = [number & 255, number >> 8 & 255, 7]
        return {
            "act": act,
            "url": self.url,
            "api": self.api.url,
            "key": f"chat {number}",
            "text": f"message {number}",
            "colour": colour,
        }

    def run(self, job: Mapping[str, Any]) -> Report:
        """Run one worker."""
        (report,) = self.nursery.run(job)
        assert report.error is None, report.error
        return report

    def points(self, job: Mapping[str, Any]) -> list[str]:
        """Let a worker come through undisturbed, and give its moments."""
        points = self.run(job).value
        assert isinstance(points, list)
        return points

    def opened(self) -> tuple[Client, Store]:
        """Open the store as another process would, after the worker is gone."""
        client = Client(KEY, base_url=self.api.url, max_attempts=1, timeout=30)
        return client, Store(self.url, client=client)

    def settle(self, job: Mapping[str, Any], way: int, stage: str | None) -> None:
        """
        Check what a dead worker left, resolve it, and check what is there then.

        Args:
            job: What the worker was to do.
            way: Which way to resolve it, a number.
            stage: ``nothing``, ``begun`` or ``answered``: what must be durable; None for any of these.
        """
        client, store = self.opened()
        with client, store:
            chat = self._found(store, job)
            found = "nothing"
            if chat is not None:
                assert chat.verify() == []
                found = self._stage(chat, job)
            assert stage in {None, found}
            self.kills[found] += 1
            said = workers.content(job)
            if found == "begun":
                assert chat is not None
                with pytest.raises(UnknownOutcomeError, match=r"recover\(\)"):
                    chat.user("May I?")
                WAYS[way % len(WAYS)](chat, said)
            self._close(store.open(job["key"], **SETTINGS), job, said)

    @staticmethod
    def _found(store: Store, job: Mapping[str, Any]) -> Conversation | None:
        try:
            return store.get(job["key"])
        except NotFoundError:
            return None

    @staticmethod
    def _stage(chat: Conversation, job: Mapping[str, Any]) -> str:
        roles = [turn.role for turn in chat.turns]
        if not roles:
            assert chat.exchanges == []
            return "nothing"
        assert job["text"] in chat.turns[0].text
        states = [exchange.state for exchange in chat.exchanges]
        if roles == ["user"]:
            assert states[-1] in {State.UNKNOWN, State.FAILED}
            assert set(states[:-1]) <= {State.UNKNOWN, State.FAILED}
            return "begun" if states[-1] is State.UNKNOWN else "failed"
        assert roles == ["user", "assistant"]
        assert states[-1] is State.ANSWERED
        return "answered"

    def _close(self, chat: Conversation, job: Mapping[str, Any], said: Sequence[Any]) -> None:
        """The message is handed over again, twice: it is there once, answered once, and the talk goes on."""
        if chat.exchanges and chat.exchanges[-1].state is State.FAILED:
            chat.retry()
        first = chat.send(*said, idempotency_key=job["text"])
        asked = self._asked(job)
        again = chat.send(*said, idempotency_key=job["text"])
        assert asked == self._asked(job)
        self._same(first, again)
        assert [turn.role for turn in chat.turns] == ["user", "assistant"]
        assert first.text in {f"answer to {job['text']}", "late"}
        exchanges = chat.exchanges
        answered = [exchange for exchange in exchanges if exchange.state is State.ANSWERED]
        assert len(answered) == 1
        # Every exchange allows one attempt, so its record bounds what can have been sent and billed.
        assert len(asked) <= len(exchanges)
        assert set(asked) <= {chat.replay(exchange) for exchange in exchanges}
        chat.send("And now?")
        assert [turn.role for turn in chat.turns] == ["user", "assistant"] * 2
        assert chat.verify() == []

    @staticmethod
    def _same(first: Reply, again: Reply) -> None:
        assert first.turn is not None
        assert again.turn is not None
        assert again.turn.position == first.turn.position
        assert again.text == first.text

    def _asked(self, job: Mapping[str, Any]) -> list[bytes]:
        """List the bodies the API was sent for a job."""
        return [request.raw for request in self.api.requests if said_in(request) == job["text"]]

    def kill(self, job: dict[str, Any], point: str, way: int, stage: str) -> None:
        """Kill a worker at a moment, and settle."""
        try:
            report = self.run({**job, "point": point})
            assert report.killed
            self.settle(job, way, stage)
        except BaseException as error:
            error.add_note(f"{job['act']} killed at {point!r}, then {WAYS[way % len(WAYS)].__name__}")
            raise
        self.api.clear()

    def leave(self) -> dict[str, Any]:
        """Leave an exchange behind whose worker was killed while the API was answering."""
        job = self.job()
        assert self.run({**job, "point": "response, before"}).killed
        return job


def stages(points: Sequence[str]) -> list[tuple[str, str]]:
    """Say of each moment of a send what is durable then."""
    begun = next(n for n in range(points.index(BEGUN), len(points)) if points[n].startswith(COMMITTED))
    finished = next(n for n in range(points.index(FINISHED), len(points)) if points[n].startswith(COMMITTED))
    return [
        (point, "nothing" if n < begun else "begun" if n < finished else "answered") for n, point in enumerate(points)
    ]


def kill_senders(place: Range, ways: range) -> None:
    """Kill a sending worker at every moment, as often as there are ways to resolve it."""
    points = stages(place.points(place.job()))
    assert len({point for point, _ in points}) == len(points) >= 30
    assert {"after Insert of conversation_entry", "after Update of conversation"} <= {point for point, _ in points}
    for way in ways:
        for number, (point, stage) in enumerate(points):
            place.kill(place.job(), point, way + number, stage)


def kill_recoverers(place: Range, act: str, repeats: int) -> None:
    """Kill a worker at every moment of resolving what another killed worker left; resolve it all the same."""
    points = place.points({**place.leave(), "act": act})
    answered = [n for n, point in enumerate(points) if point.startswith(COMMITTED)][-1]
    for way in range(repeats):
        for number, point in enumerate(points):
            job = {**place.leave(), "act": act}
            assert place.run({**job, "point": point}).killed
            try:
                client, store = place.opened()
                with client, store:
                    chat = store.get(job["key"])
                    stage = Range._stage(chat, job)
                    assert stage == "answered" if number >= answered else stage in {"begun", "failed"}
                place.settle(job, way + number, stage)
            except BaseException as error:
                error.add_note(f"{act} killed at {point!r}, then {WAYS[(way + number) % len(WAYS)].__name__}")
                raise
            place.api.clear()


def kill_anywhen(place: Range, kills: int, seed: int) -> None:
    """Kill sending workers at moments that nobody chose."""
    began = time.monotonic()
    place.points(place.job())
    longest = time.monotonic() - began
    chance = random.Random(seed)
    for way in range(kills):
        job = place.job()
        after = chance.uniform(0, longest)
        report = place.run({**job, "kill_after": after})
        try:
            place.settle(job, way, None if report.killed else "answered")
        except BaseException as error:
            error.add_note(f"killed after {after:.6f} s, then {WAYS[way % len(WAYS)].__name__}")
            raise
        place.api.clear()


def test_a_worker_killed_at_any_step_of_a_send_loses_and_doubles_nothing(
    database_url: str, api: MessagesAPI, nursery: Nursery
) -> None:
    """Killed anywhere, the turn is not there or is there once; what is unknown can be resolved in every way."""
    place = Range(database_url, api, nursery)
    kill_senders(place, range(2))
    assert min(place.kills[stage] for stage in ("nothing", "begun", "answered")) > 0


def test_a_worker_killed_while_it_recovers_loses_and_doubles_nothing(
    database_url: str, api: MessagesAPI, nursery: Nursery
) -> None:
    """The second worker dies too, at each of its steps; a third one resolves it."""
    kill_recoverers(Range(database_url, api, nursery), "recover", 1)


def test_a_worker_killed_at_any_instant_loses_and_doubles_nothing(
    database_url: str, api: MessagesAPI, nursery: Nursery
) -> None:
    """Between the named steps too: the moment is chance."""
    kill_anywhen(Range(database_url, api, nursery), 15, seed=1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_hundreds_of_kills(database_url: str, api: MessagesAPI, nursery: Nursery) -> None:
    """Every step with every way to resolve it, second deaths, and chance: several hundred kills a database."""
    place = Range(database_url, api, nursery)
    kill_senders(place, range(len(WAYS)))
    kill_recoverers(place, "recover", 2)
    kill_recoverers(place, "give_up", 2)
    kill_anywhen(place, 200, seed=2)
    assert place.kills.total() >= 200
