"""What is known of each model agrees with the documentation, and a caller can add to it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from importlib import resources
from typing import Any

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError

from conversation_store.api.models import Model, load
from conversation_store.errors import ConfigurationError
from conversation_store.record.canonical import loads

TODAY = date(2026, 11, 22)
RAW: Any = loads(resources.files("conversation_store.api").joinpath("models.json").read_bytes())

# Messages API documentation, Models overview and Model deprecations, 2026-10:
# context, max output, status, promised until, retires
TABLE: dict[str, tuple[int, int, str, str | None, str | None]] = {
    "claude-fable-5-2": (1_000_000, 128_000, "active", None, None),
    "claude-mythos-5-2": (1_000_000, 128_000, "active", None, None),
    "claude-fable-5-1": (1_000_000, 128_000, "active", "2027-09-01", None),
    "claude-mythos-5-1": (1_000_000, 128_000, "active", None, None),
    "claude-fable-5": (1_000_000, 128_000, "active", "2027-06-09", None),
    "claude-mythos-5": (1_000_000, 128_000, "active", "2027-06-09", None),
    "claude-mythos-preview": (1_000_000, 128_000, "deprecated", None, None),
    "claude-opus-5-5": (1_000_000, 128_000, "active", "2027-09-22", None),
    "claude-opus-5": (1_000_000, 128_000, "active", "2027-07-24", None),
    "claude-opus-4-8": (1_000_000, 128_000, "active", "2027-05-28", None),
    "claude-opus-4-7": (1_000_000, 128_000, "active", "2027-04-16", None),
    "claude-opus-4-6": (1_000_000, 128_000, "active", "2027-02-05", None),
    "claude-opus-4-5-20251101": (200_000, 64_000, "active", "2026-11-24", None),
    "claude-sonnet-5-5": (1_000_000, 128_000, "active", "2027-09-28", None),
    "claude-sonnet-5": (1_000_000, 128_000, "active", "2027-06-30", None),
    "claude-sonnet-4-6": (1_000_000, 128_000, "active", "2027-02-17", None),
    "claude-sonnet-4-5-20250929": (200_000, 64_000, "deprecated", None, "2026-11-30"),
    "claude-haiku-5-5": (1_000_000, 128_000, "active", "2027-10-07", None),
    "claude-haiku-4-5-20251001": (200_000, 64_000, "active", "2026-10-15", None),
}
RETIRED = {
    "claude-opus-4-1": "2026-08-05",
    "claude-opus-4-20250514": "2026-06-15",
    "claude-sonnet-4-20250514": "2026-06-15",
    "claude-3-haiku-20240307": "2026-04-20",
    "claude-3-7-sonnet-20250219": "2026-02-19",
    "claude-3-5-haiku-20241022": "2026-02-19",
    "claude-3-opus-20240229": "2026-01-05",
}

# Messages API documentation, Pricing, 2026-10: input, 5 m write, 1 h write, read, output
OPUS = ("5", "6.25", "10", "0.50", "25")
PRICES = {
    "claude-fable-5-2": ("8", "10", "16", "0.20", "40"),
    "claude-mythos-5-2": ("8", "10", "16", "0.20", "40"),
    "claude-fable-5-1": ("10", "12.50", "20", "0.25", "50"),
    "claude-mythos-5-1": ("10", "12.50", "20", "0.25", "50"),
    "claude-fable-5": ("10", "12.50", "20", "1.00", "50"),
    "claude-mythos-5": ("10", "12.50", "20", "1.00", "50"),
    "claude-opus-5-5": ("4", "5", "8", "0.20", "20"),
    "claude-opus-5": OPUS,
    "claude-opus-4-8": OPUS,
    "claude-opus-4-7": OPUS,
    "claude-opus-4-6": OPUS,
    "claude-opus-4-5": OPUS,
    "claude-sonnet-5-5": ("2", "2.50", "4", "0.10", "10"),
    "claude-sonnet-5": ("2", "2.50", "4", "0.20", "10"),
    "claude-sonnet-4-6": ("3", "3.75", "6", "0.30", "15"),
    "claude-sonnet-4-5": ("3", "3.75", "6", "0.30", "15"),
    "claude-haiku-5-5": ("0.10", "0.125", "0.20", "0.01", "0.50"),
    "claude-haiku-4-5": ("1", "1.25", "2", "0.10", "5"),
}

# Messages API documentation, Thinking, 2026-10: default, accepted types; "≤ high" marks an effort condition
ALWAYS = ("on", {"adaptive"})
THINKING: dict[str, tuple[str, set[str]]] = {
    "claude-fable-5-2": ALWAYS,
    "claude-fable-5-1": ALWAYS,
    "claude-fable-5": ALWAYS,
    "claude-mythos-5-2": ALWAYS,
    "claude-mythos-5-1": ALWAYS,
    "claude-mythos-5": ALWAYS,
    "claude-opus-5-5": ALWAYS,
    "claude-mythos-preview": ("on", {"adaptive", "enabled"}),
    "claude-opus-5": ("on", {"adaptive", "disabled ≤ high"}),
    "claude-opus-4-8": ("off", {"adaptive", "disabled"}),
    "claude-opus-4-7": ("off", {"adaptive", "disabled"}),
    "claude-sonnet-5-5": ("on", {"adaptive", "between_tools ≤ high"}),
    "claude-sonnet-5": ("on", {"adaptive", "disabled"}),
    "claude-haiku-5-5": ("on", {"adaptive", "disabled ≤ high"}),
    "claude-opus-4-6": ("off", {"adaptive", "enabled", "disabled"}),
    "claude-sonnet-4-6": ("off", {"adaptive", "enabled", "disabled"}),
    "claude-opus-4-5": ("off", {"enabled", "disabled"}),
    "claude-sonnet-4-5": ("off", {"enabled", "disabled"}),
    "claude-haiku-4-5": ("off", {"enabled", "disabled"}),
}

FIVE = {"claude-fable-5", "claude-fable-5-1", "claude-fable-5-2", "claude-mythos-5", "claude-mythos-5-1"} | {
    "claude-mythos-5-2"
}
LATEST = {"claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"}
OPUS_4 = {"claude-opus-4-6", "claude-opus-4-7", "claude-opus-4-8"}
FOUR_FIVE = {"claude-opus-4-5-20251101", "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"}
PREVIEW = {"claude-mythos-preview"}

# Which of today's models have a field set so; everything else must have another value.
FLAGS: list[tuple[dict[str, object], set[str]]] = [
    ({"prefill": True}, FOUR_FIVE),
    ({"system_role": True}, FIVE | LATEST | {"claude-opus-4-8", "claude-opus-5"}),
    (
        {"tool_choice_forced": False},
        (LATEST - {"claude-haiku-5-5"})
        | PREVIEW
        | {f"claude-{line}-5-{n}" for line in ("fable", "mythos") for n in (1, 2)},
    ),
    ({"sampling": ("2023-06-01",)}, FOUR_FIVE | {"claude-opus-4-6", "claude-sonnet-4-6"}),
    ({"cache_minimum": 512}, FIVE | LATEST | {"claude-opus-5"}),
    (
        {"cache_minimum": 1024},
        {"claude-opus-4-8", "claude-sonnet-5", "claude-sonnet-4-6", "claude-sonnet-4-5-20250929"},
    ),
    ({"cache_minimum": 2048}, PREVIEW | {"claude-opus-4-7"}),
    (
        {"cache_minimum": 4096},
        {"claude-opus-4-6", "claude-opus-4-5-20251101", "claude-haiku-4-5-20251001"},
    ),
    ({"compaction": False}, FOUR_FIVE),
    ({"context": 200_000}, FOUR_FIVE),
    ({"pdf_pages": 100}, FOUR_FIVE),
    ({"tokenizer": 1}, FOUR_FIVE | {"claude-opus-4-6", "claude-sonnet-4-6"}),
    ({"computer_single_tool": False}, LATEST | {"claude-fable-5-2", "claude-mythos-5-2"}),
    ({"inference_geo": False}, FOUR_FIVE),
    ({"speed_fast": "fast"}, {"claude-opus-5-5", "claude-opus-5", "claude-opus-4-8"}),
    ({"speed_fast": "standard"}, {"claude-opus-4-6"}),
    ({"speed_fast": "refused"}, {"claude-opus-4-7"}),
    ({"prefix_binding": "always"}, {"claude-fable-5-2", "claude-mythos-5-2"}),
    ({"prefix_binding": "new accounts"}, LATEST | {"claude-fable-5-1", "claude-mythos-5-1"}),
]


def known(name: str) -> Model:
    """Return a model that must be there."""
    found = load().get(name)
    assert found is not None, name
    return found


def test_every_model_of_the_documentation_is_there_and_no_other() -> None:
    """The collection holds the table above and the retired models."""
    assert {model.id for model in load()} == set(TABLE) | {known(name).id for name in RETIRED}
    assert len(load()) == len(TABLE) + len(RETIRED)


@pytest.mark.parametrize("name", TABLE)
def test_a_model_has_the_numbers_of_the_documentation(name: str) -> None:
    """Context, output, status and dates are those of the table."""
    model = known(name)
    context, max_output, status, promised, retires = TABLE[name]
    assert (model.context, model.max_output, model.status) == (context, max_output, status)
    assert model.not_before == (date.fromisoformat(promised) if promised else None)
    assert model.retires == (date.fromisoformat(retires) if retires else None)


@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_model_has_its_day(name: str) -> None:
    """A retired model says since when requests fail."""
    model, day = known(name), date.fromisoformat(RETIRED[name])
    assert (model.status, model.retires) == ("retired", day)
    assert not model.usable(TODAY)
    assert not model.usable(day)
    assert model.usable(date.fromordinal(day.toordinal() - 1))


@pytest.mark.parametrize("name", PRICES)
def test_a_price_is_that_of_the_documentation(name: str) -> None:
    """All five prices agree, as Decimal, to the digit."""
    price = known(name).price(TODAY)
    assert price is not None
    amounts = (price.input, price.write_5m, price.write_1h, price.read, price.output)
    assert tuple(map(str, amounts)) == PRICES[name]
    assert all(type(amount) is Decimal for amount in amounts)
    assert price.batch == Decimal("0.5")
    assert price.geo == ({"us": Decimal("1.1")} if known(name).inference_geo else {})
    assert price.source.startswith("Pricing, ")


@pytest.mark.parametrize(("prompt", "amount"), [(0, "0.10"), (100_000, "0.10"), (100_001, "0.50")])
def test_a_long_prompt_has_a_price_of_its_own(prompt: int, amount: str) -> None:
    """Above 100,000 prompt tokens every token of a Haiku 5.5 request costs more."""
    price = known("claude-haiku-5-5").price(TODAY, prompt=prompt)
    assert price is not None
    assert price.input == Decimal(amount)
    if prompt > 100_000:
        dear = (price.write_5m, price.write_1h, price.read, price.output)
        assert tuple(map(str, dear)) == ("0.625", "1.00", "0.05", "2.50")


@pytest.mark.parametrize(
    ("name", "prices"),
    [
        ("claude-opus-5-5", ("8", "40")),
        ("claude-opus-5", ("10", "50")),
        ("claude-opus-4-8", ("10", "50")),
        ("claude-opus-4-7", None),
        ("claude-sonnet-5-5", None),
    ],
)
def test_fast_mode_has_a_price_where_it_is_offered(name: str, prices: tuple[str, str] | None) -> None:
    """A fast answer is priced by its own row, which knows no batches."""
    price = known(name).price(TODAY, speed="fast")
    assert (None if price is None else (str(price.input), str(price.output))) == prices
    assert price is None or price.batch is None


def test_an_old_exchange_keeps_its_old_price() -> None:
    """The price is the one that held on the day of the request."""
    model = known("claude-sonnet-5-5")
    days = [date(2026, 9, 27), date(2026, 9, 28), date(2026, 10, 6), date(2026, 10, 7), TODAY]
    found = [model.price(day) for day in days]
    assert [price and str(price.read) for price in found] == [None, "0.20", "0.20", "0.10", "0.10"]


def test_an_unknown_price_is_none() -> None:
    """Where no price is known none is invented."""
    assert known("claude-mythos-preview").price(TODAY) is None


@pytest.mark.parametrize("name", THINKING)
def test_thinking_is_accepted_as_documented(name: str) -> None:
    """Default and accepted types agree, with their effort conditions."""
    default, accepts = THINKING[name]
    thinking = known(name).thinking
    assert thinking.default == default
    assert {
        accepted.type + (" ≤ high" if accepted.effort == ("low", "medium", "high") else "")
        for accepted in thinking.accepts
    } == accepts


def test_an_effort_condition_is_applied() -> None:
    """A type may be taken at one effort and not at another."""
    thinking = known("claude-opus-5").thinking
    assert thinking.allows("disabled")
    assert thinking.allows("disabled", "high")
    assert not thinking.allows("disabled", "xhigh")
    assert not thinking.allows("enabled")
    assert thinking.allows("adaptive", "max")


def test_effort_is_accepted_as_documented() -> None:
    """Levels and defaults are those of the documentation."""
    every = ("low", "medium", "high", "xhigh", "max")
    expected: dict[str, tuple[tuple[str, ...], str | None]] = dict.fromkeys(TABLE, (every, "high"))
    expected |= dict.fromkeys(("claude-opus-5-5", "claude-haiku-5-5"), (every, "medium"))
    expected |= dict.fromkeys(
        ("claude-opus-4-6", "claude-sonnet-4-6", "claude-mythos-preview"),
        (("low", "medium", "high", "max"), "high"),
    )
    expected["claude-opus-4-5-20251101"] = (("low", "medium", "high"), "high")
    expected |= dict.fromkeys(("claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"), ((), None))
    assert {name: (known(name).effort.levels, known(name).effort.default) for name in TABLE} == expected


@pytest.mark.parametrize(("flags", "names"), FLAGS, ids=[str(flags) for flags, _ in FLAGS])
def test_exactly_the_documented_models_have_a_flag(flags: dict[str, Any], names: set[str]) -> None:
    """A field has its value on the models the documentation names and on no other of today's."""
    assert {model.id for model in load().where(on=TODAY, **flags)} == names


def test_retired_models_are_named_only_when_asked_for() -> None:
    """Models that no longer answer are not recommended, and can still be listed."""
    assert {model.id for model in load().where(prefill=True)} == FOUR_FIVE
    assert {model.id for model in load().where(status="retired")} == {known(name).id for name in RETIRED}
    before = {model.id for model in load().where(prefill=True, on=date(2026, 1, 4))}
    assert "claude-3-opus-20240229" in before
    assert {model.id for model in load().where(prefill=True, on=date(2026, 11, 30))} == FOUR_FIVE - {
        "claude-sonnet-4-5-20250929"
    }


def test_a_model_answers_from_its_first_day() -> None:
    """A model is not usable before it was released."""
    assert not known("claude-opus-5-5").usable(date(2026, 9, 21))
    assert known("claude-opus-5-5").usable(date(2026, 9, 22))


def test_images_are_limited_by_context_and_generation() -> None:
    """Small contexts take 100 images, others 600; from Opus 4.7 on images may be larger."""
    limits = {name: known(name).image for name in TABLE}
    assert {n for n, limit in limits.items() if limit.per_request == 100} == FOUR_FIVE
    assert {limit.per_request for limit in limits.values()} == {100, 600}
    small = {n for n, limit in limits.items() if (limit.edge, limit.tokens) == (1568, 1568)}
    assert small == FOUR_FIVE | {"claude-opus-4-6", "claude-sonnet-4-6"}
    assert {(limit.edge, limit.tokens) for limit in limits.values()} == {(1568, 1568), (2576, 4784)}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("claude-opus-4-5", "claude-opus-4-5-20251101"),
        ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("claude-opus-4-1", "claude-opus-4-1-20250805"),
        ("claude-opus-4-0", "claude-opus-4-20250514"),
        ("claude-sonnet-4-0", "claude-sonnet-4-20250514"),
        ("claude-3-7-sonnet-latest", "claude-3-7-sonnet-20250219"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku-20241022"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5-20251001"),
        ("claude-opus-5-5-20260922", "claude-opus-5-5"),
        ("claude-opus-5-5", "claude-opus-5-5"),
    ],
)
def test_an_alias_names_its_model(name: str, model: str) -> None:
    """Aliases and dated forms lead to the entry."""
    assert known(name).id == model
    assert name in load()


@pytest.mark.parametrize("name", ["", "claude", "claude-opus-6", "gpt-4", "claude-opus-5-5-2026", "20260922"])
def test_an_unknown_name_is_none(name: str) -> None:
    """A name that no entry has is not guessed at."""
    assert load().get(name) is None
    assert name not in load()


def test_no_two_models_share_a_name() -> None:
    """Every id and alias leads to one model."""
    names = [name for model in load() for name in (model.id, *model.aliases)]
    assert len(names) == len(set(names))


def test_server_tools_have_their_prices() -> None:
    """Searches, fetches and container hours cost what the documentation says."""
    tools = load().server_tools
    assert (tools.web_search, tools.web_fetch) == (Decimal(10), Decimal(0))
    assert (tools.code_execution, tools.code_execution_free_hours) == (Decimal("0.05"), Decimal(1550))
    assert tools.code_execution_least == 5
    assert "web_search_20260209" in tools.code_execution_free_with


def test_the_data_is_dated_and_sourced() -> None:
    """The file has its day; every model and price names where it was read; uncertain fields exist."""
    assert load().as_of == TODAY
    for model in load():
        assert model.sources
        assert all(", 202" in source for source in model.sources)
        assert all(price.source and price.since for price in model.prices)
        assert all(hasattr(model, name.partition(".")[0]) for name in model.uncertain)
    assert {"cache_minimum", "max_output", "system_role", "thinking"} <= known("claude-fable-5-2").uncertain
    assert "retires" in known("claude-mythos-preview").uncertain


def test_the_file_holds_no_floats() -> None:
    """Money is strings and counts are integers, so no digit is lost on the way."""

    def walk(value: object) -> None:
        assert not isinstance(value, float), value
        if isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(RAW)


def test_the_models_are_read_once() -> None:
    """Loading again gives the same collection."""
    assert load() is load()


def test_a_collection_and_its_models_do_not_change() -> None:
    """Adding a model makes another collection."""
    before = len(load())
    load().with_model({"id": "claude-opus-6", "like": "claude-opus-5-5"})
    assert len(load()) == before
    with pytest.raises(FrozenInstanceError):
        known("claude-opus-5").context = 1  # type: ignore[misc]


def test_a_caller_corrects_a_model() -> None:
    """Fields that are given take their place, the others stay."""
    price = {"from": "2027-01-01", "input": "3", "write_5m": "4", "write_1h": "6", "read": "0.1", "output": "9"}
    models = load().with_model({"id": "claude-opus-4-5", "max_output": 100, "prices": [price]})
    corrected = models.get("claude-opus-4-5-20251101")
    assert corrected is not None
    assert (corrected.max_output, corrected.context) == (100, 200_000)
    assert corrected.aliases == ("claude-opus-4-5",)
    assert len(models) == len(load())
    found = corrected.price(date(2027, 1, 1))
    assert found is not None
    assert found.output == 9


def test_a_caller_adds_a_model_like_another() -> None:
    """A new model is a known one with what differs."""
    models = load().with_model({"id": "claude-opus-6", "like": "claude-opus-4-5", "prefill": False})
    added = models.get("claude-opus-6")
    assert added is not None
    assert (added.prefill, added.context, added.aliases) == (False, 200_000, ())
    assert models.get("claude-opus-4-5") == load().get("claude-opus-4-5")


def test_a_caller_adds_a_dated_model_beside_the_undated() -> None:
    """A snapshot with an entry of its own is no longer taken for the undated name."""
    name = "claude-opus-5-5-20270101"
    models = load().with_model({"id": name, "like": "claude-opus-5-5", "max_output": 7})
    assert [(m.id, m.max_output) for m in models if m.id.startswith("claude-opus-5-5")] == [
        ("claude-opus-5-5", 128_000),
        (name, 7),
    ]
    assert models.get(name) != models.get("claude-opus-5-5")


def test_a_caller_adds_a_whole_model() -> None:
    """A Model of the caller's making is taken as it is."""
    own = evolve(known("claude-opus-5"), id="my-model", aliases=("mine",))
    assert load().with_model(own).get("mine") is own


def test_a_caller_gives_values_for_fields() -> None:
    """Python's own values are as good as those of the file."""
    source = known("claude-opus-5-5")
    given = {"id": "claude-opus-5", "retires": date(2028, 1, 1), "effort": source.effort, "prices": source.prices}
    corrected = load().with_model(given).get("claude-opus-5")
    assert corrected is not None
    assert (corrected.retires, corrected.effort) == (date(2028, 1, 1), source.effort)
    assert corrected.prices == source.prices


@pytest.mark.parametrize("entry", RAW["models"], ids=lambda entry: entry["id"])
def test_an_entry_in_the_form_of_the_file_is_a_whole_model(entry: dict[str, Any]) -> None:
    """The form of the file is the form a caller may give, new names included."""
    given = {**entry, "id": "new", "aliases": []}
    added = load().with_model(given).get("new")
    assert added == evolve(known(entry["id"]), id="new", aliases=())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a model needs an id"),
        ({"id": 5}, "a model needs an id"),
        ({"id": "claude-opus-6"}, "missing"),
        ({"id": "claude-opus-6", "like": "claude-opus-9"}, "like: no model 'claude-opus-9'"),
        ({"id": "claude-opus-5", "contxt": 5}, "model claude-opus-5: contxt: no such field"),
        ({"id": "claude-opus-5", "context": "5"}, "context: '5' is no int"),
        ({"id": "claude-opus-5", "prefill": 1}, "prefill: 1 is no bool"),
        ({"id": "claude-opus-5", "status": "old"}, "status: 'old' is none of active"),
        ({"id": "claude-opus-5", "retires": "soon"}, "retires: Invalid isoformat"),
        ({"id": "claude-opus-5", "aliases": "x"}, "aliases: 'x' is no list"),
        ({"id": "claude-opus-5", "effort": "high"}, "effort: 'high' is no object"),
        ({"id": "claude-opus-5", "prices": {"input": "4"}}, "prices: .* is no list"),
        ({"id": "claude-opus-5", "prices": [{"input": 4.0}]}, "input: 4.0 is no text"),
        ({"id": "claude-opus-5", "prices": [{"input": "dear"}]}, "input: "),
        ({"id": "claude-opus-5", "prices": [{"input": "NaN"}]}, "input: 'NaN' is no price"),
        ({"id": "claude-opus-5", "prices": [{"input": "4"}]}, "missing"),
    ],
)
def test_a_wrong_entry_is_refused(given: dict[str, Any], message: str) -> None:
    """The error names the model, the field and what is wrong."""
    with pytest.raises(ConfigurationError, match=message):
        load().with_model(given)


def test_an_unknown_flag_is_refused() -> None:
    """Asking for a field no model has is a mistake, not an empty answer."""
    with pytest.raises(ConfigurationError, match="no field prefil"):
        load().where(prefil=True)
