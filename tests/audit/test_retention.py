"""Retention looks first, erases when told to, and leaves what is held or young."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import pytest

from conversation_store import Retention, Store
from conversation_store.audit import retention
from conversation_store.errors import ContentError
from conversation_store.storage import identity

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-haiku-4-5", "max_tokens": 64}
DAY: Final = 86_400_000_000


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Give a store on each engine in turn."""
    with Store(database_url) as opened:
        yield opened


def said(store: Store, key: str, days: int, patch: pytest.MonkeyPatch) -> None:
    """Say something in a conversation some days ago."""
    at = identity.now() - days * DAY
    with patch.context() as then:
        then.setattr(identity, "now", lambda: at)
        store.open(key, **SETTINGS).user(f"{days} days ago")


def test_what_nobody_changed_for_long_goes_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old conversations are due, unless held; a look changes nothing, and what is erased is not due again."""
    for key, days in (("bot:old", 100), ("bot:held", 100), ("bot:young", 10), ("other:old", 100)):
        said(store, key, days, monkeypatch)
    then_at = identity.now() - 99 * DAY
    with monkeypatch.context() as then:
        then.setattr(identity, "now", lambda: then_at)
        store.get("bot:held").hold("case 7", "counsel")
    retained = store.retention(Retention(older_than=timedelta(days=90), key_prefix="bot:"))
    for _ in range(2):
        due = retained.preview()
        assert sorted((each.key, each.hold is not None) for each in due) == [("bot:held", True), ("bot:old", False)]
        assert all(each.positions is None for each in due)
    erasure = retained.apply(reason="90 days are over", by="a timer")
    assert len(erasure.turns) == 1
    assert [each.key for each in retained.preview()] == ["bot:held"]
    assert retained.apply(reason="90 days are over", by="a timer").turns == ()
    for key in ("bot:held", "bot:young", "other:old"):
        assert store.get(key).turns
    assert store.verify() == []


def test_single_turns_go_where_a_conversation_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With turns, what was said long ago goes and the rest stays, however young the conversation's last change is."""
    for days in (100, 95, 10):
        said(store, "k", days, monkeypatch)
    retained = store.retention(Retention(older_than=timedelta(days=90), turns=True))
    (due,) = retained.preview()
    assert due.positions == frozenset(turn.position for turn in store.get("k").turns[:2])
    retained.apply(reason="90 days are over", by="a timer")
    assert [turn.text for turn in store.get("k").turns] == ["10 days ago"]
    assert retained.preview() == ()
    assert store.verify() == []


def test_a_long_list_is_read_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """More conversations than one reading takes are all looked at."""
    monkeypatch.setattr(retention, "PAGE", 2)
    for n in range(5):
        said(store, f"k{n}", 100, monkeypatch)
    assert len(store.retention(Retention(older_than=timedelta(days=90))).preview()) == 5


@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(days=-1), 90])
def test_a_time_that_is_none_is_refused(wrong: Any) -> None:
    """Nothing is due at once, nor before it was said."""
    with pytest.raises(ContentError, match="older_than"):
        Retention(older_than=wrong)
