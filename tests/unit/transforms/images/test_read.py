import io
import types

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.support.inputs import image_files
from tests.support.inputs.image_files import chunk, encode, photo, png, png16
from transforms.files import image_choice
from transforms.images import read as images
from transforms.images import units as image_units
from transforms.images.clean import ImageError, ImageLimits, clean_image

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")
MAX_PIXELS = 100_000_000


def clean(data, max_pixels=MAX_PIXELS, max_side=512):
    return clean_image(data, ImageLimits(max_pixels, max_side))


def pixels(cleaned):
    """[height, width, 3] of a clean image, which has to be one."""
    image = Image.open(io.BytesIO(cleaned.data))
    assert image.format in ("JPEG", "PNG")
    assert image.mode in ("RGB", "L")
    assert image.size == (cleaned.width, cleaned.height)
    assert getattr(image, "n_frames", 1) == 1
    assert "transparency" not in image.info
    if image.format == "PNG":
        assert cleaned.data[24] == 8
    return np.asarray(image.convert("RGB")).astype(int)


def flat(colour, size=(24, 16)):
    return np.broadcast_to(np.array(colour), (size[1], size[0], 3))


def see_through(mode):
    """Left half red, right half fully transparent."""
    image = Image.new("RGBA", (24, 16), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (12, 0, 24, 16))
    return image.quantize(4) if mode == "P" else image.convert(mode)


RED_AND_WHITE = np.concatenate([flat((255, 0, 0), (12, 16)), flat((255,) * 3, (12, 16))], axis=1)
GREY_AND_WHITE = np.concatenate([flat((76,) * 3, (12, 16)), flat((255,) * 3, (12, 16))], axis=1)
RAMP = (np.arange(24) * 65535 // 23).astype(np.uint16)
RAMP_SHOWN = np.broadcast_to((RAMP / 257)[None, :, None], (16, 24, 3))
PHOTO = np.asarray(photo()).astype(int)


SHOWN = {
    "jpeg": (encode(photo(), "JPEG", quality=95, subsampling=0), PHOTO),
    "png": (encode(photo(), "PNG"), PHOTO),
    "webp": (encode(photo(), "WEBP", lossless=True), PHOTO),
    "bmp": (encode(photo(), "BMP"), PHOTO),
    "tiff": (encode(photo(), "TIFF"), PHOTO),
    "grey": (encode(photo().convert("L"), "PNG"), np.asarray(photo().convert("L"))[..., None]),
    "black_and_white": (encode(Image.new("1", (24, 16), 1), "PNG"), flat((255,) * 3)),
    "cmyk": (encode(Image.new("CMYK", (24, 16), (0, 255, 255, 0)), "JPEG"), flat((255, 0, 0))),
    "grey_16": (png16(np.tile(RAMP, (16, 1))), RAMP_SHOWN),
    "rgb_16": (png16(np.tile(RAMP[:, None], (16, 1, 3))), RAMP_SHOWN),
    "grey_32_tiff": (
        encode(Image.fromarray(np.tile(RAMP.astype(np.int32), (16, 1))), "TIFF"),
        RAMP_SHOWN,
    ),
    "float_tiff": (
        encode(Image.fromarray(np.tile((RAMP / 65535).astype(np.float32), (16, 1))), "TIFF"),
        RAMP_SHOWN,
    ),
    "animated_gif": (image_files.animation("GIF"), flat((255, 0, 0))),
    "animated_webp": (image_files.animation("WEBP"), flat((255, 0, 0))),
    "animated_png": (image_files.animation("PNG"), flat((255, 0, 0))),
    "palette": (encode(Image.new("RGB", (24, 16), "lime").quantize(4), "PNG"), flat((0, 255, 0))),
    "palette_alpha_png": (encode(see_through("P"), "PNG"), RED_AND_WHITE),
    "palette_alpha_gif": (encode(see_through("RGBA"), "GIF"), RED_AND_WHITE),
    "alpha_png": (encode(see_through("RGBA"), "PNG"), RED_AND_WHITE),
    "alpha_webp": (encode(see_through("RGBA"), "WEBP", lossless=True), RED_AND_WHITE),
    "grey_alpha": (encode(see_through("LA"), "PNG"), GREY_AND_WHITE),
    "key_colour": (
        encode(see_through("RGBA").convert("RGB"), "PNG", transparency=(0, 0, 255)),
        RED_AND_WHITE,
    ),
    "half_transparent": (
        encode(Image.new("RGBA", (24, 16), (0, 0, 0, 128)), "PNG"),
        flat((127,) * 3),
    ),
    "broken_exif": (
        encode(photo(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0garbage"),
        PHOTO,
    ),
    "unknown_orientation": (image_files.rotated_jpeg(photo(), 9), PHOTO),
    "trailing_bytes": (encode(photo(), "PNG") + b"trailing", PHOTO),
}


@pytest.mark.parametrize("name", SHOWN)
def test_an_image_becomes_what_a_viewer_shows(name):
    data, shown = SHOWN[name]
    cleaned = clean(data)
    # Whatever is coded anew is JPEG of high quality: sharp edges ring by a few levels.
    difference = np.abs(pixels(cleaned) - shown)
    assert difference.mean() < 3
    assert np.median(difference) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(orientation):
    data = image_files.rotated_jpeg(photo(), orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    cleaned = clean(data)
    assert (cleaned.width, cleaned.height) == expected.size
    assert np.abs(pixels(cleaned) - np.asarray(expected).astype(int)).mean() < 2
    assert Image.open(io.BytesIO(cleaned.data)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_image"),
        (image_files.HTML, "not_an_image"),
        (b"\x00" * 100, "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (image_files.huge_png(), "too_many_pixels"),
        (encode(photo(1, 200, 200), "JPEG")[:-200], "truncated_image"),
        (encode(photo(1, 200, 200), "PNG")[:-200], "truncated_image"),
        (encode(photo(1, 200, 200), "WEBP")[:-50], "not_an_image"),
        (encode(photo(1, 200, 200), "GIF")[:-900], "truncated_image"),
        (png(b"\0" * 3, 24, 16, 8, 2), "truncated_image"),
        (encode(photo(), "PNG")[:20], "not_an_image"),
    ],
    ids=range(11),
)
def test_bad_images(data, reason):
    with pytest.raises(ImageError) as error:
        clean(data)
    assert error.value.reason == reason
    assert error.value.detail


def test_clean_files_pass_as_they_are():
    for data in (
        encode(photo(), "JPEG"),
        encode(photo(), "PNG"),
        encode(photo().convert("L"), "PNG"),
    ):
        assert clean(data).data == data


def test_limit_of_pixels_is_exact():
    assert clean(encode(photo(0, 24, 16), "PNG"), max_pixels=24 * 16).width == 24
    with pytest.raises(ImageError, match="24 x 16"):
        clean(encode(photo(0, 24, 16), "PNG"), max_pixels=24 * 16 - 1)


@pytest.mark.parametrize(("size", "shrunk"), [((100, 50), (20, 10)), ((1000, 1), (20, 1))])
def test_large_images_are_shrunk_and_keep_their_id(size, shrunk):
    data = encode(photo(0, *size), "PNG")
    cleaned = clean(data, max_side=20)
    assert (cleaned.width, cleaned.height) == shrunk
    assert pixels(cleaned).shape == (shrunk[1], shrunk[0], 3)
    assert cleaned.image_id == clean(data).image_id


def test_image_id_is_that_of_the_pixels():
    picture = photo(3)
    text = chunk(b"tEXt", b"Comment\0copied")
    original = encode(picture, "PNG")
    copies = [
        encode(picture, "PNG", compress_level=1),
        original[:33] + text + original[33:],
        encode(picture, "WEBP", lossless=True),
        encode(picture, "BMP"),
        encode(picture, "TIFF", compression="tiff_lzw"),
    ]
    ids = {clean(data).image_id for data in (original, *copies)}
    assert len(ids) == 1
    others = [photo(4), picture.rotate(90, expand=True), Image.new("RGB", (2, 2))]
    assert not ids & {clean(encode(other, "PNG")).image_id for other in others}
    tall, wide = Image.new("RGB", (2, 8)), Image.new("RGB", (8, 2))
    assert clean(encode(tall, "PNG")).image_id != clean(encode(wide, "PNG")).image_id


SOURCES = [encode(photo(5), f) for f in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL, about the damage
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SOURCES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0.01, 1),
)
def test_any_damage_is_a_clean_image_or_a_reason(data, changes, kept):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place * len(data))] = value
    try:
        cleaned = clean(bytes(damaged[: max(1, int(kept * len(data)))]), max_pixels=10_000)
    except ImageError as error:
        reason = error.reason
    else:
        reason = ""
        assert pixels(cleaned).shape == (cleaned.height, cleaned.width, 3)
    assert reason in ("", "not_an_image", "truncated_image", "too_many_pixels")


def test_one_bad_image_kills_one_row():
    rows = [{"key": f"i{i}", "image": encode(photo(i), "PNG")} for i in range(32)]
    rows[3] = {"key": "page", "image": image_files.HTML}
    rows[9]["key"] = ""
    rows[10]["key"] = None
    rows[11]["image"] = None
    table = pa.Table.from_pylist(rows, image_units.RAW_IMAGES)
    output = images.clean_images(table, STAGE, ImageLimits(MAX_PIXELS))
    assert output.tables["clean"]["key"].to_pylist() == [
        f"i{i}" for i in range(32) if i not in (3, 9, 10, 11)
    ]
    assert output.counts == {
        "images.in": 32,
        "images.out": 28,
        "images.dropped_not_an_image": 1,
        "images.dropped_missing_image_key": 1,
        "images.dropped_bad_encoding": 1,
        "images.dropped_empty_image": 1,
    }
    dead = {r["reason"]: r for t in output.dead for r in t.to_pylist()}
    assert dead["not_an_image"]["key"] == "page"
    assert dead["not_an_image"]["payload"] == image_files.HTML[:256]
    assert dead["empty_image"]["key"] == "i11"


@pytest.mark.parametrize(
    ("path", "format_"),
    [
        ("a/photo.jpg", "files"),
        ("my.tfrecords/photo.jpg", "files"),
        ("a/part-00000-of-00004.tfrecord.gz", "tfrecord"),
        ("a/data.tfrecord-00000-of-00004", "tfrecord"),
        ("a/images.parquet", "table"),
        ("a/images.csv.gz", "table"),
    ],
)
def test_format_of(path, format_):
    assert image_choice.format_of(path) == format_
