"""A reply shows what the model wrote, and nothing that was put in its mouth."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from conversation_store.record.exchange import Exchange, State, Usage
from conversation_store.record.reply import Reply
from conversation_store.record.turns import Origin, Turn, model_turn

CONVERSATION: Final = UUID("01890000-0000-7000-8000-000000000001")
CONTENT: Final = (
    b'[{"type":"text","text":" 42."},{"type":"tool_use","id":"t1","name":"n","input":{}},'
    b'{"type":"tool_result","tool_use_id":"t1"},{"type":"new","text":"?"},{"type":"text","text":" Done."}]'
)


def reply(stop_reason: str, *, prefill: str | None = None) -> Reply:
    """Make the reply of an exchange that ended so."""
    exchange = Exchange(
        conversation=CONVERSATION,
        position=3,
        state=State.ANSWERED,
        model="m",
        begun=0,
        body_length=1,
        sent_by="client",
        stop_reason=stop_reason,
        usage=Usage(output_tokens=7),
    )
    body, _, _ = model_turn(CONTENT, prefill, [])
    turn = Turn(conversation=CONVERSATION, position=5, origin=Origin.MODEL, at=0, header=b"{}", body=body)
    return Reply(exchange=exchange, turn=turn, fields={"id": "msg_1"}, raw_content=CONTENT)


def test_the_prefill_is_in_the_turn_alone() -> None:
    """``reply.text`` is what the model wrote, ``reply.turn.text`` the whole turn."""
    made = reply("end_turn", prefill="The answer is")
    assert made.text == " 42. Done."
    assert made.turn is not None
    assert made.turn.text == "The answer is 42. Done."


def test_calls_of_tools() -> None:
    """The calls to be answered are those of the caller's tools, in their order."""
    assert [(call.id, call.name, call.input) for call in reply("tool_use").tool_uses] == [("t1", "n", {})]


def test_what_the_exchange_tells() -> None:
    """Stop reason and usage are the exchange's; a refusal is one by its stop reason."""
    assert reply("end_turn").stop_reason == "end_turn"
    assert reply("end_turn").usage.output_tokens == 7
    assert not reply("end_turn").refused
    assert reply("refusal").refused


def test_a_repr_tells_no_content() -> None:
    """What was said does not get into a log by printing a reply."""
    assert "42" not in repr(reply("end_turn"))
