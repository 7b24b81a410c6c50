"""Random stores as honest programs leave them: every kind of entry, forks, views, all ends of exchanges, erasures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from attrs import define, field
from sqlalchemy import text

from conversation_store import Conversation, Image, Store, Turn
from conversation_store.errors import ContentError, RuleViolationError
from conversation_store.record.chain import draft
from conversation_store.storage import identity
from tests import pictures

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-4-5", "max_tokens": 64}
PICTURES: Final = tuple(pictures.png(4, 4, colour=(n, n, n), padding=1500 + n) for n in range(3))
WORDS: Final = ("Hello", "ants \U0001f41c", "a\u2028b", "0.10", "\\u00e9 \u00e9", "x" * 300)


class RefusedError(Exception):
    """What a caller's client raises for a request that the API refuses."""

    status_code = 400


def answer(chance: random.Random, *, stop_reason: str = "end_turn") -> bytes:
    """Write an answer."""
    said = {
        "id": f"msg_{chance.randrange(1000)}",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": chance.choice(WORDS)}] * chance.choice((1, 1, 2)),
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
        store: The store; it has no client.
        chance: Decides what is done.
        bodies: Every body that was to be sent, by conversation and position of the request.
    """

    store: Store
    chance: random.Random
    bodies: dict[tuple[UUID, int], bytes] = field(factory=dict)
    chats: list[Conversation] = field(factory=list)

    def fill(self, steps: int) -> None:
        """Do so many random things."""
        self.open()
        for _ in range(steps):
            chat = self.chance.choice(self.chats).refresh()
            if chat.pending is not None:
                self.end(chat)
                continue
            try:
                self.chance.choice(self._steps())(chat)
            except (ContentError, RuleViolationError):
                continue  # a view that cannot be, or nothing to send: an honest program is told so

    def _steps(self) -> Sequence[Callable[[Conversation], None]]:
        often = (self.say, self.ask, self.ask)
        return (*often, *often, self.open, self.label, self.update, self.fork, self.rewind, self.set_aside, self.erase)

    def open(self, _: Conversation | None = None) -> None:
        """Begin a conversation."""
        key = f"k{len(self.chats)}" if self.chance.random() < 0.7 else None
        self.chats.append(self.store.open(key, **SETTINGS, cache=self.chance.choice(("auto", "off"))))

    def say(self, chat: Conversation) -> None:
        """Append a turn, with a picture now and then."""
        words = self.chance.choice(WORDS)
        if self.chance.random() < 0.3:
            chat.user(words, Image.from_bytes(self.chance.choice(PICTURES)))
        elif self.chance.random() < 0.3:
            chat.append({"role": "user", "content": words}, {"role": "assistant", "content": "Well."}, check=False)
        else:
            chat.user(words)

    def ask(self, chat: Conversation) -> None:
        """Have an exchange; one in some stays pending."""
        prefill = "So" if self.chance.random() < 0.2 else None
        key = f"i{chat.version}" if self.chance.random() < 0.3 else None
        overrides: dict[str, Any] = {"top_k": self.chance.randrange(5)} if self.chance.random() < 0.2 else {}
        pending = chat.begin(self.chance.choice(WORDS), prefill=prefill, idempotency_key=key, check=False, **overrides)
        self.bodies[chat.id, pending.exchange.position] = b"".join(pending.request)
        if self.chance.random() < 0.9:
            self.end(chat)

    def end(self, chat: Conversation) -> None:
        """Let the exchange that is pending have an outcome."""
        pending = chat.pending
        assert pending is not None
        end = self.chance.random()
        if end < 0.7:
            pending.finish(answer(self.chance))
        elif end < 0.8:
            pending.finish(answer(self.chance, stop_reason="refusal"))
        elif end < 0.9:
            pending.fail(RefusedError("no"))
        else:
            pending.fail(ConnectionError("gone"))

    def label(self, chat: Conversation) -> None:
        """Give it a title."""
        chat.label(title=self.chance.choice(WORDS), metadata={"n": self.chance.randrange(9)})

    def update(self, chat: Conversation) -> None:
        """Change its settings."""
        chat.update(max_tokens=self.chance.randrange(1, 99), system=self.chance.choice(WORDS))

    def fork(self, chat: Conversation) -> None:
        """Fork it somewhere."""
        turns = chat.turns
        if turns and len(self.chats) < 5:
            self.chats.append(chat.fork(self.chance.randrange(len(turns))))

    def rewind(self, chat: Conversation) -> None:
        """Go back somewhere."""
        if chat.turns:
            chat.rewind(self.chance.randrange(len(chat.turns)))

    def set_aside(self, chat: Conversation) -> None:
        """Leave a turn out."""
        if chat.turns:
            chat.set_aside(self.chance.randrange(len(chat.turns)))

    def erase(self, chat: Conversation) -> None:
        """Erase the content of a turn, and the proof of every request whose body held it."""
        turns = [turn for turn in chat.turns if turn.conversation == chat.id]
        if turns and self.chance.random() < 0.5:
            erase(self.store, self.chats, self.chance.choice(turns))


def erase(store: Store, chats: Sequence[Conversation], turn: Turn) -> None:
    """Erase a turn as the format of ``erased`` entries has it, in each log that it concerns."""
    place = {"c": turn.conversation.bytes, "p": turn.position}
    held = {chat.id: _holding(chat, turn) for chat in chats if chat.refresh().pending is None}
    if len(held) < len(chats):
        return
    with store._database.engine.begin() as connection:
        connection.execute(text("DELETE FROM conversation_blob_use WHERE conversation = :c AND position = :p"), place)
        blank = "UPDATE conversation_entry SET {} WHERE conversation = :c AND position = :p"
        connection.execute(text(blank.format("body = NULL, about = NULL, salt = NULL")), place)
        for of, positions in held.items():
            for position in positions:
                there = {"c": of.bytes, "p": position}
                connection.execute(text(blank.format("request_salt = NULL")), there)
    for chat in chats:
        erased: dict[str, Any] = {}
        if chat.id == turn.conversation:
            erased["content"] = [[turn.position, turn.position]]
        if held[chat.id]:
            erased["request"] = list(runs(held[chat.id]))
        if erased:
            entry = draft(
                "erased",
                at=identity.now(),
                salt=identity.new_salt(),
                fields={"erased": erased},
                about={"by": "test", "why": "asked to"},
            )
            chat._history.append([entry])
            chat._history.forget_view()


def _holding(chat: Conversation, turn: Turn) -> list[int]:
    place = (turn.conversation, turn.position)
    return [
        exchange.position
        for exchange in chat.exchanges
        if chat._history.entry(exchange.position).request_salt is not None
        and any((each.conversation, each.position) == place for each in chat.as_seen_by(exchange))
    ]


def runs(positions: Sequence[int]) -> Iterator[list[int]]:
    """Write positions as runs, both ends included, merged where they touch."""
    first = last = None
    for each in positions:
        if last is not None and each == last + 1:
            last = each
            continue
        if first is not None and last is not None:
            yield [first, last]
        first = last = each
    if first is not None and last is not None:
        yield [first, last]
