"""The media type and the dimensions of an image, read from its first bytes."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The JPEG markers that carry the dimensions."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def tokens(self) -> int:
        """What an image of this size counts, before the API scales it down."""
        return math.ceil(self.width / 28) * math.ceil(self.height / 28)


def media_type(data: bytes) -> str | None:
    """Return the media type the bytes themselves tell; None when they are none of the four accepted kinds."""
    if data.startswith(_PNG):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def size(data: bytes) -> Size | None:
    """Return the dimensions, or None where the bytes do not tell them."""
    readers = {"image/png": _png, "image/jpeg": _jpeg, "image/gif": _gif, "image/webp": _webp}
    kind = media_type(data)
    return readers[kind](data) if kind is not None else None


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _png(data: bytes) -> Size | None:
    return Size(_big(data[16:20]), _big(data[20:24])) if len(data) >= 24 else None  # noqa: PLR2004 - the IHDR


def _gif(data: bytes) -> Size | None:
    return Size(_little(data[6:8]), _little(data[8:10])) if len(data) >= 10 else None  # noqa: PLR2004


def _jpeg(data: bytes) -> Size | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:  # noqa: PLR2004 - every JPEG marker begins with it
        if data[at + 1] in _FRAMES:
            return Size(_big(data[at + 7 : at + 9]), _big(data[at + 5 : at + 7]))
        at += 2 + _big(data[at + 2 : at + 4])
    return None


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if len(data) < 30:  # noqa: PLR2004 - the longest of the three headers
        return None
    if kind == b"VP8X":
        return Size(_little(data[24:27]) + 1, _little(data[27:30]) + 1)
    if kind == b"VP8L":
        bits = _little(data[21:25])
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return Size(_little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF)
