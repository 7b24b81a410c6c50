"""A picture of an ant, drawn here, so that the demonstration needs neither a file nor a network."""

from __future__ import annotations

import struct
import zlib
from math import hypot
from typing import Final, TypeAlias

_Point: TypeAlias = tuple[int, int]

WIDTH: Final = 160
HEIGHT: Final = 96
_PAPER: Final = (244, 238, 222)
_BODY: Final = (92, 44, 20)

# Ellipses (x, y, half width, half height): abdomen, waist, thorax, head.
_ELLIPSES: Final = ((44, 50, 28, 19), (76, 50, 6, 5), (94, 48, 16, 11), (124, 44, 14, 13))
# Legs and antennae, each a line over three points.
_LINES: Final = (
    ((86, 54), (72, 72), (58, 88)),
    ((94, 56), (96, 74), (92, 90)),
    ((102, 54), (116, 70), (126, 88)),
    ((86, 42), (74, 24), (62, 10)),
    ((94, 40), (96, 22), (94, 6)),
    ((102, 42), (112, 26), (116, 10)),
    ((132, 36), (142, 24), (154, 22)),
    ((134, 48), (146, 44), (156, 50)),
)


def png() -> bytes:
    """Draw the ant, 160 by 96 pixels in colour."""
    rows = b"".join(b"\0" + b"".join(bytes(_colour(x, y)) for x in range(WIDTH)) for y in range(HEIGHT))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def _colour(x: int, y: int) -> tuple[int, int, int]:
    """Mix body and paper; a body is lighter above, and its edge is soft."""
    inside = max(0.0, min(1.0, _depth(x, y) + 0.5))
    light = max(0.0, (48 - y) / 48) * 0.35
    red, green, blue = (
        round(paper + (body + (255 - body) * light - paper) * inside) for body, paper in zip(_BODY, _PAPER, strict=True)
    )
    return red, green, blue


def _depth(x: int, y: int) -> float:
    """Say how many pixels inside the ant a point is; less than 0 outside."""
    bodies = ((1 - hypot((x - left) / wide, (y - top) / high)) * min(wide, high) for left, top, wide, high in _ELLIPSES)
    limbs = (
        1.4 - _distance((x, y), start, end)
        for first, second, third in _LINES
        for start, end in ((first, second), (second, third))
    )
    return max(*bodies, *limbs)


def _distance(point: _Point, start: _Point, end: _Point) -> float:
    """Measure from a point to a stretch of a line."""
    (x, y), (x1, y1), (x2, y2) = point, start, end
    along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / ((x2 - x1) ** 2 + (y2 - y1) ** 2)
    along = max(0.0, min(1.0, along))
    return hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1))
