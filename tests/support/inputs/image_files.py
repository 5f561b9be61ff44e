"""Image files as people have them, good and bad, for tests."""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image

HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


def encode(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(seed: int = 0, width: int = 24, height: int = 16) -> Image.Image:
    """A smooth picture, another for each seed."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3)).astype(np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def png(
    pixels: bytes, width: int, height: int, depth: int, colour: int, extra: bytes = b""
) -> bytes:
    """A PNG made by hand, with the header that one likes and `extra` chunks behind it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def huge_png() -> bytes:
    """Some hundred bytes that claim 60,000 x 60,000 pixels."""
    return png(b"\0" * 100, 60_000, 60_000, 8, 2)


def png16(values: np.ndarray) -> bytes:
    """A 16-bit PNG of [height, width] (grey) or [height, width, 3] uint16."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(rows, values.shape[1], values.shape[0], 16, 0 if values.ndim == 2 else 2)


def animation(format: str) -> bytes:
    """Red, then green, then blue."""
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    return encode(frames[0], format, save_all=True, append_images=frames[1:], **options)


def rotated_jpeg(image: Image.Image, orientation: int) -> bytes:
    """A JPEG whose EXIF block says how it has to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", quality=95, subsampling=0, exif=exif)


def interlaced_png(image: Image.Image) -> bytes:
    """An 8-bit RGB PNG in the seven passes of Adam7, which Pillow does not write."""
    pixels = np.asarray(image.convert("RGB"))
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    rows = b""
    for x, y, dx, dy in [*passes, (0, 1, 1, 2)]:
        part = pixels[y::dy, x::dx]
        rows += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


# 24 x 16, left half (200, 30, 60), right half (20, 160, 220): Pillow's plugin writes no HEIC.
HEIC = zlib.decompress(
    base64.b85decode(
        "c-muNV30{GsVvAy%}izhg51nBLl8SRGck>Ufw3kxwIq=N0u(b+a*CjAhJwuG5(YG&l$nzcHpIn&fe{FSfN=q"
        "Y1_C=ER?f`KO9S&jqM|@fDif5KQI>27V)7MamgK^f{K+gRDge@VG7FOPfpjTQnKL6ZNN56Bk=zG{KYxGxU|`"
        "^9P5|nVaA4$N{Qn=MfElEM8HD6^F*zgxB{iKG8PQ}GC^WK8d$n%Xvj>U`4m2<@@HBvgTatjP*<2V879Z>c+9"
        "8~rpHq~VoKpc5<z-+4Dq#@GEG|feddvZeHIj1@K@O9Ex?KQ7|NsC029Ra~(icE9NW37kA`_&MnS+A^q&~AC7"
        "Z%3AU}J4$VrFdtvfXl15<y{XrNOv9Nb+NA!>37k|DvWeg)HlQs5Ix#e&z43(j0NEE!#z}f8f<#boRy9`d4Mn"
        "3mrE7`sKb+VePA8xpe>xd~Le"
    )
)


def jpeg_of_scans(count: int) -> bytes:
    """A photo whose last refinement comes again and again."""
    whole = encode(photo(0, 1024, 1024), "JPEG", progressive=True, quality=30)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + b"\xff\xd9"
