"""Going back and branching off from the command line, and what the model was shown at each moment."""

from __future__ import annotations

import pytest

from conversation_store import Client, Store
from conversation_store.testing import MessagesAPI
from tests.cli import terminals


@pytest.fixture
def url(database_url: str) -> str:
    """Give a database with a conversation of two questions."""
    with (
        MessagesAPI() as api,
        Client(api_key=api.key, base_url=api.url, max_attempts=1) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("k", model="claude-haiku-4-5", max_tokens=64)
        api.answer("one", "C) Formicidae")
        chat.send("first question")
        chat.send("second question", prefill="It is (")
    return database_url


def test_a_fork_goes_on_from_a_turn(url: str) -> None:
    """By number; the parent stays as it is."""
    done = terminals.invoke("fork", "k", "--at", "1", "--key", "other", "--database", url)
    assert (done.returncode, done.stdout) == (0, b"other: goes on from 2 turns of k\n")
    assert b"second question" not in terminals.invoke("show", "other", "--database", url).stdout
    assert b"second question" in terminals.invoke("show", "k", "--database", url).stdout
    again = terminals.invoke("fork", "k", "--key", "other", "--database", url)
    assert (again.returncode, again.stdout) == (2, b"")
    assert b"key already" in again.stderr
    assert terminals.invoke("fork", "nobody", "--database", url).returncode == 3


def test_going_back(url: str) -> None:
    """What came after is not sent any more, and the record still has it."""
    done = terminals.invoke("rewind", "k", "1", "--database", url)
    assert (done.returncode, done.stdout) == (0, b"k: 2 turns not sent any more\n")
    assert b"second question" not in terminals.invoke("show", "k", "--database", url).stdout
    assert terminals.invoke("verify", "k", "--database", url).returncode == 0
    wrong = terminals.invoke("rewind", "k", "9", "--database", url)
    assert wrong.returncode == 2
    assert b"there are 2 turns, and none at 9" in wrong.stderr


def test_what_the_model_was_shown(url: str) -> None:
    """The turns of a past request, and the words put in the model's mouth; whatever became of the view since."""
    with Store(url) as store:
        chat = store.get("k")
        first, second = (exchange.position for exchange in chat.exchanges)
        assert [turn.text for turn in chat.as_seen_by(first)] == ["first question"]
        assert [turn.origin for turn in chat.as_seen_by(second)] == ["human", "model", "human", "prefill"]
        chat.rewind(None)
    shown = terminals.invoke("show", "k", "--as-seen-by", str(second), "--database", url).stdout.decode()
    assert [words for words in ("first question", "one", "second question", "It is (") if words in shown] == [
        "first question",
        "one",
        "second question",
        "It is (",
    ]
    assert "Formicidae" not in shown
    missing = terminals.invoke("show", "k", "--as-seen-by", "2", "--database", url)
    assert missing.returncode == 3
