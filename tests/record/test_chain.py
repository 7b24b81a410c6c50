"""Entries are committed to and chained: the format is fixed, and no change goes unseen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from conversation_store.record import canonical, chain
from conversation_store.record.chain import Entry

CONVERSATION: Final = UUID("01890000-0000-7000-8000-000000000001")
SALT: Final = bytes(range(32))
BODY: Final = b'{"role":"user","content":"Hello, Claude"}'
AT: Final = 1763805600000000
PART: Final = "d6027bdead6362457e43770d5e43f925e09eaf9992c30392a652668d3c42ce9a"
GENESIS: Final = "13df9c13806c622e82daffd303b4b03c3682e2f49675a2b018e23c495453c413"
ENTRY: Final = "18590bf95031296ddbede9da2a0ed74f26b0f230b96269a7bd79d8e951a7631e"
DIGEST: Final = "6c47c36dae1efe178c738c24cbb61eea9635abadfa45765a88061fa0f9211b24"


def test_the_published_test_vector() -> None:
    """The digests of one turn are those the design publishes, step by step and through ``draft`` and ``chain``."""
    assert chain.part_of(SALT, BODY).hex() == PART
    assert chain.genesis(CONVERSATION).hex() == GENESIS
    header = canonical.header({"origin": "human", "body": PART})
    assert header == b'{"body":"' + PART.encode() + b'","origin":"human"}'
    entry = chain.entry_digest(CONVERSATION, 1, AT, "turn", header)
    assert entry.hex() == ENTRY
    assert chain.link(chain.genesis(CONVERSATION), entry).hex() == DIGEST
    made = chain.draft("turn", at=AT, salt=SALT, fields={"origin": "human"}, body=BODY)
    [chained] = chain.chain(CONVERSATION, 1, chain.genesis(CONVERSATION), [made])
    assert (chained.header, chained.digest.hex(), chained.position) == (header, DIGEST, 1)


def test_the_test_vector_by_hand() -> None:
    """The formulas written out with SHA-256 and nothing of ours give the same digests."""
    media = b"application/json"
    part = sha256(
        b"conversation_store/part/v1\0" + SALT + len(media).to_bytes(8, "big") + media + sha256(BODY).digest()
    ).hexdigest()
    genesis = sha256(b"conversation_store/genesis/v1\0" + CONVERSATION.bytes).digest()
    header = json.dumps({"body": part, "origin": "human"}, separators=(",", ":")).encode()
    entry = sha256(
        b"conversation_store/entry/v1\0"
        + CONVERSATION.bytes
        + (1).to_bytes(8, "big")
        + AT.to_bytes(8, "big")
        + (4).to_bytes(8, "big")
        + b"turn"
        + len(header).to_bytes(8, "big")
        + header
    ).digest()
    digest = sha256(b"conversation_store/link/v1\0" + genesis + entry).hexdigest()
    assert (part, genesis.hex(), entry.hex(), digest) == (PART, GENESIS, ENTRY, DIGEST)


# --- headers -----------------------------------------------------------------------------------------------------


def rfc8785(value: object) -> str:
    """Write the JSON that RFC 8785 asks for, from its text alone, for the values a header may have."""
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case int():
            return str(value)
        case str():
            short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
            return '"' + "".join(short.get(c, chr(c) if c >= 32 else f"\\u{c:04x}") for c in map(ord, value)) + '"'
        case list():
            return "[" + ",".join(map(rfc8785, value)) + "]"
        case dict():
            names = sorted(value, key=lambda name: name.encode("utf-16-be"))
            return "{" + ",".join(f"{rfc8785(name)}:{rfc8785(value[name])}" for name in names) + "}"
    raise TypeError(type(value))


_ASCII: Final = st.text(st.characters(max_codepoint=126), max_size=10)
_FIELDS: Final = st.dictionaries(
    _ASCII,
    st.recursive(
        st.one_of(st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), _ASCII),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_ASCII, inner, max_size=3)),
        max_leaves=8,
    ),
    max_size=5,
)


@given(_FIELDS)
def test_a_header_is_what_rfc_8785_writes(fields: dict[str, Any]) -> None:
    """Any implementation of the standard writes a header's bytes, so that other languages can verify."""
    assert canonical.header(fields) == rfc8785(fields).encode()
    assert canonical.header(dict(reversed(fields.items()))) == canonical.header(fields)


# --- every change shows ------------------------------------------------------------------------------------------


@frozen
class Said:
    """Everything the digest of an entry stands for."""

    conversation: bytes
    position: int
    at: int
    kind: str
    header: bytes
    previous: bytes

    @property
    def digest(self) -> bytes:
        """Chain it."""
        entry = chain.entry_digest(UUID(bytes=self.conversation), self.position, self.at, self.kind, self.header)
        return chain.link(self.previous, entry)


_U64: Final = st.integers(0, 2**64 - 1)
_DIGESTS: Final = st.binary(min_size=32, max_size=32)
_SAID: Final = st.builds(
    Said,
    conversation=st.binary(min_size=16, max_size=16),
    position=_U64,
    at=_U64,
    kind=st.text("abcdefgh", min_size=1, max_size=9),
    header=st.binary(min_size=1, max_size=60),
    previous=_DIGESTS,
)


def flipped(data: bytes, bit: int) -> bytes:
    """Turn one bit of *data* over."""
    at = bit // 8 % len(data)
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]


@given(_SAID, st.sampled_from(["conversation", "position", "at", "kind", "header", "previous"]), st.integers(0, 4095))
def test_a_change_of_any_bit_changes_the_digest(said: Said, name: str, bit: int) -> None:
    """No field of an entry, nor anything before it, can change unseen."""
    changes: Mapping[str, Any] = {
        "conversation": flipped(said.conversation, bit),
        "position": said.position ^ 1 << bit % 64,
        "at": said.at ^ 1 << bit % 64,
        "kind": flipped(said.kind.encode(), bit - bit % 8).decode(),
        "header": flipped(said.header, bit),
        "previous": flipped(said.previous, bit),
    }
    assert evolve(said, **{name: changes[name]}).digest != said.digest


@given(_SAID, st.integers(1, 8))
def test_bytes_cannot_move_from_one_field_to_the_next(said: Said, count: int) -> None:
    """Lengths are part of what is hashed: the end of the kind is not the beginning of the header."""
    moved = evolve(said, kind=said.kind[:-count], header=said.kind[-count:].encode() + said.header)
    assert moved.digest != said.digest


@given(_DIGESTS, st.binary(min_size=1, max_size=60), st.sampled_from(["body", "salt", "type"]), st.integers(0, 500))
def test_a_commitment_is_to_salt_type_and_bytes(salt: bytes, data: bytes, name: str, bit: int) -> None:
    """A commitment changes with any bit of what it is to."""
    made = chain.part_of(salt, data)
    other = {
        "body": chain.part_of(salt, flipped(data, bit)),
        "salt": chain.part_of(flipped(salt, bit), data),
        "type": chain.part(salt, "application/octet-stream", sha256(data).digest()),
    }
    assert other[name] != made


# --- drafts and chains -------------------------------------------------------------------------------------------


def test_a_draft_commits_to_all_that_people_wrote() -> None:
    """Body and about are committed to under the entry's salt; what is null is not written."""
    made = chain.draft(
        "turn", at=AT, salt=SALT, fields={"origin": "synthetic"}, body=BODY, about={"reason": "greeting", "key": None}
    )
    assert made.about == b'{"reason":"greeting"}'
    assert json.loads(made.header) == {
        "about": chain.part_of(SALT, made.about or b"").hex(),
        "body": PART,
        "origin": "synthetic",
    }
    assert made.salt == SALT
    assert b"greeting" not in made.header


def test_a_draft_without_words_has_no_salt() -> None:
    """A salt without anything it commits to would read as an erasure's opposite."""
    made = chain.draft("view", at=AT, salt=SALT, fields={"then": []}, about={"key": None})
    assert (made.salt, made.body, made.about) == (None, None, None)


@given(st.lists(st.tuples(st.integers(0, 2**62), st.binary(max_size=20)), max_size=6), st.integers(0, 2**40))
def test_a_chain_numbers_and_links(drawn: list[tuple[int, bytes]], position: int) -> None:
    """Positions follow one another, each digest stands on the one before, and a chain may be made in pieces."""
    drafts = [chain.draft("turn", at=at, salt=SALT, fields={}, body=body) for at, body in drawn]
    head = chain.genesis(CONVERSATION)
    entries = chain.chain(CONVERSATION, position, head, drafts)
    assert [entry.position for entry in entries] == list(range(position, position + len(drafts)))
    for entry, made in zip(entries, drafts, strict=True):
        own = chain.entry_digest(CONVERSATION, entry.position, made.at, "turn", made.header)
        head = chain.link(head, own)
        assert entry == evolve(made, position=entry.position, digest=head)
    assert pieces(position, drafts) == entries


def pieces(position: int, drafts: list[Entry]) -> list[Entry]:
    """Chain drafts one at a time."""
    head, found = chain.genesis(CONVERSATION), []
    for n, made in enumerate(drafts):
        [entry] = chain.chain(CONVERSATION, position + n, head, [made])
        head = entry.digest
        found.append(entry)
    return found
