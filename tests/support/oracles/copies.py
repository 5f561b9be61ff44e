"""Copies of pictures as the web makes them, and how many of them are found."""

import dataclasses
import io
import os
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image, ImageDraw, ImageFont

from schemas.base import storage
from transforms.duplicates import find as duplicates
from transforms.images.clean import ImageLimits, clean_image
from transforms.images.read import CLEAN_IMAGES
from transforms.mining.images import SplitShares, split_of

Copy = Callable[[Image.Image, random.Random], Image.Image]
# Originals that differ by less are one picture: mean and greatest difference of 64 × 64
# RGB pixels, in levels.
SAME_MEAN, SAME_MAX = 2.0, 24.0

LIMITS = ImageLimits()


SHARES = SplitShares(validation=0.1, test=0.2)


def reencoded(image: Image.Image, rng: random.Random) -> Image.Image:
    """JPEG or WebP of quality 30 to 90, or PNG."""
    format_ = rng.choice(("JPEG", "JPEG", "WEBP", "PNG"))
    options = {} if format_ == "PNG" else {"quality": rng.randint(30, 90)}
    return Image.open(io.BytesIO(encoded(image, format_, **options))).convert("RGB")


def encoded(image: Image.Image, format_: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def resized(image: Image.Image, rng: random.Random) -> Image.Image:
    """0.4 to 1.5 times as wide and high."""
    factor = rng.uniform(0.4, 1.5)
    filters = (Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    size = [max(1, round(side * factor)) for side in image.size]
    return image.resize((size[0], size[1]), rng.choice(filters))


def cropped(image: Image.Image, rng: random.Random) -> Image.Image:
    """5 % less wide and high, off either side or both."""
    left, top = (rng.choice((0, 0.5, 1, rng.random())) * 0.05 for _ in range(2))
    return _window(image, left, top, 0.95)


def cropped_each_side(image: Image.Image, rng: random.Random) -> Image.Image:
    """5 % off each of the four sides."""
    return _window(image, 0.05, 0.05, 0.9)


def _window(image: Image.Image, left: float, top: float, share: float) -> Image.Image:
    (width, height), right, bottom = image.size, left + share, top + share
    return image.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


def watermarked(image: Image.Image, rng: random.Random) -> Image.Image:
    """A text, ellipse or rectangle of opacity 0.3 to 0.6 over 10 % of the area (text: its box)."""
    width, height = image.size
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    colour = rng.choice(((255, 255, 255), (0, 0, 0), (128, 128, 128), (220, 30, 30)))
    fill = (*colour, round(255 * rng.uniform(0.3, 0.6)))
    area = 0.1 * width * height
    if rng.random() < 0.5:
        text = rng.choice(("SAMPLE", "shop.example", "(c) PHOTO"))
        left, top, right, bottom = ImageFont.load_default(100).getbbox(text)
        size = min((area / (right - left) / (bottom - top)) ** 0.5, 0.95 * width / (right - left))
        font = ImageFont.load_default(100 * size)
        left, top, right, bottom = font.getbbox(text)
        x, y = rng.uniform(0, width - right + left), rng.uniform(0, height - bottom + top)
        pen.text((x - left, y - top), text, font=font, fill=fill)
    else:
        wide = min(width, (area * rng.uniform(0.5, 2)) ** 0.5)
        high = min(height, area / wide)
        x, y = rng.uniform(0, width - wide), rng.uniform(0, height - high)
        rng.choice((pen.ellipse, pen.rectangle))((x, y, x + wide, y + high), fill=fill)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def two_of_them(image: Image.Image, rng: random.Random) -> Image.Image:
    first, second = rng.sample((reencoded, resized, cropped, watermarked), 2)
    return second(first(image, rng), rng)


COPIES: dict[str, Copy] = {
    copy.__name__: copy
    for copy in (reencoded, resized, cropped, cropped_each_side, watermarked, two_of_them)
}


@dataclasses.dataclass(frozen=True)
class Known:
    """Images and what they are copies of.

    Attributes:
      tables: rows of CLEAN_IMAGES.
      picture: image_id → the picture it shows.
      kinds: kind of copy → its image_ids, each with that of its original.
    """

    tables: list[pa.Table]
    picture: dict[str, str]
    kinds: dict[str, list[tuple[str, str]]]


def with_copies(originals: dict[str, Image.Image], seed: int) -> Known:
    """Originals by name, with a copy of each kind of each (JPEG of quality 92)."""
    same = same_pictures(originals)
    rows, picture = [], {}
    kinds = defaultdict(list)
    for name, image in originals.items():
        files = {"": encoded(image, "PNG")}
        for kind, copy in COPIES.items():
            made = copy(image, random.Random(f"{seed}/{name}/{kind}"))
            files[kind] = encoded(made, "JPEG", quality=92)
        cleans = {k: clean_image(data, LIMITS) for k, data in files.items()}
        for kind, clean in cleans.items():
            rows.append((name, clean))
            picture[clean.image_id] = same[name]
            if kind:
                kinds[kind].append((clean.image_id, cleans[""].image_id))
    return Known(tables_of(rows), picture, dict(kinds))


def tables_of(rows: Iterable[tuple]) -> list[pa.Table]:
    """(key, CleanImage) → tables of CLEAN_IMAGES, without the image's bytes."""
    rows = list(rows)
    return [
        pa.Table.from_pylist(
            [
                {
                    "image_id": clean.image_id,
                    "key": key,
                    "width": clean.width,
                    "height": clean.height,
                    "image": b"",
                    "signature": clean.signature,
                    "source": clean.image_id,
                    "original": False,
                }
                for key, clean in rows[start : start + 64]
            ],
            CLEAN_IMAGES,
        )
        for start in range(0, len(rows), 64)
    ]


def same_pictures(images: dict[str, Image.Image]) -> dict[str, str]:
    """Name → the first name whose image has nearly the same pixels: collections repeat images.

    It knows nothing of signatures: every two are compared at 64 × 64.
    """
    names = list(images)
    box = Image.Resampling.BOX
    small = np.stack([np.asarray(images[name].resize((64, 64), box)) for name in names])
    small = small.reshape(len(names), -1).astype(np.int16)
    tiny = small.reshape(len(names), 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(names), -1)
    first: dict[str, str] = {}
    for i, name in enumerate(names):
        # Means of blocks differ by no more than the pixels do on average.
        near = np.flatnonzero(np.abs(tiny[:i] - tiny[i]).mean(1) <= SAME_MEAN)
        delta = np.abs(small[near] - small[i])
        same = near[(delta.mean(1) <= SAME_MEAN) & (delta.max(1) <= SAME_MAX)]
        first[name] = first[names[same[0]]] if len(same) else name
    return first


def find(known: Known, num_shards: int, workers: int) -> dict[str, str]:
    """Runs `FindDuplicates`; returns image_id → representative for every image."""
    mode = "in_memory" if workers == 1 else "multi_processing"
    flags = ["--runner=FnApiRunner", f"--direct_running_mode={mode}"]
    options = PipelineOptions([*flags, f"--direct_num_workers={workers}"])
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline(options=options) as pipeline:
            found = (
                pipeline
                | beam.Create(known.tables)
                | beam.Reshuffle()
                | duplicates.FindDuplicates(num_shards, storage.join(folder, "spill"))
            )
            _ = found | beam.Map(pq.write_table, storage.join(folder, "found.parquet"))
        path = storage.join(folder, "found.parquet")
        if not os.path.exists(path):  # nothing was found
            return {image: image for image in known.picture}
        table = pq.read_table(path)
    pairs = zip(table["image_id"].to_pylist(), table["representative"].to_pylist(), strict=True)
    return {image: image for image in known.picture} | dict(pairs)


@dataclasses.dataclass(frozen=True)
class Quality:
    """Attributes:
    recall: kind → share of copies in the cluster of their original; "all" over all copies.
    precision: share of the pairs in clusters that show one picture.
    leaks: copies in a cluster with their original, but in another split.
    astray: copies in another split than their original, those not found among them.
    mixed: pictures of each cluster that holds several, with their images.
    """

    recall: dict[str, float]
    precision: float
    leaks: int
    astray: int
    mixed: list[Counter]


def quality(known: Known, representative: dict[str, str]) -> Quality:
    """Compares clusters with the truth."""
    hits = {
        kind: [representative[copy] == representative[original] for copy, original in pairs]
        for kind, pairs in known.kinds.items()
    }
    together = [hit for kind in hits.values() for hit in kind]
    clusters: dict[str, Counter] = defaultdict(Counter)
    for image, picture in known.picture.items():
        clusters[representative[image]][picture] += 1
    true = sum(n * (n - 1) // 2 for cluster in clusters.values() for n in cluster.values())
    found = sum(n * (n - 1) // 2 for n in (cluster.total() for cluster in clusters.values()))
    split = {image: split_of(first, SHARES) for image, first in representative.items()}
    astray = [
        (copy, original)
        for pairs in known.kinds.values()
        for copy, original in pairs
        if split[copy] != split[original]
    ]
    leaks = sum(representative[copy] == representative[original] for copy, original in astray)
    recall = {kind: float(np.mean(hit)) for kind, hit in hits.items()}
    if together:
        recall["all"] = float(np.mean(together))
    mixed = [cluster for cluster in clusters.values() if len(cluster) > 1]
    return Quality(recall, true / found if found else 1.0, leaks, len(astray), mixed)
