"""A million images through embed_images in miniature: is memory flat, is every image accounted for?

Draws tiny images, every --broken_every-th of them cut short or no image at all, and runs
embed_images on them with a tiny network, in a process of its own whose memory is sampled. Prints
rows, dead letters against what was broken, images a second, and how memory grew over the second
half of the run.

  ./run.sh bench scale --workdir work/scale --images 1000000
"""

import dataclasses
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence

import numpy as np
import psutil

from benchmarks.logs.mining import resident
from benchmarks.runs import embed
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import launch
from schemas.console.flags import flag
from schemas.console.progress import duration
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line
from tests.support.datasets import networks as networks_lib

SIDE = 16
SAMPLE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder for images, networks and features.", role="output")
    images: int = flag("Images to draw.", default=1_000_000, minimum=1)
    images_per_shard: int = flag("Images of a shard.", default=10_000, minimum=1)
    broken_every: int = flag("One image of so many is broken.", default=1009, minimum=1)
    batch_size: int = flag("Images of a batch.", default=256, minimum=1)


def png(pixels: np.ndarray) -> bytes:
    """The PNG file of [height, width, 3] uint8."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiny_image(number: int) -> bytes:
    """A PNG of 16 × 16 pixels: four squares of colours that its number decides."""
    colours = np.frombuffer(struct.pack("<Q", number * 0x9E3779B97F4A7C15 % 2**64) * 2, np.uint8)
    squares = colours[:12].reshape(2, 2, 3)
    return png(squares.repeat(SIDE // 2, axis=0).repeat(SIDE // 2, axis=1))


@dataclasses.dataclass(frozen=True)
class Draw:
    """Draws image `number`; one of `broken_every` is broken, in one of three ways."""

    broken_every: int

    @property
    def __name__(self) -> str:
        return f"tiny_image, one of {self.broken_every} broken"

    def __call__(self, number: int) -> bytes:
        image = tiny_image(number)
        if (number + 1) % self.broken_every:
            return image
        return (image[:50], b"<html></html>", b"")[number % 3]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of a process and its children while it ran.

    Attributes:
      seconds: [n] since its start.
      resident: [n] bytes.
    """

    seconds: np.ndarray
    resident: np.ndarray

    @property
    def growth(self) -> float:
        """Bytes a second over the second half, by least squares."""
        half = self.seconds >= self.seconds[-1] / 2
        return float(np.polyfit(self.seconds[half], self.resident[half], 1)[0])


def watch(command: Sequence[str]) -> Memory:
    """Runs a command and samples its memory.

    Raises:
      PhraseLensError: it failed.
    """
    start = time.monotonic()
    seconds, used = [], []
    with subprocess.Popen(launch.part(command)) as process:
        while process.poll() is None:
            seconds.append(time.monotonic() - start)
            used.append(resident(psutil.Process(process.pid)))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise PhraseLensError(command[2], "to succeed", "See what it said above.")
    # The last sample may be of a process that is about to end.
    return Memory(np.array(seconds[:-1]), np.array(used[:-1], np.float64))


@dataclasses.dataclass(frozen=True)
class Result:
    """What `measure` found; `broken` is how many images were drawn broken."""

    images: int
    features: int
    dead: int
    broken: int
    seconds: float
    memory: Memory


def measure(config: Config) -> Result:
    """Draws the images, if they are not there, and embeds them.

    Raises:
      PhraseLensError: the job failed.
    """
    mined = embed.write_images(
        storage.join(config.workdir, "mined"),
        config.images,
        Draw(config.broken_every),
        (SIDE, SIDE),
        config.images_per_shard,
    )
    networks = networks_lib.write_networks(
        storage.join(config.workdir, "networks"), "small_resnet", SIDE, small_width=4
    )
    output = storage.join(config.workdir, "features")
    storage.remove_tree(output)
    command = [sys.executable, "-m", "beam_jobs.models.embed_images", f"--mined={mined}"]
    command += [f"--{name}={root}" for name, root in networks.items()]
    command += [f"--batch_size={config.batch_size}", f"--output={output}"]
    start = time.monotonic()
    memory = watch(command)
    seconds = time.monotonic() - start
    features = Dataset(output).manifest
    dead = features.counters["images.dropped_inference_failed"]
    broken = config.images // config.broken_every
    rows = features.tables["features"].rows
    return Result(config.images, rows, dead, broken, seconds, memory)


def work(config: Config) -> None:
    found = measure(config)
    memory, rate = found.memory, found.images / found.seconds
    mib = 1 << 20
    print(
        f"\n{found.images:,} images in, {found.features:,} features, {found.dead:,} dead letters "
        f"({found.broken:,} drawn broken)\n"
        f"{rate:,.0f} images/s, {duration(found.seconds)} on {os.cpu_count()} cores\n"
        f"memory: {memory.resident.max() / mib:,.0f} MiB at most, "
        f"{np.median(memory.resident) / mib:,.0f} MiB at the median; over the second half "
        f"{memory.growth / rate * 1e6 / mib:+,.1f} MiB for a million images"
    )
    if found.dead != found.broken or found.features + found.dead != found.images:
        raise PhraseLensError(
            f"{found.features:,} features and {found.dead:,} dead letters",
            f"{found.images - found.broken:,} and {found.broken:,}",
            "Images were lost: see the counters of its manifest.",
        )


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench scale", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
