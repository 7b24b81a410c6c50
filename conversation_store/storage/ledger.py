"""
Exchanges as rows: what was asked, what became of it, what it used. Derived from the log throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from conversation_store.errors import ContentError
from conversation_store.record import canonical
from conversation_store.record.cost import LARGEST, Price, Totals, dollars
from conversation_store.record.exchange import Exchange, State, Usage
from conversation_store.storage.engine import Compiled
from conversation_store.storage.log import LAST
from conversation_store.storage.tables import conversation, conversation_key, month
from conversation_store.storage.tables import conversation_exchange as table

_MODEL_LENGTH: Final = 200
_of: Final = table.c.conversation == bindparam("of")
_insert: Final = Compiled(insert(table))
_finish: Final = Compiled(update(table).where(_of, table.c.position == bindparam("at_position")))
_one: Final = select(table).where(_of, table.c.position == bindparam("at_position"))
_after: Final = (
    select(table).where(_of, table.c.position > bindparam("at_position")).order_by(table.c.position).limit(1)
)
_outcome: Final = select(table.c.outcome).where(_of, table.c.position == bindparam("at_position"))
_by_key: Final = select(table.c.position).where(_of, table.c.idempotency_key == bindparam("key"))
_newest_try: Final = (
    select(table)
    .where(_of, or_(table.c.position == bindparam("first"), table.c.retry_of == bindparam("first")))
    .order_by(table.c.position.desc())
    .limit(1)
)
_span: Final = (
    select(table)
    .where(_of, table.c.position >= bindparam("first"), table.c.position <= bindparam("last"))
    .order_by(table.c.position)
)
_newest: Final = select(table).where(_of).order_by(table.c.position.desc()).limit(1)


def begin(connection: Connection, exchange: Exchange) -> None:
    """Write the row of an exchange that has just begun."""
    _insert.run(connection, begun(exchange))


def begun(exchange: Exchange) -> dict[str, Any]:
    """Write an exchange that has just begun as a row; what is not in it is NULL."""
    return {
        "conversation": exchange.conversation.bytes,
        "position": exchange.position,
        "state": exchange.state.value,
        "model": _short(exchange.model, _MODEL_LENGTH),
        "begun": exchange.begun,
        "body_length": exchange.body_length,
        "sent_by": exchange.sent_by,
        "streamed": int(exchange.streamed),
        "attempts": 0,
        "maybe_billed": 0,
        "idempotency_key": None if exchange.idempotency_key is None else exchange.idempotency_key.encode(),
        "retry_of": exchange.retry_of,
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def finish(connection: Connection, exchange: Exchange, outcome: int | None) -> None:
    """Bring the row of an exchange up to its outcome; *outcome* is the position of that entry."""
    row = {"of": exchange.conversation.bytes, "at_position": exchange.position, **ended(exchange, outcome)}
    _finish.run(connection, row)


def ended(exchange: Exchange, outcome: int | None) -> dict[str, Any]:
    """Write what becomes of the row of an exchange with its outcome."""
    return {
        "state": exchange.state.value,
        "served_by": _short(exchange.served_by, _MODEL_LENGTH),
        "ended": exchange.ended,
        "attempts": exchange.attempts,
        "maybe_billed": int(exchange.maybe_billed),
        "outcome": outcome,
        "turn": exchange.turn,
        "message_id": _short(exchange.message_id, 200),
        "request_id": _short(exchange.request_id, 200),
        "stop_reason": _short(exchange.stop_reason, 64),
        "input_tokens": exchange.usage.input_tokens,
        "output_tokens": exchange.usage.output_tokens,
        "cache_creation_input_tokens": exchange.usage.cache_creation_input_tokens,
        "cache_read_input_tokens": exchange.usage.cache_read_input_tokens,
        "usage": _usage(exchange.usage.raw),
        **_spent(exchange.price),
    }


def _spent(price: Price) -> dict[str, int | bytes | None]:
    used = price.used
    return {
        "cost": _counted(price.pico),
        "unpriced": int(b'"missing"' in price.recorded),
        "price": price.recorded or None,
        "work_input": None if used is None else _counted(used.input),
        "work_write_5m": None if used is None else _counted(used.write_5m),
        "work_write_1h": None if used is None else _counted(used.write_1h),
        "work_read": None if used is None else _counted(used.read),
        "work_output": None if used is None else _counted(used.output),
        "web_searches": None if used is None else used.web_searches,
        "web_fetches": None if used is None else used.web_fetches,
        "code_executions": None if used is None else used.code_executions,
    }


def _counted(number: int | None) -> int | None:
    # More than a column holds is as good as not known; as received it is in the outcome.
    return number if number is None or number <= LARGEST else None


def _short(value: str | None, longest: int) -> str | None:
    # The API's words as text columns take them; as received they are in the outcome.
    if value is None:
        return None
    return value[:longest].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _usage(raw: Mapping[str, Any]) -> bytes | None:
    if not raw:
        return None
    try:
        return canonical.dumps(raw)
    except ContentError:  # a lone surrogate; as received it is in the outcome
        return canonical.header(raw)


def read(connection: Connection, of: UUID, position: int) -> Exchange | None:
    """Read one exchange."""
    row = connection.execute(_one, {"of": of.bytes, "at_position": position}).first()
    return None if row is None else _exchange(row)


def read_all(connection: Connection, of: UUID, first: int = 0, last: int = LAST) -> list[Exchange]:
    """Read the exchanges of a conversation whose requests stand from *first* to *last*, oldest first."""
    found = connection.execute(_span, {"of": of.bytes, "first": first, "last": last})
    return [_exchange(row) for row in found]


def newest(connection: Connection, of: UUID) -> Exchange | None:
    """Read the exchange begun last."""
    row = connection.execute(_newest, {"of": of.bytes}).first()
    return None if row is None else _exchange(row)


def after(connection: Connection, of: UUID, position: int) -> Exchange | None:
    """Read the exchange begun next after another one."""
    row = connection.execute(_after, {"of": of.bytes, "at_position": position}).first()
    return None if row is None else _exchange(row)


def outcome_of(connection: Connection, of: UUID, position: int) -> int | None:
    """Say where the outcome of an exchange stands; None where it has none."""
    found: int | None = connection.execute(_outcome, {"of": of.bytes, "at_position": position}).scalar()
    return found


def by_key(connection: Connection, of: UUID, key: str) -> tuple[int, Exchange] | None:
    """Find the exchange an idempotency key was first used for: its position, and the newest try of it."""
    first = connection.execute(_by_key, {"of": of.bytes, "key": key.encode()}).scalar()
    if first is None:
        return None
    newest = newest_try(connection, of, first)
    return None if newest is None else (first, newest)


def newest_try(connection: Connection, of: UUID, first: int) -> Exchange | None:
    """Read the newest exchange that tries another one again, or that one itself."""
    row = connection.execute(_newest_try, {"of": of.bytes, "first": first}).first()
    return None if row is None else _exchange(row)


def _exchange(row: Row[Any]) -> Exchange:
    raw = canonical.loads(row.usage) if row.usage else {}
    return Exchange(
        conversation=UUID(bytes=bytes(row.conversation)),
        position=row.position,
        state=State(row.state),
        model=row.model,
        served_by=row.served_by,
        begun=row.begun,
        ended=row.ended,
        body_length=row.body_length,
        sent_by=row.sent_by,
        streamed=bool(row.streamed),
        attempts=row.attempts,
        maybe_billed=bool(row.maybe_billed),
        retry_of=row.retry_of,
        turn=row.turn,
        message_id=row.message_id,
        request_id=row.request_id,
        stop_reason=row.stop_reason,
        usage=Usage.of(raw),
        price=Price(bytes(row.price or b""), row.cost),
        idempotency_key=None if row.idempotency_key is None else bytes(row.idempotency_key).decode(),
    )


# --- sums ----------------------------------------------------------------------------------------------------------


_DAY: Final = 86_400_000_000
_EPOCH: Final = date(1970, 1, 1)
_HALF: Final = 32
"""Bits of the lower half: the sums of both halves fit where the sum of the whole might not."""

GROUPS: Final[Mapping[str, tuple[ColumnElement[Any], Callable[[Any], Any]]]] = {
    "day": (table.c.begun - table.c.begun % literal_column(str(_DAY)), lambda at: _EPOCH + timedelta(at // _DAY)),
    "month": (month(table.c.begun), lambda number: date(number // 100, number % 100, 1)),
    "model": (func.coalesce(table.c.served_by, table.c.model), str),
    "key": (conversation_key.c.key, lambda key: None if key is None else bytes(key).decode()),
    "conversation": (table.c.conversation, lambda raw: UUID(bytes=bytes(raw))),
    "state": (table.c.state, State),
}
"""What exchanges can be grouped by: how the database says it, and how a row is read."""

_SUMS: Final[Mapping[str, ColumnElement[Any]]] = {
    "input_tokens": func.coalesce(table.c.work_input, table.c.input_tokens),
    "write_5m_tokens": func.coalesce(table.c.work_write_5m, table.c.cache_creation_input_tokens),
    "write_1h_tokens": func.coalesce(table.c.work_write_1h, 0),
    "read_tokens": func.coalesce(table.c.work_read, table.c.cache_read_input_tokens),
    "output_tokens": func.coalesce(table.c.work_output, table.c.output_tokens),
    "web_searches": func.coalesce(table.c.web_searches, 0),
    "web_fetches": func.coalesce(table.c.web_fetches, 0),
    "code_executions": func.coalesce(table.c.code_executions, 0),
    "cost": func.coalesce(table.c.cost, 0),
}
_COUNTS: Final[Mapping[str, ColumnElement[bool]]] = {
    "unpriced": or_(table.c.cost.is_(None), table.c.unpriced != 0),
    "maybe_billed": table.c.maybe_billed != 0,
}


def totals(
    connection: Connection,
    scope: str,
    *,
    by: Sequence[str] = (),
    of: UUID | None = None,
    since: int | None = None,
    until: int | None = None,
) -> list[Totals]:
    """
    Sum what exchanges used and cost, in one statement that the database adds up.

    Args:
        connection: Reads the rows.
        scope: The tenant whose exchanges are meant.
        by: Names of ``GROUPS``; a row for each combination that occurs, in their order. None: one row for all.
        of: One conversation alone.
        since: Only exchanges begun then or later, microseconds since the epoch, UTC.
        until: Only those begun before.
    """
    chosen = [GROUPS[name][0] for name in by]
    sums = [
        half.label(f"{name}_{part}")
        for name, column in _SUMS.items()
        for part, half in (
            ("high", func.sum(column.bitwise_rshift(literal_column(str(_HALF))))),
            ("low", func.sum(column.bitwise_and(literal_column(str((1 << _HALF) - 1))))),
        )
    ]
    counts = [func.sum(case((where, 1), else_=0)).label(name) for name, where in _COUNTS.items()]
    rows = (
        select(*[column.label(f"by_{name}") for name, column in zip(by, chosen, strict=True)])
        .add_columns(func.count().label("exchanges"), *sums, *counts)
        .select_from(table.join(conversation, conversation.c.id == table.c.conversation))
        .where(conversation.c.scope == scope.encode())
        .group_by(*chosen)
        .order_by(*chosen)
    )
    if "key" in by:
        rows = rows.outerjoin(conversation_key, conversation_key.c.conversation == table.c.conversation)
    if of is not None:
        rows = rows.where(table.c.conversation == of.bytes)
    if since is not None:
        rows = rows.where(table.c.begun >= bindparam("since", since, BigInteger))
    if until is not None:
        rows = rows.where(table.c.begun < bindparam("until", until, BigInteger))
    return [_totals(row._asdict(), by) for row in connection.execute(rows)]


def _totals(row: Mapping[str, Any], by: Sequence[str]) -> Totals:
    summed = {name: (int(row[f"{name}_high"] or 0) << _HALF) + int(row[f"{name}_low"] or 0) for name in _SUMS}
    counted = {name: int(row[name] or 0) for name in _COUNTS}
    return Totals(
        by={name: GROUPS[name][1](row[f"by_{name}"]) for name in by},
        exchanges=row["exchanges"],
        **{**summed, **counted, "cost": dollars(summed["cost"])},  # type: ignore[arg-type]
    )
