"""Small pictures and documents, valid and really decodable, made by hand from the formats' own descriptions."""

from __future__ import annotations

import struct
import zlib
from typing import Literal


def png(width: int = 4, height: int = 3, *, colour: tuple[int, int, int] = (200, 30, 30), padding: int = 0) -> bytes:
    """
    Make a PNG of one colour; other colours are other bytes.

    Args:
        width: Pixels across.
        height: Pixels down.
        colour: Red, green, blue.
        padding: Bytes of a private chunk that makes the file longer without changing the picture.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    rows = bytes(1 + (width + 7) // 8) * height
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)),
        chunk(b"PLTE", bytes(colour)),
    ]
    if padding:
        parts.append(chunk(b"paDd", bytes(padding)))
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def jpeg(
    width: int = 4,
    height: int = 3,
    *,
    progressive: bool = False,
    exif: bytes = b"",
    fill: int = 0,
    comment: bytes = b"",
    restarts: bool = False,
) -> bytes:
    """
    Make a grey JPEG; other comments are other bytes.

    Args:
        width: Pixels across.
        height: Pixels down.
        progressive: One progressive scan (SOF2) in place of a baseline one (SOF0).
        exif: Content of an EXIF segment, such as a thumbnail.
        fill: Fill bytes (0xFF) before each marker.
        comment: A comment segment.
        restarts: A restart marker after each row of blocks.
    """

    def segment(marker: int, content: bytes) -> bytes:
        return b"\xff" * fill + bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content

    across, down = (width + 7) // 8, (height + 7) // 8
    one_code = bytes([1, *[0] * 15, 0])  # a table of one code, the single bit 0, for the value 0
    bits_a_block = 1 if progressive else 2
    row = _zero_bits(across * bits_a_block)
    scan = _zero_bits(across * down * bits_a_block)
    if restarts:
        scan = b"".join(row + (bytes([0xFF, 0xD0 + n % 8]) if n < down - 1 else b"") for n in range(down))
    parts = [
        b"\xff\xd8",
        segment(0xE0, b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"),
        segment(0xE1, b"Exif\x00\x00" + exif) if exif else b"",
        segment(0xFE, comment) if comment else b"",
        segment(0xDB, b"\x00" + b"\x01" * 64),
        segment(0xC2 if progressive else 0xC0, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"),
        segment(0xC4, b"\x00" + one_code + b"\x10" + one_code),
        segment(0xDD, struct.pack(">H", across)) if restarts else b"",
        segment(0xDA, b"\x01\x01\x00" + (b"\x00\x00\x00" if progressive else b"\x00\x3f\x00")),
        scan,
        b"\xff" * fill + b"\xff\xd9",
    ]
    return b"".join(parts)


def _zero_bits(count: int) -> bytes:
    """Return that many 0 bits, the last byte filled up with 1 bits."""
    whole, rest = divmod(count, 8)
    return bytes(whole) + (bytes([0xFF >> rest]) if rest else b"")


def gif(width: int = 4, height: int = 3, *, frames: int = 1, colour: tuple[int, int, int] = (30, 200, 30)) -> bytes:
    """
    Make a GIF of one colour, animated where it has several frames.

    Args:
        width: Pixels across.
        height: Pixels down; the picture is not compressed, so keep both small.
        frames: How many pictures follow one another.
        colour: Red, green, blue.
    """
    pixels = width * height
    # Codes of 8 bits, with a clear code before the table would need 9: each pixel is one byte.
    codes = b"".join(b"\x80" + bytes(min(100, pixels - n)) for n in range(0, pixels, 100)) + b"\x81"
    blocks = b"".join(bytes([len(codes[n : n + 255])]) + codes[n : n + 255] for n in range(0, len(codes), 255))
    control = b"\x21\xf9\x04\x04\x0a\x00\x00\x00"
    loop = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00" if frames > 1 else b""
    frame = control + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x07" + blocks + b"\x00"
    screen = struct.pack("<HHBBB", width, height, 0x86, 0, 0) + bytes(colour) + bytes(3 * 127)
    return b"GIF89a" + screen + loop + frame * frames + b"\x3b"


def webp(
    width: int = 4,
    height: int = 3,
    *,
    form: Literal["VP8", "VP8L", "VP8X"] = "VP8L",
    frames: int = 0,
    colour: tuple[int, int, int] = (30, 30, 200),
) -> bytes:
    """
    Make a WebP of one colour.

    Args:
        width: Pixels across.
        height: Pixels down.
        form: Lossy (always grey), lossless, or the extended container around a lossless picture.
        frames: Pictures of an animation, 0 for none; with the extended container only.
        colour: Red, green, blue.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    def short(number: int) -> bytes:
        return struct.pack("<I", number)[:3]

    still = chunk(b"VP8 ", _vp8(width, height)) if form == "VP8" else chunk(b"VP8L", _vp8l(width, height, colour))
    content = still
    if form == "VP8X":
        size = short(width - 1) + short(height - 1)
        content = chunk(b"VP8X", struct.pack("<I", 2 if frames else 0) + size)
        if frames:
            frame = chunk(b"ANMF", bytes(6) + size + short(100) + b"\x00" + still)
            content += chunk(b"ANIM", bytes(6)) + frame * frames
        else:
            content += still
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content


def _vp8l(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    bits: list[int] = []

    def write(value: int, count: int) -> None:
        bits.extend(value >> n & 1 for n in range(count))

    write(width - 1, 14)
    write(height - 1, 14)
    write(0, 4)  # no alpha, version 0
    write(0, 3)  # no transform, no colour cache, one group of prefix codes
    red, green, blue = colour
    for symbol in (green, red, blue, 255):
        write(0b101, 3)  # a simple code of one symbol, which is 8 bits long: no bits a pixel
        write(symbol, 8)
    write(0b0001, 4)  # the same for distances: the symbol 0
    bits.extend([0] * (-len(bits) % 8))
    whole = bytes(sum(bit << n for n, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
    return b"\x2f" + whole


def _vp8(width: int, height: int) -> bytes:
    blocks = ((width + 15) // 16) * ((height + 15) // 16)
    # All-zero partitions read as: no segments, no filter, every prediction the first of its tree, no residue.
    first, tokens = bytes(1024 + 32 * blocks), bytes(64 + 64 * blocks)
    tag = len(first) << 5 | 1 << 4
    return struct.pack("<I", tag)[:3] + b"\x9d\x01\x2a" + struct.pack("<HH", width, height) + first + tokens


def pdf(
    pages: int = 1,
    *,
    text: str = "Hello",
    encrypted: bool = False,
    packed: bool = False,
    before: bytes = b"",
) -> bytes:
    """
    Make a PDF whose pages each say *text*.

    Args:
        pages: How many.
        text: What each page says, in ASCII without parentheses; other texts are other bytes.
        encrypted: Name an encryption dictionary in the trailer (the content stays in the open).
        packed: Pack the objects into a compressed stream, with a cross-reference stream for a trailer.
        before: Bytes in front of the header, as mail programs leave them.
    """
    stream = f"BT /F1 24 Tf 72 720 Td ({text}) Tj ET".encode("ascii")
    leaves = range(6, 6 + pages)
    kids = " ".join(f"{number} 0 R" for number in leaves)
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>".encode("ascii"),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        4: b"<< /Length %d >>\nstream\n" % len(stream) + stream + b"\nendstream",
        5: b"<< /Filter /Standard /V 1 /R 2 /P -4 >>",
    }
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
    objects |= dict.fromkeys(leaves, page + b"/Resources << /Font << /F1 3 0 R >> >> >>")
    entries = b"/Root 1 0 R" + (b" /Encrypt 5 0 R" if encrypted else b"")
    written = _packed(objects, entries) if packed else _plain(objects, entries)
    return before + written


def _plain(objects: dict[int, bytes], entries: bytes) -> bytes:
    out, offsets = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), []
    for number, content in sorted(objects.items()):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % number + content + b"\nendobj\n"
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d " % (len(objects) + 1) + entries + b" >>\nstartxref\n%d\n%%%%EOF\n" % table
    return bytes(out)


def _packed(objects: dict[int, bytes], entries: bytes) -> bytes:
    inside = [number for number in sorted(objects) if b"stream" not in objects[number]]
    bodies, where = b"", []
    for number in inside:
        where.append(f"{number} {len(bodies)}")
        bodies += objects[number] + b"\n"
    index = " ".join(where).encode("ascii") + b"\n"
    content = zlib.compress(index + bodies)
    holder, table = max(objects) + 1, max(objects) + 2
    out, rows = bytearray(b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n"), {0: (0, 0, 65535)}
    for position, number in enumerate(inside):
        rows[number] = (2, holder, position)
    for number in sorted(set(objects) - set(inside)):
        rows[number] = (1, len(out), 0)
        out += b"%d 0 obj\n" % number + objects[number] + b"\nendobj\n"
    rows[holder] = (1, len(out), 0)
    out += b"%d 0 obj\n<< /Type /ObjStm /N %d /First %d /Length %d" % (
        holder,
        len(inside),
        len(index),
        len(content),
    )
    out += b" /Filter /FlateDecode >>\nstream\n" + content + b"\nendstream\nendobj\n"
    rows[table] = (1, len(out), 0)
    lines = zlib.compress(b"".join(struct.pack(">BIH", *rows[number]) for number in sorted(rows)))
    out += b"%d 0 obj\n<< /Type /XRef /Size %d /W [1 4 2] " % (table, table + 1) + entries
    out += b" /Length %d /Filter /FlateDecode >>\nstream\n" % len(lines) + lines + b"\nendstream\nendobj\n"
    out += b"startxref\n%d\n%%%%EOF\n" % rows[table][1]
    return bytes(out)
