"""Does training wait for its input, and how fast is that input?

Draws and mines images (samples, mine_pairs), prepares their pairs at 64 and at 224 pixels in
each encoding, and trains on them as the text generator does: augmentation in the step, batches
prepared in a thread while a step runs. Prints the share of the steps' time in which they waited
for a batch, with pixels from memory and streamed from the shards, and how many images a second
the reader alone gives, beside tf.data's own reading and parsing of the same files: nothing that
yields the same tensors can be faster. Weights are random.

  ./run.sh bench training_input --workdir work/training_input --images 4000
"""

import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from beam_jobs.models import prepare_pairs
from beam_jobs.runs import all_stages
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.runs import command_line

NETWORKS = {"small_resnet": 64, "mobilenet": 224}
ENCODINGS = ("raw", "png", "jpeg")
WIDTH, MAX_POSITIVES, SEED = 64, 64, 0
LIMIT = 0.05
WARM_UP = 2  # steps, in which graphs are traced


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder for samples and pairs; what is there is used again.", role="output")
    images: int = flag("Images to draw.", default=4000, minimum=1)
    batch_size: int = flag("Images a step.", default=64, minimum=1)
    steps: int = flag("Steps to time, at most; an epoch has no more.", default=30, minimum=1)
    encodings: tuple[str, ...] = flag("Encodings of the images.", default=ENCODINGS)


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      network: that trains.
      encoding: of the images.
      kept: "memory" or "shards", where the pixels come from.
      image_bytes: of one example on disk, mean.
      input_wait: share of the steps' time in which they waited.
      trained: images a second of training.
      read: images a second of the reader alone.
      floor: images a second of tf.data reading and parsing the same files.
    """

    network: str
    encoding: str
    kept: str
    image_bytes: float
    input_wait: float
    trained: float
    read: float
    floor: float


def prepare(config: Config) -> dict[tuple[str, str], str]:
    """Draws, mines and prepares: (network, encoding) → dataset of pairs.

    Raises:
      PhraseLensError: a stage failed.
    """
    made = f"make_samples.images={config.images},make_samples.workers=2"
    flags = ["--samples", f"--workdir={config.workdir}", f"--set={made}", "--until=mine_pairs"]
    failed = all_stages.run(flags)
    found = {}
    for network, encoding in itertools.product(NETWORKS, config.encodings):
        output = storage.join(config.workdir, f"pairs_{network}_{encoding}")
        argv = [f"--mined={storage.join(config.workdir, 'mined')}", f"--output={output}"]
        argv += [f"--backbone={network}", f"--image_encoding={encoding}"]
        failed = failed or prepare_pairs.run(argv)
        found[network, encoding] = output
    if failed:
        raise PhraseLensError(config.workdir, "every stage to succeed", "See what it said above.")
    return found


def trainer_for(network: str, num_queries: int) -> Any:
    """The text generator's own step on a network with random weights."""
    import keras

    from model_code.images import backbones
    from model_code.images import ops as image_ops
    from model_code.models.text_generator import trainer as text_generator
    from model_code.models.text_generator.network import build_head

    spec = backbones.spec(network)
    backbone = backbones.build(network, spec.image_size)
    head = build_head(backbone.output_shape[1], [], WIDTH)

    def prepare(pixels, seed):
        return image_ops.preprocess(spec.preprocessing, image_ops.augment(pixels, seed))

    tower = keras.Model(backbone.inputs, head(backbone.output))
    return text_generator.Trainer(
        tower,
        prepare,
        num_queries,
        sampled_queries=0,
        temperature=0.0,
        learning_rate=1e-3,
        weight_decay=1e-4,
        query_learning_rate=0.05,
        steps=1000,
        seed=SEED,
    )


def rate(batches: Iterable, batch_size: int) -> float:
    """Images a second of whole batches, the first one left out: it waits for the window."""
    rest = iter(batches)
    next(rest)
    start = time.perf_counter()
    count = sum(1 for _ in rest)
    return count * batch_size / (time.perf_counter() - start)


def floor(paths: Sequence[str], size: int, encoding: str, batch_size: int) -> float:
    """Images a second of reading, parsing and, where they are compressed, decoding alone."""
    import tensorflow as tf

    from model_code.models.text_generator import examples as pair_examples

    records = tf.data.TFRecordDataset(list(paths)).batch(batch_size, drop_remainder=True)
    parsed = records.map(
        lambda batch: (
            pair_examples.parse_images(batch, size, encoding),
            *pair_examples.parse_pairs(batch),
        ),
        tf.data.AUTOTUNE,
    )
    return rate(parsed.prefetch(tf.data.AUTOTUNE), batch_size)


def measure_one(config: Config, root: str, network: str, encoding: str) -> list[Row]:
    """Measures one dataset of pairs, from memory and from its shards."""
    from model_code.models.text_generator.data import open_pairs
    from model_code.runtime import training
    from model_code.runtime.ahead import Ahead
    from schemas.datasets.dataset import Dataset

    dataset, size, batch_size = Dataset(root), NETWORKS[network], config.batch_size
    shards = dataset.shards("train")
    paths = [dataset.path(shard) for shard in shards]
    image_bytes = sum(shard.bytes for shard in shards) / sum(shard.rows for shard in shards)
    rows = []
    for kept, cache_bytes in (("memory", 1 << 40), ("shards", 0)):
        with open_pairs(root, cache_bytes) as pairs:
            training.set_seed(SEED)
            trainer = trainer_for(network, pairs.vocabulary.num_rows)

            def batches(epoch, source=pairs.train):
                for batch in source.shuffled(batch_size, SEED, epoch, MAX_POSITIVES):
                    yield *batch, np.array([SEED, epoch], np.int32)

            steps = min(config.steps, pairs.train.rows // batch_size)
            pairs.train.load()
            # As in training, where an epoch's first batches are made before it starts.
            coming = Ahead(itertools.islice(batches(1), steps))
            training.run_steps(itertools.islice(batches(0), WARM_UP), trainer.step)
            start = time.perf_counter()
            taken = training.run_steps(coming, trainer.step)
            trained = steps * batch_size / (time.perf_counter() - start)
            read = rate(batches(2), batch_size)
        least = floor(paths, size, encoding, batch_size)
        found = (network, encoding, kept, image_bytes, taken.input_wait, trained, read, least)
        rows.append(Row(*found))
        print(line(rows[-1]), flush=True)
    return rows


def measure(config: Config) -> list[Row]:
    """Measures every network, encoding and place of the pixels.

    Raises:
      PhraseLensError: a stage failed, or there are fewer images than three batches.
    """
    prepared = prepare(config)
    print(HEADER, flush=True)
    return [
        row
        for (network, encoding), root in prepared.items()
        for row in measure_one(config, root, network, encoding)
    ]


HEADER = (
    f"{'network':13} {'encoding':8} {'pixels':7} {'KB/image':>9} {'waiting':>8} "
    f"{'trained/s':>10} {'read/s':>10} {'tf.data/s':>10}"
)


def line(row: Row) -> str:
    """A row for people."""
    return (
        f"{row.network:13} {row.encoding:8} {row.kept:7} {row.image_bytes / 1e3:9.1f} "
        f"{row.input_wait:8.1%} {row.trained:10,.0f} {row.read:10,.0f} {row.floor:10,.0f}"
    )


def work(config: Config) -> None:
    rows = measure(config)
    worst = max(row.input_wait for row in rows)
    print(f"\nmost waiting: {worst:.1%} (to reach: {LIMIT:.0%}), on {os.cpu_count()} cores")


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench training_input", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
