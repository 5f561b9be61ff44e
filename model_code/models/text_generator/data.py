"""Reads the training pairs of prepare_pairs through tf.data, from memory or from their shards."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import tensorflow as tf

from model_code.images.source import features_of
from model_code.metrics.clicked_queries import ClickedQueries
from model_code.models.text_generator import examples as pair_examples
from model_code.runtime.training import epoch_order
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.progress import Progress
from schemas.datasets.dataset import Dataset

_READ_BATCH = 64
_READ_BYTES = 4 << 20  # of a file at once
# Records of so many shards are mixed, in runs of so many, before they are shuffled in a window.
_OPEN_SHARDS, _RUN = 8, 16
_WINDOW_BYTES = 256 << 20

# inputs [B, S, S, 3] uint8 and the pairs of the batch, as `text_generator.softmax_loss` takes
# them: pair_rows [n] int64, pair_ids [n] int64, pair_weights [n] float32.
Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class PairSource:
    """The examples of one split; their numbers are 0, 1, … in the order of the shards.

    Args:
      paths: local TFRecord files.
      counts: examples of each.
      size: side of the images in pixels.
      encoding: of the images, see `pair_examples.PairEncoder`.
      cache_bytes: keep the pixels in memory when they take no more than this.
      label: names the reading in progress lines.
    """

    def __init__(
        self,
        paths: list[str],
        counts: list[int],
        *,
        size: int,
        encoding: str,
        cache_bytes: int,
        label: str,
    ):
        self.rows = sum(counts)
        self._files = np.array(paths, object), np.array(counts, np.int64)
        self._size, self._encoding, self._label = size, encoding, label
        self._fits = self.rows * size * size * 3 <= cache_bytes

    def shuffled(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        max_positives: int,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """The batches of an epoch; examples beyond the last whole batch wait for another epoch.

        Memory and shards give the same batches. The order depends on seed and epoch (and on
        the process's own seed, see `training.set_seed`): shards are permuted, mixed, and
        their examples shuffled in a window of 256 MiB of pixels.

        Args:
          batch_size: images of a step, over all workers.
          seed, epoch: of the order, and of the draws of `ClickedQueries.targets`.
          max_positives: queries of an image that are targets in this epoch, at most.
          part: (i, n) for the images of the i-th of n equal parts of each batch, i from 0;
            the pairs are those of the whole batch in any case.

        Raises:
          PhraseLensError: the batch cannot be cut into equal parts.
        """
        mine = _slice(batch_size, part)
        if self._fits:
            pixels, every = self._memory
            order = self._order(seed, epoch, records=False).batch(batch_size, drop_remainder=True)
            for rows in order.as_numpy_iterator():
                targets = every.select(rows).targets(max_positives, seed, epoch, rows)
                yield pixels[rows[mine]], *targets.pairs()
            return

        def parse(rows, records):
            images = pair_examples.parse_images(records[mine], self._size, self._encoding)
            return rows, images, *pair_examples.parse_pairs(records)

        order = self._order(seed, epoch, records=True).batch(batch_size, drop_remainder=True)
        for rows, images, *pairs in order.map(parse, 2).prefetch(1).as_numpy_iterator():
            targets = ClickedQueries(*pairs).targets(max_positives, seed, epoch, rows)
            yield images, *targets.pairs()

    def load(self) -> None:
        """Reads all pixels into memory now, if they fit, and not in the first epoch."""
        if self._fits:
            _ = self._memory

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]:
        """All images by number: [≤ batch_size, S, S, 3] uint8 each."""
        if self._fits:
            pixels = self._memory[0]
            for start in range(0, self.rows, batch_size):
                yield pixels[start : start + batch_size]
            return
        parse = functools.partial(
            pair_examples.parse_images, size=self._size, encoding=self._encoding
        )
        batches = self._records().batch(batch_size).map(parse, 2).prefetch(1)
        yield from batches.as_numpy_iterator()

    def clicked(self) -> ClickedQueries:
        """The clicked head queries of all images; one of validation may have none."""
        return self._memory[1] if self._fits else self._clicked

    @functools.cached_property
    def texts(self) -> list[list[str]]:
        """The texts of all clicked queries of each image of validation."""
        batches = self._records().batch(_READ_BATCH)
        return [row for records in batches for row in pair_examples.parse_texts(records)]

    @functools.cached_property
    def _clicked(self) -> ClickedQueries:
        batches = self._records().batch(_READ_BATCH).map(pair_examples.parse_pairs)
        return _join(list(batches.as_numpy_iterator()))

    @functools.cached_property
    def _memory(self) -> tuple[np.ndarray, ClickedQueries]:
        def parse(records):
            images = pair_examples.parse_images(records, self._size, self._encoding)
            return images, *pair_examples.parse_pairs(records)

        pixels = np.empty((self.rows, self._size, self._size, 3), np.uint8)
        progress, parts, done = Progress(self._label, self.rows, "images"), [], 0
        batches = self._records().batch(_READ_BATCH).map(parse, 2).prefetch(1)
        for images, *pairs in batches.as_numpy_iterator():
            pixels[done : done + len(images)] = images
            done += len(images)
            parts.append(pairs)
            progress.add(len(images))
        progress.close()
        return pixels, _join(parts)

    def _records(self) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(
            tf.constant(list(self._files[0]), tf.string), "", _READ_BYTES
        )

    def _order(self, seed: int, epoch: int, records: bool) -> tf.data.Dataset:
        """The numbers of an epoch's examples in its order, each with its record if asked for.

        Memory takes its order from here too: what is shuffled does not decide how.
        """
        paths, counts = self._files
        starts = np.cumsum(counts) - counts
        shards = epoch_order(seed, epoch, len(paths))
        files = tf.data.Dataset.from_tensor_slices(
            (tf.constant(list(paths[shards]), tf.string), starts[shards], counts[shards])
        )

        def read(path, start, count):
            numbers = tf.data.Dataset.range(start, start + count)
            if not records:
                return numbers
            return tf.data.Dataset.zip(numbers, tf.data.TFRecordDataset(path, "", _READ_BYTES))

        window = max(1, min(_WINDOW_BYTES // (self._size**2 * 3), self.rows))
        mixed = files.interleave(read, _OPEN_SHARDS, _RUN, num_parallel_calls=None)
        first = int(np.random.default_rng([seed, epoch]).integers(1, 2**31))
        return mixed.shuffle(window, seed=first, reshuffle_each_iteration=False)


class FeatureSource:
    """What a frozen network makes of the images, computed once; served as `PairSource` serves them.

    Args:
      source: the examples.
      encode, width, folder, name: see `image_source.features_of`.
    """

    def __init__(self, source: PairSource, encode: Callable, width: int, folder: str, name: str):
        self.rows = source.rows
        self._features = features_of(source, encode, width, folder, name)
        self._clicked = source.clicked()

    def shuffled(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        max_positives: int,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """As `PairSource.shuffled`, with features [B, width] float32 as inputs."""
        mine = _slice(batch_size, part)
        for rows, inputs in self._features.shuffled(batch_size, seed, epoch):
            targets = self._clicked.select(rows).targets(max_positives, seed, epoch, rows)
            yield inputs[mine], *targets.pairs()

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]:
        """All features by number: [≤ batch_size, width] float32 each."""
        return self._features.in_order(batch_size)


def _slice(batch_size: int, part: tuple[int, int]) -> slice:
    """Where the i-th of n equal parts of a batch lies."""
    place, parts = part
    if batch_size % parts:
        raise PhraseLensError(
            f"batch of {batch_size} images",
            f"a multiple of its {parts} parts",
            "Choose another --batch_size.",
        )
    return slice(place * batch_size // parts, (place + 1) * batch_size // parts)


def _join(parts: list) -> ClickedQueries:
    """One of the (offsets, queries, weights) of consecutive images."""
    counts = [np.zeros(0, np.int64), *(np.diff(offsets) for offsets, _, _ in parts)]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    queries = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
    weights = np.concatenate([np.zeros(0, np.float32), *(part[2] for part in parts)])
    return ClickedQueries(offsets, queries, weights)


class Pairs:
    """A dataset of training pairs.

    Args:
      dataset: what prepare_pairs committed.
      folders: split → a local folder with the files of its table.
      cache_bytes: see `PairSource`; holds for each split.

    Attributes:
      backbone: the network that they were prepared for.
      image_size: side of the images in pixels.
      vocabulary: [K] rows by rank: query_id, query, language, clicks and images in training.
      train, validation: the examples.
      training_pairs: pairs of the training images.
    """

    def __init__(self, dataset: Dataset, folders: dict[str, str], cache_bytes: int):
        metadata = storage.join(dataset.folder("metadata"), "config.json")
        config = json.loads(storage.read_bytes(metadata))
        self.backbone: str = config["backbone"]
        self.image_size: int = config["image_size"]
        self.vocabulary: pa.Table = dataset.table("vocabulary").combine_chunks()
        self.training_pairs: int = dataset.manifest.counters["train.pairs"]

        def source(split: str, label: str) -> PairSource:
            shards, below = dataset.shards(split), dataset.folder(split)
            paths = [dataset.path(shard).removeprefix(f"{below}/") for shard in shards]
            return PairSource(
                [storage.join(folders[split], path) for path in paths],
                [shard.rows for shard in shards],
                size=self.image_size,
                encoding=config["image_encoding"],
                cache_bytes=cache_bytes,
                label=f"read {label} images",
            )

        self.train = source("train", "training")
        self.validation = source("validation", "validation")

    def features(
        self, encode: Callable, width: int, folder: str
    ) -> tuple[FeatureSource, FeatureSource]:
        """What a frozen network makes of the images of training, and of those of validation.

        Args:
          encode, width, folder: see `FeatureSource`.
        """
        return (
            FeatureSource(self.train, encode, width, folder, "training features"),
            FeatureSource(self.validation, encode, width, folder, "validation features"),
        )


@contextlib.contextmanager
def open_pairs(root: str, cache_bytes: int) -> Iterator[Pairs]:
    """Opens a committed dataset of training pairs.

    Args:
      root: the dataset; one in Cloud Storage is copied to this machine first.
      cache_bytes: see `PairSource`.

    Raises:
      PhraseLensError: nothing is committed there, or a dataset of another stage.
    """
    dataset, folders = Dataset(root), {}
    with contextlib.ExitStack() as stack:
        for split in ("train", "validation"):
            dataset.shards(split)  # Says that this is no such dataset before anything is copied.
            folders[split] = stack.enter_context(storage.local_copy(dataset.folder(split)))
        yield Pairs(dataset, folders, cache_bytes)
