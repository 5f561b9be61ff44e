"""How fast is embed_images beside the best loop over the same images and networks?

Draws photos (or takes those of --mined), and runs embed_images and raw loops over them in turn,
in one process: from the shards of images to vectors, networks loaded, decoding included, batches
of one size. The raw loops know nothing of Beam, phrases, dead letters or manifests and keep the
vectors in memory; the fastest of them is what counts: tf.data that decodes in parallel and ahead,
threads with Pillow, and one graph from bytes to vectors. All have networks with folded batch
normalisation; a last loop, one graph with the networks as they were trained, says what that gives.

  ./run.sh bench embed --workdir work/embed --weights mobilenet_v1_1.0_224.weights.h5
"""

import contextlib
import dataclasses
import glob
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_jobs.models import embed_images
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.datasets import commit, manifest
from schemas.datasets import shards as shards_lib
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line
from schemas.tables import mined as tables
from tests.support.datasets.networks import planned, write_networks

SHARDS = 2


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder for images, networks and features.", role="output")
    mined: str = flag(
        "Dataset of mine_pairs whose images are taken; without it, drawn.", default=""
    )
    images: int = flag(
        "Photos to draw: with fewer, starting takes a larger share.", default=5120, minimum=1
    )
    backbone: str = flag("Network of generator and pixel embedder.", default="mobilenet")
    weights: str = flag("Its weights; random ones without.", default="")
    batch_size: int = flag("Images of a batch.", default=32, minimum=1)
    rounds: int = flag("Times that each is run.", default=3, minimum=1)


def photo(seed: int, size: tuple[int, int] = (400, 300)) -> bytes:
    """A JPEG of smooth colours with some noise, as large as the photos of a web page."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    pixels = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_images(
    root: str, count: int, draw: Callable[[int], bytes], side: tuple[int, int], per_shard: int
) -> str:
    """Commits a table of drawn images as mine_pairs would; one that is there stays."""
    stage = planned("mine_pairs", root, count, draw.__name__, per_shard)
    if stage.done:
        return root
    num_shards = -(-count // per_shard)
    shards = []
    for index in range(num_shards):
        numbers = range(index * per_shard, min(count, (index + 1) * per_shard))
        rows = len(numbers)
        columns = [
            pa.array([f"{number:032x}" for number in numbers]),
            pa.array([[]] * rows, tables.IMAGES.field("keys").type),
            pa.array(["train"] * rows),
            pa.array([[]] * rows, tables.IMAGES.field("labels").type),
            pa.array([side[0]] * rows, pa.int32()),
            pa.array([side[1]] * rows, pa.int32()),
            pa.array([draw(number) for number in numbers], pa.binary()),
        ]
        path = stage.shard_path("images", index, num_shards, "parquet")
        table = pa.table(columns, tables.IMAGES)
        shards.append(shards_lib.write_parquet(root, path, index, table))
    schema = shards_lib.schema_fingerprint(tables.IMAGES)
    written = {"images": manifest.Table("parquet", schema, tuple(shards))}
    counters = {"images.in": count, "images.out": count}
    commit.commit(root, stage.manifest(written, counters, num_shards), stage.seen)
    return root


@dataclasses.dataclass(frozen=True)
class Raw:
    """The networks, loaded for a raw loop.

    Attributes:
      size: side of their images.
      decode: [] string → [size, size, 3] uint8.
      run: [B, size, size, 3] uint8 → query and pixel embeddings.
      whole: [B] string → the same.
    """

    size: int
    decode: Callable
    run: Callable
    whole: Callable

    @classmethod
    def load(cls, generator: str, folded: bool) -> "Raw":
        import tensorflow as tf

        from model_code.images import ops as image_ops
        from model_code.images import weights as weights_lib
        from model_code.images.folding import fold_batch_norm

        folder = Dataset(generator).folder("model")
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        network = weights_lib.load(os.path.join(folder, "backbone.keras"))
        network = fold_batch_norm(network) if folded else network
        head = weights_lib.load(os.path.join(folder, "head.keras"))
        size = config["image_size"]

        def run(pixels):
            inputs = image_ops.preprocess(config["preprocessing"], pixels)
            features = network(inputs, training=False)
            return head(features, training=False), features

        def decode(data):
            pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
            resized = tf.image.resize(pixels, (size, size), "bilinear", antialias=True)
            return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

        shape = tf.TensorSpec([None, size, size, 3], tf.uint8)
        strings = tf.TensorSpec([None], tf.string)
        return cls(
            size,
            decode,
            tf.function(run, input_signature=[shape]),
            tf.function(
                lambda data: run(image_ops.decode_and_resize(data, size)), input_signature=[strings]
            ),
        )


def tf_data_loop(raw: Raw, images: list[bytes], batch_size: int) -> Iterator:
    import tensorflow as tf

    decoded = tf.data.Dataset.from_tensor_slices(images).map(raw.decode, tf.data.AUTOTUNE)
    for pixels in decoded.batch(batch_size).prefetch(tf.data.AUTOTUNE):
        yield raw.run(pixels)


def threads_loop(raw: Raw, images: list[bytes], batch_size: int) -> Iterator:
    def decode(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(image.resize((raw.size, raw.size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        coming = pool.map(decode, images)
        for start in range(0, len(images), batch_size):
            rows = min(batch_size, len(images) - start)
            yield raw.run(np.stack([next(coming) for _ in range(rows)]))


def one_graph_loop(raw: Raw, images: list[bytes], batch_size: int) -> Iterator:
    import tensorflow as tf

    for start in range(0, len(images), batch_size):
        yield raw.whole(tf.constant(images[start : start + batch_size]))


# Loops, and whether batch normalisation is folded.
LOOPS = {
    "tf.data": (tf_data_loop, True),
    "threads": (threads_loop, True),
    "one graph": (one_graph_loop, True),
    "not folded": (one_graph_loop, False),
}


def run_raw(name: str, generator: str, paths: Iterable[str], batch_size: int) -> int:
    """Loads the networks and embeds all images of some shards; returns how many."""
    loop, folded = LOOPS[name]
    raw = Raw.load(generator, folded)
    rows = 0
    for path in paths:
        images = pq.read_table(path, columns=["image"])["image"].to_pylist()
        found = [[part.numpy() for part in parts] for parts in loop(raw, images, batch_size)]
        rows += sum(len(query_embs) for query_embs, _ in found)
    return rows


@dataclasses.dataclass(frozen=True)
class Timed:
    """A run: images a second, and milliseconds of processor time an image."""

    rate: float
    cpu_ms: float


def cpu_seconds() -> float:
    """CPU time of this process and its children, such as those that decode images; on Linux."""
    ended = os.times()
    ticks = 0
    for stat in glob.glob("/proc/[0-9]*/stat"):
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(stat, encoding="utf-8") as f,
        ):
            _, parent, *fields = f.read().rpartition(")")[2].split()
            if int(parent) == os.getpid():
                ticks += int(fields[9]) + int(fields[10])  # utime, stime
    return sum(ended[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def timed(run: Callable[[], int]) -> Timed:
    start, cpu = time.perf_counter(), cpu_seconds()
    rows = run()
    seconds = time.perf_counter() - start
    return Timed(rows / seconds, 1e3 * (cpu_seconds() - cpu) / rows)


def measure(config: Config) -> tuple[list[Timed], dict[str, list[Timed]]]:
    """Runs the job and every raw loop in turn, after a raw loop that warms the process up.

    Raises:
      PhraseLensError: the job failed.
    """
    mined = config.mined or write_images(
        storage.join(config.workdir, "mined"),
        config.images,
        photo,
        (400, 300),
        -(-config.images // SHARDS),
    )
    networks = write_networks(
        storage.join(config.workdir, "networks"), config.backbone, weights=config.weights
    )
    opened = Dataset(mined)
    paths = [opened.path(shard) for shard in opened.shards("images")]
    output = storage.join(config.workdir, "features")
    argv = [f"--{name}={root}" for name, root in networks.items()]
    argv += [f"--mined={mined}", f"--batch_size={config.batch_size}", f"--output={output}"]

    def job() -> int:
        from model_code.images import embedder as image_embedder

        image_embedder._load_network.cache_clear()  # the loops load theirs each time, too
        storage.remove_tree(output)
        if embed_images.run(argv):
            raise PhraseLensError("embed_images", "to succeed", "See what it said above.")
        return Dataset(output).manifest.tables["features"].rows

    def raw(name: str) -> Timed:
        return timed(lambda: run_raw(name, networks["generator"], paths, config.batch_size))

    raw("one graph")
    jobs, loops = [], {name: [] for name in LOOPS}
    for _ in range(config.rounds):
        jobs.append(timed(job))
        for name in LOOPS:
            loops[name].append(raw(name))
    return jobs, loops


def line(name: str, runs: list[Timed], best: float) -> str:
    rate = statistics.median(run.rate for run in runs)
    cpu = statistics.median(run.cpu_ms for run in runs)
    return f"{name:15} {rate:9.1f} {cpu:13.1f} {rate / best:7.2f}"


def work(config: Config) -> None:
    jobs, loops = measure(config)
    best = max(statistics.median(run.rate for run in runs) for runs in loops.values())
    print(f"\n{'':15} {'images/s':>9} {'CPU ms/image':>13} {'ratio':>7}")
    print(line("embed_images", jobs, best))
    for name, runs in loops.items():
        print(line(f"raw: {name}", runs, best))
    print(
        f"\nmedians of {config.rounds} runs, {config.backbone}, batches of {config.batch_size}, "
        f"{os.cpu_count()} cores; ratio to the fastest raw loop (to reach: 0.90)"
    )


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench embed", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
