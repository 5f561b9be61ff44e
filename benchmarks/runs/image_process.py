"""What it costs to decode images in a process of its own: milliseconds an image, here and there.

./run.sh bench image_process
"""

import dataclasses
import io
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from schemas.console.flags import flag
from schemas.runs import command_line
from transforms.images.clean import ImageLimits, clean_image
from transforms.images.process import ImageProcess


@dataclasses.dataclass(frozen=True)
class Config:
    images: int = flag("Images of each size.", default=32, minimum=1)
    repeats: int = flag("Rounds, of which the fastest counts.", default=7, minimum=1)


def photos(side: int, count: int) -> list[bytes]:
    """JPEG files of smooth noise."""
    rng = np.random.default_rng(side)
    grids = rng.integers(0, 256, (count, side // 8, side // 8, 3)).astype(np.uint8)
    files = []
    for grid in grids:
        buffer = io.BytesIO()
        Image.fromarray(grid).resize((side, side)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def milliseconds(clean: Callable, files: Sequence[bytes]) -> float:
    start = time.perf_counter()
    for file in files:
        clean(file)
    return (time.perf_counter() - start) / len(files) * 1e3


def work(config: Config) -> None:
    limits = ImageLimits()
    process = ImageProcess(limits)
    ways = {"in the worker": lambda data: clean_image(data, limits), "apart": process.clean}
    print(f"{'side':>6}" + "".join(f"{name:>16}" for name in ways) + f"{'ratio':>8}")
    for side in (256, 512, 1024, 2048):
        files = photos(side, config.images)
        process.clean(files[0])
        rounds = [
            [milliseconds(way, files) for way in ways.values()] for _ in range(config.repeats)
        ]
        here, apart = (min(column) for column in zip(*rounds, strict=True))
        print(f"{side:>6}{here:16.2f}{apart:16.2f}{apart / here:8.2f}", flush=True)
    process.close()


if __name__ == "__main__":
    sys.exit(command_line.main(Config, "bench image_process", __doc__, None, work))
