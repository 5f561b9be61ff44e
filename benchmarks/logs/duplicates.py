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
import time

import numpy as np
from PIL import Image

from samples import scenes
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.runs import command_line
from tests.support.oracles.copies import (
    LIMITS,
    Known,
    encoded,
    find,
    quality,
    tables_of,
    with_copies,
)
from transforms.duplicates.signature import signature
from transforms.images.clean import clean_image

FOLDERS = ("fashion", "flickr1k", "emoji")
SCENE_SIDE = 128
NUM_SHARDS, WORKERS = 8, 2
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Config:
    data: str = flag("Folder that holds fashion/, flickr1k/ and emoji/.", role="input")
    names: tuple[str, ...] = flag("Which of them.", default=FOLDERS)
    images: int = flag("Originals of each.", default=1000, minimum=1)
    scenes: int = flag("Drawn scenes, of which some are exact copies.", default=2000, minimum=1)
    seed: int = flag("Chooses originals and copies.", default=1, minimum=0, maximum=2**32 - 1)


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
    return command_line.main(Config, "bench duplicates", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
