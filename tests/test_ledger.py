"""What is kept of a cost, and its sums: recorded once, exact on both databases, and honest about what is not known."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import evolve
from sqlalchemy import create_engine, event, insert, inspect, select, text, update

from conversation_store import Client, Conversation, State, Store, Totals
from conversation_store.api import models
from conversation_store.errors import ContentError, SchemaMismatchError, StatusError, UnlistedModelError
from conversation_store.record import canonical
from conversation_store.storage import migrate
from conversation_store.storage.tables import conversation_exchange, metadata
from conversation_store.testing import Fault, MessagesAPI

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-opus-5-5", "max_tokens": 64}
LARGEST: Final = (1 << 63) - 1


def answer(model: str = "claude-opus-5-5", content: object = None, **fields: Any) -> bytes:
    """Write an answer; 1,000 tokens in and 500 out, which is 0.014 USD at Opus 5.5, unless said otherwise."""
    said = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": "Hi"}] if content is None else content,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1_000, "output_tokens": 500},
    }
    return json.dumps(said | fields).encode()


def talk(chat: Conversation, *answers: bytes) -> None:
    """Have exchanges with these answers."""
    for each in answers:
        chat.begin("Hello").finish(each)


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Collect what is asked of the database."""
    seen: list[str] = []

    def note(*arguments: Any) -> None:
        seen.append(arguments[2])

    event.listen(store._database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store._database.engine, "before_cursor_execute", note)


# --- what is kept ------------------------------------------------------------------------------------------------


def test_the_outcome_keeps_the_price(database_url: str) -> None:
    """The lines are in the outcome's body, under its commitment; the row says the same."""
    with Store(database_url) as store:
        chat = store.open("a", **SETTINGS)
        reply = chat.begin("Hello").finish(answer())
        (exchange,) = chat.exchanges
        assert reply.exchange.cost == exchange.cost is not None
        assert exchange.cost.total == Decimal("0.014")
        assert exchange.unpriced == ()
        entry, outcome = chat._history.outcome(exchange)
        assert outcome["price"] == {
            "as_of": "2026-11-22",
            "lines": [
                {"kind": "input", "model": "claude-opus-5-5", "price": "4", "count": 1000, "amount": "0.004"},
                {"kind": "output", "model": "claude-opus-5-5", "price": "20", "count": 500, "amount": "0.01"},
            ],
            "total": "0.014",
        }
        assert canonical.members(entry.body or b"")["price"]
        assert store.verify() == []


def test_a_later_price_list_changes_nothing(database_url: str) -> None:
    """What was recorded stays; what comes then has the new price."""
    dear = {"from": "2026-01-01", "input": "40", "write_5m": "50", "write_1h": "80", "read": "2", "output": "200"}
    later = models.load().with_model({"id": "claude-opus-5-5", "prices": [dear]})
    with Store(database_url) as store:
        talk(store.open("a", **SETTINGS), answer())
    with Store(database_url, models=later) as store:
        chat = store.get("a")
        assert chat.cost == Decimal("0.014")
        talk(chat, answer())
        totals = [each.cost.total for each in chat.exchanges if each.cost is not None]
        assert totals == [Decimal("0.014"), Decimal("0.14")]
        assert chat.cost == Decimal("0.154")


def test_each_end_has_its_cost(database_url: str) -> None:
    """What never ran cost nothing; what may have run, and what is pending, has no known cost."""
    with MessagesAPI() as api, Client(api.key, base_url=api.url, max_attempts=1) as client:
        with Store(database_url, client=client) as store:
            chat = store.open("a", **SETTINGS)
            for fault, state, cost in (
                (Fault.status(400), State.REJECTED, Decimal(0)),
                (Fault.status(429), State.FAILED, Decimal(0)),
                (Fault.status(500), State.FAILED, None),
            ):
                api.fail(fault)
                with pytest.raises(StatusError):
                    chat.send("Hello")
                last = chat.exchanges[-1]
                assert (last.state, last.cost.total if last.cost else None) == (state, cost)
            chat.begin("Hello")
            assert chat.exchanges[-1].cost is None
            usage = chat.usage
        assert (usage.exchanges, usage.unpriced, usage.maybe_billed, usage.cost) == (4, 2, 1, Decimal(0))


def test_a_refusal_before_any_output_is_free(database_url: str) -> None:
    """It is recorded with what it would have been."""
    with Store(database_url) as store:
        chat = store.open("a", **SETTINGS)
        details = {"type": "refusal", "category": "cyber", "explanation": None}
        reply = chat.begin("Hello").finish(answer(content=[], stop_reason="refusal", stop_details=details))
        assert reply.exchange.state is State.REFUSED
        assert chat.exchanges[0].cost == reply.exchange.cost is not None
        assert reply.exchange.cost.total == 0
        assert chat.usage.input_tokens == 1_000


def test_what_has_no_price_says_why(database_url: str) -> None:
    """An unlisted model is answered and recorded; the cost is not known, and not nothing."""
    with Store(database_url) as store:
        chat = store.open("a", **SETTINGS)
        talk(chat, answer("claude-tomorrow"), answer())
        assert chat.exchanges[0].cost is None
        assert chat.exchanges[0].unpriced == ("model claude-tomorrow",)
        assert (chat.cost, chat.usage.unpriced) == (Decimal("0.014"), 1)


@pytest.mark.parametrize(("tool", "open_"), [("web_fetch_20260209", 0), ("web_fetch_20250910", 1)])
def test_code_execution_goes_by_the_tools_of_the_request(database_url: str, tool: str, open_: int) -> None:
    """Free with the newer web tools; else its part of the bill is open, and counted as such."""
    block = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "code_execution", "input": {"code": "1"}}
    with Store(database_url) as store:
        chat = store.open("a", **SETTINGS, tools=[{"type": tool, "name": "web_fetch"}])
        talk(chat, answer(content=[block, {"type": "text", "text": "1"}]))
        usage = chat.usage
        assert (usage.code_executions, usage.unpriced, usage.cost) == (1, open_, Decimal("0.014"))


def test_the_kinds_of_all_iterations_are_summed(database_url: str) -> None:
    """Compaction on demand has zero totals above; its tokens and their cost are in the sums all the same."""
    zero = {"input_tokens": 0, "output_tokens": 0}
    work = {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500}
    with Store(database_url) as store:
        chat = store.open("a", **SETTINGS)
        talk(chat, answer(usage={**zero, "iterations": [work]}))
        assert (chat.usage.input_tokens, chat.usage.output_tokens, chat.cost) == (180_000, 3_500, Decimal("0.79"))
        assert chat.exchanges[0].usage.input_tokens == 0


# --- sums --------------------------------------------------------------------------------------------------------


def test_usage_is_summed_by_what_is_asked(database_url: str) -> None:
    """Every group alone, and two together; other scopes are not seen; each answer is one statement."""
    with Store(database_url) as store, Store(database_url, scope="other") as other:
        talk(other.open("a", **SETTINGS), answer())
        one, two = store.open("one", **SETTINGS), store.open(None, **SETTINGS)
        tools = {"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}
        counted = {
            "input_tokens": 1,
            "cache_read_input_tokens": 2,
            "cache_creation_input_tokens": 7,
            "output_tokens": 5,
        }
        written = {"cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}}
        talk(
            one,
            answer(),
            answer(usage={**counted, **written, **tools}),
        )
        talk(two, answer("claude-sonnet-5"))
        store.get(one.id).begin("Hello")
        for group in ("day", "month", "model", "key", "conversation", "state", ("model", "state"), ()):
            with statements(store) as seen:
                rows = store.usage(group)
            assert len([each for each in seen if each.lstrip().startswith("SELECT")]) == 1
            assert sum(row.exchanges for row in rows) == 4
            assert sum((row.cost for row in rows), Decimal(0)) == Decimal("0.0411514")
        today = datetime.now(UTC).date()
        assert [row.by for row in store.usage("month")] == [{"month": today.replace(day=1)}]
        by_key = {row.by["key"]: row for row in store.usage("key")}
        assert set(by_key) == {"one", None}
        # 0.014 + (1*4 + 3*5 + 4*8 + 2*0.20 + 5*20) / 1,000,000 + 2 * 10/1,000 = 0.014 + 0.0001514 + 0.02
        assert by_key["one"] == Totals(
            by={"key": "one"},
            exchanges=3,
            input_tokens=1_001,
            write_5m_tokens=3,
            write_1h_tokens=4,
            read_tokens=2,
            output_tokens=505,
            web_searches=2,
            web_fetches=1,
            cost=Decimal("0.0341514"),
            unpriced=1,
        )
        assert one.usage == evolve(by_key["one"], by={})
        assert {row.by["conversation"] for row in store.usage("conversation")} == {one.id, two.id}
        states = {(row.by["model"], row.by["state"]): row.exchanges for row in store.usage(("model", "state"))}
        assert states == {
            ("claude-opus-5-5", State.ANSWERED): 2,
            ("claude-opus-5-5", State.PENDING): 1,
            ("claude-sonnet-5", State.ANSWERED): 1,
        }


MOMENTS: Final = (
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2026, 2, 28, 0, 0, tzinfo=UTC),
    datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2026, 3, 1, 0, 0, tzinfo=UTC),
    datetime(2028, 2, 29, 12, 0, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
)


def microseconds(moment: datetime) -> int:
    """Say a moment in microseconds since the epoch."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_days_and_months_end_at_midnight_utc(database_url: str) -> None:
    """To the microsecond, whatever the time zone of the database's session."""
    with Store(database_url) as store:
        chat = store.open("a", **SETTINGS)
        talk(chat, *[answer()] * len(MOMENTS))
        with store._database.engine.begin() as connection:
            for exchange, moment in zip(chat.exchanges, MOMENTS, strict=True):
                here = conversation_exchange.c.position == exchange.position
                connection.execute(update(conversation_exchange).where(here).values(begun=microseconds(moment)))
        days = [moment.date() for moment in MOMENTS]
        assert [row.by["day"] for row in store.usage("day")] == sorted(set(days))
        assert [row.by["month"] for row in store.usage("month")] == sorted({day.replace(day=1) for day in days})

        def count(**limits: Any) -> int:
            (row,) = store.usage(**limits)
            return row.exchanges

        assert count(since=date(2026, 3, 1)) == 3
        assert count(until=date(2026, 3, 1)) == 3
        assert count(since=date(2026, 2, 28), until=date(2026, 3, 1)) == 2
        assert count(since=MOMENTS[2], until=microseconds(MOMENTS[3])) == 1
        ahead = timezone(timedelta(hours=5))
        assert (
            count(since=datetime(2026, 3, 1, 5, 0, tzinfo=ahead), until=datetime(2026, 3, 1, 5, 0, 1, tzinfo=ahead))
            == 1
        )


def test_sums_beyond_what_a_column_holds_are_exact(database_url: str) -> None:
    """Three rows of the most a column holds add up to more than any column would; nothing is rounded."""
    with Store(database_url) as store:
        chat = store.open("a", **SETTINGS)
        talk(chat, *[answer()] * 3)
        with store._database.engine.begin() as connection:
            connection.execute(update(conversation_exchange).values(cost=LARGEST, work_input=LARGEST))
        (row,) = store.usage()
        assert row.input_tokens == 3 * LARGEST
        assert row.cost == Decimal(3 * LARGEST) / 10**12
        assert chat.cost == row.cost


def test_more_than_a_column_holds_is_not_known_to_the_sums(database_url: str) -> None:
    """An absurd count is no reason to lose an answer: the record has its cost, the sum says that it lacks one."""
    with Store(database_url) as store:
        chat = store.open("a", **SETTINGS)
        talk(chat, answer(usage={"input_tokens": LARGEST, "output_tokens": 0}))
        (exchange,) = chat.exchanges
        assert exchange.cost is not None
        assert exchange.cost.total == Decimal(LARGEST * 4) / 10**6
        assert (chat.usage.unpriced, chat.usage.cost, chat.usage.input_tokens) == (1, Decimal(0), LARGEST)


def test_nothing_used_is_one_empty_row(database_url: str) -> None:
    """Without a group there is always an answer; with one there is a row for what occurs."""
    with Store(database_url) as store:
        assert store.usage() == [Totals()]
        assert store.usage("day") == []
        assert store.open("a", **SETTINGS).usage == Totals()


@pytest.mark.parametrize(
    "given",
    [
        {"group_by": "week"},
        {"group_by": ("day", "day")},
        {"since": "2026-01-01"},
        {"since": True},
        {"until": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is the case
        {"until": 1.5},
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict[str, Any]) -> None:
    """A group that is none, and a time that could be any, are named."""
    with Store("sqlite://") as store, pytest.raises(ContentError, match=next(iter(given))):
        store.usage(**given)


# --- databases of before -----------------------------------------------------------------------------------------


def test_a_database_of_the_first_revision_is_upgraded(bare_database_url: str, tmp_path: Path) -> None:
    """Its exchanges keep what they have; their cost is not known, and the sums say of how many."""
    from alembic import command  # noqa: PLC0415 - beside its use

    with Store(f"sqlite:///{tmp_path / 'new.db'}") as store:
        # Of a model without a price: an outcome of the first revision keeps none.
        talk(store.open("a", **SETTINGS), answer("claude-tomorrow"), answer("claude-tomorrow"))
        new = store._database.engine
        engine = create_engine(bare_database_url)
        with engine.begin() as connection:
            command.upgrade(migrate.configuration(connection), "0001")
            assert migrate.current(connection) == "0001"
            known = inspect(connection).get_table_names()
            for table in [each for each in metadata.sorted_tables if each.name in known]:
                there = {column["name"] for column in inspect(connection).get_columns(table.name)}
                columns = [column for column in table.columns if column.name in there]
                with new.connect() as source:
                    rows = [row._asdict() for row in source.execute(select(*columns))]
                if rows:
                    connection.execute(insert(table), rows)
    with pytest.raises(SchemaMismatchError, match="db upgrade"):
        Store(bare_database_url)
    with Store(bare_database_url, upgrade=True) as store:
        chat = store.get("a")
        assert store.verify() == []
        assert [(each.cost, each.usage.input_tokens) for each in chat.exchanges] == [(None, 1_000)] * 2
        expected = {"exchanges": 2, "input_tokens": 2_000, "output_tokens": 1_000, "unpriced": 2}
        assert chat.usage == Totals(**expected)  # type: ignore[arg-type]
        talk(chat, answer())
        assert (chat.cost, chat.usage.unpriced) == (Decimal("0.014"), 2)
        assert [turn.text for turn in chat.turns] == ["Hello", "Hi"] * 3
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM conversation_exchange WHERE cost IS NULL")).scalar() == 2
    engine.dispose()


# --- models nobody knows -----------------------------------------------------------------------------------------


def test_an_unlisted_model_is_taken_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """It is the caller's choice; that nothing is known of it is logged where it is set, and found by check()."""
    with Store("sqlite://") as store, caplog.at_level(logging.WARNING, "conversation_store"):
        chat = store.open("a", model="claude-tomorrow", max_tokens=64)
        chat.user("Hello")
        assert [finding.rule for finding in chat.check()] == ["listed"]
        chat.begin()
    assert [record.getMessage() for record in caplog.records] == [
        "claude-tomorrow is not in the list of models: its limits are not checked, its price is not known"
    ]


def test_an_unlisted_model_is_refused_where_asked(database_url: str) -> None:
    """Nothing is written, at every door; an entry in the list opens them."""
    with Store(database_url, on_unlisted="error") as store:
        with pytest.raises(UnlistedModelError, match="claude-tomorrow is not in the list of models"):
            store.open("a", model="claude-tomorrow", max_tokens=64)
        assert store.list() == []
        chat = store.open("a", **SETTINGS)
        version = chat.version
        doors: tuple[Any, ...] = (
            lambda: store.open("a", model="claude-tomorrow"),
            lambda: chat.update(model="claude-tomorrow"),
            lambda: chat.begin("Hello", model="claude-tomorrow"),
            lambda: chat.begin("Hello", model="claude-tomorrow", check=False),
        )
        for door in doors:
            with pytest.raises(UnlistedModelError) as caught:
                door()
            assert caught.value.model == "claude-tomorrow"
        assert chat.refresh().version == version
        chat.begin("Hello", model="claude-tomorrow", allow_unlisted_model=True)
        store.open("b", on_unlisted="warn", model="claude-tomorrow", max_tokens=64).begin("Hello")
    known = models.load().with_model({"id": "claude-tomorrow", "like": "claude-opus-5-5"})
    with Store(database_url, on_unlisted="error", models=known) as store:
        store.open("c", model="claude-tomorrow", max_tokens=64).begin("Hello")
    with Store(database_url) as store:
        with pytest.raises(UnlistedModelError):
            store.open("d", **SETTINGS, on_unlisted="error").begin("Hello", model="claude-tomorrow")
        with pytest.raises(ContentError, match="on_unlisted"):
            store.open("c", on_unlisted="maybe")
    with pytest.raises(ContentError, match="on_unlisted"):
        Store("sqlite://", on_unlisted="maybe")  # type: ignore[arg-type]
