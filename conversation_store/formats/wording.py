"""How things are said to people, wherever they read: times, sizes, files, and the words that are not the model's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from conversation_store.errors import ContentError
from conversation_store.record import canonical, media
from conversation_store.record.blocks import Document, Image
from conversation_store.record.turns import Turn, spans_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KIB: Final = 1024


def moment(at: int) -> str:
    """Write microseconds since the epoch as a time, UTC."""
    try:
        return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%d %H:%M:%SZ")
    except OverflowError:
        return f"{at} µs"


def size(count: int) -> str:
    """Write a number of bytes."""
    if count < _KIB:
        return f"{count} bytes"
    return f"{count / _KIB:.1f} KiB" if count < _KIB * _KIB else f"{count / _KIB / _KIB:.1f} MiB"


def counted(number: int, thing: str) -> str:
    """Write how many of a thing there are: ``1 turn``, ``2 turns``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def words_of(value: object) -> str:
    """Take a value for words: what came from outside may be any JSON, whatever its block should hold."""
    if isinstance(value, str):
        return value
    try:
        return canonical.dumps(value).decode()
    except ContentError:
        return canonical.shown(value)


def attached(block: Image | Document) -> str:
    """Say what a picture or a document is."""
    if not isinstance(block.source, Mapping):
        return words_of(block.source)
    data, source = block.data, block.source
    if data is not None:
        try:
            measured = media.measure(data)
        except ValueError:
            return f"{source.get('media_type')}, {size(len(data))}"
        pixels = f", {measured.width} x {measured.height}" if measured.width else ""
        pages = f", {counted(measured.pages, 'page')}" if measured.pages else ""
        return f"{measured.type}{pixels}{pages}, {size(len(data))}"
    if source.get("type") == "text":
        return f"{source.get('media_type')}, {len(str(source.get('data'))):,} characters"
    return str(source.get("url") or source.get("file_id") or source.get("type"))


def prefill_of(turn: Turn) -> tuple[str, int]:
    """
    Find what was put in the model's mouth.

    Returns:
        The words that the turn's first text begins with, and how many whole blocks before it are ours.
    """
    spans = spans_of(turn.header, "ours")
    if not spans:
        return "", 0
    start, end = spans[0]
    if turn.body[start - 1 : start] == b'"':
        words = canonical.loads(b'"' + turn.body[start:end] + b'"')
        return (words, 0) if isinstance(words, str) else ("", 0)
    return "", len(canonical.items(b"[" + turn.body[start:end].rstrip(b", ") + b"]"))
