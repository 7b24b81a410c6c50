"""
SQLite files of other programs: read as they are, never changed, and trusted with nothing.

Only tables are read, whole or by equal columns: a view or a trigger of the file would be somebody else's program. Text
comes as bytes, since nobody has checked that it is UTF-8.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final, Self

from conversation_store.errors import CodecError

BEGINNING: Final = b"SQLite format 3\0"
"""What a SQLite file begins with."""

_WRITE_AHEAD: Final = 2
_AT_ONCE: Final = 64


class ForeignTables:
    """
    The tables of a SQLite file.

    Raises:
        CodecError: It is no SQLite file, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self._held = ExitStack()
        try:
            self._connection = self._held.enter_context(closing(self._open(path)))
            self._connection.text_factory = bytes
            for pragma in ("query_only=ON", "trusted_schema=OFF", "cell_size_check=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._columns = dict(self._every_table())
        except (sqlite3.Error, OSError) as error:
            self._held.close()
            raise CodecError(f"this SQLite file cannot be read: {error}") from None
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _open(self, path: Path) -> sqlite3.Connection:
        """
        Open a file so that nothing beside it is made or changed.

        A write-ahead log that nobody else has open is not touched either: both are copied, and the copies read.
        """
        beside = path.with_name(f"{path.name}-wal")
        with path.open("rb") as file:
            head = file.read(20)
        if not head.startswith(BEGINNING):
            raise CodecError("this is no SQLite file")
        if head[18] != _WRITE_AHEAD:
            return _connected(path, "mode=ro")
        if not beside.exists() or not beside.stat().st_size:
            return _connected(path, "mode=ro&immutable=1")
        if path.with_name(f"{path.name}-shm").exists():
            return _connected(path, "mode=ro")  # as any other reader of a database that is in use
        folder = Path(self._held.enter_context(TemporaryDirectory()))
        shutil.copyfile(path, folder / path.name)
        shutil.copyfile(beside, folder / beside.name)
        return _connected(folder / path.name, "mode=rw")

    def _every_table(self) -> Iterator[tuple[str, frozenset[str]]]:
        named = self._connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        )
        for (name,) in named.fetchall():
            table = _text(name)
            columns = self._connection.execute(f"PRAGMA table_info({_quoted(table)})").fetchall()
            yield table, frozenset(_text(column[1]) for column in columns)

    @property
    def columns(self) -> Mapping[str, frozenset[str]]:
        """The columns of each table."""
        return self._columns

    def rows(
        self, table: str, *, where: Mapping[str, object] | None = None, order: Sequence[str] = ()
    ) -> Iterator[Mapping[str, Any]]:
        """
        Read rows, a few at a time: text and bytes as bytes, numbers as numbers.

        Args:
            table: One of ``columns``.
            where: Columns and what they must be; a column that is not there is not asked for.
            order: Columns to sort by.

        Raises:
            CodecError: The file is damaged; the rows before were given.
        """
        known = sorted(self._columns[table])
        wanted = {name: value for name, value in (where or {}).items() if name in known}
        statement = f"SELECT {', '.join(map(_quoted, known))} FROM {_quoted(table)}"  # noqa: S608 - names, quoted
        if wanted:
            statement += " WHERE " + " AND ".join(f"{_quoted(name)} IS ?" for name in wanted)
        if by := [name for name in order if name in known]:
            statement += f" ORDER BY {', '.join(map(_quoted, by))}"
        try:
            cursor = self._connection.execute(statement, list(wanted.values()))
            while found := cursor.fetchmany(_AT_ONCE):
                yield from (dict(zip(known, row, strict=True)) for row in found)
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            raise CodecError(f"{table} cannot be read: {error}") from None


def _connected(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
