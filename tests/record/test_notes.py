"""Notes, checkpoints and proofs: the examples of C2SP read and written again, and nothing that is nearly one."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.audit.keys import VerifyKey, is_signed
from conversation_store.errors import CodecError
from conversation_store.record import notes
from conversation_store.record.notes import Checkpoint, Note, Proof, Signature

# The examples of c2sp.org/signed-note and c2sp.org/tlog-checkpoint.
KEY: Final = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SIGNED: Final = """\
This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
CHECKPOINT: Final = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcT\
OAYQ8=
"""
POEM: Final = """\
Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRw\
NtIc=
"""
PROOF: Final = f"""\
c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMQ==
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=

{CHECKPOINT}"""


@pytest.mark.parametrize("given", [SIGNED, CHECKPOINT, POEM])
def test_the_published_notes_are_read_and_written_again(given: str) -> None:
    """Text, name and signature are parted at the last empty line, as text and as UTF-8."""
    note = Note.read(given)
    assert str(note) == given
    assert Note.read(given.encode()) == note
    assert note.text == given[: given.rindex("\n\n") + 1]
    assert [len(each.data) for each in note.signatures] == [64]


def test_the_published_signature_is_right_and_no_other_is() -> None:
    """The example's key checks the example's note; a changed text, signature, name or key does not."""
    key = VerifyKey.parse(KEY)
    assert str(key) == KEY
    note = Note.read(SIGNED)
    assert is_signed(note, [key])
    [signature] = note.signatures
    assert not is_signed(Note(note.text.replace("an", "no"), note.signatures), [key])
    assert not is_signed(Note(note.text), [key])
    assert not is_signed(Note(note.text, (Signature(signature.name, signature.key, bytes(64)),)), [key])
    assert not is_signed(Note(note.text, (Signature(signature.name, signature.key, b"short"),)), [key])
    assert not is_signed(Note(note.text, (Signature("example.com/bar", signature.key, signature.data),)), [key])
    assert not is_signed(note, [])
    other = Signature("witness.example", bytes(4), bytes(72))
    assert is_signed(Note(note.text, (other, signature)), [key])
    wrong = Signature(signature.name, signature.key, bytes(64))
    assert not is_signed(Note(note.text, (signature, wrong)), [key])


def test_the_published_checkpoint_is_read_and_written_again() -> None:
    """Origin, size and root stand on three lines."""
    text = Note.read(CHECKPOINT).text
    checkpoint = Checkpoint.read(text)
    assert (checkpoint.origin, checkpoint.size, len(checkpoint.root)) == ("example.com/behind-the-sofa", 20852163, 32)
    assert str(checkpoint) == text
    extended = Checkpoint.read(text + "something else\n")
    assert (extended.extensions, str(extended)) == (("something else",), text + "something else\n")


def test_a_published_proof_is_read_and_written_again() -> None:
    """Extra, index and path come before the checkpoint's note, which is kept as it is."""
    proof = Proof.read(PROOF)
    assert (proof.extra, proof.index, len(proof.path), proof.checkpoint) == (b"age-v1.2.1", 73894, 2, CHECKPOINT)
    assert str(proof) == PROOF
    assert Proof.read(PROOF.replace("extra YWdlLXYxLjIuMQ==\n", "")).extra is None


ROOT: Final = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


@pytest.mark.parametrize(
    "given",
    [
        *("", "\n", "a", "a\n", "a\n\nb", "\n\n"),
        SIGNED.replace("—", "-"),
        SIGNED.replace("— ", "—"),
        SIGNED.rstrip("\n"),
        SIGNED + "more\n",
        SIGNED.replace("example.com/foo ", "example+foo "),
        SIGNED.replace("IneyaQM=", "IneyaQM"),
        SIGNED.replace("IneyaQM=", "IneyaQN="),
        SIGNED.replace("This", "\x1bThis"),
        "a\n\n— n AAAAAA==\n",
        "a\n\n" + "— n AAAAAAA=\n" * 101,
        "a" * (1 << 20) + "\n\n",
    ],
)
def test_what_is_nearly_a_note_is_refused(given: str) -> None:
    """Another dash, no final newline, another spelling of base64, control characters, too much of anything."""
    with pytest.raises(CodecError):
        Note.read(given)


def test_bytes_that_are_no_text_are_refused() -> None:
    """A note is UTF-8."""
    with pytest.raises(CodecError):
        Note.read(b"\xff\n\n")


@pytest.mark.parametrize(
    "given",
    [
        *("", "a\n", f"a\n1\n{ROOT}", f"\n1\n{ROOT}\n", f"a\n\n{ROOT}\n"),
        *(f"a\n{size}\n{ROOT}\n" for size in ("-1", "01", "+1", " 1", "1 ", "1e3", "٣", "x", "9" * 20)),
        *("a\n1\nAAAA\n", "a\n1\n" + ROOT[:-1] + "\n", f"a\n1\n{ROOT} \n", f"a\n1\n{ROOT}\n\nb\n"),
    ],
)
def test_what_is_nearly_a_checkpoint_is_refused(given: str) -> None:
    """Sizes have one spelling, roots 32 bytes, and no line is empty."""
    with pytest.raises(CodecError):
        Checkpoint.read(given)


@pytest.mark.parametrize(
    "given",
    [
        "",
        PROOF.replace("@v1", "@v2"),
        PROOF.replace("index 73894", "index -1"),
        PROOF.replace("index 73894", "index 073894"),
        PROOF.replace("index 73894\n", ""),
        PROOF.replace("extra YWdl", "extra !Wdl"),
        PROOF.replace("gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=", "AAAA"),
        PROOF.split("\n\n", maxsplit=1)[0],
    ],
)
def test_what_is_nearly_a_proof_is_refused(given: str) -> None:
    """Another version, an index or a hash that is none, no checkpoint."""
    with pytest.raises(CodecError):
        Proof.read(given)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_anything_is_read_or_refused(given: bytes | str) -> None:
    """What is read as a note is written as the same; everything else is a CodecError and nothing else."""
    try:
        note = Note.read(given)
    except CodecError:
        return
    assert str(note) == (given.decode() if isinstance(given, bytes) else given)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20), min_size=1, max_size=4),
    st.lists(st.tuples(st.from_regex(r"[a-z./]{1,9}", fullmatch=True), st.binary(min_size=5, max_size=80)), max_size=3),
)
def test_what_is_written_is_read(lines: list[str], signed: list[tuple[str, bytes]]) -> None:
    """Any text of lines and any signatures come back as they were."""
    text = "".join(f"{line}\n" for line in lines)
    note = Note(text, tuple(Signature(name, data[:4], data[4:]) for name, data in signed))
    if text.strip("\n"):
        assert Note.read(str(note)) == note


@given(st.binary(max_size=100))
def test_base64_has_one_spelling(data: bytes) -> None:
    """What is encoded is decoded; with one character more, less or other it is refused or is something else."""
    text = notes.encoded(data)
    assert notes.decoded(text) == data
    for other in (text + "=", text + "\n", text + "A", text[:-1] if text else "="):
        try:
            found = notes.decoded(other)
        except CodecError:
            continue
        assert found != data
