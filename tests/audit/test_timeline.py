"""The record told entry by entry, and what came back for a request."""

from __future__ import annotations

import random

import pytest

from conversation_store import Image, Origin, Store
from conversation_store.audit.checkpoints import Checkpoint
from conversation_store.errors import CodecError, ContentError, NotFoundError
from tests.audit.honest import PICTURES, SETTINGS, WHY, RefusedError, answer


def test_the_whole_record_is_told(database_url: str) -> None:
    """Every entry in order, by whom, of which exchange; what was set aside and what was erased is told too."""
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        chat.user("Look", Image.from_bytes(PICTURES[0]))
        chat.assistant("A picture.", reason="canned")
        chat.begin("Sure?", prefill="So").finish(answer(random.Random(1)))
        chat.begin("No?").fail(RefusedError("never"))
        chat.erase(chat.turns[0], **WHY)
        told = list(chat.timeline())
        assert [(each.position, each.kind, each.actor, each.origin, each.exchange) for each in told] == [
            (0, "opened", "host", None, None),
            (1, "settings", "host", None, None),
            (2, "turn", "user", Origin.HUMAN, None),
            (3, "turn", "host", Origin.SYNTHETIC, None),
            (4, "turn", "user", Origin.HUMAN, 6),
            (5, "turn", "host", Origin.PREFILL, 6),
            (6, "request", "host", None, 6),
            (7, "outcome", "api", None, 6),
            (8, "turn", "model", Origin.MODEL, 6),
            (9, "turn", "user", Origin.HUMAN, 10),
            (10, "request", "host", None, 10),
            (11, "outcome", "api", None, 10),
            (12, "view", "host", None, 10),
            (13, "erased", "host", None, None),
            (14, "view", "host", None, None),
        ]
        assert [each.position for each in told if each.erased] == [2, 11]
        assert told[3].account == "assistant: A picture."
        assert told[13].account == (
            "erased the content of 2, 11 and the proof of the requests of 6, 10; by test: asked to"
        )
        assert [(each.position, each.turn and each.turn.text) for each in told if each.shown] == [
            (2, None),
            (3, "A picture."),
            (4, "Sure?"),
            (8, told[8].turn and told[8].turn.text),
        ]
        assert list(chat.timeline(6)) == told[6:]
        assert next(store.get("k").fork().timeline()).account == f"forked from {chat.id}"


def test_what_came_back(database_url: str) -> None:
    """Content and envelope are the bytes received; a copy is proved by the commitment, kept raw or not."""
    raw = answer(random.Random(2))
    with Store(database_url) as store, Store(database_url, keep_raw=True) as keeping:
        for each in (store, keeping):
            chat = each.open(None, **SETTINGS)
            pending = chat.begin("Hello")
            with pytest.raises(CodecError):
                chat.response(pending.exchange)
            response = chat.response(pending.finish(raw).exchange)
            assert response.raw == (raw if each is keeping else None)
            assert response.matches(raw)
            assert not response.matches(raw.replace(b"msg_", b"msg-"))
            assert response.content is not None
            assert response.content in raw
            assert response.provable
            with pytest.raises(NotFoundError):
                chat.response(99)
        rejected = chat.begin("Again")
        rejected.fail(RefusedError("no"))
        response = chat.response(rejected.exchange.position)
        assert (response.content, response.envelope, response.provable) == (None, None, False)


def test_a_checkpoint_is_of_its_scope() -> None:
    """One of another tenant is refused, and nothing is looked at."""
    with Store("sqlite://", scope="a") as store, pytest.raises(ContentError):
        store.verify(since=Checkpoint({}, "b"))
