"""A model's turn keeps what was received and what is sent in one body, and tells the two apart."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from random import Random
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from conversation_store.errors import CodecError
from conversation_store.record import canonical, chain, splices
from conversation_store.record.blocks import Text, Unknown
from conversation_store.record.exchange import omitted
from conversation_store.record.turns import (
    Origin,
    Splice,
    Turn,
    fields_of,
    model_turn,
    parts_of,
    role_of,
    spans_of,
    splices_of,
    turn_of,
    wire_of,
)
from tests.strategies import PREFILLS, blocks, contents, conversations, parsed, received_blocks, same, spelled

CONVERSATION: Final = UUID("01890000-0000-7000-8000-000000000001")

Prefill = str | Sequence[Any] | None


def run(size: int) -> str:
    """Make base64 of so many bytes, long enough to be kept as a blob."""
    return base64.b64encode(Random(size).randbytes(size)).decode()


LONG_BLOCKS: Final = st.one_of(
    st.builds(lambda size: {"type": "thinking", "thinking": "", "signature": run(size)}, st.integers(760, 800)),
    st.builds(lambda size: {"type": "text", "text": run(size)}, st.integers(760, 800)),
    st.builds(
        lambda size: {"type": "x_tool_result", "content": {"encrypted": run(size)}, "é": ""}, st.integers(760, 800)
    ),
)
LONG_CONTENTS: Final = st.builds(
    spelled,
    st.lists(st.one_of(LONG_BLOCKS, blocks(["text", "tool_use"]), received_blocks()), min_size=1, max_size=4),
    st.just(0) | st.integers(0, 2**32),
)
PREFILLS_OF_ALL_LENGTHS: Final = st.one_of(
    PREFILLS, st.builds(run, st.integers(760, 800)), st.builds(lambda size: 'say: "' + run(size), st.integers(1, 800))
)


def expected(content: bytes, prefill: Prefill, omit: Sequence[int]) -> list[Any]:
    """Say which blocks are sent, by values alone."""
    kept = [block for n, block in enumerate(parsed(content)) if n not in omit]
    if prefill is None:
        return kept
    said = [{"type": "text", "text": prefill}] if isinstance(prefill, str) else list(prefill)
    if len(said) == 1 and kept and kept[0].get("type") == "text" and isinstance(kept[0].get("text"), str):
        return [kept[0] | {"text": said[0]["text"] + kept[0]["text"]}, *kept[1:]]
    return said + kept


def recorded(content: bytes, prefill: Prefill, omit: Sequence[int], shortest: int = 10**9) -> Turn:
    """Store a model's turn as an exchange does: taken apart, its long strings cut out, looked at as a turn."""
    body, ours, left_out = model_turn(content, prefill, omit)
    shortened, cuts = splices.cut(body, shortest, marks=[*ours, *left_out])
    header = canonical.header(
        {
            "origin": "model",
            "ours": splices.moved(ours, cuts),
            "omit": splices.moved(left_out, cuts),
            "splices": [[cut.offset, "00", cut.encoding] for cut in cuts],
        }
    )
    strings = [b"".join(splices.text([cut.data], cut.encoding)) for cut in cuts]
    return Turn(
        conversation=CONVERSATION,
        position=3,
        origin=Origin.MODEL,
        at=0,
        header=header,
        body=shortened,
        strings=lambda: strings,
    )


def check(turn: Turn, content: bytes, prefill: Prefill, omit: Sequence[int]) -> None:
    """Hold a turn against the answer it was made from."""
    assert turn.received == content
    message = parsed(turn.wire)
    assert list(message) == ["role", "content"]
    assert message["role"] == turn.role == "assistant"
    assert same(message["content"], expected(content, prefill, omit))


@given(contents(), PREFILLS, st.sets(st.integers(0, 3)))
@example(b'[ {"type":"text","text":"\\u00e9"} , {"type":"text","text":""} ]', "Die Ameise läuft", {1})
@example(b'[{"type":"text"}]', "The", set())
@example(b'[{"type":"text","text":null}]', [{"type": "text", "text": "The"}], set())
def test_received_and_sent_are_both_in_the_body(content: bytes, prefill: Prefill, left_out: set[int]) -> None:
    """Whatever came, in any spelling: received is the bytes that came, sent is what the rules make of them."""
    count = len(parsed(content))
    omit = sorted(n for n in left_out if n < count)
    assume(len(omit) < count)
    check(recorded(content, prefill, omit), content, prefill, omit)


@given(LONG_CONTENTS, PREFILLS_OF_ALL_LENGTHS, st.sets(st.integers(0, 3)))
@example(b'[{"type":"text","text":"' + run(800).encode() + b'"}]', "AAAA", set())
@example(b'[{"type":"text","text":"' + run(800).encode() + b'"}]', 'say: "', set())
@example(b'[{"type":"thinking","signature":"' + run(800).encode() + b'"},{"type":"text","text":"a"}]', "B", {0})
def test_long_strings_may_be_cut_out_at_the_same_time(content: bytes, prefill: Prefill, left_out: set[int]) -> None:
    """Strings kept as blobs, before, after and inside what is ours or left out, change neither of the two."""
    count = len(parsed(content))
    omit = sorted(n for n in left_out if n < count)
    assume(len(omit) < count)
    turn = recorded(content, prefill, omit, shortest=splices.SHORTEST)
    check(turn, content, prefill, omit)
    whole = recorded(content, prefill, omit)
    assert (turn.wire, turn.received) == (whole.wire, whole.received)


@given(contents(), PREFILLS)
def test_what_is_never_resent_by_the_rules(content: bytes, prefill: Prefill) -> None:
    """With the blocks the rules leave out, no text that is sent is blank."""
    omit = sorted(omitted(parsed(content)))
    assume(len(omit) < len(parsed(content)))
    turn = recorded(content, prefill, omit)
    check(turn, content, prefill, omit)
    assert all(block.text.strip() for block in turn.content if isinstance(block, Text) and isinstance(block.text, str))


def test_the_spans_are_bytes_not_characters() -> None:
    """With characters of several bytes before them, spans still name exactly the prefill and the empty text."""
    content = '[{"type":"text","text":"é\U0001f41c"}, {"type":"text","text":""}]'.encode()
    body, ours, left_out = model_turn(content, "Größe: ", [1])
    [[at, length]] = ours
    assert body[at : at + length].decode() == "Größe: "
    [[at, length]] = left_out
    assert body[at : at + length] == b', {"type":"text","text":""}'
    assert (
        body
        == (
            '{"role":"assistant","content":[{"type":"text","text":"Größe: é\U0001f41c"}, {"type":"text","text":""}]}'
        ).encode()
    )


def test_the_prefill_is_escaped_like_any_text() -> None:
    """Quotes, backslashes and control characters of a prefill become JSON in the middle of a received string."""
    turn = recorded(b'[{"text":"\\/ b","type":"text"}]', 'a "\\\n\0', [])
    assert turn.text == 'a "\\\n\0/ b'
    assert turn.received == b'[{"text":"\\/ b","type":"text"}]'


def test_a_prefill_before_something_else() -> None:
    """An answer that does not go on with words gets the prefill as a block of its own in front."""
    turn = recorded(b'[ {"type":"tool_use","id":"t","name":"n","input":{}} ]', "I look it up.", [])
    assert [block.type for block in turn.content] == ["text", "tool_use"]
    assert turn.received == b'[ {"type":"tool_use","id":"t","name":"n","input":{}} ]'


# --- looking at turns --------------------------------------------------------------------------------------------


@given(conversations())
def test_the_role_is_read_from_the_body(messages: list[dict[str, Any]]) -> None:
    """Whichever key comes first, a body tells whose it is."""
    for message in messages:
        assert role_of(canonical.dumps(message)) == message["role"]


def test_an_entry_becomes_a_turn() -> None:
    """Origin, time, position and reason of a turn are what its entry says; nothing of it is computed anew."""
    body = b'{"content":[{"type":"text","text":"Hello!"},{"type":"wave","n":1.0}],"role":"assistant"}'
    about = {"reason": "canned greeting"}
    made = chain.draft("turn", at=5, salt=bytes(32), fields={"origin": "synthetic"}, body=body, about=about)
    [entry] = chain.chain(CONVERSATION, 7, chain.genesis(CONVERSATION), [made])
    turn = turn_of(CONVERSATION, entry)
    assert (turn.position, turn.origin, turn.at, turn.reason) == (7, Origin.SYNTHETIC, 5, "canned greeting")
    assert (turn.role, turn.text, turn.wire) == ("assistant", "Hello!", body)
    assert turn.content == (Text("Hello!"), Unknown("wave", extra={"n": 1.0}))
    assert "Hello" not in repr(turn)


def test_a_turn_without_a_reason() -> None:
    """No about, or one without a reason, is no reason."""
    for about in (None, {"key": "telegram:42"}):
        made = chain.draft("turn", at=5, salt=bytes(32), fields={"origin": "human"}, body=b"{}", about=about)
        assert turn_of(CONVERSATION, made).reason is None


def test_a_header_is_read_strictly() -> None:
    """A header that is no object is a ``CodecError``."""
    assert fields_of(b'{"a":1}') == {"a": 1}
    for header in (b"[]", b"", b"{", b"\xff"):
        with pytest.raises(CodecError):
            fields_of(header)


def test_parts_of_a_body() -> None:
    """A body is taken apart at its splices and left-out spans; strings inside what is left out are not asked for."""
    header = canonical.header({"omit": [[2, 4]], "splices": [[3, "aa", "raw"], [7, "bb", "base64"]]})
    assert parts_of(header, b"0123456789") == [b"01", b"6", Splice(7, "bb", "base64"), b"789"]
    assert splices_of(header) == [Splice(3, "aa", "raw"), Splice(7, "bb", "base64")]
    assert spans_of(header, "omit") == [(2, 6)]
    assert spans_of(header, "ours") == []
    assert wire_of(header, b"0123456789", lambda: [b"X", b"Y"]) == b"016Y789"
    assert wire_of(header, b"0123456789", lambda: [b"X", b"Y"], without="ours") == b"012X3456Y789"


def test_a_plain_turn_asks_for_no_strings() -> None:
    """Without splices the body is the message; nobody is asked for anything."""

    def never() -> Sequence[bytes]:
        raise AssertionError

    assert wire_of(b'{"origin":"human"}', b"{}", never) == b"{}"
