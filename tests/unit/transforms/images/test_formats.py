"""Formats: those that are read, and the names of others in dead letters."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.inputs.image_files import HEIC, HTML, animation, encode, photo
from transforms.images import formats as image_formats
from transforms.images.clean import ImageError, ImageLimits, clean_image
from transforms.images.only_pixels import jxl_size
from transforms.images.process import ImageProcess

image_formats.register()
LIMITS = ImageLimits(max_pixels=1 << 20)
PHOTO = photo(3, 48, 32)
READ = {name: encode(PHOTO, name) for name in image_formats.FORMATS if name != "HEIF"}


def shown(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(clean_image(data, LIMITS).data)) as image:
        return np.asarray(image.convert("RGB"), int)


@pytest.fixture(scope="module")
def process():
    decoder = ImageProcess(LIMITS)
    yield decoder
    decoder.close()


@pytest.mark.parametrize("name", READ)
def test_every_format_is_read_in_the_process_apart(process, name):
    cleaned = process.clean(READ[name])
    assert cleaned == clean_image(READ[name], LIMITS)
    # An icon of Pillow's is square, and holds the picture in its middle.
    if name != "ICO":
        assert np.abs(shown(READ[name]) - np.asarray(PHOTO, int)).mean() < 8


def test_heic_is_read_in_the_process_apart(process):
    cleaned = process.clean(HEIC)
    assert (cleaned.width, cleaned.height) == (24, 16)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def test_jpeg_xl_is_turned_once():
    """Its pixels are upright already, whatever EXIF says; those of a JPEG inside are not."""
    assert shown(encode(PHOTO, "JXL", exif=exif(6))).shape == (32, 48, 3)
    photo_file = io.BytesIO(encode(PHOTO, "JPEG", exif=exif(6)))
    with Image.open(photo_file) as image:
        assert shown(encode(image, "JPEG", exif=exif(6))).shape == (48, 32, 3)


@pytest.mark.filterwarnings("ignore:Using JPEG reconstruction")
def test_a_jpeg_in_jpeg_xl_is_turned_by_its_exif(tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(encode(PHOTO, "JPEG", exif=exif(6)))
    with Image.open(path) as image:
        assert shown(encode(image, "JXL")).shape == (48, 32, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.booleans())
def test_the_size_of_jpeg_xl_is_known_before_its_pixels(width, height, boxes):
    data = encode(Image.new("RGB", (width, height)), "JXL", effort=1, use_container=boxes)
    assert jxl_size(data) == (width, height)
    for end in range(0, min(len(data), 40)):
        assert jxl_size(data[:end]) in (None, (width, height)) or end < 16


def jxl_of(width: int, height: int) -> bytes:
    """A header of JPEG XL that claims a size, and nothing behind it."""
    bits = 0 | 3 << 1 | (height - 1) << 3 | 0 << 33 | 3 << 36 | (width - 1) << 38
    return b"\xff\x0a" + bits.to_bytes(20, "little")


def test_jpeg_xl_of_too_many_pixels_is_not_decoded():
    assert jxl_size(jxl_of(60_000, 50_000)) == (60_000, 50_000)
    with pytest.raises(ImageError) as error:
        clean_image(jxl_of(60_000, 50_000), LIMITS)
    assert (error.value.reason, error.value.detail) == ("too_many_pixels", "60000 x 50000")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_several_pictures_the_first_is_taken(kind):
    assert np.abs(shown(animation(kind)) - (255, 0, 0)).max() < 5


def test_of_several_pages_the_first_is_taken():
    pages = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime")]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert np.abs(shown(data) - (255, 0, 0)).max() < 5


def movie(brand: bytes) -> bytes:
    return struct.pack(">I4s4sI", 24, b"ftyp", brand, 0) + b"isommp42" + bytes(64)


def tiff_with(tags: dict[int, int]) -> bytes:
    """A TIFF that Pillow would show, with more tags of one number each."""
    found = {
        256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 300, 277: 1, 278: 8, 279: 64, **tags,
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, found[tag]) for tag in sorted(found))
    head = b"II*\0" + struct.pack("<IH", 8, len(found)) + entries + bytes(4)
    return head.ljust(300, b"\0") + bytes(64)


UNREAD = {
    "Photoshop": b"8BPS\0\1" + bytes(100),
    "PDF": b"%PDF-1.7\n" + bytes(100),
    "SVG": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    "SVG ": b"\xef\xbb\xbf  <svg width='1'></svg>",
    "raw": b"II*\0\x10\0\0\0CR\2\0" + bytes(100),
    "raw ": movie(b"crx "),
    "raw  ": tiff_with({50706: 1}),
    "raw   ": tiff_with({254: 1, 330: 300}),
    "raw    ": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "video": movie(b"isom"),
    "video ": movie(b"qt  "),
    "video  ": movie(b"mp42"),
    "video   ": b"\x1a\x45\xdf\xa3" + bytes(100),
    "video    ": b"RIFF\0\0\0\0AVI LIST" + bytes(100),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "ZIP": b"PK\3\4" + bytes(100),
    "tar": bytes(257) + b"ustar\0" + bytes(300),
    "Parquet": b"PAR1" + bytes(100),
    "JPEG XR": b"II\xbc\1" + bytes(100),
    "QOI": b"qoif" + bytes(100),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "DICOM": bytes(128) + b"DICM" + bytes(100),
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_format_that_is_not_read_is_named_with_a_remedy(name):
    with pytest.raises(ImageError) as error:
        clean_image(UNREAD[name], LIMITS)
    assert error.value.reason == "not_an_image"
    named, _, remedy = error.value.detail.partition(" is not read: ")
    assert name.strip() in named
    assert remedy


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL, about the damage
@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*UNREAD.values(), HEIC, *READ.values()]), st.integers(0, 400))
def test_no_cut_of_any_file_is_more_than_dead(data, end):
    try:
        clean_image(data[:end], LIMITS)
        detail = "none"
    except ImageError as error:
        detail = error.detail
    assert detail


def test_ordinary_tiffs_are_no_raw_files():
    assert shown(tiff_with({})).shape == (8, 8, 3)
    assert shown(tiff_with({254: 0, 330: 300})).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(PHOTO, "PNG")[:20], "PNG: "),
        (encode(PHOTO, "PNG").replace(b"IHDR", b"IHDX"), "PNG: "),
        (encode(PHOTO, "WEBP")[:-50], "WEBP: "),
        (HEIC[:200], "HEIF: "),
        (encode(PHOTO, "JXL")[:60], "JXL: "),
        (encode(PHOTO, "AVIF")[:60], "AVIF: "),
        (HTML, "a web page (HTML): starts with b'<!DOCTYPE html"),
        (b"hello, world", "starts with b'hello, world'"),
    ],
    ids=range(8),
)
def test_the_letter_has_what_the_decoder_said(data, words):
    with pytest.raises(ImageError) as error:
        clean_image(data, LIMITS)
    assert error.value.reason == "not_an_image"
    assert error.value.detail.startswith(words)
    assert len(error.value.detail) > len("PNG: ")
    assert "\n" not in error.value.detail


def test_the_letter_of_a_damaged_heic_says_so():
    with pytest.raises(ImageError) as error:
        clean_image(HEIC[:-20], LIMITS)
    assert error.value.reason == "truncated_image"
    assert "end of file" in error.value.detail
