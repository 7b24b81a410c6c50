"""Rows of other programs' tables, as importers read them: whose tables, and what a column says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from conversation_store.errors import CodecError
from conversation_store.record import canonical
from conversation_store.record.canonical import JSON


class Tables(Protocol):
    """
    Tables to read; ``storage.foreign`` has those of a SQLite file.

    Attributes:
        columns: The columns of each table.
    """

    @property
    def columns(self) -> Mapping[str, frozenset[str]]:
        """The columns of each table."""

    def rows(
        self, table: str, *, where: Mapping[str, object] | None = None, order: Sequence[str] = ()
    ) -> Iterator[Mapping[str, Any]]:
        """
        Read rows; text is bytes.

        Raises:
            CodecError: They cannot be read any further.
        """


def has(tables: Tables, table: str, *columns: str) -> bool:
    """Say whether there is a table with these columns."""
    return set(columns) <= tables.columns.get(table, frozenset())


def text_of(value: object) -> str | None:
    """
    Read what a column holds as text; None for null.

    Raises:
        CodecError: It is not UTF-8.
    """
    if isinstance(value, bytes):
        return canonical.text_of(value)
    return None if value is None else str(value)


def text_in(row: Mapping[str, Any], name: str) -> str | None:
    """
    Read a column's text; None where it is null or missing.

    Raises:
        CodecError: It is not UTF-8.
    """
    return text_of(row.get(name))


def json_in(row: Mapping[str, Any], name: str) -> tuple[bytes, JSON]:
    """
    Read a column's JSON: its bytes, and what they say.

    Raises:
        CodecError: It is none.
    """
    value = row.get(name)
    if not isinstance(value, bytes):
        raise CodecError(f"{name} holds no JSON")
    return value, canonical.loads(value)
