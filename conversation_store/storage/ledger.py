"""
Exchanges as rows: what was asked, what became of it, what it used. Derived from the log throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, insert, or_, select, update

from conversation_store.errors import ContentError
from conversation_store.record import canonical
from conversation_store.record.exchange import Exchange, State, Usage
from conversation_store.storage.engine import Compiled
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
_all: Final = select(table).where(_of).order_by(table.c.position)
_newest: Final = select(table).where(_of).order_by(table.c.position.desc()).limit(1)


def begin(connection: Connection, exchange: Exchange) -> None:
    """Write the row of an exchange that has just begun."""
    _insert.run(
        connection,
        {
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
        },
    )


def finish(connection: Connection, exchange: Exchange, outcome: int | None) -> None:
    """Bring the row of an exchange up to its outcome; *outcome* is the position of that entry."""
    _finish.run(
        connection,
        {
            "of": exchange.conversation.bytes,
            "at_position": exchange.position,
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
        },
    )


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


def read_all(connection: Connection, of: UUID) -> list[Exchange]:
    """Read every exchange of a conversation, oldest first."""
    return [_exchange(row) for row in connection.execute(_all, {"of": of.bytes})]


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
        idempotency_key=None if row.idempotency_key is None else bytes(row.idempotency_key).decode(),
    )
