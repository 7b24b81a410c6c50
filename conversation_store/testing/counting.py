"""How the loopback API counts tokens: roughly, quickly, and the same every time."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from conversation_store.testing import images

_TOKEN: Final = re.compile(r"\s*(?:\w{1,4}|[^\w\s])|\s+")
BYTES: Final = 4
"""What a token counts in bytes."""


def tokens(text: str) -> list[str]:
    """Return text in pieces of about a token: up to four letters, or one sign, with the space before it."""
    return _TOKEN.findall(text)


def count(body: Mapping[str, Any]) -> int:
    """
    Return the input tokens of a body: a quarter of the bytes of its system prompt, tools and messages, rounded up.

    Base64 data is not counted by its bytes; an image counts by its dimensions, a document by a quarter of the bytes
    it decodes to. Cache markers count nothing.
    """
    parts = [body[key] for key in ("system", "tools", "messages") if key in body]
    return math.ceil(measure(parts) / BYTES)


def measure(value: Any) -> int:
    """Return the size that blocks, messages or tools count with, in quarters of a token."""
    size = len(_written(value))
    for each in _apart(value):
        if "data" not in each:
            size -= len(_written({"cache_control": each})) - 1  # of its braces one stands for the comma
            continue
        size -= len(each["data"])
        decoded = decode(each["data"])
        measured = images.size(decoded)
        size += BYTES * (measured.tokens if measured else math.ceil(len(decoded) / BYTES))
    return size


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def decode(data: str) -> bytes:
    """Return the bytes of a base64 string; none when it is not one."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _apart(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield what counts in another way: the base64 sources and the cache markers, at any depth of content."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _apart(each)
    elif isinstance(value, dict):
        source = value.get("source")
        if isinstance(source, dict):
            if source.get("type") == "base64" and isinstance(source.get("data"), str):
                yield source
            yield from _apart(source.get("content"))
        if isinstance(value.get("cache_control"), dict):
            yield value["cache_control"]
        yield from _apart(value.get("content"))
