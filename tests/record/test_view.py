"""Views change by cutting and going on, and are told in entries of bounded depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.record import canonical, view
from conversation_store.record.view import WHOLE_EVERY, Span, View

OURS: Final = UUID("01890000-0000-7000-8000-000000000001")
PARENT: Final = UUID("01890000-0000-7000-8000-000000000002")


def places(spans: View, length: int) -> list[tuple[UUID, int]]:
    """List every place a view holds, its open span ending with *length*."""
    return [(span.conversation, n) for span in spans for n in range(span.first, span.upto(length) + 1)]


def test_a_new_conversation_shows_all_of_itself() -> None:
    """The first view is everything there is and will be."""
    assert places(view.whole(OURS), 3) == [(OURS, 0), (OURS, 1), (OURS, 2)]
    assert places(view.whole(OURS), 0) == []


def test_a_view_cut_after_a_turn_of_the_parent() -> None:
    """A fork's view can be cut inside what it took over."""
    spans = (Span(PARENT, 0, 9), Span(OURS, 0, None))
    assert view.until(spans, PARENT, 4) == (Span(PARENT, 0, 4),)
    assert view.until(spans, OURS, 4) == (Span(PARENT, 0, 9), Span(OURS, 0, 4))


@pytest.mark.parametrize(("conversation", "position"), [(PARENT, 10), (PARENT, 1), (OURS, 4)])
def test_a_turn_outside_the_view(conversation: UUID, position: int) -> None:
    """Cutting after a turn that the view does not hold is an error, not an empty view."""
    with pytest.raises(LookupError):
        view.until((Span(PARENT, 2, 9), Span(OURS, 5, None)), conversation, position)


STEPS: Final = st.lists(st.tuples(st.sampled_from(["cut", "grow", "skip"]), st.integers(0, 10**6)), max_size=160)


@given(STEPS)
def test_views_are_told_and_read_again(steps: list[tuple[str, int]]) -> None:
    """
    Through any history of changes, the entries written tell the view that was meant.

    No entry builds on more than 63 others, and only places that were kept or are new are in a view.
    """
    length, now, depth, position = 1, view.whole(OURS), 0, 0
    told: dict[int, tuple[Mapping[str, Any], View]] = {}
    bases: dict[int, View] = {0: now}
    for step, drawn in steps:
        if step == "grow":
            length += 1 + drawn % 5
            continue
        held = places(now, length)
        if step == "cut" and held:
            new = view.reopened(view.until(now, *held[drawn % len(held)]), OURS, length)
        else:
            new = view.reopened((), OURS, length)
        header = canonical.object_of(canonical.header(view.fields(now, new, position, depth)))
        assert set(places(new, length)) <= set(held)
        assert view.read(header, bases[position] if "base" in header else ()) == new
        told[length] = (header, new)
        depth = header.get("depth", 0)
        assert 0 <= depth < WHOLE_EVERY
        position, now = length, new
        bases[position] = new
        length += 1
    for where, (_, meant) in told.items():
        found, entries = follow(told, where)
        assert found == meant
        assert entries <= WHOLE_EVERY


def follow(told: Mapping[int, tuple[Mapping[str, Any], View]], position: int) -> tuple[View, int]:
    """Read a view from entries alone, and count them."""
    chain = []
    while position in told:
        header = told[position][0]
        chain.append(header)
        if "base" not in header:
            break
        position = header["base"]
    spans: View = () if "base" not in chain[-1] else view.whole(OURS)
    for header in reversed(chain):
        spans = view.read(header, spans)
    return spans, len(chain)


def test_every_64th_is_written_whole() -> None:
    """The entry that would build on 64 others says everything itself."""
    spans = (Span(PARENT, 0, 3), Span(OURS, 5, None))
    header = view.fields(spans, spans, 7, WHOLE_EVERY - 1)
    assert header == {"then": [[PARENT.hex, 0, 3], [OURS.hex, 5, None]]}
    assert view.fields(spans, spans, 7, WHOLE_EVERY - 2) == {
        "base": 7,
        "depth": WHOLE_EVERY - 1,
        "keep": 2,
        "then": [],
    }


def test_a_change_at_the_end_is_small() -> None:
    """However many spans a view has, an entry names only what changed."""
    old = tuple(Span(PARENT, 2 * n, 2 * n) for n in range(1000))
    new = (*old, Span(OURS, 9, None))
    assert view.fields(old, new, 8, 0) == {"base": 8, "depth": 1, "keep": 1000, "then": [[OURS.hex, 9, None]]}


def views(length: int) -> st.SearchStrategy[View]:
    """Draw views without an open span, of two logs of *length* entries; spans may overlap and come in any order."""
    spans = st.builds(
        lambda of, ends, thinking: Span(of, min(ends), max(ends), thinking),
        st.sampled_from([UUID(int=1), UUID(int=2)]),
        st.tuples(*[st.integers(0, length - 1)] * 2),
        st.booleans(),
    )
    return st.lists(spans, max_size=5).map(tuple)


@given(spans=views(12), others=views(12))
def test_what_other_spans_hold_is_left_out(spans: View, others: View) -> None:
    """The rest stays as it is and in its order, thinking or not."""
    gone = set(places(others, 12))
    left = view.minus(spans, others)
    assert places(left, 12) == [place for place in places(spans, 12) if place not in gone]
    assert all(span.last is not None and span.first <= span.last for span in left)
