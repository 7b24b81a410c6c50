"""Leaves: one spelling, the same as that of every header, and nothing else is read as one."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.errors import CodecError
from conversation_store.record import canonical, seals
from conversation_store.record.seals import Sealed


@given(st.uuids(), st.integers(0, (1 << 63) - 1), st.binary(min_size=32, max_size=32))
def test_a_leaf_is_written_as_a_header_is(conversation: UUID, length: int, digest: bytes) -> None:
    """The quick spelling is the canonical one, and is read as what it says."""
    leaf = Sealed(conversation, length, digest).leaf
    fields = {"conversation": conversation.hex, "digest": digest.hex(), "length": length, "v": 1}
    assert leaf == canonical.header(fields)
    assert seals.read(leaf) == Sealed(conversation, length, digest)


def test_leaves_of_no_conversation() -> None:
    """Quiet and the beginning of a log speak of none; the checkpoint comes back as it was."""
    assert seals.read(seals.quiet(5)) is None
    assert seals.read(seals.epoch("a\n1\nb\n\n")) is None
    assert seals.checkpoint_in(seals.epoch("a\n1\n\u2014\n\n")) == "a\n1\n\u2014\n\n"
    assert seals.checkpoint_in(seals.quiet(5)) is None
    assert seals.checkpoint_in(b"nonsense") is None
    assert seals.checkpoint_in(b'{"v":1,"checkpoint":"a"}') is None


@pytest.mark.parametrize(
    "leaf",
    [
        *(b"", b"[]", b"{}", b'{"v":2}', b'{"conversation":"00","v":1}', b'{"conversation":null,"v":1}'),
        b'{"v":1,"conversation":"00000000000000000000000000000000","digest":"00","length":1}',
        b'{"conversation":"00000000000000000000000000000000","digest":"0A","length":1,"v":1}',
        b'{"conversation":"00000000000000000000000000000000","digest":"00","length":1.0,"v":1}',
        b'{"conversation":"00000000000000000000000000000000","digest":"00","length":true,"v":1}',
        b'{"conversation":"00000000000000000000000000000000","digest":"zz","length":1,"v":1}',
    ],
)
def test_what_is_no_leaf_is_refused(leaf: bytes) -> None:
    """Another version, another order, another spelling."""
    with pytest.raises(CodecError):
        seals.read(leaf)
