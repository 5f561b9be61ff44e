"""Reads the TFRecord examples of prepare_examples: from memory, or through tf.data from disk."""

import contextlib
import copy
import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import tensorflow as tf

from model_code.runtime.few_labels import keep_first
from model_code.runtime.training import epoch_order
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.datasets.dataset import Dataset
from schemas.tables.vectors import Vectors, joined

_SHUFFLE_BUFFER = 20_000

# Vectors by name, [batch, *shape] float32 each; and "label_ids", [batch, any] int64 filled up with
# −1.
Batch = dict[str, np.ndarray]


class ExampleReader:
    """The splits of an examples dataset, as batches.

    Attributes:
      labels: names of the labels, in the order of their ids.
      multi: whether an example has any number of labels.
      vectors: shape of each vector, by name.
      batch_size: examples of a batch.

    Args:
      dataset: the examples.
      folder: a local folder with the files of its table "examples".
      batch_size: examples of a batch.
      cache_bytes: a split whose vectors are not larger is read once and kept in memory.

    Raises:
      PhraseLensError: there are fewer than two labels, or a version wrote the examples that did not
        say which vectors they hold.
    """

    def __init__(self, dataset: Dataset, folder: str, batch_size: int, cache_bytes: int):
        self._dataset, self._folder = dataset, folder
        self.batch_size, self._cache_bytes = batch_size, cache_bytes
        metadata = dataset.folder("metadata")
        config = json.loads(storage.read_bytes(storage.join(metadata, "config.json")))
        self.multi: bool = config["task"] == "multi"
        if "vectors" not in config:
            raise PhraseLensError(
                dataset.root,
                "examples of this version",
                f"Run {program.command('prepare_examples')} again.",
            )
        self.vectors: Vectors = {name: tuple(shape) for name, shape in config["vectors"].items()}
        text = storage.read_bytes(storage.join(metadata, "labels.txt")).decode()
        self.labels = text.removesuffix("\n").split("\n")
        if len(self.labels) < 2:
            raise PhraseLensError(
                f"labels of {dataset.root}", "at least two labels", "Label more images."
            )
        self._kept: dict[str, Batch] = {}

    def few_labels(self, count: int, seed: int) -> "ExampleReader":
        """The same examples, but of the training split only `count` of each label.

        See `few_labels.keep_first`; they are kept in memory.
        """
        ids, _ = self.names("train")
        images, classes, rows = [], [], 0
        for batch in self.batches("train"):
            image, column = np.nonzero(batch["label_ids"] >= 0)
            images.append(rows + image)
            classes.append(batch["label_ids"][image, column])
            rows += len(batch["label_ids"])
        labels = np.concatenate(images), np.concatenate(classes)
        keep = keep_first(*labels, pa.array(ids), count, seed)
        parts, start = [], 0
        for batch in self.batches("train"):
            rows = len(batch["label_ids"])
            places = np.flatnonzero(keep[start : start + rows])
            parts.append({name: values[places] for name, values in batch.items()})
            start += rows
        few = copy.copy(self)
        few._kept = self._kept | {"train": _join(parts)}
        return few

    def rows(self, split: str) -> int:
        if split in self._kept:
            return len(self._kept[split]["label_ids"])
        return sum(shard.rows for shard in self._dataset.shards("examples", split))

    def require(self, splits: tuple[str, ...]) -> None:
        """Raises PhraseLensError for a split without a single example."""
        for split in splits:
            if not self.rows(split):
                raise PhraseLensError(
                    f"split {split!r} of {self._dataset.root}",
                    "at least one labelled example",
                    "Label images of every split, or mine again with another --validation_share "
                    "and --test_share.",
                )

    def batches(self, split: str) -> Iterator[Batch]:
        """A split in the order of its shards."""
        if self._fits(split):
            return self._taken(split, np.arange(self.rows(split)))
        return self._parsed(self._records(self._paths(split)))

    def shuffled(self, split: str, seed: int, epoch: int, passes: int = 1) -> Iterator[Batch]:
        """A split `passes` times over, in an order that depends on seed and epoch alone.

        From memory the order is a random permutation; from disk the shards are shuffled,
        and rows within a window of them.
        """
        if self._fits(split):
            rows, first = self.rows(split), epoch * passes
            orders = [epoch_order(seed, first + p, rows) for p in range(passes)]
            return self._taken(split, np.concatenate(orders))
        paths = self._paths(split)
        order = epoch_order(seed, epoch, len(paths))
        records = self._records([paths[place] for place in order]).repeat(passes)
        window_seed = np.random.default_rng([seed, epoch]).integers(1, 2**31)
        shuffled = records.shuffle(
            _SHUFFLE_BUFFER, seed=int(window_seed), reshuffle_each_iteration=False
        )
        return self._parsed(shuffled)

    def names(self, split: str) -> tuple[list[str], list[list[str]]]:
        """Image ids [rows] and phrases [rows][any] of a split, in the order of `batches`."""
        spec = {
            "image_id": tf.io.FixedLenFeature([], tf.string),
            "phrases": tf.io.RaggedFeature(tf.string),
        }
        ids: list[str] = []
        phrases: list[list[str]] = []
        for batch in self._records(self._paths(split)).batch(self.batch_size):
            parsed = tf.io.parse_example(batch, spec)
            ids += [value.decode() for value in parsed["image_id"].numpy()]
            phrases += [[p.decode() for p in row] for row in parsed["phrases"].to_list()]
        return ids, phrases

    def _paths(self, split: str) -> list[str]:
        shards = self._dataset.shards("examples", split)
        below = self._dataset.folder("examples")
        return [
            storage.join(self._folder, self._dataset.path(shard).removeprefix(f"{below}/"))
            for shard in shards
            if shard.rows
        ]

    def _records(self, paths: list[str]) -> tf.data.Dataset:
        files = tf.data.Dataset.from_tensor_slices(tf.constant(paths, tf.string))
        return files.interleave(tf.data.TFRecordDataset, cycle_length=4)

    def _parsed(self, records: tf.data.Dataset) -> Iterator[Batch]:
        vectors = {
            name: tf.io.FixedLenFeature(shape, tf.float32) for name, shape in self.vectors.items()
        }
        spec = vectors | {"label_ids": tf.io.VarLenFeature(tf.int64)}

        def parse(batch):
            parsed = tf.io.parse_example(batch, spec)
            label_ids = tf.sparse.to_dense(parsed["label_ids"], default_value=-1)
            return {**parsed, "label_ids": label_ids}

        batches = records.batch(self.batch_size).map(parse, tf.data.AUTOTUNE).prefetch(2)
        return batches.as_numpy_iterator()

    def _fits(self, split: str) -> bool:
        width = sum(math.prod(shape) for shape in self.vectors.values())
        return split in self._kept or self.rows(split) * 4 * width <= self._cache_bytes

    def _memory(self, split: str) -> Batch:
        if split not in self._kept:
            self._kept[split] = _join(list(self._parsed(self._records(self._paths(split)))))
        return self._kept[split]

    def _taken(self, split: str, order: np.ndarray) -> Iterator[Batch]:
        """Batches from memory, of rows in an order."""
        kept = self._memory(split)
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            yield {name: values[places] for name, values in kept.items()}


def _join(batches: Sequence[Batch]) -> Batch:
    """Batches as `ExampleReader.batches` yields them → one."""
    longest = max(batch["label_ids"].shape[1] for batch in batches)

    def filled(label_ids: np.ndarray) -> np.ndarray:
        missing = longest - label_ids.shape[1]
        return np.pad(label_ids, [(0, 0), (0, missing)], constant_values=-1)

    return joined([batch | {"label_ids": filled(batch["label_ids"])} for batch in batches])


@contextlib.contextmanager
def open_examples(root: str, batch_size: int, cache_bytes: int) -> Iterator[ExampleReader]:
    """Opens a committed examples dataset; see `ExampleReader`."""
    dataset = Dataset(root)
    with storage.local_copy(dataset.folder("examples")) as folder:
        yield ExampleReader(dataset, folder, batch_size, cache_bytes)


def truth(reader: ExampleReader, split: str) -> np.ndarray:
    """The true labels of a split: [rows, labels] bool."""
    batches = [
        targets_of(batch["label_ids"], len(reader.labels)) for batch in reader.batches(split)
    ]
    return np.concatenate(batches) > 0


def targets_of(label_ids: tf.Tensor, num_labels: int) -> tf.Tensor:
    """[batch, any] int64 filled with −1 → [batch, num_labels] float32 of 0 and 1."""
    return tf.reduce_sum(tf.one_hot(label_ids, num_labels), axis=1)
