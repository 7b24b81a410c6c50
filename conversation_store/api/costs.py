"""
What an answer cost: its recorded usage at the prices of its day.

Everything is counted in whole picodollars, and nothing is guessed: what has no known price is named instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Context, Decimal, Inexact
from typing import Any, Final

from attrs import define, field, frozen

from conversation_store.api.models import Model, Models
from conversation_store.record import canonical, cost
from conversation_store.record.cost import Price, Used, Work, digits

KINDS: Final = ("input", "write_5m", "write_1h", "read", "output")
BILLED_REFUSALS: Final = frozenset({"bio", "frontier_llm", "reasoning_extraction"})
BILLED_SINCE: Final = date(2026, 9, 24)
"""From then on a refusal of one of those categories is billed although it came before any output."""

_ANYWHERE: Final = ("global", "not_available")
_ANSWERING: Final = frozenset({"message", "fallback_message"})
_NO_OUTPUT: Final = frozenset({"fallback", "compaction"})
_EXACT: Final = Context(prec=100, traps=[Inexact])
_TOKEN: Final = Decimal(cost.PICO // 1_000_000)
_USE: Final = Decimal(cost.PICO // 1_000)
_EPOCH: Final = date(1970, 1, 1).toordinal()
_DAY: Final = 86_400_000_000


def day_of(at: int) -> date:
    """Say which day it was, UTC, at *at* microseconds since the epoch."""
    return date.fromordinal(_EPOCH + at // _DAY)


def price(
    answer: Mapping[str, Any],
    blocks: Sequence[Mapping[str, Any]],
    *,
    model: str,
    at: int,
    models: Models,
    tools: Callable[[], object] = tuple,
) -> Price:
    """
    Say what an answer cost.

    Args:
        answer: Its message-level fields: ``usage``, ``model``, ``stop_reason``, ``stop_details``.
        blocks: Its content.
        model: The model asked.
        at: When it was asked, microseconds since the epoch, UTC.
        models: The prices.
        tools: Gives the ``tools`` of the request; called only where code was executed.

    Source: Messages API documentation, Pricing, 2026-10; Refusals and fallback, 2026-10.
    """
    usage = answer.get("usage")
    bill = _Bill(models=models)
    if not isinstance(usage, Mapping):
        bill.missing.append("usage")
        return bill.price(Used())
    served = answer.get("model")
    bill.day, bill.usage, bill.served = day_of(at), usage, served if isinstance(served, str) else model
    work, uses = cost.used_by(usage, blocks)
    unbilled = _is_unbilled(answer, blocks, bill.day)
    for each, whose in zip(work, _whose(work, model, bill.served), strict=True):
        if unbilled and each.type in _ANSWERING:
            bill.add(_heading("refused", whose, Decimal(0)), each.prompt + each.output, 0)
        else:
            bill.add_work(each, whose)
    if uses or "server_tool_use" in usage or "fallback_credit" in usage:
        bill.add_server_tools(uses, tools)
    return bill.price(Used.of(work, uses))


def _is_unbilled(answer: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], day: date) -> bool:
    """
    Say whether an answer was refused before any output, and is free for that.

    Source: Messages API documentation, Refusals and fallback, 2026-10.
    """
    if answer.get("stop_reason") != "refusal" or any(block.get("type") not in _NO_OUTPUT for block in blocks):
        return False
    details = answer.get("stop_details")
    category = details.get("category") if isinstance(details, Mapping) else None
    return not (day >= BILLED_SINCE and isinstance(category, str) and category in BILLED_REFUSALS)


def _whose(work: Sequence[Work], asked: str, served: str) -> Iterator[str]:
    """Name the model of each piece of work; where the API does not, it is the one that answered at that point."""
    now = asked if any(each.type == "fallback_message" for each in work) else served
    for each in work:
        if each.type == "fallback_message" and each.model is not None:
            now = each.model
        yield each.model or now


@frozen
class _Rate:
    """What a model's tokens cost: for each kind its line without the count, and picodollars a token."""

    kinds: tuple[tuple[str, str, int], ...]
    factors: Mapping[str, Decimal]


@define
class _Bill:
    """A bill being made out; each line is the JSON that is recorded."""

    models: Models
    day: date = date.min
    usage: Mapping[str, Any] = field(factory=dict)
    served: str = ""
    lines: list[str] = field(factory=list)
    total: int = 0
    factors: dict[str, Decimal] = field(factory=dict)
    missing: list[str] = field(factory=list)
    open: list[str] = field(factory=list)

    def add(self, heading: str, count: int, unit: int) -> None:
        """Write a line: *count* at *unit* picodollars each."""
        if not count:
            return
        amount = count * unit
        self.total += amount
        self.lines.append(f'{heading},"count":{count},"amount":"{digits(amount)}"}}')

    def leave_open(self, kind: str, count: int) -> None:
        """Write a line whose amount cannot be decided for one exchange alone."""
        self.lines.append(f'{_heading(kind, None, None)},"count":{count}}}')
        self.open.append(kind)

    def add_work(self, work: Work, name: str) -> None:
        """Write the lines of one sampling, at its model's price."""
        if work.strange:
            self.missing += [f"usage.{each}" for each in work.strange]
        usage, model = self.usage, self.models.get(name)
        if model is None:
            self.missing.append(f"model {name}")
            return
        speed = self._speed(work, name, model)
        tier, geo = str(usage.get("service_tier") or "standard"), str(usage.get("inference_geo") or "global")
        tiers = model.price_tiers
        over = max([each for each in tiers if work.prompt > each], default=0) if tiers else 0
        memory: dict[object, _Rate] = self.models.memory
        key = (name, self.day, over, speed, tier, geo)
        rate = memory.get(key)
        if rate is None:
            rate = self._rate(model, key)
            if rate is None:
                return
            memory[key] = rate
        if rate.factors:
            self.factors |= rate.factors
        for kind, heading, unit in rate.kinds:
            if count := getattr(work, kind):
                self.add(heading, count, unit)

    def _speed(self, work: Work, name: str, model: Model) -> str:
        """Say how fast a sampling ran: ``usage.speed`` speaks of the model that served."""
        speed = work.speed or self.usage.get("speed")
        if speed is None:
            return "standard"
        if work.speed is None and name != self.served:
            if model.speed_fast != "fast":
                return "standard"
            if speed != "standard":
                self.missing.append(f"whether {name} ran {speed}")
        return str(speed)

    def _rate(self, model: Model, asked: tuple[str, date, int, str, str, str]) -> _Rate | None:
        """Work out what the prices of a model come to in this request; None where one is not known."""
        name, day, over, speed, tier, geo = asked
        row = model.price(day, prompt=over + 1 if over else 0, speed=speed)
        if row is None:
            fast = "" if speed == "standard" else f", {speed}"
            self.missing.append(f"price of {name} on {day}{fast}")
            return None
        lacking = len(self.missing)
        factors: dict[str, Decimal] = {}
        if tier == "batch" and row.batch is not None:
            factors["batch"] = row.batch
        elif tier != "standard":
            self.missing.append(f"price of {name} at service_tier {tier}")
        if geo in row.geo:
            factors[f"inference_geo {geo}"] = row.geo[geo]
        elif geo not in _ANYWHERE and (model.inference_geo or geo != "us"):
            self.missing.append(f"price of {name} at inference_geo {geo}")
        rate = _Rate(tuple([self._kind(name, kind, getattr(row, kind), factors) for kind in KINDS]), factors)
        return rate if len(self.missing) == lacking else None

    def _kind(self, name: str, kind: str, listed: Decimal, factors: Mapping[str, Decimal]) -> tuple[str, str, int]:
        price = listed
        for factor in factors.values():
            price = _EXACT.multiply(price, factor)
        return kind, _heading(kind, name, price), self._unit(name, price, _TOKEN)

    def _unit(self, name: str, price: Decimal, per: Decimal) -> int:
        """Say in picodollars what one costs; *per* is what it costs at a price of one dollar."""
        unit = _EXACT.multiply(price, per)
        if unit != int(unit):
            self.missing.append(f"price of {name}: {price} is finer than a picodollar each")
        return int(unit)

    def add_server_tools(self, uses: Mapping[str, int], tools: Callable[[], object]) -> None:
        """Write the lines of server tools, and what cannot be decided for one exchange alone."""
        listed = self.models.server_tools
        prices = {"web_search": listed.web_search, "web_fetch": listed.web_fetch}
        for kind, count in uses.items():
            if kind in prices:
                self.add(_heading(kind, None, prices[kind]), count, self._unit(kind, prices[kind], _USE))
            elif kind == "code_execution" and _free(tools(), listed.code_execution_free_with):
                self.add(_heading(kind, None, Decimal(0)), count, 0)
            else:
                # Code is billed by the container's hour, of which so many a month are free.
                self.leave_open(kind, count)
        self.missing += [f"usage.server_tool_use{name}" for name in cost.strange_uses(self.usage)]
        credit = self.usage.get("fallback_credit")
        status = credit.get("status") if isinstance(credit, Mapping) else None
        if isinstance(status, Mapping) and status.get("type") == "redeemed":
            self.leave_open("fallback_credit", 1)

    def price(self, used: Used) -> Price:
        """Make it out."""
        told = f'{{"as_of":"{self.models.as_of}"'
        if self.missing:
            missing = canonical.header({"missing": list(dict.fromkeys(self.missing))})
            return Price(told.encode() + b"," + missing[1:], used=used)
        if self.factors:
            factors = {name: f"{factor:f}" for name, factor in self.factors.items()}
            told += f',"factors":{canonical.header(factors).decode()}'
        if self.open:
            told += f',"missing":{canonical.header({"": self.open}).decode()[4:-1]}'
        told += f',"lines":[{",".join(self.lines)}],"total":"{digits(self.total)}"}}'
        return Price(told.encode(), self.total, used)


def _heading(kind: str, model: str | None, price: Decimal | None) -> str:
    """Write the beginning of a line, as JSON: all but how many and how much."""
    said = {"kind": kind}
    if model is not None:
        said["model"] = model
    if price is not None:
        said["price"] = f"{price:f}"
    return canonical.header(said)[:-1].decode()


def _free(tools: object, free_with: Sequence[str]) -> bool:
    """Say whether a request's tools make its code execution free."""
    return isinstance(tools, (list, tuple)) and any(
        isinstance(tool, Mapping) and tool.get("type") in free_with for tool in tools
    )
