"""How many copies of pictures are found as such, and how many strangers are taken for copies.

Takes photos and drawings of three folders of --data (fashion/, flickr1k/, emoji/: images/),
and scenes of samples/, makes copies of each: re-encoded, resized, cropped by 5 % in all and
by 5 % on each side, marked by a see-through text or logo, and by two of these; runs
`FindDuplicates` over originals and copies; prints, for each kind, the share of copies that
are in the cluster of their original, and of all pairs in clusters the share that is of one
original. Then how long a signature takes beside decoding.

  ./run.sh bench duplicates --data DATA
"""

import dataclasses
import io
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image, ImageDraw, ImageFont

from samples import scenes
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.runs import command_line
from transforms.duplicates import find as duplicates
from transforms.duplicates.compare import signature
from transforms.images.clean import ImageLimits, clean_image
from transforms.images.read import CLEAN_IMAGES
from transforms.mining.images import SplitShares, split_of

Copy = Callable[[Image.Image, random.Random], Image.Image]

FOLDERS = ("fashion", "flickr1k", "emoji")
LIMITS = ImageLimits()
SHARES = SplitShares(validation=0.1, test=0.2)
SCENE_SIDE = 128
NUM_SHARDS, WORKERS = 8, 2
SHOWN = 10
# Originals that differ by less are one picture: mean and greatest difference of 64 × 64
# RGB pixels, in levels.
SAME_MEAN, SAME_MAX = 2.0, 24.0


@dataclasses.dataclass(frozen=True)
class Config:
    data: str = flag("Folder that holds fashion/, flickr1k/ and emoji/.", role="input")
    names: tuple[str, ...] = flag("Which of them.", default=FOLDERS)
    images: int = flag("Originals of each.", default=1000, minimum=1)
    scenes: int = flag("Drawn scenes, of which some are exact copies.", default=2000, minimum=1)
    seed: int = flag("Chooses originals and copies.", default=1, minimum=0, maximum=2**32 - 1)


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


def drawn_scenes(count: int, seed: int) -> Known:
    """Scenes of the samples; an exact copy has the bytes of its original, so the same id."""
    rows, picture = [], {}
    for index in range(count):
        if scenes.defect_of(seed, index):
            continue
        clean = clean_image(scenes.image_bytes(seed, index, SCENE_SIDE), LIMITS)
        rows.append((scenes.key_of(index), clean))
        picture[clean.image_id] = str(scenes.original_of(seed, index))
    return Known(tables_of(rows), picture, {})


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


def read_originals(folder: str, count: int, seed: int) -> dict[str, Image.Image]:
    """Some images of a folder, by name.

    Raises:
      PhraseLensError: the folder is not there.
    """
    if not os.path.isdir(folder):
        raise PhraseLensError(folder, "a folder of images", "Give its parent's with --data.")
    names = sorted(os.listdir(folder))
    chosen = random.Random(seed).sample(names, min(count, len(names)))
    return {name: Image.open(os.path.join(folder, name)).convert("RGB") for name in chosen}


def cost_of_signature(side: int = 512, repeats: int = 30) -> float:
    """Seconds for the signature of a photo as a share of those for decoding it (JPEG)."""
    image = Image.fromarray(scenes.draw(scenes.scene_of(0, 0), side, np.random.default_rng(0)))
    data = encoded(image, "JPEG", quality=90)
    decode, sign = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        rgb = Image.open(io.BytesIO(data)).convert("RGB")
        middle = time.perf_counter()
        signature(rgb)
        decode.append(middle - start)
        sign.append(time.perf_counter() - middle)
    return float(np.median(sign) / np.median(decode))


def _print(name: str, known: Known, start: float) -> None:
    images = sum(table.num_rows for table in known.tables)
    result = quality(known, find(known, NUM_SHARDS, WORKERS))
    print(f"\n{name}: {images:,} images, {time.monotonic() - start:.0f} s")
    for kind, recall in result.recall.items():
        print(f"  recall {kind:20} {recall:.4f}")
    print(f"  precision            {result.precision:9.4f}")
    print(f"  split leakage        {result.leaks:9}")
    print(f"  in other splits      {result.astray:9} (copies that were not found)")
    for cluster in result.mixed[:SHOWN]:
        print("  taken for one: " + ", ".join(f"{name} ({n})" for name, n in cluster.items()))


def work(config: Config) -> None:
    for name in config.names:
        start = time.monotonic()
        folder = os.path.join(config.data, name, "images")
        originals = read_originals(folder, config.images, config.seed)
        _print(name, with_copies(originals, config.seed), start)
    start = time.monotonic()
    _print("scenes", drawn_scenes(config.scenes, config.seed), start)
    print(f"\nsignature / decoding of 512 x 512 pixels: {cost_of_signature():.1%}")


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "./run.sh bench duplicates", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
