"""What models cost and what conversations did: the commands ``models`` and ``usage``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import click
from attrs import asdict

from conversation_store.api import models as model_data
from conversation_store.api.client import Client
from conversation_store.api.models import Model, Models, Price
from conversation_store.cli.databases import database_options, find, key_argument, to_read
from conversation_store.cli.failures import Code, MissingModelError
from conversation_store.cli.terminal import Screen, complain, notices, one_line
from conversation_store.formats.wording import counted
from conversation_store.record import canonical
from conversation_store.record.cost import Totals
from conversation_store.storage import ledger

_MILLION: Final = 1_000_000
_THOUSAND: Final = 1_000
_ROOM_FOR_THINKING: Final = 100
_LONGEST: Final = 40
_SHOWN: Final = Decimal("0.000001")
_AMPLE: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)


def plain(_: object, __: object, value: Any) -> Any:
    """Say in JSON what a field holds: money as the digits it has, days as ISO 8601."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, (date, UUID, Enum)):
        return str(value.value) if isinstance(value, Enum) else str(value)
    return sorted(value) if isinstance(value, frozenset) else value


def _print_json(screen: Screen, rows: Sequence[Totals | Model]) -> None:
    told = [asdict(row, value_serializer=plain) for row in rows]
    screen.data(canonical.header({"": told}).decode()[4:-1])


def _table(screen: Screen, headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: frozenset[int]) -> None:
    """Print lines in columns as wide as they need; numbers to the right, the columns in *words* to the left."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for number, row in enumerate([headings, *rows]):
        cells = [
            text.ljust(width) if n in words else text.rjust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = " ".join([cells[0], *cells[1:]]).rstrip()
        screen.line((line, "dim") if number == 0 else line)


# --- models --------------------------------------------------------------------------------------------------------


def _tokens(count: int) -> str:
    """Write a limit as people say it: ``200k``, ``1M``."""
    if count % _MILLION == 0:
        return f"{count // _MILLION}M"
    return f"{count // _THOUSAND}k" if count % _THOUSAND == 0 else str(count)


def today() -> date:
    """Say which day it is, UTC."""
    return datetime.now(UTC).date()


def _status(model: Model) -> str:
    if model.retires is not None:
        return f"{model.status}, {'since' if model.status == 'retired' else 'retires'} {model.retires}"
    return f"{model.status}, not before {model.not_before}" if model.not_before else model.status


def _thinking(model: Model) -> str:
    return "/".join(accepted.type for accepted in model.thinking.accepts)


def _row(model: Model, *, wide: bool) -> list[str]:
    price = model.price(min(today(), model.retires) if model.retires else today())
    amounts = ("?",) * 3 if price is None else tuple(f"{each:f}" for each in (price.input, price.read, price.output))
    cells = [model.id, _tokens(model.context), _tokens(model.max_output), *amounts, str(model.cache_minimum)]
    return [*cells, *([_thinking(model)] if wide else []), ",".join(_notes_on(model))]


def _notes_on(model: Model) -> Iterator[str]:
    if model.status == "retired":
        yield f"retired {model.retires}" if model.retires else "retired"
        return
    if model.prefill:
        yield "prefill"
    if model.status == "deprecated":
        yield f"to {model.retires}" if model.retires else "deprecated"
    dearer = max(model.price_tiers, default=0)
    if dearer:
        yield f"more over {_tokens(dearer)}"


def _print_list(screen: Screen, known: Models) -> None:
    wide = not screen.is_terminal or screen.width >= _ROOM_FOR_THINKING
    headings = ["model", "ctx", "max", "in $", "read", "out", "cache", *(["thinking"] if wide else []), ""]
    rows = [_row(model, wide=wide) for model in known]
    _table(screen, headings, rows, words=frozenset({0, len(headings) - 1, len(headings) - 2 if wide else 0}))
    screen.line((f"As of {known.as_of}; USD per million tokens; models NAME tells the rest.", "dim"))


def _print_model(screen: Screen, model: Model) -> None:
    screen.line((model.id, "bold"), f"  also {', '.join(model.aliases)}" if model.aliases else "")
    told = {
        "status": _status(model),
        "context": f"{model.context:,} tokens",
        "output": f"{model.max_output:,} tokens at most",
        "prefill": "yes" if model.prefill else "no",
        "thinking": f"{_thinking(model)}, {model.thinking.default} where the request does not say",
        "effort": "/".join(model.effort.levels) or "no",
        "cache": f"from {model.cache_minimum:,} tokens on",
        "uncertain": ", ".join(sorted(model.uncertain)),
    }
    for name, words in told.items():
        if words:
            screen.line((f"  {name:10}", "dim"), words)
    for price in model.prices:
        screen.line(("  price     ", "dim"), _price(price))


def _price(price: Price) -> str:
    when = [f"from {price.since}" if price.since else "always"]
    when += [f"prompts over {price.prompt_over:,}"] if price.prompt_over else []
    when += [price.speed] if price.speed != "standard" else []
    kinds = (
        f"in {price.input:f}, 5m {price.write_5m:f}, 1h {price.write_1h:f}, read {price.read:f}, out {price.output:f}"
    )
    factors = [f"batch *{price.batch:f}"] if price.batch is not None else []
    factors += [f"{place} *{factor:f}" for place, factor in price.geo.items()]
    return f"{kinds} ({', '.join([*when, *factors])})"


def differences(known: Models, offered: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """
    Compare what the Models API says with the list.

    Returns:
        The model, and what differs: what the list says and what the API does.
    """
    seen = set()
    for told in offered:
        name = str(told.get("id"))
        model = known.get(name)
        if model is None:
            yield name, "is not in the list"
            continue
        seen.add(model.id)
        for field, ours, theirs in _compared(model, told):
            if theirs is not None and ours != theirs:
                yield name, f"{field} is {ours or 'not known'} in the list, {theirs} at the API"
    for model in known:
        if model.status != "retired" and model.id not in seen:
            yield model.id, "is in the list, and the API does not offer it to this key"


def _compared(model: Model, told: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    retires = told.get("retires_at")
    yield "context", model.context, told.get("max_input_tokens")
    yield "output", model.max_output, told.get("max_tokens")
    yield "status", model.status, told.get("lifecycle")
    yield "retirement", model.retires and str(model.retires), retires[:10] if isinstance(retires, str) else None
    capabilities = told.get("capabilities")
    thinking = capabilities.get("thinking") if isinstance(capabilities, Mapping) else None
    types = thinking.get("types") if isinstance(thinking, Mapping) else None
    if isinstance(types, Mapping):
        # The API says nothing of "disabled" for models that cannot think at all.
        offered = sorted(name for name, each in types.items() if isinstance(each, Mapping) and each.get("supported"))
        yield "thinking", "/".join(sorted(each.type for each in model.thinking.accepts)), "/".join(offered) or None


@click.command("models")
@click.argument("name", required=False)
@click.option("--refresh", is_flag=True, help="Ask the API, and say what differs from the list.")
@click.option("--json", "as_json", is_flag=True, help="Write the list as JSON.")
def models(name: str | None, refresh: bool, as_json: bool) -> int:
    """
    Say what is known of models: limits, prices, prefill, thinking, and from how many tokens on prompts are cached.

    With --refresh the API is asked (ANTHROPIC_API_KEY); exit code 1 where it says something else.
    """
    screen, known = Screen(), model_data.load()
    one = None if name is None else known.get(name)
    if refresh and as_json:
        raise click.UsageError("--refresh says what differs; it has no --json")
    if name is not None and one is None and not refresh:
        raise MissingModelError(name)
    if refresh:
        waiting = screen.waiting()
        with Client() as client, notices():
            waiting.show("asking the API")
            try:
                offered = client.models()
            finally:
                waiting.hide()
        names = {name, one.id if one else name}
        found = [each for each in differences(known, offered) if name is None or each[0] in names]
        for model, what in found:
            screen.line((one_line(model), "bold"), f" {what}")
        screen.line(f"{counted(len(offered), 'model')} at the API: ", counted(len(found), "difference"))
        return Code.FINDING if found else Code.DONE
    if as_json:
        _print_json(screen, list(known) if one is None else [one])
    elif one is None:
        _print_list(screen, known)
    else:
        _print_model(screen, one)
    return Code.DONE


# --- usage ---------------------------------------------------------------------------------------------------------


def money(amount: Decimal) -> str:
    """Write USD: every digit up to the sixth, rounded after it."""
    if amount == amount.quantize(_SHOWN, context=_AMPLE):
        return f"{amount:f}"
    return f"{amount.quantize(_SHOWN, context=_AMPLE):f}"


def _cells(totals: Totals, by: Sequence[str]) -> list[str]:
    writes = totals.write_5m_tokens + totals.write_1h_tokens
    tokens = (totals.input_tokens, totals.read_tokens, writes, totals.output_tokens)
    groups = ["-" if totals.by[name] is None else one_line(_group(name, totals.by[name]), _LONGEST) for name in by]
    unknown = f"+ {totals.unpriced} unknown" if totals.unpriced else ""
    return [*groups, f"{totals.exchanges:,}", *(f"{each:,}" for each in tokens), money(totals.cost), unknown]


def _group(name: str, value: object) -> str:
    return f"{value:%Y-%m}" if name == "month" and isinstance(value, date) else str(value)


@click.command("usage")
@key_argument("which", metavar="[KEY|ID]", required=False)
@database_options
@click.option(
    "--by",
    type=click.Choice(tuple(ledger.GROUPS)),
    multiple=True,
    default=("day",),
    show_default=True,
    help="A line for each of these; may be given several times.",
)
@click.option("--since", type=click.DateTime(("%Y-%m-%d",)), metavar="DAY", help="From this day on, UTC.")
@click.option(
    "--until", type=click.DateTime(("%Y-%m-%d",)), metavar="DAY", help="Up to this day, and not including it."
)
@click.option("--json", "as_json", is_flag=True, help="Write the sums as JSON, every digit of them.")
def usage(  # noqa: PLR0917 - click names them all
    which: str | None,
    database: str,
    scope: str,
    by: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
) -> int:
    """
    Sum what one conversation used and cost, or all of them: exchanges, tokens by kind, USD.

    Costs are those recorded with the answers. What has no known cost is counted beside, never taken for nothing.
    """
    screen, by = Screen(), tuple(dict.fromkeys(by))
    limits: dict[str, Any] = {"since": since and since.date(), "until": until and until.date()}
    with to_read(database, scope) as store:
        of = None if which is None else find(store, which).id
        rows = store.usage(by, of=of, **limits)
        (all_,) = store.usage(of=of, **limits)
    if as_json:
        _print_json(screen, rows)
        return Code.DONE
    if not rows:
        complain("no exchanges are recorded here for that")
        return Code.DONE
    headings = [*by, "exchanges", "input", "read", "written", "output", "USD", ""]
    cells = [_cells(row, by) for row in rows]
    if len(rows) > 1:
        cells.append([*("all", *([""] * (len(by) - 1))), *_cells(all_, ())])
    _table(screen, headings, cells, words=frozenset({*range(len(by)), len(headings) - 1}))
    for note in _notes(all_):
        screen.line((note, "yellow"))
    return Code.DONE


def _notes(totals: Totals) -> Iterator[str]:
    if totals.unpriced:
        yield f"USD leaves out {counted(totals.unpriced, 'exchange')} whose cost is not known, or not whole."
    if totals.maybe_billed:
        yield f"{counted(totals.maybe_billed, 'exchange')} may have been billed without an answer."
