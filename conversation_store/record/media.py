"""
Pictures and documents, known by their bytes: what they are, how large, whether they are whole.

Only headers and the lengths of sections are read; nothing is decoded, so a small file that unpacks to
gigabytes costs nothing here. Every reader is linear in the length of the file and safe on hostile bytes:
it answers with a ``Media`` or with a sentence about what is wrong, and ``measure`` alone raises.

Sources: Messages API documentation, Vision and PDF support, 2026-08 (what is accepted, the limits);
PNG 3rd edition, ITU-T T.81, GIF89a, RFC 9649 (WebP), ISO 32000-1 (PDF).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from attrs import frozen

from conversation_store.errors import AttachmentError

MediaType: TypeAlias = Literal["image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf"]

IMAGE_BASE64: Final = 10 * 1024 * 1024
"""Characters of base64 one image may have. Source: Messages API documentation, Vision, 2026-08."""

LARGEST_IMAGE: Final = IMAGE_BASE64 // 4 * 3
"""Bytes of the largest image file: what 10 MB of base64 hold."""

IMAGE_SIDE: Final = 8000
"""Pixels an image may be wide or high. Source: Messages API documentation, Vision, 2026-08."""

REQUEST_BYTES: Final = 32 * 1024 * 1024
"""Bytes a request may have, its base64 included. Source: Messages API documentation, Errors, 2026-08."""

LARGEST_PDF: Final = REQUEST_BYTES // 4 * 3
"""Bytes of the largest PDF file: what a request of 32 MB, were it nothing but base64, holds."""

PDF_PAGES: Final = 600
"""Pages a PDF may have, where the model's context is 1M. Source: Messages API documentation, PDF, 2026-08."""

_ACCEPTED: Final = "accepted are JPEG, PNG, GIF and WebP images and PDF documents"

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_GIF: Final = (b"GIF87a", b"GIF89a")
_PDF: Final = re.compile(rb"%PDF-[0-9]")
_PDF_HEADER_WITHIN: Final = 1024
_PDF_END_WITHIN: Final = 1024


@frozen
class Media:
    """
    What a file is, by its own bytes.

    Attributes:
        type: Its media type, as the API names it.
        width: Pixels across as stored (an EXIF rotation is not applied); None for a document.
        height: Pixels down as stored; None for a document.
        pages: Pages of a document; None for an image, and where the file does not tell without unpacking it.
    """

    type: MediaType
    width: int | None = None
    height: int | None = None
    pages: int | None = None


def sniff(data: bytes) -> MediaType | None:
    """
    Tell the media type from the first bytes, never from a name.

    At most the first 1024 bytes are looked at. None means: nothing the API accepts. A type does not mean that
    the file is whole; ``measure`` tells that.
    """
    if data.startswith(_PNG):
        return "image/png"
    if data.startswith(_JPEG):
        return "image/jpeg"
    if data.startswith(_GIF):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if _PDF.search(data, 0, _PDF_HEADER_WITHIN):
        return "application/pdf"
    return None


def measure(data: bytes, *, path: str = "") -> Media:
    """
    Tell what a file is and how large, and make sure that it is whole.

    The limits of the API are not applied here; see ``check``. Linear in ``len(data)``.

    Args:
        data: The whole file.
        path: Where it stands in the request, for the error: ``messages.3.content.1``.

    Raises:
        AttachmentError: The file is empty, of a kind the API does not accept, cut short, damaged, encrypted.
    """
    if not data:
        raise AttachmentError(path, f"the file is empty; {_ACCEPTED}")
    kind = sniff(data)
    if kind is None:
        raise AttachmentError(path, f"{_likeness(data)}; {_ACCEPTED}")
    found = _READERS[kind](data)
    if isinstance(found, str):
        raise AttachmentError(path, found)
    return found


def check(media: Media, size: int, *, path: str = "") -> None:
    """
    Apply the limits that hold for every request; those of one model are in ``api.models``.

    Args:
        media: What ``measure`` said.
        size: Bytes of the file, before base64.
        path: Where it stands in the request, for the error.

    Raises:
        AttachmentError: An image of no pixels, wider or higher than 8000 pixels, or over 10 MB in base64;
            a PDF of no pages, of more than 600 pages, or longer in base64 than a whole request (32 MB).

    Source: Messages API documentation, Vision and PDF support, 2026-08.
    """
    fault = _document_fault(media, size) if media.type == "application/pdf" else _image_fault(media, size)
    if fault is not None:
        raise AttachmentError(path, fault)


def _image_fault(media: Media, size: int) -> str | None:
    width, height = media.width or 0, media.height or 0
    if not width or not height:
        return f"the image is {width} by {height} pixels; both sides must be at least 1"
    if max(width, height) > IMAGE_SIDE:
        return f"the image is {width} by {height} pixels; the limit is {IMAGE_SIDE} by {IMAGE_SIDE}"
    if _base64_length(size) > IMAGE_BASE64:
        return (
            f"the image is {size} bytes, {_base64_length(size)} in base64; "
            f"the limit is {IMAGE_BASE64} (10 MB) in base64"
        )
    return None


def _document_fault(media: Media, size: int) -> str | None:
    if media.pages == 0:
        return "the PDF has 0 pages; it must have at least 1"
    if media.pages is not None and media.pages > PDF_PAGES:
        return f"the PDF has {media.pages} pages; the limit is {PDF_PAGES}"
    if _base64_length(size) > REQUEST_BYTES:
        return (
            f"the PDF is {size} bytes, {_base64_length(size)} in base64; "
            f"the limit is {REQUEST_BYTES} (32 MB) for the whole request"
        )
    return None


def _base64_length(size: int) -> int:
    return (size + 2) // 3 * 4


# --- what an unknown file looks like

_SIGNATURES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"II+\x00", "a TIFF image"),
    (b"MM\x00+", "a TIFF image"),
    (b"\x00\x00\x01\x00", "a Windows icon (ICO)"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop file"),
    (b"PK\x03\x04", "a ZIP archive, or a DOCX, XLSX, PPTX or EPUB document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word, Excel or PowerPoint document"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript document"),
    (b"RIFF", "a RIFF file (WAV, AVI)"),
    (b"ID3", "an MP3 sound"),
    (b"OggS", "an Ogg sound or video"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)
_BRANDS: Final[Mapping[bytes, str]] = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC image"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
}
_BMP_HEADERS: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_TEXT_CONTROLS: Final = frozenset(b"\t\n\r\f\x1b\b")
_LOOKED_AT: Final = 1024
_RIFF_HEADER: Final = 12


def _likeness(data: bytes) -> str:
    if len(data) > 1 and (_PNG.startswith(data) or any(gif.startswith(data) for gif in _GIF)):
        return f"the file is cut short: it has {len(data)} bytes of an image's header"
    if data[:4] == b"RIFF" and len(data) < _RIFF_HEADER:
        return f"the file is cut short: it has {len(data)} bytes of a WebP's header"
    for signature, likeness in _SIGNATURES:
        if data.startswith(signature):
            return f"the file looks like {likeness}"
    if data[4:8] == b"ftyp":
        return f"the file looks like {_BRANDS.get(data[8:12], 'a video or sound (MP4, QuickTime)')}"
    if data[:2] == b"BM" and _little(data, 14, 4) in _BMP_HEADERS:
        return "the file looks like a BMP image"
    return f"the file looks like {_text_likeness(data[:_LOOKED_AT])}"


def _text_likeness(start: bytes) -> str:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text (UTF-16)"
    lowered = start.lower()
    if b"<svg" in lowered:
        return "an SVG drawing"
    if b"<html" in lowered or b"<!doctype html" in lowered:
        return "an HTML page"
    if all(byte >= 0x20 or byte in _TEXT_CONTROLS for byte in start):  # noqa: PLR2004
        return "text (a text document, or a text block, carries it)"
    return "nothing known"


# --- one reader a type: Media, or what is wrong


def _big(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "big")


def _little(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "little")


def _cut(name: str, data: bytes, missing: str) -> str:
    return f"the {name} is cut short or damaged: it ends after {len(data)} bytes without {missing}"


_PNG_HEADER_END: Final = 33
_CHUNK_NAME: Final = re.compile(rb"[A-Za-z]{4}")


def _png(data: bytes) -> Media | str:
    if len(data) < _PNG_HEADER_END:
        return _cut("PNG", data, "its header")
    if data[8:16] != b"\x00\x00\x00\x0dIHDR" or zlib.crc32(data[12:29]) != _big(data, 29, 4):
        return "the PNG is damaged: its header (IHDR) is missing or does not match its checksum"
    media = Media("image/png", _big(data, 16, 4), _big(data, 20, 4))
    at, pixels = _PNG_HEADER_END, False
    while at + 12 <= len(data):
        name, end = data[at + 4 : at + 8], at + 12 + _big(data, at, 4)
        if _CHUNK_NAME.fullmatch(name) is None:
            return f"the PNG is damaged: no chunk begins at byte {at}"
        if end > len(data):
            break
        if name == b"IEND":
            return media if pixels else "the PNG is damaged: it has no pixels (IDAT)"
        pixels = pixels or name == b"IDAT"
        at = end
    return _cut("PNG", data, "its end (IEND)")


# Markers that stand alone (TEM, RSTn, SOI) and fill bytes before the next marker.
_TO_MARKER: Final = re.compile(rb"\xff++(?:[\x01\xd0-\xd8]\xff++)*+")
_MARKER_IN_SCAN: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN: Final = b"\xda"
_END_OF_IMAGE: Final = b"\xd9"
_LENGTH_OF_LENGTH: Final = 2
_SHORTEST_FRAME: Final = 8


def _jpeg(data: bytes) -> Media | str:
    at, media = 2, None
    while at < len(data):
        fill = _TO_MARKER.match(data, at)
        if fill is None:
            return f"the JPEG is damaged: no segment begins at byte {at}"
        at = fill.end()
        marker, length = data[at : at + 1], _big(data, at + 1, 2)
        if marker == _END_OF_IMAGE:
            return media or "the JPEG is damaged: it has no frame header (SOF) before its end"
        if at + 1 + max(length, 2) > len(data):
            break
        if length < (_SHORTEST_FRAME if marker[0] in _FRAMES else _LENGTH_OF_LENGTH):
            return f"the JPEG is damaged: the segment at byte {at - 1} has length {length}"
        if marker[0] in _FRAMES and media is None:
            media = Media("image/jpeg", _big(data, at + 6, 2), _big(data, at + 4, 2))
        at += 1 + length
        if marker == _START_OF_SCAN:
            # The scan's own bytes have no length; an end inside a thumbnail's segment is never looked at.
            following = _MARKER_IN_SCAN.search(data, at)
            at = len(data) if following is None else following.start()
    return _cut("JPEG", data, "its end (EOI)")


_ZEROS: Final = re.compile(rb"\x00*")
_GIF_HEADER_END: Final = 13
_GIF_TRAILER, _GIF_EXTENSION, _GIF_IMAGE = 0x3B, 0x21, 0x2C


def _gif(data: bytes) -> Media | str:
    if len(data) < _GIF_HEADER_END:
        return _cut("GIF", data, "its header")
    media = Media("image/gif", _little(data, 6, 2), _little(data, 8, 2))
    at, pixels = _GIF_HEADER_END + _colours(data[10]), False
    while at < len(data):
        if data[at] == _GIF_TRAILER:
            return media if pixels else "the GIF is damaged: it has no image"
        if data[at] == _GIF_EXTENSION:
            at = _after_blocks(data, at + 2)
        elif data[at] == _GIF_IMAGE:
            pixels = True
            if at + 10 > len(data):
                break
            at = _after_blocks(data, at + 10 + _colours(data[at + 9]) + 1)
        elif (zeros := _ZEROS.match(data, at)) is not None and zeros.end() > at:
            at = zeros.end()  # some writers end a block twice
        else:
            return f"the GIF is damaged: no block begins at byte {at}"
    return _cut("GIF", data, "its trailer")


def _colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data):
        length = data[at]
        at += 1 + length
        if not length:
            return at
    return len(data)


_WEBP_KEY_FRAME: Final = b"\x9d\x01\x2a"
_WEBP_PIXELS: Final = frozenset({b"VP8 ", b"VP8L", b"ANMF"})


def _webp(data: bytes) -> Media | str:
    end = 8 + _little(data, 4, 4)
    if end > len(data):
        return f"the WebP is cut short: it has {len(data)} bytes of the {end} it declares"
    media = _webp_size(data[12:16], data[20 : min(end, 32)])
    if isinstance(media, str):
        return media
    at, pixels = 12, False
    while at + 8 <= end:
        length = _little(data, at + 4, 4)
        if at + 8 + length > end:
            return f"the WebP is damaged: the chunk at byte {at} is longer than the file"
        pixels = pixels or data[at : at + 4] in _WEBP_PIXELS
        at += 8 + length + length % 2
    return media if pixels else "the WebP is damaged: it has no image"


def _webp_size(name: bytes, start: bytes) -> Media | str:
    if name == b"VP8X" and len(start) >= 10:  # noqa: PLR2004
        return Media("image/webp", 1 + _little(start, 4, 3), 1 + _little(start, 7, 3))
    if name == b"VP8L" and len(start) >= 5 and start[0] == 0x2F:  # noqa: PLR2004
        bits = _little(start, 1, 4)
        return Media("image/webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if name == b"VP8 " and len(start) >= 10 and not start[0] & 1 and start[3:6] == _WEBP_KEY_FRAME:  # noqa: PLR2004
        return Media("image/webp", _little(start, 6, 2) & 0x3FFF, _little(start, 8, 2) & 0x3FFF)
    return "the WebP is damaged: its first chunk is no image header (VP8, VP8L or VP8X)"


_LINEARIZED: Final = re.compile(rb"/Linearized\b")
_DECLARED_LENGTH: Final = re.compile(rb"/L\s+(\d{1,12})")
_CROSS_REFERENCE: Final = re.compile(rb"startxref\s+(\d{1,12})")
_ENCRYPT: Final = re.compile(rb"/Encrypt\s*(?:<<|\d{1,10}\s+\d{1,5}\s+R)")
_ROOT: Final = re.compile(rb"/Root\s+(\d{1,10})\s+(\d{1,5})\s+R")
_PAGE_TREE: Final = re.compile(rb"/Pages\s+(\d{1,10})\s+(\d{1,5})\s+R")
_COUNT: Final = re.compile(rb"/Count\s+(\d{1,9})(?!\d|\s+\d{1,5}\s+R)")
_PAGE: Final = re.compile(rb"/Type\s*/Page(?![A-Za-z0-9])")
_LONGEST_DICTIONARY: Final = 1024 * 1024


def _pdf(data: bytes) -> Media | str:
    if data.rfind(b"%%EOF", max(0, len(data) - _PDF_END_WITHIN)) < 0:
        return _cut("PDF", data, "its end (%%EOF)")
    start = _PDF.search(data, 0, _PDF_HEADER_WITHIN)
    offset = 0 if start is None else start.start()
    head = data[offset : offset + _PDF_HEADER_WITHIN]
    declared = _DECLARED_LENGTH.search(head) if _LINEARIZED.search(head) else None
    if declared is not None and int(declared[1]) > len(data):
        return f"the PDF is cut short: it has {len(data)} bytes of the {int(declared[1])} it declares"
    trailers = _trailers(data, offset)
    if any(_ENCRYPT.search(trailer) for trailer in trailers):
        return "the PDF is encrypted; the API reads only documents without password or restrictions"
    return Media("application/pdf", pages=_pages(data, trailers))


def _trailers(data: bytes, offset: int) -> list[bytes]:
    """Return the dictionaries that close the file: where ``startxref`` points, and the last in the file."""
    found = []
    last = data.rfind(b"startxref")
    reference = _CROSS_REFERENCE.match(data, last) if last >= 0 else None
    if reference is not None and (target := offset + int(reference[1])) < len(data):
        table = data.find(b"trailer", target) if data.startswith(b"xref", target) else -1
        found.append(_until(data, target if table < 0 else table, b"startxref" if table >= 0 else b"stream"))
    if (table := data.rfind(b"trailer")) >= 0:
        found.append(_until(data, table, b"startxref"))
    if not found and (stream := data.rfind(b"/XRef")) >= 0:
        begin = max(data.rfind(b"obj", 0, stream), 0)
        found.append(_until(data, begin, b"stream"))
    return found


def _until(data: bytes, start: int, stop: bytes) -> bytes:
    limit = min(len(data), start + _LONGEST_DICTIONARY)
    end = data.find(stop, start, limit)
    return data[start : limit if end < 0 else end]


def _pages(data: bytes, trailers: list[bytes]) -> int | None:
    """Count the pages: what the page tree says, else its leaves; None where they are packed away."""
    for trailer in trailers:
        tree = _referred(data, _referred(data, trailer, _ROOT), _PAGE_TREE)
        if (count := _COUNT.search(tree)) is not None:
            return int(count[1])
    if b"/ObjStm" in data:
        return None
    return sum(1 for _ in _PAGE.finditer(data)) or None


def _referred(data: bytes, source: bytes, reference: re.Pattern[bytes]) -> bytes:
    """Return the object *source* refers to, as it was last defined; empty where it is not in the open."""
    match = reference.search(source)
    if match is None:
        return b""
    name = b"%d %d obj" % (int(match[1]), int(match[2]))
    at = data.rfind(name)
    while at > 0 and data[at - 1 : at].isdigit():
        at = data.rfind(name, 0, at)
    return _until(data, at, b"endobj") if at >= 0 else b""


_READERS: Final[Mapping[MediaType, Callable[[bytes], Media | str]]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
    "application/pdf": _pdf,
}
