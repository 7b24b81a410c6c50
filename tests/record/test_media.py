"""Files are known by their bytes, measured, found whole or broken, and held against the API's limits."""

from __future__ import annotations

import re
import struct
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conversation_store.errors import AttachmentError
from conversation_store.record.media import (
    IMAGE_SIDE,
    LARGEST_IMAGE,
    LARGEST_PDF,
    PDF_PAGES,
    Media,
    check,
    measure,
    sniff,
)
from tests.pictures import gif, jpeg, pdf, png, webp

PICTURES = {
    "png": (png(17, 33), "image/png"),
    "padded png": (png(17, 33, padding=5000), "image/png"),
    "jpeg": (jpeg(17, 33), "image/jpeg"),
    "progressive jpeg": (jpeg(17, 33, progressive=True), "image/jpeg"),
    "jpeg with fill bytes": (jpeg(17, 33, fill=3), "image/jpeg"),
    "jpeg with restart markers": (jpeg(17, 33, restarts=True), "image/jpeg"),
    "jpeg with a thumbnail": (jpeg(17, 33, exif=jpeg(2, 2)), "image/jpeg"),
    "gif": (gif(17, 33), "image/gif"),
    "animated gif": (gif(17, 33, frames=3), "image/gif"),
    "lossy webp": (webp(17, 33, form="VP8"), "image/webp"),
    "lossless webp": (webp(17, 33, form="VP8L"), "image/webp"),
    "extended webp": (webp(17, 33, form="VP8X"), "image/webp"),
    "animated webp": (webp(17, 33, form="VP8X", frames=3), "image/webp"),
}
FILES = {name: data for name, (data, _) in PICTURES.items()} | {
    "pdf": pdf(3),
    "packed pdf": pdf(3, packed=True),
}


def fault(data: bytes) -> str:
    """Return what ``measure`` says is wrong."""
    with pytest.raises(AttachmentError) as caught:
        measure(data, path="messages.0.content.1")
    assert caught.value.path == "messages.0.content.1"
    return caught.value.message


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_is_known_and_measured(name: str) -> None:
    """Every form of every accepted image tells its type and its pixels."""
    data, kind = PICTURES[name]
    assert sniff(data) == kind
    assert measure(data) == Media(kind, 17, 33, None)


@pytest.mark.parametrize("pages", [1, 3, 700])
def test_a_pdf_tells_its_pages(pages: int) -> None:
    """A PDF in the open tells how many pages it has."""
    assert sniff(pdf(pages)) == "application/pdf"
    assert measure(pdf(pages)) == Media("application/pdf", pages=pages)


def test_the_header_of_a_pdf_may_come_late() -> None:
    """Bytes in front of a PDF's header, up to 1 KiB of them, do no harm."""
    assert measure(pdf(2, before=b"From: ant\r\n" * 50)).pages == 2
    assert sniff(pdf(2, before=b"\n" * 2000)) is None


def test_packed_pages_are_not_guessed() -> None:
    """Where the page tree is in a compressed stream, the number of pages is None and no limit applies."""
    media = measure(pdf(3, packed=True))
    assert media.pages is None
    check(media, 1000)


def test_pages_are_counted_one_by_one_where_the_tree_cannot_be_found() -> None:
    """A PDF whose trailer leads nowhere still has its pages counted."""
    assert measure(pdf(3).replace(b"/Root", b"/Ruin")).pages == 3
    assert measure(pdf(3).replace(b"/Root", b"/Ruin").replace(b"/Page ", b"/Rage ")).pages is None


def test_a_changed_page_tree_counts_as_it_was_last_written() -> None:
    """After an incremental update the newest page tree decides, though the old one is still in the file."""
    update = b"2 0 obj\n<< /Type /Pages /Kids [6 0 R] /Count 1 >>\nendobj\n"
    data = pdf(3)
    table = len(data) + len(update)
    trailer = b"xref\n0 0\ntrailer\n<< /Size 9 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % table
    assert measure(data + update + trailer).pages == 1


@pytest.mark.parametrize("packed", [False, True])
def test_an_encrypted_pdf_is_refused(packed: bool) -> None:
    """Encryption is seen in a trailer and in a cross-reference stream."""
    assert "encrypted" in fault(pdf(encrypted=True, packed=packed))


def test_encryption_is_seen_where_the_last_lines_lead_nowhere() -> None:
    """A cross-reference stream is found although ``startxref`` points behind the file."""
    data = pdf(encrypted=True, packed=True)
    cut = data.rindex(b"startxref")
    assert "encrypted" in fault(data[:cut] + b"startxref\n999999\n%%EOF\n")


def test_a_pdf_that_speaks_of_encryption_is_not_encrypted() -> None:
    """The words of a page are no trailer."""
    assert measure(pdf(2, text="/Encrypt 5 0 R")).pages == 2


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_anywhere_is_refused(name: str) -> None:
    """No beginning of a file passes for the file, save a PDF's without its last line break."""
    data = FILES[name]
    for length in range(len(data.rstrip(b"\n"))):
        message = fault(data[:length])
        assert re.search(r"cut short|empty|looks like|damaged", message), message


def test_a_linearized_pdf_cut_short_is_refused() -> None:
    """An early end mark does not hide that the declared length is missing."""
    data = pdf().replace(b"%PDF-1.4\n", b"%PDF-1.4\n9 0 obj\n<< /Linearized 1 /L 99999 >>\nendobj\n")
    assert "cut short: it has" in fault(data)
    assert measure(data.replace(b"/L 99999", b"/L 99   ")).pages == 1


@pytest.mark.parametrize("name", FILES)
def test_trailing_bytes_are_tolerated(name: str) -> None:
    """What cameras and servers append after the end of a file does no harm."""
    assert measure(FILES[name] + b"\x00trailer of a camera") == measure(FILES[name])


def test_the_end_of_a_thumbnail_is_not_the_end() -> None:
    """A JPEG cut after its EXIF thumbnail's end mark is cut short."""
    whole = jpeg(40, 40, exif=jpeg(2, 2))
    assert "cut short" in fault(whole[: whole.index(b"\xff\xd9") + 2])


@pytest.mark.parametrize(
    ("data", "likeness"),
    [
        (b"", "the file is empty"),
        (b"BM" + bytes(12) + b"\x28\x00\x00\x00" + bytes(40), "BMP"),
        (b"BMW is a car maker in Munich, Bavaria", "text"),
        (b"II*\x00" + bytes(20), "TIFF"),
        (b"MM\x00*" + bytes(20), "TIFF"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "HEIC"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(20), "AVIF"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(20), "video"),
        (b"\x00\x00\x01\x00\x01\x00" + bytes(20), "icon"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"PK\x03\x04" + bytes(30), "ZIP"),
        (b"\x1f\x8b\x08" + bytes(30), "gzip"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "RIFF"),
        (b"RIFF\x24\x00", "cut short"),
        (b"\x89PNG", "cut short"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"{\\rtf1 hello}", "RTF"),
        ("Grüße".encode(), "text"),
        ("Grüße".encode("utf-16"), "text"),
        (b"\x00\x01\x02\x03\x04", "nothing known"),
    ],
)
def test_other_files_are_named_and_refused(data: bytes, likeness: str) -> None:
    """The message says what the file looks like and what is accepted."""
    message = fault(data)
    assert likeness in message
    if "cut short" not in message:
        assert "accepted are JPEG, PNG, GIF and WebP images and PDF documents" in message


def test_the_name_does_not_matter() -> None:
    """Content of another kind is refused whatever the path is called."""
    with pytest.raises(AttachmentError, match=r"photo\.png: the file looks like text"):
        measure(b"not a picture", path="photo.png")


def at(data: bytes, position: int, new: bytes) -> bytes:
    """Return *data* with the bytes at *position* replaced."""
    return data[:position] + new + data[position + len(new) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (at(png(), 16, b"\x00\x00\xff\xff"), "header (IHDR)"),
        (at(png(), 37, b"\x00\x01\x02\x03"), "no chunk begins at byte 33"),
        (png()[:33] + png()[-12:], "no pixels"),
        (b"\xff\xd8\xff\xd9", "no frame header"),
        (at(jpeg(), 20, b"\x00\x00"), "no segment begins at byte 20"),
        (at(jpeg(), 4, b"\x00\x01"), "has length 1"),
        (b"\xff\xd8\xff\xc0\x00\x04\x08\x00\xff\xd9", "has length 4"),
        (gif()[:-1] + b"\x99;", "no block begins"),
        (gif()[:397] + b"\x3b", "no image"),
        (at(webp(), 12, b"ICCP"), "first chunk"),
        (at(webp(), 16, b"\xff\xff"), "longer than the file"),
        (b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00" + bytes(10), "no image"),
    ],
)
def test_a_damaged_file_is_refused(data: bytes, message: str) -> None:
    """What is damaged is named."""
    assert message in fault(data)


def test_a_gif_block_ended_twice_is_tolerated() -> None:
    """A stray zero between two blocks, which some writers leave, does no harm."""
    assert measure(gif()[:-1] + b"\x00\x00;") == Media("image/gif", 4, 3)


@pytest.mark.parametrize(
    ("media", "size"),
    [
        (Media("image/png", IMAGE_SIDE, IMAGE_SIDE), LARGEST_IMAGE),
        (Media("image/gif", 1, 1), 1),
        (Media("application/pdf", pages=PDF_PAGES), LARGEST_PDF),
        (Media("application/pdf"), 1),
    ],
)
def test_a_limit_itself_is_allowed(media: Media, size: int) -> None:
    """The largest file of each kind passes."""
    check(media, size)


@pytest.mark.parametrize(
    ("media", "size", "message"),
    [
        (Media("image/png", 8001, 10), 100, r"8001 by 10 pixels; the limit is 8000 by 8000"),
        (Media("image/jpeg", 10, 8001), 100, r"10 by 8001 pixels; the limit is 8000 by 8000"),
        (Media("image/gif", 0, 5), 100, r"0 by 5 pixels; both sides must be at least 1"),
        (Media("image/webp", 5, 0), 100, r"5 by 0 pixels; both sides must be at least 1"),
        (Media("image/png", 9, 9), LARGEST_IMAGE + 1, r"7864321 bytes, 10485764 in base64; the limit is 10485760"),
        (Media("application/pdf", pages=601), 100, r"601 pages; the limit is 600"),
        (Media("application/pdf", pages=0), 100, r"0 pages; it must have at least 1"),
        (Media("application/pdf", pages=9), LARGEST_PDF + 1, r"25165825 bytes, 33554436 .* is 33554432"),
    ],
)
def test_what_exceeds_a_limit_is_refused(media: Media, size: int, message: str) -> None:
    """The message says the limit and the value, the error says where."""
    with pytest.raises(AttachmentError, match=f"^messages.0: .*{message}"):
        check(media, size, path="messages.0")


@pytest.mark.parametrize("data", [png(8001, 1), jpeg(8001, 1), webp(8001, 1), gif(8001, 1)])
def test_a_real_file_too_wide_is_refused(data: bytes) -> None:
    """What was measured is what is held against the limit."""
    with pytest.raises(AttachmentError, match="8001 by 1"):
        check(measure(data), len(data))


def measured_or_refused(data: bytes) -> None:
    """Fail on anything but a Media or an AttachmentError."""
    try:
        media = measure(data)
        check(media, len(data))
    except AttachmentError:
        pass
    else:
        assert media.type == sniff(data)


@given(st.data())
def test_mutated_files_are_measured_or_refused(draw: st.DataObject) -> None:
    """Changed, cut, doubled and inserted bytes end in a Media or in an AttachmentError, in nothing else."""
    data = bytearray(draw.draw(st.sampled_from(sorted(FILES.values()))))
    for _ in range(draw.draw(st.integers(1, 5))):
        begin = draw.draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw.draw(st.integers(0, 8)))
        data[begin:end] = draw.draw(st.binary(max_size=8))
    measured_or_refused(bytes(data))


BEGINNINGS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF89a",
    b"RIFF\x40\x00\x00\x00WEBP",
    b"%PDF-1.4\n",
]


@given(st.sampled_from(BEGINNINGS), st.binary(max_size=200), st.sampled_from([b"", b";", b"\xff\xd9", b"%%EOF"]))
@example(b"%PDF-1.4\n", b"startxref 0 trailer /Root 1 0 R /Pages 1 0 R 1 0 obj /Count 1", b"%%EOF")
def test_invented_files_are_measured_or_refused(begin: bytes, middle: bytes, end: bytes) -> None:
    """A right beginning and a right end around anything are safe to read."""
    measured_or_refused(begin + middle + end)


HOSTILE = {
    "png of empty chunks": (png()[:33], b"\x00\x00\x00\x00teXt\x00\x00\x00\x00"),
    "jpeg of fill bytes": (b"\xff\xd8\xff", b"\xff"),
    "jpeg of restart markers": (b"\xff\xd8", b"\xff\xd0"),
    "jpeg of empty segments": (b"\xff\xd8", b"\xff\xe1\x00\x02"),
    "jpeg of scans": (b"\xff\xd8", b"\xff\xda\x00\x02"),
    "gif of zeros": (b"GIF89a" + bytes(7), b"\x00"),
    "gif of short blocks": (b"GIF89a" + bytes(7) + b"\x21\xfe", b"\x01a"),
    "webp of empty chunks": (
        b"RIFF" + struct.pack("<I", 2_000_000) + webp(form="VP8X")[8:],
        b"ABCD\x00\x00\x00\x00",
    ),
    "pdf of type names": (b"%PDF-1.4\n", b"/Type     "),
    "pdf of spaces": (b"%PDF-1.4\nstartxref trailer /Root /Encrypt /Count", b" "),
    "pdf of trailers": (b"%PDF-1.4\n", b"trailer /Root 1 0 R /Encrypt "),
    "pdf of objects": (b"%PDF-1.4\n/Root 1 0 R trailer /Root 1 0 R ", b"11 0 obj "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_take_linear_time(name: str) -> None:
    """Two megabytes made to be slow to read are read in seconds, not minutes."""
    begin, repeated = HOSTILE[name]
    data = begin + repeated * (2_000_000 // len(repeated)) + b"%%EOF"
    started = time.perf_counter()
    measured_or_refused(data)
    assert time.perf_counter() - started < 10
