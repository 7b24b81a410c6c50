"""Eight processes at one conversation, one new database, one message: nothing lost, doubled, reordered or stale."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import pytest

from conversation_store import Client, State, Store
from conversation_store.testing import Answer, MessagesAPI
from conversation_store.testing.wire import Request
from tests.durability.nursery import Nursery, Report
from tests.durability.workers import SETTINGS

PROCESSES: Final = 8
KEY: Final = "sk-ant-loopback"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Give an interpreter to fork workers from."""
    with Nursery() as nursery:
        yield nursery


class Slow:
    """A slow model that tells how many requests it was asked at once."""

    def __init__(self, seconds: float) -> None:
        self.most = 0
        self._now = 0
        self._seconds = seconds
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Answer:
        """Answer a request, after a while."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        said = request.body["messages"][-1]["content"]
        with self._lock:
            self._now -= 1
        return Answer(f"answer to {said}")


def values(reports: Sequence[Report]) -> list[Any]:
    """Give what workers told, all of which came through."""
    assert [report.error for report in reports if report.error] == []
    assert not any(report.killed for report in reports)
    return [report.value for report in reports]


def append_at_once(url: str, nursery: Nursery, tokens: int) -> None:
    """Let eight processes append, and judge the log."""
    with Store(url) as store:
        begun = store.open("chat", **SETTINGS).version
        jobs = [
            {"act": "append", "url": url, "key": "chat", "worker": worker, "count": tokens}
            for worker in range(PROCESSES)
        ]
        told = values(nursery.run(*jobs))
        chat = store.get("chat")
        judge(chat.turns, told, begun, tokens)
        assert chat.version == begun + PROCESSES * tokens
        assert chat.verify() == []


def judge(turns: Sequence[Any], told: Sequence[Mapping[str, Any]], begun: int, tokens: int) -> None:
    """Say that a log holds every accepted append once, in each process's own order, on the head it was meant for."""
    found = [(turn.position, *map(int, turn.text.split())) for turn in turns]
    assert [position for position, *_ in found] == list(range(begun, begun + len(told) * tokens))
    assert [(position, based_on) for position, *_, based_on in found if position != based_on] == []
    for worker, report in enumerate(told):
        mine = [(position, number) for position, of, number, _ in found if of == worker]
        assert [number for _, number in mine] == list(range(tokens))
        assert [position for position, _ in mine] == report["accepted"]
    assert sum(report["conflicts"] for report in told) > 0  # they really met


def test_eight_processes_append_to_one_conversation(database_url: str, nursery: Nursery) -> None:
    """Every accepted append is there once, in order, on the head it was based on; the rest met a ConflictError."""
    append_at_once(database_url, nursery, 15)


@pytest.mark.long
def test_eight_processes_append_to_one_conversation_for_long(database_url: str, nursery: Nursery) -> None:
    """The same, with 3,200 appends."""
    append_at_once(database_url, nursery, 400)


@pytest.mark.parametrize("wait", [0, 60])
def test_eight_processes_send_on_one_conversation(database_url: str, nursery: Nursery, wait: float) -> None:
    """There are never two requests on their way, whether workers wait or are refused; turns alternate."""
    model = Slow(0.01)
    count = 3
    with MessagesAPI(key=KEY, otherwise=model) as api, Store(database_url) as store:
        store.open("chat", **SETTINGS)
        jobs = [
            {"act": "converse", "url": database_url, "api": api.url, "key": "chat"}
            | {"worker": worker, "count": count, "wait": wait}
            for worker in range(PROCESSES)
        ]
        told = values(nursery.run(*jobs))
        assert model.most == 1
        assert len(api.requests) == PROCESSES * count
        chat = store.get("chat")
        turns = chat.turns
        assert [turn.role for turn in turns] == ["user", "assistant"] * PROCESSES * count
        said = [turn.text for turn in turns if turn.role == "user"]
        assert sorted(said) == sorted(f"{worker} {number}" for worker in range(PROCESSES) for number in range(count))
        assert [turn.text for turn in turns if turn.role == "assistant"] == [f"answer to {text}" for text in said]
        assert {exchange.state for exchange in chat.exchanges} == {State.ANSWERED}
        assert all(one.ended is not None and one.ended <= other.begun for one, other in pairwise(chat.exchanges))
        assert sum(each["sent"] for each in told) == PROCESSES * count
        assert chat.verify() == []


@pytest.mark.parametrize("round_", range(3))
def test_eight_processes_open_a_new_database(database_url: str, nursery: Nursery, round_: int) -> None:
    """All succeed: one schema, one conversation for a key, and one for each key of its own."""
    jobs = [{"act": "open_new", "url": database_url, "key": "chat"} for _ in range(PROCESSES)]
    ids = values(nursery.run(*jobs))
    assert len(set(ids)) == 1
    with Store(database_url) as store:
        assert [listed.id for listed in store.list()] == [UUID(ids[0])]
        assert store.verify() == []


def test_eight_processes_upgrade_an_empty_database(bare_database_url: str, nursery: Nursery) -> None:
    """All succeed, and the schema is there once."""
    jobs = [{"act": "upgrade", "url": bare_database_url, "key": f"chat {number % 2}"} for number in range(PROCESSES)]
    assert len(set(values(nursery.run(*jobs)))) == 2
    with Store(bare_database_url) as store:
        assert len(store.list()) == 2
        assert store.verify() == []


def test_a_message_delivered_many_times_is_said_and_answered_once(database_url: str, nursery: Nursery) -> None:
    """Eight processes get the same webhook at once, some twice: one turn, one answer, one reply for all."""
    model = Slow(0.05)
    with MessagesAPI(key=KEY, otherwise=model) as api, Store(database_url) as store:
        for number in range(4):
            job = {"act": "deliver", "url": database_url, "api": api.url, "key": f"chat {number}", "text": "update 7"}
            jobs = [{**job, "count": 1 + worker % 2} for worker in range(PROCESSES)]
            replies = [reply for told in values(nursery.run(*jobs)) for reply in told]
            assert len(replies) == 12
            assert len(set(replies)) == 1
            chat = store.get(f"chat {number}")
            assert [turn.role for turn in chat.turns] == ["user", "assistant"]
            assert len(chat.exchanges) == 1
            assert len(api.requests) == number + 1
            assert chat.verify() == []


def deliver_under_kills(url: str, nursery: Nursery, rounds: int) -> Counter[str]:
    """Deliver a message by eight processes of which some are killed; judge the log; count what happened."""
    happened: Counter[str] = Counter()
    with MessagesAPI(key=KEY, otherwise=Slow(0.03)) as api, Client(KEY, base_url=api.url, max_attempts=1) as client:
        for number in range(rounds):
            key = f"chat {number}"
            job: dict[str, Any] = {"act": "deliver", "url": url, "api": api.url, "key": key, "text": key}
            job |= {"count": 13, "on_unknown": "resend"}
            jobs = [dict(job) for _ in range(PROCESSES)]
            for worker in range(6):
                jobs[worker]["kill_after"] = 0.01 + 0.02 * worker + 0.003 * (number % 7)
            # The first of all dies with its request on the way; the others find that.
            first = {**job, "act": "send", "point": "response, before"}
            assert nursery.run(first)[0].killed
            reports = nursery.run(*jobs)
            assert [report.error for report in reports if report.error] == []
            happened["killed"] += sum(report.killed for report in reports)
            replies = {reply for report in reports for reply in report.value or ()}
            with Store(url, client=client) as store:
                chat = store.get(key)
                reply = chat.send(key, idempotency_key=key)
                assert reply.turn is not None
                assert replies == {f"{reply.turn.position} answer to {key}"}
                assert [turn.role for turn in chat.turns] == ["user", "assistant"]
                states = Counter(exchange.state for exchange in chat.exchanges)
                assert states[State.ANSWERED] == 1
                assert set(states) <= {State.ANSWERED, State.UNKNOWN}
                assert len(api.requests) <= len(chat.exchanges)
                assert chat.verify() == []
                happened["taken over"] += states[State.UNKNOWN]
            api.clear()
    return happened


def test_a_message_delivered_under_kills_is_said_and_answered_once(database_url: str, nursery: Nursery) -> None:
    """About a hundred deliveries by eight processes, six of which are killed: one turn, one accepted answer."""
    happened = deliver_under_kills(database_url, nursery, 4)
    assert happened["killed"] >= 4
    assert happened["taken over"] >= 4


@pytest.mark.long
def test_messages_delivered_under_many_kills_are_said_and_answered_once(database_url: str, nursery: Nursery) -> None:
    """The same, forty times over."""
    assert deliver_under_kills(database_url, nursery, 40)["killed"] >= 80
