"""What an answer costs: every line of the price list by hand, the traps of ``usage``, and no digit lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversation_store import Client, Store
from conversation_store.api import costs, models
from conversation_store.record.cost import Price
from conversation_store.testing import MessagesAPI
from tests.corpus import lines, requires_corpus

MODELS: Final = models.load()
NOON: Final = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()) * 1_000_000


def usage(
    tokens: tuple[int, int, int, int, int] = (1_000, 2_000, 3_000, 4_000, 5_000), **more: object
) -> dict[str, Any]:
    """Write a usage object of so many tokens: uncached, written for 5 minutes, for an hour, read, answered."""
    uncached, short, long, read, output = tokens
    return {
        "input_tokens": uncached,
        "cache_creation_input_tokens": short + long,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": output,
        **more,
    }


def priced(
    used: Mapping[str, Any] | None,
    model: str = "claude-opus-5-5",
    *,
    asked: str | None = None,
    at: int = NOON,
    blocks: list[dict[str, Any]] | None = None,
    tools: object = (),
    known: models.Models = MODELS,
    **envelope: object,
) -> Price:
    """Price an answer."""
    answer = {"model": model, "stop_reason": "end_turn", "usage": used, **envelope}
    content = [{"type": "text", "text": "Hi"}] if blocks is None else blocks
    return costs.price(answer, content, model=asked or model, at=at, models=known, tools=lambda: tools)


def total(price: Price) -> str:
    """Say what a price is that must be known."""
    assert price.cost is not None, price.missing
    assert type(price.cost.total) is Decimal
    assert price.cost.total == sum((line.amount for line in price.cost.lines if line.amount is not None), Decimal(0))
    return f"{price.cost.total:f}"


# --- the price list, by hand -------------------------------------------------------------------------------------

# Messages API documentation, Pricing, 2026-10 (5.2: 2026-11). 1,000 uncached, 2,000 written for 5 minutes, 3,000 for
# an hour, 4,000 read, 5,000 answered, each times USD per million:
#   model                     1,000 *    2,000 *    3,000 *    4,000 *     5,000 *   = USD
FIVE_2 = ("0.008", "0.02", "0.048", "0.0008", "0.2", "0.2768")  #  8    10     16  0.20  40
FIVE_1 = ("0.01", "0.025", "0.06", "0.001", "0.25", "0.346")  #   10    12.50  20  0.25  50
FIVE = ("0.01", "0.025", "0.06", "0.004", "0.25", "0.349")  #     10    12.50  20  1.00  50
OPUS_55 = ("0.004", "0.01", "0.024", "0.0008", "0.1", "0.1388")  # 4     5      8  0.20  20
OPUS = ("0.005", "0.0125", "0.03", "0.002", "0.125", "0.1745")  #  5     6.25  10  0.50  25
SONNET_55 = ("0.002", "0.005", "0.012", "0.0004", "0.05", "0.0694")  # 2 2.50   4  0.10  10
SONNET_5 = ("0.002", "0.005", "0.012", "0.0008", "0.05", "0.0698")  #  2 2.50   4  0.20  10
SONNET = ("0.003", "0.0075", "0.018", "0.0012", "0.075", "0.1047")  #  3 3.75   6  0.30  15
HAIKU_55 = ("0.0001", "0.00025", "0.0006", "0.00004", "0.0025", "0.00349")  # 0.10 0.125 0.20 0.01 0.50
HAIKU = ("0.001", "0.0025", "0.006", "0.0004", "0.025", "0.0349")  #   1 1.25   2  0.10   5
BY_HAND: Final[Mapping[str, tuple[str, ...]]] = {
    "claude-fable-5-2": FIVE_2,
    "claude-mythos-5-2": FIVE_2,
    "claude-fable-5-1": FIVE_1,
    "claude-mythos-5-1": FIVE_1,
    "claude-fable-5": FIVE,
    "claude-mythos-5": FIVE,
    "claude-opus-5-5": OPUS_55,
    "claude-opus-5": OPUS,
    "claude-opus-4-8": OPUS,
    "claude-opus-4-7": OPUS,
    "claude-opus-4-6": OPUS,
    "claude-opus-4-5": OPUS,
    "claude-opus-4-5-20251101": OPUS,
    "claude-sonnet-5-5": SONNET_55,
    "claude-sonnet-5": SONNET_5,
    "claude-sonnet-4-6": SONNET,
    "claude-sonnet-4-5-20250929": SONNET,
    "claude-haiku-5-5": HAIKU_55,
    "claude-haiku-4-5-20251001": HAIKU,
}


@pytest.mark.parametrize("model", BY_HAND)
def test_every_line_of_the_price_list(model: str) -> None:
    """Each kind of token has its own price, to the digit."""
    price = priced(usage(), model)
    assert price.cost is not None
    assert [line.kind for line in price.cost.lines] == list(costs.KINDS)
    assert {line.model for line in price.cost.lines} == {model}
    assert tuple(f"{line.amount:f}" for line in price.cost.lines) == BY_HAND[model][:5]
    assert total(price) == BY_HAND[model][5]
    assert price.missing == ()


def test_the_table_above_leaves_no_model_out() -> None:
    """Every model with a price of today is in the table."""
    today = {model.id for model in MODELS if model.status != "retired" and model.prices}
    named = [MODELS.get(name) for name in BY_HAND]
    assert {model.id for model in named if model is not None} == today


# (tokens, facts) → USD; the arithmetic beside it, USD per million
CASES: Final[Mapping[str, tuple[str, dict[str, Any], str]]] = {
    # 10,000*0.10 + 90,000*0.01 + 1,000*0.50 = 1,000 + 900 + 500 = 2,400
    "tier: a prompt of just 100,000": ("claude-haiku-5-5", usage((10_000, 0, 0, 90_000, 1_000)), "0.0024"),
    # 10,000*0.50 + 90,001*0.05 + 1,000*2.50 = 5,000 + 4,500.05 + 2,500 = 12,000.05
    "tier: one cached token more": ("claude-haiku-5-5", usage((10_000, 0, 0, 90_001, 1_000)), "0.01200005"),
    # 1*0.50 + 60,000*0.625 + 40,000*1.00 + 1*2.50 = 0.5 + 37,500 + 40,000 + 2.5 = 77,503
    "tier: tokens written count": ("claude-haiku-5-5", usage((1, 60_000, 40_000, 0, 1)), "0.077503"),
    # 138,800 * 0.5
    "batch": ("claude-opus-5-5", usage(service_tier="batch"), "0.0694"),
    # 138,800 * 1.1
    "us": ("claude-opus-5-5", usage(inference_geo="us"), "0.15268"),
    # 138,800 * 0.5 * 1.1
    "batch in the us": ("claude-opus-5-5", usage(service_tier="batch", inference_geo="us"), "0.07634"),
    "global": ("claude-opus-5-5", usage(inference_geo="global", service_tier="standard"), "0.1388"),
    "a model that has no geo": ("claude-haiku-4-5", usage(inference_geo="not_available"), "0.0349"),
    # 1 token read: 0.01 * 0.5 * 1.1 = 0.0055
    "the least there is": (
        "claude-haiku-5-5",
        usage((0, 0, 0, 1, 0), service_tier="batch", inference_geo="us"),
        "0.0000000055",
    ),
    # 1,000*8 + 2,000*10 + 3,000*16 + 4,000*0.40 + 5,000*40 = 8,000 + 20,000 + 48,000 + 1,600 + 200,000 = 277,600
    "fast": ("claude-opus-5-5", usage(speed="fast"), "0.2776"),
    # 277,600 * 1.1
    "fast in the us": ("claude-opus-5-5", usage(speed="fast", inference_geo="us"), "0.30536"),
    # 1,000*10 + 2,000*12.50 + 3,000*20 + 4,000*1.00 + 5,000*50 = 349,000
    "fast, the older": ("claude-opus-5", usage(speed="fast"), "0.349"),
    "fast, the oldest": ("claude-opus-4-8", usage(speed="fast"), "0.349"),
    "fast was asked and standard served": ("claude-opus-4-6", usage(speed="standard"), "0.1745"),
    # 0.1388 + 3 * 10/1,000
    "web search": ("claude-opus-5-5", usage(server_tool_use={"web_search_requests": 3}), "0.1688"),
    "web search is not halved": (
        "claude-opus-5-5",
        usage(server_tool_use={"web_search_requests": 3}, service_tier="batch"),
        "0.0994",  # 0.0694 + 0.03
    ),
    "web fetch": ("claude-opus-5-5", usage(server_tool_use={"web_fetch_requests": 5, "x": None}), "0.1388"),
    # 1,000*4 + (2,000+3,000)*5 + 4,000*0.20 + 5,000*20 = 4,000 + 25,000 + 800 + 100,000 = 129,800
    "writes not told apart": ("claude-opus-5-5", {**usage(), "cache_creation": None}, "0.1298"),
    # 1,000*4 + 5,000*20
    "nulls": (
        "claude-opus-5-5",
        {"input_tokens": 1_000, "cache_creation_input_tokens": None, "iterations": None, "output_tokens": 5_000},
        "0.104",
    ),
    "an answer without a token": ("claude-opus-5-5", {"input_tokens": 0, "output_tokens": 0}, "0"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_case_worked_out_by_hand(name: str) -> None:
    """Tiers, factors and server tools come to what they come to on paper."""
    model, used, expected = CASES[name]
    assert total(priced(used, model)) == expected


# --- iterations ---------------------------------------------------------------------------------------------------


def step(kind: str, uncached: int, output: int, **more: object) -> dict[str, Any]:
    """Write one entry of ``iterations``."""
    return {"type": kind, **usage((uncached, 0, 0, 0, output)), **more}


def test_work_that_is_in_no_total_is_billed() -> None:
    """Compaction on demand has no top-level usage at all; its one iteration costs."""
    used = usage((0, 0, 0, 0, 0), iterations=[step("compaction", 180_000, 3_500)])
    # 180,000*4 + 3,500*20 = 720,000 + 70,000
    assert total(priced(used, stop_reason="compaction", blocks=[{"type": "compaction"}])) == "0.79"


def test_each_iteration_has_its_own_model() -> None:
    """An adviser is billed at its price, the answer at its own; the totals above are not billed once more."""
    steps = [step("message", 400, 100), step("advisor_message", 2_000, 300, model="claude-opus-5-5")]
    used = usage((1_000, 0, 0, 0, 500), iterations=[*steps, step("message", 600, 400)])
    price = priced(used, "claude-sonnet-5-5")
    # (400 + 600)*2 + (100 + 400)*10 + 2,000*4 + 300*20 = 2,000 + 5,000 + 8,000 + 6,000
    assert total(price) == "0.021"
    assert price.used is not None
    assert (price.used.input, price.used.output) == (3_000, 800)


def test_a_fallback_is_billed_at_both_models() -> None:
    """What came before the first switch was the model asked, where the API does not say."""
    steps = [step("message", 1_000, 10), step("fallback_message", 1_000, 500, model="claude-sonnet-5")]
    price = priced(usage(iterations=steps), "claude-sonnet-5", asked="claude-opus-5-5")
    # 1,000*4 + 10*20 + 1,000*2 + 500*10 = 4,000 + 200 + 2,000 + 5,000
    assert total(price) == "0.0112"
    assert price.cost is not None
    assert [line.model for line in price.cost.lines] == ["claude-opus-5-5"] * 2 + ["claude-sonnet-5"] * 2


def test_each_iteration_has_its_own_tier() -> None:
    """Two prompts of 60,000 are no prompt of 120,000."""
    used = usage((120_000, 0, 0, 0, 2), iterations=[step("message", 60_000, 1), step("message", 60_000, 1)])
    # 2 * (60,000*0.10 + 1*0.50) = 2 * 6,000.5
    assert total(priced(used, "claude-haiku-5-5")) == "0.012001"


def test_an_adviser_is_not_fast_because_the_answer_was() -> None:
    """``usage.speed`` speaks of the model that served; what another ran at is not known where it could be fast."""
    fast: dict[str, Any] = {"speed": "fast"}
    slow = step("advisor_message", 1_000, 0, model="claude-haiku-4-5")
    # 1,000*8 + 1,000*1
    assert total(priced(usage(iterations=[step("message", 1_000, 0), slow], **fast))) == "0.009"
    other = step("advisor_message", 1_000, 0, model="claude-opus-5")
    assert priced(usage(iterations=[other], **fast)).missing == ("whether claude-opus-5 ran fast",)
    # 1,000*10
    assert total(priced(usage(iterations=[{**other, **fast}]))) == "0.01"


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "day", "blocks", "expected"),
    [
        (None, "2026-11-22", [], "0"),
        ("cyber", "2026-11-22", [], "0"),
        ("bio", "2026-09-23", [], "0"),
        ("bio", "2026-09-24", [], "0.349"),
        ("frontier_llm", "2026-11-22", [], "0.349"),
        ("reasoning_extraction", "2026-11-22", [], "0.349"),
        ("cyber", "2026-11-22", [{"type": "text", "text": "Well,"}], "0.349"),
        (["bio"], "2026-11-22", [], "0"),
    ],
)
def test_a_refusal_costs_nothing_before_any_output(
    category: object, day: str, blocks: list[dict[str, Any]], expected: str
) -> None:
    """But for three categories, since a day in September."""
    at = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1_000_000
    details = {"type": "refusal", "category": category}
    price = priced(usage(), "claude-fable-5", at=at, blocks=blocks, stop_reason="refusal", stop_details=details)
    assert total(price) == expected
    if expected == "0":
        assert price.cost is not None
        assert [(line.kind, line.count) for line in price.cost.lines] == [("refused", 15_000)]


# --- what is not known --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "used", "missing"),
    [
        ("claude-tomorrow-7", usage(), "model claude-tomorrow-7"),
        ("claude-mythos-preview", usage(), "price of claude-mythos-preview on 2026-11-22"),
        ("claude-sonnet-5-5", usage(speed="fast"), "price of claude-sonnet-5-5 on 2026-11-22, fast"),
        ("claude-opus-5-5", usage(service_tier="priority"), "price of claude-opus-5-5 at service_tier priority"),
        (
            "claude-opus-5-5",
            usage(speed="fast", service_tier="batch"),
            "price of claude-opus-5-5 at service_tier batch",
        ),
        ("claude-opus-5-5", usage(inference_geo="eu"), "price of claude-opus-5-5 at inference_geo eu"),
        ("claude-opus-5-5", None, "usage"),
        ("claude-opus-5-5", {}, "usage.input_tokens"),
        ("claude-opus-5-5", usage(output_tokens=1.5), "usage.output_tokens"),
        (
            "claude-opus-5-5",
            usage(cache_creation={"ephemeral_24h_input_tokens": 5}),
            "usage.ephemeral_24h_input_tokens",
        ),
        ("claude-opus-5-5", usage(iterations=[7]), "usage.iterations"),
        ("claude-opus-5-5", usage(server_tool_use=7), "usage.server_tool_use"),
        (
            "claude-opus-5-5",
            usage(server_tool_use={"web_search_requests": -1}),
            "usage.server_tool_use.web_search_requests",
        ),
        ("claude-opus-5-5", usage(iterations=[step("advisor_message", 1, 1, model="x")]), "model x"),
    ],
)
def test_what_is_missing_is_named(model: str, used: dict[str, Any] | None, missing: str) -> None:
    """No price is guessed: there is no cost, and why."""
    price = priced(used, model)
    assert price.cost is None
    assert price.pico is None
    assert missing in price.missing
    assert json.loads(price.recorded) == {"as_of": "2026-11-22", "missing": list(price.missing)}


CODE: Final = [{"type": "server_tool_use", "name": "bash_code_execution", "id": "srvtoolu_1", "input": {}}]


@pytest.mark.parametrize("counted", [True, False])
def test_code_execution_is_left_open(counted: bool) -> None:
    """A container's hour cannot be told from one exchange: the line is there without an amount."""
    used = usage(server_tool_use={"code_execution_requests": 1}) if counted else usage()
    price = priced(used, blocks=CODE)
    assert price.cost is not None
    assert price.cost.unpriced == price.missing == ("code_execution",)
    assert price.cost.lines[-1].amount is None
    assert price.cost.lines[-1].count == 1
    assert total(price) == "0.1388"


def test_code_execution_is_free_with_newer_web_tools() -> None:
    """A web tool of 2026-02-09 or later in the same request makes it free, and the line says so."""
    price = priced(usage(), blocks=CODE, tools=[{"type": "web_search_20260209", "name": "web_search"}])
    assert price.cost is not None
    assert price.cost.unpriced == ()
    assert price.cost.lines[-1].amount == 0
    older = priced(usage(), blocks=CODE, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert older.missing == ("code_execution",)


def test_a_redeemed_credit_and_a_tool_of_tomorrow_are_left_open() -> None:
    """What lowers or raises a bill by an unknown amount has a line of its own."""
    credit = {"status": {"type": "redeemed"}}
    price = priced(usage(fallback_credit=credit, server_tool_use={"teleport_requests": 2}))
    assert price.missing == ("teleport", "fallback_credit")
    assert total(price) == "0.1388"


def test_a_price_finer_than_what_is_counted_is_refused() -> None:
    """Nothing is rounded: a price that picodollars cannot say is not a known price."""
    fine = {"input": "0.0000001", "write_5m": "1", "write_1h": "1", "read": "1", "output": "1", "from": None}
    known = MODELS.with_model({"id": "claude-opus-5-5", "prices": [fine]})
    assert "finer than a picodollar" in priced(usage(), known=known).missing[0]


# --- days ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "read"), [("2026-09-28", "0.0008"), ("2026-10-06", "0.0008"), ("2026-10-07", "0.0004")]
)
def test_a_price_is_that_of_the_day_of_the_request(day: str, read: str) -> None:
    """A new price holds from its first day, UTC, to the microsecond."""
    start = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1_000_000
    for at in (start, start + 86_399_999_999):
        assert costs.day_of(at) == date.fromisoformat(day)
        assert total(priced(usage((0, 0, 0, 4_000, 0)), "claude-sonnet-5-5", at=at)) == read


# --- properties ---------------------------------------------------------------------------------------------------

counts = st.integers(0, 10**7)
tokens = st.tuples(counts, counts, counts, counts, counts)
billable = st.sampled_from([name for name in BY_HAND if name != "claude-haiku-5-5"])
facts = st.fixed_dictionaries(
    {
        "service_tier": st.sampled_from([None, "standard", "batch"]),
        "inference_geo": st.sampled_from([None, "global", "us", "not_available"]),
    }
)


def paper(name: str, used: tuple[int, ...], told: Mapping[str, Any]) -> Fraction:
    """Work a cost out in fractions, from the data alone."""
    row = next(each for each in reversed(MODELS.get(name).prices) if each.speed == "standard")  # type: ignore[union-attr]
    prices = (row.input, row.write_5m, row.write_1h, row.read, row.output)
    amount = sum((Fraction(price) * count for price, count in zip(prices, used, strict=True)), Fraction(0))
    amount *= Fraction(1, 2) if told["service_tier"] == "batch" else 1
    amount *= Fraction(11, 10) if told["inference_geo"] == "us" and row.geo else 1
    return amount / 1_000_000


@given(billable, tokens, facts)
def test_a_cost_is_exact_and_never_negative(name: str, used: tuple[int, int, int, int, int], told: Any) -> None:
    """It equals what fractions say, whatever precision the caller's decimal context has."""
    with localcontext(prec=3):
        price = priced(usage(used, **told), name)
    assert price.cost is not None
    assert Fraction(price.cost.total) == paper(name, used, told)
    assert price.cost.total >= 0
    assert price.pico == Fraction(price.cost.total) * 10**12


@given(st.lists(st.tuples(billable, tokens), min_size=1, max_size=5), facts)
def test_a_cost_is_additive(steps: list[tuple[str, tuple[int, int, int, int, int]]], told: Any) -> None:
    """Iterations together cost what each of them costs alone."""
    work = [{"type": "message", "model": name, **usage(used)} for name, used in steps]
    together = priced(usage(iterations=work, **told)).pico
    alone = [priced(usage(used, **told), name).pico for name, used in steps]
    assert together == sum(each for each in alone if each is not None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
members = st.sampled_from([*usage(), "iterations", "server_tool_use", "service_tier", "inference_geo", "speed"])


@given(st.dictionaries(members | st.just("fallback_credit"), json_values), st.text(max_size=5) | json_values)
def test_no_usage_keeps_an_answer_from_being_saved(used: dict[str, Any], model: Any) -> None:
    """Whatever stands there, there is a cost or a reason; what is recorded reads back."""
    price = priced(used, model, asked="claude-opus-5-5")
    assert (price.cost is None) == (price.pico is None)
    assert price.cost is not None or price.missing
    again = Price(price.recorded, price.pico)
    assert (again.cost, again.missing) == (price.cost, price.missing)
    assert b"." not in json.dumps(_floats(json.loads(price.recorded))).encode()


def _floats(value: object) -> list[float]:
    """Find every float in parsed JSON: money must not hide in one."""
    if isinstance(value, float):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for item in inner for each in _floats(item)]


# --- recorded answers ---------------------------------------------------------------------------------------------


def recorded() -> Iterator[Mapping[str, Any]]:
    """Read every whole answer of the recorded exchanges, and what the official SDK makes of the streamed ones."""
    for name in ("blocking.jsonl", "response_only.jsonl", "expected_accumulated.jsonl"):
        for entry in lines(name):
            told = [entry.get("response", {}).get("body"), *entry.values()]
            yield from (each for each in told if isinstance(each, dict) and "usage" in each)


@requires_corpus
def test_every_recorded_answer_has_a_cost_or_a_reason() -> None:
    """What the real API counted can be priced; where not, because the model or the place has no listed price."""
    known = unknown = 0
    for answer in recorded():
        price = costs.price(answer, answer.get("content", []), model=str(answer.get("model")), at=NOON, models=MODELS)
        known += price.cost is not None
        unknown += price.cost is None
        reasons = ("model claude-3-5-sonnet", "price of claude-sonnet-5 at inference_geo <")
        assert price.cost is not None or all(reason.startswith(reasons) for reason in price.missing), price.missing
    assert known > 250
    assert unknown < 20


def test_the_loopback_api_can_be_billed() -> None:
    """Its usage is in the form of the real one's."""
    with MessagesAPI() as api, Client(api.key, base_url=api.url) as client, Store("sqlite://", client=client) as store:
        chat = store.open("a", model="claude-haiku-5-5", max_tokens=64)
        reply = chat.send("Hi")
        assert reply.exchange.cost is not None
        assert reply.exchange.cost == chat.exchanges[0].cost
        assert chat.cost == reply.exchange.cost.total > 0
