"""What mining keeps, training reads: `./run.sh test --damaged 20000` is the long way."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.fuzz.damaged_images import LIMITS, SEEDS, damaged, outcome, try_files
from tests.support.inputs.image_files import chunk, encode, interlaced_png, photo
from transforms.images.clean import ImageError, ImageLimits, clean_image
from transforms.images.only_pixels import damage, only_pixels


def test_damaged_images_that_mining_keeps_are_read_by_training():
    counts, refused = try_files(range(400))
    assert not refused
    for name in ("JPEG", "PNG", "BMP"):
        assert counts[name, "read"] > 3, "some have to be kept, or nothing was tried"
        assert counts[name, "dead"] > 3


def test_the_same_number_is_the_same_file():
    assert [damaged(number) for number in range(50)] == [damaged(number) for number in range(50)]
    assert len({damaged(number)[1] for number in range(50)}) > 45


@pytest.mark.parametrize("name", SEEDS)
def test_sound_files_are_kept_and_read(name):
    for seed in SEEDS[name]:
        assert outcome(seed)[0] == "read"


def test_one_flipped_bit_in_the_pixels_of_a_png_is_seen_wherever_it_is():
    data = encode(photo(2, 9, 7), "PNG")
    start, end = data.index(b"IDAT"), data.index(b"IEND") - 4
    for place in range(start, end):
        bad = bytearray(data)
        bad[place] ^= 1 << place % 8
        with pytest.raises(ImageError) as error:
            clean_image(bytes(bad), LIMITS)
        assert error.value.reason in ("truncated_image", "not_an_image")
    assert clean_image(data, LIMITS).data == data


def test_the_detail_of_a_wrong_checksum_says_where():
    data = bytearray(encode(photo(2, 9, 7), "PNG"))
    data[data.index(b"IEND") - 5] ^= 1  # the last byte of the checksum itself
    assert "checksum of chunk IDAT at byte 33" in str(damage(bytes(data)))
    large = bytearray(encode(photo(2, 200, 100), "PNG"))  # which would be coded anew
    large[large.index(b"IEND") - 5] ^= 1
    with pytest.raises(ImageError, match="checksum of chunk IDAT"):
        clean_image(bytes(large), LIMITS)


def made(rows: bytes, width=4, height=4, colour=2, interlace=0, method=0, extra=b"", tail=None):
    """A PNG with right checksums, of whatever header and data."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, method, 0, interlace)
    end = chunk(b"IEND", b"") if tail is None else tail
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
    return head + chunk(b"IDAT", rows) + end


ROWS = np.random.default_rng(0).integers(0, 256, (4, 12), np.uint8)
PLAIN = b"".join(b"\0" + row.tobytes() for row in ROWS)
PACKED = zlib.compress(PLAIN)


def small_window(data: bytes) -> bytes:
    """The same deflate data under a header that promises a window of 256 bytes."""
    head = 0x08 << 8
    return struct.pack(">H", head + 31 - head % 31) + data[2:]


FAR = b"".join(b"\0" + bytes(range(3, 252)) for _ in range(83))  # rows that repeat far behind
ODD = {
    "a palette among colours": made(PACKED, extra=chunk(b"PLTE", bytes(30))),
    "a palette of no whole colours": made(PACKED, extra=chunk(b"PLTE", bytes(31))),
    "a palette that is too long": made(PACKED, extra=chunk(b"PLTE", bytes(900))),
    "an unknown critical chunk": made(PACKED, extra=chunk(b"ABCD", b"x")),
    "a second header": made(PACKED, extra=chunk(b"IHDR", bytes(13))),
    "unknown interlacing": made(PACKED, interlace=2),
    "unknown compression": made(PACKED, method=1),
    "no end": made(PACKED, tail=b""),
    "an end with a wrong checksum": made(PACKED, tail=b"\0\0\0\0IEND\0\0\0\0"),
    "an end with data": made(PACKED, tail=chunk(b"IEND", b"data")),
    "a wrong Adler checksum": made(PACKED[:-1] + bytes([PACKED[-1] ^ 1])),
    "bytes behind the data": made(PACKED + b"behind"),
    "more rows than the header says": made(zlib.compress(PLAIN + PLAIN)),
    "fewer rows than the header says": made(zlib.compress(PLAIN[:-13])),
    "an unknown filter": made(zlib.compress(b"\x07" + PLAIN[1:])),
    "a window that is too small": made(small_window(zlib.compress(FAR, 9)), 83, 83),
    "empty data chunks": made(PACKED, extra=chunk(b"IDAT", b"")),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_png_is_dead_or_read(name):
    assert outcome(ODD[name])[0] in ("dead", "read")


def test_pngs_of_all_layouts_pass_as_they_are():
    grey = b"".join(b"\0" + row.tobytes() for row in ROWS)
    for data in (
        made(PACKED),
        made(zlib.compress(grey), width=12, colour=0),
        interlaced_png(photo(1, 23, 17)),
        interlaced_png(photo(1, 1, 1)),
        made(zlib.compress(PLAIN, 0)),
        made(zlib.compress(PLAIN, wbits=9)),
    ):
        assert only_pixels(data) == data
        assert outcome(data) == ("read", data)


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCF])
def test_frames_that_not_every_decoder_knows_are_not_kept_as_they_are(marker):
    data = encode(photo(), "JPEG")
    assert only_pixels(data) == data
    assert only_pixels(data.replace(b"\xff\xc0", bytes([0xFF, marker]), 1)) is None


def test_a_jpeg_with_two_frames_or_12_bits_is_not_kept_as_it_is():
    data = encode(photo(), "JPEG")
    start = data.index(b"\xff\xc0")
    frame = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
    assert only_pixels(data[:start] + frame + data[start:]) is None
    deep = bytearray(data)
    deep[start + 4] = 12
    assert only_pixels(bytes(deep)) is None


def test_a_picture_that_is_too_wide_for_a_jpeg_is_shrunk():
    limits = ImageLimits(max_pixels=1 << 20, max_side=80_000)
    assert clean_image(encode(Image.new("RGB", (70_000, 1)), "BMP"), limits).width == 65_500
