"""Long strings are cut out of a message and put back, byte for byte."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conversation_store.record import canonical, splices
from conversation_store.record.splices import LONGEST_INLINE, SHORTEST, SHORTEST_RECEIVED, Cut

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def made(size: int) -> bytes:
    """Make bytes without a pattern, the same ones each time."""
    return Random(size).randbytes(size)


def restored(body: bytes, cuts: Iterable[Cut]) -> bytes:
    """Put cuts back where they were."""
    pieces: list[bytes] = []
    at = 0
    for cut in cuts:
        pieces += (body[at : cut.offset], *splices.text([cut.data], cut.encoding))
        at = cut.offset
    return b"".join([*pieces, body[at:]])


def quoted(*strings: str) -> bytes:
    """Write a message that holds these string literals, as they are."""
    inside = ",".join(f'{{"type":"text","text":"{string}"}}' for string in strings)
    return f'{{"role":"user","content":[{inside}]}}'.encode()


RUNS = st.builds(lambda size: base64.b64encode(made(size)).decode(), st.integers(740, 1200))
NEAR_RUNS = st.builds(
    lambda run, at, odd: run[: at % len(run)] + odd + run[at % len(run) :],
    RUNS,
    st.integers(0, 2000),
    st.sampled_from(["", "=", "\\/", "-", "_", "A", "AA", "é", " ", "\\n", '\\"', "\\\\"]),
)
SHORT = st.text(ALPHABET, max_size=20)
QUOTING = st.builds(lambda before, run: f'{before}\\"{run}', SHORT, RUNS)
BODIES = st.lists(st.one_of(RUNS, NEAR_RUNS, SHORT, QUOTING), max_size=5).map(lambda pieces: quoted(*pieces))


@given(BODIES)
def test_what_is_cut_out_can_be_put_back(body: bytes) -> None:
    """Whatever the strings look like, restoring gives the same bytes, and what is stored stays JSON."""
    shortened, cuts = splices.cut(body)
    assert restored(shortened, cuts) == body
    assert [cut.offset for cut in cuts] == sorted({cut.offset for cut in cuts})
    canonical.loads(shortened)


@given(BODIES)
def test_every_long_run_is_cut_and_nothing_else(body: bytes) -> None:
    """A string that is base64 of 1 KiB or more, to the last bit, is kept as its bytes; all others stay inline."""
    _, cuts = splices.cut(body)
    expected = []
    for run in re.findall(rb'(?<=")[A-Za-z0-9+/]+=*(?=")', body):
        try:
            data = base64.b64decode(run, validate=True)
        except ValueError:
            continue
        if len(run) >= SHORTEST and base64.b64encode(data) == run:
            expected.append(Cut(0, data, "base64"))
    assert [(cut.data, cut.encoding) for cut in cuts] == [(cut.data, cut.encoding) for cut in expected]


@pytest.mark.parametrize("size", [*range(760, 775), 49149, 49150, 49151, 49152])
def test_where_the_limits_are(size: int) -> None:
    """From exactly 1 KiB of text on a string is cut, from exactly 64 KiB where the API sent it, in any padding."""
    run = base64.b64encode(made(size)).decode()
    body = quoted(run)
    assert bool(splices.cut(body)[1]) == (len(run) >= SHORTEST)
    assert bool(splices.cut(body, SHORTEST_RECEIVED)[1]) == (len(run) >= SHORTEST_RECEIVED)


@pytest.mark.parametrize("count", range(1024, 1032))
def test_padding_and_unused_bits(count: int) -> None:
    """Base64 with set bits that decoding forgets, or of an impossible length, stays as it is."""
    for end in ("", "=", "==", "===", "B", "B=", "B=="):
        body = quoted("A" * count + end)
        shortened, cuts = splices.cut(body)
        assert restored(shortened, cuts) == body
        sound = (count + len(end)) % 4 == 0 and end in {"", "=", "==", "B"}
        assert bool(cuts) == sound, end


def test_several_pictures_in_one_message() -> None:
    """Offsets are those in the shortened message, the text around each picture stays where it was."""
    runs = [base64.b64encode(made(size)).decode() for size in (900, 5000, 901)]
    body = quoted("before é", runs[0], "between", runs[1], runs[2])
    shortened, cuts = splices.cut(body)
    assert shortened == quoted("before é", "", "between", "", "")
    assert [len(cut.data) for cut in cuts] == [900, 5000, 901]
    assert [shortened[cut.offset - 1 : cut.offset + 1] for cut in cuts] == [b'""'] * 3
    assert restored(shortened, cuts) == body


LONG = "ant é " * (LONGEST_INLINE // 7 + 1)
LONG_STRINGS = {
    "words": LONG,
    "almost base64": "A" * (LONGEST_INLINE + 1),
    "quotes in it": 'a\\"' * (LONGEST_INLINE // 3 + 1),
    "backslashes at its end": "\\\\" * (LONGEST_INLINE // 2 + 1),
    "a run at its end, after a quote": LONG + '\\"' + "A" * 4096,
    "a run that is most of it": 'x\\"' + "A" * (LONGEST_INLINE + 4),
}


@pytest.mark.parametrize("name", LONG_STRINGS)
def test_any_string_over_a_mebibyte_is_cut(name: str) -> None:
    """What is no base64 is kept as it stands, escapes included, whatever surrounds it."""
    run = base64.b64encode(made(3000)).decode()
    body = quoted("short", LONG_STRINGS[name], run, "short")
    shortened, cuts = splices.cut(body)
    assert restored(shortened, cuts) == body
    assert len(shortened) < 2000
    canonical.loads(shortened)


def test_up_to_a_mebibyte_stays_inline() -> None:
    """A long text is not torn out of its message before it has to be."""
    body = quoted("ä" * (LONGEST_INLINE // 2))
    assert splices.cut(body) == (body, [])
    shortened, cuts = splices.cut(quoted("ä" * (LONGEST_INLINE // 2) + "."))
    assert (shortened, len(cuts)) == (quoted(""), 1)


@given(BODIES, st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 9999)), max_size=4))
def test_marked_spans_keep_their_place(body: bytes, drawn: list[tuple[int, int]]) -> None:
    """A span of a message means the same bytes in the shortened one; a string it begins or ends in stays."""
    ends = [sorted((left % (len(body) + 1), right % (len(body) + 1))) for left, right in drawn]
    marks = [[start, end - start] for start, end in ends]
    shortened, cuts = splices.cut(body, marks=marks)
    assert restored(shortened, cuts) == body
    _, all_cuts = splices.cut(body)
    assert len(cuts) <= len(all_cuts)
    for (start, length), (at, count) in zip(marks, splices.moved(marks, cuts), strict=True):
        inside = [cut for cut in cuts if at < cut.offset < at + count]
        shifted = [Cut(cut.offset - at, cut.data, cut.encoding) for cut in inside]
        assert restored(shortened[at : at + count], shifted) == body[start : start + length]


@given(st.binary(max_size=40), st.sampled_from([b"", b'"', b'\\"', b"\\", b'"' + b"A" * 1024 + b'"']))
def test_any_bytes_at_all(data: bytes, piece: bytes) -> None:
    """Cutting looks at bytes, not at JSON: whatever it is given, nothing is lost."""
    body = data + b'"' + b"QUFB" * 300 + b'"' + piece + data
    shortened, cuts = splices.cut(body)
    assert restored(shortened, cuts) == body


# --- strings from chunks -----------------------------------------------------------------------------------------


def chunked(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Hand out *data* in pieces of these sizes, and then the rest."""
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


@given(st.binary(max_size=200), st.lists(st.integers(0, 40)), st.sampled_from(["base64", "raw"]))
@example(b"ab", [1], "base64")
@example(b"", [], "base64")
def test_a_string_is_the_same_from_any_chunks(data: bytes, sizes: list[int], encoding: splices.Encoding) -> None:
    """However a blob is read, its string is the whole one, and its length is known before."""
    expected = base64.b64encode(data) if encoding == "base64" else data
    assert b"".join(splices.text(chunked(data, sizes), encoding)) == expected
    assert splices.length(len(data), encoding) == len(expected)


@pytest.mark.parametrize("size", [splices.GROUP - 1, splices.GROUP, splices.GROUP + 1, 3 * 2**20 + 5])
def test_large_chunks_are_encoded_in_segments(size: int) -> None:
    """A chunk of a mebibyte becomes segments of a few hundred KiB, whose padding is at the very end only."""
    data = made(size)
    segments = list(splices.text(chunked(data, [2**20, 2**20]), "base64"))
    assert b"".join(segments) == base64.b64encode(data)
    assert max(map(len, segments)) <= splices.GROUP * 4 // 3
    assert not any(b"=" in segment for segment in segments[:-1])


@given(st.binary(max_size=50))
def test_reading_base64_is_the_inverse_of_writing_it(data: bytes) -> None:
    """What is written is read; what would be written otherwise is not read at all."""
    assert splices.decode(splices.encode(data)) == data


@pytest.mark.parametrize("text", [b"AAB=", b"A", b"AA", b"AA==\n", b"A-A_", b"AAA=AAAA", b"\xff\xff\xff\xff", b"===="])
def test_what_would_not_come_back_is_not_read(text: bytes) -> None:
    """Set bits that decoding forgets, missing padding, white space, other alphabets: None."""
    assert splices.decode(text) is None
