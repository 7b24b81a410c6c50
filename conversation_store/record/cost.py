"""
What an exchange used and what it cost, as values: counted work, priced lines, and sums.

Money is counted in picodollars, whole ones: 0.01 USD per million tokens, halved and with a tenth added, is 5,500 of
them a token. Outside it is a ``Decimal``, in the record a string of decimal digits. No float is anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from attrs import field, frozen

from conversation_store.record import canonical

PICO: Final = 10**12
"""Picodollars in a dollar."""

LARGEST: Final = (1 << 63) - 1
"""What a column of the ledger holds."""

_SHORT: Final = "ephemeral_5m_input_tokens"
_LONG: Final = "ephemeral_1h_input_tokens"
_CODE: Final = frozenset({"code_execution", "bash_code_execution", "text_editor_code_execution"})


def dollars(pico: int) -> Decimal:
    """Say picodollars in USD; exact, whatever the caller's decimal context is."""
    return Decimal(digits(pico))


def digits(pico: int) -> str:
    """Write picodollars as USD: decimal digits, no exponent, no zeros at the end."""
    whole, part = divmod(pico, PICO)
    return f"{whole}.{part:012d}".rstrip("0") if part else str(whole)


# --- what was used -------------------------------------------------------------------------------------------------


@frozen
class Work:
    """
    The tokens of one sampling of a model, each of one kind.

    Attributes:
        type: ``message``, ``compaction``, ``advisor_message``, ``fallback_message`` or what comes to be.
        model: The model that did it, where the API says so.
        input: Prompt tokens neither written to nor read from the cache.
        write_5m: Tokens written to the cache for five minutes; ``write_1h`` for an hour.
        read: Tokens read from the cache.
        output: Tokens of the answer.
        speed: ``standard`` or ``fast``, where the API says so.
        strange: Members that are no count, or that count something with no known name.
    """

    type: str = "message"
    model: str | None = None
    input: int = 0
    write_5m: int = 0
    write_1h: int = 0
    read: int = 0
    output: int = 0
    speed: str | None = None
    strange: tuple[str, ...] = ()

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, cached ones included: what the tier of a price goes by."""
        return self.input + self.write_5m + self.write_1h + self.read


def work_of(usage: Mapping[str, Any]) -> list[Work]:
    """
    Take a ``usage`` object for the work that is billed.

    With ``iterations`` that is what they list, each by itself: compaction and advice are in no other total. Without
    it is the object itself. Cache writes that are not told apart by their time to live count as five minutes.

    Source: Messages API documentation, Pricing and Compaction, 2026-10.
    """
    iterations = usage.get("iterations")
    if isinstance(iterations, list) and iterations:
        return [_work(each) if isinstance(each, Mapping) else Work(strange=("iterations",)) for each in iterations]
    return [_work(usage, top=True)]


def _work(given: Mapping[str, Any], *, top: bool = False) -> Work:
    strange: list[str] = []
    if top:
        strange += [name for name in ("input_tokens", "output_tokens") if given.get(name) is None]
    written, told = _count(given, "cache_creation_input_tokens", strange), given.get("cache_creation")
    short = long = 0
    if isinstance(told, Mapping):
        short, long = _count(told, _SHORT, strange), _count(told, _LONG, strange)
        strange += [name for name in told if name not in {_SHORT, _LONG} and told[name]]
    # What no time to live is told of was written for the usual one.
    short += max(written - short - long, 0)
    kind, model, speed = given.get("type"), given.get("model"), given.get("speed")
    return Work(
        kind if isinstance(kind, str) and not top else "message",
        model if isinstance(model, str) and not top else None,
        _count(given, "input_tokens", strange),
        short,
        long,
        _count(given, "cache_read_input_tokens", strange),
        _count(given, "output_tokens", strange),
        speed if isinstance(speed, str) else None,
        tuple(strange),
    )


def _count(of: Mapping[str, Any], name: str, strange: list[str]) -> int:
    value = of.get(name)
    if value is None:
        return 0
    if type(value) is int and 0 <= value <= LARGEST:
        return value
    strange.append(name)
    return 0


def server_tools_of(usage: Mapping[str, Any]) -> dict[str, int]:
    """Count the uses of server tools that were used, by the name of their counter without ``_requests``."""
    told = usage.get("server_tool_use")
    if not isinstance(told, Mapping):
        return {}
    return {
        name.removesuffix("_requests"): uses for name, uses in told.items() if type(uses) is int and 0 < uses <= LARGEST
    }


def strange_uses(usage: Mapping[str, Any]) -> list[str]:
    """Name the counters of server tools that are no count."""
    told = usage.get("server_tool_use")
    if not isinstance(told, Mapping):
        return [] if told is None else [""]
    return [
        f".{name}"
        for name, uses in told.items()
        if uses is not None and not (type(uses) is int and 0 <= uses <= LARGEST)
    ]


def executions(blocks: Sequence[Mapping[str, Any]]) -> int:
    """Count the calls of code execution among the blocks of an answer."""
    calls = [block.get("name") for block in blocks if block.get("type") == "server_tool_use"]
    return sum(isinstance(name, str) and name in _CODE for name in calls)


def used_by(usage: object, blocks: Sequence[Mapping[str, Any]]) -> tuple[list[Work], dict[str, int]]:
    """Say what an answer's usage and content tell was used: its work, and how often each server tool."""
    if not isinstance(usage, Mapping):
        return [], {}
    uses = server_tools_of(usage)
    executed = max(uses.get("code_execution", 0), executions(blocks))
    return work_of(usage), {**uses, "code_execution": executed} if executed else uses


@frozen
class Used:
    """What an exchange used in all: tokens by kind, and server tools."""

    input: int = 0
    write_5m: int = 0
    write_1h: int = 0
    read: int = 0
    output: int = 0
    web_searches: int = 0
    web_fetches: int = 0
    code_executions: int = 0

    @classmethod
    def of(cls, work: Sequence[Work], uses: Mapping[str, int]) -> Used:
        """Sum the work of an answer and the uses of server tools."""
        if len(work) == 1 and not uses:
            return cls(work[0].input, work[0].write_5m, work[0].write_1h, work[0].read, work[0].output)
        return cls(
            sum([each.input for each in work]),
            sum([each.write_5m for each in work]),
            sum([each.write_1h for each in work]),
            sum([each.read for each in work]),
            sum([each.output for each in work]),
            uses.get("web_search", 0),
            uses.get("web_fetch", 0),
            uses.get("code_execution", 0),
        )


# --- what it cost --------------------------------------------------------------------------------------------------


@frozen
class Line:
    """
    One line of a bill.

    Attributes:
        kind: ``input``, ``write_5m``, ``write_1h``, ``read``, ``output``; ``web_search`` and other server tools;
            ``refused`` for what was refused before any output.
        model: Whose price it is; None for server tools.
        count: How many tokens or uses.
        price: USD for a million tokens or for a thousand uses, every factor in it; None where it is not decidable.
        amount: USD; None where it is not decidable for one exchange alone.
    """

    kind: str
    model: str | None
    count: int
    price: Decimal | None
    amount: Decimal | None


@frozen(kw_only=True)
class Cost:
    """
    What an exchange cost, at the prices of its day as they were known when it was recorded.

    Attributes:
        total: USD; of the lines that have an amount.
        lines: What it is the sum of.
        factors: What the prices were multiplied with: ``batch``, ``inference_geo us``.
        as_of: The day of the price list, ISO 8601; empty where nothing had to be looked up.
    """

    total: Decimal = Decimal(0)
    lines: tuple[Line, ...] = ()
    factors: Mapping[str, Decimal] = field(factory=dict)
    as_of: str = ""

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The kinds of the lines without an amount: what the total leaves out."""
        return tuple(line.kind for line in self.lines if line.amount is None)


@frozen
class Price:
    """
    What the record keeps of the price of an answer: enough that no later price list changes it.

    Attributes:
        recorded: A JSON object: ``lines`` and their ``total``, or what is ``missing``; empty where nothing is kept.
        pico: The total in picodollars; None where it is not known.
        used: What was used, where it was just counted.
    """

    recorded: bytes = b""
    pico: int | None = None
    used: Used | None = field(default=None, eq=False)

    @classmethod
    def read(cls, recorded: bytes, used: Used | None) -> Price:
        """Read what an outcome keeps; *used* is what the answer says was used."""
        total = canonical.object_of(recorded).get("total") if recorded else None
        if not isinstance(total, str):
            return cls(recorded, None, used)
        whole, _, part = total.partition(".")
        return cls(recorded, int(whole) * PICO + int(f"{part:0<12}"), used)

    @property
    def missing(self) -> tuple[str, ...]:
        """What would have to be known for the cost, or for what its total leaves out."""
        return tuple(self._said.get("missing", ()))

    @property
    def cost(self) -> Cost | None:
        """What it cost; None where that is not known."""
        said = self._said
        if "total" not in said:
            return None if self.pico is None else Cost(total=dollars(self.pico))
        return Cost(
            total=Decimal(said["total"]),
            lines=tuple(
                Line(
                    each["kind"],
                    each.get("model"),
                    each["count"],
                    Decimal(each["price"]) if "price" in each else None,
                    Decimal(each["amount"]) if "amount" in each else None,
                )
                for each in said["lines"]
            ),
            factors={name: Decimal(factor) for name, factor in said.get("factors", {}).items()},
            as_of=said["as_of"],
        )

    @property
    def _said(self) -> Mapping[str, Any]:
        return canonical.object_of(self.recorded) if self.recorded else {}


NOT_KNOWN: Final = Price()
"""The price of what nobody knows the price of."""

UNBILLED: Final = Price(pico=0, used=Used())
"""The price of what never ran."""


@frozen(kw_only=True)
class Totals:
    """
    What some exchanges used and cost together.

    Attributes:
        by: What they have in common, by the names asked for: ``{"day": date(…), "model": "…"}``.
        exchanges: How many there are, whatever became of them.
        input_tokens: Prompt tokens neither written to nor read from the cache.
        write_5m_tokens: Written to the cache for five minutes; ``write_1h_tokens`` for an hour.
        read_tokens: Read from the cache.
        output_tokens: Tokens of answers.
        web_searches: Uses of the web search; ``web_fetches`` and ``code_executions`` likewise.
        cost: USD that the exchanges are known to have cost.
        unpriced: Of how many exchanges the cost is not known, or not whole: ``cost`` leaves it out.
        maybe_billed: How many may have run and been billed although no answer was recorded.
    """

    by: Mapping[str, Any] = field(factory=dict)
    exchanges: int = 0
    input_tokens: int = 0
    write_5m_tokens: int = 0
    write_1h_tokens: int = 0
    read_tokens: int = 0
    output_tokens: int = 0
    web_searches: int = 0
    web_fetches: int = 0
    code_executions: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0
    maybe_billed: int = 0
