"""Erasing the last use of an attachment while somebody else uses it anew: its bytes are there wherever it is used."""

from __future__ import annotations

import multiprocessing
import random
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from conversation_store import Conversation, Image, Store, attachments
from conversation_store.errors import ConversationStoreError, DatabaseError
from conversation_store.storage import blobs
from conversation_store.storage.blobs import Blob
from tests import pictures
from tests.audit.honest import SETTINGS, WHY, answer

PICTURE: Final = pictures.png(6, 6, padding=70_000)
ROUNDS: Final = 12


def at_it(url: str, key: str, barrier: Any, told: Any) -> None:
    """Show the picture when all others do, and erase it again when some of them may be at it."""
    with Store(url, durability="normal") as store:
        chat = store.open(key, **SETTINGS)
        for n in range(ROUNDS):
            barrier.wait(60)
            try:
                turn = chat.user("Look", Image.from_bytes(PICTURE))
                told.put("whole" if shown(chat) else "torn")
                if n < ROUNDS - 1:
                    chat.erase(turn, **WHY)
            except ConversationStoreError as error:
                told.put(f"{type(error).__name__}: {error}")
                chat.refresh()


def shown(chat: Conversation) -> bool:
    """Say whether what would be sent has the picture, byte for byte."""
    return b64encode(PICTURE) in chat.request(check=False).body


def test_processes_that_erase_what_others_use(database_url: str) -> None:
    """Three processes, over and over: whoever appends has the picture whole, and so it stays."""
    Store(database_url).close()
    spawn = multiprocessing.get_context("spawn")
    barrier, told = spawn.Barrier(3), spawn.Queue()
    keys = [f"k{n}" for n in range(3)]
    workers = [spawn.Process(target=at_it, args=(database_url, key, barrier, told)) for key in keys]
    for each in workers:
        each.start()
    said = [told.get(timeout=120) for _ in range(3 * ROUNDS)]
    for each in workers:
        each.join(60)
    assert [each.exitcode for each in workers] == [0, 0, 0]
    assert set(said) == {"whole"}
    with Store(database_url) as store:
        assert store.verify() == []
        assert all(shown(store.get(key)) for key in keys)


# --- at just that moment -----------------------------------------------------------------------------------------


def used_and_erased(chat: Conversation) -> None:
    """Show the picture and erase it: where nobody else shows it, its bytes are gone."""
    chat.erase(chat.user("Look", Image.from_bytes(PICTURE)), **WHY)


@pytest.fixture
def between(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Give how often the picture is erased, by somebody else, after it was kept and before it is used."""
    left = [0]
    with Store(database_url) as store:
        other = store.open("other", **SETTINGS)
        put = blobs.put

        def and_erase(*given: Any) -> Blob:
            kept = put(*given)
            if left[0] and threading.current_thread() is threading.main_thread():
                left[0] -= 1
                eraser = threading.Thread(target=used_and_erased, args=(other,))
                eraser.start()
                eraser.join()
            return kept

        monkeypatch.setattr(blobs, "put", and_erase)
        yield left


def said(chat: Conversation) -> None:
    """Show the picture in a turn."""
    chat.user("Look", Image.from_bytes(PICTURE))


def asked(chat: Conversation) -> None:
    """Show it in a question."""
    chat.begin("Look", Image.from_bytes(PICTURE)).finish(answer(random.Random(1)))


def answered(chat: Conversation) -> None:
    """Show it in what the model says."""
    source = {"type": "base64", "media_type": "image/png", "data": b64encode(PICTURE).decode()}
    chat.begin("Show me").finish(answer(random.Random(1), content=[{"type": "image", "source": source}]))


ACTS: Final = (said, asked, answered)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("times", [1, 3])
def test_what_was_erased_between_is_kept_again(
    database_url: str, between: list[int], act: Callable[[Conversation], None], times: int
) -> None:
    """The bytes are still in hand: they are kept once more, and the append goes on."""
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        between[0] = times
        act(chat)
        assert between[0] == 0
        assert shown(chat)
        assert shown(store.get("k"))
        assert store.verify() == []


def test_who_is_never_fast_enough_is_told(database_url: str, between: list[int]) -> None:
    """After many erasures the append fails by an error of ours, and nothing of it is there; later it works."""
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        between[0] = 1000
        with pytest.raises(DatabaseError) as caught:
            said(chat)
        assert caught.value.reason == "erased"
        assert (len(chat.turns), store.get("k").version, store.verify()) == (0, 2, [])
        between[0] = 0
        said(chat)
        assert shown(store.get("k"))


def test_the_control_of_keeping_it_again(
    database_url: str, between: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the append fails, by an error of ours and with nothing half there."""
    monkeypatch.setattr(attachments, "ERASURES", 0)
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        between[0] = 1
        with pytest.raises(DatabaseError, match="erased"):
            said(chat)
        assert (store.get("k").version, store.verify()) == (2, [])
