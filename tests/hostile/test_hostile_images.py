"""Images that were made to do harm: each becomes a clean image or has a reason, at a bounded cost.

The cost is what was decoded and the memory of the process that did it, never time on a clock.
"""

import io
import os
import signal
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import GifImagePlugin, Image

from schemas.tables.dead_letters import REASONS
from tests.support.inputs.image_files import (
    HEIC,
    chunk,
    encode,
    jpeg_of_scans,
    photo,
    png,
    rotated_jpeg,
)
from transforms.images.clean import ImageError, ImageLimits, clean_image
from transforms.images.only_pixels import only_pixels
from transforms.images.process import ImageProcess, clean_safely

SMALL = ImageLimits(max_pixels=1 << 20, max_side=64, max_bytes=8 << 20, max_seconds=20)
SCRIPT = b"<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def process():
    decoder = ImageProcess(SMALL)
    yield decoder
    decoder.close()


def deflated(megabytes: int) -> bytes:
    """Zeros that take a thousandth of their space."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return b"".join([*parts, packer.flush()])


ZEROS = deflated(256)


def with_chunk(name: bytes, data: bytes) -> bytes:
    whole = encode(photo(), "PNG")
    return whole[:33] + chunk(name, data) + whole[33:]


def png_of_too_much() -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 16, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", ZEROS) + chunk(b"IEND", b"")


def gif_of_frames(count: int) -> bytes:
    whole = encode(photo().quantize(16), "GIF")
    start = whole.index(b",", 13 + 3 * 16)
    frame = whole[start:-1]
    return whole[:start] + frame * count + b";"


def gif_of_size(width: int, height: int) -> bytes:
    whole = encode(photo(), "GIF")
    return whole[:6] + struct.pack("<HH", width, height) + whole[10:]


def webp_of_size(width: int, height: int) -> bytes:
    frames = [photo(seed) for seed in range(2)]
    whole = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    place = whole.index(b"VP8X") + 12
    whole[place : place + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(
        3, "little"
    )
    return bytes(whole)


def tiff_of_size(width: int, height: int) -> bytes:
    whole = bytearray(encode(photo(), "TIFF", compression="tiff_adobe_deflate"))
    (start,) = struct.unpack_from("<I", whole, 4)
    (entries,) = struct.unpack_from("<H", whole, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from("<H", whole, place)
        if tag in (256, 257):
            struct.pack_into("<HII", whole, place + 2, 4, 1, width if tag == 256 else height)
    return bytes(whole)


def jpeg2000_of_size(width: int, height: int) -> bytes:
    whole = bytearray(encode(photo(), "JPEG2000", no_jp2=True))
    place = whole.index(b"\xff\x51") + 6
    struct.pack_into(">II", whole, place, width, height)
    return bytes(whole)


def heic_of_size(width: int, height: int) -> bytes:
    whole = bytearray(HEIC)
    struct.pack_into(">II", whole, whole.index(b"ispe") + 8, width, height)
    return bytes(whole)


def jpeg_xl_of_size(width: int, height: int) -> bytes:
    """The header of a codestream, and nothing behind it."""
    bits = 3 << 1 | (height - 1) << 3 | 3 << 36 | (width - 1) << 38
    return b"\xff\x0a" + bits.to_bytes(20, "little")


def icon_with(inner: bytes) -> bytes:
    """An icon that says 16 x 16, and holds another image."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inner


def flat_png(width: int, height: int) -> bytes:
    return png(bytes((1 + 3 * width) * height), width, height, 8, 2)


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("index.html", data)
    return buffer.getvalue()


TOO_LARGE = {
    "png": flat_png(60_000, 18),
    "gif": gif_of_size(60_000, 60_000),
    "tiff": tiff_of_size(60_000, 60_000),
    "jpeg2000": jpeg2000_of_size(60_000, 60_000),
    "jpeg_xl": jpeg_xl_of_size(60_000, 60_000),
    "icon": icon_with(flat_png(4_000, 4_000)),
}
BOMBS = {
    "png": png_of_too_much(),
    "zTXt": with_chunk(b"zTXt", b"Comment\0\0" + ZEROS),
    "iTXt": with_chunk(b"iTXt", b"Comment\0\1\0\0\0" + ZEROS),
    "iCCP": with_chunk(b"iCCP", b"profile\0\0" + ZEROS),
    "tEXt": with_chunk(b"tEXt", b"Comment\0" + b"x" * (6 << 20)),
    "webp": webp_of_size(16_383, 16_383),
    "heic": heic_of_size(30_000, 30_000),
    **TOO_LARGE,
}


def outcome(process: ImageProcess, data: bytes) -> tuple[str | None, int]:
    """The reason of a dead image, or the size of the clean one."""
    try:
        return None, len(process.clean(data).data)
    except ImageError as error:
        return error.reason, 0


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_go_off(process, name):
    start = _peak(process)
    reason, size = outcome(process, BOMBS[name])
    assert (reason == "too_many_pixels") == (name in TOO_LARGE)
    assert reason is None or reason in REASONS
    assert size < 10_000
    grown = _peak(process) - start
    print(f"{name}: {len(BOMBS[name]):,} bytes made the process grow by {grown >> 20} MiB")
    assert grown < 96 << 20


def _peak(process: ImageProcess) -> int:
    """The most memory that the process ever had, in bytes."""
    process.clean(encode(photo(), "PNG"))
    status = Path(f"/proc/{process._process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_a_line_of_60_000_pixels_is_an_image(process):
    cleaned = process.clean(flat_png(60_000, 1))
    assert (cleaned.width, cleaned.height) == (64, 1)


def test_of_10_000_frames_one_is_decoded(process, monkeypatch):
    data = gif_of_frames(10_000)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 10_000
    seeks, seek = [], GifImagePlugin.GifImageFile._seek

    def counted(self, frame, *args):
        seeks.append(frame)
        return seek(self, frame, *args)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", counted)
    cleaned = clean_image(data, SMALL)
    assert set(seeks) == {0}
    assert process.clean(data) == cleaned


def test_a_decoder_that_takes_too_long_is_ended():
    patient, hasty = ImageProcess(SMALL), ImageProcess(ImageLimits(max_seconds=1))
    data = jpeg_of_scans(3)
    assert patient.clean(data).width == 64
    with pytest.raises(ImageError) as error:
        hasty.clean(jpeg_of_scans(12_000))
    assert error.value.reason == "too_slow"
    assert hasty.clean(encode(photo(), "PNG")).width == 24, "the next image has a new process"
    patient.close()
    hasty.close()


def test_time_is_that_of_one_image_and_not_of_all():
    decoder = ImageProcess(ImageLimits(max_seconds=2))
    data = encode(photo(0, 3000, 3000), "PNG")
    decoder.clean(data)
    pid = decoder._process.pid
    while _cpu_seconds(pid) < 3:
        decoder.clean(data)
    assert decoder._process.pid == pid
    decoder.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_decoder_that_crashes_costs_one_image(process):
    process.clean(encode(photo(), "PNG"))
    os.kill(process._process.pid, signal.SIGSEGV)
    with pytest.raises(ImageError, match="SIGSEGV") as error:
        process.clean(encode(photo(), "PNG"))
    assert error.value.reason == "decoder_failed"
    assert process.clean(encode(photo(), "PNG")).width == 24


def test_a_file_beyond_the_limit_is_not_even_sent(process):
    with pytest.raises(ImageError) as error:
        process.clean(bytes(SMALL.max_bytes + 1))
    assert error.value.reason == "too_many_bytes"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "I;16", "F", "P", "LA", "1"])
def test_every_image_within_the_limit_of_pixels_has_the_memory_it_needs(mode):
    side = 3000
    limits = ImageLimits(max_pixels=side * side, max_bytes=1 << 20, max_side=64)
    spare = 256 << 20  # which stands for what decoders need themselves
    assert limits.memory_bytes > 40 * limits.max_pixels + spare
    values = np.zeros((side, side), np.uint16)
    image = Image.fromarray(values) if mode == "I;16" else Image.new(mode, (side, side))
    kind = {"CMYK": "TIFF", "F": "TIFF"}.get(mode, "PNG")
    options = {"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}
    assert clean_safely(encode(image, kind, **options), limits).width == 64


POLYGLOTS = {
    "jpeg and page": encode(photo(), "JPEG", comment=SCRIPT),
    "jpeg and archive": encode(photo(), "JPEG") + zipped(SCRIPT),
    "jpeg and EXIF": encode(photo(), "JPEG", exif=b"Exif\0\0" + SCRIPT, quality=90),
    "jpeg and profile": encode(photo(), "JPEG", icc_profile=SCRIPT * 1000),
    "png and archive": encode(photo(), "PNG") + zipped(SCRIPT),
    "png and text": with_chunk(b"tEXt", b"Comment\0" + SCRIPT),
    "png and private chunk": with_chunk(b"prIv", SCRIPT),
    "gif and script": encode(photo(), "GIF", comment=SCRIPT) + b"/*" + SCRIPT,
    "bmp and page": encode(photo(), "BMP") + SCRIPT,
}


@pytest.mark.parametrize("name", POLYGLOTS)
def test_of_a_polyglot_only_the_pixels_stay(process, name):
    data = POLYGLOTS[name]
    assert b"owned" in data or zipfile.is_zipfile(io.BytesIO(data))
    cleaned = process.clean(data)
    assert b"owned" not in cleaned.data
    assert not zipfile.is_zipfile(io.BytesIO(cleaned.data))
    shown = [
        np.asarray(Image.open(io.BytesIO(d)).convert("RGB"), int) for d in (data, cleaned.data)
    ]
    exact = name.startswith(("jpeg", "png"))
    assert np.abs(shown[0] - shown[1]).max() <= (0 if exact else 60)


@given(
    st.integers(0, 1000),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["RGB", "L"]),
    st.fixed_dictionaries(
        {
            "quality": st.integers(1, 100),
            "progressive": st.booleans(),
            "optimize": st.booleans(),
            "subsampling": st.sampled_from([0, 1, 2]),
            "restart_marker_blocks": st.integers(0, 3),
            "comment": st.binary(max_size=99),
        }
    ),
    st.binary(max_size=99),
)
@settings(max_examples=150)
def test_taking_metadata_away_leaves_every_pixel(seed, size, mode, options, rest):
    image = Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    ).convert(mode)
    adobe = encode(image.convert("RGB"), "JPEG", keep_rgb=True)
    for data in (encode(image, "JPEG", **options), adobe, encode(image, "PNG")):
        bare = only_pixels(data + rest)
        assert bare is not None
        assert len(bare) <= len(data)
        assert only_pixels(bare) == bare
        shown = [Image.open(io.BytesIO(d)) for d in (data, bare)]
        assert shown[0].mode == shown[1].mode
        assert np.array_equal(np.asarray(shown[0]), np.asarray(shown[1]))


@settings(max_examples=200)
@given(st.sampled_from(["JPEG", "PNG"]), st.data())
def test_files_that_are_cut_have_no_parts(kind, data):
    whole = only_pixels(encode(photo(), kind))
    cut = data.draw(st.integers(8, len(whole) - 1))
    assert only_pixels(whole[:cut]) is None


def test_where_a_photo_was_taken_is_forgotten(process):
    turned = process.clean(rotated_jpeg(photo(), 1)).data
    assert b"Exif" not in turned
    assert not Image.open(io.BytesIO(turned)).getexif()


@pytest.mark.parametrize("data", [encode(photo(), "PNG"), encode(photo(), "PNG")[:99]])
def test_the_limit_of_pixels_is_that_of_one_image(data):
    """Pillow holds one for the whole process, in which others open images, too."""
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError):
        clean_image(data, ImageLimits(max_pixels=10))
    assert before == Image.MAX_IMAGE_PIXELS
