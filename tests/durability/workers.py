"""
What worker processes do in these tests, and the named moments at which they can be killed.

Everything here runs in a child of its own, which opens its own store; nothing is ever put back.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.engine.default import DefaultDialect
from urllib3.connection import HTTPConnection

from conversation_store import Client, Conversation, Image, Reply, Seals, Store, exchanges
from conversation_store.audit.anchors import FileAnchor
from conversation_store.audit.keys import SigningKey
from conversation_store.audit.memory import Memory
from conversation_store.errors import BusyError, ConflictError, DatabaseError, UnknownOutcomeError
from conversation_store.storage import blobs, engine, seals
from conversation_store.storage.engine import Compiled, Database
from conversation_store.testing import MessagesAPI
from tests import pictures

SETTINGS: Final = {"model": "claude-sonnet-5-5", "max_tokens": 64}

BEGUN: Final = "begin, inside the transaction"
FINISHED: Final = "finish, inside the transaction"
COMMITTED: Final = "COMMIT, after"

Job = Mapping[str, Any]


class Points:
    """The moments a worker comes by, in order; at the armed one it is killed."""

    def __init__(self, armed: str | None) -> None:
        self.seen: list[str] = []
        self._armed = armed
        self._times: Counter[str] = Counter()

    def reach(self, name: str) -> None:
        """Come by a moment: the second time it is called ``name #2``."""
        self._times[name] += 1
        number = self._times[name]
        name = name if number == 1 else f"{name} #{number}"
        self.seen.append(name)
        if name == self._armed:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, attribute: str, name: str) -> None:
        """Make the moments before and after a function is called."""
        original = getattr(owner, attribute)

        def wrapper(*arguments: Any, **named: Any) -> Any:
            self.reach(f"{name}, before")
            result = original(*arguments, **named)
            self.reach(f"{name}, after")
            return result

        setattr(owner, attribute, wrapper)

    def inside(self, owner: Any, attribute: str, name: str) -> None:
        """Make a moment of the beginning of a transaction's work, after its BEGIN."""
        original = getattr(owner, attribute)

        def wrapper(*arguments: Any, **named: Any) -> Any:
            self.reach(name)
            return original(*arguments, **named)

        setattr(owner, attribute, wrapper)

    def statement(self) -> None:
        """Make a moment of every statement of an append: they go to the driver past SQLAlchemy's events."""
        original = Compiled.run

        def wrapper(statement: Compiled, connection: Connection, *rows: Mapping[str, Any]) -> int:
            touched = original(statement, connection, *rows)
            written = statement._statement
            self.reach(f"after {type(written).__name__} of {written.table}")
            return touched

        setattr(Compiled, "run", wrapper)  # noqa: B010 - a method that is assigned to is no type's

    def install(self) -> None:
        """Put all the moments in place."""
        self.around(Database, "write", "write")
        self.around(DefaultDialect, "do_commit", "COMMIT")
        self.around(blobs, "put", "blob")
        self.inside(exchanges, "begin", BEGUN)
        self.inside(exchanges, "finish", FINISHED)
        self.around(Client, "send", "send")
        self.around(HTTPConnection, "connect", "connect")
        self.around(HTTPConnection, "request", "request")
        self.around(HTTPConnection, "getresponse", "response")
        self.statement()


@contextmanager
def opened(job: Job) -> Iterator[Store]:
    """Open the store of a job, with a client where it names an API."""
    if "api" not in job:
        with Store(job["url"]) as store:
            yield store
        return
    with (
        Client("sk-ant-loopback", base_url=job["api"], max_attempts=1, timeout=60) as client,
        Store(job["url"], client=client) as store,
    ):
        yield store


def content(job: Job) -> Sequence[Any]:
    """Say the words of a job, with a picture of its own where it has a colour."""
    said: list[Any] = [job["text"]]
    if "colour" in job:
        said.append(Image.from_bytes(pictures.png(colour=tuple(job["colour"]), padding=2000)))
    return said


def _with_points(job: Job, act: Callable[[], object]) -> list[str]:
    points = Points(job.get("point"))
    points.install()
    points.reach("before everything")
    act()
    points.reach("after everything")
    return points.seen


def send(job: Job) -> list[str]:
    """Open a conversation and send, once, with an idempotency key."""

    def act() -> None:
        with opened(job) as store:
            store.open(job["key"], **SETTINGS).send(*content(job), idempotency_key=job["text"])

    return _with_points(job, act)


def recover(job: Job) -> list[str]:
    """Resolve the exchange of a dead worker by sending it again."""

    def act() -> None:
        with opened(job) as store:
            store.get(job["key"]).recover("resend")

    return _with_points(job, act)


def give_up(job: Job) -> list[str]:
    """Resolve the exchange of a dead worker by giving it up, and try it again."""

    def act() -> None:
        with opened(job) as store:
            chat = store.get(job["key"])
            chat.recover("give_up")
            chat.retry()

    return _with_points(job, act)


def seal(job: Job) -> list[str]:
    """Seal what was said, or begin a new epoch, with a key, a memory and an anchor on files."""

    def act() -> None:
        points.around(Database, "write", "write")
        points.around(DefaultDialect, "do_commit", "COMMIT")
        points.around(SigningKey, "sign", "sign")
        points.around(FileAnchor, "publish", "publish")
        points.around(Memory, "keep", "remember")
        points.around(os, "fsync", "fsync")
        points.around(Path, "replace", "replace")
        points.around(seals, "put_tiles", "tiles")
        given = Seals(key=job["signing"], memory=job["memory"], anchors=[FileAnchor(job["anchor"])])
        with Store(job["url"], seal=given) as store:
            points.reach("before everything")
            store.seal(new_epoch=job["new_epoch"])
            points.reach("after everything")

    points = Points(job.get("point"))
    act()
    return points.seen


def append(job: Job) -> dict[str, Any]:
    """Append numbered tokens; each tells the length of the log it was based on."""
    conflicts, accepted = 0, []
    with opened(job) as store:
        chat = store.get(job["key"])
        for number in range(job["count"]):
            while True:
                based_on = chat.version
                try:
                    (turn,) = chat.append({"role": "user", "content": f"{job['worker']} {number} {based_on}"})
                except ConflictError:
                    conflicts += 1
                    chat.refresh()
                else:
                    accepted.append(turn.position)
                    break
    return {"conflicts": conflicts, "accepted": accepted}


def converse(job: Job) -> dict[str, int]:
    """Send a number of messages; who is busy or was overtaken tries again."""
    told: Counter[str] = Counter()
    with opened(job) as store:
        chat = store.get(job["key"])
        for number in range(job["count"]):
            while True:
                try:
                    chat.send(f"{job['worker']} {number}", wait=job["wait"])
                except (BusyError, ConflictError) as error:
                    told[type(error).__name__] += 1
                    time.sleep(0.005)
                    chat.refresh()
                else:
                    told["sent"] += 1
                    break
    return told


def deliver(job: Job) -> list[str]:
    """Hand the same message over several times, as a webhook that is delivered again; tell the replies."""
    replies = []
    with opened(job) as store:
        for _ in range(job["count"]):
            chat = store.open(job["key"], **SETTINGS)
            reply = _delivered(chat, job)
            turn = reply.turn
            replies.append(f"{turn.position if turn else None} {reply.text}")
    return replies


def _delivered(chat: Conversation, job: Job) -> Reply:
    while True:
        try:
            return chat.send(
                job["text"], idempotency_key=job["text"], wait=60, on_unknown=job.get("on_unknown", "raise")
            )
        except UnknownOutcomeError:
            if job.get("on_unknown") != "resend":
                raise
            chat.refresh()


def fork(job: Job) -> list[str]:
    """Use a store and a conversation, and use them in a forked child too; tell what the log says."""
    with opened(job) as store:
        chat = store.open(job["key"], **SETTINGS)
        chat.user("parent")
        chat.send("parent asks")
        _in_child(job["how"], lambda: _speak(chat))
        chat.refresh()
        chat.user("parent again")
        return [turn.text for turn in chat.turns]


def _speak(chat: Conversation) -> None:
    chat.user("child")
    chat.send("child asks")


def _in_child(how: str, act: Callable[[], None]) -> None:
    if how == "multiprocessing":
        process = get_context("fork").Process(target=act)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        process.close()
        return
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def close_in_child(job: Job) -> bool:
    """Close an inherited store in a child that never used it; tell whether the parent's connection lives on."""
    with opened(job) as store:
        store.open(job["key"], **SETTINGS)

        def connection() -> object:
            with store._database.read() as reading:
                return reading.exec_driver_sql("SELECT pg_backend_pid()").scalar()

        before = connection()
        _in_child("fork", store.close)
        return connection() == before


def stop_inside(job: Job) -> None:
    """Stop, as a frozen machine does, inside a transaction that has written."""
    original = exchanges.append

    def stopping(connection: Connection, commit: Any) -> bool:
        result = original(connection, commit)
        os.kill(os.getpid(), signal.SIGSTOP)
        return result

    exchanges.append = stopping
    with opened(job) as store:
        store.get(job["key"]).user("slow")


def append_impatiently(job: Job) -> str:
    """Append with half a second of patience; tell the reason why not."""
    engine.PATIENCE = 0.5  # type: ignore[misc]
    time.sleep(0.3)  # the other one is inside by now
    try:
        with opened(job) as store:
            store.get(job["key"]).user("fast")
    except DatabaseError as error:
        return error.reason
    return "appended"


def open_new(job: Job) -> str:
    """Open a database that may not be there yet, and a conversation in it."""
    with opened(job) as store:
        return str(store.open(job["key"], **SETTINGS).id)


def upgrade(job: Job) -> str:
    """Put the schema into a database."""
    with Store(job["url"], upgrade=True) as store:
        return str(store.open(job["key"], **SETTINGS).id)


ACTS: Final[Mapping[str, Callable[[Job], object]]] = {
    act.__name__: act for act in (send, recover, give_up, seal, append, converse, deliver, open_new, upgrade, fork)
} | {act.__name__: act for act in (close_in_child, stop_inside, append_impatiently)}


def warm_up() -> None:
    """Load and compile what every worker needs, so that a child begins at once. Leaves no thread behind."""
    with (
        MessagesAPI() as api,
        Client(api.key, base_url=api.url) as client,
        Store("sqlite://", client=client) as store,
    ):
        chat = store.open("warm", **SETTINGS)
        chat.send("warm", Image.from_bytes(pictures.png(padding=2000)), idempotency_key="warm")
        chat.refresh()
