"""
What can be wrong with the rows of a log, as data: each fault with its place, what was expected and what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from uuid import UUID

from attrs import frozen

from conversation_store.record import chain
from conversation_store.record.unread import Unread

NOBODY: Final = UUID(int=0)
"""Stands for the conversation of a fault that is in no conversation: a blob nobody uses, an id that is none."""

_SHOWN: Final = 80


@frozen
class Fault:
    """
    Something that is not as it was written.

    Attributes:
        code: What kind of fault, stable. Of the log: ``column``, ``position``, ``kind``, ``header``, ``digest``,
            ``body``, ``about``, ``blob``, ``missing`` (content that no entry erased), ``erased`` (content that an entry
            erased), ``outside`` (what nothing is committed to), ``request`` (a body that is not the one sent),
            ``parent`` (what a fork was made from), ``ciphertext`` (content that cannot be decrypted; at -1 that of a
            whole conversation: there is no key). Of the conversation's row: ``missing``, ``length``, ``head``,
            ``row``. Of derived tables: ``exchange``, ``key``, ``stray``. Against what an auditor remembers:
            ``rewritten``, ``truncated``, ``gone``.
        conversation: In which conversation; ``NOBODY`` for none.
        position: At which entry; -1 for the conversation's row.
        expected: What the record commits to.
        found: What is there.
    """

    code: str
    conversation: UUID
    position: int
    expected: str
    found: str


def shown(value: object) -> str:
    """Write any value of a column for a fault."""
    return value[:_SHOWN].hex() if isinstance(value, bytes) else repr(value)[:_SHOWN]


def columns(row: Any) -> Iterator[tuple[str, str, str]]:
    """Say which columns of an entry hold what no writer of ours ever put there."""
    for name, kind in (("position", int), ("at", int), ("kind", str), ("header", bytes), ("digest", bytes)):
        value = getattr(row, name)
        if type(value) is not kind:
            yield "column", f"{name} of type {kind.__name__}", f"{type(value).__name__} {shown(value)}"
    for name in ("body", "about", "salt", "request_salt"):
        value = getattr(row, name)
        if isinstance(value, Unread):
            yield "ciphertext", f"{name} as it was encrypted", value.reason
        elif value is not None and type(value) is not bytes:
            yield "column", f"{name} of type bytes", f"{type(value).__name__} {shown(value)}"
    if type(row.at) is int and not 0 <= row.at < 1 << 63:
        yield "column", "at as a time", str(row.at)
    if type(row.kind) is str and row.kind not in chain.KINDS:
        yield "kind", "a kind of entry", shown(row.kind)
    for name in ("digest", "salt", "request_salt"):
        value = getattr(row, name)
        if type(value) is bytes and len(value) != chain.DIGEST:
            yield "column", f"{name} of 32 bytes", f"{len(value)} bytes"


def part_faults(
    conversation: UUID, row: Any, fields: Mapping[str, Any], *, erased: frozenset[str] = frozenset()
) -> Iterable[Fault]:
    """
    Say which of an entry's own parts are not what its header, read as *fields*, commits to.

    *erased* names what is gone and looked for in ``erased`` entries instead: ``content``, ``request``.
    """
    return () if _has_a_body_alone(row, fields) else _part_faults(conversation, row, fields, erased)


def _has_a_body_alone(row: Any, fields: Mapping[str, Any]) -> bool:
    """Say of an entry, as nearly every one is, that it has a body and nothing else, and the one committed to."""
    committed = fields.get("body")
    return (
        committed is not None
        and row.body is not None
        and row.salt is not None
        and row.about is row.request_salt is None
        and row.kind != "request"
        and "about" not in fields
        and bool(chain.part_of(row.salt, row.body).hex() == committed)
    )


def _part_faults(conversation: UUID, row: Any, fields: Mapping[str, Any], erased: frozenset[str]) -> Iterator[Fault]:
    for name in ("body", "about"):
        data, committed = getattr(row, name), fields.get(name)
        if committed is None:
            if data is not None:
                yield Fault("outside", conversation, row.position, f"no {name}", f"{len(data)} bytes")
        elif data is None or row.salt is None:
            if "content" not in erased:
                missing = name if data is None else "salt"
                yield Fault("missing", conversation, row.position, shown(committed), f"no {missing}")
        else:
            found = chain.part_of(row.salt, data).hex()
            if found != committed:
                yield Fault(name, conversation, row.position, shown(committed), found)
    if row.salt is not None and "body" not in fields and "about" not in fields:
        yield Fault("outside", conversation, row.position, "no salt", shown(row.salt))
    if row.kind != "request":
        if row.request_salt is not None:
            yield Fault("outside", conversation, row.position, "no request_salt", shown(row.request_salt))
    elif "request" in fields and row.request_salt is None and "request" not in erased:
        yield Fault("missing", conversation, row.position, "a request_salt", "none")


def named(fields: Mapping[str, Any]) -> list[Any]:
    """List the commitments to blobs in a header, in the order of their uses."""
    if "splices" not in fields and "raw" not in fields:
        return []
    named = fields.get("splices", [])
    cuts = [each[1] for each in named if isinstance(each, list) and len(each) > 1] if isinstance(named, list) else []
    return [fields["raw"], *cuts] if "raw" in fields else cuts
