"""
Random stores as honest programs leave them: every kind of entry and every public way to one, whatever ends it has.

Without a client, a caller's own is played: ``begin`` and ``finish``. With one, answers come from an API on loopback,
whole, streamed or cut off. What a crash leaves behind is there too: pending exchanges, pieces of a stream, blobs that
nothing uses, conversations that are not sealed yet.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypedDict
from uuid import UUID

from attrs import define, field

from conversation_store import Conversation, Image, Store, Window
from conversation_store.errors import (
    APIError,
    BusyError,
    ContentError,
    HeldError,
    RuleViolationError,
    UnfitReplyError,
    UnknownOutcomeError,
)
from conversation_store.storage import blobs, identity
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests import pictures

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-haiku-4-5", "max_tokens": 64}
TOOLS: Final = [{"name": "look", "input_schema": {"type": "object"}}]
PICTURES: Final = tuple(pictures.png(4, 4, colour=(n, n, n), padding=1500 + n) for n in range(3))
WORDS: Final = ("Hello", "ants \U0001f41c", "a\u2028b", "0.10", "\\u00e9 \u00e9", "x" * 300)
THINKING: Final = {"type": "thinking", "thinking": "Ants, then.", "signature": "c2lnbmVk"}
CALL: Final = {"type": "tool_use", "name": "look", "input": {"at": 1.50}}


class Why(TypedDict):
    """Who asked for something, and why."""

    by: str
    reason: str


WHY: Final[Why] = {"by": "test", "reason": "asked to"}
TOLD: Final = (
    ContentError,  # a view that cannot be, or nothing to send
    RuleViolationError,
    UnfitReplyError,
    APIError,
    HeldError,
    BusyError,  # a fork's exchange that holds what is to be erased is pending
    UnknownOutcomeError,
)
"""What an honest program is told, and goes on."""


class RefusedError(Exception):
    """What a caller's client raises for a request that the API refuses."""

    status_code = 400


def answer(chance: random.Random, *, stop_reason: str = "end_turn", content: Sequence[Any] = ()) -> bytes:
    """Write an answer; without *content*, of some words."""
    said = {
        "id": f"msg_{chance.randrange(1000)}",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": content or [{"type": "text", "text": chance.choice(WORDS)}] * chance.choice((1, 1, 2)),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": chance.randrange(100), "output_tokens": chance.randrange(100)},
    }
    return json.dumps(said, indent=chance.choice((None, 1))).encode()


@define
class Honest:
    """
    Fills a store with what an honest program would.

    Attributes:
        store: The store; a client of its own asks *api*.
        chance: Decides what is done.
        api: The API on loopback; None where the store has no client.
        bodies: Every body that was to be sent, by conversation and position of the request.
        chats: The conversations, whatever became of them; ``live`` those of them that go on.
    """

    store: Store
    chance: random.Random
    api: MessagesAPI | None = None
    bodies: dict[tuple[UUID, int], bytes] = field(factory=dict)
    chats: list[Conversation] = field(factory=list)
    live: list[Conversation] = field(factory=list)

    def fill(self, steps: int) -> None:
        """Do so many random things."""
        if not self.live:
            self.open()
        for _ in range(steps):
            chat = self.chance.choice(self.live).refresh()
            pending = chat.pending is not None
            try:
                self.end(chat) if pending else self.chance.choice(self._steps())(chat)
            except TOLD:
                continue

    def _steps(self) -> Sequence[Callable[[Conversation], None]]:
        often = (self.say, self.ask, self.ask)
        seldom = (
            *(self.open, self.label, self.update, self.fork, self.rewind, self.set_aside, self.bring_back, self.edit),
            *(self.erase, self.erase, self.erase_all, self.hold, self.compact, self.window, self.look, self.search),
            *(self.bring, self.carry, self.mend, self.crash, self.seal),
        )
        asked = () if self.api is None else (self.send, self.send, self.stream, self.again, self.work, self.summarise)
        return (*often, *often, *often, *seldom, *asked)

    def _opened(self, chat: Conversation) -> None:
        self.chats.append(chat)
        self.live.append(chat)

    def open(self, _: Conversation | None = None) -> None:
        """Begin a conversation."""
        key = f"k{len(self.chats)}" if self.chance.random() < 0.7 else None
        more: dict[str, Any] = {"tools": TOOLS} if self.chance.random() < 0.5 else {}
        self._opened(self.store.open(key, **SETTINGS, **more, cache=self.chance.choice(("auto", "off"))))

    def say(self, chat: Conversation) -> None:
        """Append a turn, with a picture now and then."""
        words = self.chance.choice(WORDS)
        if self.chance.random() < 0.3:
            chat.user(words, Image.from_bytes(self.chance.choice(PICTURES)))
        elif self.chance.random() < 0.3:
            chat.append({"role": "user", "content": words}, {"role": "assistant", "content": "Well."}, check=False)
        elif self.chance.random() < 0.2:
            chat.assistant(words, reason="canned")
        else:
            chat.user(words)

    # --- exchanges of a caller with a client of their own ------------------------------------------------------------

    def ask(self, chat: Conversation) -> None:
        """Have an exchange; one in some stays pending."""
        prefill = "So" if self.chance.random() < 0.2 else None
        key = f"i{chat.version}" if self.chance.random() < 0.3 else None
        overrides: dict[str, Any] = {"top_k": self.chance.randrange(5)} if self.chance.random() < 0.2 else {}
        if self.chance.random() < 0.15:
            overrides["window"] = Window(max_tokens=self.chance.randrange(10, 200), keep_last=0)
        pending = chat.begin(self.chance.choice(WORDS), prefill=prefill, idempotency_key=key, check=False, **overrides)
        self.bodies[chat.id, pending.exchange.position] = b"".join(pending.request)
        if self.chance.random() < 0.9:
            self.end(chat)

    def end(self, chat: Conversation) -> None:
        """Let the exchange that is pending have an outcome."""
        pending = chat.pending
        assert pending is not None
        end = self.chance.random()
        if end < 0.5:
            pending.finish(answer(self.chance))
        elif end < 0.7:
            call = f"toolu_{pending.exchange.position}"
            thought = [THINKING] * self.chance.randrange(2)
            pending.finish(answer(self.chance, stop_reason="tool_use", content=[*thought, {**CALL, "id": call}]))
            if self.chance.random() < 0.8:
                chat.tool_result(call, self.chance.choice(WORDS), is_error=self.chance.random() < 0.2)
        elif end < 0.8:
            pending.finish(answer(self.chance, stop_reason="refusal"))
        elif end < 0.9:
            pending.fail(RefusedError("no"))
        else:
            pending.fail(ConnectionError("gone"))

    def crash(self, chat: Conversation) -> None:
        """Leave what a process leaves that dies: an exchange nobody ends, a blob nobody uses."""
        picture = pictures.png(5, 5, padding=1500 + self.chance.randrange(50))
        blobs.put(self.store._database, self.store.scope, chat.id, picture, identity.now())
        lost = chat.begin(self.chance.choice(WORDS), lease=0, check=False)
        self.bodies[chat.id, lost.exchange.position] = b"".join(lost.request)
        if self.chance.random() < 0.7:
            chat.recover(self.chance.choice(("give_up", "keep_partial")))

    # --- exchanges with a client -------------------------------------------------------------------------------------

    def _script(self) -> None:
        assert self.api is not None
        way = self.chance.random()
        if way < 0.15:
            self.api.fail(Fault.status(self.chance.choice((400, 429, 500, 529))))
        elif way < 0.25:
            self.api.fail(Fault.close())
        elif way < 0.35:
            self.api.answer(Answer.refusal(content=self.chance.choice(WORDS)))
        elif way < 0.5:
            self.api.answer(Answer(self.chance.choice(WORDS), thinking="Hm."))

    def send(self, chat: Conversation) -> None:
        """Ask the API."""
        self._script()
        chat.send(self.chance.choice(WORDS), idempotency_key=f"s{chat.version}")

    def stream(self, chat: Conversation) -> None:
        """Ask it for a stream, which may be cut off, and resolve what became of it."""
        assert self.api is not None
        if self.chance.random() < 0.4:
            self.api.fail(Fault.cut(self.chance.randrange(300, 900), answer=self.chance.choice(WORDS)))
        try:
            with chat.stream(self.chance.choice(WORDS), journal="each") as stream:
                for _ in stream.text:
                    pass
        except APIError:
            chat.recover("keep_partial")

    def again(self, chat: Conversation) -> None:
        """Try what failed again, or ask for another answer."""
        self._script()
        chat.retry() if self.chance.random() < 0.5 else chat.regenerate()

    def work(self, chat: Conversation) -> None:
        """Let the model call a tool, and run it."""
        assert self.api is not None
        chat.update(tools=TOOLS)
        self.api.answer(Answer([CALL], thinking=None), "I have looked.")
        chat.send("Look")
        chat.run_tools({"look": lambda at: f"{at} ants"})

    def summarise(self, chat: Conversation) -> None:
        """Let the model write a summary, or the API."""
        chat.compact(by="model", keep_last=self.chance.randrange(2))

    # --- views -------------------------------------------------------------------------------------------------------

    def label(self, chat: Conversation) -> None:
        """Give it a title."""
        chat.label(title=self.chance.choice((*WORDS, None)), metadata={"n": self.chance.randrange(9)})

    def update(self, chat: Conversation) -> None:
        """Change its settings."""
        chat.update(max_tokens=self.chance.randrange(1, 99), system=self.chance.choice(WORDS))

    def window(self, chat: Conversation) -> None:
        """Let a window move over it, or no more."""
        chat.update(window=self.chance.choice((None, Window(max_tokens=self.chance.randrange(10, 300), keep_last=1))))

    def compact(self, chat: Conversation) -> None:
        """Let a summary stand for what is old."""
        chat.compact(self.chance.choice(WORDS), keep_last=self.chance.randrange(3))

    def fork(self, chat: Conversation) -> None:
        """Fork it somewhere."""
        turns = chat.turns
        if turns and len(self.live) < 5:
            self._opened(chat.fork(self.chance.randrange(len(turns))))

    def rewind(self, chat: Conversation) -> None:
        """Go back somewhere."""
        if chat.turns:
            chat.rewind(self.chance.randrange(len(chat.turns)))

    def set_aside(self, chat: Conversation) -> None:
        """Leave a turn out."""
        if chat.turns:
            chat.set_aside(self.chance.randrange(len(chat.turns)))

    def bring_back(self, chat: Conversation) -> None:
        """Show again what the model was shown in some exchange."""
        if chat.exchanges:
            seen = chat.as_seen_by(self.chance.choice(chat.exchanges))
            if seen:
                chat.bring_back(self.chance.choice(seen))

    def edit(self, chat: Conversation) -> None:
        """Say something else in the place of a turn."""
        said = [turn for turn in chat.turns if turn.role == "user"]
        if said:
            chat.edit(self.chance.choice(said), self.chance.choice(WORDS))

    def mend(self, chat: Conversation) -> None:
        """Do what the first finding says that can be mended."""
        for finding in chat.check():
            if finding.fix is not None:
                chat.mend(finding)
                break

    # --- erasing, holding, sealing, moving ---------------------------------------------------------------------------

    def erase(self, chat: Conversation) -> None:
        """Erase turns, with titles now and then."""
        turns = [turn for turn in chat.turns if turn.conversation == chat.id]
        if turns:
            chosen = self.chance.sample(turns, self.chance.randrange(1, 1 + min(2, len(turns))))
            chat.erase(*chosen, labels=self.chance.random() < 0.2, **WHY)

    def erase_all(self, chat: Conversation) -> None:
        """Erase all that a conversation holds; it does not go on."""
        if len(self.live) > 1 and self.chance.random() < 0.5:
            self.store.erase(chat.id, **WHY)
            self.live.remove(chat)

    def hold(self, chat: Conversation) -> None:
        """Forbid erasing, or no more."""
        chat.release(**WHY) if chat.holds else chat.hold(**WHY)

    def look(self, chat: Conversation) -> None:
        """Look at what writes nothing."""
        list(self.store.list())
        b"".join(chat.export("markdown"))
        chat.request(check=False)

    def search(self, _: Conversation) -> None:
        """Search, which brings the index up to the log."""
        self.store.search("Hello")

    def bring(self, _: Conversation) -> None:
        """Import what was said elsewhere."""
        if len(self.live) < 5:
            number = len(self.chats)
            said = [{"role": ("user", "assistant")[n % 2], "content": self.chance.choice(WORDS)} for n in range(3)]
            if self.chance.random() < 0.5:
                key = self.store.import_messages({**SETTINGS, "messages": said}, key=f"k{number}").key
            else:
                [taken] = self.store.import_from(said, "openai", key=f"k{number}").taken
                key = taken.key
            assert key is not None
            self._opened(self.store.get(key))

    def carry(self, _: Conversation) -> None:
        """Carry a conversation that was made elsewhere over here, as it is."""
        if len(self.live) < 5 and self.store.scope != "elsewhere":
            with Store("sqlite://", durability="normal", scope="elsewhere") as store:
                away = Honest(store, self.chance)
                away.fill(4)
                found = away.chats[0]
                if found.key is None:
                    self.store.load(found.export())
                    self._opened(self.store.get(found.id))
                    self.bodies |= {place: body for place, body in away.bodies.items() if place[0] == found.id}

    def seal(self, _: Conversation) -> None:
        """Seal what there is, where the store seals."""
        if self.store._sealer is not None:
            self.store.seal()
