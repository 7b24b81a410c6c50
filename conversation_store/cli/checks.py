"""What the API would say to the next request, what it takes and costs, before anything is sent: ``check``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import click
from attrs import asdict, field, frozen

from conversation_store.api import costs
from conversation_store.api import models as model_data
from conversation_store.api.models import Model
from conversation_store.api.rules import Finding, Fix
from conversation_store.audit.caches import CacheReport
from conversation_store.cli.costs import money, plain, today
from conversation_store.cli.databases import database_options, find, key_argument, to_read
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Screen, notices, one_line
from conversation_store.cli.transcripts import name_of, snippet
from conversation_store.conversation import Conversation
from conversation_store.errors import CodecError, NotFoundError
from conversation_store.formats.wording import counted
from conversation_store.record import canonical
from conversation_store.record.cost import Price
from conversation_store.record.turns import Turn
from conversation_store.tokens import Tokens

FIXES: Final[Mapping[Fix, str]] = {
    "answer_call": "answer the call with an error result",
    "set_aside": "set the turn aside",
    "trim": "trim the space at the end",
    "move_system": "move the system text",
    "drop_thinking": "drop the thinking as a whole",
}
"""What each mechanical fix does, in words."""

_INDENT: Final = 11
_SHARE: Final = Decimal("0.0001")
_HUNDREDTH: Final = Decimal("0.01")
_NO_EXCHANGE: Final = "nothing was sent yet"


@frozen(kw_only=True)
class _Checked:
    """What is known of the next request of a conversation."""

    conversation: Conversation
    model: str | None
    listed: Model | None
    on: date
    turns: Sequence[Turn] = field(repr=False)
    findings: Sequence[Finding]
    tokens: Tokens
    price: Price
    cache: CacheReport | str
    """The report, or why there is none."""

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def share(self) -> Decimal | None:
        """What part of the context window the prompt takes."""
        return None if self.listed is None else Decimal(self.tokens.total) / Decimal(self.listed.context)

    @property
    def cost(self) -> Decimal | None:
        """USD for sending the prompt; None where the price is not known."""
        return self.price.cost.total if self.price.cost is not None else None


def _checked(conversation: Conversation, model: str | None, on: date | None) -> _Checked:
    overrides = {} if model is None else {"model": model}
    found = conversation.check(on=on, **overrides)
    settings, known, day = conversation.settings, model_data.load(), on or today()
    own = settings.get("model")
    asked = model if model is not None else own if isinstance(own, str) else None
    listed = None if asked is None else known.get(asked)
    tokens = conversation.tokens(**overrides)
    cache: CacheReport | str
    try:
        cache = conversation.explain_cache()
    except NotFoundError:
        cache = _NO_EXCHANGE
    except CodecError as error:
        cache = f"cannot be told any more: {error}"
    return _Checked(
        conversation=conversation,
        model=asked,
        listed=listed,
        on=day,
        turns=conversation.turns,
        findings=sorted(found, key=_rank),
        tokens=tokens,
        price=_price(tokens.total, settings, asked, listed, day),
        cache=cache,
    )


def _rank(finding: Finding) -> tuple[bool, bool, int]:
    """Errors come first, and what is about turns, in their order, before what is about settings."""
    return finding.severity != "error", finding.turn is None, finding.turn or 0


def _price(count: int, settings: Mapping[str, Any], name: str | None, model: Model | None, on: date) -> Price:
    """Price a prompt of which nothing is cached, as an answer that counts its tokens would be."""
    if name is None:
        return Price(canonical.header({"missing": ["model"]}))
    fast = settings.get("speed") == "fast" and model is not None and model.speed_fast == "fast"
    usage = {
        "input_tokens": count,
        "output_tokens": 0,
        "speed": "fast" if fast else None,
        "inference_geo": settings.get("inference_geo"),
    }
    noon = int(datetime(on.year, on.month, on.day, 12, tzinfo=UTC).timestamp()) * 1_000_000
    return costs.price({"usage": usage}, (), model=name, at=noon, models=model_data.load())


# --- for programs ----------------------------------------------------------------------------------------------------


def _facts(checked: _Checked) -> dict[str, Any]:
    tokens, cache, share = checked.tokens, checked.cache, checked.share
    return {
        "conversation": str(checked.conversation.id),
        "key": checked.conversation.key,
        "model": checked.model,
        "listed": checked.listed is not None,
        "on": str(checked.on),
        "findings": [{**asdict(each), "turn": _turn_facts(checked, each.turn)} for each in checked.findings],
        "tokens": {
            "total": tokens.total,
            "exact": checked.tokens.exact,
            "settings": tokens.settings,
            "context": None if checked.listed is None else checked.listed.context,
            "share": None if share is None else f"{share.quantize(_SHARE):f}",
        },
        "price": {
            "usd": None if checked.cost is None else f"{checked.cost:f}",
            "as_of": str(model_data.load().as_of),
            "missing": list(checked.price.missing),
        },
        "cache": {"message": cache} if isinstance(cache, str) else asdict(cache, value_serializer=plain),
    }


def _turn_facts(checked: _Checked, index: int | None) -> dict[str, Any] | None:
    if index is None:
        return None
    turn = checked.turns[index]
    return {
        "index": index,
        "conversation": str(turn.conversation),
        "position": turn.position,
        "role": turn.role,
        "origin": turn.origin.value,
        "snippet": snippet(turn),
    }


# --- for people ------------------------------------------------------------------------------------------------------


def _print(screen: Screen, checked: _Checked) -> None:
    conversation = checked.conversation
    said = f"{counted(len(checked.turns), 'turn')}, {checked.model or 'no model'}, as of {checked.on}"
    screen.line((name_of(conversation), "bold"), (f"  {said}", "dim"))
    for finding in checked.findings:
        screen.line()
        _print_finding(screen, checked, finding)
    screen.line()
    warnings = len(checked.findings) - checked.errors
    verdict = ", ".join(counted(n, what) for n, what in ((checked.errors, "error"), (warnings, "warning")) if n)
    style = "bold red" if checked.errors else "bold yellow" if warnings else "green"
    then = "as it stands, a send would be refused" if checked.errors else "nothing that stops a send"
    screen.item("  rules", (verdict or "nothing found", style), f"; {then}" if verdict else "", indent=_INDENT)
    for label, words in (("tokens", _tokens(checked)), ("price", _cost(checked)), ("cache", _cache(checked))):
        for n, each in enumerate(words):
            screen.item("" if n else f"  {label}", each, indent=_INDENT)


def _print_finding(screen: Screen, checked: _Checked, finding: Finding) -> None:
    style = "bold red" if finding.severity == "error" else "bold yellow"
    screen.line((finding.severity, style), (f"  {finding.path}", "bold"), (f"  {finding.rule}", "dim"))
    if finding.turn is not None:
        turn = checked.turns[finding.turn]
        place = f"turn {finding.turn} (entry {turn.position}"
        place += ")" if turn.conversation == checked.conversation.id else f" of {turn.conversation})"
        origin = "" if turn.origin.value == turn.role else f", {turn.origin.value}"
        words = one_line(snippet(turn)) or "(blank)"
        screen.paragraph((f"{place}, {turn.role}{origin}: ", "dim"), words, indent=4)
    screen.paragraph(one_line(finding.message), indent=4)
    if finding.fix is not None:
        screen.paragraph(("fix: ", "dim"), f"{FIXES.get(finding.fix, 'by')} ({finding.fix})", indent=4)


def _tokens(checked: _Checked) -> Iterator[str]:
    told = f"{checked.tokens.total:,} ({'exact' if checked.tokens.exact else 'estimated'})"
    if checked.listed is None or checked.share is None:
        yield told
    else:
        yield f"{told}, {_percent(checked.share)} of the context window of {checked.listed.context:,}"


def _percent(share: Decimal) -> str:
    percent = (share * 100).quantize(_HUNDREDTH)
    return f"{percent:f} %" if percent or not share else "less than 0.01 %"


def _cost(checked: _Checked) -> Iterator[str]:
    if checked.model is None:
        yield "not known: no model is set"
    elif checked.cost is None:
        yield f"not known; the list lacks {', '.join(checked.price.missing)}"
    else:
        about = "" if checked.tokens.exact else "about "
        yield f"{about}USD {money(checked.cost)} to send it uncached; the answer is extra"


def _cache(checked: _Checked) -> Iterator[str]:
    cache = checked.cache
    yield cache if isinstance(cache, str) else f"exchange {cache.exchange}: {cache.message}"


@click.command("check")
@key_argument("which")
@database_options
@click.option("--model", metavar="NAME", help="Judge it as a request to this model.")
@click.option("--on", type=click.DateTime(("%Y-%m-%d",)), metavar="DAY", help="Judge it as on this day, UTC.")
@click.option("--json", "as_json", is_flag=True, help="Write the same as one JSON object.")
def check(which: str, database: str, scope: str, model: str | None, on: datetime | None, as_json: bool) -> int:  # noqa: PLR0917 - click names them all
    """
    Say what the rule book finds in the next request as it stands, what it takes, and what it would cost.

    Nothing is sent or written. Exit code 1 where an error is found, which would stop a send; warnings stop nothing.
    The cache is that of the newest exchange.
    """
    screen = Screen()
    with to_read(database, scope) as store, notices():
        checked = _checked(find(store, which), model, on and on.date())
        if as_json:
            screen.data(canonical.header(_facts(checked)).decode())
        else:
            _print(screen, checked)
    return Code.FINDING if checked.errors else Code.DONE
