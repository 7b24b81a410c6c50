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
_BYTES: Final = 4


def tokens(text: str) -> list[str]:
    """Return text in pieces of about a token: up to four letters, or one sign, with the space before it."""
    return _TOKEN.findall(text)


def count(body: Mapping[str, Any]) -> int:
    """
    Return the input tokens of a body: a quarter of the bytes of its system prompt, tools and messages, rounded up.

    Base64 data is not counted by its bytes; an image counts by its dimensions, a document by a quarter of the bytes
    it decodes to.
    """
    parts = [body[key] for key in ("system", "tools", "messages") if key in body]
    size = len(json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    extra = 0
    for source in _media(body.get("messages", ())):
        data = source["data"]
        size -= len(data)
        decoded = decode(data)
        measured = images.size(decoded)
        extra += measured.tokens if measured else math.ceil(len(decoded) / _BYTES)
    return math.ceil(size / _BYTES) + extra


def decode(data: str) -> bytes:
    """Return the bytes of a base64 string; none when it is not one."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _media(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the base64 sources in messages, blocks and tool results."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _media(each)
    elif isinstance(value, dict):
        source = value.get("source")
        if isinstance(source, dict):
            if source.get("type") == "base64" and isinstance(source.get("data"), str):
                yield source
            yield from _media(source.get("content"))
        yield from _media(value.get("content"))
