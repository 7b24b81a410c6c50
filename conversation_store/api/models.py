"""
What each model accepts and costs: dated data, read once from ``models.json`` beside this file.

The file states facts and where they were read; nothing is derived in code. A fact with one weak source is
named in its model's ``uncertain``. A new or corrected model needs no release of this library:
``load().with_model({"id": "claude-opus-5-5", "max_output": 256000})``.

To edit ``models.json``: a price never changes in place, a row with a later ``from`` is added; ``as_of`` and
the ``sources`` of the model move with every edit; money is a string of decimal digits, USD per million tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, TypeAlias

from attrs import evolve, field, fields, frozen

from conversation_store.errors import ConfigurationError
from conversation_store.record.canonical import loads

Status: TypeAlias = Literal["active", "deprecated", "retired"]


@frozen(kw_only=True)
class Price:
    """
    What tokens cost from a day on, USD per million.

    Attributes:
        since: The first day of this price; None where no earlier one is known.
        prompt_over: The price holds for requests of more prompt tokens than this, cached ones included.
        speed: ``standard`` or ``fast``, as ``usage.speed`` says.
        input: Prompt tokens that were neither written to nor read from the cache.
        write_5m: Tokens written to the cache for five minutes; ``write_1h`` for an hour.
        read: Tokens read from the cache. No fixed part of ``input``.
        output: Tokens of the answer, thinking included.
        batch: The factor in a batch, on all of the above; None where batches are not offered.
        geo: The factor for each ``inference_geo`` that has one.
        source: Where the price was read, and when.
    """

    since: date | None
    prompt_over: int = 0
    speed: str = "standard"
    input: Decimal
    write_5m: Decimal
    write_1h: Decimal
    read: Decimal
    output: Decimal
    batch: Decimal | None = None
    geo: Mapping[str, Decimal] = field(factory=dict)
    source: str = ""


@frozen(kw_only=True)
class Accepted:
    """
    A ``thinking.type`` that a model takes.

    Attributes:
        type: ``adaptive``, ``enabled``, ``disabled`` or ``between_tools``.
        effort: The effort levels at which it is taken; None for all.
        deprecated: Whether it is taken but on its way out.
    """

    type: str
    effort: tuple[str, ...] | None = None
    deprecated: bool = False


@frozen(kw_only=True)
class Thinking:
    """
    How a model thinks.

    Attributes:
        default: ``on`` or ``off``, where the request does not say.
        accepts: What ``thinking.type`` may be.
        display: What ``thinking.display`` is where the request does not say: ``omitted`` or ``summarized``.
        kept: Whose thinking the API keeps from the history: of ``all`` turns or of the ``last turn``.
    """

    default: Literal["on", "off"]
    accepts: tuple[Accepted, ...]
    display: Literal["omitted", "summarized"]
    kept: Literal["all", "last turn"] = "all"

    def allows(self, kind: str, effort: str | None = None) -> bool:
        """Tell whether ``thinking.type`` may be *kind*, at that effort where one is given."""
        return any(
            accepted.type == kind and (effort is None or accepted.effort is None or effort in accepted.effort)
            for accepted in self.accepts
        )


@frozen(kw_only=True)
class Effort:
    """The values ``output_config.effort`` may have, lowest first, and the one used where it is not given."""

    levels: tuple[str, ...] = ()
    default: str | None = None


@frozen(kw_only=True)
class ImageLimit:
    """
    How many images a request may hold and when one is scaled down.

    Attributes:
        per_request: Images in a request, those of the history and of tool results included.
        edge: Pixels of the longer side, above which an image is scaled down.
        tokens: The most tokens one image costs.
    """

    per_request: int
    edge: int
    tokens: int


@frozen(kw_only=True)
class Model:
    """
    What one model accepts and costs.

    Attributes:
        id: The name to send; ``aliases`` are others for the same model.
        line: ``haiku``, ``sonnet``, ``opus``, ``fable`` or ``mythos``.
        context: Tokens of the context window; ``max_output``: the most ``max_tokens`` may be.
        status: ``active``, ``deprecated`` or ``retired`` on the day of the data; see ``usable`` for other days.
        released: Its first day; None where not known.
        retires: The day from which requests fail, where announced.
        not_before: The day before which it will not retire, where promised.
        prefill: Whether the last message may be the beginning of the answer (with thinking off).
        system_role: Whether ``messages`` may hold messages of the role ``system``.
        system_effort: Whether such a message may change the effort (beta).
        thinking: How it thinks; ``effort``: how hard it can be asked to.
        tool_choice_forced: Whether ``tool_choice`` may be ``any`` or ``tool``.
        sampling: The API versions under which ``temperature``, ``top_p`` and ``top_k`` may be set freely.
        cache_minimum: Tokens of the shortest prompt that is cached.
        compaction: Whether the API compacts its context.
        image: Limits for images; ``pdf_pages``: pages a PDF may have.
        tokenizer: 2 from Opus 4.7 on, 1 before it; the same text is about 30 % more tokens for 2.
        computer_single_tool: Whether the dated ``computer_*`` tools are taken, not only the toolset.
        inference_geo: Whether the parameter is taken.
        speed_fast: What ``speed: fast`` does: ``fast``, ``standard`` (runs at standard speed and price),
            ``refused``, or ``no`` where the model never had it.
        structured_outputs: Whether ``output_config.format`` and strict tools are taken.
        prefix_binding: Whether thinking is bound to all that came before it: ``always``, for ``new accounts``
            (and for others once they ask for it), ``no``.
        prices: Every price, in the order they came to hold.
        uncertain: Fields, or parts of them (``thinking.kept``), that rest on one weak source.
        sources: Pages of the Messages API documentation, and when they were read.
    """

    id: str
    aliases: tuple[str, ...] = ()
    line: str | None = None
    context: int
    max_output: int
    status: Status = "active"
    released: date | None = None
    retires: date | None = None
    not_before: date | None = None
    prefill: bool
    system_role: bool
    system_effort: bool = False
    thinking: Thinking
    effort: Effort
    tool_choice_forced: bool
    sampling: tuple[str, ...] = ()
    cache_minimum: int
    compaction: bool
    image: ImageLimit
    pdf_pages: int
    tokenizer: int
    computer_single_tool: bool
    inference_geo: bool
    speed_fast: Literal["fast", "standard", "refused", "no"] = "no"
    structured_outputs: bool
    prefix_binding: Literal["always", "new accounts", "no"] = "no"
    prices: tuple[Price, ...] = field(default=(), repr=False)
    uncertain: frozenset[str] = field(default=frozenset(), repr=False)
    sources: tuple[str, ...] = field(default=(), repr=False)

    @property
    def price_tiers(self) -> list[int]:
        """The numbers of prompt tokens above which another price holds."""
        return [row.prompt_over for row in self.prices if row.prompt_over]

    def usable(self, on: date) -> bool:
        """Tell whether requests are answered on that day (UTC): released, and not yet retired."""
        if self.released is not None and on < self.released:
            return False
        return on < self.retires if self.retires is not None else self.status != "retired"

    def price(self, on: date, *, prompt: int = 0, speed: str = "standard") -> Price | None:
        """
        Return the price of a request, None where it is not known.

        Args:
            on: The day of the request, UTC.
            prompt: Its prompt tokens, those written to and read from the cache included.
            speed: ``usage.speed`` of its answer.
        """
        rows = [
            row
            for row in self.prices
            if row.speed == speed and prompt >= _least(row) and (row.since is None or row.since <= on)
        ]
        return max(rows, key=lambda row: (row.since or date.min, row.prompt_over), default=None)


def _least(row: Price) -> int:
    return row.prompt_over + 1 if row.prompt_over else 0


@frozen(kw_only=True)
class ServerTools:
    """
    What server tools cost beside tokens, USD.

    Attributes:
        web_search: A thousand searches; those that failed are free.
        web_fetch: A thousand fetches.
        code_execution: An hour of one container.
        code_execution_free_hours: Hours a month that are free.
        code_execution_least: Minutes a use counts at least.
        code_execution_free_with: Tools of the same request that make it free.
        sources: Where this was read, and when.
    """

    web_search: Decimal
    web_fetch: Decimal
    code_execution: Decimal
    code_execution_free_hours: Decimal
    code_execution_least: int
    code_execution_free_with: tuple[str, ...]
    sources: tuple[str, ...]


_DATED: Final = re.compile(r"(?P<name>.+)[-@](?P<day>\d{8})")


@frozen(kw_only=True)
class Models:
    """
    An immutable collection of models: iterate, ask by name, choose by what they accept.

    Attributes:
        as_of: The day the data describes.
        server_tools: What server tools cost.
        memory: What was worked out from these prices before.
    """

    as_of: date
    server_tools: ServerTools
    _models: Mapping[str, Model] = field(repr=False, alias="models")
    memory: dict[Any, Any] = field(factory=dict, init=False, repr=False, eq=False)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def get(self, name: str) -> Model | None:
        """
        Return the model of that id or alias, None where it is not known.

        A date after the name (``claude-opus-5-5-20260922``, or ``@20260922`` as one platform writes it) that no
        entry has is taken for a snapshot of the undated name.
        """
        found = self._named(name)
        if found is not None:
            return found
        dated = _DATED.fullmatch(name)
        if dated is None:
            return None
        return self._named(f"{dated['name']}-{dated['day']}") or self._named(dated["name"])

    def _named(self, name: str) -> Model | None:
        if name in self._models:
            return self._models[name]
        return next((model for model in self if name in model.aliases), None)

    def with_model(self, model: Model | Mapping[str, Any]) -> Models:
        """
        Return a collection in which *model* is added, or takes the place of the entry with its id.

        Args:
            model: A whole ``Model``, or fields in the form of ``models.json`` with an ``id``. Fields not given
                are those of the entry of that id (or alias), or of the one named by ``like``. Money may also be
                a Decimal and a day a date.

        Raises:
            ConfigurationError: A field is unknown, missing or not of its kind; money is a float.
        """
        made = model if isinstance(model, Model) else self._made(model)
        return evolve(self, models={**self._models, made.id: made})

    def _made(self, given: Mapping[str, Any]) -> Model:
        name = given.get("id")
        if not isinstance(name, str) or not name:
            raise ConfigurationError("a model needs an id")
        known = self._named(name)
        base = known
        if "like" in given:
            base = self.get(str(given["like"]))
            if base is None:
                raise ConfigurationError(f"model {name}: like: no model {given['like']!r} is known")
        own = {"id": name, "aliases": ()} if known is None else {"id": known.id, "aliases": known.aliases}
        return _model({**own, **given, "id": own["id"]}, base)

    def where(self, *, on: date | None = None, **flags: object) -> list[Model]:
        """
        Return the models whose fields have these values, in the order of the collection.

        Args:
            on: Only models that answer on that day. Without it, and without a ``status``, retired models are left out.
            **flags: Fields of ``Model`` and their values: ``prefill=True``, ``status="active"``, ``line="opus"``.

        Raises:
            ConfigurationError: No such field.
        """
        unknown = sorted(set(flags) - {attribute.name for attribute in fields(Model)})
        if unknown:
            raise ConfigurationError(f"a model has no field {unknown[0]}")
        anyway = on is None and "status" in flags
        return [
            model
            for model in self
            if (anyway or (model.status != "retired" if on is None else model.usable(on)))
            and all(getattr(model, name) == value for name, value in flags.items())
        ]


@cache
def load() -> Models:
    """
    Return the models this release knows; read from ``models.json`` once a process.

    Sources: Messages API documentation, Models overview, Pricing, Thinking, Effort, Prompt caching and Model
    deprecations, 2026-10; each entry names its own.
    """
    data: Any = loads(resources.files(__package__).joinpath("models.json").read_bytes())
    models = [_model(entry) for entry in data["models"]]
    return Models(
        as_of=_day(data["as_of"]),
        server_tools=_server_tools(data["server_tools"]),
        models={model.id: model for model in models},
    )


# --- JSON to values, field by field


def _model(given: Mapping[str, Any], base: Model | None = None) -> Model:
    where = f"model {given['id']}"
    values = {key: _read(f"{where}: {key}", _FIELDS, key, value) for key, value in given.items() if key != "like"}
    made: Model = evolve(base, **values) if base is not None else _built(where, Model, values)
    return made


def _built(where: str, kind: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigurationError(f"{where}: {str(error).partition('() ')[2] or error}") from None


def _read(where: str, readers: Mapping[str, Callable[[Any], Any]], key: str, value: object) -> Any:
    if key not in readers:
        raise ConfigurationError(f"{where}: no such field")
    try:
        return readers[key](value)
    except (TypeError, ValueError, InvalidOperation) as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _kind(expected: type) -> Callable[[Any], Any]:
    def read(value: object) -> object:
        if type(value) is not expected:
            raise TypeError(f"{value!r} is no {expected.__name__}")
        return value

    return read


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        return value

    return read


def _texts(value: Iterable[object]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"{value!r} is no list")
    return tuple(_text(item) for item in value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _day(value: object) -> date:
    return value if type(value) is date else date.fromisoformat(_text(value))


_DEAREST: Final = 1_000_000
_DIGITS: Final = 20


def _money(value: object) -> Decimal:
    amount = value if isinstance(value, Decimal) else Decimal(_text(value))
    if not amount.is_finite() or not 0 <= amount <= _DEAREST or len(amount.as_tuple().digits) > _DIGITS:
        raise ValueError(f"{value!r} is no price")
    return amount


def _factors(value: Mapping[str, object]) -> Mapping[str, Decimal]:
    return {_text(name): _money(factor) for name, factor in value.items()}


def _record(
    kind: Callable[..., Any],
    readers: Mapping[str, Callable[[Any], Any]],
    renamed: Mapping[str, str] | None = None,
) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            # A caller may hand over the value itself.
            if isinstance(kind, type) and isinstance(value, kind):
                return value
            raise TypeError(f"{value!r} is no object")
        made = {(renamed or {}).get(key, key): _read(key, readers, key, item) for key, item in value.items()}
        return _built("incomplete", kind, made)

    return read


def _many(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Sequence[Any]) -> tuple[Any, ...]:
        if isinstance(value, str | Mapping):
            raise TypeError(f"{value!r} is no list")
        return tuple(read(item) for item in value)

    return read_all


_PRICE: Final = _record(
    Price,
    {
        "from": _or_none(_day),
        "prompt_over": _kind(int),
        "speed": _one_of("standard", "fast"),
        "batch": _or_none(_money),
        "geo": _factors,
        "source": _text,
    }
    | dict.fromkeys(("input", "write_5m", "write_1h", "read", "output"), _money),
    renamed={"from": "since"},
)
_ACCEPTED: Final = _record(Accepted, {"type": _text, "effort": _or_none(_texts), "deprecated": _kind(bool)})
_FIELDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "id": _text,
    "line": _or_none(_text),
    "status": _one_of("active", "deprecated", "retired"),
    "thinking": _record(
        Thinking,
        {
            "default": _one_of("on", "off"),
            "accepts": _many(_ACCEPTED),
            "display": _one_of("omitted", "summarized"),
            "kept": _one_of("all", "last turn"),
        },
    ),
    "effort": _record(Effort, {"levels": _texts, "default": _or_none(_text)}),
    "image": _record(ImageLimit, dict.fromkeys(("per_request", "edge", "tokens"), _kind(int))),
    "speed_fast": _one_of("fast", "standard", "refused", "no"),
    "prefix_binding": _one_of("always", "new accounts", "no"),
    "prices": _many(_PRICE),
    "uncertain": lambda value: frozenset(_texts(value)),
    **dict.fromkeys(("aliases", "sampling", "sources"), _texts),
    **dict.fromkeys(("released", "retires", "not_before"), _or_none(_day)),
    **dict.fromkeys(("context", "max_output", "cache_minimum", "pdf_pages", "tokenizer"), _kind(int)),
    **dict.fromkeys(
        (
            "prefill",
            "system_role",
            "system_effort",
            "tool_choice_forced",
            "compaction",
            "computer_single_tool",
            "inference_geo",
            "structured_outputs",
        ),
        _kind(bool),
    ),
}


def _server_tools(given: Mapping[str, Any]) -> ServerTools:
    search, fetch, code = given["web_search"], given["web_fetch"], given["code_execution"]
    return ServerTools(
        web_search=_money(search["per_thousand"]),
        web_fetch=_money(fetch["per_thousand"]),
        code_execution=_money(code["per_hour"]),
        code_execution_free_hours=_money(code["free_hours_a_month"]),
        code_execution_least=code["least_minutes"],
        code_execution_free_with=_texts(code["free_with"]),
        sources=(search["source"], fetch["source"], code["source"]),
    )
