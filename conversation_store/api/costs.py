"""
What an answer cost: its recorded usage at the prices of its day.

Everything is counted in whole picodollars, and nothing is guessed: what has no known price is named instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Context, Decimal, Inexact
from typing import Any, Final

from attrs import define, field

from conversation_store.api.models import Model, Models
from conversation_store.api.models import Price as Row
from conversation_store.record import canonical, cost
from conversation_store.record.cost import Price, Work, digits

KINDS: Final = ("input", "write_5m", "write_1h", "read", "output")
BILLED_REFUSALS: Final = frozenset({"bio", "frontier_llm", "reasoning_extraction"})
BILLED_SINCE: Final = date(2026, 9, 24)
"""From then on a refusal of one of those categories is billed although it came before any output."""

_ANYWHERE: Final = (None, "", "global", "not_available")
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
        return bill.price()
    bill.day, bill.usage = day_of(at), usage
    served = answer.get("model")
    bill.served = served if isinstance(served, str) else model
    work = cost.work_of(usage)
    unbilled = _is_unbilled(answer, blocks, bill.day)
    for each, whose in zip(work, _whose(work, model, bill.served), strict=True):
        if unbilled and each.type in _ANSWERING:
            bill.add("refused", whose, each.prompt + each.output, Decimal(0))
        else:
            bill.add_work(each, whose)
    bill.add_server_tools(_uses(usage, blocks), tools)
    return bill.price()


def _uses(usage: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the uses of server tools; code execution also where only the content tells of it."""
    uses = cost.server_tools_of(usage)
    executed = max(uses.get("code_execution", 0), cost.executions(blocks))
    return {**uses, "code_execution": executed} if executed else uses


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


@define
class _Bill:
    """A bill being made out."""

    models: Models
    day: date = date.min
    usage: Mapping[str, Any] = field(factory=dict)
    served: str = ""
    lines: list[tuple[str, str | None, int, Decimal | None, int]] = field(factory=list)
    factors: dict[str, Decimal] = field(factory=dict)
    missing: list[str] = field(factory=list)
    open: list[str] = field(factory=list)

    def add(self, kind: str, model: str | None, count: int, price: Decimal, per: Decimal = _TOKEN) -> None:
        """Write a line; *per* is how many picodollars a unit costs at a price of one dollar."""
        unit = _EXACT.multiply(price, per)
        if unit != (whole := int(unit)):
            self.missing.append(f"{kind} of {model}: {price} is finer than a picodollar each")
        elif count:
            self.lines.append((kind, model, count, price, count * whole))

    def add_work(self, work: Work, name: str) -> None:
        """Write the lines of one sampling, at its model's price."""
        self.missing += [f"usage.{each}" for each in work.strange]
        model = self.models.get(name)
        if model is None:
            self.missing.append(f"model {name}")
            return
        speed = self._speed(work, name, model)
        row = model.price(self.day, prompt=work.prompt, speed=speed)
        if row is None:
            fast = "" if speed == "standard" else f", {speed}"
            self.missing.append(f"price of {name} on {self.day}{fast}")
            return
        factor = self._factor(name, model, row)
        for kind in KINDS:
            if count := getattr(work, kind):
                listed = getattr(row, kind)
                self.add(kind, name, count, listed if factor is None else _EXACT.multiply(listed, factor))

    def _speed(self, work: Work, name: str, model: Model) -> str:
        """Say how fast a sampling ran: ``usage.speed`` speaks of the model that served."""
        speed = work.speed or self.usage.get("speed")
        if speed is None:
            return "standard"
        if work.speed is None and name != self.served and model.speed_fast != "fast":
            return "standard"
        if work.speed is None and name != self.served and speed != "standard":
            self.missing.append(f"whether {name} ran {speed}")
        return str(speed)

    def _factor(self, name: str, model: Model, row: Row) -> Decimal | None:
        """Multiply what the prices of a row are multiplied with; None for nothing."""
        found: dict[str, Decimal] = {}
        tier, geo = self.usage.get("service_tier"), self.usage.get("inference_geo")
        if tier == "batch" and row.batch is not None:
            found["batch"] = row.batch
        elif tier not in (None, "standard"):
            self.missing.append(f"price of {name} at service_tier {tier}")
        if isinstance(geo, str) and geo in row.geo:
            found[f"inference_geo {geo}"] = row.geo[geo]
        elif geo not in _ANYWHERE and (model.inference_geo or geo != "us"):
            self.missing.append(f"price of {name} at inference_geo {geo}")
        if not found:
            return None
        self.factors |= found
        product = Decimal(1)
        for factor in found.values():
            product = _EXACT.multiply(product, factor)
        return product

    def add_server_tools(self, uses: Mapping[str, int], tools: Callable[[], object]) -> None:
        """Write the lines of server tools, and what cannot be decided for one exchange alone."""
        listed = self.models.server_tools
        prices = {"web_search": listed.web_search, "web_fetch": listed.web_fetch}
        for kind, count in uses.items():
            if kind in prices:
                self.add(kind, None, count, prices[kind], _USE)
            elif kind == "code_execution" and _free(tools(), listed.code_execution_free_with):
                self.add(kind, None, count, Decimal(0), _USE)
            else:
                # Code is billed by the container's hour, of which so many a month are free.
                self.lines.append((kind, None, count, None, 0))
                self.open.append(kind)
        credit = self.usage.get("fallback_credit")
        status = credit.get("status") if isinstance(credit, Mapping) else None
        if isinstance(status, Mapping) and status.get("type") == "redeemed":
            self.lines.append(("fallback_credit", None, 1, None, 0))
            self.open.append("fallback_credit")

    def price(self) -> Price:
        """Make it out."""
        said: dict[str, Any] = {"as_of": self.models.as_of.isoformat()}
        if self.missing:
            return Price(canonical.header({**said, "missing": list(dict.fromkeys(self.missing))}))
        total = sum([line[4] for line in self.lines])
        said["lines"] = [_said(*line) for line in self.lines]
        said["total"] = digits(total)
        if self.factors:
            said["factors"] = {name: f"{factor:f}" for name, factor in self.factors.items()}
        if self.open:
            said["missing"] = self.open
        return Price(canonical.header(said), total)


def _said(kind: str, model: str | None, count: int, price: Decimal | None, pico: int) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": kind, "count": count}
    if model is not None:
        said["model"] = model
    if price is not None:
        said["price"], said["amount"] = f"{price:f}", digits(pico)
    return said


def _free(tools: object, free_with: Sequence[str]) -> bool:
    """Say whether a request's tools make its code execution free."""
    return isinstance(tools, (list, tuple)) and any(
        isinstance(tool, Mapping) and tool.get("type") in free_with for tool in tools
    )
