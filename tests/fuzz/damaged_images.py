"""Damaged images: what mining keeps, training reads.

Each file is a sound image of some format with a few changes: bits and bytes, pieces lost, repeated
or taken from another file, the end cut off; of some PNGs the checksums are set right again, so that
the damage lies behind them. Mining cleans it (in its process of its own), and what it keeps is
decoded by the graph that training, embedding and the exported model share. The same number is the
same file each time.

  ./run.sh test --damaged 20000
"""

import argparse
import os
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from model_code.images import ops as image_ops
from tests.support.inputs import icc_profiles
from tests.support.inputs.image_files import (
    HEIC,
    animation,
    encode,
    interlaced_png,
    photo,
    png16,
    rotated_jpeg,
)
from transforms.images.clean import ImageError, ImageLimits
from transforms.images.process import clean_safely

LIMITS = ImageLimits(max_pixels=1 << 20, max_side=64, max_bytes=1 << 20)
REFUSED = Path("work/damaged")


def _seeds() -> dict[str, list[bytes]]:
    """Format → sound files of its kinds, each of some hundred bytes to some thousand."""
    smooth = photo(1, 40, 32)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8))
    glass = smooth.copy()
    glass.putalpha(noise.getchannel(0))
    return {
        "JPEG": [
            encode(smooth, "JPEG"),
            encode(noise, "JPEG", progressive=True, quality=60),
            encode(noise, "JPEG", quality=95, subsampling=0, restart_marker_blocks=2),
            encode(smooth, "JPEG", optimize=True, comment=b"made for a test"),
            encode(smooth, "JPEG", keep_rgb=True),
            encode(smooth.convert("L"), "JPEG"),
            encode(smooth.convert("CMYK"), "JPEG"),
            encode(smooth, "JPEG", icc_profile=icc_profiles.ADOBE_RGB),
            rotated_jpeg(smooth, 6),
            encode(smooth.resize((100, 70)), "JPEG"),
        ],
        "PNG": [
            encode(smooth, "PNG"),
            encode(noise, "PNG"),
            encode(smooth.convert("L"), "PNG"),
            encode(smooth.quantize(16), "PNG"),
            encode(smooth.quantize(16), "PNG", transparency=1),
            encode(glass, "PNG"),
            encode(smooth.convert("1"), "PNG"),
            encode(smooth, "PNG", icc_profile=icc_profiles.DISPLAY_P3),
            encode(smooth, "PNG", transparency=(0, 0, 0)),
            interlaced_png(smooth),
            png16(np.asarray(noise.convert("L")).astype(np.uint16) * 257),
            animation("PNG"),
        ],
        "WebP": [
            encode(smooth, "WEBP"),
            encode(noise, "WEBP", lossless=True),
            encode(glass, "WEBP"),
            animation("WEBP"),
        ],
        "BMP": [encode(image, "BMP") for image in (smooth, smooth.convert("L"), glass)]
        + [encode(smooth.quantize(16), "BMP"), encode(smooth.convert("1"), "BMP")],
        "GIF": [
            encode(smooth, "GIF"),
            encode(noise.quantize(64), "GIF", interlace=True),
            encode(smooth.quantize(4), "GIF", transparency=0),
            animation("GIF"),
        ],
        "HEIC": [HEIC],
        "JPEG XL": [encode(smooth, "JXL", effort=1), encode(noise, "JXL", effort=1, quality=50)],
        "TIFF": [
            encode(smooth, "TIFF"),
            encode(smooth, "TIFF", compression="tiff_lzw"),
            encode(smooth.convert("1"), "TIFF", compression="group4"),
        ],
    }


SEEDS = _seeds()
# Clean JPEG and PNG files go on as they are; what was another format is always coded anew.
_SHARES = {"JPEG": 35, "PNG": 35, "WebP": 8, "BMP": 8, "GIF": 8, "HEIC": 2, "JPEG XL": 2, "TIFF": 2}


def damaged(number: int) -> tuple[str, bytes]:
    """A format, and a file of it that is damaged."""
    rng = random.Random(number)
    (name,) = rng.choices(list(_SHARES), list(_SHARES.values()))
    data = bytearray(rng.choice(SEEDS[name]))
    # Half of the damage is near the start, where most of a file's structure is.
    skew = rng.choice((1, 3))
    for _ in range(rng.randint(1, 4)):
        place, length = int(rng.random() ** skew * len(data)), rng.randint(1, 16)
        kind = rng.choice(("bit", "bit", "byte", "lose", "repeat", "zeros", "other", "cut"))
        if kind == "bit" and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == "lose":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + 4 * length]
        elif kind == "zeros":
            data[place : place + length] = bytes(length)
        elif kind == "other":
            other = rng.choice(SEEDS[name])
            start = rng.randrange(len(other))
            data[place : place + length] = other[start : start + length]
        elif kind == "cut" and rng.random() < 0.3:
            del data[max(place, 1) :]
    if name == "PNG" and rng.random() < 0.5:
        _set_checksums(data)
    return name, bytes(data)


def _set_checksums(data: bytearray) -> None:
    """Makes the checksums of a PNG's chunks right, as far as there are chunks."""
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


_decode = tf.function(
    lambda images: image_ops.decode_and_resize(images, 8),
    input_signature=[tf.TensorSpec([None], tf.string)],
)


def outcome(data: bytes) -> tuple[str, bytes]:
    """What mining and training make of a file: "dead", "read" or "refused", and the clean image."""
    try:
        clean = clean_safely(data, LIMITS).data
    except ImageError:
        return "dead", b""
    try:
        _decode(tf.constant([clean]))
    except tf.errors.OpError:
        return "refused", clean
    return "read", clean


def try_files(numbers: Iterable[int]) -> tuple[Counter, dict[int, bytes]]:
    """Tries damaged files.

    Returns:
      (format, outcome) → files; and number → the file, of those that training refused.
    """
    counts: Counter[tuple[str, str]] = Counter()
    refused = {}
    for number in numbers:
        name, data = damaged(number)
        what, clean = outcome(data)
        counts[name, what] += 1
        if what == "refused":
            refused[number] = clean
    return counts, refused


def main() -> int:
    parser = argparse.ArgumentParser("./run.sh test --damaged", description=__doc__)
    parser.add_argument("files", type=int, help="how many to try")
    parser.add_argument("--first", type=int, default=0, help="number of the first; others, others")
    args = parser.parse_args()
    start = time.monotonic()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # TensorFlow's decoders print each damage
    counts, refused = try_files(range(args.first, args.first + args.files))
    print("| format | tried | kept by mining | of these refused by training |\n|---|---|---|---|")
    for name in (*SEEDS, "all"):
        found = {w: sum(counts[n, w] for n in SEEDS if name in (n, "all")) for _, w in counts}
        kept = found.get("read", 0) + found.get("refused", 0)
        print(f"| {name} | {sum(found.values()):,} | {kept:,} | {found.get('refused', 0):,} |")
    print(f"{time.monotonic() - start:.0f} s")
    for number, clean in refused.items():
        REFUSED.mkdir(parents=True, exist_ok=True)
        (REFUSED / str(number)).write_bytes(clean)
        print(f"error: training refused {REFUSED / str(number)}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
