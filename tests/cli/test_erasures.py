"""Erasing, holding and retaining from the command line: looked at first, asked, and said in the record."""

from __future__ import annotations

from typing import Final

import pytest

from conversation_store import Client, Store
from conversation_store.storage import identity
from conversation_store.testing import MessagesAPI
from tests.cli import terminals

WHY: Final = ("--reason", "asked for it", "--by", "a clerk")


@pytest.fixture
def url(database_url: str) -> str:
    """Give a database with a conversation of two questions, and an old one."""
    with (
        MessagesAPI() as api,
        Client(api_key=api.key, base_url=api.url, max_attempts=1) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("k", model="claude-haiku-4-5", max_tokens=64)
        api.answer("one", "two")
        chat.send("first SECRETWORD")
        chat.send("second question")
        chat.label(title="SECRETTITLE")
        at = identity.now() - 100 * 86_400_000_000
        with pytest.MonkeyPatch.context() as then:
            then.setattr(identity, "now", lambda: at)
            store.open("old", model="claude-haiku-4-5", max_tokens=64).user("long ago")
    return database_url


def test_a_turn_is_shown_asked_for_and_erased(url: str) -> None:
    """Without --yes nobody's silence is taken for consent; with it the turn goes, and verify has no fault."""
    asked = terminals.invoke("erase", "k", "0", *WHY, "--database", url)
    assert asked.returncode in {0, 130}
    assert b"1 turn to erase" in asked.stdout
    assert b"2 exchanges cannot be replayed" in asked.stdout
    assert b"SECRETWORD" in terminals.invoke("show", "k", "--database", url).stdout
    done = terminals.invoke("erase", "k", "0", *WHY, "--yes", "--database", url)
    assert done.returncode == 0
    assert b"1 turn erased" in done.stdout
    assert (b"db vacuum" in done.stderr) == url.startswith("postgresql")
    assert b"SECRETWORD" not in terminals.invoke("show", "k", "--database", url).stdout
    assert terminals.invoke("verify", "--database", url).returncode == 0
    wrong = terminals.invoke("erase", "k", "9", *WHY, "--yes", "--database", url)
    assert (wrong.returncode, wrong.stdout) == (2, b"")
    assert b"none at 9" in wrong.stderr


def test_labels_alone_and_then_all_of_it(url: str) -> None:
    """A title goes by itself; without a turn all goes; and then there is nothing left."""
    assert terminals.invoke("erase", "k", "--labels", *WHY, "--yes", "--database", url).returncode == 0
    shown = terminals.invoke("show", "k", "--database", url).stdout
    assert b"SECRETTITLE" not in shown
    assert b"second question" in shown
    with Store(url) as store:
        of = str(store.get("k").id)
    done = terminals.invoke("erase", "k", *WHY, "--yes", "--database", url)
    assert b"k: all of it" in done.stdout
    assert terminals.invoke("show", "k", "--database", url).returncode == 3
    assert b"second question" not in terminals.invoke("show", of, "--database", url).stdout
    again = terminals.invoke("erase", of, *WHY, "--yes", "--database", url)
    assert (again.returncode, again.stdout) == (0, b"")
    assert b"nothing left" in again.stderr


def test_who_and_why_are_needed(url: str) -> None:
    """Nothing is erased in nobody's name."""
    assert terminals.invoke("erase", "k", "0", "--yes", "--database", url).returncode == 2
    assert terminals.invoke("erase", "k", "--reason", " ", "--by", "me", "--yes", "--database", url).returncode == 2
    assert b"SECRETWORD" in terminals.invoke("show", "k", "--database", url).stdout


def test_a_hold_is_named_until_it_is_released(url: str) -> None:
    """What is held is not erased, and the refusal says by whom and why."""
    held = terminals.invoke("hold", "k", "--reason", "case 7", "--by", "counsel", "--database", url)
    assert (held.returncode, held.stdout[:9]) == (0, b"k: held, ")
    entry = held.stdout.split()[-1].decode()
    refused = terminals.invoke("erase", "k", "0", *WHY, "--yes", "--database", url)
    assert refused.returncode == 4
    assert b"case 7" in refused.stderr
    assert terminals.invoke("release", "k", "--hold", "1", *WHY, "--database", url).returncode == 2
    ended = terminals.invoke("release", "k", "--hold", entry, *WHY, "--database", url)
    assert ended.stdout == b"k: released, 1 hold\n"
    assert terminals.invoke("release", "k", *WHY, "--database", url).returncode == 2
    assert terminals.invoke("erase", "k", "0", *WHY, "--yes", "--database", url).returncode == 0


def test_retention_is_listed_and_applied(url: str) -> None:
    """What is due is listed; only --apply erases, in somebody's name, and only what is due."""
    listed = terminals.invoke("retain", "--older-than", "90", "--database", url)
    assert listed.returncode == 0
    assert b"old  all of it" in listed.stdout
    assert b"1 conversation due" in listed.stderr
    assert terminals.invoke("retain", "--older-than", "90", "--apply", "--yes", "--database", url).returncode == 2
    assert b"long ago" in terminals.invoke("show", "old", "--database", url).stdout
    done = terminals.invoke("retain", "--older-than", "90", "--apply", "--by", "timer", "--yes", "--database", url)
    assert b"1 turn erased" in done.stdout
    assert terminals.invoke("show", "old", "--database", url).returncode == 3
    assert b"SECRETWORD" in terminals.invoke("show", "k", "--database", url).stdout


def test_clearing_away(url: str) -> None:
    """The maintenance runs on both engines, and only where there is a store."""
    for more in ((), ("--full",)):
        assert b"cleared away" in terminals.invoke("db", "vacuum", url, *more).stdout
    assert terminals.invoke("db", "vacuum", "nowhere.db").returncode == 3
